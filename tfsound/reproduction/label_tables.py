"""Tables 2 and 3 of the coincidence paper, what clusters and labels are worth; and what random ones cost."""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from tfsound import evaluation, plots
from tfsound.reproduction.coincidence_paper import TABLE_2, TABLE_3
from tfsound.reproduction.labelling import (
    NUM_ACTIVE,
    NUM_CLUSTERS,
    NUM_LABELLED,
    NUM_LABELS,
    PRECISION,
    RECALL,
    STRATEGIES,
    V_MEASURE,
    Labelling,
    Strategy,
)
from tfsound.reproduction.measures import CLASSIFICATION, MEAN_D_PRIME
from tfsound.reproduction.report import IN_THE_PAPER
from tfsound.reproduction.scales import Scale
from tfsound.reproduction.units import Results, Unit

_CLUSTERS, _LABELS = "2", "3"
_TABLE_2 = (NUM_CLUSTERS, NUM_ACTIVE, V_MEASURE, NUM_LABELS, RECALL, PRECISION)
_TABLE_3 = (NUM_LABELS, NUM_LABELLED, CLASSIFICATION, MEAN_D_PRIME)
_SAVINGS = "Labels at random that it takes for the same mAP, for each of a cluster (-: not even all suffice)"


class LabelTables:
    """Tables 2 and 3, and how many labels at random a budget of labels of clusters saves."""

    numbers = (_CLUSTERS, _LABELS)

    def __init__(self, labelling: Labelling, scale: Scale):
        self._labelling = labelling
        self._scale = scale

    def units(self, fold: str) -> Iterator[Unit]:
        for share in self._scale.budgets:
            part = functools.partial(self._labelling.clusters, share, fold)
            yield Unit(_CLUSTERS, "clusters", f"{share:.1%}", fold, part)
        for strategy in STRATEGIES:
            for share in self._shares(strategy):
                part = functools.partial(self._labelling.classification, strategy, share, fold)
                yield Unit(_LABELS, "labels", _row_name(strategy, share), fold, part)

    def _shares(self, strategy: Strategy) -> Sequence[float]:
        if strategy.asks == "all":
            return (1.0,)
        return self._scale.random_budgets if strategy.asks == "random" else self._scale.budgets

    def tables(self, results: Mapping[str, Results]) -> dict[str, evaluation.ScoreTable]:
        """The finished tables by title; the paper's rows, of AudioSet, below ours."""
        tables = {}
        if _CLUSTERS in results:
            rows = {
                name: {measure: [fold[measure] for fold in folds] for measure in _TABLE_2}
                for name, folds in results[_CLUSTERS]["clusters"].items()
            }
            for row in TABLE_2:
                active, v_measure, recall, precision = row.paper
                values = (row.num_clusters, active, v_measure, row.num_labels, recall, precision)
                name = f"{IN_THE_PAPER}: K = {row.num_clusters:,}"
                rows[name] = {measure: [value] for measure, value in zip(_TABLE_2, values, strict=True)}
            tables[f"Table {_CLUSTERS}: clusters"] = evaluation.ScoreTable(rows)
        if _LABELS in results:
            figures = results[_LABELS]["labels"]
            rows = {
                name: {measure: [fold[measure] for fold in folds] for measure in _TABLE_3}
                for name, folds in figures.items()
            }
            for name, num_labels, (precision, d_prime) in TABLE_3:
                rows[f"{IN_THE_PAPER}: {name}, {num_labels:,}"] = {
                    NUM_LABELS: [num_labels], CLASSIFICATION: [precision], MEAN_D_PRIME: [d_prime],
                }  # fmt: skip
            tables[f"Table {_LABELS}: classifiers"] = evaluation.ScoreTable(rows)
            tables[_SAVINGS] = self._savings(figures)
        return tables

    def _savings(self, figures: Mapping[str, Sequence[Mapping[str, float]]]) -> evaluation.ScoreTable:
        """For each budget of clusters: how many times as many random labels it takes, from either start."""
        rows = {}
        for strategy in STRATEGIES:
            if strategy.asks in ("all", "random"):
                continue
            for share in self._scale.budgets:
                name = _row_name(strategy, share)
                num_labels, reached = _mean(figures[name], NUM_LABELS), _mean(figures[name], CLASSIFICATION)
                rows[name] = {
                    random.name: [labels_to_match(*self._curve(random, figures), reached) / num_labels]
                    for random in STRATEGIES
                    if random.asks == "random"
                }
        return evaluation.ScoreTable(rows)

    def _curve(
        self, strategy: Strategy, figures: Mapping[str, Sequence[Mapping[str, float]]]
    ) -> tuple[list[float], list[float]]:
        """Budgets and the mAP that they give, up to all labels there are, means over folds."""
        complete = next(
            other for other in STRATEGIES
            if other.asks == "all" and other.is_from_scratch == strategy.is_from_scratch
        )  # fmt: skip
        names = [_row_name(strategy, share) for share in self._shares(strategy)]
        points = [figures[name] for name in [*names, _row_name(complete, 1.0)]]
        return [_mean(folds, NUM_LABELS) for folds in points], [
            _mean(folds, CLASSIFICATION) for folds in points
        ]

    def pictures(self, results: Mapping[str, Results]) -> dict:
        """mAP against the budget, by strategy."""
        if _LABELS not in results:
            return {}
        figures = results[_LABELS]["labels"]
        curves = {}
        for strategy in STRATEGIES:
            if strategy.asks != "all":
                names = [_row_name(strategy, share) for share in self._shares(strategy)]
                curves[strategy.name] = (
                    [_mean(figures[name], NUM_LABELS) for name in names],
                    [[fold[CLASSIFICATION] for fold in figures[name]] for name in names],
                )
        return {
            "labels": plots.plot_curves(
                curves, parameter_name="labels", score_name=CLASSIFICATION, log_axis=True
            )
        }


def _row_name(strategy: Strategy, share: float) -> str:
    return strategy.name if strategy.asks == "all" else f"{strategy.name}, {share:.1%}"


def _mean(folds: Sequence[Mapping[str, float]], figure: str) -> float:
    return float(np.mean([fold[figure] for fold in folds]))


def labels_to_match(budgets: Sequence[float], scores: Sequence[float], target: float) -> float:
    """The smallest budget at which a curve reaches a score, between its points along the logarithm.

    Args:
      budgets: ascending, above 0.
      scores: of each, in any order.
      target: to be reached.

    Returns:
      The first budget where even that reaches it; nan where none does.
    """
    if scores[0] >= target:
        return float(budgets[0])
    for low, high, below, above in zip(budgets, budgets[1:], scores, scores[1:], strict=False):
        if below < target <= above:
            share = (target - below) / (above - below)
            return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    return math.nan
