"""What TensorFlow Serving is started with: which models it serves, how it batches, and the command itself.

Waveforms of different lengths do not fit into one batch. TF Serving would fill up the shorter ones with their
first sample, which changes their embeddings without a word, so that is left off: with batching, send clips to
the signature `wav_bytes`, as `tfsound.export.clients` does, whose batches take any lengths. What is sent to
`serving_default` is batched with waveforms of the same length only; others at the same time are refused.

Source: https://www.tensorflow.org/tfx/serving/serving_config and
https://github.com/tensorflow/serving/blob/master/tensorflow_serving/batching/README.md
"""

import dataclasses
import json
import os
import re
import shlex

from tfsound import exported, resumption

MODELS_NAME, BATCHING_NAME = "models.config", "batching.config"
# Where they are inside the container.
_CONFIG_FOLDER, _MODELS_FOLDER = "/config", "/models"
_GRPC_PORT, _REST_PORT = 8500, 8501
_POLL_SECONDS = 60
# ModelConfig of tensorflow_serving/config/model_server_config.proto
_MODEL = """\
  config {{
    name: "{name}"
    base_path: {base_path}
    model_platform: "tensorflow"
    model_version_policy {{ latest {{ num_versions: {versions} }} }}
  }}
"""


@dataclasses.dataclass(frozen=True)
class ServeConfig:
    """The files that were written, and the command that starts TF Serving with them."""

    models_config: str
    batching_config: str
    command: str

    def __str__(self) -> str:
        return f"wrote {self.models_config} and {self.batching_config}; start TF Serving with\n{self.command}"


def serve_config(
    models: tuple[str, ...],
    output: str,
    *,
    versions: int = 1,
    max_batch_size: int = 32,
    batch_timeout_ms: float = 5.0,
    num_batch_threads: int = 0,
    image: str = "tensorflow/serving",
) -> ServeConfig:
    """Writes the files that TF Serving is started with, and tells the command.

    New versions that `tfsound export` puts beside the old ones are served within a minute, without a restart;
    so are changes to the list of models.

    Args:
      models: the models' folders, each as FOLDER, served under the folder's name, or as NAME=FOLDER.
      output: the folder for `models.config` and `batching.config`.
      versions: so many of a model's newest versions are served at once.
      max_batch_size: requests are put together to batches of at most so many clips.
      batch_timeout_ms: so long a request waits for others, in milliseconds.
      num_batch_threads: batches that are computed at the same time; 0 for one a processor.
      image: the container image.

    Returns:
      The files and the command.

    Raises:
      ModelError: a folder without versions; ValueError: two models of one name, a name that cannot be
      one, or numbers out of range.
    """
    _require_positive(versions=versions, max_batch_size=max_batch_size)
    if num_batch_threads < 0 or not 0 <= batch_timeout_ms < float("inf"):
        raise ValueError(
            "num_batch_threads and batch_timeout_ms must be 0 or more, got "
            f"{num_batch_threads} and {batch_timeout_ms}."
        )
    folders = _named(models)
    num_threads = num_batch_threads or os.cpu_count()
    mounts = [f"{os.path.abspath(output)}:{_CONFIG_FOLDER}:ro"]
    entries = []
    for name, folder in folders.items():
        base_path = folder  # gs:// and s3:// TF Serving reads itself
        if "://" not in folder:
            exported.find_version(folder)
            base_path = f"{_MODELS_FOLDER}/{name}"
            mounts.append(f"{os.path.abspath(folder)}:{base_path}:ro")
        entries.append(_MODEL.format(name=name, base_path=json.dumps(base_path), versions=versions))
    models_config, batching_config = (os.path.join(output, name) for name in (MODELS_NAME, BATCHING_NAME))
    resumption.write_text(models_config, f"model_config_list {{\n{''.join(entries)}}}\n")
    batching = {
        "max_batch_size": max_batch_size,
        "batch_timeout_micros": round(1000 * batch_timeout_ms),
        "num_batch_threads": num_threads,
        # Beyond a queue of four batches a thread, a client is told to come again, and does.
        "max_enqueued_batches": 4 * num_threads,
    }
    lines = [f"{name} {{ value: {value} }}\n" for name, value in batching.items()]
    resumption.write_text(batching_config, "".join(lines) + "pad_variable_length_inputs: false\n")
    arguments = [
        "docker", "run", "--rm", "-p", f"{_GRPC_PORT}:{_GRPC_PORT}", "-p", f"{_REST_PORT}:{_REST_PORT}",
        *(part for mount in mounts for part in ("-v", mount)), image,
        f"--model_config_file={_CONFIG_FOLDER}/{MODELS_NAME}",
        f"--model_config_file_poll_wait_seconds={_POLL_SECONDS}",
        "--enable_batching", f"--batching_parameters_file={_CONFIG_FOLDER}/{BATCHING_NAME}",
    ]  # fmt: skip
    return ServeConfig(models_config, batching_config, shlex.join(arguments))


def _require_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be 1 or more, got {number}.")


def _named(models: tuple[str, ...]) -> dict[str, str]:
    """Folders by the names under which they are served."""
    if not models:
        raise ValueError("models is empty; name a folder that `tfsound export` has written.")
    folders: dict[str, str] = {}
    for model in models:
        name, equals, folder = model.partition("=")
        if not equals:
            name, folder = os.path.basename(model.rstrip("/")), model
        if not re.fullmatch(r"[\w.-]+", name, re.ASCII):
            raise ValueError(
                f"{name!r} cannot be the name of a model, expected letters, digits, '.', '_' and '-'; "
                "name it: NAME=FOLDER."
            )
        if name in folders:
            raise ValueError(
                f"two models are named {name!r} ({folders[name]}, {folder}); name one NAME=FOLDER."
            )
        folders[name] = folder
    return folders
