"""Small videos with known contents and times: every frame is of one level of grey, which tells its number."""

import os
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np


def level(number: int) -> int:
    """The grey of a frame: those of neighbours lie far apart, and lossy codecs keep it to a few levels."""
    return 40 + 37 * number % 160


def grey_frame(number: int, width: int = 64, height: int = 48) -> np.ndarray:
    return np.full((height, width, 3), level(number), np.uint8)


def write_video(
    path,
    times: Sequence[float],
    *,
    codec: str = "mpeg4",
    pix_fmt: str = "yuv420p",
    frames: Sequence[np.ndarray] | None = None,
    frame_format: str = "rgb24",
    time_base: Fraction = Fraction(1, 90_000),
    rate: int = 25,
    options: dict | None = None,
    sound_seconds: float | None = None,
    sound_start: float = 0.0,
    sample_aspect_ratio: Fraction | None = None,
    rotation: tuple[float, bool, bool] | None = None,
    format: str | None = None,
) -> str:
    """Writes a video whose frames begin at `times`, in seconds; with sound where its length is given.

    Args:
      frames: arrays of `frame_format`; by default `grey_frame` of each number.
      rotation: for `set_display_rotation`.
    """
    if frames is None:
        frames = [grey_frame(number) for number in range(len(times))]
    with av.open(os.fspath(path), "w", format=format) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.options, stream.thread_count = pix_fmt, options or {}, 1
        if sample_aspect_ratio:
            stream.codec_context.sample_aspect_ratio = sample_aspect_ratio
        if rotation:
            stream.set_display_rotation(rotation[0], hflip=rotation[1], vflip=rotation[2])
        stream.codec_context.time_base = time_base
        sound = None
        if sound_seconds is not None:
            sound = container.add_stream(
                "pcm_s16le" if _takes_pcm(path) else "libopus", rate=48_000, layout="mono"
            )
        if sound is not None:
            _write_sound(container, sound, sound_seconds, sound_start)
        for seconds, values in zip(times, frames, strict=True):
            frame = av.VideoFrame.from_ndarray(values, format=frame_format)
            frame.pts, frame.time_base = (
                round(Fraction(seconds).limit_denominator(10**6) / time_base),
                time_base,
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return os.fspath(path)


def _takes_pcm(path) -> bool:
    return os.path.splitext(os.fspath(path))[1] in (".mkv", ".avi", ".mov")


def _write_sound(container, stream, seconds: float, start: float) -> None:
    rate, size = 48_000, 960
    stream.codec_context.open()
    converter = av.AudioResampler(stream.codec_context.format, "mono", rate)
    waveform = (0.1 * np.random.default_rng(0).standard_normal(round(seconds * rate))).astype(np.float32)
    for first in range(0, len(waveform), size):
        frame = av.AudioFrame.from_ndarray(waveform[None, first : first + size], format="fltp", layout="mono")
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        for converted in converter.resample(frame):
            converted.pts, converted.time_base = first + round(start * rate), Fraction(1, rate)
            container.mux(stream.encode(converted))
    container.mux(stream.encode(None))


def expected_times(
    shown: Sequence[Fraction], *, rate: float = 1.0, start: float = 0.0, end: float = 1e9
) -> list[float]:
    """The rule of `media.video_frames`, grid time by grid time, in rational numbers.

    Args:
      shown: when each frame of the file is shown, ascending.
    """
    start, end = (Fraction(seconds).limit_denominator(10**6) for seconds in (start, end))
    step = 1 / Fraction(rate).limit_denominator(10**6)
    rounding = Fraction(1, 1000)
    taken = []
    grid_time = start
    while grid_time < end and grid_time <= shown[-1] + rounding:
        candidates = [
            seconds
            for seconds in shown
            if grid_time - rounding <= seconds < grid_time + step - rounding and start <= seconds < end
        ]
        taken += candidates[:1]
        grid_time += step
    return [float(seconds) for seconds in taken]
