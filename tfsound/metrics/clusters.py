"""How good clusters and the labels propagated over them are, against true labels.

Labels are bool or soft, (windows, classes). A figure that nothing can be said about is nan.

Source: Jansen et al. 2020, section 4.2, table 2; V-measure: Rosenberg and Hirschberg 2007 (scikit-learn's).
"""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike
from sklearn import metrics as sklearn_metrics


def v_measure(classes: ArrayLike, clusters: ArrayLike) -> float:
    """The harmonic mean of homogeneity (one class a cluster) and completeness (one cluster a class).

    Args:
      classes: int or text, (windows,), the one true class of each.
      clusters: int, (windows,).

    Returns:
      In [0, 1]; 1 for clusters that are the classes.

    Raises:
      ValueError: shapes that differ, or no window.
    """
    classes, clusters = np.asarray(classes), np.asarray(clusters)
    if classes.shape != clusters.shape or classes.ndim != 1 or not classes.size:
        raise ValueError(
            f"classes and clusters must both be (windows,), got {classes.shape} and {clusters.shape}."
        )
    return float(sklearn_metrics.v_measure_score(classes, clusters))


def num_active_clusters(clusters: ArrayLike) -> int:
    """How many clusters have a member; clusters: int, (windows,)."""
    return len(np.unique(np.asarray(clusters)))


@dataclasses.dataclass(frozen=True, eq=False)
class LabelQuality:
    """Precision and recall of propagated labels.

    Attributes:
      precision, recall: means over classes: precision over those that were propagated, recall over those
        that occur.
      pooled_precision, pooled_recall: over all labels of all classes together.
      class_precision, class_recall: float64, (classes,), nan where undefined.
      num_labels: how many labels were propagated.
      num_windows: how many windows have at least one.
    """

    precision: float
    recall: float
    pooled_precision: float
    pooled_recall: float
    class_precision: np.ndarray
    class_recall: np.ndarray
    num_labels: int
    num_windows: int

    def __str__(self) -> str:
        return (
            f"recall {self.recall:.3f}, precision {self.precision:.3f} (pooled {self.pooled_recall:.3f}, "
            f"{self.pooled_precision:.3f}); {self.num_labels:,} labels on {self.num_windows:,} windows"
        )


def label_quality(true_labels: ArrayLike, labels: ArrayLike, *, threshold: float = 0.5) -> LabelQuality:
    """Compares propagated labels with true ones.

    Args:
      true_labels: bool, (windows, classes).
      labels: bool or float in [0, 1], (windows, classes); a soft label counts from `threshold` on. Windows
        without a label are rows of zeros: they cost recall.
      threshold: in (0, 1].

    Returns:
      Class by class, in the mean over classes, and over all labels together.

    Raises:
      ValueError: shapes that differ, a threshold out of range.
    """
    truth, labels = np.asarray(true_labels, bool), np.asarray(labels)
    if truth.shape != labels.shape or truth.ndim != 2:
        raise ValueError(f"labels must both be (windows, classes), got {truth.shape} and {labels.shape}.")
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be in (0, 1], got {threshold}; at 0 all windows have all labels.")
    given = labels >= threshold if labels.dtype != bool else labels
    right = (truth & given).sum(axis=0)
    num_given, num_true = given.sum(axis=0), truth.sum(axis=0)
    class_precision, class_recall = _ratio(right, num_given), _ratio(right, num_true)
    return LabelQuality(
        precision=_mean(class_precision),
        recall=_mean(class_recall),
        pooled_precision=float(_ratio(right.sum(), num_given.sum())),
        pooled_recall=float(_ratio(right.sum(), num_true.sum())),
        class_precision=class_precision,
        class_recall=class_recall,
        num_labels=int(num_given.sum()),
        num_windows=int(given.any(axis=1).sum()),
    )


def _ratio(part: ArrayLike, whole: ArrayLike) -> np.ndarray:
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def _mean(values: np.ndarray) -> float:
    """The mean of those that are defined."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
