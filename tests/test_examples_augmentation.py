"""Tests of tfsound.examples.augmentation: what stays of a clip, how often each change comes, silence."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfsound import examples

UNTIMED = settings(deadline=None, max_examples=60)
FLIP_ONLY = examples.Augmentation(flip=True, max_time_scale=1.0, shift=False)
SHIFT_ONLY = examples.Augmentation(flip=False, max_time_scale=1.0, shift=True)


def ramp(num_frames, num_columns=3):
    """Frame t holds t + 1, so that a frame tells where it comes from."""
    return np.tile(np.arange(1, num_frames + 1, dtype=np.float32)[:, None], (1, num_columns))


def view(energies, num_frames, augmentation, uniform=(0.9, 0.5, 0.0)):
    return examples.augment(tf.constant(energies), num_frames, augmentation, tf.constant(uniform)).numpy()


@UNTIMED
@given(
    num_frames=st.integers(1, 30),
    length=st.integers(1, 30),
    place=st.floats(0, 1, exclude_max=True, width=32),
)
def test_a_view_is_one_stretch_of_the_clip_in_silence(num_frames, length, place):
    found = view(ramp(length), num_frames, SHIFT_ONLY, (0.0, 0.0, place))[:, 0]
    kept = found[found > 0]
    assert len(kept) == min(length, num_frames)
    assert (np.diff(kept) == 1).all()
    assert (np.diff(np.flatnonzero(found)) == 1).all()


@pytest.mark.parametrize(("length", "num_frames"), [(12, 8), (8, 12), (8, 8)])
def test_all_places_come_equally_often(length, num_frames):
    rng = np.random.default_rng(0)
    starts = []
    for place in rng.uniform(size=1500).astype(np.float32):
        found = view(ramp(length), num_frames, SHIFT_ONLY, (0.0, 0.0, place))[:, 0]
        starts.append(int(found[0]) - 1 if length > num_frames else int(np.flatnonzero(found)[0]))
    counts = np.bincount(starts, minlength=abs(length - num_frames) + 1)
    assert len(counts) == abs(length - num_frames) + 1
    expected = 1500 / len(counts)
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected) + 1e-9


def test_without_a_shift_both_begin_together():
    np.testing.assert_array_equal(view(ramp(9), 4, examples.NO_AUGMENTATION), ramp(9)[:4])
    np.testing.assert_array_equal(
        view(ramp(2), 4, examples.NO_AUGMENTATION), np.concatenate([ramp(2), np.zeros((2, 3))])
    )


def test_a_flip_is_the_clip_backwards_every_second_time():
    np.testing.assert_array_equal(view(ramp(5), 5, FLIP_ONLY, (0.49, 0.0, 0.0)), ramp(5)[::-1])
    np.testing.assert_array_equal(view(ramp(5), 5, FLIP_ONLY, (0.5, 0.0, 0.0)), ramp(5))


@pytest.mark.parametrize(("uniform", "expected"), [(0.0, 80), (0.5, 100), (1.0, 125)])
def test_a_scaled_clip_is_up_to_a_quarter_longer_and_keeps_its_course(uniform, expected):
    scaled = examples.scale_time(tf.constant(ramp(100)), 1.25 ** (2 * uniform - 1)).numpy()
    assert scaled.shape == (expected, 3)
    centres = (np.arange(expected) + 0.5) * 100 / expected + 0.5  # of what each frame is made of
    np.testing.assert_allclose(scaled[1:-1, 0], centres[1:-1], atol=1e-3)
    augmentation = examples.Augmentation(flip=False, shift=False)
    found = view(ramp(100), 130, augmentation, (0.9, uniform, 0.0))[:, 0]
    assert np.count_nonzero(found) == expected


def test_padding_at_the_end_is_no_part_of_a_clip():
    padded = np.concatenate([ramp(3), np.zeros((5, 3), np.float32)])
    found = {
        tuple(view(padded, 8, SHIFT_ONLY, (0.0, 0.0, place))[:, 0])
        for place in np.arange(0, 1, 0.05, dtype=np.float32)
    }
    assert len(found) == 6  # three frames in eight
    assert all(row.count(0) == 5 for row in found)


@pytest.mark.parametrize("augmentation", [examples.Augmentation(), examples.NO_AUGMENTATION])
def test_silence_stays_silence(augmentation):
    np.testing.assert_array_equal(view(np.zeros((6, 3), np.float32), 4, augmentation), np.zeros((4, 3)))


@pytest.mark.parametrize("factor", [0.99, -1.0, float("inf"), float("nan")])
def test_a_factor_below_one_is_refused(factor):
    with pytest.raises(ValueError, match=f"max_time_scale must be at least 1 and finite, got {factor}"):
        examples.Augmentation(max_time_scale=factor)
