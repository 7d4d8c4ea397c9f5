"""Every command under every name: `hyenadna NAME`, `python -m hyenadna NAME`, and the name of its module."""

import subprocess
import sys

import pytest

from hyenadna.training import cli


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_module_of_a_command_runs_it(name):
    """Without arguments, `demo` would train: its help is enough to see that it is the command that runs."""
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
    child = subprocess.run([sys.executable, "-m", module, *wrong], capture_output=True, text=True, check=False)
    assert child.returncode == 1
    assert child.stderr.splitlines()[-1].startswith(f"hyenadna {module.rpartition('.')[2]}: error: ")
    assert "Traceback" not in child.stderr
