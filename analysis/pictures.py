"""Draw maps of embeddings, and the effects of substitutions.

    plane = map_to_plane(vectors, "tsne")
    draw_map(Path("map.png"), plane, labels, "my sequences")
    write_html(Path("map.html"), plane, labels, ids, lengths, "my sequences")

Names come from users' files and may contain anything. They are drawn as they are: neither
matplotlib nor a browser interprets them.
"""

import importlib.util
import json
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.preprocessing import StandardScaler

from hyenadna.errors import InputError
from hyenadna.training.runs.files import write_whole

__all__ = ["METHODS", "check_map", "colours_of", "draw_map", "draw_mutagenesis", "map_to_plane", "write_html"]

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


# ------------------------------------------------------------------------------ mutagenesis


def draw_mutagenesis(path: Path, scores: np.ndarray, start: int, title: str) -> None:
    """Draw the scores of substitutions as a PNG: blue for less likely, red for more likely.

    Args:
        path: The picture.
        scores: Log-likelihood ratios `(positions, 4)`, for A, C, G, T.
        start: The first position, counted from 0.
        title: The heading.
    """
    end = start + len(scores)
    # Symmetric, so that white is 0. At least 1e-6: all scores may be 0 or NaN.
    limit = float(np.nanmax(np.abs(scores), initial=1e-6))
    figure = Figure(figsize=(min(30.0, 4 + len(scores) / 12), 2.6), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(
        scores.T,
        aspect="auto",
        cmap="RdBu_r",
        vmin=-limit,
        vmax=limit,
        extent=(start - 0.5, end - 0.5, 3.5, -0.5),
    )
    axes.set_yticks(range(4), list("ACGT"))
    axes.ticklabel_format(axis="x", useOffset=False, style="plain")
    axes.set_xlabel("position, counted from 0")
    axes.set_title(title, parse_math=False)
    figure.colorbar(picture, ax=axes, label="log-likelihood ratio")
    write_whole(path, lambda temporary: figure.savefig(temporary, dpi=150))
