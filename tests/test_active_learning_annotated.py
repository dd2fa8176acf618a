"""Windows that an annotator is simulated on, and the labels that come of it."""

import numpy as np
import pytest
import tiny

from tfsound import active_learning, evaluation

CLASSES = ("cat", "dog", "rain")


def make_windows(num_clips=12, windows_each=4, seed=0):
    """Clips of one class each, in a cloud about their class, the windows in any order."""
    rng = np.random.default_rng(seed)
    classes = np.arange(num_clips) % len(CLASSES)
    clip = rng.permutation(np.repeat(np.arange(num_clips), windows_each))
    starts = np.zeros(len(clip))
    for number in range(num_clips):
        starts[clip == number] = np.arange(windows_each) * 0.96
    embeddings = np.eye(8)[classes[clip]] + 0.2 * rng.normal(size=(len(clip), 8))
    return active_learning.AnnotatedWindows(
        embeddings=active_learning.unit_rows(embeddings),
        labels=classes[clip][:, None] == np.arange(len(CLASSES)),
        class_names=CLASSES,
        clip_ids=tuple(f"clip-{number}" for number in clip),
        recording_ids=tuple(f"recording-{number}" for number in clip),
        start_seconds=starts,
    )


def test_answers_about_random_windows_label_these_alone():
    windows = make_windows()
    simulation = windows.ask_at_random(5, seed=1)
    assert simulation.known.sum() == len(simulation.asked) == 5
    assert simulation.quality.precision == 1.0


def test_answers_over_clips_label_all_windows_of_the_clips_asked_about():
    windows = make_windows()
    simulation = windows.ask_at_random(5, over_clips=True, seed=1)
    asked = {windows.clip_ids[window] for window in simulation.asked}
    assert [clip in asked for clip in windows.clip_ids] == simulation.known.tolist()
    np.testing.assert_array_equal(simulation.labels, windows.labels & simulation.known[:, None])
    assert simulation.quality.num_windows == 4 * len(asked)


def test_no_clip_is_asked_about_twice_before_all_were():
    windows = make_windows()
    num_clips = len(set(windows.clip_ids))
    for seed in range(20):
        for num_questions in (num_clips - 1, num_clips, num_clips + 2):
            simulation = windows.ask_at_random(num_questions, over_clips=True, seed=seed)
            asked = [windows.clip_ids[window] for window in simulation.asked]
            assert len(set(simulation.asked)) == num_questions
            assert len(set(asked)) == min(num_questions, num_clips)


@pytest.mark.parametrize("num_clusters", [3, 6])
def test_a_pooled_clip_is_in_one_cluster(num_clusters):
    windows = make_windows().pooled()
    for clip_id in set(windows.clip_ids):
        rows = np.array(windows.clip_ids) == clip_id
        assert len(np.unique(windows.embeddings[rows], axis=0)) == 1
    simulation = windows.ask_of_clusters(3, num_clusters=num_clusters)
    clusters = simulation.clustering.assignments
    for clip_id in set(windows.clip_ids):
        assert len(np.unique(clusters[np.array(windows.clip_ids) == clip_id])) == 1
    if num_clusters == 3:  # the clouds are apart: three answers label everything
        assert simulation.known.all()
        assert (simulation.quality.precision, simulation.quality.recall) == (1.0, 1.0)


def test_training_labels_name_the_windows_that_are_known():
    windows = make_windows()
    simulation = windows.ask_of_clusters(4, num_clusters=8)
    labels = windows.training_labels(simulation)
    known = np.flatnonzero(simulation.known)
    assert 0 < len(known) < len(windows)
    assert labels.clip_ids == tuple(windows.clip_ids[window] for window in known)
    np.testing.assert_array_equal(labels.start_seconds, windows.start_seconds[known])
    np.testing.assert_array_equal(labels.labels, simulation.labels[known])
    assert labels.mask.all()


def test_windows_of_clips_have_the_labels_of_their_clips():
    clips = [tiny.make_clip(i, num_frames=24, labels=(CLASSES[i % 3],)) for i in range(5)]
    windows = active_learning.annotated_windows(iter(clips), evaluation.embed_baseline, tiny.PARAMS, CLASSES)
    assert len(windows) == 15
    np.testing.assert_array_equal(windows.labels.argmax(axis=1), np.repeat([0, 1, 2, 0, 1], 3))
    assert windows.clip_ids[:4] == ("clip-0", "clip-0", "clip-0", "clip-1")
    assert windows.start_seconds[3] == clips[1].start_seconds
    np.testing.assert_allclose(np.linalg.norm(windows.embeddings, axis=1), 1, atol=1e-6)
