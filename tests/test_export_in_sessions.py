"""Tests of exports as TF Serving and other programs load them: a graph in a session, not Python objects."""

import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from c_program import run, tensor_names

from tfsound import mel, models, networks
from tfsound.export import saved_model

DIM = 16


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """The version folders of an encoder and of a classifier."""
    keras.utils.set_random_seed(0)
    encoder = networks.build_encoder("resnet_small", embedding_dim=DIM)
    classifier = models.ClassifierModel(encoder, num_classes=3)
    folder, params = tmp_path_factory.mktemp("export"), mel.MelParams()
    return {
        "encoder": saved_model.save(encoder, params, str(folder / "encoder"), provenance={}).path,
        "classifier": saved_model.save(
            classifier, params, str(folder / "classifier"), provenance={}, class_names=("a", "b", "c")
        ).path,
    }


CASES = {
    "three clips": ("serving_default", "waveform", (3, 40_000)),
    "one sample": ("serving_default", "waveform", (1, 1)),
    "windows": ("log_mel", "log_mel", (5, 96, 64)),
}


def noise(shape):
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.parametrize("kind", ["encoder", "classifier"])
def test_a_session_gives_what_the_loaded_object_gives(versions, kind):
    """As TensorFlow Serving loads it. Keras's own tracking left the weights where no signature reads them."""
    version = versions[kind]
    loaded = tf.saved_model.load(version)
    expected = {
        case: loaded.signatures[signature](**{name: tf.constant(noise(shape))})
        for case, (signature, name, shape) in CASES.items()
    }
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.saved_model.load(session, ["serve"], version)
        for case, (signature, name, shape) in CASES.items():
            inputs, outputs = tensor_names(version, signature)
            found = session.run(outputs, {inputs[name]: noise(shape)})
            assert set(found) == set(expected[case])
            for output, value in expected[case].items():
                np.testing.assert_allclose(found[output], value, atol=1e-6, err_msg=output)


@pytest.mark.parametrize("case", CASES)
def test_a_c_program_gives_what_python_gives(versions, case):
    version = versions["encoder"]
    signature, name, shape = CASES[case]
    loaded = tf.saved_model.load(version)
    expected = loaded.signatures[signature](**{name: tf.constant(noise(shape))})
    for output, value in expected.items():
        np.testing.assert_allclose(run(version, signature, noise(shape), output), np.ravel(value), atol=1e-6)


def test_the_reason_reaches_a_c_program(versions, tmp_path):
    version = versions["encoder"]
    with pytest.raises(RuntimeError, match="running: "):
        run(version, "serving_default", noise(1000), "embedding")
    cut_off = shutil.copytree(version, tmp_path / "1")
    (cut_off / "variables" / "variables.data-00000-of-00001").unlink()
    with pytest.raises(RuntimeError, match="loading: "):
        run(str(cut_off), "serving_default", noise((1, 1000)), "embedding")
