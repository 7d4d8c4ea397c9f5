"""Writing files: each whole or not at all."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path


def temporary_name(path: Path) -> Path:
    """Return the name under which this process writes a file before it is whole.

    It is hidden, keeps the ending, which tells some writers what to write, and no other process
    uses it.
    """
    return path.with_name(f".{path.stem}.{os.getpid()}.unfinished{path.suffix}")


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file, then rename it: a kill never leaves half a file.

    The temporary name is this process's own, so that two processes never write into one file.
    """
    temporary = temporary_name(path)
    try:
        write(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: dict) -> None:
    """Write `content`; NaN and infinity, which JSON does not have, become null."""

    def clean(value):
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [clean(item) for item in value]
        if isinstance(value, float) and not math.isfinite(value):
            return None
        return value

    text = json.dumps(clean(content), indent=2, allow_nan=False) + "\n"
    write_whole(path, lambda temporary: temporary.write_text(text))
