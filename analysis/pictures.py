"""Draw maps of embeddings, effects of changes, and sequence logos.

    plane = map_to_plane(vectors, "tsne")
    draw_map(Path("map.png"), plane, labels, "my sequences")
    write_html(Path("map.html"), plane, labels, ids, lengths, "my sequences")

Names come from users' files and may contain anything. They are drawn as they are: neither
matplotlib nor a browser interprets them.
"""

import importlib.util
import json
import math
import re
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import PathPatch
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.preprocessing import StandardScaler

from hyenadna.errors import InputError
from hyenadna.genomics.files import has_suffix
from hyenadna.training.runs.files import write_whole
from hyenadna.training.runs.pictures import plain_text

__all__ = [
    "METHODS",
    "check_map",
    "check_picture",
    "colours_of",
    "draw_dependencies",
    "draw_effects",
    "draw_frequencies",
    "draw_logo",
    "draw_map",
    "map_to_plane",
    "save_figure",
    "write_html",
]

METHODS = ("tsne", "pca", "umap")

# ------------------------------------------------------------------------------ map of embeddings


def check_map(method: str, rows: int) -> None:
    """Raise `InputError` if there are too few rows for a map, or UMAP is not installed."""
    if rows < 4:
        raise InputError(f"{rows} rows are too few for a map; at least 4 are needed")
    if method == "umap" and importlib.util.find_spec("umap") is None:
        raise InputError("picture umap needs umap-learn (pip install umap-learn); tsne and pca need nothing")


def map_to_plane(vectors: np.ndarray, method: str, seed: int = 0) -> np.ndarray:
    """Map vectors `(rows, d)` to points in the plane `(rows, 2)`.

    Each dimension is first scaled to mean 0 and standard deviation 1. t-SNE and UMAP start from at
    most 50 principal components. The same seed gives the same map.

    Args:
        vectors: Embeddings `(rows, d)`.
        method: One of `METHODS`.
        seed: The seed of the map.

    Raises:
        InputError: There are fewer than 4 rows, or UMAP is not installed.

    >>> map_to_plane(np.random.default_rng(0).normal(size=(10, 5)), "pca").shape
    (10, 2)
    """
    check_map(method, len(vectors))
    scaled = StandardScaler().fit_transform(vectors)
    if method == "pca":
        return PCA(2, random_state=seed).fit_transform(scaled)

    # Both are slow in hundreds of dimensions, and noisier than in the leading components.
    reduced = PCA(min(50, *scaled.shape), random_state=seed).fit_transform(scaled)
    if method == "tsne":
        # The perplexity must be smaller than the number of rows.
        perplexity = min(30, (len(vectors) - 1) / 3)
        return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced)

    from umap import UMAP  # slow to import

    return UMAP(random_state=seed).fit_transform(reduced)


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """Return a colour (`#rrggbb`) for each class, all different.

    >>> colours_of(["exon", "intron"])
    {'exon': '#1f77b4', 'intron': '#ff7f0e'}
    """
    # Beyond 20 classes, matplotlib has no table of distinct colours. Divide a colour map.
    if len(names) > 20:
        last = len(names) - 1
        return {name: to_hex(colormaps["turbo"](i / last)) for i, name in enumerate(names)}
    table = colormaps["tab10" if len(names) <= 10 else "tab20"]
    return {name: to_hex(table(i)) for i, name in enumerate(names)}


def draw_map(path: Path, plane: np.ndarray, labels: Sequence[str], title: str) -> None:
    """Draw points `(rows, 2)` as a PNG, coloured by class, the rarest class last and on top."""
    labels = np.array(labels)
    names = sorted(set(labels))
    colours = colours_of(names)
    size = max(2, min(18, 9000 / len(plane)))

    figure = Figure(figsize=(8, 6.5), layout="constrained")
    axes = figure.subplots()
    for name in sorted(names, key=lambda name: -(labels == name).sum()):
        points = plane[labels == name]
        axes.scatter(*points.T, s=size, color=colours[name], alpha=0.7, linewidths=0)
        # An empty plot, for a larger dot in the legend. The space keeps a class such as "_x", which
        # matplotlib would leave out.
        axes.scatter([], [], s=30, color=colours[name], label=f" {name} ({len(points):,})")

    legend = axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=10, parse_math=False)
    write_whole(path, lambda temporary: figure.savefig(temporary, dpi=150))


def write_html(
    path: Path,
    plane: np.ndarray,
    labels: Sequence[str],
    ids: Sequence[str],
    lengths: Sequence[int],
    title: str,
) -> None:
    """Write the map as a single page that needs no network.

    Hovering over a point shows its id and length. A click on a class hides it.

    Args:
        path: The page.
        plane: Points `(rows, 2)`.
        labels: The class of each row.
        ids: The name of each row.
        lengths: The length of each row in bases.
        title: The heading of the page.
    """
    names = sorted(set(labels))
    number = {name: i for i, name in enumerate(names)}
    colours = colours_of(names)
    points = []
    for xy, label, name, length in zip(
        np.round(plane.astype(float), 3).tolist(), labels, ids, lengths, strict=True
    ):
        points.append([*xy, number[label], name, int(length)])
    data = {"classes": [[name, colours[name]] for name in names], "points": points}

    # A class or an id may contain "</script>", which would end the script, or "<!--<script>", after
    # which a browser would not find its end. In JSON `<` can be escaped.
    heading = title.replace("&", "&amp;").replace("<", "&lt;")
    content = {"title": heading, "data": json.dumps(data).replace("<", "\\u003c")}
    template = files(__package__).joinpath("map.html").read_text(encoding="utf-8")
    page = re.sub(r"\{\{(title|data)\}\}", lambda match: content[match[1]], template)
    write_whole(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))


# ------------------------------------------------------------------------------ bases in a row

# A, C, G and T as in most sequence logos.
_COLOUR_OF_BASE = {"A": "#109648", "C": "#255c99", "G": "#e8a200", "T": "#d62839"}
_PICTURES = (".png", ".svg", ".pdf")


def check_picture(path: str | Path) -> None:
    """Raise `InputError` if a file's suffix is no picture's."""
    if not has_suffix(path, _PICTURES):
        raise InputError(f"{path}: a picture ends in one of {', '.join(_PICTURES)}")


def save_figure(path: Path, figure: Figure) -> None:
    """Write a figure as .png (150 dots per inch), .svg or .pdf, completely or not at all."""
    check_picture(path)
    write_whole(path, lambda temporary: figure.savefig(temporary, dpi=150))


def draw_logo(axes: Axes, letters: str, heights: np.ndarray, start: int = 0) -> None:
    """Draw each base as high as its value; below the axis, upside down, where that is negative.

    Args:
        axes: Where to draw.
        letters: The bases. Others than A, C, G and T are grey.
        heights: Their values `(length,)`; NaN draws nothing.
        start: The position of the first base.
    """
    for i, (letter, height) in enumerate(zip(letters, heights.tolist(), strict=True)):
        _draw_letter(axes, letter, start + i, 0.0, height)
    known = heights[np.isfinite(heights)]
    _frame(axes, start, len(letters), float(known.min(initial=0)), float(known.max(initial=0)))


def draw_frequencies(axes: Axes, frequencies: np.ndarray, start: int = 0) -> None:
    """Draw the bases of aligned sequences, stacked as high as their information in bits.

    Args:
        axes: Where to draw.
        frequencies: Shares of A, C, G and T `(positions, 4)`, each row adding up to 1.
        start: The position of the first row.
    """
    logs = np.log2(np.where(frequencies > 0, frequencies, 1))
    bits = 2 + (frequencies * logs).sum(1, keepdims=True)
    heights = frequencies * bits
    for i, row in enumerate(heights):
        below = 0.0
        for column in np.argsort(row).tolist():  # the most frequent on top
            _draw_letter(axes, "ACGT"[column], start + i, below, float(row[column]))
            below += float(row[column])
    _frame(axes, start, len(heights), 0.0, 2.0)


def _draw_letter(axes: Axes, letter: str, at: int, below: float, height: float) -> None:
    if not height or math.isnan(height):
        return
    outline = _outline(letter)
    box = outline.get_extents()
    # From the letter's own box to one base wide (with a small gap) and `height` high.
    place = Affine2D().translate(-box.x0, -box.y0).scale(0.95 / box.width, height / box.height)
    path = place.translate(at - 0.475, below).transform_path(outline)
    axes.add_patch(PathPatch(path, facecolor=_COLOUR_OF_BASE.get(letter, "grey"), edgecolor="none"))


@lru_cache
def _outline(letter: str) -> TextPath:
    return TextPath((0, 0), letter, size=1, prop=FontProperties(weight="bold"))


def _frame(axes: Axes, start: int, length: int, low: float, high: float) -> None:
    margin = 0.05 * max(high - low, 1e-6)
    axes.set_ylim(low - margin, high + margin)
    axes.set_xlim(start - 0.5, start + length - 0.5)
    axes.axhline(0, color="black", linewidth=0.5)


def draw_effects(
    effects: np.ndarray,
    alternatives: Sequence[str],
    letters: str,
    heights: np.ndarray,
    start: int,
    label: str,
    title: str,
) -> Figure:
    """Draw the effects of changes as a heat map, and a logo above: blue below 0, red above.

    Args:
        effects: `(positions, alternatives)`.
        alternatives: The names of the rows of the picture.
        letters: The bases of the logo; without them there is none.
        heights: Their heights `(positions,)`.
        start: The first position, counted from 0.
        label: What the colours mean.
        title: The heading.
    """
    end = start + len(effects)
    # Symmetric, so that white is 0. At least 1e-6: all effects may be 0 or NaN.
    limit = float(np.nanmax(np.abs(effects), initial=1e-6))
    width = min(30.0, 4 + len(effects) / 8)
    high = 0.8 + 0.25 * min(len(alternatives), 16)
    figure = Figure(figsize=(width, high + 1.8 if letters else high + 0.8), layout="constrained")
    axes = figure.subplots(
        1 + bool(letters), 1, sharex=True, squeeze=False, height_ratios=_ratios(letters, high)
    )
    below = axes[-1, 0]
    if letters:
        draw_logo(axes[0, 0], letters, heights, start)
        axes[0, 0].set_ylabel("mean loss")
    picture = below.imshow(
        effects.T,
        aspect="auto",
        cmap="RdBu_r",
        vmin=-limit,
        vmax=limit,
        extent=(start - 0.5, end - 0.5, len(alternatives) - 0.5, -0.5),
        interpolation="nearest",
    )
    below.set_facecolor("lightgrey")  # where there is no effect to show
    if len(alternatives) <= 16:
        below.set_yticks(range(len(alternatives)), alternatives, fontsize=8)
    if letters and len(alternatives) == 4:
        _mark_reference(below, letters, alternatives, start)
    below.ticklabel_format(axis="x", useOffset=False, style="plain")
    below.set_xlabel("position, counted from 0")
    axes[0, 0].set_title(title, parse_math=False)
    figure.colorbar(picture, ax=below, label=plain_text(label))
    return figure


def _ratios(letters: str, high: float) -> list[float]:
    return [1.2, high] if letters else [high]


def _mark_reference(axes: Axes, letters: str, alternatives: Sequence[str], start: int) -> None:
    """Put a dot where the base is the one that is there: its effect is 0 by definition."""
    places = [(start + i, alternatives.index(base)) for i, base in enumerate(letters) if base in alternatives]
    if places:
        axes.scatter(*np.array(places).T, s=3, color="black", linewidths=0)


def draw_dependencies(values: np.ndarray, letters: str, start: int, title: str) -> Figure:
    """Draw a map of dependencies; its colours end at the 99.9 % largest of its values.

    Args:
        values: `(positions, positions)`; rows are changed bases.
        letters: The bases, written along both axes if there are at most 80.
        start: The first position, counted from 0.
        title: The heading.
    """
    end = start + len(values)
    side = min(12.0, 4 + len(values) / 20)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    # A few neighbours depend on each other far more than all others, and would hide them.
    limit = float(np.nanpercentile(values, 99.9)) if np.isfinite(values).any() else 1.0
    extent = (start - 0.5, end - 0.5, end - 0.5, start - 0.5)
    picture = axes.imshow(
        values, cmap="viridis", vmin=0, vmax=max(limit, 1e-6), extent=extent, interpolation="nearest"
    )
    if len(letters) <= 80:
        axes.set_xticks(range(start, end), list(letters), fontsize=6)
        axes.set_yticks(range(start, end), list(letters), fontsize=6)
    else:
        axes.ticklabel_format(useOffset=False, style="plain")
    axes.set_xlabel("base that depends on it" if len(letters) <= 80 else "base that depends on it, from 0")
    axes.set_ylabel("changed base")
    axes.set_title(title, parse_math=False, fontsize=10)
    figure.colorbar(picture, ax=axes, label="largest change of log2 odds", shrink=0.8)
    return figure
