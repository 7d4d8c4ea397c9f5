"""`predict`, `predict_windows` and `hyenadna predict`: beside one full pass for each sequence or window."""

import json
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
import torch

from hyenadna import (
    HyenaDNAForCausalLM,
    HyenaDNAForSequenceClassification,
    HyenaDNAForTokenClassification,
    HyenaDNAModel,
    HyenaDNATokenizer,
)
from hyenadna.analysis import predict, predict_windows, sequences_of
from hyenadna.analysis.models import borrowed
from hyenadna.analysis.prediction import window_starts
from hyenadna.errors import InputError
from hyenadna.genomics.letters import reverse_complement
from hyenadna.training import cli

from .conftest import random_model

SEQUENCES = ["ACGTTGCANNACCGTGA", "GGCA", "acgtACGTACGGTCAAC" * 3, "A", "RYACGTTU"]
NAMES = {0: "no", 1: "yes", 2: "maybe"}
rng = np.random.default_rng(3)
CHROMOSOME = "".join("ACGT"[i] for i in rng.integers(0, 4, 90))
CHROMOSOME = CHROMOSOME[:40] + "N" * 20 + CHROMOSOME[60:]


def double(model):
    return deepcopy(model).double()


def classifier(cls=HyenaDNAForSequenceClassification, names=NAMES, **config):
    label2id = {name: i for i, name in names.items()}
    return random_model(cls, seed=5, id2label=dict(names), label2id=label2id, classifier_bias=True, **config)


def alone(model, text, special=False):
    """Logits of one sequence, through the tokenizer, without pads, by a model in float64."""
    tokenizer = HyenaDNATokenizer(add_eos_token=special)
    with torch.no_grad():
        return model(**tokenizer(text, return_tensors="pt")).logits[0].numpy()


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("pooling", ["mean", "last", "max", "first"])
def test_classes_are_those_of_each_sequence_alone(pooling, order):
    model = classifier(pooling=pooling, hyena_order=order)
    table = predict(model, SEQUENCES, batch_bases=70)  # batches with pads
    assert table.columns.tolist() == [
        "id",
        "length",
        "predicted",
        *(f"probability_{n}" for n in NAMES.values()),
    ]
    assert table["length"].tolist() == [len(sequence) for sequence in SEQUENCES]
    exact = double(model)
    expected = np.stack([softmax(alone(exact, text)) for text in SEQUENCES])
    np.testing.assert_allclose(table.filter(like="probability"), expected, atol=1e-6)
    assert table["predicted"].tolist() == [NAMES[i] for i in expected.argmax(1)]


def test_both_strands_are_the_mean_of_their_logits():
    model = classifier()
    logits = predict(model, SEQUENCES, strand="both", output="logit").filter(like="logit_")
    exact = double(model)
    expected = [(alone(exact, t) + alone(exact, reverse_complement(t))) / 2 for t in SEQUENCES]
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_several_labels_and_numbers():
    model = classifier(problem_type="multi_label_classification")
    table = predict(model, SEQUENCES)
    exact = double(model)
    expected = np.stack([1 / (1 + np.exp(-alone(exact, text))) for text in SEQUENCES])
    np.testing.assert_allclose(table.filter(like="probability"), expected, atol=1e-6)
    assert (table.filter(like="predicted").to_numpy() == (expected >= 0.5)).all()

    one = classifier(names={0: "LABEL_0"})
    exact = double(one)
    expected = [alone(exact, text)[0] for text in SEQUENCES]
    np.testing.assert_allclose(predict(one, SEQUENCES)["predicted"], expected, atol=1e-5)
    several = classifier(problem_type="regression")
    table = predict(several, SEQUENCES)
    assert table.columns.tolist()[2:] == ["predicted_no", "predicted_yes", "predicted_maybe"]


@pytest.mark.parametrize("strand", ["forward", "both"])
def test_a_head_for_each_position_gives_a_row_for_each_base(strand):
    model = classifier(HyenaDNAForTokenClassification)
    table = predict(model, SEQUENCES, strand=strand, output="logit", tokenizer=HyenaDNATokenizer())
    assert table["base"].tolist() == list("".join(SEQUENCES))
    exact = double(model)
    for i, text in enumerate(SEQUENCES):
        rows = table[table["id"] == str(i)]
        assert rows["position"].tolist() == list(range(len(text)))
        expected = alone(exact, text, special=True)[:-1]  # [SEP] has no row
        if strand == "both":
            expected = (expected + alone(exact, reverse_complement(text), special=True)[:-1][::-1]) / 2
        np.testing.assert_allclose(rows.filter(like="logit_"), expected, atol=1e-5)


def test_sequences_come_in_every_form(tmp_path):
    model = classifier()
    expected = predict(model, SEQUENCES)
    (tmp_path / "s.fa").write_text("".join(f">s{i}\n{text}\n" for i, text in enumerate(SEQUENCES)))
    frame = pd.DataFrame({"dna": SEQUENCES, "id": [f"s{i}" for i in range(5)]})
    frame.to_parquet(tmp_path / "s.parquet")
    named = expected.assign(id=[f"s{i}" for i in range(5)])
    pd.testing.assert_frame_equal(predict(model, tmp_path / "s.fa"), named)
    pd.testing.assert_frame_equal(predict(model, str(tmp_path / "s.parquet"), sequence_column="dna"), named)
    pd.testing.assert_frame_equal(predict(model, frame, sequence_column="dna"), named)
    pd.testing.assert_frame_equal(predict(model, pd.Series(SEQUENCES, index=range(5, 0, -1))), expected)
    pd.testing.assert_frame_equal(predict(model, SEQUENCES[0]), predict(model, SEQUENCES[:1]))
    one_hot = np.zeros((2, 4, 3))
    one_hot[0, [0, 2, 3], range(3)] = 1  # AGT
    one_hot[1, [1, 1], [0, 2]] = 1  # CNC
    assert sequences_of(one_hot)[1] == ["AGT", "CNC"]

    for data, message in [
        ([], "there are no sequences"),
        (["ACGT", 3.5], "sequence 1 is 3.5, not text"),
        (["ACGT", ""], "1 is empty"),
        (["ACGT", "AC-T"], "1: '-' at position 2"),
        (frame, r"no column 'sequence'; it has \['dna', 'id'\]"),
        (one_hot[0], "has shape"),
        (one_hot + 1, "is not one-hot"),
        (["A" * 67], "0 has 67 bases, but the model reads at most 66"),
        ("missing.fa", "no such file"),
    ]:
        with pytest.raises(InputError, match=message):
            predict(model, data)


def test_the_model_comes_back_as_it_was(tmp_path):
    model = classifier(embed_dropout=0.5).train()
    model.hyena.requires_grad_(False)
    model.score.eval()
    modes = [module.training for module in model.modules()]
    wants = [p.requires_grad for p in model.parameters()]
    first = predict(model, SEQUENCES, device="cpu")
    pd.testing.assert_frame_equal(first, predict(model, SEQUENCES))
    with pytest.raises(InputError):
        predict(model, ["A" * 67])
    assert [module.training for module in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == wants
    assert all(p.grad is None for p in model.parameters())
    # an object and its folder, with the tokenizer that was saved beside it
    model.save_pretrained(tmp_path / "model")
    HyenaDNATokenizer(add_eos_token=False).save_pretrained(tmp_path / "model")
    pd.testing.assert_frame_equal(predict(tmp_path / "model", SEQUENCES), first)
    HyenaDNATokenizer().save_pretrained(tmp_path / "model")
    expected = alone(double(model).eval(), SEQUENCES[1], special=True)
    logits = predict(tmp_path / "model", SEQUENCES[1:2], output="logit").filter(like="logit_")
    np.testing.assert_allclose(logits.to_numpy()[0], expected, atol=1e-5)


def test_a_device_is_left_again(monkeypatch):
    model = classifier()
    moves = []
    monkeypatch.setattr(type(model), "to", lambda self, device: moves.append(str(device)) or self)
    with pytest.raises(KeyError), borrowed(model, "classifier", "test", device="cuda:1"):
        raise KeyError
    with borrowed(model, "classifier", "test"):
        pass
    assert moves == ["cuda:1", "cpu"]


@pytest.mark.parametrize(
    "model, message",
    [
        (
            lambda: random_model(HyenaDNAForCausalLM),
            "needs a classifier or a token classifier, but the model is a language model: log-likelihoods",
        ),
        (lambda: random_model(HyenaDNAModel), "a backbone has no head"),
        (lambda: torch.nn.Linear(2, 2), "model is a Linear; expected a HyenaDNA model"),
        (lambda: "nowhere/at-all", "neither a folder with a checkpoint nor loads from the Hub"),
    ],
)
def test_models_that_cannot_predict(model, message):
    with pytest.raises(InputError, match=message):
        predict(model(), SEQUENCES)


def test_settings_that_do_not_exist():
    model = classifier()
    for setting, message in [
        ({"output": "p"}, "output is 'p'"),
        ({"strand": "left"}, "strand is 'left'"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used"),
    ]:
        with pytest.raises(InputError, match=message):
            predict(model, SEQUENCES, **setting)
    assert not any(p.is_cuda for p in model.parameters())


def test_an_adapter_folder(tmp_path):
    from hyenadna.training.runs.adapters import add_lora, add_prompt

    base = classifier()
    base.save_pretrained(tmp_path / "base")
    for kind, add in (("lora", lambda m: add_lora(m, 2)), ("prompt", lambda m: add_prompt(m, 3))):
        torch.manual_seed(0)
        adapted = add(HyenaDNAForSequenceClassification.from_pretrained(tmp_path / "base"))
        with torch.no_grad():
            for name, p in adapted.named_parameters():
                if "lora_B" in name:
                    p.normal_(std=0.3)
        adapted.save_pretrained(tmp_path / kind)
        base.config.save_pretrained(tmp_path / kind)
        HyenaDNATokenizer(add_eos_token=False).save_pretrained(tmp_path / kind)
        if kind == "prompt":
            with pytest.raises(InputError, match="soft prompt"):
                predict(tmp_path / kind, SEQUENCES)
            with pytest.raises(InputError, match="soft prompt"):
                predict(adapted, SEQUENCES)
            continue
        expected = predict(adapted, SEQUENCES)
        pd.testing.assert_frame_equal(predict(tmp_path / kind, SEQUENCES), expected)
        merged = adapted.eval().merge_and_unload()
        np.testing.assert_allclose(
            expected.filter(like="probability"),
            predict(merged, SEQUENCES).filter(like="probability"),
            atol=1e-5,
        )
        difference = predict(base, SEQUENCES)["probability_no"] - expected["probability_no"]
        assert difference.abs().max() > 1e-3


# ------------------------------------------------------------------------------ along a genome


def test_windows_cover_a_region():
    for start, end, window, stride in [(0, 25, 10, 10), (3, 30, 10, 4), (0, 5, 10, 10), (0, 10, 10, 3)]:
        starts = window_starts(start, end, window, stride)
        covered = {i for at in starts for i in range(at, min(at + window, end))}
        assert covered == set(range(start, end)) and (np.diff(starts) <= stride).all()
        assert starts[0] == start and starts[-1] + window >= end


def by_loop(model, chromosome, start, end, window, stride, strand, each_position):
    """Outputs of single windows, averaged base by base."""
    sums = np.zeros((len(chromosome), 3))
    counts = np.zeros(len(chromosome))
    for at in window_starts(start, end, window, stride):
        text = chromosome[at : min(at + window, end)]
        if set(text) == {"N"}:
            continue
        logits = alone(model, text)
        if strand == "both":
            other = alone(model, reverse_complement(text))
            logits = (logits + (other[::-1] if each_position else other)) / 2
        sums[at : at + len(text)] += softmax(logits)
        counts[at : at + len(text)] += 1
    with np.errstate(invalid="ignore"):
        return sums / counts[:, None]


@pytest.mark.parametrize("cls", [HyenaDNAForSequenceClassification, HyenaDNAForTokenClassification])
@pytest.mark.parametrize("stride, batch_size, strand", [(10, 32, "forward"), (6, 3, "both")])
def test_overlapping_windows_are_averaged(cls, stride, batch_size, strand, tmp_path):
    model = classifier(cls)
    (tmp_path / "g.fa").write_text(f">chr1\n{CHROMOSOME}\n>chr2\n{CHROMOSOME[:7]}\n")
    options = {"window": 10, "stride": stride, "strand": strand}
    table = predict_windows(model, tmp_path / "g.fa", batch_size=batch_size, **options)
    # the same rows, whatever the batch
    pd.testing.assert_frame_equal(table, predict_windows(model, tmp_path / "g.fa", batch_size=5, **options))
    each = cls is HyenaDNAForTokenClassification
    exact = double(model)
    for name, text in (("chr1", CHROMOSOME), ("chr2", CHROMOSOME[:7])):
        expected = by_loop(exact, text, 0, len(text), 10, stride, strand, each)
        values = np.full_like(expected, np.nan)
        rows = table[table["chrom"] == name]
        for start, end, *p in rows[
            ["start", "end", *(f"probability_{n}" for n in NAMES.values())]
        ].to_numpy():
            values[int(start) : int(end)] = p
        np.testing.assert_allclose(values, expected, atol=1e-6)
        assert np.isnan(expected).any() == ("N" in text)  # a window of N alone has no prediction
        assert rows["start"].is_monotonic_increasing
        assert (rows["start"].to_numpy()[1:] >= rows["end"].to_numpy()[:-1]).all()


@pytest.fixture
def folder(tmp_path):
    model = classifier()
    model.save_pretrained(tmp_path / "model")
    HyenaDNATokenizer(add_eos_token=False).save_pretrained(tmp_path / "model")
    (tmp_path / "g.fa").write_text(f">chr1\n{CHROMOSOME}\n>chr2\n{CHROMOSOME[:7]}\n")
    frame = pd.DataFrame({"id": ["=a", "b"], "sequence": ["ACGTTGCA", "GGCAT"]})
    frame.to_csv(tmp_path / "new.csv", index=False)
    return tmp_path


def run(folder, *flags):
    return cli.main(["predict", "--model", str(folder / "model"), *map(str, flags)])


def test_the_command_and_the_function_are_one(folder, capsys):
    assert run(folder, "--data", folder / "new.csv", "--output", folder / "p.csv") == 0
    expected = predict(folder / "model", folder / "new.csv")
    expected["id"] = ["'=a", "b"]  # no formula for a spreadsheet
    written = pd.read_csv(folder / "p.csv")
    pd.testing.assert_frame_equal(written, expected)
    assert "2 sequences, 2 rows" in capsys.readouterr().out

    # a model that was tested on both strands is read on both
    (folder / "model/metrics.json").write_text(json.dumps({"strands": {"used": "both"}}))
    assert run(folder, "--data", folder / "new.csv", "--output", folder / "both.csv") == 0
    written = pd.read_csv(folder / "both.csv").drop(columns="id")
    both = predict(folder / "model", folder / "new.csv", strand="both").drop(columns="id")
    pd.testing.assert_frame_equal(written, both)
    assert not written.equals(expected.drop(columns="id"))
    assert "strand: both" in capsys.readouterr().out


def test_tables_and_tracks_of_a_genome(folder, capsys):
    (folder / "r.bed").write_text("chr1\t5\t50\nchr1\t0\t20\n")  # overlapping, not in order
    genome = ("--fasta", folder / "g.fa", "--window", 10, "--stride", 5, "--batch_bases", 40)
    flags = (*genome, "--regions", folder / "r.bed", "chr2")
    assert run(folder, *flags, "--output", folder / "p.tsv") == 0
    table = pd.read_csv(folder / "p.tsv", sep="\t")
    regions = [str(folder / "r.bed"), "chr2"]
    expected = predict_windows(folder / "model", folder / "g.fa", regions, window=10, stride=5)
    pd.testing.assert_frame_equal(table, expected)
    assert table["start"].min() == 0 and table["end"].max() == 45  # the last window is N alone

    assert run(folder, *flags, "--target", "maybe", "--output", folder / "p.bedgraph") == 0
    assert "of 'maybe'" in capsys.readouterr().out
    graph = pd.read_csv(folder / "p.bedgraph", sep="\t", header=None)
    np.testing.assert_array_equal(graph[[0, 1, 2]], table[["chrom", "start", "end"]])
    np.testing.assert_allclose(graph[3], table["probability_maybe"], rtol=1e-5)

    assert run(folder, *flags, "--output", folder / "p.bed") == 0
    bed = pd.read_csv(folder / "p.bed", sep="\t", header=None)
    assert bed[3].isin(NAMES.values()).all() and bed[4].between(333, 1000).all()
    # neighbours differ in class, or do not touch
    touches = (bed[0].to_numpy()[1:] == bed[0].to_numpy()[:-1]) & (
        bed[1].to_numpy()[1:] == bed[2].to_numpy()[:-1]
    )
    assert (bed[3].to_numpy()[1:] != bed[3].to_numpy()[:-1])[touches].all()
    for _, start, end, name, score in bed[bed[0] == "chr1"].itertuples(index=False):
        inside = table[(table["chrom"] == "chr1") & (table["start"] >= start) & (table["end"] <= end)]
        assert (inside["predicted"] == name).all()
        mean = np.average(inside[f"probability_{name}"], weights=inside["end"] - inside["start"])
        assert abs(score - 1000 * mean) <= 1


def test_bigwig(folder):
    pybigtools = pytest.importorskip("pybigtools")
    flags = ("--fasta", folder / "g.fa", "--window", 10, "--stride", 5, "--target", "1")
    assert run(folder, *flags, "--output", folder / "p.bw") == 0
    expected = predict_windows(folder / "model", folder / "g.fa", window=10, stride=5)
    file = pybigtools.open(str(folder / "p.bw"))
    assert file.chroms() == {"chr1": 90, "chr2": 7}
    for name in ("chr1", "chr2"):
        records = list(file.records(name))
        rows = expected[expected["chrom"] == name]
        assert [record[:2] for record in records] == list(zip(rows["start"], rows["end"], strict=True))
        np.testing.assert_allclose([record[2] for record in records], rows["probability_yes"], rtol=1e-6)
    assert not list(folder.glob(".*unfinished*"))


@pytest.mark.parametrize(
    "flags, message",
    [
        ((), "either --data"),
        (("--data", "new.csv", "--fasta", "g.fa"), "either --data"),
        (("--fasta", "g.fa"), "say how long with --window"),
        (("--data", "new.csv", "--window", "5"), "--window belong to --fasta"),
        (("--fasta", "g.fa", "--window", "70"), "a window has 70 bases, but the model reads at most 66"),
        (("--fasta", "g.fa", "--window", "10", "--stride", "11"), "a stride is 1 to window"),
        (("--fasta", "g.fa", "--window", "10", "--regions", "chr9"), "no sequence 'chr9'"),
        (("--fasta", "g.fa", "--window", "10", "--regions", "chr1:0-91"), "chr1"),
        (("--fasta", "g.fa", "--window", "10", "--output", "p.bedgraph"), "choose it with --target"),
        (("--fasta", "g.fa", "--window", "10", "--target", "x", "--output", "p.bedgraph"), "no class 'x'"),
        (("--fasta", "g.fa", "--window", "10", "--target", "3", "--output", "p.bedgraph"), "no class 3"),
        (("--fasta", "g.fa", "--window", "10", "--output", "p.vcf"), "must end in"),
        (("--data", "new.csv", "--output", "p.bed"), "must end in"),
        (("--data", "new.csv", "--output", "new.csv"), "overwrite the input"),
        (("--data", "new.csv", "--output", "nowhere/p.csv"), "a folder that exists"),
        (("--data", "bad.csv"), "bad.csv: 1: '-' at position 1"),
        (("--data", "new.csv", "--batch_bases", "0"), "batch_bases"),
    ],
)  # fmt: skip
def test_bad_input_writes_nothing(folder, flags, message, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "bad.csv").write_text("sequence\nACG\nA-C\n")
    before = sorted(path.name for path in folder.iterdir())
    if "--output" not in flags:
        flags = (*flags, "--output", "p.csv")
    assert run(folder, *flags) == 1
    assert message in capsys.readouterr().err
    after = sorted(path.name for path in folder.iterdir() if path.suffix != ".fai")
    assert after == before
