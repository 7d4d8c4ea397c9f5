"""Milliseconds per generated base at growing contexts.

    python benchmarks/generation.py --out docs/generation
    python benchmarks/generation.py --contexts 1024 8192 32768 --rounds 3
    python benchmarks/generation.py --models ours gpt2 --new 256

In each round the implementations run in turn, so that a drift of the machine affects all of them
alike. A figure is the median over the rounds. Decoding is greedy, with one sequence, random weights
and a process for each run.

ours       `generate` with the cache of `hyenadna`: `--new` bases after a prompt of that length
gpt2       Transformers' GPT-2 of the same width and depth, `generate` with its own cache, up to
           `--gpt2_until`: attention over a longer prompt takes minutes
recompute  `plain.py` reads the whole sequence again for each base, as other implementations of
           HyenaDNA do. A round would take hours, so single steps are timed at `--recompute`
           lengths, spread evenly over the new bases, and their mean is multiplied.

`prefill` and `forward` are the seconds for the prompt, with and without filling a cache. `first` is
the time of the first two bases, prefill included: it contains what the cache postpones.
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

from speed import save_picture

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
        # Several lengths: the time of a transform depends on the prime factors of its length.
        lengths = [context + round(new * (i + 0.5) / recompute) for i in range(recompute)]
        with torch.no_grad():
            head(model(torch.randint(7, 11, (1, lengths[0])))[:, -1])
            ids = [torch.randint(7, 11, (1, length)) for length in lengths]
            seconds = sum(clock(lambda x=x: head(model(x)[:, -1]).argmax(-1)) for x in ids) * new / recompute
        return {"seconds": seconds, "ms_per_base": 1000 * seconds / new}
    if name == "ours":
        from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM

        model = HyenaDNAForCausalLM(
            HyenaDNAConfig(d_model=d_model, n_layer=n_layer, max_seq_len=context + new)
        )
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

    def forward(use_cache):
        return clock(lambda: model(ids, use_cache=use_cache, logits_to_keep=1))

    with torch.no_grad():
        forward(False)
        times = [(forward(True), forward(False)) for _ in range(3 if context > 4096 else 10)]
    figures["prefill"], figures["forward"] = (median(column) for column in zip(*times, strict=True))
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
    """Return a Markdown table with a row for each context: ours, GPT-2 and recomputing.

    Beyond GPT-2's longest context, its figure for that is shown.
    """
    found = {(row["model"], row["context"]): row for row in rows}
    contexts = list(dict.fromkeys(row["context"] for row in rows))
    gpt2 = [row for row in rows if row["model"] == "gpt2"]
    lines = [
        "| context | ours, ms/base | GPT-2, ms/base | ours / GPT-2 | recompute, ms/base | in all, times "
        "faster |"
    ]
    lines[0] += " prefill / forward | first two bases |"
    lines.append("|---|---|---|---|---|---|---|---|")
    for context in contexts:
        ours, slow = found.get(("ours", context)), found.get(("recompute", context))
        other = found.get(("gpt2", context)) or (gpt2[-1] if gpt2 else None)
        cells = [f"{context:,}"] + [""] * 7
        if ours:
            cells[1] = f"{ours['ms_per_base']:.2f}"
            cells[6] = (
                f"{ours['prefill']:.3f} / {ours['forward']:.3f} s = {ours['prefill'] / ours['forward']:.2f}"
            )
            cells[7] = f"{ours['first']:.3f} s"
        if other:
            at = "" if other["context"] == context else f" (at {other['context']:,})"
            cells[2] = f"{other['ms_per_base']:.2f}{at}"
        if ours and other:
            cells[3] = f"{ours['ms_per_base'] / other['ms_per_base']:.2f}"
        if slow:
            cells[4] = f"{slow['ms_per_base']:,.1f}"
        if ours and slow:
            cells[5] = f"{slow['seconds'] / ours['seconds']:.0f}"
        lines.append("| " + " | ".join(cells) + " |")
    per_base = [
        (context, found["ours", context]["ms_per_base"]) for context in contexts if ("ours", context) in found
    ]
    if len(per_base) > 1 and per_base[-1][0] >= 32_000 and dict(per_base).get(2048):
        ratio = per_base[-1][1] / dict(per_base)[2048]
        lines += ["", f"A base after {per_base[-1][0]:,} takes {ratio:.2f} times as long as one after 2,048."]
    return "\n".join(lines)


def growth(lengths: list[int], d_model: int, n_layer: int) -> list[dict]:
    """Time the steps of the model for n bases from an empty prompt, to compare with n log^2 n."""
    import torch
    from transformers import DynamicCache

    from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM

    torch.manual_seed(0)
    longest = max(lengths)
    model = HyenaDNAForCausalLM(HyenaDNAConfig(d_model=d_model, n_layer=n_layer, max_seq_len=longest)).eval()
    ids = torch.randint(7, 11, (1, longest))
    cache = DynamicCache(config=model.config)
    rows = []
    start = time.perf_counter()
    with torch.no_grad():
        for i in range(longest):
            model(ids[:, i : i + 1], past_key_values=cache)
            if i + 1 in lengths:
                rows.append({"model": "steps", "new": i + 1, "seconds": time.perf_counter() - start})
                print(f"{i + 1:>8,} steps {rows[-1]['seconds']:10.2f} s", flush=True)
    return rows


def fitted(steps: list[dict]):
    """Fit `a n + b n log^2 n` to the seconds for n bases.

    The first term is the fixed cost of a step, the second that of the transforms.
    """
    import numpy as np

    n, seconds = (np.array([row[key] for row in steps], dtype=float) for key in ("new", "seconds"))
    design = np.stack([n, n * np.log2(n) ** 2], axis=1)
    fit = np.clip(np.linalg.lstsq(design / seconds[:, None], np.ones(len(n)), rcond=None)[0], 0, None)
    return n, seconds, fit, design @ fit


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
        n, seconds, _, curve = fitted(steps)
        right.loglog(n, seconds, "o", label="ours, from nothing")
        right.loglog(n, curve, "-", label=r"$a\,n + b\,n \log^2 n$")
        slow = sorted((row["context"], row["ms_per_base"]) for row in rows if row["model"] == "recompute")
        if slow:  # the seconds for n bases are the integral of the time for one
            context, ms = (np.concatenate([[0.0], column]) for column in np.array(slow, dtype=float).T)
            total = np.cumsum((ms[1:] + ms[:-1]) / 2 * np.diff(context)) / 1000
            right.loglog(context[1:], total, "s--", label="recompute (integral of the left)")
    right.set(xlabel="bases generated", ylabel="seconds in all", title="from nothing to n bases")
    save_picture(figure, path)


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        sys.path.insert(0, str(Path(__file__).parent))
        print(json.dumps(child(sys.argv[2], *map(int, sys.argv[3:]))))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--d_model", type=int, default=128)
    parser.add_argument("--n_layer", type=int, default=2)
    parser.add_argument("--contexts", type=int, nargs="+", default=[1024, 2048, 8192, 32768])
    parser.add_argument("--new", type=int, default=1024, help="bases to generate")
    parser.add_argument(
        "--recompute", type=int, default=9, help="lengths at which a step of recomputing is timed"
    )
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
        lines = [
            f"`{command}`, {os.cpu_count()} cores. {args.new:,} new bases, medians of {args.rounds} runs.",
            "",
            text,
            "",
        ]
        if steps:
            lines += [
                "Steps of the model alone, from an empty cache:",
                "",
                "| bases | seconds | ms per base |",
                "|---|---|---|",
            ]
            for row in steps:
                ms = 1000 * row["seconds"] / row["new"]
                lines.append(f"| {row['new']:,} | {row['seconds']:.2f} | {ms:.2f} |")
            _, seconds, (a, b), curve = fitted(steps)
            worst = max(abs(curve / seconds - 1))
            lines += ["", f"{a:.3g} n + {b:.3g} n log2(n)^2 fits the seconds to within {worst:.0%}."]
        out.with_suffix(".md").write_text("\n".join(lines) + "\n")
        with open(out.with_suffix(".csv"), "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, restval=math.nan)
            writer.writeheader()
            writer.writerows(rows + steps)
        picture(rows, steps, out.with_suffix(".png"))


if __name__ == "__main__":
    main()
