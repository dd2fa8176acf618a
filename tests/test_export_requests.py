"""Tests of what served graphs answer to the odd and the wrong: NaN, silence, other shapes, great lengths."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from served import noise, small_encoder, wav

from tfsound import mel, models, networks
from tfsound.export import saved_model

PARAMS = mel.MelParams()
WINDOW = PARAMS.context_samples
# Samples from one window's start to the next.
STRIDE = PARAMS.context_frames * PARAMS.hop_samples
BAD_VALUES = (np.nan, np.inf, -np.inf)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A classifier with a real network below, whose maxima and ReLUs might swallow NaN."""
    encoder = networks.build_encoder("vgg_small", embedding_dim=4)
    classifier = models.ClassifierModel(encoder, 3)
    output = str(tmp_path_factory.mktemp("model"))
    exported = saved_model.save(
        classifier, PARAMS, output, provenance={}, class_names=("a", "b", "c")
    )  # fmt: skip
    return tf.saved_model.load(exported.path)


def ask(served, waveform):
    answer = served.signatures["serving_default"](waveform=tf.constant(waveform))
    return {name: value.numpy() for name, value in answer.items()}


@pytest.mark.parametrize("value", BAD_VALUES)
def test_nan_and_infinity_give_nan_where_they_are_and_nowhere_else(served, value):
    waveform = noise(4, WINDOW + 2 * STRIDE)
    clean = ask(served, waveform)
    waveform[1, STRIDE + 5000] = value  # in the second window of three
    waveform[2, :] = value
    answer = ask(served, waveform)
    for name in ("embedding", "scores"):
        np.testing.assert_array_equal(np.isnan(answer[name]).all(axis=1), [False, True, True, False])
    for name in ("window_embeddings", "window_scores"):
        is_nan = np.isnan(answer[name])
        assert (is_nan.any(axis=-1) == is_nan.all(axis=-1)).all()
        np.testing.assert_array_equal(
            is_nan.all(axis=-1), [[False] * 3, [False, True, False], [True] * 3, [False] * 3]
        )
        np.testing.assert_allclose(answer[name][1, ::2], clean[name][1, ::2], atol=1e-6)
    for name, values in answer.items():
        np.testing.assert_allclose(values[[0, 3]], clean[name][[0, 3]], atol=1e-6)


@pytest.mark.parametrize("value", BAD_VALUES)
def test_nan_in_windows_gives_nan_for_them(served, value):
    windows = noise(130, 96, 64)  # more than go through the network at once
    clean = served.signatures["log_mel"](log_mel=tf.constant(windows))
    windows[[7, 129], 95, 63] = value
    answer = served.signatures["log_mel"](log_mel=tf.constant(windows))
    is_bad = np.isin(np.arange(130), [7, 129])
    for name in ("embedding", "scores"):
        np.testing.assert_array_equal(np.isnan(answer[name]).all(axis=1), is_bad)
        np.testing.assert_array_equal(np.isnan(answer[name]).any(axis=1), is_bad)
        np.testing.assert_allclose(answer[name][~is_bad], clean[name][~is_bad], atol=1e-6)


def test_a_sample_that_no_window_reaches_changes_nothing(served):
    waveform = noise(1, WINDOW + STRIDE - 1)
    clean = ask(served, waveform)
    waveform[0, WINDOW + PARAMS.hop_samples :] = np.nan
    for name, values in ask(served, waveform).items():
        np.testing.assert_array_equal(values, clean[name])


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_row_is_answered_as_alone_whatever_the_others_hold(served, data):
    num_samples = data.draw(st.integers(1, WINDOW + 2 * STRIDE))
    waveform = noise(3, num_samples)
    clean = ask(served, waveform[:1])
    for row in (1, 2):
        position = data.draw(st.integers(0, num_samples - 1))
        waveform[row, position:] = data.draw(st.sampled_from([*BAD_VALUES, 0.0, 1.0, 3e38]))
    answer = ask(served, waveform)
    for name, values in answer.items():
        assert np.isfinite(values[0]).all()
        np.testing.assert_allclose(values[0], clean[name][0], atol=1e-6)


@pytest.mark.parametrize("value", BAD_VALUES)
def test_decibels_and_stereo_give_nan_for_nan(tmp_path, value):
    params = mel.preset("esresnet", context_seconds=0.2, num_channels=2)
    path = saved_model.save(
        small_encoder(shape=params.window_shape), params, str(tmp_path), provenance={}
    ).path  # fmt: skip
    served = tf.saved_model.load(path)
    waveform = noise(3, 2, 3 * params.context_samples)
    waveform[1, 1, 10] = value  # in the first window of the right channel
    answer = ask(served, waveform)
    np.testing.assert_array_equal(np.isnan(answer["embedding"]).all(axis=1), [False, True, False])
    is_nan = np.isnan(answer["window_embeddings"]).all(axis=-1)
    assert (is_nan[1, 0], is_nan[1, 1:].any(), is_nan[[0, 2]].any()) == (True, False, False)


@pytest.mark.parametrize("amplitude", [0.0, 1.0, -1.0])
@pytest.mark.parametrize("batch", [1, 256])
def test_silence_and_full_scale_are_answered_in_any_batch(served, amplitude, batch):
    noise_signs = np.sign(np.random.default_rng(0).standard_normal((batch, 2000)))
    waveform = (amplitude * noise_signs).astype(np.float32)
    answer = ask(served, waveform)
    assert answer["scores"].shape == (batch, 3)
    assert all(np.isfinite(values).all() for values in answer.values())
    alone = ask(served, waveform[-1:])
    np.testing.assert_allclose(answer["scores"][-1], alone["scores"][0], atol=1e-6)


@pytest.mark.parametrize(
    ("signature", "value", "message"),
    [
        ("serving_default", np.zeros(100, np.float32), r"tensor waveform \[100\] .*expected shape \[\?,\?\]"),
        ("serving_default", np.zeros((1, 2, 9), np.float32), r"tensor waveform \[1,2,9\] is not compatible"),
        ("serving_default", np.zeros((1, 9)), "to be a float tensor but is a double tensor"),
        ("serving_default", np.zeros((1, 9), np.int16), "to be a float tensor but is a int16 tensor"),
        ("wav_bytes", wav(noise(100)), r"tensor wav_bytes \[\] .*expected shape \[\?\]"),
        ("wav_bytes", np.zeros((1, 9), np.float32), "to be a string tensor but is a float tensor"),
        ("log_mel", np.zeros((96, 64), np.float32), r"tensor log_mel \[96,64\] .*shape \[\?,96,64\]"),
        ("log_mel", np.zeros((5, 64, 96), np.float32), r"log_mel \[5,64,96\] .*shape \[\?,96,64\]"),
        ("log_mel", np.zeros((1, 96, 64), np.float16), "to be a float tensor but is a half tensor"),
    ],
)
def test_another_shape_or_type_is_refused_with_both_named(served, signature, value, message):
    name = "waveform" if signature == "serving_default" else signature
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        served.signatures[signature](**{name: tf.constant(value)})


@settings(max_examples=200, deadline=None)
@given(position=st.integers(0, 60), replacement=st.binary(max_size=6), cut=st.integers(0, 120))
def test_damaged_wavs_are_answered_or_refused(served, position, replacement, cut):
    data = wav(noise(50))
    damaged = (data[:position] + replacement + data[position + len(replacement) :])[: len(data) - cut]
    try:
        answer = served.signatures["wav_bytes"](wav_bytes=tf.constant([damaged]))
    except (tf.errors.InvalidArgumentError, UnicodeDecodeError) as error:
        # Deep in a damaged file TensorFlow repeats what is no text, and Python cannot read that.
        assert str(error)  # noqa: PT017 (either is right)
    else:
        assert answer["embedding"].shape == (1, 4)
        assert np.isfinite(answer["embedding"]).all()


def test_one_bad_wav_refuses_its_batch_with_the_reason(served):
    batch = [wav(noise(100)), wav(noise(100))[:30], wav(noise(100))]
    with pytest.raises(tf.errors.InvalidArgumentError, match="Data too short"):
        served.signatures["wav_bytes"](wav_bytes=tf.constant(batch))


# Prints by how many bytes the peak of memory rises over the start, for waveforms of zeros of some shapes.
PEAKS = """
import json, os, resource, sys

# A new program begins with the peak of the process that started it, a fork with its own.
child = os.fork()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

import tensorflow as tf

loaded = tf.saved_model.load(sys.argv[1])
embed = loaded.signatures["serving_default"]
peak = lambda: 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
shapes = json.loads(sys.argv[2])
embed(waveform=tf.zeros(shapes[0]))
start, peaks = peak(), []
for shape in shapes[1:]:
    assert embed(waveform=tf.zeros(shape))["embedding"].shape[0] == shape[0]
    peaks.append(peak() - start)
print(json.dumps(peaks))
"""


@pytest.mark.parametrize(
    ("preset", "shapes"),
    [
        # Two minutes, which fill a block; then 30 minutes alone, and 256 clips of 10 s.
        ("audioset", [(1, 120 * 16000), (1, 1800 * 16000)]),
        ("audioset", [(1, 120 * 16000), (256, 10 * 16000)]),
        # A spectrum that is larger than its waveform: its blocks are of 5 s windows.
        ("esresnet", [(1, 60 * 44100), (1, 600 * 44100)]),
    ],
)
def test_memory_beyond_the_waveform_is_a_copy_of_it(tmp_path, preset, shapes):
    params = mel.preset(preset)
    encoder = small_encoder(shape=params.window_shape)
    path = saved_model.save(encoder, params, str(tmp_path), provenance={}).path
    command = [sys.executable, "-c", PEAKS, path, str([list(shape) for shape in shapes])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (peak,) = np.fromstring(done.stdout.strip("[]\n"), sep=",")
    waveform_bytes = 4 * np.prod(shapes[1])
    # The waveform, a copy of it, and half as much for all else.
    assert 0 < peak < 2.5 * waveform_bytes
