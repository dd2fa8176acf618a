"""The nearest segments by the cosine distance of their embeddings, and what they say of a segment's class."""

import dataclasses
import math

import numpy as np
from numpy.typing import ArrayLike

from tfsound.metrics.query_by_example import (
    DISTANCE_DECIMALS,
    checked_embeddings,
    cosine_distances,
    unit_rows,
)

# Segments that queries are compared with at a time.
_BLOCK_SEGMENTS = 65536


def nearest_neighbors(
    embeddings: ArrayLike, queries: ArrayLike, k: int, *, block_size: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the k segments at the smallest cosine distance from each query, nearest first.

    Of equally near segments the lower index comes first. A query given by index is never its own neighbour
    (an equal row elsewhere may be).

    Args:
        embeddings: real, (segments, dim).
        queries: int, (queries,), rows of `embeddings`; or real, (queries, dim), vectors of their own.
        k: neighbours a query; at most `segments`, one less for queries by index.
        block_size: queries at a time. Beside its input and result it takes about
            `8 * (2 * block_size + dim) * min(segments, 65536)` bytes.

    Returns:
        indices int64 and cosine distances float64, both (queries, k).

    Raises:
        ValueError: if shapes, dtypes, indices, k or the block size do not fit, or a value is not finite.
    """
    embeddings = checked_embeddings(embeddings)
    queries = np.asarray(queries)
    by_index = queries.ndim == 1 and (queries.size == 0 or np.issubdtype(queries.dtype, np.integer))
    if by_index:
        queries = queries.astype(np.int64)
        outside = (queries < 0) | (queries >= len(embeddings))
        if outside.any():
            raise ValueError(f"query indices must be in [0, {len(embeddings)}), got {queries[outside][0]}.")
    else:
        queries = checked_embeddings(queries, name="queries")
        if queries.shape[1] != embeddings.shape[1]:
            raise ValueError(f"queries must have dim {embeddings.shape[1]}, got {queries.shape[1]}.")
    most = len(embeddings) - 1 if by_index else len(embeddings)
    if not 0 <= k <= most:
        raise ValueError(f"k must be in [0, {most}] with {len(embeddings)} segments, got {k}.")
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1, got {block_size}.")
    indices = np.zeros((len(queries), k), np.int64)
    distances = np.full((len(queries), k), np.inf)
    for start in range(0, len(queries) if k else 0, block_size):
        rows = slice(start, start + block_size)
        for first in range(0, len(embeddings), _BLOCK_SEGMENTS):
            numbers, block_distances = _block_distances(embeddings, queries[rows], first, by_index)
            for row, candidates in enumerate(block_distances, start):
                # Those of earlier blocks come first, as they do among equals.
                candidates = np.concatenate([distances[row], candidates])
                chosen = _smallest(candidates, k)
                indices[row] = np.concatenate([indices[row], numbers])[chosen]
                distances[row] = candidates[chosen]
    return indices, distances


@dataclasses.dataclass(frozen=True)
class WeightedKnnResult:
    """How often the nearest segments tell the class of a query.

    Attributes:
        accuracy: share of the queries whose class is told, in [0, 1]; nan without queries.
        k: neighbours that vote.
        temperature: tau of their weights.
        num_queries: queries asked for.
        num_segments: segments that they were compared with.
    """

    accuracy: float
    k: int
    temperature: float
    num_queries: int
    num_segments: int

    def __str__(self) -> str:
        return (
            f"accuracy {self.accuracy:.3f} (weighted {self.k} nearest neighbours, tau {self.temperature:g}; "
            f"{self.num_queries} queries, {self.num_segments} segments)"
        )


def weighted_knn(
    embeddings: ArrayLike,
    labels: ArrayLike,
    queries: ArrayLike,
    *,
    k: int = 5,
    temperature: float = 0.4,
    block_size: int = 256,
) -> np.ndarray:
    """Tells the class of each query by its k nearest segments, which vote with `exp(cosine / temperature)`.

    The class of the most votes wins, and of classes with as many votes (rounded to `DISTANCE_DECIMALS` of
    the largest vote that a neighbour has) the one that the nearest of their segments has. Of equally near
    segments the one of the lower index is nearer.

    Args:
        embeddings: real, (segments, dim), of segments whose class is known.
        labels: (segments,), their classes: ints, or strings.
        queries: as `nearest_neighbors`: vectors, or rows of `embeddings`, each told by the others.
        k: neighbours that vote, at least 1.
        temperature: tau, positive; the smaller, the more the nearest count.
        block_size: see `nearest_neighbors`.

    Returns:
        (queries,), of the dtype of `labels`.

    Raises:
        ValueError: as `nearest_neighbors`; labels of another shape, or a number out of range.

    Source: Wu et al. 2018, section 3.4; Hornauer et al. 2021, section 4 (k is 5).
    """
    embeddings, labels = np.asarray(embeddings), np.asarray(labels)
    if labels.shape != embeddings.shape[:1]:
        raise ValueError(
            "labels must be (segments,), one for each of the embeddings, got shapes "
            f"{labels.shape} and {embeddings.shape}."
        )
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}.")
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive and finite, got {temperature}.")
    indices, distances = nearest_neighbors(embeddings, queries, k, block_size=block_size)
    # All votes of a query are divided by its largest, so that none overflows.
    with np.errstate(over="ignore"):
        votes = np.exp((distances[:, :1] - distances) / temperature)
    winners = [_winner(labels[row], row_votes) for row, row_votes in zip(indices, votes, strict=True)]
    return labels[np.take_along_axis(indices, np.array(winners, np.int64).reshape(-1, 1), axis=1)[:, 0]]


def weighted_knn_accuracy(
    embeddings: ArrayLike,
    labels: ArrayLike,
    queries: ArrayLike,
    query_labels: ArrayLike,
    *,
    k: int = 5,
    temperature: float = 0.4,
    block_size: int = 256,
) -> WeightedKnnResult:
    """How often `weighted_knn` is right. Arguments and errors are its own, and:

    Args:
        query_labels: (queries,), the classes of the queries; of queries by index `labels[queries]`.
    """
    predicted = weighted_knn(embeddings, labels, queries, k=k, temperature=temperature, block_size=block_size)
    query_labels = np.asarray(query_labels)
    if query_labels.shape != predicted.shape:
        raise ValueError(
            f"query_labels must be ({len(predicted)},), one a query, got shape {query_labels.shape}."
        )
    accuracy = float((predicted == query_labels).mean()) if len(predicted) else math.nan
    return WeightedKnnResult(accuracy, k, temperature, len(predicted), len(np.asarray(labels)))


def _winner(classes: np.ndarray, votes: np.ndarray) -> int:
    """The first of the neighbours, nearest first, that have the class of the most votes."""
    _, firsts, places = np.unique(classes, return_index=True, return_inverse=True)
    totals = np.round(np.bincount(places, weights=votes), DISTANCE_DECIMALS)
    return firsts[totals == totals.max()].min()


def _block_distances(
    embeddings: np.ndarray, queries: np.ndarray, first: int, by_index: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Segments from `first` on, (block,), and their distances, (queries, block), infinite from themselves."""
    segments = embeddings[first : first + _BLOCK_SEGMENTS]
    distances = cosine_distances(unit_rows(embeddings[queries] if by_index else queries), unit_rows(segments))
    if by_index:
        is_here = (first <= queries) & (queries < first + len(segments))
        distances[is_here, queries[is_here] - first] = np.inf
    return np.arange(first, first + len(segments)), distances


def _smallest(values: np.ndarray, k: int) -> np.ndarray:
    """Returns the indices of the k smallest values in ascending order, the lower index first among equals."""
    threshold = np.partition(values, k - 1)[k - 1]
    candidates = np.flatnonzero(values <= threshold)
    return candidates[np.argsort(values[candidates], kind="stable")[:k]]
