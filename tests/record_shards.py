"""Shards of plain records for tests and benchmarks of streams, and how well a stream shuffles them.

A record is its number: records are numbered from 0 through all shards as they lie. A shuffle is judged by

- shards a batch: how many distinct shards the records of a batch come from, on average;
- rank correlation: of where a record lies and where in the epoch it comes, or of where it comes in two
  epochs; places are ranks already, so it is Pearson's (Spearman 1904). 0 for a good shuffle, 1 for none;
- neighbours: the fraction of records that lie one behind the other in a shard and meet in a batch.
"""

import contextlib
import dataclasses
import os

import numpy as np
import tensorflow as tf


def write_shards(directory, counts, *, num_bytes=0):
    """Shards of so many records each; records are filled up to a size with a stretch of noise."""
    os.makedirs(directory, exist_ok=True)
    noise = np.random.default_rng(0).bytes(num_bytes)
    paths, number = [], 0
    for shard, count in enumerate(counts):
        paths.append(os.path.join(directory, f"shard-{shard:05d}.tfrecord"))
        with tf.io.TFRecordWriter(paths[-1]) as writer:
            for _ in range(count):
                writer.write(b"%d " % number + noise)
                number += 1
    return paths


def numbers_of(batch):
    """The numbers of a batch of records, int64 (batch,)."""
    return np.array([int(record.split(b" ", 1)[0]) for record in batch.numpy()])


def num_open(directory):
    """How many files of a folder this process has open, as Linux tells."""
    targets = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed as we look
            targets.append(os.readlink(f"/proc/self/fd/{name}"))
    return sum(os.path.dirname(target) == os.path.realpath(directory) for target in targets)


@dataclasses.dataclass(frozen=True)
class ShuffleQuality:
    shards_a_batch: float
    rank_correlation: float
    neighbours: float


def _owners(counts):
    return np.repeat(np.arange(len(counts)), counts)


def shuffle_quality(order, counts, batch_size):
    """What an epoch does to records: `order`, int64 (records,), are their numbers as they come."""
    order, owners = np.asarray(order), _owners(counts)
    place = np.argsort(order)  # where each record comes
    batches = [owners[order[start : start + batch_size]] for start in range(0, len(order), batch_size)]
    are_neighbours = owners[1:] == owners[:-1]
    meet = (place[1:] // batch_size == place[:-1] // batch_size)[are_neighbours]
    return ShuffleQuality(
        shards_a_batch=float(np.mean([len(set(batch.tolist())) for batch in batches])),
        rank_correlation=rank_correlation(np.arange(len(order)), place),
        neighbours=float(meet.mean()) if len(meet) else 0.0,
    )


def rank_correlation(ranks, others):
    return float(np.corrcoef(ranks, others)[0, 1])
