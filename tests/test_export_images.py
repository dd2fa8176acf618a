"""Tests of exported encoders of images: in a fresh process that has no tfsound, against the live model."""

import json
import os

import keras
import numpy as np
import pytest
import tensorflow as tf
import test_export_saved_model as encoder_tests
from coincidence_sets import SETTINGS, image_run, pairs
from served import answers_of, read_provenance
from tiny import jpeg

from tfsound import examples, training
from tfsound.export import saved_model

__all__ = ["image_run", "pairs"]  # fixtures
pytestmark = pytest.mark.usefixtures("tiny_encoder")

TOLERANCE = 1e-5
JPEGS = [jpeg(number) for number in range(20)]  # more than go through the network at once
PIXELS = np.zeros((64, 96, 3), np.uint8)
BAD_JPEGS = {
    "another size": (tf.io.encode_jpeg(PIXELS).numpy(), r"\[64,96,3\] is not compatible .*\[128,128,3\]"),
    "cut off": (JPEGS[0][:200], "JPEG"),
    "text": (b"no picture at all", "[Uu]nknown image file format|[Ii]nvalid JPEG|JPEG"),
    "nothing": (b"", "JPEG|[Ii]nput is empty|[Uu]nknown image"),
}


def images_of(jpegs):
    return examples.decode_images(jpegs).numpy()


@pytest.fixture(scope="module")
def exported(image_run, tmp_path_factory):
    return saved_model.export(image_run, str(tmp_path_factory.mktemp("model")), modality="image")


@pytest.fixture(scope="module")
def live(image_run):
    return training.load_coincidence_model(image_run)[0].image_encoder


@pytest.fixture(scope="module")
def answers(exported, tmp_path_factory):
    images = images_of(JPEGS)
    with_nan = images.copy()
    with_nan[1, 0, 0, 0], with_nan[18, 127, 127, 2] = np.nan, np.inf
    requests = {
        "serving_default": {"all": images, "one": images[:1], "none": images[:0], "with NaN": with_nan},
        "jpeg_bytes": {"all": JPEGS, "one": JPEGS[3:4], "none": np.zeros(0, "S1")}
        | {case: [JPEGS[0], data] for case, (data, _) in BAD_JPEGS.items()},
    }
    return answers_of(exported.path, requests, tmp_path_factory.mktemp("requests"))


def test_signatures_take_images_and_jpegs(answers):
    outputs = {"embedding": ("float32", [None, 6])}
    assert answers["structure"] == {
        "serving_default": {"inputs": {"image": ("float32", [None, 128, 128, 3])}, "outputs": outputs},
        "jpeg_bytes": {"inputs": {"jpeg_bytes": ("string", [None])}, "outputs": outputs},
    }


def test_images_and_jpegs_embed_as_live(live, answers):
    expected = live(images_of(JPEGS), training=False).numpy()
    assert np.ptp(expected, axis=0).max() > 100 * TOLERANCE  # else nothing could differ
    for signature in ("serving_default", "jpeg_bytes"):
        np.testing.assert_allclose(answers[signature, "all"]["embedding"], expected, atol=TOLERANCE)
        assert answers[signature, "none"]["embedding"].shape == (0, 6)
    np.testing.assert_allclose(answers["serving_default", "one"]["embedding"], expected[:1], atol=TOLERANCE)
    np.testing.assert_allclose(answers["jpeg_bytes", "one"]["embedding"], expected[3:4], atol=TOLERANCE)


def test_an_image_with_nan_gives_nan_and_no_other_does(live, answers):
    expected = live(images_of(JPEGS), training=False).numpy()
    found = answers["serving_default", "with NaN"]["embedding"]
    is_bad = np.isin(np.arange(20), [1, 18])
    np.testing.assert_array_equal(np.isnan(found).all(axis=1), is_bad)
    np.testing.assert_allclose(found[~is_bad], expected[~is_bad], atol=TOLERANCE)


@pytest.mark.parametrize("case", BAD_JPEGS)
def test_bad_jpegs_are_refused_with_a_reason(answers, case):
    _, message = BAD_JPEGS[case]
    with pytest.raises(ValueError, match=message):
        raise ValueError(answers["error"]["jpeg_bytes", case])


def test_each_signature_has_a_warm_up_request_and_answers_it(exported):
    requests = encoder_tests.warm_up_requests(exported.path)
    loaded = tf.saved_model.load(exported.path)
    assert set(requests) == set(loaded.signatures) == {"serving_default", "jpeg_bytes"}
    for name, inputs in requests.items():
        assert np.isfinite(loaded.signatures[name](**inputs)["embedding"]).all()


def test_provenance_and_no_front_end_lie_beside_the_graph(exported, image_run):
    assert os.listdir(os.path.join(exported.path, "assets")) == ["provenance.json"]
    with open(os.path.join(image_run, "encoder.json")) as file:
        assert read_provenance(exported.path)["training"] == json.load(file)["config"]
    assert exported.largest_difference < TOLERANCE


def test_an_export_that_differs_is_not_published(tmp_path):
    layers = keras.Input((128, 128, 3)), keras.layers.GlobalAveragePooling2D()
    encoder = keras.Sequential([*layers, encoder_tests.UnlikeItsGraph(0.01)])
    with pytest.raises(saved_model.ExportError, match=r"differs from .*nothing was published"):
        saved_model.save(encoder, None, str(tmp_path), provenance={})
    assert not list(tmp_path.iterdir())


def test_a_run_without_images_has_none_to_export(pairs, tmp_path):
    training.train_coincidence(str(tmp_path / "run"), audio_audio=pairs[:1], **SETTINGS)
    with pytest.raises(training.TrainingError, match=r"run was trained on sound alone; name a run on sound"):
        saved_model.export(str(tmp_path / "run"), str(tmp_path / "model"), modality="image")
    with pytest.raises(ValueError, match=r"modality must be one of \['audio', 'image'\], got 'video'"):
        saved_model.export(str(tmp_path / "run"), str(tmp_path / "model"), modality="video")
    assert not (tmp_path / "model").exists()
