"""The recipe for soft prompts, LoRA in the fine-tuning recipe, and what loads their folders."""

import copy
import json

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import DatasetDict
from peft import PeftModel
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score
from transformers import EarlyStoppingCallback, EvalPrediction

from hyenadna import HyenaDNAForCausalLM, HyenaDNAForSequenceClassification
from hyenadna.errors import InputError
from hyenadna.tokenization import HyenaDNATokenizer
from hyenadna.training import cli
from hyenadna.training.finetune import FinetuneArguments, finetune
from hyenadna.training.runs.adapters import add_lora, add_prompt, load_adapted
from hyenadna.training.runs.language import NextTokenCollator, letters_of_labels
from hyenadna.training.runs.supervised import StrandedRows
from hyenadna.training.soft_prompt import SoftPromptArguments, soft_prompt

from .conftest import random_model
from .helpers.recipes import QUICK, make_rows

T = 4


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "lm"
    random_model(max_seq_len=64).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data():
    return DatasetDict(train=make_rows(64), validation=make_rows(16, seed=2), test=make_rows(21, seed=1))


def make_args(checkpoint, output_dir, **changes) -> SoftPromptArguments:
    settings = {**QUICK, "model": str(checkpoint), "num_virtual_tokens": T, "learning_rate": 0.05, **changes}
    return SoftPromptArguments(output_dir=str(output_dir), **settings)


@pytest.fixture(scope="module", params=["classifier", "next_token"])
def run(request, checkpoint, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / request.param
    args = make_args(checkpoint, folder, form=request.param, num_train_epochs=6, patience=0)
    return request.param, folder, soft_prompt(args, data)


# -------------------------------------------------------------------------------- what a run leaves


def test_files_and_metrics(run, data):
    form, folder, _ = run
    files = {path.name for path in folder.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "config.json", "tokenizer.json"} <= files
    assert "model.safetensors" not in files and "training_args.bin" not in files
    stored = load_file(folder / "adapter_model.safetensors")
    assert stored["prompt_embeddings"].shape == (T, 16)
    assert set(stored) - {"prompt_embeddings"} == (
        {"base_model.score.weight"} if form == "classifier" else set()
    )
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["trained_parameters"] == sum(value.numel() for value in stored.values())
    assert metrics["parameters"] > 1000 and metrics["rows"] == {"train": 64, "validation": 16, "test": 21}
    predictions = pd.read_csv(folder / "predictions.csv")
    assert predictions["label"].tolist() == data["test"]["label"][:]
    accuracy = accuracy_score(predictions["label"], predictions["predicted"])
    assert metrics["metrics"]["test"]["accuracy"] == pytest.approx(accuracy)
    # it learns; for the other form see the test of its loss
    assert form == "next_token" or accuracy > 0.7


def test_the_folder_loads_and_predicts_the_same(run, data):
    form, folder, _ = run
    model = load_adapted(folder)
    assert isinstance(model, PeftModel) and not model.training
    predictions = pd.read_csv(folder / "predictions.csv")
    tokenizer = HyenaDNATokenizer.from_pretrained(folder)
    letters = torch.tensor(tokenizer.convert_tokens_to_ids(["A", "N"]))
    for row in range(5):  # one at a time, where the run padded
        ids = tokenizer(data["test"]["sequence"][row])["input_ids"] + [1] * (form == "next_token")
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits
        scores = (logits[:, -1, letters] if form == "next_token" else logits).softmax(-1)[0]
        expected = predictions.loc[row, ["probability_AT rich", "probability_GC rich"]].to_numpy(
            dtype=np.float32
        )
        np.testing.assert_allclose(scores.numpy(), expected, atol=1e-4)
    if form == "classifier":
        assert model.config.id2label == {0: "AT rich", 1: "GC rich"} and model.config.pooling == "mean"


def test_the_checkpoint_is_not_changed(run, checkpoint):
    _, _, result = run
    before = HyenaDNAForCausalLM.from_pretrained(checkpoint).hyena.state_dict()
    after = result.model.get_base_model().hyena.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    trained = {name for name, p in result.model.named_parameters() if p.requires_grad}
    assert trained <= {
        "prompt_encoder.default.embedding.weight",
        "base_model.score.modules_to_save.default.weight",
    }


def test_a_finished_run_is_not_done_again(run, data, checkpoint, capsys):
    form, folder, result = run
    args = make_args(checkpoint, folder, form=form, num_train_epochs=6, patience=0, resume=True)
    again = soft_prompt(args, data)
    assert "nothing to do" in capsys.readouterr().out
    assert again.results == json.loads(json.dumps(result.results)) and isinstance(again.model, PeftModel)
    with pytest.raises(InputError, match="num_virtual_tokens is 4, now it is 5"):
        args = {"form": form, "num_train_epochs": 6, "patience": 0, "resume": True}
        soft_prompt(make_args(checkpoint, folder, num_virtual_tokens=5, **args), data)


def test_interrupted_and_resumed_equals_uninterrupted(checkpoint, data, tmp_path, monkeypatch):
    settings = {
        "form": "next_token", "num_train_epochs": 4, "reverse_complement": 0.5, "save_strategy": "steps",
        "eval_strategy": "steps", "eval_steps": 4, "save_steps": 4, "patience": 2,
    }  # fmt: skip
    whole = soft_prompt(make_args(checkpoint, tmp_path / "whole", **settings), data)
    on_step_end = EarlyStoppingCallback.on_step_end

    def fail(self, args, state, control, **kwargs):
        if state.global_step == 11:
            raise OSError("no space left")

    monkeypatch.setattr(EarlyStoppingCallback, "on_step_end", fail)
    with pytest.raises(OSError, match="no space"):
        soft_prompt(make_args(checkpoint, tmp_path / "broken", **settings), data)
    monkeypatch.setattr(EarlyStoppingCallback, "on_step_end", on_step_end)
    resumed = soft_prompt(make_args(checkpoint, tmp_path / "broken", resume=True, **settings), data)
    assert resumed.results["resumed_from"] == "checkpoint-8"
    assert resumed.results["metrics"] == whole.results["metrics"]
    best = whole.results["best_checkpoint"]  # an earlier one than the last
    names = ("whole", "broken", f"whole/{best}")
    one, *others = (load_file(tmp_path / name / "adapter_model.safetensors") for name in names)
    assert all(torch.equal(one[name], other[name]) for name in one for other in others)
    steps = [
        json.loads((tmp_path / n / "trainer_state.json").read_text())["global_step"]
        for n in ("whole", "broken")
    ]
    assert (
        int(best.removeprefix("checkpoint-")) < steps[0] == steps[1] < 32
    )  # it stopped early, and the resumed run had not forgotten to count


# --------------------------------------------------------------------------------------- the pieces


def test_the_loss_is_that_of_the_letter_alone(checkpoint):
    model = HyenaDNAForCausalLM.from_pretrained(checkpoint)
    prompted = add_prompt(model, T).eval()
    collate = NextTokenCollator(HyenaDNATokenizer(add_eos_token=False), "AN")
    rows = [{"sequence": "ACGTT", "label": 1}, {"sequence": "GG", "label": 0}]
    batch = collate(rows)
    assert batch["input_ids"].tolist() == [[7, 8, 9, 10, 10, 1, 11], [4, 4, 4, 9, 9, 1, 7]]
    assert batch["labels"].tolist() == [[-100] * 6 + [11], [-100] * 6 + [7]]
    with torch.no_grad():
        out = prompted(**batch)
        alone = [
            prompted(input_ids=torch.tensor([ids])).logits[0, -1] for ids in ([7, 8, 9, 10, 10, 1], [9, 9, 1])
        ]
    expected = -(alone[0].log_softmax(-1)[11] + alone[1].log_softmax(-1)[7]) / 2
    torch.testing.assert_close(out.loss, expected, rtol=1e-5, atol=1e-5)
    scores = collate.letter_logits(out.logits, batch["labels"])
    torch.testing.assert_close(scores, torch.stack([a[[7, 11]] for a in alone]), rtol=1e-5, atol=1e-5)
    # Trainer puts -100 behind the labels of shorter batches
    labels = np.array([[-100, 11, -100], [-100, 7, -100], [-100, -100, 7]])
    metrics = collate.metrics(EvalPrediction(np.array([[0.0, 1.0], [3.0, 1.0], [0.0, 2.0]]), labels))
    assert metrics["accuracy"] == pytest.approx(2 / 3)
    cut = NextTokenCollator(HyenaDNATokenizer(), "AN", longest=2)(rows)
    assert cut["input_ids"].tolist() == [[7, 8, 1, 11], [9, 9, 1, 7]]


def test_a_prompt_learns_which_letter_is_next(checkpoint):
    """The same sequences and frozen model, with the one letter and then the other: only the prompt
    can say which.
    """
    model = HyenaDNAForCausalLM.from_pretrained(checkpoint, embed_dropout=0.0)
    model.get_input_embeddings().weight.data.mul_(4)  # so that it can be sure of a letter
    collate = NextTokenCollator(HyenaDNATokenizer(add_eos_token=False), "AN")
    for label in (0, 1):
        batch = collate([{"sequence": sequence, "label": label} for sequence in ("ACGTT", "GGA", "TTTTCA")])
        prompted = add_prompt(copy.deepcopy(model), 16)
        optimizer = torch.optim.AdamW(prompted.prompt_encoder.parameters(), lr=0.05)
        losses = []
        for _ in range(60):
            optimizer.zero_grad()
            loss = prompted(**batch).loss
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0] - 0.2


def test_start_and_dropout_of_a_prompt(checkpoint):
    def load():
        return HyenaDNAForCausalLM.from_pretrained(checkpoint, embed_dropout=0.0)

    torch.manual_seed(0)
    assert add_prompt(load(), 60).get_prompt(1).std().item() == pytest.approx(0.02, rel=0.1)
    model = load()
    started = add_prompt(model, 5, "acg").get_prompt(1)[0]
    assert torch.equal(started, model.get_input_embeddings().weight[[7, 8, 9, 7, 8]])
    assert torch.equal(add_prompt(load(), 2, "ACG").get_prompt(1)[0], started[:2])

    prompted = add_prompt(load(), 8, "A" * 8, dropout=0.5)
    seen = {}
    hyena = prompted.get_base_model().hyena
    hyena.register_forward_pre_hook(lambda m, args, kwargs: seen.update(kwargs), with_kwargs=True)
    ids = torch.full((64, 3), 8)
    for training in (True, False):
        prompted.train(training)
        prompted(input_ids=ids)
        prompt, sequence = seen["inputs_embeds"][:, :8], seen["inputs_embeds"][:, 8:]
        dropped = (prompt == 0).float()
        assert dropped.mean().item() == pytest.approx(0.5 if training else 0.0, abs=0.05)
        assert not training or not torch.equal(dropped[0], dropped[1])  # each row its own
        assert torch.equal(sequence, model.get_input_embeddings().weight[ids])
    prompted.train()
    assert torch.equal(prompted.get_base_model()(input_ids=ids).logits, load().train()(ids).logits)


def test_letters():
    assert letters_of_labels(["a", "b"]) == "AN" and letters_of_labels(["a", "b", "c"]) == "AGN"
    assert letters_of_labels(["a", "b"], "tc") == "TC"
    with pytest.raises(InputError, match=r"6 classes .* have no letters"):
        letters_of_labels(list("abcdef"))
    for wrong in ("A", "AA", "AX", "ACG"):
        with pytest.raises(InputError, match="do not fit the 2 classes"):
            letters_of_labels(["a", "b"], wrong)


# --------------------------------------------------------------------------------------------- LoRA


def test_finetune_with_lora(checkpoint, data, tmp_path):
    settings = {
        **QUICK,
        "num_train_epochs": 4,
        "learning_rate": 0.02,
        "model": str(checkpoint),
        "lora_rank": 2,
    }
    result = finetune(FinetuneArguments(output_dir=str(tmp_path / "lora"), **settings), data)
    d = 16
    matrices = 2 * 2 * sum((d + 3 * d, d + d, d + 4 * d, 4 * d + d))  # two layers, rank 2
    assert result.results["trained_parameters"] == matrices + 2 * d
    assert result.results["metrics"]["test"]["accuracy"] > 0.7
    rows = StrandedRows(data["test"].select(range(4)))
    batch = HyenaDNATokenizer(add_eos_token=False)(rows.sequences, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = result.model.eval()(**batch).logits
        loaded = load_adapted(tmp_path / "lora")
        torch.testing.assert_close(loaded(**batch).logits, logits, rtol=0, atol=1e-6)
        merged = loaded.merge_and_unload()
        torch.testing.assert_close(merged(**batch).logits, logits, rtol=1e-5, atol=1e-5)
    assert type(merged) is HyenaDNAForSequenceClassification and merged.config.id2label[1] == "GC rich"
    again = finetune(FinetuneArguments(output_dir=str(tmp_path / "lora"), resume=True, **settings), data)
    assert isinstance(again.model, PeftModel)


# ---------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_virtual_tokens": 0}, "num_virtual_tokens is 0; it must be at least 1"),
        ({"num_virtual_tokens": -3}, "num_virtual_tokens is -3"),
        ({"num_virtual_tokens": 64}, "leaves no room for a sequence: max_seq_len of the model is 64"),
        ({"num_virtual_tokens": 62, "truncation": True, "form": "next_token"}, "leaves no room"),
        (
            {"num_virtual_tokens": 40},
            r"row \d+ of the train rows has \d+ tokens, but max_seq_len of the model is 64",
        ),
        ({"init_text": "ACGX"}, r"init_text 'ACGX' holds \['X'\]; write bases"),
        ({"init_text": ""}, "init_text '' is empty"),
        ({"form": "prefix"}, "form is 'prefix'; use one of classifier, next_token"),
        ({"form": "next_token", "label_letters": "AX"}, "do not fit the 2 classes"),
        (
            {"form": "next_token", "class_weights": True},
            "the form next_token does not use class_weights: leave it out",
        ),
        (
            {"form": "next_token", "pooling": "last", "add_special_tokens": True},
            "use pooling, add_special_tokens",
        ),
        ({"label_letters": "AN"}, "the form classifier does not use label_letters"),
        ({"label_smoothing_factor": 0.1}, "soft-prompt does not use label_smoothing_factor"),
        ({"prompt_dropout": 1.0}, "prompt_dropout is 1.0"),
        ({"patience": -1}, "patience is -1"),
        ({"model": None}, "needs a checkpoint"),
    ],
)
def test_bad_settings(checkpoint, data, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        soft_prompt(make_args(**{"checkpoint": checkpoint, "output_dir": tmp_path / "run", **changes}), data)
    assert not (tmp_path / "run").exists()


def test_bad_lora_and_regression_as_next_token(checkpoint, tmp_path):
    for wrong in (
        {"lora_rank": 0},
        {"lora_rank": 2, "freeze_backbone": True},
        {"lora_rank": 2, "model": "none"},
    ):
        with pytest.raises(InputError, match="lora_rank is"):
            FinetuneArguments(output_dir=str(tmp_path), **{"model": str(checkpoint), **wrong})
    rows = make_rows(20).remove_columns("label").add_column("label", [float(i) for i in range(20)])
    args = make_args(checkpoint, tmp_path / "run", form="next_token", problem_type="regression")
    with pytest.raises(InputError, match="for single labels, but the problem is regression"):
        soft_prompt(args, rows)


def test_an_adapter_on_another_base(run, checkpoint, tmp_path):
    _, folder, _ = run
    random_model(d_model=8, max_seq_len=64).save_pretrained(tmp_path / "narrow")
    with pytest.raises(
        InputError, match=r"with d_model=16, d_inner=64, but .*narrow' has d_model=8, d_inner=32; name"
    ):
        load_adapted(folder, base=tmp_path / "narrow")
    # which peft would load without a word
    for name, value in (("n_layer", 1), ("n_layer", 3), ("max_seq_len", 65)):
        random_model(**{"max_seq_len": 64, name: value}).save_pretrained(tmp_path / "other")
        with pytest.raises(
            InputError, match=rf"for a model with {name}=.* has {name}={value}; name the right one"
        ):
            load_adapted(folder, base=tmp_path / "other")
    with pytest.raises(InputError, match=r"holds no adapter_config\.json"):
        load_adapted(checkpoint)
    with pytest.raises(InputError, match=r"needs the model under it.* as base: .*neither a folder"):
        load_adapted(folder, base=tmp_path / "gone")


def test_command_line(checkpoint, data, tmp_path, capsys):
    data["train"].to_csv(tmp_path / "rows.csv")
    flags = [f"--data={tmp_path / 'rows.csv'}", f"--model={checkpoint}", f"--output_dir={tmp_path / 'run'}"]
    assert cli.main(["soft-prompt", *flags, "--num_virtual_tokens=0"]) == 1
    assert "hyenadna soft-prompt: error: num_virtual_tokens is 0" in capsys.readouterr().err
    assert add_lora(HyenaDNAForCausalLM.from_pretrained(checkpoint), 2).active_adapter == "default"
