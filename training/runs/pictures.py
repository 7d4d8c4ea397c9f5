"""Pictures of results as PNG files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix

from .files import write_whole


def save_figure(path: Path, figure: Figure) -> None:
    """Write the figure at 150 dots per inch, completely or not at all."""
    write_whole(path, lambda temporary: figure.savefig(temporary, dpi=150))


def plain_text(label: str) -> str:
    """Escape `$`. Matplotlib reads text between two of them as a formula, and often fails."""
    return label.replace("$", r"\$")


def write_confusion_matrix(
    path: Path, labels: np.ndarray, predicted: np.ndarray, label_names: list[str]
) -> None:
    """Draw the counts of true label (rows) against predicted label (columns) as a PNG.

    Args:
        path: The file to write.
        labels: The true classes, int `(rows,)`.
        predicted: The predicted classes, int `(rows,)`.
        label_names: The name of each class.
    """
    counts = confusion_matrix(labels, predicted, labels=np.arange(len(label_names)))
    # Room for the names of the classes, up to a size that programs still open.
    side = min(20.0, 3 + 0.7 * len(label_names))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    picture = ConfusionMatrixDisplay(counts, display_labels=[plain_text(name) for name in label_names])
    picture.plot(
        ax=figure.subplots(),
        cmap="Blues",
        include_values=len(label_names) <= 30,  # with more classes the numbers would overlap
        xticks_rotation="vertical",
    )
    save_figure(path, figure)


def draw_accuracy(
    axes: Axes, x: Sequence[float], mean: Sequence[float], deviation: Sequence[float], label: str
) -> None:
    """Draw one line of accuracies, with standard deviations as error bars."""
    axes.errorbar(x, mean, deviation, marker="o", capsize=3, label=plain_text(label))


def finish_accuracy(axes: Axes, majority: float, part: str, xlabel: str) -> None:
    """Add the accuracy of the most frequent class, the names of the axes and the legend."""
    axes.axhline(majority, color="grey", linestyle=":", label="most frequent class")
    axes.set(xscale="log", xlabel=xlabel, ylabel=f"accuracy ({part} part)")
    axes.legend()


def write_learning_curves(
    path: Path, curves: dict[str, tuple[Sequence[float], Sequence[float]]], level: float, level_name: str
) -> None:
    """Draw validation MCC against the number of training rows read, one line for each model.

    Args:
        path: The PNG file to write.
        curves: Name of the model -> the numbers of rows read, and the MCC after each.
        level: The MCC of the model to beat, drawn as a dashed line.
        level_name: The name of that model.
    """
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    # Colours that colour-blind people can tell apart (Okabe and Ito), and different markers.
    styles = zip(("#0072B2", "#E69F00", "#555555"), ("o", "s", "^"), strict=True)
    for (name, (rows, values)), (colour, marker) in zip(curves.items(), styles, strict=True):
        axes.plot(rows, values, color=colour, marker=marker, label=plain_text(name))
    axes.axhline(level, color="#555555", linestyle="--", linewidth=1, label=plain_text(level_name))
    axes.set(xlabel="training rows read", ylabel="MCC on the validation rows")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    save_figure(path, figure)
