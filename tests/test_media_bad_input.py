"""Bad media: each kind is a MediaError that says what is wrong, and no bytes raise anything else."""

import os
import pathlib
import pickle
import struct
import subprocess
import sys

import av
import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_media import sine, write_av

from tfsound import media


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """One short file of each kind: its bytes by its suffix."""
    folder = tmp_path_factory.mktemp("good")
    tone = sine(0.5, 16_000)
    for suffix in ("wav", "aiff", "flac", "ogg", "mp3"):
        soundfile.write(folder / f"a.{suffix}", tone, 16_000)
    write_av(folder / "a.mp4", tone, 16_000, "aac", "fltp", video=True)
    write_av(folder / "a.mkv", tone, 16_000, "aac", "fltp", video=True)
    write_av(folder / "a.avi", tone, 16_000, "pcm_s16le", "s16", video=True)
    faststart = av.open(os.fspath(folder / "a.faststart.mp4"), "w", options={"movflags": "faststart"})
    with faststart, av.open(os.fspath(folder / "a.mp4")) as source:
        stream = faststart.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = stream
                faststart.mux(packet)
    return {file.name[2:]: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start_seconds": -1.0}, "start_seconds must be finite and at least 0, got -1.0"),
        ({"start_seconds": float("nan")}, "start_seconds must be finite"),
        (
            {"start_seconds": 1.0, "end_seconds": 1.0},
            "end_seconds must be finite and greater than start_seconds 1.0",
        ),
        ({"end_seconds": float("inf")}, "pass None for the end"),
        ({"end_seconds": float("nan")}, "end_seconds must be finite"),
        ({"sample_rate": 0}, "sample_rate must be an integer from 1000"),
        ({"sample_rate": 16_000.0}, "sample_rate must be an integer"),
        ({"block_seconds": 0.0}, "block_seconds must be finite and hold at least one sample"),
    ],
)
def test_bad_arguments_are_refused_at_the_call(arguments, message):
    with pytest.raises(ValueError, match=message):
        media.audio_blocks("no_such_file.wav", **arguments)


def test_bad_waveforms_are_not_encoded():
    with pytest.raises(
        ValueError, match=r"must be float, \(samples,\) or \(samples, 2\), got float64, \(3, 3\)"
    ):
        media.encode_wav(np.zeros((3, 3)), 16_000)
    with pytest.raises(ValueError, match="got int16"):
        media.encode_wav(np.zeros(3, np.int16), 16_000)
    with pytest.raises(ValueError, match="waveform must be finite"):
        media.encode_wav(np.array([0.0, np.nan]), 16_000)
    with pytest.raises(ValueError, match="sample_rate must be"):
        media.encode_wav(np.zeros(3), 0)


def test_the_path_must_be_a_readable_file(tmp_path):
    with pytest.raises(media.MediaError, match=r"'.*gone\.wav': no such file; correct the path"):
        media.read_audio(tmp_path / "gone.wav")
    with pytest.raises(media.MediaError, match="is a directory or device"):
        media.read_audio(tmp_path)
    with pytest.raises(media.MediaError, match="is a directory or device"):
        media.read_audio(os.devnull)
    with pytest.raises(media.MediaError, match="cannot be opened"):
        media.read_audio("nul\0l.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(media.MediaError, match="is a directory or device"):
        media.read_audio(tmp_path / "pipe.wav")


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs Unix permissions")
def test_a_file_without_permission_is_named(tmp_path):
    """As another user, for permissions do not bind root."""
    (tmp_path / "secret.wav").write_bytes(media.encode_wav(sine(0.1, 16_000), 16_000))
    (tmp_path / "secret.wav").chmod(0)
    script = (
        "import os, sys; from tfsound import media; import pathlib\n"
        "if os.geteuid() == 0: os.chdir(sys.argv[1]); os.seteuid(65534)\n"
        "try: media.read_audio('secret.wav')\n"
        "except media.MediaError as error: print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, tmp_path], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "'secret.wav': permission denied; expected a readable file" in run.stdout


@pytest.mark.parametrize(
    "name",
    [
        b"with space.wav",
        b"quote'\".wav",
        b"new\nline.wav",
        "naïve 日本語.wav".encode(),
        b"bytes \xff\xfe.wav",
        b"http:a.wav",
        b"%03d.raw",
        b"-",
    ],
)
def test_any_name_is_read_and_named(tmp_path, good, name):
    path = os.path.join(os.fspath(tmp_path), os.fsdecode(name))
    for suffix in ("wav", "mp4"):
        pathlib.Path(path).write_bytes(good[suffix])
        assert len(media.read_audio(path)) >= 8_000
    pathlib.Path(path).write_bytes(b"")
    with pytest.raises(media.MediaError) as caught:
        media.read_audio(path)
    assert repr(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_sound_is_said_to_be_none(tmp_path, good):
    bad = tmp_path / "a.wav"
    bad.write_bytes(b"")
    with pytest.raises(media.MediaError, match=r"is an empty file \(0 bytes\)"):
        media.read_audio(bad)
    bad.write_text("This is not a sound.\n" * 100)
    with pytest.raises(
        media.MediaError, match=r"no sound or video that can be read .*expected undamaged WAV"
    ):
        media.read_audio(bad)
    soundfile.write(bad, np.zeros((0, 2)), 16_000)
    with pytest.raises(media.MediaError, match="holds no samples"):
        media.read_audio(bad)
    bad.write_bytes(good["wav"][:24] + struct.pack("<I", 1) + good["wav"][28:])
    with pytest.raises(
        media.MediaError, match="its header says 1 samples a second; expected 1000 to 1000000"
    ):
        media.audio_info(bad)


def test_a_video_without_sound_is_said_to_have_none(tmp_path):
    with av.open(os.fspath(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))))
        container.mux(stream.encode(None))
    with pytest.raises(media.MediaError, match=r"has no audio stream \(streams found: video\)"):
        media.read_audio(tmp_path / "a.mp4")


def test_a_playlist_opens_nothing(tmp_path, good):
    (tmp_path / "a.mp4").write_bytes(good["mp4"])
    (tmp_path / "a.wav").write_text("ffconcat version 1.0\nfile 'a.mp4'\n")
    (tmp_path / "a.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\na.mp4\n#EXT-X-ENDLIST\n")
    for name in ("a.wav", "a.m3u8"):
        with pytest.raises(media.MediaError, match=r"no sound or video|no audio stream"):
            media.read_audio(tmp_path / name)


@pytest.mark.parametrize(
    ("suffix", "message"),
    [
        ("wav", "truncated: its data chunk should reach byte 16044, but the file ends at byte 9626"),
        ("aiff", "truncated: its SSND chunk should reach"),
        ("flac", r"truncated or damaged: found 0\.\d* s of the 0.500 s"),
        ("ogg", "truncated: its last Ogg page should reach"),
        ("mp3", r"truncated or damaged: found 0\.\d* s of the 0.500 s"),
        ("mp4", "truncated: its mdat box should reach"),
        ("faststart.mp4", "truncated: its mdat box should reach"),
        ("mkv", "truncated: its Matroska segment should reach"),
        ("avi", "truncated: its LIST chunk should reach"),
    ],
)
def test_a_truncated_file_is_reported(tmp_path, good, suffix, message):
    (tmp_path / "a").write_bytes(good[suffix][: int(0.6 * len(good[suffix]))])
    with pytest.raises(media.MediaError, match=message):
        media.read_audio(tmp_path / "a")


def test_a_chunk_of_no_bytes_hides_no_truncation(tmp_path, good):
    data = good["wav"][:12] + b"JUNK\0\0\0\0" + good["wav"][12:]
    (tmp_path / "a.wav").write_bytes(data)
    assert len(media.read_audio(tmp_path / "a.wav")) == 8_000
    (tmp_path / "a.wav").write_bytes(data[:-1])
    with pytest.raises(media.MediaError, match="truncated: its data chunk should reach byte 16052"):
        media.read_audio(tmp_path / "a.wav")


def test_an_ogg_cut_between_pages_is_reported(tmp_path):
    soundfile.write(tmp_path / "a.ogg", sine(5.0, 16_000), 16_000)
    data = (tmp_path / "a.ogg").read_bytes()
    (tmp_path / "a.ogg").write_bytes(data[: data.rindex(b"OggS")])
    with pytest.raises(media.MediaError, match=r"truncated: its Ogg stream \(no page is marked as its end\)"):
        media.read_audio(tmp_path / "a.ogg")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e35])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_samples_that_are_not_finite_are_reported_with_their_time(tmp_path, value, rate):
    samples = np.stack([sine(1.0, rate)] * 2, axis=1)
    samples[rate // 4 :, 1] = value
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype="DOUBLE")
    with pytest.raises(
        media.MediaError, match=r"the sample at 0.250000 s is (nan|-?inf|1.*e\+?35); expected finite"
    ):
        media.read_audio(tmp_path / "a.wav")
    assert len(media.read_audio(tmp_path / "a.wav", end_seconds=0.2)) == 3_200


@pytest.mark.parametrize("suffix", ["wav", "ogg", "mp3", "mp4"])
@pytest.mark.parametrize(
    ("start", "end"), [(0.7, None), (0.7, 0.75), (3e5, None), (0.0, 0.7), (0.4, 1e300), (1e300, None)]
)
def test_a_segment_past_the_end_is_reported(tmp_path, good, suffix, start, end):
    (tmp_path / "a").write_bytes(good[suffix])
    with pytest.raises(
        media.MediaError, match=r"segment past the end: asked for .* but the sound lasts 0\.5\d\d s"
    ):
        media.read_audio(tmp_path / "a", start_seconds=start, end_seconds=end)


def test_timestamps_that_jump_are_reported(tmp_path):
    write_av(tmp_path / "a.mkv", sine(1.0, 16_000), 16_000, "pcm_s16le", "s16", gap=(0.5, 3600.0))
    with pytest.raises(media.MediaError, match=r"its timestamps jump by 3600.000 s at 0.500 s"):
        media.read_audio(tmp_path / "a.mkv")


def test_errors_travel_between_processes(tmp_path):
    with pytest.raises(media.MediaError) as caught:
        media.read_audio(tmp_path / "gone.wav")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def assert_reads_or_refuses(path):
    try:
        waveform = media.read_audio(path)
    except media.MediaError:
        return
    assert waveform.dtype == np.float32
    assert waveform.ndim == 1
    assert len(waveform) > 0
    assert np.isfinite(waveform).all()


FUZZ = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.mark.parametrize(
    "suffix", ["wav", "aiff", "flac", "ogg", "mp3", "mp4", "faststart.mp4", "mkv", "avi"]
)
@FUZZ
@given(data=st.data())
def test_damaged_files_are_read_or_refused(tmp_path, good, suffix, data):
    content = bytearray(good[suffix])
    # Headers are where damage tells: half of the hits are among the first 200 bytes.
    position = st.integers(0, 199) | st.integers(0, len(content) - 1)
    for index, byte in data.draw(st.lists(st.tuples(position, st.integers(0, 255)), max_size=6)):
        content[index] = byte
    length = data.draw(st.just(len(content)) | st.integers(0, len(content)))
    (tmp_path / "a").write_bytes(content[:length])
    assert_reads_or_refuses(tmp_path / "a")


MAGIC = [
    b"",
    b"RIFF\0\0\0\0WAVEfmt ",
    b"fLaC",
    b"OggS",
    b"\0\0\0\x18ftypisom",
    b"\x1a\x45\xdf\xa3",
    b"ID3",
    b"FORM",
]


@FUZZ
@given(magic=st.sampled_from(MAGIC), content=st.binary(max_size=300))
def test_random_bytes_are_read_or_refused(tmp_path, magic, content):
    (tmp_path / "a").write_bytes(magic + content)
    assert_reads_or_refuses(tmp_path / "a")
