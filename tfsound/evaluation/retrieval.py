"""Query by example: are two segments of a class nearer than one of the class and one that is not?

Source: Jansen et al. 2018, section 4.3.
"""

import dataclasses
import math
import os

import numpy as np

from tfsound import examples, mel, metrics, plots, resumption
from tfsound.evaluation.segments import (
    Embed,
    EvaluationError,
    Segments,
    embed_baseline,
    embed_segments,
    halve,
    label_matrix,
    load_embed,
)

BASELINE = "log mel (baseline)"
LEARNED = "learned embedding"


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
    segments: Segments,
    *,
    num_present: int = 100,
    num_absent: int = 100,
    seed: int = 0,
    across_recordings: bool = True,
) -> metrics.QueryByExampleResult:
    """The retrieval protocol of section 4.3 on labelled segments: see `metrics.query_by_example_map`.

    `across_recordings` leaves out the pairs of one recording.
    """
    matrix, names = label_matrix(segments.labels)
    return metrics.query_by_example_map(
        segments.embeddings, matrix, num_present=num_present, num_absent=num_absent,
        rng=np.random.default_rng(seed), class_names=names,
        recordings=segments.recording_ids if across_recordings else None,
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

    Pairs of segments that are cut from one recording are left out.

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
        # By recordings, what is to be found is the other half of the same one.
        results[name] = query_by_example(segments, across_recordings=by == "labels", **draws)
    num_segments, learned = len(segments.embeddings), results[LEARNED]
    if not learned.num_classes_scored:
        raise EvaluationError(
            f"{clips}{f', fold {fold}' if fold else ''}: no class of {num_segments} segments has two of "
            "them, of two recordings, and another without, so nothing can be scored; evaluate by recordings, "
            "or label the clips."
        )
    return Evaluation(
        by=by, folds=(fold,), scores={name: (result.mean,) for name, result in results.items()},
        chance=learned.chance, protocol=learned.protocol, num_segments=num_segments, topline=topline,
    )  # fmt: skip


def write_evaluation(evaluation: Evaluation, output: str) -> None:
    """Writes the scores as JSON, as a table and as a plot."""
    os.makedirs(output, exist_ok=True)
    fields = evaluation.to_dict()
    resumption.write_json(os.path.join(output, "evaluation.json"), _without_nan(fields))
    resumption.write_text(os.path.join(output, "evaluation.txt"), str(evaluation) + "\n")
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
