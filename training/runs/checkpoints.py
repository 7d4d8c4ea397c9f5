"""Trainer's checkpoints on disk: `checkpoint-STEP` in the folder of a run, and which of them can be resumed."""

import json
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.utils import logging

logger = logging.get_logger(__name__)


def last_complete_checkpoint(folder: str | Path) -> str | None:
    """Return the newest checkpoint in `folder` that is whole, or None. A warning says why a newer one is passed over.

    `trainer_state.json` is the last file of a checkpoint: without a readable one, the run was killed while writing.
    Weights and optimizer are looked through too: a machine that lost its power may leave any of them cut short.
    """
    checkpoints = sorted(Path(folder).glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for checkpoint in reversed(checkpoints):
        try:
            _check_whole(checkpoint)
        except (OSError, ValueError, SafetensorError, zipfile.BadZipFile) as error:
            logger.warning(f"{checkpoint} is broken and passed over: {error}")
            continue
        return str(checkpoint)
    return None


def _check_whole(checkpoint: Path) -> None:
    """Raise an error if a file is missing or damaged. Nothing is unpickled: `torch.save` writes zip archives."""
    json.loads((checkpoint / "trainer_state.json").read_text())
    names = {path.name for path in checkpoint.iterdir()}
    for kind, starts in (("weights", ("model", "adapter_model", "pytorch_model")), ("optimizer", ("optimizer",))):
        if not any(name.startswith(starts) for name in names):  # FSDP has files and folders of its own names
            raise ValueError(f"it has no {kind}")
    for path in checkpoint.rglob("*"):
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:  # compares the size of the file with its header
                file.keys()
        elif path.suffix in (".pt", ".pth", ".bin"):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged:
                raise ValueError(f"{damaged} in {path.name} is damaged")
