"""Where a model comes from: data, settings, command, versions, and what was measured of it.

Everything is read off the run and off files of `tfsound evaluate` and its siblings; what is not known is left
out. The fields, of which `provenance.json` of an export holds those that are known:

  tfsound, tensorflow, keras, python   versions of the export
  license                              an identifier, as given
  training                             the run's settings, its data among them
  command                              one that trains the same
  metrics                              a list of `name`, `values` (one a fold or draw), `on`, `held_out`
  evaluation                           {file name: its content}
"""

import inspect
import math
import os
import platform
import re
import shlex
from collections.abc import Sequence

import keras
import tensorflow as tf

from tfsound import training
from tfsound.records import parse_object, shown
from tfsound.version import __version__

# The setting that only one kind of run has -> the function that trains it, and its subcommand.
_COMMANDS = {
    "triplets": (training.train, "train"),
    "audio_audio": (training.train_coincidence, "train-coincidence"),
    "instances": (training.train_instances, "train-instances"),
    "clips": (training.train_classifier, "train-classifier"),
}
# Logged with the metrics, and none.
_NO_METRICS = ("epoch", "step", "learning_rate", "log_partition")
# Logged of clips in these folds, which are not learned from; all else is of the training itself.
_HELD_OUT_FOLDS = {"accuracy": "measure_folds", "knn_accuracy": "knn_folds"}
_LICENSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")


def describe_run(
    run: str, config: dict, *, evaluation: Sequence[str], class_names: Sequence[str], license: str
) -> dict:
    """What is known of a finished run, in types that JSON has.

    Args:
      run: its folder.
      config: its settings.
      evaluation: JSON files of `tfsound evaluate`, `evaluate-classifier` or `evaluate-cross-modal`.
      class_names: those of a classifier.
      license: an identifier such as `apache-2.0`; "" for none given.

    Raises:
      ValueError: a license that is no identifier, a file that holds no evaluation, or that of other classes;
      FileNotFoundError: no such file.
    """
    if license and not _LICENSE.fullmatch(license):
        raise ValueError(
            f"license must be an identifier such as 'apache-2.0' or 'other', got {shown(license)}; put the "
            "text of another one beside the model."
        )
    described = {
        "tfsound": __version__,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "python": platform.python_version(),
        "training": config,
        "license": license,
        "command": training_command(run, config),
        "metrics": run_metrics(run, config),
    }
    evaluations = {path: read_evaluation(path) for path in evaluation}
    for path, fields in evaluations.items():
        described["metrics"] += evaluation_metrics(fields, path, class_names)
    described["evaluation"] = {os.path.basename(path): fields for path, fields in evaluations.items()}
    return {name: value for name, value in described.items() if value}


def training_command(run: str, config: dict) -> str:
    """The command that trains the same, settings that are defaults left out; "" where no command can.

    Args:
      config: the settings of a run.
    """
    kind = next((name for name in _COMMANDS if name in config), "")
    if not kind or config.get("labels") == "(arrays)":
        return ""
    function, command = _COMMANDS[kind]
    words, options = ["tfsound", command], []
    for name, parameter in inspect.signature(function).parameters.items():
        default = parameter.default
        value = run if name == "output" else config.get(name, default)
        values = list(value) if isinstance(value, list | tuple) else [value]
        option = name.replace("_", "-")
        if default is inspect.Parameter.empty:
            words += values
        elif isinstance(default, bool) and value != default:
            options.append(f"--{option}" if value else f"--no-{option}")
        elif value != default and values != (list(default) if isinstance(default, tuple) else [default]):
            options += [f"--{option}", *values]
    return shlex.join(map(str, [*words, *options]))


def run_metrics(run: str, config: dict) -> list[dict]:
    """What the last row of a run's log says, a metric each."""
    rows = training.read_log(os.path.join(run, training.LOG_NAME))
    found = []
    for name, value in rows[-1].items() if rows else ():
        folds = config.get(_HELD_OUT_FOLDS.get(name, ""), ())
        if name not in _NO_METRICS and math.isfinite(value):
            on = (
                f"clips of {_in_words(folds)}, not learned from"
                if folds
                else "training, mean of the last interval"
            )
            found.append({"name": name, "values": [value], "on": on, "held_out": bool(folds)})
    return found


def read_evaluation(path: str) -> dict:
    """The JSON object in a file; raises as `describe_run`."""
    with open(path, "rb") as file:
        return parse_object(file.read(), path)


def evaluation_metrics(fields: dict, where: str, class_names: Sequence[str]) -> list[dict]:
    """The metrics in what an evaluation has written; raises as `describe_run`.

    Args:
      where: the file.
      class_names: those of a classifier.
    """
    try:
        if "scores" in fields and "by" in fields:
            rows = _retrieval_rows(fields)
        elif "class_names" in fields and "folds" in fields:
            rows = _classification_rows(fields)
        elif "rows" in fields:
            rows = _table_rows(fields)
        else:
            rows = []
        rows = [(name, _numbers(values), on) for name, values, on in rows if None not in values]
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise _no_evaluation(where) from error
    if not rows:
        raise _no_evaluation(where)
    if "class_names" in fields and list(class_names) != fields["class_names"]:
        raise ValueError(
            f"{where} is about the classes {shown(fields['class_names'])}, the run has "
            f"{shown(list(class_names)) if class_names else 'none'}; name the evaluation of this run."
        )
    return [
        {"name": str(name), "values": values, "on": f"{on} ({os.path.basename(where)})", "held_out": True}
        for name, values, on in rows
    ]


def _no_evaluation(where: str) -> ValueError:
    return ValueError(
        f"{where} holds no figures of an evaluation; expected what `tfsound evaluate`, `evaluate-classifier` "
        "or `evaluate-cross-modal` writes as JSON."
    )


def _numbers(values: list) -> list[float]:
    """Raises: TypeError, ValueError, OverflowError for what is no list of finite numbers."""
    if not values or not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        raise ValueError("no list of finite numbers")
    return [float(value) for value in values]


def _retrieval_rows(fields: dict) -> list[tuple[str, list, str]]:
    on = f"{int(fields['num_segments'])} segments by {fields['by']}, {_in_words(fields['folds'])}"
    rows = [(f"query-by-example mAP, {name}", values, on) for name, values in fields["scores"].items()]
    return [*rows, ("query-by-example mAP, chance", [fields["chance"]], on)]


def _classification_rows(fields: dict) -> list[tuple[str, list, str]]:
    folds = fields["folds"]
    num_clips = sum(int(fold["num_clips"]) for fold in folds)
    on = f"{num_clips} clips, {_in_words([fold['fold'] for fold in folds])}"
    names = {"mAP": "mAP", "mean_d_prime": "mean d'", "chance_mAP": "mAP, chance"}
    return [(shown_name, [fold[name] for fold in folds], on) for name, shown_name in names.items()]


def _table_rows(fields: dict) -> list[tuple[str, list, str]]:
    return [
        (f"{measure}, {row['name']}", figures["values"], "")
        for row in fields["rows"]
        for measure, figures in row["scores"].items()
        if figures
    ]


def _in_words(folds: Sequence[str]) -> str:
    named = [str(fold) for fold in folds if fold != ""]
    return f"fold{'s' * (len(named) > 1)} {', '.join(named)}" if named else "all clips together"
