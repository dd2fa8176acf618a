"""Retrieval across modalities: which picture belongs to a sound, which sound to a picture?

Beyond the paper. Two protocols, each in both directions:
    pairs: each context window is the partner of the frame of its clip that is shown nearest to the window's
        centre, if that is near enough; how far up is the partner ranked among the partners of all windows?
    classes: is the picture of the right class the best among one of each class, drawn from other recordings
        than the sound's? For clips of one label each.
"""

import dataclasses
import heapq
import os
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from tqdm import tqdm

from tfsound import examples, mel, metrics, resumption, sampling, training
from tfsound.evaluation.segments import EvaluationError
from tfsound.evaluation.tables import ScoreTable

SOUND_TO_PICTURE = "sound -> picture"
PICTURE_TO_SOUND = "picture -> sound"
CHANCE = "chance"

# log-mel windows, float32 (n, frames, mel_bins), and RGB pictures in [0, 1], float32 (m, 128, 128, 3)
# -> how well each goes with each, (n, m), such as logits
PairScore = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class WindowsAndFrames:
    """Context windows and the frames that are their partners.

    `log_mel`: float32, (windows, frames, mel_bins); `partners`: int64, (windows,), the number of each
    window's frame; `jpegs`, (frames,). Of each window and of each frame the recording and the labels.
    """

    log_mel: np.ndarray
    partners: np.ndarray
    jpegs: tuple[bytes, ...]
    window_recordings: tuple[str, ...]
    window_labels: tuple[tuple[str, ...], ...]
    frame_recordings: tuple[str, ...]
    frame_labels: tuple[tuple[str, ...], ...]
    num_clips: int
    num_clips_without_frames: int


def windows_and_frames(
    clips: Iterable[examples.Clip],
    mel_params: mel.MelParams,
    *,
    num_windows: int = 1000,
    max_time_gap_seconds: float = 10.0,
    seed: int = 0,
) -> WindowsAndFrames:
    """Draws windows of clips that have frames, and pairs each with the nearest frame of its clip.

    The clips may be a stream: no more windows are held than are drawn. What is drawn does not depend on
    their order. Of two frames equally near it is the earlier.

    Args:
      num_windows: how many to draw; all where there are fewer.
      max_time_gap_seconds: a window that has no frame so near to its centre has no partner, and is not drawn.

    Raises:
      EvaluationError: no clip has a window with a frame; DatasetError: one is shorter than a window.
    """
    if num_windows < 1:
        raise ValueError(f"num_windows must be at least 1, got {num_windows}.")
    drawn: list[tuple] = []  # a heap: the window drawn last is the first to go
    num_clips = num_without = 0
    for clip in clips:
        num_clips += 1
        if not clip.frame_jpegs:
            num_without += 1
            continue
        log_mel = examples.clip_windows(clip, mel_params)
        frames, gaps = _nearest_frames(clip, len(log_mel), mel_params)
        for number in np.flatnonzero(gaps <= max_time_gap_seconds).tolist():
            # Negated, so that the heap gives up the highest first; the rest tells apart what a hash does not.
            key = (-sampling.stable_hash(seed, clip.clip_id, number), clip.clip_id, number, num_clips)
            if len(drawn) < num_windows or key > drawn[0][0]:
                entry = (key, log_mel[number].copy(), clip.frame_jpegs[frames[number]], _identity(clip))
                (heapq.heappush if len(drawn) < num_windows else heapq.heapreplace)(drawn, entry)
    if not drawn:
        raise EvaluationError(
            f"none of {num_clips} clips has frames within {max_time_gap_seconds:g} s of its windows, "
            f"{num_without} have none at all; make the clip examples from videos, with --frames-per-second 1."
        )
    drawn.sort(key=lambda entry: entry[0][1:])
    # Each picture of a clip once, though several windows may be its partners, and a still one of all.
    frames = {(key[1], jpeg): (jpeg, identity) for key, _, jpeg, identity in drawn}
    numbers = {name: number for number, name in enumerate(frames)}
    return WindowsAndFrames(
        log_mel=np.stack([log_mel for _, log_mel, *_ in drawn]),
        partners=np.array([numbers[key[1], jpeg] for key, _, jpeg, _ in drawn]),
        jpegs=tuple(jpeg for jpeg, _ in frames.values()),
        window_recordings=tuple(identity[0] for *_, identity in drawn),
        window_labels=tuple(identity[1] for *_, identity in drawn),
        frame_recordings=tuple(identity[0] for _, identity in frames.values()),
        frame_labels=tuple(identity[1] for _, identity in frames.values()),
        num_clips=num_clips,
        num_clips_without_frames=num_without,
    )


def _identity(clip: examples.Clip) -> tuple[str, tuple[str, ...]]:
    return clip.recording_id, clip.labels


def _nearest_frames(
    clip: examples.Clip, num_windows: int, mel_params: mel.MelParams
) -> tuple[np.ndarray, np.ndarray]:
    """The frame shown nearest to the centre of each window, and how far it is, in s: both (windows,)."""
    centres = clip.start_seconds + (np.arange(num_windows) + 0.5) * mel_params.context_seconds
    gaps = np.abs(centres[:, None] - np.array(clip.frame_seconds))
    return gaps.argmin(axis=1), gaps.min(axis=1)


def score_matrix(material: WindowsAndFrames, score: PairScore, *, block_size: int = 512) -> np.ndarray:
    """Scores of all windows with all frames, (windows, frames), a block of either at a time.

    A block of decoded pictures takes 0.2 MB a picture.

    Raises:
      EvaluationError: scores of another shape than (windows, frames), or that are no numbers.
    """
    scores = np.zeros((len(material.log_mel), len(material.jpegs)), np.float32)
    starts = range(0, len(material.jpegs), block_size)
    for start in tqdm(starts, desc="score", leave=False, mininterval=training.progress_seconds()):
        pictures = examples.decode_images(list(material.jpegs[start : start + block_size])).numpy()
        for first in range(0, len(scores), block_size):
            windows = material.log_mel[first : first + block_size]
            found = np.asarray(score(windows, pictures))
            if found.shape != (len(windows), len(pictures)):
                raise EvaluationError(
                    f"the score of {len(windows)} windows and {len(pictures)} pictures must have shape "
                    f"{(len(windows), len(pictures))}, got {found.shape}."
                )
            if np.isnan(found).any():
                raise EvaluationError("the score of a window and a picture is NaN; the model has diverged.")
            scores[first : first + len(windows), start : start + len(pictures)] = found
    return scores


@dataclasses.dataclass(frozen=True)
class CrossModalRetrieval:
    """Retrieval scores of both protocols, by direction: `SOUND_TO_PICTURE` and `PICTURE_TO_SOUND`.

    `by_class` has a result for each draw of the candidates, and is empty where `num_classes` is 0: where
    clips have no labels, or too few recordings a class.
    """

    by_pair: dict[str, metrics.RetrievalResult]
    by_class: dict[str, list[metrics.RetrievalResult]]
    num_classes: int
    num_clips: int
    num_clips_without_frames: int

    def measures(self) -> dict[str, float]:
        """Every score under its name."""
        found = {}
        for direction, result in self.by_pair.items():
            found |= {f"{direction} R@{k}": value for k, value in result.recall.items()}
            found[f"{direction} median rank"] = result.median_rank
        for direction, results in self.by_class.items():
            found[self._class_name(direction)] = float(np.mean([result.recall[1] for result in results]))
        return found

    def chance(self) -> dict[str, float]:
        """What a random order gives, under the names of `measures`."""
        found = {}
        for direction, result in self.by_pair.items():
            found |= {f"{direction} R@{k}": value for k, value in result.chance_recall.items()}
            found[f"{direction} median rank"] = result.chance_median_rank
        return found | {self._class_name(direction): 1 / self.num_classes for direction in self.by_class}

    def _class_name(self, direction: str) -> str:
        return f"{direction} R@1 of {self.num_classes} classes"

    def to_dict(self) -> dict:
        return dataclasses.asdict(self) | {"measures": self.measures(), "chance": self.chance()}

    def __str__(self) -> str:
        lines = [f"Retrieval across modalities, {self.num_clips} clips"]
        if self.num_clips_without_frames:
            lines[0] += f" ({self.num_clips_without_frames} of them without frames)"
        for direction, result in self.by_pair.items():
            lines.append(f"{direction}: {result}")
        for direction, results in self.by_class.items():
            spread = metrics.mean_and_spread([result.recall[1] for result in results])
            lines.append(
                f"{direction} among one of each of {self.num_classes} classes: recall at 1 {spread} "
                f"(chance {1 / self.num_classes:.3f}; {results[0].num_queries} queries)"
            )
        return "\n".join(lines)


def cross_modal_retrieval(
    clips: Iterable[examples.Clip],
    score: PairScore,
    mel_params: mel.MelParams,
    *,
    num_windows: int = 1000,
    max_time_gap_seconds: float = 10.0,
    num_draws: int = 10,
    seed: int = 0,
) -> CrossModalRetrieval:
    """Scores how well sounds find their pictures, and pictures their sounds.

    Args:
      clips: those to score, such as the clips of one fold; those without frames are counted.
      score: of pairs, such as `CoincidenceModel.pair_logits`.
      num_windows: how many windows to draw, whose partners are the candidates.
      max_time_gap_seconds: how far a frame may be from a window's centre to belong to it.
      num_draws: how often one candidate of each class is drawn.
      seed: of the draws.

    Raises:
      EvaluationError: see `windows_and_frames` and `score_matrix`.
    """
    material = windows_and_frames(
        clips, mel_params, num_windows=num_windows, max_time_gap_seconds=max_time_gap_seconds, seed=seed
    )
    scores = score_matrix(material, score)
    frames = np.arange(len(material.jpegs))
    by_class = _by_class(material, scores, num_draws, seed)
    return CrossModalRetrieval(
        by_pair={
            SOUND_TO_PICTURE: metrics.retrieval(scores, material.partners, frames),
            PICTURE_TO_SOUND: metrics.retrieval(scores.T, frames, material.partners),
        },
        by_class=by_class,
        num_classes=by_class[SOUND_TO_PICTURE][0].num_candidates if by_class else 0,
        num_clips=material.num_clips,
        num_clips_without_frames=material.num_clips_without_frames,
    )


def _by_class(
    material: WindowsAndFrames, scores: np.ndarray, num_draws: int, seed: int
) -> dict[str, list[metrics.RetrievalResult]]:
    """Of clips with one label, whose class has two recordings; nothing where there are not two classes."""
    recordings: dict[str, set[str]] = {}
    for recording, labels in zip(material.frame_recordings, material.frame_labels, strict=True):
        if len(labels) == 1:
            recordings.setdefault(labels[0], set()).add(recording)
    names = {name for name, owners in recordings.items() if len(owners) > 1}
    if len(names) < 2:
        return {}
    sides = []
    for labels, owners in (
        (material.window_labels, material.window_recordings),
        (material.frame_labels, material.frame_recordings),
    ):
        kept = [i for i, own in enumerate(labels) if len(own) == 1 and own[0] in names]
        sides.append((kept, [labels[i][0] for i in kept], [owners[i] for i in kept]))
    (windows, window_classes, window_groups), (frames, frame_classes, frame_groups) = sides
    kept = scores[np.ix_(windows, frames)]
    return {
        direction: metrics.retrieval_among_classes(
            *arguments, num_draws=num_draws, rng=sampling.random_generator(seed, direction)
        )
        for direction, arguments in (
            (SOUND_TO_PICTURE, (kept, window_classes, frame_classes, window_groups, frame_groups)),
            (PICTURE_TO_SOUND, (kept.T, frame_classes, window_classes, frame_groups, window_groups)),
        )
    }


def score_columns(results: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Each measure's figures over folds or seeds.

    Where one fold has fewer classes than another, their measures have other names: each column holds the
    figures of those folds that have it.
    """
    names = dict.fromkeys(name for result in results for name in result)
    return {name: [result[name] for result in results if name in result] for name in names}


def retrieval_table(rows: Mapping[str, Sequence[CrossModalRetrieval]]) -> ScoreTable:
    """Retrieval across modalities of several models side by side, over folds or seeds, chance below.

    Args:
      rows: name of a model to its results, one a fold or seed.

    Raises:
      EvaluationError: no result at all.
    """
    table = {
        name: score_columns([result.measures() for result in results])
        for name, results in rows.items()
        if results
    }
    first = next((results for results in rows.values() if results), ())
    if first:
        table[CHANCE] = score_columns([result.chance() for result in first])
    return ScoreTable(table)


def evaluate_cross_modal(
    clips: str,
    run: str,
    output: str = "",
    *,
    folds: tuple[str, ...] = (),
    num_windows: int = 1000,
    num_draws: int = 10,
    seed: int = 0,
) -> ScoreTable:
    """Scores how well a model of sound and image finds pictures by sound, and sounds by picture.

    Recall at 1, 5 and 10 and the median rank of a window's own picture among those of all windows drawn;
    and, where clips have one label each, how often the picture of the right class is the best of one of each.

    Args:
      clips: the folder of clip examples, with frames.
      run: the folder of a finished training run on pairs of sound and image.
      output: a JSON file to write; nothing is written without.
      folds: the folds to score, each by itself; all clips together without.
      num_windows: windows to draw from each fold.
      num_draws: how often one candidate of each class is drawn.
      seed: of the draws.

    Returns:
      The table, chance below.

    Raises:
      DatasetError: the clips are missing or damaged, or have no such fold; TrainingError: no such run;
      ValueError: the front ends differ; EvaluationError: no clip has frames.
    """
    model, mel_params = training.load_coincidence_model(run)
    info = examples.read_dataset_info(clips, kind=examples.CLIPS)
    mel_params.require_equal(info.mel_params, clips)
    if model.image_encoder is None:
        raise EvaluationError(f"{run} was trained on sound alone; name a run on pairs of sound and image.")
    results = [
        cross_modal_retrieval(
            examples.iter_clips(clips, folds=(fold,) if fold else ()), model.pair_logits, mel_params,
            num_windows=num_windows, num_draws=num_draws, seed=seed,
        )
        for fold in folds or ("",)
    ]  # fmt: skip
    table = retrieval_table({os.path.basename(os.path.normpath(run)): results})
    if output:
        resumption.write_json(output, table.to_dict())
    return table
