"""Bad video: each kind is a MediaError that says what is wrong, or has a defined result."""

import os
import pathlib
import pickle
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from videos import grey_frame, write_video

from tfsound import media

TIMES = [number / 10 for number in range(15)]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """One short video of each kind: its bytes by its suffix."""
    folder = tmp_path_factory.mktemp("good")
    frames = [np.random.default_rng(n).integers(0, 256, (32, 32, 3), np.uint8) for n in range(len(TIMES))]
    for suffix, codec, options in [
        ("mp4", "libx264", {"sound_seconds": 0.3}),
        ("mkv", "mpeg4", {"time_base": Fraction(1, 1000), "sound_seconds": 0.3}),
        ("avi", "mpeg4", {"time_base": Fraction(1, 10)}),
        ("webm", "libvpx-vp9", {}),
        ("ts", "mpeg2video", {"time_base": Fraction(1, 25)}),
        ("mov", "png", {"pix_fmt": "rgb24", "time_base": Fraction(1, 10)}),
        ("ffv1.mkv", "ffv1", {}),
        ("h264", "libx264", {}),
        ("gif", "gif", {"pix_fmt": "rgb8"}),
    ]:
        write_video(folder / f"a.{suffix}", TIMES, codec=codec, frames=frames, rate=10, **options)
    return {file.name[2:]: file.read_bytes() for file in folder.iterdir()}


def frames_of(path, **segment):
    return list(media.video_frames(path, **segment))


def test_sound_alone_is_said_to_have_no_video(tmp_path):
    media.write_wav(tmp_path / "a.wav", np.zeros(16_000), 16_000)
    with pytest.raises(
        media.NoVideoError, match=r"a\.wav': has no video stream \(streams found: audio\); expected"
    ):
        frames_of(tmp_path / "a.wav")
    assert issubclass(media.NoVideoError, media.MediaError)
    with pytest.raises(media.NoVideoError) as caught:
        frames_of(tmp_path / "a.wav", start_seconds=1.0)
    assert type(pickle.loads(pickle.dumps(caught.value))) is media.NoVideoError


def test_what_is_no_video_is_said_to_be_none(tmp_path):
    with pytest.raises(media.MediaError, match=r"gone\.mp4': no such file"):
        frames_of(tmp_path / "gone.mp4")
    with pytest.raises(media.MediaError, match="is a directory or device"):
        frames_of(tmp_path)
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(media.MediaError, match=r"is an empty file \(0 bytes\); expected sound or pictures"):
        frames_of(tmp_path / "a.mp4")
    (tmp_path / "a.mp4").write_text("This is no video.\n" * 100)
    with pytest.raises(
        media.MediaError, match=r"no sound or video that can be read \(FFmpeg: .*MP4, MKV, WEBM"
    ):
        frames_of(tmp_path / "a.mp4")


def test_a_playlist_opens_nothing(tmp_path, good):
    (tmp_path / "b.mp4").write_bytes(good["mp4"])
    (tmp_path / "a.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nb.mp4\n#EXT-X-ENDLIST\n")
    (tmp_path / "a.txt").write_text("ffconcat version 1.0\nfile 'b.mp4'\n")
    for name in ("a.m3u8", "a.txt"):
        with pytest.raises(media.MediaError, match=r"no sound or video|no video stream"):
            frames_of(tmp_path / name)


@pytest.mark.parametrize(
    ("suffix", "message"),
    [
        ("mp4", "truncated: its mdat box should reach"),
        ("mov", "truncated: its mdat box should reach"),
        ("mkv", "truncated: its Matroska segment should reach"),
        ("webm", "truncated: its Matroska segment should reach"),
        ("avi", "truncated: its LIST chunk should reach"),
        ("gif", "truncated: its GIF .no trailer marks its end"),
    ],
)
def test_a_truncated_container_is_reported(tmp_path, good, suffix, message):
    (tmp_path / "a").write_bytes(good[suffix][: int(0.6 * len(good[suffix]))])
    with pytest.raises(media.MediaError, match=message):
        frames_of(tmp_path / "a")


def test_a_truncated_stream_gives_the_frames_that_are_there(tmp_path):
    """Transport streams declare no length: what ends early is a shorter video."""
    write_video(tmp_path / "whole.ts", TIMES, codec="libx264", rate=10)
    whole = (tmp_path / "whole.ts").read_bytes()
    (tmp_path / "part.ts").write_bytes(whole[: len(whole) // 2 // 188 * 188])
    every = [seconds for seconds, _ in frames_of(tmp_path / "whole.ts", frames_per_second=10.0)]
    part = [seconds for seconds, _ in frames_of(tmp_path / "part.ts", frames_per_second=10.0)]
    assert 0 < len(part) < len(every) == 15
    assert part == every[: len(part)]


def test_damage_in_the_middle_is_reported_with_its_time(tmp_path, good):
    content = bytearray(good["mov"])
    # PNG is checked by sums: spoil the data of the tenth picture.
    start = [i for i in range(len(content)) if content[i : i + 4] == b"IDAT"][9]
    content[start + 20 : start + 40] = bytes(20)
    (tmp_path / "a.mov").write_bytes(content)
    with pytest.raises(
        media.MediaError, match=r"its video is truncated or damaged after the frame at 0\.800 s"
    ):
        frames_of(tmp_path / "a.mov")
    assert [seconds for seconds, _ in frames_of(tmp_path / "a.mov", end_seconds=0.5)] == [0.0]
    assert [seconds for seconds, _ in frames_of(tmp_path / "a.mov", start_seconds=1.2)] == [
        pytest.approx(1.2)
    ]


def test_nothing_but_damage_is_reported_too(tmp_path, good):
    content = bytearray(good["mov"])
    for start in [i for i in range(len(content)) if content[i : i + 4] == b"IDAT"]:
        content[start + 20 : start + 40] = bytes(20)
    (tmp_path / "a.mov").write_bytes(content)
    with pytest.raises(media.MediaError, match=r"its video is truncated or damaged before the first frame"):
        frames_of(tmp_path / "a.mov")


def test_one_frame_is_a_video_of_one_frame(tmp_path):
    for name, codec in (("a.mp4", "libx264"), ("a.mkv", "ffv1"), ("a.ts", "libx264")):
        path = write_video(tmp_path / name, [0.0], codec=codec)
        assert [seconds for seconds, _ in frames_of(path)] == [0.0]


def test_a_video_stream_without_frames_gives_none(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(os.fspath(path), "w") as container:
        pictures = container.add_stream("mpeg4", rate=25)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 64, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        pictures.codec_context.open()
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16_000, 0, Fraction(1, 16_000)
        container.mux([*sound.encode(frame), *sound.encode(None)])
    with av.open(os.fspath(path)) as container:
        assert len(container.streams.video) == 1
    assert frames_of(path) == []
    assert frames_of(path, start_seconds=0.5) == []
    assert len(media.read_audio(path)) == 16_000


def test_pictures_that_change_their_size_are_each_squared(tmp_path):
    """Two transport streams in a row, as television sends them."""
    small = write_video(tmp_path / "small.ts", TIMES, codec="mpeg2video", rate=25, time_base=Fraction(1, 25))
    frames = [grey_frame(number, 96, 160) for number in range(len(TIMES))]
    large = write_video(
        tmp_path / "large.ts", [time + 2.0 for time in TIMES], codec="mpeg2video", rate=25,
        time_base=Fraction(1, 25), frames=frames,
    )  # fmt: skip
    (tmp_path / "a.ts").write_bytes(pathlib.Path(small).read_bytes() + pathlib.Path(large).read_bytes())
    found = frames_of(tmp_path / "a.ts")
    assert [round(seconds) for seconds, _ in found] == [0, 1, 2, 3]
    assert {frame.shape for _, frame in found} == {(128, 128, 3)}


def test_a_header_of_huge_pictures_is_refused_before_memory_is_taken(tmp_path):
    path = write_video(
        tmp_path / "a.avi", [0.0], codec="rawvideo", pix_fmt="rgb24", time_base=Fraction(1, 25)
    )
    data = bytearray(pathlib.Path(path).read_bytes())
    header = data.index(b"strf") + 8
    data[header + 4 : header + 12] = (9_000).to_bytes(4, "little") * 2
    (tmp_path / "b.avi").write_bytes(data)
    with pytest.raises(media.MediaError, match="its pictures have 9000 x 9000 pixels; expected at most"):
        frames_of(tmp_path / "b.avi")


def assert_reads_or_refuses(path, **segment):
    try:
        found = frames_of(path, **segment)
    except media.MediaError:
        return
    seconds = [time for time, _ in found]
    assert seconds == sorted(set(seconds))
    assert all(np.isfinite(time) for time in seconds)
    for _, frame in found:
        assert (frame.shape, frame.dtype) == ((16, 16, 3), np.uint8)


FUZZ = settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "webm", "ts", "mov", "ffv1.mkv", "h264", "gif"])
@FUZZ
@given(data=st.data())
def test_damaged_videos_are_read_or_refused(tmp_path, good, suffix, data):
    content = bytearray(good[suffix])
    # Headers are where damage tells: half of the hits are among the first bytes, or the last, as in MP4.
    position = (
        st.integers(0, 299)
        | st.integers(0, len(content) - 1)
        | st.integers(len(content) - 300, len(content) - 1)
    )
    for index, byte in data.draw(st.lists(st.tuples(position, st.integers(0, 255)), max_size=6)):
        content[index] = byte
    length = data.draw(st.just(len(content)) | st.integers(0, len(content)))
    (tmp_path / "a").write_bytes(content[:length])
    start = data.draw(st.sampled_from([0.0, 0.7]))
    assert_reads_or_refuses(tmp_path / "a", size=16, frames_per_second=5.0, start_seconds=start)


MAGIC = [
    b"",
    b"\0\0\0\x18ftypisom",
    b"\x1a\x45\xdf\xa3",
    b"RIFF\0\0\0\0AVI LIST",
    b"G@\0\x10",
    b"\0\0\0\1g",
    b"GIF89a",
]


@FUZZ
@given(magic=st.sampled_from(MAGIC), content=st.binary(max_size=400))
def test_random_bytes_are_read_or_refused(tmp_path, magic, content):
    (tmp_path / "a").write_bytes(magic + content)
    assert_reads_or_refuses(tmp_path / "a", size=16)
