"""The windows and frames of some recordings, in order, and where they lie."""

import bisect
import dataclasses
import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from tfsound import examples, mel, sampling


class IndexPlan(Protocol):
    """What an index is made for.

    `within_recordings` are the constraints that choose anchors recording by recording; `class_names` the
    sorted labels that classes are numbers into, of which the first `num_counted_classes` are counted.
    """

    within_recordings: tuple[sampling.Constraint | sampling.Coincidence, ...]
    class_names: tuple[str, ...]
    num_counted_classes: int


def uses_frames(constraints: Iterable[sampling.Constraint | sampling.Coincidence]) -> bool:
    """Whether any of these constraints asks for frames, so that an index for them must hold them."""
    return any(isinstance(constraint, sampling.Coincidence) for constraint in constraints)


@dataclasses.dataclass(frozen=True)
class IndexedClip:
    """What the index needs of a clip: whose it is, and where its energies lie.

    `frames`: of each its time in the recording, and where its JPEG lies (byte offset, bytes).
    """

    recording_id: str
    clip_id: str
    shard: int
    offset: int
    start_seconds: float
    num_windows: int
    classes: tuple[int, ...]
    frames: tuple[tuple[float, int, int], ...] = ()


def index_clip(
    clip: examples.Clip,
    num_windows: int,
    classes: Mapping[str, int],
    *,
    shard: int,
    offset: int,
    frame_offsets: Sequence[int] = (),
) -> IndexedClip:
    """What the index needs of a clip whose energies lie at a byte offset of a shard.

    Args:
      frame_offsets: where the JPEGs lie; without, the index holds no frames of the clip.
    """
    frames = ()
    if frame_offsets:
        lengths = map(len, clip.frame_jpegs)
        frames = tuple(zip(clip.frame_seconds, frame_offsets, lengths, strict=True))
    return IndexedClip(
        recording_id=clip.recording_id,
        clip_id=clip.clip_id,
        shard=shard,
        offset=offset,
        start_seconds=clip.start_seconds,
        num_windows=num_windows,
        classes=tuple(sorted({classes[label] for label in clip.labels})),
        frames=frames,
    )


@dataclasses.dataclass(frozen=True, slots=True)
class WindowLocation:
    """Where the energies of a window are (shard number, byte offset), and what window it is."""

    shard: int
    offset: int
    ref: examples.WindowRef
    classes: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class FrameLocation:
    """Where the JPEG of a frame is (shard number, byte offset, bytes), and what frame it is."""

    shard: int
    offset: int
    num_bytes: int
    ref: examples.FrameRef


@dataclasses.dataclass(frozen=True)
class Bucket:
    """The windows and frames of some recordings, in global order.

    `recording_starts`, (num_recordings + 1,), says where each recording's windows begin; the `window_*`
    arrays are (num_windows,). `clip_classes` are the classes of clip after clip; `clip_class_starts`,
    (num_clips + 1,), says where each clip's begin. `anchor_windows` are those that may be anchors,
    constraint after constraint; `anchor_starts`, (num_constraints + 1,), where each constraint's begin.
    `frame_starts`, (num_recordings + 1,), says where each recording's frames begin; the other `frame_*`
    arrays are (num_frames,). Starts are int64; other whole numbers are of any unsigned type.
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
    frame_starts: np.ndarray
    frame_clip: np.ndarray
    frame_seconds: np.ndarray
    frame_shard: np.ndarray
    frame_offset: np.ndarray
    frame_num_bytes: np.ndarray

    @property
    def num_windows(self) -> int:
        return len(self.window_clip)

    def recording_of(self, window: int) -> int:
        return int(self.recording_starts.searchsorted(window, side="right")) - 1

    def recording_range(self, window: int) -> tuple[int, int]:
        """The windows [start, end) of a window's recording."""
        recording = self.recording_of(window)
        return int(self.recording_starts[recording]), int(self.recording_starts[recording + 1])

    def frame_range(self, window: int) -> tuple[int, int]:
        """The frames [start, end) of a window's recording."""
        recording = self.recording_of(window)
        return int(self.frame_starts[recording]), int(self.frame_starts[recording + 1])

    def anchor(self, constraint: int, rank: int) -> int:
        """The window that is a constraint's anchor number `rank` in this bucket."""
        return int(self.anchor_windows[self.anchor_starts[constraint] + rank])

    @functools.cached_property
    def memberships(self) -> tuple[np.ndarray, np.ndarray]:
        """(classes, windows) of every membership, by class and then window."""
        num_classes = np.diff(self.clip_class_starts)[self.window_clip]
        windows = np.repeat(np.arange(self.num_windows), num_classes)
        step = np.arange(len(windows)) - np.repeat(num_classes.cumsum() - num_classes, num_classes)
        first = np.repeat(self.clip_class_starts[:-1][self.window_clip], num_classes)
        classes = self.clip_classes[first + step]
        order = np.argsort(classes, kind="stable")
        return classes[order].astype(np.int64), windows[order]

    def members(self, label_class: int) -> np.ndarray:
        """The windows of a class, ascending."""
        classes, windows = self.memberships
        first, last = classes.searchsorted([label_class, label_class + 1])
        return windows[first:last]

    @functools.cached_property
    def labelled(self) -> np.ndarray:
        """The windows that have any class, ascending."""
        return np.flatnonzero(np.diff(self.clip_class_starts)[self.window_clip])

    def non_member(self, label_class: int, rank: int) -> int:
        """Number `rank` of the labelled windows that are not of a class."""
        members, labelled = self.members(label_class), self.labelled

        def num_others_before(member: int) -> int:
            return int(labelled.searchsorted(members[member])) - member

        place = rank + bisect.bisect_right(range(len(members)), rank, key=num_others_before)
        return int(labelled[place])

    def location(self, window: int) -> WindowLocation:
        clip = int(self.window_clip[window])  # one more than the largest number of a small type is 0
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

    def frame_location(self, frame: int) -> FrameLocation:
        recording = int(self.frame_starts.searchsorted(frame, side="right")) - 1
        return FrameLocation(
            int(self.frame_shard[frame]),
            int(self.frame_offset[frame]),
            int(self.frame_num_bytes[frame]),
            examples.FrameRef(
                clip_id=str(self.clip_ids[self.frame_clip[frame]]),
                recording_id=str(self.recording_ids[recording]),
                seconds=float(self.frame_seconds[frame]),
            ),
        )


def build_bucket(
    clips: Iterable[IndexedClip],
    mel_params: mel.MelParams,
    constraints: Sequence[sampling.Constraint | sampling.Coincidence],
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
    window_bytes = mel_params.context_frames * mel_params.num_columns * 2
    window_seconds = start_seconds[window_clip] + step * mel_params.context_seconds
    # Clips of one recording may overlap in time (UrbanSound8K's do): its windows are put in order.
    clip_recording = np.append(0, recordings[1:] != recordings[:-1]).cumsum()
    order = np.lexsort((window_clip, window_seconds, clip_recording[window_clip]))
    recording_starts = np.append(0, np.bincount(clip_recording, num_windows).astype(np.int64).cumsum())
    shards = np.array([clip.shard for clip in ordered])
    frames = _frame_arrays(ordered, clip_recording, shards)
    times = recording_starts, window_seconds[order], frames["frame_starts"], frames["frame_seconds"]
    anchors = [np.flatnonzero(num_partners(constraint, *times)) for constraint in constraints]
    return Bucket(
        recording_ids=recordings[np.unique(clip_recording, return_index=True)[1]],
        recording_starts=recording_starts,
        clip_ids=np.array([clip.clip_id for clip in ordered]),
        clip_classes=_compact(np.array([label for clip in ordered for label in clip.classes], np.int64)),
        clip_class_starts=np.cumsum([0, *(len(clip.classes) for clip in ordered)]),
        window_clip=_compact(window_clip[order]),
        window_start_seconds=window_seconds[order],
        window_shard=_compact(shards[window_clip][order]),
        window_offset=_compact((offsets[window_clip] + step * window_bytes)[order]),
        anchor_windows=_compact(np.concatenate([np.zeros(0, np.int64), *anchors])),
        anchor_starts=np.cumsum([0, *map(len, anchors)]),
        **frames,
    )


def _compact(numbers: np.ndarray) -> np.ndarray:
    """The same numbers, at least 0, in the smallest type that holds them: an index is loaded many times."""
    return numbers.astype(np.min_scalar_type(numbers.max(initial=0)))


def _frame_arrays(
    ordered: Sequence[IndexedClip], clip_recording: np.ndarray, shards: np.ndarray
) -> dict[str, np.ndarray]:
    """The `frame_*` arrays of a bucket of clips, of which `clip_recording` says the recordings, (clips,)."""
    frame_clip = np.repeat(np.arange(len(ordered)), [len(clip.frames) for clip in ordered])
    frames = [frame for clip in ordered for frame in clip.frames]
    seconds = np.array([seconds for seconds, _, _ in frames], np.float64)
    places = np.array([place for _, *place in frames], np.int64).reshape(-1, 2)
    order = np.lexsort((frame_clip, seconds, clip_recording[frame_clip]))
    frame_clip, num_recordings = frame_clip[order], clip_recording[-1] + 1
    counts = np.bincount(clip_recording[frame_clip], minlength=num_recordings)
    return {
        "frame_starts": np.append(0, counts.cumsum()),
        "frame_clip": _compact(frame_clip),
        "frame_seconds": seconds[order],
        "frame_shard": _compact(shards[frame_clip]),
        "frame_offset": _compact(places[order, 0]),
        "frame_num_bytes": _compact(places[order, 1]),
    }


def num_partners(
    constraint: sampling.Constraint | sampling.Coincidence,
    recording_starts: np.ndarray,
    start_seconds: np.ndarray,
    frame_starts: np.ndarray,
    frame_seconds: np.ndarray,
) -> np.ndarray:
    """How many positives, or frames, each window has, recording by recording: int64, (num_windows,)."""
    counts = [np.zeros(0, np.int64)]
    frame_ranges = itertools.pairwise(frame_starts.tolist())
    for (start, end), frames in zip(itertools.pairwise(recording_starts.tolist()), frame_ranges, strict=True):
        own = start_seconds[start:end]
        if isinstance(constraint, sampling.Coincidence):
            counts.append(constraint.num_frames(own, frame_seconds[slice(*frames)]))
        else:
            counts.append(constraint.num_positives(own, np.arange(end - start)))
    return np.concatenate(counts)
