"""Draws: permutations, uniformity, the proximity constraint, and values that must never change."""

import collections
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfsound import sampling

KEYS = st.integers(0, 2**64 - 1)


def is_uniform(counts, expected: float) -> bool:
    """Chi-square within five standard deviations of its mean; a seeded draw passes always or never."""
    counts = np.asarray(list(counts), float)
    degrees = len(counts) - 1
    return ((counts - expected) ** 2 / expected).sum() < degrees + 5 * np.sqrt(2 * degrees)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (("",), 0xE4A6A0577479B2B4),
        ((0, "proximity", 12345), 0x78E8BC6CC8B8927F),
        (("0", "proximity", "12345"), 0x78E8BC6CC8B8927F),
        (("a", "bc"), 0xA88A4C477C93AF5A),
        (("ab", "c"), 0x4449645A7CE72544),
        (("日本語",), 0xF419EDD5D4267B48),
    ],
)
def test_stable_hash_is_the_same_on_every_day(key, value):
    """Values of `b2sum -l 64`, the parts joined by 0x1f. A change here changes every data set made again."""
    assert sampling.stable_hash(*key) == value


def test_random_generator_is_a_function_of_its_key():
    draws = sampling.random_generator(3, "proximity", 7).integers(1000, size=6)
    np.testing.assert_array_equal(draws, [582, 697, 134, 640, 965, 276])
    again = sampling.random_generator(3, "proximity", 7).integers(1000, size=6)
    np.testing.assert_array_equal(draws, again)
    for other in [(4, "proximity", 7), (3, "proximity", 8), (3, "mixing", 7)]:
        assert (sampling.random_generator(*other).integers(1000, size=6) != draws).any()


def test_random_generators_of_neighbouring_keys_are_independent():
    first = np.array([sampling.random_generator(0, slot).random() for slot in range(4000)])
    assert is_uniform(np.bincount((first * 20).astype(int), minlength=20), 200)
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 4 / np.sqrt(4000)


@given(size=st.integers(1, 700), key=KEYS)
def test_permuted_index_is_a_permutation(size, key):
    images = [sampling.permuted_index(index, size, key) for index in range(size)]
    assert sorted(images) == list(range(size))


@given(size=st.integers(1, 10**12), index=st.integers(0, 10**12), key=KEYS)
def test_permuted_index_stays_in_a_range_of_any_size(size, index, key):
    assert 0 <= sampling.permuted_index(index % size, size, key) < size


def test_permuted_index_depends_on_the_key_and_leaves_no_order():
    images = [sampling.permuted_index(index, 1000, 5) for index in range(1000)]
    assert images != [sampling.permuted_index(index, 1000, 6) for index in range(1000)]
    assert abs(np.corrcoef(range(1000), images)[0, 1]) < 4 / np.sqrt(1000)
    assert sum(b == a + 1 for a, b in itertools.pairwise(images)) < 10


@pytest.mark.parametrize(("index", "size"), [(-1, 5), (5, 5), (0, 0)])
def test_permuted_index_refuses_what_is_outside(index, size):
    with pytest.raises(ValueError, match=rf"index must be in \[0, {size}\), got {index}"):
        sampling.permuted_index(index, size, 0)


@given(num_anchors=st.integers(1, 40), num_slots=st.integers(0, 200), key=KEYS)
def test_slot_anchor_uses_each_anchor_equally_often(num_anchors, num_slots, key):
    uses = collections.Counter(sampling.slot_anchor(slot, num_anchors, key) for slot in range(num_slots))
    assert set(uses) <= set(range(num_anchors))
    least, rest = divmod(num_slots, num_anchors)
    assert sorted(uses[anchor] for anchor in range(num_anchors)) == sorted(
        [least + 1] * rest + [least] * (num_anchors - rest)
    )


@given(before=st.integers(0, 50), own=st.integers(1, 50), after=st.integers(0, 50), seed=KEYS)
def test_draw_outside_is_never_inside(before, own, after, seed):
    if before + after == 0:
        return
    index = sampling.draw_outside(
        np.random.default_rng(seed), num_windows=before + own + after, own_start=before, own_count=own
    )
    assert 0 <= index < before or before + own <= index < before + own + after


def test_draw_outside_is_uniform():
    rng = np.random.default_rng(0)
    drawn = collections.Counter(
        sampling.draw_outside(rng, num_windows=12, own_start=4, own_count=3) for _ in range(9000)
    )
    assert set(drawn) == {0, 1, 2, 3, 7, 8, 9, 10, 11}
    assert is_uniform(drawn.values(), 1000)


def test_draw_outside_needs_an_outside():
    with pytest.raises(ValueError, match=r"every window is of one recording.*at least two recordings"):
        sampling.draw_outside(np.random.default_rng(0), num_windows=3, own_start=0, own_count=3)


@pytest.mark.parametrize(
    ("start_seconds", "gap", "expected"),
    [
        ([0.0, 10.0], 10.0, [False, False]),  # the gap must be strictly less
        ([0.0, 9.999], 10.0, [True, True]),
        ([0.0, 10.0, 19.0], 10.0, [False, True, True]),
        ([0.0, 0.0], 10.0, [True, True]),  # clips without a time of their own count as near
        ([0.0, 0.0, 50.0], 10.0, [True, True, False]),
        ([5.0], 10.0, [False]),
        ([], 10.0, []),
        ([0.0, 0.96, 1.92], 0.96, [False, False, False]),
        ([0.0, 0.96, 1.92], 0.97, [True, True, True]),
    ],
)
def test_proximity_anchors(start_seconds, gap, expected):
    anchors = sampling.Proximity(gap).anchors(np.array(start_seconds, np.float64))
    assert anchors.tolist() == expected


@given(
    start_seconds=st.lists(st.integers(0, 40), min_size=2, max_size=12).map(sorted),
    gap=st.integers(1, 12),
    seed=KEYS,
)
def test_proximity_draws_what_its_definition_says(start_seconds, gap, seed):
    times = np.array(start_seconds, np.float64)
    constraint = sampling.Proximity(float(gap))
    near = (abs(times[:, None] - times) < gap) & ~np.eye(len(times), dtype=bool)
    np.testing.assert_array_equal(constraint.anchors(times), near.any(axis=1))
    for anchor in np.flatnonzero(near.any(axis=1)):
        positive = constraint.draw_positive(times, int(anchor), np.random.default_rng(seed))
        assert near[anchor, positive]


@pytest.mark.parametrize(("anchor", "candidates"), [(0, {1, 2}), (3, {1, 2, 4, 5}), (4, {3, 5}), (5, {3, 4})])
def test_proximity_draws_candidates_equally_often(anchor, candidates):
    times = np.array([0.0, 3.0, 3.0, 7.0, 9.5, 10.0, 99.0])
    times = np.array([0.0, 3.0, 3.0, 6.9, 9.5, 10.0, 99.0]) if anchor == 3 else times
    constraint, rng = sampling.Proximity(5.0), np.random.default_rng(1)
    drawn = collections.Counter(constraint.draw_positive(times, anchor, rng) for _ in range(4000))
    assert set(drawn) == candidates
    assert is_uniform(drawn.values(), 4000 / len(candidates))


def test_proximity_leaves_the_positive_as_it_is():
    anchor, positive, negative = np.eye(3, dtype=np.float16)
    rng = np.random.default_rng(0)
    assert sampling.Proximity().alter_positive(anchor, positive, negative, rng) is positive


def test_parse_constraint():
    assert sampling.parse_constraint("proximity:2.5") == sampling.Proximity(2.5)
    assert sampling.parse_constraint("proximity") == sampling.Proximity(10.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nearness:10", r"constraint must be one of \['proximity'.*\], got 'nearness'"),
        ("", "got ''"),
        ("proximity:ten", "constraint 'proximity:ten': could not convert string to float: 'ten'"),
        ("proximity:0", "constraint 'proximity:0': max_time_gap_seconds must be positive, got 0.0"),
        ("proximity:-3", "must be positive, got -3.0"),
        ("proximity:nan", "must be positive, got nan"),
    ],
)
def test_parse_constraint_says_what_is_wrong(text, message):
    with pytest.raises(ValueError, match=message):
        sampling.parse_constraint(text)
