"""What a recipe leaves in its folder: predictions, a confusion matrix, metrics, each written whole or not at all."""

import json
import math
import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix

from .metrics import predicted_labels


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path` and then rename it, so that a kill leaves no half a file."""
    temporary = path.with_name(f".{path.stem}.unfinished{path.suffix}")
    write(temporary)
    os.replace(temporary, path)


def write_json(path: Path, content: dict) -> None:
    """Write `content`; NaN and infinity, which JSON does not have, become null."""

    def clean(value):
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [clean(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    text = json.dumps(clean(content), indent=2, allow_nan=False) + "\n"
    write_whole(path, lambda temporary: temporary.write_text(text))


def predictions_table(
    rows: Dataset, probability: np.ndarray, problem_type: str, label_names: list[str]
) -> pd.DataFrame:
    """Return one line per row: `row` in its source, `id` if there is one, label, prediction and probabilities.

    Args:
        rows: A part of `LabelledData`.
        probability: Probabilities (for regression: numbers) of shape `(rows, labels)`.
        problem_type: As in `LabelledData`.
        label_names: Likewise.
    """
    table = {name: rows[name][:] for name in ("row", "id") if name in rows.column_names}
    labels, predicted = np.array(rows["label"][:]), predicted_labels(probability, problem_type)
    if problem_type == "regression":
        return pd.DataFrame({**table, "label": labels, "predicted": predicted})
    if problem_type == "single_label_classification":
        table["label"] = [label_names[i] for i in labels]
        table["predicted"] = [label_names[i] for i in predicted]
    else:
        for i, name in enumerate(label_names):
            table[f"label_{name}"], table[f"predicted_{name}"] = labels[:, i].astype(int), predicted[:, i]
    return pd.DataFrame({**table, **{f"probability_{name}": probability[:, i] for i, name in enumerate(label_names)}})


def write_confusion_matrix(path: Path, labels: np.ndarray, predicted: np.ndarray, label_names: list[str]) -> None:
    """Draw the counts of true label (rows) against predicted label (columns) as a PNG."""
    counts = confusion_matrix(labels, predicted, labels=np.arange(len(label_names)))
    side = min(20.0, 3 + 0.7 * len(label_names))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    picture = ConfusionMatrixDisplay(counts, display_labels=label_names)
    picture.plot(ax=figure.subplots(), cmap="Blues", include_values=len(label_names) <= 30, xticks_rotation="vertical")
    write_whole(path, lambda temporary: figure.savefig(temporary, dpi=150))


def versions() -> dict[str, str]:
    """Return the versions of what a result depends on."""
    names = ("hyenadna", "torch", "transformers", "tokenizers", "datasets", "accelerate")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def hardware(device: torch.device, processes: int = 1) -> dict[str, str | int]:
    """Return on what a result was computed: the device by its name, and how many processes and threads."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    return {"device": name, "processes": processes, "threads": torch.get_num_threads()}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
