"""What a run measures after each interval on clips that it does not learn from."""

from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np

from tfsound import examples, metrics, models


class HeldOutClips:
    """The labelled clips of some folds, read anew each time.

    Args:
      directories: sets of clip examples.
      folds: those to read.
      class_names: (classes,), which have the clips' labels among them.

    Attributes:
      labels: int64, (clips,), the first label of each.

    Raises:
      DatasetError, ValueError: see `examples.read_clip_infos`; no labelled clip in these folds, or a label
      that is no class.
    """

    def __init__(self, directories: Sequence[str], folds: tuple[str, ...], class_names: Sequence[str]):
        self._mel_params, infos = examples.read_clip_infos(directories, folds=folds)
        self._sets = [
            (directory, tuple(fold for fold in folds if fold in info.folds))
            for directory, info in zip(directories, infos, strict=True)
        ]
        names = [clip.labels[0] for clip in self._clips()]
        unknown = sorted(set(names).difference(class_names))
        if unknown or not names:
            found = f"a clip of class {unknown[0]!r}" if unknown else "no labelled clip"
            raise examples.DatasetError(
                f"{', '.join(directories)}: folds {list(folds)} hold {found}, expected clips of the "
                f"{len(class_names)} classes that are learned; name other folds, or label them."
            )
        columns = {name: column for column, name in enumerate(class_names)}
        self.labels = np.array([columns[name] for name in names], np.int64)

    def _clips(self) -> Iterator[examples.Clip]:
        for directory, folds in self._sets:
            for clip in examples.iter_clips(directory, folds=folds) if folds else ():
                if clip.labels:
                    yield clip

    def read(self, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """The mean of what `function` gives for the windows of each clip, float, (clips, ...)."""
        found = examples.map_windows(self._clips(), function, self._mel_params)
        return np.stack([np.mean(values, axis=0) for _, values in found])


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
        embeddings = self._clips.read(lambda windows: model(windows, training=False))
        is_labelled = self._row_labels >= 0
        rows = keras.ops.convert_to_numpy(model.memory_bank.rows)[is_labelled]
        result = metrics.weighted_knn_accuracy(
            rows, self._row_labels[is_labelled], embeddings, self._clips.labels,
            k=self._num_neighbors, temperature=self._temperature,
        )  # fmt: skip
        logs["knn_accuracy"] = result.accuracy


class Accuracy(keras.callbacks.Callback):
    """Logs `accuracy`: how often the highest score of a clip is that of its class."""

    def __init__(self, clips: HeldOutClips):
        super().__init__()
        self._clips = clips

    def on_epoch_end(self, epoch: int, logs: dict | None = None):
        scores = self._clips.read(lambda windows: self.model(windows, training=False))
        logs["accuracy"] = float(np.mean(scores.argmax(axis=1) == self._clips.labels))
