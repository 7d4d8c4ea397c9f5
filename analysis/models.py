"""The model of a command, ready to be asked."""

import torch

from hyenadna import HyenaDNAForCausalLM
from hyenadna.errors import InputError
from hyenadna.training.runs.trainer import load_checkpoint

__all__ = ["load_language_model"]


def load_language_model(name: str, device: str | None = None) -> HyenaDNAForCausalLM:
    """Load a language model in float32 for evaluation.

    Args:
        name: Folder or id on the Hub.
        device: Such as `"cpu"` or `"cuda:1"`; by default a GPU if there is one.

    Raises:
        InputError: The checkpoint cannot be loaded, or there is no such device.
    """
    model, _ = load_checkpoint(HyenaDNAForCausalLM, name, {})
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return model.eval().to(device)
    except (RuntimeError, AssertionError) as error:  # no such device, or PyTorch is built without it
        raise InputError(f"device {device!r} cannot be used: {error}") from error
