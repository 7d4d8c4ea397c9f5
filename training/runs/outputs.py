"""Output files and folders: one writer at a time, every file whole or not there, no litter of killed runs.

with one_writer(Path("scores.tsv"), is_file=True), whole_file(Path("scores.tsv")) as file:
    file.write(...)
"""

import fcntl  # POSIX: Linux and macOS
import glob
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TextIO

from hyenadna.errors import InputError

__all__ = ["inert", "one_writer", "remove_unfinished", "temporary_name", "whole_file"]


def temporary_name(path: Path) -> Path:
    """Return the name under which this process writes a file before it is whole.

    It is hidden, keeps the ending, which tells some writers what to write, and no other process uses it.
    """
    return path.with_name(f".{path.stem}.{os.getpid()}.unfinished{path.suffix}")


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """Open a text file for writing that gets its name when all of it is written; after an error nothing is left."""
    temporary = temporary_name(path)
    try:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path, name: str = "*") -> None:
    """Remove what killed runs left half-written. Call it only while no other run can be writing there.

    Args:
        folder: Where to look; its sub-folders are left alone.
        name: Pattern of the names without their ending.
    """
    for path in folder.glob(f".{name}.*unfinished*"):
        with suppress(OSError):
            path.unlink()


def inert(text: str) -> str:
    """Return the text of a table's cell so that no spreadsheet takes it for a formula: with an apostrophe in front.

    Names come from files that others made, and `=HYPERLINK(...)` is a name to FASTA and VCF. Numbers, and marks such as
    a lone `-`, stay as they are.

    >>> inert("=1+1"), inert("-"), inert("-5"), inert("chr1")
    ("'=1+1", '-', '-5', 'chr1')
    """
    if len(text) < 2 or text[0] not in "=+-@\t\r":
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


@contextmanager
def one_writer(path: Path, *, is_file: bool = False) -> Iterator[None]:
    """Keep a file or folder to this process; remove what killed runs left half-written there.

    A folder is made if it is missing, and removed at the end if nothing was written into it. Where the file system has
    no locks or can only be read, nothing is locked.

    Args:
        path: The folder, or the file.
        is_file: Which of the two.

    Raises:
        InputError: Another process is writing there.
    """
    folder = path.parent if is_file else path
    lock = folder / (f".{path.name}.lock" if is_file else ".lock")

    with ExitStack() as at_end:
        missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
        for parent in reversed(missing):
            at_end.callback(_remove_if_empty, parent)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _acquire(lock, at_end)
        except BlockingIOError:
            raise InputError(
                f"another process is writing into {str(path)!r}; wait for it, end it, or choose another name"
            ) from None
        except OSError:
            pass  # writing will say what is wrong
        else:
            remove_unfinished(folder, glob.escape(path.stem) if is_file else "*")
        yield


def _acquire(lock: Path, at_end: ExitStack) -> None:
    # A POSIX record lock: freed when the process dies, and not inherited by forked data-loader workers.
    file = at_end.enter_context(open(lock, "a"))  # noqa: SIM115
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if not (lock.exists() and os.path.samestat(os.fstat(file.fileno()), lock.stat())):
        raise BlockingIOError  # another run ended just now, and removed the file
    at_end.callback(lock.unlink, missing_ok=True)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
