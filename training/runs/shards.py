"""Unfinished work of a long job, in parts, so that a killed job goes on where it was.

    parts = Parts(output / "parts", ".tsv")
    for name in share(parts.missing(names), rank, processes):
        parts.write(name, table.to_csv)
    ...                                                 # when all are there: join them, then
    parts.remove()

Several processes may share the work; each writes parts of its own.
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
        folder: Holds nothing but parts.
        suffix: Ending of their files.
    """

    def __init__(self, folder: Path, suffix: str):
        self.folder = folder
        self.suffix = suffix

    def path(self, name: str) -> Path:
        """Return the file of a part, whether it is there or not."""
        return self.folder / f"{name}{self.suffix}"

    def names(self) -> list[str]:
        """Return the names of the parts that are there, sorted."""
        # Hidden files are what a killed process was writing.
        files = self.folder.glob(f"[!.]*{self.suffix}")
        return sorted(file.name.removesuffix(self.suffix) for file in files)

    def missing(self, names: Sequence[str]) -> list[str]:
        """Return those of `names` that are not there, in order."""
        there = set(self.names())
        return [name for name in names if name not in there]

    def write(self, name: str, write: Callable[[Path], None]) -> None:
        """Let `write` fill the file of a part; a kill never leaves half of it."""
        write_whole(self.path(name), write)

    def remove(self) -> None:
        """Remove the folder with all parts, after their content was joined."""
        shutil.rmtree(self.folder, ignore_errors=True)


def share(items: Sequence[T], rank: int, processes: int) -> Sequence[T]:
    """Return the items of one process of several: every n-th, so that all end together.

    >>> share("abcde", 1, 2)
    'bd'
    """
    return items[rank::processes]


def read_earlier_settings(output: Path) -> dict:
    """Return the settings of the run that an output folder holds; none if it holds no run.

    Raises:
        InputError: The file cannot be read, or holds something else.
    """
    if not (output / SETTINGS_FILE).is_file():
        return {}
    return read_settings(output)


def changed_settings(earlier: dict, settings: dict) -> dict:
    """Return those settings of an earlier run that are others now, by name, with their earlier
    values.
    """
    now = json.loads(json.dumps(settings))  # as they are in the file: tuples are lists there
    return {name: earlier[name] for name in now if name in earlier and earlier[name] != now[name]}
