"""k-means, centres and distances of clusters, farthest-first order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfsound import active_learning as al
from tfsound import metrics
from tfsound.active_learning import clustering


def blobs(num_clusters=5, size=20, dim=8, seed=0):
    """Unit vectors around axes, at various lengths, and which axis each is near."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(num_clusters), size)
    points = np.eye(dim)[truth] + rng.normal(0, 0.05, (len(truth), dim))
    return (points * rng.uniform(0.1, 10, (len(truth), 1))).astype(np.float32), truth


@pytest.mark.parametrize("most_products", [4e9, 0])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_k_means_finds_what_lies_apart(monkeypatch, most_products, dtype):
    monkeypatch.setattr(clustering, "_MOST_LLOYD_PRODUCTS", most_products)
    points, truth = blobs()
    found = al.k_means(points.astype(dtype), 5, seed=3)
    assert found.dtype == np.int32
    assert metrics.v_measure(truth, found) == pytest.approx(1.0)
    np.testing.assert_array_equal(found, al.k_means(points.astype(dtype), 5, seed=3))


def test_one_cluster_as_many_as_windows_and_equal_windows():
    points, _ = blobs(size=2)
    assert al.k_means(points, 1).tolist() == [0] * 10
    assert len(set(al.k_means(points, 10).tolist())) == 10
    # Where fewer embeddings differ than there are clusters, some clusters have no member.
    assert len(set(al.k_means(np.ones((6, 3), np.float32), 4).tolist())) == 1
    assert al.k_means(np.zeros((3, 2), np.float32), 2).shape == (3,)


@pytest.mark.parametrize(
    ("embeddings", "num_clusters", "message"),
    [
        (np.ones((3, 2), np.float32), 0, "num_clusters must be from 1 to the number of windows, 3, got 0"),
        (np.ones((3, 2), np.float32), 4, "from 1 to the number of windows, 3, got 4"),
        (np.full((3, 2), np.nan, np.float32), 1, "must be finite, got NaN"),
        (np.ones((3, 2), int), 1, r"must be float, \(windows, dim\), got int64"),
        (np.ones((0, 2), np.float32), 1, r"got float32 \(0, 2\)"),
        (np.ones(3, np.float32), 1, r"got float32 \(3,\)"),
    ],
)
def test_k_means_refuses(embeddings, num_clusters, message):
    with pytest.raises(al.ActiveLearningError, match=message):
        al.k_means(embeddings, num_clusters)


def test_centres_and_distances_by_hand():
    embeddings = np.float32([[2, 0], [0, 5], [1, 0], [0, 0], [3, 4], [-3, -4]])
    found = al.clustering_of(embeddings, np.asarray([4, 4, 1, 1, 7, 7]), 9)
    assert (found.num_clusters, found.num_active) == (9, 3)
    assert found.active.tolist() == [1, 4, 7]
    assert found.sizes.tolist() == [2, 2, 2]
    root = np.sqrt(0.5)
    # Cluster 7 holds opposite directions, so that it has no mean direction.
    np.testing.assert_allclose(found.centres, [[1, 0], [root, root], [0, 0]], atol=1e-6)
    np.testing.assert_allclose(found.distances, [1 - root, 1 - root, 0, 1, 1, 1], atol=1e-6)


@pytest.mark.parametrize(
    ("assignments", "num_clusters", "message"),
    [
        ([0, 1], 0, r"assignments must be int \(3,\), a cluster for each window, got int64 \(2,\)"),
        ([0.0, 1.0, 1.0], 0, "got float64"),
        ([0, 1, 3], 3, r"must be in \[0, 3\), got 0 to 3"),
        ([-1, 0, 0], 0, "got -1 to 0"),
    ],
)
def test_assignments_that_do_not_fit(assignments, num_clusters, message):
    with pytest.raises(al.ActiveLearningError, match=message):
        al.clustering_of(np.ones((3, 2), np.float32), np.asarray(assignments), num_clusters)


def test_clusters_of_many_blocks_agree_with_a_naive_loop(monkeypatch):
    monkeypatch.setattr(clustering, "_BLOCK_ROWS", 7)
    rng = np.random.default_rng(0)
    embeddings, clusters = rng.normal(size=(50, 4)), rng.integers(0, 6, 50)
    found = al.clustering_of(embeddings, clusters)
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    for row, cluster in enumerate(found.active):
        mean = units[clusters == cluster].mean(axis=0)
        centre = mean / np.linalg.norm(mean)
        np.testing.assert_allclose(found.centres[row], centre, atol=1e-5)
        np.testing.assert_allclose(
            found.distances[clusters == cluster], 1 - units[clusters == cluster] @ centre, atol=1e-5
        )


def test_farthest_first_by_hand():
    angles = np.deg2rad([0, 10, 90, 180, 100])
    centres = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    none = np.zeros(5, bool)
    # From 0: 180 is the farthest; then 90 (nearest chosen is 90 away); then 10 and 100 are both 10 away.
    assert clustering.farthest_first(centres, 5, 0, none).tolist() == [0, 3, 2, 1, 4]
    taken = np.asarray([True, False, False, False, False])
    assert clustering.farthest_first(centres, 2, -1, taken).tolist() == [3, 2]
    equal = np.ones((3, 1), np.float32)  # what was taken is not named again where all are equally far
    assert clustering.farthest_first(equal, 2, -1, np.asarray([True, False, False])).tolist() == [1, 2]


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 12), st.just(3)),
        elements=st.floats(-(2.0**100), 2.0**100, width=32),
    )
)
@settings(max_examples=80, deadline=None)
def test_unit_rows_have_length_one_or_zero(rows):
    lengths = np.linalg.norm(al.unit_rows(rows), axis=1)
    np.testing.assert_allclose(lengths, np.abs(rows).max(axis=1) > 0, atol=1e-5)
