"""Sound classification on top of any representation, measured on segments of other recordings.

Source: Jansen et al. 2018, section 4.4.
"""

import dataclasses

import numpy as np

from tfsound import metrics
from tfsound.evaluation.classifiers import (
    DEFAULT_OPTIONS,
    Architecture,
    TrainedClassifier,
    TrainingOptions,
    fit_classifier,
    segment_scores,
)
from tfsound.evaluation.labelled_windows import LabelledWindows
from tfsound.evaluation.segments import EvaluationError


@dataclasses.dataclass(frozen=True, eq=False)
class Classification:
    """The scores of a trained classifier on test segments.

    Attributes:
      result: average precision class by class, and its mean.
      classifier: what was trained, and how long.
      untrained_classes: classes that test segments have and no training segment. They are scored as others.
    """

    result: metrics.MeanAveragePrecisionResult
    classifier: TrainedClassifier
    untrained_classes: tuple[str, ...]

    @property
    def mean(self) -> float:
        """The mAP."""
        return self.result.mean

    def __str__(self) -> str:
        trained = self.classifier
        text = (
            f"{self.result}; {trained.num_epochs} epochs on {trained.num_train_segments} segments, "
            f"{trained.num_validation_segments} held out to stop by"
        )
        if self.untrained_classes:
            text += f"; no training segment of {', '.join(self.untrained_classes)}"
        return text


def classify(
    train: LabelledWindows,
    test: LabelledWindows,
    architecture: Architecture,
    *,
    options: TrainingOptions = DEFAULT_OPTIONS,
    seed: int = 0,
) -> Classification:
    """Trains a classifier and measures it on segments of other recordings.

    Args:
      train: windows to learn from; the recordings to stop by are taken out of these.
      test: windows to be scored, of the same classes.
      architecture: `fully_connected(1)` and `fully_connected(2)` are the paper's shallow classifiers.
      options: how to train.
      seed: of the held-out recordings, the initial weights and the order of batches. Sets the seeds of Keras,
        NumPy and Python; on one machine's CPU the same seed gives the same scores.

    Raises:
      EvaluationError: classes or features differ between the two, a recording is in both, no class can be
      told apart in one of them, or training fails as `fit_classifier` says.

    Source: Jansen et al. 2018, section 4.4.
    """
    require_comparable(train, test)
    classifier = fit_classifier(train, architecture, options=options, seed=seed)
    scores = segment_scores(classifier.model, test)
    untrained = test.labels.any(axis=0) & ~train.labels.any(axis=0)
    return Classification(
        metrics.mean_average_precision(test.labels, scores, test.class_names),
        classifier,
        tuple(test.class_names[index] for index in np.flatnonzero(untrained)),
    )


def require_comparable(train: LabelledWindows, test: LabelledWindows) -> None:
    """Raises: EvaluationError when a score on `test` would say nothing about learning from `train`."""
    if tuple(train.class_names) != tuple(test.class_names):
        raise EvaluationError(
            f"train and test must have the same classes in one order, got {len(train.class_names)} and "
            f"{len(test.class_names)}; pass the same class_names to embed_windows."
        )
    shapes = train.features.shape[1:], test.features.shape[1:]
    if shapes[0] != shapes[1]:
        raise EvaluationError(
            f"train and test features must have one shape, got {shapes[0]} and {shapes[1]}."
        )
    shared = sorted(set(train.recording_ids) & set(test.recording_ids))
    if shared:
        raise EvaluationError(
            f"recording {shared[0]!r} is in both train and test, {len(shared)} in all; split by recording."
        )
    for name, windows in (("train", train), ("test", test)):
        if not (windows.labels.any(axis=0) & ~windows.labels.all(axis=0)).any():
            raise EvaluationError(
                f"all {windows.num_segments} {name} segments have the same labels, so that there is nothing "
                "to tell apart; add segments of another class."
            )
