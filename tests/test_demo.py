"""The demos, cut to a fifth of an epoch or to few rows: what they report and leave, and must not
touch.
"""

import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BatchEncoding, pipeline

from hyenadna.errors import InputError
from hyenadna.genomics.labelled import load_splice_junctions, load_tata_promoters
from hyenadna.genomics.letters import reverse_complement
from hyenadna.training import cli
from hyenadna.training import demo as demo_module
from hyenadna.training.demo import DEMOS, PICTURE_FILE, demo, logits_in_new_process
from hyenadna.training.finetune import FinetuneArguments
from hyenadna.training.runs.baselines import LOGISTIC

SPLICE = DEMOS["splice"]


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "hyenadna-demo"
    return folder, demo(str(folder), seed=0, data="splice", epochs=0.2)


def test_it_measures_the_held_out_fifth(result):
    folder, measured = result
    test = load_splice_junctions()["test"]
    predictions = pd.read_csv(folder / "predictions.csv")
    assert predictions["id"].tolist() == test["id"][:]
    names = test.features["label"].names
    assert predictions["label"].tolist() == [names[label] for label in test["label"]]
    accuracy = (predictions["label"] == predictions["predicted"]).mean()
    assert measured["metrics"]["test"]["accuracy"] == pytest.approx(accuracy)
    assert (
        measured["rows"]["test"] == 601 and measured["rows"]["train"] + measured["rows"]["validation"] == 2403
    )


def test_it_trains_from_scratch_and_never_on_the_test_part(result):
    settings = json.loads((result[0] / "metrics.json").read_text())["settings"]
    assert settings["model"] is None and settings["test_data"] is None


def test_the_same_rows_from_the_checkpoint(result):
    folder, measured = result
    tuned = json.loads((folder / SPLICE.other.folder / "metrics.json").read_text())
    assert tuned["settings"]["model"] == "starter_1k" and tuned["rows"] == measured["rows"]
    assert f"from checkpoint  accuracy {tuned['metrics']['test']['accuracy']:.4f}" in measured["summary"]
    assert tuned["parameters"] > 400_000 and tuned["settings"]["num_train_epochs"] == pytest.approx(0.15)
    assert not (folder / SPLICE.export_folder / SPLICE.other.folder).exists()


def test_the_summary_says_what_was_measured(result):
    folder, measured = result
    text = (folder / "demo_summary.txt").read_text()
    assert text.strip() == measured["summary"]
    assert f"accuracy         {measured['metrics']['test']['accuracy']:.4f}" in text
    assert "most frequent class: 0.5507" in text  # 331 / 601
    assert float(re.search(r"largest difference of a logit: (\S+)", text).group(1)) <= 1e-5
    example = re.search(r'\)\("([ACGT]+)"\)', text).group(1)
    assert example == load_splice_junctions()["test"][0]["sequence"]
    answer = pipeline("text-classification", str(folder), device="cpu")(example)[0]
    assert answer["label"] == pd.read_csv(folder / "predictions.csv")["predicted"][0]


def test_logits_of_the_new_process_are_those_of_this_one(result):
    folder, _ = result
    sequences = load_splice_junctions()["test"]["sequence"][:7]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        logits = model(**tokenizer(sequences, padding=True, return_tensors="pt")).logits.numpy()
    np.testing.assert_allclose(logits_in_new_process(folder, sequences), logits, rtol=0, atol=1e-6)


def test_it_ends_with_an_exported_folder_whose_card_shows_what_was_measured(result):
    folder, measured = result
    exported = folder / SPLICE.export_folder
    card = ModelCard.load(exported / "README.md")
    values = {(r.dataset_split, r.metric_name): r.metric_value for r in card.data.eval_results}
    assert values == {(part, name): v for part, ms in measured["metrics"].items() for name, v in ms.items()}
    assert f"| accuracy | {measured['metrics']['validation']['accuracy']:.4f} | " in card.text
    assert "2,163 train, 240 validation, 601 test" in card.text and "CC BY 4.0" in card.text
    assert (
        "![confusion_matrix.png](confusion_matrix.png)" in card.text
        and (exported / "confusion_matrix.png").exists()
    )
    assert "hyenadna push" in measured["summary"]
    ours = AutoModelForSequenceClassification.from_pretrained(folder)
    again = AutoModelForSequenceClassification.from_pretrained(exported)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), again.parameters(), strict=True))
    assert str(folder.parent) not in card.content + (exported / "metrics.json").read_text()


def test_a_folder_that_does_not_load_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="does not load in a new process"):
        logits_in_new_process(tmp_path, ["ACGT"])


def test_nothing_but_the_folder_is_left(result):
    folder, _ = result
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_it_refuses_a_folder_of_something_else(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert cli.main(["demo", "--output_dir", str(tmp_path)]) == 1
    assert "something else than an earlier demo" in capsys.readouterr().err
    with pytest.raises(InputError):
        demo(str(tmp_path / "notes.txt"))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


class FakeModel(torch.nn.Module):
    device = torch.device("cpu")

    def forward(self, input_ids):
        return SimpleNamespace(logits=torch.zeros(len(input_ids), 2))


def fake_finetune(args, data):
    """Write what seed it got, without the training: the demo's handling of folders is what is
    tested.
    """
    folder = Path(args.output_dir)
    folder.mkdir(exist_ok=True)
    assert args.resume and (args.model is None) == (folder.name == DEMOS["tata"].other.folder)
    (folder / "seed.txt").write_text(str(args.seed))
    scores = dict.fromkeys(("accuracy", "f1_macro", "mcc", "auroc"), 0.5)
    return SimpleNamespace(
        model=FakeModel(),
        tokenizer=lambda sequences, **kwargs: BatchEncoding({"input_ids": torch.zeros(len(sequences), 1)}),
        results={
            "parameters": 1,
            "metrics": {"test": scores},
            "baselines": {LOGISTIC: {"metrics": {"test": scores}}},
        },
    )


@pytest.fixture
def fake_training(monkeypatch):
    monkeypatch.setattr(demo_module, "finetune", fake_finetune)
    monkeypatch.setattr(
        demo_module, "logits_in_new_process", lambda folder, sequences: np.zeros((len(sequences), 2))
    )
    monkeypatch.setattr(demo_module, "export_run", lambda run, plan: run / plan.export_folder)
    monkeypatch.setattr(demo_module, "_draw_curves", lambda *args: None)
    return monkeypatch


def test_a_second_demo_replaces_the_first_only_after_success(fake_training, tmp_path):
    folder = tmp_path / "demo"
    demo(str(folder), seed=1)
    assert (folder / "seed.txt").read_text() == "1"
    fake_training.setattr(
        demo_module, "logits_in_new_process", lambda folder, sequences: np.ones((len(sequences), 2))
    )
    with pytest.raises(RuntimeError, match="logits differ by 1"):
        demo(str(folder), seed=2)
    assert (folder / "seed.txt").read_text() == "1"
    fake_training.setattr(
        demo_module, "logits_in_new_process", lambda folder, sequences: np.zeros((len(sequences), 2))
    )
    demo(str(folder), seed=2)
    assert (folder / "seed.txt").read_text() == "2"
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_a_kill_between_the_renames_does_no_harm(fake_training, tmp_path):
    demo(str(tmp_path / "demo"), seed=1)
    (tmp_path / ".demo.replaced").mkdir()
    (tmp_path / ".demo.replaced" / "old").write_text("")
    demo(str(tmp_path / "demo"), seed=2)
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_an_interrupted_demo_is_continued(fake_training, tmp_path):
    """Ctrl-C leaves the earlier demo and the unfinished run; the next demo of that seed hands the
    run to `finetune`.
    """
    folder = tmp_path / "demo"
    demo(str(folder), seed=1)
    seen = []

    def interrupted(args, data):
        seen.append((args.output_dir, args.resume))
        Path(args.output_dir).mkdir()
        (Path(args.output_dir) / "checkpoint").write_text("")
        raise KeyboardInterrupt

    with fake_training.context() as patch:
        patch.setattr(demo_module, "finetune", interrupted)
        threads = torch.get_num_threads()
        assert cli.main(["demo", "--output_dir", str(folder), "--seed", "2"]) == 130
        assert torch.get_num_threads() == threads
    assert (folder / "seed.txt").read_text() == "1"
    (unfinished,) = (path for path in tmp_path.iterdir() if path != folder)
    assert seen == [(str(unfinished), True)]
    assert cli.main(["demo", "--output_dir", str(folder), "--seed", "2"]) == 0
    assert (folder / "seed.txt").read_text() == "2"
    assert (folder / "checkpoint").exists()  # the same folder went on
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_settings_are_settings_of_finetune():
    for plan in DEMOS.values():
        for training in (plan.main, plan.other):
            assert set(training.settings) <= set(FinetuneArguments.__dataclass_fields__)
    longest = max(len(row["sequence"]) for rows in load_splice_junctions().values() for row in rows)
    assert SPLICE.main.settings["max_seq_len"] >= longest == 60


def test_data_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match="data is 'rna'; use tata or splice"):
        demo(str(tmp_path / "demo"), data="rna")


# ------------------------------------------------------------------------------------ TATA promoters


@pytest.fixture(scope="module")
def tata(tmp_path_factory):
    """The demo on 64 training, 40 validation and 40 test rows, an evaluation after each step."""
    data = load_tata_promoters()
    few = {"train": 64, "validation": 40, "test": 40}

    def load():
        return type(data)({part: data[part].shuffle(seed=0).select(range(n)) for part, n in few.items()})

    def shortened(training):
        steps = {"eval_steps": 1, "save_steps": 1, "logging_steps": 1}
        return dataclasses.replace(training, settings={**training.settings, **steps})

    plan = DEMOS["tata"]
    plan = dataclasses.replace(plan, load=load, main=shortened(plan.main), other=shortened(plan.other))
    folder = tmp_path_factory.mktemp("tata") / "demo"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DEMOS, "tata", plan)
        return folder, demo(str(folder), seed=1)


def test_it_starts_from_the_checkpoint_and_compares_with_scratch_and_k_mers(tata):
    folder, measured = tata
    scratch = json.loads((folder / "from-scratch" / "metrics.json").read_text())
    assert measured["settings"]["model"] == "starter_1k" and scratch["settings"]["model"] is None
    assert measured["rows"] == scratch["rows"]
    kmers = measured["baselines"][LOGISTIC]["metrics"]["test"]
    text = measured["summary"]
    assert f"from scratch     accuracy {scratch['metrics']['test']['accuracy']:.4f}" in text
    assert f"k-mers           accuracy {kmers['accuracy']:.4f}, MCC {kmers['mcc']:.4f}" in text


def test_the_picture_shows_what_was_logged(tata, monkeypatch):
    folder, _ = tata
    assert (folder / PICTURE_FILE).read_bytes().startswith(b"\x89PNG")
    drawn = []
    monkeypatch.setattr(demo_module, "write_learning_curves", lambda *args: drawn.append(args))
    demo_module._draw_curves(folder, DEMOS["tata"], json.loads((folder / "metrics.json").read_text()))
    ((_, curves, level, name),) = drawn
    assert list(curves) == ["from checkpoint", "from scratch", "k-mers"] and LOGISTIC in name
    # Rows read, in steps of 32: one pass, and two.
    rows_read = {"from checkpoint": [32, 64], "from scratch": [32, 64, 96, 128]}
    for start, where in (("from checkpoint", folder), ("from scratch", folder / "from-scratch")):
        log = json.loads((where / "trainer_state.json").read_text())["log_history"]
        assert curves[start][1] == [entry["eval_mcc"] for entry in log if "eval_mcc" in entry]
        assert curves[start][0] == rows_read[start]
    kmers = json.loads((folder / "baselines.json").read_text())
    assert curves["k-mers"][0] == [8, 16, 32, 64]
    assert curves["k-mers"][1][-1] == level == kmers["metrics"]["validation"]["mcc"]


def test_no_30_bases_of_a_test_promoter_are_in_the_training_rows():
    data = load_tata_promoters()
    assert {part: len(rows) for part, rows in data.items()} == {"train": 4548, "validation": 595, "test": 611}

    def words(rows):
        strands = [strand for s in rows["sequence"] for strand in (s, reverse_complement(s))]
        return {s[i : i + 30] for s in strands for i in range(len(s) - 29)}

    held_out = words(data["test"])
    for part in ("train", "validation"):
        for sequence in data[part]["sequence"]:
            assert held_out.isdisjoint({sequence[i : i + 30] for i in range(len(sequence) - 29)})
    letters = set("".join(s for rows in data.values() for s in rows["sequence"]))
    assert letters == set("ACGT")
