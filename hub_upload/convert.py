"""Published checkpoints in, and ours out to people on the published code: `hyenadna convert SOURCE DEST`.

    hyenadna convert LongSafari/hyenadna-tiny-1k-seqlen tiny        # Lightning weights.ckpt + config.json, from the Hub
    hyenadna convert weights.ckpt tiny                              # sizes are read off the tensors
    hyenadna convert my-model my-model-hf --to hf                   # for the published `-hf` code

Reads PyTorch Lightning checkpoints, state dicts of the standalone (colab) code, `-hf` folders, MultiMolecule's and our
own; from a file, a folder, or a repository on the Hub. No pickle is ever run (`safe_pickle.py`).
"""

import argparse
import json
import re
import reprlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from pathlib import Path

import torch
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HFValidationError, HTTPError, StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer

from hyenadna.configuration_hyenadna import HyenaDNAConfig
from hyenadna.errors import CheckpointError
from hyenadna.modeling_hyenadna import (
    HyenaDNAForCausalLM,
    HyenaDNAForSequenceClassification,
    HyenaDNAForTokenClassification,
    HyenaDNAModel,
    HyenaDNAPreTrainedModel,
)

from .safe_pickle import kind_of
from .safe_pickle import load as load_without_running

# Names in other layouts -> ours, applied from top to bottom; None drops the tensor.
_NAMES = (
    (r"torchmetrics", None),
    (r"^(?:module\.|_orig_mod\.)+", ""),  # data-parallel and compiled modules
    (r"\.(mixer|mlp)\.layer\.", r".\1."),  # trained with activation checkpointing
    (r"^(?:model\.|hyena\.)?backbone\.", "hyena.backbone."),  # Lightning; standalone, and our HyenaDNAModel
    (r"^pooler\.", None),  # MultiMolecule's, which nothing reads
    (r"^(?:model\.)?(embeddings|layers)\.", r"hyena.backbone.\1."),  # MultiMolecule
    (r"^(?:model\.)?final_layer_norm\.", "hyena.backbone.ln_f."),
    (r"^model\.lm_head\.", "lm_head."),
    (r"^(?:model\.)?(?:head|decoder|decoder\.0)\.output_transform\.", "score."),
)
# What published files hold beside the trained weights, by its name under `mixer.filter_fn.`: it follows from the
# configuration. Coming in it is compared with the formula and left out; going out to the `-hf` layout it is written.
_COMPUTED = {
    "pos_emb.z": lambda f: f.pos_emb(f.config.max_seq_len, _CPU, torch.float32)[0][None],
    "pos_emb.t": lambda f: f.pos_emb(f.config.max_seq_len, _CPU, torch.float32)[1][None],
    "modulation.deltas": lambda f: f.deltas(_CPU, torch.float32)[None, None],
}
_CPU = torch.device("cpu")
_SHORT = reprlib.Repr()  # `repr` of a hostile file may have no end
_SHORT.maxlevel, _SHORT.maxother = 2, 100
# Our rows of the vocabulary in MultiMolecule's: <pad> <cls> <eos> <unk> <mask> <null> A C G T N, and 5 without a name.
# <null> stands for both [BOS] and [RESERVED].
_MULTIMOLECULE_ROWS = [1, 2, 5, 4, 0, 5, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14]
_MULTIMOLECULE_FIELDS = {"embedding_dropout": "embed_dropout", "hidden_dropout": "hyena_dropout"}
_MULTIMOLECULE_FIELDS |= {"filter_dropout": "hyena_filter_dropout", "layer_norm_eps": "layer_norm_epsilon"}
_MULTIMOLECULE_FIELDS |= {"filter_emb_dim": "emb_dim"}
_MULTIMOLECULE_KEPT = ("architectures", "activation_freq", "train_freq", "initializer_range", "tie_word_embeddings")
_MULTIMOLECULE_KEPT += ("filter_order", "hyena_order", "num_inner_mlps", "short_filter_order", "vocab_size")
_MULTIMOLECULE_KEPT += ("pad_vocab_size_multiple",)
# Fields of a Lightning config.json and of the `layer` in it -> ours.
_LIGHTNING_FIELDS = {name: name for name in ("d_model", "n_layer", "d_inner", "vocab_size", "pad_vocab_size_multiple")}
_LIGHTNING_FIELDS |= {name: name for name in ("resid_dropout", "embed_dropout", "layer_norm_epsilon")}
_LIGHTNING_LAYER = {name: name for name in ("emb_dim", "filter_order", "num_inner_mlps", "short_filter_order")}
_LIGHTNING_LAYER |= {"l_max": "max_seq_len", "order": "hyena_order", "w": "activation_freq", "train_freq": "train_freq"}
_LIGHTNING_LAYER |= {"shift": "modulation_shift", "dropout": "hyena_dropout", "filter_dropout": "hyena_filter_dropout"}
# Variants of the operator that no released checkpoint uses, with the value of those that do not use them.
_LIGHTNING_ONLY = {"_name_": "hyena", "modulate": True, "bidirectional": False, "num_heads": 1, "num_blocks": 1}
_LIGHTNING_ONLY |= {"inner_factor": 1, "outer_mixing": False, "post_order_ffn": False, "activation": "id"}
# What the published `-hf` code reads.
_HF_FIELDS = {"vocab_size", "pad_vocab_size_multiple", "d_model", "n_layer", "d_inner", "max_seq_len", "emb_dim"}
_HF_FIELDS |= {"filter_order", "num_inner_mlps", "hyena_order", "short_filter_order", "activation_freq", "train_freq"}
_HF_FIELDS |= {"embed_dropout", "hyena_dropout", "hyena_filter_dropout", "use_bias", "layer_norm_epsilon"}
_HF_FIELDS |= {"initializer_range", "model_type", "pad_token_id", "id2label", "label2id", "problem_type"}
_HF_CODE = "LongSafari/hyenadna-tiny-1k-seqlen-hf--"  # the repository whose code all `-hf` checkpoints share
_WEIGHTS = ("model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin")
_ENDINGS = (".ckpt", ".safetensors", ".bin", ".pt", ".pth")


# -------------------------------------------------------------------------------------------------------------- reading


def _choose_weights(names: list[str], source: str) -> str:
    """The file with the weights among the files of a folder or repository."""
    for name in (*_WEIGHTS, "weights.ckpt"):
        if name in names:
            return name
    found = [name for name in names if name.endswith(_ENDINGS) and not name.startswith("training_args")]
    if len(found) == 1:
        return found[0]
    if not found:
        raise CheckpointError(
            f"{source} holds no weights ({', '.join(_ENDINGS)}), but {sorted(names)[:10]}. A checkpoint that is a "
            "folder of parts, as FSDP and DeepSpeed write it, has to be made one file first, by what wrote it"
        )
    raise CheckpointError(f"{source} holds several files of weights: {sorted(found)[:10]}; name the one to convert")


def _fetch(repo_id: str) -> Path:
    """Download the weights and the configuration of a repository; return the file with the weights."""
    try:
        names = HfApi().list_repo_files(repo_id)
        weights = _choose_weights(names, repo_id)
        wanted = [weights, *(name for name in names if name == "config.json")]
        if weights.endswith(".index.json"):
            index = json.loads(Path(hf_hub_download(repo_id, weights)).read_text())
            wanted += sorted(set(index["weight_map"].values()))
        files = [Path(hf_hub_download(repo_id, name)) for name in wanted]
        return files[0]
    except (OSError, HTTPError, HFValidationError) as error:
        raise CheckpointError(
            f"{repo_id!r} is neither a file or folder here, nor loads from the Hub: {error}"
        ) from error


def _read_file(path: Path) -> tuple[dict, dict]:
    """The tensors of one file, and what else a training checkpoint holds (by name)."""
    if path.suffix == ".safetensors":
        try:
            return load_file(path), {}
        except (SafetensorError, OSError) as error:
            what = kind_of(path) or f"no complete safetensors file: {error}"
            raise CheckpointError(f"{path} cannot be read: it is {what}") from error
    content = load_without_running(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds {_SHORT.repr(content)}, but a state dict, or a dict with one, is expected")
    for name in ("state_dict", "model_state_dict", "model"):
        if isinstance(content.get(name), dict):
            return content[name], content
    return content, {}


def _read(source: str) -> tuple[dict[str, Tensor], dict | None, Path]:
    """The tensors under their stored names, config.json if there is one, and the file they come from."""
    path = Path(source)
    if not path.exists():
        path = _fetch(source)
    elif path.is_dir():
        path = path / _choose_weights([p.name + "/" * p.is_dir() for p in path.iterdir()], source)
    if path.name.endswith(".index.json"):
        try:
            files = sorted(set(json.loads(path.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{path} is no index of a sharded checkpoint: {error!r}") from error
        missing = [name for name in files if not (path.parent / name).is_file()]
        if missing:
            raise CheckpointError(f"{path} names {missing}, which are not there")
    else:
        files = [path.name]
    tensors = {}
    for name in files:
        tensors |= _read_file(path.parent / name)[0]
    config_file = path.parent / "config.json"
    try:
        config = json.loads(config_file.read_text()) if config_file.exists() else None
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{config_file} cannot be read: {error}") from error
    if config is not None and not isinstance(config, dict):
        raise CheckpointError(f"{config_file} holds a {type(config).__name__}, not the settings of a model")
    return tensors, config, path


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)  # which raises for different types


def _rename(stored: dict) -> tuple[dict[str, Tensor], dict[str, str], list[str]]:
    """The tensors under our names, the stored name of each, and the stored names of those that are dropped."""
    tensors, origin, dropped = {}, {}, []
    for name, tensor in stored.items():
        if not isinstance(name, str):
            raise CheckpointError(f"a {type(name).__name__} stands where the name of a tensor is expected")
        ours = name
        for pattern, replacement in _NAMES:
            if replacement is None and re.search(pattern, ours):
                ours = None
                break
            ours = re.sub(pattern, replacement or "", ours)
        if ours is None:
            dropped.append(name)
        elif not isinstance(tensor, Tensor):
            raise CheckpointError(
                f"`{name}` is a {type(tensor).__name__} ({_SHORT.repr(tensor)}), but a tensor is expected"
            )
        elif ours in tensors and not _equal(tensors[ours], tensor):
            raise CheckpointError(f"`{name}` and another tensor are both `{ours}`, and differ")
        else:
            tensors[ours], origin[ours] = tensor, name
    return tensors, origin, dropped


# -------------------------------------------------------------------------------------------------------- configuration


def _sizes(tensors: dict[str, Tensor]) -> dict[str, int]:
    """Every size that can be read off the tensors."""

    def shape(name: str, dims: int) -> tuple[int, ...]:
        if name not in tensors:
            raise CheckpointError(f"`{name}` is missing: this is no checkpoint of HyenaDNA, or a part of one")
        if tensors[name].ndim != dims:
            raise CheckpointError(f"`{name}` has shape {tuple(tensors[name].shape)}, not {dims} dimensions")
        return tuple(tensors[name].shape)

    rows, d_model = shape("hyena.backbone.embeddings.word_embeddings.weight", 2)
    layers = {int(m[1]) for name in tensors if (m := re.match(r"hyena\.backbone\.layers\.(\d+)\.", name))}
    if layers != set(range(len(layers))) or not layers:
        raise CheckpointError(f"the blocks {sorted(layers)} are there; they have to be numbered from 0 without a gap")
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
        "num_inner_mlps": len(linear) - 2,
        "hyena_order": shape(f"{first}mixer.in_proj.weight", 2)[0] // d_model - 1,
        "short_filter_order": shape(f"{first}mixer.short_filter.weight", 3)[2],
    }
    for name in ("pos_emb.z", "pos_emb.t"):
        if f"{first}mixer.filter_fn.{name}" in tensors:
            sizes["max_seq_len"] = shape(f"{first}mixer.filter_fn.{name}", 3)[1]
    return sizes


def _settings(config: dict | None, path: Path) -> dict:
    """What config.json says, in our fields."""
    if config is None:
        return {}
    if isinstance(config.get("layer"), dict):
        layer = config["layer"]
        for name, expected in _LIGHTNING_ONLY.items():
            if layer.get(name, expected) != expected:
                raise CheckpointError(
                    f"{path.parent / 'config.json'} says {name}: {layer[name]!r} in `layer`; this package and the "
                    f"released checkpoints know only {expected!r}"
                )
        known = {ours: config[name] for name, ours in _LIGHTNING_FIELDS.items() if name in config}
        return known | {ours: layer[name] for name, ours in _LIGHTNING_LAYER.items() if name in layer}
    if config.get("model_type", "hyenadna") != "hyenadna":
        raise CheckpointError(f"{path.parent / 'config.json'} is of a {config['model_type']!r} model, not 'hyenadna'")
    if "filter_emb_dim" in config:  # MultiMolecule: its token ids and heads mean something else
        names = _MULTIMOLECULE_FIELDS | HyenaDNAConfig.attribute_map | {name: name for name in _MULTIMOLECULE_KEPT}
        return {ours: config[name] for name, ours in names.items() if name in config}
    aliases, left_out = HyenaDNAConfig.attribute_map, ("auto_map", "torch_dtype", "dtype")
    return {aliases.get(name, name): value for name, value in config.items() if name not in left_out}


def _configure(
    tensors: dict[str, Tensor], config: dict | None, path: Path
) -> tuple[type[HyenaDNAPreTrainedModel], HyenaDNAConfig, list[str]]:
    """The class and the configuration of the model, and what of config.json the tensors contradict."""
    sizes, settings = _sizes(tensors), _settings(config, path)
    multiple = settings.get("pad_vocab_size_multiple", 8)
    said = dict(settings)
    if isinstance(said.get("vocab_size"), int) and isinstance(multiple, int) and multiple > 0:
        said["vocab_size"] += -said["vocab_size"] % multiple
    overruled = [
        f"{name} is {value}, as the tensors say; config.json says {said[name]}"
        for name, value in sizes.items()
        if name != "pad_vocab_size_multiple" and said.get(name) is not None and said[name] != value
    ]
    if "max_seq_len" not in sizes | settings:
        raise CheckpointError(
            f"{path} holds no `pos_emb.t`, and there is no config.json beside it: max_seq_len, the unit of the "
            "filters' time axis, is unknown. Put the checkpoint's config.json into its folder"
        )
    settings |= sizes

    embedding, head = tensors["hyena.backbone.embeddings.word_embeddings.weight"], tensors.get("lm_head.weight")
    is_ours = config is not None and "modulation_shift" in config
    architecture = (settings.get("architectures") or [""])[0]
    if "score.weight" in tensors:
        tokens = architecture == "HyenaDNAForTokenClassification"
        cls = HyenaDNAForTokenClassification if tokens else HyenaDNAForSequenceClassification
        count = len(tensors["score.weight"])
        if len(settings.get("id2label") or {}) != count:
            settings = {k: v for k, v in settings.items() if k not in ("id2label", "label2id")} | {"num_labels": count}
        settings["classifier_bias"] = "score.bias" in tensors
        if not is_ours:  # the paper's head pools the mean, the `-hf` code's the last position
            settings["pooling"] = "last" if config is not None and "model_type" in config else "mean"
    elif head is not None or architecture in ("HyenaDNAForCausalLM", "HyenaDnaForCausalLM"):
        cls = HyenaDNAForCausalLM
        if config is None or "model_type" not in config:  # trained tied; stored as two names for one matrix
            settings["tie_word_embeddings"] = head is not None and _equal(head, embedding)
    else:
        cls = HyenaDNAModel
    settings["architectures"] = [cls.__name__]
    try:
        return cls, HyenaDNAConfig.from_dict(settings), overruled
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise CheckpointError(f"the configuration of {path} is impossible: {error}") from error


# ------------------------------------------------------------------------------------------------------------ the model


def unusable(tensors: dict[str, Tensor]) -> list[str]:
    """A line for each tensor that no model computes with: of another type than these, or with NaN or infinity."""
    usable = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
    lines = [f"`{name}` holds {t.dtype}, not one of {usable}" for name, t in tensors.items() if t.dtype not in usable]
    return lines + [
        f"`{name}` holds NaN or infinity" for name, t in tensors.items() if t.dtype in usable and not t.isfinite().all()
    ]


def _check_tensors(expected: dict[str, Tensor], tensors: dict[str, Tensor], stored: dict[str, Tensor]) -> None:
    """Raise with the name of each tensor that is missing, of a wrong shape, or not known; or unusable, of `stored`."""
    missing = sorted(expected.keys() - tensors.keys())
    unknown = sorted(tensors.keys() - expected.keys())
    wrong = [
        f"`{name}` has shape {tuple(tensors[name].shape)}, but {tuple(tensor.shape)} is expected"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    problems = [f"missing: {missing[:5]}{' ...' if len(missing) > 5 else ''}"] if missing else []
    problems += [f"not known: {unknown[:5]}{' ...' if len(unknown) > 5 else ''}"] if unknown else []
    problems += [*wrong, *unusable(stored)][:5]
    if problems:
        raise CheckpointError("the tensors do not make a HyenaDNA model; " + "; ".join(problems))


def _is_computed(name: str) -> bool:
    return re.search(r"\.(?:pos_emb\.[zt]|modulation\.deltas)$", name) is not None


def load_checkpoint(source: str) -> tuple[HyenaDNAPreTrainedModel, str]:
    """Read a checkpoint in any layout, without running a pickle.

    Args:
        source: A file, a folder, or the name of a repository on the Hub.

    Returns:
        The model, of the class that fits its heads, in evaluation mode; and a report of what was mapped, dropped and
        computed.

    Raises:
        CheckpointError: It cannot be read, or its tensors do not make a HyenaDNA model; the message names them.
    """
    stored, config, path = _read(source)
    tensors, origin, dropped = _rename(stored)
    cls, configuration, overruled = _configure(tensors, config, path)
    notes = [f"overruled  {line}" for line in overruled]
    if any(str(name).endswith("final_layer_norm.weight") for name in stored):
        for name in {"hyena.backbone.embeddings.word_embeddings.weight", "lm_head.weight"} & tensors.keys():
            if len(tensors[name]) != len(_MULTIMOLECULE_ROWS):
                raise CheckpointError(
                    f"`{name}` has {len(tensors[name])} rows, but MultiMolecule's DNA vocabulary has 16"
                )
            tensors[name] = tensors[name][_MULTIMOLECULE_ROWS]
        notes.append("reordered  the rows of the vocabulary, from MultiMolecule's order")

    # One frequency serves all sine layers; training checkpoints store it once for each.
    for name in [n for n in tensors if re.search(r"\.implicit_filter\.(?!1\.)\d+\.freq$", n)]:
        first = re.sub(r"\d+\.freq$", "1.freq", name)
        if first in tensors and not _equal(tensors[name], tensors[first]):
            raise CheckpointError(f"`{name}` differs from `{first}`, but the layers of a filter share one frequency")
        dropped.append(origin[name])
        del tensors[name]
    if "score.weight" in tensors and tensors.pop("lm_head.weight", None) is not None:
        dropped.append(origin["lm_head.weight"])
        notes.append("dropped    lm_head.weight: the checkpoint is a classifier")

    if cls is HyenaDNAModel:
        tensors = {name.removeprefix("hyena."): tensor for name, tensor in tensors.items()}
    with torch.device("meta"):
        expected = dict(cls(configuration).state_dict())
    if configuration.tie_word_embeddings:
        expected.pop("lm_head.weight", None)
        tensors.pop("lm_head.weight", None)
    trained = {name: t for name, t in tensors.items() if not _is_computed(name)}
    _check_tensors({name: t for name, t in expected.items() if not _is_computed(name)}, trained, tensors)
    # The filters are in at least float32 whatever the rest is; of the rest no tensor may be rounded.
    dtypes = {t.dtype for name, t in trained.items() if ".filter_fn." not in name or t.dtype == torch.float64}
    dtype = reduce(torch.promote_types, dtypes)
    if len(dtypes) > 1:
        notes.append(f"widened    to {dtype}, as the tensors are of {', '.join(sorted(map(str, dtypes)))}")

    # As a published file is loaded: a `z` that was trained becomes a parameter, one of the formula is left out.
    try:
        model = cls.from_pretrained(None, config=configuration, state_dict=dict(tensors), dtype=dtype).eval()
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be loaded: {error}") from error
    for name, tensor in tensors.items():
        if name.endswith(".pos_emb.t") or name.endswith(".modulation.deltas"):
            module, _, kind = name.partition(".filter_fn.")
            formula = _COMPUTED[kind](model.get_submodule(f"{module}.filter_fn"))
            close = {"rtol": 0, "atol": 64 * torch.finfo(tensor.dtype).eps}
            if tensor.shape != formula.shape or not torch.allclose(tensor.float(), formula.detach(), **close):
                raise CheckpointError(f"`{name}` was trained: it is not the formula that this package computes")

    z = "kept, because it was trained" if model.config.train_positional_embedding else "computed"
    if not model.config.train_positional_embedding and model.config.complex_positional_embedding:
        z += " as a complex exponential"
    used = [name for ours, name in origin.items() if name not in dropped and not _is_computed(ours)]
    mapped = Counter(
        re.sub(r"((?:^|\.)(?:backbone|layers|lm_head|output_transform|score))\..*", r"\1.*", n) for n in used
    )
    left_out = Counter(re.sub(r"^.*(filter_fn|torchmetrics)\.", r"*.\1.", name) for name in dropped)
    computed = Counter(name.partition(".filter_fn.")[2] for name in tensors if _is_computed(name))
    report = [
        f"read       {path}: {len(stored)} tensors",
        "mapped     " + ", ".join(f"{name} ({count})" for name, count in mapped.items()),
        "dropped    " + (", ".join(f"{name} ({count})" for name, count in left_out.items()) or "nothing"),
        "computed   " + (", ".join(f"{name} ({count})" for name, count in computed.items()) or "nothing"),
        f"pos_emb.z  {z}",
        *notes,
    ]
    return model, "\n".join(report)


# -------------------------------------------------------------------------------------------------------------- writing


def _write_ours(model: HyenaDNAPreTrainedModel, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)  # ours, made from its class: the vocabulary is always the same
    tokenizer.model_max_length = model.config.max_seq_len
    tokenizer.save_pretrained(folder)


def _write_hf(model: HyenaDNAPreTrainedModel, folder: Path) -> None:
    """Write the layout of the published `-hf` repositories, with what their code takes from the file: z, t, deltas."""
    config = model.config
    cannot = {
        "modulation_shift is not 0.05": config.modulation_shift != 0.05,
        "layer_norm_epsilon is not 1e-5": config.layer_norm_epsilon != 1e-5,
        "the head classifies tokens": isinstance(model, HyenaDNAForTokenClassification),
    }
    if isinstance(model, HyenaDNAForSequenceClassification):
        cannot[f"the classifier pools {config.pooling!r}, not 'last'"] = config.pooling != "last"
        cannot["the classifier has a bias"] = config.classifier_bias
    reasons = [reason for reason, holds in cannot.items() if holds]
    if reasons:
        raise CheckpointError(
            f"the published code cannot compute this model, and would give other results in silence: "
            f"{'; '.join(reasons)}. Give people the folder that `hyenadna export` makes: it needs no package either"
        )
    tensors = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        tensors["lm_head.weight"] = model.get_input_embeddings().weight.detach().clone()
    for name, module in model.named_modules():
        if name.endswith(".filter_fn"):
            for kind, formula in _COMPUTED.items():
                tensors[f"{name}.{kind}"] = formula(module).detach().contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    ours = config.to_dict()
    hf = {name: ours[name] for name in sorted(_HF_FIELDS) if ours.get(name) is not None}
    hf |= {"architectures": [type(model).__name__], "tie_word_embeddings": False, "torch_dtype": str(model.dtype)[6:]}
    heads = {"AutoModel": "Model", "AutoModelForCausalLM": "ForCausalLM"}
    heads["AutoModelForSequenceClassification"] = "ForSequenceClassification"
    code = {"AutoConfig": f"{_HF_CODE}configuration_hyena.HyenaConfig"}
    code |= {auto: f"{_HF_CODE}modeling_hyena.HyenaDNA{head}" for auto, head in heads.items()}
    tokenizer = {
        "add_special_tokens": False,
        "auto_map": {"AutoTokenizer": [f"{_HF_CODE}tokenization_hyena.HyenaDNATokenizer", None]},
        "characters": ["A", "C", "G", "T", "N"],
        "model_max_length": config.max_seq_len,
        "padding_side": "left",
        "tokenizer_class": "HyenaDNATokenizer",
    }
    (folder / "config.json").write_text(json.dumps(hf | {"auto_map": code}, indent=2, sort_keys=True) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer, indent=2) + "\n")


@contextmanager
def new_folder(dest: str | Path) -> Iterator[tuple[Path, Path]]:
    """The folder to make, and the empty one beside it that becomes it when everything inside `with` has succeeded.

    Raises:
        CheckpointError: There is something at `dest` already.
    """
    folder = Path(dest).resolve()
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise CheckpointError(f"{dest} exists and is not empty; choose another folder, or remove it first")
    if folder == Path.cwd():
        raise CheckpointError(
            f"{dest} is the folder that you are in, which cannot be replaced; name a folder inside it"
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        unfinished.chmod(0o755)  # `mkdtemp` lets nobody else in
    except OSError as error:
        raise CheckpointError(f"{dest} cannot be made: {error}") from error
    try:
        yield folder, unfinished
        if folder.exists():
            folder.rmdir()
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def convert(source: str, dest: str, to: str = "hyenadna") -> str:
    """Convert a checkpoint into the folder `dest`, which is made whole or not at all.

    Args:
        source: As in `load_checkpoint`.
        dest: A folder that does not exist yet.
        to: `"hyenadna"`, our layout, or `"hf"`, that of the published `-hf` code.

    Returns:
        The report.

    Raises:
        CheckpointError: `source` cannot be read, or `dest` is not free.
    """
    with new_folder(dest) as (folder, unfinished):
        model, report = load_checkpoint(str(source))
        (_write_hf if to == "hf" else _write_ours)(model, unfinished)
    parameters = sum(p.numel() for p in model.parameters())
    size = sum(p.stat().st_size for p in folder.iterdir()) / 1e6
    return f"{report}\nwrote      {folder}: {type(model).__name__}, {parameters:,} parameters, {size:.1f} MB"


def main(argv: list[str] | None = None) -> None:
    """Run `hyenadna convert` with these arguments (default: those of the command line)."""
    parser = argparse.ArgumentParser(
        prog="hyenadna convert",
        description="Convert a published or a trained checkpoint, without running its pickle.",
        epilog="SOURCE may be PyTorch Lightning's, the standalone (colab) code's, an -hf folder, or one of ours.",
    )
    parser.add_argument("source", metavar="SOURCE", help="file, folder, or repository on the Hub")
    parser.add_argument("dest", metavar="DEST", help="folder to make")
    parser.add_argument(
        "--to",
        choices=("hyenadna", "hf"),
        default="hyenadna",
        help="layout: this package's, or that of the published -hf code (%(default)s)",
    )
    args = parser.parse_args(argv)
    print(convert(args.source, args.dest, args.to))


if __name__ == "__main__":
    from hyenadna.training.cli import run_module

    run_module(__spec__.name)
