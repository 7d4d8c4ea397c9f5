"""A block without gradients: what holds the most memory at a time is its input and two buffers of the same size.

Three passes: (1) norm, projection, short convolution and first gate, in tiles of positions; (2) long convolutions, in
groups of channels; (3) last gate, output projection, residual sums and MLP, in tiles. Shape suffixes as in
`long_convolution.py`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .feed_forward import compute_dtype, gelu, tile
from .long_convolution import Transform, groups, product, short_convolution


def tiles(batch: int, length: int, width: int, device: torch.device) -> list[tuple[slice, slice]]:
    """Parts of the batch and of the length to work on at a time, as (batch, position) slices."""
    size = tile(length, width, device)
    if length == size:
        some = max(1, round(tile(batch * length, width, device) / length))
        return [(slice(b, min(b + some, batch)), slice(0, length)) for b in range(0, batch, some)]
    return [(slice(b, b + 1), slice(i, min(i + size, length))) for b in range(batch) for i in range(0, length, size)]


def run_block(block, hidden_BLD: Tensor, mask_BL: Tensor | None, buffers: dict[str, Tensor], cache=None) -> Tensor:
    """`HyenaDNABlock.forward` where no gradient is wanted and nothing is wrapped around its modules.

    Args:
        block: The `HyenaDNABlock`.
        hidden_BLD: Residual stream of shape (batch, length, d_model), in float32 or float64.
        mask_BL: True where there is a token; masked positions are all in front of the tokens, or all behind them.
        buffers: What one block leaves to the next, because fresh pages of memory cost more than what is written to
            them. `"stream"` is the last block's result, which nobody else holds: this block writes over it.
        cache: The `HyenaDNACacheLayer` whose positions these follow, to keep what later ones will need, or `None`.
    """
    mixer, mlp, device = block.mixer, block.mlp, hidden_BLD.device
    (batch, length, width), order = hidden_BLD.shape, mixer.config.hyena_order
    columns_BCT, past = None, 0 if cache is None else cache.length
    if cache is not None:
        cache.start(mixer, batch, length, device)
    dtype = compute_dtype(mixer.in_proj.weight, device.type)
    in_weight, in_bias = mixer.in_proj.weight.to(dtype), mixer.in_proj.bias.to(dtype)[:, None]
    short_weight, short_bias = mixer.short_filter.weight[:, 0].to(dtype), mixer.short_filter.bias.to(dtype)
    taps = short_weight.shape[1]
    if past:
        cache.settle(mixer, length)
        columns_BCT = cache.columns().transpose(1, 2).to(dtype, copy=True)

    def linear(x, module):
        weight, bias = module.weight.to(dtype), module.bias.to(dtype)
        # Not `F.linear` for one sequence: it would copy what is transposed.
        return torch.addmm(bias, x[0], weight.T)[None] if len(x) == 1 else F.linear(x, weight, bias)

    def norm(x, module):
        return module(x.to(module.weight.dtype)).to(dtype)

    def projections(first, last, b, i):
        """Parts `first` to `last` - 1 of the projections (gates and value) at positions `i`: (batch, parts * D, L)."""
        rows = slice(first * width, last * width)
        p = product(in_weight[rows], norm(hidden_BLD[b, i], block.norm1).transpose(1, 2)).add_(in_bias[rows])
        return p if mask_BL is None else p.masked_fill_(~mask_BL[b, None, i], 0)

    def short_projections(first, last, b, i):
        """The same after the short convolution: (batch, parts, D, L)."""
        halo, rows = min(i.start, taps - 1), slice(first * width, last * width)
        p = projections(first, last, b, slice(i.start - halo, i.stop))
        if past and i.start < taps - 1:
            p, halo = torch.cat([columns_BCT[b, rows, i.start :], p], dim=2), taps - 1
        return short_convolution(p, short_weight[rows], short_bias[rows], halo).unflatten(1, (last - first, width))

    with torch.autocast(device.type, enabled=False):
        # 1. The gated input of the first long convolution, and the gates after it but the last.
        gates = torch.empty(batch, order - 2, width, length, dtype=dtype, device=device)
        v_BDL = buffers.get("v")
        if v_BDL is None or (v_BDL.shape, v_BDL.dtype, v_BDL.device) != ((batch, width, length), dtype, device):
            v_BDL = torch.empty(batch, width, length, dtype=dtype, device=device)
        for b, i in tiles(batch, length, width, device):
            if cache is not None and i.stop == length:
                cache.keep_columns(b, projections(0, order + 1, b, slice(max(0, length - taps + 1), length)))
            x = short_projections(1, order + 1, b, i)
            if order > 2:
                gates[b, :, :, i] = x[:, :-2]
            torch.mul(x[:, -2], x[:, -1], out=v_BDL[b, :, i])
            if mask_BL is not None:  # the short convolution has a bias; from here on zeros stay zeros
                v_BDL[b, :, i].masked_fill_(~mask_BL[b, None, i], 0)

        # 2. The long convolutions, in place.
        filters = cache.evaluated(mixer, length) if past else mixer.filter_fn.evaluated(length)
        fft, spectra, last = None, None, None
        for b, d in groups(batch, width, length, device):
            if d != last:
                k_MGL, skip_MG = filters(d)
                fft = fft or Transform(length, k_MGL.dtype, device)
                spectra, last = fft.filters(k_MGL, skip_MG), d
            u, due = v_BDL[b, d], cache.due(b, d, length) if past else None
            for o in range(order - 1):
                if cache is not None:
                    cache.keep(b, o, d, u)
                y = fft.inverse(fft.forward(u).mul_(spectra[o]))
                if past:
                    y += due[:, o]
                u = torch.mul(y, gates[b, order - 3 - o, d], out=fft.buffer(*y.shape[:2])) if o < order - 2 else y
            v_BDL[b, d] = u
        del filters, fft, spectra, k_MGL, u, y, due

        # 3. The last gate, back to the residual stream, and the MLP.
        out = hidden_BLD if buffers.get("stream") is hidden_BLD else torch.empty_like(hidden_BLD)
        for b, i in reversed(tiles(batch, length, width, device)):  # a tile reads from the one before it, unchanged
            y = short_projections(0, 1, b, i)[:, 0].mul_(v_BDL[b, :, i])
            h = hidden_BLD[b, i] + linear(y.transpose(1, 2), mixer.out_proj)
            out[b, i] = h.add_(linear(gelu(linear(norm(h, block.norm2), mlp.fc1)), mlp.fc2))
    buffers.update(v=v_BDL, stream=out)
    if cache is not None and cache.rows is None:
        cache.length += length
    return out
