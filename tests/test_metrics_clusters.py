"""Tests of metrics.clusters: V-measure, active clusters, quality of propagated labels."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as sklearn_metrics

from tfsound import metrics


def test_v_measure_by_hand():
    assert metrics.v_measure(["x", "x", "y"], [7, 7, 2]) == 1
    assert metrics.v_measure([0, 0, 1, 1], [0, 0, 0, 0]) == 0
    # Homogeneity 1, completeness log 2 / log 4.
    assert metrics.v_measure([0, 0, 1, 1], [0, 1, 2, 3]) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match=r"must both be \(windows,\), got \(2,\) and \(3,\)"):
        metrics.v_measure([0, 1], [0, 1, 2])


def test_active_clusters():
    assert metrics.num_active_clusters([5, 5, 0, 9]) == 3


def test_label_quality_by_hand():
    truth = np.asarray([[1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0]], bool)
    labels = np.asarray([[1, 0, 0], [0.5, 0.4, 0], [0, 0.6, 0], [0, 0, 0]], np.float32)
    found = metrics.label_quality(truth, labels)
    np.testing.assert_array_equal(found.class_precision, [1, 0, np.nan])
    np.testing.assert_array_equal(found.class_recall, [2 / 3, 0, np.nan])
    assert (found.precision, found.recall) == (0.5, pytest.approx(1 / 3))
    assert (found.pooled_precision, found.pooled_recall) == (pytest.approx(2 / 3), 0.5)
    assert (found.num_labels, found.num_windows) == (3, 3)
    assert "recall 0.333, precision 0.500" in str(found)


def test_label_quality_of_nothing():
    found = metrics.label_quality(np.zeros((2, 2), bool), np.zeros((2, 2)))
    assert math.isnan(found.precision)
    assert math.isnan(found.recall)
    with pytest.raises(ValueError, match=r"must both be \(windows, classes\)"):
        metrics.label_quality(np.zeros((2, 2), bool), np.zeros((2, 3)))


@pytest.mark.parametrize("threshold", [0, -1, 1.5, math.nan])
def test_a_threshold_that_tells_nothing_is_refused(threshold):
    with pytest.raises(ValueError, match=r"threshold must be in \(0, 1\]"):
        metrics.label_quality(np.zeros((2, 2), bool), np.zeros((2, 2)), threshold=threshold)


matrices = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=8))


@given(matrices, st.randoms())
@settings(max_examples=100, deadline=None)
def test_label_quality_agrees_with_scikit_learn(truth, random):
    labels = np.asarray([[random.random() < 0.4 for _ in row] for row in truth]).reshape(truth.shape)
    found = metrics.label_quality(truth, labels)
    options = {"average": None, "zero_division": np.nan}
    if truth.shape[1] > 1:
        precision = sklearn_metrics.precision_score(truth, labels, **options)
        recall = sklearn_metrics.recall_score(truth, labels, **options)
        np.testing.assert_allclose(found.class_precision, precision)
        np.testing.assert_allclose(found.class_recall, recall)
    assert found.num_labels == labels.sum()
