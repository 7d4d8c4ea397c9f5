"""What simple methods reach on the same rows, to stand beside a network: `fit_baselines(data)`.

The most frequent class; naive Bayes on 5-mers; logistic regression on 1- to 6-mers, whose penalty is chosen on the
validation part. All by scikit-learn, fitted on the training part alone and measured as the networks are.
"""

import time
from collections.abc import Iterable, Sequence

import numpy as np
from scipy import sparse
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler
from transformers import EvalPrediction

from hyenadna.errors import InputError
from hyenadna.genomics.labelled import SINGLE_LABEL, LabelledData
from hyenadna.training.runs.metrics import make_compute_metrics

MAJORITY, NAIVE_BAYES, LOGISTIC = "most frequent class", "5-mer naive Bayes", "1..6-mer logistic regression"
PENALTIES = (0.001, 0.01, 0.1, 1.0)  # values of C, from strong to weak

_CODE = np.full(256, 4, dtype=np.int64)
for _i, _letters in enumerate(("Aa", "Cc", "Gg", "TtUu")):
    _CODE[[ord(letter) for letter in _letters]] = _i


def count_kmers(sequences: Iterable[str], sizes: Sequence[int]) -> sparse.csr_matrix:
    """Count the k-mers of each sequence: float32 `(sequences, sum of 4**k)`, those of the first size first.

    Within a size they stand in alphabetical order; a k-mer with a letter other than A, C, G, T (U) is not counted.
    """
    rows = []
    for sequence in sequences:
        code = _CODE[np.frombuffer(sequence.encode(errors="replace"), np.uint8)]
        other = np.concatenate([[0], np.cumsum(code > 3)])
        columns, counts, offset = [], [], 0
        for k in sizes:
            n = len(code) - k + 1
            kmers = np.zeros(max(n, 0), dtype=np.int64)
            for i in range(k if n > 0 else 0):
                kmers = kmers * 4 + code[i : i + n]
            found, times = np.unique(kmers[other[k:] == other[: max(n, 0)]] if n > 0 else kmers, return_counts=True)
            columns.append(found + offset)
            counts.append(times)
            offset += 4**k
        rows.append((np.concatenate(columns), np.concatenate(counts).astype(np.float32)))
    starts = np.cumsum([0, *(len(columns) for columns, _ in rows)])
    empty = [(np.zeros(0, np.int64), np.zeros(0, np.float32))]
    columns, counts = (np.concatenate(parts) for parts in zip(*(rows or empty), strict=True))
    return sparse.csr_matrix((counts, columns, starts), shape=(len(rows), sum(4**k for k in sizes)))


def fit_baselines(data: LabelledData) -> dict[str, dict]:
    """Fit every baseline; return of each by its name the `metrics` of the parts, as in `metrics.json`, and `seconds`.

    Raises:
        InputError: The problem is no single label.
    """
    if data.problem_type != SINGLE_LABEL:
        raise InputError(f"the baselines are for single labels, but the problem is {data.problem_type}")
    start = time.monotonic()
    sequences = {part: rows["sequence"] for part, rows in data.parts.items()}
    labels = {part: np.array(rows["label"][:]) for part, rows in data.parts.items()}
    fives = {part: count_kmers(rows, [5]) for part, rows in sequences.items()}
    # as shares of each sequence, so that a long one does not weigh more
    all_sizes = {part: count_kmers(rows, range(1, 7)) for part, rows in sequences.items()}
    shares = {part: counts.multiply(1 / np.maximum(counts.sum(1), 1)).tocsr() for part, counts in all_sizes.items()}
    counting, results = time.monotonic() - start, {}

    def add(name, model, inputs, began, **more) -> None:
        metrics = {}
        for part in [part for part in ("validation", "test") if part in inputs]:
            with np.errstate(divide="ignore"):
                scores = np.log(model.predict_proba(inputs[part]))
            scores = np.maximum(scores, -1e4)  # the logits of a class with probability 0
            metrics[part] = make_compute_metrics(SINGLE_LABEL)(EvalPrediction(scores, labels[part]))
        results[name] = {"metrics": metrics, "seconds": round(counting + time.monotonic() - began, 2), **more}

    for name, model in ((MAJORITY, DummyClassifier()), (NAIVE_BAYES, MultinomialNB())):
        began = time.monotonic()
        add(name, model.fit(fives["train"], labels["train"]), fives, began)
    began, tried = time.monotonic(), {}
    for penalty in PENALTIES:
        model = make_pipeline(MaxAbsScaler(), LogisticRegression(C=penalty, max_iter=300))
        model.fit(shares["train"], labels["train"])
        tried[penalty] = (model.score(shares["validation"], labels["validation"]), model)
    best = max(tried, key=lambda penalty: tried[penalty][0])  # of equals the stronger penalty
    add(LOGISTIC, tried[best][1], shares, began, C=best)
    return results
