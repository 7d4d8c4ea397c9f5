"""VCF as text: its lines, its records, and a copy that is compressed and indexed.

    for chrom, pos, *_ in vcf_records("calls.vcf.gz"):
        ...
    write_vcf(Path("copy.vcf.gz"), vcf_lines("calls.vcf.gz")).index          # copy.vcf.gz.tbi

Positions of a VCF count from 1. Lines are kept as they are, so that a copy differs from its source
only where it is meant to.
"""

import os
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pysam

from hyenadna.errors import InputError, reading

from .files import open_text, text_lines

__all__ = ["Written", "check_vcf", "vcf_lines", "vcf_records", "write_vcf"]

_HEADER = "#CHROM\tPOS\tID\tREF\tALT"
_LONGEST_TBI = 2**29  # what the bins of a .tbi reach; a .csi reaches further
_LONGEST = 2**31 - 1  # of a position in VCF
_LINES = 1000  # to write at a time


def vcf_lines(path: str | Path) -> Iterator[str]:
    """Yield the lines of a VCF, plain, gzip or bgzip, without their ends.

    Raises:
        InputError: It cannot be read to its end.
    """
    is_bcf = ". Is it a BCF? `bcftools view` makes a VCF of it"
    with (
        reading(f"{path} cannot be read to its end"),
        reading(f"{path} is no text", is_bcf, errors=UnicodeDecodeError),
        open_text(path) as file,
    ):
        for line in text_lines(file):
            if not line.endswith("\n"):
                raise InputError(f"{path} is truncated: its last line has no end: {line[:60]!r}")
            yield line[:-1]


def check_vcf(path: str | Path) -> tuple[int, int]:
    """Read a VCF once, and return the number of its records and a checksum of its lines.

    Raises:
        InputError: There is no header, or a line has too few fields or no position.

    >>> check_vcf("calls.vcf.gz")                                           # doctest: +SKIP
    (5000, 2784350011)
    """
    has_header = False
    records = 0
    checksum = 0
    for number, line in enumerate(vcf_lines(path), 1):
        checksum = zlib.crc32(line.encode() + b"\n", checksum)
        if line.startswith("#"):
            has_header = has_header or line.startswith(_HEADER)
            continue
        if not has_header:
            raise InputError(
                f"{path}: line {number} comes before the header (#CHROM, POS, ID, REF, ALT ...): no VCF?"
            )
        fields = line.split("\t", 8)
        if len(fields) < 8 or not _is_position(fields[1]):
            raise InputError(
                f"{path}: line {number} is {line[:60]!r}; expected at least 8 fields separated by tabs, "
                "the second of them a position"
            )
        records += 1
    if not has_header:
        raise InputError(f"{path} has no header line (#CHROM, POS, ID, REF, ALT ...)")
    return records, checksum


def _is_position(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) <= _LONGEST


def vcf_records(path: str | Path) -> Iterator[list[str]]:
    """Yield the first eight fields of each record: CHROM, POS, ID, REF, ALT, QUAL, FILTER, INFO.

    Raises:
        InputError: See `vcf_lines`; `check_vcf` looks at the fields.
    """
    return (line.split("\t", 8)[:8] for line in vcf_lines(path) if not line.startswith("#"))


# ------------------------------------------------------------------------------------------ writing


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        path: The VCF.
        index: Its index, `.tbi`, or `.csi` where a chromosome is longer than 2^29 bases; None
            without one.
        problem: Why there is no index, in words; empty if there is one or none is needed.
    """

    path: Path
    index: Path | None
    problem: str


class _Extent:
    """How far the records reach, and whether an index can be made of them: they must be sorted."""

    def __init__(self) -> None:
        self.problem = ""
        self.longest = 0
        self._seen: set[str] = set()
        self._chromosome = ""
        self._position = 0

    def add(self, line: str) -> None:
        """Take the next record into account."""
        if self.problem:
            return
        fields = line.split("\t", 8)
        chromosome = fields[0]
        position = int(fields[1])
        stated_end = re.search(r"(?:^|;)END=(\d+)", fields[7])
        end = position + len(fields[3]) - 1
        if stated_end:
            is_absurd = len(stated_end[1]) > 10
            end = _LONGEST + 1 if is_absurd else max(end, int(stated_end[1]))
        if chromosome != self._chromosome and chromosome in self._seen:
            self.problem = f"the records of {chromosome} are not together"
        elif chromosome == self._chromosome and position < self._position:
            self.problem = f"the records are not sorted by position ({chromosome}:{position:,})"
        elif position < 1 or end > _LONGEST:
            self.problem = f"{chromosome}:{position:,} is outside of what an index can hold"
        self._seen.add(chromosome)
        self._chromosome = chromosome
        self._position = position
        self.longest = max(self.longest, end)


def write_vcf(path: Path, lines: Iterable[str]) -> Written:
    """Write the lines of a VCF, whole or not at all.

    Args:
        path: Where to; if it ends in `.gz`, the file is compressed by bgzip and indexed if its
            records are sorted.
        lines: Of the header and the records, without their ends.

    >>> write_vcf(Path("copy.vcf.gz"), vcf_lines("calls.vcf")).problem      # doctest: +SKIP
    ''
    """
    compress = path.suffix == ".gz"
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}.unfinished{path.suffix}")
    index = unfinished.with_name(f"{unfinished.name}.index")
    extent = _Extent()
    try:
        with pysam.BGZFile(str(unfinished), "wb", None) if compress else open(unfinished, "wb") as file:
            for text in _joined(lines, extent):
                file.write(text.encode())
        old = [path.with_name(f"{path.name}{suffix}") for suffix in (".tbi", ".csi")]
        if not compress or extent.problem:
            os.replace(unfinished, path)
            for other in old:
                other.unlink(missing_ok=True)
            return Written(path, None, extent.problem)

        is_long = extent.longest > _LONGEST_TBI
        pysam.tabix_index(str(unfinished), preset="vcf", index=str(index), csi=is_long, force=True)
        os.replace(unfinished, path)
        new = old[1] if is_long else old[0]
        os.replace(index, new)
        old[0 if is_long else 1].unlink(missing_ok=True)
        os.utime(new)  # tools warn of an index that is older than its file
        return Written(path, new, "")
    finally:
        unfinished.unlink(missing_ok=True)
        index.unlink(missing_ok=True)


def _joined(lines: Iterable[str], extent: _Extent) -> Iterator[str]:
    """Join some lines at a time, and note how far their records reach."""
    lines = iter(lines)
    while some := list(islice(lines, _LINES)):
        for line in some:
            if not line.startswith("#"):
                extent.add(line)
        yield "\n".join(some) + "\n"
