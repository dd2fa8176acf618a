"""Tests of tfsound.evaluation.segments: windows and segments of clips, against loops written out anew."""

import numpy as np
import pytest
import tiny

from tfsound import evaluation, examples

LABELS = (("bell",), ("dog",), ("rain",))


def naive_segment(clip, embed_window):
    """The mean over windows, one window at a time."""
    vectors = []
    for start in range(0, len(clip.mel_energy) - 7, 8):
        window = np.log(clip.mel_energy[start : start + 8].astype(np.float64) + 0.01)
        vectors.append(embed_window(window))
    return np.mean(vectors, axis=0)


def test_windows_are_those_of_the_front_end():
    clip = tiny.make_clip(0, num_frames=19)
    windows = examples.clip_windows(clip, tiny.PARAMS)
    assert (windows.shape, windows.dtype) == ((2, 8, 8), np.float32)
    expected = np.log(clip.mel_energy[:16].astype(np.float64) + 0.01).reshape(2, 8, 8)
    np.testing.assert_allclose(windows, expected, atol=1e-6)


def test_a_clip_shorter_than_a_window_is_refused():
    clip = tiny.make_clip(4, num_frames=7)
    with pytest.raises(examples.DatasetError, match="clip 'clip-4' is shorter than a context window"):
        examples.clip_windows(clip, tiny.PARAMS)
    with pytest.raises(examples.DatasetError, match="clip 'clip-4' is shorter than a context window"):
        evaluation.embed_segments([clip], evaluation.embed_baseline, tiny.PARAMS)


def test_the_baseline_is_the_window_as_a_vector():
    windows = np.arange(2 * 8 * 8, dtype=np.float32).reshape(2, 8, 8)
    np.testing.assert_array_equal(evaluation.embed_baseline(windows), [np.arange(64), np.arange(64, 128)])


@pytest.mark.parametrize("windows_per_batch", [1, 5, 256])
def test_segments_agree_with_a_naive_loop(monkeypatch, windows_per_batch):
    monkeypatch.setattr(evaluation.segments, "WINDOWS_PER_BATCH", windows_per_batch)
    clips = [tiny.make_clip(n, labels=LABELS[n % 3], num_frames=8 * (1 + n % 4) + 3) for n in range(11)]
    projection = np.random.default_rng(0).normal(size=(64, 5)).astype(np.float32)
    sizes = []

    def embed(log_mel):
        sizes.append(len(log_mel))
        return np.tanh(log_mel.reshape(len(log_mel), -1) @ projection)

    segments = evaluation.embed_segments(iter(clips), embed, tiny.PARAMS)
    expected = [naive_segment(clip, lambda window: np.tanh(window.ravel() @ projection)) for clip in clips]
    assert segments.embeddings.dtype == np.float32
    np.testing.assert_allclose(segments.embeddings, expected, atol=1e-5)
    assert segments.clip_ids == tuple(f"clip-{i}" for i in range(11))
    assert segments.recording_ids == tuple(f"recording-{i}" for i in range(11))
    assert segments.labels == tuple(clip.labels for clip in clips)
    assert sum(sizes) == sum(len(clip.mel_energy) // 8 for clip in clips)
    assert max(sizes) <= windows_per_batch + 3


def test_of_long_windows_fewer_are_embedded_at_a_time(monkeypatch):
    monkeypatch.setattr(examples.clips, "_NUMBERS_PER_CALL", 5 * 64)
    clips, sizes = [tiny.make_clip(n, num_frames=16) for n in range(7)], []

    def embed(log_mel):
        sizes.append(len(log_mel))
        return log_mel[:, 0]

    evaluation.embed_segments(clips, embed, tiny.PARAMS)
    assert sizes == [6, 6, 2]


def test_no_clips_cannot_be_embedded():
    with pytest.raises(evaluation.EvaluationError, match="there is no clip to embed"):
        evaluation.embed_segments([], evaluation.embed_baseline, tiny.PARAMS)


def test_label_matrix_by_hand():
    matrix, names = evaluation.label_matrix([("dog", "bell"), (), ("dog",), ("dog", "dog")])
    assert names == ("bell", "dog")
    np.testing.assert_array_equal(matrix, [[True, True], [False, False], [False, True], [False, True]])
    assert matrix.dtype == bool
    matrix, names = evaluation.label_matrix(iter([(), ()]))
    assert (matrix.shape, names) == ((2, 0), ())


def test_halves_by_hand():
    clips = [tiny.make_clip(i, num_frames=frames) for i, frames in enumerate([15, 16, 29, 40])]
    halves = list(evaluation.halve(iter(clips), tiny.PARAMS))
    # One window cannot be halved; three windows and a rest are cut after the first.
    assert [(half.clip_id, len(half.mel_energy)) for half in halves] == [
        ("clip-1", 8), ("clip-1", 8), ("clip-2", 8), ("clip-2", 21), ("clip-3", 16), ("clip-3", 24),
    ]  # fmt: skip
    assert [half.labels for half in halves[:3]] == [("recording-1",), ("recording-1",), ("recording-2",)]
    for first, second, clip in zip(halves[::2], halves[1::2], clips[1:], strict=True):
        np.testing.assert_array_equal(np.concatenate([first.mel_energy, second.mel_energy]), clip.mel_energy)


def test_label_matrix_with_given_classes():
    matrix, names = evaluation.label_matrix([("dog",), ()], ["dog", "bell"])
    assert names == ("dog", "bell")
    np.testing.assert_array_equal(matrix, [[True, False], [False, False]])
    with pytest.raises(evaluation.EvaluationError, match="label 'cat' is not among the 2 class names"):
        evaluation.label_matrix([("dog", "cat")], ["dog", "bell"])
