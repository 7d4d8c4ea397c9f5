"""The implicit filters of the Hyena operator: a small network over time gives each filter's values.

There are three ways to the same values: module by module
(`HyenaDNAFilter.forward(by_modules=True)`), as one differentiable operation in tiles of positions
(`_FilterOp`), and, without gradients, for a few channels at a time (`FilterValues`).

Shape suffixes: L length, E `emb_dim`, O `filter_order`, D `d_model`, M `hyena_order - 1`
convolutions, C = M * D.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .configuration_hyenadna import HyenaDNAConfig
from .long_convolution import Transform
from .transformers_api import is_tracing

# The filters of a block are kept between calls if they hold at most this many numbers: 16 MB in
# float32.
_KEPT_FILTERS = 2**22
# Their spectra are kept as well up to this many numbers: 2 MB of filters, 4 MB of spectra.
_KEPT_SPECTRA = 2**19
# Long filters are computed for this many channels at a time. Fewer would save memory, but each
# channel would cost more.
_CHANNELS_AT_A_TIME = 32


class HyenaDNAFilterLinear(nn.Linear):
    """A layer of a filter's MLP.

    It has a class of its own so that quantizers, which go by the exact class, pass over it.
    """


class HyenaDNASin(nn.Module):
    """`sin(freq * x)` with one learned frequency per feature."""

    def __init__(self, config: HyenaDNAConfig):
        super().__init__()
        self.freq = nn.Parameter(torch.empty(1, config.filter_order), requires_grad=config.train_freq)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.freq.to(x.dtype) * x)


class HyenaDNAPositionalEmbedding(nn.Module):
    """The time axis of a filter, and the features of it that the filter's MLP reads.

    Both follow from the configuration, so neither is a buffer: `from_pretrained` would leave
    garbage in a buffer, and a model in half precision would round it. Only a checkpoint whose `z`
    was trained has it, as a parameter.
    """

    def __init__(self, config: HyenaDNAConfig):
        super().__init__()
        self.config = config
        if config.train_positional_embedding:
            self.z = nn.Parameter(torch.empty(1, config.max_seq_len, config.emb_dim))

    def times(self, length: int, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
        """`t` of the first `length` of `max_seq_len` positions, from 0 to 1, of shape (length, 1)."""
        # Make the whole axis and cut it: `linspace` rounds each half from its own end.
        return torch.linspace(0, 1, self.config.max_seq_len, device=device, dtype=dtype)[:length, None]

    def analytic(
        self, length: int, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor]:
        """`z` (length, emb_dim) and `t` (length, 1): the first `length` of `max_seq_len` positions."""
        bands = (self.config.emb_dim - 1) // 2
        t = self.times(length, device, dtype)
        w = 2 * math.pi * torch.arange(length, device=device, dtype=dtype)[:, None] / self.config.max_seq_len
        f = torch.linspace(1e-4, bands - 1, bands, device=device, dtype=dtype)

        # The two published codes differ by 6e-8 in `z`, and three sine layers amplify that. So the
        # configuration says which of them made the checkpoint.
        if self.config.complex_positional_embedding:
            z = torch.exp(-1j * f * w)
            return torch.cat([t, z.real, z.imag], dim=-1), t
        return torch.cat([t, torch.cos(-f * w), torch.sin(-f * w)], dim=-1), t

    def forward(self, length: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        if self.config.train_positional_embedding:
            return self.z[0, :length].to(dtype), self.times(length, device, dtype)
        return self.analytic(length, device, dtype)


class HyenaDNAFilter(nn.Module):
    """The implicit filters (arXiv 2302.10866, equation 7).

    `k(t) = MLP(z(t)) * (exp(-t * |deltas|) + shift)`, computed in float32 (float64 for a float64
    model) and in this order, whatever the type of the model: each of the three sines, at frequency
    10, amplifies an error in its argument tenfold.
    """

    def __init__(self, config: HyenaDNAConfig):
        super().__init__()
        self.config = config
        width = config.d_model * (config.hyena_order - 1)
        self.bias = nn.Parameter(torch.empty(width))

        # The published model has the same sine module at 1, 3, 5, ... Transformers cannot save a
        # module that occurs twice in one layer. So here it is at 1 only, and is called after every
        # hidden layer. The identities keep the other layers at their published positions.
        layers = [HyenaDNAFilterLinear(config.emb_dim, config.filter_order), HyenaDNASin(config)]
        for _ in range(config.num_inner_mlps):
            layers += [HyenaDNAFilterLinear(config.filter_order, config.filter_order), nn.Identity()]
        self.implicit_filter = nn.Sequential(
            *layers, HyenaDNAFilterLinear(config.filter_order, width, bias=False)
        )

        self.pos_emb = HyenaDNAPositionalEmbedding(config)
        self._kept: _Kept | None = None  # see `evaluated`

    @property
    def dtype(self) -> torch.dtype:
        """The type that filters are computed in."""
        return torch.promote_types(self.bias.dtype, torch.float32)

    def deltas(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Return the decay rates, from slow to fast, of shape (d_model * (hyena_order - 1),).

        They are negative, as published. At 1.5 times the length of the axis the slowest channel has
        decayed to 1 %, the fastest at 0.3 times that length.
        """
        target = math.log(1e-2)
        return torch.linspace(target / 1.5, target / 0.3, self.bias.numel(), device=device, dtype=dtype)

    def skip(self) -> Tensor:
        """Return the weights of each convolution's own input, (hyena_order - 1, d_model).

        They are `D` in the paper.
        """
        return self.bias.to(self.dtype).unflatten(0, (-1, self.config.d_model))

    def forward(self, length: int, by_modules: bool = True) -> tuple[Tensor, Tensor]:
        """Return the filters, (hyena_order - 1, d_model, length), and the weights of their skips.

        Args:
            length: Number of lags, from 0.
            by_modules: Call the submodules instead of the one operation: for graphs, adapters and
                hooks.
        """
        with torch.autocast(self.bias.device.type, enabled=False):
            z_LE, t_L1 = self.pos_emb(length, self.bias.device, self.dtype)
            t_L = t_L1[:, 0]
            deltas_C = self.deltas(z_LE.device, z_LE.dtype)
            if by_modules:
                k_CL = self._call_modules(z_LE) * _window(t_L, deltas_C, self.config.modulation_shift)
            else:
                k_CL = self._as_one_op(z_LE, t_L, deltas_C)
        return k_CL.unflatten(0, (-1, self.config.d_model)), self.skip()

    def _call_modules(self, z_LE: Tensor) -> Tensor:
        """Return the output of the MLP, (C, L), by calling its layers."""
        modules = list(self.implicit_filter)
        *layers, last = modules[::2]
        sin = modules[1]
        h_LO = z_LE
        for layer in layers:
            h_LO = sin(_call_linear(layer, h_LO))
        return _call_linear(last, h_LO).T

    def _as_one_op(self, z_LE: Tensor, t_L: Tensor, deltas_C: Tensor) -> Tensor:
        """Return the filters, (C, L), from the layers' weights."""
        mlp = self._weights(z_LE.dtype)
        layers = [tensor for layer in mlp.layers for tensor in layer]
        shift = self.config.modulation_shift
        return _FilterOp.apply(z_LE, t_L, deltas_C, shift, mlp.freq, mlp.last_CO, *layers)

    def _weights(self, dtype: torch.dtype) -> "_MLPWeights":
        """Return the weights of the MLP, whose modules must be untouched (`is_untouched`)."""
        # By base class: a plain linear layer in the place of ours must not be left out.
        *layers, last = [module for module in self.implicit_filter if isinstance(module, nn.Linear)]
        [sin] = [module for module in self.implicit_filter if isinstance(module, HyenaDNASin)]
        return _MLPWeights(
            layers=[(layer.weight.to(dtype), layer.bias.to(dtype)) for layer in layers],
            freq=sin.freq.to(dtype),
            last_CO=last.weight.to(dtype),
        )

    # -- without gradients

    def evaluated(self, length: int) -> "FilterValues":
        """Return the filters without gradients. The modules must be untouched (`is_untouched`).

        Small filters are kept until a weight or the length changes. To notice that, the weights are
        compared with a copy: a version counter would miss a write to `weight.data`.
        """
        if self.bias.numel() * length > _KEPT_FILTERS or self.bias.device.type != "cpu":
            return FilterValues(self, length, _CHANNELS_AT_A_TIME)

        settings = (
            self.config.max_seq_len,
            self.config.modulation_shift,
            self.config.complex_positional_embedding,
        )
        state = (length, *settings)
        weights = list(self.parameters())
        kept = self._kept  # read once: another thread may replace it at any moment
        if kept is not None and kept.state == state and all(map(_same, kept.weights, weights)):
            return kept.values

        copies = [weight.detach().clone() for weight in weights]
        values = FilterValues(self, length, self.config.d_model)
        self._kept = _Kept(state, copies, values)
        return values

    def features(self, length: int) -> tuple[Tensor, Tensor]:
        """Return the input of the MLP's last layer, (length, filter_order), and its weight."""
        z_LE, _ = self.pos_emb(length, self.bias.device, self.dtype)
        mlp = self._weights(z_LE.dtype)
        *layers, (last_weight, last_bias) = mlp.layers
        h_LO = z_LE.new_empty(length, self.config.filter_order)
        for i in _tiles(z_LE):
            h = z_LE[i]
            for weight, bias in layers:
                h = torch.addmm(bias, h, weight.T).mul_(mlp.freq).sin_()
            torch.sin(torch.addmm(last_bias, h, last_weight.T).mul_(mlp.freq), out=h_LO[i])
        return h_LO, mlp.last_CO

    def __getstate__(self) -> dict:
        # Leave the kept filters out of copies and pickles: they can be computed again.
        return {**self.__dict__, "_kept": None}


class _MLPWeights(NamedTuple):
    """Weights of the filters' MLP, all of one type."""

    layers: list[tuple[Tensor, Tensor]]  # weight and bias of each layer that a sine follows
    freq: Tensor
    last_CO: Tensor


class _Kept(NamedTuple):
    """Kept filters, with everything that they were computed from."""

    state: tuple  # the length, and the settings that matter
    weights: list[Tensor]
    values: "FilterValues"


class FilterValues:
    """The filters of one block at lags 0 to `length` - 1, for some channels at a time.

    They have no gradients. For a million lags, 128 channels at once would be 500 MB.

    Args:
        filter_fn: The block's filters.
        length: Number of lags.
        width: Number of channels to compute and to hold at a time.
    """

    @torch.no_grad()
    def __init__(self, filter_fn: HyenaDNAFilter, length: int, width: int):
        self.length = length
        self.width = width
        self.d_model = filter_fn.config.d_model
        self.shift = filter_fn.config.modulation_shift
        # `clone`, since `to` copies only where types differ: the weights may be trained further
        # while this object is kept.
        self.skip_MD = filter_fn.skip().detach().clone()
        self._spectra_MDF: Tensor | None = None

        # The hidden layers are narrow and the same for all channels: evaluate them once. The last
        # layer is wide, and is left to `_compute`.
        with torch.autocast(self.skip_MD.device.type, enabled=False):
            self._h_LO, last_CO = filter_fn.features(length)
        self._t_L = filter_fn.pos_emb.times(length, self._h_LO.device, self._h_LO.dtype)[:, 0]
        deltas_C = filter_fn.deltas(self._h_LO.device, self._h_LO.dtype)
        self._deltas_MD = deltas_C.unflatten(0, (-1, self.d_model))
        self._last_MDO = last_CO.unflatten(0, (-1, self.d_model))

        # The buffer, and the channels whose filters it holds: from start to stop.
        self._k_MDL = self._h_LO.new_empty(len(self._last_MDO), 0, length)
        self._start = 0
        self._stop = 0
        if width >= self.d_model:
            self._compute(0, self.d_model)
            # Everything is computed. Drop what it was computed from: weights that may change, and
            # the features.
            del self._h_LO, self._t_L, self._deltas_MD, self._last_MDO

    def values(self, channels: slice) -> tuple[Tensor, Tensor]:
        """Return filters (M, channels, length) and skips (M, channels) of these channels.

        The filters are valid until the next call.
        """
        stop = min(channels.stop, self.d_model)
        if not self._start <= channels.start < stop <= self._stop:
            self._compute(channels.start, min(self.d_model, max(channels.start + self.width, stop)))
        k_MDL = self._k_MDL[:, channels.start - self._start : channels.stop - self._start]
        return k_MDL, self.skip_MD[:, channels]

    def spectra(self, channels: slice, transform: Transform) -> Tensor:
        """Return spectra of filters and skips, (M, channels, frequencies), by a `Transform`."""
        # Filters that are kept between calls are transformed once. Others are used once.
        whole = self._stop - self._start == self.d_model
        if not whole or self._k_MDL.numel() > _KEPT_SPECTRA:
            return transform.filters(*self.values(channels))
        if self._spectra_MDF is None:
            self._spectra_MDF = transform.filters(self._k_MDL, self.skip_MD)
        return self._spectra_MDF[:, channels]

    def _compute(self, start: int, stop: int) -> None:
        """Write the filters of the channels from `start` to `stop` into the buffer."""
        last_CO = self._last_MDO[:, start:stop].flatten(0, 1)
        deltas_C = self._deltas_MD[:, start:stop].flatten()
        if self._k_MDL.shape[1] != stop - start:
            self._k_MDL = self._h_LO.new_empty(len(self._last_MDO), stop - start, self.length)
        k_CL = self._k_MDL.flatten(0, 1)
        with torch.autocast(k_CL.device.type, enabled=False):
            for i in _tiles(self._h_LO):
                torch.mul(
                    last_CO @ self._h_LO[i].T, _window(self._t_L[i], deltas_C, self.shift), out=k_CL[:, i]
                )
        self._start = start
        self._stop = stop


class _FilterOp(torch.autograd.Function):
    """The filters from the positional features, in tiles of positions.

    `k = W_last h * window` with `h = sin(freq * (W h + b))` from layer to layer; see
    `HyenaDNAFilter`. Nothing is kept for the backward pass but `z`: at a million positions the
    activations of one layer are 256 MB, and computing them again is cheap.
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
        weights = layers[::2]
        biases = layers[1::2]
        gz_LE = torch.empty_like(z_LE) if ctx.needs_input_grad[0] else None
        gfreq = torch.zeros_like(freq)
        glast_CO = torch.zeros_like(last_CO)
        g_weights = [torch.zeros_like(weight) for weight in weights]
        g_biases = [torch.zeros_like(bias) for bias in biases]

        for i in _tiles(z_LE):
            # 1. Run forward again. Keep the input of each layer, and the sum inside its sine.
            inputs = [z_LE[i]]
            sums = []
            for weight, bias in zip(weights, biases, strict=True):
                sums.append(torch.addmm(bias, inputs[-1], weight.T))
                inputs.append((freq * sums[-1]).sin_())

            # 2. Backwards through the window, which has no parameters, and the last layer.
            g_CL = gk_CL[:, i] * _window(t_L[i], deltas_C, ctx.shift)
            glast_CO.addmm_(g_CL, inputs.pop())
            g = g_CL.T @ last_CO

            # 3. Backwards through the sine layers: d sin(f s) = cos(f s) (f ds + s df). All frequencies of a
            # filter are one parameter, so their gradients add up over the layers.
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

        g_layers = (g for pair in zip(g_weights, g_biases, strict=True) for g in pair)
        return gz_LE, None, None, None, gfreq, glast_CO, *g_layers


def _tiles(z_LE: Tensor) -> list[slice]:
    """Return slices of the positions, small enough for their features to stay in the cache."""
    size = 2**12 if z_LE.device.type == "cpu" else 2**20
    return [slice(i, min(i + size, len(z_LE))) for i in range(0, len(z_LE), size)]


def _window(t_L: Tensor, deltas_C: Tensor, shift: float) -> Tensor:
    """Return the window of each filter, (channels, length): an exponential decay and a floor."""
    # In place: every further tensor would be as large as the filters themselves.
    return torch.mul(-deltas_C.abs()[:, None], t_L).exp_().add_(shift)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)


def _call_linear(module: nn.Module, x: Tensor) -> Tensor:
    """Apply a layer in the type of `x`.

    The module is called if its weights have that type, so that an adapter on it takes effect.

    Raises:
        ValueError: The weight was replaced by integers. Eight bits before a sine make every output
            wrong.
    """
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        kind = weight.dtype if isinstance(weight, Tensor) else type(module)
        raise ValueError(
            f"A layer of the Hyena filters was quantized ({kind}), which makes every output wrong: "
            "their sines amplify rounding a thousandfold. Exclude all layers with `filter_fn` in "
            "their name; they hold few weights. `from_pretrained(..., quantization_config=...)` excludes "
            "them unless told otherwise."
        )
    bias = getattr(module, "bias", None)
    if not is_tracing(x) and not type(weight).__module__.startswith("torch."):
        # A quantizer's tensor. Rounded weights do little harm, but its own `linear` would round the
        # inputs as well.
        return F.linear(x, weight.dequantize().to(x.dtype), bias)
    if weight.dtype == x.dtype:
        return module(x)
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
