"""FASTA, tables and texts: what is read, and what is refused."""

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
from hyenadna.genomics.fasta import open_genomes
from hyenadna.genomics.held_out import split_windows
from hyenadna.genomics.letters import SOFT_MASKED
from hyenadna.tokenization import HyenaDNATokenizer

from .helpers.genomes import GENOME, write_fasta


@pytest.fixture
def genome(tmp_path) -> Path:
    return write_fasta(tmp_path / "g.fa", GENOME)


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


@pytest.mark.parametrize(
    "content, message",
    [
        ("ACGT\nACGT\n", r"bad.fa: Unexpected text before the first .*line 1"),
        ("", r"bad.fa.*does not contain a valid sequence"),
        (">a\nACGT\n>b\nAC\nACGT\nAC\n", r"bad.fa: Line length of fasta file is not consistent.*>b at line"),
        (
            ">a\nACGT\n>b\nAC\nACGT\n",
            r"bad.fa: 'b' does not end where its index bad.fa.fai says.*differ in length",
        ),
        (">a\nACGTACGT\n;a comment\nACGTACGT\n", r"bad.fa: .*Line 3 is a comment.*grep -v"),
        (
            ">a\nACGTACGT\n;comment\nACGTACGT\n",
            r"bad.fa: ';' in line 3 \(position 8 of 'a'\).*Line 3 is a comment",
        ),
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
    assert genome.lengths.tolist() == [7] and np.frombuffer(genome.read(0, 0, 4), np.uint8).tolist() == [
        7,
        8,
        9,
        10,
    ]


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
    with pytest.warns(
        UserWarning, match=r"plain.fa.gz is packed by gzip, not bgzip: each process unpacks it into memory"
    ):
        assert open_genomes([tmp_path / "plain.fa.gz"])[0].letters(0, 1, 3) == "CG"
    (tmp_path / "text.fa.gz").write_text(">a\nACGT\n")
    with pytest.raises(InputError, match=r"text.fa.gz cannot be read as FASTA.*bgzip"):
        open_genomes([tmp_path / "text.fa.gz"])
    open_genomes([genome])
    genome.write_bytes(genome.read_bytes()[:-30])
    os.utime(genome.with_name("g.fa.fai"))
    with pytest.raises(InputError, match=r"does not end where its index g.fa.fai says.*was cut"):
        open_genomes([genome])
    write_fasta(genome, {**GENOME, "Y": "ACGT"})
    # as after `cp -p`: the index is newer than the file that it does not know
    os.utime(genome, (1, 1))
    genome.with_name("g.fa.fai").write_text("1\t103\t17\t7\t8\n")
    with pytest.raises(
        InputError, match=r"g.fa goes on after '1', the last sequence that its index g.fa.fai knows"
    ):
        open_genomes([genome])
    genome.with_name("g.fa.fai").write_text("nonsense\n")
    with pytest.raises(InputError, match=r"g.fa.fai came from elsewhere, remove it"):
        open_genomes([genome])
    genome.with_name("g.fa.fai").unlink()

    def refuse(*args):
        raise PermissionError

    monkeypatch.setattr("hyenadna.genomics.fasta.os.replace", refuse)
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
