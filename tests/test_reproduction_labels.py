"""How many labels at random a budget of labels of clusters is worth."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfsound.reproduction.label_tables import labels_to_match


@pytest.mark.parametrize(
    ("target", "expected"),
    [(0.1, 10), (0.2, 10), (0.5, 1000), (0.35, 100), (0.29, 10 ** (1 + 2 * 0.3)), (0.51, math.nan)],
)
def test_between_points_along_the_logarithm(target, expected):
    found = labels_to_match([10, 1000], [0.2, 0.5], target)
    assert found == pytest.approx(expected, nan_ok=True)


def test_the_first_crossing_of_a_curve_that_wavers():
    assert labels_to_match([1, 10, 100, 1000], [0.1, 0.5, 0.3, 0.6], 0.5) == pytest.approx(10)
    assert 100 < labels_to_match([1, 10, 100, 1000], [0.1, 0.5, 0.3, 0.6], 0.55) < 1000


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8, unique=True), st.integers(0, 7))
def test_a_rising_curve_is_inverted(scores, index):
    scores = sorted(scores)
    budgets = [float(2**number) for number in range(len(scores))]
    index %= len(scores)
    assert labels_to_match(budgets, scores, scores[index]) == pytest.approx(budgets[index])
