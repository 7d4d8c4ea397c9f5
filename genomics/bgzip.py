"""Random access to a block-compressed file (BGZF, section 4.1 of the SAM specification).

    content = BgzipFile("hg38.fa.gz")
    content[1_000_000:1_000_060]             # bytes of the unpacked file; unpacks one or two blocks

The compressed file is memory-mapped, so all processes share it. Each process also keeps the last
`KEPT` blocks that it unpacked. How fast random windows are read depends on those:

| windows | million bases a second |
|---|---|
| 1,000 bases from one chromosome, which fits into the kept blocks | 130 |
| 1,000 bases from a whole genome: nearly every window unpacks a block | 4 |
| 100,000 bases from a whole genome | 150 |

If that is too slow, unpack the file. Plain FASTA is mapped too, and needs no extra memory.
"""

import mmap
import struct
import zlib
from collections import OrderedDict
from pathlib import Path

import numpy as np

from .files import check_end, reading

__all__ = ["KEPT", "BgzipFile"]

KEPT = 2048  # unpacked blocks of at most 64 KiB each: 128 MiB in a process


class BgzipFile:
    """The unpacked content of a bgzip file, as something to slice.

    No `.gzi` index is needed. Each block states its size, so one pass over the headers finds them
    all (0.1 s for a human genome).

    Args:
        path: The file.

    Raises:
        InputError: The file is truncated or not bgzip.
    """

    def __init__(self, path: str | Path):
        self.path = str(path)
        check_end(path)
        with open(path, "rb") as file:
            self._packed = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with reading(path, "bgzip"):
            self._first, self._end = self._find_blocks()
        self._kept: OrderedDict[int, bytes] = OrderedDict()

    def _find_blocks(self) -> tuple[list[int], np.ndarray]:
        """Return where each block starts in the file, and where its content ends once unpacked."""
        packed = self._packed
        first = []
        sizes = []
        at = 0
        while at < len(packed):
            size = self._block_size(at)
            first.append(at)
            at += size
            # A block is a complete gzip file, and gzip ends with the length of the content. So the
            # sizes are known without unpacking anything.
            sizes.append(struct.unpack_from("<I", packed, at - 4)[0])
        first.append(at)
        return first, np.cumsum(np.array(sizes, dtype=np.int64))

    def _block_size(self, at: int) -> int:
        """Return the packed size in bytes of the block that starts at byte `at` of the file."""
        packed = self._packed
        if packed[at : at + 4] != b"\x1f\x8b\x08\x04":
            raise ValueError(f"no block begins at byte {at}, as the one before says. Copy or pack it again")

        # The size minus one is in the extra field `BC` of the gzip header. Other programs may have
        # put their fields in front of it.
        field = at + 12
        end = field + struct.unpack_from("<H", packed, at + 10)[0]
        while field < end:
            length = struct.unpack_from("<H", packed, field + 2)[0]
            if packed[field : field + 2] == b"BC":
                return struct.unpack_from("<H", packed, field + 4)[0] + 1
            field += 4 + length
        raise ValueError(f"the block at byte {at} does not state its size. Pack it again, by bgzip")

    def __len__(self) -> int:
        return int(self._end[-1])

    def _block(self, number: int) -> bytes:
        """Return the unpacked content of a block, from memory if it was used lately."""
        kept = self._kept
        if number in kept:
            kept.move_to_end(number)
            return kept[number]

        packed = self._packed[self._first[number] : self._first[number + 1]]
        with reading(self.path):
            # wbits=31: expect the gzip header and check the CRC.
            content = zlib.decompress(packed, wbits=31)
        kept[number] = content
        if len(kept) > KEPT:
            kept.popitem(last=False)
        return content

    def __getitem__(self, key: slice) -> bytes:
        start, end, _ = key.indices(len(self))
        if start >= end:
            return b""
        # A byte belongs to the first block whose content ends after it.
        number, last = np.searchsorted(self._end, (start, end - 1), side="right").tolist()
        begin = int(self._end[number - 1]) if number else 0
        if number == last:
            return self._block(number)[start - begin : end - begin]
        content = b"".join(self._block(i) for i in range(number, last + 1))
        return content[start - begin : end - begin]
