"""`test_device.py` on a device in the host's memory, which is built here (`second_device/`)."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .second_device import compiler

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(compiler() is None, reason="no C++ compiler, so no second device")
def test_the_model_on_a_second_device(pytestconfig, tmp_path):
    # Without the variables of pytest-xdist. The built device is kept between runs, if pytest keeps
    # anything.
    cache = getattr(pytestconfig, "cache", None)
    extensions = tmp_path if cache is None else cache.mkdir("second_device")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["TORCH_EXTENSIONS_DIR"] = str(extensions)
    environment["OMP_NUM_THREADS"] = "1"
    command = [sys.executable, "-m", "pytest", "-p", "tests.second_device", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "tests/test_device.py"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout[-6000:] + done.stderr[-2000:]
    assert done.returncode == 0, output
    assert "skipped" not in output
    assert re.fullmatch(r"\.+", "".join(re.findall(r"^([.\w]+) +\[ *\d+%\]$", output, re.MULTILINE)))
