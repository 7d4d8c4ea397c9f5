"""Genomes as training data: FASTA, text and tables -> windows, checked, in parts that share no base.

    from hyenadna.genomics.genome import open_genomes, split_windows
    genomes = open_genomes(["hg38.fa"])
    parts = split_windows(genomes, window=1024, validation=["chr20"], test=["chr21:0-20,000,000", "chr22"])
    parts["train"]                                               # (windows, 4): file, sequence, start, end

Every coordinate here is 0-based and half-open, as in BED; also `chr21:0-20,000,000`, which samtools would count from 1.
A window is one row of an int64 array: file, sequence in the file, start, end; `windows.py` makes batches of it. A file
stays where it is: FASTA is mapped into memory and read at the places that its index (`pyfaidx`) gives, so that workers
and processes share one copy. A bgzipped file is unpacked into the memory of each process.
"""

import gzip
import mmap
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from pyfaidx import Faidx, FastaIndexingError

from hyenadna.errors import InputError
from hyenadna.tokenization import HyenaDNATokenizer

FASTA = (".fa", ".fasta", ".fna", ".fa.gz", ".fasta.gz", ".fna.gz", ".fa.bgz", ".fasta.bgz", ".fna.bgz")
TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet")
TEXT = (".txt", ".txt.gz")
PARTS = ("train", "validation", "test")
_PART_NAMES = {"train": "train", "test": "test", **dict.fromkeys(("validation", "valid", "val", "dev"), "validation")}
_ONCE = 2**23  # bases read at a time while scanning

VOCABULARY = HyenaDNATokenizer().get_vocab()
_UNK, N = VOCABULARY["[UNK]"], VOCABULARY["N"]
FIRST_BASE, LAST_BASE = VOCABULARY["A"], VOCABULARY["T"]  # A, C, G, T are neighbours
SOFT_MASKED = 16  # added to the id of a lower-case letter, which has to stay known until the labels are made


def _byte_table() -> bytes:
    """The id of each byte, `[UNK]` for what is no letter of the IUPAC code; U is T, and other codes are N."""
    table = np.full(256, _UNK, dtype=np.uint8)
    for letter in "ACGTUNRYSWKMBDHV":
        table[ord(letter)] = VOCABULARY.get({"U": "T"}.get(letter, letter), N)
        table[ord(letter.lower())] = table[ord(letter)] + SOFT_MASKED
    return table.tobytes()


ID_OF_BYTE = _byte_table()


# ------------------------------------------------------------------------------------------------ files


class SequenceFile:
    """The sequences of one file, read by position without their line breaks.

    Attributes:
        path: Of the file.
        names: Of the sequences; of a table or text, the numbers of its rows or lines, from 0.
        lengths: In bases, int64.
        parts: For each sequence the part that a `split` column gives it; None where there is no such column.
    """

    def __init__(self, path: str | Path, sequence_column: str = "sequence"):
        self.path, self.parts = str(path), None
        lower = self.path.lower()
        if not Path(path).is_file():
            raise InputError(f"{path}: there is no such file")
        self._content: mmap.mmap | bytes | None = None
        self._is_table = not lower.endswith(FASTA)
        if not self._is_table:
            self._read_index()
        elif lower.endswith(TABLES + TEXT):
            self._read_table(sequence_column)
        else:
            raise InputError(f"{path}: expected a file that ends in one of {[*FASTA, *TABLES, *TEXT]}")
        self.number = {name: i for i, name in enumerate(self.names)}
        if not self.lengths.sum():
            raise InputError(f"{path}: the file holds no sequence")

    def _read_index(self) -> None:
        """Make the index if it is missing or older than the file, and read it."""
        index = Path(f"{self.path}.fai")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                if not index.is_file() or index.stat().st_mtime < os.path.getmtime(self.path):
                    # Under a name of its own first: processes that start together neither read nor write half of it.
                    temporary = index.with_name(f".{index.stem}.{os.getpid()}.unfinished.fai")
                    try:
                        Faidx(self.path, indexname=temporary).close()
                        os.replace(temporary, index)
                    finally:
                        temporary.unlink(missing_ok=True)
                faidx = Faidx(self.path, rebuild=False)
        except FastaIndexingError as error:
            raise InputError(f"{self.path}: {str(error).rstrip('.')}{self._line_hint()}") from error
        except PermissionError as error:
            raise InputError(
                f"{self.path} has no index, and {index.parent} cannot be written to: put {index.name} there, made by "
                f"`samtools faidx` or by reading a copy in another folder"
            ) from error
        except ImportError as error:
            raise InputError(f"{self.path} is packed, which needs biopython: pip install biopython") from error
        except (OSError, ValueError, UnicodeDecodeError) as error:
            raise InputError(
                f"{self.path} cannot be read as FASTA: {error}. Is it text, or packed by bgzip and not by gzip? If "
                f"{index.name} came from elsewhere, remove it"
            ) from error
        records = faidx.index
        faidx.close()
        self.names = list(records)
        self.lengths = np.array([r.rlen for r in records.values()], dtype=np.int64)
        self._offset = [r.offset for r in records.values()]
        self._line = [max(r.lenc, 1) for r in records.values()]  # bases in a line; 0 if there is no line
        self._break = [r.lenb - r.lenc for r in records.values()]  # bytes that end it
        behind = (0, "the header")
        for i, (name, length) in enumerate(zip(self.names, self.lengths.tolist(), strict=True)):
            # pyfaidx lets pass a last line that is longer than the others, and whatever an index says.
            last = self._place(i, length - 1) if length else 0
            end = self.content[last : last + 2]
            if length and (end[:1].isspace() or end[1:].strip() or not end):
                raise InputError(
                    f"{self.path}: {name!r} does not end where its index {index.name} says. Either the file was cut or "
                    f"changed (remove the index), or its lines differ in length, which they must not but for the last"
                )
            behind = max(behind, (last + 1, name)) if length else behind
        rest = self.content[behind[0] : behind[0] + 2**16].splitlines()
        if any(line.strip() and not line.startswith(b">") for line in rest):  # headers of empty sequences may follow
            raise InputError(
                f"{self.path} goes on behind {behind[1]!r}, the last sequence that its index {index.name} knows: "
                f"remove the index, then it is made again"
            )

    def _read_table(self, column: str) -> None:
        lower = self.path.lower()
        try:
            if lower.endswith(TEXT):
                with (gzip.open if lower.endswith(".gz") else open)(self.path, "rt", encoding="utf-8-sig") as file:
                    sequences = [line.strip() for line in file]
            else:
                if lower.endswith(".parquet"):
                    table = pd.read_parquet(self.path)
                else:
                    separator = "\t" if ".tsv" in lower else ","
                    table = pd.read_csv(self.path, sep=separator, keep_default_na=False, encoding="utf-8-sig")
                if column not in table:
                    raise InputError(f"{self.path}: there is no column {column!r}, only {list(table)}; sequence_column")
                sequences = table[column].tolist()
                if "split" in table:
                    self.parts = [_part_name(value, f"{self.path}: row {i}") for i, value in enumerate(table["split"])]
        except (OSError, UnicodeDecodeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{self.path} cannot be read: {error}") from error
        for i, sequence in enumerate(sequences):
            if isinstance(sequence, str):
                missing = not sequence and not lower.endswith(TEXT)
            else:
                missing = pd.api.types.is_scalar(sequence) and pd.isna(sequence)
            if missing:
                raise InputError(f"{self.path}: row {i} has no sequence; remove such rows")
            if not isinstance(sequence, str):
                raise InputError(f"{self.path}: the sequence of row {i} is {sequence!r}, not text")
        self._content = "".join(sequences).encode(errors="replace")
        self.names = [str(i) for i in range(len(sequences))]
        self.lengths = np.array([len(s.encode(errors="replace")) for s in sequences], dtype=np.int64)
        self._offset = np.concatenate([[0], self.lengths.cumsum()])[:-1].tolist()
        self._line, self._break = np.maximum(self.lengths, 1).tolist(), [0] * len(sequences)

    @property
    def content(self) -> mmap.mmap | bytes:
        if self._content is None:
            if self.path.lower().endswith("gz"):
                with gzip.open(self.path) as file:  # bgzip writes a series of gzip members
                    self._content = file.read()
            else:
                with open(self.path, "rb") as file:
                    self._content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._content

    def __getstate__(self) -> dict:  # for workers that are spawned: they open the file themselves
        return {**self.__dict__, "_content": self._content if self._is_table else None}

    def read(self, sequence: int, start: int, end: int) -> bytes:
        """Return the ids of these bases as bytes, one each, `SOFT_MASKED` added to those of lower-case letters."""
        first, last = self._place(sequence, start), self._place(sequence, end - 1)
        return self.content[first : last + 1].translate(ID_OF_BYTE, b"\r\n")

    def letters(self, sequence: int, start: int, end: int) -> str:
        """Return these bases as they are written."""
        if start >= end:
            return ""
        first, last = self._place(sequence, start), self._place(sequence, end - 1)
        return self.content[first : last + 1].translate(None, b"\r\n").decode(errors="replace")

    def _place(self, sequence: int, position: int) -> int:
        """Return at which byte of the file a base stands."""
        return self._offset[sequence] + position + position // self._line[sequence] * self._break[sequence]

    def check_letters(self, sequence: int, start: int, ids: bytes) -> None:
        """Raise `InputError` if among the ids that were read from `start` on there is one of no nucleotide."""
        at = ids.find(_UNK)
        if at < 0:
            return
        position = start + at
        byte = self._place(sequence, position)
        letter = bytes(self.content[byte : byte + 1]).decode(errors="replace")
        if self._is_table:
            place, hint = f"position {position} of row {self.names[sequence]}", ""
        else:
            line = self.content[:byte].count(b"\n") + 1
            place = f"line {line} (position {position} of {self.names[sequence]!r})"
            hint = self._line_hint() if letter == ";" else ""
        raise InputError(f"{self.path}: {letter!r} in {place} is no IUPAC letter for a nucleotide{hint}")

    def _line_hint(self) -> str:
        """Say where the first line is that an index cannot pass over: a comment or, with more behind it, a blank."""
        blank = 0
        with (gzip.open if self.path.lower().endswith("gz") else open)(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.startswith(b";") and number > 1:
                    return (
                        f". Line {number} is a comment (;), which is no sequence and which an index cannot pass over: "
                        f"remove such lines (grep -v '^;')"
                    )
                if blank and line.strip():
                    return f". Line {blank} is blank, which an index cannot pass over: remove such lines (grep '[^ ]')"
                blank = number if number > 1 and not line.strip() else 0
        return ""

    def find(self, name: str, where: str) -> int:
        """Return the number of a sequence, or raise `InputError` with the names that there are."""
        if name in self.number:
            return self.number[name]
        other = name.removeprefix("chr") if name.startswith("chr") else f"chr{name}"
        known = self.names if len(self.names) <= 20 else [*self.names[:20], "..."]
        hint = f"; did you mean {other!r}?" if other in self.number else ""
        raise InputError(f"{where}: there is no sequence {name!r} in {self.path}, which has {known}{hint}")


def open_genomes(paths: Sequence[str | Path], sequence_column: str = "sequence") -> list[SequenceFile]:
    """Open FASTA files (plain or bgzip), text (one sequence a line) or csv, tsv and parquet tables.

    Raises:
        InputError: A file cannot be used; the message names it, and the line where there is one.
    """
    if len(set(map(str, paths))) < len(paths):
        raise InputError(f"the same file was given twice: {list(map(str, paths))}; give it once, with a larger weight")
    return [SequenceFile(path, sequence_column) for path in paths]


# ------------------------------------------------------------------------------------------------ intervals


def _part_name(value, where: str) -> str:
    if str(value).lower() not in _PART_NAMES:
        raise InputError(f"{where} has the split {value!r}; expected one of {list(_PART_NAMES)}")
    return _PART_NAMES[str(value).lower()]


def _bed_lines(path: str | Path, genomes: list[SequenceFile]) -> tuple[list[tuple], list[str] | None]:
    """Return where each line of a BED file stands, its chromosome, start and end; and their parts, if it names them."""
    found, names = _bed_fields(path, genomes)
    if not any(fields[0].lower() in _PART_NAMES for fields in names):
        return found, None
    return found, [_part_name(fields[0].lower(), line[0]) for fields, line in zip(names, found, strict=True)]


def _bed_fields(path: str | Path, genomes: list[SequenceFile]) -> tuple[list[tuple], list[list[str]]]:
    """Return where each line of a BED file stands, its chromosome, start and end; and its fourth and fifth column."""
    found, names = [], []
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        word = next(iter(line.split()), "#")
        if word.startswith("#") or (word in ("track", "browser") and not any(word in g.number for g in genomes)):
            continue
        where, fields = f"{path}: line {number}", line.split("\t") if "\t" in line else line.split()
        fields = [value.strip() for value in fields]
        if len(fields) < 3 or not (fields[1].isdecimal() and fields[2].isdecimal()):
            raise InputError(f"{where} is {line[:60]!r}; expected chromosome, start and end, separated by tabs")
        found.append((where, fields[0], int(fields[1]), int(fields[2])))
        names.append([*fields[3:5], "", ""][:2])
    if not found:
        raise InputError(f"{path}: there is no interval")
    return found, names


def read_bed(path: str | Path, genomes: list[SequenceFile], file: int) -> tuple[np.ndarray, list[str] | None]:
    """Read intervals of one file from BED: chromosome, start, end, and as the fourth column maybe a split.

    Returns:
        Windows `(intervals, 4)`, and the part of each if the fourth column of every line names one (`train`, `valid`,
        `val`, `validation`, `dev`, `test`: the layout of Basenji and Enformer), else None.
    """
    lines, parts = _bed_lines(path, [genomes[file]])
    rows = [(file, genomes[file].find(name, where), start, end) for where, name, start, end in lines]
    for (_, sequence, start, end), (where, *_) in zip(rows, lines, strict=True):
        check_interval(genomes[file], sequence, start, end, where)
    return np.array(rows, dtype=np.int64), parts


def class_weights(
    windows: np.ndarray, bed: Sequence[str | Path], genomes: list[SequenceFile], weights: dict[str, float]
) -> np.ndarray:
    """Return the weight of each window by the classes of the BED intervals that it overlaps, float64 `(windows,)`.

    The class is the fourth column of the BED file, or the fifth where the fourth names parts. Of several classes the
    largest weight counts: a window of 1,024 bases around an exon of 150 is an exon, whatever surrounds it.

    Args:
        windows: `(n, 4)`.
        bed: One BED file for each genome.
        genomes: From `open_genomes`.
        weights: Of the classes; a class without one has the weight 1.

    Raises:
        InputError: No interval has one of the classes.
    """
    intervals = {}
    for file, path in enumerate(bed):
        lines, names = _bed_fields(path, [genomes[file]])
        column = int(any(fields[0].lower() in _PART_NAMES for fields in names))
        for (where, name, start, end), fields in zip(lines, names, strict=True):
            row = (file, genomes[file].find(name, where), start, end)
            intervals.setdefault(fields[column], []).append(row)

    unknown = [name for name in weights if name not in intervals]
    if unknown:
        known = sorted(filter(None, intervals))
        known = [*known[:20], "..."] if len(known) > 20 else known
        raise InputError(
            f"class_weights: no interval of {list(map(str, bed))} is of the class {unknown[0]!r}; the classes are "
            f"{known or 'missing: the fourth column names them, or the fifth if the fourth names parts'}"
        )

    result = np.full(len(windows), -np.inf)
    for name, rows in intervals.items():
        of_class = overlapping(windows, np.array(rows, dtype=np.int64))
        result[of_class] = np.maximum(result[of_class], weights.get(name, 1.0))
    result[np.isinf(result)] = 1.0  # splits of a table, or a window that lies beside its interval
    return result


def check_interval(genome: SequenceFile, sequence: int, start: int, end: int, where: str) -> None:
    """Raise `InputError` if an interval is empty or leaves its sequence; `where` says who asked for it."""
    name, length = genome.names[sequence], genome.lengths[sequence]
    if start < 0 or end <= start:
        raise InputError(f"{where}: the end of {name}:{start}-{end} has to be above its start")
    if end > length:
        raise InputError(f"{where}: {name}:{start}-{end} ends outside of {name}, which has {length} bases")


def whole_numbers(table: pd.DataFrame, column: str, path: str | Path) -> np.ndarray:
    """Return a column of coordinates as int64 `(rows,)`; raise `InputError` if one is missing or no whole number."""
    numbers = pd.to_numeric(table[column], errors="coerce")
    wrong = np.flatnonzero(~(numbers % 1 == 0))
    if len(wrong):
        value = table[column].tolist()[wrong[0]]
        raise InputError(f"{path}: row {wrong[0]}: {column} is {value!r}, not a whole number")
    return numbers.to_numpy(np.int64)


def read_regions(specs: Sequence[str], genomes: list[SequenceFile], setting: str) -> np.ndarray:
    """Turn `chr8`, `chr20:0-5,000,000` (0-based, half-open) or `regions.bed` into windows `(regions, 4)`.

    A chromosome that several files have is meant in each of them; `mouse.fa:chr8`, with the file as it was given, in
    this one alone. Of a BED file whose fourth column names parts, the lines of the part called `setting` are taken.
    """
    rows = []

    def limited(spec: str) -> tuple[list[int], str]:
        own = [i for i, genome in enumerate(genomes) if spec.startswith(f"{genome.path}:")]
        return own or list(range(len(genomes))), spec[len(genomes[own[0]].path) + 1 :] if own else spec

    def add(files: list[int], name: str, start: int, end: int | None, where: str) -> None:
        known = [i for i in files if name in genomes[i].number]
        if not known and len(files) > 1:
            where += f": none of the {len(files)} files has it"
        for file in known or files:
            sequence = genomes[file].find(name, where)
            stop = int(genomes[file].lengths[sequence]) if end is None else end
            check_interval(genomes[file], sequence, start, stop, where)
            rows.append((file, sequence, start, stop))

    for spec in specs:
        files, name = limited(spec)
        match = re.fullmatch(r"(.+):([\d,]+)-([\d,]+)", name)
        if name.endswith(".bed"):
            lines, parts = _bed_lines(name, [genomes[i] for i in files])
            if parts and setting in PARTS:
                lines = [line for line, part in zip(lines, parts, strict=True) if part == setting]
                if not lines:
                    raise InputError(f"{setting} {spec!r}: the fourth column names parts, but none is {setting}")
            for where, name, start, end in lines:
                add(files, name, start, end, where)
        elif match and not any(name in genomes[i].number for i in files):  # a name may hold a colon itself
            start, end = (int(match[i].replace(",", "")) for i in (2, 3))
            add(files, match[1], start, end, f"{setting} {spec!r}")
        else:
            add(files, name, 0, None, f"{setting} {spec!r}")
    return np.array(rows, dtype=np.int64).reshape(-1, 4)


def tile(regions: np.ndarray, window: int) -> np.ndarray:
    """Cut regions `(regions, 4)` into windows of `window` bases, one after the other; the last of each is shorter."""
    counts = -(-(regions[:, 3] - regions[:, 2]) // window)
    which = np.repeat(np.arange(len(regions)), counts)
    number = np.arange(len(which)) - np.repeat(counts.cumsum() - counts, counts)
    windows = regions[which]
    windows[:, 2] += number * window
    windows[:, 3] = np.minimum(windows[:, 2] + window, windows[:, 3])
    return windows


def centre(intervals: np.ndarray, window: int, genomes: list[SequenceFile]) -> np.ndarray:
    """Widen or cut intervals `(intervals, 4)` around their centres to `window` bases, clipped at the chromosome ends.

    As in pretraining of the paper. What is clipped is made up for by padding on the right.
    """
    windows = intervals.copy()
    windows[:, 2] = (intervals[:, 2] + intervals[:, 3]) // 2 - window // 2
    sizes = np.array([genomes[file].lengths[sequence] for file, sequence in intervals[:, :2]], dtype=np.int64)
    windows[:, 3] = np.minimum(windows[:, 2] + window, sizes)
    windows[:, 2] = np.maximum(windows[:, 2], 0)
    return windows


def _sorted(windows: np.ndarray) -> np.ndarray:
    return windows[np.lexsort(windows.T[::-1])]


def _on_one_axis(*groups: np.ndarray) -> list[np.ndarray]:
    """Return starts and ends `(n, 2)` of windows as if all sequences stood one behind the other."""
    keys = [(group[:, 0] << 32) + group[:, 1] for group in groups]
    known = np.unique(np.concatenate(keys))
    place = 2**36  # longer than any chromosome
    return [g[:, 2:] + place * np.searchsorted(known, k)[:, None] for g, k in zip(groups, keys, strict=True)]


def merge(windows: np.ndarray) -> np.ndarray:
    """Return windows `(n, 4)` in order, those that overlap as one; those that only touch stay apart."""
    windows = _sorted(windows)
    (axis,) = _on_one_axis(windows)
    new = axis[1:, 0] >= np.maximum.accumulate(axis[:, 1])[:-1]
    first = np.concatenate([[0], np.flatnonzero(new) + 1])[: len(windows)]
    merged = windows[first]
    if len(first):
        merged[:, 3] = np.maximum.reduceat(windows[:, 3], first)
    return merged


def subtract(regions: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return what of `regions` no window of `others` covers. Both `(n, 4)`; they may overlap among themselves."""
    others = merge(others)
    own, taken = _on_one_axis(regions, others)
    first = np.searchsorted(taken[:, 1], own[:, 0], side="right")  # of those that a region overlaps
    pieces = np.searchsorted(taken[:, 0], own[:, 1]) - first + 1  # what lies between them, and at both ends
    which = np.repeat(np.arange(len(regions)), pieces)
    number = np.arange(len(which)) - np.repeat(pieces.cumsum() - pieces, pieces)
    left, right = number > 0, number < pieces[which] - 1  # whether one of `others` stands there
    other, result = first[which] + number, regions[which]
    result[left, 2] = others[other[left] - 1, 3]
    result[right, 3] = others[other[right], 2]
    return result[result[:, 2] < result[:, 3]]


def overlapping(windows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return for each of `windows` whether it shares a base with one of `others`: bool `(windows,)`."""
    own, other = _on_one_axis(windows, merge(others))
    before = np.searchsorted(other[:, 0], own[:, 1]) - 1  # the last one that begins in front of the end
    return (before >= 0) & (np.append(other[:, 1], 0)[before] > own[:, 0])


# ------------------------------------------------------------------------------------------------ parts


def split_windows(
    genomes: list[SequenceFile],
    window: int,
    *,
    bed: Sequence[str | Path] = (),
    bed_windows: str = "centre",
    validation: Sequence[str] = (),
    test: Sequence[str] = (),
    validation_fraction: float = 0.05,
    ignore_soft_masked: bool = False,
) -> dict[str, np.ndarray]:
    """Cut genomes into windows of at most `window` bases, in parts that share no base.

    Args:
        genomes: From `open_genomes`.
        window: Longest window in bases, `[SEP]` not counted.
        bed: No file: every chromosome whole. Else one BED file for each genome.
        bed_windows: `"centre"`: a window around the centre of each interval, as published; `"tile"`: each interval cut
            into windows, of overlapping ones each base once.
        validation: Chromosomes, regions or BED files that are held out; see `read_regions`.
        test: Likewise. Splits of the data that do not name the part may stand beside it.
        validation_fraction: Where nothing is held out for validation, the last training bases of each file, so many.
        ignore_soft_masked: Whether lower-case letters are no targets.

    Returns:
        Windows `(n, 4)` of `train`, `validation` and, if there is one, `test`, in the order of the files. Windows
        without any A, C, G or T that may be a target are left out. Held-out regions are always tiled.

    Raises:
        InputError: Intervals that do not fit the genomes, an empty part, parts that overlap.
    """
    if window < 1:
        raise InputError(f"window is {window}; it must be at least 1")
    if bed_windows not in ("centre", "tile"):
        raise InputError(f"bed_windows is {bed_windows!r}; use 'centre' or 'tile'")
    if bed and len(bed) != len(genomes):
        raise InputError(f"{len(bed)} BED files for {len(genomes)} data files; give one for each, in the same order")
    whole = [(file, i, 0, size) for file, genome in enumerate(genomes) for i, size in enumerate(genome.lengths) if size]
    whole = np.array(whole, dtype=np.int64)
    held_out = {"validation": validation, "test": test}
    held_out = {part: read_regions(specs, genomes, part) for part, specs in held_out.items()}
    parts = {part: [] for part in PARTS}
    for file, genome in enumerate(genomes):
        own = whole[whole[:, 0] == file]
        names = genome.parts and [genome.parts[i] for i in own[:, 1]]
        if bed:
            own, names = read_bed(bed[file], genomes, file)
        for part in PARTS if names else ("train",):
            chosen = own[[name == part for name in names]] if names else own
            if len(chosen) and len(held_out.get(part, ())):
                raise InputError(f"{bed[file] if bed else genome.path} has splits that name {part}; leave out {part}")
            if bed:
                chosen = centre(chosen, window, genomes) if bed_windows == "centre" else tile(merge(chosen), window)
            parts[part].append(chosen)
    parts = {part: np.concatenate([np.zeros((0, 4), dtype=np.int64), *chosen]) for part, chosen in parts.items()}

    by_fraction = not len(parts["validation"]) and not len(held_out["validation"])
    if by_fraction:
        if not 0 < validation_fraction < 1:
            raise InputError(f"validation_fraction is {validation_fraction}; it must lie between 0 and 1")
        rest = subtract(merge(parts["train"]), np.concatenate([held_out["test"], parts["test"]]))
        held_out["validation"] = last_bases(rest, validation_fraction)
    clash = overlapping(held_out["validation"], held_out["test"])
    if clash.any():
        file, sequence, start, end = held_out["validation"][clash][0]
        name = genomes[file].names[sequence]
        raise InputError(f"validation and test overlap: {name}:{start}-{end} of validation shares bases with test")
    listed = np.concatenate(list(held_out.values()))

    if bed:
        leaked = overlapping(parts["train"], listed)
        train = parts["train"][~leaked]
        if leaked.any():
            print(f"{leaked.sum():,} of {len(leaked):,} BED windows overlap held-out regions and are left out")
    else:
        train = subtract(parts["train"], listed)
    result = {"train": tile(train, window)}
    result |= {p: tile(np.concatenate([parts[p], merge(regions)]), window) for p, regions in held_out.items()}
    wanted = {"train", "validation", "test"} if len(test) or len(parts["test"]) else {"train", "validation"}
    for part in PARTS:
        windows = _sorted(result[part])
        targets = count_bases(genomes, windows, ignore_soft_masked)
        result[part] = windows[targets > 0]
        if targets.max(initial=0) < 2:  # perhaps only first bases, which nothing predicts
            targets = count_bases(genomes, windows + np.array([0, 0, 1, 0]), ignore_soft_masked)
        if part in wanted and not targets.any():
            letters = "upper-case A, C, G or T (soft_masked is 'ignore')" if ignore_soft_masked else "A, C, G or T"
            raise InputError(
                f"the {part} part is empty: no window of it has an {letters} behind its first base"
                + (
                    f". It is the last {validation_fraction:.3g} of the training bases of each file: name regions by "
                    f"validation, or take a larger validation_fraction"
                    if by_fraction and part == "validation"
                    else ""
                )
            )
    for i, part in enumerate(PARTS):
        for other in PARTS[i + 1 :]:
            leaked = overlapping(result[part], result[other])
            if leaked.any():
                file, sequence, start, end = result[part][leaked][0]
                raise InputError(
                    f"{leaked.sum():,} {part} windows share bases with {other} windows, the first is "
                    f"{genomes[file].names[sequence]}:{start}-{end} of {genomes[file].path}. Intervals of BED "
                    f"files are widened to {window} bases: use a shorter window, or intervals further apart"
                )
    if not len(result["test"]):
        del result["test"]
    return result


def last_bases(regions: np.ndarray, fraction: float) -> np.ndarray:
    """Return the last `fraction` of the bases of each file."""
    chosen = []
    for file in np.unique(regions[:, 0]):
        own = _sorted(regions[regions[:, 0] == file])
        left = round(fraction * (own[:, 3] - own[:, 2]).sum())
        for row in own[::-1].tolist():
            take = min(left, row[3] - row[2])
            if take:
                chosen.append((row[0], row[1], row[3] - take, row[3]))
            left -= take
    return np.array(chosen, dtype=np.int64).reshape(-1, 4)


def count_bases(genomes: list[SequenceFile], windows: np.ndarray, upper_case: bool = False) -> np.ndarray:
    """Return how many A, C, G and T each window has, int64 `(windows,)`, and check the letters of all of them.

    Args:
        genomes: From `open_genomes`.
        windows: `(n, 4)`.
        upper_case: Count upper-case letters only.
    """
    known, number = np.unique((windows[:, 0] << 32) + windows[:, 1], return_inverse=True)
    first, last = np.full(len(known), np.iinfo(np.int64).max), np.zeros(len(known), dtype=np.int64)
    np.minimum.at(first, number, windows[:, 2])
    np.maximum.at(last, number, windows[:, 3])
    # The spans that hold windows, one behind the other, are read once, in groups of about `_ONCE` bases.
    shift = (last - first).cumsum() - last
    places, inverse = np.unique(windows[:, 2:] + shift[number, None], return_inverse=True)
    before, total, begin = np.zeros(len(places), dtype=np.int64), 0, 0  # bases in front of each start and end
    pieces = tile(np.stack([known >> 32, known & (2**32 - 1), first, last], axis=1), _ONCE)
    sizes = pieces[:, 3] - pieces[:, 2]
    group = (sizes.cumsum() - sizes) // _ONCE
    for rows in np.split(pieces, np.flatnonzero(np.diff(group)) + 1):
        read = []
        for file, sequence, start, end in rows.tolist():
            read.append(genomes[file].read(sequence, start, end))
            genomes[file].check_letters(sequence, start, read[-1])
        letters = np.frombuffer(b"".join(read), np.uint8)
        letters = letters if upper_case else letters % SOFT_MASKED
        sums = np.concatenate([[0], np.cumsum((letters >= FIRST_BASE) & (letters <= LAST_BASE))])
        here = slice(*np.searchsorted(places, [begin, begin + len(letters) + 1]))
        before[here] = total + sums[places[here] - begin]
        begin, total = begin + len(letters), total + int(sums[-1])
    inverse = inverse.reshape(-1, 2)
    return before[inverse[:, 1]] - before[inverse[:, 0]]
