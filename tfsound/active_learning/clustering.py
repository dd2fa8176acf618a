"""Clusters of windows: any assignment of embeddings to cluster numbers, and k-means as the baseline.

Embeddings are float, (windows, dim), an array or a `numpy.memmap`; they are compared by cosine, so their
lengths count for nothing, and rows of zeros are at distance 1 from everything.

Source: Jansen et al. 2020, sections 3.2 and 3.3.
"""

import dataclasses
import warnings
from collections.abc import Callable

import numpy as np
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from tfsound import sampling
from tfsound.records import ActiveLearningError

# embeddings, float32 (windows, dim) -> cluster numbers, int (windows,): a trained cluster head, for example
Assign = Callable[[np.ndarray], np.ndarray]

_BLOCK_ROWS = 8192
# Products of windows, clusters and dimensions up to which Lloyd's algorithm on all windows takes a minute or
# two.
_MOST_LLOYD_PRODUCTS = 4e9
# Beyond it the careful choice of first centres (k-means++) takes longer than what follows.
_MOST_CAREFUL_CLUSTERS = 1000


@dataclasses.dataclass(frozen=True, eq=False)
class Clustering:
    """Which window is in which cluster.

    Attributes:
      assignments: int32, (windows,), in [0, num_clusters).
      distances: float32, (windows,), the cosine distance to the centre of its cluster.
      num_clusters: K; clusters without a member count.
      active: int32, (active,), the clusters that have a member, ascending.
      sizes: int64, (active,), how many windows each of these has.
      centres: float32, (active, dim), the mean direction of its members; of unit length, or zero.
    """

    assignments: np.ndarray
    distances: np.ndarray
    num_clusters: int
    active: np.ndarray
    sizes: np.ndarray
    centres: np.ndarray

    @property
    def num_active(self) -> int:
        return len(self.active)


def unit_rows(embeddings: np.ndarray) -> np.ndarray:
    """Rows of length 1; rows of zeros stay zero.

    Args:
      embeddings: real, (windows, dim), of any length.

    Returns:
      float32, (windows, dim).

    Raises:
      ActiveLearningError: NaN or infinity.
    """
    rows = np.asarray(embeddings, np.float64)
    if not np.isfinite(rows).all():
        raise ActiveLearningError(
            "embeddings must be finite, got NaN or infinity; the encoder may have diverged: train it again."
        )
    # Scaled first, so that squares neither overflow nor vanish.
    largest = np.abs(rows).max(axis=1, initial=0, keepdims=True)
    rows = rows / np.where(largest > 0, largest, 1)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def require_embeddings(embeddings: np.ndarray) -> np.ndarray:
    """Raises: ActiveLearningError unless embeddings are real numbers, (windows, dim), at least one window."""
    embeddings = np.asanyarray(embeddings)
    if embeddings.ndim != 2 or embeddings.dtype.kind != "f" or 0 in embeddings.shape:
        raise ActiveLearningError(
            f"embeddings must be float, (windows, dim), got {embeddings.dtype} {embeddings.shape}."
        )
    return embeddings


def k_means(embeddings: np.ndarray, num_clusters: int, *, seed: int = 0) -> np.ndarray:
    """Clusters unit embeddings by k-means, the baseline that a cluster head is compared with.

    Lloyd's algorithm on all windows where that is quick, else on mini-batches; the result depends on the
    order of the windows. Where fewer than `num_clusters` embeddings differ, some clusters have no member.

    Args:
      embeddings: float, (windows, dim).
      num_clusters: K, from 1 to the number of windows.
      seed: of the first centres.

    Returns:
      int32, (windows,), in [0, num_clusters).

    Raises:
      ActiveLearningError: K out of range, embeddings that cannot be used.
    """
    embeddings = require_embeddings(embeddings)
    num_windows, dim = embeddings.shape
    if not 1 <= num_clusters <= num_windows:
        raise ActiveLearningError(
            f"num_clusters must be from 1 to the number of windows, {num_windows}, got {num_clusters}."
        )
    units = _all_unit_rows(embeddings)
    options = {
        "n_clusters": num_clusters,
        "n_init": 1,
        "init": "k-means++" if num_clusters <= _MOST_CAREFUL_CLUSTERS else "random",
        "random_state": sampling.stable_hash(seed, "k-means") % 2**32,
    }
    if num_windows * num_clusters * dim <= _MOST_LLOYD_PRODUCTS:
        model = KMeans(**options, copy_x=False)
    else:
        batch_size = min(num_windows, max(4096, 4 * num_clusters))
        model = MiniBatchKMeans(**options, batch_size=batch_size, max_iter=10, compute_labels=False)
    # One thread: several would add up in an order that changes from run to run.
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # equal embeddings: empty clusters are counted
        model.fit(units)
        parts = [model.predict(np.ascontiguousarray(units[block])) for block in _blocks(num_windows)]
    return np.concatenate(parts).astype(np.int32)


def _all_unit_rows(embeddings: np.ndarray) -> np.ndarray:
    """`unit_rows` a block at a time: float32 once, whatever was given."""
    units = np.empty(embeddings.shape, np.float32)
    for block in _blocks(len(embeddings)):
        units[block] = unit_rows(embeddings[block])
    return units


def _blocks(num_rows: int) -> list[slice]:
    return [slice(start, start + _BLOCK_ROWS) for start in range(0, num_rows, _BLOCK_ROWS)]


def mean_directions(embeddings: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The mean of unit embeddings over each group, such as a cluster or a clip.

    Args:
      embeddings: float, (windows, dim).
      groups: int, (windows,), from 0; each has a window.

    Returns:
      float32, (groups, dim); of unit length, or zero where opposite members cancel out.
    """
    sizes = np.bincount(groups)
    sums = np.zeros((len(sizes), embeddings.shape[1]))
    for block in _blocks(len(embeddings)):
        np.add.at(sums, groups[block], unit_rows(embeddings[block]))
    return unit_rows(np.where(np.abs(sums) < 1e-12 * sizes[:, None], 0, sums))


def require_assignments(assignments: np.ndarray, num_windows: int) -> np.ndarray:
    """Raises: ActiveLearningError unless these are numbers of clusters, int (windows,)."""
    assignments = np.asarray(assignments)
    if assignments.shape != (num_windows,) or assignments.dtype.kind not in "iu":
        raise ActiveLearningError(
            f"assignments must be int ({num_windows},), a cluster for each window, got "
            f"{assignments.dtype} {assignments.shape}."
        )
    return assignments


def clustering_of(embeddings: np.ndarray, assignments: np.ndarray, num_clusters: int = 0) -> Clustering:
    """The centres, sizes and distances of an assignment, whatever made it.

    Args:
      embeddings: float, (windows, dim).
      assignments: int, (windows,).
      num_clusters: K; by default the largest number that occurs, and one.

    Returns:
      The clustering, windows in the order in which they were given.

    Raises:
      ActiveLearningError: assignments that do not fit the embeddings or are out of range.
    """
    embeddings = require_embeddings(embeddings)
    assignments = require_assignments(assignments, len(embeddings))
    num_clusters = num_clusters or int(assignments.max()) + 1
    if assignments.min() < 0 or assignments.max() >= num_clusters:
        raise ActiveLearningError(
            f"assignments must be in [0, {num_clusters}), got {assignments.min()} to {assignments.max()}."
        )
    active, rows, sizes = np.unique(assignments, return_inverse=True, return_counts=True)
    centres = mean_directions(embeddings, rows)
    distances = np.empty(len(embeddings), np.float32)
    for block in _blocks(len(embeddings)):
        similarities = np.einsum("nd,nd->n", unit_rows(embeddings[block]), centres[rows[block]])
        distances[block] = 1 - similarities
    return Clustering(
        assignments=assignments.astype(np.int32),
        distances=distances,
        num_clusters=num_clusters,
        active=active.astype(np.int32),
        sizes=sizes,
        centres=centres,
    )


def farthest_first(centres: np.ndarray, num_wanted: int, first: int, taken: np.ndarray) -> np.ndarray:
    """Orders centres so that each is the farthest from all before it; of equally far ones the lowest row.

    Time: `num_wanted` products of all centres with one.

    Args:
      centres: float32, (clusters, dim), unit rows.
      num_wanted: how many to name, at most the rows not taken.
      first: the row to begin with; -1 begins with the farthest from those taken.
      taken: bool, (clusters,), rows that count as chosen before.

    Returns:
      int64, (num_wanted,), rows of `centres`.
    """
    nearest = np.full(len(centres), np.inf, np.float32)  # distance to the nearest chosen one
    for row in np.flatnonzero(taken):
        np.minimum(nearest, _rounded_distances(centres, row), out=nearest)
    nearest[taken] = -np.inf
    chosen = []
    while len(chosen) < num_wanted:
        row = first if first >= 0 and not chosen else int(nearest.argmax())
        chosen.append(row)
        np.minimum(nearest, _rounded_distances(centres, row), out=nearest)
        nearest[row] = -np.inf
    return np.asarray(chosen, np.int64)


def _rounded_distances(centres: np.ndarray, row: int) -> np.ndarray:
    """Rounded, so that sums in another order do not change which of equally far centres comes first."""
    return np.round(1 - centres @ centres[row], 5)
