"""The data of the checkpoint, by benchmarks/checkpoint_data.py: what is cut out, tiles, files."""

import gzip
import importlib.util
import sys
from pathlib import Path

import pandas as pd
import pytest

from hyenadna.errors import InputError
from hyenadna.genomics.fasta import open_genomes, read_fasta
from hyenadna.genomics.intervals import Intervals, read_bed
from hyenadna.genomics.letters import reverse_complement

from .helpers.genomes import random_dna, write_fasta

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "checkpoint_data.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("checkpoint_data", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ROW = random_dna(200, 7)
LEFT = random_dna(300, 8)
RIGHT = random_dna(100, 9)


def share_words(one: str, other: str) -> bool:
    """Whether two sequences share 64 bases on either strand, the slow way."""
    words = {one[i : i + 64] for i in range(len(one) - 63)}
    return any(
        strand[i : i + 64] in words
        for strand in (other.upper(), reverse_complement(other.upper()))
        for i in range(len(other) - 63)
    )


@pytest.mark.parametrize("row", [ROW, reverse_complement(ROW), ROW.lower()], ids=["+", "-", "lower case"])
def test_what_a_row_covers_is_cut_out(script, row):
    pieces = script.cut([("a", LEFT + row + RIGHT), ("b", LEFT)], script.words_of([ROW]))
    assert pieces == [("a_0", LEFT), ("a_500", RIGHT), ("b", LEFT)]
    assert share_words(ROW, row) and not any(share_words(ROW, piece) for _, piece in pieces)


def test_other_letters_in_a_row_are_cut_out_with_it(script):
    # Only bases 70 to 136 agree, but the row is known to reach from 0 to 200.
    row = "N" * 70 + ROW[70:136] + "N" * 64
    assert script.covered(LEFT + row + RIGHT, script.words_of([ROW])).tolist() == [[0, 0, 300, 500]]
    # At the ends of a sequence the row is clipped.
    assert script.covered(ROW[60:130], script.words_of([ROW])).tolist() == [[0, 0, 0, 70]]


def test_what_is_shorter_than_a_word_is_no_hit_and_no_piece(script):
    words = script.words_of([ROW])
    assert not len(script.covered(LEFT + ROW[:63] + RIGHT, words))
    assert script.cut([("a", LEFT[:63] + ROW + RIGHT[:64])], words) == [("a_263", RIGHT[:64])]
    assert not script.words_of(["ACGT" * 15 + "N" + "ACGT" * 15])


def test_short_sequences_are_dropped_whole(script):
    records = [("a", LEFT), ("b", RIGHT + ROW[100:170]), ("c", RIGHT)]
    assert script.drop(records, script.words_of([ROW])) == [records[0], records[2]]


def test_tiles_lie_around_what_is_cut_out(script):
    taken = Intervals.of([(0, 0, 1500, 1700), (0, 0, 1650, 1800), (0, 0, 1860, 1900), (0, 0, 5000, 5100)])
    tiles = script.training_tiles(taken, 3000)
    # 1,800 to 1,860 and the last 76 - 64 bases would be shorter than a word.
    assert tiles.tolist() == [[0, 0, 0, 1024], [0, 0, 1024, 1500], [0, 0, 1900, 2924], [0, 0, 2924, 3000]]
    assert script.training_tiles(taken, 2987).tolist()[-1] == [0, 0, 1900, 2924]


def test_classes_of_tiles_by_hand(script):
    exons = pd.DataFrame(
        [
            (1, 3001, 3100, "+"),  # its promoter: 2,300 to 3,300
            (1, 9001, 9020, "+"),
            (2, 20_001, 20_100, "-"),  # its promoter: 19,800 to 20,800
            (3, 30_001, 30_100, "+"),  # two copies, too far apart to be one gene
            (3, 4_000_001, 4_000_100, "+"),
        ],
        columns=["GeneID", "Start", "End", "Strand"],
    )
    expected = {
        (0, 1024): "intergenic",
        (1600, 2599): "intergenic",  # 299 bases of a promoter
        (1600, 2600): "promoter",
        (5000, 6000): "intron",
        (8000, 9000): "intron",  # 50 bases of the exon's margin
        (8000, 9050): "exon",
        (9020, 10_044): "intergenic",  # the gene has ended
        (20_500, 21_500): "promoter",
        (19_000, 19_900): "intergenic",
        (40_000, 41_000): "intergenic",
    }
    tiles = Intervals.of([(0, 0, *span) for span in expected])
    assert script.tile_classes(tiles, exons, 4_100_000) == list(expected.values())


def test_joining_and_holding_out(script):
    joined = script.in_windows(["A" * 200] * 7, 5)
    assert len(joined) == 2048 and joined[:1024] == "NNNNNN".join(["A" * 200] * 5)
    assert joined[1024:].rstrip("N") == "A" * 200 + "NNNNNN" + "A" * 200
    train, held_out = script.split_ends([("a", "A" * 99), ("b", "A" * 11_000_000)], "x")
    assert train == [("a", 0, 90, "x"), ("b", 0, 10_000_000, "x")]
    assert held_out == [("a", 90, 99, "x"), ("b", 10_000_000, 11_000_000, "x")]


def test_only_test_rows_are_left_out(script, tmp_path):
    one = tmp_path / "one.tsv"
    one.write_text("split\tsequence\ntrain\tAAAA\ntest\tacgt\ndev\tCCCC\n")
    two = tmp_path / "two.csv"
    two.write_text("sequence,label\nGGGG,0\nTTTT,1\n")
    assert script.rows_to_leave_out([one, two]) == ["ACGT", "GGGG", "TTTT"]
    one.write_text("split\tsequence\ntrain\tAAAA\n")
    with pytest.raises(InputError, match=r"one\.tsv: no row is left out"):
        script.rows_to_leave_out([one])
    two.write_text("dna,label\nGGGG,0\n")
    with pytest.raises(InputError, match=r"two\.csv: there is no column 'sequence', only \['dna', 'label'\]"):
        script.rows_to_leave_out([two])


def invent_sources(script, downloads: Path) -> None:
    """Write each source with ROW in its middle, so that each has to be cut."""
    for source, (name, _) in script.SOURCES.items():
        path = downloads / name
        path.parent.mkdir(parents=True, exist_ok=True)
        dna = random_dna(700, 100 + len(source)) + ROW + random_dna(700, 200 + len(source))
        if source == "exons":
            path.write_text(
                "GeneID\tChr\tStart\tEnd\tStrand\n5\tchr20\t101\t200\t+\n5\tchr21\t9001\t9200\t+\n"
            )
        elif source == "embl":
            path.write_text(
                f"ID   X1; SV 1; linear; mRNA; STD; HUM; {len(dna)} BP.\nSQ\n     {dna} {len(dna)}\n//\n"
            )
        elif source == "open_chromatin":
            rows = [("chr20", dna[:200]), ("chr1", dna[:200]), ("chr2", dna[:200]), ("chr1", dna[650:850])]
            path.write_text("chr\tsequence\n" + "".join(f"{name}\t{peak}\n" for name, peak in rows))
        elif source == "transcripts":
            write_fasta(path, {"t|1|training": dna[:100].replace("T", "U"), "u": dna})
        else:
            write_fasta(path, {"20": dna})
    for source in ("chr20", "exons"):
        path = downloads / script.SOURCES[source][0]
        path.write_bytes(gzip.compress(path.read_bytes()))


def test_the_script_from_packages_to_files(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script, "CHR20_END", 1500)
    monkeypatch.setattr(script, "FLY_END", 500)
    invent_sources(script, tmp_path / "downloads")
    rows = tmp_path / "test.csv"
    rows.write_text(f"sequence\n{ROW}\n")
    out = tmp_path / "out"
    command = ["x", "--downloads", str(tmp_path / "downloads"), "--leave_out", str(rows), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    script.main()

    pairs = [  # FASTA, BED
        ("chr20", "chr20"),
        ("human_other", "human_other"),
        ("vertebrates", "vertebrates_train"),
        ("vertebrates", "vertebrates_held_out"),
        ("fly", "fly_train"),
        ("fly_whole", "fly_held_out"),
        ("open_chromatin_joined", "open_chromatin_joined"),
        ("transcripts_joined", "transcripts_joined"),
    ]
    assert {path.stem for path in out.iterdir()} == {name for pair in pairs for name in pair}
    for name, bed in pairs:
        (genome,) = open_genomes([out / f"{name}.fa"])
        intervals, _ = read_bed(out / f"{bed}.bed", [genome], 0)
        for _, sequence, start, end in intervals.tolist():
            assert not share_words(ROW, genome.letters(sequence, start, end)), name

    assert (out / "fly_train.bed").read_text() == "fly_0_0\t0\t500\tfly\nfly_0_900\t0\t500\tfly\n"
    # A line for each sequence: the digests of the published run are those of such a file.
    assert (out / "fly.fa").read_text().count("\n") == 4
    assert (out / "chr20.bed").read_text() == "20\t0\t700\tpromoter\n20\t900\t1500\tintergenic\n"
    ((_, peaks),) = read_fasta(out / "open_chromatin_joined.fa")
    assert len(peaks) == 1024 and len(peaks.rstrip("N")) == 200
    assert "U" not in dict(read_fasta(out / "transcripts_joined.fa"))["transcripts"]
    assert "'promoter': 1" in capsys.readouterr().out


def test_a_missing_package_is_named(script, tmp_path):
    invent_sources(script, tmp_path)
    assert set(script.find_sources(tmp_path)) == set(script.SOURCES)
    (tmp_path / script.SOURCES["embl"][0]).unlink()
    with pytest.raises(InputError, match=r"hum1\.dat: there is no such file; unpack emboss-test into"):
        script.find_sources(tmp_path)
