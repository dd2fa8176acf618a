"""Frames of video: which are taken and when they are shown, against the times that were written."""

import itertools
import os
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from videos import expected_times, grey_frame, level, write_video

from tfsound import media
from tfsound.media import frames as frames_module

MILLISECONDS = Fraction(1, 1000)
TICKS = Fraction(1, 25)


def assert_frames(path, times, *, late=0.0, tolerance=1e-3, **segment):
    """The frames are those of the rule, at their times, and each shows what was written for that time.

    Args:
      times: when the frames were written to be shown; `late`, what the clock counts from before the first.
    """
    shown = [
        Fraction(seconds).limit_denominator(10**6) - Fraction(times[0]) + Fraction(late) for seconds in times
    ]
    found = list(media.video_frames(path, **segment))
    names = {"frames_per_second": "rate", "start_seconds": "start", "end_seconds": "end"}
    expected = expected_times(shown, **{names[name]: value for name, value in segment.items()})
    assert [seconds for seconds, _ in found] == pytest.approx(expected, abs=tolerance)
    for (_, frame), seconds in zip(found, expected, strict=True):
        assert (frame.shape, frame.dtype) == ((128, 128, 3), np.uint8)
        number = shown.index(min(shown, key=lambda other: abs(other - Fraction(seconds))))
        assert abs(float(frame.mean()) - level(number)) < 6, (seconds, number)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {}),
        ("a.mp4", "libx264", {"options": {"bf": "3", "b-pyramid": "normal", "g": "12"}}),
        ("a.mp4", "mpeg4", {"time_base": MILLISECONDS}),
        ("a.mp4", "libx265", {"options": {"x265-params": "log-level=none"}}),
        ("a.mov", "png", {"pix_fmt": "rgb24"}),
        ("a.mkv", "libx264", {}),
        ("a.mkv", "ffv1", {}),
        ("a.mkv", "mjpeg", {"pix_fmt": "yuvj420p"}),
        ("a.avi", "mpeg4", {"time_base": TICKS}),
        ("a.avi", "mpeg4", {"time_base": TICKS, "options": {"bf": "2"}}),
        ("a.avi", "libx264", {"time_base": TICKS}),
        ("a.webm", "libvpx", {}),
        ("a.webm", "libvpx-vp9", {}),
        ("a.ts", "libx264", {}),
        ("a.ts", "mpeg2video", {"time_base": TICKS}),
        ("a.flv", "flv", {"time_base": MILLISECONDS}),
        ("a.h264", "libx264", {}),
        ("a.gif", "gif", {"pix_fmt": "rgb8"}),
    ],
)  # fmt: skip
def test_frames_of_every_container_come_at_their_times(tmp_path, name, codec, options):
    times = [number / 25 for number in range(60)]
    path = write_video(tmp_path / name, times, codec=codec, **options)
    # AVI counts from the first picture; with its frames in another order, it may say that this is one late.
    tolerance = 0.041 if name == "a.avi" else 1e-3
    assert_frames(path, times, tolerance=tolerance)
    assert_frames(path, times, frames_per_second=4.0, tolerance=tolerance)


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.ts"])
@pytest.mark.parametrize(
    "times",
    [
        [0.0],
        [0.0, 5.0, 5.04, 9.99],  # a still scene
        [0.0, 0.2, 0.9, 1.1, 1.15, 1.2, 3.0, 3.9, 4.0, 4.1],
        [7.31, 7.42, 8.2, 8.31, 8.35, 9.4],  # the first frame is not at 0
    ],
)
def test_variable_frame_rates_keep_their_times(tmp_path, name, times):
    path = write_video(tmp_path / name, times, codec="libx264", options={"bf": "0"})
    assert_frames(path, times)
    assert_frames(path, times, frames_per_second=2.0)


FUZZ = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@FUZZ
@given(data=st.data())
def test_any_times_rates_and_segments_follow_the_rule(tmp_path, data):
    steps = data.draw(st.lists(st.integers(20, 1500), min_size=1, max_size=12))
    times = [sum(steps[:number]) / 1000 for number in range(len(steps))]
    path = write_video(
        tmp_path / "a.mkv", times, codec="libx264", options={"bf": "2", "g": "5"}, time_base=MILLISECONDS
    )
    start = data.draw(st.integers(0, 4000)) / 1000
    segment = {
        "frames_per_second": data.draw(st.sampled_from([0.25, 0.5, 1.0, 2.0, 3.0, 29.97])),
        "start_seconds": start,
        "end_seconds": start + data.draw(st.integers(1, 6000)) / 1000,
    }
    assert_frames(path, times, **segment)
    seconds = [time for time, _ in media.video_frames(path, **segment)]
    assert all(before < after for before, after in itertools.pairwise(seconds))
    assert all(start <= time < segment["end_seconds"] for time in seconds)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov", "a.ts", "a.avi", "a.webm"])
@pytest.mark.parametrize("start", [0.0, 0.04, 1.0, 2.5, 5.97, 11.3, 15.9])
def test_a_segment_is_the_same_with_a_seek_and_without(tmp_path, name, start, monkeypatch):
    codec = {"a.mov": "png", "a.webm": "libvpx-vp9"}.get(name, "libx264")
    options = {"g": "60", "bf": "3"} if codec == "libx264" else {}
    times = [number / 10 for number in range(160)]
    path = write_video(
        tmp_path / name, times, codec=codec, rate=10, options=options, time_base=Fraction(1, 10),
        pix_fmt="rgb24" if codec == "png" else "yuv420p",
    )  # fmt: skip
    segment = {"start_seconds": start, "end_seconds": start + 3.0}
    sought = list(media.video_frames(path, **segment))
    monkeypatch.setattr(frames_module._Decoding, "_seek", lambda self, seconds: False)
    unsought = list(media.video_frames(path, **segment))
    assert [seconds for seconds, _ in sought] == [seconds for seconds, _ in unsought]
    for (_, frame), (_, expected) in zip(sought, unsought, strict=True):
        np.testing.assert_array_equal(frame, expected)
    assert_frames(path, times, tolerance=0.101 if name == "a.avi" else 1e-3, **segment)


def test_a_seek_spares_decoding_what_comes_before(tmp_path, monkeypatch):
    times = [number / 5 for number in range(600)]
    path = write_video(tmp_path / "a.mp4", times, codec="libx264", rate=5, options={"g": "25"})
    decoded = []
    original = frames_module._Decoding._is_next
    monkeypatch.setattr(
        frames_module._Decoding,
        "_is_next",
        lambda self, seconds: decoded.append(seconds) or original(self, seconds),
    )
    (seconds, _), *_ = media.video_frames(path, start_seconds=100.0, end_seconds=101.0)
    assert seconds == 100.0
    assert min(decoded) > 90.0


@pytest.mark.parametrize("options", [{"bf": "3", "b-pyramid": "normal"}, {"bf": "2", "g": "7"}, {"bf": "0"}])
def test_frames_that_nothing_needs_are_not_decoded_and_nothing_changes(tmp_path, options, monkeypatch):
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (96, 96 + 100, 3), np.uint8)
    frames = [base[:, number : number + 96] for number in range(100)]
    path = write_video(
        tmp_path / "a.mp4",
        [number / 25 for number in range(100)],
        codec="libx264",
        frames=frames,
        options=options,
    )
    few = list(media.video_frames(path, start_seconds=0.5, frames_per_second=2.0))
    monkeypatch.setattr(frames_module, "_ONE_FRAME_A_PACKET", ())
    every = list(media.video_frames(path, start_seconds=0.5, frames_per_second=2.0))
    assert [seconds for seconds, _ in few] == [seconds for seconds, _ in every]
    for (_, frame), (_, expected) in zip(few, every, strict=True):
        np.testing.assert_array_equal(frame, expected)


@pytest.mark.parametrize(
    ("name", "sound_start", "video_start", "late"),
    [
        ("a.mkv", 0.0, 0.75, 0.75),  # pictures later than the sound
        ("a.mkv", 0.5, 0.0, 0.0),
        ("a.mkv", 20.0, 0.0, 0.0),  # sound long after the pictures
        ("a.mkv", 0.0, 20.0, 20.0),
        ("a.mp4", 0.0, 0.75, 0.75),
        ("a.mp4", 0.5, 0.0, 0.0),
        ("a.ts", 3.0, 3.75, 0.75),
    ],
)
def test_sound_and_frames_share_a_clock(tmp_path, name, sound_start, video_start, late):
    """A frame's time counts from where the waveform of `read_audio` begins, whichever stream is first."""
    times = [video_start + number / 10 for number in range(25)]
    path = write_video(
        tmp_path / name, times, codec="libx264", rate=10, options={"bf": "0"}, sound_seconds=2.5,
        sound_start=sound_start,
    )  # fmt: skip
    # Opus starts some milliseconds early where a container cannot say so.
    assert_frames(path, times, late=late, tolerance=0.01)
    waveform = media.read_audio(path)
    first_sound = np.argmax(np.abs(waveform) > 0.02) / 16_000
    assert first_sound == pytest.approx(sound_start - min(sound_start, video_start), abs=0.03)


def test_streams_of_different_length_are_read_to_their_own_ends(tmp_path):
    times = [number / 10 for number in range(52)]
    path = write_video(tmp_path / "a.mkv", times, codec="libx264", rate=10, sound_seconds=2.0)
    assert [seconds for seconds, _ in media.video_frames(path)] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    path = write_video(tmp_path / "b.mkv", times[:5], codec="libx264", rate=10, sound_seconds=4.0)
    assert [seconds for seconds, _ in media.video_frames(path)] == [0.0]
    assert list(media.video_frames(path, start_seconds=2.0)) == []
    assert list(media.video_frames(path, start_seconds=1000.0)) == []


def test_rounded_timestamps_lose_no_frame_at_the_rate_of_the_video(tmp_path):
    """Matroska rounds 1/29.97 s to milliseconds: without tolerance a third of the frames would be lost."""
    times = [number * 1001 / 30_000 for number in range(90)]
    path = write_video(tmp_path / "a.mkv", times, codec="ffv1", rate=30, time_base=Fraction(1, 30_000))
    found = [seconds for seconds, _ in media.video_frames(path, frames_per_second=30_000 / 1001)]
    assert found == pytest.approx(times, abs=1e-3)


def test_timestamps_that_fall_back_are_passed_over_or_refused(tmp_path):
    path = tmp_path / "a.mov"
    source = write_video(
        tmp_path / "source.mov", [number / 10 for number in range(40)], codec="png", pix_fmt="rgb24", rate=10,
        time_base=Fraction(1, 10),
    )  # fmt: skip

    def remux(new_tenths):
        with av.open(source) as read, av.open(os.fspath(path), "w") as written:
            stream = written.add_stream_from_template(read.streams.video[0])
            for number, packet in enumerate(packet for packet in read.demux(video=0) if packet.size):
                packet.stream = stream
                tenth = round(Fraction(1, 10) / packet.time_base)
                # Each is decoded in its turn, 5 s before it is shown, which allows any time to show it at.
                packet.dts, packet.pts = (number - 50) * tenth, new_tenths(number) * tenth
                written.mux(packet)

    remux(lambda number: number - (3 if number == 12 else 0))
    assert [seconds for seconds, _ in media.video_frames(path)] == pytest.approx([0.0, 1.0, 2.0, 3.0])
    tenths = [seconds for seconds, _ in media.video_frames(path, frames_per_second=10.0)]
    assert tenths == pytest.approx([number / 10 for number in range(40) if number != 12])
    remux(lambda number: number - (0 if number < 20 else 19))
    with pytest.raises(
        media.MediaError, match=r"timestamps of its frames jump by -1\.800 s at 1\.900 s; expected one"
    ):
        list(media.video_frames(path))


def test_a_cut_broadcast_begins_with_its_first_key_frame(tmp_path):
    times = [number / 10 for number in range(80)]
    path = write_video(tmp_path / "a.ts", times, codec="libx264", rate=10, options={"g": "20", "bf": "0"})
    with open(path, "rb") as file:
        data = file.read()
    cut = len(data) // 5 // 188 * 188
    # Programme tables come first in every broadcast; then the stream begins anywhere.
    (tmp_path / "cut.ts").write_bytes(data[: 3 * 188] + data[cut:])
    found = list(media.video_frames(tmp_path / "cut.ts", frames_per_second=10.0))
    assert 40 <= len(found) < 80
    for offset, (_, frame) in enumerate(found):
        assert abs(frame.mean() - level(80 - len(found) + offset)) < 6


def test_memory_does_not_grow_with_the_length_of_a_video(tmp_path):
    """100 frames of 1.8 MB, 180 MB if they were kept, in a process that does nothing else."""
    frames = [grey_frame(0, 1280, 960)] * 100
    write_video(
        tmp_path / "long.mkv", list(range(100)), codec="mjpeg", pix_fmt="yuvj420p", rate=1, frames=frames
    )
    write_video(
        tmp_path / "short.mkv", [0.0, 1.0], codec="mjpeg", pix_fmt="yuvj420p", rate=1, frames=frames[:2]
    )
    script = (
        "import resource\nfrom tfsound import media\n"
        "def peak(name):\n"
        "    count = sum(1 for _ in media.video_frames(name))\n"
        "    return count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "print(*peak('short.mkv'), *peak('long.mkv'))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    num_short, short_megabytes, num_long, long_megabytes = map(int, run.stdout.split())
    assert (num_short, num_long) == (2, 100)
    assert long_megabytes - short_megabytes < 40


def test_the_cover_of_a_sound_file_is_no_video(tmp_path):
    cover = media.encode_jpeg(grey_frame(1))
    path = tmp_path / "a.mp3"
    with av.open(os.fspath(path), "w") as container:
        sound = container.add_stream("libmp3lame", rate=16_000, layout="mono")
        picture = container.add_stream("mjpeg")
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuvj444p"
        picture.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16_000, 0, Fraction(1, 16_000)
        packet = av.Packet(cover)
        packet.stream, packet.pts, packet.dts = picture, 0, 0
        container.mux(packet)
        container.mux([*sound.encode(frame), *sound.encode(None)])
    with av.open(os.fspath(path)) as container:
        assert len(container.streams.video) == 1
    with pytest.raises(
        media.NoVideoError, match=r"has no video stream .*expected a file with moving pictures"
    ):
        list(media.video_frames(path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start_seconds": -1.0}, "start_seconds must be finite and at least 0, got -1.0"),
        ({"end_seconds": 0.0}, "end_seconds must be finite and greater than start_seconds 0.0"),
        ({"frames_per_second": 0.0}, "frames_per_second must be above 0 and at most 1000, got 0.0"),
        ({"frames_per_second": float("nan")}, "frames_per_second must be above 0"),
        ({"frames_per_second": 1e6}, "frames_per_second must be above 0 and at most 1000"),
        ({"size": 8}, "size must be an integer from 16 to 1024 pixels, got 8"),
        ({"size": 128.0}, "size must be an integer"),
    ],
)
def test_bad_arguments_are_refused_at_the_call(arguments, message):
    with pytest.raises(ValueError, match=message):
        media.video_frames("no_such_file.mp4", **arguments)
