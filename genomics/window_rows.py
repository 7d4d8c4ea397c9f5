"""Labelled windows that stay in their genome: rows for fine-tuning whose sequences are read when they are needed.

    rows = WindowRows(genomes, windows, labels)                  # windows from `genome.py`, (n, 4)
    rows["sequence"][7]                                          # "ACGT...": read from the file now
    LabelledData({"train": rows, ...}, SINGLE_LABEL, ["human", "mouse"], digest=digest_of(parts))

A million windows of a million bases fit no memory, but one batch of them does.
"""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from .genome import SequenceFile


class WindowSequences(Sequence):
    """The sequences of windows `(n, 4)`, as they are written in their files; a slice of it reads nothing yet."""

    def __init__(self, genomes: list[SequenceFile], windows: np.ndarray):
        self.genomes, self.windows = genomes, windows

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, i: int | slice) -> "str | WindowSequences":
        if isinstance(i, slice):
            return WindowSequences(self.genomes, self.windows[i])
        file, sequence, start, end = self.windows[i].tolist()
        return self.genomes[file].letters(sequence, start, end)

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))


class WindowRows:
    """Rows with the columns `row`, `sequence` and `label`, to stand where a `datasets.Dataset` stands.

    Args:
        genomes: From `open_genomes`.
        windows: Windows `(n, 4)`.
        labels: Class indices `(n,)`, or 0 and 1 `(n, labels)`.
        rows: Where each comes from, for the predictions; by default counted from 0.
    """

    column_names = ["row", "sequence", "label"]

    def __init__(
        self, genomes: list[SequenceFile], windows: np.ndarray, labels: np.ndarray, rows: np.ndarray | None = None
    ):
        rows = np.arange(len(windows)) if rows is None else rows
        self._columns = {"row": rows, "sequence": WindowSequences(genomes, windows), "label": labels}

    def __len__(self) -> int:
        return len(self._columns["row"])

    def __getitem__(self, key: str | int):
        if isinstance(key, str):
            return self._columns[key]
        return {name: column[key] for name, column in self._columns.items()}


def digest_of(parts: dict[str, WindowRows]) -> str:
    """Return what tells these rows from others: names and sizes of the sequences, windows and labels."""
    content = hashlib.sha256()
    for part, rows in parts.items():
        sequences = rows["sequence"]
        content.update(part.encode())
        for genome in sequences.genomes:
            content.update(repr((genome.names, genome.lengths.tolist())).encode())
        content.update(np.ascontiguousarray(sequences.windows).tobytes())
        content.update(np.ascontiguousarray(rows["label"]).tobytes())
    return content.hexdigest()
