"""Letters of DNA: their ids, the other strand, and batches of equal length.

    >>> from hyenadna.genomics.letters import encode, reverse_complement
    >>> encode("ACGT").tolist()
    [7, 8, 9, 10]
    >>> reverse_complement("AACg")
    'cGTT'

Ids are those of the tokenizer, one byte each. A lower-case letter (a soft-masked base) has
`SOFT_MASKED` added to its id, because the loss may treat it differently: `ids % SOFT_MASKED` are
the tokens.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hyenadna.errors import InputError
from hyenadna.tokenization.tokenization_hyenadna import VOCABULARY

__all__ = [
    "FIRST_BASE",
    "ID_OF_BYTE",
    "LAST_BASE",
    "PAD",
    "SEP",
    "SOFT_MASKED",
    "UNK",
    "VOCABULARY",
    "N",
    "complement_ids",
    "encode",
    "is_base",
    "pad",
    "reverse_complement",
    "strand_free",
]

SEP = VOCABULARY["[SEP]"]
PAD = VOCABULARY["[PAD]"]
UNK = VOCABULARY["[UNK]"]
N = VOCABULARY["N"]

# A, C, G and T are neighbours in the vocabulary, and they mirror: A + T == C + G.
FIRST_BASE = VOCABULARY["A"]
LAST_BASE = VOCABULARY["T"]

SOFT_MASKED = 16

# Each letter of the IUPAC code, and the one that pairs with it. U pairs like T.
_IUPAC = "ACGTUNRYSWKMBDHV"
_PAIRS = "TGCAANYRSWMKVHDB"
_COMPLEMENT = str.maketrans(_IUPAC + _IUPAC.lower(), _PAIRS + _PAIRS.lower())


def _byte_table() -> bytes:
    """The id of each byte: U is T, other IUPAC codes are N, and what is no letter of the code is
    `[UNK]`.
    """
    ids = np.full(256, UNK, dtype=np.uint8)
    for letter in _IUPAC:
        base = "T" if letter == "U" else letter
        ids[ord(letter)] = VOCABULARY.get(base, N)
        ids[ord(letter.lower())] = ids[ord(letter)] + SOFT_MASKED
    return ids.tobytes()


def _complement_table() -> np.ndarray:
    """The id that pairs with each id; what is no base pairs with itself."""
    ids = np.arange(2 * SOFT_MASKED, dtype=np.uint8)
    for case in (0, SOFT_MASKED):
        bases = slice(case + FIRST_BASE, case + LAST_BASE + 1)
        ids[bases] = ids[bases][::-1]
    return ids


ID_OF_BYTE = _byte_table()
_COMPLEMENT_OF_ID = _complement_table()


def encode(sequence: str) -> npt.NDArray[np.uint8]:
    """Return the ids of the letters, uint8 `(length,)`, with `SOFT_MASKED` added for lower case.

    Raises:
        InputError: A character is no IUPAC letter for a nucleotide.

    >>> encode("acNR").tolist()
    [23, 24, 11, 11]
    """
    ids = np.frombuffer(sequence.encode(errors="replace").translate(ID_OF_BYTE), np.uint8)
    wrong = np.flatnonzero(ids == UNK)
    if len(wrong):
        position = int(wrong[0])
        raise InputError(f"{sequence[position]!r} at position {position} is no IUPAC letter for a nucleotide")
    return ids


def is_base(ids: np.ndarray) -> npt.NDArray[np.bool_]:
    """Return which ids are A, C, G or T. Lower case is not: pass `ids % SOFT_MASKED` to count it.

    >>> is_base(encode("ACNt")).tolist()
    [True, True, False, False]
    """
    return (ids >= FIRST_BASE) & (ids <= LAST_BASE)


def complement_ids(ids: np.ndarray) -> np.ndarray:
    """Return the ids of the other strand, read 5' to 3'. Case is kept.

    >>> complement_ids(encode("AACg")).tolist() == encode("cGTT").tolist()
    True
    """
    return _COMPLEMENT_OF_ID[ids[::-1]]


def reverse_complement(sequence: str) -> str:
    """Return the other strand of `sequence`, read 5' to 3'.

    Case is kept, so soft-masking survives. Letters outside of the IUPAC code are kept as they are.

    >>> reverse_complement("AACg")
    'cGTT'
    """
    return sequence.translate(_COMPLEMENT)[::-1]


def strand_free(sequence: str) -> str:
    """Return one spelling for a sequence and its reverse complement, whatever the case, U or T.

    Two sequences with the same spelling are the same double-stranded DNA.

    >>> strand_free("aaCG") == strand_free("CGUU")
    True
    """
    sequence = sequence.upper().replace("U", "T")
    return min(sequence, reverse_complement(sequence))


def pad(rows: Sequence[np.ndarray]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return token ids int64 `(rows, longest)`, padded on the right, and the lengths int64
    `(rows,)`.

    A causal model never sees pads on the right, so they need no attention mask. Soft-masking is
    dropped.

    >>> pad([encode("ACG"), encode("t")])[0].tolist()
    [[7, 8, 9], [10, 4, 4]]
    """
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    tokens = np.full((len(rows), int(lengths.max(initial=0))), PAD, dtype=np.int64)
    for row, ids in enumerate(rows):
        tokens[row, : len(ids)] = ids % SOFT_MASKED
    return tokens, lengths
