"""From answers to labels: each answer goes to the cohabitants of its cluster, with where it came from.

Positive, negative and uncertain are three different things. The rules, by what was answered about a window:

  one class or several   the window is positive for them and negative for the other classes of the list, and
                         so are its cohabitants (`propagated`).
  none of these          the window is negative for all classes of the list. Its cohabitants are not, unless
                         asked for: that one window is something else says little about the others.
  unsure                 the window is uncertain, which is not the same as negative; nothing is propagated.
  contradicting answers  of several annotators: the window is uncertain, unless the last answer is to count.

Where several windows of a cluster were asked about, the confidence of a propagated class is the share of the
cluster's definite answers (classes or none) that name it: 1 for the usual single answer. What was answered
about a window itself stands over what its cluster says; where clusters are of clips (`pools_clips`), so does
what was answered about another window of its clip.

Source: Jansen et al. 2020, section 3.3.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from tfsound.active_learning.answer_log import LABELS, UNSURE, Answer
from tfsound.records import ActiveLearningError
from tfsound.window_labels import NEGATIVE, POSITIVE, UNCERTAIN

ON_CONFLICT = ("uncertain", "last")


@dataclasses.dataclass(frozen=True)
class WindowLabel:
    """What is known of a window, or of all windows of a cluster.

    Attributes:
      kind: `POSITIVE`, `NEGATIVE` or `UNCERTAIN`.
      labels: the classes, of a positive one only, in the order of their names.
      confidence: of each of these, in (0, 1].
      answers: what this rests on, the latest first.
    """

    kind: str
    labels: tuple[str, ...]
    confidence: tuple[float, ...]
    answers: tuple[Answer, ...]


def contradict(answers: Sequence[Answer]) -> bool:
    """Whether annotators said different things about a question; one who is unsure contradicts nobody."""
    definite = [answer for answer in answers if answer.answer != UNSURE]
    return any(not answer.says_the_same(definite[0]) for answer in definite[1:])


def label_of_answers(answers: Sequence[Answer], on_conflict: str = "uncertain") -> WindowLabel:
    """What the answers about one window say of it, one answer an annotator.

    Args:
      answers: at least one, none of them withdrawn.
      on_conflict: where they contradict, the window is `uncertain`, or the `last` one counts.
    """
    ordered = tuple(sorted(answers, key=lambda answer: answer.time, reverse=True))
    definite = [answer for answer in ordered if answer.answer != UNSURE]
    if not definite or (contradict(answers) and on_conflict == "uncertain"):
        return WindowLabel(UNCERTAIN, (), (), ordered)
    same = tuple(answer for answer in definite if answer.says_the_same(definite[0]))
    labels = tuple(sorted(definite[0].labels))
    return WindowLabel(POSITIVE if labels else NEGATIVE, labels, (1.0,) * len(labels), same)


@dataclasses.dataclass(frozen=True, eq=False)
class Propagation:
    """What is known of windows that were asked about, and of the clusters that they are in.

    Attributes:
      direct: window -> what was answered about it.
      of_cluster: cluster -> what its other windows are labelled with; absent where nothing is spread.
    """

    direct: dict[int, WindowLabel]
    of_cluster: dict[int, WindowLabel]

    def label(self, window: int, cluster: int) -> tuple[WindowLabel | None, bool]:
        """What is known of a window in a cluster, None for nothing, and whether it was answered directly."""
        if window in self.direct:
            return self.direct[window], True
        return self.of_cluster.get(cluster), False


def propagate(
    clusters: np.ndarray,
    asked: Mapping[int, Sequence[Answer]],
    *,
    on_conflict: str = "uncertain",
    propagate_none: bool = False,
) -> Propagation:
    """Spreads answers over clusters by the rules above.

    Args:
      clusters: int, (windows,), each window's cluster.
      asked: window -> the answers about it, one an annotator.
      on_conflict: see `label_of_answers`.
      propagate_none: whether the cohabitants of a window that is none of the classes are negative, too.

    Returns:
      What is known of windows and clusters; nothing of those that are absent.

    Raises:
      ActiveLearningError: an unknown `on_conflict`.
    """
    if on_conflict not in ON_CONFLICT:
        raise ActiveLearningError(
            f"on_conflict must be one of {', '.join(ON_CONFLICT)}, got {on_conflict!r}."
        )
    direct = {window: label_of_answers(answers, on_conflict) for window, answers in asked.items() if answers}
    definite: dict[int, list[WindowLabel]] = {}
    for window, label in direct.items():
        if label.kind != UNCERTAIN:
            definite.setdefault(int(clusters[window]), []).append(label)
    of_cluster = {}
    for cluster, labels in definite.items():
        if propagate_none or any(label.kind == POSITIVE for label in labels):
            of_cluster[cluster] = _combined(labels)
    return Propagation(direct, of_cluster)


def _combined(labels: Sequence[WindowLabel]) -> WindowLabel:
    """What the definite labels of some windows say of the others in their cluster."""
    names = sorted({name for label in labels for name in label.labels})
    shares = tuple(sum(name in label.labels for label in labels) / len(labels) for name in names)
    # Those that count come first: a positive label rests on the answers that name a class.
    answers = [answer for label in labels for answer in label.answers]
    answers.sort(key=lambda answer: (answer.answer == LABELS, answer.time), reverse=True)
    return WindowLabel(POSITIVE if names else NEGATIVE, tuple(names), shares, tuple(answers))


def label_arrays(
    propagation: Propagation, clusters: np.ndarray, class_names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Soft labels of all windows for training, and where they are known.

    Args:
      propagation: what is known.
      clusters: int, (windows,), each window's cluster, as `propagate` had them.
      class_names: (classes,), the columns; all that were answered are among them.

    Returns:
      float32, (windows, classes), the confidence of each class; bool, (windows,), whether a window is
      positive or negative: rows of windows that are uncertain, or of which nothing is known, are zero and
      False.
    """
    columns = {name: column for column, name in enumerate(class_names)}
    labels = np.zeros((len(clusters), len(columns)), np.float32)
    known = np.zeros(len(clusters), bool)

    def fill(windows: np.ndarray | int, label: WindowLabel) -> None:
        labels[windows] = 0
        known[windows] = label.kind != UNCERTAIN
        for name, confidence in zip(label.labels, label.confidence, strict=True):
            labels[windows, columns[name]] = confidence

    order = np.argsort(clusters, kind="stable")
    wanted = np.asarray(list(propagation.of_cluster), clusters.dtype)
    starts = np.searchsorted(clusters, wanted, side="left", sorter=order)
    ends = np.searchsorted(clusters, wanted, side="right", sorter=order)
    for start, end, label in zip(starts, ends, propagation.of_cluster.values(), strict=True):
        fill(order[start:end], label)
    for window, label in propagation.direct.items():
        fill(window, label)
    return labels, known
