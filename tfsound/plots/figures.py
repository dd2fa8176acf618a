"""What all pictures share: sizes, colours, names that come from users, files."""

import functools
import os
import unicodedata
import warnings
from collections.abc import Sequence

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure

DPI = 100
MAX_WIDTH_INCHES = 16
FONT_SIZE = 12
SMALL_FONT_SIZE = 10
# Okabe and Ito, "Color universal design", 2008: the green and the vermilion of right and wrong.
RIGHT, WRONG, GREY, BLUE = "#007a59", "#c44601", "#8a8a8a", "#0072b2"
_FALLBACK_FONTS = (
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Hiragino Sans", "PingFang SC", "Arial Unicode MS",
    "WenQuanYi Zen Hei", "Noto Sans Devanagari", "Noto Sans Thai", "Noto Sans Symbols2",
)  # fmt: skip


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Writes the figure as PNG; a reader of `path` sees the old file or the whole new one, never a part."""
    temporary = f"{os.fspath(path)}.{os.getpid()}.tmp"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="(?s)Glyph .* missing from")  # drawn as a box
            figure.savefig(temporary, format="png", dpi=DPI)
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def draw_legend(axes: Axes, handles: Sequence, names: Sequence[str], **place) -> None:
    # Names are set afterwards: matplotlib leaves out legend entries that start with "_".
    placeholders = [str(number) for number in range(len(names))]
    legend = axes.legend(handles, placeholders, fontsize=SMALL_FONT_SIZE, frameon=False, **place)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set(text=name, **verbatim())


@functools.cache
def _font_families() -> tuple[str, ...]:
    installed = set(font_manager.get_font_names())
    return ("DejaVu Sans", *(name for name in _FALLBACK_FONTS if name in installed))


def verbatim() -> dict:
    """Text properties for names that come from users."""
    return {"parse_math": False, "fontfamily": list(_font_families())}


def one_line(name: object, max_width: int) -> str:
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
