"""The tables of the coincidence paper: which figures they are made of, and how they look."""

import functools
from collections.abc import Iterator, Mapping

from tfsound import evaluation
from tfsound.reproduction import coincidence_paper
from tfsound.reproduction.coincidence_paper import BASELINE, MEASURES, TABLE_1, TOPLINE, Row, clustered
from tfsound.reproduction.encoders import Encoders
from tfsound.reproduction.label_tables import LabelTables
from tfsound.reproduction.labelling import Labelling
from tfsound.reproduction.measures import Measures
from tfsound.reproduction.report import IN_THE_PAPER
from tfsound.reproduction.scales import Scale
from tfsound.reproduction.units import Results, Unit

_NUMBER = "1"


class CoincidenceTables:
    """Table 1, of which data without pictures has the rows of sound alone, and those of labels, 2 and 3.

    Args:
      letters: the rows of table 1 beside topline and baseline; none for all.
    """

    title = coincidence_paper.TITLE
    numbers = (_NUMBER, *LabelTables.numbers)

    def __init__(
        self, encoders: Encoders, measures: Measures, scale: Scale, seed: int, letters: tuple[str, ...] = ()
    ):
        self._encoders = encoders
        self._measures = measures
        self._scale = scale
        self._labelling = Labelling(encoders, measures, scale, seed)
        self._label_tables = LabelTables(self._labelling, scale)
        self._rows = tuple(
            row
            for row in TABLE_1
            if (measures.has_images or not row.needs_images)
            and (not letters or row.letter in letters or row in (TOPLINE, BASELINE))
        )

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
            yield from self._label_tables.units(fold)

    def _run(self, row: Row, fold: str) -> str:
        if row.is_clustered:
            num_clusters = self._labelling.num_clusters(max(self._scale.budgets), fold)
            return self._encoders.of_pairs(clustered(row.coincidence, num_clusters), fold)
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
        """The finished tables by title."""
        first = self._table_1(results[_NUMBER]) if _NUMBER in results else {}
        return first | self._label_tables.tables(results)

    def _table_1(self, figures: Results) -> dict[str, evaluation.ScoreTable]:
        """Table 1, its columns each apart, and, beyond it, retrieval across modalities."""
        tables = {}
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
                name: evaluation.score_columns([fold["measures"] for fold in folds])
                for name, folds in figures["across"].items()
            }
            chance = [fold["chance"] for fold in next(iter(figures["across"].values()))]
            rows[evaluation.CHANCE] = evaluation.score_columns(chance)
            tables["Retrieval across modalities"] = evaluation.ScoreTable(rows)
        return tables

    def pictures(self, results: Mapping[str, Results]) -> dict:
        """What labels are worth; of table 1 the paper has no plot."""
        return self._label_tables.pictures(results)
