"""Tests of tfsound.export.streaming: the windows of a stream are those of the whole recording."""

import dataclasses
import tracemalloc

import keras
import numpy as np
import pytest
import small_exports
from hypothesis import given, settings
from hypothesis import strategies as st
from small_exports import TINY, sound

from tfsound import exported, mel, networks
from tfsound.export import saved_model
from tfsound.export.streaming import StreamingEmbedder

STEREO = dataclasses.replace(TINY, num_channels=2)
TOLERANCE = 1e-6
STEP_SAMPLES = TINY.context_frames * TINY.hop_samples


@pytest.fixture(scope="module")
def mono(tmp_path_factory):
    return small_exports.load(tmp_path_factory.mktemp("mono"), TINY)


@pytest.fixture(scope="module")
def stereo(tmp_path_factory):
    return small_exports.load(tmp_path_factory.mktemp("stereo"), STEREO, with_classes=True)


def cut(samples, sizes):
    """Samples in chunks of these sizes, and what is left as the last one."""
    return np.split(samples, np.minimum(np.cumsum(sizes, dtype=int), samples.shape[-1]), axis=-1)


def streamed(predict, params, chunks, **options):
    stream = StreamingEmbedder(predict, params, **options)
    windows = [window for chunk in chunks for window in stream.push(chunk)]
    return windows + stream.finish()


def require_windows_of_whole(windows, model, samples):
    whole = model.embed_waveforms(samples[None])
    assert len(windows) == whole["window_embeddings"].shape[1]
    found = np.stack([window.embedding for window in windows])
    np.testing.assert_allclose(found, whole["window_embeddings"][0], rtol=0, atol=TOLERANCE)
    seconds = np.arange(len(windows)) * STEP_SAMPLES / model.export.mel_params.sample_rate
    np.testing.assert_allclose([window.start_seconds for window in windows], seconds, rtol=0, atol=1e-9)
    if "window_scores" in whole:
        found = np.stack([window.scores for window in windows])
        np.testing.assert_allclose(found, whole["window_scores"][0], rtol=0, atol=TOLERANCE)
    else:
        assert all(window.scores is None for window in windows)


@settings(max_examples=60, deadline=None)
@given(
    num_samples=st.integers(0, 1000) | st.sampled_from([94, 95, 96, 174, 175, 176]),
    sizes=st.lists(st.integers(0, 400) | st.sampled_from([0, 1, 80, 95]), max_size=30),
    windows_per_call=st.integers(1, 6),
)
def test_any_chunks_give_the_windows_of_the_whole(mono, stereo, num_samples, sizes, windows_per_call):
    for model, shape in ((mono, ()), (stereo, (2,))):
        samples = sound(num_samples, *shape)
        windows = streamed(
            model.embed_waveforms,
            model.export.mel_params,
            cut(samples, sizes),
            windows_per_call=windows_per_call,
        )
        require_windows_of_whole(windows, model, samples)


def test_one_sample_at_a_time(mono):
    samples = sound(500)
    require_windows_of_whole(streamed(mono.embed_waveforms, TINY, cut(samples, [1] * 500)), mono, samples)


def test_a_window_is_given_with_its_last_sample(mono):
    samples = sound(200)
    stream = StreamingEmbedder(mono.embed_waveforms, TINY)
    assert stream.push(samples[:94]) == []
    assert [window.start_seconds for window in stream.push(samples[94:95])] == [0.0]
    assert stream.push(samples[95:174]) == []
    assert [window.start_seconds for window in stream.push(samples[174:])] == [0.08]
    assert stream.finish() == []


@pytest.mark.parametrize("num_samples", [0, 1, 94])
def test_a_sound_shorter_than_a_window_is_one(mono, num_samples):
    samples = sound(num_samples)
    stream = StreamingEmbedder(mono.embed_waveforms, TINY)
    assert stream.push(samples) == []
    require_windows_of_whole(stream.finish(), mono, samples)


def test_front_end_and_network_of_the_papers(tmp_path):
    params = mel.MelParams()
    keras.utils.set_random_seed(0)
    encoder = networks.build_encoder("resnet_small", embedding_dim=16)
    model = exported.load(saved_model.save(encoder, params, str(tmp_path), provenance={}).path)
    samples = sound(50_000)
    windows = streamed(model.embed_waveforms, params, cut(samples, [160] * 312))
    whole = model.embed_waveforms(samples[None])["window_embeddings"][0]
    assert [window.start_seconds for window in windows] == [0.0, 0.96, 1.92]
    found = np.stack([window.embedding for window in windows])
    np.testing.assert_allclose(found, whole, rtol=0, atol=TOLERANCE)


@settings(max_examples=30, deadline=None)
@given(num_samples=st.integers(0, 700), sizes=st.lists(st.integers(0, 100), max_size=30))
def test_what_lies_between_analysis_windows_is_skipped(num_samples, sizes):
    """Of 10 ms every 20 ms; the model is any function of a waveform, here the windows as they are."""
    params = dataclasses.replace(TINY, window_seconds=0.01, hop_seconds=0.02)

    def predict(waveform):
        windows = mel.log_mel_windows(waveform, params).numpy()
        return {"window_embeddings": windows.reshape(*windows.shape[:2], -1)}

    samples = sound(num_samples)
    windows = streamed(predict, params, cut(samples, sizes), windows_per_call=2)
    whole = predict(samples[None])["window_embeddings"][0]
    found = np.stack([window.embedding for window in windows])
    np.testing.assert_allclose(found, whole, rtol=0, atol=1e-4)


def test_a_client_that_answers_in_lists(mono):
    def predict(waveform):
        return {name: value.tolist() for name, value in mono.embed_waveforms(waveform).items()}

    samples = sound(500)
    require_windows_of_whole(streamed(predict, TINY, cut(samples, [130] * 4)), mono, samples)


def test_memory_is_flat_over_an_hour(mono):
    stream = StreamingEmbedder(mono.embed_waveforms, TINY, windows_per_call=256)
    chunk = sound(20_000)
    num_bytes = stream.buffer_bytes
    assert num_bytes == 4 * TINY.samples_of(256 * TINY.context_frames)
    num_windows = len(stream.push(chunk))  # what TensorFlow makes at the first call
    tracemalloc.start()
    try:
        for minute in range(60):
            for _ in range(3):
                num_windows += len(stream.push(chunk))
            peak = tracemalloc.get_traced_memory()[1]
            if not minute:
                first_peak = peak
    finally:
        tracemalloc.stop()
    assert num_windows == 1 + (181 * 20_000 - 95) // STEP_SAMPLES
    assert stream.buffer_bytes == num_bytes
    # The windows of a chunk, and a few copies of the buffer: not the 14 MB of the hour.
    assert first_peak < peak * 1.001 + 1 <= 2_000_000


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros(10, np.int16), "must be float, in .* got int16; divide 16-bit integers by 32768"),
        (np.zeros((2, 10), np.float32), r"must be \(samples,\) for this model, got \(2, 10\)"),
        (np.float32(0), r"must be \(samples,\) for this model, got \(\)"),
    ],
)
def test_other_samples_are_refused_and_change_nothing(mono, samples, message):
    good = sound(300)
    stream = StreamingEmbedder(mono.embed_waveforms, TINY)
    windows = stream.push(good[:150])
    with pytest.raises(ValueError, match=message):
        stream.push(samples)
    require_windows_of_whole(windows + stream.push(good[150:]) + stream.finish(), mono, good)


@pytest.mark.parametrize("shape", [(10,), (1, 10), (10, 2)])
def test_stereo_needs_two_channels(stereo, shape):
    stream = StreamingEmbedder(stereo.embed_waveforms, STEREO)
    with pytest.raises(ValueError, match=r"must be \(2, samples\) for this model, got .*transpose"):
        stream.push(np.zeros(shape, np.float32))


def test_nothing_comes_after_the_end(mono):
    stream = StreamingEmbedder(mono.embed_waveforms, TINY)
    stream.finish()
    for call in (stream.finish, lambda: stream.push(sound(10))):
        with pytest.raises(ValueError, match="the stream is finished, or ended with an error; make another"):
            call()


def test_an_error_of_the_model_ends_the_stream(mono):
    def predict(waveform):
        raise ConnectionError("no server")

    stream = StreamingEmbedder(predict, TINY)
    with pytest.raises(ConnectionError):
        stream.push(sound(300))
    with pytest.raises(ValueError, match="ended with an error"):
        stream.push(sound(10))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"embedding": [[1.0]]}, r"must give window_embeddings of shape \(1, 2, ...\), got \['embedding'\]"),
        ({"window_embeddings": [[[1.0]]]}, r"must give window_embeddings of shape \(1, 2, .*\(1, 1, 1\)"),
        (
            {"window_embeddings": np.zeros((1, 2, 3)), "window_scores": np.zeros((2, 2))},
            r"must give window_scores of shape \(1, 2, ...\)",
        ),
    ],
)
def test_answers_of_another_model_are_refused(answer, message):
    stream = StreamingEmbedder(lambda waveform: answer, TINY)
    with pytest.raises(ValueError, match=message):
        stream.push(sound(200))


def test_windows_per_call_must_be_positive(mono):
    with pytest.raises(ValueError, match="windows_per_call must be at least 1, got 0"):
        StreamingEmbedder(mono.embed_waveforms, TINY, windows_per_call=0)
