"""Alphabets: which letters have a token, how others are read, and which letters pair.

    >>> rna = find_alphabet("rna")
    >>> rna.letters, rna.vocabulary["U"]
    (('A', 'C', 'G', 'U', 'N'), 10)

A token is one letter, or a few: `Cl` and `[C@@H]` in SMILES. Each token packs into one byte, so that
arrays can look the tokens of a text up.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

SPECIAL_TOKENS = ("[CLS]", "[SEP]", "[BOS]", "[MASK]", "[PAD]", "[RESERVED]", "[UNK]")
FIRST_ID = len(SPECIAL_TOKENS)  # of the letters
UNKNOWN = SPECIAL_TOKENS.index("[UNK]")

# Ids stay below 128, so that a byte holds an id and one more bit: upper or lower case.
MOST_LETTERS = 128 - FIRST_ID
LONGEST_LETTER = 8  # characters; a token is compared as one 64-bit number
_FIRST_PACKED = 128  # the byte of the first token of several characters; ASCII ends before


@dataclass(frozen=True)
class Alphabet:
    """The letters of a kind of sequence.

    Attributes:
        name: `"dna"`, `"rna"`, `"protein"`, `"smiles"` or `"own"`.
        letters: The tokens from id 7 on.
        meaning: What a letter is, for messages.
        unit: What a position is, for messages: `"base"`, `"residue"`.
        read_as: Pairs of a letter and other characters that are read as it.
        ignores_case: Whether a lower-case letter without a token of its own is read as its capital.
        ambiguous: Letters that stand for several others, such as `N`. They are context only: no
            target of a loss, and not scored.
        complement: The letter that each letter pairs with, in the order of `letters`, or None if
            there is no second strand.
    """

    name: str
    letters: tuple[str, ...]
    meaning: str
    unit: str
    read_as: tuple[tuple[str, str], ...] = ()
    ignores_case: bool = True
    ambiguous: str = ""
    complement: tuple[str, ...] | None = None

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """Token -> id."""
        return {token: i for i, token in enumerate(SPECIAL_TOKENS + self.letters)}

    @property
    def is_named(self) -> bool:
        """Whether the name alone says which letters there are."""
        return self.name in NAMED

    @property
    def spec(self) -> str | list[str]:
        """What `find_alphabet` and the files need: the name, or one's own letters."""
        return self.name if self.is_named else _written(self.letters)

    @property
    def complement_spec(self) -> str | list[str] | None:
        """The complement of one's own letters; the named alphabets know theirs."""
        if self.is_named or self.complement is None:
            return None
        return _written(self.complement)

    @cached_property
    def long_letters(self) -> tuple[str, ...]:
        """The tokens of several characters, the longest first."""
        return tuple(sorted((letter for letter in self.letters if len(letter) > 1), key=len, reverse=True))

    @property
    def pattern(self) -> str:
        """A regular expression of the tokens of several characters, the longest first."""
        return "|".join(map(re.escape, self.long_letters))

    def read_like(self, letter: str, ignores_case: bool) -> str:
        """Return the other characters that are read as a letter, each once.

        >>> find_alphabet("dna").read_like("T", ignores_case=True)
        'Utu'
        """
        others = dict(self.read_as).get(letter, "")
        if ignores_case:
            others += (letter + others).lower()
        return "".join(dict.fromkeys(other for other in others if other not in self.letters))

    def id_of_byte(self, ignores_case: bool) -> np.ndarray:
        """Return the id of each byte that `pack` makes, int64 `(256,)`; `[UNK]` for all others."""
        ids = np.full(256, UNKNOWN, dtype=np.int64)
        for letter, i in self.vocabulary.items():
            if len(letter) == 1:
                ids[[ord(character) for character in letter + self.read_like(letter, ignores_case)]] = i
        for i, letter in enumerate(self.long_letters):
            ids[_FIRST_PACKED + i] = self.vocabulary[letter]
        return ids

    def pack(self, text: str) -> bytes:
        """Return one byte for each token of a text: its character, or a byte above ASCII.

        From left to right, the longest token that fits is taken. A character that is not ASCII
        becomes one zero byte, which is no letter.

        >>> find_alphabet("smiles").unpack(find_alphabet("smiles").pack("CC[C@@H](N)Cl"))
        'CC[C@@H](N)Cl'
        """
        if not text.isascii():
            text = re.sub(r"[^\x00-\x7f]", "\0", text)
        characters = text.encode()
        if not self.long_letters or len(characters) < 2:
            return characters
        packed = _pack(characters, self._tables)
        if packed is None:
            # Tokens that overlap in a chain, such as AB, BC and CD in ABCD: only reading from left
            # to right says which of them count.
            byte_of = self._byte_of
            return re.sub(self.pattern.encode(), lambda match: byte_of[match[0]], characters)
        return packed

    def unpack(self, packed: bytes) -> str:
        """Return the text of what `pack` returned."""
        return "".join(self.tokens(packed)) if self.long_letters else packed.decode(errors="replace")

    def tokens(self, packed: bytes) -> list[str]:
        """Return the text of each token of what `pack` returned."""
        return [
            self.long_letters[byte - _FIRST_PACKED] if byte >= _FIRST_PACKED else chr(byte) for byte in packed
        ]

    def count(self, text: str) -> int:
        """Return how many tokens a text has."""
        return len(self.pack(text)) if self.long_letters else len(text)

    @cached_property
    def _byte_of(self) -> dict[bytes, bytes]:
        return {letter.encode(): bytes([_FIRST_PACKED + i]) for i, letter in enumerate(self.long_letters)}

    @cached_property
    def _tables(self) -> "_LongLetters":
        return _LongLetters(self._byte_of)


def _written(letters: Sequence[str]) -> str | list[str]:
    """Return letters as one text, or as a list if some of them have several characters."""
    return "".join(letters) if all(len(letter) == 1 for letter in letters) else list(letters)


# ------------------------------------------------------------------------- tokens of many characters


class _LongLetters:
    """Tables that find tokens of several characters in an array of bytes."""

    def __init__(self, byte_of: dict[bytes, bytes]):
        # Whether any token begins with these two bytes, read as a little-endian number.
        self.begins = np.zeros(2**16, dtype=bool)
        # By length, the longest first: tokens as numbers (sorted), and the byte of each.
        self.by_length: list[tuple[int, np.ndarray, np.ndarray]] = []
        for length in sorted({len(token) for token in byte_of}, reverse=True):
            number = {int.from_bytes(t, "little"): b[0] for t, b in byte_of.items() if len(t) == length}
            numbers = sorted(number)
            packed = np.array([number[n] for n in numbers], dtype=np.uint8)
            self.by_length.append((length, np.array(numbers, dtype=np.uint64), packed))
        for token in byte_of:
            self.begins[int.from_bytes(token[:2], "little")] = True


def _pack(characters: bytes, tables: _LongLetters) -> bytes | None:
    """Replace tokens of several characters, or return None if they overlap in a chain.

    A pass over the text with a regular expression takes four times as long.
    """
    count = len(characters)
    padded = characters + bytes(LONGEST_LETTER)

    # 1. Candidates: where the first two characters fit. All pairs of neighbours are read as 16-bit
    #    numbers without a copy, first those at even positions, then those at odd ones.
    begins = np.zeros(count + 2, dtype=bool)
    for offset in (0, 1):
        pairs = np.ndarray((count // 2 + 1,), "<u2", buffer=padded, offset=offset)
        begins[offset : offset + 2 * len(pairs) : 2] = tables.begins[pairs]
    start = np.flatnonzero(begins[:count])

    # 2. The longest token at each: its first characters, read as one number, are in a table.
    window = np.ndarray((count,), "<u8", buffer=padded, strides=(1,))[start]
    length = np.zeros(len(start), dtype=np.int64)
    packed = np.zeros(len(start), dtype=np.uint8)
    for size, numbers, byte in tables.by_length:
        key = window & np.uint64(2 ** (8 * size) - 1)
        at = np.minimum(np.searchsorted(numbers, key), len(numbers) - 1)
        is_token = (numbers[at] == key) & (length == 0)
        length[is_token] = size
        packed[is_token] = byte[at[is_token]]

    # 3. What lies inside of an earlier token does not count: Cl in [Cl-].
    is_token = length > 0
    start = start[is_token]
    length = length[is_token]
    end = start + length
    reached = np.maximum.accumulate(np.concatenate([[0], end[:-1]]))
    is_inside = start < reached
    if (end[is_inside] > reached[is_inside]).any():
        return None
    start = start[~is_inside]
    length = length[~is_inside]

    # 4. The first character of a token becomes its byte, and the others go.
    bytes_out = np.frombuffer(characters, np.uint8).copy()
    bytes_out[start] = packed[is_token][~is_inside]
    stays = np.ones(count, dtype=bool)
    for following in range(1, LONGEST_LETTER):
        stays[start[length > following] + following] = False
    return bytes_out[stays].tobytes()


# ------------------------------------------------------------------------------------ the alphabets

_IUPAC_OF_SEVERAL = "RYSWKMBDHV"  # nucleotide codes for two bases or three

DNA = Alphabet(
    name="dna",
    letters=tuple("ACGTN"),  # the published ids
    meaning="IUPAC letter for a nucleotide",
    unit="base",
    read_as=(("T", "U"), ("N", _IUPAC_OF_SEVERAL)),
    ambiguous="N",
    complement=tuple("TGCAN"),
)
RNA = Alphabet(
    name="rna",
    letters=tuple("ACGUN"),  # U at the id of T: a model of DNA can go on with RNA
    meaning="IUPAC letter for a nucleotide",
    unit="base",
    read_as=(("U", "T"), ("N", _IUPAC_OF_SEVERAL)),
    ambiguous="N",
)
PROTEIN = Alphabet(
    name="protein",
    # In the order of ProtHyena (doi 10.1002/imo2.45), whose rows therefore fit. X is any amino acid,
    # B is D or N, Z is E or Q, U selenocysteine, O pyrrolysine.
    letters=tuple("DNEKVYAQMITLRFGCSPHWXUBOZ"),
    meaning="IUPAC letter for an amino acid",
    unit="residue",
    read_as=(("X", "J*"),),  # J is I or L; * is a stop codon
    ambiguous="XBZ",
)
_BRACKET_ATOMS = (
    "nH C@H C@@H C@ C@@ O- N+ n+ N- NH+ NH2+ NH3+ nH+ n- S- S+ S@ S@@ P+ B- C- Si Se se Na+ K+ Cl- Br- I- 2H"
)
SMILES = Alphabet(
    name="smiles",
    # All characters of the chemical symbols, so that a rare atom in brackets can be spelled out;
    # then the two organic atoms of two letters, and frequent atoms in brackets.
    letters=(
        *"CcNnOoSsPpFIBb",
        *"()[]=#123456789%0/\\@+-.:$*~>H",
        *"ADEGKLMRTUVWXYZadefghiklmrtuvy",
        *("Cl", "Br"),
        *(f"[{atom}]" for atom in _BRACKET_ATOMS.split()),
    ),
    meaning="character of SMILES",
    unit="token",
    ignores_case=False,  # c is an aromatic carbon, C another one
)
NAMED = {alphabet.name: alphabet for alphabet in (DNA, RNA, PROTEIN, SMILES)}


def find_alphabet(spec: str | Sequence[str], complement: str | Sequence[str] | None = None) -> Alphabet:
    """Return an alphabet by name, or make one of your own letters.

    Args:
        spec: `"dna"`, `"rna"`, `"protein"` or `"smiles"`; or other letters, as a text of single
            characters or a list of tokens of up to 8.
        complement: For letters of your own: which letter each of them pairs with, in the same
            order, such as `"TGCAZPSB"` for `"ACGTPZBS"`. Without it there is no second strand.

    Raises:
        ValueError: The letters cannot be an alphabet, or a named one got a complement.

    >>> find_alphabet("HP").vocabulary["P"]
    8
    """
    if isinstance(spec, str) and spec in NAMED:
        if complement is not None:
            raise ValueError(f"the alphabet {spec!r} has its own complement, or none; leave it out")
        return NAMED[spec]
    if isinstance(spec, str) and spec.lower() in NAMED:
        raise ValueError(f"alphabet is {spec!r}; write {spec.lower()!r}")
    letters = _tuple_of_texts("alphabet", spec)
    pairs = None if complement is None else _tuple_of_texts("complement", complement)
    return _own_alphabet(letters, pairs)


def _tuple_of_texts(name: str, values: Iterable[str]) -> tuple[str, ...]:
    """Return single characters of a text, or the items of a list."""
    if not isinstance(values, str | list | tuple) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{name} is {values!r}; expected a name of {list(NAMED)}, a text or a list of texts")
    return tuple(values)


@lru_cache
def _own_alphabet(letters: tuple[str, ...], pairs: tuple[str, ...] | None) -> Alphabet:
    problem = _problem(letters, pairs)
    if problem:
        raise ValueError(f"alphabet is {_written(letters)!r}: {problem}")
    return Alphabet(
        name="own",
        letters=letters,
        meaning=f"letter of the alphabet {_shown(letters)}",
        unit="letter",
        # With tokens of several characters, case tells them apart.
        ignores_case=all(len(letter) == 1 for letter in letters),
        complement=pairs,
    )


def _problem(letters: tuple[str, ...], pairs: tuple[str, ...] | None) -> str | None:
    """Return why letters cannot be an alphabet, or None."""
    wrong = [letter for letter in letters if not (letter.isascii() and letter.isprintable())]
    wrong += [letter for letter in letters if not letter or " " in letter or letter in SPECIAL_TOKENS]
    too_long = [letter for letter in letters if len(letter) > LONGEST_LETTER]
    if not 2 <= len(letters) <= MOST_LETTERS:
        return f"it has {len(letters)} letters, but 2 to {MOST_LETTERS} are possible"
    if len(set(letters)) < len(letters):
        return "it holds a letter twice"
    if wrong:
        return f"{wrong[0]!r} cannot be a letter; use visible ASCII characters, and no special token"
    if too_long:
        return f"{too_long[0]!r} is longer than {LONGEST_LETTER} characters"
    if pairs is None:
        return None
    if len(pairs) != len(letters) or set(pairs) != set(letters):
        return f"the complement {_written(pairs)!r} does not pair each of its letters with one of them"
    partner = dict(zip(letters, pairs, strict=True))
    alone = [letter for letter in letters if partner[partner[letter]] != letter]
    if alone:
        return f"{alone[0]!r} pairs with {partner[alone[0]]!r}, which pairs with another letter"
    return None


def _shown(letters: tuple[str, ...]) -> str:
    text = " ".join(letters) if any(len(letter) > 1 for letter in letters) else "".join(letters)
    return text if len(text) <= 40 else f"{text[:40]}..."
