"""Markov models against counting by hand, one target after the other."""

import math

import numpy as np
import pytest

from hyenadna.errors import InputError
from hyenadna.training.runs.markov import STRENGTHS, ContextCounts, MarkovModels, count_contexts


def by_hand(windows: np.ndarray, targets: np.ndarray, order: int) -> list[tuple[tuple[int, ...], int]]:
    """(context, base) of each target; the context is all that the window offers, `order` bases at
    most.
    """
    pairs = []
    for window, marks in zip(windows.tolist(), targets.tolist(), strict=True):
        for i in range(1, len(window)):
            if window[i] > 3 or not marks[i]:
                continue
            context = []
            while len(context) < order and i - len(context) > 0 and window[i - len(context) - 1] < 4:
                context.insert(0, window[i - len(context) - 1])
            pairs.append((tuple(context), window[i]))
    return pairs


def example(n: int, length: int = 30, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Windows with holes (4), each base likely to be the one after its predecessor; some are no
    targets.
    """
    rng = np.random.default_rng(seed)
    windows = np.zeros((n, length), dtype=np.uint8)
    for i in range(1, length):
        windows[:, i] = np.where(rng.random(n) < 0.6, (windows[:, i - 1] + 1) % 4, rng.integers(0, 4, n))
    holes = rng.random(windows.shape) < 0.05
    return np.where(holes, 4, windows).astype(np.uint8), rng.random(windows.shape) < 0.9


@pytest.mark.parametrize("order", [0, 1, 3])
def test_counts(order):
    windows, targets = example(20)
    counts = count_contexts([(windows[:7], targets[:7]), (windows[7:], targets[7:])], order)
    pairs = by_hand(windows, targets, order)
    assert counts.targets == len(pairs)
    for h, table in enumerate(counts.exact):
        expected = np.zeros((4**h, 4), dtype=int)
        for context, base in pairs:
            if len(context) == h:
                expected[int("".join(map(str, context)) or "0", 4), base] += 1
        np.testing.assert_array_equal(table, expected)
    # every target with k bases or more before it, by the last k of them
    for k, table in enumerate(counts.totals()):
        expected = np.zeros((4**k, 4), dtype=int)
        for context, base in pairs:
            if len(context) >= k:
                expected[int("".join(map(str, context[len(context) - k :])) or "0", 4), base] += 1
        np.testing.assert_array_equal(table, expected)


def test_no_target_is_no_perplexity():
    bases, marks = example(4)
    halves = [count_contexts([(bases, marks)], 1) for _ in range(2)]
    with pytest.raises(InputError, match="there is no target"):
        MarkovModels(*halves).perplexity(count_contexts([(bases, np.zeros_like(marks))], 1))


def test_perplexity_by_hand():
    """Back off from the longest context down, with the strengths that the models chose."""
    order = 3
    train, marks = example(40)
    halves = [count_contexts([(train[i::2], marks[i::2])], order) for i in range(2)]
    models = MarkovModels(*halves)
    seen = by_hand(train, marks, order)

    def probability(context, base):
        k = len(context)
        shorter = 0.25 if k == 0 else probability(context[1:], base)
        after = [b for c, b in seen if len(c) >= k and c[len(c) - k :] == context]
        return (after.count(base) + models.strengths[k] * shorter) / (len(after) + models.strengths[k])

    test, test_marks = example(6, seed=1)
    found = models.perplexity(count_contexts([(test, test_marks)], order))
    for k in range(order + 1):
        pairs = by_hand(test, test_marks, k)
        nats = [-math.log(probability(context, base)) for context, base in pairs]
        assert found[k] == pytest.approx(math.exp(np.mean(nats)), rel=1e-9)
    assert found[1] < found[0]  # it is of order 1
    for context in ((), (1,), (3, 0), (2, 2, 1)):
        assert sum(probability(context, base) for base in range(4)) == pytest.approx(1)


def test_strengths_are_those_that_fit_the_other_half_best():
    train, marks = example(400)
    halves = [count_contexts([(train[i::2], marks[i::2])], 2) for i in range(2)]
    models = MarkovModels(*halves)
    assert len(models.strengths) == 3 and set(models.strengths) <= set(STRENGTHS)
    # Of order 2 there is nothing to learn: the prior from order 1 should weigh much. Of order 1
    # there is.
    assert models.strengths[2] > models.strengths[1]
    assert models.strengths == MarkovModels(*halves[::-1]).strengths


def test_a_repeat_is_found_by_the_order_that_sees_it():
    unit = np.array([0, 1, 2, 3, 0, 2, 1, 3, 3, 0, 0, 1], dtype=np.uint8)
    windows = np.stack([np.roll(np.tile(unit, 10), i) for i in range(12)])
    everything = np.ones_like(windows, dtype=bool)
    half = count_contexts([(windows, everything)], 8)
    found = MarkovModels(half, half).perplexity(half)
    assert found[0] > 3.5 and found[8] < 1.1
    assert all(found[k] >= found[k + 1] - 1e-6 for k in range(4))


def test_random_bases_have_four_choices():
    windows = np.random.default_rng(0).integers(0, 4, (400, 200)).astype(np.uint8)
    everything = np.ones_like(windows, dtype=bool)
    parts = [count_contexts([(windows[i::4], everything[i::4])], 6) for i in range(4)]
    found = MarkovModels(*parts[:2]).perplexity(parts[2])
    assert all(value == pytest.approx(4, abs=0.01) for value in found.values())


def test_orders_must_agree():
    counts = [ContextCounts(2), ContextCounts(2), ContextCounts(3)]
    with pytest.raises(ValueError, match="counts are of order 3, the models of order 2"):
        MarkovModels(*counts[:2]).perplexity(counts[2])
