"""The sequences of a FASTA file, a table or a text file that a user names.

    names, sequences = open_sequences("reads.fa")
    sequences[7]                                        # read from the file now

Plain and bgzipped FASTA stays on disk. Everything else is read into memory.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from hyenadna.errors import InputError
from hyenadna.genomics.fasta import SequenceFile, open_genomes
from hyenadna.genomics.files import TABLES
from hyenadna.genomics.letters import DNA, Alphabet, encode
from hyenadna.genomics.sources import read_parts

__all__ = ["FileSequences", "encode_named", "open_sequences", "read_sequences"]


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
    path: str, sequence_column: str = "sequence", id_column: str = "id", alphabet: Alphabet = DNA
) -> tuple[list[str], Sequence[str]]:
    """Return the ids and sequences of a FASTA file (plain or bgzip), a table or a text file.

    Sequences of FASTA are read on access; those of a table or text are in memory.

    Args:
        path: The file.
        sequence_column: The column of a table that holds the sequences.
        id_column: The column of a table that holds the ids. Without it, rows are named by their
            number, from 0.
        alphabet: Which letters the sequences have.

    Raises:
        InputError: The file cannot be read, or holds no sequences.

    >>> names, sequences = open_sequences("reads.fa")                       # doctest: +SKIP
    """
    if not path.lower().endswith(TABLES):
        (file,) = open_genomes([path], alphabet=alphabet)
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
    path: str, sequence_column: str = "sequence", id_column: str = "id", alphabet: Alphabet = DNA
) -> tuple[list[str], list[str]]:
    """Do the same as `open_sequences`, with all sequences in memory."""
    names, sequences = open_sequences(path, sequence_column, id_column, alphabet)
    return names, list(sequences)


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
