"""The index against a reader that follows the published layout, and against a plain search through all records."""

import gzip
import random
import struct

import pytest
from Bio.bgzf import BgzfReader

from hyenadna.errors import InputError
from hyenadna.genomics.tabix import bin_of, check_end, write_indexed

HEADER = ["##fileformat=VCFv4.2", "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"]


def read_index(path):
    """For each chromosome its bins, number to chunks, and its windows."""
    data = gzip.decompress(path.read_bytes())
    magic, count, kind, chromosome, start, end, meta, skip, length = struct.unpack_from("<4s8i", data)
    assert (magic, kind, chromosome, start, end, meta, skip) == (b"TBI\1", 2, 1, 2, 0, 35, 0)
    at = 36 + length
    names, index = data[36:at].split(b"\0")[:-1], {}
    for name in names:
        (bins,) = struct.unpack_from("<i", data, at)
        at, held = at + 4, {}
        for _ in range(bins):
            number, chunks = struct.unpack_from("<Ii", data, at)
            held[number] = [struct.unpack_from("<QQ", data, at + 8 + 16 * i) for i in range(chunks)]
            at += 8 + 16 * chunks
        (windows,) = struct.unpack_from("<i", data, at)
        index[name.decode()] = held, struct.unpack_from(f"<{windows}Q", data, at + 4)
        at += 4 + 8 * windows
    assert len(names) == count and at == len(data)
    return index


def overlapping_bins(start, end):
    """All bins that may hold a record of [start, end): the loop of section 5.3 of the SAM specification, by levels."""
    bins = {0}
    for first, shift in ((1, 26), (9, 23), (73, 20), (585, 17), (4681, 14)):
        bins.update(range(first + (start >> shift), first + ((end - 1) >> shift) + 1))
    return bins


def fetch(path, index, name, start, end):
    bins, windows = index[name]
    first = start >> 14
    least = windows[min(first, len(windows) - 1)] if windows else 0
    found = []
    with BgzfReader(str(path), "rb") as file:
        for number in overlapping_bins(start, end) & bins.keys():
            for begin, stop in bins[number]:
                if stop <= least:
                    continue
                file.seek(begin)
                while file.tell() < stop:
                    fields = file.readline().decode().rstrip("\n").split("\t")
                    position = int(fields[1]) - 1
                    if fields[0] == name and position < end and position + len(fields[3]) > start:
                        found.append(int(fields[2]))
    return sorted(found)


def records(rng, name, count, reach, first):
    positions = sorted(rng.randrange(1, reach) for _ in range(count))
    long = "A" * 70_000  # one that spans several windows and blocks
    refs = [long if i == count // 2 else "ACGT"[: rng.randrange(1, 5)] for i in range(count)]
    rest = "\t.\t.\t.\t" + "0|1\t" * 50
    return [(name, p, first + i, ref, rest) for i, (p, ref) in enumerate(zip(positions, refs, strict=True))]


def test_every_region_finds_its_records(tmp_path):
    rng = random.Random(0)
    rows = records(rng, "1", 900, 3_000_000, 0) + records(rng, "X", 300, 400_000_000, 900)
    lines = HEADER + [f"{n}\t{p}\t{i}\t{ref}\tA{rest}" for n, p, i, ref, rest in rows]
    path, tbi = tmp_path / "x.vcf.gz", tmp_path / "x.vcf.gz.tbi"
    assert write_indexed(path, tbi, lines) == ""
    assert gzip.decompress(path.read_bytes()).decode().splitlines() == lines
    check_end(str(path))
    check_end(str(tbi))
    index = read_index(tbi)
    assert list(index) == ["1", "X"] and index["1"][0].keys() > {4681, 4682}
    for name, reach in (("1", 3_000_000), ("X", 400_000_000)):
        for size in (1, 100, 20_000, 5_000_000):
            for _ in range(8):
                start = rng.randrange(reach)
                expected = [
                    i for n, p, i, ref, _ in rows if n == name and p - 1 < start + size and p - 1 + len(ref) > start
                ]
                assert fetch(path, index, name, start, start + size) == expected


def test_bins():
    assert [bin_of(0, 1), bin_of(16384, 16385), bin_of(16383, 16385), bin_of(0, 2**29)] == [4681, 4682, 585, 0]
    rng = random.Random(1)
    for _ in range(300):
        start = rng.randrange(2**29 - 1)
        end = min(2**29, start + 2 ** rng.randrange(1, 28))
        number = bin_of(start, end)
        assert number in overlapping_bins(start, end)
        # It is held by no smaller bin, and reaches over the whole of the record.
        assert all(number in overlapping_bins(p, p + 1) for p in (start, end - 1))


def test_the_end_of_a_symbolic_allele_counts(tmp_path):
    lines = [*HEADER, "1\t100\t0\tA\t<DEL>\t.\t.\tSVTYPE=DEL;END=90000"]
    assert write_indexed(tmp_path / "x.gz", tmp_path / "x.tbi", lines) == ""
    bins, windows = read_index(tmp_path / "x.tbi")["1"]
    assert list(bins) == [bin_of(99, 90_000)] and len(windows) == 6


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([("1", 5), ("1", 4)], "not sorted by position"),
        ([("1", 5), ("2", 1), ("1", 9)], "records of 1 are not together"),
        ([("1", 0)], "what a .tbi can hold"),
        ([("1", 2**29 + 1)], "what a .tbi can hold"),
    ],
)
def test_what_has_no_index_says_why(tmp_path, rows, reason):
    lines = HEADER + [f"{n}\t{p}\t.\tA\tC\t.\t.\t." for n, p in rows]
    assert reason in write_indexed(tmp_path / "x.gz", tmp_path / "x.tbi", lines)
    assert gzip.decompress((tmp_path / "x.gz").read_bytes()).decode().splitlines() == lines
    assert not (tmp_path / "x.tbi").exists()


def test_gzip_is_let_pass_and_a_cut_is_not(tmp_path):
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b"text"))
    check_end(str(path))
    write_indexed(path, tmp_path / "x.tbi", HEADER)
    path.write_bytes(path.read_bytes()[:-28])
    with pytest.raises(InputError, match="truncated"):
        check_end(str(path))
