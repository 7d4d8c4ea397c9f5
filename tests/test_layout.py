"""The rules of the house that a machine can check: which room may import which, and what the wheel
has to hold.
"""

import ast
import importlib
import importlib.util
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from transformers.dynamic_module_utils import get_relative_import_files

import hyenadna
from hyenadna import errors
from hyenadna.training import adapters, cli, trainer

ROOT = Path(__file__).parent.parent
PACKAGES = {  # room -> its import name
    "modeling_hyenadna": "hyenadna",
    "tokenization": "hyenadna.tokenization",
    "genomics": "hyenadna.genomics",
    "training": "hyenadna.training",
    "training/runs": "hyenadna.training.runs",
    "training/experiments": "hyenadna.training.experiments",
    "analysis": "hyenadna.analysis",
    "hub_upload": "hyenadna.hub_upload",
}
FOLDERS = [room for room in PACKAGES if "/" not in room]
MODEL = {"base", "modeling_hyenadna", "tokenization"}
# What each room may import of ours. Nobody may import `experiments` or `analysis`: the command line
# does so by name.
ALLOWED = {
    "modeling_hyenadna": set(),
    "tokenization": set(),
    "genomics": {"base", "tokenization"},
    "training/runs": {*MODEL, "genomics"},
    "training": {*MODEL, "genomics", "training/runs"},
    "training/experiments": {*MODEL, "genomics", "training/runs", "training"},
    "analysis": {*MODEL, "genomics", "training/runs"},
    "hub_upload": MODEL,
}
EXCEPTIONS = {
    # `hyenadna.HyenaDNATokenizer`, and its registration
    ("modeling_hyenadna/auto_classes.py", "tokenization"),
    ("training/demo.py", "hub_upload"),  # the demo ends with an exported folder
}
# all else in modeling_hyenadna travels to the Hub
STAY = {"__init__.py", "__main__.py", "auto_classes.py", "errors.py", "flags.py", "lazy.py"}
# Files on top of `training` and `analysis` that are neither a command nor the command line: public
# functions.
PUBLIC = {
    "training/trainer.py",  # documented import path
    "training/adapters.py",  # documented import path
    "analysis/classifier.py",  # public functions, as are those below
    "analysis/likelihoods.py",
    "analysis/models.py",
    "analysis/mutations.py",
    "analysis/pictures.py",
    "analysis/sequences.py",
}
SOURCES = sorted(p for room in FOLDERS for p in (ROOT / room).rglob("*.py"))


def room_of(module: str) -> str:
    """The room of a module, or of a name in one."""
    if f"{module}.".startswith(("hyenadna.errors.", "hyenadna.lazy.")):
        return "base"
    inside = [room for room, package in PACKAGES.items() if f"{module}.".startswith(f"{package}.")]
    return max(inside, key=lambda room: len(PACKAGES[room]))


def only_when_run(tree: ast.Module) -> set[ast.AST]:
    """The nodes below `if __name__ == "__main__"`."""
    blocks = [
        n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "__name__ == '__main__'"
    ]
    return {node for block in blocks for node in ast.walk(block)}


def imported(node: ast.AST) -> list[str]:
    """What an import names by its full name: modules, and names in them that may be modules."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and not node.level:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_arrows(path):
    relative = path.relative_to(ROOT).as_posix()
    room = relative.rpartition("/")[0]
    tree = ast.parse(path.read_text())
    when_run = only_when_run(tree)
    for node in ast.walk(tree):
        line = f"{relative}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1, f"{line}: `from ..` reaches into another room"
            assert node.module, f"{line}: `from . import x` does not travel to the Hub"
            assert (path.parent / f"{node.module}.py").exists(), f"{line}: name another room by its full name"
            travels = room == "modeling_hyenadna" and path.name not in STAY
            assert not (travels and f"{node.module}.py" in STAY), (
                f"{line}: {node.module} does not travel to the Hub"
            )
            continue
        for name in imported(node):
            if name.split(".")[0] != "hyenadna":
                continue
            # The Hub's copier would make the user install this package for it.
            assert room != "modeling_hyenadna" or path.name in STAY, f"{line}: this file travels to the Hub"
            if node in when_run and room_of(name) == "training" and name.split(".")[2:3] in ([], ["cli"]):
                continue  # `python -m` of a command goes through the command line
            other = room_of(name)
            ok = other == room or other in ALLOWED[room] or (relative, other) in EXCEPTIONS
            assert ok, f"{line}: {room} must not import {name} of {other}"


def test_what_travels_to_the_hub():
    model = ROOT / "modeling_hyenadna" / "modeling_hyenadna.py"
    travelling = {Path(file).name for file in get_relative_import_files(model)} | {model.name}
    assert travelling == {path.name for path in model.parent.glob("*.py")} - STAY


def test_the_top_of_a_room_holds_commands():
    modules = {cli.module_of(name) for name in cli.COMMANDS}
    for room in ("training", "analysis"):
        for path in (ROOT / room).glob("*.py"):
            relative = path.relative_to(ROOT).as_posix()
            command = f"{PACKAGES[room]}.{path.stem}" in modules
            assert command or path.name in ("__init__.py", "cli.py") or relative in PUBLIC, relative
    for module in modules:
        assert (ROOT / room_of(module) / f"{module.rpartition('.')[2]}.py").exists(), module


@pytest.mark.parametrize("documented", [trainer, adapters])
def test_documented_import_paths(documented):
    for name in documented.__all__:
        real = importlib.import_module(getattr(documented, name).__module__)
        assert real.__name__.startswith("hyenadna.training.runs.")
        assert getattr(documented, name) is getattr(real, name)


@pytest.mark.parametrize("room", ["analysis", "genomics", "hub_upload", "training"])
def test_names_are_imported_on_first_use(room):
    package = importlib.import_module(PACKAGES[room])
    assert set(package.__all__) <= set(dir(package))
    code = f"import sys, {PACKAGES[room]} as room; print(*(m for m in sys.modules if room.__name__ in m))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == [PACKAGES[room]]
    with pytest.raises(AttributeError, match=f"module '{PACKAGES[room]}' has no attribute 'nothing'"):
        package.nothing  # noqa: B018


@pytest.mark.parametrize("package", PACKAGES.values())
def test_public_names_are_listed_and_exist(package):
    module = importlib.import_module(package)
    assert module.__all__ and len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        is_module = importlib.util.find_spec(f"{package}.{name}") is not None
        assert is_module or hasattr(module, name), f"{package} offers {name}, which does not exist"


def test_python_dash_m_runs_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["hyenadna", "score"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("hyenadna", run_name="__main__")
    assert stop.value.code == 2 and "--model" in capsys.readouterr().err


def test_the_errors_have_one_base():
    assert issubclass(errors.HyenaDNAError, ValueError)
    assert issubclass(errors.PushError, errors.CheckpointError)
    for error in (errors.InputError, errors.CheckpointError):
        assert issubclass(error, errors.HyenaDNAError)


def test_every_package_folder_is_in_the_wheel():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {p.parent.relative_to(ROOT).as_posix() for p in SOURCES}
    assert folders == set(config["package-dir"].values())
    assert config["package-dir"] == {package: room for room, package in PACKAGES.items()}
    assert set(config["packages"]) == set(config["package-dir"])
    patterns = {
        f"*{p.suffix}"
        for room in FOLDERS
        for p in (ROOT / room).rglob("*")
        if p.suffix not in (".py", ".pyc", "")
    }
    assert patterns <= {*config["package-data"]["*"], "*.typed"}
    assert {"py.typed", "*.md", "*.yaml", "*.csv"} <= set(config["package-data"]["*"])


def test_what_is_installed_is_what_is_here():
    installed = Path(hyenadna.__file__).parent
    for path in SOURCES:
        room = path.parent.relative_to(ROOT).as_posix()
        copy = installed.joinpath(*PACKAGES[room].split(".")[1:], path.name)
        # an editable installation maps each folder by itself
        if room != "modeling_hyenadna" and not copy.exists():
            continue
        assert copy.read_text() == path.read_text(), f"{copy} is stale: install again"


def pins(leg: str) -> dict[str, str]:
    lines = (ROOT / f"constraints-{leg}.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def requirements(*extras: str) -> dict[str, Requirement]:
    """What `pyproject.toml` asks for, and what its extras do."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + [r for extra in extras for r in project["optional-dependencies"][extra]]
    return {r.name: r for r in map(Requirement, lines) if r.name != "hyenadna"}


def test_the_tested_versions_satisfy_the_bounds():
    tested = pins("tested")
    for name, requirement in requirements("train", "test").items():
        assert requirement.specifier.contains(tested[name]), requirement


def test_the_lower_bounds_are_the_oldest_versions():
    """A bound that no leg of CI runs on would be a guess. The bound of torch was tested by hand
    (docs/versions.md).
    """
    oldest = pins("oldest")
    for name, requirement in requirements("train").items():
        bounds = [Version(s.version) for s in requirement.specifier if s.operator == ">="]
        if name == "torch":
            assert bounds[0] <= Version(oldest[name])
        else:
            assert bounds == [Version(oldest[name])], requirement


def test_everything_that_is_imported_is_declared():
    """By its own name: what comes along with another library may leave with it."""
    known = {"Bio": "biopython", "yaml": "PyYAML", "sklearn": "scikit-learn", "jinja2": "Jinja2"}
    asked_first = {"pybigtools", "umap"}  # looked for before the import, with a message
    declared = set(requirements("train"))
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            for name in imported(node):
                top = name.partition(".")[0]
                if top in sys.stdlib_module_names or top in asked_first | {"hyenadna"}:
                    continue
                assert known.get(top, top) in declared, f"{path.name}:{node.lineno} imports {top}"


def test_no_test_file_imports_another():
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                module = (node.module or "").split(".")[0]
                names = [module] if module else [alias.name for alias in node.names]
                assert not any(name.startswith("test_") for name in names), f"{path.name}:{node.lineno}"


def test_no_paths_of_a_machine():
    for path in [*SOURCES, *(ROOT / "tests").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]:
        text = path.read_text()
        assert not re.search(r"(?<![\w.])/(home|root|work|Users)/", text), path.name
