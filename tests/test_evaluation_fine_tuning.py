"""Tests of tfsound.evaluation.fine_tune: accuracy epoch by epoch, fold by fold, from several starts."""

import os

import numpy as np
import pytest
import tiny
from classifier_sets import write_clips
from training_runs import interrupted_at

from tfsound import evaluation, examples, training
from tfsound.beam.instances import assign_instances

pytestmark = pytest.mark.usefixtures("tiny_encoder")

SETTINGS = {"encoder": "tiny", "num_epochs": 3, "batch_size": 5, "learning_rate": 0.01, "seed": 3}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """30 clips of three classes in the folds 1 and 2."""
    return write_clips(tmp_path_factory.mktemp("sets") / "clips")


@pytest.fixture(scope="module")
def starts(clips, tmp_path_factory):
    """A run for each fold, that has not heard it: their common path."""
    folder = tmp_path_factory.mktemp("starts")
    for fold in ("1", "2"):
        instances = str(folder / f"instances_{fold}")
        assign_instances((clips,), instances, exclude_folds=(fold,), num_workers=1)
        training.train_instances(
            instances, str(folder / f"without_{fold}"), encoder="tiny", embedding_dim=6, num_steps=4,
            batch_size=5, num_negatives=4, learning_rate=0.01,
        )  # fmt: skip
    return str(folder / "without_{fold}")


@pytest.fixture(scope="module")
def tuned(clips, starts, tmp_path_factory):
    output = str(tmp_path_factory.mktemp("tuned") / "out")
    return output, evaluation.fine_tune(clips, output, starts=(f"DLS={starts}",), **SETTINGS)


def test_each_fold_is_held_out_once_from_each_start(tuned):
    output, result = tuned
    assert result.folds == ("1", "2")
    assert list(result.accuracies) == [evaluation.FROM_SCRATCH, "DLS"]
    for values in result.accuracies.values():
        assert values.shape == (2, 3)
        assert ((values >= 0) & (values <= 1)).all()
    assert (result.num_classes, result.num_clips) == (3, 30)
    assert sorted(os.listdir(output)) == [
        "fine_tuning.json", "fine_tuning.png", "fine_tuning.txt", "finetune.json", "runs",
    ]  # fmt: skip


def test_the_accuracy_is_that_of_the_classifier_that_is_left(tuned, clips):
    output, result = tuned
    for name, folder in (("from scratch", "from_scratch"), ("DLS", "DLS")):
        for row, fold in enumerate(result.folds):
            run = os.path.join(output, "runs", folder, f"without_{fold}")
            classifier, mel_params, names = training.load_classifier(run)
            right = []
            for clip in examples.iter_clips(clips, folds=(fold,)):
                scores = np.mean(classifier(examples.clip_windows(clip, mel_params)), axis=0)
                right.append(names[scores.argmax()] == clip.labels[0])
            assert result.accuracies[name][row, -1] == pytest.approx(np.mean(right))


def test_the_last_layer_is_in_the_place_of_the_embedding(tuned):
    output, _ = tuned
    classifier, _, _ = training.load_classifier(os.path.join(output, "runs", "DLS", "without_1"))
    assert "embedding" not in {layer.name for layer in classifier.audio_encoder.layers}
    assert classifier.head.kernel.shape == (8, 3)  # what the tiny encoder's convolution has


def test_an_interrupted_one_goes_on(clips, starts, tuned, tmp_path):
    output = str(tmp_path / "out")
    with interrupted_at(4):
        evaluation.fine_tune(clips, output, starts=(f"DLS={starts}",), **SETTINGS)
    result = evaluation.fine_tune(clips, output, starts=(f"DLS={starts}",), **SETTINGS)
    for name, values in tuned[1].accuracies.items():
        np.testing.assert_array_equal(result.accuracies[name], values)


def make_result(**accuracies):
    return evaluation.FineTuning(
        ("1", "2"),
        {name.replace("_", " "): np.array(values, float) for name, values in accuracies.items()},
        num_classes=10,
        num_clips=80,
    )


def test_epochs_are_counted_until_the_mean_over_folds_is_there():
    result = make_result(
        from_scratch=[[0.1, 0.3, 0.5], [0.1, 0.5, 0.5]], fast=[[0.2, 0.6, 0.6], [0.6, 0.6, 0.6]],
        slow=[[0.1, 0.1, 0.2], [0.1, 0.1, 0.3]],
    )  # fmt: skip
    assert result.epochs_to(0.4) == {"from scratch": 2, "fast": 1, "slow": None}
    assert result.epochs_to_scratch() == {
        1: {"from scratch": 1, "fast": 1, "slow": 1}, 3: {"from scratch": 3, "fast": 2, "slow": None},
    }  # fmt: skip
    text = str(result)
    assert "epochs to what scratch has after 3: fast: 2, slow: more than 3" in text
    assert "0.400 ± 0.283" in text  # fast after one epoch
    assert result.to_dict()["epochs_to_what_scratch_has_reached"]["3"]["slow"] is None


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"folds": ("9",)}, examples.DatasetError, "fold '9' does not occur"),
        ({"num_epochs": 0}, ValueError, "num_epochs must be at least 1, got 0"),
        ({"starts": ("nowhere",)}, training.TrainingError, "nowhere holds no trained encoder"),
        ({"starts": ("a=x", "a=y")}, evaluation.EvaluationError, "of a name each .* got 'a=y'"),
        ({"starts": ("from scratch=x",)}, evaluation.EvaluationError, "that is not 'from scratch'"),
        ({"freeze": True}, ValueError, "freeze keeps an encoder that has learned nothing"),
        ({"encoder": "none"}, ValueError, "encoder must be one of"),
        ({"batch_size": 500}, ValueError, "batch_size 500 exceeds the 15 labelled clips"),
    ],
)
def test_what_cannot_be_tuned_is_refused(clips, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        evaluation.fine_tune(clips, str(tmp_path / "out"), **(SETTINGS | options))


@pytest.mark.parametrize("folds", [("",), ("1",)])
def test_one_fold_leaves_nothing_to_learn_from(tmp_path, folds):
    made = [tiny.make_clip(n, labels=("ab"[n % 2],), fold=folds[0]) for n in range(6)]
    with pytest.raises(evaluation.EvaluationError, match="expected at least two: one to hold out"):
        evaluation.fine_tune(tiny.write_clips(tmp_path / "clips", made), str(tmp_path / "out"), **SETTINGS)


def test_one_class_is_nothing_to_tell_apart(tmp_path):
    made = [tiny.make_clip(n, labels=("a",), fold=str(n % 2)) for n in range(12)]
    with pytest.raises(ValueError, match="have the same labels"):
        evaluation.fine_tune(tiny.write_clips(tmp_path / "clips", made), str(tmp_path / "out"), **SETTINGS)
