"""Parts that share no base: where windows lie, and what is refused."""

import os
from pathlib import Path

import pandas as pd
import pytest

from hyenadna.errors import InputError
from hyenadna.genomics.fasta import open_genomes
from hyenadna.genomics.held_out import count_bases, split_windows
from hyenadna.genomics.intervals import (
    Intervals,
    tile,
)

from .helpers.genomes import GENOME, covered, windows, write_fasta


@pytest.fixture
def genome(tmp_path) -> Path:
    return write_fasta(tmp_path / "g.fa", GENOME)


def test_counts_of_bases(genome, monkeypatch):
    genomes = open_genomes([genome])
    tiles = tile(windows((0, 0, 0, 103), (0, 1, 0, 100)), 9)
    cut = Intervals.joined([tiles, windows((0, 1, 35, 77), (0, 2, 0, 20))])
    expected = []
    for _, sequence, start, end in cut.tolist():
        text = list(GENOME.values())[sequence][start:end].upper()
        expected.append(sum(letter in "ACGT" for letter in text))
    assert count_bases(genomes, cut).tolist() == expected
    upper = [sum(map(list(GENOME.values())[s][start:end].count, "ACGT")) for _, s, start, end in cut.tolist()]
    assert count_bases(genomes, cut, upper_case=True).tolist() == upper != expected
    monkeypatch.setattr("hyenadna.genomics.held_out._ONCE", 10)  # in pieces shorter than a window
    assert count_bases(genomes, cut).tolist() == expected


def test_of_a_held_out_bed_with_splits_the_lines_of_the_part_are_taken(genome, tmp_path):
    genomes, bed = open_genomes([genome]), str(tmp_path / "r.bed")
    Path(bed).write_text("1\t0\t10\ttrain\n1\t20\t30\ttest\n1\t40\t50\tval\n")
    parts = split_windows(genomes, 10, validation=[bed], test=[bed])
    assert parts["validation"].tolist() == [[0, 0, 40, 50]] and parts["test"].tolist() == [[0, 0, 20, 30]]
    Path(bed).write_text("1\t0\t10\ttrain\n")
    with pytest.raises(InputError, match=r"test '.*r.bed': the fourth column names parts, but none is test"):
        split_windows(genomes, 10, test=[bed])


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
    # of 223 bases: X and 25 of 2
    parts = split_windows(open_genomes([genome]), 25, validation_fraction=0.2)
    assert covered(parts["validation"]) == covered(windows((0, 1, 75, 100), (0, 2, 0, 20)))
    assert list(parts) == ["train", "validation"]
    check_parts(None, parts)


def test_bed_parts_are_centred_or_tiled(genome, tmp_path):
    bed = tmp_path / "b.bed"
    bed.write_text("1\t0\t20\ttrain\n1\t40\t60\tvalid\n1\t80\t103\ttest\n")
    genomes = open_genomes([genome])
    parts = split_windows(genomes, 10, bed=[bed])
    assert {part: cut.array()[:, 2:].tolist() for part, cut in parts.items()} == {
        "train": [[5, 15]],
        "validation": [[45, 55]],
        "test": [[86, 96]],
    }
    tiled = split_windows(genomes, 10, bed=[bed], bed_windows="tile")
    assert tiled["test"].array()[:, 2:].tolist() == [[80, 90], [90, 100], [100, 103]]
    with pytest.raises(
        InputError, match=r"1 train windows share bases with validation windows.*1:0-31.*shorter window"
    ):
        split_windows(genomes, 42, bed=[bed])


def test_bases_that_are_named_twice_come_once(genome, tmp_path):
    genomes, bed = open_genomes([genome]), tmp_path / "b.bed"
    bed.write_text("1\t0\t20\n1\t0\t20\n1\t15\t30\n")
    held_out = {"validation": ["2:40-70", "2:60-80", "2:60-80"], "test": ["X"]}
    parts = split_windows(genomes, 10, bed=[bed], bed_windows="tile", **held_out)
    assert parts["train"].start.tolist() == [0, 10, 20] and parts["validation"].start.tolist() == [
        40,
        50,
        60,
        70,
    ]


def test_splits_may_leave_validation_to_the_settings(genome, tmp_path):
    """Without a validation part it is the end of the training part, or what is named; a part is not
    named twice.
    """
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
    assert {part: cut.array()[:, 1:].tolist() for part, cut in parts.items()} == {
        "train": [[0, 0, 30]],
        "validation": [[0, 30, 40], [1, 0, 20]],
        "test": [[2, 0, 4]],
    }


def test_bases_that_are_no_targets_make_no_part(tmp_path):
    """Lower case that the loss passes over is as N: windows of it are left out, and a part of it is
    refused.
    """
    path = write_fasta(tmp_path / "g.fa", {"1": "ACGTACGT" + "acgtacgt" * 2, "2": "acgtAcgt", "3": "N" * 30})
    genomes = open_genomes([path])
    parts = split_windows(genomes, 8, validation=["2"], ignore_soft_masked=True)
    assert parts["train"].tolist() == [[0, 0, 0, 8]] and parts["validation"].tolist() == [[0, 1, 0, 8]]
    assert split_windows(genomes, 8, validation=["1:8-24"])["validation"].start.tolist() == [8, 16]
    for region in ("1:8-24", "2:4-8"):  # of the second, A is the first base: nothing predicts it
        with pytest.raises(
            InputError, match=r"validation part is empty: .* upper-case .*'ignore'.* after its first"
        ):
            split_windows(genomes, 8, validation=[region], ignore_soft_masked=True)
    with pytest.raises(
        InputError, match=r"validation part is empty.*the last 0.05 of the training .*name regions"
    ):
        split_windows(genomes, 8)


def test_bed_windows_that_touch_held_out_regions_are_left_out(genome, tmp_path, capsys):
    bed = tmp_path / "b.bed"
    bed.write_text("1\t0\t20\n1\t30\t50\n1\t60\t80\n2\t60\t80\n")
    parts = split_windows(open_genomes([genome]), 20, bed=[bed], validation=["2"], test=["1:49-52"])
    assert parts["train"].tolist() == [[0, 0, 0, 20], [0, 0, 60, 80]]
    assert "2 of 4 BED windows overlap held-out regions" in capsys.readouterr().out


def test_splits_of_a_table(tmp_path):
    table = pd.DataFrame(
        {"sequence": ["ACGT" * 3, "GGCC", "TTAA", "CATG"], "split": ["train", "dev", "test", "train"]}
    )
    table.to_csv(tmp_path / "t.csv", index=False)
    genomes = open_genomes([tmp_path / "t.csv"])
    parts = split_windows(genomes, 8)
    assert {part: cut.array()[:, 1:].tolist() for part, cut in parts.items()} == {
        "train": [[0, 0, 8], [0, 8, 12], [3, 0, 4]],
        "validation": [[1, 0, 4]],
        "test": [[2, 0, 4]],
    }
    with pytest.raises(InputError, match=r"t.csv has splits that name test; leave out test"):
        split_windows(genomes, 8, test=["2"])


@pytest.mark.skipif(
    "HYENADNA_CHR20" not in os.environ, reason="HYENADNA_CHR20 names no FASTA of human chromosome 20"
)
def test_no_test_base_of_chromosome_20_is_trained_on():
    genomes = open_genomes([os.environ["HYENADNA_CHR20"]])
    parts = split_windows(genomes, 1024, validation=["20:55025520-58025520"], test=["20:58025520-63025520"])
    assert parts["train"].end.max() <= 55025520 <= parts["validation"].start.min()
    assert parts["validation"].end.max() <= 58025520 <= parts["test"].start.min()


def test_parts_that_cannot_be_made(genome, tmp_path):
    genomes = open_genomes([genome])
    with pytest.raises(InputError, match=r"test 'chrY': there is no sequence 'chrY'.*which has"):
        split_windows(genomes, 8, test=["chrY"])
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
