"""Intervals: BED, regions, and their algebra against sets of bases."""

from pathlib import Path

import numpy as np
import pytest

from hyenadna.errors import InputError
from hyenadna.genomics.fasta import open_genomes
from hyenadna.genomics.intervals import (
    Intervals,
    centre,
    class_weights,
    merge,
    overlapping,
    read_bed,
    read_regions,
    subtract,
    tile,
)

from .helpers.genomes import GENOME, covered, windows, write_fasta


@pytest.fixture
def genome(tmp_path) -> Path:
    return write_fasta(tmp_path / "g.fa", GENOME)


def test_tiles_cover_every_base_once():
    regions = windows((0, 0, 0, 103), (0, 1, 40, 100), (1, 0, 5, 6))
    cut = tile(regions, 25)
    assert cut[:5].tolist() == [
        [0, 0, 0, 25],
        [0, 0, 25, 50],
        [0, 0, 50, 75],
        [0, 0, 75, 100],
        [0, 0, 100, 103],
    ]
    assert covered(cut) == covered(regions)


def test_centres_by_hand(genome):
    genomes = open_genomes([genome])
    intervals = windows((0, 0, 50, 60), (0, 0, 20, 80), (0, 0, 0, 4), (0, 0, 99, 103), (0, 2, 5, 10))
    wide = centre(intervals, 20, genomes)
    assert wide.tolist() == [[0, 0, 45, 65], [0, 0, 40, 60], [0, 0, 0, 12], [0, 0, 91, 103], [0, 2, 0, 17]]


def test_interval_arithmetic_against_sets_of_bases():
    rng = np.random.default_rng(3)

    def some(n):
        start = rng.integers(0, 60, n)
        return Intervals(rng.integers(0, 12, n), rng.integers(0, 3, n), start, start + rng.integers(1, 20, n))

    for _ in range(60):
        one, other = some(rng.integers(0, 15)), some(rng.integers(0, 15))
        taken = set(covered(other))
        expected = [not taken.isdisjoint(covered(one[[row]])) for row in range(len(one))]
        assert overlapping(one, other).tolist() == expected
        assert sorted(covered(subtract(one, other))) == sorted(
            base for base in covered(one) if base not in taken
        )
        assert covered(merge(one)) == sorted(set(covered(one)))
    assert merge(windows((0, 0, 5, 9), (0, 0, 0, 5), (0, 1, 0, 9))).tolist() == [
        [0, 0, 0, 5],
        [0, 0, 5, 9],
        [0, 1, 0, 9],
    ]
    # a text of as many lines, and another file
    many, other = windows((0, 2**24 + 1, 0, 9)), windows((1, 1, 0, 9))
    assert not overlapping(many, other).any() and subtract(many, other).tolist() == many.tolist()


def test_bed_with_and_without_splits(genome, tmp_path):
    genomes = open_genomes([genome])
    bed = tmp_path / "b.bed"
    bed.write_text("track name=x\n# comment\n1\t0\t10\ttrain\n\n2\t50\t100\tvalid\n1\t20\t30\tTest\n")
    rows, parts = read_bed(bed, genomes, 0)
    assert rows.tolist() == [[0, 0, 0, 10], [0, 1, 50, 100], [0, 0, 20, 30]]
    assert parts == ["train", "validation", "test"]
    tracks = open_genomes([write_fasta(tmp_path / "t.fa", {"track": "ACGT", "track9": "ACGT"})])
    bed.write_text("browser position 1\ntrack\t0\t2\n track9 1 4\n")  # contigs may be called so
    assert read_bed(bed, tracks, 0)[0].tolist() == [[0, 0, 0, 2], [0, 1, 1, 4]]
    bed.write_text("1 0 10 gene1 0 +\nX 0 20 gene2 0 -\n")  # a name is no split
    assert read_bed(bed, genomes, 0)[1] is None
    # as editors and spreadsheets leave it
    bed.write_text("\ufeff1 \t0 \t10\t val\n", encoding="utf-8")
    rows, parts = read_bed(bed, genomes, 0)
    assert rows.tolist() == [[0, 0, 0, 10]] and parts == ["validation"]


def test_regions(genome, tmp_path):
    other = write_fasta(tmp_path / "h.fa", {"X": "ACGT", "HLA:01-02": "ACGTACGT"})
    genomes = open_genomes([genome, other])
    (tmp_path / "r.bed").write_text("2\t0\t50\n")
    found = read_regions(["X", "1:10-1,03", "HLA:01-02", "HLA:01-02:2-4"], genomes, "test")
    assert found.tolist() == [[0, 2, 0, 20], [1, 0, 0, 4], [0, 0, 10, 103], [1, 1, 0, 8], [1, 1, 2, 4]]
    assert read_regions([str(tmp_path / "r.bed")], genomes[:1], "test").tolist() == [[0, 1, 0, 50]]


def test_held_out_regions_of_several_species(genome, tmp_path):
    """A name is meant in each file that has it, also in BED, or in one alone where that file stands
    in front.
    """
    other = write_fasta(tmp_path / "h.fa", {"X": "ACGT", "Y:1-2": "ACGTACGT"})
    genomes, bed = open_genomes([genome, other]), tmp_path / "r.bed"
    bed.write_text("2\t0\t50\nX\t1\t3\nY:1-2\t0\t8\n")
    lines = [[0, 1, 0, 50], [0, 2, 1, 3], [1, 0, 1, 3], [1, 1, 0, 8]]
    assert read_regions([str(bed)], genomes, "test").tolist() == lines
    only = [f"{genome}:X", f"{genome}:X:5-20", f"{other}:Y:1-2:3-4"]
    assert read_regions(only, genomes, "test").tolist() == [[0, 2, 0, 20], [0, 2, 5, 20], [1, 1, 3, 4]]
    for spec, message in (
        ("Z", r"test 'Z': none of the 2 files has it: there is no sequence 'Z' in .*g.fa"),
        (f"{other}:2", r"h.fa:2': there is no sequence '2' in .*h.fa, which has \['X', 'Y:1-2'\]"),
        (f"{other}:{bed}", r"r.bed: line 1: there is no sequence '2' in .*h.fa"),
        ("X:0-20", r"X:0-20 ends outside of X, which has 4 bases"),
    ):
        with pytest.raises(InputError, match=message):
            read_regions([spec], genomes, "test")


@pytest.mark.parametrize(
    "content, message",
    [
        (
            "1\t0\t10\nchr7\t0\t10\n",
            r"b.bed: line 2: there is no sequence 'chr7' in .*which has \['1', '2', 'X'\]$",
        ),
        ("1\t10\t10\n", r"b.bed: line 1: the end of 1:10-10 must be above its start"),
        ("#\n1\t90\t104\n", r"b.bed: line 2: 1:90-104 ends outside of 1, which has 103 bases"),
        ("1\tzero\t10\n", r"b.bed: line 1 is '1\\tzero\\t10'; expected chromosome, start and end"),
        ("1\t0\n", r"b.bed: line 1 is"),
        ("1\t-5\t10\n", r"b.bed: line 1 is"),
        ("1\t0\t5\ttrain\n1\t8\t9\tvolid\n", r"b.bed: line 2 has the split 'volid'; expected one of"),
        ("# nothing\n", r"b.bed: there is no interval"),
    ],
)
def test_bed_lines_that_cannot_be_used(content, message, genome, tmp_path):
    (tmp_path / "b.bed").write_text(content)
    with pytest.raises(InputError, match=message):
        read_bed(tmp_path / "b.bed", open_genomes([genome]), 0)


def test_weights_of_bed_classes(genome, tmp_path):
    genomes, bed = open_genomes([genome]), tmp_path / "classes.bed"
    bed.write_text("1\t10\t20\texon\n1\t18\t30\trepeat\n1\t40\t50\tintron\n2\t0\t5\texon\n")
    cut = windows((0, 0, 0, 10), (0, 0, 10, 12), (0, 0, 19, 29), (0, 0, 20, 29), (0, 0, 45, 46), (0, 1, 4, 9))
    # beside all, exon, both, repeat, a class without a weight, exon
    expected = [1, 3, 3, 0.5, 1, 3]
    assert class_weights(cut, [bed], genomes, {"exon": 3.0, "repeat": 0.5}).tolist() == expected
    assert class_weights(cut, [bed], genomes, {"repeat": 0.5}).tolist() == [1, 1, 1, 0.5, 1, 1]

    bed.write_text("1\t10\t20\ttrain\texon\n1\t30\t40\tvalid\trepeat\n")
    assert class_weights(cut, [bed], genomes, {"exon": 3.0}).tolist() == [1, 3, 3, 1, 1, 1]
    with pytest.raises(
        InputError, match=r"no interval of .* is of the class 'train'; the classes are .*'exon'"
    ):
        class_weights(cut, [bed], genomes, {"exon": 3.0, "train": 2.0})
    bed.write_text("1\t10\t20\n")
    with pytest.raises(
        InputError, match="of the class 'exon'; the classes are missing: the fourth column names them"
    ):
        class_weights(cut, [bed], genomes, {"exon": 3.0})
