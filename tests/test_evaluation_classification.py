"""Tests of tfsound.evaluation.classification: what can and cannot be learned, and what is refused."""

import dataclasses

import numpy as np
import pytest

from tfsound import evaluation, metrics

OPTIONS = evaluation.TrainingOptions(max_epochs=6, batch_size=16, learning_rate=3e-2)
SMALL = evaluation.fully_connected(1, 16)


def make_windows(*, num_segments=24, num_classes=3, seed=0, prefix="r", separable=True):
    """Two windows a segment, of one class; its features tell which where `separable`."""
    rng = np.random.default_rng(seed)
    classes = np.arange(num_segments) % num_classes
    index = np.repeat(np.arange(num_segments), 2)
    features = 0.1 * rng.standard_normal((len(index), 6)).astype(np.float32)
    if separable:
        features[np.arange(len(index)), classes[index]] += 1
    return evaluation.LabelledWindows(
        features, index, classes[:, None] == np.arange(num_classes),
        tuple(f"{prefix}{n}" for n in range(num_segments)), tuple(f"class {n}" for n in range(num_classes)),
    )  # fmt: skip


@pytest.mark.parametrize("num_layers", [1, 2])
def test_what_is_separable_is_learned(num_layers):
    train, test = make_windows(), make_windows(seed=1, prefix="t")
    architecture = evaluation.fully_connected(num_layers, 16)
    found = evaluation.classify(train, test, architecture, options=OPTIONS)
    assert found.mean == 1
    assert found.result.per_class.tolist() == [1, 1, 1]
    assert found.result.class_names == train.class_names
    assert (found.result.num_segments, found.untrained_classes) == (24, ())
    assert str(found) == (
        "mAP 1.000 over 3 of 3 classes (chance 0.333; 24 segments); "
        f"{found.classifier.num_epochs} epochs on 22 segments, 2 held out to stop by"
    )


def test_what_cannot_be_learned_scores_about_chance():
    train = make_windows(num_segments=60, separable=False)
    test = make_windows(num_segments=300, seed=1, prefix="t", separable=False)
    found = evaluation.classify(train, test, SMALL, options=OPTIONS)
    assert found.result.chance == pytest.approx(1 / 3)
    assert found.mean == pytest.approx(1 / 3, abs=0.08)


def test_the_score_is_that_of_the_returned_model():
    train, test = make_windows(), make_windows(seed=1, prefix="t", separable=False)
    found = evaluation.classify(train, test, SMALL, options=OPTIONS, seed=4)
    scores = evaluation.segment_scores(found.classifier.model, test)
    assert metrics.mean_average_precision(test.labels, scores).mean == found.mean
    again = evaluation.classify(train, test, SMALL, options=OPTIONS, seed=4)
    np.testing.assert_array_equal(evaluation.segment_scores(again.classifier.model, test), scores)
    other = evaluation.classify(train, test, SMALL, options=OPTIONS, seed=5)
    assert not np.array_equal(evaluation.segment_scores(other.classifier.model, test), scores)


def test_the_test_set_does_not_steer_training():
    train, test = make_windows(), make_windows(seed=1, prefix="t")
    shifted = dataclasses.replace(test, features=test.features[::-1] + np.float32(3))
    weights = [
        evaluation.classify(train, windows, SMALL, options=OPTIONS).classifier.model.get_weights()
        for windows in (test, shifted)
    ]
    for first, second in zip(*weights, strict=True):
        np.testing.assert_array_equal(first, second)


def test_classes_without_a_training_segment_are_named():
    train, test = make_windows(), make_windows(seed=1, prefix="t")
    labels = train.labels.copy()
    labels[:, 2] = False
    found = evaluation.classify(dataclasses.replace(train, labels=labels), test, SMALL, options=OPTIONS)
    assert found.untrained_classes == ("class 2",)
    assert found.result.num_classes_scored == 3
    assert str(found).endswith("; no training segment of class 2")


def test_a_recording_on_both_sides_is_refused():
    train, test = make_windows(), make_windows(seed=1, prefix="t")
    leaking = dataclasses.replace(test, recording_ids=("r7", "r3", *test.recording_ids[2:]))
    with pytest.raises(
        evaluation.EvaluationError, match="recording 'r3' is in both train and test, 2 in all; split by"
    ):
        evaluation.classify(train, leaking, SMALL)


def test_other_classes_are_refused():
    train, test = make_windows(), make_windows(seed=1, prefix="t", num_classes=4)
    with pytest.raises(evaluation.EvaluationError, match="same classes in one order, got 3 and 4; pass"):
        evaluation.classify(train, test, SMALL)


def test_other_features_are_refused():
    train, test = make_windows(), make_windows(seed=1, prefix="t")
    test = dataclasses.replace(test, features=test.features[:, :5])
    with pytest.raises(evaluation.EvaluationError, match=r"must have one shape, got \(6,\) and \(5,\)"):
        evaluation.classify(train, test, SMALL)


@pytest.mark.parametrize("side", ["train", "test"])
def test_one_class_alone_is_refused(side):
    sides = {"train": make_windows(), "test": make_windows(seed=1, prefix="t")}
    same = np.zeros((24, 3), bool)
    same[:, 1] = True
    sides[side] = dataclasses.replace(sides[side], labels=same)
    with pytest.raises(evaluation.EvaluationError, match=f"all 24 {side} segments have the same labels"):
        evaluation.classify(sides["train"], sides["test"], SMALL)
