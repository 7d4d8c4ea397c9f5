"""Output files and folders: one writer at a time, complete or not there, nothing left behind.

    with locked(Path("scores.tsv"), is_file=True), whole_file(Path("scores.tsv")) as file:
        file.write(...)

A killed process leaves at most a hidden file. The next writer to the same place removes it.
"""

import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TextIO

from hyenadna.errors import InputError

from .files import naming, target_of, temporary_name

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None

__all__ = ["inert", "locked", "remove_unfinished", "whole_file"]


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """Open a text file that gets its name only when it is complete. An error leaves nothing."""
    temporary = temporary_name(path)
    try:
        with naming(path):
            with open(temporary, "w", encoding="utf-8", newline="") as file:
                yield file
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path, file: Path | None = None) -> None:
    """Remove half-written files of killed runs. The caller must hold the lock of the place.

    Args:
        folder: Where to look. Its sub-folders are left alone.
        file: Only what would have become this file, whose lock the caller holds. Without it,
            everything but the files that have locks of their own.
    """
    for path in folder.glob(".*.unfinished*"):
        target = target_of(path)
        if target is None:
            continue
        # `score` and `report` lock files, not the folder. They may be at work beside us.
        if target == file or (file is None and not _lock_of_file(target).exists()):
            with suppress(OSError):
                path.unlink()


def _lock_of_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def inert(text: str) -> str:
    """Return the text of a table cell so that no spreadsheet takes it for a formula.

    Names come from other people's files, and `=HYPERLINK(...)` is a valid name in FASTA and VCF.
    Such a text gets an apostrophe in front. Numbers and a lone `-` stay as they are.

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
def locked(path: Path, *, is_file: bool = False) -> Iterator[None]:
    """Lock a folder or file for this process, and remove the half-written files of killed runs.

    A missing folder is made, and removed at the end if nothing was written into it. Nothing is
    locked if the folder is read-only, or the file system or operating system has no such locks.

    Args:
        path: The folder or the file.
        is_file: Whether it is a file.

    Raises:
        InputError: Another process is writing there.
    """
    folder = path.parent if is_file else path
    lock = _lock_of_file(path) if is_file else folder / ".lock"
    if fcntl is None:
        warnings.warn(
            f"{platform.system()} has no record locks: do not start two runs in {str(path)!r}", stacklevel=3
        )

    with ExitStack() as at_end:
        # What `mkdir` below will make.
        missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
        # So that a run that is refused later leaves nothing. The deepest folder is removed first.
        for parent in reversed(missing):
            at_end.callback(_remove_if_empty, parent)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if fcntl is not None:
                _acquire(lock, at_end)
                remove_unfinished(folder, path if is_file else None)
        except BlockingIOError:
            what = f"{str(path)!r}" if is_file else f"output_dir {str(path)!r}"
            raise InputError(
                f"another process is writing into {what}; wait for it, end it, or choose another "
                f"{'file' if is_file else 'folder'}"
            ) from None
        except OSError:
            pass  # no lock; if the place cannot be written to, writing will say so better
        yield


def _acquire(lock: Path, at_end: ExitStack) -> None:
    """Lock a file until `at_end` closes.

    It is a POSIX record lock, which ends with the process in any case. Most libraries use `flock`.
    Forked data-loader workers inherit that, and may outlive a killed process for a moment, in which
    the run could not be resumed.
    """
    file = at_end.enter_context(lock.open("a"))
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    # Between opening and locking, another run may have ended and removed the file. Then we hold the
    # lock of a file that nobody else can find, which keeps nobody out. Treat the place as taken.
    if not (lock.exists() and os.path.samestat(os.fstat(file.fileno()), lock.stat())):
        raise BlockingIOError
    at_end.callback(lock.unlink, missing_ok=True)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
