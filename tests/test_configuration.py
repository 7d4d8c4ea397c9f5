import json

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from hyenadna import HyenaDNAConfig

# What the seven published `-hf` repositories differ in.
PUBLISHED = {
    "tiny-1k": (128, 2, 1026),
    "tiny-1k-d256": (256, 2, 1026),
    "tiny-16k-d128": (128, 2, 16386),
    "small-32k": (256, 4, 32770),
    "medium-160k": (256, 8, 160002),
    "medium-450k": (256, 8, 450002),
    "large-1m": (256, 8, 1000002),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_reads_published_and_writes_what_the_published_code_reads(name, golden, tmp_path):
    published = json.loads((golden / "config.json").read_text())
    d_model, n_layer, max_seq_len = PUBLISHED[name]
    published |= {"d_model": d_model, "n_layer": n_layer, "max_seq_len": max_seq_len, "d_inner": 4 * d_model}
    (tmp_path / "config.json").write_text(json.dumps(published))
    config = AutoConfig.from_pretrained(tmp_path)
    assert type(config) is HyenaDNAConfig
    assert (config.hidden_size, config.num_hidden_layers, config.max_position_embeddings) == PUBLISHED[name]
    assert config.vocab_size == 16 and config.pad_vocab_size_multiple == 1

    config.save_pretrained(tmp_path / "ours")
    ours = json.loads((tmp_path / "ours/config.json").read_text())
    # The published code rounds the vocabulary up itself; everything else has to be there with the
    # same value.
    assert ours["vocab_size"] % ours["pad_vocab_size_multiple"] == 0 and ours["vocab_size"] == 16
    changed = {"vocab_size", "pad_vocab_size_multiple", "auto_map", "torch_dtype", "transformers_version"}
    assert {k: ours.get(k) for k in published if k not in changed} == {
        k: v for k, v in published.items() if k not in changed
    }
    assert "auto_map" not in ours  # it names code that is not in the folder
    assert ours["num_attention_heads"] == 1  # peft reads it from the dictionary
    assert HyenaDNAConfig.from_pretrained(tmp_path / "ours").to_diff_dict() == config.to_diff_dict()


def test_aliases_set_the_fields_before_what_follows_from_them():
    config = HyenaDNAConfig(hidden_size=64, num_hidden_layers=3, max_position_embeddings=100)
    assert (config.d_model, config.n_layer, config.max_seq_len, config.d_inner) == (64, 3, 100, 256)
    assert HyenaDNAConfig(intermediate_size=7).d_inner == 7


def test_a_resized_vocabulary_stays_what_it_is(tmp_path):
    config = HyenaDNAConfig()
    config.vocab_size = 17
    config.save_pretrained(tmp_path)
    assert HyenaDNAConfig.from_pretrained(tmp_path).vocab_size == 17


@pytest.mark.parametrize(
    ("architectures", "given", "expected"),
    [
        (["HyenaDNAForSequenceClassification"], None, "last"),
        (["HyenaDNAForCausalLM"], None, "mean"),
        (None, None, "mean"),
        (["HyenaDNAForSequenceClassification"], "max", "max"),
    ],
)
def test_pooling_of_a_file_without_the_field(architectures, given, expected, tmp_path):
    config = HyenaDNAConfig(architectures=architectures, pooling=given)
    assert config.pooling == expected
    config.architectures = ["HyenaDNAForSequenceClassification"]
    config.save_pretrained(tmp_path)
    assert HyenaDNAConfig.from_pretrained(tmp_path).pooling == expected  # ours always writes it


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("emb_dim", 4),
        ("emb_dim", 1),
        ("hyena_order", 1),
        ("max_seq_len", 0),
        ("max_seq_len", -5),
        ("d_model", 0),
        ("n_layer", 0),
        ("d_inner", -1),
        ("vocab_size", 0),
        ("filter_order", 0),
        ("short_filter_order", 0),
        ("pad_vocab_size_multiple", 0),
        ("num_inner_mlps", -1),
        ("num_attention_heads", 4),
        ("embed_dropout", 1.0),
        ("resid_dropout", -0.1),
        ("hyena_dropout", float("nan")),
        ("classifier_dropout", 2),
        ("activation_freq", 0),
        ("layer_norm_epsilon", 0.0),
        ("initializer_range", float("inf")),
        ("modulation_shift", -0.05),
        ("pooling", "cls"),
        ("d_model", "128"),
        ("max_seq_len", 1026.5),
        ("train_freq", "yes"),
    ],
)
def test_an_impossible_value_is_named(field, value):
    with pytest.raises(StrictDataclassError) as error:
        HyenaDNAConfig(**{field: value})
    assert field in str(error.value) and str(value) in str(error.value)


def test_an_impossible_value_is_not_saved(tmp_path):
    config = HyenaDNAConfig()
    config.hyena_order = 1
    with pytest.raises(StrictDataclassError, match="hyena_order"):
        config.save_pretrained(tmp_path)


def test_num_inner_mlps_zero_and_order_five_are_fine():
    assert HyenaDNAConfig(num_inner_mlps=0, hyena_order=5, activation_freq=12.5).activation_freq == 12.5
