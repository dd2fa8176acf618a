"""Streams of records for training: endless, shuffled, and the same again from any point.

One code for every kind of example; what a record holds is parsed by its own module.

An epoch takes the shards in an order of its own, reads some of them side by side, a record of each in turn,
and shuffles what comes block by block. So a batch draws from as many shards as are read side by side, however
many there are, and so many files are open, with as many more that are opened ahead.
"""

import os
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tfsound import mel
from tfsound.examples.interleaving import shards_left
from tfsound.examples.sidecar import DatasetError, DatasetInfo, read_dataset_info

# Of the shards a quarter is read side by side: were it all, every epoch would begin with the beginnings of
# all. Not fewer than what keeps two threads busy, nor more than what a batch of 64 can tell apart.
_MIN_SIDE_BY_SIDE, _MAX_SIDE_BY_SIDE = 8, 32
_THREADS_ON_DISK = 2
# How much is read of a file at a time: on a store each read waits for an answer first.
_BYTES_ON_DISK, _BYTES_ON_STORE = 1 << 18, 1 << 21


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


def counts_of(infos: Sequence[DatasetInfo]) -> list[int]:
    """For each of `shard_paths` how many examples it holds."""
    return [shard.num_examples for info in infos for shard in info.shards if shard.num_examples]


def num_side_by_side(num_shards: int) -> int:
    """How many of so many shards are read side by side."""
    return min(max(num_shards // 4, _MIN_SIDE_BY_SIDE), _MAX_SIDE_BY_SIDE)


def open_shards(paths: Sequence[str]) -> Callable[[tf.Tensor], tf.data.Dataset]:
    """A function of one of these paths that gives its records; from a store larger parts are read at once."""
    buffer_size = _BYTES_ON_STORE if _is_on_store(paths) else _BYTES_ON_DISK
    return lambda path: tf.data.TFRecordDataset(path, buffer_size=buffer_size)


def _is_on_store(paths: Sequence[str]) -> bool:
    return any("://" in path for path in paths)


def record_batches(
    paths: Sequence[str],
    counts: Sequence[int],
    *,
    batch_size: int,
    seed: int,
    first_batch: int,
    shuffle_block: int,
    carried: Sequence[tf.Tensor] = (),
    read: Callable[..., tf.data.Dataset] | None = None,
) -> tf.data.Dataset:
    """An endless, reproducible stream of batches of records, each epoch in another order.

    Every epoch shuffles the shards, reads several at once and shuffles blocks of records, all seeded by
    (seed, epoch). The stream continues over the ends of epochs, so no record is left out and every
    batch is full. Taken up in the middle of an epoch it opens no shard that is read already.

    Replicas share each batch: every record comes once an epoch over all of them, however many shards there
    are. So it is with several input workers, each of which takes every n-th batch; TensorFlow would
    rather give each its own files, and with them unequal epochs.

    Args:
      paths: TFRecord files.
      counts: (paths,), how many records each holds, or `read` gives of it; at least 1.
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
    epochs = _Epochs(
        paths, counts, carried=carried, read=read or _reader(paths), seed=seed, shuffle_block=shuffle_block
    )
    first_epoch, num_done = divmod(first_batch * batch_size, sum(counts))
    later_epochs = tf.data.Dataset.range(first_epoch + 1, tf.int64.max).flat_map(epochs.whole)
    records = epochs.rest(first_epoch, num_done).concatenate(later_epochs)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return records.batch(batch_size, drop_remainder=True).with_options(options)


def _reader(paths: Sequence[str]) -> Callable[..., tf.data.Dataset]:
    """Gives each record of a path with what the path carries."""
    open_shard = open_shards(paths)

    def read(path: tf.Tensor, *carried: tf.Tensor) -> tf.data.Dataset:
        return open_shard(path).map(lambda record: (record, *carried))

    return read


class _Epochs:
    """The records of an epoch in its order, from its start or from within."""

    def __init__(self, paths, counts, *, carried, read, seed, shuffle_block):
        self._sources = (tf.constant(list(paths)), *carried)
        self._counts, self._read = np.asarray(counts), read
        self._seed, self._shuffle_block = seed, shuffle_block
        self._num_side_by_side = num_side_by_side(len(paths))
        self._num_threads = self._num_side_by_side if _is_on_store(paths) else _THREADS_ON_DISK

    def whole(self, epoch: tf.Tensor) -> tf.data.Dataset:
        key, order = self._shuffled_shards(epoch)
        shards = tf.data.Dataset.from_tensor_slices(tuple(tf.gather(part, order) for part in self._sources))
        return self._shuffled_records(shards, self._read, key, 0)

    def rest(self, epoch: int, num_done: int) -> tf.data.Dataset:
        """What is left of an epoch after so many records; what is read already is not opened again."""
        key, order = self._shuffled_shards(tf.constant(epoch, tf.int64))
        order = order.numpy()
        first_block, num_done_of_block = divmod(num_done, self._shuffle_block)
        left = shards_left(self._counts[order], self._num_side_by_side, first_block * self._shuffle_block)
        places = order[left.shards]
        has_more = left.num_read < self._counts[places]
        sources = tuple(tf.gather(part, places) for part in self._sources)

        def read_on(has_more: tf.Tensor, num_read: tf.Tensor, *source: tf.Tensor) -> tf.data.Dataset:
            return tf.data.Dataset.from_tensors(source).take(has_more).flat_map(self._read).skip(num_read)

        shards = tf.data.Dataset.from_tensor_slices((has_more.astype(np.int64), left.num_read, *sources))
        return self._shuffled_records(shards, read_on, key, first_block).skip(num_done_of_block)

    def _shuffled_shards(self, epoch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The key of an epoch, and the order of its shards."""
        key = tf.stack([tf.constant(self._seed, tf.int64), epoch])
        return key, tf.random.experimental.stateless_shuffle(tf.range(len(self._counts)), seed=key)

    def _shuffled_records(
        self, shards: tf.data.Dataset, read: Callable[..., tf.data.Dataset], key: tf.Tensor, first_block: int
    ) -> tf.data.Dataset:
        """Reads shards side by side, from a block of the epoch on."""
        records = shards.interleave(
            read, cycle_length=self._num_side_by_side, block_length=1,
            num_parallel_calls=self._num_threads, deterministic=True,
        )  # fmt: skip

        def shuffled_block(number: tf.Tensor, block: tuple[tf.Tensor, ...]) -> tuple:
            block_key = tf.random.experimental.stateless_fold_in(key, number)
            order = tf.random.experimental.stateless_shuffle(tf.range(tf.size(block[0])), seed=block_key)
            return tuple(tf.gather(part, order) for part in block)

        # Blocks, each shuffled by a key of its own: `Dataset.shuffle` takes no seed that differs by epoch.
        blocks = records.batch(self._shuffle_block).enumerate(first_block)
        return blocks.map(shuffled_block, num_parallel_calls=2).unbatch()


def fingerprint(strings: tf.Tensor) -> tf.Tensor:
    """A number for each string, int64: equal where, and (but for one in 2**62) only where, they are."""
    return tf.strings.to_hash_bucket_fast(strings, 2**62)


def log_mel_windows(energies: tf.Tensor, mel_params: mel.MelParams) -> tf.Tensor:
    """Windows as records hold them, string (batch,) -> log-mel, float32 (batch, context_frames, columns)."""
    shape = [-1, *mel_params.window_shape]
    decoded = tf.io.decode_raw(energies, tf.float16, little_endian=True)
    return mel.log_mel(tf.reshape(decoded, shape), mel_params)
