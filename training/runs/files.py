"""Write files completely or not at all."""

import json
import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def temporary_name(path: Path) -> Path:
    """Return the name under which this process writes a file until it is complete.

    It is hidden, unique to the process, and has the same suffix: some writers choose the format by
    it.
    """
    return path.with_name(f".{path.stem}.{os.getpid()}.unfinished{path.suffix}")


def target_of(temporary: Path) -> Path | None:
    """Return the path that a file of this `temporary_name` will get; None if it has no such name.

    >>> target_of(Path("out/.scores.77.unfinished.tsv")).as_posix()
    'out/scores.tsv'
    """
    # pysam writes the index of a VCF beside it, with one ending more.
    parts = re.fullmatch(r"\.(.+)\.\d+\.unfinished(\.[^.]+)?(\.index)?", temporary.name)
    if parts is None:
        return None
    return temporary.with_name(f"{parts[1]}{parts[2] or ''}")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the name of a file into errors of writing it. On a full disk the system names none."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(temporary_name(path))):
            error.filename = str(path)
        raise


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file, then rename it. A kill never leaves half a file.

    >>> write_whole(Path("table.md"), lambda path: path.write_text("| a |"))  # doctest: +SKIP
    """
    temporary = temporary_name(path)
    try:
        with naming(path):
            write(temporary)
            os.replace(temporary, path)
    except BaseException:  # Ctrl-C too
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: dict) -> None:
    """Write `content` as JSON. NaN and infinity, which JSON does not have, become null."""

    def clean(value):
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [clean(item) for item in value]
        if isinstance(value, float) and not math.isfinite(value):
            return None
        return value

    # Python would write NaN as it is, which no other reader of JSON accepts.
    text = json.dumps(clean(content), indent=2, allow_nan=False) + "\n"
    write_whole(path, lambda temporary: temporary.write_text(text))
