"""Triplets and pairs on the fly: from clip examples to batches in tf.data, with no set of them on disk.

The same draws and the same alterations as those of the jobs `triplets` and `pairs`, for sets that fit in
memory.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator

import tensorflow as tf

from tfsound import examples, pairs, sampling, triplets, windows

# Triplets or pairs drawn at a time.
_BLOCK = 256


def triplet_stream(
    clips: str,
    *,
    constraints: tuple[str, ...] = ("proximity:10",),
    batch_size: int,
    count: int = 0,
    shares: tuple[float, ...] = (),
    exclude_folds: tuple[str, ...] = (),
    seed: int = 0,
) -> tf.data.Dataset:
    """An endless stream of triplet batches straight from clip examples, with no set on disk.

    Its first `count` triplets are those that the job `triplets` writes for the same arguments; then come
    others, drawn anew. All windows are held in memory: 12 kB each, 44 MB for an hour of sound.

    Args:
      clips: the folder of clip examples.
      constraints: one or more, each `name:parameter`.
      count: triplets between one draw of all anchors and the next; 0 for one a window and constraint.
      shares: how they are shared among the constraints; equally without.
      exclude_folds: folds to leave out, because they are for testing.
      seed: what every random draw depends on.

    Returns:
      A data set of `examples.parse_triplets` batches.

    Raises:
      DatasetError: the clips are missing or damaged; ValueError: a parameter is out of range;
      ImpossibleError: the clips cannot give such triplets.
    """
    info = _clips_info(clips, batch_size, count, exclude_folds)
    plan = triplets.make_plan(info, constraints, count or 1, shares, seed)
    held = _HeldClips(clips, info, plan, exclude_folds)
    if not count:
        count = max(1, held.totals.num_windows * len(plan.constraints))
        plan = triplets.make_plan(info, constraints, count, shares, seed)
    triplets.require_possible(plan, held.totals, info.mel_params.context_frames, clips, allow_repeats=True)
    return _stream(
        held.triplet_records,
        plan,
        batch_size,
        lambda records: examples.parse_triplets(records, info.mel_params),
    )


def pair_stream(
    clips: str,
    *,
    modality: str = examples.AUDIO_AUDIO,
    max_time_gap_seconds: float = 10.0,
    batch_size: int,
    count: int = 0,
    exclude_folds: tuple[str, ...] = (),
    seed: int = 0,
) -> tf.data.Dataset:
    """An endless stream of batches of pairs straight from clip examples, with no set on disk.

    Its first `count` pairs are those that the job `pairs` writes for the same arguments; then come others,
    drawn anew. All windows, and for sound with image all JPEGs, are held in memory.

    Args:
      clips: the folder of clip examples.
      modality: `audio_audio` or `audio_image`.
      max_time_gap_seconds: how far apart in time the two of a pair may be.
      count: pairs between one draw of all anchors and the next; 0 for one an anchor.
      exclude_folds: folds to leave out, because they are for testing.
      seed: what every random draw depends on.

    Returns:
      A data set of `examples.parse_pairs` batches.

    Raises:
      DatasetError: the clips are missing or damaged; ValueError: a parameter is out of range;
      ImpossibleError: the clips cannot give such pairs.
    """
    info = _clips_info(clips, batch_size, count, exclude_folds)
    plan = pairs.make_plan(info, modality, max_time_gap_seconds, count or 1, seed)
    pairs.require_frames(plan, info, clips)
    held = _HeldClips(clips, info, plan, exclude_folds)
    pairs.require_possible(plan, held.totals, clips, allow_repeats=True)
    plan = dataclasses.replace(plan, count=count or held.totals.num_anchors(0))
    return _stream(
        held.pair_records,
        plan,
        batch_size,
        lambda records: examples.parse_pairs(records, info.mel_params, modality),
    )


def _clips_info(
    clips: str, batch_size: int, count: int, exclude_folds: tuple[str, ...]
) -> examples.DatasetInfo:
    if batch_size < 1 or count < 0:
        raise ValueError(f"batch_size must be at least 1 and count at least 0, got {batch_size} and {count}.")
    info = examples.read_dataset_info(clips, kind=examples.CLIPS)
    examples.require_folds(info, exclude_folds, clips)
    return info


def _stream(
    records: Callable[[range, triplets.Plan | pairs.Plan], list[bytes]],
    plan: triplets.Plan | pairs.Plan,
    batch_size: int,
    parse: Callable[[tf.Tensor], dict[str, tf.Tensor]],
) -> tf.data.Dataset:
    """Batches of a plan's records, then of those of the same plan under other seeds, for ever."""

    def blocks() -> Iterator[list[bytes]]:
        for epoch in itertools.count():
            epoch_seed = sampling.stable_hash(plan.seed, epoch) if epoch else plan.seed
            epoch_plan = dataclasses.replace(plan, seed=epoch_seed)
            for first in range(0, plan.count, _BLOCK):
                yield records(range(first, min(first + _BLOCK, plan.count)), epoch_plan)

    return (
        tf.data.Dataset.from_generator(blocks, output_signature=tf.TensorSpec([None], tf.string))
        .unbatch()
        .batch(batch_size, drop_remainder=True)
        .map(parse, num_parallel_calls=2)
        .prefetch(2)
    )


class _HeldClips:
    """All windows, and where they are asked for all frames, of a set of clips in memory.

    The index of them is one bucket, in which a clip's number stands for a shard.
    """

    def __init__(
        self,
        clips: str,
        info: examples.DatasetInfo,
        plan: windows.IndexPlan,
        exclude_folds: tuple[str, ...],
    ):
        self._mel_params = info.mel_params
        self._data: list[bytes] = []
        classes = {name: number for number, name in enumerate(info.label_names)}
        constraints, num_classes = plan.within_recordings, plan.num_counted_classes
        indexed = []
        for clip in examples.iter_clips(clips):
            num_windows = info.mel_params.num_windows(len(clip.mel_energy))
            if clip.fold in exclude_folds or not num_windows:
                continue
            parts = [clip.mel_energy.tobytes()]
            if windows.uses_frames(constraints):
                parts.extend(clip.frame_jpegs)
            ends = list(itertools.accumulate(map(len, parts)))
            indexed.append(
                windows.index_clip(
                    clip, num_windows, classes, shard=len(indexed), offset=0, frame_offsets=ends[:-1]
                )
            )
            self._data.append(b"".join(parts))
        summaries = []
        if indexed:
            self._bucket = windows.build_bucket(indexed, info.mel_params, constraints)
            summaries = [windows.summarize(0, self._bucket, constraints, num_classes)]
        self.totals = windows.add_up(summaries, 1, len(constraints), num_classes)

    def _load_bucket(self, number: int) -> windows.Bucket:
        return self._bucket

    def _read(self, location: windows.WindowLocation | windows.FrameLocation) -> bytes:
        params = self._mel_params
        num_bytes = params.context_frames * params.num_columns * 2
        if isinstance(location, windows.FrameLocation):
            num_bytes = location.num_bytes
        return self._data[location.shard][location.offset : location.offset + num_bytes]

    def triplet_records(self, slots: range, plan: triplets.Plan) -> list[bytes]:
        """The triplets of these slots, serialised."""
        params = self._mel_params
        draws = triplets.draw_triplets(slots, plan, self.totals, self._load_bucket, params.context_frames)
        return [
            triplets.encode_draw(draw, plan, [self._read(at) for at in draw.locations], params.num_columns)
            for draw in draws
        ]

    def pair_records(self, slots: range, plan: pairs.Plan) -> list[bytes]:
        """The pairs of these slots, serialised."""
        draws = pairs.draw_pairs(slots, plan, self.totals, self._load_bucket)
        return [draw.encode(self._read(draw.audio), self._read(draw.other)) for draw in draws]
