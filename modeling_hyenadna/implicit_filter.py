"""The implicit filters of the Hyena operator: a small network over time gives the value of a filter at each lag.

Shape suffixes: L length, E `emb_dim`, O `filter_order`, D `d_model`, M `hyena_order - 1` convolutions.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_hyenadna import HyenaDNAConfig

# Numbers in the filters of one block up to which they are kept between calls: 16 MB.
_CACHED_FILTER = 2**22


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)


def _linear(module: nn.Linear, x: Tensor) -> Tensor:
    """The module in the type of `x`; a call where that is its own, for an adapter around it to have its effect."""
    if module.weight.dtype == x.dtype:
        return module(x)
    return F.linear(x, module.weight.to(x.dtype), None if module.bias is None else module.bias.to(x.dtype))


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

    def analytic(self, length: int, device: torch.device, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """`z` (length, emb_dim) and `t` (length, 1): the first `length` of `max_seq_len` positions."""
        max_seq_len, bands = self.config.max_seq_len, (self.config.emb_dim - 1) // 2
        # The whole axis and then its start: `linspace` rounds each half from its own end.
        t = torch.linspace(0, 1, max_seq_len, device=device, dtype=dtype)[:length, None]
        w = 2 * math.pi * torch.arange(length, device=device, dtype=dtype)[:, None] / max_seq_len
        f = torch.linspace(1e-4, bands - 1, bands, device=device, dtype=dtype)
        if self.config.complex_positional_embedding:
            z = torch.exp(-1j * f * w)
            return torch.cat([t, z.real, z.imag], dim=-1), t
        return torch.cat([t, torch.cos(-f * w), torch.sin(-f * w)], dim=-1), t

    def forward(self, length: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        z_LE, t_L1 = self.analytic(length, device, dtype)
        if self.config.train_positional_embedding:
            z_LE = self.z[0, :length].to(dtype)
        return z_LE, t_L1


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
        layers = [nn.Linear(config.emb_dim, config.filter_order), HyenaDNASin(config)]
        for _ in range(config.num_inner_mlps):
            layers += [nn.Linear(config.filter_order, config.filter_order), nn.Identity()]
        self.implicit_filter = nn.Sequential(*layers, nn.Linear(config.filter_order, width, bias=False))
        self.pos_emb = HyenaDNAPositionalEmbedding(config)
        self._cached = None

    def deltas(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Decay rates, from slow to fast, of shape (d_model * (hyena_order - 1),)."""
        target = math.log(1e-2)
        return torch.linspace(target / 1.5, target / 0.3, self.bias.numel(), device=device, dtype=dtype)

    def features(self, length: int) -> Tensor:
        """What the last layer of the filters' MLP reads, of shape (length, filter_order)."""
        z_LE, _ = self.pos_emb(length, self.bias.device, torch.promote_types(self.bias.dtype, torch.float32))
        sin, pieces = self.implicit_filter[1], []
        for h in z_LE.split(2**16):
            for layer in self.implicit_filter[:-1:2]:
                h = sin(_linear(layer, h))
            pieces.append(h)
        return torch.cat(pieces)

    def rows(self, h_LO: Tensor, channels: slice = slice(None)) -> Tensor:
        """The filters of some channels, of shape (hyena_order - 1, channels, length), from their features."""
        length, last, d_model = len(h_LO), self.implicit_filter[-1], self.config.d_model
        t_L = self.pos_emb.analytic(length, h_LO.device, h_LO.dtype)[1][:, 0]
        deltas = self.deltas(h_LO.device, h_LO.dtype).abs().unflatten(0, (-1, d_model))[:, channels]
        if channels == slice(None):
            k_MDL = _linear(last, h_LO).T.unflatten(0, (-1, d_model))
        else:
            k_MDL = last.weight.to(h_LO.dtype).unflatten(0, (-1, d_model))[:, channels] @ h_LO.T
        return k_MDL * torch.exp(-t_L * deltas[..., None]).add_(self.config.modulation_shift)

    def forward(self, length: int) -> tuple[Tensor, Tensor]:
        """The filters of all long convolutions, (hyena_order - 1, d_model, length), and the weights of their skips."""
        with torch.autocast(self.bias.device.type, enabled=False):
            k_MDL = self.rows(self.features(length))
        return k_MDL, self.bias.to(k_MDL.dtype).unflatten(0, (-1, self.config.d_model))

    def evaluated(self, length: int):
        """Without gradients: a function from a slice of the channels to their filters and skips.

        Filters that take up little memory are kept as long as neither a weight nor the length changes. The weights are
        compared with a copy of them: a counter of versions would miss a write to `weight.data`.
        """
        skip_MD = self.bias.to(torch.promote_types(self.bias.dtype, torch.float32)).unflatten(
            0, (-1, self.config.d_model)
        )
        if self.bias.numel() * length > _CACHED_FILTER or self.bias.device.type != "cpu":
            h_LO = self.features(length)
            return lambda channels: (self.rows(h_LO, channels), skip_MD[:, channels])
        state = (length, self.config.max_seq_len, self.config.modulation_shift)
        weights = list(self.parameters())
        cached = self._cached  # read once: another thread may put its own in the place
        if cached is None or cached[0] != state or not all(map(_same, cached[1], weights)):
            cached = self._cached = (state, [w.detach().clone() for w in weights], self(length)[0].contiguous())
        k_MDL = cached[2]
        return lambda channels: (k_MDL[:, channels], skip_MD[:, channels])

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_cached": None}
