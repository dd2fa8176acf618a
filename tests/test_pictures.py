"""Tests of tfsound.pictures: which sounds are shown; test_quickstart draws them."""

import numpy as np

from tfsound import pictures


def test_queries_are_of_different_classes():
    labels = [("cat",)] * 5 + [("dog",)] * 5 + [("rain",)]
    for seed in range(5):
        queries = pictures.choose_queries(labels, 3, seed)
        assert {labels[query] for query in queries} == set(labels)
    assert len(set(pictures.choose_queries(labels, 6, 0))) == 6
    assert len(pictures.choose_queries(labels[:2], 6, 0)) == 2
    np.testing.assert_array_equal(
        pictures.choose_queries(labels, 6, 3), pictures.choose_queries(labels, 6, 3)
    )
