"""Networks that classify windows of any representation, and how they are trained.

A network ends in one independent logistic output a class and learns with sigmoid cross-entropy, each window
towards the labels of its segment; the score of a segment is the mean of the scores of its windows.

Source: Jansen et al. 2018, section 4.4.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator

import keras
import numpy as np
from keras import layers
from tqdm import tqdm

from tfsound import metrics, networks, training
from tfsound.evaluation.labelled_windows import LabelledWindows
from tfsound.evaluation.segments import WINDOWS_PER_BATCH, EvaluationError

# Standardised features (batch, ...) -> activations (batch, units), to which the logistic outputs are added.
Architecture = Callable[[keras.KerasTensor], keras.KerasTensor]

# A feature that hardly varies in training would otherwise be blown up where it varies in the test.
_LEAST_RELATIVE_STDDEV = 1e-3


def fully_connected(num_layers: int, num_units: int = 512) -> Architecture:
    """Hidden ReLU layers: 1 or 2 of 512 units in table 2, 4 of 512 for log-mel windows in table 3.

    Raises:
      ValueError: no layer, or no unit.
    """
    if num_layers < 1 or num_units < 1:
        raise ValueError(
            f"num_layers and num_units must be at least 1, got {num_layers} layers of {num_units} units."
        )

    def build(features: keras.KerasTensor) -> keras.KerasTensor:
        x = layers.Flatten()(features)
        for number in range(1, num_layers + 1):
            x = layers.Dense(num_units, activation="relu", name=f"hidden_{number}")(x)
        return x

    return build


def encoder_classifier(encoder: str) -> Architecture:
    """A network of `networks.ENCODERS` from scratch, on log-mel windows as they are: `resnet50` in table 3.

    The logistic outputs follow its average pool; there is no embedding layer between them.

    Raises:
      ValueError: an unknown name; on building, features that are not (windows, frames, mel_bins).
    """
    if encoder not in networks.ENCODERS:
        raise ValueError(f"encoder must be one of {sorted(networks.ENCODERS)}, got {encoder!r}.")

    def build(features: keras.KerasTensor) -> keras.KerasTensor:
        if len(features.shape) != 3:
            raise ValueError(
                f"{encoder} needs log-mel windows, (windows, frames, mel_bins), got features of shape "
                f"{features.shape[1:]}; embed_windows without an embedding keeps them as they are."
            )
        return networks.ENCODERS[encoder](layers.Reshape((*features.shape[1:], 1))(features))

    return build


@dataclasses.dataclass(frozen=True)
class TrainingOptions:
    """How a classifier is trained; the paper gives no figures.

    Attributes:
      max_epochs: passes over the training windows at most.
      batch_size: windows a step.
      learning_rate: Adam's, constant.
      validation_fraction: of the training segments, whole recordings, held out to stop by. 0 holds out none
        and trains for `max_epochs`.
      patience: epochs without a better validation mAP, or the same at a lower loss, before training stops;
        the weights of the best are kept.

    Raises:
      ValueError: a number out of range.
    """

    max_epochs: int = 200
    batch_size: int = 128
    learning_rate: float = 3e-4
    validation_fraction: float = 0.1
    patience: int = 20

    def __post_init__(self):
        for name in ("max_epochs", "batch_size", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive and finite, got {self.learning_rate}.")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(f"validation_fraction must be in [0, 1), got {self.validation_fraction}.")


DEFAULT_OPTIONS = TrainingOptions()


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedClassifier:
    """A network and how it came about.

    Attributes:
      model: features (batch, ...) -> scores (batch, classes), each in [0, 1]. Holds the standardisation.
      num_epochs: after which its weights were taken.
      num_train_segments: segments learned from.
      num_validation_segments: segments held out to stop by.
    """

    model: keras.Model
    num_epochs: int
    num_train_segments: int
    num_validation_segments: int


def fit_classifier(
    windows: LabelledWindows,
    architecture: Architecture,
    *,
    options: TrainingOptions = DEFAULT_OPTIONS,
    seed: int = 0,
) -> TrainedClassifier:
    """Trains a network on windows that carry the labels of their segments; see `classify`.

    Raises:
      EvaluationError: features that do not vary, no recording that can be held out, a loss that is no longer
      a number.
    """
    rng = np.random.default_rng(seed)
    held_out = _held_out_segments(windows, options.validation_fraction, rng)
    rows = np.flatnonzero(~held_out[windows.segment_index])
    keras.utils.set_random_seed(seed)
    inputs, logits = _network(windows, rows, architecture)
    model, scorer = keras.Model(inputs, logits), keras.Model(inputs, keras.ops.sigmoid(logits))
    model.compile(
        optimizer=keras.optimizers.Adam(options.learning_rate),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        jit_compile=False,  # compiling takes longer than a small network's training
    )
    best = _BestWeights(scorer, windows.select(np.flatnonzero(held_out))) if held_out.any() else None
    num_epochs = _fit(model, windows, rows, best, options, rng)
    return TrainedClassifier(
        scorer,
        num_epochs=num_epochs,
        num_train_segments=int((~held_out).sum()),
        num_validation_segments=int(held_out.sum()),
    )


def segment_scores(model: keras.Model, windows: LabelledWindows) -> np.ndarray:
    """The mean score of each segment's windows: float32, (segments, classes), a batch in memory at a time."""
    sums = np.zeros((windows.num_segments, len(windows.class_names)))
    for start in range(0, len(windows.features), WINDOWS_PER_BATCH):
        block = windows.features[start : start + WINDOWS_PER_BATCH].astype(np.float32)
        scores = model(block, training=False).numpy()
        np.add.at(sums, windows.segment_index[start : start + WINDOWS_PER_BATCH], scores)
    return (sums / np.bincount(windows.segment_index)[:, None]).astype(np.float32)


def _held_out_segments(windows: LabelledWindows, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Draws whole recordings to stop by: bool, (segments,).

    Never the last training segments of a class, or nothing would be left to learn it from, nor more than half
    of the segments where recordings are long.
    """
    held_out = np.zeros(windows.num_segments, bool)
    if fraction == 0:
        return held_out
    num_wanted, num_held_out = max(1, round(fraction * windows.num_segments)), 0
    segments_of: dict[str, list[int]] = {}
    for segment, recording in enumerate(windows.recording_ids):
        segments_of.setdefault(recording, []).append(segment)
    recordings = list(segments_of)
    num_all = windows.labels.sum(axis=0)
    num_left = num_all.copy()
    for number in rng.permutation(len(recordings)):
        if num_held_out >= num_wanted and (num_left < num_all).any():
            break
        segments = segments_of[recordings[number]]
        num_taken = windows.labels[segments].sum(axis=0)
        takes_last = ((num_taken > 0) & (num_taken == num_left)).any()
        if takes_last or 2 * (num_held_out + len(segments)) > windows.num_segments:
            continue
        held_out[segments] = True
        num_held_out += len(segments)
        num_left -= num_taken
    if (num_left == num_all).all():
        raise EvaluationError(
            f"none of {len(recordings)} training recordings with a label can be held out to stop by without "
            "taking the last of a class or most segments; add recordings, or set validation_fraction to 0."
        )
    return held_out


def _network(windows: LabelledWindows, rows: np.ndarray, architecture: Architecture):
    """The input, and the logits of an untrained network that standardises by the training windows."""
    inputs = keras.Input(windows.features.shape[1:], dtype="float32", name="features")
    mean, stddev = _statistics(windows.features, rows)
    standardised = layers.Normalization(axis=-1, mean=mean, variance=stddev**2, name="standardise")(inputs)
    activations = architecture(standardised)
    return inputs, layers.Dense(len(windows.class_names), name="logits")(activations)


def _statistics(features: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each feature, of each mel bin in log-mel windows: float64, (dim,)."""
    dim = features.shape[-1]
    count, mean, squares = 0, np.zeros(dim), np.zeros(dim)
    for start in range(0, len(rows), WINDOWS_PER_BATCH):
        block = features[rows[start : start + WINDOWS_PER_BATCH]].astype(np.float64).reshape(-1, dim)
        # Blocks are merged (Chan et al. 1979): plain sums of squares lose small deviations from a large mean.
        block_mean = block.mean(axis=0)
        shift, total = block_mean - mean, count + len(block)
        squares += ((block - block_mean) ** 2).sum(axis=0) + shift**2 * count * len(block) / total
        mean += shift * len(block) / total
        count = total
    stddev = np.sqrt(squares / count)
    typical = np.sqrt(np.mean(stddev**2))
    if typical == 0:
        raise EvaluationError(f"all {len(rows)} training windows are the same; the model may have collapsed.")
    return mean, np.maximum(stddev, _LEAST_RELATIVE_STDDEV * typical)


def _batches(
    windows: LabelledWindows, rows: np.ndarray, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (features, labels) of these rows, in their order."""
    for start in range(0, len(rows), batch_size):
        chosen = rows[start : start + batch_size]
        labels = windows.labels[windows.segment_index[chosen]]
        yield windows.features[chosen].astype(np.float32), labels.astype(np.float32)


class _BestWeights:
    """The weights after the epoch at which the mAP of held-out segments was highest.

    By the mAP, because on a few hundred segments the loss turns long before the mAP does; of two epochs with
    the same mAP, as where few segments are held out, the one with the lower loss is better.
    """

    def __init__(self, scorer: keras.Model, windows: LabelledWindows):
        self._scorer, self._windows = scorer, windows
        self._best, self._weights = (-math.inf, -math.inf), None
        self.epoch = 0

    def measure(self, epoch: int) -> dict[str, float]:
        """Takes the weights if they are better than those of all epochs before; returns the measures."""
        scores, labels = segment_scores(self._scorer, self._windows), self._windows.labels
        precision = metrics.mean_average_precision(labels, scores).mean
        loss = float(np.mean(keras.losses.binary_crossentropy(labels.astype(np.float32), scores)))
        if (precision, -loss) > self._best:
            self._best, self.epoch = (precision, -loss), epoch
            self._weights = self._scorer.get_weights()
        return {"validation_mAP": precision, "validation_loss": loss}

    def restore(self) -> None:
        self._scorer.set_weights(self._weights)


def _fit(
    model: keras.Model,
    windows: LabelledWindows,
    rows: np.ndarray,
    best: _BestWeights | None,
    options: TrainingOptions,
    rng: np.random.Generator,
) -> int:
    """Trains, and leaves the best weights in the model; returns after how many epochs they came.

    Batch by batch, because `fit` hands NumPy batches through `tf.data.Dataset.from_generator`, which keeps
    them, and all that they were taken from, for as long as the process lives.
    """
    progress = tqdm(
        range(1, options.max_epochs + 1), desc="classifier", unit=" epochs", leave=False,
        mininterval=training.progress_seconds(),
    )  # fmt: skip
    with progress:
        for epoch in progress:
            model.reset_metrics()
            rows = rng.permutation(rows)
            for batch in _batches(windows, rows, options.batch_size):
                measures = model.train_on_batch(*batch, return_dict=True)
            # The last step of an epoch may spoil the weights after its loss was taken.
            if not all(np.isfinite(value).all() for value in [measures["loss"], *model.get_weights()]):
                raise EvaluationError(
                    f"the loss is no longer a number after {epoch} epochs; lower learning_rate, "
                    f"{options.learning_rate} now."
                )
            if best:
                measures = measures | best.measure(epoch)
            progress.set_postfix({name: f"{value:.4f}" for name, value in measures.items()}, refresh=False)
            if best and epoch - best.epoch >= options.patience:
                break
    if best is None:
        return options.max_epochs
    best.restore()
    return best.epoch
