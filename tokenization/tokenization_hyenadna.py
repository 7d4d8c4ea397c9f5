"""The HyenaDNA tokenizer: one token per letter, on the `tokenizers` (Rust) backend.

`tokenizer.json` holds the whole behaviour, so a saved tokenizer gives the same ids where only
Transformers is installed. This class adds speed: it looks a plain sequence up in a table of 256
entries, and leaves to Rust what the table cannot do (pairs, offsets, special tokens inside the
text, added tokens, ...).
"""

import json
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Encoding, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from transformers import BatchEncoding, TokenizersBackend

from .alphabets_hyenadna import DNA, SPECIAL_TOKENS, Alphabet, find_alphabet

# What Transformers calls a special token -> the token.
_SPECIAL_TOKEN_OF = {
    "bos": "[BOS]",
    "eos": "[SEP]",
    "sep": "[SEP]",
    "cls": "[CLS]",
    "pad": "[PAD]",
    "mask": "[MASK]",
    "unk": "[UNK]",
}


_ANY_SPECIAL_TOKEN = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))


class LazyBatchEncoding(BatchEncoding):
    """A `BatchEncoding` that makes its Rust encodings only when they are asked for.

    `tokens()`, `word_ids()`, `enc[0]` and the like need them. For a million bases they are most of
    the time and memory.
    """

    # Not an argument of `__init__`, because accelerate rebuilds a batch as `type(batch)(dict)`.
    _make: Callable[[], BatchEncoding] | None = None
    _made: Sequence[Encoding] | None

    @property
    def _encodings(self) -> Sequence[Encoding] | None:
        if self._made is None and self._make is not None:
            self._made = self._make().encodings
        return self._made

    @_encodings.setter
    def _encodings(self, encodings: Sequence[Encoding] | None) -> None:
        self._made = encodings

    @property
    def is_fast(self) -> bool:
        return self._make is not None or self._made is not None  # without making them

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class HyenaDNATokenizer(TokenizersBackend):
    """One token per base, with the published ids; or per letter of another alphabet.

    `[CLS]`0 `[SEP]`1 `[BOS]`2 `[MASK]`3 `[PAD]`4 `[RESERVED]`5 `[UNK]`6 `A`7 `C`8 `G`9 `T`10 `N`11.

    `"ACGT"` becomes `[7, 8, 9, 10, 1]`: `[SEP]`, which is also the end-of-sequence token, is
    appended, and nothing is put in front. `U` is read as `T`, and the IUPAC codes `RYSWKMBDHV` as
    `N` (the published tokenizer made them `[UNK]`). Every other character is one `[UNK]`, even a
    gap, a space or a line break, so character i is token i. Special tokens in the text
    (`"ACG[MASK]T"`) are read as those tokens.

    Other alphabets have the same special tokens, and their letters from id 7:

    - `"rna"`: A, C, G, U, N. `T` is read as `U`, otherwise as DNA.
    - `"protein"`: the 20 amino acids, then X, U, B, O and Z, with the ids of ProtHyena. Lower case
      is read as upper case, `J` and a stop codon (`*`) as `X`. A gap (`-`) is `[UNK]`.
    - `"smiles"`: case matters. `Cl`, `Br` and 30 frequent atoms in brackets, such as `[nH]` and
      `[C@@H]`, are one token each. Other atoms in brackets are spelled out.
    - letters of your own, as a text (`"HP"`) or a list of tokens (`["ATG", "TAA", ...]`).

    Args:
        alphabet: One of these.
        complement: For letters of your own: the letter that each of them pairs with, in the same
            order. Without it there is no second strand.
        model_max_length: Longest input in tokens, special tokens included. A longer one brings a
            warning.
        do_upper_case: Read lower case (soft-masked sequence) as upper case. With `False` it becomes
            `[UNK]`, as in the published tokenizer. `tokenizer.do_upper_case = False` changes it
            later. By default true, unless case matters in the alphabet.
        add_eos_token: Append `[SEP]`, unless a call says `add_special_tokens=False`. None means
            what the loaded `tokenizer.json` does, or else True. `tokenizer.add_eos_token = False`
            changes it later.
        padding_side: `"left"`, as published, or `"right"`.
        kwargs: Passed to `TokenizersBackend`. Published files hold `characters`, which must be the
            letters of the alphabet, and `"add_special_tokens": false`, which had no effect there
            and is dropped.

    Raises:
        AttributeError: An argument has the name of a method, such as `add_special_tokens`.
        ValueError: The letters cannot be an alphabet, another vocabulary was passed (`characters`,
            `vocab`), or a backend (`tokenizer_object`, `tokenizer_file`), or lower case is to be
            read as upper case where it matters.

    >>> HyenaDNATokenizer()("acgtn")["input_ids"]
    [7, 8, 9, 10, 11, 1]
    >>> HyenaDNATokenizer(alphabet="smiles").tokenize("C[C@@H](N)Cl")
    ['C', '[C@@H]', '(', 'N', ')', 'Cl']
    """

    model_input_names = ["input_ids", "attention_mask"]
    padding_side = "left"
    _tokenizer: Tokenizer  # made in `__init__`, before the library looks for one

    def __init__(
        self,
        model_max_length: int | None = None,
        do_upper_case: bool | None = None,
        add_eos_token: bool | None = None,
        padding_side: str = "left",
        alphabet: str | Sequence[str] = DNA.name,
        complement: str | Sequence[str] | None = None,
        **kwargs: Any,
    ):
        self._alphabet = find_alphabet(alphabet, complement)
        _refuse_other_vocabularies(kwargs, self._alphabet)
        if do_upper_case is None:
            do_upper_case = self._alphabet.ignores_case
        # Published files hold these, and they must not be saved again: auto_map names code that a
        # folder of ours does not hold.
        for name in ("auto_map", "clean_up_tokenization_spaces", "merges"):
            kwargs.pop(name, None)
        # It was read from a file. If a user passes it, the library refuses it: a method has that
        # name.
        if "name_or_path" in kwargs:
            kwargs.pop("add_special_tokens", None)
        add_bos_token = kwargs.pop("add_bos_token", None)
        # A tokenizer.json that was read has brought a post-processor, which knows.
        if add_eos_token is None and kwargs.get("post_processor") is None:
            add_eos_token = True

        self._tokenizer = _make_backend(self._alphabet)
        self._one_letter = self._tokenizer.encode(self._alphabet.letters[0])
        self.do_upper_case = do_upper_case

        for name, token in _SPECIAL_TOKEN_OF.items():
            kwargs.setdefault(f"{name}_token", token)
        kwargs.setdefault("extra_special_tokens", ["[RESERVED]"])
        super().__init__(
            model_max_length=model_max_length,
            do_upper_case=do_upper_case,
            padding_side=padding_side,
            **kwargs,
        )
        # Transformers saves these two as the post-processor in tokenizer.json alone, and given one
        # of them it drops the other.
        before, after = self._special_ids()
        self._add_bos_token = self.bos_token_id in before if add_bos_token is None else add_bos_token
        self._add_eos_token = self.eos_token_id in after if add_eos_token is None else add_eos_token
        if add_bos_token is not None or add_eos_token is not None:
            self.update_post_processor()
        self.init_kwargs["add_eos_token"] = self.add_eos_token
        self.init_kwargs |= {"alphabet": self.alphabet, "complement": self.complement}

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> "HyenaDNATokenizer":
        if "add_special_tokens" in kwargs:
            raise AttributeError(
                "add_special_tokens conflicts with the method add_special_tokens in HyenaDNATokenizer: "
                "pass it to a call, `tokenizer(text, add_special_tokens=False)`, or load with "
                "`add_eos_token=False`."
            )
        kwargs = {**_alphabet_of_model(args[0] if args else None), **kwargs}
        tokenizer = super().from_pretrained(*args, **kwargs)
        if kwargs.get("_from_pipeline") == "text-generation":
            tokenizer.add_eos_token = False  # a prompt will be continued, and [SEP] would end it
        return tokenizer

    def save_pretrained(self, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        """Save as in Transformers. The files of DNA stay as published: they name no alphabet."""
        settings = self.init_kwargs
        unnamed = {"complement"} if self.complement is None else set()
        if self._alphabet == DNA:
            unnamed.add("alphabet")
        self.init_kwargs = {name: value for name, value in settings.items() if name not in unnamed}
        try:
            return super().save_pretrained(*args, **kwargs)
        finally:
            self.init_kwargs = settings

    @property
    def alphabet(self) -> str | list[str]:
        """The name of the alphabet, or letters of one's own."""
        return self._alphabet.spec

    @property
    def complement(self) -> str | list[str] | None:
        """What letters of one's own pair with. The named alphabets know it themselves."""
        return self._alphabet.complement_spec

    @property
    def do_upper_case(self) -> bool:
        return self._do_upper_case

    @do_upper_case.setter
    def do_upper_case(self, value: bool) -> None:
        if value and not self._alphabet.ignores_case:
            raise ValueError(
                f"do_upper_case is {value}, but case matters in the alphabet {self.alphabet!r}: leave it out"
            )
        # The table and Rust's normalizer say the same: the one for the fast path, the other for the
        # rest and for tokenizer.json. 256 entries, one for each byte of a packed text.
        self._do_upper_case = value
        self._table = self._alphabet.id_of_byte(value)
        others = {letter: self._alphabet.read_like(letter, value) for letter in self._alphabet.letters}
        steps = [
            normalizers.Replace(Regex(f"[{characters}]"), letter)
            for letter, characters in others.items()
            if characters
        ]
        self._tokenizer.normalizer = normalizers.Sequence(steps)

    def _add_tokens(self, new_tokens: Sequence[str | AddedToken], special_tokens: bool = False) -> int:
        """Add tokens as in Transformers, but as they are written.

        "m" in a sequence is read as `N`. As a new token it must not be, or `N` would become "m".
        """
        # A token that the normalizer would change is matched against the text as it was given.
        tokens: list[str | AddedToken] = []
        for token in new_tokens:
            if not isinstance(token, AddedToken):
                token = AddedToken(token, normalized=not special_tokens)
            if token.normalized and self._tokenizer.normalizer.normalize_str(token.content) != token.content:
                places = {
                    name: getattr(token, name) for name in ("single_word", "lstrip", "rstrip", "special")
                }
                token = AddedToken(token.content, normalized=False, **places)
            tokens.append(token)
        return super()._add_tokens(tokens, special_tokens)

    def _special_ids(self) -> tuple[list[int], list[int]]:
        """Return the ids that the backend's post-processor puts before and after a sequence."""
        # Ask it with a one-letter sequence: the setting may have come from a tokenizer.json.
        ids = self._tokenizer.post_processor.process(self._one_letter).ids
        at = ids.index(self._one_letter.ids[0])
        return ids[:at], ids[at + 1 :]

    def _encode_plus(self, text: Any, text_pair: Any = None, *args: Any, **kwargs: Any) -> BatchEncoding:
        """Encode one or many sequences; `TokenizersBackend` calls this for every way to encode.

        Raises:
            TypeError: `text` or `text_pair` is, or holds, something else than str.
            ValueError: `text` is an empty list.
        """
        _check_text("text", text)
        if text_pair is not None:
            _check_text("text_pair", text_pair)
        if not text and not isinstance(text, str) and not kwargs.get("is_split_into_words"):
            raise ValueError("text is an empty list; pass at least one sequence.")
        data = None
        if text_pair is None and not args:  # the library passes settings by name
            data = self._look_up(text, **kwargs)
        if data is None:
            return super()._encode_plus(text, text_pair, *args, **kwargs)
        encoding = LazyBatchEncoding(data, tensor_type=kwargs.pop("return_tensors", None), n_sequences=1)
        # Not `super()._encode_plus`: pickle stores a bound method by name, and would find this one.
        encoding._make = partial(TokenizersBackend._encode_plus, self, text, **{**kwargs, "verbose": False})
        return encoding

    def _look_up(
        self,
        text: Any,
        add_special_tokens: bool = True,
        padding_strategy: str = "do_not_pad",
        truncation_strategy: str = "do_not_truncate",
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        return_attention_mask: bool | None = None,
        verbose: bool = True,
        **others: Any,
    ) -> dict[str, list] | None:
        """Encode by table what Rust would encode to the same ids, or return None: Rust must do it."""
        texts = [text] if isinstance(text, str) else text
        padding_side = padding_side or self.padding_side
        before, after = self._special_ids() if add_special_tokens else ([], [])
        keep = None  # this many characters of each text
        if truncation_strategy != "do_not_truncate":
            keep = (max_length or 0) - len(before) - len(after)

        # 1. Leave to Rust what the table cannot do, and errors: the library words those itself.
        if (
            any(others.values())  # offsets, overflow, words, ...
            or return_tensors not in (None, "pt", "np")
            or padding_side not in ("left", "right")
            or min(max_length or 0, pad_to_multiple_of or 0) < 0
            or truncation_strategy == "only_second"
            or (keep is not None and keep < 1)
            or not self._table_knows(texts)
        ):
            return None

        # 2. Make one byte for each token, cut the rows, and find their widths.
        packed = self._cut([self._alphabet.pack(text) for text in texts], keep)
        lengths = [len(before) + len(row) + len(after) for row in packed]
        widths = _padded_lengths(lengths, padding_strategy, max_length, pad_to_multiple_of)
        if return_tensors is not None and len(set(widths)) > 1:
            return None

        # 3. Look up each row.
        data = self._rows(packed, before, after, widths, padding_side)
        for row in data["input_ids"]:
            self._eventual_warn_about_too_long_sequence(row, max_length, verbose)

        # 4. Return what was asked for.
        if return_attention_mask is None:
            return_attention_mask = "attention_mask" in self.model_input_names
        if not return_attention_mask:
            del data["attention_mask"]
        return _as_lists(data, isinstance(text, str)) if return_tensors is None else data

    def _cut(self, packed: list[bytes], keep: int | None) -> list[bytes]:
        """Return the rows cut to `keep` tokens, on the tokenizer's side of truncation."""
        if keep is None:
            return packed
        if self.truncation_side == "right":
            return [row[:keep] for row in packed]
        return [row[-keep:] for row in packed]

    def _rows(
        self,
        packed: list[bytes],
        before: list[int],
        after: list[int],
        widths: list[int],
        padding_side: str,
    ) -> dict[str, list[Any]]:
        """Return the ids and the masks of packed texts, one array for each; see `_row`."""
        data: dict[str, list[Any]] = {"input_ids": [], "attention_mask": []}
        for row, width in zip(packed, widths, strict=True):
            ids, mask = self._row(row, before, after, width, padding_side)
            data["input_ids"].append(ids)
            data["attention_mask"].append(mask)
        return data

    def _row(
        self, packed: bytes, before: list[int], after: list[int], width: int, padding_side: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids and the mask of one packed text, each int64 `(width,)`, pads included."""
        length = len(before) + len(packed) + len(after)
        start = width - length if padding_side == "left" else 0
        end = start + length
        # The letters are looked up all at once: their bytes index the table.
        ids = np.full(width, self.pad_token_id or 0, np.int64)
        ids[start : start + len(before)] = before
        ids[start + len(before) : end - len(after)] = self._table[np.frombuffer(packed, np.uint8)]
        ids[end - len(after) : end] = after
        mask = np.zeros(width, np.int64)
        mask[start:end] = 1
        return ids, mask

    def _table_knows(self, texts: Any) -> bool:
        """Return whether the table alone gives the ids.

        It does for ASCII without special tokens, as long as nobody has added a token.
        """
        has_added_tokens = len(self.added_tokens_decoder) != len(SPECIAL_TOKENS)
        if has_added_tokens or "token_type_ids" in self.model_input_names:
            return False
        return all(isinstance(t, str) and t.isascii() and not _has_special_token(t) for t in texts)


def _alphabet_of_model(folder: Any) -> dict[str, Any]:
    """Return the alphabet that the model of a folder names, if the folder has no tokenizer files."""
    if not isinstance(folder, str | os.PathLike):
        return {}
    config = Path(folder, "config.json")
    has_tokenizer = any(Path(folder, f"{name}.json").is_file() for name in ("tokenizer", "tokenizer_config"))
    if has_tokenizer or not config.is_file():
        return {}
    stored = json.loads(config.read_text())
    return {name: stored[name] for name in ("alphabet", "complement") if name in stored}


def _has_special_token(text: str) -> bool:
    # Most texts have no bracket at all, and are done after one search.
    return "[" in text and _ANY_SPECIAL_TOKEN.search(text) is not None


def _make_backend(alphabet: Alphabet) -> Tokenizer:
    """Make the Rust tokenizer. BPE without merges is its fastest model of single characters."""
    # Its cache would hold whole sequences, which never come twice.
    model = BPE(alphabet.vocabulary, [], unk_token="[UNK]", fuse_unk=False, cache_capacity=0)
    backend = Tokenizer(model)
    if alphabet.long_letters:
        # Cut the text into tokens first; the model then takes each piece whole. The pattern has
        # every other character as well, or a whole stretch of them might be taken for a token.
        model.ignore_merges = True
        pieces = Regex(rf"{alphabet.pattern}|[\s\S]")
        backend = Tokenizer(model)
        backend.pre_tokenizer = pre_tokenizers.Split(pieces, "isolated")
    backend.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS]
    )
    backend.decoder = decoders.Fuse()
    return backend


def _refuse_other_vocabularies(kwargs: dict[str, Any], alphabet: Alphabet) -> None:
    """Take the vocabulary out of the arguments.

    Raises:
        ValueError: It is not that of the alphabet, or a backend was passed.
    """
    characters = kwargs.pop("characters", alphabet.letters)
    vocab = kwargs.pop("vocab", alphabet.vocabulary)
    came = None
    if tuple(characters) != alphabet.letters:
        came = f"characters={list(characters)}"
    elif vocab != alphabet.vocabulary:
        came = f"vocab={vocab}"
    if came is not None:
        raise ValueError(
            f"HyenaDNATokenizer has the fixed vocabulary {alphabet.vocabulary} with the alphabet "
            f"{alphabet.spec!r}, but got {came}. Name the letters by `alphabet`; load other vocabularies "
            "with transformers.PreTrainedTokenizerFast."
        )
    for name in ("tokenizer_object", "tokenizer_file"):
        if kwargs.pop(name, None) is not None:
            raise ValueError(
                f"HyenaDNATokenizer builds its own backend, but got {name}. Load a folder with "
                "HyenaDNATokenizer.from_pretrained(folder), and other backends with "
                "transformers.PreTrainedTokenizerFast."
            )


def _as_lists(data: dict[str, list[Any]], single: bool) -> dict[str, list[Any]]:
    """Return the rows as lists of int; for a single text, its row alone."""
    lists = {name: [row.tolist() for row in rows] for name, rows in data.items()}
    if single:
        return {name: rows[0] for name, rows in lists.items()}
    return lists


def _padded_lengths(
    lengths: list[int], strategy: str, max_length: int | None, multiple: int | None
) -> list[int]:
    """Return the length of each row with its pads, by Transformers' padding strategy."""
    if strategy == "do_not_pad":
        return lengths
    width = max(lengths)
    if strategy == "max_length" and max_length is not None:
        width = max_length
    if multiple:
        width += -width % multiple
    return [max(length, width) for length in lengths]


def _check_text(name: str, text: Any) -> None:
    """Raise TypeError unless `text` is a str, or lists (or tuples) of str."""
    if isinstance(text, str):
        return
    if not isinstance(text, (list, tuple)):
        came = repr(text)
        if len(came) > 60:
            came = came[:60] + "..."
        raise TypeError(
            f"{name} must be a str (one sequence) or a list of str (a batch), but got "
            f"{type(text).__name__}: {came}. Convert an array or a column of a table with .tolist() or "
            "list(), decode bytes with .decode(), and drop missing values (None, NaN) first."
        )
    for i, item in enumerate(text):
        if not isinstance(item, str):
            _check_text(f"{name}[{i}]", item)
