"""Translate the tensor and setting names of published checkpoints into ours."""

import re
from pathlib import Path

import torch
from torch import Tensor

from hyenadna.configuration_hyenadna import HyenaDNAConfig
from hyenadna.errors import CheckpointError
from hyenadna.modeling_hyenadna import (
    HyenaDNAForCausalLM,
    HyenaDNAForSequenceClassification,
    HyenaDNAForTokenClassification,
    HyenaDNAModel,
    HyenaDNAPreTrainedModel,
)

from .folders import SHORT, check_counts, readable

EMBEDDING = "hyena.backbone.embeddings.word_embeddings.weight"

# Names in other layouts -> ours, applied from top to bottom; None drops the tensor.
_NAMES = (
    (r"torchmetrics", None),
    # Data-parallel and compiled modules.
    (r"^(?:module\.|_orig_mod\.)+", ""),
    # Trained with activation checkpointing.
    (r"\.(mixer|mlp)\.layer\.", r".\1."),
    # Lightning (`model.backbone`); standalone, and our HyenaDNAModel (`backbone`).
    (r"^(?:model\.|hyena\.)?backbone\.", "hyena.backbone."),
    # MultiMolecule. Nothing reads its pooler.
    (r"^pooler\.", None),
    (r"^(?:model\.)?(embeddings|layers)\.", r"hyena.backbone.\1."),
    (r"^(?:model\.)?final_layer_norm\.", "hyena.backbone.ln_f."),
    (r"^model\.lm_head\.", "lm_head."),
    (r"^(?:model\.)?(?:head|decoder|decoder\.0)\.output_transform\.", "score."),
)

# Where each row of our vocabulary is in MultiMolecule's, which is <pad> <cls> <eos> <unk> <mask>
# <null> A C G T N and 5 unnamed rows. Both [BOS] and [RESERVED] take the row of <null>.
MULTIMOLECULE_ROWS = [1, 2, 5, 4, 0, 5, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14]
_MULTIMOLECULE_FIELDS = {
    "embedding_dropout": "embed_dropout",
    "hidden_dropout": "hyena_dropout",
    "filter_dropout": "hyena_filter_dropout",
    "layer_norm_eps": "layer_norm_epsilon",
    "filter_emb_dim": "emb_dim",
    "architectures": "architectures",
    "activation_freq": "activation_freq",
    "train_freq": "train_freq",
    "initializer_range": "initializer_range",
    "tie_word_embeddings": "tie_word_embeddings",
    "filter_order": "filter_order",
    "hyena_order": "hyena_order",
    "num_inner_mlps": "num_inner_mlps",
    "short_filter_order": "short_filter_order",
    "vocab_size": "vocab_size",
    "pad_vocab_size_multiple": "pad_vocab_size_multiple",
}

# Fields of a Lightning config.json, and of the `layer` in it -> ours.
_LIGHTNING_FIELDS = {
    "d_model": "d_model",
    "n_layer": "n_layer",
    "d_inner": "d_inner",
    "vocab_size": "vocab_size",
    "pad_vocab_size_multiple": "pad_vocab_size_multiple",
    "resid_dropout": "resid_dropout",
    "embed_dropout": "embed_dropout",
    "layer_norm_epsilon": "layer_norm_epsilon",
}
_LIGHTNING_LAYER = {
    "emb_dim": "emb_dim",
    "filter_order": "filter_order",
    "num_inner_mlps": "num_inner_mlps",
    "short_filter_order": "short_filter_order",
    "l_max": "max_seq_len",
    "order": "hyena_order",
    "w": "activation_freq",
    "train_freq": "train_freq",
    "shift": "modulation_shift",
    "dropout": "hyena_dropout",
    "filter_dropout": "hyena_filter_dropout",
}
# Settings of operator variants that this package does not have. Every released checkpoint has these
# values; anything else is refused.
_LIGHTNING_ONLY = {
    "_name_": "hyena",
    "modulate": True,
    "bidirectional": False,
    "num_heads": 1,
    "num_blocks": 1,
    "inner_factor": 1,
    "outer_mixing": False,
    "post_order_ffn": False,
    "activation": "id",
}


def own_fields() -> set[str]:
    """Return the fields of our config.json. Others may name code or files, and are dropped."""
    # Without `auto_map`: whoever writes the code into the folder writes it too.
    # The alphabet is written for others than DNA only.
    more = {"alphabet", "complement", "num_labels"}
    return {*HyenaDNAConfig().to_dict(), *HyenaDNAConfig.attribute_map, *more} - {
        "auto_map",
        "tokenizer_class",
    }


def equal(a: Tensor, b: Tensor) -> bool:
    # `torch.equal` raises if the types differ.
    return a.dtype == b.dtype and torch.equal(a, b)


def rename(stored: dict) -> tuple[dict[str, Tensor], dict[str, str], list[str]]:
    """Return the tensors under our names, our name -> stored name, and the dropped stored names."""
    tensors = {}
    origin = {}
    dropped = []
    for name, tensor in stored.items():
        if not isinstance(name, str):
            raise CheckpointError(f"a {type(name).__name__} is where the name of a tensor is expected")
        ours = _our_name(name)
        if ours is None:
            dropped.append(name)
            continue
        if not isinstance(tensor, Tensor):
            raise CheckpointError(
                f"`{name}` is a {type(tensor).__name__} ({SHORT.repr(tensor)}), but a tensor is expected"
            )
        if ours in tensors and not equal(tensors[ours], tensor):
            raise CheckpointError(f"`{name}` and another tensor are both `{ours}`, and differ")
        tensors[ours] = tensor
        origin[ours] = name
    return tensors, origin, dropped


def _our_name(name: str) -> str | None:
    for pattern, replacement in _NAMES:
        if replacement is None:
            if re.search(pattern, name):
                return None
        else:
            name = re.sub(pattern, replacement, name)
    return name


def _sizes(tensors: dict[str, Tensor]) -> dict[str, int]:
    """Return every size of the model that can be read off its tensors."""

    def shape(name: str, dims: int) -> tuple[int, ...]:
        if name not in tensors:
            raise CheckpointError(f"`{name}` is missing: this is no checkpoint of HyenaDNA, or a part of one")
        if tensors[name].ndim != dims:
            raise CheckpointError(f"`{name}` has shape {tuple(tensors[name].shape)}, not {dims} dimensions")
        return tuple(tensors[name].shape)

    rows, d_model = shape(EMBEDDING, 2)
    matches = [re.match(r"hyena\.backbone\.layers\.(\d{1,6})\.", name) for name in tensors]
    layers = {int(match[1]) for match in matches if match}
    if layers != set(range(len(layers))) or not layers:
        raise CheckpointError(
            f"the blocks {sorted(layers)[:20]} are there; they have to be numbered from 0 without a gap"
        )
    # All blocks have the same shape, so the first one speaks for them.
    first = "hyena.backbone.layers.0."
    filters = f"{first}mixer.filter_fn.implicit_filter."
    filter_order, emb_dim = shape(f"{filters}0.weight", 2)
    linear = [name for name in tensors if re.fullmatch(rf"{re.escape(filters)}\d+\.weight", name)]
    sizes = {
        "vocab_size": rows,
        "pad_vocab_size_multiple": 1,
        "d_model": d_model,
        "n_layer": len(layers),
        "d_inner": shape(f"{first}mlp.fc1.weight", 2)[0],
        "emb_dim": emb_dim,
        "filter_order": filter_order,
        # The filter's first and last linear layer are not inner ones.
        "num_inner_mlps": len(linear) - 2,
        # The projection has `order` gates and one value, each d_model wide.
        "hyena_order": shape(f"{first}mixer.in_proj.weight", 2)[0] // d_model - 1,
        "short_filter_order": shape(f"{first}mixer.short_filter.weight", 3)[2],
    }
    for name in ("pos_emb.z", "pos_emb.t"):
        if f"{first}mixer.filter_fn.{name}" in tensors:
            sizes["max_seq_len"] = shape(f"{first}mixer.filter_fn.{name}", 3)[1]
    return sizes


def _settings(config: dict | None, config_file: Path) -> dict:
    """Return the settings of config.json under our names."""
    if config is None:
        return {}
    if isinstance(config.get("layer"), dict):
        return _lightning_settings(config, config_file)
    if config.get("model_type", "hyenadna") != "hyenadna":
        raise CheckpointError(f"{config_file} is of a {config['model_type']!r} model, not 'hyenadna'")
    aliases = HyenaDNAConfig.attribute_map
    # MultiMolecule. Only these fields: its token ids and heads mean something else.
    if "filter_emb_dim" in config:
        names = aliases | _MULTIMOLECULE_FIELDS
        return {ours: config[name] for name, ours in names.items() if name in config}
    # Without the type, which the tensors themselves have.
    taken = own_fields() - {"torch_dtype", "dtype"}
    return {aliases.get(name, name): value for name, value in config.items() if name in taken}


def _lightning_settings(config: dict, config_file: Path) -> dict:
    layer = config["layer"]
    for name, expected in _LIGHTNING_ONLY.items():
        if layer.get(name, expected) != expected:
            raise CheckpointError(
                f"{config_file} says {name}: {SHORT.repr(layer[name])} in `layer`; this package "
                f"and the released checkpoints know only {expected!r}"
            )
    settings = {ours: config[name] for name, ours in _LIGHTNING_FIELDS.items() if name in config}
    return settings | {ours: layer[name] for name, ours in _LIGHTNING_LAYER.items() if name in layer}


def configure(
    tensors: dict[str, Tensor], config: dict | None, path: Path
) -> tuple[type[HyenaDNAPreTrainedModel], HyenaDNAConfig, list[str]]:
    """Return the class and configuration of the model that some tensors belong to.

    Args:
        tensors: The tensors under our names.
        config: The content of config.json, if there is one.
        path: The file of the tensors.

    Returns:
        The class, its configuration, and a line for each setting that the tensors contradict.

    Raises:
        CheckpointError: The tensors are not a model, or the settings are impossible.
    """
    with readable(f"the configuration of {path} is impossible"):
        check_counts(config or {}, path.parent)
        sizes = _sizes(tensors)
        settings = _settings(config, path.parent / "config.json")
        overruled = _contradictions(sizes, settings)
        if "max_seq_len" not in sizes | settings:
            raise CheckpointError(
                f"{path} holds no `pos_emb.t`, and there is no config.json beside it: "
                "max_seq_len, the unit of the filters' time axis, is unknown. Put the checkpoint's "
                "config.json into its folder"
            )
        # Where both name a size, the tensors win over config.json.
        settings |= sizes
        cls = _class_and_head(tensors, config, settings)
        return cls, HyenaDNAConfig.from_dict(settings), overruled


def _contradictions(sizes: dict[str, int], settings: dict) -> list[str]:
    """Return a line for each size on which config.json and the tensors differ."""
    said = dict(settings)
    # The embedding has vocab_size rows, rounded up to a multiple: that is no contradiction.
    multiple = said.pop("pad_vocab_size_multiple", 8)
    if isinstance(said.get("vocab_size"), int) and isinstance(multiple, int) and multiple > 0:
        said["vocab_size"] += -said["vocab_size"] % multiple
    return [
        f"{name} is {value}, as the tensors say; config.json says {SHORT.repr(said[name])}"
        for name, value in sizes.items()
        if said.get(name) is not None and said[name] != value
    ]


def _class_and_head(
    tensors: dict[str, Tensor], config: dict | None, settings: dict
) -> type[HyenaDNAPreTrainedModel]:
    """Return the class of the model, and put what its head needs into `settings`."""
    architecture = (settings.get("architectures") or [""])[0]
    head = tensors.get("lm_head.weight")
    is_hf = config is not None and "model_type" in config
    if "score.weight" in tensors:
        cls = HyenaDNAForSequenceClassification
        if architecture == "HyenaDNAForTokenClassification":
            cls = HyenaDNAForTokenClassification
        labels = len(tensors["score.weight"])
        if len(settings.get("id2label") or {}) != labels:
            settings.pop("id2label", None)
            settings.pop("label2id", None)
            settings["num_labels"] = labels
        settings["classifier_bias"] = "score.bias" in tensors
        is_ours = config is not None and "modulation_shift" in config
        # Only our configurations say how the head pools: the paper's takes the mean, the `-hf`
        # code's the last position.
        if not is_ours:
            settings["pooling"] = "last" if is_hf else "mean"
    elif head is not None or architecture in ("HyenaDNAForCausalLM", "HyenaDnaForCausalLM"):
        cls = HyenaDNAForCausalLM
        # Lightning and the standalone code store the one matrix of embedding and head twice.
        if not is_hf:
            settings["tie_word_embeddings"] = head is not None and equal(head, tensors[EMBEDDING])
    else:
        cls = HyenaDNAModel
    settings["architectures"] = [cls.__name__]
    return cls
