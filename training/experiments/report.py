"""Collect the results of runs into one report: `hyenadna report RUNS... --output_dir FOLDER`.

    hyenadna report benchmark-scratch benchmark-pretrained --output_dir compared

Every `metrics.json` below the given folders is read. Runs of one task with the same settings, but for seed and fold,
are one line: mean, standard deviation and number of runs; each run is a point in the picture. Beside them stand simple
baselines on the same rows and the paper's figures (arXiv 2306.15794, `benchmark_sets.csv`), with a note where the rows
are not those of the paper. All figures but errors (mse, loss) are percentages.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hyenadna.errors import InputError
from hyenadna.training.runs.folder import METRICS_FILE, write_whole
from hyenadna.training.runs.pictures import save_figure

# The sets of the paper; of one without a figure the cell is empty.
SETS = pd.read_csv(Path(__file__).with_name("benchmark_sets.csv"), keep_default_na=False)
# What differs between runs of one line.
_NOT_COMPARED = {"seed", "fold", "data", "validation_data", "test_data", "resume", "data_sha256", "rows_sha256", "task"}
_COLUMNS = ("accuracy", "f1_weighted", "f1_macro", "mcc", "auroc", "pearson", "spearman", "mse")
_ERRORS = ("mse", "loss")  # no percentages


def collect(paths: Sequence[str | Path]) -> list[dict]:
    """Read the results below `paths`; a line for each run and for each baseline.

    Each has `task`, `method`, `group` (equal in runs of one line), `metrics` of the `part` that was tested, `seed`,
    `seconds`, `rows`, `hardware`, and `is_baseline`.

    Raises:
        InputError: There is no finished run, or a file cannot be read.
    """
    files = []
    for path in map(Path, paths):
        found = [path] if path.is_file() else sorted(path.rglob(METRICS_FILE))
        if not found:
            raise InputError(f"{path}: there is no {METRICS_FILE}; a run writes it when it is finished")
        files += [file for file in found if file not in files and not file.parent.name.startswith("checkpoint-")]
    lines = []
    for file in files:
        try:
            content = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"{file} cannot be read: {error}") from error
        # a baseline that was fitted beside several runs on the same rows is one
        lines += [line for line in _lines(content, file) if not (line["is_baseline"] and _known(line, lines))]
    if not lines:
        raise InputError(f"none of the {len(files)} {METRICS_FILE} in {list(map(str, paths))} holds metrics of a run")
    return lines


def _known(line: dict, lines: list[dict]) -> bool:
    same = ("task", "method", "part", "metrics", "seed")
    return any(all(other[key] == line[key] for key in same) for other in lines)


def _lines(content: dict, file: Path) -> list[dict]:
    settings = content.get("settings") or {}
    shared = {
        "rows": content.get("rows") or {},
        "hardware": content.get("hardware") or {},
        "seed": settings.get("seed"),
        "fold": settings.get("fold"),
        "data": settings.get("data_sha256"),
        "folds": settings.get("folds") if settings.get("fold") is not None else None,  # embeddings mean others
        "classes": len(content["label_names"]) if "label_names" in content else None,
        "task": content.get("task") or settings.get("task") or Path(settings.get("data") or file.parent).stem,
    }
    baselines = [
        {**shared, "method": name, "group": name, "is_baseline": True, "seconds": result["seconds"]}
        | _tested(result["metrics"])
        for name, result in content.get("baselines", {}).items()
    ]
    if not content.get("metrics"):  # embeddings that were not classified, the table of an adapter study
        return baselines
    compared = {name: value for name, value in settings.items() if name not in _NOT_COMPARED}
    return [
        *baselines,
        {**shared, "method": _method(settings), "group": json.dumps(compared, sort_keys=True), "is_baseline": False}
        | {
            "seconds": content.get("train_seconds"),
            "cpu_seconds": content.get("train_cpu_seconds"),
            "parameters": content.get("parameters"),
            "settings": compared,
        }
        | _tested(content["metrics"]),
    ]


def _tested(metrics: dict) -> dict:
    part = next((part for part in ("test", "validation", "cross-validation") if part in metrics), None)
    return {"part": part or "all", "metrics": metrics[part] if part else metrics}


def _method(settings: dict) -> str:
    if settings.get("model") is None:
        return f"from scratch ({settings.get('n_layer') or 2} x {settings.get('d_model') or 128})"
    how = "frozen " if settings.get("freeze_backbone") else ""
    lora = f", LoRA {settings['lora_rank']}" if settings.get("lora_rank") else ""
    return f"{how}{Path(settings['model']).name}{lora}"


def summarize(lines: list[dict]) -> dict[str, list[dict]]:
    """Average the lines of one task and group: task -> rows with `method`, `metrics`, `sd`, `runs`, `values`, ..."""
    tasks: dict[str, list[dict]] = {}
    for task in dict.fromkeys(line["task"] for line in lines):
        own = [line for line in lines if line["task"] == task]
        groups = {}
        for line in own:
            groups.setdefault((line["group"], line["part"]), []).append(line)
        rows = []
        for same in groups.values():
            names = dict.fromkeys(name for run in same for name in run["metrics"])
            values = {name: [run["metrics"].get(name) for run in same] for name in names}
            values = {name: [value for value in of if isinstance(value, int | float)] for name, of in values.items()}
            seconds, cpu = ([run[k] for run in same if run.get(k) is not None] for k in ("seconds", "cpu_seconds"))
            rows.append(
                {
                    **{key: same[0].get(key) for key in ("method", "part", "is_baseline", "parameters", "rows")},
                    **{key: same[0].get(key) for key in ("settings", "classes")},
                    "hardware": [run["hardware"] for run in same if run["hardware"]],
                    "seeds": sorted({run["seed"] for run in same if run["seed"] is not None}),
                    "folds": same[0]["folds"],
                    "draws": [(run["seed"], run["fold"], run["data"]) for run in same],
                    "runs": len(same),
                    "values": values,
                    "metrics": {name: float(np.mean(of)) for name, of in values.items() if of},
                    "sd": {name: float(np.std(of, ddof=1)) if len(of) > 1 else None for name, of in values.items()},
                    "seconds": float(np.mean(seconds)) if seconds else None,
                    "cpu_seconds": float(np.mean(cpu)) if cpu else None,
                }
            )
        _tell_apart([row for row in rows if not row["is_baseline"]])
        tasks[task] = sorted(rows, key=lambda row: row["is_baseline"])
    return tasks


def _tell_apart(rows: list[dict]) -> None:
    """Add to methods of one name what differs in their settings."""
    for name in {row["method"] for row in rows}:
        same = [row for row in rows if row["method"] == name]
        keys = sorted({key for row in same for key in row["settings"]})
        for key in keys if len(same) > 1 else []:
            texts = [json.dumps(row["settings"].get(key)) for row in same]
            if len(set(texts)) > 1:
                for row, text in zip(same, texts, strict=True):
                    row["method"] += f", {key} {text.strip(chr(34))}"


def warnings_of(task: str, rows: list[dict]) -> list[str]:
    """Return in what the runs of a task are not to be compared with the paper, or with one another."""
    notes, published = [], SETS[SETS["task"] == task]
    runs = [row for row in rows if not row["is_baseline"]]
    for row in rows:
        if row["part"] == "validation":
            notes.append(f"{row['method']}: measured on the validation part, by which its checkpoint was chosen.")
        if row["folds"] and row["runs"] % row["folds"]:
            notes.append(f"{row['method']}: {row['runs']} runs of {row['folds']} folds: not every fold is finished.")
        data: dict[tuple, set] = {}
        for seed, fold, digest in row["draws"] if not row["is_baseline"] else ():
            data.setdefault((seed, fold), set()).add(digest)
        if any(len(digests) > 1 for digests in data.values()):
            notes.append(f"{row['method']}: runs on different data are averaged; give each data set its own --task.")
        elif len(data) < row["runs"] and not row["is_baseline"]:
            notes.append(f"{row['method']}: a seed was run more than once, and its runs say nothing about the spread.")
    sizes = {json.dumps(row["rows"].get(row["part"])) for row in rows}
    if len(sizes) > 1:
        notes.append(f"The lines were measured on different numbers of rows ({', '.join(sorted(sizes))}).")
    for row in runs if len(published) else []:
        expected = {part: published.iloc[0][f"{part}_rows"] for part in ("train", "test")}
        found = {
            "train": row["rows"].get("train", 0) + row["rows"].get("validation", 0),
            "test": row["rows"].get("test", 0),
        }
        classes = published.iloc[0]["classes"]
        if row["classes"] is not None and classes != row["classes"]:
            notes.append(f"{row['classes']} classes, but {classes} in the paper: another task.")
        for part, count in expected.items():
            if count != "" and int(count) != found[part] and not row["folds"]:
                notes.append(f"{found[part]:,} {part} rows, but {int(count):,} in the paper: the split differs.")
        if expected["train"] != "":
            notes.append("The paper's code chose its epoch on the test rows; here the validation rows choose it.")
    return list(dict.fromkeys(notes))


def columns_of(task: str, rows: list[dict]) -> list[str]:
    """Return the metrics of a task that are shown: the paper's first, then those that are known, and medians."""
    found = dict.fromkeys(name for row in rows for name in row["metrics"])
    medians = [name for name in found if name.startswith("auroc_median_")]
    names = dict.fromkeys([*SETS[SETS["task"] == task]["metric"], *_COLUMNS, *medians])
    return [name for name in names if name in found] or sorted(found)


def report_text(tasks: dict[str, list[dict]]) -> str:
    """Return the report as Markdown."""
    text = ["# Report", "", "Figures are percentages (but for mse and loss): mean ± standard deviation over runs.", ""]
    for task, rows in tasks.items():
        published = SETS[SETS["task"] == task]
        names = columns_of(task, rows)
        tested = next((row["rows"].get(row["part"]) for row in rows if row["rows"]), None)
        text += [f"## {task}", "", f"| | {' | '.join(names)} | runs (seeds) | parameters | seconds |"]
        text.append("|---" * (len(names) + 4) + "|")
        for row in rows:
            cells = [_cell(name, row["metrics"].get(name), row["sd"].get(name)) for name in names]
            seeds = f"{row['runs']} ({', '.join(map(str, row['seeds']))})" if not row["is_baseline"] else ""
            size = f"{row['parameters']:,}" if row["parameters"] else ""
            seconds = f"{row['seconds']:,.0f}" if row["seconds"] is not None else ""
            seconds += f" ({row['cpu_seconds']:,.0f} CPU)" if row["cpu_seconds"] is not None else ""
            text.append(f"| {row['method']} | {' | '.join(cells)} | {seeds} | {size} | {seconds} |")
        for name, column in (("paper, pretrained", "paper"), ("paper, from scratch", "paper_scratch")):
            figures = {row["metric"]: row[column] for _, row in published.iterrows() if row[column] != ""}
            if figures:
                text.append(f"| {name} | {' | '.join(str(figures.get(n, '')) for n in names)} | | | |")
        text.append("")
        if len(published) and published.iloc[0]["paper_others"]:
            text += [f"Others in the paper: {published.iloc[0]['paper_others']}.", ""]
        if tested and "accuracy" in names:
            best = max(row["metrics"].get("accuracy", 0) for row in rows)
            error = 100 * float(np.sqrt(best * (1 - best) / tested))
            text += [
                f"{tested:,} rows tested: an accuracy of {100 * best:.1f} has a standard error of {error:.1f}.",
                "",
            ]
        hardware = {
            f"{h['device']}, {h['processes']} process(es), {h['threads']} thread(s)"
            for row in rows
            for h in row["hardware"]
        }
        text += [f"Hardware: {'; '.join(sorted(hardware))}.", ""] if hardware else []
        notes = warnings_of(task, rows)
        text += [*(f"**Note:** {note}" + "  " for note in notes), ""] if notes else []
    return "\n".join(text)


def _cell(name: str, mean: float | None, sd: float | None) -> str:
    if mean is None:
        return ""
    scale, digits = (1, 4) if name in _ERRORS else (100, 1)
    return f"{scale * mean:.{digits}f}" + (f" ± {scale * sd:.{digits}f}" if sd is not None else "")


def draw_report(tasks: dict[str, list[dict]], path: Path) -> None:
    """Draw for each task the mean of each line, every run as a point, and the paper's figures as dashed lines."""
    heights = [len(rows) + 1.5 for rows in tasks.values()]
    figure = Figure(figsize=(8, 0.8 + 0.36 * sum(heights)), layout="constrained")
    axes = figure.subplots(len(tasks), squeeze=False, height_ratios=heights)[:, 0]
    for ax, (task, rows) in zip(axes, tasks.items(), strict=True):
        published = SETS[SETS["task"] == task]
        name = columns_of(task, rows)[0]
        scale = 1 if name in _ERRORS else 100
        for y, row in enumerate(reversed(rows)):
            colour = "grey" if row["is_baseline"] else "C0"
            values = scale * np.array(row["values"].get(name, []))
            ax.scatter(values, np.full(len(values), y), s=14, color=colour, alpha=0.6)
            if len(values):
                ax.plot(values.mean(), y, marker="|", markersize=14, color=colour)
        for column, style in (("paper", "--"), ("paper_scratch", ":")):
            for figure_ in [
                row[column] for _, row in published.iterrows() if row["metric"] == name and row[column] != ""
            ]:
                label = "paper" if column == "paper" else "paper, from scratch"
                ax.axvline(float(figure_), color="C3", linestyle=style, linewidth=1, label=label)
        if ax.get_legend_handles_labels()[1]:
            ax.legend(fontsize=7, loc="lower left")
        ax.set_yticks(range(len(rows)), [row["method"] for row in reversed(rows)], fontsize=8)
        ax.set_ylim(-0.6, len(rows) - 0.4)
        ax.set_title(f"{task}: {name}" + " (%)" * (scale == 100), fontsize=9, loc="left")
        ax.grid(axis="x", alpha=0.3)
    save_figure(path, figure)


def write_report(paths: Sequence[str | Path], output: str | Path) -> str:
    """Write `report.md` and `report.png` into `output` and return the text.

    Raises:
        InputError: See `collect`.
    """
    tasks, output = summarize(collect(paths)), Path(output)
    text = report_text(tasks)
    output.mkdir(parents=True, exist_ok=True)
    write_whole(output / "report.md", lambda path: path.write_text(text + "\n"))
    draw_report(tasks, output / "report.png")
    return text


def main(argv: list[str] | None = None) -> None:
    """Run `hyenadna report` with these arguments (default: those of the command line)."""
    parser = argparse.ArgumentParser(prog="hyenadna report", description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("runs", nargs="+", help="folders of runs; every metrics.json below them is read")
    parser.add_argument("--output_dir", default=".", help="folder for report.md and report.png (%(default)s)")
    args = parser.parse_args(argv)
    print(write_report(args.runs, args.output_dir))
    print(f"report.md and report.png are in {args.output_dir}")


if __name__ == "__main__":
    from hyenadna.training.cli import run_module

    run_module(__spec__.name)
