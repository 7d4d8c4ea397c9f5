"""The core of the Hyena operator: short convolution - gates - causal long convolutions - gates, by FFT.

One differentiable operation that works through the channels in groups whose transforms stay in the cache, keeps no
spectrum, and saves only its inputs for the backward pass, which computes the rest again.

Shape suffixes: B batch, D channels (`d_model`), N order, C = (N + 1) * D projected channels, M = N - 1 convolutions,
L length, G channels of one group, R rows of one transform, F frequencies, T taps of the short convolution.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# glibc returns every large buffer that is freed to the system, and fresh pages cost as much as what is computed there,
# until one of up to 32 MB has been freed: from then on it keeps 64 MB. This one is never touched, and costs nothing.
torch.empty(31 * 2**20, dtype=torch.uint8, device="cpu")


def next_fast_length(length: int) -> int:
    """Smallest multiple of 16 that is >= `length` and whose only prime factors are 2, 3, 5 and 7.

    A symbolic length, of a graph that is exported for all lengths, comes back as it is, or it would become a constant.

    A transform whose length has a large prime factor costs several times as much, and one that vectors do not divide
    twice as much: 2058 = 2 * 3 * 7^3 against 2160 = 2^4 * 3^3 * 5.
    """
    if isinstance(length, torch.SymInt):
        return length
    length = -(-int(length) // 16) * 16  # `torch.jit.trace` hands out tensors, which would be changed in place
    while True:
        rest = length
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 16


def groups(batch: int, channels: int, length: int, device: torch.device) -> list[tuple[slice, slice]]:
    """Parts of the batch and of the channels to work on at a time, as (batch, channel) slices, all about as large.

    On a CPU a buffer of their transforms fits the cache (2**20 float32 numbers); but eight long rows at a time are
    transformed twice as fast (a row) as two, unless the buffer is so large (2**23) that its memory is always fresh. A
    GPU wants large launches.
    """
    n = next_fast_length(2 * length - 1)
    rows = max(2, 2**20 // n, min(8, 2**23 // n)) if device.type == "cpu" else max(2, 2**27 // n)
    some = _even(batch, rows)
    wide = _even(channels, max(1, rows // some))
    return [
        (slice(b, min(b + some, batch)), slice(c, min(c + wide, channels)))
        for c in range(0, channels, wide)
        for b in range(0, batch, some)
    ]


def _even(total: int, most: int) -> int:
    """Size of the parts of `total` that are at most `most` large and as equal as they can be."""
    return -(-total // -(-total // most))


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
    n = next_fast_length(2 * length)
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


def product(a: Tensor, b: Tensor) -> Tensor:
    """Product over a batch, of which one side may be a single matrix. `matmul` would copy what is transposed."""
    batch = len(a) if a.ndim == 3 else len(b)
    if batch == 1:
        return torch.mm(a.reshape(a.shape[-2:]), b.reshape(b.shape[-2:]))[None]
    return torch.bmm(*(x if x.ndim == 3 else x.expand(batch, -1, -1) for x in (a, b)))


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
        return gu_BLD, product(g_BCL, u_BLD).sum(0) if ctx.needs_input_grad[1] else None


def project(u_BLD: Tensor, weight_CD: Tensor) -> Tensor:
    """`u @ weight.T`, with channels before positions: (batch, channels, length).

    A differentiable operation of its own for the layout: results and gradients come out contiguous in the order in
    which the next operation reads them.
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
    """The linear layer from channels before positions back to (batch, length, d_model); see `project`."""
    return _ProjectBack.apply(y_BDL, weight_DD, bias_D)


class Transform:
    """Zero-padded transforms of rows of `length` numbers, in a buffer that is used again for every group."""

    def __init__(self, length: int, dtype: torch.dtype, device: torch.device):
        self.length, self.n = length, next_fast_length(2 * length - 1)
        self.padded = torch.zeros(0, self.n, dtype=dtype, device=device)

    def fits(self, length: int, dtype: torch.dtype, device: torch.device) -> bool:
        return (self.length, self.padded.dtype, self.padded.device) == (length, dtype, device)

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


class _ShortConvolution:
    """The short convolution of the projections, for one part (gate or value) and one group of channels at a time.

    Without a mask it reads the projections as they are, and their bias goes into its own: a pass less. Then the first
    results have too much of it, because taps before the sequence read zeros, not the bias.
    """

    def __init__(self, p_BCL, in_bias_C, short_CT, short_bias_C, mask_BL, channels: int, dtype: torch.dtype):
        self.p_BPDL, self.taps = p_BCL.unflatten(1, (-1, channels)), short_CT.shape[1]
        self.w_PDT = short_CT.to(dtype).view(-1, channels, self.taps)
        self.bias_PD1 = short_bias_C.to(dtype).view(-1, channels, 1)
        in_bias_C = torch.zeros_like(short_bias_C) if in_bias_C is None else in_bias_C
        self.in_bias_PD1 = in_bias_C.to(dtype).view(-1, channels, 1)
        self.pad_BL = None if mask_BL is None else ~mask_BL
        if mask_BL is None:
            bias_PDT = self.in_bias_PD1 * self.w_PDT.cumsum(-1)  # in the last column that of all taps
            self.bias_PD1 = self.bias_PD1 + bias_PDT[..., -1:]
            self.excess_PDT = bias_PDT[..., :-1].flip(-1)[..., : p_BCL.shape[-1]]

    def input(self, part: int, b: slice, d: slice) -> Tensor:
        q_BGL = self.p_BPDL[b, part, d].to(self.w_PDT.dtype)
        if self.pad_BL is None:
            return q_BGL
        return (q_BGL + self.in_bias_PD1[part, d]).masked_fill_(self.pad_BL[b, None], 0)

    def forward(self, part: int, b: slice, d: slice) -> Tensor:
        x_BGL = short_convolution(self.input(part, b, d), self.w_PDT[part, d], self.bias_PD1[part, d, 0])
        if self.pad_BL is None:
            x_BGL[..., : self.taps - 1] -= self.excess_PDT[part, d]
        elif part == len(self.w_PDT) - 1:  # the value: the bias has filled the pads; from here on zeros stay zeros
            x_BGL.masked_fill_(self.pad_BL[b, None], 0)
        return x_BGL

    def start_gradients(self) -> None:
        self.gp_BPDL = torch.empty(self.p_BPDL.shape, dtype=self.p_BPDL.dtype, device=self.p_BPDL.device)
        self.gw_PDT, self.gbias_PD = torch.zeros_like(self.w_PDT), torch.zeros_like(self.bias_PD1[..., 0])
        self.gin_bias_PD = torch.zeros_like(self.gbias_PD)

    def backward(self, gx_BGL: Tensor, part: int, b: slice, d: slice) -> None:
        """Add what follows from the gradient of a result of `forward`, which is overwritten."""
        if self.pad_BL is not None and part == len(self.w_PDT) - 1:
            gx_BGL.masked_fill_(self.pad_BL[b, None], 0)
        q_BGL, w_GT, taps = self.input(part, b, d), self.w_PDT[part, d], self.taps
        length, gp_BGL = gx_BGL.shape[-1], self.gp_BPDL[b, part, d]
        direct = gp_BGL.dtype == gx_BGL.dtype
        gq_BGL = torch.mul(gx_BGL, w_GT[:, -1:], out=gp_BGL if direct else None)
        product, sums = torch.empty_like(gx_BGL), []
        for lag in range(min(taps, length)):
            here = gx_BGL[..., lag:]
            sums.append(torch.mul(here, q_BGL[..., : length - lag], out=product[..., lag:]).sum((0, 2)))
            if lag:
                gq_BGL[..., :-lag].addcmul_(here, w_GT[:, taps - 1 - lag, None])
        sums += [torch.zeros_like(sums[0])] * (taps - len(sums))
        gw_GT, gbias_G = torch.stack(sums[::-1], dim=-1), gx_BGL.sum((0, 2))
        if self.pad_BL is None:  # a tap reads the bias of the projections wherever it lies in the sequence
            head_GT = F.pad(gx_BGL[..., : taps - 1].sum(0), (1, max(0, taps - 1 - length))).cumsum(-1)
            seen_GT = (gbias_G[:, None] - head_GT).flip(-1)
            gw_GT.addcmul_(seen_GT, self.in_bias_PD1[part, d])
            self.gin_bias_PD[part, d] += (seen_GT * w_GT).sum(-1)
        else:
            gq_BGL.masked_fill_(self.pad_BL[b, None], 0)
            self.gin_bias_PD[part, d] += gq_BGL.sum((0, 2))
        self.gw_PDT[part, d] += gw_GT
        self.gbias_PD[part, d] += gbias_G
        if not direct:
            gp_BGL.copy_(gq_BGL)


class _GatedLongConvolution(torch.autograd.Function):
    """See `gated_long_convolution`. Parts 0 .. N - 1 of the projections are the gates, part N is the value."""

    @staticmethod
    def forward(ctx, p_BCL, in_bias_C, short_CT, short_bias_C, k_MDL, skip_MD, mask_BL):
        ctx.save_for_backward(p_BCL, in_bias_C, short_CT, short_bias_C, k_MDL, skip_MD, mask_BL)
        (batch, _, length), (convolutions, channels, _) = p_BCL.shape, k_MDL.shape
        short = _ShortConvolution(p_BCL, in_bias_C, short_CT, short_bias_C, mask_BL, channels, k_MDL.dtype)
        fft = Transform(length, k_MDL.dtype, p_BCL.device)
        y_BDL = torch.empty(batch, channels, length, dtype=p_BCL.dtype, device=p_BCL.device)
        spectra, last = None, None
        for b, d in groups(batch, channels, length, p_BCL.device):
            if d != last:
                spectra, last = fft.filters(k_MDL[:, d], skip_MD[:, d]), d
            v = short.forward(convolutions + 1, b, d)
            for o in range(convolutions):
                u = torch.mul(v, short.forward(convolutions - o, b, d), out=fft.buffer(*v.shape[:2]))
                v = fft.inverse(fft.forward(u).mul_(spectra[o]))
            y_BDL[b, d] = short.forward(0, b, d).mul_(v)
        return y_BDL

    @staticmethod
    @once_differentiable
    def backward(ctx, gy_BDL):
        p_BCL, in_bias_C, short_CT, short_bias_C, k_MDL, skip_MD, mask_BL = ctx.saved_tensors
        (batch, _, length), (convolutions, channels, _) = p_BCL.shape, k_MDL.shape
        short = _ShortConvolution(p_BCL, in_bias_C, short_CT, short_bias_C, mask_BL, channels, k_MDL.dtype)
        short.start_gradients()
        fft = Transform(length, k_MDL.dtype, p_BCL.device)
        gk_MDL, gk_spectra = torch.empty_like(k_MDL), None
        spectra, last = None, None

        def finish(d):  # the filters' gradient is summed over the batch as the conjugate of a spectrum
            for o, spectrum in enumerate(gk_spectra):
                gk_MDL[o, d] = fft.inverse(spectrum.conj_physical_())

        for b, d in groups(batch, channels, length, p_BCL.device):
            if d != last:
                if last is not None:
                    finish(last)
                spectra, last = fft.filters(k_MDL[:, d], skip_MD[:, d]), d
                gk_spectra = [None] * convolutions
            # 1. The forward pass again, keeping what each convolution saw and what it gave.
            x = [short.forward(part, b, d) for part in range(convolutions + 2)]
            values, inputs = [x.pop()], []
            for o in range(convolutions):
                u = torch.mul(values[-1], x[convolutions - o], out=fft.buffer(*values[-1].shape[:2]))
                inputs.append(fft.forward(u))
                values.append(fft.inverse(inputs[-1] * spectra[o]))
            # 2. Back through the gates and the convolutions. The gradients are correlations, conj(U) G and conj(K) G:
            # both are taken from the conjugate of G.
            gy = gy_BDL[b, d].to(k_MDL.dtype)
            short.backward(values.pop().mul_(gy), 0, b, d)
            gv = torch.mul(gy, x[0], out=fft.buffer(*gy.shape[:2]))
            for o in reversed(range(convolutions)):
                spectrum = fft.forward(gv).conj_physical_()
                part = inputs.pop().mul_(spectrum)
                part = part[0] if len(part) == 1 else part.sum(0)
                gk_spectra[o] = part if gk_spectra[o] is None else gk_spectra[o].add_(part)
                gu = fft.inverse(spectrum.mul_(spectra[o]).conj_physical_())
                short.backward(values.pop().mul_(gu), convolutions - o, b, d)
                gv = torch.mul(gu, x[convolutions - o], out=fft.buffer(*gu.shape[:2]) if o else gu)
            short.backward(gv, convolutions + 1, b, d)
        finish(last)
        return (
            short.gp_BPDL.flatten(1, 2),
            None if in_bias_C is None else short.gin_bias_PD.flatten().to(in_bias_C.dtype),
            short.gw_PDT.flatten(0, 1).to(short_CT.dtype),
            short.gbias_PD.flatten().to(short_bias_C.dtype),
            gk_MDL,
            gk_MDL[..., 0].to(skip_MD.dtype),
            None,
        )


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
