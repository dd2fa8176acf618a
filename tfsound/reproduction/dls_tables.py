"""Table 1 and figure 4 of the DLS paper, and what section 4 measures: of which figures, and how they look."""

import dataclasses
import functools
import math
import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from tfsound import datasets, evaluation, media, plots
from tfsound.reproduction.dls_paper import (
    ALL_SETS,
    FIGURE_4,
    HYPERPARAMETERS,
    IMAGENET,
    OTHER_FOLDS,
    TABLE_1,
    TITLE,
    Hyperparameters,
)
from tfsound.reproduction.pretraining import Pretraining
from tfsound.reproduction.report import IN_THE_PAPER
from tfsound.reproduction.scales import DlsScale
from tfsound.reproduction.units import Results, Unit, slug

_DATA, _KNN, _CURVES = "1", "knn", "4"
_PHASE_ONE, _PRETRAINING, _FINE_TUNING = "phase one", "pretraining", "fine-tuning"
_SPECTROGRAM = "raw spectrogram"
_COLUMNS = ("clips", "classes", "longest, s", "folds")
_KNN_ACCURACY = "5-NN accuracy"
# Of the epochs of a pre-training, the shares that its table shows.
_SHOWN_SHARES = (0.25, 0.5, 1.0)


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set of a reproduction.

    Attributes:
      rows: its clips.
      clips: the folder of their examples.
      tuning_fold: the one that hyperparameters are found by, whatever is held out.
      held_out: the folds that everything else is scored on.
    """

    rows: Sequence[datasets.ManifestRow]
    clips: str
    tuning_fold: str
    held_out: tuple[str, ...]


class DlsTables:
    """What the paper shows, on one data set or on several, which are then pre-trained on together, too.

    Args:
      sources: the data sets by name.
      imagenet_weights: a weight file to start from beside the others; "" for none.
    """

    title = TITLE
    numbers = (_DATA, _KNN, _CURVES)

    def __init__(
        self,
        sources: Mapping[str, Source],
        pretraining: Pretraining,
        output: str,
        scale: DlsScale,
        imagenet_weights: str,
    ):
        self._sources = sources
        self._pretraining = pretraining
        self._output = output
        self._scale = scale
        self._imagenet_weights = imagenet_weights
        self._starts = (
            evaluation.FROM_SCRATCH,
            OTHER_FOLDS,
            *((ALL_SETS,) if len(sources) > 1 else ()),
            *((IMAGENET,) if imagenet_weights else ()),
        )

    def units(self) -> Iterator[Unit]:
        """Phase one first, for all that follows depends on it; then fold by fold."""
        for name in self._sources:
            yield Unit(_DATA, "data", name, "", functools.partial(self._describe, name))
        if len(self._sources) > 1:
            for hyperparameters in self._scale.hyperparameters:
                for name, source in self._sources.items():
                    part = functools.partial(self._neighbors, name, source.tuning_fold, hyperparameters)
                    key = _joined(name, str(hyperparameters))
                    yield Unit(_KNN, _PHASE_ONE, key, source.tuning_fold, part)
        for name, source in self._sources.items():
            for fold in source.held_out:
                yield Unit(_KNN, _PRETRAINING, name, fold, functools.partial(self._pretrained, name, fold))
                for start in self._starts:
                    part = functools.partial(self._fine_tuned, name, start, fold)
                    yield Unit(_CURVES, _FINE_TUNING, _joined(name, start), fold, part)

    @functools.cached_property
    def hyperparameters(self) -> Hyperparameters:
        """The paper's; of several data sets those which are best on the average of a fold of each.

        The paper takes the average of what is best on each, where all are almost the same.
        """
        if len(self._sources) == 1:
            return HYPERPARAMETERS
        return max(self._scale.hyperparameters, key=self._mean_of_phase_one)

    def _mean_of_phase_one(self, hyperparameters: Hyperparameters) -> float:
        accuracies = [
            self._neighbors(name, source.tuning_fold, hyperparameters)["accuracies"][-1]
            for name, source in self._sources.items()
        ]
        return float(np.mean(accuracies))

    # Figures.

    def _describe(self, name: str) -> dict:
        rows = self._sources[name].rows
        return {
            "clips": len(rows),
            "classes": len({label for row in rows for label in row.labels}),
            "longest, s": max((_seconds(row) for row in rows), default=0.0),
            "folds": len({row.fold for row in rows if row.fold}),
        }

    def _neighbors(self, name: str, fold: str, hyperparameters: Hyperparameters) -> dict:
        run = self._pretraining.without(name, fold, hyperparameters)
        found = self._pretraining.knn_accuracies(run)
        return found | {"measures": {_KNN_ACCURACY: found["accuracies"][-1]}}

    def _pretrained(self, name: str, fold: str) -> dict:
        raw = self._pretraining.spectrogram_knn_accuracy(name, fold, self.hyperparameters.temperature)
        return self._neighbors(name, fold, self.hyperparameters) | {_SPECTROGRAM: raw}

    def _fine_tuned(self, name: str, start: str, fold: str) -> dict:
        begun = {
            evaluation.FROM_SCRATCH: lambda: "",
            OTHER_FOLDS: lambda: self._pretraining.without(name, fold, self.hyperparameters),
            ALL_SETS: lambda: self._pretraining.of_all(self.hyperparameters),
            IMAGENET: lambda: self._imagenet_weights,
        }
        accuracies = evaluation.accuracy_by_epoch(
            self._sources[name].clips,
            os.path.join(self._output, "classifiers", name, slug(start), f"without_{fold}"),
            fold,
            start=begun[start](),
            encoder=self._scale.encoder,
            options=self._scale.fine_tuning,
        )
        return {"accuracies": accuracies, "measures": {"last accuracy": accuracies[-1]}}

    # Tables and pictures.

    def tables(self, results: Mapping[str, Results]) -> dict[str, evaluation.ScoreTable]:
        """The finished tables by title."""
        tables = {}
        if _DATA in results:
            tables[f"Table {_DATA}: data sets"] = self._data_table(results[_DATA])
        if _KNN in results:
            if _PHASE_ONE in results[_KNN]:
                tables[f"Phase one: {_KNN_ACCURACY} by hyperparameters"] = self._phase_one(results[_KNN])
            tables[f"Pre-training: {_KNN_ACCURACY}"] = self._knn_table(results[_KNN])
        if _CURVES in results:
            for name in self._sources:
                curves = self._curves(results[_CURVES], name)
                tables[f"Figure {_CURVES}, {name}: accuracy after epochs"] = _curves_table(curves, name)
                tables[f"{name}: epochs to what scratch has (-: more than {curves.num_epochs})"] = (
                    _epochs_table(curves)
                )
        return tables

    def pictures(self, results: Mapping[str, Results]) -> dict[str, Figure]:
        """Figure 4, and the accuracy of nearest neighbours over pre-training, of each data set."""
        pictures = {}
        for name in self._sources:
            if _KNN in results:
                pictures[f"neighbors_{name}"] = _plot_neighbors(results[_KNN][_PRETRAINING][name])
            if _CURVES in results:
                pictures[f"figure_{_CURVES}_{name}"] = self._curves(results[_CURVES], name).plot()
        return pictures

    def _data_table(self, results: Results) -> evaluation.ScoreTable:
        rows = {}
        for name, (figures,) in results["data"].items():
            rows[name] = {column: [figures[column]] for column in _COLUMNS}
        for name in filter(TABLE_1.get, results["data"]):
            paper = TABLE_1[name]
            values = (paper.num_clips, paper.num_classes, paper.longest_seconds, paper.num_folds)
            rows[f"{IN_THE_PAPER}: {paper.name}"] = {
                column: [value] for column, value in zip(_COLUMNS, values, strict=True)
            }
        return evaluation.ScoreTable(rows)

    def _phase_one(self, results: Results) -> evaluation.ScoreTable:
        return evaluation.ScoreTable(
            {
                f"{hyperparameters}{' (chosen)' if hyperparameters == self.hyperparameters else ''}": {
                    name: [figures["accuracies"][-1]]
                    for name in self._sources
                    for figures in results[_PHASE_ONE][_joined(name, str(hyperparameters))]
                }
                for hyperparameters in self._scale.hyperparameters
            }
        )

    def _knn_table(self, results: Results) -> evaluation.ScoreTable:
        found = results[_PRETRAINING]
        rows = {_SPECTROGRAM: {name: [fold[_SPECTROGRAM] for fold in found[name]] for name in found}}
        for epoch in sorted({max(1, round(share * self._scale.num_epochs)) for share in _SHOWN_SHARES}):
            rows[f"DLS, after {epoch} epochs"] = {
                name: [_at(fold, epoch) for fold in found[name]] for name in found
            }
        return evaluation.ScoreTable(rows)

    def _curves(self, results: Results, name: str) -> evaluation.FineTuning:
        found = results[_FINE_TUNING]
        held_out = self._sources[name].held_out
        rows = self._sources[name].rows
        return evaluation.FineTuning(
            held_out,
            {
                start: np.array([fold["accuracies"] for fold in found[_joined(name, start)]])
                for start in self._starts
            },
            num_classes=len({label for row in rows for label in row.labels}),
            num_clips=sum(row.fold in held_out for row in rows),
        )


def _joined(name: str, what: str) -> str:
    return f"{name}, {what}"


def _seconds(row: datasets.ManifestRow) -> float:
    """How long a clip is; 0 where it cannot be told, or where examples leave it out because it is damaged."""
    end = row.end_seconds
    if end is None:
        try:
            end = media.audio_info(row.uri).duration_seconds
        except media.MediaError:
            return 0.0
    return (end or 0.0) - (row.start_seconds or 0.0)


def _at(figures: Mapping[str, Sequence[float]], epoch: float) -> float:
    """What was measured last until an epoch; NaN before the first."""
    measured = zip(figures["epochs"], figures["accuracies"], strict=True)
    return next((accuracy for at, accuracy in reversed(list(measured)) if at <= epoch), math.nan)


def _curves_table(curves: evaluation.FineTuning, name: str) -> evaluation.ScoreTable:
    said = FIGURE_4.get(name, {})
    epochs = {epoch for row in said.values() for epoch in row if epoch <= curves.num_epochs}
    epochs = sorted(epochs.union(curves.shown_epochs()))
    rows = {
        start: {str(epoch): values[:, epoch - 1].tolist() for epoch in epochs}
        for start, values in curves.accuracies.items()
    }
    for start, row in said.items():
        values = {str(epoch): [value] for epoch, value in row.items() if epoch in epochs}
        if values:
            rows[f"{IN_THE_PAPER}, about: {start}"] = values
    return evaluation.ScoreTable(rows)


def _epochs_table(curves: evaluation.FineTuning) -> evaluation.ScoreTable:
    reached = curves.epochs_to_scratch()
    return evaluation.ScoreTable(
        {
            start: {
                f"after {epoch}": [math.nan if needed[start] is None else needed[start]]
                for epoch, needed in reached.items()
            }
            for start in curves.accuracies
        }
    )


def _plot_neighbors(folds: Sequence[Mapping]) -> Figure:
    """The accuracy of nearest neighbours over pre-training, beside that of raw spectrograms."""
    epochs = folds[0]["epochs"]
    curves = {
        "DLS pre-training": (epochs, np.array([fold["accuracies"] for fold in folds]).T),
        _SPECTROGRAM: (
            [epochs[0], epochs[-1]],
            [[fold[_SPECTROGRAM] for fold in folds]] * 2,
        ),
    }
    return plots.plot_curves(curves, parameter_name="epochs", score_name=_KNN_ACCURACY)
