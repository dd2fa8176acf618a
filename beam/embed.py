"""The job `embed`: an exported model and a manifest -> an embedding of every clip, as TFRecord and Parquet.

A clip's shard is a hash of its id, as in the job `examples`. One task cuts the clips of a shard, in the order
of their ids, into context windows, block by block, and puts windows of different clips together into batches
of one size, the last one filled up with zeros. `RunInference` embeds them with the model that each worker
process has loaded once, and the next step writes the shard when the last of its batches is there. So what a
window is embedded with depends on its shard alone, and the files are the same bytes from any workers on the
same kind of device. Nothing but rows of the manifest is ever shuffled: the steps behind run as one, and a
runner that tears them apart is found out.

A job that was killed goes on behind the shards that it has finished.
"""

import argparse
import dataclasses
import math
import os
import resource
from collections.abc import Iterable, Iterator, Sequence

import apache_beam as beam
import numpy as np
from apache_beam.ml.inference import base

from tfsound import arguments, examples, exported
from tfsound.beam import embedded_shards, manifests, plans, running, worker_checks
from tfsound.beam import output as job_output
from tfsound.beam.clips import ClipWindows, prepare_log_mel
from tfsound.beam.progress import WorkerProgress, progress_bar

# Beam has none where a package that it does not need here is missing, and warns of it in every worker.
base.resource = resource


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What every worker must know."""

    pending_path: str
    model: exported.ExportedModel
    batch_size: int
    windows_per_block: int
    num_shards: int
    finished_shards: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class WindowBatch:
    """Windows of one shard, its batch `number`: `clip_numbers`, int64 (windows,), and `log_mel` of one size.

    The first rows of `log_mel`, (batch_size, context_frames, columns), are the windows, the others 0. The
    last batch of a shard tells what the shard is to hold.
    """

    number: int
    clip_numbers: np.ndarray
    log_mel: np.ndarray
    contents: embedded_shards.Contents | None
    shard: int

    def __len__(self) -> int:
        return len(self.clip_numbers)


class _CutWindows(beam.DoFn):
    """(shard number, its numbered rows) -> the batches of its windows."""

    def __init__(self, settings: _Settings):
        self._settings = settings

    def process(self, shard_and_rows) -> Iterator[WindowBatch]:
        shard, rows = shard_and_rows
        yield from _Shard(self._settings, shard).batches(list(rows))


class _Shard:
    """The cutting of one shard."""

    def __init__(self, settings: _Settings, number: int):
        self._settings, self._number = settings, number
        self._num_batches, self._num_held = 0, 0
        self._log_mel = self._clip_numbers = None
        self._clear()
        name = embedded_shards.shard_name(number, settings.num_shards)
        self._progress = WorkerProgress(settings.pending_path, name)

    def _clear(self) -> None:
        size = self._settings.batch_size
        self._log_mel = np.zeros((size, *self._settings.model.mel_params.window_shape), np.float32)
        self._clip_numbers = np.zeros(size, np.int64)
        self._num_held = 0

    def batches(self, rows: Sequence[tuple[manifests.Place, manifests.Row]]) -> Iterator[WindowBatch]:
        """All batches of the shard; clips that cannot be read are in `failures` of the last one."""
        clips, failures = [], []
        for number, (place, row, reason) in enumerate(manifests.in_order(rows)):
            if not reason:
                windows = ClipWindows(row, self._settings.model.mel_params, self._settings.windows_per_block)
                try:
                    for block in windows:
                        yield from self._batched(number, block)
                        self._progress.add(windows=len(block))
                    clips.append(embedded_shards.ClipOfShard(number, place, row, windows.end_seconds))
                except ValueError as error:  # MediaError is one
                    reason = str(error)
            if reason:
                failures.append(manifests.failure(place, row, reason))
            self._progress.add(clips=1, failures=int(bool(reason)))
        self._progress.write()
        contents = embedded_shards.Contents(len(rows), self._num_batches + 1, tuple(clips), tuple(failures))
        yield self._batch(contents)

    def _batched(self, clip_number: int, windows: np.ndarray) -> Iterator[WindowBatch]:
        """Puts windows behind those held; a full batch is given only when there is more."""
        while len(windows):
            if self._num_held == self._settings.batch_size:
                yield self._batch(None)
            num_free = self._settings.batch_size - self._num_held
            part, windows = windows[:num_free], windows[num_free:]
            held = slice(self._num_held, self._num_held + len(part))
            self._log_mel[held], self._clip_numbers[held] = part, clip_number
            self._num_held = held.stop

    def _batch(self, contents: embedded_shards.Contents | None) -> WindowBatch:
        batch = WindowBatch(
            number=self._num_batches,
            clip_numbers=self._clip_numbers[: self._num_held],
            log_mel=self._log_mel,
            contents=contents,
            shard=self._number,
        )
        self._num_batches += 1
        self._clear()
        return batch


class ExportHandler(base.ModelHandler[WindowBatch, embedded_shards.EmbeddedBatch, exported.LoadedModel]):
    """Loads an export once a worker process, and calls its signature `log_mel` on batches as they come."""

    def __init__(self, model: exported.ExportedModel):
        super().__init__()
        self._model = model

    def load_model(self) -> exported.LoadedModel:
        return exported.LoadedModel(self._model)

    def run_inference(
        self, batch: WindowBatch, model: exported.LoadedModel, inference_args: dict | None = None
    ) -> Iterable[embedded_shards.EmbeddedBatch]:
        outputs = model.embed_windows(batch.log_mel)
        outputs = {name: values[: len(batch)] for name, values in outputs.items()}
        return [
            embedded_shards.EmbeddedBatch(
                batch.shard, batch.number, batch.clip_numbers, outputs, batch.contents
            )
        ]

    def get_num_bytes(self, batch: WindowBatch) -> int:
        return batch.log_mel.nbytes

    def get_metrics_namespace(self) -> str:
        return "tfsound.embed"

    def should_skip_batching(self) -> bool:
        return True  # batches are of one size already


class _WriteShards(beam.DoFn):
    """The embedded batches of whole shards -> the shards and their summaries, on disk."""

    def __init__(self, settings: _Settings, writer: embedded_shards.ShardWriter):
        self._settings, self._writer = settings, writer

    def start_bundle(self):
        self._held: dict[int, list[embedded_shards.EmbeddedBatch]] = {}

    def process(self, batch: embedded_shards.EmbeddedBatch):
        held = self._held.setdefault(batch.shard, [])
        held.append(batch)
        num_batches = [one.contents.num_batches for one in held if one.contents]
        if num_batches == [len(held)]:
            self._writer.write(batch.shard, self._held.pop(batch.shard))

    def finish_bundle(self):
        if self._held:
            raise job_output.JobError(
                f"the runner tore shard {min(self._held)} apart: not all of its batches came in one bundle; "
                "use another runner."
            )


@dataclasses.dataclass
class EmbedClips(beam.PTransform):
    """A collection of manifest paths -> embeddings on disk, and their summaries beside them."""

    settings: _Settings
    writer: embedded_shards.ShardWriter

    def expand(self, manifest_paths):
        read = manifests.ReadManifest(self.settings.num_shards, self.settings.finished_shards)
        return (
            manifest_paths
            | "SpreadManifests" >> beam.Reshuffle()
            | "ReadManifest" >> beam.ParDo(read)
            | "GatherShards" >> beam.GroupByKey()
            | "CutWindows" >> beam.ParDo(_CutWindows(self.settings))
            | "EmbedWindows" >> base.RunInference(ExportHandler(self.settings.model))
            | "WriteShards" >> beam.ParDo(_WriteShards(self.settings, self.writer))
        )


def _sample(
    settings: _Settings, writer: embedded_shards.ShardWriter, rows: manifests.Summary
) -> plans.Sample:
    """Embeds some rows, as the job does it."""
    prepare_log_mel(settings.model.mel_params)
    handler = ExportHandler(settings.model)
    model = handler.load_model()
    model.embed_windows(np.zeros((settings.batch_size, *settings.model.mel_params.window_shape), np.float32))
    with plans.scratch() as pending:
        shard = _Shard(dataclasses.replace(settings, pending_path=pending.path), 0)
        writer = dataclasses.replace(writer, pending_path=pending.path)
        with plans.Stopwatch() as watch:
            batches = shard.batches(rows.sample)
            embedded = [one for batch in batches for one in handler.run_inference(batch, model)]
            writer.write(0, embedded)
        (summary,) = pending.take_summaries()
    plans.require_readable(summary["failures"], len(rows.sample))
    clips = embedded[-1].contents.clips
    return plans.Sample(
        num_clips=len(rows.sample),
        sound_seconds=sum(clip.end_seconds - (clip.row.start_seconds or 0.0) for clip in clips),
        num_bytes=sum(summary[key]["num_bytes"] for key in ("shard", "table") if summary[key]),
        shuffle_bytes=manifests.shuffle_bytes(rows.sample),
        core_seconds=watch.core_seconds,
        num_rejected=len(summary["failures"]),
    )


def embed(
    model: str,
    manifest: str,
    output: str,
    *,
    batch_size: int = 64,
    block_seconds: float = 57.6,
    window_embeddings: bool = True,
    parquet: bool = True,
    max_failure_fraction: float = 0.1,
    num_shards: int = 0,
    dry_run: bool = False,
    overwrite: bool = False,
    runner: str = "local",
    num_workers: int = 0,
    worker_mode: str = "threads",
    beam_flags: tuple[str, ...] = (),
) -> examples.DatasetInfo | plans.JobPlan:
    """Embeds the clips of a manifest with an exported model; killed at any moment, it resumes.

    The output folder holds a record a clip in TFRecord and Parquet files, `dataset_info.json`, and
    `failures.jsonl`: every clip that was rejected, with its reason. On a machine with a GPU, workers that are
    threads use it. Flags that are not of this job go to Apache Beam.

    Args:
      model: what `tfsound export` made: the folder of its versions, of which the newest is taken, or of one.
      manifest: the manifest, CSV or JSON Lines, on any Beam file system; or a quoted pattern for several.
      output: the folder to make.
      batch_size: windows that go through the model at a time, of several clips.
      block_seconds: how much of a long file is decoded at a time.
      window_embeddings: keep the embedding, start and scores of every window, too, not of the clip alone.
      parquet: write Parquet files beside the TFRecord files.
      max_failure_fraction: the job fails when more than this fraction of the clips is rejected.
      num_shards: files to write, less those that no clip falls into; 0 for one per 32 clips, 32 to 1024.
      dry_run: write nothing, and say what it would take: hours of sound, bytes, core hours, files; from a
        sample of the clips that is really embedded.
      overwrite: replace a finished output.
      runner: `local`, or a Beam runner by name, such as DataflowRunner.
      num_workers: workers on this machine, 0 for one a core.
      worker_mode: `threads` or `processes`.

    Returns:
      The sidecar of the set, or the plan of a dry run.

    Raises:
      ModelError: the model is missing or not one of this schema; ManifestError: the manifest cannot be used
      as a whole; ValueError: a parameter is out of range; JobError: too many clips were rejected, the output
      exists, or the pipeline failed.
    """
    is_in_range = 0 < block_seconds < math.inf and 0 <= max_failure_fraction <= 1
    if not is_in_range or num_shards < 0 or batch_size < 1:
        raise ValueError(
            "block_seconds must be positive and finite, max_failure_fraction in [0, 1], num_shards at least "
            f"0 and batch_size at least 1, got {block_seconds}, {max_failure_fraction}, {num_shards} and "
            f"{batch_size}."
        )
    options = running.beam_options(
        runner=runner, num_workers=num_workers, worker_mode=worker_mode, beam_flags=beam_flags
    )
    worker_checks.require_reachable(options, inputs=(model, manifest), output=output)
    export = exported.read_export(model)
    if not dry_run:
        job_output.require_free(output, overwrite=overwrite)
    paths = manifests.find_manifests(manifest)
    rows = manifests.summarize(paths, num_sampled=plans.NUM_DECODED if dry_run else 0, seed=plans.SEED)
    worker_checks.require_reachable(options, inputs=(rows.local_uri,))
    num_shards = num_shards or manifests.default_num_shards(rows.num_rows)
    spec = examples.EmbeddingSpec(export.embedding_dim, export.class_names, window_embeddings)
    windows_per_block = max(1, int(block_seconds / export.mel_params.context_seconds + 1e-6))
    if dry_run:
        settings = _Settings("", export, batch_size, windows_per_block, num_shards)
        writer = embedded_shards.ShardWriter("", num_shards, spec, export.mel_params.context_seconds, parquet)
        return plans.scaled(
            examples.EMBEDDINGS, _sample(settings, writer, rows), num_clips=rows.num_rows,
            num_shards=num_shards,
        )  # fmt: skip
    parameters = _parameters(export, spec, batch_size, windows_per_block)
    resumed_by = {"job": "embed", "manifests": rows.digest, "num_shards": num_shards, "parquet": parquet}
    resumed_by |= {"model": dataclasses.asdict(export)}
    with job_output.pending_output(output, overwrite=overwrite, settings=resumed_by | parameters) as pending:
        pending.write_inputs(paths)
        finished = embedded_shards.shard_numbers(pending.read_summaries())
        settings = _Settings(pending.path, export, batch_size, windows_per_block, num_shards, finished)
        writer = embedded_shards.ShardWriter(
            pending.path, num_shards, spec, export.mel_params.context_seconds, parquet
        )
        with progress_bar(pending, description="embed", total=rows.num_rows, unit="clips"):
            running.run_pipeline(
                lambda pipeline: (
                    pipeline
                    | "Manifests" >> worker_checks.ReadInputs(pending.path)
                    | EmbedClips(settings, writer)
                ),
                options,
                cancel=pending.cancel,
            )
        summaries = list(pending.read_summaries().values())
        job_output.require_all(sum(summary["num_rows"] for summary in summaries), rows.num_rows, "clips")
        failures = manifests.failures_of(summaries)
        path = pending.write_failures(failures)
        manifests.require_few_failures(failures, rows.num_rows, max_failure_fraction, path)
        info = embedded_shards.dataset_info(
            summaries,
            mel_params=export.mel_params,
            num_clips=rows.num_rows - len(failures),
            parameters=parameters,
            command=job_output.command_line("embed", model, manifest, output),
        )
        pending.publish(info)
    return info


def _parameters(
    export: exported.ExportedModel, spec: examples.EmbeddingSpec, batch_size: int, windows_per_block: int
) -> dict:
    """What the sidecar says of how the embeddings were made."""
    # The model is looked for from wherever the embeddings are read.
    path = export.path if "://" in export.path else os.path.abspath(export.path)
    return {
        "model": path,
        "weights": export.weights,
        "embedding_dim": spec.embedding_dim,
        "class_names": list(spec.class_names),
        "window_embeddings": spec.has_windows,
        "batch_size": batch_size,
        "windows_per_block": windows_per_block,
    }


def run(argv: list[str] | None = None) -> examples.DatasetInfo:
    """The job from a command line: `python -m tfsound.beam.embed MODEL MANIFEST OUTPUT ...`."""
    parser = argparse.ArgumentParser(prog="tfsound embed", description=arguments.summary(embed))
    arguments.add_arguments(parser, embed)
    return arguments.call(parser, embed, argv)


if __name__ == "__main__":
    run()
