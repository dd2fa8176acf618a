"""Triplet examples: anchor, positive, negative."""

import dataclasses
import math
from collections.abc import Sequence

import tensorflow as tf

from tfsound import mel
from tfsound.examples.records import serialize
from tfsound.examples.sidecar import TRIPLETS
from tfsound.examples.streams import (
    counts_of,
    fingerprint,
    log_mel_windows,
    of_shards,
    read_merged_infos,
    record_batches,
    shard_paths,
)


@dataclasses.dataclass(frozen=True, slots=True)
class WindowRef:
    """Which context window: of which clip, and when it starts in the recording."""

    clip_id: str
    recording_id: str
    start_seconds: float


def encode_triplet(
    windows: tuple[bytes, bytes, bytes],
    refs: tuple[WindowRef, WindowRef, WindowRef],
    constraint: str,
    *,
    is_minable: bool = True,
    label: str = "",
    negative_labels: tuple[str, ...] = (),
) -> bytes:
    """A `tf.train.Example` of anchor, positive, negative.

    Args:
      windows: mel energies of each, as `encode_mel_energy` gives them.
      refs: where each comes from. The recordings let a batch tell which of its negatives may serve
        which anchor.
      constraint: the semantic constraint that vouches for it, such as `proximity`.
      is_minable: whether another negative may take the place of its own.
      label: what anchor and positive share under explicit labels.
      negative_labels: what the negative is labelled with; it serves no anchor whose `label` is among them.
    """
    fields = {
        "constraint": constraint,
        "is_minable": int(is_minable),
        "label": label,
        "negative_labels": negative_labels,
    }
    for role, window, ref in zip(("anchor", "positive", "negative"), windows, refs, strict=True):
        fields[role] = window
        fields[f"{role}_clip_id"] = ref.clip_id
        fields[f"{role}_recording_id"] = ref.recording_id
        fields[f"{role}_start_seconds"] = float(ref.start_seconds)
    return serialize(fields)


def read_triplet_infos(
    directories: list[str], mel_params: mel.MelParams | None = None
) -> tuple[mel.MelParams, int]:
    """Checks that triplet sets may be trained on together.

    Returns:
      The mel parameters that they share, and the number of triplets in all.

    Raises:
      DatasetError, ValueError: see `streams.read_merged_infos`.
    """
    mel_params, infos = read_merged_infos(directories, kind=TRIPLETS, mel_params=mel_params)
    return mel_params, sum(info.num_examples for info in infos)


_NO_LABEL, _NO_NEGATIVE_LABEL = -2, -1


def parse_triplets(records: tf.Tensor, mel_params: mel.MelParams) -> dict[str, tf.Tensor]:
    """Parses a batch of serialised triplets.

    Args:
      records: string, (batch,).

    Returns:
      `anchor`, `positive`, `negative`: log-mel, float32, (batch, context_frames, mel_bins);
      `anchor_recording`, `negative_recording`: int64, (batch,), fingerprints of the recording ids;
      `is_minable`: bool, (batch,);
      `anchor_label`: int64, (batch,), the fingerprint of what anchor and positive share, -2 for nothing;
      `negative_labels`: int64, (batch, n), fingerprints of the negative's labels, padded with -1.
    """
    roles = ("anchor", "positive", "negative")
    strings = (*roles, "anchor_recording_id", "negative_recording_id", "label")
    features = {name: tf.io.FixedLenFeature([], tf.string) for name in strings}
    features["is_minable"] = tf.io.FixedLenFeature([], tf.int64)
    features["negative_labels"] = tf.io.RaggedFeature(tf.string)
    parsed = tf.io.parse_example(records, features)
    batch = {role: log_mel_windows(parsed[role], mel_params) for role in roles}
    for role in ("anchor", "negative"):
        batch[f"{role}_recording"] = fingerprint(parsed[f"{role}_recording_id"])
    batch["is_minable"] = tf.cast(parsed["is_minable"], tf.bool)
    no_label = tf.constant(_NO_LABEL, tf.int64)
    batch["anchor_label"] = tf.where(parsed["label"] == "", no_label, fingerprint(parsed["label"]))
    negative_labels = tf.ragged.map_flat_values(fingerprint, parsed["negative_labels"])
    batch["negative_labels"] = negative_labels.to_tensor(tf.constant(_NO_NEGATIVE_LABEL, tf.int64))
    return batch


def triplet_dataset(
    directories: list[str],
    *,
    batch_size: int,
    mel_params: mel.MelParams | None = None,
    weights: Sequence[float] = (),
    seed: int = 0,
    first_batch: int = 0,
    shuffle_block: int = 1024,
) -> tf.data.Dataset:
    """An endless, reproducible stream of triplet batches, each epoch in another order.

    See `streams.record_batches`: no triplet is left out, every batch is full, and the stream can be
    taken up anywhere.

    Args:
      directories: triplet sets of the same mel parameters; merging is listing.
      weights: one a set, for the loss; 1 each without.
      first_batch: where to start: the batch that an uninterrupted stream would give next.

    Returns:
      A data set of `parse_triplets` batches, with `weight`: float32, (batch,), that of each triplet's set.

    Raises:
      DatasetError, ValueError: see `read_triplet_infos`; also a batch size below 1, a number of weights that
        is not that of the sets, or a weight that is negative or no number.
    """
    weights = weights or [1.0] * len(directories)
    if len(weights) != len(directories):
        raise ValueError(f"weights must be one a set of triplets, {len(directories)}, got {len(weights)}.")
    if not all(0 <= weight < math.inf for weight in weights) or (directories and not any(weights)):
        raise ValueError(f"weights must be finite and at least 0, not all 0, got {list(weights)}.")
    mel_params, infos = read_merged_infos(directories, kind=TRIPLETS, mel_params=mel_params)
    batches = record_batches(
        shard_paths(directories, infos),
        counts_of(infos),
        batch_size=batch_size,
        seed=seed,
        first_batch=first_batch,
        shuffle_block=shuffle_block,
        carried=(tf.constant(of_shards(infos, weights), tf.float32),),
    )

    def parse(records: tf.Tensor, weight: tf.Tensor) -> dict[str, tf.Tensor]:
        return parse_triplets(records, mel_params) | {"weight": weight}

    return batches.map(parse, num_parallel_calls=2).prefetch(2)
