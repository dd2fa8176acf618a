"""The shards of the job `embed`: embedded batches of windows -> records of clips, on disk."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
from pyarrow import parquet as pq

from tfsound import datasets, examples, mel
from tfsound.beam import manifests
from tfsound.beam import output as job_output
from tfsound.window_labels import window_starts

_TFRECORD, _PARQUET = ".tfrecord", ".parquet"


@dataclasses.dataclass(frozen=True)
class ClipOfShard:
    """A clip that could be read: its number in the shard, its row, and where its sound ends."""

    number: int
    place: manifests.Place
    row: datasets.ManifestRow
    end_seconds: float


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a shard is to hold: the clips that could be read, and in how many batches their windows are."""

    num_rows: int
    num_batches: int
    clips: tuple[ClipOfShard, ...]
    failures: tuple[dict, ...]


@dataclasses.dataclass(frozen=True)
class EmbeddedBatch:
    """What the model gives for the windows of a batch, by name, (windows, ...) each.

    `clip_numbers`, int64 (windows,), ascending from batch to batch, says whose windows they are. Those of a
    clip that could not be read to its end are among them, and are left out.
    """

    shard: int
    number: int
    clip_numbers: np.ndarray
    outputs: dict[str, np.ndarray]
    contents: Contents | None


def shard_name(number: int, num_shards: int) -> str:
    return f"{examples.EMBEDDINGS}-{number:05d}-of-{num_shards:05d}{_TFRECORD}"


def shard_numbers(names: Iterable[str]) -> tuple[int, ...]:
    """The inverse of `shard_name`, of some."""
    return tuple(int(name.split("-")[1]) for name in names)


@dataclasses.dataclass(frozen=True)
class ShardWriter:
    """Writes shards into the pending folder of a job.

    Args:
      context_seconds: from window to window.
      parquet: whether to write each as Parquet, too.
    """

    pending_path: str
    num_shards: int
    spec: examples.EmbeddingSpec
    context_seconds: float
    parquet: bool

    def write(self, number: int, batches: Sequence[EmbeddedBatch]) -> None:
        """Writes a shard of all its batches, which may come in any order, and its summary."""
        name = shard_name(number, self.num_shards)
        (contents,) = (batch.contents for batch in batches if batch.contents)
        failures, clips = list(contents.failures), []
        for clip, embedded in self._embedded_clips(contents, batches):
            if np.isfinite(embedded.embedding).all() and np.isfinite(embedded.scores).all():
                clips.append(embedded)
                continue
            reason = (
                f"{clip.row.uri}: the model gives numbers that are not finite; its samples are NaN, infinite "
                "or far beyond [-1, 1]: mend the file, or leave it out."
            )
            failures.append(manifests.failure(clip.place, clip.row, reason))
        with job_output.shard_writer(self.pending_path, name) as writer:
            for embedded in clips:
                writer.write(examples.encode_embedding(embedded))
        table = self._write_table(name.replace(_TFRECORD, _PARQUET), clips) if self.parquet else None
        shard = job_output.finished_shard(self.pending_path, name, len(clips))
        summary = {
            "num_rows": contents.num_rows,
            "shard": dataclasses.asdict(shard),
            "table": table and dataclasses.asdict(table),
            "num_windows": sum(clip.num_windows for clip in clips),
            "labels": sorted({label for clip in clips for label in clip.labels}),
            "folds": sorted({clip.fold for clip in clips}),
            "failures": failures,
        }
        job_output.write_summary(self.pending_path, name, summary)

    def _embedded_clips(
        self, contents: Contents, batches: Sequence[EmbeddedBatch]
    ) -> Iterator[tuple[ClipOfShard, examples.ClipEmbedding]]:
        batches = sorted(batches, key=lambda batch: batch.number)
        clip_numbers = np.concatenate([batch.clip_numbers for batch in batches])
        outputs = {
            name: np.concatenate([batch.outputs[name] for batch in batches]) for name in batches[0].outputs
        }
        outputs.setdefault("scores", np.zeros((len(clip_numbers), 0), np.float32))
        for clip in contents.clips:
            first, last = np.searchsorted(clip_numbers, [clip.number, clip.number + 1])
            yield (
                clip,
                self._clip_embedding(clip, outputs["embedding"][first:last], outputs["scores"][first:last]),
            )

    def _clip_embedding(
        self, clip: ClipOfShard, embeddings: np.ndarray, scores: np.ndarray
    ) -> examples.ClipEmbedding:
        """The record of a clip from those of its windows, (windows, ...)."""
        row, start = clip.row, clip.row.start_seconds or 0.0
        windows = {}
        if self.spec.has_windows:
            starts = window_starts(start, len(embeddings), self.context_seconds)
            windows = {
                "window_start_seconds": np.array(starts),
                "window_embeddings": embeddings,
                "window_scores": scores,
            }
        return examples.ClipEmbedding(
            clip_id=row.clip_id,
            recording_id=row.recording_id,
            uri=row.uri,
            start_seconds=start,
            end_seconds=clip.end_seconds,
            labels=row.labels,
            fold=row.fold,
            split=row.split,
            num_windows=len(embeddings),
            embedding=_mean(embeddings),
            scores=_mean(scores),
            **windows,
        )

    def _write_table(self, name: str, clips: Sequence[examples.ClipEmbedding]) -> examples.Shard:
        sink = pa.BufferOutputStream()
        pq.write_table(examples.embedding_table(clips, self.spec), sink)
        job_output.write_whole(self.pending_path, name, sink.getvalue().to_pybytes())
        return job_output.finished_shard(self.pending_path, name, len(clips))


def _mean(of_windows: np.ndarray) -> np.ndarray:
    return of_windows.mean(axis=0, dtype=np.float64).astype(np.float32)


def dataset_info(
    summaries: Sequence[dict], *, mel_params: mel.MelParams, num_clips: int, parameters: dict, command: str
) -> examples.DatasetInfo:
    """The sidecar of the shards that the summaries are of."""
    tables = [summary["table"] for summary in summaries if summary["table"]]
    return examples.DatasetInfo(
        kind=examples.EMBEDDINGS,
        mel_params=mel_params,
        shards=tuple(examples.Shard(**summary["shard"]) for summary in summaries),
        tables=tuple(examples.Shard(**table) for table in tables),
        num_windows=sum(summary["num_windows"] for summary in summaries),
        label_names=tuple(sorted({label for summary in summaries for label in summary["labels"]})),
        folds=tuple(sorted({fold for summary in summaries for fold in summary["folds"]})),
        num_clips=num_clips,
        num_failures=sum(len(summary["failures"]) for summary in summaries),
        parameters=parameters,
        command=command,
    )
