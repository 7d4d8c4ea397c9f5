"""`attributions` and `OneHotModel`: beside finite differences, sums, and the installed tangermeme."""

import warnings
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
import torch

from hyenadna import (
    HyenaDNAForCausalLM,
    HyenaDNAForSequenceClassification,
    HyenaDNAForTokenClassification,
    HyenaDNATokenizer,
)
from hyenadna.analysis import OneHotModel, attributions, mutagenesis, one_hot_of
from hyenadna.errors import InputError
from hyenadna.genomics.letters import reverse_complement

from .conftest import random_model

SEQUENCE = "ACGTTNGCATGA"
NAMES = {0: "no", 1: "yes", 2: "maybe"}
HEADS = {
    HyenaDNAForCausalLM: {},
    HyenaDNAForSequenceClassification: {"target": "yes"},
    HyenaDNAForTokenClassification: {"target": "yes", "position": 7},
}


def make(cls=HyenaDNAForSequenceClassification, **config):
    if cls is not HyenaDNAForCausalLM:
        label2id = {name: i for i, name in NAMES.items()}
        config = {"id2label": dict(NAMES), "label2id": label2id, "classifier_bias": True, **config}
    return random_model(cls, seed=5, d_model=8, max_seq_len=34, **config)


def logits_of(model, text, special=False):
    with torch.no_grad():
        return model(**HyenaDNATokenizer(add_eos_token=special)(text, return_tensors="pt")).logits[0]


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("special", [False, True])
def test_one_hot_letters_give_what_the_tokens_give(order, special):
    x = torch.from_numpy(one_hot_of(SEQUENCE))[None]
    other = reverse_complement(SEQUENCE)
    tokenizer = HyenaDNATokenizer(add_eos_token=special)

    classifier = make(hyena_order=order)
    expected = logits_of(classifier, SEQUENCE, special)
    both = (expected + logits_of(classifier, other, special)) / 2
    wrapped = OneHotModel(classifier, tokenizer=tokenizer)
    torch.testing.assert_close(wrapped(x)[0], expected, atol=1e-5, rtol=0)
    wrapped = OneHotModel(classifier, tokenizer=tokenizer, strand="both", target=2, output="probability")
    torch.testing.assert_close(wrapped(x)[0], both.softmax(-1)[2:], atol=1e-5, rtol=0)

    tokens = make(HyenaDNAForTokenClassification, hyena_order=order)
    wrapped = OneHotModel(tokens, position=3, strand="reverse", tokenizer=tokenizer)
    expected = logits_of(tokens, other, special)[len(SEQUENCE) - 1 - 3]
    torch.testing.assert_close(wrapped(x)[0], expected, atol=1e-5, rtol=0)

    language = make(HyenaDNAForCausalLM, hyena_order=order)
    log_p = logits_of(language, SEQUENCE).log_softmax(-1)
    scores = [float(log_p[i - 1, 7 + "ACGT".index(b)]) if b != "N" else 0 for i, b in enumerate(SEQUENCE)]
    assert OneHotModel(language)(x)[0].item() == pytest.approx(sum(scores[1:]), abs=1e-4)
    assert OneHotModel(language, position=4)(x)[0].item() == pytest.approx(scores[4], abs=1e-5)
    assert OneHotModel(language, position=0)(x)[0].item() == 0


def finite_differences(function, points, step=1e-5):
    """Slopes of the first output at one-hot inputs `(n, 4, L)`, one number at a time."""
    _, four, length = points.shape
    slopes = torch.zeros(points.shape, dtype=torch.float64)
    with torch.no_grad():
        for row in range(four):
            for at in range(length):
                move = torch.zeros(four, length, dtype=torch.float64)
                move[row, at] = step
                up, down = function(points + move)[:, 0], function(points - move)[:, 0]
                slopes[:, row, at] = (up - down) / (2 * step)
    return slopes


@pytest.mark.parametrize("strand, order", [("forward", 3), ("both", 2)])
@pytest.mark.parametrize("cls", HEADS)
def test_values_are_those_of_finite_differences(cls, strand, order):
    model = make(cls, hyena_order=order).double()
    function = OneHotModel(model, strand=strand, **HEADS[cls])
    x = torch.from_numpy(one_hot_of(SEQUENCE)).double()
    x0 = x.sum(0).expand(4, -1) / 4
    points, weights = np.polynomial.legendre.leggauss(5)
    line = torch.from_numpy((points + 1) / 2)[:, None, None]
    for method, inputs, weight in [
        ("gradient_x_input", x[None], torch.ones(1)),
        ("integrated_gradients", x0 + line * (x - x0), torch.from_numpy(weights / 2)),
    ]:
        slopes = (finite_differences(function, inputs) * weight.double()[:, None, None]).sum(0)
        expected = ((slopes - slopes.mean(0)) * (x.sum(0) > 0)).numpy()
        result = attributions(
            model, SEQUENCE, method=method, steps=5, strand=strand, batch_size=2, **HEADS[cls]
        )
        np.testing.assert_allclose(result.hypothetical[0], expected, atol=1e-7)
        np.testing.assert_allclose(result.contributions[0], (expected * x.numpy()).sum(0), atol=1e-7)
        assert result.outputs[0] == pytest.approx(function(x[None]).item(), abs=1e-9)
        assert result.neutral[0] == pytest.approx(function(x0[None]).item(), abs=1e-9)


@pytest.mark.parametrize("pooling, order", [("mean", 2), ("last", 3), ("max", 2), ("first", 2)])
def test_contributions_add_up(pooling, order):
    model = make(pooling=pooling, hyena_order=order)
    # The gradient of a maximum jumps on the way, so its integral needs more points.
    steps = 512 if pooling == "max" else 128
    result = attributions(model, [SEQUENCE, "ACGTACGGT", "AAAAA"], steps=steps, batch_size=128)
    differences = result.outputs - result.neutral
    assert (np.abs(result.gaps) <= 0.01 * np.abs(differences) + 1e-5).all()
    for cls in (HyenaDNAForCausalLM, HyenaDNAForTokenClassification):
        result = attributions(make(cls, hyena_order=order), SEQUENCE, **HEADS[cls])
        assert abs(result.gaps[0]) <= 0.01 * abs(result.outputs[0] - result.neutral[0]) + 1e-5


def test_the_predicted_class_is_explained_by_default():
    model = make()
    texts = [SEQUENCE, "GGGGGGGGCC", "TTTTTTTTTTTT", "ACAC"]
    result = attributions(model, texts)
    for text, target, output in zip(texts, result.targets, result.outputs, strict=True):
        logits = logits_of(model, text)
        assert target == f"logit of {NAMES[int(logits.argmax())]}"
        assert output == pytest.approx(logits.max().item(), abs=1e-5)
    assert attributions(model, SEQUENCE, target=0, output="probability").targets == ["probability of no"]
    assert attributions(make(HyenaDNAForCausalLM), SEQUENCE).targets == ["log-likelihood"]


def test_the_result_as_table_arrays_and_picture(tmp_path):
    model = make()
    result = attributions(
        model, pd.DataFrame({"id": ["x", "y$"], "sequence": ["ACGTN", "ggcau"]}), target="yes"
    )
    table = result.table
    assert table["id"].tolist() == ["x"] * 5 + ["y$"] * 5 and "".join(table["base"]) == "ACGTNGGCAT"
    assert table["position"].tolist() == [*range(5)] * 2
    assert table["contribution"][4] == 0  # N
    result.save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as stored:
        assert stored["one_hot"].shape == stored["hypothetical"].shape == (2, 4, 5)
        np.testing.assert_allclose((stored["one_hot"] * stored["hypothetical"]).sum(1), result.contributions)
    assert len(result.plot(1, tmp_path / "a.png", 1, 4).axes[0].patches) == 3
    assert (tmp_path / "a.png").stat().st_size > 1000
    with pytest.raises(InputError, match="one length"):
        attributions(model, ["ACGT", "ACG"]).arrays()
    with pytest.raises(InputError, match="written as"):
        result.save(tmp_path / "a.csv")


def test_the_model_comes_back_as_it_was(tmp_path):
    model = make(embed_dropout=0.5).train()
    model.hyena.requires_grad_(False)
    wants = [p.requires_grad for p in model.parameters()]
    first = attributions(model, SEQUENCE)
    second = attributions(model, SEQUENCE)
    assert np.array_equal(first.hypothetical[0], second.hypothetical[0])
    assert model.training and [p.requires_grad for p in model.parameters()] == wants
    assert all(p.grad is None for p in model.parameters())
    model.save_pretrained(tmp_path / "model")
    HyenaDNATokenizer().save_pretrained(tmp_path / "model")
    loaded = attributions(tmp_path / "model", SEQUENCE, target=0)
    direct = attributions(model, SEQUENCE, target=0, tokenizer=HyenaDNATokenizer())
    np.testing.assert_allclose(loaded.hypothetical[0], direct.hypothetical[0], atol=1e-6)
    assert not np.allclose(loaded.outputs, attributions(model, SEQUENCE, target=0).outputs)


@pytest.mark.parametrize(
    "cls, settings, message",
    [
        (HyenaDNAForSequenceClassification, {"method": "saliency"}, "method is 'saliency'"),
        (HyenaDNAForSequenceClassification, {"steps": 0}, "steps is 0"),
        (HyenaDNAForSequenceClassification, {"target": "x"}, "no class 'x'"),
        (HyenaDNAForSequenceClassification, {"position": 1}, "whole sequences has none"),
        (HyenaDNAForSequenceClassification, {"output": "odds"}, "output is 'odds'"),
        (HyenaDNAForSequenceClassification, {"data": "A" * 35}, "0 has 35 bases"),
        (HyenaDNAForSequenceClassification, {"data": "AC-T"}, "'-' at position 2"),
        (HyenaDNAForTokenClassification, {}, "a head for each position needs it"),
        (HyenaDNAForTokenClassification, {"position": 12}, "position is 12, but the sequences have 12 bases"),
        (HyenaDNAForCausalLM, {"target": 0}, "a language model has no classes"),
    ],
)
def test_settings_that_do_not_fit(cls, settings, message):
    with pytest.raises(InputError, match=message):
        attributions(make(cls), settings.pop("data", SEQUENCE), **settings)
    with pytest.raises(InputError, match="one_hot has shape"):
        OneHotModel(make())(torch.zeros(2, 10, 4))


# ------------------------------------------------------------------------------ tangermeme

NO_N = "ACGTTGGCATGACCTA"


@pytest.fixture
def hot():
    return torch.from_numpy(np.stack([one_hot_of(NO_N), one_hot_of(NO_N[::-1])]))


def test_tangermeme_mutates_as_we_do(hot):
    tangermeme = pytest.importorskip("tangermeme.saturation_mutagenesis")
    model = make()
    result = tangermeme.saturation_mutagenesis(OneHotModel(model), hot, raw_outputs=True, device="cpu")
    for row, text in enumerate((NO_N, NO_N[::-1])):
        for target in range(3):
            ours = mutagenesis(model, text, target=target)
            theirs = (result.y_hat[row, :, :, target] - result.y0[row, target]).T
            np.testing.assert_allclose(ours.effects, theirs.numpy(), atol=1e-5)


def test_tangermeme_ablates_and_marginalizes(hot):
    marginalize = pytest.importorskip("tangermeme.marginalize").marginalize
    model = make()
    before, after = marginalize(OneHotModel(model), hot, "TATA", device="cpu")
    middle = (len(NO_N) - 4) // 2
    for row, text in enumerate((NO_N, NO_N[::-1])):
        inserted = text[:middle] + "TATA" + text[middle + 4 :]
        torch.testing.assert_close(before[row], logits_of(model, text), atol=1e-5, rtol=0)
        torch.testing.assert_close(after[row], logits_of(model, inserted), atol=1e-5, rtol=0)
    assert not model.training


def test_deep_lift_adds_up_with_our_rules(hot):
    """Without them it misses the products of the gates."""
    deep_lift = pytest.importorskip("tangermeme.deep_lift_shap").deep_lift_shap
    from hyenadna.analysis import deep_lift_rules

    model = OneHotModel(make(hyena_order=3).double())
    x = hot.double()
    references = x[:, None].flip(3).contiguous()
    with torch.no_grad():
        expected = (model(x) - model(references[:, 0]))[:, 1]

    def values(rules):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return deep_lift(
                deepcopy(model), x, target=1, references=references, device="cpu", hypothetical=True,
                raw_outputs=True, additional_nonlinear_ops=rules,
            )  # fmt: skip

    def miss(rules):
        sums = (values(rules)[:, 0] * (x - references[:, 0])).sum((1, 2))
        return float((sums - expected).abs().max() / expected.abs().max())

    assert miss(deep_lift_rules(points=16)) < 0.01
    assert miss(None) > 0.01
