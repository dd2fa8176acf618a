"""The papers' protocols, run on an embedding function over a set of clip examples.

A segment is one clip example; its embedding is the mean over its context windows. The baseline embeds
each log-mel window as one long vector (6,144 for 96 x 64).

Source: Jansen et al. 2018, section 4.3.
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tfsound import examples, mel, metrics, plots, training

BASELINE = "log mel (baseline)"
LEARNED = "learned embedding"
_WINDOWS_PER_BATCH = 256

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
    versions = [name for name in tf.io.gfile.listdir(model) if name.isdigit()] if os.path.isdir(model) else []
    if versions:
        model = os.path.join(model, max(versions, key=int))
    if os.path.exists(os.path.join(model, "saved_model.pb")):
        return _load_saved_model(model)
    encoder, mel_params = training.load_encoder(model)
    return lambda log_mel: encoder(log_mel, training=False).numpy(), mel_params


def _load_saved_model(model: str) -> tuple[Embed, mel.MelParams]:
    mel_params_path = os.path.join(model, "assets", "mel_params.json")
    if not os.path.exists(mel_params_path):
        raise EvaluationError(f"{model} was not exported by tfsound: it holds no assets/mel_params.json.")
    with open(mel_params_path) as file:
        mel_params = mel.MelParams.from_dict(json.load(file))
    loaded = tf.saved_model.load(model)
    # Through `loaded`, because a signature alone does not keep its variables alive.
    return lambda log_mel: loaded.signatures["log_mel"](log_mel=log_mel)["embedding"].numpy(), mel_params


def clip_windows(clip: examples.Clip, mel_params: mel.MelParams) -> np.ndarray:
    """The log-mel context windows of a clip, without overlap: float32, (windows, frames, mel_bins).

    Raises:
      EvaluationError: a clip shorter than a window.
    """
    num_windows = mel_params.num_windows(len(clip.mel_energy))
    if not num_windows:
        raise EvaluationError(f"clip {clip.clip_id!r} is shorter than a context window; leave it out.")
    energies = clip.mel_energy[: num_windows * mel_params.context_frames].astype(np.float32)
    log_mel = np.log(energies + np.float32(mel_params.log_offset))
    return log_mel.reshape(num_windows, mel_params.context_frames, mel_params.mel_bins)


@dataclasses.dataclass(frozen=True)
class Segments:
    """Embeddings, (segments, dim), float32, and what each segment is."""

    embeddings: np.ndarray
    clip_ids: tuple[str, ...]
    recording_ids: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]


def _batches(clips: Iterable[examples.Clip], mel_params: mel.MelParams) -> Iterator[list[examples.Clip]]:
    """The clips in lists that hold about `_WINDOWS_PER_BATCH` windows each, so that memory is bounded."""
    held, num_windows = [], 0
    for clip in clips:
        held.append(clip)
        num_windows += mel_params.num_windows(len(clip.mel_energy))
        if num_windows >= _WINDOWS_PER_BATCH:
            yield held
            held, num_windows = [], 0
    if held:
        yield held


def embed_segments(clips: Iterable[examples.Clip], embed: Embed, mel_params: mel.MelParams) -> Segments:
    """Embeds the windows of each clip and averages them over the clip; clips may be a stream.

    Raises:
      EvaluationError: no clip at all, or one shorter than a context window.
    """
    means, descriptions = [], []
    clips = tqdm(clips, desc="embed", unit=" clips", leave=False, mininterval=training.progress_seconds())
    for batch in _batches(clips, mel_params):
        windows = [clip_windows(clip, mel_params) for clip in batch]
        ends = np.cumsum([len(clip) for clip in windows])
        vectors_of_clips = np.split(embed(np.concatenate(windows)), ends[:-1])
        for clip, vectors in zip(batch, vectors_of_clips, strict=True):
            means.append(vectors.mean(axis=0, dtype=np.float64).astype(np.float32))
            descriptions.append((clip.clip_id, clip.recording_id, clip.labels))
    if not means:
        raise EvaluationError("there is no clip to embed; halves of recordings need clips of two windows.")
    return Segments(np.stack(means), *zip(*descriptions, strict=True))


def label_matrix(labels: Iterable[tuple[str, ...]]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Which segment has which class: bool (segments, classes), and the class names, sorted."""
    labels = list(labels)
    names = tuple(sorted({name for row in labels for name in row}))
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


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Query-by-example scores of the baseline and of a model, fold by fold.

    `folds` names the folds scored ("" where the clips have none); `scores` is by representation, (folds,)
    each; `recovery`, (folds,), where a topline is known.
    """

    by: str
    folds: tuple[str, ...]
    scores: dict[str, tuple[float, ...]]
    chance: float
    protocol: str
    num_segments: int
    topline: float | None = None

    @property
    def recovery(self) -> tuple[float, ...] | None:
        if self.topline is None:
            return None
        pairs = zip(self.scores[LEARNED], self.scores[BASELINE], strict=True)
        return tuple(metrics.recovery(score, baseline=base, topline=self.topline) for score, base in pairs)

    def to_dict(self) -> dict:
        spreads = {
            name: dataclasses.asdict(metrics.mean_and_spread(values)) for name, values in self.scores.items()
        }
        return dataclasses.asdict(self) | {"recovery": self.recovery, "spread": spreads}

    def __str__(self) -> str:
        width = max(len(name) for name in self.scores)
        lines = [
            f"Query by example, mAP by {self.by}, {self.num_segments} segments, {self.protocol}",
            f"{'chance':<{width}}  {self.chance:.3f}",
        ]
        for name, values in self.scores.items():
            lines.append(f"{name:<{width}}  {metrics.mean_and_spread(values)}")
        gains = np.subtract(self.scores[LEARNED], self.scores[BASELINE])
        lines.append(f"{'gain':<{width}}  {metrics.mean_and_spread(gains)}")
        if self.recovery is not None:
            lines.append(f"{'recovery':<{width}}  {metrics.mean_and_spread(self.recovery)}")
        return "\n".join(lines)


def merge(evaluations: list[Evaluation]) -> Evaluation:
    """Evaluations of several folds, one model each, as one."""
    first = evaluations[0]
    return dataclasses.replace(
        first,
        folds=tuple(fold for evaluation in evaluations for fold in evaluation.folds),
        scores={
            name: tuple(score for evaluation in evaluations for score in evaluation.scores[name])
            for name in first.scores
        },
        chance=float(np.mean([evaluation.chance for evaluation in evaluations])),
        protocol="; ".join(dict.fromkeys(evaluation.protocol for evaluation in evaluations)),
        num_segments=sum(evaluation.num_segments for evaluation in evaluations),
    )


def query_by_example(
    segments: Segments, *, num_present: int = 100, num_absent: int = 100, seed: int = 0
) -> metrics.QueryByExampleResult:
    """The retrieval protocol of section 4.3 on labelled segments: see `metrics.query_by_example_map`."""
    matrix, names = label_matrix(segments.labels)
    return metrics.query_by_example_map(
        segments.embeddings, matrix, num_present=num_present, num_absent=num_absent,
        rng=np.random.default_rng(seed), class_names=names,
    )  # fmt: skip


def evaluate(
    clips: str,
    model: str,
    output: str = "",
    *,
    by: str = "labels",
    folds: tuple[str, ...] = (),
    num_present: int = 100,
    num_absent: int = 100,
    topline: float | None = None,
    seed: int = 0,
) -> Evaluation:
    """Scores a learned embedding against the log-mel baseline, by query-by-example retrieval.

    Args:
      clips: the folder of clip examples.
      model: the folder of a finished training run, or of an exported SavedModel.
      output: where to write evaluation.json, evaluation.txt and evaluation.png; nothing is written without.
      by: `labels`, or `recordings` for clips without labels: is the other half of a recording nearer than
        other recordings are?
      folds: the folds to score, each by itself; all clips together without.
      num_present: segments of a class to draw; all where there are fewer.
      num_absent: segments without it to draw; all where there are fewer.
      topline: the mAP of a supervised embedding, for recovery = (score - baseline) / (topline - baseline).
      seed: of the draws.

    Returns:
      The scores.

    Raises:
      DatasetError: the clips are missing or damaged, or have no such fold; TrainingError: no such model;
      ValueError: the front ends differ; EvaluationError: nothing can be scored.
    """
    if by not in ("labels", "recordings"):
        raise ValueError(f"by must be 'labels' or 'recordings', got {by!r}.")
    embed, mel_params = load_embed(model)
    info = examples.read_dataset_info(clips, kind=examples.CLIPS)
    mel_params.require_equal(info.mel_params, clips)
    evaluation = merge(
        [
            _evaluate_fold(
                clips, fold, embed, mel_params,
                by=by, topline=topline, num_present=num_present, num_absent=num_absent, seed=seed,
            )
            for fold in folds or ("",)
        ]
    )  # fmt: skip
    if output:
        write_evaluation(evaluation, output)
    return evaluation


def _evaluate_fold(
    clips: str, fold: str, embed: Embed, mel_params: mel.MelParams, *, by: str, topline: float | None, **draws
) -> Evaluation:
    """Scores one fold, or all clips for ""."""
    results = {}
    for name, function in ((BASELINE, embed_baseline), (LEARNED, embed)):
        chosen = examples.iter_clips(clips, folds=(fold,) if fold else ())
        if by == "recordings":
            chosen = halve(chosen, mel_params)
        segments = embed_segments(chosen, function, mel_params)
        results[name] = query_by_example(segments, **draws)
    num_segments, learned = len(segments.embeddings), results[LEARNED]
    if not learned.num_classes_scored:
        raise EvaluationError(
            f"{clips}{f', fold {fold}' if fold else ''}: no class of {num_segments} segments has two of them "
            "and another without, so nothing can be scored; evaluate by recordings, or label the clips."
        )
    return Evaluation(
        by=by, folds=(fold,), scores={name: (result.mean,) for name, result in results.items()},
        chance=learned.chance, protocol=learned.protocol, num_segments=num_segments, topline=topline,
    )  # fmt: skip


def write_evaluation(evaluation: Evaluation, output: str) -> None:
    """Writes the scores as JSON, as a table and as a plot."""
    os.makedirs(output, exist_ok=True)
    fields = evaluation.to_dict()
    _replace(os.path.join(output, "evaluation.json"), json.dumps(_without_nan(fields), indent=1) + "\n")
    _replace(os.path.join(output, "evaluation.txt"), str(evaluation) + "\n")
    rows = [plots.ScoreRow(name, values, evaluation.chance) for name, values in evaluation.scores.items()]
    plots.save_figure(
        plots.plot_scores(rows, score_name="query-by-example mAP"), os.path.join(output, "evaluation.png")
    )


def _without_nan(value):
    """NaN as null: JSON has none."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _replace(path: str, text: str) -> None:
    with open(path + ".tmp", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(path + ".tmp", path)
