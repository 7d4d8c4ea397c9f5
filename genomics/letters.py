"""Letters: their ids, the reverse complement, and padded batches.

    >>> from hyenadna.genomics.letters import encode, reverse_complement
    >>> encode("ACGT").tolist()
    [7, 8, 9, 10]
    >>> reverse_complement("AACg")
    'cGTT'

The ids are those of the tokenizer, one byte each. A lower-case letter (a soft-masked base) has
`SOFT_MASKED` added to its id, because the loss may treat it differently. `ids % SOFT_MASKED` gives
the tokens.

All of this is for DNA unless another alphabet is given.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from hyenadna.errors import InputError
from hyenadna.tokenization.alphabets_hyenadna import DNA, SPECIAL_TOKENS, UNKNOWN, Alphabet

__all__ = [
    "DNA",
    "FIRST_BASE",
    "ID_OF_BYTE",
    "LAST_BASE",
    "PAD",
    "SEP",
    "SOFT_MASKED",
    "UNK",
    "Alphabet",
    "bytes_to_ids",
    "complement_ids",
    "encode",
    "first_wrong",
    "in_all",
    "is_base",
    "is_exact",
    "pad",
    "reverse_complement",
    "strand_free",
]

SEP = SPECIAL_TOKENS.index("[SEP]")
PAD = SPECIAL_TOKENS.index("[PAD]")
UNK = UNKNOWN

# Of DNA: A, C, G and T have consecutive ids, and in this order pairs mirror each other:
# A + T == C + G.
FIRST_BASE = DNA.vocabulary["A"]
LAST_BASE = DNA.vocabulary["T"]

# Above every id of any alphabet, so that both cases fit into one byte and `%` separates them.
SOFT_MASKED = 128

# Each letter of the IUPAC code, and below it the letter it pairs with. U pairs as T does.
_IUPAC = "ACGTUNRYSWKMBDHV"
_PAIRS = "TGCAANYRSWMKVHDB"
_COMPLEMENT = str.maketrans(_IUPAC + _IUPAC.lower(), _PAIRS + _PAIRS.lower())


@lru_cache
def bytes_to_ids(alphabet: Alphabet = DNA) -> bytes:
    """Return the id of each of the 256 bytes that `alphabet.pack` makes, for `bytes.translate`.

    With `SOFT_MASKED` for lower case, where case does not matter. `[UNK]` for what is no letter.
    """
    ids = alphabet.id_of_byte(alphabet.ignores_case)
    as_written = alphabet.id_of_byte(ignores_case=False)
    for byte in range(ord("a"), ord("z") + 1):
        # Lower case that is read like a capital: it is a letter only if case does not matter.
        if ids[byte] != UNK and as_written[byte] == UNK:
            ids[byte] += SOFT_MASKED
    return ids.astype(np.uint8).tobytes()


ID_OF_BYTE = bytes_to_ids(DNA)


@lru_cache
def _complement_table(alphabet: Alphabet) -> np.ndarray:
    """Return the id that pairs with each id. What is no letter pairs with itself."""
    ids = np.arange(2 * SOFT_MASKED, dtype=np.uint8)
    for letter, partner in zip(alphabet.letters, _pairs(alphabet), strict=True):
        for case in (0, SOFT_MASKED):
            ids[case + alphabet.vocabulary[letter]] = case + alphabet.vocabulary[partner]
    return ids


def _pairs(alphabet: Alphabet) -> tuple[str, ...]:
    if alphabet.complement is None:
        raise InputError(
            f"the alphabet {alphabet.spec!r} has no complement, and so there is no second strand to read"
        )
    return alphabet.complement


def encode(sequence: str, alphabet: Alphabet = DNA) -> npt.NDArray[np.uint8]:
    """Return the ids of the letters, uint8 `(length,)`, with `SOFT_MASKED` added for lower case.

    Raises:
        InputError: A character is no letter of the alphabet. The message says which one is first,
            and how many there are.

    >>> (encode("acNR") % SOFT_MASKED).tolist()
    [7, 8, 11, 11]
    """
    ids = alphabet.pack(sequence).translate(bytes_to_ids(alphabet))
    if UNK in ids:  # for short sequences a tenth of the time of a search by numpy
        character, position, total = first_wrong(sequence, alphabet)
        raise InputError(f"{character!r} at position {position} is no {alphabet.meaning}{total}")
    return np.frombuffer(ids, np.uint8)


def first_wrong(sequence: str, alphabet: Alphabet = DNA) -> tuple[str, int, str]:
    """Return the first character of a sequence that is no letter, and its position.

    The third text says how many there are in all, if there are several.

    >>> first_wrong("AC-G-")
    ('-', 2, ' (2 such characters in all)')
    """
    packed = alphabet.pack(sequence)
    ids = packed.translate(bytes_to_ids(alphabet))
    position = len(alphabet.unpack(packed[: ids.index(UNK)]))
    return sequence[position], position, in_all(ids)


def in_all(ids: bytes) -> str:
    """Say how many of these ids stand for no letter, if there are several."""
    count = ids.count(UNK)
    return f" ({count:,} such characters in all)" if count > 1 else ""


def is_base(ids: np.ndarray) -> npt.NDArray[np.bool_]:
    """Return which ids are A, C, G or T of DNA. For lower case too, pass `ids % SOFT_MASKED`.

    >>> is_base(encode("ACN")).tolist()
    [True, True, False]
    """
    return (ids >= FIRST_BASE) & (ids <= LAST_BASE)


@lru_cache
def is_exact(alphabet: Alphabet = DNA) -> npt.NDArray[np.bool_]:
    """Return which ids are letters that stand for themselves alone, bool `(128,)`.

    Not N, nor a special token: these are context only.

    >>> np.flatnonzero(is_exact()).tolist()
    [7, 8, 9, 10]
    """
    exact = np.zeros(SOFT_MASKED, dtype=bool)
    exact[[i for letter, i in alphabet.vocabulary.items() if letter not in alphabet.ambiguous]] = True
    exact[: len(SPECIAL_TOKENS)] = False
    return exact


def complement_ids(ids: np.ndarray, alphabet: Alphabet = DNA) -> np.ndarray:
    """Return the ids of the other strand, read 5' to 3'. Case is kept.

    Raises:
        InputError: The alphabet has no complement.

    >>> complement_ids(encode("AACg")).tolist() == encode("cGTT").tolist()
    True
    """
    return _complement_table(alphabet)[ids[::-1]]


def reverse_complement(sequence: str, alphabet: Alphabet = DNA) -> str:
    """Return the other strand of `sequence`, read 5' to 3'.

    Case is kept, so soft-masking survives. Characters without a partner are kept as they are.

    Raises:
        InputError: The alphabet has no complement.

    >>> reverse_complement("AACg")
    'cGTT'
    """
    if alphabet == DNA:
        return sequence.translate(_COMPLEMENT)[::-1]
    partner = dict(zip(alphabet.letters, _pairs(alphabet), strict=True))
    if alphabet.ignores_case:
        partner |= {letter.lower(): other.lower() for letter, other in partner.items() if letter.isupper()}
    tokens = alphabet.tokens(alphabet.pack(sequence))
    return "".join(partner.get(token, token) for token in reversed(tokens))


def strand_free(sequence: str, alphabet: Alphabet = DNA) -> str:
    """Return the same text for spellings of one sequence, and for its reverse complement.

    Two sequences with the same text are the same molecule: case does not count, nor U against T. Of
    an alphabet without complement, the sequence read backwards is another one.

    >>> strand_free("aaCG") == strand_free("CGUU")
    True
    """
    if alphabet != DNA:
        ids = alphabet.pack(sequence).translate(bytes_to_ids(alphabet))
        key = np.frombuffer(ids, np.uint8) % SOFT_MASKED
        strands = [key] if alphabet.complement is None else [key, complement_ids(key, alphabet)]
        return min(strand.tobytes().decode("latin-1") for strand in strands)
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
