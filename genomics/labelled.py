"""Labelled DNA sequences: read from any source, checked row by row, split without leaks.

    from hyenadna.genomics.labelled import read_labelled_data
    data = read_labelled_data("promoters.csv")  # or a folder, a FASTA file, a Hub id, a `datasets` object
    data.parts["train"][0]                      # {"row": 0, "sequence": "ACGT...", "label": 1}

If something is wrong with the data, an `InputError` names the file, the row (from 0) and the value.
It is raised before any work that could be lost.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from hyenadna.errors import InputError

from .files import PARTS
from .labels import MULTI_LABEL, REGRESSION, SINGLE_LABEL, check_sequences, encode_labels
from .letters import DNA, Alphabet
from .sources import Columns, Source, join_tables, name_of, read_parts
from .splits import fold_rows, split_rows, warn_about_twins
from .window_rows import WindowRows

__all__ = [
    "MULTI_LABEL",
    "REGRESSION",
    "SINGLE_LABEL",
    "LabelledData",
    "count_table",
    "load_splice_junctions",
    "load_tata_promoters",
    "read_labelled_data",
]

_SHOWN = 50  # classes to list in a table of counts


@dataclass
class LabelledData:
    """Checked data, ready for training.

    Attributes:
        parts: `train`, and `validation` and `test` if there are any. Columns: `row` (int, its
            number in the source, from 0), `sequence` (str), `label` and, if the source has it, `id`
            (str). A label is an index into `label_names` (single label), a list of 0. and 1.
            (multi-label) or a float (regression). `WindowRows` if the sequences stay in a genome.
        problem_type: As in the configuration of a Transformers model.
        label_names: The sorted class names (single label), the names of the columns (multi-label)
            or `["value"]` (regression).
        digest: A checksum of the content, if hashing every sequence would take too long.
        alphabet: Which letters the sequences have.
    """

    parts: DatasetDict | dict[str, WindowRows]
    problem_type: str
    label_names: list[str]
    digest: str | None = None
    alphabet: Alphabet = DNA


def load_splice_junctions() -> DatasetDict:
    """Return the built-in splice junctions: 2,403 `train` and 601 `test` rows of 60 bp.

    Columns `id`, `sequence` and `label`, with the classes EI, IE and N. `splice_junctions.md` has
    source, licence and the rule of the split.

    >>> load_splice_junctions()["test"][0]["label"]                         # doctest: +SKIP
    0
    """
    return _built_in("splice_junctions.csv", ["EI", "IE", "N"])


def load_tata_promoters() -> DatasetDict:
    """Return the built-in TATA promoters: 4,548 train, 595 validation and 611 test rows of 300 bp.

    Columns `id`, `sequence` and `label`, with the classes `other` and `promoter`.
    `tata_promoters.md` has source, licence and what was left out of the set.

    >>> load_tata_promoters()["test"].features["label"].names               # doctest: +SKIP
    ['other', 'promoter']
    """
    return _built_in("tata_promoters.csv.gz", ["other", "promoter"])


def _built_in(file: str, names: list[str]) -> DatasetDict:
    """Read a table in this folder. Its column `split` has the part of each row."""
    table = pd.read_csv(Path(__file__).with_name(file), dtype=str, keep_default_na=False)
    features = Features(id=Value("string"), sequence=Value("string"), label=ClassLabel(names=names))
    parts = {}
    for part in PARTS:
        rows = table[table["split"] == part].drop(columns="split").reset_index(drop=True)
        if len(rows):
            parts[part] = Dataset.from_pandas(rows, features=features)
    return DatasetDict(parts)


def read_labelled_data(
    data: Source,
    validation_data: str | Path | Dataset | None = None,
    test_data: str | Path | Dataset | None = None,
    *,
    sequence_column: str = "sequence",
    label_columns: Sequence[str] = ("label",),
    id_column: str = "id",
    problem_type: str | None = None,
    validation_fraction: float = 0.1,
    seed: int = 42,
    fold: tuple[int, int] | None = None,
    alphabet: Alphabet = DNA,
) -> LabelledData:
    """Read labelled sequences, check them, and split off a validation part if there is none.

    Args:
        data: The training rows, in one of these forms (csv, tsv and FASTA may be gzipped):

            - a csv, tsv or parquet file;
            - a FASTA file with headers `>ID LABEL`, `>ID|LABEL` or with a field `label=LABEL`. If
              there are several fields between `|`, the last one is the label;
            - a folder with one sub-folder of FASTA or one-sequence .txt files for each class;
            - a folder with `train`, `val` (or `dev`, `valid`, `validation`) and `test` in any form;
            - a data set on the Hub: `"owner/name"` or `"owner/name:configuration"`;
            - a `datasets` object.
        validation_data: The validation rows, in any of these forms.
        test_data: The test rows, likewise.
        sequence_column: The column that holds the sequences.
        label_columns: The column that holds the labels. Several columns of 0 and 1 make a
            multi-label problem.
        id_column: The column of unique row names, used if it exists.
        problem_type: `"single_label_classification"`, `"multi_label_classification"` or
            `"regression"`. By default one column is a single label, several are multi-label.
        validation_fraction: If no validation rows are given, this fraction of the training rows.
        seed: The seed of that split.
        fold: `(number, folds)` for cross-validation. All rows but the test rows are dealt into that
            many folds; fold `number`, from 0, is the validation part. Without test rows it is the
            test part, and a validation part is split off the rest.
        alphabet: Which letters the sequences have.

    Raises:
        InputError: The data cannot be used. The message names the row and the value, and says what
            to do.

    >>> read_labelled_data("promoters.csv").label_names                     # doctest: +SKIP
    ['TATA', 'none']
    """
    problem_type = problem_type or (SINGLE_LABEL if len(label_columns) == 1 else MULTI_LABEL)
    _check_settings(problem_type, label_columns, validation_fraction, fold)
    columns = Columns(sequence_column, tuple(label_columns), id_column)
    tables = read_parts(data, columns)
    for part, source in (("validation", validation_data), ("test", test_data)):
        if source is not None:
            tables[part] = _read_one_part(source, part, columns)
    if "train" not in tables:
        raise InputError(f"{name_of(data)} has no training part, only {list(tables)}")

    for table in tables.values():
        check_sequences(table, alphabet)
    # The validation rows are dealt into the folds, too. They join the training rows before the
    # labels are encoded, so that a class that only they have is known.
    if fold is not None and "validation" in tables:
        train = tables["train"]
        name = f"{train.attrs['name']} and validation"
        tables["train"] = join_tables([train, tables.pop("validation")], name)
    label_names, labels = encode_labels(tables, problem_type, columns.labels)
    # Without test rows the fold becomes the test part, and the validation part is drawn below.
    if fold is not None:
        split = fold_rows(tables["train"], labels["train"], problem_type, fold, seed, alphabet)
        _move_rows(tables, labels, split, "validation" if "test" in tables else "test")
        tables["train"] = tables["train"].reset_index(drop=True)
    if "validation" not in tables:
        split = split_rows(
            tables["train"], labels["train"], problem_type, validation_fraction, seed, alphabet
        )
        _move_rows(tables, labels, split, "validation")

    # After the splits, which keep twins together: what is left comes from the user's own parts.
    tables = {part: tables[part] for part in PARTS if part in tables}
    warn_about_twins(tables, labels, alphabet)
    parts = {
        part: _to_dataset(table, labels[part], problem_type, label_names) for part, table in tables.items()
    }
    return LabelledData(DatasetDict(parts), problem_type, label_names, alphabet=alphabet)


def _check_settings(
    problem_type: str, label_columns: Sequence[str], validation_fraction: float, fold: tuple[int, int] | None
) -> None:
    if problem_type not in (SINGLE_LABEL, MULTI_LABEL, REGRESSION):
        raise InputError(
            f"problem_type is {problem_type!r}; use {SINGLE_LABEL!r}, {MULTI_LABEL!r} or {REGRESSION!r}"
        )
    if problem_type != MULTI_LABEL and len(label_columns) > 1:
        raise InputError(
            f"{problem_type} takes one label column, got {len(label_columns)}: {list(label_columns)}"
        )
    if not 0 < validation_fraction < 1:
        raise InputError(f"validation_fraction is {validation_fraction}; it must lie between 0 and 1")
    if fold is None:
        return
    number, folds = fold
    if folds < 2 or not 0 <= number < folds:
        raise InputError(
            f"fold {number} of {folds} folds: there must be at least 2, and they are counted from 0"
        )


def _read_one_part(source: Source, part: str, columns: Columns) -> pd.DataFrame:
    tables = read_parts(source, columns)
    # A source without parts is read as "train", whatever it is used for.
    if list(tables) != ["train"]:
        raise InputError(
            f"{name_of(source)} has the parts {list(tables)}; as {part} data it must be one part"
        )
    return tables["train"]


def _move_rows(
    tables: dict[str, pd.DataFrame],
    labels: dict[str, np.ndarray],
    split: tuple[np.ndarray, np.ndarray],
    part: str,
) -> None:
    """Keep the first rows of a split in the training part and move the second to `part`."""
    stay, leave = split
    tables[part] = tables["train"].iloc[leave]
    labels[part] = labels["train"][leave]
    tables["train"] = tables["train"].iloc[stay]
    labels["train"] = labels["train"][stay]


def _to_dataset(
    table: pd.DataFrame, labels: np.ndarray, problem_type: str, label_names: list[str]
) -> Dataset:
    if problem_type == SINGLE_LABEL:
        label = ClassLabel(names=label_names)
    elif problem_type == MULTI_LABEL:
        label = List(Value("float32"))
    else:
        label = Value("float32")
    # Arrow's `string` has 32-bit offsets, which overflow at 2 GB of sequences.
    features = {"row": Value("int64"), "sequence": Value("large_string"), "label": label}
    content = {"row": table["row"].to_list(), "sequence": table["sequence"].to_list(), "label": labels}
    if "id" in table:
        features["id"] = Value("string")
        content["id"] = table["id"].to_list()
    return Dataset.from_dict(content, features=Features(features))


# ------------------------------------------------------------------------------------------- counts


def count_table(data: LabelledData) -> str:
    """Return a text table: the rows of each class in each part, and the class imbalance."""
    names = list(data.parts)
    lines = [f"{'label':<20}" + "".join(f"{name:>20}" for name in names)]
    if data.problem_type != REGRESSION:
        counts = {name: _class_counts(data, name) for name in names}
        for index, label in enumerate(data.label_names[:_SHOWN]):
            shares = {name: counts[name][index] / len(data.parts[name]) for name in names}
            cells = [f"{counts[name][index]:,} ({shares[name]:.1%})" for name in names]
            lines.append(f"{label[:19]:<20}" + "".join(f"{cell:>20}" for cell in cells))
        if len(data.label_names) > _SHOWN:
            lines.append(f"... and {len(data.label_names) - _SHOWN:,} more")
    lines.append(f"{'all':<20}" + "".join(f"{len(data.parts[name]):>20,}" for name in names))
    if data.problem_type == SINGLE_LABEL:
        largest = counts["train"].max()
        smallest = counts["train"].min()
        lines.append(f"largest class / smallest class in train: {largest / smallest:.1f}")
    return "\n".join(lines)


def _class_counts(data: LabelledData, part: str) -> npt.NDArray[np.int64]:
    labels = np.array(data.parts[part]["label"][:])
    if data.problem_type == MULTI_LABEL:
        return labels.sum(axis=0).astype(int)
    return np.bincount(labels, minlength=len(data.label_names))
