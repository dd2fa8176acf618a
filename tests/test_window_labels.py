"""Tests of tfsound.window_labels: arrays of labels, and the names of windows. Folders: the job `answers`."""

import dataclasses
import gc
import json
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfsound import active_learning as al
from tfsound import window_labels
from tfsound.window_labels import WindowLabels

LABELS = WindowLabels(
    clip_ids=("a", "a", "b"),
    start_seconds=np.asarray([0.0, 0.96, 2.5]),
    row=np.asarray([1, 0, 1], np.int32),
    row_labels=np.asarray([[1, 0], [0.25, 0.5]], np.float32),
    row_is_known=np.asarray([True, False]),
    class_names=("cat", "dog"),
)


def test_windows_share_rows():
    np.testing.assert_array_equal(LABELS.labels, [[0.25, 0.5], [1, 0], [0.25, 0.5]])
    np.testing.assert_array_equal(LABELS.mask, [[False] * 2, [True] * 2, [False] * 2])
    assert rows_by_name(LABELS, [("a", 0), ("a", 960), ("b", 2500)]) == [1, 0, 1]


def rows_by_name(labels, names):
    finder = labels.finder()
    return [labels.row[int(finder.find(clip_id, [start])[0])] for clip_id, start in names]


def test_starts_are_named_to_the_millisecond():
    starts = window_labels.window_starts(0.1, 3, 0.96)
    assert starts == [0.1, 1.06, 2.02]
    # As a TFRecord gives them back, in single precision.
    again = window_labels.window_starts(float(np.float32(0.1)), 3, 0.96)
    np.testing.assert_array_equal(window_labels.milliseconds(again), [100, 1060, 2020])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start_seconds": np.zeros(2)}, r"start_seconds must have shape \(3,\), got \(2,\)"),
        ({"row": np.zeros(4, np.int32)}, r"row must have shape \(3,\), got \(4,\)"),
        ({"row": np.asarray([0, 1, 2])}, r"row must be from 0 to 1, got \[0 1 2\]"),
        ({"row": np.asarray([0, 1, -1])}, r"row must be from 0 to 1"),
        ({"row_labels": np.zeros((2, 3))}, r"row_labels must have shape \(2, 2\), got \(2, 3\)"),
        ({"row_labels": np.full((2, 2), 1.5)}, r"confidences in \[0, 1\]"),
        ({"row_labels": np.full((2, 2), np.nan)}, r"confidences in \[0, 1\]"),
        ({"row_is_known": np.ones(3, bool)}, r"row_is_known must have shape \(2,\), got \(3,\)"),
        ({"class_names": ("dog", "dog")}, "class_names must differ"),
        ({"start_seconds": np.asarray([0, np.nan, 1])}, "start_seconds must be seconds"),
        ({"start_seconds": np.asarray([0, 1e300, 1])}, "start_seconds must be seconds"),
        ({"start_seconds": np.asarray([0, 1e-5, 1])}, "a window is labelled twice"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(al.ActiveLearningError, match=message):
        dataclasses.replace(LABELS, **changes)


def test_nothing_labelled_is_no_error():
    empty = dataclasses.replace(LABELS, clip_ids=(), start_seconds=np.zeros(0), row=np.zeros(0, np.int32))
    assert (empty.labels.shape, empty.finder().find("a", [0]).tolist()) == ((0, 2), [-1])


def test_a_window_that_is_labelled_twice_in_a_folder_is_refused_and_the_file_named(tmp_path):
    line = (
        '{"clip_id": "a", "recording_id": "r", "start_seconds": 0, "end_seconds": 1, "kind": "negative", '
        '"labels": [], "confidence": [], "source": "direct"}\n'
    )
    (tmp_path / "labels.jsonl").write_text(2 * line)
    (tmp_path / "labels.json").write_text('{"format": 1, "class_names": ["a"], "num_labelled_windows": 2}')
    with pytest.raises(al.ActiveLearningError, match=r"labels\.jsonl: a window is labelled twice"):
        window_labels.read_propagated_labels(str(tmp_path))


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=30),
    st.sampled_from("abcd"), st.lists(st.integers(-2, 11), max_size=8),
)  # fmt: skip
def test_windows_are_found_by_clip_and_start(names, clip_id, starts):
    clips = [clip for clip, _ in names]
    finder = window_labels.WindowFinder(
        "abc",
        np.asarray(["abc".index(clip) for clip in clips], int),
        np.asarray([s for _, s in names]) / 1000,
    )
    found = finder.find(clip_id, starts)
    assert [int(window) >= 0 for window in found] == [(clip_id, start) in names for start in starts]
    assert all(names[window] == (clip_id, start) for window, start in zip(found, starts, strict=True)
               if window >= 0)  # fmt: skip
    repeats = finder.repeats().tolist()
    assert len(repeats) == len(set(repeats)) == len(names) - len(set(names))
    assert {names[window] for window in range(len(names)) if window not in repeats} == set(names)


def test_a_million_windows_fit_in_memory(tmp_path):
    """What is held and the peak, a window: no object of Python's each, and texts once a clip."""
    num_clips, windows_a_clip = 2000, 10
    with open(tmp_path / "labels.jsonl", "w") as file:
        for clip in range(num_clips):
            for window in range(windows_a_clip):
                record = {
                    "clip_id": f"clip-{clip}", "recording_id": f"recording-{clip}", "kind": "negative",
                    "start_seconds": 0.96 * window, "end_seconds": 0.96 * (window + 1), "labels": [],
                    "confidence": [], "source": "direct",
                }  # fmt: skip
                file.write(json.dumps(record) + "\n")
    info = {"format": 1, "class_names": ["a"], "num_labelled_windows": num_clips * windows_a_clip}
    (tmp_path / "labels.json").write_text(json.dumps(info))
    gc.collect()
    tracemalloc.start()
    labels = window_labels.read_propagated_labels(str(tmp_path))
    gc.collect()
    held, peak = (size / len(labels.row) for size in tracemalloc.get_traced_memory())
    tracemalloc.stop()
    assert held < 80, f"{held:.0f} bytes a window"
    assert peak < 200, f"{peak:.0f} bytes a window"


def test_it_needs_no_tensorflow():
    code = "import sys, tfsound.window_labels; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
