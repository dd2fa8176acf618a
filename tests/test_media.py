"""Good media: every format against the sound it was made from; rates, segments, blocks, clocks, memory."""

import os
import struct
import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile

from tfsound import media
from tfsound.media import decoders

AMPLITUDE = 0.5


def sine(seconds, rate, hz=440.0):
    """Fades in and out over 20 ms, so that codecs and resamplers find no click."""
    time = np.arange(round(seconds * rate)) / rate
    fade = np.clip(np.minimum(time, seconds - time) / 0.02, 0, 1)
    return AMPLITUDE * fade * np.sin(2 * np.pi * hz * time)


def noise(num_samples, num_channels=1):
    return 0.2 * np.random.default_rng(0).standard_normal((num_samples, num_channels))


def write_av(path, waveform, rate, codec, sample_format, *, layout="mono", late=0.0, gap=None, video=False):
    """Encodes with FFmpeg; the sound's timestamps start at `late` and skip gap=(at, length), in seconds."""
    with av.open(os.fspath(path), "w") as container:
        if video:
            pictures = container.add_stream("mpeg4", rate=25)
            pictures.width, pictures.height, pictures.pix_fmt = 64, 64, "yuv420p"
        stream = container.add_stream(codec, rate=rate, layout=layout)
        stream.format, stream.bit_rate = sample_format, 128_000
        stream.codec_context.open()
        if video:
            for index in range(25):
                picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))
                picture.pts, picture.time_base = index, Fraction(1, 25)
                container.mux(pictures.encode(picture))
            container.mux(pictures.encode(None))
        converter = av.AudioResampler(sample_format, layout, rate)
        size = stream.codec_context.frame_size or 1000
        for start in range(0, len(waveform), size):
            values = np.ascontiguousarray(waveform[None, start : start + size], np.float32)
            frame = av.AudioFrame.from_ndarray(values, format="fltp", layout="mono")
            frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
            for converted in converter.resample(frame):
                skipped = late + (gap[1] if gap and start >= gap[0] * rate else 0.0)
                converted.pts, converted.time_base = start + round(skipped * rate), Fraction(1, rate)
                container.mux(stream.encode(converted))
        container.mux(stream.encode(None))


def assert_is_sine(waveform, seconds, rate=16_000, hz=440.0, shift_seconds=0.005, num_extra=0):
    """Length, frequency, amplitude, and the start of the tone to within shift_seconds."""
    assert waveform.dtype == np.float32
    assert 0 <= len(waveform) - round(seconds * rate) <= num_extra
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    assert spectrum.argmax() * rate / len(waveform) == pytest.approx(hz, abs=rate / len(waveform))
    middle = waveform[int(0.25 * len(waveform)) : int(0.75 * len(waveform))]
    # LAME takes 5 %.
    assert np.sqrt(2 * np.mean(middle**2)) == pytest.approx(AMPLITUDE, rel=0.06)
    expected = sine(seconds, rate, hz)
    padded = np.pad(waveform, round(shift_seconds * rate))
    errors = [
        np.abs(padded[shift : shift + len(expected)] - expected).mean()
        for shift in range(2 * round(shift_seconds * rate) + 1)
    ]
    assert min(errors) < 0.02


PCM = [
    ("WAV", "PCM_U8", 1 / 128), ("WAV", "PCM_16", 1 / 2**15), ("WAV", "PCM_24", 1 / 2**23),
    ("WAV", "PCM_32", 1e-7), ("WAV", "FLOAT", 1e-7), ("WAV", "DOUBLE", 1e-7),
    ("WAV", "ULAW", 0.02), ("WAV", "ALAW", 0.02),
    ("WAVEX", "PCM_24", 1 / 2**23), ("RF64", "PCM_16", 1 / 2**15),
    ("AIFF", "PCM_16", 1 / 2**15), ("AIFF", "FLOAT", 1e-7),
    ("FLAC", "PCM_16", 1 / 2**15), ("FLAC", "PCM_24", 1 / 2**23),
]  # fmt: skip


@pytest.mark.parametrize(("container", "subtype", "tolerance"), PCM)
def test_lossless_files_are_exact_to_quantisation(tmp_path, container, subtype, tolerance):
    expected = sine(0.5, 16_000)
    soundfile.write(tmp_path / "a", expected, 16_000, format=container, subtype=subtype)
    waveform = media.read_audio(tmp_path / "a")
    assert waveform.shape == expected.shape
    np.testing.assert_allclose(waveform, expected, rtol=0, atol=tolerance)
    info = media.audio_info(tmp_path / "a")
    assert info == media.AudioInfo(16_000, 1, 0.5, subtype.lower())


@pytest.mark.parametrize(
    ("codec", "sample_format", "name", "tolerance"),
    [
        ("pcm_u8", "u8", "a.mkv", 1 / 128),
        ("pcm_s16le", "s16", "a.avi", 1 / 2**15),
        ("pcm_s32le", "s32", "a.mkv", 1e-7),
        ("pcm_f32le", "flt", "a.mkv", 1e-7),
        ("pcm_f64le", "dbl", "a.mkv", 1e-7),
        ("alac", "s16p", "a.m4a", 1 / 2**15),
        ("alac", "s32p", "a.m4a", 1e-6),
    ],
)
def test_lossless_video_sound_is_exact_to_quantisation(tmp_path, codec, sample_format, name, tolerance):
    expected = sine(1.0, 16_000)
    write_av(tmp_path / name, expected, 16_000, codec, sample_format)
    np.testing.assert_allclose(media.read_audio(tmp_path / name), expected, rtol=0, atol=tolerance)
    assert media.audio_info(tmp_path / name).codec == codec


@pytest.mark.parametrize(
    ("container", "subtype", "rate"),
    [("OGG", "VORBIS", 44_100), ("OGG", "OPUS", 48_000), ("MP3", "MPEG_LAYER_III", 44_100)],
)
def test_lossy_files_keep_the_tone_and_its_time(tmp_path, container, subtype, rate):
    soundfile.write(tmp_path / "a", sine(1.0, rate), rate, format=container, subtype=subtype)
    assert_is_sine(media.read_audio(tmp_path / "a"), 1.0)
    assert media.audio_info(tmp_path / "a").duration_seconds == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("name", "codec", "sample_format", "rate", "video"),
    [
        ("a.m4a", "aac", "fltp", 44_100, False),
        ("a.mp4", "aac", "fltp", 48_000, True),
        ("a.webm", "libopus", "flt", 48_000, False),
        ("a.mkv", "aac", "fltp", 16_000, True),
        ("a.avi", "libmp3lame", "fltp", 44_100, True),
    ],
)
def test_lossy_video_sound_keeps_the_tone_and_its_time(tmp_path, name, codec, sample_format, rate, video):
    write_av(tmp_path / name, sine(1.0, rate), rate, codec, sample_format, video=video)
    # Encoders fill up their last frame; AVI does not say that its MP3 begins with the encoder's delay, 25 ms.
    shift = 0.03 if name == "a.avi" else 0.005
    assert_is_sine(media.read_audio(tmp_path / name), 1.0, shift_seconds=shift, num_extra=1100)
    assert media.audio_info(tmp_path / name).sample_rate == rate


def test_mp3_is_read_in_blocks_as_it_is_at_once(tmp_path):
    soundfile.write(tmp_path / "a.mp3", sine(4.0, 22_050), 22_050)
    expected, _ = soundfile.read(tmp_path / "a.mp3", dtype="float32")
    waveform = media.read_audio(tmp_path / "a.mp3", sample_rate=22_050)
    np.testing.assert_allclose(waveform, expected, rtol=0, atol=1e-6)


def test_mp3_without_a_length_tag_is_read_to_its_end(tmp_path):
    """libsndfile guesses the length of such a file, and reading stops at its guess."""
    loud_then_quiet = np.concatenate([noise(16_000 * 2)[:, 0], np.zeros(16_000 * 8)])
    file = tmp_path / "a.mp3"
    soundfile.write(file, loud_then_quiet, 16_000, bitrate_mode="VARIABLE", compression_level=0.2)
    file.write_bytes(file.read_bytes().replace(b"Xing", bytes(4)))
    assert 10.0 <= len(media.read_audio(file)) / 16_000 < 10.2
    assert len(soundfile.read(file)[0]) / 16_000 < 8


def test_encoded_stereo_is_read_back(tmp_path):
    sound = np.round(np.stack([sine(0.1, 16_000), 0.5 * sine(0.1, 16_000)], axis=1) * 32768) / 32768
    (tmp_path / "a.wav").write_bytes(media.encode_wav(sound, 16_000))
    np.testing.assert_array_equal(media.read_audio(tmp_path / "a.wav", num_channels=2), sound)


def test_streamed_files_are_read_to_their_end(tmp_path):
    """A recorder that cannot seek back leaves 0 or all ones for the sizes."""
    data = media.encode_wav(sine(0.5, 16_000), 16_000)
    for size in (0, 0x7FFFF000, 0x80000000, 0xFFFFFFFF):
        field = struct.pack("<I", size)
        (tmp_path / "a.wav").write_bytes(data[:4] + field + data[8:40] + field + data[44:])
        assert len(media.read_audio(tmp_path / "a.wav")) == 8_000, hex(size)
    soundfile.write(tmp_path / "a.flac", sine(0.5, 16_000), 16_000)
    flac = bytearray((tmp_path / "a.flac").read_bytes())
    flac[21:26] = bytes([flac[21] & 0xF0, 0, 0, 0, 0])
    (tmp_path / "a.flac").write_bytes(flac)
    assert len(media.read_audio(tmp_path / "a.flac")) == 8_000
    assert media.audio_info(tmp_path / "a.flac").duration_seconds is None


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_resampling_keeps_frequency_and_amplitude(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", sine(1.0, rate), rate, subtype="FLOAT")
    waveform = media.read_audio(tmp_path / "a.wav")
    np.testing.assert_allclose(waveform, sine(1.0, 16_000), rtol=0, atol=1e-3)


def test_resampling_suppresses_what_would_alias(tmp_path):
    soundfile.write(tmp_path / "a.wav", sine(1.0, 48_000, hz=10_000), 48_000, subtype="FLOAT")
    assert np.abs(media.read_audio(tmp_path / "a.wav")).max() < 1e-3 * AMPLITUDE


@pytest.mark.parametrize("num_channels", [1, 2, 7])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_mono_is_the_mean_over_channels(tmp_path, num_channels, rate):
    channels = noise(rate, num_channels)
    soundfile.write(tmp_path / "a.wav", channels, rate, subtype="FLOAT")
    soundfile.write(tmp_path / "mean.wav", channels.mean(axis=1), rate, subtype="FLOAT")
    waveform = media.read_audio(tmp_path / "a.wav")
    np.testing.assert_allclose(waveform, media.read_audio(tmp_path / "mean.wav"), rtol=0, atol=1e-6)
    assert media.audio_info(tmp_path / "a.wav").num_channels == num_channels


def test_float_files_louder_than_full_scale_are_kept(tmp_path):
    soundfile.write(tmp_path / "a.wav", 10 * sine(0.5, 16_000), 16_000, subtype="FLOAT")
    np.testing.assert_allclose(media.read_audio(tmp_path / "a.wav"), 10 * sine(0.5, 16_000), rtol=1e-6)


@pytest.fixture(scope="module")
def noise_files(tmp_path_factory):
    """Four seconds of noise: in formats with exact seeks, without, at two rates, and with timestamps."""
    folder = tmp_path_factory.mktemp("noise")
    for name, rate in [
        ("16k.wav", 16_000),
        ("a.wav", 44_100),
        ("a.flac", 22_050),
        ("a.ogg", 44_100),
        ("a.mp3", 44_100),
    ]:
        soundfile.write(folder / name, noise(4 * rate), rate)
    write_av(folder / "alac.m4a", 0.5 * noise(4 * 44_100)[:, 0], 44_100, "alac", "s16p")
    write_av(folder / "aac.m4a", sine(4, 44_100), 44_100, "aac", "fltp")
    write_av(folder / "a.mkv", noise(4 * 44_100)[:, 0], 44_100, "pcm_f32le", "flt")
    return folder


NOISE_FILES = ["16k.wav", "a.wav", "a.flac", "a.ogg", "a.mp3", "alac.m4a", "aac.m4a", "a.mkv"]


@pytest.mark.parametrize("name", NOISE_FILES)
def test_samples_do_not_depend_on_the_block_length(noise_files, name):
    times = {"start_seconds": 0.3, "end_seconds": 3.7}
    whole = media.read_audio(noise_files / name, **times)
    for block_seconds in (0.01, 0.7, 3.4, 100.0):
        blocks = list(media.audio_blocks(noise_files / name, block_seconds=block_seconds, **times))
        assert {len(block) for block in blocks[:-1]} <= {round(block_seconds * 16_000)}
        assert 0 < len(blocks[-1]) <= round(block_seconds * 16_000)
        np.testing.assert_array_equal(np.concatenate(blocks), whole)


@pytest.mark.parametrize("name", NOISE_FILES)
def test_segments_are_slices_of_the_whole(noise_files, name):
    whole = media.read_audio(noise_files / name)
    for start, end in [(0, 1), (0.3, 0.31), (1.23456, 2.5), (1.5, 1.75), (2.9, 4), (0, 4), (3.99, 4)]:
        segment = media.read_audio(noise_files / name, start_seconds=start, end_seconds=end)
        assert len(segment) == int((end - start) * 16_000 + 0.5)
        first = int(start * 16_000 + 0.5)
        np.testing.assert_allclose(segment, whole[first : first + len(segment)], rtol=0, atol=1e-5)
    rest = media.read_audio(noise_files / name, start_seconds=1.5)
    np.testing.assert_allclose(rest, whole[24_000:], rtol=0, atol=1e-5)


def test_mp4_is_not_decoded_from_its_start(noise_files, monkeypatch):
    decoded = []
    frame_samples = decoders._frame_samples
    monkeypatch.setattr(
        decoders, "_frame_samples", lambda frame: decoded.append(frame.samples) or frame_samples(frame)
    )
    media.read_audio(noise_files / "alac.m4a", start_seconds=2.9, end_seconds=3.0)
    assert sum(decoded) < 1.5 * 44_100


def test_native_rate_segments_are_exact(noise_files):
    expected, _ = soundfile.read(noise_files / "a.wav", dtype="float32")
    segment = media.read_audio(noise_files / "a.wav", sample_rate=44_100, start_seconds=1.1, end_seconds=2.3)
    np.testing.assert_array_equal(segment, expected[48_510:101_430])


def test_an_end_just_past_the_file_is_its_end(tmp_path):
    soundfile.write(tmp_path / "a.wav", sine(1.0, 16_000), 16_000)
    assert len(media.read_audio(tmp_path / "a.wav", end_seconds=1.09)) == 16_000
    soundfile.write(tmp_path / "b.wav", sine(1.0, 22_050)[:-1], 22_050)
    assert len(media.read_audio(tmp_path / "b.wav", end_seconds=1.0)) == 16_000


def test_one_sample_is_a_sound(tmp_path):
    for rate in (16_000, 48_000, 8_000):
        soundfile.write(tmp_path / "a.wav", [0.5], rate)
        assert 1 <= len(media.read_audio(tmp_path / "a.wav")) <= 2


def test_time_zero_is_the_start_of_the_video(tmp_path):
    """The sound begins half a second after the pictures and pauses for a quarter: both become silence."""
    write_av(
        tmp_path / "a.mkv",
        sine(2.0, 16_000),
        16_000,
        "pcm_s16le",
        "s16",
        video=True,
        late=0.5,
        gap=(1.0, 0.25),
    )
    first, second = np.split(sine(2.0, 16_000), [16_000])
    expected = np.concatenate([np.zeros(8_000), first, np.zeros(4_000), second])
    np.testing.assert_allclose(media.read_audio(tmp_path / "a.mkv"), expected, rtol=0, atol=1 / 2**15)
    segment = media.read_audio(tmp_path / "a.mkv", start_seconds=1.6, end_seconds=2.0)
    np.testing.assert_allclose(segment, expected[25_600:32_000], rtol=0, atol=1 / 2**15)


def test_a_sound_that_starts_late_on_its_own_starts_at_zero(tmp_path):
    write_av(tmp_path / "a.mkv", sine(1.0, 16_000), 16_000, "pcm_s16le", "s16", late=5.0)
    np.testing.assert_allclose(media.read_audio(tmp_path / "a.mkv"), sine(1.0, 16_000), atol=1 / 2**15)


def test_a_change_of_channels_keeps_the_mean_and_a_change_of_rate_is_refused(tmp_path):
    for name, rate, layout in [
        ("mono", 16_000, "mono"),
        ("stereo", 16_000, "stereo"),
        ("fast", 48_000, "mono"),
    ]:
        write_av(tmp_path / f"{name}.aac", sine(1.0, rate), rate, "aac", "fltp", layout=layout)
    parts = {name: (tmp_path / f"{name}.aac").read_bytes() for name in ("mono", "stereo", "fast")}
    (tmp_path / "channels.aac").write_bytes(parts["mono"] + parts["stereo"])
    waveform = media.read_audio(tmp_path / "channels.aac")
    mono, stereo = (media.read_audio(tmp_path / f"{name}.aac") for name in ("mono", "stereo"))
    assert len(waveform) == len(mono) + len(stereo)
    np.testing.assert_allclose(waveform[len(mono) + 2_000 :], stereo[2_000:], rtol=0, atol=1e-2)
    (tmp_path / "rates.aac").write_bytes(parts["mono"] + parts["fast"])
    with pytest.raises(media.MediaError, match="sample rate changes from 16000 to 48000 Hz"):
        media.read_audio(tmp_path / "rates.aac")


def test_an_hour_is_read_in_bounded_memory(tmp_path):
    rate, seconds = 8_000, 3_600
    header = media.encode_wav(np.zeros(0), rate)
    size = 2 * rate * seconds
    with open(tmp_path / "hour.wav", "wb") as file:
        file.write(header[:4] + struct.pack("<I", size + 36) + header[8:40] + struct.pack("<I", size))
        file.truncate(44 + size)  # sparse
    tracemalloc.start()
    num_samples = sum(len(block) for block in media.audio_blocks(tmp_path / "hour.wav"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert num_samples == 16_000 * seconds
    assert peak < 20e6


def test_a_written_wav_is_read_back(tmp_path):
    expected = sine(0.5, 16_000)
    media.write_wav(tmp_path / "a.wav", expected, 16_000)
    np.testing.assert_allclose(media.read_audio(tmp_path / "a.wav"), expected, rtol=0, atol=0.5 / 2**15)
    loud, _ = soundfile.read(tmp_path / "a.wav", dtype="int16")
    media.write_wav(tmp_path / "loud.wav", np.array([-9.0, -1.0, 1.0, 9.0]), 16_000)
    loud, rate = soundfile.read(tmp_path / "loud.wav", dtype="int16")
    assert (loud.tolist(), rate) == ([-32768, -32768, 32767, 32767], 16_000)
    assert soundfile.info(tmp_path / "a.wav").subtype == "PCM_16"


def test_real_recordings_are_read_in_full(shared_data):
    files = [
        *sorted(shared_data.glob("urbansound8k/audio/*/*.wav")),
        *sorted(shared_data.glob("video/clips/*.mp4")),
    ]
    files += [
        *sorted(shared_data.glob("esc50/audio/1-1*.ogg"))[:5],
        shared_data / "video/edge/one_second.webm",
    ]
    files += sorted(shared_data.glob("fsdd/recordings/0_*_1.wav"))
    assert len(files) > 50
    for file in files:
        waveform = media.read_audio(file)
        assert waveform.dtype == np.float32
        assert np.isfinite(waveform).all()
        # AAC and MP3 end in a whole frame of up to 26 ms.
        assert len(waveform) / 16_000 == pytest.approx(media.audio_info(file).duration_seconds, abs=0.03), (
            file
        )


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_stereo_is_each_channel_by_itself(tmp_path, rate):
    waveform = noise(30_000, 2).astype(np.float32)
    soundfile.write(tmp_path / "stereo.wav", waveform, 16_000, subtype="FLOAT")
    found = media.read_audio(tmp_path / "stereo.wav", sample_rate=rate, num_channels=2, start_seconds=0.5)
    for channel in (0, 1):
        soundfile.write(tmp_path / "one.wav", waveform[:, channel], 16_000, subtype="FLOAT")
        expected = media.read_audio(tmp_path / "one.wav", sample_rate=rate, start_seconds=0.5)
        np.testing.assert_allclose(found[:, channel], expected, atol=1e-6)
    mono = media.read_audio(tmp_path / "stereo.wav", sample_rate=rate, start_seconds=0.5)
    np.testing.assert_allclose(found.mean(axis=1), mono, atol=1e-6)
    assert found.dtype == np.float32


def test_mono_as_stereo_is_twice_the_same(tmp_path):
    write_av(tmp_path / "mono.mp4", sine(1, 48_000), 48_000, "aac", "fltp", late=0.5, video=True)
    found = media.read_audio(tmp_path / "mono.mp4", num_channels=2)
    mono = media.read_audio(tmp_path / "mono.mp4")
    np.testing.assert_array_equal(found, np.stack([mono, mono], axis=1))


def test_more_channels_than_stereo_are_refused(tmp_path):
    soundfile.write(tmp_path / "surround.wav", noise(1000, 6), 16_000)
    with pytest.raises(media.MediaError, match="has 6 channels; expected 1 or 2 for stereo: mix it down"):
        media.read_audio(tmp_path / "surround.wav", num_channels=2)
    assert media.read_audio(tmp_path / "surround.wav").shape == (1000,)
    with pytest.raises(ValueError, match="num_channels must be 1 for mono or 2 for stereo, got 3"):
        media.read_audio(tmp_path / "surround.wav", num_channels=3)
