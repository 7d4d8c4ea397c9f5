"""The folder of a run: one writer at a time, and a second run can only continue the first.

`run_settings.json` is written first: the settings that decide the result. `metrics.json` is written
last, so its presence says that the run is finished.
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
    """Decorate `recipe(args, ...)` so that only one run at a time writes into `args.output_dir`.

    Nothing is locked if the folder is read-only, or the file system or operating system has no such
    locks.

    Raises:
        InputError: Another process is writing into the folder.
    """

    @wraps(recipe)
    def alone(args: Any, *rest, **named):
        with ExitStack() as at_end:
            # One process of a run holds the lock for all of them.
            if args.process_index == 0:
                at_end.enter_context(locked(Path(args.output_dir)))
            return recipe(args, *rest, **named)

    return alone


# ----------------------------------------------------------------------------------------- resuming


class Fingerprint:
    """A digest of the data of a run. A resumed run must have the same.

    Settings that hold one end in the name of the hash: `data_sha256`, `train_windows_blake2b`.

    >>> Fingerprint().add("ACGT").text[:8]
    '1dff3e84'
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
        """The digest of everything added so far, in hexadecimal."""
        return self._digest.hexdigest()


def check_output_folder(
    output: Path, settings: dict, resume: bool, not_compared: tuple[str, ...] = ()
) -> None:
    """Raise `InputError` if the run would overwrite something that it did not write.

    Args:
        output: The folder of the run.
        settings: The settings that decide its result.
        resume: Whether to continue an earlier run.
        not_compared: Settings in which the earlier run may differ, such as paths.
    """
    if output.is_file():
        raise InputError(f"output_dir {str(output)!r} is a file; choose a folder")
    # Hidden files do not count: locks, and what a killed run left half-written.
    names = []
    if output.is_dir():
        names = sorted(path.name for path in output.iterdir() if not path.name.startswith("."))
    if SETTINGS_FILE not in names:
        if names:
            raise InputError(
                f"output_dir {str(output)!r} holds {names[:5]} of something else; choose another folder"
            )
        return

    # A run was here. It may be continued, if this is the same run and the user asks for it.
    earlier = read_settings(output)
    is_finished = METRICS_FILE in names
    if not is_finished and last_complete_checkpoint(output) is None:
        return  # a run that failed before there was anything to lose
    if not resume:
        state = "a finished" if is_finished else "an interrupted"
        raise InputError(
            f"output_dir {str(output)!r} holds {state} run; choose another folder, or continue that run "
            "with --resume"
        )
    # By way of JSON, as the earlier settings were stored: it turns tuples into lists.
    compared = {name: value for name, value in settings.items() if name not in not_compared}
    _check_same_run(output, earlier, json.loads(json.dumps(compared)))


def read_settings(output: Path) -> dict:
    """Return the settings that an earlier run wrote into `run_settings.json`.

    Raises:
        InputError: The file cannot be read, or holds something else.
    """
    return read_json(output / SETTINGS_FILE, "; choose another folder")


def _check_same_run(output: Path, earlier: dict, settings: dict) -> None:
    """Raise `InputError` that names the first setting in which two runs differ."""
    for name, value in settings.items():
        if earlier.get(name) == value:
            continue
        # Nobody can read a digest, so say what it is a digest of.
        if name.endswith(("_blake2b", "_sha256")):
            what = name.rpartition("_")[0].replace("_", " ")
            raise InputError(
                f"output_dir {str(output)!r} holds another run: its {what} changed since then; "
                "choose another folder, or resume with the same data"
            )
        raise InputError(
            f"output_dir {str(output)!r} holds another run: its {name} is {earlier.get(name)!r}, now it "
            f"is {value!r}; choose another folder, or resume with the same setting"
        )


def finished_results(output: Path) -> dict | None:
    """Return the content of a finished run's `metrics.json`, and say so; None if it is unfinished.

    Raises:
        InputError: The file is damaged.
    """
    path = output / METRICS_FILE
    if not path.exists():
        return None
    hint = "; delete it, and --resume writes it again"
    results = read_json(path, hint)
    if "metrics" not in results:
        raise InputError(f"{path} holds no metrics{hint}")
    print(f"{output} holds this run, and it is finished: nothing to do")
    return results


@contextmanager
def saying_how_to_go_on(output: Path) -> Iterator[None]:
    """On Ctrl-C, print which checkpoint is left and how to continue."""
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
    """Return the versions of the packages that a result depends on."""
    names = ("hyenadna", "torch", "transformers", "tokenizers", "datasets", "accelerate")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def hardware(device: torch.device, processes: int = 1) -> dict[str, str | int]:
    """Return device, processes and threads that a result was computed with."""
    # Threads, because CPU times mean little without them.
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
