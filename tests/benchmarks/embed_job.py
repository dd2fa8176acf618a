"""The job `embed` against a plain loop and against librosa's features, and search among a million rows."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import tracemalloc

import numpy as np
import pyarrow as pa
import soundfile
import tensorflow as tf

from tests.benchmarks.timing import best_seconds, table
from tfsound import datasets, exported, media, mel, networks, search
from tfsound.beam import embed as job
from tfsound.export import saved_model
from tfsound.search import store

NUM_FILES, NUM_CLIPS, SECONDS, RATE = 40, 160, 10.0, 44100
ENCODER, DIM = "resnet_small", 128
NUM_ROWS, NUM_QUERIES = 1_000_000, 64


def write_recordings(folder: pathlib.Path) -> str:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(NUM_CLIPS):
        path = folder / f"{number % NUM_FILES:04d}.wav"
        if number < NUM_FILES:
            soundfile.write(path, 0.1 * rng.standard_normal((round(RATE * SECONDS), 2)), RATE)
        rows.append(datasets.ManifestRow(f"{number:05d}", f"{number:05d}", str(path)))
    datasets.write_manifest(str(folder / "manifest.csv"), rows)
    return str(folder / "manifest.csv")


def loop_seconds(model: str, manifest: str) -> float:
    """Load, decode, predict, clip after clip: what one writes without the job, which loads the model, too."""
    start = time.perf_counter()
    loaded = exported.load(model)
    for row in datasets.read_manifest(manifest):
        loaded.embed_waveforms(media.read_audio(row.uri)[None])
    return time.perf_counter() - start


def librosa_seconds(manifest: str) -> float:
    """librosa's decoding, resampling and mel spectrogram alone, without any model."""
    import librosa

    params = mel.PRESETS["audioset"]
    options = {
        "n_fft": params.fft_length,
        "win_length": params.window_samples,
        "hop_length": params.hop_samples,
    }
    start = time.perf_counter()
    for row in datasets.read_manifest(manifest):
        samples, rate = librosa.load(row.uri, sr=params.sample_rate)
        librosa.feature.melspectrogram(y=samples, sr=rate, n_mels=params.mel_bins, power=1.0, **options)
    return time.perf_counter() - start


def job_seconds(model: str, manifest: str, output: str, num_workers: int, worker_mode: str) -> float:
    start = time.perf_counter()
    job.embed(model, manifest, output, num_workers=num_workers, worker_mode=worker_mode)
    return time.perf_counter() - start


def time_embedding(folder: pathlib.Path) -> None:
    manifest = write_recordings(folder)
    tf.random.set_seed(0)
    encoder = networks.build_encoder(ENCODER, embedding_dim=DIM)
    model = saved_model.save(encoder, mel.MelParams(), str(folder / "model"), provenance={}).path
    job_seconds(model, manifest, str(folder / "warm_up"), 1, "threads")
    plain = min(loop_seconds(model, manifest) for _ in range(2))
    found = {"plain loop": plain, "librosa, features alone": min(librosa_seconds(manifest) for _ in range(2))}
    for workers, mode in ((1, "threads"), (2, "threads"), (2, "processes")):
        outputs = [str(folder / f"{workers}-{mode}-{number}") for number in range(2)]
        name = f"embed, {workers} {mode}" if workers > 1 else "embed, 1 worker"
        found[name] = min(job_seconds(model, manifest, output, workers, mode) for output in outputs)
    rows = [[name, f"{NUM_CLIPS / seconds:.1f}", f"{plain / seconds:.2f}"] for name, seconds in found.items()]
    print(f"{NUM_CLIPS} WAV clips of {SECONDS:.0f} s, 44.1 kHz stereo; {ENCODER}, {DIM} numbers.\n")
    print(table(["", "clips a second", "against the plain loop"], rows))


def write_store(path: pathlib.Path) -> None:
    """An index of a million clips, written as `tfsound index` does, without their embeddings' records."""
    path.mkdir()
    rng = np.random.default_rng(0)
    shape = (NUM_ROWS, DIM)
    rows = np.lib.format.open_memmap(path / store.EMBEDDINGS_NAME, "w+", "<f4", shape)
    for first in range(0, NUM_ROWS, 1 << 16):
        block = rng.standard_normal(rows[first : first + (1 << 16)].shape).astype(np.float32)
        rows[first : first + (1 << 16)] = block / np.linalg.norm(block, axis=1, keepdims=True)
    rows.flush()
    with (
        pa.OSFile(str(path / store.CLIPS_NAME), "wb") as sink,
        pa.ipc.new_file(sink, store.CLIP_SCHEMA) as writer,
    ):
        for first in range(0, NUM_ROWS, 4096):
            numbers = range(first, min(NUM_ROWS, first + 4096))
            texts = [f"clip-{number}" for number in numbers]
            seconds, empty = [0.0] * len(texts), [""] * len(texts)
            columns = [texts, texts, texts, seconds, seconds, [[]] * len(texts), empty, empty]
            arrays = [
                pa.array(values, kind) for values, kind in zip(columns, store.CLIP_SCHEMA.types, strict=True)
            ]
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=store.CLIP_SCHEMA))
    info = store.IndexInfo(
        unit=store.CLIPS, num_rows=NUM_ROWS, num_clips=NUM_ROWS, embedding_dim=DIM, window_seconds=0.96,
        model="", weights="", embeddings="",
        files={name: os.path.getsize(path / name) for name in (store.EMBEDDINGS_NAME, store.CLIPS_NAME)},
    )  # fmt: skip
    (path / store.INFO_NAME).write_text(json.dumps(vars(info)))


def time_search(path: str) -> None:
    """In a process of its own, so that nothing of the store is in its memory yet."""
    start = time.perf_counter()
    index = search.load_index(path)
    opened = time.perf_counter() - start
    queries = np.asarray(index.embeddings[:NUM_QUERIES])
    one = best_seconds(lambda: index.search(queries[:1]), repeats=5)
    many = best_seconds(lambda: index.search(queries), repeats=2) / NUM_QUERIES
    tracemalloc.start()
    index.search(queries)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"\nExact search among {NUM_ROWS:,} x {DIM}, the 10 nearest; the rows are mapped from a file.\n")
    header = ["to open", "one query", f"each of {NUM_QUERIES} at once", f"memory for {NUM_QUERIES} at once"]
    found = [
        f"{opened * 1000:.0f} ms",
        f"{one * 1000:.0f} ms",
        f"{many * 1000:.1f} ms",
        f"{peak / 1e6:.0f} MB",
    ]
    print(table(header, [found]))
    faiss_one = best_seconds(lambda: index.search(queries[:1], backend="faiss"), repeats=5)
    print(
        f"\nFAISS, flat, in memory: {faiss_one * 1000:.0f} ms a query, {faiss_one / one:.2f} of the time of "
        "exact search."
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        time_embedding(folder)
        write_store(folder / "index")
        call = f"from tests.benchmarks import embed_job; embed_job.time_search({str(folder / 'index')!r})"
        sys.stdout.flush()
        subprocess.run([sys.executable, "-c", call], check=True)


if __name__ == "__main__":
    main()
