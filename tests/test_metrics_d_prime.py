"""Tests of metrics.d_prime: by hand, the limits, scikit-learn and SciPy."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from tfsound import metrics


def of_one_class(labels, scores):
    return metrics.d_prime(np.asarray(labels, bool)[:, None], np.asarray(scores, np.float64)[:, None])


def test_by_hand():
    # Of 2 x 2 pairs, 3 are ranked right: AUC 3/4, whose normal quantile is 0.6745, times the root of 2.
    found = of_one_class([1, 0, 1, 0], [4, 3, 2, 1])
    assert found.auc == [0.75]
    assert found.per_class[0] == found.mean == found.of_mean_auc == pytest.approx(0.6744898 * np.sqrt(2))


def test_normal_scores_at_a_distance_have_that_d_prime():
    rng = np.random.default_rng(0)
    labels = rng.random(200_000) < 0.3
    found = of_one_class(labels, rng.normal(size=len(labels)) + 1.7 * labels)
    assert found.mean == pytest.approx(1.7, abs=0.02)


def test_a_tie_is_half_right_and_chance_is_0():
    assert of_one_class([1, 0, 1], [1, 1, 1]).mean == 0
    assert of_one_class([1, 0, 0], [2, 2, 1]).auc == [0.75]


def test_a_perfect_class_is_infinite_and_counts_half_a_step_in_the_mean():
    labels = np.asarray([[1, 1], [1, 0], [0, 1], [0, 0], [0, 0]], bool)
    scores = np.asarray([[5, 5], [4, 4], [3, 3], [2, 2], [1, 1]], float)
    found = metrics.d_prime(labels, scores, ["a", "b"])
    assert found.per_class[0] == np.inf
    # 2 x 3 pairs a class: half a step is 1/12; of the second class 5 of 6 pairs are right.
    halves = np.sqrt(2) * stats.norm.ppf([11 / 12, 5 / 6])
    assert found.mean == pytest.approx(halves.mean())
    assert found.of_mean_auc == pytest.approx(np.sqrt(2) * stats.norm.ppf((1 + 5 / 6) / 2))
    assert found.class_names == ("a", "b")
    wrong = metrics.d_prime(labels, -scores)
    assert (wrong.per_class[0], wrong.mean) == (-np.inf, pytest.approx(-found.mean))


def test_a_better_ranking_never_has_a_lower_mean():
    labels = [1, 1, 0, 0, 0]
    rankings = ([5, 4, 3, 2, 1], [5, 3, 3, 2, 1], [5, 3, 4, 2, 1])
    means = [of_one_class(labels, scores).mean for scores in rankings]
    assert means[0] == pytest.approx(means[1])  # a tie is half a step: the two cannot be told apart
    assert means[1] > means[2]


def test_classes_that_nobody_or_everybody_has_are_not_scored():
    labels = np.asarray([[0, 1, 1], [0, 1, 0]], bool)
    found = metrics.d_prime(labels, np.zeros((2, 3)))
    np.testing.assert_array_equal(found.per_class, [np.nan, np.nan, 0])
    assert (found.num_classes_scored, found.mean) == (1, 0)
    assert "over 1 of 3 classes" in str(found)
    nothing = metrics.d_prime(labels[:, :2], np.zeros((2, 2)))
    assert np.isnan(nothing.mean)
    assert np.isnan(nothing.of_mean_auc)


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(-3, 3)), min_size=1, max_size=30))
@settings(deadline=None)
def test_it_agrees_with_scikit_learn_and_scipy(items):
    table = np.asarray(items, np.float64)
    labels = table[:, :2].astype(bool)
    scores = np.stack([table[:, 2], -0.5 * table[:, 2]], axis=1)
    found = metrics.d_prime(labels, scores)
    for index in range(2):
        if labels[:, index].all() or not labels[:, index].any():
            assert np.isnan(found.auc[index])
            continue
        auc = roc_auc_score(labels[:, index], scores[:, index])
        assert found.auc[index] == pytest.approx(auc, abs=1e-12)
        assert found.per_class[index] == pytest.approx(np.sqrt(2) * stats.norm.ppf(found.auc[index]))
    assert np.isfinite(found.mean) == (found.num_classes_scored > 0)


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([[1], [0]], [[0.5], [0.5]], "labels must be bool"),
        ([[True], [False]], [[0.5]], "with 1 segments"),
        ([[True], [False]], [[0.5], [np.nan]], "NaN first in segment 1 of class 0"),
        ([[True], [False]], [[0.5, 1], [0.5, 1]], r"shape of labels, \(2, 1\), got \(2, 2\)"),
    ],
)
def test_what_makes_no_sense_is_refused(labels, scores, message):
    with pytest.raises(ValueError, match=message):
        metrics.d_prime(np.asarray(labels), np.asarray(scores))


def test_it_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics.d_prime(np.zeros((0, 2), bool), np.zeros((0, 2)))
        metrics.d_prime(np.asarray([[True], [False]]), np.asarray([[np.inf], [-np.inf]]))
