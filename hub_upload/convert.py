"""Convert published checkpoints to ours, and ours to the `-hf` layout: `hyenadna convert`.

    hyenadna convert LongSafari/hyenadna-tiny-1k-seqlen tiny  # from the Hub: weights.ckpt + config.json
    hyenadna convert weights.ckpt tiny                        # sizes are read off the tensors
    hyenadna convert my-model my-model-hf --to hf             # for the published `-hf` code

Reads PyTorch Lightning checkpoints, state dicts of the standalone (colab) code, `-hf` folders,
MultiMolecule's and our own, from a file, a folder or a repository on the Hub. Pickles are read
without running them (`safe_pickle.py`).
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path, PurePosixPath

import torch
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HFValidationError, HTTPError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hyenadna.configuration_hyenadna import HyenaDNAConfig
from hyenadna.errors import CheckpointError, only_a_path
from hyenadna.flags import CommandParser
from hyenadna.modeling_hyenadna import (
    HyenaDNAForSequenceClassification,
    HyenaDNAForTokenClassification,
    HyenaDNAModel,
    HyenaDNAPreTrainedModel,
)
from hyenadna.tokenization import HyenaDNATokenizer

from .folders import SHORT, new_folder, read_json, readable, unusable, write_json
from .layouts import EMBEDDING, MULTIMOLECULE_ROWS, configure, equal, rename
from .safe_pickle import kind_of
from .safe_pickle import load as load_without_running

_CPU = torch.device("cpu")
# Tensors of published files that are not trained but follow from the configuration, by their names
# under `mixer.filter_fn.`. On the way in they are compared with the formula and dropped; on the way
# out to the `-hf` layout they are computed and written.
_COMPUTED = {
    "pos_emb.z": lambda f: f.pos_emb(f.config.max_seq_len, _CPU, torch.float32)[0][None],
    "pos_emb.t": lambda f: f.pos_emb(f.config.max_seq_len, _CPU, torch.float32)[1][None],
    "modulation.deltas": lambda f: f.deltas(_CPU, torch.float32)[None, None],
}
# The fields of config.json that the published `-hf` code reads.
_HF_FIELDS = (
    "activation_freq",
    "d_inner",
    "d_model",
    "emb_dim",
    "embed_dropout",
    "filter_order",
    "hyena_dropout",
    "hyena_filter_dropout",
    "hyena_order",
    "id2label",
    "initializer_range",
    "label2id",
    "layer_norm_epsilon",
    "max_seq_len",
    "model_type",
    "n_layer",
    "num_inner_mlps",
    "pad_token_id",
    "pad_vocab_size_multiple",
    "problem_type",
    "short_filter_order",
    "train_freq",
    "use_bias",
    "vocab_size",
)
# All `-hf` checkpoints use the code of this repository.
_HF_CODE = "LongSafari/hyenadna-tiny-1k-seqlen-hf--"
_WEIGHTS = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)
_ENDINGS = (".ckpt", ".safetensors", ".bin", ".pt", ".pth")


# ------------------------------------------------------------------------------------------ reading


def _choose_weights(names: list[str], source: str) -> str:
    """Return the file of weights among the files of a folder or repository."""
    for name in (*_WEIGHTS, "weights.ckpt"):
        if name in names:
            return name
    candidates = [name for name in names if name.endswith(_ENDINGS) and not name.startswith("training_args")]
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise CheckpointError(
            f"{source} holds no weights ({', '.join(_ENDINGS)}), but {sorted(names)[:10]}. FSDP and "
            "DeepSpeed write a checkpoint as a folder of parts: have what wrote it join them into one "
            "file first"
        )
    raise CheckpointError(
        f"{source} holds several files of weights: {sorted(candidates)[:10]}; name the one to convert"
    )


def _files_of_index(path: Path) -> list[str]:
    """Return the files that the index of a sharded checkpoint lists, all inside its folder."""
    content = read_json(path).get("weight_map")
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is no index of a sharded checkpoint: it has no `weight_map`")
    for name in content.values():
        is_inside = isinstance(name, str) and not PurePosixPath(name).is_absolute() and "\0" not in name
        # A backslash separates folders on Windows.
        if not is_inside or ".." in re.split(r"[/\\]", name) or not name.endswith(_ENDINGS):
            raise CheckpointError(
                f"{path} names {SHORT.repr(name)}, but a file of weights ({', '.join(_ENDINGS)}) "
                "in its own folder is expected. Nothing was read"
            )
    return sorted(set(content.values()))


def _fetch(repo_id: str) -> Path:
    """Download the weights and config.json of a repository, and return the file of weights."""
    reason = only_a_path(repo_id)
    if reason is not None:
        raise CheckpointError(
            f"{repo_id!r} is neither a file or folder here, nor loads from the Hub: {reason}"
        )
    # Only these files: the rest of a repository may be large, or code.
    try:
        names = HfApi().list_repo_files(repo_id)
        weights = _choose_weights(names, repo_id)
        path = Path(hf_hub_download(repo_id, weights))
        others = [name for name in names if name == "config.json"]
        if weights.endswith(".index.json"):
            others += _files_of_index(path)
        for name in others:
            hf_hub_download(repo_id, name)
        return path
    except (OSError, HTTPError, HFValidationError) as error:
        raise CheckpointError(
            f"{repo_id!r} is neither a file or folder here, nor loads from the Hub: {error}"
        ) from error


def _read_file(path: Path) -> dict:
    """Return the tensors of one file, without the rest of a training checkpoint."""
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            what = f"no complete safetensors file: {error}"
            if path.is_file():
                what = kind_of(path) or what
            raise CheckpointError(f"{path} cannot be read: it is {what}") from error
    content = load_without_running(path)
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} holds {SHORT.repr(content)}, but a state dict, or a dict with one, is expected"
        )
    # Where Lightning and others put the weights. Without such a key the file is a state dict.
    for name in ("state_dict", "model_state_dict", "model"):
        if isinstance(content.get(name), dict):
            return content[name]
    return content


def _read(source: str) -> tuple[dict, dict | None, Path]:
    """Return the tensors under their stored names, config.json if it exists, and their file."""
    with readable(f"{source!r} cannot be read"):
        path = Path(source)
        if not path.exists():
            path = _fetch(source)
        elif path.is_dir():
            names = [entry.name + "/" * entry.is_dir() for entry in path.iterdir()]
            path = path / _choose_weights(names, source)
        files = [path.name]
        if path.name.endswith(".index.json"):
            files = _files_of_index(path)
        missing = [name for name in files if not (path.parent / name).is_file()]
        if missing:
            raise CheckpointError(f"{path} names {missing[:10]}, which are not there")

        tensors = {}
        for name in files:
            tensors |= _read_file(path.parent / name)
        config_file = path.parent / "config.json"
        config = read_json(config_file) if config_file.exists() else None
    return tensors, config, path


# ---------------------------------------------------------------------------------------- the model


@dataclass
class _Checkpoint:
    """What was read, and what has been done with it so far.

    Attributes:
        path: The file.
        stored: What it holds, under the stored names.
        tensors: The tensors under our names.
        origin: Our name -> the stored name.
        dropped: The stored names of tensors that are not used.
        notes: Lines for the report.
    """

    path: Path
    stored: dict
    tensors: dict[str, Tensor]
    origin: dict[str, str]
    dropped: list[str]
    notes: list[str] = field(default_factory=list)


def _is_computed(name: str) -> bool:
    return re.search(r"\.(?:pos_emb\.[zt]|modulation\.deltas)$", name) is not None


def _order_vocabulary(checkpoint: _Checkpoint) -> None:
    """Bring the rows of MultiMolecule's vocabulary into our order."""
    if not any(str(name).endswith("final_layer_norm.weight") for name in checkpoint.stored):
        return
    tensors = checkpoint.tensors
    for name in {EMBEDDING, "lm_head.weight"} & tensors.keys():
        if len(tensors[name]) != len(MULTIMOLECULE_ROWS):
            raise CheckpointError(
                f"`{name}` has {len(tensors[name])} rows, but MultiMolecule's DNA vocabulary has 16"
            )
        tensors[name] = tensors[name][MULTIMOLECULE_ROWS]
    checkpoint.notes.append("reordered  the rows of the vocabulary, from MultiMolecule's order")


def _drop_copies(checkpoint: _Checkpoint) -> None:
    """Drop copies of a filter's frequency, and a language head that a classifier replaced."""
    tensors = checkpoint.tensors
    # The sine layers of a filter share one frequency; training checkpoints store it once per layer.
    for name in [name for name in tensors if re.search(r"\.implicit_filter\.(?!1\.)\d+\.freq$", name)]:
        first = re.sub(r"\d+\.freq$", "1.freq", name)
        if first in tensors and not equal(tensors[name], tensors[first]):
            raise CheckpointError(
                f"`{name}` differs from `{first}`, but the layers of a filter share one frequency"
            )
        checkpoint.dropped.append(checkpoint.origin[name])
        del tensors[name]
    # A fine-tuned Lightning checkpoint still holds the head of the pretraining.
    if "score.weight" in tensors and tensors.pop("lm_head.weight", None) is not None:
        checkpoint.dropped.append(checkpoint.origin["lm_head.weight"])
        checkpoint.notes.append("dropped    lm_head.weight: the checkpoint is a classifier")


def _check_tensors(
    expected: dict[str, Tensor], tensors: dict[str, Tensor], stored: dict[str, Tensor]
) -> None:
    """Raise if a tensor is missing, unknown, of the wrong shape or, in `stored`, unusable."""

    def shortened(names: list[str]) -> str:
        return f"{names[:5]}{' ...' * (len(names) > 5)}"

    problems = []
    # Collect all problems: with one at a time, a foreign checkpoint would take many tries.
    missing = sorted(expected.keys() - tensors.keys())
    if missing:
        problems.append(f"missing: {shortened(missing)}")
    unknown = sorted(tensors.keys() - expected.keys())
    if unknown:
        problems.append(f"not known: {shortened(unknown)}")
    wrong = [
        f"`{name}` has shape {tuple(tensors[name].shape)}, but {tuple(tensor.shape)} is expected"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    problems += [*wrong, *unusable(stored)][:5]
    if problems:
        raise CheckpointError("the tensors do not make a HyenaDNA model; " + "; ".join(problems))


def _expected(cls: type[HyenaDNAPreTrainedModel], config: HyenaDNAConfig, path: Path) -> dict[str, Tensor]:
    """Return the tensors that such a model has, on the meta device: shapes without memory."""
    with readable(f"the configuration of {path} is impossible"), torch.device("meta"):
        expected = dict(cls(config).state_dict())
    if config.tie_word_embeddings:
        expected.pop("lm_head.weight", None)
    return {name: tensor for name, tensor in expected.items() if not _is_computed(name)}


def _common_dtype(checkpoint: _Checkpoint, trained: dict[str, Tensor]) -> torch.dtype:
    """Return the type that holds every tensor without rounding."""
    # Filters are in at least float32 whatever the rest is, so they count only if they are wider.
    dtypes = {t.dtype for name, t in trained.items() if ".filter_fn." not in name or t.dtype == torch.float64}
    dtype = reduce(torch.promote_types, dtypes)
    if len(dtypes) > 1:
        types = ", ".join(sorted(map(str, dtypes)))
        checkpoint.notes.append(f"widened    to {dtype}, as the tensors are of {types}")
    return dtype


def _check_formulas(model: HyenaDNAPreTrainedModel, tensors: dict[str, Tensor]) -> None:
    """Refuse a trained time axis or trained decay rates: our model computes both."""
    for name, tensor in tensors.items():
        if not name.endswith((".pos_emb.t", ".modulation.deltas")):
            continue
        module, _, kind = name.partition(".filter_fn.")
        formula = _COMPUTED[kind](model.get_submodule(f"{module}.filter_fn")).detach()
        # Some rounding steps: the published code computed them in another order, or on a GPU.
        tolerance = 64 * torch.finfo(tensor.dtype).eps
        same_shape = tensor.shape == formula.shape
        if not same_shape or not torch.allclose(tensor.float(), formula, rtol=0, atol=tolerance):
            raise CheckpointError(f"`{name}` was trained: it is not the formula that this package computes")


def _report(checkpoint: _Checkpoint, config: HyenaDNAConfig) -> str:
    z = "computed"
    if config.train_positional_embedding:
        z = "kept, because it was trained"
    elif config.complex_positional_embedding:
        z = "computed as a complex exponential"

    origin = checkpoint.origin
    used = [
        name for ours, name in origin.items() if name not in checkpoint.dropped and not _is_computed(ours)
    ]
    kinds = {
        "mapped": [
            re.sub(r"((?:^|\.)(?:backbone|layers|lm_head|output_transform|score))\..*", r"\1.*", name)
            for name in used
        ],
        "dropped": [re.sub(r"^.*(filter_fn|torchmetrics)\.", r"*.\1.", name) for name in checkpoint.dropped],
        "computed": [name.partition(".filter_fn.")[2] for name in checkpoint.tensors if _is_computed(name)],
    }
    lines = [f"read       {checkpoint.path}: {len(checkpoint.stored)} tensors"]
    for kind, names in kinds.items():
        counts = ", ".join(f"{name} ({count})" for name, count in Counter(names).items())
        lines.append(f"{kind:<10} {counts or 'nothing'}")
    return "\n".join([*lines, f"pos_emb.z  {z}", *checkpoint.notes])


def load_checkpoint(source: str) -> tuple[HyenaDNAPreTrainedModel, str]:
    """Read a checkpoint in any layout, without running a pickle.

    Args:
        source: A file, a folder, or the name of a repository on the Hub.

    Returns:
        The model in evaluation mode, of the class that its head asks for, and a report of what was
        mapped, dropped and computed.

    Raises:
        CheckpointError: It cannot be read, or its tensors do not make a HyenaDNA model. The message
            names them.

    >>> model, report = load_checkpoint("LongSafari/hyenadna-tiny-1k-seqlen")  # doctest: +SKIP
    """
    stored, config, path = _read(source)
    checkpoint = _Checkpoint(path, stored, *rename(stored))
    # Sizes and head are read off the tensors, so a state dict without config.json will do.
    cls, configuration, overruled = configure(checkpoint.tensors, config, path)
    checkpoint.notes += [f"overruled  {line}" for line in overruled]
    _order_vocabulary(checkpoint)
    _drop_copies(checkpoint)

    if cls is HyenaDNAModel:
        checkpoint.tensors = {
            name.removeprefix("hyena."): tensor for name, tensor in checkpoint.tensors.items()
        }
    tensors = checkpoint.tensors
    if configuration.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    trained = {name: tensor for name, tensor in tensors.items() if not _is_computed(name)}
    _check_tensors(_expected(cls, configuration, path), trained, tensors)
    dtype = _common_dtype(checkpoint, trained)

    # Through `from_pretrained`, as a published file is loaded: it tells a trained `z`, which
    # becomes a parameter, from a computed one, which is dropped.
    with readable(f"{path} cannot be loaded"):
        model = cls.from_pretrained(None, config=configuration, state_dict=dict(tensors), dtype=dtype).eval()
    _check_formulas(model, tensors)
    return model, _report(checkpoint, model.config)


# ------------------------------------------------------------------------------------------ writing


def _write_ours(model: HyenaDNAPreTrainedModel, folder: Path) -> None:
    model.save_pretrained(folder)
    # From the class, not from the source: the vocabulary follows from the alphabet.
    config = model.config
    tokenizer = HyenaDNATokenizer(
        model_max_length=config.max_seq_len, alphabet=config.alphabet, complement=config.complement
    )
    tokenizer.save_pretrained(folder)


def _check_hf_can_compute(model: HyenaDNAPreTrainedModel) -> None:
    """Refuse a model that the published code would load and compute wrongly."""
    config = model.config
    reasons = []
    if config.modulation_shift != 0.05:
        reasons.append("modulation_shift is not 0.05")
    if config.alphabet != "dna":
        reasons.append(f"the alphabet is {config.alphabet!r}, and its tokenizer reads DNA")
    if config.layer_norm_epsilon != 1e-5:
        reasons.append("layer_norm_epsilon is not 1e-5")
    if isinstance(model, HyenaDNAForTokenClassification):
        reasons.append("the head classifies tokens")
    if isinstance(model, HyenaDNAForSequenceClassification):
        if config.pooling != "last":
            reasons.append(f"the classifier pools {config.pooling!r}, not 'last'")
        if config.classifier_bias:
            reasons.append("the classifier has a bias")
    if reasons:
        raise CheckpointError(
            "the published code cannot compute this model, and would silently give other results: "
            f"{'; '.join(reasons)}. Give people the folder that `hyenadna export` makes: it needs "
            "no package either"
        )


def _write_hf(model: HyenaDNAPreTrainedModel, folder: Path) -> None:
    """Write the `-hf` layout, with z, t and deltas, which its code reads from the file."""
    _check_hf_can_compute(model)
    tensors = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    # The published code does not tie them. Safetensors refuses two names for the same memory.
    if model.config.tie_word_embeddings:
        tensors["lm_head.weight"] = model.get_input_embeddings().weight.detach().clone()
    for name, module in model.named_modules():
        if name.endswith(".filter_fn"):
            for kind, formula in _COMPUTED.items():
                tensors[f"{name}.{kind}"] = formula(module).detach().contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", _hf_config(model), sort_keys=True)
    tokenizer = {
        "add_special_tokens": False,
        "auto_map": {"AutoTokenizer": [f"{_HF_CODE}tokenization_hyena.HyenaDNATokenizer", None]},
        "characters": ["A", "C", "G", "T", "N"],
        "model_max_length": model.config.max_seq_len,
        "padding_side": "left",
        "tokenizer_class": "HyenaDNATokenizer",
    }
    write_json(folder / "tokenizer_config.json", tokenizer)


def _hf_config(model: HyenaDNAPreTrainedModel) -> dict:
    ours = model.config.to_dict()
    config = {name: ours[name] for name in _HF_FIELDS if ours.get(name) is not None}
    config["architectures"] = [type(model).__name__]
    config["tie_word_embeddings"] = False
    config["torch_dtype"] = str(model.dtype).removeprefix("torch.")
    config["auto_map"] = {
        "AutoConfig": f"{_HF_CODE}configuration_hyena.HyenaConfig",
        "AutoModel": f"{_HF_CODE}modeling_hyena.HyenaDNAModel",
        "AutoModelForCausalLM": f"{_HF_CODE}modeling_hyena.HyenaDNAForCausalLM",
        "AutoModelForSequenceClassification": f"{_HF_CODE}modeling_hyena.HyenaDNAForSequenceClassification",
    }
    return config


def convert(source: str, dest: str | Path, to: str = "hyenadna") -> str:
    """Convert a checkpoint into the folder `dest`, completely or not at all.

    Args:
        source: As in `load_checkpoint`.
        dest: A folder that does not exist yet.
        to: `"hyenadna"`, our layout, or `"hf"`, that of the published `-hf` code.

    Returns:
        The report, as text.

    Raises:
        CheckpointError: `source` cannot be read, or `dest` exists.

    >>> print(convert("weights.ckpt", "tiny"))                              # doctest: +SKIP
    """
    with new_folder(dest) as (folder, unfinished):
        model, report = load_checkpoint(str(source))
        if to == "hf":
            _write_hf(model, unfinished)
        else:
            _write_ours(model, unfinished)
    parameters = sum(p.numel() for p in model.parameters())
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    return f"{report}\nwrote      {folder}: {type(model).__name__}, {parameters:,} parameters, {size:.1f} MB"


def main(argv: list[str] | None = None) -> None:
    """Run `hyenadna convert` with these arguments (default: those of the command line)."""
    parser = CommandParser(
        "convert",
        "Convert a published or a trained checkpoint, without running its pickle.",
        example="hyenadna convert LongSafari/hyenadna-tiny-1k-seqlen tiny",
        epilog=(
            "SOURCE may be PyTorch Lightning's, the standalone (colab) code's, an -hf folder, or one of ours."
        ),
    )
    parser.add_argument("source", metavar="SOURCE", help="file, folder, or repository on the Hub")
    parser.add_argument("dest", metavar="DEST", help="folder to make")
    parser.add_argument(
        "--to",
        choices=("hyenadna", "hf"),
        default="hyenadna",
        help="layout: this package's, or that of the published -hf code",
    )
    args = parser.parse_args(argv)
    print(convert(args.source, args.dest, args.to))


if __name__ == "__main__":
    from hyenadna.training.cli import run_module

    run_module(__spec__.name)
