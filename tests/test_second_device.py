"""`test_device.py` on a device in the host's memory, which is built here (`second_device/`)."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .second_device import compiler

ROOT = Path(__file__).parent.parent


@pytest.fixture
def environment(pytestconfig):
    """A process without pytest-xdist's variables, which keeps the built device between runs."""
    folder = pytestconfig.cache.mkdir("second_device")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return {**inherited, "TORCH_EXTENSIONS_DIR": str(folder), "OMP_NUM_THREADS": "1"}


@pytest.mark.skipif(compiler() is None, reason="no C++ compiler, so no second device")
def test_the_model_on_a_second_device(environment):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.second_device", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "tests/test_device.py"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(r"\d+ passed", done.stdout) and "skipped" not in done.stdout
