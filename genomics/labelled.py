"""Labelled DNA sequences: read them from where they are, check every row, split them honestly.

    from hyenadna.genomics.labelled import read_labelled_data
    data = read_labelled_data("promoters.csv")       # or a folder, a FASTA file, a Hub id, a `datasets` object
    data.parts["train"][0]                           # {"row": 0, "sequence": "ACGT...", "label": 1}

Whatever is wrong with the data is an `InputError` that names the file, the row (counted from 0) and the value, and it
comes before any work that could be lost.
"""

import gzip
import hashlib
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value, load_dataset
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold, train_test_split

from hyenadna.errors import InputError

from .letters import strand_free

SINGLE_LABEL, MULTI_LABEL, REGRESSION = "single_label_classification", "multi_label_classification", "regression"

_TABLES = (".csv", ".tsv", ".parquet", ".csv.gz", ".tsv.gz")
_FASTA = (".fa", ".fasta", ".fna", ".fa.gz", ".fasta.gz", ".fna.gz")
_PARTS = ("train", "validation", "test")
_PART_NAMES = {"train": "train", "validation": "validation", "valid": "validation", "dev": "validation", "test": "test"}


@dataclass
class LabelledData:
    """Checked data, ready for training.

    Attributes:
        parts: `train`, and `validation` and `test` where there are any, with columns `row` (int, in its source, from
            0), `sequence` (str), `label` and, where the source has one, `id` (str). A label is an index into
            `label_names` (single label), a list of 0. and 1. (multi-label) or a float (regression).
        problem_type: As in the configuration of a Transformers model.
        label_names: Class names, sorted; the names of the columns (multi-label); `["value"]` (regression).
        digest: What tells this content from another, where reading every sequence for that would take long.
    """

    parts: "DatasetDict | dict[str, WindowRows]"  # noqa: F821 (of `window_rows.py`: windows that stay in their genome)
    problem_type: str
    label_names: list[str]
    digest: str | None = None


def load_splice_junctions() -> DatasetDict:
    """Return the built-in splice junctions: 2,403 `train` and 601 `test` rows of 60 bp, classes EI, IE and N.

    Columns `id`, `sequence`, `label`. Source, licence and the rule of the split: `splice_junctions.md`.
    """
    table = pd.read_csv(Path(__file__).with_name("splice_junctions.csv"), dtype=str, keep_default_na=False)
    features = Features(id=Value("string"), sequence=Value("string"), label=ClassLabel(names=["EI", "IE", "N"]))
    parts = {name: rows.drop(columns="split").reset_index(drop=True) for name, rows in table.groupby("split")}
    return DatasetDict({name: Dataset.from_pandas(parts[name], features=features) for name in ("train", "test")})


def read_labelled_data(
    data: str | Path | Dataset | DatasetDict,
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
) -> LabelledData:
    """Read labelled sequences, check them, and split off a validation part if there is none.

    Args:
        data: The training rows: a csv, tsv or parquet file; a FASTA file whose headers read `>ID LABEL`, `>ID|LABEL` or
            hold `label=LABEL` (of several fields between `|` the last one is the label); a folder that has one
            sub-folder of FASTA or one-sequence .txt files for each class; a folder with `train`, `dev` (or `valid`,
            `validation`) and `test` in any of these forms; a data set on the Hub (`"owner/name"` or
            `"owner/name:configuration"`); or a `datasets` object. csv, tsv and FASTA files may be gzipped.
        validation_data: The validation rows, in any of these forms.
        test_data: The test rows, likewise.
        sequence_column: The column that holds the sequences.
        label_columns: The column that holds the labels. Several columns of 0 and 1 are a multi-label problem.
        id_column: The column of unique names of the rows, used if it is there.
        problem_type: `"single_label_classification"`, `"multi_label_classification"` or `"regression"`; by default
            one column is a single label and several are multi-label.
        validation_fraction: How much of the training rows becomes the validation part where none is given.
        seed: Of that split.
        fold: `(number, folds)`, for cross-validation: all rows but the test rows are dealt into so many folds, and the
            fold of this number, from 0, is the validation part. Without test rows it is the test part, and a
            validation part is split off the others.

    Raises:
        InputError: The data cannot be used as they are; the message says which value of which row and what to do.
    """
    problem_type = problem_type or (SINGLE_LABEL if len(label_columns) == 1 else MULTI_LABEL)
    if problem_type not in (SINGLE_LABEL, MULTI_LABEL, REGRESSION):
        raise InputError(f"problem_type is {problem_type!r}; use {SINGLE_LABEL!r}, {MULTI_LABEL!r} or {REGRESSION!r}")
    if problem_type != MULTI_LABEL and len(label_columns) > 1:
        raise InputError(f"{problem_type} takes one label column, got {len(label_columns)}: {list(label_columns)}")
    if not 0 < validation_fraction < 1:
        raise InputError(f"validation_fraction is {validation_fraction}; it must lie between 0 and 1")
    if fold is not None and not (0 <= fold[0] < fold[1] and fold[1] > 1):
        raise InputError(f"fold {fold[0]} of {fold[1]} folds: there must be at least 2, and they are counted from 0")

    columns = (sequence_column, tuple(label_columns), id_column)
    tables = read_parts(data, columns)
    for part, source in (("validation", validation_data), ("test", test_data)):
        if source is not None:
            given = read_parts(source, columns)
            if list(given) != ["train"]:
                raise InputError(f"{_name(source)} has the parts {list(given)}; as {part} data it must be one part")
            tables[part] = given["train"]
    if "train" not in tables:
        raise InputError(f"{_name(data)} has no training part, only {list(tables)}")

    for table in tables.values():
        check_sequences(table)
    if fold is not None and "validation" in tables:
        joined = [tables["train"], tables.pop("validation")]
        tables["train"] = _finish(pd.concat(joined, ignore_index=True), f"{joined[0].attrs['name']} and validation")
    label_names, labels = _encode_labels(tables, problem_type, tuple(label_columns))
    if fold is not None:
        inside, outside = _fold_rows(tables["train"], labels["train"], problem_type, fold, seed)
        part = "validation" if "test" in tables else "test"
        tables[part], labels[part] = tables["train"].iloc[outside], labels["train"][outside]
        tables["train"], labels["train"] = tables["train"].iloc[inside].reset_index(drop=True), labels["train"][inside]
    if "validation" not in tables:
        inside, outside = _split_rows(tables["train"], labels["train"], problem_type, validation_fraction, seed)
        tables["train"], tables["validation"] = tables["train"].iloc[inside], tables["train"].iloc[outside]
        labels["train"], labels["validation"] = labels["train"][inside], labels["train"][outside]
    tables = {part: tables[part] for part in _PARTS if part in tables}
    _warn_about_twins(tables, labels)

    feature = {
        SINGLE_LABEL: ClassLabel(names=label_names) if problem_type == SINGLE_LABEL else None,
        MULTI_LABEL: List(Value("float32")),
        REGRESSION: Value("float32"),
    }[problem_type]
    parts = {}
    for part, table in tables.items():
        content = {"row": table["row"].to_list(), "sequence": table["sequence"].to_list(), "label": labels[part]}
        features = {"row": Value("int64"), "sequence": Value("large_string"), "label": feature}
        if "id" in table:
            content, features = {**content, "id": table["id"].to_list()}, {**features, "id": Value("string")}
        parts[part] = Dataset.from_dict(content, features=Features(features))
    return LabelledData(DatasetDict(parts), problem_type, label_names)


def count_table(data: LabelledData) -> str:
    """Return the number of rows of each class in each part as text, with the imbalance of the training part."""
    names = list(data.parts)
    lines = [f"{'label':<20}" + "".join(f"{name:>20}" for name in names)]
    if data.problem_type != REGRESSION:
        counts = {name: _class_counts(data, name) for name in names}
        for index, label in enumerate(data.label_names[:50]):
            cells = [f"{counts[n][index]:,} ({counts[n][index] / len(data.parts[n]):.1%})" for n in names]
            lines.append(f"{label[:19]:<20}" + "".join(f"{cell:>20}" for cell in cells))
        if len(data.label_names) > 50:
            lines.append(f"... and {len(data.label_names) - 50:,} more")
    lines.append(f"{'all':<20}" + "".join(f"{len(data.parts[name]):>20,}" for name in names))
    if data.problem_type == SINGLE_LABEL:
        largest, smallest = counts["train"].max(), counts["train"].min()
        lines.append(f"largest class / smallest class in train: {largest / smallest:.1f}")
    return "\n".join(lines)


def _class_counts(data: LabelledData, part: str) -> np.ndarray:
    labels = np.array(data.parts[part]["label"][:])
    if data.problem_type == MULTI_LABEL:
        return labels.sum(axis=0).astype(int)
    return np.bincount(labels, minlength=len(data.label_names))


# ------------------------------------------------------------------------------------------------ reading


def _name(source) -> str:
    return str(source) if isinstance(source, str | Path) else f"the {type(source).__name__} that was passed"


def read_parts(source, columns) -> dict[str, pd.DataFrame]:
    """Read any source into tables with columns `row`, `sequence`, `label` (or `label 0`, ...) and maybe `id`."""
    if isinstance(source, Dataset):
        return {"train": _from_dataset(source, _name(source), columns)}
    if isinstance(source, DatasetDict):
        return _from_dataset_dict(source, _name(source), columns)
    if not isinstance(source, str | Path):
        raise InputError(f"data must be a path, the name of a data set or a `datasets` object, got {type(source)}")
    path = Path(source)
    if path.is_dir():
        return _from_folder(path, columns)
    if path.is_file():
        return {"train": _from_file(path, columns)}
    if path.name.lower().endswith(_TABLES + _FASTA) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?", str(source)):
        raise InputError(f"{source}: there is no such file or folder")
    name, _, configuration = str(source).partition(":")
    try:
        hub_data = load_dataset(name, configuration or None)
    except Exception as error:  # the Hub client raises a dozen different types
        raise InputError(
            f"{source}: there is no such file or folder, and as the id of a data set on the Hub it cannot be loaded: "
            f"{type(error).__name__}: {error}"
        ) from error
    return _from_dataset_dict(hub_data, str(source), columns)


def has_labels(source: str | Path, label_column: str) -> bool:
    """Return whether a file or folder holds labels, by its first header or its columns."""
    path, name = Path(source), Path(source).name.lower()
    try:
        if path.is_file() and name.endswith(_FASTA):
            with (gzip.open if name.endswith(".gz") else open)(path, "rt") as file:
                header = file.readline().removeprefix(">").strip()
            return _has_label(header, path)
        if path.is_file() and name.endswith(".parquet"):
            return label_column in pd.read_parquet(path).columns
        if path.is_file() and name.endswith(_TABLES):
            return label_column in pd.read_csv(path, sep="\t" if ".tsv" in name else ",", nrows=0).columns
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    return not name.endswith((".txt", ".txt.gz"))


def _from_dataset_dict(parts: DatasetDict, name: str, columns) -> dict[str, pd.DataFrame]:
    unknown = [part for part in parts if part not in _PART_NAMES]
    if unknown:
        raise InputError(f"{name} has parts with the names {unknown}; rename them to train, validation or test")
    return {_PART_NAMES[part]: _from_dataset(rows, f"{name}, {part}", columns) for part, rows in parts.items()}


def _from_dataset(rows: Dataset, name: str, columns) -> pd.DataFrame:
    sequence_column, label_columns, id_column = columns
    wanted = [c for c in dict.fromkeys((sequence_column, *label_columns, id_column)) if c in rows.column_names]
    table = rows.select_columns(wanted).with_format(None).to_pandas() if wanted else pd.DataFrame()
    for column in label_columns:
        feature = rows.features.get(column)
        if isinstance(feature, ClassLabel):
            # -1 is how data sets on the Hub mark a hidden label; it stays, and is refused as a missing label
            table[column] = [feature.int2str(int(v)) if v is not None and v >= 0 else None for v in rows[column]]
    return _select(table, name, columns, rows.column_names)


def _from_folder(folder: Path, columns) -> dict[str, pd.DataFrame]:
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    parts = {}
    for entry in entries:
        part = part_of_file(entry)
        if part and (entry.is_dir() or entry.name.lower().endswith(_TABLES + _FASTA)):
            if part in parts:
                raise InputError(f"{folder} holds the {part} part twice; one of them is {entry.name}")
            parts[part] = _from_class_folders(entry) if entry.is_dir() else _from_file(entry, columns)
    return parts or {"train": _from_class_folders(folder)}


def part_of_file(path: Path) -> str | None:
    """Return the part that a file or folder is by its name, which begins or ends with it, or None.

    `train`, `valid.csv`, `promoter_all_train.fna`, `train_hg19_coords_targets.csv` and `train-00000-of-00001.parquet`
    are of a part.
    """
    if path.is_dir():
        return _PART_NAMES.get(path.name)
    words = re.split("[_-]", path.name.partition(".")[0])
    return _PART_NAMES.get(words[-1]) or _PART_NAMES.get(words[0])


def _from_class_folders(folder: Path) -> pd.DataFrame:
    records = []
    for class_folder in sorted(entry for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."):
        before = len(records)
        for path in sorted(class_folder.iterdir()):
            if path.name.lower().endswith(_FASTA):
                rows = [(header.split()[0] if header else "", sequence) for header, sequence in read_fasta(path)]
            elif path.suffix == ".txt":
                rows = [(path.stem, _read_text(path).strip())]
            else:
                continue
            # ids such as "seq1" come back in every class
            records += [(f"{class_folder.name}/{name}", sequence, class_folder.name) for name, sequence in rows]
        if len(records) == before:
            raise InputError(f"{class_folder}: the folder of this class holds no FASTA or .txt file; fill or remove it")
    if not records:
        raise InputError(
            f"{folder}: expected train/dev/test files or folders, or one sub-folder of FASTA or .txt files per class"
        )
    return _finish(pd.DataFrame(records, columns=["id", "sequence", "label"]), str(folder))


def _from_file(path: Path, columns) -> pd.DataFrame:
    name = path.name.lower()
    if name.endswith(_FASTA):
        records = [(*_id_and_label(header, path), sequence) for header, sequence in read_fasta(path)]
        return _finish(pd.DataFrame(records, columns=["id", "label", "sequence"]), str(path))
    table = read_table(path)
    return _select(table, str(path), columns, list(table.columns))


def read_table(path: Path) -> pd.DataFrame:
    """Read a csv, tsv or parquet file; what is text in it stays text, and all of csv and tsv is."""
    name = path.name.lower()
    if not name.endswith(_TABLES):
        raise InputError(f"{path}: unknown kind of file; known are {', '.join(_TABLES + _FASTA)}")
    try:
        if name.endswith(".parquet"):
            return pd.read_parquet(path)
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # a row that is longer than the header
            # A sequence may read "NAN" and a class "NA": text stays text, and only an empty cell is missing.
            return pd.read_csv(
                path,
                sep="\t" if ".tsv" in name else ",",
                dtype=str,
                keep_default_na=False,
                index_col=False,
                skipinitialspace=True,
            )
    except pd.errors.EmptyDataError:
        raise InputError(f"{path} is empty: there are no rows") from None
    except (OSError, EOFError, ValueError, pd.errors.ParserError, pd.errors.ParserWarning) as error:
        raise InputError(f"{path} cannot be read as {name.split('.', 1)[1]}: {error}") from error


def _select(table: pd.DataFrame, name: str, columns, column_names: list[str]) -> pd.DataFrame:
    sequence_column, label_columns, id_column = columns
    flags = {sequence_column: "sequence_column"} | dict.fromkeys(label_columns, "label_column")
    for column, flag in flags.items():
        if column not in column_names:
            raise InputError(f"{name} has no column {column!r}; it has {column_names}. Choose one with {flag}")
    selected = pd.DataFrame({"sequence": table[sequence_column]})
    if id_column in column_names:
        selected["id"] = table[id_column].astype(str)
    for index, column in enumerate(label_columns):
        selected["label" if len(label_columns) == 1 else f"label {index}"] = table[column]
    return _finish(selected, name)


def _finish(table: pd.DataFrame, name: str) -> pd.DataFrame:
    table = table.reset_index(drop=True)
    table["row"] = range(len(table))
    table.attrs["name"] = name
    return table


def read_fasta(path: str | Path) -> list[tuple[str, str]]:
    """Return `(header without ">", sequence)` of every record of a FASTA file, gzipped or not.

    pyfaidx is not used here: it serves random access, refuses lines of unequal length and leaves an index file.
    """
    records: list[tuple[str, list[str]]] = []
    for number, line in enumerate(_read_text(Path(path)).splitlines(), start=1):
        if line.startswith(">"):
            records.append((line[1:].strip(), []))
        elif line.strip() and not records:
            raise InputError(f"{path} is not FASTA: line {number} comes before the first header ('>...')")
        elif line.strip():
            records[-1][1].append(line.strip())
    return [(header, "".join(lines)) for header, lines in records]


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    except (OSError, EOFError, UnicodeDecodeError, gzip.zlib.error) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _has_label(header: str, path: Path) -> bool:
    try:
        return bool(_id_and_label(header, path)[1])
    except InputError:
        return False


def _id_and_label(header: str, path: Path) -> tuple[str, str]:
    fields = [field for field in re.split(r"[\s|]+", header) if field]
    labels = [field.removeprefix("label=") for field in fields[1:] if field.startswith("label=")]
    if not labels and "|" in header:
        name, _, label = header.rpartition("|")
        return name.strip(), label.strip()
    if not labels and len(fields) == 2:
        labels = fields[1:]
    if len(labels) != 1:
        raise InputError(
            f"{path}: no label in the header {'>' + header!r}; write '>ID LABEL' or '>ID|LABEL' or add 'label=LABEL'"
        )
    return fields[0], labels[0]


# ------------------------------------------------------------------------------------------------ checks


def check_sequences(table: pd.DataFrame) -> None:
    """Raise `InputError` about a row without a sequence or with letters of no nucleotide; `attrs["name"]` is named."""
    name = table.attrs["name"]
    if len(table) == 0:
        raise InputError(f"{name} has no rows")
    for row, sequence in enumerate(table["sequence"]):
        if not isinstance(sequence, str):
            raise InputError(f"{name}: the sequence of row {row} is {sequence!r} ({type(sequence).__name__}), not text")
        if not sequence:
            raise InputError(f"{name}: the sequence of row {row} is empty; remove the row")
        other = re.search("[^ACGTUNRYSWKMBDHV]", sequence, re.IGNORECASE)
        if other:
            raise InputError(
                f"{name}: the sequence of row {row} holds {other.group()!r} at position {other.start()}, which is no "
                f"IUPAC letter for a nucleotide: {sequence[:40]!r}. Is it the right sequence_column?"
            )
    if "id" in table:
        repeated = table["id"].duplicated()
        if repeated.any():
            value = table["id"][repeated].iloc[0]
            rows = table.index[table["id"] == value].to_list()
            raise InputError(f"{name}: the id {value!r} stands in rows {rows[:5]}; ids must be unique")


def _encode_labels(tables, problem_type, label_columns) -> tuple[list[str], dict[str, np.ndarray]]:
    if problem_type == REGRESSION:
        return ["value"], {part: _numbers(table, "label") for part, table in tables.items()}
    if problem_type == MULTI_LABEL:
        labels = {part: _zeros_and_ones(table, len(label_columns)) for part, table in tables.items()}
        widths = {part: values.shape[1] for part, values in labels.items()}
        if len(set(widths.values())) > 1:
            raise InputError(f"the parts have different numbers of labels: {widths}")
        names = list(label_columns) if len(label_columns) > 1 else [str(i) for i in range(widths["train"])]
        return names, labels
    texts = {
        part: [label_text(v, row, table) for row, v in enumerate(table["label"])] for part, table in tables.items()
    }
    names = sorted(set(texts["train"]))
    if all(name.isdecimal() for name in names):
        names.sort(key=int)
    train = tables["train"].attrs["name"]
    if len(names) == 1:
        raise InputError(f"{train}: every row has the label {names[0]!r}; a classifier needs two classes or more")
    if len(names) > max(20, len(texts["train"]) // 2):
        raise InputError(
            f"{train}: {len(names)} different labels in {len(texts['train'])} rows, the first is {names[0]!r}. Is it "
            f"the right label_column? For numbers to be predicted set problem_type to {REGRESSION!r}"
        )
    index = {name: i for i, name in enumerate(names)}
    for part, values in texts.items():
        for row, value in enumerate(values):
            if value not in index:
                known = names if len(names) <= 20 else [*names[:20], "..."]
                raise InputError(
                    f"{tables[part].attrs['name']}: row {row} has the label {value!r}, which no training row "
                    f"has; known labels are {known}"
                )
    return names, {part: np.array([index[value] for value in values]) for part, values in texts.items()}


def label_text(value, row: int, table: pd.DataFrame) -> str:
    """Return a class as text, `1` also of 1.0 and True; raise `InputError` if it is missing."""
    if value is None or value != value or (isinstance(value, str) and value.strip().lower() in ("", "nan")):
        raise InputError(
            f"{table.attrs['name']}: the label of row {row} is missing ({value!r}); remove or label the row"
        )
    if isinstance(value, bool | np.bool_ | float | np.floating) and float(value).is_integer():
        return str(int(value))  # a column of whole numbers with a hole arrives as floats
    return str(value).strip()


def _numbers(table: pd.DataFrame, column: str) -> np.ndarray:
    numbers = pd.to_numeric(table[column], errors="coerce").to_numpy(np.float64)
    wrong = np.flatnonzero(~np.isfinite(numbers))
    if len(wrong):
        value = table[column].tolist()[wrong[0]]  # a Python object, whose repr people can read
        raise InputError(f"{table.attrs['name']}: the label of row {wrong[0]} is {value!r}, not a finite number")
    return numbers


def _zeros_and_ones(table: pd.DataFrame, n_columns: int) -> np.ndarray:
    """Return labels `(rows, labels)` from several columns or from one column of lists."""
    name = table.attrs["name"]
    if n_columns > 1:
        values = np.stack([_numbers(table, f"label {i}") for i in range(n_columns)], axis=1)
    else:
        for row, value in enumerate(table["label"]):
            if not isinstance(value, list | tuple | np.ndarray) or len(value) != len(table["label"][0]):
                raise InputError(
                    f"{name}: the label of row {row} is {value!r}; expected lists of 0 and 1, equally long"
                )
        values = np.array([list(value) for value in table["label"]], dtype=np.float64)
    wrong = np.argwhere((values != 0) & (values != 1))
    if len(wrong):
        row, column = wrong[0]
        raise InputError(f"{name}: label {column} of row {row} is {values[row, column]}; a multi-label is 0 or 1")
    return values


# ------------------------------------------------------------------------------------------------ splitting


def _split_rows(table, labels, problem_type, fraction, seed) -> tuple[np.ndarray, np.ndarray]:
    """Return the row numbers of the training and of the validation part, in order.

    The same double-stranded DNA never stands on both sides. Single labels keep their proportions; the only sequence
    of a class stays in the training part.
    """
    group_of_row, groups = pd.factorize(np.array(dna_keys(table["sequence"]), dtype=object))
    candidates, stratify = np.arange(len(groups)), None
    n_validation = max(1, round(fraction * len(groups)))
    if problem_type == SINGLE_LABEL:
        stratify = labels[np.unique(group_of_row, return_index=True)[1]]
        frequent = np.bincount(stratify)[stratify] > 1
        candidates, stratify = candidates[frequent], stratify[frequent]
        n_classes = len(np.unique(stratify))
        n_validation = max(n_validation, n_classes)
        if n_classes == 0 or len(candidates) - n_validation < n_classes:
            raise InputError(
                f"{table.attrs['name']}: {len(groups)} different sequences of {labels.max() + 1} classes are too few "
                f"to split off a validation part; pass validation_data"
            )
    elif len(groups) < 2:
        raise InputError(f"{table.attrs['name']}: one sequence cannot be split; pass validation_data")
    _, chosen = train_test_split(candidates, test_size=n_validation, stratify=stratify, random_state=seed)
    outside = np.isin(group_of_row, chosen)
    return np.flatnonzero(~outside), np.flatnonzero(outside)


def _fold_rows(table, labels, problem_type, fold, seed) -> tuple[np.ndarray, np.ndarray]:
    """Return the row numbers outside and inside of one fold; the same DNA never stands in two folds."""
    groups, (number, folds) = pd.factorize(np.array(dna_keys(table["sequence"]), dtype=object))[0], fold
    smallest = np.bincount(labels).min() if problem_type == SINGLE_LABEL else groups.max() + 1
    if smallest < folds:
        raise InputError(f"{table.attrs['name']}: {folds} folds, but only {smallest} rows of a class; take fewer folds")
    kind = StratifiedGroupKFold if problem_type == SINGLE_LABEL else GroupKFold
    splits = kind(folds, shuffle=True, random_state=seed).split(groups, labels, groups)
    return list(splits)[number]


def _warn_about_twins(tables: dict[str, pd.DataFrame], labels: dict[str, np.ndarray]) -> None:
    keys = {part: dna_keys(table["sequence"]) for part, table in tables.items()}
    names = list(tables)
    for i, one in enumerate(names):
        known = set(keys[one])
        for other in names[i + 1 :]:
            leaked = sum(key in known for key in keys[other])
            if leaked:
                warnings.warn(
                    f"{leaked} of the {len(tables[other])} {other} sequences stand in the {one} part too (as they are "
                    f"or as reverse complement): the {other} metrics look too good. Remove them from one part.",
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


def dna_keys(sequences: Iterable[str]) -> list[bytes]:
    """Return a digest of each double-stranded sequence: equal for twins, and small however long the sequence is."""
    return [hashlib.blake2b(strand_free(s).encode(), digest_size=16).digest() for s in sequences]
