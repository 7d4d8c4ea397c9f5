"""The study of adapters: every way once, counted and timed, with a table and a picture."""

import json

import pytest
from datasets import DatasetDict
from transformers import TrainingArguments

from hyenadna.errors import InputError
from hyenadna.training import cli
from hyenadna.training.experiments import adapter_study as study
from hyenadna.training.experiments.adapter_study import (
    StudyArguments,
    adapter_study,
    planned_runs,
    study_table,
)
from hyenadna.training.runs.models import RunResult

from .conftest import random_model
from .helpers.recipes import QUICK, make_rows

D, TINY = 8, {"d_model": 8, "n_layer": 1, "max_seq_len": 64}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "lm"
    random_model(**TINY).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for part, n in (("train", 32), ("dev", 12), ("test", 12)):
        make_rows(n, seed=n).to_csv(folder / f"{part}.csv", index=False)
    return folder


def make_args(checkpoint, data, output_dir, **changes) -> StudyArguments:
    settings = {
        **QUICK,
        "pooling": "last",
        "prompt_lengths": [2, 5],
        "lora_ranks": [2],
        "seeds": [0],
        **changes,
    }
    settings = {"label_letters": "CG", **settings}
    return StudyArguments(model=str(checkpoint), data=str(data), output_dir=str(output_dir), **settings)


def test_a_study_and_going_on_with_it(checkpoint, data, tmp_path, capsys):
    rows = adapter_study(make_args(checkpoint, data, tmp_path / "study"))
    head, base = 2 * D, sum(p.numel() for p in random_model(**TINY).hyena.parameters())
    matrices = 2 * ((D + 3 * D) + (D + D) + 2 * (D + 4 * D))
    expected = [
        ("linear probe", head),
        ("prompt + head", 2 * D + head),
        ("prompt + head", 5 * D + head),
        ("prompt, next token", 2 * D),
        ("prompt, next token", 5 * D),
        ("LoRA + head", matrices + head),
        ("full fine-tuning", base + head),
    ]
    assert [(row["method"], row["trained_parameters"]) for row in rows] == expected
    for row, folder in zip(
        rows, (run["name"] for run in planned_runs(make_args(checkpoint, data, "x"))), strict=True
    ):
        metrics = json.loads((tmp_path / "study" / f"{folder}-seed0" / "metrics.json").read_text())
        assert row["accuracy"] == metrics["metrics"]["test"]["accuracy"] and row["accuracy_sd"] == 0
        assert row["train_seconds"] == metrics["train_seconds"] and row["resumed"] is False
        assert metrics["settings"]["pooling"] == (None if "next" in folder else "last")
        assert metrics["settings"].get("label_letters") == ("CG" if "next" in folder else None)
    table = (tmp_path / "study" / "adapter_study.md").read_text().strip()
    assert table == study_table(rows, 0.5) and f"| prompt + head | 5 | {5 * D + head:,} (" in table
    assert (tmp_path / "study" / "adapter_study.png").read_bytes().startswith(b"\x89PNG")

    with pytest.raises(InputError, match="--resume"):
        adapter_study(make_args(checkpoint, data, tmp_path / "study"))
    capsys.readouterr()
    more = adapter_study(
        make_args(
            checkpoint, data, tmp_path / "study", resume=True, forms=["classifier"], prompt_lengths=[2, 3]
        )
    )
    assert capsys.readouterr().out.count("nothing to do") == 4  # only the new length is trained
    assert [row["tokens"] for row in more if row["tokens"]] == [2, 3] and more[1] == rows[1]
    with pytest.raises(InputError, match=r"its learning_rate is 0\.01, now it is 0\.1"):
        adapter_study(make_args(checkpoint, data, tmp_path / "study", resume=True, probe_learning_rate=0.1))


def test_seeds_are_averaged_and_the_built_in_data_is_the_default(checkpoint, tmp_path, monkeypatch):
    few = DatasetDict(train=make_rows(24), test=make_rows(10, seed=1))
    monkeypatch.setattr(study, "load_splice_junctions", lambda: few)
    # to the last token
    fits = 64 - max(len(sequence) for part in few.values() for sequence in part["sequence"])
    settings = {"prompt_lengths": [fits], "lora_ranks": [], "forms": ["classifier"], "seeds": [0, 1]}
    args = make_args(checkpoint, "", tmp_path / "study", **settings)
    args.data = None
    rows = adapter_study(args)
    assert [row["method"] for row in rows] == ["linear probe", "prompt + head", "full fine-tuning"]
    for row, name in zip(rows, ("probe", f"classifier-{fits}", "full"), strict=True):
        runs = [
            json.loads((tmp_path / "study" / f"{name}-seed{s}" / "metrics.json").read_text()) for s in (0, 1)
        ]
        one, two = (run["metrics"]["test"]["accuracy"] for run in runs)
        assert row["accuracy"] == pytest.approx((one + two) / 2)
        assert row["accuracy_sd"] == pytest.approx(abs(one - two) / 2)
        assert [run["settings"]["seed"] for run in runs] == [0, 1]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"prompt_lengths": [0]}, r"prompt_lengths is \[0\]"),
        ({"label_letters": "ACG"}, "'ACG' do not fit the 2 classes"),
        ({"lora_ranks": [4, -1]}, r"lora_ranks is \[4, -1\]"),
        ({"forms": ["prefix"]}, "forms is"),
        ({"seeds": []}, "seeds at least one"),
        ({"class_weights": True}, "or say --forms classifier"),
        ({"seed": 3}, "a study does not use seed: leave it out .*instead of seed, use seeds"),
        (
            {"weight_decay": 0.3, "label_smoothing_factor": 0.1},
            "does not use weight_decay, label_smoothing_factor",
        ),
        ({"logging_strategy": "steps", "optim": "sgd"}, "a study does not use optim, logging_strategy"),
    ],
)
def test_bad_settings(checkpoint, data, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        adapter_study(make_args(checkpoint, data, tmp_path / "study", **changes))
    assert not (tmp_path / "study").exists()


def test_what_would_stop_a_run_in_the_middle_is_said_before_the_first(checkpoint, data, tmp_path):
    with pytest.raises(
        InputError, match=r"row \d+ of the train rows has [678]\d tokens, but max_seq_len of the model is 64"
    ):
        adapter_study(make_args(checkpoint, data, tmp_path / "study", prompt_lengths=[2, 50]))
    with pytest.raises(InputError, match="num_virtual_tokens is 63, which leaves no room"):
        adapter_study(
            make_args(checkpoint, data, tmp_path / "study", prompt_lengths=[2, 63], truncation=True)
        )
    six = make_rows(36).remove_columns("label").add_column("label", [f"class {i % 6}" for i in range(36)])
    six.to_csv(tmp_path / "six.csv", index=False)
    with pytest.raises(InputError, match="6 classes"):
        adapter_study(make_args(checkpoint, tmp_path / "six.csv", tmp_path / "study", label_letters=None))
    assert not (tmp_path / "study").exists()


def test_only_the_first_process_writes(checkpoint, data, tmp_path, monkeypatch):
    """In the others, a recipe returns its metrics alone."""
    other = RunResult({"metrics": {"test": {"accuracy": 0.5}}}, None, None)
    ran = []
    for recipe in ("finetune", "soft_prompt"):
        monkeypatch.setattr(study, recipe, lambda args, data: ran.append(args.output_dir) or other)
    monkeypatch.setattr(TrainingArguments, "process_index", 1)
    args = make_args(checkpoint, data, tmp_path / "study")
    assert adapter_study(args) == [] and len(ran) == len(planned_runs(args))
    assert not (tmp_path / "study").exists()


def test_a_resumed_run_is_marked():
    row = {"method": "LoRA + head", "tokens": None, "rank": 4, "trained_parameters": 10, "parameters": 100}
    row |= {"accuracy": 0.5, "accuracy_sd": 0.0, "mcc": 0.0, "train_seconds": 12.3}
    table = study_table([{**row, "resumed": False}, {**row, "resumed": True}], 0.5)
    assert (
        "| 12 |" in table
        and "| 12* |" in table
        and table.endswith("* without the time before an interruption")
    )
    assert "interruption" not in study_table([{**row, "resumed": False}], 0.5)


def test_command_line(tmp_path, capsys):
    assert cli.main(["adapter-study", f"--output_dir={tmp_path / 'study'}"]) == 1
    assert "hyenadna adapter-study: error: a study needs a checkpoint" in capsys.readouterr().err
