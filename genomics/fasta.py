"""Random access to sequences in FASTA, tables and text files.

    from hyenadna.genomics.fasta import open_genomes
    (genome,) = open_genomes(["hg38.fa.gz"])
    genome.letters(genome.find("chr20", "example"), 1_000_000, 1_000_060)    # 60 bases, case kept

Coordinates are 0-based and half-open, as in BED. How a file is read depends on its kind:

- Plain FASTA is memory-mapped, so workers and processes share one copy. Its `.fai` index says where
  to look; `pyfaidx` writes one if it is missing.
- bgzip is read in place, block by block.
- Plain gzip has no blocks to jump to. Each process unpacks the whole file into its memory.
- Tables and text are read into memory.
"""

import glob
import gzip
import mmap
import os
import platform
import warnings
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from Bio.SeqIO.FastaIO import SimpleFastaParser
from pyfaidx import Faidx, FastaIndexingError

from hyenadna.errors import InputError, one_line
from hyenadna.errors import reading as turning_errors

from .bgzip import BgzipFile
from .files import (
    FASTA,
    TABLES,
    TEXT,
    has_suffix,
    is_bgzip,
    is_compressed,
    open_text,
    part_name,
    read_lines,
    read_table,
    reading,
    text_lines,
)
from .letters import DNA, UNK, Alphabet, bytes_to_ids, in_all

__all__ = ["SequenceFile", "fasta_records", "open_genomes", "read_fasta", "spellings"]

_PIECE = 2**24  # bytes to read at a time when going through a whole file


# -------------------------------------------------------------------------------------------- names


def spellings(name: str) -> list[str]:
    """Return the names that a chromosome has in different files, the given one first.

    All of the library follows this one rule: `chr20` and `20` are the same chromosome, and so are
    `chrM`, `M` and `MT`.

    >>> spellings("chr20")
    ['chr20', '20']
    >>> spellings("MT")
    ['MT', 'chrMT', 'M', 'chrM']
    """
    plain = name.removeprefix("chr")
    names = [name, plain, f"chr{plain}"]
    if plain in ("M", "MT"):
        names += ["MT", "M", "chrM", "chrMT"]
    return [other for other in dict.fromkeys(names) if other]


def _remove_litter(index: Path) -> None:
    """Remove the half-written indexes that killed processes of this machine left."""
    beginning = f".{index.stem}.{platform.node()}-"
    for path in index.parent.glob(f"{glob.escape(beginning)}*.unfinished.*"):
        number = path.name.removeprefix(beginning).partition(".")[0]
        if not number.isdecimal():
            continue
        try:
            # Signal 0 sends nothing, but shows whether the process is alive.
            os.kill(int(number), 0)
        except ProcessLookupError:
            with suppress(OSError):
                path.unlink()
        except OSError:
            continue  # alive, but another user's


def _check_unique(names: list[str]) -> None:
    if len(set(names)) < len(names):
        repeated = next(name for name, count in Counter(names).items() if count > 1)
        raise ValueError(f"Duplicate key {repeated!r}: sequences need different names")


# -------------------------------------------------------------------------------------- whole files


def fasta_records(path: str | Path) -> Iterator[tuple[str, str]]:
    """Yield `(header without ">", sequence)` of each record of a FASTA file: plain, gzip or bgzip.

    This reads from start to end: lines may differ in length and no index is written. For random
    access use `SequenceFile`.

    Raises:
        InputError: The file cannot be read, is truncated, or does not start with a header.

    >>> sum(len(sequence) for _, sequence in fasta_records("x.fa"))         # doctest: +SKIP
    16
    """
    with reading(path), open_text(path) as file:
        yield from SimpleFastaParser(_after_header(text_lines(file), path))


def _after_header(lines: Iterable[str], path: str | Path) -> Iterator[str]:
    """Yield the lines of a FASTA file, and refuse what Biopython's parser would let pass."""
    headers = False
    for number, line in enumerate(lines, 1):
        headers = headers or line.startswith(">")
        # The parser skips everything before the first header, and so a file that is not FASTA.
        if not headers and line.strip():
            raise InputError(f"{path} is not FASTA: line {number} comes before the first header ('>...')")
        # To the parser, a file whose lines end with \r alone (old Mac) is one long header.
        if "\r" in line.rstrip("\r\n"):
            raise InputError(
                f"{path}: line {number} has a carriage return in its middle; end lines by \\n or \\r\\n"
            )
        yield line


def read_fasta(path: str | Path) -> list[tuple[str, str]]:
    """Return `(header without ">", sequence)` of every record of a FASTA file; see `fasta_records`.

    >>> read_fasta("promoters.fa")                                          # doctest: +SKIP
    [('p0 label=TATA', 'ACGTTATAAA'), ('p1 label=none', 'GGCATG')]
    """
    return list(fasta_records(path))


# ------------------------------------------------------------------------------------ random access


class _IndexWriter(Faidx):
    """pyfaidx, which writes a `.fai` when it opens a file."""

    def read_fai(self) -> None:
        """Leave what was written on disk: in memory it would take a kilobyte for each sequence."""


def _numbers(column: np.ndarray) -> array:
    """Return an int64 column as an `array`: as small, and quicker to take single numbers from."""
    return array("q", column.astype(np.int64).tobytes())


class SequenceFile:
    """The sequences of one file, read by position. Line breaks do not count.

    Args:
        path: FASTA (plain, bgzip or gzip), text with one sequence per line, or a csv, tsv or
            parquet table.
        sequence_column: The column of a table that holds the sequences.
        alphabet: Which letters the sequences have.

    Attributes:
        path: The file.
        names: The names of the sequences. In a table or text, the row or line numbers, from 0.
        lengths: Their lengths in bases (other alphabets: in tokens), int64 `(sequences,)`.
        number: Maps a name to the number of its sequence.
        parts: The part of each sequence (`train`, `validation`, `test`) if a table has a column
            `split`, else None.

    Raises:
        InputError: The file cannot be used. The message names the file and, if possible, the line.

    >>> genome = SequenceFile("g.fa")                                       # doctest: +SKIP
    >>> genome.letters(0, 2, 6)                                             # doctest: +SKIP
    'GTTA'
    """

    names: list[str]
    lengths: npt.NDArray[np.int64]
    # Where a sequence begins, and how long its lines and their ends are, in bytes: see `_place`.
    _offset: Sequence[int]
    _line: Sequence[int]
    _break: Sequence[int]

    def __init__(self, path: str | Path, sequence_column: str = "sequence", alphabet: Alphabet = DNA):
        self.path = str(path)
        self.alphabet = alphabet
        self._ids = bytes_to_ids(alphabet)
        self.parts: list[str] | None = None
        self._content: mmap.mmap | BgzipFile | bytes | None = None
        self._in_memory = True
        if not Path(path).is_file():
            raise InputError(f"{path}: there is no such file")

        with reading(path):
            self._open(sequence_column)
        # A file without a single base is surely not what the user meant.
        if not self.lengths.sum():
            raise InputError(f"{path}: the file holds no sequence")

    @cached_property
    def number(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names)}

    def _open(self, sequence_column: str) -> None:
        if has_suffix(self.path, TABLES):
            self._read_table(sequence_column)
        elif has_suffix(self.path, TEXT):
            self._hold(line.strip() for line in read_lines(self.path))
        elif not has_suffix(self.path, FASTA):
            raise InputError(f"{self.path}: expected a file that ends in one of {[*FASTA, *TABLES, *TEXT]}")
        elif self.alphabet.long_letters:
            self._unpack()  # the characters of a token may lie on two lines
        elif is_compressed(self.path) and not (is_bgzip(self.path) and self.path.lower().endswith("gz")):
            self._unpack()
            self._warn_of_gzip()
        else:
            self._in_memory = False
            self._open_by_index()

    # ------------------------------------------------------------------------------------ in memory

    def _hold(self, sequences: Iterable[str], names: list[str] | None = None) -> None:
        """Keep the sequences in memory, end to end. Without `names` they are named by number."""
        content = bytearray()
        lengths = []
        for sequence in sequences:
            letters = self.alphabet.pack(sequence)
            content += letters
            lengths.append(len(letters))
        self._content = bytes(content)
        self.names = [str(i) for i in range(len(lengths))] if names is None else names
        self.lengths = np.array(lengths, dtype=np.int64)
        # The same three columns as those of a `.fai` index, so that `_place` serves both: each
        # sequence is one line, and no bytes separate the lines.
        self._offset = _numbers(self.lengths.cumsum() - self.lengths)
        self._line = _numbers(np.maximum(self.lengths, 1))
        self._break = _numbers(np.zeros_like(self.lengths))

    def _read_table(self, column: str) -> None:
        table = read_table(self.path, (column, "split"))
        if column not in table:
            raise InputError(
                f"{self.path}: there is no column {column!r}, only {list(table)}; sequence_column"
            )
        sequences = table[column].tolist()
        for row, sequence in enumerate(sequences):
            is_missing = pd.api.types.is_scalar(sequence) and pd.isna(sequence)
            if is_missing or (isinstance(sequence, str) and not sequence):
                raise InputError(f"{self.path}: row {row} has no sequence; remove such rows")
            if not isinstance(sequence, str):
                raise InputError(f"{self.path}: the sequence of row {row} is {sequence!r}, not text")
        if "split" in table:
            self.parts = [
                part_name(value, f"{self.path}: row {row}") for row, value in enumerate(table["split"])
            ]
        self._hold(sequences)

    def _unpack(self) -> None:
        """Read a whole FASTA file, such as one packed by plain gzip: a stream without entries."""
        names: list[str] = []

        # A generator, so that only one unpacked sequence exists beside the growing content.
        def sequences() -> Iterator[str]:
            for header, sequence in fasta_records(self.path):
                names.append((header.split() or [""])[0])
                yield sequence

        self._hold(sequences(), names)
        with reading(self.path, "FASTA"):
            _check_unique(names)

    def _warn_of_gzip(self) -> None:
        warnings.warn(
            f"{self.path} is packed by gzip, not bgzip: each process unpacks it into memory, "
            f"{self.lengths.sum():,} bytes. `gunzip -c FILE | bgzip > OTHER.fa.gz` makes a file that is "
            "read in place",
            stacklevel=2,
        )

    # ------------------------------------------------------------------------------------- by index

    def _open_by_index(self) -> None:
        """Read the `.fai` index and check it against the file. Write a new one if it is too old."""
        index = Path(f"{self.path}.fai")
        if self.path.lower().endswith("gz") and not is_compressed(self.path):
            raise InputError(
                f"{self.path} cannot be read as FASTA: by its name it is packed by bgzip, but it is not"
            )
        if not index.is_file() or index.stat().st_mtime < os.path.getmtime(self.path):
            self._write_index(index)
        with self._reading(index):
            self._read_index(index)
            self._compare_with_index(index)

    def _reading(self, index: Path) -> AbstractContextManager[None]:
        hint = f". Is it text, or packed by bgzip, and whole? If {index.name} came from elsewhere, remove it"
        return turning_errors(f"{self.path} cannot be read as FASTA", hint)

    def _write_index(self, index: Path) -> None:
        # Written under a temporary name and renamed: several processes may start at once, and none
        # must read an index that another has half written.
        temporary = index.with_name(f".{index.stem}.{platform.node()}-{os.getpid()}.unfinished.fai")
        _remove_litter(index)
        # For a bgzip file pyfaidx also writes a `.gzi`, which we do not need.
        blocks = temporary.with_suffix(".gzi")
        try:
            temporary.touch()
            temporary.unlink()
            with self._reading(index), warnings.catch_warnings():
                # When pyfaidx refuses the file, it leaves it open.
                warnings.simplefilter("ignore", ResourceWarning)
                self._index_into(temporary, blocks)
            os.replace(temporary, index)
        except OSError as error:
            raise self._not_writable(index, error) from error
        finally:
            temporary.unlink(missing_ok=True)
            blocks.unlink(missing_ok=True)

    def _index_into(self, path: Path, blocks: Path) -> None:
        try:
            _IndexWriter(self.path, indexname=path, gzi_indexname=blocks).close()
        except FastaIndexingError as error:
            raise InputError(f"{self.path}: {str(error).rstrip('.')}{self._line_hint()}") from error
        except OSError as error:
            # pyfaidx says "not writable" after any error, even for a damaged block of the file.
            cause = error.__context__
            if isinstance(cause, OSError) and cause.errno is not None:
                raise self._not_writable(path, cause) from cause
            raise (cause or error) from None

    def _not_writable(self, index: Path, error: OSError) -> InputError:
        return InputError(
            f"{self.path} has no index, and {index.parent} cannot be written to: {one_line(error)}. Put "
            f"{Path(self.path).name}.fai there, made by `samtools faidx` or by reading a copy elsewhere"
        )

    def _read_index(self, index: Path) -> None:
        """Read a `.fai`, one line per sequence.

        Its columns: name, length in bases, offset of the first base in bytes, bases per line, and
        bytes per line (with the line break).
        """
        # A line at a time, into arrays of bare numbers: a file may hold millions of reads.
        self.names = []
        numbers = array("q")
        for line in read_lines(index):
            record = line.split("\t")
            if len(record) < 5:
                raise ValueError(f"{index.name} has a line that is none of a FASTA index")
            self.names.append(record[0])
            numbers.extend(map(int, record[1:5]))
        _check_unique(self.names)
        columns = np.array(numbers, dtype=np.int64).reshape(-1, 4)
        self.lengths = np.ascontiguousarray(columns[:, 0])
        self._offset = _numbers(columns[:, 1])
        # An empty sequence has 0 bases per line, and `_place` divides by them.
        self._line = _numbers(np.maximum(columns[:, 2], 1))
        self._break = _numbers(columns[:, 3] - columns[:, 2])  # 1 for \n, 2 for \r\n

    def _compare_with_index(self, index: Path) -> None:
        """Check that each sequence ends where the index says, and that no sequence is missing.

        pyfaidx does neither: it believes any index, and it accepts a last line that is longer than
        the others, after which every position would be wrong.
        """
        end = 0
        last_name = "the header"
        for i, length in enumerate(self.lengths.tolist()):
            if not length:
                continue
            # The byte of the last base must be a letter; after it comes a line break or nothing.
            place = self._place(i, length - 1)
            around = self.content[place : place + 2]
            if around[:1].isspace() or around[1:].strip() or not around:
                raise InputError(
                    f"{self.path}: {self.names[i]!r} does not end where its index {index.name} says. "
                    "Either the file was cut or changed (remove the index), or its lines differ in "
                    "length: only the last line of a sequence may be shorter"
                )
            if place + 1 > end:
                end = place + 1
                last_name = self.names[i]
        # Only headers of empty sequences may follow the last base.
        rest = self.content[end : end + 2**16].splitlines()
        if any(line.strip() and not line.startswith(b">") for line in rest):
            raise InputError(
                f"{self.path} goes on after {last_name!r}, the last sequence that its index "
                f"{index.name} knows: remove the index and a new one is made"
            )

    # -------------------------------------------------------------------------------------- reading

    @property
    def content(self) -> mmap.mmap | BgzipFile | bytes:
        """The unpacked bytes of the file. Of a table, text or gzipped file: the bases alone."""
        if self._content is None:
            if is_compressed(self.path):
                self._content = BgzipFile(self.path)
            else:
                with open(self.path, "rb") as file:
                    self._content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._content

    def pieces(self) -> Iterator[bytes]:
        """Yield the content in pieces of 16 MiB, for a checksum."""
        for start in range(0, len(self.content), _PIECE):
            yield self.content[start : start + _PIECE]

    def __getstate__(self) -> dict:
        # A memory map cannot be pickled: spawned workers open the file themselves.
        return {**self.__dict__, "_content": self._content if self._in_memory else None}

    def _place(self, sequence: int, position: int) -> int:
        """Return the byte of the content that holds a base: count the line breaks before it."""
        return self._offset[sequence] + position + position // self._line[sequence] * self._break[sequence]

    def read(self, sequence: int, start: int, end: int) -> bytes:
        """Return the ids of the bases [start, end), one byte each; see `letters.py`."""
        first = self._place(sequence, start)
        last = self._place(sequence, end - 1)
        # One pass in C: `translate` drops the line breaks and maps the letters to ids.
        return self.content[first : last + 1].translate(self._ids, b"\r\n")

    def letters(self, sequence: int, start: int, end: int) -> str:
        """Return the bases [start, end) as the file has them, upper or lower case."""
        if start >= end:
            return ""
        first = self._place(sequence, start)
        last = self._place(sequence, end - 1)
        return self.alphabet.unpack(self.content[first : last + 1].translate(None, b"\r\n"))

    def check_letters(self, sequence: int, start: int, ids: bytes) -> None:
        """Raise `InputError` if one of the ids that `read` returned stands for no letter.

        Args:
            sequence: The number of the sequence.
            start: The position that the ids were read from, for the message.
            ids: From `read`.
        """
        at = ids.find(UNK)
        if at < 0:
            return
        position = start + at
        byte = self._place(sequence, position)
        letter = self.content[byte : byte + 1].decode(errors="replace")
        name = self.names[sequence]
        if self._in_memory:
            what = f"{name!r}" if has_suffix(self.path, FASTA) else f"row {name}"
            raise InputError(
                f"{self.path}: {letter!r} in position {position} of {what} is no {self.alphabet.meaning}"
                f"{in_all(ids)}"
            )
        hint = self._line_hint() if letter == ";" else ""
        raise InputError(
            f"{self.path}: {letter!r} in line {self._line_of(byte)} (position {position} of {name!r}) "
            f"is no {self.alphabet.meaning}{in_all(ids)}{hint}"
        )

    def _line_of(self, byte: int) -> int:
        """Return the line number of a byte of the content, from 1."""
        line = 1
        for start in range(0, byte, _PIECE):
            line += self.content[start : min(start + _PIECE, byte)].count(b"\n")
        return line

    def _line_hint(self) -> str:
        """Say where the first line is that an index cannot skip.

        That is a comment, or a blank line that more lines follow.
        """
        blank = 0
        with (gzip.open if is_compressed(self.path) else open)(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.startswith(b";") and number > 1:
                    return (
                        f". Line {number} is a comment (;), which an index cannot pass over: "
                        "remove such lines (grep -v '^;')"
                    )
                if blank and line.strip():
                    return (
                        f". Line {blank} is blank, which an index cannot pass over: "
                        "remove such lines (grep '[^ ]')"
                    )
                blank = number if number > 1 and not line.strip() else 0
        return ""

    # ---------------------------------------------------------------------------------------- names

    def number_of(self, name: str) -> int | None:
        """Return the number of a chromosome under any of its `spellings`, or None."""
        known = (self.number[other] for other in spellings(name) if other in self.number)
        return next(known, None)

    def find(self, name: str, where: str) -> int:
        """Return the number of a chromosome, under any of its `spellings`.

        Args:
            name: `chr20` or `20`, for instance.
            where: Who asks for it, for the message.

        Raises:
            InputError: The file has no such chromosome. The message lists those that it has.
        """
        number = self.number_of(name)
        if number is None:
            known = self.names if len(self.names) <= 20 else [*self.names[:20], "..."]
            raise InputError(f"{where}: there is no sequence {name!r} in {self.path}, which has {known}")
        return number


def open_genomes(
    paths: Sequence[str | Path], sequence_column: str = "sequence", alphabet: Alphabet = DNA
) -> list[SequenceFile]:
    """Open files of sequences: FASTA, text (one sequence per line), csv, tsv or parquet.

    Their order matters: `Intervals.file` is a position in this list.

    Raises:
        InputError: A file cannot be used, or is given twice.

    >>> human, mouse = open_genomes(["hg38.fa.gz", "mm39.fa"])              # doctest: +SKIP
    """
    # Twice the same file would put its windows into the training part twice.
    if len(set(map(str, paths))) < len(paths):
        raise InputError(
            f"the same file was given twice: {list(map(str, paths))}; give it once, with a larger weight"
        )
    return [SequenceFile(path, sequence_column, alphabet) for path in paths]
