"""Where all context windows of a set of clips are: an index that is held a part at a time.

Windows have a global index: recordings in the order of a hash of their ids, the windows of a recording in
the order of time. The index is cut by that hash into buckets, and `Totals` says how many windows, anchors
and members of a class each bucket holds. So any window, any anchor and any member (or non-member) of a
class can be found by its number while one bucket is in memory.

Classes are numbers into the set's sorted label names.
"""

import bisect
import dataclasses
import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tfsound import examples, mel, sampling


@dataclasses.dataclass(frozen=True)
class IndexedClip:
    """What the index needs of a clip: whose it is, and where its energies lie."""

    recording_id: str
    clip_id: str
    shard: int
    offset: int
    start_seconds: float
    num_windows: int
    classes: tuple[int, ...]


def index_clip(
    clip: examples.Clip, num_windows: int, classes: Mapping[str, int], *, shard: int, offset: int
) -> IndexedClip:
    """What the index needs of a clip whose energies lie at a byte offset of a shard."""
    return IndexedClip(
        recording_id=clip.recording_id,
        clip_id=clip.clip_id,
        shard=shard,
        offset=offset,
        start_seconds=clip.start_seconds,
        num_windows=num_windows,
        classes=tuple(sorted({classes[label] for label in clip.labels})),
    )


@dataclasses.dataclass(frozen=True)
class WindowLocation:
    """Where the energies of a window are (shard number, byte offset), and what window it is."""

    shard: int
    offset: int
    ref: examples.WindowRef
    classes: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Bucket:
    """The windows of some recordings, in global order.

    `recording_starts`, (num_recordings + 1,), says where each recording's windows begin; the `window_*`
    arrays are (num_windows,). `clip_classes` are the classes of clip after clip; `clip_class_starts`,
    (num_clips + 1,), says where each clip's begin. `anchor_windows` are those that may be anchors,
    constraint after constraint; `anchor_starts`, (num_constraints + 1,), where each constraint's begin.
    """

    recording_ids: np.ndarray
    recording_starts: np.ndarray
    clip_ids: np.ndarray
    clip_classes: np.ndarray
    clip_class_starts: np.ndarray
    window_clip: np.ndarray
    window_start_seconds: np.ndarray
    window_shard: np.ndarray
    window_offset: np.ndarray
    anchor_windows: np.ndarray
    anchor_starts: np.ndarray

    @property
    def num_windows(self) -> int:
        return len(self.window_clip)

    def recording_of(self, window: int) -> int:
        return int(self.recording_starts.searchsorted(window, side="right")) - 1

    def recording_range(self, window: int) -> tuple[int, int]:
        """The windows [start, end) of a window's recording."""
        recording = self.recording_of(window)
        return int(self.recording_starts[recording]), int(self.recording_starts[recording + 1])

    def anchor(self, constraint: int, rank: int) -> int:
        """The window that is a constraint's anchor number `rank` in this bucket."""
        return int(self.anchor_windows[self.anchor_starts[constraint] + rank])

    @functools.cached_property
    def _members(self) -> tuple[np.ndarray, np.ndarray]:
        """(classes, windows) of every membership, by class and then window."""
        num_classes = np.diff(self.clip_class_starts)[self.window_clip]
        windows = np.repeat(np.arange(self.num_windows), num_classes)
        step = np.arange(len(windows)) - np.repeat(num_classes.cumsum() - num_classes, num_classes)
        first = np.repeat(self.clip_class_starts[:-1][self.window_clip], num_classes)
        classes = self.clip_classes[first + step]
        order = np.argsort(classes, kind="stable")
        return classes[order], windows[order]

    def members(self, label_class: int) -> np.ndarray:
        """The windows of a class, ascending."""
        classes, windows = self._members
        first, last = classes.searchsorted([label_class, label_class + 1])
        return windows[first:last]

    def non_member(self, label_class: int, rank: int) -> int:
        """Number `rank` of the windows that are not of a class."""
        members = self.members(label_class)
        # Before member number i stand members[i] - i windows of other classes.
        return rank + bisect.bisect_right(range(len(members)), rank, key=lambda i: int(members[i]) - i)

    def location(self, window: int) -> WindowLocation:
        clip = self.window_clip[window]
        classes = self.clip_classes[self.clip_class_starts[clip] : self.clip_class_starts[clip + 1]]
        return WindowLocation(
            int(self.window_shard[window]),
            int(self.window_offset[window]),
            examples.WindowRef(
                clip_id=str(self.clip_ids[clip]),
                recording_id=str(self.recording_ids[self.recording_of(window)]),
                start_seconds=float(self.window_start_seconds[window]),
            ),
            tuple(classes.tolist()),
        )


def build_bucket(
    clips: Iterable[IndexedClip], mel_params: mel.MelParams, constraints: Sequence[sampling.Constraint]
) -> Bucket:
    """Orders the windows of a bucket's clips; `constraints` are those that choose anchors by recording."""
    ordered = sorted(
        clips,
        key=lambda clip: (
            sampling.stable_hash(clip.recording_id),
            clip.recording_id,
            clip.start_seconds,
            clip.clip_id,
        ),
    )
    recordings = np.array([clip.recording_id for clip in ordered])
    num_windows = np.array([clip.num_windows for clip in ordered])
    start_seconds = np.array([clip.start_seconds for clip in ordered], np.float64)
    offsets = np.array([clip.offset for clip in ordered], np.int64)
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
        clip_ids=np.array([clip.clip_id for clip in ordered]),
        clip_classes=np.array([label for clip in ordered for label in clip.classes], np.int64),
        clip_class_starts=np.cumsum([0, *(len(clip.classes) for clip in ordered)]),
        window_clip=window_clip[order],
        window_start_seconds=window_seconds[order],
        window_shard=np.array([clip.shard for clip in ordered])[window_clip][order],
        window_offset=(offsets[window_clip] + step * window_bytes)[order],
        anchor_windows=np.concatenate([np.zeros(0, np.int64), *anchors]),
        anchor_starts=np.cumsum([0, *map(len, anchors)]),
    )


def _anchors(
    constraint: sampling.Constraint, recording_starts: np.ndarray, start_seconds: np.ndarray
) -> np.ndarray:
    """The windows that may be anchors, in order: int64, (num_anchors,)."""
    return np.flatnonzero(_num_positives(constraint, recording_starts, start_seconds))


def _num_positives(
    constraint: sampling.Constraint, recording_starts: np.ndarray, start_seconds: np.ndarray
) -> np.ndarray:
    """How many positives each window may have, recording by recording: int64, (num_windows,)."""
    return np.concatenate(
        [
            constraint.num_positives(start_seconds[start:end], np.arange(end - start))
            for start, end in itertools.pairwise(recording_starts.tolist())
        ]
    )


@dataclasses.dataclass(frozen=True)
class BucketSummary:
    """What one bucket adds to `Totals`; plain numbers and lists, so that it can be written as JSON.

    `scarcest`: by constraint, (number of positives, windows of the own recording) of the anchors for which
    the fewest triplets may exist; which of them it is depends on how many windows there are in all.
    `num_members`, by class; `max_own_non_members`, by class: of all recordings with a member, the most
    windows that are not of the class.
    """

    bucket: int
    num_recordings: int
    num_windows: int
    num_anchors: list[int]
    scarcest: list[list[tuple[int, int]]]
    num_members: list[int]
    max_own_non_members: list[int]


def summarize(
    number: int, bucket: Bucket, constraints: Sequence[sampling.Constraint], num_classes: int
) -> BucketSummary:
    num_members, max_own_non_members = _class_counts(bucket, num_classes)
    return BucketSummary(
        bucket=number,
        num_recordings=len(bucket.recording_ids),
        num_windows=bucket.num_windows,
        num_anchors=np.diff(bucket.anchor_starts).tolist(),
        scarcest=[_scarcest(bucket, constraint) for constraint in constraints],
        num_members=num_members.tolist(),
        max_own_non_members=max_own_non_members.tolist(),
    )


def _class_counts(bucket: Bucket, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """`num_members` and `max_own_non_members`, (num_classes,) each."""
    if not num_classes:  # classes are of no interest
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    classes, windows = bucket._members
    recordings = bucket.recording_starts.searchsorted(windows, side="right") - 1
    pairs, counts = np.unique(np.stack([classes, recordings]), axis=1, return_counts=True)
    max_own_non_members = np.zeros(num_classes, np.int64)
    own = np.diff(bucket.recording_starts)[pairs[1]] - counts
    np.maximum.at(max_own_non_members, pairs[0], own)
    return np.bincount(classes, minlength=num_classes), max_own_non_members


def _scarcest(bucket: Bucket, constraint: sampling.Constraint) -> list[tuple[int, int]]:
    """The pairs (positives, own windows) than which no other has as few positives and as many own windows."""
    num_positives = _num_positives(constraint, bucket.recording_starts, bucket.window_start_seconds)
    num_own = np.repeat(np.diff(bucket.recording_starts), np.diff(bucket.recording_starts))
    pairs = np.unique(np.stack([num_positives, num_own])[:, num_positives > 0], axis=1).T
    kept, most_own = [], 0
    # By positives ascending, own windows descending.
    for positives, own in sorted(pairs.tolist(), key=lambda pair: (pair[0], -pair[1])):
        if own > most_own:
            kept.append((positives, own))
            most_own = own
    return kept


@dataclasses.dataclass(frozen=True)
class Totals:
    """What all buckets hold, and where each bucket's begin: the last entry of `*_starts` is the sum.

    `window_starts`: (num_buckets + 1,); `anchor_starts`: (num_constraints, num_buckets + 1);
    `member_starts`: (num_classes, num_buckets + 1). `scarcest`, by constraint: see `BucketSummary`.
    """

    num_recordings: int
    window_starts: np.ndarray
    anchor_starts: np.ndarray
    member_starts: np.ndarray
    max_own_non_members: np.ndarray
    scarcest: tuple[tuple[tuple[int, int], ...], ...]

    @property
    def num_windows(self) -> int:
        return int(self.window_starts[-1])

    def num_anchors(self, constraint: int) -> int:
        return int(self.anchor_starts[constraint, -1])

    def num_members(self, label_class: int) -> int:
        return int(self.member_starts[label_class, -1])

    def non_member_starts(self, label_class: int) -> np.ndarray:
        return self.window_starts - self.member_starts[label_class]


def add_up(
    summaries: Iterable[BucketSummary], num_buckets: int, num_constraints: int, num_classes: int
) -> Totals:
    """The totals of the buckets that hold anything."""
    windows = np.zeros(num_buckets + 1, np.int64)
    anchors = np.zeros((num_constraints, num_buckets + 1), np.int64)
    members = np.zeros((num_classes, num_buckets + 1), np.int64)
    own = np.zeros(num_classes, np.int64)
    num_recordings = 0
    scarcest = [[] for _ in range(num_constraints)]
    for summary in summaries:
        windows[1 + summary.bucket] = summary.num_windows
        anchors[:, 1 + summary.bucket] = summary.num_anchors
        members[:, 1 + summary.bucket] = summary.num_members
        own = np.maximum(own, summary.max_own_non_members)
        num_recordings += summary.num_recordings
        for pairs, more in zip(scarcest, summary.scarcest, strict=True):
            pairs.extend(map(tuple, more))
    return Totals(
        num_recordings=num_recordings,
        window_starts=windows.cumsum(),
        anchor_starts=anchors.cumsum(axis=1),
        member_starts=members.cumsum(axis=1),
        max_own_non_members=own,
        scarcest=tuple(tuple(sorted(set(pairs))) for pairs in scarcest),
    )


def find(starts: np.ndarray, index: int) -> tuple[int, int]:
    """(bucket, index within it) of a global index."""
    bucket = int(starts.searchsorted(index, side="right")) - 1
    return bucket, index - int(starts[bucket])
