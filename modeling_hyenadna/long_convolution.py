"""The core of the Hyena operator: short convolution - gates - causal long convolutions - gates, by
FFT.

One differentiable operation. It works through the channels in groups whose transforms stay in the
cache, keeps no spectrum, and saves only its inputs for the backward pass, which computes the rest
again.

Shape suffixes: B batch, D channels (`d_model`), N order, C = (N + 1) * D projected channels, M = N
- 1 convolutions, L length, G channels of one group, R rows of one transform, F frequencies, T taps
of the short convolution.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# glibc gives every large buffer back to the system when it is freed, and fresh pages cost as much
# as what is computed in them. Once a buffer of up to 32 MB has been freed, glibc keeps 64 MB
# instead. This buffer is never touched: it costs nothing.
torch.empty(31 * 2**20, dtype=torch.uint8, device="cpu")


def next_fast_length(length: int) -> int:
    """Smallest multiple of 16 that is >= `length` and has no prime factors but 2, 3, 5 and 7.

    A transform whose length has a large prime factor costs several times as much; one that is no
    multiple of the vector width costs twice as much: 2058 = 2 * 3 * 7^3 against 2160 = 2^4 * 3^3 *
    5.

    A symbolic length, of a graph that is exported for all lengths, comes back as it is: a search
    would turn it into a constant.
    """
    if isinstance(length, torch.SymInt):
        return length
    length = math.ceil(int(length) / 16) * 16  # int(): `torch.jit.trace` hands out tensors
    while not _has_small_factors(length):
        length += 16
    return length


def _has_small_factors(number: int) -> bool:
    for prime in (2, 3, 5, 7):
        while number % prime == 0:
            number //= prime
    return number == 1


def channel_groups(
    batch: int, channels: int, length: int, device: torch.device
) -> tuple[list[slice], list[slice]]:
    """Cut the batch and the channels into slices of about equal size: (of the batch, of the channels).

    One group of rows to transform is a slice of the channels with a slice of the batch.

    On a CPU the buffer of a group's transforms fits in the cache (2**20 float32 numbers). Eight
    long rows at a time are transformed twice as fast (per row) as two, unless the buffer is so
    large (2**23) that its memory is always fresh. A GPU wants large launches.
    """
    n = next_fast_length(2 * length - 1)
    if device.type == "cpu":
        rows = max(2, 2**20 // n, min(8, 2**23 // n))
    else:
        rows = max(2, 2**27 // n)
    batch_size = _even(batch, rows)
    width = _even(channels, max(1, rows // batch_size))
    return _slices(batch, batch_size), _slices(channels, width)


def _slices(total: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


def _even(total: int, most: int) -> int:
    """Size of the parts that `total` is cut into: at most `most`, and as equal as possible."""
    count = math.ceil(total / most)
    return math.ceil(total / count)


def long_convolution(u_BDL: Tensor, k_DL: Tensor, skip_D: Tensor) -> Tensor:
    """Causal convolution with one filter per channel, plus a skip: `y[t] = sum_{s<=t} k[t-s] u[s] +
    skip * u[t]`.

    It is linear, not circular: the transforms are at least `2 * L - 1` long (arXiv 2302.10866,
        section 2). This is the
    short form, in one piece: for graphs that are traced, and for continuing a cache.

    Args:
        u_BDL: Input of shape (batch, channels, length).
        k_DL: Filters of shape (channels, length), in float32 or float64, which is also the type of
            the computation.
        skip_D: Weight of the input itself, of shape (channels,).

    Returns:
        A tensor of the shape and type of `u_BDL`.
    """
    length = u_BDL.shape[-1]
    n = next_fast_length(2 * length)
    u = u_BDL.to(k_DL.dtype)
    y_BDF = torch.fft.rfft(u, n=n) * torch.fft.rfft(k_DL, n=n)
    y_BDL = torch.fft.irfft(y_BDF, n=n)[..., :length] + skip_D.to(k_DL.dtype)[:, None] * u
    return y_BDL.to(u_BDL.dtype)


def short_convolution(
    x_RL: Tensor, w_RT: Tensor, b_R: Tensor, halo: int = 0, out: Tensor | None = None
) -> Tensor:
    """Causal convolution of T taps along the last dimension, with a bias; rows are all dimensions
    but the last.

    A sum of shifted multiples: PyTorch's depthwise `conv1d` is ten times slower on a CPU. The first
    `halo` positions of
    `x_RL` are context only: the result begins after them.
    """
    taps = w_RT.shape[-1]
    length = x_RL.shape[-1]
    y_RL = torch.mul(x_RL[..., halo:], w_RT[..., -1:], out=out)
    for lag in range(1, min(taps, length)):
        start = max(lag - halo, 0)  # the first result with an input at this lag
        y_RL[..., start:].addcmul_(
            x_RL[..., halo + start - lag : length - lag], w_RT[..., taps - 1 - lag, None]
        )
    return y_RL.add_(b_R[..., None])


def product(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product over a batch; one side may be a single matrix. `matmul` would copy a
    transposed side.
    """
    batch = len(a) if a.ndim == 3 else len(b)
    if batch == 1:
        return torch.mm(a.reshape(a.shape[-2:]), b.reshape(b.shape[-2:]))[None]
    return torch.bmm(a.expand(batch, *a.shape[-2:]), b.expand(batch, *b.shape[-2:]))


class _Project(torch.autograd.Function):
    """See `project`."""

    @staticmethod
    def forward(ctx, u_BLD, weight_CD):
        ctx.save_for_backward(u_BLD, weight_CD)
        return product(weight_CD, u_BLD.transpose(1, 2))

    @staticmethod
    @once_differentiable
    def backward(ctx, g_BCL):
        u_BLD, weight_CD = ctx.saved_tensors
        gu_BLD = product(g_BCL.transpose(1, 2), weight_CD) if ctx.needs_input_grad[0] else None
        gweight_CD = product(g_BCL, u_BLD).sum(0) if ctx.needs_input_grad[1] else None
        return gu_BLD, gweight_CD


def project(u_BLD: Tensor, weight_CD: Tensor) -> Tensor:
    """`u @ weight.T`, with channels before positions: (batch, channels, length).

    An operation of its own for the sake of layout: results and gradients are contiguous in the
    order in which the next operation reads them.
    """
    return _Project.apply(u_BLD, weight_CD)


class _ProjectBack(torch.autograd.Function):
    """See `project_back`."""

    @staticmethod
    def forward(ctx, y_BDL, weight_DD, bias_D):
        ctx.save_for_backward(y_BDL, weight_DD)
        return product(y_BDL.transpose(1, 2), weight_DD.T).add_(bias_D)

    @staticmethod
    @once_differentiable
    def backward(ctx, g_BLD):
        y_BDL, weight_DD = ctx.saved_tensors
        gy_BDL = product(weight_DD.T, g_BLD.transpose(1, 2))
        gweight_DD = product(y_BDL, g_BLD).sum(0).T if ctx.needs_input_grad[1] else None
        return gy_BDL, gweight_DD, g_BLD.sum((0, 1))


def project_back(y_BDL: Tensor, weight_DD: Tensor, bias_D: Tensor) -> Tensor:
    """The linear layer from channels before positions back to (batch, length, d_model); see
    `project`.
    """
    return _ProjectBack.apply(y_BDL, weight_DD, bias_D)


class Transform:
    """Zero-padded transforms of rows of `length` numbers, in one buffer that every group uses
    again.
    """

    def __init__(self, length: int, dtype: torch.dtype, device: torch.device):
        self.length = length
        self.n = next_fast_length(2 * length - 1)
        self.padded = torch.zeros(0, self.n, dtype=dtype, device=device)

    def fits(self, length: int, dtype: torch.dtype, device: torch.device) -> bool:
        return (self.length, self.padded.dtype, self.padded.device) == (length, dtype, device)

    def buffer(self, *shape: int) -> Tensor:
        """A view of the buffer, (*shape, length), to write the next input to; the zeros follow it."""
        rows = torch.Size(shape).numel()
        if len(self.padded) < rows:
            self.padded = self.padded.new_zeros(rows, self.n)
        return self.padded[:rows].view(*shape, self.n)[..., : self.length]

    def forward(self, x: Tensor) -> Tensor:
        """Spectrum of `x`, of shape (..., length)."""
        held = self.buffer(*x.shape[:-1])
        if held.data_ptr() != x.data_ptr():
            held.copy_(x)
        return torch.fft.rfft(self.padded[: x.shape[:-1].numel()]).view(*x.shape[:-1], -1)

    def filters(self, k_MGL: Tensor, skip_MG: Tensor) -> Tensor:
        """Spectra of filters. The skip, `y += skip * u`, is one more weight on lag 0."""
        k = self.buffer(*k_MGL.shape[:-1]).copy_(k_MGL)
        k[..., 0] += skip_MG
        return self.forward(k)

    def inverse(self, spectrum: Tensor) -> Tensor:
        """The first `length` numbers of the signal with this spectrum."""
        return torch.fft.irfft(spectrum, n=self.n)[..., : self.length]


class _ShortConvolution:
    """The short convolution of the projections, for one projection (a gate or the value) and one
    group at a time.

    Without a mask it reads the projections as they are, and folds their bias into its own, which
    saves a pass. The first results then have too much of it: taps from before the sequence read
    zeros, not the bias.
    """

    def __init__(self, p_BCL, in_bias_C, short_CT, short_bias_C, mask_BL, channels: int, dtype: torch.dtype):
        self.p_BPDL = p_BCL.unflatten(1, (-1, channels))
        self.taps = short_CT.shape[1]
        self.value = self.p_BPDL.shape[1] - 1  # the last projection
        self.w_PDT = short_CT.to(dtype).view(-1, channels, self.taps)
        self.bias_PD1 = short_bias_C.to(dtype).view(-1, channels, 1)
        in_bias_C = torch.zeros_like(short_bias_C) if in_bias_C is None else in_bias_C
        self.in_bias_PD1 = in_bias_C.to(dtype).view(-1, channels, 1)

        self.pad_BL = None if mask_BL is None else ~mask_BL
        if mask_BL is None:
            # the last column is that of all taps
            bias_PDT = self.in_bias_PD1 * self.w_PDT.cumsum(-1)
            self.bias_PD1 = self.bias_PD1 + bias_PDT[..., -1:]
            self.excess_PDT = bias_PDT[..., :-1].flip(-1)[..., : p_BCL.shape[-1]]

    def input(self, p: int, b: slice, d: slice) -> Tensor:
        """Projection `p` of a group, with its bias unless that is folded in; pads are zero."""
        q_BGL = self.p_BPDL[b, p, d].to(self.w_PDT.dtype)
        if self.pad_BL is None:
            return q_BGL
        return (q_BGL + self.in_bias_PD1[p, d]).masked_fill_(self.pad_BL[b, None], 0)

    def forward(self, p: int, b: slice, d: slice) -> Tensor:
        x_BGL = short_convolution(self.input(p, b, d), self.w_PDT[p, d], self.bias_PD1[p, d, 0])
        if self.pad_BL is None:
            x_BGL[..., : self.taps - 1] -= self.excess_PDT[p, d]
        elif p == self.value:  # the bias has filled the pads; from here on zeros stay zeros
            x_BGL.masked_fill_(self.pad_BL[b, None], 0)
        return x_BGL

    def start_gradients(self) -> None:
        self.gp_BPDL = torch.empty(self.p_BPDL.shape, dtype=self.p_BPDL.dtype, device=self.p_BPDL.device)
        self.gw_PDT = torch.zeros_like(self.w_PDT)
        self.gbias_PD = torch.zeros_like(self.bias_PD1[..., 0])
        self.gin_bias_PD = torch.zeros_like(self.gbias_PD)

    def backward(self, gx_BGL: Tensor, p: int, b: slice, d: slice) -> None:
        """Accumulate the gradients of projection `p` from that of its result, `gx_BGL`, which is
        overwritten.
        """
        if self.pad_BL is not None and p == self.value:
            gx_BGL.masked_fill_(self.pad_BL[b, None], 0)
        q_BGL = self.input(p, b, d)
        gbias_G = gx_BGL.sum((0, 2))

        # y[t] = sum_lag w[lag] q[t - lag]: the input's gradient is correlated with the taps, and
        # each tap's gradient is the product of the result's gradient with the input `lag` positions
        # earlier.
        gw_GT = self._gradient_of_taps(gx_BGL, q_BGL)
        gq_BGL = self._gradient_of_input(gx_BGL, p, b, d)

        if self.pad_BL is None:
            # The folded bias is an input of ones: a tap reads it wherever it lies inside the
            # sequence, that is everywhere but at the first `lag` positions.
            length = gx_BGL.shape[-1]
            missing = max(0, self.taps - 1 - length)  # taps longer than the sequence
            head_GT = F.pad(gx_BGL[..., : self.taps - 1].sum(0), (1, missing)).cumsum(-1)
            seen_GT = (gbias_G[:, None] - head_GT).flip(-1)
            gw_GT.addcmul_(seen_GT, self.in_bias_PD1[p, d])
            self.gin_bias_PD[p, d] += (seen_GT * self.w_PDT[p, d]).sum(-1)
        else:
            gq_BGL.masked_fill_(self.pad_BL[b, None], 0)
            self.gin_bias_PD[p, d] += gq_BGL.sum((0, 2))

        self.gw_PDT[p, d] += gw_GT
        self.gbias_PD[p, d] += gbias_G
        gp_BGL = self.gp_BPDL[b, p, d]
        if gq_BGL.data_ptr() != gp_BGL.data_ptr():
            gp_BGL.copy_(gq_BGL)

    def _gradient_of_taps(self, gx_BGL: Tensor, q_BGL: Tensor) -> Tensor:
        """(G, T), from the highest lag to lag 0. A product and a sum: `einsum` is five times slower
        here.
        """
        length = gx_BGL.shape[-1]
        buffer = torch.empty_like(gx_BGL)
        sums = []
        for lag in range(self.taps):
            if lag < length:
                terms = torch.mul(gx_BGL[..., lag:], q_BGL[..., : length - lag], out=buffer[..., lag:])
                sums.append(terms.sum((0, 2)))
            else:
                sums.append(torch.zeros_like(sums[0]))
        return torch.stack(sums[::-1], dim=-1)

    def _gradient_of_input(self, gx_BGL: Tensor, p: int, b: slice, d: slice) -> Tensor:
        """(B, G, L), written in place where the projections have the type of the computation."""
        w_GT = self.w_PDT[p, d]
        gp_BGL = self.gp_BPDL[b, p, d]
        out = gp_BGL if gp_BGL.dtype == gx_BGL.dtype else None
        gq_BGL = torch.mul(gx_BGL, w_GT[:, -1:], out=out)
        for lag in range(1, min(self.taps, gx_BGL.shape[-1])):
            gq_BGL[..., :-lag].addcmul_(gx_BGL[..., lag:], w_GT[:, self.taps - 1 - lag, None])
        return gq_BGL


class _GatedLongConvolution(torch.autograd.Function):
    """See `gated_long_convolution`. Projections 0 .. N - 1 are the gates, projection N is the
    value.
    """

    @staticmethod
    def forward(ctx, p_BCL, in_bias_C, short_CT, short_bias_C, k_MDL, skip_MD, mask_BL):
        ctx.save_for_backward(p_BCL, in_bias_C, short_CT, short_bias_C, k_MDL, skip_MD, mask_BL)
        batch, _, length = p_BCL.shape
        convolutions, channels, _ = k_MDL.shape
        short = _ShortConvolution(p_BCL, in_bias_C, short_CT, short_bias_C, mask_BL, channels, k_MDL.dtype)
        fft = Transform(length, k_MDL.dtype, p_BCL.device)
        y_BDL = torch.empty(batch, channels, length, dtype=p_BCL.dtype, device=p_BCL.device)

        rows, groups = channel_groups(batch, channels, length, p_BCL.device)
        for d in groups:
            spectra_MGF = fft.filters(k_MDL[:, d], skip_MD[:, d])
            for b in rows:
                v = short.forward(short.value, b, d)
                for m in range(convolutions):
                    gate = short.forward(convolutions - m, b, d)
                    u = torch.mul(v, gate, out=fft.buffer(*v.shape[:2]))
                    v = fft.inverse(fft.forward(u).mul_(spectra_MGF[m]))
                y_BDL[b, d] = short.forward(0, b, d).mul_(v)
        return y_BDL

    @staticmethod
    @once_differentiable
    def backward(ctx, gy_BDL):
        p_BCL, in_bias_C, short_CT, short_bias_C, k_MDL, skip_MD, mask_BL = ctx.saved_tensors
        batch, _, length = p_BCL.shape
        channels = k_MDL.shape[1]
        short = _ShortConvolution(p_BCL, in_bias_C, short_CT, short_bias_C, mask_BL, channels, k_MDL.dtype)
        short.start_gradients()
        fft = Transform(length, k_MDL.dtype, p_BCL.device)
        gk_MDL = torch.empty_like(k_MDL)

        rows, groups = channel_groups(batch, channels, length, p_BCL.device)
        for d in groups:
            spectra_MGF = fft.filters(k_MDL[:, d], skip_MD[:, d])
            gk_spectra: dict[int, Tensor] = {}
            for b in rows:
                gy_BGL = gy_BDL[b, d].to(k_MDL.dtype)
                _gradients_of_group(gy_BGL, b, d, short, fft, spectra_MGF, gk_spectra)
            for m, spectrum_GF in gk_spectra.items():
                gk_MDL[m, d] = fft.inverse(spectrum_GF.conj_physical_())

        return (
            short.gp_BPDL.flatten(1, 2),
            None if in_bias_C is None else short.gin_bias_PD.flatten().to(in_bias_C.dtype),
            short.gw_PDT.flatten(0, 1).to(short_CT.dtype),
            short.gbias_PD.flatten().to(short_bias_C.dtype),
            gk_MDL,
            gk_MDL[..., 0].to(skip_MD.dtype),  # the skip is one more weight on lag 0
            None,
        )


def _gradients_of_group(
    gy_BGL: Tensor,
    b: slice,
    d: slice,
    short: _ShortConvolution,
    fft: Transform,
    spectra_MGF: Tensor,
    gk_spectra: dict[int, Tensor],
) -> None:
    """Add one group's share of the gradients to `short` and to `gk_spectra`.

    Args:
        gy_BGL: Gradient of the result, of shape (batch, channels, length).
        b: The group's slice of the batch.
        d: The group's slice of the channels.
        short: Recomputes gates and value, and collects the gradients of the projections.
        fft: Transforms of `length`.
        spectra_MGF: Spectra of the filters.
        gk_spectra: For each convolution the conjugate of its filter gradient's spectrum, (channels,
            frequencies), summed over the batch.
    """
    convolutions = len(spectra_MGF)

    # 1. The forward pass again, keeping what each convolution read and returned.
    gates = [short.forward(p, b, d) for p in range(convolutions + 1)]
    values = [short.forward(short.value, b, d)]
    inputs = []
    for m in range(convolutions):
        u = torch.mul(values[-1], gates[convolutions - m], out=fft.buffer(*values[-1].shape[:2]))
        inputs.append(fft.forward(u))
        values.append(fft.inverse(inputs[-1] * spectra_MGF[m]))

    # 2. Back through the gates and the convolutions. The gradients of a convolution are
    # correlations: with spectra U, K, G of input, filter and gradient they are conj(U) G
    # and conj(K) G. Both are computed as conj(U conj(G)) and conj(K conj(G)), so that one
    # conjugate of G serves both, in place.
    short.backward(values.pop().mul_(gy_BGL), 0, b, d)
    gv = torch.mul(gy_BGL, gates[0], out=fft.buffer(*gy_BGL.shape[:2]))
    for m in reversed(range(convolutions)):
        spectrum = fft.forward(gv).conj_physical_()
        gk = inputs.pop().mul_(spectrum)
        gk = gk[0] if len(gk) == 1 else gk.sum(0)
        gk_spectra[m] = gk_spectra[m].add_(gk) if m in gk_spectra else gk
        gu = fft.inverse(spectrum.mul_(spectra_MGF[m]).conj_physical_())
        short.backward(values.pop().mul_(gu), convolutions - m, b, d)
        # the last one is transformed no more
        out = fft.buffer(*gu.shape[:2]) if m > 0 else gu
        gv = torch.mul(gu, gates[convolutions - m], out=out)
    short.backward(gv, short.value, b, d)


def gated_long_convolution(
    p_BCL: Tensor,
    in_bias_C: Tensor | None,
    short_CT: Tensor,
    short_bias_C: Tensor,
    k_MDL: Tensor,
    skip_MD: Tensor,
    mask_BL: Tensor | None = None,
) -> Tensor:
    """Everything between the two projections of a Hyena operator (arXiv 2302.10866, definition
    3.1).

    `x_0 .. x_{N-1}, v` = short convolution of `p + in_bias`; then for i = N-1 .. 1: `v = k * (v
    x_i) + skip v x_i`, where `*` is the causal convolution; the result is `v x_0`. Once
    differentiable.

    Args:
        p_BCL: Projections of shape (batch, (N + 1) * d_model, length), any strides, any floating
            type.
        in_bias_C: Added to `p_BCL`, or `None`.
        short_CT: Weights of the short convolution, of shape (channels, taps).
        short_bias_C: Its bias.
        k_MDL: Filters of shape (N - 1, d_model, length), in float32 or float64: the type of the
            computation.
        skip_MD: Skip weights of shape (N - 1, d_model).
        mask_BL: True where there is a token; masked positions, all in front of the tokens, count as
            zeros.

    Returns:
        A tensor of shape (batch, d_model, length) and of the type of `p_BCL`.
    """
    return _GatedLongConvolution.apply(p_BCL, in_bias_C, short_CT, short_bias_C, k_MDL, skip_MD, mask_BL)
