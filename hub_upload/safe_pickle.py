"""Read the files of `torch.save` without running them.

A pickle is a program, and loading it runs it. This reader rebuilds tensors and plain containers
with code of its own. Every other class becomes an inert placeholder. Nothing is imported and
nothing is called, so a Lightning checkpoint opens without its training package.

Why not `torch.load(weights_only=True)` with placeholders as safe globals? It only fills plain
`dict`, `OrderedDict` and `Counter` objects, and only reads protocol 2. So it refuses every
published Lightning checkpoint (its hyperparameters are a dict of another class), every non-empty
`defaultdict`, and every file of protocol 4 or 5.

We use Python's slow reader, `pickle._Unpickler`, because each of its steps can be checked before it
is taken. A file that would cost work or memory out of proportion to its size is refused.
"""

import builtins
import io
import math
import pickle
import pickletools
import sys
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from hyenadna.errors import CheckpointError

from .folders import SHORT

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    # For types without a storage class; the tensor says which type it is.
    "UntypedStorage": torch.uint8,
}
_PATHS = {"Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath"}
# What training runs store of the standard library. Any other name from it (`os.system`) can only be
# in a pickle to be called.
_HARMLESS = {
    "_codecs": {"encode"},
    "argparse": {"Namespace"},
    # All classes of `builtins`, and no function.
    "builtins": {
        "Ellipsis",
        *(name for name, value in vars(builtins).items() if isinstance(value, type)),
    },
    "collections": {"Counter", "OrderedDict", "defaultdict", "deque"},
    "copyreg": {"_reconstructor"},
    "datetime": {"date", "datetime", "timedelta", "timezone"},
    "decimal": {"Decimal"},
    "fractions": {"Fraction"},
    "functools": {"partial", "reduce"},
    # And `reduce`: types such as `Optional[int]` and `int | None`.
    "operator": {"getitem", "or_"},
    "pathlib": _PATHS,
    "pathlib._local": _PATHS,  # Python 3.13
    "types": {"GenericAlias", "SimpleNamespace"},
    "typing": {"Any", "Dict", "List", "Optional", "Tuple", "Union"},
    "uuid": {"UUID"},
}
# A placeholder class takes 1,000 times the memory of its name in the file.
_MOST_CLASSES = 10_000
_LARGEST_NUMBER = 4096  # bits
# Items in a tuple that is a key, nested ones included: hashing visits each of them.
_LARGEST_KEY = 100
# Tuples can be built to collide, and are then all compared with each other.
_MOST_TUPLE_KEYS = 10_000
# Hashing a nested tuple recurses in C, where Python's recursion limit does not help.
_DEEPEST_TUPLE = 100


class Placeholder:
    """Replaces an object of another package. It accepts any operation and does nothing."""

    name = "?"

    def __new__(cls, *args, **kwargs):
        return object.__new__(cls)

    def __init__(self, *args, **kwargs):
        pass

    def _nothing(self, *args, **kwargs):
        return None

    __setstate__ = __setitem__ = append = extend = add = update = _nothing

    def __call__(self, *args, **kwargs):
        return self

    def __repr__(self):
        return f"<{self.name}, not loaded>"


class _Stored:
    """A storage or tensor while reading. A real tensor has methods that the pickle could call."""

    def __init__(self, tensor: torch.Tensor, *where):
        self.tensor = tensor
        # (offset, size, stride) for a tensor, () for a storage.
        self.where = where

    def __setstate__(self, state):
        pass

    def made(self) -> torch.Tensor:
        offset, size, stride = self.where
        if math.prod(size) > self.tensor.numel():
            raise CheckpointError(
                f"a tensor of shape {tuple(size)} in a storage of {self.tensor.numel()} numbers"
            )
        # `as_strided` itself raises if the tensor leaves its storage.
        return self.tensor.as_strided(size, stride, offset)


def _with_tensors(x: Any, seen: dict[int, tuple]) -> Any:
    """Return `x` with every `_Stored` in its containers replaced by its tensor.

    Args:
        x: What the pickle built.
        seen: id -> (object, result) of what was visited: containers may share items, or form
            circles.
    """
    if id(x) in seen:
        return seen[id(x)][1]
    result = x
    if isinstance(x, _Stored):
        result = x.made()
    elif isinstance(x, tuple):
        result = tuple(_with_tensors(item, seen) for item in x)
    # Keep `x` too: if it were freed, another object could get its id.
    seen[id(x)] = x, result

    # Only now the items of a mutable container. It may contain itself, and is marked as seen.
    if isinstance(x, dict):
        for key, value in list(x.items()):
            new = _with_tensors(value, seen)
            if new is not value:
                x[key] = new
    elif isinstance(x, list):
        x[:] = [_with_tensors(item, seen) for item in x]
    return result


def _whole_numbers(what: str, values: Any) -> tuple[int, ...]:
    """Check the offset, size or stride of a tensor. A hostile file may give anything for them."""
    if type(values) is not tuple or len(values) > 64:
        raise CheckpointError(f"{what} of a tensor is {SHORT.repr(values)}, but a few numbers are expected")
    for value in values:
        if type(value) is not int or not 0 <= value < 2**63:
            raise CheckpointError(f"{what} of a tensor holds {SHORT.repr(value)}, which is no count")
    return values


class _Reader(pickle._Unpickler):
    # Opcode -> the method that executes it. A copy, because `_watch` changes it.
    dispatch = dict(pickle._Unpickler.dispatch)

    def __init__(self, archive: zipfile.ZipFile, root: str):
        program = archive.read(f"{root}data.pkl")
        _check_program(program)
        super().__init__(io.BytesIO(program))
        self.archive = archive
        self.root = root
        self.storages: dict[str, _Stored] = {}
        self.classes: dict[tuple[str, str], type] = {}
        # id -> (tuple, its items including nested ones, its depth). A tuple can hold another one
        # many times over, and so on: hashing it then takes exponential time. Nothing hashes a list.
        self.tuples: dict[int, tuple[tuple, int, int]] = {}
        self.tuple_keys = 0
        # The number of items that may still be copied.
        self.left = 1000 + 2 * len(program)
        self.known = self._functions()

    def _functions(self) -> dict[tuple[str, str], Callable]:
        """Return the functions that a pickle may call. New for each file, which can alter them."""

        # Only pickles of Python 2 pass items.
        def make_ordered_dict(items=()):
            pairs = [(key, value) for key, value in self._copied(items)]
            self._check_keys(key for key, _ in pairs)
            return OrderedDict(pairs)

        def rebuild_tensor(storage, offset, size, stride, *others):
            if not isinstance(storage, _Stored) or storage.where:
                raise CheckpointError(f"a tensor without a storage ({type(storage).__name__})")
            (offset,) = _whole_numbers("the offset", (offset,))
            size = _whole_numbers("the size", size)
            stride = _whole_numbers("the stride", stride)
            return _Stored(storage.tensor, offset, size, stride)

        def rebuild_tensor_of_type(storage, offset, size, stride, requires_grad, hooks, dtype, *others):
            stored = rebuild_tensor(storage, offset, size, stride)
            if not isinstance(dtype, torch.dtype):
                raise CheckpointError(f"a tensor of the type {SHORT.repr(dtype)}")
            stored.tensor = stored.tensor.view(dtype)
            return stored

        def rebuild_parameter(data, *others):
            return data

        # Protocol 2 has no opcode for bytes. It writes them as a call of this function.
        def encode(text, encoding="latin1"):
            if type(text) is not str:
                raise CheckpointError(f"bytes made of {SHORT.repr(text)}, but text is expected")
            return self._copied(text).encode("latin1")

        def make_set(items=()):
            items = list(self._copied(items))
            self._check_keys(items)
            return set(items)

        return {
            ("collections", "OrderedDict"): make_ordered_dict,
            ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
            ("torch._utils", "_rebuild_tensor_v3"): rebuild_tensor_of_type,
            ("torch._utils", "_rebuild_parameter"): rebuild_parameter,
            ("torch._utils", "_rebuild_parameter_with_state"): rebuild_parameter,
            ("_codecs", "encode"): encode,
            ("builtins", "set"): make_set,
        }

    # ---- what the pickle asks for

    def find_class(self, module: str, name: str) -> Any:
        # `torch.save` writes protocol 2, which uses the names of Python 2 (`__builtin__`).
        if (module, name) in NAME_MAPPING:
            module, name = NAME_MAPPING[module, name]
        else:
            module = IMPORT_MAPPING.get(module, module)
        if (module, name) in self.known:
            return self.known[module, name]
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch" and isinstance(vars(torch).get(name), torch.dtype):
            return vars(torch)[name]

        # `_operator` is the part of `operator` that is written in C.
        harmless = _HARMLESS.get(module) or _HARMLESS.get(module.lstrip("_"), ())
        if module.partition(".")[0] in sys.stdlib_module_names and name not in harmless:
            raise CheckpointError(
                f"it asks for `{module}.{name}`, which no weights need: the file was built to run "
                "code when it is loaded. Nothing was run. Do not load it with anything else, and "
                "tell whoever published it"
            )
        if (module, name) not in self.classes:
            if len(self.classes) == _MOST_CLASSES:
                raise CheckpointError(f"it names more than {_MOST_CLASSES} classes")
            self.classes[module, name] = type("Placeholder", (Placeholder,), {"name": f"{module}.{name}"})
        return self.classes[module, name]

    def persistent_load(self, pid: Any) -> _Stored:
        kind, dtype, key, _, numel = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise CheckpointError(f"a storage of an unknown kind ({SHORT.repr(kind)}, {SHORT.repr(dtype)})")
        if type(key) is not str or type(numel) is not int:
            raise CheckpointError(f"a storage named {SHORT.repr(key)}, of {SHORT.repr(numel)} numbers")
        if key not in self.storages:
            data = bytearray(self.archive.read(f"{self.root}data/{key}"))
            if len(data) != numel * dtype.itemsize:
                raise CheckpointError(
                    f"storage {key} is {len(data)} bytes long, but {numel * dtype.itemsize} are due"
                )
            tensor = torch.empty(0, dtype=dtype)
            if data:
                tensor = torch.frombuffer(data, dtype=dtype)
            self.storages[key] = _Stored(tensor)
        return self.storages[key]

    # ---- the steps whose cost the length of the file does not bound

    def _copied(self, items: Any) -> Any:
        """Return `items`, which are about to be copied, and count them.

        Otherwise a short pickle could fill the memory with copies of one large object.
        """
        self.left -= len(items)
        if self.left < 0:
            raise CheckpointError("it makes more copies of its content than an honest file does")
        return items

    def _remember_tuple(self) -> None:
        """Note the size and depth of the newest tuple, counting an item each time it occurs."""
        made = self.stack[-1]
        items = len(made)
        depth = 1
        for item in made:
            if isinstance(item, tuple) and id(item) in self.tuples:
                items += self.tuples[id(item)][1]
                depth = max(depth, 1 + self.tuples[id(item)][2])
        if depth > _DEEPEST_TUPLE:
            raise CheckpointError(f"it holds tuples in tuples, more than {_DEEPEST_TUPLE} deep")
        self.tuples[id(made)] = made, items, depth

    def _check_keys(self, keys: Iterable) -> None:
        """Refuse keys of dictionaries and items of sets that are slow to hash or compare."""
        for key in keys:
            if type(key) is int and key.bit_length() > 64:
                raise CheckpointError("a number of more than 64 bits is a key")
            if not isinstance(key, tuple) or not key:
                continue
            self.tuple_keys += 1
            if self.tuples[id(key)][1] > _LARGEST_KEY or self.tuple_keys > _MOST_TUPLE_KEYS:
                raise CheckpointError(
                    f"a tuple of more than {_LARGEST_KEY} items is a key, or too many tuples are"
                )

    def _check_call(self) -> None:
        """Count what a call is about to copy."""
        # On top of the stack: a function and its arguments, or an object and its state.
        for operand in self.stack[-2:]:
            if isinstance(operand, tuple | list | dict):
                self._copied(operand)


def _watch(opcodes: Iterable[bytes], before: Callable | None = None, after: Callable | None = None) -> None:
    """Make `_Reader` check its stack before or after it executes these opcodes."""
    for opcode in opcodes:
        carry_out = pickle._Unpickler.dispatch[opcode[0]]

        def step(reader, carry_out=carry_out):
            if before is not None:
                before(reader)
            carry_out(reader)
            if after is not None:
                after(reader)

        _Reader.dispatch[opcode[0]] = step


# `stack` holds the items since the last mark. For a dictionary, keys and values alternate.
_watch([pickle.SETITEM], before=lambda reader: reader._check_keys(reader.stack[-2:-1]))
_watch([pickle.SETITEMS, pickle.DICT], before=lambda reader: reader._check_keys(reader.stack[::2]))
_watch([pickle.ADDITEMS, pickle.FROZENSET], before=lambda reader: reader._check_keys(reader.stack))
_watch([pickle.REDUCE, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.BUILD], before=_Reader._check_call)
_watch([pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3], after=_Reader._remember_tuple)


def _check_program(program: bytes) -> None:
    """Refuse a pickle with an opcode out of all proportion. `genops` parses it and runs nothing."""
    for opcode, argument, _ in pickletools.genops(program):
        if opcode.name.endswith("PUT") and argument > len(program):
            raise CheckpointError(
                f"it would reserve memory for {argument} objects, and is {len(program)} bytes long"
            )
        if isinstance(argument, int) and argument.bit_length() > _LARGEST_NUMBER:
            raise CheckpointError(f"it holds a number of {argument.bit_length()} bits")


def _root_of(archive: zipfile.ZipFile, size: int) -> str:
    """Return the folder that holds everything in an archive of `torch.save` of `size` bytes."""
    entries = archive.infolist()
    programs = [entry.filename for entry in entries if entry.filename.endswith("data.pkl")]
    if len(programs) != 1:
        raise CheckpointError(f"a file of torch.save holds one data.pkl, this one {len(programs)}")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError("its content is compressed, which torch.save never does")
    # Entries may claim to overlap: a few megabytes would then be read as gigabytes.
    if sum(max(entry.file_size, entry.compress_size) for entry in entries) > size:
        raise CheckpointError("its entries are larger in all than the file")
    root = programs[0].removesuffix("data.pkl")
    if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
        raise CheckpointError("it was written on a big-endian machine; save it again on another")
    return root


def load(path: Path) -> Any:
    """Return what `torch.save` wrote to `path`, without running anything.

    Objects of other packages are `Placeholder`s.

    Raises:
        CheckpointError: The file is not from `torch.save`, is truncated or damaged, or was built to
            run code or to take more time or memory than its size justifies.

    >>> load(Path("weights.ckpt"))["state_dict"].keys()                     # doctest: +SKIP
    """
    try:
        with zipfile.ZipFile(path) as archive:
            root = _root_of(archive, Path(path).stat().st_size)
            return _with_tensors(_Reader(archive, root).load(), {})
    except CheckpointError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    except Exception as error:  # a damaged file can make the reader raise anything
        kind = kind_of(path) or "no file of torch.save"
        with open(path, "rb") as file:
            if file.read(4) == b"PK\x03\x04":
                kind = f"damaged or cut off ({SHORT.repr(error)})"
        raise CheckpointError(f"{path} cannot be read: it is {kind}") from error


def kind_of(path: Path) -> str | None:
    """Return in words what a file is that people often have instead of weights, or None."""
    with open(path, "rb") as file:
        start = file.read(64)
    if not start:
        return "empty"
    if start.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not the weights: `git lfs pull` fetches them"
    if start[:1] == b"<":
        return "a web page, not the weights"
    if start[:1] == b"\x80":
        return "a pickle in the format of PyTorch before 1.6; save it again with a newer PyTorch"
    return None
