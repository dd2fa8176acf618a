"""Tests of tfsound.training.train_classifier: what a run leaves, labels, what is frozen, starts."""

import json
import os
import pathlib
import shutil

import numpy as np
import pytest
import tiny
from classifier_sets import (
    NAMES,
    NUM_CLIPS,
    SETTINGS,
    clips,
    make_clip,
    train,
    triplet_run,
    whole_run,
    window_labels,
    write_folder,
)
from training_runs import config_of, require_same_end, weights_at_start

from tests import active_learning_sets as sets
from tfsound import active_learning as al
from tfsound import evaluation, examples, training

__all__ = ["clips", "triplet_run", "whole_run"]  # fixtures
pytestmark = pytest.mark.usefixtures("tiny_encoder")


def test_a_run_leaves_what_it_says(whole_run, clips):
    output, summary = whole_run
    assert sorted(os.listdir(output)) == [
        "checkpoints", "classifier.keras", "config.json", "encoder.json", "encoder.keras", "log.csv",
        "tensorboard",
    ]  # fmt: skip
    config = config_of(output)
    assert config.pop("windows_digest") == examples.index_labelled_windows(clips).digest
    assert config == SETTINGS | {
        "clips": clips, "labels": "", "folds": [], "exclude_folds": [], "start_from": "",
        "imagenet_weights": "", "freeze": False,
        "unit_norm": False, "multi_label": True, "hard": False, "class_balance": "natural",
        "replace_last_layer": False, "augment": False, "measure_folds": [],
        "learning_rate_decay": "cosine", "cold_epochs": 5, "warm_up_epochs": 10, "decay_per_epoch": 0.985,
        "weight_decay": 0.0, "precision": "float32", "class_names": list(NAMES), "num_windows": 90,
        "patience_intervals": 0, "steps_per_epoch": 11,
    }  # fmt: skip
    assert [row["step"] for row in training.read_log(f"{output}/log.csv")] == [3, 5]
    assert str(summary).startswith(f"trained {output}: 5 steps, loss ")


def test_the_classifier_of_a_run_holds_its_encoder_and_no_optimizer(whole_run):
    output, _ = whole_run
    classifier, mel_params, class_names = training.load_classifier(output)
    assert (mel_params, class_names) == (tiny.PARAMS, NAMES)
    encoder, _ = training.load_encoder(output)
    windows = np.random.default_rng(0).normal(size=(3, *tiny.WINDOW)).astype(np.float32)
    np.testing.assert_array_equal(classifier.embed(windows), encoder(windows))
    assert classifier(windows).shape == (3, 3)
    checkpoint = sorted(pathlib.Path(output, "checkpoints").iterdir())[-1]
    trained = training.classifier._compiled_model(config_of(output), tiny.PARAMS, is_resumed=False)
    trained.load_weights(checkpoint / "model.weights.h5")
    for one, other in zip(trained.get_weights(), classifier.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert getattr(classifier, "optimizer", None) is None
    np.testing.assert_array_equal(evaluation.load_embed(output)[0](windows), encoder(windows))


@pytest.mark.parametrize("settings", [{}, {"multi_label": False, "class_balance": "uniform", "hard": True}])
def test_classes_are_learned_and_hold_on_clips_that_were_left_out(clips, tmp_path, settings):
    output = str(tmp_path / "run")
    long = {"num_steps": 400, "steps_per_checkpoint": 200, "batch_size": 16}
    train(clips, output, exclude_folds=("2",), **long, **settings)
    first, last = training.read_log(f"{output}/log.csv")
    assert last["loss"] < first["loss"]
    found = evaluation.evaluate_classifier(clips, output, folds=("2",))
    scores, labels = found.folds[0].scores, found.folds[0].labels
    assert (scores.argmax(axis=1) == labels.argmax(axis=1)).mean() >= 0.9  # chance is a third
    assert found.mean_average_precisions[0] > 0.9


def test_a_few_propagated_labels_teach_the_classes(clips, tmp_path):
    """Through the folder that `answers` writes: 2 windows a class, soft labels, one uncertain."""
    rows = {(number, 0): np.eye(3)[number // 2 % 3] for number in range(12)}
    labels = window_labels(rows, known=[True] * 11 + [False])
    folder = write_folder(tmp_path / "labels", labels)
    output = str(tmp_path / "run")
    train(
        clips, output, labels=folder, exclude_folds=("2",), num_steps=300, steps_per_checkpoint=300,
    )  # fmt: skip
    assert config_of(output)["num_windows"] == 6
    assert config_of(output)["labels"] == folder
    found = evaluation.evaluate_classifier(clips, output, folds=("2",))
    assert found.mean_average_precisions[0] > 0.8


def test_a_folder_and_its_arrays_train_the_same(clips, tmp_path):
    labels = window_labels({(0, 0): (1, 0, 0.5), (2, 1): (0, 1, 0), (4, 2): (0, 0, 0), (6, 0): (0.25, 0, 1)})
    train(clips, tmp_path / "folder", labels=write_folder(tmp_path / "labels", labels))
    train(clips, tmp_path / "arrays", labels=labels)
    require_same_end(tmp_path / "folder", tmp_path / "arrays", atol=0)
    assert config_of(tmp_path / "arrays")["labels"] == "(arrays)"


def test_from_questions_to_a_classifier(clips, triplet_run, tmp_path):
    """The whole way: questions about these clips, answers, labels of their windows, training on them."""
    al.questions(clips, triplet_run, str(tmp_path / "q"), num_questions=8, neighbours=0)
    question_set = al.read_questions(str(tmp_path / "q"))
    labels_of_clip = {clip.clip_id: clip.labels for clip in map(make_clip, range(NUM_CLIPS))}
    for answer in al.simulated_answers(question_set.questions, labels_of_clip):
        sets.answer(tmp_path / "q", (answer.question_id, answer.labels))
    summary = al.answers((str(tmp_path / "q"),), str(tmp_path / "labels"))
    train(clips, tmp_path / "run", labels=str(tmp_path / "labels"), start_from=triplet_run)
    assert config_of(tmp_path / "run")["num_windows"] == summary.num_labelled_windows == 90


# What is done with labels.


def usable(labels, **options):
    """Labels by {window: confidences} of clips 0 and 1, as the loss would get them."""
    windows = examples.LabelledWindowIndex(
        paths=("shard",),
        shard=np.zeros(len(labels), np.int32),
        offset=np.arange(len(labels)),
        row=np.arange(len(labels), dtype=np.int32)[::-1],
        row_labels=np.asarray(labels, np.float32)[::-1],
        class_names=NAMES,
        mel_params=tiny.PARAMS,
    )
    found = training.classifier._usable(windows, **({"multi_label": True, "hard": False} | options))
    return found.row_labels[found.row].tolist(), found.offset.tolist()


SOFT = [[0.5, 0.25, 0], [0.4, 0.4, 0], [0, 0, 0], [0, 0.25, 0.75]]


@pytest.mark.parametrize(
    ("options", "labels", "kept"),
    [
        ({}, SOFT, [0, 1, 2, 3]),
        ({"hard": True}, [[1, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 1]], [0, 1, 2, 3]),
        ({"multi_label": False}, [[2 / 3, 1 / 3, 0], [0.5, 0.5, 0], [0, 0.25, 0.75]], [0, 1, 3]),
        ({"multi_label": False, "hard": True}, [[1, 0, 0], [1, 0, 0], [0, 0, 1]], [0, 1, 3]),
    ],
)
def test_labels_as_the_loss_takes_them(options, labels, kept):
    found, windows = usable(SOFT, **options)
    np.testing.assert_allclose(found, labels, rtol=1e-6)
    assert windows == kept


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([[1, 0, 0]] * 2, {}, r"all 2 labelled windows have the same labels \(a\), so that there is nothing"),
        ([[0, 0, 0]] * 2, {}, r"have the same labels \(none of the classes\)"),
        ([[0, 0, 0]] * 2, {"multi_label": False}, "all 0 labelled windows have the same labels"),
        (
            [[1, 0, 0], [0, 0, 0]],
            {"multi_label": False},
            r"all 1 labelled windows have the same labels \(a\)",
        ),
        ([[0.9, 0, 0], [0.8, 0, 0]], {"hard": True}, r"the same labels \(a\)"),
    ],
)
def test_labels_that_leave_nothing_to_tell_apart_are_refused(labels, options, message):
    with pytest.raises(ValueError, match=message):
        usable(labels, **options)


def test_a_class_and_its_absence_can_be_told_apart():
    assert usable([[1, 0, 0], [0, 0, 0]])[1] == [0, 1]


# Starting from another run.


def test_a_run_starts_from_the_encoder_of_another_and_moves_all_of_it(
    clips, triplet_run, tmp_path, monkeypatch
):
    kept = weights_at_start(monkeypatch)
    train(clips, tmp_path / "run", start_from=triplet_run, encoder="", embedding_dim=0)
    started = training.load_encoder(triplet_run)[0].get_weights()
    trained = training.load_encoder(str(tmp_path / "run"))[0].get_weights()
    for found, expected, after in zip(kept["audio_encoder"], started, trained, strict=True):
        np.testing.assert_array_equal(found, expected)
        assert not np.array_equal(after, expected)
    config = config_of(tmp_path / "run")
    assert (config["encoder"], config["embedding_dim"], config["unit_norm"]) == ("tiny", 6, True)
    # It still scales embeddings to length 1.
    windows = np.random.default_rng(0).normal(size=(3, *tiny.WINDOW)).astype(np.float32)
    embeddings = training.load_encoder(str(tmp_path / "run"))[0](windows)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


def test_a_frozen_encoder_is_left_bit_by_bit_and_can_be_fine_tuned_from_there(
    clips, triplet_run, tmp_path, monkeypatch
):
    train(clips, tmp_path / "frozen", start_from=triplet_run, freeze=True)
    started = training.load_encoder(triplet_run)[0].get_weights()
    encoder = training.load_encoder(str(tmp_path / "frozen"))[0]
    for found, expected in zip(encoder.get_weights(), started, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert encoder.trainable_variables
    assert training.load_classifier(str(tmp_path / "frozen"))[0].freeze
    untrained = training.classifier._compiled_model(
        config_of(tmp_path / "frozen"), tiny.PARAMS, is_resumed=False
    )
    assert len(untrained.optimizer.variables) < 10  # no moments of the encoder
    kept = weights_at_start(monkeypatch)
    train(clips, tmp_path / "tuned", start_from=str(tmp_path / "frozen"))
    tuned = training.load_encoder(str(tmp_path / "tuned"))[0].get_weights()
    for found, expected, after in zip(kept["audio_encoder"], started, tuned, strict=True):
        np.testing.assert_array_equal(found, expected)
        assert not np.array_equal(after, expected)


def test_the_precision_is_that_of_the_new_run(clips, triplet_run, tmp_path):
    train(clips, tmp_path / "run", start_from=triplet_run, precision="bfloat16")
    model, _, _ = training.load_classifier(str(tmp_path / "run"))
    assert model.audio_encoder.get_layer("conv").compute_dtype == "bfloat16"
    assert model.head.compute_dtype == "float32"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"embedding_dim": 7}, r"has another encoder than was asked for \(embedding_dim: 6 there, 7 here\)"),
        ({"encoder": "vgg"}, r"\(encoder: 'tiny' there, 'vgg' here\); leave that out"),
    ],
)
def test_a_start_with_another_encoder_is_refused(clips, triplet_run, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        train(clips, tmp_path / "run", start_from=triplet_run, **settings)
    assert os.listdir(tmp_path) == []


def test_a_start_with_another_front_end_is_refused(clips, triplet_run, tmp_path):
    other = str(tmp_path / "other")
    shutil.copytree(triplet_run, other)
    info = json.loads(pathlib.Path(other, "encoder.json").read_text())
    info["mel_params"]["mel_max_hz"] = 7000.0
    pathlib.Path(other, "encoder.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match=r"other was made with other mel parameters: mel_max_hz is 7000"):
        train(clips, tmp_path / "run", start_from=other)
    with pytest.raises(training.TrainingError, match="it does not exist"):
        train(clips, tmp_path / "run", start_from="nowhere")
    assert os.listdir(tmp_path) == ["other"]
