"""One paper on one data set: its tables, resumable figure by figure."""

import dataclasses
import math
import os
from collections.abc import Mapping

from tfsound import datasets, examples, mel, networks, resumption
from tfsound.beam.examples import make_examples
from tfsound.reproduction import coincidence_paper, dls_paper, report, units
from tfsound.reproduction.coincidence_tables import CoincidenceTables
from tfsound.reproduction.dls_tables import DlsTables, Source
from tfsound.reproduction.encoders import MARGIN, Encoders
from tfsound.reproduction.folds import held_out_folds, thin_training_folds
from tfsound.reproduction.measures import Measures
from tfsound.reproduction.pretraining import Pretraining
from tfsound.reproduction.scales import DLS_SCALES, SCALES, DlsScale
from tfsound.reproduction.triplet_papers import PAPERS as TRIPLET_PAPERS
from tfsound.reproduction.triplet_tables import TripletTables

_COINCIDENCE = "coincidence-2020"
PAPERS = (*TRIPLET_PAPERS, _COINCIDENCE, dls_paper.NAME)


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
    more_datasets: tuple[str, ...] = (),
    imagenet_weights: str = "",
    scale: str = "small",
    table: str = "",
    rows: tuple[str, ...] = (),
    folds: tuple[str, ...] = (),
    class_prior: str = datasets.NATURAL,
    num_recordings: int = 200,
    margin: float = MARGIN,
    seed: int = 0,
    overwrite: bool = False,
) -> Reproduction:
    """Runs every row of a paper's tables on a data set and puts the paper's figures beside ours.

    Each held-out fold has encoders of its own, trained on the other folds; labels are used by the
    supervised row and by classifiers alone. What is finished is kept: interrupted, the same command goes on.
    Scale `tiny` shows in a minute that everything runs. `small` takes hours on 2 cores on ESC-50. `paper` is
    for AudioSet, ResNet-50 and accelerators: 10 million triplets an encoder, 370 GB of disk while it is
    trained, and four times as much for the joint one; the papers do not say how many steps they took.

    `dls-2021` shows how fast an encoder is fine-tuned that was pre-trained without labels and without the
    held-out fold, beside one from scratch. Where there are `more_datasets`, it has the two phases of its
    section 4: hyperparameters by the first fold of each, then a pre-training on all sets and folds, as the
    paper's.

    Args:
      paper: `triplets-2018` (Jansen et al., ICASSP), `triplets-2017` (its workshop version),
        `coincidence-2020` (Jansen et al.; without pictures, the rows of sound alone) or `dls-2021` (Hornauer
        et al.).
      root: the data set's folder; for `synthetic`, where to write the recordings.
      output: the folder for everything that is made.
      dataset: its layout, as in `tfsound manifest`; `csv` for a manifest.
      more_datasets: of `dls-2021`: further data sets, as `DATASET=ROOT`.
      imagenet_weights: of `dls-2021`, scale `paper`: a weight file of keras.applications for ResNet50, to
        start from beside the others.
      scale: `tiny`, `small` or `paper`.
      table: the number of one table; by default all. Of `dls-2021`: 1; `knn` for section 4; 4 for figure 4.
      rows: of `coincidence-2020`, table 1: the letters of the rows to fill in beside topline and baseline; by
        default all.
      folds: the folds to hold out; by default as many as the scale says. A data set without folds holds out
        its evaluation split.
      class_prior: how often classes are to be learnt from: `natural`, or a `longtail`; test folds stay as
        they are.
      num_recordings: synthetic: how many recordings.
      margin: of the triplet loss; the paper's by default.
      seed: of everything drawn.
      overwrite: start anew in an output that another call made.

    Returns:
      The tables that are finished.

    Raises:
      ValueError: an unknown paper, scale, table, row, fold or prior, a margin that is none; ManifestError,
      JobError, TrainingError, EvaluationError: see the jobs it runs.
    """
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {sorted(SCALES)}, got {scale!r}.")
    if class_prior not in datasets.CLASS_PRIORS:
        raise ValueError(f"class_prior must be one of {sorted(datasets.CLASS_PRIORS)}, got {class_prior!r}.")
    if table not in ("", *_table_numbers(paper)):
        raise ValueError(f"table must be one of {list(_table_numbers(paper))}, got {table!r}.")
    if rows and (paper != _COINCIDENCE or not set(rows) <= coincidence_paper.LETTERS):
        raise ValueError(
            f"rows are letters of {_COINCIDENCE}, of {sorted(coincidence_paper.LETTERS)}, got {list(rows)}."
        )
    if not 0 <= margin < math.inf:
        raise ValueError(f"margin must be at least 0 and finite, got {margin}.")
    settings = {
        "paper": paper, "root": root, "dataset": dataset, "scale": scale, "class_prior": class_prior,
        "num_recordings": num_recordings, "margin": margin, "seed": seed,
    }  # fmt: skip
    if paper == dls_paper.NAME:
        settings |= {"more_datasets": list(more_datasets), "imagenet_weights": imagenet_weights}
        roots = {dataset: root} | _more_roots(more_datasets, dataset)
        _require_dls(class_prior, imagenet_weights, DLS_SCALES[scale])
    elif more_datasets or imagenet_weights:
        raise ValueError(f"more_datasets and imagenet_weights are of {dls_paper.NAME} alone; leave them out.")
    with resumption.taken_up(output, settings, overwrite=overwrite, job="reproduce"):
        if paper == dls_paper.NAME:
            tables, parts = _dls_parts(settings, roots, folds, output)
        else:
            tables, parts = _parts(settings, rows, folds, output)
        units.work_off([unit for unit in parts if table in ("", unit.table)], output)
        results = units.read_results(parts, output)
        text = report.write(
            tables.title, tables.tables(results), tables.pictures(results), output,
            settings | {"folds": folds, "table": table, "rows": rows}, [_describe(results, parts)],
        )  # fmt: skip
        return Reproduction(text, output)


def _parts(
    settings: dict, only: tuple[str, ...], folds: tuple[str, ...], output: str
) -> tuple[TripletTables | CoincidenceTables, list[units.Unit]]:
    """The tables of a paper on one data set, whose examples it makes, and all figures that they want."""
    paper, scale, seed = settings["paper"], SCALES[settings["scale"]], settings["seed"]
    rows = _rows(settings["root"], output, settings["dataset"], settings)
    held_out = held_out_folds((row.fold for row in rows), folds, scale.max_folds)
    clips = os.path.join(output, "clips")
    _make_clips(
        os.path.join(output, "manifest.csv"), clips,
        thin_training_folds(rows, settings["class_prior"], seed=seed),
        frames_per_second=1.0 if paper == _COINCIDENCE else 0.0,
    )  # fmt: skip
    measures = Measures(clips, output, scale, seed)
    for fold in held_out:
        measures.require_scorable(fold)
    encoders = Encoders(clips, output, scale, seed, settings["margin"])
    if paper == _COINCIDENCE:
        tables = CoincidenceTables(encoders, measures, scale, seed, only)
    else:
        tables = TripletTables(TRIPLET_PAPERS[paper], encoders, measures, scale)
    return tables, list(tables.units(held_out))


def _dls_parts(
    settings: dict, roots: Mapping[str, str], folds: tuple[str, ...], output: str
) -> tuple[DlsTables, list[units.Unit]]:
    """As `_parts`, of the DLS paper on one data set or several."""
    scale = DLS_SCALES[settings["scale"]]
    rows = {
        name: _rows(root, os.path.join(output, "sets", name), name, settings) for name, root in roots.items()
    }
    sources = {
        name: Source(
            of_set,
            os.path.join(output, "sets", name, "clips"),
            tuning_fold=held_out_folds((row.fold for row in of_set), (), scale.max_folds)[0],
            held_out=held_out_folds((row.fold for row in of_set), folds, scale.max_folds),
        )
        for name, of_set in rows.items()
    }
    for name, source in sources.items():
        _make_clips(
            os.path.join(output, "sets", name, "manifest.csv"), source.clips, source.rows,
            mel_preset=scale.mel_preset, context_seconds=scale.context_seconds,
        )  # fmt: skip
    pretraining = Pretraining(
        {name: source.clips for name, source in sources.items()}, _whole_sets(rows), output, scale,
        settings["seed"],
    )  # fmt: skip
    tables = DlsTables(sources, pretraining, output, scale, settings["imagenet_weights"])
    return tables, list(tables.units())


def _make_clips(manifest: str, clips: str, rows: list[datasets.ManifestRow], **options) -> None:
    """Makes the examples of some rows, unless they are there."""
    if not os.path.exists(os.path.join(clips, examples.INFO_NAME)):
        datasets.write_manifest(manifest, rows)
        make_examples(manifest, clips, overwrite=True, **options)


def _whole_sets(rows: Mapping[str, list[datasets.ManifestRow]]) -> tuple[str, ...]:
    """The data sets that are no part of another one of these, as ESC-10 is of ESC-50."""
    ids = {name: {row.clip_id for row in of_set} for name, of_set in rows.items()}
    return tuple(name for name in ids if not any(ids[name] < ids[other] for other in ids))


def _more_roots(more_datasets: tuple[str, ...], dataset: str) -> dict[str, str]:
    """Raises: ValueError for what is no `DATASET=ROOT`, or a data set given twice."""
    roots: dict[str, str] = {}
    for text in more_datasets:
        name, _, root = text.partition("=")
        if not root or name in (dataset, *roots):
            raise ValueError(
                f"more_datasets must be DATASET=ROOT, each another data set than {dataset}, got {text!r}."
            )
        roots[name] = root
    return roots


def _require_dls(class_prior: str, imagenet_weights: str, scale: DlsScale) -> None:
    """Raises: ValueError for what the DLS paper has no use for, and as `networks.load_imagenet_weights`."""
    if class_prior != datasets.NATURAL:
        raise ValueError(f"{dls_paper.NAME} learns from all clips that there are; leave class_prior out.")
    if imagenet_weights:
        mel_params = mel.preset(scale.mel_preset, context_seconds=scale.context_seconds)
        encoder = networks.build_encoder(
            scale.encoder, input_shape=mel_params.window_shape, num_bands=mel_params.num_bands
        )
        networks.load_imagenet_weights(encoder, imagenet_weights)


def _table_numbers(paper: str) -> tuple[str, ...]:
    """Raises: ValueError for an unknown paper."""
    if paper not in PAPERS:
        raise ValueError(f"paper must be one of {sorted(PAPERS)}, got {paper!r}.")
    numbers = {_COINCIDENCE: CoincidenceTables.numbers, dls_paper.NAME: DlsTables.numbers}
    return numbers[paper] if paper in numbers else TRIPLET_PAPERS[paper].numbers


def _rows(root: str, folder: str, dataset: str, settings: dict) -> list[datasets.ManifestRow]:
    """The data set; where rows have no fold, their split is one. What has to be made goes to a folder."""
    if dataset not in datasets.ADAPTERS:
        raise ValueError(f"dataset must be one of {', '.join(sorted(datasets.ADAPTERS))}, got {dataset!r}.")
    options = {
        "synthetic": {"num_recordings": settings["num_recordings"], "seed": settings["seed"]},
        "digit_scenes": {"scenes_dir": os.path.join(folder, "scenes"), "seed": settings["seed"]},
    }
    result = datasets.ADAPTERS[dataset](root, **options.get(dataset, {}))
    return [dataclasses.replace(row, fold=row.fold or row.split) for row in result.rows]


def _describe(results: Mapping[str, units.Results], parts: list[units.Unit]) -> str:
    """How long it took, and what the figures of retrieval are, where there are any."""
    figures = [
        fold for kinds in results.values() for rows in kinds.values() for of in rows.values() for fold in of
    ]
    hours = sum(fold.get(units.SECONDS, 0.0) for fold in figures) / 3600
    num_folds = len({unit.fold for unit in parts if unit.fold})
    text = f"{num_folds} held-out fold(s), {hours:.1f} hours. Recovery, if any, is the mean of each fold's."
    protocols = dict.fromkeys(fold["protocol"] for fold in figures if "protocol" in fold)
    if not protocols:
        return text
    chance = next(fold["chance"] for fold in figures if "protocol" in fold)
    return (
        f"{text} Retrieval: {'; '.join(protocols)}, chance {chance:.3f}. The papers' figures are on "
        "AudioSet, chance 0.33."
    )
