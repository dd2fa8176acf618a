"""Tests of weighted k nearest neighbours: by hand, against a double loop, ties, blocks, bad input."""

import collections
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from tfsound import metrics
from tfsound.metrics import neighbors

UNTIMED = settings(deadline=None, max_examples=80)


def naive_weighted_knn(embeddings, labels, queries, k, temperature):
    """A full sort for each query, and votes in a dictionary; queries are vectors, or rows left out."""
    predicted = []
    for query in queries:
        vector = embeddings[query] if np.ndim(query) == 0 else query
        distances = []
        for row in embeddings:
            lengths = np.linalg.norm(row) * np.linalg.norm(vector)
            distances.append(round(1 - float(row @ vector) / lengths, 12) if lengths else 1.0)
        order = sorted(range(len(embeddings)), key=lambda i: (distances[i], i))
        nearest = [i for i in order if np.ndim(query) or i != query][:k]
        votes, first = collections.Counter(), {}
        for place, i in enumerate(nearest):
            votes[labels[i]] += math.exp((distances[nearest[0]] - distances[i]) / temperature)
            first.setdefault(labels[i], place)
        most = max(round(value, 12) for value in votes.values())
        tied = [label for label, value in votes.items() if round(value, 12) == most]
        predicted.append(min(tied, key=first.get))
    return predicted


@st.composite
def cases(draw):
    """Rows of a lattice tie often, in distances and in votes."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    num_segments, dim = draw(st.integers(2, 25)), draw(st.integers(1, 4))
    if draw(st.booleans()):
        embeddings = rng.integers(-1, 2, (num_segments, dim)).astype(np.float64)
    else:
        embeddings = rng.normal(size=(num_segments, dim))
    labels = rng.integers(0, draw(st.integers(1, 5)), num_segments)
    if draw(st.booleans()):
        queries = rng.integers(0, num_segments, draw(st.integers(0, 12)))
    else:
        queries = rng.integers(-1, 2, (draw(st.integers(0, 12)), dim)).astype(np.float64)
    k = draw(st.integers(1, num_segments - 1))
    return embeddings, labels, queries, k, draw(st.sampled_from([0.01, 0.4, 100.0]))


@given(cases(), st.integers(1, 15), st.integers(1, 30))
@UNTIMED
def test_it_agrees_with_a_double_loop_in_any_blocks(case, block_size, block_segments):
    embeddings, labels, queries, k, temperature = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbors, "_BLOCK_SEGMENTS", block_segments)
        found = metrics.weighted_knn(
            embeddings, labels, queries, k=k, temperature=temperature, block_size=block_size
        )
        in_blocks = metrics.nearest_neighbors(embeddings, queries, k, block_size=block_size)
    assert found.tolist() == naive_weighted_knn(embeddings, labels, queries, k, temperature)
    for one, other in zip(in_blocks, metrics.nearest_neighbors(embeddings, queries, k), strict=True):
        np.testing.assert_array_equal(one, other)


@given(cases(), st.integers(0, 10**6))
@UNTIMED
def test_lengths_and_names_of_classes_do_not_matter(case, seed):
    embeddings, labels, queries, k, temperature = case
    rng = np.random.default_rng(seed)
    expected = metrics.weighted_knn(embeddings, labels, queries, k=k, temperature=temperature)
    names = np.array(["siren", "a", "dog bark", "rain", ""])
    scaled = embeddings * 2.0 ** rng.integers(-20, 20, (len(embeddings), 1))
    found = metrics.weighted_knn(scaled, names[labels], queries, k=k, temperature=temperature)
    assert found.tolist() == names[expected].tolist()
    assert found.dtype.kind == "U"


@given(st.integers(0, 10**6), st.integers(1, 9))
@settings(deadline=None, max_examples=20)
def test_it_agrees_with_scikit_learn_where_nothing_ties(seed, k):
    rng = np.random.default_rng(seed)
    embeddings, queries = rng.normal(size=(60, 5)), rng.normal(size=(30, 5))
    labels = rng.integers(0, 4, 60)
    judge = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distances: np.exp((1 - distances) / 0.4)
    ).fit(embeddings, labels)
    found = metrics.weighted_knn(embeddings, labels, queries, k=k)
    np.testing.assert_array_equal(found, judge.predict(queries))
    result = metrics.weighted_knn_accuracy(embeddings, labels, queries, np.full(30, 2), k=k)
    assert result.accuracy == np.mean(found == 2)


def at_angles(*degrees):
    return np.stack([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))], axis=1)


def test_votes_by_hand():
    # The nearest alone votes exp(1 / tau), the two others together 2 exp(0.5 / tau): more unless tau is
    # below 0.5 / ln 2 = 0.72.
    embeddings, labels, query = at_angles(0, 60, -60, 180), np.array([7, 3, 3, 7]), at_angles(0)
    for temperature, expected in ((0.4, 7), (0.7, 7), (0.75, 3), (100.0, 3)):
        found = metrics.weighted_knn(embeddings, labels, query, k=3, temperature=temperature)
        assert found.tolist() == [expected], temperature
    assert metrics.weighted_knn(embeddings, labels, query, k=1, temperature=100.0).tolist() == [7]


def test_ties_by_hand():
    # Both at 60 degrees: equally near, so that the lower index is nearer, and its class wins the tied vote.
    embeddings = at_angles(60, -60, 180)
    for labels in (["a", "b", "c"], ["b", "a", "c"]):
        for k in (1, 2):
            assert metrics.weighted_knn(embeddings, labels, at_angles(0), k=k).tolist() == labels[:1]


def test_rows_of_the_bank_are_told_by_the_others():
    """With itself among its neighbours each row would tell its own class."""
    embeddings, labels = at_angles(0, 1, 90, 91), np.array([0, 1, 0, 1])
    rows = np.arange(4)
    assert metrics.weighted_knn(embeddings, labels, rows, k=1).tolist() == [1, 0, 1, 0]
    assert metrics.weighted_knn(embeddings, labels, embeddings, k=1).tolist() == labels.tolist()
    assert metrics.weighted_knn_accuracy(embeddings, labels, rows, labels, k=1).accuracy == 0
    assert metrics.weighted_knn_accuracy(embeddings, labels, embeddings, labels, k=1).accuracy == 1


def test_a_low_temperature_is_the_nearest_alone_and_overflows_nowhere():
    rng = np.random.default_rng(0)
    embeddings, labels = rng.normal(size=(30, 4)), rng.integers(0, 3, 30)
    nearest = metrics.weighted_knn(embeddings, labels, np.arange(30), k=1)
    for temperature in (1e-3, 1e-300, 5e-324):
        found = metrics.weighted_knn(embeddings, labels, np.arange(30), k=9, temperature=temperature)
        np.testing.assert_array_equal(found, nearest)


def test_a_result_says_how_it_was_measured():
    embeddings, labels = at_angles(0, 1, 90, 91), np.array([0, 0, 1, 1])
    result = metrics.weighted_knn_accuracy(embeddings, labels, np.arange(4), [0, 0, 1, 0], k=3)
    assert result == metrics.WeightedKnnResult(0.75, 3, 0.4, 4, 4)
    assert str(result) == ("accuracy 0.750 (weighted 3 nearest neighbours, tau 0.4; 4 queries, 4 segments)")


def test_no_queries_have_no_accuracy():
    result = metrics.weighted_knn_accuracy(np.eye(3), [0, 1, 2], np.zeros((0, 3)), [], k=2)
    assert math.isnan(result.accuracy)
    assert result.num_queries == 0


def test_memory_is_that_of_a_block_whatever_the_number_of_segments(monkeypatch):
    largest = [0]
    direct = neighbors.cosine_distances

    def watched(queries, segments):
        distances = direct(queries, segments)
        largest[0] = max(largest[0], distances.size)
        return distances

    monkeypatch.setattr(neighbors, "cosine_distances", watched)
    monkeypatch.setattr(neighbors, "_BLOCK_SEGMENTS", 1000)
    embeddings = np.random.default_rng(0).normal(size=(20_000, 4)).astype(np.float32)
    found = metrics.weighted_knn(embeddings, np.arange(20_000), embeddings[::400] * 3, k=1, block_size=16)
    assert found.tolist() == list(range(0, 20_000, 400))
    assert largest == [16 * 1000]


@pytest.mark.parametrize(
    ("labels", "queries", "options", "message"),
    [
        ([0, 1], [0], {}, r"labels must be \(segments,\).* got shapes \(2,\) and \(3, 2\)"),
        (np.zeros((3, 1)), [0], {}, r"got shapes \(3, 1\) and \(3, 2\)"),
        ([0, 1, 2], [0], {"k": 0}, "k must be at least 1, got 0"),
        ([0, 1, 2], [0], {"k": 3}, r"k must be in \[0, 2\] with 3 segments, got 3"),
        ([0, 1, 2], np.ones((1, 2)), {"k": 4}, r"k must be in \[0, 3\] with 3 segments, got 4"),
        ([0, 1, 2], [3], {"k": 1}, r"query indices must be in \[0, 3\), got 3"),
        ([0, 1, 2], np.ones((1, 3)), {"k": 1}, "queries must have dim 2, got 3"),
        ([0, 1, 2], np.full((1, 2), np.nan), {"k": 1}, "queries must be finite"),
        ([0, 1, 2], [0], {"k": 1, "temperature": 0.0}, r"temperature must be positive and finite, got 0\.0"),
        ([0, 1, 2], [0], {"k": 1, "temperature": math.nan}, "temperature must be positive .* got nan"),
        ([0, 1, 2], [0], {"k": 1, "temperature": math.inf}, "temperature must be positive .* got inf"),
        ([0, 1, 2], [0], {"k": 1, "block_size": 0}, "block_size must be at least 1, got 0"),
    ],
)
def test_bad_input_is_refused(labels, queries, options, message):
    with pytest.raises(ValueError, match=message):
        metrics.weighted_knn(np.eye(3)[:, :2], labels, queries, **options)


def test_classes_of_queries_must_be_one_each():
    with pytest.raises(ValueError, match=r"query_labels must be \(2,\), one a query, got shape \(3,\)"):
        metrics.weighted_knn_accuracy(np.eye(3), [0, 1, 2], [0, 1], [0, 1, 2], k=1)
