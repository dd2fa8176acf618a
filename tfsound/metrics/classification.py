"""Rankings by a score: average precision, and its mean over classes."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def average_precision(targets: ArrayLike, scores: ArrayLike) -> float:
    """Measures how far a ranking by descending score puts the targets before the non-targets.

    mean over targets of (targets scored at least as high) / (items scored at least as high)

    Tied items form one group, retrieved together, so input order never matters: the rule, and the value, of
    `sklearn.metrics.average_precision_score`. For distances, pass `-distances`.

    Args:
        targets: bool, (items,).
        scores: real, (items,); higher ranks first; infinite values are allowed.

    Returns:
        A float in (0, 1]; 1 when every target precedes every non-target, nan when there is no target.

    Raises:
        ValueError: if the shapes differ or are not (items,), targets are not bool, or a score is NaN.
    """
    targets, scores = np.asarray(targets), np.asarray(scores, np.float64)
    if targets.ndim != 1 or targets.shape != scores.shape:
        raise ValueError(
            f"targets and scores must both have shape (items,), got {targets.shape} and {scores.shape}."
        )
    if targets.dtype != bool:
        raise ValueError(f"targets must be bool, got {targets.dtype}; pass targets == 1.")
    if np.isnan(scores).any():
        raise ValueError(f"scores must not be NaN, got NaN first at item {np.isnan(scores).argmax()}.")
    if not targets.any():
        return float("nan")
    return mean_precision(-scores[targets], -scores[~targets])


@dataclasses.dataclass(frozen=True, eq=False)
class MeanAveragePrecisionResult:
    """Classification scores of one set of segments; arrays are (classes,), in the order of the label columns.

    Attributes:
        mean: mAP, the mean of `per_class` over the classes that could be scored; nan when there is none.
        per_class: average precision a class, nan where no segment has the class.
        chance: mean over the scored classes of the share of segments that have the class, the precision of a
            random ranking. With few segments, average precision of random rankings lies a little above it.
        num_positives: segments that have the class.
        num_segments: all segments ranked.
        num_classes_scored: number of classes behind `mean`.
        class_names: as passed in, or None.
    """

    mean: float
    per_class: np.ndarray
    chance: float
    num_positives: np.ndarray
    num_segments: int
    num_classes_scored: int
    class_names: tuple[str, ...] | None = None

    def __str__(self) -> str:
        return (
            f"mAP {self.mean:.3f} over {self.num_classes_scored} of {len(self.per_class)} classes "
            f"(chance {self.chance:.3f}; {self.num_segments} segments)"
        )


def mean_average_precision(
    labels: ArrayLike, scores: ArrayLike, class_names: Sequence[str] | None = None
) -> MeanAveragePrecisionResult:
    """Measures how far, class by class, segments that have a class score higher than segments that do not.

    The score is the mean over classes of `average_precision` over all segments. A class that no segment has
    is left out; one that all segments have scores 1, as in scikit-learn.

    Source: Jansen et al. 2018, section 4.4.

    Args:
        labels: bool, (segments, classes).
        scores: real, (segments, classes); higher ranks first. One class at a time is turned to float64.
        class_names: (classes,), kept with the result.

    Raises:
        ValueError: if shapes or dtypes are not as above, or a score is NaN.
    """
    scores = np.asarray(scores)
    labels = checked_labels(labels, len(scores) if scores.ndim else 0, class_names)
    if scores.shape != labels.shape:
        raise ValueError(f"scores must have the shape of labels, {labels.shape}, got {scores.shape}.")
    per_class = np.full(labels.shape[1], np.nan)
    num_positives = labels.sum(axis=0)
    scored = num_positives > 0
    for index in range(labels.shape[1]):
        column = scores[:, index].astype(np.float64)
        if np.isnan(column).any():
            raise ValueError(
                f"scores must not be NaN, got NaN first in segment {np.isnan(column).argmax()} "
                f"of class {index}."
            )
        if scored[index]:
            targets = labels[:, index]
            per_class[index] = mean_precision(-column[targets], -column[~targets])
    return MeanAveragePrecisionResult(
        mean=float(per_class[scored].mean()) if scored.any() else float("nan"),
        per_class=per_class,
        chance=float(num_positives[scored].mean() / len(labels)) if scored.any() else float("nan"),
        num_positives=num_positives,
        num_segments=len(labels),
        num_classes_scored=int(scored.sum()),
        class_names=None if class_names is None else tuple(class_names),
    )


def mean_precision(target_distances: np.ndarray, nontarget_distances: np.ndarray) -> float:
    """Averages, over targets, the share of targets among all items that are no farther."""
    targets, nontargets = np.sort(target_distances), np.sort(nontarget_distances)
    num_targets = np.searchsorted(targets, targets, side="right")
    num_nontargets = np.searchsorted(nontargets, targets, side="right")
    return float(np.mean(num_targets / (num_targets + num_nontargets)))


def checked_labels(labels: ArrayLike, num_segments: int, class_names: Sequence[str] | None) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.dtype != bool or labels.ndim != 2 or len(labels) != num_segments:
        raise ValueError(
            f"labels must be bool (segments, classes) with {num_segments} segments, got {labels.dtype} "
            f"{labels.shape}; turn class indices into rows with labels[:, None] == np.arange(num_classes)."
        )
    if class_names is not None and len(class_names) != labels.shape[1]:
        raise ValueError(f"class_names must be {labels.shape[1]}, one a column, got {len(class_names)}.")
    return labels
