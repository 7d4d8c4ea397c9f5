"""Windows that stay in their genome: in workers, on both strands, and apart from what was held out."""

import multiprocessing

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from hyenadna.errors import InputError
from hyenadna.genomics.fasta import open_genomes
from hyenadna.genomics.files import PARTS
from hyenadna.genomics.held_out import last_bases
from hyenadna.genomics.intervals import Intervals, check_interval, overlapping, read_bed
from hyenadna.genomics.letters import reverse_complement
from hyenadna.genomics.window_rows import WindowRows, WindowSequences, digest_of
from hyenadna.tokenization import HyenaDNATokenizer
from hyenadna.training.experiments.species import DrawnWindows, EpochRows, held_out_regions, open_species
from hyenadna.training.runs.supervised import SequenceCollator, SetEpoch, StrandedRows

from .helpers.recipes import species_args as make_args


@pytest.fixture
def files(tmp_path):
    """Two files of two contigs, one of them in lines of 60 and half of it in lower case."""
    rng = np.random.default_rng(3)
    texts = [["".join(rng.choice(list("ACGTN"), n)) for n in sizes] for sizes in ((300, 120), (200, 90))]
    texts[0][0] = texts[0][0][:150].lower() + texts[0][0][150:]
    for i, pair in enumerate(texts):
        with open(tmp_path / f"{i}.fa", "w") as file:
            for k, text in enumerate(pair):
                width = 60 if i == 0 else len(text)
                file.write(
                    f">c{k}\n" + "\n".join(text[s : s + width] for s in range(0, len(text), width)) + "\n"
                )
    return open_genomes([tmp_path / "0.fa", tmp_path / "1.fa"]), texts


def random_windows(texts, n: int) -> Intervals:
    rng, rows = np.random.default_rng(4), []
    for _ in range(n):
        file, sequence = rng.integers(2), rng.integers(2)
        start, end = sorted(rng.choice(len(texts[file][sequence]) + 1, 2, replace=False).tolist())
        rows.append((file, sequence, start, end))
    return Intervals.of(rows)


def test_sequences_are_those_of_the_files(files):
    genomes, texts = files
    windows = random_windows(texts, 60)
    expected = [texts[f][s][a:b] for f, s, a, b in windows.tolist()]
    sequences = WindowSequences(genomes, windows)
    # as they are written, case too
    assert list(sequences) == expected and sequences[-1] == expected[-1]
    assert list(sequences[10:50:7]) == expected[10:50:7] and len(sequences[55:]) == 5
    with pytest.raises(IndexError):
        sequences[60]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_strings(files, workers):
    genomes, texts = files
    windows, labels = random_windows(texts, 24), np.arange(24) % 3
    strings = {"sequence": [texts[f][s][a:b] for f, s, a, b in windows.tolist()], "label": labels.tolist()}
    collate = SequenceCollator(HyenaDNATokenizer(add_eos_token=True), "single_label_classification")
    loaders = [
        DataLoader(StrandedRows(rows, 0.5, seed=2), 5, collate_fn=collate, num_workers=workers)
        for rows in (WindowRows(genomes, windows, labels), strings)
    ]
    count = 0
    for one, other in zip(*loaders, strict=True):
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
        count += len(one["labels"])
    assert count == 24


def test_many_labels_become_a_matrix(files):
    genomes, texts = files
    labels = np.random.default_rng(0).integers(0, 2, (7, 5)).astype(np.uint8)
    rows = WindowRows(genomes, random_windows(texts, 7), labels, rows=np.arange(7) * 10)
    collate = SequenceCollator(HyenaDNATokenizer(), "multi_label_classification")
    (batch,) = DataLoader(StrandedRows(rows), 7, collate_fn=collate)
    assert batch["labels"].dtype == torch.float32 and batch["labels"].tolist() == labels.tolist()
    assert rows["row"].tolist() == [0, 10, 20, 30, 40, 50, 60] and len(rows) == 7


def test_a_digest_knows_everything_that_decides_the_rows(files, tmp_path):
    genomes, texts = files
    windows, labels = random_windows(texts, 9), np.arange(9)
    base = digest_of({"train": WindowRows(genomes, windows, labels)})
    moved, other_labels = windows.at(windows.start, windows.end - 1), labels[::-1].copy()
    (tmp_path / "2.fa").write_text(f">c0\n{texts[0][0]}\n>c1\n{texts[0][1]}A\n")
    others = [
        {"test": WindowRows(genomes, windows, labels)},
        {"train": WindowRows(genomes, moved, labels)},
        {"train": WindowRows(genomes, windows, other_labels)},
        {"train": WindowRows([open_genomes([tmp_path / "2.fa"])[0], genomes[1]], windows, labels)},
        {"train": WindowRows(genomes, windows[:8], labels[:8])},
    ]
    assert len({base, *map(digest_of, others)}) == 6


def make_species(tmp_path, sizes: dict[str, list[int]]):
    rng = np.random.default_rng(0)
    for name, lengths in sizes.items():
        folder = tmp_path / "species" / name
        folder.mkdir(parents=True)
        for i, n in enumerate(lengths):
            (folder / f"{i}.fa").write_text(f">c{i}\n{''.join(rng.choice(list('ACGT'), n))}\n")
    return tmp_path / "species"


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.3])
@pytest.mark.parametrize("lengths", [[4000], [500, 700, 60, 900, 30, 400], [200] * 20])
def test_no_window_of_training_touches_what_is_held_out(tmp_path, lengths, fraction):
    folder = make_species(tmp_path, {"a": lengths, "b": [3000]})
    args = make_args(folder, window=20, held_out_fraction=fraction)
    for name, genomes in open_species(args).items():
        regions = held_out_regions(name, genomes, args)
        total = sum(n for n in (lengths if name == "a" else [3000]) if n >= 20)
        for part in ("validation", "test"):
            held = int(regions[part].lengths.sum())
            # a rest below a window is in no part
            assert fraction * total - 20 <= held <= fraction * total + 1
        windows = {
            part: Intervals.of(
                DrawnWindows(genomes, [regions[part]], 20, 1).draw(i, 0)[0] for i in range(150)
            )
            for part in PARTS
        }
        for one in PARTS:
            for other in PARTS:
                assert one == other or not overlapping(windows[one], windows[other]).any()


def test_every_place_of_a_species_counts_the_same(tmp_path):
    folder = make_species(tmp_path, {"a": [119, 1019], "b": [500]})
    args = make_args(folder, window=20)
    genomes = open_species(args)["a"]
    whole = Intervals.of([[0, 0, 0, 119], [1, 0, 0, 1019]])
    drawn = [DrawnWindows(genomes, [whole], 20, 0).draw(i, 0)[0] for i in range(2000)]
    short = sum(int(window[0]) == 0 for window in drawn)
    # 100 places of 1,100: 182 of 2,000 expected, deviation 13
    assert abs(short - 2000 / 11) < 4 * 13


def test_epochs_reach_workers_that_stay(tmp_path):
    folder = make_species(tmp_path, {"a": [900], "b": [900]})
    opened = list(open_species(make_args(folder)).values())
    genomes = [file for files in opened for file in files]
    regions = [Intervals.of([[i, 0, 0, 900]]) for i in range(2)]
    rows = EpochRows(DrawnWindows(genomes, regions, 15, 5), 12, p=0.5)
    collate = SequenceCollator(HyenaDNATokenizer(), "single_label_classification")
    loader = DataLoader(rows, 4, collate_fn=collate, num_workers=2, persistent_workers=True)

    class State:
        epoch = 0.0

    seen = []
    for epoch in (0.0, 1.0, 0.0):
        State.epoch = epoch
        SetEpoch(rows).on_epoch_begin(None, State, None)
        seen.append(torch.cat([batch["input_ids"] for batch in loader]))
        assert torch.cat([batch["labels"] for batch in loader]).tolist() == [0, 1] * 6
    assert torch.equal(seen[0], seen[2]) and not torch.equal(seen[0], seen[1])


def test_the_other_strand_is_that_of_the_same_window(tmp_path):
    folder = make_species(tmp_path, {"a": [900], "b": [900]})
    genomes = open_species(make_args(folder))["a"]
    windows = DrawnWindows(genomes, [Intervals.of([[0, 0, 0, 900]])], 15, 5)
    plain, other = EpochRows(windows, 30, p=0.0), EpochRows(windows, 30, p=1.0)
    for i in range(30):
        assert other[i]["sequence"] == reverse_complement(plain[i]["sequence"])


def test_intervals_and_last_bases(files):
    genomes, _ = files
    for start, end, message in (
        (5, 5, "above its start"),
        (-1, 4, "above its start"),
        (0, 301, "ends outside of c0"),
    ):
        with pytest.raises(InputError, match=f"row 7: .*{message}"):
            check_interval(genomes[0], 0, start, end, "row 7")
    check_interval(genomes[0], 0, 0, 300, "row 7")
    regions = Intervals.of([[0, 0, 0, 100], [0, 1, 0, 50], [1, 0, 10, 60]])
    assert last_bases(regions, 0.4).tolist() == [[0, 1, 0, 50], [0, 0, 90, 100], [1, 0, 40, 60]]


def _open(path: str, barrier, lengths) -> None:
    barrier.wait()
    lengths.put(open_genomes([path])[0].lengths.tolist())


def test_processes_that_start_together_make_the_index_without_harm(tmp_path):
    """As ranks of one launch do: none reads or replaces what another has half written."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(60, 200, 3000).tolist()
    letters = "ACGT" * 50
    (tmp_path / "g.fa").write_text("".join(f">c{i}\n{letters[:n]}\n" for i, n in enumerate(sizes)))
    context = multiprocessing.get_context("fork")
    barrier, lengths = context.Barrier(4), context.Queue()
    children = [
        context.Process(target=_open, args=(str(tmp_path / "g.fa"), barrier, lengths)) for _ in range(4)
    ]
    for child in children:
        child.start()
    found = [lengths.get(timeout=300) for _ in children]
    for child in children:
        child.join()
    assert found == [sizes] * 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g.fa", "g.fa.fai"]


def test_bed_of_a_genome_whose_chromosomes_are_called_otherwise(files, tmp_path):
    genomes, _ = files
    (tmp_path / "a.bed").write_text("chrc0\t0\t10\n")
    assert read_bed(tmp_path / "a.bed", genomes, 0)[0].tolist() == [[0, 0, 0, 10]]
    (tmp_path / "a.bed").write_text("chrc9\t0\t10\n")
    with pytest.raises(InputError, match=r"there is no sequence 'chrc9' "):
        read_bed(tmp_path / "a.bed", genomes, 0)
