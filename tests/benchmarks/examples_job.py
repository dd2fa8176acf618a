"""The `examples` job on one and two workers: audio-hours an hour, and where the time goes on one thread."""

import pathlib
import tempfile
import time

import numpy as np
import soundfile

from tests.benchmarks.timing import table
from tfsound import datasets, examples, media, mel
from tfsound.beam import clips
from tfsound.beam import examples as job

NUM_FILES, NUM_CLIPS, SECONDS = 200, 1600, 30.0
RATE = 44100


def write_recordings(folder: pathlib.Path) -> str:
    """Stereo FLAC at 44.1 kHz, as field recorders write it: decoding and resampling both cost."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(NUM_CLIPS):
        path = folder / f"{number % NUM_FILES:04d}.flac"
        if number < NUM_FILES:
            soundfile.write(path, 0.1 * rng.standard_normal((round(RATE * SECONDS), 2)), RATE)
        rows.append(datasets.ManifestRow(str(number), str(number), str(path)))
    datasets.write_manifest(str(folder / "manifest.csv"), rows)
    return str(folder / "manifest.csv")


def time_job(manifest: str, output: str, num_workers: int, worker_mode: str) -> float:
    start = time.perf_counter()
    job.make_examples(manifest, output, num_workers=num_workers, worker_mode=worker_mode)
    return time.perf_counter() - start


def time_parts(manifest: str) -> dict[str, float]:
    """Seconds of each part over 40 clips, on one thread."""
    params = mel.preset("audioset")
    parts = dict.fromkeys(("decode and resample", "mel energies", "encode and write"), 0.0)
    function = clips._mel_energies_function(params)
    function(np.zeros(params.context_samples, np.float32))
    for row in datasets.read_manifest(manifest)[:40]:
        times = [time.perf_counter()]
        waveform = media.read_audio(row.uri)
        times.append(time.perf_counter())
        energies = function(waveform).numpy()
        times.append(time.perf_counter())
        examples.encode_clip(examples.Clip(row.clip_id, row.recording_id, 0.0, (), "", "", energies))
        times.append(time.perf_counter())
        for name, seconds in zip(parts, np.diff(times), strict=True):
            parts[name] += seconds
    return parts


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        manifest = write_recordings(folder)
        time_job(manifest, str(folder / "warm_up"), 1, "threads")
        hours = NUM_CLIPS * SECONDS / 3600
        rows, one = [], None
        for workers, mode in ((1, "threads"), (2, "threads"), (2, "processes")):
            outputs = [str(folder / f"{workers}-{mode}-{number}") for number in range(2)]
            seconds = min(time_job(manifest, output, workers, mode) for output in outputs)
            one = one or seconds
            label = f"{workers} {mode}" if workers > 1 else "1 worker"
            rows.append([label, f"{seconds:.1f} s", f"{hours / seconds * 3600:.0f}", f"{one / seconds:.2f}"])
        print(f"{NUM_CLIPS} FLAC clips of {SECONDS:.0f} s, 44.1 kHz stereo, {hours:.1f} h.\n")
        print(table(["workers", "time", "audio-hours an hour", "against one"], rows))
        parts = time_parts(manifest)
        total = sum(parts.values())
        print("\nWhere the time goes, one thread:\n")
        print(table(["part", "share"], [[name, f"{part / total:.0%}"] for name, part in parts.items()]))


if __name__ == "__main__":
    main()
