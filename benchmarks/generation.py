"""Milliseconds per generated base at growing contexts: `python benchmarks/generation.py --out docs/generation`.

    python benchmarks/generation.py --contexts 1024 8192 32768 --rounds 3
    python benchmarks/generation.py --models ours gpt2 --new 256

For each context and round the implementations run in turn, so that a drift of the machine meets all of them; a figure
is the median over the rounds. Greedy, one sequence, weights at random, all in one process for each round.

ours       `generate` with the cache of `hyenadna`: `--new` bases after a prompt of so many
gpt2       Transformers' GPT-2, equal in width and depth, `generate` with its own cache
recompute  `plain.py`, the whole sequence again for each base, as other implementations of HyenaDNA do; only
           `--recompute` bases are timed and the figure multiplied, or a round would take hours
prefill and forward are seconds for the prompt: with a cache left behind, and without one. `first` is the time of the
first two bases with the prefill: what the cache puts off until then is in it.
"""

import argparse
import csv
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

COLUMNS = ("model", "context", "new", "ms_per_base", "seconds", "prefill", "forward", "first")


def clock(run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def child(name: str, context: int, new: int, recompute: int, d_model: int, n_layer: int) -> dict:
    import torch

    torch.manual_seed(0)
    ids = torch.randint(7, 11, (1, context))
    if name == "recompute":
        from plain import Plain

        model = Plain(d_model, n_layer, context + new)
        head = torch.nn.Linear(d_model, 16, bias=False)

        def run(count):  # in the middle of what is to be generated, where the length is the mean one
            x = torch.randint(7, 11, (1, context + new // 2))
            for _ in range(count):
                x = torch.cat([x, head(model(x)[:, -1]).argmax(-1)[:, None]], dim=1)

        with torch.no_grad():
            run(1)
            seconds = clock(lambda: run(recompute)) * new / recompute
        return {"seconds": seconds, "ms_per_base": 1000 * seconds / new}
    if name == "ours":
        from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM

        model = HyenaDNAForCausalLM(HyenaDNAConfig(d_model=d_model, n_layer=n_layer, max_seq_len=context + new))
    else:
        from transformers import GPT2Config, GPT2LMHeadModel

        sizes = {"n_embd": d_model, "n_layer": n_layer, "n_head": d_model // 64, "n_positions": context + new}
        model = GPT2LMHeadModel(GPT2Config(vocab_size=16, bos_token_id=2, eos_token_id=1, **sizes))
    model.eval()

    def generate(count):
        model.generate(ids, min_new_tokens=count, max_new_tokens=count, do_sample=False)

    model.generate(ids[:, :64], min_new_tokens=40, max_new_tokens=40, do_sample=False)
    generate(1)
    figures = {"prefill": clock(lambda: generate(1)), "first": clock(lambda: generate(2))}
    figures["seconds"] = clock(lambda: generate(new))
    figures["ms_per_base"] = 1000 * (figures["seconds"] - figures["prefill"]) / (new - 1)
    with torch.no_grad():
        model(ids, use_cache=False, logits_to_keep=1)
        figures["forward"] = clock(lambda: model(ids, use_cache=False, logits_to_keep=1))
        cached = [clock(lambda: model(ids, use_cache=True, logits_to_keep=1)) for _ in range(2)]
        figures["prefill"] = min(cached)
    return figures


def measure(args: argparse.Namespace) -> list[dict]:
    rows = []
    for context in args.contexts:
        results = {name: [] for name in args.models if name != "gpt2" or context <= args.gpt2_until}
        for _ in range(args.rounds):
            for name in results:
                command = [sys.executable, __file__, "--child", name, context, args.new, args.recompute]
                command += [args.d_model, args.n_layer]
                done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
                if done.returncode:
                    raise SystemExit(done.stderr)
                results[name].append(json.loads(done.stdout.splitlines()[-1]))
        for name, runs in results.items():
            figures = {key: median(run[key] for run in runs) for key in runs[0]}
            rows.append({"model": name, "context": context, "new": args.new, **figures})
            print(f"{context:>8,} {name:10}{figures['ms_per_base']:10.2f} ms", flush=True)
    return rows


def table(rows: list[dict]) -> str:
    """Markdown: a row for each context; in brackets how many times the others' time is ours."""
    names = list(dict.fromkeys(row["model"] for row in rows))
    lines = ["| context | " + " | ".join(f"{n}, ms/base" for n in names) + " | prefill / forward | first two bases |"]
    lines.append("|---|" + "---|" * (len(names) + 2))
    for context in dict.fromkeys(row["context"] for row in rows):
        found = {row["model"]: row for row in rows if row["context"] == context}
        ours, cells = found.get("ours"), []
        for name in names:
            row = found.get(name)
            if row is None:
                cells.append("")
                continue
            cell = f"{row['ms_per_base']:,.2f}"
            if ours is not None and row is not ours:
                cell += f" ({row['seconds'] / ours['seconds']:.1f}x in all)"
            cells.append(cell)
        if ours is not None:
            cells.append(f"{ours['prefill']:.3f} / {ours['forward']:.3f} s = {ours['prefill'] / ours['forward']:.2f}")
            cells.append(f"{ours['first']:.3f} s")
        else:
            cells += ["", ""]
        lines.append(f"| {context:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def growth(lengths: list[int], d_model: int, n_layer: int) -> list[dict]:
    """Seconds of the model's own steps for n bases from an empty prompt: what n log^2 n is about."""
    import torch

    from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM

    torch.manual_seed(0)
    longest = max(lengths)
    model = HyenaDNAForCausalLM(HyenaDNAConfig(d_model=d_model, n_layer=n_layer, max_seq_len=longest)).eval()
    ids, rows, cache, start = torch.randint(7, 11, (1, longest)), [], None, time.perf_counter()
    with torch.no_grad():
        for i in range(longest):
            cache = model(ids[:, i : i + 1], past_key_values=cache, use_cache=True).past_key_values
            if i + 1 in lengths:
                rows.append({"model": "steps", "new": i + 1, "seconds": time.perf_counter() - start})
                print(f"{i + 1:>8,} steps {rows[-1]['seconds']:10.2f} s", flush=True)
    return rows


def picture(rows: list[dict], steps: list[dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import numpy as np
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5))
    for name in dict.fromkeys(row["model"] for row in rows):
        points = sorted((row["context"], row["ms_per_base"]) for row in rows if row["model"] == name)
        left.loglog(*zip(*points, strict=True), marker="o", label=name)
    left.set(xlabel="context in bases", ylabel="milliseconds per base", title="one more base")
    if steps:
        n = np.array([row["new"] for row in steps], dtype=float)
        seconds = np.array([row["seconds"] for row in steps])
        right.loglog(n, seconds, "o", label="ours, from nothing")
        # Fixed cost per step, and the transforms.
        design = np.stack([n, n * np.log2(n) ** 2], axis=1) / seconds[:, None]
        fit = np.clip(np.linalg.lstsq(design, np.ones(len(n)), rcond=None)[0], 0, None)
        right.loglog(n, fit[0] * n + fit[1] * n * np.log2(n) ** 2, "-", label=r"$a\,n + b\,n \log^2 n$")
        slow = sorted((row["context"], row["ms_per_base"]) for row in rows if row["model"] == "recompute")
        if slow:  # seconds for n bases: the integral of the time for one
            context, ms = np.array(slow, dtype=float).T
            right.loglog(context, np.cumsum(ms * np.diff(context, prepend=0)) / 1000, "s--", label="recompute")
    right.set(xlabel="bases generated", ylabel="seconds in all", title="from nothing to n bases")
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        sys.path.insert(0, str(Path(__file__).parent))
        print(json.dumps(child(sys.argv[2], *map(int, sys.argv[3:]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d_model", type=int, default=128)
    parser.add_argument("--n_layer", type=int, default=2)
    parser.add_argument("--contexts", type=int, nargs="+", default=[1024, 2048, 8192, 32768])
    parser.add_argument("--new", type=int, default=1024, help="bases to generate")
    parser.add_argument("--recompute", type=int, default=4, help="bases to time where each recomputes everything")
    parser.add_argument("--models", nargs="+", default=["ours", "gpt2", "recompute"])
    parser.add_argument("--gpt2_until", type=int, default=10_000, help="longest context of GPT-2")
    parser.add_argument(
        "--steps", type=int, nargs="*", default=[2**i for i in range(8, 17)], help="totals from nothing"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", help="write OUT.md, OUT.csv and OUT.png")
    args = parser.parse_args()
    rows = measure(args)
    text = table(rows)
    print(f"\n{text}")
    steps = growth(args.steps, args.d_model, args.n_layer) if args.steps else []
    if args.out:
        out = Path(args.out)
        out.parent.mkdir(parents=True, exist_ok=True)
        command = "python benchmarks/generation.py " + " ".join(sys.argv[1:])
        lines = [f"`{command}`, {os.cpu_count()} cores. Medians of {args.rounds}; {args.new:,} bases.", "", text, ""]
        if steps:
            lines += [
                "Steps of the model alone, from nothing:",
                "",
                "| bases | seconds | ms per base |",
                "|---|---|---|",
            ]
            for row in steps:
                ms = 1000 * row["seconds"] / row["new"]
                lines.append(f"| {row['new']:,} | {row['seconds']:.2f} | {ms:.2f} |")
        out.with_suffix(".md").write_text("\n".join(lines) + "\n")
        with open(out.with_suffix(".csv"), "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, restval=math.nan)
            writer.writeheader()
            writer.writerows(rows + steps)
        picture(rows, steps, out.with_suffix(".png"))


if __name__ == "__main__":
    main()
