"""Markov models of DNA, to see whether a network learned more than the frequencies of k-mers.

    from hyenadna.training.runs.markov import MarkovModels, count_contexts
    models = MarkovModels(count_contexts(windows_of_training, order=8))
    models.perplexity(count_contexts(windows_of_test, order=8))          # {1: 3.95, 2: 3.93, ...}

The targets are those of the network: in each window every A, C, G and T but the first base, which nothing predicts. The
context of a target reaches back to the start of its window or to the last other letter, as the network's does at most:
a model of order k uses the last k bases of it, or all of them if there are fewer.

The probability of a base after a context backs off to that of the shorter context,
p_k(x | c) = (n(c, x) + a_k p_(k-1)(x | c')) / (n(c) + a_k), with p_(-1) = 1/4: a Dirichlet prior (MacKay and Peto
1995). Each a_k is chosen on training bases alone: fitted on one half of the windows, compared on the other.
"""

from collections.abc import Iterable

import numpy as np

from hyenadna.errors import InputError

STRENGTHS = (0.0625, 0.25, 1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0)  # what a_k is chosen from


class ContextCounts:
    """How often each base follows each context, split by how long the context is.

    `exact[h]`, int64 `(4**h, 4)`, counts the targets that have h bases before them, the last one those with `order` or
    more. The rows are contexts, read as numbers in base 4 (A 0, C 1, G 2, T 3), the oldest base first.
    """

    def __init__(self, order: int):
        self.order = order
        self.exact = [np.zeros((4**h, 4), dtype=np.int64) for h in range(order + 1)]

    def add(self, bases: np.ndarray, targets: np.ndarray) -> None:
        """Count windows `(n, length)` of 0..3, other values for what is no base; `targets` (bool) marks what counts."""
        valid = bases < 4
        code, history = np.zeros(bases.shape, dtype=np.int32), np.zeros(bases.shape, dtype=np.int8)
        code[valid] = bases[valid]
        own, running = code.copy(), valid.copy()
        for h in range(1, self.order + 1):
            running[:, h:] &= valid[:, :-h]
            running[:, :h] = False  # the window starts there
            code[:, h:] += own[:, :-h] << (2 * h)
            history += running
        targets = targets & valid
        targets[:, 0] = False
        for h, counts in enumerate(self.exact):
            chosen = code[targets & (history == h)] & (4 ** (h + 1) - 1)
            counts += np.bincount(chosen, minlength=counts.size).reshape(counts.shape)

    def totals(self) -> list[np.ndarray]:
        """Return the counts of every order from all targets that have so long a context, int64 `(4**k, 4)` each."""
        totals = [self.exact[-1]]
        for exact in self.exact[-2::-1]:
            totals.insert(0, exact + totals[0].reshape(4, *exact.shape).sum(axis=0))  # whatever the oldest base is
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
        self.order, self.strengths = one.order, []
        halves = [one.totals(), other.totals()]
        below = [np.full((1, 4), 0.25)] * 2
        self._log_p, p = [], np.full((1, 4), 0.25)
        for k in range(self.order + 1):
            fitted = {a: [_back_off(half[k], a, p) for half, p in zip(halves, below, strict=True)] for a in STRENGTHS}
            loss = {a: _nats(halves[1][k], np.log(f[0])) + _nats(halves[0][k], np.log(f[1])) for a, f in fitted.items()}
            best = min(loss, key=loss.get)
            self.strengths.append(best)
            below = fitted[best]
            p = _back_off(halves[0][k] + halves[1][k], best, p)
            self._log_p.append(np.log(p))

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
            raise InputError("there is no target to measure the Markov models on: all letters are N or soft-masked")
        return {k: float(np.exp(value / counts.targets)) for k, value in nats.items()}


def _back_off(counts: np.ndarray, strength: float, shorter: np.ndarray) -> np.ndarray:
    """Return p(x | c), `(4**k, 4)`, from such counts and p(x | c') of the contexts without their oldest base."""
    prior = np.tile(shorter, (len(counts) // len(shorter), 1))  # the oldest base is the highest digit
    return (counts + strength * prior) / (counts.sum(axis=1, keepdims=True) + strength)


def _nats(counts: np.ndarray, log_p: np.ndarray) -> float:
    return float(-(counts * log_p).sum())
