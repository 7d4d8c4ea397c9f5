"""Decide which files of a folder may be published: by their content, not by their suffix.

An exported folder holds weights, settings, a tokenizer, code, a card and pictures. Only files of
these kinds are sent. A pickle, a secret or a link out of the folder stops the push. Anything else
is listed and left out, unless the user includes it by name.
"""

import io
import json
import pickletools
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.dynamic_module_utils import get_relative_import_files

from hyenadna import modeling_hyenadna
from hyenadna.errors import CheckpointError

from .access_tokens import hide_secrets, secret_in
from .folders import leads_out

CODE = Path(modeling_hyenadna.__file__)

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz")
_TEXTS = (".md", ".txt", ".json", ".yaml", ".yml", ".bib", ".cff", ".py", ".svg")
_NAMES_OF_TEXTS = ("LICENSE", "LICENCE", "NOTICE", "COPYING", "AUTHORS", "CITATION", "CHANGELOG")
# Suffix -> the first bytes of such a file.
_PICTURES = {
    ".png": b"\x89PNG\r\n",
    ".jpg": b"\xff\xd8\xff",
    ".jpeg": b"\xff\xd8\xff",
    ".gif": b"GIF8",
    ".webp": b"RIFF",
    ".pdf": b"%PDF-",
}
# The opcodes of a pickle that look up a name or call something. Without one of them it is harmless.
_CALLS = {
    "GLOBAL",
    "STACK_GLOBAL",
    "INST",
    "OBJ",
    "NEWOBJ",
    "NEWOBJ_EX",
    "REDUCE",
    "BUILD",
    "EXT1",
    "EXT2",
    "EXT4",
}
_LARGEST_TEXT = 50_000_000  # bytes
_PIECE = 16_000_000  # bytes to search at a time
_LONGEST_SECRET = 4_000  # bytes that two pieces share


@dataclass
class Contents:
    """What of a folder is published, and what is not.

    Attributes:
        files: Name in the repository -> file.
        left_out: Name -> why it is left out.
    """

    files: dict[str, Path] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def own_code() -> dict[str, Path]:
    """Return the Python files that travel with a model, by name."""
    # The same rule as the Hub's own copier: what the model's file imports, directly or not.
    files = [CODE, *map(Path, get_relative_import_files(CODE))]
    return {file.name: file for file in files}


def foreign_code(files: dict[str, Path]) -> list[str]:
    """Return the names of the Python files that differ from this package's, byte for byte."""
    own = own_code()
    return [
        name
        for name, path in files.items()
        if name.lower().endswith(".py") and (name not in own or path.read_bytes() != own[name].read_bytes())
    ]


def files_to_push(folder: str | Path, include: Iterable[str] = ()) -> list[Path]:
    """Return the files of an exported folder that `hyenadna push` sends.

    Raises:
        CheckpointError: See `contents_to_push`.
    """
    return list(contents_to_push(folder, include).files.values())


def contents_to_push(folder: str | Path, include: Iterable[str] = ()) -> Contents:
    """Check every file of an exported folder and decide what is published.

    Args:
        folder: What `hyenadna export` made.
        include: Names or patterns such as `*.csv`: files of other kinds to send as well.

    Raises:
        CheckpointError: This is no exported folder; a file is a pickle, a link out of the folder,
            damaged, or holds a secret; or no file matches a name in `include`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; `hyenadna export SOURCE {folder}` makes one")
    contents = Contents()
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))}
    for name, path in paths.items():
        if any(part.startswith(".") for part in Path(name).parts):
            # A hidden folder (.git) is listed, the thousands of files in it are not.
            if "/" not in name:
                contents.left_out[name] = "hidden"
            continue
        _refuse_link(path, folder)
        if path.is_file():
            contents.files[name] = path
        elif not path.is_dir() or path.is_symlink():
            contents.left_out[name] = "neither a file nor a folder"
    _check_is_exported(folder, contents.files)

    # A pattern without a file is a typo. Say so now, before somebody misses the file on the Hub.
    include = list(include)
    for pattern in include:
        if not any(fnmatchcase(name, pattern) for name in contents.files):
            raise CheckpointError(f"--include {pattern}: no file in {folder} has such a name")
    for name, path in list(contents.files.items()):
        # Even a pickle that would be left out stops the push: its owner should know about it.
        _refuse_pickle(path)
        kind = _kind(path)
        if kind is None and not any(fnmatchcase(name, pattern) for pattern in include):
            contents.left_out[name] = "not of a kind that a model repository holds"
            del contents.files[name]
            continue
        _refuse_secret(name, path)
    return contents


def _check_is_exported(folder: Path, names: Iterable[str]) -> None:
    is_model = "config.json" in names and CODE.name in names
    if "README.md" not in names or not (is_model or "adapter_config.json" in names):
        raise CheckpointError(
            f"{folder} was not made by `hyenadna export`: a model card, or the code of the model, "
            f"is missing. Run `hyenadna export {folder} DEST` and push DEST"
        )


def _refuse_link(path: Path, folder: Path) -> None:
    """Refuse a link out of the folder, or to a hidden file in it, which would not be sent."""
    if not path.is_symlink():
        return
    root = folder.resolve()
    if not leads_out(path, folder):
        inside = path.resolve().relative_to(root)
        if not any(part.startswith(".") for part in inside.parts):
            return
    raise CheckpointError(
        f"{hide_secrets(str(path))} is a link to something that does not belong to the folder, "
        "and a push would publish that. Remove the link, or replace it by a copy"
    )


def _refuse_pickle(path: Path) -> None:
    if path.suffix.lower() in _PICKLES or _is_pickle(path):
        raise CheckpointError(
            f"{hide_secrets(str(path))} may be a pickle, which runs code when it is loaded; take it out "
            "of the folder"
        )


def _is_pickle(path: Path) -> bool:
    """Return whether a file is a pickle, or an archive with one in it."""
    with path.open("rb") as file:
        start = file.read(6)
        # A pickle of protocol 2 or later. A safetensors file may start with the same two bytes:
        # they are the length of its header.
        if start[:1] == b"\x80" and start[1:2] <= b"\x05":
            return path.suffix != ".safetensors" or not _is_safetensors(path)
        if start == b"\x93NUMPY":
            # An array of Python objects (dtype "O") is pickled.
            return b"O" in file.read(200).partition(b"descr")[2].partition(b",")[0]
    if start[:4] == b"PK\x03\x04":
        return _holds_pickle(path)
    return path.stat().st_size < 1_000_000 and _is_text_pickle(path.read_bytes())


def _holds_pickle(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.lower().endswith(_PICKLES) for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return True  # a damaged archive: what it holds cannot be told


def _is_text_pickle(content: bytes) -> bool:
    """Return whether a file is a pickle of protocol 0 or 1. These have no magic number."""
    # So read it as a pickle program, without running it. Text may begin like one by accident, but
    # would not end exactly with the program, nor call anything.
    file = io.BytesIO(content)
    try:
        names = {opcode.name for opcode, _, _ in pickletools.genops(file)}
    except Exception:  # `genops` raises many types over text that is no pickle
        return False
    return not file.read().strip() and bool(names & _CALLS)


def _is_safetensors(path: Path) -> bool:
    try:
        with safe_open(path, framework="pt"):
            return True
    except (SafetensorError, OSError):
        return False


def _kind(path: Path) -> str | None:
    """Return "weights", "picture" or "text", the kinds a model repository holds, or None.

    Raises:
        CheckpointError: By its suffix it is safetensors or JSON, but it is damaged.
    """
    ending = path.suffix.lower()
    if ending == ".safetensors":
        if not _is_safetensors(path):
            raise CheckpointError(f"{path} is no complete safetensors file; export the model again")
        return "weights"
    if ending in _PICTURES:
        with path.open("rb") as file:
            return "picture" if file.read(8).startswith(_PICTURES[ending]) else None
    if ending in _TEXTS or path.name.upper().startswith(_NAMES_OF_TEXTS):
        return "text" if _is_text(path) else None
    return None


def _is_text(path: Path) -> bool:
    if path.stat().st_size > _LARGEST_TEXT:
        return False
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError:
        return False
    if path.suffix.lower() == ".json":
        try:
            json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{path} is no JSON: {error}") from error
    return "\0" not in text


def _refuse_secret(name: str, path: Path) -> None:
    kind = secret_in(name.encode(errors="replace"))
    if kind is not None:
        raise CheckpointError(
            f"the name {hide_secrets(str(path))} holds what looks like {kind}; rename the file"
        )
    for piece in _searched(path):
        kind = secret_in(piece)
        if kind is not None:
            raise CheckpointError(f"{path} holds what looks like {kind}; take it out")


def _searched(path: Path) -> Iterator[bytes]:
    """Yield what of a file has to be searched for secrets: all of it, or the header of weights."""
    ending = path.suffix.lower()
    if ending in (".json", ".safetensors"):
        content = _header(path) if ending == ".safetensors" else path.read_bytes()
        yield content
        # Also decoded, because JSON may escape a letter: `\\u0068f_...` is a token.
        yield json.dumps(json.loads(content), ensure_ascii=False).encode(errors="replace")
        return
    before = b""
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield before + piece
            # A secret may start in one piece and end in the next.
            before = piece[-_LONGEST_SECRET:]


def _header(path: Path) -> bytes:
    """Return the JSON header of a safetensors file. Its length is in the first eight bytes."""
    with path.open("rb") as file:
        return file.read(int.from_bytes(file.read(8), "little"))
