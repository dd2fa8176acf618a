"""What a job would take, said beforehand: from what it is to read, and from a sample of that really done.

The sample is done by the job's own code, one clip after another, in a temporary folder of this machine; what
it takes of time is processor time of all threads. All else is proportion: so much for each clip that is read,
and for each example that is drawn. The time of the engine itself is not in it, nor waiting for disks and
networks.
"""

import contextlib
import dataclasses
import itertools
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from apache_beam import coders

from tfsound import examples, mel, sampling
from tfsound.beam import output as job_output

# Clips that are decoded or embedded, clips that are read, examples that are drawn for a sample.
NUM_DECODED, NUM_READ, NUM_DRAWN = 32, 256, 1024
SEED = 0
_READ_PER_SHARD = 32


@dataclasses.dataclass(frozen=True)
class Sample:
    """The work of a job, done on some of its clips.

    Attributes:
      num_clips: that were tried, of which `num_rejected` cannot be read or are not wanted.
      sound_seconds: how long they sound, together.
      num_bytes: what was written of them; where examples were drawn, of these.
      shuffle_bytes: what went from worker to worker for them, as Beam encodes it.
      core_seconds: processor time for the clips.
      num_drawn: examples that were drawn from them.
      draw_core_seconds: processor time for these.
    """

    num_clips: int
    sound_seconds: float
    num_bytes: int
    shuffle_bytes: int
    core_seconds: float
    num_rejected: int = 0
    num_drawn: int = 0
    draw_core_seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class JobPlan:
    """What a job would read, write, shuffle and take.

    Attributes:
      kind: of the set that it makes.
      counts: how many examples by what they are, exactly, as far as they are known before.
      num_clips: that it reads, and `hours` of sound in them.
      num_bytes: of the output; `num_shards` files.
      sample: what the figures come from.
    """

    kind: str
    counts: dict[str, int]
    num_clips: int
    hours: float
    num_bytes: int
    shuffle_bytes: int
    core_hours: float
    num_shards: int
    sample: Sample

    def __str__(self) -> str:
        shown = ", ".join(f"{count:,} {name}" for name, count in self.counts.items() if name != self.kind)
        shown = f" ({shown})" if shown else ""
        sample = self.sample
        drawn = f", {sample.num_drawn:,} {self.kind} drawn from them" if sample.num_drawn else ""
        rejected = f", {sample.num_rejected:,} of them of no use" if sample.num_rejected else ""
        return (
            f"{sum(self.counts.values()):,} {self.kind}{shown}, about {_rounded(self.num_bytes / 1e9)} GB in "
            f"{self.num_shards:,} files\n"
            f"  reads     {self.num_clips:,} clips, {_rounded(self.hours)} hours of sound\n"
            f"  shuffles  about {_rounded(self.shuffle_bytes / 1e9)} GB\n"
            f"  takes     about {_rounded(self.core_hours)} core hours, without those of the runner itself\n"
            f"  measured on {sample.num_clips:,} clips{rejected}{drawn}, seed {SEED}; nothing was written"
        )


def _rounded(value: float) -> str:
    """Three digits, and not as a power of ten."""
    text = f"{float(f'{value:.3g}'):,.12f}".rstrip("0").rstrip(".")
    return text or "0"


def scaled(
    kind: str,
    sample: Sample,
    *,
    num_clips: int,
    num_shards: int,
    counts: Mapping[str, int] | None = None,
    hours: float | None = None,
) -> JobPlan:
    """The plan of a job on so many clips like those of the sample.

    Args:
      counts: of examples that are drawn; without, there is one of each clip that can be used.
      hours: of sound, where it is known; else in proportion.
    """
    clips = num_clips / max(1, sample.num_clips)
    drawn = sum(counts.values()) / sample.num_drawn if counts and sample.num_drawn else 0.0
    core_seconds = clips * sample.core_seconds + drawn * sample.draw_core_seconds
    return JobPlan(
        kind=kind,
        counts=dict(counts or {kind: round(clips * (sample.num_clips - sample.num_rejected))}),
        num_clips=num_clips,
        hours=clips * sample.sound_seconds / 3600 if hours is None else hours,
        num_bytes=round((drawn if sample.num_drawn else clips) * sample.num_bytes),
        shuffle_bytes=round(clips * sample.shuffle_bytes),
        core_hours=core_seconds / 3600,
        num_shards=num_shards,
        sample=sample,
    )


@contextlib.contextmanager
def scratch() -> Iterator[job_output.PendingOutput]:
    """A pending output for a sample, in a temporary folder, of which nothing is published."""
    with tempfile.TemporaryDirectory(prefix="tfsound-dry-run-") as folder:
        yield job_output.PendingOutput(os.path.join(folder, "sample"), overwrite=False)


class Stopwatch:
    """Processor time of this process, all threads, between entering and leaving: `core_seconds`."""

    core_seconds = 0.0

    def __enter__(self) -> "Stopwatch":
        self._start = time.process_time()
        return self

    def __exit__(self, *error) -> None:
        self.core_seconds += time.process_time() - self._start


def encoded_bytes(elements: Iterable) -> int:
    """How many bytes elements of no declared type take when they are shuffled."""
    coder = coders.FastPrimitivesCoder()
    return sum(len(coder.encode(element)) for element in elements)


def sampled_records(paths: Sequence[str], num_read: int = NUM_READ) -> Iterator[tuple[int, int, bytes]]:
    """(number of its shard, its offset, record) of so many clips of a set, from shards that the seed chose.

    Some of each shard, so that they come from several: those that lie together may be alike.
    """
    per_shard = max(_READ_PER_SHARD, -(-num_read // max(1, len(paths))))
    for number in sampling.random_generator(SEED, "shards").permutation(len(paths)).tolist():
        for offset, record in itertools.islice(
            examples.read_records(paths[number]), min(per_shard, num_read)
        ):
            yield number, offset, record
            num_read -= 1
        if num_read <= 0:
            return


def require_readable(failures: Sequence[Mapping], num_clips: int) -> None:
    """Raises: JobError where no clip of a sample could be used."""
    if len(failures) == num_clips:
        raise job_output.JobError(
            f"none of {num_clips} clips that were tried can be used; the first, {failures[0]['clip_id']!r}: "
            f"{failures[0]['reason']} Mend the manifest or the files."
        )


def sound_seconds(path: str, mel_params: mel.MelParams) -> float:
    """How long the clips of a shard sound."""
    clips = (
        examples.decode_clip(record, mel_params.num_columns) for _, record in examples.read_records(path)
    )
    return sum(len(clip.mel_energy) for clip in clips) * mel_params.hop_seconds
