"""Files of `torch.save`, honest ones and those that were built to run code when they are loaded."""

import os
import shutil
import sys
import types
import zipfile
from pathlib import Path

import pytest
import torch

from hyenadna.errors import CheckpointError
from hyenadna.hub_upload import safe_pickle
from hyenadna.hub_upload.convert import convert, load_checkpoint

from .conftest import random_model
from .helpers.checkpoints import EMBEDDING, foreign, lightning, nested, write


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


@pytest.mark.parametrize("function", [os.system, os.mkdir, eval, exec, open, __import__, getattr, shutil.rmtree])
@pytest.mark.parametrize("place", ["state_dict", "hyper"])
def test_a_pickle_that_runs_code_is_refused_and_runs_nothing(model, function, place, tmp_path):
    mark = tmp_path / "it-ran"
    argument = {"system": f"touch {mark}", "eval": f"open({str(mark)!r}, 'w')", "exec": f"open({str(mark)!r}, 'w')"}
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
    harmless += [collections.defaultdict(list, a=[1]), collections.Counter("aab"), functools.partial(int, base=2)]
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
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x08\x00\x00\x00__code__Ncx\nc\nsb.",  # sets attributes of ours
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
    content["parameter"].note = {"trained": True}  # such an attribute makes `_rebuild_parameter_with_state` of it
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
    """Pickles as a tensor of an empty storage, and then a state for it: what `Tensor.__setstate__` would do with it."""

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
    assert first is second and torch.equal(first[1]["w"], weight[2:4]) and torch.equal(content["n"][1], weight)
    assert first[0].data_ptr() == content["a"].data_ptr()


def test_names_of_tensors_are_words(tmp_path):
    torch.save({("a", "tuple"): torch.zeros(1)}, tmp_path / "keys.pt")
    with pytest.raises(CheckpointError, match="a tuple stands where the name"):
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
    """Python's reader makes a table as long as the largest index: gigabytes for a file of a few bytes."""
    resource = pytest.importorskip("resource")
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
