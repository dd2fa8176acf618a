"""What several scores say together: between baseline and topline, over folds or draws."""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike


def recovery(score: ArrayLike, *, baseline: ArrayLike, topline: ArrayLike) -> float | np.ndarray:
    """Says which share of the gap between baseline and topline a score closes.

    (score - baseline) / (topline - baseline): 0 at the baseline, 1 at the topline; the paper prints percent.

    Source: Jansen et al. 2018, section 4.3 and table 2.

    Args:
        score, baseline, topline: real scalars, or arrays that broadcast together.

    Returns:
        A float for scalars, else a float64 array; below 0 and above 1 are possible.

    Raises:
        ValueError: if a topline equals its baseline.
    """
    score, baseline, topline = (np.asarray(value, np.float64) for value in (score, baseline, topline))
    gap = topline - baseline
    if (gap == 0).any():
        raise ValueError(f"topline must differ from baseline, got {topline} and {baseline}: no gap.")
    share = (score - baseline) / gap
    return float(share) if share.ndim == 0 else share


@dataclasses.dataclass(frozen=True)
class MeanAndSpread:
    """A score over folds or draws; prints as "0.512 ± 0.013 (0.498..0.530, n=5)".

    Attributes:
        mean: arithmetic mean.
        standard_deviation: of the sample (divisor n - 1); nan for one value: unknown, not zero.
        min: smallest value.
        max: largest value.
        num_values: n.
    """

    mean: float
    standard_deviation: float
    min: float
    max: float
    num_values: int

    def __str__(self) -> str:
        if self.num_values == 1:
            return f"{self.mean:.3f} (n=1)"
        spread = f"{self.mean:.3f} ± {self.standard_deviation:.3f}"
        return f"{spread} ({self.min:.3f}..{self.max:.3f}, n={self.num_values})"


def mean_and_spread(values: ArrayLike) -> MeanAndSpread:
    """Summarises the scores of several folds or draws; a nan among them makes every figure nan.

    Args:
        values: real, (n,).

    Raises:
        ValueError: if values are empty or not (n,).
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"values must have shape (n,) with n >= 1, got {values.shape}.")
    return MeanAndSpread(
        mean=float(values.mean()),
        standard_deviation=float(values.std(ddof=1)) if values.size > 1 else float("nan"),
        min=float(values.min()),
        max=float(values.max()),
        num_values=values.size,
    )
