"""The average of the weights against its definition, recomputed from the weights of every step."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from hyenadna.errors import InputError
from hyenadna.training.finetune import finetune
from hyenadna.training.runs.averaging import AVERAGE_FILE
from hyenadna.training.runs.trainer import HyenaDNATrainer

from .helpers.recipes import finetune_args, make_rows

SETTINGS = {"learning_rate": 0.01}


class Record(TrainerCallback):
    """Keeps the trained weights of every step, beginning with the initial ones."""

    def __init__(self):
        self.steps = []

    def on_train_begin(self, args, state, control, model, **kwargs):
        self.on_step_end(args, state, control, model)

    def on_step_end(self, args, state, control, model, **kwargs):
        weights = {
            name: p.detach().double().clone() for name, p in model.named_parameters() if p.requires_grad
        }
        self.steps.append(weights)


@pytest.fixture
def record(monkeypatch):
    record = Record()
    create = HyenaDNATrainer.__init__

    def with_record(self, *args, **kwargs):
        create(self, *args, **kwargs)
        self.add_callback(record)

    monkeypatch.setattr(HyenaDNATrainer, "__init__", with_record)
    return record


def average_of(steps: list[dict], reach: float) -> dict[str, torch.Tensor]:
    """The definition: each step enters with 1 - d, and everything before it is multiplied by d."""
    average = dict(steps[0])
    for step, weights in enumerate(steps[1:], start=1):
        decay = min(1 - 1 / max(20, reach), (1 + step) / (10 + step))
        average = {name: decay * average[name] + (1 - decay) * weights[name] for name in average}
    return average


def check_close(weights: dict, expected: dict) -> None:
    assert expected
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name].double(), weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("epochs", [1.0, 8.0])  # 5 steps an epoch: 20 steps at least, and 40
def test_the_last_average_is_saved(epochs, record, tmp_path):
    args = finetune_args(
        tmp_path / "run",
        **SETTINGS,
        num_train_epochs=6,
        weight_averaging=epochs,
        load_best_model_at_end=False,
    )
    run = finetune(args, make_rows(44))
    steps = len(record.steps) - 1
    assert steps % 6 == 0
    expected = average_of(record.steps, epochs * steps / 6)
    check_close(dict(run.model.named_parameters()), expected)
    check_close(load_file(tmp_path / "run" / "model.safetensors"), expected)
    last = record.steps[-1]
    assert max((last[name] - expected[name]).abs().max() for name in last) > 1e-3


def test_the_average_of_the_best_checkpoint_is_evaluated_and_saved(record, tmp_path):
    args = finetune_args(
        tmp_path / "run",
        **SETTINGS,
        num_train_epochs=6,
        weight_averaging=1.0,
        metric_for_best_model="loss",
        save_total_limit=10,
    )
    run = finetune(args, make_rows(44))
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    best = tmp_path / "run" / run.results["best_checkpoint"]
    steps = int(best.name.removeprefix("checkpoint-"))
    expected = average_of(record.steps[: steps + 1], (len(record.steps) - 1) / 6)
    check_close(load_file(best / AVERAGE_FILE), expected)
    check_close(load_file(tmp_path / "run" / "model.safetensors"), expected)
    # The training went on with the weights themselves.
    check_close(load_file(best / "model.safetensors"), record.steps[steps])
    losses = [line["eval_loss"] for line in state["log_history"] if "eval_loss" in line]
    assert math.isclose(min(losses), run.results["metrics"]["validation"]["loss"], rel_tol=1e-5)


def test_without_averaging_the_last_weights_are_saved(record, tmp_path):
    args = finetune_args(
        tmp_path / "run", **SETTINGS, num_train_epochs=2, weight_averaging=0, load_best_model_at_end=False
    )
    run = finetune(args, make_rows(44))
    check_close(dict(run.model.named_parameters()), record.steps[-1])
    assert not list((tmp_path / "run").rglob(AVERAGE_FILE))


def test_an_adapter_is_averaged_too(record, tmp_path):
    args = finetune_args(
        tmp_path / "run",
        **SETTINGS,
        num_train_epochs=4,
        weight_averaging=1.0,
        load_best_model_at_end=False,
    )
    base = finetune(args, make_rows(44))
    base.model.save_pretrained(tmp_path / "base")
    record.steps.clear()
    args = finetune_args(
        tmp_path / "adapter",
        **SETTINGS,
        model=str(tmp_path / "base"),
        d_model=None,
        n_layer=None,
        max_seq_len=None,
        lora_rank=2,
        num_train_epochs=4,
        weight_averaging=1.0,
        load_best_model_at_end=False,
    )
    run = finetune(args, make_rows(44))
    expected = average_of(record.steps, (len(record.steps) - 1) / 4)
    assert all("lora" in name or "score" in name for name in expected)
    check_close(dict(run.model.named_parameters()), expected)


@pytest.mark.parametrize("epochs", [-1.0, np.inf, np.nan])
def test_a_number_of_epochs_is_expected(epochs, tmp_path):
    with pytest.raises(InputError, match="weight_averaging is"):
        finetune(finetune_args(tmp_path / "run", weight_averaging=epochs), make_rows())
