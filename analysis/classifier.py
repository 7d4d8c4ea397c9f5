"""Cross-validate a classifier on embeddings, without related rows on both sides.

    groups = groups_of(sequences)
    metrics, predicted = cross_validate(vectors, labels, "logistic", folds=5, groups=groups)

All rows of a group are in the same fold, so no row is predicted from a relative.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hyenadna.errors import InputError
from hyenadna.genomics.genes import GeneSequences
from hyenadna.genomics.letters import DNA, Alphabet
from hyenadna.genomics.splits import dna_keys

__all__ = ["CLASSIFIERS", "check_classes", "cross_validate", "groups_of", "majority"]

CLASSIFIERS = ("logistic", "boosted_trees")


def groups_of(sequences: Sequence[str], alphabet: Alphabet = DNA) -> np.ndarray:
    """Return a group number for each row, int64 `(rows,)`. Related rows have the same number.

    Rows are related if they have the same double-stranded DNA or the same gene, or a relative in
    common.

    Args:
        sequences: The sequences of the rows. Only `GeneSequences` know the genes.
        alphabet: Without a complement, only equal sequences are related.

    >>> groups_of(["AAC", "GGG", "gtt"]).tolist()
    [0, 1, 0]
    """
    rows = len(sequences)
    shared = [dna_keys((sequences[i] for i in range(rows)), alphabet)]
    if isinstance(sequences, GeneSequences):
        shared.append([gene.gene for gene in sequences.genes])

    # A graph with a node for each row, each DNA and each gene. An edge joins a row to what it has.
    # The connected components are the groups: this also finds relatives of relatives.
    starts = []
    ends = []
    nodes = rows
    for keys in shared:
        codes = pd.factorize(np.array(keys, dtype=object))[0]
        starts.append(np.arange(rows))
        ends.append(nodes + codes)
        nodes += codes.max() + 1
    edges = (np.concatenate(starts), np.concatenate(ends))
    weights = np.ones(len(edges[0]), dtype=np.int8)
    graph = coo_array((weights, edges), shape=(nodes, nodes))
    _, component = connected_components(graph, directed=False)
    return component[:rows]


def check_classes(labels: Sequence[str], groups: np.ndarray, folds: int) -> None:
    """Raise `InputError` if there is one class, or a class has fewer groups of rows than folds."""
    # Count each group once for a class: rows of one group always share a fold.
    pairs = np.unique(np.column_stack([labels, groups]), axis=0)
    names, counts = np.unique(pairs[:, 0], return_counts=True)
    if len(names) < 2 or counts.min() < folds:
        classes = dict(zip(names.tolist(), counts.tolist(), strict=True))
        raise InputError(
            f"a classifier needs two classes and {folds} rows of each (folds), those of the same gene "
            f"or DNA counted once, but there are {classes}"
        )


def cross_validate(
    vectors: np.ndarray,
    labels: Sequence[str],
    classifier: str = "logistic",
    *,
    folds: int = 5,
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> tuple[dict[str, float], np.ndarray]:
    """Predict the class of each row by a classifier that was fitted without it.

    Args:
        vectors: Embeddings `(rows, d)`.
        labels: The classes of the rows.
        classifier: `"logistic"` or `"boosted_trees"`.
        folds: The number of folds.
        seed: The seed of the folds and the trees.
        groups: A group number for each row `(rows,)`; see `groups_of`. By default each row is
            alone.

    Returns:
        `accuracy`, `f1_weighted` and `f1_macro`, and the predicted classes.

    Raises:
        InputError: There is one class, or one has fewer groups of rows than there are folds.

    >>> vectors = np.array([[0.0], [9], [1], [8], [0], [9]])
    >>> cross_validate(vectors, ["a", "b"] * 3, folds=3)[0]["accuracy"]
    1.0
    """
    if groups is None:
        groups = np.arange(len(labels))
    check_classes(labels, groups, folds)
    if classifier == "logistic":
        # The solver converges only if all dimensions have the same scale. Trees do not care.
        solver = LogisticRegression(max_iter=1000, class_weight="balanced")
        model = make_pipeline(StandardScaler(), solver)
    else:
        model = HistGradientBoostingClassifier(random_state=seed)

    # If every row is a group of its own, the splitter without groups balances the classes better.
    if len(np.unique(groups)) < len(groups):
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        splits = splitter.split(vectors, labels, groups)
    else:
        splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
        splits = splitter.split(vectors, labels)
    # The splits are fixed before fitting, so every classifier is judged on the same folds.
    predicted = cross_val_predict(model, vectors, labels, cv=list(splits))
    return {"accuracy": float(accuracy_score(labels, predicted)), **_f1(labels, predicted)}, predicted


def majority(labels: Sequence[str]) -> dict[str, float]:
    """Return the same metrics for always guessing the most frequent class.

    >>> majority(["a", "a", "b", "a"])["accuracy"]
    0.75
    """
    names, counts = np.unique(labels, return_counts=True)
    guess = [names[counts.argmax()]] * len(labels)
    return {"accuracy": float(counts.max() / counts.sum()), **_f1(labels, guess)}


def _f1(labels: Sequence[str], predicted: Sequence[str]) -> dict[str, float]:
    scores = {}
    for average in ("weighted", "macro"):
        scores[f"f1_{average}"] = float(f1_score(labels, predicted, average=average, zero_division=0))
    return scores
