import math
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch

from hyenadna import HyenaDNATokenizer
from hyenadna.analysis import scoring as score
from hyenadna.analysis import sequences as sequences_module
from hyenadna.analysis.scoring import log_likelihoods, read_sequences, summary
from hyenadna.errors import InputError
from hyenadna.training import cli

from .conftest import locked_by_another_process, random_model

SEQUENCES = ["ACGTTGCANNACCGTGA", "GGCA", "acgtACGTACGGTCAAC" * 3, "A", "RYACGTTU"]
COMPLEMENT = str.maketrans("ACGTNRYUacgt", "TGCANYRAtgca")


@pytest.fixture(scope="module")
def model():
    return random_model(seed=5)


def by_the_loss(model, sequence):
    """Log-probabilities of A, C, G, T, one full pass for each sequence, by the ids of the
    tokenizer.
    """
    text = "".join(c if c in "ACGT" else "N" for c in sequence.upper().replace("U", "T"))
    ids = HyenaDNATokenizer()(text, add_special_tokens=False, return_tensors="pt").input_ids
    with torch.no_grad():
        p = model(ids).logits[0].log_softmax(-1)
    values = [math.nan] + [
        p[i - 1, ids[0, i]].item() if text[i] != "N" else math.nan for i in range(1, len(text))
    ]
    return np.array(values, np.float32)


@pytest.mark.parametrize(("batch_bases", "chunk"), [(2**16, 2**16), (1, 5), (60, 7), (120, 1)])
def test_scores_are_those_of_full_passes(model, batch_bases, chunk):
    forward = log_likelihoods(model, SEQUENCES, batch_bases=batch_bases, chunk=chunk)
    reverse = log_likelihoods(model, SEQUENCES, strand="reverse", batch_bases=batch_bases, chunk=chunk)
    for sequence, a, b in zip(SEQUENCES, forward, reverse, strict=True):
        np.testing.assert_allclose(a, by_the_loss(model, sequence), atol=1e-4)
        other = sequence.translate(COMPLEMENT)[::-1]
        np.testing.assert_allclose(b[::-1], by_the_loss(model, other), atol=1e-4)


def test_the_mean_is_the_loss_of_the_model(model):
    (scores,) = log_likelihoods(model, ["ACGTTGCAACCGTGA"])
    ids = HyenaDNATokenizer()("ACGTTGCAACCGTGA", add_special_tokens=False, return_tensors="pt").input_ids
    loss = model(ids, labels=ids).loss.item()
    assert summary({"forward": scores})["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)


def test_soft_masked_bases_are_context_only(model):
    (all_of_them,), (upper,) = (
        log_likelihoods(model, ["ACgtAC"], ignore_soft_masked=on) for on in (False, True)
    )
    assert np.isnan(upper).tolist() == [True, False, True, True, False, False]
    np.testing.assert_array_equal(upper[[1, 4, 5]], all_of_them[[1, 4, 5]])


def test_summary():
    row = summary({"forward": np.array([math.nan, -1, -2]), "reverse": np.array([-1.0, -1, math.nan])})
    assert (row["log_likelihood_forward"], row["log_likelihood_reverse"], row["log_likelihood"]) == (
        -3,
        -2,
        -2.5,
    )
    assert row["scored_bases"] == 2 and row["perplexity"] == pytest.approx(math.exp(5 / 4))
    nothing = summary({"forward": np.full(3, math.nan)})
    assert math.isnan(nothing["perplexity"]) and math.isnan(nothing["log_likelihood"])
    # "AN"
    one_strand = summary({"forward": np.full(2, math.nan), "reverse": np.array([-2, math.nan])})
    assert one_strand["perplexity"] == pytest.approx(math.exp(2)) and one_strand["scored_bases"] == 1


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "x.fa").write_text(">one more\nACGTT\nGCA\n>two\nGGNCA\n")
    pd.DataFrame({"id": ["one", "two"], "sequence": ["ACGTTGCA", "GGNCA"]}).to_csv(
        tmp_path / "x.csv", index=False
    )
    return tmp_path


def run(folder, data, *flags):
    flags = ["--model", folder / "model", "--data", folder / data, "--output", folder / "out.tsv", *flags]
    return cli.main(["score", *map(str, flags)])


def test_the_command_writes_tables(folder, model):
    assert run(folder, "x.fa", "--per_position", folder / "bases.tsv") == 0
    table = pd.read_csv(folder / "out.tsv", sep="\t")
    assert table["id"].tolist() == ["one", "two"] and table["length"].tolist() == [8, 5]
    assert table["scored_bases"].tolist() == [7, 3]
    expected = np.nansum(by_the_loss(model, "ACGTTGCA")), np.nansum(by_the_loss(model, "TGCAACGT"))
    assert table["log_likelihood"][0] == pytest.approx(np.mean(expected), rel=1e-5)
    bases = pd.read_csv(folder / "bases.tsv", sep="\t")
    assert "".join(bases["base"]) == "ACGTTGCAGGNCA" and bases["position"].tolist() == [*range(8), *range(5)]
    np.testing.assert_allclose(
        bases["log_probability_forward"][:8], by_the_loss(model, "ACGTTGCA"), atol=1e-4
    )
    before = (folder / "out.tsv").read_text()
    assert run(folder, "x.csv") == 0 and (folder / "out.tsv").read_text() == before
    assert run(folder, "x.fa", "--strand", "reverse") == 0
    assert "log_likelihood_forward" not in pd.read_csv(folder / "out.tsv", sep="\t")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (">a\nACGT\n>b\nACXT\n", "b: 'X' at position 2"),
        (">a\n" + "A" * 67 + "\n", "67 bases.*max_seq_len=66"),
        (">a\n>b\nACGT\n", "a is empty"),
    ],
)
def test_bad_sequences_are_named_before_any_work(folder, content, message, capsys):
    (folder / "x.fa").write_text(content)
    assert run(folder, "x.fa") == 1
    import re

    assert re.search(message, capsys.readouterr().err)
    assert not (folder / "out.tsv").exists()


def test_tables_of_every_kind_keep_their_ids(folder):
    table = pd.read_csv(folder / "x.csv").assign(split=["a", "b"])
    table.to_parquet(folder / "x.parquet")
    table.to_csv(folder / "x.tsv.gz", sep="\t", index=False)
    for name in ("x.csv", "x.tsv.gz", "x.parquet"):
        assert read_sequences(str(folder / name), "sequence", "id") == (["one", "two"], ["ACGTTGCA", "GGNCA"])
    assert read_sequences(str(folder / "x.parquet"), "sequence", "none")[0] == ["0", "1"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.csv", None, "no such file"),
        ("empty.csv", "", "empty.csv is empty"),
        ("header.tsv", "id\tsequence\n", "header.tsv has no rows"),
        ("long.csv", "id,sequence\na,ACGT,TT\n", "cannot be read as csv"),
    ],
)
def test_tables_that_cannot_be_read(folder, name, content, message, capsys):
    if content is not None:
        (folder / name).write_text(content)
    assert run(folder, name) == 1
    assert message in capsys.readouterr().err


def test_sequences_that_are_not_text(folder, capsys):
    pd.DataFrame({"sequence": ["ACGT", None]}).to_parquet(folder / "x.parquet")
    assert run(folder, "x.parquet") == 1
    assert "the sequence of row 1 is nan, not text" in capsys.readouterr().err


def test_no_score_is_no_perplexity(folder, capsys):
    (folder / "x.fa").write_text(">a\nNNNN\n")
    assert run(folder, "x.fa") == 0
    assert "0 scores: perplexity nan" in capsys.readouterr().out


def test_bad_arguments(folder, model, capsys):
    for flags in (("--output", folder / "x.csv"), ("--per_position", folder / "out.tsv")):
        assert run(folder, "x.csv", *flags) == 1
        assert "must be different files" in capsys.readouterr().err
    assert run(folder, "x.csv", "--device", "foo") == 1
    assert "device 'foo' cannot be used" in capsys.readouterr().err
    for strand in ("both", "+"):
        with pytest.raises(InputError, match="'forward' or 'reverse'"):
            log_likelihoods(model, ["ACGT"], strand=strand)
    assert run(folder, "x.csv", "--sequence_column", "dna") == 1
    assert "no column 'dna'" in capsys.readouterr().err
    assert run(folder, "x.fa", "--output", folder / "nowhere/out.tsv") == 1
    assert "does not exist" in capsys.readouterr().err
    with pytest.raises(InputError, match="at least 1"):
        log_likelihoods(model, ["ACGT"], chunk=0)
    with pytest.raises(InputError, match="sequence 1 is empty"):
        log_likelihoods(model, ["ACGT", ""])
    assert log_likelihoods(model, []) == []
    assert read_sequences(str(folder / "x.fa"), "sequence", "id") == (["one", "two"], ["ACGTTGCA", "GGNCA"])


def test_blocks_give_the_same(folder, monkeypatch):
    flags = ("--per_position", folder / "bases.tsv")
    names = [f"s{i}" for i in range(7)]
    (folder / "many.fa").write_text("".join(f">{n}\n{SEQUENCES[0][i:]}\n" for i, n in enumerate(names)))
    assert run(folder, "many.fa", *flags) == 0
    whole = [pd.read_csv(folder / name, sep="\t") for name in ("out.tsv", "bases.tsv")]

    monkeypatch.setattr(sequences_module, "_BASES_PER_BLOCK", 30)
    sizes = []

    def watched(model, sequences, **options):
        sizes.append(sum(map(len, sequences)))
        return log_likelihoods(model, sequences, **options)

    monkeypatch.setattr(score, "log_likelihoods", watched)
    assert run(folder, "many.fa", *flags) == 0
    assert max(sizes) <= 30 and len(sizes) == 2 * 5
    for before, name in zip(whole, ("out.tsv", "bases.tsv"), strict=True):
        pd.testing.assert_frame_equal(pd.read_csv(folder / name, sep="\t"), before, rtol=1e-5)


def test_fasta_needs_no_index(folder, capsys):
    """It is read from start to end, so its lines may differ in length."""
    assert run(folder, "x.fa") == 0
    expected = (folder / "out.tsv").read_text()
    (folder / "uneven.fa").write_text(">one more\nACG\nTTGCA\n\n>two\nGGNC\nA\n")
    assert run(folder, "uneven.fa") == 0
    assert (folder / "out.tsv").read_text() == expected
    assert not list(folder.glob("*.fai"))

    (folder / "twice.fa").write_text(">one more\nACG\n>two\nGG\n>one other\nAC\n")
    assert run(folder, "twice.fa") == 1
    assert "twice.fa has two sequences called 'one'" in capsys.readouterr().err


def test_memory_does_not_grow_with_the_records(folder, monkeypatch):
    def one_score(model, sequences, **options):
        return [np.zeros(len(sequence), np.float32) for sequence in sequences]

    monkeypatch.setattr(score, "log_likelihoods", one_score)
    monkeypatch.setattr(sequences_module, "_SEQUENCES_PER_BLOCK", 200)

    def peak(records):
        path = folder / f"{records}.fa"
        path.write_text("".join(f">read{i}\nACGTTGCA\n" for i in range(records)))
        tracemalloc.start()
        try:
            assert run(folder, path.name) == 0
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(200)  # what is imported and kept on first use
    # In bytes a record. A name alone would take 60.
    assert (peak(5000) - peak(1000)) / 4000 < 25
    assert len((folder / "out.tsv").read_text().splitlines()) == 1001


def test_one_writer_and_no_litter(folder, monkeypatch, capsys):
    litter = folder / ".out.77.unfinished.tsv"
    litter.write_text("half")
    with locked_by_another_process(folder / ".out.tsv.lock"):
        assert run(folder, "x.fa") == 1
    assert "another process is writing into" in capsys.readouterr().err
    assert litter.exists() and not (folder / "out.tsv").exists()

    def killed(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as stopped:
        stopped.setattr(score, "log_likelihoods", killed)
        assert run(folder, "x.fa") == 130
    assert run(folder, "x.fa") == 0
    assert not [p.name for p in folder.iterdir() if p.name.startswith(".")]


def test_names_that_are_formulas(folder):
    (folder / "x.fa").write_text(">=1+1 x\nACGT\n>-5\nACG\n")
    assert run(folder, "x.fa", "--per_position", folder / "bases.tsv") == 0
    assert pd.read_csv(folder / "out.tsv", sep="\t")["id"].tolist() == ["'=1+1", "-5"]
    assert pd.read_csv(folder / "bases.tsv", sep="\t")["id"][0] == "'=1+1"
