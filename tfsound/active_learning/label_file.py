"""Writes the folder of propagated labels; `tfsound.window_labels` says what it holds, and reads it."""

from collections.abc import Sequence

from tfsound.active_learning.propagation import WindowLabel
from tfsound.active_learning.question_set import WindowClusters
from tfsound.window_labels import DIRECT, FORMAT, PROPAGATED


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
