"""Clip examples: one clip, or one piece of a long one, as mel energies and, of a video, pictures."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from tfsound import mel
from tfsound.examples.records import decode_mel_energy, encode_mel_energy, read_records, serialize
from tfsound.examples.sidecar import CLIPS, SCHEMA_VERSION, DatasetError, read_dataset_info, require_folds
from tfsound.examples.streams import shard_paths

# Windows that go through a network at a time, and how many numbers they may have, 32 MB, for some are long.
_WINDOWS_PER_CALL = 256
_NUMBERS_PER_CALL = 2**23


@dataclasses.dataclass(frozen=True)
class Clip:
    """One clip example. `mel_energy` is (num_frames, columns); `labels` may be empty.

    Of a video also its pictures: `frame_jpegs`, 128 x 128 x 3 RGB, and when each is shown: `frame_seconds`,
    (pictures,), ascending, from the start of the recording as `start_seconds` is. None for sound alone.
    """

    clip_id: str
    recording_id: str
    start_seconds: float
    labels: tuple[str, ...]
    fold: str
    split: str
    mel_energy: np.ndarray
    frame_jpegs: tuple[bytes, ...] = ()
    frame_seconds: tuple[float, ...] = ()


def encode_clip(clip: Clip) -> bytes:
    """A `tf.train.Example` of a clip; the features of its pictures are absent where there are none.

    Raises: ValueError as `encode_mel_energy` does, and for pictures without a time each or out of order.
    """
    problem = _problem_of_frames(clip)
    if problem:
        raise ValueError(problem)
    fields = {
        "clip_id": clip.clip_id,
        "recording_id": clip.recording_id,
        "start_seconds": float(clip.start_seconds),
        "labels": clip.labels,
        "fold": clip.fold,
        "split": clip.split,
        "num_frames": len(clip.mel_energy),
        "mel_energy": encode_mel_energy(clip.mel_energy),
    }
    if clip.frame_jpegs:
        fields["frame_jpegs"] = clip.frame_jpegs
        fields["frame_seconds"] = tuple(map(float, clip.frame_seconds))
    return serialize(fields)


def decode_clip(record: bytes, num_columns: int) -> Clip:
    """The inverse of `encode_clip`, in NumPy. Raises: DatasetError for anything that is no clip."""
    try:
        feature = tf.train.Example.FromString(record).features.feature
        energies = decode_mel_energy(feature["mel_energy"].bytes_list.value[0], num_columns)
        clip = Clip(
            clip_id=feature["clip_id"].bytes_list.value[0].decode(),
            recording_id=feature["recording_id"].bytes_list.value[0].decode(),
            start_seconds=feature["start_seconds"].float_list.value[0],
            labels=tuple(label.decode() for label in feature["labels"].bytes_list.value),
            fold=feature["fold"].bytes_list.value[0].decode(),
            split=feature["split"].bytes_list.value[0].decode(),
            mel_energy=energies,
            frame_jpegs=tuple(feature["frame_jpegs"].bytes_list.value),
            frame_seconds=tuple(feature["frame_seconds"].float_list.value),
        )
        num_frames = feature["num_frames"].int64_list.value[0]
    except (DecodeError, IndexError, ValueError) as error:
        raise DatasetError(f"a record is no clip example of schema {SCHEMA_VERSION}: {error!r}") from error
    if len(energies) != num_frames:
        raise DatasetError(f"clip {clip.clip_id!r} says {num_frames} frames and holds {len(energies)}.")
    problem = _problem_of_frames(clip)
    if problem:
        raise DatasetError(problem)
    return clip


def _problem_of_frames(clip: Clip) -> str:
    """What is wrong with the pictures of a clip and their times; "" where nothing is."""
    seconds = clip.frame_seconds
    if len(clip.frame_jpegs) != len(seconds):
        return f"clip {clip.clip_id!r} has {len(clip.frame_jpegs)} pictures and {len(seconds)} times."
    if not all(map(math.isfinite, seconds)) or list(seconds) != sorted(seconds):
        return f"clip {clip.clip_id!r} has pictures at {list(seconds)} s; expected ascending times."
    return ""


def clip_windows(clip: Clip, mel_params: mel.MelParams) -> np.ndarray:
    """The log-mel context windows of a clip, without overlap: float32, (windows, context_frames, columns).

    Raises:
      DatasetError: a clip shorter than a window.
    """
    num_windows = mel_params.num_windows(len(clip.mel_energy))
    if not num_windows:
        raise DatasetError(f"clip {clip.clip_id!r} is shorter than a context window; leave it out.")
    energies = clip.mel_energy[: num_windows * mel_params.context_frames]
    return mel.log_mel(energies, mel_params).numpy().reshape(num_windows, *mel_params.window_shape)


def map_windows(
    clips: Iterable[Clip],
    function: Callable[[np.ndarray], np.ndarray],
    mel_params: mel.MelParams,
    *,
    windows_per_call: int = _WINDOWS_PER_CALL,
) -> Iterator[tuple[Clip, np.ndarray]]:
    """Yields each clip with what a function gives for its windows, (windows, ...); clips may be a stream.

    The function is called for several clips at once, and memory is bounded.

    Args:
      function: log-mel windows, float32, (windows, context_frames, columns) -> (windows, ...).
      windows_per_call: about how many; fewer where they are long.

    Raises:
      DatasetError: a clip shorter than a window.
    """
    largest = max(1, min(windows_per_call, _NUMBERS_PER_CALL // math.prod(mel_params.window_shape)))
    held: list[tuple[Clip, np.ndarray]] = []
    num_windows = 0
    for clip in clips:
        windows = clip_windows(clip, mel_params)
        held.append((clip, windows))
        num_windows += len(windows)
        if num_windows >= largest:
            yield from _called(held, function)
            held, num_windows = [], 0
    if held:
        yield from _called(held, function)


def _called(
    held: list[tuple[Clip, np.ndarray]], function: Callable[[np.ndarray], np.ndarray]
) -> Iterator[tuple[Clip, np.ndarray]]:
    """Each clip with its part of what the function gives for the windows of all."""
    clips, windows = zip(*held, strict=True)
    ends = np.cumsum([len(of_clip) for of_clip in windows])
    parts = np.split(np.asarray(function(np.concatenate(windows))), ends[:-1])
    yield from zip(clips, parts, strict=True)


def iter_clips(directory: str, *, folds: tuple[str, ...] = ()) -> Iterator[Clip]:
    """Yields the clips of a set in the order of its shards, of all folds or of those named.

    Raises:
      DatasetError: see `read_dataset_info` and `read_records`; a fold that the set does not have.
    """
    info = read_dataset_info(directory, kind=CLIPS)
    require_folds(info, folds, directory)
    for path in shard_paths([directory], [info]):
        for _, record in read_records(path):
            clip = decode_clip(record, info.mel_params.num_columns)
            if not folds or clip.fold in folds:
                yield clip
