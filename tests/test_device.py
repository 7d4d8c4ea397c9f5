"""The model on a second device against the CPU: its numbers, gradients, caches, files and commands.

It runs on whatever `torch.accelerator` finds: a GPU, or another device whose package is imported.
Without one it is skipped; `test_second_device.py` runs it on a device in the host's memory. The CPU
computes in float32 what the device is compared with.
"""

import copy
import warnings
from contextlib import contextmanager, nullcontext

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from transformers import DynamicCache, set_seed

from hyenadna import (
    HyenaDNAForCausalLM,
    HyenaDNAForSequenceClassification,
    HyenaDNAForTokenClassification,
    HyenaDNAModel,
    HyenaDNATokenizer,
)
from hyenadna.analysis import embed
from hyenadna.analysis.likelihoods import log_likelihoods
from hyenadna.training import cli

from .conftest import checkpoint_activations, random_ids, random_model
from .helpers.genomes import random_dna, write_fasta
from .helpers.recipes import make_rows

# Largest difference, relative to the largest number. Transforms and products add up in another order.
CLOSE = 1e-4
CLOSE_GRADIENT = 1e-3
HEADS = [HyenaDNAForCausalLM, HyenaDNAForSequenceClassification, HyenaDNAForTokenClassification]
MASKS = [None, "left", "right", "inside"]


def second_devices() -> list:
    """The types of the accelerators at hand, or one skipped parameter that says why there is none."""
    if torch.accelerator.is_available():
        return [torch.accelerator.current_accelerator().type]
    reason = "no second device: torch.accelerator.is_available() is false"
    return [pytest.param("none", marks=pytest.mark.skip(reason=reason))]


@pytest.fixture(params=second_devices())
def device(request):
    """A device type; products and convolutions there use all digits of float32."""
    with full_precision():
        yield request.param


@contextmanager
def full_precision():
    matmul = torch.backends.cuda.matmul
    cudnn = torch.backends.cudnn
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer releases have another name for both switches
        before = matmul.allow_tf32, cudnn.allow_tf32
        matmul.allow_tf32 = False
        cudnn.allow_tf32 = False
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        matmul.allow_tf32, cudnn.allow_tf32 = before


def copy_to(device: str, model):
    """Return a copy of the model there, which has kept nothing."""
    return copy.deepcopy(model).to(device)


def to(device: str, batch: dict) -> dict:
    return {name: value.to(device) for name, value in batch.items()}


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest difference, relative to the largest number of `one`."""
    one = one.detach().cpu().double()
    other = other.detach().cpu().double()
    assert one.shape == other.shape
    return ((one - other).abs().max() / one.abs().max().clamp(min=1e-30)).item()


def distance(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    """Return the norm of the differences, relative to that of `one`."""
    pairs = list(zip(one, other, strict=True))
    above = sum((a.detach().cpu().double() - b.detach().cpu().double()).square().sum() for a, b in pairs)
    below = sum(a.detach().cpu().double().square().sum() for a, _ in pairs)
    return (above / below).sqrt().item()


def make_mask(kind: str, batch: int, length: int) -> torch.Tensor:
    """Return a mask whose first row has no pad, and each row more than the one before."""
    mask = torch.ones(batch, length, dtype=torch.long)
    for row in range(1, batch):
        pads = row * length // (2 * batch)
        if kind == "left":
            mask[row, :pads] = 0
        elif kind == "right":
            mask[row, length - pads :] = 0
        else:
            mask[row, length // 3 : length // 3 + pads] = 0
    return mask


def make_batch(head=HyenaDNAForCausalLM, mask: str | None = None, length: int = 60) -> dict:
    """Return a batch of three sequences with labels."""
    ids = random_ids(3, length)
    labels = {
        HyenaDNAForCausalLM: ids,
        HyenaDNAForSequenceClassification: torch.tensor([0, 2, 1]),
        HyenaDNAForTokenClassification: ids % 3,
    }
    batch = {"input_ids": ids, "labels": labels[head]}
    if mask is not None:
        batch["attention_mask"] = make_mask(mask, *ids.shape)
    return batch


def step(model, batch: dict, context=None) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return the loss and the gradients of a batch, and leave none behind."""
    with context or nullcontext():
        loss = model(**batch).loss
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return loss.detach(), gradients


def check_same_step(model, other, batch: dict) -> None:
    """Compare loss and gradients on the CPU with those of the other model, on its device."""
    loss, gradients = step(model, batch)
    other_loss, other_gradients = step(other, to(other.device.type, batch))
    assert difference(loss, other_loss) < CLOSE
    assert len(gradients) == len(other_gradients) > 0
    for one, two in zip(gradients, other_gradients, strict=True):
        assert two.device.type == other.device.type
        assert difference(one, two) < CLOSE_GRADIENT


# ------------------------------------------------------------------------------ forward and backward


@pytest.mark.parametrize("hyena_order", [2, 3])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("head", HEADS)
def test_outputs_and_gradients_of_every_head(device, head, mask, hyena_order):
    labels = {} if head is HyenaDNAForCausalLM else {"num_labels": 3}
    model = random_model(head, hyena_order=hyena_order, embed_dropout=0.0, **labels)
    there = copy_to(device, model)
    batch = make_batch(head, mask)
    with torch.no_grad():
        expected = model(**batch)
        for _ in range(2):  # the second pass may use what the first one kept, and wrote over
            out = there(**to(device, batch))
            assert out.logits.device.type == device
            assert difference(expected.loss, out.loss) < CLOSE
            assert difference(real(expected.logits, batch), real(out.logits, batch)) < CLOSE
    check_same_step(model.train(), there.train(), batch)


def real(outputs: torch.Tensor, batch: dict) -> torch.Tensor:
    """Return the outputs of tokens: those of pads mean nothing."""
    mask = batch.get("attention_mask")
    return outputs if mask is None or outputs.ndim == 2 else outputs.cpu()[mask.cpu().bool()]


@pytest.mark.parametrize("pooling", ["mean", "last", "first", "max"])
@pytest.mark.parametrize("mask", MASKS)
def test_pooling(device, pooling, mask):
    model = random_model(HyenaDNAForSequenceClassification, pooling=pooling, num_labels=3)
    check_same_step(model, copy_to(device, model), make_batch(HyenaDNAForSequenceClassification, mask))


@pytest.mark.parametrize("length", [1030, 5000, 40_000])
def test_long_inputs(device, length):
    model = random_model(max_seq_len=50_000, d_model=32, embed_dropout=0.0)
    there = copy_to(device, model)
    ids = random_ids(1, length)
    with torch.no_grad():
        # A random filter does not decay, and rounding in a transform is relative to its largest number.
        assert difference(model(ids).logits, there(ids.to(device)).logits) < 3 * CLOSE
    loss, gradients = step(model, {"input_ids": ids, "labels": ids})
    other_loss, other_gradients = step(there, to(device, {"input_ids": ids, "labels": ids}))
    assert difference(loss, other_loss) < CLOSE
    assert distance(gradients, other_gradients) < CLOSE_GRADIENT


def test_hidden_states_and_embeddings_as_input(device):
    model = random_model(HyenaDNAModel)
    there = copy_to(device, model)
    ids = random_ids(2, 50)
    with torch.no_grad():
        expected = model(ids, output_hidden_states=True).hidden_states
        states = there(ids.to(device), output_hidden_states=True).hidden_states
        assert len(states) == 3
        for one, other in zip(expected, states, strict=True):
            assert difference(one, other) < CLOSE

    gradients = []
    for each in (model, there):
        embeds = torch.randn(2, 50, 16, generator=torch.Generator().manual_seed(0)).to(each.device)
        embeds.requires_grad_()
        each(inputs_embeds=embeds).last_hidden_state.square().sum().backward()
        gradients.append(embeds.grad)
    assert difference(*gradients) < CLOSE_GRADIENT


@pytest.mark.parametrize("hyena_order", [2, 3])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointed_activations(device, mask, hyena_order, use_reentrant):
    model = random_model(hyena_order=hyena_order, embed_dropout=0.0).train()
    there = copy_to(device, model)
    checkpoint_activations(there, {"use_reentrant": use_reentrant})
    check_same_step(model, there, make_batch(mask=mask))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("how", ["weights", "autocast", "autocast and checkpointing"])
def test_half_precision_is_as_good_there(device, how, dtype):
    """The measure is float32. Rounding differs, so the device may be up to twice as far from it."""
    exact = random_model(embed_dropout=0.0).train()
    batch = make_batch(mask="left")
    loss, gradients = step(exact, batch)
    with torch.no_grad():
        logits = real(exact(**batch).logits, batch)
    errors = []
    for place in ("cpu", device):
        model = copy_to(place, exact)
        if how == "weights":
            model.to(dtype)
        if "checkpointing" in how:
            checkpoint_activations(model)
        context = torch.autocast(place, dtype, enabled="autocast" in how)
        other_loss, other_gradients = step(model, to(place, batch), context)
        with torch.no_grad(), context:
            training = real(model(**to(place, batch)).logits, batch)
            fused = real(model.eval()(**to(place, batch)).logits, batch)
        assert fused.dtype == training.dtype == dtype
        errors.append(
            [
                distance([logits], [training]),
                distance([logits], [fused]),
                distance(gradients, other_gradients),
                difference(loss, other_loss),
            ]
        )
    for on_cpu, on_device in zip(*errors, strict=True):
        assert on_device < 2 * on_cpu + 1e-2


def test_dropout(device):
    model = random_model(embed_dropout=0.3, resid_dropout=0.3, hyena_dropout=0.3).to(device)
    batch = to(device, make_batch())
    model.train()
    set_seed(0)
    loss, gradients = step(model, batch)
    set_seed(0)
    again, _ = step(model, batch)
    other, _ = step(model, batch)
    assert torch.equal(loss, again) and not torch.equal(loss, other)
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_a_gradient_scaler(device):
    model = random_model().to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler(device)
    batch = to(device, make_batch())
    losses = []
    for _ in range(10):
        with torch.autocast(device, torch.float16):
            loss = model(**batch).loss
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_masks_and_labels_may_be_left_on_the_host(device):
    """The ids may not: PyTorch says so itself."""
    for head in HEADS:
        model = random_model(head, num_labels=3).to(device)
        batch = make_batch(head, "left")
        there = to(device, batch)
        expected = model(**there)
        out = model(**{**batch, "input_ids": there["input_ids"]})
        assert torch.equal(out.logits, expected.logits) and torch.equal(out.loss, expected.loss)
    with pytest.raises(RuntimeError, match="device"):
        model(**batch)


@pytest.mark.parametrize("wrong", ["ids", "labels", "class", "mask"])
def test_wrong_inputs_are_told_before_the_device_fails(device, wrong):
    """An index beyond a table ends the process on a GPU."""
    head = HyenaDNAForSequenceClassification if wrong == "class" else HyenaDNAForCausalLM
    model = random_model(head, num_labels=3).to(device)
    batch = to(device, make_batch(head, "left"))
    name = {"ids": "input_ids", "mask": "attention_mask"}.get(wrong, "labels")
    batch[name] = batch[name].clone()
    batch[name][-1] = 0 if wrong == "mask" else 99
    with pytest.raises(ValueError, match="no token" if wrong == "mask" else "has to be in"):
        model(**batch)
    # The device is as it was.
    assert model(random_ids(1, 9).to(device)).logits.isfinite().all()


# ------------------------------------------------------------------------------- waiting for the host


@contextmanager
def no_waiting(device: str):
    """Raise where the host waits for the device. PyTorch can tell on CUDA only; so can ours."""
    module = torch.get_device_module(device)
    if not hasattr(module, "set_sync_debug_mode"):
        pytest.skip(f"PyTorch does not report when the host waits for {device}")
    module.synchronize()
    module.set_sync_debug_mode("error")
    try:
        yield
    finally:
        module.set_sync_debug_mode("default")


@pytest.mark.parametrize("hyena_order", [2, 3])
@pytest.mark.parametrize("mask", [None, "left", "inside"])
@pytest.mark.parametrize("head", HEADS)
def test_no_pass_waits_for_the_host(device, head, mask, hyena_order):
    """With `check_inputs=False`, which leaves out the checks of values."""
    labels = {} if head is HyenaDNAForCausalLM else {"num_labels": 3}
    model = random_model(head, hyena_order=hyena_order, **labels).to(device)
    batch = to(device, make_batch(head, mask))
    with torch.no_grad():
        expected = model(**batch)
    model.config.check_inputs = False

    def passes():
        with torch.no_grad():
            model.eval()
            out = model(**batch)
        model.train()
        for context in (nullcontext(), torch.autocast(device, torch.bfloat16)):
            with context:
                loss = model(**batch).loss
            loss.backward()
        return out

    passes()  # libraries and plans are set up by the first call
    with no_waiting(device):
        out = passes()
    assert difference(expected.loss, out.loss) < CLOSE
    assert difference(real(expected.logits, batch), real(out.logits, batch)) < CLOSE


# ------------------------------------------------------------------------------ caches and generation


@torch.no_grad()
def read_in_chunks(model, ids, sizes: list[int], mask=None, cache=None):
    """Return the logits of all positions, and the cache. The last size is used as often as needed."""
    cache = DynamicCache(config=model.config) if cache is None else cache
    sizes = list(sizes)
    logits = []
    start = 0
    while start < ids.shape[1]:
        size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
        masked = {} if mask is None else {"attention_mask": mask[:, : start + size]}
        logits.append(model(ids[:, start : start + size], past_key_values=cache, **masked).logits)
        start += size
    return torch.cat(logits, dim=1), cache


@pytest.mark.parametrize("hyena_order", [2, 3])
@pytest.mark.parametrize("mask", [None, "left"])
@pytest.mark.parametrize("sizes", [[1], [64], [100, 1], [1, 40, 1, 2, 1, 1, 5, 33, 1]], ids=str)
def test_a_cache_gives_what_one_pass_gives(device, sizes, mask, hyena_order):
    model = random_model(hyena_order=hyena_order, max_seq_len=150)
    ids = random_ids(3, 150)
    batch = {"input_ids": ids}
    if mask is not None:
        batch["attention_mask"] = make_mask(mask, *ids.shape)
    with torch.no_grad():
        expected = model(**batch).logits
    on_device = to(device, batch)
    logits, _ = read_in_chunks(
        copy_to(device, model), on_device["input_ids"], sizes, on_device.get("attention_mask")
    )
    assert difference(real(expected, batch), real(logits, batch)) < CLOSE


def test_a_cache_is_reordered_cropped_and_moved(device):
    outputs = []
    model = random_model(max_seq_len=150)
    for place in ("cpu", device):
        there = copy_to(place, model)
        ids = random_ids(2, 140).to(place)
        _, cache = read_in_chunks(there, ids[:, :100], [40, 1, 1, 1, 30])
        cache.reorder_cache(torch.tensor([1, 0]))  # an index on the host
        cache.batch_repeat_interleave(2)
        cache.batch_select_indices(torch.tensor([0, 3], device=place))
        for layer in cache.layers:
            layer.offload()
            layer.prefetch()
        ids = ids.flip(0)
        after, _ = read_in_chunks(there, ids[:, 100:130], [1], cache=cache)
        assert cache.layers[0].keys.device.type == place
        cache.activate_past_recording()
        read_in_chunks(there, ids[:, 130:134], [4], cache=cache)
        cache.crop(-3)
        cropped, _ = read_in_chunks(there, ids[:, 131:134], [3], cache=cache)
        outputs.append((after, cropped))
    for one, other in zip(*outputs, strict=True):
        assert difference(one, other) < CLOSE


def scores_of(model, sequences: torch.Tensor, prompt: int, **batch) -> torch.Tensor:
    """Return each sequence's log-likelihood after the prompt by one pass on the CPU."""
    with torch.no_grad():
        log_p = model(sequences, **batch).logits[:, prompt - 1 : -1].log_softmax(-1)
    return log_p.gather(-1, sequences[:, prompt:, None]).sum((1, 2))


@pytest.mark.parametrize("mask", [None, "left"])
@pytest.mark.parametrize("settings", [{}, {"use_cache": False}, {"prefill_chunk_size": 16}], ids=str)
def test_greedy_generation(device, settings, mask):
    """Every token is the best one by a full pass on the CPU, or within rounding of it."""
    model = random_model(max_seq_len=150, seed=11)
    batch = {"input_ids": random_ids(3, 40)}
    if mask is not None:
        batch["attention_mask"] = make_mask(mask, 3, 40)
    there = copy_to(device, model)
    count = {"max_new_tokens": 60, "min_new_tokens": 60}
    out = there.generate(**to(device, batch), **count, do_sample=False, **settings)
    assert out.device.type == device and out.shape == (3, 100)
    out = out.cpu()
    whole = {}
    if mask is not None:
        whole["attention_mask"] = F.pad(batch["attention_mask"], (0, 60), value=1)
    with torch.no_grad():
        logits = model(out, **whole).logits[:, 39:-1]
    # The end of a sequence and what pads the vocabulary are never emitted here.
    allowed = logits.clone()
    allowed[..., [*model.generation_config.suppress_tokens, 1]] = -torch.inf
    chosen = allowed.gather(-1, out[:, 40:, None])[..., 0]
    assert (allowed.amax(-1) - chosen).max() < CLOSE * logits.abs().max()


def test_beam_search(device):
    model = random_model(max_seq_len=150, seed=11)
    ids = random_ids(2, 40)
    settings = {"num_beams": 4, "num_return_sequences": 2, "max_new_tokens": 20, "min_new_tokens": 20}
    scores = []
    for place in ("cpu", device):
        out = copy_to(place, model).generate(ids.to(place), do_sample=False, **settings)
        scores.append(scores_of(model, out.cpu(), 40))
    # Two beams may be within rounding of each other; their likelihoods are then the same.
    torch.testing.assert_close(*scores, rtol=CLOSE, atol=CLOSE)


def test_sampling_is_repeated_by_its_seed(device):
    model = random_model(max_seq_len=150, seed=11).to(device)
    ids = random_ids(2, 40).to(device)
    samples = []
    for seed in (0, 0, 1):
        set_seed(seed)
        samples.append(model.generate(ids, do_sample=True, top_k=4, max_new_tokens=50))
    assert torch.equal(samples[0], samples[1])
    assert samples[0].shape != samples[2].shape or not torch.equal(samples[0], samples[2])


# ------------------------------------------------------------------- moves, changed weights, and files


def test_kept_filters_follow_moves_and_changes(device):
    """A copy has kept nothing, so it tells what the model should give."""
    model = random_model()
    ids = random_ids(2, 60)

    def weight():  # asked for each time: a move may replace parameters
        return model.hyena.backbone.layers[0].mixer.filter_fn.implicit_filter[2].weight

    @torch.no_grad()
    def check():
        here = model.device
        logits = model(ids.to(here)).logits
        assert torch.equal(model(ids.to(here)).logits, logits)
        fresh = copy.deepcopy(model).cpu()
        assert difference(fresh(ids).logits, logits) < CLOSE
        return logits.cpu()

    before = check()
    model.to(device)
    assert difference(before, check()) < CLOSE
    for change in (
        lambda: weight().add_(0.1),
        lambda: weight().data.add_(0.1),  # which no version counter sees
        lambda: setattr(weight(), "data", weight() * 1.5),
        lambda: model.load_state_dict({k: v * 1.05 for k, v in model.state_dict().items()}),
        lambda: model.bfloat16().float(),
        lambda: setattr(model.config, "modulation_shift", 0.5),
        lambda: setattr(model.config, "max_seq_len", 61),
    ):
        before = check()
        with torch.no_grad():
            change()
        assert difference(before, check()) > CLOSE
    before = check()
    model.cpu()
    assert difference(before, check()) < CLOSE
    with torch.no_grad():
        weight().add_(0.1)
    check()
    model.to(device)
    check()


def test_training_after_inference_mode(device):
    model = random_model().to(device)
    batch = to(device, make_batch())
    with torch.inference_mode():
        model(**batch)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model(**batch).loss.backward()
    optimizer.step()
    model.eval()
    fresh = copy.deepcopy(model).cpu()
    with torch.inference_mode():
        logits = fresh(random_ids(3, 60)).logits
        assert difference(logits, model(batch["input_ids"]).logits) < CLOSE


def test_files_written_there_are_read_there(device, tmp_path):
    model = random_model()
    copy_to(device, model).save_pretrained(tmp_path)
    ids = random_ids(2, 60)
    with torch.no_grad():
        expected = model(ids).logits
        for place in ({}, {"device_map": device}, {"device_map": {"": device}}, {"device_map": "auto"}):
            again = HyenaDNAForCausalLM.from_pretrained(tmp_path, **place)
            assert again.device.type == (device if place else "cpu")
            assert difference(expected, again(ids.to(again.device)).logits) < CLOSE
    half = HyenaDNAForCausalLM.from_pretrained(tmp_path, device_map=device, dtype=torch.bfloat16)
    filters = [p for name, p in half.named_parameters() if "filter_fn" in name]
    assert half.lm_head.weight.dtype == torch.bfloat16
    assert {p.dtype for p in filters} == {torch.float32} and {p.device.type for p in filters} == {device}
    half(ids.to(device), labels=ids.to(device)).loss.backward()


def test_a_state_dict_goes_both_ways(device, tmp_path):
    model = random_model(train_positional_embedding=True)
    there = copy_to(device, model)
    torch.save(there.state_dict(), tmp_path / "weights.pt")
    state = torch.load(tmp_path / "weights.pt", map_location="cpu", weights_only=True)
    fresh = random_model(seed=1, train_positional_embedding=True)
    fresh.load_state_dict(state)
    for one, other in zip(model.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("mask", ["left", "right"])
@pytest.mark.parametrize(
    "adapter",
    [
        {"kind": LoraConfig, "r": 4, "init_lora_weights": False},
        {"kind": LoraConfig, "r": 4, "init_lora_weights": False, "target_modules": "all-linear"},
        {"kind": PromptTuningConfig, "num_virtual_tokens": 5},
    ],
    ids=["lora", "lora everywhere", "soft prompt"],
)
def test_adapters(device, adapter, mask, tmp_path):
    adapter = dict(adapter)
    settings = adapter.pop("kind")(task_type="SEQ_CLS", **adapter)
    base = random_model(HyenaDNAForSequenceClassification, num_labels=3, embed_dropout=0.0)
    torch.manual_seed(1)
    model = get_peft_model(copy.deepcopy(base), settings)
    there = copy_to(device, model)
    batch = make_batch(HyenaDNAForSequenceClassification, mask)
    losses = []
    for each, place in ((model, "cpu"), (there, device)):
        trained = [p for p in each.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=0.1)
        each.train()
        for _ in range(3):
            loss = each(**to(place, batch)).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss)
        each.eval()
    assert difference(*losses) < 10 * CLOSE
    there.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(copy_to(device, base), tmp_path).eval()
    del batch["labels"]
    with torch.no_grad():
        expected = model(**batch).logits
        assert difference(expected, there(**to(device, batch)).logits) < 10 * CLOSE
        assert difference(expected, again(**to(device, batch)).logits) < 10 * CLOSE


# ----------------------------------------------------------------------------- functions and commands


def sequences() -> list[str]:
    return [random_dna(20 + 5 * seed, seed, "ACGTN") for seed in range(7)]


@pytest.mark.parametrize("strand", ["forward", "reverse"])
def test_log_likelihoods(device, strand):
    model = random_model()
    one = log_likelihoods(model, sequences(), strand=strand, batch_bases=100)
    other = log_likelihoods(copy_to(device, model), sequences(), strand=strand, batch_bases=100)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


@pytest.mark.parametrize("pooling", ["mean", "last", "max"])
def test_embeddings(device, pooling):
    model = random_model(HyenaDNAModel, max_seq_len=40)
    one = embed(model, sequences(), pooling=pooling, batch_bases=100)
    other = embed(copy_to(device, model), sequences(), pooling=pooling, batch_bases=100)
    np.testing.assert_allclose(one, other, atol=1e-3)


@pytest.fixture
def folder(tmp_path):
    random_model(seed=5, max_seq_len=130).save_pretrained(tmp_path / "model")
    HyenaDNATokenizer(model_max_length=130).save_pretrained(tmp_path / "model")
    write_fasta(tmp_path / "x.fa", {f"s{i}": sequence for i, sequence in enumerate(sequences())})
    genome = random_dna(900)
    write_fasta(tmp_path / "g.fa", {"1": genome})
    lines = ["##fileformat=VCFv4.2", "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"]
    for position in range(100, 800, 70):  # from 1
        reference = genome[position - 1]
        alternative = "ACGT"[("ACGT".index(reference) + 1) % 4]
        lines.append(f"1\t{position}\t.\t{reference}\t{alternative},{reference}GG\t.\t.\t.")
    (tmp_path / "v.vcf").write_text("\n".join(lines) + "\n")
    return tmp_path


def run(*words) -> None:
    assert cli.main([str(word) for word in words]) == 0


def check_tables(one: pd.DataFrame, other: pd.DataFrame) -> None:
    assert len(one) > 0
    numbers = one.select_dtypes("number").columns
    assert len(numbers) > 0
    pd.testing.assert_frame_equal(one, other, rtol=1e-3, atol=2e-3)


def test_the_score_command(device, folder):
    files = ["--model", folder / "model", "--data", folder / "x.fa"]
    tables = []
    for place in ("cpu", device):
        out = folder / f"{place}.tsv"
        run("score", *files, "--output", out, "--device", place)
        tables.append(pd.read_csv(out, sep="\t"))
    check_tables(*tables)


VARIANTS = [["--vcf", "v.vcf"], ["--vcf", "v.vcf", "--share_prefix"], ["--mutagenesis", "1:300-320"]]


@pytest.mark.parametrize("flags", VARIANTS, ids=" ".join)
def test_the_variants_command(device, folder, flags, monkeypatch):
    monkeypatch.chdir(folder)
    tables = []
    for place in ("cpu", device):
        files = ["--model", "model", "--fasta", "g.fa", "--output_dir", place]
        run("variants", *files, *flags, "--window", 64, "--device", place)
        name = "mutagenesis.tsv" if "--mutagenesis" in flags else "variants.tsv"
        tables.append(pd.read_csv(folder / place / name, sep="\t"))
    check_tables(*tables)


def test_the_embed_command(device, folder):
    vectors = []
    for place in ("cpu", device):
        files = ["--model", folder / "model", "--data", folder / "x.fa", "--output_dir", folder / place]
        run("embed", *files, "--use_cpu", place == "cpu")
        vectors.append(np.stack(pd.read_parquet(folder / place / "embeddings.parquet")["embedding"]))
    np.testing.assert_allclose(*vectors, atol=1e-3)


QUICK = {"max_steps": 10, "per_device_train_batch_size": 8, "learning_rate": 1e-2, "seed": 3}
QUICK |= {"d_model": 16, "n_layer": 2, "embed_dropout": 0.0}
QUICK |= {"disable_tqdm": True, "save_strategy": "no", "eval_strategy": "no"}


def check_runs(folder, device: str, *words) -> None:
    """Train on the CPU and on the device, and compare the models."""
    runs = []
    for place in ("cpu", device):
        flags = [word for name, value in QUICK.items() for word in (f"--{name}", value)]
        run(*words, *flags, "--output_dir", folder / place, "--use_cpu", place == "cpu")
        runs.append(list(HyenaDNAModel.from_pretrained(folder / place).parameters()))
    # Adam divides small gradients by their own size, rounding errors included.
    assert distance(*runs) < 1e-2


def test_finetuning_ends_with_the_weights_of_the_cpu(device, tmp_path):
    make_rows(80).to_csv(tmp_path / "rows.csv", index=False)
    check_runs(tmp_path, device, "finetune", "--data", tmp_path / "rows.csv", "--max_seq_len", 40)


def test_pretraining_ends_with_the_weights_of_the_cpu(device, tmp_path):
    write_fasta(tmp_path / "g.fa", {"1": random_dna(3000), "2": random_dna(600, 1)})
    held_out = ["--validation", "2:0-300", "--test", "2:300-600"]
    check_runs(tmp_path, device, "pretrain", "--data", tmp_path / "g.fa", "--max_seq_len", 34, *held_out)
