"""The model against the published code's outputs and against a second implementation; masks, heads,
losses.
"""

import copy
import math

import pytest
import torch
from safetensors.torch import load_file

import hyenadna
from hyenadna import (
    HyenaDNAConfig,
    HyenaDNAForCausalLM,
    HyenaDNAForSequenceClassification,
    HyenaDNAForTokenClassification,
    HyenaDNAModel,
)

from . import reference
from .conftest import checkpoint_activations, random_ids, random_model

HEADS = [HyenaDNAForCausalLM, HyenaDNAForSequenceClassification, HyenaDNAForTokenClassification]
POOLINGS = ["mean", "last", "first", "max"]


@pytest.fixture(params=["grad", "no_grad"])
def grad_mode(request):
    """With and without gradients the model takes different ways to the same numbers."""
    with torch.set_grad_enabled(request.param == "grad"):
        yield request.param


# ----------------------------------------------------------------------------------------- fidelity


def test_published_outputs_and_gradients(golden):
    expected = load_file(golden / "expected.safetensors")
    model, info = HyenaDNAForCausalLM.from_pretrained(golden, output_loading_info=True)
    assert not any(info.values()), info
    ids = expected["input_ids"]
    out = model(ids, labels=ids, output_hidden_states=True)
    close = {"atol": 1e-4, "rtol": 1e-4}
    torch.testing.assert_close(out.logits, expected["logits"], **close)
    torch.testing.assert_close(out.loss[None], expected["loss"], **close)
    # The published code lists the last block and the final norm; Transformers lists the final norm
    # in its place.
    assert len(out.hidden_states) == 3
    for i, j in enumerate((0, 1, 3)):
        torch.testing.assert_close(out.hidden_states[i], expected[f"hidden_states.{j}"], **close)
    with torch.no_grad():
        again = model(ids, labels=ids, output_hidden_states=True)
    torch.testing.assert_close(again.logits, expected["logits"], **close)
    for i, j in enumerate((0, 1, 3)):
        torch.testing.assert_close(again.hidden_states[i], expected[f"hidden_states.{j}"], **close)
    out.loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    assert {f"grad.{name}" for name in grads} == {name for name in expected if name.startswith("grad.")}
    for name, grad in grads.items():
        torch.testing.assert_close(
            grad, expected[f"grad.{name}"], **close, msg=lambda m, name=name: f"{name}: {m}"
        )


def test_published_classifier(golden, grad_mode):
    expected = load_file(golden / "expected.safetensors")
    model = HyenaDNAForSequenceClassification.from_pretrained(golden, num_labels=3, pooling="last")
    model.score.weight.data = expected["score.weight"]
    torch.testing.assert_close(
        model(expected["input_ids"]).logits, expected["score.logits"], atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("length", [1, 2, 3, 50, 66])
def test_equals_the_reference_in_float64(order, length, grad_mode):
    model = random_model(
        hyena_order=order, num_inner_mlps=order - 1, emb_dim=2 * order - 1, short_filter_order=order
    )
    model.double()
    ids = random_ids(2, length)
    states = model(ids, output_hidden_states=True).hidden_states
    expected = reference.hidden_states(model, ids)
    for state, other in zip(states, expected[:-2] + expected[-1:], strict=True):
        torch.testing.assert_close(state, other, rtol=0, atol=1e-10 * other.abs().max().item())


def test_filter_stays_float32_in_a_half_precision_model():
    model = random_model(hyena_order=3)
    filter_fn = model.hyena.backbone.layers[0].mixer.filter_fn
    for dtype in (torch.bfloat16, torch.float16):
        # The same rounded weights, once held in half and once in full precision, give the same
        # filter to the bit.
        half = copy.deepcopy(filter_fn).to(dtype)
        full = copy.deepcopy(half).float()
        for a, b in zip(half(66), full(66), strict=True):
            assert a.dtype == torch.float32 and torch.equal(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = filter_fn(66)[0]
    assert torch.equal(under_autocast, filter_fn(66)[0])
    assert filter_fn.double()(66)[0].dtype == torch.float64


def test_a_shorter_input_uses_the_first_positions():
    filter_fn = random_model().hyena.backbone.layers[0].mixer.filter_fn
    torch.testing.assert_close(filter_fn(20)[0], filter_fn(66)[0][..., :20], rtol=0, atol=1e-6)


# ----------------------------------------------------------------------------------- initialization


@pytest.mark.parametrize("n_layer", [2, 8])
def test_initial_standard_deviations(n_layer):
    torch.manual_seed(0)
    config = HyenaDNAConfig(d_model=128, n_layer=n_layer, num_labels=64, classifier_bias=True)
    scaled = 0.02 / math.sqrt(2 * n_layer)
    expected = {
        "word_embeddings.weight": 0.02,
        "lm_head.weight": 0.02,
        "score.weight": 0.02,
        "score.bias": 0,
        "in_proj.weight": 0.02,
        "in_proj.bias": 0,
        "out_proj.weight": scaled,
        "out_proj.bias": 0,
        "fc1.weight": 0.02,
        "fc1.bias": 0,
        "fc2.weight": scaled,
        "fc2.bias": 0,
        # uniform in +-1/sqrt(3), of which this is the standard deviation
        "short_filter.weight": 1 / 3,
        "short_filter.bias": 1 / 3,
        "filter_fn.bias": 1,
        "implicit_filter.0.weight": 0.02,
        "implicit_filter.2.weight": 0.02,
        "implicit_filter.4.weight": 0.02,
        "implicit_filter.6.weight": 0.02,
        "implicit_filter.0.bias": 0,
        "implicit_filter.2.bias": 0,
        "implicit_filter.4.bias": 0,
    }
    for cls in HEADS:
        for name, p in cls(config).named_parameters():
            if name.endswith("freq"):
                assert (p == 10).all()
            elif "norm" in name or "ln_f" in name:
                assert (p == (1 if name.endswith("weight") else 0)).all()
            else:
                std = expected[next(end for end in expected if name.endswith(end))]
                # A sample's standard deviation is off by one part in sqrt(2 n); allow five of
                # those.
                assert p.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * p.numel()), abs=0), name
                assert abs(p.mean().item()) <= 5 * std / math.sqrt(p.numel()), name


def test_loaded_weights_are_not_initialized_again(tmp_path):
    model = random_model()
    model.save_pretrained(tmp_path)
    again = HyenaDNAForCausalLM.from_pretrained(tmp_path)
    for name, p in again.named_parameters():
        assert torch.equal(p, model.get_parameter(name)), name


def test_dropout_of_every_kind_works():
    ids = random_ids(1, 30)
    for name in ("embed_dropout", "resid_dropout", "hyena_dropout"):
        off = {"embed_dropout": 0.0, "resid_dropout": 0.0, "hyena_dropout": 0.0}
        model = random_model(**off | {name: 0.5}).train()
        assert not torch.equal(model(ids).logits, model(ids).logits), name
        model.eval()
        assert torch.equal(model(ids).logits, model(ids).logits), name
    model = random_model(HyenaDNAForSequenceClassification, embed_dropout=0.0, classifier_dropout=0.5).train()
    assert not torch.equal(model(ids).logits, model(ids).logits)
    # on the embeddings: half of them are zero before the first block
    model = random_model(embed_dropout=0.5).train()
    states = model(ids, output_hidden_states=True).hidden_states
    assert 0.3 < (states[0] == 0).float().mean() < 0.7


# --------------------------------------------------------------------------------- causality, masks


def test_every_base_changes_the_logits_and_none_the_past(grad_mode):
    model = random_model().double()
    ids = random_ids(1, 40)
    logits = model(ids).logits
    for t in range(40):
        other = ids.clone()
        other[0, t] = 7 + (ids[0, t] - 7 + 1) % 5
        changed = (model(other).logits - logits).abs().amax(-1)[0]
        assert (changed[:t] < 1e-12).all() and (changed[t:] > 1e-8).all()


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_classifier_sees_every_base(pooling):
    model = random_model(HyenaDNAForSequenceClassification, num_labels=3, pooling=pooling).double()
    ids = random_ids(1, 30)
    logits = model(ids).logits
    for t in range(30):
        other = ids.clone()
        other[0, t] = 7 + (ids[0, t] - 7 + 1) % 5
        assert (model(other).logits - logits).abs().max() > 1e-8


def layouts() -> dict[str, torch.Tensor]:
    """Masks of shape (3, 40) over sequences of 25, 40 and 1 tokens."""
    masks = {}
    generator = torch.Generator().manual_seed(3)
    for name in ("left", "right", "interior", "prompt"):
        mask = torch.zeros(3, 40, dtype=torch.long)
        for row, n in enumerate((25, 40, 1)):
            if name == "left":
                mask[row, 40 - n :] = 1
            elif name == "right":
                mask[row, :n] = 1
            elif name == "interior":
                mask[row, torch.randperm(40, generator=generator)[:n]] = 1
            else:  # as peft lays it out: a prompt, then pads, then the sequence
                mask[row, : min(n, 4)] = 1
                mask[row, 40 - max(n - 4, 0) :] = 1
                mask[row, 40:] = 0
                if n <= 4:
                    mask[row] = 0
                    mask[row, 0] = 1
        assert mask.sum(1).tolist() == [25, 40, 1]
        masks[name] = mask
    return masks


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("layout", list(layouts()))
@pytest.mark.parametrize(
    ("cls", "pooling"),
    [(HyenaDNAModel, "mean"), (HyenaDNAForCausalLM, "mean"), (HyenaDNAForTokenClassification, "mean")]
    + [(HyenaDNAForSequenceClassification, pooling) for pooling in POOLINGS],
)
def test_padded_equals_alone(cls, pooling, layout, order, grad_mode):
    model = random_model(cls, hyena_order=order, num_labels=3, pooling=pooling)
    mask = layouts()[layout]
    ids = torch.where(mask.bool(), random_ids(3, 40), 4)
    key = "last_hidden_state" if cls is HyenaDNAModel else "logits"
    padded = model(ids, attention_mask=mask, output_hidden_states=True)
    for row in range(3):
        real = mask[row].bool()
        alone = model(ids[row][real][None], output_hidden_states=True)
        a, p = alone[key][0], padded[key][row]
        if cls is not HyenaDNAForSequenceClassification:
            p = p[real]
        torch.testing.assert_close(p, a, rtol=0, atol=1e-5 * a.abs().max().item())
        # in the caller's order
        for x, y in zip(padded.hidden_states, alone.hidden_states, strict=True):
            torch.testing.assert_close(x[row][real], y[0], rtol=0, atol=1e-5 * y.abs().max().item())


@pytest.mark.parametrize("layout", list(layouts()))
@pytest.mark.parametrize("cls", [HyenaDNAForCausalLM, HyenaDNAForTokenClassification])
def test_loss_of_a_padded_batch_is_the_loss_of_its_sequences(cls, layout):
    model = random_model(cls, num_labels=12).double()
    mask = layouts()[layout]
    ids = torch.where(mask.bool(), random_ids(3, 40), 4)
    # pads are no targets, whether marked or not
    for labels in (ids, torch.where(mask.bool(), ids, -100)):
        total, count = 0.0, 0
        for row in range(3):
            alone = ids[row][mask[row].bool()][None]
            n = alone.shape[1] - (cls is HyenaDNAForCausalLM)
            total += model(alone, labels=alone).loss.item() * n if n else 0.0
            count += n
        loss = model(ids, attention_mask=mask, labels=labels).loss
        # Transformers takes it in float32
        assert loss.item() == pytest.approx(total / count, rel=1e-6)


def test_inputs_embeds_and_garbage_under_the_mask(grad_mode):
    model = random_model()
    ids, mask = random_ids(2, 20), torch.ones(2, 20)  # peft passes a float mask
    mask[0, :7] = 0
    embeds = model.get_input_embeddings()(ids)
    torch.testing.assert_close(
        model(inputs_embeds=embeds, attention_mask=mask).logits, model(ids, mask).logits
    )
    garbage = embeds.masked_fill(mask[..., None] == 0, 1e4)
    a, b = model(inputs_embeds=garbage, attention_mask=mask).logits, model(ids, mask).logits
    torch.testing.assert_close(a[mask == 1], b[mask == 1], rtol=1e-5, atol=1e-5)


def test_without_a_mask_pads_are_tokens():
    model = random_model()
    ids = random_ids(1, 20)
    ids[0, :5] = 4
    mask = (ids != 4).long()
    assert (model(ids).logits - model(ids, attention_mask=mask).logits)[:, 5:].abs().max() > 1e-3


# --------------------------------------------------------------------------------- heads and losses


def test_language_model_loss_is_over_all_rows_and_shifted_by_one():
    model = random_model()
    ids = random_ids(2, 30)
    out = model(ids, labels=ids)
    assert out.logits.shape == (2, 30, 16)
    p = out.logits.double().softmax(-1)[:, :-1].gather(2, ids[:, 1:, None]).log()
    assert out.loss.item() == pytest.approx(-p.mean().item(), rel=1e-6)
    assert model(ids, labels=ids, num_items_in_batch=torch.tensor(7)).loss.item() == pytest.approx(
        -p.sum().item() / 7, rel=1e-6
    )
    some = ids.clone()
    some[:, ::2] = -100
    assert model(ids, labels=some).loss.item() == pytest.approx(-p[:, ::2].mean().item(), rel=1e-6)


def test_logits_to_keep():
    model = random_model()
    ids = random_ids(2, 30)
    logits = model(ids).logits
    torch.testing.assert_close(model(ids, logits_to_keep=3).logits, logits[:, -3:])
    positions = torch.tensor([4, 9])
    torch.testing.assert_close(model(ids, logits_to_keep=positions).logits, logits[:, positions])
    # three targets, from the last four positions
    labels = torch.where(torch.arange(30) >= 27, ids, -100)
    torch.testing.assert_close(
        model(ids, labels=labels, logits_to_keep=4).loss, model(ids, labels=labels).loss
    )


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_by_hand(pooling):
    model = random_model(
        HyenaDNAForSequenceClassification, num_labels=3, pooling=pooling, classifier_bias=True
    )
    ids = random_ids(1, 30)
    h = model.hyena(ids).last_hidden_state[0]
    pooled = {"mean": h.mean(0), "last": h[-1], "first": h[0], "max": h.max(0).values}[pooling]
    expected = pooled @ model.score.weight.T + model.score.bias
    torch.testing.assert_close(model(ids).logits[0], expected, rtol=1e-5, atol=1e-5)


def test_sequence_losses_by_hand():
    ids = random_ids(4, 20)
    model = random_model(HyenaDNAForSequenceClassification, num_labels=3)
    labels = torch.tensor([0, 2, 1, 2])
    out = model(ids, labels=labels)
    expected = -out.logits.log_softmax(-1)[range(4), labels].mean()
    torch.testing.assert_close(out.loss, expected)
    torch.testing.assert_close(
        model(ids, labels=labels, num_items_in_batch=torch.tensor(8)).loss, expected / 2
    )

    model = random_model(
        HyenaDNAForSequenceClassification, num_labels=3, problem_type="multi_label_classification"
    )
    labels = torch.tensor([[0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]])  # integers are fine
    out = model(ids, labels=labels)
    p = out.logits.sigmoid()
    expected = -(labels * p.log() + (1 - labels) * (1 - p).log()).mean()
    torch.testing.assert_close(out.loss, expected)
    torch.testing.assert_close(
        model(ids, labels=labels, num_items_in_batch=torch.tensor(24)).loss, expected / 2
    )

    for count in (1, 3):
        model = random_model(HyenaDNAForSequenceClassification, num_labels=count, problem_type="regression")
        labels = torch.randn(4, count, generator=torch.Generator().manual_seed(0))
        out = model(ids, labels=labels)
        torch.testing.assert_close(out.loss, (out.logits - labels).square().mean())
    torch.testing.assert_close(
        random_model(HyenaDNAForSequenceClassification, num_labels=1)(ids, labels=labels[:, 0]).loss,
        random_model(HyenaDNAForSequenceClassification, num_labels=1)(ids, labels=labels[:, :1]).loss,
    )


def test_problem_type_is_inferred_as_in_transformers():
    ids = random_ids(2, 9)
    for count, labels, kind in [
        (1, torch.tensor([0.5, 1.5]), "regression"),
        (3, torch.tensor([0, 2]), "single_label_classification"),
        (3, torch.tensor([[0.0, 1, 1], [1, 0, 0]]), "multi_label_classification"),
    ]:
        model = random_model(HyenaDNAForSequenceClassification, num_labels=count)
        assert model(ids, labels=labels).loss.isfinite() and model.config.problem_type == kind


def test_token_loss_by_hand():
    model = random_model(HyenaDNAForTokenClassification, num_labels=3)
    ids = random_ids(2, 20)
    labels = torch.randint(0, 3, (2, 20), generator=torch.Generator().manual_seed(0))
    labels[:, 5] = -100
    out = model(ids, labels=labels)
    assert out.logits.shape == (2, 20, 3)
    keep = labels != -100
    torch.testing.assert_close(out.loss, -out.logits.log_softmax(-1)[keep][range(38), labels[keep]].mean())


def test_tuples_and_hidden_states():
    ids = random_ids(1, 9)
    for cls in HEADS:
        model = random_model(cls)
        assert isinstance(model(ids, return_dict=False), tuple)
        states = model(ids, output_hidden_states=True).hidden_states
        assert len(states) == model.config.n_layer + 1
    base = random_model(HyenaDNAModel)
    out = base(ids, output_hidden_states=True)
    assert torch.equal(out.hidden_states[-1], out.last_hidden_state)
    assert torch.equal(out.hidden_states[0], base.get_input_embeddings()(ids))
    # the notebooks of the published port pass these; they are not in the way
    base(ids, token_type_ids=torch.zeros_like(ids), output_attentions=False)


# ---------------------------------------------------------------------------------------- gradients


def gradients(model, *batches, **kwargs) -> dict[str, torch.Tensor]:
    model.zero_grad()
    for batch in batches:
        model(**batch, **kwargs).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def assert_same_gradients(a: dict, b: dict, rel: float = 1e-5) -> None:
    scale = max(g.abs().max().item() for g in a.values())
    for name in a:
        torch.testing.assert_close(
            a[name], b[name], rtol=rel, atol=rel * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


def left_padded_batch() -> dict[str, torch.Tensor]:
    ids, mask = random_ids(8, 40), torch.ones(8, 40, dtype=torch.long)
    for row in range(8):
        mask[row, : 4 * row] = 0
    return {"input_ids": torch.where(mask.bool(), ids, 4), "attention_mask": mask}


@pytest.mark.parametrize("order", [2, 3])
def test_a_batch_of_eight_has_the_gradients_of_eight_batches_of_one(order):
    model = random_model(hyena_order=order)
    batch = left_padded_batch()
    batch["labels"] = batch["input_ids"]
    count = (batch["attention_mask"].sum(1) - 1).sum()
    together = gradients(model, batch, num_items_in_batch=count)
    rows = [{k: v[i : i + 1] for k, v in batch.items()} for i in range(8)]
    assert_same_gradients(together, gradients(model, *rows, num_items_in_batch=count))
    # and without the padding too
    bare = [{k: v[:, 4 * i :] for k, v in row.items() if k != "attention_mask"} for i, row in enumerate(rows)]
    assert_same_gradients(together, gradients(model, *bare, num_items_in_batch=count))


@pytest.mark.parametrize("cls", [HyenaDNAForSequenceClassification, HyenaDNAForTokenClassification])
def test_classifiers_accumulate_like_one_batch(cls):
    model = random_model(cls, num_labels=3)
    batch = left_padded_batch()
    shape = (8,) if cls is HyenaDNAForSequenceClassification else (8, 40)
    batch["labels"] = torch.randint(0, 3, shape, generator=torch.Generator().manual_seed(2))
    count = torch.tensor(8 if len(shape) == 1 else int(batch["attention_mask"].sum()))
    rows = [{k: v[i : i + 1] for k, v in batch.items()} for i in range(8)]
    assert_same_gradients(
        gradients(model, batch, num_items_in_batch=count), gradients(model, *rows, num_items_in_batch=count)
    )


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing_changes_neither_gradients_nor_names(use_reentrant):
    model = random_model(n_layer=3, hyena_order=3, resid_dropout=0.3).train()
    batch = left_padded_batch()
    batch["labels"] = batch["input_ids"]
    torch.manual_seed(5)
    plain = gradients(model, batch)
    names = set(model.state_dict())
    checkpoint_activations(model, {"use_reentrant": use_reentrant})
    assert set(model.state_dict()) == names
    torch.manual_seed(5)
    assert_same_gradients(plain, gradients(model, batch))


@pytest.mark.parametrize("length", [7, 16])
def test_gradients_by_finite_differences(length):
    model = random_model(
        d_model=4, d_inner=4, filter_order=4, hyena_order=3, n_layer=1, max_seq_len=20
    ).double()
    mixer = model.hyena.backbone.layers[0].mixer
    u = torch.randn(2, length, 4, dtype=torch.float64, requires_grad=True)
    names, params = zip(*mixer.named_parameters(), strict=True)

    def run(u, *params):
        return torch.func.functional_call(mixer, dict(zip(names, params, strict=True)), (u,))

    assert torch.autograd.gradcheck(run, (u, *params), fast_mode=True)


# --------------------------------------------------------------------------------- types, compiling


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close_and_finite(dtype, tmp_path):
    model = random_model(d_model=32)
    ids = random_ids(2, 60)
    full = model(ids, labels=ids)
    model.save_pretrained(tmp_path)
    half = HyenaDNAForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    filter_fn = half.hyena.backbone.layers[0].mixer.filter_fn
    assert half.dtype == dtype and {p.dtype for p in filter_fn.parameters()} == {torch.float32}
    for candidate in (half, copy.deepcopy(model).to(dtype)):
        out = candidate(ids, labels=ids, output_hidden_states=True)
        # the residual stream
        assert out.logits.isfinite().all() and out.hidden_states[1].dtype == torch.float32
        assert (out.logits.float() - full.logits).abs().max() < 0.1 * full.logits.abs().max()
    with torch.autocast("cpu", dtype):
        out = model(ids, labels=ids)
    assert (out.logits.float() - full.logits).abs().max() < 0.1 * full.logits.abs().max()
    out.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_160k_in_bfloat16_autocast_is_finite():
    torch.manual_seed(0)
    model = HyenaDNAForCausalLM(
        HyenaDNAConfig(d_model=8, n_layer=2, max_seq_len=160_002, filter_order=16)
    ).eval()
    ids = random_ids(1, 160_002)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(ids, labels=ids)
    out.loss.backward()
    assert out.logits.isfinite().all() and out.loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        torch.testing.assert_close(out.loss, model(ids, labels=ids).loss, rtol=1e-2, atol=0)


@pytest.mark.parametrize("cls", HEADS)
def test_compiles_without_graph_breaks(cls):
    torch._dynamo.reset()
    model = random_model(cls, num_labels=3)
    batch = left_padded_batch()
    labels = {
        HyenaDNAForCausalLM: batch["input_ids"],
        HyenaDNAForSequenceClassification: torch.arange(8) % 3,
        HyenaDNAForTokenClassification: batch["input_ids"] % 3,
    }[cls]
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    masks = [layouts()["interior"][:1].expand(8, 40), batch["attention_mask"], None]
    for mask in masks if cls is HyenaDNAForCausalLM else masks[:1]:
        inputs = {"input_ids": batch["input_ids"], "attention_mask": mask, "labels": labels}
        plain = gradients(model, inputs)
        model.zero_grad()
        out = compiled(**inputs)
        torch.testing.assert_close(out.logits, model(**inputs).logits, rtol=1e-5, atol=1e-5)
        out.loss.backward()
        assert_same_gradients(plain, {name: p.grad for name, p in model.named_parameters()})


def test_exports():
    model = random_model()
    ids, mask = random_ids(2, 32), torch.ones(2, 32, dtype=torch.long)
    mask[0, :6] = 0
    program = torch.export.export(model, (), {"input_ids": ids, "attention_mask": mask, "use_cache": False})
    other = mask.flip(1)
    logits = program.module()(input_ids=ids, attention_mask=other, use_cache=False).logits
    torch.testing.assert_close(logits[other == 1], model(ids, other).logits[other == 1], rtol=1e-5, atol=1e-5)


def test_exports_for_every_length():
    model = random_model()
    length = torch.export.Dim("length", min=2, max=model.config.max_seq_len)
    program = torch.export.export(model, (random_ids(2, 32),), dynamic_shapes={"input_ids": {1: length}})
    for n in (2, 31, 66):
        ids = random_ids(2, n)
        torch.testing.assert_close(program.module()(ids).logits, model(ids).logits, rtol=1e-5, atol=1e-5)


def test_resized_embeddings(tmp_path):
    model = random_model()
    ids = random_ids(1, 20)
    before = model(ids).logits
    model.resize_token_embeddings(17)
    assert model.config.vocab_size == 17 and model.lm_head.weight.shape == (17, 16)
    torch.testing.assert_close(model(ids).logits[..., :16], before)
    ids[0, 3] = 16
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(HyenaDNAForCausalLM.from_pretrained(tmp_path)(ids).logits, model(ids).logits)


def test_tied_head(tmp_path):
    model = random_model(tie_word_embeddings=True)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    ids = random_ids(1, 20)
    torch.testing.assert_close(HyenaDNAForCausalLM.from_pretrained(tmp_path)(ids).logits, model(ids).logits)


def test_device_map(tmp_path):
    pytest.importorskip("accelerate")
    model = random_model()
    model.save_pretrained(tmp_path)
    mapped = HyenaDNAForCausalLM.from_pretrained(tmp_path, device_map="auto")
    batch = left_padded_batch()
    torch.testing.assert_close(mapped(**batch).logits, model(**batch).logits)


# ---------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"input_ids": random_ids(1, 67)}, r"67 tokens.*max_seq_len=66.*truncation=True"),
        ({"inputs_embeds": torch.zeros(1, 67, 16)}, r"`inputs_embeds` is 67 tokens.*max_seq_len=66"),
        ({"input_ids": torch.tensor([[7, 16]])}, r"`input_ids` holds 16 at position \(0, 1\).*\[0, 16\)"),
        ({"input_ids": torch.tensor([[7, -1]])}, r"`input_ids` holds -1"),
        ({"input_ids": random_ids(5)}, r"`input_ids` has shape \(5,\).*\(batch, length\)"),
        ({"input_ids": random_ids(2, 0)}, r"empty"),
        ({"inputs_embeds": torch.zeros(1, 5, 8)}, r"8 wide.*d_model is 16"),
        ({}, r"exactly one"),
        ({"input_ids": random_ids(1, 5), "inputs_embeds": torch.zeros(1, 5, 16)}, r"exactly one"),
        ({"input_ids": random_ids(2, 5), "attention_mask": torch.ones(2, 6)}, r"\(2, 6\).*\(2, 5\)"),
        ({"input_ids": random_ids(2, 5), "attention_mask": torch.ones(1, 1, 5, 5)}, r"\(1, 1, 5, 5\)"),
        (
            {"input_ids": random_ids(2, 5), "attention_mask": torch.tensor([[1] * 5, [0] * 5])},
            r"Row 1 of `attention_mask` is 0 everywhere",
        ),
        ({"input_ids": random_ids(2, 5), "past_key_values": object()}, r"`past_key_values`"),
    ],
)
def test_bad_input_is_named(inputs, message):
    with pytest.raises(ValueError, match=message):
        random_model(HyenaDNAModel)(**inputs)


@pytest.mark.parametrize("side", ["left", "right", "inside", "none"])
@torch.no_grad()
def test_checks_of_values_can_be_left_out(side, tmp_path):
    model = random_model()
    ids = random_ids(2, 20)
    mask = torch.ones_like(ids)
    pads = {"left": slice(0, 5), "right": slice(15, 20), "inside": slice(6, 9), "none": slice(0, 0)}[side]
    mask[1, pads] = 0
    expected = model(ids, attention_mask=mask, labels=ids)
    model.config.check_inputs = False
    out = model(ids, attention_mask=mask, labels=ids)
    torch.testing.assert_close(out.logits[mask.bool()], expected.logits[mask.bool()])
    torch.testing.assert_close(out.loss, expected.loss)

    with pytest.raises(IndexError):  # PyTorch's own, on a CPU
        model(torch.full((1, 3), 99))
    model(ids, attention_mask=torch.zeros_like(ids))

    # It is a setting of a run, not of a model.
    model.save_pretrained(tmp_path)
    assert "check_inputs" not in (tmp_path / "config.json").read_text()
    assert HyenaDNAForCausalLM.from_pretrained(tmp_path).config.check_inputs
    unchecked = HyenaDNAForCausalLM.from_pretrained(tmp_path, check_inputs=False)
    assert not unchecked.config.check_inputs
    assert not copy.deepcopy(unchecked).config.check_inputs


@pytest.mark.parametrize(
    ("cls", "config", "labels", "message"),
    [
        (HyenaDNAForCausalLM, {}, torch.full((2, 5), 16), r"`labels` holds 16.*\[0, 16\) or -100"),
        (HyenaDNAForCausalLM, {}, torch.zeros(2, 4, dtype=torch.long), r"\(2, 4\).*\(2, 5\)"),
        (HyenaDNAForTokenClassification, {}, torch.full((2, 5), 2), r"`labels` holds 2 at position \(0, 0\)"),
        (HyenaDNAForTokenClassification, {}, torch.zeros(2, dtype=torch.long), r"\(2,\)"),
        (HyenaDNAForSequenceClassification, {}, torch.tensor([0, 2]), r"`labels` holds 2 at position \(1,\)"),
        (HyenaDNAForSequenceClassification, {}, torch.tensor([0]), r"\(1,\).*single_label"),
        (
            HyenaDNAForSequenceClassification,
            {"num_labels": 1},
            torch.tensor([0.5, torch.nan]),
            r"nan.*finite",
        ),
        (
            HyenaDNAForSequenceClassification,
            {"num_labels": 3},
            torch.tensor([[0.5, 2, 0]] * 2),
            r"2.*between 0 and 1",
        ),
    ],
)
def test_bad_labels_are_named(cls, config, labels, message):
    with pytest.raises(ValueError, match=message):
        random_model(cls, **config)(random_ids(2, 5), labels=labels)


def test_an_impossible_override_is_named(golden):
    with pytest.raises(Exception, match="hyena_order"):
        hyenadna.HyenaDNAForCausalLM.from_pretrained(golden, hyena_order=1)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_traced_by_jit_is_the_same():
    model = random_model().requires_grad_(False)
    ids = random_ids(1, 21)
    with torch.no_grad():
        traced = torch.jit.trace(lambda ids: model(ids).logits, (ids,), check_trace=False)
        torch.testing.assert_close(traced(ids), model(ids).logits, rtol=1e-4, atol=1e-4)
