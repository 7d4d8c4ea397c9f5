"""Genomic intervals: read them from BED files and regions, merge, subtract and cut them.

    from hyenadna.genomics.fasta import open_genomes
    from hyenadna.genomics.intervals import read_regions, subtract, tile, whole_sequences
    genomes = open_genomes(["hg38.fa"])
    test = read_regions(["chr8", "chr20:0-5,000,000"], genomes, "test")
    windows = tile(subtract(whole_sequences(genomes), test), 1024)
    windows.end - windows.start                                              # int64 (windows,)

Every coordinate is 0-based and half-open, as in BED. So are regions such as `chr20:0-5,000,000`,
unlike those of samtools, which count from 1.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from hyenadna.errors import InputError

from .fasta import SequenceFile
from .files import PART_NAMES, PARTS, part_name, read_lines

__all__ = [
    "BedLine",
    "Intervals",
    "centre",
    "check_interval",
    "class_weights",
    "merge",
    "overlapping",
    "read_bed",
    "read_bed_lines",
    "read_regions",
    "subtract",
    "tile",
    "whole_numbers",
    "whole_sequences",
]

Column = npt.NDArray[np.int64]

# The most digits that a coordinate may have: no genome needs more, and float64 holds them exactly.
_DIGITS = 15


# ---------------------------------------------------------------------------------------- the table


@dataclass(frozen=True, eq=False)
class Intervals:
    """A table of intervals with four columns, each int64 `(n,)`.

    A slice, a list of rows or a mask selects rows, and gives a table again.

    Attributes:
        file: The number of the file in the list from `open_genomes`.
        sequence: The number of the sequence in its file.
        start: The first base, from 0.
        end: The base after the last.

    >>> windows = Intervals.of([(0, 0, 10, 30), (0, 1, 0, 5)])
    >>> windows.end.tolist(), len(windows[windows.start > 5])
    ([30, 5], 1)
    """

    file: Column
    sequence: Column
    start: Column
    end: Column

    @staticmethod
    def of(rows: "Iterable[Sequence[int]] | np.ndarray") -> "Intervals":
        """Make a table from rows `(file, sequence, start, end)` or an array `(n, 4)`."""
        table = np.array(rows if isinstance(rows, np.ndarray) else list(rows), dtype=np.int64).reshape(-1, 4)
        return Intervals(*np.ascontiguousarray(table.T))

    @staticmethod
    def joined(tables: "Iterable[Intervals]") -> "Intervals":
        """Put tables one after the other."""
        arrays = [table.array() for table in tables]
        return Intervals.of(np.concatenate([np.zeros((0, 4), dtype=np.int64), *arrays]))

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, rows: "slice | list[int] | np.ndarray") -> "Intervals":
        return Intervals(self.file[rows], self.sequence[rows], self.start[rows], self.end[rows])

    @property
    def lengths(self) -> Column:
        """Their lengths in bases, int64 `(n,)`."""
        return self.end - self.start

    def at(self, start: Column, end: Column) -> "Intervals":
        """Return intervals on the same sequences with other starts and ends."""
        return Intervals(self.file, self.sequence, start, end)

    def array(self) -> npt.NDArray[np.int64]:
        """Return the table as an array `(n, 4)`."""
        return np.stack([self.file, self.sequence, self.start, self.end], axis=1)

    def tolist(self) -> list[list[int]]:
        """Return the rows `[file, sequence, start, end]`."""
        return self.array().tolist()

    def tobytes(self) -> bytes:
        """Return the table as bytes, for a checksum."""
        return self.array().tobytes()

    def in_order(self) -> "Intervals":
        """Sort by file, sequence, start and end."""
        # The last key of `lexsort` sorts first.
        return self[np.lexsort((self.end, self.start, self.sequence, self.file))]

    def name(self, row: int, genomes: Sequence[SequenceFile]) -> str:
        """Return a row as people write it: `chr20:100-200`, from 0, the end not included."""
        sequence = genomes[self.file[row]].names[self.sequence[row]]
        return f"{sequence}:{self.start[row]}-{self.end[row]}"


def whole_sequences(genomes: Sequence[SequenceFile]) -> Intervals:
    """Return one interval for each sequence of each file; empty sequences are left out.

    >>> whole_sequences(genomes).tolist()                                   # doctest: +SKIP
    [[0, 0, 0, 248956422], [0, 1, 0, 242193529]]
    """
    rows = []
    for file, genome in enumerate(genomes):
        rows += [(file, i, 0, length) for i, length in enumerate(genome.lengths.tolist()) if length]
    return Intervals.of(rows)


# ------------------------------------------------------------------------------------------- checks


def check_interval(genome: SequenceFile, sequence: int, start: int, end: int, where: str) -> None:
    """Raise `InputError` if an interval is empty or ends outside its sequence.

    Args:
        genome: The file of the sequence.
        sequence: Its number.
        start: From 0.
        end: Half-open.
        where: Who asked for the interval, for the message.
    """
    name = genome.names[sequence]
    length = genome.lengths[sequence]
    if start < 0 or end <= start:
        raise InputError(f"{where}: the end of {name}:{start}-{end} must be above its start")
    if end > length:
        raise InputError(f"{where}: {name}:{start}-{end} ends outside of {name}, which has {length} bases")


def whole_numbers(table: pd.DataFrame, column: str, path: str | Path) -> Column:
    """Return a column of coordinates as int64 `(rows,)`.

    Raises:
        InputError: One is missing, not a whole number, or too large for a coordinate.
    """
    # By way of float64, because a column with a missing cell arrives as floats or as text.
    numbers = pd.to_numeric(table[column], errors="coerce").to_numpy(dtype=np.float64)
    with np.errstate(invalid="ignore"):
        is_whole = (numbers % 1 == 0) & (np.abs(numbers) < 10**_DIGITS)
    wrong = np.flatnonzero(~is_whole)
    if len(wrong):
        value = table[column].tolist()[wrong[0]]
        raise InputError(f"{path}: row {wrong[0]}: {column} is {_short(value)}, not a whole number")
    return numbers.astype(np.int64)


def _coordinate(text: str) -> int | None:
    """Return a coordinate such as `5000000` or `5,000,000`; None for anything else."""
    digits = text.replace(",", "")
    if not (digits.isascii() and digits.isdecimal()) or len(digits) > _DIGITS:
        return None
    return int(digits)


def _bed_coordinate(text: str) -> int | None:
    """Return a coordinate of a BED line, where commas are not allowed; None for anything else."""
    return _coordinate(text) if text.isdecimal() else None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


# ---------------------------------------------------------------------------------------------- BED


@dataclass(frozen=True)
class BedLine:
    """A line of a BED file.

    Attributes:
        where: File and line number, for messages.
        chromosome: As the file spells it.
        start: The first base, from 0.
        end: The base after the last.
        names: The columns from the fourth on.
    """

    where: str
    chromosome: str
    start: int
    end: int
    names: list[str]

    @property
    def name(self) -> str:
        """The fourth column in lower case, or an empty text."""
        return self.names[0].lower() if self.names else ""


def read_bed_lines(path: str | Path, genomes: Sequence[SequenceFile]) -> list[BedLine]:
    """Read the intervals of a BED file. Comments and the lines of genome browsers are skipped.

    Args:
        path: The file, plain or gzipped.
        genomes: The genomes it is about. If a sequence is called `track` or `browser`, such a line
            is an interval.

    Raises:
        InputError: A line is not BED, or there is no interval.
    """
    lines = []
    for number, line in enumerate(read_lines(path), 1):
        first_word = next(iter(line.split()), "#")
        if first_word.startswith("#"):
            continue
        if first_word in ("track", "browser") and not any(first_word in genome.number for genome in genomes):
            continue
        # Names may hold blanks, so blanks separate columns only where there is no tab.
        columns = [column.strip() for column in (line.split("\t") if "\t" in line else line.split())]
        where = f"{path}: line {number}"
        padded = [*columns, "", ""]
        start = _bed_coordinate(padded[1])
        end = _bed_coordinate(padded[2])
        if start is None or end is None:
            raise InputError(
                f"{where} is {line[:60]!r}; expected chromosome, start and end, separated by tabs"
            )
        lines.append(BedLine(where, columns[0], start, end, columns[3:]))
    if not lines:
        raise InputError(f"{path}: there is no interval")
    return lines


def parts_of_lines(lines: Sequence[BedLine]) -> list[str] | None:
    """Return the part that the fourth column of each line names; None if no line names a part.

    Raises:
        InputError: Some lines name a part, and one does not.
    """
    if not any(line.name in PART_NAMES for line in lines):
        return None
    return [part_name(line.name, line.where) for line in lines]


def read_bed(
    path: str | Path, genomes: Sequence[SequenceFile], file: int
) -> tuple[Intervals, list[str] | None]:
    """Read the BED file of one genome: chromosome, start, end, and perhaps a split as column 4.

    Args:
        path: The BED file.
        genomes: From `open_genomes`.
        file: The number of the genome that the BED file is about.

    Returns:
        The intervals, and the part of each, or None if the fourth column names no parts. Basenji
        and Enformer publish such files. The names are `train`, `valid`, `val`, `validation`, `dev`
        and `test`.

    Raises:
        InputError: A line is not BED, or does not fit the genome.

    >>> intervals, parts = read_bed("sequences.bed", genomes, file=0)       # doctest: +SKIP
    """
    genome = genomes[file]
    lines = read_bed_lines(path, [genome])
    parts = parts_of_lines(lines)
    rows = [(file, genome.find(line.chromosome, line.where), line.start, line.end) for line in lines]
    for (_, sequence, start, end), line in zip(rows, lines, strict=True):
        check_interval(genome, sequence, start, end, line.where)
    return Intervals.of(rows), parts


def class_weights(
    windows: Intervals, bed: Sequence[str | Path], genomes: Sequence[SequenceFile], weights: dict[str, float]
) -> npt.NDArray[np.float64]:
    """Return the sampling weight of each window, float64 `(windows,)`, by its class in BED files.

    The class is the fourth column, or the fifth if the fourth names parts. If a window overlaps
    several classes, the largest weight counts: 1,024 bases around an exon of 150 are an exon,
    whatever surrounds it.

    Args:
        windows: From `split_windows`.
        bed: One BED file for each genome.
        genomes: From `open_genomes`.
        weights: The weight of each class. Classes that are not listed weigh 1.

    Raises:
        InputError: A class of `weights` is in none of the BED files.

    >>> class_weights(windows, ["genes.bed"], genomes, {"exon": 4.0})       # doctest: +SKIP
    array([1., 4., 1.])
    """
    rows_of_class: dict[str, list[tuple[int, int, int, int]]] = {}
    for file, path in enumerate(bed):
        lines = read_bed_lines(path, [genomes[file]])
        # `names` starts with the fourth column.
        column = int(any(line.name in PART_NAMES for line in lines))
        for line in lines:
            name = line.names[column] if len(line.names) > column else ""
            row = (file, genomes[file].find(line.chromosome, line.where), line.start, line.end)
            rows_of_class.setdefault(name, []).append(row)

    unknown = [name for name in weights if name not in rows_of_class]
    if unknown:
        known = sorted(filter(None, rows_of_class))
        known = [*known[:20], "..."] if len(known) > 20 else known
        raise InputError(
            f"class_weights: no interval of {list(map(str, bed))} is of the class {unknown[0]!r}; the "
            "classes are "
            f"{known or 'missing: the fourth column names them, or the fifth if the fourth names parts'}"
        )

    # From minus infinity, because a weight below 1 must be able to win over no class at all.
    result = np.full(len(windows), -np.inf)
    for name, rows in rows_of_class.items():
        of_class = overlapping(windows, Intervals.of(rows))
        result[of_class] = np.maximum(result[of_class], weights.get(name, 1.0))
    result[np.isinf(result)] = 1.0  # overlaps no interval
    return result


# ------------------------------------------------------------------------------------------ regions


def read_regions(specs: Sequence[str], genomes: Sequence[SequenceFile], setting: str) -> Intervals:
    """Turn `chr8`, `chr20:0-5,000,000` (0-based, half-open) or `regions.bed` into intervals.

    If several files have a chromosome, all of them are meant. `mouse.fa:chr8`, with the path as it
    was given, means that file alone. The exact name wins over its other spellings: `20` is `chr20`
    only if no file has a `20`. If the fourth column of a BED file names parts, only the lines of
    the part called `setting` count.

    Raises:
        InputError: A region is not in the genomes, or a BED file cannot be used. The message names
            `setting`.

    >>> read_regions(["chr20:0-5,000,000"], genomes, "test")                # doctest: +SKIP
    """
    rows: list[tuple[int, int, int, int]] = []
    for spec in specs:
        files, name = _files_meant(spec, genomes)
        where = f"{setting} {spec!r}"
        if name.endswith((".bed", ".bed.gz")):
            for line in _lines_of_part(name, spec, [genomes[file] for file in files], setting):
                rows += _rows(genomes, files, line.chromosome, line.start, line.end, line.where)
            continue

        region = re.fullmatch(r"(.+):([\d,]+)-([\d,]+)", name)
        # The names of HLA and patch sequences contain colons: `HLA-A*01:01:01:01` is no region.
        is_name = any(name in genomes[file].number for file in files)
        if region is None or is_name:
            rows += _rows(genomes, files, name, 0, None, where)
            continue
        start = _coordinate(region[2])
        end = _coordinate(region[3])
        if start is None or end is None:
            raise InputError(f"{where}: expected a region such as chr20:0-5,000,000")
        rows += _rows(genomes, files, region[1], start, end, where)
    return Intervals.of(rows)


def _files_meant(spec: str, genomes: Sequence[SequenceFile]) -> tuple[list[int], str]:
    """Return the files that a region is about, and the region without the path before it."""
    for file, genome in enumerate(genomes):
        if spec.startswith(f"{genome.path}:"):
            return [file], spec[len(genome.path) + 1 :]
    return list(range(len(genomes))), spec


def _lines_of_part(path: str, spec: str, genomes: Sequence[SequenceFile], setting: str) -> list[BedLine]:
    lines = read_bed_lines(path, genomes)
    parts = parts_of_lines(lines)
    if parts is None or setting not in PARTS:
        return lines
    lines = [line for line, part in zip(lines, parts, strict=True) if part == setting]
    if not lines:
        raise InputError(f"{setting} {spec!r}: the fourth column names parts, but none is {setting}")
    return lines


def _rows(
    genomes: Sequence[SequenceFile], files: list[int], name: str, start: int, end: int | None, where: str
) -> list[tuple[int, int, int, int]]:
    """Return the rows of a region in each file that has its chromosome.

    An `end` of None is the end of the chromosome.
    """
    # Two passes: if any file has the exact name, no other spelling counts in any of them.
    holders = [file for file in files if name in genomes[file].number]
    holders = holders or [file for file in files if genomes[file].number_of(name) is not None]
    if not holders and len(files) > 1:
        where += f": none of the {len(files)} files has it"
    rows = []
    # If no file has it, `find` raises and lists the sequences of the first.
    for file in holders or files:
        sequence = genomes[file].find(name, where)
        stop = int(genomes[file].lengths[sequence]) if end is None else end
        check_interval(genomes[file], sequence, start, stop, where)
        rows.append((file, sequence, start, stop))
    return rows


# ------------------------------------------------------------------------------------------ windows


def tile(regions: Intervals, window: int) -> Intervals:
    """Cut regions into adjacent windows of `window` bases. The last of each region may be shorter.

    >>> tile(Intervals.of([(0, 0, 0, 25)]), 10).tolist()
    [[0, 0, 0, 10], [0, 0, 10, 20], [0, 0, 20, 25]]
    """
    # Repeat each region once per window (rounded up), then shift the copies by 0, 1, ... windows.
    counts = -(-regions.lengths // window)
    windows = regions[np.repeat(np.arange(len(regions)), counts)]
    start = windows.start + _count_up(counts) * window
    return windows.at(start, np.minimum(start + window, windows.end))


def _count_up(counts: Column) -> Column:
    """Count from 0 for each of `counts`, without a loop: `[2, 3]` gives `[0, 1, 0, 1, 2]`."""
    # A running number over all, minus where each one begins.
    before = counts.cumsum() - counts
    return np.arange(int(counts.sum())) - np.repeat(before, counts)


def centre(intervals: Intervals, window: int, genomes: Sequence[SequenceFile]) -> Intervals:
    """Return windows of `window` bases around the centres of intervals, as the paper pretrains.

    At the ends of a chromosome they are clipped, and therefore shorter; batches pad on the right.

    >>> centre(Intervals.of([(0, 0, 50, 60)]), 20, genomes).tolist()        # doctest: +SKIP
    [[0, 0, 45, 65]]
    """
    lengths = [genomes[file].lengths[i] for file, i in zip(intervals.file, intervals.sequence, strict=True)]
    start = (intervals.start + intervals.end) // 2 - window // 2
    end = np.minimum(start + window, np.array(lengths, dtype=np.int64))
    return intervals.at(np.maximum(start, 0), end)


# ------------------------------------------------------------------------------------------ algebra


def _on_one_axis(*tables: Intervals) -> list[tuple[Column, Column]]:
    """Return starts and ends of each table as if all sequences of all files lay on one axis.

    Then a single `searchsorted` answers for every chromosome at once, without a loop over them.
    """
    # Number the sequences that occur in any of the tables.
    keys = [(table.file << 32) + table.sequence for table in tables]
    known = np.unique(np.concatenate(keys))

    # Each gets a stretch of the axis longer than any chromosome, so that intervals of two sequences
    # never meet. 2^36 bases are far beyond the longest genome; int64 holds 2^27 such stretches.
    stretch = 2**36
    axes = []
    for table, key in zip(tables, keys, strict=True):
        shift = stretch * np.searchsorted(known, key)
        axes.append((table.start + shift, table.end + shift))
    return axes


def merge(intervals: Intervals) -> Intervals:
    """Sort intervals and join those that overlap. Those that only touch stay apart.

    Adjacent windows of a BED file are therefore not glued together.

    >>> merge(Intervals.of([(0, 0, 5, 9), (0, 0, 0, 6), (0, 0, 9, 12)])).tolist()
    [[0, 0, 0, 9], [0, 0, 9, 12]]
    """
    intervals = intervals.in_order()
    if not len(intervals):
        return intervals
    ((start, end),) = _on_one_axis(intervals)

    # Sorted by start, an interval opens a new group if all intervals before it have ended by then.
    # The running maximum is needed: a long interval may reach past the end of the one after it.
    is_first = np.append(True, start[1:] >= np.maximum.accumulate(end)[:-1])
    first = np.flatnonzero(is_first)
    merged = intervals[first]
    return merged.at(merged.start, np.maximum.reduceat(intervals.end, first))


def subtract(regions: Intervals, others: Intervals) -> Intervals:
    """Return the pieces of `regions` that no interval of `others` covers, in their order.

    Regions may overlap each other, and so may the others.

    >>> subtract(Intervals.of([(0, 0, 0, 10)]), Intervals.of([(0, 0, 3, 5)])).tolist()
    [[0, 0, 0, 3], [0, 0, 5, 10]]
    """
    others = merge(others)
    (start, end), (other_start, other_end) = _on_one_axis(regions, others)

    # Merged, `others` are disjoint and sorted, so those that overlap a region are neighbours: from
    # the first that ends after the start of the region to the last that starts before its end.
    first = np.searchsorted(other_end, start, side="right")
    count = np.searchsorted(other_start, end) - first

    # They cut the region into `count + 1` pieces. Piece k runs from the end of interval k - 1 to
    # the start of interval k. The first starts and the last ends where the region does:
    #
    #     region      [-----------------------------)
    #     others          [-----)      [----)
    #     piece       [ 0 )     [  1   )    [   2   )
    pieces = count + 1
    region = np.repeat(np.arange(len(regions)), pieces)
    k = _count_up(pieces)
    result = regions[region]
    has_left = k > 0
    has_right = k < count[region]
    result.start[has_left] = others.end[(first[region] + k - 1)[has_left]]
    result.end[has_right] = others.start[(first[region] + k)[has_right]]

    # A piece is empty where an interval covers an end of the region, or touches its neighbour.
    return result[result.start < result.end]


def overlapping(intervals: Intervals, others: Intervals) -> npt.NDArray[np.bool_]:
    """Return whether each interval shares a base with one of `others`, bool `(intervals,)`.

    >>> overlapping(Intervals.of([(0, 0, 0, 5), (0, 0, 5, 9)]), Intervals.of([(0, 0, 5, 6)])).tolist()
    [False, True]
    """
    (start, end), (other_start, other_end) = _on_one_axis(intervals, merge(others))
    # Merged, the others end in the order in which they start. So of those that start before the end
    # of an interval, the last one reaches furthest, and it alone has to be looked at.
    before = np.searchsorted(other_start, end) - 1
    # `before` is -1 if there is none; then this reads the appended 0, which the result masks.
    reaches = np.append(other_end, 0)[before]
    return (before >= 0) & (reaches > start)
