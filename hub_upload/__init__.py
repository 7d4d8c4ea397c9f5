"""Checkpoints in and out: convert published ones, export trained ones with a card, push them."""

import importlib

# `convert`, `export`, `model_card` and `push` are modules that each hold a function of that name,
# so these names give the module. The functions below share their name with no module.
_HOME = {
    "adapter_card": "model_card",
    "files_to_push": "contents",
    "load_checkpoint": "convert",
    "verify": "export",
}
__all__ = [
    "adapter_card",
    "convert",
    "export",
    "files_to_push",
    "load_checkpoint",
    "model_card",
    "push",
    "verify",
]


def __getattr__(name: str) -> object:
    """Import a function or module on first use, so that a conversion loads nothing of a push."""
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
