"""Peak memory of the `examples` job on a 3-hour file, over what the imports alone take."""

import pathlib
import resource
import tempfile

import numpy as np
import soundfile

from tests.benchmarks.timing import table
from tfsound import datasets
from tfsound.beam import examples as job

HOURS, RATE = 3, 44100


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    imported = peak_megabytes()
    with tempfile.TemporaryDirectory() as name:
        path, manifest = pathlib.Path(name) / "long.wav", str(pathlib.Path(name) / "manifest.csv")
        minute = (3000 * np.random.default_rng(0).standard_normal((60 * RATE, 2))).astype(np.int16)
        with soundfile.SoundFile(path, "w", RATE, 2) as file:
            for _ in range(60 * HOURS):
                file.write(minute)
        del minute
        datasets.write_manifest(manifest, [datasets.ManifestRow("long", "long", str(path))])
        info = job.make_examples(manifest, str(pathlib.Path(name) / "clips"))
    peak = peak_megabytes()
    rows = [[f"{imported:.0f} MB", f"{peak:.0f} MB", f"{peak - imported:.0f} MB", f"{info.num_windows}"]]
    print(f"One WAV of {HOURS} hours, {RATE / 1000} kHz stereo.\n")
    print(table(["after the imports", "peak", "over the imports", "windows"], rows))


if __name__ == "__main__":
    main()
