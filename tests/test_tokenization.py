import ast
import copy
import inspect
import json
import logging
import os
import pickle
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from accelerate.utils import send_to_device
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, DataCollatorWithPadding, TokenizersBackend, pipeline

import hyenadna
from hyenadna.tokenization import HyenaDNATokenizer, alphabets_hyenadna, tokenization_hyenadna

MODULES = (tokenization_hyenadna, alphabets_hyenadna)
SPECIAL = {"[CLS]": 0, "[SEP]": 1, "[BOS]": 2, "[MASK]": 3, "[PAD]": 4, "[RESERVED]": 5, "[UNK]": 6}
A, C, G, T, N, UNK = 7, 8, 9, 10, 11, 6
UPPER = {"A": A, "C": C, "G": G, "T": T, "U": T, **dict.fromkeys("NRYSWKMBDHV", N)}
EVERY = (
    "".join(map(chr, range(0x250))) + "e\u0301\u212a\u3000\ufb01\U0001f9ec\U0001f468\u200d\U0001f52c"
)  # no '[X]' in it


def naive(text: str, upper: bool = True) -> list[int]:
    """Ids of a text without special tokens, one character at a time."""
    return [UPPER.get(c.upper() if upper and c.isascii() else c, UNK) for c in text]


@pytest.fixture(scope="module")
def tokenizer() -> HyenaDNATokenizer:
    return HyenaDNATokenizer()


def rust(tokenizer: HyenaDNATokenizer, folder: Path) -> TokenizersBackend:
    """What `tokenizer.json` does, without our class."""
    tokenizer.save_pretrained(folder)
    backend = TokenizersBackend.from_pretrained(folder)
    assert type(backend) is TokenizersBackend
    return backend


@pytest.fixture
def no_rust(monkeypatch):
    """Make every use of the Rust backend fail."""

    def fail(*args, **kwargs):
        raise RuntimeError("Rust was used")

    monkeypatch.setattr(TokenizersBackend, "_encode_plus", fail)


# --- ids


def test_published_ids(tokenizer):
    assert tokenizer.get_vocab() == {**SPECIAL, "A": A, "C": C, "G": G, "T": T, "N": N}
    assert len(tokenizer) == tokenizer.vocab_size == 12
    assert tokenizer("ACGT") == {"input_ids": [7, 8, 9, 10, 1], "attention_mask": [1] * 5}
    assert tokenizer.model_input_names == ["input_ids", "attention_mask"]
    names = ("cls", "sep", "bos", "mask", "pad", "unk", "eos")
    assert [getattr(tokenizer, f"{name}_token_id") for name in names] == [0, 1, 2, 3, 4, 6, 1]
    assert sorted(tokenizer.all_special_ids) == list(range(7))
    assert (tokenizer.padding_side, tokenizer.num_special_tokens_to_add()) == ("left", 1)
    assert HyenaDNATokenizer(model_max_length=1026).max_len_single_sentence == 1025


@pytest.mark.parametrize("upper", [True, False])
def test_every_character_is_one_token(upper):
    tokenizer = HyenaDNATokenizer(do_upper_case=upper)
    expected = naive(EVERY, upper)
    by_rust = tokenizer(EVERY, add_special_tokens=False, return_offsets_mapping=True)
    assert by_rust["input_ids"] == expected
    assert by_rust["offset_mapping"] == [(i, i + 1) for i in range(len(EVERY))]
    assert [tokenizer.encode(c, add_special_tokens=False) for c in EVERY] == [[i] for i in expected]
    ascii_text = EVERY[:128].replace("[", "")
    assert tokenizer.encode(ascii_text, add_special_tokens=False) == naive(ascii_text, upper)


def test_cases_by_hand(tokenizer):
    ids = tokenizer(
        ["acgtn", "ACGU", "acgu", "RYSWKMBDHV", "ryswkmbdhv", "A\nC G\t", "A-C*X", "ÄA"]
    ).input_ids
    assert ids[:5] == [[A, C, G, T, N, 1], [A, C, G, T, 1], [A, C, G, T, 1], [N] * 10 + [1], [N] * 10 + [1]]
    assert ids[5:] == [[A, UNK, C, UNK, G, UNK, 1], [A, UNK, C, UNK, UNK, 1], [UNK, A, 1]]
    assert HyenaDNATokenizer(do_upper_case=False)("acgtnuACGURr").input_ids == [UNK] * 6 + [
        A,
        C,
        G,
        T,
        N,
        UNK,
        1,
    ]


def test_special_tokens_in_the_text(tokenizer):
    assert tokenizer("ACG[SEP]T").input_ids == [A, C, G, 1, T, 1]
    assert tokenizer("a[MASK]g", add_special_tokens=False).input_ids == [A, 3, G]
    assert tokenizer("".join(SPECIAL), add_special_tokens=False).input_ids == list(range(7))
    assert tokenizer("[sep]", add_special_tokens=False).input_ids == [UNK, N, UNK, UNK, UNK]
    assert tokenizer("A[MASK]c", return_offsets_mapping=True)["offset_mapping"] == [
        (0, 1),
        (1, 7),
        (7, 8),
        (0, 0),
    ]
    split = tokenizer("A[SEP]", add_special_tokens=False, split_special_tokens=True)
    assert split.input_ids == [A, UNK, N, UNK, UNK, UNK]


def test_pairs_words_and_the_empty_string(tokenizer):
    pair = tokenizer("AC", "gt", return_token_type_ids=True)
    assert pair.input_ids == [A, C, 1, G, T, 1]
    assert pair.token_type_ids == [0, 0, 0, 1, 1, 1]
    assert pair.sequence_ids() == [0, 0, None, 1, 1, None]
    assert tokenizer(["AC", "A"], ["G", "T"], padding=True).input_ids == [[A, C, 1, G, 1], [4, A, 1, T, 1]]
    words = tokenizer(["A", "c", "GT"], is_split_into_words=True)
    assert (words.input_ids, words.word_ids()) == ([A, C, G, T, 1], [0, 1, 2, 2, None])
    assert tokenizer("").input_ids == [1]
    assert tokenizer("", add_special_tokens=False).input_ids == []
    assert tokenizer("", add_special_tokens=False, return_tensors="pt").input_ids.shape == (1, 0)
    assert tokenizer(["", "A"], padding=True, return_tensors="pt").input_ids.tolist() == [[4, 1], [A, 1]]


def test_tokens_ids_and_strings(tokenizer):
    ids = tokenizer("acgun").input_ids
    assert tokenizer.decode(ids) == "ACGTN[SEP]"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "ACGTN"
    assert tokenizer.decode(torch.tensor(ids), skip_special_tokens=True) == "ACGTN"
    assert tokenizer.batch_decode([[A, 4], [4, T, UNK]], skip_special_tokens=True) == ["A", "T"]
    assert tokenizer.decode(list(range(12))) == "".join(SPECIAL) + "ACGTN"
    assert tokenizer.decode([A, 5, C], skip_special_tokens=True) == "AC"
    assert tokenizer.tokenize("acg-") == ["A", "C", "G", "[UNK]"]
    assert tokenizer.convert_tokens_to_ids(["A", "[MASK]", "N", "no such token"]) == [A, 3, N, UNK]
    assert tokenizer.convert_ids_to_tokens(range(12)) == [*SPECIAL, *"ACGTN"]
    assert tokenizer.convert_ids_to_tokens(ids, skip_special_tokens=True) == list("ACGTN")
    assert tokenizer.convert_tokens_to_string(["A", "C"]) == "AC"
    assert tokenizer.get_special_tokens_mask(ids, already_has_special_tokens=True) == [0] * 5 + [1]
    text = "".join(random.Random(0).choices("ACGTN", k=5000))
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


# --- the table against Rust


def random_text(rng: random.Random) -> str:
    letters = rng.choice(["ACGT", "acgtnACGTN", EVERY[:128].replace("[", "")])
    text = "".join(rng.choices(letters, k=rng.choice([0, 1, 2, 3, 5, 8, 13, 20])))
    return text + rng.choice(["[SEP]T", "[", "é", "\U0001f9ec"]) if rng.random() < 0.05 else text


def random_options(rng: random.Random) -> dict:
    values = {
        "padding": [True, False, "longest", "max_length"],
        "truncation": [True, False, "longest_first", "only_first", "only_second"],
        "max_length": [0, 1, 2, 3, 4, 7, 8, 16, 32],
        "pad_to_multiple_of": [1, 2, 3, 4, 8],
        "padding_side": ["left", "right"],
        "return_tensors": [None, "np", "pt"],
        "add_special_tokens": [True, False],
        "return_attention_mask": [True, False],
    }
    options = {name: rng.choice(choices) for name, choices in values.items() if rng.random() < 0.5}
    rare = ["return_token_type_ids", "return_length", "return_offsets_mapping", "return_special_tokens_mask"]
    return options | ({rng.choice(rare): True} if rng.random() < 0.1 else {})


def outcome(encode) -> object:
    """What `encode()` returns, as plain types and dtypes, or its error."""
    try:
        encoding = encode()
    except Exception as error:  # Rust raises bare Exceptions
        return type(error), str(error)
    return {
        name: (type(value), getattr(value, "dtype", None), repr(value)) for name, value in encoding.items()
    }, [(e.tokens, e.ids, e.offsets, e.type_ids, e.word_ids, e.attention_mask) for e in encoding.encodings]


@pytest.mark.filterwarnings("ignore:.max_length. is ignored")
@pytest.mark.parametrize(
    "kwargs",
    [{}, {"add_eos_token": False}, {"do_upper_case": False, "model_max_length": 10}, {"add_bos_token": True}],
    ids=str,
)
def test_table_equals_rust(kwargs, tmp_path, monkeypatch):
    ours = HyenaDNATokenizer(**kwargs)
    reference = rust(ours, tmp_path)
    rng = random.Random(str(kwargs))
    looked_up = []
    look_up = ours._look_up
    monkeypatch.setattr(ours, "_look_up", lambda *a, **k: looked_up.append(look_up(*a, **k)) or looked_up[-1])
    for _ in range(800):
        ours.truncation_side = reference.truncation_side = rng.choice(["left", "right"])
        ours.padding_side = reference.padding_side = rng.choice(["left", "right"])
        text = (
            random_text(rng) if rng.random() < 0.4 else [random_text(rng) for _ in range(rng.randint(1, 4))]
        )
        options = {"verbose": False, **random_options(rng)}
        mine = outcome(lambda: ours(text, **options))  # noqa: B023
        theirs = outcome(lambda: reference(text, **options))  # noqa: B023
        assert mine == theirs, (text, options)
    assert sum(data is not None for data in looked_up) > 400  # or Rust was compared with itself


def test_plain_calls_need_no_rust(tokenizer, no_rust):
    batch = ["acgt", "GG", ""]
    for tensors in (None, "np", "pt"):
        tokenizer(batch, padding=True, return_tensors=tensors)
        tokenizer("ACGT" * 100, truncation=True, max_length=50, return_tensors=tensors)
    assert tokenizer.encode("ACGT") == [A, C, G, T, 1]
    with pytest.raises(RuntimeError, match="Rust was used"):
        tokenizer("A[MASK]C")


# --- what comes back


def test_encodings_on_demand(tokenizer):
    encoding = tokenizer(["aCG", "T"], padding=True, return_tensors="pt")
    assert encoding.is_fast
    assert encoding._made is None  # not yet
    assert encoding.tokens() == ["A", "C", "G", "[SEP]"]
    assert encoding.tokens(1) == ["[PAD]", "[PAD]", "T", "[SEP]"]
    assert encoding.word_ids() == [0, 0, 0, None]
    assert encoding.sequence_ids(1) == [None, None, 0, None]
    assert encoding.char_to_token(0, 2) == 2
    assert encoding.token_to_chars(0, 1) == (1, 2)
    assert encoding[1].ids == encoding.encodings[1].ids == [4, 4, T, 1]
    assert [e.tokens[0] for e in encoding[0:2]] == ["A", "[PAD]"]
    assert encoding.n_sequences == 1


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_encodings_can_be_copied_and_pickled(tokenizer, clone, used):
    encoding = tokenizer(["ACG", "T"], padding=True, return_tensors="np")
    if used:
        encoding.tokens()
    again = clone(encoding)
    assert again.input_ids.tolist() == [[A, C, G, 1], [4, 4, T, 1]]
    assert again.tokens(1) == ["[PAD]", "[PAD]", "T", "[SEP]"]


def test_encodings_go_where_batches_go(tokenizer):
    encoding = tokenizer("ACG")
    assert encoding.convert_to_tensors("pt", prepend_batch_axis=True).to("cpu").input_ids.tolist() == [
        [A, C, G, 1]
    ]
    assert encoding.tokens() == ["A", "C", "G", "[SEP]"]
    # accelerate makes a new one: type(encoding)(dict)
    moved = send_to_device({"batch": encoding}, "cpu")["batch"]
    assert moved["input_ids"].tolist() == [[A, C, G, 1]]
    rebuilt = type(encoding)({"input_ids": [A]})
    assert rebuilt.input_ids == [A] and not rebuilt.is_fast

    collate = DataCollatorWithPadding(tokenizer, pad_to_multiple_of=4)
    assert collate([tokenizer("A"), tokenizer("ACG")])["input_ids"].tolist() == [[4, 4, A, 1], [A, C, G, 1]]
    loader = DataLoader(["AC", "G"], 2, collate_fn=Collate(tokenizer), num_workers=1)
    (batch,) = loader
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 1, 1]]
    assert batch.tokens(1) == ["[PAD]", "G", "[SEP]"]


class Collate:
    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __call__(self, texts):
        return self.tokenizer(texts, padding=True, return_tensors="pt")


def test_tables_of_sequences(tokenizer):
    expected = [[A, C, 1], [G, 1]]
    texts = ["ac", "G"]
    for column in (
        tuple(texts),
        [np.str_(t) for t in texts],
        list(np.array(texts)),
        pd.Series(texts).tolist(),
        list(pd.Series(texts, dtype="string")),
        pa.array(texts).to_pylist(),
        Dataset.from_dict({"sequence": texts})[:]["sequence"],
    ):
        assert tokenizer(column).input_ids == expected
    mapped = Dataset.from_dict({"sequence": texts}).map(
        lambda rows: tokenizer(rows["sequence"]), batched=True
    )
    assert mapped["input_ids"][:] == expected
    mapped = Dataset.from_dict({"sequence": texts}).map(lambda row: tokenizer(row["sequence"]))
    assert mapped["input_ids"][:] == expected


@pytest.mark.parametrize(
    ("text", "came"),
    [
        (5, r"text .* int: 5"),
        (float("nan"), r"text .* float: nan"),
        (b"ACGT", r"text .* bytes: b'ACGT'"),
        (np.array(["ACGT"]), r"text .* ndarray"),
        (pd.Series(["ACGT"]), r"text .* Series"),
        (["ACGT", None], r"text\[1\] .* NoneType: None"),
        (["ACGT", float("nan")], r"text\[1\] .* float: nan"),
        (pd.Series(["A", pd.NA], dtype="string").tolist(), r"text\[1\] .* NAType"),
        (list(pa.array(["A"])), r"text\[0\] .* StringScalar"),
        ([b"ACGT"], r"text\[0\] .* bytes"),
        ([["A", "C"], ["G", 7]], r"text\[1\]\[1\] .* int: 7"),
        ([[7, 8, 9]], r"text\[0\]\[0\] .* int: 7"),
        ({"sequence": "ACGT"}, r"text .* dict"),
    ],
    ids=str,
)
def test_wrong_types(tokenizer, text, came):
    for call in (tokenizer, tokenizer.encode, tokenizer.tokenize):
        with pytest.raises(TypeError, match=f"(?s){came}.*tolist"):
            call(text)


def test_wrong_values(tokenizer):
    with pytest.raises(ValueError, match="specify either `text`"):  # Transformers' own
        tokenizer(None)
    with pytest.raises(TypeError, match=r"text must be a str .* got NoneType"):
        tokenizer.encode(None)
    with pytest.raises(ValueError, match="empty list"):
        tokenizer([])
    with pytest.raises(TypeError, match=r"text_pair\[0\] .* got int"):
        tokenizer(["A"], [3])
    with pytest.raises(ValueError, match="padding=True"):
        tokenizer(["A", "AC"], return_tensors="pt")
    with pytest.raises(TypeError) as error:
        tokenizer(list(range(100_000)))
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("kind", ["ours", "rust"])
def test_too_long_gives_the_usual_warning_once(kind, tmp_path, caplog, monkeypatch):
    ours = HyenaDNATokenizer(model_max_length=4)
    tokenizer = ours if kind == "ours" else rust(ours, tmp_path)
    # some libraries switch it on
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", False)
    monkeypatch.setattr(logging.getLogger("transformers"), "handlers", [caplog.handler])

    def warnings(*args, **kwargs):
        caplog.clear()
        tokenizer(*args, **kwargs)
        return [
            r.getMessage() for r in caplog.records if "is longer than the specified maximum" in r.getMessage()
        ]

    assert not warnings("ACG")
    assert not warnings("ACGTA", truncation=True)
    assert not warnings("ACGTA", verbose=False)
    assert not warnings("ACGTA", max_length=10)
    (message,) = warnings(["A", "ACGTA"])
    assert "(6 > 4)" in message
    assert not warnings("ACGTACGT")


# --- options and added tokens


def test_add_eos_token(tmp_path):
    tokenizer = HyenaDNATokenizer(add_eos_token=False)
    assert (tokenizer("AC").input_ids, tokenizer("A", "C").input_ids) == ([A, C], [A, C])
    backend = rust(tokenizer, tmp_path)
    assert backend("AC").input_ids == [A, C]
    again = HyenaDNATokenizer.from_pretrained(tmp_path)
    assert (again.add_eos_token, again("AC").input_ids) == (False, [A, C])
    assert HyenaDNATokenizer.from_pretrained(tmp_path, add_eos_token=True)("AC").input_ids == [A, C, 1]

    again.add_eos_token = True
    assert again("AC").input_ids == again("AC", return_offsets_mapping=True).input_ids == [A, C, 1]
    assert again("AC", add_special_tokens=False).input_ids == [A, C]
    assert again("A", "C").input_ids == [A, 1, C, 1]
    again.add_eos_token = False
    again.add_bos_token = True
    assert again("AC").input_ids == again("AC", return_offsets_mapping=True).input_ids == [2, A, C]
    again.save_pretrained(tmp_path)
    for options, ids in (({}, [2, A]), ({"add_eos_token": True}, [2, A, 1]), ({"add_bos_token": False}, [A])):
        assert HyenaDNATokenizer.from_pretrained(tmp_path, **options)("A").input_ids == ids


def test_another_post_processor_is_kept(tmp_path):
    """Some copies of the published code put [CLS] in front."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = HyenaDNATokenizer()
    template = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)])
    tokenizer.backend_tokenizer.post_processor = template
    backend = rust(tokenizer, tmp_path)
    again = HyenaDNATokenizer.from_pretrained(tmp_path)
    for each in (tokenizer, backend, again):
        assert each("AC").input_ids == [0, A, C, 1]


def test_do_upper_case(tmp_path):
    tokenizer = HyenaDNATokenizer(do_upper_case=False)
    assert rust(tokenizer, tmp_path)("aU").input_ids == [UNK, T, 1]
    again = HyenaDNATokenizer.from_pretrained(tmp_path)
    assert (again.do_upper_case, again("aU").input_ids) == (False, [UNK, T, 1])
    again.do_upper_case = True
    assert again("aU").input_ids == again("aU", return_offsets_mapping=True).input_ids == [A, T, 1]
    assert rust(again, tmp_path)("aU").input_ids == [A, T, 1]
    assert HyenaDNATokenizer.from_pretrained(tmp_path).do_upper_case


def test_added_tokens_are_honoured(tmp_path):
    tokenizer = HyenaDNATokenizer()
    assert tokenizer.add_tokens(["GATC"]) == 1
    assert tokenizer.add_special_tokens({"extra_special_tokens": ["<soft>"], "mask_token": "<m>"}) == 2
    rust(tokenizer, tmp_path)
    for each in (
        tokenizer,
        HyenaDNATokenizer.from_pretrained(tmp_path),
        TokenizersBackend.from_pretrained(tmp_path),
    ):
        vocab = each.get_vocab()
        assert sorted(vocab[t] for t in ("GATC", "<soft>", "<m>")) == [12, 13, 14]
        assert each.mask_token_id == vocab["<m>"]
        assert each("AGATC<soft>a<m>").input_ids == [A, vocab["GATC"], vocab["<soft>"], A, vocab["<m>"], 1]
        assert each("ACG").input_ids == [A, C, G, 1]


@pytest.mark.parametrize("token", ["m", "<m>", "5mC", "*"])
def test_an_added_token_of_letters_that_are_read_as_others(token, tmp_path):
    """ "m" is the IUPAC code of A or C, and read as `N`: as a token of its own it must not take the
    place of `N`.
    """
    tokenizer = HyenaDNATokenizer(add_eos_token=False)
    assert tokenizer.add_tokens([token]) == 1
    rust(tokenizer, tmp_path)
    for each in (
        tokenizer,
        HyenaDNATokenizer.from_pretrained(tmp_path),
        TokenizersBackend.from_pretrained(tmp_path),
    ):
        assert each(f"A{token}N").input_ids == [A, 12, N]
        assert each.convert_ids_to_tokens([12]) == [token]
        assert each.decode([A, 12, N]) == f"A{token}N"


def test_the_tokenizer_can_be_copied_and_pickled(tokenizer):
    for again in (pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer)):
        assert again("acgt-").input_ids == [A, C, G, T, UNK, 1]
        assert again("A[MASK]").input_ids == [A, 3, 1]
        again.add_eos_token = False
    assert tokenizer("A").input_ids == [A, 1]


def test_wrong_constructions(tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r"fixed vocabulary .* got characters=\['A', 'T'\]"):
        HyenaDNATokenizer(characters=["A", "T"])
    with pytest.raises(ValueError, match="got tokenizer_object"):
        HyenaDNATokenizer(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(ValueError, match="got tokenizer_object"):
        tokenizer.train_new_from_iterator([["ACGT"]], 100)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="got tokenizer_file"):
        HyenaDNATokenizer(tokenizer_file=str(tmp_path / "tokenizer.json"))
    file = tmp_path / "tokenizer.json"
    file.write_text(file.read_text().replace('"N": 11', '"X": 11'))
    with pytest.raises(ValueError, match=r"fixed vocabulary .* got vocab=.*'X': 11"):
        HyenaDNATokenizer.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'right' and 'left'"):
        HyenaDNATokenizer(padding_side="middle")


# --- files


@pytest.fixture
def published(tmp_path) -> Path:
    """A folder like the published `-hf` ones, whose code must not run."""
    folder = tmp_path / "published"
    model = hyenadna.HyenaDNAForSequenceClassification(
        hyenadna.HyenaDNAConfig(d_model=8, n_layer=1, max_seq_len=66)
    )
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {
        "AutoConfig": "configuration_hyena.HyenaConfig",
        "AutoModelForSequenceClassification": "modeling_hyena.HyenaDNAForSequenceClassification",
    }
    (folder / "config.json").write_text(json.dumps(config))
    token = {"lstrip": True, "normalized": False, "rstrip": False, "single_word": False}
    tokenizer_config = {
        "add_special_tokens": False,
        "added_tokens_decoder": {"3": {"content": "[MASK]", "special": True, **token}},
        "auto_map": {"AutoTokenizer": ["tokenization_hyena.HyenaDNATokenizer", None]},
        "bos_token": "[BOS]",
        "characters": ["A", "C", "G", "T", "N"],
        "clean_up_tokenization_spaces": True,
        "model_max_length": 1026,
        "padding_side": "left",
        "tokenizer_class": "HyenaDNATokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    special_tokens = {"eos_token": "[SEP]", "mask_token": {"content": "[MASK]", **token}}
    (folder / "special_tokens_map.json").write_text(json.dumps(special_tokens))
    for name in ("configuration_hyena", "modeling_hyena", "tokenization_hyena"):
        (folder / f"{name}.py").write_text("raise RuntimeError('the published code ran')\n")
    return folder


def test_published_files(published, tmp_path, no_rust):
    tokenizer = HyenaDNATokenizer.from_pretrained(published)
    assert tokenizer.model_max_length == 1026
    assert tokenizer(["ACGT", "a"], padding=True).input_ids == [[A, C, G, T, 1], [4, 4, 4, A, 1]]
    tokenizer.save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert not {"auto_map", "characters", "add_special_tokens", "vocab"} & set(saved)
    assert saved["tokenizer_class"] == "HyenaDNATokenizer"


@pytest.mark.parametrize("trust", [None, False, True])
def test_auto_tokenizer_and_pipeline_keep_ours(published, tmp_path, trust):
    saved = tmp_path / "saved"
    shutil.copytree(published, saved)
    HyenaDNATokenizer(add_eos_token=False, model_max_length=64).save_pretrained(saved)
    for folder, ids in ((published, [A, C, G, T, 1]), (saved, [A, C, G, T])):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
        assert type(tokenizer) is HyenaDNATokenizer
        assert tokenizer("ACgu").input_ids == ids
        classify = pipeline("text-classification", str(folder), trust_remote_code=trust, device="cpu")
        assert type(classify.tokenizer) is HyenaDNATokenizer
        assert type(classify.model) is hyenadna.HyenaDNAForSequenceClassification
        (scores,) = classify(["ACgu"], top_k=None)
        with torch.no_grad():
            expected = classify.model(torch.tensor([ids])).logits.softmax(-1).max()
        assert scores[0]["score"] == pytest.approx(expected.item(), abs=1e-6)


def test_auto_tokenizer_without_tokenizer_files(published):
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        (published / file).unlink()
    assert type(AutoTokenizer.from_pretrained(published)) is HyenaDNATokenizer


WITHOUT_OUR_PACKAGE = """
import json, sys
sys.modules["hyenadna"] = None  # importing it raises ImportError
from transformers import AutoTokenizer
texts, folders = json.load(sys.stdin)
for folder in folders:
    remote = folder.endswith("remote")
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=remote)
    padded = tokenizer(["A", "ACG"], padding=True, truncation=True, max_length=3)["input_ids"]
    print(json.dumps([type(tokenizer).__name__, tokenizer(texts)["input_ids"], padded]))
"""


def test_without_our_package(tmp_path):
    texts = [EVERY, "acgtu", "RYSWKMBDHVN", "A[MASK]c\n", ""]
    tokenizers = {
        "plain": HyenaDNATokenizer(),
        "no_eos": HyenaDNATokenizer(add_eos_token=False),
        "cased": HyenaDNATokenizer(do_upper_case=False),
        "remote": HyenaDNATokenizer(),
    }
    for name, tokenizer in tokenizers.items():
        tokenizer.save_pretrained(tmp_path / name)
    # Our two files alone, as they may lie on the Hub.
    for module in MODULES:
        shutil.copy(module.__file__, tmp_path / "remote")
    config = json.loads((tmp_path / "remote" / "tokenizer_config.json").read_text())
    config["auto_map"] = {"AutoTokenizer": [None, "tokenization_hyenadna.HyenaDNATokenizer"]}
    (tmp_path / "remote" / "tokenizer_config.json").write_text(json.dumps(config))

    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_OUR_PACKAGE],
        input=json.dumps([texts, [str(tmp_path / name) for name in tokenizers]]),
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    for line, (name, tokenizer) in zip(result.stdout.splitlines(), tokenizers.items(), strict=True):
        kind, ids, padded = json.loads(line)
        assert kind == ("HyenaDNATokenizer" if name == "remote" else "TokenizersBackend")
        assert ids == tokenizer(texts).input_ids
        end = [] if name == "no_eos" else [1]
        assert ids[1] == ([UNK] * 5 if name == "cased" else [A, C, G, T, T]) + end
        assert padded == ([[4, 4, A], [A, C, G]] if name == "no_eos" else [[4, A, 1], [A, C, 1]])


def test_the_files_stand_alone():
    imported = set()
    for module in MODULES:
        for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level:
                assert (node.level, node.module) == (1, "alphabets_hyenadna")
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.split(".")[0])
    assert imported - set(sys.stdlib_module_names) == {"numpy", "tokenizers", "transformers"}


def test_the_signature_is_kept_in_what_is_saved(tmp_path):
    """As Transformers' `test_tokenizer_store_full_signature` asks."""
    for value in (True, False):
        tokenizer = HyenaDNATokenizer(add_eos_token=not value)
        tokenizer.add_eos_token = value
        tokenizer.save_pretrained(tmp_path)
        again = HyenaDNATokenizer.from_pretrained(tmp_path)
        for name, parameter in inspect.signature(HyenaDNATokenizer.__init__).parameters.items():
            if parameter.default is not inspect.Parameter.empty:
                assert name in again.init_kwargs, name
        assert again.init_kwargs["add_eos_token"] is value is again.add_eos_token


def test_an_argument_with_the_name_of_a_method(published):
    """Published files hold `add_special_tokens`, which did nothing; a user who passes it must not
    believe it did.
    """
    assert HyenaDNATokenizer.from_pretrained(published)("A").input_ids == [A, 1]
    for load in (HyenaDNATokenizer, AutoTokenizer):
        with pytest.raises(
            AttributeError, match=r"add_special_tokens conflicts with the method.*add_eos_token=False"
        ):
            load.from_pretrained(published, add_special_tokens=False)
        with pytest.raises(AttributeError, match="get_vocab conflicts with the method"):
            load.from_pretrained(published, get_vocab=True)
    with pytest.raises(AttributeError, match="add_special_tokens conflicts with the method"):
        HyenaDNATokenizer(add_special_tokens=False)
