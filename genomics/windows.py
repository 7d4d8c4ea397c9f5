"""Windows of genomes as batches of token ids, and the order in which they are read.

    dataset = WindowDataset(genomes, parts["train"], 1024)  # from `held_out.py`
    dataset[[0, 7]]                                         # ids (2, 1025): each window ends in [SEP]
    sampler = WindowSampler(parts["train"], weights=[1.0], rows_per_step=64, length=1024)

All randomness is in the sampler. Order, strand and length are functions of the seed, the epoch and
the position in it. So the number of processes and workers does not change what is read, nor does
resuming a run.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from .fasta import SequenceFile
from .intervals import Intervals
from .letters import DNA, PAD, SEP, SOFT_MASKED, Alphabet, complement_ids

__all__ = ["WindowCollator", "WindowDataset", "WindowGroup", "WindowSampler"]

# A row, or (row, length in bases, whether to take the other strand).
Item = int | tuple[int, int, bool]


class WindowDataset(torch.utils.data.Dataset):
    """Windows as ids, by row or by (row, length, other strand) as `WindowSampler` yields them.

    A batch is read at once (`__getitems__`): uint8 `(n, length + 1)`. Each row holds a piece of a
    window, then `[SEP]`, then `[PAD]`. Lower-case letters have `SOFT_MASKED` added. A window longer
    than `length` gives several rows. Row -1 is no window; a batch of nothing else is a row of pads.

    Args:
        genomes: From `open_genomes`.
        windows: Windows of these genomes, each at most `window` bases long.
        window: The length of the longest.

    >>> WindowDataset(genomes, windows, 4)[0]                               # doctest: +SKIP
    array([[ 7,  8,  9, 10,  1]], dtype=uint8)
    """

    def __init__(self, genomes: list[SequenceFile], windows: Intervals, window: int):
        self.genomes = genomes
        self.windows = windows
        self.window = window

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, item: Item | Sequence[Item]) -> npt.NDArray[np.uint8]:
        is_one = np.ndim(item) == 0 or isinstance(item, tuple)
        return self.__getitems__([item] if is_one else list(item))  # type: ignore[arg-type, list-item]

    def __getitems__(self, items: list[Item]) -> npt.NDArray[np.uint8]:
        """Return the ids of a batch, uint8 `(n, length + 1)`. All items have the same length."""
        asked = [item if isinstance(item, tuple) else (item, self.window, False) for item in items]
        length = asked[0][1]
        pieces = -(-self.window // length)
        ids, sizes = self._read(asked, pieces * length)

        # Cut each window into `pieces` rows. At the end of a chromosome a window is shorter, and
        # its last pieces are short or empty. The empty ones are dropped.
        rows = np.full((len(asked) * pieces, length + 1), PAD, dtype=np.uint8)
        rows[:, :length] = ids.reshape(-1, length)
        sizes = np.clip(sizes[:, None] - np.arange(pieces) * length, 0, length).reshape(-1)
        filled = sizes > 0
        rows[filled, sizes[filled]] = SEP
        if not filled.any():
            return rows[:1]  # a process must not come away with an empty batch: the others wait for it
        return rows[filled]

    def _read(
        self, asked: list[tuple[int, int, bool]], width: int
    ) -> tuple[np.ndarray, npt.NDArray[np.int64]]:
        """Return the ids of whole windows, uint8 `(windows, width)`, and their lengths in bases."""
        ids = np.full((len(asked), width), PAD, dtype=np.uint8)
        sizes = np.zeros(len(asked), dtype=np.int64)
        windows = self.windows[np.array([row for row, _, _ in asked])].tolist()
        # Row -1 reads some window above, the last one, and is skipped here.
        for i, ((row, _, other_strand), (file, sequence, start, end)) in enumerate(
            zip(asked, windows, strict=True)
        ):
            if row < 0:
                continue
            window = np.frombuffer(self.genomes[file].read(sequence, start, end), np.uint8)
            sizes[i] = len(window)
            if other_strand:
                window = complement_ids(window, self.genomes[file].alphabet)
            ids[i, : len(window)] = window
        return ids, sizes


class WindowCollator:
    """Turn the ids of `WindowDataset` into inputs and labels. Pads and N are not targets.

    There is no attention mask: a causal model does not see the pads after the sequence.

    Args:
        soft_masked_weight: Weight of lower-case bases in the loss, 0 to 1. At 0 they are not
            targets. Between 0 and 1 a batch also has `loss_weights`, float32 with the shape of the
            labels, 0 where there is no target.
        alphabet: Its ambiguous letters, such as N, are no targets.

    >>> WindowCollator()(np.array([[7, 11, 1]], dtype=np.uint8))["labels"].tolist()
    [[7, -100, 1]]
    """

    def __init__(self, soft_masked_weight: float = 1.0, alphabet: Alphabet = DNA):
        # Tables indexed by id: a batch is mapped by one lookup each, instead of masks over it.
        table = torch.arange(2 * SOFT_MASKED)
        self.input_of_id = table % SOFT_MASKED
        self.label_of_id = self.input_of_id.clone()
        for i in (PAD, *(alphabet.vocabulary[letter] for letter in alphabet.ambiguous)):
            self.label_of_id[[i, i + SOFT_MASKED]] = -100
        if soft_masked_weight == 0:
            self.label_of_id[SOFT_MASKED:] = -100

        self.weight_of_id: torch.Tensor | None = None
        if 0 < soft_masked_weight < 1:
            weights = torch.where(table < SOFT_MASKED, 1.0, soft_masked_weight)
            self.weight_of_id = weights.masked_fill(self.label_of_id == -100, 0.0)

    def __call__(self, ids: npt.NDArray[np.uint8]) -> dict[str, torch.Tensor]:
        index = torch.from_numpy(ids).int()
        batch = {"input_ids": self.input_of_id[index], "labels": self.label_of_id[index]}
        if self.weight_of_id is not None:
            batch["loss_weights"] = self.weight_of_id[index]
        return batch


@dataclass
class WindowGroup:
    """Windows of one file that are sampled equally often.

    Attributes:
        file: The number of the file.
        weight: How often each window comes in an epoch: weight of the file times its own.
        rows: Their rows in the table of windows, int64 `(windows,)`.
    """

    file: int
    weight: float
    rows: npt.NDArray[np.int64]


def _groups(
    windows: Intervals, weights: Sequence[float], window_weights: np.ndarray | None
) -> list[WindowGroup]:
    """Return the groups in the order of the files. A file without windows gives an empty group."""
    groups = []
    for file, weight in enumerate(weights):
        rows = np.flatnonzero(windows.file == file)
        if window_weights is None or not len(rows):
            groups.append(WindowGroup(file, weight, rows))
            continue
        for factor in np.unique(window_weights[rows]).tolist():
            groups.append(WindowGroup(file, weight * factor, rows[window_weights[rows] == factor]))
    return groups


class WindowSampler(torch.utils.data.Sampler):
    """Yield (row, length, other strand) for an epoch, reproducibly.

    Every window comes once per epoch: twice if its file has a weight of 2, in every second epoch if
    it has a weight of 0.5. The epoch is padded with row -1 to a whole number of optimizer steps.
    Otherwise `accelerate` would repeat rows or drop some, and not every base would be seen once.

    Args:
        windows: From `split_windows`.
        weights: The weight of each file.
        window_weights: A weight for each window `(n,)`, multiplied by that of its file. Windows of
            one file with the same weight form a group and take turns.
        rows_per_step: Windows in one optimizer step, over all processes and accumulated batches.
        length: The length of a window in bases.
        seed: The seed of order, strands and lengths.
        reverse_complement: The probability of the other strand.
        stages: A warm-up of the sequence length: (first optimizer step, length in bases), in order.
        shortest: The shortest random length. Each step then cuts its windows into equal pieces of a
            random length between this and `length` (or that of the warm-up's stage). The logarithm
            of the length is uniform: each doubling is equally likely.

    >>> list(WindowSampler(Intervals.of([(0, 0, 0, 9)]), [1.0], rows_per_step=2, length=9))
    [(0, 9, False), (-1, 9, False)]
    """

    def __init__(
        self,
        windows: Intervals,
        weights: Sequence[float],
        rows_per_step: int,
        length: int,
        seed: int = 0,
        reverse_complement: float = 0.0,
        stages: Sequence[tuple[int, int]] = (),
        window_weights: np.ndarray | None = None,
        shortest: int | None = None,
    ):
        self.groups = _groups(windows, weights, window_weights)
        self.per_epoch = [round(group.weight * len(group.rows)) for group in self.groups]
        self.shortest = shortest
        self.rows_per_step = rows_per_step
        self.length = length
        self.seed = seed
        self.reverse_complement = reverse_complement
        self.stages = [(0, length), *stages]
        self.steps_per_epoch = -(-sum(self.per_epoch) // rows_per_step)
        # The trainer sets this. Not by a method `set_epoch`, which accelerate calls in some
        # versions and set-ups but not in others.
        self.epoch = 0

    def __len__(self) -> int:
        return self.steps_per_epoch * self.rows_per_step

    def length_at(self, step: int) -> int:
        """Return the length in bases at an optimizer step, counted from 0 over all epochs."""
        # The last stage that has begun.
        longest = next(length for first, length in reversed(self.stages) if first <= step)
        if self.shortest is None or self.shortest >= longest:
            return longest

        # A generator of its own for each step and each purpose (the last number: 1 to 4), so that a
        # resumed run draws the same without replaying what came before.
        exponent = np.random.default_rng((self.seed, step, 4)).random()
        drawn = self.shortest * (longest / self.shortest) ** exponent
        # Rounded to equal pieces: pads at the end of the last would cost as much as bases.
        pieces = min(round(longest / drawn), longest // self.shortest)
        return -(-longest // pieces)

    def rows(self) -> npt.NDArray[np.int64]:
        """Return the rows of the epoch in order, int64 `(len(self),)`."""
        chosen = [self._rows_of(group) for group in range(len(self.groups))]
        rng = np.random.default_rng((self.seed, self.epoch, 2))
        shuffled = rng.permutation(np.concatenate(chosen))
        return np.concatenate([shuffled, np.full(len(self) - len(shuffled), -1)])

    def _rows_of(self, group: int) -> npt.NDArray[np.int64]:
        """Return the rows of a group in this epoch, int64 `(per_epoch,)`.

        Think of an endless stream per group: one shuffled pass over its windows after another. An
        epoch is the next `per_epoch` rows of it. So a weight of 0.5 sees every window once in two
        epochs, and a weight of 1.5 three times, instead of at random.
        """
        rows = self.groups[group].rows
        count = self.per_epoch[group]
        position = self.epoch * count
        stop = position + count
        chosen = [rows[:0]]
        while position < stop:
            number_of_pass, first = divmod(position, len(rows))
            last = min(len(rows), first + stop - position)
            shuffled = np.random.default_rng((self.seed, group, number_of_pass, 1)).permutation(rows)
            chosen.append(shuffled[first:last])
            position += last - first
        return np.concatenate(chosen)

    def __iter__(self) -> Iterator[tuple[int, int, bool]]:
        rows = self.rows().tolist()
        rng = np.random.default_rng((self.seed, self.epoch, 3))
        other_strand = (rng.random(len(rows)) < self.reverse_complement).tolist()
        for step in range(self.steps_per_epoch):
            length = self.length_at(self.epoch * self.steps_per_epoch + step)
            for i in range(step * self.rows_per_step, (step + 1) * self.rows_per_step):
                yield rows[i], length, other_strand[i]
