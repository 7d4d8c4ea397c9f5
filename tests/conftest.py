import logging
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for a network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

import hyenadna

from .helpers.slow import function_of, processor_seconds, read_list

# The processes of pytest-xdist share the cores.
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


# ----------------------------------------------------------------------- the fast and the slow half


def pytest_addoption(parser):
    parser.addoption(
        "--measure", metavar="FILE", help="append the processor time of each test (tests/helpers/slow.py)"
    )


def pytest_collection_modifyitems(items):
    slow = read_list()
    for item in items:
        name = function_of(item.nodeid)
        if name in slow or name.partition("::")[0] in slow:
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    start = processor_seconds()
    result = yield
    file = item.config.getoption("measure")
    if file:
        with open(file, "a") as times:  # workers append whole lines
            times.write(f"{item.nodeid}\t{processor_seconds() - start:.2f}\n")
    return result


# ------------------------------------------------------------------------------------- deprecations


# Deprecations that Transformers logs about its own calls, or about what a user wrote.
_NOT_OURS = (
    "Passing `generation_config` together with",  # the draft model of assisted decoding
    "Using different dtypes per module",  # a config.json whose dtype is a dictionary
    "`use_return_dict` is deprecated",  # peft 0.20 reads it
)


class _Deprecations(logging.Handler):
    """Collects Transformers' deprecation messages. It logs some of them instead of warning."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if "deprecated" in message.lower() and not message.startswith(_NOT_OURS):
            self.messages.append(message)


@pytest.fixture(scope="session")
def _deprecations():
    handler = _Deprecations()
    logging.getLogger("transformers").addHandler(handler)
    yield handler
    logging.getLogger("transformers").removeHandler(handler)


@pytest.fixture(autouse=True)
def _no_deprecated_calls(_deprecations):
    """Fail a test that uses a deprecated name: the next rename should show before it is final."""
    _deprecations.messages.clear()
    yield
    assert not _deprecations.messages


# ------------------------------------------------------------------------------------- small models


def random_model(cls=hyenadna.HyenaDNAForCausalLM, seed: int = 0, **config):
    """Return a small model in evaluation mode.

    Every parameter is moved away from 0 and 1: otherwise a term that is missing might not show.
    """
    torch.manual_seed(seed)
    config = {"d_model": 16, "n_layer": 2, "max_seq_len": 66, "filter_order": 8, **config}
    model = cls(hyenadna.HyenaDNAConfig(**config)).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("freq"):
                # The published 10 would amplify rounding errors. The golden outputs test that.
                p.uniform_(0.5, 1.5)
            elif not name.endswith("pos_emb.z"):
                p.add_(torch.randn_like(p) * 0.2)
    return model


def random_ids(*shape: int, seed: int = 1) -> torch.Tensor:
    """Return random ids of A, C, G, T and N."""
    return torch.randint(7, 12, shape, generator=torch.Generator().manual_seed(seed))


def checkpoint_activations(model, settings: dict | None = None) -> None:
    """Turn on activation checkpointing, by its name since Transformers 5.23 or the one before."""
    name = "activation_checkpointing_enable"
    enable = getattr(model, name) if hasattr(model, name) else model.gradient_checkpointing_enable
    enable(settings)


@pytest.fixture
def golden() -> Path:
    return Path(__file__).parent / "golden"


@contextmanager
def locked_by_another_process(lock: Path):
    """Hold the lock of an output in another process: a file beside it, or `.lock` in a folder."""
    program = (
        "import fcntl, sys; file = open(sys.argv[1], 'a'); fcntl.lockf(file, fcntl.LOCK_EX); "
        "print(flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program, str(lock)], **pipes) as other:
        other.stdout.readline()
        yield
        other.stdin.close()
