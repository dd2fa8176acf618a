"""The main job end to end: recordings -> examples -> triplets -> encoder -> scores, pictures, SavedModel."""

import collections
import dataclasses
import os

from tfsound import datasets, evaluation, examples, networks, pictures, resumption, sampling, training
from tfsound.beam.examples import make_examples
from tfsound.beam.output import FAILURES_NAME
from tfsound.beam.triplets import sample_triplets
from tfsound.export import saved_model

_MAX_FOLDS = 5
_MIN_RECORDINGS = 4  # two to learn from and two to score
_FEW_HELD_OUT = 40  # recordings; chance decides the scores of fewer
_LOG_ROWS = 20  # points of the training curve
_STEP_SECONDS = {"resnet_small": 0.13, "resnet50": 20.0}  # of 64 triplets, on two cores
_CAPTIONS = {
    "evaluation.png": "the scores",
    "neighbours.png": "held-out sounds and what the embedding finds nearest",
    "map.png": "all held-out sounds: near means alike",
    "training.png": "how the training went",
}


@dataclasses.dataclass(frozen=True)
class Quickstart:
    """What came of it: the scores, and where the exported model and the pictures are."""

    evaluation: evaluation.Evaluation
    model: str
    pictures: tuple[str, ...]

    def __str__(self) -> str:
        width = max(len(path) for path in (*self.pictures, self.model))
        captions = {path: _CAPTIONS[os.path.basename(path)] for path in self.pictures}
        captions[self.model] = "the embedding as a SavedModel"
        return "\n".join(
            [
                str(self.evaluation),
                "(mAP 1: every sound is nearer to those of its kind than to any other.)",
                "",
                *(f"{path:<{width}}  {caption}" for path, caption in captions.items()),
                "",
                "To embed a 16-bit WAV file at 16 kHz, without tfsound:",
                "  import tensorflow as tf",
                f"  model = tf.saved_model.load({self.model!r})",
                '  wav = tf.io.read_file("clip.wav")',
                '  embedding = model.signatures["wav_bytes"](wav_bytes=wav[None])["embedding"]',
            ]
        )


def quickstart(
    output: str = "quickstart_output",
    *,
    audio_dir: str = "",
    dataset: str = "",
    folds: tuple[str, ...] = (),
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
      folds: the folds to hold out, one at a time; by default the first. Recordings without folds of their
        own are dealt into 1 to 5, into fewer where they are few.
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
    settings = {name: value for name, value in locals().items() if name not in ("output", "overwrite")}
    settings["dataset"] = dataset or ("folder" if audio_dir else "synthetic")
    _require_valid(settings)
    # How many failures are borne changes nothing that is kept.
    kept = {name: value for name, value in settings.items() if name != "max_failure_fraction"}
    with resumption.taken_up(output, kept, overwrite=overwrite, job="quickstart"):
        rows = _make_manifest(output, settings)
        folds = folds or (min(row.fold for row in rows),)
        _announce(rows, folds, output, settings)
        clips = _make_clips(output, max_failure_fraction)
        by = _scores_by(clips, folds)
        runs = [_train_without(fold, clips, output, settings) for fold in folds]
        result = evaluation.merge(
            [
                evaluation.evaluate(clips, run, by=by, folds=(fold,), seed=seed)
                for fold, run in zip(folds, runs, strict=True)
            ]
        )
        evaluation.write_evaluation(result, output)
        drawn = pictures.draw_pictures(clips, runs[0], output, by=by, fold=folds[0], seed=seed)
        model = os.path.join(output, "model")
        if not os.path.isdir(os.path.join(model, "1")):
            saved_model.export(runs[0], model)
        return Quickstart(result, os.path.join(model, "1"), (os.path.join(output, "evaluation.png"), *drawn))


def _require_valid(settings: dict) -> None:
    """Refuses at once what a job would refuse after minutes."""
    dataset, audio_dir, encoder = settings["dataset"], settings["audio_dir"], settings["encoder"]
    if dataset not in datasets.ADAPTERS:
        raise ValueError(f"dataset must be one of {', '.join(sorted(datasets.ADAPTERS))}, got {dataset!r}.")
    if dataset == "synthetic" and audio_dir:
        raise ValueError(
            "audio_dir goes with recordings of yours, not with the synthetic ones; leave one out."
        )
    if dataset != "synthetic" and not os.path.exists(audio_dir):
        raise ValueError(f"audio_dir {audio_dir!r} does not exist; name the folder of your recordings.")
    if encoder not in networks.ENCODERS:
        raise ValueError(f"encoder must be one of {', '.join(sorted(networks.ENCODERS))}, got {encoder!r}.")
    if settings["num_steps"] < 1 or not 1 <= settings["batch_size"] <= settings["num_triplets"]:
        raise ValueError(
            "num_steps must be at least 1 and batch_size from 1 to num_triplets, got "
            f"{settings['num_steps']}, {settings['batch_size']} and {settings['num_triplets']}."
        )


def _make_manifest(output: str, settings: dict) -> list[datasets.ManifestRow]:
    """The rows of the manifest, every one with a fold; written where it is not there yet."""
    path = os.path.join(output, "manifest.csv")
    if os.path.exists(path):
        return datasets.read_manifest(path)
    dataset, root, options = settings["dataset"], settings["audio_dir"], {}
    if dataset == "synthetic":
        root = os.path.join(output, "recordings")
        options = {"num_recordings": settings["num_recordings"], "seed": settings["seed"]}
        print(f"Synthesising {settings['num_recordings']} recordings of environmental sounds in {root}.")
    elif dataset == "folder":
        labels_from_folders = any(
            entry.is_dir() and not entry.name.startswith(".") for entry in os.scandir(root)
        )
        options = {"labels_from_folders": labels_from_folders}
    result = datasets.ADAPTERS[dataset](root, **options)
    if result.note:
        print(result.note)
    found = len({row.recording_id for row in result.rows})
    if found < _MIN_RECORDINGS:
        raise ValueError(
            f"{root} holds too few recordings, {found}, expected at least {_MIN_RECORDINGS}: two to learn "
            "from and two held out to score; add some."
        )
    rows = with_folds(result.rows)
    datasets.write_manifest(path, rows)
    return rows


def with_folds(rows: list[datasets.ManifestRow], max_folds: int = _MAX_FOLDS) -> list[datasets.ManifestRow]:
    """Gives rows without a fold one of "1", "2", ..., so that no recording is in two.

    Recordings are dealt class by class, in the order of a stable hash. There are as many folds, up to
    `max_folds`, as can each be scored by labels; without such labels, as can hold two recordings each.
    """
    labels = {row.recording_id: row.labels for row in rows if not row.fold}
    order = sorted(labels, key=lambda recording: (labels[recording], sampling.stable_hash(recording)))

    def dealt(num_folds: int) -> list[datasets.ManifestRow]:
        folds = {recording: str(rank % num_folds + 1) for rank, recording in enumerate(order)}
        return [row if row.fold else dataclasses.replace(row, fold=folds[row.recording_id]) for row in rows]

    for num_folds in range(max_folds, 1, -1):
        candidate = dealt(num_folds)
        labels_of_fold = collections.defaultdict(list)
        for row in candidate:
            labels_of_fold[row.fold].append(row.labels)
        if all(_can_score(rows) for rows in labels_of_fold.values()):
            return candidate
    return dealt(max(1, min(max_folds, len(order) // 2)))


def _can_score(labels: list[tuple[str, ...]]) -> bool:
    """Whether some label occurs in two clips, and not in all."""
    counts = collections.Counter(label for row in labels for label in row)
    return any(2 <= count < len(labels) for count in counts.values())


def _announce(rows: list[datasets.ManifestRow], folds: tuple[str, ...], output: str, settings: dict) -> None:
    """Says what will happen and how long it takes. Raises: ValueError for a fold that no row has."""
    recordings = collections.defaultdict(set)
    for row in rows:
        recordings[row.fold].add(row.recording_id)
    num_all = sum(len(members) for members in recordings.values())
    for fold in folds:
        if fold not in recordings:
            raise ValueError(f"fold {fold!r} does not occur; folds are {', '.join(sorted(recordings))}.")
        num_held_out = len(recordings[fold])
        num_left = num_all - num_held_out
        if num_left < 2:
            raise ValueError(f"without fold {fold}, {num_left} recordings are left to learn from; add some.")
        print(
            f"Fold {fold}: an encoder learns from {num_left} recordings, without labels, "
            f"and is scored on the other {num_held_out}."
            + (" So few give rough scores." if num_held_out < _FEW_HELD_OUT else "")
        )
    num_runs = sum(not _is_trained(_run_folder(output, fold)) for fold in folds)
    if num_runs:
        steps = num_runs * settings["num_steps"]
        seconds = steps * settings["batch_size"] / 64 * _STEP_SECONDS[settings["encoder"]]
        print(
            f"{steps} training steps take about {1 + round(seconds / 60)} min on 2 cores. "
            f"Everything goes to {output}; after an interruption the same command goes on."
        )


def _run_folder(output: str, fold: str) -> str:
    return os.path.join(output, f"without_fold_{fold}", "run")


def _is_trained(run: str) -> bool:
    return os.path.exists(os.path.join(run, training.ENCODER_INFO_NAME))


def _is_finished(directory: str) -> bool:
    return os.path.exists(os.path.join(directory, examples.INFO_NAME))


def _make_clips(output: str, max_failure_fraction: float) -> str:
    """The folder of clip examples; says what was rejected."""
    clips = os.path.join(output, "clips")
    if not _is_finished(clips):
        manifest = os.path.join(output, "manifest.csv")
        info = make_examples(manifest, clips, max_failure_fraction=max_failure_fraction)
        if info.num_failures:
            reasons = os.path.join(clips, FAILURES_NAME)
            print(f"Clips that could not be used: {info.num_failures}; {reasons} says why.")
    return clips


def _scores_by(clips: str, folds: tuple[str, ...]) -> str:
    """`labels` where every fold can be scored by them, else `recordings`.

    Raises:
      EvaluationError: a fold can be scored by neither.
    """
    mel_params = examples.read_dataset_info(clips, kind=examples.CLIPS).mel_params
    labels, halvable = collections.defaultdict(list), collections.defaultdict(set)
    for clip in examples.iter_clips(clips, folds=folds):
        labels[clip.fold].append(clip.labels)
        if mel_params.num_windows(len(clip.mel_energy)) > 1:
            halvable[clip.fold].add(clip.recording_id)
    if all(_can_score(labels[fold]) for fold in folds):
        return "labels"
    for fold in folds:
        if len(halvable[fold]) < 2:
            raise evaluation.EvaluationError(
                f"fold {fold} has no two clips of one label and one of another, and {len(halvable[fold])} "
                f"usable recordings of {2 * mel_params.context_seconds:.2f} s or more, expected 2; add some."
            )
    if any(any(rows) for rows in labels.values()):
        print("Too few held-out clips share a label, so the scores go by recordings.")
    return "recordings"


def _train_without(fold: str, clips: str, output: str, settings: dict) -> str:
    """The folder of an encoder trained without a fold; parts that are finished are kept."""
    run = _run_folder(output, fold)
    triplets = os.path.join(os.path.dirname(run), "triplets")
    if not _is_finished(triplets):
        sample_triplets(
            clips, triplets, constraints=(f"proximity:{settings['max_time_gap_seconds']}",),
            count=settings["num_triplets"], exclude_folds=(fold,), seed=settings["seed"],
            allow_repeats=True,  # a few recordings of one's own have few triplets
        )  # fmt: skip
    if not _is_trained(run):
        training.train(
            [triplets], run, encoder=settings["encoder"], num_steps=settings["num_steps"],
            batch_size=settings["batch_size"], seed=settings["seed"],
            steps_per_checkpoint=max(1, settings["num_steps"] // _LOG_ROWS),
        )  # fmt: skip
    return run
