"""Batches of windows: their ids and labels, and who sees which base when."""

import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader, skip_first_batches

from hyenadna.genomics.fasta import open_genomes
from hyenadna.genomics.intervals import tile
from hyenadna.genomics.letters import PAD, SEP, SOFT_MASKED, reverse_complement
from hyenadna.genomics.windows import WindowCollator, WindowDataset, WindowSampler
from hyenadna.tokenization import HyenaDNATokenizer

from .helpers.genomes import GENOME, random_dna, windows, write_fasta


@pytest.fixture
def small(tmp_path):
    """A genome whose windows of 8 are all different, with ragged ends."""
    path = write_fasta(tmp_path / "g.fa", {"1": random_dna(83), "2": random_dna(45, 1)})
    genomes = open_genomes([path])
    return genomes, tile(windows((0, 0, 0, 83), (0, 1, 0, 45)), 8)


def test_windows_end_in_sep_and_are_padded_on_the_right(tmp_path):
    genomes = open_genomes([write_fasta(tmp_path / "g.fa", {"1": "ACGTNacg"})])
    dataset = WindowDataset(genomes, windows((0, 0, 0, 5), (0, 0, 5, 8)), 5)
    assert len(dataset) == 2
    ids = dataset.__getitems__([0, 1])
    assert (ids % SOFT_MASKED).tolist() == [[7, 8, 9, 10, 11, SEP], [7, 8, 9, SEP, PAD, PAD]]
    batch = WindowCollator()(ids)
    assert set(batch) == {"input_ids", "labels"}
    assert (
        batch["input_ids"].tolist() == (ids % SOFT_MASKED).tolist()
        and batch["input_ids"].dtype == torch.int64
    )
    assert batch["labels"].tolist() == [[7, 8, 9, 10, -100, SEP], [7, 8, 9, SEP, -100, -100]]
    masked = WindowCollator(soft_masked_weight=0.0)(ids)
    assert masked["input_ids"].equal(batch["input_ids"])
    assert masked["labels"].tolist() == [[7, 8, 9, 10, -100, SEP], [-100, -100, -100, SEP, -100, -100]]


def test_soft_masked_bases_weigh_as_much_as_asked(tmp_path):
    genomes = open_genomes([write_fasta(tmp_path / "g.fa", {"1": "ACnNacg"})])
    ids = WindowDataset(genomes, windows((0, 0, 0, 4), (0, 0, 4, 7)), 4).__getitems__([0, 1])
    batch = WindowCollator(soft_masked_weight=0.25)(ids)
    assert batch["loss_weights"].tolist() == [[1, 1, 0, 0, 1], [0.25, 0.25, 0.25, 1, 0]]
    assert batch["loss_weights"].dtype == torch.float32
    assert batch["labels"].equal(WindowCollator()(ids)["labels"])
    assert "loss_weights" not in WindowCollator(1.0)(ids) and "loss_weights" not in WindowCollator(0.0)(ids)


def test_a_shorter_length_cuts_windows_into_pieces(small):
    genomes, cut = small
    dataset = WindowDataset(genomes, cut, 8)
    # window 10 has the last 3 bases of chromosome 1
    whole = dataset.__getitems__([(0, 8, False), (10, 8, True)])
    pieces = dataset.__getitems__([(0, 3, False), (10, 3, True)])
    assert pieces.shape == (4, 4)
    assert pieces[0].tolist() == [*whole[0, :3], SEP] and pieces[1].tolist() == [*whole[0, 3:6], SEP]
    assert pieces[2].tolist() == [*whole[0, 6:8], SEP, PAD] and pieces[3].tolist() == [*whole[1, :3], SEP]


def test_row_minus_one_is_nothing(small):
    genomes, cut = small
    dataset = WindowDataset(genomes, cut, 8)
    assert (dataset.__getitems__([(-1, 8, False)] * 2) == PAD).all()
    assert dataset.__getitems__([(3, 8, False), (-1, 8, True)]).tolist() == dataset.__getitems__([3]).tolist()
    assert (WindowCollator()(dataset[[(-1, 4, False)]])["labels"] == -100).all()


def test_lengths_are_a_function_of_the_step(small):
    sampler = WindowSampler(small[1], [1.0], rows_per_step=4, length=8, stages=[(0, 2), (3, 4), (6, 8)])
    assert [sampler.length_at(step) for step in (0, 2, 3, 5, 6, 99)] == [2, 2, 4, 4, 8, 8]
    assert sampler.steps_per_epoch == 5 and len(sampler) == 20  # 17 windows
    assert [length for _, length, _ in sampler] == [2] * 12 + [4] * 8
    sampler.epoch = 1
    assert [length for _, length, _ in sampler] == [4] * 4 + [8] * 16


def test_random_lengths_cut_equal_pieces_and_depend_on_seed_and_step_alone():
    cut = windows((0, 0, 0, 1000))
    sampler = WindowSampler(cut, [1.0], 1, 1000, seed=3, shortest=60)
    lengths = [sampler.length_at(step) for step in range(2000)]
    assert lengths == [
        WindowSampler(cut, [1.0], 1, 1000, seed=3, shortest=60).length_at(s) for s in range(2000)
    ]
    assert lengths != [
        WindowSampler(cut, [1.0], 1, 1000, seed=4, shortest=60).length_at(s) for s in range(2000)
    ]
    assert set(lengths) <= {-(-1000 // pieces) for pieces in range(1, 17)}
    assert min(lengths) == 63 and max(lengths) == 1000
    # Four doublings from 62.5 to 1,000; of equal chance, but for where the lengths are rounded.
    share = [sum(low < length <= 2 * low for length in lengths) / 2000 for low in (62.4, 125, 250, 500)]
    assert all(0.1 < part < 0.4 for part in share)
    # In a warm-up the stage is the longest; a stage below the shortest stays as it is.
    warm = WindowSampler(cut, [1.0], 1, 1000, shortest=60, stages=[(0, 50), (10, 120)])
    assert {warm.length_at(step) for step in range(10)} == {50}
    assert {warm.length_at(step) for step in range(10, 99)} == {60, 120}
    assert [length for _, length, _ in sampler] == lengths[:1]


def test_order_and_strands_depend_on_seed_and_epoch_alone(small):
    def stream(seed, epoch):
        sampler = WindowSampler(small[1], [1.0], 4, 8, seed=seed, reverse_complement=0.5)
        sampler.epoch = epoch
        return list(sampler)

    one = stream(1, 0)
    assert stream(1, 0) == one and stream(1, 1) != one and stream(2, 0) != one
    for items in (one, stream(1, 1), stream(2, 0)):
        rows = [row for row, _, _ in items]
        assert sorted(rows[:17]) == list(range(17)) and rows[17:] == [-1] * 3
    many = WindowSampler(
        windows(*[(0, 0, i, i + 1) for i in range(2000)]), [1.0], 4, 8, reverse_complement=0.25
    )
    assert 400 < sum(flip for _, _, flip in many) < 600


def test_weights_of_files():
    cut = windows(*[(file, 0, i, i + 1) for file, n in enumerate((6, 10, 4)) for i in range(n)])
    sampler = WindowSampler(cut, [2.0, 0.5, 1.0], rows_per_step=1, length=1)
    seen = []
    for epoch in range(4):
        sampler.epoch = epoch
        seen.append([row for row, _, _ in sampler])
        count = [sum(low <= row < high for row in seen[-1]) for low, high in ((0, 6), (6, 16), (16, 20))]
        assert count == [12, 5, 4]
        assert sorted(row for row in seen[-1] if row < 6) == sorted([*range(6), *range(6)])
    # even, over four epochs
    for file, times in ((range(0, 6), 8), (range(6, 16), 2), (range(16, 20), 4)):
        assert all(sum(rows.count(row) for rows in seen) == times for row in file)


def test_weights_of_windows():
    """Times those of their file; the windows of one weight take turns."""
    cut = windows(*[(file, 0, i, i + 1) for file, n in enumerate((8, 0, 4)) for i in range(n)])
    factors = np.array([0.5] * 4 + [2.0] * 4 + [1.0] * 4)
    sampler = WindowSampler(cut, [2.0, 1.0, 0.5], 1, 1, window_weights=factors)
    assert [(group.file, group.weight, group.rows.tolist()) for group in sampler.groups] == [
        (0, 1.0, [0, 1, 2, 3]),
        (0, 4.0, [4, 5, 6, 7]),
        (1, 1.0, []),
        (2, 0.5, [8, 9, 10, 11]),
    ]
    rows = [row for row, _, _ in sampler]
    assert [rows.count(row) for row in range(8)] == [1] * 4 + [4] * 4
    assert sum(row >= 8 for row in rows) == 2 and len(rows) == 22
    equal = WindowSampler(cut, [2.0, 1.0, 0.5], 1, 1, window_weights=np.ones(12))
    assert list(equal) == list(WindowSampler(cut, [2.0, 1.0, 0.5], 1, 1))


@pytest.mark.parametrize("stages", [(), [(0, 3), (2, 5)]])
def test_each_base_comes_once_an_epoch_over_two_ranks_and_two_workers(stages, small):
    """And from where a run is resumed, each rank reads on as it would have."""
    genomes, cut = small
    for epoch in (0, 1):
        seen = []
        for rank in range(2):
            sampler = WindowSampler(
                cut, [1.0], rows_per_step=2 * 3 * 2, length=8, reverse_complement=0.5, stages=stages
            )
            loader = torch.utils.data.DataLoader(
                WindowDataset(genomes, cut, 8),
                batch_size=3,
                sampler=sampler,
                num_workers=2,
                collate_fn=WindowCollator(),
            )
            loader = prepare_data_loader(loader, num_processes=2, process_index=rank, put_on_device=False)
            sampler.epoch = epoch
            batches = [batch["input_ids"] for batch in loader]
            resumed = [batch["input_ids"] for batch in skip_first_batches(loader, 2)]
            assert len(resumed) == len(batches) - 2 and all(map(torch.equal, resumed, batches[2:]))
            seen.append(batches)
        # Both ranks take the same number of batches, of the same length in the same step.
        assert len(seen[0]) == len(seen[1]) and all(
            a.shape[1] == b.shape[1] for a, b in zip(*seen, strict=True)
        )
        text = [
            "".join("ACGT"[i - 7] for i in row.tolist() if 7 <= i <= 10)
            for rank in seen
            for b in rank
            for row in b
        ]
        if not stages:
            expected = [random_dna(83)[i : i + 8] for i in range(0, 83, 8)]
            expected += [random_dna(45, 1)[i : i + 8] for i in range(0, 45, 8)]
            strands = {frozenset((s, s[::-1].translate(str.maketrans("ACGT", "TGCA")))) for s in expected}
            assert len(strands) == len(expected) == sum(bool(t) for t in text)
            assert all(sum(t in pair for t in text) == 1 for pair in strands)
        assert sum(map(len, text)) == 83 + 45


def test_the_other_strand_is_that_of_strings(tmp_path):
    genomes = open_genomes([write_fasta(tmp_path / "g.fa", GENOME)])
    dataset = WindowDataset(genomes, windows((0, 1, 40, 100)), 60)
    text = reverse_complement(GENOME["2"][40:100])
    tokens = HyenaDNATokenizer()(text)["input_ids"]
    ids = dataset[(0, 60, True)][0]
    assert (ids % SOFT_MASKED).tolist() == tokens
    assert (ids[:-1] >= SOFT_MASKED).tolist() == [letter.islower() for letter in text]
