"""The core of the Hyena operator: short convolution - gates - causal long convolutions - gates, by FFT.

One differentiable operation that works through the channels in groups whose transforms stay in the cache, keeps no
spectrum, and saves only its inputs for the backward pass, which computes the rest again.

Shape suffixes: B batch, D channels (`d_model`), N order, C = (N + 1) * D projected channels, M = N - 1 convolutions,
L length, G channels of one group, R rows of one transform, F frequencies, T taps of the short convolution.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def next_fast_length(length: int) -> int:
    """Smallest even number >= `length` whose only prime factors are 2, 3, 5 and 7.

    A transform whose length has a large prime factor costs several times as much.
    """
    length = int(length)  # `torch.jit.trace` hands out tensors, which the lines below would change in place
    length += length % 2
    while True:
        rest = length
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 2


def groups(batch: int, channels: int, length: int, device: torch.device) -> list[tuple[slice, slice]]:
    """Parts of the batch and of the channels to work on at a time, as (batch, channel) slices.

    On a CPU their transforms fit the cache: fresh pages of memory cost more there than the arithmetic. A GPU wants
    large launches.
    """
    budget = 2**19 if device.type == "cpu" else 2**27  # float32 numbers in a buffer of transforms
    rows = max(2, budget // next_fast_length(2 * length - 1))
    some = min(batch, rows)
    wide = min(channels, max(1, rows // some))
    return [
        (slice(b, min(b + some, batch)), slice(c, min(c + wide, channels)))
        for c in range(0, channels, wide)
        for b in range(0, batch, some)
    ]


def long_convolution(u_BDL: Tensor, k_DL: Tensor, skip_D: Tensor) -> Tensor:
    """Causal convolution with one filter per channel, plus a skip: `y[t] = sum_{s<=t} k[t-s] u[s] + skip * u[t]`.

    It is linear, not circular: the transforms are at least `2 * L - 1` long (arXiv 2302.10866, section 2). The plain
    form, in one piece, for graphs that are traced.

    Args:
        u_BDL: Input of shape (batch, channels, length).
        k_DL: Filters of shape (channels, length), in float32 or float64, which is also the type of the computation.
        skip_D: Weight of the input itself, of shape (channels,).

    Returns:
        A tensor of the shape and type of `u_BDL`.
    """
    length = u_BDL.shape[-1]
    n = next_fast_length(2 * length - 1)
    u = u_BDL.to(k_DL.dtype)
    y_BDF = torch.fft.rfft(u, n=n) * torch.fft.rfft(k_DL, n=n)
    y_BDL = torch.fft.irfft(y_BDF, n=n)[..., :length] + skip_D.to(k_DL.dtype)[:, None] * u
    return y_BDL.to(u_BDL.dtype)


def short_convolution(x_RL: Tensor, w_RT: Tensor, b_R: Tensor, halo: int = 0, out: Tensor | None = None) -> Tensor:
    """Causal convolution of T taps along the last dimension, with a bias; rows are all dimensions but the last.

    Shifted multiples, because PyTorch's depthwise `conv1d` is ten times slower on a CPU. The first `halo` positions of
    `x_RL` are context only: the result begins after them.
    """
    taps, length = w_RT.shape[-1], x_RL.shape[-1]
    y_RL = torch.mul(x_RL[..., halo:], w_RT[..., -1:], out=out)
    for lag in range(1, min(taps, length)):
        start = max(lag - halo, 0)  # of the results that have something at this lag
        y_RL[..., start:].addcmul_(x_RL[..., halo + start - lag : length - lag], w_RT[..., taps - 1 - lag, None])
    return y_RL.add_(b_R[..., None])


def project(u_BLD: Tensor, weight_CD: Tensor) -> Tensor:
    """`u @ weight.T`, with channels before positions: (batch, channels, length).

    One sequence comes out contiguous, which spares the long convolution a transposition.
    """
    if len(u_BLD) == 1:
        return torch.mm(weight_CD, u_BLD[0].T)[None]
    return torch.matmul(u_BLD, weight_CD.T).transpose(1, 2)


class Transform:
    """Zero-padded transforms of rows of `length` numbers, in a buffer that is used again for every group."""

    def __init__(self, length: int, dtype: torch.dtype, device: torch.device):
        self.length, self.n = length, next_fast_length(2 * length - 1)
        self.padded = torch.zeros(0, self.n, dtype=dtype, device=device)

    def buffer(self, *shape: int) -> Tensor:
        """A view of the buffer of shape (*shape, length), to write the next input to; behind it are the zeros."""
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


class _GatedLongConvolution(torch.autograd.Function):
    """See `gated_long_convolution`."""

    @staticmethod
    def forward(ctx, p_BCL, in_bias_C, short_CT, short_bias_C, k_MDL, skip_MD, mask_BL):
        ctx.save_for_backward(p_BCL, in_bias_C, short_CT, short_bias_C, k_MDL, skip_MD, mask_BL)
        weights = (in_bias_C, short_CT, short_bias_C)
        (batch, _, length), (_, channels, _) = p_BCL.shape, k_MDL.shape
        fft = Transform(length, k_MDL.dtype, p_BCL.device)
        y_BDL = torch.empty(batch, channels, length, dtype=p_BCL.dtype, device=p_BCL.device)
        spectra, last = None, None
        for b, d in groups(batch, channels, length, p_BCL.device):
            if d != last:
                spectra, last = fft.filters(k_MDL[:, d], skip_MD[:, d]), d
            _, x = _project(p_BCL, *weights, mask_BL, b, d, channels, k_MDL.dtype)
            v = x[:, -1]
            for o, gate in enumerate(range(x.shape[1] - 2, 0, -1)):
                u = torch.mul(v, x[:, gate], out=fft.buffer(*v.shape[:-1]))
                v = fft.inverse(fft.forward(u).mul_(spectra[o]))
            torch.mul(v, x[:, 0], out=v)
            y_BDL[b, d] = v
        return y_BDL

    @staticmethod
    @once_differentiable
    def backward(ctx, gy_BDL):
        p_BCL, in_bias_C, short_CT, short_bias_C, k_MDL, skip_MD, mask_BL = ctx.saved_tensors
        (batch, wide, length), (_, channels, _) = p_BCL.shape, k_MDL.shape
        dtype, taps = k_MDL.dtype, short_CT.shape[1]
        fft = Transform(length, dtype, p_BCL.device)
        gp_BCL = torch.empty(batch, wide, length, dtype=p_BCL.dtype, device=p_BCL.device)
        gk_MDL, gskip_MD = torch.empty_like(k_MDL), torch.zeros_like(skip_MD, dtype=dtype)
        parts = wide // channels
        gshort = torch.zeros(parts, channels, taps, dtype=dtype, device=p_BCL.device)
        gshort_bias = torch.zeros(parts, channels, dtype=dtype, device=p_BCL.device)
        gin_bias = torch.zeros_like(gshort_bias)
        spectra, gk_spectra, last = None, None, None

        def finish(d):  # the filters' gradient is summed over the batch as a spectrum
            for o, spectrum in enumerate(gk_spectra):
                gk_MDL[o, d] = fft.inverse(spectrum)

        for b, d in groups(batch, channels, length, p_BCL.device):
            if d != last:
                if last is not None:
                    finish(last)
                spectra, last = fft.filters(k_MDL[:, d], skip_MD[:, d]), d
                gk_spectra = [None] * len(k_MDL)
            # 1. The forward pass again, keeping what each convolution saw.
            q, x = _project(p_BCL, in_bias_C, short_CT, short_bias_C, mask_BL, b, d, channels, dtype)
            order = x.shape[1] - 1
            values, inputs = [x[:, -1]], []
            for o, gate in enumerate(range(order - 1, 0, -1)):
                u = torch.mul(values[-1], x[:, gate], out=fft.buffer(*values[-1].shape[:-1]))
                inputs.append(fft.forward(u))
                values.append(fft.inverse(inputs[-1] * spectra[o]))
            # 2. Back through the gates and the convolutions, writing gradients of x over x.
            gx = torch.empty_like(x)
            gy = gy_BDL[b, d].to(dtype)
            torch.mul(gy, values[-1], out=gx[:, 0])
            gv = torch.mul(gy, x[:, 0], out=fft.buffer(*gy.shape[:-1]))
            for o in range(order - 2, -1, -1):
                gate = order - 1 - o
                spectrum = fft.forward(gv)
                part = (inputs[o].conj_physical_().mul_(spectrum)).sum(0)
                gk_spectra[o] = part if gk_spectra[o] is None else gk_spectra[o].add_(part)
                gu = fft.inverse(spectrum.mul_(spectra[o].conj()))
                torch.mul(gu, values[o], out=gx[:, gate])
                if o > 0:
                    gv = torch.mul(gu, x[:, gate], out=fft.buffer(*gy.shape[:-1]))
                else:
                    torch.mul(gu, x[:, gate], out=gx[:, -1])
            if mask_BL is not None:
                gx[:, -1].masked_fill_(~mask_BL[b, None], 0)
            # 3. Back through the short convolution.
            w = short_CT.view(parts, channels, taps)[:, d].to(dtype)
            gq = q.new_empty(q.shape)
            torch.mul(gx, w[..., -1:], out=gq)
            for lag in range(min(taps, length)):
                tap = taps - 1 - lag
                gshort[:, d, tap] += torch.einsum("bpgl,bpgl->pg", gx[..., lag:], q[..., : length - lag])
                if lag:
                    gq[..., :-lag].addcmul_(gx[..., lag:], w[..., tap, None])
            if mask_BL is not None:
                gq.masked_fill_(~mask_BL[b, None, None], 0)
            gshort_bias[:, d] += gx.sum((0, 3))
            gin_bias[:, d] += gq.sum((0, 3))
            gp_BCL[b].unflatten(1, (parts, channels))[:, :, d] = gq
        finish(last)
        gskip_MD = gk_MDL[..., 0].to(skip_MD.dtype)
        return (
            gp_BCL,
            None if in_bias_C is None else gin_bias.flatten().to(in_bias_C.dtype),
            gshort.flatten(0, 1).to(short_CT.dtype),
            gshort_bias.flatten().to(short_bias_C.dtype),
            gk_MDL,
            gskip_MD,
            None,
        )


def _project(p_BCL, in_bias_C, short_CT, short_bias_C, mask_BL, b: slice, d: slice, channels: int, dtype):
    """The projections of a group of channels before and after the short convolution: (batch, N + 1, G, L) each."""
    parts = p_BCL.shape[1] // channels
    q = p_BCL[b].unflatten(1, (parts, channels))[:, :, d].to(dtype)
    if in_bias_C is not None:
        q = q + in_bias_C.view(parts, channels)[:, d, None].to(dtype)
    if mask_BL is not None:
        q = q.masked_fill(~mask_BL[b, None, None], 0)
    w = short_CT.view(parts, channels, -1)[:, d].to(dtype)
    bias = short_bias_C.view(parts, channels)[:, d].to(dtype)
    x = short_convolution(q, w, bias)
    if mask_BL is not None:  # the short convolution has a bias; from here on zeros stay zeros
        x[:, -1].masked_fill_(~mask_BL[b, None], 0)
    return q, x


def gated_long_convolution(
    p_BCL: Tensor,
    in_bias_C: Tensor | None,
    short_CT: Tensor,
    short_bias_C: Tensor,
    k_MDL: Tensor,
    skip_MD: Tensor,
    mask_BL: Tensor | None = None,
) -> Tensor:
    """Everything between the two projections of a Hyena operator (arXiv 2302.10866, definition 3.1).

    `x_0 .. x_{N-1}, v` = short convolution of `p + in_bias`; then for i = N-1 .. 1: `v = k * (v x_i) + skip v x_i`,
    where `*` is the causal convolution; the result is `v x_0`. Once differentiable.

    Args:
        p_BCL: Projections of shape (batch, (N + 1) * d_model, length), any strides, any floating type.
        in_bias_C: Added to `p_BCL`, or `None`.
        short_CT: Weights of the short convolution, of shape (channels, taps).
        short_bias_C: Its bias.
        k_MDL: Filters of shape (N - 1, d_model, length), in float32 or float64: the type of the computation.
        skip_MD: Skip weights of shape (N - 1, d_model).
        mask_BL: True where there is a token; masked positions, all in front of the tokens, count as zeros.

    Returns:
        A tensor of shape (batch, d_model, length) and of the type of `p_BCL`.
    """
    return _GatedLongConvolution.apply(p_BCL, in_bias_C, short_CT, short_bias_C, k_MDL, skip_MD, mask_BL)
