"""The folder of a run: one writer at a time, and a second run only continues the first.

`run_settings.json` is written first and holds what decides the result; `metrics.json` is written
last, so that its presence says that the run is finished.
"""

import hashlib
import json
import platform
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hyenadna.errors import InputError, read_json

from .checkpoints import last_complete_checkpoint
from .outputs import locked

SETTINGS_FILE = "run_settings.json"
METRICS_FILE = "metrics.json"


# --------------------------------------------------------------------------------------- one writer


def one_writer(recipe: Callable) -> Callable:
    """Decorate `recipe(args, ...)`: only one process at a time runs in `args.output_dir`.

    Where a folder can only be read, or its file system or operating system has no such locks,
    nothing is locked.

    Raises:
        InputError: Another process is writing into the folder.
    """

    @wraps(recipe)
    def alone(args: Any, *rest, **named):
        with ExitStack() as at_end:
            if args.process_index == 0:
                at_end.enter_context(locked(Path(args.output_dir)))
            return recipe(args, *rest, **named)

    return alone


# ----------------------------------------------------------------------------------------- resuming


class Fingerprint:
    """A digest of what a run was given, which a resumed run must be given again.

    Names of settings end in the name of the hash: `data_sha256`, `train_windows_blake2b`.
    """

    def __init__(self, algorithm: str = "sha256"):
        if algorithm == "blake2b":
            self._digest = hashlib.blake2b(digest_size=16)
        else:
            self._digest = hashlib.new(algorithm)

    def add(self, content: str | bytes | np.ndarray) -> "Fingerprint":
        """Add text, bytes or the values of an array. The order counts."""
        if isinstance(content, str):
            content = content.encode()
        elif isinstance(content, np.ndarray):
            content = np.ascontiguousarray(content).tobytes()
        self._digest.update(content)
        return self

    @property
    def text(self) -> str:
        """The digest of everything so far, in hexadecimal."""
        return self._digest.hexdigest()


def check_output_folder(
    output: Path, settings: dict, resume: bool, not_compared: tuple[str, ...] = ()
) -> None:
    """Raise `InputError` if the run would overwrite what it did not write.

    Args:
        output: Folder of the run.
        settings: What decides its result.
        resume: Whether an earlier run there is to be continued.
        not_compared: Settings that the earlier run may have had otherwise, such as paths.
    """
    if output.is_file():
        raise InputError(f"output_dir {str(output)!r} is a file; choose a folder")
    names = []
    if output.is_dir():
        names = sorted(path.name for path in output.iterdir() if not path.name.startswith("."))
    if SETTINGS_FILE not in names:
        if names:
            raise InputError(
                f"output_dir {str(output)!r} holds {names[:5]} of something else; choose another folder"
            )
        return

    earlier = read_settings(output)
    is_finished = METRICS_FILE in names
    if not is_finished and last_complete_checkpoint(output) is None:
        return  # a run that failed before it had anything to lose
    if not resume:
        state = "a finished" if is_finished else "an interrupted"
        raise InputError(
            f"output_dir {str(output)!r} holds {state} run; choose another folder, or continue that run "
            "with --resume"
        )
    # Compare what JSON makes of the settings: the earlier ones went through it too (tuples are
    # lists).
    compared = {name: value for name, value in settings.items() if name not in not_compared}
    _check_same_run(output, earlier, json.loads(json.dumps(compared)))


def read_settings(output: Path) -> dict:
    """Return what an earlier run in this folder wrote into `run_settings.json`.

    Raises:
        InputError: The file cannot be read, or holds something else.
    """
    return read_json(output / SETTINGS_FILE, "; choose another folder")


def _check_same_run(output: Path, earlier: dict, settings: dict) -> None:
    for name, value in settings.items():
        if earlier.get(name) == value:
            continue
        if name.endswith(("_blake2b", "_sha256")):
            what = name.rpartition("_")[0].replace("_", " ")
            raise InputError(
                f"output_dir {str(output)!r} holds another run: its {what} had other content than now; "
                "choose another folder, or resume with the same data"
            )
        raise InputError(
            f"output_dir {str(output)!r} holds another run: its {name} is {earlier.get(name)!r}, now it "
            f"is {value!r}; choose another folder, or resume with the same setting"
        )


def finished_results(output: Path) -> dict | None:
    """Return the content of a finished run's `metrics.json`, and say so; else None.

    Raises:
        InputError: The file is damaged.
    """
    path = output / METRICS_FILE
    if not path.exists():
        return None
    results = read_json(path, "; delete it, and --resume writes it again")
    print(f"{output} holds this run, and it is finished: nothing to do")
    return results


@contextmanager
def saying_how_to_go_on(output: Path) -> Iterator[None]:
    """After Ctrl-C, print which checkpoint is left and how to continue."""
    try:
        yield
    except KeyboardInterrupt:
        kept = last_complete_checkpoint(output)
        print(
            f"\nInterrupted; {kept or 'no checkpoint yet'}. The same command with --resume goes on from "
            "there."
        )
        raise


# --------------------------------------------------------------------------------------- provenance


def versions() -> dict[str, str]:
    """Return the versions of what a result depends on."""
    names = ("hyenadna", "torch", "transformers", "tokenizers", "datasets", "accelerate")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def hardware(device: torch.device, processes: int = 1) -> dict[str, str | int]:
    """Return what a result was computed on: device, number of processes and threads."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    return {"device": name, "processes": processes, "threads": torch.get_num_threads()}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
