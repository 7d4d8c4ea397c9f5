"""Few-shot learning in context: what a context is made of, what a result has seen, tables, resume,
bad input.
"""

import json

import numpy as np
import pytest
import torch
from datasets import DatasetDict
from transformers import TrainingArguments

from hyenadna import HyenaDNAForCausalLM
from hyenadna.errors import InputError
from hyenadna.genomics.labelled import read_labelled_data
from hyenadna.tokenization import HyenaDNATokenizer
from hyenadna.training import cli
from hyenadna.training.experiments.few_shot import (
    ContextRows,
    FewShotArguments,
    draw_samples,
    few_shot,
    few_shot_table,
)
from hyenadna.training.runs.language import NextTokenCollator

from .conftest import random_model
from .helpers.recipes import make_rows

QUICK = {
    "use_cpu": True,
    "disable_tqdm": True,
    "tuning_steps": 2,
    "repeats": 2,
    "samples": [2, 4],
    "shots": [1, 3],
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "lm"
    random_model(max_seq_len=130, d_model=8, n_layer=1).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data():
    return DatasetDict(train=make_rows(30), validation=make_rows(8, seed=2), test=make_rows(12, seed=1))


def make_args(checkpoint, output_dir, **changes) -> FewShotArguments:
    return FewShotArguments(output_dir=str(output_dir), **{**QUICK, "model": str(checkpoint), **changes})


def test_samples_take_turns_in_class():
    labels = np.array([0] * 20 + [1] * 3 + [2] * 7)
    for n in (3, 9, 15, 30):
        drawn = draw_samples(labels, n, np.random.default_rng(n))
        assert len(set(drawn.tolist())) == n
        counts = np.bincount(labels[drawn], minlength=3)
        assert counts[1] == min(3, n // 3) and counts.sum() == n
    first = draw_samples(labels, 9, np.random.default_rng(0)).tolist()
    assert first == draw_samples(labels, 9, np.random.default_rng(0)).tolist()
    assert first != draw_samples(labels, 9, np.random.default_rng(1)).tolist()
    for n in (2, 31):
        with pytest.raises(InputError, match=rf"{n} samples of 30 rows and 3 classes"):
            draw_samples(labels, n, np.random.default_rng(0))


def test_contexts_hold_other_samples_and_nothing_else(data):
    parts = read_labelled_data(data).parts
    samples = parts["train"].select(range(6))
    known = dict(zip(samples["sequence"][:], samples["label"][:], strict=True))
    tuning = ContextRows(samples, samples, 4, seed=0, queries=60)
    assert len(tuning) == 60
    queries, contexts = [], set()
    for i in range(60):
        row = tuning[i]
        examples = [sequence for sequence, _ in row["examples"]]
        assert len(set(examples)) == 4 and row["sequence"] not in examples
        assert all(
            known[sequence] == label
            for sequence, label in [*row["examples"], (row["sequence"], row["label"])]
        )
        assert sorted(label for _, label in row["examples"]).count(0) == 2  # two classes take turns
        queries.append(row["sequence"])
        contexts.add(tuple(examples))
    for turn in range(10):  # each sample is asked for equally often
        assert sorted(queries[6 * turn : 6 * turn + 6]) == sorted(known)
    assert len(contexts) > 40 and tuning[7] == tuning[7]
    tested = ContextRows(parts["test"], samples, 4, seed=0)
    assert len(tested) == 12
    for i in range(12):
        row = tested[i]
        assert row["sequence"] == parts["test"]["sequence"][i] and row["label"] == parts["test"]["label"][i]
        assert {sequence for sequence, _ in row["examples"]} <= set(known)


def test_the_form_of_a_context():
    collate = NextTokenCollator(HyenaDNATokenizer(add_eos_token=False), "AN")
    rows = [
        {"examples": [("AC", 0), ("GGG", 1)], "sequence": "T", "label": 1},
        {"examples": [("A", 1)], "sequence": "CC", "label": 0},
    ]
    batch = collate(rows)
    expected = [7, 8, 1, 7, 1, 9, 9, 9, 1, 11, 1, 10, 1, 11]
    assert batch["input_ids"][0].tolist() == expected
    assert batch["input_ids"][1].tolist() == [4] * 6 + [7, 1, 11, 1, 8, 8, 1, 7]
    assert batch["attention_mask"][1].tolist() == [0] * 6 + [1] * 8
    assert batch["labels"].tolist() == [[-100] * 13 + [11], [-100] * 13 + [7]]


def test_results_tables_and_resume(checkpoint, data, tmp_path, monkeypatch, capsys):
    args = make_args(checkpoint, tmp_path / "run")
    results = few_shot(args, data)
    done = [(r["samples"], r["shots"], r["repeat"]) for r in results["results"]]
    # 3 shots need 4 samples
    assert done == [(2, 1, 0), (2, 1, 1), (4, 1, 0), (4, 1, 1), (4, 3, 0), (4, 3, 1)]
    assert results["evaluated_on"] == "test" and results["majority_accuracy"] == 0.5
    assert all(0 <= r["accuracy"] <= 1 and np.isfinite(r["loss"]) for r in results["results"])
    stored = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert stored == json.loads(json.dumps(results))
    table = few_shot_table(results)
    assert (tmp_path / "run" / "few_shot.md").read_text().strip() == table
    values = [r["accuracy"] for r in results["results"][2:4]]
    assert f"| 4 | {np.mean(values):.3f} ± {np.std(values):.3f} |" in table and "| 2 |" in table
    assert (tmp_path / "run" / "few_shot.png").read_bytes().startswith(b"\x89PNG")

    # as if it had been killed after three: the others come out the same
    stored["results"] = stored["results"][:3]
    (tmp_path / "run" / "metrics.json").write_text(json.dumps(stored))
    with pytest.raises(InputError, match="--resume"):
        few_shot(make_args(checkpoint, tmp_path / "run"), data)
    with pytest.raises(InputError, match="its tuning_steps is 2, now it is 3"):
        few_shot(make_args(checkpoint, tmp_path / "run", resume=True, tuning_steps=3), data)
    capsys.readouterr()
    again = few_shot(make_args(checkpoint, tmp_path / "run", resume=True), data)
    assert "4 of 6: " in capsys.readouterr().out

    def without_times(results):
        return [
            {name: value for name, value in r.items() if name != "tuning_seconds"} for r in results["results"]
        ]

    assert without_times(again) == without_times(results)


def test_only_the_first_process_writes(checkpoint, data, tmp_path, monkeypatch):
    settings = {"samples": [4], "shots": [1], "repeats": 1, "output_dir": tmp_path / "run"}
    monkeypatch.setattr(TrainingArguments, "process_index", 1)
    other = few_shot(make_args(checkpoint, **settings), data)
    assert not (tmp_path / "run" / "metrics.json").exists() and not list(tmp_path.glob("run/few_shot*"))
    monkeypatch.undo()
    first = few_shot(make_args(checkpoint, **settings), data)
    assert [r["accuracy"] for r in other["results"]] == [r["accuracy"] for r in first["results"]]


def test_without_tuning_the_checkpoint_speaks(checkpoint, data, tmp_path):
    settings = {"tuning_steps": 0, "samples": [4], "shots": [2], "repeats": 1}
    results = few_shot(make_args(checkpoint, tmp_path / "run", **settings), data)["results"]
    model = HyenaDNAForCausalLM.from_pretrained(checkpoint)
    parts = read_labelled_data(data).parts
    drawn = draw_samples(np.array(parts["train"]["label"][:]), 4, np.random.default_rng((42, 4)))
    rows = ContextRows(parts["test"], parts["train"].select(drawn), 2, 42)
    collate = NextTokenCollator(HyenaDNATokenizer(add_eos_token=False), "AN")
    right = []
    for i in range(12):
        ids = collate([rows[i]])["input_ids"][:, :-1]
        with torch.no_grad():
            right.append(model(ids).logits[0, -1, [7, 11]].argmax().item() == rows[i]["label"])
    assert results[0]["accuracy"] == pytest.approx(np.mean(right))


def test_tuning_changes_the_answer(checkpoint, data, tmp_path):
    """The last labels of 4 samples, asked often enough, become likely; each result starts from the
    checkpoint.
    """
    settings = {"samples": [4], "shots": [1], "repeats": 1, "learning_rate": 0.01}
    losses = [
        few_shot(make_args(checkpoint, tmp_path / str(steps), tuning_steps=steps, **settings), data)[
            "results"
        ][0]["loss"]
        for steps in (0, 30)
    ]
    assert losses[1] < losses[0] - 0.5


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"shots": [0, 1]}, r"shots is \[0, 1\]; each must be at least 1"),
        ({"shots": []}, "each must be at least 1"),
        ({"samples": [0]}, r"samples is \[0\]"),
        ({"shots": [4], "samples": [4, 8]}, "4 shots with 4 samples"),
        ({"repeats": 0}, "repeats is 0"),
        ({"tuning_steps": -1}, "tuning_steps is -1"),
        ({"model": None}, "needs a checkpoint"),
        ({"samples": [31]}, "31 samples of 30 rows"),
        (
            {"shots": [5], "samples": [8]},
            r"5 shots of up to \d+ bases make a context of 1\d+ tokens.*at most 3 shots",
        ),
        ({"label_letters": "AA"}, "do not fit the 2 classes"),
        ({"max_steps": 9, "num_train_epochs": 3}, "few-shot does not use num_train_epochs, max_steps"),
    ],
)
def test_bad_settings(checkpoint, data, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        few_shot(make_args(checkpoint, **{"output_dir": tmp_path / "run", **changes}), data)
    assert not (tmp_path / "run").exists()


def test_regression_and_the_command_line(checkpoint, data, tmp_path, capsys):
    rows = data["train"].remove_columns("label").add_column("label", [float(i) for i in range(30)])
    with pytest.raises(InputError, match="few-shot is for single labels"):
        few_shot(make_args(checkpoint, tmp_path / "run", problem_type="regression"), rows)
    data["train"].to_csv(tmp_path / "rows.csv")
    flags = [f"--data={tmp_path / 'rows.csv'}", f"--model={checkpoint}", f"--output_dir={tmp_path / 'run'}"]
    assert cli.main(["few-shot", *flags, "--shots", "0"]) == 1
    assert "hyenadna few-shot: error: shots is [0]" in capsys.readouterr().err
