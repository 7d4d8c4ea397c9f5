import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for a network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

import hyenadna

torch.set_num_threads(2)


def random_model(cls=hyenadna.HyenaDNAForCausalLM, seed: int = 0, **config):
    """A small model in evaluation mode whose every parameter is away from 0 and 1, so that no term can hide."""
    torch.manual_seed(seed)
    config = {"d_model": 16, "n_layer": 2, "max_seq_len": 66, "filter_order": 8, **config}
    model = cls(hyenadna.HyenaDNAConfig(**config)).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("freq"):
                p.uniform_(0.5, 1.5)  # the published 10 would amplify roundings, which the golden outputs test
            elif not name.endswith("pos_emb.z"):
                p.add_(torch.randn_like(p) * 0.2)
    return model


def random_ids(*shape: int, seed: int = 1) -> torch.Tensor:
    """Bases A, C, G, T, N."""
    return torch.randint(7, 12, shape, generator=torch.Generator().manual_seed(seed))


def checkpoint_activations(model, settings: dict | None = None) -> None:
    """By the name that Transformers 5.23 gave it, or by the one that it had before."""
    name = "activation_checkpointing_enable"
    enable = getattr(model, name) if hasattr(model, name) else model.gradient_checkpointing_enable
    enable(settings)


@pytest.fixture
def golden() -> Path:
    return Path(__file__).parent / "golden"
