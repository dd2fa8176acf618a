"""The job `examples`: a manifest -> sharded clip examples, a sidecar, and what was rejected and why.

A clip's shard is a hash of its id. One task writes one shard, its clips in the order of their ids, so the
shards are the same bytes whatever the runner and the number of workers; no audio is ever shuffled. A
clip longer than `max_clip_seconds` becomes several examples, cut on window boundaries: together they
hold the same context windows as the whole file would.
"""

import argparse
import contextlib
import dataclasses
import math
import os
import pickle
import tempfile
from collections.abc import Iterator

import apache_beam as beam

from tfsound import arguments, datasets, examples, media, mel
from tfsound.beam import manifests, plans, running, worker_checks
from tfsound.beam import output as job_output
from tfsound.beam.clips import clip_examples, prepare_mel_energies
from tfsound.beam.progress import WorkerProgress, progress_bar

_SPOOL_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What every worker must know."""

    pending_path: str
    mel_params: mel.MelParams
    max_clip_seconds: float
    num_shards: int
    frames_per_second: float = 0.0

    @property
    def windows_per_piece(self) -> int:
        return max(1, int(self.max_clip_seconds / self.mel_params.context_seconds + 1e-6))


class _Spool:
    """Records of one clip, held back until the clip is known to be good; large ones wait on disk."""

    def __init__(self):
        self._file = tempfile.SpooledTemporaryFile(_SPOOL_BYTES)  # noqa: SIM115

    def append(self, record: bytes) -> None:
        pickle.dump(record, self._file)

    def __iter__(self) -> Iterator[bytes]:
        self._file.seek(0)
        with contextlib.suppress(EOFError):
            while True:
                yield pickle.load(self._file)

    def close(self) -> None:
        self._file.close()


class _ShardTask:
    """The writing of one shard: good clips to the shard, the others to `failures`, all counted."""

    def __init__(self, settings: _Settings, number: int):
        self.name = f"clips-{number:05d}-of-{settings.num_shards:05d}.tfrecord"
        self._settings = settings
        self._progress = WorkerProgress(settings.pending_path, self.name)
        self._num_examples = self._num_windows = self._num_images = self._num_without_images = 0
        self._labels: set[str] = set()
        self._folds: set[str] = set()
        self._failures: list[dict] = []

    def write(self, rows) -> dict:
        """Writes the shard; returns its summary for `_collect`."""
        with job_output.shard_writer(self._settings.pending_path, self.name) as writer:
            rows = list(rows)
            for place, row, reason in manifests.in_order(rows):
                if reason:
                    self._reject(place, row, reason)
                else:
                    self._write_clip(place, row, writer)
        self._progress.write()
        shard = job_output.finished_shard(self._settings.pending_path, self.name, self._num_examples)
        return {
            "num_rows": len(rows),
            "shard": dataclasses.asdict(shard),
            "num_windows": self._num_windows,
            "num_images": self._num_images,
            "num_clips_without_images": self._num_without_images,
            "labels": sorted(self._labels),
            "folds": sorted(self._folds),
            "failures": self._failures,
        }

    def _write_clip(self, place: tuple[str, int], row: datasets.ManifestRow, writer) -> None:
        settings, num_windows, num_examples, num_images = self._settings, 0, 0, 0
        with contextlib.closing(_Spool()) as spool:
            try:
                for clip in clip_examples(
                    row,
                    settings.mel_params,
                    settings.windows_per_piece,
                    frames_per_second=settings.frames_per_second,
                    on_frame=self._progress.add,
                ):
                    spool.append(examples.encode_clip(clip))
                    num_examples += 1
                    num_windows += settings.mel_params.num_windows(len(clip.mel_energy))
                    num_images += len(clip.frame_jpegs)
                    self._progress.add()  # a long file, too, notices that the job was cancelled
            except ValueError as error:  # MediaError is one
                self._reject(place, row, str(error))
                return
            for record in spool:
                writer.write(record)
        self._num_examples += num_examples
        self._num_windows += num_windows
        self._num_images += num_images
        counts = {"clips": 1, "windows": num_windows}
        if settings.frames_per_second:
            self._num_without_images += not num_images
            counts["images"] = num_images
        self._labels.update(row.labels)
        self._folds.add(row.fold)
        self._progress.add(**counts)

    def _reject(self, place: tuple[str, int], row, reason: str) -> None:
        self._failures.append(manifests.failure(place, row, reason))
        self._progress.add(clips=1, failures=1)


class _WriteShard(beam.DoFn):
    """(shard number, its numbered rows) -> the shard and its summary, on disk."""

    def __init__(self, settings: _Settings):
        self._settings = settings

    def process(self, shard_and_rows):
        number, rows = shard_and_rows
        task = _ShardTask(self._settings, number)
        job_output.write_summary(self._settings.pending_path, task.name, task.write(rows))


@dataclasses.dataclass
class ComputeMelExamples(beam.PTransform):
    """A collection of manifest paths -> clip examples on disk, and their summaries beside them."""

    settings: _Settings

    def expand(self, manifest_paths):
        return (
            manifest_paths
            | "SpreadManifests" >> beam.Reshuffle()
            | "ReadManifest" >> beam.ParDo(manifests.ReadManifest(self.settings.num_shards))
            | "GatherShards" >> beam.GroupByKey()
            | "WriteShards" >> beam.ParDo(_WriteShard(self.settings))
        )


def _sample(settings: _Settings, rows: manifests.Summary) -> plans.Sample:
    """Makes the examples of some rows, as the job does it."""
    prepare_mel_energies(settings.mel_params)
    with plans.scratch() as pending:
        task = _ShardTask(dataclasses.replace(settings, pending_path=pending.path), 0)
        with plans.Stopwatch() as watch:
            summary = task.write(rows.sample)
        plans.require_readable(summary["failures"], len(rows.sample))
        return plans.Sample(
            num_clips=len(rows.sample),
            sound_seconds=plans.sound_seconds(os.path.join(pending.path, task.name), settings.mel_params),
            num_bytes=summary["shard"]["num_bytes"],
            shuffle_bytes=manifests.shuffle_bytes(rows.sample),
            core_seconds=watch.core_seconds,
            num_rejected=len(summary["failures"]),
        )


def make_examples(
    manifest: str,
    output: str,
    *,
    mel_preset: str = "audioset",
    context_seconds: float = 0.0,
    num_channels: int = 1,
    max_clip_seconds: float = 57.6,
    frames_per_second: float = 0.0,
    max_failure_fraction: float = 0.1,
    num_shards: int = 0,
    dry_run: bool = False,
    overwrite: bool = False,
    runner: str = "local",
    num_workers: int = 0,
    worker_mode: str = "threads",
    beam_flags: tuple[str, ...] = (),
) -> examples.DatasetInfo | plans.JobPlan:
    """Decodes the clips of a manifest into TFRecords of mel energies and, of videos, frames.

    The output folder holds the shards, `dataset_info.json`, and `failures.jsonl`: every clip that was
    rejected, with its reason. Flags that are not of this job go to Apache Beam.

    Args:
      manifest: the manifest, CSV or JSON Lines, on any Beam file system; or a quoted pattern for several.
      output: the folder to make.
      mel_preset: the front end, `audioset`, `yamnet`, or `esresnet` for 44.1 kHz and three bands of the plain
        spectrum as channels of an image.
      context_seconds: how much of a sound an encoder sees at a time; 0 for the preset's, 0.96 s, or 5 s with
        `esresnet`. A shorter clip is padded with silence.
      num_channels: 1 for mono, to which all channels are mixed, 2 for stereo, where mono is twice the same.
      max_clip_seconds: longer clips become several examples, cut on window boundaries.
      frames_per_second: how many frames of video a second to take, or copies of a clip's still picture, as
        JPEGs of 128 x 128; 0 for none. The paper takes 1.
      max_failure_fraction: the job fails when more than this fraction of the clips is rejected.
      num_shards: files to write, less those that no clip falls into; 0 for one per 32 clips, 32 to 1024.
      dry_run: write nothing, and say what it would take: hours of sound, bytes, core hours, files; from a
        sample of the clips that is really decoded.
      overwrite: replace a finished output.
      runner: `local`, or a Beam runner by name, such as DataflowRunner.
      num_workers: workers on this machine, 0 for one a core.
      worker_mode: `threads` or `processes`.

    Returns:
      The sidecar of the set, or the plan of a dry run.

    Raises:
      ManifestError: the manifest cannot be used as a whole; ValueError: a parameter is out of range;
      JobError: too many clips were rejected, the output exists, or the pipeline failed.
    """
    if not 0 < max_clip_seconds < math.inf or not 0 <= max_failure_fraction <= 1 or num_shards < 0:
        raise ValueError(
            "max_clip_seconds must be positive and finite, max_failure_fraction in [0, 1] and num_shards at "
            f"least 0, got {max_clip_seconds}, {max_failure_fraction} and {num_shards}."
        )
    if frames_per_second:
        media.check_frames_per_second(frames_per_second)
    mel_params = mel.preset(mel_preset, context_seconds=context_seconds, num_channels=num_channels)
    options = running.beam_options(
        runner=runner, num_workers=num_workers, worker_mode=worker_mode, beam_flags=beam_flags
    )
    worker_checks.require_reachable(options, inputs=(manifest,), output=output)
    if not dry_run:
        job_output.require_free(output, overwrite=overwrite)
    paths = manifests.find_manifests(manifest)
    rows = manifests.summarize(paths, num_sampled=plans.NUM_DECODED if dry_run else 0, seed=plans.SEED)
    worker_checks.require_reachable(options, inputs=(rows.local_uri,))
    num_rows = rows.num_rows
    num_shards = num_shards or manifests.default_num_shards(num_rows)
    if dry_run:
        settings = _Settings("", mel_params, max_clip_seconds, num_shards, frames_per_second)
        return plans.scaled(
            examples.CLIPS, _sample(settings, rows), num_clips=num_rows, num_shards=num_shards
        )
    with job_output.pending_output(output, overwrite=overwrite) as pending:
        settings = _Settings(pending.path, mel_params, max_clip_seconds, num_shards, frames_per_second)
        pending.write_inputs(paths)
        with progress_bar(pending, description="examples", total=num_rows, unit="clips"):
            running.run_pipeline(
                lambda pipeline: (
                    pipeline
                    | "Manifests" >> worker_checks.ReadInputs(pending.path)
                    | ComputeMelExamples(settings)
                ),
                options,
                cancel=pending.cancel,
            )
        summaries = pending.take_summaries()
        job_output.require_all(sum(summary["num_rows"] for summary in summaries), num_rows, "clips")
        failures = manifests.failures_of(summaries)
        path = pending.write_failures(failures)
        manifests.require_few_failures(failures, num_rows, max_failure_fraction, path)
        parameters = {"mel_preset": mel_preset, "max_clip_seconds": max_clip_seconds}
        if frames_per_second:
            parameters["frames_per_second"] = frames_per_second
        info = examples.DatasetInfo(
            kind=examples.CLIPS,
            mel_params=mel_params,
            shards=tuple(examples.Shard(**summary["shard"]) for summary in summaries),
            num_windows=sum(summary["num_windows"] for summary in summaries),
            label_names=tuple(sorted({label for summary in summaries for label in summary["labels"]})),
            folds=tuple(sorted({fold for summary in summaries for fold in summary["folds"]})),
            num_clips=num_rows - len(failures),
            num_failures=len(failures),
            num_images=sum(summary["num_images"] for summary in summaries),
            num_clips_without_images=sum(summary["num_clips_without_images"] for summary in summaries),
            parameters=parameters,
            command=job_output.command_line("examples", manifest, output),
        )
        pending.publish(info)
    return info


def run(argv: list[str] | None = None) -> examples.DatasetInfo:
    """The job from a command line: `python -m tfsound.beam.examples MANIFEST OUTPUT ...`."""
    parser = argparse.ArgumentParser(prog="tfsound examples", description=arguments.summary(make_examples))
    arguments.add_arguments(parser, make_examples)
    return arguments.call(parser, make_examples, argv)


if __name__ == "__main__":
    run()
