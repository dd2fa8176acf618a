"""Tests of tfsound.evaluation.fine_tune: accuracy epoch by epoch, fold by fold, from several starts."""

import os
import shutil

import numpy as np
import pytest
import tiny
from classifier_sets import write_clips
from training_runs import interrupted_at

from tfsound import evaluation, examples, networks, training
from tfsound.beam.instances import assign_instances

pytestmark = pytest.mark.usefixtures("tiny_encoder")

SETTINGS = {
    "encoder": "tiny", "num_epochs": 3, "batch_size": 5, "learning_rate": 0.01, "cold_epochs": 1,
    "warm_up_epochs": 1, "seed": 3,
}  # fmt: skip


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


def test_all_layers_learn_unless_they_are_frozen(clips, starts, tuned, tmp_path):
    output = str(tmp_path / "frozen")
    result = evaluation.fine_tune(clips, output, starts=(f"DLS={starts}",), freeze=True, **SETTINGS)
    assert list(result.accuracies) == ["DLS"]  # from scratch, nothing was learned to keep
    assert "epochs to what scratch has" not in str(result)
    for fold in result.folds:
        started = networks.without_embedding(training.load_encoder(starts.replace("{fold}", fold))[0])
        runs = {name: os.path.join(name, "runs", "DLS", f"without_{fold}") for name in (output, tuned[0])}
        frozen, trained = (training.load_classifier(runs[name])[0] for name in (output, tuned[0]))
        pairs = zip(started.get_weights(), frozen.audio_encoder.get_weights(), strict=True)
        for expected, found in pairs:  # the statistics of batch norms, too
            np.testing.assert_array_equal(found, expected)
        changes = [
            np.abs(expected - found).max()
            for expected, found in zip(
                started.get_weights(), trained.audio_encoder.get_weights(), strict=True
            )
        ]
        assert min(changes) > 0


def test_the_rate_and_the_penalty_are_those_of_esresnet(tuned):
    output, _ = tuned
    run = os.path.join(output, "runs", "DLS", "without_1")
    log = training.read_log(os.path.join(run, training.LOG_NAME))
    # What an epoch of 3 steps ends with is the rate of the next: 1 cold, 1 of warming up, then 0.985 each.
    assert [row["learning_rate"] for row in log] == pytest.approx([0.01, 0.01, 0.00985], rel=1e-5)
    config = training.finished_config(run)
    wanted = {"weight_decay": 5e-4, "decay_per_epoch": 0.985, "steps_per_epoch": 3, "batch_size": 5}
    assert config.items() >= wanted.items()
    assert evaluation.FineTuningOptions() == evaluation.FineTuningOptions(
        batch_size=16, learning_rate=2.5e-4, cold_epochs=5, warm_up_epochs=10, decay_per_epoch=0.985,
        weight_decay=5e-4, freeze=False,
    )  # fmt: skip


def test_imagenet_is_a_start_of_a_weight_file(clips, starts, tmp_path, monkeypatch):
    loaded = []

    def load(encoder, path):
        assert path == "some/resnet50.h5"
        loaded.append(encoder)
        encoder.set_weights([np.full_like(weights, 0.01) for weights in encoder.get_weights()])
        return "what was loaded"

    monkeypatch.setattr(networks, "load_imagenet_weights", load)
    result = evaluation.fine_tune(
        clips, str(tmp_path / "out"), starts=(f"DLS={starts}", "ImageNet=some/resnet50.h5"), folds=("2",),
        **SETTINGS,
    )  # fmt: skip
    assert list(result.accuracies) == [evaluation.FROM_SCRATCH, "DLS", "ImageNet"]
    assert len(loaded) == 2  # once to see that it can be, before any work
    config = training.finished_config(str(tmp_path / "out" / "runs" / "ImageNet" / "without_2"))
    assert (config["imagenet_weights"], config["start_from"]) == ("some/resnet50.h5", "")


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


def test_one_fold_has_no_spread():
    result = evaluation.FineTuning(("1",), {evaluation.FROM_SCRATCH: np.array([[0.25]])}, 4, 8)
    header, _, row, *_ = str(result).splitlines()
    assert header.startswith("Accuracy of 4 classes on 8 held-out clips of 1 fold(s), mean")
    assert row.split() == ["from", "scratch", "0.250"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"folds": ("9",)}, examples.DatasetError, "fold '9' does not occur"),
        ({"num_epochs": 0}, ValueError, "num_epochs must be at least 1, got 0"),
        ({"starts": ("nowhere",)}, training.TrainingError, "nowhere holds no trained encoder"),
        ({"starts": ("a=x", "a=y")}, evaluation.EvaluationError, "of a name each .* got 'a=y'"),
        ({"starts": ("from scratch=x",)}, evaluation.EvaluationError, "that is not 'from scratch'"),
        ({"freeze": True}, ValueError, "freeze keeps an encoder that has learned nothing"),
        ({"starts": ("x.h5",), "freeze": True}, ValueError, "or of which ImageNet's weights are a part"),
        ({"starts": ("x.h5",)}, ValueError, "only densenet and esresnet can start from ImageNet"),
        ({"weight_decay": -1.0}, ValueError, "weight_decay must be at least 0 and finite, got -1.0"),
        ({"cold_epochs": -1}, ValueError, "cold_epochs and warm_up_epochs must be at least 0"),
        ({"encoder": "none"}, ValueError, "encoder must be one of"),
        ({"batch_size": 500}, ValueError, "batch_size 500 exceeds the 15 labelled clips"),
    ],
)
def test_what_cannot_be_tuned_is_refused(clips, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        evaluation.fine_tune(clips, str(tmp_path / "out"), **(SETTINGS | options))


def test_a_start_of_another_front_end_is_refused_before_any_work(clips, starts, tmp_path):
    run = shutil.copytree(starts.replace("{fold}", "1"), tmp_path / "run")
    path = run / training.ENCODER_INFO_NAME
    path.write_text(path.read_text().replace('"context_frames": 8', '"context_frames": 9'))
    with pytest.raises(ValueError, match="context_frames is 9 and must be 8"):
        evaluation.fine_tune(clips, str(tmp_path / "out"), starts=(f"DLS={run}",), **SETTINGS)
    assert not os.path.exists(tmp_path / "out")


@pytest.mark.parametrize("folds", [("",), ("1",)])
def test_one_fold_leaves_nothing_to_learn_from(tmp_path, folds):
    made = [tiny.make_clip(n, labels=("ab"[n % 2],), fold=folds[0]) for n in range(6)]
    with pytest.raises(evaluation.EvaluationError, match="expected at least two: one to hold out"):
        evaluation.fine_tune(tiny.write_clips(tmp_path / "clips", made), str(tmp_path / "out"), **SETTINGS)


def test_one_class_is_nothing_to_tell_apart(tmp_path):
    made = [tiny.make_clip(n, labels=("a",), fold=str(n % 2)) for n in range(12)]
    with pytest.raises(ValueError, match="have the same labels"):
        evaluation.fine_tune(tiny.write_clips(tmp_path / "clips", made), str(tmp_path / "out"), **SETTINGS)
