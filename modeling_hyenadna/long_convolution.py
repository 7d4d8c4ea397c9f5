"""The core of the Hyena operator: short convolution, gates and causal long convolutions by FFT.

It is one differentiable operation. It works through the channels in groups small enough for their
transforms to stay in the processor's cache. It keeps no spectrum: for the backward pass it saves
its inputs alone, and computes the rest again.

Shape suffixes: B batch, D channels (`d_model`), N order, C = (N + 1) * D projected channels,
M = N - 1 convolutions, L length, G channels of one group, R rows of one transform, F frequencies,
T taps of the short convolution.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# By default glibc returns every large buffer to the system when it is freed, and fresh pages cost
# as much time as what is computed in them. Freeing one buffer of just under 32 MB raises its
# limits: from then on it keeps up to 64 MB for reuse. Nothing writes to this buffer, so it takes no
# memory.
torch.empty(31 * 2**20, dtype=torch.uint8, device="cpu")


def next_fast_length(length: int) -> int:
    """Return the smallest multiple of 16 >= `length` whose only prime factors are 2, 3, 5 and 7.

    A large prime factor makes a transform several times as slow. A length that is not a multiple of
    the vector width makes it twice as slow: 2058 = 2 * 3 * 7^3 against 2160 = 2^4 * 3^3 * 5.

    A symbolic length, in a graph that is exported for all lengths, is returned unchanged: the
    search would turn it into a constant.
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
    """Cut the batch and the channels into slices of about equal size, and return both lists.

    A group is one slice of the batch with one slice of the channels. Its rows are transformed
    together.
    """
    n = next_fast_length(2 * length - 1)
    if device.type == "cpu":
        # 2**20 float32 numbers fit in the cache. Long sequences need more, but eight rows at a time
        # still take half the time per row that two take, until the buffer is so large (2**23) that
        # glibc returns it to the system after each use.
        rows = max(2, 2**20 // n, min(8, 2**23 // n))
    else:
        # A GPU is busy only with large launches: 2**27 numbers are 512 MB.
        rows = max(2, 2**27 // n)
    batch_size = _even(batch, rows)
    width = _even(channels, max(1, rows // batch_size))
    return _slices(batch, batch_size), _slices(channels, width)


def _slices(total: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


def _even(total: int, most: int) -> int:
    """Return the size of the parts when `total` is cut evenly into parts of at most `most`."""
    count = math.ceil(total / most)
    return math.ceil(total / count)


def long_convolution(u_BDL: Tensor, k_DL: Tensor, skip_D: Tensor) -> Tensor:
    """Convolve each channel causally with its filter, and add a skip.

    `y[t] = sum_{s<=t} k[t-s] u[s] + skip * u[t]`. It is linear, not circular: the transforms are at
    least `2 * L - 1` long, so nothing wraps around (arXiv 2302.10866, section 2). This is the short
    form, in one piece. It serves traced graphs and the continuation of a cache.

    Args:
        u_BDL: Input of shape (batch, channels, length).
        k_DL: Filters of shape (channels, length), in float32 or float64, which is also the type of
            the computation.
        skip_D: Weight of the input itself, of shape (channels,).

    Returns:
        A tensor of the shape and type of `u_BDL`.
    """
    length = u_BDL.shape[-1]
    # On a ring of 2 L - 1 or more positions, the zero-padded product wraps around into positions
    # from L on only, which are cut off.
    n = next_fast_length(2 * length)
    # In bfloat16 the sums over thousands of lags would lose most of their digits.
    u = u_BDL.to(k_DL.dtype)
    y_BDF = torch.fft.rfft(u, n=n) * torch.fft.rfft(k_DL, n=n)
    y_BDL = torch.fft.irfft(y_BDF, n=n)[..., :length] + skip_D.to(k_DL.dtype)[:, None] * u
    return y_BDL.to(u_BDL.dtype)


def short_convolution(
    x_RL: Tensor, w_RT: Tensor, b_R: Tensor, halo: int = 0, out: Tensor | None = None
) -> Tensor:
    """Convolve along the last dimension with T taps, causally, and add a bias.

    This is a sum of shifted multiples: PyTorch's depthwise `conv1d` is ten times slower on a CPU.
    The first `halo` positions of `x_RL` are only read: the result begins after them.
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
    """Multiply matrices over a batch; either side may be a single matrix.

    `matmul` would copy a transposed side first; `mm` and `bmm` read it in place.
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
    """Apply the output layer and put positions first again: (batch, length, d_model).

    See `project` for why it is an operation of its own.
    """
    return _ProjectBack.apply(y_BDL, weight_DD, bias_D)


class Transform:
    """Zero-padded transforms of rows of `length` numbers, all in one reused buffer.

    The padding is written once, when the buffer is made: what is written later are the first
    `length` numbers of each row, and `rfft` does not change its input.
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
        padded_x = self.buffer(*x.shape[:-1])
        # A caller that computes `x` straight into the buffer saves the copy.
        if padded_x.data_ptr() != x.data_ptr():
            padded_x.copy_(x)
        return torch.fft.rfft(self.padded[: x.shape[:-1].numel()]).view(*x.shape[:-1], -1)

    def filters(self, k_MGL: Tensor, skip_MG: Tensor) -> Tensor:
        """Return spectra of filters with their skips: `y += skip * u` adds to the weight of lag 0."""
        k = self.buffer(*k_MGL.shape[:-1]).copy_(k_MGL)
        k[..., 0] += skip_MG
        return self.forward(k)

    def inverse(self, spectrum: Tensor) -> Tensor:
        """The first `length` numbers of the signal with this spectrum."""
        return torch.fft.irfft(spectrum, n=self.n)[..., : self.length]


class _ShortConvolution:
    """The short convolution, for one projection (a gate or the value) and one group at a time.

    Without a mask, the projections' bias b is folded into the convolution's own, which saves a
    pass: `sum_lag w[lag] (q[t - lag] + b) = sum_lag w[lag] q[t - lag] + b sum_lag w[lag]`. At the
    first T - 1 positions that is too much: taps that reach back before the sequence read zeros, not
    b. `excess` is what has to be subtracted there. With a mask the bias is added first, since pads
    must be zeros.
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
            # Taps run from the highest lag to lag 0, so entry t of the running sum is what the taps
            # from the highest lag to lag T - 1 - t make of the bias. The last entry is all of them.
            # The others, in reverse, are what the first positions have too much of: position 0
            # lacks every lag but 0, position T - 2 only the highest.
            bias_PDT = self.in_bias_PD1 * self.w_PDT.cumsum(-1)
            self.bias_PD1 = self.bias_PD1 + bias_PDT[..., -1:]
            self.excess_PDT = bias_PDT[..., :-1].flip(-1)[..., : p_BCL.shape[-1]]

    def input(self, p: int, b: slice, d: slice) -> Tensor:
        """Return projection `p` of a group, with its bias unless that is folded in; pads are zero."""
        q_BGL = self.p_BPDL[b, p, d].to(self.w_PDT.dtype)
        if self.pad_BL is None:
            return q_BGL
        return (q_BGL + self.in_bias_PD1[p, d]).masked_fill_(self.pad_BL[b, None], 0)

    def forward(self, p: int, b: slice, d: slice) -> Tensor:
        x_BGL = short_convolution(self.input(p, b, d), self.w_PDT[p, d], self.bias_PD1[p, d, 0])
        if self.pad_BL is None:
            x_BGL[..., : self.taps - 1] -= self.excess_PDT[p, d]
        elif p == self.value:
            # The short convolution's bias has filled the pads. Gates need no mask: the value is a
            # factor of every product, so zeros stay zeros.
            x_BGL.masked_fill_(self.pad_BL[b, None], 0)
        return x_BGL

    def start_gradients(self) -> None:
        self.gp_BPDL = torch.empty(self.p_BPDL.shape, dtype=self.p_BPDL.dtype, device=self.p_BPDL.device)
        self.gw_PDT = torch.zeros_like(self.w_PDT)
        self.gbias_PD = torch.zeros_like(self.bias_PD1[..., 0])
        self.gin_bias_PD = torch.zeros_like(self.gbias_PD)

    def backward(self, gx_BGL: Tensor, p: int, b: slice, d: slice) -> None:
        """Accumulate the gradients of projection `p` from `gx_BGL`, that of its result.

        `gx_BGL` is overwritten.
        """
        if self.pad_BL is not None and p == self.value:
            gx_BGL.masked_fill_(self.pad_BL[b, None], 0)
        q_BGL = self.input(p, b, d)
        gbias_G = gx_BGL.sum((0, 2))

        # From y[t] = sum_lag w[lag] q[t - lag] follow gq[t] = sum_lag w[lag] gy[t + lag], a
        # correlation, and gw[lag] = sum_t gy[t] q[t - lag].
        gw_GT = self._gradient_of_taps(gx_BGL, q_BGL)
        gq_BGL = self._gradient_of_input(gx_BGL, p, b, d)

        if self.pad_BL is None:
            # The folded bias b acts as a constant input. The tap of a lag reads it at all positions
            # but the first `lag`, so the sum of gy over the rest is what b and this tap have seen:
            # gw[lag] += b * seen[lag] and gb = sum_lag w[lag] seen[lag].
            length = gx_BGL.shape[-1]
            # A sum over the first `lag` positions for every lag is a running sum with a zero in front.
            missing = max(0, self.taps - 1 - length)  # lags longer than the sequence
            head_GT = F.pad(gx_BGL[..., : self.taps - 1].sum(0), (1, missing)).cumsum(-1)
            seen_GT = (gbias_G[:, None] - head_GT).flip(-1)
            gw_GT.addcmul_(seen_GT, self.in_bias_PD1[p, d])
            self.gin_bias_PD[p, d] += (seen_GT * self.w_PDT[p, d]).sum(-1)
        else:
            gq_BGL.masked_fill_(self.pad_BL[b, None], 0)
            self.gin_bias_PD[p, d] += gq_BGL.sum((0, 2))

        self.gw_PDT[p, d] += gw_GT
        self.gbias_PD[p, d] += gbias_G
        # In mixed precision the gradient was computed in another type than that of the projections.
        gp_BGL = self.gp_BPDL[b, p, d]
        if gq_BGL.data_ptr() != gp_BGL.data_ptr():
            gp_BGL.copy_(gq_BGL)

    def _gradient_of_taps(self, gx_BGL: Tensor, q_BGL: Tensor) -> Tensor:
        """Return (G, T), from the highest lag to lag 0.

        A product and a sum for each lag: `einsum` takes five times as long.
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
        """Return (B, G, L), written where it will be kept if the projections' type allows that."""
        w_GT = self.w_PDT[p, d]
        gp_BGL = self.gp_BPDL[b, p, d]
        out = gp_BGL if gp_BGL.dtype == gx_BGL.dtype else None
        gq_BGL = torch.mul(gx_BGL, w_GT[:, -1:], out=out)
        for lag in range(1, min(self.taps, gx_BGL.shape[-1])):
            gq_BGL[..., :-lag].addcmul_(gx_BGL[..., lag:], w_GT[:, self.taps - 1 - lag, None])
        return gq_BGL


class _GatedLongConvolution(torch.autograd.Function):
    """See `gated_long_convolution`. Projections 0 .. N - 1 are the gates, projection N the value."""

    @staticmethod
    def forward(ctx, p_BCL, in_bias_C, short_CT, short_bias_C, k_MDL, skip_MD, mask_BL):
        ctx.save_for_backward(p_BCL, in_bias_C, short_CT, short_bias_C, k_MDL, skip_MD, mask_BL)
        batch, _, length = p_BCL.shape
        convolutions, channels, _ = k_MDL.shape
        short = _ShortConvolution(p_BCL, in_bias_C, short_CT, short_bias_C, mask_BL, channels, k_MDL.dtype)
        fft = Transform(length, k_MDL.dtype, p_BCL.device)
        y_BDL = torch.empty(batch, channels, length, dtype=p_BCL.dtype, device=p_BCL.device)

        rows, groups = channel_groups(batch, channels, length, p_BCL.device)
        # Channels are the outer loop: a filter is transformed once for all rows of the batch.
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
            # The inverse transform is linear: one, of the sum over the batch, is enough.
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

    # 2. Back through the gates and the convolutions. Both gradients of a convolution are
    # correlations. With the spectra U, K and G of its input, its filter and the gradient of its
    # result, they are conj(U) G and conj(K) G. Computed as conj(U conj(G)) and conj(K conj(G)),
    # they share one conjugate of G, made in place, and U and K stay as they are. Each value and
    # spectrum is popped where it is used last, and then overwritten: the peak is what step 1 has
    # kept.
    short.backward(values.pop().mul_(gy_BGL), 0, b, d)
    gv = torch.mul(gy_BGL, gates[0], out=fft.buffer(*gy_BGL.shape[:2]))
    for m in reversed(range(convolutions)):
        spectrum = fft.forward(gv).conj_physical_()
        gk = inputs.pop().mul_(spectrum)
        gk = gk[0] if len(gk) == 1 else gk.sum(0)
        gk_spectra[m] = gk_spectra[m].add_(gk) if m in gk_spectra else gk
        gu = fft.inverse(spectrum.mul_(spectra_MGF[m]).conj_physical_())
        short.backward(values.pop().mul_(gu), convolutions - m, b, d)
        # The last gradient is not transformed, so it needs no padded buffer.
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
    """Everything between the two projections of a Hyena operator (arXiv 2302.10866, def. 3.1).

    `x_0 .. x_{N-1}, v` are the short convolution of `p + in_bias`. For i = N-1 .. 1 then `v = k_i *
    (v x_i) + skip_i v x_i`, where `*` is the causal convolution. The result is `v x_0`. It can be
    differentiated once, not twice.

    Args:
        p_BCL: Projections of shape (batch, (N + 1) * d_model, length), any strides, any floating
            type.
        in_bias_C: Added to `p_BCL`, or `None`.
        short_CT: Weights of the short convolution, of shape (channels, taps).
        short_bias_C: Its bias.
        k_MDL: Filters of shape (N - 1, d_model, length), in float32 or float64: the type of the
            computation.
        skip_MD: Skip weights of shape (N - 1, d_model).
        mask_BL: True where there is a token. Masked positions count as zeros. They all come before
            the tokens.

    Returns:
        A tensor of shape (batch, d_model, length) and of the type of `p_BCL`.
    """
    return _GatedLongConvolution.apply(p_BCL, in_bias_C, short_CT, short_bias_C, k_MDL, skip_MD, mask_BL)
