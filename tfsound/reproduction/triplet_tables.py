"""The tables of the triplet papers: which figures they are made of, and how they look."""

import functools
import itertools
from collections.abc import Iterator, Mapping

from tfsound import evaluation, plots, sampling
from tfsound.reproduction.encoders import Encoders
from tfsound.reproduction.measures import Measures
from tfsound.reproduction.report import IN_THE_PAPER
from tfsound.reproduction.scales import Scale
from tfsound.reproduction.triplet_papers import BASELINE, MEASURES, TOPLINE, LightModel, Paper
from tfsound.reproduction.units import Results, Unit

_CLASSIFICATION = "mAP"


class TripletTables:
    """Tables 1 to 3 of Jansen et al. 2018, or those of its workshop version."""

    def __init__(self, paper: Paper, encoders: Encoders, measures: Measures, scale: Scale):
        self.title = paper.title
        self._paper = paper
        self._encoders = encoders
        self._measures = measures
        self._scale = scale
        self._sweep_table, self._main_table, self._light_table = paper.table_numbers

    def units(self, folds: tuple[str, ...]) -> Iterator[Unit]:
        """Fold by fold, so that what an early end leaves is whole folds; the sweeps last."""
        for fold in folds:
            for row in self._paper.representations:
                for kind, compute in (
                    ("retrieval", self._retrieval), ("classification", self._classification),
                ):  # fmt: skip
                    part = functools.partial(compute, row.constraints, fold)
                    yield Unit(self._main_table, kind, row.name, fold, part)
            for count, model in itertools.product(self._scale.segments_per_class, self._paper.light_models):
                part = functools.partial(self._light, model, count, fold)
                yield Unit(self._light_table, _light_kind(count), model.name, fold, part)
        for fold in folds[: self._scale.sweep_folds]:
            for constraint, _ in itertools.chain(*self._paper.sweeps.values()):
                part = functools.partial(self._retrieval, (constraint,), fold)
                yield Unit(self._sweep_table, "sweep", constraint, fold, part)

    def _embed(self, constraints: tuple[str, ...], fold: str) -> evaluation.Embed:
        if constraints == BASELINE.constraints:
            return evaluation.embed_baseline
        embed, _ = evaluation.load_embed(self._encoders.of_triplets(constraints, fold))
        return embed

    def _retrieval(self, constraints: tuple[str, ...], fold: str) -> dict:
        return self._measures.retrieval(self._embed(constraints, fold), fold)

    def _classification(self, constraints: tuple[str, ...], fold: str) -> dict:
        measures = (evaluation.ONE_LAYER, evaluation.TWO_LAYERS)
        return self._measures.classification(self._embed(constraints, fold), fold, measures)

    def _light(self, model: LightModel, segments_per_class: int, fold: str) -> dict:
        embed = self._embed(self._paper.joint.constraints, fold) if model.on_embedding else None
        if model.num_layers is None:
            architecture = evaluation.encoder_classifier(self._scale.encoder)
        else:
            architecture = evaluation.fully_connected(model.num_layers)
        return self._measures.light_supervision(embed, architecture, segments_per_class, fold)

    def tables(self, results: Mapping[str, Results]) -> dict[str, evaluation.ScoreTable]:
        """The finished tables by title, in the paper's order; the columns of the main one each apart."""
        tables = {}
        if self._sweep_table in results:
            title = f"Table {self._sweep_table}: retrieval by parameter"
            tables[title] = self._sweeps(results[self._sweep_table])
        if self._main_table in results:
            for column, measure in enumerate(MEASURES):
                title = f"Table {self._main_table}: {measure}"
                tables[title] = self._main(results[self._main_table], measure, column)
        if self._light_table in results:
            title = f"Table {self._light_table}: light supervision"
            tables[title] = self._light_supervision(results[self._light_table])
        return tables

    def pictures(self, results: Mapping[str, Results]) -> dict:
        """A figure of each sweep, by the name of its parameter."""
        sweeps = self._paper.sweeps if self._sweep_table in results else {}
        return {parameter: self._plot(results[self._sweep_table], parameter) for parameter in sweeps}

    def _main(self, results: Results, measure: str, column: int) -> evaluation.ScoreTable:
        kind = "retrieval" if measure == evaluation.QUERY_BY_EXAMPLE else "classification"
        rows = {
            row.name: {
                measure: [fold[measure] for fold in results[kind][row.name]],
                IN_THE_PAPER: [row.paper[column]],
            }
            for row in self._paper.representations
        }
        return evaluation.ScoreTable(rows, baseline=BASELINE.name, topline=TOPLINE.name)

    def _sweeps(self, results: Results) -> evaluation.ScoreTable:
        return evaluation.ScoreTable(
            {
                constraint: {
                    evaluation.QUERY_BY_EXAMPLE: _sweep_scores(results, constraint),
                    IN_THE_PAPER: [published],
                }
                for sweep in self._paper.sweeps.values()
                for constraint, published in sweep
            }
        )

    def _light_supervision(self, results: Results) -> evaluation.ScoreTable:
        return evaluation.ScoreTable(
            {
                model.name: {
                    **{
                        f"{_CLASSIFICATION}, {count} segments a class": [
                            draw for fold in results[_light_kind(count)][model.name] for draw in fold["draws"]
                        ]
                        for count in self._scale.segments_per_class
                    },
                    IN_THE_PAPER: [model.paper],
                }
                for model in self._paper.light_models
            }
        )

    def _plot(self, results: Results, parameter: str):
        sweep = self._paper.sweeps[parameter]
        return plots.plot_sweep(
            [getattr(sampling.parse_constraint(constraint), parameter) for constraint, _ in sweep],
            [_sweep_scores(results, constraint) for constraint, _ in sweep],
            [published for _, published in sweep],
            parameter_name=parameter,
            score_name=evaluation.QUERY_BY_EXAMPLE,
        )


def _light_kind(segments_per_class: int) -> str:
    return f"light-{segments_per_class}"


def _sweep_scores(results: Results, constraint: str) -> list[float]:
    return [fold[evaluation.QUERY_BY_EXAMPLE] for fold in results["sweep"][constraint]]
