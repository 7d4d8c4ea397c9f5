"""Loading a model: every damaged or diverged checkpoint is told in one line, whatever reads it."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from hyenadna import (
    HyenaDNAConfig,
    HyenaDNAForCausalLM,
    HyenaDNAForSequenceClassification,
    HyenaDNATokenizer,
)
from hyenadna.errors import InputError
from hyenadna.training import cli
from hyenadna.training.runs.adapters import add_lora, load_adapted
from hyenadna.training.runs.models import (
    PUBLISHED,
    load_checkpoint,
    load_language_model,
    load_tokenizer,
    published_checkpoints,
)

from .conftest import random_model


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "whole"
    random_model(n_layer=1).save_pretrained(folder)
    HyenaDNATokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def checkpoint(whole, tmp_path) -> Path:
    shutil.copytree(whole, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.mark.parametrize("size", [-100, 200, 9, 0])
def test_cut_weights(checkpoint, size):
    """The commonest damage of all: a download that broke off (B1)."""
    path = checkpoint / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:size] if size else b"")
    with pytest.raises(InputError, match=r"model '.*' cannot be loaded: .+"):
        load_checkpoint(HyenaDNAForCausalLM, str(checkpoint), {})


@pytest.mark.parametrize(
    "content",
    ["", "[1]", "5", "null", "{", '{"model_type": 3}', "[" * 3000 + "]" * 3000, "\xff"],
)
def test_config_that_is_no_configuration(checkpoint, content):
    (checkpoint / "config.json").write_text(content, encoding="latin-1")
    with pytest.raises(
        InputError, match=r"model '.*' is neither a folder with a checkpoint nor loads from the Hub: .+"
    ):
        load_checkpoint(HyenaDNAForCausalLM, str(checkpoint), {})


@pytest.mark.parametrize(
    "changes", [{"d_model": "x"}, {"n_layer": None}, {"d_model": -1}, {"num_labels": []}]
)
def test_config_with_wrong_values(checkpoint, changes):
    content = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**content, **changes}))
    with pytest.raises(InputError, match="model '"):
        load_checkpoint(HyenaDNAForCausalLM, str(checkpoint), {})


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": 1}', "\xff", "[" * 3000])
def test_a_damaged_tokenizer(checkpoint, file, content):
    """It is named, or does not matter; it never ends in an error of another type (B2)."""
    (checkpoint / file).write_text(content, encoding="latin-1")
    try:
        tokenizer = load_tokenizer(str(checkpoint))
    except InputError as error:
        assert "the tokenizer of model" in str(error)
    else:
        assert tokenizer("ACGT")["input_ids"] == HyenaDNATokenizer()("ACGT")["input_ids"]


def test_a_checkpoint_without_tokenizer_files_has_the_published_vocabulary(checkpoint):
    for path in checkpoint.glob("tokenizer*"):
        path.unlink()
    assert load_tokenizer(str(checkpoint))("ACGTN")["input_ids"] == HyenaDNATokenizer()("ACGTN")["input_ids"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_with_nan_are_refused(value, tmp_path, capsys):
    """A model whose training diverged scored, embedded and called variants as NaN, with exit status
    0 (B4).
    """
    model = random_model(n_layer=1)
    with torch.no_grad():
        model.hyena.backbone.layers[0].mlp.fc1.weight[3, 2] = value
    model.save_pretrained(tmp_path / "diverged")
    with pytest.raises(
        InputError, match=r"holds NaN or infinity in \['hyena.backbone.layers.0.mlp.fc1.weight'\]"
    ):
        load_language_model(str(tmp_path / "diverged"), "cpu")
    (tmp_path / "s.fa").write_text(">a\nACGT\n")
    flags = ["--model", str(tmp_path / "diverged"), "--data", str(tmp_path / "s.fa")]
    assert cli.main(["score", *flags, "--output", str(tmp_path / "s.tsv")]) == 1
    assert cli.main(["embed", *flags, "--output_dir", str(tmp_path / "e"), "--use_cpu"]) == 1
    assert capsys.readouterr().err.count("holds NaN or infinity") == 2
    assert not (tmp_path / "s.tsv").exists()


@pytest.fixture
def adapter(whole, tmp_path) -> Path:
    """A folder as `hyenadna finetune --lora_rank` leaves it."""
    settings = {"num_labels": 2, "id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}
    model, _ = load_checkpoint(HyenaDNAForSequenceClassification, str(whole), settings, new="score.")
    adapted = add_lora(model, 2)
    adapted.save_pretrained(tmp_path / "adapter")
    model.config.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"peft_type": "EVIL"}', '{"peft_type": ["LORA"], "r": "x"}']
)
def test_a_damaged_adapter(adapter, content, whole):
    load_adapted(adapter, whole)
    (adapter / "adapter_config.json").write_text(content)
    with pytest.raises(InputError, match="the adapter in"):
        load_adapted(adapter, whole)


def test_damaged_weights_of_an_adapter(adapter, whole):
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"the adapter in .* cannot be loaded"):
        load_adapted(adapter, whole)


def test_published_parameter_counts_are_those_of_the_shapes():
    """Others count the positional embedding of the filters, and get ten times as many."""
    widths = {"d256": (256, 2), "small": (256, 4), "medium": (256, 8), "large": (256, 8)}
    for name, (tokens, parameters) in PUBLISHED.items():
        width, blocks = next((shape for key, shape in widths.items() if key in name), (128, 2))
        config = HyenaDNAConfig(d_model=width, n_layer=blocks, max_seq_len=tokens, tie_word_embeddings=True)
        with torch.device("meta"):
            model = HyenaDNAForCausalLM(config)
        assert sum(parameter.numel() for parameter in model.parameters()) == parameters
        assert f"{name}-hf ({tokens:,} tokens, {parameters:,} parameters)" in published_checkpoints()
        docs = (Path(__file__).parent.parent / "docs" / "fine-tuning.md").read_text()
        assert f"| `{name}` | {width} x {blocks} | {tokens:,} | {parameters:,} |" in docs


@pytest.mark.parametrize("count", ["n_layer", "num_labels", "num_hidden_layers", "num_inner_mlps"])
def test_absurd_counts_make_no_objects(checkpoint, count):
    """An object would be made for each, until the memory is full."""
    content = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**content, count: 10**9}))
    with pytest.raises(InputError, match=rf"says `{count}`: 1000000000, but at most .* are expected"):
        load_checkpoint(HyenaDNAForCausalLM, str(checkpoint), {})


@pytest.mark.parametrize("size", ["d_model", "d_inner", "vocab_size", "filter_order"])
def test_sizes_that_the_files_cannot_hold_take_no_memory(checkpoint, size):
    content = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**content, size: 10**8 + 1}))
    with pytest.raises(InputError, match=r"which asks for .* weights: its files have .* bytes"):
        load_checkpoint(HyenaDNAForCausalLM, str(checkpoint), {})


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/x.safetensors", "a/../../x", "..\\\\x", "C:\\\\x", 5, None]
)
def test_an_index_reads_its_own_folder_only(whole, tmp_path, name, capsys):
    """Transformers follows it anywhere: `convert` refused, all others read the file (C7)."""
    model = random_model(n_layer=1)
    model.save_pretrained(tmp_path / "shards", max_shard_size="10KB")
    shutil.copy(whole / "model.safetensors", tmp_path / "x.safetensors")
    index = tmp_path / "shards" / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    load_checkpoint(HyenaDNAForCausalLM, str(tmp_path / "shards"), {})
    index.write_text(json.dumps({**content, "weight_map": dict.fromkeys(content["weight_map"], name)}))
    with pytest.raises(InputError, match=r"model.safetensors.index.json names .* is no file in its own"):
        load_checkpoint(HyenaDNAForCausalLM, str(tmp_path / "shards"), {})
    assert cli.main(["export", str(tmp_path / "shards"), str(tmp_path / "out")]) == 1
    assert "which is no file in its own folder" in capsys.readouterr().err
