"""Windows of genomes as batches of token ids: what is read when, by whom, and how long.

    dataset = WindowDataset(genomes, parts["train"], 1024)              # from `genome.py`
    dataset[[0, 7]]                                                     # ids (2, 1025): each window ends in [SEP]
    sampler = WindowSampler(parts["train"], weights=[1.0], rows_per_step=64, length=1024)

All chance is in the sampler: order, strands and lengths are functions of the seed, the epoch and the position in it. So
it does not matter how many processes and workers read, or from where a run is resumed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .genome import SOFT_MASKED, VOCABULARY, N, SequenceFile

SEP, PAD = VOCABULARY["[SEP]"], VOCABULARY["[PAD]"]


def _complement_table() -> np.ndarray:
    table = np.arange(2 * SOFT_MASKED, dtype=np.uint8)
    for one, other in ("AT", "CG", "GC", "TA"):
        for shift in (0, SOFT_MASKED):
            table[VOCABULARY[one] + shift] = VOCABULARY[other] + shift
    return table


_COMPLEMENT = _complement_table()


class WindowDataset(torch.utils.data.Dataset):
    """Windows as ids. An item is asked for by its row, or by (row, length, other strand) from `WindowSampler`.

    A whole batch is made at once (`__getitems__`): uint8 `(n, length + 1)`, each row a piece of a window, then `[SEP]`,
    then `[PAD]`; lower-case letters have `SOFT_MASKED` added. A window longer than `length` gives several rows; row -1
    is no window, and gives a row of pads where nothing else does.
    """

    def __init__(self, genomes: list[SequenceFile], windows: np.ndarray, window: int):
        self.genomes, self.windows, self.window = genomes, windows, window

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, item) -> np.ndarray:
        return self.__getitems__([item] if np.ndim(item) == 0 or isinstance(item, tuple) else list(item))

    def __getitems__(self, items: list) -> np.ndarray:
        """Return the ids of a batch; all its items have the same length."""
        items = [item if isinstance(item, tuple) else (item, self.window, False) for item in items]
        length = items[0][1]
        pieces = -(-self.window // length)
        ids = np.full((len(items), pieces * length), PAD, dtype=np.uint8)
        sizes = np.zeros((len(items), 1), dtype=np.int64)
        windows = self.windows[[item[0] for item in items]].tolist()
        for i, ((file, sequence, start, end), (row, _, flip)) in enumerate(zip(windows, items, strict=True)):
            if row < 0:
                continue
            read = np.frombuffer(self.genomes[file].read(sequence, start, end), np.uint8)
            sizes[i] = len(read)
            ids[i, : len(read)] = _COMPLEMENT[read[::-1]] if flip else read
        rows = np.full((len(items) * pieces, length + 1), PAD, dtype=np.uint8)
        rows[:, :length] = ids.reshape(-1, length)
        sizes = np.clip(sizes - np.arange(pieces) * length, 0, length).reshape(-1)
        filled = sizes > 0
        rows[filled, sizes[filled]] = SEP
        return rows[filled] if filled.any() else rows[:1]


class WindowCollator:
    """Turn ids of `WindowDataset` into inputs and labels; pads and N are no targets.

    There is no attention mask: pads follow the sequence, where a causal model does not see them.

    Args:
        soft_masked_weight: Of lower-case bases in the loss, 0 to 1. At 0 they are no targets. Between 0 and 1 a batch
            also has `loss_weights`, float32 of the shape of the labels, 0 where there is no target.
    """

    def __init__(self, soft_masked_weight: float = 1.0):
        table = torch.arange(2 * SOFT_MASKED)
        self.input_of_id = table % SOFT_MASKED
        self.label_of_id = self.input_of_id.clone()
        self.label_of_id[[PAD, N, N + SOFT_MASKED]] = -100
        if soft_masked_weight == 0:
            self.label_of_id[SOFT_MASKED:] = -100

        self.weight_of_id = None
        if 0 < soft_masked_weight < 1:
            weights = torch.where(table < SOFT_MASKED, 1.0, soft_masked_weight)
            self.weight_of_id = weights.masked_fill(self.label_of_id == -100, 0.0)

    def __call__(self, ids: np.ndarray) -> dict[str, torch.Tensor]:
        index = torch.from_numpy(ids).int()
        batch = {"input_ids": self.input_of_id[index], "labels": self.label_of_id[index]}
        if self.weight_of_id is not None:
            batch["loss_weights"] = self.weight_of_id[index]
        return batch


@dataclass
class WindowGroup:
    """Windows that are sampled alike: their file, its weight times theirs, and their rows."""

    file: int
    weight: float
    rows: np.ndarray


def _groups(windows: np.ndarray, weights: Sequence[float], window_weights: np.ndarray | None) -> list[WindowGroup]:
    """Return the groups in the order of the files; a file without windows is an empty one."""
    groups = []
    for file, weight in enumerate(weights):
        rows = np.flatnonzero(windows[:, 0] == file)
        if window_weights is None or not len(rows):
            groups.append(WindowGroup(file, weight, rows))
            continue
        for factor in np.unique(window_weights[rows]).tolist():
            groups.append(WindowGroup(file, weight * factor, rows[window_weights[rows] == factor]))
    return groups


class WindowSampler(torch.utils.data.Sampler):
    """Yield (row, length, other strand) of an epoch: all of it a function of the seed, the epoch and the position.

    Every window comes once an epoch; of a file with a weight of 2 twice, of one with a weight of 0.5 in about every
    second epoch. The epoch is filled with row -1 up to a whole number of optimizer steps: with rows that came again, as
    `accelerate` would fill it, or with rows left out, not every base would be seen once.

    Args:
        windows: Windows `(n, 4)`.
        weights: Of each file.
        window_weights: Of each window `(n,)`, times that of its file. Windows of one file and one weight are one group,
            whose windows take turns.
        rows_per_step: Windows in one optimizer step, over all processes and accumulated batches.
        length: Of a window, in bases.
        seed: Of the order and of the strands.
        reverse_complement: Probability of the other strand.
        stages: For a warm-up of the sequence length: (first optimizer step, length in bases), in order.
        shortest: Of random lengths. Each step then cuts its windows into equal pieces, of a length between this and
            `length` (in a warm-up, that of the stage); each doubling of the length is as likely as the others.
    """

    def __init__(
        self,
        windows: np.ndarray,
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
        self.rows_per_step, self.length, self.seed = rows_per_step, length, seed
        self.reverse_complement, self.stages = reverse_complement, [(0, length), *stages]
        self.steps_per_epoch = -(-sum(self.per_epoch) // rows_per_step)
        self.epoch = 0  # set by the trainer; under another name than `set_epoch`, which accelerate calls or forgets

    def __len__(self) -> int:
        return self.steps_per_epoch * self.rows_per_step

    def length_at(self, step: int) -> int:
        """Return the length in bases at an optimizer step, counted from 0 over all epochs."""
        longest = next(length for first, length in reversed(self.stages) if first <= step)
        if self.shortest is None or self.shortest >= longest:
            return longest

        exponent = np.random.default_rng((self.seed, step, 4)).random()
        drawn = self.shortest * (longest / self.shortest) ** exponent
        # Equal pieces: pads at the end of the last one would cost as much as bases.
        pieces = min(round(longest / drawn), longest // self.shortest)
        return -(-longest // pieces)

    def rows(self) -> np.ndarray:
        """Return the rows of the epoch in order, int64 `(len(self),)`."""
        chosen = []
        for number, (group, count) in enumerate(zip(self.groups, self.per_epoch, strict=True)):
            position, stop = self.epoch * count, (self.epoch + 1) * count
            while position < stop:  # a group's stream: one shuffled pass after the other
                turn, first = divmod(position, len(group.rows))
                last = min(len(group.rows), first + stop - position)
                shuffled = np.random.default_rng((self.seed, number, turn, 1)).permutation(group.rows)
                chosen.append(shuffled[first:last])
                position += last - first
        order = np.random.default_rng((self.seed, self.epoch, 2)).permutation(np.concatenate(chosen))
        return np.concatenate([order, np.full(len(self) - len(order), -1)])

    def __iter__(self) -> Iterator[tuple[int, int, bool]]:
        rows = self.rows().tolist()
        coins = np.random.default_rng((self.seed, self.epoch, 3)).random(len(rows)) < self.reverse_complement
        coins = coins.tolist()
        for step in range(self.steps_per_epoch):
            length = self.length_at(self.epoch * self.steps_per_epoch + step)
            for i in range(step * self.rows_per_step, (step + 1) * self.rows_per_step):
                yield rows[i], length, coins[i]
