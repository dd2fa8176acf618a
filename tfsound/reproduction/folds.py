"""Folds to learn from and to score on, where a class prior thins the one and not the other."""

import dataclasses
from collections.abc import Sequence

from tfsound import datasets, examples
from tfsound.reproduction.scales import Scale

_EVALUATION_SPLIT = "eval"
_TEST_ONLY = " (test only)"


def thin_training_folds(
    rows: Sequence[datasets.ManifestRow], class_prior: str, *, seed: int
) -> list[datasets.ManifestRow]:
    """Rows whose folds say what is learnt from under a class prior: `natural`, or `longtail`, Zipf's.

    What the prior leaves out moves to a fold of its own, which is scored with the fold that it was in.

    Raises:
      ManifestError: no labelled clip to thin.
    """
    if class_prior == datasets.NATURAL:
        return list(rows)
    test_folds = [_EVALUATION_SPLIT] if any(row.fold == _EVALUATION_SPLIT for row in rows) else []
    kept = {row.clip_id for row in datasets.longtail(rows, test_folds=test_folds, seed=seed).rows}
    return [
        row if row.clip_id in kept else dataclasses.replace(row, fold=row.fold + _TEST_ONLY) for row in rows
    ]


class Folds:
    """The folds of a set of clips.

    Args:
      clips: a set of clip examples with folds.
    """

    def __init__(self, clips: str):
        self._all = examples.read_dataset_info(clips, kind=examples.CLIPS).folds
        self.names = tuple(fold for fold in self._all if not fold.endswith(_TEST_ONLY))

    def held_out(self, folds: tuple[str, ...], scale: Scale) -> tuple[str, ...]:
        """The folds to hold out. Raises: ValueError for one that does not exist, or none to learn from."""
        if not set(folds) <= set(self.names) or len(self.names) < 2:
            raise ValueError(
                f"folds must be some of those of the data set, and it must have two or more; got "
                f"{list(folds)}, it has {list(self.names)}."
            )
        if _EVALUATION_SPLIT in self.names:
            return folds or (_EVALUATION_SPLIT,)
        return folds or self.names[: scale.max_folds]

    def of_test(self, fold: str) -> tuple[str, ...]:
        """What a held-out fold is scored on."""
        return tuple(name for name in self._all if name in (fold, fold + _TEST_ONLY))

    def of_training(self, fold: str) -> tuple[str, ...]:
        """What is learnt from where a fold is held out."""
        return tuple(name for name in self.names if name != fold)

    def not_of_training(self, fold: str) -> tuple[str, ...]:
        """All others."""
        return tuple(name for name in self._all if name not in self.of_training(fold))
