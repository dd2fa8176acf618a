"""Pictures of an evaluation: arrays in, a matplotlib `Figure` out.

Conventions
    Every function returns a new `matplotlib.figure.Figure` and touches no pyplot state, so it works without a
    display and in threads; `save_figure` writes it as PNG. Figures are at most 1,600 pixels wide.
    Names come from users: they are drawn as they are (`$` starts no formula), on one line, cut in the middle
    where too long. Scripts the bundled font lacks use an installed font of `_FALLBACK_FONTS`, else boxes.
    Right and wrong, and class and class, differ by a mark as well as by colour.

References
    van der Maaten and Hinton, "Visualizing data using t-SNE", JMLR 2008 (`plot_embedding_map`).
    Okabe and Ito, "Color universal design", 2008: the green and the vermilion of right and wrong.
"""

import dataclasses
import functools
import math
import os
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

_DPI = 100
_MAX_WIDTH_INCHES = 16
_FONT_SIZE = 12
_SMALL_FONT_SIZE = 10
_RIGHT, _WRONG, _GREY, _BLUE = "#007a59", "#c44601", "#8a8a8a", "#0072b2"
_FALLBACK_FONTS = (
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Hiragino Sans", "PingFang SC", "Arial Unicode MS",
    "WenQuanYi Zen Hei", "Noto Sans Devanagari", "Noto Sans Thai", "Noto Sans Symbols2",
)  # fmt: skip
_FREQUENCY_TICKS_HZ = (500, 1000, 2000, 4000, 8000, 16000)
_CLASS_COLORS = (
    "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd",
    "#8c564b", "#e377c2", "#bcbd22", "#17becf", "#222222",
)  # fmt: skip
_CLASS_MARKERS = "os^DvPX<p>"
_MAX_CLASSES = 50
_LEGEND_ROWS = 26  # two columns hold 50 classes, the rarer ones and the unlabelled
_PCA_DIM = 50
_MIN_ROWS_FOR_TSNE = 10


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Writes the figure as PNG; a reader of `path` sees the old file or the whole new one, never a part."""
    temporary = f"{os.fspath(path)}.{os.getpid()}.tmp"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="(?s)Glyph .* missing from")  # drawn as a box
            figure.savefig(temporary, format="png", dpi=_DPI)
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def plot_neighbours(
    log_mels: Sequence[ArrayLike],
    query_indices: ArrayLike,
    neighbour_indices: ArrayLike,
    titles: Sequence[str],
    *,
    correct: ArrayLike | None = None,
    hop_seconds: float = 0.01,
    mel_hz: ArrayLike | None = None,
    title: str = "",
) -> Figure:
    """Shows a row a query: its spectrogram, framed black and titled "Q:", then its neighbours, nearest first.

    All spectrograms share one colour scale and one time scale. The frame of a neighbour is green with a
    check mark where `correct`, else vermilion with a cross.

    Args:
        log_mels: one a clip, (frames, mel_bins); the numbers of frames may differ.
        query_indices: int, (rows,), into `log_mels`.
        neighbour_indices: int, (rows, k), into `log_mels`.
        titles: one a clip, such as its label or its name.
        correct: bool, (rows, k), whether the neighbour's label agrees with the query's.
        hop_seconds: from frame to frame.
        mel_hz: (mel_bins,), ascending centre frequencies of the bands; without it the axis counts bands.
        title: above all.

    Raises:
        ValueError: if shapes do not fit each other, there is no row, or mel_hz does not ascend.
    """
    clips = _clip_grid(query_indices, neighbour_indices, correct, len(log_mels), len(titles))
    shown = {clip: np.asarray(log_mels[clip], float) for clip in np.unique(clips)}
    ticks, tick_labels, frequency_label = _frequency_axis(_common_mel_bins(shown), mel_hz)
    norm = _color_norm(shown.values())
    num_rows, num_columns = clips.shape
    width = min(_MAX_WIDTH_INCHES, 1.5 + 3.5 * num_columns)
    figure = Figure(figsize=(width, 0.6 + 1.8 * num_rows), dpi=_DPI, layout="constrained")
    grid = figure.subplots(num_rows, num_columns, sharex=True, sharey=True, squeeze=False)
    title_width = int((width - 1.5) / num_columns * 72 / (0.62 * _FONT_SIZE))  # characters of average width
    for (row, column), clip in np.ndenumerate(clips):
        mark, color = "", _GREY
        if column == 0:
            mark, color = "Q: ", "black"
        elif correct is not None:
            mark, color = ("✓ ", _RIGHT) if correct[row][column - 1] else ("✗ ", _WRONG)
        name = mark + _one_line(titles[clip], title_width - len(mark))
        _draw_log_mel(grid[row, column], shown[clip], hop_seconds, norm)
        _frame(grid[row, column], name, color)
    duration = max(1, *map(len, shown.values())) * hop_seconds
    grid[0, 0].set(xlim=(0, duration), yticks=ticks, yticklabels=tick_labels)
    if title:
        max_width = int(width * 72 / (0.62 * (_FONT_SIZE + 3)))
        figure.suptitle(_one_line(title, max_width), fontsize=_FONT_SIZE + 3, **_verbatim())
    figure.supxlabel("time (s)", fontsize=_FONT_SIZE)
    figure.supylabel(frequency_label, fontsize=_FONT_SIZE)
    bar = figure.colorbar(ScalarMappable(norm), ax=grid, fraction=0.25 / width, pad=0.01, aspect=6 * num_rows)
    bar.set_label("log mel", fontsize=_SMALL_FONT_SIZE)
    return figure


def _clip_grid(
    query_indices: ArrayLike,
    neighbour_indices: ArrayLike,
    correct: ArrayLike | None,
    num_clips: int,
    num_titles: int,
) -> np.ndarray:
    """Puts queries and neighbours into one int array (rows, 1 + k) after checking what goes with it."""
    query_indices, neighbour_indices = np.asarray(query_indices, int), np.asarray(neighbour_indices, int)
    num_rows = query_indices.size
    if num_rows == 0 or query_indices.ndim != 1 or neighbour_indices.shape[:-1] != (num_rows,):
        raise ValueError(
            "query_indices must be (rows,) with a row at least and neighbour_indices (rows, k), "
            f"got {query_indices.shape} and {neighbour_indices.shape}."
        )
    if correct is not None and np.shape(correct) != neighbour_indices.shape:
        raise ValueError(f"correct must be {neighbour_indices.shape} as neighbours, got {np.shape(correct)}.")
    if num_titles != num_clips:
        raise ValueError(f"titles must be one a clip: {num_clips}, got {num_titles}.")
    clips = np.concatenate([query_indices[:, None], neighbour_indices], axis=1)
    if clips.min() < 0 or clips.max() >= num_clips:
        raise ValueError(f"indices must be in [0, {num_clips}), got {clips.min()} to {clips.max()}.")
    return clips


def _common_mel_bins(log_mels: Mapping[int, np.ndarray]) -> int:
    shapes = {clip: log_mel.shape for clip, log_mel in log_mels.items()}
    if any(len(shape) != 2 for shape in shapes.values()) or len({shape[1] for shape in shapes.values()}) > 1:
        raise ValueError(f"log_mels must be (frames, mel_bins) with equal mel_bins, got {shapes} by clip.")
    return next(iter(shapes.values()))[1]


def _frequency_axis(num_bins: int, mel_hz: ArrayLike | None) -> tuple[np.ndarray, list[str], str]:
    """Returns tick positions in bands, their labels and the label of the axis."""
    if mel_hz is None:
        ticks = np.unique(np.linspace(0, num_bins - 1, 4).astype(int))
        return ticks, [str(tick) for tick in ticks], "mel band"
    mel_hz = np.asarray(mel_hz, float)
    if mel_hz.shape != (num_bins,) or not (np.diff(mel_hz) > 0).all():
        raise ValueError(f"mel_hz must be {num_bins} ascending frequencies, got {mel_hz.shape}: {mel_hz}.")
    frequencies = [hz for hz in _FREQUENCY_TICKS_HZ if mel_hz[0] <= hz <= mel_hz[-1]] or mel_hz[[0, -1]]
    ticks = np.interp(frequencies, mel_hz, np.arange(num_bins))
    return ticks, [f"{frequency / 1000:.3g}" for frequency in frequencies], "frequency (kHz)"


def _color_norm(log_mels: Iterable[np.ndarray]) -> Normalize:
    """Spans all but the extreme values, so that one click or one silent clip does not wash out the others."""
    values = np.concatenate([log_mel.ravel() for log_mel in log_mels])
    values = values[np.isfinite(values)]
    low, high = np.percentile(values, [1, 99.8]) if values.size else (0.0, 1.0)
    return Normalize(low, high if high > low else low + 1)


def _draw_log_mel(axes: Axes, log_mel: np.ndarray, hop_seconds: float, norm: Normalize) -> None:
    num_frames, num_bins = log_mel.shape
    extent = (0, max(num_frames, 1) * hop_seconds, -0.5, num_bins - 0.5)
    image = np.ma.masked_invalid(log_mel.T if num_frames else np.full((num_bins, 1), np.nan))
    axes.imshow(image, origin="lower", aspect="auto", extent=extent, norm=norm)


def _frame(axes: Axes, name: str, color: str) -> None:
    axes.set_facecolor("#dddddd")
    axes.tick_params(labelsize=_SMALL_FONT_SIZE)
    text_color = "black" if color == _GREY else color
    axes.set_title(name, color=text_color, fontsize=_FONT_SIZE, **_verbatim())
    for spine in axes.spines.values():
        spine.set(edgecolor=color, linewidth=3)


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
    figure = Figure(figsize=(9.5 + 2.9 * num_legend_columns, 9), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot(xticks=[], yticks=[])
    size = np.clip(10_000 / len(points), 44, 160)  # few points need no room, and are easier to see large
    handles = [
        axes.scatter(*points[members].T, s=size, alpha=0.85, edgecolors="white", linewidths=0.4, **style)
        for _, style, members in groups
    ]
    axes.set_title(_one_line(title, 80), fontsize=_FONT_SIZE + 3, **_verbatim())
    axes.set_xlabel(f"{method}; {len(points):,} of {num_segments:,} segments", fontsize=_SMALL_FONT_SIZE)
    axes.axis("equal")
    if has_legend:
        place = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "ncols": num_legend_columns}
        _legend(axes, handles, [name for name, _, _ in groups], **place)
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
        color, marker = _GREY, "o" if key > _MAX_CLASSES else "X"
        name = f"{len(names) - _MAX_CLASSES} rarer classes" if key == _MAX_CLASSES else "unlabelled"
        if key < _MAX_CLASSES:
            name = _one_line(names[key], 26)
            color = _CLASS_COLORS[key % 10]
            marker = _CLASS_MARKERS[(key + key // 10) % 10]  # the next ten classes pair them differently
        elif not counts:
            color = _BLUE
        groups.append((name, {"color": color, "marker": marker}, np.flatnonzero(keys == key)))
    return groups


@dataclasses.dataclass(frozen=True)
class ScoreRow:
    """One representation in `plot_scores`.

    Attributes:
        name: of the representation.
        values: its score in each fold or draw, one at least.
        chance: score of a random ranking, where known.
    """

    name: str
    values: Sequence[float]
    chance: float | None = None


def plot_scores(rows: Sequence[ScoreRow], *, score_name: str = "mAP") -> Figure:
    """Compares representations: a bar to the mean, a dot a fold, the sample standard deviation, chance.

    Args:
        rows: drawn from top to bottom; values that are nan are left out.
        score_name: label of the axis.

    Raises:
        ValueError: if there is no row.
    """
    if not rows:
        raise ValueError("rows must hold one representation at least, got none.")
    figure = Figure(figsize=(12, 1.6 + 0.62 * len(rows)), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    handles = {}
    for position, row in enumerate(rows):
        handles |= _draw_score_row(axes, position, row)
    names = [_one_line(row.name, 44) for row in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=_FONT_SIZE, **_verbatim())
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(_one_line(score_name, 60), fontsize=_FONT_SIZE, **_verbatim())
    axes.tick_params(axis="x", labelsize=_SMALL_FONT_SIZE)
    axes.margins(x=0.02)
    axes.grid(axis="x", color="#e4e4e4")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    if handles:
        place = {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": 3}
        _legend(axes, list(handles.values()), list(handles), **place)
    return figure


def _draw_score_row(axes: Axes, position: int, row: ScoreRow) -> dict:
    """Draws one row and returns a legend handle by name for what it drew."""
    handles = {}
    values = np.asarray(row.values, float)
    values = values[np.isfinite(values)]
    text = "no value"
    if values.size:
        text = f"{values.mean():.3f}"
        axes.barh(position, values.mean(), height=0.6, color="#a9cde6")
        if values.size > 1:
            spread = values.std(ddof=1)
            text += f" ± {spread:.3f}"
            bar = axes.errorbar(values.mean(), position, xerr=spread, color="black", capsize=6, zorder=4)
            handles["mean ± standard deviation"] = bar
        # Folds side by side in height, so that equal scores stay visible.
        heights = position + np.linspace(-0.18, 0.18, values.size) if values.size > 1 else [position]
        dots = axes.scatter(values, heights, s=28, color=_BLUE, edgecolors="white", linewidths=0.6, zorder=3)
        handles["fold or draw"] = dots
    if row.chance is not None and math.isfinite(row.chance):
        ends = position - 0.5, position + 0.5
        handles["chance"] = axes.vlines(row.chance, *ends, _WRONG, linestyles="dashed", linewidth=2)
    axes.text(1.01, position, text, transform=axes.get_yaxis_transform(), va="center", fontsize=_FONT_SIZE)
    return handles


def plot_training_log(columns: Mapping[str, Sequence[float]]) -> Figure:
    """Draws each logged quantity over the steps, a panel each, `val_x` beside `x`.

    Args:
        columns: values by column name, of equal lengths, as in the CSV file of a training; nan where a
            quantity was not measured. `step`, else `epoch`, else the row number is the horizontal axis.

    Raises:
        ValueError: if lengths differ or there is no column to draw.
    """
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns must have equal lengths, got {lengths}.")
    drawn = [name for name in columns if name not in ("step", "epoch")]
    if not drawn:
        raise ValueError(f"columns must hold a quantity beside step and epoch, got {list(columns)}.")
    axis_name = next((name for name in ("step", "epoch") if name in columns), "row")
    steps = np.asarray(columns.get(axis_name, range(lengths[drawn[0]])), float)
    panels = list(dict.fromkeys(name.removeprefix("val_") for name in drawn))
    num_columns = 2 if len(panels) == 4 else min(3, len(panels))
    num_rows = math.ceil(len(panels) / num_columns)
    size = (5.3 * num_columns, 0.4 + 3.2 * num_rows)
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    figure.get_layout_engine().set(h_pad=0.1)
    for number, panel in enumerate(panels, 1):
        axes = figure.add_subplot(num_rows, num_columns, number)
        names = [name for name in (panel, f"val_{panel}") if name in columns]
        _draw_curves(axes, steps, {name: np.asarray(columns[name], float) for name in names})
        axes.set_title(_one_line(panel, 40), fontsize=_FONT_SIZE, **_verbatim())
    figure.supxlabel(axis_name, fontsize=_FONT_SIZE)
    return figure


def _draw_curves(axes: Axes, steps: np.ndarray, curves: Mapping[str, np.ndarray]) -> None:
    lines = []
    for name, values in curves.items():
        known = np.isfinite(values) & np.isfinite(steps)
        style = {"color": _WRONG, "linestyle": "--"} if name.startswith("val_") else {"color": _BLUE}
        marker = "o" if known.sum() <= 30 else None  # a single point has no line
        lines += axes.plot(steps[known], values[known], marker=marker, markersize=4, linewidth=1.8, **style)
    if not any(line.get_xdata().size for line in lines):
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center", fontsize=_FONT_SIZE)
    axes.grid(color="#e4e4e4")
    axes.tick_params(labelsize=_SMALL_FONT_SIZE)
    axes.spines[["top", "right"]].set_visible(False)
    if len(lines) > 1:
        _legend(axes, lines, ["training", "validation"])


def plot_sweep(
    values: Sequence[float],
    scores: Sequence[Sequence[float]],
    published: Sequence[float],
    *,
    parameter_name: str,
    score_name: str,
) -> Figure:
    """Draws a score against a parameter, mean and spread over folds, beside a paper's on an axis of its own.

    Args:
        values: (n,), of the parameter, drawn at equal distances.
        scores: (n, folds).
        published: (n,), the paper's, on its own data set.
        parameter_name, score_name: of the axes.

    Raises:
        ValueError: if the lengths differ.
    """
    if not len(values) == len(scores) == len(published):
        raise ValueError(
            f"values, scores and published must be equally many, got {len(values)}, {len(scores)} and "
            f"{len(published)}."
        )
    figure = Figure(figsize=(7, 4.5), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(len(values))
    spreads = [np.std(row, ddof=1) if len(row) > 1 else 0.0 for row in scores]
    ours = axes.errorbar(
        places, [np.mean(row) for row in scores], yerr=spreads, color=_BLUE, marker="o", capsize=4
    )
    other = axes.twinx()
    (theirs,) = other.plot(places, published, color=_WRONG, marker="^", linestyle="--")
    axes.set_xticks(places, [f"{value:g}" for value in values])
    axes.set_xlabel(parameter_name)
    axes.set_ylabel(f"{score_name}, ours", color=_BLUE)
    other.set_ylabel(f"{score_name}, the paper's (AudioSet)", color=_WRONG)
    axes.legend([ours, theirs], ["ours, mean ± standard deviation over folds", "the paper"], loc="best")
    return figure


def _legend(axes: Axes, handles: Sequence, names: Sequence[str], **place) -> None:
    # Names are set afterwards: matplotlib leaves out legend entries that start with "_".
    placeholders = [str(number) for number in range(len(names))]
    legend = axes.legend(handles, placeholders, fontsize=_SMALL_FONT_SIZE, frameon=False, **place)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set(text=name, **_verbatim())


@functools.cache
def _font_families() -> tuple[str, ...]:
    installed = set(font_manager.get_font_names())
    return ("DejaVu Sans", *(name for name in _FALLBACK_FONTS if name in installed))


def _verbatim() -> dict:
    """Text properties for names that come from users."""
    return {"parse_math": False, "fontfamily": list(_font_families())}


def _one_line(name: object, max_width: int) -> str:
    """Turns any name into one printable line of at most `max_width` columns, cut in the middle.

    East Asian wide characters take two columns. Control characters and lone surrogates become spaces.
    """
    unprintable = ("Cc", "Cs", "Zl", "Zp")
    text = "".join(" " if unicodedata.category(char) in unprintable else char for char in str(name))
    text = " ".join(text.split())
    widths = np.cumsum([1 + (unicodedata.east_asian_width(char) in "WF") for char in text])
    if not text or widths[-1] <= max_width:
        return text
    head = int(np.searchsorted(widths, (max_width - 1) - (max_width - 1) // 2, side="right"))
    tail = int(np.searchsorted(widths, widths[-1] - (max_width - 1) // 2, side="left")) + 1
    return f"{text[:head]}…{text[tail:]}"
