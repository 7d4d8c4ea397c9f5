"""Files of many records: `hyenadna variants` without the model's work, and `hyenadna score`.

    python benchmarks/records.py --records 20000 100000
    python benchmarks/records.py --commands score --records 500000 --before OTHER_ENVIRONMENT/bin/python

Each run is a process of its own: its CPU time and its peak of memory, imports and all. (Linux only:
the peak that `wait4` gives would include the memory of this process before `exec`.) Several
numbers of records show what grows with them. With `--before`, the Python of an environment that
holds an earlier version, each run is followed by one of that version, and their outputs are
compared: variants byte by byte; of the scores, which depend on the model's rounding, the last column
tells the largest difference.

`variants`: records of one base on 1,000 contigs in a bgzip file, window 64; what the model would say
is replaced by ones. `score`: sequences of 60 bases, one strand, a tiny model.
"""

import argparse
import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM
from hyenadna.genomics.fasta import open_genomes
from hyenadna.genomics.vcf import write_vcf

CONTIGS = 1000
BASES = 12_000  # of a contig: the records lie ten apart
READ = 60

# The functions that run the model, by their names in the versions so far.
COMMAND = """
import sys
import numpy as np
from hyenadna.training import cli

def ones(model, sequences, batch_size):
    count, width = len(sequences), model.config.d_model
    if isinstance(sequences[0], str):  # before there were readings of two alleles
        return np.ones(count), np.ones((count, width))
    return np.ones((count, 2)), np.ones((count, 2, 3, width))

if sys.argv[1] == "variants":
    try:
        from hyenadna.analysis import variants
    except ModuleNotFoundError:
        from hyenadna.training import variants
    (name,) = [name for name in ("score_windows", "read_windows") if hasattr(variants, name)]
    setattr(variants, name, ones)
code = cli.main(sys.argv[1:])
with open("/proc/self/status") as status:
    print([line for line in status if line.startswith("VmHWM")][0])
sys.exit(code)
"""


@dataclass(frozen=True)
class Cost:
    """Of a process and its children: CPU and wall time in seconds, peak of memory in MB."""

    cpu: float
    wall: float
    memory: float


def run(python: str, arguments: list[str]) -> Cost:
    """Run a command in a process of its own, and measure it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    start = time.monotonic()
    child = subprocess.Popen(
        [python, "-c", COMMAND, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{arguments[0]} failed:\n{said.decode()[-2000:]}")
    kilobytes = int(said.split(b"VmHWM:")[1].split()[0])
    return Cost(usage.ru_utime + usage.ru_stime, time.monotonic() - start, kilobytes / 1024)


# ------------------------------------------------------------------------------ inputs


def random_letters(count: int, length: int, seed: int) -> list[str]:
    letters = np.random.default_rng(seed).choice(np.frombuffer(b"ACGT", np.uint8), (count, length))
    return [row.tobytes().decode() for row in letters]


def make_variants(folder: Path, records: int, genome: list[str]) -> list[str]:
    """Write a VCF, and return the arguments of the command."""
    path = folder / f"{records}.vcf.gz"

    def lines():
        yield "##fileformat=VCFv4.2"
        yield "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tSAMPLE"
        for i in range(records):
            contig, number = divmod(i, -(-records // CONTIGS))
            position = 100 + 10 * number
            ref = genome[contig][position - 1]
            alt = "ACGT"[("ACGT".index(ref) + 1 + i % 3) % 4]
            yield f"c{contig}\t{position}\trs{i}\t{ref}\t{alt}\t50\tPASS\tAC={i % 7};AN=200\tGT\t0|1"

    write_vcf(path, lines())
    return ["variants", "--vcf", str(path), "--fasta", str(folder / "genome.fa"), "--window", "64"]


def make_reads(folder: Path, records: int) -> list[str]:
    """Write a FASTA file, and return the arguments of the command."""
    path = folder / f"{records}.fa"
    reads = random_letters(records, READ, records)
    path.write_text("".join(f">read{i}\n{read}\n" for i, read in enumerate(reads)))
    open_genomes([path])  # writes the index, for all
    return ["score", "--data", str(path), "--strand", "forward"]


def difference(one: Path, other: Path) -> float:
    """Return the largest difference between numbers in the tables of two folders.

    Raises:
        ValueError: Anything else differs.
    """
    largest = 0.0
    for path in sorted(one.glob("*.tsv")):
        tables = [pd.read_csv(folder / path.name, sep="\t") for folder in (one, other)]
        pd.testing.assert_frame_equal(*tables, check_exact=False, rtol=1e-4, atol=1e-4)
        numbers = [table.select_dtypes("number").to_numpy() for table in tables]
        largest = max(largest, float(np.nanmax(np.abs(numbers[0] - numbers[1]), initial=0)))
    for path in sorted(one.glob("*.vcf.gz")):
        # Unpacked: levels of compression may differ.
        with gzip.open(path, "rb") as file, gzip.open(other / path.name, "rb") as before:
            if hashlib.file_digest(file, "sha256").digest() != hashlib.file_digest(before, "sha256").digest():
                raise ValueError(f"{path.name} differs")
    return largest


# ------------------------------------------------------------------------------ measurements


def measure(
    folder: Path, pythons: list[str], arguments: list[str], rounds: int
) -> tuple[list[Cost], float | None]:
    """Return the lowest cost with each Python, run in turn, and how far their tables differ."""
    costs: list[list[Cost]] = [[] for _ in pythons]
    outputs = [folder / f"output{i}" for i in range(len(pythons))]
    for _ in range(rounds):
        for python, output, of_one in zip(pythons, outputs, costs, strict=True):
            shutil.rmtree(output, ignore_errors=True)
            target = ["--output_dir", str(output)]
            if arguments[0] == "score":
                output.mkdir()
                target = ["--output", str(output / "scores.tsv")]
            model = ["--model", str(folder / "model"), "--device", "cpu"]
            of_one.append(run(python, [*arguments, *model, *target]))
    lowest = [min(of_one, key=lambda cost: cost.cpu) for of_one in costs]
    if len(outputs) < 2:
        return lowest, None
    return lowest, difference(*outputs)


def report(command: str, records: int, costs: list[Cost], apart: float | None) -> str:
    cells = [command, f"{records:,}"]
    for cost in costs:
        cells += [f"{cost.cpu:.1f}", f"{cost.memory:,.0f}"]
    if len(costs) > 1:
        now, before = costs
        cells += [f"{now.cpu / before.cpu:.2f}", f"{now.memory / before.memory:.2f}", f"{apart:.1e}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--commands", nargs="+", choices=("variants", "score"), default=["variants", "score"])
    parser.add_argument("--records", nargs="+", type=int, default=[0, 20_000, 100_000])
    parser.add_argument("--before", help="the Python of an environment with an earlier version")
    parser.add_argument("--rounds", type=int, default=1, help="of each run; the lowest CPU time counts")
    args = parser.parse_args()
    pythons = [sys.executable, *filter(None, [args.before])]

    columns = ["command", "records", "CPU s", "MB"]
    if args.before:
        columns += ["CPU s before", "MB before", "CPU", "MB", "apart"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.manual_seed(0)
        model = HyenaDNAForCausalLM(HyenaDNAConfig(d_model=8, n_layer=1, max_seq_len=66))
        model.save_pretrained(folder / "model")
        genome = random_letters(CONTIGS, BASES, 0)
        (folder / "genome.fa").write_text("".join(f">c{i}\n{text}\n" for i, text in enumerate(genome)))
        open_genomes([folder / "genome.fa"])
        for command in args.commands:
            for records in args.records:
                if command == "variants":
                    arguments = make_variants(folder, records, genome)
                else:
                    arguments = make_reads(folder, max(records, 1))
                costs, apart = measure(folder, pythons, arguments, args.rounds)
                print(report(command, records, costs, apart), flush=True)


if __name__ == "__main__":
    main()
