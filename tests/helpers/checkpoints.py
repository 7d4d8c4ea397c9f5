"""Checkpoints as the training repository wrote them, and the metrics of a run."""

import json
import math
import sys
import types
from collections import OrderedDict
from pathlib import Path

import torch

EMBEDDING = "model.backbone.embeddings.word_embeddings.weight"
METRICS = {
    "metrics": {
        "validation": {"accuracy": 0.75, "mcc": 0.5},
        "test": {"accuracy": 0.8125, "mcc": 0.6, "auroc": 0.9},
    },
    "rows": {"train": 100, "validation": 10, "test": 16},
    "train_seconds": 12.5,
    "settings": {"data": "promoters.csv", "learning_rate": 6e-4, "model": None, "data_sha256": "ab12"},
    "versions": {"torch": "2.13.0"},
}


def foreign(module: str, name: str):
    """Return a class that can be pickled under this name but imported nowhere else."""
    cls = type(name, (dict,), {"__module__": module})
    sys.modules[module] = types.ModuleType(module)
    setattr(sys.modules[module], name, cls)
    return cls


def lightning(model, head: str | None = None, wrapped: bool = False) -> dict:
    """Return the state dict that the training repository would have written for `model`."""
    state = {}
    for name, tensor in model.state_dict().items():
        if name.startswith("score."):
            name = f"{head}.output_transform.{name.removeprefix('score.')}"
        else:
            name = f"model.{name.removeprefix('hyena.')}"
            if wrapped:
                name = name.replace(".mixer.", ".mixer.layer.").replace(".mlp.", ".mlp.layer.")
        state[name] = tensor.detach().clone()
    config = model.config
    filters = {n: t for n, t in state.items() if n.endswith("implicit_filter.1.freq")}
    length = config.max_seq_len
    width = config.d_model * (config.hyena_order - 1)
    # Written out here from the published code, so as not to test our formulas by themselves.
    w = 2 * math.pi * torch.linspace(0, length - 1, length)[:, None] / length
    z = torch.exp(-1j * torch.linspace(1e-4, 1, 2) * w)
    t = torch.linspace(0, 1, length)[:, None]
    for name, freq in filters.items():
        prefix = name.removesuffix("implicit_filter.1.freq")
        state |= {f"{prefix}implicit_filter.{i}.freq": freq.clone() for i in (3, 5)}
        state[f"{prefix}pos_emb.z"] = torch.cat([t, z.real, z.imag], 1)[None]
        state[f"{prefix}pos_emb.t"] = t[None]
        deltas = torch.linspace(math.log(1e-2) / 1.5, math.log(1e-2) / 0.3, width)
        state[f"{prefix}modulation.deltas"] = deltas[None, None]
    state["val_torchmetrics.num_tokens.count"] = torch.tensor(3)
    return state


def nested(model) -> dict:
    """Return the config.json that the training repository would have written for `model`."""
    c = model.config
    layer = {
        "_name_": "hyena",
        "emb_dim": c.emb_dim,
        "filter_order": c.filter_order,
        "local_order": 3,
        "modulate": True,
    }
    layer |= {
        "local_order": 3,
        "l_max": c.max_seq_len,
        "w": 10,
        "lr": 6e-4,
        "wd": 0.0,
        "order": c.hyena_order,
    }
    outer = {
        "d_model": c.d_model,
        "n_layer": c.n_layer,
        "d_inner": c.d_inner,
        "vocab_size": 12,
        "embed_dropout": 0.2,
    }
    return outer | {"resid_dropout": 0.0, "pad_vocab_size_multiple": 8, "fused_mlp": False, "layer": layer}


def write(folder: Path, state: dict, config: dict | None = None, **others) -> Path:
    """Write a Lightning checkpoint whose hyperparameters are of a class that nobody can import."""
    folder.mkdir(exist_ok=True)
    hyper = foreign("foreign_package", "DictConfig")({"d_model": 16})
    content = {"epoch": 3, "state_dict": OrderedDict(state), "hyper_parameters": hyper, **others}
    torch.save(content, folder / "weights.ckpt")
    del sys.modules["foreign_package"]
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder
