"""The paper's suites in every layout they come in, seeds, folds and baselines, and what is refused."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset, DatasetDict
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics import accuracy_score
from sklearn.naive_bayes import MultinomialNB

from hyenadna.errors import InputError
from hyenadna.genomics.labelled import read_labelled_data
from hyenadna.genomics.letters import reverse_complement
from hyenadna.training import cli
from hyenadna.training.experiments import benchmark as module
from hyenadna.training.experiments.benchmark import (
    SETS,
    BenchmarkArguments,
    benchmark,
    load_task,
    planned_tasks,
)
from hyenadna.training.runs.baselines import (
    LOGISTIC,
    MAJORITY,
    NAIVE_BAYES,
    count_kmers,
    fit_baselines,
)
from hyenadna.training.runs.settings import parse_settings

from .helpers.recipes import QUICK, TINY, flags, make_rows

SMALL = {**TINY, **QUICK}
THREE = ("AT rich", "C rich", "GC rich")


def make_args(output_dir, **changes) -> BenchmarkArguments:
    return BenchmarkArguments(output_dir=str(output_dir), **{**SMALL, **changes})


def write_text_folders(folder, rows: Dataset, part: str) -> None:
    """The layout of the package genomic_benchmarks: a text file for each sequence."""
    for i, (sequence, label) in enumerate(zip(rows["sequence"], rows["label"], strict=True)):
        path = folder / part / label.partition(" ")[0] / f"{i}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(sequence)


def write_fasta(path, rows: Dataset) -> None:
    """The layout of the Nucleotide Transformer: the label stands behind the last `|` of the header."""
    names = sorted(set(rows["label"]))
    lines = [
        f">chr1:{i}-{i + 9}|x|{names.index(label)}\n{s}\n"
        for i, (s, label) in enumerate(zip(rows["sequence"], rows["label"], strict=True))
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines))


# ---------------------------------------------------------------------------------------- the table


def test_the_table_of_sets():
    counts = SETS.groupby("suite").size()
    assert counts["genomic-benchmarks"] == 8 and counts["nucleotide-transformer"] == 18
    assert SETS[SETS["suite"] != "chromatin-profile"]["task"].is_unique
    # figures of the paper, here once more by hand
    row = SETS.set_index("task").loc["human_ensembl_regulatory"]
    assert (row["classes"], row["paper"], row["paper_scratch"], row["longest"]) == (3, "93.8", "90.4", "802")
    nt = SETS[SETS["suite"] == "nucleotide-transformer"].set_index("task")
    assert nt.loc["H3", "metric"] == "mcc" and nt.loc["H3", "paper"] == "81.7"
    assert nt.loc["splice_sites_all", "metric"] == "f1_macro" and nt.loc["splice_sites_all", "classes"] == 3
    gue = SETS[SETS["suite"] == "gue"].set_index("task")
    assert len(gue) == 28 and set(gue["metric"]) == {"mcc"}
    assert gue.loc["virus_covid", "classes"] == 9 and gue.loc["splice_reconstructed", "classes"] == 3
    # what nobody could show a source for is not in the table
    assert list(gue.index[gue["reference"] != ""]) == ["prom_300_all", "splice_reconstructed"]
    totals = SETS.set_index("task")[["train_rows", "test_rows"]].replace("", "0").astype(int).sum(axis=1)
    # sizes as published, before they were split
    assert totals["human_enhancers_cohn"] == 27791 and totals["human_ocr_ensembl"] == 174756
    assert totals["splice_sites_all"] == 30000 and totals["H4ac"] == 34095


# ------------------------------------------------------------------------------------------ layouts


@pytest.mark.parametrize(
    "suite, task", [("genomic-benchmarks", "demo_human_or_worm"), ("nucleotide-transformer", "H3")]
)
@pytest.mark.parametrize("layout", ["text", "fasta", "prefixed fasta", "csv", "parquet"])
def test_a_local_copy_in_every_layout(tmp_path, suite, task, layout):
    for part, n in (("train", 12), ("test", 6)):
        rows, folder = make_rows(n, seed=n), tmp_path / task
        folder.mkdir(exist_ok=True)
        if layout == "text":
            write_text_folders(folder, rows, part)
        elif "fasta" in layout:
            write_fasta(folder / ("H3_" * (layout != "fasta") + f"{part}.fna"), rows)
        else:
            getattr(rows.to_pandas(), f"to_{layout}")(folder / f"{part}.{layout}", index=False)
    args = make_args(tmp_path / "out", suite=suite, tasks=[task], data_dir=str(tmp_path))
    data = read_labelled_data(load_task(args, task))
    assert {part: len(rows) for part, rows in data.parts.items()} == {"train": 10, "validation": 2, "test": 6}
    assert len(data.label_names) == 2 and sorted(data.label_names) == data.label_names
    key = {"text": ["AT", "GC"], "fasta": ["0", "1"], "prefixed fasta": ["0", "1"]}
    assert data.label_names == key.get(layout, ["AT rich", "GC rich"])
    expected = dict(zip(make_rows(6, seed=6)["sequence"], [0, 1] * 3, strict=True))
    assert dict(zip(data.parts["test"]["sequence"], data.parts["test"]["label"], strict=True)) == expected


def test_coordinates_with_a_genome(tmp_path):
    rng = np.random.default_rng(0)
    genome = {name: "".join(rng.choice(list("ACGT"), 400)) for name in ("chr1", "chr2")}
    (tmp_path / "genome.fa").write_text("".join(f">{name}\n{s}\n" for name, s in genome.items()))
    table = pd.DataFrame({"id": range(8), "region": ["chr1", "chr2"] * 4, "start": np.arange(8) * 40})
    table["end"], table["strand"] = table["start"] + 30, ["+", "+", "-", "-"] * 2
    folder = tmp_path / "human_enhancers_cohn"
    for part in ("train", "test"):
        for i, name in enumerate(("negative", "positive")):
            (folder / part).mkdir(parents=True, exist_ok=True)
            with gzip.open(folder / part / f"{name}.csv.gz", "wt") as file:
                table[i::2].to_csv(file, index=False)
    args = make_args(
        "x",
        suite="genomic-benchmarks",
        tasks=["human_enhancers_cohn"],
        data_dir=str(tmp_path),
        fasta=str(tmp_path / "genome.fa"),
    )
    data = load_task(args, "human_enhancers_cohn")
    assert data["train"]["label"][:] == ["negative"] * 4 + ["positive"] * 4
    assert data["train"]["sequence"][0] == genome["chr1"][:30]
    assert data["train"]["sequence"][1] == reverse_complement(genome["chr1"][80:110])
    assert data["train"]["sequence"][4] == genome["chr2"][40:70]
    args.fasta = None
    with pytest.raises(InputError, match="--fasta"):
        load_task(args, "human_enhancers_cohn")
    args.fasta = str(tmp_path / "other.fa")
    (tmp_path / "other.fa").write_text(f">1\n{genome['chr1']}\n>2\n{genome['chr2']}\n")
    assert load_task(args, "human_enhancers_cohn")["train"]["sequence"][:] == data["train"]["sequence"][:]
    (tmp_path / "other.fa").write_text(f">x1\n{genome['chr1']}\n")
    (tmp_path / "other.fa.fai").unlink()
    with pytest.raises(
        InputError, match=r"negative\.csv\.gz: row 0: there is no sequence 'chr1'.*which has \['x1'\]"
    ):
        load_task(args, "human_enhancers_cohn")
    args.fasta = str(tmp_path / "genome.fa")
    for column, value, message in (
        ("start", np.nan, "row 1: start is nan, not a whole number"),
        ("end", 7.5, "row 1: end is 7.5, not a whole number"),
        ("region", None, "row 1: there is no sequence ''"),
        ("strand", "x", r"row 1: the strand is 'x'; expected \+, - or \."),
    ):
        changed = table.astype({"start": float, "end": float})
        changed.loc[1, column] = value
        changed.to_csv(folder / "test" / "negative.csv.gz", index=False)
        with pytest.raises(InputError, match=message):
            load_task(args, "human_enhancers_cohn")
    table.to_csv(folder / "test" / "negative.csv.gz", index=False)
    table.to_csv(folder / "test" / "negative.csv", index=False)  # unpacked beside the packed one
    with pytest.raises(
        InputError, match=r"test holds the class 'negative' twice; one of them is negative\.csv\.gz"
    ):
        load_task(args, "human_enhancers_cohn")
    (folder / "test" / "negative.csv").unlink()
    table.drop(columns="strand").to_csv(folder / "test" / "negative.csv.gz", index=False)
    with pytest.raises(InputError, match=r"no column \['strand'\]"):
        load_task(args, "human_enhancers_cohn")


def test_todays_layouts_of_the_hub(monkeypatch):
    """One data set for each GenomicBenchmarks set, one table with a column `task` for the
    Nucleotide Transformer.
    """
    asked = []

    def load_dataset(name):
        asked.append(name)
        rows = make_rows(6)
        if "Genomic_Benchmarks" in name:
            return DatasetDict(train=Dataset.from_dict({"seq": rows["sequence"][:], "label": [0, 1] * 3}))
        table = {
            "sequence": rows["sequence"][:],
            "name": ["n"] * 6,
            "label": [0, 1] * 3,
            "task": ["H3", "H4"] * 3,
        }
        return DatasetDict(train=Dataset.from_dict(table))

    monkeypatch.setattr(module, "load_dataset", load_dataset)
    data = load_task(make_args("x", suite="genomic-benchmarks"), "human_nontata_promoters")
    assert data["train"].column_names == ["sequence", "label"]
    data = load_task(make_args("x", suite="nucleotide-transformer"), "H4")
    assert data["train"]["sequence"][:] == make_rows(6)["sequence"][1::2]
    assert asked == [
        "katarinagresova/Genomic_Benchmarks_human_nontata_promoters",
        "InstaDeepAI/nucleotide_transformer_downstream_tasks",
    ]


def test_a_set_of_gue_is_a_configuration_on_the_hub_with_a_dev_part(monkeypatch):
    asked = []

    def load_dataset(*names):
        asked.append(names)
        return DatasetDict({part: make_rows(8, seed=i) for i, part in enumerate(("train", "dev", "test"))})

    monkeypatch.setattr(module, "load_dataset", load_dataset)
    data = read_labelled_data(load_task(make_args("x", suite="gue"), "mouse_3"))
    assert asked == [("leannmlindsey/GUE", "mouse_3")]
    assert {part: len(rows) for part, rows in data.parts.items()} == {"train": 8, "validation": 8, "test": 8}


@pytest.mark.parametrize(
    "suite, task", [("genomic-benchmarks", "human_nontata_promoters"), ("nucleotide-transformer", "H4")]
)
def test_a_clone_of_the_hub(tmp_path, suite, task):
    """GenomicBenchmarks: `data/train-00000-of-00002-HASH.parquet`, column seq; NT: parquet beside
    FASTA.
    """
    expected = {part: make_rows(n, seed=n) for part, n in (("train", 12), ("test", 6))}
    for part, rows in expected.items():
        table = pd.DataFrame({"label": [0, 1] * (len(rows) // 2)})
        if suite == "genomic-benchmarks":
            (tmp_path / task / "data").mkdir(parents=True, exist_ok=True)
            table.insert(0, "seq", rows["sequence"][:])
            for i, half in enumerate((table[:2], table[2:])):
                half.to_parquet(tmp_path / task / "data" / f"{part}-0000{i}-of-00002-d7614d91.parquet")
        else:
            write_fasta(tmp_path / task / f"{part}.fna", rows)
            table = table.assign(sequence=rows["sequence"][:], name="x", task=task)
            other = pd.DataFrame({"sequence": ["A"], "label": [9], "name": ["x"], "task": ["H3"]})
            pd.concat([table, other]).to_parquet(tmp_path / task / f"{part}.parquet")
    args = make_args("x", suite=suite, tasks=[task], data_dir=str(tmp_path))
    data = read_labelled_data(load_task(args, task), validation_fraction=0.2)
    assert (
        data.label_names == ["0", "1"]
        and data.parts["test"]["sequence"][:] == expected["test"]["sequence"][:]
    )
    assert (
        data.parts["test"]["label"][:] == [0, 1] * 3
        and len(data.parts["train"]) + len(data.parts["validation"]) == 12
    )
    for path in (tmp_path / task).rglob("train*.parquet"):
        path.unlink()
    with pytest.raises(InputError, match=f"{task} has no table of train; it has"):
        load_task(args, task)


def test_a_table_of_other_tasks_is_refused(tmp_path):
    (tmp_path / "H4").mkdir()
    make_rows(6).to_pandas().assign(task="H3").to_parquet(tmp_path / "H4" / "train.parquet")
    with pytest.raises(InputError, match="H4: no row of its table has this name"):
        load_task(make_args("x", suite="nucleotide-transformer", data_dir=str(tmp_path)), "H4")


def test_without_a_network_the_local_copy_is_named():
    with pytest.raises(InputError, match=r"cannot be loaded from the Hub.*--data_dir"):
        load_task(make_args("x", suite="genomic-benchmarks"), "human_nontata_promoters")


# --------------------------------------------------------------------------------------------- runs


@pytest.mark.parametrize(
    "recipe, suite, task",
    [
        ("genomic_benchmarks.yaml", "genomic-benchmarks", "human_nontata_promoters"),
        ("nucleotide_transformer.yaml", "nucleotide-transformer", "splice_sites_all"),
    ],
)
def test_the_shipped_recipes_run(tmp_path, recipe, suite, task):
    for part, n in (("train", 30), ("test", 9)):
        if suite == "genomic-benchmarks":
            write_text_folders(tmp_path / task, make_rows(n, seed=n), part)
        else:
            write_fasta(tmp_path / task / f"{part}.fna", make_rows(n, n, THREE))
    argv = [recipe, "--tasks", task, "--data_dir", str(tmp_path), "--output_dir", str(tmp_path / "out")]
    argv += flags(d_model=8, n_layer=1, max_steps=2, use_cpu=True, disable_tqdm=True)
    args = parse_settings(BenchmarkArguments, "benchmark", "", argv)
    assert args.suite == suite and args.num_train_epochs == 100 and args.learning_rate == 6e-4
    report = benchmark(args)
    metrics = json.loads((tmp_path / "out" / task / "seed0" / "metrics.json").read_text())
    assert metrics["rows"]["test"] == 9 and metrics["settings"]["task"] == task
    assert metrics["settings"]["weight_decay"] == 0.1 and metrics["settings"]["pooling"] == "mean"
    assert f"## {task}" in report and "| paper, pretrained |" in report and "the split differs" in report
    for name in (MAJORITY, NAIVE_BAYES, LOGISTIC):
        assert f"| {name} |" in report


def test_seeds_folds_and_going_on(tmp_path, capsys):
    make_rows(24).to_csv(tmp_path / "mine.csv", index=False)
    settings = {"data": str(tmp_path / "mine.csv"), "cross_validation": 2}
    report = benchmark(make_args(tmp_path / "out", **settings))
    runs = sorted(path.parent.name for path in (tmp_path / "out" / "mine").glob("*/metrics.json"))
    assert runs == ["baselines-fold0", "baselines-fold1", "seed0-fold0", "seed0-fold1"]
    tested = [
        set(pd.read_csv(tmp_path / "out" / "mine" / f"seed0-fold{i}" / "predictions.csv")["id"])
        for i in (0, 1)
    ]
    # each row tested once
    assert not tested[0] & tested[1] and tested[0] | tested[1] == set(make_rows(24)["id"])
    assert "| 2 (0) |" in report
    with pytest.raises(InputError, match="--resume"):
        benchmark(make_args(tmp_path / "out", **settings))
    capsys.readouterr()
    report = benchmark(make_args(tmp_path / "out", **settings, seeds=[0, 1], resume=True))
    assert capsys.readouterr().out.count("nothing to do") == 2
    assert "| 4 (0, 1) |" in report and (tmp_path / "out" / "report.png").read_bytes().startswith(b"\x89PNG")


def test_a_task_is_called_after_its_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"my.data.csv": "my", "folder/": "folder", ".": tmp_path.name, "owner/set": "set"}
    for data, name in names.items():
        assert planned_tasks(make_args("x", data=data)) == [name]
    assert planned_tasks(make_args("x", data="a.csv", task="b")) == ["b"] and planned_tasks(
        make_args("x")
    ) == [module.SPLICE]


def test_the_longest_set_gets_a_longer_model_from_scratch(tmp_path):
    args = make_args(tmp_path, suite="genomic-benchmarks")
    args.max_seq_len = None
    lengths = [
        module._run_arguments(args, task, None, "x", 0, None).max_seq_len for task in planned_tasks(args)
    ]
    assert lengths == [4709, None, None, None, None, None, None, None]
    args.model = "checkpoint"
    assert module._run_arguments(args, planned_tasks(args)[0], None, "x", 0, None).max_seq_len is None


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"suite": "glue"}, "suite is 'glue'"),
        ({"tasks": ["H3"]}, "belong to a suite"),
        ({"suite": "genomic-benchmarks", "tasks": ["H3"]}, r"has no set \['H3'\]"),
        ({"suite": "genomic-benchmarks", "data": "x.csv"}, "brings its own data"),
        ({"seeds": []}, "at least one"),
        ({"cross_validation": 1}, "at least 2 folds"),
        ({"folds": 3, "fold": 0}, "use cross_validation"),
        ({"folds": 3}, "they go together"),
    ],
)
def test_bad_settings(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        make_args(tmp_path / "out", **changes)


def test_bad_data_is_said_before_the_first_run(tmp_path):
    settings = {"suite": "genomic-benchmarks", "data_dir": str(tmp_path)}
    settings["tasks"] = ["demo_human_or_worm", "human_nontata_promoters"]
    for part, n in (("train", 12), ("test", 6)):
        write_text_folders(tmp_path / "demo_human_or_worm", make_rows(n), part)
    with pytest.raises(InputError, match=r"there is no folder .*human_nontata_promoters"):
        benchmark(make_args(tmp_path / "out", **settings))
    for part in ("train", "test"):
        write_text_folders(tmp_path / "human_nontata_promoters", make_rows(12), part)
    for path in (tmp_path / "human_nontata_promoters" / "train" / "GC").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"GC: the folder of this class holds no FASTA or \.txt file"):
        benchmark(make_args(tmp_path / "out", **settings))
    write_text_folders(tmp_path / "human_nontata_promoters", make_rows(12), "train")
    (tmp_path / "human_nontata_promoters" / "train" / "GC" / "1.txt").write_text("ACGT" * 11)
    with pytest.raises(InputError, match="has 44 tokens, but max_seq_len of the model is 40"):
        benchmark(make_args(tmp_path / "out", **settings))
    assert not (tmp_path / "out").exists()


def test_command_line(tmp_path, capsys):
    assert cli.main(["benchmark", "--suite", "genomic-benchmarks", "--data_dir", str(tmp_path / "none")]) == 1
    assert "data_dir: there is no folder" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------- baselines


def test_kmers_equal_those_of_scikit_learn():
    sequences = ["ACGTACGTTTNACG", "acgu", "AC", "N" * 8, "TTTTTTTT"]
    texts = [s.upper().replace("U", "T") for s in sequences]
    for k in (1, 2, 3, 5):
        expected = CountVectorizer(analyzer="char", ngram_range=(k, k), lowercase=False).fit(
            ["".join(p) for p in np.array(np.meshgrid(*[list("ACGT")] * k)).reshape(k, -1).T]
        )
        columns = sorted(expected.vocabulary_)
        assert len(columns) == 4**k  # in alphabetical order
        assert np.array_equal(count_kmers(sequences, [k]).toarray(), expected.transform(texts).toarray())
    joined = count_kmers(sequences, [1, 2]).toarray()
    assert np.array_equal(joined, np.hstack([count_kmers(sequences, [k]).toarray() for k in (1, 2)]))
    assert count_kmers([], [2]).shape == (0, 16)


def test_baselines_learn_and_equal_scikit_learn_by_hand():
    data = read_labelled_data(DatasetDict(train=make_rows(80), test=make_rows(40, seed=1)))
    results = fit_baselines(data)
    test = {name: result["metrics"]["test"] for name, result in results.items()}
    assert list(test) == [MAJORITY, NAIVE_BAYES, LOGISTIC]
    assert test[MAJORITY]["accuracy"] == 0.5 and test[MAJORITY]["auroc"] == 0.5
    assert test[NAIVE_BAYES]["accuracy"] > 0.8 and test[LOGISTIC]["accuracy"] > 0.8
    vectorizer = CountVectorizer(analyzer="char", ngram_range=(5, 5), lowercase=False)
    # of the train rows' own 5-mers and all others, so that smoothing sees 1,024 of them
    vectorizer.fit(["".join(p) for p in np.array(np.meshgrid(*[list("ACGT")] * 5)).reshape(5, -1).T])
    train, rows = data.parts["train"], data.parts["test"]
    model = MultinomialNB().fit(vectorizer.transform(train["sequence"]), train["label"])
    predicted = model.predict(vectorizer.transform(rows["sequence"]))
    assert test[NAIVE_BAYES]["accuracy"] == accuracy_score(rows["label"], predicted)


def test_kmers_of_random_sequences_by_brute_force():
    rng = np.random.default_rng(5)
    for _ in range(20):
        sequence = "".join(rng.choice(list("ACGTNRacgt"), rng.integers(0, 30)))
        k = int(rng.integers(1, 5))
        expected = {}
        for i in range(len(sequence) - k + 1):
            kmer = sequence[i : i + k].upper()
            if set(kmer) <= set("ACGT"):
                column = int("".join(str("ACGT".index(letter)) for letter in kmer), 4)
                expected[column] = expected.get(column, 0) + 1
        counts = count_kmers([sequence], [k]).toarray()[0]
        assert {int(i): int(counts[i]) for i in np.flatnonzero(counts)} == expected


def test_the_penalty_is_chosen_on_the_validation_rows_alone():
    """With other test rows the same penalty comes out, and the same predictions of what both have."""
    train, test = make_rows(60), make_rows(20, seed=1)
    one = fit_baselines(read_labelled_data(DatasetDict(train=train, test=test)))[LOGISTIC]
    flipped = Dataset.from_dict({"sequence": test["sequence"][:], "label": test["label"][::-1]})
    other = fit_baselines(read_labelled_data(DatasetDict(train=train, test=flipped)))[LOGISTIC]
    assert one["C"] == other["C"] and one["metrics"]["validation"] == other["metrics"]["validation"]
    assert one["metrics"]["test"]["accuracy"] == pytest.approx(1 - other["metrics"]["test"]["accuracy"])


def test_baselines_of_unequal_lengths_and_of_three_classes():
    data = read_labelled_data(DatasetDict(train=make_rows(90, classes=THREE), test=make_rows(30, 1, THREE)))
    results = fit_baselines(data)
    assert results[MAJORITY]["metrics"]["test"]["accuracy"] == pytest.approx(1 / 3)
    assert results[LOGISTIC]["metrics"]["test"]["accuracy"] > 0.6
    assert all(result["seconds"] > 0 for result in results.values())
    assert set(results[LOGISTIC]["metrics"]) == {"validation", "test"}


def test_baselines_are_for_single_labels():
    rows = {"sequence": ["ACGT", "GGCA", "TTAC", "CATG"], "label": [1.0, 2.0, 3.0, 4.0]}
    data = read_labelled_data(Dataset.from_dict(rows), problem_type="regression", validation_fraction=0.3)
    with pytest.raises(InputError, match="single labels"):
        fit_baselines(data)
