"""The rules of the house that a machine can check: which room may import which, and what the wheel has to hold."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

import hyenadna

ROOT = Path(__file__).parent.parent
ROOMS = {"modeling_hyenadna": "", "tokenization": "tokenization", "training": "training", "hub_upload": "hub_upload"}
# What each room may import of ours. The command line reaches hub_upload, and everyone may reach the top-level package.
ALLOWED = {
    "modeling_hyenadna": set(),
    "tokenization": set(),
    "training": {"modeling_hyenadna", "tokenization"},
    "hub_upload": {"modeling_hyenadna", "tokenization"},
}
EXCEPTIONS = {
    ("modeling_hyenadna/__init__.py", "tokenization"),
    ("training/cli.py", "hub_upload"),
    ("training/demo.py", "hub_upload"),
}
SOURCES = sorted(p for room in ROOMS for p in (ROOT / room).rglob("*.py"))


def room_of(module: str) -> str:
    part = module.split(".")[1] if "." in module else ""
    return next((room for room, name in ROOMS.items() if name and name == part), "modeling_hyenadna")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_arrows(path):
    relative = path.relative_to(ROOT).as_posix()
    room = relative.split("/")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1, f"{relative}:{node.lineno}: `from ..` reaches into another room"
            assert node.module, f"{relative}:{node.lineno}: `from . import x` does not travel to the Hub"
            continue
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.split(".")[0] == "hyenadna":
                other = room_of(name)
                ok = other == room or other in ALLOWED[room] or (relative, other) in EXCEPTIONS
                assert ok, f"{relative}:{node.lineno}: {room} must not import {other}"
                # The Hub's copier would make the user install this package for it.
                assert room != "modeling_hyenadna" or path.name == "__init__.py", f"{relative}:{node.lineno}"


def test_every_package_folder_is_in_the_wheel():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {p.parent.relative_to(ROOT).as_posix() for p in SOURCES}
    assert folders == set(config["package-dir"].values())
    assert set(config["packages"]) == set(config["package-dir"])
    patterns = {
        f"*{p.suffix}" for room in ROOMS for p in (ROOT / room).rglob("*") if p.suffix not in (".py", ".pyc", "")
    }
    assert patterns <= {*config["package-data"]["*"], "*.typed"}
    assert {"py.typed", "*.md", "*.yaml", "*.csv"} <= set(config["package-data"]["*"])


def test_what_is_installed_is_what_is_here():
    installed = Path(hyenadna.__file__).parent
    for path in SOURCES:
        room, *rest = path.relative_to(ROOT).parts
        copy = installed / ROOMS[room] / Path(*rest)
        if ROOMS[room] and not copy.exists():  # an editable installation maps each folder by itself
            continue
        assert copy.read_text() == path.read_text(), f"{copy} is stale: install again"


def test_constraints_satisfy_the_lower_bounds():
    from packaging.requirements import Requirement

    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [r for extra in project["optional-dependencies"].values() for r in extra]
    for line in wanted:
        requirement = Requirement(line)
        if requirement.name != "hyenadna":
            assert requirement.specifier.contains(pins[requirement.name]), line


def test_no_long_files_and_no_paths_of_a_machine():
    for path in [*SOURCES, *(ROOT / "tests").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]:
        text = path.read_text()
        assert text.count("\n") <= 650, f"{path.name} has {text.count(chr(10))} lines: find a seam"
        assert not re.search(r"(?<![\w.])/(home|root|work|Users)/", text), path.name


def test_as_many_lines_of_test_as_of_library():
    def count(paths):
        return sum(p.read_text().count("\n") for p in paths)

    assert count((ROOT / "tests").glob("*.py")) >= count(SOURCES)
