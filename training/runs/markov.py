"""Markov models of DNA: did a network learn more than the frequencies of k-mers?

    from hyenadna.training.runs.markov import MarkovModels, count_contexts
    one, other = (count_contexts(half, order=8) for half in halves_of_training)
    models = MarkovModels(one, other)
    models.perplexity(count_contexts(windows_of_test, order=8))          # {0: 3.98, 1: 3.95, ...}

The targets are those of the network: every A, C, G and T of a window except its first base, which
has no prediction. The context of a target reaches back to the start of the window or to the last
letter that is no base, whichever is nearer. A model of order k uses the last k bases of the
context, or all of them if there are fewer.

The probability of base x after a context c of length k backs off to the context c' without its
oldest base:

    p_k(x | c) = (n(c, x) + a_k p_(k-1)(x | c')) / (n(c) + a_k),    p_(-1) = 1/4

This is the posterior mean under a Dirichlet prior of strength a_k around p_(k-1) (MacKay and Peto
1995). Each a_k is chosen on the training bases alone: models are fitted on one half of the windows
and compared on the other.
"""

from collections.abc import Iterable

import numpy as np

from hyenadna.errors import InputError

STRENGTHS = (0.0625, 0.25, 1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0)  # candidates for a_k


# The most cells of a table, so that it fits into memory: 4 ** 11, those of order 10 for DNA.
_MOST_CELLS = 4**11


def highest_order(letters: int) -> int:
    """Return the highest order whose table fits into memory, for so many letters.

    >>> highest_order(4), highest_order(22)
    (10, 3)
    """
    order = 0
    while letters ** (order + 2) <= _MOST_CELLS:
        order += 1
    return order


class ContextCounts:
    """How often each base follows each context, by the length of the context.

    `exact[h]`, int64 `(4**h, 4)`, counts the targets with exactly h bases of context; the last
    table counts those with `order` or more. A row is a context, read as a number in base 4 (A 0, C
    1, G 2, T 3) with the oldest base first. A column is the target.

    Args:
        order: The longest context that counts.
        letters: How many letters there are: 4 of DNA. Another number takes the place of each 4.
    """

    def __init__(self, order: int, letters: int = 4):
        self.order = order
        self.letters = letters
        self.exact = [np.zeros((letters**h, letters), dtype=np.int64) for h in range(order + 1)]

    def add(self, bases: np.ndarray, targets: np.ndarray) -> None:
        """Count the targets of some windows.

        Args:
            bases: Windows `(n, length)`, 0 to 3 for A, C, G and T. Any other value is no base.
            targets: Which of them count, bool `(n, length)`.
        """
        letters = self.letters
        valid = bases < letters
        digits = np.zeros(bases.shape, dtype=np.int32)
        digits[valid] = bases[valid]

        # All windows and positions at once: shift the digits of the windows against themselves, one
        # position further in each round. After round h, at every position,
        # - `code` is a number in base 4 (or as many as there are letters). Its lowest digit is the
        #   base itself, digit j the base j positions before it, up to j = h;
        # - `unbroken` says whether all of these h positions are bases inside the window;
        # - `history` counts the rounds so far in which that held: the length of the context.
        code = digits.copy()
        unbroken = valid.copy()
        history = np.zeros(bases.shape, dtype=np.int8)
        for h in range(1, self.order + 1):
            unbroken[:, h:] &= valid[:, :-h]
            unbroken[:, :h] = False  # h positions back would be before the window
            code[:, h:] += digits[:, :-h] * letters**h
            history += unbroken

        targets = targets & valid
        targets[:, 0] = False  # the first base of a window has no prediction

        # A context of length h and its target are the lowest h + 1 digits, which are row and column
        # of the table, read as one number. Higher digits lie beyond the break and are dropped.
        for h, counts in enumerate(self.exact):
            chosen = code[targets & (history == h)] % letters ** (h + 1)
            counts += np.bincount(chosen, minlength=counts.size).reshape(counts.shape)

    def totals(self) -> list[np.ndarray]:
        """Return for each order k the counts of all targets with k bases of context or more.

        A list of int64 arrays `(4**k, 4)`, for k from 0.
        """
        totals = [self.exact[-1]]
        # From the longest context down. A target with more context counts as well: sum over the
        # oldest base, which is the highest digit of the row and so the first axis here.
        for exact in self.exact[-2::-1]:
            longer = totals[0].reshape(self.letters, *exact.shape).sum(axis=0)
            totals.insert(0, exact + longer)
        return totals

    @property
    def targets(self) -> int:
        """The number of targets counted."""
        return int(sum(counts.sum() for counts in self.exact))


def count_contexts(
    batches: Iterable[tuple[np.ndarray, np.ndarray]], order: int, letters: int = 4
) -> ContextCounts:
    """Count batches of (bases, targets); see `ContextCounts.add`."""
    counts = ContextCounts(order, letters)
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
        # p(x | c) of the order below, fitted on the first half, on the second and on both. Below
        # order 0 it is uniform.
        uniform = np.full((1, one.letters), 1 / one.letters)
        p_first = uniform
        p_second = uniform
        p_both = uniform
        for k in range(self.order + 1):
            # Two-fold cross-validation: take the strength with which each half predicts the other
            # best. The final model then uses it on both halves.
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
        """Return -ln p of all targets in `counts`, summed, under the model of this order."""
        if counts.order != self.order:
            raise ValueError(f"the counts are of order {counts.order}, the models of order {self.order}")
        # Targets near the start of a window have less context, and use the model of a lower order.
        full = _nats(counts.totals()[order], self._log_p[order])
        return full + sum(_nats(counts.exact[h], self._log_p[h]) for h in range(order))

    def perplexity(self, counts: ContextCounts) -> dict[int, float]:
        """Return order -> perplexity per base on these targets, exp of the mean of -ln p."""
        nats = {k: self.nats(counts, k) for k in range(self.order + 1)}
        if not counts.targets:
            raise InputError(
                "there is no target to measure the Markov models on: all letters are N or soft-masked"
            )
        return {k: float(np.exp(value / counts.targets)) for k, value in nats.items()}


def _back_off(counts: np.ndarray, strength: float, shorter: np.ndarray) -> np.ndarray:
    """Return p(x | c), `(4**k, 4)`, from the counts and the p(x | c') of the order below."""
    # c' is c without its highest digit. So the table of the shorter contexts, four times over,
    # lines up with that of the longer ones.
    prior = np.tile(shorter, (len(counts) // len(shorter), 1))
    return (counts + strength * prior) / (counts.sum(axis=1, keepdims=True) + strength)


def _nats(counts: np.ndarray, log_p: np.ndarray) -> float:
    return float(-(counts * log_p).sum())
