"""A block without gradients, in little memory.

It may overwrite its input, and needs `hyena_order - 1` buffers of that size besides. Three passes
over the sequence: 1. norm, projection, short convolution and first gate, in tiles of positions; 2.
the long convolutions, in groups of channels; 3. last gate, output projection, residual sums and
MLP, in tiles of positions.

A naive block would hold its projections, which are `hyena_order + 1` times as large as its input.
Here a tile's projections exist only while they are used, and the last gate is projected a second
time.

Shape suffixes as in `long_convolution.py`; P pieces of a tile (`pieces`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from .cache_hyenadna import HyenaDNACacheLayer
from .feed_forward import gelu, tile_length
from .long_convolution import Transform, channel_groups, product, short_convolution


@dataclass
class Workspace:
    """Memory that one block leaves to the next.

    The system clears fresh pages before it hands them out, which can take longer than the work that
    is done in them.

    Attributes:
        stream_BLD: A residual stream that nobody else holds. The next block, or the final norm,
            writes over it.
        value_BDL: The buffer of the long convolutions' inputs and results.
        transform: Transforms of the length of the sequence, with their padded buffer.
    """

    stream_BLD: Tensor | None = None
    value_BDL: Tensor | None = None
    transform: Transform | None = None

    def owns(self, hidden_BLD: Tensor) -> bool:
        """Whether this tensor may be overwritten."""
        return hidden_BLD is self.stream_BLD

    def value(self, shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """The value buffer, made anew if it does not fit."""
        value_BDL = self.value_BDL
        if value_BDL is None or (value_BDL.shape, value_BDL.dtype, value_BDL.device) != (
            shape,
            dtype,
            device,
        ):
            value_BDL = torch.empty(shape, dtype=dtype, device=device)
            self.value_BDL = value_BDL
        return value_BDL

    def transform_of(self, length: int, dtype: torch.dtype, device: torch.device) -> Transform:
        """The transform, made anew if it does not fit."""
        if self.transform is None or not self.transform.fits(length, dtype, device):
            self.transform = Transform(length, dtype, device)
        return self.transform


class Filters(Protocol):
    """Filters of known length: `FilterValues` without a cache, `ContinuedFilters` with one."""

    def spectra(self, channels: slice, transform: Transform) -> Tensor:
        """Spectra of filters and skips, (M, channels, frequencies)."""


@dataclass
class BlockParts:
    """What a block computes with: norms as modules, and weights in the type of the computation."""

    hyena_order: int
    evaluate_filters: Callable[[int], Filters]  # from a number of lags
    filter_dtype: torch.dtype  # of filters and transforms
    norm1: nn.LayerNorm
    norm2: nn.LayerNorm
    in_weight: Tensor
    in_bias: Tensor
    short_weight: Tensor  # (channels, taps)
    short_bias: Tensor
    out_weight: Tensor
    out_bias: Tensor
    fc1_weight: Tensor
    fc1_bias: Tensor
    fc2_weight: Tensor
    fc2_bias: Tensor


def run_block(
    parts: BlockParts,
    hidden_BLD: Tensor,
    mask_BL: Tensor | None,
    workspace: Workspace,
    past: HyenaDNACacheLayer | None = None,
) -> Tensor:
    """`HyenaDNABlock.forward` where no gradient is wanted and no module is wrapped.

    Args:
        parts: What the block is made of.
        hidden_BLD: Residual stream of shape (batch, length, d_model), in float32 or float64.
        mask_BL: True where there is a token. All masked positions come before the tokens, or all of
            them after.
        workspace: What earlier blocks left. If it owns `hidden_BLD`, the result is written over it.
        past: The layer of the cache that these positions follow, started for them, or `None`.
            What later positions will need is kept there.

    Returns:
        The new residual stream, of the shape and type of `hidden_BLD`, which `workspace` owns.
    """
    with torch.autocast(hidden_BLD.device.type, enabled=False):
        block = _FusedBlock(parts, hidden_BLD, mask_BL, workspace, past)
        block.gate_inputs()
        block.convolve()
        return block.finish()


class _FusedBlock:
    """One pass of one block. `projections` 0 .. N - 1 are the gates, projection N is the value."""

    def __init__(
        self,
        parts: BlockParts,
        hidden_BLD: Tensor,
        mask_BL: Tensor | None,
        workspace: Workspace,
        past: HyenaDNACacheLayer | None,
    ):
        self.parts = parts
        self.hyena_order = parts.hyena_order
        self.hidden_BLD = hidden_BLD
        self.mask_BL = mask_BL
        self.workspace = workspace
        self.past = past
        self.batch, self.length, self.width = hidden_BLD.shape
        self.device = hidden_BLD.device
        self.dtype = parts.in_weight.dtype
        self.taps = parts.short_weight.shape[1]
        self.tiles = tiles(self.batch, self.length, self.width, self.device)
        self.one_tile = len(self.tiles) == 1

        # Without a mask, every tap after the first positions reads the projections' bias, which
        # then only adds a constant to the short convolution's own.
        self.both_biases = parts.short_bias + parts.in_bias * parts.short_weight.sum(1)

        # Columns of projections from before these positions, for the taps that reach back to them.
        self.columns_BCT = None
        if past is not None and past.length > 0:
            self.columns_BCT = past.columns().transpose(1, 2).to(self.dtype)

    # -- 1. the gated input of the first long convolution, and the gates after it but the last

    def gate_inputs(self) -> None:
        shape = (self.batch, self.width, self.length)
        self.value_BDL = self.workspace.value(shape, self.dtype, self.device)
        middle = (self.batch, self.hyena_order - 2, self.width, self.length)
        self.middle_gates = torch.empty(middle, dtype=self.dtype, device=self.device)
        self.new_columns = []

        # A single tile is small enough to keep its last gate until pass 3. Several are not: there
        # gate 0 is projected again.
        first = 0 if self.one_tile else 1
        for b, i in self.tiles:
            if self.past is not None and i.stop == self.length:
                columns = slice(max(0, self.length - self.taps + 1), self.length)
                self.new_columns.append(
                    self.project(0, self.hyena_order + 1, b, columns, lambda x: x.movedim(1, -1))
                )

            x = self.project_and_convolve(first, self.hyena_order + 1, b, i)
            if self.one_tile:
                self.last_gate = x[:, 0]
                x = x[:, 1:]

            halves = self.halves(b, i)
            if self.hyena_order > 2:
                pieces(self.middle_gates[b, :, :, i].movedim(-1, 1), halves).copy_(x[:, :-2])
            torch.mul(x[:, -2], x[:, -1], out=pieces(self.value_BDL[b, :, i].transpose(1, 2), halves))
            # The short convolution's bias has filled the pads. From here on zeros stay zeros.
            if self.mask_BL is not None:
                self.value_BDL[b, :, i].masked_fill_(~self.mask_BL[b, None, i], 0)

    def project(
        self, first: int, last: int, b: slice, i: slice, shape: Callable, bias: bool = True
    ) -> Tensor:
        """Return projections `first` to `last` - 1 at positions `i`: (P, (last - first) * D, L).

        `shape` cuts a tile, positions second, into its pieces, positions last.
        """
        rows = slice(first * self.width, last * self.width)
        normed = self.norm(self.hidden_BLD[b, i], self.parts.norm1)
        p_PCL = product(self.parts.in_weight[rows], shape(normed))
        if bias:
            p_PCL.add_(self.parts.in_bias[rows, None])
        if self.mask_BL is not None:
            p_PCL.masked_fill_(~shape(self.mask_BL[b, i])[:, None], 0)
        return p_PCL

    def project_and_convolve(self, first: int, last: int, b: slice, i: slice) -> Tensor:
        """The same after the short convolution: (P, last - first, D, L)."""
        rows = slice(first * self.width, last * self.width)
        halves = self.halves(b, i)
        # The taps reach back `taps` - 1 positions. Rounded up to eight, rows stay aligned.
        halo = min(i.start, -(-(self.taps - 1) // 8) * 8)
        early = slice(i.start - halo, i.stop)

        bias_folded = self.mask_BL is None and halo >= self.taps - 1
        p_PCL = self.project(first, last, b, early, lambda x: pieces(x, halves, halo), bias=not bias_folded)
        if self.columns_BCT is not None and i.start < self.taps - 1:
            p_PCL = torch.cat([self.columns_BCT[b, rows, i.start :], p_PCL], dim=2)
            halo = self.taps - 1

        bias = self.both_biases if bias_folded else self.parts.short_bias
        x_PCL = short_convolution(p_PCL, self.parts.short_weight[rows], bias[rows], halo)
        return x_PCL.unflatten(1, (last - first, self.width))

    # -- 2. the long convolutions, in place

    def convolve(self) -> None:
        transform = self.workspace.transform_of(self.length, self.parts.filter_dtype, self.device)
        filters = self.parts.evaluate_filters(self.length)
        rows, groups = channel_groups(self.batch, self.width, self.length, self.device)
        for d in groups:
            spectra_MGF = filters.spectra(d, transform)
            for b in rows:
                self.convolve_group(b, d, spectra_MGF, transform)

    def convolve_group(self, b: slice, d: slice, spectra_MGF: Tensor, transform: Transform) -> None:
        convolutions = self.hyena_order - 1
        due = None if self.past is None else self.past.due(b, d, self.length)
        u = self.value_BDL[b, d]
        for m in range(convolutions):
            if self.past is not None:
                self.past.keep(b, m, d, u)
            y = transform.inverse(transform.forward(u).mul_(spectra_MGF[m]))
            # Convolutions are linear: what earlier positions contribute is added to the result.
            if due is not None:
                y += due[:, m]
            u = y
            if m < convolutions - 1:
                gate = self.middle_gates[b, convolutions - 2 - m, d]
                u = torch.mul(y, gate, out=transform.buffer(*y.shape[:2]))
        self.value_BDL[b, d] = u

    # -- 3. the last gate, back to the residual stream, and the MLP

    def finish(self) -> Tensor:
        hidden_BLD = self.hidden_BLD
        out_BLD = hidden_BLD if self.workspace.owns(hidden_BLD) else torch.empty_like(hidden_BLD)
        # From the end, because the result may replace the input: a tile's short convolution also
        # reads the end of the tile before it.
        for b, i in reversed(self.tiles):
            gate_PDL = self.last_gate if self.one_tile else self.project_and_convolve(0, 1, b, i)[:, 0]
            y_PDL = gate_PDL.mul_(pieces(self.value_BDL[b, :, i].transpose(1, 2), self.halves(b, i)))
            y_BLD = product(y_PDL.transpose(1, 2), self.parts.out_weight.T).view(
                -1, i.stop - i.start, self.width
            )
            h_BLD = hidden_BLD[b, i] + y_BLD
            h_BLD.add_(self.parts.out_bias)

            inner_RI = torch.addmm(
                self.parts.fc1_bias, self.norm(h_BLD, self.parts.norm2).flatten(0, 1), self.parts.fc1_weight.T
            )
            mlp_RD = torch.addmm(self.parts.fc2_bias, gelu(inner_RI), self.parts.fc2_weight.T)
            torch.add(h_BLD, mlp_RD.view_as(h_BLD), out=out_BLD[b, i])

        self.workspace.stream_BLD = out_BLD
        if self.past is not None:
            new_BLC = torch.cat(self.new_columns).transpose(1, 2).to(self.past.dtype)
            self.past.advance(self.length, torch.cat([self.past.columns(), new_BLC], dim=1))
        return out_BLD

    # -- shared

    def norm(self, x: Tensor, module: nn.LayerNorm) -> Tensor:
        return module(x.to(module.weight.dtype)).to(self.dtype)

    def halves(self, b: slice, i: slice) -> int:
        """Return in how many pieces a tile is multiplied: 2 if it can be cut in the middle, else 1.

        It can if it is one sequence of even length, with enough before it for the short
        convolution.
        """
        one_sequence = b.stop - b.start == 1
        even = (i.stop - i.start) % 2 == 0
        return 2 if one_sequence and even and i.start >= self.taps - 1 else 1


def pieces(x: Tensor, parts: int, halo: int = 0) -> Tensor:
    """Return a tile with positions last, (P, ..., halo + L).

    The P pieces are the sequences of the tile, or the two halves of one, each of which begins
    `halo` positions early. MKL multiplies a batch of two faster than one matrix of twice the size.
    """
    if parts == 1:
        return x.movedim(1, -1)
    half = (x.shape[1] - halo) // 2
    return x[0].unfold(0, halo + half, half)


def tiles(batch: int, length: int, width: int, device: torch.device) -> list[tuple[slice, slice]]:
    """Cut the batch and the length into slices (batch, positions) that fit in the cache."""
    size = tile_length(length, width, device)
    if length == size:  # whole sequences, several at a time
        rows = max(1, round(tile_length(batch * length, width, device) / length))
        return [(slice(b, min(b + rows, batch)), slice(0, length)) for b in range(0, batch, rows)]
    return [
        (slice(b, b + 1), slice(i, min(i + size, length)))
        for b in range(batch)
        for i in range(0, length, size)
    ]


def norm_in_place(module: nn.LayerNorm, stream_BLD: Tensor) -> Tensor:
    """The final norm, written over the residual stream, in tiles."""
    batch, length, width = stream_BLD.shape
    for b, i in tiles(batch, length, width, stream_BLD.device):
        stream_BLD[b, i] = module(stream_BLD[b, i])
    return stream_BLD
