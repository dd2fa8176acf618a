"""Rankings by a score: average precision and d', and their means over classes."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import special


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

    Returns:
        The mean and each class; nan for what is not defined.

    Raises:
        ValueError: if shapes or dtypes are not as above, or a score is NaN.
    """
    labels, scores = _checked_scores(labels, scores, class_names)
    per_class = np.full(labels.shape[1], np.nan)
    num_positives = labels.sum(axis=0)
    scored = num_positives > 0
    for index in range(labels.shape[1]):
        targets, nontargets = _split_scores(labels, scores, index)
        if scored[index]:
            per_class[index] = mean_precision(-targets, -nontargets)
    return MeanAveragePrecisionResult(
        mean=float(per_class[scored].mean()) if scored.any() else float("nan"),
        per_class=per_class,
        chance=float(num_positives[scored].mean() / len(labels)) if scored.any() else float("nan"),
        num_positives=num_positives,
        num_segments=len(labels),
        num_classes_scored=int(scored.sum()),
        class_names=None if class_names is None else tuple(class_names),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class DPrimeResult:
    """How far a classifier pulls classes apart; arrays are (classes,), in the order of the label columns.

    Attributes:
        mean: mean d', the mean over the classes that could be scored, a perfect or perfectly wrong ranking
            counted as half a step from it (see `d_prime`); nan when there is none.
        of_mean_auc: d' of the mean AUC over the same classes, which others report as d'; infinite where
            every ranking is perfect.
        per_class: d' a class; infinite for a perfect ranking, minus infinity for a perfectly wrong one, nan
            where no segment, or every segment, has the class.
        auc: area under the ROC curve, a class, in [0, 1]; nan alike.
        num_positives: segments that have the class.
        num_segments: all segments ranked.
        num_classes_scored: number of classes behind `mean`.
        class_names: as passed in, or None.
    """

    mean: float
    of_mean_auc: float
    per_class: np.ndarray
    auc: np.ndarray
    num_positives: np.ndarray
    num_segments: int
    num_classes_scored: int
    class_names: tuple[str, ...] | None = None

    def __str__(self) -> str:
        return (
            f"mean d' {self.mean:.3f} over {self.num_classes_scored} of {len(self.per_class)} classes "
            f"(d' of the mean AUC {self.of_mean_auc:.3f}; {self.num_segments} segments)"
        )


def d_prime(labels: ArrayLike, scores: ArrayLike, class_names: Sequence[str] | None = None) -> DPrimeResult:
    """Measures, class by class, how far apart segments with and without a class lie in its score.

    sqrt(2) x inverse normal CDF of the AUC: the distance of the means of two normal distributions of unit
    variance whose scores would give that area under the ROC curve, tied scores counted as half right.

    A perfect ranking has an infinite d', which would make a mean over classes infinite. In `mean`, and only
    there, its AUC of 1 counts as 1 - 1 / (2 n_pos n_neg), half of one misranked pair, and an AUC of 0 as
    1 / (2 n_pos n_neg): as Macmillan and Kaplan 1985 replace rates of 1 and 0 by 1 - 1 / (2n) and 1 / (2n).
    The AudioSet benchmarks avoid the question by taking d' of the mean AUC, which is `of_mean_auc`; the
    2020 paper reports the mean of d'.

    Source: Jansen et al. 2020, section 4.2; Gemmeke et al. 2017 (AudioSet).

    Args:
        labels: bool, (segments, classes).
        scores: real, (segments, classes); higher ranks first; infinite values are allowed.
        class_names: (classes,), kept with the result.

    Returns:
        The mean and each class; nan for what is not defined.

    Raises:
        ValueError: if shapes or dtypes are not as above, or a score is NaN.
    """
    labels, scores = _checked_scores(labels, scores, class_names)
    num_positives = labels.sum(axis=0)
    num_pairs = num_positives * (len(labels) - num_positives)
    scored = num_pairs > 0
    auc = np.full(labels.shape[1], np.nan)
    for index in range(labels.shape[1]):
        targets, nontargets = _split_scores(labels, scores, index)
        if scored[index]:
            auc[index] = _area_under_roc(targets, nontargets)
    half_step = 1 / (2 * num_pairs[scored])
    clipped = np.clip(auc[scored], half_step, 1 - half_step)
    nothing = float("nan")
    return DPrimeResult(
        mean=float(_d_prime_of(clipped).mean()) if scored.any() else nothing,
        of_mean_auc=float(_d_prime_of(auc[scored].mean())) if scored.any() else nothing,
        per_class=_d_prime_of(auc),
        auc=auc,
        num_positives=num_positives,
        num_segments=len(labels),
        num_classes_scored=int(scored.sum()),
        class_names=None if class_names is None else tuple(class_names),
    )


def _d_prime_of(auc: ArrayLike) -> np.ndarray:
    return np.sqrt(2) * special.ndtri(auc)


def _area_under_roc(targets: np.ndarray, nontargets: np.ndarray) -> float:
    """The share of pairs of a target and a non-target that are ranked right, ties half."""
    nontargets = np.sort(nontargets)
    num_below = np.searchsorted(nontargets, targets, side="left")
    num_up_to = np.searchsorted(nontargets, targets, side="right")
    return float((num_below + num_up_to).sum() / (2 * len(targets) * len(nontargets)))


def _checked_scores(
    labels: ArrayLike, scores: ArrayLike, class_names: Sequence[str] | None
) -> tuple[np.ndarray, np.ndarray]:
    scores = np.asarray(scores)
    labels = checked_labels(labels, len(scores) if scores.ndim else 0, class_names)
    if scores.shape != labels.shape:
        raise ValueError(f"scores must have the shape of labels, {labels.shape}, got {scores.shape}.")
    return labels, scores


def _split_scores(labels: np.ndarray, scores: np.ndarray, index: int) -> tuple[np.ndarray, np.ndarray]:
    """The scores of a class for the segments that have it, and for the others: float64."""
    column = scores[:, index].astype(np.float64)
    if np.isnan(column).any():
        raise ValueError(
            f"scores must not be NaN, got NaN first in segment {np.isnan(column).argmax()} of class {index}."
        )
    return column[labels[:, index]], column[~labels[:, index]]


def mean_precision(target_distances: np.ndarray, nontarget_distances: np.ndarray) -> float:
    """Averages, over targets, the share of targets among all items that are no farther."""
    targets, nontargets = np.sort(target_distances), np.sort(nontarget_distances)
    num_targets = np.searchsorted(targets, targets, side="right")
    num_nontargets = np.searchsorted(nontargets, targets, side="right")
    return float(np.mean(num_targets / (num_targets + num_nontargets)))


def checked_labels(labels: ArrayLike, num_segments: int, class_names: Sequence[str] | None) -> np.ndarray:
    """Labels as an array. Raises: ValueError unless bool, (num_segments, classes), with a name a class."""
    labels = np.asarray(labels)
    if labels.dtype != bool or labels.ndim != 2 or len(labels) != num_segments:
        raise ValueError(
            f"labels must be bool (segments, classes) with {num_segments} segments, got {labels.dtype} "
            f"{labels.shape}; turn class indices into rows with labels[:, None] == np.arange(num_classes)."
        )
    if class_names is not None and len(class_names) != labels.shape[1]:
        raise ValueError(f"class_names must be {labels.shape[1]}, one a column, got {len(class_names)}.")
    return labels
