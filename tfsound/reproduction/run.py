"""One paper on one data set: its tables, resumable figure by figure."""

import dataclasses
import os
from collections.abc import Mapping

from tfsound import datasets, examples, resumption
from tfsound.beam.examples import make_examples
from tfsound.reproduction import report, units
from tfsound.reproduction.coincidence_tables import CoincidenceTables
from tfsound.reproduction.encoders import Encoders
from tfsound.reproduction.folds import thin_training_folds
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
    if paper not in PAPERS:
        raise ValueError(f"paper must be one of {sorted(PAPERS)}, got {paper!r}.")
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {sorted(SCALES)}, got {scale!r}.")
    if class_prior not in datasets.CLASS_PRIORS:
        raise ValueError(f"class_prior must be one of {sorted(datasets.CLASS_PRIORS)}, got {class_prior!r}.")
    settings = {
        "paper": paper, "root": root, "dataset": dataset, "scale": scale, "folds": folds,
        "class_prior": class_prior, "num_recordings": num_recordings, "seed": seed,
    }  # fmt: skip
    resumption.take_up(output, settings, overwrite=overwrite, job="reproduce")
    needs_images = paper == _COINCIDENCE
    clips = _make_clips(
        root, output, dataset, class_prior, num_recordings, seed, 1.0 if needs_images else 0.0
    )
    measures = Measures(clips, SCALES[scale], seed)
    held_out = measures.folds.held_out(folds, SCALES[scale])
    tables = _tables(paper, Encoders(clips, output, SCALES[scale], seed), measures, SCALES[scale], seed)
    if table not in ("", *tables.numbers):
        raise ValueError(f"table must be one of {list(tables.numbers)}, got {table!r}.")
    for fold in held_out:
        measures.require_scorable(fold)
    parts = list(tables.units(held_out))
    units.work_off([unit for unit in parts if table in ("", unit.table)], output)
    results = units.read_results(parts, output)
    text = report.write(
        tables.title, tables.tables(results), tables.pictures(results), output, settings,
        [_describe(results, held_out)],
    )  # fmt: skip
    return Reproduction(text, output)


def _tables(
    paper: str, encoders: Encoders, measures: Measures, scale: Scale, seed: int
) -> TripletTables | CoincidenceTables:
    if paper == _COINCIDENCE:
        return CoincidenceTables(encoders, measures, scale, seed)
    return TripletTables(TRIPLET_PAPERS[paper], encoders, measures, scale)


def _make_clips(
    root: str,
    output: str,
    dataset: str,
    class_prior: str,
    num_recordings: int,
    seed: int,
    frames_per_second: float,
) -> str:
    """The clip examples of the data set; where rows have no fold, their split is one."""
    clips, manifest = os.path.join(output, "clips"), os.path.join(output, "manifest.csv")
    if os.path.exists(os.path.join(clips, examples.INFO_NAME)):
        return clips
    if dataset not in datasets.ADAPTERS:
        raise ValueError(f"dataset must be one of {', '.join(sorted(datasets.ADAPTERS))}, got {dataset!r}.")
    options = {
        "synthetic": {"num_recordings": num_recordings, "seed": seed},
        "digit_scenes": {"scenes_dir": os.path.join(output, "scenes"), "seed": seed},
    }
    result = datasets.ADAPTERS[dataset](root, **options.get(dataset, {}))
    rows = [dataclasses.replace(row, fold=row.fold or row.split) for row in result.rows]
    datasets.write_manifest(manifest, thin_training_folds(rows, class_prior, seed=seed))
    make_examples(manifest, clips, frames_per_second=frames_per_second, overwrite=True)
    return clips


def _describe(results: Mapping[str, units.Results], folds: tuple[str, ...]) -> str:
    """What the figures of retrieval are, where there are any."""
    text = f"{len(folds)} held-out fold(s)."
    retrieval = [kinds["retrieval"] for kinds in results.values() if "retrieval" in kinds]
    if not retrieval:
        return text
    figures = next(iter(retrieval[0].values()))
    protocols = "; ".join(dict.fromkeys(fold["protocol"] for fold in figures))
    return (
        f"{text} Retrieval: {protocols}, chance {figures[0]['chance']:.3f}. The papers' figures are on "
        "AudioSet, chance 0.33."
    )
