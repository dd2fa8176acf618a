"""Any audio or video file in, mono float32 waveform at one rate out.

Waveform: float32, (samples,), full scale is [-1, 1]. Float files louder than that are kept as they are.
Mono is the mean over channels, taken before resampling (soxr, HQ).
Time 0 is where the file's earliest audio or video stream starts, as in a player, so sound and frames share a
clock. A sound that starts later begins with silence, and a gap in a container's timestamps becomes silence.
A segment is a slice of the whole file's waveform, resampled together with what lies around it. One exception:
after a seek in MP4, the noise that an AAC decoder makes up for noise-like bands is different noise.
Decoders: libsndfile where its sample count can be trusted, FFmpeg (PyAV) for everything else. Of several
audio streams the first is read. Nothing but the named file is opened, whatever a playlist in it says.
A file that ends before its own headers say is an error, not a shorter sound.
"""

import contextlib
import dataclasses
import io
import math
import os
import stat
import struct
import sys
from collections.abc import Iterator
from fractions import Fraction
from typing import BinaryIO

import av
import numpy as np
import soundfile
import soxr
from av.stream import Discard

Path = str | os.PathLike

# Data sets round their segment times to a tenth of a second.
_END_TOLERANCE_SECONDS = 0.1
# Outside these a header is broken, and the resampler's tables grow without bound.
_MIN_SAMPLE_RATE, _MAX_SAMPLE_RATE = 1_000, 1_000_000
# Louder than any sound stored as float, yet the resampler's overshoot cannot overflow float32.
_MAX_AMPLITUDE = 1e30
# Half of soxr's HQ filter is under 128 samples at the lower rate; with 256 segments equal slices to 1e-6.
_CONTEXT_SAMPLES = 256
# Values decoded at a time, all channels together: small, so that errors know their time.
_BLOCK_VALUES = 1 << 14
# Container timestamps stray by their rounding (1 ms in Matroska); a lost codec frame is 20 ms or longer.
_TIMESTAMP_JITTER_SECONDS = 0.015
# Timestamps that jump further ahead, or back, are broken: neither silence nor an overlap to cut.
_MAX_GAP_SECONDS, _MAX_OVERLAP_SECONDS = 60, 1
# Decoded and dropped before a seek's target: codec frames depend on the ones before.
_SEEK_PREROLL_SECONDS = 1
# What libsndfile seeks in to the exact sample; its Vorbis and MP3 seeks land elsewhere.
_EXACT_SEEK_SUBTYPES = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW")
# Besides 0, what FFmpeg, SoX and arecord write for a size that they cannot go back to fill in.
_STREAMED_SIZES = (0x7FFFF000, 0x80000000, 0xFFFFFFFF)
# libsndfile's count for "unknown" is 2**63 - 1.
_MAX_NUM_SAMPLES = 1 << 60
_MAX_OGG_PAGE_BYTES = 65_307


class MediaError(ValueError):
    """Media that cannot be used: which file, what was found, what was expected and what to do."""


@dataclasses.dataclass(frozen=True)
class AudioInfo:
    """What a file's headers say of its sound; where they hold no duration, None or FFmpeg's estimate."""

    sample_rate: int
    num_channels: int
    duration_seconds: float | None
    codec: str


def audio_info(path: Path) -> AudioInfo:
    """Tells the native format of a file's sound without decoding it.

    Raises: MediaError where the file cannot be opened, is truncated or has no sound.
    """
    with _opened(path) as sound:
        return sound.info


def audio_blocks(
    path: Path,
    *,
    sample_rate: int = 16_000,
    start_seconds: float = 0.0,
    end_seconds: float | None = None,
    block_seconds: float = 30.0,
) -> Iterator[np.ndarray]:
    """Yields the segment [start, end) in successive blocks, holding a few of them in memory at most.

    Each block: float32, (round(block_seconds * sample_rate),); the last may be shorter, none is empty. Joined
    they have round-half-up((end - start) * sample_rate) samples, which do not depend on block_seconds.
    end_seconds=None means the end of the file, and so does an end up to 0.1 s past it.

    Raises: ValueError at the call for bad arguments; MediaError, while iterating, for bad media.
    """
    if not (_is_number(start_seconds) and start_seconds >= 0):
        raise ValueError(f"start_seconds must be finite and at least 0, got {start_seconds}.")
    if end_seconds is not None and not (_is_number(end_seconds) and end_seconds > start_seconds):
        raise ValueError(
            f"end_seconds must be finite and greater than start_seconds {start_seconds}, got {end_seconds}; "
            "pass None for the end of the file."
        )
    _check_sample_rate(sample_rate)
    block_samples = _round_half_up(block_seconds * sample_rate) if _is_number(block_seconds) else 0
    if block_samples < 1:
        raise ValueError(f"block_seconds must be finite and hold at least one sample, got {block_seconds}.")
    return _rebatched(_segment(path, sample_rate, start_seconds, end_seconds), block_samples)


def read_audio(
    path: Path, *, sample_rate: int = 16_000, start_seconds: float = 0.0, end_seconds: float | None = None
) -> np.ndarray:
    """Reads the segment [start, end) at once: float32, (samples,). See `audio_blocks`.

    Raises: ValueError for bad arguments, MediaError for bad media.
    """
    blocks = audio_blocks(path, sample_rate=sample_rate, start_seconds=start_seconds, end_seconds=end_seconds)
    return np.concatenate(list(blocks))


def encode_wav(waveform: np.ndarray, sample_rate: int) -> bytes:
    """Encodes a waveform, (samples,), clipped to [-1, 1], as a 16-bit PCM WAV file.

    Raises: ValueError where the waveform is not float, finite and one-dimensional, or the rate is none.
    """
    waveform = np.asarray(waveform)
    _check_sample_rate(sample_rate)
    if waveform.ndim != 1 or waveform.dtype.kind != "f":
        raise ValueError(
            f"waveform must be float, (samples,), got {waveform.dtype}, {waveform.shape}; scale integers to "
            "[-1, 1] and average channels."
        )
    if not np.isfinite(waveform).all():
        raise ValueError("waveform must be finite, got NaN or infinity; check what computed it.")
    pcm = np.clip(np.round(waveform * 32768.0), -32768, 32767).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, pcm, sample_rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def write_wav(path: Path, waveform: np.ndarray, sample_rate: int) -> None:
    """Writes what `encode_wav` encodes to a file.

    Raises: ValueError as `encode_wav`; OSError where the file cannot be written.
    """
    data = encode_wav(waveform, sample_rate)
    with open(path, "wb") as file:
        file.write(data)


def _is_number(value: float) -> bool:
    return isinstance(value, (int, float, np.number)) and math.isfinite(value)


def _check_sample_rate(sample_rate: int) -> None:
    low, high = _MIN_SAMPLE_RATE, _MAX_SAMPLE_RATE
    if not isinstance(sample_rate, (int, np.integer)) or not low <= sample_rate <= high:
        raise ValueError(f"sample_rate must be an integer from {low} to {high} Hz, got {sample_rate!r}.")


def _round_half_up(value: float) -> int:
    return math.floor(value + 0.5)


def _rebatched(chunks: Iterator[np.ndarray], block_samples: int) -> Iterator[np.ndarray]:
    """Cuts the concatenation of chunks into blocks of one length; only the last may be shorter."""
    parts, size = [], 0
    for chunk in chunks:
        while len(chunk):
            part, chunk = chunk[: block_samples - size], chunk[block_samples - size :]
            parts.append(part)
            size += len(part)
            if size == block_samples:
                yield np.concatenate(parts)
                parts, size = [], 0
    if parts:
        yield np.concatenate(parts)


def _bad(path: Path, text: str) -> MediaError:
    # The name's repr, because it may hold newlines or bytes that cannot be printed.
    return MediaError(f"{os.fspath(path)!r}: {text}")


def _segment(
    path: Path, sample_rate: int, start_seconds: float, end_seconds: float | None
) -> Iterator[np.ndarray]:
    """Yields the samples of the segment, in chunks of any length."""
    first = _round_half_up(start_seconds * sample_rate)
    wanted = sys.maxsize
    if end_seconds is not None:
        wanted = max(1, _round_half_up((end_seconds - start_seconds) * sample_rate))
    with _opened(path) as sound:
        if sound.num_samples:
            _check_reaches(path, sound.seconds(sound.num_samples), start_seconds, end_seconds)
        done = 0
        for chunk in _resampled(sound, sample_rate, first, wanted):
            chunk = chunk[: wanted - done]
            done += len(chunk)
            yield chunk
            if done == wanted:
                return
        duration = sound.seconds(sound.position)
        _check_reaches(path, duration, start_seconds if done else duration, end_seconds)
        # 22049 samples at 22050 Hz are one second to whoever made them: rounding costs up to two samples.
        if wanted - done <= 2:
            yield np.zeros(wanted - done, np.float32)


def _check_reaches(path: Path, duration: float, start_seconds: float, end_seconds: float | None) -> None:
    if start_seconds >= duration or (end_seconds or 0.0) > duration + _END_TOLERANCE_SECONDS:
        end = "the end" if end_seconds is None else f"{end_seconds:.3f} s"
        raise _bad(
            path,
            f"segment past the end: asked for {start_seconds:.3f} s to {end}, but the sound lasts "
            f"{duration:.3f} s; correct the times, or pass end_seconds=None for what there is.",
        )


def _resampled(sound: "_Sound", sample_rate: int, first: int, wanted: int) -> Iterator[np.ndarray]:
    """Yields at least `wanted` samples of the waveform at sample_rate, from its sample `first` on."""
    native_rate = sound.info.sample_rate
    if native_rate == sample_rate:
        yield from sound.mono_blocks(first, first + wanted)
        return
    # Resampling begins where both rates have a sample, or the result would lie on another grid.
    common = math.gcd(native_rate, sample_rate)
    native_step, step = native_rate // common, sample_rate // common
    context = math.ceil(_CONTEXT_SAMPLES * max(1, native_rate / sample_rate))
    num_steps = max(0, (first * native_step // step - context) // native_step)
    native_end = (first + wanted) * native_rate // sample_rate + context
    stream = soxr.ResampleStream(native_rate, sample_rate, 1, dtype="float32")
    index = num_steps * step  # of the next sample out of the stream
    for native_block in sound.mono_blocks(num_steps * native_step, native_end):
        block = stream.resample_chunk(native_block)
        yield block[max(0, first - index) :]
        index += len(block)
    total = max(1, (2 * sound.position * sample_rate + native_rate) // (2 * native_rate))
    block = stream.resample_chunk(np.zeros(context, np.float32), last=True)[: max(0, total - index)]
    yield block[max(0, first - index) :]


class _Sound:
    """An opened audio stream. `position` is the native index of the sample after the last one decoded."""

    info: AudioInfo
    num_samples: int | None = None  # None where only decoding tells
    position = 0

    def __init__(self, path: Path):
        self.path = path

    def _decode(self, first: int) -> Iterator[np.ndarray]:
        """Yields float32 (samples, channels) from sample `first` or earlier, where it sets `position`."""
        raise NotImplementedError

    def seconds(self, num_samples: int) -> float:
        return num_samples / self.info.sample_rate

    def mono_blocks(self, first: int, end: int) -> Iterator[np.ndarray]:
        """Yields the native samples [first, end), or up to the end of the file: float32, (samples,)."""
        for block in self._decode(first):
            begin, self.position = self.position, self.position + len(block)
            if first < self.position:
                skipped = max(0, first - begin)
                yield self._mono(block[skipped : end - begin], begin + skipped)
            if self.position >= end:
                return
        if self.position == 0:
            raise _bad(self.path, "holds no samples; expected sound, so make it again or leave it out.")

    def _mono(self, block: np.ndarray, begin: int) -> np.ndarray:
        if not np.abs(block).max(initial=0.0) <= _MAX_AMPLITUDE:  # true for NaN, too
            row, channel = np.argwhere(~(np.abs(block) <= _MAX_AMPLITUDE))[0]
            raise _bad(
                self.path,
                f"the sample at {self.seconds(begin + row):.6f} s is {block[row, channel]:g}; expected "
                f"finite samples of at most {_MAX_AMPLITUDE:g}, so write the file again from its source.",
            )
        return block.mean(axis=1, dtype=np.float64).astype(np.float32)

    def _cut_short(self, reason: str) -> MediaError:
        promised = self.info.duration_seconds
        promise = "" if promised is None else f" of the {promised:.3f} s that its header promises"
        return _bad(
            self.path,
            f"truncated or damaged: found {self.seconds(self.position):.3f} s{promise} ({reason}); "
            "expected all of it: fetch or encode it again, or ask for a segment that ends before.",
        )


class _ForwardSoundFile(soundfile.SoundFile):
    """Leaves out soundfile's seek after each read, which in MP3 lands elsewhere and garbles the sound."""

    def seekable(self) -> bool:
        return False


class _LibsndfileSound(_Sound):
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


class _FfmpegSound(_Sound):
    """The first audio stream of a file that FFmpeg reads."""

    def __init__(self, path: Path, container: "av.container.InputContainer"):
        super().__init__(path)
        if not container.streams.audio:
            found = ", ".join(stream.type for stream in container.streams) or "none"
            raise _bad(path, f"has no audio stream (streams found: {found}); expected a file with sound.")
        self._container = container
        self._stream = stream = container.streams.audio[0]
        codec = stream.codec_context
        if codec is None:
            raise _bad(path, "its audio codec is unknown to FFmpeg; expected a known one: convert it to WAV.")
        starts = [
            other.start_time * other.time_base
            for other in container.streams
            if other.type in ("audio", "video") and other.start_time is not None
        ]
        self._origin = min(starts, default=Fraction(0))  # of our clock, in seconds on the container's
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
            raise _bad(
                self.path,
                f"its sample rate changes from {rate} to {frame.sample_rate} Hz after "
                f"{self.seconds(self.position):.3f} s; expected one rate, so convert it to WAV or FLAC.",
            )
        if frame.pts is None:
            return self.position
        return _round_half_up((frame.pts * frame.time_base - self._origin) * rate)

    def _check_gap(self, gap: int) -> None:
        if not -_MAX_OVERLAP_SECONDS <= self.seconds(gap) <= _MAX_GAP_SECONDS:
            raise _bad(
                self.path,
                f"its timestamps jump by {self.seconds(gap):.3f} s at {self.seconds(self.position):.3f} s; "
                "expected one continuous recording, so convert it to WAV or FLAC.",
            )


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
def _opened(path: Path) -> Iterator[_Sound]:
    """Opens a file, once it is known to be whole, with the first decoder that takes it."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(_open_file(path))
        _check_is_whole(path, file)
        # Both decoders get the file and not its name, from which they would guess formats and protocols.
        try:
            sound_file = stack.enter_context(_ForwardSoundFile(file.fileno(), closefd=False))
            declined = None if _has_known_length(sound_file, file) else "Unknown length."
        except soundfile.LibsndfileError as error:
            declined = error.error_string
        if declined is None:
            sound = _LibsndfileSound(path, sound_file)
        else:
            sound = _FfmpegSound(path, stack.enter_context(_open_container(path, file, declined)))
        rate = sound.info.sample_rate
        if not _MIN_SAMPLE_RATE <= rate <= _MAX_SAMPLE_RATE:
            expected = f"expected {_MIN_SAMPLE_RATE} to {_MAX_SAMPLE_RATE}"
            raise _bad(path, f"its header says {rate} samples a second; {expected}, so write the file again.")
        yield sound


def _open_container(path: Path, file: BinaryIO, declined: str) -> "av.container.InputContainer":
    nameless = open(file.fileno(), "rb", buffering=0, closefd=False)  # noqa: SIM115 (shares the file)
    nameless.seek(0)
    try:
        # A playlist must not open what it names; tags in an old encoding are no reason to refuse a sound.
        return av.open(nameless, options={"protocol_whitelist": "none"}, metadata_errors="ignore")
    except (av.FFmpegError, OSError) as error:
        raise _bad(
            path,
            f"no sound or video that can be read (libsndfile: {declined} FFmpeg: {error.strerror}.); "
            "expected undamaged WAV, FLAC, OGG, MP3, MP4 or the like: fetch or encode it again.",
        ) from error


def _open_file(path: Path) -> BinaryIO:
    try:
        # Opening a pipe would block for ever; and unbuffered, because libsndfile shares the offset.
        is_regular = stat.S_ISREG(os.stat(path).st_mode)
        file = open(path, "rb", buffering=0) if is_regular else None  # noqa: SIM115 (the caller closes it)
    except FileNotFoundError as error:
        raise _bad(path, "no such file; correct the path, or copy a remote file here first.") from error
    except PermissionError as error:
        raise _bad(path, "permission denied; expected a readable file, so change its permissions.") from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise _bad(
            path, f"cannot be opened ({error}); expected a readable file, so correct the path."
        ) from error
    if file is None:
        raise _bad(path, "is a directory or device; expected the path of one audio or video file.")
    return file


def _has_known_length(sound: soundfile.SoundFile, file: BinaryIO) -> bool:
    """Tells whether libsndfile's sample count is the file's own; where it is a guess, reading stops there."""
    if sound.format == "MP3":
        tag = _read_at(file, 0, 10)
        tag_size = 0
        if tag[:3] == b"ID3":
            tag_size = 10 + sum((byte & 0x7F) << 7 * place for place, byte in enumerate(tag[:5:-1]))
        first_frame = _read_at(file, tag_size, 4096)
        return b"Xing" in first_frame or b"Info" in first_frame
    if sound.frames == 0 and sound.format in ("WAV", "WAVEX"):
        # No samples are meant if the size of the whole is there, and a stream if it is not.
        return struct.unpack("<I", _read_at(file, 4, 4))[0] not in (0, *_STREAMED_SIZES)
    return sound.frames <= _MAX_NUM_SAMPLES


def _read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    before = file.tell()
    file.seek(offset)
    data = file.read(size)
    file.seek(before)  # libsndfile reads on from here
    return data


def _check_is_whole(path: Path, file: BinaryIO) -> None:
    """Compares the sizes that a RIFF, AIFF, Ogg, MP4 or Matroska file declares with the file's own.

    Raises: MediaError where it is empty or ends too early. Decoders would play what there is and say nothing.
    """
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise _bad(path, "is an empty file (0 bytes); expected sound, so fetch or encode it again.")
    for part, end in _declared_parts(file, size):
        if end > size:
            raise _bad(
                path,
                f"truncated: its {part} should reach byte {end}, but the file ends at byte {size}; "
                "fetch or encode it again.",
            )


def _declared_parts(file: BinaryIO, size: int) -> Iterator[tuple[str, int]]:
    """Yields each outermost part's name and declared end, read only once the end before is in the file."""
    magic = _read_at(file, 0, 8)
    if magic[:4] in (b"RIFF", b"RIFX", b"RF64", b"FORM"):
        yield from _riff_chunks(file, "<" if magic[:4] in (b"RIFF", b"RF64") else ">")
    elif magic[4:] in (b"ftyp", b"styp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        yield from _mp4_boxes(file)
    elif magic[:4] == b"OggS":
        yield from _last_ogg_page(file, size)
    elif magic[:4] == b"\x1a\x45\xdf\xa3":
        yield from _matroska_segment(file)


def _riff_chunks(file: BinaryIO, byte_order: str) -> Iterator[tuple[str, int]]:
    """Source: Multimedia Programming Interface 1.0 (RIFF), EBU Tech 3306 (RF64), AIFF 1.3."""
    offset, size_of_rf64_data = 12, 0
    while len(header := _read_at(file, offset, 8)) == 8:
        name, size = struct.unpack(byte_order + "4sI", header)
        if name == b"ds64":
            size_of_rf64_data = int.from_bytes(_read_at(file, offset + 16, 8), "little")
        if name == b"data" and size == 0xFFFFFFFF:
            size = size_of_rf64_data
        if size in _STREAMED_SIZES or not name.strip().isalnum():
            return
        yield f"{name.decode('latin-1').strip()} chunk", offset + 8 + size
        if name in (b"data", b"SSND"):
            return  # what follows is not sound
        offset += 8 + size + size % 2


def _mp4_boxes(file: BinaryIO) -> Iterator[tuple[str, int]]:
    """Source: ISO/IEC 14496-12, section 4.2."""
    offset = 0
    while len(header := _read_at(file, offset, 16)) >= 8:
        size, name = struct.unpack(">I4s", header[:8])
        if size == 1:
            size = int.from_bytes(header[8:], "big")
        if size < 8 or not name.isalnum():
            return  # 0 says "to the end of the file"
        yield f"{name.decode('latin-1')} box", offset + size
        offset += size


def _last_ogg_page(file: BinaryIO, size: int) -> Iterator[tuple[str, int]]:
    """Source: RFC 3533, section 6."""
    start = max(0, size - 2 * _MAX_OGG_PAGE_BYTES)
    tail = _read_at(file, start, size - start)
    page = tail[tail.rfind(b"OggS") :]
    end = size - len(page) + 27
    if len(page) >= 27:
        end += page[26] + sum(page[27 : 27 + page[26]])
    yield "last Ogg page", end
    if not page[5] & 4:
        yield "Ogg stream (no page is marked as its end)", size + 1


def _matroska_segment(file: BinaryIO) -> Iterator[tuple[str, int]]:
    """Source: RFC 8794, sections 4 (variable-size integers) and 5 (elements)."""
    header_size, offset = _ebml_size(file, 4)
    segment = offset + header_size
    yield "Matroska header", segment
    if _read_at(file, segment, 4) == b"\x18\x53\x80\x67":
        segment_size, offset = _ebml_size(file, segment + 4)
        yield "Matroska segment", offset + segment_size


def _ebml_size(file: BinaryIO, offset: int) -> tuple[int, int]:
    """The size at an offset, 0 where it is unknown, and the offset after it."""
    data = _read_at(file, offset, 8)
    length = 9 - data[0].bit_length() if data else 9
    if length > len(data):
        return 0, offset
    value_mask = (1 << 7 * length) - 1
    value = int.from_bytes(data[:length], "big") & value_mask
    return (0 if value == value_mask else value), offset + length
