"""Joint triplets of all five constraints from 10,000 recordings: time, memory, and a check of the last set.

`make triplets-scale`. The mel parameters are small ones, windows of 8 frames and 8 bins: a million triplets
of the default windows would be 37 GB. What is drawn does not depend on them, what is written does.

Two million clips are too many to make here. What differs for them is the index, which is cut into a thousand
buckets and not into two: so the 10,000 recordings are cut into some hundreds as well, and the draws alone are
timed over the index of two million clips, of which one bucket is made and read from disk for every other.
"""

import collections
import dataclasses
import hashlib
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import numpy as np

from tests.benchmarks.timing import table

NUM_RECORDINGS, WINDOWS_EACH, NUM_SHARDS = 10_000, 4, 16
COUNTS = (10_000, 100_000, 1_000_000)
CONSTRAINTS = ("noise:0.5,translation:2", "mixing:0.25", "proximity:10", "labels")
CLASS_NAMES = ("common", "often", "rare", "scarce")
NUM_OF_CLASS = (9_000, 900, 90, 9)  # the last recording is not labelled
# (clips a bucket, examples drawn at a time for each bucket; 0 for one shard's at a time)
BUCKETINGS = ((4096, 64), (20, 64), (20, 0))
NUM_CLIPS, WINDOWS_A_CLIP, NUM_CLASSES = 2_000_000, 10, 527


def write_clips(directory: pathlib.Path) -> None:
    """Clip examples of random energies, without any audio."""
    import tensorflow as tf

    from tfsound import examples, mel

    params = mel.MelParams(mel_bins=8, context_frames=8)
    labels = np.repeat(CLASS_NAMES, NUM_OF_CLASS).tolist()
    rng = np.random.default_rng(0)
    directory.mkdir()
    shards = []
    for number in range(NUM_SHARDS):
        path = directory / f"clips-{number:05d}-of-{NUM_SHARDS:05d}.tfrecord"
        recordings = range(number, NUM_RECORDINGS, NUM_SHARDS)
        with tf.io.TFRecordWriter(str(path)) as writer:
            for recording in recordings:
                energies = rng.exponential(size=(WINDOWS_EACH * params.context_frames, params.mel_bins))
                name, own_labels = f"recording-{recording:05d}", tuple(labels[recording : recording + 1])
                writer.write(
                    examples.encode_clip(examples.Clip(name, name, 0.0, own_labels, "", "", energies))
                )
        shards.append(examples.Shard(path.name, len(recordings), path.stat().st_size))
    info = examples.DatasetInfo(
        examples.CLIPS, params, tuple(shards), NUM_RECORDINGS * WINDOWS_EACH, label_names=CLASS_NAMES
    )
    (directory / examples.INFO_NAME).write_text(info.to_json())


def run_once(clips: str, output: str, count: int, clips_per_bucket: int, examples_per_bucket: int) -> None:
    """One job, in this process: prints seconds and peak memory in MB."""
    from tfsound.beam import drawn_sets, triplets, window_index

    window_index._CLIPS_PER_BUCKET = clips_per_bucket
    drawn_sets._EXAMPLES_PER_BUCKET = examples_per_bucket
    imported = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.perf_counter()
    triplets.sample_triplets(clips, output, constraints=CONSTRAINTS, count=count)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{time.perf_counter() - start} {imported} {peak}")


def records_of(directory: str) -> Iterator[bytes]:
    from tfsound import examples

    info = examples.read_dataset_info(directory, kind=examples.TRIPLETS)
    for shard in info.shards:
        for _, record in examples.read_records(os.path.join(directory, shard.name)):
            yield record


def check(directory: str, count: int) -> list[list[str]]:
    """Reads a set back. Returns rows of (what was checked, the figure); a violation ends the benchmark."""
    import tensorflow as tf

    from tfsound import examples

    info = examples.read_dataset_info(directory, kind=examples.TRIPLETS)
    constraints, classes, digests = collections.Counter(), collections.Counter(), set()
    violations = collections.Counter()
    for record in records_of(directory):
        features = tf.train.Example.FromString(record).features.feature

        def text(name: str, features=features) -> str:
            return features[name].bytes_list.value[0].decode()

        def start(role: str, features=features) -> float:
            return features[f"{role}_start_seconds"].float_list.value[0]

        name, label = text("constraint"), text("label")
        anchor, positive, negative = (
            text(f"{role}_recording_id") for role in ("anchor", "positive", "negative")
        )
        constraints[name] += 1
        digests.add(hashlib.blake2b(record, digest_size=16).digest())
        energies = np.frombuffer(features["positive"].bytes_list.value[0], "<f2")
        violations["energy not finite"] += not np.isfinite(energies).all()
        violations["negative of the anchor's recording"] += negative == anchor
        if name == "labels":
            classes[label] += 1
            negative_labels = [value.decode() for value in features["negative_labels"].bytes_list.value]
            violations["negative with the anchor's label"] += label in negative_labels
        else:
            violations["positive of another recording"] += positive != anchor
        if name in ("labels", "proximity"):
            same = (anchor, start("anchor")) == (positive, start("positive"))
            violations["positive is the anchor"] += same
        else:
            violations["positive not made of the anchor"] += start("anchor") != start("positive")
    expected = dict(zip((text.split(":")[0] for text in info.parameters["constraints"]),
                        info.parameters["counts"], strict=True))  # fmt: skip
    if any(violations.values()) or constraints != expected or constraints.total() != count:
        sys.exit(f"wrong triplets: {violations}, {constraints} for {expected}")
    if max(classes.values()) - min(classes.values()) > 1 or len(classes) < len(CLASS_NAMES):
        sys.exit(f"classes are not alike: {classes}")
    if len(digests) != count:
        sys.exit(f"{count - len(digests)} triplets came twice")
    shown = [[f"{name} triplets", f"{number:,}"] for name, number in sorted(constraints.items())]
    shown += [[f"of class {name!r}", f"{classes[name]:,}"] for name in CLASS_NAMES]
    shown += [[name, f"{number}"] for name, number in sorted(violations.items())]
    return [*shown, ["triplets that came twice", "0"]]


def draw_once(folder: str, examples_per_bucket: int) -> None:
    """One block of draws over the index of two million clips: prints its size, seconds, peak memory in MB."""
    from tfsound import examples, mel, triplets, windows
    from tfsound.beam import drawn_sets, window_index

    names = tuple(f"class-{number:03d}" for number in range(NUM_CLASSES))
    params = mel.MelParams()
    info = examples.DatasetInfo(examples.CLIPS, params, (), NUM_CLIPS * WINDOWS_A_CLIP, label_names=names)
    plan = triplets.make_plan(info, CONSTRAINTS, 10_000_000, (), 0)
    bits = window_index.num_bucket_bits(NUM_CLIPS)
    clips = [
        windows.IndexedClip(
            f"recording-{n}", f"recording-{n}-0", n % 1024, 123_456 * n, 30.0, WINDOWS_A_CLIP,
            tuple(sorted({n % NUM_CLASSES, 7 * n % NUM_CLASSES})),
        )
        for n in range(NUM_CLIPS >> bits)
    ]  # fmt: skip
    constraints = plan.within_recordings
    bucket = windows.build_bucket(clips, params, constraints)
    path = window_index._bucket_path(folder, 0)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    window_index._save_arrays(path, **vars(bucket))
    summary = windows.summarize(0, bucket, constraints, NUM_CLASSES)
    totals = windows.add_up(
        (dataclasses.replace(summary, bucket=number) for number in range(1 << bits)),
        1 << bits, len(constraints), NUM_CLASSES,
    )  # fmt: skip
    drawn_sets._EXAMPLES_PER_BUCKET = examples_per_bucket
    size = drawn_sets.examples_per_block(totals.num_buckets)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.process_time()
    triplets.draw_triplets(
        range(size), plan, totals, lambda number: window_index.load_bucket(folder, 0), params.context_frames
    )
    seconds = time.process_time() - start
    print(f"{size} {seconds} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before}")


def in_process(function: str, *arguments: str | int) -> list[float]:
    """The figures that a function of this module prints, in a process of its own."""
    command = [sys.executable, "-m", __spec__.name, function, *map(str, arguments)]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "TQDM_DISABLE": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return list(map(float, done.stdout.split()))


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_clips(folder / "clips")
        rows, output = [], ""
        for count in COUNTS:
            output = str(folder / f"triplets{count}")
            seconds, imported, peak = in_process("run_once", folder / "clips", output, count, *BUCKETINGS[0])
            num_bytes = sum(path.stat().st_size for path in pathlib.Path(output).iterdir())
            rows.append(
                [
                    f"{count:,}", f"{seconds:.1f} s", f"{count / seconds:,.0f}", f"{peak:.0f} MB",
                    f"{peak - imported:.0f} MB", f"{num_bytes / 1e6:,.0f} MB",
                ]
            )  # fmt: skip
        print(f"{NUM_RECORDINGS:,} recordings of {WINDOWS_EACH} windows, {os.cpu_count()} threads;")
        print(f"constraints {','.join(CONSTRAINTS)}; windows of 8 frames and 8 bins.\n")
        header = ["triplets", "time", "triplets a second", "peak memory", "over the imports", "on disk"]
        print(table(header, rows))
        print(f"\nThe {COUNTS[-1]:,}, read back:\n")
        print(table(["what", "number"], check(output, COUNTS[-1])))
        print(f"\n{COUNTS[1]:,} of them from an index in more buckets:\n")
        rows = []
        for clips_per_bucket, examples_per_bucket in BUCKETINGS:
            many = str(folder / f"triplets-{clips_per_bucket}-{examples_per_bucket}")
            seconds, imported, peak = in_process(
                "run_once", folder / "clips", many, COUNTS[1], clips_per_bucket, examples_per_bucket
            )
            num_buckets = 1 << (NUM_RECORDINGS // clips_per_bucket).bit_length()
            size = max(2048, examples_per_bucket * num_buckets)
            rows.append(
                [
                    f"{num_buckets}", f"{size:,}", f"{seconds:.1f} s",
                    f"{COUNTS[1] / seconds:,.0f}", f"{peak - imported:.0f} MB",
                ]
            )  # fmt: skip
        print(table(["buckets", "drawn at a time", "time", "triplets a second", "over the imports"], rows))
        print(f"\nThe draws alone, without reading and writing, from {NUM_CLIPS:,} clips, one core:\n")
        rows = []
        for examples_per_bucket in (0, 64):
            size, seconds, peak = in_process("draw_once", folder, examples_per_bucket)
            rows.append([f"{size:,.0f}", f"{seconds:.1f} s", f"{size / seconds:,.0f}", f"{peak:.0f} MB"])
        print(table(["drawn at a time", "processor time", "draws a second", "memory"], rows))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        arguments = [int(text) if text.isdigit() else text for text in sys.argv[2:]]
        {"run_once": run_once, "draw_once": draw_once}[sys.argv[1]](*arguments)
    else:
        main()
