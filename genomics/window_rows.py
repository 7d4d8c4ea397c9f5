"""Labelled windows that stay in their genome: each sequence is read when it is needed.

    rows = WindowRows(genomes, windows, labels)                  # `Intervals`, and a label for each
    rows["sequence"][7]                                          # "ACGT...": read from the file now
    LabelledData({"train": rows, ...}, SINGLE_LABEL, ["human", "mouse"], digest=digest_of(parts))

A million windows of a million bases do not fit into memory; one batch of them does.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .fasta import SequenceFile
from .intervals import Intervals

__all__ = ["WindowRows", "WindowSequences", "digest_of"]


class WindowSequences(Sequence):
    """The sequences of windows, read on access. A slice reads nothing yet.

    Args:
        genomes: From `open_genomes`.
        windows: Of these genomes.

    >>> WindowSequences(genomes, Intervals.of([(0, 0, 2, 6)]))[0]           # doctest: +SKIP
    'GTTA'
    """

    def __init__(self, genomes: list[SequenceFile], windows: Intervals):
        self.genomes = genomes
        self.windows = windows

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return WindowSequences(self.genomes, self.windows[i])
        windows = self.windows
        genome = self.genomes[windows.file[i]]
        return genome.letters(int(windows.sequence[i]), int(windows.start[i]), int(windows.end[i]))

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))


class WindowRows:
    """Rows with the columns `row`, `sequence` and `label`, used like a `datasets.Dataset`.

    Args:
        genomes: From `open_genomes`.
        windows: Windows of these genomes.
        labels: Class indices `(n,)`, or 0 and 1 `(n, labels)`.
        rows: The number of each row in its source, for the predictions. By default 0, 1, ...

    >>> WindowRows(genomes, windows, labels)[3]                             # doctest: +SKIP
    {'row': 3, 'sequence': 'ACGT', 'label': 1}
    """

    column_names = ["row", "sequence", "label"]

    def __init__(
        self,
        genomes: list[SequenceFile],
        windows: Intervals,
        labels: np.ndarray,
        rows: np.ndarray | None = None,
    ):
        self._columns: dict[str, Any] = {
            "row": np.arange(len(windows)) if rows is None else rows,
            "sequence": WindowSequences(genomes, windows),
            "label": labels,
        }

    def __len__(self) -> int:
        return len(self._columns["row"])

    def __getitem__(self, key: str | int) -> Any:
        if isinstance(key, str):
            return self._columns[key]
        return {name: column[key] for name, column in self._columns.items()}


def digest_of(parts: dict[str, WindowRows]) -> str:
    """Return a checksum of the rows that reads no sequence.

    It covers the names and lengths of the sequences, the windows and the labels.

    >>> digest_of({"train": rows})[:8]                                      # doctest: +SKIP
    '5f70bf18'
    """
    digest = hashlib.sha256()
    for part, rows in parts.items():
        # Names and lengths stand in for the letters: hashing a genome takes minutes.
        sequences = rows["sequence"]
        digest.update(part.encode())
        for genome in sequences.genomes:
            digest.update(repr((genome.names, genome.lengths.tolist())).encode())
        digest.update(sequences.windows.tobytes())
        digest.update(np.ascontiguousarray(rows["label"]).tobytes())
    return digest.hexdigest()
