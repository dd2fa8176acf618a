"""Folds to learn from and to score on, where a class prior thins the one and not the other."""

import dataclasses
from collections.abc import Iterable, Sequence

from tfsound import datasets, examples

_EVALUATION_SPLITS = ("test", "eval")
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
    test_folds = sorted({row.fold for row in rows}.intersection(_EVALUATION_SPLITS))
    kept = {row.clip_id for row in datasets.longtail(rows, test_folds=test_folds, seed=seed).rows}
    return [
        row if row.clip_id in kept else dataclasses.replace(row, fold=row.fold + _TEST_ONLY) for row in rows
    ]


def held_out_folds(names: Iterable[str], folds: tuple[str, ...], max_folds: int) -> tuple[str, ...]:
    """The folds to hold out: those asked for, or the evaluation split, or as many as a scale has at most.

    Args:
      names: the folds of the data set.
      folds: asked for.
      max_folds: of the scale.

    Raises:
      ValueError: one that does not exist, or none to learn from.
    """
    names = sorted(name for name in set(names) if not name.endswith(_TEST_ONLY))
    if len(names) < 2:
        raise ValueError(
            "a reproduction holds folds out, and the data set has none: give its manifest a column `fold`, "
            f"or `split`, with two values or more; got {names}."
        )
    unknown = sorted(set(folds).difference(names))
    if unknown:
        raise ValueError(f"folds must be among {', '.join(names)}, got {', '.join(unknown)}.")
    evaluation_splits = tuple(name for name in _EVALUATION_SPLITS if name in names)
    return folds or evaluation_splits or tuple(names[:max_folds])


class Folds:
    """The folds of a set of clips.

    Args:
      clips: a set of clip examples with folds.
    """

    def __init__(self, clips: str):
        self._all = examples.read_dataset_info(clips, kind=examples.CLIPS).folds
        self.names = tuple(fold for fold in self._all if not fold.endswith(_TEST_ONLY))

    def of_test(self, fold: str) -> tuple[str, ...]:
        """What a held-out fold is scored on."""
        return tuple(name for name in self._all if name in (fold, fold + _TEST_ONLY))

    def of_training(self, fold: str) -> tuple[str, ...]:
        """What is learnt from where a fold is held out."""
        return tuple(name for name in self.names if name != fold)

    def not_of_training(self, fold: str) -> tuple[str, ...]:
        """All others."""
        return tuple(name for name in self._all if name not in self.of_training(fold))
