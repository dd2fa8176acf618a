"""Joint triplets of all five constraints from 10,000 recordings: time, memory, and a check of the last set.

`make triplets-scale`. The mel parameters are small ones, windows of 8 frames and 8 bins: a million triplets
of the default windows would be 37 GB. What is drawn does not depend on them, what is written does.
"""

import collections
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


def run_once(clips: str, output: str, count: int) -> None:
    """One job, in this process: prints seconds and peak memory in MB."""
    from tfsound.beam import triplets

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


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_clips(folder / "clips")
        rows, output = [], ""
        for count in COUNTS:
            output = str(folder / f"triplets{count}")
            command = [sys.executable, "-m", __spec__.name, str(folder / "clips"), output, str(count)]
            environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "TQDM_DISABLE": "1"}
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
            seconds, imported, peak = map(float, done.stdout.split())
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


if __name__ == "__main__":
    if len(sys.argv) == 4:
        run_once(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    else:
        main()
