"""The operations that work in groups and tiles, against the same in one piece."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F

from hyenadna import HyenaDNAForCausalLM, feed_forward, fused_inference, implicit_filter, long_convolution
from hyenadna.modeling_hyenadna import is_untouched

from . import reference
from .conftest import random_ids, random_model


@pytest.fixture(params=["whole", "groups", "halves"])
def pieces(request, monkeypatch):
    """As it comes, where a small problem is one group and one tile; and cut into many, which may be
    halved if even.
    """
    if request.param != "whole":

        def groups(batch, channels, length, device):
            rows = [slice(b, b + 2) for b in range(0, batch, 2)]
            return rows, [slice(c, c + 3) for c in range(0, channels, 3)]

        for module in (long_convolution, fused_inference):
            monkeypatch.setattr(module, "channel_groups", groups)
        size = 6 if request.param == "halves" else 5
        for module in (feed_forward, fused_inference):
            monkeypatch.setattr(module, "tile_length", lambda length, width, device: size)
    return request.param


def plain_operator(p, in_bias, short, short_bias, k, skip, mask):
    q = p if in_bias is None else p + in_bias[:, None]
    if mask is not None:
        q = q.masked_fill(~mask[:, None], 0)
    s = F.conv1d(q, short[:, None], short_bias, padding=short.shape[1] - 1, groups=len(short))[
        ..., : q.shape[-1]
    ]
    *x, v = s.split(k.shape[1], 1)
    if mask is not None:
        v = v.masked_fill(~mask[:, None], 0)
    for o, gate in enumerate(reversed(x[1:])):
        v = long_convolution.long_convolution(v * gate, k[o], skip[o])
    return v * x[0]


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("length", [1, 2, 7, 16])
@pytest.mark.parametrize("masked", [False, True])
def test_gated_long_convolution_and_its_gradients(order, length, masked, pieces):
    generator = torch.Generator().manual_seed(order * length)

    def random(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()

    batch, channels, taps = 3, 7, 3
    wide = (order + 1) * channels
    inputs = [random(batch, wide, length), random(wide), random(wide, taps), random(wide)]
    inputs += [random(order - 1, channels, length), random(order - 1, channels)]
    mask = None
    if masked:
        mask = torch.ones(batch, length, dtype=torch.bool)
        mask[0, : length // 2] = False
    y = long_convolution.gated_long_convolution(*inputs, mask)
    expected = plain_operator(*inputs, mask)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-10 * expected.abs().max().item())
    g = torch.randn(y.shape, dtype=torch.float64, generator=generator)
    for a, b in zip(torch.autograd.grad(y, inputs, g), torch.autograd.grad(expected, inputs, g), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("order", [2, 3])
def test_gated_long_convolution_by_finite_differences(order, pieces):
    torch.manual_seed(0)
    shapes = [
        (2, (order + 1) * 4, 6),
        ((order + 1) * 4, 2),
        ((order + 1) * 4,),
        (order - 1, 4, 6),
        (order - 1, 4),
    ]
    p, short, bias, k, skip = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in shapes)
    mask = torch.tensor([[False, True, True, True, True, True], [True] * 6])
    assert torch.autograd.gradcheck(
        long_convolution.gated_long_convolution, (p, None, short, bias, k, skip, mask)
    )


def test_frozen_inputs_get_no_gradient():
    model = random_model()
    model.requires_grad_(False)
    embeds = model.get_input_embeddings()(random_ids(2, 20)).requires_grad_()
    model(inputs_embeds=embeds).logits.sum().backward()  # as a soft prompt does
    assert embeds.grad.abs().max() > 0 and all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("batch", [1, 3])
def test_projections_and_their_gradients(batch):
    torch.manual_seed(0)
    u, w, b = torch.randn(batch, 9, 4).double(), torch.randn(12, 4).double(), torch.randn(12).double()
    inputs = [x.requires_grad_() for x in (u, w, b)]
    there = long_convolution.project(u, w)
    back = long_convolution.project_back(u.transpose(1, 2), w, b)
    assert there.is_contiguous() and back.is_contiguous()  # what they are for
    expected = F.linear(u, w)
    torch.testing.assert_close(there, expected.transpose(1, 2))
    torch.testing.assert_close(back, expected + b)
    g = torch.randn_like(there)
    for a, e in zip(
        torch.autograd.grad(there, inputs[:2], g),
        torch.autograd.grad(F.linear(u, w).mT, inputs[:2], g),
        strict=True,
    ):
        torch.testing.assert_close(a, e)
    g = torch.randn_like(back)
    for a, e in zip(
        torch.autograd.grad(back, inputs, g), torch.autograd.grad(F.linear(u, w, b), inputs, g), strict=True
    ):
        torch.testing.assert_close(a, e)
    frozen = long_convolution.project(u, w.detach())
    torch.testing.assert_close(torch.autograd.grad(frozen.sum(), u)[0], w.detach().sum(0).expand_as(u))


@pytest.mark.parametrize(
    "config", [{}, {"train_positional_embedding": True, "hyena_order": 3}, {"train_freq": False}]
)
def test_filters_in_tiles_and_their_gradients(config, monkeypatch):
    """Against the modules called one after another, and those against the reference."""
    model = random_model(**config).double()
    filter_fn = model.hyena.backbone.layers[0].mixer.filter_fn
    expected, skip = filter_fn(40, by_modules=True)
    weights = [p for p in filter_fn.parameters() if p.requires_grad]
    p = {name: value.detach() for name, value in filter_fn.named_parameters()}
    torch.testing.assert_close(
        expected.detach(), reference.filters(p, model.config, 40), rtol=1e-10, atol=1e-10
    )
    monkeypatch.setattr(
        implicit_filter, "_tiles", lambda z: [slice(i, min(i + 7, len(z))) for i in range(0, len(z), 7)]
    )
    k, skip_too = filter_fn(40, by_modules=False)
    torch.testing.assert_close((k, skip_too), (expected, skip), rtol=1e-10, atol=1e-10)
    g = torch.randn_like(k)
    results = [
        torch.autograd.grad((x * g).sum() + y.sum(), weights) for x, y in ((k, skip_too), (expected, skip))
    ]
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_groups_cover_everything_once():
    for batch, channels, length in (
        (1, 128, 1026),
        (70, 128, 1026),
        (3, 100, 70_000),
        (1, 6, 450_002),
        (2, 1, 5),
    ):
        count = torch.zeros(batch, channels)
        rows, groups = long_convolution.channel_groups(batch, channels, length, torch.device("cpu"))
        for d in groups:
            for b in rows:
                count[b, d] += 1
        assert (count == 1).all()


def test_feed_forward_and_its_gradients(pieces):
    torch.manual_seed(0)
    shapes = [(2, 9, 4), (16, 4), (16,), (4, 16), (4,)]
    inputs = [torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in shapes]
    y = feed_forward.feed_forward(*inputs)
    x, w1, b1, w2, b2 = inputs
    expected = F.linear(F.gelu(F.linear(x, w1, b1), approximate="tanh"), w2, b2)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    g = torch.randn_like(y)
    for a, b in zip(torch.autograd.grad(y, inputs, g), torch.autograd.grad(expected, inputs, g), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("masked", [False, True])
def test_a_block_without_gradients(order, masked, pieces):
    model = random_model(hyena_order=order).double()
    ids, mask = random_ids(3, 33), None
    if masked:
        mask = torch.ones(3, 33, dtype=torch.long)
        mask[0, :11], mask[1, 30:] = 0, 0
    expected = model(ids, attention_mask=mask, output_hidden_states=True)
    with torch.no_grad():
        out = model(ids, attention_mask=mask, output_hidden_states=True)
    keep = slice(None) if mask is None else mask.bool()
    for a, b in zip(out.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(a[keep], b[keep], rtol=0, atol=1e-10)
    torch.testing.assert_close(out.logits[keep], expected.logits[keep], rtol=0, atol=1e-10)


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_blocks_that_write_over_the_stream(order, masked, pieces):
    """Where nobody asks for the states in between, each block after the first writes over its
    input.
    """
    model = random_model(hyena_order=order, n_layer=3).double()
    ids, mask = random_ids(3, 33), None
    if masked:
        mask = torch.ones(3, 33, dtype=torch.long)
        mask[0, :11], mask[1, 30:] = 0, 0
    expected = model(ids, attention_mask=mask).logits
    with torch.no_grad():
        logits = model(ids, attention_mask=mask).logits
    keep = slice(None) if mask is None else mask.bool()
    torch.testing.assert_close(logits[keep], expected[keep], rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, "autocast"])
@pytest.mark.parametrize("order", [2, 3])
def test_half_precision_without_gradients(dtype, order):
    model = random_model(hyena_order=order, d_model=32)
    ids = random_ids(2, 60)
    full = model(ids).logits
    if dtype == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            trained = model(ids).logits
            with torch.no_grad():
                out = model(ids).logits
    else:
        model.to(dtype)
        trained = model(ids).logits
        with torch.no_grad():
            out = model(ids).logits
    assert out.dtype == trained.dtype and out.isfinite().all()
    for other in (full, trained):
        assert (out.float() - other.float()).abs().max() < 0.1 * full.abs().max()


@torch.no_grad()
def test_kept_filters_follow_every_change():
    model = random_model()
    filter_fn = model.hyena.backbone.layers[0].mixer.filter_fn

    def check(length=40):
        kept = filter_fn.evaluated(length)
        k, skip = kept.values(slice(2, 9))
        fresh, fresh_skip = filter_fn(length)
        torch.testing.assert_close(k, fresh[:, 2:9], rtol=1e-5, atol=1e-6)
        assert torch.equal(skip, fresh_skip[:, 2:9]) and k.dtype == fresh.dtype
        fft = long_convolution.Transform(length, k.dtype, k.device)
        spectra = filter_fn.evaluated(length).spectra(slice(2, 9), fft)
        with_skip = fresh.clone()
        with_skip[..., 0] += fresh_skip
        torch.testing.assert_close(spectra, torch.fft.rfft(with_skip[:, 2:9], n=fft.n), rtol=1e-5, atol=1e-5)
        assert filter_fn.evaluated(length) is kept
        assert kept.spectra(slice(2, 9), fft).data_ptr() == spectra.data_ptr()
        return kept

    first = check()
    assert check() is first  # nothing changed: not computed again
    for change in (
        lambda: filter_fn.implicit_filter[2].weight.add_(0.1),
        lambda: filter_fn.implicit_filter[2].weight.data.add_(0.1),  # which no version counter sees
        lambda: setattr(filter_fn.implicit_filter[6].weight, "data", filter_fn.implicit_filter[6].weight * 2),
        lambda: filter_fn.implicit_filter[1].freq.mul_(1.1),
        lambda: filter_fn.load_state_dict({k: v * 1.1 for k, v in filter_fn.state_dict().items()}),
        lambda: filter_fn.bias.mul_(2),
        lambda: filter_fn.double(),
        lambda: filter_fn.float(),
        lambda: setattr(model.config, "modulation_shift", 0.5),
        lambda: setattr(model.config, "max_seq_len", 50),
    ):
        before = check()
        change()
        assert check() is not before
        assert check() is check()
    assert check(length=39) is not check(length=40)


def test_kept_filters_are_not_pickled_or_copied_into_files(tmp_path):
    model = random_model()
    with torch.no_grad():
        logits = model(random_ids(1, 30)).logits
        filter_fn = model.hyena.backbone.layers[0].mixer.filter_fn
        assert filter_fn._kept is not None
        for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
            assert other.hyena.backbone.layers[0].mixer.filter_fn._kept is None
            torch.testing.assert_close(other(random_ids(1, 30)).logits, logits)
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}


@torch.no_grad()
def test_large_filters_are_computed_for_each_group(monkeypatch, pieces):
    model = random_model(hyena_order=3)
    ids = random_ids(2, 60)
    logits = model(ids).logits
    monkeypatch.setattr(implicit_filter, "_KEPT_SPECTRA", 0)
    fresh = copy.deepcopy(model)
    torch.testing.assert_close(fresh(ids).logits, logits, rtol=1e-4, atol=1e-4)
    assert fresh.hyena.backbone.layers[0].mixer.filter_fn._kept[2]._spectra_MDF is None
    monkeypatch.setattr(implicit_filter, "_KEPT_FILTERS", 0)
    fresh = copy.deepcopy(model)
    torch.testing.assert_close(fresh(ids).logits, logits, rtol=1e-4, atol=1e-4)
    assert fresh.hyena.backbone.layers[0].mixer.filter_fn._kept is None


def test_what_is_wrapped_around_a_module_has_its_effect():
    """Hooks, adapters and offloading work on modules: their weights must then not be used behind
    their backs.
    """
    ids = random_ids(2, 20)
    for name in (
        "mixer.in_proj",
        "mixer.out_proj",
        "mlp.fc1",
        "mlp.fc2",
        "norm1",
        "mixer.filter_fn.implicit_filter.2",
    ):
        for grad in (True, False):
            model = random_model()
            with torch.set_grad_enabled(grad):
                before = model(ids).logits
                module = model.hyena.backbone.layers[0].get_submodule(name)
                assert is_untouched(module)
                handle = module.register_forward_hook(lambda module, args, out: out * 1.5)
                assert not is_untouched(module)
                changed = model(ids).logits
                handle.remove()
                assert (changed - before).abs().max() > 1e-4, (name, grad)
                torch.testing.assert_close(model(ids).logits, before)


def test_lora_has_its_effect_everywhere():
    peft = pytest.importorskip("peft")
    ids = random_ids(2, 20)
    plain = random_model()
    for target in ("in_proj", "out_proj", "fc1", "fc2", "implicit_filter.2"):
        base = copy.deepcopy(plain)
        lora = peft.get_peft_model(base, peft.LoraConfig(target_modules=[target], init_lora_weights=False))
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                adapted = lora(ids).logits
                assert (adapted - plain(ids).logits).abs().max() > 1e-4, target
        merged = lora.merge_and_unload()
        torch.testing.assert_close(merged(ids).logits, adapted, rtol=1e-4, atol=1e-4)


def test_offloaded_to_disk(tmp_path):
    pytest.importorskip("accelerate")
    model = random_model(n_layer=3)
    model.save_pretrained(tmp_path / "model")
    device_map = {"hyena.backbone.embeddings": "cpu", "hyena.backbone.ln_f": "cpu", "lm_head": "cpu"}
    device_map |= {f"hyena.backbone.layers.{i}": place for i, place in enumerate(("cpu", "disk", "disk"))}
    mapped = HyenaDNAForCausalLM.from_pretrained(
        tmp_path / "model", device_map=device_map, offload_folder=tmp_path / "offload"
    )
    assert any(p.is_meta for p in mapped.parameters())
    ids = random_ids(2, 30)
    with torch.no_grad():
        torch.testing.assert_close(mapped(ids).logits, model(ids).logits, rtol=1e-5, atol=1e-5)


def test_recorded_states_are_not_written_over():
    model = random_model(n_layer=3)
    ids = random_ids(1, 30)
    embeds = model.get_input_embeddings()(ids).detach()
    before = embeds.clone()
    with torch.no_grad():
        model(inputs_embeds=embeds)  # before a hook is there, so that blocks write over the stream
    assert torch.equal(embeds, before)
    with torch.no_grad():
        states = model(ids, output_hidden_states=True).hidden_states
        kept = [state.clone() for state in states]
        model(random_ids(1, 30, seed=9))
    for a, b in zip(states, kept, strict=True):
        assert torch.equal(a, b)
    for module in (model.hyena.backbone.layers[0], model.get_input_embeddings()):
        seen = []
        handle = module.register_forward_hook(lambda module, args, out: seen.append((out, out.clone())))  # noqa: B023
        with torch.no_grad():
            model(ids)
        handle.remove()
        assert torch.equal(*seen[0])


class Recorder(torch.nn.Module):
    """Around a module, without a hook: keeps what it returns."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.seen = inner, []

    def forward(self, *args, **kwargs):
        out = self.inner(*args, **kwargs)
        self.seen.append((out, out.clone()))
        return out


@torch.no_grad()
def test_what_others_keep_without_a_hook_is_not_written_over():
    ids = random_ids(1, 30)
    logits = random_model(n_layer=3)(ids).logits

    seen = []
    handle = torch.nn.modules.module.register_module_forward_hook(
        lambda module, args, out: seen.append((out, out.clone())) if isinstance(out, torch.Tensor) else None
    )
    try:
        torch.testing.assert_close(random_model(n_layer=3)(ids).logits, logits)
    finally:
        handle.remove()
    assert len(seen) > 10 and all(torch.equal(*pair) for pair in seen)

    model = random_model(n_layer=3)
    recorder = model.hyena.backbone.layers[1] = Recorder(model.hyena.backbone.layers[1])
    torch.testing.assert_close(model(ids).logits, logits)
    assert torch.equal(*recorder.seen[0])

    model = random_model(n_layer=3)
    model.set_input_embeddings(Recorder(model.get_input_embeddings()))
    torch.testing.assert_close(model(ids).logits, logits)
    assert torch.equal(*model.get_input_embeddings().seen[0])

    model = random_model(n_layer=3)
    block = model.hyena.backbone.layers[0]
    seen, forward = [], block.forward

    def recording(*args, **kwargs):
        out = forward(*args, **kwargs)
        seen.append((out, out.clone()))
        return out

    block.forward = recording
    torch.testing.assert_close(model(ids).logits, logits)
    assert torch.equal(*seen[0])


def test_tiles_are_aligned_and_no_power_of_two():
    for width in (64, 128, 256):
        most = 2**17 // width
        for length in (1, 7, 1026, 2048, 4096, 16_384, 65_536, 65_537, 450_002, 1_000_000):
            size = feed_forward.tile_length(length, width, torch.device("cpu"))
            assert size <= length or length < 16
            if size < length:
                assert size % 16 == 0 and size < most and size & (size - 1)
            else:
                assert length < 1.25 * most
