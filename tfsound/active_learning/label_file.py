"""The folder of propagated labels, what a classifier is trained on.

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

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from tfsound.active_learning.propagation import NEGATIVE, POSITIVE, UNCERTAIN, WindowLabel
from tfsound.active_learning.question_set import WindowClusters
from tfsound.active_learning.records import ActiveLearningError, field, iter_json_lines, parse_object, shown

FORMAT = 1
INFO_NAME = "labels.json"
LABELS_NAME = "labels.jsonl"
DIRECT, PROPAGATED = "direct", "propagated"
_KINDS = (POSITIVE, NEGATIVE, UNCERTAIN)


def label_record(
    windows: WindowClusters, window: int, label: WindowLabel, *, is_direct: bool, question_set: int
) -> dict:
    """A line of `labels.jsonl`."""
    clip, start = windows.clip_index[window], float(windows.start_seconds[window])
    first, *others = [
        {"question_id": answer.question_id, "annotator": answer.annotator, "time": answer.time}
        for answer in label.answers
    ]
    return {
        "clip_id": str(windows.clip_ids[clip]),
        "recording_id": str(windows.recording_ids[clip]),
        "start_seconds": start,
        "end_seconds": round(start + windows.window_seconds, 6),
        "kind": label.kind,
        "labels": list(label.labels),
        "confidence": list(label.confidence),
        "source": DIRECT if is_direct else PROPAGATED,
        **first,
        "cluster": int(windows.cluster[window]),
        "question_set": question_set,
        **({"also": others} if others else {}),
    }


@dataclasses.dataclass(frozen=True, eq=False)
class PropagatedLabels:
    """Labels of windows as arrays for training. Windows of which nothing is known are not among them.

    Memory: windows share rows of labels, as cohabitants of a cluster have the same; `labels` is made when
    asked for.

    Attributes:
      clip_ids, recording_ids: (windows,).
      start_seconds, end_seconds: float64, (windows,), from the start of the recording.
      row: int32, (windows,), the row of `row_labels` and `row_is_known` that tells of a window.
      row_labels: float32, (rows, classes), the confidence of each class, in [0, 1].
      row_is_known: bool, (rows,), False where a window is uncertain: its labels are to be left out of a loss.
      is_direct: bool, (windows,), whether the window itself was answered.
      class_names: (classes,).
    """

    clip_ids: tuple[str, ...]
    recording_ids: tuple[str, ...]
    start_seconds: np.ndarray
    end_seconds: np.ndarray
    row: np.ndarray
    row_labels: np.ndarray
    row_is_known: np.ndarray
    is_direct: np.ndarray
    class_names: tuple[str, ...]

    @property
    def labels(self) -> np.ndarray:
        """Soft labels, float32, (windows, classes)."""
        return self.row_labels[self.row]

    @property
    def mask(self) -> np.ndarray:
        """bool, (windows, classes): where the labels are known, so that a loss may look at them."""
        return np.repeat(self.row_is_known[self.row][:, None], len(self.class_names), axis=1)


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
    windows, row = [], []
    lines_path = os.path.join(folder, LABELS_NAME)
    if not os.path.isfile(lines_path):
        raise ActiveLearningError(f"{lines_path} is missing; copy it again or make the labels again.")
    for where, record in iter_json_lines(lines_path):
        row.append(rows.setdefault(_parse_label(record, columns, where), len(rows)))
        times = (field(record, name, float, where) for name in ("start_seconds", "end_seconds"))
        ids = (field(record, name, str, where) for name in ("clip_id", "recording_id", "source"))
        windows.append((*ids, *times))
    if len(windows) != field(info, "num_labelled_windows", int, path):
        raise ActiveLearningError(
            f"{lines_path} holds {len(windows)} windows, expected {info['num_labelled_windows']}; make it "
            "again."
        )
    clip_ids, recording_ids, sources, starts, ends = zip(*windows, strict=True) if windows else ((),) * 5
    row_labels = np.zeros((len(rows), len(columns)), np.float32)
    for (_, labels), number in rows.items():
        for name, confidence in labels:
            row_labels[number, columns[name]] = confidence
    return PropagatedLabels(
        clip_ids=clip_ids,
        recording_ids=recording_ids,
        start_seconds=np.asarray(starts, np.float64),
        end_seconds=np.asarray(ends, np.float64),
        row=np.asarray(row, np.int32),
        row_labels=row_labels,
        row_is_known=np.asarray([kind != UNCERTAIN for kind, _ in rows], bool),
        is_direct=np.asarray([source == DIRECT for source in sources], bool),
        class_names=class_names,
    )


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


def summary_fields(
    class_names: Sequence[str], question_sets: Sequence[str], counts: dict[str, int], settings: dict
) -> dict:
    """What `labels.json` holds."""
    return {
        "format": FORMAT,
        "class_names": list(class_names),
        "question_sets": list(question_sets),
        "settings": settings,
        **counts,
    }
