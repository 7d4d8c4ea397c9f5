"""A block without gradients: what holds the most memory at a time is its input and two buffers of the same size.

Three passes: (1) norm, projection, short convolution and first gate, in tiles of positions; (2) long convolutions, in
groups of channels; (3) output projection, residual sums and MLP, in tiles. Shape suffixes as in `long_convolution.py`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .feed_forward import compute_dtype, gelu, tile
from .long_convolution import Transform, groups, project, short_convolution


def tiles(batch: int, length: int, width: int, device: torch.device) -> list[tuple[slice, slice]]:
    """Parts of the batch and of the length to work on at a time, as (batch, position) slices."""
    size = tile(length, width, device)
    if length == size:
        some = max(1, tile(batch * length, width, device) // length)
        return [(slice(b, min(b + some, batch)), slice(0, length)) for b in range(0, batch, some)]
    return [(slice(b, b + 1), slice(i, min(i + size, length))) for b in range(batch) for i in range(0, length, size)]


def run_block(block, hidden_BLD: Tensor, mask_BL: Tensor | None, cache=None) -> Tensor:
    """`HyenaDNABlock.forward` where no gradient is wanted and nothing is wrapped around its modules.

    Args:
        block: The `HyenaDNABlock`.
        hidden_BLD: Residual stream of shape (batch, length, d_model), in float32 or float64. It is not changed.
        mask_BL: True where there is a token; masked positions are all in front of the tokens, or all behind them.
        cache: An empty `HyenaDNACacheLayer` to keep what later positions will need, or `None`.
    """
    mixer, mlp, device = block.mixer, block.mlp, hidden_BLD.device
    (batch, length, width), order = hidden_BLD.shape, mixer.config.hyena_order
    if cache is not None:
        cache.start(mixer, batch, length, device)
    dtype = compute_dtype(mixer.in_proj.weight, device.type)
    with torch.autocast(device.type, enabled=False):

        def linear(x, module):
            weight, bias = module.weight.to(dtype), module.bias.to(dtype)
            # Not `F.linear` for one sequence: it would copy what is transposed.
            return torch.addmm(bias, x[0], weight.T)[None] if len(x) == 1 else F.linear(x, weight, bias)

        def norm(x, module):
            return module(x.to(module.weight.dtype)).to(dtype)

        # 1. Gates x_0 .. x_{N-2}, and the gated input of the first long convolution.
        in_weight, in_bias = mixer.in_proj.weight.to(dtype), mixer.in_proj.bias.to(dtype)[:, None]
        short_weight = mixer.short_filter.weight.to(dtype).view(order + 1, width, -1)
        short_bias, taps = mixer.short_filter.bias.to(dtype).view(order + 1, width), short_weight.shape[2]
        gates = torch.empty(batch, order - 1, width, length, dtype=dtype, device=device)
        v_BDL = torch.empty(batch, width, length, dtype=dtype, device=device)
        for b, i in tiles(batch, length, width, device):
            halo = min(i.start, taps - 1)
            reach = slice(i.start - halo, i.stop)
            u = norm(hidden_BLD[b, reach], block.norm1)
            p = project(u, in_weight).add_(in_bias)
            if mask_BL is not None:
                p.masked_fill_(~mask_BL[b, None, reach], 0)
            if cache is not None and i.stop == length:
                cache.keep_columns(b, p)
            p = p.unflatten(1, (order + 1, width))
            for o in range(order - 1):
                short_convolution(p[:, o], short_weight[o], short_bias[o], halo, out=gates[b, o, :, i])
            x = short_convolution(p[:, order - 1 :], short_weight[order - 1 :], short_bias[order - 1 :], halo)
            torch.mul(x[:, 0], x[:, 1], out=v_BDL[b, :, i])
            if mask_BL is not None:  # the short convolution has a bias; from here on zeros stay zeros
                v_BDL[b, :, i].masked_fill_(~mask_BL[b, None, i], 0)

        # 2. Long convolutions and the other gates, in place.
        filters = mixer.filter_fn.evaluated(length)
        fft, spectra, last = None, None, None
        for b, d in groups(batch, width, length, device):
            if d != last:
                k_MGL, skip_MG = filters(d)
                fft = fft or Transform(length, k_MGL.dtype, device)
                spectra, last = fft.filters(k_MGL, skip_MG), d
            u = fft.buffer(*v_BDL[b, d].shape[:2]).copy_(v_BDL[b, d])
            for o in range(order - 1):
                if cache is not None:
                    cache.keys[b, o, d, :length] = u
                y = fft.inverse(fft.forward(u).mul_(spectra[o]))
                gate = gates[b, order - 2 - o, d]
                u = torch.mul(y, gate, out=v_BDL[b, d] if o == order - 2 and dtype == y.dtype else u)
            if dtype != u.dtype:
                v_BDL[b, d] = u

        # 3. Back to the residual stream, and the MLP. The gates are done with: write over them.
        out = gates.view_as(hidden_BLD) if order == 2 and dtype == hidden_BLD.dtype else torch.empty_like(hidden_BLD)
        for b, i in tiles(batch, length, width, device):
            h = hidden_BLD[b, i] + linear(v_BDL[b, :, i].transpose(1, 2), mixer.out_proj)
            out[b, i] = h.add_(linear(gelu(linear(norm(h, block.norm2), mlp.fc1)), mlp.fc2))
    if cache is not None:
        cache.length = length
    return out
