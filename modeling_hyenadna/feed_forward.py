"""The MLP of a block, `fc2(gelu(fc1(x)))` with the tanh form of GELU, in tiles of positions.

A tile's inner activations, four times as wide as its input, stay in the processor's cache.
"""

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# The tanh form of GELU is x / 2 * (1 + tanh(z)) with z = sqrt(2 / pi) * (x + 0.044715 x^3). It
# equals x * sigmoid(2 z), and a sigmoid is far cheaper. In these constants, 2 z = x (c1 + c3 x^2).
_C1 = 2 * math.sqrt(2 / math.pi)
_C3 = _C1 * 0.044715


def compute_dtype(weight: Tensor, device: str) -> torch.dtype:
    """Return the type that a layer with this weight computes in: its own, or that of autocast."""
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return weight.dtype


def tile_length(length: int, width: int, device: torch.device) -> int:
    """Return the size of a tile in positions.

    A (tile, width) buffer fits in the L2 cache, and all tiles are about equal. The size is a
    multiple of 16, so that rows are aligned.
    """
    # 16 less than a power of two: at distances of a power of two, rows would compete for the same
    # lines of the cache.
    numbers = 2**17 if device.type == "cpu" else 2**26
    most = max(64, numbers // width) - 16
    if length < 1.25 * most:
        return length
    count = math.ceil(length / most)
    return math.ceil(length / (16 * count)) * 16


def gelu(x: Tensor) -> Tensor:
    """The tanh form of GELU."""
    return _polynomial(x).mul_(x).sigmoid_().mul_(x)


def _polynomial(x: Tensor) -> Tensor:
    """Return `c1 + c3 x^2`, in one pass."""
    # Filled there: `new_tensor` would copy it from the host, which waits for the device.
    return torch.addcmul(x.new_full((), _C1), x, x, value=_C3)


def _gelu_and_slope(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return `gelu(x)` and its derivative `s + value (1 - s) (c1 + 3 c3 x^2)`, in few passes."""
    # gelu = x s(x c) with c = c1 + c3 x^2 and s the sigmoid. Since s' = s (1 - s), the derivative
    # is s + x s (1 - s) (c1 + 3 c3 x^2), and c1 + 3 c3 x^2 = 3 (c - 2/3 c1).
    c = _polynomial(x)
    s = (c * x).sigmoid_()
    value = x * s
    rest = torch.addcmul(value, value, s, value=-1)
    return value, s.addcmul_(rest, c.sub_(2 / 3 * _C1), value=3)


def _training_tile(rows: Tensor, w2: Tensor) -> int:
    """Return twice the tile of inference: with few rows, the weights' gradients would be slow."""
    return 2 * tile_length(len(rows), len(w2), rows.device)


class _FeedForward(torch.autograd.Function):
    """Saves its input and `fc1(x)` for the backward pass, but not the activation.

    That is a third less than the modules save when they are called one by one.
    """

    @staticmethod
    def forward(ctx, x, w1, b1, w2, b2):
        rows = x.flatten(0, -2)
        hidden = rows.new_empty(len(rows), len(w1))
        out = rows.new_empty(len(rows), len(w2))
        size = _training_tile(rows, w2)
        for r, h, o in zip(*(t.split(size) for t in (rows, hidden, out)), strict=True):
            torch.addmm(b1, r, w1.T, out=h)
            torch.addmm(b2, gelu(h), w2.T, out=o)
        ctx.save_for_backward(x, hidden, w1, w2)
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx, g_out):
        x, hidden, w1, w2 = ctx.saved_tensors
        rows = x.flatten(0, -2)
        g_rows = g_out.flatten(0, -2)
        g_x = torch.empty_like(rows)
        g_w1 = torch.zeros_like(w1)
        g_w2 = torch.zeros_like(w2)
        g_b1 = w1.new_zeros(len(w1))
        g_b2 = g_rows.sum(0)

        weights_trained = any(ctx.needs_input_grad[1:])  # not with LoRA, for example
        size = _training_tile(rows, w2)
        for r, h, g, gr in zip(*(t.split(size) for t in (rows, hidden, g_rows, g_x)), strict=True):
            value, slope = _gelu_and_slope(h)
            gh = (g @ w2).mul_(slope)
            if weights_trained:
                g_w2.addmm_(g.T, value)
                g_b1 += gh.sum(0)
                g_w1.addmm_(gh.T, r)
            torch.mm(gh, w1, out=gr)
        return g_x.view_as(x), g_w1, g_b1, g_w2, g_b2


def feed_forward(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """Return `gelu(x @ w1.T + b1) @ w2.T + b2` for `x` of shape (..., d_model), all of one type.

    It can be differentiated once, not twice.
    """
    return _FeedForward.apply(x, w1, b1, w2, b2)
