"""Tests of tfsound.training.train_classifier: restarts after kills, two devices, what is refused."""

import os
import shutil
import signal

import keras
import numpy as np
import pytest
import tiny
from classifier_sets import (
    NAMES,
    clips,
    make_clip,
    train,
    triplet_run,
    whole_run,
    window_labels,
    write_folder,
)
from processes import on_two_devices, require_killed
from training_runs import interrupted_at, require_same_end, signal_at

from tfsound import examples, models, training

__all__ = ["clips", "triplet_run", "whole_run"]  # fixtures
pytestmark = pytest.mark.usefixtures("tiny_encoder")


# Restarts.


@pytest.mark.parametrize("step", [2, 4])
def test_a_run_that_was_cut_off_ends_as_if_it_was_not(clips, tmp_path, whole_run, step):
    output = str(tmp_path / "run")
    with interrupted_at(step):
        train(clips, output)
    with pytest.raises(training.TrainingError, match="was not finished; train it to its end"):
        training.load_classifier(output)
    train(clips, output)
    require_same_end(output, whole_run[0], atol=0)


def test_a_frozen_run_resumes_from_its_checkpoint_and_needs_no_start(clips, triplet_run, tmp_path):
    started_from = shutil.copytree(triplet_run, tmp_path / "start")
    settings = {"start_from": str(started_from), "freeze": True, "class_balance": "uniform"}
    train(clips, tmp_path / "whole", **settings)
    with interrupted_at(4):
        train(clips, tmp_path / "run", **settings)
    shutil.rmtree(started_from)
    train(clips, tmp_path / "run", **settings)
    require_same_end(tmp_path / "run", tmp_path / "whole", atol=0)
    with pytest.raises(training.TrainingError, match="start holds no trained encoder"):
        train(clips, tmp_path / "run", overwrite=True, **settings)


def train_until_killed(clips, output):
    with signal_at(4, signal.SIGKILL):
        train(clips, output)


def test_a_run_killed_by_sigkill_ends_as_if_it_was_not(clips, whole_run, tmp_path):
    output = str(tmp_path / "run")
    require_killed(train_until_killed, clips, output)
    assert [row["step"] for row in training.read_log(f"{output}/log.csv")] == [3]
    train(clips, output)
    require_same_end(output, whole_run[0], atol=0)


def test_two_devices_train_as_one(clips, whole_run, tmp_path):
    output = str(tmp_path / "run")
    on_two_devices(train, clips, output)
    for found, expected in zip(
        *[training.load_classifier(run)[0].get_weights() for run in (output, whole_run[0])], strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-4)
    rows = [training.read_log(f"{run}/log.csv") for run in (output, whole_run[0])]
    assert [row["loss"] for row in rows[0]] == pytest.approx([row["loss"] for row in rows[1]], abs=1e-5)


def test_labels_that_changed_do_not_resume(clips, tmp_path):
    labels = window_labels({(0, 0): (1, 0, 0), (2, 0): (0, 1, 0)})
    folder = write_folder(tmp_path / "labels", labels)
    with interrupted_at(1):
        train(clips, tmp_path / "run", labels=folder)
    shutil.rmtree(folder)
    write_folder(tmp_path / "labels", window_labels({(0, 0): (0, 1, 0), (2, 0): (1, 0, 0)}))
    with pytest.raises(training.TrainingError, match=r"begun with other settings \(windows_digest: "):
        train(clips, tmp_path / "run", labels=folder)
    train(clips, tmp_path / "run", labels=folder, overwrite=True)
    with pytest.raises(training.TrainingError, match="is a finished run; pass --overwrite"):
        train(clips, tmp_path / "run", labels=folder)


# What goes wrong.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"learning_rate": -1.0}, r"learning_rate must be positive and finite, got -1\.0"),
        ({"class_balance": "even"}, "class_balance must be one of .*, got 'even'"),
        ({"freeze": True}, "freeze keeps an encoder that has learned nothing; name a run with start_from"),
        ({"encoder": "resnet18"}, "encoder must be one of .*, got 'resnet18'"),
        ({"precision": "float16"}, "precision must be one of .*, got 'float16'"),
        ({"learning_rate_decay": "linear"}, "must be 'constant', 'cosine' or 'exponential', got 'linear'"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0 and finite, got -1.0"),
        (
            {"learning_rate_decay": "exponential", "decay_per_epoch": 1.5},
            r"decay_per_epoch in \(0, 1\], got 5, 10 and 1.5",
        ),
        ({"folds": ("7",)}, "fold '7' does not occur"),
        ({"labels": "nowhere"}, "nowhere is no finished set of labels"),
        ({"folds": ("1",), "exclude_folds": ("1",)}, "holds no labelled window"),
    ],
)
def test_a_setting_out_of_range_is_refused_and_leaves_nothing(clips, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        train(clips, tmp_path / "run", **settings)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("labels", "changes", "message"),
    [
        ({}, {}, "holds no labelled window"),
        ({(0, 0): (1, 0, 0)}, {"labels": ["wolf"]}, r"the class 'wolf' is not in labels\.json"),
        ({(0, 0): (1, 0, 0)}, {"confidence": [2]}, r"confidence must be a number in \(0, 1\]"),
        ({(0, 0): (1, 0, 0)}, {"clip_id": "other"}, "1 of 1 labelled windows are not in .*'other' at 0.0 s"),
        ({(0, 0): (1, 0, 0), (2, 0): (1, 0, 0)}, {}, r"have the same labels \(a\)"),
    ],
)
def test_labels_that_cannot_be_learned_are_refused_and_leave_nothing(
    clips, tmp_path, labels, changes, message
):
    folder = write_folder(tmp_path / "labels", window_labels(labels), **changes)
    with pytest.raises(ValueError, match=message):
        train(clips, tmp_path / "run", labels=folder)
    assert os.listdir(tmp_path) == ["labels"]


def test_a_loss_that_is_no_number_ends_the_run(tmp_path):
    broken = [make_clip(number) for number in range(8)]
    energies = broken[0].mel_energy.copy()
    energies[0, 0] = np.nan
    # As no job would write it.
    records = [examples.encode_clip(clip) for clip in broken[1:]]
    records.append(
        examples.encode_clip(broken[0]).replace(broken[0].mel_energy.tobytes(), energies.tobytes())
    )
    clips = tiny.write_set(tmp_path / "clips", examples.CLIPS, [records], label_names=NAMES, folds=("1", "2"))
    with pytest.raises(training.TrainingError, match=r"the loss is no longer a number at step"):
        train(clips, tmp_path / "run")


def test_a_shard_damaged_while_training_is_named(clips, tmp_path, monkeypatch):
    directory = str(tmp_path / "clips")
    shutil.copytree(clips, directory)
    path = os.path.join(directory, "clips-00001.tfrecord")
    original = training.runs._fit

    def damaging(*arguments):
        os.truncate(path, 100)
        original(*arguments)

    monkeypatch.setattr(training.runs, "_fit", damaging)
    with pytest.raises(examples.DatasetError, match=r"clips-00001\.tfrecord"):
        train(directory, tmp_path / "run", num_steps=40)


def test_other_runs_hold_no_classifier(triplet_run, tmp_path):
    with pytest.raises(training.TrainingError, match=r"holds no classifier\.keras: it was not trained"):
        training.load_classifier(triplet_run)
    with pytest.raises(training.TrainingError, match="does not exist"):
        training.load_classifier(str(tmp_path / "nowhere"))


def test_the_saved_classifier_is_plain_keras_with_names_of_tfsound(whole_run):
    loaded = keras.saving.load_model(f"{whole_run[0]}/classifier.keras", compile=False)
    assert isinstance(loaded, models.ClassifierModel)
