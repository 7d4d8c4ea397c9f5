"""The causal long convolution of the Hyena operator, by FFT.

Shape suffixes: B batch, D channels, L sequence length, F frequencies.
"""

import torch


def next_fast_length(length: int) -> int:
    """Smallest even number >= `length` whose only prime factors are 2, 3, 5 and 7.

    A transform whose length has a large prime factor costs several times as much.
    """
    length += length % 2
    while True:
        rest = length
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 2


def long_convolution(u_BDL: torch.Tensor, k_DL: torch.Tensor, skip_D: torch.Tensor) -> torch.Tensor:
    """Causal convolution with one filter per channel, plus a skip: `y[t] = sum_{s<=t} k[t-s] u[s] + skip * u[t]`.

    It is linear, not circular: the transforms are at least `2 * L - 1` long (arXiv 2302.10866, section 2).

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
