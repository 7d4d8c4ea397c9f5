"""What the pages say exists: commands and flags, files and links, test names; their Python runs."""

import functools
import os
import re
import shlex
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest

import hyenadna
from hyenadna.training import cli

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / f"{name}.md" for name in ("CHANGELOG", "CONTRIBUTING", "SECURITY")),
    ]
)
# Written by a command of the page, which names it without its suffix.
WRITTEN = {"docs/generation", "docs/speed_measured", "docs/speed_gpu", "docs/variants"}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def command_lines() -> list[list[str]]:
    """The words after `hyenadna` in every shell block, also after `accelerate launch ... -m`."""
    found = []
    for page in PAGES:
        for line in "".join(blocks(page, "bash")).replace("\\\n", " ").splitlines():
            command = re.search(r"(?:^|-m )hyenadna ([a-z].*)", line.split("#")[0])
            if command:
                found.append(shlex.split(command[1]))
    return found


@functools.cache
def help_of(name: str) -> str:
    with redirect_stdout(StringIO()) as printed, pytest.raises(SystemExit):
        cli.main([name, "--help-all"])
    return printed.getvalue()


@pytest.mark.parametrize("command", command_lines(), ids=" ".join)
def test_commands_and_flags_exist(command):
    name = command[0]
    assert name in cli.COMMANDS
    for word in command[1:]:
        if word.startswith("--"):
            assert re.search(rf"(?<![\w-]){word}(?![\w-])", help_of(name)), word


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_links_exist(page):
    text = page.read_text()
    rooms = (
        r"(?:tests|training|genomics|analysis|hub_upload|benchmarks|modeling_hyenadna|tokenization|docs|\.ci)"
    )
    for name in re.findall(rf"(?<![\w/.-]){rooms}/[\w./*-]*\w\*?", text):
        assert name in WRITTEN or list(ROOT.glob(name)), f"{page.name}: there is no {name}"
    for link in re.findall(r"\]\(([^)#]+)", text):
        assert link.startswith("https://") or (page.parent / link).exists(), f"{page.name}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_that_are_named_exist(page):
    text = page.read_text()
    for file, name in re.findall(r"(tests/\w+\.py)::(\w+)", text):
        assert f"def {name}(" in (ROOT / file).read_text(), f"{file}::{name}"
    for file, words in re.findall(r"pytest (tests/\w+\.py) -k\s+(\w+|\"[^\"]+\")", text):
        names = re.findall(r"def (test_\w+)", (ROOT / file).read_text())
        for word in words.strip('"').split(" or "):
            assert any(word in name for name in names), f"{file} has no test for -k {word}"


def test_the_security_page_names_tests():
    assert len(re.findall(r"tests/\w+\.py::\w+", (ROOT / "SECURITY.md").read_text())) >= 20


@pytest.mark.parametrize(
    "page, first",
    [("generation_and_variants.md", 0), ("adapting.md", 1), ("analysis.md", 0)],
    ids=["generation", "adapting", "analysis"],
)
def test_python_blocks_run(page, first, tmp_path, monkeypatch):
    """Those that need nothing but a checkpoint; the first of adapting.md needs finished runs."""
    monkeypatch.chdir(tmp_path)
    os.symlink(hyenadna.example_checkpoint(), "pretrained")
    bases = np.random.default_rng(0).choice(list("ACGT"), 3000)
    Path("genome.fa").write_text(f">chr20\n{''.join(bases)}\n")
    namespace = {}
    code = blocks(ROOT / "docs" / page, "python")[first:]
    assert code
    for block in code:
        exec(block, namespace)
