"""The commands behind docs/experiments.md are valid, and the shipped recipes are those that the
docs name.
"""

import os
import re
import shlex
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from hyenadna.analysis.embedding import EmbedArguments
from hyenadna.errors import InputError
from hyenadna.training.experiments.benchmark import BenchmarkArguments
from hyenadna.training.experiments.chromatin import ChromatinArguments
from hyenadna.training.experiments.species import SpeciesArguments
from hyenadna.training.runs.settings import parse_settings

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "training" / "experiments" / "recipes"
CLASSES = {
    "benchmark": BenchmarkArguments,
    "chromatin": ChromatinArguments,
    "species": SpeciesArguments,
    "embed": EmbedArguments,
}


def test_the_script_of_the_docs(tmp_path):
    environment = {**os.environ, "HYENADNA": "echo", "CHECKPOINT": "checkpoint", "OUT": str(tmp_path)}
    script = subprocess.run(
        ["bash", str(ROOT / "docs" / "experiments.sh")],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    commands = [shlex.split(line) for line in script.stdout.splitlines()]
    assert len(commands) == 16 and commands[-1][0] == "report"
    folders = set()
    for name, *flags in commands[:-1]:
        args = parse_settings(CLASSES[name], name, "", [*flags, "--use_cpu"])
        folders.add(Path(args.output_dir).name)
        assert args.resume
    assert len(folders) == 11


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.name)
def test_recipes_name_known_settings_and_the_docs_name_the_recipes(path):
    name = re.search(rf"hyenadna (\w+) {re.escape(path.name)}", path.read_text())[1]
    assert f"hyenadna {name} {path.name}" in (ROOT / "docs" / "experiments.md").read_text()
    content = yaml.safe_load(path.read_text())
    assert set(content) <= {f.name for f in fields(CLASSES[name])} and content
    needed = ["--model", "m", "--data", "d"] if name == "embed" else ["--use_cpu"]
    args = parse_settings(CLASSES[name], name, "", [path.name, *needed])
    for key, value in content.items():
        if (key, value) == ("model", "none"):  # from scratch
            value = None
        # YAML reads 6e-4 as text
        expected = float(value) if isinstance(getattr(args, key), float) else value
        assert getattr(args, key) == expected


def test_a_checkpoint_named_by_a_flag_brings_its_own_shape(tmp_path):
    for model in (["--model", "m"], ["--model=m"]):
        args = parse_settings(
            ChromatinArguments, "chromatin", "", ["chromatin_profile.yaml", *model, "--use_cpu"]
        )
        assert args.model == "m" and (args.d_model, args.n_layer, args.max_seq_len) == (None, None, None)
        assert args.num_train_epochs == 50
    args = parse_settings(
        ChromatinArguments, "", "", ["chromatin_profile.yaml", "--model", "m", "--d_model", "8", "--use_cpu"]
    )
    assert args.d_model == 8  # a flag is meant, and refused where the checkpoint is loaded


def test_a_file_of_the_user_comes_before_a_shipped_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("species.yaml").write_text("window: 77\n")
    assert parse_settings(SpeciesArguments, "species", "", ["species.yaml", "--use_cpu"]).window == 77
    with pytest.raises(InputError, match=r"other\.yaml cannot be read"):
        parse_settings(SpeciesArguments, "species", "", ["other.yaml"])
