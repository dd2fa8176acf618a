"""A SavedModel of `tfsound export`, found, checked and run by plain TensorFlow, with no model of ours.

MODEL is a folder of numbered versions, of which the newest is taken, or one version's own folder.
"""

import csv
import dataclasses
import hashlib
import io
import json
import os

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2

from tfsound import mel

_GRAPH_NAME = "saved_model.pb"
# What a training run leaves, which is taken for a model now and then.
_RUN_NAMES = ("config.json", "encoder.json")
_WINDOWS, _CLIPS = "log_mel", "serving_default"


class ModelError(ValueError):
    """A model that cannot be used; the message says which, why, and what to do."""


@dataclasses.dataclass(frozen=True)
class ExportedModel:
    """What an export says of itself.

    Attributes:
      path: the folder of its version.
      mel_params: its front end.
      embedding_dim: d.
      class_names: of a classifier, in the order of its scores; of an encoder none.
      weights: a hash of its weights and front end, by which one model is told from another.
    """

    path: str
    mel_params: mel.MelParams
    embedding_dim: int
    class_names: tuple[str, ...]
    weights: str


def find_version(path: str) -> str:
    """The folder of the version to load. Raises: ModelError where there is none."""
    path = path.rstrip("/") or path
    if tf.io.gfile.exists(os.path.join(path, _GRAPH_NAME)):
        return path
    if not tf.io.gfile.isdir(path):
        raise ModelError(f"{path} is no folder; expected a SavedModel that `tfsound export` made.")
    names = [name.rstrip("/") for name in tf.io.gfile.listdir(path)]
    versions = [
        int(name)
        for name in names
        if name.isdecimal() and tf.io.gfile.exists(os.path.join(path, name, _GRAPH_NAME))
    ]
    if versions:
        numbered = {int(name): name for name in names if name.isdecimal()}
        return os.path.join(path, numbered[max(versions)])
    if set(names) & set(_RUN_NAMES):
        raise ModelError(f"{path} is a training run, not a SavedModel; export it first: tfsound export.")
    raise ModelError(
        f"{path} holds neither {_GRAPH_NAME} nor numbered versions with one; expected a SavedModel that "
        "`tfsound export` made."
    )


def read_export(path: str) -> ExportedModel:
    """Finds an export and reads what it says of itself, and all of it once, so that damage is found.

    Raises:
      ModelError: missing, damaged, no SavedModel, or not one of tfsound's schema.
    """
    version = find_version(path)
    try:
        with tf.io.gfile.GFile(os.path.join(version, _GRAPH_NAME), "rb") as file:
            graphs = saved_model_pb2.SavedModel.FromString(file.read()).meta_graphs
        if not tf.io.gfile.exists(os.path.join(version, "variables", "variables.index")):
            raise ModelError(f"{version} holds no variables; copy the whole folder of the export.")
        mel_params = mel.MelParams.from_dict(json.loads(_asset(version, "mel_params.json")))
        class_names = _class_names(version)
        if len(graphs) != 1:
            raise ValueError(f"it holds {len(graphs)} graphs, expected 1")
        dim = _embedding_dim(graphs[0].signature_def, mel_params, class_names)
        weights = _hash_of_weights(version, mel_params)
    except (DecodeError, tf.errors.OpError, KeyError, IndexError, TypeError, ValueError, csv.Error) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(
            f"{version} is damaged or no SavedModel of this schema ({_short(error)}); expected one that "
            "`tfsound export` of this version made."
        ) from error
    return ExportedModel(version, mel_params, dim, class_names, weights)


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _asset(version: str, name: str) -> str:
    path = os.path.join(version, "assets", name)
    if not tf.io.gfile.exists(path):
        raise ValueError(f"it lacks assets/{name}")
    with tf.io.gfile.GFile(path, "rb") as file:
        return file.read().decode()


def _class_names(version: str) -> tuple[str, ...]:
    """The label map of a classifier, `labels.csv`: index, name."""
    if not tf.io.gfile.exists(os.path.join(version, "assets", "labels.csv")):
        return ()
    rows = list(csv.DictReader(io.StringIO(_asset(version, "labels.csv"), newline="")))
    if [row["index"] for row in rows] != [str(number) for number in range(len(rows))]:
        raise ValueError("the indices of assets/labels.csv are not 0, 1, 2, ...")
    return tuple(row["name"] for row in rows)


def _embedding_dim(signatures, mel_params: mel.MelParams, class_names: tuple[str, ...]) -> int:
    """Checks that windows go in, and embeddings and the scores of the classes come out."""
    for name in (_WINDOWS, _CLIPS):
        if name not in signatures:
            raise ValueError(f"it has no signature {name!r}, but {sorted(signatures)}")
    signature = signatures[_WINDOWS]
    expected = [-1, *mel_params.window_shape]
    if _WINDOWS not in signature.inputs or _shape(signature.inputs[_WINDOWS]) != expected:
        found = {name: _shape(info) for name, info in signature.inputs.items()}
        raise ValueError(f"{_WINDOWS} takes {found}, expected {expected}")
    outputs = {name: _shape(info) for name, info in signature.outputs.items()}
    widths = {name: shape[1] for name, shape in outputs.items() if len(shape) == 2 and shape[1] > 0}
    expected_scores = {"scores": len(class_names)} if class_names else {}
    if outputs.keys() != widths.keys() or widths != {"embedding": widths.get("embedding")} | expected_scores:
        raise ValueError(f"{_WINDOWS} gives {outputs}, expected an embedding and {len(class_names)} scores")
    return widths["embedding"]


def _shape(info) -> list[int]:
    return [dimension.size for dimension in info.tensor_shape.dim]


def _hash_of_weights(version: str, mel_params: mel.MelParams) -> str:
    """Of values alone: the names of the same weights differ from export to export."""
    # Not `tf.train.load_checkpoint`, which looks for the files by a pattern that not every file system knows.
    reader = tf.compat.v1.train.NewCheckpointReader(os.path.join(version, "variables", "variables"))
    names = set(reader.get_variable_to_shape_map()) - {"_CHECKPOINTABLE_OBJECT_GRAPH"}
    hashes = sorted(hashlib.sha256(np.ascontiguousarray(reader.get_tensor(name))).digest() for name in names)
    front_end = json.dumps(mel_params.to_dict(), sort_keys=True).encode()
    return hashlib.sha256(b"".join([front_end, *hashes])).hexdigest()[:16]


def load(path: str) -> "LoadedModel":
    """Finds, reads and loads an export. Raises: ModelError, see `read_export`."""
    return LoadedModel(read_export(path))


class LoadedModel:
    """The signatures of an export, which run for as long as this lives.

    Attributes:
      export: what it says of itself.

    Raises:
      ModelError: it cannot be loaded.
    """

    def __init__(self, export: ExportedModel):
        try:
            self._loaded = tf.saved_model.load(export.path)  # a signature alone keeps no variables alive
        except (tf.errors.OpError, DecodeError, OSError, IndexError, KeyError, ValueError) as error:
            raise ModelError(
                f"{export.path} cannot be loaded ({_short(error)}); copy the export again."
            ) from error
        self.export = export

    def embed_windows(self, log_mel: np.ndarray) -> dict[str, np.ndarray]:
        """Log-mel windows, float32, (windows, context_frames, columns) -> what there is of each.

        Returns:
          `embedding`, float32, (windows, d), and of a classifier `scores`, (windows, classes).
        """
        return self._run(_WINDOWS, log_mel=log_mel)

    def embed_waveforms(self, waveform: np.ndarray) -> dict[str, np.ndarray]:
        """What `serving_default` gives: float32, (batch, samples), of stereo (batch, 2, samples)."""
        return self._run(_CLIPS, waveform=waveform)

    def _run(self, signature: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        tensors = {name: tf.convert_to_tensor(value, tf.float32) for name, value in inputs.items()}
        outputs = self._loaded.signatures[signature](**tensors)
        return {name: values.numpy() for name, values in outputs.items()}
