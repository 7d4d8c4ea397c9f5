"""The sequences that a user passes: texts, a table, an array, or the path of a file.

    names, sequences = sequences_of(["ACGT", "GGCA"])
    names, sequences = open_sequences("reads.fa")
    sequences[7]                                        # read from the file now

Plain and bgzipped FASTA stays on disk. Everything else is read into memory.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd

from hyenadna.errors import InputError
from hyenadna.genomics.fasta import SequenceFile, open_genomes
from hyenadna.genomics.files import FASTA, TABLES, TEXT, has_suffix
from hyenadna.genomics.letters import encode
from hyenadna.genomics.sources import read_parts

__all__ = [
    "Data",
    "FileSequences",
    "encode_named",
    "one_sequence",
    "open_sequences",
    "read_sequences",
    "sequences_of",
]

# What the functions of this room take as sequences; see `sequences_of`.
Data: TypeAlias = str | Path | Sequence[str] | pd.Series | pd.DataFrame | np.ndarray


class FileSequences(Sequence):
    """The sequences of a file, each read on access, so that any number of them will do."""

    def __init__(self, file: SequenceFile):
        self.file = file
        self.lengths: list[int] = file.lengths.tolist()

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: int) -> str:
        return self.file.letters(i, 0, self.lengths[i])

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))


def open_sequences(
    path: str, sequence_column: str = "sequence", id_column: str = "id"
) -> tuple[list[str], Sequence[str]]:
    """Return the ids and sequences of a FASTA file (plain or bgzip), a table or a text file.

    Sequences of FASTA are read on access; those of a table or text are in memory.

    Args:
        path: The file.
        sequence_column: The column of a table that holds the sequences.
        id_column: The column of a table that holds the ids. Without it, rows are named by their
            number, from 0.

    Raises:
        InputError: The file cannot be read, or holds no sequences.

    >>> names, sequences = open_sequences("reads.fa")                       # doctest: +SKIP
    """
    if not path.lower().endswith(TABLES):
        (file,) = open_genomes([path])
        return list(file.names), FileSequences(file)

    # A single table has no parts, and is called "train".
    table = read_parts(path, (sequence_column, (), id_column))["train"]
    if not len(table):
        raise InputError(f"{path} has no rows")
    for row, sequence in enumerate(table["sequence"]):
        if not isinstance(sequence, str):
            raise InputError(f"{path}: the sequence of row {row} is {sequence!r}, not text")
    names = table["id"] if "id" in table else map(str, table["row"])
    return list(names), table["sequence"].tolist()


def read_sequences(
    path: str, sequence_column: str = "sequence", id_column: str = "id"
) -> tuple[list[str], list[str]]:
    """Do the same as `open_sequences`, with all sequences in memory."""
    names, sequences = open_sequences(path, sequence_column, id_column)
    return names, list(sequences)


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
        return open_sequences(str(data), sequence_column, id_column)
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
