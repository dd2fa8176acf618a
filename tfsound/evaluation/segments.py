"""What the protocols run on: clip examples as embeddings of segments, or as features of windows.

A segment is one clip example; its embedding is the mean over its context windows. The baseline embeds
each log-mel window as one long vector (6,144 for 96 x 64).

Source: Jansen et al. 2018, sections 4.3 and 4.4.
"""

import csv
import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tfsound import examples, mel, training

WINDOWS_PER_BATCH = 256

# log-mel windows, float32 (windows, frames, mel_bins) -> embeddings, float32 (windows, dim)
Embed = Callable[[np.ndarray], np.ndarray]


class EvaluationError(ValueError):
    """Clips that cannot answer what was asked of them; the message says why and what to do."""


def embed_baseline(log_mel: np.ndarray) -> np.ndarray:
    """Each window as one vector: (windows, frames, mel_bins) -> (windows, frames * mel_bins)."""
    return log_mel.reshape(len(log_mel), -1)


def load_embed(model: str) -> tuple[Embed, mel.MelParams]:
    """The embedding function of a finished run, or of an exported SavedModel.

    Raises:
      TrainingError: the folder is neither; EvaluationError: a SavedModel that tfsound did not export.
    """
    path = saved_model_path(model)
    if path:
        outputs, mel_params, _ = load_saved_model(path)
        return lambda log_mel: outputs(log_mel)["embedding"].numpy(), mel_params
    encoder, mel_params = training.load_encoder(model)
    return lambda log_mel: encoder(log_mel, training=False).numpy(), mel_params


def saved_model_path(model: str) -> str:
    """The folder of an exported SavedModel, of several versions the last; "" where there is none."""
    versions = [name for name in tf.io.gfile.listdir(model) if name.isdigit()] if os.path.isdir(model) else []
    if versions:
        model = os.path.join(model, max(versions, key=int))
    return model if os.path.exists(os.path.join(model, "saved_model.pb")) else ""


def load_saved_model(
    path: str,
) -> tuple[Callable[[np.ndarray], dict[str, tf.Tensor]], mel.MelParams, tuple[str, ...]]:
    """The outputs of an exported SavedModel for log-mel windows, its front end and its classes, if any.

    Raises:
      EvaluationError: a SavedModel that tfsound did not export.
    """
    mel_params_path = os.path.join(path, "assets", "mel_params.json")
    if not os.path.exists(mel_params_path):
        raise EvaluationError(f"{path} was not exported by tfsound: it holds no assets/mel_params.json.")
    with open(mel_params_path) as file:
        mel_params = mel.MelParams.from_dict(json.load(file))
    class_names: tuple[str, ...] = ()
    labels_path = os.path.join(path, "assets", "labels.csv")
    if os.path.exists(labels_path):
        with open(labels_path, newline="", encoding="utf-8") as file:
            class_names = tuple(row["name"] for row in csv.DictReader(file))
    loaded = tf.saved_model.load(path)
    # Through `loaded`, because a signature alone does not keep its variables alive.
    return lambda log_mel: loaded.signatures["log_mel"](log_mel=log_mel), mel_params, class_names


@dataclasses.dataclass(frozen=True)
class Segments:
    """Embeddings, (segments, dim), float32, and what each segment is."""

    embeddings: np.ndarray
    clip_ids: tuple[str, ...]
    recording_ids: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]


def embedded_clips(
    clips: Iterable[examples.Clip], embed: Embed, mel_params: mel.MelParams
) -> Iterator[tuple[examples.Clip, np.ndarray]]:
    """Yields each clip with the embeddings of its windows, (windows, dim); clips may be a stream.

    Raises:
      DatasetError: a clip shorter than a context window.
    """
    clips = tqdm(clips, desc="embed", unit=" clips", leave=False, mininterval=training.progress_seconds())
    yield from examples.map_windows(clips, embed, mel_params, windows_per_call=WINDOWS_PER_BATCH)


def embed_segments(clips: Iterable[examples.Clip], embed: Embed, mel_params: mel.MelParams) -> Segments:
    """Embeds the windows of each clip and averages them over the clip; clips may be a stream.

    Raises:
      EvaluationError: no clip at all; DatasetError: one shorter than a context window.
    """
    means, descriptions = [], []
    for clip, vectors in embedded_clips(clips, embed, mel_params):
        means.append(vectors.mean(axis=0, dtype=np.float64).astype(np.float32))
        descriptions.append((clip.clip_id, clip.recording_id, clip.labels))
    if not means:
        raise EvaluationError("there is no clip to embed; halves of recordings need clips of two windows.")
    return Segments(np.stack(means), *zip(*descriptions, strict=True))


def label_matrix(
    labels: Iterable[tuple[str, ...]], class_names: Sequence[str] | None = None, *, where: str = "the clips"
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Which segment has which class: bool (segments, classes), and the class names.

    Args:
      labels: of each segment.
      class_names: (classes,), the columns, such as those of a classifier; without, the classes that occur,
        sorted.
      where: what a message calls the segments.

    Raises:
      EvaluationError: a label is not among the class names.
    """
    labels = list(labels)
    occurring = {name for row in labels for name in row}
    names = tuple(sorted(occurring) if class_names is None else class_names)
    unknown = sorted(occurring.difference(names))
    if unknown:
        raise EvaluationError(
            f"{where}: label {unknown[0]!r} is not among the {len(names)} class names; score clips with "
            "these only, or add it to the classes, and train a classifier that knows it."
        )
    columns = {name: column for column, name in enumerate(names)}
    matrix = np.zeros((len(labels), len(names)), bool)
    for row, present in enumerate(labels):
        matrix[row, [columns[name] for name in present]] = True
    return matrix, names


def halve(clips: Iterable[examples.Clip], mel_params: mel.MelParams) -> Iterator[examples.Clip]:
    """Yields each clip of at least two windows as two clips, labelled by their recording.

    For sound without labels: is the other half of a recording nearer than other recordings are?
    """
    for clip in clips:
        num_windows = mel_params.num_windows(len(clip.mel_energy))
        cut = num_windows // 2 * mel_params.context_frames
        if cut:
            for part in (clip.mel_energy[:cut], clip.mel_energy[cut:]):
                yield dataclasses.replace(clip, mel_energy=part, labels=(clip.recording_id,))
