"""Time, memory and roofline on an accelerator: `python benchmarks/speed.py --device cuda`.

Everything runs in one process, implementation after implementation, because on a GPU the start of a
process takes longer than what is measured. A figure is the median of the timed runs after two that
do not count. A run lies between two events on the device's stream. `host_seconds` is the time in
which the host has queued it: where that is as long as the run, the host is the limit.

Beside each figure is what the device could do at best, from two rates measured first: the bandwidth
of a copy, and the speed of a large product of the same type.

bandwidth floor   the bytes that the passes of a block move (`passes`), each input read and each
                  result written once, at that bandwidth
roofline          pass by pass, the longer of its bytes at that bandwidth and its products at that speed

An implementation that fuses passes can be faster than both.
"""

import csv
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import torch

LENGTHS = (1024, 16_384, 131_072, 1_000_000)
LONGEST_TRAINING = 131_072
LONGEST_GPT2 = {"forward": 131_072, "training": 16_384}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
COLUMNS = ("device", "dtype", "mode", "length", "model", "seconds", "host_seconds", "peak_mb")
COLUMNS += ("bandwidth_floor_seconds", "roofline_seconds", "bandwidth_gb_s", "product_tflop_s", "note")
WARM_UP = 2
REPEATS = 10
SECONDS_PER_FIGURE = 1.0


class Pass(NamedTuple):
    """One pass over the sequence: bytes read and written, and floating-point operations of products."""

    name: str
    bytes: float
    flops: float = 0.0


def passes(length: int, width: int, size: int, training: bool) -> list[Pass]:
    """Return the passes of one block over one sequence, forward.

    The residual stream and the transforms are in float32, everything else has `size` bytes a number.
    A transform is twice as long as the sequence, so it reads 8 bytes a position and writes 8. Above
    2^13 points it does so twice, since it does not fit into a multiprocessor's memory.

    Filters are kept between calls without gradients. In training they are made: 64 features a
    position in four layers, then the filters, then their transform.
    """
    stream = 4.0
    numbers = length * width
    rounds = 1 if 2 * length <= 2**13 else 2
    transform = 16.0 * rounds * numbers
    work = [
        Pass("norm 1", (stream + size) * numbers),
        Pass("in_proj", 4 * size * numbers, 6.0 * numbers * width),
        Pass("short convolution and first gate", 5 * size * numbers),
        Pass("transform", transform),
        Pass("product with the filter", 3 * 8.0 * numbers),
        Pass("inverse transform", transform),
        Pass("last gate", (4 + 2 * size) * numbers),
        Pass("out_proj", 2 * size * numbers, 2.0 * numbers * width),
        Pass("residual sum 1", (2 * stream + size) * numbers),
        Pass("norm 2", (stream + size) * numbers),
        Pass("fc1", 5 * size * numbers, 8.0 * numbers * width),
        Pass("gelu", 8 * size * numbers),
        Pass("fc2", 5 * size * numbers, 8.0 * numbers * width),
        Pass("residual sum 2", (2 * stream + size) * numbers),
    ]
    if training:
        features = 64 * length
        work.append(Pass("filter network", 3 * 8.0 * features, 3 * 2.0 * features * 64))
        work.append(Pass("filters", 4.0 * features + 4.0 * numbers, 2.0 * features * width))
        work.append(Pass("transform of the filters", transform))
    return work


class Roofline(NamedTuple):
    """What this device does at best, measured."""

    bytes_per_second: float
    flops_per_second: float

    def floors(self, length: int, width: int, layers: int, size: int, training: bool) -> tuple[float, float]:
        """Return the seconds of the bandwidth floor and of the roofline.

        A backward pass moves and multiplies about twice what the forward pass does.
        """
        times = layers * (3 if training else 1)
        work = passes(length, width, size, training)
        bandwidth = sum(p.bytes for p in work) / self.bytes_per_second
        both = sum(max(p.bytes / self.bytes_per_second, p.flops / self.flops_per_second) for p in work)
        return times * bandwidth, times * both


class Clock:
    """Times runs on one device, and reports its memory."""

    def __init__(self, device: str):
        self.type = torch.device(device).type
        self.module = torch.get_device_module(self.type)

    def run(self, step: Callable[[], object]) -> tuple[float, float]:
        """Return the seconds of a run on the device, and those in which the host queued it."""
        self.module.synchronize()
        begin = time.perf_counter()
        events = self.events()
        if events:
            events[0].record()
        step()
        if events:
            events[1].record()
        queued = time.perf_counter() - begin
        self.module.synchronize()
        seconds = time.perf_counter() - begin
        if events:
            seconds = events[0].elapsed_time(events[1]) / 1e3
        return seconds, queued

    def events(self) -> list:
        """Two events on the device's stream, or none where the device has no events."""
        if not hasattr(self.module, "Event"):
            return []
        return [self.module.Event(enable_timing=True) for _ in range(2)]

    def median(self, step: Callable[[], object]) -> tuple[float, float]:
        """Return the medians after the warm-up; at least one run is timed."""
        begin = time.perf_counter()
        for _ in range(WARM_UP):
            step()
        times = []
        while len(times) < REPEATS:
            times.append(self.run(step))
            if time.perf_counter() - begin > SECONDS_PER_FIGURE:
                break
        on_device, on_host = zip(*times, strict=True)
        return statistics.median(on_device), statistics.median(on_host)

    def roofline(self, dtype: torch.dtype, device: str) -> Roofline:
        source = torch.empty(2**28, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        copied, _ = self.median(lambda: target.copy_(source))
        a = torch.randn(4096, 4096, dtype=dtype, device=device)
        b = torch.randn(4096, 4096, dtype=dtype, device=device)
        multiplied, _ = self.median(lambda: torch.mm(a, b))
        return Roofline(2 * source.numel() / copied, 2 * 4096**3 / multiplied)


def cases(lengths, modes, models) -> Iterator[tuple[str, int, str]]:
    """Yield (mode, length, model), short ones first: what is cut off by the budget is the longest."""
    for length in sorted(lengths):
        for mode in modes:
            if mode == "training" and length > LONGEST_TRAINING:
                continue
            for model in models:
                if model in ("floor", "multimolecule"):
                    continue
                if model == "ours+checkpointing" and mode == "forward":
                    continue
                if model == "ours+unchecked" and mode == "training":
                    continue
                if model == "gpt2" and length > LONGEST_GPT2[mode]:
                    continue
                yield mode, length, model


def figure(clock: Clock, make, case: tuple[str, int, str], dtype: torch.dtype, args) -> dict:
    """Measure one implementation: inference with weights of the type, training under autocast."""
    mode, length, name = case
    device = args.device
    torch.manual_seed(0)
    run, model = make(name, args.d_model, args.n_layer, length)
    model.to(device).train(mode == "training")
    ids = torch.randint(7, 11, (1, length), device=device)
    context = nullcontext()
    if dtype != torch.float32:
        if mode == "forward" and name != "plain":
            model.to(dtype)
        else:
            context = torch.autocast(clock.type, dtype)

    def step():
        if mode == "forward":
            with torch.no_grad(), context:
                run(ids)
            return
        with context:
            loss = run(ids).float().square().mean()
        loss.backward()
        model.zero_grad()

    clock.module.synchronize()
    idle = clock.module.memory_allocated()
    clock.module.reset_peak_memory_stats()
    seconds, host = clock.median(step)
    peak = clock.module.max_memory_allocated() - idle
    return {"seconds": seconds, "host_seconds": host, "peak_mb": peak / 2**20, "note": ""}


def failed(error: Exception) -> dict:
    reason = "out of memory" if isinstance(error, torch.OutOfMemoryError) else str(error).split("\n")[0]
    return {"seconds": math.nan, "host_seconds": math.nan, "peak_mb": math.nan, "note": reason}


def measure(args, make) -> list[dict]:
    """Measure all cases within `args.budget` seconds, and write each row at once.

    Args:
        args: Of `speed.py`.
        make: From (name, d_model, n_layer, length) to a function of ids, and its module.
    """
    begin = time.perf_counter()
    clock = Clock(args.device)
    name = clock.module.get_device_name(torch.device(args.device))
    torch.backends.cuda.matmul.allow_tf32 = False
    rows = []
    path = Path(f"{args.out or 'speed_device'}.csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    rooflines = {dtype: clock.roofline(DTYPES[dtype], args.device) for dtype in args.dtypes}
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for case in cases(args.lengths or LENGTHS, args.modes, args.models):
            for dtype in args.dtypes:
                if time.perf_counter() - begin > args.budget:
                    print(f"{case} {dtype}: left out, {args.budget:.0f} s are over")
                    continue
                row = measured_row(clock, make, case, dtype, args, rooflines[dtype])
                rows.append({"device": name, **row})
                writer.writerow(rows[-1])
                file.flush()
                clock.module.empty_cache()
    print(f"{time.perf_counter() - begin:.0f} s on {name}; {len(rows)} rows in {path}")
    return rows


def measured_row(clock: Clock, make, case: tuple, dtype: str, args, roofline: Roofline) -> dict:
    mode, length, model = case
    try:
        figures = figure(clock, make, case, DTYPES[dtype], args)
    except RuntimeError as error:  # out of memory is one too
        figures = failed(error)
    size = torch.finfo(DTYPES[dtype]).bits // 8
    floors = roofline.floors(length, args.d_model, args.n_layer, size, mode == "training")
    row = {
        "dtype": dtype,
        "mode": mode,
        "length": length,
        "model": model,
        **figures,
        "bandwidth_floor_seconds": floors[0],
        "roofline_seconds": floors[1],
        "bandwidth_gb_s": roofline.bytes_per_second / 1e9,
        "product_tflop_s": roofline.flops_per_second / 1e12,
    }
    print(
        f"{dtype:9}{mode:9}{length:>10,} {model:20}{1e3 * figures['seconds']:10.3f} ms "
        f"(host {1e3 * figures['host_seconds']:8.3f}, bandwidth floor {1e3 * floors[0]:8.3f}, "
        f"roofline {1e3 * floors[1]:8.3f}) {figures['peak_mb']:9,.0f} MB {figures['note']}",
        flush=True,
    )
    return row


def table(rows: list[dict]) -> str:
    """Return a Markdown table, in milliseconds and MB."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    head = ["", "type", "length", *models, "bandwidth floor", "roofline"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for key in dict.fromkeys((row["mode"], row["dtype"], row["length"]) for row in rows):
        mode, dtype, length = key
        chosen = {row["model"]: row for row in rows if (row["mode"], row["dtype"], row["length"]) == key}
        cells = []
        for model in models:
            row = chosen.get(model)
            if row is None:
                cells.append("")
            elif math.isnan(row["seconds"]):
                cells.append(row["note"][:40])
            else:
                cells.append(f"{1e3 * row['seconds']:.3g} ms, {row['peak_mb']:,.0f} MB")
        row = next(iter(chosen.values()))
        floors = [f"{1e3 * row[name]:.3g} ms" for name in ("bandwidth_floor_seconds", "roofline_seconds")]
        lines.append("| " + " | ".join([mode, dtype, f"{length:,}", *cells, *floors]) + " |")
    return "\n".join(lines)
