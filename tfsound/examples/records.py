"""Records: what lies in a TFRecord file, byte by byte, and how it gets there.

Serialisation is deterministic, so that equal examples are equal bytes.
"""

import inspect
import os
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from tfsound.examples.sidecar import DatasetError, DatasetInfo

# A tf.data pipeline a file takes 20 times as long. Unwrapped, for it is called deprecated in favour of that.
_iterate = inspect.unwrap(tf.compat.v1.io.tf_record_iterator)
# What a file system says of itself, and not of the file; TensorFlow's own have tried several times by then.
STORE_ERRORS = (
    tf.errors.AbortedError, tf.errors.DeadlineExceededError, tf.errors.PermissionDeniedError,
    tf.errors.UnauthenticatedError, tf.errors.UnavailableError,
)  # fmt: skip


def read_records(path: str) -> Iterator[tuple[int, bytes]]:
    """Yields (byte offset of the payload, payload) of each record of a TFRecord file.

    Raises:
      DatasetError: the file is damaged; the message names it and the last good record.
    """
    offset, count = 0, 0
    try:
        for payload in _iterate(path):
            yield offset + 12, payload  # after the 8-byte length and its 4-byte checksum
            offset += 16 + len(payload)
            count += 1
    except tf.errors.OpError as error:
        said = f"after record {count} ({error.message.splitlines()[0]})"
        if isinstance(error, STORE_ERRORS):
            raise DatasetError(f"{path} cannot be read {said}; try again when the store answers.") from error
        raise DatasetError(f"{path} is damaged {said}; copy it again or make the set again.") from error


def require_undamaged(directory: str, info: DatasetInfo) -> None:
    """Reads every record of a set, checksums included. Raises: DatasetError naming a damaged shard."""
    for shard in info.shards:
        path = os.path.join(directory, shard.name)
        found = sum(1 for _ in read_records(path))
        if found != shard.num_examples:
            raise DatasetError(f"{path} holds {found} records, expected {shard.num_examples}; make it again.")


def serialize(
    fields: dict[str, str | bytes | float | int | tuple[str | bytes, ...] | tuple[float, ...]],
) -> bytes:
    """A `tf.train.Example`: int64 of int, float of float or a tuple of them, bytes of everything else."""
    example = tf.train.Example()
    features = example.features.feature  # filled in place, which costs a third of building from parts
    for name, value in fields.items():
        if isinstance(value, int):
            features[name].int64_list.value.append(value)
        elif isinstance(value, float):
            features[name].float_list.value.append(value)
        elif isinstance(value, tuple) and value and isinstance(value[0], float):
            features[name].float_list.value.extend(value)
        else:
            values = value if isinstance(value, tuple) else (value,)
            encoded = (item.encode() if isinstance(item, str) else item for item in values)
            features[name].bytes_list.value.extend(encoded)
    return example.SerializeToString(deterministic=True)


def encode_mel_energy(energies: np.ndarray) -> bytes:
    """Mel energies, (frames, columns), as little-endian float16.

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


def decode_mel_energy(data: bytes, num_columns: int) -> np.ndarray:
    """The inverse of `encode_mel_energy`: float16, (frames, columns)."""
    return np.frombuffer(data, "<f2").reshape(-1, num_columns)
