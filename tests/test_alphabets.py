"""Alphabets other than DNA: tokens, files, models, data and what is refused without a complement."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, TokenizersBackend

import hyenadna
from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM, HyenaDNATokenizer
from hyenadna.analysis.classifier import groups_of
from hyenadna.analysis.embedding import embed
from hyenadna.analysis.likelihoods import log_likelihoods
from hyenadna.analysis.models import special_ids
from hyenadna.analysis.mutations import mutagenesis
from hyenadna.errors import InputError
from hyenadna.genomics.fasta import open_genomes
from hyenadna.genomics.held_out import count_bases
from hyenadna.genomics.intervals import Intervals
from hyenadna.genomics.labelled import LabelledData, read_labelled_data
from hyenadna.genomics.letters import (
    SOFT_MASKED,
    complement_ids,
    encode,
    is_exact,
    reverse_complement,
    strand_free,
)
from hyenadna.genomics.windows import WindowCollator, WindowDataset
from hyenadna.hub_upload.export import export
from hyenadna.tokenization import alphabets_hyenadna, find_alphabet, tokenization_hyenadna
from hyenadna.tokenization.alphabets_hyenadna import DNA, NAMED, PROTEIN, RNA, SMILES
from hyenadna.training import cli
from hyenadna.training.runs.baselines import Kmers
from hyenadna.training.runs.markov import MarkovModels, count_contexts, highest_order
from hyenadna.training.runs.models import load_tokenizer

from .conftest import random_model

# Letters that overlap in chains, so that only reading from left to right tells the tokens.
CHAINS = ["a", "b", "c", "d", "ab", "bc", "cd", "bcd", "dab"]
CODONS = [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT"] + list("ACGT")
ALPHABETS = {**dict.fromkeys(NAMED), "hachimoji": "ACGTPZBS", "chains": CHAINS, "codons": CODONS}
SPECS = {name: spec or name for name, spec in ALPHABETS.items()}
MOLECULES = "CC[C@@H](N)Cl.[Na+].Brc1ccc[nH]1 OC(=O)[C@]1(F)CCN1[Se] [13CH4] [ClH2+] C#N C%12.[Zn+2] s1cccc1"

property_based = settings(max_examples=60, derandomize=True, database=None, deadline=None)


def text_of(name: str):
    """Strategy of every text that the letters of an alphabet can make."""
    return st.lists(st.sampled_from(find_alphabet(SPECS[name]).letters), max_size=30).map("".join)


# --- tokens


def naive_tokens(text: str, letters: tuple[str, ...]) -> list[str]:
    """The longest letter at each position, from left to right."""
    tokens = []
    while text:
        fits = [letter for letter in letters if text.startswith(letter)]
        tokens.append(max(fits, key=len) if fits else "[UNK]")
        text = text[len(tokens[-1]) if fits else 1 :]
    return tokens


@pytest.mark.parametrize("name", SPECS)
def test_every_text_of_the_letters_comes_back(name):
    tokenizer = HyenaDNATokenizer(alphabet=SPECS[name], add_eos_token=False)

    @property_based
    @given(text_of(name))
    def check(text):
        ids = tokenizer(text).input_ids
        assert tokenizer.decode(ids) == text
        tokens = naive_tokens(text, tokenizer._alphabet.letters)
        assert tokenizer.convert_ids_to_tokens(ids) == tokens
        assert tokenizer._alphabet.unpack(tokenizer._alphabet.pack(text)) == text

    check()


def test_letters_begin_at_7():
    assert HyenaDNATokenizer(alphabet="rna")("acguntRY").input_ids == [7, 8, 9, 10, 11, 10, 11, 11, 1]
    protein = HyenaDNATokenizer(alphabet="protein")
    # ProtHyena's order, doi 10.1002/imo2.45
    assert protein.convert_ids_to_tokens(range(7, 32)) == list("DNEKVYAQMITLRFGCSPHWXUBOZ")
    assert len(protein) == 32
    assert protein("mkJ*-").input_ids == [15, 10, 27, 27, 6, 1]
    smiles = HyenaDNATokenizer(alphabet="smiles", add_eos_token=False)
    assert smiles.tokenize("c1cc[nH]c1Cl") == ["c", "1", "c", "c", "[nH]", "c", "1", "Cl"]
    assert smiles.tokenize("[ClH2+]") == ["[", "Cl", "H", "2", "+", "]"]
    assert smiles.tokenize("C c") == ["C", "[UNK]", "c"]
    assert len(smiles) == 112
    own = HyenaDNATokenizer(alphabet="HP", add_eos_token=False)
    assert own("HPhp").input_ids == [7, 8, 7, 8]
    assert HyenaDNATokenizer(alphabet=["Aa", "a"], add_eos_token=False)("AaaA").input_ids == [7, 8, 6]


def random_text(rng: random.Random, letters: tuple[str, ...]) -> str:
    pieces = [*letters, *letters, "x", "[", "]", "é", "\n", "[SEP]", "[MASK]", "[pad]", "Z"]
    if rng.random() < 0.5:
        pieces = [*letters]
    return "".join(rng.choices(pieces, k=rng.choice([0, 1, 2, 5, 20])))


@pytest.mark.parametrize("name", [name for name in SPECS if name != "dna"])
def test_the_table_equals_rust(name, tmp_path):
    ours = HyenaDNATokenizer(alphabet=SPECS[name])
    ours.save_pretrained(tmp_path)
    rust = TokenizersBackend.from_pretrained(tmp_path)
    assert type(rust) is TokenizersBackend
    rng = random.Random(name)
    for _ in range(60):
        texts = [random_text(rng, ours._alphabet.letters) for _ in range(3)]
        ours.truncation_side = rust.truncation_side = rng.choice(["left", "right"])
        options = {"padding": True, "truncation": rng.random() < 0.5, "max_length": rng.choice([2, 5, 9])}
        if rng.random() < 0.5:
            options = {}
        for text in (texts, texts[0]):
            mine = ours(text, verbose=False, **options)
            theirs = rust(text, verbose=False, **options)
            assert dict(mine) == dict(theirs), (text, options)
    assert ours.tokenize("".join(reversed(ours._alphabet.letters))) == rust.tokenize(
        "".join(reversed(ours._alphabet.letters))
    )


def test_molecules_need_no_rust(monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("Rust was used")

    monkeypatch.setattr(TokenizersBackend, "_encode_plus", fail)
    tokenizer = HyenaDNATokenizer(alphabet="smiles")
    for text in MOLECULES.split():
        assert tokenizer.decode(tokenizer(text, truncation=True, max_length=99).input_ids[:-1]) == text


@property_based
@given(text_of("chains"))
def test_packing_chains(text):
    """Both ways to pack, by numpy and by a regular expression, are one rule."""
    alphabet = find_alphabet(CHAINS)
    assert alphabet.tokens(alphabet.pack(text)) == naive_tokens(text, alphabet.letters)


# --- files


def test_files_of_dna_are_as_before(tmp_path):
    """They were compared byte by byte with the release before; this is what could differ."""
    HyenaDNATokenizer().save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "tokenizer.json").read_text())
    steps = [(step["pattern"]["Regex"], step["content"]) for step in stored["normalizer"]["normalizers"]]
    of_n = "RYSWKMBDHV" + "nryswkmbdhv"
    assert steps == [("[a]", "A"), ("[c]", "C"), ("[g]", "G"), ("[Utu]", "T"), (f"[{of_n}]", "N")]
    assert stored["pre_tokenizer"] is None
    assert not stored["model"]["ignore_merges"]
    assert not {"alphabet", "complement"} & set(json.loads((tmp_path / "tokenizer_config.json").read_text()))
    HyenaDNAConfig().save_pretrained(tmp_path)
    assert not {"alphabet", "complement"} & set(json.loads((tmp_path / "config.json").read_text()))
    assert HyenaDNAConfig.from_pretrained(tmp_path).alphabet == "dna"


@pytest.mark.parametrize("name", SPECS)
def test_saving_and_loading(name, tmp_path):
    complement = "TGCAZPSB" if name == "hachimoji" else None
    tokenizer = HyenaDNATokenizer(alphabet=SPECS[name], complement=complement, model_max_length=64)
    tokenizer.save_pretrained(tmp_path)
    HyenaDNAConfig(alphabet=tokenizer.alphabet, complement=tokenizer.complement).save_pretrained(tmp_path)
    for again in (HyenaDNATokenizer.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
        assert type(again) is HyenaDNATokenizer
        assert (again.alphabet, again.complement) == (SPECS[name], complement)
        assert again.do_upper_case is tokenizer.do_upper_case
        assert again(MOLECULES).input_ids == tokenizer(MOLECULES).input_ids
    config = HyenaDNAConfig.from_pretrained(tmp_path)
    assert (config.alphabet, config.complement) == (SPECS[name], complement)
    assert config.token_count == len(tokenizer)
    assert config.vocab_size == len(tokenizer) + -len(tokenizer) % 8
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer_config.json").unlink()
    assert load_tokenizer(str(tmp_path)).get_vocab() == tokenizer.get_vocab()


WITHOUT_OUR_PACKAGE = """
import json, sys
sys.modules["hyenadna"] = None  # importing it raises ImportError
from transformers import AutoTokenizer
texts, folders = json.load(sys.stdin)
for folder in folders:
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=folder.endswith("remote"))
    print(json.dumps([type(tokenizer).__name__, tokenizer(texts)["input_ids"]]))
"""


def test_without_our_package(tmp_path):
    texts = [MOLECULES, "acgturyn", "MKTAYIAK*-", "C[MASK]Cl\n", "abcdabcdbcd", "ATGTAAC", ""]
    tokenizers = {name: HyenaDNATokenizer(alphabet=spec) for name, spec in SPECS.items()}
    folders = []
    for name, tokenizer in tokenizers.items():
        tokenizer.save_pretrained(tmp_path / name)
        # Our two files, as somebody may put them on the Hub.
        remote = tmp_path / f"{name}-remote"
        tokenizer.save_pretrained(remote)
        for module in (alphabets_hyenadna, tokenization_hyenadna):
            shutil.copy(module.__file__, remote)
        config = json.loads((remote / "tokenizer_config.json").read_text())
        config["auto_map"] = {"AutoTokenizer": [None, "tokenization_hyenadna.HyenaDNATokenizer"]}
        (remote / "tokenizer_config.json").write_text(json.dumps(config))
        folders += [str(tmp_path / name), str(remote)]
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_OUR_PACKAGE],
        input=json.dumps([texts, folders]),
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    lines = iter(result.stdout.splitlines())
    for tokenizer in tokenizers.values():
        for kind in ("TokenizersBackend", "HyenaDNATokenizer"):
            assert json.loads(next(lines)) == [kind, tokenizer(texts).input_ids]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alphabet": "A"}, "it has 1 letters, but 2 to 121"),
        ({"alphabet": "ABA"}, "holds a letter twice"),
        ({"alphabet": "AB "}, "' ' cannot be a letter"),
        ({"alphabet": "ABé"}, "'é' cannot be a letter"),
        ({"alphabet": ["A", "[SEP]"]}, r"'\[SEP\]' cannot be a letter"),
        ({"alphabet": ["A", ""]}, "'' cannot be a letter"),
        ({"alphabet": ["A", "ABCDEFGHI"]}, "'ABCDEFGHI' is longer than 8"),
        ({"alphabet": [f"x{i}" for i in range(122)]}, "122 letters"),
        ({"alphabet": 7}, "expected a name of"),
        ({"alphabet": "Protein"}, "write 'protein'"),
        ({"alphabet": "ACGT", "complement": "TGC"}, "does not pair each"),
        ({"alphabet": "ACGT", "complement": "TGCX"}, "does not pair each"),
        ({"alphabet": "ABC", "complement": "BCA"}, "'A' pairs with 'B', which pairs with another"),
        ({"alphabet": "rna", "complement": "UGCAN"}, "its own complement, or none"),
        ({"alphabet": "smiles", "do_upper_case": True}, "case matters"),
        ({"alphabet": "rna", "characters": list("ACGTN")}, "got characters"),
    ],
    ids=str,
)
def test_what_is_no_alphabet(settings, message):
    with pytest.raises(ValueError, match=message):
        HyenaDNATokenizer(**settings)


def test_a_tokenizer_file_of_another_alphabet(tmp_path):
    HyenaDNATokenizer(alphabet="protein").save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(path.read_text().replace('"protein"', '"rna"'))
    with pytest.raises(ValueError, match=r"fixed vocabulary .* with the alphabet 'rna', but got vocab"):
        HyenaDNATokenizer.from_pretrained(tmp_path)


# --- models


@pytest.mark.parametrize(("name", "alphabet"), NAMED.items())
def test_the_configuration_knows_how_many_tokens_there_are(name, alphabet):
    config = HyenaDNAConfig(alphabet=name)
    assert config.token_count == len(alphabet.vocabulary) == len(HyenaDNATokenizer(alphabet=name))


@pytest.mark.parametrize("name", ["protein", "smiles"])
def test_too_few_rows_for_the_alphabet(name):
    with pytest.raises(StrictDataclassError, match="Leave `vocab_size` out"):
        HyenaDNAConfig(alphabet=name, vocab_size=13)


@pytest.mark.parametrize("tokens", [12, 13, 17, 32, 33, 64, 100])
def test_masks_caches_and_generation_of_any_size(tokens, tmp_path):
    """What holds for the 12 tokens of DNA holds for 12 to 100."""
    letters = "".join(map(chr, range(33, 127)))[: tokens - 7]
    model = random_model(alphabet=letters, n_layer=1)
    tokenizer = HyenaDNATokenizer(alphabet=letters, add_eos_token=False)
    assert model.config.token_count == len(tokenizer) == tokens
    assert model.lm_head.weight.shape[0] == tokens + -tokens % 8

    # Padded rows are as alone.
    texts = [letters[:3], letters[-5:] + letters[:4]]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**batch).logits
        alone = model(**tokenizer(texts[0], return_tensors="pt")).logits
    torch.testing.assert_close(logits[:1, -3:], alone, atol=1e-4, rtol=1e-4)

    # Only letters are generated, and the cache changes nothing.
    torch.manual_seed(0)
    free = model.generate(**batch, max_new_tokens=12, do_sample=True, temperature=5.0, eos_token_id=None)
    new = free[:, batch.input_ids.shape[1] :]
    assert ((new == 1) | ((new >= 7) & (new < tokens))).all()
    cached, plain = (
        model.generate(**batch, max_new_tokens=5, do_sample=False, use_cache=use) for use in (True, False)
    )
    assert torch.equal(cached, plain)
    model.save_pretrained(tmp_path)
    again = HyenaDNAForCausalLM.from_pretrained(tmp_path)
    assert again.config.token_count == tokens
    assert again.generation_config.suppress_tokens == model.generation_config.suppress_tokens


def test_stop_strings_of_several_characters():
    model = random_model(alphabet="smiles", n_layer=1)
    tokenizer = HyenaDNATokenizer(alphabet="smiles", add_eos_token=False)
    ids = tokenizer("CC", return_tensors="pt").input_ids
    stop = tokenizer.convert_ids_to_tokens(model.generate(ids, max_new_tokens=5, do_sample=False)[0].tolist())
    short = model.generate(
        ids, max_new_tokens=5, do_sample=False, stop_strings=stop[3] + stop[4], tokenizer=tokenizer
    )
    assert short.shape[1] == 5


# --- letters of sequences


def test_letters_of_proteins():
    ids = encode("MKtX*", PROTEIN)
    assert (ids % SOFT_MASKED).tolist() == HyenaDNATokenizer(alphabet="protein")("MKtX*").input_ids[:-1]
    assert (ids >= SOFT_MASKED).tolist() == [False, False, True, False, False]
    assert [PROTEIN.letters[i - 7] for i in np.flatnonzero(is_exact(PROTEIN))] == [
        letter for letter in PROTEIN.letters if letter not in "XBZ"
    ]
    with pytest.raises(InputError, match=r"'-' at position 2 is no IUPAC letter for an amino acid \(3 such"):
        encode("MK--1", PROTEIN)
    with pytest.raises(InputError, match="'é' at position 1"):
        encode("MéK", PROTEIN)
    with pytest.raises(InputError, match="' ' at position 5 is no character of SMILES"):
        encode("C[nH] C", SMILES)


def test_complements_and_keys():
    with pytest.raises(InputError, match="'protein' has no complement"):
        complement_ids(encode("MK", PROTEIN), PROTEIN)
    with pytest.raises(InputError, match="'rna' has no complement"):
        reverse_complement("ACGU", RNA)
    hachimoji = find_alphabet("ACGTPZBS", "TGCAZPSB")
    assert reverse_complement("AcPB", hachimoji) == "SZgT"
    assert complement_ids(encode("AcPB", hachimoji), hachimoji).tolist() == encode("SZgT", hachimoji).tolist()
    assert strand_free("AcPB", hachimoji) == strand_free("SZGT", hachimoji) != strand_free("AAAA", hachimoji)
    assert strand_free("acgt", RNA) == strand_free("ACGU", RNA) != strand_free("UGCA", RNA)
    assert strand_free("mkj", PROTEIN) == strand_free("MKX", PROTEIN)
    assert groups_of(["AAC", "GUU", "aac"], RNA).tolist() == [0, 1, 0]
    assert groups_of(["AAC", "GTT", "aac"], DNA).tolist() == [0, 0, 0]


def test_files_of_other_letters(tmp_path):
    (tmp_path / "p.fa").write_text(">a\nMKTA\nYIX*\n>b\nmkB\n")
    (file,) = open_genomes([tmp_path / "p.fa"], alphabet=PROTEIN)
    assert file.letters(0, 2, 8) == "TAYIX*"
    assert list(file.read(1, 0, 3)) == encode("mkB", PROTEIN).tolist()
    assert count_bases([file], Intervals.of([(0, 0, 0, 8), (0, 1, 0, 3)])).tolist() == [6, 2]
    assert count_bases([file], Intervals.of([(0, 1, 0, 3)]), upper_case=True).tolist() == [0]
    dataset = WindowDataset([file], Intervals.of([(0, 0, 0, 8)]), 8)
    batch = WindowCollator(alphabet=PROTEIN)(dataset.__getitems__([0]))
    # X, twice, is context only.
    assert batch["labels"][0].tolist() == [15, 10, 17, 13, 12, 16, -100, -100, 1]
    assert batch["input_ids"][0, -3:].tolist() == [27, 27, 1]

    (tmp_path / "bad.fa").write_text(">a\nMKTA\nY-I-\n")
    (file,) = open_genomes([tmp_path / "bad.fa"], alphabet=PROTEIN)
    with pytest.raises(InputError, match=r"'-' in line 3 .* is no IUPAC letter for an amino acid \(2 such"):
        count_bases([file], Intervals.of([(0, 0, 0, 8)]))


@pytest.mark.parametrize("name", ["m.fa", "m.txt", "m.csv"])
def test_files_of_tokens_of_several_characters(name, tmp_path):
    molecules = ["CC[C@@H](N)Cl", "c1cc[nH]c1", "[ClH2+]"]
    if name == "m.fa":  # a line may break inside of a token
        content = "".join(f">{i}\n{text[:5]}\n{text[5:]}\n" for i, text in enumerate(molecules))
    else:
        content = "\n".join([*(["sequence"] if name == "m.csv" else []), *molecules]) + "\n"
    (tmp_path / name).write_text(content)
    (file,) = open_genomes([tmp_path / name], alphabet=SMILES)
    assert file.lengths.tolist() == [7, 7, 6]
    assert [file.letters(i, 0, int(n)) for i, n in enumerate(file.lengths)] == molecules
    assert file.letters(0, 2, 4) == "[C@@H]("
    assert list(file.read(0, 0, 7)) == encode(molecules[0], SMILES).tolist()
    assert not list(tmp_path.glob("*.fai"))


# --- Markov models and k-mers


def test_contexts_of_many_letters():
    rng = np.random.default_rng(0)
    windows = rng.integers(0, 23, (5, 40)).astype(np.uint8)  # 22 letters, and 22 is none of them
    counts = count_contexts([(windows, np.ones_like(windows, dtype=bool))], 2, letters=22)
    expected = [np.zeros((22**h, 22), dtype=np.int64) for h in range(3)]
    for window in windows.tolist():
        for i in range(1, len(window)):
            context = window[max(0, i - 2) : i]
            if 22 in context:
                context = context[len(context) - context[::-1].index(22) :]
            if window[i] < 22:
                row = sum(digit * 22**j for j, digit in enumerate(reversed(context)))
                expected[len(context)][row, window[i]] += 1
    for found, known in zip(counts.exact, expected, strict=True):
        np.testing.assert_array_equal(found, known)
    models = MarkovModels(counts, counts)
    assert models.perplexity(counts)[0] < 22.5
    assert [highest_order(n) for n in (2, 4, 22, 105)] == [21, 10, 3, 2]


def test_kmers_of_proteins():
    train = ["MKTMK", "mkt", "WX"]
    kmers = Kmers(PROTEIN, train)
    # Those of two sequences, of which none has an X.
    letter = {chr(256 + i): letter for letter, i in PROTEIN.vocabulary.items()}
    names = ["".join(letter[c] for c in column) for column in kmers.columns]
    assert sorted(names) == ["K", "KT", "M", "MK", "MKT", "T"]
    counts = dict(zip(names, kmers.count(["MKTMK"]).toarray()[0].tolist(), strict=True))
    assert counts == {"M": 2, "K": 2, "T": 1, "MK": 2, "KT": 1, "MKT": 1}


# --- analysis


def test_likelihoods_and_embeddings_of_proteins():
    model = random_model(alphabet="protein")
    tokenizer = HyenaDNATokenizer(alphabet="protein", add_eos_token=False)
    (scores,) = log_likelihoods(model, ["MKXtO"])
    ids = tokenizer("MKXTO", return_tensors="pt").input_ids
    with torch.no_grad():
        log_p = model(ids).logits.log_softmax(-1)
        state = model.hyena(ids).last_hidden_state.mean(1)
    expected = log_p[0, :-1].gather(1, ids[0, 1:, None])[:, 0].numpy()
    expected[1] = np.nan  # X
    np.testing.assert_allclose(scores[1:], expected, atol=1e-5)
    assert np.isnan(scores[0])
    np.testing.assert_allclose(embed(model, ["MKXtO"]), state.numpy(), atol=1e-5)
    with pytest.raises(InputError, match="'protein' has no complement"):
        log_likelihoods(model, ["MK"], strand="reverse")
    with pytest.raises(InputError, match="mutagenesis is for DNA"):
        mutagenesis(model, "MKT", 0, 2)


@pytest.mark.parametrize("name", SPECS)
def test_special_tokens_around_the_letters(name):
    """They are found with any alphabet, also one in which A is not the first letter, or no letter."""
    tokenizer = HyenaDNATokenizer(alphabet=SPECS[name])
    model = random_model(alphabet=SPECS[name], n_layer=1)
    assert special_ids(model, tokenizer) == ([], [1])


def test_embeddings_of_molecules_in_chunks():
    model = random_model(alphabet="smiles")
    texts = ["CC[C@@H](N)Cl", "c1cc[nH]c1"]
    whole = embed(model, texts)
    for text, vector in zip(texts, whole, strict=True):
        ids = HyenaDNATokenizer(alphabet="smiles", add_eos_token=False)(text, return_tensors="pt").input_ids
        with torch.no_grad():
            state = model.hyena(ids).last_hidden_state.mean(1)
        np.testing.assert_allclose(vector, state[0].numpy(), atol=1e-5)
    assert embed(model, texts, chunk=4).shape == whole.shape


# --- commands

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
TINY = ["--d_model", "8", "--n_layer", "1", "--max_seq_len", "66"]
QUICK = ["--use_cpu", "true", "--disable_tqdm", "true", "--per_device_train_batch_size", "8"]


@pytest.fixture(scope="module")
def proteins(tmp_path_factory) -> Path:
    """A folder with proteins, and a model that was pretrained on them by the command."""
    folder = tmp_path_factory.mktemp("proteins")
    rng = random.Random(0)
    texts = ["M" + "".join(rng.choices(AMINO_ACIDS + "wwwww", k=40)) for _ in range(60)]
    (folder / "p.fa").write_text("".join(f">p{i}\n{text}*\n" for i, text in enumerate(texts)))
    rows = [f"{text},{'many' if text.count('w') > 8 else 'few'}" for text in texts]
    (folder / "p.csv").write_text("\n".join(["sequence,label", *rows]) + "\n")
    command = ["pretrain", "--data", str(folder / "p.fa"), "--alphabet", "protein", "--max_steps", "20"]
    command += [*TINY, *QUICK, "--learning_rate", "0.03", "--output_dir", str(folder / "model")]
    assert cli.main(command) == 0
    return folder


def test_pretraining_on_proteins(proteins):
    config = json.loads((proteins / "model" / "config.json").read_text())
    assert (config["alphabet"], config["vocab_size"]) == ("protein", 32)
    results = json.loads((proteins / "model" / "metrics.json").read_text())
    # One letter in five is W: a model that has learned the frequencies is better than 20.
    assert results["metrics"]["validation"]["perplexity"] < 20
    assert list(results["markov"]["validation"]["perplexity"]) == ["0", "1", "2", "3"]
    tokenizer = AutoTokenizer.from_pretrained(proteins / "model")
    model = HyenaDNAForCausalLM.from_pretrained(proteins / "model")
    ids = tokenizer("MKT", return_tensors="pt", add_special_tokens=False).input_ids
    new = tokenizer.decode(model.generate(ids, max_new_tokens=20, do_sample=True, eos_token_id=None)[0])
    assert re.fullmatch(r"MKT([A-Z]|\[SEP\])+", new)


def test_the_commands_on_proteins(proteins, tmp_path, capsys):
    model = str(proteins / "model")
    table = str(proteins / "p.csv")
    command = ["finetune", "--data", table, "--model", model, "--num_train_epochs", "2", *QUICK]
    assert cli.main([*command, "--output_dir", str(tmp_path / "classifier")]) == 0
    assert "1..3-mer logistic regression on the same rows" in capsys.readouterr().out
    results = json.loads((tmp_path / "classifier" / "metrics.json").read_text())
    assert results["strands"]["used"] == "one"
    command = ["soft-prompt", "--data", table, "--model", model, "--num_train_epochs", "1", *QUICK]
    command += ["--num_virtual_tokens", "4", "--init_text", "MKTA", "--form", "next_token"]
    assert cli.main([*command, "--output_dir", str(tmp_path / "prompt")]) == 0
    command = ["score", "--model", model, "--data", str(proteins / "p.fa")]
    assert cli.main([*command, "--output", str(tmp_path / "scores.tsv")]) == 0
    header, line = (tmp_path / "scores.tsv").read_text().splitlines()[:2]
    assert "log_likelihood_forward" in header and "reverse" not in header
    assert line.split("\t")[:2] == ["p0", "42"]
    command = ["predict", "--model", str(tmp_path / "classifier"), "--data", table]
    assert cli.main([*command, "--output", str(tmp_path / "classes.tsv")]) == 0
    header, line = (tmp_path / "classes.tsv").read_text().splitlines()[:2]
    assert header.split("\t")[:2] == ["id", "length"]
    assert line.split("\t")[:2] == ["0", "41"]
    command = ["embed", "--model", model, "--data", table, "--use_cpu", "true", "--classifier", "logistic"]
    assert cli.main([*command, "--output_dir", str(tmp_path / "vectors")]) == 0
    assert cli.main(["export", str(tmp_path / "classifier"), str(tmp_path / "exported")]) == 0
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "a classifier of proteins (few, many)" in card and "MKTAYIAKQRQ" in card
    assert "- protein" in card and "DNA sequences" not in card


@pytest.mark.parametrize("name", ["smiles", "hachimoji"])
def test_exported_models_load_alone(name, tmp_path):
    """`export` proves it: another process without this package computes the same outputs."""
    folder = tmp_path / "model"
    complement = "TGCAZPSB" if name == "hachimoji" else None
    model = random_model(alphabet=SPECS[name], complement=complement, n_layer=1)
    model.save_pretrained(folder)
    HyenaDNATokenizer(alphabet=SPECS[name], complement=complement).save_pretrained(folder)
    export(folder, tmp_path / "exported")
    saved = json.loads((tmp_path / "exported" / "tokenizer_config.json").read_text())
    assert saved["alphabet"] == SPECS[name]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("score --data p.fa --output x.tsv --strand both", "'both', but the alphabet 'protein'"),
        ("score --data p.fa --output x.tsv --strand reverse", "'reverse', but the alphabet 'protein'"),
        ("finetune --data p.csv --strands both --output_dir x", "'protein' has no complement"),
        ("finetune --data p.csv --reverse_complement .5 --output_dir x", "'protein' has no complement"),
        ("finetune --data p.csv --test_time_averaging true --output_dir x", "'protein' has no complement"),
        ("finetune --data dna.csv --output_dir x", "holds '-' at position 3, which is no IUPAC letter"),
        ("finetune --data p.csv --alphabet protein --output_dir x", "a checkpoint has its own"),
        ("pretrain --data p.fa --reverse_complement .5 --output_dir x", "'protein' has no complement"),
        ("embed --gtf g.gtf --fasta g.fa --output_dir x", "genes of a GTF file are DNA"),
        ("variants --fasta dna.fa --vcf v.vcf --window 8 --output_dir x", "variants is for DNA"),
        ("convert --to hf", "the alphabet is 'protein', and its tokenizer reads DNA"),
        (
            "soft-prompt --data p.csv --num_virtual_tokens 4 --init_text MKJ --output_dir x",
            r"holds \['J'\]; write residues: D, N",
        ),
    ],
)
def test_what_needs_a_second_strand_is_refused(proteins, command, message, capsys, monkeypatch):
    monkeypatch.chdir(proteins)
    Path("dna.csv").write_text("sequence,label\nACG-T,a\n")
    Path("dna.fa").write_text(">chr1\nACGTACGTAA\n")
    Path("v.vcf").write_text(
        "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\nchr1\t3\t.\tG\tA\t.\t.\t.\n"
    )
    if command.startswith("convert"):
        arguments = ["convert", "model", "other", "--to", "hf"]
    else:
        arguments = [*command.split(), "--model", "model"]
    if arguments[0] in ("finetune", "pretrain", "soft-prompt", "embed"):
        arguments += ["--use_cpu", "true"]
    assert cli.main(arguments) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not Path("x").exists() and not Path("x.tsv").exists()


def test_rows_and_models_of_different_alphabets(proteins, tmp_path):
    from hyenadna.training.finetune import FinetuneArguments, finetune

    data = read_labelled_data(proteins / "p.csv", alphabet=PROTEIN)
    assert data.alphabet == PROTEIN
    data = LabelledData(data.parts, data.problem_type, data.label_names)  # of DNA, as it says
    args = FinetuneArguments(model=str(proteins / "model"), output_dir=str(tmp_path / "x"), use_cpu=True)
    with pytest.raises(InputError, match="sequences have the alphabet 'dna', but the model has 'protein'"):
        finetune(args, data)


def test_a_tokenizer_that_contradicts_the_configuration(tmp_path):
    random_model(n_layer=1).save_pretrained(tmp_path)
    HyenaDNATokenizer(alphabet="rna").save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"tokenizer has the alphabet 'rna', but its config\.json 'dna'"):
        load_tokenizer(str(tmp_path))
    with pytest.raises(
        hyenadna.errors.CheckpointError, match=r"has the alphabet 'rna', but its config\.json"
    ):
        export(tmp_path, tmp_path / "exported")


def test_a_configuration_of_no_alphabet(tmp_path):
    random_model(n_layer=1, alphabet="HP").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"HP"', '"HH"'))
    with pytest.raises(InputError, match=r"model .*: alphabet is 'HH': it holds a letter twice"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("kind", ["model", "tokenizer"])
def test_dna_is_read_as_the_published_tokenizer_reads_it(kind, tmp_path):
    """The ids of DNA have not moved."""
    if kind == "tokenizer":
        ids = HyenaDNATokenizer(alphabet="dna")("ACGTNacgtnURYSWKMBDHV-").input_ids
    else:
        random_model(n_layer=1, alphabet="dna").save_pretrained(tmp_path)
        ids = load_tokenizer(str(tmp_path))("ACGTNacgtnURYSWKMBDHV-").input_ids
    assert ids == [7, 8, 9, 10, 11] * 2 + [10] + [11] * 10 + [6, 1]
