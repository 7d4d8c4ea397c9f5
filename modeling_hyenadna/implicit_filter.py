"""The implicit filters of the Hyena operator: a small network over time gives the value of a filter at each lag.

Shape suffixes: L length, E `emb_dim`, O `filter_order`, D `d_model`, M `hyena_order - 1` convolutions.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .configuration_hyenadna import HyenaDNAConfig

# Numbers in the filters of one block up to which they are kept between calls, 16 MB, and with their spectra, 2 + 4 MB.
_CACHED_FILTER, _CACHED_SPECTRA = 2**22, 2**19


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)


class HyenaDNAFilterLinear(nn.Linear):
    """A layer of a filter's MLP: a class of its own, because quantizers that go by the exact class have to skip it."""


def _linear(module: nn.Linear, x: Tensor) -> Tensor:
    """The module in the type of `x`; a call where that is its own, for an adapter around it to have its effect.

    Raises:
        ValueError: The weight was replaced by integers: 8 bits for what the sines read make every output wrong.
    """
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        kind = weight.dtype if isinstance(weight, Tensor) else type(module)
        raise ValueError(
            f"A layer of the Hyena filters was quantized ({kind}), which makes every output wrong: their sines amplify "
            "rounding a thousandfold. Leave out all layers with `filter_fn` in their name; they hold few weights. "
            "`from_pretrained(..., quantization_config=...)` does so by itself, unless it was told otherwise."
        )
    if type(weight).__module__.split(".")[0] != "torch":  # rounded weights do little harm, rounded inputs would
        return F.linear(x, weight.dequantize().to(x.dtype), module.bias)
    if weight.dtype == x.dtype:
        return module(x)
    return F.linear(x, weight.to(x.dtype), None if module.bias is None else module.bias.to(x.dtype))


class HyenaDNASin(nn.Module):
    """`sin(freq * x)` with one learned frequency per feature."""

    def __init__(self, config: HyenaDNAConfig):
        super().__init__()
        self.freq = nn.Parameter(torch.empty(1, config.filter_order), requires_grad=config.train_freq)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.freq.to(x.dtype) * x)


class HyenaDNAPositionalEmbedding(nn.Module):
    """The time axis of a filter, and the features of it that the filter's MLP reads.

    Both follow from the configuration, so neither is a buffer: `from_pretrained` would leave garbage in it and a half
    precision model would round it. Only a checkpoint that trained its `z` keeps it, as a parameter.
    """

    def __init__(self, config: HyenaDNAConfig):
        super().__init__()
        self.config = config
        if config.train_positional_embedding:
            self.z = nn.Parameter(torch.empty(1, config.max_seq_len, config.emb_dim))

    def times(self, length: int, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
        """`t` of the first `length` of `max_seq_len` positions, from 0 to 1, of shape (length, 1)."""
        # The whole axis and then its start: `linspace` rounds each half from its own end.
        return torch.linspace(0, 1, self.config.max_seq_len, device=device, dtype=dtype)[:length, None]

    def analytic(self, length: int, device: torch.device, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """`z` (length, emb_dim) and `t` (length, 1): the first `length` of `max_seq_len` positions."""
        max_seq_len, bands = self.config.max_seq_len, (self.config.emb_dim - 1) // 2
        t = self.times(length, device, dtype)
        w = 2 * math.pi * torch.arange(length, device=device, dtype=dtype)[:, None] / max_seq_len
        f = torch.linspace(1e-4, bands - 1, bands, device=device, dtype=dtype)
        if self.config.complex_positional_embedding:
            z = torch.exp(-1j * f * w)
            return torch.cat([t, z.real, z.imag], dim=-1), t
        return torch.cat([t, torch.cos(-f * w), torch.sin(-f * w)], dim=-1), t

    def forward(self, length: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        if self.config.train_positional_embedding:
            return self.z[0, :length].to(dtype), self.times(length, device, dtype)
        return self.analytic(length, device, dtype)


class _FilterValues(torch.autograd.Function):
    """The filters from the positional features, in tiles of positions: nothing is kept for the backward pass but `z`.

    `k = W_last h * window` with `h = sin(freq * (W h + b))` from layer to layer; see `HyenaDNAFilter`.
    """

    @staticmethod
    def forward(ctx, z_LE, t_L, deltas_C, shift, freq, last_CO, *layers):
        ctx.save_for_backward(z_LE, t_L, deltas_C, freq, last_CO, *layers)
        ctx.shift = shift
        k_CL = z_LE.new_empty(len(last_CO), len(z_LE))
        for i in _tiles(z_LE):
            h = z_LE[i]
            for weight, bias in zip(layers[::2], layers[1::2], strict=True):
                h = torch.addmm(bias, h, weight.T).mul_(freq).sin_()
            torch.mul(last_CO @ h.T, _window(t_L[i], deltas_C, shift), out=k_CL[:, i])
        return k_CL

    @staticmethod
    @once_differentiable
    def backward(ctx, gk_CL):
        z_LE, t_L, deltas_C, freq, last_CO, *layers = ctx.saved_tensors
        weights, biases = layers[::2], layers[1::2]
        gz_LE = torch.empty_like(z_LE) if ctx.needs_input_grad[0] else None
        gfreq, glast = torch.zeros_like(freq), torch.zeros_like(last_CO)
        g_weights, g_biases = [torch.zeros_like(w) for w in weights], [torch.zeros_like(b) for b in biases]
        for i in _tiles(z_LE):
            inputs, sums = [z_LE[i]], []
            for weight, bias in zip(weights, biases, strict=True):
                sums.append(torch.addmm(bias, inputs[-1], weight.T))
                inputs.append((freq * sums[-1]).sin_())
            g_CL = gk_CL[:, i] * _window(t_L[i], deltas_C, ctx.shift)
            glast.addmm_(g_CL, inputs.pop())
            g = g_CL.T @ last_CO
            for n in reversed(range(len(weights))):
                g = g.mul_((freq * sums[n]).cos_())
                gfreq += (g * sums[n]).sum(0)
                g = g.mul_(freq)
                g_weights[n].addmm_(g.T, inputs[n])
                g_biases[n] += g.sum(0)
                if n > 0:
                    g = g @ weights[n]
                elif gz_LE is not None:
                    torch.mm(g, weights[0], out=gz_LE[i])
        pairs = (g for pair in zip(g_weights, g_biases, strict=True) for g in pair)
        return gz_LE, None, None, None, gfreq, glast, *pairs


def _tiles(z_LE: Tensor) -> list[slice]:
    """Parts of the positions whose features fit the cache."""
    size = 2**12 if z_LE.device.type == "cpu" else 2**20
    return [slice(i, min(i + size, len(z_LE))) for i in range(0, len(z_LE), size)]


def _window(t_L: Tensor, deltas_C: Tensor, shift: float) -> Tensor:
    """The exponential decay that a filter is multiplied with, of shape (channels, length)."""
    return torch.mul(-deltas_C.abs()[:, None], t_L).exp_().add_(shift)


class HyenaDNAFilter(nn.Module):
    """The implicit filters: `k(t) = MLP(z(t)) * (exp(-t * |deltas|) + shift)` (arXiv 2302.10866, equation 7).

    Computed in float32 (float64 for a float64 model) and in this order whatever the type of the model: with frequency
    10 the sine layers amplify a rounding error a thousandfold.
    """

    def __init__(self, config: HyenaDNAConfig):
        super().__init__()
        self.config = config
        width = config.d_model * (config.hyena_order - 1)
        self.bias = nn.Parameter(torch.empty(width))
        # The published model has one sine at 1, 3, 5, ...: here 1 holds its frequency and serves the others, because
        # Transformers cannot save a module that is shared inside one layer.
        layers = [HyenaDNAFilterLinear(config.emb_dim, config.filter_order), HyenaDNASin(config)]
        for _ in range(config.num_inner_mlps):
            layers += [HyenaDNAFilterLinear(config.filter_order, config.filter_order), nn.Identity()]
        self.implicit_filter = nn.Sequential(*layers, HyenaDNAFilterLinear(config.filter_order, width, bias=False))
        self.pos_emb = HyenaDNAPositionalEmbedding(config)
        self._cached = None

    def deltas(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Decay rates, from slow to fast and negative as published, of shape (d_model * (hyena_order - 1),)."""
        target = math.log(1e-2)
        return torch.linspace(target / 1.5, target / 0.3, self.bias.numel(), device=device, dtype=dtype)

    def features(self, length: int) -> Tensor:
        """What the last layer of the filters' MLP reads, of shape (length, filter_order)."""
        z_LE, _ = self.pos_emb(length, self.bias.device, torch.promote_types(self.bias.dtype, torch.float32))
        freq, h_LO = self.implicit_filter[1].freq.to(z_LE.dtype), z_LE.new_empty(length, self.config.filter_order)
        layers = [(m.weight.to(z_LE.dtype), m.bias.to(z_LE.dtype)) for m in self.implicit_filter[:-1:2]]
        for i in _tiles(z_LE):
            h = z_LE[i]
            for weight, bias in layers:
                h = torch.addmm(bias, h, weight.T).mul_(freq)
                h = torch.sin(h, out=h_LO[i] if weight is layers[-1][0] else h)
        return h_LO

    def forward(self, length: int, plain: bool = True) -> tuple[Tensor, Tensor]:
        """The filters of all long convolutions, (hyena_order - 1, d_model, length), and the weights of their skips.

        Args:
            length: Lags 0 to length - 1.
            plain: Call the modules one after another, because they are traced or not what they were made as.
        """
        d_model, shift = self.config.d_model, self.config.modulation_shift
        with torch.autocast(self.bias.device.type, enabled=False):
            z_LE, t_L1 = self.pos_emb(length, self.bias.device, torch.promote_types(self.bias.dtype, torch.float32))
            t_L, deltas_C = t_L1[:, 0], self.deltas(z_LE.device, z_LE.dtype)
            *layers, last = self.implicit_filter[::2]
            if plain:
                h_LO, sin = z_LE, self.implicit_filter[1]
                for layer in layers:
                    h_LO = sin(_linear(layer, h_LO))
                k_CL = _linear(last, h_LO).T * _window(t_L, deltas_C, shift)
            else:
                weights = (w.to(z_LE.dtype) for layer in layers for w in (layer.weight, layer.bias))
                freq, weight = (w.to(z_LE.dtype) for w in (self.implicit_filter[1].freq, last.weight))
                k_CL = _FilterValues.apply(z_LE, t_L, deltas_C, shift, freq, weight, *weights)
        k_MDL = k_CL.unflatten(0, (-1, d_model))
        return k_MDL, self.bias.to(k_MDL.dtype).unflatten(0, (-1, d_model))

    def evaluated(self, length: int):
        """Without gradients: a function from a slice of the channels to their filters and skips.

        Filters that take up little memory are kept as long as neither a weight nor the length changes. The weights are
        compared with a copy of them: a counter of versions would miss a write to `weight.data`.
        """
        skip_MD = self.bias.to(torch.promote_types(self.bias.dtype, torch.float32)).unflatten(
            0, (-1, self.config.d_model)
        )
        if self.bias.numel() * length > _CACHED_FILTER or self.bias.device.type != "cpu":
            return self._in_blocks(length, skip_MD)
        k_MDL = self._kept(length)[2]
        return lambda channels: (k_MDL[:, channels], skip_MD[:, channels])

    def _kept(self, length: int) -> list:
        """What the filters depend on, the filters, and their spectra once somebody asked for them."""
        names = ("max_seq_len", "modulation_shift", "complex_positional_embedding")
        state = (length, *(getattr(self.config, name) for name in names))
        weights = list(self.parameters())
        cached = self._cached  # read once: another thread may put its own in the place
        if cached is None or cached[0] != state or not all(map(_same, cached[1], weights)):
            cached = self._cached = [state, [w.detach().clone() for w in weights], self(length)[0], None]
        return cached

    def spectra(self, length: int, fft):
        """As `evaluated`: a function from a slice of the channels to the spectra, by `fft`, of filters with skips."""
        if self.bias.numel() * length > _CACHED_SPECTRA or self.bias.device.type != "cpu":
            filters = self.evaluated(length)
            return lambda channels: fft.filters(*filters(channels))
        cached = self._kept(length)
        if cached[3] is None:
            k_MDL = cached[2]
            cached[3] = fft.filters(k_MDL, self.bias.to(k_MDL.dtype).unflatten(0, (-1, self.config.d_model)))
        return lambda channels: cached[3][:, channels]

    def _in_blocks(self, length: int, skip_MD: Tensor):
        """As `evaluated`, for long filters: computed for 32 channels at a time, fewer cost more each."""
        h_LO, d_model, shift = self.features(length), self.config.d_model, self.config.modulation_shift
        t_L = self.pos_emb.times(length, h_LO.device, h_LO.dtype)[:, 0]
        deltas_MD = self.deltas(h_LO.device, h_LO.dtype).unflatten(0, (-1, d_model))
        last_MDO = self.implicit_filter[-1].weight.to(h_LO.dtype).unflatten(0, (-1, d_model))
        k_MDL, start, stop = None, 0, 0

        def filters(channels):
            nonlocal k_MDL, start, stop
            if not start <= channels.start < channels.stop <= stop:
                start, stop = channels.start, min(d_model, max(channels.start + 32, channels.stop))
                last_CO, deltas_C = last_MDO[:, start:stop].flatten(0, 1), deltas_MD[:, start:stop].flatten()
                if k_MDL is None or k_MDL.shape[1] != stop - start:
                    k_MDL = h_LO.new_empty(len(last_MDO), stop - start, length)
                for i in _tiles(h_LO):
                    torch.mul(last_CO @ h_LO[i].T, _window(t_L[i], deltas_C, shift), out=k_MDL.flatten(0, 1)[:, i])
            return k_MDL[:, channels.start - start : channels.stop - start], skip_MD[:, channels]

        return filters

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_cached": None}
