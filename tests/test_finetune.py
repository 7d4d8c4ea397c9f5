"""The fine-tuning recipe: optimisation, one folder per run, checkpoints in and out, kill and
resume, bad input.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset, DatasetDict
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, log_loss, matthews_corrcoef
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, pipeline

from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM, HyenaDNAForSequenceClassification
from hyenadna.errors import InputError
from hyenadna.genomics.labelled import read_labelled_data
from hyenadna.genomics.letters import reverse_complement
from hyenadna.tokenization import HyenaDNATokenizer
from hyenadna.training import cli
from hyenadna.training.finetune import FinetuneArguments, finetune, main, parse
from hyenadna.training.runs.files import write_json, write_whole
from hyenadna.training.runs.pictures import write_confusion_matrix
from hyenadna.training.runs.supervised import (
    SequenceCollator,
    SetEpoch,
    StrandedRows,
    _write_predictions,
    make_classifier,
    make_weighted_loss,
    predictions_table,
)
from hyenadna.training.runs.trainer import HyenaDNATrainer, RecipeArguments

from .helpers.recipes import QUICK, TINY, make_rows
from .helpers.recipes import finetune_args as make_args


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One finished run, with a test part, that other tests look at and start from."""
    folder = tmp_path_factory.mktemp("run") / "model"
    data = DatasetDict(train=make_rows(60), test=make_rows(21, seed=1))
    args = make_args(folder, num_train_epochs=4, learning_rate=0.01, seed=3)
    return folder, data, finetune(args, data)


# ------------------------------------------------------------------------------------- optimisation


def test_parameter_groups_by_hand(tmp_path):
    model = HyenaDNAForSequenceClassification(HyenaDNAConfig(d_model=8, n_layer=1, classifier_bias=True))
    trainer = HyenaDNATrainer(model=model, args=RecipeArguments(output_dir=str(tmp_path), use_cpu=True))
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = {
        group["weight_decay"]: {names[p] for p in group["params"]}
        for group in trainer.create_optimizer().param_groups
    }
    block = "hyena.backbone.layers.0."
    assert groups[0.1] == {
        "hyena.backbone.embeddings.word_embeddings.weight",
        block + "mixer.in_proj.weight",
        block + "mixer.out_proj.weight",
        block + "mixer.short_filter.weight",
        block + "mlp.fc1.weight",
        block + "mlp.fc2.weight",
        "score.weight",
    }
    assert groups[0.0] == set(names.values()) - groups[0.1]
    assert {block + "mixer.filter_fn.bias", block + "mixer.filter_fn.implicit_filter.1.freq"} < groups[0.0]
    assert {block + "norm1.weight", "hyena.backbone.ln_f.weight", "score.bias"} < groups[0.0]


def test_frozen_parameters_are_in_no_group(run, tmp_path):
    folder, _, _ = run
    args = FinetuneArguments(output_dir=str(tmp_path), model=str(folder), freeze_backbone=True)
    model, _ = make_classifier(args, "single_label_classification", ["AT rich", "GC rich"])
    optimizer = HyenaDNATrainer(model=model, args=args, eval_dataset=[{}]).create_optimizer()
    assert [p for group in optimizer.param_groups for p in group["params"]] == [model.score.weight]


def test_learning_rate_rises_from_1e_6_and_falls_to_a_tenth(tmp_path):
    args = RecipeArguments(output_dir=str(tmp_path), use_cpu=True, learning_rate=1e-3)
    trainer = HyenaDNATrainer(model=torch.nn.Linear(2, 2), args=args)
    trainer.create_optimizer_and_scheduler(num_training_steps=1000)
    rates = []
    for _ in range(1000):
        rates.append(trainer.lr_scheduler.get_last_lr()[0])
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    assert rates[0] == pytest.approx(1e-6)
    assert np.argmax(rates) == 9 and rates[9] == pytest.approx(1e-3)  # warm-up: 1 % of the steps
    assert rates[504] == pytest.approx(5.5e-4, rel=0.01)  # half-way down the cosine
    assert rates[-1] == pytest.approx(1e-4, rel=0.01)
    assert args.max_grad_norm == 1.0 and (args.adam_beta1, args.adam_beta2) == (0.9, 0.999)


def test_weighted_loss_by_hand():
    loss = make_weighted_loss(np.array([0, 0, 0, 1]), 2)  # weights 4 / (2 * 3) and 4 / (2 * 1)

    class Outputs:
        logits = torch.log(torch.tensor([[0.5, 0.5], [0.8, 0.2]]))

    labels = torch.tensor([0, 1])
    expected = -(2 / 3 * np.log(0.5) + 2 * np.log(0.2))
    assert loss(Outputs, labels).item() == pytest.approx(expected / 2)
    assert loss(Outputs, labels, num_items_in_batch=torch.tensor(8)).item() == pytest.approx(expected / 8)


# ------------------------------------------------------------------------------------------ batches


def test_strands_depend_on_seed_epoch_and_row_only():
    rows = make_rows(400)
    plain = StrandedRows(rows)
    assert [plain[i]["sequence"] for i in range(400)] == rows["sequence"][:]
    stranded = StrandedRows(rows, p=0.5, seed=1)
    first = [stranded[i]["sequence"] for i in range(400)]
    flipped = [s != t for s, t in zip(first, rows["sequence"], strict=True)]
    assert 150 < sum(flipped) < 250
    assert all(
        s == (reverse_complement(t) if f else t)
        for s, t, f in zip(first, rows["sequence"], flipped, strict=True)
    )

    class State:
        epoch = 2.0

    SetEpoch(stranded).on_epoch_begin(None, State, None)
    # the order of asking does not matter
    second = [stranded[i]["sequence"] for i in reversed(range(400))][::-1]
    assert second != first
    stranded.epoch.fill_(0)
    assert [stranded[i]["sequence"] for i in range(400)] == first
    assert [StrandedRows(rows, 0.5, 2)[i]["sequence"] for i in range(400)] != first


def test_collator_pads_left_and_types_labels():
    collate = SequenceCollator(HyenaDNATokenizer(add_eos_token=False), "single_label_classification")
    batch = collate([{"sequence": "ACGT", "label": 1}, {"sequence": "gN", "label": 0}])
    assert batch["input_ids"].tolist() == [[7, 8, 9, 10], [4, 4, 9, 11]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [0, 0, 1, 1]]
    assert batch["labels"].tolist() == [1, 0] and batch["labels"].dtype == torch.int64
    several = SequenceCollator(HyenaDNATokenizer(), "multi_label_classification")
    assert several([{"sequence": "A", "label": [1.0, 0.0]}])["labels"].dtype == torch.float32


# --------------------------------------------------------------------------------------- the folder


def test_files_and_metrics(run):
    folder, data, result = run
    for name in (
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "confusion_matrix.png",
        "run_settings.json",
    ):
        assert (folder / name).stat().st_size > 0
    assert not list(folder.glob("**/*unfinished*")) and not (folder / "training_args.bin").exists()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics == json.loads(json.dumps(result.results))
    assert metrics["rows"] == {"train": 54, "validation": 6, "test": 21}
    assert metrics["settings"]["learning_rate"] == 0.01 and metrics["settings"]["seed"] == 3
    assert metrics["versions"]["torch"] == torch.__version__
    predictions = pd.read_csv(folder / "predictions.csv")
    assert predictions["id"].tolist() == data["test"]["id"][:]
    assert predictions["row"].tolist() == list(range(21))
    assert predictions["label"].tolist() == data["test"]["label"][:]
    test = metrics["metrics"]["test"]
    assert test["accuracy"] == pytest.approx(accuracy_score(predictions["label"], predictions["predicted"]))
    assert test["mcc"] == pytest.approx(matthews_corrcoef(predictions["label"], predictions["predicted"]))
    assert test["accuracy"] > 0.8  # it learns
    picture = (folder / "confusion_matrix.png").read_bytes()
    assert picture.startswith(b"\x89PNG")


def test_config_holds_sorted_label_names(run):
    config = AutoModelForSequenceClassification.from_pretrained(run[0]).config
    assert config.id2label == {0: "AT rich", 1: "GC rich"}
    assert config.label2id == {"AT rich": 0, "GC rich": 1}
    assert config.problem_type == "single_label_classification" and config.pooling == "mean"


def check_pipeline(folder: Path, sequences: list[str]) -> None:
    predictions = pd.read_csv(folder / "predictions.csv")
    classify = pipeline("text-classification", str(folder), device="cpu", top_k=None)
    for sequence, expected in zip(sequences, predictions.to_dict("records"), strict=True):
        scores = {item["label"]: item["score"] for item in classify([sequence])[0]}
        assert max(scores, key=scores.get) == expected["predicted"]
        for label, score in scores.items():
            assert score == pytest.approx(expected[f"probability_{label}"], abs=1e-5)


def test_pipeline_on_the_folder_gives_the_predictions_file(run):
    folder, data, _ = run
    assert AutoTokenizer.from_pretrained(folder)("ACGT")["input_ids"] == [7, 8, 9, 10]
    check_pipeline(folder, data["test"]["sequence"][:])


def test_pipeline_agrees_with_special_tokens_too(tmp_path):
    data = DatasetDict(train=make_rows(), test=make_rows(5, seed=1))
    finetune(make_args(tmp_path / "run", add_special_tokens=True, pooling="last", learning_rate=0.01), data)
    assert AutoTokenizer.from_pretrained(tmp_path / "run")("ACGT")["input_ids"] == [7, 8, 9, 10, 1]
    check_pipeline(tmp_path / "run", data["test"]["sequence"][:])


def test_validation_part_is_predicted_where_there_is_no_test_part(tmp_path):
    data = make_rows(40, classes=("AT rich", "C rich", "GC rich"))
    result = finetune(make_args(tmp_path / "run", class_weights=True, reverse_complement=0.5), data)
    assert result.results["predictions_of"] == "validation" and list(result.results["metrics"]) == [
        "validation"
    ]
    predictions = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert len(predictions) == result.results["rows"]["validation"]
    for line in predictions.to_dict("records"):  # `row` leads back to the source
        assert data[line["row"]]["label"] == line["label"] and data[line["row"]]["id"] == line["id"]


def test_multi_label_and_regression(tmp_path):
    rows = make_rows(40)
    share = [sum(s.count(base) for base in "GC") / len(s) for s in rows["sequence"]]
    several = Dataset.from_dict(
        {
            "sequence": rows["sequence"][:],
            "GC": [int(x > 0.5) for x in share],
            "A": [int("AA" in s) for s in rows["sequence"]],
        }
    )
    result = finetune(make_args(tmp_path / "several", label_column=["GC", "A"]), several)
    assert set(result.results["metrics"]["validation"]) == {"loss", "accuracy", "f1_macro", "mcc", "auroc"}
    predictions = pd.read_csv(tmp_path / "several" / "predictions.csv")
    assert {"label_GC", "predicted_GC", "probability_GC", "label_A"} < set(predictions)
    assert ((predictions["probability_A"] >= 0.5) == predictions["predicted_A"]).all()

    numbers = Dataset.from_dict({"sequence": rows["sequence"][:], "label": share})
    result = finetune(make_args(tmp_path / "numbers", problem_type="regression"), numbers)
    predictions = pd.read_csv(tmp_path / "numbers" / "predictions.csv")
    error = np.mean((predictions["label"] - predictions["predicted"]) ** 2)
    assert result.results["metrics"]["validation"]["mse"] == pytest.approx(error, rel=1e-4)
    answer = pipeline("text-classification", str(tmp_path / "numbers"), device="cpu")(
        numbers[int(predictions["row"][0])]["sequence"]
    )
    assert answer[0]["score"] == pytest.approx(predictions["predicted"][0], abs=1e-5)


def test_best_checkpoint_is_what_is_saved_and_reported(run):
    folder, _, result = run
    state = json.loads((folder / "trainer_state.json").read_text())
    scores = {entry["step"]: entry["eval_mcc"] for entry in state["log_history"] if "eval_mcc" in entry}
    assert len(scores) == 4  # once an epoch
    best = next(step for step, score in scores.items() if score == max(scores.values()))
    assert result.results["best_checkpoint"] == f"checkpoint-{best}"
    assert result.results["metrics"]["validation"]["mcc"] == scores[best]
    kept, saved = (load_file(path / "model.safetensors") for path in (folder / f"checkpoint-{best}", folder))
    assert all(torch.equal(kept[name], saved[name]) for name in saved)


def test_loss_is_the_log_loss_of_the_predictions_file(run):
    folder, _, result = run
    predictions = pd.read_csv(folder / "predictions.csv")
    probability = predictions[["probability_AT rich", "probability_GC rich"]]
    expected = log_loss(predictions["label"], probability, labels=["AT rich", "GC rich"])
    assert result.results["metrics"]["test"]["loss"] == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(probability.sum(axis=1), 1)


def test_class_weights_enter_the_loss(tmp_path):
    data = DatasetDict(
        train=make_rows(44).filter(lambda row: row["id"][-1] not in "13579" or row["id"] < "r2")
    )
    data["validation"] = make_rows(10, seed=4)
    result = finetune(make_args(tmp_path / "run", class_weights=True, per_device_eval_batch_size=10), data)
    labels = data["train"]["label"][:]
    weights = {name: len(labels) / 2 / labels.count(name) for name in set(labels)}
    assert weights["GC rich"] > 2 * weights["AT rich"]
    predictions = pd.read_csv(tmp_path / "run" / "predictions.csv").to_dict("records")
    losses = [-weights[line["label"]] * np.log(line[f"probability_{line['label']}"]) for line in predictions]
    assert result.results["metrics"]["validation"]["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("class_weights", [False, True])
def test_accumulated_batches_equal_one_batch(class_weights, tmp_path):
    """40 rows: 5 steps of 8, whole or in four parts."""
    common = {"class_weights": class_weights, "embed_dropout": 0.0, "learning_rate": 0.01}
    whole = finetune(make_args(tmp_path / "whole", **common), make_rows(44))
    parts = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    accumulated = finetune(make_args(tmp_path / "parts", **common, **parts), make_rows(44))
    expected = whole.model.state_dict()
    for name, value in accumulated.model.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-4)


def test_the_seed_decides(tmp_path):
    runs = [
        finetune(make_args(tmp_path / f"{i}", seed=seed), make_rows()) for i, seed in enumerate((1, 1, 2))
    ]
    weights = [result.model.score.weight for result in runs]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


# ---------------------------------------------------------------------------------- what is written


def test_a_failed_write_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, {"a": 1})

    def fail(temporary):
        temporary.write_text("half a fi")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, fail)
    assert json.loads(path.read_text()) == {"a": 1}


def test_json_has_no_nan(tmp_path):
    write_json(
        tmp_path / "x.json",
        {"auroc": float("nan"), "list": [float("inf"), {"deep": float("nan")}, 1.5], "n": None},
    )
    text = (tmp_path / "x.json").read_text()
    assert json.loads(text) == {"auroc": None, "list": [None, {"deep": None}, 1.5], "n": None}
    assert "NaN" not in text and "Infinity" not in text


def test_predictions_tables_by_hand():
    rows = Dataset.from_dict({"row": [4, 9], "id": ["x", "y"], "sequence": ["A", "C"], "label": [1, 0]})
    probability = np.array([[0.25, 0.75], [0.125, 0.875]])
    table = predictions_table(rows, probability, "single_label_classification", ["no", "yes"])
    assert table.to_dict("list") == {
        "row": [4, 9],
        "id": ["x", "y"],
        "label": ["yes", "no"],
        "predicted": ["yes", "yes"],
        "probability_no": [0.25, 0.125],
        "probability_yes": [0.75, 0.875],
    }
    several = Dataset.from_dict({"row": [0], "sequence": ["A"], "label": [[1.0, 0.0]]})
    table = predictions_table(several, np.array([[0.5, 0.75]]), "multi_label_classification", ["H3", "H4"])
    assert table.to_dict("records") == [
        {"row": 0, "label_H3": 1, "predicted_H3": 1, "label_H4": 0, "predicted_H4": 1}
        | {"probability_H3": 0.5, "probability_H4": 0.75}
    ]
    numbers = Dataset.from_dict({"row": [0], "sequence": ["A"], "label": [1.5]})
    table = predictions_table(numbers, np.array([[1.25]]), "regression", ["value"])
    assert table.to_dict("records") == [{"row": 0, "label": 1.5, "predicted": 1.25}]


def test_names_that_are_formulas_become_text_in_predictions(tmp_path):
    """A spreadsheet would run them (C12)."""
    table = make_rows(20).to_pandas()
    table["id"] = [f"=1+{i}" for i in range(20)]
    table["label"] = table["label"].replace("AT rich", "@SUM(A1)")
    data = read_labelled_data(Dataset.from_pandas(table))
    part = data.parts["validation"]
    _write_predictions(tmp_path, data, "validation", np.full((len(part), 2), 0.5))
    written = pd.read_csv(tmp_path / "predictions.csv")
    assert written["id"].tolist() == [f"'{name}" for name in part["id"][:]]
    assert set(written["label"]) | set(written["predicted"]) <= {"'@SUM(A1)", "GC rich"}


@pytest.mark.parametrize("n_labels", [2, 40])
def test_confusion_matrix_of_few_and_many_classes(n_labels, tmp_path):
    labels = np.arange(n_labels)
    write_confusion_matrix(tmp_path / "c.png", labels, labels[::-1], [f"class {i}" for i in labels])
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["c.png"]


# ------------------------------------------------------------------------------------------- resume

RESUMABLE = {"num_train_epochs": 3, "reverse_complement": 0.5, "save_strategy": "steps", "save_steps": 4} | {
    "eval_strategy": "steps",
    "eval_steps": 4,
    # it falls to the end: the best checkpoint is one that the resumed run wrote
    "metric_for_best_model": "loss",
    "seed": 5,
    "learning_rate": 0.01,
}


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    """5 steps an epoch and checkpoints every 4: the killed run resumes within an epoch."""
    make_rows(44).to_csv(tmp_path / "data.csv", index=False)
    settings = {**TINY, **QUICK, **RESUMABLE, "data": str(tmp_path / "data.csv")}
    whole = finetune(FinetuneArguments(output_dir=str(tmp_path / "whole"), **settings))

    flags = [f"--{name}={value}" for name, value in {**settings, "output_dir": tmp_path / "killed"}.items()]
    code = "import os, signal, sys, torch\nfrom hyenadna.training.trainer import HyenaDNATrainer as Trainer\n"
    code += "save = Trainer._save_checkpoint\n"
    # sums of other threads are rounded otherwise
    code += f"torch.set_num_threads({torch.get_num_threads()})\n"
    code += "def save_twice(self, *args, **kwargs):\n    save(self, *args, **kwargs)\n"
    code += "    if self.state.global_step == 8: os.kill(os.getpid(), signal.SIGKILL)\n"
    code += "Trainer._save_checkpoint = save_twice\n"
    code += "from hyenadna.training.finetune import main\nmain(sys.argv[1:])\n"
    child = subprocess.run([sys.executable, "-c", code, *flags], capture_output=True, text=True, check=False)
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert not (tmp_path / "killed" / "metrics.json").exists()

    with pytest.raises(InputError, match=r"holds an interrupted run.*--resume"):
        main(flags)
    with pytest.raises(InputError, match=r"holds another run: its learning_rate is 0.01, now it is 0.02"):
        main([*flags, "--resume", "--learning_rate", "0.02"])
    main([*flags, "--resume"])
    resumed = json.loads((tmp_path / "killed" / "metrics.json").read_text())
    assert resumed["resumed_from"] == "checkpoint-8" and whole.results["resumed_from"] is None
    assert resumed["best_checkpoint"] == whole.results["best_checkpoint"] == "checkpoint-15"
    assert resumed["metrics"] == whole.results["metrics"]
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name
    history = [
        json.loads((tmp_path / n / "trainer_state.json").read_text())["log_history"]
        for n in ("whole", "killed")
    ]
    losses = [[entry["eval_loss"] for entry in log if "eval_loss" in entry] for log in history]
    assert losses[0] == losses[1] and len(losses[0]) == 4


def test_two_processes_and_workers_that_stay_train_as_one_process_does(tmp_path):
    """The strands too: their coin must reach the workers and must not depend on who reads a row."""
    make_rows(44).to_csv(tmp_path / "data.csv", index=False)
    common = {
        **TINY,
        **QUICK,
        "data": str(tmp_path / "data.csv"),
        "reverse_complement": 0.5,
        "embed_dropout": 0.0,
    }
    common |= {"num_train_epochs": 3, "learning_rate": 0.01, "metric_for_best_model": "loss"}
    one = finetune(FinetuneArguments(output_dir=str(tmp_path / "one"), **common))
    workers = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}
    finetune(FinetuneArguments(output_dir=str(tmp_path / "workers"), **common, **workers))
    several = {"output_dir": tmp_path / "two", "per_device_train_batch_size": 4, "ddp_backend": "gloo"}
    flags = [f"--{name}={value}" for name, value in {**common, **several}.items()]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "-m"]
    child = subprocess.run(
        [*launch, "hyenadna.training.finetune", *flags], capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr
    expected = load_file(tmp_path / "one" / "model.safetensors")
    for name, tolerance in {"workers": 0.0, "two": 1e-4}.items():
        weights = load_file(tmp_path / name / "model.safetensors")
        for key, value in expected.items():
            torch.testing.assert_close(weights[key], value, rtol=tolerance, atol=tolerance)
    two = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert two["metrics"]["validation"] == pytest.approx(one.results["metrics"]["validation"], abs=1e-4)


def test_ctrl_c_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    make_rows(44).to_csv(tmp_path / "data.csv", index=False)
    settings = {**TINY, **QUICK, "data": str(tmp_path / "data.csv"), "output_dir": str(tmp_path / "run")}
    flags = [f"--{name}={value}" for name, value in settings.items()]

    def press_ctrl_c(self, *args, **kwargs):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)

    # a shell's background jobs ignore it
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    with monkeypatch.context() as patch:
        patch.setattr(HyenaDNATrainer, "training_step", press_ctrl_c)
        assert cli.main(["finetune", *flags]) == 130
    signal.signal(signal.SIGINT, earlier)
    assert "--resume" in capsys.readouterr().out
    # there was no checkpoint yet: it starts again
    assert cli.main(["finetune", *flags, "--resume"]) == 0
    assert (tmp_path / "run" / "metrics.json").exists()


def test_a_finished_run_is_neither_overwritten_nor_repeated(run, capsys):
    folder, data, result = run
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    settings = {"num_train_epochs": 4, "learning_rate": 0.01, "seed": 3}
    with pytest.raises(InputError, match="holds a finished run"):
        finetune(make_args(folder, **settings), data)
    again = finetune(make_args(folder, **settings, resume=True), data)
    assert again.results == json.loads(json.dumps(result.results))
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(InputError, match="another run: its data changed since then"):
        finetune(make_args(folder, **settings, resume=True), DatasetDict(train=data["train"]))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_files_of_others_are_not_overwritten(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "checkpoint-7").mkdir()
    with pytest.raises(InputError, match=r"holds \['checkpoint-7', 'config.json'\] of something else"):
        finetune(make_args(tmp_path), make_rows())
    assert (tmp_path / "config.json").read_text() == "{}"
    (tmp_path / "run_settings.json").write_text("{ha")
    with pytest.raises(InputError, match=r"run_settings.json cannot be read"):
        finetune(make_args(tmp_path, resume=True), make_rows())


# -------------------------------------------------------------------------------------- checkpoints


def test_from_a_language_model(tmp_path):
    torch.manual_seed(1)
    pretrained = HyenaDNAForCausalLM(HyenaDNAConfig(**TINY))
    pretrained.save_pretrained(tmp_path / "pretrained")  # no tokenizer beside it
    args = FinetuneArguments(output_dir=str(tmp_path), model=str(tmp_path / "pretrained"), embed_dropout=0.3)
    model, tokenizer = make_classifier(args, "single_label_classification", ["a", "b", "c"])
    own, theirs = model.hyena.state_dict(), pretrained.hyena.state_dict()
    assert own.keys() == theirs.keys() and all(torch.equal(own[name], theirs[name]) for name in own)
    assert model.score.weight.shape == (3, 8) and model.config.pooling == "mean"
    assert model.config.embed_dropout == 0.3 and model.config.max_seq_len == 40
    assert tokenizer("AC")["input_ids"] == [7, 8] and tokenizer.model_max_length == 40


def test_from_a_classifier_of_the_same_and_of_other_labels(run, tmp_path):
    folder, _, result = run
    args = FinetuneArguments(output_dir=str(tmp_path), model=str(folder))
    trained = result.model.score.weight
    same, _ = make_classifier(args, "single_label_classification", ["AT rich", "GC rich"])
    assert torch.equal(same.score.weight, trained)
    renamed, _ = make_classifier(args, "single_label_classification", ["a", "b"])
    assert not torch.equal(renamed.score.weight, trained) and renamed.score.weight.std() < 0.05
    more, _ = make_classifier(args, "single_label_classification", ["a", "b", "c"])
    assert more.score.weight.shape == (3, 8)


def test_frozen_backbone_stays(run, tmp_path):
    folder, _, _ = run
    changes = {
        "d_model": None,
        "n_layer": None,
        "max_seq_len": None,
        "freeze_backbone": True,
        "learning_rate": 0.1,
    }
    data = make_rows(40, seed=7, classes=("AT rich", "C rich"))
    finetune(make_args(tmp_path / "frozen", model=str(folder), **changes), data)
    before, after = (
        load_file(folder / "model.safetensors"),
        load_file(tmp_path / "frozen" / "model.safetensors"),
    )
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"score.weight"}


def test_checkpoints_that_do_not_load(run, tmp_path):
    def load(name, **changes):
        args = FinetuneArguments(output_dir=str(tmp_path / "out"), model=str(name), **changes)
        return make_classifier(args, "single_label_classification", ["a", "b"])

    with pytest.raises(InputError, match="neither a folder with a checkpoint nor"):
        load(tmp_path / "nothing")
    BertConfig().save_pretrained(tmp_path / "bert")
    with pytest.raises(InputError, match="is a 'bert' model"):
        load(tmp_path / "bert")
    HyenaDNAConfig(**TINY).save_pretrained(tmp_path / "no weights")
    with pytest.raises(InputError, match="cannot be loaded"):
        load(tmp_path / "no weights")
    HyenaDNAForCausalLM(HyenaDNAConfig(**TINY)).save_pretrained(tmp_path / "wide")
    config = json.loads((tmp_path / "wide" / "config.json").read_text())
    (tmp_path / "wide" / "config.json").write_text(json.dumps({**config, "vocab_size": 24}))
    with pytest.raises(InputError, match=r"word_embeddings|vocab"):
        load(tmp_path / "wide")
    with pytest.raises(InputError, match=r"'d_model': 16.*checkpoint has its own"):
        load(run[0], d_model=16)
    with pytest.raises(InputError, match="freeze_backbone needs a checkpoint"):
        make_classifier(
            FinetuneArguments(output_dir=str(tmp_path), model="none", freeze_backbone=True),
            "single_label_classification",
            ["a", "b"],
        )


# -------------------------------------------------------------------------- bad input, command line


def test_too_long_sequences_are_found_before_anything_is_written(tmp_path):
    data = DatasetDict(
        train=make_rows(), test=Dataset.from_dict({"sequence": ["ACGT", "A" * 41], "label": ["AT rich"] * 2})
    )
    message = (
        r"row 1 of the test rows has 41 tokens, but max_seq_len of the model is 40; 1 of 2 .*--max_seq_len 41"
    )
    with pytest.raises(InputError, match=message):
        finetune(make_args(tmp_path / "run"), data)
    data["test"] = Dataset.from_dict({"sequence": ["A" * 40], "label": ["AT rich"]})
    with pytest.raises(InputError, match="row 0 of the test rows has 41 tokens"):  # [SEP] counts
        finetune(make_args(tmp_path / "run", add_special_tokens=True), data)
    assert not (tmp_path / "run").exists()
    data["test"] = Dataset.from_dict({"sequence": ["A" * 50], "label": ["AT rich"]})
    result = finetune(make_args(tmp_path / "run", truncation=True), data)
    cut = pipeline("text-classification", str(tmp_path / "run"), device="cpu")("A" * 40)
    predictions = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert cut[0]["score"] == pytest.approx(predictions[f"probability_{cut[0]['label']}"][0], abs=1e-5)
    assert result.model.config.max_seq_len == 40


def test_bad_settings(tmp_path):
    with pytest.raises(InputError, match="no data"):
        finetune(make_args(tmp_path / "run"))
    with pytest.raises(InputError, match=r"reverse_complement is 1.5"):
        make_args(tmp_path / "run", reverse_complement=1.5)
    numbers = Dataset.from_dict({"sequence": make_rows()["sequence"][:], "label": np.arange(40.0)})
    with pytest.raises(InputError, match="class_weights is for single labels"):
        finetune(make_args(tmp_path / "run", class_weights=True, problem_type="regression"), numbers)
    with pytest.raises(InputError, match=r"the model cannot be made.*pooling"):
        finetune(make_args(tmp_path / "run", pooling="median"), make_rows())
    assert not (tmp_path / "run").exists()


def test_yaml_equals_flags_and_flags_override_it(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("data: x.csv\nlearning_rate: 6e-4\nlabel_column: [a, b]\nclass_weights: true\nmodel:\n")
    # a key without a value in YAML is a setting that is not given
    read = parse([str(path), "--seed", "7"])
    flags = [
        "--data",
        "x.csv",
        "--learning_rate",
        "6e-4",
        "--label_column",
        "a",
        "b",
        "--class_weights",
        "--seed",
        "7",
    ]
    assert read.to_dict() == parse(flags).to_dict()
    assert read.learning_rate == 6e-4 and read.label_column == ["a", "b"] and read.model == "starter_1k"
    assert parse([str(path), "--learning_rate", "1e-3"]).learning_rate == 1e-3


def test_bad_yaml_and_unknown_settings(tmp_path):
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    (tmp_path / "typo.yaml").write_text("learning_rat: 1\n")
    with pytest.raises(InputError, match=r"list.yaml: expected lines"):
        parse([str(tmp_path / "list.yaml")])
    with pytest.raises(InputError, match=r"broken.yaml cannot be read"):
        parse([str(tmp_path / "broken.yaml")])
    with pytest.raises(InputError, match=r"nothing.yaml cannot be read"):
        parse([str(tmp_path / "nothing.yaml")])
    with pytest.raises(InputError, match=r"unknown settings: .*learning_rat"):
        parse([str(tmp_path / "typo.yaml")])


def test_command_line(capsys, monkeypatch, tmp_path):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in cli.COMMANDS)
    assert cli.main([]) == 2
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.endswith("hyenadna 0.1.0\n")
    assert cli.main(["finetun"]) == 2
    error = capsys.readouterr().err
    assert "no command 'finetun'; there are demo, finetune" in error and "did you mean finetune?" in error
    assert cli.main(["finetune", "--data", str(tmp_path / "none.csv")]) == 1
    error = capsys.readouterr().err
    assert "none.csv: there is no such file" in error and "Traceback" not in error

    def without_datasets(name):
        raise ModuleNotFoundError("No module named 'datasets'", name="datasets.arrow")

    monkeypatch.setattr(cli.importlib, "import_module", without_datasets)
    assert cli.main(["finetune"]) == 1
    assert 'pip install ".[train]" in a clone' in capsys.readouterr().err


def check_nothing_was_trained_further(folder: Path, data, args: dict) -> None:
    """Compare a run with itself after it was killed in the final evaluation and resumed."""
    whole = finetune(make_args(folder, **args), data).results
    weights = load_file(folder / "model.safetensors")
    steps = json.loads((folder / "trainer_state.json").read_text())["global_step"]
    for name in ("metrics.json", "model.safetensors", "predictions.csv"):
        (folder / name).unlink()
    again = finetune(make_args(folder, **args, resume=True), data).results
    assert json.loads((folder / "trainer_state.json").read_text())["global_step"] == steps
    assert again["metrics"] == whole["metrics"] and again["resumed_from"] == f"checkpoint-{steps}"
    resumed = load_file(folder / "model.safetensors")
    assert weights.keys() == resumed.keys() and all(
        torch.equal(weights[key], resumed[key]) for key in weights
    )


def test_resumed_after_the_last_checkpoint_trains_no_further(tmp_path):
    """`--resume` took one step too many if the end of a run lay inside an epoch (A2)."""
    settings = {
        "max_steps": 7,
        "save_strategy": "steps",
        "save_steps": 7,
        "eval_strategy": "steps",
        "eval_steps": 7,
    }
    check_nothing_was_trained_further(tmp_path / "steps", make_rows(), settings)


def test_resumed_after_an_early_stop_trains_no_further(tmp_path):
    # A learning rate that changes no prediction; and the last checkpoint stays beside the best one.
    settings = {"num_train_epochs": 6, "patience": 1, "learning_rate": 1e-9, "save_total_limit": 2}
    check_nothing_was_trained_further(tmp_path / "early", make_rows(), settings)
    state = json.loads((tmp_path / "early" / "trainer_state.json").read_text())
    assert state["epoch"] == 2.0


def test_a_token_of_the_hub_is_in_no_file(tmp_path):
    """It was in `checkpoint-*/training_args.bin` (B12)."""
    token = "hf_" + "s" * 34
    finetune(make_args(tmp_path / "run", hub_token=token), make_rows())
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert any(path.parent.name.startswith("checkpoint-") for path in files)
    assert not [
        path for path in files if token.encode() in path.read_bytes() or path.name == "training_args.bin"
    ]


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"learning_rate": 1e30, "max_grad_norm": 0.0},
            r"learning_rate is 1e\+30, max_grad_norm is 0.*--max_grad_norm 1",
        ),
        ({"weight_decay": 1e35, "num_train_epochs": 3}, r"weight_decay is 1e\+35.*a lower --learning_rate"),
        ({"adam_epsilon": 0.0}, "adam_epsilon is 0.*--adam_epsilon 1e-8"),
    ],
)
def test_a_training_that_diverges_says_so(settings, message, tmp_path, capsys):
    """It saved NaN with exit status 0, or ended in a traceback of the metrics (B4)."""
    make_rows(44).to_csv(tmp_path / "data.csv", index=False)
    settings = {
        **TINY,
        **QUICK,
        **settings,
        "data": str(tmp_path / "data.csv"),
        "output_dir": str(tmp_path / "run"),
    }
    assert cli.main(["finetune", *(f"--{name}={value}" for name, value in settings.items())]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(message, error) and error.startswith("hyenadna finetune: error: ")
    assert not (tmp_path / "run" / "metrics.json").exists()
    for path in (tmp_path / "run").rglob("*.safetensors"):  # what is left can be used
        assert all(torch.isfinite(weight).all() for weight in load_file(path).values())
