"""One opened audio stream, by libsndfile or by FFmpeg: native samples in order, errors with their time."""

import abc
import contextlib
import dataclasses
import math
import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import BinaryIO

import av
import numpy as np
import soundfile
from av.stream import Discard

from tfsound.media.containers import clock_origin, open_container
from tfsound.media.integrity import (
    STREAMED_SIZES,
    MediaError,
    Path,
    bad,
    check_is_whole,
    open_file,
    read_at,
)

# Outside these a header is broken, and the resampler's tables grow without bound.
MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 1_000, 1_000_000
# Louder than any sound stored as float, yet the resampler's overshoot cannot overflow float32.
_MAX_AMPLITUDE = 1e30
# Values decoded at a time, all channels together: small, so that errors know their time.
_BLOCK_VALUES = 1 << 15
# Container timestamps stray by their rounding (1 ms in Matroska); a lost codec frame is 20 ms or longer.
_TIMESTAMP_JITTER_SECONDS = 0.015
# Timestamps that jump further ahead, or back, are broken: neither silence nor an overlap to cut.
_MAX_GAP_SECONDS, _MAX_OVERLAP_SECONDS = 60, 1
# Decoded and dropped before a seek's target: codec frames depend on the ones before.
_SEEK_PREROLL_SECONDS = 1
# What libsndfile seeks in to the exact sample; its Vorbis and MP3 seeks land elsewhere.
_EXACT_SEEK_SUBTYPES = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW")
# libsndfile's count for "unknown" is 2**63 - 1.
_MAX_NUM_SAMPLES = 1 << 60


def round_half_up(value: float) -> int:
    """The nearest integer; halves go up, unlike `round`."""
    return math.floor(value + 0.5)


@dataclasses.dataclass(frozen=True)
class AudioInfo:
    """What a file's headers say of its sound; where they hold no duration, None or FFmpeg's estimate."""

    sample_rate: int
    num_channels: int
    duration_seconds: float | None
    codec: str


class Sound(abc.ABC):
    """An opened audio stream. `position` is the native index of the sample after the last one decoded."""

    info: AudioInfo
    num_samples: int | None = None  # None where only decoding tells
    position = 0

    def __init__(self, path: Path):
        self.path = path

    @abc.abstractmethod
    def _decode(self, first: int) -> Iterator[np.ndarray]:
        """Yields float32 (samples, channels) from sample `first` or earlier, where it sets `position`."""

    def seconds(self, num_samples: int) -> float:
        return num_samples / self.info.sample_rate

    def blocks(self, first: int, end: int, num_channels: int) -> Iterator[np.ndarray]:
        """Yields the native samples [first, end), or up to the end of the file.

        They are float32, of one channel (samples,), of two (samples, 2).
        """
        for block in self._decode(first):
            begin, self.position = self.position, self.position + len(block)
            if first < self.position:
                skipped = max(0, first - begin)
                block = block[skipped : end - begin]
                self._check_amplitudes(block, begin + skipped)
                yield _mono(block) if num_channels == 1 else self._stereo(block)
            if self.position >= end:
                return
        if self.position == 0:
            raise bad(self.path, "holds no samples; expected sound, so make it again or leave it out.")

    def _check_amplitudes(self, block: np.ndarray, begin: int) -> None:
        if not np.abs(block).max(initial=0.0) <= _MAX_AMPLITUDE:  # true for NaN, too
            row, channel = np.argwhere(~(np.abs(block) <= _MAX_AMPLITUDE))[0]
            raise bad(
                self.path,
                f"the sample at {self.seconds(begin + row):.6f} s is {block[row, channel]:g}; expected "
                f"finite samples of at most {_MAX_AMPLITUDE:g}, so write the file again from its source.",
            )

    def _stereo(self, block: np.ndarray) -> np.ndarray:
        """Left and right, for mono twice the same: (samples, 1 or 2) -> (samples, 2)."""
        if block.shape[1] > 2:
            raise bad(
                self.path,
                f"has {block.shape[1]} channels; expected 1 or 2 for stereo: mix it down, or ask for mono.",
            )
        return np.broadcast_to(block, (len(block), 2))

    def _cut_short(self, reason: str) -> MediaError:
        promised = self.info.duration_seconds
        promise = "" if promised is None else f" of the {promised:.3f} s that its header promises"
        return bad(
            self.path,
            f"truncated or damaged: found {self.seconds(self.position):.3f} s{promise} ({reason}); "
            "expected all of it: fetch or encode it again, or ask for a segment that ends before.",
        )


class _ForwardSoundFile(soundfile.SoundFile):
    """Leaves out soundfile's seek after each read, which in MP3 lands elsewhere and garbles the sound."""

    def seekable(self) -> bool:
        return False


class _LibsndfileSound(Sound):
    """A file that libsndfile reads."""

    def __init__(self, path: Path, sound: soundfile.SoundFile):
        super().__init__(path)
        self._sound = sound
        self.num_samples = sound.frames
        duration = sound.frames / max(1, sound.samplerate)
        self.info = AudioInfo(sound.samplerate, sound.channels, duration, sound.subtype.lower())

    def _decode(self, first: int) -> Iterator[np.ndarray]:
        sound = self._sound
        try:
            if sound.subtype.startswith(_EXACT_SEEK_SUBTYPES):
                self.position = sound.seek(min(first, self.num_samples))
            block_samples = max(1, _BLOCK_VALUES // sound.channels)
            while len(block := sound.read(block_samples, dtype="float32", always_2d=True)):
                yield block
        except (soundfile.SoundFileError, OSError) as error:
            raise self._cut_short(str(error)) from error
        if self.position < self.num_samples:
            raise self._cut_short("no more samples")


class _FfmpegSound(Sound):
    """The first audio stream of a file that FFmpeg reads."""

    def __init__(self, path: Path, file: BinaryIO, container: "av.container.InputContainer"):
        super().__init__(path)
        if not container.streams.audio:
            found = ", ".join(stream.type for stream in container.streams) or "none"
            raise bad(path, f"has no audio stream (streams found: {found}); expected a file with sound.")
        self._container = container
        self._stream = stream = container.streams.audio[0]
        codec = stream.codec_context
        if codec is None:
            raise bad(path, "its audio codec is unknown to FFmpeg; expected a known one: convert it to WAV.")
        self._origin = clock_origin(path, file, container)
        duration = None
        if stream.duration:
            start = self._origin if stream.start_time is None else stream.start_time * stream.time_base
            duration = float(start + stream.duration * stream.time_base - self._origin)
        elif container.duration:
            duration = container.duration / av.time_base
        self.info = AudioInfo(codec.sample_rate, codec.channels, duration, codec.codec.canonical_name)

    def _decode(self, first: int) -> Iterator[np.ndarray]:
        try:
            for other in self._container.streams:
                if other is not self._stream:
                    other.discard = Discard.all
            sought = self._seek_before(first)
            tolerance = 0  # the first frame tells where the sound starts
            for frame in self._container.decode(self._stream):
                begin = self._begin(frame)
                if sought:
                    self.position, sought = min(begin, first), False
                block, gap = _frame_samples(frame), begin - self.position
                if abs(gap) > tolerance:
                    self._check_gap(gap)
                    yield from _silence(gap)
                    block = block[max(0, -gap) :]
                yield block
                tolerance = _TIMESTAMP_JITTER_SECONDS * self.info.sample_rate
        except (av.FFmpegError, OSError) as error:
            raise self._cut_short(str(error)) from error

    def _seek_before(self, first: int) -> bool:
        """Seeks to some way before native sample `first` where timestamps count samples, as in most MP4."""
        rate, stream = self.info.sample_rate, self._stream
        target = first / rate - _SEEK_PREROLL_SECONDS
        exact = "mp4" in self._container.format.name and stream.time_base == Fraction(1, rate)
        # Not near the end: a seek that finds no frame would leave the sound's length unknown.
        if not exact or not 0 < target < (self.info.duration_seconds or 0) - 2 * _SEEK_PREROLL_SECONDS:
            return False
        self._container.seek(int((target + self._origin) * rate), stream=stream)
        self.position = first
        return True

    def _begin(self, frame: "av.AudioFrame") -> int:
        """The native index of the frame's first sample, by its timestamp where it has one."""
        rate = self.info.sample_rate
        if frame.sample_rate != rate:
            raise bad(
                self.path,
                f"its sample rate changes from {rate} to {frame.sample_rate} Hz after "
                f"{self.seconds(self.position):.3f} s; expected one rate, so convert it to WAV or FLAC.",
            )
        if frame.pts is None:
            return self.position
        return round_half_up((frame.pts * frame.time_base - self._origin) * rate)

    def _check_gap(self, gap: int) -> None:
        if not -_MAX_OVERLAP_SECONDS <= self.seconds(gap) <= _MAX_GAP_SECONDS:
            raise bad(
                self.path,
                f"its timestamps jump by {self.seconds(gap):.3f} s at {self.seconds(self.position):.3f} s; "
                "expected one continuous recording, so convert it to WAV or FLAC.",
            )


def _mono(block: np.ndarray) -> np.ndarray:
    """The mean over channels: (samples, channels) -> (samples,)."""
    # Channel by channel: numpy's mean over a short axis costs as much as decoding does.
    total = block[:, 0].astype(np.float64)
    for channel in range(1, block.shape[1]):
        total += block[:, channel]
    return (total / block.shape[1]).astype(np.float32)


def _silence(num_samples: int) -> Iterator[np.ndarray]:
    while num_samples > 0:
        yield np.zeros((min(num_samples, _BLOCK_VALUES), 1), np.float32)
        num_samples -= _BLOCK_VALUES


def _frame_samples(frame: "av.AudioFrame") -> np.ndarray:
    """The samples of a decoded frame: float32, (samples, channels), integers scaled to [-1, 1)."""
    values = frame.to_ndarray()
    values = values.T if frame.format.is_planar else values.reshape(-1, frame.layout.nb_channels)
    if values.dtype.kind != "f":
        full_scale = 2.0 ** (8 * values.dtype.itemsize - 1)
        values = (values - (full_scale if values.dtype.kind == "u" else 0.0)) / full_scale
    with np.errstate(over="ignore"):  # the infinity is reported later, with its time
        return values.astype(np.float32)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Sound]:
    """Opens a file, once it is known to be whole, with the first decoder that takes it."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open_file(path))
        check_is_whole(path, file)
        # Both decoders get the file and not its name, from which they would guess formats and protocols.
        try:
            sound_file = stack.enter_context(_ForwardSoundFile(file.fileno(), closefd=False))
            declined = None if _has_known_length(sound_file, file) else "Unknown length."
        except soundfile.LibsndfileError as error:
            declined = error.error_string
        if declined is None:
            sound = _LibsndfileSound(path, sound_file)
        else:
            container = open_container(path, file, declined=declined, known="WAV, FLAC, OGG, MP3, MP4")
            sound = _FfmpegSound(path, file, stack.enter_context(container))
        rate = sound.info.sample_rate
        if not MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE:
            expected = f"expected {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE}"
            raise bad(path, f"its header says {rate} samples a second; {expected}, so write the file again.")
        yield sound


def _has_known_length(sound: soundfile.SoundFile, file: BinaryIO) -> bool:
    """Tells whether libsndfile's sample count is the file's own; where it is a guess, reading stops there."""
    if sound.format == "MP3":
        tag = read_at(file, 0, 10)
        tag_size = 0
        if tag[:3] == b"ID3":
            tag_size = 10 + sum((byte & 0x7F) << 7 * place for place, byte in enumerate(tag[:5:-1]))
        first_frame = read_at(file, tag_size, 4096)
        return b"Xing" in first_frame or b"Info" in first_frame
    if sound.frames == 0 and sound.format in ("WAV", "WAVEX"):
        # No samples are meant if the size of the whole is there, and a stream if it is not.
        return struct.unpack("<I", read_at(file, 4, 4))[0] not in (0, *STREAMED_SIZES)
    return sound.frames <= _MAX_NUM_SAMPLES
