"""Splits of labelled sequences in which the same double-stranded DNA is never on both sides.

    training, validation = split_rows(table, labels, SINGLE_LABEL, fraction=0.1, seed=42)
    table.iloc[validation]

Two sequences are the same DNA if they are equal or reverse complements, without regard to case and
to U or T.
"""

import hashlib
import itertools
import warnings
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold, train_test_split

from hyenadna.errors import InputError

from .labels import SINGLE_LABEL
from .letters import strand_free

__all__ = ["dna_keys", "fold_rows", "split_rows", "warn_about_twins"]

Rows = npt.NDArray[np.int64]


def dna_keys(sequences: Iterable[str]) -> list[bytes]:
    """Return a digest of each double-stranded sequence: equal for twins, and small however long the
    sequence is.

    >>> one, other = dna_keys(["AACG", "cgtt"])
    >>> one == other
    True
    """
    return [hashlib.blake2b(strand_free(s).encode(), digest_size=16).digest() for s in sequences]


def _groups(sequences: Iterable[str]) -> Rows:
    """Number the different double-stranded sequences in the order in which they appear, int64
    `(rows,)`.
    """
    return pd.factorize(np.array(dna_keys(sequences), dtype=object))[0]


def split_rows(
    table: pd.DataFrame, labels: np.ndarray, problem_type: str, fraction: float, seed: int
) -> tuple[Rows, Rows]:
    """Draw validation rows; return the numbers of the training rows and of these, each in order.

    Single labels keep their proportions; the only sequence of a class stays in the training part.

    Args:
        table: With a column `sequence`; `attrs["name"]` is its name in messages.
        labels: Of its rows.
        problem_type: `SINGLE_LABEL`, `MULTI_LABEL` or `REGRESSION`.
        fraction: Of the different sequences, to validate on.
        seed: Of the draw.

    Raises:
        InputError: There are too few different sequences.
    """
    group = _groups(table["sequence"])
    groups = int(group.max()) + 1
    candidates = np.arange(groups)
    stratify = None
    validation_groups = max(1, round(fraction * groups))
    if problem_type == SINGLE_LABEL:
        # One label for each group, that of its first row. Classes with one group cannot be on both
        # sides.
        stratify = labels[np.unique(group, return_index=True)[1]]
        is_frequent = np.bincount(stratify)[stratify] > 1
        candidates = candidates[is_frequent]
        stratify = stratify[is_frequent]
        classes = len(np.unique(stratify))
        validation_groups = max(validation_groups, classes)
        if classes == 0 or len(candidates) - validation_groups < classes:
            raise InputError(
                f"{table.attrs['name']}: {groups} different sequences of {labels.max() + 1} classes are "
                f"too few to split off a validation part; pass validation_data"
            )
    elif groups < 2:
        raise InputError(f"{table.attrs['name']}: one sequence cannot be split; pass validation_data")
    _, chosen = train_test_split(
        candidates, test_size=validation_groups, stratify=stratify, random_state=seed
    )
    is_validation = np.isin(group, chosen)
    return np.flatnonzero(~is_validation), np.flatnonzero(is_validation)


def fold_rows(
    table: pd.DataFrame, labels: np.ndarray, problem_type: str, fold: tuple[int, int], seed: int
) -> tuple[Rows, Rows]:
    """Deal rows into folds; return the numbers of the rows outside and inside of one of them.

    Args:
        table: See `split_rows`.
        labels: Of its rows.
        problem_type: Single labels keep their proportions in each fold.
        fold: Its number, from 0, and how many there are.
        seed: Of the deal.

    Raises:
        InputError: There are more folds than rows of the smallest class.
    """
    group = _groups(table["sequence"])
    number, folds = fold
    is_single = problem_type == SINGLE_LABEL
    smallest = np.bincount(labels).min() if is_single else group.max() + 1
    if smallest < folds:
        raise InputError(
            f"{table.attrs['name']}: {folds} folds, but only {smallest} rows of a class; take fewer folds"
        )
    splitter = StratifiedGroupKFold if is_single else GroupKFold
    dealt = splitter(folds, shuffle=True, random_state=seed).split(group, labels, group)
    return next(itertools.islice(dealt, number, None))


def warn_about_twins(tables: dict[str, pd.DataFrame], labels: dict[str, np.ndarray]) -> None:
    """Warn if two parts share DNA, and if the training part labels the same DNA in two ways."""
    keys = {part: dna_keys(table["sequence"]) for part, table in tables.items()}
    for part, other in itertools.combinations(tables, 2):
        known = set(keys[part])
        shared = sum(key in known for key in keys[other])
        if shared:
            warnings.warn(
                f"{shared} of the {len(tables[other])} {other} sequences stand in the {part} part too "
                f"(as they are or as reverse complement): the {other} metrics look too good. Remove "
                "them from one part.",
                stacklevel=3,
            )

    first_label: dict[bytes, object] = {}
    disagreeing = set()
    for key, label in zip(keys["train"], labels["train"].tolist(), strict=True):
        if first_label.setdefault(key, label) != label:
            disagreeing.add(key)
    if disagreeing:
        row = next(i for i, key in enumerate(keys["train"]) if key in disagreeing)
        warnings.warn(
            f"{len(disagreeing)} sequences stand in the train part more than once, as they are or as reverse "
            f"complement, with different labels; the first is row {tables['train']['row'].iloc[row]}.",
            stacklevel=3,
        )
