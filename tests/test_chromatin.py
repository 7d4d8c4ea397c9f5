"""Chromatin tracks: windows and labels in every layout, AUROC by kind, and what is refused."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from transformers import EvalPrediction

from hyenadna.errors import InputError
from hyenadna.training import cli
from hyenadna.training.experiments.chromatin import (
    ChromatinArguments,
    auroc_of_tracks,
    chromatin,
    kinds_of,
    make_track_metrics,
    read_chromatin,
)
from hyenadna.training.runs.settings import parse_settings

from .helpers.recipes import QUICK, flags

SMALL = {**QUICK, "d_model": 8, "n_layer": 1, "max_seq_len": 66}
TRACKS = ["CTCF", "DNase", "H3K27ac"]


@pytest.fixture
def data(tmp_path):
    """A genome of two chromosomes and bins of 20 bases with three tracks, which tell its
    composition.
    """
    rng = np.random.default_rng(0)
    genome = {name: "".join(rng.choice(list("ACGT"), 2000)) for name in ("chr1", "chr2")}
    (tmp_path / "genome.fa").write_text("".join(f">{name}\n{text}\n" for name, text in genome.items()))
    tables = {}
    for part, n in (("train", 60), ("valid", 12), ("test", 16)):
        table = pd.DataFrame({"chromosome": rng.choice(list(genome), n), "start": rng.integers(0, 1980, n)})
        table["end"] = table["start"] + 20
        for track, letter in zip(TRACKS, "ACG", strict=True):
            counts = [
                genome[c][s:e].count(letter) for c, s, e in table[["chromosome", "start", "end"]].values
            ]
            table[track] = (np.array(counts) >= 5).astype(int)
        tables[part] = table
    folder = tmp_path / "tracks"
    folder.mkdir()
    for part, table in tables.items():
        table.to_csv(folder / f"{part}.csv", index=False)
    return folder, genome, tables


def make_args(folder, output_dir="x", **changes) -> ChromatinArguments:
    settings = {"fasta": str(folder.parent / "genome.fa"), "window": 60, **SMALL, **changes}
    return ChromatinArguments(data=str(folder), output_dir=str(output_dir), **settings)


def test_windows_stand_around_the_centres(data):
    folder, genome, tables = data
    labelled = read_chromatin(make_args(folder))
    assert labelled.label_names == TRACKS and list(labelled.parts) == ["train", "validation", "test"]
    for part, name in (("train", "train"), ("validation", "valid"), ("test", "test")):
        rows = labelled.parts[part]
        assert (
            np.array_equal(rows["label"], tables[name][TRACKS].to_numpy()) and rows["label"].dtype == np.uint8
        )
        for i, (chromosome, start) in enumerate(tables[name][["chromosome", "start"]].values):
            assert rows["sequence"][i] == genome[chromosome][max(0, start - 20) : start + 40]


def test_every_layout_gives_the_same_rows(data, tmp_path):
    folder, _, tables = data
    expected = read_chromatin(make_args(folder))

    def check(other, **changes):
        found = read_chromatin(make_args(other, fasta=str(tmp_path / "genome.fa"), **changes))
        for part, rows in expected.parts.items():
            assert list(found.parts[part]["sequence"]) == list(rows["sequence"])
            assert np.array_equal(found.parts[part]["label"], rows["label"])
        return found

    folders = {kind: tmp_path / kind for kind in ("published", "bed csv", "bed npy", "sequences")}
    for other in folders.values():
        other.mkdir()
    for part, table in tables.items():
        # as published: chromosomes are numbers from 0, tracks are called y_..., the file's name
        # goes on
        chromosomes = table["chromosome"].str.removeprefix("chr").astype(int) - 1
        published = pd.DataFrame({"Chr_No": chromosomes, "Start": table["start"], "End": table["end"]})
        published[[f"y_{track}" for track in TRACKS]] = table[TRACKS].astype(bool)
        # with an index, as saved there
        published.to_csv(folders["published"] / f"{part}_hg19_coords_targets.csv")
        bed = table[["chromosome", "start", "end"]]
        for kind in ("bed csv", "bed npy"):
            bed.to_csv(folders[kind] / f"{part}.bed", sep="\t", header=False, index=False)
        table[TRACKS].to_csv(folders["bed csv"] / f"{part}_labels.csv", index=False)
        np.save(folders["bed npy"] / f"{part}_labels.npy", table[TRACKS].to_numpy(np.uint8))
        sequences = list(expected.parts["validation" if part == "valid" else part]["sequence"])
        table[TRACKS].assign(sequence=sequences).to_parquet(folders["sequences"] / f"{part}.parquet")
    assert check(folders["published"]).label_names == [f"y_{track}" for track in TRACKS]
    check(folders["bed csv"])
    assert check(folders["bed npy"]).label_names == ["track_0", "track_1", "track_2"]
    digest = check(folders["sequences"]).digest
    assert digest == read_chromatin(make_args(folders["sequences"])).digest != expected.digest


def test_windows_that_two_parts_share_are_told(data, tmp_path):
    folder, genome, tables = data
    counts = {}
    for one, other in (("train", "valid"), ("train", "test"), ("valid", "test")):
        places = [
            [(c, max(0, s - 20), s + 40) for c, s in tables[p][["chromosome", "start"]].values]
            for p in (one, other)
        ]
        counts[one, other] = sum(
            any(c == k and s < b and a < e for k, a, b in places[0]) for c, s, e in places[1]
        )
    with pytest.warns(UserWarning, match="windows share DNA with the") as found:
        read_chromatin(make_args(folder))
    texts = [str(warning.message) for warning in found]
    assert texts[1].startswith(
        f"{counts['train', 'test']} of the 16 test windows share DNA with the train part"
    )
    assert len(texts) == sum(count > 0 for count in counts.values())
    for chromosome, parts in (("chr1", ("train",)), ("chr2", ("valid", "test"))):
        for part in parts:
            tables[part].assign(chromosome=chromosome).to_csv(folder / f"{part}.csv", index=False)
    (folder / "test.csv").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_chromatin(make_args(folder))
    sequences = pd.DataFrame(
        {"sequence": [genome["chr1"][i : i + 50] for i in range(5)], "CTCF": [0, 1, 0, 1, 1]}
    )
    for part, first in (("train", 0), ("valid", 4)):
        sequences[first:].to_csv(folder / f"{part}.csv", index=False)
    with pytest.warns(UserWarning, match="1 of the 1 validation windows share DNA with the train part"):
        read_chromatin(make_args(folder))


def test_auroc_and_medians_by_hand():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, (50, 6))
    labels[:, 3] = 1  # of one kind only: no AUROC
    scores = rng.normal(size=(50, 6)) + labels * np.arange(6) * 0.5
    areas = auroc_of_tracks(scores, labels)
    expected = [roc_auc_score(labels[:, i], scores[:, i]) if i != 3 else np.nan for i in range(6)]
    assert areas == pytest.approx(expected, nan_ok=True)
    compute = make_track_metrics(["TF", "TF", "TF", "TF", "HM", "DHS"])
    found = compute(EvalPrediction(scores, labels.astype(np.float32)))
    assert found["auroc_median_tf"] == pytest.approx(np.median(expected[:3]))
    assert found["auroc_median_hm"] == pytest.approx(expected[4]) and found["tracks_without_auroc"] == 1
    assert found["auroc"] == pytest.approx(np.nanmean(expected))
    # two that are equal count half: not the order of the rows
    assert auroc_of_tracks(np.array([[1.0], [1.0]]), np.array([[0], [1]])) == 0.5


def test_kinds(data, tmp_path):
    args = make_args(data[0])
    assert kinds_of(TRACKS, args) == ["all"] * 3
    names = [f"c{i}|DNase|None" for i in range(125)] + [f"c{i}|CTCF|None" for i in range(125, 919)]
    assert kinds_of(names, args) == kinds_of([str(i) for i in range(919)], args)
    with pytest.raises(InputError, match="named DNase are not the first 125: give track_kinds"):
        kinds_of(names[::-1], args)
    # in an order of one's own
    assert kinds_of(names[::-1], make_args(data[0], tracks=names[::-1])) == ["all"] * 919
    deepsea = kinds_of([str(i) for i in range(919)], args)
    assert [deepsea.count(kind) for kind in ("DHS", "TF", "HM")] == [125, 690, 104]
    assert deepsea[124:126] == ["DHS", "TF"] and deepsea[814:816] == ["TF", "HM"]
    pd.DataFrame({"track": TRACKS[::-1], "kind": ["HM", "DHS", "TF"]}).to_csv(
        tmp_path / "kinds.csv", index=False
    )
    args.track_kinds = str(tmp_path / "kinds.csv")
    assert kinds_of(TRACKS, args) == ["TF", "DHS", "HM"]
    with pytest.raises(InputError, match="does not name 1 tracks, the first is 'POL2'"):
        kinds_of([*TRACKS, "POL2"], args)
    pd.DataFrame({"name": TRACKS}).to_csv(tmp_path / "kinds.csv", index=False)
    with pytest.raises(InputError, match="expected track and kind"):
        kinds_of(TRACKS, args)


def test_a_run_and_its_tracks(data, tmp_path, capsys):
    result = chromatin(make_args(data[0], tmp_path / "run", tracks=["H3K27ac", "CTCF"]))
    metrics = result.results["metrics"]["test"]
    assert result.results["label_names"] == ["H3K27ac", "CTCF"] and "auroc_median_all" in metrics
    table = pd.read_csv(tmp_path / "run" / "tracks.csv")
    assert table["track"].tolist() == ["H3K27ac", "CTCF"] and table["rows"].tolist() == [16, 16]
    assert table["auroc"].mean() == pytest.approx(metrics["auroc"])
    assert table["positive"].tolist() == data[2]["test"][["H3K27ac", "CTCF"]].sum().tolist()
    (tmp_path / "run" / "tracks.csv").unlink()
    chromatin(make_args(data[0], tmp_path / "run", tracks=["H3K27ac", "CTCF"], resume=True))
    assert "nothing to do" in capsys.readouterr().out and (tmp_path / "run" / "tracks.csv").exists()


def test_the_shipped_recipe_with_919_tracks(data, tmp_path):
    _, _, tables = data
    rng, other = np.random.default_rng(2), tmp_path / "deepsea"
    other.mkdir()
    for part, table in tables.items():
        labels = pd.DataFrame(rng.integers(0, 2, (len(table), 919)), columns=[f"y_{i}" for i in range(919)])
        pd.concat([table[["chromosome", "start", "end"]], labels], axis=1).to_csv(
            other / f"{part}.csv", index=False
        )
    argv = ["chromatin_profile.yaml", "--data", str(other), "--fasta", str(tmp_path / "genome.fa")]
    argv += ["--output_dir", str(tmp_path / "run")]
    argv += flags(
        d_model=8, n_layer=1, max_steps=2, use_cpu=True, disable_tqdm=True, window=64, max_seq_len=66
    )
    args = parse_settings(ChromatinArguments, "chromatin", "", argv)
    assert args.num_train_epochs == 50 and args.per_device_train_batch_size == 64
    chromatin(args)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())["metrics"]["test"]
    with np.load(tmp_path / "run" / "predictions.npz") as content:
        areas = [roc_auc_score(content["label"][:, i], content["probability"][:, i]) for i in range(125, 815)]
    assert metrics["auroc_median_tf"] == pytest.approx(np.median(areas))
    assert {"auroc_median_dhs", "auroc_median_hm"} < set(metrics)
    assert pd.read_csv(tmp_path / "run" / "tracks.csv")["kind"].value_counts()["HM"] == 104


def test_bad_input(data, tmp_path, capsys):
    folder, genome, tables = data

    def refuse(match, **changes):
        with pytest.raises(InputError, match=match):
            read_chromatin(make_args(folder, **changes))

    refuse(r"has no track \['POL2'\]; it has \['CTCF'", tracks=["CTCF", "POL2"])
    refuse(r"need the genome, --fasta", fasta=None)
    (tmp_path / "other.fa").write_text(f">1\n{genome['chr1']}\n>2\n{genome['chr2']}\n")
    read = [
        read_chromatin(make_args(folder, fasta=fasta))
        for fasta in (make_args(folder).fasta, tmp_path / "other.fa")
    ]
    # chr1 is 1
    assert read[0].parts["train"]["sequence"][0] == read[1].parts["train"]["sequence"][0]
    (tmp_path / "other.fa").write_text(f">x1\n{genome['chr1']}\n>x2\n{genome['chr2']}\n")
    refuse(
        r"csv: row \d+: there is no sequence 'chr\d'.*which has \['x1', 'x2'\]",
        fasta=str(tmp_path / "other.fa"),
    )
    (tmp_path / "short.fa").write_text(f">chr1\n{genome['chr1'][:500]}\n>chr2\n{genome['chr2']}\n")
    refuse(
        r"csv: row \d+: chr1:\d+-\d+ ends outside of chr1, which has 500 bases",
        fasta=str(tmp_path / "short.fa"),
    )

    refuse(r"tracks lists a track twice: \['CTCF', 'CTCF'\]", tracks=["CTCF", "CTCF"])
    for column, value, message in (
        ("chromosome", None, "row 3: there is no sequence '"),
        ("start", 0.5, "row 3: start is 0.5, not a whole number"),
        ("end", "x", "row 3: end is 'x', not a whole number"),
    ):
        changed = tables["train"].astype({column: object})
        changed.loc[3, column] = value
        changed.to_csv(folder / "train.csv", index=False)
        refuse(message)
    changed = tables["train"].copy()
    changed.loc[3, "DNase"] = 2
    changed.to_csv(folder / "train.csv", index=False)
    refuse(r"the track 'DNase' of row 3 is 2, not 0 or 1")
    tables["train"].drop(columns="DNase").to_csv(folder / "train.csv", index=False)
    refuse(r"are not those of train: \['DNase'\] differ")
    tables["train"].drop(columns="start").to_csv(folder / "train.csv", index=False)
    refuse(r"train\.csv has neither a column 'sequence' nor")
    published = tables["train"].rename(columns={"chromosome": "Chr_No", "start": "Start", "end": "End"})
    published.to_csv(folder / "train.csv", index=False)
    refuse(r"train\.csv: Chr_No holds 'chr\d' and others; as published it is a number, 0 for chr1")
    (folder / "train.csv").unlink()
    bed = tables["train"][["chromosome", "start", "end"]]
    bed.to_csv(folder / "train.bed", sep="\t", header=False, index=False)
    refuse("its labels are missing; expected train_labels.npy")
    tables["train"][TRACKS][:-1].to_csv(folder / "train_labels.csv", index=False)
    refuse("has 59 rows of labels, but .* has 60 intervals")
    (folder / "train.bed").unlink()
    refuse(r"has no table of \['train'\]")
    assert cli.main(["chromatin", "--data", str(tmp_path / "none")]) == 1
    assert "expected a folder with tables of train, valid and test" in capsys.readouterr().err
