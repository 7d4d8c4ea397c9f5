"""What simple methods reach on the same rows as a network: `fit_baselines(data)`.

The most frequent class; naive Bayes on 5-mers; logistic regression on 1- to 6-mers, whose penalty
is chosen on the validation part. All by scikit-learn, fitted on the training part alone and
measured as the networks are.
"""

import itertools
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler
from transformers import EvalPrediction

from hyenadna.errors import InputError
from hyenadna.genomics.labelled import SINGLE_LABEL, LabelledData
from hyenadna.training.runs.metrics import make_compute_metrics

MAJORITY = "most frequent class"
NAIVE_BAYES = "5-mer naive Bayes"
LOGISTIC = "1..6-mer logistic regression"
PENALTIES = (0.001, 0.01, 0.1, 1.0)  # values of C, from strong to weak

_UPPER_CASE = str.maketrans("acgtuU", "ACGTTT")


def count_kmers(sequences: Iterable[str], sizes: Sequence[int]) -> sparse.csr_matrix:
    """Count the k-mers of each sequence.

    A k-mer with a letter other than A, C, G, T (or U, which counts as T) is not counted.

    Args:
        sequences: Of any case.
        sizes: Values of k.

    Returns:
        float32 `(sequences, sum of 4**k)`: the k-mers of the first size first, in alphabetical
        order within a size.
    """
    kmers = ["".join(letters) for k in sizes for letters in itertools.product("ACGT", repeat=k)]
    counter = CountVectorizer(
        analyzer="char",
        ngram_range=(min(sizes), max(sizes)),
        vocabulary=kmers,
        preprocessor=lambda sequence: sequence.translate(_UPPER_CASE),
        dtype=np.float32,
    )
    return counter.transform(sequences)


def fit_baselines(data: LabelledData) -> dict[str, dict]:
    """Fit every baseline.

    Returns:
        Of each baseline by its name the `metrics` of the parts, as in `metrics.json`, and the
        `seconds` it took.

    Raises:
        InputError: The problem is not one of single labels.
    """
    if data.problem_type != SINGLE_LABEL:
        raise InputError(f"the baselines are for single labels, but the problem is {data.problem_type}")
    start = time.monotonic()
    sequences = {part: rows["sequence"][:] for part, rows in data.parts.items()}
    labels = {part: np.array(rows["label"][:]) for part, rows in data.parts.items()}
    fives = {part: count_kmers(rows, [5]) for part, rows in sequences.items()}
    shares = {part: _shares(count_kmers(rows, range(1, 7))) for part, rows in sequences.items()}
    counting_seconds = time.monotonic() - start

    results = {}
    for name, model in ((MAJORITY, DummyClassifier()), (NAIVE_BAYES, MultinomialNB())):
        start = time.monotonic()
        model.fit(fives["train"], labels["train"])
        metrics = _measure(model, fives, labels)
        results[name] = {"metrics": metrics, "seconds": round(counting_seconds + time.monotonic() - start, 2)}

    start = time.monotonic()
    penalty, model = _fit_logistic(shares, labels)
    metrics = _measure(model, shares, labels)
    seconds = round(counting_seconds + time.monotonic() - start, 2)
    results[LOGISTIC] = {"metrics": metrics, "seconds": seconds, "C": penalty}
    return results


def _shares(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Divide each sequence's counts by their sum: a long one must not weigh more."""
    return counts.multiply(1 / np.maximum(counts.sum(1), 1)).tocsr()


def _fit_logistic(inputs: dict[str, sparse.csr_matrix], labels: dict[str, np.ndarray]) -> tuple[float, Any]:
    """Return the C that is best on the validation part (on a tie the smallest), and its model."""
    best = None
    for penalty in PENALTIES:
        model = make_pipeline(MaxAbsScaler(), LogisticRegression(C=penalty, max_iter=300))
        model.fit(inputs["train"], labels["train"])
        accuracy = model.score(inputs["validation"], labels["validation"])
        if best is None or accuracy > best[0]:
            best = (accuracy, penalty, model)
    return best[1:]


def _measure(
    model: Any, inputs: dict[str, sparse.csr_matrix], labels: dict[str, np.ndarray]
) -> dict[str, dict]:
    """Return a fitted model's metrics on the validation and test part, as for a network."""
    metrics = {}
    for part in ("validation", "test"):
        if part in inputs:
            with np.errstate(divide="ignore"):
                scores = np.log(model.predict_proba(inputs[part]))
            scores = np.maximum(scores, -1e4)  # the logits of a class with probability 0
            metrics[part] = make_compute_metrics(SINGLE_LABEL)(EvalPrediction(scores, labels[part]))
    return metrics
