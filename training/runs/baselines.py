"""Simple baselines on the same rows as a network: `fit_baselines(data)`.

- the most frequent class;
- naive Bayes on 5-mers;
- logistic regression on 1- to 6-mers, with the penalty chosen on the validation part. Of alphabets
  with more letters, such as that of proteins, on 1- to 3-mers.

All are scikit-learn's, fitted on the training part alone and evaluated like the networks.
`fit_kmers` fits only the last one, in bounded time, and uses it to find out whether the labels
depend on the strand.
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
from sklearn.metrics import matthews_corrcoef
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler
from transformers import EvalPrediction

from hyenadna.errors import InputError
from hyenadna.genomics.labelled import SINGLE_LABEL, LabelledData
from hyenadna.genomics.letters import DNA, SOFT_MASKED, Alphabet, encode, is_exact, reverse_complement

from .metrics import make_compute_metrics

MAJORITY = "most frequent class"
NAIVE_BAYES = "5-mer naive Bayes"
PENALTIES = (0.001, 0.01, 0.1, 1.0)  # values of C, from strong to weak

# Bounds of `fit_kmers`: counting ten million bases takes about half a minute.
MOST_ROWS = 20_000
MOST_BASES = 10_000_000
SHARES_OF_CURVE = (0.125, 0.25, 0.5, 1.0)
# With fewer validation rows than this, the training rows are used too, by cross-validation.
ENOUGH_ROWS = 500
FOLDS = 5
# One strand is chosen only if it predicts these rows better by this many standard errors. In doubt
# both are better, because they double the data.
CLEARLY = 2.0
_SHIFT = 0x100  # of an id to a character

_UPPER_CASE = str.maketrans("acgtuU", "ACGTTT")


def longest_kmer(alphabet: Alphabet) -> int:
    """Return the longest k-mers to count: of many letters, there are too many long ones."""
    return 6 if len(alphabet.letters) <= 5 else 3


def logistic_name(alphabet: Alphabet) -> str:
    """Return the name of the k-mer model in reports."""
    return f"1..{longest_kmer(alphabet)}-mer logistic regression"


LOGISTIC = logistic_name(DNA)


class Kmers:
    """Which k-mers are counted: those of size 1 to `longest_kmer`.

    Of DNA and RNA all; of larger alphabets those that two training sequences have, since most of the
    possible ones never occur. K-mers with an ambiguous letter do not count.

    Args:
        alphabet: The letters.
        train: The training sequences.
    """

    def __init__(self, alphabet: Alphabet, train: Sequence[str]):
        self.alphabet = alphabet
        self.sizes = range(1, longest_kmer(alphabet) + 1)
        self.columns: list[str] | None = None
        if alphabet != DNA:
            exact = "".join(chr(_SHIFT + i) for i in np.flatnonzero(is_exact(alphabet)))
            least = 1 if len(alphabet.letters) <= 5 else min(2, len(train))
            counter = CountVectorizer(analyzer="char", ngram_range=(1, max(self.sizes)), min_df=least)
            counter.set_params(preprocessor=self._text)
            seen = counter.fit(train).get_feature_names_out()
            self.columns = [kmer for kmer in seen if set(kmer) <= set(exact)]

    def count(self, sequences: Iterable[str]) -> sparse.csr_matrix:
        """Return how often each sequence has each k-mer, float32 `(sequences, k-mers)`."""
        if self.columns is None:
            return count_kmers(sequences, self.sizes)
        counter = CountVectorizer(
            analyzer="char",
            ngram_range=(1, max(self.sizes)),
            vocabulary=self.columns,
            preprocessor=self._text,
            dtype=np.float32,
        )
        return counter.transform(sequences)

    def _text(self, sequence: str) -> str:
        """Return a sequence with one character for each token."""
        # Shifted, because the ids of some letters are those of blanks, which scikit-learn joins.
        ids = encode(sequence, self.alphabet) % SOFT_MASKED
        return (ids.astype("<u2") + _SHIFT).tobytes().decode("utf-16-le")


def count_kmers(sequences: Iterable[str], sizes: Sequence[int]) -> sparse.csr_matrix:
    """Count the k-mers of each sequence of DNA.

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
    if data.alphabet != DNA:
        raise InputError(f"these baselines are for DNA, but the alphabet is {data.alphabet.spec!r}")
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


def fit_kmers(data: LabelledData, compare_strands: bool = True) -> dict[str, Any]:
    """Fit logistic regression on k-mers in bounded time, and compare one strand with both.

    A large data set is sampled: at most `MOST_ROWS` rows and `MOST_BASES` bases of each part.

    Args:
        data: Data with single labels.
        compare_strands: Fit a second model, on the k-mers of both strands together.

    Returns:
        `metrics`, `seconds` and `C`, as in `fit_baselines`; `rows`, how many of each part were used;
        `curve`, the validation MCC with an eighth, a quarter, a half and all of the rows. With
        `compare_strands` also `strands`: the mean log loss on held-out rows with one strand and with
        both, the standard error of their difference, and `better`, "one" or "both".
    """
    start = time.monotonic()
    sequences = {}
    labels = {}
    for part, rows in data.parts.items():
        sequences[part], labels[part] = _sample(rows["sequence"][:], np.array(rows["label"][:]))
    kmers = Kmers(data.alphabet, sequences["train"])
    shares = {part: _shares(kmers.count(texts)) for part, texts in sequences.items()}
    penalty, model = _fit_logistic(shares, labels)
    result = {
        "metrics": _measure(model, shares, labels),
        "seconds": round(time.monotonic() - start, 2),
        "C": penalty,
        "rows": {part: len(texts) for part, texts in sequences.items()},
    }
    result["curve"] = _learning_curve(shares, labels, penalty)
    if compare_strands:
        result["strands"] = _compare_strands(kmers, sequences, labels, shares, penalty)
    return result


def _sample(sequences: list[str], labels: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Draw rows up to the bounds of `fit_kmers`, and keep their order. Few rows are all taken."""
    lengths = np.array([len(sequence) for sequence in sequences])
    if len(lengths) <= MOST_ROWS and lengths.sum() <= MOST_BASES:
        return sequences, labels
    # A fixed seed: the baseline must not change with the seed of the network.
    drawn = np.random.default_rng(0).permutation(len(lengths))
    bases = np.cumsum(lengths[drawn])
    fitting = max(1, int(np.searchsorted(bases, MOST_BASES, side="right")))
    kept = drawn[: min(fitting, MOST_ROWS)]
    # A class that was not drawn could not be predicted, so take its first row too.
    missing = [np.flatnonzero(labels == label)[0] for label in np.setdiff1d(labels, labels[kept])]
    kept = np.sort(np.concatenate([kept, np.array(missing, dtype=kept.dtype)]))
    return [sequences[i] for i in kept], labels[kept]


def _learning_curve(
    inputs: dict[str, sparse.csr_matrix], labels: dict[str, np.ndarray], penalty: float
) -> list[dict[str, float]]:
    """Return `rows` and validation `mcc` of models fitted on more and more random rows."""
    rows = inputs["train"].shape[0]
    drawn = np.random.default_rng(0).permutation(rows)
    curve = []
    for share in SHARES_OF_CURVE:
        kept = drawn[: max(1, int(share * rows))]
        if len(np.unique(labels["train"][kept])) < 2:
            continue
        model = _logistic(penalty).fit(inputs["train"][kept], labels["train"][kept])
        predicted = model.predict(inputs["validation"])
        curve.append({"rows": len(kept), "mcc": float(matthews_corrcoef(labels["validation"], predicted))})
    return curve


def _compare_strands(
    kmers: Kmers,
    sequences: dict[str, list[str]],
    labels: dict[str, np.ndarray],
    shares: dict[str, sparse.csr_matrix],
    penalty: float,
) -> dict[str, Any]:
    """Fit on the k-mers of both strands together, and compare the losses with those of one strand.

    Does the label depend on the strand, as for splice sites, or promoters that all point the same
    way? Then the model of both strands loses what tells the classes apart. If not, it has twice the
    data.
    """
    of_both = {}
    for part in ("train", "validation"):
        other = [reverse_complement(sequence, kmers.alphabet) for sequence in sequences[part]]
        of_both[part] = _shares(kmers.count(sequences[part]) + kmers.count(other))
    losses_one = _held_out_losses(shares, labels, penalty)
    losses_both = _held_out_losses(of_both, labels, penalty)

    # Both models predict the same rows. The difference for each row varies less than its losses do.
    difference = losses_both - losses_one
    error = 0.0
    if len(difference) > 1:
        error = float(difference.std(ddof=1) / np.sqrt(len(difference)))
    one_is_better = difference.mean() > CLEARLY * error
    return {
        "loss_one": float(losses_one.mean()),
        "loss_both": float(losses_both.mean()),
        "standard_error": error,
        "rows_asked": len(difference),
        "better": "one" if one_is_better else "both",
    }


def _held_out_losses(
    inputs: dict[str, sparse.csr_matrix], labels: dict[str, np.ndarray], penalty: float
) -> np.ndarray:
    """Return the log loss of each validation row and, if these are few, of each training row.

    The training rows are cross-validated, so no row is predicted by a model that has seen it.
    """
    train = inputs["train"]
    truth = labels["train"]
    model = _logistic(penalty).fit(train, truth)
    losses = _log_losses(model.predict_proba(inputs["validation"]), labels["validation"], model.classes_)
    folds = min(FOLDS, np.bincount(truth)[np.unique(truth)].min())
    if len(losses) >= ENOUGH_ROWS or folds < 2:
        return losses
    splitter = StratifiedKFold(folds, shuffle=True, random_state=0)
    scores = cross_val_predict(_logistic(penalty), train, truth, cv=splitter, method="predict_proba")
    return np.concatenate([losses, _log_losses(scores, truth, model.classes_)])


def _log_losses(probability: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the log loss of each row, float64 `(rows,)`, from probabilities `(rows, classes)`."""
    columns = np.searchsorted(classes, labels)
    return -np.log(np.maximum(probability[np.arange(len(labels)), columns], 1e-12))


def _shares(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Divide the counts of each sequence by their sum, so that long sequences do not weigh more."""
    return counts.multiply(1 / np.maximum(counts.sum(1), 1)).tocsr()


def _fit_logistic(inputs: dict[str, sparse.csr_matrix], labels: dict[str, np.ndarray]) -> tuple[float, Any]:
    """Return the C that is best on the validation part, and its model. On a tie the smallest C."""
    best = None
    for penalty in PENALTIES:
        model = _logistic(penalty)
        model.fit(inputs["train"], labels["train"])
        accuracy = model.score(inputs["validation"], labels["validation"])
        if best is None or accuracy > best[0]:
            best = (accuracy, penalty, model)
    return best[1:]


def _logistic(penalty: float) -> Any:
    # `MaxAbsScaler` keeps the matrix sparse. Without it, frequent k-mers would dominate.
    return make_pipeline(MaxAbsScaler(), LogisticRegression(C=penalty, max_iter=300))


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
