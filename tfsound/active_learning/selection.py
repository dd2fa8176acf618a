"""Which windows are asked about: one randomly chosen member of each cluster, the clusters by a strategy.

Every draw is a stable hash of the seed and what is drawn, so questions do not depend on the order of the
windows.

Source: Jansen et al. 2020, section 3.3.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tfsound import sampling
from tfsound.active_learning.answer_log import Answer
from tfsound.active_learning.clustering import Clustering, farthest_first, unit_rows
from tfsound.active_learning.propagation import NEGATIVE, label_of_answers
from tfsound.active_learning.question_set import (
    Neighbour,
    Question,
    WindowClusters,
    WindowKey,
    milliseconds,
)
from tfsound.records import ActiveLearningError

STRATEGIES = ("largest", "random", "diverse")
_MOST_NEIGHBOUR_CANDIDATES = 10_000


@dataclasses.dataclass(frozen=True)
class EarlierQuestion:
    """A question of an earlier round, and what counts of the answers to it: one an annotator."""

    clip_id: str
    start_seconds: float
    answers: tuple[Answer, ...] = ()

    @property
    def key(self) -> WindowKey:
        return self.clip_id, int(milliseconds(self.start_seconds))


def is_settled(questions: Iterable[EarlierQuestion]) -> bool:
    """Whether there is nothing left to ask of a cluster, by the questions about its members.

    It is settled where some question was answered with exactly one class, and no other with another one
    alone or with none. So a cluster is unclear that nothing was asked of, that is mixed, or of which all
    that is known is "unsure", "none", several classes or a contradiction of annotators. A question that
    nobody has answered yet settles its cluster: its answer may still come.
    """
    questions = list(questions)
    if any(not question.answers for question in questions):
        return True
    labels = [label_of_answers(question.answers) for question in questions]
    clear = {label.labels for label in labels if len(label.labels) == 1}
    return len(clear) == 1 and all(label.kind != NEGATIVE for label in labels)


def make_questions(
    windows: WindowClusters,
    clustering: Clustering,
    embeddings: np.ndarray,
    *,
    num_questions: int,
    strategy: str = "largest",
    neighbours: int = 3,
    seed: int = 0,
    earlier: Sequence[EarlierQuestion] = (),
    pools_clips: bool = False,
    first_number: int = 1,
) -> list[Question]:
    """Chooses what to ask: of each of `num_questions` clusters one member at random.

    A budget larger than the number of clusters that are left asks about all of these.

    Args:
      windows: what there is.
      clustering: which cluster each window is in, in the order of `windows`.
      embeddings: float, (windows, dim), to find neighbours.
      num_questions: the budget, at least 1.
      strategy: of more clusters than the budget, the `largest` first; `random` ones; or `diverse` ones, each
        the farthest from all before it (and from those asked about earlier), the largest first.
      neighbours: windows of the same cluster from other recordings to show beside it, nearest first.
      seed: of all draws.
      earlier: what was asked before; no such window, and no cluster that is settled, is asked about again.
      pools_clips: whether a question is about a clip, of which none is asked about again.
      first_number: of the first question.

    Returns:
      Questions without audio, in the order in which they are to be asked.

    Raises:
      ActiveLearningError: a parameter out of range; no cluster is left to ask about.
    """
    _require_options(num_questions, strategy, neighbours)
    asked = {question.key: question for question in earlier}
    candidates = _Candidates(windows, clustering, asked, seed, pools_clips)
    chosen = candidates.choose(num_questions, strategy, seed)
    questions = []
    for number, (row, window) in enumerate(chosen, start=first_number):
        members = candidates.members(row)
        near = _nearest(windows, embeddings, window, members, neighbours)
        questions.append(
            Question(
                question_id=f"q{number:04d}",
                cluster=int(clustering.active[row]),
                cluster_size=int(clustering.sizes[row]),
                neighbours=tuple(Neighbour(**_span(windows, index)) for index in near),
                **_span(windows, window),
            )
        )
    return questions


def _require_options(num_questions: int, strategy: str, neighbours: int) -> None:
    if num_questions < 1:
        raise ActiveLearningError(f"num_questions must be at least 1, got {num_questions}.")
    if neighbours < 0:
        raise ActiveLearningError(f"neighbours must be at least 0, got {neighbours}.")
    if strategy not in STRATEGIES:
        raise ActiveLearningError(f"strategy must be one of {', '.join(STRATEGIES)}, got {strategy!r}.")


class _Candidates:
    """The clusters that may still be asked about, rows of `clustering.active`, and their members."""

    def __init__(
        self,
        windows: WindowClusters,
        clustering: Clustering,
        asked: Mapping[WindowKey, EarlierQuestion],
        seed: int,
        pools_clips: bool,
    ):
        self._windows, self._clustering, self._seed = windows, clustering, seed
        self._order = np.argsort(clustering.assignments, kind="stable")
        self._ends = np.cumsum(clustering.sizes)
        self._starts_ms = milliseconds(windows.start_seconds)
        self._asked = np.zeros(windows.num_windows, bool)
        by_row: dict[int, list[EarlierQuestion]] = {}
        for question, window in zip(asked.values(), windows.find(asked), strict=True):
            if window >= 0:
                self._asked[window] = True
                row = np.searchsorted(clustering.active, clustering.assignments[window])
                by_row.setdefault(int(row), []).append(question)
        if pools_clips:
            self._asked = np.isin(windows.clip_index, windows.clip_index[self._asked])
        self._is_open = np.ones(clustering.num_active, bool)
        for row, questions in by_row.items():
            all_asked = self._asked[self.members(row)].all()
            self._is_open[row] = not (all_asked or is_settled(questions))
        self._was_asked = np.zeros(clustering.num_active, bool)
        self._was_asked[list(by_row)] = True

    def members(self, row: int) -> np.ndarray:
        """The windows of a cluster."""
        return self._order[self._ends[row] - self._clustering.sizes[row] : self._ends[row]]

    def choose(self, num_questions: int, strategy: str, seed: int) -> list[tuple[int, int]]:
        """(row of the cluster, window) of each question."""
        rows = np.flatnonzero(self._is_open)
        if not len(rows):
            raise ActiveLearningError(
                f"all {self._clustering.num_active} active clusters are clear or have been asked about; "
                "raise num_clusters to ask about smaller ones."
            )
        num_wanted = min(num_questions, len(rows))
        sizes = self._clustering.sizes[rows]
        hashes = [sampling.stable_hash(seed, "cluster", int(self._clustering.active[row])) for row in rows]
        if strategy == "random":
            order = sorted(range(len(rows)), key=hashes.__getitem__)
        else:
            order = sorted(range(len(rows)), key=lambda index: (-sizes[index], hashes[index]))
        if strategy == "diverse":
            chosen = self._diverse(num_wanted, first=int(rows[order[0]]))
        else:
            chosen = rows[order[:num_wanted]]
        return [(int(row), self._draw(int(row))) for row in chosen]

    def _diverse(self, num_wanted: int, first: int) -> np.ndarray:
        """Farthest first over the open clusters, and away from the clusters asked about before."""
        kept = np.flatnonzero(self._is_open | self._was_asked)
        taken = ~self._is_open[kept]
        first = -1 if taken.any() else int(np.searchsorted(kept, first))
        return kept[farthest_first(self._clustering.centres[kept], num_wanted, first, taken)]

    def _draw(self, row: int) -> int:
        """A member that was not asked about, at random."""
        members = self.members(row)
        members = members[~self._asked[members]]
        clip_ids, clip_index = self._windows.clip_ids, self._windows.clip_index

        def draw(window: int) -> tuple:
            clip_id, start = str(clip_ids[clip_index[window]]), int(self._starts_ms[window])
            return sampling.stable_hash(self._seed, "member", clip_id, start), clip_id, start

        return min(members.tolist(), key=draw)


def _span(windows: WindowClusters, window: int) -> dict:
    """Which window of which clip, as questions and neighbours say it."""
    clip = windows.clip_index[window]
    start = float(windows.start_seconds[window])
    return {
        "clip_id": str(windows.clip_ids[clip]),
        "recording_id": str(windows.recording_ids[clip]),
        "start_seconds": start,
        "end_seconds": round(start + windows.window_seconds, 6),
    }


def _nearest(
    windows: WindowClusters, embeddings: np.ndarray, window: int, members: np.ndarray, num_wanted: int
) -> list[int]:
    """The members nearest to a window, one a recording and none of its own; of a huge cluster, of a part."""
    if not num_wanted:
        return []
    recordings = windows.recording_ids[windows.clip_index[members]]
    own = windows.recording_ids[windows.clip_index[window]]
    members, recordings = members[recordings != own], recordings[recordings != own]
    if len(members) > _MOST_NEIGHBOUR_CANDIDATES:
        # Those nearest to the centre, not the first that come: the order of the windows counts for nothing.
        by_distance = np.argsort(windows.distance[members], kind="stable")[:_MOST_NEIGHBOUR_CANDIDATES]
        members, recordings = members[by_distance], recordings[by_distance]
    if not len(members):
        return []
    query = unit_rows(embeddings[window : window + 1])[0]
    distances = np.round(1 - unit_rows(embeddings[members]) @ query, 5)
    clips = windows.clip_ids[windows.clip_index[members]]
    starts = windows.start_seconds[members]
    chosen: dict[str, int] = {}
    for index in np.lexsort((starts, clips, distances)):
        chosen.setdefault(str(recordings[index]), int(members[index]))
        if len(chosen) == num_wanted:
            break
    return list(chosen.values())
