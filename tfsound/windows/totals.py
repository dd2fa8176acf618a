"""What all buckets hold together, so that anything is found by its number."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from tfsound import sampling
from tfsound.windows.buckets import Bucket, num_partners

# How many recordings that cannot be used are named; all are counted.
MAX_NAMED = 200


@dataclasses.dataclass(frozen=True)
class BucketSummary:
    """What one bucket adds to `Totals`; plain numbers and lists, so that it can be written as JSON.

    `scarcest`: by constraint, (number of positives, windows of the own recording) of the anchors for which
    the fewest triplets may exist; which of them it is depends on how many windows there are in all.
    `num_members`, by class; `num_labelled`: windows of any class, 0 where classes are not counted;
    `max_own_non_members`, by class: of all recordings with a member, the most labelled windows that are not
    of the class. `num_recordings_used`, by constraint: recordings with an anchor;
    `unused`: some of the others, the first in the global order, as fields of `UnusedRecording`.
    `smallest_gap_seconds`: by constraint, of all windows and frames of one recording, the nearest times;
    infinite where no window has a frame, or the constraint asks for none.
    """

    bucket: int
    num_recordings: int
    num_windows: int
    num_anchors: list[int]
    scarcest: list[list[tuple[int, int]]]
    num_members: list[int]
    num_labelled: int
    max_own_non_members: list[int]
    num_recordings_used: list[int]
    unused: list[list[tuple]]
    num_recordings_with_frames: int
    smallest_gap_seconds: list[float]


class UnusedRecording(NamedTuple):
    """A recording without an anchor; `smallest_gap_seconds` as in `BucketSummary`, of this recording."""

    recording_id: str
    num_windows: int
    num_frames: int
    smallest_gap_seconds: float


def summarize(
    number: int,
    bucket: Bucket,
    constraints: Sequence[sampling.Constraint | sampling.Coincidence],
    num_classes: int,
) -> BucketSummary:
    num_members, max_own_non_members = _class_counts(bucket, num_classes)
    used = [
        _recordings_of(bucket, bucket.anchor_windows[first:last])
        for first, last in itertools.pairwise(bucket.anchor_starts.tolist())
    ]
    gaps = [_smallest_gaps(bucket, constraint) for constraint in constraints]
    return BucketSummary(
        bucket=number,
        num_recordings=len(bucket.recording_ids),
        num_windows=bucket.num_windows,
        num_anchors=np.diff(bucket.anchor_starts).tolist(),
        scarcest=[_scarcest(bucket, constraint) for constraint in constraints],
        num_members=num_members.tolist(),
        num_labelled=len(bucket.labelled) if num_classes else 0,
        max_own_non_members=max_own_non_members.tolist(),
        num_recordings_used=[len(recordings) for recordings in used],
        unused=[_unused(bucket, *of_constraint) for of_constraint in zip(used, gaps, strict=True)],
        num_recordings_with_frames=int(np.count_nonzero(np.diff(bucket.frame_starts))),
        smallest_gap_seconds=[min(of_constraint) for of_constraint in gaps],
    )


def _recordings_of(bucket: Bucket, windows: np.ndarray) -> np.ndarray:
    """The numbers of the recordings that some windows are of, ascending."""
    return np.unique(bucket.recording_starts.searchsorted(windows, side="right")) - 1


def _smallest_gaps(bucket: Bucket, constraint: sampling.Constraint | sampling.Coincidence) -> list[float]:
    """By recording, of all its windows and frames the nearest times."""
    if not isinstance(constraint, sampling.Coincidence):
        return [math.inf] * len(bucket.recording_ids)
    frame_ranges = itertools.pairwise(bucket.frame_starts.tolist())
    window_ranges = itertools.pairwise(bucket.recording_starts.tolist())
    return [
        constraint.smallest_gap(
            bucket.window_start_seconds[slice(*windows)], bucket.frame_seconds[slice(*frames)]
        )
        for windows, frames in zip(window_ranges, frame_ranges, strict=True)
    ]


def _unused(bucket: Bucket, used: np.ndarray, gaps: Sequence[float]) -> list[UnusedRecording]:
    """The first recordings of a bucket that are not used, no more than are named of all together."""
    unused = np.setdiff1d(np.arange(len(bucket.recording_ids)), used)[:MAX_NAMED]
    num_windows, num_frames = np.diff(bucket.recording_starts), np.diff(bucket.frame_starts)
    return [
        UnusedRecording(str(bucket.recording_ids[i]), int(num_windows[i]), int(num_frames[i]), gaps[i])
        for i in unused
    ]


def _class_counts(bucket: Bucket, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """`num_members` and `max_own_non_members`, (num_classes,) each."""
    if not num_classes:  # classes are of no interest
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    classes, windows = bucket.memberships
    recordings = bucket.recording_starts.searchsorted(windows, side="right") - 1
    pairs, counts = np.unique(np.stack([classes, recordings]), axis=1, return_counts=True)
    max_own_non_members = np.zeros(num_classes, np.int64)
    own = np.diff(bucket.labelled.searchsorted(bucket.recording_starts))[pairs[1]] - counts
    np.maximum.at(max_own_non_members, pairs[0], own)
    return np.bincount(classes, minlength=num_classes), max_own_non_members


def _scarcest(
    bucket: Bucket, constraint: sampling.Constraint | sampling.Coincidence
) -> list[tuple[int, int]]:
    """The pairs (positives, own windows) than which no other has as few positives and as many own windows."""
    num_positives = num_partners(
        constraint, bucket.recording_starts, bucket.window_start_seconds,
        bucket.frame_starts, bucket.frame_seconds,
    )  # fmt: skip
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
    `member_starts`: (num_classes, num_buckets + 1); `labelled_starts`: (num_buckets + 1,). `scarcest`,
    `num_recordings_used`, `unused` (at most `MAX_NAMED` of each constraint) and `smallest_gap_seconds`, by
    constraint: see `BucketSummary`.
    """

    num_recordings: int
    window_starts: np.ndarray
    anchor_starts: np.ndarray
    member_starts: np.ndarray
    labelled_starts: np.ndarray
    max_own_non_members: np.ndarray
    scarcest: tuple[tuple[tuple[int, int], ...], ...]
    num_recordings_used: np.ndarray
    unused: tuple[tuple[UnusedRecording, ...], ...]
    num_recordings_with_frames: int
    smallest_gap_seconds: np.ndarray

    @property
    def num_buckets(self) -> int:
        return len(self.window_starts) - 1

    @property
    def num_windows(self) -> int:
        return int(self.window_starts[-1])

    @property
    def num_labelled(self) -> int:
        return int(self.labelled_starts[-1])

    def num_anchors(self, constraint: int) -> int:
        return int(self.anchor_starts[constraint, -1])

    def num_members(self, label_class: int) -> int:
        return int(self.member_starts[label_class, -1])

    def non_member_starts(self, label_class: int) -> np.ndarray:
        return self.labelled_starts - self.member_starts[label_class]


def add_up(
    summaries: Iterable[BucketSummary], num_buckets: int, num_constraints: int, num_classes: int
) -> Totals:
    """The totals of the buckets that hold anything."""
    windows = np.zeros(num_buckets + 1, np.int64)
    anchors = np.zeros((num_constraints, num_buckets + 1), np.int64)
    members = np.zeros((num_classes, num_buckets + 1), np.int64)
    labelled = np.zeros(num_buckets + 1, np.int64)
    own = np.zeros(num_classes, np.int64)
    num_recordings = num_with_frames = 0
    used = np.zeros(num_constraints, np.int64)
    gaps = np.full(num_constraints, math.inf)
    scarcest = [[] for _ in range(num_constraints)]
    unused = [[] for _ in range(num_constraints)]
    for summary in sorted(summaries, key=lambda summary: summary.bucket):
        windows[1 + summary.bucket] = summary.num_windows
        anchors[:, 1 + summary.bucket] = summary.num_anchors
        members[:, 1 + summary.bucket] = summary.num_members
        labelled[1 + summary.bucket] = summary.num_labelled
        own = np.maximum(own, summary.max_own_non_members)
        num_recordings += summary.num_recordings
        num_with_frames += summary.num_recordings_with_frames
        used += np.array(summary.num_recordings_used, np.int64)
        gaps = np.minimum(gaps, summary.smallest_gap_seconds)
        for pairs, more in zip(scarcest, summary.scarcest, strict=True):
            pairs.extend(map(tuple, more))
        for named, more in zip(unused, summary.unused, strict=True):
            named.extend(UnusedRecording(*fields) for fields in more[: MAX_NAMED - len(named)])
    return Totals(
        num_recordings=num_recordings,
        window_starts=windows.cumsum(),
        anchor_starts=anchors.cumsum(axis=1),
        member_starts=members.cumsum(axis=1),
        labelled_starts=labelled.cumsum(),
        max_own_non_members=own,
        scarcest=tuple(tuple(sorted(set(pairs))) for pairs in scarcest),
        num_recordings_used=used,
        unused=tuple(map(tuple, unused)),
        num_recordings_with_frames=num_with_frames,
        smallest_gap_seconds=gaps,
    )


def find(starts: np.ndarray, index: int) -> tuple[int, int]:
    """(bucket, index within it) of a global index."""
    bucket = int(starts.searchsorted(index, side="right")) - 1
    return bucket, index - int(starts[bucket])
