"""The job `triplets`: clip examples -> triplet examples under semantic constraints.

`drawing` decides each triplet by its number alone. One task writes one shard of numbers, finding windows
through the index of `window_index` and reading them where they lie. So counts are exact, the same bytes come
from any runner and any number of workers, memory does not grow with the count, no class or recording is a
hot key, and nothing but the index is shuffled.

Source: Jansen et al. 2018, section 3.2.
"""

import argparse
import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence

import apache_beam as beam

from tfsound import arguments, drawing, examples, mel, sampling
from tfsound.beam import output as job_output
from tfsound.beam import running, window_index

_TRIPLETS_PER_SHARD = 2048


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What every worker must know; the index lies in files of the pending output."""

    pending_path: str
    clip_paths: tuple[str, ...]
    mel_params: mel.MelParams
    plan: drawing.Plan
    num_shards: int


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
        slots = shard_slots(number, settings.num_shards, settings.plan.count)
        with job_output.shard_writer(settings.pending_path, name) as writer:
            for draw in self._draws(slots):
                energies = [self._reader.read(location) for location in draw.locations]
                writer.write(drawing.encode_draw(draw, settings.plan, energies, settings.mel_params.mel_bins))
                progress.add(triplets=1)
        progress.write()
        shard = job_output.finished_shard(settings.pending_path, name, len(slots))
        job_output.write_summary(settings.pending_path, name, dataclasses.asdict(shard))

    def _draws(self, slots: range) -> Iterator[drawing.Draw]:
        """A shard's draws, no more at once than a shard has by default, however large it is."""
        plan, num_frames = self._settings.plan, self._settings.mel_params.context_frames
        for first in range(0, len(slots), _TRIPLETS_PER_SHARD):
            block = slots[first : first + _TRIPLETS_PER_SHARD]
            yield from drawing.draw_triplets(block, plan, self._totals, self._load_bucket, num_frames)


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


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a job would write: triplets by constraint, bytes and files."""

    counts: dict[str, int]
    num_bytes: int
    num_shards: int

    def __str__(self) -> str:
        shown = ", ".join(f"{count:,} {constraint}" for constraint, count in self.counts.items())
        return (
            f"{sum(self.counts.values()):,} triplets ({shown}), about {self.num_bytes / 1e9:.3g} GB "
            f"in {self.num_shards:,} files; nothing was written"
        )


def _estimate(
    constraints: Sequence[str], plan: drawing.Plan, mel_params: mel.MelParams, num_shards: int
) -> Estimate:
    """The size of a set, from the size of one record with ids of 24 characters."""
    window = bytes(mel_params.context_frames * mel_params.mel_bins * 2)
    ref = examples.WindowRef("c" * 24, "r" * 24, 0.0)
    record = examples.encode_triplet((window,) * 3, (ref,) * 3, plan.constraints[0].name)
    # Each record has its length and two checksums before and behind it.
    num_bytes = plan.count * (len(record) + 16)
    return Estimate(dict(zip(constraints, plan.counts, strict=True)), num_bytes, num_shards)


def sample_triplets(
    clips: str,
    output: str,
    *,
    constraints: tuple[str, ...] = ("proximity:10",),
    count: int = 20000,
    shares: tuple[float, ...] = (),
    exclude_folds: tuple[str, ...] = (),
    seed: int = 0,
    num_shards: int = 0,
    allow_repeats: bool = False,
    dry_run: bool = False,
    overwrite: bool = False,
    runner: str = "local",
    num_workers: int = 0,
    worker_mode: str = "threads",
    beam_flags: tuple[str, ...] = (),
) -> examples.DatasetInfo | Estimate:
    """Samples triplets from clip examples under semantic constraints.

    The constraints of the 2018 paper, each with its default: `labels` (explicit labels, every class as
    often), `noise:0.5` (standard deviation), `translation:10` (most mel bins up or down; any time shift),
    `mixing:0.25` (weight of the negative), `proximity:10` (seconds between anchor and positive, less than).
    Negatives come from another recording; no triplet comes twice unless repeats are allowed. The same
    input, parameters and seed give the same records on any runner. Sets merge by listing their folders.
    Flags that are not of this job go to Apache Beam.

    Args:
      clips: the folder of clip examples that the job `examples` made.
      output: the folder to make.
      constraints: one or more, each `name:parameter`, with spaces or commas between.
      count: how many triplets in all, exactly.
      shares: how the count is shared among the constraints; equally without.
      exclude_folds: folds to leave out, because they are for testing.
      seed: what every random draw depends on.
      num_shards: files to write; 0 for one per 2048 triplets.
      allow_repeats: where the count is more than there are different triplets, let some come again.
      dry_run: only say how many triplets, bytes and files it would be.
      overwrite: replace a finished output.
      runner: `local`, or a Beam runner by name, such as DataflowRunner.
      num_workers: workers on this machine, 0 for one a core.
      worker_mode: `threads` or `processes`.

    Returns:
      The sidecar of the set, or the estimate of a dry run.

    Raises:
      DatasetError: the clips are missing, incomplete or damaged; ValueError: a parameter is out of range;
      ImpossibleError: the clips cannot give these triplets; JobError: the output exists, or the pipeline
      failed.
    """
    if count < 1 or num_shards < 0:
        raise ValueError(f"count must be at least 1 and num_shards at least 0, got {count} and {num_shards}.")
    info = examples.read_dataset_info(clips, kind=examples.CLIPS)
    examples.require_folds(info, exclude_folds, clips)
    plan = drawing.make_plan(info, constraints, count, shares, seed)
    texts = [sampling.constraint_text(constraint) for constraint in plan.constraints]
    options = running.beam_options(
        runner=runner, num_workers=num_workers, worker_mode=worker_mode, beam_flags=beam_flags
    )
    num_shards = num_shards or -(-count // _TRIPLETS_PER_SHARD)
    if dry_run:
        return _estimate(texts, plan, info.mel_params, num_shards)
    with job_output.pending_output(output, overwrite=overwrite) as pending:
        clip_paths = tuple(os.path.join(clips, shard.name) for shard in info.shards)
        settings = _Settings(pending.path, clip_paths, info.mel_params, plan, num_shards)
        totals = window_index.build_index(
            clips, info, pending, plan=plan, exclude_folds=exclude_folds, options=options
        )
        num_frames = info.mel_params.context_frames
        drawing.require_possible(plan, totals, num_frames, clips, allow_repeats=allow_repeats)
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
                "constraints": texts,
                "counts": list(plan.counts),
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
