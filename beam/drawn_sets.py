"""What the jobs `triplets` and `pairs` share: clip examples -> a set of examples, each decided by its number.

One task writes the shards of a range of numbers, finding windows and frames through the index of
`window_index` and reading them where they lie. So counts are exact, the same bytes come from any runner and
any number of workers, memory does not grow with the count, no class or recording is a hot key, and nothing
but the index is shuffled.

Examples are random, so those of one block lie in nearly all buckets of the index, and each of these is
loaded once or twice for them. A block therefore grows with the number of buckets, over as many shards as it
takes, and loading costs each example the same however many clips there are, until memory sets the bound.
"""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import apache_beam as beam

from tfsound import examples, mel, windows
from tfsound.beam import output as job_output
from tfsound.beam import plans, running, window_index
from tfsound.beam.progress import WorkerProgress, progress_bar

EXAMPLES_PER_SHARD = 2048
# A bucket is loaded in 0.1 to 2 ms, an example drawn and written in 0.2 ms.
_EXAMPLES_PER_BUCKET = 64
_MAX_EXAMPLES_PER_BLOCK = 1 << 16  # 1.8 kB each while they are drawn


class DrawnSet(Protocol):
    """What is drawn: `kind` is that of the set, `plan` decides its examples and their `plan.count`.

    A worker gets a copy, so it holds nothing large.
    """

    kind: str
    plan: windows.IndexPlan
    mel_params: mel.MelParams

    def require_possible(self, totals: windows.Totals, where: str) -> None:
        """Raises: ImpossibleError when the clips of `where` cannot give what the plan asks for."""

    def failures(self, totals: windows.Totals) -> list[dict]:
        """What of the clips is in no example, and why: the lines of `failures.jsonl`, a bounded number."""

    def records(
        self,
        slots: range,
        totals: windows.Totals,
        load_bucket: Callable[[int], windows.Bucket],
        reader: window_index.WindowReader,
    ) -> Iterator[bytes]:
        """The serialised examples of these numbers, in order."""

    def sidecar_fields(self, totals: windows.Totals) -> dict:
        """What the sidecar says of such a set: fields of `examples.DatasetInfo`."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What every worker must know; the index lies in files of the pending output."""

    pending_path: str
    drawn_set: DrawnSet
    num_shards: int
    num_tasks: int

    def shard_slots(self, number: int) -> range:
        return part(range(self.drawn_set.plan.count), number, self.num_shards)


class _WriteShards(beam.DoFn):
    """(task number) -> its shards and their summaries, on disk."""

    def __init__(self, settings: Settings):
        self._settings = settings

    def setup(self):
        settings = self._settings
        self._totals = window_index.load_totals(settings.pending_path)
        self._load_bucket = functools.lru_cache(maxsize=2)(
            functools.partial(window_index.load_bucket, settings.pending_path)
        )
        clip_paths = [path for _, path in job_output.read_inputs(settings.pending_path)]
        self._reader = window_index.WindowReader(clip_paths, settings.drawn_set.mel_params)

    def process(self, task: int):
        settings = self._settings
        shards = part(range(settings.num_shards), task, settings.num_tasks)
        records = self.records(
            range(settings.shard_slots(shards[0]).start, settings.shard_slots(shards[-1]).stop)
        )
        for number in shards:
            self.write_shard(number, records)

    def records(self, slots: range) -> Iterator[bytes]:
        """The examples of the slots, in order, drawn a block at a time."""
        num_blocks = -(-len(slots) // examples_per_block(self._totals.num_buckets))
        for number in range(num_blocks):
            yield from self._settings.drawn_set.records(
                part(slots, number, num_blocks), self._totals, self._load_bucket, self._reader
            )

    def write_shard(self, number: int, records: Iterator[bytes]) -> examples.Shard:
        """Writes as many of the records as the shard holds, and its summary."""
        settings, kind = self._settings, self._settings.drawn_set.kind
        name = f"{kind}-{number:05d}-of-{settings.num_shards:05d}.tfrecord"
        progress = WorkerProgress(settings.pending_path, name)
        num_examples = 0
        with job_output.shard_writer(settings.pending_path, name) as writer:
            for record in itertools.islice(records, len(settings.shard_slots(number))):
                writer.write(record)
                num_examples += 1
                progress.add(**{kind: 1})
        progress.write()
        shard = job_output.finished_shard(settings.pending_path, name, num_examples)
        job_output.write_summary(settings.pending_path, name, dataclasses.asdict(shard))
        return shard


def part(whole: range, number: int, num_parts: int) -> range:
    """One of so many parts of a range, which are alike in size give or take one, and together all of it."""
    return whole[len(whole) * number // num_parts : len(whole) * (number + 1) // num_parts]


def examples_per_block(num_buckets: int) -> int:
    """How many examples are drawn at a time, at most, from an index of so many buckets."""
    return max(EXAMPLES_PER_SHARD, min(_EXAMPLES_PER_BUCKET * num_buckets, _MAX_EXAMPLES_PER_BLOCK))


def _task_numbers(num_tasks: int) -> Iterable[int]:
    return range(num_tasks)


def num_tasks_of(count: int, num_shards: int, num_buckets: int) -> int:
    """How many tasks write a set: one a block, as far as there are shards for them."""
    return min(num_shards, -(-count // examples_per_block(num_buckets)))


@dataclasses.dataclass
class SampleExamples(beam.PTransform):
    """A collection of task numbers -> the shards, on disk."""

    settings: Settings

    def expand(self, task_numbers):
        return (
            task_numbers
            | "SpreadTasks" >> beam.Reshuffle()
            | "WriteShards" >> beam.ParDo(_WriteShards(self.settings))
        )


def num_shards_of(count: int, num_shards: int) -> int:
    """How many files to write: as many as asked for, or by default one for `EXAMPLES_PER_SHARD`.

    Raises:
      ValueError: no examples, or a negative number of files.
    """
    if count < 1 or num_shards < 0:
        raise ValueError(f"count must be at least 1 and num_shards at least 0, got {count} and {num_shards}.")
    return num_shards or -(-count // EXAMPLES_PER_SHARD)


def plan_examples(
    clips: str,
    *,
    info: examples.DatasetInfo,
    drawn_set: DrawnSet,
    counts: dict[str, int],
    num_shards: int,
    exclude_folds: Sequence[str],
) -> plans.JobPlan:
    """What `sample_examples` would take, from some of the clips and examples drawn from these.

    Args:
      counts: the examples of the set by what they are.

    Raises:
      ImpossibleError: not one example can be drawn from the clips; DatasetError: a damaged shard.
    """
    paths = [os.path.join(clips, shard.name) for shard in info.shards]
    num_read = plans.NUM_READ
    while True:
        with plans.scratch() as pending:
            try:
                sample = _sample(paths, num_read, pending, drawn_set, exclude_folds, clips)
                break
            except windows.ImpossibleError:
                # What a few clips cannot give, such as two of a rare class, more of them may.
                if num_read >= info.num_examples:
                    raise
        num_read *= 4
    hours = info.num_windows * info.mel_params.context_seconds / 3600
    return plans.scaled(
        drawn_set.kind, sample, num_clips=info.num_examples, num_shards=num_shards, counts=counts, hours=hours
    )


def _sample(
    paths: Sequence[str],
    num_read: int,
    pending: job_output.PendingOutput,
    drawn_set: DrawnSet,
    exclude_folds: Sequence[str],
    where: str,
) -> plans.Sample:
    """Indexes some clips and draws some examples from these, as the job does it."""
    plan, mel_params = drawn_set.plan, drawn_set.mel_params
    with plans.Stopwatch() as of_clips:
        num_clips, indexed, totals = window_index.index_sample(
            paths, num_read, pending, mel_params, plan, exclude_folds
        )
    # Few clips give few examples, of which some come again here: that takes no less time.
    dataclasses.replace(drawn_set, allow_repeats=True).require_possible(totals, where)
    num_drawn = min(plan.count, plans.NUM_DRAWN)
    # The first of the whole set, so that all that it is made of is in the sample, as often.
    settings = Settings(pending.path, drawn_set, plan.count // num_drawn, 1)
    task = _WriteShards(settings)
    task.setup()
    next(task.records(range(1)))  # what is done once a worker is none of the sample's
    with plans.Stopwatch() as of_draws:
        shard = task.write_shard(0, task.records(settings.shard_slots(0)))
    return plans.Sample(
        num_clips=num_clips,
        sound_seconds=totals.num_windows * mel_params.context_seconds,
        num_bytes=shard.num_bytes,
        shuffle_bytes=plans.encoded_bytes(indexed),
        core_seconds=of_clips.core_seconds,
        num_drawn=shard.num_examples,
        draw_core_seconds=of_draws.core_seconds,
    )


def sample_examples(
    clips: str,
    output: str,
    *,
    info: examples.DatasetInfo,
    drawn_set: DrawnSet,
    num_shards: int,
    exclude_folds: Sequence[str],
    overwrite: bool,
    options,
) -> examples.DatasetInfo:
    """Indexes the clips, writes the shards, and publishes them with a sidecar.

    Args:
      info: the sidecar of the clips.
      options: of Beam, as `running.beam_options` gives them.

    Raises:
      ImpossibleError: the clips cannot give what is asked for; JobError: the output exists, the clips are
      damaged, or the pipeline failed.
    """
    kind, count = drawn_set.kind, drawn_set.plan.count
    with job_output.pending_output(output, overwrite=overwrite) as pending:
        totals = window_index.build_index(
            clips, info, pending, plan=drawn_set.plan, exclude_folds=exclude_folds, options=options
        )
        drawn_set.require_possible(totals, clips)
        num_tasks = num_tasks_of(count, num_shards, totals.num_buckets)
        settings = Settings(pending.path, drawn_set, num_shards, num_tasks)
        with progress_bar(pending, description=kind, total=count, unit=kind):
            running.run_pipeline(
                lambda pipeline: (
                    pipeline
                    | "NumTasks" >> beam.Create([num_tasks], reshuffle=False)
                    | "Tasks" >> beam.FlatMap(_task_numbers)
                    | SampleExamples(settings)
                ),
                options,
                cancel=pending.cancel,
            )
        shards = tuple(examples.Shard(**summary) for summary in pending.take_summaries())
        job_output.require_all(sum(shard.num_examples for shard in shards), count, kind)
        sidecar = examples.DatasetInfo(
            kind=kind,
            mel_params=info.mel_params,
            shards=shards,
            folds=tuple(fold for fold in info.folds if fold not in exclude_folds),
            command=job_output.command_line(kind, clips, output),
            **drawn_set.sidecar_fields(totals),
        )
        failures = drawn_set.failures(totals)
        if failures:
            pending.write_failures(failures)
        pending.publish(sidecar)
    return sidecar
