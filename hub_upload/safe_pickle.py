"""Read the files of `torch.save` without running them: a pickle is a program, and loading one runs it.

This reader rebuilds tensors and plain containers with code of its own. Every other class in the file becomes an inert
placeholder: nothing is imported and nothing is called, so a Lightning checkpoint opens without its training package.
"""

import builtins
import io
import math
import pickle
import pickletools
import reprlib
import sys
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from pathlib import Path

import torch

from hyenadna.errors import CheckpointError

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
    "UntypedStorage": torch.uint8,  # of types without a class of their own; the tensor says which
}
_PATHS = {"Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath"}
# Of the standard library a training run stores these. Any other name of it in a pickle is there to be called.
_HARMLESS = {
    "_codecs": {"encode"},
    "argparse": {"Namespace"},
    "builtins": {
        "Ellipsis",
        *(name for name, value in vars(builtins).items() if isinstance(value, type)),
    },  # no function
    "collections": {"Counter", "OrderedDict", "defaultdict", "deque"},
    "copyreg": {"_reconstructor"},
    "datetime": {"date", "datetime", "timedelta", "timezone"},
    "decimal": {"Decimal"},
    "fractions": {"Fraction"},
    "functools": {"partial", "reduce"},
    "operator": {"getitem", "or_"},  # and `reduce`: types such as `Optional[int]` and `int | None`
    "pathlib": _PATHS,
    "pathlib._local": _PATHS,  # Python 3.13
    "types": {"GenericAlias", "SimpleNamespace"},
    "typing": {"Any", "Dict", "List", "Optional", "Tuple", "Union"},
    "uuid": {"UUID"},
}


class Placeholder:
    """Stands for an object of another package. It takes whatever a pickle does to an object, and does nothing."""

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
    """A storage or a tensor while the pickle is read: it can call nothing of this, where a real tensor has methods."""

    def __init__(self, tensor: torch.Tensor, *where):
        self.tensor, self.where = tensor, where

    def __setstate__(self, state):
        pass

    def made(self) -> torch.Tensor:
        offset, size, stride = self.where
        if math.prod(size) > self.tensor.numel():
            raise CheckpointError(f"a tensor of shape {tuple(size)} in a storage of {self.tensor.numel()} numbers")
        return self.tensor.as_strided(tuple(size), tuple(stride), offset)  # raises where it leaves the storage


def _with_tensors(x, seen: dict):
    """The plain containers in `x` with real tensors in the place of `_Stored`; `seen` holds what is done, by id."""
    if id(x) in seen:
        return seen[id(x)][1]
    if isinstance(x, _Stored):
        result = x.made()
    elif isinstance(x, tuple):
        result = tuple(_with_tensors(item, seen) for item in x)
    else:
        result = x
    seen[id(x)] = x, result  # with `x`, whose id could be given to another object if it went
    if isinstance(x, dict):
        for key, value in list(x.items()):
            new = _with_tensors(value, seen)
            if new is not value:
                x[key] = new
    elif isinstance(x, list):
        x[:] = [_with_tensors(item, seen) for item in x]
    return result


class _Reader(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, root: str):
        program = archive.read(f"{root}data.pkl")
        for opcode, argument, _ in pickletools.genops(program):  # which reads and runs nothing
            if opcode.name.endswith("PUT") and argument > len(program):
                raise CheckpointError(
                    f"it would reserve memory for {argument} objects, and is {len(program)} bytes long"
                )
        super().__init__(io.BytesIO(program))
        self.archive, self.root, self.storages = archive, root, {}

        # Made anew for each file: a pickle can set attributes of what it finds, and must not reach what others use.
        def rebuild_tensor(storage, offset, size, stride, *others):
            if not isinstance(storage, _Stored) or storage.where:
                raise CheckpointError(f"a tensor without a storage ({type(storage).__name__})")
            return _Stored(storage.tensor, offset, size, stride)

        def rebuild_tensor_of_type(storage, offset, size, stride, requires_grad, hooks, dtype, *others):
            stored = rebuild_tensor(storage, offset, size, stride)
            stored.tensor = stored.tensor.view(dtype)
            return stored

        def rebuild_parameter(data, *others):
            return data

        def encode(text, encoding="latin1"):  # protocol 2 has no bytes, and writes them as this call
            return str(text).encode("latin1")

        def make_set(items=()):
            return set(items)

        self.known = {
            ("collections", "OrderedDict"): type("OrderedDict", (OrderedDict,), {}),
            ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
            ("torch._utils", "_rebuild_tensor_v3"): rebuild_tensor_of_type,
            ("torch._utils", "_rebuild_parameter"): rebuild_parameter,
            ("torch._utils", "_rebuild_parameter_with_state"): rebuild_parameter,
            ("_codecs", "encode"): encode,
            ("builtins", "set"): make_set,
        }

    def find_class(self, module: str, name: str):
        # A pickle of protocol 2, which torch.save writes, calls things by the names that they had in Python 2.
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        if (module, name) in self.known:
            return self.known[module, name]
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch" and isinstance(vars(torch).get(name), torch.dtype):
            return vars(torch)[name]
        harmless = _HARMLESS.get(module) or _HARMLESS.get(module.lstrip("_"), ())  # `_operator`: the part in C
        if module.partition(".")[0] in sys.stdlib_module_names and name not in harmless:
            raise CheckpointError(
                f"it asks for `{module}.{name}`, which no weights need: the file was built to run code when it is "
                "loaded. Nothing was run. Do not load it with anything else, and tell whoever published it"
            )
        return type("Placeholder", (Placeholder,), {"name": f"{module}.{name}"})

    def persistent_load(self, pid):
        kind, dtype, key, _, numel = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise CheckpointError(f"a storage of an unknown kind ({reprlib.repr(kind)}, {reprlib.repr(dtype)})")
        if key not in self.storages:
            data = bytearray(self.archive.read(f"{self.root}data/{key}"))
            if len(data) != numel * dtype.itemsize:
                raise CheckpointError(f"storage {key} is {len(data)} bytes long, but {numel * dtype.itemsize} are due")
            self.storages[key] = _Stored(torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype))
        return self.storages[key]


def load(path: Path):
    """Return what `torch.save` wrote to `path`, with a `Placeholder` for each object of another package.

    Raises:
        CheckpointError: It is no such file, is cut off or damaged, or was built to run code. Nothing is ever run.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if entry.filename.endswith("data.pkl")]
            if len(entries) != 1:
                raise CheckpointError(f"a file of torch.save holds one data.pkl, this one {len(entries)}")
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise CheckpointError("its content is compressed, which torch.save never does")
            root = entries[0].filename.removesuffix("data.pkl")
            if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
                raise CheckpointError("it was written on a big-endian machine; save it again on another")
            return _with_tensors(_Reader(archive, root).load(), {})
    except CheckpointError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    except Exception as error:  # whatever a damaged file makes of the reader
        kind = kind_of(path) or "no file of torch.save"
        with open(path, "rb") as file:
            if file.read(4) == b"PK\x03\x04":
                kind = f"damaged or cut off ({error!r})"
        raise CheckpointError(f"{path} cannot be read: it is {kind}") from error


def kind_of(path: Path) -> str | None:
    """What is often found in the place of weights, in words; None for anything else."""
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
