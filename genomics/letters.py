"""DNA letters: their ids, the reverse complement, and padded batches.

    >>> from hyenadna.genomics.letters import encode, reverse_complement
    >>> encode("ACGT").tolist()
    [7, 8, 9, 10]
    >>> reverse_complement("AACg")
    'cGTT'

The ids are those of the tokenizer, one byte each. A lower-case letter (a soft-masked base) has
`SOFT_MASKED` added to its id, because the loss may treat it differently. `ids % SOFT_MASKED` gives
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

# A, C, G and T have consecutive ids, and in this order pairs mirror each other: A + T == C + G.
FIRST_BASE = VOCABULARY["A"]
LAST_BASE = VOCABULARY["T"]

# Above every id of the vocabulary, so that both cases fit into one byte and `%` separates them.
SOFT_MASKED = 16

# Each letter of the IUPAC code, and below it the letter it pairs with. U pairs as T does.
_IUPAC = "ACGTUNRYSWKMBDHV"
_PAIRS = "TGCAANYRSWMKVHDB"
_COMPLEMENT = str.maketrans(_IUPAC + _IUPAC.lower(), _PAIRS + _PAIRS.lower())


def _byte_table() -> bytes:
    """Return the id of each of the 256 bytes.

    U becomes T, other IUPAC codes become N, and everything else `[UNK]`.
    """
    ids = np.full(256, UNK, dtype=np.uint8)
    for letter in _IUPAC:
        base = "T" if letter == "U" else letter
        ids[ord(letter)] = VOCABULARY.get(base, N)
        ids[ord(letter.lower())] = ids[ord(letter)] + SOFT_MASKED
    return ids.tobytes()


def _complement_table() -> np.ndarray:
    """Return the id that pairs with each id. What is no base pairs with itself."""
    ids = np.arange(2 * SOFT_MASKED, dtype=np.uint8)
    for case in (0, SOFT_MASKED):
        # The four ids mirror (see `FIRST_BASE`), so reversing them swaps A with T and C with G.
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
    # `replace`, because a lone surrogate has no encoding. It becomes "?", which is refused below.
    ids = sequence.encode(errors="replace").translate(ID_OF_BYTE)
    position = ids.find(UNK)  # for short sequences a tenth of the time of a search by numpy
    if position >= 0:
        raise InputError(f"{sequence[position]!r} at position {position} is no IUPAC letter for a nucleotide")
    return np.frombuffer(ids, np.uint8)


def is_base(ids: np.ndarray) -> npt.NDArray[np.bool_]:
    """Return which ids are A, C, G or T. For lower case too, pass `ids % SOFT_MASKED`.

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
    """Return the same text for a sequence and its reverse complement, whatever the case, U or T.

    Two sequences with the same text are the same double-stranded DNA.

    >>> strand_free("aaCG") == strand_free("CGUU")
    True
    """
    # Of the two strands, the one that comes first in the alphabet.
    sequence = sequence.upper().replace("U", "T")
    return min(sequence, reverse_complement(sequence))


def pad(rows: Sequence[np.ndarray]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return token ids, int64 `(rows, longest)`, padded on the right, and lengths, int64 `(rows,)`.

    In a causal model no base sees the pads to its right, so no attention mask is needed.
    Soft-masking is dropped.

    >>> pad([encode("ACG"), encode("t")])[0].tolist()
    [[7, 8, 9], [10, 4, 4]]
    """
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    tokens = np.full((len(rows), int(lengths.max(initial=0))), PAD, dtype=np.int64)
    for row, ids in enumerate(rows):
        tokens[row, : len(ids)] = ids % SOFT_MASKED
    return tokens, lengths
