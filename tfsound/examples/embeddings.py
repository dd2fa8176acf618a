"""Embeddings of clips as the job `embed` writes them: one record a clip, however long it is.

A record is a `tf.train.Example` with the features

  clip_id, recording_id, uri, fold, split   bytes, one each, as the manifest gives them
  labels                 bytes, any number
  start_seconds, end_seconds   float, of what was embedded, in the recording
  num_windows            int64, context windows without overlap
  embedding              float (d,), the mean over the windows, not normalised again
  scores                 float (classes,), of a classifier: the mean over the windows
  window_start_seconds   float (num_windows,), to the millisecond, as labels name windows
  window_embeddings      bytes, little-endian float32, [num_windows, d]
  window_scores          bytes, little-endian float32, [num_windows, classes], of a classifier

The `window_*` are absent where the set was made without them, `scores` where the model is no classifier. The
sidecar says which: `parameters` has `model` (its folder), `weights` (a hash of them), `embedding_dim`,
`class_names` and `window_embeddings`. Where it has `tables`, the same records lie in Parquet files of the
same columns (`embedding_tables`), in which times are double and no number is rounded.
"""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from tfsound.examples.records import read_records, serialize
from tfsound.examples.sidecar import (
    EMBEDDINGS,
    SCHEMA_VERSION,
    DatasetError,
    DatasetInfo,
    read_dataset_info,
    require_folds,
)
from tfsound.examples.streams import shard_paths


@dataclasses.dataclass(frozen=True)
class EmbeddingSpec:
    """What the records of a set hold: the length of an embedding, classes, and whether windows, too."""

    embedding_dim: int
    class_names: tuple[str, ...] = ()
    has_windows: bool = True


@dataclasses.dataclass(frozen=True)
class ClipEmbedding:
    """One clip. Arrays are float32: `embedding` (d,), `scores` (classes,), of no class for an encoder.

    `window_start_seconds` float64 (windows,), `window_embeddings` (windows, d) and `window_scores` (windows,
    classes) are None in a set without windows.
    """

    clip_id: str
    recording_id: str
    uri: str
    start_seconds: float
    end_seconds: float
    labels: tuple[str, ...]
    fold: str
    split: str
    num_windows: int
    embedding: np.ndarray
    scores: np.ndarray
    window_start_seconds: np.ndarray | None = None
    window_embeddings: np.ndarray | None = None
    window_scores: np.ndarray | None = None


_TEXTS = ("clip_id", "recording_id", "uri", "fold", "split")


def encode_embedding(clip: ClipEmbedding) -> bytes:
    """A serialised `tf.train.Example` of a clip's embedding."""
    fields = {name: getattr(clip, name) for name in (*_TEXTS, "labels", "num_windows")}
    fields |= {"start_seconds": float(clip.start_seconds), "end_seconds": float(clip.end_seconds)}
    fields["embedding"] = tuple(clip.embedding.tolist())
    if len(clip.scores):
        fields["scores"] = tuple(clip.scores.tolist())
    if clip.window_embeddings is not None:
        fields["window_start_seconds"] = tuple(clip.window_start_seconds.tolist())
        fields["window_embeddings"] = clip.window_embeddings.astype("<f4").tobytes()
        if len(clip.scores):
            fields["window_scores"] = clip.window_scores.astype("<f4").tobytes()
    return serialize(fields)


def decode_embedding(record: bytes, spec: EmbeddingSpec) -> ClipEmbedding:
    """The inverse of `encode_embedding`, in NumPy.

    Raises:
      DatasetError: anything that is no record of a set as `spec` describes it.
    """
    dim, num_classes = spec.embedding_dim, len(spec.class_names)
    try:
        feature = tf.train.Example.FromString(record).features.feature
        fields = {name: feature[name].bytes_list.value[0].decode() for name in _TEXTS}
        fields |= {name: feature[name].float_list.value[0] for name in ("start_seconds", "end_seconds")}
        num_windows = feature["num_windows"].int64_list.value[0]
        clip = ClipEmbedding(
            labels=tuple(label.decode() for label in feature["labels"].bytes_list.value),
            num_windows=num_windows,
            embedding=_floats(feature["embedding"], dim),
            scores=_floats(feature["scores"], num_classes),
            **fields,
            **(_windows_of(feature, num_windows, dim, num_classes) if spec.has_windows else {}),
        )
    except (DecodeError, IndexError, ValueError) as error:
        raise DatasetError(f"a record is no embedding of schema {SCHEMA_VERSION}: {error!r}") from error
    problem = _problem(clip)
    if problem:
        raise DatasetError(f"the embedding of clip {clip.clip_id!r} {problem}; make the set again.")
    return clip


def _windows_of(feature, num_windows: int, dim: int, num_classes: int) -> dict[str, np.ndarray]:
    def matrix(name: str, num_columns: int) -> np.ndarray:
        data = feature[name].bytes_list.value[0] if num_columns else b""
        return np.frombuffer(data, "<f4").reshape(num_windows, num_columns)

    return {
        "window_start_seconds": np.round(
            _floats(feature["window_start_seconds"], num_windows).astype(np.float64), 3
        ),
        "window_embeddings": matrix("window_embeddings", dim),
        "window_scores": matrix("window_scores", num_classes),
    }


def _floats(feature, num_expected: int) -> np.ndarray:
    values = np.array(feature.float_list.value, np.float32)
    if len(values) != num_expected:
        raise ValueError(f"found {len(values)} numbers, expected {num_expected}")
    return values


def _problem(clip: ClipEmbedding) -> str:
    """What is wrong with the numbers of a record; "" where nothing is."""
    arrays = (
        clip.embedding,
        clip.scores,
        clip.window_start_seconds,
        clip.window_embeddings,
        clip.window_scores,
    )
    if not all(array is None or np.isfinite(array).all() for array in arrays):
        return "holds numbers that are not finite"
    if not (0 <= clip.start_seconds <= clip.end_seconds and math.isfinite(clip.end_seconds)):
        return f"reaches from {clip.start_seconds} to {clip.end_seconds} s"
    if clip.num_windows < 1:
        return f"has {clip.num_windows} windows, expected one or more"
    return ""


def embedding_spec(info: DatasetInfo, where: str) -> EmbeddingSpec:
    """What the records of a set of embeddings hold. Raises: DatasetError for a sidecar that does not say."""
    parameters = info.parameters
    try:
        spec = EmbeddingSpec(
            parameters["embedding_dim"], tuple(parameters["class_names"]), parameters["window_embeddings"]
        )
        if not isinstance(spec.embedding_dim, int) or spec.embedding_dim < 1:
            raise ValueError(f"embedding_dim is {spec.embedding_dim!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{where}: the sidecar lacks or garbles a parameter of embeddings ({error!r}); make the set "
            "again."
        ) from error
    return spec


def iter_embeddings(directory: str, *, folds: tuple[str, ...] = ()) -> Iterator[ClipEmbedding]:
    """Yields the embeddings of a set in the order of its shards, of all folds or of those named.

    Raises:
      DatasetError: see `read_dataset_info` and `read_records`; a fold that the set does not have.
    """
    info = read_dataset_info(directory, kind=EMBEDDINGS)
    spec = embedding_spec(info, directory)
    require_folds(info, folds, directory)
    for path in shard_paths([directory], [info]):
        for _, record in read_records(path):
            clip = decode_embedding(record, spec)
            if not folds or clip.fold in folds:
                yield clip
