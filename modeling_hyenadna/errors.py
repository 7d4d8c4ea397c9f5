"""The errors that a user can mend, and the one place where other errors become messages.

Whoever reads a file that a user gave does it inside `reading`, or by `read_json`. Writing needs
nothing of the kind: the command line asks `disk_error` about every error that reaches it.
"""

import csv
import errno
import json
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import safe_open

# USER/NAME, and of a data set USER/NAME:CONFIGURATION.
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*(:[\w.-]+)?")
_SUFFIXES_OF_FILES = (
    *(".bin", ".ckpt", ".json", ".pt", ".pth", ".safetensors", ".yaml"),
    *(".bed", ".csv", ".fa", ".fasta", ".fna", ".gz", ".parquet", ".tsv", ".txt", ".vcf", ".xls", ".xlsx"),
)


class HyenaDNAError(ValueError):
    """What was given cannot be used as it is."""


class InputError(HyenaDNAError):
    """Data, a file or a setting cannot be used as it is.

    The command line prints the message without a traceback.
    """


class CheckpointError(HyenaDNAError):
    """A checkpoint or an exported folder cannot be used as it is.

    The command line prints the message without a traceback.
    """


class PushError(CheckpointError):
    """The Hub refused an upload, or could not be reached.

    The message says what was published; usually nothing was.
    """


# What readers raise on a damaged file. Pandas' and Arrow's errors derive from these: ArrowInvalid
# is a ValueError, ArrowKeyError a KeyError. A MemoryError comes from a damaged size.
UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    OverflowError,
    RuntimeError,
    MemoryError,
    csv.Error,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)

_CURES = {
    errno.ENOSPC: "the disk is full: make space",
    errno.EDQUOT: "your quota of the disk is used up: make space",
    errno.EROFS: "the file system is read-only: choose another output folder",
    errno.EACCES: "it must not be read or written: change its permissions, or choose another folder",
    errno.EPERM: "it must not be read or written: change its permissions, or choose another folder",
    errno.EIO: "the disk, or the network in front of it, fails: look at that first",
    errno.EFBIG: "the file system, or `ulimit -f`, allows no larger file: choose another folder",
}
_LONGEST = 300  # characters of another library's message


# ---------------------------------------------------------------------------------------- reading


def one_line(error: BaseException, longest: int = _LONGEST) -> str:
    """Return the message of an error as one line of bounded length.

    Without a message, return the name of its class.

    >>> one_line(EOFError())
    'EOFError'
    """
    if isinstance(error, OSError) and error.errno in _CURES:
        where = f": {error.filename}" if error.filename else ""
        return f"{_CURES[error.errno]} ({error.strerror}{where})"
    text = " ".join(str(error).split())
    if len(text) > longest:
        text = f"{text[:longest]} ..."
    return text or type(error).__name__


@contextmanager
def reading(
    what: object,
    hint: str = "",
    *,
    errors: type[Exception] | tuple[type[Exception], ...] = UNREADABLE,
    raises: type[HyenaDNAError] = InputError,
) -> Iterator[None]:
    """Turn errors of reading a file into a single line: WHAT: ERROR HINT.

    Args:
        what: The file, and what cannot be done with it.
        hint: What to do about it.
        errors: The errors that the file may be to blame for. Others keep their type, because they
            are bugs of ours. Where another library does the work, pass `Exception`.
        raises: The class of the new error. The original stays as its cause.

    >>> with reading("cut.fa.gz cannot be read"):
    ...     raise EOFError("Compressed file ended")
    Traceback (most recent call last):
    hyenadna.errors.InputError: cut.fa.gz cannot be read: Compressed file ended
    """
    try:
        yield
    except HyenaDNAError:
        raise  # a ValueError too, but it already says what is wrong
    except errors as error:
        raise raises(f"{what}: {one_line(error)}{hint}") from error


def read_json(path: Path, hint: str = "", raises: type[HyenaDNAError] = InputError) -> dict:
    """Return the object in a JSON file.

    Raises:
        InputError: It cannot be read, is not JSON, or holds something other than an object.
    """
    with reading(f"{path} cannot be read", hint, raises=raises):
        content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise raises(f"{path} holds a {type(content).__name__}, but a JSON object is expected{hint}")
    return content


# Counts far above those of any published model.
_MOST = {
    "num_labels": 1_000_000,
    "n_layer": 10_000,
    "num_hidden_layers": 10_000,
    "num_inner_mlps": 10_000,
}


def check_counts(config: dict, source: object, raises: type[HyenaDNAError] = InputError) -> None:
    """Refuse absurd numbers of layers or labels: Transformers would make an object for each.

    Args:
        config: The content of config.json.
        source: Where it is from, for the message.
        raises: The class of the error.
    """
    for name, most in _MOST.items():
        value = config.get(name)
        if isinstance(value, int | float) and value > most:
            raise raises(
                f"config.json of {source} says `{name}`: {str(value)[:60]}, but at most {most:,} are expected"
            )


def check_index(folder: str | Path, raises: type[HyenaDNAError] = InputError) -> None:
    """Refuse an index of weights that names a file outside of its folder: Transformers reads it.

    A folder that does not exist, such as an id on the Hub, has no index.
    """
    for path in sorted(Path(folder).glob("*.index.json")):
        names = read_json(path, raises=raises).get("weight_map")
        if not isinstance(names, dict):
            raise raises(f"{path} is no index of weights: it has no `weight_map`")
        for name in names.values():
            parts = re.split(r"[/\\]", name) if isinstance(name, str) else [".."]
            if ".." in parts or parts[0] == "" or ":" in parts[0]:
                raise raises(f"{path} names {str(name)[:100]!r}, which is no file in its own folder")


# Files of a model, tokenizer or adapter, and a key that each must have.
_JSON_OF_MODELS = {
    "config.json": "model_type",
    "adapter_config.json": "peft_type",
    "tokenizer_config.json": None,
    "generation_config.json": None,
    "tokenizer.json": "model",
    "*.index.json": "weight_map",
}


def damage_in(folder: str | Path) -> str | None:
    """Return what is wrong with the first damaged file of a model, tokenizer or adapter, or None.

    Called after loading has failed, because the error of the library seldom names the file. JSON
    must hold an object, and a safetensors file everything that its header promises.
    """
    try:
        for pattern, key in _JSON_OF_MODELS.items():
            for path in sorted(Path(folder).glob(pattern)):
                content = read_json(path)
                if key is not None and key not in content:
                    raise InputError(f"{path} has no {key!r}")
        for path in sorted(Path(folder).glob("*.safetensors")):
            with reading(f"{path} cannot be read", errors=Exception):
                # First by Python, whose error says more than that of safetensors.
                path.open("rb").close()
                safe_open(path, framework="numpy")
    except InputError as error:
        return f"{error}. Copy or download it again"
    return None


def only_a_path(name: str) -> str | None:
    """Return why a name that is not on this disk cannot be on the Hub either; None if it may be.

    A mistyped path is then refused at once. Asking the Hub takes half a minute where there is no
    network.

    >>> only_a_path("LongSafari/hyenadna-tiny-1k-seqlen-hf") is None
    True
    """
    path = Path(name)
    if path.exists():
        return None
    if not _HUB_NAME.fullmatch(name) or path.suffix.lower() in _SUFFIXES_OF_FILES:
        return "there is no such file or folder, and a repository has a name of the form USER/NAME"
    if path.parent.is_dir():
        return f"there is nothing of this name in the folder {path.parent}"
    return None


# ---------------------------------------------------------------------------------------- writing


def disk_error(error: BaseException) -> str | None:
    """Return a message if a file or the disk is to blame for this error, else None."""
    for link in _chain(error):
        reason = _disk_reason(link)
        if reason is not None:
            return f"{reason}. What was written before is whole"
    return None


def _chain(error: BaseException | None) -> list[BaseException]:
    """Return an error and what led to it, as a traceback would show them."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        if error.__cause__ is None and not error.__suppress_context__:
            error = error.__context__
        else:
            error = error.__cause__
    return chain


def _disk_reason(error: BaseException) -> str | None:
    if isinstance(error, OSError) and error.errno is not None:
        where = f"{error.filename}: " if error.filename else ""
        if error.errno in _CURES:
            return f"{where}{_CURES[error.errno]} ({error.strerror})"
        if where:
            return f"{where}{error.strerror}"
    # safetensors and PyTorch raise types of their own. Only their text names the reason.
    for number, cure in _CURES.items():
        if os.strerror(number) in str(error):
            return f"{cure} ({one_line(error)})"
    if "PytorchStreamWriter failed writing file" in str(error):
        return f"a file cannot be written; is the disk full? ({one_line(error)})"
    return None
