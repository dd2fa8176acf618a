"""Tests of tfsound.training.train_classifier: restarts after kills, two devices, what is refused."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tiny
from classifier_sets import (
    NAMES,
    SETTINGS,
    make_clip,
    require_same_end,
    train,
    window_labels,
    with_tiny,
    write_clips,
    write_folder,
)

from tfsound import examples, models, networks, training

# Is killed by SIGKILL after a step.
KILLED = """
import json, os, signal, sys
import tiny
from tfsound import networks, training

networks.ENCODERS["tiny"] = tiny.encoder
clips, output, settings, step = sys.argv[1:]
original = training.runs._Progress.on_train_batch_end
def killing(self, *args, **kwargs):
    if training.steps_done(self.model) == int(step):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, *args, **kwargs)
training.runs._Progress.on_train_batch_end = killing
training.train_classifier(clips, output, **json.loads(settings))
"""

# Two logical CPU devices.
TWO_DEVICES = """
import json, sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import tiny
from tfsound import networks, training

networks.ENCODERS["tiny"] = tiny.encoder
clips, output, settings = sys.argv[1:]
assert training.strategy().num_replicas_in_sync == 2
training.train_classifier(clips, output, **json.loads(settings))
"""


@pytest.fixture(autouse=True)
def tiny_encoder(monkeypatch):
    monkeypatch.setitem(networks.ENCODERS, "tiny", tiny.encoder)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("sets") / "clips")


@pytest.fixture(scope="module")
def whole_run(clips, tmp_path_factory):
    """A run that nothing disturbed: its folder and its summary. Tests only read it."""
    output = str(tmp_path_factory.mktemp("runs") / "whole")
    return output, with_tiny(train, clips, output)


@pytest.fixture(scope="module")
def triplet_run(tmp_path_factory):
    """A run to start from."""
    folder = tmp_path_factory.mktemp("runs")
    triplets = tiny.write_triplets(folder / "triplets", range(16))
    with_tiny(training.train, [triplets], str(folder / "run"), **SETTINGS)
    return str(folder / "run")


# Restarts.


def interrupt_at(patch, step):
    original = training.runs._Progress.on_train_batch_end

    def interrupting(self, batch, logs=None):
        original(self, batch, logs)
        if training.steps_done(self.model) == step:
            raise KeyboardInterrupt

    patch.setattr(training.runs._Progress, "on_train_batch_end", interrupting)


@pytest.mark.parametrize("step", [2, 4])
def test_a_run_that_was_cut_off_ends_as_if_it_was_not(clips, tmp_path, whole_run, step):
    output = str(tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, step)
        with pytest.raises(KeyboardInterrupt):
            train(clips, output)
    with pytest.raises(training.TrainingError, match="was not finished; train it to its end"):
        training.load_classifier(output)
    train(clips, output)
    require_same_end(output, whole_run[0])


def test_a_frozen_run_resumes_from_its_checkpoint_and_needs_no_start(clips, triplet_run, tmp_path):
    started_from = shutil.copytree(triplet_run, tmp_path / "start")
    settings = {"start_from": str(started_from), "freeze": True, "class_balance": "uniform"}
    train(clips, tmp_path / "whole", **settings)
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 4)
        with pytest.raises(KeyboardInterrupt):
            train(clips, tmp_path / "run", **settings)
    shutil.rmtree(started_from)
    train(clips, tmp_path / "run", **settings)
    require_same_end(str(tmp_path / "run"), str(tmp_path / "whole"))
    with pytest.raises(training.TrainingError, match="start holds no trained encoder"):
        train(clips, tmp_path / "run", overwrite=True, **settings)


def test_a_run_killed_by_sigkill_ends_as_if_it_was_not(clips, whole_run, tmp_path):
    output = str(tmp_path / "run")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, clips, output, json.dumps(SETTINGS), "4"],
        cwd=pathlib.Path(__file__).parent, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [row["step"] for row in training.read_log(f"{output}/log.csv")] == [3]
    train(clips, output)
    require_same_end(output, whole_run[0])


def test_two_devices_train_as_one(clips, whole_run, tmp_path):
    output = str(tmp_path / "run")
    done = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES, clips, output, json.dumps(SETTINGS)],
        cwd=pathlib.Path(__file__).parent, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for found, expected in zip(
        *[training.load_classifier(run)[0].get_weights() for run in (output, whole_run[0])], strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-4)
    rows = [training.read_log(f"{run}/log.csv") for run in (output, whole_run[0])]
    assert [row["loss"] for row in rows[0]] == pytest.approx([row["loss"] for row in rows[1]], abs=1e-5)


def test_labels_that_changed_do_not_resume(clips, tmp_path):
    labels = window_labels({(0, 0): (1, 0, 0), (2, 0): (0, 1, 0)})
    folder = write_folder(tmp_path / "labels", labels)
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            train(clips, tmp_path / "run", labels=folder)
    shutil.rmtree(folder)
    write_folder(tmp_path / "labels", window_labels({(0, 0): (0, 1, 0), (2, 0): (1, 0, 0)}))
    with pytest.raises(training.TrainingError, match=r"begun with other settings \(windows_fingerprint: "):
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
        ({"learning_rate_decay": "linear"}, "learning_rate_decay must be 'constant' or 'cosine'"),
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
