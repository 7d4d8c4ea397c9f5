"""The report: what is averaged, what stands beside it, and what it warns of."""

import json

import numpy as np
import pytest

from hyenadna.errors import InputError
from hyenadna.training import cli
from hyenadna.training.experiments.report import collect, report_text, summarize, warnings_of, write_report

from .conftest import locked_by_another_process

HARDWARE = {"device": "Abacus", "processes": 1, "threads": 2}


def write_run(
    folder, task="human_nontata_promoters", accuracy=0.9, rows=None, part="test", **settings
) -> None:
    content = {
        "metrics": {part: {"loss": 0.3, "accuracy": accuracy, "mcc": None, "auroc": 0.95}},
        "rows": {"train": 24387, "validation": 2710, "test": 9034} if rows is None else rows,
        "parameters": 436_480,
        "train_seconds": 60.0,
        **({} if "model" in settings else {"train_cpu_seconds": 110.0}),
        "hardware": HARDWARE,
        "label_names": ["negative", "positive"],
        "settings": {"task": task, "seed": 0, "learning_rate": 6e-4, **settings},
    }
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(content))


def write_baselines(folder, accuracy: float, task="human_nontata_promoters") -> None:
    result = {"metrics": {"test": {"accuracy": accuracy, "auroc": 0.8}}, "seconds": 2.0}
    content = {
        "task": task,
        "baselines": {"5-mer naive Bayes": result},
        "rows": {"train": 24387, "test": 9034},
    }
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(content))


def test_lines_are_averaged_over_seeds_and_told_apart(tmp_path):
    for seed, accuracy in enumerate((0.90, 0.92, 0.97)):
        write_run(tmp_path / "a" / f"seed{seed}", accuracy=accuracy, seed=seed)
    write_run(tmp_path / "b" / "seed0", accuracy=0.8, learning_rate=1e-3)
    write_run(tmp_path / "c" / "seed0", accuracy=0.96, model="folder/pretrained")
    write_run(tmp_path / "d" / "seed0", accuracy=0.7, model="folder/pretrained", freeze_backbone=True)
    write_baselines(tmp_path / "baselines", 0.6)
    write_baselines(tmp_path / "once more", 0.6)  # of another benchmark on the same rows
    (tasks,) = [summarize(collect([tmp_path]))]
    (rows,) = tasks.values()
    found = {row["method"]: row for row in rows}
    scratch = "from scratch (2 x 128), learning_rate "
    assert set(found) == {
        f"{scratch}0.0006",
        f"{scratch}0.001",
        "pretrained",
        "frozen pretrained",
        "5-mer naive Bayes",
    }
    three = found[f"{scratch}0.0006"]
    assert three["runs"] == 3 and three["seeds"] == [0, 1, 2]
    assert three["metrics"]["accuracy"] == pytest.approx(0.93)
    assert three["sd"]["accuracy"] == pytest.approx(np.std([0.90, 0.92, 0.97], ddof=1))
    assert "mcc" not in three["metrics"] and rows[-1]["method"] == "5-mer naive Bayes"
    text = report_text(tasks)
    assert f"| {scratch}0.0006 | 93.0 ± 3.6 | 95.0 ± 0.0 | 3 (0, 1, 2) | 436,480 | 60 (110 CPU) |" in text
    assert (
        "| pretrained | 96.0 | 95.0 | 1 (0) |" in text
        and "| 5-mer naive Bayes | 60.0 | 80.0 |  |  | 2 |" in text
    )
    assert "| paper, pretrained | 96.6 |" in text and "| paper, from scratch | 93.3 |" in text
    assert "Others in the paper: CNN 84.6; DNABERT 85.6; GPT 87.7." in text
    # beside the row of a later paper, whose epoch was not chosen on the test rows
    assert "| HyenaDNA 5-fold (arXiv 2403.03234) | 94.4 |" in text
    # sqrt(.96 * .04 / 9034)
    assert "9,034 rows tested: an accuracy of 96.0 has a standard error of 0.2." in text
    assert "Abacus, 1 process(es), 2 thread(s)" in text
    # train and validation rows together are those of the paper
    assert "the split differs" not in text


def test_warnings(tmp_path):
    write_run(tmp_path / "few", rows={"train": 90, "validation": 10, "test": 20})
    notes = warnings_of(*next(iter(summarize(collect([tmp_path / "few"])).items())))
    assert notes[:2] == [
        "100 train rows, but 27,097 in the paper: the split differs.",
        "20 test rows, but 9,034 in the paper: the split differs.",
    ]
    write_run(tmp_path / "species", task="species_1024", rows={"train": 90, "validation": 10, "test": 20})
    notes = warnings_of(*next(iter(summarize(collect([tmp_path / "species"])).items())))
    assert notes == ["2 classes, but 5 in the paper: another task."]
    write_run(tmp_path / "val", task="mine", part="validation", rows={"train": 90, "validation": 10})
    ((task, rows),) = summarize(collect([tmp_path / "val"])).items()
    assert task == "mine" and ["validation part" in note for note in warnings_of(task, rows)] == [True]
    write_run(
        tmp_path / "fold", task="cut", folds=3, fold=0, rows={"train": 90, "validation": 10, "test": 20}
    )
    write_run(
        tmp_path / "fold1", task="cut", folds=3, fold=1, rows={"train": 90, "validation": 10, "test": 20}
    )
    ((task, rows),) = summarize(collect([tmp_path / "fold", tmp_path / "fold1"])).items()
    assert len(rows) == 1 and "not every fold" in warnings_of(task, rows)[0]
    write_run(tmp_path / "more", task="cut", model="m", rows={"train": 90, "validation": 10, "test": 40})
    ((task, rows),) = summarize(collect([tmp_path / "fold", tmp_path / "fold1", tmp_path / "more"])).items()
    assert any("different numbers of rows (20, 40)" in note for note in warnings_of(task, rows))


def test_every_line_is_compared_with_the_paper(tmp_path):
    write_run(tmp_path / "whole")
    rows = {"train": 200, "validation": 20, "test": 9034}
    # the second line, and only its training rows are fewer
    write_run(tmp_path / "part", model="m", rows=rows)
    notes = warnings_of(*next(iter(summarize(collect([tmp_path])).items())))
    assert "220 train rows, but 27,097 in the paper: the split differs." in notes


def test_runs_that_are_no_runs_of_one_experiment(tmp_path):
    def notes(*folders: str) -> list[str]:
        ((task, rows),) = summarize(collect([tmp_path / folder for folder in folders])).items()
        assert len(rows) == 1 and rows[0]["runs"] == len(folders)
        return warnings_of(task, rows)

    for folder, seed, digest in (("a", 0, "x"), ("b", 0, "y"), ("c", 0, "x"), ("d", 1, "z")):
        write_run(tmp_path / folder, task="rows", seed=seed, data_sha256=digest)
    assert notes("a", "d") == []  # a validation part of its own is split off for each seed
    assert ["runs on different data are averaged" in note for note in notes("a", "b")] == [True]
    assert ["a seed was run more than once" in note for note in notes("a", "c")] == [True]


def test_what_is_shown_of_other_problems(tmp_path):
    def change(folder: str, **metrics) -> None:
        write_run(tmp_path / folder, task=folder.partition("/")[0], seed=int(folder[-1]))
        path = tmp_path / folder / "metrics.json"
        content = json.loads(path.read_text()) | {"metrics": {"test": metrics}}
        path.write_text(json.dumps(content))

    change("expression/0", loss=0.5, mse=0.5, pearson=None, spearman=None)
    change("expression/1", loss=0.7, mse=0.7, pearson=0.25, spearman=0.5)
    change(
        "chromatin_profile/0",
        auroc=0.8,
        auroc_median_tf=0.9,
        auroc_median_enhancer=0.7,
        tracks_without_auroc=3,
    )
    text = write_report([tmp_path], tmp_path)
    assert (
        "| | pearson | spearman | mse | runs" in text
        and "| 25.0 | 50.0 | 0.6000 ± 0.1414 | 2 (0, 1) |" in text
    )
    assert (
        "| | auroc_median_tf | auroc | auroc_median_enhancer | runs" in text
        and "| 90.0 | 80.0 | 70.0 | 1 (0)" in text
    )
    assert "| paper, pretrained | 96.4 |" in text


def test_files_and_command_line(tmp_path, capsys):
    write_run(tmp_path / "a" / "one", task="first")
    write_run(tmp_path / "a" / "two", task="second", accuracy=0.5)
    write_baselines(tmp_path / "a" / "baselines", 0.4, task="second")
    assert cli.main(["report", str(tmp_path / "a"), "--output_dir", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.md").read_text()
    assert text.strip() in capsys.readouterr().out
    assert "## first" in text and "## second" in text
    assert (tmp_path / "out" / "report.png").read_bytes().startswith(b"\x89PNG")
    assert write_report([tmp_path / "a", tmp_path / "a" / "one"], tmp_path / "out") == text.removesuffix(
        "\n"
    )  # once each


def test_one_writer_and_no_litter(tmp_path):
    write_run(tmp_path / "run")
    output = tmp_path / "here"
    output.mkdir()
    litter = [output / f".report.77.unfinished{ending}" for ending in (".md", ".png")]
    of_another = output / ".scores.77.unfinished.tsv"
    for path in (*litter, of_another):
        path.write_text("half")
    with (
        locked_by_another_process(output / ".report.md.lock"),
        pytest.raises(InputError, match=r"another process is writing into .*report\.md"),
    ):
        write_report([tmp_path / "run"], output)
    assert all(path.exists() for path in litter)

    write_report([tmp_path / "run"], output)
    assert sorted(path.name for path in output.iterdir()) == [of_another.name, "report.md", "report.png"]


def test_what_is_no_run(tmp_path):
    with pytest.raises(InputError, match=r"there is no metrics\.json"):
        collect([tmp_path])
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        collect([tmp_path])
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(InputError, match=r"none of the 1 metrics\.json in .* holds metrics of a run"):
        collect([tmp_path])


@pytest.mark.parametrize(
    "content",
    ["[]", "3", '{"metrics": 3}', '{"settings": [1], "metrics": {}}', '{"baselines": {"a": 1}}', "{", "\xff"],
)
def test_metrics_of_a_wrong_shape_are_named(content, tmp_path):
    """They ended in a traceback (C2)."""
    (tmp_path / "metrics.json").write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match=r"metrics\.json|holds metrics of a run"):
        collect([tmp_path])


def test_names_with_dollars_are_drawn(tmp_path):
    """matplotlib would read them as mathematics, and fail (B5)."""
    content = {
        "task": "$^{2$",
        "metrics": {"test": {"accuracy": 0.5}},
        "settings": {"model": "a$b$", "seed": 0},
    }
    (tmp_path / "metrics.json").write_text(json.dumps(content))
    assert "$^{2$" in write_report([tmp_path], tmp_path / "report")
    assert (tmp_path / "report" / "report.png").stat().st_size > 1000
