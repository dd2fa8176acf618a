"""An index of all context windows of a set of clip examples, in files, for jobs that draw windows.

Windows have a global index: recordings in the order of a hash of their ids, the windows of a recording in
the order of time. The index is cut by that hash into buckets of some thousand clips, one file each, and
one small file says how many windows each bucket holds. So any worker can find any window of ten million
recordings while holding one bucket, and no list of everything exists anywhere.
"""

import dataclasses
import functools
import io
import itertools
import os
from collections.abc import Iterator, Sequence

import apache_beam as beam
import numpy as np
import tensorflow as tf

from tfsound import examples, mel, sampling
from tfsound.beam import output as job_output
from tfsound.beam import running

_CLIPS_PER_BUCKET = 4096
_MAX_BUCKET_BITS = 16


@dataclasses.dataclass(frozen=True)
class WindowLocation:
    """Where the energies of a window are (shard number, byte offset), and what window it is."""

    shard: int
    offset: int
    ref: examples.WindowRef


@dataclasses.dataclass(frozen=True)
class Bucket:
    """The windows of some recordings, in global order.

    `recording_starts`, (num_recordings + 1,), says where each recording's windows begin; the `window_*`
    arrays are (num_windows,). `anchor_windows` are those that may be anchors, constraint after constraint;
    `anchor_starts`, (num_constraints + 1,), says where each constraint's begin.
    """

    recording_ids: np.ndarray
    recording_starts: np.ndarray
    clip_ids: np.ndarray
    window_clip: np.ndarray
    window_start_seconds: np.ndarray
    window_shard: np.ndarray
    window_offset: np.ndarray
    anchor_windows: np.ndarray
    anchor_starts: np.ndarray

    def recording_of(self, window: int) -> int:
        return int(self.recording_starts.searchsorted(window, side="right")) - 1

    def recording_range(self, window: int) -> tuple[int, int]:
        """The windows [start, end) of a window's recording."""
        recording = self.recording_of(window)
        return int(self.recording_starts[recording]), int(self.recording_starts[recording + 1])

    def anchor(self, constraint: int, rank: int) -> int:
        """The window that is a constraint's anchor number `rank` in this bucket."""
        return int(self.anchor_windows[self.anchor_starts[constraint] + rank])

    def location(self, window: int) -> WindowLocation:
        return WindowLocation(
            int(self.window_shard[window]),
            int(self.window_offset[window]),
            examples.WindowRef(
                clip_id=str(self.clip_ids[self.window_clip[window]]),
                recording_id=str(self.recording_ids[self.recording_of(window)]),
                start_seconds=float(self.window_start_seconds[window]),
            ),
        )


@dataclasses.dataclass(frozen=True)
class Totals:
    """What each bucket adds: `window_starts` and, by constraint, `anchor_starts`, (num_buckets + 1,) each.

    The last entry of each is the number in all.
    """

    num_recordings: int
    window_starts: np.ndarray
    anchor_starts: tuple[np.ndarray, ...]

    @property
    def num_windows(self) -> int:
        return int(self.window_starts[-1])


def find(starts: np.ndarray, index: int) -> tuple[int, int]:
    """(bucket, index within it) of a global index."""
    bucket = int(starts.searchsorted(index, side="right")) - 1
    return bucket, index - int(starts[bucket])


def _save_arrays(path: str, **arrays) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(buffer.getvalue())


def _load_arrays(path: str) -> dict[str, np.ndarray]:
    with tf.io.gfile.GFile(path, "rb") as file:
        data = io.BytesIO(file.read())
    with np.load(data, allow_pickle=False) as arrays:
        return dict(arrays)


def _bucket_path(pending_path: str, bucket: int) -> str:
    return os.path.join(pending_path, job_output.INDEX, f"bucket-{bucket:05d}.npz")


def _totals_path(pending_path: str) -> str:
    return os.path.join(pending_path, job_output.INDEX, "totals.npz")


def load_bucket(pending_path: str, bucket: int) -> Bucket:
    return Bucket(**_load_arrays(_bucket_path(pending_path, bucket)))


def load_totals(pending_path: str) -> Totals:
    arrays = _load_arrays(_totals_path(pending_path))
    return Totals(int(arrays["num_recordings"]), arrays["window_starts"], tuple(arrays["anchor_starts"]))


def num_bucket_bits(num_clips: int) -> int:
    """Buckets are cut by the leading bits of the recordings' hashes; this many."""
    return min(_MAX_BUCKET_BITS, max(0, (num_clips // _CLIPS_PER_BUCKET).bit_length()))


class _IndexShard(beam.DoFn):
    """(shard number, path) -> (bucket, (recording_id, clip_id, shard, offset, start, num_windows))."""

    def __init__(self, mel_params: mel.MelParams, bucket_bits: int, exclude_folds: Sequence[str]):
        self._mel_params = mel_params
        self._bucket_bits = bucket_bits
        self._exclude_folds = frozenset(exclude_folds)

    def process(self, shard_and_path):
        shard, path = shard_and_path
        for payload_offset, record in examples.read_records(path):
            clip = examples.decode_clip(record, self._mel_params.mel_bins)
            num_windows = self._mel_params.num_windows(len(clip.mel_energy))
            if clip.fold in self._exclude_folds or not num_windows:
                continue
            offset = payload_offset + record.index(clip.mel_energy.tobytes())
            bucket = sampling.stable_hash(clip.recording_id) >> (64 - self._bucket_bits)
            yield (
                bucket,
                (clip.recording_id, clip.clip_id, shard, offset, clip.start_seconds, num_windows),
            )


def build_bucket(
    clips: Iterator[tuple], mel_params: mel.MelParams, constraints: Sequence[sampling.Constraint]
) -> Bucket:
    """Orders the windows of a bucket's clips (as `_IndexShard` gives them)."""
    ordered = sorted(clips, key=lambda clip: (sampling.stable_hash(clip[0]), clip[0], clip[4], clip[1]))
    columns = zip(*ordered, strict=True)
    recordings, clip_ids, shards, offsets, start_seconds, num_windows = map(np.array, columns)
    window_clip = np.repeat(np.arange(len(ordered)), num_windows)
    # The number of each window within its clip.
    step = np.arange(len(window_clip)) - np.repeat(num_windows.cumsum() - num_windows, num_windows)
    window_bytes = mel_params.context_frames * mel_params.mel_bins * 2
    window_seconds = start_seconds[window_clip] + step * mel_params.context_seconds
    # Clips of one recording may overlap in time (UrbanSound8K's do): its windows are put in order.
    clip_recording = np.append(0, recordings[1:] != recordings[:-1]).cumsum()
    order = np.lexsort((window_clip, window_seconds, clip_recording[window_clip]))
    recording_starts = np.append(0, np.bincount(clip_recording, num_windows).astype(np.int64).cumsum())
    anchors = [_anchors(constraint, recording_starts, window_seconds[order]) for constraint in constraints]
    return Bucket(
        recording_ids=recordings[np.unique(clip_recording, return_index=True)[1]],
        recording_starts=recording_starts,
        clip_ids=clip_ids,
        window_clip=window_clip[order],
        window_start_seconds=window_seconds[order],
        window_shard=shards[window_clip][order],
        window_offset=(offsets[window_clip] + step * window_bytes)[order],
        anchor_windows=np.concatenate(anchors),
        anchor_starts=np.cumsum([0, *map(len, anchors)]),
    )


def _anchors(
    constraint: sampling.Constraint, recording_starts: np.ndarray, start_seconds: np.ndarray
) -> np.ndarray:
    """The windows that may be anchors, in order: int64, (num_anchors,)."""
    chosen = [
        constraint.anchors(start_seconds[start:end])
        for start, end in itertools.pairwise(recording_starts.tolist())
    ]
    return np.flatnonzero(np.concatenate(chosen))


class _WriteBucket(beam.DoFn):
    """(bucket, its clips) -> its file and its summary, on disk."""

    def __init__(self, pending_path: str, mel_params: mel.MelParams, constraints):
        self._pending_path = pending_path
        self._mel_params = mel_params
        self._constraints = constraints

    def process(self, bucket_and_clips):
        number, clips = bucket_and_clips
        bucket = build_bucket(clips, self._mel_params, self._constraints)
        _save_arrays(_bucket_path(self._pending_path, number), **vars(bucket))
        summary = {
            "bucket": number,
            "num_recordings": len(bucket.recording_ids),
            "num_windows": len(bucket.window_clip),
            "num_anchors": np.diff(bucket.anchor_starts).tolist(),
        }
        job_output.write_summary(self._pending_path, f"bucket-{number:05d}", summary)


@dataclasses.dataclass
class IndexWindows(beam.PTransform):
    """A collection of (shard number, path) -> the index, in files of the pending output."""

    pending_path: str
    mel_params: mel.MelParams
    bucket_bits: int
    constraints: Sequence[sampling.Constraint]
    exclude_folds: Sequence[str]

    def expand(self, shards):
        return (
            shards
            | "SpreadShards" >> beam.Reshuffle()
            | "IndexShards" >> beam.ParDo(_IndexShard(self.mel_params, self.bucket_bits, self.exclude_folds))
            | "GatherBuckets" >> beam.GroupByKey()
            | "WriteBuckets" >> beam.ParDo(_WriteBucket(self.pending_path, self.mel_params, self.constraints))
        )


def build_index(
    clips: str,
    info: examples.DatasetInfo,
    pending: job_output.PendingOutput,
    *,
    constraints: Sequence[sampling.Constraint],
    exclude_folds: Sequence[str],
    options,
) -> Totals:
    """Runs `IndexWindows` over a set of clips and adds up its buckets, in the pending output.

    Raises:
      JobError: a damaged shard, or the pipeline failed.
    """
    bits = num_bucket_bits(info.num_examples)
    transform = IndexWindows(pending.path, info.mel_params, bits, constraints, exclude_folds)
    shards = list(enumerate(os.path.join(clips, shard.name) for shard in info.shards))
    running.run_pipeline(
        lambda pipeline: pipeline | "Shards" >> beam.Create(shards) | transform,
        options,
        cancel=pending.discard,
    )
    windows = np.zeros(1 + (1 << bits), np.int64)
    anchors = np.zeros((len(constraints), 1 + (1 << bits)), np.int64)
    num_recordings = 0
    for summary in pending.take_summaries():
        windows[1 + summary["bucket"]] = summary["num_windows"]
        anchors[:, 1 + summary["bucket"]] = summary["num_anchors"]
        num_recordings += summary["num_recordings"]
    totals = Totals(num_recordings, windows.cumsum(), tuple(anchors.cumsum(axis=1)))
    _save_arrays(_totals_path(pending.path), **vars(totals))
    return totals


class WindowReader:
    """Reads windows at random from the shards of a set of clips; keeps some files open."""

    def __init__(self, paths: Sequence[str], mel_params: mel.MelParams):
        self._paths = paths
        self._num_bytes = mel_params.context_frames * mel_params.mel_bins * 2
        self._open = functools.lru_cache(maxsize=64)(self._open_shard)

    def _open_shard(self, shard: int):
        return beam.io.filesystems.FileSystems.open(
            self._paths[shard], compression_type=beam.io.filesystem.CompressionTypes.UNCOMPRESSED
        )

    def read(self, location: WindowLocation) -> bytes:
        """The window's energies as stored: little-endian float16, (context_frames, mel_bins)."""
        file = self._open(location.shard)
        file.seek(location.offset)
        data = file.read(self._num_bytes)
        if len(data) != self._num_bytes:
            raise examples.DatasetError(f"{self._paths[location.shard]} ends early; make the set again.")
        return data
