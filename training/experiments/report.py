"""Collect the results of runs into one report: `hyenadna report RUNS... --output_dir FOLDER`.

    hyenadna report benchmark-scratch benchmark-pretrained --output_dir compared

Every `metrics.json` below the given folders is read. Runs of one task that differ only in seed and
fold make one line of the table: mean, standard deviation and number of runs. In the picture each
run is a point. For comparison there are simple baselines on the same rows, and the paper's figures
(arXiv 2306.15794, `benchmark_sets.csv`), with a note where its rows differ from ours. All figures
are percentages except errors (mse, loss).
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hyenadna.errors import InputError, read_json, reading
from hyenadna.flags import CommandParser
from hyenadna.training.runs.files import write_whole
from hyenadna.training.runs.folder import METRICS_FILE
from hyenadna.training.runs.outputs import locked
from hyenadna.training.runs.pictures import plain_text, save_figure

# The paper's sets. A cell is empty if the paper has no figure.
SETS = pd.read_csv(Path(__file__).with_name("benchmark_sets.csv"), keep_default_na=False)
# Settings that may differ between runs of one line.
_NOT_COMPARED = {
    "seed",
    "fold",
    "data",
    "validation_data",
    "test_data",
    "resume",
    "data_sha256",
    "rows_sha256",
    "task",
}
_COLUMNS = ("accuracy", "f1_weighted", "f1_macro", "mcc", "auroc", "pearson", "spearman", "mse")
_ERRORS = ("mse", "loss")  # not percentages


def collect(paths: Sequence[str | Path]) -> list[dict]:
    """Read the results below `paths`, one dictionary for each run and each baseline.

    Each has `task`, `method`, `group` (the same for runs of one line), the `metrics` of the tested
    `part`, `seed`, `seconds`, `rows`, `hardware` and `is_baseline`.

    Raises:
        InputError: There is no finished run, or a file cannot be read.
    """
    files = []
    for path in map(Path, paths):
        below = sorted(path.rglob(METRICS_FILE))
        if path.is_file():
            below = [path]
        if not below:
            raise InputError(f"{path}: there is no {METRICS_FILE}; a run writes it when it is finished")
        # Not the copies in checkpoints, and no file twice if folders lie inside one another.
        files += [
            file for file in below if file not in files and not file.parent.name.startswith("checkpoint-")
        ]
    lines = []
    for file in files:
        content = read_json(file)
        wrong_shape = (AttributeError, LookupError, TypeError, ValueError)
        with reading(f"{file} does not hold the results of a run", errors=wrong_shape):
            new = _lines(content, file)
        # A baseline on the same rows may be stored with several runs. It counts once.
        lines += [line for line in new if not (line["is_baseline"] and _known(line, lines))]
    if not lines:
        raise InputError(
            f"none of the {len(files)} {METRICS_FILE} in {list(map(str, paths))} holds metrics of a run"
        )
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
        # Only together with `fold`: `hyenadna embed` has a setting `folds` of another meaning.
        "folds": settings.get("folds") if settings.get("fold") is not None else None,
        "classes": len(content["label_names"]) if "label_names" in content else None,
        "task": content.get("task") or settings.get("task") or Path(settings.get("data") or file.parent).stem,
    }
    baselines = [
        {**shared, "method": name, "group": name, "is_baseline": True, "seconds": result["seconds"]}
        | _tested(result["metrics"])
        for name, result in content.get("baselines", {}).items()
    ]
    # No metrics: embeddings that were not classified, or the table of an adapter study.
    if not content.get("metrics"):
        return baselines
    # Runs with equal settings get an equal `group`, and are averaged.
    compared = {name: value for name, value in settings.items() if name not in _NOT_COMPARED}
    return [
        *baselines,
        {
            **shared,
            "method": _method(settings),
            "group": json.dumps(compared, sort_keys=True),
            "is_baseline": False,
        }
        | {
            "seconds": content.get("train_seconds"),
            "cpu_seconds": content.get("train_cpu_seconds"),
            "parameters": content.get("parameters"),
            "settings": compared,
        }
        | _tested(content["metrics"]),
    ]


def _tested(metrics: dict) -> dict:
    """Return the metrics to report, those of the test part if there are any, and their part."""
    for part in ("test", "validation", "cross-validation"):
        if part in metrics:
            return {"part": part, "metrics": metrics[part]}
    return {"part": "all", "metrics": metrics}


def _method(settings: dict) -> str:
    if settings.get("model") is None:
        return f"from scratch ({settings.get('n_layer') or 2} x {settings.get('d_model') or 128})"
    method = Path(settings["model"]).name
    if settings.get("freeze_backbone"):
        method = f"frozen {method}"
    if settings.get("lora_rank"):
        method += f", LoRA {settings['lora_rank']}"
    return method


def summarize(lines: list[dict]) -> dict[str, list[dict]]:
    """Average the runs of each group. Return task -> rows with `method`, `metrics`, `sd`, ..."""
    # `dict.fromkeys` keeps the order in which tasks were found, and drops repeats.
    tasks: dict[str, list[dict]] = {}
    for task in dict.fromkeys(line["task"] for line in lines):
        groups = {}
        for line in lines:
            if line["task"] == task:
                groups.setdefault((line["group"], line["part"]), []).append(line)
        rows = [_average(runs) for runs in groups.values()]
        _tell_apart([row for row in rows if not row["is_baseline"]])
        # Baselines last. The sort is stable, so all else keeps its order.
        tasks[task] = sorted(rows, key=lambda row: row["is_baseline"])
    return tasks


def _average(runs: list[dict]) -> dict:
    """Return one row for runs with the same settings."""
    first = runs[0]
    values = {}
    for name in dict.fromkeys(name for run in runs for name in run["metrics"]):
        measured = [run["metrics"].get(name) for run in runs]
        values[name] = [value for value in measured if isinstance(value, int | float)]
    names = ("method", "part", "is_baseline", "parameters", "rows", "settings", "classes", "folds")
    return {
        **{name: first.get(name) for name in names},
        "hardware": [run["hardware"] for run in runs if run["hardware"]],
        "seeds": sorted({run["seed"] for run in runs if run["seed"] is not None}),
        "draws": [(run["seed"], run["fold"], run["data"]) for run in runs],
        "runs": len(runs),
        "values": values,
        "metrics": {name: _mean(of_runs) for name, of_runs in values.items() if of_runs},
        "sd": {name: _deviation(of_runs) for name, of_runs in values.items()},
        "seconds": _mean([run["seconds"] for run in runs if run.get("seconds") is not None]),
        "cpu_seconds": _mean([run["cpu_seconds"] for run in runs if run.get("cpu_seconds") is not None]),
    }


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _deviation(values: list[float]) -> float | None:
    """Return the sample standard deviation. A single value has none."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _tell_apart(rows: list[dict]) -> None:
    """Where rows have the same method, append the settings in which they differ."""
    for name in {row["method"] for row in rows}:
        same = [row for row in rows if row["method"] == name]
        for key in _differing_settings(same):
            for row in same:
                value = json.dumps(row["settings"].get(key)).strip('"')
                row["method"] += f", {key} {value}"


def _differing_settings(rows: list[dict]) -> list[str]:
    """Return the names of the settings that are not the same in all rows, in order."""
    names = sorted({name for row in rows for name in row["settings"]})
    # As JSON, because lists cannot be put into a set.
    return [name for name in names if len({json.dumps(row["settings"].get(name)) for row in rows}) > 1]


def warnings_of(task: str, rows: list[dict]) -> list[str]:
    """Return notes on why runs of a task cannot be compared with the paper or with each other."""
    notes = [note for row in rows for note in _notes_of_row(row)]
    # As JSON, because the number of rows may be missing (None).
    sizes = {json.dumps(row["rows"].get(row["part"])) for row in rows}
    if len(sizes) > 1:
        notes.append(f"The lines were measured on different numbers of rows ({', '.join(sorted(sizes))}).")

    published = SETS[SETS["task"] == task]
    if len(published):
        for row in rows:
            if not row["is_baseline"]:
                notes += _differences_from_paper(row, published.iloc[0])
    return list(dict.fromkeys(notes))


def _notes_of_row(row: dict) -> list[str]:
    notes = []
    if row["part"] == "validation":
        notes.append(f"{row['method']}: measured on the validation part, by which its checkpoint was chosen.")
    if row["folds"] and row["runs"] % row["folds"]:
        notes.append(
            f"{row['method']}: {row['runs']} runs of {row['folds']} folds: not every fold is finished."
        )
    if row["is_baseline"]:
        return notes

    # One draw of a seed and fold should have one digest of the data, and one run.
    data: dict[tuple, set] = {}
    for seed, fold, digest in row["draws"]:
        data.setdefault((seed, fold), set()).add(digest)
    if any(len(digests) > 1 for digests in data.values()):
        notes.append(
            f"{row['method']}: runs on different data are averaged; give each data set its own --task."
        )
    elif len(data) < row["runs"]:
        notes.append(
            f"{row['method']}: a seed was run more than once, and its runs say nothing about the spread."
        )
    return notes


def _differences_from_paper(row: dict, published: pd.Series) -> list[str]:
    notes = []
    classes = published["classes"]
    if row["classes"] is not None and classes != row["classes"]:
        notes.append(f"{row['classes']} classes, but {classes} in the paper: another task.")

    # The paper has no validation part. We split ours off its training rows, so add both up.
    sizes = {
        "train": row["rows"].get("train", 0) + row["rows"].get("validation", 0),
        "test": row["rows"].get("test", 0),
    }
    for part, size in sizes.items():
        count = published[f"{part}_rows"]
        if count != "" and int(count) != size and not row["folds"]:
            notes.append(f"{size:,} {part} rows, but {int(count):,} in the paper: the split differs.")
    # The published code has no validation part at all.
    if published["train_rows"] != "" and published["paper"] != "":
        notes.append("The paper's code chose its epoch on the test rows; here the validation rows choose it.")
    return notes


def columns_of(task: str, rows: list[dict]) -> list[str]:
    """Return the metrics to show: first the paper's, then the usual ones, then medians by kind."""
    measured = dict.fromkeys(name for row in rows for name in row["metrics"])
    medians = [name for name in measured if name.startswith("auroc_median_")]
    names = dict.fromkeys([*SETS[SETS["task"] == task]["metric"], *_COLUMNS, *medians])
    return [name for name in names if name in measured] or sorted(measured)


def report_text(tasks: dict[str, list[dict]]) -> str:
    """Return the report as Markdown."""
    text = [
        "# Report",
        "",
        "Figures are percentages (except mse and loss): mean ± standard deviation over runs.",
        "",
    ]
    for task, rows in tasks.items():
        text += _text_of_task(task, rows)
    return "\n".join(text)


def _text_of_task(task: str, rows: list[dict]) -> list[str]:
    published = SETS[SETS["task"] == task]
    names = columns_of(task, rows)
    text = [f"## {task}", "", f"| | {' | '.join(names)} | runs (seeds) | parameters | seconds |"]
    text.append("|---" * (len(names) + 4) + "|")
    text += [_line_of_table(row, names) for row in rows]
    for name, column in (("paper, pretrained", "paper"), ("paper, from scratch", "paper_scratch")):
        figures = {row["metric"]: row[column] for _, row in published.iterrows() if row[column] != ""}
        if figures:
            text.append(_published_line(name, figures, names))
    for _, row in published.iterrows():
        if row["reference"] != "":
            text.append(_published_line(row["reference_source"], {row["metric"]: row["reference"]}, names))
    text.append("")

    if len(published) and published.iloc[0]["paper_others"]:
        text += [f"Others in the paper: {published.iloc[0]['paper_others']}.", ""]
    tested = next((row["rows"].get(row["part"]) for row in rows if row["rows"]), None)
    if tested and "accuracy" in names:
        best = max(row["metrics"].get("accuracy", 0) for row in rows)
        # Each row is right or wrong, so this is the standard error of a binomial proportion.
        error = 100 * float(np.sqrt(best * (1 - best) / tested))
        text.append(
            f"{tested:,} rows tested: an accuracy of {100 * best:.1f} has a standard error of {error:.1f}."
        )
        text.append("")
    computers = [computer for row in rows for computer in row["hardware"]]
    hardware = {f"{c['device']}, {c['processes']} process(es), {c['threads']} thread(s)" for c in computers}
    if hardware:
        text += [f"Hardware: {'; '.join(sorted(hardware))}.", ""]
    notes = warnings_of(task, rows)
    if notes:
        text += [*(f"**Note:** {note}  " for note in notes), ""]
    return text


def _published_line(name: str, figures: dict[str, object], metrics: list[str]) -> str:
    return f"| {name} | {' | '.join(str(figures.get(metric, '')) for metric in metrics)} | | | |"


def _line_of_table(row: dict, names: list[str]) -> str:
    cells = [_cell(name, row["metrics"].get(name), row["sd"].get(name)) for name in names]
    seeds = ""
    if not row["is_baseline"]:
        seeds = f"{row['runs']} ({', '.join(map(str, row['seeds']))})"
    size = ""
    if row["parameters"]:
        size = f"{row['parameters']:,}"
    seconds = ""
    if row["seconds"] is not None:
        seconds = f"{row['seconds']:,.0f}"
    if row["cpu_seconds"] is not None:
        seconds += f" ({row['cpu_seconds']:,.0f} CPU)"
    return f"| {row['method']} | {' | '.join(cells)} | {seeds} | {size} | {seconds} |"


def _cell(name: str, mean: float | None, sd: float | None) -> str:
    if mean is None:
        return ""
    scale = 1
    digits = 4
    if name not in _ERRORS:  # a percentage
        scale = 100
        digits = 1
    text = f"{scale * mean:.{digits}f}"
    if sd is not None:
        text += f" ± {scale * sd:.{digits}f}"
    return text


def draw_report(tasks: dict[str, list[dict]], path: Path) -> None:
    """Draw each row: its runs as points, their mean as a tick, the paper's figures as lines."""
    # One panel for each task, as high as it has rows.
    heights = [len(rows) + 1.5 for rows in tasks.values()]
    figure = Figure(figsize=(8, 0.8 + 0.36 * sum(heights)), layout="constrained")
    axes = figure.subplots(len(tasks), squeeze=False, height_ratios=heights)[:, 0]
    for ax, (task, rows) in zip(axes, tasks.items(), strict=True):
        published = SETS[SETS["task"] == task]
        name = columns_of(task, rows)[0]
        scale = 1 if name in _ERRORS else 100
        # From the bottom up, so that the picture has the order of the table.
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
        ax.set_yticks(range(len(rows)), [plain_text(row["method"]) for row in reversed(rows)], fontsize=8)
        ax.set_ylim(-0.6, len(rows) - 0.4)
        ax.set_title(plain_text(f"{task}: {name}") + " (%)" * (scale == 100), fontsize=9, loc="left")
        ax.grid(axis="x", alpha=0.3)
    save_figure(path, figure)


def write_report(paths: Sequence[str | Path], output: str | Path) -> str:
    """Write `report.md` and `report.png` into `output` and return the text.

    Raises:
        InputError: See `collect`, or another process is writing the same report.
    """
    tasks = summarize(collect(paths))
    text = report_text(tasks)
    page = Path(output) / "report.md"
    picture = Path(output) / "report.png"
    # Not the folder: by default it is the current one, where other commands may write.
    with locked(page, is_file=True), locked(picture, is_file=True):
        write_whole(page, lambda path: path.write_text(text + "\n"))
        draw_report(tasks, picture)
    return text


def main(argv: list[str] | None = None) -> None:
    """Run `hyenadna report` with these arguments (default: those of the command line)."""
    parser = CommandParser(
        "report",
        "Results of runs in one table and picture, beside the paper's.",
        example="hyenadna report runs/promoters runs/enhancers --output_dir report",
    )
    parser.add_argument(
        "runs", metavar="FOLDER", nargs="+", help="folders of runs; every metrics.json below them is read"
    )
    parser.add_argument("--output_dir", default=".", help="folder for report.md and report.png")
    args = parser.parse_args(argv)
    print(write_report(args.runs, args.output_dir))
    print(f"report.md and report.png are in {args.output_dir}")


if __name__ == "__main__":
    from hyenadna.training.cli import run_module

    run_module(__spec__.name)
