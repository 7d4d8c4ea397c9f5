"""Markov models of DNA, to see whether a network learned more than the frequencies of k-mers.

    from hyenadna.training.runs.markov import MarkovModels, count_contexts
    models = MarkovModels(count_contexts(windows_of_training, order=8))
    models.perplexity(count_contexts(windows_of_test, order=8))          # {1: 3.95, 2: 3.93, ...}

The targets are those of the network: every A, C, G and T of a window but the first base, which
nothing predicts. The context of a target reaches back to the start of its window or to the last
other letter; the network's reaches no further. A model of order k uses the last k bases of it, or
all of them if there are fewer.

The probability of a base x after a context c of length k backs off to that after the shorter
context c', which lacks the oldest base:

    p_k(x | c) = (n(c, x) + a_k p_(k-1)(x | c')) / (n(c) + a_k),    p_(-1) = 1/4

This is a Dirichlet prior (MacKay and Peto 1995). Each a_k is chosen on training bases alone: the
models are fitted on one half of the windows and compared on the other.
"""

from collections.abc import Iterable

import numpy as np

from hyenadna.errors import InputError

STRENGTHS = (0.0625, 0.25, 1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0)  # what a_k is chosen from


class ContextCounts:
    """How often each base follows each context, split by how long the context is.

    `exact[h]`, int64 `(4**h, 4)`, counts the targets that have h bases before them, the last one
    those with `order` or more. The rows are contexts, read as numbers in base 4 (A 0, C 1, G 2, T
    3), the oldest base first.
    """

    def __init__(self, order: int):
        self.order = order
        self.exact = [np.zeros((4**h, 4), dtype=np.int64) for h in range(order + 1)]

    def add(self, bases: np.ndarray, targets: np.ndarray) -> None:
        """Count the targets of some windows.

        Args:
            bases: Windows `(n, length)` of 0..3; other values are no bases.
            targets: bool `(n, length)`, which of them count.
        """
        valid = bases < 4
        digits = np.zeros(bases.shape, dtype=np.int32)
        digits[valid] = bases[valid]

        # Shift the digits of the windows against themselves. After round h, `code` holds for each
        # position the number in base 4 whose lowest digit is the base itself and whose digit j is
        # the base j positions before it, j <= h. `unbroken` says whether all of these h positions
        # are bases inside the window, and `history` in how many rounds that held: the length of the
        # context, at most `order`.
        code = digits.copy()
        unbroken = valid.copy()
        history = np.zeros(bases.shape, dtype=np.int8)
        for h in range(1, self.order + 1):
            unbroken[:, h:] &= valid[:, :-h]
            unbroken[:, :h] = False  # the window starts there
            code[:, h:] += digits[:, :-h] << (2 * h)
            history += unbroken

        targets = targets & valid
        targets[:, 0] = False  # nothing predicts the first base of a window

        # A context of length h and its target are h + 1 digits: row and column of the table, read
        # as one number. The digits beyond them belong to a context that is broken, and are cut off.
        for h, counts in enumerate(self.exact):
            chosen = code[targets & (history == h)] & (4 ** (h + 1) - 1)
            counts += np.bincount(chosen, minlength=counts.size).reshape(counts.shape)

    def totals(self) -> list[np.ndarray]:
        """Return every order's counts of all targets with a long enough context, `(4**k, 4)`."""
        totals = [self.exact[-1]]
        for exact in self.exact[-2::-1]:
            # A longer context counts too, whatever its oldest base is: the highest digit, so the
            # first axis here.
            longer = totals[0].reshape(4, *exact.shape).sum(axis=0)
            totals.insert(0, exact + longer)
        return totals

    @property
    def targets(self) -> int:
        return int(sum(counts.sum() for counts in self.exact))


def count_contexts(batches: Iterable[tuple[np.ndarray, np.ndarray]], order: int) -> ContextCounts:
    """Count (bases, targets) batches; see `ContextCounts.add`."""
    counts = ContextCounts(order)
    for bases, targets in batches:
        counts.add(bases, targets)
    return counts


class MarkovModels:
    """Models of order 0 up to `order`, fitted on two halves of the training windows.

    Attributes:
        strengths: The chosen a_k, for k from 0.
    """

    def __init__(self, one: ContextCounts, other: ContextCounts):
        self.order = one.order
        self.strengths = []
        self._log_p = []

        first = one.totals()
        second = other.totals()
        # p(x | c) of the order below, fitted on the first half, on the second, and on both; at the
        # start 1/4.
        p_first = p_second = p_both = np.full((1, 4), 0.25)
        for k in range(self.order + 1):
            # Choose the strength whose model of each half predicts the other half best.
            losses = {}
            for strength in STRENGTHS:
                log_first = np.log(_back_off(first[k], strength, p_first))
                log_second = np.log(_back_off(second[k], strength, p_second))
                losses[strength] = _nats(second[k], log_first) + _nats(first[k], log_second)
            best = min(losses, key=losses.get)

            self.strengths.append(best)
            p_first = _back_off(first[k], best, p_first)
            p_second = _back_off(second[k], best, p_second)
            p_both = _back_off(first[k] + second[k], best, p_both)
            self._log_p.append(np.log(p_both))

    def nats(self, counts: ContextCounts, order: int) -> float:
        """Return the sum over the targets of `counts` of -ln p under the model of this order."""
        if counts.order != self.order:
            raise ValueError(f"the counts are of order {counts.order}, the models of order {self.order}")
        full = _nats(counts.totals()[order], self._log_p[order])
        return full + sum(_nats(counts.exact[h], self._log_p[h]) for h in range(order))

    def perplexity(self, counts: ContextCounts) -> dict[int, float]:
        """Return the perplexity per base of each order from 0 on these targets."""
        nats = {k: self.nats(counts, k) for k in range(self.order + 1)}
        if not counts.targets:
            raise InputError(
                "there is no target to measure the Markov models on: all letters are N or soft-masked"
            )
        return {k: float(np.exp(value / counts.targets)) for k, value in nats.items()}


def _back_off(counts: np.ndarray, strength: float, shorter: np.ndarray) -> np.ndarray:
    """Return p(x | c), `(4**k, 4)`, from the counts and the p(x | c') of one order less."""
    # The oldest base is the highest digit of a context, so the shorter contexts repeat as one
    # block.
    prior = np.tile(shorter, (len(counts) // len(shorter), 1))
    return (counts + strength * prior) / (counts.sum(axis=1, keepdims=True) + strength)


def _nats(counts: np.ndarray, log_p: np.ndarray) -> float:
    return float(-(counts * log_p).sum())
