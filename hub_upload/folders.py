"""Folders that appear whole or not at all, and checks of files that come from others."""

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
    # Windows has no such locks; there, the remains of killed runs stay.
    fcntl = None

# A thousand times what any published model has, or more.
_MOST = {
    "num_labels": 1_000_000,
    "n_layer": 10_000,
    "num_hidden_layers": 10_000,
    "num_inner_mlps": 10_000,
}
USABLE = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

# `repr` of what a hostile file holds may have no end: ten lists of ten lists of ...
SHORT = reprlib.Repr()
SHORT.maxlevel = 2
SHORT.maxother = 100
SHORT.maxstring = 100
SHORT.maxlong = 60


# -------------------------------------------------------------------------------- reading with care


@contextmanager
def readable(what: str, folder: str | Path | None = None) -> Iterator[None]:
    """Turn whatever a library raises over a damaged file into a `CheckpointError` that starts with
    `what`.

    Every exception counts: `tokenizers` raises a bare `Exception`, configurations raise their own
    kinds, and deeply nested JSON raises a `RecursionError`. The original is kept as the cause. If
    a model was to be loaded from `folder`, the damaged file in it is named.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        if folder is not None:
            errors.check_files(Path(folder), raises=CheckpointError)
        message = hide_secrets(errors.one_line(error, longest=1000))
        raise CheckpointError(f"{what}: {message}") from shown_cause(error)


def read_json(path: Path) -> dict:
    """The object in a JSON file.

    Raises:
        CheckpointError: It cannot be read, is no JSON, or holds something other than an object.
    """
    return errors.read_json(path, raises=CheckpointError)


def check_counts(config: dict, source: str | Path) -> None:
    """Refuse numbers of layers or labels that no model has: Transformers would make an object for
    each.

    Raises:
        CheckpointError: A number in this config.json, which is that of `source`, is absurd.
    """
    for name, most in _MOST.items():
        value = config.get(name)
        if isinstance(value, int | float) and value > most:
            raise CheckpointError(
                f"config.json of {source} says `{name}`: {SHORT.repr(value)}, but at most {most:,} are "
                "expected"
            )


def write_json(path: Path, content: dict, sort_keys: bool = False) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=sort_keys) + "\n")


def leads_out(path: Path, folder: Path) -> bool:
    """Whether a path inside `folder` is, or passes through, a link to something outside of it."""
    try:
        return not path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):
        # A link to itself, for which Python 3.11 raises a RuntimeError.
        return True


def unusable(tensors: Mapping[str, Tensor]) -> list[str]:
    """A line for each tensor that no model can use: not of a type in `USABLE`, NaN or infinity."""
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
    """The folder to make, and an empty one beside it that becomes it once everything inside `with`
    has succeeded.

    A run that is killed leaves the second one behind; the next run that makes the same folder
    removes it. Two runs may work side by side: the first to finish wins, and the other gets an
    error.

    Raises:
        CheckpointError: There is something at `dest` already, or it cannot be written.
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
            # An empty folder of the user's.
            folder.rmdir()
        unfinished.rename(folder)
    except (
        OSError,
        SafetensorError,
        # Safetensors raises its own kind when the disk is full.
    ) as error:
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
    """`dest` without links, if a folder can be made there."""
    try:
        folder = Path(dest).resolve()
        taken = folder.is_file() or (folder.is_dir() and any(folder.iterdir()))
    except (
        OSError,
        RuntimeError,
        ValueError,
        # No permission, a circle of links, a NUL in the name.
    ) as error:
        raise CheckpointError(f"{str(dest)!r} cannot be made: {error}") from error
    if taken:
        raise CheckpointError(f"{dest} exists and is not empty; choose another folder, or remove it first")
    if folder == Path.cwd():
        raise CheckpointError(
            f"{dest} is the folder that you are in, which cannot be replaced; name a folder inside it"
        )
    return folder


def _unfinished_prefix(folder: Path) -> str:
    # A name that nobody gives to a folder of their own.
    return f".{folder.name}.hyenadna-"


def _make_unfinished(folder: Path) -> tuple[Path, int | None]:
    """A new folder beside `folder`, and the lock that shows that this run is alive."""
    while True:
        unfinished = Path(tempfile.mkdtemp(prefix=_unfinished_prefix(folder), dir=folder.parent))
        try:
            lock = _lock(unfinished)
        except (BlockingIOError, FileNotFoundError):
            # Another run took it for litter before it was locked.
            continue
        except OSError:
            # A file system without locks: nobody will take it for litter there.
            lock = None
        if unfinished.exists():
            # `mkdtemp` lets nobody else in.
            unfinished.chmod(0o755)
            return unfinished, lock
        _unlock(lock)


def _remove_litter(folder: Path) -> None:
    """Remove the unfinished folders of killed runs beside `folder`: nobody holds their locks."""
    # Not `glob`: the name of the folder may hold a `*`.
    for path in list(folder.parent.iterdir()):
        if not path.name.startswith(_unfinished_prefix(folder)) or path.is_symlink() or not path.is_dir():
            continue
        try:
            lock = _lock(path)
        except OSError:
            # A run that is alive, or nobody can tell.
            continue
        shutil.rmtree(path, ignore_errors=True)
        _unlock(lock)


def _lock(folder: Path) -> int:
    """An open descriptor of a folder that no other process can lock until it is closed, or this
    process has ended.

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
