"""Scores beside each other, over a parameter, and over the steps of a training."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tfsound.plots.figures import (
    BLUE,
    DPI,
    FONT_SIZE,
    SMALL_FONT_SIZE,
    WRONG,
    draw_legend,
    one_line,
    verbatim,
)


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
    figure = Figure(figsize=(12, 1.6 + 0.62 * len(rows)), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    handles = {}
    for position, row in enumerate(rows):
        handles |= _draw_score_row(axes, position, row)
    names = [one_line(row.name, 44) for row in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=FONT_SIZE, **verbatim())
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(one_line(score_name, 60), fontsize=FONT_SIZE, **verbatim())
    axes.tick_params(axis="x", labelsize=SMALL_FONT_SIZE)
    axes.margins(x=0.02)
    axes.grid(axis="x", color="#e4e4e4")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    if handles:
        place = {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": 3}
        draw_legend(axes, list(handles.values()), list(handles), **place)
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
        dots = axes.scatter(values, heights, s=28, color=BLUE, edgecolors="white", linewidths=0.6, zorder=3)
        handles["fold or draw"] = dots
    if row.chance is not None and math.isfinite(row.chance):
        ends = position - 0.5, position + 0.5
        handles["chance"] = axes.vlines(row.chance, *ends, WRONG, linestyles="dashed", linewidth=2)
    axes.text(1.01, position, text, transform=axes.get_yaxis_transform(), va="center", fontsize=FONT_SIZE)
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
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    figure.get_layout_engine().set(h_pad=0.1)
    for number, panel in enumerate(panels, 1):
        axes = figure.add_subplot(num_rows, num_columns, number)
        names = [name for name in (panel, f"val_{panel}") if name in columns]
        _draw_curves(axes, steps, {name: np.asarray(columns[name], float) for name in names})
        axes.set_title(one_line(panel, 40), fontsize=FONT_SIZE, **verbatim())
    figure.supxlabel(axis_name, fontsize=FONT_SIZE)
    return figure


def _draw_curves(axes: Axes, steps: np.ndarray, curves: Mapping[str, np.ndarray]) -> None:
    lines = []
    for name, values in curves.items():
        known = np.isfinite(values) & np.isfinite(steps)
        style = {"color": WRONG, "linestyle": "--"} if name.startswith("val_") else {"color": BLUE}
        marker = "o" if known.sum() <= 30 else None  # a single point has no line
        lines += axes.plot(steps[known], values[known], marker=marker, markersize=4, linewidth=1.8, **style)
    if not any(line.get_xdata().size for line in lines):
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center", fontsize=FONT_SIZE)
    axes.grid(color="#e4e4e4")
    axes.tick_params(labelsize=SMALL_FONT_SIZE)
    axes.spines[["top", "right"]].set_visible(False)
    if len(lines) > 1:
        draw_legend(axes, lines, ["training", "validation"])


def plot_curves(
    curves: Mapping[str, tuple[Sequence[float], Sequence[Sequence[float]]]],
    *,
    parameter_name: str,
    score_name: str,
    log_axis: bool = False,
) -> Figure:
    """Draws how a score grows with something, such as labels or epochs, mean and spread over folds.

    Args:
        curves: name of each curve to its values of the parameter, (n,), and the scores, (n, folds).
        parameter_name, score_name: of the axes.
        log_axis: of the parameter, which must be above 0 then.

    Raises:
        ValueError: no curve, lengths that differ, or a value that a logarithm has no place for.
    """
    if not curves:
        raise ValueError("there is nothing to draw: no curve was given.")
    figure = Figure(figsize=(7, 4.5), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    for (name, (values, scores)), marker in zip(curves.items(), itertools.cycle("os^vD"), strict=False):
        if len(values) != len(scores) or (log_axis and not all(value > 0 for value in values)):
            raise ValueError(
                f"{name}: needs scores for each of the {parameter_name}, above 0 on a logarithmic axis, got "
                f"{len(scores)} for {list(values)}."
            )
        spreads = _spreads(scores)
        means = [np.mean(row) for row in scores]
        axes.errorbar(values, means, yerr=spreads, marker=marker, capsize=3, label=one_line(name, 44))
    if log_axis:
        axes.set_xscale("log")
    axes.set_xlabel(parameter_name)
    axes.set_ylabel(f"{score_name}, mean ± standard deviation over folds")
    axes.legend(loc="best")
    return figure


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
    figure = Figure(figsize=(7, 4.5), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(len(values))
    spreads = _spreads(scores)
    ours = axes.errorbar(
        places, [np.mean(row) for row in scores], yerr=spreads, color=BLUE, marker="o", capsize=4
    )
    other = axes.twinx()
    (theirs,) = other.plot(places, published, color=WRONG, marker="^", linestyle="--")
    axes.set_xticks(places, [f"{value:g}" for value in values])
    axes.set_xlabel(parameter_name)
    axes.set_ylabel(f"{score_name}, ours", color=BLUE)
    other.set_ylabel(f"{score_name}, the paper's (AudioSet)", color=WRONG)
    shown = "ours" if np.isnan(spreads).all() else "ours, mean ± standard deviation over folds"
    # Outside, because neither axis knows where the other's points are.
    figure.legend([ours, theirs], [shown, "the paper"], loc="outside upper center", ncols=2)
    return figure


def _spreads(scores: Sequence[Sequence[float]]) -> list[float]:
    """The standard deviation of each row; NaN, which is not drawn, of a single score: unknown, not zero."""
    return [float(np.std(row, ddof=1)) if len(row) > 1 else np.nan for row in scores]
