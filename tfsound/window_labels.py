"""Labels of context windows, and the folder of propagated labels that a classifier is trained on.

A window is named by its clip and by when it starts in its recording, to the millisecond: what `tfsound
answers` writes and what training reads meet in that name.

  labels.jsonl   a line for each window of which something is known.
  labels.json    what it was made of and how much it holds; written last: a folder without it is unfinished.

A line of `labels.jsonl`:

  {"clip_id", "recording_id", "start_seconds", "end_seconds", "kind": "positive" | "negative" | "uncertain",
   "labels": ["dog"], "confidence": [1.0], "source": "direct" | "propagated", "question_id", "annotator",
   "time", "cluster", "question_set", "also": [{"question_id", "annotator", "time"}]}

`confidence` goes with `labels`; `question_id`, `annotator` and `time` are those of the latest answer that it
rests on, `also` (absent where there is none) of the others; `question_set` counts the folders of questions
in `labels.json`.
"""

import array
import dataclasses
import os
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from tfsound.records import ActiveLearningError, field, iter_json_lines, parse_object, shown

FORMAT = 1
INFO_NAME = "labels.json"
LABELS_NAME = "labels.jsonl"
POSITIVE, NEGATIVE, UNCERTAIN = "positive", "negative", "uncertain"
DIRECT, PROPAGATED = "direct", "propagated"
_KINDS = (POSITIVE, NEGATIVE, UNCERTAIN)
# What tells a window from others in any set: its clip_id, and its start in milliseconds.
WindowKey = tuple[str, int]
# Up to here milliseconds are whole numbers in float64, too.
_MOST_SECONDS = 2**53 / 1000


def milliseconds(seconds: ArrayLike) -> np.ndarray:
    """Times as whole numbers that can be compared."""
    return np.rint(np.asarray(seconds, np.float64) * 1000).astype(np.int64)


def window_starts(clip_start_seconds: float, num_windows: int, context_seconds: float) -> list[float]:
    """When the context windows of a clip start in its recording, as labels name them.

    Args:
      clip_start_seconds: from the start of the recording.
      num_windows: how many the clip has.
      context_seconds: how long each is; they follow each other without a gap.

    Returns:
      Seconds from the start of the recording, to the millisecond, (num_windows,).
    """
    return [round(clip_start_seconds + number * context_seconds, 3) for number in range(num_windows)]


class WindowFinder:
    """Finds windows by their names.

    Memory: 16 bytes a window, and what a dictionary of the clips takes.

    Args:
      clip_ids: (clips,), each once.
      clip_index: int, (windows,), the clip of each.
      start_seconds: float64, (windows,).
    """

    def __init__(self, clip_ids: Iterable[str], clip_index: np.ndarray, start_seconds: np.ndarray):
        self._clips = {clip_id: clip for clip, clip_id in enumerate(clip_ids)}
        starts = milliseconds(start_seconds)
        self._order = np.lexsort((starts, clip_index))
        self._starts = starts[self._order]
        num_windows = np.bincount(clip_index, minlength=len(self._clips))
        self._ends = np.concatenate([[0], np.cumsum(num_windows)])

    def find(self, clip_id: str, starts: ArrayLike) -> np.ndarray:
        """The windows of a clip that start at these milliseconds, int64; -1 where there is none."""
        starts = np.asarray(starts, np.int64)
        clip = self._clips.get(clip_id)
        if clip is None:
            return np.full(len(starts), -1)
        own = slice(self._ends[clip], self._ends[clip + 1])
        windows = np.append(self._order[own], -1)
        places = np.searchsorted(self._starts[own], starts)
        is_there = np.append(self._starts[own], np.iinfo(np.int64).min)[places] == starts
        return np.where(is_there, windows[places], -1)

    def repeats(self) -> np.ndarray:
        """The windows that have the name of another, but one of each name: int64."""
        clips = np.repeat(np.arange(len(self._ends) - 1), np.diff(self._ends))
        is_repeat = (clips[1:] == clips[:-1]) & (self._starts[1:] == self._starts[:-1])
        return self._order[1:][is_repeat]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class WindowLabels:
    """Labels of windows as arrays for training. Windows of which nothing is known are not among them.

    Memory: 20 bytes a window where the windows of a clip share its name, as those of
    `read_propagated_labels` do. They share rows of labels, too, as cohabitants of a cluster have the same;
    `labels` is made when asked for.

    Attributes:
      clip_ids: (windows,).
      start_seconds: float64, (windows,), from the start of the recording.
      row: int32, (windows,), the row of `row_labels` and `row_is_known` that tells of a window.
      row_labels: float32, (rows, classes), the confidence of each class, in [0, 1].
      row_is_known: bool, (rows,), False where a window is uncertain: its labels are to be left out of a loss.
      class_names: (classes,).

    Raises:
      ActiveLearningError: shapes that do not fit together, a confidence outside [0, 1], a class or a window
        that is there twice.
    """

    clip_ids: tuple[str, ...]
    start_seconds: np.ndarray
    row: np.ndarray
    row_labels: np.ndarray
    row_is_known: np.ndarray
    class_names: tuple[str, ...]

    def __post_init__(self):
        num_windows, num_rows = len(self.clip_ids), len(self.row_labels)
        for name, shape in (
            ("start_seconds", (num_windows,)),
            ("row", (num_windows,)),
            ("row_labels", (num_rows, len(self.class_names))),
            ("row_is_known", (num_rows,)),
        ):
            if np.shape(getattr(self, name)) != shape:
                raise ActiveLearningError(
                    f"{name} must have shape {shape}, got {np.shape(getattr(self, name))}: one a window, a "
                    "row of labels or a class."
                )
        if num_windows and not 0 <= np.min(self.row) <= np.max(self.row) < num_rows:
            raise ActiveLearningError(f"row must be from 0 to {num_rows - 1}, got {np.unique(self.row)}.")
        # So that NaN fails, too.
        if not ((np.asarray(self.row_labels) >= 0) & (np.asarray(self.row_labels) <= 1)).all():
            raise ActiveLearningError(
                "row_labels must be confidences in [0, 1], got others, or what is no number."
            )
        if len(set(self.class_names)) < len(self.class_names):
            raise ActiveLearningError(f"class_names must differ, got {shown(list(self.class_names))}.")
        if not (np.abs(self.start_seconds) < _MOST_SECONDS).all():
            raise ActiveLearningError(
                "start_seconds must be seconds from the start of a recording, got what is none."
            )
        if len(self.finder().repeats()):
            raise ActiveLearningError("a window is labelled twice; give each clip an id of its own.")

    def finder(self) -> WindowFinder:
        """Finds the place of a window by its name."""
        clips: dict[str, int] = {}
        index = (clips.setdefault(clip_id, len(clips)) for clip_id in self.clip_ids)
        return WindowFinder(clips, np.fromiter(index, np.int32, len(self.clip_ids)), self.start_seconds)

    @property
    def labels(self) -> np.ndarray:
        """Soft labels, float32, (windows, classes)."""
        return self.row_labels[self.row]

    @property
    def mask(self) -> np.ndarray:
        """bool, (windows, classes): where the labels are known, so that a loss may look at them."""
        return np.repeat(self.row_is_known[self.row][:, None], len(self.class_names), axis=1)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class PropagatedLabels(WindowLabels):
    """Labels that were spread over clusters.

    Attributes:
      recording_ids: (windows,).
      end_seconds: float64, (windows,), from the start of the recording.
      is_direct: bool, (windows,), whether the window itself was answered.
    """

    recording_ids: tuple[str, ...]
    end_seconds: np.ndarray
    is_direct: np.ndarray


def read_propagated_labels(folder: str) -> PropagatedLabels:
    """Reads the folder that `tfsound answers` wrote.

    Raises:
      ActiveLearningError: no finished folder of labels, or one that was edited or damaged; the line is named.
    """
    path = os.path.join(folder, INFO_NAME)
    if not os.path.isfile(path):
        raise ActiveLearningError(
            f"{folder or '(empty)'} is no finished set of labels: it holds no {INFO_NAME}; make it with "
            "`tfsound answers`."
        )
    with open(path, "rb") as file:
        info = parse_object(file.read(), path)
    if info.get("format") != FORMAT:
        raise ActiveLearningError(
            f"{path} has the format {shown(info.get('format'))}, this tfsound reads {FORMAT}; make it again."
        )
    class_names = tuple(field(info, "class_names", list, path))
    columns = {name: column for column, name in enumerate(class_names)}
    rows: dict[tuple, int] = {}
    shared: dict[str, str] = {}
    # Each text is held once, however many windows it names; numbers are in arrays, not objects.
    clip_ids, recording_ids = [], []
    row, is_direct, starts, ends = (array.array(kind) for kind in "ibdd")
    lines_path = os.path.join(folder, LABELS_NAME)
    if not os.path.isfile(lines_path):
        raise ActiveLearningError(f"{lines_path} is missing; copy it again or make the labels again.")
    for where, record in iter_json_lines(lines_path):
        row.append(rows.setdefault(_parse_label(record, columns, where), len(rows)))
        for name, ids in (("clip_id", clip_ids), ("recording_id", recording_ids)):
            text = field(record, name, str, where)
            ids.append(shared.setdefault(text, text))
        is_direct.append(field(record, "source", str, where) == DIRECT)
        for name, times in (("start_seconds", starts), ("end_seconds", ends)):
            times.append(field(record, name, float, where))
    if len(row) != field(info, "num_labelled_windows", int, path):
        raise ActiveLearningError(
            f"{lines_path} holds {len(row)} windows, expected {info['num_labelled_windows']}; make it again."
        )
    row_labels = np.zeros((len(rows), len(columns)), np.float32)
    for (_, labels), number in rows.items():
        for name, confidence in labels:
            row_labels[number, columns[name]] = confidence
    try:
        return PropagatedLabels(
            clip_ids=tuple(clip_ids),
            recording_ids=tuple(recording_ids),
            start_seconds=np.asarray(starts, np.float64),
            end_seconds=np.asarray(ends, np.float64),
            row=np.asarray(row, np.int32),
            row_labels=row_labels,
            row_is_known=np.asarray([kind != UNCERTAIN for kind, _ in rows], bool),
            is_direct=np.asarray(is_direct, bool),
            class_names=class_names,
        )
    except ActiveLearningError as error:
        raise ActiveLearningError(f"{lines_path}: {error}") from error


def _parse_label(record: dict, columns: dict[str, int], where: str) -> tuple[str, tuple]:
    """(kind, (class, confidence) of each label)."""
    kind, labels = field(record, "kind", str, where), field(record, "labels", list, where)
    confidence = record.get("confidence")
    if kind not in _KINDS or bool(labels) != (kind == POSITIVE):
        raise ActiveLearningError(
            f"{where}: kind must be positive (with labels), negative or uncertain (without), got "
            f"{shown(kind)} with {shown(labels)}; make it again."
        )
    unknown = [name for name in labels if name not in columns]
    if unknown:
        raise ActiveLearningError(
            f"{where}: the class {shown(unknown[0])} is not in {INFO_NAME}; make it again."
        )
    fits = isinstance(confidence, list) and len(confidence) == len(labels) == len(set(labels))
    if not fits or not all(_is_share(value) for value in confidence):
        raise ActiveLearningError(
            f"{where}: confidence must be a number in (0, 1] for each of {shown(labels)}, got "
            f"{shown(confidence)}."
        )
    return kind, tuple(zip(labels, map(float, confidence), strict=True))


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1
