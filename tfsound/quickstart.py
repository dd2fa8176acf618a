"""The main job from end to end: recordings -> examples -> triplets -> encoder -> scores, pictures, SavedModel."""

import dataclasses
import json
import os
import shutil

import numpy as np

from tfsound import datasets, evaluation, examples, mel, metrics, plots, sampling, training
from tfsound.beam.examples import make_examples
from tfsound.beam.triplets import sample_triplets
from tfsound.export import saved_model

_NUM_FOLDS = 5
_PARAMETERS_NAME = "quickstart.json"


@dataclasses.dataclass(frozen=True)
class Quickstart:
    """What came of it: the scores, and where the exported model and the pictures are."""

    evaluation: evaluation.Evaluation
    model: str
    pictures: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(
            [str(self.evaluation), f"model     {self.model}", *(f"picture   {path}" for path in self.pictures)]
        )


def with_folds(rows: list[datasets.ManifestRow], num_folds: int) -> list[datasets.ManifestRow]:
    """Gives rows without a fold one, by a hash of the recording, so that no recording is in two."""
    return [
        row
        if row.fold
        else dataclasses.replace(row, fold=str(sampling.stable_hash(row.recording_id) % num_folds + 1))
        for row in rows
    ]


def _write_manifest(dataset: str, audio_dir: str, output: str, num_recordings: int, seed: int) -> str:
    """The manifest of the data set, every row with a fold; returns its path."""
    path = os.path.join(output, "manifest.csv")
    if os.path.exists(path):
        return path
    options = {}
    if dataset == "synthetic":
        options = {"num_recordings": num_recordings, "seed": seed}
    elif dataset == "folder":
        options = {"labels_from_folders": any(entry.is_dir() for entry in os.scandir(audio_dir))}
    result = datasets.ADAPTERS[dataset](audio_dir, **options)
    if result.note:
        print(result.note)
    datasets.write_manifest(path, with_folds(result.rows, _NUM_FOLDS))
    return path


def _take_up(output: str, parameters: dict, overwrite: bool) -> None:
    """Makes the output folder, or goes on with one that was begun with the same parameters."""
    path = os.path.join(output, _PARAMETERS_NAME)
    if os.path.exists(path):
        with open(path) as file:
            begun = json.load(file)
        if begun != json.loads(json.dumps(parameters)) and not overwrite:
            raise ValueError(f"{output} was begun with other parameters; pass --overwrite or another --output.")
        if overwrite:
            shutil.rmtree(output)
    elif os.path.isdir(output) and os.listdir(output):
        raise ValueError(f"{output} exists and is no quickstart's; name another --output.")
    os.makedirs(output, exist_ok=True)
    with open(path, "w") as file:
        json.dump(parameters, file, indent=1)


def _is_finished(directory: str) -> bool:
    return os.path.exists(os.path.join(directory, examples.INFO_NAME))


def _run_fold(output: str, fold: str, settings: dict) -> evaluation.Evaluation:
    """Trains without a fold and scores on it; parts that are finished are kept."""
    clips = os.path.join(output, "clips")
    folder = os.path.join(output, f"without_fold_{fold}")
    triplets, run = os.path.join(folder, "triplets"), os.path.join(folder, "run")
    if not _is_finished(triplets):
        sample_triplets(
            clips, triplets, constraints=(f"proximity:{settings['max_time_gap_seconds']}",),
            count=settings["num_triplets"], exclude_folds=(fold,), seed=settings["seed"],
        )  # fmt: skip
    if not os.path.exists(os.path.join(run, training.ENCODER_INFO_NAME)):
        training.train(
            [triplets], run, encoder=settings["encoder"], num_steps=settings["num_steps"],
            batch_size=settings["batch_size"], seed=settings["seed"],
        )  # fmt: skip
    info = examples.read_dataset_info(clips, kind=examples.CLIPS)
    by = "labels" if info.label_names else "recordings"
    return evaluation.evaluate(clips, run, by=by, folds=(fold,), seed=settings["seed"])


def quickstart(
    output: str = "quickstart_output",
    *,
    audio_dir: str = "",
    dataset: str = "",
    folds: tuple[str, ...] = ("1",),
    encoder: str = "resnet_small",
    num_recordings: int = 200,
    max_time_gap_seconds: float = 10.0,
    num_triplets: int = 10000,
    num_steps: int = 500,
    batch_size: int = 64,
    max_failure_fraction: float = 0.5,
    seed: int = 0,
    overwrite: bool = False,
) -> Quickstart:
    """Learns an embedding from a folder of recordings, measures it on held-out ones, and exports it.

    Every fold asked for is held out once: an encoder is trained without it and scored on it. What an
    earlier call with the same parameters finished is kept.

    Args:
      output: where everything goes.
      audio_dir: your folder of recordings; by default the package synthesises some.
      dataset: the layout of audio_dir, as in `tfsound manifest`; by default a plain folder, whose
        sub-folders, if any, are the labels that the scores go by.
      folds: the folds to hold out, one at a time. Folders without folds of their own are cut into 1 to 5.
      encoder: `resnet_small` or `resnet50`.
      num_recordings: synthetic recordings to make.
      max_time_gap_seconds: anchor and positive start less than this apart.
      num_triplets: triplets to sample.
      num_steps: training steps.
      batch_size: triplets a step.
      max_failure_fraction: the fraction of clips that may be rejected.
      seed: of everything drawn.
      overwrite: start anew in an output that another call made.

    Returns:
      Scores, pictures and the exported model.

    Raises:
      ManifestError, JobError, TrainingError, EvaluationError, ValueError: see the jobs it runs.
    """
    dataset = dataset or ("folder" if audio_dir else "synthetic")
    if dataset not in datasets.ADAPTERS:
        raise ValueError(f"dataset must be one of {sorted(datasets.ADAPTERS)}, got {dataset!r}.")
    settings = {name: value for name, value in locals().items() if name not in ("output", "overwrite")}
    _take_up(output, settings, overwrite)
    root = audio_dir or os.path.join(output, "recordings")
    manifest = _write_manifest(dataset, root, output, num_recordings, seed)
    clips = os.path.join(output, "clips")
    if not _is_finished(clips):
        make_examples(manifest, clips, max_failure_fraction=max_failure_fraction)
    result = evaluation.merge([_run_fold(output, fold, settings) for fold in folds])
    evaluation.write_evaluation(result, output)
    run = os.path.join(output, f"without_fold_{folds[0]}", "run")
    model = os.path.join(output, "model")
    if not os.path.isdir(os.path.join(model, "1")):
        saved_model.export(run, model)
    pictures = (
        os.path.join(output, "evaluation.png"),
        *draw_pictures(clips, run, output, fold=folds[0], seed=seed),
    )
    return Quickstart(result, os.path.join(model, "1"), pictures)


def choose_queries(labels: list[tuple[str, ...]], num_queries: int, seed: int) -> np.ndarray:
    """Segments to show as queries: one of each class in turn, seeded: int64, (at most num_queries,)."""
    order = sampling.random_generator(seed, "queries").permutation(len(labels))
    first_of_class = list({labels[index]: index for index in order[::-1]}.values())
    others = [index for index in order if index not in set(first_of_class)]
    return np.array([*sorted(first_of_class)[:num_queries], *others][:num_queries])


def draw_pictures(
    clips: str, model: str, output: str, *, fold: str = "", num_queries: int = 6, k: int = 5, seed: int = 0
) -> tuple[str, ...]:
    """Draws queries with their nearest neighbours, a map of the embedding, and the training curve.

    Args:
      clips: the folder of clip examples; model: a finished run; output: the folder for the pictures.
      fold: whose clips to draw; all without.

    Returns:
      The paths of the pictures.
    """
    embed, mel_params = evaluation.load_embed(model)
    chosen = list(examples.iter_clips(clips, folds=(fold,) if fold else ()))
    segments = evaluation.embed_segments(chosen, embed, mel_params)
    names = [" ".join(labels) or clip_id for labels, clip_id in zip(segments.labels, segments.clip_ids, strict=True)]
    paths = tuple(os.path.join(output, name) for name in ("neighbours.png", "map.png", "training.png"))
    k = min(k, len(chosen) - 1)
    queries = choose_queries(list(segments.labels), num_queries, seed)
    if k > 0:
        neighbours, _ = metrics.nearest_neighbors(segments.embeddings, queries, k)
        matrix, _ = evaluation.label_matrix(segments.labels)
        correct = np.array([[(matrix[q] & matrix[n]).any() for n in row] for q, row in zip(queries, neighbours, strict=True)])
        edges = np.linspace(mel.hertz_to_mel(mel_params.mel_min_hz), mel.hertz_to_mel(mel_params.mel_max_hz), mel_params.mel_bins + 2)
        figure = plots.plot_neighbours(
            [np.log(clip.mel_energy.astype(np.float32) + mel_params.log_offset) for clip in chosen],
            queries, neighbours, names,
            correct=correct if matrix.size else None,
            hop_seconds=mel_params.hop_seconds, mel_hz=700.0 * np.expm1(edges[1:-1] / 1127.0),
        )  # fmt: skip
        plots.save_figure(figure, paths[0])
    labels = [" ".join(row) or None for row in segments.labels]
    plots.save_figure(plots.plot_embedding_map(segments.embeddings, labels, seed=seed, title=f"{len(labels)} held-out clips"), paths[1])
    log = training.read_log(os.path.join(model, training.LOG_NAME))
    columns = {name: [row[name] for row in log] for name in log[0] if name != "epoch"}
    plots.save_figure(plots.plot_training_log(columns), paths[2])
    return tuple(path for path in paths if os.path.exists(path))
