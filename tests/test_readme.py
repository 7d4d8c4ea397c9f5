"""What the README says is run: its Python, its command lines as far as they parse, and its tree."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from hyenadna.training import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
ROOMS = (
    "modeling_hyenadna",
    "tokenization",
    "genomics",
    "training",
    "training/runs",
    "training/experiments",
    "analysis",
    "hub_upload",
)
SPLICE = "splice_junctions.csv, splice_junctions.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_snippets_run_one_after_another(golden, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(golden, "checkpoint")  # a published checkpoint, as far as the code can tell
    namespace = {}
    for block in blocks("python"):
        exec(block.replace("LongSafari/hyenadna-tiny-1k-seqlen-hf", "checkpoint"), namespace)
    assert namespace["per_sequence"].shape == (2, 32) and namespace["loss"].isfinite()
    printed = capsys.readouterr().out
    assert "ACGTTGCA" in printed and "LABEL_" in printed


def test_the_two_commands_are_there_as_they_stand():
    bash = "".join(blocks("bash"))
    assert 'pip install -c constraints-tested.txt ".[train]" && hyenadna demo\n' in bash
    assert 'pip install -c constraints-tested.txt ".[test]" && python -m pytest\n' in bash


def commands() -> list[list[str]]:
    lines = [line.split("#")[0] for line in "".join(blocks("bash")).splitlines()]
    return [shlex.split(line) for line in lines if line.startswith("hyenadna ")]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_command_lines_parse(command, capsys):
    """`--help-all` in place of running: every flag that the README names has to be in the command's
    own help.
    """
    name, flags = command[1], [word for word in command[2:] if word.startswith("--")]
    assert name in cli.COMMANDS
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help-all"])
    assert stop.value.code in (0, None)
    text = capsys.readouterr().out
    for flag in flags:
        assert flag in text, flag


def test_the_tree_names_every_file_and_no_other():
    tree = README[README.index("## The tree") : README.index("## Licence")]
    named = set(re.findall(r"[\w.]+\.(?:py|csv|md)", tree.replace("splice_junctions.csv, .md", SPLICE)))
    here = {
        p.name
        for room in ROOMS
        for p in (ROOT / room).iterdir()
        if p.suffix in (".py", ".csv", ".md", ".yaml")
    }
    assert named - {"reference.py"} == here
