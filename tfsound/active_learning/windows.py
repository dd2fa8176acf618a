"""Windows from ids and times: what embeddings of windows, or of whole clips, are rows of."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from tfsound.active_learning.question_set import WindowClusters
from tfsound.records import ActiveLearningError, shown
from tfsound.window_labels import milliseconds

CONTEXT_SECONDS = 0.96


def windows_of(
    clip_ids: Sequence[str],
    recording_ids: Sequence[str],
    start_seconds: Sequence[float] = (),
    *,
    num_windows: int,
    window_seconds: float = CONTEXT_SECONDS,
) -> WindowClusters:
    """Windows that are in no cluster yet (all in cluster 0, at distance 0).

    Args:
      clip_ids: (windows,).
      recording_ids: (windows,), the same for all windows of a clip.
      start_seconds: (windows,), by default 0: whole clips.
      num_windows: how many there must be.
      window_seconds: how long each is.

    Raises:
      ActiveLearningError: other numbers of ids or times, a window that is there twice, a clip of two
        recordings.
    """
    starts = np.asarray(start_seconds if len(start_seconds) else np.zeros(num_windows), np.float64)
    for name, found in (("clip_ids", clip_ids), ("recording_ids", recording_ids), ("start_seconds", starts)):
        if len(found) != num_windows:
            raise ActiveLearningError(f"{name} must be one a window, {num_windows}, got {len(found)}.")
    if not np.isfinite(starts).all() or not 0 < window_seconds < np.inf:
        raise ActiveLearningError(
            "start_seconds and window_seconds must be finite, and window_seconds positive."
        )
    rows: dict[str, int] = {}
    recordings: list[str] = []
    clip_index = np.empty(num_windows, np.int32)
    for window, (clip_id, recording_id) in enumerate(zip(clip_ids, recording_ids, strict=True)):
        row = rows.setdefault(str(clip_id), len(rows))
        if row == len(recordings):
            recordings.append(str(recording_id))
        elif recordings[row] != str(recording_id):
            raise ActiveLearningError(
                f"clip {shown(clip_id)} is of the recordings {shown(recordings[row])} and "
                f"{shown(recording_id)}; give it one."
            )
        clip_index[window] = row
    windows = WindowClusters(
        clip_index=clip_index,
        start_seconds=starts,
        cluster=np.zeros(num_windows, np.int32),
        distance=np.zeros(num_windows, np.float32),
        clip_ids=np.asarray(list(rows), np.str_),
        recording_ids=np.asarray(recordings, np.str_),
        window_seconds=float(window_seconds),
    )
    repeats = windows.finder().repeats()
    if len(repeats):
        clip_id, start = windows.clip_ids[clip_index[repeats[0]]], milliseconds(starts)[repeats[0]]
        raise ActiveLearningError(
            f"the window of clip {shown(str(clip_id))} at {start / 1000} s is there twice, as are "
            f"{len(repeats) - 1} others; give each clip an id of its own."
        )
    return windows


def numbered(sets: Sequence[WindowClusters]) -> tuple[list[np.ndarray], int]:
    """Numbers the windows of several sets, a window that is in several of them alike.

    Returns:
      The number of each window of each set, int64, (windows,), and how many different windows there are.
    """
    clips: dict[str, int] = {}
    of_windows = []
    for windows in sets:
        of_clips = [clips.setdefault(clip_id, len(clips)) for clip_id in windows.clip_ids.tolist()]
        of_windows.append(np.asarray(of_clips, np.int64)[windows.clip_index])
    times = [milliseconds(windows.start_seconds) for windows in sets]
    times, time = np.unique(np.concatenate(times), return_inverse=True)
    different, number = np.unique(np.concatenate(of_windows) * len(times) + time, return_inverse=True)
    ends = np.cumsum([windows.num_windows for windows in sets])
    return np.split(number, ends[:-1]), len(different)


def canonical_order(windows: WindowClusters) -> np.ndarray:
    """The order by clip id and time, int64, (windows,): in it nothing depends on how the windows came."""
    ranks = np.empty(len(windows.clip_ids), np.int64)
    ranks[np.argsort(windows.clip_ids, kind="stable")] = np.arange(len(ranks))
    return np.lexsort((milliseconds(windows.start_seconds), ranks[windows.clip_index]))


def select(windows: WindowClusters, order: np.ndarray) -> WindowClusters:
    """Some of the windows, or all in another order; the clips stay as they are."""
    return dataclasses.replace(
        windows,
        clip_index=windows.clip_index[order],
        start_seconds=windows.start_seconds[order],
        cluster=windows.cluster[order],
        distance=windows.distance[order],
    )
