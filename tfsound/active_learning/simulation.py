"""Active learning without people: a simulated annotator answers with the labels that a data set has.

Source: Jansen et al. 2020, section 4.2: "we simulate both random labeling baselines and active learning
procedures using the AudioSet labels".
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from tfsound import sampling
from tfsound.active_learning.answer_log import LABELS, NONE, Answer
from tfsound.active_learning.clustering import Assign, Clustering, clustering_of, k_means, require_embeddings
from tfsound.active_learning.propagation import label_arrays, propagate
from tfsound.active_learning.question_set import Question
from tfsound.active_learning.selection import make_questions
from tfsound.active_learning.windows import canonical_order, select, windows_of
from tfsound.metrics import LabelQuality, label_quality, v_measure
from tfsound.records import ActiveLearningError

ANNOTATOR = "simulated"
_TIME = "1970-01-01T00:00:00+00:00"


def simulated_answers(
    questions: Sequence[Question], labels_of_clip: Mapping[str, Sequence[str]]
) -> list[Answer]:
    """Answers each question with the labels of its clip; a clip without one is none of the classes.

    Args:
      questions: what is asked.
      labels_of_clip: clip_id -> its labels, of all clips that are asked about.

    Returns:
      An answer a question, in their order.

    Raises:
      ActiveLearningError: a clip whose labels are not given.
    """
    answers = []
    for question in questions:
        if question.clip_id not in labels_of_clip:
            raise ActiveLearningError(
                f"the labels of clip {question.clip_id!r} are not given; add them, or ()."
            )
        labels = tuple(sorted(labels_of_clip[question.clip_id]))
        kind = LABELS if labels else NONE
        answers.append(Answer(question.question_id, kind, labels, ANNOTATOR, _TIME, question.question_id))
    return answers


@dataclasses.dataclass(frozen=True, eq=False)
class Simulation:
    """What a budget of simulated answers gives. Rows are the windows in the order in which they were given.

    Attributes:
      questions: what was asked.
      asked: int64, (questions,), the window of each.
      clustering: of the windows; None under random labelling.
      labels: float32, (windows, classes), soft labels; zero where nothing is known.
      known: bool, (windows,), where labels are known.
      quality: of the labels, against the true ones.
      v_measure: of the clusters, where every window has exactly one true class; else nan.
    """

    questions: tuple[Question, ...]
    asked: np.ndarray
    clustering: Clustering | None
    labels: np.ndarray
    known: np.ndarray
    quality: LabelQuality
    v_measure: float

    def __str__(self) -> str:
        clusters = (
            f"{self.clustering.num_active:,} active clusters, V-measure {self.v_measure:.3f}; "
            if self.clustering
            else ""
        )
        return f"{len(self.asked):,} answers; {clusters}{self.quality}"


def simulate(
    embeddings: np.ndarray,
    true_labels: np.ndarray,
    class_names: Sequence[str],
    *,
    num_questions: int,
    num_clusters: int = 0,
    strategy: str = "largest",
    clip_ids: Sequence[str] = (),
    recording_ids: Sequence[str] = (),
    start_seconds: Sequence[float] = (),
    assign: Assign | None = None,
    seed: int = 0,
) -> Simulation:
    """Questions, answers from the true labels, propagated labels, and how good they are.

    Args:
      embeddings: float, (windows, dim).
      true_labels: bool, (windows, classes), each window's clip's.
      class_names: (classes,).
      num_questions: the budget.
      num_clusters: K of k-means; by default the budget.
      strategy: see `make_questions`.
      clip_ids: (windows,), by default each window is a clip of its own.
      recording_ids: (windows,), by default the clips.
      start_seconds: (windows,), by default 0.
      assign: a cluster head in place of k-means; it gives the clusters their numbers.
      seed: of clusters and draws.

    Returns:
      What came of it; of a budget larger than the number of clusters, a question a cluster.

    Raises:
      ActiveLearningError: shapes that do not fit, a parameter out of range.

    Source: Jansen et al. 2020, section 4.2, tables 2 and 3.
    """
    embeddings = require_embeddings(embeddings)
    true_labels = _checked_labels(true_labels, len(embeddings), class_names)
    num_windows = len(embeddings)
    clip_ids = clip_ids if len(clip_ids) else [f"{row:09d}" for row in range(num_windows)]
    recording_ids = recording_ids if len(recording_ids) else clip_ids
    windows = windows_of(clip_ids, recording_ids, start_seconds, num_windows=num_windows)
    order = canonical_order(windows)
    windows, embeddings = select(windows, order), embeddings[order]
    if assign is None:
        num_clusters = num_clusters or min(num_questions, num_windows)
        clusters = k_means(embeddings, num_clusters, seed=seed)
    else:
        clusters = assign(embeddings)
    clustering = clustering_of(embeddings, clusters, num_clusters)
    windows = dataclasses.replace(windows, cluster=clustering.assignments, distance=clustering.distances)
    questions = make_questions(
        windows, clustering, embeddings,
        num_questions=num_questions, strategy=strategy, neighbours=0, seed=seed,
    )  # fmt: skip
    asked = windows.find(question.key for question in questions)
    answers = _true_answers(questions, true_labels[order[asked]], class_names)
    propagation = propagate(
        clustering.assignments, {int(row): [answer] for row, answer in zip(asked, answers, strict=True)}
    )
    inverse = np.argsort(order)
    labels, known = label_arrays(propagation, clustering.assignments, class_names)
    back = dataclasses.replace(
        clustering, assignments=clustering.assignments[inverse], distances=clustering.distances[inverse]
    )
    return Simulation(
        questions=tuple(questions),
        asked=order[asked],
        clustering=back,
        labels=labels[inverse],
        known=known[inverse],
        quality=label_quality(true_labels, labels[inverse]),
        v_measure=_v_measure(true_labels, back.assignments),
    )


def _true_answers(
    questions: Sequence[Question], true_labels: np.ndarray, class_names: Sequence[str]
) -> list[Answer]:
    """The simulated annotator on windows: each has the labels of its row."""
    names = np.asarray(class_names, object)
    answers = []
    for question, present in zip(questions, true_labels, strict=True):
        answers += simulated_answers([question], {question.clip_id: names[present].tolist()})
    return answers


def label_at_random(
    true_labels: np.ndarray,
    class_names: Sequence[str],
    *,
    num_questions: int,
    over: np.ndarray | None = None,
    seed: int = 0,
) -> Simulation:
    """The baseline: the budget spent on windows drawn at random.

    Args:
      true_labels: bool, (windows, classes), each window's clip's.
      class_names: (classes,).
      num_questions: the budget.
      over: int, (windows,), groups, such as clips: an answer labels all of a group, and none is asked about
        twice before all were asked about; without, an answer labels its window alone.
      seed: of the draw.

    Returns:
      What came of it, without questions and clusters.

    Raises:
      ActiveLearningError: shapes that do not fit; a budget of 0, or of more than the windows.

    Source: Jansen et al. 2020, section 4.2, table 3, "Random".
    """
    true_labels = _checked_labels(true_labels, len(true_labels), class_names)
    num_windows = len(true_labels)
    if not 1 <= num_questions <= num_windows:
        raise ActiveLearningError(
            f"num_questions must be from 1 to the number of windows, {num_windows}, got {num_questions}."
        )
    groups = np.arange(num_windows) if over is None else np.asarray(over)
    if groups.shape != (num_windows,):
        raise ActiveLearningError(f"over must be ({num_windows},), a group a window, got {groups.shape}.")
    order = sampling.random_generator(seed, "label at random").permutation(num_windows)
    is_first = np.zeros(num_windows, bool)
    is_first[np.unique(groups[order], return_index=True)[1]] = True
    asked = np.concatenate([order[is_first], order[~is_first]])[:num_questions]
    known = np.isin(groups, groups[asked])
    labels = (true_labels & known[:, None]).astype(np.float32)
    return Simulation(
        questions=(), asked=asked, clustering=None, labels=labels, known=known,
        quality=label_quality(true_labels, labels), v_measure=float("nan"),
    )  # fmt: skip


def _checked_labels(labels: np.ndarray, num_windows: int, class_names: Sequence[str]) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.dtype != bool or labels.shape != (num_windows, len(class_names)):
        raise ActiveLearningError(
            f"true_labels must be bool ({num_windows}, {len(class_names)}), (windows, classes), got "
            f"{labels.dtype} {labels.shape}."
        )
    return labels


def _v_measure(true_labels: np.ndarray, clusters: np.ndarray) -> float:
    is_exclusive = (true_labels.sum(axis=1) == 1).all()
    return v_measure(true_labels.argmax(axis=1), clusters) if is_exclusive else float("nan")
