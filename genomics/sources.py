"""Read labelled sequences from tables, FASTA, folders, the Hub or `datasets` objects.

    columns = Columns("sequence", ("label",), "id")
    read_parts("promoters", columns)["train"]  # a table with the columns row, sequence, label and maybe id

This file checks only that the source can be read and has its columns. `labels.py` checks the rows.
"""

import re
from pathlib import Path
from typing import NamedTuple, TypeAlias

import pandas as pd
from datasets import ClassLabel, Dataset, DatasetDict, load_dataset

from hyenadna.errors import InputError, one_line, only_a_path

from .fasta import fasta_records, read_fasta
from .files import (
    FASTA,
    PART_NAMES,
    TABLES,
    TEXT,
    column_names,
    has_suffix,
    part_of_file,
    read_table,
    read_text,
)

__all__ = ["Columns", "Source", "has_labels", "join_tables", "name_of", "read_parts"]

Source: TypeAlias = str | Path | Dataset | DatasetDict


class Columns(NamedTuple):
    """The columns of a source.

    Attributes:
        sequence: The column of the sequences.
        labels: The columns of the labels: one, several (multi-label) or none.
        id: The column of unique row names, used if it exists.
    """

    sequence: str
    labels: tuple[str, ...]
    id: str


def name_of(source: object) -> str:
    """Return the name of a source for messages."""
    if isinstance(source, str | Path):
        return str(source)
    return f"the {type(source).__name__} that was passed"


def read_parts(source: Source, columns: tuple[str, tuple[str, ...], str]) -> dict[str, pd.DataFrame]:
    """Read any source into one table for each part.

    Args:
        source: See `read_labelled_data`.
        columns: See `Columns`.

    Returns:
        Tables under `train`, `validation` and `test`; a source without parts is `train`. Their
        columns are `row`, `sequence`, `label` (or `label 0`, `label 1`, ...) and perhaps `id`. The
        name of a table for messages is `attrs["name"]`.

    Raises:
        InputError: The source cannot be read or lacks a column.
    """
    columns = Columns(*columns)
    if isinstance(source, Dataset):
        return {"train": _from_dataset(source, name_of(source), columns)}
    if isinstance(source, DatasetDict):
        return _from_dataset_dict(source, name_of(source), columns)
    if not isinstance(source, str | Path):
        raise InputError(
            f"data must be a path, the name of a data set or a `datasets` object, got {type(source)}"
        )
    # What exists here is meant, even if a data set on the Hub has the same name.
    path = Path(source)
    if path.is_dir():
        return _from_folder(path, columns)
    if path.is_file():
        return {"train": _from_file(path, columns)}
    return _from_hub(str(source), columns)


def has_labels(source: str | Path, label_column: str) -> bool:
    """Return whether a file or folder holds labels, judged by its first header or its columns.

    Raises:
        InputError: It cannot be read.
    """
    path = Path(source)
    if has_suffix(path, TEXT):
        return False
    if not path.is_file():
        return True
    if has_suffix(path, FASTA):
        header, _ = next(fasta_records(path), ("", ""))
        try:
            return bool(_id_and_label(header, path)[1])
        except InputError:
            return False
    return not has_suffix(path, TABLES) or label_column in column_names(path)


# ----------------------------------------------------------------------------------------- datasets


def _from_hub(source: str, columns: Columns) -> dict[str, pd.DataFrame]:
    reason = only_a_path(source)
    if reason is not None:
        raise InputError(f"{source}: {reason}")
    name, _, configuration = source.partition(":")
    try:
        parts = load_dataset(name, configuration or None)
    except Exception as error:  # the Hub client raises a dozen unrelated types
        raise InputError(
            f"{source}: there is no such file or folder, and as the id of a data set on the Hub it "
            f"cannot be loaded: {type(error).__name__}: {one_line(error)}"
        ) from error
    return _from_dataset_dict(parts, source, columns)


def _from_dataset_dict(parts: DatasetDict, name: str, columns: Columns) -> dict[str, pd.DataFrame]:
    unknown = [part for part in parts if part not in PART_NAMES]
    if unknown:
        raise InputError(
            f"{name} has parts with the names {unknown}; rename them to train, validation or test"
        )
    tables: dict[str, pd.DataFrame] = {}
    for spelling, rows in parts.items():
        part = PART_NAMES[spelling]
        # `val` and `validation` in one data set, for instance
        if part in tables:
            raise InputError(f"{name} holds the {part} part twice; one of them is {spelling!r}")
        tables[part] = _from_dataset(rows, f"{name}, {spelling}", columns)
    return tables


def _from_dataset(rows: Dataset, name: str, columns: Columns) -> pd.DataFrame:
    wanted = dict.fromkeys((columns.sequence, *columns.labels, columns.id))
    present = [column for column in wanted if column in rows.column_names]
    # Without the format: `with_format("torch")` would give tensors.
    table = rows.select_columns(present).with_format(None).to_pandas() if present else pd.DataFrame()
    for column in columns.labels:
        feature = rows.features.get(column)
        if isinstance(feature, ClassLabel):
            # Data sets on the Hub mark a hidden label by -1, which `int2str` refuses. As None it is
            # refused later, with the number of its row.
            table[column] = [
                feature.int2str(int(v)) if v is not None and v >= 0 else None for v in rows[column]
            ]
    return _select(table, name, columns, rows.column_names)


# -------------------------------------------------------------------------------------------- files


def _from_folder(folder: Path, columns: Columns) -> dict[str, pd.DataFrame]:
    """Read a folder of parts or, failing that, a folder with one sub-folder for each class."""
    parts: dict[str, pd.DataFrame] = {}
    for entry in sorted(folder.iterdir()):
        part = part_of_file(entry)
        if entry.is_dir() and has_suffix(entry, TABLES + FASTA):
            raise InputError(f"{entry} is a folder with the name of a file; make one file of what it holds")
        if entry.name.startswith(".") or part is None:
            continue
        # `train.md` names a part, too, but holds no rows.
        if not entry.is_dir() and not has_suffix(entry, TABLES + FASTA):
            continue
        if part in parts:
            raise InputError(f"{folder} holds the {part} part twice; one of them is {entry.name}")
        parts[part] = _from_class_folders(entry) if entry.is_dir() else _from_file(entry, columns)
    return parts or {"train": _from_class_folders(folder)}


def _from_class_folders(folder: Path) -> pd.DataFrame:
    records: list[tuple[str, str, str]] = []
    for class_folder in sorted(folder.iterdir()):
        if not class_folder.is_dir() or class_folder.name.startswith("."):
            continue
        rows = [row for path in sorted(class_folder.iterdir()) for row in _sequences_of(path)]
        if not rows:
            raise InputError(
                f"{class_folder}: the folder of this class holds no FASTA or .txt file; fill or remove it"
            )
        # The class in front, because ids such as "seq1" occur in every class.
        records += [(f"{class_folder.name}/{name}", sequence, class_folder.name) for name, sequence in rows]
    if not records:
        raise InputError(
            f"{folder}: expected train/dev/test files or folders, or one sub-folder of FASTA or .txt "
            "files per class"
        )
    return _finish(pd.DataFrame(records, columns=["id", "sequence", "label"]), str(folder))


def _sequences_of(path: Path) -> list[tuple[str, str]]:
    """Return the ids and sequences of FASTA or a one-sequence .txt file; [] for any other file."""
    rows: list[tuple[str, str]] = []
    if has_suffix(path, FASTA):
        rows = [((header.split() or [""])[0], sequence) for header, sequence in read_fasta(path)]
        if not rows:
            raise InputError(f"{path} holds no sequence; remove it")
    elif path.suffix == ".txt":
        rows = [(path.stem, read_text(path).strip())]
    for name, sequence in rows:
        if not sequence:
            raise InputError(f"{path}: the sequence of {name!r} is empty; remove it")
    return rows


def _from_file(path: Path, columns: Columns) -> pd.DataFrame:
    if has_suffix(path, FASTA):
        records = [(*_id_and_label(header, path), sequence) for header, sequence in read_fasta(path)]
        return _finish(pd.DataFrame(records, columns=["id", "label", "sequence"]), str(path))
    table = read_table(path, (columns.sequence, *columns.labels, columns.id))
    return _select(table, str(path), columns, list(table.columns))


def _id_and_label(header: str, path: Path) -> tuple[str, str]:
    """Split a header `ID LABEL`, `ID|LABEL` or `ID ... label=LABEL` into id and label."""
    # From the clearest form to the most ambiguous: `label=` wins over `|`, `|` over a blank.
    fields = [field for field in re.split(r"[\s|]+", header) if field]
    labels = [field.removeprefix("label=") for field in fields[1:] if field.startswith("label=")]
    if not labels and "|" in header:
        name, _, label = header.rpartition("|")
        return name.strip(), label.strip()
    if not labels and len(fields) == 2:
        labels = fields[1:]
    if len(labels) != 1:
        raise InputError(
            f"{path}: no label in the header {'>' + header!r}; write '>ID LABEL' or '>ID|LABEL' or add "
            "'label=LABEL'"
        )
    return fields[0], labels[0]


# ------------------------------------------------------------------------------------------- tables


def _select(table: pd.DataFrame, name: str, columns: Columns, column_names: list[str]) -> pd.DataFrame:
    flags = {columns.sequence: "sequence_column"} | dict.fromkeys(columns.labels, "label_column")
    for column, flag in flags.items():
        if column not in column_names:
            raise InputError(
                f"{name} has no column {column!r}; it has {column_names}. Choose one with {flag}"
            )
    selected = pd.DataFrame({"sequence": table[columns.sequence]})
    if columns.id in column_names:
        selected["id"] = table[columns.id].astype(str)
    for index, column in enumerate(columns.labels):
        selected["label" if len(columns.labels) == 1 else f"label {index}"] = table[column]
    return _finish(selected, name)


def _finish(table: pd.DataFrame, name: str) -> pd.DataFrame:
    table = table.reset_index(drop=True)
    table["row"] = range(len(table))
    table.attrs["name"] = name
    return table


def join_tables(tables: list[pd.DataFrame], name: str) -> pd.DataFrame:
    """Concatenate tables under a new name, with new row numbers."""
    return _finish(pd.concat(tables, ignore_index=True), name)
