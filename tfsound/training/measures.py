"""What a run measures after each interval on clips that it does not learn from."""

from collections.abc import Callable, Sequence

import keras
import numpy as np

from tfsound import examples, metrics, models


class HeldOutClips:
    """The labelled clips of some folds, read anew each time.

    Args:
      directories: sets of clip examples.
      folds: those to read.
      class_names: (classes,), which have the clips' labels among them.

    Raises:
      DatasetError, ValueError: see `examples.read_clip_infos`; no labelled class in common.
    """

    def __init__(self, directories: Sequence[str], folds: tuple[str, ...], class_names: Sequence[str]):
        self._mel_params, infos = examples.read_clip_infos(directories, folds=folds)
        self._sets = [
            (directory, tuple(fold for fold in folds if fold in info.folds))
            for directory, info in zip(directories, infos, strict=True)
        ]
        self._class_names = list(class_names)

    def read(self, function: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The mean of what `function` gives for a clip's windows, (clips, ...), and its first label."""
        means, labels = [], []
        for directory, folds in self._sets:
            for clip in examples.iter_clips(directory, folds=folds) if folds else ():
                if clip.labels:
                    windows = examples.clip_windows(clip, self._mel_params)
                    means.append(np.mean(function(windows), axis=0))
                    labels.append(self._class_names.index(clip.labels[0]))
        return np.array(means), np.array(labels, np.int64)


class NearestRows(keras.callbacks.Callback):
    """Logs `knn_accuracy`: how often the rows of a memory bank nearest to a clip are of its class.

    Args:
      row_labels: int64, (instances,), the class of each row, -1 for none.
      num_neighbors: k.
      temperature: tau of the votes.

    Source: Hornauer et al. 2021, section 4.
    """

    def __init__(
        self, clips: HeldOutClips, row_labels: np.ndarray, *, num_neighbors: int, temperature: float
    ):
        super().__init__()
        num_labelled = np.count_nonzero(row_labels >= 0)
        if not 1 <= num_neighbors <= num_labelled:
            raise ValueError(
                f"knn_neighbors must be from 1 to the {num_labelled} labelled instances, got {num_neighbors}."
            )
        self._clips = clips
        self._row_labels = row_labels
        self._num_neighbors = num_neighbors
        self._temperature = temperature

    def on_epoch_end(self, epoch: int, logs: dict | None = None):
        model: models.InstanceDiscriminationModel = self.model
        embeddings, labels = self._clips.read(lambda windows: model(windows, training=False))
        is_labelled = self._row_labels >= 0
        rows = keras.ops.convert_to_numpy(model.memory_bank.rows)[is_labelled]
        result = metrics.weighted_knn_accuracy(
            rows, self._row_labels[is_labelled], embeddings, labels,
            k=self._num_neighbors, temperature=self._temperature,
        )  # fmt: skip
        logs["knn_accuracy"] = result.accuracy


class Accuracy(keras.callbacks.Callback):
    """Logs `accuracy`: how often the highest score of a clip is that of its class."""

    def __init__(self, clips: HeldOutClips):
        super().__init__()
        self._clips = clips

    def on_epoch_end(self, epoch: int, logs: dict | None = None):
        scores, labels = self._clips.read(lambda windows: self.model(windows, training=False))
        logs["accuracy"] = float(np.mean(scores.argmax(axis=1) == labels))
