"""Table 1 of the coincidence paper: which figures it is made of, and how it looks."""

import functools
from collections.abc import Iterator, Mapping

from tfsound import evaluation
from tfsound.reproduction import coincidence_paper
from tfsound.reproduction.coincidence_paper import BASELINE, MEASURES, TABLE_1, TOPLINE, Row
from tfsound.reproduction.encoders import Encoders
from tfsound.reproduction.measures import Measures
from tfsound.reproduction.report import IN_THE_PAPER
from tfsound.reproduction.units import Results, Unit

_NUMBER = "1"


class CoincidenceTables:
    """Rows a to j; without pictures those that learn from sound alone."""

    title = coincidence_paper.TITLE
    numbers = (_NUMBER,)

    def __init__(self, encoders: Encoders, measures: Measures):
        self._encoders = encoders
        self._measures = measures
        self._rows = tuple(row for row in TABLE_1 if measures.has_images or not row.needs_images)

    def units(self, folds: tuple[str, ...]) -> Iterator[Unit]:
        """Fold by fold, so that what an early end leaves is whole folds."""
        for fold in folds:
            for row in self._rows:
                for kind, compute in (
                    ("retrieval", self._retrieval), ("classification", self._classification),
                    ("across", self._across),
                ):  # fmt: skip
                    if kind != "across" or row.needs_images:
                        yield Unit(_NUMBER, kind, row.name, fold, functools.partial(compute, row, fold))

    def _run(self, row: Row, fold: str) -> str:
        if row.coincidence:
            return self._encoders.of_pairs(row.coincidence, fold)
        return self._encoders.of_triplets((row.constraint,), fold)

    def _embed(self, row: Row, fold: str) -> evaluation.Embed:
        if row == BASELINE:
            return evaluation.embed_baseline
        return evaluation.load_embed(self._run(row, fold))[0]

    def _retrieval(self, row: Row, fold: str) -> dict:
        return self._measures.retrieval(self._embed(row, fold), fold)

    def _classification(self, row: Row, fold: str) -> dict:
        return self._measures.classification(self._embed(row, fold), fold, (evaluation.ONE_LAYER,))

    def _across(self, row: Row, fold: str) -> dict:
        return self._measures.across_modalities(self._run(row, fold), fold)

    def tables(self, results: Mapping[str, Results]) -> dict[str, evaluation.ScoreTable]:
        """Table 1, its columns each apart, and, beyond it, retrieval across modalities."""
        if _NUMBER not in results:
            return {}
        figures, tables = results[_NUMBER], {}
        for column, measure in enumerate(MEASURES):
            kind = "retrieval" if measure == evaluation.QUERY_BY_EXAMPLE else "classification"
            rows = {
                row.name: {
                    measure: [fold[measure] for fold in figures[kind][row.name]],
                    IN_THE_PAPER: [row.paper[column]],
                }
                for row in self._rows
            }
            table = evaluation.ScoreTable(rows, baseline=BASELINE.name, topline=TOPLINE.name)
            tables[f"Table {_NUMBER}: {measure}"] = table
        if "across" in figures:
            rows = {
                name: _columns([fold["measures"] for fold in folds])
                for name, folds in figures["across"].items()
            }
            chance = [fold["chance"] for fold in next(iter(figures["across"].values()))]
            rows[evaluation.CHANCE] = _columns(chance)
            tables["Retrieval across modalities"] = evaluation.ScoreTable(rows)
        return tables

    def pictures(self, results: Mapping[str, Results]) -> dict:
        """None: the paper has no plot of these figures."""
        return {}


def _columns(folds: list[dict]) -> dict[str, list[float]]:
    return {name: [fold[name] for fold in folds] for name in folds[0]}
