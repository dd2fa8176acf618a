"""Retrieval across modalities: which frame is a window's partner, what is drawn, both protocols, tables."""

import dataclasses
import json
import math

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from tfsound import evaluation, examples

STEP = tiny.PARAMS.context_seconds  # 0.08
CLASSES = ("bell", "dog", "owl")


def make_clip(number, *, num_windows=3, frame_seconds=None, labels=(), recording=None):
    """A clip of so many windows, with a frame at the centre of each where no times are given.

    Its start is 0.25 times its number.
    """
    start = 0.25 * number
    if frame_seconds is None:
        frame_seconds = [start + (step + 0.5) * STEP for step in range(num_windows)]
    return tiny.make_clip(
        number, num_frames=8 * num_windows, labels=labels, recording=recording,
        frame_seconds=tuple(frame_seconds),
    )  # fmt: skip


def material_of(clips, **options):
    return evaluation.windows_and_frames(clips, tiny.PARAMS, **options)


def test_a_window_goes_with_the_frame_that_is_nearest_to_its_centre():
    # Centres at 0.04, 0.12 and 0.20; between 0.1 and 0.14 both are as near: the earlier.
    clip = make_clip(0, frame_seconds=[-3.0, 0.1, 0.14, 9.0])
    found = material_of([clip])
    partners = [found.jpegs[number] for number in found.partners]
    assert partners == [clip.frame_jpegs[1], clip.frame_jpegs[1], clip.frame_jpegs[2]]
    assert len(found.jpegs) == 2  # only partners are candidates
    assert found.frame_recordings == ("recording-0",) * 2
    assert found.window_recordings == ("recording-0",) * 3


def test_a_window_without_a_frame_near_it_has_no_partner():
    clip = make_clip(0, frame_seconds=[0.14])  # centres at 0.04, 0.12 and 0.20
    assert len(material_of([clip], max_time_gap_seconds=0.07).log_mel) == 2
    with pytest.raises(evaluation.EvaluationError, match=r"none of 1 clips has frames within 0.01 s"):
        material_of([clip], max_time_gap_seconds=0.01)


def test_times_are_those_of_the_recording():
    """A clip that begins late: its frames' times count from the start of the recording, too."""
    clip = make_clip(8, frame_seconds=[2.04, 2.2])
    assert [clip.frame_jpegs.index(material_of([clip]).jpegs[n]) for n in material_of([clip]).partners] == [
        0, 0, 1
    ]  # fmt: skip


def test_windows_are_the_log_mel_of_the_clips():
    clips = [make_clip(n) for n in range(3)]
    found = material_of(clips)
    expected = np.concatenate([examples.clip_windows(clip, tiny.PARAMS) for clip in clips])
    np.testing.assert_array_equal(np.sort(found.log_mel.sum(axis=(1, 2))), np.sort(expected.sum(axis=(1, 2))))


@settings(deadline=None, max_examples=25)
@given(num_windows=st.integers(1, 40), order=st.permutations(range(9)), seed=st.integers(0, 5))
def test_what_is_drawn_does_not_depend_on_the_order_of_the_clips(num_windows, order, seed):
    clips = [make_clip(n, num_windows=1 + n % 4) for n in range(9)]
    total = sum(1 + n % 4 for n in range(9))
    one = material_of(clips, num_windows=num_windows, seed=seed)
    other = material_of(iter([clips[n] for n in order]), num_windows=num_windows, seed=seed)
    assert len(one.log_mel) == min(num_windows, total)
    np.testing.assert_array_equal(one.log_mel, other.log_mel)
    assert one.jpegs == other.jpegs
    np.testing.assert_array_equal(one.partners, other.partners)
    assert len({window.tobytes() for window in one.log_mel}) == len(one.log_mel)


def test_windows_are_drawn_uniformly():
    clips = [make_clip(n, num_windows=2) for n in range(20)]
    counts = dict.fromkeys((clip.recording_id for clip in clips), 0)
    for seed in range(200):
        for recording in material_of(clips, num_windows=10, seed=seed).window_recordings:
            counts[recording] += 1
    assert min(counts.values()) > 60  # 100 expected, standard deviation about 9
    assert max(counts.values()) < 140


def by_identity(clips):
    """A score that knows which picture belongs to which window, from the pictures and windows themselves."""
    jpegs = [jpeg for clip in clips for jpeg in clip.frame_jpegs]
    pictures = {image.tobytes(): jpeg for image, jpeg in zip(
        examples.decode_images(jpegs).numpy(), jpegs, strict=True)}  # fmt: skip
    partners = {}
    for clip in clips:
        for window, jpeg in zip(examples.clip_windows(clip, tiny.PARAMS), clip.frame_jpegs, strict=True):
            partners[window.tobytes()] = jpeg

    def score(windows, images):
        return np.array([[partners[w.tobytes()] == pictures[i.tobytes()] for i in images] for w in windows])

    return score


def by_label(clips):
    """A score that knows the label of a window and of a picture, and nothing else."""
    windows, pictures = {}, {}
    for clip in clips:
        for window in examples.clip_windows(clip, tiny.PARAMS):
            windows[window.tobytes()] = clip.labels
        for image in examples.decode_images(list(clip.frame_jpegs)).numpy():
            pictures[image.tobytes()] = clip.labels

    def score(log_mel, images):
        return np.array(
            [[windows[w.tobytes()] == pictures[i.tobytes()] for i in images] for w in log_mel], np.float32
        )

    return score


@pytest.fixture(scope="module")
def labelled():
    return [make_clip(n, labels=(CLASSES[n % 3],)) for n in range(12)]


def test_a_score_that_knows_the_pairs_finds_them_all(labelled):
    found = evaluation.cross_modal_retrieval(labelled, by_identity(labelled), tiny.PARAMS)
    for direction in (evaluation.SOUND_TO_PICTURE, evaluation.PICTURE_TO_SOUND):
        result = found.by_pair[direction]
        assert (result.recall[1], result.median_rank) == (1.0, 1.0)
        assert (result.num_queries, result.num_candidates) == (36, 36)
        assert result.chance_recall[10] == pytest.approx(10 / 36)
        # The candidates are of other recordings, about which it knows nothing: chance.
        assert [r.recall[1] for r in found.by_class[direction]] == pytest.approx([1 / 3] * 10)


def test_a_score_that_knows_the_classes_finds_them_among_one_of_each(labelled):
    found = evaluation.cross_modal_retrieval(labelled, by_label(labelled), tiny.PARAMS, num_draws=4)
    for direction in (evaluation.SOUND_TO_PICTURE, evaluation.PICTURE_TO_SOUND):
        assert [r.recall[1] for r in found.by_class[direction]] == [1.0] * 4
        # 12 of 36 are of the class, in a random order.
        assert found.by_pair[direction].recall[1] == pytest.approx(1 / 12)
        assert found.by_pair[direction].median_rank == 6.5
    assert found.num_classes == 3
    measures, chance = found.measures(), found.chance()
    assert list(measures) == list(chance)
    assert measures["sound -> picture R@1 of 3 classes"] == 1.0
    assert chance["sound -> picture R@1 of 3 classes"] == pytest.approx(1 / 3)
    assert "picture -> sound among one of each of 3 classes: recall at 1 1.000 ± 0.000" in str(found)
    text = json.dumps(found.to_dict())
    assert json.loads(text)["measures"] == measures


def test_a_constant_score_is_at_chance_everywhere(labelled):
    found = evaluation.cross_modal_retrieval(
        labelled, lambda windows, images: np.zeros((len(windows), len(images))), tiny.PARAMS
    )
    assert found.measures() == pytest.approx(found.chance())


def test_windows_that_share_a_frame_are_both_its_partners():
    clips = [make_clip(n, num_windows=3, frame_seconds=[0.25 * n]) for n in range(4)]
    found = evaluation.cross_modal_retrieval(
        clips, lambda windows, images: np.zeros((len(windows), len(images))), tiny.PARAMS
    )
    to_sound = found.by_pair[evaluation.PICTURE_TO_SOUND]
    assert (to_sound.num_queries, to_sound.num_candidates) == (4, 12)
    assert to_sound.recall[1] == pytest.approx(3 / 12)


def test_a_still_picture_is_one_candidate():
    """Else what knows all could not tell its second 0 from its second 1, and would not find it at first."""
    clips = [make_clip(n, num_windows=3) for n in range(4)]
    still = [
        dataclasses.replace(clip, frame_jpegs=(clip.frame_jpegs[0],) * len(clip.frame_jpegs))
        for clip in clips
    ]
    found = evaluation.cross_modal_retrieval(still, by_identity(still), tiny.PARAMS)
    to_picture = found.by_pair[evaluation.SOUND_TO_PICTURE]
    assert (to_picture.num_candidates, to_picture.recall[1]) == (4, 1.0)


def test_classes_need_labels_and_two_recordings_each():
    def score(windows, images):
        return np.zeros((len(windows), len(images)))

    for clips in (
        [make_clip(n) for n in range(4)],
        [make_clip(n, labels=(CLASSES[n % 3],)) for n in range(3)],
        [make_clip(n, labels=("dog",)) for n in range(4)],
        [make_clip(n, labels=("dog", "owl")) for n in range(4)],
        [make_clip(n, labels=(CLASSES[n % 2],), recording=f"r{n % 2}") for n in range(4)],
    ):
        found = evaluation.cross_modal_retrieval(clips, score, tiny.PARAMS)
        assert (found.by_class, found.num_classes) == ({}, 0)
        assert "classes" not in str(found)
        assert set(found.measures()) == set(found.chance())


def test_clips_without_frames_are_counted(labelled):
    alone = [make_clip(n, labels=("dog",), frame_seconds=[]) for n in range(100, 105)]
    found = evaluation.cross_modal_retrieval(labelled + alone, by_identity(labelled), tiny.PARAMS)
    assert (found.num_clips, found.num_clips_without_frames) == (17, 5)
    assert str(found).startswith("Retrieval across modalities, 17 clips (5 of them without frames)")
    with pytest.raises(
        evaluation.EvaluationError, match=r"none of 5 clips .* within 10 s .*, 5 have none at all; make"
    ):
        material_of(alone)
    with pytest.raises(evaluation.EvaluationError, match="none of 0 clips has frames"):
        material_of([])
    with pytest.raises(ValueError, match="num_windows must be at least 1, got 0"):
        material_of(labelled, num_windows=0)


@pytest.mark.parametrize("block_size", [1, 5, 36, 99])
def test_scores_are_asked_for_a_block_at_a_time(labelled, block_size):
    material = material_of(labelled)
    asked = []

    def score(windows, images):
        asked.append((len(windows), len(images)))
        assert images.dtype == windows.dtype == np.float32
        return windows.sum(axis=(1, 2))[:, None] - images.mean(axis=(1, 2, 3))

    found = evaluation.score_matrix(material, score, block_size=block_size)
    images = examples.decode_images(list(material.jpegs)).numpy()
    np.testing.assert_allclose(found, score(material.log_mel, images), rtol=1e-5)
    assert max(max(sizes) for sizes in asked[:-1]) <= block_size


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda windows, images: np.zeros((len(images), 2)), r"must have shape \(36, 36\), got \(36, 2\)"),
        (lambda windows, images: np.full((len(windows), len(images)), np.nan), "is NaN; the model has"),
    ],
)
def test_scores_that_are_none_are_refused(labelled, score, message):
    with pytest.raises(evaluation.EvaluationError, match=message):
        evaluation.cross_modal_retrieval(labelled, score, tiny.PARAMS)


def test_models_side_by_side(labelled):
    results = [
        evaluation.cross_modal_retrieval(labelled, by_label(labelled), tiny.PARAMS, seed=seed)
        for seed in range(3)
    ]
    alone = evaluation.cross_modal_retrieval([make_clip(n) for n in range(4)], by_identity(
        [make_clip(n) for n in range(4)]), tiny.PARAMS)  # fmt: skip
    table = evaluation.retrieval_table({"joint": results, "without labels": [alone]})
    assert list(table.rows) == ["joint", "without labels", "chance"]
    assert table.spread("joint", "sound -> picture R@1 of 3 classes").mean == 1.0
    assert table.spread("joint", "sound -> picture R@1").num_values == 3
    assert table.spread("chance", "picture -> sound R@10").mean == pytest.approx(
        results[0].by_pair[evaluation.PICTURE_TO_SOUND].chance_recall[10]
    )
    assert table.scores("without labels", "sound -> picture R@1 of 3 classes") is None
    assert "sound -> picture median rank" in table.to_markdown()
    assert math.isclose(table.spread("without labels", "sound -> picture R@1").mean, 1.0)
    with pytest.raises(evaluation.EvaluationError, match="a table needs scores"):
        evaluation.retrieval_table({"joint": []})


def test_folds_of_fewer_classes_have_a_column_and_a_chance_of_their_own(labelled):
    fewer = [clip for clip in labelled if clip.labels != (CLASSES[2],)]
    results = [
        evaluation.cross_modal_retrieval(clips, by_label(clips), tiny.PARAMS) for clips in (labelled, fewer)
    ]
    table = evaluation.retrieval_table({"joint": results})
    measure = "sound -> picture R@1 of 2 classes"
    assert table.scores("joint", measure) == (1.0,)
    assert table.scores(evaluation.CHANCE, measure) == (0.5,)
    assert len(table.scores("joint", "sound -> picture R@1")) == 2
