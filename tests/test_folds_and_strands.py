"""Cross-validation folds, both strands at test time, and data that the recipes hand over
themselves.
"""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset, DatasetDict
from sklearn.metrics import matthews_corrcoef

from hyenadna.errors import InputError
from hyenadna.genomics.files import part_of_file
from hyenadna.genomics.labelled import count_table, read_labelled_data
from hyenadna.genomics.letters import reverse_complement, strand_free
from hyenadna.genomics.sources import has_labels
from hyenadna.training.finetune import finetune
from hyenadna.training.runs.supervised import make_classifier

from .helpers.recipes import finetune_args as make_args
from .helpers.recipes import make_rows


def folds_of(data, k: int, **settings) -> list:
    return [read_labelled_data(data, fold=(i, k), **settings) for i in range(k)]


def test_each_row_is_validated_once_and_the_test_rows_stay():
    rows = make_rows(41)
    folds = folds_of(DatasetDict(train=rows, test=make_rows(6, seed=1)), 4)
    validated = [data.parts["validation"]["sequence"][:] for data in folds]
    assert sorted(itertools.chain(*validated)) == sorted(rows["sequence"])
    for data in folds:
        assert data.parts["test"]["sequence"][:] == make_rows(6, seed=1)["sequence"][:]
        assert len(data.parts["train"]) + len(data.parts["validation"]) == 41
        shares = np.bincount(data.parts["validation"]["label"]) / len(data.parts["validation"])
        assert shares == pytest.approx([0.5, 0.5], abs=0.1)  # classes keep their proportions
    again = folds_of(DatasetDict(train=rows, test=make_rows(6, seed=1)), 4)
    assert [data.parts["validation"]["sequence"][:] for data in again] == validated
    other = folds_of(DatasetDict(train=rows, test=make_rows(6, seed=1)), 4, seed=7)
    assert [data.parts["validation"]["sequence"][:] for data in other] != validated


def test_without_test_rows_the_fold_is_the_test_part():
    rows = make_rows(30)
    folds = folds_of(rows, 3)
    assert sorted(itertools.chain(*(data.parts["test"]["sequence"] for data in folds))) == sorted(
        rows["sequence"]
    )
    for data in folds:
        parts = [set(data.parts[part]["sequence"]) for part in ("train", "validation", "test")]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 30 and parts[1]


def test_a_given_validation_part_is_dealt_too():
    folds = folds_of(
        DatasetDict(train=make_rows(20), validation=make_rows(8, seed=3), test=make_rows(4, seed=1)), 2
    )
    dealt = sorted(itertools.chain(*(data.parts["validation"]["sequence"] for data in folds)))
    assert dealt == sorted([*make_rows(20)["sequence"], *make_rows(8, seed=3)["sequence"]])


@pytest.mark.parametrize("problem_type", ["single_label_classification", "regression"])
def test_the_same_dna_stands_in_one_fold(problem_type):
    rows = make_rows(20)
    twins = rows["sequence"][:] + [reverse_complement(s) for s in rows["sequence"]] + rows["sequence"][:]
    labels = rows["label"][:] * 3 if problem_type.startswith("single") else list(range(20)) * 3
    data = Dataset.from_dict({"sequence": twins, "label": labels})
    for fold in folds_of(data, 3, problem_type=problem_type):
        inside = {strand_free(s) for s in fold.parts["test"]["sequence"]}
        outside = {strand_free(s) for part in ("train", "validation") for s in fold.parts[part]["sequence"]}
        assert not inside & outside and len(fold.parts["test"]) == 3 * len(inside)


def test_bad_folds(tmp_path):
    for fold in ((0, 1), (3, 3), (-1, 3)):
        with pytest.raises(InputError, match="counted from 0"):
            read_labelled_data(make_rows(20), fold=fold)
    with pytest.raises(InputError, match="12 folds, but only 10 rows of a class"):
        read_labelled_data(make_rows(20), fold=(0, 12))
    with pytest.raises(InputError, match="they go together"):
        make_args(tmp_path, fold=0)


def test_both_strands_are_averaged_at_test_time(tmp_path):
    data = DatasetDict(train=make_rows(30), test=make_rows(12, seed=1))
    plain = finetune(make_args(tmp_path / "plain"), data)
    both = finetune(make_args(tmp_path / "both", test_time_averaging=True), data)
    assert all(
        torch.equal(a, b) for a, b in zip(plain.model.parameters(), both.model.parameters(), strict=True)
    )
    logits = []
    with torch.no_grad():
        for sequence in data["test"]["sequence"]:
            strands = (
                both.tokenizer(s, return_tensors="pt") for s in (sequence, reverse_complement(sequence))
            )
            logits.append(torch.stack([both.model.eval()(**strand).logits[0] for strand in strands]))
    logits = torch.stack(logits)
    table = pd.read_csv(tmp_path / "both" / "predictions.csv")
    assert table["probability_GC rich"].to_numpy() == pytest.approx(
        logits.mean(1).softmax(-1)[:, 1].numpy(), abs=1e-5
    )
    forward = pd.read_csv(tmp_path / "plain" / "predictions.csv")
    assert forward["probability_GC rich"].to_numpy() == pytest.approx(
        logits[:, 0].softmax(-1)[:, 1].numpy(), abs=1e-5
    )
    metrics = json.loads((tmp_path / "both" / "metrics.json").read_text())["metrics"]["test"]
    assert metrics["mcc"] == pytest.approx(matthews_corrcoef(table["label"], table["predicted"]))
    assert metrics["loss_forward_strand"] == pytest.approx(plain.results["metrics"]["test"]["loss"])


def test_hardware_and_task_are_written_down(tmp_path):
    result = finetune(make_args(tmp_path / "run", task="mine", folds=3, fold=1), make_rows(24)).results
    assert result["settings"]["task"] == "mine" and result["rows"]["test"] == 8
    assert (
        set(result["hardware"]) == {"device", "processes", "threads"} and result["hardware"]["processes"] == 1
    )
    assert result["hardware"]["threads"] == torch.get_num_threads()


def test_many_labels_are_written_as_arrays(tmp_path):
    rng, rows = np.random.default_rng(0), make_rows(24)
    labels = rng.integers(0, 2, (24, 60)).astype(float).tolist()
    data = Dataset.from_dict({"sequence": rows["sequence"][:], "label": labels})
    settings = {"problem_type": "multi_label_classification", "validation_fraction": 0.25}
    result = finetune(make_args(tmp_path / "run", **settings), data)
    with np.load(tmp_path / "run" / "predictions.npz") as content:
        assert (
            content["label"].tolist() == np.array(labels)[content["row"]].tolist()
            and len(content["row"]) == 6
        )
        sequence = rows["sequence"][int(content["row"][2])]
        batch = result.tokenizer(sequence, return_tensors="pt")
        with torch.no_grad():
            expected = result.model.eval()(**batch).logits[0].sigmoid().numpy()
        assert content["probability"][2] == pytest.approx(expected, abs=1e-5)
    assert not (tmp_path / "run" / "predictions.csv").exists()
    table = count_table(read_labelled_data(data, problem_type="multi_label_classification"))
    assert "... and 10 more" in table


def test_checked_data_are_taken_as_they_are(tmp_path):
    data = DatasetDict(train=make_rows(30), test=make_rows(12, seed=1))
    args = make_args(tmp_path / "a")
    first = finetune(args, read_labelled_data(data, seed=args.seed)).results
    second = finetune(make_args(tmp_path / "b"), data).results
    assert first["metrics"] == second["metrics"]
    assert first["settings"]["data_sha256"] == second["settings"]["data_sha256"]


def test_what_parts_and_labels_are_called(tmp_path):
    names = {
        "train.csv": "train",
        "dev": "validation",
        "promoter_all_test.fna": "test",
        "valid_hg19_coords_targets.csv": "validation",
        "training.csv": None,
        "my_train_rows.csv": None,
    }
    for name, part in names.items():
        assert part_of_file(tmp_path / name) == part
    (tmp_path / "a.fa").write_text(">x|1\nACGT\n")
    (tmp_path / "b.fa").write_text(">x some words\nACGT\n")
    (tmp_path / "c.csv").write_text("sequence,label\nACGT,1\n")
    make_rows(3).to_parquet(tmp_path / "d.parquet")
    found = [has_labels(tmp_path / name, "label") for name in ("a.fa", "b.fa", "c.csv", "d.parquet", "e.txt")]
    assert found == [True, False, True, True, False] and not has_labels(tmp_path / "c.csv", "class")


def test_from_scratch_is_from_scratch(tmp_path):
    """Folds and seeds start from weights of their own, not from those of the run before."""
    models = [
        make_classifier(make_args(tmp_path, seed=s), "single_label_classification", ["a", "b"])[0]
        for s in (0, 1, 0)
    ]
    weights = [model.score.weight for model in models]
    assert torch.equal(weights[0], weights[2]) and not torch.equal(weights[0], weights[1])
