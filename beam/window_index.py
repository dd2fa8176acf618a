"""The index of `tfsound.windows` in files, made by a pipeline, and what it finds read where it lies.

A bucket holds some thousand clips and is one file; one small file holds the totals. So any worker finds any
window of ten million recordings while it holds one bucket, and no list of everything exists anywhere.
"""

import dataclasses
import functools
import json
import math
import os
from collections.abc import Iterator, Sequence

import apache_beam as beam
import numpy as np
import tensorflow as tf

from tfsound import examples, mel, sampling, windows
from tfsound.beam import output as job_output
from tfsound.beam import plans, running, stores, worker_checks

_CLIPS_PER_BUCKET = 4096
_MAX_BUCKET_BITS = 16
# The fields of `windows.Totals` that are no arrays.
_LISTS_OF_TOTALS = ("scarcest", "unused")
# Where each array begins in a file: at a multiple, so that it can be used where it lies.
_ALIGNMENT = 16


def _save_arrays(path: str, **arrays) -> None:
    """Writes arrays one behind the other, behind a line of JSON that describes them.

    NumPy's own files take ten times as long to load, and not in several threads: NumPy has Python's parser
    read what describes an array, which in Python 3.11 fails there now and then (CPython issue 106905).
    """
    arrays = {name: np.asarray(values) for name, values in arrays.items()}
    described = [(name, array.dtype.str, array.shape) for name, array in arrays.items()]
    parts = [json.dumps(described).encode() + b"\n", *(array.tobytes() for array in arrays.values())]
    data = b"".join(part + bytes(-len(part) % _ALIGNMENT) for part in parts)
    job_output.write_whole(os.path.dirname(path), os.path.basename(path), data)


def _load_arrays(path: str) -> dict[str, np.ndarray]:
    # TensorFlow takes thirty times as long as Python to read what is in memory already.
    with tf.io.gfile.GFile(path, "rb") if "://" in path else open(path, "rb") as file:
        data = file.read()
    arrays, end = {}, data.index(b"\n") + 1
    for name, dtype, shape in json.loads(data[:end]):
        start = end + -end % _ALIGNMENT
        arrays[name] = np.frombuffer(data, dtype, math.prod(shape), start).reshape(shape)
        end = start + arrays[name].nbytes
    return arrays


def _bucket_path(pending_path: str, bucket: int) -> str:
    return os.path.join(pending_path, job_output.INDEX, f"bucket-{bucket:05d}")


def _totals_path(pending_path: str) -> str:
    return os.path.join(pending_path, job_output.INDEX, "totals")


def load_bucket(pending_path: str, number: int) -> windows.Bucket:
    return windows.Bucket(**_load_arrays(_bucket_path(pending_path, number)))


def load_totals(pending_path: str) -> windows.Totals:
    arrays = _load_arrays(_totals_path(pending_path))
    plain = {name: array if array.ndim else array.item() for name, array in arrays.items()}
    lists = {name: json.loads(plain[name]) for name in _LISTS_OF_TOTALS}
    return windows.Totals(**plain | lists)


def num_bucket_bits(num_clips: int) -> int:
    """Buckets are cut by the leading bits of the recordings' hashes; this many."""
    return min(_MAX_BUCKET_BITS, max(0, (num_clips // _CLIPS_PER_BUCKET).bit_length()))


class _IndexShard(beam.DoFn):
    """(shard number, path) -> (bucket, `IndexedClip`); of clips that hold a window, frames with them."""

    def __init__(
        self, mel_params: mel.MelParams, bucket_bits: int, class_names, exclude_folds, with_frames=False
    ):
        self._with_frames = with_frames
        self._mel_params = mel_params
        self._bucket_bits = bucket_bits
        self._classes = {name: number for number, name in enumerate(class_names)}
        self._exclude_folds = frozenset(exclude_folds)

    def process(self, shard_and_path):
        shard, path = shard_and_path
        for payload_offset, record in examples.read_records(path):
            yield from self.index(shard, payload_offset, record)

    def index(self, shard: int, payload_offset: int, record: bytes):
        """The one clip of a record, where it is to be used."""
        clip = examples.decode_clip(record, self._mel_params.num_columns)
        num_windows = self._mel_params.num_windows(len(clip.mel_energy))
        if clip.fold in self._exclude_folds or not num_windows:
            return
        bucket = sampling.stable_hash(clip.recording_id) >> (64 - self._bucket_bits)
        offset = payload_offset + record.index(clip.mel_energy.tobytes())
        frame_starts = _frame_starts(clip, record) if self._with_frames else ()
        indexed = windows.index_clip(
            clip, num_windows, self._classes, shard=shard, offset=offset,
            frame_offsets=[payload_offset + start for start in frame_starts],
        )  # fmt: skip
        yield bucket, indexed


def _frame_starts(clip: examples.Clip, record: bytes) -> Iterator[int]:
    """Where each JPEG of a clip begins in its record: one behind the other."""
    end = 0
    for jpeg in clip.frame_jpegs:
        start = record.index(jpeg, end)
        end = start + len(jpeg)
        yield start


class _WriteBucket(beam.DoFn):
    """(bucket, its clips) -> its file and its summary, on disk."""

    def __init__(self, pending_path: str, mel_params: mel.MelParams, constraints, num_classes: int):
        self._pending_path = pending_path
        self._mel_params = mel_params
        self._constraints = constraints
        self._num_classes = num_classes

    def process(self, bucket_and_clips):
        number, clips = bucket_and_clips
        bucket = windows.build_bucket(clips, self._mel_params, self._constraints)
        arrays = {field.name: getattr(bucket, field.name) for field in dataclasses.fields(bucket)}
        _save_arrays(_bucket_path(self._pending_path, number), **arrays)
        summary = windows.summarize(number, bucket, self._constraints, self._num_classes)
        job_output.write_summary(self._pending_path, f"bucket-{number:05d}", dataclasses.asdict(summary))


@dataclasses.dataclass
class IndexWindows(beam.PTransform):
    """A collection of (shard number, path) -> the index, in files of the pending output."""

    pending_path: str
    mel_params: mel.MelParams
    bucket_bits: int
    plan: windows.IndexPlan
    exclude_folds: Sequence[str]

    def expand(self, shards):
        index_shard = _IndexShard(
            self.mel_params, self.bucket_bits, self.plan.class_names, self.exclude_folds,
            windows.uses_frames(self.plan.within_recordings),
        )  # fmt: skip
        write_bucket = _WriteBucket(
            self.pending_path, self.mel_params, self.plan.within_recordings, self.plan.num_counted_classes
        )
        return (
            shards
            | "SpreadShards" >> beam.Reshuffle()
            | "IndexShards" >> beam.ParDo(index_shard)
            | "GatherBuckets" >> beam.GroupByKey()
            | "WriteBuckets" >> beam.ParDo(write_bucket)
        )


def build_index(
    clips: str,
    info: examples.DatasetInfo,
    pending: job_output.PendingOutput,
    *,
    plan: windows.IndexPlan,
    exclude_folds: Sequence[str],
    options,
) -> windows.Totals:
    """Runs `IndexWindows` over a set of clips and adds up its buckets, in the pending output.

    Raises:
      JobError: a damaged shard, or the pipeline failed.
    """
    bits = num_bucket_bits(info.num_examples)
    transform = IndexWindows(pending.path, info.mel_params, bits, plan, exclude_folds)
    pending.write_inputs(enumerate(os.path.join(clips, shard.name) for shard in info.shards))
    running.run_pipeline(
        lambda pipeline: pipeline | "Shards" >> worker_checks.ReadInputs(pending.path) | transform,
        options,
        cancel=pending.cancel,
    )
    return _add_up(pending, plan, bits)


def _add_up(pending: job_output.PendingOutput, plan: windows.IndexPlan, bits: int) -> windows.Totals:
    """The totals of the buckets whose summaries are in the pending output, written beside them."""
    totals = windows.add_up(
        (windows.BucketSummary(**summary) for summary in pending.take_summaries()),
        num_buckets=1 << bits,
        num_constraints=len(plan.within_recordings),
        num_classes=plan.num_counted_classes,
    )
    lists = {name: json.dumps(getattr(totals, name)) for name in _LISTS_OF_TOTALS}
    _save_arrays(_totals_path(pending.path), **vars(totals) | lists)
    return totals


def index_sample(
    paths: Sequence[str],
    num_read: int,
    pending: job_output.PendingOutput,
    mel_params: mel.MelParams,
    plan: windows.IndexPlan,
    exclude_folds: Sequence[str],
) -> tuple[int, list[tuple[int, windows.IndexedClip]], windows.Totals]:
    """Indexes some clips of a set, so many if there are, as one bucket in a pending output.

    Returns:
      How many were read, what `IndexWindows` shuffles of them, and the totals.
    """
    with_frames = windows.uses_frames(plan.within_recordings)
    index_shard = _IndexShard(mel_params, 0, plan.class_names, exclude_folds, with_frames)
    num_clips, indexed = 0, []
    for clip_record in plans.sampled_records(paths, num_read):
        num_clips += 1
        indexed += index_shard.index(*clip_record)
    pending.write_inputs(enumerate(paths))
    write_bucket = _WriteBucket(pending.path, mel_params, plan.within_recordings, plan.num_counted_classes)
    write_bucket.process((0, [clip for _, clip in indexed]))
    return num_clips, indexed, _add_up(pending, plan, 0)


class WindowReader:
    """Reads windows and frames at random from the shards of a set of clips; keeps some files open."""

    def __init__(self, paths: Sequence[str], mel_params: mel.MelParams):
        self._paths = paths
        self._num_bytes = mel_params.context_frames * mel_params.num_columns * 2
        # Readers of object stores hold no file descriptor, and take two requests to make.
        is_remote = any(stores.is_store(path) for path in paths)
        self._open = functools.lru_cache(maxsize=1024 if is_remote else 64)(self._open_shard)

    def _open_shard(self, shard: int):
        return stores.open_file(self._paths[shard], num_bytes_at_once=self._num_bytes)

    def read(self, location: windows.WindowLocation) -> bytes:
        """The window's energies as stored: little-endian float16, (context_frames, mel_bins)."""
        return self._read(location.shard, location.offset, self._num_bytes)

    def read_frame(self, location: windows.FrameLocation) -> bytes:
        """The frame's JPEG as stored."""
        return self._read(location.shard, location.offset, location.num_bytes)

    def _read(self, shard: int, offset: int, num_bytes: int) -> bytes:
        file = self._open(shard)
        file.seek(offset)
        data = file.read(num_bytes)
        if len(data) != num_bytes:
            raise examples.DatasetError(f"{self._paths[shard]} ends early; make the set again.")
        return data
