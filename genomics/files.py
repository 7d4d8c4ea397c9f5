"""File types, the parts that file names stand for, and readers that fail with one clear line.

    >>> from pathlib import Path
    >>> from hyenadna.genomics.files import FASTA, has_suffix, part_of_file
    >>> has_suffix("hg38.fa.bgz", FASTA)
    True
    >>> part_of_file(Path("promoter_all_valid.csv"))
    'validation'

Whoever opens a file that a user gave does it inside `reading(path)`, in this room and elsewhere.
"""

import csv
import gzip
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TextIO

import pandas as pd
import pyarrow.parquet

from hyenadna.errors import InputError
from hyenadna.errors import reading as turning_errors

__all__ = [
    "FASTA",
    "PARTS",
    "PART_NAMES",
    "TABLES",
    "TEXT",
    "check_end",
    "column_names",
    "has_suffix",
    "is_bgzip",
    "is_compressed",
    "open_text",
    "part_name",
    "part_of_file",
    "read_lines",
    "read_table",
    "read_text",
    "reading",
    "text_lines",
]

FASTA = tuple(f".{kind}{packed}" for kind in ("fa", "fasta", "fna") for packed in ("", ".gz", ".bgz"))
TABLES = (".csv", ".tsv", ".parquet", ".csv.gz", ".tsv.gz")
TEXT = (".txt", ".txt.gz")

PARTS = ("train", "validation", "test")
PART_NAMES = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}

_GZIP = b"\x1f\x8b"
# The empty block that ends every bgzip file (section 4.1.2 of the SAM specification).
_BGZIP_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")


# ------------------------------------------------------------------------------------------- errors


def reading(path: str | Path, kind: str = "") -> AbstractContextManager[None]:
    """Turn whatever a reader raises into a one-line `InputError`; see `errors.reading`.

    Args:
        path: The file.
        kind: What it should be, `"parquet"` for instance.

    >>> with reading("cut.fa.gz", "FASTA"):
    ...     raise EOFError("Compressed file ended")
    Traceback (most recent call last):
    hyenadna.errors.InputError: cut.fa.gz cannot be read as FASTA: Compressed file ended
    """
    wanted = f" as {kind}" if kind else ""
    return turning_errors(f"{path} cannot be read{wanted}")


# -------------------------------------------------------------------------------------------- names


def has_suffix(path: str | Path, suffixes: tuple[str, ...]) -> bool:
    """Return whether a file name ends in one of these suffixes, whatever its case.

    >>> has_suffix("A.FA.GZ", FASTA)
    True
    """
    return str(path).lower().endswith(suffixes)


def part_name(value: object, where: str) -> str:
    """Return the part that a name stands for: `train`, `validation` or `test`.

    Raises:
        InputError: It stands for none of them. `where` says where it was found.

    >>> part_name("Dev", "rows.csv: row 0")
    'validation'
    """
    part = PART_NAMES.get(str(value).lower())
    if part is None:
        raise InputError(f"{where} has the split {value!r}; expected one of {list(PART_NAMES)}")
    return part


def part_of_file(path: Path) -> str | None:
    """Return the part that a file or folder holds, judged by its name, or None.

    A folder is named after its part. The name of a file starts or ends with it: `valid.csv`,
    `promoter_all_train.fna`, `train_hg19_coords_targets.csv`, `train-00000-of-00001.parquet`.

    >>> part_of_file(Path("val.csv"))
    'validation'
    """
    if path.is_dir():
        return PART_NAMES.get(path.name)
    words = path.name.partition(".")[0].replace("-", "_").split("_")
    return PART_NAMES.get(words[-1]) or PART_NAMES.get(words[0])


# -------------------------------------------------------------------------------------- compression


def is_compressed(path: str | Path) -> bool:
    """Return whether a file is gzip or bgzip. Its first bytes decide, not its name."""
    with open(path, "rb") as file:
        return file.read(2) == _GZIP


def is_bgzip(path: str | Path) -> bool:
    """Return whether a file is block-compressed: gzip whose first block states its size."""
    with open(path, "rb") as file:
        head = file.read(18)
    # The extra field `BC` of the gzip header holds the size; htslib and samtools write it first.
    return head[:4] == _BGZIP_END[:4] and head[12:14] == b"BC"


def check_end(path: str | Path) -> None:
    """Raise `InputError` if a bgzip file was cut between two blocks. Other files pass.

    Nothing else would notice: each block is a complete gzip file, so what is left still unpacks.
    """
    if not is_bgzip(path):
        return
    with open(path, "rb") as file:
        file.seek(-len(_BGZIP_END), 2)
        end = file.read()
    if end != _BGZIP_END:
        raise InputError(f"{path} is truncated: the block that ends a bgzip file is missing. Copy it again")


# --------------------------------------------------------------------------------------------- text


def open_text(path: str | Path) -> TextIO:
    """Open a text file (plain, gzip or bgzip) whose lines end only at `\\n`.

    Python's `splitlines` would also break at `\\x0b`, `\\x0c` and U+2028, which headers may hold.
    """
    if not is_compressed(path):
        if has_suffix(path, (".gz", ".bgz")):
            raise ValueError("by its name it is packed, but it is not")
        return open(path, encoding="utf-8-sig", newline="\n")
    check_end(path)
    return gzip.open(path, "rt", encoding="utf-8-sig", newline="\n")


def text_lines(file: TextIO) -> Iterator[str]:
    """Yield the lines of a text file with their line breaks.

    Raises:
        ValueError: A line contains NUL, which no text does. The file is damaged or in UTF-16, and
            NUL would end up in a name or a class.
    """
    for number, line in enumerate(file, 1):
        if "\0" in line:
            raise ValueError(f"line {number} holds the character NUL, so it is no text, or not in UTF-8")
        yield line


def read_lines(path: str | Path) -> Iterator[str]:
    """Yield the lines of a text file (plain, gzip or bgzip) without their line breaks.

    Raises:
        InputError: The file cannot be read, is truncated, or is not text.
    """
    with reading(path), open_text(path) as file:
        for line in text_lines(file):
            yield line.rstrip("\r\n")


def read_text(path: str | Path) -> str:
    """Return the content of a text file (plain, gzip or bgzip).

    Raises:
        InputError: The file cannot be read, is truncated, or is not text.
    """
    with reading(path), open_text(path) as file:
        return file.read()


# ------------------------------------------------------------------------------------------- tables


def read_table(path: str | Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Read a csv, tsv or parquet file. Every cell of csv and tsv stays text.

    Args:
        path: The file; csv and tsv may be gzipped.
        columns: Names of columns that must not occur twice.

    Raises:
        InputError: The file cannot be read, is empty, has a row longer than the header, or has one
            of `columns` twice.

    >>> read_table("promoters.csv", ["sequence"])["sequence"].tolist()      # doctest: +SKIP
    ['ACGTTATAAA', 'GGCATG']
    """
    name = Path(path).name.lower()
    if not name.endswith(TABLES):
        raise InputError(f"{path}: unknown kind of file; known are {', '.join(TABLES + FASTA)}")
    # Before pandas reads the table: it would rename the second of two equal columns silently.
    names = column_names(path)
    for column in columns:
        if names.count(column) > 1:
            raise InputError(
                f"{path} has the column {column!r} {names.count(column)} times; leave one of them"
            )
    with reading(path, name.split(".", 1)[1]):
        if name.endswith(".parquet"):
            # Drop the metadata that pandas stores about its index. It may be damaged, and no column
            # depends on it.
            file = pyarrow.parquet.ParquetFile(path, page_checksum_verification=True)
            return file.read().replace_schema_metadata(None).to_pandas()
        return _read_separated(path)


def column_names(path: str | Path) -> list[str]:
    """Return the column names of a table exactly as the file has them, repeated ones included.

    Raises:
        InputError: The file cannot be read.
    """
    name = Path(path).name.lower()
    with reading(path, name.split(".", 1)[1]):
        if name.endswith(".parquet"):
            return pyarrow.parquet.read_schema(path).names
        with open_text(path) as file:
            header = next(csv.reader(file, delimiter=_separator(path), skipinitialspace=True), None)
        if header is None:
            raise InputError(f"{path} is empty: there are no rows")
        return header


def _separator(path: str | Path) -> str:
    return "\t" if ".tsv" in Path(path).name.lower() else ","


def _read_separated(path: str | Path) -> pd.DataFrame:
    # A sequence may read "NAN" and a class "NA", which pandas takes for missing values by default.
    # Only an empty cell is missing.
    how: dict[str, Any] = {
        "dtype": str,
        "keep_default_na": False,
        "index_col": False,
        "skipinitialspace": True,
    }
    try:
        with warnings.catch_warnings():
            # Pandas only warns of a row longer than the header, and drops its last cells.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(path, sep=_separator(path), encoding="utf-8-sig", **how)
    except pd.errors.EmptyDataError:
        raise InputError(f"{path} is empty: there are no rows") from None
    except pd.errors.ParserWarning as warning:
        raise ValueError(str(warning)) from warning
    for column in table:
        _check_nul(column, table[column])
    return table


def _check_nul(column: str, cells: pd.Series) -> None:
    # As in `text_lines`. Pandas keeps NUL in a cell.
    for row, cell in enumerate(cells):
        if isinstance(cell, str) and "\0" in cell:
            raise ValueError(
                f"row {row} holds the character NUL in {column!r}, so it is no text, or not in UTF-8"
            )
