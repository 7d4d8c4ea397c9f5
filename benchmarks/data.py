"""Speed of the data pipeline of `hyenadna pretrain`, in bases per second and core.

    python benchmarks/data.py [--data genome.fa | --bgzip] [--lengths 1024 100000] [--seconds 5]

One process with one thread turns windows of a FASTA file into batches of `input_ids` and `labels`.
Without --data, a random genome of 64 Mb is written first; with --bgzip it is block-compressed.
Memory is what this process alone holds after a run. The floor is the least that a window can cost:
the same bytes, copied from memory and widened to int64.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pysam
import torch

from hyenadna.genomics.fasta import open_genomes
from hyenadna.genomics.intervals import tile, whole_sequences
from hyenadna.genomics.windows import WindowCollator, WindowDataset, WindowSampler


def random_genome(folder: str, bgzip: bool) -> Path:
    bases = np.random.default_rng(0).choice(np.frombuffer(b"ACGTacgt", np.uint8), (2**20, 60))
    lines = np.concatenate([bases, np.full((len(bases), 1), ord("\n"), np.uint8)], axis=1)
    path = Path(folder) / "random.fa"
    path.write_bytes(b">1\n" + lines.tobytes())
    if not bgzip:
        return path
    packed = path.with_suffix(".fa.gz")
    pysam.tabix_compress(str(path), str(packed))
    return packed


def pipeline(path: str, length: int, reverse_complement: float, ignore_soft_masked: bool):
    """Yield the number of bases in each batch, without end."""
    genomes = open_genomes([path])
    windows = tile(whole_sequences(genomes), length)
    rows = max(1, 2**16 // length)
    sampler = WindowSampler(windows, [1.0], rows, length, reverse_complement=reverse_complement)
    loader = torch.utils.data.DataLoader(
        WindowDataset(genomes, windows, length),
        batch_size=rows,
        sampler=sampler,
        collate_fn=WindowCollator(0.0 if ignore_soft_masked else 1.0),
    )
    while True:
        for batch in loader:
            yield batch["input_ids"].numel()
        sampler.epoch += 1


def floor(path: str, length: int):
    """Yield the number of bases in each batch of random slices of the file's bytes."""
    content = np.fromfile(path, np.uint8)
    rng = np.random.default_rng(0)
    rows = max(1, 2**16 // length)
    while True:
        ids = np.stack(
            [content[i : i + length] for i in rng.integers(0, len(content) - length, rows).tolist()]
        )
        # Twice, because a batch has inputs and labels.
        inputs = torch.from_numpy(ids).long()
        labels = torch.from_numpy(ids).long()
        yield inputs.numel() + 0 * labels.numel()


def speed(batches, seconds: float) -> float:
    """Return millions of bases a second, without a first second to fill the page cache."""
    start = time.perf_counter()
    while time.perf_counter() < start + 1:
        next(batches)
    bases = 0
    start = time.perf_counter()
    while time.perf_counter() < start + seconds:
        bases += next(batches)
    return bases / (time.perf_counter() - start) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="FASTA file, plain or bgzip")
    parser.add_argument("--bgzip", action="store_true", help="compress the random genome by blocks")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 100_000, 1_000_000])
    parser.add_argument("--seconds", type=float, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = args.data or str(random_genome(folder, args.bgzip))
        print("| window | Mbases/s | both strands, lower case ignored | floor | MB |\n|---|---|---|---|---|")
        before = psutil.Process().memory_full_info().uss
        for length in args.lengths:
            runs = (
                pipeline(path, length, 0.0, False),
                pipeline(path, length, 0.5, True),
                floor(path, length),
            )
            speeds = " | ".join(f"{speed(run, args.seconds):.0f}" for run in runs)
            memory = (psutil.Process().memory_full_info().uss - before) / 1e6
            print(f"| {length:,} | {speeds} | {memory:.0f} |")


if __name__ == "__main__":
    main()
