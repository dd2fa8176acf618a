"""The report of a reproduction: the paper's tables, its figures beside ours; text, Markdown, JSON, plots."""

import os
from collections.abc import Mapping, Sequence

from tfsound import evaluation, plots, resumption, sampling
from tfsound.reproduction.settings import BASELINE, MEASURES, TOPLINE, Paper

# kind -> row -> the figures of fold after fold
Results = Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]]
_PAPER = "in the paper"
_CLASSIFICATION = "mAP"


def write(paper: Paper, results: Results, output: str, settings: dict) -> str:
    """Writes report.md, report.json and a picture of each sweep; returns the tables as text.

    Args:
      settings: what was asked for.
    """
    tables = _tables(paper, results)
    sections = [f"# {paper.title}", _describe(settings, results)]
    for title, table in tables.items():
        sections.append(f"## {title}\n\n{table.to_markdown()}")
    for parameter in paper.sweeps:
        picture = f"{parameter}.png"
        plots.save_figure(_plot_sweep(paper, results, parameter), os.path.join(output, picture))
        sections.append(f"![mAP against {parameter}]({picture})")
    path = os.path.join(output, "report.md")
    with open(path + ".tmp", "w", encoding="utf-8") as file:
        file.write("\n\n".join(sections) + "\n")
    os.replace(path + ".tmp", path)
    fields = {"settings": settings, "tables": {title: table.to_dict() for title, table in tables.items()}}
    resumption.write_json(os.path.join(output, "report.json"), fields)
    return "\n\n".join(f"{title}\n{table}" for title, table in tables.items())


def _describe(settings: dict, results: Results) -> str:
    retrieval = results["retrieval"][BASELINE.name]
    protocols = "; ".join(dict.fromkeys(figures["protocol"] for figures in retrieval))
    command = " ".join(
        ["tfsound reproduce", settings["paper"], settings["root"], "OUTPUT"]
        + [f"--{name} {settings[name]}" for name in ("dataset", "scale", "seed")]
    )
    return (
        f"`{command}`, {len(retrieval)} held-out folds. Retrieval: {protocols}, chance "
        f"{retrieval[0]['chance']:.3f}. The papers' figures are on AudioSet, chance 0.33."
    )


def _tables(paper: Paper, results: Results) -> dict[str, evaluation.ScoreTable]:
    """The tables by title, in the paper's order; the columns of table 2 one by one."""
    sweep_number, main_number, light_number = paper.table_numbers
    tables = {}
    if paper.sweeps:
        tables[f"Table {sweep_number}: retrieval by parameter"] = _sweep_table(paper, results)
    for measure in MEASURES:
        tables[f"Table {main_number}: {measure}"] = _main_table(paper, results, measure)
    tables[f"Table {light_number}: light supervision"] = _light_table(paper, results)
    return tables


def _main_table(paper: Paper, results: Results, measure: str) -> evaluation.ScoreTable:
    kind = "retrieval" if measure == evaluation.QUERY_BY_EXAMPLE else "classification"
    published = MEASURES.index(measure)
    rows = {
        row.name: {
            measure: [fold[measure] for fold in results[kind][row.name]],
            _PAPER: [row.paper[published]],
        }
        for row in paper.representations
    }
    return evaluation.ScoreTable(rows, baseline=BASELINE.name, topline=TOPLINE.name)


def _sweep_table(paper: Paper, results: Results) -> evaluation.ScoreTable:
    measure = evaluation.QUERY_BY_EXAMPLE
    return evaluation.ScoreTable(
        {
            constraint: {measure: _scores(results, constraint), _PAPER: [published]}
            for sweep in paper.sweeps.values()
            for constraint, published in sweep
        }
    )


def _light_table(paper: Paper, results: Results) -> evaluation.ScoreTable:
    return evaluation.ScoreTable(
        {
            model.name: {
                _CLASSIFICATION: [fold[_CLASSIFICATION] for fold in results["light"][model.name]],
                _PAPER: [model.paper],
            }
            for model in paper.light_models
        }
    )


def _scores(results: Results, constraint: str) -> list[float]:
    return [fold[evaluation.QUERY_BY_EXAMPLE] for fold in results["sweep"][constraint]]


def _plot_sweep(paper: Paper, results: Results, parameter: str):
    sweep = paper.sweeps[parameter]
    values = [getattr(sampling.parse_constraint(constraint), parameter) for constraint, _ in sweep]
    return plots.plot_sweep(
        values,
        [_scores(results, constraint) for constraint, _ in sweep],
        [published for _, published in sweep],
        parameter_name=parameter,
        score_name=evaluation.QUERY_BY_EXAMPLE,
    )
