"""What `hyenadna finetune` does without flags: the checkpoint, the strands, the k-mers beside it."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from sklearn.metrics import log_loss, matthews_corrcoef

from hyenadna.errors import InputError
from hyenadna.genomics.labelled import read_labelled_data
from hyenadna.genomics.letters import reverse_complement
from hyenadna.training import finetune as module
from hyenadna.training.experiments.benchmark import BenchmarkArguments, _run_arguments
from hyenadna.training.experiments.report import collect
from hyenadna.training.finetune import BASELINES_FILE, PATIENCE, FinetuneArguments, finetune, parse, verdict
from hyenadna.training.runs import baselines
from hyenadna.training.runs.baselines import LOGISTIC, count_kmers, fit_kmers
from hyenadna.training.runs.models import SHIPPED, load_tokenizer
from hyenadna.training.runs.strands import READ, Strands
from hyenadna.training.runs.supervised import StrandedRows

from .helpers.recipes import QUICK, TINY, make_rows


def tiny(output_dir, **changes) -> FinetuneArguments:
    """A tiny model from scratch; every other setting at its default."""
    return FinetuneArguments(output_dir=str(output_dir), **{**TINY, **QUICK, **changes})


def one_way(n: int = 120, seed: int = 0) -> Dataset:
    """Rows whose strand is their label: A and C against T and G, which are their complements."""
    rng = np.random.default_rng(seed)
    rows = {"sequence": [], "label": []}
    for i in range(n):
        letters = ("AC", "TG")[i % 2]
        rows["sequence"].append("".join(rng.choice(list(letters), 24)))
        rows["label"].append(letters)
    return Dataset.from_dict(rows)


# ------------------------------------------------------------------------------------- the checkpoint


def test_without_flags_a_run_starts_from_the_checkpoint_in_the_package(tmp_path):
    assert parse([]).model == SHIPPED == "starter_1k"
    assert parse(["--model", "none"]).model is None
    assert parse(["--d_model", "64"]).model is None  # a shape is that of a model from scratch
    assert parse(["--model", "elsewhere"]).model == "elsewhere"
    with pytest.raises(InputError, match=r"'d_model': 64.*checkpoint has its own"):
        finetune(FinetuneArguments(output_dir=str(tmp_path / "a"), model=SHIPPED, d_model=64), make_rows())
    result = finetune(
        FinetuneArguments(output_dir=str(tmp_path / "b"), freeze_backbone=True, **QUICK), make_rows(20)
    )
    assert result.results["settings"]["model"] == SHIPPED
    assert result.model.config.d_model == 256 and result.model.config.pooling == "mean"
    assert load_tokenizer(SHIPPED)("ACGT")["input_ids"][:4] == [7, 8, 9, 10]


def test_a_recipe_in_yaml_keeps_its_shape_with_model_none(tmp_path):
    (tmp_path / "wide.yaml").write_text("d_model: 256\n")
    assert parse([str(tmp_path / "wide.yaml"), "--model", "none"]).d_model == 256
    assert parse([str(tmp_path / "wide.yaml"), "--model=none"]).d_model == 256
    assert parse([str(tmp_path / "wide.yaml"), "--model", "elsewhere"]).d_model is None


def test_sequences_too_long_for_the_checkpoint_name_the_ways_out(tmp_path):
    rows = Dataset.from_dict({"sequence": ["ACGT" * 300, "AC", "GT", "CC"], "label": [1, 0, 1, 0]})
    args = FinetuneArguments(output_dir=str(tmp_path / "run"), **QUICK)
    with pytest.raises(InputError, match=r"larger max_seq_len, --model none --max_seq_len 1200.*truncation"):
        finetune(args, DatasetDict(train=rows, validation=rows))
    assert not (tmp_path / "run").exists()


def test_a_benchmark_set_that_is_too_long_starts_from_scratch():
    task = "dummy_mouse_enhancers_ensembl"  # up to 4,707 bases

    def run(task, **settings):
        args = BenchmarkArguments(suite="genomic-benchmarks", **settings)
        return _run_arguments(args, task, None, "seed0", 0, None)

    assert run(task).model is None and run(task).max_seq_len == 4709
    assert run("demo_human_or_worm").model == SHIPPED
    assert run(task, model=SHIPPED).model == SHIPPED
    assert run("demo_human_or_worm", model="none").model is None


# ----------------------------------------------------------------------------------------- the strands


def test_the_validation_rows_choose_the_strands():
    either = fit_kmers(read_labelled_data(make_rows(120)))["strands"]
    assert either["better"] == "both" and either["rows_asked"] == 120  # few rows: all are asked, in folds
    one = fit_kmers(read_labelled_data(one_way()))["strands"]
    # nothing is left to tell the classes apart
    assert one["better"] == "one" and one["loss_both"] > 0.6 > one["loss_one"]


def test_enough_validation_rows_are_asked_alone(monkeypatch):
    data = read_labelled_data(one_way(), validation_fraction=0.25)
    monkeypatch.setattr(baselines, "ENOUGH_ROWS", 30)
    answer = fit_kmers(data)["strands"]
    assert answer["rows_asked"] == len(data.parts["validation"]) == 30
    # by hand: the same penalty, k-mers as shares of a row, the log loss of scikit-learn
    shares = {}
    for part in ("train", "validation"):
        counts = count_kmers(data.parts[part]["sequence"][:], range(1, 7))
        shares[part] = (counts / counts.sum(axis=1)).tocsr()
    model = baselines._logistic(fit_kmers(data)["C"]).fit(shares["train"], data.parts["train"]["label"][:])
    expected = log_loss(data.parts["validation"]["label"][:], model.predict_proba(shares["validation"]))
    assert answer["loss_one"] == pytest.approx(expected, rel=1e-4)


def test_a_run_does_what_the_rows_chose(tmp_path, capsys):
    one = finetune(tiny(tmp_path / "one"), one_way()).results
    assert one["strands"]["used"] == one["strands"]["better"] == "one"
    assert "strands: one. Validation loss of k-mers" in capsys.readouterr().out
    both = finetune(tiny(tmp_path / "both"), make_rows(60)).results
    assert both["strands"]["used"] == "both"
    assert "loss_forward_strand" in both["metrics"]["validation"]
    forced = finetune(tiny(tmp_path / "forced", strands="both"), one_way()).results
    assert forced["strands"] == {"used": "both"}


def test_both_strands_are_averaged_while_training_too(tmp_path):
    data = DatasetDict(train=make_rows(40), validation=make_rows(12, seed=1))
    result = finetune(tiny(tmp_path / "run", strands="both", num_train_epochs=2), data)
    log = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    evaluations = [entry for entry in log if "eval_loss" in entry]
    best = min(evaluations, key=lambda entry: entry["eval_loss"])
    assert result.results["best_checkpoint"] == f"checkpoint-{best['step']}"

    labels = [["AT rich", "GC rich"].index(label) for label in data["validation"]["label"]]
    logits = []
    for strand in (str, reverse_complement):
        sequences = [strand(sequence) for sequence in data["validation"]["sequence"]]
        batch = result.tokenizer(sequences, padding=True, return_tensors="pt")
        with torch.no_grad():
            logits.append(result.model.eval()(**batch).logits)
    losses = [torch.nn.functional.cross_entropy(one, torch.tensor(labels)).item() for one in logits]
    assert best["eval_loss"] == pytest.approx(np.mean(losses), abs=1e-5)
    predicted = (logits[0] + logits[1]).argmax(dim=1).numpy()
    assert best["eval_mcc"] == pytest.approx(matthews_corrcoef(labels, predicted))
    final = result.results["metrics"]["validation"]
    assert final["loss"] == pytest.approx(best["eval_loss"], abs=1e-6)
    assert final["mcc"] == pytest.approx(best["eval_mcc"])


def test_rows_and_after_them_their_reverse_complements():
    rows = make_rows(5)
    both = StrandedRows(rows, both=True)
    assert len(both) == 10
    assert [both[i]["sequence"] for i in range(5)] == rows["sequence"][:]
    assert [both[5 + i]["sequence"] for i in range(5)] == [reverse_complement(s) for s in rows["sequence"]]
    assert [both[i]["label"] for i in range(10)] == rows["label"][:] * 2


def test_rna_has_one_strand(tmp_path, capsys):
    rows = make_rows(40)
    rna = Dataset.from_dict(
        {"sequence": [s.replace("T", "U") for s in rows["sequence"]], "label": rows["label"][:]}
    )
    with pytest.raises(InputError, match=r"row \d+ of the train rows holds U: RNA has one strand"):
        finetune(tiny(tmp_path / "both", strands="both"), rna)
    assert not (tmp_path / "both").exists()
    assert finetune(tiny(tmp_path / "auto"), rna).results["strands"] == {"used": "one"}
    assert "strands: one (k-mers cannot be asked" in capsys.readouterr().out


def test_labels_that_k_mers_cannot_be_asked_about(tmp_path):
    rows = make_rows(40)
    numbers = Dataset.from_dict({"sequence": rows["sequence"][:], "label": np.arange(40.0)})
    results = finetune(tiny(tmp_path / "run", problem_type="regression"), numbers).results
    assert results["strands"] == {"used": "one"} and "baselines" not in results
    # the labels of numbers have two strands all the same
    both = finetune(tiny(tmp_path / "both", problem_type="regression", strands="both"), numbers).results
    assert both["strands"] == {"used": "both"}


def test_the_older_flags_keep_their_meaning(tmp_path):
    old = finetune(tiny(tmp_path / "old", reverse_complement=0.5), make_rows()).results
    assert old["strands"] == {"used": "mixed"} and "loss_forward_strand" not in old["metrics"]["validation"]
    for strands in ("one", "both"):
        with pytest.raises(InputError, match=f"strands is '{strands}': leave test_time_averaging out"):
            tiny(tmp_path, strands=strands, test_time_averaging=True)
    with pytest.raises(InputError, match="strands is 'two'; use auto, one or both"):
        tiny(tmp_path, strands="two")
    assert READ["one"].name == "one" and Strands(0.5, True, False).name == "mixed"


# ------------------------------------------------------------------------------------------ the k-mers


def test_a_resumed_run_reads_what_the_first_one_fitted(tmp_path, monkeypatch):
    data = make_rows(60)
    whole = finetune(tiny(tmp_path / "run"), data).results
    (tmp_path / "run" / "metrics.json").unlink()

    def fit_again(*args, **kwargs):
        raise AssertionError("fitted again")

    monkeypatch.setattr(module, "fit_kmers", fit_again)
    again = finetune(tiny(tmp_path / "run", resume=True), data).results
    assert again["baselines"] == whole["baselines"] and again["strands"] == whole["strands"]
    assert again["metrics"] == whole["metrics"]


def test_what_was_fitted_on_other_rows_is_not_read(tmp_path):
    finetune(tiny(tmp_path / "run"), make_rows(60))
    kept = (tmp_path / "run" / BASELINES_FILE).read_text()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / f".{BASELINES_FILE}").write_text("")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "run_settings.json").write_text("{}")  # it failed before it had anything to lose
    (tmp_path / "new" / BASELINES_FILE).write_text(kept)
    finetune(tiny(tmp_path / "new"), one_way())
    assert json.loads((tmp_path / "new" / BASELINES_FILE).read_text())["strands"]["better"] == "one"


def test_the_report_has_a_line_for_them(tmp_path):
    finetune(tiny(tmp_path / "run"), DatasetDict(train=make_rows(60), test=make_rows(20, seed=1)))
    lines = collect([tmp_path / "run"])
    assert [(line["method"], line["part"]) for line in lines] == [
        (LOGISTIC, "test"),
        ("from scratch (1 x 8)", "test"),
    ]
    without = finetune(tiny(tmp_path / "without", baselines=False, strands="one"), make_rows(40)).results
    assert "baselines" not in without and not (tmp_path / "without" / BASELINES_FILE).exists()


def test_the_verdict_says_who_won_and_what_to_try():
    kmers = {"seconds": 3.2, "metrics": {"test": {"mcc": 0.539}}}

    def say(mcc, strands="both", **settings):
        args = FinetuneArguments(**settings)
        return verdict(args, READ[strands], kmers, {"test": {"mcc": mcc}}, "test")

    assert say(0.546).endswith("(3 s): mcc 53.9 %. This model: 54.6 %, 0.7 points higher.")
    lost = say(0.502)
    assert "3.7 points LOWER. To try: a larger checkpoint" in lost and "--lora_rank 8" in lost
    assert "--strands both" not in lost and "--strands both" in say(0.502, "one")
    assert "start from a checkpoint" in say(0.502, model="none")


def test_huge_data_are_sampled_and_every_class_stays(monkeypatch):
    monkeypatch.setattr(baselines, "MOST_ROWS", 30)
    labels = np.zeros(200, dtype=int)
    labels[7] = 1  # a class of one row
    sequences = [f"{'ACGT' * 5}{'A' * (i % 3)}" for i in range(200)]
    kept, of_kept = baselines._sample(sequences, labels)
    assert 30 <= len(kept) == len(of_kept) <= 31 and 1 in of_kept
    monkeypatch.setattr(baselines, "MOST_BASES", 100)
    assert len(baselines._sample(sequences, labels)[0]) <= 6
    few = ["ACGT"] * 3
    assert baselines._sample(few, labels[:3])[0] is few


def test_early_stopping_is_on_and_steps_aside(tmp_path):
    assert tiny(tmp_path).patience == PATIENCE and tiny(tmp_path).metric_for_best_model == "loss"
    assert tiny(tmp_path, patience=0).patience == 0
    assert tiny(tmp_path, load_best_model_at_end=False).patience == 0
    # evaluations every few steps are no epochs
    assert tiny(tmp_path, eval_strategy="steps", save_strategy="steps").patience == 0
