"""Retrieval metrics: hand-worked rankings, ties in expectation against every order, chance, groups."""

import collections
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tfsound import metrics
from tfsound.metrics import pair_scores

UNTIMED = settings(deadline=None, max_examples=60)


def test_a_ranking_by_hand():
    """Three queries, of pair 0, 1 and 2, whose candidates come first, second and fourth."""
    scores = [[0.9, 0.1, 0.2, 0.3], [0.5, 0.4, 0.1, 0.0], [3.0, 2.0, -1.0, 1.0]]
    found = metrics.retrieval(scores, [0, 1, 2], [0, 1, 2, 3], ks=(1, 2, 3, 4))
    assert found.recall == pytest.approx({1: 1 / 3, 2: 2 / 3, 3: 2 / 3, 4: 1.0})
    assert found.median_rank == 2.0
    assert found.chance_recall == pytest.approx({1: 0.25, 2: 0.5, 3: 0.75, 4: 1.0})
    assert found.chance_median_rank == 2.5
    assert (found.num_queries, found.num_unanswerable, found.num_candidates) == (3, 0, 4)
    assert str(found).startswith("recall at 1 0.333 (chance 0.250), recall at 2 0.667")
    assert str(found).endswith("median rank 2 (chance 2.5); 3 queries, 4 candidates")


def test_perfect_scores_are_one_and_the_worst_are_nothing():
    keys = np.arange(40)
    for scores, recalls, rank in ((np.eye(40), (1, 1, 1), 1.0), (-np.eye(40), (0, 0, 0), 40.0)):
        found = metrics.retrieval(scores, keys, keys)
        assert tuple(found.recall.values()) == pytest.approx(recalls)
        assert found.median_rank == rank


@pytest.mark.parametrize("num_classes", [2, 5])
def test_a_constant_score_is_chance_exactly(num_classes):
    keys = np.arange(30) % num_classes
    found = metrics.retrieval(np.zeros((30, 30)), keys, keys, ks=(1, 3, 7))
    assert found.recall == pytest.approx(found.chance_recall)
    assert found.recall[1] == pytest.approx(1 / num_classes)
    assert found.median_rank == pytest.approx(found.chance_median_rank)


@UNTIMED
@given(
    scores=st.lists(st.integers(0, 2), min_size=1, max_size=6),
    own=st.lists(st.booleans(), min_size=6, max_size=6),
    k=st.integers(1, 8),
)
def test_ties_are_the_mean_over_every_order(scores, own, k):
    own = own[: len(scores)]
    keys = [1 if is_own else 0 for is_own in own]
    found = metrics.retrieval([scores], [1], keys, ks=(k,))
    if not any(own):
        assert found.num_unanswerable == 1
        assert math.isnan(found.recall[k])
        assert math.isnan(found.median_rank)
        return
    ranks, chance = [], []
    for order in itertools.permutations(range(len(scores))):
        ranked = sorted(order, key=lambda i: -scores[i])  # stable: the permutation breaks ties
        ranks.append(next(place for place, i in enumerate(ranked, 1) if own[i]))
        chance.append(next(place for place, i in enumerate(order, 1) if own[i]))
    assert found.recall[k] == pytest.approx(np.mean([rank <= k for rank in ranks]))
    assert found.median_rank == pytest.approx(np.mean(ranks))
    assert found.chance_recall[k] == pytest.approx(np.mean([rank <= k for rank in chance]))
    assert found.chance_median_rank == pytest.approx(np.mean(chance))


@UNTIMED
@given(seed=st.integers(0, 10**6), block_size=st.integers(1, 40), num_keys=st.integers(1, 9))
def test_blocks_and_orders_change_nothing(seed, block_size, num_keys):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 5, (23, 17)).astype(np.float32)
    queries, candidates = rng.integers(0, num_keys, 23), rng.integers(0, num_keys, 17)
    expected = metrics.retrieval(scores, queries, candidates)
    asked = []

    def rows(block):
        asked.append(block.stop - block.start)
        return scores[block]

    assert_same(metrics.retrieval(rows, queries, candidates, block_size=block_size), expected)
    assert max(asked) <= block_size
    order, places = rng.permutation(23), rng.permutation(17)
    shuffled = metrics.retrieval(scores[np.ix_(order, places)], queries[order], candidates[places])
    assert_same(shuffled, expected)
    names = np.array(list("abcdefghi"))
    assert_same(metrics.retrieval(scores, names[queries], names[candidates]), expected)


def assert_same(found, expected):
    np.testing.assert_allclose(list(found.recall.values()), list(expected.recall.values()), rtol=1e-12)
    np.testing.assert_allclose(found.median_rank, expected.median_rank)
    assert (found.num_queries, found.num_unanswerable) == (expected.num_queries, expected.num_unanswerable)


def test_memory_is_that_of_a_block():
    """A hundred thousand candidates: the scores of all queries are never together."""
    seen = collections.Counter()

    def rows(block):
        seen["queries"] += block.stop - block.start
        seen["largest"] = max(seen["largest"], block.stop - block.start)
        scores = np.zeros((block.stop - block.start, 100_000), np.float32)
        scores[np.arange(len(scores)), np.arange(block.start, block.stop)] = 1
        return scores

    found = metrics.retrieval(rows, np.arange(200), np.arange(100_000), block_size=16)
    assert found.recall[1] == 1
    assert seen == {"queries": 200, "largest": 16}


def test_infinite_and_whole_number_scores_are_ranked():
    scores = np.array([[-np.inf, 0.0, np.inf], [-np.inf, -np.inf, 0.0]])
    found = metrics.retrieval(scores, [2, 0], [0, 1, 2], ks=(1, 2))
    assert found.recall == pytest.approx({1: 0.5, 2: 0.75})
    assert metrics.retrieval(np.eye(3, dtype=bool), [0, 1, 2], [0, 1, 2]).recall[1] == 1
    assert metrics.retrieval(-np.eye(3, dtype=np.int8), [0, 1, 2], [0, 1, 2]).recall[1] == 0


def test_no_query_at_all_is_nan():
    found = metrics.retrieval(np.zeros((0, 3)), np.zeros(0, int), [0, 1, 2])
    assert math.isnan(found.recall[1])
    assert (found.num_queries, found.num_unanswerable) == (0, 0)


@pytest.mark.parametrize(
    ("scores", "queries", "candidates", "options", "message"),
    [
        (np.zeros((2, 3)), [0], [0, 1, 2], {}, r"scores must have shape .*\(1, 3\), got \(2, 3\)"),
        (np.zeros((1, 0)), [0], [], {}, r"at least one, got \(1,\) and \(0,\)"),
        (np.zeros((1, 1)), 0, [0], {}, r"query_keys must have shape \(queries,\)"),
        (np.zeros((1, 1)), [0], [0], {"ks": (0,)}, r"ks and block_size must be at least 1, got \[0\]"),
        (np.zeros((1, 1)), [0], [0], {"ks": ()}, r"ks and block_size must be at least 1, got \[\]"),
        (np.zeros((1, 1)), [0], [0], {"block_size": 0}, "and 0"),
        (lambda block: np.zeros((1, 5)), [0, 1], [0, 1], {}, r"scores of 2 queries must have .*\(2, 2\)"),
        (np.array([[0.0], [np.nan]]), [0, 0], [0], {}, "got NaN first for query 1"),
    ],
)
def test_retrieval_errors(scores, queries, candidates, options, message):
    with pytest.raises(ValueError, match=message):
        metrics.retrieval(scores, queries, candidates, **options)


# Among one candidate of each class.


def world(num_classes=4, groups_each=3, items_each=2):
    """(classes, groups) of items; a group is of one class."""
    classes = np.repeat(np.arange(num_classes), groups_each * items_each)
    groups = np.repeat(np.arange(num_classes * groups_each), items_each)
    return classes, groups


def test_among_classes_perfect_constant_and_inverted_scores():
    classes, groups = world()
    is_same = (classes[:, None] == classes).astype(float)
    for scores, expected in ((is_same, 1.0), (np.zeros_like(is_same), 0.25), (-is_same, 0.0)):
        results = metrics.retrieval_among_classes(scores, classes, classes, groups, groups, num_draws=3)
        assert [result.recall[1] for result in results] == pytest.approx([expected] * 3)
        for result in results:
            assert result.chance_recall[1] == pytest.approx(0.25)
            assert (result.num_queries, result.num_candidates) == (24, 4)


def test_what_tells_the_recording_and_not_the_class_does_not_help():
    """A score that knows each recording and nothing else is at chance."""
    classes, groups = world(num_classes=5, groups_each=10)
    scores = (groups[:, None] == groups).astype(float)
    results = metrics.retrieval_among_classes(scores, classes, classes, groups, groups)
    assert [result.recall[1] for result in results] == pytest.approx([0.2] * 10)


def test_candidates_are_drawn_uniformly_from_the_other_groups():
    """Of candidates of unequal groups, sorted by group, each of another group comes equally often."""
    groups = np.array([5, 1, 1, 3, 7, 7, 7, 8])
    columns = np.array([1, 2, 3, 4, 5, 7])  # of a class; 0 and 6 are of another
    queries = np.repeat([0, 1, 3, 4, 7, 8, 9], 4000)
    drawn = pair_scores._draw_outside(columns, groups, queries, np.random.default_rng(0))
    for group in np.unique(queries):
        allowed = [column for column in columns if groups[column] != group]
        found = collections.Counter(drawn[queries == group].tolist())
        assert set(found) == set(allowed)
        assert stats.chisquare([found[column] for column in allowed]).pvalue > 1e-3


def test_classes_in_one_group_are_left_out_and_their_queries_counted():
    classes = np.array(["a", "a", "b", "b", "alone", "alone"])
    groups = np.array([0, 1, 2, 3, 4, 4])
    scores = (classes[:, None] == classes).astype(float)
    (result,) = metrics.retrieval_among_classes(scores, classes, classes, groups, groups, num_draws=1)
    assert (result.num_queries, result.num_unanswerable, result.num_candidates) == (4, 2, 2)
    assert result.recall[1] == 1


def test_draws_follow_the_generator():
    rng = np.random.default_rng(0)
    classes, groups = world()
    scores = rng.random((24, 24))

    def draw(seed):
        found = metrics.retrieval_among_classes(
            scores, classes, classes, groups, groups, rng=np.random.default_rng(seed)
        )
        return [result.recall[1] for result in found]

    assert draw(1) == draw(1) != draw(2)
    assert len(set(draw(1))) > 1
    assert np.mean(draw(1)) == pytest.approx(0.25, abs=0.12)


@pytest.mark.parametrize(
    ("shape", "classes", "options", "message"),
    [
        ((2, 4), [0, 0, 1, 1], {}, r"scores must have shape \(queries, candidates\), with a class"),
        ((4, 4), [0, 0, 0, 0], {}, "at least two classes, each in two groups, got 1 such"),
        ((4, 4), [0, 0, 1, 1], {"num_draws": 0}, "num_draws must be at least 1, got 0"),
    ],
)
def test_among_classes_errors(shape, classes, options, message):
    with pytest.raises(ValueError, match=message):
        metrics.retrieval_among_classes(
            np.zeros(shape), classes, classes, np.arange(4), np.arange(4), **options
        )
