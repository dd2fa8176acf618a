"""Scores of sound embeddings: NumPy in, numbers out.

Task: say how well distances between embeddings agree with what people hear in the segments, without training
anything (query by example), or how well a classifier's scores do, and put either between a baseline and a
topline.

Conventions
    `embeddings`: real, (segments, dim), one row a segment (the mean of its window embeddings). Lengths do not
    matter: every distance is the cosine distance 1 - cos(a, b), in [0, 2]. A zero row has no direction; its
    distance to every row, itself included, is 1.
    `labels`: bool, (segments, classes), many labels a segment allowed.
    Distances are computed in float64 and rounded to `DISTANCE_DECIMALS`, so that distances which are equal on
    paper are equal here, whatever the order of the rows or the number of threads.
    Randomness is a `numpy.random.Generator` passed in.
    What cannot be scored is nan and is counted; input that makes no sense is a `ValueError`.

Metrics
    `average_precision`: one ranking of targets among non-targets.
    `mean_average_precision`: multi-label classification, mean over classes.
    `query_by_example_map`: segment retrieval, mean over classes.
    `recovery`: share of the gap between baseline and topline.
    `mean_and_spread`: a score over folds or draws.
    `nearest_neighbors`: the segments nearest to a segment or a vector, to look at and listen to.

References
    Jansen et al., "Unsupervised learning of semantic audio representations", ICASSP 2018, sections 4.3, 4.4.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from threadpoolctl import threadpool_limits

# Float64 sums of a few thousand products agree to about 1e-15 and float32 embeddings carry about 1e-7:
# rounding here joins what only the order of summation told apart, and nothing that the data tells apart.
DISTANCE_DECIMALS = 12


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
    return _mean_precision(-scores[targets], -scores[~targets])


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
    labels = _checked_labels(labels, len(scores) if scores.ndim else 0, class_names)
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
            per_class[index] = _mean_precision(-column[targets], -column[~targets])
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
class QueryByExampleResult:
    """Retrieval scores of one set of embeddings; arrays are (classes,), in the order of the label columns.

    Attributes:
        mean: mAP, the mean of `per_class` over the classes that could be scored; nan when there is none.
        per_class: average precision a class, nan with fewer than 2 segments present or none absent.
        chance: mean over the scored classes of targets / (targets + non-targets), the precision of a random
            ranking. With few pairs, the average precision of random rankings lies a little above it.
        num_present: segments used a class where it is present.
        num_absent: segments used a class where it is not.
        protocol: what was compared, in words: "100 + 100 a class", "all pairs", or "mixed: ...".
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
) -> QueryByExampleResult:
    """Measures whether two segments of a class are nearer than one of the class and one that is not.

    Per class, `num_present` segments where it is present and `num_absent` where it is not are drawn without
    replacement. The pairs within the first set (4,950) are targets, the pairs between the sets (10,000)
    non-targets; all are ranked by ascending cosine distance. The score is the mean over classes of the
    average precision. A class with fewer segments than asked for uses all it has. The draws depend on
    `labels` and `rng` only, so generators of equal seed compare representations on the same pairs.

    Source: Jansen et al. 2018, section 4.3 (chance 0.33, log mel baseline 0.423, supervised topline 0.790).

    Args:
        embeddings: real, (segments, dim). One class at a time is turned to float64.
        labels: bool, (segments, classes).
        num_present: at least 2.
        num_absent: at least 1. A class takes about 32 bytes of memory a pair.
        rng: draws the segments; None means `numpy.random.default_rng(0)`.
        class_names: (classes,), kept with the result.

    Raises:
        ValueError: if shapes or dtypes are not as above, an embedding is not finite, or a number too small.
    """
    embeddings = _checked_embeddings(embeddings)
    labels = _checked_labels(labels, len(embeddings), class_names)
    if num_present < 2 or num_absent < 1:
        raise ValueError(
            f"num_present must be at least 2 and num_absent at least 1, got {num_present} and {num_absent}; "
            "a pair within the class and a pair across are needed."
        )
    if rng is None:
        rng = np.random.default_rng(0)
    available = np.stack([labels.sum(axis=0), (~labels).sum(axis=0)])
    used = np.minimum(available, np.array([[num_present], [num_absent]]))
    per_class = np.full(labels.shape[1], np.nan)
    scored = (used[0] >= 2) & (used[1] >= 1)
    # The products are small: several threads spend longer waiting for each other than multiplying.
    with threadpool_limits(1, user_api="blas"):
        for index in np.flatnonzero(scored):
            present = _draw(np.flatnonzero(labels[:, index]), num_present, rng)
            absent = _draw(np.flatnonzero(~labels[:, index]), num_absent, rng)
            per_class[index] = _pair_average_precision(embeddings[present], embeddings[absent])
    num_targets = used[0] * (used[0] - 1) / 2
    chance = num_targets[scored] / (num_targets + used[0] * used[1])[scored]
    return QueryByExampleResult(
        mean=float(per_class[scored].mean()) if scored.any() else float("nan"),
        per_class=per_class,
        chance=float(chance.mean()) if scored.any() else float("nan"),
        num_present=used[0],
        num_absent=used[1],
        protocol=_describe_protocol(available[:, scored], num_present, num_absent),
        num_classes_scored=int(scored.sum()),
        class_names=None if class_names is None else tuple(class_names),
    )


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


def nearest_neighbors(
    embeddings: ArrayLike, queries: ArrayLike, k: int, *, block_size: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the k segments at the smallest cosine distance from each query, nearest first.

    Of equally near segments the lower index comes first. A query given by index is never its own neighbour
    (an equal row elsewhere may be).

    Args:
        embeddings: real, (segments, dim); held once more in float64.
        queries: int, (queries,), rows of `embeddings`; or real, (queries, dim), vectors of their own.
        k: neighbours a query; at most `segments`, one less for queries by index.
        block_size: queries at a time; bounds memory at about 16 * block_size * segments bytes.

    Returns:
        indices int64 and cosine distances float64, both (queries, k).

    Raises:
        ValueError: if shapes, dtypes, indices or k do not fit, or a value is not finite.
    """
    embeddings = _checked_embeddings(embeddings)
    queries = np.asarray(queries)
    by_index = queries.ndim == 1 and (queries.size == 0 or np.issubdtype(queries.dtype, np.integer))
    if by_index:
        queries = queries.astype(np.int64)
        outside = (queries < 0) | (queries >= len(embeddings))
        if outside.any():
            raise ValueError(f"query indices must be in [0, {len(embeddings)}), got {queries[outside][0]}.")
    else:
        queries = _checked_embeddings(queries, name="queries")
        if queries.shape[1] != embeddings.shape[1]:
            raise ValueError(f"queries must have dim {embeddings.shape[1]}, got {queries.shape[1]}.")
    most = len(embeddings) - 1 if by_index else len(embeddings)
    if not 0 <= k <= most:
        raise ValueError(f"k must be in [0, {most}] with {len(embeddings)} segments, got {k}.")
    units = _unit_rows(embeddings)
    indices = np.zeros((len(queries), k), np.int64)
    distances = np.zeros((len(queries), k))
    for start in range(0, len(queries) if k else 0, block_size):
        block = queries[start : start + block_size]
        block_distances = _cosine_distances(units[block] if by_index else _unit_rows(block), units)
        if by_index:
            block_distances[np.arange(len(block)), block] = np.inf
        for row, candidates in enumerate(block_distances, start):
            indices[row] = _smallest(candidates, k)
            distances[row] = candidates[indices[row]]
    return indices, distances


def _smallest(values: np.ndarray, k: int) -> np.ndarray:
    """Returns the indices of the k smallest values in ascending order, the lower index first among equals."""
    threshold = np.partition(values, k - 1)[k - 1]
    candidates = np.flatnonzero(values <= threshold)
    return candidates[np.argsort(values[candidates], kind="stable")[:k]]


def _pair_average_precision(present: np.ndarray, absent: np.ndarray) -> float:
    """Ranks the pairs within `present` against the pairs between `present` and `absent`."""
    present, absent = _unit_rows(present), _unit_rows(absent)
    target_distances = _cosine_distances(present, present)[np.triu_indices(len(present), k=1)]
    return _mean_precision(target_distances, _cosine_distances(present, absent).ravel())


def _mean_precision(target_distances: np.ndarray, nontarget_distances: np.ndarray) -> float:
    """Averages, over targets, the share of targets among all items that are no farther."""
    targets, nontargets = np.sort(target_distances), np.sort(nontarget_distances)
    num_targets = np.searchsorted(targets, targets, side="right")
    num_nontargets = np.searchsorted(nontargets, targets, side="right")
    return float(np.mean(num_targets / (num_targets + num_nontargets)))


def _unit_rows(rows: np.ndarray) -> np.ndarray:
    """Scales rows to length 1 in float64; zero rows stay zero."""
    rows = rows.astype(np.float64)
    largest = np.abs(rows).max(axis=1, keepdims=True)
    rows /= np.where(largest > 0, largest, 1)  # first, so that squares neither overflow nor vanish
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows /= np.where(lengths > 0, lengths, 1)
    return rows


def _cosine_distances(units_a: np.ndarray, units_b: np.ndarray) -> np.ndarray:
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


def _checked_embeddings(embeddings: ArrayLike, name: str = "embeddings") -> np.ndarray:
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


def _checked_labels(labels: ArrayLike, num_segments: int, class_names: Sequence[str] | None) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.dtype != bool or labels.ndim != 2 or len(labels) != num_segments:
        raise ValueError(
            f"labels must be bool (segments, classes) with {num_segments} segments, got {labels.dtype} "
            f"{labels.shape}; turn class indices into rows with labels[:, None] == np.arange(num_classes)."
        )
    if class_names is not None and len(class_names) != labels.shape[1]:
        raise ValueError(f"class_names must be {labels.shape[1]}, one a column, got {len(class_names)}.")
    return labels
