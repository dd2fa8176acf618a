"""The job `questions`: from clips, or from embeddings of any origin, to a folder of questions.

Memory: three times the embeddings as float32 while clusters are made, 1.5 GB for a million windows of
128 dimensions; log-mel windows are in memory a batch at a time.

Source: Jansen et al. 2020, section 3.3.
"""

import dataclasses
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from tfsound import datasets
from tfsound.active_learning import exchange
from tfsound.active_learning.answer_log import ANSWERS_NAME
from tfsound.active_learning.audio import write_audio
from tfsound.active_learning.classes import SoundClass, check_classes, read_classes
from tfsound.active_learning.clustering import (
    Assign,
    clustering_of,
    mean_directions,
    require_embeddings,
    unit_rows,
)
from tfsound.active_learning.gathering import gather_answers
from tfsound.active_learning.output import pending_folder
from tfsound.active_learning.question_clusters import clusters_of_round, reused_round
from tfsound.active_learning.question_options import AUTO, HEAD, K_MEANS, QuestionOptions
from tfsound.active_learning.question_set import (
    INFO_NAME,
    QuestionSet,
    WindowClusters,
    read_questions,
    write_questions,
)
from tfsound.active_learning.selection import EarlierQuestion, make_questions
from tfsound.active_learning.windows import CONTEXT_SECONDS, canonical_order, select, windows_of
from tfsound.records import ActiveLearningError
from tfsound.window_labels import window_starts


def questions(
    clips: str,
    embedder: str,
    output: str,
    *,
    manifest: str = "",
    num_questions: int = 50,
    num_clusters: int = 0,
    cluster_by: str = AUTO,
    pools_clips: bool = False,
    strategy: str = "largest",
    classes: str = "",
    folds: tuple[str, ...] = (),
    exclude_folds: tuple[str, ...] = (),
    after: tuple[str, ...] = (),
    annotations: tuple[str, ...] = (),
    neighbours: int = 3,
    formats: tuple[str, ...] = (),
    seed: int = 0,
    overwrite: bool = False,
) -> QuestionSet:
    """Chooses which sounds to ask about: one of each cluster, so that an answer labels all of it.

    The context windows of all clips are embedded and clustered; of each cluster one member is drawn.
    `tfsound label` asks, `tfsound answers` spreads the answers over the clusters.

    Args:
      clips: the folder of clip examples.
      embedder: the folder of a finished training run, or of an exported SavedModel.
      output: the folder to make.
      manifest: where the sounds come from, CSV or JSON Lines; without it questions have no sound.
      num_questions: the budget; asks about all clusters where there are fewer.
      num_clusters: K; 0 for that of the cluster head, or of the last round of --after, or else as many as
        questions.
      cluster_by: `head`, the clusters that the training run has learned; `k-means`; or `auto`: those of the
        last round of --after, else the head if there is one, and k-means where num_clusters is given.
      pools_clips: cluster clips by the means of their embeddings, in place of windows: a question is about a
        window of a clip, and its answer goes to all windows of the clips in its cluster. Rounds of --after
        whose clusters are used again stay as they were.
      strategy: of more clusters than questions, the `largest` first; `random` ones; or `diverse` ones, each
        the farthest from those before.
      classes: what may be answered: a file with one name a line, a CSV of name, display_name and parents, or
        a folder with AudioSet's ontology.json and class_labels_indices.csv; by default the labels that the
        clips have.
      folds: the folds to ask about; all without.
      exclude_folds: folds not to ask about, such as those of a test.
      after: folders of earlier rounds: asks about what is still unclear, and about no window again.
      annotations: files with answers to these that were given elsewhere: CSV, JSON Lines or an export of
        Label Studio.
      neighbours: how many members of the same cluster, from other recordings, to show beside each.
      formats: files for other tools to write as well: `csv`, `label-studio`.
      seed: of clusters and draws.
      overwrite: replace a finished output; never one that holds answers.

    Returns:
      The questions.

    Raises:
      ActiveLearningError: a parameter that cannot be, nothing left to ask, an output that exists;
      InUseError: another process makes it; ManifestError, OSError: the manifest or the list of classes cannot
      be read; DatasetError: the clips are missing or damaged; TrainingError: no such model; ValueError: the
      front ends differ.
    """
    from tfsound import evaluation, examples  # here, because TensorFlow takes seconds

    options = QuestionOptions(
        num_questions, num_clusters, strategy, neighbours, after, annotations, formats, cluster_by,
        pools_clips, seed,
    )  # fmt: skip
    info = examples.read_dataset_info(clips, kind=examples.CLIPS)
    for chosen in (folds, exclude_folds):
        examples.require_folds(info, chosen, clips)
    class_list = _class_list(classes, after, info.label_names)
    if exchange.LABEL_STUDIO in options.formats and not manifest:  # before clips are embedded for hours
        raise ActiveLearningError(
            f"the format {exchange.LABEL_STUDIO} needs sounds; name the manifest that they are cut from."
        )
    manifest_rows = read_rows(manifest) if manifest else {}
    embed, mel_params = evaluation.load_embed(embedder)
    mel_params.require_equal(info.mel_params, clips)
    assign, options = _cluster_head(embedder, options)
    chosen_clips = _ClipStream(clips, folds, exclude_folds, info.num_examples)
    with pending_folder(output, INFO_NAME, overwrite=overwrite, precious=ANSWERS_NAME) as folder:
        embeddings, windows = embed_clips(chosen_clips, embed, mel_params)
        question_set = _make_set(
            folder, output, embeddings, windows, options,
            classes=class_list, manifest_rows=manifest_rows, assign=assign,
            settings={"clips": clips, "embedder": embedder, "folds": folds, "exclude_folds": exclude_folds},
        )  # fmt: skip
    return question_set


def _cluster_head(embedder: str, options: QuestionOptions) -> tuple[Assign | None, QuestionOptions]:
    """The assignment of the run's cluster head where it is to make the clusters, with its K; or none."""
    from tfsound import training

    is_asked_for = options.cluster_by == HEAD
    if not is_asked_for and (options.cluster_by == K_MEANS or options.num_clusters or options.after):
        return None, options
    try:
        head = training.load_cluster_head(embedder)
    except training.TrainingError:
        if is_asked_for:
            raise
        return None, options
    if options.num_clusters not in (0, head.num_clusters):
        raise ActiveLearningError(
            f"num_clusters is {head.num_clusters} with the cluster head of {embedder}, got "
            f"{options.num_clusters}; leave it out, or cluster by {K_MEANS}."
        )
    return head.assign, dataclasses.replace(options, num_clusters=head.num_clusters)


class _ClipStream:
    """The clips of some folds; its length, of all folds, is what a progress bar goes by."""

    def __init__(self, folder: str, folds: tuple[str, ...], exclude_folds: tuple[str, ...], num_clips: int):
        self._folder, self._folds, self._exclude_folds = folder, folds, exclude_folds
        self._num_clips = num_clips

    def __len__(self) -> int:
        return self._num_clips

    def __iter__(self) -> Iterator:
        from tfsound import examples

        for clip in examples.iter_clips(self._folder, folds=self._folds):
            if clip.fold not in self._exclude_folds:
                yield clip


def embed_clips(
    clips, embed: Callable[[np.ndarray], np.ndarray], mel_params
) -> tuple[np.ndarray, WindowClusters]:
    """Embeds every context window of a stream of clips.

    Args:
      clips: clip examples, an iterable.
      embed: log-mel windows, float32 (windows, frames, mel_bins) -> embeddings, (windows, dim).
      mel_params: the front end of the clips.

    Returns:
      Unit embeddings, float32 (windows, dim), and the windows, in the order of the clips.

    Raises:
      ActiveLearningError: no clip at all, embeddings that are not finite.
    """
    from tfsound.evaluation import segments

    parts, clip_ids, recording_ids, starts = [], [], [], []
    for clip, vectors in segments.embedded_clips(clips, embed, mel_params):
        parts.append(unit_rows(vectors))
        clip_ids += [clip.clip_id] * len(vectors)
        recording_ids += [clip.recording_id] * len(vectors)
        starts += window_starts(clip.start_seconds, len(vectors), mel_params.context_seconds)
    if not parts:
        raise ActiveLearningError("there is no clip to ask about; name other folds, or check the set.")
    windows = windows_of(
        clip_ids, recording_ids, starts, num_windows=len(clip_ids), window_seconds=mel_params.context_seconds
    )
    return np.concatenate(parts), windows


def questions_from_embeddings(
    embeddings: np.ndarray,
    clip_ids: Sequence[str],
    output: str,
    *,
    classes: Sequence[SoundClass],
    options: QuestionOptions | None = None,
    recording_ids: Sequence[str] = (),
    start_seconds: Sequence[float] = (),
    window_seconds: float = CONTEXT_SECONDS,
    manifest_rows: Mapping[str, datasets.ManifestRow] | None = None,
    assign: Assign | None = None,
    overwrite: bool = False,
) -> QuestionSet:
    """Makes questions from embeddings of any origin, of windows or of whole clips.

    Args:
      embeddings: float, (windows, dim).
      clip_ids: (windows,).
      output: the folder to make.
      classes: what may be answered.
      options: budget, clusters, strategy; see `questions`.
      recording_ids: (windows,), by default the clips.
      start_seconds: (windows,), by default 0: whole clips.
      window_seconds: how long a window, or a clip, is.
      manifest_rows: clip_id -> where its sound is, see `read_rows`; without it questions have no sound.
      assign: a cluster head, to cluster by in place of k-means; it gives the clusters their numbers.
      overwrite: replace a finished output; never one that holds answers.

    Returns:
      The questions.

    Raises:
      ActiveLearningError: as `questions`; also ids or times that do not fit the embeddings.
    """
    embeddings = require_embeddings(embeddings)
    windows = windows_of(
        clip_ids, recording_ids if len(recording_ids) else clip_ids, start_seconds,
        num_windows=len(embeddings), window_seconds=window_seconds,
    )  # fmt: skip
    classes = check_classes(classes, "classes")
    with pending_folder(output, INFO_NAME, overwrite=overwrite, precious=ANSWERS_NAME) as folder:
        question_set = _make_set(
            folder, output, embeddings, windows, options or QuestionOptions(), classes=classes,
            manifest_rows=manifest_rows or {}, assign=assign, settings={},
        )  # fmt: skip
    return question_set


def read_rows(manifest: str) -> dict[str, datasets.ManifestRow]:
    """clip_id -> row of a manifest. Raises: ManifestError as `datasets.read_manifest`."""
    return {row.clip_id: row for row in datasets.read_manifest(manifest)}


def _class_list(classes: str, after: Sequence[str], label_names: Sequence[str]) -> list[SoundClass]:
    if classes:
        return read_classes(classes)
    if after:
        return list(read_questions(after[-1]).classes)
    if not label_names:
        raise ActiveLearningError(
            "the clips have no labels to take classes from; name a list of classes, such as a text file "
            "with one name a line."
        )
    return check_classes([SoundClass(name) for name in label_names], "the labels of the clips")


def _make_set(
    folder: str,
    output: str,
    embeddings: np.ndarray,
    windows: WindowClusters,
    options: QuestionOptions,
    *,
    classes: Sequence[SoundClass],
    manifest_rows: Mapping[str, datasets.ManifestRow],
    assign: Assign | None,
    settings: dict,
) -> QuestionSet:
    """Clusters, chooses, cuts the sounds and writes all into the folder that becomes the output."""
    order = canonical_order(windows)
    windows, embeddings = select(windows, order), embeddings[order]
    rounds = [read_questions(path) for path in options.after]
    reused = None if assign else reused_round(options, rounds)
    options = dataclasses.replace(options, pools_clips=(reused or options).pools_clips)
    if options.pools_clips:
        embeddings = mean_directions(embeddings, windows.clip_index)[windows.clip_index]
    clusters, num_clusters, cluster_by = clusters_of_round(embeddings, windows, options, reused, assign)
    clustering = clustering_of(embeddings, clusters, num_clusters)
    windows = dataclasses.replace(windows, cluster=clustering.assignments, distance=clustering.distances)
    chosen = make_questions(
        windows, clustering, embeddings,
        num_questions=options.num_questions, strategy=options.strategy, neighbours=options.neighbours,
        seed=options.seed, earlier=earlier_questions(rounds, options.annotations),
        pools_clips=options.pools_clips, first_number=_next_number(rounds),
    )  # fmt: skip
    if manifest_rows:
        chosen, problems = write_audio(folder, chosen, manifest_rows)
        if problems:
            warnings.warn(
                f"{len(problems)} sounds of questions or neighbours cannot be read; the first: {problems[0]}",
                stacklevel=3,
            )
    question_set = QuestionSet(
        folder=folder,
        questions=tuple(chosen),
        classes=tuple(classes),
        num_windows=windows.num_windows,
        num_clusters=clustering.num_clusters,
        num_active_clusters=clustering.num_active,
        window_seconds=windows.window_seconds,
        settings=settings | dataclasses.asdict(options) | {"cluster_by": cluster_by},
    )
    final = dataclasses.replace(question_set, folder=output)
    if exchange.CSV in options.formats:
        exchange.write_question_csv(final, os.path.join(folder, exchange.CSV_NAME))
    if exchange.LABEL_STUDIO in options.formats:
        names = (exchange.TASKS_NAME, exchange.CONFIG_NAME)
        exchange.write_label_studio_tasks(final, *(os.path.join(folder, name) for name in names))
    write_questions(question_set, windows)
    return final


def earlier_questions(
    rounds: Sequence[QuestionSet], annotations: Sequence[str] = ()
) -> list[EarlierQuestion]:
    """What was asked in earlier rounds, with the answers; a window asked about in several counts once."""
    answers = gather_answers(rounds, annotations).of_window
    asked = {question.key: question for question_set in rounds for question in question_set.questions}
    return [
        EarlierQuestion(question.clip_id, question.start_seconds, tuple(answers.get(key, ())))
        for key, question in asked.items()
    ]


def _next_number(rounds: Sequence[QuestionSet]) -> int:
    """Numbers go on where those of earlier rounds end, so that an id says which question is meant."""
    ids = [question.question_id for question_set in rounds for question in question_set.questions]
    return 1 + max((int(name[1:]) for name in ids if name[:1] == "q" and name[1:].isdecimal()), default=0)
