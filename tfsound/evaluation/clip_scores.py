"""A trained classifier on clips: the score of a clip is the mean of the scores of its windows.

Source: Jansen et al. 2020, section 4.2.
"""

import dataclasses
import itertools
import math
import os

import numpy as np

from tfsound import examples, mel, metrics, resumption, training
from tfsound.evaluation.segments import (
    Embed,
    EvaluationError,
    embed_segments,
    label_matrix,
    load_saved_model,
    saved_model_path,
)

_CLASS_ROW = "{:<{width}}  {:>9}  {:>17}  {:>6}"


@dataclasses.dataclass(frozen=True, eq=False)
class ClipScores:
    """The scores of some clips, such as those of a fold.

    Attributes:
      fold: its name, or several; "" for all clips together.
      clip_ids: (clips,).
      labels: bool, (clips, classes).
      scores: float32, (clips, classes), in [0, 1].
      average_precision, d_prime: of these, class by class and in the mean.
    """

    fold: str
    clip_ids: tuple[str, ...]
    labels: np.ndarray
    scores: np.ndarray
    average_precision: metrics.MeanAveragePrecisionResult
    d_prime: metrics.DPrimeResult


@dataclasses.dataclass(frozen=True, eq=False)
class ClassifierEvaluation:
    """mAP and mean d' of a classifier, fold by fold."""

    folds: tuple[ClipScores, ...]
    class_names: tuple[str, ...]

    @property
    def mean_average_precisions(self) -> tuple[float, ...]:
        """The mAP of each fold."""
        return tuple(fold.average_precision.mean for fold in self.folds)

    @property
    def mean_d_primes(self) -> tuple[float, ...]:
        """The mean d' of each fold."""
        return tuple(fold.d_prime.mean for fold in self.folds)

    def to_dict(self) -> dict:
        """All figures in plain types that JSON has; None for what is not defined or not finite."""
        folds = []
        for fold in self.folds:
            precision, separation = fold.average_precision, fold.d_prime
            columns = (precision.num_positives, precision.per_class, separation.auc, separation.per_class)
            names = ("num_positives", "average_precision", "auc", "d_prime")
            folds.append(
                {
                    "fold": fold.fold,
                    "num_clips": len(fold.clip_ids),
                    "mAP": _number(precision.mean),
                    "chance_mAP": _number(precision.chance),
                    "mean_d_prime": _number(separation.mean),
                    "d_prime_of_mean_auc": _number(separation.of_mean_auc),
                    "classes": {
                        name: dict(zip(names, map(_number, values), strict=True))
                        for name, *values in zip(self.class_names, *columns, strict=True)
                    },
                }
            )
        spreads = {
            name: {
                key: _number(value)
                for key, value in dataclasses.asdict(metrics.mean_and_spread(values)).items()
            }
            for name, values in (("mAP", self.mean_average_precisions), ("mean_d_prime", self.mean_d_primes))
        }
        return {"class_names": list(self.class_names), "spread": spreads, "folds": folds}

    def __str__(self) -> str:
        num_clips = sum(len(fold.clip_ids) for fold in self.folds)
        chance = float(np.mean([fold.average_precision.chance for fold in self.folds]))
        return "\n".join(
            [
                f"Classification of {num_clips} clips, {len(self.class_names)} classes",
                f"mAP      {metrics.mean_and_spread(self.mean_average_precisions)} (chance {chance:.3f})",
                f"mean d'  {metrics.mean_and_spread(self.mean_d_primes)}",
            ]
        )

    def table(self) -> str:
        """Class by class, the lowest average precision first; means over the folds that have the class.

        With the AUC, from which d' follows: a mean of d' would be infinite where one fold is perfect.
        """
        width = max(5, *(len(name) for name in self.class_names))
        lines = [_CLASS_ROW.format("class", "positives", "average precision", "AUC", width=width)]
        positives = sum(fold.average_precision.num_positives for fold in self.folds)
        precisions = _mean_of_defined([fold.average_precision.per_class for fold in self.folds])
        aucs = _mean_of_defined([fold.d_prime.auc for fold in self.folds])
        for index in np.argsort(precisions, kind="stable"):
            cells = (f"{precisions[index]:.3f}", f"{aucs[index]:.3f}")
            lines.append(
                _CLASS_ROW.format(self.class_names[index], positives[index], *cells, width=width).rstrip()
            )
        return "\n".join(lines)


def _mean_of_defined(folds: list[np.ndarray]) -> np.ndarray:
    """The mean over folds, leaving out NaN: float64, (classes,); NaN where nothing is left."""
    values = np.stack(folds)
    defined = ~np.isnan(values)
    sums = np.where(defined, values, 0).sum(axis=0)
    return np.divide(sums, defined.sum(axis=0), out=np.full(len(sums), np.nan), where=defined.any(axis=0))


def _number(value: float | np.generic) -> float | int | None:
    """A number as JSON has it, which is neither NaN nor infinite."""
    if isinstance(value, int | np.integer):
        return int(value)
    return float(value) if math.isfinite(value) else None


def load_score(model: str) -> tuple[Embed, mel.MelParams, tuple[str, ...]]:
    """Windows to scores (windows, classes) by a finished run on labels, or by its SavedModel; its classes.

    Raises:
      TrainingError: the folder is neither; EvaluationError: a SavedModel without scores.
    """
    path = saved_model_path(model)
    if not path:
        classifier, mel_params, class_names = training.load_classifier(model)
        return lambda log_mel: classifier(log_mel, training=False).numpy(), mel_params, class_names
    outputs, mel_params, class_names = load_saved_model(path)
    if not class_names:
        raise EvaluationError(f"{path} gives embeddings and no scores; export a run on labels.")
    return lambda log_mel: outputs(log_mel)["scores"].numpy(), mel_params, class_names


def score_clips(
    clips: str,
    score: Embed,
    mel_params: mel.MelParams,
    class_names: tuple[str, ...],
    *,
    folds: tuple[str, ...] = (),
) -> ClipScores:
    """Scores the labelled clips of some folds together, or all. Of clips without a label nothing is known.

    Args:
      clips: the folder of clip examples.
      score: log-mel windows -> scores, (windows, classes), see `load_score`.
      class_names: (classes,), which the clips' labels must be among.

    Raises:
      DatasetError: the clips are missing or damaged, or have no such fold; EvaluationError: a clip is shorter
      than a window, or has a class of other names; no clip is labelled, or all alike.
    """
    fold = " + ".join(folds)
    where = f"{clips}{f', fold {fold}' if fold else ''}"
    chosen = examples.iter_clips(clips, folds=folds)
    labelled = (clip for clip in chosen if clip.labels)
    first = next(labelled, None)
    if first is None:
        raise EvaluationError(f"{where} holds no labelled clip; label some, or name another fold.")
    segments = embed_segments(itertools.chain([first], labelled), score, mel_params)
    labels, _ = label_matrix(segments.labels, class_names, where=where)
    if not np.isfinite(segments.embeddings).all():
        raise EvaluationError(f"{where}: scores are no numbers; train the classifier anew.")
    if not (labels.any(axis=0) & ~labels.all(axis=0)).any():
        raise EvaluationError(
            f"{where}: all {len(labels)} clips have the same labels, so that nothing can be scored; add "
            "clips of another class, or name another fold."
        )
    return ClipScores(
        fold, segments.clip_ids, labels, segments.embeddings,
        metrics.mean_average_precision(labels, segments.embeddings, class_names),
        metrics.d_prime(labels, segments.embeddings, class_names),
    )  # fmt: skip


def evaluate_classifier(
    clips: str, classifier: str, output: str = "", *, folds: tuple[str, ...] = ()
) -> ClassifierEvaluation:
    """Scores a classifier on labelled clips: mean average precision and mean d'.

    The score of a clip is the mean over its windows. Clips without a label are left out.

    Args:
      clips: the folder of clip examples, with labels.
      classifier: the folder of a finished run on labels, or of its exported SavedModel.
      output: where to write classification.json and classification.txt, with all classes; nothing is
        written without.
      folds: the folds to score, each by itself; all clips together without.

    Returns:
      The scores.

    Raises:
      DatasetError: the clips are missing or damaged, or have no such fold; TrainingError: no such run;
      ValueError: the front ends differ; EvaluationError: no classifier, classes that it does not know,
      nothing can be scored.

    Source: Jansen et al. 2020, section 4.2.
    """
    score, mel_params, class_names = load_score(classifier)
    info = examples.read_dataset_info(clips, kind=examples.CLIPS)
    mel_params.require_equal(info.mel_params, clips)
    evaluation = ClassifierEvaluation(
        tuple(
            score_clips(clips, score, mel_params, class_names, folds=(fold,) if fold else ())
            for fold in folds or ("",)
        ),
        class_names,
    )
    if output:
        resumption.write_json(os.path.join(output, "classification.json"), evaluation.to_dict())
        text = f"{evaluation}\n\n{evaluation.table()}\n"
        resumption.write_text(os.path.join(output, "classification.txt"), text)
    return evaluation
