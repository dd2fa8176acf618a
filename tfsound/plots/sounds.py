"""Spectrograms of sounds beside what was found for them."""

import io
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import imsave
from numpy.typing import ArrayLike

from tfsound.plots.figures import (
    DPI,
    FONT_SIZE,
    GREY,
    MAX_WIDTH_INCHES,
    RIGHT,
    SMALL_FONT_SIZE,
    WRONG,
    one_line,
    verbatim,
)

_FREQUENCY_TICKS_HZ = (500, 1000, 2000, 4000, 8000, 16000)
_COLORMAP = "magma"
# The colours span this many nepers at least, else silence would show its dither as if it were a sound.
_MIN_SPAN = 3.0


def log_mel_png(log_mel: ArrayLike) -> bytes:
    """A spectrogram as a PNG without axes: a pixel for each frame and band, the lowest band at the bottom.

    Args:
        log_mel: (frames, mel_bins), natural logarithms.
    """
    low, high = np.percentile(log_mel, [1, 99.8])
    levels = np.clip((np.asarray(log_mel) - low) / max(high - low, _MIN_SPAN), 0, 1)
    file = io.BytesIO()
    imsave(file, colormaps[_COLORMAP](levels.T[::-1], bytes=True), format="png")
    return file.getvalue()


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
    width = min(MAX_WIDTH_INCHES, 1.5 + 3.5 * num_columns)
    figure = Figure(figsize=(width, 0.6 + 1.8 * num_rows), dpi=DPI, layout="constrained")
    grid = figure.subplots(num_rows, num_columns, sharex=True, sharey=True, squeeze=False)
    title_width = int((width - 1.5) / num_columns * 72 / (0.62 * FONT_SIZE))  # characters of average width
    for (row, column), clip in np.ndenumerate(clips):
        mark, color = "", GREY
        if column == 0:
            mark, color = "Q: ", "black"
        elif correct is not None:
            mark, color = ("✓ ", RIGHT) if correct[row][column - 1] else ("✗ ", WRONG)
        name = mark + one_line(titles[clip], title_width - len(mark))
        _draw_log_mel(grid[row, column], shown[clip], hop_seconds, norm)
        _frame(grid[row, column], name, color)
    duration = max(1, *map(len, shown.values())) * hop_seconds
    grid[0, 0].set(xlim=(0, duration), yticks=ticks, yticklabels=tick_labels)
    if title:
        _draw_title(figure, title, width)
    figure.supxlabel("time (s)", fontsize=FONT_SIZE)
    figure.supylabel(frequency_label, fontsize=FONT_SIZE)
    bar = figure.colorbar(ScalarMappable(norm), ax=grid, fraction=0.25 / width, pad=0.01, aspect=6 * num_rows)
    bar.set_label("log mel", fontsize=SMALL_FONT_SIZE)
    return figure


def _draw_title(figure: Figure, title: str, width: float) -> None:
    max_width = int(width * 72 / (0.62 * (FONT_SIZE + 3)))
    figure.suptitle(one_line(title, max_width), fontsize=FONT_SIZE + 3, **verbatim())


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
    axes.tick_params(labelsize=SMALL_FONT_SIZE)
    text_color = "black" if color == GREY else color
    axes.set_title(name, color=text_color, fontsize=FONT_SIZE, **verbatim())
    for spine in axes.spines.values():
        spine.set(edgecolor=color, linewidth=3)


def plot_found_pictures(
    log_mels: Sequence[ArrayLike],
    pictures: Sequence[Sequence[ArrayLike]],
    titles: Sequence[str],
    *,
    correct: ArrayLike | None = None,
    hop_seconds: float = 0.01,
    title: str = "",
) -> Figure:
    """Shows a row a sound: its spectrogram, then the pictures found for it, best first.

    The frame of a picture is green with a check mark where `correct`, else vermilion with a cross.

    Args:
        log_mels: one a row, (frames, mel_bins); all of as many bins.
        pictures: k a row, (height, width, 3) each, in [0, 1].
        titles: one a row, such as the label of the sound.
        correct: bool, (rows, k), whether a picture belongs to the sound.
        hop_seconds: from frame to frame.
        title: above all.

    Raises:
        ValueError: if there is no row, or rows differ in number or in their pictures.
    """
    numbers = {len(row) for row in pictures}
    if not len(log_mels) == len(pictures) == len(titles) > 0 or len(numbers) != 1 or 0 in numbers:
        raise ValueError(
            "log_mels, pictures and titles must be one a row, and equally many pictures a row, got "
            f"{len(log_mels)}, {len(pictures)} and {len(titles)} rows of {sorted(numbers)} pictures."
        )
    shape = (len(pictures), *numbers)
    if correct is not None and np.shape(correct) != shape:
        raise ValueError(f"correct must be {shape} as pictures, got {np.shape(correct)}.")
    shown = {row: np.asarray(log_mel, float) for row, log_mel in enumerate(log_mels)}
    ticks, tick_labels, frequency_label = _frequency_axis(_common_mel_bins(shown), None)
    norm = _color_norm(shown.values())
    width = min(MAX_WIDTH_INCHES, 4 + 1.6 * shape[1])
    figure = Figure(figsize=(width, 0.6 + 1.9 * shape[0]), dpi=DPI, layout="constrained")
    grid = figure.subplots(
        shape[0], 1 + shape[1], squeeze=False, gridspec_kw={"width_ratios": [2] + shape[1] * [1]}
    )
    for row, row_pictures in enumerate(pictures):
        axes = grid[row, 0]
        _draw_log_mel(axes, shown[row], hop_seconds, norm)
        axes.set(yticks=ticks, yticklabels=tick_labels, ylabel=frequency_label)
        _frame(axes, one_line(titles[row], 24), "black")
        for column, picture in enumerate(row_pictures):
            axes, mark, color = grid[row, 1 + column], f"{column + 1}.", GREY
            if correct is not None:
                mark, color = (f"{mark} ✓", RIGHT) if correct[row][column] else (f"{mark} ✗", WRONG)
            axes.imshow(np.clip(picture, 0, 1))
            axes.set(xticks=[], yticks=[])
            _frame(axes, mark, color)
    grid[-1, 0].set_xlabel("time (s)", fontsize=FONT_SIZE)
    if title:
        figure.suptitle(
            one_line(title, int(width * 72 / (0.62 * (FONT_SIZE + 3)))), fontsize=FONT_SIZE + 3, **verbatim()
        )
    return figure
