"""Split labelled sequences so that the same double-stranded DNA is never on both sides.

    training, validation = split_rows(table, labels, SINGLE_LABEL, fraction=0.1, seed=42)
    table.iloc[validation]

Two sequences are the same DNA, "twins", if they are equal or reverse complements of each other.
Case does not matter, nor does U against T. In an alphabet without complement, such as that of
proteins, only equal sequences are twins.
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
from .letters import DNA, Alphabet, strand_free

__all__ = ["dna_keys", "fold_rows", "split_rows", "warn_about_twins"]

Rows = npt.NDArray[np.int64]


def dna_keys(sequences: Iterable[str], alphabet: Alphabet = DNA) -> list[bytes]:
    """Return a digest of each double-stranded sequence: 16 bytes, and equal for twins.

    >>> one, other = dna_keys(["AACG", "cgtt"])
    >>> one == other
    True
    """
    return [hashlib.blake2b(strand_free(s, alphabet).encode(), digest_size=16).digest() for s in sequences]


def _groups(sequences: Iterable[str], alphabet: Alphabet) -> Rows:
    """Number the different double-stranded sequences by first appearance, int64 `(rows,)`."""
    return pd.factorize(np.array(dna_keys(sequences, alphabet), dtype=object))[0]


def split_rows(
    table: pd.DataFrame,
    labels: np.ndarray,
    problem_type: str,
    fraction: float,
    seed: int,
    alphabet: Alphabet = DNA,
) -> tuple[Rows, Rows]:
    """Draw validation rows. Return the numbers of training and validation rows, both in order.

    Single labels keep their proportions. The only sequence of a class stays in the training part.

    Args:
        table: With a column `sequence`; `attrs["name"]` is its name in messages.
        labels: The encoded labels of its rows.
        problem_type: `SINGLE_LABEL`, `MULTI_LABEL` or `REGRESSION`.
        fraction: The share of the different sequences to validate on.
        seed: The seed of the draw.
        alphabet: Which sequences are twins depends on it.

    Raises:
        InputError: There are too few different sequences.

    >>> table = pd.DataFrame({"sequence": ["AAAC", "GTTT", "CCCA", "AGAG"]})    # two of them twins
    >>> [len(rows) for rows in split_rows(table, np.zeros(4), "regression", fraction=0.3, seed=0)]
    [3, 1]
    """
    # Groups of twins are drawn, not rows, so that no group is divided.
    group = _groups(table["sequence"], alphabet)
    groups = int(group.max()) + 1
    candidates = np.arange(groups)
    stratify = None
    validation_groups = max(1, round(fraction * groups))
    if problem_type == SINGLE_LABEL:
        # A group has the label of its first row. A class with a single group cannot be on both
        # sides, and `train_test_split` refuses it, so it is no candidate for validation.
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
    table: pd.DataFrame,
    labels: np.ndarray,
    problem_type: str,
    fold: tuple[int, int],
    seed: int,
    alphabet: Alphabet = DNA,
) -> tuple[Rows, Rows]:
    """Deal rows into folds. Return the numbers of the rows outside and inside one of them.

    Args:
        table: See `split_rows`.
        labels: The encoded labels of its rows.
        problem_type: Single labels keep their proportions in each fold.
        fold: The number of the fold, from 0, and the number of folds.
        seed: The seed of the deal.
        alphabet: Which sequences are twins depends on it.

    Raises:
        InputError: There are more folds than rows of the smallest class.

    >>> table = pd.DataFrame({"sequence": ["AAAC", "GTTT", "CCCA", "AGAG"]})
    >>> folds = [fold_rows(table, np.zeros(4), "regression", (i, 3), seed=0) for i in range(3)]
    >>> sorted(len(inside) for _, inside in folds)
    [1, 1, 2]
    """
    group = _groups(table["sequence"], alphabet)
    number, folds = fold
    # Without classes, count the groups: each fold needs one at least.
    is_single = problem_type == SINGLE_LABEL
    smallest = np.bincount(labels).min() if is_single else group.max() + 1
    if smallest < folds:
        raise InputError(
            f"{table.attrs['name']}: {folds} folds, but only {smallest} rows of a class; take fewer folds"
        )
    splitter = StratifiedGroupKFold if is_single else GroupKFold
    # The splitter yields (training, validation) for each fold. Take that of the fold asked for.
    dealt = splitter(folds, shuffle=True, random_state=seed).split(group, labels, group)
    return next(itertools.islice(dealt, number, None))


def warn_about_twins(
    tables: dict[str, pd.DataFrame], labels: dict[str, np.ndarray], alphabet: Alphabet = DNA
) -> None:
    """Warn if two parts share DNA, or if the training part gives the same DNA two labels."""
    as_they_are = "as they are"
    if alphabet.complement is not None:
        as_they_are = "as they are or as reverse complement"
    keys = {part: dna_keys(table["sequence"], alphabet) for part, table in tables.items()}
    for part, other in itertools.combinations(tables, 2):
        known = set(keys[part])
        shared = sum(key in known for key in keys[other])
        if shared:
            warnings.warn(
                f"{shared} of the {len(tables[other])} {other} sequences are in the {part} part too "
                f"({as_they_are}): the {other} metrics look too good. Remove them from one part.",
                stacklevel=3,
            )

    first_label: dict[bytes, object] = {}
    disagreeing = set()
    # Twins with one label only weigh double. With two labels, one of them must be wrong.
    for key, label in zip(keys["train"], labels["train"].tolist(), strict=True):
        if first_label.setdefault(key, label) != label:
            disagreeing.add(key)
    if disagreeing:
        row = next(i for i, key in enumerate(keys["train"]) if key in disagreeing)
        warnings.warn(
            f"{len(disagreeing)} sequences are in the train part more than once, {as_they_are}, "
            f"with different labels; the first is row {tables['train']['row'].iloc[row]}.",
            stacklevel=3,
        )
