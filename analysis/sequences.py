"""The sequences of a FASTA file, a table or a text file that a user names.

    for name, sequence in NamedSequences("reads.fa"):
        ...

FASTA and text are read from start to end, one sequence at a time, however many there are. A table
is read into memory.
"""

from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hyenadna.errors import InputError
from hyenadna.genomics.fasta import fasta_records
from hyenadna.genomics.files import FASTA, TABLES, TEXT, has_suffix, read_lines
from hyenadna.genomics.letters import encode
from hyenadna.genomics.sources import read_parts

__all__ = ["NamedSequences", "encode_named", "read_sequences"]


class NamedSequences:
    """The ids and sequences of a file, in its order. Each iteration reads the file again.

    Args:
        path: FASTA (plain, gzip or bgzip), text with one sequence per line, or a csv, tsv or
            parquet table.
        sequence_column: The column of a table that holds the sequences.
        id_column: The column of a table that holds the ids. Without it, rows are named by their
            number, from 0, as are the lines of a text.

    Raises:
        InputError: The file is of no known kind, or a table that cannot be used. FASTA and text
            that cannot be read raise it during the iteration.

    >>> dict(NamedSequences("reads.fa"))                                    # doctest: +SKIP
    {'read0': 'ACGTTG', 'read1': 'GGCA'}
    """

    def __init__(self, path: str, sequence_column: str = "sequence", id_column: str = "id"):
        self.path = path
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


def encode_named(sequence: str, name: str) -> np.ndarray:
    """Return the ids of a sequence, uint8 `(length,)`. Errors begin with its name.

    Raises:
        InputError: The sequence is empty, or a character is no IUPAC letter for a nucleotide.
    """
    if not sequence:
        raise InputError(f"{name} is empty")
    try:
        return encode(sequence)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
