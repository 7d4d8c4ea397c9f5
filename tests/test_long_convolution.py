import pytest
import torch

from hyenadna.long_convolution import long_convolution, next_fast_length

from . import reference


@pytest.mark.parametrize("length", [1, 2, 3, 17, 64, 97, 500, 1026])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equals_the_sum(length, dtype):
    generator = torch.Generator().manual_seed(length)
    u = torch.randn(3, 5, length, generator=generator, dtype=torch.float64)
    k = torch.randn(5, length, generator=generator, dtype=torch.float64)
    skip = torch.randn(5, generator=generator, dtype=torch.float64)
    expected = reference.causal_convolution(u, k, skip)
    y = long_convolution(u.to(dtype), k.to(dtype), skip.to(dtype))
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=tolerance * expected.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_computes_in_float32(dtype):
    u, k, skip = torch.randn(2, 3, 50).to(dtype), torch.randn(3, 50), torch.randn(3)
    y = long_convolution(u, k, skip)
    assert y.dtype == dtype
    torch.testing.assert_close(y, long_convolution(u.float(), k, skip).to(dtype), rtol=0, atol=0)


def test_is_causal_and_linear():
    u, k, skip = torch.randn(1, 2, 30).double(), torch.randn(2, 30).double(), torch.randn(2).double()
    y = long_convolution(u, k, skip)
    torch.testing.assert_close(long_convolution(u[..., :11], k[..., :11], skip), y[..., :11])
    torch.testing.assert_close(long_convolution(-2 * u, k, skip), -2 * y)


def test_next_fast_length():
    def slow(n):
        while True:
            m = n
            for p in (2, 3, 5, 7):
                while m % p == 0:
                    m //= p
            if m == 1 and n % 16 == 0:
                return n
            n += 1

    assert [next_fast_length(n) for n in range(1, 3000)] == [slow(n) for n in range(1, 3000)]
    for n in (2 * 65537 - 1, 2 * 450_002 - 1, 2 * 1_000_002 - 1):
        assert n <= next_fast_length(n) < 1.02 * n
