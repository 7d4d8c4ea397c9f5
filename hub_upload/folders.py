"""Write folders completely or not at all, and check files that come from others."""

import errno
import json
import os
import reprlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from hyenadna import errors
from hyenadna.errors import CheckpointError

from .access_tokens import hide_secrets, shown_cause

try:
    import fcntl
except ImportError:
    # Windows has no such locks. There, killed runs leave their unfinished folders.
    fcntl = None

USABLE = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

# The `repr` of what a hostile file holds may never end: ten lists of ten lists of ...
SHORT = reprlib.Repr()
SHORT.maxlevel = 2
SHORT.maxother = 100
SHORT.maxstring = 100
SHORT.maxlong = 60


# -------------------------------------------------------------------------------- reading with care


@contextmanager
def readable(what: str, folder: str | Path | None = None) -> Iterator[None]:
    """Turn whatever a library raises over a damaged file into a `CheckpointError`.

    Every exception counts: `tokenizers` raises a bare `Exception`, configurations raise types of
    their own, and deeply nested JSON raises a `RecursionError`. The original stays as the cause.

    Args:
        what: The start of the message, such as "config.json cannot be read".
        folder: The folder of the model that is loaded, if any, to name the damaged file in it.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        damage = None
        if folder is not None:
            damage = errors.damage_in(folder)
        message = hide_secrets(damage or errors.one_line(error, longest=1000))
        raise CheckpointError(f"{what}: {message}") from shown_cause(error)


def read_json(path: Path) -> dict:
    """Return the object in a JSON file.

    Raises:
        CheckpointError: It cannot be read, is not JSON, or holds something other than an object.
    """
    return errors.read_json(path, raises=CheckpointError)


def check_counts(config: dict, source: str | Path) -> None:
    """Refuse absurd numbers of layers or labels: Transformers would make an object for each.

    Args:
        config: The content of config.json.
        source: Where it is from, for the message.

    Raises:
        CheckpointError: A number is absurd.
    """
    errors.check_counts(config, source, raises=CheckpointError)


def write_json(path: Path, content: dict, sort_keys: bool = False) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=sort_keys) + "\n")


def leads_out(path: Path, folder: Path) -> bool:
    """Return whether a path inside `folder` is, or passes through, a link out of it."""
    try:
        return not path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):
        # A link to itself: Python 3.11 raises a RuntimeError for it.
        return True


def unusable(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return a line for each tensor of an unusable type, or with NaN or infinity in it."""
    lines = []
    for name, tensor in tensors.items():
        if tensor.dtype not in USABLE:
            lines.append(f"`{name}` holds {tensor.dtype}, not one of {USABLE}")
    for name, tensor in tensors.items():
        if tensor.dtype in USABLE and not tensor.isfinite().all():
            lines.append(f"`{name}` holds NaN or infinity")
    return lines


# ------------------------------------------------------------------------------ whole or not at all


@contextmanager
def new_folder(dest: str | Path) -> Iterator[tuple[Path, Path]]:
    """Give `(folder, unfinished)`: write into `unfinished`, which becomes `folder` on success.

    `unfinished` is a hidden folder beside `dest`, renamed when the `with` block ends without an
    error. A killed run leaves it there, and the next run that makes the same folder removes it. Two
    runs may work side by side: the first to finish wins, and the other gets an error.

    Raises:
        CheckpointError: Something is at `dest` already, or it cannot be written.

    >>> with new_folder("tiny") as (folder, unfinished):                    # doctest: +SKIP
    ...     model.save_pretrained(unfinished)
    """
    folder = _free_place(dest)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_litter(folder)
        unfinished, lock = _make_unfinished(folder)
    except OSError as error:
        raise CheckpointError(f"{dest} cannot be made: {error}") from error
    try:
        yield folder, unfinished
        if folder.exists():
            # An empty folder, which the user may have made. If it is no longer empty, this fails.
            folder.rmdir()
        unfinished.rename(folder)
    # On a full disk, safetensors raises an error of its own.
    except (OSError, SafetensorError) as error:
        reason = str(error)
        if getattr(error, "errno", None) in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            reason = (
                "something else appeared there while it was being made; look at it, or choose another folder"
            )
        raise CheckpointError(f"{dest} was not made: {reason}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        _unlock(lock)


def _free_place(dest: str | Path) -> Path:
    """Return `dest` without links, or raise if no folder can be made there."""
    try:
        folder = Path(dest).resolve()
        taken = folder.is_file() or (folder.is_dir() and any(folder.iterdir()))
    # In this order: no permission, a circle of links, a NUL in the name.
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{str(dest)!r} cannot be made: {error}") from error
    if taken:
        raise CheckpointError(f"{dest} exists and is not empty; choose another folder, or remove it first")
    if folder == Path.cwd():
        raise CheckpointError(
            f"{dest} is the folder that you are in, which cannot be replaced; name a folder inside it"
        )
    return folder


def _unfinished_prefix(folder: Path) -> str:
    # A name that nobody would give to a folder of their own: these are deleted.
    return f".{folder.name}.hyenadna-"


def _make_unfinished(folder: Path) -> tuple[Path, int | None]:
    """Make a hidden folder beside `folder`. Return it, and the lock that shows we are alive."""
    while True:
        unfinished = Path(tempfile.mkdtemp(prefix=_unfinished_prefix(folder), dir=folder.parent))
        try:
            lock = _lock(unfinished)
        except (BlockingIOError, FileNotFoundError):
            # Another run took it for litter before we could lock it. Try again.
            continue
        except OSError:
            # A file system without locks. Nobody will take it for litter there.
            lock = None
        # Between `mkdtemp` and the lock, another run may have removed it.
        if unfinished.exists():
            # `mkdtemp` gives access to its owner alone.
            unfinished.chmod(0o755)
            return unfinished, lock
        _unlock(lock)


def _remove_litter(folder: Path) -> None:
    """Remove the unfinished folders of killed runs beside `folder`. Nobody holds their locks."""
    # Not `glob`: the name of the folder may contain a `*`.
    for path in list(folder.parent.iterdir()):
        if not path.name.startswith(_unfinished_prefix(folder)) or path.is_symlink() or not path.is_dir():
            continue
        try:
            lock = _lock(path)
        except OSError:
            # The run is alive, or the file system has no locks.
            continue
        shutil.rmtree(path, ignore_errors=True)
        _unlock(lock)


def _lock(folder: Path) -> int:
    """Lock a folder and return its open descriptor. The lock ends with it, or with the process.

    Raises:
        BlockingIOError: Another process holds the lock.
        OSError: The folder is gone, or cannot be locked here.
    """
    if fcntl is None:
        raise OSError("this system cannot lock folders")
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _unlock(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)
