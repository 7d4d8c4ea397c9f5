"""The sequences that a user passes: texts, a table, an array, or the path of a file.

    names, sequences = sequences_of(["ACGT", "GGCA"])
    names, sequences = sequences_of("reads.fa")
    for name, sequence in NamedSequences("reads.fa"):   # one at a time
        ...

`NamedSequences` reads FASTA and text from start to end, however many sequences there are. Everything
else is read into memory.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd

from hyenadna.errors import InputError
from hyenadna.genomics.fasta import fasta_records
from hyenadna.genomics.files import FASTA, TABLES, TEXT, has_suffix, read_lines
from hyenadna.genomics.letters import DNA, Alphabet, encode
from hyenadna.genomics.sources import read_parts

__all__ = [
    "Data",
    "Extent",
    "NamedSequences",
    "blocks_of",
    "encode_named",
    "one_sequence",
    "read_sequences",
    "sequences_of",
]

# What the functions of this room take as sequences; see `sequences_of`.
Data: TypeAlias = str | Path | Sequence[str] | pd.Series | pd.DataFrame | np.ndarray

# A block is read, computed and written at once. A larger one makes batches of more similar lengths,
# but costs more memory.
_BASES_PER_BLOCK = 2**21
_SEQUENCES_PER_BLOCK = 2**15


@dataclass
class Extent:
    """What a file holds: the number of its sequences and bases, and the longest sequence."""

    sequences: int = 0
    bases: int = 0
    longest: int = 0
    name_of_longest: str = ""


class NamedSequences:
    """The ids and sequences of a file, in its order. Each iteration reads the file again.

    Args:
        path: FASTA (plain, gzip or bgzip), text with one sequence per line, or a csv, tsv or
            parquet table.
        sequence_column: The column of a table that holds the sequences.
        id_column: The column of a table that holds the ids. Without it, rows are named by their
            number, from 0, as are the lines of a text.
        alphabet: Which letters `check` lets pass.

    Raises:
        InputError: The file is of no known kind, or a table that cannot be used. FASTA and text
            that cannot be read raise it during the iteration.

    >>> dict(NamedSequences("reads.fa"))                                    # doctest: +SKIP
    {'read0': 'ACGTTG', 'read1': 'GGCA'}
    """

    def __init__(
        self,
        path: str,
        sequence_column: str = "sequence",
        id_column: str = "id",
        alphabet: Alphabet = DNA,
    ):
        self.path = path
        self.alphabet = alphabet
        self._rows: list[tuple[str, str]] | None = None
        if not Path(path).is_file():
            raise InputError(f"{path}: there is no such file")
        if has_suffix(path, TABLES):
            self._rows = _read_rows(path, sequence_column, id_column)
        elif not has_suffix(path, FASTA + TEXT):
            raise InputError(f"{path}: expected a file that ends in one of {[*FASTA, *TABLES, *TEXT]}")

    def __iter__(self) -> Iterator[tuple[str, str]]:
        if self._rows is not None:
            yield from self._rows
        elif has_suffix(self.path, TEXT):
            for i, line in enumerate(read_lines(self.path)):
                yield str(i), line.strip()
        else:
            for header, sequence in fasta_records(self.path):
                yield (header.split() or [""])[0], sequence

    def with_unique_names(self) -> Iterator[tuple[str, str]]:
        """Iterate, and at the end refuse FASTA with two records of the same name.

        Raises:
            InputError: Two records have the same name. The ids of a table may occur twice.
        """
        # A name takes about a hundred bytes of memory, its hash eight.
        hashes = array("q")
        for name, sequence in self:
            hashes.append(hash(name))
            yield name, sequence
        if has_suffix(self.path, FASTA):
            self._check_unique(np.frombuffer(hashes, dtype=np.int64))

    def check(self) -> Extent:
        """Read all sequences once, and return what there is.

        Raises:
            InputError: A sequence is empty or has letters of another alphabet, two records have
                the same name, or there is no sequence.
        """
        # A bad letter in the last sequence should not be found after hours of work.
        extent = Extent()
        for name, sequence in self.with_unique_names():
            length = len(encode_named(sequence, f"{self.path}: {name}", self.alphabet))
            extent.sequences += 1
            extent.bases += length
            if length > extent.longest:
                extent.longest = length
                extent.name_of_longest = name
        if not extent.sequences:
            raise InputError(f"{self.path}: the file holds no sequence")
        return extent

    def _check_unique(self, hashes: np.ndarray) -> None:
        """Raise `InputError` if two names are the same. Only names with equal hashes may be."""
        hashes.sort()
        repeated = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
        if not repeated:
            return
        seen = set()
        for name, _ in self:
            if name in seen:
                raise InputError(f"{self.path} has two sequences called {name!r}; give each its own name")
            if hash(name) in repeated:
                seen.add(name)


def _read_rows(path: str, sequence_column: str, id_column: str) -> list[tuple[str, str]]:
    # A single table has no parts, and is called "train".
    table = read_parts(path, (sequence_column, (), id_column))["train"]
    if not len(table):
        raise InputError(f"{path} has no rows")
    for row, sequence in enumerate(table["sequence"]):
        if not isinstance(sequence, str):
            raise InputError(f"{path}: the sequence of row {row} is {sequence!r}, not text")
    names = table["id"] if "id" in table else map(str, table["row"])
    return list(zip(names, table["sequence"], strict=True))


def read_sequences(
    path: str, sequence_column: str = "sequence", id_column: str = "id"
) -> tuple[list[str], list[str]]:
    """Return the ids and sequences of a file, all in memory; see `NamedSequences`.

    Raises:
        InputError: As there, or the file holds no sequence.

    >>> read_sequences("reads.fa")                                          # doctest: +SKIP
    (['read0', 'read1'], ['ACGTTG', 'GGCA'])
    """
    names = []
    sequences = []
    for name, sequence in NamedSequences(path, sequence_column, id_column).with_unique_names():
        names.append(name)
        sequences.append(sequence)
    if not any(sequences):
        raise InputError(f"{path}: the file holds no sequence")
    return names, sequences


def blocks_of(sequences: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    """Yield lists of sequences, with their ids, to work on at once. Each has one at least.

    >>> pairs = [("a", "A" * 2**20), ("b", "C" * 2**20), ("c", "ACGTT")]
    >>> [[name for name, _ in block] for block in blocks_of(pairs)]
    [['a', 'b'], ['c']]
    """
    block: list[tuple[str, str]] = []
    bases = 0
    # Limited in bases and in number: a million reads of 100 bases are few bases but many objects.
    for name, sequence in sequences:
        is_full = bases + len(sequence) > _BASES_PER_BLOCK or len(block) == _SEQUENCES_PER_BLOCK
        if is_full and block:
            yield block
            block = []
            bases = 0
        block.append((name, sequence))
        bases += len(sequence)
    if block:
        yield block


def sequences_of(
    data: Data, sequence_column: str = "sequence", id_column: str = "id"
) -> tuple[list[str], Sequence[str]]:
    """Return the names and the letters of whatever holds sequences.

    Args:
        data: A path (FASTA, csv, tsv, parquet or text), one sequence, a list or a column of them, a
            table, or a one-hot array `(sequences, 4, length)` with rows for A, C, G and T, where a
            column of zeros is N. A text is a path if it ends like one.
        sequence_column: The column of a table that holds the sequences.
        id_column: The column of a table that holds the names. Without it, rows are named by their
            number, from 0.

    Raises:
        InputError: There are no sequences, or one is no text.

    >>> sequences_of("ACGT")
    (['0'], ['ACGT'])
    """
    if isinstance(data, Path) or (isinstance(data, str) and has_suffix(data, FASTA + TABLES + TEXT)):
        return read_sequences(str(data), sequence_column, id_column)
    names = None
    if isinstance(data, pd.DataFrame):
        if sequence_column not in data:
            raise InputError(
                f"the table has no column {sequence_column!r}; it has {list(data)}. Choose one with "
                "sequence_column"
            )
        if id_column in data:
            names = [str(name) for name in data[id_column]]
        texts = list(data[sequence_column])
    elif isinstance(data, np.ndarray) and data.dtype.kind in "biuf":
        texts = letters_of_one_hot(data)
    else:
        texts = [data] if isinstance(data, str) else list(data)

    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"sequence {i} is {text!r:.60}, not text")
    if not texts:
        raise InputError("there are no sequences")
    return names or [str(i) for i in range(len(texts))], [str(text) for text in texts]


def letters_of_one_hot(array: np.ndarray) -> list[str]:
    """Return the letters of a one-hot array `(sequences, 4, length)`; a column of zeros is N.

    Raises:
        InputError: The array has another shape, or a column is not one-hot.

    >>> letters_of_one_hot(np.eye(4)[None])
    ['ACGT']
    """
    if array.ndim != 3 or array.shape[1] != 4:
        raise InputError(
            f"the array has shape {array.shape}; a one-hot array is (sequences, 4, length), with rows for "
            "A, C, G and T"
        )
    total = array.sum(1)
    if not (np.isin(array, (0, 1)).all() and (total <= 1).all()):
        raise InputError("the array is not one-hot: each column holds a single 1, or zeros for N")
    letters = np.where(total == 1, np.array(list("ACGT"))[array.argmax(1)], "N")
    return ["".join(row) for row in letters]


def one_sequence(data: Data, what: str) -> str:
    """Return the only sequence of `data`, in capitals.

    Raises:
        InputError: There are several; or it is empty, or has other letters than nucleotides.
    """
    _, sequences = sequences_of(data)
    if len(sequences) != 1:
        raise InputError(f"{what} reads one sequence at a time, but {len(sequences)} came")
    sequence = sequences[0]
    encode_named(sequence, "the sequence")
    return sequence.upper().replace("U", "T")


def encode_named(sequence: str, name: str, alphabet: Alphabet = DNA) -> np.ndarray:
    """Return the ids of a sequence, uint8 `(length,)`. Errors begin with its name.

    Raises:
        InputError: The sequence is empty, or a character is no letter of the alphabet.
    """
    if not sequence:
        raise InputError(f"{name} is empty")
    try:
        return encode(sequence, alphabet)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
