"""Pictures of an evaluation: arrays in, a matplotlib `Figure` out.

Conventions
    Every function returns a new `matplotlib.figure.Figure` and touches no pyplot state, so it works without a
    display and in threads; `save_figure` writes it as PNG. Figures are at most 1,600 pixels wide. Only
    `log_mel_png` returns the picture of a spectrogram itself.
    Names come from users: they are drawn as they are (`$` starts no formula), on one line, cut in the middle
    where too long. Scripts the bundled font lacks use an installed font of `figures`, else boxes.
    Right and wrong, and class and class, differ by a mark as well as by colour.
"""

from tfsound.plots.figures import save_figure
from tfsound.plots.maps import plot_embedding_map
from tfsound.plots.scores import ScoreRow, plot_curves, plot_scores, plot_sweep, plot_training_log
from tfsound.plots.sounds import log_mel_png, plot_found_pictures, plot_neighbours

__all__ = [
    "ScoreRow",
    "log_mel_png",
    "plot_curves",
    "plot_embedding_map",
    "plot_found_pictures",
    "plot_neighbours",
    "plot_scores",
    "plot_sweep",
    "plot_training_log",
    "save_figure",
]
