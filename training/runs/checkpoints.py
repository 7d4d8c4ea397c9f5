"""Trainer's checkpoints on disk, `checkpoint-STEP`, and which of them can be resumed.

The last file of a checkpoint to be written is its manifest: names, sizes and SHA-256 of all the
others. A run that was killed while writing leaves no manifest. Later damage shows because the files
no longer match it.
"""

import hashlib
import json
import re
import shutil
from pathlib import Path

from transformers.utils import logging

from hyenadna.errors import UNREADABLE, reading

from .files import write_json

logger = logging.get_logger(__name__)

MANIFEST_FILE = "manifest.json"


def write_manifest(checkpoint: Path) -> None:
    """Write the names, sizes and digests of the files in a checkpoint, as its last file."""
    files = {}
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and path.name != MANIFEST_FILE:
            files[path.relative_to(checkpoint).as_posix()] = {
                "size": path.stat().st_size,
                "sha256": _sha256(path),
            }
    write_json(checkpoint / MANIFEST_FILE, {"files": files})


def check_manifest(checkpoint: Path) -> None:
    """Raise `ValueError` or `OSError` if a file is missing or differs from what was written."""
    path = checkpoint / MANIFEST_FILE
    if not path.exists():
        raise ValueError(f"it has no {MANIFEST_FILE}, which is written last")
    wrong = (*UNREADABLE, AttributeError, TypeError)
    with reading(f"its {MANIFEST_FILE} is damaged", errors=wrong):
        files = json.loads(path.read_text())["files"].items()
        expected = [(name, int(entry["size"]), str(entry["sha256"])) for name, entry in files]
    if not expected:
        raise ValueError(f"its {MANIFEST_FILE} is damaged: it names no file")

    # Cheap checks first: a SHA-256 takes seconds per gigabyte.
    for name, size, digest in expected:
        file = checkpoint / name
        if not file.is_file():
            raise ValueError(f"{name} is missing")
        if file.stat().st_size != size:
            raise ValueError(f"{name} has {file.stat().st_size:,} bytes, but {size:,} were written")
        if _sha256(file) != digest:
            raise ValueError(f"{name} is damaged: its SHA-256 is not that of what was written")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def step_of(checkpoint: Path) -> int | None:
    """Return the step in a folder's name; None for `checkpoint-best` or `checkpoint-3 (copy)`."""
    match = re.fullmatch(r"checkpoint-([0-9]{1,18})", checkpoint.name)
    return int(match[1]) if match else None


def checkpoints_in(folder: str | Path) -> list[Path]:
    """Return the checkpoints in a folder, the newest first."""
    checkpoints = [
        path for path in Path(folder).glob("checkpoint-*") if step_of(path) is not None and path.is_dir()
    ]
    return sorted(checkpoints, key=step_of, reverse=True)


def last_complete_checkpoint(folder: str | Path) -> str | None:
    """Return the newest complete checkpoint in `folder`, or None. Warn of broken ones."""
    # The newest may be broken, if the run was killed while writing it. Then take the one before.
    for checkpoint in checkpoints_in(folder):
        try:
            check_manifest(checkpoint)
        except (OSError, ValueError) as error:
            logger.warning(f"{checkpoint} is broken and passed over: {error}")
            continue
        return str(checkpoint)
    return None


def remove_old_checkpoints(newest: Path, keep: int | None, best: str | None) -> None:
    """Delete checkpoints beside the new one until `keep` are left, but never the best one.

    Transformers' function would also count, and delete, folders such as `checkpoint-3 (copy)`.
    """
    if not keep:
        return
    checkpoints = checkpoints_in(newest.parent)
    # With `keep` = 1, both the newest and the best stay: one to resume from, one as the result.
    kept = {newest.name}
    if best is not None:
        kept.add(Path(best).name)

    # A checkpoint of a later step is broken, or the run would have been resumed from it. These go
    # first, then the oldest.
    later = [path for path in checkpoints if step_of(path) > step_of(newest)]
    earlier = [path for path in reversed(checkpoints) if path not in later]
    surplus = len(checkpoints) - max(keep, len(kept))
    for checkpoint in [*later, *earlier]:
        if surplus > 0 and checkpoint.name not in kept:
            shutil.rmtree(checkpoint, ignore_errors=True)
            surplus -= 1
