"""The parts of a long job, so that a killed job can go on where it was.

    parts = Parts(output / "parts", ".tsv")
    for name in share(parts.missing(names), rank, processes):
        parts.write(name, table.to_csv)
    ...                                                 # when all are there, join them
    parts.remove()

Several processes may share the work: each writes its own parts.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from .files import write_whole
from .folder import SETTINGS_FILE, read_settings

__all__ = ["Parts", "changed_settings", "read_earlier_settings", "share"]

T = TypeVar("T")


class Parts:
    """The finished parts of a job, by their names.

    Args:
        folder: A folder for parts and nothing else.
        suffix: The suffix of their files.
    """

    def __init__(self, folder: Path, suffix: str):
        self.folder = folder
        self.suffix = suffix

    def path(self, name: str) -> Path:
        """Return the file of a part, whether it exists or not."""
        return self.folder / f"{name}{self.suffix}"

    def names(self) -> list[str]:
        """Return the names of the finished parts, sorted."""
        # Not the hidden files: a killed process was writing those.
        files = self.folder.glob(f"[!.]*{self.suffix}")
        return sorted(file.name.removesuffix(self.suffix) for file in files)

    def missing(self, names: Sequence[str]) -> list[str]:
        """Return those of `names` that are not finished, in order."""
        finished = set(self.names())
        return [name for name in names if name not in finished]

    def write(self, name: str, write: Callable[[Path], None]) -> None:
        """Let `write` fill the file of a part. A kill never leaves half of it."""
        write_whole(self.path(name), write)

    def remove(self) -> None:
        """Remove the folder with all parts, once they have been joined."""
        shutil.rmtree(self.folder, ignore_errors=True)


def share(items: Sequence[T], rank: int, processes: int) -> Sequence[T]:
    """Return the items of one of several processes: every n-th, so that all take about as long.

    >>> share("abcde", 1, 2)
    'bd'
    """
    # Not in blocks: neighbours are often similarly large, and one process would get all large ones.
    return items[rank::processes]


def read_earlier_settings(output: Path) -> dict:
    """Return the settings of the run in an output folder, or {} if there is none.

    Raises:
        InputError: The file cannot be read, or holds something else.
    """
    if not (output / SETTINGS_FILE).is_file():
        return {}
    return read_settings(output)


def changed_settings(earlier: dict, settings: dict) -> dict:
    """Return the settings of an earlier run that have changed, with their earlier values."""
    now = json.loads(json.dumps(settings))  # as they were stored: JSON turns tuples into lists
    return {name: earlier[name] for name in now if name in earlier and earlier[name] != now[name]}
