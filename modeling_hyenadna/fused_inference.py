"""A block without gradients. It holds its input, which it may write over, and `hyena_order - 1` buffers of that size.

Three passes: (1) norm, projection, short convolution and first gate, in tiles of positions; (2) long convolutions, in
groups of channels; (3) last gate, output projection, residual sums and MLP, in tiles. Shape suffixes as in
`long_convolution.py`.
"""

import torch
from torch import Tensor

from .feed_forward import compute_dtype, gelu, tile
from .long_convolution import Transform, groups, product, short_convolution


def pieces(x: Tensor, parts: int, halo: int = 0) -> Tensor:
    """A tile of shape (batch, halo + L, ...) with positions last: P = batch pieces, or of one sequence its two halves.

    Each half begins `halo` positions early. MKL multiplies a batch of two faster than one matrix of twice the size.
    """
    if parts == 1:
        return x.movedim(1, -1)
    half = (x.shape[1] - halo) // 2
    return x[0].unfold(0, halo + half, half)


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
    in_weight, in_bias, out_weight, out_bias, fc1_weight, fc1_bias, fc2_weight, fc2_bias = (
        weight.to(dtype)
        for module in (mixer.in_proj, mixer.out_proj, mlp.fc1, mlp.fc2)
        for weight in (module.weight, module.bias)
    )
    short_weight, short_bias = mixer.short_filter.weight[:, 0].to(dtype), mixer.short_filter.bias.to(dtype)
    taps = short_weight.shape[1]
    # Without a mask, and behind the first taps, the bias of the projections only adds to that of the short convolution.
    both_biases = short_bias + in_bias * short_weight.sum(1)
    if past:
        columns_BCT = cache.columns().transpose(1, 2).to(dtype)

    def norm(x, module):
        return module(x.to(module.weight.dtype)).to(dtype)

    def halves(b, i):
        """2 if a tile is one sequence that can be halved: even, and with enough before it for the short convolution."""
        return 2 if b.stop - b.start == 1 and (i.stop - i.start) % 2 == 0 and i.start >= taps - 1 else 1

    def projections(first, last, b, i, shape, bias=True):
        """Parts `first` to `last` - 1 of the projections (gates and value): (P, parts * D, L), as `shape` cuts them."""
        rows = slice(first * width, last * width)
        p_PCL = product(in_weight[rows], shape(norm(hidden_BLD[b, i], block.norm1)))
        if bias:
            p_PCL.add_(in_bias[rows, None])
        return p_PCL if mask_BL is None else p_PCL.masked_fill_(~shape(mask_BL[b, i])[:, None], 0)

    def short_projections(first, last, b, i):
        """The same after the short convolution: (P, parts, D, L)."""
        halo, rows = min(i.start, -(-(taps - 1) // 8) * 8), slice(first * width, last * width)  # 8: rows stay aligned
        folded = mask_BL is None and halo >= taps - 1
        early, cut = slice(i.start - halo, i.stop), halves(b, i)
        p_PCL = projections(first, last, b, early, lambda x: pieces(x, cut, halo), bias=not folded)
        if past and i.start < taps - 1:
            p_PCL, halo = torch.cat([columns_BCT[b, rows, i.start :], p_PCL], dim=2), taps - 1
        x_PCL = short_convolution(p_PCL, short_weight[rows], (both_biases if folded else short_bias)[rows], halo)
        return x_PCL.unflatten(1, (last - first, width))

    with torch.autocast(device.type, enabled=False):
        if past:
            cache.settle(mixer, length)
        # 1. The gated input of the first long convolution, and the gates after it but the last.
        gates = torch.empty(batch, order - 2, width, length, dtype=dtype, device=device)
        v_BDL = buffers.get("v")
        if v_BDL is None or (v_BDL.shape, v_BDL.dtype, v_BDL.device) != ((batch, width, length), dtype, device):
            v_BDL = torch.empty(batch, width, length, dtype=dtype, device=device)
        recent, one_tile = [], len(tiles(batch, length, width, device)) == 1  # small enough to keep the last gate too
        for b, i in tiles(batch, length, width, device):
            if cache is not None and i.stop == length:
                columns = slice(max(0, length - taps + 1), length)
                recent.append(projections(0, order + 1, b, columns, lambda x: x.movedim(1, -1)))
            x = short_projections(0 if one_tile else 1, order + 1, b, i)
            if one_tile:
                last_gate, x = x[:, 0], x[:, 1:]
            if order > 2:
                pieces(gates[b, :, :, i].movedim(-1, 1), halves(b, i)).copy_(x[:, :-2])
            torch.mul(x[:, -2], x[:, -1], out=pieces(v_BDL[b, :, i].transpose(1, 2), halves(b, i)))
            if mask_BL is not None:  # the short convolution has a bias; from here on zeros stay zeros
                v_BDL[b, :, i].masked_fill_(~mask_BL[b, None, i], 0)

        # 2. The long convolutions, in place.
        fft, filter_dtype = buffers.get("fft"), torch.promote_types(mixer.filter_fn.bias.dtype, torch.float32)
        if fft is None or not fft.fits(length, filter_dtype, device):
            fft = buffers["fft"] = Transform(length, filter_dtype, device)
        spectra_of = cache.spectra(mixer, length, fft) if past else mixer.filter_fn.spectra(length, fft)
        spectra, last = None, None
        for b, d in groups(batch, width, length, device):
            if d != last:
                spectra, last = spectra_of(d), d
            u, due = v_BDL[b, d], cache.due(b, d, length) if past else None
            for o in range(order - 1):
                if cache is not None:
                    cache.keep(b, o, d, u)
                y = fft.inverse(fft.forward(u).mul_(spectra[o]))
                if past:
                    y += due[:, o]
                u = torch.mul(y, gates[b, order - 3 - o, d], out=fft.buffer(*y.shape[:2])) if o < order - 2 else y
            v_BDL[b, d] = u
        del spectra_of, spectra, u, y, due

        # 3. The last gate, back to the residual stream, and the MLP.
        out_BLD = hidden_BLD if buffers.get("stream") is hidden_BLD else torch.empty_like(hidden_BLD)
        for b, i in reversed(tiles(batch, length, width, device)):  # a tile reads from the one before it, unchanged
            y_PDL = last_gate if one_tile else short_projections(0, 1, b, i)[:, 0]
            y_PDL.mul_(pieces(v_BDL[b, :, i].transpose(1, 2), halves(b, i)))
            h_BLD = hidden_BLD[b, i] + product(y_PDL.transpose(1, 2), out_weight.T).view(-1, i.stop - i.start, width)
            h_BLD.add_(out_bias)
            inner = torch.addmm(fc1_bias, norm(h_BLD, block.norm2).flatten(0, 1), fc1_weight.T)
            m_RD = torch.addmm(fc2_bias, gelu(inner), fc2_weight.T)
            torch.add(h_BLD, m_RD.view_as(h_BLD), out=out_BLD[b, i])
    buffers.update(v=v_BDL, stream=out_BLD)
    if cache is not None:
        recent_BLC = torch.cat(recent).transpose(1, 2).to(cache.dtype)
        cache.advance(length, torch.cat([cache.columns(), recent_BLC], dim=1))
    return out_BLD


def norm_stream(module: torch.nn.LayerNorm, stream_BLD: Tensor) -> Tensor:
    """The final norm, written over the residual stream, in tiles."""
    batch, length, width = stream_BLD.shape
    for b, i in tiles(batch, length, width, stream_BLD.device):
        stream_BLD[b, i] = module(stream_BLD[b, i])
    return stream_BLD
