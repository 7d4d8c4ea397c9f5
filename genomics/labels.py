"""Check and encode the labels of sequences: classes, zeros and ones, or numbers.

    names, labels = encode_labels({"train": table}, SINGLE_LABEL, ("label",))
    names[labels["train"][0]]                                    # the class of the first row

A row that cannot be used raises an `InputError` that names the file, the row (from 0) and the
value. A table's name for messages is `attrs["name"]`.
"""

import re
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pandas as pd

from hyenadna.errors import InputError

from .letters import DNA, UNK, Alphabet, bytes_to_ids, first_wrong

__all__ = [
    "MULTI_LABEL",
    "REGRESSION",
    "SINGLE_LABEL",
    "check_sequences",
    "check_spellings",
    "encode_labels",
    "label_text",
]

SINGLE_LABEL = "single_label_classification"
MULTI_LABEL = "multi_label_classification"
REGRESSION = "regression"


def check_sequences(table: pd.DataFrame, alphabet: Alphabet = DNA) -> None:
    """Raise `InputError` for a missing sequence, another letter, or a repeated id.

    Args:
        table: With a column `sequence` and perhaps `id`; `attrs["name"]` is its name in messages.
        alphabet: Which letters the sequences have.
    """
    name = table.attrs["name"]
    if len(table) == 0:
        raise InputError(f"{name} has no rows")
    for row, sequence in enumerate(table["sequence"]):
        if not isinstance(sequence, str):
            kind = type(sequence).__name__
            raise InputError(f"{name}: the sequence of row {row} is {sequence!r} ({kind}), not text")
        if not sequence:
            raise InputError(f"{name}: the sequence of row {row} is empty; remove the row")
        if UNK in alphabet.pack(sequence).translate(bytes_to_ids(alphabet)):
            character, position, total = first_wrong(sequence, alphabet)
            raise InputError(
                f"{name}: the sequence of row {row} holds {character!r} at position {position}, which is "
                f"no {alphabet.meaning}{total}: {sequence[:40]!r}. Is it the right sequence_column, and "
                f"is {alphabet.spec!r} the alphabet?"
            )
    if "id" in table:
        repeated = table["id"].duplicated()
        if repeated.any():
            value = table["id"][repeated].iloc[0]
            rows = table.index[table["id"] == value].to_list()
            raise InputError(f"{name}: the id {value!r} is in rows {rows[:5]}; ids must be unique")


def encode_labels(
    tables: dict[str, pd.DataFrame], problem_type: str, label_columns: tuple[str, ...]
) -> tuple[list[str], dict[str, np.ndarray]]:
    """Return the names of the labels, and the encoded labels of each part.

    Args:
        tables: `train` and others. The column is `label`; several are `label 0`, `label 1`, ...
        problem_type: `SINGLE_LABEL`, `MULTI_LABEL` or `REGRESSION`.
        label_columns: The names that the columns have in their source.

    Returns:
        Names: the sorted classes, the column names, or `["value"]`. Labels: class indices
            `(rows,)`, 0 and 1 as float64 `(rows, labels)`, or float64 `(rows,)`.

    Raises:
        InputError: A label is missing, is not a number, or its class has no training row.

    >>> table = pd.DataFrame({"label": ["promoter", "none", "promoter"]})
    >>> table.attrs["name"] = "rows.csv"
    >>> names, labels = encode_labels({"train": table}, SINGLE_LABEL, ("label",))
    >>> names, labels["train"].tolist()
    (['none', 'promoter'], [1, 0, 1])
    """
    if problem_type == REGRESSION:
        return ["value"], {part: _numbers(table, "label") for part, table in tables.items()}
    if problem_type == MULTI_LABEL:
        return _encode_many(tables, label_columns)
    return _encode_classes(tables)


def _encode_many(
    tables: dict[str, pd.DataFrame], label_columns: tuple[str, ...]
) -> tuple[list[str], dict[str, np.ndarray]]:
    # Either several columns, one for each label, or one column of lists.
    labels = {part: _zeros_and_ones(table, len(label_columns)) for part, table in tables.items()}
    widths = {part: values.shape[1] for part, values in labels.items()}
    if len(set(widths.values())) > 1:
        raise InputError(f"the parts have different numbers of labels: {widths}")
    if len(label_columns) > 1:
        return list(label_columns), labels
    return [str(i) for i in range(widths["train"])], labels


def _encode_classes(tables: dict[str, pd.DataFrame]) -> tuple[list[str], dict[str, np.ndarray]]:
    texts = {}
    for part, table in tables.items():
        texts[part] = [label_text(value, row, table) for row, value in enumerate(table["label"])]
    names = sorted(set(texts["train"]))
    # Numeric classes in the order of their numbers: 2 before 10.
    if all(name.isdecimal() for name in names):
        names.sort(key=_as_number)
    _check_classes(names, len(texts["train"]), tables["train"].attrs["name"])

    index = {name: i for i, name in enumerate(names)}
    for part, values in texts.items():
        for row, value in enumerate(values):
            if value not in index:
                known = names if len(names) <= 20 else [*names[:20], "..."]
                raise InputError(
                    f"{tables[part].attrs['name']}: row {row} has the label {value!r}, which no "
                    f"training row has; known labels are {known}"
                )
    return names, {part: np.array([index[value] for value in values]) for part, values in texts.items()}


def _as_number(digits: str) -> tuple[int, str]:
    """Return a sort key that orders texts of digits as numbers."""
    # Not `int`, which refuses more than 4,300 digits.
    digits = digits.lstrip("0")
    return len(digits), digits


def check_spellings(names: Iterable[str], where: str) -> None:
    """Raise `InputError` if two labels are the same number: as texts they would be two classes.

    >>> check_spellings(["1", "2", "1.0"], "rows.csv")
    Traceback (most recent call last):
    hyenadna.errors.InputError: rows.csv: the labels '1' and '1.0' are the same number; write them alike
    """
    spelling_of: dict[str, str] = {}
    for name in names:
        number = re.fullmatch(r"(-?\d+)(\.0*)?", name)
        if number is None:
            continue
        first = spelling_of.setdefault(number[1], name)
        if first != name:
            raise InputError(
                f"{where}: the labels {first!r} and {name!r} are the same number; write them alike"
            )


def _check_classes(names: list[str], rows: int, train: str) -> None:
    if len(names) == 1:
        raise InputError(
            f"{train}: every row has the label {names[0]!r}; a classifier needs two classes or more"
        )
    check_spellings(names, train)
    # More than half as many classes as rows: most likely the wrong column, or a regression.
    if len(names) > max(20, rows // 2):
        raise InputError(
            f"{train}: {len(names)} different labels in {rows} rows, the first is {names[0]!r}. Is it "
            f"the right label_column? To predict numbers, set problem_type to {REGRESSION!r}"
        )


def label_text(value: object, row: int, table: pd.DataFrame) -> str:
    """Return a class as text. 1, 1.0 and True are all `"1"`.

    Raises:
        InputError: It is missing, or a list.

    >>> label_text(1.0, 0, pd.DataFrame())
    '1'
    """
    if isinstance(value, list | tuple | dict | np.ndarray):
        raise InputError(
            f"{table.attrs['name']}: the label of row {row} is {_shown(value)}, which is not a single "
            f"label; for lists of 0 and 1 set problem_type to {MULTI_LABEL!r}"
        )
    is_nan = value != value  # of any type: float, numpy, pandas
    is_blank = isinstance(value, str) and value.strip().lower() in ("", "nan")
    if value is None or is_nan or is_blank:
        raise InputError(
            f"{table.attrs['name']}: the label of row {row} is missing ({value!r}); remove or label the row"
        )
    if isinstance(value, bool | np.bool_ | float | np.floating) and float(value).is_integer():
        return str(int(value))  # pandas turns a column of integers with a gap into floats
    return str(value).strip()


def _shown(value: object) -> str:
    """Return `repr(value)`, shortened to fit into a message."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def _numbers(table: pd.DataFrame, column: str) -> npt.NDArray[np.float64]:
    # `coerce` turns what is no number into NaN, so that the row can be named.
    numbers = pd.to_numeric(table[column], errors="coerce").to_numpy(np.float64)
    wrong = np.flatnonzero(~np.isfinite(numbers))
    if len(wrong):
        # `tolist` gives a Python object: "nan" in the message, not "np.float64(nan)".
        value = _shown(table[column].tolist()[wrong[0]])
        raise InputError(
            f"{table.attrs['name']}: the label of row {wrong[0]} is {value}, not a finite number"
        )
    return numbers


def _zeros_and_ones(table: pd.DataFrame, columns: int) -> npt.NDArray[np.float64]:
    """Return labels `(rows, labels)` from several columns, or from one column of lists."""
    name = table.attrs["name"]
    if columns > 1:
        values = np.stack([_numbers(table, f"label {i}") for i in range(columns)], axis=1)
    else:
        first = table["label"].iloc[0]
        for row, value in enumerate(table["label"]):
            if not isinstance(value, list | tuple | np.ndarray) or len(value) != len(first):
                raise InputError(
                    f"{name}: the label of row {row} is {_shown(value)}; expected lists of 0 and 1, "
                    "equally long"
                )
        try:
            values = np.array([list(value) for value in table["label"]], dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"{name}: labels are lists of 0 and 1, but {error}") from error
    wrong = np.argwhere((values != 0) & (values != 1))
    if len(wrong):
        row, column = wrong[0]
        raise InputError(
            f"{name}: label {column} of row {row} is {values[row, column]}; a multi-label is 0 or 1"
        )
    return values
