"""Write values along a genome: bedGraph (text) and bigWig (for genome browsers).

    write_track("gc.bw", {"chr20": 64444167}, [("chr20", 0, 100, 0.41), ("chr20", 100, 200, 0.39)])

Positions count from 0, and ends are not included, in both formats.
"""

import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from hyenadna.errors import InputError

from .files import has_suffix

__all__ = ["BEDGRAPH", "BIGWIG", "check_track", "write_track"]

BEDGRAPH = (".bedgraph", ".bdg")
BIGWIG = (".bw", ".bigwig")

# Chromosome, start, end, value.
Row: TypeAlias = tuple[str, int, int, float]


def check_track(path: str | Path) -> None:
    """Raise `InputError` if the suffix is no track's, or bigWig is asked for without pybigtools.

    >>> check_track("values.bedgraph")
    """
    if not has_suffix(path, BEDGRAPH + BIGWIG):
        raise InputError(f"{path}: a track ends in one of {', '.join(BEDGRAPH + BIGWIG)}")
    if has_suffix(path, BIGWIG) and importlib.util.find_spec("pybigtools") is None:
        raise InputError(f"{path}: bigWig needs pybigtools (pip install pybigtools); bedGraph needs nothing")


def write_track(path: str | Path, lengths: Mapping[str, int], rows: Iterable[Row]) -> int:
    """Write a track as the rows come, and return how many there were.

    Args:
        path: The file, .bedgraph or .bw. It is written in place: the caller gives it a temporary
            name.
        lengths: The lengths of the chromosomes.
        rows: Chromosome, start, end, value; those of a chromosome together and in order.

    Raises:
        InputError: See `check_track`.
    """
    check_track(path)
    count = 0

    def counted() -> Iterator[Row]:
        nonlocal count
        for row in rows:
            count += 1
            yield row

    if has_suffix(path, BIGWIG):
        import pybigtools

        pybigtools.open(str(path), "w").write(dict(lengths), counted())
        return count
    with open(path, "w", encoding="utf-8", newline="") as file:
        for chromosome, start, end, value in counted():
            file.write(f"{chromosome}\t{start}\t{end}\t{value:.6g}\n")
    return count
