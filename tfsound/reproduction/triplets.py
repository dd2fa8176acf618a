"""The tables of the triplet papers on any data set: encoders, scores, report."""

import dataclasses
import functools
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator

from tfsound import datasets, evaluation, examples, resumption, training
from tfsound.beam.examples import make_examples
from tfsound.beam.triplets import sample_triplets
from tfsound.reproduction import report
from tfsound.reproduction.settings import BASELINE, PAPERS, SCALES, LightModel, Paper, Representation, Scale

_EVALUATION_SPLIT = "eval"


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
    folds: tuple[str, ...] = (),
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
      paper: `triplets-2018` (Jansen et al., ICASSP) or `triplets-2017` (its workshop version).
      root: the data set's folder; for `synthetic`, where to write the recordings.
      output: the folder for everything that is made.
      dataset: its layout, as in `tfsound manifest`.
      scale: `tiny`, `small` or `paper`.
      folds: the folds to hold out; by default as many as the scale says. A data set without folds holds out
        its evaluation split.
      num_recordings: synthetic: how many recordings.
      seed: of everything drawn.
      overwrite: start anew in an output that another call made.

    Returns:
      The tables.

    Raises:
      ValueError: an unknown paper, scale or fold; ManifestError, JobError, TrainingError, EvaluationError:
      see the jobs it runs.
    """
    if paper not in PAPERS:
        raise ValueError(f"paper must be one of {sorted(PAPERS)}, got {paper!r}.")
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {sorted(SCALES)}, got {scale!r}.")
    settings = {
        "paper": paper, "root": root, "dataset": dataset, "scale": scale, "folds": folds,
        "num_recordings": num_recordings, "seed": seed,
    }  # fmt: skip
    resumption.take_up(output, settings, overwrite=overwrite, job="reproduce")
    clips = _make_clips(root, output, dataset, num_recordings, seed)
    run = _Run(PAPERS[paper], SCALES[scale], clips, output, _held_out(clips, folds, SCALES[scale]), seed)
    run.work_off()
    return Reproduction(report.write(run.paper, run.results(), output, settings), output)


def _make_clips(root: str, output: str, dataset: str, num_recordings: int, seed: int) -> str:
    """The clip examples of the data set; where rows have no fold, their split is one."""
    clips, manifest = os.path.join(output, "clips"), os.path.join(output, "manifest.csv")
    if os.path.exists(os.path.join(clips, examples.INFO_NAME)):
        return clips
    if dataset not in datasets.ADAPTERS:
        raise ValueError(f"dataset must be one of {', '.join(sorted(datasets.ADAPTERS))}, got {dataset!r}.")
    options = {"num_recordings": num_recordings, "seed": seed} if dataset == "synthetic" else {}
    result = datasets.ADAPTERS[dataset](root, **options)
    rows = [dataclasses.replace(row, fold=row.fold or row.split) for row in result.rows]
    datasets.write_manifest(manifest, rows)
    make_examples(manifest, clips, overwrite=True)
    return clips


def _held_out(clips: str, folds: tuple[str, ...], scale: Scale) -> tuple[str, ...]:
    """The folds to hold out. Raises: ValueError for one that does not exist, or none to learn from."""
    known = examples.read_dataset_info(clips, kind=examples.CLIPS).folds
    if not set(folds) <= set(known) or len(known) < 2:
        raise ValueError(
            f"folds must be some of those of the data set, and it must have two or more; got {list(folds)}, "
            f"it has {list(known)}."
        )
    if _EVALUATION_SPLIT in known:
        return folds or (_EVALUATION_SPLIT,)
    return folds or known[: scale.max_folds]


def _slug(constraints: tuple[str, ...]) -> str:
    return "+".join(constraints).replace(":", "-") or "log-mel"


@dataclasses.dataclass(frozen=True)
class _Unit:
    """One figure, or a few that come together, of one fold: a file `<kind>/<key>/fold_<fold>.json`."""

    kind: str
    key: str
    fold: str
    compute: Callable[[], dict]


class _Run:
    """The encoders and scores of a reproduction, each made once and kept."""

    def __init__(
        self, paper: Paper, scale: Scale, clips: str, output: str, folds: tuple[str, ...], seed: int
    ):
        self.paper = paper
        self.scale = scale
        self.folds = folds
        self._clips = clips
        self._output = output
        self._seed = seed
        info = examples.read_dataset_info(clips, kind=examples.CLIPS)
        self._all_folds, self._class_names, self._mel_params = info.folds, info.label_names, info.mel_params

    def work_off(self) -> None:
        """Computes every figure that is not there yet; says which, and how long the rest may take.

        Raises: EvaluationError, before anything is trained, for a fold that retrieval cannot score.
        """
        for fold in self.folds:
            self._require_scorable(fold)
        units = list(self._units())
        todo = [unit for unit in units if not os.path.exists(self._path(unit))]
        done, start = len(units) - len(todo), time.monotonic()
        for number, unit in enumerate(todo):
            figures = unit.compute()
            resumption.write_json(self._path(unit), figures)
            left = (time.monotonic() - start) / (number + 1) * (len(todo) - number - 1)
            scores = {name: value for name, value in figures.items() if name.endswith("mAP")}
            shown = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
            print(
                f"[{done + number + 1}/{len(units)}] {unit.kind}, {unit.key}, fold {unit.fold}: {shown}; "
                f"about {left / 60:.0f} min left",
                flush=True,
            )

    def results(self) -> dict[str, dict[str, list[dict]]]:
        """kind -> key -> the figures of fold after fold."""
        results = {}
        for unit in self._units():
            with open(self._path(unit)) as file:
                results.setdefault(unit.kind, {}).setdefault(unit.key, []).append(json.load(file))
        return results

    def _path(self, unit: _Unit) -> str:
        return os.path.join(self._output, "scores", unit.kind, _slug((unit.key,)), f"fold_{unit.fold}.json")

    def _units(self) -> Iterator[_Unit]:
        """Fold by fold, so that what an early end leaves is whole folds; the sweeps last."""
        retrieval, classification, light = self._retrieval, self._classification, self._light
        for fold in self.folds:
            for row in self.paper.representations:
                yield _Unit("retrieval", row.name, fold, functools.partial(retrieval, row.constraints, fold))
                yield _Unit("classification", row.name, fold, functools.partial(classification, row, fold))
            for model in self.paper.light_models:
                yield _Unit("light", model.name, fold, functools.partial(light, model, fold))
        for fold in self.folds[: self.scale.sweep_folds]:
            for constraint, _ in itertools.chain(*self.paper.sweeps.values()):
                yield _Unit("sweep", constraint, fold, functools.partial(retrieval, (constraint,), fold))

    def _require_scorable(self, fold: str) -> None:
        """Raises: EvaluationError when no class of a fold has two segments, and another without it."""
        labels = [clip.labels for clip in examples.iter_clips(self._clips, folds=(fold,))]
        matrix, _ = evaluation.label_matrix(labels)
        num_present = matrix.sum(axis=0)
        if not ((num_present >= 2) & (num_present < len(matrix))).any():
            raise evaluation.EvaluationError(
                f"fold {fold} of {self._clips}: no class of {len(matrix)} segments has two and a segment "
                "without it, so retrieval cannot be scored; label more, or hold out other folds."
            )

    def _retrieval(self, constraints: tuple[str, ...], fold: str) -> dict:
        clips = examples.iter_clips(self._clips, folds=(fold,))
        segments = evaluation.embed_segments(clips, self._embed(constraints, fold), self._mel_params)
        result = evaluation.query_by_example(segments, seed=self._seed)
        return {
            evaluation.QUERY_BY_EXAMPLE: result.mean,
            "chance": result.chance,
            "protocol": result.protocol,
        }

    def _classification(self, row: Representation, fold: str) -> dict:
        train, test = self._windows(self._embed(row.constraints, fold), fold)
        figures = {}
        for measure, num_layers in ((evaluation.ONE_LAYER, 1), (evaluation.TWO_LAYERS, 2)):
            architecture = evaluation.fully_connected(num_layers)
            result = evaluation.classify(
                train, test, architecture, options=self.scale.classifier, seed=self._seed
            )
            figures[measure] = result.mean
        return figures

    def _light(self, model: LightModel, fold: str) -> dict:
        embed = self._embed(self.paper.joint.constraints, fold) if model.on_embedding else None
        train, test = self._windows(embed, fold)
        if model.num_layers is None:
            architecture = evaluation.encoder_classifier(self.scale.encoder)
        else:
            architecture = evaluation.fully_connected(model.num_layers)
        result = evaluation.light_supervision(
            train, test, architecture, segments_per_class=self.scale.segments_per_class,
            num_draws=self.scale.num_draws, options=self.scale.classifier, seed=self._seed,
        )  # fmt: skip
        return {"mAP": result.spread.mean, "draws": result.scores, "short_classes": result.short_classes}

    def _windows(
        self, embed: evaluation.Embed | None, fold: str
    ) -> tuple[evaluation.LabelledWindows, evaluation.LabelledWindows]:
        """Windows of the other folds, and of this one."""
        others = tuple(other for other in self._all_folds if other != fold)
        return tuple(
            evaluation.embed_windows(
                examples.iter_clips(self._clips, folds=chosen), embed, self._mel_params,
                class_names=self._class_names,
            )
            for chosen in (others, (fold,))
        )  # fmt: skip

    def _embed(self, constraints: tuple[str, ...], fold: str) -> evaluation.Embed:
        if constraints == BASELINE.constraints:
            return evaluation.embed_baseline
        embed, _ = evaluation.load_embed(self._encoder(constraints, fold))
        return embed

    def _encoder(self, constraints: tuple[str, ...], fold: str) -> str:
        """The run of an encoder that has not seen a fold; its triplets go when it is finished."""
        folder = os.path.join(self._output, "encoders", _slug(constraints), f"without_{fold}")
        run, triplets = os.path.join(folder, "run"), os.path.join(folder, "triplets")
        if os.path.exists(os.path.join(run, training.ENCODER_INFO_NAME)):
            return run
        num_sources, scale = len(constraints), self.scale
        if not os.path.exists(os.path.join(triplets, examples.INFO_NAME)):
            sample_triplets(
                self._clips, triplets, constraints=constraints, count=scale.num_triplets * num_sources,
                exclude_folds=(fold,), seed=self._seed, allow_repeats=True, overwrite=True,
            )  # fmt: skip
        is_mined = training.decide_mining("auto", list(constraints)) == "on"
        training.train(
            [triplets], run, encoder=scale.encoder, num_steps=scale.num_steps * num_sources,
            batch_size=scale.batch_size, learning_rate_decay=scale.learning_rate_decay,
            learning_rate=scale.mined_learning_rate if is_mined else scale.unmined_learning_rate,
            steps_per_checkpoint=max(1, scale.num_steps * num_sources // 10), seed=self._seed,
        )  # fmt: skip
        shutil.rmtree(triplets)
        return run
