"""VCF as text: read lines and records, write a compressed and indexed copy.

    for chrom, pos, *_ in vcf_records("calls.vcf.gz"):
        ...
    write_vcf(Path("copy.vcf.gz"), vcf_lines("calls.vcf.gz")).index          # copy.vcf.gz.tbi

Positions in a VCF count from 1. Lines pass through as text. A VCF library would parse them and
write them anew, and so change more than the caller does.
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
_LONGEST_TBI = 2**29  # bases that the bins of a .tbi cover; a .csi covers more
_LONGEST = 2**31 - 1  # the largest position that VCF allows
_LINES = 1000  # lines to write at a time


def vcf_lines(path: str | Path) -> Iterator[str]:
    """Yield the lines of a VCF (plain, gzip or bgzip) without their line breaks.

    Raises:
        InputError: It cannot be read to its end.
    """
    is_bcf = ". Is it a BCF? `bcftools view` turns it into a VCF"
    with (
        reading(f"{path} cannot be read to its end"),
        reading(f"{path} is no text", is_bcf, errors=UnicodeDecodeError),
        open_text(path) as file,
    ):
        for line in text_lines(file):
            # Plain text has no checksum: the missing line break is all that shows a cut.
            if not line.endswith("\n"):
                raise InputError(f"{path} is truncated: its last line has no end: {line[:60]!r}")
            yield line[:-1]


def check_vcf(path: str | Path) -> tuple[int, int]:
    """Read a whole VCF; return the number of its records and a checksum (CRC-32) of its lines.

    Raises:
        InputError: The header is missing, or a line has too few fields or no position.

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
        # Without this, any text file with tabs and numbers would pass for a VCF.
        if not has_header:
            raise InputError(
                f"{path}: line {number} comes before the header (#CHROM, POS, ID, REF, ALT ...): no VCF?"
            )
        # Genotypes are optional, so eight fields are enough.
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
        InputError: See `vcf_lines`. The fields are checked by `check_vcf`, not here.

    >>> [(chrom, int(pos)) for chrom, pos, *_ in vcf_records("calls.vcf")]  # doctest: +SKIP
    [('chr20', 1000001)]
    """
    # At most 8 splits: the genotypes of thousands of samples stay in one piece, which is dropped.
    return (line.split("\t", 8)[:8] for line in vcf_lines(path) if not line.startswith("#"))


# ------------------------------------------------------------------------------------------ writing


@dataclass(frozen=True)
class Written:
    """What `write_vcf` wrote.

    Attributes:
        path: The VCF.
        index: Its index: `.tbi`, or `.csi` if a record ends beyond 2^29 bases. None without one.
        problem: Why there is no index, in words. Empty if there is one, or none is needed.
    """

    path: Path
    index: Path | None
    problem: str


class _Extent:
    """How far the records reach, and whether they are sorted, as an index needs them."""

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
        # The index bins a record by the last base of REF or, for a structural variant, by INFO/END.
        end = max(position + len(fields[3]) - 1, self._stated_end(fields[7]))
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

    @staticmethod
    def _stated_end(info: str) -> int:
        """Return INFO/END, or 0 without one."""
        stated = re.search(r"(?:^|;)END=(\d+)", info)
        if stated is None:
            return 0
        # More digits than any position has: too large, whatever they are.
        if len(stated[1]) > 10:
            return _LONGEST + 1
        return int(stated[1])


def write_vcf(path: Path, lines: Iterable[str]) -> Written:
    """Write the lines of a VCF, completely or not at all.

    Args:
        path: The file to write. If it ends in `.gz`, it is bgzipped, and indexed if its records are
            sorted.
        lines: The header and the records, without line breaks.

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
        tbi, csi = (path.with_name(f"{path.name}{suffix}") for suffix in (".tbi", ".csi"))
        if not compress or extent.problem:
            os.replace(unfinished, path)
            # An index that an earlier run left would point into the wrong file.
            tbi.unlink(missing_ok=True)
            csi.unlink(missing_ok=True)
            return Written(path, None, extent.problem)

        is_long = extent.longest > _LONGEST_TBI
        pysam.tabix_index(str(unfinished), preset="vcf", index=str(index), csi=is_long, force=True)
        new, stale = (csi, tbi) if is_long else (tbi, csi)
        os.replace(unfinished, path)
        os.replace(index, new)
        stale.unlink(missing_ok=True)
        os.utime(new)  # htslib warns of an index older than its file
        return Written(path, new, "")
    finally:
        unfinished.unlink(missing_ok=True)
        index.unlink(missing_ok=True)


def _joined(lines: Iterable[str], extent: _Extent) -> Iterator[str]:
    """Yield `_LINES` lines at a time as one text, and note how far their records reach."""
    lines = iter(lines)
    while batch := list(islice(lines, _LINES)):
        for line in batch:
            if not line.startswith("#"):
                extent.add(line)
        yield "\n".join(batch) + "\n"
