"""Features of context windows with the labels of their segments: what classifiers are trained and scored on.

Every window carries the labels of the segment that it is cut from (Jansen et al. 2018, section 4.4).
"""

import contextlib
import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from tfsound import examples, mel
from tfsound.evaluation.segments import (
    WINDOWS_PER_BATCH,
    Embed,
    EvaluationError,
    embedded_clips,
    label_matrix,
)


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledWindows:
    """Any representation of windows, and what their segments are.

    Memory: `features` is read a batch at a time and never copied whole but by `select`. The 10,000 windows
    of ESC-50 take 250 MB as float32 log-mel and 5 MB as embeddings of 128. AudioSet's 20 million take 5 GB as
    float16 embeddings, and 250 GB as float16 log-mel: pass a `numpy.memmap` there.

    Args:
      features: float16 or float32, (windows, ...): vectors, or log-mel windows as they are.
      segment_index: int, (windows,), the row of `labels` that tells of a window; every segment has a window.
      labels: bool, (segments, classes). A segment without a label counts as one that has no class.
      recording_ids: (segments,); segments cut from one recording share it.
      class_names: (classes,).

    Raises:
      EvaluationError: no window, no label at all, shapes or dtypes that do not fit, a feature that is not
      finite.
    """

    features: np.ndarray
    segment_index: np.ndarray
    labels: np.ndarray
    recording_ids: tuple[str, ...]
    class_names: tuple[str, ...]

    def __post_init__(self):
        _require_fitting(self)
        for start in range(0, len(self.features), WINDOWS_PER_BATCH):
            block = self.features[start : start + WINDOWS_PER_BATCH].reshape(-1, self.features[0].size)
            broken = ~np.isfinite(block).all(axis=1)
            if broken.any():
                window = start + int(broken.argmax())
                raise EvaluationError(
                    f"features must be finite, got NaN or infinity in window {window}, of recording "
                    f"{self.recording_ids[self.segment_index[window]]!r}; leave it out or mend the model."
                )

    @property
    def num_segments(self) -> int:
        return len(self.labels)

    def select(self, segments: ArrayLike) -> "LabelledWindows":
        """The windows of some segments, copied: `segments` are distinct rows of `labels` in the new order."""
        segments = np.asarray(segments, np.int64)
        new_index = np.full(self.num_segments, -1)
        new_index[segments] = np.arange(len(segments))
        index = new_index[self.segment_index]
        kept = index >= 0
        return LabelledWindows(
            self.features[kept], index[kept], self.labels[segments],
            tuple(self.recording_ids[segment] for segment in segments), self.class_names,
        )  # fmt: skip

    def segment_means(self) -> np.ndarray:
        """The mean feature vector of each segment, float32 (segments, dim), as section 4.3 retrieves with."""
        order = np.argsort(self.segment_index, kind="stable")
        ends = np.cumsum(np.bincount(self.segment_index, minlength=self.num_segments))
        means = np.empty((self.num_segments, self.features[0].size), np.float32)
        for segment, windows in enumerate(np.split(order, ends[:-1])):
            means[segment] = self.features[windows].mean(axis=0, dtype=np.float64).ravel()
        return means


def _require_fitting(windows: LabelledWindows) -> None:
    """Checks all but the values of the features."""
    features, labels = windows.features, windows.labels
    if labels.dtype != bool or labels.ndim != 2:
        raise EvaluationError(f"labels must be bool (segments, classes), got {labels.dtype} {labels.shape}.")
    if not len(features) or not len(labels):
        raise EvaluationError(f"there is nothing: {len(features)} windows of {len(labels)} segments.")
    if not labels.any():
        raise EvaluationError(f"none of {len(labels)} segments has a label; label some, or name other folds.")
    if features.dtype not in (np.float16, np.float32) or features.ndim < 2:
        raise EvaluationError(
            f"features must be float16 or float32, (windows, ...), got {features.dtype} {features.shape}."
        )
    index = windows.segment_index
    if index.shape != (len(features),) or not np.issubdtype(index.dtype, np.integer):
        raise EvaluationError(
            f"segment_index must be int ({len(features)},), got {index.dtype} {index.shape}: one a window."
        )
    if not np.array_equal(np.unique(index), np.arange(len(labels))):
        raise EvaluationError(
            f"segment_index must name every one of the {len(labels)} segments and no other, got "
            f"{len(np.unique(index))} from {index.min()} to {index.max()}."
        )
    for name, found, wanted in (
        ("recording_ids", windows.recording_ids, len(labels)),
        ("class_names", windows.class_names, labels.shape[1]),
    ):
        if len(found) != wanted:
            raise EvaluationError(f"{name} must be {wanted}, as labels {labels.shape} say, got {len(found)}.")


def embed_windows(
    clips: Iterable[examples.Clip],
    embed: Embed | None,
    mel_params: mel.MelParams,
    *,
    class_names: Sequence[str] | None = None,
    dtype: DTypeLike = np.float32,
    path: str = "",
) -> LabelledWindows:
    """Embeds the windows of each clip; clips may be a stream.

    Memory: the features of all windows twice, while the parts are joined; where a path is given, those of a
    batch.

    Args:
      clips: the segments.
      embed: a representation; None keeps the log-mel windows as they are, (windows, frames, mel_bins).
      mel_params: the front end of the clips.
      class_names: the classes, the same for training and test; without, those that occur, sorted.
      dtype: of the features, float32, or float16 for half the memory.
      path: a file to write the features to; they are then read from there, and it must stay.

    Raises:
      DatasetError: a clip shorter than a context window; EvaluationError: no clip at all, no label, a label
      that is not among the class names, embeddings that are not finite.
    """
    parts, counts, labels, recording_ids, shape = [], [], [], [], ()
    embed = embed or (lambda log_mel: log_mel)
    with open(path, "wb") if path else contextlib.nullcontext() as file:
        for clip, vectors in embedded_clips(clips, embed, mel_params):
            vectors = vectors.astype(dtype)
            if file:
                vectors.tofile(file)
            else:
                parts.append(vectors)
            counts.append(len(vectors))
            labels.append(clip.labels)
            recording_ids.append(clip.recording_id)
            shape = vectors.shape[1:]
    if not counts:
        raise EvaluationError("there is no clip to embed; name other folds, or check the set.")
    matrix, names = label_matrix(labels, class_names)
    index = np.repeat(np.arange(len(counts)), counts)
    if path:
        features = np.memmap(path, dtype, mode="r", shape=(len(index), *shape))
    else:
        features = np.concatenate(parts)
    return LabelledWindows(features, index, matrix, tuple(recording_ids), names)
