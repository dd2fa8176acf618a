"""The `triplets` job: triplets a second and peak memory as the count grows."""

import pathlib
import resource
import subprocess
import sys
import tempfile
import time

from tests.benchmarks.timing import table

COUNTS = (1000, 10000, 50000)


def run_once(clips: str, output: str, count: int) -> None:
    """One job, in this process: prints seconds and peak memory in MB."""
    from tfsound.beam import triplets

    start = time.perf_counter()
    triplets.sample_triplets(clips, output, count=count)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{time.perf_counter() - start} {peak}")


def main() -> None:
    from tfsound import datasets
    from tfsound.beam import examples

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        manifest = str(folder / "manifest.csv")
        datasets.make_manifest("synthetic", str(folder / "recordings"), manifest, num_recordings=400)
        clips = str(folder / "clips")
        examples.make_examples(manifest, clips)
        rows = []
        for count in COUNTS:
            output = str(folder / f"triplets{count}")
            command = [sys.executable, "-m", __spec__.name, clips, output, str(count)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            seconds, peak = map(float, done.stdout.split())
            rows.append([f"{count}", f"{seconds:.1f} s", f"{count / seconds:.0f}", f"{peak:.0f} MB"])
        print("400 recordings of 6 s, two threads, the job's start included.\n")
        print(table(["triplets", "time", "triplets a second", "peak memory of the process"], rows))


if __name__ == "__main__":
    if len(sys.argv) == 4:
        run_once(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    else:
        main()
