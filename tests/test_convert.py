"""Checkpoints of others in, and ours out: golden outputs, every layout, and broken files."""

import copy
import errno
import json
import math
import os
import pickle
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import hyenadna
from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM
from hyenadna.errors import CheckpointError
from hyenadna.hub_upload import convert as convert_module
from hyenadna.hub_upload import folders, safe_pickle
from hyenadna.hub_upload.convert import convert
from hyenadna.hub_upload.folders import new_folder
from hyenadna.hub_upload.layouts import configure, rename
from hyenadna.training import cli

from .conftest import random_ids, random_model
from .helpers.checkpoints import EMBEDDING, lightning, nested, write

HERE, SHARED = Path(__file__).parent / "golden", Path(__file__).parent.parent.parent / "shared/golden"
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture
def model():
    """As trained in Lightning: the head is the embedding, `z` a complex exponential."""
    return random_model(tie_word_embeddings=True, complex_positional_embedding=True)


# ----------------------------------------------------------------------------------- golden outputs


def golden_folder(name: str) -> Path:
    """One Lightning checkpoint is here, so that something is always compared; the others are beside
    the repository.
    """
    folder = next((place / name for place in (HERE, SHARED) if (place / name).exists()), None)
    return folder or pytest.skip(f"{name} is not beside the repository")


@pytest.mark.parametrize(
    "name", ["lightning_wrapped", "lightning", "lightning_order3", "hf_trained_z", "hf_order2"]
)
def test_golden_checkpoints_agree_with_the_published_code(name, tmp_path):
    source = golden_folder(name)
    expected = load_file(source / "expected.safetensors")
    (tmp_path / "in").mkdir()  # beside the expected outputs stand the weights of no model
    for file in {"config.json", "weights.ckpt", "model.safetensors"} & {
        path.name for path in source.iterdir()
    }:
        shutil.copy(source / file, tmp_path / "in")
    convert(str(tmp_path / "in"), tmp_path / "ours")
    lm, info = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values()), info
    assert lm.config.complex_positional_embedding == name.startswith("lightning")
    with torch.inference_mode():
        out = lm(expected["input_ids"], output_hidden_states=True)
        hidden = AutoModel.from_pretrained(tmp_path / "ours")(expected["input_ids"]).last_hidden_state
    torch.testing.assert_close(out.logits, expected.get("lm_logits", expected.get("logits")), **CLOSE)
    torch.testing.assert_close(hidden, expected["last_hidden_state"], **CLOSE)
    for i in range(lm.config.n_layer):
        if f"hidden_states.{i}" in expected:
            torch.testing.assert_close(out.hidden_states[i], expected[f"hidden_states.{i}"], **CLOSE)


@pytest.mark.parametrize("name", ["lightning_wrapped", "lightning", "lightning_order3"])
@pytest.mark.parametrize(("head", "with_lm_head"), [("head", True), ("decoder.0", False)])
def test_golden_mean_pooling_classifiers(name, head, with_lm_head, tmp_path):
    expected = load_file(golden_folder(name) / "expected.safetensors")
    state = dict(safe_pickle.load(golden_folder(name) / "weights.ckpt")["state_dict"])
    for part in ("weight", "bias"):
        state[f"{head}.output_transform.{part}"] = expected[f"head.output_transform.{part}"]
    if not with_lm_head:
        del state["model.lm_head.weight"]
    report = convert(write(tmp_path / "in", state), tmp_path / "ours")
    assert ("lm_head.weight: the checkpoint is a classifier" in report) == with_lm_head
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours")
    assert model.config.pooling == "mean" and model.config.classifier_bias and model.config.num_labels == 3
    torch.testing.assert_close(model(expected["input_ids"]).logits, expected["mean_pool.logits"], **CLOSE)


# -------------------------------------------------------------------------------------- the layouts


def test_lightning_with_everything_that_it_may_hold(model, tmp_path):
    for wrapped in (False, True):
        source = write(tmp_path / "in", lightning(model, wrapped=wrapped), nested(model))
        report = convert(source, tmp_path / f"ours{wrapped}")
        assert (
            "dropped    *.torchmetrics.num_tokens.count (1), *.filter_fn.implicit_filter.3.freq (2)" in report
        )
        assert "computed   pos_emb.z (2), pos_emb.t (2), modulation.deltas (2)" in report
        assert "mapped     model.backbone.* (49), model.lm_head.* (1)\n" in report
        assert "complex exponential" in report and "overruled" not in report
        ours = AutoModelForCausalLM.from_pretrained(tmp_path / f"ours{wrapped}")
        assert ours.config.embed_dropout == 0.2 and ours.config.activation_freq == 10
        assert ours.config.tie_word_embeddings and ours.lm_head.weight is ours.get_input_embeddings().weight
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), model.parameters(), strict=True))
        assert torch.equal(ours(random_ids(2, 40)).logits, model(random_ids(2, 40)).logits)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / f"ours{wrapped}")
        assert tokenizer("ACGT").input_ids == [7, 8, 9, 10, 1] and tokenizer.model_max_length == 66


def test_sizes_are_read_off_the_tensors(tmp_path):
    model = random_model(
        d_model=24, n_layer=3, hyena_order=3, num_inner_mlps=3, short_filter_order=4, d_inner=40
    )
    state = lightning(model)
    (folder := tmp_path / "in").mkdir()
    torch.save(state, folder / "any-name.pt")
    report = convert(str(folder / "any-name.pt"), tmp_path / "ours")
    ours = HyenaDNAForCausalLM.from_pretrained(tmp_path / "ours")
    names = (
        "d_model",
        "n_layer",
        "hyena_order",
        "num_inner_mlps",
        "short_filter_order",
        "d_inner",
        "max_seq_len",
    )
    for name in (*names, "emb_dim", "filter_order", "vocab_size"):
        assert getattr(ours.config, name) == getattr(model.config, name), name
    assert not ours.config.tie_word_embeddings  # its head is not the embedding
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), model.parameters(), strict=True))
    assert "overruled" not in report


def test_a_config_that_contradicts_the_tensors_is_overruled(model, tmp_path):
    config = nested(model)
    config["d_model"], config["layer"]["l_max"] = 256, 1026
    report = convert(write(tmp_path / "in", lightning(model), config), tmp_path / "ours")
    assert "overruled  d_model is 16, as the tensors say; config.json says 256" in report
    assert "overruled  max_seq_len is 66, as the tensors say; config.json says 1026" in report
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert torch.equal(ours(random_ids(1, 9)).logits, model(random_ids(1, 9)).logits)


@pytest.mark.parametrize("prefix", ["", "module.", "hyena."])
@pytest.mark.parametrize("nest", [None, "model"])
def test_standalone_state_dicts(model, prefix, nest, tmp_path):
    state = {f"{prefix}{name.removeprefix('model.')}": t for name, t in lightning(model).items()}
    del state[f"{prefix}val_torchmetrics.num_tokens.count"], state[f"{prefix}lm_head.weight"]
    torch.save({nest: state} if nest else state, tmp_path / "colab.pth")
    convert(str(tmp_path / "colab.pth"), tmp_path / "ours")
    ours = AutoModel.from_pretrained(tmp_path / "ours")
    assert ours.config.architectures == ["HyenaDNAModel"]
    ids = random_ids(2, 30)
    assert torch.equal(ours(ids).last_hidden_state, model.hyena(ids).last_hidden_state)


def test_multimolecule(model, tmp_path):
    """Its names, its order of the vocabulary, its configuration; none of its heads but the language
    model's.
    """
    ours = ["[CLS]", "[SEP]", "[BOS]", "[MASK]", "[PAD]", "[RESERVED]", "[UNK]", *"ACGTN"]
    theirs = {"<pad>": "[PAD]", "<cls>": "[CLS]", "<eos>": "[SEP]", "<unk>": "[UNK]", "<mask>": "[MASK]"}
    order = [ours.index(theirs.get(token, token)) for token in [*theirs, "[RESERVED]", *"ACGTN"]] + [
        12,
        13,
        14,
        15,
        2,
    ]
    state = {}
    for name, tensor in model.state_dict().items():
        name = name.replace("hyena.backbone.ln_f", "model.final_layer_norm").replace(
            "hyena.backbone", "model"
        )
        if name != "lm_head.weight":
            state[name] = tensor[order].clone() if "word_embeddings" in name else tensor.clone()
        if name.endswith("1.freq"):
            state |= {name.replace("1.freq", f"{i}.freq"): tensor.clone() for i in (3, 5)}
    config = {
        "architectures": ["HyenaDnaForCausalLM"],
        "model_type": "hyenadna",
        "filter_emb_dim": 5,
        "hidden_size": 16,
    }
    config |= {
        "num_hidden_layers": 2,
        "max_position_embeddings": 66,
        "vocab_size": 11,
        "pad_vocab_size_multiple": 8,
    }
    config |= {
        "filter_order": 8,
        "intermediate_size": 64,
        "embedding_dropout": 0.3,
        "pad_token_id": 0,
        "eos_token_id": 2,
    }
    config |= {
        "tie_word_embeddings": True,
        "id2label": None,
        "num_labels": 1,
        "layer_norm_eps": 1e-5,
        "head": None,
    }
    (tmp_path / "lm").mkdir()
    save_file(state, tmp_path / "lm/model.safetensors")
    (tmp_path / "lm/config.json").write_text(json.dumps(config))
    report = convert(str(tmp_path / "lm"), tmp_path / "ours")
    assert "reordered" in report and "overruled" not in report
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert (again.config.pad_token_id, again.config.eos_token_id, again.config.embed_dropout) == (4, 1, 0.3)
    assert again.config.architectures == ["HyenaDNAForCausalLM"]
    used = [0, 1, 3, 4, 6, 7, 8, 9, 10, 11]  # <null> stands for two of ours
    rows = model.get_input_embeddings().weight
    assert torch.equal(again.get_input_embeddings().weight[used], rows[used])
    # MultiMolecule computes it by cosine and sine
    model.config.complex_positional_embedding = False
    ids = random_ids(2, 40)
    assert torch.equal(again(ids).logits[..., used], model(ids).logits[..., used])

    state |= {"pooler.dense.weight": torch.ones(2), "pooler.dense.bias": torch.ones(2)}
    save_file({n.removeprefix("model."): t for n, t in state.items()}, tmp_path / "lm/model.safetensors")
    (tmp_path / "lm/config.json").write_text(json.dumps(config | {"architectures": ["HyenaDnaModel"]}))
    convert(str(tmp_path / "lm"), tmp_path / "base")
    base = AutoModel.from_pretrained(tmp_path / "base")
    assert torch.equal(base(ids).last_hidden_state, model.hyena(ids).last_hidden_state)


def test_no_config_and_no_time_axis_is_an_error(model, tmp_path):
    state = {name: t for name, t in lightning(model).items() if ".pos_emb." not in name}
    with pytest.raises(CheckpointError, match=r"holds no `pos_emb.t`.*max_seq_len"):
        convert(write(tmp_path / "in", state), tmp_path / "ours")
    convert(write(tmp_path / "in", state, nested(model)), tmp_path / "ours")
    assert HyenaDNAConfig.from_pretrained(tmp_path / "ours").max_seq_len == 66


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin", "sharded"])
def test_there_and_back(golden, file, tmp_path):
    published = load_file(golden / "model.safetensors")
    (source := tmp_path / "in").mkdir()
    shutil.copy(golden / "config.json", source)
    if file == "model.safetensors":
        shutil.copy(golden / file, source)
    elif file == "sharded":
        names, files = sorted(published), ("a.safetensors", "b.safetensors")
        for i, part in enumerate(files):
            save_file({name: published[name] for name in names[i::2]}, source / part)
        index = {name: files[i % 2] for i, name in enumerate(names)}
        (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    else:
        torch.save(published, source / file)
    convert(str(source), tmp_path / "ours")
    assert not [
        name
        for name in load_file(tmp_path / "ours/model.safetensors")
        if name.endswith((".z", ".t", "deltas"))
    ]
    convert(str(tmp_path / "ours"), tmp_path / "hf", to="hf")
    back = load_file(tmp_path / "hf/model.safetensors")
    assert back.keys() == published.keys()
    for name, tensor in published.items():
        if name.endswith((".z", ".t", "deltas")):
            torch.testing.assert_close(back[name], tensor, rtol=0, atol=1e-6)
        else:
            assert torch.equal(back[name], tensor), name

    was, now = (json.loads((folder / "config.json").read_text()) for folder in (golden, tmp_path / "hf"))
    # vocab_size is 16 with multiple 1 where it was 12 with multiple 8; labels are those of every
    # PreTrainedConfig.
    changed = {"vocab_size", "pad_vocab_size_multiple", "auto_map", "transformers_version"}
    assert {k: now[k] for k in was.keys() - changed} == {k: was[k] for k in was.keys() - changed}
    assert set(now) - set(was) <= {"id2label", "label2id"}
    code = "LongSafari/hyenadna-tiny-1k-seqlen-hf--"
    assert {auto: ref.removeprefix(code) for auto, ref in now["auto_map"].items()} == was["auto_map"]
    for trust in (None, True):  # our own code reads it, whatever code it names
        assert type(
            AutoTokenizer.from_pretrained(tmp_path / "hf", trust_remote_code=trust)
        ).__module__.startswith("hyenadna.")
        lm = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", trust_remote_code=trust)
        expected = load_file(golden / "expected.safetensors")
        torch.testing.assert_close(lm(expected["input_ids"]).logits, expected["logits"], **CLOSE)


def test_lightning_to_hf_keeps_its_z_to_the_bit(model, tmp_path):
    state = lightning(model)
    convert(write(tmp_path / "in", state, nested(model)), tmp_path / "hf", to="hf")
    back = load_file(tmp_path / "hf/model.safetensors")
    assert torch.equal(back["lm_head.weight"], state[EMBEDDING])  # stored untied, as published
    for name, tensor in state.items():
        ours = name.replace("model.backbone", "hyena.backbone").removeprefix("model.")
        if "torchmetrics" not in name and not name.endswith(("3.freq", "5.freq")):
            assert torch.equal(back[ours], tensor), name
    # Read as a published folder, the model is told from its z how to compute it.
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert again.config.complex_positional_embedding and not again.config.train_positional_embedding
    assert torch.equal(again(random_ids(2, 50)).logits, model(random_ids(2, 50)).logits)


def test_the_two_formulas_differ_by_a_rounding():
    config = {"max_seq_len": 1026, "d_model": 8}
    real, by_complex = (random_model(complex_positional_embedding=c, **config) for c in (False, True))
    difference = (real(random_ids(1, 1000)).logits - by_complex(random_ids(1, 1000)).logits).abs().max()
    assert 0 < difference < 1e-3
    z = [
        m.hyena.backbone.layers[0].mixer.filter_fn.pos_emb.analytic(1000, torch.device("cpu"), torch.float64)[
            0
        ]
        for m in (real, by_complex)
    ]
    torch.testing.assert_close(*z, rtol=0, atol=1e-15)


@pytest.mark.parametrize("to", ["hyenadna", "hf"])
def test_a_trained_z_is_kept(model, to, tmp_path):
    state = lightning(model)
    for name in state:
        if name.endswith("pos_emb.z"):
            state[name] += 0.01 * torch.randn(state[name].shape, generator=torch.Generator().manual_seed(0))
    report = convert(write(tmp_path / "in", state), tmp_path / "out", to=to)
    assert "pos_emb.z  kept, because it was trained" in report
    stored = load_file(tmp_path / "out/model.safetensors")
    for name, tensor in state.items():
        if name.endswith("pos_emb.z"):
            assert torch.equal(stored[name.replace("model.", "hyena.")], tensor)
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert ours.config.train_positional_embedding
    assert (ours(random_ids(1, 60)).logits - model(random_ids(1, 60)).logits).abs().max() > 1e-2


def test_our_classifiers_to_the_published_code(tmp_path):
    cls = hyenadna.HyenaDNAForSequenceClassification
    config = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}
    for bad in ({"pooling": "mean"}, {"pooling": "last", "classifier_bias": True}, {"modulation_shift": 0.0}):
        random_model(cls, **config, **bad).save_pretrained(tmp_path / "bad")
        with pytest.raises(CheckpointError, match="would silently give other results"):
            convert(str(tmp_path / "bad"), tmp_path / "hf", to="hf")
        assert not (tmp_path / "hf").exists()
    random_model(hyenadna.HyenaDNAForTokenClassification, num_labels=3).save_pretrained(tmp_path / "tokens")
    with pytest.raises(CheckpointError, match="classifies tokens"):
        convert(str(tmp_path / "tokens"), tmp_path / "hf", to="hf")
    convert(str(tmp_path / "tokens"), tmp_path / "tokens2")
    assert HyenaDNAConfig.from_pretrained(tmp_path / "tokens2").architectures == [
        "HyenaDNAForTokenClassification"
    ]

    model = random_model(cls, pooling="last", **config)
    model.save_pretrained(tmp_path / "last")
    convert(str(tmp_path / "last"), tmp_path / "hf", to="hf")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "hf")
    assert again.config.pooling == "last" and again.config.id2label == {0: "no", 1: "yes"}
    assert torch.equal(again(random_ids(2, 20)).logits, model(random_ids(2, 20)).logits)


def test_our_own_settings_survive(tmp_path):
    model = random_model(
        modulation_shift=0.0, embed_dropout=0.3, layer_norm_epsilon=1e-6, dtype="float64"
    ).double()
    model.save_pretrained(tmp_path / "a")
    convert(str(tmp_path / "a"), tmp_path / "b")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "b")
    assert (
        again.config.to_diff_dict()
        == AutoModelForCausalLM.from_pretrained(tmp_path / "a").config.to_diff_dict()
    )
    assert again.dtype == torch.float64
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("embedding", "rest", "filters", "kept", "reported"),
    [
        ("bfloat16", "float32", "float32", "float32", "torch.bfloat16, torch.float32"),
        ("float32", "float16", "float16", "float32", "torch.float16, torch.float32"),
        ("bfloat16", "float16", "float32", "float32", "torch.bfloat16, torch.float16"),
        ("float32", "float32", "float64", "float64", "torch.float32, torch.float64"),
        ("bfloat16", "bfloat16", "float32", "bfloat16", None),
        ("bfloat16", "bfloat16", "bfloat16", "bfloat16", None),
    ],
)
def test_no_tensor_is_rounded(embedding, rest, filters, kept, reported, tmp_path):
    """Whatever types a file mixes. Filters are in float32 at least, also those of a model in half
    precision.
    """
    state = {}
    for name, tensor in lightning(random_model()).items():
        kind = embedding if name == EMBEDDING else filters if ".filter_fn." in name else rest
        state[name] = tensor.to(getattr(torch, kind))
    report = convert(write(tmp_path / "in", state), tmp_path / "ours")
    assert (f"widened    to torch.{kept}, as the tensors are of {reported}" in report) == (
        reported is not None
    )
    model = HyenaDNAForCausalLM.from_pretrained(tmp_path / "ours")
    assert model.dtype == getattr(torch, kept)
    for name, tensor in model.state_dict().items():
        stored = state["model." + name.removeprefix("hyena.")]
        assert torch.equal(tensor.double(), stored.double()), name


# ------------------------------------------------------------------------------------- broken files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"<html>404</html>", "it is a web page"),
        (b"not a checkpoint", "it is no file of torch.save"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "git lfs pull"),
        (pickle.dumps({"a": 1}), "PyTorch before 1.6"),
        (0.2, "damaged or cut off"),
        (0.999, "damaged or cut off"),
    ],
)
def test_broken_files(model, content, message, tmp_path, capsys):
    source = write(tmp_path / "in", lightning(model), nested(model)) / "weights.ckpt"
    if isinstance(content, float):
        whole = source.read_bytes()
        content = whole[: int(len(whole) * content)]
    source.write_bytes(content)
    assert cli.main(["convert", str(source), str(tmp_path / "ours")]) == 1
    error = capsys.readouterr().err
    assert message in error and "weights.ckpt" in error and "Traceback" not in error
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_a_truncated_safetensors_file(golden, tmp_path):
    shutil.copy(golden / "config.json", tmp_path)
    (tmp_path / "model.safetensors").write_bytes((golden / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="no complete safetensors file"):
        convert(str(tmp_path), tmp_path / "ours")
    (tmp_path / "model.safetensors").write_bytes(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
    )
    with pytest.raises(CheckpointError, match="git lfs pull"):
        convert(str(tmp_path), tmp_path / "ours")


FC1 = "model.backbone.layers.1.mlp.fc1.weight"
FILTER = "model.backbone.layers.1.mixer.filter_fn."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop(FC1), r"missing: \['hyena.backbone.layers.1.mlp.fc1.weight'\]"),
        (lambda s: s.pop(EMBEDDING), r"`hyena.backbone.embeddings.word_embeddings.weight` is missing"),
        (
            lambda s: s.update({"model.backbone.extra": torch.zeros(2)}),
            r"not known: \['hyena.backbone.extra'\]",
        ),
        (
            lambda s: s.update({FC1: torch.zeros(3, 3)}),
            r"fc1.weight` has shape \(3, 3\), but \(64, 16\) is expected",
        ),
        (lambda s: s.update({FC1: torch.full((64, 16), math.nan)}), r"fc1.weight` holds NaN"),
        (lambda s: s.update({FC1: torch.zeros(64, 16, dtype=torch.int64)}), r"fc1.weight` holds torch.int64"),
        (lambda s: s.update({FC1: "none"}), r"fc1.weight` is a str"),
        (
            lambda s: s.update({FC1: s[FC1].to(torch.float8_e4m3fn)}),
            r"fc1.weight` holds torch.float8_e4m3fn, not one",
        ),
        (lambda s: s.update({FC1: s[FC1].to(torch.complex64)}), r"fc1.weight` holds torch.complex64"),
        (
            lambda s: s.update({n: t.to(torch.float8_e5m2) for n, t in s.items()}),
            r"` holds torch.float8_e5m2, not one",
        ),
        (
            lambda s: s.update({n: t.half() for n, t in s.items() if n.endswith("3.freq")}),
            r"share one frequency",
        ),
        (
            lambda s: s.update({f"{FILTER}pos_emb.z": torch.full((1, 66, 5), math.nan)}),
            r"pos_emb.z` holds NaN",
        ),
        (
            lambda s: s.update({f"{FILTER}modulation.deltas": torch.ones(1, 1, 16, dtype=torch.int32)}),
            r"torch.int32",
        ),
        (lambda s: s.update({f"{FILTER}implicit_filter.3.freq": torch.ones(1, 8)}), r"share one frequency"),
        (lambda s: s[f"{FILTER}modulation.deltas"].add_(0.1), r"layers.1.*modulation.deltas` was trained"),
        (lambda s: s[f"{FILTER}pos_emb.t"].mul_(2), r"layers.0.*pos_emb.t` was trained"),
        (lambda s: [s.pop(n) for n in list(s) if ".layers.0." in n], r"the blocks \[1\] are there"),
        (lambda s: s.update({"module." + FC1: torch.zeros(64, 16)}), r"fc1.weight`, and differ"),
        (lambda s: s.clear(), r"is missing: this is no checkpoint of HyenaDNA"),
    ],
)
def test_tensors_that_make_no_model(model, change, message, tmp_path):
    state = lightning(model)
    change(state)
    with pytest.raises(CheckpointError, match=message):
        convert(write(tmp_path / "in", state, nested(model)), tmp_path / "ours")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


@pytest.mark.parametrize("name", ["last.ckpt", "model.safetensors", "pytorch_model.bin"])
def test_a_folder_where_a_file_is_expected(model, name, tmp_path, capsys):
    (tmp_path / "in" / name).mkdir(parents=True)
    (tmp_path / "in" / name / "__0_0.distcp").write_bytes(b"part")
    for source in ("in", f"in/{name}"):
        assert cli.main(["convert", str(tmp_path / source), str(tmp_path / "ours")]) == 1
        error = capsys.readouterr().err
        assert (
            "holds no weights" in error
            and "join them into one file first" in error
            and "Traceback" not in error
        )
    write(tmp_path / "in", lightning(model))  # and beside a file it is passed over
    convert(str(tmp_path / "in"), tmp_path / "ours")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_safetensors_of_float8(dtype, tmp_path):
    save_file(
        {name: t.to(dtype) for name, t in lightning(random_model()).items()}, tmp_path / "a.safetensors"
    )
    with pytest.raises(CheckpointError, match=rf"holds {dtype}, not one of"):
        convert(str(tmp_path / "a.safetensors"), tmp_path / "ours")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "holds a list"),
        ('{"model_type": "gpt2"}', "is of a 'gpt2' model"),
        ('{"layer": {"bidirectional": true}}', "says bidirectional: True"),
        ('{"layer": {"w": -1}}', "activation_freq"),
    ],
)
def test_configs_that_make_no_model(model, config, message, tmp_path):
    source = write(tmp_path / "in", lightning(model))
    (source / "config.json").write_text(config)
    with pytest.raises(CheckpointError, match=message):
        convert(str(source), tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_destinations_that_cannot_be_replaced_or_are_beside_a_users_files(model, tmp_path, monkeypatch):
    source = write(tmp_path / "in", lightning(model), nested(model))
    for name in ("here", "target", "out.unfinished"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(CheckpointError, match="the folder that you are in"):
        convert(str(source), ".")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "out.unfinished/thesis.txt").write_text("mine")
    for name in ("link", "out"):
        convert(str(source), tmp_path / name)
    assert (tmp_path / "target/model.safetensors").exists() and (tmp_path / "link").is_symlink()
    assert (tmp_path / "out.unfinished/thesis.txt").read_text() == "mine"
    assert not list(tmp_path.glob(".*"))


def test_source_and_destination(model, tmp_path, capsys):
    source = write(tmp_path / "in", lightning(model), nested(model))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/mine.txt").write_text("mine")
    for dest in ("taken", "taken/mine.txt"):
        with pytest.raises(CheckpointError, match="exists and is not empty"):
            convert(str(source), tmp_path / dest)
    with pytest.raises(CheckpointError, match="cannot be made"):
        convert(str(source), tmp_path / "taken/mine.txt/deep")
    assert (tmp_path / "taken/mine.txt").read_text() == "mine"
    shutil.copy(source / "weights.ckpt", source / "last.ckpt")  # the published name wins
    (tmp_path / "empty").mkdir()
    # an empty folder is no obstacle
    assert cli.main(["convert", str(source), str(tmp_path / "empty")]) == 0
    out = capsys.readouterr().out
    assert "HyenaDNAForCausalLM" in out and "mapped" in out
    (source / "weights.ckpt").rename(source / "first.ckpt")
    with pytest.raises(CheckpointError, match=r"several files of weights: \['first.ckpt', 'last.ckpt'\]"):
        convert(str(source), tmp_path / "ours")
    (tmp_path / "none").mkdir()
    with pytest.raises(CheckpointError, match="holds no weights"):
        convert(str(tmp_path / "none"), tmp_path / "ours")
    for name in ("no/such", "no such", "a/b/c"):  # the tests have no network
        with pytest.raises(CheckpointError, match="neither a file or folder here, nor loads from the Hub"):
            convert(name, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_from_pretrained_names_the_command(model, tmp_path):
    source = write(tmp_path / "in", lightning(model), nested(model))
    for load in (HyenaDNAForCausalLM.from_pretrained, HyenaDNAConfig.from_pretrained):
        with pytest.raises(ValueError, match="hyenadna convert SOURCE DEST"):
            load(source)
    (source / "config.json").unlink()
    with pytest.raises(OSError, match=rf"hyenadna convert {source} DEST"):
        HyenaDNAForCausalLM.from_pretrained(source)


# ------------------------------------------------------------------ settings that come from anybody

ODD = [
    None,
    5,
    -1,
    0,
    1.5,
    math.nan,
    math.inf,
    10**400,
    "x",
    "",
    [],
    [[]],
    {},
    {"a": {}},
    True,
    ["\ud800"],
    "\0" * 9,
]


@pytest.mark.parametrize("layout", ["lightning", "hf", "multimolecule"])
def test_odd_values_in_config_json_are_read_or_refused(model, layout, tmp_path):
    """Each field with each odd value: a model, or one message; nothing else, and no folder after a
    message.
    """
    config = nested(model)
    if layout == "hf":
        config = model.config.to_dict() | {"tokenizer_class": "HyenaDNATokenizer", "layer": None}
    elif layout == "multimolecule":
        config = model.config.to_dict() | {"filter_emb_dim": 5, "num_hidden_layers": 2, "hidden_size": 16}
    source = write(tmp_path / "in", lightning(model))
    stored, _, path = convert_module._read(str(source))
    names = [*config, *(f"layer.{name}" for name in config.get("layer") or {})]
    refused = 0
    for name in names:
        for odd in ODD:
            changed = copy.deepcopy(config)
            if name.startswith("layer."):
                changed["layer"][name.removeprefix("layer.")] = odd
            else:
                changed[name] = odd
            try:
                _, configuration, _ = configure(rename(stored)[0], changed, path)
            except CheckpointError as error:
                assert len(str(error)) < 2000
                refused += 1
            else:
                assert isinstance(configuration, HyenaDNAConfig) and configuration.d_model == 16
    assert refused > 20


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", b"[" * 100_000, "cannot be read"),
        ("config.json", b"\xff\xfe", "cannot be read"),
        ("config.json", b"5", "holds a int, but a JSON object is expected"),
        ("config.json", b'{"architectures": 5}', "is impossible"),
        ("model.safetensors.index.json", b"[" * 100_000, "cannot be read"),
        ("model.safetensors.index.json", b"null", "holds a NoneType"),
        ("model.safetensors.index.json", b'{"weight_map": ["a"]}', "has no `weight_map`"),
    ],
)
def test_json_that_is_damaged(model, name, content, message, tmp_path, capsys):
    source = write(tmp_path / "in", lightning(model))
    (source / name).write_bytes(content)
    assert cli.main(["convert", str(source), str(tmp_path / "ours")]) == 1
    error = capsys.readouterr().err
    assert message in error and str(source) in error and "Traceback" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("to", ["hyenadna", "hf"])
def test_settings_that_name_code_are_not_taken_over(model, to, tmp_path):
    model.save_pretrained(tmp_path / "in")
    config = json.loads((tmp_path / "in/config.json").read_text())
    foreign = {
        "tokenizer_class": "evil.T",
        "custom_pipelines": {"x": {"impl": "evil.P"}},
        "quantization_config": {},
    }
    foreign |= {
        "auto_map": {"AutoModel": "me/evil--evil.M"},
        "_attn_implementation": "me/evil",
        "colour": "red",
    }
    (tmp_path / "in/config.json").write_text(json.dumps(config | foreign))
    convert(str(tmp_path / "in"), tmp_path / "out", to=to)
    for path in (tmp_path / "out").glob("*.json"):
        assert "evil" not in path.read_text() and "red" not in path.read_text(), path
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(ours(random_ids(1, 9)).logits, model(random_ids(1, 9)).logits)


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "{}/secret.safetensors", "a/../../secret.safetensors"]
)
@pytest.mark.parametrize("where", ["folder", "hub"])
def test_an_index_reads_its_own_folder_only(model, name, where, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path / "secret")
    shutil.copy(tmp_path / "secret/model.safetensors", tmp_path / "secret.safetensors")
    (source := tmp_path / "in").mkdir()
    shutil.copy(tmp_path / "secret/config.json", source)
    index = {"weight_map": {"a": name.format(tmp_path)}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    if where == "hub":
        source = as_on_the_hub(source, monkeypatch)
    with pytest.raises(
        CheckpointError, match=r"secret.safetensors', but a file of weights .* Nothing was read"
    ):
        convert(str(source), tmp_path / "ours")


@pytest.mark.parametrize(
    "index", [{"weight_map": {"a": 5}}, {"weight_map": {"a": ["x"]}}, {"weight_map": 5}, {}, [1], "x"]
)
@pytest.mark.parametrize("where", ["folder", "hub"])
def test_an_index_that_is_none(index, where, tmp_path, monkeypatch):
    (source := tmp_path / "in").mkdir()
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    if where == "hub":
        source = as_on_the_hub(source, monkeypatch)
    with pytest.raises(CheckpointError, match=r"model.safetensors.index.json (names|is no index|holds)"):
        convert(str(source), tmp_path / "ours")


def as_on_the_hub(folder: Path, monkeypatch) -> str:
    """The name of a repository with the files of this folder."""
    names = [path.name for path in folder.iterdir()]
    monkeypatch.setattr(convert_module.HfApi, "list_repo_files", lambda api, repo_id: names)
    monkeypatch.setattr(convert_module, "hf_hub_download", lambda repo_id, name: str(folder / name))
    return "me/sharded"


# ------------------------------------------------------------------------------ whole or not at all


def in_another_process(function) -> int:
    """Run `function` in a fork of this process; return the signal that ended it, or 0."""
    child = os.fork()
    if child == 0:
        try:
            function()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1] & 127


@pytest.mark.parametrize("name", ["out", "o*t", "[x]"])
def test_a_killed_run_leaves_nothing_for_long(name, tmp_path):
    def killed() -> None:
        with new_folder(tmp_path / name) as (_, unfinished):
            (unfinished / "half").write_text("x")
            os.kill(os.getpid(), signal.SIGKILL)

    for _ in range(2):
        assert in_another_process(killed) == signal.SIGKILL
    (litter,) = tmp_path.glob(".*")  # the second run removed what the first one left
    (tmp_path / f".{name}.mine").mkdir()
    (tmp_path / "target").mkdir()
    (tmp_path / f".{name}.hyenadna-link").symlink_to(tmp_path / "target")
    with new_folder(tmp_path / name) as (_, unfinished):
        (unfinished / "whole").write_text("x")
        assert not litter.exists()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {name, f".{name}.mine", "target", f".{name}.hyenadna-link"}


def test_two_runs_that_make_one_folder(tmp_path):
    """The first to finish wins; the other neither takes it for litter nor writes into it, and gets
    a message.
    """
    with (
        pytest.raises(CheckpointError, match="something else appeared there while it was being made"),
        new_folder(tmp_path / "out") as (_, slow),
    ):
        (slow / "slow").write_text("x")
        with new_folder(tmp_path / "out") as (_, quick):
            assert slow.exists() and quick != slow
            (quick / "quick").write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["quick"]


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def no_locks(*arguments) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(folders.fcntl, "flock", no_locks)
    (tmp_path / ".out.hyenadna-of-somebody").mkdir()  # alive or not: nobody can tell
    with new_folder(tmp_path / "out"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"out", ".out.hyenadna-of-somebody"}


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error: No space left on device")],
)
def test_a_full_disk(model, error, tmp_path, monkeypatch, capsys):
    def full(*arguments, **options) -> None:
        raise error

    monkeypatch.setattr(HyenaDNAForCausalLM, "save_pretrained", full)
    source = write(tmp_path / "in", lightning(model), nested(model))
    assert cli.main(["convert", str(source), str(tmp_path / "ours")]) == 1
    message = capsys.readouterr().err
    assert "ours was not made: " in message and "No space left" in message and "Traceback" not in message
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_public_names():
    import hyenadna.hub_upload as room

    assert set(room.__all__) <= set(dir(room))
    assert callable(room.load_checkpoint) and callable(room.verify) and callable(room.files_to_push)
    assert room.convert.convert is convert
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = room.nothing
