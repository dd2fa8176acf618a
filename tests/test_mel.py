import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf

from tfsound import mel

AUDIOSET = mel.preset("audioset")
SECONDS_2 = 32000


@functools.cache
def oracle_weights():
    """FACTS' triangles, band by band and bin by bin."""
    to_mel = lambda hz: 1127.0 * np.log(1.0 + hz / 700.0)  # noqa: E731
    edges = np.linspace(to_mel(125.0), to_mel(7500.0), 66)
    weights = np.zeros((257, 64))
    for band in range(64):
        low, centre, high = edges[band : band + 3]
        for k in range(1, 257):
            m = to_mel(k * 16000 / 512)
            weights[k, band] = max(0.0, min((m - low) / (centre - low), (high - m) / (high - centre)))
    return weights


def oracle_log_mel(waveform, log_offset=0.01):
    """FACTS' front end, written out frame by frame in float64."""
    hann = np.array([0.5 - 0.5 * np.cos(2 * np.pi * n / 400) for n in range(400)])
    rows = []
    for start in range(0, len(waveform) - 400 + 1, 160):
        frame = np.zeros(512)
        frame[:400] = waveform[start : start + 400].astype(np.float64) * hann
        rows.append(np.log(np.abs(np.fft.rfft(frame)) @ oracle_weights() + log_offset))
    return np.array(rows)


def waveforms():
    rng = np.random.default_rng(0)
    time = np.arange(SECONDS_2) / 16000
    clicks = np.zeros(SECONDS_2)
    clicks[::4001] = 1.0
    return {
        "silence": np.zeros(SECONDS_2),
        "noise": rng.uniform(-1, 1, SECONDS_2),
        "faint noise": 1e-4 * rng.standard_normal(SECONDS_2),
        "low sine": 0.1 * np.sin(2 * np.pi * 130 * time),
        "sine": 0.1 * np.sin(2 * np.pi * 1000 * time),
        "sine above the bands": 0.1 * np.sin(2 * np.pi * 7900 * time),
        "clicks": clicks,
        "offset": np.full(SECONDS_2, 0.1),
    }


@pytest.mark.parametrize("name", waveforms())
def test_log_mel_agrees_with_a_numpy_oracle(name):
    waveform = waveforms()[name].astype(np.float32)
    found = mel.log_mel(mel.mel_energies(waveform, AUDIOSET), AUDIOSET)
    np.testing.assert_allclose(found, oracle_log_mel(waveform), atol=1e-4)


@pytest.mark.parametrize("name", waveforms())
def test_the_yamnet_preset_differs_in_its_offset_alone(name):
    waveform, params = waveforms()[name].astype(np.float32), mel.preset("yamnet")
    found = mel.log_mel(mel.mel_energies(waveform, params), params)
    # An offset ten times smaller shows ten times more of float32's rounding in empty bands.
    np.testing.assert_allclose(found, oracle_log_mel(waveform, 0.001), atol=1e-3)


def test_a_full_scale_sine_is_as_exact_as_a_float32_fft_can_be():
    # Rounding of about 3e-6 in a spectrum whose peak is 100, in bands that hold nothing but the offset.
    waveform = np.sin(2 * np.pi * 1000 * np.arange(SECONDS_2) / 16000).astype(np.float32)
    found = mel.log_mel(mel.mel_energies(waveform, AUDIOSET), AUDIOSET)
    np.testing.assert_allclose(found, oracle_log_mel(waveform), atol=1e-3)


def test_log_mel_agrees_with_the_oracle_on_real_clips(shared_data):
    import soundfile

    for path in sorted((shared_data / "fsdd" / "recordings").glob("*.wav"))[:600:150]:
        samples, _ = soundfile.read(path, dtype="float32")  # 8 kHz read as 16 kHz: any real signal will do
        found = mel.log_mel(mel.mel_energies(samples, AUDIOSET), AUDIOSET)
        np.testing.assert_allclose(found, oracle_log_mel(samples), atol=1e-4)


def test_a_sine_peaks_in_its_band():
    time = np.arange(16000) / 16000
    edges = np.linspace(mel.hertz_to_mel(125.0), mel.hertz_to_mel(7500.0), 66)
    for hz in (300, 1000, 3000, 6000):
        energies = mel.mel_energies(np.sin(2 * np.pi * hz * time).astype(np.float32), AUDIOSET)
        band = int(np.argmax(np.mean(energies, axis=0)))
        assert edges[band] <= mel.hertz_to_mel(hz) <= edges[band + 2]


def test_mel_to_hertz_inverts_hertz_to_mel():
    np.testing.assert_allclose(mel.mel_to_hertz(mel.hertz_to_mel([0, 700, 7500])), [0, 700, 7500])
    assert mel.hertz_to_mel(700) == pytest.approx(1127 * np.log(2))


def test_presets_hold_the_published_constants():
    assert (AUDIOSET.window_samples, AUDIOSET.hop_samples, AUDIOSET.fft_length) == (400, 160, 512)
    assert (AUDIOSET.mel_bins, AUDIOSET.context_frames, AUDIOSET.context_seconds) == (64, 96, 0.96)
    assert AUDIOSET.context_samples == 15600
    assert mel.preset("yamnet") == dataclasses.replace(AUDIOSET, log_offset=0.001)
    matrix = mel.mel_matrix(AUDIOSET)
    assert matrix.shape == (257, 64)
    assert not matrix[0].any()
    assert not matrix[:4].any()  # 125 Hz lies between rows 3 (93.75 Hz) and 4 (125 Hz)
    assert matrix.max() <= 1.0


@pytest.mark.parametrize("num_samples", [0, 1, 399, 400, 15599, 15600])
def test_a_clip_shorter_than_a_window_is_zero_padded_to_one(num_samples):
    waveform = np.random.default_rng(1).uniform(-1, 1, num_samples).astype(np.float32)
    windows = mel.log_mel_windows(waveform, AUDIOSET)
    assert windows.shape == (1, 96, 64)
    padded = np.pad(waveform, (0, 15600 - num_samples))
    np.testing.assert_array_equal(windows, mel.log_mel_windows(padded, AUDIOSET))


@pytest.mark.parametrize(
    ("num_samples", "num_frames", "num_windows"),
    [(15600, 96, 1), (15759, 96, 1), (15760, 97, 1), (30959, 191, 1), (30960, 192, 2), (80000, 498, 5)],
)
def test_only_complete_frames_and_windows_count(num_samples, num_frames, num_windows):
    waveform = np.zeros(num_samples, np.float32)
    assert mel.mel_energies(waveform, AUDIOSET).shape == (num_frames, 64)
    assert mel.log_mel_windows(waveform, AUDIOSET).shape == (num_windows, 96, 64)
    assert AUDIOSET.num_windows(num_frames) == num_windows


def test_fewer_samples_than_a_frame_give_no_frame():
    for num_samples in (0, 1, 399):
        assert mel.mel_energies(np.zeros(num_samples, np.float32), AUDIOSET).shape == (0, 64)


def test_a_batch_is_its_clips_one_by_one():
    batch = np.random.default_rng(2).uniform(-1, 1, (3, 20000)).astype(np.float32)
    together = mel.log_mel_windows(batch, AUDIOSET)
    assert together.shape == (3, 1, 96, 64)
    for clip, windows in zip(batch, together, strict=True):
        np.testing.assert_allclose(windows, mel.log_mel_windows(clip, AUDIOSET), atol=1e-6)


def test_a_long_sound_is_its_parts():
    # More frames than one chunk holds, alone and in a batch whose chunks are shorter.
    waveforms = np.random.default_rng(4).uniform(-1, 1, (3, 25 * 16000)).astype(np.float32)
    energies = mel.mel_energies(waveforms, AUDIOSET)
    assert energies.shape == (3, 2498, 64)
    np.testing.assert_allclose(energies[1], mel.mel_energies(waveforms[1], AUDIOSET), rtol=1e-5)
    part = mel.mel_energies(waveforms[1, 900 * 160 : 1100 * 160 + 240], AUDIOSET)
    np.testing.assert_allclose(energies[1, 900:1100], part, rtol=1e-5)


def test_the_graph_takes_any_length_and_batch():
    function = tf.function(
        lambda waveform: mel.log_mel_windows(waveform, AUDIOSET),
        input_signature=[tf.TensorSpec([None, None], tf.float32)],
    )
    assert function(tf.zeros([2, 100])).shape == (2, 1, 96, 64)
    assert function(tf.zeros([1, 80000])).shape == (1, 5, 96, 64)
    assert function(tf.zeros([0, 80000])).shape == (0, 5, 96, 64)


def test_windows_overlap_at_the_readers_choice():
    spectrogram = tf.range(192.0)[:, None] * tf.ones([1, 64])
    windows = mel.context_windows(spectrogram, AUDIOSET, hop_frames=48)
    assert windows.shape == (3, 96, 64)
    np.testing.assert_array_equal(windows[:, 0, 0], [0, 48, 96])


def test_params_survive_a_round_trip_and_name_what_is_off():
    assert mel.MelParams.from_dict(AUDIOSET.to_dict()) == AUDIOSET
    with pytest.raises(ValueError, match=r"must have the fields .* got \['sample_rate'\]"):
        mel.MelParams.from_dict({"sample_rate": 16000})
    with pytest.raises(ValueError, match=r"set A was made .* log_offset is 0.001 and must be 0.01"):
        AUDIOSET.require_equal(mel.preset("yamnet"), "set A")
    AUDIOSET.require_equal(mel.MelParams(), "set A")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mel_bins": 0}, "mel_bins must be positive, got 0"),
        ({"mel_bins": float("nan")}, "mel_bins must be positive, got nan"),
        ({"mel_max_hz": 9000.0}, "lower mel_max_hz or raise sample_rate"),
        ({"window": "boxcar"}, r"window must be one of \('hann', 'blackman_harris'\), got 'boxcar'"),
        ({"bins": "bark"}, r"bins must be one of \('mel', 'linear'\), got 'bark'"),
        ({"log": ""}, r"log must be one of \('natural', 'decibel'\), got ''"),
        ({"bins": "linear", "mel_bins": 258}, "a spectrum of 512 samples has 257 bins, got mel_bins 258"),
        ({"num_bands": 3}, "mel_bins must be a multiple of num_bands, got 64 and 3"),
        ({"num_channels": 3}, "num_channels must be 1 or 2, got 3"),
    ],
)
def test_impossible_params_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        mel.MelParams(**fields)
    with pytest.raises(ValueError, match=r"one of \['audioset', 'esresnet', 'yamnet'\], got 'vggish'"):
        mel.preset("vggish")


ESRESNET = mel.preset("esresnet")


def oracle_decibels(waveform):
    """FACTS' ESResNet front end, written out frame by frame in float64."""
    phase = 2 * np.pi * np.arange(1654) / 1654
    window = 0.35875 - 0.48829 * np.cos(phase) + 0.14128 * np.cos(2 * phase) - 0.01168 * np.cos(3 * phase)
    rows = []
    for start in range(0, len(waveform) - 1654 + 1, 561):
        spectrum = np.fft.rfft(waveform[start : start + 1654].astype(np.float64) * window, 2048)
        power = spectrum.real**2 + spectrum.imag**2
        rows.append(10 * np.log10(np.maximum(power[:1023], 1e-18)))
    return np.array(rows)


def test_the_esresnet_preset_agrees_with_a_numpy_oracle():
    rng = np.random.default_rng(0)
    waveform = np.concatenate([0.3 * rng.standard_normal(9000), np.zeros(6000)]).astype(np.float32)
    found = mel.log_mel(mel.mel_energies(waveform, ESRESNET), ESRESNET).numpy()
    expected = oracle_decibels(waveform)
    assert found.shape == expected.shape == (24, 1023)
    np.testing.assert_allclose(found, expected, atol=1e-2)  # decibels
    np.testing.assert_allclose(found[-1], -180, atol=1e-4)  # silence


def test_esresnet_sees_five_seconds_in_three_bands():
    assert (ESRESNET.window_samples, ESRESNET.hop_samples, ESRESNET.fft_length) == (1654, 561, 2048)
    assert ESRESNET.window_shape == (391, 1023)
    assert ESRESNET.context_samples <= 5 * 44100 < ESRESNET.context_samples + 561
    assert ESRESNET.mel_bins // ESRESNET.num_bands == 341
    np.testing.assert_allclose(ESRESNET.bin_hz[[0, 1, -1]], [0, 44100 / 2048, 1022 * 44100 / 2048])


@pytest.mark.parametrize("name", ["audioset", "esresnet"])
def test_stereo_is_the_bins_of_left_and_then_of_right(name):
    stereo, mono = mel.preset(name, num_channels=2), mel.preset(name)
    waveform = np.random.default_rng(1).uniform(-1, 1, (3, 2, 2 * mono.context_samples)).astype(np.float32)
    found = mel.log_mel_windows(waveform, stereo)
    assert found.shape == (3, 2, *stereo.window_shape)
    left, right = (mel.log_mel_windows(waveform[:, channel], mono) for channel in (0, 1))
    np.testing.assert_allclose(found, np.concatenate([left, right], axis=-1), atol=1e-5)
    assert mel.mel_energies(waveform[0], stereo).shape == (
        mel.mel_energies(waveform[0, 0], mono).shape[0], stereo.num_columns
    )  # fmt: skip


@pytest.mark.parametrize(("seconds", "num_frames"), [(5.0, 498), (0.975, 96), (0.025, 1)])
def test_a_context_is_the_complete_frames_of_its_seconds(seconds, num_frames):
    params = mel.preset("audioset", context_seconds=seconds)
    assert params.context_frames == num_frames
    assert params == dataclasses.replace(AUDIOSET, context_frames=num_frames)


@pytest.mark.parametrize("seconds", [-1.0, 0.01, float("nan"), float("inf")])
def test_a_context_that_holds_no_frame_is_refused(seconds):
    with pytest.raises(ValueError, match=f"at least a frame, 0.025 s, got {seconds}"):
        mel.preset("audioset", context_seconds=seconds)
