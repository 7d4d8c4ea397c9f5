"""Time and memory of one sequence, forward and in a training step.

    python benchmarks/speed.py --out docs/speed_measured
    python benchmarks/speed.py --lengths 1026 16384 --rounds 5
    python benchmarks/speed.py --d_model 256 --n_layer 8 --lengths 1000000 --modes forward --models ours
    python benchmarks/speed.py --device cuda --out speed_gpu       # speed_device.py: less than a minute

Each figure is the median over `--rounds` processes of one implementation, run in turn (ours, plain,
ours, plain, ...), so that a drift of the machine affects all of them alike. A process makes the
model, does one run that does not count (up to 100,000 bases), and reports the fastest of its
`--repeats` runs and its peak memory above what it held before.

ours       hyenadna; `ours+checkpointing` with activation checkpointing, `ours+unchecked` with
           `check_inputs=False`, on accelerators only
plain      `plain.py`: straight from the paper, as the published code does it
gpt2       Transformers' GPT-2 with SDPA attention, of the same width and depth
multimolecule   if it is installed
floor      what nobody can save: the same matrix products in tiles that fit into the CPU cache, and
           the same transforms, in the cache too
"""

import argparse
import csv
import importlib.util
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

MODELS = ("ours", "ours+unchecked", "ours+checkpointing", "plain", "gpt2", "multimolecule", "floor")
MODES = ("forward", "training")
COLUMNS = {"model": str, "mode": str, "length": int, "seconds": float, "peak_mb": float, "rounds": int}


def memory(field: str) -> float:
    """Return the memory of this process in MB: `VmRSS` is the current, `VmHWM` the peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"{field} is not in /proc/self/status: this benchmark needs Linux")


def make(name: str, d_model: int, n_layer: int, length: int):
    """Return a function from ids `(1, length)` to hidden states, and its module."""
    if name.startswith("ours"):
        from hyenadna import HyenaDNAConfig, HyenaDNAModel

        config = HyenaDNAConfig(d_model=d_model, n_layer=n_layer, max_seq_len=length, embed_dropout=0.0)
        model = HyenaDNAModel(config)
        if name.endswith("unchecked"):
            config.check_inputs = False
        if name.endswith("checkpointing"):
            model.activation_checkpointing_enable()
        return lambda ids: model(ids).last_hidden_state, model
    if name == "plain":
        from plain import Plain

        model = Plain(d_model, n_layer, length)
        return model, model
    if name == "gpt2":
        from transformers import GPT2Config, GPT2Model

        sizes = {"n_embd": d_model, "n_layer": n_layer, "n_head": d_model // 64, "n_positions": length}
        config = GPT2Config(
            vocab_size=16, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False, **sizes
        )
        config._attn_implementation = "sdpa"
        model = GPT2Model(config)
        return lambda ids: model(ids).last_hidden_state, model
    from multimolecule import HyenaDnaConfig, HyenaDnaModel

    sizes = {"hidden_size": d_model, "num_hidden_layers": n_layer, "intermediate_size": 4 * d_model}
    model = HyenaDnaModel(HyenaDnaConfig(vocab_size=16, max_position_embeddings=length, **sizes))
    return lambda ids: model(ids).last_hidden_state, model


def floor(d_model: int, n_layer: int, length: int, training: bool) -> float:
    """Return the seconds that the matrix products and transforms take at best on this machine."""
    import torch

    from hyenadna.long_convolution import next_fast_length

    def fastest(run, repeats=20):
        times = []
        for _ in range(repeats + 1):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        return min(times[1:])

    tile = min(length, 1024)
    seconds = 0.0
    # Per position: in_proj, out_proj, fc1 and fc2, then the layers of the filter network. Training
    # takes three times as much: two more products in the backward pass.
    for rows, columns in ((3, 1), (1, 1), (4, 1), (1, 4)):
        x = torch.randn(tile, columns * d_model)
        w = torch.randn(rows * d_model, columns * d_model)
        seconds += fastest(lambda x=x, w=w: x @ w.T) * length / tile
    for shape in ((5, 64), (64, 64), (64, 64), (64, d_model)):
        x = torch.randn(tile, shape[0])
        w = torch.randn(*shape)
        seconds += fastest(lambda x=x, w=w: x @ w) * length / tile
    seconds *= 3 if training else 1
    # Per channel: two transforms forth and one back, in training three and three. Try batches of
    # several sizes, and take the fastest.
    n = next_fast_length(2 * length - 1)
    per_channel = []
    for rows in (2, 4, 8, 16, 32, 64, 128, d_model):
        if rows > d_model or (per_channel and rows * n > 2**22):
            continue
        x = torch.randn(rows, n)
        spectrum = torch.fft.rfft(x)
        forth = fastest(lambda x=x: torch.fft.rfft(x), 5)
        back = fastest(lambda spectrum=spectrum: torch.fft.irfft(spectrum, n=n), 5)
        per_channel.append(((3 if training else 2) * forth + (3 if training else 1) * back) / rows)
    seconds += d_model * min(per_channel)
    return seconds * n_layer


def child(name: str, mode: str, length: int, d_model: int, n_layer: int, repeats: int) -> dict:
    import torch

    torch.manual_seed(0)
    if name == "floor":
        return {"seconds": floor(d_model, n_layer, length, mode == "training"), "peak_mb": math.nan}
    run, model = make(name, d_model, n_layer, length)
    model.train(mode == "training")
    ids = torch.randint(7, 11, (1, length))

    def step():
        if mode == "forward":
            with torch.no_grad():
                run(ids)
        else:
            run(ids).square().mean().backward()
            model.zero_grad()

    idle = memory("VmRSS")
    times = []
    warm_up = length <= 100_000  # in a longer run, the extra cost of a first one does not matter
    for _ in range(repeats + warm_up):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return {"seconds": min(times[warm_up:]), "peak_mb": memory("VmHWM") - idle}


def measure(args: argparse.Namespace) -> list[dict]:
    rows = []
    for mode in args.modes:
        for length in args.lengths:
            results = {name: [] for name in args.models}
            for _ in range(args.rounds if length <= 100_000 else min(args.rounds, 3)):
                for name in list(results):
                    if name == "multimolecule" and importlib.util.find_spec(name) is None:
                        continue
                    if name == "ours+unchecked" or (name == "ours+checkpointing" and mode == "forward"):
                        continue
                    if name == "gpt2" and length > args.gpt2_until:
                        continue
                    repeats = args.repeats if length <= 10_000 else 2 if length <= 100_000 else 1
                    command = [sys.executable, __file__, "--child", name, mode, str(length)]
                    command += [str(args.d_model), str(args.n_layer), str(repeats)]
                    done = subprocess.run(command, capture_output=True, text=True, check=False)
                    if done.returncode:
                        reason = (
                            "out of memory" if done.returncode < 0 else done.stderr.strip().splitlines()[-1]
                        )
                        print(f"{name} {mode} {length}: {reason}", file=sys.stderr)
                        results.pop(name)
                        continue
                    results[name].append(json.loads(done.stdout.splitlines()[-1]))
            for name, runs in results.items():
                if runs:
                    figures = {key: median(run[key] for run in runs) for key in ("seconds", "peak_mb")}
                    rows.append(
                        {"model": name, "mode": mode, "length": length, **figures, "rounds": len(runs)}
                    )
                    print(
                        f"{mode:9}{length:>9,} {name:20}{figures['seconds']:10.3f} s "
                        f"{figures['peak_mb']:9.0f} MB"
                    )
    return rows


def table(rows: list[dict]) -> str:
    """Return a Markdown table: a row for each mode and length, others as multiples of ours."""
    names = [name for name in MODELS if any(row["model"] == name for row in rows)]
    lines = ["| | length | " + " | ".join(names) + " |", "|---|---|" + "---|" * len(names)]
    for mode, length in dict.fromkeys((row["mode"], row["length"]) for row in rows):
        found = {row["model"]: row for row in rows if (row["mode"], row["length"]) == (mode, length)}
        ours = found.get("ours")
        cells = []
        for name in names:
            row = found.get(name)
            if row is None:
                cells.append("")
                continue
            cell = f"{row['seconds']:.3g} s"
            if not math.isnan(row["peak_mb"]):
                cell += f", {row['peak_mb']:,.0f} MB"
            if ours is not None and row is not ours:
                cell += f" ({row['seconds'] / ours['seconds']:.2f}x"
                cell += ")" if math.isnan(row["peak_mb"]) else f", {row['peak_mb'] / ours['peak_mb']:.2f}x)"
            cells.append(cell)
        lines.append(f"| {mode} | {length:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def picture(rows: list[dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    modes = list(dict.fromkeys(row["mode"] for row in rows))
    figure, axes = plt.subplots(2, len(modes), figsize=(5.5 * len(modes), 8), squeeze=False, sharex=True)
    for column, mode in enumerate(modes):
        for line, (key, label) in enumerate(
            (("seconds", "seconds"), ("peak_mb", "peak memory above idle, MB"))
        ):
            axis = axes[line][column]
            for name in MODELS:
                points = [(r["length"], r[key]) for r in rows if r["model"] == name and r["mode"] == mode]
                points = sorted(p for p in points if not math.isnan(p[1]))
                if points:
                    axis.loglog(
                        *zip(*points, strict=True), marker="o", label=name, ls=":" if name == "floor" else "-"
                    )
            axis.set(title=mode if line == 0 else "", ylabel=label, xlabel="length in bases" if line else "")
    save_picture(figure, path)


def save_picture(figure, path: Path) -> None:
    for axis in figure.axes:
        axis.grid(alpha=0.3)
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        name, mode, *numbers = sys.argv[2:]
        sys.path.insert(0, str(Path(__file__).parent))
        print(json.dumps(child(name, mode, *map(int, numbers))))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or another accelerator")
    parser.add_argument("--d_model", type=int, default=128)
    parser.add_argument("--n_layer", type=int, default=2)
    parser.add_argument("--lengths", type=int, nargs="+", help="by default some from 1,024 to a million")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument(
        "--rounds", type=int, default=5, help="processes per figure, 3 at most above 100,000 bases"
    )
    parser.add_argument("--repeats", type=int, default=5, help="runs in a process, fewer above 10,000 bases")
    parser.add_argument("--gpt2_until", type=int, default=20_000, help="longest length for attention")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], help="on accelerators")
    parser.add_argument("--budget", type=float, default=45.0, help="seconds for all, on accelerators")
    parser.add_argument("--out", help="write OUT.md, OUT.csv and OUT.png, or add to them")
    args = parser.parse_args()
    if args.device != "cpu":
        import speed_device

        rows = speed_device.measure(args, make)
        print(f"\n{speed_device.table(rows)}")
        return
    args.lengths = args.lengths or [1026, 16384, 65537, 160_000, 160_002, 450_002]
    rows = measure(args)
    if not args.out:
        print(f"\n{table(rows)}")
        return
    out = Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.with_suffix(".csv").exists():  # other lengths, models or modes of an earlier sitting
        new = {(row["model"], row["mode"], row["length"]) for row in rows}
        with open(out.with_suffix(".csv"), newline="") as file:
            old = [
                {key: convert(row[key]) for key, convert in COLUMNS.items()} for row in csv.DictReader(file)
            ]
        rows += [row for row in old if (row["model"], row["mode"], row["length"]) not in new]
    rows.sort(key=lambda row: (MODES.index(row["mode"]), row["length"], MODELS.index(row["model"])))
    with open(out.with_suffix(".csv"), "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    out.with_suffix(".md").write_text(
        f"Width {args.d_model}, {args.n_layer} layers, {os.cpu_count()} cores. Medians: seconds, and MB "
        f"beyond the idle process. Figures in brackets are multiples of ours.\n\n{table(rows)}\n"
    )
    picture(rows, out.with_suffix(".png"))
    print(f"\n{table(rows)}")


if __name__ == "__main__":
    main()
