"""Whatever release of Transformers is installed: names of the cache, unknown arguments, and
releases yet to come.
"""

import contextlib
import subprocess
import sys
import warnings

import pytest
import torch
import transformers
from transformers import DataCollatorWithFlattening, DynamicCache
from transformers.generation import GenerationMixin

from hyenadna import (
    HyenaDNAForCausalLM,
    HyenaDNAForSequenceClassification,
    HyenaDNAForTokenClassification,
    HyenaDNAModel,
    transformers_api,
)
from hyenadna.inputs_hyenadna import OTHER_ARGUMENTS
from hyenadna.transformers_api import CACHE, NEWEST_TESTED

from .conftest import random_ids, random_model


def talkative() -> HyenaDNAForCausalLM:
    """A model whose greedy continuation does not repeat one base."""
    model = random_model(seed=11)
    with torch.no_grad():
        model.lm_head.weight.normal_(generator=torch.Generator().manual_seed(3))
    return model


HEADS = [
    HyenaDNAModel,
    HyenaDNAForCausalLM,
    HyenaDNAForSequenceClassification,
    HyenaDNAForTokenClassification,
]


# ------------------------------------------------------------------------------------ the two names


@pytest.mark.parametrize("name", ["past_key_values", "cache"])
@pytest.mark.parametrize("cls", HEADS)
@torch.no_grad()
def test_the_cache_goes_by_both_names(cls, name):
    model = random_model(cls, num_labels=3, pooling="last").double()
    ids = random_ids(2, 30)
    cache = DynamicCache(config=model.config)
    model(ids[:, :20], **{name: cache})
    output = model(ids[:, 20:], **{name: cache})
    assert cache.get_seq_length() == 30
    expected = model(ids)[0]
    if expected.ndim == 3:
        expected = expected[:, 20:]
    torch.testing.assert_close(output[0], expected)
    if cls is not HyenaDNAForTokenClassification:  # its output has no such field
        assert getattr(output, CACHE) is cache


def test_two_caches_in_one_call():
    model, ids = random_model(), random_ids(1, 10)
    cache = DynamicCache(config=model.config)
    model(ids, past_key_values=cache, cache=cache)  # both names, one cache
    assert cache.get_seq_length() == 10
    with pytest.raises(ValueError, match="two names of one argument"):
        model(ids, past_key_values=cache, cache=DynamicCache(config=model.config))
    with pytest.raises(ValueError, match="two names of one argument"):
        model.generate(ids, past_key_values=cache, cache=DynamicCache(config=model.config), max_new_tokens=1)


@pytest.mark.parametrize("name", ["past_key_values", "cache"])
def test_generate_continues_a_cache_by_both_names(name):
    model, ids = random_model(), random_ids(2, 20)
    expected = model.generate(ids, max_new_tokens=10, do_sample=False)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(ids[:, :15], **{name: cache})
    assert torch.equal(model.generate(ids, max_new_tokens=10, do_sample=False, **{name: cache}), expected)
    assert cache.get_seq_length() > 20


QUIET = """
import torch
from transformers import DynamicCache
from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM

model = HyenaDNAForCausalLM(HyenaDNAConfig(d_model=16, max_seq_len=66))
ids = torch.randint(7, 11, (2, 20))
model(ids, labels=ids, use_cache=True, output_hidden_states=True).loss.backward()
mask = torch.ones_like(ids)
mask[0, :5] = 0
settings = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
ways = [{}, {"num_beams": 2}, {"prompt_lookup_num_tokens": 3}]
ways += [{"prefill_chunk_size": 7}, {"use_cache": False}]
for more in ways:
    rows = slice(0, 1 if "prompt_lookup_num_tokens" in more else 2)
    model.generate(ids[rows], attention_mask=mask[rows], **settings, **more)
for name in ("past_key_values", "cache"):
    cache = DynamicCache(config=model.config)
    model(ids, **{name: cache})
    model.generate(torch.cat([ids, ids], dim=1), **{name: cache}, **settings)
model.generate(inputs_embeds=model.get_input_embeddings()(ids), **settings)
"""


def test_nothing_is_said_about_old_names():
    """In a process of its own: the library says such things once."""
    run = subprocess.run(
        [sys.executable, "-W", "error::FutureWarning", "-c", QUIET],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "past_key_values" not in run.stderr, run.stderr


# -------------------------------------------------------------------------------- unknown arguments


def test_what_is_let_through_changes_nothing():
    model, ids = random_model(), random_ids(2, 20)
    labels = torch.full_like(ids, -100)
    labels[:, :-1] = ids[:, 1:]
    given = {
        "output_hidden_states": True,
        "output_attentions": False,
        "return_dict": False,
        "num_items_in_batch": torch.tensor(38),
        "shift_labels": labels,
        "position_ids": torch.arange(20)[None],
        "token_type_ids": torch.zeros_like(ids),
    }
    assert set(given) == OTHER_ARGUMENTS
    expected = model(ids, labels=ids)
    for name, value in given.items():
        output = model(ids, labels=ids, **{name: value})
        torch.testing.assert_close(output[0], expected.loss)
        assert torch.equal(output[1], expected.logits)
    for cls in HEADS:
        other = random_model(cls, num_labels=3)
        assert torch.equal(other(ids, **given)[0], other(ids)[0])


@pytest.mark.parametrize("cls", HEADS)
def test_an_unknown_argument_is_named(cls):
    model, ids = random_model(cls), random_ids(1, 10)
    for name, value in (
        ("attention_msk", torch.ones(1, 10)),
        ("cu_seq_lens_q", torch.tensor([0, 10])),
        ("is_causal", False),
        ("use_cach", True),
    ):
        with pytest.raises(TypeError, match=rf"does not know `{name}`.*`attention_mask`.*`position_ids`"):
            model(ids, **{name: value})
        model(ids, **{name: None})  # nothing was asked for
    with pytest.raises(TypeError, match=r"A cache came as `cache_params`.*`past_key_values` or `cache`"):
        model(ids, cache_params=DynamicCache(config=model.config))
    with pytest.raises(ValueError, match="no attention"):
        model(ids, output_attentions=True)


def test_labels_without_a_head():
    with pytest.raises(TypeError, match="does not know `labels`"):
        random_model(HyenaDNAModel)(random_ids(1, 10), labels=random_ids(1, 10))


def test_token_types():
    model, ids = random_model(), random_ids(2, 10)
    with pytest.raises(ValueError, match=r"`token_type_ids`.*no segments"):
        model(ids, token_type_ids=torch.ones_like(ids))


# ----------------------------------------------------------------------------- padding-free batches


@pytest.mark.parametrize("cls", HEADS)
def test_a_batch_without_padding_is_refused(cls):
    rows = [{"input_ids": random_ids(1, n, seed=n)[0].tolist()} for n in (7, 5, 9)]
    batch = DataCollatorWithFlattening()(rows)
    assert batch["input_ids"].shape == (1, 21)
    model = random_model(cls)
    with pytest.raises(
        ValueError, match=r"start again at position 7 of row 0.*Pad instead.*`attention_mask`"
    ):
        model(input_ids=batch["input_ids"], position_ids=batch["position_ids"])
    # one sequence
    model(input_ids=batch["input_ids"][:, :7], position_ids=batch["position_ids"][:, :7])


def test_positions_of_one_sequence_a_row():
    model, ids = random_model(), random_ids(2, 12)
    mask = torch.ones_like(ids)
    mask[0, :4], mask[1, 5:8] = 0, 0
    counted = mask.cumsum(1) - 1
    expected = model(ids, attention_mask=mask).logits
    for positions in (
        torch.arange(12)[None],
        torch.arange(12).expand(2, -1),
        torch.arange(12)[None] + 3,  # the distances are the same
        counted,
        counted.masked_fill(mask == 0, 0),  # what stands at pads is a matter of taste
        counted.masked_fill(mask == 0, 1),
    ):
        assert torch.equal(model(ids, attention_mask=mask, position_ids=positions).logits, expected)
    again = torch.arange(12).expand(2, -1).clone()
    again[1, 9:] = torch.arange(3)
    for positions, message in (
        (again, "start again at position 9 of row 1"),
        (torch.zeros_like(ids), "start again at position"),
        (torch.arange(11)[None], r"\(1, 11\).*\(2, 12\)"),
        (torch.arange(12), r"\(12,\).*\(2, 12\)"),
    ):
        with pytest.raises(ValueError, match=message):
            model(ids, attention_mask=mask, position_ids=positions)


def test_positions_behind_a_cache():
    model, ids = random_model(), random_ids(1, 20)
    cache, positions = DynamicCache(config=model.config), torch.arange(20)[None]
    expected = model(ids).logits
    mask = torch.ones_like(ids)
    with torch.no_grad():
        model(ids[:, :15], cache=cache, position_ids=positions[:, :15])
        logits = model(ids[:, 15:], attention_mask=mask, cache=cache, position_ids=positions[:, 15:]).logits
    torch.testing.assert_close(logits, expected[:, 15:], rtol=1e-4, atol=1e-4)
    generated = model.generate(ids, max_new_tokens=5, do_sample=False)
    assert torch.equal(
        model.generate(ids, max_new_tokens=5, do_sample=False, position_ids=positions), generated
    )


# --------------------------------------------------------------------------------- releases to come


@pytest.fixture
def newer_release(monkeypatch):
    monkeypatch.setattr(transformers, "__version__", "5.99.0")
    monkeypatch.setattr(transformers_api, "_cache_works", None)


@pytest.fixture(params=["passed on", "left to the model"])
def third_name(request, newer_release, monkeypatch):
    """A release that calls the cache `memory`, in `generate` and in the outputs; in one of them the
    model makes it.
    """
    prepare, update = (
        GenerationMixin._prepare_cache_for_generation,
        GenerationMixin._update_model_kwargs_for_generation,
    )

    def prepare_cache(self, generation_config, model_kwargs, *args, **kwargs):
        prepare(self, generation_config, model_kwargs, *args, **kwargs)
        cache = model_kwargs.pop(CACHE, None)
        if cache is not None and request.param == "passed on":
            model_kwargs["memory"] = cache

    def update_model_kwargs(self, outputs, model_kwargs, *args, **kwargs):
        model_kwargs = update(self, outputs, model_kwargs, *args, **kwargs)
        model_kwargs.pop(CACHE, None)
        return model_kwargs

    monkeypatch.setattr(GenerationMixin, "_prepare_cache_for_generation", prepare_cache)
    monkeypatch.setattr(GenerationMixin, "_update_model_kwargs_for_generation", update_model_kwargs)
    return request.param


def test_a_release_with_a_third_name_warns_and_generates_rightly(third_name):
    model, ids = talkative(), random_ids(2, 20)
    settings = {"max_new_tokens": 20, "min_new_tokens": 20, "do_sample": False}
    # A release that keeps a mask of ones, as 5.16 does, stops at its shape.
    told = (
        "A cache came as `memory`"
        if third_name == "passed on"
        else "(logits differ|`attention_mask` has shape)"
    )
    with pytest.warns(UserWarning, match=rf"Transformers 5\.99\.0.*{told}.*{NEWEST_TESTED}"):
        out = model.generate(ids, **settings)
    logits = model(out).logits[:, 19:-1, 7:12]  # the bases
    assert torch.equal(out[:, 20:], logits.argmax(-1) + 7)
    assert len(set(out[:, 20:].flatten().tolist())) > 1
    with warnings.catch_warnings():  # once
        warnings.simplefilter("error")
        assert torch.equal(model.generate(ids, **settings), out)
    with pytest.raises(ValueError, match="No cache can be continued"):
        model.generate(ids, **settings, cache=DynamicCache(config=model.config))


def test_without_the_check_such_a_release_would_be_wrong_or_an_error(third_name, monkeypatch):
    """The guard in `forward` travels in every folder, and stops what it sees; the rest is what the
    check is for.
    """
    monkeypatch.setattr(transformers_api, "_cache_works", True)
    model, ids = talkative(), random_ids(1, 20)
    settings = {"max_new_tokens": 20, "min_new_tokens": 20, "do_sample": False}
    if third_name == "passed on":
        with pytest.raises(TypeError, match=r"A cache came as `memory`.*5\.99\.0.*use_cache=False"):
            model.generate(ids, **settings)
        return
    expected = model.generate(ids, use_cache=False, **settings)
    # where a mask of ones is kept, and is too long for one token
    with contextlib.suppress(ValueError):
        assert not torch.equal(model.generate(ids, **settings), expected)


def test_a_newer_release_that_works_is_not_mentioned_and_nothing_is_disturbed(newer_release):
    model, ids = random_model(embed_dropout=0.0).train(), random_ids(1, 20)
    calls = []
    model.hyena.register_forward_hook(lambda *_: calls.append(1))
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.generate(ids, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training and len(calls) == 3  # of the caller's model only
    assert transformers_api._cache_works is True


def test_the_check_leaves_random_numbers_alone():
    state = torch.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16):
        assert transformers_api._toy_difference(HyenaDNAForCausalLM) < 1e-6
    assert torch.equal(torch.get_rng_state(), state)


def test_a_tested_release_is_not_checked(monkeypatch):
    monkeypatch.setattr(transformers_api, "_cache_works", None)
    monkeypatch.setattr(transformers_api, "_toy_difference", lambda _: pytest.fail("checked"))
    for version in ("5.16.0", NEWEST_TESTED):
        monkeypatch.setattr(transformers, "__version__", version)
        assert transformers_api.generates_with_cache(HyenaDNAForCausalLM)
