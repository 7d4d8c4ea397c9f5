"""Embeddings against the model by hand, chunks, genes and biotypes, the classifier, the map, and
what is refused.
"""

import gzip
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import f1_score

import hyenadna
from hyenadna.analysis import embedding as module
from hyenadna.analysis.classifier import check_classes, cross_validate, groups_of
from hyenadna.analysis.embedding import EmbedArguments, average, batches_of, chunks_of, embed, read_rows, run
from hyenadna.analysis.pictures import colours_of, draw_map, map_to_plane, write_html
from hyenadna.errors import InputError
from hyenadna.genomics.fasta import SequenceFile
from hyenadna.genomics.genes import GeneSequences, read_genes
from hyenadna.genomics.letters import reverse_complement
from hyenadna.tokenization import HyenaDNATokenizer
from hyenadna.training import cli
from hyenadna.training.experiments.report import write_report
from hyenadna.training.runs.settings import parse_settings

from .conftest import locked_by_another_process, random_model
from .helpers.recipes import make_rows


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "lm"
    random_model(d_model=8, max_seq_len=34).save_pretrained(folder)
    return folder


@pytest.fixture
def sequences():
    rng = np.random.default_rng(0)
    return ["".join(rng.choice(list("ACGTN"), n)) for n in (5, 30, 1, 17, 34)] + ["acgu"]


def by_hand(model, sequence: str, pooling: str, layer: int) -> np.ndarray:
    """One sequence alone, without a mask, through the tokenizer."""
    ids = HyenaDNATokenizer(add_eos_token=False)(sequence, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        states = model(input_ids=ids, output_hidden_states=True).hidden_states[layer][0]
    return {"mean": states.mean(0), "last": states[-1], "max": states.amax(0)}[pooling].numpy()


# ------------------------------------------------------------------------------------------ vectors


@pytest.mark.parametrize("pooling", ["mean", "last", "max"])
@pytest.mark.parametrize("layer", [-1, 0, 1, 2])
def test_vectors_are_those_of_each_sequence_alone(sequences, pooling, layer):
    model = random_model(d_model=8, max_seq_len=34)
    found = embed(model, sequences, pooling=pooling, layer=layer, batch_bases=60)
    expected = np.stack([by_hand(model, sequence, pooling, layer) for sequence in sequences])
    assert found.dtype == np.float32 and found == pytest.approx(expected, abs=2e-5)


def test_long_sequences_are_averages_of_chunks(sequences):
    model = random_model(d_model=8, max_seq_len=34)
    long = "".join(sequences)  # 91 bases
    found = embed(model, [long, "ACG"], chunk=30, pooling="last")
    edges = [0, 22, 45, 68, 91]  # four pieces as equal as can be
    parts = [by_hand(model, long[a:b], "last", -1) for a, b in itertools.pairwise(edges)]
    assert found[0] == pytest.approx(np.average(parts, axis=0, weights=np.diff(edges)), abs=2e-5)
    assert found[1] == pytest.approx(by_hand(model, "ACG", "last", -1), abs=2e-5)
    # means of chunks, weighted by their length, are the mean over all positions
    whole = embed(model, [long], chunk=34)[0]
    assert whole == pytest.approx(
        average(np.stack([by_hand(model, long[a:b], "mean", -1) for a, b in ((0, 30), (30, 60), (60, 91))]),
                np.array([[0, 0, 30], [0, 30, 60], [0, 60, 91]]), 1)[0], abs=2e-5)  # fmt: skip


@pytest.mark.parametrize("layer", [0, 1, -1])
@pytest.mark.parametrize("strand", ["forward", "both"])
def test_vectors_of_bases_and_of_whole_sequences(layer, strand):
    """Through the cache, five positions at a time, beside one full pass in float64."""
    model = random_model(d_model=8, max_seq_len=34, seed=5)
    exact = random_model(d_model=8, max_seq_len=34, seed=5).double()
    texts = ["ACGTTGCANNACCGTGAGGCATTACGA", "GGCA", "TTACG", "acgtn"]
    tokenizer = hyenadna.HyenaDNATokenizer()

    def states(text):
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.no_grad():
            return exact.hyena(ids, output_hidden_states=True).hidden_states[layer][0].numpy()

    expected = [states(text) for text in texts]
    if strand == "both":
        other = [states(reverse_complement(text))[::-1] for text in texts]
        expected = [(a + b) / 2 for a, b in zip(expected, other, strict=True)]
    options = {"layer": layer, "strand": strand, "chunk": 5, "batch_bases": 12}
    for rows, wanted in zip(embed(model, texts, per_base=True, **options), expected, strict=True):
        assert rows.dtype == np.float32
        np.testing.assert_allclose(rows, wanted, atol=1e-5)
    mean = embed(model, texts, whole=True, **options)
    np.testing.assert_allclose(mean, [rows.mean(0) for rows in expected], atol=1e-5)
    if strand == "forward":
        for pooling, wanted in (("max", [r.max(0) for r in expected]), ("last", [r[-1] for r in expected])):
            found = embed(model, texts, whole=True, pooling=pooling, **options)
            np.testing.assert_allclose(found, wanted, atol=1e-5)
    with pytest.raises(InputError, match="1 has 35 bases, but the model reads at most"):
        embed(model, ["ACG", "A" * 35], per_base=True)


def test_pieces_and_batches():
    pieces = chunks_of([10, 0 + 3, 7], 4)
    assert pieces.tolist() == [[0, 0, 3], [0, 3, 6], [0, 6, 10], [1, 0, 3], [2, 0, 3], [2, 3, 7]]
    batches = batches_of(pieces, 8)
    assert [batch.tolist() for batch in batches] == [[2, 5], [0, 1], [3, 4]]
    assert [batch.tolist() for batch in batches_of(pieces, 1)] == [[2], [5], [0], [1], [3], [4]]


@pytest.mark.parametrize("cls", [hyenadna.HyenaDNAForCausalLM, hyenadna.HyenaDNAForSequenceClassification])
def test_the_model_is_left_as_it_was(cls, sequences):
    model = random_model(cls, d_model=8, max_seq_len=34, embed_dropout=0.5).train()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    config = model.config.to_dict()
    first, second = embed(model, sequences), embed(model, sequences)
    assert np.array_equal(first, second) and model.training and all(m.training for m in model.modules())
    assert model.config.to_dict() == config
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    with pytest.raises(InputError):
        embed(model, ["ACGT", "AC-T"])
    assert model.training  # also after an error
    # a part kept frozen
    next(module for module in model.modules() if isinstance(module, torch.nn.LayerNorm)).eval()
    modes = [module.training for module in model.modules()]
    embed(model, sequences)
    assert [module.training for module in model.modules()] == modes


def test_a_column_of_a_table_counts_by_its_order(sequences):
    model = random_model(d_model=8, max_seq_len=34)
    column = pd.Series(sequences, index=[3, 0, 5, 1, 2, 4])  # as after `table.sort_values(...)`
    assert np.array_equal(embed(model, column), embed(model, sequences))
    assert np.array_equal(embed(model, iter(sequences)), embed(model, sequences))
    assert np.array_equal(embed(model, "ACGT"), embed(model, ["ACGT"]))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"pooling": "first"}, "pooling is 'first'"),
        ({"layer": 3}, "layer is 3; the model has 2 blocks"),
        ({"layer": -2}, "layer is -2"),
        ({"chunk": 35}, "chunk is 35; the model reads 1 to max_seq_len=34"),
    ],
)
def test_settings_that_do_not_fit_the_model(changes, message):
    with pytest.raises(InputError, match=message):
        embed(random_model(d_model=8, max_seq_len=34), ["ACGT"], **changes)


def test_sequences_that_cannot_be_embedded():
    model = random_model(d_model=8, max_seq_len=34)
    with pytest.raises(InputError, match="sequence 1 is empty"):
        embed(model, ["ACGT", ""])
    with pytest.raises(InputError, match="there are no sequences"):
        embed(model, [])


# -------------------------------------------------------------------------------------- the command


def make_args(checkpoint, data, output_dir, **changes) -> EmbedArguments:
    settings = {
        "model": str(checkpoint),
        "data": str(data),
        "output_dir": str(output_dir),
        "use_cpu": True,
        **changes,
    }
    return EmbedArguments(**settings)


def test_a_run_with_labels(checkpoint, tmp_path, capsys):
    rows = make_rows(60)
    rows.to_csv(tmp_path / "rows.csv", index=False)
    args = make_args(
        checkpoint, tmp_path / "rows.csv", tmp_path / "out", classifier="logistic", picture="tsne"
    )
    vectors = run(args)
    table = pd.read_parquet(tmp_path / "out" / "embeddings.parquet")
    assert table["id"].tolist() == rows["id"][:] and table["label"].tolist() == rows["label"][:]
    assert np.array_equal(np.stack(table["embedding"]), vectors)
    model = hyenadna.HyenaDNAModel.from_pretrained(checkpoint).eval()
    assert vectors == pytest.approx(embed(model, rows["sequence"][:]), abs=1e-6)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    # the composition is in the mean
    assert metrics["metrics"]["cross-validation"]["f1_weighted"] > 0.7
    assert metrics["baselines"]["most frequent class"]["metrics"]["cross-validation"]["accuracy"] == 0.5
    text = write_report([tmp_path / "out"], tmp_path / "report")
    assert "## rows" in text and "| lm | 1" in text and "| most frequent class | 50.0 |" in text
    assert (tmp_path / "out" / "embeddings.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "out" / "embeddings.html").read_text()
    assert page.count("<script") == 1 and "http" not in page and "AT rich" in page
    assert not (tmp_path / "out" / ".unfinished").exists()
    with pytest.raises(InputError, match="holds a finished run"):
        run(args)
    before = (tmp_path / "out" / "embeddings.parquet").stat().st_mtime_ns
    args.resume = True
    assert np.array_equal(run(args), vectors) and "nothing to do" in capsys.readouterr().out
    assert (tmp_path / "out" / "embeddings.parquet").stat().st_mtime_ns == before
    rows.to_pandas().assign(label=rows["label"][::-1]).to_csv(tmp_path / "rows.csv", index=False)
    with pytest.raises(InputError, match="holds another run: its rows changed since then"):
        run(args)


def test_without_labels_and_as_npz(checkpoint, tmp_path):
    (tmp_path / "x.fa").write_text(">one\nACGTACGT\n>two\nGGGA\n")
    run(make_args(checkpoint, tmp_path / "x.fa", tmp_path / "out", output_format="npz"))
    with np.load(tmp_path / "out" / "embeddings.npz") as content:
        assert content["id"].tolist() == ["one", "two"] and content["embedding"].shape == (2, 8)
        assert "label" not in content
    with pytest.raises(InputError, match="has no labels"):
        run(make_args(checkpoint, tmp_path / "x.fa", tmp_path / "other", classifier="logistic"))
    assert not (tmp_path / "other").exists()


def test_killed_and_resumed(checkpoint, tmp_path, monkeypatch):
    """SIGKILL in the middle; what was found is read, not computed again."""
    rows = make_rows(40)
    rows.to_csv(tmp_path / "rows.csv", index=False)
    args = {"batch_bases": 40, "classifier": "logistic"}
    torch.set_num_threads(1)  # as in the child: sums are rounded in another order with more
    expected = run(make_args(checkpoint, tmp_path / "rows.csv", tmp_path / "whole", **args))
    program = f"""
import time
import torch
from hyenadna.analysis import embedding as module
torch.set_num_threads(1)
module._BASES_PER_PART, encode, calls = 1, module.encode, []
module.encode = lambda *args: (calls.append(args), time.sleep(600 * (len(calls) > 60)), encode(*args))[2]
module.run(module.EmbedArguments(model={str(checkpoint)!r}, data={str(tmp_path / "rows.csv")!r}, use_cpu=True,
    output_dir={str(tmp_path / "out")!r}, batch_bases=40, classifier="logistic"))
"""
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    unfinished = tmp_path / "out" / ".unfinished"
    while len(list(unfinished.glob("[!.]*.npz"))) < 3 and child.poll() is None:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    found = len(list(unfinished.glob("[!.]*.npz")))
    assert 3 <= found < len(batches_of(chunks_of([len(s) for s in rows["sequence"]], 34), 40))
    args = make_args(checkpoint, tmp_path / "rows.csv", tmp_path / "out", **args)
    with pytest.raises(InputError, match="holds an interrupted run"):
        run(args)
    args.resume, args.layer = True, 1
    with pytest.raises(InputError, match=r"with another \['layer'\]"):
        run(args)
    args.layer, seen = -1, []
    monkeypatch.setattr(module, "encode", lambda *args: seen.append(args) or module_encode(*args))
    resumed = run(args)
    torch.set_num_threads(2)
    assert np.array_equal(resumed, expected)
    # once each to check the letters, and those that are left to embed
    assert len(rows) < len(seen) < 2 * len(rows)


module_encode = module.encode


def stop_before_the_end(checkpoint, tmp_path, monkeypatch):
    """Settings of a run whose parts are all there, but which has not put them together."""
    make_rows(20).to_csv(tmp_path / "rows.csv", index=False)
    args = make_args(checkpoint, tmp_path / "rows.csv", tmp_path / "out", batch_bases=60)
    monkeypatch.setattr(module, "_BASES_PER_PART", 1)
    with monkeypatch.context() as stopped:
        stopped.setattr(module, "average", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(args)
    args.resume = True
    return args


@pytest.mark.parametrize(
    "damage", [lambda data: data[:50], lambda data: b"", lambda data: data[:-40] + b"x" * 40]
)
def test_a_damaged_part_is_made_again(checkpoint, tmp_path, monkeypatch, damage):
    expected = run(make_args(checkpoint, _rows(tmp_path), tmp_path / "whole", batch_bases=60))
    args = stop_before_the_end(checkpoint, tmp_path, monkeypatch)
    parts = sorted((tmp_path / "out/.unfinished").glob("[!.]*.npz"))
    assert len(parts) > 3
    parts[1].write_bytes(damage(parts[1].read_bytes()))
    (tmp_path / "out/.unfinished/.0-3.77.unfinished.npz").write_bytes(b"half")  # of a killed run
    assert np.array_equal(run(args), expected)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "embeddings.parquet",
        "metrics.json",
        "run_settings.json",
    ]


def _rows(tmp_path):
    make_rows(20).to_csv(tmp_path / "rows.csv", index=False)
    return tmp_path / "rows.csv"


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_damaged_settings_of_an_unfinished_run(checkpoint, tmp_path, monkeypatch, content):
    args = stop_before_the_end(checkpoint, tmp_path, monkeypatch)
    (tmp_path / "out/run_settings.json").write_bytes(content)
    with pytest.raises(InputError, match=r"run_settings\.json"):
        run(args)
    assert list((tmp_path / "out/.unfinished").glob("[!.]*.npz"))


@pytest.mark.parametrize("kind", ["parquet", "npz"])
@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"PAR1" * 9]
)
def test_damaged_embeddings_of_a_finished_run(checkpoint, tmp_path, kind, damage):
    args = make_args(checkpoint, _rows(tmp_path), tmp_path / "out", output_format=kind)
    expected = run(args)
    path = tmp_path / f"out/embeddings.{kind}"
    path.write_bytes(damage(path.read_bytes()))
    args.resume = True
    with pytest.raises(InputError, match=f"embeddings.{kind} cannot be read.*Remove .*metrics.json"):
        run(args)
    (tmp_path / "out/metrics.json").unlink()
    assert np.array_equal(run(args), expected)


def test_one_writer(checkpoint, tmp_path):
    args = make_args(checkpoint, _rows(tmp_path), tmp_path / "out")
    (tmp_path / "out").mkdir()
    with (
        locked_by_another_process(tmp_path / "out/.lock"),
        pytest.raises(InputError, match="another process is writing into"),
    ):
        run(args)
    assert len(run(args)) == 20


def test_two_processes_share_the_work(checkpoint, tmp_path):
    make_rows(40).to_csv(tmp_path / "rows.csv", index=False)
    expected = run(make_args(checkpoint, tmp_path / "rows.csv", tmp_path / "one", batch_bases=40))
    command = (
        f"{sys.executable} -m torch.distributed.run --standalone --nproc_per_node 2 -m "
        "hyenadna.analysis.embedding"
    )
    command += (
        f" --model {checkpoint} --data {tmp_path}/rows.csv --output_dir {tmp_path}/two --batch_bases "
        "40 --use_cpu"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command.split(), env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("40 embeddings of 8 numbers") == 1  # one process writes
    metrics = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert metrics["hardware"]["processes"] == 2
    table = pd.read_parquet(tmp_path / "two" / "embeddings.parquet")
    assert np.stack(table["embedding"]) == pytest.approx(expected, abs=1e-6)


def test_what_cannot_be_done_is_said_before_the_work(checkpoint, tmp_path):
    table = make_rows(12).to_pandas()
    (tmp_path / "packed.fa.gz").write_bytes(b"no gzip")
    (tmp_path / "empty.csv").write_text("")
    table.assign(label=[None] * 3 + [1.0] * 9).to_parquet(tmp_path / "holes.parquet")
    table.assign(label="one").to_csv(tmp_path / "one.csv", index=False)
    pd.concat([table[:2]] * 6).drop(columns="id").to_csv(tmp_path / "copies.csv", index=False)
    table[:4].to_csv(tmp_path / "few.csv", index=False)
    table.assign(label=["1", "1.0"] * 6).to_csv(tmp_path / "twice.csv", index=False)

    def refuse(name: str, match: str, **changes) -> None:
        with pytest.raises(InputError, match=match):
            run(make_args(checkpoint, tmp_path / name, tmp_path / "out", **changes))
        assert not (tmp_path / "out").exists()

    refuse("packed.fa.gz", "packed.fa.gz cannot be read")
    refuse("empty.csv", "empty.csv is empty")
    refuse("holes.parquet", "holes.parquet: the label of row 0 is missing")
    refuse("twice.csv", "the labels '1' and '1.0' are the same number", min_rows=1)
    refuse("one.csv", "two classes and 5 rows of each", classifier="logistic")
    refuse(
        "copies.csv",
        r"counted once, but there are \{'AT rich': 1, 'GC rich': 1\}",
        classifier="logistic",
        min_rows=1,
    )
    refuse("few.csv", "2 rows are too few for a map", picture="pca", min_rows=1, max_rows=1)


def test_names_of_rows_of_parquet(checkpoint, tmp_path):
    make_rows(3).to_pandas().drop(columns="label").to_parquet(tmp_path / "x.parquet")
    ids, sequences, _, labels = read_rows(make_args(checkpoint, tmp_path / "x.parquet", "out"))
    assert ids == ["r0", "r1", "r2"] and sequences == make_rows(3)["sequence"][:] and labels is None


def test_classes_that_are_rare_or_many(checkpoint, tmp_path, capsys):
    table = make_rows(50).to_pandas()
    table.loc[:2, "label"] = "rare"
    table.to_csv(tmp_path / "rows.csv", index=False)
    whole = read_rows(make_args(checkpoint, tmp_path / "rows.csv", "x"))  # nothing needs classes
    assert whole[0] == table["id"].tolist() and whole[3] == table["label"].tolist()
    settings = {"classifier": "logistic"}
    ids, sequences, lengths, labels = read_rows(
        make_args(checkpoint, tmp_path / "rows.csv", "x", max_rows=15, **settings)
    )
    assert (
        sorted(set(labels)) == ["AT rich", "GC rich"]
        and labels.count("AT rich") == labels.count("GC rich") == 15
    )
    assert "fewer than min_rows=10 rows, and left out: rare (3)" in capsys.readouterr().out
    expected = table.set_index("id").loc[ids]
    assert sequences == expected["sequence"].tolist() and labels == expected["label"].tolist()
    assert lengths == [len(s) for s in sequences]
    with pytest.raises(InputError, match="no class has min_rows=60"):
        read_rows(make_args(checkpoint, tmp_path / "rows.csv", "x", min_rows=60, **settings))


@pytest.mark.parametrize("kind", ["logistic", "boosted_trees"])
def test_classifiers_are_cross_validated(kind):
    rng = np.random.default_rng(0)
    labels = np.array(["a", "b"])[np.arange(60) % 2]
    noise, predicted = cross_validate(rng.normal(size=(60, 5)), labels, kind, folds=3)
    assert noise["accuracy"] < 0.75  # measured on what it is fitted on, trees would reach 1
    assert noise["f1_weighted"] == pytest.approx(f1_score(labels, predicted, average="weighted"))
    vectors = rng.normal(size=(60, 5))
    vectors[:, 2] += 8 * (np.arange(60) % 2)
    assert cross_validate(vectors, labels, kind, folds=3)[0]["f1_weighted"] > 0.9
    with pytest.raises(InputError, match=r"3 rows of each \(folds\)"):
        cross_validate(vectors[:5], labels[:5], kind, folds=3)


def test_the_same_dna_or_gene_is_in_one_fold():
    """Noise, each row twice: who was fitted on the twin of a row would know its class."""
    rng = np.random.default_rng(0)
    vectors, labels = (
        np.repeat(rng.normal(size=(40, 80)), 2, axis=0),
        np.repeat(rng.permutation(["a", "b"] * 20), 2),
    )
    groups = np.repeat(np.arange(40), 2)
    assert cross_validate(vectors, labels, folds=4)[0]["accuracy"] > 0.85
    assert cross_validate(vectors, labels, folds=4, groups=groups)[0]["accuracy"] < 0.75
    alone = np.arange(80)  # without twins the folds are those of always
    assert (
        cross_validate(vectors, labels, folds=4, groups=alone)[0]
        == cross_validate(vectors, labels, folds=4)[0]
    )
    found = groups_of(["AAC", "GGG", "gtt", "CCCT", "AAC"])
    assert found[0] == found[2] == found[4] and len(set(found.tolist())) == 3
    with pytest.raises(InputError, match=r"\{'a': 20, 'b': 20\}"):
        check_classes(labels, groups, 21)


def test_maps_are_reproducible_and_separate(tmp_path):
    rng = np.random.default_rng(0)
    vectors = np.concatenate([rng.normal(size=(15, 12)), rng.normal(size=(15, 12)) + 6])
    for method in ("tsne", "pca"):
        plane = map_to_plane(vectors, method, seed=1)
        assert plane.shape == (30, 2) and np.array_equal(plane, map_to_plane(vectors, method, seed=1))
        centres = plane[:15].mean(0), plane[15:].mean(0)
        assert np.linalg.norm(centres[0] - centres[1]) > 2 * plane[:15].std(0).max()
    for n in (3, 20, 45):
        assert len(set(colours_of([str(i) for i in range(n)]).values())) == n
    with pytest.raises(InputError, match="at least 4"):
        map_to_plane(vectors[:3], "tsne")
    ids = ["</script><b>", "two", "three", "four"]
    write_html(tmp_path / "map.html", plane[:4], ["a<b", "c", "c", "c"], ids, [1, 2, 3, 4], "DATA & <B>")
    page = (tmp_path / "map.html").read_text()
    content = json.loads(re.search(r"const data = (.*);\n", page)[1].replace("<\\/", "</"))
    assert [point[2:] for point in content["points"]] == [
        [0, ids[0], 1],
        [1, "two", 2],
        [1, "three", 3],
        [1, "four", 4],
    ]
    assert page.count("</script>") == 1 and "<title>DATA &amp; &lt;B></title>" in page


def test_no_name_ends_the_script_of_the_page(tmp_path):
    """After `<!--<script`, `</script>` does not end the script for a parser, and the page stays
    empty.
    """
    names = ["<!--<script>", "{{data}}", "{{title}}", "\u2028"]
    write_html(tmp_path / "map.html", np.eye(4)[:, :2], names, names, [1, 2, 3, 4], "{{data}}")
    page = (tmp_path / "map.html").read_text()
    assert page.count("<script") == 1 and "<!--" not in page.replace("<!DOCTYPE", "")
    content = json.loads(re.search(r"const data = (.*);\n", page)[1])
    assert [point[3] for point in content["points"]] == names and "<title>{{data}}</title>" in page


@pytest.mark.parametrize("name", ["$^{2$", "$x$", "_x"])
def test_names_are_drawn_as_they_are(tmp_path, name):
    draw_map(tmp_path / "map.png", np.eye(4)[:, :2], [name, name, "b", "b"], f"of {name}")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


# -------------------------------------------------------------------------------------------- genes


@pytest.fixture
def annotation(tmp_path):
    rng = np.random.default_rng(0)
    genome = {name: "".join(rng.choice(list("ACGT"), 900)) for name in ("chr1", "chr2")}
    (tmp_path / "genome.fa").write_text("".join(f">{name}\n{text}\n" for name, text in genome.items()))
    lines = ["#!genome-build x"]
    for i in range(24):
        kind = ("protein_coding", "lncRNA")[i % 2]
        where = f"chr{i % 3 % 2 + 1}\tX\tgene\t{i * 20 + 1}\t{i * 20 + 60}\t.\t{'+-'[i % 2]}\t."
        lines.append(f'{where}\tgene_id "g{i}"; gene_type "{kind}"; note "a; b=c";')
        lines.append(where.replace("gene", "exon") + f'\tgene_id "g{i}";')
    (tmp_path / "genes.gtf").write_text("\n".join(lines) + "\n")
    return tmp_path, genome


def test_genes_of_gtf_and_gff(annotation):
    folder, genome = annotation
    file = SequenceFile(folder / "genome.fa")
    genes = read_genes(folder / "genes.gtf", file)
    assert len(genes) == 24 and [gene.name for gene in genes[:2]] == ["g0", "g1"]
    assert [gene.biotype for gene in genes[:3]] == ["protein_coding", "lncRNA", "protein_coding"]
    # 1-based and closed in the file
    assert (genes[1].start, genes[1].end, genes[1].chromosome) == (20, 80, "chr2")
    assert genes[0].sequence(file) == genome["chr1"][:60]
    assert genes[1].sequence(file) == reverse_complement(genome["chr2"][20:80])
    gff = "##gff-version 3\n"
    for i, gene in enumerate(genes):
        columns = [gene.chromosome, "X", "gene", str(gene.start + 1), str(gene.end), ".", gene.strand, "."]
        gff += "\t".join([*columns, f"ID=gene:g{i};Name=n;biotype={gene.biotype};description=x y"]) + "\n"
    with gzip.open(folder / "genes.gff3.gz", "wt") as other:
        other.write(gff + "##FASTA\n>chr1\nACGT\n")
    found = read_genes(folder / "genes.gff3.gz", file)
    assert [(g.biotype, g.start, g.end, g.strand) for g in found] == [
        (g.biotype, g.start, g.end, g.strand) for g in genes
    ]


def test_transcripts_have_their_own_names_and_biotypes(annotation):
    """GENCODE and Ensembl name the gene in each of its transcripts, too."""
    folder, lines = annotation[0], []
    for i, (gene, own) in enumerate((("g0", "retained_intron"), ("g0", "protein_coding"), ("g1", "lncRNA"))):
        where = f"chr1\tX\ttranscript\t{i * 50 + 1}\t{i * 50 + 40}\t.\t+\t."
        lines.append(
            f'{where}\tgene_id "{gene}"; transcript_id "t{i}"; gene_type "coding"; transcript_type "{own}";'
        )
    (folder / "gencode.gtf").write_text("\n".join(lines))
    ensembl = "\n".join(lines).replace("_type", "_biotype")
    (folder / "ensembl.gtf").write_text(ensembl)
    gff = re.sub(
        r'gene_id "(\w+)"; transcript_id "(\w+)"; .*"(\w+)";', r"ID=\2;Parent=gene:\1;biotype=\3", ensembl
    )
    (folder / "ensembl.gff3").write_text(gff)
    file = SequenceFile(folder / "genome.fa")
    for name in ("gencode.gtf", "ensembl.gtf", "ensembl.gff3"):
        found = read_genes(folder / name, file, "transcript")
        assert [(t.name, t.biotype, t.gene.removeprefix("gene:")) for t in found] == [
            ("t0", "retained_intron", "g0"),
            ("t1", "protein_coding", "g0"),
            ("t2", "lncRNA", "g1"),
        ]
        groups = groups_of(GeneSequences(found, file))
        assert groups[0] == groups[1] != groups[2]


def test_the_shipped_recipe_on_genes(annotation, checkpoint):
    folder, _ = annotation
    argv = ["biotypes.yaml", "--model", str(checkpoint), "--gtf", str(folder / "genes.gtf"), "--use_cpu"]
    argv += ["--fasta", str(folder / "genome.fa"), "--output_dir", str(folder / "out"), "--picture", "pca"]
    args = parse_settings(EmbedArguments, "embed", "", argv)
    assert args.classifier == "boosted_trees" and args.pooling == "mean" and args.folds == 5
    vectors = run(args)
    genes = read_genes(folder / "genes.gtf", SequenceFile(folder / "genome.fa"))
    model = hyenadna.HyenaDNAModel.from_pretrained(checkpoint)
    file = SequenceFile(folder / "genome.fa")
    assert vectors == pytest.approx(embed(model, [gene.sequence(file) for gene in genes]), abs=1e-6)
    metrics = json.loads((folder / "out" / "metrics.json").read_text())
    assert metrics["task"] == "biotypes" and "f1_weighted" in metrics["metrics"]["cross-validation"]
    text = write_report([folder / "out"], folder / "report")
    assert "2 classes, but 10 in the paper: another task." in text and "| paper, pretrained |" in text


def test_bad_annotation(annotation, checkpoint):
    folder, _ = annotation
    file, text = SequenceFile(folder / "genome.fa"), (folder / "genes.gtf").read_text()

    def refuse(changed: str, match: str, **options) -> None:
        (folder / "bad.gtf").write_text(changed)
        with pytest.raises(InputError, match=match):
            read_genes(folder / "bad.gtf", file, **options)

    refuse(
        re.sub(r'gene_type "\w+"; ', "", text), r"line 2: the gene has no biotype, only \['gene_id', 'note'\]"
    )
    refuse(text.replace("chr1", "7"), r"line 2: there is no sequence '7' .*which has")
    refuse(
        text.replace("\t60\t", "\t6000\t"), "line 2: chr1:0-6000 ends outside of chr1, which has 900 bases"
    )
    refuse(text.replace("\t", " "), "line 2 is .*nine columns")
    refuse(text, r"has no feature 'transcript'; it has \['exon', 'gene'\]", feature="transcript")
    settings = {"gtf": str(folder / "genes.gtf"), "fasta": str(folder / "genome.fa"), "data": None}
    args = EmbedArguments(model=str(checkpoint), biotypes=["miRNA"], **settings)
    with pytest.raises(
        InputError, match=r"has no biotype \['miRNA'\]; it has \['lncRNA', 'protein_coding'\]"
    ):
        read_rows(args)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model": None}, "needs a checkpoint"),
        ({"gtf": "x.gtf"}, "either data, or gtf"),
        ({"data": None, "gtf": "x.gtf"}, "need their genome"),
        ({"pooling": "first"}, "pooling is"),
        ({"classifier": "svm"}, "classifier is"),
        ({"picture": "png"}, "picture is"),
        ({"folds": 1}, "folds at least 2"),
        ({"max_rows": 0}, "max_rows must be at least 1"),
        ({"seed": 99999999999}, "seed must be between 0 and"),
        ({"seed": -1}, "seed must be between 0 and"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(InputError, match=message):
        EmbedArguments(**{"model": "m", "data": "d", **changes})


def test_command_line(checkpoint, tmp_path, capsys):
    assert cli.main(["embed", "--model", str(checkpoint), "--data", str(tmp_path / "none.fa")]) == 1
    assert "there is no such file" in capsys.readouterr().err
