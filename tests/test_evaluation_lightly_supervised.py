"""Tests of tfsound.evaluation.lightly_supervised: what is drawn, and the spread over draws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfsound import evaluation, metrics
from tfsound.evaluation import lightly_supervised

OPTIONS = evaluation.TrainingOptions(max_epochs=6, batch_size=8, learning_rate=3e-2)
SMALL = evaluation.fully_connected(1, 16)


def make_windows(*, num_segments=30, seed=0, prefix="r"):
    """One window a segment, of one of three classes; its features tell which, up to noise."""
    rng = np.random.default_rng(seed)
    classes = np.arange(num_segments) % 3
    features = rng.standard_normal((num_segments, 4)).astype(np.float32)
    features[np.arange(num_segments), classes] += 3
    return evaluation.LabelledWindows(
        features, np.arange(num_segments), classes[:, None] == np.arange(3),
        tuple(f"{prefix}{n}" for n in range(num_segments)), ("bell", "dog", "rain"),
    )  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), wanted=st.integers(1, 8))
def test_enough_of_each_class_are_drawn(seed, wanted):
    labels = np.random.default_rng(seed).random((40, 5)) < 0.15
    drawn = evaluation.draw_segments(labels, wanted, np.random.default_rng(seed))
    assert (np.diff(drawn) > 0).all()
    available = labels.sum(axis=0)
    assert (labels[drawn].sum(axis=0) >= np.minimum(available, wanted)).all()
    assert len(drawn) <= np.minimum(available, wanted).sum()
    assert labels[drawn].any(axis=1).all()
    np.testing.assert_array_equal(
        drawn, evaluation.draw_segments(labels, wanted, np.random.default_rng(seed))
    )


def test_all_are_drawn_where_there_are_fewer():
    labels = np.array([[1, 0], [1, 0], [0, 1], [0, 0]], bool)
    assert evaluation.draw_segments(labels, 2, np.random.default_rng(0)).tolist() == [0, 1, 2]


def test_each_draw_trains_on_its_own_segments(monkeypatch):
    train, test = make_windows(), make_windows(seed=1, prefix="t")
    seen = []
    real = lightly_supervised.classify

    def record(few, *arguments, **options):
        seen.append((few.recording_ids, options["seed"]))
        return real(few, *arguments, **options)

    monkeypatch.setattr(lightly_supervised, "classify", record)
    found = evaluation.light_supervision(
        train, test, SMALL, segments_per_class=5, num_draws=3, options=OPTIONS, seed=7
    )
    recordings, seeds = zip(*seen, strict=True)
    assert len(set(recordings)) == 3
    assert seeds == (7, 8, 9)
    assert all(set(drawn) <= set(train.recording_ids) for drawn in recordings)
    assert found.num_segments == (15, 15, 15)
    assert [draw.result.num_segments for draw in found.draws] == [30, 30, 30]
    assert found.scores == tuple(draw.result.mean for draw in found.draws)
    assert found.spread == metrics.mean_and_spread(found.scores)
    assert min(found.scores) > 0.8
    assert found.short_classes == {}
    assert str(found) == f"mAP {found.spread}; 5 segments a class"


def test_the_same_seed_gives_the_same_draws_and_scores():
    train, test = make_windows(), make_windows(seed=1, prefix="t")

    def scores(seed):
        return evaluation.light_supervision(
            train, test, SMALL, segments_per_class=2, num_draws=1, options=OPTIONS, seed=seed
        ).scores

    assert scores(0) == scores(0)
    assert scores(0) != scores(3)


def test_short_classes_are_told():
    train, test = make_windows(num_segments=30), make_windows(seed=1, prefix="t")
    labels = train.labels.copy()
    labels[:, 0] = False
    labels[6:, 2] = False
    train = evaluation.LabelledWindows(
        train.features, train.segment_index, labels, train.recording_ids, train.class_names
    )
    found = evaluation.light_supervision(
        train, test, SMALL, segments_per_class=5, num_draws=1, options=OPTIONS
    )
    assert found.short_classes == {"bell": 0, "rain": 2}
    assert found.num_segments == (7,)
    assert str(found).endswith("; 5 segments a class, fewer in 2 of them: bell 0, rain 2")
    assert found.draws[0].untrained_classes == ("bell",)


@pytest.mark.parametrize("arguments", [{"segments_per_class": 0}, {"num_draws": 0}])
def test_draws_of_nothing_are_refused(arguments):
    with pytest.raises(ValueError, match="segments_per_class and num_draws must be at least 1"):
        evaluation.light_supervision(make_windows(), make_windows(prefix="t"), SMALL, **arguments)


def test_a_leak_is_refused_before_anything_is_drawn():
    # A draw might miss the recording that is on both sides.
    test = make_windows(seed=1, prefix="t")
    test = evaluation.LabelledWindows(
        test.features, test.segment_index, test.labels, ("r29", *test.recording_ids[1:]), test.class_names
    )
    with pytest.raises(evaluation.EvaluationError, match="recording 'r29' is in both train and test"):
        evaluation.light_supervision(make_windows(), test, SMALL, segments_per_class=1)
