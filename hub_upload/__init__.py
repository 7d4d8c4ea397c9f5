"""Checkpoints in and out: convert published ones, export trained ones with a card, push them."""

from hyenadna.lazy import on_first_use

# `convert`, `export`, `model_card` and `push` are modules that each hold a function of that name,
# so these names give the module. The functions below share their name with no module.
_FILE_OF_NAME = {
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

# So that a conversion loads nothing of a push.
on_first_use(globals(), _FILE_OF_NAME)
