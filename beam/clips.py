"""One row of a manifest -> its clip examples, or its windows: the work of a worker of `examples` and `embed`.

A clip that is longer than its pieces may be is cut on window boundaries. Each piece holds the frames of video
that begin from its own start on and before that of the next piece, on the clock of the whole file; the last
piece is taken to be as long as the others, and what is shown later, long after the sound, is left out.
"""

import contextlib
import functools
import os
import tempfile
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from tfsound import datasets, examples, media, mel
from tfsound.beam import stores, worker_notes
from tfsound.beam.output import JobError

# Copied at a time from a store.
_COPIED_BYTES = 1 << 20


@contextlib.contextmanager
def local_copy(uri: str) -> Iterator[str]:
    """A local path to read `uri` from; what is not local is copied to a temporary file."""
    if not stores.is_store(uri):
        yield uri
        return
    with tempfile.NamedTemporaryFile(suffix=os.path.splitext(uri)[1]) as file:
        for data in _read_parts(uri):
            try:
                file.write(data)
                file.flush()
            except OSError as error:
                raise JobError(
                    f"{file.name}, the copy of {uri}, cannot be written ({error}); free some disk, or name a "
                    "folder with more in TMPDIR."
                ) from error
        yield file.name


def _read_parts(uri: str) -> Iterator[bytes]:
    """The bytes of a file of a store. Raises: MediaError where it is not there."""
    try:
        with stores.open_file(uri) as source:
            while data := source.read(_COPIED_BYTES):
                yield data
    except OSError as error:
        raise media.MediaError(f"{uri} cannot be read ({error}); check that it exists.") from error


@contextlib.contextmanager
def _held_to_account(uri: str) -> Iterator[None]:
    """Within, memory is taken for one file: it is rejected where that fails, and the job goes on."""
    with worker_notes.noted(uri):
        try:
            yield
        except (MemoryError, tf.errors.ResourceExhaustedError) as error:
            raise media.MediaError(
                f"{uri!r}: takes more memory than there is ({str(error) or 'none is left'}); expected sound "
                "and pictures of ordinary size: leave it out, or run fewer workers."
            ) from error


def cut_on_windows(
    blocks: Iterator[np.ndarray], mel_params: mel.MelParams, windows_per_piece: int
) -> Iterator[np.ndarray]:
    """Joins and cuts blocks of a waveform so that no context window is cut.

    Each piece holds `windows_per_piece` windows to their last sample; the frames of the last window reach
    a little into the next piece, which repeats those samples. What is left at the end and does not hold a
    window is left out, unless it is all there is.

    Args:
      blocks: float32, (samples,) or (samples, 2) each, in order.
    """
    step = windows_per_piece * mel_params.context_frames * mel_params.hop_samples
    length = mel_params.samples_of(windows_per_piece * mel_params.context_frames)
    held, is_first = None, True
    for block in blocks:
        held = block if held is None else np.concatenate([held, block])
        while len(held) >= length:
            yield held[:length]
            held, is_first = held[step:], False
    if held is not None and (is_first or len(held) >= mel_params.context_samples):
        yield held


@functools.cache
def _mel_energies_function(mel_params: mel.MelParams):
    """Waveform -> mel energies, traced once a process and front end."""

    def mel_energies(samples):
        with tf.device("/CPU:0"):  # the same bytes with a GPU and without
            waveform = samples if mel_params.num_channels == 1 else tf.transpose(samples)
            return mel.mel_energies(mel.pad_to_context(waveform, mel_params), mel_params)

    return tf.function(mel_energies, input_signature=[_samples_spec(mel_params)])


def prepare_mel_energies(mel_params: mel.MelParams) -> None:
    """Does now what a worker does once, with its first clip."""
    shape = (mel_params.context_samples, mel_params.num_channels)[: 1 + (mel_params.num_channels > 1)]
    _mel_energies_function(mel_params)(np.zeros(shape, np.float32))


def prepare_log_mel(mel_params: mel.MelParams) -> None:
    """As `prepare_mel_energies`, for `ClipWindows`."""
    shape = (mel_params.context_samples, mel_params.num_channels)[: 1 + (mel_params.num_channels > 1)]
    _log_mel_windows_function(mel_params)(np.zeros(shape, np.float32))


def _samples_spec(mel_params: mel.MelParams) -> tf.TensorSpec:
    """Samples as `media` gives them: (samples,) or (samples, channels)."""
    shape = [None] if mel_params.num_channels == 1 else [None, mel_params.num_channels]
    return tf.TensorSpec(shape, tf.float32)


@functools.cache
def _log_mel_windows_function(mel_params: mel.MelParams):
    """Waveform -> log-mel windows, (windows, frames, columns), traced once a process and front end."""

    def log_mel_windows(samples):
        with tf.device("/CPU:0"):  # the same bytes with a GPU and without
            waveform = samples if mel_params.num_channels == 1 else tf.transpose(samples)
            return mel.log_mel_windows(waveform, mel_params)

    return tf.function(log_mel_windows, input_signature=[_samples_spec(mel_params)])


class ClipWindows:
    """The log-mel windows of a row of a manifest, a block of the sound at a time.

    Each block: float32, (at most windows_per_block, context_frames, columns). Together they are the windows
    of the whole clip; a clip shorter than a window is padded with silence to one. Iterating raises MediaError
    where the file or segment cannot be used.

    Attributes:
      end_seconds: where the sound that was read ends, in the recording; known when all blocks are read.
    """

    def __init__(self, row: datasets.ManifestRow, mel_params: mel.MelParams, windows_per_block: int):
        self._row, self._mel_params, self._windows_per_block = row, mel_params, windows_per_block
        self.end_seconds = row.start_seconds or 0.0

    def __iter__(self) -> Iterator[np.ndarray]:
        params = self._mel_params
        with _held_to_account(self._row.uri), local_copy(self._row.uri) as path:
            blocks = media.audio_blocks(
                path,
                sample_rate=params.sample_rate,
                start_seconds=self._row.start_seconds or 0.0,
                end_seconds=self._row.end_seconds,
                block_seconds=self._windows_per_block * params.context_seconds,
                num_channels=params.num_channels,
            )
            for piece in cut_on_windows(self._measured(blocks), params, self._windows_per_block):
                yield _log_mel_windows_function(params)(piece).numpy()

    def _measured(self, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Passes blocks on, and keeps where the sound ends."""
        num_samples = 0
        for block in blocks:
            num_samples += len(block)
            yield block
        self.end_seconds = (self._row.start_seconds or 0.0) + num_samples / self._mel_params.sample_rate


def clip_examples(
    row: datasets.ManifestRow,
    mel_params: mel.MelParams,
    windows_per_piece: int,
    *,
    frames_per_second: float = 0.0,
    on_frame: Callable[[], None] = lambda: None,
) -> Iterator[examples.Clip]:
    """Decodes one row of a manifest into its clip examples, one for each piece.

    Args:
      frames_per_second: the rate of frames of video, or of copies of the row's still picture; 0 for none. A
        file without moving pictures gives clips without frames.
      on_frame: called for each frame, so that decoding a long video can be stopped by an error.

    Raises:
      MediaError: the file, segment or picture cannot be used; ValueError: its energies do not fit the schema.
    """
    start = row.start_seconds or 0.0
    piece_seconds = windows_per_piece * mel_params.context_seconds
    with contextlib.ExitStack() as stack:
        stack.enter_context(_held_to_account(row.uri))
        path = stack.enter_context(local_copy(row.uri))
        blocks = media.audio_blocks(
            path,
            sample_rate=mel_params.sample_rate,
            start_seconds=start,
            end_seconds=row.end_seconds,
            block_seconds=piece_seconds,
            num_channels=mel_params.num_channels,
        )
        take_frames = _no_frames
        if frames_per_second and row.image_uri:
            take_frames = _StillPicture(row.image_uri, start, frames_per_second)
        elif frames_per_second:
            frames = media.video_frames(
                path, frames_per_second=frames_per_second, start_seconds=start, end_seconds=row.end_seconds
            )
            take_frames = stack.enter_context(contextlib.closing(_VideoFrames(frames, on_frame)))
        for number, piece in enumerate(cut_on_windows(blocks, mel_params, windows_per_piece)):
            piece_start = start + number * piece_seconds
            sound_end = piece_start + len(piece) / mel_params.sample_rate
            jpegs, seconds = take_frames(piece_start + piece_seconds, sound_end)
            yield examples.Clip(
                clip_id=row.clip_id if number == 0 else f"{row.clip_id}+{number}",
                recording_id=row.recording_id,
                start_seconds=piece_start,
                labels=row.labels,
                fold=row.fold,
                split=row.split,
                mel_energy=_mel_energies_function(mel_params)(piece).numpy(),
                frame_jpegs=jpegs,
                frame_seconds=seconds,
            )


# (JPEGs, their times in seconds), in the order of time.
_Frames = tuple[tuple[bytes, ...], tuple[float, ...]]


def _no_frames(before: float, sound_end: float) -> _Frames:
    return (), ()


class _VideoFrames:
    """The frames of a video, piece after piece."""

    def __init__(self, frames: Iterator[tuple[float, np.ndarray]], on_frame: Callable[[], None]):
        self._frames, self._on_frame = frames, on_frame
        self._ahead: tuple[float, np.ndarray] | None = None  # read, but of a later piece
        self._is_done = False

    def __call__(self, before: float, sound_end: float) -> _Frames:
        """The next frames, those shown earlier than `before`."""
        jpegs, times = [], []
        while not self._is_done:
            self._ahead = self._ahead or self._read()
            if self._ahead is None or self._ahead[0] >= before:
                break
            (seconds, frame), self._ahead = self._ahead, None
            times.append(seconds)
            jpegs.append(media.encode_jpeg(frame))
            self._on_frame()
        return tuple(jpegs), tuple(times)

    def _read(self) -> tuple[float, np.ndarray] | None:
        try:
            frame = next(self._frames, None)
        except media.NoVideoError:
            frame = None
        self._is_done = frame is None
        return frame

    def close(self) -> None:
        self._frames.close()


class _StillPicture:
    """A still picture, repeated at a steady rate for as long as the sound lasts."""

    def __init__(self, uri: str, start: float, frames_per_second: float):
        with _held_to_account(uri), local_copy(uri) as path:
            self._jpeg = media.encode_jpeg(media.read_image(path))
        self._start, self._rate, self._num_done = start, frames_per_second, 0

    def __call__(self, before: float, sound_end: float) -> _Frames:
        """The next copies, at the times of the grid before `before` and the end of the sound."""
        times = []
        while (seconds := self._start + self._num_done / self._rate) < min(before, sound_end):
            times.append(seconds)
            self._num_done += 1
        return (self._jpeg,) * len(times), tuple(times)
