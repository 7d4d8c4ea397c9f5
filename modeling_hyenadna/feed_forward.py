"""The MLP of a block, in tiles of positions that stay in the cache: `fc2(gelu(fc1(x)))` with the tanh form of GELU."""

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# gelu(x) = x / 2 * (1 + tanh(z)) = x * sigmoid(2 z) with z = sqrt(2 / pi) * (x + 0.044715 x^3); sigmoid is far cheaper.
_C1 = 2 * math.sqrt(2 / math.pi)
_C3 = _C1 * 0.044715


def tile(width: int, device: torch.device) -> int:
    """How many positions of so many numbers to work on at a time."""
    return max(64, (2**17 if device.type == "cpu" else 2**26) // width)


def gelu_(x: Tensor) -> Tensor:
    """The tanh form of GELU, in place."""
    s = x * x
    return x.mul_(s.mul_(_C3).add_(_C1).mul_(x).sigmoid_())


def _gelu_and_slope(x: Tensor) -> tuple[Tensor, Tensor]:
    """`gelu(x)` and its derivative."""
    square = x * x
    s = (square * _C3).add_(_C1).mul_(x).sigmoid_()
    value = x * s
    slope = square.mul_(3 * _C3).add_(_C1).mul_(value).mul_(1 - s).add_(s)
    return value, slope


class _FeedForward(torch.autograd.Function):
    """Saves its input and `fc1(x)`, not the activation: a third less than the modules save one after another."""

    @staticmethod
    def forward(ctx, x, w1, b1, w2, b2):
        rows = x.flatten(0, -2)
        hidden = rows.new_empty(len(rows), len(w1))
        out = rows.new_empty(len(rows), len(w2))
        for r, h, o in zip(*(t.split(tile(w2.shape[0], x.device)) for t in (rows, hidden, out)), strict=True):
            torch.addmm(b1, r, w1.T, out=h)
            torch.addmm(b2, gelu_(h.clone()), w2.T, out=o)
        ctx.save_for_backward(x, hidden, w1, w2)
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx, g_out):
        x, hidden, w1, w2 = ctx.saved_tensors
        rows, g_rows = x.flatten(0, -2), g_out.flatten(0, -2)
        g_x, g_w1, g_w2 = torch.empty_like(rows), torch.zeros_like(w1), torch.zeros_like(w2)
        g_b1, g_b2 = w1.new_zeros(len(w1)), g_rows.sum(0)
        pieces = (t.split(tile(w2.shape[0], x.device)) for t in (rows, hidden, g_rows, g_x))
        for r, h, g, gr in zip(*pieces, strict=True):
            value, slope = _gelu_and_slope(h)
            g_w2.addmm_(g.T, value)
            gh = (g @ w2).mul_(slope)
            g_b1 += gh.sum(0)
            g_w1.addmm_(gh.T, r)
            torch.mm(gh, w1, out=gr)
        return g_x.view_as(x), g_w1, g_b1, g_w2, g_b2


def feed_forward(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """`gelu(x @ w1.T + b1) @ w2.T + b2`, for `x` of shape (..., d_model). All of one type. Once differentiable."""
    return _FeedForward.apply(x, w1, b1, w2, b2)
