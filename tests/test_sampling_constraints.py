"""The constraints: their equations against loops, their distributions, silence, and their names."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tfsound import examples, sampling

SHAPE = (8, 6)
UNTIMED = settings(deadline=None)  # a busy machine may be slow
ALL = (
    sampling.Labels(),
    sampling.Noise(0.5),
    sampling.Translation(2),
    sampling.Mixing(0.25),
    sampling.Proximity(10.0),
)


def energies(seed, shape=SHAPE, scale=1.0) -> np.ndarray:
    """As they lie in clip examples: float16, not negative, not all different from 0."""
    rng = np.random.default_rng(seed)
    return (scale * rng.exponential(size=shape) * (rng.random(shape) > 0.1)).astype("<f2")


# Gaussian noise, section 3.2.2.


def test_noisy_is_its_equation():
    x = energies(0)
    found = sampling.noisy(x, 0.7, np.random.default_rng(5))
    rng = np.random.default_rng(5)
    expected = np.zeros(SHAPE)
    for t in range(SHAPE[0]):
        for f in range(SHAPE[1]):
            expected[t, f] = float(x[t, f]) * (1 + abs(0.7 * rng.standard_normal(dtype=np.float32)))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize("noise_stddev", [0.05, 0.5, 3.0])
def test_noise_is_half_normal_and_of_every_cell_its_own(noise_stddev):
    constraint, x = sampling.Noise(noise_stddev), np.full((96, 64), 2.0, np.float16)
    ratios = np.stack([constraint.alter_positive(x, None, number) / 2 for number in range(4)])
    noise = ratios.astype(np.float64) - 1
    assert stats.kstest(noise.ravel(), stats.halfnorm(scale=noise_stddev).cdf).pvalue > 1e-3
    assert noise.min() >= 0
    for axis in range(3):  # alterations, frames and bins know nothing of their neighbours
        first, second = np.delete(noise, 0, axis).ravel(), np.delete(noise, -1, axis).ravel()
        assert abs(np.corrcoef(first, second)[0, 1]) < 4 / np.sqrt(first.size)


def test_noise_is_decided_by_the_number_of_the_alteration():
    x, constraint = energies(1), sampling.Noise(0.5)
    assert constraint.num_alterations(SHAPE[0]) is None
    np.testing.assert_array_equal(
        constraint.alter_positive(x, None, 9), constraint.alter_positive(x, energies(2), 9)
    )
    assert (constraint.alter_positive(x, None, 9) != constraint.alter_positive(x, None, 10)).any()


# Time and frequency translation, section 3.2.3.


@pytest.mark.parametrize("time_shift", [0, 1, 3, 7])
@pytest.mark.parametrize("frequency_shift", [-5, -2, -1, 0, 1, 2, 5])
def test_translated_is_its_equation(time_shift, frequency_shift):
    x = energies(3)
    expected = np.zeros_like(x)
    for t in range(SHAPE[0]):
        for f in range(SHAPE[1]):
            if 0 <= f - frequency_shift < SHAPE[1]:
                expected[t, f] = x[(t - time_shift) % SHAPE[0], f - frequency_shift]
    found = sampling.translated(x, time_shift, frequency_shift)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == x.dtype


def test_translated_by_hand():
    x = np.array([[1, 2, 3], [4, 5, 6]], np.float16)
    assert sampling.translated(x, 1, 1).tolist() == [[0, 4, 5], [0, 1, 2]]
    assert sampling.translated(x, 0, -2).tolist() == [[3, 0, 0], [6, 0, 0]]
    assert x.tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(("bins", "frames"), [(0, 8), (2, 8), (5, 3)])
def test_translations_are_each_shift_of_the_ranges_once(bins, frames):
    """So a uniform number gives shifts uniform on [0, T - 1] and [-S, S]; that it is, `triplets` shows."""
    constraint, x = sampling.Translation(bins), energies(4, (frames, 6)) + np.float16(1)
    assert constraint.num_alterations(frames) == frames * (2 * bins + 1)
    found = {
        constraint.alter_positive(x, None, n).tobytes() for n in range(constraint.num_alterations(frames))
    }
    expected = {
        sampling.translated(x, time, frequency).tobytes()
        for time in range(frames)
        for frequency in range(-bins, bins + 1)
    }
    assert found == expected
    assert len(found) == frames * (2 * bins + 1)


# Example mixing, section 3.2.4.


@pytest.mark.parametrize("mixing_weight", [0.01, 0.25, 1.0, 4.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_mixed_is_its_equation_and_its_energy_ratio_exact(mixing_weight, scale):
    anchor, negative = energies(5), energies(6, scale=scale)
    found = sampling.mixed(anchor, negative, mixing_weight)
    anchor_energy = sum(float(anchor[t, f]) for t in range(SHAPE[0]) for f in range(SHAPE[1]))
    negative_energy = sum(float(negative[t, f]) for t in range(SHAPE[0]) for f in range(SHAPE[1]))
    expected = np.zeros(SHAPE)
    for t in range(SHAPE[0]):
        for f in range(SHAPE[1]):
            gain = mixing_weight * anchor_energy / negative_energy
            expected[t, f] = float(anchor[t, f]) + gain * float(negative[t, f])
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    added = found.astype(np.float64) - anchor
    assert added.sum() / anchor_energy == pytest.approx(mixing_weight, rel=1e-5)
    assert found.dtype == np.float32


def test_energies_add_up_where_float16_would_not():
    """A window of 6144 loud cells has more energy than float16 holds."""
    loud, soft = np.full((96, 64), 60000, np.float16), np.full((96, 64), 1e-4, np.float16)
    np.testing.assert_allclose(sampling.mixed(loud, soft, 0.5), 90000, rtol=1e-3)
    np.testing.assert_allclose(sampling.mixed(soft, loud, 0.5), 1.5e-4, rtol=1e-3)


# What no equation is for: it would be NaN, a negative energy or silence without a word.


@pytest.mark.parametrize("value", [-0.25, math.nan, math.inf, "0.25", None])
def test_the_equations_refuse_what_is_no_sigma_or_alpha(value):
    x = energies(11)
    with pytest.raises(ValueError, match=r"noise_stddev must be a number from 0 to 1e\+06, got"):
        sampling.noisy(x, value, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"mixing_weight must be a number from 0 to 1e\+06, got"):
        sampling.mixed(x, energies(12), value)


@pytest.mark.parametrize("shift", [6, -6, 7, -7, 100])
def test_translated_refuses_a_shift_that_leaves_nothing(shift):
    message = f"frequency_shift must be less than the 6 mel bins, up or down, got {shift}: nothing"
    with pytest.raises(ValueError, match=message):
        sampling.translated(energies(11), 0, shift)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (sampling.Noise, "noise_stddev must be a number from 0.001"),
        (sampling.Mixing, "mixing_weight must be a number from 0.001"),
        (sampling.Translation, "max_frequency_shift_bins must be a number from 0"),
        (sampling.Proximity, "max_time_gap_seconds must be positive"),
        (sampling.Coincidence, "max_time_gap_seconds must be positive"),
    ],
)
@pytest.mark.parametrize("value", ["10", None, [1.0]])
def test_a_parameter_that_is_no_number_is_refused(make, message, value):
    with pytest.raises(ValueError, match=message):
        make(value)


# Silence, in every constraint.


@pytest.mark.parametrize("constraint", ALL[1:], ids=lambda constraint: constraint.name)
def test_a_silent_anchor_has_a_silent_positive(constraint):
    silent, negative = np.zeros(SHAPE, np.float16), energies(7)
    for alteration in range(3):
        positive = constraint.alter_positive(silent, negative, alteration)
        np.testing.assert_array_equal(positive, silent)


def test_a_silent_negative_adds_nothing():
    anchor, silent = energies(8), np.zeros(SHAPE, np.float16)
    found = sampling.mixed(anchor, silent, 0.25)
    np.testing.assert_array_equal(found, anchor)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(sampling.mixed(silent, silent, 0.25), silent)


@UNTIMED
@given(
    anchor=st.integers(0, 9), negative=st.integers(0, 9), alteration=st.integers(0, 7),
    scales=st.tuples(st.sampled_from([0, 6e-8, 1, 6e4]), st.sampled_from([0, 6e-8, 1, 6e4])),
    constraint=st.sampled_from(
        [sampling.Noise(1e-3), sampling.Noise(1e6), sampling.Translation(5), sampling.Mixing(1e6)]
    ),
)  # fmt: skip
def test_no_energy_becomes_nan_infinite_or_negative(anchor, negative, alteration, scales, constraint):
    """Over all that float16 holds, and at the ends of the parameters."""
    x, n = (
        np.minimum(scale * energies(seed).astype(float), 65504).astype(np.float16)
        for seed, scale in zip((anchor, negative), scales, strict=True)
    )
    positive = constraint.alter_positive(x, n, alteration)
    assert np.isfinite(positive).all()
    assert positive.min() >= 0


# Temporal proximity, section 3.2.5.


@pytest.mark.parametrize(
    ("start_seconds", "gap", "expected"),
    [
        ([0.0, 10.0], 10.0, [0, 0]),  # the gap must be strictly less
        ([0.0, 9.999], 10.0, [1, 1]),
        ([0.0, 10.0, 19.0], 10.0, [0, 1, 1]),
        ([0.0, 0.0], 10.0, [1, 1]),  # clips without a time of their own count as near
        ([0.0, 0.0, 50.0], 10.0, [1, 1, 0]),
        ([0.0, 1.0, 2.0], math.inf, [2, 2, 2]),
        ([0.0, 0.96, 1.92], 1e-20, [0, 0, 0]),  # 0.96 - 1e-20 is 0.96
        ([5.0], 10.0, [0]),
        ([], 10.0, []),
        ([0.0, 0.96, 1.92], 0.96, [0, 0, 0]),
        ([0.0, 0.96, 1.92], 0.97, [1, 2, 1]),
    ],
)
def test_proximity_counts_positives(start_seconds, gap, expected):
    times = np.array(start_seconds, np.float64)
    found = sampling.Proximity(gap).num_positives(times, np.arange(len(times)))
    assert found.tolist() == expected
    for anchor, num_positives in enumerate(expected):
        assert sampling.Proximity(gap).num_positives(times, anchor) == num_positives


@UNTIMED
@given(
    start_seconds=st.lists(st.integers(0, 40), min_size=1, max_size=12).map(sorted), gap=st.integers(1, 12)
)
def test_proximity_positives_are_just_the_near_windows(start_seconds, gap):
    times, constraint = np.array(start_seconds, np.float64), sampling.Proximity(float(gap))
    near = (abs(times[:, None] - times) < gap) & ~np.eye(len(times), dtype=bool)
    for anchor in range(len(times)):
        choices = range(int(constraint.num_positives(times, anchor)))
        positives = [constraint.positive_window(times, anchor, choice) for choice in choices]
        assert positives == np.flatnonzero(near[anchor]).tolist()


def test_proximity_leaves_the_positive_as_it_is():
    positive = energies(9)
    assert sampling.Proximity().alter_positive(positive, energies(10), 0) is positive
    assert sampling.Proximity().num_alterations(96) == 1


@pytest.mark.parametrize("constraint", ALL[1:4], ids=lambda constraint: constraint.name)
def test_the_others_make_the_positive_of_the_anchor(constraint):
    times = np.arange(5.0)
    assert constraint.num_positives(times, np.arange(5)).tolist() == [1] * 5
    assert constraint.positive_window(times, 3, 0) == 3


def test_only_mixing_forbids_mining():
    assert [constraint.is_minable for constraint in ALL] == [True, True, True, False, True]


# Names and parameters.


def test_parse_constraint():
    assert sampling.parse_constraint("proximity:2.5") == sampling.Proximity(2.5)
    assert sampling.parse_constraint("translation:0") == sampling.Translation(0)
    for text, constraint in zip(
        ("labels", "noise", "translation:2", "mixing", "proximity"), ALL, strict=True
    ):
        assert sampling.parse_constraint(text) == constraint
    assert sampling.Translation() == sampling.Translation(10)


@UNTIMED
@given(
    number=st.floats(1e-3, 1e6),
    kind=st.sampled_from([sampling.Noise, sampling.Mixing, sampling.Proximity]),
    bins=st.integers(0, 10**6),
)
def test_constraint_text_is_the_inverse(number, kind, bins):
    for constraint in (kind(number), sampling.Translation(bins), sampling.Labels()):
        assert sampling.parse_constraint(sampling.constraint_text(constraint)) == constraint


def test_constraint_text_is_short():
    texts = [sampling.constraint_text(constraint) for constraint in ALL]
    assert texts == ["labels", "noise:0.5", "translation:2", "mixing:0.25", "proximity:10"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nearness:10", r"constraint must be one of \['labels', 'mixing', 'noise', .*\], got 'nearness'"),
        ("", "got ''"),
        ("labels:dog", "constraint 'labels:dog': labels takes no parameter"),
        (
            "proximity:ten",
            "^constraint 'proximity:ten': expected a number after the colon, as in proximity:10, got 'ten'",
        ),
        ("noise:", "^constraint 'noise:': expected a number after the colon, as in noise:0.5, got ''"),
        ("labels:", "constraint 'labels:': labels takes no parameter"),
        ("proximity:0", "constraint 'proximity:0': max_time_gap_seconds must be positive, got 0.0"),
        ("proximity:-3", "must be positive, got -3.0"),
        ("proximity:nan", "must be positive, got nan"),
        ("noise:-0.5", r"constraint 'noise:-0.5': noise_stddev must be a number from 0\.001 to .*got -0.5"),
        ("noise:0", r"noise_stddev must be a number from 0\.001 to 1e.06, got 0.0"),
        ("noise:nan", r"noise_stddev must be a number from 0\.001 to .*got nan"),
        ("noise:0.0001", r"from 0\.001 to 1e.06 \(less is lost in the float16 of stored .*got 0\.0001"),
        ("mixing:0.0009", r"mixing_weight must be .*\(less is lost in the float16 .*got 0\.0009"),
        ("noise:1e300", r"noise_stddev must be .*got 1e\+300"),  # 0 energy times inf would be NaN
        ("noise:loud", "expected a number after the colon, as in noise:0.5, got 'loud'"),
        ("mixing:-1", "constraint 'mixing:-1': mixing_weight must be a number from .*got -1.0"),
        ("mixing:inf", "mixing_weight must be .*got inf"),
        ("mixing:half", "expected a number after the colon, as in mixing:0.25, got 'half'"),
        ("translation:-1", r"max_frequency_shift_bins must be a number from 0 to 1e.06, got -1.0"),
        ("translation:1.5", "max_frequency_shift_bins must be a whole number, got 1.5"),
        ("translation:inf", "max_frequency_shift_bins must be .*got inf"),
        ("translation:nan", "max_frequency_shift_bins must be .*got nan"),
        ("translation:up", "expected a number after the colon, as in translation:10, got 'up'"),
    ],
)
def test_parse_constraint_says_what_is_wrong(text, message):
    with pytest.raises(ValueError, match=message):
        sampling.parse_constraint(text)


def test_parse_constraints_joined_or_apart():
    texts = ("noise:0.5,translation:10", "mixing:0.25", "proximity:10,labels")
    found = sampling.parse_constraints(texts)
    assert [constraint.name for constraint in found] == [
        "noise", "translation", "mixing", "proximity", "labels"
    ]  # fmt: skip
    assert len(sampling.parse_constraints(["noise:0.5,noise:1"])) == 2
    assert sampling.parse_constraints(",".join(texts)) == found
    assert (
        sampling.parse_constraints([" noise : 0.5, translation:10 ", "mixing , proximity,labels "]) == found
    )


@pytest.mark.parametrize("texts", [(), ("noise", "noise:0.5"), ("labels,labels",)])
def test_parse_constraints_refuses_none_and_one_twice(texts):
    with pytest.raises(ValueError, match="constraints must be at least one, each another, got"):
        sampling.parse_constraints(texts)


@UNTIMED
@given(text=st.text(max_size=12) | st.from_regex(r"(labels|noise|translation|mixing|proximity):.{0,6}"))
def test_any_text_is_a_constraint_or_an_error_of_ours(text):
    try:
        found = sampling.parse_constraints([text])
    except ValueError as error:
        with pytest.raises(ValueError, match=r"^constraint"):
            raise error
        return
    assert sampling.parse_constraints([",".join(map(sampling.constraint_text, found))]) == found


def test_a_shift_must_leave_something_of_a_window():
    sampling.require_fits([sampling.Translation(63), sampling.Proximity()], 64)
    message = "max_frequency_shift_bins must be less than the 64 mel bins, got 64: nothing"
    with pytest.raises(ValueError, match=message):
        sampling.require_fits([sampling.Noise(), sampling.Translation(64)], 64)


def test_altered_windows_can_be_stored():
    """Of ordinary sounds: what a constraint makes of float16 fits float16 again."""
    for constraint in ALL[1:]:
        for number in range(20):
            altered = constraint.alter_positive(energies(number), energies(99 - number), number)
            data = examples.encode_mel_energy(altered)
            np.testing.assert_allclose(examples.decode_mel_energy(data, 6), altered, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("constraint", [sampling.Noise(1e-3), sampling.Mixing(1e-3)])
def test_the_least_that_is_allowed_changes_most_of_what_is_stored(constraint):
    anchor, negative = np.abs(energies(0, (96, 64))) + np.float16(0.01), energies(1, (96, 64))
    stored = constraint.alter_positive(anchor, negative, 3).astype("<f2")
    assert np.mean(stored != anchor) > 0.5


# Coincidence of a window and a frame, coincidence 2020, section 3.1.


@pytest.mark.parametrize(
    ("starts", "frames", "gap", "expected"),
    [
        ([0.0, 1.0], [0.5], 10.0, [1, 1]),
        ([0.0, 1.0], [], 10.0, [0, 0]),
        ([], [1.0], 10.0, []),
        # Centres 0.5, 1.5, 2.5; the bound itself is near.
        ([0.0, 1.0, 2.0], [1.0, 2.0, 3.0], 0.5, [1, 2, 2]),
        ([0.0, 1.0, 2.0], [1.0, 2.0, 3.0], 0.49, [0, 0, 0]),
        ([0.0], [-5.0, -4.0, 5.0, 6.0], 5.0, [2]),
        ([0.0, 0.0], [0.5, 0.5], 0.1, [2, 2]),
        ([0.0], [-1e9, 1e9], math.inf, [2]),
    ],
)
def test_coincidence_counts_frames(starts, frames, gap, expected):
    constraint = sampling.Coincidence(gap, window_seconds=1.0)
    found = constraint.num_frames(np.array(starts), np.array(frames))
    assert found.tolist() == expected


TIMES = st.lists(st.integers(-40, 40).map(lambda quarter: quarter / 4), max_size=12).map(sorted)


@UNTIMED
@given(start=st.integers(-40, 40), frames=TIMES, gap=st.integers(1, 60).map(lambda quarter: quarter / 4))
def test_coincidence_chooses_just_the_near_frames(start, frames, gap):
    """All numbers are sums of quarters, so that no rounding decides at the bound."""
    constraint, times = sampling.Coincidence(gap, window_seconds=0.5), np.array(frames)
    near = [number for number, time in enumerate(frames) if abs(time - (start + 0.25)) <= gap]
    num_frames = int(constraint.num_frames(np.array([float(start)]), times)[0])
    found = [constraint.frame(float(start), times, choice) for choice in range(num_frames)]
    assert found == near


@UNTIMED
@given(starts=TIMES, frames=TIMES)
def test_the_smallest_gap_is_the_least_of_all(starts, frames):
    gaps = [abs(start + 0.25 - frame) for start in starts for frame in frames]
    constraint = sampling.Coincidence(1.0, window_seconds=0.5)
    assert constraint.smallest_gap(np.array(starts), np.array(frames)) == min(gaps, default=math.inf)


@pytest.mark.parametrize("gap", [0.0, -1.0, math.nan])
def test_coincidence_needs_a_positive_gap(gap):
    with pytest.raises(ValueError, match="max_time_gap_seconds must be positive, got"):
        sampling.Coincidence(gap)
