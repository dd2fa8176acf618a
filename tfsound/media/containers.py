"""One container that FFmpeg reads: opened safely, its streams on one clock."""

import contextlib
import itertools
from fractions import Fraction
from typing import BinaryIO

import av

from tfsound.media.integrity import Path, bad

# A stream whose first packet comes after so many others is not the first to start.
_MAX_PACKETS_BEFORE_STREAM = 1000


def open_container(
    path: Path,
    file: BinaryIO,
    *,
    declined: str = "",
    kind: str = "sound or video",
    known: str = "MP4, MKV, WEBM",
) -> "av.container.InputContainer":
    """Opens what FFmpeg takes for a container, or for a picture.

    Args:
      declined: why libsndfile did not take the file, where that was tried.
      kind, known: for the message: what was looked for, and formats that it comes in.

    Raises: MediaError where FFmpeg knows no such format.
    """
    nameless = open(file.fileno(), "rb", buffering=0, closefd=False)  # noqa: SIM115 (shares the file)
    nameless.seek(0)
    try:
        # A playlist must not open what it names; tags in an old encoding are no reason to refuse a file.
        return av.open(nameless, options={"protocol_whitelist": "none"}, metadata_errors="ignore")
    except (av.FFmpegError, OSError) as error:
        tried = f"libsndfile: {declined} " if declined else ""
        raise bad(
            path,
            f"no {kind} that can be read ({tried}FFmpeg: {error.strerror}.); expected undamaged {known} or "
            "the like: fetch or encode it again.",
        ) from error


def clock_origin(path: Path, file: BinaryIO, container: "av.container.InputContainer") -> Fraction:
    """Time 0 of our clock, in seconds on the container's: where its earliest audio or video stream starts.

    Args:
      file: what `container` was opened from; it is left where it was.
    """
    streams = [stream for stream in container.streams if stream.type in ("audio", "video")]
    starts = [stream.start_time * stream.time_base for stream in streams if stream.start_time is not None]
    unknown = {stream.index for stream in streams if stream.start_time is None}
    if unknown:
        starts += _first_times(path, file, unknown)
    return min(starts, default=Fraction(0))


def _first_times(path: Path, file: BinaryIO, indices: set[int]) -> list[Fraction]:
    """The time of the first packet of each of these streams, as far as it has one near the beginning."""
    times: dict[int, Fraction | None] = {}
    offset = file.tell()
    # Whoever decodes it says what is wrong with it, and where.
    with contextlib.suppress(av.FFmpegError, OSError), open_container(path, file) as container:
        for packet in itertools.islice(container.demux(), _MAX_PACKETS_BEFORE_STREAM):
            if packet.size and packet.stream_index in indices:
                first = None if packet.pts is None else packet.pts * packet.time_base
                times.setdefault(packet.stream_index, first)
            if len(times) == len(indices):
                break
    file.seek(offset)
    return [first for first in times.values() if first is not None]
