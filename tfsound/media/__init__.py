"""Any audio or video file in, float32 waveform at one rate and RGB frames with their times out.

Waveform: float32, mono (samples,) or stereo (samples, 2), full scale is [-1, 1]. Float files louder than that
are kept as they are. Mono is the mean over channels, taken before resampling (soxr, HQ); as stereo, mono is
twice the same.
Time 0 is where the file's earliest audio or video stream starts, as in a player, so sound and frames share a
clock. A sound that starts later begins with silence, and a gap in a container's timestamps becomes silence.
A segment is a slice of the whole file's waveform, resampled together with what lies around it. One exception:
after a seek in MP4, the noise that an AAC decoder makes up for noise-like bands is different noise.
Decoders: libsndfile where its sample count can be trusted, FFmpeg (PyAV) for everything else. Of several
audio streams the first is read. Nothing but the named file is opened, whatever a playlist in it says.
A file that ends before its own headers say is an error, not a shorter sound.
Frames are the centre squares of the first video stream, taken at a steady rate, each with the true time of
its presentation: `frames.py` says which are taken, `pictures.py` what becomes of one.
"""

import io
import math
import sys
from collections.abc import Iterator

import numpy as np
import soundfile
import soxr

from tfsound.media.decoders import MAX_SAMPLE_RATE, MIN_SAMPLE_RATE, AudioInfo, Sound, opened, round_half_up
from tfsound.media.frames import check_frames_per_second, video_frames
from tfsound.media.integrity import MediaError, NoVideoError, Path, bad
from tfsound.media.pictures import encode_jpeg, read_image
from tfsound.media.segments import check_segment, is_number

__all__ = [
    "AudioInfo",
    "MediaError",
    "NoVideoError",
    "audio_blocks",
    "audio_info",
    "check_frames_per_second",
    "encode_jpeg",
    "encode_wav",
    "read_audio",
    "read_image",
    "video_frames",
    "write_wav",
]

# Data sets round their segment times to a tenth of a second.
_END_TOLERANCE_SECONDS = 0.1
# Half of soxr's HQ filter is under 128 samples at the lower rate; with 256 segments equal slices to 1e-6.
_CONTEXT_SAMPLES = 256


def audio_info(path: Path) -> AudioInfo:
    """Tells the native format of a file's sound without decoding it.

    Raises: MediaError where the file cannot be opened, is truncated or has no sound.
    """
    with opened(path) as sound:
        return sound.info


def audio_blocks(
    path: Path,
    *,
    sample_rate: int = 16_000,
    start_seconds: float = 0.0,
    end_seconds: float | None = None,
    block_seconds: float = 30.0,
    num_channels: int = 1,
) -> Iterator[np.ndarray]:
    """Yields the segment [start, end) in successive blocks, holding a few of them in memory at most.

    Each block: float32, (round(block_seconds * sample_rate),), of two channels (..., 2); the last may be
    shorter, none is empty. Joined they have round-half-up((end - start) * sample_rate) samples, which do not
    depend on block_seconds.
    end_seconds=None means the end of the file, and so does an end up to 0.1 s past it.

    Raises: ValueError at the call for bad arguments; MediaError, while iterating, for bad media.
    """
    check_segment(start_seconds, end_seconds)
    _check_sample_rate(sample_rate)
    block_samples = round_half_up(block_seconds * sample_rate) if is_number(block_seconds) else 0
    if block_samples < 1:
        raise ValueError(f"block_seconds must be finite and hold at least one sample, got {block_seconds}.")
    if num_channels not in (1, 2):
        raise ValueError(f"num_channels must be 1 for mono or 2 for stereo, got {num_channels!r}.")
    segment = _segment(path, sample_rate, start_seconds, end_seconds, num_channels)
    return _rebatched(segment, block_samples)


def read_audio(
    path: Path,
    *,
    sample_rate: int = 16_000,
    start_seconds: float = 0.0,
    end_seconds: float | None = None,
    num_channels: int = 1,
) -> np.ndarray:
    """Reads the segment [start, end) at once: float32, (samples,) or (samples, 2). See `audio_blocks`.

    Raises: ValueError for bad arguments, MediaError for bad media.
    """
    blocks = audio_blocks(
        path, sample_rate=sample_rate, start_seconds=start_seconds, end_seconds=end_seconds,
        num_channels=num_channels,
    )  # fmt: skip
    return np.concatenate(list(blocks))


def encode_wav(waveform: np.ndarray, sample_rate: int) -> bytes:
    """Encodes a waveform, (samples,) or (samples, 2), clipped to [-1, 1], as a 16-bit PCM WAV file.

    Raises: ValueError where the waveform is not float, finite and of such a shape, or the rate is none.
    """
    waveform = np.asarray(waveform)
    _check_sample_rate(sample_rate)
    is_mono_or_stereo = waveform.ndim == 1 or (waveform.ndim == 2 and waveform.shape[1] == 2)
    if not is_mono_or_stereo or waveform.dtype.kind != "f":
        raise ValueError(
            f"waveform must be float, (samples,) or (samples, 2), got {waveform.dtype}, {waveform.shape}; "
            "scale integers to [-1, 1] and average channels."
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


def _check_sample_rate(sample_rate: int) -> None:
    low, high = MIN_SAMPLE_RATE, MAX_SAMPLE_RATE
    if not isinstance(sample_rate, (int, np.integer)) or not low <= sample_rate <= high:
        raise ValueError(f"sample_rate must be an integer from {low} to {high} Hz, got {sample_rate!r}.")


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


def _segment(
    path: Path, sample_rate: int, start_seconds: float, end_seconds: float | None, num_channels: int
) -> Iterator[np.ndarray]:
    """Yields the samples of the segment, in chunks of any length."""
    first = round_half_up(start_seconds * sample_rate)
    wanted = sys.maxsize
    if end_seconds is not None:
        wanted = max(1, round_half_up((end_seconds - start_seconds) * sample_rate))
    with opened(path) as sound:
        if sound.num_samples:
            _check_reaches(path, sound.seconds(sound.num_samples), start_seconds, end_seconds)
        done = 0
        for chunk in _resampled(sound, sample_rate, first, wanted, num_channels):
            chunk = chunk[: wanted - done]
            done += len(chunk)
            yield chunk
            if done == wanted:
                return
        duration = sound.seconds(sound.position)
        _check_reaches(path, duration, start_seconds if done else duration, end_seconds)
        # 22049 samples at 22050 Hz are one second to whoever made them: rounding costs up to two samples.
        if wanted - done <= 2:
            yield _zeros(wanted - done, num_channels)


def _zeros(num_samples: int, num_channels: int) -> np.ndarray:
    return np.zeros(num_samples if num_channels == 1 else (num_samples, num_channels), np.float32)


def _check_reaches(path: Path, duration: float, start_seconds: float, end_seconds: float | None) -> None:
    if start_seconds >= duration or (end_seconds or 0.0) > duration + _END_TOLERANCE_SECONDS:
        end = "the end" if end_seconds is None else f"{end_seconds:.3f} s"
        raise bad(
            path,
            f"segment past the end: asked for {start_seconds:.3f} s to {end}, but the sound lasts "
            f"{duration:.3f} s; correct the times, or pass end_seconds=None for what there is.",
        )


def _resampled(
    sound: Sound, sample_rate: int, first: int, wanted: int, num_channels: int
) -> Iterator[np.ndarray]:
    """Yields at least `wanted` samples of the waveform at sample_rate, from its sample `first` on."""
    native_rate = sound.info.sample_rate
    if native_rate == sample_rate:
        yield from sound.blocks(first, first + wanted, num_channels)
        return
    # Resampling begins where both rates have a sample, or the result would lie on another grid.
    common = math.gcd(native_rate, sample_rate)
    native_step, step = native_rate // common, sample_rate // common
    context = math.ceil(_CONTEXT_SAMPLES * max(1, native_rate / sample_rate))
    num_steps = max(0, (first * native_step // step - context) // native_step)
    native_end = (first + wanted) * native_rate // sample_rate + context
    stream = soxr.ResampleStream(native_rate, sample_rate, num_channels, dtype="float32")
    index = num_steps * step  # of the next sample out of the stream
    for native_block in sound.blocks(num_steps * native_step, native_end, num_channels):
        block = stream.resample_chunk(native_block)
        yield block[max(0, first - index) :]
        index += len(block)
    total = max(1, (2 * sound.position * sample_rate + native_rate) // (2 * native_rate))
    block = stream.resample_chunk(_zeros(context, num_channels), last=True)[: max(0, total - index)]
    yield block[max(0, first - index) :]
