"""Two-dimensional maps of embeddings.

Source: van der Maaten and Hinton, "Visualizing data using t-SNE", JMLR 2008.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from tfsound.plots.figures import BLUE, DPI, FONT_SIZE, GREY, SMALL_FONT_SIZE, draw_legend, one_line, verbatim

_CLASS_COLORS = (
    "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd",
    "#8c564b", "#e377c2", "#bcbd22", "#17becf", "#222222",
)  # fmt: skip
_CLASS_MARKERS = "os^DvPX<p>"
_MAX_CLASSES = 50
_LEGEND_ROWS = 26  # two columns hold 50 classes, the rarer ones and the unlabelled
_PCA_DIM = 50
_MIN_ROWS_FOR_TSNE = 10


def plot_embedding_map(
    embeddings: ArrayLike,
    labels: Sequence[str | None] | None = None,
    *,
    seed: int = 0,
    title: str = "Embedding map",
    max_points: int = 2000,
) -> Figure:
    """Draws segments as points of a plane in which near points had a small cosine distance.

    Rows are scaled to unit length, reduced to 50 dimensions by PCA, then to 2 by t-SNE; by PCA alone with
    fewer than 10 distinct rows. The 50 most frequent classes have a colour and a marker each; rarer ones are
    grey.

    Args:
        embeddings: real, (segments, dim).
        labels: one class name a segment, None for a segment without; or None when there are none at all.
        seed: of the subsample and of t-SNE; equal seeds give equal maps.
        title: above the map.
        max_points: more segments than this are subsampled.

    Raises:
        ValueError: if embeddings are not (segments, dim), empty or not finite, or labels do not fit them.
    """
    embeddings = np.asarray(embeddings, np.float64)
    if embeddings.ndim != 2 or embeddings.size == 0 or not np.isfinite(embeddings).all():
        raise ValueError(f"embeddings must be finite (segments, dim), not empty, got {embeddings.shape}.")
    num_segments = len(embeddings)
    labels = [None] * num_segments if labels is None else list(labels)
    if len(labels) != num_segments:
        raise ValueError(f"labels must be one a segment: {num_segments}, got {len(labels)}.")
    if num_segments > max_points:
        kept = np.sort(np.random.default_rng(seed).choice(num_segments, max_points, replace=False))
        embeddings, labels = embeddings[kept], [labels[index] for index in kept]
    points, method = _project(embeddings, seed)
    groups = _group_points(labels)
    has_legend = any(label is not None for label in labels)
    num_legend_columns = math.ceil(len(groups) / _LEGEND_ROWS) if has_legend else 0
    figure = Figure(figsize=(9.5 + 2.9 * num_legend_columns, 9), dpi=DPI, layout="constrained")
    axes = figure.add_subplot(xticks=[], yticks=[])
    size = np.clip(10_000 / len(points), 44, 160)  # few points need no room, and are easier to see large
    handles = [
        axes.scatter(*points[members].T, s=size, alpha=0.85, edgecolors="white", linewidths=0.4, **style)
        for _, style, members in groups
    ]
    axes.set_title(one_line(title, 80), fontsize=FONT_SIZE + 3, **verbatim())
    axes.set_xlabel(f"{method}; {len(points):,} of {num_segments:,} segments", fontsize=SMALL_FONT_SIZE)
    axes.axis("equal")
    if has_legend:
        place = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "ncols": num_legend_columns}
        draw_legend(axes, handles, [name for name, _, _ in groups], **place)
    return figure


def _project(embeddings: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
    """Returns float64 (points, 2) and the name of the method."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    units = embeddings / np.where(lengths > 0, lengths, 1)
    num_distinct = len(np.unique(units.astype(np.float32), axis=0))
    if num_distinct == 1:
        return np.zeros((len(units), 2)), "all embeddings are equal"
    num_components = min(_PCA_DIM, *units.shape)
    reduced = PCA(num_components, random_state=seed).fit_transform(units)
    if num_distinct < _MIN_ROWS_FOR_TSNE:
        return np.pad(reduced, ((0, 0), (0, 1)))[:, :2], "PCA"
    # t-SNE needs fewer neighbours than points; 30 is the usual perplexity where there are points enough.
    perplexity = min(30, (len(units) - 1) / 3)
    init = "pca" if num_components >= 2 else "random"
    # One thread: the map is then the same on any machine, and t-SNE's threads stall where cores are shared.
    with threadpool_limits(1, "openmp"):
        points = TSNE(perplexity=perplexity, init=init, random_state=seed).fit_transform(reduced)
    return points.astype(np.float64), f"t-SNE, perplexity {perplexity:.0f}"


def _group_points(labels: Sequence[str | None]) -> list[tuple[str, dict, np.ndarray]]:
    """Groups point indices by class, the greatest class first; returns (name, scatter style, indices)."""
    counts = Counter(label for label in labels if label is not None)
    names = sorted(counts, key=lambda name: (-counts[name], str(name)))
    # Rarer classes are one group after the ranked ones, points without a label the next.
    ranks = {name: min(rank, _MAX_CLASSES) for rank, name in enumerate(names)} | {None: _MAX_CLASSES + 1}
    keys = np.array([ranks[label] for label in labels])
    groups = []
    for key in np.unique(keys):
        color, marker = GREY, "o" if key > _MAX_CLASSES else "X"
        name = f"{len(names) - _MAX_CLASSES} rarer classes" if key == _MAX_CLASSES else "unlabelled"
        if key < _MAX_CLASSES:
            name = one_line(names[key], 26)
            color = _CLASS_COLORS[key % 10]
            marker = _CLASS_MARKERS[(key + key // 10) % 10]  # the next ten classes pair them differently
        elif not counts:
            color = BLUE
        groups.append((name, {"color": color, "marker": marker}, np.flatnonzero(keys == key)))
    return groups
