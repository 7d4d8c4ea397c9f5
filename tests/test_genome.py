"""Genomes: what is read, where windows lie, that parts share no base, and what is refused."""

import gzip
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from Bio import bgzf
from pyfaidx import Fasta

from hyenadna.errors import InputError
from hyenadna.genomics.genome import (
    SOFT_MASKED,
    centre,
    class_weights,
    count_bases,
    merge,
    open_genomes,
    overlapping,
    read_bed,
    read_regions,
    split_windows,
    subtract,
    tile,
)
from hyenadna.genomics.letters import reverse_complement
from hyenadna.genomics.windows import WindowDataset
from hyenadna.tokenization import HyenaDNATokenizer

from .helpers.genomes import random_dna, windows, write_fasta

ROWS = ("file", "sequence", "start", "end")


GENOME = {"1": random_dna(103), "2": "n" * 40 + random_dna(60, 1, "ACGTacgtNRy"), "X": random_dna(20, 2)}


@pytest.fixture
def genome(tmp_path) -> Path:
    return write_fasta(tmp_path / "g.fa", GENOME)


def covered(parts: np.ndarray) -> list[tuple[int, int, int]]:
    """Every base of these windows: (file, sequence, position)."""
    return [(file, seq, i) for file, seq, start, end in parts.tolist() for i in range(start, end)]


# ---------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_reads_what_pyfaidx_and_the_tokenizer_give(end, tmp_path):
    path = write_fasta(tmp_path / "g.fa", GENOME, end=end)
    (genome,) = open_genomes([path])
    assert genome.names == list(GENOME) and genome.lengths.tolist() == [103, 100, 20]
    fasta, tokenizer = Fasta(str(path)), HyenaDNATokenizer(add_eos_token=False)
    for sequence, name in enumerate(GENOME):
        for start, stop in ((0, 1), (0, 7), (3, 20), (6, 8), (7, 14), (13, 20), (0, len(GENOME[name]))):
            ids = np.frombuffer(genome.read(sequence, start, stop), np.uint8)
            text = str(fasta[name][start:stop])
            assert (ids % SOFT_MASKED).tolist() == tokenizer(text)["input_ids"]
            assert (ids >= SOFT_MASKED).tolist() == [letter.islower() for letter in text]


def test_bgzip_table_and_text_give_the_same_ids(genome, tmp_path):
    (plain,) = open_genomes([genome])
    with bgzf.BgzfWriter(str(tmp_path / "z.fa.gz")) as file:
        file.write(genome.read_bytes())
    pd.DataFrame({"dna": list(GENOME.values())}).to_csv(tmp_path / "t.csv", index=False)
    pd.DataFrame({"dna": list(GENOME.values())}).to_csv(tmp_path / "t.tsv.gz", index=False, sep="\t")
    pd.DataFrame({"dna": list(GENOME.values())}).to_parquet(tmp_path / "t.parquet")
    (tmp_path / "t.txt").write_text("\n".join(GENOME.values()))
    for name in ("t.csv", "t.txt"):
        (tmp_path / f"bom.{name}").write_text((tmp_path / name).read_text(), encoding="utf-8-sig")
    files = ("z.fa.gz", "t.csv", "t.tsv.gz", "t.parquet", "t.txt", "bom.t.csv", "bom.t.txt")
    others = open_genomes([tmp_path / f for f in files], "dna")
    for other in others:
        assert other.lengths.tolist() == plain.lengths.tolist()
        for sequence, start, stop in ((0, 5, 100), (1, 0, 100), (2, 19, 20)):
            assert other.read(sequence, start, stop) == plain.read(sequence, start, stop)


def test_an_index_is_made_once_and_again_when_the_file_changes(genome):
    open_genomes([genome])
    index = genome.with_name("g.fa.fai")
    made = index.stat().st_mtime_ns
    assert [path.name for path in genome.parent.iterdir() if "unfinished" in path.name] == []
    open_genomes([genome])
    assert index.stat().st_mtime_ns == made
    write_fasta(genome, {"longer": "ACGT" * 50})
    os.utime(index, (1, 1))
    assert open_genomes([genome])[0].lengths.tolist() == [200]


def test_a_pickled_file_reads_on(genome):
    (one,) = open_genomes([genome])
    state = pickle.dumps(one)
    assert len(state) < 4000 and pickle.loads(state).read(0, 3, 50) == one.read(0, 3, 50)


# ---------------------------------------------------------------------------------------------- intervals


def test_tiles_cover_every_base_once():
    regions = windows((0, 0, 0, 103), (0, 1, 40, 100), (1, 0, 5, 6))
    cut = tile(regions, 25)
    assert cut[:5].tolist() == [[0, 0, 0, 25], [0, 0, 25, 50], [0, 0, 50, 75], [0, 0, 75, 100], [0, 0, 100, 103]]
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
        return np.stack([rng.integers(0, 12, n), rng.integers(0, 3, n), start, start + rng.integers(1, 20, n)], axis=1)

    for _ in range(60):
        one, other = some(rng.integers(0, 15)), some(rng.integers(0, 15))
        taken = set(covered(other))
        expected = [not taken.isdisjoint(covered(row[None])) for row in one]
        assert overlapping(one, other).tolist() == expected
        assert sorted(covered(subtract(one, other))) == sorted(base for base in covered(one) if base not in taken)
        assert covered(merge(one)) == sorted(set(covered(one)))
    assert merge(windows((0, 0, 5, 9), (0, 0, 0, 5), (0, 1, 0, 9))).tolist() == [
        [0, 0, 0, 5],
        [0, 0, 5, 9],
        [0, 1, 0, 9],
    ]
    many, other = windows((0, 2**24 + 1, 0, 9)), windows((1, 1, 0, 9))  # a text of as many lines, and another file
    assert not overlapping(many, other).any() and subtract(many, other).tolist() == many.tolist()


def test_counts_of_bases(genome, monkeypatch):
    genomes = open_genomes([genome])
    cut = np.concatenate([tile(windows((0, 0, 0, 103), (0, 1, 0, 100)), 9), windows((0, 1, 35, 77), (0, 2, 0, 20))])
    expected = []
    for _, sequence, start, end in cut.tolist():
        text = list(GENOME.values())[sequence][start:end].upper()
        expected.append(sum(letter in "ACGT" for letter in text))
    assert count_bases(genomes, cut).tolist() == expected
    upper = [sum(map(list(GENOME.values())[s][start:end].count, "ACGT")) for _, s, start, end in cut.tolist()]
    assert count_bases(genomes, cut, upper_case=True).tolist() == upper != expected
    monkeypatch.setattr("hyenadna.genomics.genome._ONCE", 10)  # in pieces shorter than a window
    assert count_bases(genomes, cut).tolist() == expected


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
    bed.write_text("\ufeff1 \t0 \t10\t val\n", encoding="utf-8")  # as editors and spreadsheets leave it
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
    """A name is meant in each file that has it, also in BED, or in one alone where that file stands in front."""
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


def test_of_a_held_out_bed_with_splits_the_lines_of_the_part_are_taken(genome, tmp_path):
    genomes, bed = open_genomes([genome]), str(tmp_path / "r.bed")
    Path(bed).write_text("1\t0\t10\ttrain\n1\t20\t30\ttest\n1\t40\t50\tval\n")
    parts = split_windows(genomes, 10, validation=[bed], test=[bed])
    assert parts["validation"].tolist() == [[0, 0, 40, 50]] and parts["test"].tolist() == [[0, 0, 20, 30]]
    Path(bed).write_text("1\t0\t10\ttrain\n")
    with pytest.raises(InputError, match=r"test '.*r.bed': the fourth column names parts, but none is test"):
        split_windows(genomes, 10, test=[bed])


# ---------------------------------------------------------------------------------------------- parts


def check_parts(genomes, parts, held_out=()) -> None:
    """No base stands in two parts, and held-out bases are not trained on."""
    seen = {part: covered(cut) for part, cut in parts.items()}
    for part, bases in seen.items():
        assert len(set(bases)) == len(bases)
        for other in seen:
            assert other == part or set(bases).isdisjoint(seen[other])
    assert set(held_out).isdisjoint(seen["train"])


def test_whole_chromosomes_without_the_held_out_ones(genome):
    genomes = open_genomes([genome])
    parts = split_windows(genomes, 8, validation=["X"], test=["1:50-70"])
    check_parts(genomes, parts, covered(windows((0, 2, 0, 20), (0, 0, 50, 70))))
    assert covered(parts["validation"]) == covered(windows((0, 2, 0, 20)))
    assert covered(parts["test"]) == covered(windows((0, 0, 50, 70)))
    # Chromosome 2 begins with 40 N: five windows of 8 that are left out.
    assert covered(parts["train"]) == covered(windows((0, 0, 0, 50), (0, 0, 70, 103), (0, 1, 40, 100)))


def test_the_end_of_a_file_is_validation_by_default(genome):
    parts = split_windows(open_genomes([genome]), 25, validation_fraction=0.2)  # of 223 bases: X and 25 of 2
    assert covered(parts["validation"]) == covered(windows((0, 1, 75, 100), (0, 2, 0, 20)))
    assert list(parts) == ["train", "validation"]
    check_parts(None, parts)


def test_bed_parts_are_centred_or_tiled(genome, tmp_path):
    bed = tmp_path / "b.bed"
    bed.write_text("1\t0\t20\ttrain\n1\t40\t60\tvalid\n1\t80\t103\ttest\n")
    genomes = open_genomes([genome])
    parts = split_windows(genomes, 10, bed=[bed])
    assert {part: cut[:, 2:].tolist() for part, cut in parts.items()} == {
        "train": [[5, 15]],
        "validation": [[45, 55]],
        "test": [[86, 96]],
    }
    tiled = split_windows(genomes, 10, bed=[bed], bed_windows="tile")
    assert tiled["test"][:, 2:].tolist() == [[80, 90], [90, 100], [100, 103]]
    with pytest.raises(
        InputError, match=r"1 train windows share bases with validation windows.*1:0-31.*shorter window"
    ):
        split_windows(genomes, 42, bed=[bed])


def test_weights_of_bed_classes(genome, tmp_path):
    genomes, bed = open_genomes([genome]), tmp_path / "classes.bed"
    bed.write_text("1\t10\t20\texon\n1\t18\t30\trepeat\n1\t40\t50\tintron\n2\t0\t5\texon\n")
    cut = windows((0, 0, 0, 10), (0, 0, 10, 12), (0, 0, 19, 29), (0, 0, 20, 29), (0, 0, 45, 46), (0, 1, 4, 9))
    expected = [1, 3, 3, 0.5, 1, 3]  # beside all, exon, both, repeat, a class without a weight, exon
    assert class_weights(cut, [bed], genomes, {"exon": 3.0, "repeat": 0.5}).tolist() == expected
    assert class_weights(cut, [bed], genomes, {"repeat": 0.5}).tolist() == [1, 1, 1, 0.5, 1, 1]

    bed.write_text("1\t10\t20\ttrain\texon\n1\t30\t40\tvalid\trepeat\n")
    assert class_weights(cut, [bed], genomes, {"exon": 3.0}).tolist() == [1, 3, 3, 1, 1, 1]
    with pytest.raises(InputError, match=r"no interval of .* is of the class 'train'; the classes are .*'exon'"):
        class_weights(cut, [bed], genomes, {"exon": 3.0, "train": 2.0})
    bed.write_text("1\t10\t20\n")
    with pytest.raises(InputError, match="of the class 'exon'; the classes are missing: the fourth column names them"):
        class_weights(cut, [bed], genomes, {"exon": 3.0})


def test_bases_that_are_named_twice_come_once(genome, tmp_path):
    genomes, bed = open_genomes([genome]), tmp_path / "b.bed"
    bed.write_text("1\t0\t20\n1\t0\t20\n1\t15\t30\n")
    held_out = {"validation": ["2:40-70", "2:60-80", "2:60-80"], "test": ["X"]}
    parts = split_windows(genomes, 10, bed=[bed], bed_windows="tile", **held_out)
    assert parts["train"][:, 2].tolist() == [0, 10, 20] and parts["validation"][:, 2].tolist() == [40, 50, 60, 70]


def test_splits_may_leave_validation_to_the_settings(genome, tmp_path):
    """Without a validation part it is the end of the training part, or what is named; a part is not named twice."""
    genomes, bed = open_genomes([genome]), tmp_path / "b.bed"
    bed.write_text("1\t0\t80\ttrain\nX\t0\t20\ttest\n")
    how = {"bed": [bed], "bed_windows": "tile"}
    parts = split_windows(genomes, 8, **how, validation_fraction=0.2)
    assert covered(parts["validation"]) == covered(windows((0, 0, 64, 80)))
    assert covered(parts["train"]) == covered(windows((0, 0, 0, 64)))
    assert covered(parts["test"]) == covered(windows((0, 2, 0, 20)))
    named = split_windows(genomes, 8, **how, validation=["1:20-30"])
    assert covered(named["validation"]) == covered(windows((0, 0, 20, 30)))
    check_parts(genomes, named)
    with pytest.raises(InputError, match=r"b.bed has splits that name test; leave out test"):
        split_windows(genomes, 8, **how, test=["2"])
    with pytest.raises(InputError, match=r"1 validation windows share bases with test windows.*X:15-20"):
        split_windows(genomes, 8, **how, validation=["X:15-20"])
    rows = {"sequence": ["ACGT" * 10, "GGCC" * 5, "TTAA"], "split": ["train", "train", "test"]}
    pd.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
    parts = split_windows(open_genomes([tmp_path / "t.csv"]), 50, validation_fraction=0.5)
    assert {part: cut[:, 1:].tolist() for part, cut in parts.items()} == {
        "train": [[0, 0, 30]],
        "validation": [[0, 30, 40], [1, 0, 20]],
        "test": [[2, 0, 4]],
    }


def test_bases_that_are_no_targets_make_no_part(tmp_path):
    """Lower case that the loss passes over is as N: windows of it are left out, and a part of it is refused."""
    path = write_fasta(tmp_path / "g.fa", {"1": "ACGTACGT" + "acgtacgt" * 2, "2": "acgtAcgt", "3": "N" * 30})
    genomes = open_genomes([path])
    parts = split_windows(genomes, 8, validation=["2"], ignore_soft_masked=True)
    assert parts["train"].tolist() == [[0, 0, 0, 8]] and parts["validation"].tolist() == [[0, 1, 0, 8]]
    assert split_windows(genomes, 8, validation=["1:8-24"])["validation"][:, 2].tolist() == [8, 16]
    for region in ("1:8-24", "2:4-8"):  # of the second, A is the first base: nothing predicts it
        with pytest.raises(InputError, match=r"validation part is empty: .* upper-case .*'ignore'.* behind its first"):
            split_windows(genomes, 8, validation=[region], ignore_soft_masked=True)
    with pytest.raises(InputError, match=r"validation part is empty.*the last 0.05 of the training .*name regions"):
        split_windows(genomes, 8)


def test_bed_windows_that_touch_held_out_regions_are_left_out(genome, tmp_path, capsys):
    bed = tmp_path / "b.bed"
    bed.write_text("1\t0\t20\n1\t30\t50\n1\t60\t80\n2\t60\t80\n")
    parts = split_windows(open_genomes([genome]), 20, bed=[bed], validation=["2"], test=["1:49-52"])
    assert parts["train"].tolist() == [[0, 0, 0, 20], [0, 0, 60, 80]]
    assert "2 of 4 BED windows overlap held-out regions" in capsys.readouterr().out


def test_splits_of_a_table(tmp_path):
    table = pd.DataFrame({"sequence": ["ACGT" * 3, "GGCC", "TTAA", "CATG"], "split": ["train", "dev", "test", "train"]})
    table.to_csv(tmp_path / "t.csv", index=False)
    genomes = open_genomes([tmp_path / "t.csv"])
    parts = split_windows(genomes, 8)
    assert {part: cut[:, 1:].tolist() for part, cut in parts.items()} == {
        "train": [[0, 0, 8], [0, 8, 12], [3, 0, 4]],
        "validation": [[1, 0, 4]],
        "test": [[2, 0, 4]],
    }
    with pytest.raises(InputError, match=r"t.csv has splits that name test; leave out test"):
        split_windows(genomes, 8, test=["2"])


@pytest.mark.skipif("HYENADNA_CHR20" not in os.environ, reason="HYENADNA_CHR20 names no FASTA of human chromosome 20")
def test_no_test_base_of_chromosome_20_is_trained_on():
    genomes = open_genomes([os.environ["HYENADNA_CHR20"]])
    parts = split_windows(genomes, 1024, validation=["20:55025520-58025520"], test=["20:58025520-63025520"])
    assert parts["train"][:, 3].max() <= 55025520 <= parts["validation"][:, 2].min()
    assert parts["validation"][:, 3].max() <= 58025520 <= parts["test"][:, 2].min()


# ---------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "content, message",
    [
        ("ACGT\nACGT\n", r"bad.fa: Unexpected text before the first .*line 1"),
        ("", r"bad.fa.*does not contain a valid sequence"),
        (">a\nACGT\n>b\nAC\nACGT\nAC\n", r"bad.fa: Line length of fasta file is not consistent.*>b at line"),
        (">a\nACGT\n>b\nAC\nACGT\n", r"bad.fa: 'b' does not end where its index bad.fa.fai says.*differ in length"),
        (">a\nACGTACGT\n;a comment\nACGTACGT\n", r"bad.fa: .*Line 3 is a comment.*grep -v"),
        (">a\nACGTACGT\n;comment\nACGTACGT\n", r"bad.fa: ';' in line 3 \(position 8 of 'a'\).*Line 3 is a comment"),
        (">a\nACGT\nAQGT\n", r"bad.fa: 'Q' in line 3 \(position 5 of 'a'\) is no IUPAC letter"),
        (">a\nACGT\n>a\nACGT\n", r"bad.fa cannot be read as FASTA: Duplicate key"),
        (">a\n>b\n", r"bad.fa: the file holds no sequence"),
        (">a\nACGT\n\nACGT\n", r"bad.fa: .*Line 3 is blank, .* remove such lines"),
        (">a\r\nACGT\r\nAC\r\n\r\n\r\n>b\r\nACGT\r\n", r"bad.fa: .*Line 5 is blank, .* remove such lines"),
    ],
)
def test_files_that_are_no_fasta(content, message, tmp_path):
    path = tmp_path / "bad.fa"
    path.write_text(content)
    with pytest.raises(InputError, match=re.compile(message, re.DOTALL)):
        split_windows(open_genomes([path]), 4)


def test_a_comment_before_the_first_sequence_is_no_sequence(tmp_path):
    (tmp_path / "c.fa").write_text("; a comment\n>a\nACGTACG\n")
    (genome,) = open_genomes([tmp_path / "c.fa"])
    assert genome.lengths.tolist() == [7] and np.frombuffer(genome.read(0, 0, 4), np.uint8).tolist() == [7, 8, 9, 10]


def test_files_that_cannot_be_opened(genome, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"none.fa: there is no such file"):
        open_genomes([tmp_path / "none.fa"])
    with pytest.raises(InputError, match="given twice"):
        open_genomes([genome, genome])
    (tmp_path / "x.fasta.xz").write_text("x")
    with pytest.raises(InputError, match=r"expected a file that ends in"):
        open_genomes([tmp_path / "x.fasta.xz"])
    with gzip.open(tmp_path / "plain.fa.gz", "wt") as file:
        file.write(">a\nACGT\n")
    with pytest.raises(InputError, match=r"plain.fa.gz cannot be read as FASTA.*bgzip"):
        open_genomes([tmp_path / "plain.fa.gz"])
    open_genomes([genome])
    genome.write_bytes(genome.read_bytes()[:-30])
    os.utime(genome.with_name("g.fa.fai"))
    with pytest.raises(InputError, match=r"does not end where its index g.fa.fai says.*was cut"):
        open_genomes([genome])
    write_fasta(genome, {**GENOME, "Y": "ACGT"})
    os.utime(genome, (1, 1))  # as after `cp -p`: the index is newer than the file that it does not know
    genome.with_name("g.fa.fai").write_text("1\t103\t17\t7\t8\n")
    with pytest.raises(InputError, match=r"g.fa goes on behind '1', the last sequence that its index g.fa.fai knows"):
        open_genomes([genome])
    genome.with_name("g.fa.fai").write_text("nonsense\n")
    with pytest.raises(InputError, match=r"g.fa.fai came from elsewhere, remove it"):
        open_genomes([genome])
    genome.with_name("g.fa.fai").unlink()

    def refuse(*args):
        raise PermissionError

    monkeypatch.setattr("hyenadna.genomics.genome.os.replace", refuse)
    with pytest.raises(InputError, match=r"g.fa has no index, and .* cannot be written to.*samtools faidx"):
        open_genomes([genome])


def test_tables_that_cannot_be_used(tmp_path):
    pd.DataFrame({"dna": ["ACGT", "ACZT"]}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(InputError, match=r"t.csv: there is no column 'sequence', only \['dna'\]"):
        open_genomes([tmp_path / "t.csv"])
    with pytest.raises(InputError, match=r"t.csv: 'Z' in position 2 of row 1"):
        split_windows(open_genomes([tmp_path / "t.csv"], "dna"), 4, validation=["0"])
    pd.DataFrame({"sequence": ["ACGT"], "split": ["trian"]}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(InputError, match=r"row 0 has the split 'trian'; expected one of"):
        open_genomes([tmp_path / "t.csv"])
    for empty in (None, ""):
        pd.DataFrame({"sequence": ["ACGT", empty]}).to_parquet(tmp_path / "t.parquet")
        pd.DataFrame({"sequence": ["ACGT", empty], "x": 1}).to_csv(tmp_path / "t.csv", index=False)
        for name in ("t.parquet", "t.csv"):
            with pytest.raises(InputError, match=rf"{name}: row 1 has no sequence; remove such rows"):
                open_genomes([tmp_path / name])
    pd.DataFrame({"sequence": [1, 2]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(InputError, match="the sequence of row 0 is 1, not text"):
        open_genomes([tmp_path / "t.parquet"])


@pytest.mark.parametrize(
    "content, message",
    [
        (
            "1\t0\t10\nchr2\t0\t10\n",
            r"b.bed: line 2: there is no sequence 'chr2' in .*which has \['1', '2', 'X'\]; did you mean '2'",
        ),
        ("1\t10\t10\n", r"b.bed: line 1: the end of 1:10-10 has to be above its start"),
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


def test_parts_that_cannot_be_made(genome, tmp_path):
    genomes = open_genomes([genome])
    with pytest.raises(InputError, match=r"test 'chrX': there is no sequence 'chrX'.*did you mean 'X'"):
        split_windows(genomes, 8, test=["chrX"])
    with pytest.raises(InputError, match=r"validation and test overlap: 1:0-50 of validation"):
        split_windows(genomes, 8, validation=["1:0-50"], test=["1:49-60"])
    with pytest.raises(InputError, match=r"the test part is empty"):
        split_windows(genomes, 8, test=["2:0-40"])
    with pytest.raises(InputError, match=r"the train part is empty"):
        split_windows(genomes, 8, validation=["1", "2"], test=["X"])
    (tmp_path / "b.bed").write_text("1\t0\t10\ttrain\n")
    with pytest.raises(InputError, match=r"the validation part is empty"):
        split_windows(genomes, 8, bed=[tmp_path / "b.bed"])
    (tmp_path / "b.bed").write_text("1\t0\t10\ttrain\n1\t20\t30\tvalid\n")
    with pytest.raises(InputError, match=r"b.bed has splits that name validation; leave out validation"):
        split_windows(genomes, 8, bed=[tmp_path / "b.bed"], validation=["X"])
    with pytest.raises(InputError, match="2 BED files for 1 data files"):
        split_windows(genomes, 8, bed=["a.bed", "b.bed"])
    for setting, message in (
        ({"window": 0}, "window is 0"),
        ({"window": 8, "bed_windows": "middle"}, "bed_windows is 'middle'"),
        ({"window": 8, "validation_fraction": 1.0}, "validation_fraction is 1.0"),
    ):
        with pytest.raises(InputError, match=message):
            split_windows(genomes, **setting)


def test_the_other_strand_is_that_of_strings(genome):
    genomes = open_genomes([genome])
    dataset = WindowDataset(genomes, windows((0, 1, 40, 100)), 60)
    text = reverse_complement(GENOME["2"][40:100])
    tokens = HyenaDNATokenizer()(text)["input_ids"]
    ids = dataset[(0, 60, True)][0]
    assert (ids % SOFT_MASKED).tolist() == tokens
    assert (ids[:-1] >= SOFT_MASKED).tolist() == [letter.islower() for letter in text]
