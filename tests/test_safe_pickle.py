"""Files of `torch.save`, honest ones and those that were built to run code when they are loaded."""

import multiprocessing
import os
import pickle
import shutil
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from hyenadna.errors import CheckpointError
from hyenadna.hub_upload import safe_pickle
from hyenadna.hub_upload.convert import convert, load_checkpoint
from hyenadna.hub_upload.folders import SHORT

from .conftest import random_model
from .helpers.checkpoints import EMBEDDING, foreign, lightning, nested, write

resource = pytest.importorskip("resource")


@pytest.fixture
def model():
    return random_model(tie_word_embeddings=True, complex_positional_embedding=True)


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def load_and_run(path: Path) -> None:
    """What the file does to whoever trusts it, and has the package that wrote it."""
    foreign("foreign_package", "DictConfig")
    torch.load(path, weights_only=False)
    del sys.modules["foreign_package"]


def touch(path: str) -> None:  # stands for any function of any installed package
    Path(path).touch()


@pytest.mark.parametrize(
    "function", [os.system, os.mkdir, eval, exec, open, __import__, getattr, shutil.rmtree]
)
@pytest.mark.parametrize("place", ["state_dict", "hyper"])
def test_a_pickle_that_runs_code_is_refused_and_runs_nothing(model, function, place, tmp_path):
    mark = tmp_path / "it-ran"
    argument = {
        "system": f"touch {mark}",
        "eval": f"open({str(mark)!r}, 'w')",
        "exec": f"open({str(mark)!r}, 'w')",
    }
    argument = argument.get(function.__name__, str(mark))
    arguments = (argument, "w") if function in (open, getattr) else (argument,)
    state, others = lightning(model), {}
    if place == "state_dict":
        state[EMBEDDING] = Calls(function, *arguments)
    else:
        others["callbacks"] = [{"x": Calls(function, *arguments)}]
    write(tmp_path / "in", state, nested(model), **others)
    with pytest.raises(CheckpointError, match=r"built to run code.*Nothing was run"):
        convert(str(tmp_path / "in"), tmp_path / "ours")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]
    if function is os.system:  # the test can fail: this is what PyTorch does with it
        load_and_run(tmp_path / "in/weights.ckpt")
        assert mark.exists()


def test_functions_of_other_packages_are_never_called(model, tmp_path):
    """They cannot be told from the classes of a training package, so they become placeholders."""
    mark = tmp_path / "it-ran"
    write(tmp_path / "in", lightning(model), nested(model), callbacks=Calls(touch, str(mark)))
    convert(str(tmp_path / "in"), tmp_path / "ours")
    assert not mark.exists()
    write(tmp_path / "in", lightning(model) | {EMBEDDING: Calls(touch, str(mark))}, nested(model))
    with pytest.raises(CheckpointError, match=rf"{EMBEDDING}.*touch, not loaded.*a tensor is expected"):
        convert(str(tmp_path / "in"), tmp_path / "again")
    assert not mark.exists() and not (tmp_path / "again").exists()
    load_and_run(tmp_path / "in/weights.ckpt")
    assert mark.exists()


def test_what_training_frameworks_store_is_no_attack(model, tmp_path):
    """Types, paths, dates, containers, partial functions: read as placeholders at most."""
    import collections
    import datetime
    import functools
    import typing

    harmless = [
        int,
        type(None),
        int | None,
        typing.Union.__getitem__((int, str)),
        typing.Any,
        Path("x"),
        datetime.timedelta(1),
        {1},
        frozenset({2}),
    ]
    harmless += [list[int], dict[str, list[float]], tuple[int, ...]]
    harmless += [
        collections.defaultdict(list, a=[1]),
        collections.Counter("aab"),
        functools.partial(int, base=2),
    ]
    harmless += [
        types.SimpleNamespace(a=1),
        b"bytes",
        bytearray(b"x"),
        1j,
        ValueError("x"),
        torch.float32,
        torch.Size([2]),
    ]
    harmless += [torch.device("cpu"), model.config, torch.optim.SGD(model.parameters(), 0.1).state_dict()]
    convert(write(tmp_path / "in", lightning(model), nested(model), callbacks=harmless), tmp_path / "ours")
    torch.save(model, tmp_path / "whole-model.pt")
    with pytest.raises(CheckpointError, match=r"HyenaDNAForCausalLM, not loaded>, but a state dict"):
        convert(str(tmp_path / "whole-model.pt"), tmp_path / "again")


def test_commands_of_python_2_are_seen_through(model, tmp_path):
    import subprocess

    write(tmp_path / "in", lightning(model), x=Calls(subprocess.getoutput, f"touch {tmp_path / 'it-ran'}"))
    assert b"commands" in (tmp_path / "in/weights.ckpt").read_bytes()  # its name in protocol 2
    with pytest.raises(CheckpointError, match=r"subprocess\.getoutput"):
        convert(str(tmp_path / "in"), tmp_path / "ours")


def hand_made(path: Path, program: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/data/0", b"\0" * 8)
    return path


@pytest.mark.parametrize(
    "program",
    [
        # sets attributes of ours
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x08\x00\x00\x00__code__Ncx\nc\nsb.",
        b"\x80\x02cos\nsystem\n.",  # the function itself, uncalled
        b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.",
        b"cos\nsystem\n(S'true'\ntR.",
        b"(S'true'\nios\nsystem\n.",
        b"\x80\x02cnt\nsystem\n.",
        b"\x80\x02X\x00\x00\x00\x00Q.",  # a persistent id that is no tuple
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x00)))R.",
    ],
)
def test_hand_made_pickles(program, tmp_path):
    safe = safe_pickle.load.__code__
    try:
        content = safe_pickle.load(hand_made(tmp_path / "a.ckpt", program))
    except CheckpointError as error:
        assert "cannot be read" in str(error)
    else:  # at most a function of the reader's own came out, and nothing is a state dict
        with pytest.raises(CheckpointError):
            load_checkpoint(str(tmp_path / "a.ckpt"))
        assert not isinstance(content, torch.Tensor)
    assert safe_pickle.load.__code__ is safe


def test_a_tensor_cannot_reach_outside_its_storage(tmp_path):
    tensor = torch.zeros(4)
    torch.save({"a": tensor}, tmp_path / "a.ckpt")
    content = (tmp_path / "a.ckpt").read_bytes()
    assert content.count(b"K\x04\x85") == 1  # its size
    (tmp_path / "a.ckpt").write_bytes(content.replace(b"K\x04\x85", b"K\x7f\x85"))
    with pytest.raises(CheckpointError, match="cannot be read"):
        safe_pickle.load(tmp_path / "a.ckpt")


def test_the_reader_agrees_with_torch(tmp_path):
    base = torch.randn(6, 8)
    dtypes = (
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.bool,
        torch.complex64,
        torch.complex128,
        torch.uint16,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
    )
    module = torch.nn.Linear(3, 2)
    content = {
        **{str(dtype): base.to(dtype) for dtype in dtypes},
        "view": base.T[1:3],
        "strided": base[::2, ::3],
        "scalar": torch.tensor(7),
        "empty": torch.empty(0, 4),
        "parameter": torch.nn.Parameter(base),
        "module": module.state_dict(),
        "plain": [1, 2.5, None, "x", (True, b"y"), {"z": {1, 2}}],
    }
    # such an attribute makes `_rebuild_parameter_with_state` of it
    content["parameter"].note = {"trained": True}
    torch.save(content | {"another": torch.nn.Parameter(base)}, tmp_path / "a.pt")
    assert b"_rebuild_parameter_with_state" in (tmp_path / "a.pt").read_bytes()
    expected, ours = torch.load(tmp_path / "a.pt"), safe_pickle.load(tmp_path / "a.pt")
    assert ours.pop("plain") == expected.pop("plain")
    assert ours.keys() == expected.keys()
    ours |= ours.pop("module")
    expected |= expected.pop("module")
    for name, tensor in expected.items():
        assert ours[name].dtype == tensor.dtype and ours[name].shape == tensor.shape, name
        if tensor.is_floating_point():  # float8 cannot be compared
            tensor, ours[name] = tensor.double(), ours[name].double()
        assert torch.equal(ours[name], tensor), name


class Stated:
    """Pickles as a tensor of an empty storage, and then a state for it: what `Tensor.__setstate__`
    would do with it.
    """

    def __reduce__(self):
        storage = torch.empty(0).storage()
        state = (torch.empty(0).storage(), 0, (64,), (1,))
        return torch._utils._rebuild_tensor_v2, (storage, 0, (0,), (1,), False, {}), state


def test_nothing_of_a_tensor_is_called_while_it_is_read(tmp_path):
    """A state would grow a storage by memory of this process that nobody has written to."""
    torch.save({"x": Stated()}, tmp_path / "a.pt")
    assert safe_pickle.load(tmp_path / "a.pt")["x"].numel() == 0


def test_a_tensor_is_no_larger_than_its_storage(tmp_path):
    torch.save({"x": torch.zeros(1).expand(2**40)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="in a storage of 1 numbers"):
        safe_pickle.load(tmp_path / "a.pt")


def test_tied_and_nested_tensors_and_shared_containers(tmp_path):
    weight = torch.arange(6.0)
    inner = [weight, {"w": weight[2:4]}]
    torch.save({"a": weight, "b": (inner, inner), "n": {1: weight}}, tmp_path / "a.pt")
    content = safe_pickle.load(tmp_path / "a.pt")
    first, second = content["b"]
    assert (
        first is second and torch.equal(first[1]["w"], weight[2:4]) and torch.equal(content["n"][1], weight)
    )
    assert first[0].data_ptr() == content["a"].data_ptr()


def test_names_of_tensors_are_words(tmp_path):
    torch.save({("a", "tuple"): torch.zeros(1)}, tmp_path / "keys.pt")
    with pytest.raises(CheckpointError, match="a tuple is where the name"):
        load_checkpoint(str(tmp_path / "keys.pt"))


def test_paths_of_python_3_13(tmp_path):
    program = b"\x80\x02}X\x01\x00\x00\x00acpathlib._local\nPosixPath\nX\x01\x00\x00\x00x\x85Rs."
    content = safe_pickle.load(hand_made(tmp_path / "a.ckpt", program))
    assert repr(content) == "{'a': <pathlib._local.PosixPath, not loaded>}"
    program = program.replace(b"PosixPath", b"os\nsystem"[:2])
    with pytest.raises(CheckpointError, match=r"asks for `pathlib._local.os`"):
        safe_pickle.load(hand_made(tmp_path / "b.ckpt", program))


@pytest.mark.parametrize(
    "put",
    [
        b"r\x00\x00\x00\x04",  # LONG_BINPUT 2**26
        b"r\xff\xff\xff\x7f",
        b"p67108864\n",
    ],
)
def test_a_memo_that_would_fill_the_memory(put, tmp_path):
    """Python's reader makes a table as long as the largest index: gigabytes for a file of a few
    bytes.
    """
    path = hand_made(tmp_path / "a.ckpt", b"\x80\x02}" + put + b".")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match="it would reserve memory"):
        safe_pickle.load(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # in kB
    assert safe_pickle.load(hand_made(tmp_path / "b.ckpt", b"\x80\x02}r\x03\x00\x00\x00.")) == {}


def test_objects_of_other_packages_as_names_and_in_sets(tmp_path):
    """Enumerations are often names in a dictionary: their placeholders are told apart."""
    key = foreign("foreign_package", "Stage")
    key.__hash__, key.__reduce__ = object.__hash__, lambda self: (key, ())
    torch.save({"state": {key(): 1, key(): 2}, "stages": {key()}}, tmp_path / "a.pt")
    del sys.modules["foreign_package"]
    content = safe_pickle.load(tmp_path / "a.pt")
    assert list(content["state"].values()) == [1, 2] and len(content["stages"]) == 1
    assert {repr(key) for key in content["state"]} == {"<foreign_package.Stage, not loaded>"}


def laughs(depth: int) -> list:
    content = ["ha"] * 10
    for _ in range(depth):
        content = [content] * 10
    return content


def deep(depth: int) -> bytes:
    return b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."


def test_content_without_end_is_named_in_a_few_words(tmp_path):
    """Ten lists of ten lists of ...: small in the file and in memory, and 10**40 words to print."""
    torch.save(laughs(40), tmp_path / "laughs.pt")
    torch.save({"a": laughs(40)}, tmp_path / "named.pt")
    hand_made(tmp_path / "deep.pt", deep(100))
    hand_made(tmp_path / "deeper.pt", deep(100_000))
    for name, message in (
        ("laughs.pt", "holds .*, but a state dict"),
        ("named.pt", "`a` is a list .*, but a tensor is expected"),
        ("deep.pt", "holds .*, but a state dict"),
        ("deeper.pt", "recursion"),
    ):
        with pytest.raises(CheckpointError, match=message) as error:
            load_checkpoint(str(tmp_path / name))
        assert len(str(error.value)) < 600, name


# --------------------------------------------------------------------------------- work without end


def in_a_child(function, *arguments) -> str:
    """What `function` raises, as text, in a process of its own: what would never end can be ended
    from outside.
    """
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)

    def run() -> None:
        limit = 4_000_000_000  # bytes; far above what torch has mapped
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        try:
            send.send(f"read: {SHORT.repr(function(*arguments))}")
        except Exception as error:
            send.send(f"{type(error).__name__}: {error}")

    child = context.Process(target=run)
    child.start()
    try:
        assert receive.poll(60), "it has no end"
        return receive.recv()
    finally:
        child.kill()
        child.join()


def nest(levels: int) -> bytes:
    """A tuple of ten tuples of ten tuples of ...: a few bytes a level, and ten times as many items."""
    program = b"(" + b"K\x01" * 10 + b"tq\x00"
    for _ in range(levels):
        program += b"0(" + b"h\x00" * 10 + b"tq\x00"
    return program


def text(word: str) -> bytes:
    return b"X" + struct.pack("<I", len(word)) + word.encode()


def storage(key: bytes, numel: bytes) -> bytes:
    return b"(" + text("storage") + b"ctorch\nFloatStorage\n" + key + text("cpu") + numel + b"tQ"


MANY = 100_000
SET, ORDERED = b"c__builtin__\nset\n", b"ccollections\nOrderedDict\n"
NUMBERS = b"(" + b"K\x01" * MANY
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
ZERO = storage(text("0"), b"K\x02")
BOMBS = {
    "a nested key": b"}" + nest(12) + b"K\x01s.",
    "nested keys": b"}(" + nest(12) + b"K\x01u.",
    "a dictionary from the stack": b"(" + nest(12) + b"K\x01d.",
    "a nested item of a set": SET + b"(" + nest(12) + b"l\x85R.",
    "a nested item of a new set": b"\x8f(" + nest(12) + b"\x90.",
    "a nested item of a frozen set": b"(" + nest(12) + b"\x91.",
    "a nested key of an OrderedDict": ORDERED + b"((" + nest(12) + b"K\x01ll\x85R.",
    "the key of a storage": storage(nest(12), b"K\x02") + b".",
    "the length of a storage": storage(text("0"), nest(12)) + b".",
    "the kind of a storage": b"("
    + nest(12)
    + b"ctorch\nFloatStorage\n"
    + text("0")
    + text("cpu")
    + b"K\x02tQ.",
    "the text of bytes": b"c_codecs\nencode\n" + nest(12) + b"\x85R.",
    "the size of a tensor": REBUILD + b"(" + ZERO + b"K\x00" + nest(12) + b"(K\x01ttR.",
    "the stride of a tensor": REBUILD + b"(" + ZERO + b"K\x00(K\x01t" + nest(12) + b"tR.",
    "the offset of a tensor": REBUILD + b"(" + ZERO + nest(12) + b"(K\x01t(K\x01ttR.",
    "a deep key": b"}K\x01" + b"\x85" * MANY + b"K\x01s.",
    "one long key again and again": b"\x8f(" + NUMBERS + b"tq\x01" + b"h\x01" * MANY + b"\x90.",
    "sets of one list": SET + b"q\x02" + NUMBERS + b"lq\x03" + b"h\x02h\x03\x85R" * MANY + b".",
    "bytes of one text": b"c_codecs\nencode\nq\x02"
    + text("a" * MANY)
    + b"q\x03"
    + b"h\x02h\x03\x85R" * MANY
    + b".",
    "calls with one tuple": b"cx\ny\nq\x02" + NUMBERS + b"tq\x03" + b"h\x02h\x03R" * MANY + b".",
    "keys that collide": b"}("
    + b"".join(b"\x8a\x10" + (i * (2**61 - 1)).to_bytes(16, "little") + b"K\x01" for i in range(MANY))
    + b"u.",
    "tuples that collide": b"}("
    + b"".join(
        b"(" + b"".join(b"J" + struct.pack("<i", -1 - (i >> bit & 1)) for bit in range(16)) + b"tK\x01"
        for i in range(2**15)
    )
    + b"u.",
    "one state again and again": b"c_codecs\nencode\n}q\x03("
    + b"".join(b"J" + struct.pack("<i", i) + b"K\x01" for i in range(MANY))
    + b"u0"
    + b"h\x03b" * MANY
    + b".",
    "classes": b"".join(b"cx\n%d\n0" % i for i in range(MANY // 4)) + b"N.",
    "a number": b"\x8b" + struct.pack("<i", MANY) + b"\x7f" * MANY + b".",
    "a length that the file does not have": b"\x96" + struct.pack("<Q", 2**40) + b"x.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_small_files_that_cost_time_or_memory_without_end(name, tmp_path):
    path = hand_made(tmp_path / "a.ckpt", b"\x80\x02" + BOMBS[name])
    message = in_a_child(safe_pickle.load, path)
    assert message.startswith(f"CheckpointError: {path} cannot be read: ") and len(message) < 700


def test_entries_that_lie_inside_one_another(tmp_path):
    """A few megabytes of which each entry holds nearly all: read one by one they are gigabytes."""
    path = tmp_path / "a.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
        archive.writestr("a/data/0", b"\0" * 1_000_000)
        for i in range(1, 1000):
            entry = zipfile.ZipInfo(f"a/data/{i}")
            entry.header_offset = archive.filelist[1].header_offset
            entry.compress_size = entry.file_size = 1_000_000
            entry.CRC = archive.filelist[1].CRC
            archive.filelist.append(entry)
    with pytest.raises(CheckpointError, match="its entries are larger in all than the file"):
        safe_pickle.load(path)


def test_what_is_large_but_honest_is_read(tmp_path):
    import random

    content = {
        "numbers": list(range(50_000)),
        "tuple": tuple(range(50_000)),
        "pairs": {(i, "x"): i for i in range(1000)},
        "state of random": random.Random(0).getstate(),
        "bytes": bytes(range(256)) * 100,
        "set": set(range(1000)),
        "ordered": OrderedDict((str(i), i) for i in range(1000)),
        "negative": [-1, 2**64, -(2**63)],
    }
    for protocol in (2, 4, 5):
        torch.save(content | {"x": torch.arange(3)}, tmp_path / "a.pt", pickle_protocol=protocol)
        read = safe_pickle.load(tmp_path / "a.pt")
        assert torch.equal(read.pop("x"), torch.arange(3)) and read == content


def test_why_this_reader_is_not_replaced_by_that_of_torch(model, tmp_path):
    """The day that this test fails, `safe_pickle` can go: `torch.load` reads what Lightning writes."""

    def load_with_torch(path: Path):
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        placeholders = [(type("Inert", (safe_pickle.Placeholder,), {}), name) for name in names]
        with torch.serialization.safe_globals(placeholders):
            return torch.load(path, weights_only=True)

    # its hyperparameters are a dict of another class
    write(tmp_path / "in", lightning(model), nested(model))
    torch.save({"a": torch.zeros(2)}, tmp_path / "in/protocol-4.ckpt", pickle_protocol=4)
    for path in (tmp_path / "in").glob("*.ckpt"):
        safe_pickle.load(path)
        with pytest.raises(pickle.UnpicklingError):
            load_with_torch(path)
