"""Tell the species of a piece of DNA: `hyenadna species`.

    hyenadna species species.yaml --data genomes --output_dir species-1k          # the paper's settings
    hyenadna species --data genomes --window 16384 --model pretrained --truncation False
    accelerate launch -m hyenadna species --data genomes --window 1024   # on several devices

`--data` is a folder with a sub-folder of FASTA files (plain or bgzip) for each species, such as
`genomes/human/chr1.fa`. A row is a window at a random place. All species are equally likely, and
within a species every position is. Each epoch draws new training windows. Validation and test
windows are drawn once.

Validation and test use chromosomes that training never sees. Name them by
`--validation_chromosomes` and `--test_chromosomes`: `1` means `chr1` too, and also a file `chr1.fa`
with a single sequence. Without names, the last bases of each species are held out.

As in the paper (arXiv 2306.15794), a window ends in `[SEP]`. Windows of up to 32,768 bases are
pooled by their mean, longer ones by their last position.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from hyenadna.errors import InputError
from hyenadna.genomics.fasta import SequenceFile, open_genomes, spellings
from hyenadna.genomics.files import FASTA, PARTS
from hyenadna.genomics.held_out import last_bases
from hyenadna.genomics.intervals import Intervals, overlapping, subtract, whole_sequences
from hyenadna.genomics.labelled import SINGLE_LABEL, LabelledData
from hyenadna.genomics.letters import reverse_complement
from hyenadna.genomics.window_rows import WindowRows, WindowSequences, digest_of
from hyenadna.training.runs.models import RunResult
from hyenadna.training.runs.settings import SHOWN_OF_TRAINING, parse_settings, say_next, setting
from hyenadna.training.runs.supervised import ClassifierArguments, classifier_for_trainer, train_and_test

_MEAN_UP_TO = 32_768  # bases; the paper pools longer windows by their last position
_TRIES = 20  # draws, until a window is not an assembly gap


@dataclass
class SpeciesArguments(ClassifierArguments):
    """Settings of `hyenadna species`, beside those of a classifier."""

    SHOWN: ClassVar = {
        "your data": (
            "data",
            "species",
            "window",
            "validation_chromosomes",
            "test_chromosomes",
            "windows_per_epoch",
        ),
        "the model": ("model", "n_layer", "d_model", "max_seq_len"),
        "training": (*SHOWN_OF_TRAINING, "patience"),
        "the run": ("output_dir", "resume"),
    }
    EXAMPLE: ClassVar = "hyenadna species species.yaml --data genomes --output_dir species-1k"
    NEXT: ClassVar = {
        "hyenadna predict --model {output_dir} --data NEW.fa --output new.csv": "classes of new sequences",
        "hyenadna export {output_dir} {output_dir}-hub": "a folder to publish, with a card",
    }

    data: str | None = setting(
        None, "Folder with a sub-folder of FASTA files for each species.", compared=False
    )
    task: str | None = setting(None, "Name of the data in reports (species_WINDOW).")
    window: int = setting(1024, "Bases of a window.")
    species: list[str] = setting([], "Sub-folders to use; by default all.")
    validation_chromosomes: list[str] = setting(
        [], "Chromosomes to validate on; without names, the last bases."
    )
    test_chromosomes: list[str] = setting([], "Chromosomes to test on; without names, the last bases.")
    held_out_fraction: float = setting(
        0.1, "Without names: fraction of the bases for validation, and as many for test."
    )
    windows_per_epoch: int = setting(4096, "Training windows of an epoch, over all species.")
    test_windows: int = setting(1000, "Windows to test on, over all species; as many to validate on.")
    output_dir: str = setting("hyenadna-species", "Folder for everything that the run writes.", decides=False)
    add_special_tokens: bool = setting(True, "Append [SEP] to each window, as in the paper.")

    def __post_init__(self):
        super().__post_init__()
        self.check_classifier()
        if self.window < 1 or self.windows_per_epoch < 1 or self.test_windows < 1:
            raise InputError("window, windows_per_epoch and test_windows must be at least 1")
        if bool(self.validation_chromosomes) != bool(self.test_chromosomes):
            raise InputError("validation_chromosomes and test_chromosomes go together: name both or none")
        if not 0 < self.held_out_fraction < 0.5:
            raise InputError(f"held_out_fraction is {self.held_out_fraction}; it must lie between 0 and 0.5")
        # Room for [SEP] and one more, as in the published models (1,026 for windows of 1,024).
        if self.model is None and self.max_seq_len is None:
            self.max_seq_len = self.window + 2
        if self.pooling is None and self.window <= _MEAN_UP_TO:
            self.pooling = "mean"
        elif self.pooling is None:
            self.pooling = "last"
        self.task = self.task or f"species_{self.window}"


def open_species(args: SpeciesArguments) -> dict[str, list[SequenceFile]]:
    """Open the FASTA files of each species, in alphabetical order.

    Raises:
        InputError: The folder has no sub-folders, or one has no FASTA.
    """
    folder = Path(args.data or "")
    if args.data is None or not folder.is_dir():
        raise InputError(
            f"data is {args.data!r}; expected a folder with a sub-folder of FASTA files for each species"
        )
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    unknown = sorted(set(args.species) - set(names))
    if unknown:
        raise InputError(f"{folder} has no sub-folder {unknown}; it has {names}")
    names = [name for name in names if name in args.species or not args.species]
    if len(names) < 2:
        raise InputError(f"{folder} has the sub-folders {names}; a classifier needs two species or more")
    genomes = {}
    for name in names:
        files = [path for path in sorted((folder / name).iterdir()) if path.name.lower().endswith(FASTA)]
        # Of `chr1.fa.gz` beside `chr1.fa`, only the second: it was unpacked, and is the same.
        files = [path for path in files if path.suffix != ".gz" or path.with_suffix("") not in files]
        if not files:
            raise InputError(
                f"{folder / name}: the folder of this species holds no FASTA file ({', '.join(FASTA)})"
            )
        genomes[name] = open_genomes(files)
        _check_copies(name, genomes[name])
    return genomes


def _check_copies(species: str, genomes: list[SequenceFile]) -> None:
    """Raise `InputError` if two files hold the same sequence: training would see the test part."""
    # Compare letters only where name and length agree: that is fast, and a copy keeps both.
    seen: dict[tuple, SequenceFile] = {}
    for genome in genomes:
        for i, (name, length) in enumerate(zip(genome.names, genome.lengths.tolist(), strict=True)):
            first = seen.setdefault((name, length), genome)
            if first is genome:
                continue
            if first.letters(first.number[name], 0, length).upper() == genome.letters(i, 0, length).upper():
                raise InputError(
                    f"{species}: {name!r} is in {first.path} and again in {genome.path}; remove one"
                )


def held_out_regions(
    species: str, genomes: list[SequenceFile], args: SpeciesArguments
) -> dict[str, Intervals]:
    """Return the train, validation and test regions of one species. They share no base.

    Contigs shorter than a window are left out.

    Raises:
        InputError: A chromosome does not exist, or a part has no contig as long as a window.
    """
    whole = whole_sequences(genomes)
    parts = {}
    if args.test_chromosomes:
        for part in ("validation", "test"):
            rows = [_find(name, species, genomes, whole) for name in getattr(args, f"{part}_chromosomes")]
            parts[part] = Intervals.joined(rows)
        # `chr1` in one list and `1` in the other are the same chromosome: compare what was found.
        both = parts["test"][overlapping(parts["test"], parts["validation"])]
        if len(both):
            names = [genomes[file].names[i] for file, i in zip(both.file, both.sequence, strict=True)]
            raise InputError(
                f"{species}: {names} are named in validation_chromosomes and in test_chromosomes"
            )
    else:
        longest = int(whole.lengths.max())
        usable = whole[whole.lengths >= args.window]
        if not len(usable):
            raise InputError(
                f"window is {args.window:,}, but the longest contig of {species} has {longest:,} bases"
            )
        parts["test"] = _last(usable, args.held_out_fraction)
        # The same number of bases for validation. It is taken from what the test part left, so the
        # fraction grows: a share f of everything is a share f / (1 - f) of the rest.
        parts["validation"] = _last(
            subtract(usable, parts["test"]), args.held_out_fraction / (1 - args.held_out_fraction)
        )
    parts["train"] = subtract(whole, Intervals.joined([parts["validation"], parts["test"]]))
    for part in PARTS:
        sizes = parts[part].lengths
        if not (sizes >= args.window).any():
            raise InputError(
                f"window is {args.window:,}, but the longest contig or region of the {part} part of "
                f"{species} has {sizes.max(initial=0):,} bases: use a shorter window, or hold out more"
            )
        parts[part] = parts[part][sizes >= args.window]
    return {part: parts[part] for part in PARTS}


def _find(name: str, species: str, genomes: list[SequenceFile], whole: Intervals) -> Intervals:
    """Return the sequences of a species that are called `name`, in any spelling."""
    matches = []
    for file, genome in enumerate(genomes):
        for i, sequence in enumerate(genome.names):
            known_as = {sequence}
            # `chr1.fa` may call its only sequence NC_000001.11.
            if len(genome.names) == 1:
                known_as.add(Path(genome.path).name.partition(".")[0])
            if known_as & set(spellings(name)):
                matches.append((file, i))
    if not matches:
        known = sorted({sequence for genome in genomes for sequence in genome.names})[:20]
        raise InputError(f"{species} has no chromosome {name!r}; its sequences are {known}")
    return Intervals.joined(whole[(whole.file == file) & (whole.sequence == i)] for file, i in matches)


def _last(regions: Intervals, fraction: float) -> Intervals:
    """Return the last `fraction` of the bases of all regions together, not of each file."""
    # `last_bases` counts by file, so pretend that the regions are the sequences of one file.
    numbers = np.arange(len(regions))
    chosen = last_bases(Intervals(np.zeros_like(numbers), numbers, regions.start, regions.end), fraction)
    return regions[chosen.sequence].at(chosen.start, chosen.end)


class DrawnWindows:
    """Random windows of one part. Each is a function of the seed, the epoch and its number.

    Args:
        genomes: All files of all species.
        regions: The regions of each species, each at least a window long.
        window: The length of a window in bases.
        seed: The seed of the draw.
    """

    def __init__(self, genomes: list[SequenceFile], regions: list[Intervals], window: int, seed: int):
        self.genomes = genomes
        self.regions = regions
        self.window = window
        self.seed = seed

    def draw(self, i: int, epoch: int) -> tuple[tuple[int, int, int, int], str, int]:
        """Return a window (file, sequence, start, end), its letters, and its species.

        Windows that are mostly N are drawn again.
        """
        species = i % len(self.regions)
        rng = np.random.default_rng((self.seed, epoch, i))
        regions = self.regions[species]
        # A region of L bases has L - window + 1 possible starts. Number those of all regions
        # consecutively and draw a number: so every position is equally likely.
        starts = (regions.lengths - self.window + 1).cumsum()
        for _try in range(_TRIES):
            place = int(rng.integers(starts[-1]))
            k = int(np.searchsorted(starts, place, side="right"))
            file = int(regions.file[k])
            sequence = int(regions.sequence[k])
            # Counted back from the end: number `starts[k] - 1` is the last start in region k, and
            # its window ends where the region does.
            start = int(regions.end[k]) - self.window - (int(starts[k]) - 1 - place)
            text = self.genomes[file].letters(sequence, start, start + self.window)
            # After `_TRIES` gaps in a row, take what there is: the region may be nothing else.
            if text.upper().count("N") <= self.window / 2:
                break
        return (file, sequence, start, start + self.window), text, species

    def rows(self, count: int, epoch: int) -> WindowRows:
        """Return the first `count` windows of an epoch as rows."""
        drawn = [self.draw(i, epoch) for i in range(count)]
        windows = Intervals.of(window for window, _, _ in drawn)
        return WindowRows(self.genomes, windows, np.array([species for _, _, species in drawn]))


class EpochRows(torch.utils.data.Dataset):
    """New windows each epoch, reverse-complemented with probability `p`; see `StrandedRows`."""

    def __init__(self, windows: DrawnWindows, count: int, p: float = 0.0):
        self.windows = windows
        self.count = count
        self.p = p
        # In shared memory, so that data-loader workers see the next epoch; see `StrandedRows`.
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> dict:
        epoch = int(self.epoch)
        _, text, species = self.windows.draw(i, epoch)
        # The last number keeps this apart from the generator that draws the window.
        if self.p and np.random.default_rng((self.windows.seed, epoch, i, 1)).random() < self.p:
            text = reverse_complement(text)
        return {"sequence": text, "label": species}


def species(args: SpeciesArguments) -> RunResult:
    """Train, evaluate and save a classifier of species.

    Raises:
        InputError: The genomes, the checkpoint or the output folder cannot be used. Nothing was
            written.
    """
    opened = open_species(args)
    genomes = []
    regions = {part: [] for part in PARTS}
    for name, files in opened.items():
        for part, of_species in held_out_regions(name, files, args).items():
            # The files of a species are numbered from 0. In the common list they follow those of
            # the species before it.
            regions[part].append(replace(of_species, file=of_species.file + len(genomes)))
        genomes += files
    # Validation and test windows are drawn once and kept as positions. Training windows are drawn
    # when they are read (`EpochRows`); the first epoch stands for them in counts and digests.
    drawn = {part: DrawnWindows(genomes, regions[part], args.window, args.seed) for part in PARTS}
    counts = {"train": args.windows_per_epoch, "validation": args.test_windows, "test": args.test_windows}
    # Validation and test draw from epochs that training never reaches, so that no part repeats the
    # random numbers of another.
    epochs = {"train": 0, "validation": 2**31, "test": 2**32}
    parts = {part: drawn[part].rows(counts[part], epochs[part]) for part in PARTS}
    for rows in parts.values():
        _check_letters(rows["sequence"])
    labelled = LabelledData(parts, SINGLE_LABEL, list(opened), digest_of(parts))

    def prepare(args: SpeciesArguments, labelled: LabelledData) -> dict:
        rows = EpochRows(drawn["train"], args.windows_per_epoch, args.reverse_complement)
        return {**classifier_for_trainer(args, labelled), "train_dataset": rows}

    return train_and_test(args, labelled, prepare)


def _check_letters(sequences: WindowSequences) -> None:
    for file, sequence, start, end in sequences.windows.tolist():
        genome = sequences.genomes[file]
        genome.check_letters(sequence, start, genome.read(sequence, start, end))


def main(argv: list[str] | None = None) -> None:
    """Run `hyenadna species` with these arguments (default: those of the command line)."""
    args = parse_settings(SpeciesArguments, "species", "Train HyenaDNA to tell species apart.", argv)
    species(args)
    say_next(args)


if __name__ == "__main__":
    from hyenadna.training.cli import run_module

    run_module(__spec__.name)
