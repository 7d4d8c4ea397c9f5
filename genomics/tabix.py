"""Block-compressed VCF (BGZF, section 4.1 of the SAM specification) and its index by position (tabix).

Written with Biopython's BGZF; the index is the published layout of `.tbi`, for bcftools, tabix and genome browsers.
"""

import re
import struct
from collections.abc import Iterable
from pathlib import Path

from Bio.bgzf import BgzfWriter

from hyenadna.errors import InputError

_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")  # an empty block, the last of a file
_LONGEST = 2**29  # what the bins of a .tbi reach


def check_end(path: str) -> None:
    """Raise `InputError` where a block-compressed file lacks its last block: it was cut between two of them."""
    with open(path, "rb") as file:
        head = file.read(18)
        if head[:4] != _END[:4] or head[12:14] != b"BC":
            return  # gzip, which knows its own end
        file.seek(-len(_END), 2)
        if file.read() != _END:
            raise InputError(f"{path} is truncated: the block that ends a bgzip file is missing. Copy it again")


def bin_of(start: int, end: int) -> int:
    """The smallest bin that holds [start, end), of 2^14 to 2^29 bases (section 5.3 of the SAM specification)."""
    for shift, first in ((14, 4681), (17, 585), (20, 73), (23, 9), (26, 1)):
        if start >> shift == (end - 1) >> shift:
            return first + (start >> shift)
    return 0


class _Index:
    """Bins and the 16 kb windows of the linear index, for each chromosome, of records in order."""

    def __init__(self):
        self.chromosomes: dict[str, tuple[dict[int, list[list[int]]], list[int | None]]] = {}
        self.problem, self.last = "", ("", 0)

    def add(self, fields: list[str], first: int, behind: int) -> None:
        """Add the record that lies between two virtual offsets of the file."""
        name, start = fields[0], int(fields[1]) - 1
        stated = re.search(r"(?:^|;)END=(\d+)", fields[7])
        end = max(int(stated[1]) if stated else 0, start + len(fields[3]))
        if name != self.last[0] and name in self.chromosomes:
            self.problem = f"the records of {name} are not together"
        elif name == self.last[0] and start < self.last[1]:
            self.problem = f"the records are not sorted by position ({name}:{start + 1:,})"
        elif start < 0 or end > _LONGEST:
            self.problem = f"{name}:{start + 1:,} is outside of what a .tbi can hold"
        self.last = (name, start)
        if self.problem:
            return
        bins, windows = self.chromosomes.setdefault(name, ({}, []))
        chunks = bins.setdefault(bin_of(start, end), [])
        if chunks and chunks[-1][1] == first:
            chunks[-1][1] = behind
        else:
            chunks.append([first, behind])
        windows += [None] * (((end - 1) >> 14) + 1 - len(windows))
        for window in range(start >> 14, ((end - 1) >> 14) + 1):
            windows[window] = first if windows[window] is None else windows[window]

    def packed(self) -> bytes:
        names = b"".join(name.encode() + b"\0" for name in self.chromosomes)
        # Format 2 is VCF: the columns of chromosome and position, none of the end; `#` begins a comment; skip 0 lines.
        parts = [b"TBI\1", struct.pack("<8i", len(self.chromosomes), 2, 1, 2, 0, ord("#"), 0, len(names)), names]
        for bins, windows in self.chromosomes.values():
            parts.append(struct.pack("<i", len(bins)))
            for number, chunks in sorted(bins.items()):
                parts.append(struct.pack("<Ii", number, len(chunks)))
                parts += [struct.pack("<2Q", *chunk) for chunk in chunks]
            parts.append(struct.pack("<i", len(windows)))
            known = 0
            for offset in windows:  # a window that no record reaches: where the one before it begins
                known = known if offset is None else offset
                parts.append(struct.pack("<Q", known))
        return b"".join(parts)


def write_indexed(path: Path, index: Path, lines: Iterable[str]) -> str:
    """Write the lines of a VCF, block-compressed, and their index.

    Returns:
        Why there is no index, in words; empty if there is one.
    """
    entries = _Index()
    with BgzfWriter(str(path), "wb") as file:
        for line in lines:
            first = file.tell()
            file.write(line.encode() + b"\n")
            if not line.startswith("#") and not entries.problem:
                entries.add(line.split("\t", 8), first, file.tell())
    if not entries.problem:
        with BgzfWriter(str(index), "wb") as file:
            file.write(entries.packed())
    return entries.problem
