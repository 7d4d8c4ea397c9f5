"""Check and summarize a run of `hyenadna variants`.

    hyenadna variants --model M --vcf calls.vcf.gz --fasta genome.fa --output_dir effects
    python benchmarks/variants.py effects --sample 100 --out docs/variants     # writes docs/variants.md

1. Rare against common: the mean score by frequency of the alternative allele (AC / AN in INFO, or
   AF).
2. By hand: score a random sample of alleles again, by two full forward passes per strand over
   windows that pyfaidx cuts from the FASTA and the tokenizer reads. Our genomics and analysis code
   takes no part. Once in float32, as in the run, and once in float64, to see how much float32
   rounding matters, mostly that in the filters.
3. Mutagenesis of 200 positions in the middle of a window: its time against that of 600 full passes,
   one at a time and in batches as mutagenesis has them. One thread, CPU time, run in turn, the
   median of `--rounds`.
"""

import argparse
import gzip
import json
import re
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pyfaidx import Fasta
from sklearn.metrics import roc_auc_score

from hyenadna import HyenaDNAForCausalLM, HyenaDNATokenizer

EDGES = [0, 0.005, 0.01, 0.05, 0.5, 1]
COMPLEMENT = str.maketrans("ACGTN", "TGCAN")


def frequencies(vcf: str) -> list[list[float]]:
    """Return the frequencies of each record's alternative alleles; NaN if INFO has none."""
    found = []
    with (gzip.open if vcf.endswith(("gz", "bgz")) else open)(vcf, "rt") as file:
        for line in file:
            if line.startswith("#"):
                continue
            fields = line.split("\t", 8)
            info = dict(item.split("=", 1) for item in fields[7].strip().split(";") if "=" in item)
            count = fields[4].count(",") + 1
            if "AC" in info and float(info.get("AN", 0)) > 0:
                values = [float(x) / float(info["AN"]) for x in info["AC"].split(",")]
            else:
                values = [float(x) for x in info.get("AF", "").split(",") if x not in ("", ".")]
            found.append(values if len(values) == count else [np.nan] * count)
    return found


def by_frequency(table: pd.DataFrame, vcf: str) -> list[str]:
    values = [x for record in frequencies(vcf) for x in record]
    assert len(values) == len(table), (
        f"{vcf} has {len(values)} alleles, but the table {len(table)}: not of one run"
    )
    table = table.assign(frequency=values)[table["skip"] == ""]
    lines = [
        "| frequency of the alternative allele | alleles | mean score | standard error | median | distance |"
    ]
    lines.append("|---|---|---|---|---|---|")
    for low, high in pairwise(EDGES):
        part = table[table["frequency"].between(low, high, inclusive="right" if low else "both")]
        if len(part):
            score = part["llr"]
            lines.append(
                f"| {low:.1%} to {high:.1%} | {len(part):,} | {score.mean():+.4f} | {score.sem():.4f} | "
                f"{score.median():+.4f} | {part['distance'].mean():.2e} |"
            )
    rare, common = (table["llr"][rows] for rows in (table["frequency"] <= 0.01, table["frequency"] >= 0.05))
    if len(rare) and len(common):
        difference, error = rare.mean() - common.mean(), np.hypot(rare.sem(), common.sem())
        area = roc_auc_score([0] * len(rare) + [1] * len(common), np.concatenate([rare, common]))
        lines += [
            "",
            f"Rare (at most 1 %) {rare.mean():+.4f}, common (at least 5 %) {common.mean():+.4f}, "
            f"difference {difference:+.4f} ± {error:.4f} (standard error). The score tells common from rare "
            f"with an area under the ROC curve of {area:.4f}.",
        ]
    return lines


def full_pass(model, tokenizer, sequence: str) -> float:
    """Return the log-likelihood of the A, C, G and T of a sequence from one full pass."""
    ids = tokenizer(sequence, add_special_tokens=False, return_tensors="pt").input_ids
    with torch.no_grad():
        p = model(ids).logits[0, :-1].double().log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    return float(p[torch.tensor([base in "ACGT" for base in sequence[1:]])].sum())


def by_hand(table: pd.DataFrame, settings: dict, sample: int, seed: int) -> list[str]:
    """Score a random sample again without the code of the command, and return the differences."""
    tokenizer = HyenaDNATokenizer()
    genome = Fasta(settings["fasta"], as_raw=True)
    single = HyenaDNAForCausalLM.from_pretrained(settings["model"], dtype=torch.float32).eval()
    double = HyenaDNAForCausalLM.from_pretrained(settings["model"], dtype=torch.float32).eval().double()
    rows = table[table["skip"] == ""]
    rows = rows.sample(min(sample, len(rows)), random_state=seed)
    differences = {"run - float32": [], "run - float64": [], "float32 - float64": []}
    for row in rows.itertuples():
        known = list(genome.keys())
        name = next(n for n in (row.chrom, f"chr{row.chrom}", row.chrom.removeprefix("chr")) if n in known)
        chromosome = genome[name]
        ref = row.ref.upper()
        alt = row.alt.upper()
        at = row.pos - 1  # VCF counts from 1
        around = settings["window"] - max(len(ref), len(alt))
        start = max(0, at - around // 2)
        end = min(len(chromosome), at + len(ref) + around - around // 2)
        before = chromosome[start:at].upper()
        after = chromosome[at + len(ref) : end].upper()
        assert chromosome[at : at + len(ref)].upper() == ref
        pair = [re.sub("[^ACGTN]", "N", before + allele + after) for allele in (ref, alt)]
        pairs = [pair, [s.translate(COMPLEMENT)[::-1] for s in pair]]
        a, b = (
            sum(full_pass(model, tokenizer, y) - full_pass(model, tokenizer, x) for x, y in pairs) / 2
            for model in (single, double)
        )
        for name, value in zip(differences, (row.llr - a, row.llr - b, a - b), strict=True):
            differences[name].append(abs(value))
    lines = [
        f"{len(rows)} alleles scored again by full passes, absolute differences of the score:",
        "",
        "| | mean | largest |",
        "|---|---|---|",
    ]
    return lines + [f"| {name} | {np.mean(v):.1e} | {max(v):.1e} |" for name, v in differences.items()]


def cpu_time(run) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def mutagenesis_cost(settings: dict, batch_size: int, rounds: int) -> list[str]:
    from hyenadna.analysis.mutations import mutagenesis

    model = HyenaDNAForCausalLM.from_pretrained(settings["model"], dtype=torch.float32).eval()
    length, tokenizer = settings["window"], HyenaDNATokenizer()
    sequence = "".join("ACGT"[i] for i in np.random.default_rng(0).integers(0, 4, length))
    ids = tokenizer(sequence, add_special_tokens=False, return_tensors="pt").input_ids
    first = (length - 200) // 2
    batch = ids.repeat(batch_size, 1)
    runs = (
        lambda: [model(ids) for _ in range(batch_size)],
        lambda: model(batch),
        lambda: mutagenesis(model, sequence, first, first + 200, batch_size),
    )
    with torch.no_grad():
        times = [[cpu_time(run) for run in runs] for _ in range(rounds + 1)][1:]
    one, many, seconds = np.median(times, axis=0) / (batch_size, batch_size, 2)
    return [
        f"Mutagenesis of 200 positions in the middle of {length:,} bases takes {seconds:.2f} s of one "
        f"thread per strand. 600 full passes take {600 * one:.2f} s one at a time, and {600 * many:.2f} s "
        f"in batches of {batch_size}. So it costs as much as **{seconds / one:.0f}** or "
        f"**{seconds / many:.0f}** of them: {seconds / one / 600:.2f} or {seconds / many / 600:.2f}."
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="output_dir of `hyenadna variants`")
    parser.add_argument("--sample", type=int, default=50, help="alleles to score by hand")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", help="write OUT.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = json.loads((args.run / "run_settings.json").read_text())
    text = dict.fromkeys(("chrom", "ref", "alt", "skip"), str)
    table = pd.read_csv(
        args.run / "variants.tsv", sep="\t", dtype=text, keep_default_na=False, na_values=["nan"]
    )
    skipped = table["skip"][table["skip"] != ""].value_counts()
    lines = [
        f"{len(table):,} alleles, {len(table) - skipped.sum():,} scored" + (":" if len(skipped) else ".")
    ]
    lines += [f"{count:,} {reason}" for reason, count in skipped.items()] + [""]
    for part in (
        lambda: by_frequency(table, settings["vcf"]),
        lambda: by_hand(table, settings, args.sample, args.seed),
        lambda: mutagenesis_cost(settings, args.batch_size, args.rounds),
    ):
        lines += [*part(), ""]
    print("\n".join(lines))
    if args.out:
        title = "# A run of `hyenadna variants`, checked by `benchmarks/variants.py`"
        Path(args.out).with_suffix(".md").write_text("\n".join([title, "", *lines]))


if __name__ == "__main__":
    main()
