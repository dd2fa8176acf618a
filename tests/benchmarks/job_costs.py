"""What the Beam jobs take for AudioSet, and for ten million recordings: the table of README, from dry runs.

`make job-costs`. A set is made of clips of 10 s as AudioSet has them, AAC of 44.1 kHz in stereo, and each job
is asked for its plan: by a dry run, which really decodes, draws and embeds a sample. The rates of these
samples, for a clip and for a triplet, are then multiplied by `plans.scaled`, which is what the dry run itself
uses. Time is that of this machine's cores; the first line says which they are.
"""

import os
import pathlib
import platform
import shutil
import tempfile
from fractions import Fraction

import av
import numpy as np

from tests.benchmarks.timing import table

NUM_FILES, NUM_CLIPS, NUM_EMBEDDED, SECONDS, RATE = 16, 256, 4, 10, 44_100
# (what it is called, clips, triplets and pairs that are drawn)
SIZES = (("AudioSet", 2_100_000, 10_000_000), ("10 million recordings", 10_000_000, 40_000_000))
CONSTRAINTS = ("noise:0.5,translation:10,mixing:0.25,proximity:10",)


def _rounded(value: float) -> str:
    """Three digits, and not as a power of ten."""
    return f"{float(f'{value:.3g}'):,g}"


def _processor() -> str:
    """What Linux calls it, or else the name of its kind."""
    path = pathlib.Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write_aac(path: pathlib.Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    times = np.arange(SECONDS * RATE) / RATE
    level = 0.1 + 0.4 * np.abs(np.sin(times * rng.uniform(0.5, 3)))
    waveform = level * (rng.normal(0, 0.3, (2, times.size)) + np.sin(times * rng.uniform(600, 6000)))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=RATE, layout="stereo", bit_rate=128_000)
        frame = av.AudioFrame.from_ndarray(waveform.astype(np.float32), format="fltp", layout="stereo")
        frame.sample_rate, frame.time_base = RATE, Fraction(1, RATE)
        container.mux([*stream.encode(frame), *stream.encode(None)])


def write_inputs(folder: pathlib.Path) -> None:
    from tfsound import datasets, mel, networks
    from tfsound.export import saved_model

    for number in range(NUM_FILES):
        write_aac(folder / f"{number}.m4a", number)
    rows = [
        datasets.ManifestRow(
            f"clip-{n:08d}-of-a-set", f"recording-{n:08d}", str(folder / f"{n % NUM_FILES}.m4a")
        )
        for n in range(NUM_CLIPS)
    ]
    datasets.write_manifest(str(folder / "clips.csv"), rows)
    params = mel.MelParams()
    encoder = networks.build_encoder("resnet50", input_shape=params.window_shape)
    saved_model.save(encoder, params, str(folder / "model"), provenance={})


def plans_of(folder: pathlib.Path) -> dict:
    """The plan of each job on the set that was made."""
    from tfsound.beam import embed, examples, instances, pairs, plans, triplets

    manifest, clips, output = str(folder / "clips.csv"), str(folder / "clips"), str(folder / "none")
    found = {"examples": examples.make_examples(manifest, output, dry_run=True)}
    examples.make_examples(manifest, clips)
    found["triplets"] = triplets.sample_triplets(
        clips, output, constraints=CONSTRAINTS, count=4096, dry_run=True, allow_repeats=True
    )
    found["pairs"] = pairs.sample_pairs(clips, output, count=4096, dry_run=True, allow_repeats=True)
    found["instances"] = instances.assign_instances((clips,), output, dry_run=True)
    plans.NUM_DECODED = NUM_EMBEDDED  # each as much work as a hundred that are decoded
    found["embed (ResNet-50)"] = embed.embed(
        str(folder / "model"), manifest, output, dry_run=True, batch_size=8
    )
    return found


def scaled_plan(plan, num_clips: int, num_drawn: int):
    """The plan of the same job on more clips like these."""
    from tfsound.beam import drawn_sets, manifests, plans

    is_drawn = bool(plan.sample.num_drawn)
    num_shards = manifests.default_num_shards(num_clips)
    if is_drawn:
        num_shards = drawn_sets.num_shards_of(num_drawn, 0)
    return plans.scaled(
        plan.kind, plan.sample, num_clips=num_clips,
        num_shards=num_shards,
        counts={plan.kind: num_drawn} if is_drawn else None,
    )  # fmt: skip


def main() -> None:
    folder = pathlib.Path(tempfile.mkdtemp())
    try:
        write_inputs(folder)
        measured = plans_of(folder)
    finally:
        shutil.rmtree(folder)
    print(f"{_processor()}, {os.cpu_count()} cores; {NUM_FILES} files of {SECONDS} s.\n")
    for name, plan in measured.items():
        print(f"{name}: {plan}\n")
    for name, num_clips, num_drawn in SIZES:
        rows = []
        for job, plan in measured.items():
            big = scaled_plan(plan, num_clips, num_drawn)
            rows.append(
                [
                    job, f"{sum(big.counts.values()):,}", f"{_rounded(big.num_bytes / 1e9)} GB",
                    f"{_rounded(big.shuffle_bytes / 1e9)} GB", _rounded(big.core_hours),
                    f"{big.num_shards:,}",
                ]
            )  # fmt: skip
        print(f"{name}: {num_clips:,} clips of {SECONDS} s, {num_clips * SECONDS / 3600:,.0f} hours\n")
        print(table(["job", "records", "output", "shuffled", "core hours", "files"], rows), "\n")


if __name__ == "__main__":
    main()
