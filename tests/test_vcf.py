"""VCF: its lines, and a compressed copy whose index finds what a plain search through all records
finds.
"""

import gzip
import random

import pysam
import pytest

from hyenadna.errors import InputError
from hyenadna.genomics.files import check_end
from hyenadna.genomics.vcf import Written, check_vcf, vcf_lines, vcf_records, write_vcf

HEADER = ["##fileformat=VCFv4.2", "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"]


def fetch(path, index, name, start, end):
    with pysam.TabixFile(str(path), index=str(index)) as file:
        return sorted(int(line.split("\t")[2]) for line in file.fetch(name, start, end))


def records(rng, name, count, reach, first):
    positions = sorted(rng.randrange(1, reach) for _ in range(count))
    long = "A" * 70_000  # one that spans several windows and blocks
    refs = [long if i == count // 2 else "ACGT"[: rng.randrange(1, 5)] for i in range(count)]
    rest = "\t.\t.\t.\t" + "0|1\t" * 50
    return [(name, p, first + i, ref, rest) for i, (p, ref) in enumerate(zip(positions, refs, strict=True))]


@pytest.mark.parametrize(("reach", "suffix"), [(400_000_000, ".tbi"), (1_500_000_000, ".csi")])
def test_every_region_finds_its_records(reach, suffix, tmp_path):
    """Also beyond 2^29 bases, which a .tbi does not reach."""
    rng = random.Random(0)
    rows = records(rng, "1", 900, 3_000_000, 0) + records(rng, "X", 300, reach, 900)
    lines = HEADER + [f"{n}\t{p}\t{i}\t{ref}\tA{rest}" for n, p, i, ref, rest in rows]
    path = tmp_path / "x.vcf.gz"
    written = write_vcf(path, lines)
    assert written.problem == "" and written.index == tmp_path / f"x.vcf.gz{suffix}"
    assert gzip.decompress(path.read_bytes()).decode().splitlines() == lines
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.vcf.gz", f"x.vcf.gz{suffix}"]
    check_end(path)
    check_end(written.index)
    for name, length in (("1", 3_000_000), ("X", reach)):
        for size in (1, 100, 20_000, 5_000_000):
            for _ in range(8):
                start = rng.randrange(length)
                expected = [
                    i
                    for n, p, i, ref, _ in rows
                    if n == name and p - 1 < start + size and p - 1 + len(ref) > start
                ]
                assert fetch(path, written.index, name, start, start + size) == expected


def test_the_end_of_a_symbolic_allele_counts(tmp_path):
    lines = [*HEADER, "1\t100\t0\tA\t<DEL>\t.\t.\tSVTYPE=DEL;END=90000"]
    written = write_vcf(tmp_path / "x.vcf.gz", lines)
    assert fetch(tmp_path / "x.vcf.gz", written.index, "1", 89_990, 89_999) == [0]
    assert fetch(tmp_path / "x.vcf.gz", written.index, "1", 90_000, 99_999) == []
    far = [*HEADER, f"1\t100\t0\tA\t<DEL>\t.\t.\tEND={2**30}"]
    written = write_vcf(tmp_path / "x.vcf.gz", far)
    # of the file before
    assert written.index.suffix == ".csi" and not (tmp_path / "x.vcf.gz.tbi").exists()
    assert fetch(tmp_path / "x.vcf.gz", written.index, "1", 2**30 - 2, 2**30 - 1) == [0]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([("1", 5), ("1", 4)], "not sorted by position"),
        ([("1", 5), ("2", 1), ("1", 9)], "records of 1 are not together"),
        ([("1", 0)], "what an index can hold"),
    ],
)
def test_what_has_no_index_says_why(tmp_path, rows, reason):
    lines = HEADER + [f"{n}\t{p}\t.\tA\tC\t.\t.\t." for n, p in rows]
    written = write_vcf(tmp_path / "x.vcf.gz", lines)
    assert reason in written.problem and written.index is None
    assert gzip.decompress((tmp_path / "x.vcf.gz").read_bytes()).decode().splitlines() == lines
    assert [p.name for p in tmp_path.iterdir()] == ["x.vcf.gz"]


def test_a_plain_copy_has_no_index(tmp_path):
    lines = [*HEADER, "1\t5\ta\tA\tC\t.\t.\t.\tGT\t0/1"]
    assert write_vcf(tmp_path / "x.vcf", lines) == Written(tmp_path / "x.vcf", None, "")
    assert list(vcf_lines(tmp_path / "x.vcf")) == lines
    assert list(vcf_records(tmp_path / "x.vcf")) == [["1", "5", "a", "A", "C", ".", ".", "."]]
    assert check_vcf(tmp_path / "x.vcf")[0] == 1


def test_a_copy_that_fails_leaves_the_one_before(tmp_path):
    write_vcf(tmp_path / "x.vcf.gz", HEADER)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def lines():
        yield from HEADER
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError):
        write_vcf(tmp_path / "x.vcf.gz", lines())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_gzip_is_let_pass_and_a_cut_is_not(tmp_path):
    path = tmp_path / "x.vcf.gz"
    path.write_bytes(gzip.compress(b"text"))
    check_end(path)
    write_vcf(path, HEADER)
    path.write_bytes(path.read_bytes()[:-28])
    with pytest.raises(InputError, match="truncated"):
        check_end(path)
    with pytest.raises(InputError, match="truncated"):
        list(vcf_lines(path))


@pytest.mark.parametrize("position", ["x", "-1", "9" * 5000, str(2**31), "\u0663"])
def test_positions_that_are_none(position, tmp_path):
    (tmp_path / "x.vcf").write_text("\n".join([*HEADER, f"1\t{position}\t.\tA\tC\t.\t.\t."]) + "\n")
    with pytest.raises(InputError, match=r"x.vcf: line 3 is .*the second of them a position"):
        check_vcf(tmp_path / "x.vcf")


@pytest.mark.parametrize("end", ["9" * 5000, str(2**31)])
def test_an_absurd_end_leaves_no_index(end, tmp_path):
    lines = [*HEADER, f"1\t5\t0\tA\tC\t.\t.\tEND={end}"]
    written = write_vcf(tmp_path / "x.vcf.gz", lines)
    assert written.index is None and "1:5 is outside of what an index can hold" in written.problem
    assert list(vcf_lines(tmp_path / "x.vcf.gz")) == lines
