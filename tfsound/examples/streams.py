"""Streams of records for training: endless, shuffled, and the same again from any point.

One code for every kind of example; what a record holds is parsed by its own module.
"""

import os
from collections.abc import Callable, Sequence

import tensorflow as tf

from tfsound import mel
from tfsound.examples.sidecar import DatasetError, DatasetInfo, read_dataset_info


def shard_paths(directories: Sequence[str], infos: Sequence[DatasetInfo]) -> list[str]:
    """The shards of several sets that hold anything."""
    return [
        os.path.join(directory, shard.name)
        for directory, info in zip(directories, infos, strict=True)
        for shard in info.shards
        if shard.num_examples
    ]


def of_shards(infos: Sequence[DatasetInfo], values: Sequence[float]) -> list[float]:
    """For each of `shard_paths` the value of its set."""
    return [
        value
        for info, value in zip(infos, values, strict=True)
        for shard in info.shards
        if shard.num_examples
    ]


def read_merged_infos(
    directories: Sequence[str], *, kind: str, mel_params: mel.MelParams | None = None
) -> tuple[mel.MelParams, list[DatasetInfo]]:
    """Checks that sets of one kind may be trained on together.

    Returns:
      The mel parameters that they share, and the sidecar of each.

    Raises:
      DatasetError: no set, an empty one; see also `read_dataset_info`.
      ValueError: sets of different mel parameters.
    """
    if not directories:
        raise DatasetError(f"no set of {kind} was given; name at least one folder.")
    infos = [read_dataset_info(directory, kind=kind) for directory in directories]
    mel_params = mel_params or infos[0].mel_params
    for directory, info in zip(directories, infos, strict=True):
        mel_params.require_equal(info.mel_params, directory)
        if not info.num_examples:
            raise DatasetError(f"{directory} holds no {kind.removesuffix('s')}.")
    return mel_params, infos


def record_batches(
    paths: Sequence[str],
    num_records: int,
    *,
    batch_size: int,
    seed: int,
    first_batch: int,
    shuffle_block: int,
    carried: Sequence[tf.Tensor] = (),
    read: Callable[..., tf.data.Dataset] = lambda path, *carried: tf.data.TFRecordDataset(path).map(
        lambda record: (record, *carried)
    ),
) -> tf.data.Dataset:
    """An endless, reproducible stream of batches of records, each epoch in another order.

    Every epoch shuffles the shards, reads several at once and shuffles blocks of records, all seeded by
    (seed, epoch). The stream continues over the ends of epochs, so no record is left out and every
    batch is full.

    Args:
      paths: TFRecord files, which hold `num_records` together.
      first_batch: where to start: the batch that an uninterrupted stream would give next.
      shuffle_block: records that are shuffled at a time.
      carried: tensors, (paths, ...): what goes with each record of a path.
      read: a path and what it carries -> its records as tuples of as many parts each time.

    Returns:
      A data set of tuples: records, string (batch,), and what was carried, (batch, ...) each; or the parts
      that `read` gives.

    Raises:
      ValueError: a batch size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    sources = tf.constant(list(paths)), *carried
    first_epoch, records_done = divmod(first_batch * batch_size, num_records)

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        key = tf.stack([tf.constant(seed, tf.int64), epoch])
        order = tf.random.experimental.stateless_shuffle(tf.range(len(paths)), seed=key)
        shuffled = tuple(tf.gather(part, order) for part in sources)
        records = tf.data.Dataset.from_tensor_slices(shuffled).interleave(
            read, cycle_length=8, block_length=1, num_parallel_calls=2, deterministic=True
        )

        def shuffled_block(number: tf.Tensor, block: tuple[tf.Tensor, ...]) -> tuple:
            block_key = tf.random.experimental.stateless_fold_in(key, number)
            order = tf.random.experimental.stateless_shuffle(tf.range(tf.size(block[0])), seed=block_key)
            return tuple(tf.gather(part, order) for part in block)

        # Blocks, each shuffled by a key of its own: `Dataset.shuffle` takes no seed that differs by epoch.
        blocks = records.batch(shuffle_block).enumerate().map(shuffled_block, num_parallel_calls=2)
        return blocks.unbatch()

    epochs = tf.data.Dataset.range(first_epoch, tf.int64.max)
    return epochs.flat_map(one_epoch).skip(records_done).batch(batch_size, drop_remainder=True)


def fingerprint(strings: tf.Tensor) -> tf.Tensor:
    """A number for each string, int64: equal where, and (but for one in 2**62) only where, they are."""
    return tf.strings.to_hash_bucket_fast(strings, 2**62)


def log_mel_windows(energies: tf.Tensor, mel_params: mel.MelParams) -> tf.Tensor:
    """Windows as records hold them, string (batch,) -> log-mel, float32 (batch, context_frames, columns)."""
    shape = [-1, *mel_params.window_shape]
    decoded = tf.io.decode_raw(energies, tf.float16, little_endian=True)
    return mel.log_mel(tf.reshape(decoded, shape), mel_params)
