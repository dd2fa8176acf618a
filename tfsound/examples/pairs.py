"""Pair examples: a context window, and another window or a picture that occurs near it.

Source: Jansen et al. 2020, section 3.1.
"""

import dataclasses
import warnings
from collections.abc import Sequence

import tensorflow as tf

from tfsound import mel
from tfsound.examples.records import serialize
from tfsound.examples.sidecar import PAIRS, DatasetError, DatasetInfo
from tfsound.examples.streams import (
    counts_of,
    log_mel_windows,
    read_merged_infos,
    record_batches,
    shard_paths,
)
from tfsound.examples.triplets import WindowRef

AUDIO_AUDIO = "audio_audio"
AUDIO_IMAGE = "audio_image"
MODALITIES = (AUDIO_AUDIO, AUDIO_IMAGE)

IMAGE_SHAPE = (128, 128, 3)


@dataclasses.dataclass(frozen=True, slots=True)
class FrameRef:
    """Which frame: of which clip, and when it is shown in the recording."""

    clip_id: str
    recording_id: str
    seconds: float


def require_modality(modality: str) -> None:
    """Raises: ValueError for what is none of `MODALITIES`."""
    if modality not in MODALITIES:
        raise ValueError(f"modality must be one of {list(MODALITIES)}, got {modality!r}.")


def encode_pair(audio: bytes, audio_ref: WindowRef, other: bytes, other_ref: WindowRef | FrameRef) -> bytes:
    """A `tf.train.Example` of a pair.

    Args:
      audio: mel energies of a window, as `encode_mel_energy` gives them.
      other: those of another window, or, with a `FrameRef`, a JPEG.
    """
    fields = {
        "audio": audio,
        "audio_clip_id": audio_ref.clip_id,
        "audio_recording_id": audio_ref.recording_id,
        "audio_start_seconds": float(audio_ref.start_seconds),
    }
    if isinstance(other_ref, FrameRef):
        role, time = "image", {"image_seconds": float(other_ref.seconds)}
    else:
        role, time = "audio_2", {"audio_2_start_seconds": float(other_ref.start_seconds)}
    ids = {f"{role}_clip_id": other_ref.clip_id, f"{role}_recording_id": other_ref.recording_id}
    return serialize(fields | {role: other} | ids | time)


def decode_images(jpegs: tf.Tensor) -> tf.Tensor:
    """JPEGs, string (batch,) -> RGB in [0, 1], float32 (batch, 128, 128, 3), the same on every machine."""

    def decode(jpeg: tf.Tensor) -> tf.Tensor:
        # The fast transform is not the same everywhere.
        image = tf.io.decode_jpeg(jpeg, channels=3, dct_method="INTEGER_ACCURATE")
        return tf.ensure_shape(image, IMAGE_SHAPE)

    jpegs = tf.convert_to_tensor(jpegs, tf.string)
    images = tf.map_fn(decode, jpegs, fn_output_signature=tf.TensorSpec(IMAGE_SHAPE, tf.uint8))
    # Not divided: a graph makes another product of a quotient, one bit off.
    return tf.cast(images, tf.float32) * (1 / 255)


def parse_pairs(records: tf.Tensor, mel_params: mel.MelParams, modality: str) -> dict[str, tf.Tensor]:
    """Parses a batch of serialised pairs.

    Args:
      records: string, (batch,).
      modality: `audio_audio` or `audio_image`.

    Returns:
      `audio`: log-mel, float32, (batch, context_frames, mel_bins);
      `audio_2`: the same; or `image`: RGB in [0, 1], float32, (batch, 128, 128, 3).

    Raises:
      ValueError: no such modality.
    """
    require_modality(modality)
    other = "audio_2" if modality == AUDIO_AUDIO else "image"
    features = {name: tf.io.FixedLenFeature([], tf.string) for name in ("audio", other)}
    parsed = tf.io.parse_example(records, features)
    decode_other = decode_images if other == "image" else lambda data: log_mel_windows(data, mel_params)
    return {"audio": log_mel_windows(parsed["audio"], mel_params), other: decode_other(parsed[other])}


def read_pair_infos(
    directories: Sequence[str], modality: str, mel_params: mel.MelParams | None = None
) -> tuple[mel.MelParams, int]:
    """Checks that sets of pairs may be trained on together.

    Sets that were made with different gaps may be; a warning tells.

    Returns:
      The mel parameters that they share, and the number of pairs in all.

    Raises:
      DatasetError: a set of the other modality; see also `streams.read_merged_infos`.
      ValueError: no such modality, or sets of different mel parameters.
    """
    mel_params, infos = _read_infos(directories, modality, mel_params)
    return mel_params, sum(info.num_examples for info in infos)


def _read_infos(
    directories: Sequence[str], modality: str, mel_params: mel.MelParams | None
) -> tuple[mel.MelParams, list[DatasetInfo]]:
    require_modality(modality)
    mel_params, infos = read_merged_infos(directories, kind=PAIRS, mel_params=mel_params)
    for directory, info in zip(directories, infos, strict=True):
        found = info.parameters.get("modality")
        if found != modality:
            raise DatasetError(f"{directory} holds pairs of modality {found!r}, expected {modality!r}.")
    gaps = sorted({str(info.parameters.get("max_time_gap_seconds")) for info in infos})
    if len(gaps) > 1:
        warnings.warn(
            f"{modality}: sets of different max_time_gap_seconds are merged: {', '.join(gaps)}.", stacklevel=4
        )
    return mel_params, infos


def pair_dataset(
    directories: Sequence[str],
    *,
    batch_size: int,
    modality: str,
    mel_params: mel.MelParams | None = None,
    seed: int = 0,
    first_batch: int = 0,
    shuffle_block: int = 1024,
) -> tf.data.Dataset:
    """An endless, reproducible stream of batches of pairs, each epoch in another order.

    See `streams.record_batches`: no pair is left out, every batch is full, and the stream can be taken up
    anywhere.

    Args:
      directories: sets of pairs of one modality and the same mel parameters; merging is listing.
      modality: `audio_audio` or `audio_image`.
      first_batch: where to start: the batch that an uninterrupted stream would give next.

    Returns:
      A data set of `parse_pairs` batches.

    Raises:
      DatasetError, ValueError: see `read_pair_infos`; also a batch size below 1.
    """
    mel_params, infos = _read_infos(directories, modality, mel_params)
    batches = record_batches(
        shard_paths(directories, infos),
        counts_of(infos),
        batch_size=batch_size,
        seed=seed,
        first_batch=first_batch,
        shuffle_block=shuffle_block,
    )
    return batches.map(
        lambda records: parse_pairs(records, mel_params, modality), num_parallel_calls=2
    ).prefetch(2)


def coincidence_dataset(
    audio_audio_directories: Sequence[str] = (),
    audio_image_directories: Sequence[str] = (),
    *,
    batch_size: int,
    mel_params: mel.MelParams | None = None,
    seed: int = 0,
    first_batch: int = 0,
    shuffle_block: int = 1024,
) -> tf.data.Dataset:
    """`pair_dataset` of either modality, or of both side by side, a batch of each a step.

    Args:
      batch_size: pairs of each modality.

    Returns:
      A data set of dictionaries with `audio_audio`, `audio_image` or both: a `parse_pairs` batch each.

    Raises:
      DatasetError, ValueError: as `pair_dataset`; no set at all; different mel parameters.
    """
    sets = {AUDIO_AUDIO: audio_audio_directories, AUDIO_IMAGE: audio_image_directories}
    parts = {}
    for modality, directories in sets.items():
        if not directories:
            continue
        mel_params, _ = read_merged_infos(directories, kind=PAIRS, mel_params=mel_params)
        parts[modality] = pair_dataset(
            directories,
            batch_size=batch_size,
            modality=modality,
            mel_params=mel_params,
            seed=seed,
            first_batch=first_batch,
            shuffle_block=shuffle_block,
        )
    if not parts:
        raise DatasetError("no set of pairs was given; name at least one folder of either modality.")
    return tf.data.Dataset.zip(parts)
