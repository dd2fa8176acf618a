"""The job `triplets`: clip examples -> triplet examples under semantic constraints.

A triplet's number (its slot) decides everything about it: the constraint, the anchor (every window that
may be one is used equally often), and, through a generator seeded by (seed, constraint, slot), the
positive and the negative. One task writes one shard of slots, finding windows through the index of
`window_index` and reading them where they lie. So counts are exact, the same bytes come from any runner
and any number of workers, memory does not grow with the count, and nothing but the index is shuffled.

Source: Jansen et al. 2018, section 3.2.
"""

import argparse
import dataclasses
import functools
import os
from collections.abc import Callable

import apache_beam as beam
import numpy as np

from tfsound import arguments, examples, mel, sampling
from tfsound.beam import output as job_output
from tfsound.beam import running, window_index

_TRIPLETS_PER_SHARD = 2048


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What every worker must know; the index lies in files of the pending output."""

    pending_path: str
    clip_paths: tuple[str, ...]
    mel_params: mel.MelParams
    constraints: tuple[sampling.Constraint, ...]
    count: int
    num_shards: int
    seed: int


@dataclasses.dataclass
class _Draw:
    """One triplet being put together."""

    constraint_number: int
    constraint: sampling.Constraint
    rng: np.random.Generator
    anchor: window_index.WindowLocation | None = None
    positive: window_index.WindowLocation | None = None
    negative: window_index.WindowLocation | None = None


def draw_triplets(
    slots: range,
    constraints: tuple[sampling.Constraint, ...],
    totals: window_index.Totals,
    load_bucket: Callable[[int], window_index.Bucket],
    seed: int,
) -> list[_Draw]:
    """Decides the windows of each slot, holding one bucket of the index at a time.

    Slots take the constraints in turn, so that each gets an equal share.
    """
    draws: list[_Draw] = []
    keys = [sampling.stable_hash(seed, repr(constraint), "anchors") for constraint in constraints]
    by_anchor_bucket: dict[int, list[tuple[_Draw, int]]] = {}
    for slot in slots:
        constraint_slot, number = divmod(slot, len(constraints))
        starts = totals.anchor_starts[number]
        rank = sampling.slot_anchor(constraint_slot, int(starts[-1]), keys[number])
        bucket, rank_in_bucket = window_index.find(starts, rank)
        rng = sampling.random_generator(seed, repr(constraints[number]), constraint_slot)
        draws.append(_Draw(number, constraints[number], rng))
        by_anchor_bucket.setdefault(bucket, []).append((draws[-1], rank_in_bucket))

    by_negative_bucket: dict[int, list[tuple[_Draw, int]]] = {}
    for number, members in sorted(by_anchor_bucket.items()):
        bucket, bucket_start = load_bucket(number), int(totals.window_starts[number])
        for draw, rank in members:
            negative = _draw_windows(draw, bucket, rank, bucket_start, totals.num_windows)
            negative_bucket, window = window_index.find(totals.window_starts, negative)
            by_negative_bucket.setdefault(negative_bucket, []).append((draw, window))

    for number, members in sorted(by_negative_bucket.items()):
        bucket = load_bucket(number)
        for draw, window in members:
            draw.negative = bucket.location(window)
    return draws


def _draw_windows(
    draw: _Draw, bucket: window_index.Bucket, rank: int, bucket_start: int, num_windows: int
) -> int:
    """Sets anchor and positive; returns the global index of the negative."""
    anchor = bucket.anchor(draw.constraint_number, rank)
    start, end = bucket.recording_range(anchor)
    start_seconds = bucket.window_start_seconds[start:end]
    positive = start + draw.constraint.draw_positive(start_seconds, anchor - start, draw.rng)
    draw.anchor, draw.positive = bucket.location(anchor), bucket.location(positive)
    return sampling.draw_outside(
        draw.rng, num_windows=num_windows, own_start=bucket_start + start, own_count=end - start
    )


def encode_draw(draw: _Draw, reader: window_index.WindowReader, mel_params: mel.MelParams) -> bytes:
    """Reads the windows of a draw, alters the positive as its constraint says, and serialises."""
    locations = (draw.anchor, draw.positive, draw.negative)
    windows = [reader.read(location) for location in locations]
    anchor, positive, negative = (
        examples.decode_mel_energy(window, mel_params.mel_bins) for window in windows
    )
    altered = draw.constraint.alter_positive(anchor, positive, negative, draw.rng)
    if altered is not positive:
        windows[1] = examples.encode_mel_energy(altered)
    refs = tuple(location.ref for location in locations)
    return examples.encode_triplet(tuple(windows), refs, draw.constraint.name)


class _WriteShard(beam.DoFn):
    """(shard number) -> the shard and its summary, on disk."""

    def __init__(self, settings: _Settings):
        self._settings = settings

    def setup(self):
        settings = self._settings
        self._totals = window_index.load_totals(settings.pending_path)
        self._load_bucket = functools.lru_cache(maxsize=2)(
            functools.partial(window_index.load_bucket, settings.pending_path)
        )
        self._reader = window_index.WindowReader(settings.clip_paths, settings.mel_params)

    def process(self, number: int):
        settings = self._settings
        name = f"triplets-{number:05d}-of-{settings.num_shards:05d}.tfrecord"
        progress = job_output.WorkerProgress(settings.pending_path, name)
        slots = shard_slots(number, settings.num_shards, settings.count)
        draws = draw_triplets(slots, settings.constraints, self._totals, self._load_bucket, settings.seed)
        with job_output.shard_writer(settings.pending_path, name) as writer:
            for draw in draws:
                writer.write(encode_draw(draw, self._reader, settings.mel_params))
                progress.add(triplets=1)
        progress.write()
        shard = job_output.finished_shard(settings.pending_path, name, len(slots))
        job_output.write_summary(settings.pending_path, name, dataclasses.asdict(shard))


def shard_slots(number: int, num_shards: int, count: int) -> range:
    """The slots of one shard; over all shards each slot of range(count) occurs once."""
    return range(count * number // num_shards, count * (number + 1) // num_shards)


@dataclasses.dataclass
class SampleTriplets(beam.PTransform):
    """A collection of shard numbers -> the shards, on disk."""

    settings: _Settings

    def expand(self, shard_numbers):
        return (
            shard_numbers
            | "SpreadShards" >> beam.Reshuffle()
            | "WriteShards" >> beam.ParDo(_WriteShard(self.settings))
        )


def _require_possible(totals: window_index.Totals, constraints, clips: str) -> None:
    if totals.num_recordings < 2:
        raise job_output.JobError(
            f"{clips} has {totals.num_recordings} recording(s) with at least one window, so no negative "
            "from another recording can exist; expected at least 2 (are the values of recording_id right?)."
        )
    for constraint, starts in zip(constraints, totals.anchor_starts, strict=True):
        if not starts[-1]:
            raise job_output.JobError(
                f"no window of {clips} can be an anchor under {constraint}: no recording has two windows "
                "that near; expected longer recordings or a larger gap."
            )


def sample_triplets(
    clips: str,
    output: str,
    *,
    constraints: tuple[str, ...] = ("proximity:10",),
    count: int = 20000,
    exclude_folds: tuple[str, ...] = (),
    seed: int = 0,
    num_shards: int = 0,
    overwrite: bool = False,
    runner: str = "local",
    num_workers: int = 0,
    worker_mode: str = "threads",
    beam_flags: tuple[str, ...] = (),
) -> examples.DatasetInfo:
    """Samples triplets from clip examples under semantic constraints.

    Negatives come from another recording. The same input, parameters and seed give the same records on
    any runner. Flags that are not of this job go to Apache Beam.

    Args:
      clips: the folder of clip examples that the job `examples` made.
      output: the folder to make.
      constraints: constraints in equal shares; `proximity:SECONDS` takes anchor and positive from one
        recording, starting less than so many seconds apart.
      count: how many triplets, exactly.
      exclude_folds: folds to leave out, because they are for testing.
      seed: what every random draw depends on.
      num_shards: files to write; 0 for one per 2048 triplets.
      overwrite: replace a finished output.
      runner: `local`, or a Beam runner by name, such as DataflowRunner.
      num_workers: workers on this machine, 0 for one a core.
      worker_mode: `threads` or `processes`.

    Returns:
      The sidecar of the set.

    Raises:
      DatasetError: the clips are missing, incomplete or damaged; ValueError: a parameter is out of range;
      JobError: no triplet can exist, the output exists, or the pipeline failed.
    """
    if count < 1 or num_shards < 0:
        raise ValueError(f"count must be at least 1 and num_shards at least 0, got {count} and {num_shards}.")
    parsed = tuple(sampling.parse_constraint(text) for text in constraints)
    if not parsed or len(set(parsed)) < len(parsed):
        raise ValueError(
            f"constraints must be at least one, each another, got {list(constraints)}; "
            "name each once, such as proximity:10."
        )
    info = examples.read_dataset_info(clips, kind=examples.CLIPS)
    examples.require_folds(info, exclude_folds, clips)
    options = running.beam_options(
        runner=runner, num_workers=num_workers, worker_mode=worker_mode, beam_flags=beam_flags
    )
    num_shards = num_shards or -(-count // _TRIPLETS_PER_SHARD)
    with job_output.pending_output(output, overwrite=overwrite) as pending:
        settings = _Settings(
            pending.path, tuple(os.path.join(clips, shard.name) for shard in info.shards),
            info.mel_params, parsed, count, num_shards, seed,
        )  # fmt: skip
        totals = window_index.build_index(
            clips, info, pending,
            constraints=parsed, exclude_folds=exclude_folds, options=options,
        )  # fmt: skip
        _require_possible(totals, parsed, clips)
        with job_output.progress_bar(pending, description="triplets", total=count, unit="triplets"):
            running.run_pipeline(
                lambda pipeline: (
                    pipeline | "Shards" >> beam.Create(range(num_shards)) | SampleTriplets(settings)
                ),
                options,
                cancel=pending.discard,
            )
        shards = tuple(examples.Shard(**summary) for summary in pending.take_summaries())
        job_output.require_all(sum(shard.num_examples for shard in shards), count, "triplets")
        sidecar = examples.DatasetInfo(
            kind=examples.TRIPLETS,
            mel_params=info.mel_params,
            shards=shards,
            num_windows=3 * count,
            folds=tuple(fold for fold in info.folds if fold not in exclude_folds),
            parameters={
                "constraints": list(constraints),
                "count": count,
                "exclude_folds": list(exclude_folds),
                "seed": seed,
            },
            command=job_output.command_line("triplets", clips, output),
        )
        pending.publish(sidecar)
    return sidecar


def run(argv: list[str] | None = None) -> examples.DatasetInfo:
    """The job from a command line: `python -m tfsound.beam.triplets CLIPS OUTPUT ...`."""
    parser = argparse.ArgumentParser(prog="tfsound triplets", description=arguments.summary(sample_triplets))
    arguments.add_arguments(parser, sample_triplets)
    return arguments.call(parser, sample_triplets, argv)


if __name__ == "__main__":
    run()
