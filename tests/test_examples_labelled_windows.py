"""Tests of labelled windows: which are found, where, what the batches of a stream hold, restarts."""

import collections
import dataclasses
import os

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from tfsound import examples

NAMES = ("a", "b", "c")
# Clips of 3 windows and a bit; the last is shorter than a window.
CLIPS = [
    tiny.make_clip(0, num_frames=26, labels=("a",), fold="1"),
    tiny.make_clip(1, num_frames=26, labels=("b", "a"), fold="1"),
    tiny.make_clip(2, num_frames=26, labels=(), fold="2"),
    tiny.make_clip(3, num_frames=26, labels=("c",), fold="2"),
    tiny.make_clip(4, num_frames=7, labels=("c",), fold="2"),
]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return tiny.write_clips(tmp_path_factory.mktemp("examples") / "clips", CLIPS)


def energies_of(clip, window):
    frames = tiny.PARAMS.context_frames
    return clip.mel_energy[window * frames : (window + 1) * frames]


def log_mel_of(clip, window):
    return np.log(energies_of(clip, window).astype(np.float32) + np.float32(tiny.PARAMS.log_offset))


def make_labels(rows, *, known=None, names=NAMES, clip_list=CLIPS):
    """Labels by {(clip number, window number): confidences}."""
    return tiny.window_labels(clip_list, rows, names, known=known)


def batches_of(windows, count, **options):
    stream = examples.labelled_window_dataset(windows, **({"batch_size": 4} | options))
    return list(stream.take(count).as_numpy_iterator())


def contents(windows):
    """{bytes of a window's log-mel: its labels}, by one natural epoch."""
    (batch,) = batches_of(windows, 1, batch_size=windows.num_windows)
    pairs = zip(batch["log_mel"], batch["labels"], strict=True)
    return {log_mel.tobytes(): tuple(labels.tolist()) for log_mel, labels in pairs}


def test_every_window_has_the_labels_of_its_clip_and_unlabelled_clips_are_left_out(clips):
    windows = examples.index_labelled_windows(clips)
    found = contents(windows)
    labels = {0: (1, 0, 0), 1: (1, 1, 0), 3: (0, 0, 1)}
    expected = {(clip, window): labels[clip] for clip in labels for window in range(3)}
    assert len(found) == windows.num_windows == 9
    for (clip, window), own in expected.items():
        ((log_mel, other),) = [
            (key, value)
            for key, value in found.items()
            if np.allclose(
                np.frombuffer(key, np.float32).reshape(tiny.WINDOW), log_mel_of(CLIPS[clip], window)
            )
        ]
        assert other == own
        del found[log_mel]
    assert windows.class_names == NAMES
    np.testing.assert_array_equal(windows.num_windows_of_class, [6, 3, 3])
    assert str(windows) == "9 labelled windows of 3 of 3 classes"


def test_labels_of_windows_are_found_by_clip_and_start_and_uncertain_ones_left_out(clips):
    rows = {(0, 1): (0.25, 0, 0), (2, 0): (0, 0.5, 1), (2, 2): (0, 0, 0), (3, 1): (1, 0, 0)}
    windows = examples.index_labelled_windows(clips, make_labels(rows, known=[True, True, True, False]))
    found = contents(windows)
    assert len(found) == 3
    for clip, window in list(rows)[:3]:
        (labels,) = [
            value
            for key, value in found.items()
            if np.allclose(
                np.frombuffer(key, np.float32).reshape(tiny.WINDOW), log_mel_of(CLIPS[clip], window)
            )
        ]
        assert labels == rows[clip, window]
    assert str(windows) == "3 labelled windows of 3 of 3 classes"
    fewer = examples.index_labelled_windows(clips, make_labels({(0, 0): (1, 0, 0)}))
    assert str(fewer) == "1 labelled windows of 1 of 3 classes; none of b, c"


def test_folds_are_chosen_and_left_out(clips):
    assert examples.index_labelled_windows(clips, folds=("1",)).num_windows == 6
    assert examples.index_labelled_windows(clips, exclude_folds=("1",)).num_windows == 3
    labels = make_labels({(0, 0): (1, 0, 0), (3, 0): (0, 0, 1)})
    # Labels of a fold that is left out are no labels of other clips.
    assert examples.index_labelled_windows(clips, labels, folds=("2",)).num_windows == 1


def test_labels_of_other_clips_are_an_error(clips):
    strange = [dataclasses.replace(clip, clip_id="x" + clip.clip_id) for clip in CLIPS]
    rows = {(0, 0): (1, 0, 0), (1, 0): (1, 0, 0)}
    with pytest.raises(
        examples.DatasetError, match=r"2 of 2 labelled windows are not in .*'xclip-0' at 0\.0 s"
    ):
        examples.index_labelled_windows(clips, make_labels(rows, clip_list=strange))
    # The right clip, and a window that it does not hold; and one between two.
    with pytest.raises(
        examples.DatasetError, match=r"1 of 1 labelled windows are not in .*'clip-0' at 0\.24 s"
    ):
        examples.index_labelled_windows(clips, make_labels({(0, 3): (1, 0, 0)}))
    labels = make_labels(rows)
    moved = dataclasses.replace(labels, start_seconds=labels.start_seconds + 0.001)
    with pytest.raises(examples.DatasetError, match="2 of 2 labelled windows are not in"):
        examples.index_labelled_windows(clips, moved)
    nearer = dataclasses.replace(labels, start_seconds=labels.start_seconds + 0.0004)
    assert examples.index_labelled_windows(clips, nearer).num_windows == 2


def test_nothing_labelled_is_an_error(clips, tmp_path):
    with pytest.raises(examples.DatasetError, match="holds no labelled window"):
        examples.index_labelled_windows(clips, make_labels({}))
    with pytest.raises(examples.DatasetError, match="holds no labelled window"):
        examples.index_labelled_windows(clips, make_labels({(0, 0): (1, 0, 0)}, known=[False]))
    with pytest.raises(examples.DatasetError, match=r"in folds \['2'\]"):
        examples.index_labelled_windows(clips, make_labels({(0, 0): (1, 0, 0)}), folds=("2",))
    unlabelled = tiny.write_clips(tmp_path / "clips", [tiny.make_clip(0)])
    with pytest.raises(examples.DatasetError, match="holds no labelled window"):
        examples.index_labelled_windows(unlabelled)
    with pytest.raises(examples.DatasetError, match="fold '7' does not occur"):
        examples.index_labelled_windows(clips, exclude_folds=("7",))
    with pytest.raises(examples.DatasetError, match="is not a folder"):
        examples.index_labelled_windows(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("class_balance", examples.CLASS_BALANCES)
def test_a_stream_is_the_same_from_any_batch_on(clips, class_balance):
    windows = examples.index_labelled_windows(clips)
    whole = batches_of(windows, 8, class_balance=class_balance, seed=5)
    for first in (0, 1, 3, 6):
        rest = batches_of(windows, 8 - first, class_balance=class_balance, seed=5, first_batch=first)
        for one, other in zip(whole[first:], rest, strict=True):
            for name in ("log_mel", "labels"):
                np.testing.assert_array_equal(one[name], other[name])
    other = batches_of(windows, 8, class_balance=class_balance, seed=6)
    assert any(not np.array_equal(a["log_mel"], b["log_mel"]) for a, b in zip(whole, other, strict=True))


def drawn(windows, count, class_balance, seed):
    draws = examples.labelled_windows._Draws(windows, class_balance, seed)
    return [draws.window(place) for place in range(count)]


@given(st.integers(0, 2**31), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_naturally_every_window_comes_once_an_epoch_in_another_order_each(clips, seed, num_epochs):
    windows = examples.index_labelled_windows(clips)
    found = np.reshape(drawn(windows, 9 * num_epochs, "natural", seed), (num_epochs, 9))
    np.testing.assert_array_equal(np.sort(found, axis=1), np.tile(np.arange(9), (num_epochs, 1)))
    assert num_epochs == 1 or len({tuple(epoch) for epoch in found.tolist()}) > 1


@given(st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_uniformly_every_class_comes_equally_often_and_every_window_of_it(clips, seed):
    # Class a has 8 windows, b one, c none, and one window is of no class.
    rows = {(clip, window): (1, 0, 0) for clip in (0, 1) for window in range(3)}
    rows |= {(2, 0): (0.5, 0, 0), (2, 1): (1, 0, 0), (3, 0): (0, 1, 0), (3, 1): (0, 0, 0)}
    windows = examples.index_labelled_windows(clips, make_labels(rows))
    found = drawn(windows, 3 * 16, "uniform", seed)
    labels = windows.row_labels[windows.row[found]] > 0
    kinds = collections.Counter(map(tuple, labels.tolist()))
    assert kinds == {(True, False, False): 16, (False, True, False): 16, (False, False, False): 16}
    # Any three in a row are one of each.
    assert {len(set(map(tuple, part.tolist()))) for part in labels.reshape(16, 3, 3)} == {3}
    counts = collections.Counter(window for window, own in zip(found, labels, strict=True) if own[0])
    assert sorted(counts.values()) == [2] * 8


def test_a_batch_may_be_larger_than_the_set(clips):
    windows = examples.index_labelled_windows(clips, make_labels({(0, 0): (1, 0, 0), (1, 0): (0, 1, 0)}))
    (batch,) = batches_of(windows, 1, batch_size=6)
    np.testing.assert_array_equal(batch["labels"].sum(axis=0), [3, 3, 0])


def test_a_digest_tells_windows_and_labels_apart_and_not_folders(clips, tmp_path):
    first = examples.index_labelled_windows(clips).digest
    copy = tiny.write_clips(tmp_path / "clips", CLIPS)
    assert examples.index_labelled_windows(copy).digest == first
    others = [
        examples.index_labelled_windows(clips, folds=("1",)),
        examples.index_labelled_windows(clips, make_labels({(0, 0): (1, 0, 0)})),
        examples.index_labelled_windows(clips, make_labels({(0, 0): (0.5, 0, 0)})),
        examples.index_labelled_windows(clips, make_labels({(0, 1): (1, 0, 0)})),
        examples.index_labelled_windows(clips, make_labels({(0, 0): (1, 0, 0)}, names=("a", "b", "d"))),
    ]
    assert len({first, *(windows.digest for windows in others)}) == 6


def test_a_damaged_clip_set_is_named_before_anything_is_drawn(tmp_path):
    clips = tiny.write_clips(tmp_path / "clips", CLIPS)
    tiny.flip_byte(os.path.join(clips, "clips-00001.tfrecord"), 200)
    with pytest.raises(examples.DatasetError, match=r"clips-00001\.tfrecord is damaged"):
        examples.index_labelled_windows(clips)


@pytest.mark.parametrize(("damage", "message"), [(os.remove, "cannot be read"), (None, "ends early")])
def test_a_shard_that_goes_while_it_is_read_is_named(tmp_path, damage, message):
    clips = tiny.write_clips(tmp_path / "clips", CLIPS)
    windows = examples.index_labelled_windows(clips)
    for path in windows.paths:
        (damage or (lambda path: os.truncate(path, 100)))(path)
    reader = examples.labelled_windows._Reader(windows)
    with pytest.raises(examples.DatasetError, match=rf"clips-0000\d\.tfrecord {message}"):
        reader.read(0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"class_balance": "even"}, "class_balance must be one of .*, got 'even'"),
    ],
)
def test_options_out_of_range_are_refused(clips, options, message):
    windows = examples.index_labelled_windows(clips)
    with pytest.raises(ValueError, match=message):
        batches_of(windows, 1, **options)
