"""Tests that whatever this package trains can be exported: each kind of run, front end and precision."""

import numpy as np
import pytest
import tensorflow as tf
import test_training_instances as instance_tests
import tiny
from classifier_sets import clips, train, triplet_run, whole_run
from coincidence_sets import image_run, pairs
from served import noise, read_provenance
from test_training_instances import instances

from tfsound import mel, models, networks, training
from tfsound.export import saved_model

__all__ = ["clips", "image_run", "instances", "pairs", "triplet_run", "whole_run"]  # fixtures
pytestmark = pytest.mark.usefixtures("tiny_encoder")

TOLERANCE = 1e-5


def require_as_live(path, live, params, *, atol=TOLERANCE):
    """The signatures of an export give what the live functions give for clips of two lengths."""
    served = tf.saved_model.load(path)
    channels = () if params.num_channels == 1 else (params.num_channels,)
    for num_samples in (1000, 2 * params.context_samples + params.sample_rate):
        waveform = noise(2, *channels, num_samples)
        windows = np.asarray(mel.log_mel_windows(waveform, params))
        found = served.signatures["serving_default"](waveform=tf.constant(waveform))
        for name, function in live.items():
            expected = [np.mean(function(clip), axis=0, dtype=np.float32) for clip in windows]
            np.testing.assert_allclose(found[name], expected, atol=atol * max(1, np.abs(expected).max()))
        of_windows = served.signatures["log_mel"](log_mel=tf.constant(windows[0]))
        for name, function in live.items():
            np.testing.assert_allclose(
                of_windows[name], np.float32(function(windows[0])), atol=atol * max(1, np.abs(expected).max())
            )


@pytest.mark.parametrize("kind", ["triplets", "pairs", "instances", "labels"])
def test_a_run_of_each_kind_exports(kind, tmp_path, request):
    run = {
        "triplets": lambda: request.getfixturevalue("triplet_run"),
        "pairs": lambda: request.getfixturevalue("image_run"),
        "instances": lambda: (
            instance_tests.train(request.getfixturevalue("instances"), tmp_path / "r").output
        ),
        "labels": lambda: request.getfixturevalue("whole_run")[0],
    }[kind]()
    path = saved_model.export(run, str(tmp_path / "model")).path
    live = {"embedding": training.load_encoder(run)[0]}
    if kind == "labels":
        classifier, _, _ = training.load_classifier(run)
        live = {"embedding": classifier.embed, "scores": classifier}
    require_as_live(path, live, tiny.PARAMS)
    provenance = read_provenance(path)
    command = {"triplets": "train", "pairs": "train-coincidence", "labels": "train-classifier"}
    assert provenance["command"].startswith(f"tfsound {command.get(kind, 'train-instances')} ")
    others = {
        "triplets": {"positive_distance", "negative_distance"},
        "pairs": {"audio_image_loss", "audio_image_accuracy"},
    }
    assert {row["name"] for row in provenance["metrics"]} == {"loss"} | others.get(kind, set())


def test_a_classifier_whose_layer_took_the_place_of_the_embedding_exports(clips, tmp_path):
    run = str(tmp_path / "run")
    train(clips, run, replace_last_layer=True, multi_label=False, precision="bfloat16")
    path = saved_model.export(run, str(tmp_path / "model")).path
    classifier, params, _ = training.load_classifier(run)
    # What lies below, features of bfloat16, is served as float32.
    assert classifier.audio_encoder.output_shape == (None, 8)
    require_as_live(path, {"embedding": classifier.embed, "scores": classifier}, params, atol=1e-2)
    scores = tf.saved_model.load(path).signatures["serving_default"](waveform=noise(2, 4000))["scores"]
    np.testing.assert_allclose(tf.reduce_sum(scores, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("num_channels", [1, 2])
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_bands_of_five_second_windows_export(tmp_path, num_channels, precision):
    params = mel.preset("esresnet", num_channels=num_channels)
    encoder = networks.build_encoder(
        "tiny", input_shape=params.window_shape, num_bands=3, num_channels=num_channels, embedding_dim=5,
        dtype_policy=precision,
    )  # fmt: skip
    run = tmp_path / "run"
    run.mkdir()
    training.save_encoder(encoder, params, str(run), {"encoder": "tiny", "instances": "INSTANCES"})
    exported = saved_model.export(str(run), str(tmp_path / "model"))
    atol = TOLERANCE if precision == "float32" else 1e-2
    require_as_live(exported.path, {"embedding": encoder}, params, atol=atol)


def test_embeddings_of_great_length_export(tmp_path):
    """The difference that is borne grows with the components, which nothing keeps at length 1."""
    encoder = networks.build_encoder("resnet_small", embedding_dim=4, unit_norm=False)
    encoder.get_layer("embedding").kernel.assign(encoder.get_layer("embedding").kernel * 1e5)
    classifier = models.ClassifierModel(encoder, 2)
    path = saved_model.save(
        classifier, mel.MelParams(), str(tmp_path), provenance={}, class_names=("a", "b")
    ).path  # fmt: skip
    require_as_live(path, {"embedding": encoder}, mel.MelParams())
