"""The frames of a video at a steady rate, each with its true presentation time.

Times are seconds on the clock of sound (see `tfsound.media`): 0 is where the earliest stream starts.
The grid is start, start + 1/rate, start + 2/rate, ... before the end. Of the frames that begin at a grid time
or after it, and before the next one, the first is taken, with the time at which it begins: so no frame comes
twice, none lies outside the segment, and a step in which no frame begins (a still scene of variable frame
rate) gives none. Nothing but the frames' presentation times counts: not durations, which containers often
lack, nor counting. A frame up to 1 ms before a grid time counts as on it: containers round their timestamps.
"""

import collections
import contextlib
import dataclasses
import math
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
from av.stream import Discard

from tfsound.media.containers import clock_origin, open_container
from tfsound.media.integrity import MediaError, NoVideoError, Path, bad, check_is_whole, open_file
from tfsound.media.pictures import check_size, prepare_decoder, square_rgb, video_stream
from tfsound.media.segments import check_segment, is_number

_TIMESTAMP_ROUNDING_SECONDS = 1e-3
# Timestamps that jump further back are broken, and not a frame or two out of their order.
_MAX_STEP_BACK_SECONDS = 1.0
_MAX_FRAMES_PER_SECOND = 1000.0
# Codecs whose frames all have the timestamp of their packet and whose packets all hold one frame.
_ONE_FRAME_A_PACKET = ("h264",)
_MAX_STEPS_REMEMBERED = 1000
# Containers that number frames as they are decoded: what FFmpeg calls presentation times there is a guess.
_WITHOUT_PRESENTATION_TIMES = ("avi",)


def video_frames(
    path: Path,
    *,
    frames_per_second: float = 1.0,
    start_seconds: float = 0.0,
    end_seconds: float | None = None,
    size: int = 128,
) -> Iterator[tuple[float, np.ndarray]]:
    """Yields (seconds, frame) of the segment [start, end), one frame in memory at a time.

    Each frame: uint8 RGB, (size, size, 3), by the rule of `tfsound.media.pictures`; seconds rise strictly.
    end_seconds=None means the end of the file. A segment in which no frame begins yields nothing. Frames
    without a presentation time are shown in turn at the times when the container has them decoded, or at the
    frame rate that it declares; a frame that does not come after the one before it is passed over.

    Raises: ValueError at the call for bad arguments; while iterating NoVideoError for a file without a video
      stream (the cover of a sound file is none), MediaError for bad media.
    """
    check_segment(start_seconds, end_seconds)
    check_frames_per_second(frames_per_second)
    check_size(size)
    end_seconds = math.inf if end_seconds is None else float(end_seconds)
    return _frames(path, _Grid(float(frames_per_second), float(start_seconds), end_seconds), size)


def check_frames_per_second(frames_per_second: float) -> None:
    """Raises: ValueError for a rate of frames that is none."""
    if not (is_number(frames_per_second) and 0 < frames_per_second <= _MAX_FRAMES_PER_SECOND):
        raise ValueError(
            f"frames_per_second must be above 0 and at most {_MAX_FRAMES_PER_SECOND:g}, "
            f"got {frames_per_second}."
        )


@dataclasses.dataclass(frozen=True)
class _Grid:
    """The grid times of a segment."""

    rate: float
    start: float
    end: float

    def step(self, seconds: float) -> int | None:
        """The number of the last grid time not after `seconds`; None where that is outside the segment."""
        step = math.floor((seconds - self.start + _TIMESTAMP_ROUNDING_SECONDS) * self.rate)
        is_inside = self.start <= seconds < self.end and self.start + step / self.rate < self.end
        return step if is_inside else None


def _frames(path: Path, grid: _Grid, size: int) -> Iterator[tuple[float, np.ndarray]]:
    last_step = None
    with contextlib.closing(_segment(path, grid)) as shown:
        for seconds, frame, sample_aspect_ratio in shown:
            if seconds >= grid.end:
                return
            step = grid.step(seconds)
            if step not in (None, last_step):
                last_step = step
                yield seconds, square_rgb(path, frame, sample_aspect_ratio, size)


_Shown = Iterator[tuple[float, "av.VideoFrame", Fraction | None]]


def _segment(path: Path, grid: _Grid) -> _Shown:
    """Yields the first frame of each step, among others; few from before, where the container can seek."""
    if grid.start > 0:
        with contextlib.closing(_shown_frames(path, grid, sought=True)) as shown:
            # A seek is trusted only if it lands before the segment: then no frame of it is missing.
            first = next(shown, None)
            if first is not None and first[0] <= grid.start:
                yield first
                yield from shown
                return
    yield from _shown_frames(path, grid, sought=False)


def _shown_frames(path: Path, grid: _Grid, *, sought: bool) -> _Shown:
    """Yields (seconds, frame, sample aspect ratio) in the order of time, from a seek on or the beginning."""
    with open_file(path) as file:
        check_is_whole(path, file)
        with open_container(path, file) as container:
            stream = video_stream(container)
            if stream is None:
                found = ", ".join(other.type for other in container.streams) or "none"
                raise bad(
                    path,
                    f"has no video stream (streams found: {found}); expected a file with moving pictures.",
                    NoVideoError,
                )
            prepare_decoder(path, stream)
            origin = clock_origin(path, file, container)
            yield from _Decoding(path, container, stream, origin, grid).frames(sought=sought)


class _Decoding:
    """One pass over a video stream."""

    def __init__(
        self,
        path: Path,
        container: "av.container.InputContainer",
        stream: "av.video.VideoStream",
        origin: Fraction,
        grid: _Grid,
    ):
        self._path, self._container, self._stream, self._grid = path, container, stream, grid
        self._origin = origin
        self._last: float | None = None  # the time of the last frame
        self._earliest: dict[int, float] = {}  # step -> the earliest time of a packet so far
        self._has_presentation_times = container.format.name not in _WITHOUT_PRESENTATION_TIMES
        self._decoding_times: collections.deque[Fraction] = collections.deque()

    def frames(self, *, sought: bool) -> _Shown:
        for other in self._container.streams:
            if other is not self._stream:
                other.discard = Discard.all
        if sought and not self._seek(self._grid.start):
            return
        for frame in self._decoded(from_key_frame=sought):
            if self._last is None and sought and self._presentation_time(frame) is None:
                return  # only counting from the beginning tells its time
            seconds = self._seconds(frame)
            if self._is_next(seconds):
                self._last = seconds
                yield seconds, frame, self._stream.sample_aspect_ratio

    def _seek(self, seconds: float) -> bool:
        target = int((Fraction(seconds) + self._origin) / self._stream.time_base)
        try:
            self._container.seek(target, stream=self._stream)
        except (av.FFmpegError, OSError, OverflowError):
            return False  # the caller then reads from the beginning
        return True

    def _decoded(self, *, from_key_frame: bool) -> Iterator["av.VideoFrame"]:
        """Yields what decodes. What comes before the first key frame of a cut broadcast is passed over."""
        is_first, early_error = True, None
        codec = self._stream.codec_context
        try:
            for packet in self._container.demux(self._stream):
                if from_key_frame and not packet.is_keyframe:
                    continue
                from_key_frame = False
                if self._presentation_time(packet) is None and packet.dts is not None and packet.size:
                    self._decoding_times.append(packet.dts * packet.time_base)
                # What no other frame needs is not decoded unless it may be taken: a quarter of the time.
                codec.skip_frame = "NONREF" if self._is_needless(packet) else "DEFAULT"
                try:
                    frames = packet.decode()
                except av.InvalidDataError as error:
                    if not is_first:
                        raise
                    early_error = error
                    continue
                for frame in frames:
                    is_first = False
                    yield frame
            if is_first and early_error is not None:
                raise early_error
        except (av.FFmpegError, OSError, ValueError) as error:
            raise self._damaged(str(error)) from error

    def _is_needless(self, packet: "av.Packet") -> bool:
        """Whether a packet's own frame is surely not the first of a step of the grid."""
        seconds = self._presentation_time(packet)
        if self._stream.codec_context.name not in _ONE_FRAME_A_PACKET or seconds is None:
            return False
        step = self._grid.step(seconds)
        if step is None:
            return seconds < self._grid.start
        if self._earliest.get(step, math.inf) < seconds:
            return True
        if len(self._earliest) > _MAX_STEPS_REMEMBERED:
            self._earliest.clear()
        self._earliest[step] = seconds
        return False

    def _presentation_time(self, part: "av.Packet | av.VideoFrame") -> float | None:
        """When a frame, or that of a packet, is shown, as far as the container says."""
        if part.pts is None or not self._has_presentation_times:
            return None
        return float(part.pts * part.time_base - self._origin)

    def _seconds(self, frame: "av.VideoFrame") -> float:
        """When a frame is shown: by its own time, else when its turn to be decoded is, else by the rate."""
        seconds = self._presentation_time(frame)
        if seconds is not None:
            return seconds
        if self._decoding_times:  # one for each frame, which come out in another order
            return float(self._decoding_times.popleft() - self._origin)
        rate = self._stream.average_rate or self._stream.guessed_rate
        if not rate:
            raise bad(
                self._path,
                "its frames have no timestamps, and its header no frame rate; expected either, so convert it "
                "to MP4 or MKV.",
            )
        return 0.0 if self._last is None else self._last + float(1 / rate)

    def _is_next(self, seconds: float) -> bool:
        if self._last is None or seconds > self._last:
            return True
        if seconds < self._last - _MAX_STEP_BACK_SECONDS:
            raise bad(
                self._path,
                f"the timestamps of its frames jump by {seconds - self._last:.3f} s at {self._last:.3f} s; "
                "expected one continuous recording, so convert it to MP4 or MKV.",
            )
        return False

    def _damaged(self, reason: str) -> MediaError:
        where = "before the first frame" if self._last is None else f"after the frame at {self._last:.3f} s"
        return bad(
            self._path,
            f"its video is truncated or damaged {where} ({reason}); fetch or encode it again, or ask for a "
            "segment that ends before.",
        )
