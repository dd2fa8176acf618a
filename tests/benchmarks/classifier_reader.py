"""Labelled windows a second out of the reader against what training `resnet_small` consumes."""

import pathlib
import tempfile
import time

import keras
import tensorflow as tf

from tests.benchmarks.timing import table
from tfsound import datasets, examples, models, networks
from tfsound.beam import examples as examples_job

BATCH_SIZE, NUM_BATCHES = 64, 60


def windows_a_second(batches: tf.data.Dataset) -> float:
    iterator = iter(batches)
    next(iterator)
    start = time.perf_counter()
    for _ in range(NUM_BATCHES):
        next(iterator)
    return BATCH_SIZE * NUM_BATCHES / (time.perf_counter() - start)


def windows_trained_a_second(batches: tf.data.Dataset, num_classes: int, *, freeze: bool) -> float:
    model = models.ClassifierModel(networks.build_encoder("resnet_small"), num_classes, freeze=freeze)
    model.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=False)
    batch = next(iter(batches))
    data = tf.data.Dataset.from_tensors(batch).repeat()  # the same batch again: no reading
    model.fit(data, steps_per_epoch=5, verbose=0)
    start = time.perf_counter()
    model.fit(data, steps_per_epoch=NUM_BATCHES, verbose=0)
    return BATCH_SIZE * NUM_BATCHES / (time.perf_counter() - start)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        manifest = str(folder / "manifest.csv")
        datasets.make_manifest("synthetic", str(folder / "recordings"), manifest, num_recordings=100)
        examples_job.make_examples(manifest, str(folder / "clips"))
        examples.index_labelled_windows(str(folder / "clips"))  # what TensorFlow does once is no part of it
        start = time.perf_counter()
        windows = examples.index_labelled_windows(str(folder / "clips"))
        indexed = windows.num_windows / (time.perf_counter() - start)
        trained = {
            freeze: windows_trained_a_second(
                examples.labelled_window_dataset(windows, batch_size=BATCH_SIZE),
                len(windows.class_names), freeze=freeze,
            )
            for freeze in (False, True)
        }  # fmt: skip
        rows = []
        for class_balance in examples.CLASS_BALANCES:
            read = windows_a_second(
                examples.labelled_window_dataset(windows, batch_size=BATCH_SIZE, class_balance=class_balance)
            )
            rows.append([
                class_balance, f"{indexed:.0f}", f"{read:.0f}", f"{trained[False]:.0f}",
                f"{read / trained[False]:.1f}", f"{trained[True]:.0f}", f"{read / trained[True]:.1f}",
            ])  # fmt: skip
    header = [
        "class balance", "windows indexed a second", "read a second", "trained a second", "read / trained",
        "trained a second, frozen", "read / trained",
    ]  # fmt: skip
    print(table(header, rows))


if __name__ == "__main__":
    main()
