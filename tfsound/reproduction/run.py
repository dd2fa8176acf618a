"""One paper on one data set: its tables, resumable figure by figure."""

import dataclasses
import os
from collections.abc import Mapping

from tfsound import datasets, examples, resumption
from tfsound.beam.examples import make_examples
from tfsound.reproduction import report, units
from tfsound.reproduction.coincidence_tables import CoincidenceTables
from tfsound.reproduction.encoders import Encoders
from tfsound.reproduction.folds import held_out_folds, thin_training_folds
from tfsound.reproduction.measures import Measures
from tfsound.reproduction.scales import SCALES, Scale
from tfsound.reproduction.triplet_papers import PAPERS as TRIPLET_PAPERS
from tfsound.reproduction.triplet_tables import TripletTables

_COINCIDENCE = "coincidence-2020"
PAPERS = (*TRIPLET_PAPERS, _COINCIDENCE)


@dataclasses.dataclass(frozen=True)
class Reproduction:
    """What came of it: the tables, as text, and where the report is."""

    text: str
    output: str

    def __str__(self) -> str:
        names = "report.md, report.json and pictures"
        return f"{self.text}\n\n{names} are in {self.output}"


def reproduce(
    paper: str,
    root: str,
    output: str,
    *,
    dataset: str = "esc50",
    scale: str = "small",
    table: str = "",
    folds: tuple[str, ...] = (),
    class_prior: str = datasets.NATURAL,
    num_recordings: int = 200,
    seed: int = 0,
    overwrite: bool = False,
) -> Reproduction:
    """Runs every row of a paper's tables on a data set and puts the paper's figures beside ours.

    Each held-out fold has encoders of its own, trained on the other folds; labels are used by the
    supervised row and by classifiers alone. What is finished is kept: interrupted, the same command goes on.
    Scale `tiny` shows in a minute that everything runs. `small` takes hours on 2 cores on ESC-50. `paper` is
    for AudioSet, ResNet-50 and accelerators: 10 million triplets an encoder, 370 GB of disk while it is
    trained, and four times as much for the joint one; the papers do not say how many steps they took.

    Args:
      paper: `triplets-2018` (Jansen et al., ICASSP), `triplets-2017` (its workshop version) or
        `coincidence-2020` (Jansen et al.; without pictures, the rows of sound alone).
      root: the data set's folder; for `synthetic`, where to write the recordings.
      output: the folder for everything that is made.
      dataset: its layout, as in `tfsound manifest`; `csv` for a manifest.
      scale: `tiny`, `small` or `paper`.
      table: the number of one table; by default all.
      folds: the folds to hold out; by default as many as the scale says. A data set without folds holds out
        its evaluation split.
      class_prior: how often classes are to be learnt from: `natural`, or a `longtail`; test folds stay as
        they are.
      num_recordings: synthetic: how many recordings.
      seed: of everything drawn.
      overwrite: start anew in an output that another call made.

    Returns:
      The tables that are finished.

    Raises:
      ValueError: an unknown paper, scale, table, fold or prior; ManifestError, JobError, TrainingError,
      EvaluationError: see the jobs it runs.
    """
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {sorted(SCALES)}, got {scale!r}.")
    if class_prior not in datasets.CLASS_PRIORS:
        raise ValueError(f"class_prior must be one of {sorted(datasets.CLASS_PRIORS)}, got {class_prior!r}.")
    if table not in ("", *_table_numbers(paper)):
        raise ValueError(f"table must be one of {list(_table_numbers(paper))}, got {table!r}.")
    settings = {
        "paper": paper, "root": root, "dataset": dataset, "scale": scale, "class_prior": class_prior,
        "num_recordings": num_recordings, "seed": seed,
    }  # fmt: skip
    with resumption.taken_up(output, settings, overwrite=overwrite, job="reproduce"):
        rows = _rows(root, output, dataset, num_recordings, seed)
        held_out = held_out_folds((row.fold for row in rows), folds, SCALES[scale])
        clips = os.path.join(output, "clips")
        if not os.path.exists(os.path.join(clips, examples.INFO_NAME)):
            manifest = os.path.join(output, "manifest.csv")
            datasets.write_manifest(manifest, thin_training_folds(rows, class_prior, seed=seed))
            frames_per_second = 1.0 if paper == _COINCIDENCE else 0.0
            make_examples(manifest, clips, frames_per_second=frames_per_second, overwrite=True)
        measures = Measures(clips, output, SCALES[scale], seed)
        for fold in held_out:
            measures.require_scorable(fold)
        tables = _tables(paper, Encoders(clips, output, SCALES[scale], seed), measures, SCALES[scale], seed)
        parts = list(tables.units(held_out))
        units.work_off([unit for unit in parts if table in ("", unit.table)], output)
        results = units.read_results(parts, output)
        text = report.write(
            tables.title, tables.tables(results), tables.pictures(results), output,
            settings | {"folds": folds, "table": table}, [_describe(results, held_out)],
        )  # fmt: skip
        return Reproduction(text, output)


def _table_numbers(paper: str) -> tuple[str, ...]:
    """Raises: ValueError for an unknown paper."""
    if paper not in PAPERS:
        raise ValueError(f"paper must be one of {sorted(PAPERS)}, got {paper!r}.")
    return CoincidenceTables.numbers if paper == _COINCIDENCE else TRIPLET_PAPERS[paper].numbers


def _tables(
    paper: str, encoders: Encoders, measures: Measures, scale: Scale, seed: int
) -> TripletTables | CoincidenceTables:
    if paper == _COINCIDENCE:
        return CoincidenceTables(encoders, measures, scale, seed)
    return TripletTables(TRIPLET_PAPERS[paper], encoders, measures, scale)


def _rows(root: str, output: str, dataset: str, num_recordings: int, seed: int) -> list[datasets.ManifestRow]:
    """The data set; where rows have no fold, their split is one."""
    if dataset not in datasets.ADAPTERS:
        raise ValueError(f"dataset must be one of {', '.join(sorted(datasets.ADAPTERS))}, got {dataset!r}.")
    options = {
        "synthetic": {"num_recordings": num_recordings, "seed": seed},
        "digit_scenes": {"scenes_dir": os.path.join(output, "scenes"), "seed": seed},
    }
    result = datasets.ADAPTERS[dataset](root, **options.get(dataset, {}))
    return [dataclasses.replace(row, fold=row.fold or row.split) for row in result.rows]


def _describe(results: Mapping[str, units.Results], folds: tuple[str, ...]) -> str:
    """How long it took, and what the figures of retrieval are, where there are any."""
    figures = [
        fold for kinds in results.values() for rows in kinds.values() for of in rows.values() for fold in of
    ]
    hours = sum(fold.get(units.SECONDS, 0.0) for fold in figures) / 3600
    text = f"{len(folds)} held-out fold(s), {hours:.1f} hours. Recovery is the mean of each fold's own."
    protocols = dict.fromkeys(fold["protocol"] for fold in figures if "protocol" in fold)
    if not protocols:
        return text
    chance = next(fold["chance"] for fold in figures if "protocol" in fold)
    return (
        f"{text} Retrieval: {'; '.join(protocols)}, chance {chance:.3f}. The papers' figures are on "
        "AudioSet, chance 0.33."
    )
