"""One training run: data, devices, checkpoints, logs, resumption.

A run's folder holds `config.json` (what it was asked for), `checkpoints/`, `log.csv`, `tensorboard/`, and
at the end `encoder.keras` with `encoder.json`. Each file or folder appears under its name only when it is
complete, so a run killed at any moment resumes from its last checkpoint when it is started again.

An epoch is the stretch between two checkpoints: it ends with a row of `log.csv` and a checkpoint.
"""

import csv
import dataclasses
import functools
import json
import math
import os
import shutil
import sys

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tfsound import examples, mel, models, networks
from tfsound.checkpoints import Checkpoints, TrainingError, steps_done

ENCODER_NAME = "encoder.keras"
ENCODER_INFO_NAME = "encoder.json"
_CONFIG_NAME = "config.json"
_CHECKPOINTS = "checkpoints"
LOG_NAME = "log.csv"
PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
# The constraints that the paper trains without mining where each is alone (section 4.2).
_UNMINED_ALONE = {"noise", "translation", "mixing"}


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """What a finished run says: its folder, its steps, the means over its last checkpoint interval."""

    output: str
    num_steps: int
    final: dict[str, float]

    def __str__(self) -> str:
        return f"trained {self.output}: {self.num_steps} steps, loss {self.final['loss']:.4f}"


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


def _write_json(path: str, fields: dict) -> None:
    temporary = path + ".tmp"
    with open(temporary, "w") as file:
        json.dump(fields, file, indent=1, sort_keys=True)
    os.replace(temporary, path)


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
        self._rows = [row for row in read_log(path) if row["epoch"] < first_epoch]

    def on_epoch_end(self, epoch: int, logs: dict | None = None):
        step = steps_done(self.model)
        self._rows.append({"epoch": epoch, "step": step, **logs})
        with open(self._path + ".tmp", "w", newline="") as file:
            writer = csv.DictWriter(file, list(self._rows[0]))
            writer.writeheader()
            writer.writerows(self._rows)
        os.replace(self._path + ".tmp", self._path)


def read_log(path: str) -> list[dict[str, float]]:
    """The rows of a run's `log.csv`, one for each checkpoint interval; none without a file."""
    if not os.path.exists(path):
        return []
    with open(path, newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def _open_run(output: str, config: dict, overwrite: bool) -> None:
    """Makes the run's folder, or takes up one that was begun with the same configuration."""
    begun = _begun(output)
    if begun and overwrite:
        shutil.rmtree(output)
    elif os.path.exists(os.path.join(output, ENCODER_INFO_NAME)):
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
    _write_json(os.path.join(output, _CONFIG_NAME), config)


def _begun(output: str) -> dict:
    """The configuration of the run in a folder; empty where there is none of ours."""
    try:
        with open(os.path.join(output, _CONFIG_NAME)) as file:
            config = json.load(file)
    except (OSError, ValueError):
        return {}
    # Others name files config.json too, and --overwrite must not take theirs for a run.
    return config if isinstance(config, dict) and "steps_per_checkpoint" in config else {}


def learning_rate_schedule(learning_rate: float, num_steps: int, decay: str):
    """A constant rate, or a half cosine from it to 0 over `num_steps`. Raises: ValueError otherwise."""
    if decay == "constant":
        return learning_rate
    if decay == "cosine":
        return keras.optimizers.schedules.CosineDecay(learning_rate, num_steps)
    raise ValueError(f"learning_rate_decay must be 'constant' or 'cosine', got {decay!r}.")


def decide_mining(mining: str, constraints: list[str]) -> str:
    """Whether negatives are mined: `on` or `off`.

    Args:
      mining: `on`, `off` or `auto`, as the paper does: off for noise, translation or mixing alone, on for
        labels, for proximity, and for several constraints together. A constraint that is not of the paper
        is mined.
      constraints: those of the triplets, `name` or `name:parameter`.

    Raises:
      ValueError: another word for `mining`.

    Source: Jansen et al. 2018, section 4.2.
    """
    if mining in ("on", "off"):
        return mining
    if mining != "auto":
        raise ValueError(f"mining must be 'auto', 'on' or 'off', got {mining!r}.")
    names = {constraint.partition(":")[0] for constraint in constraints}
    return "off" if len(names) == 1 and names <= _UNMINED_ALONE else "on"


def _constraints(triplets: list[str]) -> list[str]:
    """The constraints that the sidecars of triplet sets name."""
    infos = [examples.read_dataset_info(directory, kind=examples.TRIPLETS) for directory in triplets]
    return sorted({text for info in infos for text in info.parameters.get("constraints", ())})


def train(
    triplets: list[str],
    output: str,
    *,
    encoder: str = "resnet_small",
    embedding_dim: int = networks.EMBEDDING_DIM,
    num_steps: int = 1000,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    learning_rate_decay: str = "cosine",
    margin: float = 0.1,
    mining: str = "auto",
    source_weights: tuple[float, ...] = (),
    precision: str = "float32",
    steps_per_checkpoint: int = 100,
    seed: int = 0,
    overwrite: bool = False,
) -> TrainingRun:
    """Trains an encoder on triplets, on all devices of this machine; resumes a run that was cut off.

    The paper trains ResNet-50 with Adam at a constant 1e-4 where it mines, and at 1e-6 where it does not
    (section 4.2): `--encoder resnet50 --learning-rate 1e-4 --learning-rate-decay constant`.

    Args:
      triplets: folders of triplet examples; several are merged.
      output: the run's folder.
      encoder: `resnet_small` for CPUs, `resnet50` as in the 2018 paper.
      embedding_dim: length of an embedding.
      num_steps: optimizer steps in all.
      batch_size: triplets a step, over all devices.
      learning_rate: Adam's, at the start.
      learning_rate_decay: `cosine` to 0 over all steps, or `constant`.
      margin: how much farther a negative must be than the positive, in squared distance.
      mining: `on` reassigns negatives within the batch, over all devices, to the closest that is farther
        than the positive; `off` keeps each triplet's own; `auto` decides by the triplets' constraints as the
        paper does, `off` for noise, translation or mixing alone. Mixed triplets always keep their own.
      source_weights: what a triplet of each folder counts in the loss; 1 each by default.
      precision: `float32` or `bfloat16`.
      steps_per_checkpoint: steps between checkpoints; a kill loses at most so many.
      seed: of initial weights and of the order of the data.
      overwrite: remove an earlier run in the output folder.

    Returns:
      The run's summary.

    Raises:
      DatasetError: triplets that are missing, damaged or do not fit together; ValueError: a parameter is
      out of range; TrainingError: the folder holds another run, or the loss is no longer a number.
    """
    mel_params, num_triplets = examples.read_triplet_infos(list(triplets))
    constraints = _constraints(list(triplets))
    config = {
        "triplets": list(triplets), "num_triplets": num_triplets, "constraints": constraints,
        "encoder": encoder, "embedding_dim": embedding_dim, "num_steps": num_steps,
        "batch_size": batch_size, "learning_rate": learning_rate,
        "learning_rate_decay": learning_rate_decay, "margin": margin,
        "mining": decide_mining(mining, constraints), "source_weights": list(source_weights),
        "precision": precision, "steps_per_checkpoint": steps_per_checkpoint, "seed": seed,
    }  # fmt: skip
    _require_valid(config)
    shown = ", ".join(constraints) or "triplets of unnamed constraints"
    print(f"mining {config['mining']}, for {shown}", file=sys.stderr)
    keras.utils.set_random_seed(seed)
    with strategy().scope():
        # Before the run's folder, so that settings which no model can be made of leave none.
        model = _compiled_model(config, mel_params)
        _open_run(output, config, overwrite)
        checkpoints = Checkpoints(os.path.join(output, _CHECKPOINTS))
        first_step = checkpoints.restore(model)
    _fit(model, checkpoints, first_step, config, mel_params, output)
    save_encoder(model.audio_encoder, mel_params, output, config)
    return TrainingRun(output, num_steps, final=read_log(os.path.join(output, LOG_NAME))[-1])


def _require_valid(config: dict) -> None:
    for name in ("num_steps", "batch_size", "steps_per_checkpoint", "embedding_dim"):
        if config[name] < 1:
            raise ValueError(f"{name} must be at least 1, got {config[name]}.")
    if config["batch_size"] > config["num_triplets"]:
        raise ValueError(
            f"batch_size {config['batch_size']} exceeds the {config['num_triplets']} triplets; "
            "lower it or sample more."
        )
    if not 0 < config["learning_rate"] < math.inf:
        raise ValueError(f"learning_rate must be positive and finite, got {config['learning_rate']}.")
    weights, num_sets = config["source_weights"], len(config["triplets"])
    if weights and len(weights) != num_sets:
        raise ValueError(f"source_weights must be one for each of {num_sets} folders, got {len(weights)}.")
    if weights and not (all(0 <= weight < math.inf for weight in weights) and any(weights)):
        raise ValueError(f"source_weights must be finite, at least 0 and not all 0, got {weights}.")
    if config["precision"] not in PRECISIONS:
        raise ValueError(f"precision must be one of {sorted(PRECISIONS)}, got {config['precision']!r}.")
    num_replicas = strategy().num_replicas_in_sync
    if config["batch_size"] % num_replicas:
        raise ValueError(
            f"batch_size must be a multiple of the {num_replicas} devices, got {config['batch_size']}."
        )


def _compiled_model(config: dict, mel_params: mel.MelParams) -> models.TripletModel:
    audio_encoder = networks.build_encoder(
        config["encoder"],
        input_shape=(mel_params.context_frames, mel_params.mel_bins),
        embedding_dim=config["embedding_dim"],
        dtype_policy=PRECISIONS[config["precision"]],
    )
    model = models.TripletModel(audio_encoder, margin=config["margin"], semi_hard=config["mining"] == "on")
    rate = learning_rate_schedule(config["learning_rate"], config["num_steps"], config["learning_rate_decay"])
    # XLA fails under MirroredStrategy, and on CPUs it costs more than it saves.
    model.compile(optimizer=keras.optimizers.Adam(rate), jit_compile=False)
    model.build((None, mel_params.context_frames, mel_params.mel_bins))
    model.optimizer.build(model.trainable_variables)
    return model


def _fit(model, checkpoints: Checkpoints, first_step: int, config: dict, mel_params, output: str) -> None:
    """Trains from `first_step`, where an epoch ended, to the last step."""
    num_steps, interval = config["num_steps"], config["steps_per_checkpoint"]
    num_whole, rest = divmod(num_steps, interval)
    epoch = math.ceil(first_step / interval)
    progress = _Progress(first_step, num_steps)
    callbacks = [
        _Watch(),
        # Before the checkpoint: killed between the two, a run logs that epoch again and not never.
        _Log(os.path.join(output, LOG_NAME), epoch),
        checkpoints,
        keras.callbacks.TensorBoard(os.path.join(output, "tensorboard")),
        progress,
    ]
    try:
        # The whole epochs that are left, then a shorter last one.
        for end, steps in ((num_whole, interval), (num_whole + 1, rest)):
            if epoch >= end or not steps:
                continue
            data = examples.triplet_dataset(
                config["triplets"], batch_size=config["batch_size"], weights=config["source_weights"],
                seed=config["seed"], mel_params=mel_params, first_batch=epoch * interval,
            )  # fmt: skip
            model.fit(
                data, initial_epoch=epoch, epochs=end, steps_per_epoch=steps, shuffle=False, verbose=0,
                callbacks=callbacks,
            )  # fmt: skip
            epoch = end
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError, tf.errors.NotFoundError):
        for directory in config["triplets"]:
            info = examples.read_dataset_info(directory, kind=examples.TRIPLETS)
            examples.require_undamaged(directory, info)
        raise
    finally:
        progress.close()


def save_encoder(encoder: keras.Model, mel_params: mel.MelParams, output: str, config: dict) -> None:
    """Writes `encoder.keras`, and then `encoder.json`, which marks the run as finished."""
    path = os.path.join(output, ENCODER_NAME)
    temporary = os.path.join(output, "tmp-" + ENCODER_NAME)
    encoder.save(temporary)
    os.replace(temporary, path)
    info = {"mel_params": mel_params.to_dict(), "config": config}
    _write_json(os.path.join(output, ENCODER_INFO_NAME), info)


def load_encoder(run: str) -> tuple[keras.Model, mel.MelParams]:
    """The encoder of a finished run, and the front end that it was trained with.

    Raises:
      TrainingError: no such run, or one that is not finished.
    """
    info_path = os.path.join(run, ENCODER_INFO_NAME)
    if not os.path.exists(info_path):
        if _begun(run):
            state = "was not finished; train it to its end"
        else:
            state = "is no training run" if os.path.exists(run) else "does not exist"
        raise TrainingError(f"{run} holds no trained encoder ({ENCODER_INFO_NAME}): it {state}.")
    with open(info_path) as file:
        mel_params = mel.MelParams.from_dict(json.load(file)["mel_params"])
    return keras.saving.load_model(os.path.join(run, ENCODER_NAME), compile=False), mel_params
