"""What a training run leaves in its folder, written and read: settings, log, models, the mark of its end."""

import csv
import dataclasses
import json
import os
import zipfile

import keras

from tfsound import mel, resumption
from tfsound.checkpoints import TrainingError

CONFIG_NAME = "config.json"
LOG_NAME = "log.csv"
ENCODER_NAME = "encoder.keras"
ENCODER_INFO_NAME = "encoder.json"


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """What a finished run says: its folder, its steps, the means over its last checkpoint interval.

    `converged` tells that it ended before the last step that it might have taken (`has_converged`).
    """

    output: str
    num_steps: int
    final: dict[str, float]
    converged: bool = False

    def __str__(self) -> str:
        steps = f"converged after {self.num_steps} steps" if self.converged else f"{self.num_steps} steps"
        return f"trained {self.output}: {steps}, loss {self.final['loss']:.4f}"


def read_log(path: str) -> list[dict[str, float]]:
    """The rows of a run's `log.csv`, one for each checkpoint interval; none without a file."""
    if not os.path.exists(path):
        return []
    with open(path, newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def begun_config(output: str) -> dict:
    """The configuration of the run in a folder; empty where there is none of ours."""
    try:
        with open(os.path.join(output, CONFIG_NAME)) as file:
            config = json.load(file)
    except (OSError, ValueError):
        return {}
    # Others name files config.json too, and --overwrite must not take theirs for a run.
    return config if isinstance(config, dict) and "steps_per_checkpoint" in config else {}


def save_model(model: keras.Model, path: str) -> None:
    """Saves a model as a file that is there as a whole or not at all."""
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, "tmp-" + name)
    model.save(temporary)
    os.replace(temporary, path)


def save_encoder(encoder: keras.Model, mel_params: mel.MelParams, output: str, config: dict) -> None:
    """Writes `encoder.keras`, and then `encoder.json`, which marks the run as finished."""
    path = os.path.join(output, ENCODER_NAME)
    save_model(encoder, path)
    info = {"mel_params": mel_params.to_dict(), "config": config}
    resumption.write_json(os.path.join(output, ENCODER_INFO_NAME), info)


def load_encoder(run: str) -> tuple[keras.Model, mel.MelParams]:
    """The encoder of a finished run, and the front end that it was trained with.

    Raises:
      TrainingError: no such run, or one that is not finished.
    """
    mel_params, _ = read_finished(run)
    return read_model(os.path.join(run, ENCODER_NAME)), mel_params


def read_model(path: str) -> keras.Model:
    """A model that `save_model` has saved. Raises: TrainingError for one that cannot be read."""
    try:
        return keras.saving.load_model(path, compile=False)
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TrainingError(
            f"{path} cannot be read ({reason}); it is damaged, or of another version of Keras: copy it "
            "again, or train the run again."
        ) from error


def load_model(run: str, name: str, *, trained_on: str) -> tuple[keras.Model, mel.MelParams, dict]:
    """A model that a finished run has saved under a name, its front end and its settings.

    Args:
      trained_on: what runs that have such a model learned from, in words.

    Raises:
      TrainingError: no such run, one that is not finished, or one without such a model.
    """
    mel_params, config = read_finished(run)
    path = os.path.join(run, name)
    if not os.path.exists(path):
        raise TrainingError(
            f"{run} holds no {name}: it was not trained on {trained_on}; name a run that was."
        )
    return read_model(path), mel_params, config


def read_finished(run: str) -> tuple[mel.MelParams, dict]:
    """The front end and the settings of a finished run; raises as `load_encoder`.

    Raises:
      TrainingError: see `load_encoder`; or `encoder.json` is damaged, or of another version of tfsound.
    """
    info_path = os.path.join(run, ENCODER_INFO_NAME)
    if not os.path.exists(info_path):
        if begun_config(run):
            state = "was not finished; train it to its end"
        else:
            state = "is no training run" if os.path.exists(run) else "does not exist"
        raise TrainingError(f"{run} holds no trained encoder ({ENCODER_INFO_NAME}): it {state}.")
    try:
        with open(info_path) as file:
            info = json.load(file)
        mel_params, config = mel.MelParams.from_dict(info["mel_params"]), dict(info["config"])
    except (KeyError, TypeError, ValueError) as error:
        # What mel parameters say first; the remedy after it is that of examples.
        reason = f"{type(error).__name__}: {error}".split(";")[0]
        raise TrainingError(
            f"{info_path} is damaged, or of another version of tfsound ({reason}); train the run again with "
            "this one, or use the one that trained it."
        ) from error
    return mel_params, config


def finished_config(run: str) -> dict:
    """The settings of a finished run; raises as `load_encoder`."""
    return read_finished(run)[1]


def finished_run(run: str) -> TrainingRun:
    """What a finished run says; raises as `load_encoder`."""
    _, config = read_finished(run)
    final = read_log(os.path.join(run, LOG_NAME))[-1]
    num_steps = int(final["step"])
    return TrainingRun(run, num_steps, final, converged=num_steps < config["num_steps"])
