"""`mutagenesis` for every head: beside full passes of each changed sequence, in float64."""

import math
from copy import deepcopy
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from hyenadna import (
    HyenaDNAForCausalLM,
    HyenaDNAForSequenceClassification,
    HyenaDNAForTokenClassification,
    HyenaDNATokenizer,
)
from hyenadna.analysis import draw_logo, mutagenesis
from hyenadna.errors import InputError
from hyenadna.genomics.letters import reverse_complement

from .conftest import random_model

SEQUENCE = "ACGTTNGCATGACCT"
NAMES = {0: "no", 1: "yes", 2: "maybe"}
TOKENIZERS = {False: HyenaDNATokenizer(add_eos_token=False), True: HyenaDNATokenizer()}


def make(cls, **config):
    if cls is not HyenaDNAForCausalLM:
        label2id = {name: i for i, name in NAMES.items()}
        config = {"id2label": dict(NAMES), "label2id": label2id, "classifier_bias": True, **config}
    return random_model(cls, seed=5, d_model=8, max_seq_len=34, **config)


def logits_of(model, texts, special=False):
    """Logits of texts of one length, in full passes."""
    with torch.no_grad():
        return model(**TOKENIZERS[special](texts, return_tensors="pt")).logits.double()


def log_likelihoods(model, texts):
    log_p = logits_of(model, texts).log_softmax(-1)
    ids = torch.tensor(TOKENIZERS[False](texts)["input_ids"])
    scores = log_p[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    return scores.masked_fill(ids[:, 1:] == 11, 0).sum(1)


def others(texts):
    return [reverse_complement(text) for text in texts]


def changes(kind, size, first, last):
    """Each position and alternative in the order of the result, and the changed sequence."""
    for i in range(first, last - size + 1 if kind == "deletions" else last):
        if kind == "substitutions":
            yield from ((i, alt, SEQUENCE[:i] + alt + SEQUENCE[i + 1 :]) for alt in "ACGT")
        elif kind == "deletions":
            yield i, "-", SEQUENCE[:i] + SEQUENCE[i + size :]
        else:
            for bases in map("".join, product("ACGT", repeat=size)):
                yield i, bases, SEQUENCE[:i] + bases + SEQUENCE[i:]


def by_full_passes(values, kind, size, first, last):
    """The effects and the value of the reference, where `values` maps texts to their values."""
    reference = float(values([SEQUENCE])[0])
    rows = list(changes(kind, size, first, last))
    effects = values([changed for _, _, changed in rows]).numpy() - reference
    if kind == "substitutions":
        effects[[SEQUENCE[i] == "N" for i, _, _ in rows]] = math.nan
    return effects.reshape(rows[-1][0] - first + 1, -1), reference


@pytest.mark.parametrize(
    "kind, size, order",
    [
        ("substitutions", 1, 3),
        ("deletions", 1, 2),
        ("deletions", 3, 3),
        ("insertions", 1, 3),
        ("insertions", 2, 2),
    ],
)
def test_a_language_model(kind, size, order):
    model = make(HyenaDNAForCausalLM, hyena_order=order)
    exact = deepcopy(model).double()

    def values(texts):
        return (log_likelihoods(exact, texts) + log_likelihoods(exact, others(texts))) / 2

    first, last = (0, len(SEQUENCE)) if size == 1 else (4, 9)
    result = mutagenesis(model, SEQUENCE, first, last, kind=kind, size=size, batch_size=12)
    expected, reference = by_full_passes(values, kind, size, first, last)
    np.testing.assert_allclose(result.effects, expected, atol=2e-5)
    assert result.reference == pytest.approx(reference, abs=1e-5)
    assert np.nanstd(expected) > 0.01 and result.quantity == "log-likelihood"


@pytest.mark.parametrize(
    "pooling, order, kind, size",
    [
        ("mean", 3, "substitutions", 1),
        ("mean", 2, "deletions", 2),
        ("mean", 2, "insertions", 1),
        ("last", 2, "substitutions", 1),
        ("last", 3, "deletions", 1),
        ("max", 2, "substitutions", 1),
        ("max", 2, "insertions", 1),
        ("first", 2, "deletions", 2),
    ],
)
def test_a_classifier(kind, size, pooling, order):
    model = make(HyenaDNAForSequenceClassification, pooling=pooling, hyena_order=order)
    exact = deepcopy(model).double()
    first, last = 0, len(SEQUENCE)
    result = mutagenesis(model, SEQUENCE, kind=kind, size=size, target="yes", batch_size=12)
    expected, _ = by_full_passes(lambda texts: logits_of(exact, texts)[:, 1], kind, size, first, last)
    np.testing.assert_allclose(result.effects, expected, atol=1e-5)
    assert result.quantity == "logit of yes"


@pytest.mark.parametrize("strand, special", [("reverse", False), ("both", True)])
def test_probabilities_strands_and_special_tokens(strand, special):
    model = make(HyenaDNAForSequenceClassification)
    exact = deepcopy(model).double()
    reading = {"strand": strand, "tokenizer": TOKENIZERS[special]}

    def logits(texts):
        both = [logits_of(exact, texts, special), logits_of(exact, others(texts), special)]
        return sum(both) / 2 if strand == "both" else both[1]

    predicted = int(logits([SEQUENCE]).argmax())
    result = mutagenesis(model, SEQUENCE, 2, 9, output="probability", **reading)
    expected, reference = by_full_passes(
        lambda texts: logits(texts).softmax(-1)[:, predicted], "substitutions", 1, 2, 9
    )
    np.testing.assert_allclose(result.effects, expected, atol=1e-6)
    assert result.reference == pytest.approx(reference, abs=1e-6)
    assert result.quantity == f"probability of {NAMES[predicted]}"


@pytest.mark.parametrize(
    "kind, size, strand",
    [
        ("substitutions", 1, "forward"),
        ("substitutions", 1, "both"),
        ("deletions", 2, "both"),
        ("insertions", 1, "both"),
    ],
)
def test_an_output_at_one_position(kind, size, strand):
    model = make(HyenaDNAForTokenClassification)
    exact = deepcopy(model).double()
    followed = 7

    first, last = 3, 12
    result = mutagenesis(
        model, SEQUENCE, first, last, kind=kind, size=size, position=followed, target=2, strand=strand
    )

    def read(texts, places):
        rows = torch.arange(len(texts))
        at = torch.tensor(places)
        values = logits_of(exact, texts)[rows, at, 2]
        if strand == "both":
            values = (values + logits_of(exact, others(texts))[rows, len(texts[0]) - 1 - at, 2]) / 2
        return values.numpy()

    rows = list(changes(kind, size, first, last))
    places = []
    for i, _, _ in rows:
        moved = 0
        if kind == "deletions" and i + size <= followed:
            moved = -size
        if kind == "insertions" and i <= followed:
            moved = size
        places.append(min(followed + moved, len(rows[0][2]) - 1))
    expected = read([changed for _, _, changed in rows], places) - read([SEQUENCE], [followed])
    for row, (i, _, _) in enumerate(rows):
        is_deleted = kind == "deletions" and i <= followed < i + size
        if is_deleted or (kind == "substitutions" and SEQUENCE[i] == "N"):
            expected[row] = math.nan
    np.testing.assert_allclose(result.effects.ravel(), expected, atol=1e-5)
    if strand == "forward" and kind == "substitutions":  # causal, but for the rounding of a Fourier transform
        assert np.abs(result.effects[followed - first + 1 :]).max() < 1e-6


def test_numbers():
    model = make(HyenaDNAForSequenceClassification, id2label={0: "activity"}, label2id={"activity": 0})
    exact = deepcopy(model).double()
    result = mutagenesis(model, SEQUENCE, 3, 8)
    expected, _ = by_full_passes(lambda texts: logits_of(exact, texts)[:, 0], "substitutions", 1, 3, 8)
    np.testing.assert_allclose(result.effects, expected, atol=1e-5)
    assert result.quantity == "activity"


def test_lower_case_is_read_as_capitals_and_a_wrapped_model_is_the_same():
    model = make(HyenaDNAForSequenceClassification).train()
    expected = mutagenesis(model, SEQUENCE, target=0)
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert np.array_equal(
        mutagenesis(model, SEQUENCE.lower(), target=0).effects, expected.effects, equal_nan=True
    )
    # a hook takes the step-by-step path through the cache
    model.hyena.backbone.layers[0].mixer.in_proj.register_forward_hook(lambda *a: None)
    np.testing.assert_allclose(mutagenesis(model, SEQUENCE, target=0).effects, expected.effects, atol=1e-5)


def test_the_table_names_each_change(tmp_path):
    model = make(HyenaDNAForSequenceClassification)
    (tmp_path / "g.fa").write_text(f">chr20\n{'A' * 50}{SEQUENCE.lower()}{'C' * 50}\n")
    region = "chr20:52-60"
    result = mutagenesis(model, tmp_path / "g.fa", region=region, window=30, target=0)
    assert len(result.sequence) == 30 and result.name == "chr20:52-60"
    direct = mutagenesis(model, result.sequence, result.start, result.start + 8, target=0)
    assert np.array_equal(direct.effects, result.effects, equal_nan=True)

    table = result.table
    assert table.columns.tolist() == ["chrom", "position", "pos", "ref", "alt", "effect"]
    assert len(table) == 7 * 3 + 4  # of N, all four, without an effect
    assert table[table["ref"] == "N"]["effect"].isna().all()
    assert (table["pos"] == table["position"] + 1).all() and (table["ref"] != table["alt"]).all()
    row = table[(table["position"] == 54) & (table["alt"] == "C")].iloc[0]
    assert row["ref"] == SEQUENCE[4] and row["effect"] == result.effects[2, 1]
    assert "chrom" not in direct.table

    deleted = mutagenesis(model, SEQUENCE, 2, 6, kind="deletions", size=3, target=0).table
    assert deleted[["position", "ref", "alt"]].to_numpy().tolist() == [[2, "GTT", "-"], [3, "TTN", "-"]]
    inserted = mutagenesis(model, SEQUENCE, 2, 3, kind="insertions", target=0).table
    assert inserted[["ref", "alt"]].to_numpy().tolist() == [["-", base] for base in "ACGT"]


def test_the_mean_effect_as_a_track(tmp_path):
    model = make(HyenaDNAForSequenceClassification)
    (tmp_path / "g.fa").write_text(f">chr20\n{'A' * 50}{SEQUENCE}{'C' * 50}\n")
    result = mutagenesis(model, tmp_path / "g.fa", region="chr20:52-60", window=30, target=0)
    mean = result.table.groupby("position")["effect"].mean()
    np.testing.assert_allclose(result.mean_effects, mean, atol=1e-12)
    result.write_track(tmp_path / "t.bedgraph")
    written = pd.read_csv(tmp_path / "t.bedgraph", sep="\t", header=None)
    known = mean.dropna()
    assert written[1].tolist() == known.index.tolist() and (written[2] == written[1] + 1).all()
    np.testing.assert_allclose(written[3], known, rtol=1e-5)
    with pytest.raises(InputError, match="a track ends in one of"):
        result.write_track(tmp_path / "t.txt")
    with pytest.raises(InputError, match="a track needs a place in a genome"):
        mutagenesis(model, SEQUENCE).write_track(tmp_path / "t.bedgraph")


@pytest.mark.parametrize(
    "kind, suffix", [("substitutions", "png"), ("deletions", "svg"), ("insertions", "pdf")]
)
def test_pictures(kind, suffix, tmp_path):
    model = make(HyenaDNAForSequenceClassification)
    figure = mutagenesis(model, SEQUENCE, kind=kind).plot(tmp_path / f"p.{suffix}", title="a $ sign")
    start = (tmp_path / f"p.{suffix}").read_bytes()[:100]
    assert {"png": b"PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix] in start
    assert len(figure.axes) == (2 if kind == "insertions" else 3)  # the colour bar is one
    with pytest.raises(InputError, match="a picture ends in one of"):
        mutagenesis(model, SEQUENCE).plot(tmp_path / "p.txt")


def test_letters_of_a_logo_are_as_high_as_their_values():
    axes = Figure().subplots()
    draw_logo(axes, "ACGTN", np.array([2.0, -1.0, 0.0, math.nan, 0.5]), start=10)
    boxes = [patch.get_path().get_extents() for patch in axes.patches]
    assert [(round(box.y0, 6), round(box.y1, 6)) for box in boxes] == [(0, 2), (-1, 0), (0, 0.5)]
    assert [round((box.x0 + box.x1) / 2, 6) for box in boxes] == [10, 11, 14]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"start": 5, "end": 5}, "cannot mutate positions 5 to 5"),
        ({"end": 16}, "cannot mutate positions 0 to 16: the sequence has 15 bases"),
        ({"kind": "swaps"}, "kind is 'swaps'"),
        ({"size": 2}, "a substitution changes one base"),
        ({"kind": "deletions", "size": 4}, "have 1 to 3 bases"),
        ({"kind": "deletions", "size": 3, "end": 2}, "does not fit into 2 positions"),
        ({"target": "perhaps"}, r"no class 'perhaps'; it has \['no', 'yes', 'maybe'\]"),
        ({"target": 3}, "no class 3"),
        ({"output": "odds"}, "output is 'odds'"),
        ({"position": 3}, "no other takes it"),
        ({"strand": "up"}, "strand is 'up'"),
        ({"sequence": ["ACGT", "ACGT"]}, "one sequence at a time, but 2 came"),
        ({"sequence": "AC-T"}, "'-' at position 2"),
        ({"sequence": "A" * 34, "kind": "insertions"}, "have to read 35 tokens, but takes at most"),
        ({"model": HyenaDNAForCausalLM, "target": "yes"}, "a language model has no classes"),
        ({"model": HyenaDNAForTokenClassification}, "a head for each position needs it"),
        ({"model": HyenaDNAForTokenClassification, "position": 15}, "position is 15, but the seq"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit(settings, message):
    model = make(settings.pop("model", HyenaDNAForSequenceClassification))
    with pytest.raises(InputError, match=message):
        mutagenesis(model, settings.pop("sequence", SEQUENCE), **settings)


def test_regions_outside_of_the_genome(tmp_path):
    model = make(HyenaDNAForSequenceClassification)
    (tmp_path / "g.fa").write_text(f">chr20\n{SEQUENCE * 4}\n")
    for region, message in [
        ("chr20:50-61", "chr20:50-61"),
        ("chr21:0-5", "no sequence 'chr21'"),
        ("chr20", "60 bases, but the window has 34"),
        ("r.bed", "takes one region"),
    ]:
        with pytest.raises(InputError, match=message):
            mutagenesis(model, tmp_path / "g.fa", region=region)
