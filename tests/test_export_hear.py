"""Tests of tfsound.export.hear: the checks that HEAR's validator describes, and what its numbers mean."""

import dataclasses

import keras
import numpy as np
import pytest
import small_exports
import tensorflow as tf
from small_exports import DIM, sound

from tfsound import mel
from tfsound.export import hear, saved_model

PARAMS = mel.MelParams()
HOP_SAMPLES = 800
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return small_exports.export(tmp_path_factory.mktemp("model"), PARAMS)


@pytest.fixture(scope="module")
def model(path):
    return hear.load_model(path)


def embedded(windows, params=PARAMS):
    """As the live encoder of the exports gives it."""
    return small_exports.encoder(params)(windows).numpy()


def require_valid(model, audio):
    """What HEAR's validator asks of the module: types, attributes, shapes, regular timestamps."""
    assert isinstance(model, tf.Module)
    assert model.sample_rate in (16000, 22050, 44100, 48000)
    assert type(model.scene_embedding_size) is type(model.timestamp_embedding_size) is int
    scenes = hear.get_scene_embeddings(audio, model)
    assert (scenes.dtype, scenes.shape) == (tf.float32, (len(audio), model.scene_embedding_size))
    embeddings, times = hear.get_timestamp_embeddings(audio, model)
    assert (embeddings.dtype, times.dtype) == (tf.float32, tf.float32)
    assert embeddings.shape == (*times.shape, model.timestamp_embedding_size)
    assert times.shape[0] == len(audio)
    gaps = np.diff(times)
    assert gaps.mean() <= 50
    assert np.abs(gaps - gaps.mean()).max() < 1e-3
    seconds = audio.shape[1] / model.sample_rate
    assert np.all(times[:, 0] == 0)
    assert np.all((times[:, -1] <= 1000 * seconds) & (times[:, -1] > 1000 * seconds - 50.001))


def test_the_checks_of_the_validator(model):
    require_valid(model, tf.random.uniform([16, 2 * 16000], -1, 1, seed=0))
    require_valid(model, tf.random.uniform([8, int(3.74 * 16000)], -1, 1, seed=1))
    assert model.scene_embedding_size == model.timestamp_embedding_size == DIM


def test_scenes_are_as_served(model, monkeypatch):
    audio = sound(40_000, 3)
    monkeypatch.setattr(hear, "_SAMPLES_PER_CALL", 2 * 40_000)
    found = hear.get_scene_embeddings(audio, model)
    live = [embedded(mel.log_mel_windows(samples, PARAMS)).mean(axis=0) for samples in audio]
    np.testing.assert_allclose(found, live, atol=TOLERANCE)


def test_timestamps_are_the_middles_of_their_windows(model, monkeypatch):
    monkeypatch.setattr(hear, "_WINDOWS_PER_CALL", 7)
    audio = sound(33_000, 2)
    embeddings, times = hear.get_timestamp_embeddings(audio, model)
    np.testing.assert_allclose(times, np.tile(np.arange(0, 2051, 50), (2, 1)))
    padded = np.pad(audio, [(0, 0), (PARAMS.context_samples // 2, PARAMS.context_samples)])
    for number in range(times.shape[1]):
        start = number * HOP_SAMPLES  # of the window, whose middle lies half a window behind
        windows = mel.log_mel_windows(padded[:, start : start + PARAMS.context_samples], PARAMS)[:, 0]
        np.testing.assert_allclose(embeddings[:, number], embedded(windows), atol=TOLERANCE)


def test_a_click_is_heard_around_its_time(tmp_path):
    layers = keras.Input(PARAMS.window_shape), keras.layers.Flatten(), keras.layers.Dense(1, "relu")
    encoder = keras.Sequential(layers)
    encoder.set_weights([np.full((96 * 64, 1), 1 / (96 * 64)), np.float32([-np.log(0.01)])])  # 0 for silence
    path = saved_model.save(encoder, PARAMS, str(tmp_path), provenance={}).path
    audio = np.zeros((1, 32_000), np.float32)
    audio[0, 19_200] = 1.0
    embeddings, times = hear.get_timestamp_embeddings(audio, hear.load_model(path))
    heard = times[0][embeddings[0, :, 0] > 1e-4]
    assert abs(np.mean(heard) - 1200) < 25
    assert np.ptp(heard) == pytest.approx(950, abs=50)


def test_however_long_the_sound_few_windows_are_embedded_at_once(model, monkeypatch):
    numbers, embed = [], model.loaded.embed_windows

    def embed_windows(windows):
        numbers.append(len(windows))
        return embed(windows)

    monkeypatch.setattr(model.loaded, "embed_windows", embed_windows)
    _, times = hear.get_timestamp_embeddings(sound(20 * 16000, 2), model)
    assert sum(numbers) == times.shape[0] * times.shape[1] == 2 * 401
    assert max(numbers) == 128


class Tensor:
    """What PyTorch's tensors offer: they become arrays only when detached from a graph and on the CPU."""

    def __init__(self, values, is_detached=False, is_on_cpu=False):
        self.values, self.is_detached, self.is_on_cpu = values, is_detached, is_on_cpu

    def detach(self):
        return Tensor(self.values, True, self.is_on_cpu)

    def cpu(self):
        return Tensor(self.values, self.is_detached, True)

    def __array__(self, dtype=None, copy=None):
        assert self.is_detached
        assert self.is_on_cpu
        return self.values


@pytest.mark.parametrize("kind", [tf.constant, np.float64, Tensor, list])
def test_audio_of_any_library(model, kind):
    audio = sound(20_000, 2)
    for function in (hear.get_scene_embeddings, hear.get_timestamp_embeddings):
        expected, found = function(audio, model), function(kind(audio), model)
        for one, other in zip(tf.nest.flatten(expected), tf.nest.flatten(found), strict=True):
            np.testing.assert_array_equal(one, other)


def test_no_sounds_and_sounds_without_samples(model):
    none = np.zeros((0, 16000), np.float32)
    assert hear.get_scene_embeddings(none, model).shape == (0, DIM)
    assert [value.shape for value in hear.get_timestamp_embeddings(none, model)] == [(0, 21, DIM), (0, 21)]
    empty = np.zeros((2, 0), np.float32)
    silence = embedded(mel.log_mel_windows(np.zeros(0), PARAMS))
    embeddings, times = hear.get_timestamp_embeddings(empty, model)
    np.testing.assert_allclose(
        hear.get_scene_embeddings(empty, model), np.tile(silence, (2, 1)), atol=TOLERANCE
    )
    np.testing.assert_allclose(embeddings, np.tile(silence, (2, 1, 1)), atol=TOLERANCE)
    np.testing.assert_array_equal(times, [[0], [0]])


def test_a_model_of_stereo_hears_mono_twice(tmp_path):
    params = dataclasses.replace(PARAMS, num_channels=2)
    model = hear.load_model(small_exports.export(tmp_path, params, with_classes=True))
    audio = sound(40_000, 2)
    require_valid(model, audio)
    live = [embedded(mel.log_mel_windows(np.stack([mono, mono]), params), params) for mono in audio]
    found = hear.get_scene_embeddings(audio, model)
    np.testing.assert_allclose(found, [windows.mean(axis=0) for windows in live], atol=TOLERANCE)


def test_hops_that_do_not_divide_50_ms(tmp_path):
    params = mel.preset("esresnet", context_seconds=0.2)
    model = hear.load_model(small_exports.export(tmp_path, params))
    audio = sound(44_100, 2)
    require_valid(model, audio)
    _, times = hear.get_timestamp_embeddings(audio, model)
    np.testing.assert_allclose(times[0], np.arange(27) * 3 * 1000 * 561 / 44_100, rtol=1e-6)


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (np.zeros(16000, np.float32), r"must be float, \(sounds, samples\), .* got float32, \(16000,\)"),
        (np.zeros((1, 1, 16000), np.float32), r"got float32, \(1, 1, 16000\); average channels"),
        (np.zeros((1, 16000), np.int16), "got int16, .*divide integers of 16 bits by 32768"),
    ],
)
def test_other_audio_is_refused(model, audio, message):
    for function in (hear.get_scene_embeddings, hear.get_timestamp_embeddings):
        with pytest.raises(ValueError, match=message):
            function(audio, model)


def test_models_that_hear_has_no_audio_for(tmp_path):
    with pytest.raises(ValueError, match="model_file_path is empty: this package has no weights; name what"):
        hear.load_model()
    with pytest.raises(ValueError, match="expected a SavedModel that `tfsound export` made"):
        hear.load_model(str(tmp_path))
    slow = small_exports.export(tmp_path / "slow", small_exports.TINY)
    with pytest.raises(ValueError, match=r"hears 1000 Hz, expected one of HEAR's \(16000, 22050"):
        hear.load_model(slow)
    sparse = small_exports.export(tmp_path / "sparse", dataclasses.replace(PARAMS, hop_seconds=0.06))
    with pytest.raises(ValueError, match="has frames every 60 ms, expected at most 50 ms"):
        hear.load_model(sparse)
