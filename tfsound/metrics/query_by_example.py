"""Retrieval of segments by the cosine distance of their embeddings."""

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from threadpoolctl import threadpool_limits

from tfsound.metrics.classification import checked_labels, mean_precision

# Float64 sums of a few thousand products agree to about 1e-15 and float32 embeddings carry about 1e-7:
# rounding here joins what only the order of summation told apart, and nothing that the data tells apart.
DISTANCE_DECIMALS = 12


@dataclasses.dataclass(frozen=True, eq=False)
class QueryByExampleResult:
    """Retrieval scores of one set of embeddings; arrays are (classes,), in the order of the label columns.

    Attributes:
        mean: mAP, the mean of `per_class` over the classes that could be scored; nan when there is none.
        per_class: average precision a class, nan where it has no pair within, or none with another.
        chance: mean over the scored classes of targets / (targets + non-targets), the precision of a random
            ranking. With few pairs, the average precision of random rankings lies a little above it.
        num_present: segments used a class where it is present.
        num_absent: segments used a class where it is not.
        protocol: what was compared, in words: "100 + 100 a class", "all pairs", or "mixed: ...",
            and whether pairs of one recording were left out.
        num_classes_scored: number of classes behind `mean`.
        class_names: as passed in, or None.
    """

    mean: float
    per_class: np.ndarray
    chance: float
    num_present: np.ndarray
    num_absent: np.ndarray
    protocol: str
    num_classes_scored: int
    class_names: tuple[str, ...] | None = None

    def __str__(self) -> str:
        return (
            f"mAP {self.mean:.3f} over {self.num_classes_scored} of {len(self.per_class)} classes "
            f"(chance {self.chance:.3f}; {self.protocol})"
        )


def query_by_example_map(
    embeddings: ArrayLike,
    labels: ArrayLike,
    *,
    num_present: int = 100,
    num_absent: int = 100,
    rng: np.random.Generator | None = None,
    class_names: Sequence[str] | None = None,
    recordings: ArrayLike | None = None,
) -> QueryByExampleResult:
    """Measures whether two segments of a class are nearer than one of the class and one that is not.

    Per class, `num_present` segments where it is present and `num_absent` where it is not are drawn without
    replacement. The pairs within the first set (4,950) are targets, the pairs between the sets (10,000)
    non-targets; all are ranked by ascending cosine distance. The score is the mean over classes of the
    average precision. A class with fewer segments than asked for uses all it has. The draws depend on
    `labels` and `rng` only, so generators of equal seed compare representations on the same pairs.
    Pairs of one recording are left out, where recordings are given: that two cuts of a recording are alike
    tells nothing of their class, and AudioSet, which the paper scores, has one segment of each.

    Source: Jansen et al. 2018, section 4.3 (chance 0.33, log mel baseline 0.423, supervised topline 0.790).

    Args:
        embeddings: real, (segments, dim). One class at a time is turned to float64.
        labels: bool, (segments, classes).
        num_present: at least 2.
        num_absent: at least 1. A class takes about 32 bytes of memory a pair.
        rng: draws the segments; None means `numpy.random.default_rng(0)`.
        class_names: (classes,), kept with the result.
        recordings: (segments,), what each segment is cut from; by default all differ.

    Raises:
        ValueError: if shapes or dtypes are not as above, an embedding is not finite, or a number too small.
    """
    embeddings = checked_embeddings(embeddings)
    labels = checked_labels(labels, len(embeddings), class_names)
    if num_present < 2 or num_absent < 1:
        raise ValueError(
            f"num_present must be at least 2 and num_absent at least 1, got {num_present} and {num_absent}; "
            "a pair within the class and a pair across are needed."
        )
    if rng is None:
        rng = np.random.default_rng(0)
    recordings = _checked_recordings(recordings, len(embeddings))
    available = np.stack([labels.sum(axis=0), (~labels).sum(axis=0)])
    used = np.minimum(available, np.array([[num_present], [num_absent]]))
    per_class = np.full(labels.shape[1], np.nan)
    num_pairs = np.zeros((2, labels.shape[1]))  # targets and non-targets
    # The products are small: several threads spend longer waiting for each other than multiplying.
    with threadpool_limits(1, user_api="blas"):
        for index in np.flatnonzero((used[0] >= 2) & (used[1] >= 1)):
            present = _draw(np.flatnonzero(labels[:, index]), num_present, rng)
            absent = _draw(np.flatnonzero(~labels[:, index]), num_absent, rng)
            targets, nontargets = _pair_distances(
                embeddings[present], embeddings[absent], recordings[present], recordings[absent]
            )
            num_pairs[:, index] = len(targets), len(nontargets)
            if len(targets) and len(nontargets):
                per_class[index] = mean_precision(targets, nontargets)
    scored = num_pairs.all(axis=0)
    chance = num_pairs[0, scored] / num_pairs[:, scored].sum(axis=0)
    return QueryByExampleResult(
        mean=float(per_class[scored].mean()) if scored.any() else float("nan"),
        per_class=per_class,
        chance=float(chance.mean()) if scored.any() else float("nan"),
        num_present=used[0],
        num_absent=used[1],
        protocol=_describe_protocol(available[:, scored], num_present, num_absent)
        + (", none of one recording" if len(np.unique(recordings)) < len(recordings) else ""),
        num_classes_scored=int(scored.sum()),
        class_names=None if class_names is None else tuple(class_names),
    )


def _pair_distances(
    present: np.ndarray, absent: np.ndarray, present_recordings: np.ndarray, absent_recordings: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of the pairs within `present`, and of those between `present` and `absent`; none of one recording."""
    present, absent = unit_rows(present), unit_rows(absent)
    is_target = np.triu(present_recordings[:, None] != present_recordings, k=1)
    is_nontarget = present_recordings[:, None] != absent_recordings
    return cosine_distances(present, present)[is_target], cosine_distances(present, absent)[is_nontarget]


def _checked_recordings(recordings: ArrayLike | None, num_segments: int) -> np.ndarray:
    """As numbers, int64, (segments,)."""
    if recordings is None:
        return np.arange(num_segments)
    recordings = np.asarray(recordings)
    if recordings.shape != (num_segments,):
        raise ValueError(f"recordings must be ({num_segments},), one a segment, got {recordings.shape}.")
    return np.unique(recordings, return_inverse=True)[1]


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Scales rows to length 1 in float64; zero rows stay zero."""
    rows = rows.astype(np.float64)
    largest = np.abs(rows).max(axis=1, keepdims=True)
    rows /= np.where(largest > 0, largest, 1)  # first, so that squares neither overflow nor vanish
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows /= np.where(lengths > 0, lengths, 1)
    return rows


def cosine_distances(units_a: np.ndarray, units_b: np.ndarray) -> np.ndarray:
    """Returns (rows of a, rows of b) distances between unit or zero rows, rounded to `DISTANCE_DECIMALS`."""
    return np.round(1 - units_a @ units_b.T, DISTANCE_DECIMALS)


def _draw(indices: np.ndarray, num_wanted: int, rng: np.random.Generator) -> np.ndarray:
    """Draws without replacement; takes all, and leaves `rng` alone, when there are no more than wanted."""
    return indices if len(indices) <= num_wanted else rng.choice(indices, num_wanted, replace=False)


def _describe_protocol(available: np.ndarray, num_present: int, num_absent: int) -> str:
    """Says in words what the scored classes used; available: (2, scored classes), present and absent."""
    wording = {
        (False, False): f"{num_present} + {num_absent}",
        (True, False): f"all present + {num_absent} absent",
        (False, True): f"{num_present} present + all absent",
        (True, True): "all pairs",
    }
    short = zip(available[0] < num_present, available[1] < num_absent, strict=True)
    counts = Counter(wording[bool(present), bool(absent)] for present, absent in short)
    if not counts:
        return "no class could be scored"
    if len(counts) == 1:
        (text,) = counts
        return text if text == "all pairs" else f"{text} a class"
    return "mixed: " + ", ".join(f"{text} ({count} classes)" for text, count in counts.most_common())


def checked_embeddings(embeddings: ArrayLike, name: str = "embeddings") -> np.ndarray:
    embeddings = np.asarray(embeddings)
    if embeddings.ndim != 2 or embeddings.shape[1] == 0:
        raise ValueError(f"{name} must have shape (segments, dim) with dim >= 1, got {embeddings.shape}.")
    # Both pass NaN on, and no array of the size of `embeddings` is made.
    broken = ~(np.isfinite(embeddings.min(axis=1)) & np.isfinite(embeddings.max(axis=1)))
    if broken.any():
        raise ValueError(
            f"{name} must be finite, got NaN or infinity in {broken.sum()} of {len(broken)} rows, "
            f"first in row {broken.argmax()}; drop those segments or mend the model."
        )
    return embeddings
