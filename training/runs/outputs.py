"""Output files and folders: one writer at a time, whole or not there, no litter.

    with locked(Path("scores.tsv"), is_file=True), whole_file(Path("scores.tsv")) as file:
        file.write(...)

A killed process leaves a hidden file at most; the next writer of the same place removes it.
"""

import glob
import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TextIO

from hyenadna.errors import InputError

from .files import temporary_name

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None

__all__ = ["inert", "locked", "remove_unfinished", "whole_file"]


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """Open a text file for writing that gets its name when all of it is written; after an error
    nothing is left.
    """
    temporary = temporary_name(path)
    try:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path, name: str = "*") -> None:
    """Remove what killed runs left half-written. No other run may be writing there.

    Args:
        folder: Where to look; its sub-folders are left alone.
        name: Pattern of the names without their ending.
    """
    for path in folder.glob(f".{name}.*unfinished*"):
        with suppress(OSError):
            path.unlink()


def inert(text: str) -> str:
    """Return the text of a cell so that no spreadsheet takes it for a formula.

    A text that would be one gets an apostrophe in front.
    Names come from files that others made, and `=HYPERLINK(...)` is a name to FASTA and VCF.
    Numbers, and marks such as a lone `-`, stay as they are.

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
    """Keep a folder or file to this process, and remove what killed runs left half-written there.

    A folder is made if it is missing, and removed at the end if nothing was written into it. Where
    it can only be read, or the file system or the operating system has no such locks, nothing is
    locked.

    Args:
        path: The folder, or the file.
        is_file: Which of the two.

    Raises:
        InputError: Another process is writing there.
    """
    folder = path.parent if is_file else path
    lock = folder / (f".{path.name}.lock" if is_file else ".lock")
    if fcntl is None:
        warnings.warn(
            f"{platform.system()} has no record locks: do not start two runs in {str(path)!r}", stacklevel=3
        )

    with ExitStack() as at_end:
        missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
        for parent in reversed(missing):  # a run that is refused leaves nothing
            at_end.callback(_remove_if_empty, parent)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if fcntl is not None:
                _acquire(lock, at_end)
                remove_unfinished(folder, glob.escape(path.stem) if is_file else "*")
        except BlockingIOError:
            what = f"{str(path)!r}" if is_file else f"output_dir {str(path)!r}"
            raise InputError(
                f"another process is writing into {what}; wait for it, end it, or choose another "
                f"{'file' if is_file else 'folder'}"
            ) from None
        except OSError:
            pass  # writing will say what is wrong with the place
        yield


def _acquire(lock: Path, at_end: ExitStack) -> None:
    """Lock a file until `at_end` closes.

    This is a POSIX record lock. It ends with the process, however that ends, and forked data-loader
    workers, which may outlive the process for a moment, do not inherit it. An flock, which most
    libraries use, they would inherit: a run that was killed could not be resumed until the last
    worker is gone.
    """
    file = at_end.enter_context(lock.open("a"))
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    # Between opening and locking the file, another run may have ended and removed it. The lock
    # would then be on a file that nobody else can find, so the place counts as taken.
    if not (lock.exists() and os.path.samestat(os.fstat(file.fileno()), lock.stat())):
        raise BlockingIOError
    at_end.callback(lock.unlink, missing_ok=True)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
