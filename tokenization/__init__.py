"""One token per base, or per letter of another alphabet."""

from .alphabets_hyenadna import Alphabet, find_alphabet
from .tokenization_hyenadna import HyenaDNATokenizer

__all__ = ["Alphabet", "HyenaDNATokenizer", "find_alphabet"]
