"""Which species is this DNA of? `hyenadna species --data genomes --window 1024 --output_dir
species`.

    hyenadna species species.yaml --data genomes --output_dir species-1k          # the paper's settings
    hyenadna species --data genomes --window 16384 --model pretrained --truncation False
    accelerate launch -m hyenadna species --data genomes --window 1024   # on several devices

`--data` is a folder with a sub-folder of FASTA files for each species (plain or bgzip;
`genomes/human/chr1.fa`). A row is a random window of a random place; species count the same, and
within one every position. Each epoch draws new training windows; those of validation and test are
drawn once. They come from chromosomes that training never sees: name them with
`--validation_chromosomes` and `--test_chromosomes` (`1` also means `chr1`, and a file `chr1.fa` of
one sequence). Without names the last bases of each species are held out.

As in the paper (arXiv 2306.15794) a window ends in `[SEP]`, and windows of up to 32,768 bases are
pooled by their mean, longer ones by their last position.
"""

from dataclasses import dataclass, replace
from pathlib import Path

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
from hyenadna.training.runs.settings import parse_settings, setting
from hyenadna.training.runs.supervised import ClassifierArguments, classifier_for_trainer, train_and_test

_MEAN_UP_TO = 32_768  # bases; the paper pools longer windows by their last position
_TRIES = 20  # to find a window that is no gap


@dataclass
class SpeciesArguments(ClassifierArguments):
    """Settings of `hyenadna species`, beside those of a classifier."""

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
        # was unpacked
        files = [path for path in files if path.suffix != ".gz" or path.with_suffix("") not in files]
        if not files:
            raise InputError(
                f"{folder / name}: the folder of this species holds no FASTA file ({', '.join(FASTA)})"
            )
        genomes[name] = open_genomes(files)
        _check_copies(name, genomes[name])
    return genomes


def _check_copies(species: str, genomes: list[SequenceFile]) -> None:
    """Raise `InputError` if two files hold one sequence: training would see the test part."""
    seen: dict[tuple, SequenceFile] = {}
    for genome in genomes:
        for i, (name, length) in enumerate(zip(genome.names, genome.lengths.tolist(), strict=True)):
            other = seen.setdefault((name, length), genome)
            if other is genome:
                continue
            if other.letters(other.number[name], 0, length).upper() == genome.letters(i, 0, length).upper():
                raise InputError(
                    f"{species}: {name!r} stands in {other.path} and again in {genome.path}; remove one"
                )


def held_out_regions(
    species: str, genomes: list[SequenceFile], args: SpeciesArguments
) -> dict[str, Intervals]:
    """Return the regions of train, validation and test of one species, which share no base.

    Contigs that are shorter than a window are in none.

    Raises:
        InputError: A chromosome is not there, or a part has no contig as long as a window.
    """
    whole = whole_sequences(genomes)
    parts = {}
    if args.test_chromosomes:
        for part in ("validation", "test"):
            rows = [_find(name, species, genomes, whole) for name in getattr(args, f"{part}_chromosomes")]
            parts[part] = Intervals.joined(rows)
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
        # as of one file: a fraction of the species, not of each of its files
        parts["test"] = _last(usable, args.held_out_fraction)
        # The fraction is one of the whole species, but is taken of what the test part left.
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
    found = []
    for file, genome in enumerate(genomes):
        for i, sequence in enumerate(genome.names):
            known_as = {sequence}
            if len(genome.names) == 1:  # `chr1.fa` may call its one sequence NC_000001.11
                known_as.add(Path(genome.path).name.partition(".")[0])
            if known_as & set(spellings(name)):
                found.append((file, i))
    if not found:
        known = sorted({sequence for genome in genomes for sequence in genome.names})[:20]
        raise InputError(f"{species} has no chromosome {name!r}; its sequences are {known}")
    return Intervals.joined(whole[(whole.file == file) & (whole.sequence == i)] for file, i in found)


def _last(regions: Intervals, fraction: float) -> Intervals:
    """Return the last `fraction` of the bases of all regions together."""
    # As if each region were a sequence of one file: `last_bases` counts by file.
    numbers = np.arange(len(regions))
    chosen = last_bases(Intervals(np.zeros_like(numbers), numbers, regions.start, regions.end), fraction)
    return regions[chosen.sequence].at(chosen.start, chosen.end)


class DrawnWindows:
    """Random windows of one part; each is a function of the seed, the epoch and its number.

    Args:
        genomes: All files of all species.
        regions: For each species its regions, each at least a window long.
        window: Bases of a window.
        seed: Of the draw.
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
        # Number the possible starts of all regions one after another, and draw one of the numbers.
        starts = (regions.lengths - self.window + 1).cumsum()
        for _try in range(_TRIES):
            place = int(rng.integers(starts[-1]))
            k = int(np.searchsorted(starts, place, side="right"))
            file, sequence, last = int(regions.file[k]), int(regions.sequence[k]), int(regions.end[k])
            # `starts[k] - 1` is the number of the last start in region k, whose window ends at
            # `last`.
            start = last - self.window - (int(starts[k]) - 1 - place)
            text = self.genomes[file].letters(sequence, start, start + self.window)
            if text.upper().count("N") <= self.window / 2:
                break
        return (file, sequence, start, start + self.window), text, species

    def rows(self, count: int, epoch: int) -> WindowRows:
        """Return the first `count` windows of an epoch as rows."""
        drawn = [self.draw(i, epoch) for i in range(count)]
        windows = Intervals.of(window for window, _, _ in drawn)
        return WindowRows(self.genomes, windows, np.array([species for _, _, species in drawn]))


class EpochRows(torch.utils.data.Dataset):
    """New windows each epoch, on the other strand with probability `p`; see `StrandedRows`."""

    def __init__(self, windows: DrawnWindows, count: int, p: float = 0.0):
        self.windows = windows
        self.count = count
        self.p = p
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # see `StrandedRows`

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> dict:
        epoch = int(self.epoch)
        _, text, species = self.windows.draw(i, epoch)
        if self.p and np.random.default_rng((self.windows.seed, epoch, i, 1)).random() < self.p:
            text = reverse_complement(text)
        return {"sequence": text, "label": species}


def species(args: SpeciesArguments) -> RunResult:
    """Train, evaluate and save a classifier of species.

    Raises:
        InputError: The genomes, the checkpoint or the output folder cannot be used; nothing was
            written then.
    """
    opened = open_species(args)
    genomes = []
    regions = {part: [] for part in PARTS}
    for name, files in opened.items():
        for part, of_species in held_out_regions(name, files, args).items():
            # The files of a species are numbered from 0; here they follow those of the species
            # before.
            regions[part].append(replace(of_species, file=of_species.file + len(genomes)))
        genomes += files
    drawn = {part: DrawnWindows(genomes, regions[part], args.window, args.seed) for part in PARTS}
    counts = {"train": args.windows_per_epoch, "validation": args.test_windows, "test": args.test_windows}
    # Each part has an epoch that training does not reach, so that no part draws another's numbers.
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
    species(parse_settings(SpeciesArguments, "species", "Train HyenaDNA to tell species apart.", argv))


if __name__ == "__main__":
    from hyenadna.training.cli import run_module

    run_module(__spec__.name)
