"""The model under Transformers' own `Trainer`, what ours adds to it, and settings that are refused."""

import math
import threading
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState
from datasets import Dataset
from transformers import (
    DataCollatorForLanguageModeling,
    DataCollatorWithPadding,
    Trainer,
    TrainerState,
    TrainingArguments,
)

from hyenadna import HyenaDNAForCausalLM, HyenaDNAForSequenceClassification, HyenaDNATokenizer
from hyenadna.errors import InputError
from hyenadna.training.finetune import FinetuneArguments, finetune
from hyenadna.training.runs import trainer as trainer_module
from hyenadna.training.runs.checkpoints import last_complete_checkpoint, write_manifest
from hyenadna.training.runs.folder import METRICS_FILE, SETTINGS_FILE, check_output_folder, finished_results
from hyenadna.training.runs.trainer import HyenaDNATrainer, RecipeArguments, StopAtNaN

from .conftest import random_ids, random_model
from .helpers.recipes import finetune_args, make_rows


def arguments(folder, **kwargs) -> TrainingArguments:
    return TrainingArguments(str(folder), report_to="none", use_cpu=True, disable_tqdm=True, **kwargs)


def classification_rows(n: int = 12) -> Dataset:
    rows = [random_ids(1, 8 + i % 5, seed=i)[0].tolist() for i in range(n)]
    return Dataset.from_dict({"input_ids": rows, "labels": [i % 2 for i in range(n)]})


def test_plain_trainer_trains_evaluates_and_predicts(tmp_path):
    model = random_model(HyenaDNAForSequenceClassification)
    args = arguments(
        tmp_path, max_steps=4, eval_strategy="steps", eval_steps=2, save_steps=2, load_best_model_at_end=True
    )
    rows = classification_rows()
    trainer = Trainer(
        model,
        args,
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=DataCollatorWithPadding(HyenaDNATokenizer()),
    )
    trainer.train()
    assert "eval_loss" in trainer.evaluate()
    prediction = trainer.predict(rows)
    assert prediction.predictions.shape == (12, 2)
    with torch.no_grad():
        alone = model(torch.tensor([rows[3]["input_ids"]])).logits[0]
    torch.testing.assert_close(torch.tensor(prediction.predictions[3]), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_language_model_batches_split_anyhow_give_the_same_loss_and_gradient(side, tmp_path):
    tokenizer = HyenaDNATokenizer(padding_side=side)
    texts = ["ACGTTGCAAC" * n for n in (1, 2, 3, 4, 5, 6, 2, 4)]
    rows = Dataset.from_dict({"input_ids": [tokenizer(text)["input_ids"] for text in texts]})
    seen = []
    for size, steps in ((8, 1), (1, 8), (2, 4)):
        model = random_model(HyenaDNAForCausalLM, embed_dropout=0.0)
        args = arguments(
            tmp_path / f"{size}",
            max_steps=1,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            logging_steps=1,
            save_strategy="no",
            learning_rate=0.0,
        )
        collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
        trainer = HyenaDNATrainer(model=model, args=args, train_dataset=rows, data_collator=collator)
        trainer.train()
        seen.append((trainer.state.log_history[0]["loss"], trainer.state.log_history[0]["grad_norm"]))
    with torch.no_grad():
        ids = [torch.tensor([row]) for row in rows["input_ids"]]
        expected = sum(model(i, labels=i).loss.item() * (i.shape[1] - 1) for i in ids) / sum(
            i.shape[1] - 1 for i in ids
        )
    for loss, norm in seen:
        assert loss == pytest.approx(expected, rel=1e-4) and norm == pytest.approx(seen[0][1], rel=1e-4)


def test_label_smoothing_of_a_language_model_shifts_the_labels(tmp_path):
    model = random_model(HyenaDNAForCausalLM)
    trainer = Trainer(model, arguments(tmp_path, label_smoothing_factor=1e-9))
    ids = random_ids(2, 20)
    loss = trainer.compute_loss(model, {"input_ids": ids, "labels": ids.clone()})
    assert loss.item() == pytest.approx(model(ids, labels=ids).loss.item(), rel=1e-5)


def test_backward_hooks_are_called():
    model = random_model(HyenaDNAForCausalLM)
    for name in ("mixer.in_proj", "mlp.fc1", "mlp.fc2"):
        heard = []
        module = model.hyena.backbone.layers[0].get_submodule(name)
        handle = module.register_full_backward_hook(lambda *args, heard=heard: heard.append(1))
        model(random_ids(1, 9)).logits.sum().backward()
        handle.remove()
        assert heard == [1], name


def test_threads_do_not_get_each_others_filters():
    model = random_model(HyenaDNAForCausalLM)
    inputs = [random_ids(1, length, seed=length) for length in (1, 7, 30, 60)]
    with torch.no_grad():
        expected = [model(ids).logits for ids in inputs]
    wrong = []

    def work(ids, logits):
        with torch.no_grad():
            for _ in range(60):
                if not torch.allclose(model(ids).logits, logits, rtol=1e-4, atol=1e-5):
                    wrong.append(ids.shape)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(inputs, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size is 0"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps"),
        ({"num_train_epochs": -1}, "nothing would be trained"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**32}, "seed is 4294967296; it must be .* at most 4,294,967,295"),
        ({"learning_rate": math.nan}, "learning_rate is nan; it must be a finite number"),
        ({"weight_decay": math.inf}, "weight_decay is inf; it must be a finite number"),
        ({"num_train_epochs": math.nan}, "num_train_epochs is nan"),
        ({"embed_dropout": math.nan}, "embed_dropout is nan"),
        ({"resume_from_checkpoint": "somewhere"}, "--resume"),
        ({"save_only_model": True}, "save_only_model"),
        ({"class_weights": True, "label_smoothing_factor": 0.3}, "do not go together"),
        ({"eval_strategy": "no"}, "load_best_model_at_end"),
        ({"lr_scheduler_type": "foo"}, "foo"),
    ],
)
def test_impossible_training_settings_are_refused_at_once(setting, message, tmp_path):
    with pytest.raises(InputError, match=message):
        FinetuneArguments(output_dir=str(tmp_path / "run"), use_cpu=True, **setting)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"adam_beta1": 2.0}, r"optimiser takes other settings: Invalid beta parameter at index 0: 2\.0"),
        ({"lr_scheduler_kwargs": {"a": 1}}, r"lr_scheduler_type takes other lr_scheduler_kwargs: .*'a'"),
    ],
)
def test_settings_that_the_optimiser_refuses(setting, message, tmp_path):
    """Each was a traceback of PyTorch or Transformers."""
    args = FinetuneArguments(output_dir=str(tmp_path), use_cpu=True, d_model=8, n_layer=1, **setting)
    with pytest.raises(InputError, match=message):
        finetune(args, make_rows())


def test_nothing_of_something_else_is_overwritten(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("tokenizer_config.json", "training_args.bin"):
        (folder / name).write_text("precious")
        with pytest.raises(InputError, match=name):
            check_output_folder(folder, {}, resume=False, not_compared=())
        assert (folder / name).read_text() == "precious"
        (folder / name).unlink()
    (folder / SETTINGS_FILE).write_text("{}")  # a run that failed before its first checkpoint
    check_output_folder(folder, {"a": 1}, resume=False, not_compared=())


def test_the_third_step_in_a_row_that_is_not_finite_stops_the_training(tmp_path):
    args = RecipeArguments(output_dir=str(tmp_path), use_cpu=True, learning_rate=0.5, max_grad_norm=0)
    watch = StopAtNaN()
    state = TrainerState(global_step=17)

    def step(loss: float, norm: float) -> None:
        watch.loss(torch.tensor(loss))
        watch.gradient(torch.tensor(norm))
        watch.on_step_end(args, state, None)

    for loss, norm in [(math.nan, 1.0), (1.0, math.inf), (1.0, 1.0), (1.0, math.nan), (math.inf, 1.0)]:
        step(loss, norm)  # never three in a row
    with pytest.raises(
        InputError, match=r"step 17: the gradient norm is nan, for the third time in a row"
    ) as stopped:
        step(2.0, math.nan)
    assert "learning_rate is 0.5, max_grad_norm is 0" in str(stopped.value)
    assert "the last checkpoint before that: none" in str(stopped.value)


def make_trainer(folder, **settings) -> HyenaDNATrainer:
    args = RecipeArguments(
        output_dir=str(folder),
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="steps",
        save_steps=1,
        **settings,
    )
    model = random_model(HyenaDNAForSequenceClassification, n_layer=1)
    collator = DataCollatorWithPadding(HyenaDNATokenizer())
    return HyenaDNATrainer(
        model=model, args=args, train_dataset=classification_rows(), data_collator=collator
    )


def test_the_checkpoint_before_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    """Transformers deletes it first: a kill in between would leave nothing to resume from."""
    write = trainer_module.write_manifest

    def killed(checkpoint):
        if checkpoint.name == "checkpoint-2":
            raise KeyboardInterrupt
        write(checkpoint)

    monkeypatch.setattr(trainer_module, "write_manifest", killed)
    (tmp_path / "checkpoint-1 (copy)").mkdir()
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path, max_steps=3, save_total_limit=1).train()
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-1")
    monkeypatch.undo()

    trainer = make_trainer(tmp_path, max_steps=3, save_total_limit=1)
    trainer.train(resume_from_checkpoint=last_complete_checkpoint(tmp_path))
    assert trainer.state.global_step == 3 and trainer.args.save_total_limit == 1
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-3", "checkpoint-1 (copy)"}


@pytest.mark.parametrize("content", ["", "{", "[1]", "3", "null", "\xff"])
def test_a_damaged_settings_file_is_named(content, tmp_path):
    """Of `variants` and every recipe (C2)."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / SETTINGS_FILE).write_text(content, encoding="latin-1")
    with pytest.raises(
        InputError, match=r"run_settings\.json (cannot be read|holds a \w+, but a JSON object)"
    ):
        check_output_folder(folder, {"seed": 1}, resume=True)


@pytest.mark.parametrize("content", ["", "{", "[1]", "null"])
def test_a_damaged_metrics_file_is_named(content, tmp_path):
    assert finished_results(tmp_path) is None
    (tmp_path / METRICS_FILE).write_text(content)
    with pytest.raises(
        InputError, match=r"metrics\.json (cannot be read|holds a \w+, but a JSON object).*delete it"
    ):
        finished_results(tmp_path)


def test_fsdp2_keeps_the_weights_in_float32_under_bf16(tmp_path, monkeypatch):
    """Without a GPU Trainer makes no FSDP plugin of its own: it is handed one as Accelerate would
    prepare it.
    """
    args = RecipeArguments(output_dir=str(tmp_path), bf16=True, use_cpu=True, disable_tqdm=True)
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    plugin.set_mixed_precision("bf16")
    assert plugin.mixed_precision_policy.param_dtype == torch.bfloat16
    Accelerator(mixed_precision="bf16", cpu=True)
    monkeypatch.setitem(AcceleratorState._shared_state, "fsdp_plugin", plugin)
    HyenaDNATrainer(model=random_model(), args=args)
    assert plugin.mixed_precision_policy is None


class Hostile:
    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


def test_a_hostile_pickle_in_a_checkpoint_is_not_run(tmp_path, monkeypatch):
    """Its manifest may be right. It was 20 lines of PyTorch's traceback (C12)."""
    monkeypatch.chdir(tmp_path)
    args = finetune_args("run", max_steps=1, resume=True)
    finetune(args, make_rows())
    (checkpoint,) = Path("run").glob("checkpoint-*")
    torch.save(Hostile(), checkpoint / "optimizer.pt")
    write_manifest(checkpoint)
    Path("run/metrics.json").unlink()
    with pytest.raises(InputError, match=r"checkpoint-1 holds a pickle that would run code: nothing was run"):
        finetune(finetune_args("run", max_steps=1, resume=True), make_rows())
    assert not Path("ran").exists()
