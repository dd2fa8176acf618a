"""Tests of tfsound.metrics: hand-worked rankings, limits, naive oracles, invariances."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from tfsound import metrics


def naive_query_by_example(embeddings, labels):
    """All pairs by a double loop, ranked by scikit-learn."""
    embeddings = np.asarray(embeddings, np.float64)

    def distance(i, j):
        lengths = np.linalg.norm(embeddings[i]) * np.linalg.norm(embeddings[j])
        return round(1 - float(embeddings[i] @ embeddings[j]) / lengths, 12) if lengths else 1.0

    scores = []
    for column in labels.T:
        present, absent = np.flatnonzero(column), np.flatnonzero(~column)
        pairs = [(True, distance(i, j)) for n, i in enumerate(present) for j in present[n + 1 :]]
        pairs += [(False, distance(i, j)) for i in present for j in absent]
        targets, distances = zip(*pairs, strict=True)
        scores.append(average_precision_score(targets, -np.array(distances)))
    return np.array(scores)


def random_case(seed, *, num_segments=24, dim=4, num_classes=3, lattice=False):
    """Embeddings and labels in which every class can be scored; lattice points make many tied distances."""
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(num_segments, dim))
    if lattice:
        embeddings = rng.integers(-1, 2, size=(num_segments, dim)).astype(np.float64)
    labels = rng.random((num_segments, num_classes)) < 0.4
    labels[:2], labels[2] = True, False
    return embeddings, labels


def test_average_precision_by_hand():
    # Ranked: hit, miss, hit, miss. Precision 1/1 at the first hit and 2/3 at the second: (1 + 2/3) / 2.
    result = metrics.average_precision(np.array([True, False, False, True]), np.array([4.0, 3.0, 1.0, 2.0]))
    assert result == pytest.approx(5 / 6)


def test_average_precision_counts_ties_as_one_group():
    # One hit alone (precision 1), then a tied group of a hit and two misses (precision 2/4): (1 + 1/2) / 2.
    targets = np.array([True, False, True, False])
    scores = np.array([9.0, 1.0, 1.0, 1.0])
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        assert metrics.average_precision(targets[order], scores[order]) == 0.75


@pytest.mark.parametrize(
    ("targets", "scores", "expected"),
    [
        ([True, True, False], [3.0, 2.0, 1.0], 1.0),
        ([True], [0.0], 1.0),
        ([False, False, False, True], [4.0, 3.0, 2.0, 1.0], 0.25),
        ([True, False], [np.inf, -np.inf], 1.0),
        ([True, False], [np.inf, np.inf], 0.5),
        ([False, False], [1.0, 2.0], np.nan),
    ],
)
def test_average_precision_limits(targets, scores, expected):
    np.testing.assert_equal(metrics.average_precision(np.array(targets), np.array(scores)), expected)


def test_average_precision_of_nothing_is_nan():
    assert np.isnan(metrics.average_precision(np.zeros(0, bool), np.zeros(0)))


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=1, max_size=40))
def test_average_precision_matches_scikit_learn_under_ties(items):
    targets, scores = map(np.array, zip(*items, strict=True))
    if targets.any():
        result = metrics.average_precision(targets, scores)
        assert 0 < result <= 1
        assert result == pytest.approx(average_precision_score(targets, scores), abs=1e-12)


@pytest.mark.parametrize(
    ("targets", "scores", "message"),
    [
        ([True], [1.0, 2.0], r"shape \(items,\), got \(1,\) and \(2,\)"),
        ([[True]], [[1.0]], r"shape \(items,\)"),
        ([1, 0], [1.0, 2.0], "targets must be bool, got int64"),
        ([True, False], [1.0, np.nan], "NaN first at item 1"),
    ],
)
def test_average_precision_errors(targets, scores, message):
    with pytest.raises(ValueError, match=message):
        metrics.average_precision(np.array(targets), np.array(scores))


def test_mean_average_precision_by_hand():
    # First class: hit, miss, hit: (1 + 2/3) / 2. Second: all tied, 1 of 3. Third: none. Fourth: everywhere.
    labels = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [1, 0, 0, 1]], bool)
    scores = np.array([[3.0, 0.5, 1.0, 1.0], [2.0, 0.5, 2.0, 2.0], [1.0, 0.5, 3.0, 3.0]])
    result = metrics.mean_average_precision(labels, scores, ["a", "b", "c", "d"])
    np.testing.assert_allclose(result.per_class, [5 / 6, 1 / 3, np.nan, 1])
    assert result.mean == pytest.approx((5 / 6 + 1 / 3 + 1) / 3)
    assert result.chance == pytest.approx((2 / 3 + 1 / 3 + 1) / 3)
    assert result.num_positives.tolist() == [2, 1, 0, 3]
    assert (result.num_segments, result.num_classes_scored) == (3, 3)
    assert result.class_names == ("a", "b", "c", "d")
    assert str(result) == "mAP 0.722 over 3 of 4 classes (chance 0.667; 3 segments)"


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_segments=st.integers(1, 30),
    num_classes=st.integers(0, 6),
    levels=st.sampled_from([2, 5, 1000]),
    dtype=st.sampled_from([np.float16, np.float32, np.float64, np.int64]),
)
def test_mean_average_precision_matches_scikit_learn(seed, num_segments, num_classes, levels, dtype):
    rng = np.random.default_rng(seed)
    labels = rng.random((num_segments, num_classes)) < 0.3
    scores = rng.integers(-levels, levels, size=labels.shape).astype(dtype)
    result = metrics.mean_average_precision(labels, scores)
    np.testing.assert_array_equal(np.isnan(result.per_class), ~labels.any(axis=0))
    scored = np.flatnonzero(labels.any(axis=0))
    assert result.num_classes_scored == len(scored)
    expected = [average_precision_score(labels[:, index], scores[:, index]) for index in scored]
    np.testing.assert_allclose(result.per_class[scored], expected, atol=1e-12)
    np.testing.assert_allclose(result.mean, np.mean(expected) if expected else np.nan, atol=1e-12)


@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (4, 2)])
def test_mean_average_precision_without_a_positive_is_nan(shape):
    result = metrics.mean_average_precision(np.zeros(shape, bool), np.ones(shape))
    assert np.isnan([result.mean, result.chance]).all()
    assert np.isnan(result.per_class).all()
    assert (len(result.per_class), result.num_classes_scored) == (shape[1], 0)


@pytest.mark.parametrize(
    ("labels", "scores", "names", "message"),
    [
        (np.ones((3, 2), bool), np.ones((3, 1)), None, r"shape of labels, \(3, 2\), got \(3, 1\)"),
        (np.ones((3, 2), bool), np.ones((2, 2)), None, r"labels must be bool .* with 2 segments"),
        (np.ones((3, 2), bool), 1.0, None, r"labels must be bool .* with 0 segments"),
        (np.ones((3, 2)), np.ones((3, 2)), None, r"got float64 \(3, 2\)"),
        (np.ones((3, 2), bool), np.ones((3, 2)), ["a"], "class_names must be 2"),
        (np.eye(2, dtype=bool), [[1.0, 0.0], [0.0, np.nan]], None, "NaN first in segment 1 of class 1"),
        (np.zeros((1, 1), bool), [[np.nan]], None, "NaN first in segment 0 of class 0"),
    ],
)
def test_mean_average_precision_errors(labels, scores, names, message):
    with pytest.raises(ValueError, match=message):
        metrics.mean_average_precision(labels, scores, names)


def test_query_by_example_by_hand():
    # Present: along x and along y (distance 1). Absent: along x (distances 0 and 1).
    # Ranked: a miss, then a tied hit and miss: precision 1/3 at the only target.
    embeddings = np.array([[1, 0], [0, 1], [5, 0]], np.float32)
    result = metrics.query_by_example_map(embeddings, np.array([[True], [True], [False]]))
    assert result.per_class.tolist() == [1 / 3]
    assert result.chance == 1 / 3
    assert result.protocol == "all pairs"
    assert str(result) == "mAP 0.333 over 1 of 1 classes (chance 0.333; all pairs)"


def test_query_by_example_is_exactly_one_for_separated_classes():
    classes = np.arange(60) % 3
    embeddings = 7 * np.eye(8, dtype=np.float32)[classes]
    result = metrics.query_by_example_map(embeddings, classes[:, None] == np.arange(3))
    assert result.mean == 1
    assert result.per_class.tolist() == [1, 1, 1]


def test_query_by_example_of_equal_embeddings_is_exactly_chance():
    embeddings = np.full((300, 128), 0.1, np.float32)
    result = metrics.query_by_example_map(embeddings, (np.arange(300) % 2 == 0)[:, None])
    assert result.mean == pytest.approx(4950 / 14950, abs=1e-12)
    assert result.chance == pytest.approx(4950 / 14950, abs=1e-12)
    assert result.protocol == "100 + 100 a class"


def test_random_embeddings_score_about_chance():
    rng = np.random.default_rng(5)
    embeddings = rng.normal(size=(2000, 64)).astype(np.float32)
    result = metrics.query_by_example_map(embeddings, rng.random((2000, 40)) < 0.2, rng=rng)
    assert result.mean == pytest.approx(result.chance, abs=0.01)
    assert result.chance == pytest.approx(0.331, abs=1e-3)  # the paper's 0.33


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), lattice=st.booleans())
def test_query_by_example_matches_double_loop(seed, lattice):
    embeddings, labels = random_case(seed, lattice=lattice)
    result = metrics.query_by_example_map(embeddings, labels)
    np.testing.assert_allclose(result.per_class, naive_query_by_example(embeddings, labels), atol=1e-12)
    assert ((result.per_class > 0) & (result.per_class <= 1)).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), lattice=st.booleans())
def test_query_by_example_ignores_lengths_rotation_and_order(seed, lattice):
    embeddings, labels = random_case(seed, lattice=lattice)
    expected = metrics.query_by_example_map(embeddings, labels).per_class
    rng = np.random.default_rng(seed)
    lengths = 10 ** rng.uniform(-200, 200, size=(len(embeddings), 1))
    rotation, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    order = rng.permutation(len(embeddings))
    for changed, its_labels in (
        (embeddings * lengths, labels),
        (embeddings @ rotation, labels),
        (embeddings[order], labels[order]),
    ):
        np.testing.assert_allclose(
            metrics.query_by_example_map(changed, its_labels).per_class, expected, atol=1e-12
        )


def test_sampling_follows_the_generator_and_the_labels_only():
    embeddings, labels = random_case(0, num_segments=500)
    arguments = {"num_present": 20, "num_absent": 30}

    def scores(seed, vectors):
        result = metrics.query_by_example_map(vectors, labels, rng=np.random.default_rng(seed), **arguments)
        assert result.protocol == "20 + 30 a class"
        return result.per_class

    np.testing.assert_array_equal(scores(1, embeddings), scores(1, embeddings))
    np.testing.assert_array_equal(scores(1, embeddings), scores(1, 3 * embeddings))
    assert (scores(1, embeddings) != scores(2, embeddings)).all()
    np.testing.assert_array_equal(
        scores(0, embeddings), metrics.query_by_example_map(embeddings, labels, **arguments).per_class
    )


def test_no_segment_is_drawn_twice():
    # Two of three orthogonal segments are farther from each other than from the one between them: the target
    # comes last of three pairs. A segment paired with itself would come first.
    embeddings = np.concatenate([np.eye(3), np.ones((1, 3))])
    labels = np.array([[True], [True], [True], [False]])
    for seed in range(20):
        rng = np.random.default_rng(seed)
        assert metrics.query_by_example_map(embeddings, labels, num_present=2, rng=rng).mean == 1 / 3


def test_result_tells_which_protocol_each_class_got():
    labels = np.zeros((300, 5), bool)
    labels[:150, 0] = True  # 100 + 100
    labels[:40, 1] = True  # all 40 + 100
    labels[:290, 2] = True  # 100 + all 10
    labels[:1, 3] = True  # one present: no pair
    labels[:, 4] = True  # none absent
    names = ["a", "b", "c", "d", "e"]
    embeddings = np.random.default_rng(0).normal(size=(300, 8))
    result = metrics.query_by_example_map(embeddings, labels, class_names=names)
    assert np.isnan(result.per_class).tolist() == [False, False, False, True, True]
    assert result.num_classes_scored == 3
    assert result.mean == pytest.approx(result.per_class[:3].mean())
    assert result.num_present.tolist() == [100, 40, 100, 1, 100]
    assert result.num_absent.tolist() == [100, 100, 10, 100, 0]
    expected = np.mean([4950 / 14950, 780 / 4780, 4950 / 5950])
    assert result.chance == pytest.approx(expected)
    assert result.protocol == (
        "mixed: 100 + 100 (1 classes), all present + 100 absent (1 classes), "
        "100 present + all absent (1 classes)"
    )
    assert result.class_names == tuple(names)


@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (5, 0), (5, 1)])
def test_query_by_example_without_a_scorable_class_is_nan(shape):
    result = metrics.query_by_example_map(np.ones((shape[0], 4)), np.ones(shape, bool))
    assert np.isnan([result.mean, result.chance]).all()
    assert result.num_classes_scored == 0
    assert result.protocol == "no class could be scored"


def naive_across_recordings(distances, labels, recordings):
    """Average precision of one class, pair by pair."""
    pairs = [
        (distances[a, b], labels[b])
        for a in np.flatnonzero(labels) for b in range(len(labels))
        if recordings[a] != recordings[b] and (not labels[b] or a < b)
    ]  # fmt: skip
    targets = [distance for distance, is_target in pairs if is_target]
    return np.mean([sum(d <= t for d in targets) / sum(d <= t for d, _ in pairs) for t in targets]), (
        len(targets) / len(pairs)
    )


@pytest.mark.parametrize("seed", range(3))
def test_pairs_of_one_recording_are_left_out(seed):
    rng = np.random.default_rng(seed)
    embeddings, labels = rng.normal(size=(24, 3)), rng.random((24, 2)) < 0.4
    recordings = rng.integers(0, 9, 24)
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    distances = np.round(1 - units @ units.T, metrics.DISTANCE_DECIMALS)
    expected = [naive_across_recordings(distances, labels[:, column], recordings) for column in (0, 1)]
    result = metrics.query_by_example_map(embeddings, labels, recordings=recordings)
    np.testing.assert_allclose(result.per_class, [score for score, _ in expected])
    assert result.chance == pytest.approx(np.mean([chance for _, chance in expected]))
    assert result.protocol == "all pairs, none of one recording"


def test_two_cuts_of_a_recording_score_nothing():
    """A class of one recording has no pair; neither tells one that only knows recordings anything."""
    labels = np.repeat([[True, False], [False, True]], 4, axis=0)
    recordings = np.array(["a", "a", "a", "a", "b", "b", "c", "c"])
    knows_recordings = (recordings[:, None] == ["a", "b", "c"]).astype(float)
    result = metrics.query_by_example_map(knows_recordings, labels, recordings=recordings)
    assert np.isnan(result.per_class[0])
    assert result.per_class[1] == result.chance == 4 / 20
    with pytest.raises(ValueError, match=r"recordings must be \(8,\), one a segment, got \(3,\)"):
        metrics.query_by_example_map(knows_recordings, labels, recordings=["a", "b", "c"])


def test_zero_vectors_are_at_distance_one_from_everything():
    # Present: zero, e1, e1; absent: -e1. Targets at 1, 1, 0; non-targets at 1, 2, 2. (1 + 2 * 3/4) / 3.
    embeddings = np.array([[0, 0], [1, 0], [1, 0], [-1, 0]], np.float32)
    result = metrics.query_by_example_map(embeddings, np.array([[True], [True], [True], [False]]))
    assert result.mean == pytest.approx(2.5 / 3)


@pytest.mark.parametrize(
    ("embeddings", "labels", "arguments", "message"),
    [
        (np.array([[1.0], [np.nan], [np.nan]]), np.ones((3, 1), bool), {}, r"in 2 of 3 rows, first in row 1"),
        (np.array([[np.inf]]), np.ones((1, 1), bool), {}, "must be finite"),
        (np.ones(3), np.ones((3, 1), bool), {}, r"\(segments, dim\) with dim >= 1, got \(3,\)"),
        (np.ones((3, 0)), np.ones((3, 1), bool), {}, r"dim >= 1"),
        (np.ones((3, 2)), np.ones((4, 1), bool), {}, r"with 3 segments, got bool \(4, 1\)"),
        (np.ones((3, 2)), np.array([0, 1, 2]), {}, r"got int64 \(3,\); turn class indices into rows"),
        (np.ones((3, 2)), np.ones((3, 2), bool), {"class_names": ["a"]}, "class_names must be 2"),
        (np.ones((3, 2)), np.ones((3, 2), bool), {"num_present": 1}, "num_present must be at least 2"),
        (np.ones((3, 2)), np.ones((3, 2), bool), {"num_absent": 0}, "num_absent at least 1, got 100 and 0"),
    ],
)
def test_query_by_example_errors(embeddings, labels, arguments, message):
    with pytest.raises(ValueError, match=message):
        metrics.query_by_example_map(embeddings, labels, **arguments)


def test_recovery_gives_the_papers_table_2():
    # Gaussian noise, translation, mixed example, proximity, joint: 15, 23, 18, 38, 41 percent.
    scores = np.array([0.478, 0.508, 0.489, 0.562, 0.575])
    shares = metrics.recovery(scores, baseline=0.423, topline=0.790)
    assert np.round(100 * shares).tolist() == [15, 23, 18, 38, 41]


def test_recovery_of_scalars_is_a_float():
    assert metrics.recovery(0.423, baseline=0.423, topline=0.790) == 0.0
    assert metrics.recovery(0.790, baseline=0.423, topline=0.790) == 1.0
    assert type(metrics.recovery(0.5, baseline=0.0, topline=1.0)) is float


def test_recovery_needs_a_gap():
    with pytest.raises(ValueError, match=r"topline must differ from baseline, got \[0.4 0.5\] and 0.5"):
        metrics.recovery(0.5, baseline=0.5, topline=[0.4, 0.5])


def test_mean_and_spread_by_hand():
    result = metrics.mean_and_spread([0.1, 0.2, 0.6])
    assert (result.mean, result.min, result.max, result.num_values) == (pytest.approx(0.3), 0.1, 0.6, 3)
    assert result.standard_deviation == pytest.approx(0.07**0.5)  # (0.04 + 0.01 + 0.09) / 2
    assert str(result) == "0.300 ± 0.265 (0.100..0.600, n=3)"


def test_mean_and_spread_of_one_value_has_no_spread():
    result = metrics.mean_and_spread([0.5])
    assert np.isnan(result.standard_deviation)
    assert str(result) == "0.500 (n=1)"


def test_mean_and_spread_keeps_nan_visible():
    assert np.isnan(metrics.mean_and_spread([0.5, np.nan]).mean)


@pytest.mark.parametrize("values", [[], 0.5, [[0.5]]])
def test_mean_and_spread_errors(values):
    with pytest.raises(ValueError, match=r"values must have shape \(n,\) with n >= 1"):
        metrics.mean_and_spread(values)


def test_nearest_neighbors_by_hand():
    embeddings = np.array([[1, 0], [0, 2], [3, 0], [-1, 0], [1, 0], [0, 0]], np.float32)
    indices, distances = metrics.nearest_neighbors(embeddings, [0, 3], 4)
    assert indices.tolist() == [[2, 4, 1, 5], [1, 5, 0, 2]]  # ties by index; the zero row is at distance 1
    assert distances.tolist() == [[0, 0, 1, 1], [1, 1, 2, 2]]
    indices, distances = metrics.nearest_neighbors(embeddings, np.array([[0.0, -5.0]]), 6)
    assert indices.tolist() == [[0, 2, 3, 4, 5, 1]]
    assert distances.tolist() == [[1, 1, 1, 1, 1, 2]]


@pytest.mark.parametrize("block_size", [1, 7, 256])
@pytest.mark.parametrize("lattice", [False, True])
def test_nearest_neighbors_match_a_full_sort(block_size, lattice):
    embeddings, _ = random_case(3, num_segments=80, lattice=lattice)
    units = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-300)
    expected = np.round(1 - units @ units.T, 12)
    np.fill_diagonal(expected, np.inf)
    indices, distances = metrics.nearest_neighbors(embeddings, np.arange(80), 9, block_size=block_size)
    np.testing.assert_array_equal(indices, np.argsort(expected, axis=1, kind="stable")[:, :9])
    np.testing.assert_allclose(distances, np.sort(expected, axis=1)[:, :9], atol=1e-11)


def test_nearest_neighbors_of_nothing():
    embeddings = np.ones((1, 2))
    for queries, k, shape in (([], 0, (0, 0)), ([0], 0, (1, 0)), (np.zeros((0, 2)), 1, (0, 1))):
        indices, distances = metrics.nearest_neighbors(embeddings, queries, k)
        assert indices.shape == distances.shape == shape


@pytest.mark.parametrize(
    ("queries", "k", "message"),
    [
        ([0], 3, r"k must be in \[0, 2\] with 3 segments, got 3"),
        (np.ones((1, 2)), 4, r"k must be in \[0, 3\]"),
        ([3], 1, r"query indices must be in \[0, 3\), got 3"),
        ([-1], 1, "got -1"),
        ([0.5], 1, r"queries must have shape \(segments, dim\)"),
        (np.ones((1, 5)), 1, "queries must have dim 2, got 5"),
        (np.array([[np.nan, 0]]), 1, "queries must be finite"),
    ],
)
def test_nearest_neighbors_errors(queries, k, message):
    with pytest.raises(ValueError, match=message):
        metrics.nearest_neighbors(np.eye(3)[:, :2], queries, k)


def test_importing_metrics_imports_no_tensorflow():
    code = "import sys, tfsound.metrics; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
