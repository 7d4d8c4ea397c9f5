"""A second device in the host's memory: PyTorch's name for it is "mlu".

    python -m pytest -p tests.second_device tests/test_device.py

`device.cpp` gives PyTorch a device with the numbers of the CPU. What depends on a tensor's device is
as on a GPU: mixed devices are refused, autocast has the types of CUDA, and reading a value makes the
host wait, which can be refused.

The name belongs to one of the few devices that accelerate and Transformers look for by name, so that
`Trainer` and pipelines use it. It is registered for the whole process and cannot be taken back, so
tests run with it in a process of their own (`tests/test_second_device.py`).
"""

import functools
import hashlib
import importlib.machinery
import os
import shutil
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import torch
from torch.utils import cpp_extension

NAME = "mlu"
SOURCE = Path(__file__).with_name("device.cpp")


def compiler() -> str | None:
    return shutil.which(os.environ.get("CXX", "g++"))


def build(folder: Path) -> Path:
    """Compile the device, unless `folder` has it already, and return the library.

    Raises:
        RuntimeError: There is no compiler, or it fails.
    """
    found = compiler()
    if found is None:
        raise RuntimeError("no C++ compiler: the second device cannot be built")
    # A library belongs to one release of PyTorch.
    key = hashlib.sha256(SOURCE.read_bytes() + torch.__version__.encode()).hexdigest()[:16]
    library = folder / f"second_device_{key}.so"
    if library.exists():
        return library
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        made = Path(temporary, library.name)
        command = [found, "-O1", "-w", "-shared", "-fPIC", "-std=c++20", str(SOURCE), "-o", str(made)]
        command += [f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"]
        command += [word for path in cpp_extension.include_paths() for word in ("-isystem", path)]
        command += [word for path in cpp_extension.library_paths() for word in ("-L", path)]
        command += ["-ltorch", "-ltorch_cpu", "-lc10"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the second device cannot be built:\n{done.stderr[-3000:]}")
        made.rename(library)
    return library


@functools.cache
def register() -> None:
    """Give this process the device. The library is kept where PyTorch keeps its extensions."""
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or cpp_extension.get_default_build_root()
    torch.ops.load_library(build(Path(root, "hyenadna")))
    torch.utils.rename_privateuse1_backend(NAME)
    torch._register_device_module(NAME, _module())
    torch.utils.generate_methods_for_privateuse1_backend(for_storage=True)
    # The package that accelerate and Transformers look for.
    package = types.ModuleType(f"torch_{NAME}")
    package.__spec__ = importlib.machinery.ModuleSpec(package.__name__, None)
    sys.modules[package.__name__] = package


class _Device:
    """`with torch.mlu.device(1):`"""

    def __init__(self, device):
        self.index = _index(device)

    def __enter__(self):
        self.before = torch.ops.second_device.current()
        torch.ops.second_device.set_current(self.index)

    def __exit__(self, *error):
        torch.ops.second_device.set_current(self.before)


def _index(device=None) -> int:
    if isinstance(device, int):
        return device
    index = None if device is None else torch.device(device).index
    return torch.ops.second_device.current() if index is None else index


def _set_sync_debug_mode(mode: str) -> None:
    torch.ops.second_device.refuse_waiting(mode == "error")


def _module() -> types.ModuleType:
    """What PyTorch, accelerate and Transformers ask of a device, named as in `torch.cuda`.

    Random numbers are those of the CPU: it has the only generator.
    """
    ops = torch.ops.second_device
    module = types.ModuleType(f"torch.{NAME}")
    for name, value in {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_is_in_bad_fork": lambda: False,
        "device_count": lambda: 2,
        "current_device": ops.current,
        "set_device": lambda device: ops.set_current(_index(device)),
        "device": _Device,
        "get_device_name": lambda device=None: "host memory",
        "synchronize": lambda device=None: None,
        "empty_cache": lambda: None,
        "is_bf16_supported": lambda *args: True,
        "get_amp_supported_dtype": lambda: [torch.bfloat16, torch.float16, torch.float32],
        "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None,
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, device=None: torch.set_rng_state(state),
        "get_rng_state_all": lambda: [torch.get_rng_state()],
        "set_rng_state_all": lambda states: torch.set_rng_state(states[0]),
        "memory_allocated": lambda device=None: ops.allocated(),
        "max_memory_allocated": lambda device=None: ops.peak(),
        "reset_peak_memory_stats": lambda device=None: ops.reset_peak(),
        "mem_get_info": lambda device=None: (2**33 - ops.allocated(), 2**33),
        "set_sync_debug_mode": _set_sync_debug_mode,
    }.items():
        setattr(module, name, value)
    return module


def pytest_configure() -> None:
    register()
