"""Retrieval by scores of pairs: what belongs to a query, among candidates of any kind.

The candidates of a query are ranked by descending score; its rank is that of the first that belongs to it.
Ties are taken in expectation: as if equal scores were put in a random order. So a score that is always the
same is at chance exactly, and the order of the candidates never matters.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike


@dataclasses.dataclass(frozen=True)
class RetrievalResult:
    """Retrieval scores of one set of queries.

    Attributes:
        recall: by k, the share of queries of which one of the k candidates ranked first belongs to the query.
        median_rank: the median over queries of the rank of the first that does, 1 for the first.
        chance_recall: by k, what a random order gives.
        chance_median_rank: what a random order gives, query by query its expected rank.
        num_queries: queries scored.
        num_unanswerable: queries to which no candidate belongs, left out.
        num_candidates: all candidates.
    """

    recall: dict[int, float]
    median_rank: float
    chance_recall: dict[int, float]
    chance_median_rank: float
    num_queries: int
    num_unanswerable: int
    num_candidates: int

    def __str__(self) -> str:
        recalls = ", ".join(
            f"recall at {k} {value:.3f} (chance {self.chance_recall[k]:.3f})"
            for k, value in self.recall.items()
        )
        return (
            f"{recalls}, median rank {self.median_rank:g} (chance {self.chance_median_rank:g}); "
            f"{self.num_queries} queries, {self.num_candidates} candidates"
        )


def retrieval(
    scores: ArrayLike | Callable[[slice], ArrayLike],
    query_keys: ArrayLike,
    candidate_keys: ArrayLike,
    *,
    ks: Sequence[int] = (1, 5, 10),
    block_size: int = 256,
) -> RetrievalResult:
    """Measures how far up a query's own candidates are ranked among all.

    A candidate belongs to a query where their keys are equal: numbers of pairs, recordings or classes.

    Args:
        scores: real, (queries, candidates), higher ranks first; or a function that gives the rows of a slice
            of the queries, so that not all need be in memory.
        query_keys: integers or strings, (queries,).
        candidate_keys: the same, (candidates,).
        ks: how many candidates are looked at; any number up to and beyond all of them.
        block_size: queries at a time.

    Returns:
        Scores, nan where no query can be answered.

    Raises:
        ValueError: shapes that do not fit, no candidate, a k below 1, or a NaN score.
    """
    query_keys, candidate_keys = np.asarray(query_keys), np.asarray(candidate_keys)
    if query_keys.ndim != 1 or candidate_keys.ndim != 1 or not len(candidate_keys):
        raise ValueError(
            "query_keys must have shape (queries,) and candidate_keys (candidates,), at least one, got "
            f"{query_keys.shape} and {candidate_keys.shape}."
        )
    if not ks or min(ks) < 1 or block_size < 1:
        raise ValueError(f"ks and block_size must be at least 1, got {list(ks)} and {block_size}.")
    rows_of = scores if callable(scores) else np.asarray(scores).__getitem__
    shape = (len(query_keys), len(candidate_keys))
    if not callable(scores) and np.shape(scores) != shape:
        raise ValueError(f"scores must have shape (queries, candidates), {shape}, got {np.shape(scores)}.")
    # By query: candidates that rank above its first own one, others beside it, own ones beside it, own ones.
    counts = np.zeros((4, len(query_keys)), np.int64)
    for start in range(0, len(query_keys), block_size):
        block = slice(start, min(start + block_size, len(query_keys)))
        rows = np.asarray(rows_of(block))
        rows = rows if np.issubdtype(rows.dtype, np.floating) else rows.astype(np.float64)
        if rows.shape != (block.stop - start, len(candidate_keys)):
            raise ValueError(
                f"scores of {block.stop - start} queries must have shape "
                f"{(block.stop - start, len(candidate_keys))}, got {rows.shape}."
            )
        broken = np.isnan(rows).any(axis=1)
        if broken.any():
            raise ValueError(f"scores must not be NaN, got NaN first for query {start + broken.argmax()}.")
        counts[:, block] = _counts(rows, query_keys[block, None] == candidate_keys)
    return _result(counts, len(candidate_keys), ks)


def _counts(rows: np.ndarray, is_own: np.ndarray) -> tuple[np.ndarray, ...]:
    """(above, others beside, own beside, own) of each query: see `retrieval`; nothing where it has none."""
    num_own = is_own.sum(axis=1)
    best = np.where(is_own, rows, -np.inf).max(axis=1, keepdims=True)
    beside = rows == best
    return (rows > best).sum(axis=1), (beside & ~is_own).sum(axis=1), (beside & is_own).sum(axis=1), num_own


def _result(counts: np.ndarray, num_candidates: int, ks: Sequence[int]) -> RetrievalResult:
    answerable = counts[3] > 0
    above, others_beside, own_beside, own = counts[:, answerable]
    num_queries = int(answerable.sum())
    nothing = np.zeros_like(above)
    return RetrievalResult(
        recall={k: _mean(_recall(k, above, others_beside, own_beside)) for k in ks},
        median_rank=_median(_expected_rank(above, others_beside, own_beside)),
        chance_recall={k: _mean(_recall(k, nothing, num_candidates - own, own)) for k in ks},
        chance_median_rank=_median(_expected_rank(nothing, num_candidates - own, own)),
        num_queries=num_queries,
        num_unanswerable=len(answerable) - num_queries,
        num_candidates=num_candidates,
    )


def _recall(k: int, above: np.ndarray, others: np.ndarray, own: np.ndarray) -> np.ndarray:
    """The chance that one of `own` is among the first k, where `above` come first and the rest is shuffled.

    1 - C(others, n) / C(others + own, n), n = k - above: of what is left of the k, that all are others.
    """
    num_left = np.clip(k - above, 0, others + own)
    all_others = np.ones(len(above))
    for step in range(int(num_left.max(initial=0))):
        left = np.maximum(others - step, 0) / np.maximum(others + own - step, 1)
        all_others *= np.where(step < num_left, left, 1)
    return 1 - all_others


def _expected_rank(above: np.ndarray, others: np.ndarray, own: np.ndarray) -> np.ndarray:
    """The first of `own` among as many `others` in a random order comes at (others + own + 1) / (own + 1)."""
    return above + (others + own + 1) / (own + 1)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else float("nan")


def retrieval_among_classes(
    scores: ArrayLike,
    query_classes: ArrayLike,
    candidate_classes: ArrayLike,
    query_groups: ArrayLike,
    candidate_groups: ArrayLike,
    *,
    num_draws: int = 10,
    rng: np.random.Generator | None = None,
) -> list[RetrievalResult]:
    """Measures whether the candidate of the query's class is the best among one of each class.

    For each query one candidate of each class is drawn, of another group than the query's (another
    recording), so that nothing but the class tells. Chance of recall at 1 is 1 / number of classes.

    Classes that have no candidates in two groups are left out, and their queries are not answerable.

    Args:
        scores: real, (queries, candidates), higher ranks first.
        query_classes, candidate_classes: integers or strings, (queries,) and (candidates,).
        query_groups, candidate_groups: the same, of what a query's candidates must not share with it.
        num_draws: how often candidates are drawn, for a spread.
        rng: draws them; None means `numpy.random.default_rng(0)`.

    Returns:
        The result of each draw, with recall at 1.

    Raises:
        ValueError: shapes that do not fit, fewer than two classes with candidates in two groups, a number of
            draws below 1, or a NaN score.
    """
    scores = np.asarray(scores)
    queries = np.asarray(query_classes), np.asarray(query_groups)
    candidates = np.asarray(candidate_classes), np.asarray(candidate_groups)
    wanted = queries[0].shape + candidates[0].shape
    if scores.shape != wanted or any(a.shape != b.shape or a.ndim != 1 for a, b in (queries, candidates)):
        raise ValueError(
            f"scores must have shape (queries, candidates), with a class and a group of each, got "
            f"{scores.shape}, {[part.shape for part in queries]} and {[part.shape for part in candidates]}."
        )
    if num_draws < 1:
        raise ValueError(f"num_draws must be at least 1, got {num_draws}.")
    if rng is None:
        rng = np.random.default_rng(0)
    columns = {name: np.flatnonzero(candidates[0] == name) for name in np.unique(candidates[0]).tolist()}
    columns = {
        name: own[np.argsort(candidates[1][own], kind="stable")]
        for name, own in columns.items()
        if len(np.unique(candidates[1][own])) > 1
    }
    if len(columns) < 2:
        raise ValueError(
            f"expected candidates of at least two classes, each in two groups, got {len(columns)} such "
            "classes; score more recordings."
        )
    numbers = {name: number for number, name in enumerate(columns)}
    keys = np.array([numbers.get(name, -1) for name in queries[0].tolist()])
    results = []
    for _ in range(num_draws):
        drawn = np.stack([_draw_outside(own, candidates[1], queries[1], rng) for own in columns.values()], 1)
        picked = np.take_along_axis(scores, drawn, axis=1)
        results.append(retrieval(picked, keys, np.arange(len(columns)), ks=(1,)))
    return results


def _draw_outside(
    columns: np.ndarray, candidate_groups: np.ndarray, query_groups: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """For each query one of the columns, sorted by group, that is not of its group; uniformly: (queries,)."""
    groups = candidate_groups[columns]
    first = groups.searchsorted(query_groups, side="left")
    num_own = groups.searchsorted(query_groups, side="right") - first
    drawn = rng.integers(0, len(columns) - num_own)
    return columns[np.where(drawn < first, drawn, drawn + num_own)]
