"""Settings: composed of groups, read from flags and YAML, and which of them decide a result."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass, fields

import pytest
from transformers import HfArgumentParser, TrainingArguments

from hyenadna.errors import InputError
from hyenadna.training.experiments.adapter_study import StudyArguments
from hyenadna.training.experiments.benchmark import BenchmarkArguments
from hyenadna.training.experiments.chromatin import ChromatinArguments
from hyenadna.training.experiments.few_shot import FewShotArguments
from hyenadna.training.experiments.species import SpeciesArguments
from hyenadna.training.finetune import FinetuneArguments
from hyenadna.training.pretrain import PretrainArguments
from hyenadna.training.runs.settings import (
    names_of,
    parse_settings,
    result_settings,
    setting,
    settings_not_compared,
)
from hyenadna.training.runs.trainer import RecipeArguments
from hyenadna.training.soft_prompt import SoftPromptArguments

RECIPES = {
    "finetune": FinetuneArguments,
    "pretrain": PretrainArguments,
    "soft-prompt": SoftPromptArguments,
    "few-shot": FewShotArguments,
    "adapter-study": StudyArguments,
    "benchmark": BenchmarkArguments,
    "chromatin": ChromatinArguments,
    "species": SpeciesArguments,
}
# Nothing of these may decide a result: where it is written, how often it is looked at, on which
# machine it runs.
ELSEWHERE = {
    "output_dir",
    "resume",
    "use_cpu",
    "disable_tqdm",
    "report_to",
    "logging_steps",
    "per_device_eval_batch_size",
}


@pytest.mark.parametrize(
    "recipe, flags",
    [
        ("few-shot", ["--lora_rank", "2"]),
        ("few-shot", ["--truncation", "True", "--reverse_complement", "0.5"]),
        ("few-shot", ["--freeze_backbone", "True", "--pooling", "last"]),
        ("soft-prompt", ["--lora_rank", "4"]),
        ("soft-prompt", ["--form", "next_token", "--n_layer", "3"]),
        ("adapter-study", ["--freeze_backbone", "True"]),
        ("species", ["--test_data", "x"]),
        ("chromatin", ["--folds", "3", "--fold", "0"]),
        ("pretrain", ["--pooling", "last"]),
    ],
)
def test_settings_of_other_recipes_are_refused(recipe, flags):
    with pytest.raises(
        InputError, match=f"unknown settings: .*{recipe} does not use them: leave them out"
    ) as refused:
        parse_settings(RECIPES[recipe], recipe, "", ["--use_cpu", "--model", "m", *flags])
    name = flags[0] if flags[0] != "--form" else flags[2]
    assert name in str(refused.value)


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_decides_the_result_is_written_and_nothing_else(recipe):
    args = parse_settings(RECIPES[recipe], recipe, "", ["--use_cpu", "--model", "m"])
    settings = result_settings(args)
    assert json.loads(json.dumps(settings)) == settings
    assert {"learning_rate", "seed", "optim", "model", "max_steps", "num_train_epochs"} <= set(settings)
    assert not ELSEWHERE & set(settings)
    own = set(names_of(type(args))) - set(names_of(TrainingArguments)) - {"resume"}
    assert own <= set(settings)  # a setting of ours that decides nothing has no place in a recipe
    assert "data" in settings_not_compared(args) and "seed" not in settings_not_compared(args)


def test_a_class_of_ours_can_be_parsed_by_plain_transformers():
    @dataclass
    class Mine:
        shots: list[int] = setting([1, 2], "How many.")

    args, mine = HfArgumentParser((RecipeArguments, Mine)).parse_args_into_dataclasses(
        ["--use_cpu", "--shots", "3"]
    )
    assert args.learning_rate == 6e-4 and mine.shots == [3]
    assert Mine().shots is not Mine().shots


def test_every_setting_has_a_help_text():
    for cls in RECIPES.values():
        for f in fields(cls):
            if f.name not in names_of(TrainingArguments):
                assert f.metadata["help"].strip()[-1] in ".)", (cls, f.name)


def test_everything_imports_where_there_are_no_posix_locks():
    """As on Windows. A folder is then used without a lock, with a warning."""
    code = """
import sys
sys.modules["fcntl"] = None
import pathlib, tempfile, types, warnings
from hyenadna.training import pretrain, finetune, demo
from hyenadna.training.experiments import report
from hyenadna.training.runs.folder import one_writer
output = pathlib.Path(tempfile.mkdtemp(), "run")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    args = types.SimpleNamespace(output_dir=output, process_index=0)
    one_writer(lambda args: (output / "made").touch())(args)
assert any("do not start two runs in" in str(warning.message) for warning in caught), caught
print([path.name for path in output.iterdir()])
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    assert child.stdout.splitlines()[-1] == "['made']"


def bomb(depth: int) -> str:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    for i in range(1, depth):
        lines.append(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text, message",
    [
        (bomb(9), r"it has an alias \(\*a0\); write the value again"),
        ("a: &a [*a]", r"it has an alias"),
        ("seed: " + "[" * 3000 + "]" * 3000, "it is nested more than 10 deep"),
        ("\n".join(f"key{i}: 1" for i in range(6000)), "it has more than 5,000 keys and values"),
        ("model: " + "x" * 10_000_000, "it is larger than 100,000 bytes"),
        ("model: \x00", "cannot be read"),
        ("a: [1", "cannot be read"),
        ("- 1", "expected lines such as"),
        ("just text", "expected lines such as"),
    ],
    ids=["bomb", "itself", "deep", "keys", "large", "zero", "broken", "list", "text"],
)
def test_yaml_that_no_settings_need_is_refused_at_once(text, message, tmp_path):
    """It took minutes, all memory, or ended in a RecursionError (C6)."""
    (tmp_path / "s.yaml").write_text(text)
    start = time.monotonic()
    with pytest.raises(InputError, match=rf"s\.yaml.*{message}"):
        parse_settings(FinetuneArguments, "finetune", "", [str(tmp_path / "s.yaml")])
    assert time.monotonic() - start < 30
