"""The machinery of a training run, for any model: its folder, devices, checkpoints, logs, resumption."""

import csv
import functools
import math
import os
import sys
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tfsound import mel, networks, resumption
from tfsound.checkpoints import Checkpoints, TrainingError, steps_done
from tfsound.examples.records import STORE_ERRORS
from tfsound.training import finished
from tfsound.training.optimizers import make_optimizer

_CHECKPOINTS = "checkpoints"
PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
MIN_RELATIVE_IMPROVEMENT = 0.01


@functools.cache
def strategy() -> tf.distribute.Strategy:
    """MirroredStrategy over all accelerators (or logical CPU devices) where there are several.

    One object a process: a second MirroredStrategy may deadlock with the first.
    """
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) > 1:
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()


def progress_seconds() -> float:
    """The time between two refreshes of a progress bar: short for eyes, long for log files."""
    return 1.0 if sys.stderr.isatty() else 10.0


class _Progress(keras.callbacks.Callback):
    """One bar over all steps: rate, time left, loss."""

    def __init__(self, first_step: int, num_steps: int):
        super().__init__()
        self._bar = tqdm(
            total=num_steps, initial=first_step, desc="train", unit=" steps", dynamic_ncols=True,
            mininterval=progress_seconds(),
        )  # fmt: skip

    def on_train_batch_end(self, batch: int, logs: dict | None = None):
        self._bar.set_postfix({name: f"{value:.4f}" for name, value in logs.items()}, refresh=False)
        self._bar.update()

    def close(self) -> None:
        self._bar.close()


_REMEDY = "start anew with a lower learning_rate and --overwrite."


class _Watch(keras.callbacks.Callback):
    """Adds the learning rate to what the loggers write, before them; stops a run that has diverged."""

    def on_epoch_end(self, epoch: int, logs: dict | None = None):
        step = steps_done(self.model)
        means = " ".join(f"{name}={value:.4g}" for name, value in logs.items())
        if not all(math.isfinite(value) for value in logs.values()):
            raise TrainingError(f"the loss is no longer a number at step {step} ({means}); {_REMEDY}")
        # The last step of an epoch may spoil the weights after its loss was taken.
        if not all(np.isfinite(weights).all() for weights in self.model.get_weights()):
            raise TrainingError(f"weights are no longer numbers at step {step} ({means}); {_REMEDY}")
        logs["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))


class _Log(keras.callbacks.Callback):
    """Appends a row of means an epoch to a CSV file. A resumed run does some epochs again: their rows go."""

    def __init__(self, path: str, first_epoch: int):
        super().__init__()
        self._path = path
        self.rows = [row for row in finished.read_log(path) if row["epoch"] < first_epoch]

    def on_epoch_end(self, epoch: int, logs: dict | None = None):
        step = steps_done(self.model)
        self.rows.append({"epoch": epoch, "step": step, **logs})
        with open(self._path + ".tmp", "w", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[0]))
            writer.writeheader()
            writer.writerows(self.rows)
        os.replace(self._path + ".tmp", self._path)


class _Stop(keras.callbacks.Callback):
    """Ends a training that has converged, as the log tells, so that a resumed one decides the same."""

    def __init__(self, log: _Log, patience_intervals: int):
        super().__init__()
        self._log = log
        self._patience_intervals = patience_intervals

    def is_due(self) -> bool:
        return has_converged([row["loss"] for row in self._log.rows], self._patience_intervals)

    def on_epoch_end(self, epoch: int, logs: dict | None = None):
        if self.is_due():
            self.model.stop_training = True


def has_converged(
    losses: Sequence[float],
    patience_intervals: int,
    *,
    min_relative_improvement: float = MIN_RELATIVE_IMPROVEMENT,
) -> bool:
    """Whether a loss no longer falls: the rule by which a training ends before its last step.

    The first interval is the best one at first. A later one takes its place where its mean loss is lower
    than the best by more than `min_relative_improvement` of what the best has gained on the first:
    `best - loss > min_relative_improvement (first - best)`. Small gains add up until they are enough. A
    loss that is shifted or scaled converges at the same interval, so the rule holds for losses of any sign.
    Means over few steps waver, and a lucky one is hard to beat: better a few long intervals than many short.

    Args:
      losses: the mean loss of each checkpoint interval so far.
      patience_intervals: how many intervals in a row must not have improved; 0: no training converges.

    Source: Jansen et al. 2020, section 3.4, says `until convergence` and not by which rule.
    """
    if not patience_intervals or not losses:
        return False
    first = best = losses[0]
    num_waited = 0
    for loss in losses[1:]:
        num_waited += 1
        if best - loss > min_relative_improvement * (first - best):
            best, num_waited = loss, 0
    return num_waited >= patience_intervals


def _open_run(output: str, config: dict, overwrite: bool) -> None:
    """Makes the run's folder, or takes up one that was begun with the same configuration."""
    begun = finished.begun_config(output)
    if begun and overwrite:
        resumption.clear(output)
    elif os.path.exists(os.path.join(output, finished.ENCODER_INFO_NAME)):
        raise TrainingError(f"{output} is a finished run; pass --overwrite to train it anew.")
    elif begun:
        different = sorted(key for key in config if begun.get(key) != config[key])
        if different:
            shown = ", ".join(f"{key}: {begun.get(key)!r} then, {config[key]!r} now" for key in different)
            raise TrainingError(
                f"{output} was begun with other settings ({shown}); use the same, or pass --overwrite."
            )
    elif os.path.isfile(output) or (os.path.isdir(output) and os.listdir(output)):
        raise TrainingError(f"{output} exists and is no training run; name another output.")
    os.makedirs(output, exist_ok=True)
    resumption.write_json(os.path.join(output, finished.CONFIG_NAME), config)


def resumed_config(output: str, *, overwrite: bool) -> dict:
    """The settings of a run that goes on from a checkpoint; empty where one starts from its beginning.

    A checkpoint holds all weights, so that such a run needs no more what it once started from.
    """
    folder = os.path.join(output, _CHECKPOINTS)
    has_checkpoint = os.path.isdir(folder) and bool(Checkpoints(folder).steps())
    return finished.begun_config(output) if has_checkpoint and not overwrite else {}


def require_valid(config: dict, num_examples: dict[str, int]) -> None:
    """Checks the settings that all runs share.

    Args:
      num_examples: of each kind of examples that a batch is made of, how many there are.

    Raises:
      ValueError: a setting out of range.
    """
    for name in ("num_steps", "batch_size", "steps_per_checkpoint", "embedding_dim"):
        if config[name] < 1:
            raise ValueError(f"{name} must be at least 1, got {config[name]}.")
    if config["patience_intervals"] < 0:
        raise ValueError(f"patience_intervals must be at least 0, got {config['patience_intervals']}.")
    for kind, count in num_examples.items():
        if config["batch_size"] > count:
            raise ValueError(
                f"batch_size {config['batch_size']} exceeds the {count} {kind}; lower it or sample more."
            )
    if not 0 < config["learning_rate"] < math.inf:
        raise ValueError(f"learning_rate must be positive and finite, got {config['learning_rate']}.")
    if config["precision"] not in PRECISIONS:
        raise ValueError(f"precision must be one of {sorted(PRECISIONS)}, got {config['precision']!r}.")
    num_replicas = strategy().num_replicas_in_sync
    if config["batch_size"] % num_replicas:
        raise ValueError(
            f"batch_size must be a multiple of the {num_replicas} devices, got {config['batch_size']}."
        )


def build_audio_encoder(config: dict, mel_params: mel.MelParams) -> keras.Model:
    """f for the windows of a front end, as the settings say; embeddings have length 1 unless they say no."""
    return networks.build_encoder(
        config["encoder"],
        input_shape=mel_params.window_shape,
        num_bands=mel_params.num_bands,
        num_channels=mel_params.num_channels,
        embedding_dim=config["embedding_dim"],
        unit_norm=config.get("unit_norm", True),
        dtype_policy=PRECISIONS[config["precision"]],
    )


def compile_model(model: keras.Model, config: dict) -> None:
    """Gives a built model its optimizer, Adam; raises as `make_optimizer`."""
    # XLA fails under MirroredStrategy, and on CPUs it costs more than it saves.
    model.compile(optimizer=make_optimizer(config), jit_compile=False)
    model.optimizer.build(model.trainable_variables)


def train_model(
    build_model: Callable[[], keras.Model],
    make_data: Callable[[int], tf.data.Dataset],
    require_undamaged: Callable[[], None],
    config: dict,
    output: str,
    *,
    overwrite: bool,
    measures: Sequence[keras.callbacks.Callback] = (),
) -> keras.Model:
    """Trains a model from the last checkpoint in a run's folder, or from its start, to its end.

    The end is step `num_steps`, or before it the interval at which the loss has converged, where
    `patience_intervals` is not 0. The weights are those of the last interval, not of the best.

    Args:
      build_model: makes the model, compiled and built, called under the strategy's scope.
      make_data: endless batches from a batch number on.
      require_undamaged: called where TensorFlow cannot read on; raises DatasetError if it is the data.
      config: the run's settings, in types that JSON has.
      output: the run's folder.
      measures: what adds figures of its own to those that are logged after each interval.

    Returns:
      The trained model, without its optimizer.

    Raises:
      TrainingError: the folder holds another run, the loss is no longer a number, or the store of the data
      fails; resumption.InUseError: another process trains there.
    """
    keras.utils.set_random_seed(config["seed"])
    with strategy().scope():
        # Before the run's folder, so that settings which no model can be made of leave none.
        model = build_model()
    with resumption.in_use(output):
        _open_run(output, config, overwrite)
        with strategy().scope():
            checkpoints = Checkpoints(os.path.join(output, _CHECKPOINTS))
            first_step = checkpoints.restore(model)
        try:
            _fit(model, checkpoints, first_step, make_data, config, output, measures)
        except (tf.errors.DataLossError, tf.errors.InvalidArgumentError, tf.errors.NotFoundError):
            require_undamaged()
            raise
        except STORE_ERRORS as error:
            raise TrainingError(
                f"the store of the data failed ({error.message.splitlines()[0]}); the same command goes on "
                "from the last checkpoint when it answers."
            ) from error
        # Whoever keeps the model needs no moments of Adam, twice the size of the weights.
        with strategy().scope():
            model.compile(optimizer=None)
        model.compiled = False  # or Keras could not load what is saved of it without `compile=False`
    return model


def _fit(
    model, checkpoints: Checkpoints, first_step: int, make_data, config: dict, output: str, measures
) -> None:
    """Trains from `first_step`, where an epoch ended, to the last step or until convergence."""
    num_steps, interval = config["num_steps"], config["steps_per_checkpoint"]
    num_whole, rest = divmod(num_steps, interval)
    epoch = math.ceil(first_step / interval)
    progress = _Progress(first_step, num_steps)
    log = _Log(os.path.join(output, finished.LOG_NAME), epoch)
    stop = _Stop(log, config["patience_intervals"])
    callbacks = [
        *measures,
        _Watch(),
        # Before the checkpoint: killed between the two, a run logs that epoch again and not never.
        log,
        checkpoints,
        stop,
        keras.callbacks.TensorBoard(os.path.join(output, "tensorboard")),
        progress,
    ]
    try:
        # The whole epochs that are left, then a shorter last one.
        for end, steps in ((num_whole, interval), (num_whole + 1, rest)):
            if epoch >= end or not steps or stop.is_due():
                continue
            model.fit(
                make_data(epoch * interval), initial_epoch=epoch, epochs=end, steps_per_epoch=steps,
                shuffle=False, verbose=0, callbacks=callbacks,
            )  # fmt: skip
            epoch = end
    finally:
        progress.close()
