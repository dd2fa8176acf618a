"""The job `instances`: sets of clip examples -> their clips, each with an id by which it is told from all.

One task reads one shard of clips and writes one of instances, a small record each, in the order of their ids;
`examples.instances` says what an id is. Whether two clips have one name is found by hashes, so that no list
of all names exists anywhere.
"""

import argparse
import dataclasses
import itertools
import os
from collections.abc import Sequence

import apache_beam as beam

from tfsound import arguments, examples, mel, sampling
from tfsound.beam import output as job_output
from tfsound.beam import plans, running, worker_checks
from tfsound.beam.progress import WorkerProgress, progress_bar

_NUM_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What every worker must know."""

    pending_path: str
    num_columns: int
    folds: tuple[str, ...]
    exclude_folds: tuple[str, ...]


class _WriteShard(beam.DoFn):
    """(name, path of a shard of clips) -> its instances, on disk; (hash, id) of each clip."""

    def __init__(self, settings: _Settings):
        self._settings = settings

    def process(self, name_and_path):
        (name, path), settings = name_and_path, self._settings
        progress = WorkerProgress(settings.pending_path, name)
        num_instances = 0
        with job_output.shard_writer(settings.pending_path, name) as writer:
            for clip in examples.admitted_clips(
                path, settings.num_columns, folds=settings.folds, exclude_folds=settings.exclude_folds
            ):
                writer.write(examples.encode_instance(clip))
                num_instances += 1
                progress.add(clips=1)
                yield sampling.stable_hash(clip.clip_id), clip.clip_id
        progress.write()
        shard = job_output.finished_shard(settings.pending_path, name, num_instances)
        summary = {"shard": dataclasses.asdict(shard)}
        job_output.write_summary(settings.pending_path, name, summary)


class _ReportRepeated(beam.DoFn):
    """(hash, ids of clips) -> the ids that occur twice, on disk."""

    def __init__(self, pending_path: str):
        self._pending_path = pending_path

    def process(self, hash_and_ids):
        number, clip_ids = hash_and_ids
        clip_ids = sorted(clip_ids)
        repeated = sorted({one for one, other in itertools.pairwise(clip_ids) if one == other})
        if repeated:
            job_output.write_summary(self._pending_path, f"repeated-{number:x}", {"repeated": repeated})


@dataclasses.dataclass
class FindInstances(beam.PTransform):
    """A collection of (name, path of a shard of clips) -> their instances on disk, and summaries beside."""

    settings: _Settings

    def expand(self, shards):
        return (
            shards
            | "SpreadShards" >> beam.Reshuffle()
            | "WriteShards" >> beam.ParDo(_WriteShard(self.settings))
            | "GatherIds" >> beam.GroupByKey()
            | "ReportRepeated" >> beam.ParDo(_ReportRepeated(self.settings.pending_path))
        )


def _sample(paths: Sequence[str], settings: _Settings, mel_params: mel.MelParams) -> plans.Sample:
    """Reads and numbers some clips, as the job does it."""
    num_clips, num_frames, shuffled = 0, 0, []
    with plans.scratch() as pending:
        with plans.Stopwatch() as watch, job_output.shard_writer(pending.path, "sample") as writer:
            for _, _, record in plans.sampled_records(paths):
                clip = examples.decode_clip(record, settings.num_columns)
                num_clips += 1
                if examples.admits(clip.fold, settings.folds, settings.exclude_folds):
                    writer.write(examples.encode_instance(clip))
                    num_frames += len(clip.mel_energy)
                    shuffled.append((sampling.stable_hash(clip.clip_id), clip.clip_id))
        num_bytes = job_output.finished_shard(pending.path, "sample", len(shuffled)).num_bytes
    return plans.Sample(
        num_clips=num_clips,
        sound_seconds=num_frames * mel_params.hop_seconds,
        num_bytes=num_bytes,
        shuffle_bytes=plans.encoded_bytes(shuffled),
        core_seconds=watch.core_seconds,
        num_rejected=num_clips - len(shuffled),
    )


def assign_instances(
    clips: tuple[str, ...],
    output: str,
    *,
    folds: tuple[str, ...] = (),
    exclude_folds: tuple[str, ...] = (),
    extends: str = "",
    dry_run: bool = False,
    overwrite: bool = False,
    runner: str = "local",
    num_workers: int = 0,
    worker_mode: str = "threads",
    beam_flags: tuple[str, ...] = (),
) -> examples.DatasetInfo | plans.JobPlan:
    """Gives every clip of some sets an id from 0 to n - 1, for learning to tell each from all others.

    Ids depend on the sets and their order alone. Sets that are added behind the others add ids, and `extends`
    makes sure that the old clips keep theirs. Flags that are not of this job go to Apache Beam.

    Args:
      clips: folders of clip examples of one front end.
      output: the folder to make.
      folds: the folds whose clips are instances; all without.
      exclude_folds: folds to leave out, because they are for testing.
      extends: an earlier output of this job, whose clips are to keep their ids.
      dry_run: write nothing, and say what it would take: hours of sound, bytes, core hours, files; from a
        sample of the clips.
      overwrite: replace a finished output.
      runner: `local`, or a Beam runner by name, such as DataflowRunner.
      num_workers: workers on this machine, 0 for one a core.
      worker_mode: `threads` or `processes`.

    Returns:
      The sidecar of the set: `num_examples` is n; or the plan of a dry run.

    Raises:
      DatasetError: clips that are missing, damaged, of different front ends or without such a fold, or not
      those of `extends`; ValueError: a parameter is out of range; JobError: fewer than two clips, two of one
      name, the output exists, or the pipeline failed.
    """
    options = running.beam_options(
        runner=runner, num_workers=num_workers, worker_mode=worker_mode, beam_flags=beam_flags
    )
    worker_checks.require_reachable(options, inputs=clips, output=output)
    mel_params, infos = examples.read_clip_infos(clips, folds=folds, exclude_folds=exclude_folds)
    # A folder is looked for from wherever the instances are read.
    clips = tuple(path if "://" in path else os.path.abspath(path) for path in clips)
    parameters = {
        "clips": list(clips),
        "clip_bytes": [[shard.num_bytes for shard in info.shards] for info in infos],
        "folds": list(folds),
        "exclude_folds": list(exclude_folds),
    }
    if extends:
        _require_extended(extends, parameters)
    shards = [
        (f"instances-{number:03d}-{shard.name.removeprefix('clips-')}", os.path.join(path, shard.name))
        for number, (path, info) in enumerate(zip(clips, infos, strict=True))
        for shard in info.shards
    ]
    num_clips = sum(info.num_examples for info in infos)
    if dry_run:
        settings = _Settings("", mel_params.num_columns, folds, exclude_folds)
        return plans.scaled(
            examples.INSTANCES, _sample([path for _, path in shards], settings, mel_params),
            num_clips=num_clips, num_shards=len(shards),
        )  # fmt: skip
    with job_output.pending_output(output, overwrite=overwrite) as pending:
        pending.write_inputs(shards)
        settings = _Settings(pending.path, mel_params.num_columns, folds, exclude_folds)
        with progress_bar(pending, description="instances", total=num_clips, unit="clips"):
            running.run_pipeline(
                lambda pipeline: (
                    pipeline | "Shards" >> worker_checks.ReadInputs(pending.path) | FindInstances(settings)
                ),
                options,
                cancel=pending.cancel,
            )
        summaries = pending.take_summaries()
        _require_different(summaries)
        found = {shard["name"]: shard for shard in (s["shard"] for s in summaries if "shard" in s)}
        job_output.require_all(len(found), len(shards), "shards")
        info = examples.DatasetInfo(
            kind=examples.INSTANCES,
            mel_params=mel_params,
            shards=tuple(examples.Shard(**found[name]) for name, _ in shards),
            num_windows=0,
            label_names=tuple(sorted({name for info in infos for name in info.label_names})),
            folds=tuple(sorted({fold for info in infos for fold in info.folds})),
            parameters=parameters,
            command=job_output.command_line("instances", *clips, output),
        )
        if info.num_examples < 2:
            raise job_output.JobError(
                f"{', '.join(clips)}: {info.num_examples} clip(s) in folds {list(folds) or 'of any name'} "
                f"without {list(exclude_folds)}, expected two or more to tell apart; name others."
            )
        pending.publish(info)
    return info


def _require_extended(extends: str, parameters: dict) -> None:
    """Raises: DatasetError where old clips would not keep the ids that `extends` gave them."""
    examples.read_instances(extends)
    old = examples.read_dataset_info(extends, kind=examples.INSTANCES).parameters
    num_old = len(old["clips"])
    for name, value in parameters.items():
        kept, new = old[name], value[:num_old] if name in ("clips", "clip_bytes") else value
        if new != kept:
            raise examples.DatasetError(
                f"{extends} was made with {name} {_shown(kept)}, now {_shown(new)}: old clips would not keep "
                "their ids; give the same sets in the same order first, and the same folds."
            )


def _shown(value: list) -> str:
    text = str(value)
    return text if len(text) <= 200 else text[:197] + "..."


def _require_different(summaries: list[dict]) -> None:
    """Raises: JobError where two clips have one name."""
    repeated = sorted(name for summary in summaries for name in summary.get("repeated", ()))
    if repeated:
        raise job_output.JobError(
            f"{len(repeated)} clips occur twice, such as {', '.join(map(repr, repeated[:_NUM_SHOWN]))}; a "
            "clip is one instance, so leave out the set that repeats them, or name its clips otherwise."
        )


def run(argv: list[str] | None = None) -> examples.DatasetInfo:
    """The job from a command line: `python -m tfsound.beam.instances CLIPS... OUTPUT ...`."""
    description = arguments.summary(assign_instances)
    parser = argparse.ArgumentParser(prog="tfsound instances", description=description)
    arguments.add_arguments(parser, assign_instances)
    return arguments.call(parser, assign_instances, argv)


if __name__ == "__main__":
    run()
