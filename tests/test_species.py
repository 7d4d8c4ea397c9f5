"""Species: windows of genomes by chance, what is held out, and what is refused."""

import gzip
import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from hyenadna.errors import InputError
from hyenadna.genomics.intervals import Intervals, overlapping
from hyenadna.genomics.letters import reverse_complement
from hyenadna.genomics.window_rows import WindowRows, digest_of
from hyenadna.training import cli
from hyenadna.training.experiments.species import (
    DrawnWindows,
    EpochRows,
    SpeciesArguments,
    held_out_regions,
    open_species,
    species,
)
from hyenadna.training.runs.settings import parse_settings

from .helpers.recipes import flags
from .helpers.recipes import species_args as make_args

GC = {"at_rich": [0.4, 0.1, 0.1, 0.4], "gc_rich": [0.1, 0.4, 0.4, 0.1]}


@pytest.fixture
def genomes(tmp_path):
    """Two species of different composition: three chromosomes, one file each or all in one."""
    rng = np.random.default_rng(0)
    for name, weights in GC.items():
        folder = tmp_path / "genomes" / name
        folder.mkdir(parents=True)
        texts = {i: "".join(rng.choice(list("ACGT"), 300 + 100 * i, p=weights)) for i in (1, 2, 3)}
        if name == "at_rich":  # as NCBI names them: the number is in the name of the file
            for i, text in texts.items():
                (folder / f"chr{i}.fna").write_text(f">NC_00{i}.1 homo\n{text}\n")
        else:
            (folder / "all.fa").write_text("".join(f">chr{i}\n{text}\n" for i, text in texts.items()))
    return tmp_path / "genomes"


def check_disjoint(parts: dict[str, np.ndarray]) -> None:
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not overlapping(parts[one], parts[other]).any()


def test_named_chromosomes_are_held_out(genomes):
    args = make_args(genomes, validation_chromosomes=["1"], test_chromosomes=["chr3"])
    opened = open_species(args)
    assert list(opened) == ["at_rich", "gc_rich"]
    expected = {"train": 500, "validation": 400, "test": 600}
    for name, files in opened.items():
        parts = held_out_regions(name, files, args)
        check_disjoint(parts)
        assert {part: int(r.lengths.sum()) for part, r in parts.items()} == expected
    with pytest.raises(InputError, match=r"at_rich has no chromosome 'Y'; its sequences are \['NC_001.1'"):
        args.test_chromosomes = ["Y"]
        held_out_regions("at_rich", opened["at_rich"], args)


def test_a_chromosome_is_held_out_for_one_part_whatever_it_is_called(genomes):
    for name, files in open_species(make_args(genomes)).items():
        for names in (["1", "2"], ["chr1"], ["3", "chr1"]):
            args = make_args(genomes, validation_chromosomes=["1"], test_chromosomes=names)
            with pytest.raises(
                InputError, match=rf"{name}: \['\w+(\.1)?'\] are named in validation_chromosomes and in"
            ):
                held_out_regions(name, files, args)


def test_a_file_that_was_unpacked_counts_once_and_copies_are_refused(genomes):
    folder = genomes / "at_rich"
    # as published: the packed file stays beside it
    with gzip.open(folder / "chr1.fna.gz", "wt") as file:
        file.write((folder / "chr1.fna").read_text())
    assert len(open_species(make_args(genomes))["at_rich"]) == 3
    (folder / "copy.fa").write_text((folder / "chr3.fna").read_text().lower().replace("nc", "NC"))
    with pytest.raises(
        InputError, match=r"at_rich: 'NC_003.1' is in .*chr3\.fna and again in .*copy\.fa; remove one"
    ):
        open_species(make_args(genomes))
    text = (folder / "chr3.fna").read_text()
    # another assembly
    (folder / "copy.fa").write_text(text[:-2] + "ACGT"["ACGT".index(text[-2]) - 1] + "\n")
    assert len(open_species(make_args(genomes))["at_rich"]) == 4


def test_without_names_the_last_bases_are_held_out(genomes):
    args = make_args(genomes, held_out_fraction=0.2)
    for name, files in open_species(args).items():
        parts = held_out_regions(name, files, args)
        check_disjoint(parts)
        sizes = {part: int(r.lengths.sum()) for part, r in parts.items()}
        assert sizes == {"train": 900, "validation": 300, "test": 300}


def test_windows_are_a_function_of_seed_epoch_and_number(genomes):
    args = make_args(genomes)
    files = open_species(args)["gc_rich"]
    regions = [Intervals.of([[0, 0, 100, 150], [0, 1, 0, 60]]), Intervals.of([[0, 2, 10, 70]])]
    windows = DrawnWindows(files, regions, 50, seed=3)
    seen, whole = {0: set(), 1: set()}, [files[0].letters(i, 0, n) for i, n in enumerate(files[0].lengths)]
    for i in range(600):
        window, text, kind = windows.draw(i, epoch=0)
        file, sequence, start, end = window
        assert kind == i % 2 and end - start == 50 and text == whole[sequence][start:end] and file == 0
        seen[kind].add((sequence, start))
    # every place of a window that fits, and no other
    assert seen == {0: {(0, 100), *((1, s) for s in range(11))}, 1: {(2, s) for s in range(10, 21)}}
    again = [DrawnWindows(files, regions, 50, seed=3).draw(i, 0)[0] for i in (5, 4)]
    assert again == [windows.draw(i, 0)[0] for i in (5, 4)]
    assert [windows.draw(i, 1)[0] for i in range(9)] != [windows.draw(i, 0)[0] for i in range(9)]
    rows = EpochRows(windows, 40, p=0.5)
    first = [rows[i]["sequence"] for i in range(40)]
    texts = [windows.draw(i, 0)[1] for i in range(40)]
    flipped = [a != b for a, b in zip(first, texts, strict=True)]
    assert 8 < sum(flipped) < 32
    assert all(
        a == (reverse_complement(b) if f else b) for a, b, f in zip(first, texts, flipped, strict=True)
    )
    rows.epoch.fill_(1)
    assert [rows[i]["sequence"] for i in range(40)] != first


def test_gaps_are_drawn_again(tmp_path):
    (tmp_path / "a.fa").write_text(f">a\n{'N' * 900}{'ACGT' * 25}\n")
    from hyenadna.genomics.fasta import open_genomes

    windows = DrawnWindows(open_genomes([tmp_path / "a.fa"]), [Intervals.of([[0, 0, 0, 1000]])], 20, 0)
    gaps = sum(windows.draw(i, 0)[1].count("N") > 10 for i in range(100))
    assert gaps < 30  # 9 of 10 at the first try, .9 ** 20 = 12 % after twenty


def test_rows_stay_in_their_genome(genomes):
    files = open_species(make_args(genomes))["gc_rich"]
    windows = Intervals.of([[0, 0, 0, 10], [0, 1, 5, 9], [0, 2, 1, 2]])
    rows = WindowRows(files, windows, np.array([0, 1, 1]))
    assert len(rows) == 3 and rows[1] == {"row": 1, "sequence": files[0].letters(1, 5, 9), "label": 1}
    part = rows["sequence"][1:]
    assert len(part) == 2 and list(part) == [files[0].letters(1, 5, 9), files[0].letters(2, 1, 2)]
    other = WindowRows(files, windows, np.array([0, 1, 0]))
    assert digest_of({"train": rows}) != digest_of({"train": other})
    assert digest_of({"train": rows}) == digest_of(
        {"train": WindowRows(files, windows[:], np.array([0, 1, 1]))}
    )


def test_it_learns_and_the_shipped_recipe_runs(genomes, tmp_path):
    learned = species(
        make_args(genomes, tmp_path / "run", num_train_epochs=4, learning_rate=0.03, test_windows=40)
    )
    assert learned.results["metrics"]["test"]["accuracy"] > 0.8
    assert (
        learned.results["label_names"] == ["at_rich", "gc_rich"]
        and learned.results["settings"]["task"] == "species_50"
    )
    predictions = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert len(predictions) == 40 and predictions["label"].value_counts().tolist() == [20, 20]
    assert (tmp_path / "run" / "confusion_matrix.png").exists()

    argv = ["species.yaml", "--data", str(genomes), "--output_dir", str(tmp_path / "recipe")]
    argv += flags(
        d_model=8,
        n_layer=1,
        max_steps=2,
        use_cpu=True,
        disable_tqdm=True,
        window=50,
        test_windows=4,
        windows_per_epoch=64,
    )
    argv += ["--validation_chromosomes", "1", "--test_chromosomes", "3"]
    args = parse_settings(SpeciesArguments, "species", "", argv)
    assert args.learning_rate == 6e-5 and args.num_train_epochs == 200 and args.add_special_tokens
    species(args)
    metrics = json.loads((tmp_path / "recipe" / "metrics.json").read_text())
    assert metrics["rows"] == {"train": 64, "validation": 4, "test": 4}


def test_two_processes_and_a_resumed_run(genomes, tmp_path):
    """By the launcher, with a batch of 4 on each of two processes; one process with a batch of 8
    does the same.
    """
    args = [
        "--data",
        str(genomes),
        "--window",
        "50",
        "--windows_per_epoch",
        "32",
        "--test_windows",
        "10",
        "--use_cpu",
    ]
    args += flags(
        d_model=8, n_layer=1, embed_dropout=0, num_train_epochs=2, learning_rate=0.01, disable_tqdm=True
    )
    args += flags(per_device_train_batch_size=8)
    both = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    both += [
        "-m",
        "hyenadna.training.experiments.species",
        *args,
        "--output_dir",
        str(tmp_path / "two"),
        "--ddp_backend",
        "gloo",
    ]
    both += ["--per_device_train_batch_size", "4"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(both, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    one = species(
        parse_settings(SpeciesArguments, "species", "", [*args, "--output_dir", str(tmp_path / "one")])
    )
    two = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert two["hardware"]["processes"] == 2 and two["rows"] == one.results["rows"]
    assert two["metrics"]["test"]["loss"] == pytest.approx(one.results["metrics"]["test"]["loss"], rel=1e-3)
    tables = [pd.read_csv(tmp_path / name / "predictions.csv") for name in ("one", "two")]
    assert tables[0]["label"].tolist() == tables[1]["label"].tolist()

    again = species(
        parse_settings(SpeciesArguments, "", "", [*args, "--output_dir", str(tmp_path / "one"), "--resume"])
    )
    assert again.results == json.loads((tmp_path / "one" / "metrics.json").read_text())
    changed = [
        *args,
        "--output_dir",
        str(tmp_path / "one"),
        "--resume",
        "--window",
        "40",
        "--max_seq_len",
        "52",
    ]
    with pytest.raises(InputError, match="holds another run: its window is 50, now it is 40"):
        species(parse_settings(SpeciesArguments, "species", "", [*changed, "--task", "species_50"]))


def test_pooling_follows_the_length():
    assert make_args("x", window=32768).pooling == "mean" and make_args("x", window=250_000).pooling == "last"
    assert make_args("x", window=250_000).max_seq_len == 250_002
    assert make_args("x", window=250_000, pooling="mean").pooling == "mean"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"window": 0}, "at least 1"),
        ({"validation_chromosomes": ["1"]}, "go together"),
        ({"held_out_fraction": 0.5}, "between 0 and 0.5"),
    ],
)
def test_bad_settings(genomes, changes, message):
    with pytest.raises(InputError, match=message):
        make_args(genomes, **changes)


def test_bad_data(genomes, tmp_path, capsys):
    with pytest.raises(InputError, match=r"the longest contig of at_rich has 600 bases"):
        species(make_args(genomes, window=601))
    with pytest.raises(
        InputError, match=r"region of the \w+ part of at_rich has [\d]+ bases: use a shorter window"
    ):
        species(make_args(genomes, window=500))
    with pytest.raises(InputError, match=r"no sub-folder \['yeti'\]"):
        species(make_args(genomes, species=["at_rich", "yeti"]))
    with pytest.raises(InputError, match="two species or more"):
        species(make_args(genomes, species=["at_rich"]))
    (genomes / "empty").mkdir()
    with pytest.raises(InputError, match="empty: the folder of this species holds no FASTA"):
        species(make_args(genomes))
    (genomes / "empty" / "a.fa").write_text(">1\n" + "ACGTX" * 100 + "\n")
    with pytest.raises(InputError, match="'X' in line 2"):
        species(make_args(genomes))
    assert cli.main(["species", "--data", str(tmp_path / "none")]) == 1
    assert "a sub-folder of FASTA files for each species" in capsys.readouterr().err
