"""Draws: keys, permutations, choices, shares; exact where they claim to be, uniform elsewhere."""

import collections
import fractions
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tfsound import sampling

KEYS = st.integers(0, 2**64 - 1)
UNTIMED = settings(deadline=None)  # a busy machine may be slow
SIZES = st.lists(st.integers(1, 6), min_size=1, max_size=4)


def is_uniform(counts) -> bool:
    """Chi-square; a seeded draw passes always or never."""
    return stats.chisquare(list(counts)).pvalue > 1e-3


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
    assert stats.kstest(first, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 4 / np.sqrt(4000)


@UNTIMED
@given(size=st.integers(1, 700), key=KEYS)
def test_permuted_index_is_a_permutation(size, key):
    images = [sampling.permuted_index(index, size, key) for index in range(size)]
    assert sorted(images) == list(range(size))


@UNTIMED
@given(size=st.integers(1, 10**12), index=st.integers(0, 10**12), key=KEYS)
def test_permuted_index_stays_in_a_range_of_any_size(size, index, key):
    assert 0 <= sampling.permuted_index(index % size, size, key) < size


def test_permuted_index_depends_on_the_key_and_leaves_no_order():
    images = [sampling.permuted_index(index, 1000, 5) for index in range(1000)]
    assert images != [sampling.permuted_index(index, 1000, 6) for index in range(1000)]
    assert abs(np.corrcoef(range(1000), images)[0, 1]) < 4 / np.sqrt(1000)
    assert sum(b == a + 1 for a, b in itertools.pairwise(images)) < 10


@pytest.mark.parametrize("size", [2, 3, 4, 5, 7, 8, 9, 16, 17, 24])
def test_permuted_index_favours_nothing_over_many_keys(size):
    """Where the first two go, together, which four rounds are too few for in sizes from 4 to 16."""
    keys = [sampling.stable_hash("key", number) for number in range(5000)]
    pairs = collections.Counter(
        (sampling.permuted_index(0, size, key), sampling.permuted_index(1, size, key)) for key in keys
    )
    assert is_uniform(pairs[pair] for pair in itertools.permutations(range(size), 2))


@pytest.mark.parametrize("size", [300, 5000, 10**9])
def test_first_images_are_uniform_in_ranges_of_any_size(size):
    images = [sampling.permuted_index(0, size, sampling.stable_hash(number)) for number in range(5000)]
    assert is_uniform(np.bincount(np.array(images) * 50 // size, minlength=50))


@pytest.mark.parametrize(("index", "size"), [(-1, 5), (5, 5), (0, 0)])
def test_permuted_index_refuses_what_is_outside(index, size):
    with pytest.raises(ValueError, match=rf"index must be in \[0, {size}\), got {index}"):
        sampling.permuted_index(index, size, 0)


@UNTIMED
@given(num_anchors=st.integers(1, 40), num_slots=st.integers(0, 200), key=KEYS)
def test_slot_anchor_uses_each_anchor_once_before_one_again(num_anchors, num_slots, key):
    uses = collections.Counter()
    for slot in range(num_slots):
        times_used, anchor = sampling.slot_anchor(slot, num_anchors, key)
        assert 0 <= anchor < num_anchors
        assert times_used == uses[anchor] == slot // num_anchors
        uses[anchor] += 1


@UNTIMED
@given(sizes=SIZES, key=KEYS, first=st.integers(0, 3))
def test_choose_gives_each_combination_once_before_one_again(sizes, key, first):
    total = math.prod(sizes)
    numbers = range(first * total, (first + 1) * total)
    chosen = [tuple(sampling.choose(number, sizes, key)) for number in numbers]
    assert sorted(chosen) == list(itertools.product(*map(range, sizes)))
    assert tuple(sampling.choose(first * total, sizes, key)) == tuple(sampling.choose(0, sizes, key))


def test_first_choices_are_uniform_and_independent_over_keys():
    chosen = [sampling.choose(0, (3, 5, 4), sampling.stable_hash(7, key)) for key in range(6000)]
    combinations = collections.Counter(map(tuple, chosen))
    assert is_uniform(combinations[place] for place in itertools.product(range(3), range(5), range(4)))


@UNTIMED
@given(before=st.integers(0, 50), own=st.integers(0, 50), after=st.integers(0, 50))
def test_outside_is_what_is_not_inside(before, own, after):
    found = [sampling.outside(i, own_start=before, own_count=own) for i in range(before + after)]
    assert found == [*range(before), *range(before + own, before + own + after)]


@UNTIMED
@given(counts=st.lists(st.integers(0, 12), min_size=1, max_size=5).filter(any), key=KEYS)
def test_slot_source_gives_each_its_exact_count(counts, key):
    found = [sampling.slot_source(slot, counts, key) for slot in range(sum(counts))]
    assert sorted(found) == [(source, i) for source, count in enumerate(counts) for i in range(count)]


def test_slot_source_mixes_the_sources():
    sources = np.array([sampling.slot_source(slot, (3000, 1000), 5)[0] for slot in range(4000)])
    by_tenth = sources.reshape(10, 400).sum(axis=1)
    assert stats.chisquare(by_tenth).pvalue > 1e-3
    runs = np.mean(sources[:-1] == sources[1:])
    assert runs == pytest.approx(0.75**2 + 0.25**2, abs=0.03)


@UNTIMED
@given(
    count=st.integers(0, 10**18),
    shares=st.lists(st.floats(0, 1e9) | st.integers(0, 50), min_size=1, max_size=8).filter(any),
)
def test_split_count_is_exact_and_in_proportion(count, shares):
    counts = sampling.split_count(count, shares)
    assert sum(counts) == count
    total = sum(map(fractions.Fraction, shares))
    for found, share in zip(counts, shares, strict=True):
        assert abs(found - count * fractions.Fraction(share) / total) < 1


@pytest.mark.parametrize(
    ("count", "shares", "expected"),
    [
        (10, [1.0, 1.0, 1.0], (4, 3, 3)),
        (11, [1.0, 1.0, 1.0], (4, 4, 3)),
        (12, [1, 2, 1], (3, 6, 3)),
        (1, [1.0] * 5, (1, 0, 0, 0, 0)),
        (7, [0.0, 2.5], (0, 7)),
        (0, [1.0, 1.0], (0, 0)),
        (10**18, [0.1] * 10, (10**17,) * 10),  # a sum of floats falls short of 1
        (3, [1e308, 1e308, 1e308], (1, 1, 1)),  # and here it would be infinite
    ],
)
def test_split_count(count, shares, expected):
    assert sampling.split_count(count, shares) == expected


@pytest.mark.parametrize("shares", [[0.0, 0.0], [1.0, -0.5], [1.0, math.nan], [math.inf, 1.0], []])
def test_split_count_refuses_shares_that_are_none(shares):
    with pytest.raises(ValueError, match=r"shares must be finite and at least 0, not all 0, got \["):
        sampling.split_count(10, shares)
