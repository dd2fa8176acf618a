"""Tests of tfsound.evaluation.labelled_windows: which window has which labels, and what is refused."""

import dataclasses
import re

import numpy as np
import pytest
import tiny

from tfsound import evaluation, examples, metrics


def make_windows(**fields):
    """Five windows of three segments; the second segment has windows 1 and 4."""
    defaults = {
        "features": np.arange(10, dtype=np.float32).reshape(5, 2),
        "segment_index": np.array([0, 1, 2, 2, 1]),
        "labels": np.array([[True, False], [False, True], [True, True]]),
        "recording_ids": ("r0", "r1", "r2"),
        "class_names": ("bell", "dog"),
    }
    return evaluation.LabelledWindows(**(defaults | fields))


def test_segment_means_by_hand():
    np.testing.assert_array_equal(make_windows().segment_means(), [[0, 1], [5, 6], [5, 6]])


def test_segment_means_of_log_mel_windows_are_long_vectors():
    features = np.arange(30, dtype=np.float16).reshape(5, 3, 2)
    means = make_windows(features=features).segment_means()
    assert (means.shape, means.dtype) == ((3, 6), np.float32)
    np.testing.assert_array_equal(means[1], (np.arange(6, 12) + np.arange(24, 30)) / 2)


def test_selecting_by_hand():
    selected = make_windows().select([2, 1])
    np.testing.assert_array_equal(selected.features, [[2, 3], [4, 5], [6, 7], [8, 9]])
    assert selected.segment_index.tolist() == [1, 0, 0, 1]
    assert selected.labels.tolist() == [[True, True], [False, True]]
    assert (selected.recording_ids, selected.class_names) == (("r2", "r1"), ("bell", "dog"))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_embedding_agrees_with_segments(dtype):
    clips = [
        tiny.make_clip(n, labels=(("bell", "dog")[n % 2],), num_frames=8 * (1 + n % 3)) for n in range(7)
    ]
    windows = evaluation.embed_windows(
        iter(clips), evaluation.embed_baseline, tiny.PARAMS, class_names=("dog", "ant", "bell"), dtype=dtype
    )
    segments = evaluation.embed_segments(clips, evaluation.embed_baseline, tiny.PARAMS)
    assert (windows.features.dtype, windows.features.shape) == (dtype, (13, 64))
    assert windows.segment_index.tolist() == [0, 1, 1, 2, 2, 2, 3, 4, 4, 5, 5, 5, 6]
    assert windows.recording_ids == segments.recording_ids
    assert windows.labels.tolist() == [[n % 2 == 1, False, n % 2 == 0] for n in range(7)]
    np.testing.assert_allclose(windows.segment_means(), segments.embeddings, rtol=2e-3, atol=1e-3)
    if dtype is np.float32:
        found = metrics.query_by_example_map(windows.segment_means(), windows.labels)
        assert found.mean == evaluation.query_by_example(segments).mean


def test_log_mel_windows_stay_as_they_are():
    clip = tiny.make_clip(0, labels=("bell",))
    windows = evaluation.embed_windows([clip], None, tiny.PARAMS)
    np.testing.assert_array_equal(windows.features, examples.clip_windows(clip, tiny.PARAMS))
    assert windows.class_names == ("bell",)


def test_features_may_lie_on_disk(tmp_path):
    features = np.memmap(tmp_path / "features", np.float16, "w+", shape=(5, 2))
    features[:] = np.arange(10).reshape(5, 2)
    windows = make_windows(features=features)
    assert isinstance(windows.features, np.memmap)
    np.testing.assert_array_equal(windows.segment_means(), make_windows().segment_means())


def test_no_clips_are_refused():
    with pytest.raises(evaluation.EvaluationError, match="there is no clip to embed; name other folds"):
        evaluation.embed_windows([], None, tiny.PARAMS)


def test_clips_without_a_label_are_refused():
    with pytest.raises(evaluation.EvaluationError, match="none of 1 segments has a label"):
        evaluation.embed_windows([tiny.make_clip(0)], None, tiny.PARAMS, class_names=("bell",))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_by_its_recording(value):
    features = np.ones((600, 2), np.float32)
    features[450, 1] = value
    with pytest.raises(evaluation.EvaluationError, match="in window 450, of recording 'r225'"):
        evaluation.LabelledWindows(
            features, np.repeat(np.arange(300), 2), np.ones((300, 1), bool),
            tuple(f"r{n}" for n in range(300)), ("bell",),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"features": np.zeros((0, 2), np.float32)}, "there is nothing: 0 windows of 3 segments"),
        ({"labels": np.zeros((0, 2), bool)}, "there is nothing: 5 windows of 0 segments"),
        ({"labels": np.zeros((3, 2), bool)}, "none of 3 segments has a label"),
        ({"labels": np.zeros((3, 0), bool)}, "none of 3 segments has a label"),
        ({"labels": np.ones((3, 2))}, "labels must be bool (segments, classes), got float64 (3, 2)"),
        ({"features": np.ones((5, 2))}, "must be float16 or float32, (windows, ...), got float64 (5, 2)"),
        ({"features": np.ones(5, np.float32)}, "got float32 (5,)"),
        ({"segment_index": np.array([0, 1, 2])}, "segment_index must be int (5,), got int64 (3,)"),
        (
            {"segment_index": np.array([0, 1, 1, 1, 1])},
            "every one of the 3 segments and no other, got 2 from",
        ),
        ({"segment_index": np.array([0, 1, 2, 3, 1])}, "got 4 from 0 to 3"),
        ({"segment_index": np.array([0, 1, 2, -1, 1])}, "got 4 from -1 to 2"),
        ({"recording_ids": ("r0",)}, "recording_ids must be 3, as labels (3, 2) say, got 1"),
        ({"class_names": ("bell",)}, "class_names must be 2, as labels (3, 2) say, got 1"),
    ],
)
def test_what_does_not_fit_is_refused(fields, message):
    with pytest.raises(evaluation.EvaluationError, match=re.escape(message)):
        make_windows(**fields)


def test_a_segment_selected_twice_is_refused():
    with pytest.raises(evaluation.EvaluationError, match="every one of the 2 segments"):
        make_windows().select([1, 1])


def test_windows_cannot_be_exchanged():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_windows().features = np.zeros((5, 2), np.float32)
