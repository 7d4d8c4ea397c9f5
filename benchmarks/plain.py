"""HyenaDNA as the paper and the published code write it: the baseline of the benchmarks.

It works on whole tensors, one operation after another: FFTs of length 2 L over all channels,
`conv1d`, PyTorch's tanh GELU, positional features in buffers. There are no masks and no heads.
Parameters have the same names as in our model's backbone.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


class Filter(nn.Module):
    def __init__(self, d_model: int, max_seq_len: int, width: int = 64):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(d_model))
        self.freq = nn.Parameter(10 * torch.ones(1, width))
        self.layers = nn.ModuleList([nn.Linear(5, width), nn.Linear(width, width), nn.Linear(width, width)])
        self.out = nn.Linear(width, d_model, bias=False)
        t = torch.linspace(0, 1, max_seq_len)[None, :, None]
        w = 2 * math.pi * torch.arange(max_seq_len)[None, :, None] / max_seq_len
        f = torch.linspace(1e-4, 1, 2)[None, None]
        self.register_buffer("t", t)
        self.register_buffer("z", torch.cat([t, torch.cos(-f * w), torch.sin(-f * w)], dim=-1))
        deltas = torch.linspace(math.log(1e-2) / 1.5, math.log(1e-2) / 0.3, d_model)[None, None]
        self.register_buffer("deltas", deltas)

    def forward(self, length: int) -> torch.Tensor:
        h = self.z[:, :length]
        for layer in self.layers:
            h = torch.sin(self.freq * layer(h))
        return (self.out(h) * (torch.exp(-self.t[:, :length] * self.deltas.abs()) + 0.05))[0]


class Operator(nn.Module):
    def __init__(self, d_model: int, max_seq_len: int):
        super().__init__()
        self.in_proj = nn.Linear(d_model, 3 * d_model)
        self.short_filter = nn.Conv1d(3 * d_model, 3 * d_model, 3, groups=3 * d_model, padding=2)
        self.filter_fn = Filter(d_model, max_seq_len)
        self.out_proj = nn.Linear(d_model, d_model)

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        length = u.shape[1]
        x0, x1, v = self.short_filter(self.in_proj(u).transpose(1, 2))[..., :length].chunk(3, dim=1)
        k = self.filter_fn(length).T
        v = v * x1
        # Padded to twice the length: the circular convolution of the FFT becomes a causal one.
        n = 2 * length
        y = torch.fft.irfft(torch.fft.rfft(v, n=n) * torch.fft.rfft(k, n=n) / n, n=n, norm="forward")[
            ..., :length
        ]
        y = y + v * self.filter_fn.bias[:, None]
        return self.out_proj((y * x0).transpose(1, 2))


class Block(nn.Module):
    def __init__(self, d_model: int, max_seq_len: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.mixer = Operator(d_model, max_seq_len)
        self.fc1 = nn.Linear(d_model, 4 * d_model)
        self.fc2 = nn.Linear(4 * d_model, d_model)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        h = h + self.mixer(self.norm1(h))
        return h + self.fc2(F.gelu(self.fc1(self.norm2(h)), approximate="tanh"))


class Plain(nn.Module):
    """The backbone: ids `(batch, length)` -> hidden states `(batch, length, d_model)`."""

    def __init__(self, d_model: int, n_layer: int, max_seq_len: int):
        super().__init__()
        self.embed = nn.Embedding(16, d_model)
        self.layers = nn.ModuleList([Block(d_model, max_seq_len) for _ in range(n_layer)])
        self.ln_f = nn.LayerNorm(d_model)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        h = self.embed(ids)
        for layer in self.layers:
            h = layer(h)
        return self.ln_f(h)

    def load(self, backbone: nn.Module) -> "Plain":
        """Copy the weights of a `HyenaDNABackbone`, to compare outputs."""
        names = {"embeddings.word_embeddings": "embed", ".mlp.": ".", "implicit_filter.1.freq": "freq"}
        names |= {f"implicit_filter.{2 * i}": f"layers.{i}" for i in range(3)} | {"implicit_filter.6": "out"}
        state = {}
        for name, value in backbone.state_dict().items():
            for old, new in names.items():
                name = name.replace(old, new)
            state[name] = value
        missing = self.load_state_dict(state, strict=False)
        if missing.unexpected_keys or any(
            not k.endswith((".t", ".z", ".deltas")) for k in missing.missing_keys
        ):
            raise ValueError(f"the weights do not fit: {missing}")
        return self
