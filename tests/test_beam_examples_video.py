"""The job `examples` on video: each piece with its own frames, at their true times, from any workers."""

import dataclasses
import os
from fractions import Fraction

import av
import numpy as np
import pytest
import tensorflow as tf
from test_beam_examples import (
    PARAMS,
    ROW,
    assert_energies,
    clips_of,
    expected_energies,
    failures_of,
    make,
    shard_bytes,
    write_noise,
)
from videos import expected_times, level, write_video

from tfsound import examples, media
from tfsound.beam import examples as job
from tfsound.beam import output as job_output
from tfsound.beam.clips import clip_examples

TENTHS = [number / 10 for number in range(101)]


def grey_of(jpeg: bytes) -> float:
    image = tf.io.decode_jpeg(jpeg)
    assert image.shape == (128, 128, 3)
    return float(np.mean(image))


def assert_frames(clip, expected_seconds, number_at=lambda seconds: round(10 * seconds)):
    """The frames are shown at these times, and show what was written for them."""
    assert clip.frame_seconds == pytest.approx(expected_seconds, abs=1e-3)
    for jpeg, seconds in zip(clip.frame_jpegs, clip.frame_seconds, strict=True):
        assert abs(grey_of(jpeg) - level(number_at(seconds))) < 6


@pytest.fixture
def video(tmp_path):
    return write_video(tmp_path / "a.mkv", TENTHS, codec="libx264", rate=10, sound_seconds=10.0)


def test_a_clip_holds_the_sound_and_the_frames_of_its_video(tmp_path, video):
    info = make(tmp_path, [ROW("a", "r", "a.mkv", labels=("x",))], frames_per_second=1.0)
    clip = clips_of(tmp_path / "set")["a"]
    assert_energies(clip, expected_energies(video))
    assert_frames(clip, list(range(11)))
    assert (info.num_images, info.num_clips_without_images, info.num_failures) == (11, 0, 0)
    assert info.parameters == {"mel_preset": "audioset", "max_clip_seconds": 57.6, "frames_per_second": 1.0}
    (expected, _), *_ = ((frame, seconds) for seconds, frame in media.video_frames(video))
    assert clip.frame_jpegs[0] == media.encode_jpeg(expected)


def test_without_the_option_videos_are_sound(tmp_path, video):
    info = make(tmp_path, [ROW("a", "r", "a.mkv")])
    clip = clips_of(tmp_path / "set")["a"]
    assert (clip.frame_jpegs, clip.frame_seconds) == ((), ())
    assert (info.num_images, info.num_clips_without_images) == (0, 0)
    assert "frames_per_second" not in info.parameters


@pytest.mark.parametrize("rate", [0.3, 1.0, 2.0])
def test_pieces_share_the_frames_among_them(video, rate):
    """Each frame is in the piece in whose time it begins, none in two, on the clock of the file."""
    row = ROW("a", "r", video)
    pieces = list(clip_examples(row, PARAMS, 2, frames_per_second=rate))
    assert [piece.start_seconds for piece in pieces] == pytest.approx([1.92 * n for n in range(len(pieces))])
    (whole,) = clip_examples(row, PARAMS, 60, frames_per_second=rate)
    for piece in pieces:
        end = piece.start_seconds + 1.92
        assert_frames(piece, [t for t in whole.frame_seconds if piece.start_seconds <= t < end])
    joined = [jpeg for piece in pieces for jpeg in piece.frame_jpegs]
    last = pieces[-1].start_seconds + 1.92
    assert joined == [
        jpeg for jpeg, t in zip(whole.frame_jpegs, whole.frame_seconds, strict=True) if t < last
    ]


def test_pieces_of_a_segment_count_from_the_file(video):
    row = ROW("a", "r", video, 2.5, 7.3)
    pieces = list(clip_examples(row, PARAMS, 3, frames_per_second=1.0))
    assert [piece.start_seconds for piece in pieces] == pytest.approx([2.5, 5.38])
    assert_frames(pieces[0], [2.5, 3.5, 4.5])
    assert_frames(pieces[1], [5.5, 6.5])


def test_frames_long_after_the_sound_are_left_out(tmp_path):
    path = write_video(tmp_path / "a.mkv", TENTHS, codec="libx264", rate=10, sound_seconds=3.0)
    (whole,) = clip_examples(ROW("a", "r", path), PARAMS, 60, frames_per_second=1.0)
    assert_frames(whole, list(range(11)))
    pieces = list(clip_examples(ROW("a", "r", path), PARAMS, 2, frames_per_second=1.0))
    assert [piece.frame_seconds for piece in pieces] == [(0.0, 1.0), (2.0, 3.0)][: len(pieces)]


@pytest.mark.parametrize("sound_start", [0.5, 20.0])
def test_streams_with_an_offset_keep_it(tmp_path, sound_start):
    path = write_video(
        tmp_path / "a.mkv", TENTHS[:25], codec="libx264", rate=10, sound_seconds=2.0, sound_start=sound_start
    )
    (clip,) = clip_examples(ROW("a", "r", path), PARAMS, 60, frames_per_second=1.0)
    assert_frames(clip, [0, 1, 2])
    assert PARAMS.num_windows(len(clip.mel_energy)) == int((sound_start + 2.0) / 0.96)
    loud = np.flatnonzero(clip.mel_energy.astype(np.float32).sum(1) > 0.05)
    assert loud[0] * 0.01 == pytest.approx(sound_start, abs=0.05)


def test_sound_alone_serves_and_is_counted(tmp_path, video):
    write_noise(tmp_path / "b.wav", 2.0)
    rows = [ROW("a", "a", "a.mkv"), ROW("b", "b", "b.wav")]
    info = make(tmp_path, rows, frames_per_second=1.0)
    assert (info.num_examples, info.num_images, info.num_clips_without_images) == (2, 11, 1)
    clip = clips_of(tmp_path / "set")["b"]
    assert (clip.frame_jpegs, clip.frame_seconds) == ((), ())
    assert "11 images, 1 clips without one" in str(info)
    assert info == examples.read_dataset_info(str(tmp_path / "set"), kind=examples.CLIPS)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(media.encode_jpeg(np.full((300, 200, 3), 90, np.uint8)))
    return str(path)


def test_a_still_picture_is_there_as_long_as_its_sound(tmp_path, picture, video):
    write_noise(tmp_path / "b.wav", 3.5)
    rows = [
        ROW("whole", "b", "b.wav", image_uri="a.jpg"),
        ROW("segment", "b", "b.wav", 0.5, 2.0, image_uri="a.jpg"),
        ROW("instead", "a", "a.mkv", 0.0, 1.0, image_uri=picture),
    ]
    info = make(tmp_path, rows, frames_per_second=2.0)
    clips = clips_of(tmp_path / "set")
    assert clips["whole"].frame_seconds == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0])
    assert clips["segment"].frame_seconds == pytest.approx([0.5, 1.0, 1.5])
    assert clips["instead"].frame_seconds == pytest.approx([0.0, 0.5])
    assert info.num_images == 12
    expected = media.encode_jpeg(media.read_image(picture))
    assert {jpeg for clip in clips.values() for jpeg in clip.frame_jpegs} == {expected}
    info = make(tmp_path, rows, output="sound")
    assert (info.num_images, info.num_clips_without_images) == (0, 0)


def test_pieces_share_the_copies_of_a_still_picture(tmp_path, picture):
    row = ROW("b", "b", write_noise(tmp_path / "b.wav", 5.0), image_uri=picture)
    pieces = list(clip_examples(row, PARAMS, 2, frames_per_second=1.0))
    assert [piece.frame_seconds for piece in pieces] == [(0.0, 1.0), (2.0, 3.0), (4.0,)]


def test_bad_videos_are_rejected_with_their_reason_and_the_others_go_on(tmp_path, video):
    write_video(tmp_path / "silent.mp4", TENTHS[:20], codec="libx264", rate=10)
    data = (tmp_path / "a.mkv").read_bytes()
    (tmp_path / "truncated.mkv").write_bytes(data[: len(data) // 2])
    write_noise(tmp_path / "b.wav", 1.0)
    (tmp_path / "half.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    path = write_video(
        tmp_path / "spoilt.mov", TENTHS[:20], codec="png", pix_fmt="rgb24", rate=10,
        time_base=Fraction(1, 10), sound_seconds=2.0,
    )  # fmt: skip
    spoilt = bytearray((tmp_path / "spoilt.mov").read_bytes())
    start = [i for i in range(len(spoilt)) if spoilt[i : i + 4] == b"IDAT"][10]
    spoilt[start + 10 : start + 30] = bytes(20)
    (tmp_path / "spoilt.mov").write_bytes(spoilt)
    rows = [
        ROW("good", "good", "a.mkv"),
        ROW("silent", "silent", "silent.mp4"),
        ROW("truncated", "truncated", "truncated.mkv"),
        ROW("spoilt", "spoilt", path),
        ROW("no-picture", "b", "b.wav", image_uri="gone.png"),
        ROW("half-a-picture", "b", "b.wav", image_uri="half.png"),
    ]
    info = make(tmp_path, rows, frames_per_second=1.0)
    assert set(clips_of(tmp_path / "set")) == {"good"}
    reasons = failures_of(tmp_path / "set")
    assert info.num_failures == len(reasons) == 5
    assert "has no audio stream (streams found: video)" in reasons["silent"]
    assert "truncated: its Matroska segment should reach" in reasons["truncated"]
    assert "its video is truncated or damaged after the frame at 0.900 s" in reasons["spoilt"]
    assert "gone.png': no such file" in reasons["no-picture"]
    assert "half.png': " in reasons["half-a-picture"]
    # Its sound is whole: without pictures it serves.
    info = make(tmp_path, [rows[3]], output="sound")
    assert info.num_failures == 0


@pytest.mark.parametrize("rate", [-1.0, float("nan"), float("inf"), 1e6])
def test_a_rate_that_is_none_is_refused_at_once(tmp_path, video, rate):
    with pytest.raises(ValueError, match="frames_per_second must be above 0 and at most 1000"):
        make(tmp_path, [ROW("a", "a", "a.mkv")], frames_per_second=rate)
    assert not (tmp_path / "set.partial").exists()


@pytest.fixture(scope="module")
def many_videos(tmp_path_factory):
    """Six videos and two sounds, and the set that one worker made of them."""
    folder = tmp_path_factory.mktemp("many")
    rows = []
    for number in range(6):
        name = f"{number}.mkv"
        times = [late / 10 for late in range(number, 30 + number)]
        write_video(folder / name, times, codec="libx264", rate=10, sound_seconds=2.0 + number / 3)
        rows.append(ROW(f"v{number}", f"r{number}", name))
    rows += [ROW(f"s{n}", f"s{n}", write_noise(folder / f"{n}.wav", 1.5, seed=n)) for n in range(2)]
    make(folder, rows, num_shards=3, output="one", max_clip_seconds=2.0, frames_per_second=2.0)
    return folder


def test_the_same_bytes_come_from_two_workers(many_videos, tmp_path):
    info = job.make_examples(
        str(many_videos / "manifest.csv"), str(tmp_path / "set"), num_shards=3, max_clip_seconds=2.0,
        frames_per_second=2.0, num_workers=2,
    )  # fmt: skip
    one = examples.read_dataset_info(str(many_videos / "one"), kind=examples.CLIPS)
    assert shard_bytes(tmp_path / "set") == shard_bytes(many_videos / "one")
    assert dataclasses.replace(info, command="") == dataclasses.replace(one, command="")
    assert (info.num_images, info.num_clips_without_images) == (one.num_images, 2)


def test_a_cancelled_job_stops_in_the_middle_of_a_piece(tmp_path, monkeypatch):
    """A piece of video takes long to decode: that its folder was removed is noticed at the next frame."""
    path = write_video(tmp_path / "a.mkv", TENTHS, codec="libx264", rate=10, sound_seconds=10.0)
    with job_output.pending_output(str(tmp_path / "set"), overwrite=False) as pending:
        task = job._ShardTask(job._Settings(pending.path, PARAMS, 57.6, 1, 1.0), 0)
        taken = []

        def slow_frames(*arguments, **options):
            for seconds, frame in original(*arguments, **options):
                taken.append(seconds)
                pending.discard()
                task._progress._written_at = -np.inf  # as if half a second had passed
                yield seconds, frame

        original = media.video_frames
        monkeypatch.setattr(media, "video_frames", slow_frames)
        with pytest.raises(job_output.JobError, match=r"cancelled: .* was removed"):
            task.write([(("m.csv", 2), ROW("a", "a", path))])
    assert taken == [0.0]


# Real videos.


def shown_times(path) -> list[Fraction]:
    """When each frame is shown, from the packets of the container: nothing is decoded.

    Every one of these files begins both its streams at 0, which is asserted.
    """
    with av.open(os.fspath(path)) as container:
        video = container.streams.video[0]
        assert all(not stream.start_time for stream in container.streams)
        return sorted(
            packet.pts * packet.time_base for packet in container.demux(video) if packet.pts is not None
        )


def test_real_videos_become_clips_with_the_right_frames_at_the_right_times(shared_data, tmp_path):
    files = sorted(shared_data.glob("video/clips/*.mp4"))
    assert len(files) == 33
    rows = [ROW(file.stem, file.stem, os.fspath(file)) for file in files]
    info = make(tmp_path, rows, frames_per_second=1.0, num_workers=2)
    assert (info.num_failures, info.num_clips_without_images) == (0, 0)
    clips = clips_of(tmp_path / "set")
    assert len(clips) == 33
    for file in files:
        clip, shown = clips[file.stem], shown_times(file)
        assert_energies(clip, expected_energies(file))
        assert clip.frame_seconds == pytest.approx(expected_times(shown), abs=1e-4), file.name
        # One a second: as many as seconds begin before the last frame does.
        assert len(clip.frame_jpegs) == int(shown[-1]) + 1
        assert all(tf.io.decode_jpeg(jpeg).shape == (128, 128, 3) for jpeg in clip.frame_jpegs)
    assert info.num_images == sum(len(clip.frame_jpegs) for clip in clips.values())


def test_real_odd_videos_behave_as_described(shared_data, tmp_path):
    names = ("no_audio_stream.mp4", "audio_only.mp4", "one_second.webm")
    rows = [ROW(name, name, os.fspath(shared_data / "video" / "edge" / name)) for name in names]
    info = make(tmp_path, rows, frames_per_second=1.0)
    clips = clips_of(tmp_path / "set")
    assert set(clips) == {"audio_only.mp4", "one_second.webm"}
    assert clips["audio_only.mp4"].frame_jpegs == ()
    assert len(clips["audio_only.mp4"].mel_energy) == pytest.approx(1583, abs=5)
    assert clips["one_second.webm"].frame_seconds == (0.0,)
    assert (info.num_images, info.num_clips_without_images, info.num_failures) == (1, 1, 1)
    (reason,) = failures_of(tmp_path / "set").values()
    assert "no_audio_stream.mp4': has no audio stream (streams found: video)" in reason
