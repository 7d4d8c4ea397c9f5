"""Every command under every name: `hyenadna NAME`, `python -m hyenadna NAME`, and the name of its
module.
"""

import errno
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors import SafetensorError

from hyenadna.training import cli


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_module_of_a_command_runs_it(name):
    """Without arguments, `demo` would train: its help is enough to see that it is the command that
    runs.
    """
    child = subprocess.run(
        [sys.executable, "-m", cli.module_of(name), "--help"], capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.startswith(f"usage: hyenadna {name} "), child.stdout[:200]


@pytest.mark.parametrize("module", ["hyenadna.training.experiments.report", "hyenadna.training.demo"])
def test_a_module_reports_bad_input_as_the_command_does(module, tmp_path):
    (tmp_path / "file").write_text("")
    wrong = ["--output_dir", str(tmp_path / "file")]
    if module.endswith("report"):
        wrong = [str(tmp_path / "none"), *wrong]
    child = subprocess.run(
        [sys.executable, "-m", module, *wrong], capture_output=True, text=True, check=False
    )
    assert child.returncode == 1
    assert child.stderr.splitlines()[-1].startswith(f"hyenadna {module.rpartition('.')[2]}: error: ")
    assert "Traceback" not in child.stderr


def disk_full() -> None:
    Path("/dev/full").write_text("x")


def safetensors_disk_full() -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def torch_disk_full() -> None:
    raise RuntimeError(
        "[enforce fail at inline_container.cc:664] . PytorchStreamWriter failed writing file data/0"
    )


def wrapped() -> None:
    try:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "run/model.safetensors")
    except OSError as error:
        raise RuntimeError("saving failed") from error


def error_of(number: int):
    def fail() -> None:
        raise OSError(number, os.strerror(number), "run/metrics.json")

    return fail


@pytest.mark.parametrize(
    "fail, message",
    [
        (disk_full, "the disk is full: make space"),
        (safetensors_disk_full, "the disk is full: make space"),
        (torch_disk_full, "a file cannot be written; is the disk full?"),
        (wrapped, "run/model.safetensors: your quota of the disk is used up"),
        (error_of(errno.ENOSPC), "run/metrics.json: the disk is full"),
        (error_of(errno.EROFS), "run/metrics.json: the file system is read-only"),
        (error_of(errno.EACCES), "run/metrics.json: it must not be read or written: change its permissions"),
        (error_of(errno.EDQUOT), "run/metrics.json: your quota of the disk is used up"),
    ],
)
def test_a_full_or_read_only_disk_is_said_in_one_line(fail, message, monkeypatch, capsys):
    """In every command it was a traceback (B10)."""
    monkeypatch.setattr(
        cli.importlib, "import_module", lambda name: SimpleNamespace(main=lambda argv: fail())
    )
    assert cli.main(["finetune"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"hyenadna finetune: error: {message}")
    assert error.count("\n") == 1 and "What was written before is whole" in error


def test_errors_of_the_program_keep_their_traceback(monkeypatch):
    def fail(argv):
        raise ZeroDivisionError("a mistake of ours")

    monkeypatch.setattr(cli.importlib, "import_module", lambda name: SimpleNamespace(main=fail))
    with pytest.raises(ZeroDivisionError):
        cli.main(["finetune"])
