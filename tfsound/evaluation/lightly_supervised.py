"""Classifiers that learn from a few labelled segments a class, several draws of them.

Source: Jansen et al. 2018, section 4.4 and table 3. Its three models are `fully_connected(4)` and
`encoder_classifier("resnet50")` on log-mel windows, and `fully_connected(1)` on the embedding.
"""

import dataclasses

import numpy as np

from tfsound import metrics
from tfsound.evaluation.classification import Classification, classify, require_comparable
from tfsound.evaluation.classifiers import DEFAULT_OPTIONS, Architecture, TrainingOptions
from tfsound.evaluation.labelled_windows import LabelledWindows


@dataclasses.dataclass(frozen=True, eq=False)
class LightSupervision:
    """The scores of one architecture on one representation, draw by draw.

    Attributes:
      draws: (draws,), each trained anew on segments of its own.
      segments_per_class: that were asked for.
      num_segments: (draws,), drawn in all, those held out to stop by included.
      short_classes: class name to number of segments, where fewer exist than were asked for; all were used.
    """

    draws: tuple[Classification, ...]
    segments_per_class: int
    num_segments: tuple[int, ...]
    short_classes: dict[str, int]

    @property
    def scores(self) -> tuple[float, ...]:
        """The mAP of each draw."""
        return tuple(draw.mean for draw in self.draws)

    @property
    def spread(self) -> metrics.MeanAndSpread:
        """The scores as mean and spread."""
        return metrics.mean_and_spread(self.scores)

    def __str__(self) -> str:
        text = f"mAP {self.spread}; {self.segments_per_class} segments a class"
        if self.short_classes:
            shown = ", ".join(f"{name} {count}" for name, count in self.short_classes.items())
            text += f", fewer in {len(self.short_classes)} of them: {shown}"
        return text


def light_supervision(
    train: LabelledWindows,
    test: LabelledWindows,
    architecture: Architecture,
    *,
    segments_per_class: int = 20,
    num_draws: int = 3,
    options: TrainingOptions = DEFAULT_OPTIONS,
    seed: int = 0,
) -> LightSupervision:
    """Trains on a few segments a class, several times over, and measures each on all test segments.

    Which segments are drawn depends on the training labels and the seed alone, so that representations and
    architectures are compared on the same ones. A segment keeps all its labels, and one that has several may
    be drawn for each. The recordings to stop by come out of the segments drawn.

    Args:
      train: windows to draw the segments from.
      test: windows to be scored.
      architecture: what to train.
      segments_per_class: to draw; all of a class that has fewer.
      num_draws: to train on, each by itself.
      options: how to train.
      seed: of the draws and of training.

    Raises:
      ValueError: a number below 1; EvaluationError: as `classify`.
    """
    if segments_per_class < 1 or num_draws < 1:
        raise ValueError(
            f"segments_per_class and num_draws must be at least 1, got {segments_per_class} and {num_draws}."
        )
    require_comparable(train, test)
    draws, num_segments = [], []
    for draw in range(num_draws):
        rng = np.random.default_rng([seed, draw])
        segments = draw_segments(train.labels, segments_per_class, rng)
        num_segments.append(len(segments))
        few = train.select(segments)
        draws.append(classify(few, test, architecture, options=options, seed=seed + draw))
    available = dict(zip(train.class_names, train.labels.sum(axis=0).tolist(), strict=True))
    return LightSupervision(
        tuple(draws),
        segments_per_class,
        tuple(num_segments),
        short_classes={name: count for name, count in available.items() if count < segments_per_class},
    )


def draw_segments(labels: np.ndarray, segments_per_class: int, rng: np.random.Generator) -> np.ndarray:
    """Draws segments of each class without replacement: int64 rows of `labels`, ascending, each once.

    Args:
      labels: bool, (segments, classes).
      segments_per_class: to draw; all of a class that has fewer.
      rng: draws them.
    """
    drawn = [
        rng.choice(rows, min(segments_per_class, len(rows)), replace=False)
        for rows in map(np.flatnonzero, labels.T)
    ]
    return np.unique(np.concatenate(drawn))
