"""The generation cache against full passes: every position, any split, any batch."""

import copy

import pytest
import torch
from torch import nn
from transformers import DynamicCache

from hyenadna import (
    HyenaDNAConfig,
    HyenaDNAForCausalLM,
    HyenaDNAForSequenceClassification,
    HyenaDNAForTokenClassification,
    HyenaDNAModel,
    implicit_filter,
)
from hyenadna.cache_hyenadna import HyenaDNACacheLayer, branches
from hyenadna.transformers_api import CACHE

from . import reference
from .conftest import checkpoint_activations, random_ids, random_model

LENGTH = 150


def chunked(model, sizes, mask=None, cache=None, **inputs):
    """Logits of all positions, by calls on chunks of these sizes, the last of them again and again
    to the end.
    """
    (name, x), sizes, start, logits = *inputs.items(), list(sizes), 0, []
    cache = DynamicCache(config=model.config) if cache is None else cache
    with torch.no_grad():
        while start < x.shape[1]:
            size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
            here = {name: x[:, start : start + size]}
            if mask is not None:
                here["attention_mask"] = mask[:, : start + size]
            logits.append(model(**here, past_key_values=cache).logits)
            start += size
    assert cache.get_seq_length() == x.shape[1]
    return torch.cat(logits, dim=1)


def full(model, **inputs):
    with torch.no_grad():
        return model(**inputs).logits


def assert_equal(a, b, dtype):
    """To 1e-10 in float64, 1e-4 in float32, and a few roundings in bfloat16."""
    scale = max(1.0, float(b.abs().max()))
    tolerance = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 0.05 * scale}[dtype]
    assert (a - b).abs().max() <= tolerance


SPLITS = [[1], [2], [3], [7], [64], [100, 1], [1, 40, 1, 2, 1, 1, 5, 33, 1], [LENGTH]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("hyena_order", [2, 3])
def test_any_split_gives_the_full_pass(hyena_order, dtype):
    model = random_model(max_seq_len=LENGTH, hyena_order=hyena_order, d_model=8).to(dtype)
    ids = random_ids(2, LENGTH)
    expected = full(model, input_ids=ids)
    assert expected.std() > 0.1
    for split in SPLITS if dtype == torch.float64 else SPLITS[::3]:
        assert_equal(chunked(model, split, input_ids=ids), expected, dtype)


def test_token_by_token_equals_the_papers_sums():
    """Against loops and Toeplitz matrices: nothing of the library's convolutions is in the
    comparison.
    """
    model = random_model(max_seq_len=80, hyena_order=3).double()
    ids = random_ids(1, 80)
    expected = reference.hidden_states(model, ids)[-1] @ model.lm_head.weight.T
    torch.testing.assert_close(chunked(model, [1], input_ids=ids), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    "config", [{"short_filter_order": 1}, {"short_filter_order": 5}, {"num_inner_mlps": 0}], ids=str
)
def test_other_sizes(config):
    model = random_model(max_seq_len=LENGTH, d_model=8, **config).double()
    ids = random_ids(1, LENGTH)
    for split in ([1], [3], [2, 1, 1, 70, 1]):
        assert_equal(chunked(model, split, input_ids=ids), full(model, input_ids=ids), torch.float64)


@pytest.mark.parametrize("split", [[1], [7], [20, 1], [40, 1], [64]], ids=str)
@pytest.mark.parametrize("hyena_order", [2, 3])
def test_unequal_prompts(hyena_order, split):
    model = random_model(max_seq_len=LENGTH, hyena_order=hyena_order, d_model=8).double()
    ids, mask = random_ids(3, LENGTH), torch.ones(3, LENGTH, dtype=torch.long)
    mask[1, :5], mask[2, :31] = 0, 0  # for most splits whole chunks of a row are pads
    logits = chunked(model, split, mask, input_ids=ids.masked_fill(mask == 0, 4))
    for row, keep, out in zip(ids, mask.bool(), logits, strict=True):
        assert_equal(out[keep], full(model, input_ids=row[keep][None])[0], torch.float64)


@pytest.mark.parametrize("cut", [[40, 1], [45, 30], [50, 1]], ids=str)
def test_pads_anywhere_in_the_first_call(cut):
    """A soft prompt, pads, tokens; and pads on the right: a later token must not take them for a
    gap.
    """
    model = random_model(max_seq_len=LENGTH, d_model=8).double()
    ids, mask = random_ids(3, 100), torch.ones(3, 100)
    mask[0, 10:30], mask[1, 35:40], mask[2, :3] = 0, 0, 0
    logits = chunked(model, cut, mask, input_ids=ids)
    for row, keep, out in zip(ids, mask.bool(), logits, strict=True):
        assert_equal(out[keep], full(model, input_ids=row[keep][None])[0], torch.float64)


def test_soft_prompts():
    model = random_model(max_seq_len=LENGTH, d_model=8).double()
    embeds = torch.cat(
        [torch.randn(2, 9, 8), model.get_input_embeddings()(random_ids(2, 60))], dim=1
    ).double()
    expected = full(model, inputs_embeds=embeds)
    for split in ([69], [9, 1], [4, 30, 1]):
        assert_equal(chunked(model, split, inputs_embeds=embeds), expected, torch.float64)
    cache = DynamicCache(config=model.config)
    chunked(model, [9], inputs_embeds=embeds[:, :9], cache=cache)
    with torch.no_grad():
        rest = model(random_ids(2, 60), past_key_values=cache).logits
    assert_equal(rest, expected[:, 9:], torch.float64)


def test_long_sequences_use_several_groups_of_channels(monkeypatch):
    """The blocks of a long sequence do not fit one buffer; here the buffer is small instead."""
    from hyenadna import cache_hyenadna

    def narrow(batch, channels, length, device):
        rows = [slice(b, b + 1) for b in range(batch)]
        return rows, [slice(c, min(c + 3, channels)) for c in range(0, channels, 3)]

    monkeypatch.setattr(cache_hyenadna, "channel_groups", narrow)
    model = random_model(max_seq_len=LENGTH, d_model=8, hyena_order=3).double()
    ids = random_ids(2, LENGTH)
    assert_equal(chunked(model, [50, 1], input_ids=ids), full(model, input_ids=ids), torch.float64)


def test_filters_stay_in_float32_under_autocast(monkeypatch):
    monkeypatch.setattr("hyenadna.implicit_filter._KEPT_FILTERS", 0)
    mixer = random_model().hyena.backbone.layers[0].mixer
    with torch.no_grad():
        k, _ = mixer.filters(60)
        with torch.autocast("cpu", torch.bfloat16):
            again, _ = mixer.filters(60)
    assert torch.equal(k, again)


def test_a_cache_goes_on_in_another_mode_and_leaves_an_earlier_graph_alone():
    model, ids = random_model(), random_ids(1, 40)
    expected = full(model, input_ids=ids)
    for made, continued in ((torch.inference_mode, torch.no_grad), (torch.no_grad, torch.inference_mode)):
        with made():
            cache = getattr(model(ids[:, :15], use_cache=True), CACHE)
        with continued():
            for cut in (slice(15, 30), slice(30, 40)):
                logits = model(ids[:, cut], past_key_values=cache).logits
                torch.testing.assert_close(logits, expected[:, cut], rtol=1e-4, atol=1e-4)
    first = model(ids[:, :15], use_cache=True)
    with torch.no_grad():
        model(ids[:, 15:], past_key_values=getattr(first, CACHE))
    first.logits.sum().backward()


def test_modules_with_hooks_and_adapters_are_called():
    """What is wrapped around a module has the same effect with and without a cache."""
    model = random_model(max_seq_len=LENGTH, d_model=8).double()
    ids = random_ids(1, 60)
    plain = full(model, input_ids=ids)
    mixer = model.hyena.backbone.layers[0].mixer
    for module in (mixer.in_proj, mixer.short_filter, mixer.filter_fn.implicit_filter[-1], mixer.out_proj):
        handle = module.register_forward_hook(lambda m, args, out: 1.5 * out)
        expected = full(model, input_ids=ids)
        assert (expected - plain).abs().max() > 1e-3
        for split in ([60], [1], [20, 1, 39]):
            assert_equal(chunked(model, split, input_ids=ids), expected, torch.float64)
        handle.remove()


def test_gradients_of_the_newest_call_are_those_of_a_full_pass():
    """With respect to what was passed in that call; what is in the cache is a constant."""
    model = random_model(max_seq_len=LENGTH, d_model=8).double()
    x = torch.randn(1, 40, 8, dtype=torch.double)
    for cut in (0, 25, 39):
        new = x[:, cut:].clone().requires_grad_()
        model(inputs_embeds=torch.cat([x[:, :cut], new], dim=1)).logits[:, cut:].square().sum().backward()
        expected, new.grad = new.grad, None
        cache = DynamicCache(config=model.config)
        if cut:
            model(inputs_embeds=x[:, :cut], past_key_values=cache)
        out = model(inputs_embeds=new, past_key_values=cache)
        out.logits.square().sum().backward()
        torch.testing.assert_close(new.grad, expected)
    model.zero_grad()
    model(inputs_embeds=x).logits.square().sum().backward()
    plain = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model(inputs_embeds=x, use_cache=True).logits.square().sum().backward()
    for name, p in model.named_parameters():
        if name in plain:
            torch.testing.assert_close(p.grad, plain[name], msg=name)


def test_hidden_states_come_in_the_callers_order():
    model = random_model(max_seq_len=LENGTH, d_model=8).double()
    ids, mask = random_ids(2, 40), torch.ones(2, 40)
    mask[0, 10:20] = 0
    with torch.no_grad():
        plain = model(ids, mask, output_hidden_states=True)
        cached = model(ids, mask, output_hidden_states=True, use_cache=True)
    for a, b in zip(plain.hidden_states, cached.hidden_states, strict=True):
        torch.testing.assert_close(a[mask == 1], b[mask == 1])


@pytest.mark.parametrize(
    "cls",
    [HyenaDNAModel, HyenaDNAForCausalLM, HyenaDNAForSequenceClassification, HyenaDNAForTokenClassification],
)
def test_a_cache_is_made_only_on_request(cls):
    model, ids = random_model(cls), random_ids(1, 10)
    for kwargs in ({}, {"use_cache": False}, {"use_cache": None}):
        assert getattr(model(ids, **kwargs), CACHE, None) is None
    cache = DynamicCache(config=model.config)
    first, second = model(ids, past_key_values=cache), model(ids, past_key_values=cache)
    assert cache.get_seq_length() == 20
    assert not torch.equal(first[0], second[0])  # the second call follows the first
    if cls is not HyenaDNAForTokenClassification:  # its output has no such field
        assert getattr(first, CACHE) is cache
        assert getattr(model(ids, use_cache=True), CACHE).get_seq_length() == 10


@pytest.mark.parametrize("passed", [False, True])
def test_no_cache_while_activations_are_checkpointed(passed):
    """A block that runs again in the backward pass would add its positions once more, and continue
    itself.
    """
    model, ids = random_model(embed_dropout=0.0).double().train(), random_ids(2, 20)

    def gradients(**kwargs):
        model.zero_grad()
        out = model(ids, labels=ids, **kwargs)
        out.loss.backward()
        return out, {name: p.grad.clone() for name, p in model.named_parameters()}

    expected, plain = gradients()
    checkpoint_activations(model)
    out, checkpointed = gradients(
        **({"cache": DynamicCache(config=model.config)} if passed else {"use_cache": True})
    )
    torch.testing.assert_close(out.logits, expected.logits)
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, msg=name)
    assert getattr(out, CACHE).get_seq_length() == 0


def test_a_cache_in_use_and_checkpointed_activations():
    model, ids = random_model(embed_dropout=0.0).train(), random_ids(1, 20)
    expected = model(ids).logits
    checkpoint_activations(model)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():  # no block runs twice
        first = model(ids[:, :15], cache=cache).logits
        torch.testing.assert_close(first, expected[:, :15], rtol=1e-4, atol=1e-4)
    assert cache.get_seq_length() == 15
    with pytest.raises(ValueError, match=r"holds 15 positions.*checkpointed.*no_grad"):
        model(ids[:, 15:], cache=cache)
    model.eval()
    torch.testing.assert_close(model(ids[:, 15:], cache=cache).logits, expected[:, 15:], rtol=1e-4, atol=1e-4)


# -- what the library does with a cache


def after(model, cache, ids):
    """Logits of `ids` behind what is in a copy of the cache."""
    with torch.no_grad():
        return model(ids, past_key_values=copy.deepcopy(cache)).logits


@pytest.fixture(scope="module")
def model():
    return random_model(max_seq_len=LENGTH, d_model=8, hyena_order=3).double()


def filled(model, ids, sizes=(50, 1), record=False):
    cache = DynamicCache(config=model.config)
    if record:
        cache.activate_past_recording()
    chunked(model, sizes, input_ids=ids, cache=cache)
    return cache


def test_rows_are_reordered_repeated_and_selected(model):
    ids, new = random_ids(3, 70), random_ids(3, 20, seed=2)
    expected = full(model, input_ids=torch.cat([ids, new], dim=1))[:, 70:]
    for change, rows in (
        (lambda c: c.reorder_cache(torch.tensor([2, 0, 2])), [2, 0, 2]),
        (lambda c: c.batch_repeat_interleave(2), [0, 0, 1, 1, 2, 2]),
        (lambda c: c.batch_select_indices(torch.tensor([1])), [1]),
    ):
        cache = filled(model, ids)
        change(cache)
        assert_equal(after(model, cache, new[rows]), expected[rows], torch.float64)


@pytest.mark.parametrize("sizes", [(70,), (50, 1), (33, 1), (64, 6), (7,)], ids=str)
def test_cropped_positions_leave_no_trace(model, sizes):
    ids, new = random_ids(2, 70), random_ids(2, 60, seed=2)
    for count in (0, 1, 5, 19, 40, 69, 70):
        cache = filled(model, ids, sizes, record=True)
        cache.crop(-count)
        assert cache.get_seq_length() == 70 - count
        whole = torch.cat([ids[:, : 70 - count], new], dim=1)
        logits = chunked_after(model, cache, new)
        assert_equal(logits, full(model, input_ids=whole)[:, 70 - count :], torch.float64)


def test_the_number_to_crop_may_be_a_tensor(model):
    """As in the assisted decoding of Transformers 5.16. The length must stay a number of its own."""
    ids, new = random_ids(1, 70), random_ids(1, 60, seed=2)
    cache = filled(model, ids, record=True)
    cache.crop(torch.tensor(-5))
    assert all(type(layer.length) is int for layer in cache.layers)
    expected = full(model, input_ids=torch.cat([ids[:, :65], new], dim=1))[:, 65:]
    assert_equal(chunked_after(model, cache, new), expected, torch.float64)


def chunked_after(model, cache, ids, sizes=(3, 1, 1, 20, 1)):
    logits, start, sizes = [], 0, list(sizes)
    with torch.no_grad():
        while start < ids.shape[1]:
            size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
            logits.append(model(ids[:, start : start + size], past_key_values=cache).logits)
            start += size
    return torch.cat(logits, dim=1)


def test_what_cannot_be_cropped(model):
    cache = filled(model, random_ids(1, 40))
    for count, error, message in (
        (1, ValueError, "negative number"),
        (-41, ValueError, "40 positions"),
        (-3, RuntimeError, r"activate_past_recording"),
    ):
        with pytest.raises(error, match=message):
            cache.crop(count)
    cache.crop(0)
    assert cache.get_seq_length() == 40 and cache.layers[0].is_croppable
    cache = filled(model, random_ids(1, 40), record=True)
    cache.crop(-3)
    with pytest.raises(RuntimeError, match="crop them at once"):
        cache.crop(-3)
    chunked_after(model, cache, random_ids(1, 5))
    cache.crop(-5)
    assert cache.get_seq_length() == 37
    DynamicCache(config=model.config).crop(0)


@pytest.mark.parametrize("hyena_order", [2, 3])
def test_filters_too_long_to_be_kept(hyena_order, monkeypatch):
    """As behind more than 32,768 bases at d_model 128."""
    monkeypatch.setattr(implicit_filter, "_KEPT_FILTERS", 0)
    model = random_model(max_seq_len=LENGTH, hyena_order=hyena_order).double()
    ids = random_ids(2, LENGTH)
    expected = full(model, input_ids=ids)
    for split in ([100, 1], [30, 60, 7]):
        assert_equal(chunked(model, split, input_ids=ids), expected, torch.float64)


def test_reset_forgets_the_weights_too():
    model = random_model(max_seq_len=LENGTH, d_model=8).double()
    ids = random_ids(1, 60)
    cache = filled(model, ids)
    cache.reset()
    assert cache.get_seq_length() == 0
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.1)
    assert_equal(
        chunked(model, [20, 1], input_ids=ids, cache=cache), full(model, input_ids=ids), torch.float64
    )


def test_a_copy_goes_its_own_way_and_shares_the_filters(model):
    ids, new = random_ids(1, 60), random_ids(1, 40, seed=2)
    cache = filled(model, ids)
    twin = copy.deepcopy(cache)
    chunked_after(model, twin, random_ids(1, 40, seed=3))
    expected = full(model, input_ids=torch.cat([ids, new], dim=1))[:, 60:]
    assert_equal(chunked_after(model, cache, new), expected, torch.float64)
    assert cache.layers[0].filters is twin.layers[0].filters


def test_offloaded_and_fetched_again(model):
    ids, new = random_ids(1, 60), random_ids(1, 10, seed=2)
    cache = filled(model, ids)
    for layer in cache.layers:
        layer.offload()
        layer.prefetch()
    expected = full(model, input_ids=torch.cat([ids, new], dim=1))[:, 60:]
    assert_equal(after(model, cache, new), expected, torch.float64)


def test_update_appends_as_the_library_expects():
    layer = HyenaDNACacheLayer()
    layer.taps = 3
    keys, values = torch.randn(2, 1, 4, 5), torch.randn(2, 7, 12)
    kept, columns = layer.update(keys[..., :3], values[:, :5])
    torch.testing.assert_close(kept, keys[..., :3])
    kept, columns = layer.update(keys[..., 3:], values[:, 5:])
    torch.testing.assert_close(kept, keys)
    torch.testing.assert_close(columns, values[:, 5:])
    assert layer.get_seq_length() == 5 and layer.get_mask_sizes(2) == (7, 0) and layer.get_max_length() == -1
    with pytest.raises(ValueError, match="another model or batch"):
        layer.update(keys[:1], values[:1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("config", [{}, {"hyena_order": 3}, {"short_filter_order": 5}], ids=str)
def test_branches_follow_one_prefix_and_leave_it_as_it_was(config, dtype):
    model = random_model(max_seq_len=LENGTH, d_model=8, **config).to(dtype)
    ids, new = random_ids(3, 70), random_ids(5, 80, seed=2)
    for rows in (torch.tensor([2, 0, 0, 1, 2]), torch.zeros(5, dtype=torch.long)):
        past = ids if rows.any() else ids[:1]
        expected = full(model, input_ids=torch.cat([past[rows], new], dim=1))[:, 70:]
        cache = filled(model, past, (50, 1))
        for length in (1, 2, 80, 33, 80):
            with branches(cache, rows):
                assert_equal(
                    full(model, input_ids=new[:, :length], past_key_values=cache), expected[:, :length], dtype
                )
            assert cache.get_seq_length() == 70
        logits = chunked_after(model, cache, new[: len(past)])
        whole = full(model, input_ids=torch.cat([past, new[: len(past)]], dim=1))
        assert_equal(logits, whole[:, 70:], dtype)


def test_branches_of_a_model_that_is_wrapped(model):
    """A hook on a module keeps the fast block away."""
    ids, new, rows = random_ids(2, 40), random_ids(3, 30, seed=2), torch.tensor([1, 1, 0])
    expected = full(model, input_ids=torch.cat([ids[rows], new], dim=1))[:, 40:]
    called = []
    handle = model.hyena.backbone.layers[1].mlp.fc1.register_forward_hook(lambda *a: called.append(1))
    cache = filled(model, ids)
    with branches(cache, rows):
        for length in (1, 30):
            part = full(model, input_ids=new[:, :length], past_key_values=cache)
            assert_equal(part, expected[:, :length], torch.float64)
    handle.remove()
    assert called and cache.get_seq_length() == 40


def test_branches_that_cannot_be(model):
    with (
        pytest.raises(ValueError, match="nothing in the cache"),
        branches(DynamicCache(config=model.config), None),
    ):
        pass
    cache = filled(model, random_ids(2, 40))
    with pytest.raises(ValueError, match="holds 3 sequences"), branches(cache, torch.tensor([0, 1, 1])):
        full(model, input_ids=random_ids(2, 5), past_key_values=cache)
    assert all(layer.rows is None for layer in cache.layers)


def test_memory_grows_by_doubling_and_prefill_is_exact(model):
    cache = DynamicCache(config=model.config)
    chunked(model, [LENGTH - 30, 1], input_ids=random_ids(1, LENGTH - 30), cache=cache)
    layer = cache.layers[0]
    assert layer.keys.shape == (1, 2, 8, LENGTH - 30)
    sizes = set()
    for _ in range(30):
        chunked_after(model, cache, random_ids(1, 1), sizes=(1,))
        sizes.add(layer.keys.shape[-1])
    assert sizes == {2 * (LENGTH - 30)}
    # no further than the model goes
    assert layer.future.shape[-1] <= LENGTH and layer.filters.length <= LENGTH


def test_blocks_are_few():
    """The number of transforms of n single steps is n / 32 in all, and of any size n / 32 / 2^i."""
    model = random_model(max_seq_len=1100, d_model=2, n_layer=1)
    cache, sizes = DynamicCache(config=model.config), []
    layer = cache.layers[0]
    original = layer._contribute
    layer._contribute = lambda filters, start, end, *rest, **kwargs: (
        sizes.append(end - start),
        original(filters, start, end, *rest, **kwargs),
    )
    chunked(model, [1], input_ids=random_ids(1, 1024), cache=cache)
    assert len(sizes) <= 1024 / 32 + 6 and sum(sizes) <= 1024 / 2 * 6
    assert max(sizes) <= 1024


# -- bad input


def test_bad_input_is_named(model):
    ids = random_ids(2, 10)
    cache = filled(model, ids)
    for kwargs, message in (
        (
            {"input_ids": random_ids(2, LENGTH - 9)},
            rf"{LENGTH - 9} tokens.*10 are in the cache.*max_seq_len={LENGTH}",
        ),
        ({"input_ids": random_ids(3, 4)}, r"holds 2 sequences.*the input has 3"),
        (
            {"input_ids": random_ids(2, 4), "attention_mask": torch.ones(2, 4)},
            r"\(2, 4\).*follows 10 positions",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            model(**kwargs, past_key_values=cache)
        assert cache.get_seq_length() == 10  # nothing was added
    other = random_model(max_seq_len=LENGTH, d_model=4, hyena_order=3).double()
    with pytest.raises(ValueError, match=r"d_model=8, but the input has 2, 2 and 4"):
        other(ids, past_key_values=cache)


def test_caches_of_another_kind(model):
    ids = random_ids(1, 10)
    attention = DynamicCache()
    attention.update(torch.zeros(1, 1, 3, 4), torch.zeros(1, 1, 3, 4), 0)
    deeper = HyenaDNAConfig(d_model=8, n_layer=3, hyena_order=3)
    for cache in (attention, DynamicCache(config=deeper), ((ids, ids),)):
        with pytest.raises(ValueError, match=r"`past_key_values` is .*DynamicCache\(config=model.config\)"):
            model(ids, past_key_values=cache)
    empty = DynamicCache()  # made without a configuration
    assert_equal(
        chunked(model, [3, 1], input_ids=ids, cache=empty), full(model, input_ids=ids), torch.float64
    )


def test_the_configuration_drives_the_librarys_cache():
    config = HyenaDNAConfig(n_layer=3)
    assert config.layer_types == ["hyena"] * 3 and "layer_types" not in config.to_dict()
    cache = DynamicCache(config=config)
    assert [type(layer) for layer in cache.layers] == [HyenaDNACacheLayer] * 3
    assert config.use_cache is True and not cache.is_initialized and not cache.is_compileable


def test_a_module_in_training_mode_drops_out_the_same_inputs():
    model = random_model(max_seq_len=LENGTH, d_model=8, hyena_dropout=0.5).train()
    model.hyena.backbone.dropout = nn.Identity()
    ids = random_ids(1, 30)
    with torch.no_grad():
        torch.manual_seed(0)
        a = model(ids, use_cache=True).logits
        torch.manual_seed(1)
        b = model(ids, use_cache=True).logits
    assert not torch.equal(a, b)


# -- pads after tokens that are in the cache


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("hyena_order", [2, 3])
@pytest.mark.parametrize("ends", [[5, 9, 12], [40, 41, 80], [1, 2, 3, 4], [60, 61, 62, 63, 64, 100]], ids=str)
def test_pads_behind_a_cache_are_exact(ends, hyena_order, grad):
    """Turns of unequal length: what a row says next follows its own tokens, and not the pads of the
    last turn.
    """
    model = random_model(max_seq_len=LENGTH, hyena_order=hyena_order, d_model=8).double()
    ids = random_ids(4, ends[-1])
    mask = (torch.rand(4, ends[-1], generator=torch.Generator().manual_seed(0)) > 0.3).long()
    mask[:, 0] = 1
    mask[3] = 1
    mask[3, ends[0]] = 0  # one row with one pad, in front of a turn
    expected = full(model, input_ids=ids, attention_mask=mask)
    start, logits = 0, []
    cache = DynamicCache(config=model.config)
    with torch.set_grad_enabled(grad):
        for end in ends:
            out = model(ids[:, start:end], attention_mask=mask[:, :end], past_key_values=cache)
            logits.append(out.logits.detach())
            start = end
    logits = torch.cat(logits, dim=1)
    assert_equal(logits[mask.bool()], expected[mask.bool()], torch.float64)
    gap = full(model, input_ids=ids)  # the pads matter, or this test would say nothing
    assert (gap - expected)[mask.bool()].abs().max() > 1e-3


def test_pads_behind_what_branches_share_are_refused(model):
    cache = filled(model, random_ids(1, 10))
    mask = torch.tensor([[1] * 14, [1] * 10 + [0, 1, 1, 1]])
    with (
        branches(cache, torch.zeros(2, dtype=torch.long)),
        pytest.raises(ValueError, match="pads after the tokens"),
    ):
        model(random_ids(2, 4), attention_mask=mask, past_key_values=cache)
    assert cache.get_seq_length() == 10
