"""The TFRecord contract: schemas of clip and triplet examples, their sidecar, their tf.data readers.

A data set is a folder of TFRecord shards and one `dataset_info.json`, which is written last: a folder
without it is not a data set, whatever else lies in it. Every reader checks the sidecar (schema version,
mel parameters, the shards and their sizes) before the first record is read.

Conventions: mel energies are little-endian float16, (frames, mel_bins): energies, not logs, because the
constraints of the 2018 paper need energies. Times are seconds from the start of the recording.
Strings are UTF-8.
"""

import dataclasses
import json
import math
import os
import typing
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from tfsound import mel

SCHEMA_VERSION = 1
INFO_NAME = "dataset_info.json"
CLIPS = "clips"
TRIPLETS = "triplets"


class DatasetError(ValueError):
    """A folder of examples that is missing, incomplete, damaged or made with other parameters."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """One TFRecord file of a data set: its name in the folder, its records, its bytes."""

    name: str
    num_examples: int
    num_bytes: int


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """The sidecar of a data set.

    `kind` is `CLIPS` or `TRIPLETS`; `folds` and `label_names` are those that occur, sorted;
    `num_windows` counts context windows without overlap; `parameters` are the job's own and `command`
    is what made the set.
    """

    kind: str
    mel_params: mel.MelParams
    shards: tuple[Shard, ...]
    num_windows: int
    label_names: tuple[str, ...] = ()
    folds: tuple[str, ...] = ()
    num_failures: int = 0
    parameters: dict = dataclasses.field(default_factory=dict)
    command: str = ""
    schema_version: int = SCHEMA_VERSION

    @property
    def num_examples(self) -> int:
        return sum(shard.num_examples for shard in self.shards)

    def __str__(self) -> str:
        text = f"{self.num_examples:,} {self.kind} ({self.num_windows:,} windows) in {len(self.shards)} files"
        if self.kind == CLIPS:
            text += f"; {len(self.label_names)} labels, {len(self.folds)} folds, {self.num_failures} rejected"
        return text

    def to_json(self) -> str:
        fields = dataclasses.asdict(self) | {"num_examples": self.num_examples}
        return json.dumps(fields, indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> "DatasetInfo":
        """Raises: DatasetError naming `where` when the text is not a sidecar of this schema."""
        try:
            fields = json.loads(text)
            version = fields["schema_version"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DatasetError(
                f"{where} is not a sidecar of tfsound ({error!r}); make the set again."
            ) from error
        if version != SCHEMA_VERSION:
            raise DatasetError(
                f"{where} has schema version {version!r}, this tfsound reads {SCHEMA_VERSION}; "
                "make the set again with this version."
            )
        try:
            del fields["num_examples"]
            fields["mel_params"] = mel.MelParams.from_dict(fields["mel_params"])
            fields["shards"] = tuple(Shard(**shard) for shard in fields["shards"])
            fields["label_names"] = tuple(fields["label_names"])
            fields["folds"] = tuple(fields["folds"])
            info = cls(**fields)
            for part in (info, info.mel_params, *info.shards):
                _require_types(part)
            info.to_json().encode()  # raises where JSON's escapes make what is no text
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DatasetError(f"{where} lacks or garbles a field: {error}; make the set again.") from error
        return info


def _require_types(record) -> None:
    """Raises: TypeError when a field of a dataclass has another type than it is declared with."""
    for field in dataclasses.fields(record):
        value, expected = getattr(record, field.name), field.type
        if typing.get_origin(expected) is tuple:
            values, expected = value, typing.get_args(expected)[0]
        else:
            values = [value]
        # JSON does not tell 125.0 from 125.
        expected = (int, float) if expected is float else expected
        if not all(isinstance(value, expected) for value in values):
            raise TypeError(f"{field.name} is {value!r}")


def read_dataset_info(directory: str, *, kind: str) -> DatasetInfo:
    """Reads and checks a data set's sidecar.

    Raises:
      DatasetError: no such folder; no sidecar (an interrupted job); another kind or schema version; a
        shard that is missing or has another size than the job wrote.
    """
    path = os.path.join(directory, INFO_NAME)
    if not tf.io.gfile.isdir(directory):
        raise DatasetError(f"{directory} is not a folder; expected a folder of {kind} examples.")
    if not tf.io.gfile.exists(path):
        raise DatasetError(
            f"{directory} holds no {INFO_NAME}: it is not a finished set of {kind} examples. "
            "Run the job that makes it (again)."
        )
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            info = DatasetInfo.from_json(file.read(), path)
    except tf.errors.OpError as error:
        raise DatasetError(f"{path} cannot be read: {error.message}.") from error
    if info.kind != kind:
        raise DatasetError(f"{directory} holds {info.kind} examples, expected {kind}.")
    for shard in info.shards:
        shard_path = os.path.join(directory, shard.name)
        found = tf.io.gfile.stat(shard_path).length if tf.io.gfile.exists(shard_path) else None
        if found != shard.num_bytes:
            state = "is missing" if found is None else f"has {found} bytes"
            raise DatasetError(
                f"{shard_path} {state}, expected {shard.num_bytes} bytes; copy it or make the set again."
            )
    return info


def read_records(path: str) -> Iterator[tuple[int, bytes]]:
    """Yields (byte offset of the payload, payload) of each record of a TFRecord file.

    Raises:
      DatasetError: the file is damaged; the message names it and the last good record.
    """
    offset, count = 0, 0
    try:
        for payload in tf.data.TFRecordDataset(path, buffer_size=1 << 20).as_numpy_iterator():
            yield offset + 12, payload  # after the 8-byte length and its 4-byte checksum
            offset += 16 + len(payload)
            count += 1
    except tf.errors.OpError as error:
        raise DatasetError(
            f"{path} is damaged after record {count} ({error.message.splitlines()[0]}); "
            "copy it again or make the set again."
        ) from error


def require_undamaged(directory: str, info: DatasetInfo) -> None:
    """Reads every record of a set, checksums included. Raises: DatasetError naming a damaged shard."""
    for shard in info.shards:
        path = os.path.join(directory, shard.name)
        found = sum(1 for _ in read_records(path))
        if found != shard.num_examples:
            raise DatasetError(f"{path} holds {found} records, expected {shard.num_examples}; make it again.")


# Encoding. Serialisation is deterministic, so that equal examples are equal bytes.


def _serialize(fields: dict[str, str | bytes | float | int | tuple[str, ...]]) -> bytes:
    """A `tf.train.Example`: int64 of int, float of float, bytes of everything else."""
    example = tf.train.Example()
    features = example.features.feature  # filled in place, which costs a third of building from parts
    for name, value in fields.items():
        if isinstance(value, int):
            features[name].int64_list.value.append(value)
        elif isinstance(value, float):
            features[name].float_list.value.append(value)
        else:
            values = value if isinstance(value, tuple) else (value,)
            encoded = (item.encode() if isinstance(item, str) else item for item in values)
            features[name].bytes_list.value.extend(encoded)
    return example.SerializeToString(deterministic=True)


def encode_mel_energy(energies: np.ndarray) -> bytes:
    """Mel energies, (frames, mel_bins), as little-endian float16.

    Raises:
      ValueError: energies beyond float16 (a waveform far beyond [-1, 1]).
    """
    with np.errstate(over="ignore"):
        half = np.asarray(energies).astype("<f2")
    if not np.isfinite(half).all():
        raise ValueError(
            f"mel energies reach {np.max(energies):.3g}, beyond float16; expected a waveform within [-1, 1]: "
            "scale the recording down."
        )
    return half.tobytes()


def decode_mel_energy(data: bytes, mel_bins: int) -> np.ndarray:
    """The inverse of `encode_mel_energy`: float16, (frames, mel_bins)."""
    return np.frombuffer(data, "<f2").reshape(-1, mel_bins)


@dataclasses.dataclass(frozen=True)
class Clip:
    """One clip example. `mel_energy` is (num_frames, mel_bins); `labels` may be empty."""

    clip_id: str
    recording_id: str
    start_seconds: float
    labels: tuple[str, ...]
    fold: str
    split: str
    mel_energy: np.ndarray


def encode_clip(clip: Clip) -> bytes:
    """A `tf.train.Example` of a clip; raises as `encode_mel_energy` does."""
    return _serialize(
        {
            "clip_id": clip.clip_id,
            "recording_id": clip.recording_id,
            "start_seconds": float(clip.start_seconds),
            "labels": clip.labels,
            "fold": clip.fold,
            "split": clip.split,
            "num_frames": len(clip.mel_energy),
            "mel_energy": encode_mel_energy(clip.mel_energy),
        }
    )


def decode_clip(record: bytes, mel_bins: int) -> Clip:
    """The inverse of `encode_clip`, in NumPy. Raises: DatasetError for anything that is no clip."""
    try:
        feature = tf.train.Example.FromString(record).features.feature
        energies = decode_mel_energy(feature["mel_energy"].bytes_list.value[0], mel_bins)
        clip = Clip(
            clip_id=feature["clip_id"].bytes_list.value[0].decode(),
            recording_id=feature["recording_id"].bytes_list.value[0].decode(),
            start_seconds=feature["start_seconds"].float_list.value[0],
            labels=tuple(label.decode() for label in feature["labels"].bytes_list.value),
            fold=feature["fold"].bytes_list.value[0].decode(),
            split=feature["split"].bytes_list.value[0].decode(),
            mel_energy=energies,
        )
        num_frames = feature["num_frames"].int64_list.value[0]
    except (DecodeError, IndexError, ValueError) as error:
        raise DatasetError(f"a record is no clip example of schema {SCHEMA_VERSION}: {error!r}") from error
    if len(energies) != num_frames:
        raise DatasetError(f"clip {clip.clip_id!r} says {num_frames} frames and holds {len(energies)}.")
    return clip


@dataclasses.dataclass(frozen=True)
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
    return _serialize(fields)


# Reading.


def _shard_paths(directories: list[str], infos: list[DatasetInfo]) -> list[str]:
    return [
        os.path.join(directory, shard.name)
        for directory, info in zip(directories, infos, strict=True)
        for shard in info.shards
        if shard.num_examples
    ]


def _shard_weights(infos: list[DatasetInfo], weights: Sequence[float]) -> list[float]:
    """The weight of each of `_shard_paths`."""
    return [
        weight
        for info, weight in zip(infos, weights, strict=True)
        for shard in info.shards
        if shard.num_examples
    ]


def iter_clips(directory: str, *, folds: tuple[str, ...] = ()) -> Iterator[Clip]:
    """Yields the clips of a set in the order of its shards, of all folds or of those named.

    Raises:
      DatasetError: see `read_dataset_info` and `read_records`; a fold that the set does not have.
    """
    info = read_dataset_info(directory, kind=CLIPS)
    require_folds(info, folds, directory)
    for path in _shard_paths([directory], [info]):
        for _, record in read_records(path):
            clip = decode_clip(record, info.mel_params.mel_bins)
            if not folds or clip.fold in folds:
                yield clip


def require_folds(info: DatasetInfo, folds: tuple[str, ...], where: str) -> None:
    """Raises: DatasetError when a fold is asked for that no clip has."""
    unknown = sorted(set(folds) - set(info.folds))
    if unknown:
        raise DatasetError(f"fold {unknown[0]!r} does not occur in {where}; it has {list(info.folds)}.")


def read_triplet_infos(
    directories: list[str], mel_params: mel.MelParams | None = None
) -> tuple[mel.MelParams, int]:
    """Checks that triplet sets may be trained on together.

    Returns:
      The mel parameters that they share, and the number of triplets in all.

    Raises:
      DatasetError: no set, an empty one; see also `read_dataset_info`.
      ValueError: sets of different mel parameters.
    """
    if not directories:
        raise DatasetError("no set of triplets was given; name at least one folder.")
    infos = [read_dataset_info(directory, kind=TRIPLETS) for directory in directories]
    mel_params = mel_params or infos[0].mel_params
    for directory, info in zip(directories, infos, strict=True):
        mel_params.require_equal(info.mel_params, directory)
        if not info.num_examples:
            raise DatasetError(f"{directory} holds no triplet.")
    return mel_params, sum(info.num_examples for info in infos)


_NO_LABEL, _NO_NEGATIVE_LABEL = -2, -1


def _fingerprint(strings: tf.Tensor) -> tf.Tensor:
    return tf.strings.to_hash_bucket_fast(strings, 2**62)


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
    shape = [-1, mel_params.context_frames, mel_params.mel_bins]
    batch = {
        role: mel.log_mel(
            tf.reshape(tf.io.decode_raw(parsed[role], tf.float16, little_endian=True), shape), mel_params
        )
        for role in roles
    }
    for role in ("anchor", "negative"):
        batch[f"{role}_recording"] = _fingerprint(parsed[f"{role}_recording_id"])
    batch["is_minable"] = tf.cast(parsed["is_minable"], tf.bool)
    no_label = tf.constant(_NO_LABEL, tf.int64)
    batch["anchor_label"] = tf.where(parsed["label"] == "", no_label, _fingerprint(parsed["label"]))
    negative_labels = tf.ragged.map_flat_values(_fingerprint, parsed["negative_labels"])
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

    Every epoch shuffles the shards, reads several at once and shuffles blocks of records, all seeded by
    (seed, epoch). The stream continues over the ends of epochs, so no triplet is left out and every
    batch is full.

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
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    weights = weights or [1.0] * len(directories)
    if len(weights) != len(directories):
        raise ValueError(f"weights must be one a set of triplets, {len(directories)}, got {len(weights)}.")
    if not all(0 <= weight < math.inf for weight in weights) or (directories and not any(weights)):
        raise ValueError(f"weights must be finite and at least 0, not all 0, got {list(weights)}.")
    mel_params, num_triplets = read_triplet_infos(directories, mel_params)
    infos = [read_dataset_info(directory, kind=TRIPLETS) for directory in directories]
    paths = tf.constant(_shard_paths(directories, infos))
    path_weights = tf.constant(_shard_weights(infos, weights), tf.float32)
    first_epoch, records_done = divmod(first_batch * batch_size, num_triplets)

    def weighted_records(path: tf.Tensor, weight: tf.Tensor) -> tf.data.Dataset:
        return tf.data.TFRecordDataset(path).map(lambda record: (record, weight))

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        key = tf.stack([tf.constant(seed, tf.int64), epoch])
        order = tf.random.experimental.stateless_shuffle(tf.range(tf.size(paths)), seed=key)
        shuffled = tf.gather(paths, order), tf.gather(path_weights, order)
        records = tf.data.Dataset.from_tensor_slices(shuffled).interleave(
            weighted_records, cycle_length=8, block_length=1, num_parallel_calls=2, deterministic=True
        )

        def shuffled_block(number: tf.Tensor, block: tuple[tf.Tensor, tf.Tensor]) -> tuple:
            block_key = tf.random.experimental.stateless_fold_in(key, number)
            order = tf.random.experimental.stateless_shuffle(tf.range(tf.size(block[0])), seed=block_key)
            return tuple(tf.gather(part, order) for part in block)

        # Blocks, each shuffled by a key of its own: `Dataset.shuffle` takes no seed that differs by epoch.
        blocks = records.batch(shuffle_block).enumerate().map(shuffled_block, num_parallel_calls=2)
        return blocks.unbatch()

    def parse(records: tf.Tensor, weight: tf.Tensor) -> dict[str, tf.Tensor]:
        return parse_triplets(records, mel_params) | {"weight": weight}

    epochs = tf.data.Dataset.range(first_epoch, tf.int64.max)
    return (
        epochs.flat_map(one_epoch)
        .skip(records_done)
        .batch(batch_size, drop_remainder=True)
        .map(parse, num_parallel_calls=2)
        .prefetch(2)
    )
