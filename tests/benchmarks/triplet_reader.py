"""Windows a second out of the tf.data reader against what training `resnet_small` consumes."""

import pathlib
import tempfile
import time

import keras

from tests.benchmarks.timing import table
from tfsound import datasets, examples, models, networks
from tfsound.beam import examples as examples_job
from tfsound.beam import triplets as triplets_job

BATCH_SIZE, NUM_BATCHES = 64, 60


def windows_a_second(batches) -> float:
    iterator = iter(batches)
    next(iterator)
    start = time.perf_counter()
    for _ in range(NUM_BATCHES):
        next(iterator)
    return 3 * BATCH_SIZE * NUM_BATCHES / (time.perf_counter() - start)


def windows_trained_a_second(batches) -> float:
    model = models.TripletModel(networks.build_encoder("resnet_small"))
    model.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=False)
    batch = next(iter(batches))
    data = batches.take(1).map(lambda _: batch).repeat()  # the same batch again: no reading
    model.fit(data, steps_per_epoch=5, verbose=0)
    start = time.perf_counter()
    model.fit(data, steps_per_epoch=NUM_BATCHES, verbose=0)
    return 3 * BATCH_SIZE * NUM_BATCHES / (time.perf_counter() - start)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        manifest = str(folder / "manifest.csv")
        datasets.make_manifest("synthetic", str(folder / "recordings"), manifest, num_recordings=100)
        examples_job.make_examples(manifest, str(folder / "clips"))
        triplets_job.sample_triplets(str(folder / "clips"), str(folder / "triplets"), count=8000)
        batches = examples.triplet_dataset([str(folder / "triplets")], batch_size=BATCH_SIZE)
        read, trained = windows_a_second(batches), windows_trained_a_second(batches)
    rows = [[f"{read:.0f}", f"{trained:.0f}", f"{read / trained:.1f}"]]
    print(table(["windows read a second", "windows trained a second", "read / trained"], rows))


if __name__ == "__main__":
    main()
