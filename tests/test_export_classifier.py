"""Tests of exported classifiers: loaded in a fresh process that has no tfsound, against the live model."""

import csv
import json
import os

import keras
import numpy as np
import pytest
import tensorflow as tf
import test_export_saved_model as encoder_tests
from classifier_sets import NAMES, clips, train
from served import answers_of
from training_runs import config_of

from tfsound import mel, models
from tfsound.export import saved_model

__all__ = ["clips"]  # a fixture

PARAMS, DIM, TOLERANCE = encoder_tests.PARAMS, encoder_tests.DIM, encoder_tests.TOLERANCE
# A name as a table takes it, as a person writes it, and as CSV must quote it.
CLASS_NAMES = ("dog", "Große Trommel", 'a, "b"')
WAVEFORMS = {
    name: encoder_tests.WAVEFORMS[name]
    for name in ("empty batch", "one sample", "three of 5 s", "129 windows")
}
NUM_WINDOWS = (0, 1, 129)


@pytest.fixture(scope="module", params=[True, False], ids=["multi_label", "exclusive"])
def classifier(request):
    keras.utils.set_random_seed(0)
    layers = keras.Input((96, 64)), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(DIM)
    return models.ClassifierModel(keras.Sequential(layers), len(CLASS_NAMES), multi_label=request.param)


@pytest.fixture(scope="module")
def exported(classifier, tmp_path_factory):
    output = str(tmp_path_factory.mktemp("model"))
    return saved_model.save(classifier, PARAMS, output, provenance={}, class_names=CLASS_NAMES)


@pytest.fixture(scope="module")
def answers(exported, tmp_path_factory):
    folder = tmp_path_factory.mktemp("requests")
    requests = {
        "serving_default": WAVEFORMS,
        "wav_bytes": {"all": encoder_tests.WAVS},
        "log_mel": {number: encoder_tests.LOG_MELS[number] for number in NUM_WINDOWS},
    }
    return answers_of(exported.path, requests, folder)


def test_signatures_are_those_of_an_encoder_and_scores(answers):
    clip_outputs = {
        "embedding": ("float32", [None, DIM]), "window_embeddings": ("float32", [None, None, DIM]),
        "scores": ("float32", [None, 3]), "window_scores": ("float32", [None, None, 3]),
    }  # fmt: skip
    assert {name: found["outputs"] for name, found in answers["structure"].items()} == {
        "serving_default": clip_outputs,
        "wav_bytes": clip_outputs,
        "log_mel": {"embedding": ("float32", [None, DIM]), "scores": ("float32", [None, 3])},
    }


def require_as_live(classifier, clip, answer, row):
    windows = mel.log_mel_windows(clip, PARAMS)
    scores, embeddings = classifier(windows).numpy(), classifier.embed(windows).numpy()
    for name, live in (("scores", scores), ("embedding", embeddings)):
        np.testing.assert_allclose(answer[name][row], live.mean(axis=0), atol=TOLERANCE)
    for name, live in (("window_scores", scores), ("window_embeddings", embeddings)):
        np.testing.assert_allclose(answer[name][row][: len(live)], live, atol=TOLERANCE)
        np.testing.assert_array_equal(answer[name][row][len(live) :], 0)


@pytest.mark.parametrize("case", WAVEFORMS)
def test_waveforms_score_as_live(classifier, answers, case):
    waveforms, answer = WAVEFORMS[case], answers["serving_default", case]
    assert answer["scores"].shape == (len(waveforms), 3)
    for row, clip in enumerate(waveforms):
        require_as_live(classifier, clip, answer, row)


def test_clips_of_a_batch_of_wavs_are_means_over_their_own_windows(classifier, answers):
    answer = answers["wav_bytes", "all"]
    for row, data in enumerate(encoder_tests.WAVS):
        samples, _ = tf.audio.decode_wav(data)
        require_as_live(classifier, tf.reduce_mean(samples, axis=1), answer, row)
    assert np.ptp(answer["scores"], axis=0).max() > 100 * TOLERANCE


@pytest.mark.parametrize("number", NUM_WINDOWS)
def test_windows_score_as_live(classifier, answers, number):
    answer = answers["log_mel", number]
    assert answer["scores"].shape == (number, 3)
    if number:
        live = classifier(encoder_tests.LOG_MELS[number]).numpy()
        np.testing.assert_allclose(answer["scores"], live, atol=TOLERANCE)


def test_the_label_map_is_an_asset(exported):
    path = os.path.join(exported.path, "assets", "labels.csv")
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows == [{"index": str(index), "name": name} for index, name in enumerate(CLASS_NAMES)]
    loaded = tf.saved_model.load(exported.path)
    assert loaded.labels_file.asset_path.numpy().decode() == path


def test_scores_that_differ_are_not_published(tmp_path):
    class Head(keras.layers.Layer):
        def call(self, inputs):
            logits = inputs[:, :3]
            return logits if tf.executing_eagerly() else logits + 1.0

    encoder = keras.Sequential(
        [keras.Input((96, 64)), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(DIM)]
    )
    classifier = models.ClassifierModel(encoder, 3)
    classifier.head = Head()
    with pytest.raises(saved_model.ExportError, match=r"differs from .*nothing was published"):
        saved_model.save(classifier, PARAMS, str(tmp_path), provenance={}, class_names=CLASS_NAMES)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("class_names", [(), ("a", "b")])
def test_names_must_be_one_a_class(classifier, tmp_path, class_names):
    with pytest.raises(ValueError, match=f"class_names must be 3, one a class, got {len(class_names)}"):
        saved_model.save(classifier, PARAMS, str(tmp_path / "model"), provenance={}, class_names=class_names)
    with pytest.raises(ValueError, match="class_names must be 0, one a class, got 1"):
        saved_model.save(
            classifier.audio_encoder, PARAMS, str(tmp_path / "model"), provenance={}, class_names=("a",)
        )
    assert not (tmp_path / "model").exists()


def test_a_run_on_labels_exports_its_classifier(clips, tiny_encoder, tmp_path):
    run = str(tmp_path / "run")
    train(clips, run)
    result = saved_model.export(run, str(tmp_path / "model"))
    assets = os.path.join(result.path, "assets")
    assert sorted(os.listdir(assets)) == ["labels.csv", "mel_params.json", "provenance.json"]
    with open(os.path.join(assets, "provenance.json")) as file:
        provenance = json.load(file)
    assert provenance["training"] == config_of(run)
    assert provenance["training"]["class_names"] == list(NAMES)
    assert result.largest_difference < TOLERANCE
