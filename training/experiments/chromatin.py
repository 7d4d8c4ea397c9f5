"""Chromatin profile, many binary labels for each window: `hyenadna chromatin`.

    hyenadna chromatin chromatin_profile.yaml --data deepsea --fasta hg19.fa  # the paper's
    hyenadna chromatin --data peaks --fasta hg38.fa --window 1024 --tracks CTCF H3K27ac  # some tracks
    accelerate launch -m hyenadna chromatin --data deepsea --fasta hg19.fa  # on many devices

`--data` is a folder with a table for each of `train`, `valid` and `test`: csv, tsv or parquet. A
longer name such as `train_hg19_coords_targets.csv` is fine too. Each row is a window, and each
track is a column of 0 and 1. The windows are given by one of these:

- `chromosome, start, end`: 0-based, half-open. Each is widened or cut around its centre to
  `--window` bases of the genome `--fasta`. DeepSEA's bins of 200 bases, or its windows of 1,000,
  become 1,024.
- `Chr_No, Start, End`, as published: the same, but `Chr_No` 0 is chr1.
- `sequence`: no genome is needed.

Coordinates may also be in `train.bed`, with the tracks in `train_labels.csv` (or `.parquet`, or
`.npy` of shape (windows, tracks)).

`--track_kinds` names a table with the columns `track` and `kind`: TF, DHS, HM, or whatever you call
them. Without it, 919 tracks are taken for DeepSEA's, in its order: 125 DHS, 690 TF, 104 HM.

`metrics.json` has the mean AUROC and its median over the tracks of each kind, as the paper's table
of the chromatin profile (arXiv 2306.15794). `tracks.csv` has the AUROC of every track,
`predictions.npz` the probabilities.
"""

import itertools
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from transformers import EvalPrediction

from hyenadna.errors import InputError
from hyenadna.genomics.fasta import SequenceFile
from hyenadna.genomics.files import TABLES, part_of_file, reading
from hyenadna.genomics.intervals import (
    Intervals,
    centre,
    check_interval,
    overlapping,
    read_bed,
    whole_numbers,
)
from hyenadna.genomics.labelled import MULTI_LABEL, LabelledData
from hyenadna.genomics.labels import check_sequences
from hyenadna.genomics.splits import dna_keys
from hyenadna.genomics.window_rows import WindowRows, WindowSequences, digest_of
from hyenadna.training.runs.files import write_whole
from hyenadna.training.runs.folder import Fingerprint
from hyenadna.training.runs.models import RunResult
from hyenadna.training.runs.outputs import inert
from hyenadna.training.runs.settings import SHOWN_OF_TRAINING, parse_settings, say_next, setting
from hyenadna.training.runs.supervised import ClassifierArguments, classifier_for_trainer, train_and_test

_COORDINATES = ("chromosome", "start", "end")
_PUBLISHED = ("Chr_No", "Start", "End")
_DEEPSEA = ["DHS"] * 125 + ["TF"] * 690 + ["HM"] * 104


@dataclass
class ChromatinArguments(ClassifierArguments):
    """Settings of `hyenadna chromatin`, beside those of a classifier."""

    SHOWN: ClassVar = {
        "your data": ("data", "fasta", "window", "tracks", "track_kinds", "sequence_column"),
        "the model": ("model", "lora_rank", "pooling"),
        "training": (*SHOWN_OF_TRAINING, "patience"),
        "the run": ("output_dir", "resume"),
    }
    EXAMPLE: ClassVar = "hyenadna chromatin chromatin_profile.yaml --data deepsea --fasta hg19.fa"
    NEXT: ClassVar = {
        "hyenadna export {output_dir} {output_dir}-hub": "a folder to publish, with a card",
    }

    data: str | None = setting(None, "Folder with a table for each of train, valid and test.", compared=False)
    sequence_column: str = setting("sequence", "Column with the sequences, in place of coordinates.")
    id_column: str = setting("id", "Column with names of the rows, which is no track.")
    task: str | None = setting(None, "Name of the data in reports (chromatin_profile).")
    fasta: str | None = setting(None, "Genome of the coordinates (FASTA, plain or bgzip).")
    window: int = setting(1024, "Bases around the centre of each interval.")
    tracks: list[str] = setting([], "Tracks to learn; by default all.")
    track_kinds: str | None = setting(None, "Table (csv, tsv) with columns track and kind.")
    output_dir: str = setting(
        "hyenadna-chromatin", "Folder for everything that the run writes.", decides=False
    )

    def __post_init__(self):
        super().__post_init__()
        self.check_classifier()
        if self.window < 1:
            raise InputError(f"window is {self.window}; it must be at least 1")
        self.task = self.task or "chromatin_profile"


def read_chromatin(args: ChromatinArguments) -> LabelledData:
    """Read the windows and tracks of every part.

    Raises:
        InputError: The data cannot be used: a part is missing, labels and coordinates differ in
            length, a window is not in the genome, a track is unknown, ...
    """
    folder = Path(args.data or "")
    if args.data is None or not folder.is_dir():
        raise InputError(f"data is {args.data!r}; expected a folder with tables of train, valid and test")
    # Optional: with sequences in the table, there is no genome.
    genome = None
    if args.fasta:
        genome = SequenceFile(args.fasta)
    parts = {}
    names = {}
    for path in sorted(folder.iterdir()):
        part = part_of_file(path)
        is_labels = "labels" in path.name.split(".")[0]
        if part is None or is_labels or not path.name.lower().endswith((*TABLES, ".bed")):
            continue
        if part in parts:
            raise InputError(f"{folder} holds the {part} part twice; one of them is {path.name}")
        if path.suffix == ".bed":
            parts[part], names[part] = _read_bed(path, genome, args)
        else:
            parts[part], names[part] = _read_table(path, genome, args)
    missing = [part for part in ("train", "validation") if part not in parts]
    if missing:
        raise InputError(
            f"{folder} has no table of {missing}; it has {sorted(p.name for p in folder.iterdir())[:10]}"
        )
    # Same tracks in the same order: a label is known by its column alone.
    for part, other in names.items():
        if other != names["train"]:
            differing = sorted(set(other) ^ set(names["train"]))[:5] or "their order"
            raise InputError(f"the tracks of {part} are not those of train: {differing} differ")
    parts = {part: parts[part] for part in ("train", "validation", "test") if part in parts}
    _warn_about_shared_dna(parts)
    if isinstance(parts["train"], WindowRows):
        return LabelledData(parts, MULTI_LABEL, names["train"], digest_of(parts))
    content = Fingerprint()
    for part, rows in parts.items():
        content.add(f"{part}{rows['sequence']}").add(rows["label"])
    return LabelledData(parts, MULTI_LABEL, names["train"], content.text)


def _warn_about_shared_dna(parts: dict) -> None:
    """Warn if windows of two parts overlap, or if two parts hold the same DNA."""
    for one, other in itertools.combinations(parts, 2):
        known = parts[one]["sequence"]
        asked = parts[other]["sequence"]
        # Windows of a genome are compared by position, which reads nothing.
        if isinstance(known, WindowSequences):
            shared = int(overlapping(asked.windows, known.windows).sum())
        else:
            keys = set(dna_keys(known))
            shared = sum(key in keys for key in dna_keys(asked))
        if shared:
            warnings.warn(
                f"{shared:,} of the {len(asked):,} {other} windows share DNA with the {one} part: the "
                f"{other} metrics look too good. Split by chromosome, or use a shorter window.",
                stacklevel=3,
            )


class _Rows(dict):
    """Columns by name. Its length is the number of rows."""

    column_names = ["row", "sequence", "label"]

    def __len__(self) -> int:
        return len(self["row"])


def _read_table(path: Path, genome: SequenceFile | None, args: ChromatinArguments):
    table = _table(path)
    known = next((names for names in (_COORDINATES, _PUBLISHED) if set(names) <= set(table)), None)
    if args.sequence_column not in table and known is None:
        raise InputError(
            f"{path} has neither a column {args.sequence_column!r} nor {list(_COORDINATES)} nor "
            f"{list(_PUBLISHED)}; it has {list(table)[:8]}"
        )
    where_columns = {args.sequence_column} if args.sequence_column in table else set(known)
    others = where_columns | {args.id_column, "split", "filter_index"}
    # Every other column is a track. "Unnamed: 0" is an index that pandas saved.
    names = [name for name in table if name not in others and not name.startswith("Unnamed")]
    names, labels = _tracks(table[names], names, path, args)
    if args.sequence_column in table:
        sequences = table[args.sequence_column]
        rows = pd.DataFrame({"sequence": sequences})
        rows.attrs["name"] = str(path)
        check_sequences(rows)
        return _Rows(row=np.arange(len(table)), sequence=sequences.tolist(), label=labels), names
    chromosomes = table[known[0]].astype(str).fillna("")
    if known is _PUBLISHED:
        if not pd.api.types.is_integer_dtype(table[known[0]]):
            raise InputError(
                f"{path}: {known[0]} holds {chromosomes.iloc[0]!r} and others; as published it is a "
                f"number, 0 for chr1. Names of chromosomes belong in the columns {', '.join(_COORDINATES)}"
            )
        # Chr_No counts from 0 for chr1. X and Y follow the 22 autosomes.
        chromosomes = "chr" + (table[known[0]] + 1).astype(str).replace({"23": "X", "24": "Y"})
    starts, ends = (whole_numbers(table, name, path) for name in known[1:])
    genome = _needed(genome, path)
    # Look up each chromosome once, and report the first row that names it.
    numbers = {
        name: genome.find(name, f"{path}: row {chromosomes.eq(name).argmax()}")
        for name in chromosomes.unique()
    }
    # Find bad rows by columns: millions of calls would take minutes. `check_interval` then raises.
    for row in np.flatnonzero(
        (starts < 0) | (ends <= starts) | (ends > genome.lengths[chromosomes.map(numbers)])
    ):
        check_interval(
            genome, numbers[chromosomes[row]], int(starts[row]), int(ends[row]), f"{path}: row {row}"
        )
    sequence = chromosomes.map(numbers).to_numpy(np.int64)
    windows = Intervals(np.zeros(len(table), dtype=np.int64), sequence, starts, ends)
    return WindowRows([genome], centre(windows, args.window, [genome]), labels), names


def _read_bed(path: Path, genome: SequenceFile | None, args: ChromatinArguments):
    windows, _ = read_bed(path, [_needed(genome, path)], 0)
    # `train.bed` has its labels in `train_labels.npy` or a table of that name.
    files = [path.with_name(f"{path.stem}_labels{end}") for end in (".npy", *TABLES)]
    file = next((file for file in files if file.exists()), None)
    if file is None:
        raise InputError(
            f"{path}: its labels are missing; expected {files[0].name} or {files[1].name} beside it"
        )
    if file.suffix == ".npy":
        with reading(file, "npy"):
            values = np.load(file, allow_pickle=False)
        if values.ndim != 2:
            raise InputError(f"{file} has the shape {values.shape}; expected (windows, tracks)")
        table = pd.DataFrame(values, columns=[f"track_{i}" for i in range(values.shape[1])])
    else:
        table = _table(file)
    if len(table) != len(windows):
        raise InputError(
            f"{file} has {len(table):,} rows of labels, but {path} has {len(windows):,} intervals"
        )
    names, labels = _tracks(table, list(table), file, args)
    return WindowRows([genome], centre(windows, args.window, [genome]), labels), names


def _table(path: Path) -> pd.DataFrame:
    with reading(path):
        if path.suffix == ".parquet":
            return pd.read_parquet(path).reset_index(drop=True)
        separator = "\t" if ".tsv" in path.name else ","
        return pd.read_csv(path, sep=separator)


def _needed(genome: SequenceFile | None, path: Path) -> SequenceFile:
    if genome is None:
        raise InputError(f"{path} holds coordinates: their sequences need the genome, --fasta FILE")
    return genome


def _tracks(table: pd.DataFrame, names: list[str], path: Path, args) -> tuple[list[str], np.ndarray]:
    """Return the names of the chosen tracks and their labels, uint8 `(rows, tracks)`."""
    names = [str(name) for name in names]
    if len(set(args.tracks)) < len(args.tracks):
        raise InputError(f"tracks lists a track twice: {args.tracks[:20]}")
    unknown = [track for track in args.tracks if track not in names]
    if unknown:
        raise InputError(
            f"tracks: {path} has no track {unknown}; it has {names[:20]}{' ...' * (len(names) > 20)}"
        )
    names = args.tracks or names
    if not names or not len(table):
        raise InputError(
            f"{path} has {len(table)} rows and {len(names)} tracks; at least one of each is needed"
        )
    # In parquet, the names of columns may be numbers. `--tracks` are text.
    table.columns = table.columns.astype(str)
    values = table[names].to_numpy()
    wrong = np.argwhere((values != 0) & (values != 1))
    if len(wrong):
        row, column = wrong[0]
        raise InputError(
            f"{path}: the track {names[column]!r} of row {row} is {values[row, column]}, not 0 or 1"
        )
    return list(names), values.astype(np.uint8)


def kinds_of(tracks: list[str], args: ChromatinArguments) -> list[str]:
    """Return the kind of each track: from the table of kinds, DeepSEA's order, or `all`.

    Raises:
        InputError: The table lacks a column or a track, or 919 tracks have names that are not in
            DeepSEA's order.
    """
    if args.track_kinds is None:
        if len(tracks) != len(_DEEPSEA) or args.tracks:
            return ["all"] * len(tracks)
        # DeepSEA names its tracks like `8988T|DNase|None`. If they are named, check their order.
        dnase = ["DNase" in track for track in tracks]
        if any(dnase) and dnase != [kind == "DHS" for kind in _DEEPSEA]:
            raise InputError("919 tracks, but those named DNase are not the first 125: give track_kinds FILE")
        return list(_DEEPSEA)
    table = _table(Path(args.track_kinds))
    if not {"track", "kind"} <= set(table):
        raise InputError(f"{args.track_kinds} has the columns {list(table)}; expected track and kind")
    kind = dict(zip(table["track"].astype(str), table["kind"].astype(str), strict=True))
    unknown = [track for track in tracks if track not in kind]
    if unknown:
        raise InputError(
            f"{args.track_kinds} does not name {len(unknown)} tracks, the first is {unknown[0]!r}"
        )
    return [kind[track] for track in tracks]


def auroc_of_tracks(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the AUROC of each track, float64 `(tracks,)`.

    A track with only zeros or only ones has none: NaN.

    Args:
        scores: `(rows, tracks)`. Any monotone function of the probability will do.
        labels: 0 and 1, `(rows, tracks)`.

    >>> auroc_of_tracks(np.array([[0.1], [0.4], [0.3]]), np.array([[0], [1], [0]])).tolist()
    [1.0]
    """
    areas = np.full(labels.shape[1], np.nan)
    # 64 tracks at a time: ranks of all 919 at once would take gigabytes.
    for first in range(0, len(areas), 64):
        tracks = slice(first, first + 64)
        positive = labels[:, tracks].sum(axis=0, dtype=np.int64)
        negative = len(labels) - positive
        # The AUROC is the share of (positive, negative) pairs in the right order, ties counting
        # half. That is the Mann-Whitney U of the positive rows over the number of pairs, and U
        # follows from the sum of their ranks: U = ranks - n (n + 1) / 2.
        ranks = (rankdata(scores[:, tracks], axis=0) * labels[:, tracks]).sum(axis=0)
        area = (ranks - positive * (positive + 1) / 2) / np.maximum(positive * negative, 1)
        areas[tracks] = np.where((positive > 0) & (negative > 0), area, np.nan)
    return areas


def make_track_metrics(kinds: list[str]):
    """Return `compute_metrics` for Trainer: the mean `auroc`, and `auroc_median_KIND` by kind."""
    kinds = np.array(kinds)

    def compute_metrics(output: EvalPrediction) -> dict[str, float]:
        areas = auroc_of_tracks(np.asarray(output.predictions), output.label_ids.astype(np.uint8))
        defined = np.isfinite(areas)
        results = {"auroc": float("nan")}
        if defined.any():
            results["auroc"] = float(areas[defined].mean())
        # Medians by kind, as the paper reports them.
        for kind in np.unique(kinds):
            of_kind = areas[defined & (kinds == kind)]
            results[f"auroc_median_{kind.lower()}"] = float("nan")
            if len(of_kind):
                results[f"auroc_median_{kind.lower()}"] = float(np.median(of_kind))
        return {**results, "tracks_without_auroc": int((~defined).sum())}

    return compute_metrics


def chromatin(args: ChromatinArguments) -> RunResult:
    """Train, evaluate and save a model of chromatin tracks.

    Raises:
        InputError: The data, the checkpoint or the output folder cannot be used. Nothing was
            written.
    """
    labelled = read_chromatin(args)
    kinds = kinds_of(labelled.label_names, args)

    def prepare(args: ChromatinArguments, labelled: LabelledData) -> dict:
        return {**classifier_for_trainer(args, labelled), "compute_metrics": make_track_metrics(kinds)}

    result = train_and_test(args, labelled, prepare)
    if args.process_index == 0:
        _write_tracks(Path(args.output_dir), result, labelled, kinds)
    return result


def _write_tracks(output: Path, result: RunResult, labelled: LabelledData, kinds: list[str]) -> None:
    """Write `tracks.csv` from the saved predictions, so that it works for a finished run too."""
    # With many tracks the predictions are an `.npz`, else a csv table.
    part = result.results["predictions_of"]
    names = labelled.label_names
    labels, probability = _read_predictions(output, names)
    tracks = [inert(name) for name in names]
    table = pd.DataFrame({"track": tracks, "kind": kinds, "auroc": auroc_of_tracks(probability, labels)})
    table["positive"] = labels.sum(axis=0)
    table["rows"] = len(labels)
    write_whole(output / "tracks.csv", lambda path: table.to_csv(path, index=False))
    print(f"tracks.csv holds the AUROC of each of {len(names)} tracks on the {part} part")


def _read_predictions(output: Path, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels and the probabilities that a run wrote, both `(rows, tracks)`."""
    packed = output / "predictions.npz"
    if packed.exists():
        with reading(packed), np.load(packed) as content:
            return content["label"], content["probability"]
    path = output / "predictions.csv"
    with reading(path):
        table = pd.read_csv(path)
        labels = table[[f"label_{name}" for name in names]].to_numpy()
        return labels, table[[f"probability_{name}" for name in names]].to_numpy()


def main(argv: list[str] | None = None) -> None:
    """Run `hyenadna chromatin` with these arguments (default: those of the command line)."""
    args = parse_settings(ChromatinArguments, "chromatin", "Predict many tracks of a window at once.", argv)
    chromatin(args)
    say_next(args)


if __name__ == "__main__":
    from hyenadna.training.cli import run_module

    run_module(__spec__.name)
