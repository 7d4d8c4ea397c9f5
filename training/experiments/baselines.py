"""Simple baselines on the same rows as a network: `fit_baselines(data)`.

- the most frequent class;
- naive Bayes on 5-mers;
- logistic regression on 1- to 6-mers, with the penalty chosen on the validation part.

All are scikit-learn's, fitted on the training part alone and evaluated like the networks.
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

    Only k-mers of A, C, G and T count. U is read as T.

    Args:
        sequences: In upper or lower case.
        sizes: The values of k.

    Returns:
        float32 `(sequences, sum of 4**k)`. Columns are in the order of `sizes`, and alphabetical
        within a size.

    >>> count_kmers(["ACGT", "aaN"], [1]).toarray().tolist()
    [[1.0, 1.0, 1.0, 1.0], [2.0, 0.0, 0.0, 0.0]]
    """
    # A fixed vocabulary instead of the k-mers seen: train and test get the same columns, and k-mers
    # with an N are not counted.
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
        Name of the baseline -> `metrics` of the parts, as in `metrics.json`, and `seconds`.

    Raises:
        InputError: The labels are not single labels.
    """
    if data.problem_type != SINGLE_LABEL:
        raise InputError(f"the baselines are for single labels, but the problem is {data.problem_type}")
    # Every baseline is charged for the counting: it could not do without.
    start = time.monotonic()
    sequences = {part: rows["sequence"][:] for part, rows in data.parts.items()}
    labels = {part: np.array(rows["label"][:]) for part, rows in data.parts.items()}
    fives = {part: count_kmers(rows, [5]) for part, rows in sequences.items()}
    shares = {part: _shares(count_kmers(rows, range(1, 7))) for part, rows in sequences.items()}
    counting_seconds = time.monotonic() - start

    # Naive Bayes takes counts. For the logistic regression, counts become shares of a sequence.
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
    """Divide the counts of each sequence by their sum, so that long sequences do not weigh more."""
    return counts.multiply(1 / np.maximum(counts.sum(1), 1)).tocsr()


def _fit_logistic(inputs: dict[str, sparse.csr_matrix], labels: dict[str, np.ndarray]) -> tuple[float, Any]:
    """Return the C that is best on the validation part, and its model. On a tie the smallest C."""
    best = None
    for penalty in PENALTIES:
        # `MaxAbsScaler` keeps the matrix sparse. Without it, frequent k-mers would dominate.
        model = make_pipeline(MaxAbsScaler(), LogisticRegression(C=penalty, max_iter=300))
        model.fit(inputs["train"], labels["train"])
        accuracy = model.score(inputs["validation"], labels["validation"])
        if best is None or accuracy > best[0]:
            best = (accuracy, penalty, model)
    return best[1:]


def _measure(
    model: Any, inputs: dict[str, sparse.csr_matrix], labels: dict[str, np.ndarray]
) -> dict[str, dict]:
    """Return the metrics of a fitted model on the validation and test parts, as for a network."""
    metrics = {}
    for part in ("validation", "test"):
        if part in inputs:
            # The metrics expect logits. Log-probabilities are logits whose softmax gives the
            # probabilities back. A probability of 0 becomes -1e4 instead of minus infinity.
            with np.errstate(divide="ignore"):
                scores = np.log(model.predict_proba(inputs[part]))
            scores = np.maximum(scores, -1e4)
            metrics[part] = make_compute_metrics(SINGLE_LABEL)(EvalPrediction(scores, labels[part]))
    return metrics
