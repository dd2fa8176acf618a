"""Tests of tfsound.training.train_instances: what a run leaves, restarts, added clips."""

import os
import signal

import classifier_sets
import keras
import numpy as np
import pytest
import tiny
from classifier_sets import make_clip, write_clips
from processes import require_killed
from training_runs import config_of, interrupted_at, require_same_end, signal_at

from tfsound import examples, memory_bank, training
from tfsound.beam.instances import assign_instances

pytestmark = pytest.mark.usefixtures("tiny_encoder")

SETTINGS = {
    "encoder": "tiny", "embedding_dim": 6, "num_steps": 5, "batch_size": 5, "steps_per_checkpoint": 3,
    "learning_rate": 0.01, "num_negatives": 4, "seed": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """30 clips of three classes in the folds 1 and 2."""
    return write_clips(tmp_path_factory.mktemp("sets") / "clips")


@pytest.fixture(scope="module")
def instances(clips, tmp_path_factory):
    """The 15 clips of fold 1."""
    output = str(tmp_path_factory.mktemp("instances") / "set")
    assign_instances((clips,), output, exclude_folds=("2",), num_workers=1)
    return output


@pytest.fixture(scope="module")
def whole_run(instances, tmp_path_factory):
    """A run that nothing disturbed; tests only read it."""
    output = str(tmp_path_factory.mktemp("runs") / "whole")
    return output, train(instances, output, knn_folds=("2",))


def train(instances, output, **settings):
    return training.train_instances(instances, str(output), **(SETTINGS | settings))


def train_until_killed(instances, output, step):
    with signal_at(step, signal.SIGKILL):
        train(instances, output, knn_folds=("2",))


def bank_of(run):
    return keras.ops.convert_to_numpy(training.load_instance_model(run)[0].memory_bank.rows)


def test_a_run_leaves_what_it_says(whole_run, instances):
    output, summary = whole_run
    assert sorted(os.listdir(output)) == [
        "checkpoints", "config.json", "encoder.json", "encoder.keras", "instance_model.keras", "log.csv",
        "tensorboard",
    ]  # fmt: skip
    assert config_of(output).items() >= (SETTINGS | {"num_instances": 15, "instances": instances}).items()
    assert summary.num_steps == 5
    model, mel_params = training.load_instance_model(output)
    assert mel_params == tiny.PARAMS
    assert model.memory_bank.rows.shape == (15, 6)
    encoder, _ = training.load_encoder(output)
    windows = np.random.default_rng(0).normal(size=(3, *tiny.WINDOW)).astype(np.float32)
    np.testing.assert_allclose(model(windows), encoder(windows, training=False), atol=1e-6)


def test_the_nearest_rows_are_asked_after_each_interval(whole_run, clips, instances):
    output, summary = whole_run
    log = training.read_log(os.path.join(output, "log.csv"))
    assert [row["step"] for row in log] == [3, 5]
    # By hand: each clip of fold 2 by the votes of its five nearest rows.
    model, _ = training.load_instance_model(output)
    found = examples.read_instances(instances)
    labels = examples.instance_labels(instances, found.class_names)
    right = []
    for clip in examples.iter_clips(clips, folds=("2",)):
        embedding = np.mean(model(examples.clip_windows(clip, tiny.PARAMS)), axis=0)
        similarities = bank_of(output) @ (embedding / np.linalg.norm(embedding))
        votes = np.zeros(3)
        for row in np.argsort(-similarities)[:5]:
            votes[labels[row]] += np.exp(similarities[row] / 0.4)
        right.append(found.class_names[votes.argmax()] == clip.labels[0])
    assert summary.final["knn_accuracy"] == pytest.approx(np.mean(right))


def test_the_bank_is_saved_without_a_second_one(instances, tmp_path, monkeypatch):
    made = []
    original = memory_bank.MemoryBank.__init__

    def make(self, *arguments, **options):
        made.append(arguments)
        original(self, *arguments, **options)

    monkeypatch.setattr(memory_bank.MemoryBank, "__init__", make)
    train(instances, tmp_path / "run")
    assert len(made) == 1
    model = keras.saving.load_model(tmp_path / "run" / training.INSTANCE_MODEL_NAME)
    assert getattr(model, "optimizer", None) is None


@pytest.mark.parametrize("step", [2, 4])
def test_an_interrupted_run_ends_as_a_whole_one(instances, whole_run, tmp_path, step):
    with interrupted_at(step):
        train(instances, tmp_path / "run", knn_folds=("2",))
    train(instances, tmp_path / "run", knn_folds=("2",))
    require_same_end(tmp_path / "run", whole_run[0])


def test_a_killed_run_finds_its_bank_again(instances, whole_run, tmp_path):
    require_killed(train_until_killed, instances, str(tmp_path / "run"), 4)
    train(instances, tmp_path / "run", knn_folds=("2",))
    np.testing.assert_array_equal(bank_of(tmp_path / "run"), bank_of(whole_run[0]))
    require_same_end(tmp_path / "run", whole_run[0])


def test_added_clips_keep_the_old_rows(clips, instances, whole_run, tmp_path):
    more = tiny.write_clips(tmp_path / "more", [make_clip(n, fold="1") for n in range(40, 47)])
    extended = str(tmp_path / "extended")
    assign_instances((clips, more), extended, exclude_folds=("2",), extends=instances, num_workers=1)
    kept = {}
    with pytest.MonkeyPatch.context() as patch:
        original = training.runs.compile_model

        def compiling(model, config):
            kept["rows"] = keras.ops.convert_to_numpy(model.memory_bank.rows)
            kept["encoder"] = model.audio_encoder.get_weights()
            original(model, config)

        patch.setattr(training.runs, "compile_model", compiling)
        train(extended, tmp_path / "run", start_from=whole_run[0])
    assert len(kept["rows"]) == 22
    np.testing.assert_array_equal(kept["rows"][:15], bank_of(whole_run[0]))
    np.testing.assert_allclose(np.linalg.norm(kept["rows"], axis=1), 1, atol=1e-6)
    for found, expected in zip(
        kept["encoder"], training.load_encoder(whole_run[0])[0].get_weights(), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_rows_of_other_clips_are_refused(clips, whole_run, tmp_path):
    other = str(tmp_path / "other")
    assign_instances((clips,), other, exclude_folds=("1",), num_workers=1)
    with pytest.raises(training.TrainingError, match=r"has rows for 15 instances, .* of them in "):
        train(other, tmp_path / "run", start_from=whole_run[0])
    assert not os.path.exists(tmp_path / "run")


def test_a_run_that_was_begun_with_other_clips_is_not_gone_on_with(clips, instances, tmp_path):
    with interrupted_at(4):
        train(instances, tmp_path / "run")
    both = str(tmp_path / "both")
    assign_instances((clips,), both, num_workers=1)
    with pytest.raises(training.TrainingError, match=r"other settings \(.*num_instances: 15 then, 30 now"):
        train(both, tmp_path / "run")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"batch_size": 16}, ValueError, "batch_size 16 exceeds the 15 instances"),
        ({"num_negatives": 16}, ValueError, "num_negatives must be 0, for all rows, or at most the 15 rows"),
        ({"temperature": 0.0}, ValueError, "temperature must be positive"),
        ({"momentum": 1.0}, ValueError, r"momentum must be in \[0, 1\)"),
        ({"max_time_scale": 0.5}, ValueError, "max_time_scale must be at least 1"),
        ({"knn_folds": ("1",)}, examples.DatasetError, "the clips of fold '1' are among the instances"),
        ({"knn_folds": ("7",)}, examples.DatasetError, "fold '7' does not occur"),
        ({"knn_folds": ("2",), "knn_neighbors": 16}, ValueError, "from 1 to the 15 labelled instances"),
        ({"encoder": "none"}, ValueError, "encoder must be one of"),
        ({"start_from": "nowhere"}, training.TrainingError, "nowhere holds no trained encoder"),
        ({"start_from": "nowhere", "imagenet_weights": "x"}, ValueError, "name two starts"),
        ({"imagenet_weights": "x"}, ValueError, "only densenet and esresnet can start from ImageNet"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_any_work(instances, tmp_path, settings, error, message):
    with pytest.raises(error, match=message):
        train(instances, tmp_path / "run", **settings)
    assert not os.path.exists(tmp_path / "run")


def test_a_run_on_something_else_is_no_start(instances, clips, tmp_path):
    classifier_sets.train(clips, tmp_path / "classifier")
    with pytest.raises(training.TrainingError, match="classifier was not trained on instances; name a run"):
        train(instances, tmp_path / "run", start_from=str(tmp_path / "classifier"))
