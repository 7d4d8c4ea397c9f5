"""One token per base."""

from .tokenization_hyenadna import HyenaDNATokenizer

__all__ = ["HyenaDNATokenizer"]
