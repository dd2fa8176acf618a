"""The reader of streams on 5,000 shards: how well it shuffles, what it holds, restarts, and a slow store.

What is measured of a shuffle is defined in `tests/record_shards.py`. The slow store is `slow_store.cc`, a
file system of TensorFlow that lets every request wait; without a C++ compiler that table is left out.
"""

import os
import pathlib
import resource
import shutil
import subprocess
import tempfile
import time
from unittest import mock

import numpy as np
import tensorflow as tf

from tests import record_shards
from tests.benchmarks.timing import table
from tfsound.examples import streams

BATCH_SIZE, SHUFFLE_BLOCK = 64, 1024
NUM_SHARDS, RECORDS_A_SHARD = 5000, 32
STORE_SHARDS, STORE_RECORDS, RECORD_BYTES, STORE_BATCHES = 48, 64, 37_000, 24
STORE_MILLISECONDS = 50


def stream(paths, counts, first_batch=0):
    return streams.record_batches(
        paths, counts, batch_size=BATCH_SIZE, seed=0, first_batch=first_batch, shuffle_block=SHUFFLE_BLOCK
    ).map(lambda records: records)


def side_by_side(number):
    return mock.patch.multiple(streams, _MIN_SIDE_BY_SIDE=number, _MAX_SIDE_BY_SIDE=number)


def shuffling(folder) -> str:
    rows = []
    for num_shards, per_shard in ((10, 2048), (100, 1024), (1000, 256)):
        counts = [per_shard] * num_shards
        paths = record_shards.write_shards(f"{folder}/{num_shards}", counts)
        num_batches = num_shards * per_shard // BATCH_SIZE
        ideal = num_shards * (1 - (1 - 1 / num_shards) ** BATCH_SIZE)
        for number in sorted({8, streams.num_side_by_side(num_shards)}):
            with side_by_side(number):
                batches = [record_shards.numbers_of(b) for b in stream(paths, counts).take(2 * num_batches)]
            epochs = np.concatenate(batches).reshape(2, -1)
            quality = record_shards.shuffle_quality(epochs[0], counts, BATCH_SIZE)
            between = record_shards.rank_correlation(*(np.argsort(epoch) for epoch in epochs))
            rows.append([
                f"{num_shards:,} of {per_shard:,}", str(number), f"{quality.shards_a_batch:.1f}",
                f"{ideal:.1f}", f"{quality.rank_correlation:+.3f}", f"{between:+.3f}",
                f"{quality.neighbours:.3f}",
            ])  # fmt: skip
    header = [
        "shards of records", "side by side", "shards a batch", "of a perfect shuffle",
        "rank correlation, files and epoch", "of two epochs", "neighbours in a batch",
    ]  # fmt: skip
    return table(header, rows)


def holding_and_restarting(folder) -> str:
    counts = [RECORDS_A_SHARD] * NUM_SHARDS
    paths = record_shards.write_shards(f"{folder}/{NUM_SHARDS}", counts)
    num_batches = sum(counts) // BATCH_SIZE
    list(stream(paths[:2], counts[:2]).take(1))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    num_open = []
    for number, _ in enumerate(stream(paths, counts).take(num_batches)):
        if number % 50 == 0:
            num_open.append(record_shards.num_open(os.path.dirname(paths[0])))
    epoch_seconds = time.perf_counter() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    rows = []
    for part in (0.0, 0.5, 0.99):
        start = time.perf_counter()
        next(iter(stream(paths, counts, int(part * num_batches))))
        rows.append([
            f"{part:.0%}", f"{time.perf_counter() - start:.2f}", f"{epoch_seconds:.1f}",
            str(max(num_open)), f"{grown:.0f}",
        ])  # fmt: skip
    header = [
        "restart at", "seconds to the first batch", "seconds an epoch", "most shards open",
        "memory grown, MB",
    ]  # fmt: skip
    return table(header, rows)


def register_slow_store(folder) -> bool:
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return False
    library, lib = f"{folder}/slow_store.so", tf.sysconfig.get_lib()
    source = pathlib.Path(__file__).with_name("slow_store.cc")
    subprocess.run(
        [compiler, "-std=c++17", "-shared", "-fPIC", f"-I{tf.sysconfig.get_include()}", str(source),
         f"{lib}/libtensorflow_framework.so.2", f"-Wl,-rpath,{lib}", "-o", library],
        check=True,
    )  # fmt: skip
    tf.experimental.register_filesystem_plugin(library)
    return True


def from_a_slow_store(folder) -> str:
    counts = [STORE_RECORDS] * STORE_SHARDS
    local = record_shards.write_shards(f"{folder}/store", counts, num_bytes=RECORD_BYTES)
    rows = []
    settings = {
        "as from a disk": {"_is_on_store": lambda paths: False},
        "larger parts": {"_is_on_store": lambda paths: False, "_BYTES_ON_DISK": streams._BYTES_ON_STORE},
        "more threads": {"_BYTES_ON_STORE": streams._BYTES_ON_DISK},
        "both, as it is": {"_BYTES_ON_STORE": streams._BYTES_ON_STORE},
    }
    for milliseconds in (0, STORE_MILLISECONDS):
        os.environ["SLOW_STORE_MILLISECONDS"] = str(milliseconds)
        for name, values in settings.items():
            with mock.patch.multiple(streams, **values):
                batches = iter(stream([f"slow://{path}" for path in local], counts))
            start = time.perf_counter()
            for _ in range(STORE_BATCHES):
                next(batches)
            seconds = time.perf_counter() - start
            megabytes = STORE_BATCHES * BATCH_SIZE * RECORD_BYTES / 1e6
            rows.append([f"{milliseconds} ms", name, f"{megabytes / seconds:.0f}"])
            del batches
    return table(["each answer takes", "read ahead", "MB a second"], rows)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        print(holding_and_restarting(folder), shuffling(folder), sep="\n\n")
        if register_slow_store(folder):
            print(f"\n{from_a_slow_store(folder)}")


if __name__ == "__main__":
    main()
