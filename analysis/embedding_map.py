"""Vectors as a picture: two dimensions by t-SNE, UMAP or PCA, drawn as PNG and as a page to hover over."""

import importlib.util
import json
from collections.abc import Sequence
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

METHODS = ("tsne", "pca", "umap")


def check_map(method: str, rows: int) -> None:
    """Raise `InputError` if there are too few rows for a map, or UMAP is not installed."""
    if rows < 4:
        raise InputError(f"{rows} rows are too few for a map; at least 4 are needed")
    if method == "umap" and importlib.util.find_spec("umap") is None:
        raise InputError("picture umap needs umap-learn (pip install umap-learn); tsne and pca need nothing")


def map_to_plane(vectors: np.ndarray, method: str, seed: int = 0) -> np.ndarray:
    """Map vectors `(rows, d)` to `(rows, 2)`, after each dimension was scaled to mean 0 and deviation 1.

    t-SNE and UMAP start from at most 50 principal components; a seed gives the same map again.

    Raises:
        InputError: See `check_map`.
    """
    check_map(method, len(vectors))
    scaled = StandardScaler().fit_transform(vectors)
    if method == "pca":
        return PCA(2, random_state=seed).fit_transform(scaled)
    reduced = PCA(min(50, *scaled.shape), random_state=seed).fit_transform(scaled)
    if method == "tsne":
        return TSNE(perplexity=min(30, (len(vectors) - 1) / 3), init="pca", random_state=seed).fit_transform(reduced)
    from umap import UMAP  # slow to import

    return UMAP(random_state=seed).fit_transform(reduced)


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """Return a colour (#rrggbb) for each class."""
    if len(names) > 20:  # no table holds so many
        return {name: to_hex(colormaps["turbo"](i / (len(names) - 1))) for i, name in enumerate(names)}
    table = colormaps["tab10" if len(names) <= 10 else "tab20"]
    return {name: to_hex(table(i)) for i, name in enumerate(names)}


def draw_map(path: Path, plane: np.ndarray, labels: Sequence[str], title: str) -> None:
    """Draw points `(rows, 2)`, coloured by class, the rarest class on top, as a PNG."""
    labels, names = np.array(labels), sorted(set(labels))
    colours = colours_of(names)
    figure = Figure(figsize=(8, 6.5), layout="constrained")
    axes = figure.subplots()
    for name in sorted(names, key=lambda name: -(labels == name).sum()):
        points = plane[labels == name]
        axes.scatter(*points.T, s=max(2, min(18, 9000 / len(plane))), color=colours[name], alpha=0.7, linewidths=0)
        axes.scatter([], [], s=30, color=colours[name], label=f"{name} ({len(points):,})")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, frameon=False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=10)
    write_whole(path, lambda temporary: figure.savefig(temporary, dpi=150))


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>TITLE</title><style>
body {font: 14px sans-serif; margin: 1em}
#tip {position: fixed; background: #fff; border: 1px solid #888; padding: 3px 6px; display: none; pointer-events: none}
#legend span {margin-right: 1.2em; cursor: pointer; white-space: nowrap} #legend .off {opacity: .3}
canvas {border: 1px solid #ccc}
</style></head><body><h3>TITLE</h3><div id="legend"></div>
<canvas id="map" width="1000" height="700"></canvas><div id="tip"></div><script>
const data = DATA;
const canvas = document.getElementById("map"), pen = canvas.getContext("2d"), tip = document.getElementById("tip");
const off = new Set();
const range = k => data.points.reduce(([a, b], p) => [Math.min(a, p[k]), Math.max(b, p[k])], [Infinity, -Infinity]);
const [x0, x1] = range(0), [y0, y1] = range(1);
const place = p => [20 + 960 * (p[0] - x0) / (x1 - x0 || 1), 680 - 660 * (p[1] - y0) / (y1 - y0 || 1)];
function draw() {
  pen.clearRect(0, 0, canvas.width, canvas.height);
  for (const p of data.points) {
    if (off.has(p[2])) continue;
    const [x, y] = place(p);
    pen.fillStyle = data.classes[p[2]][1]; pen.globalAlpha = .7;
    pen.beginPath(); pen.arc(x, y, 3, 0, 7); pen.fill();
  }
}
canvas.onmousemove = event => {
  const box = canvas.getBoundingClientRect(), mx = event.clientX - box.left, my = event.clientY - box.top;
  let best = null, least = 64;
  for (const p of data.points) {
    if (off.has(p[2])) continue;
    const [x, y] = place(p), d = (x - mx) ** 2 + (y - my) ** 2;
    if (d < least) { least = d; best = p; }
  }
  tip.style.display = best ? "block" : "none";
  if (best) {
    tip.textContent = best[3] + " (" + data.classes[best[2]][0] + "), " + best[4].toLocaleString() + " bp";
    tip.style.left = event.clientX + 12 + "px"; tip.style.top = event.clientY + 12 + "px";
  }
};
data.classes.forEach(([name, colour], i) => {
  const item = document.createElement("span");
  item.textContent = "\\u25cf " + name; item.style.color = colour;
  item.onclick = () => { off.has(i) ? off.delete(i) : off.add(i); item.classList.toggle("off"); draw(); };
  document.getElementById("legend").append(item);
});
draw();
</script></body></html>
"""


def write_html(
    path: Path, plane: np.ndarray, labels: Sequence[str], ids: Sequence[str], lengths: Sequence[int], title: str
) -> None:
    """Write one self-contained page: hover shows id, class and length; a click on a class hides it."""
    names = sorted(set(labels))
    number, colours = {name: i for i, name in enumerate(names)}, colours_of(names)
    rows = zip(np.round(plane.astype(float), 3).tolist(), labels, ids, lengths, strict=True)
    points = [[*xy, number[label], id_, int(length)] for xy, label, id_, length in rows]
    # "</" would end the script, whatever a class or an id is called
    content = json.dumps({"classes": [[n, colours[n]] for n in names], "points": points}).replace("</", "<\\/")
    heading = title.replace("&", "&amp;").replace("<", "&lt;")
    head, tail = _PAGE.replace("TITLE", heading).rsplit("DATA", 1)  # a title may hold that word
    page = head + content + tail
    write_whole(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))
