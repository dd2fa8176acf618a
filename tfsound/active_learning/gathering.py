"""The answers that count, from several folders of questions and from files of other tools."""

import dataclasses
from collections.abc import Iterable, Sequence

from tfsound.active_learning.answer_log import WITHDRAWN, Answer, read_answers_of
from tfsound.active_learning.exchange import read_annotations
from tfsound.active_learning.question_set import QuestionSet
from tfsound.records import ActiveLearningError
from tfsound.window_labels import WindowKey


@dataclasses.dataclass(frozen=True)
class GatheredAnswers:
    """The answers that count.

    Attributes:
      of_window: window -> its answers, one an annotator, none of them withdrawn; windows without are absent.
      changed: of each annotator who answered a question several times and not always the same: the answers
        that differ from the one that counts, and that one last.
    """

    of_window: dict[WindowKey, list[Answer]]
    changed: tuple[tuple[Answer, ...], ...]


def gather_answers(question_sets: Sequence[QuestionSet], annotations: Sequence[str] = ()) -> GatheredAnswers:
    """The answers about each window, one an annotator.

    Of an annotator's answers the last in a log or file counts, and of several logs and files the one with
    the latest time. What counts may be that an answer was withdrawn; in a log, whoever withdraws an answer
    takes back all before it, for the page then shows none.

    Args:
      question_sets: folders with their logs; copies of one, or rounds.
      annotations: files with answers that were given elsewhere, see `read_annotations`.

    Raises:
      ActiveLearningError: a log or file that cannot be used, or a file without an answer.
    """
    keys = [{question.question_id: question.key for question in set_.questions} for set_ in question_sets]
    sources: list[Iterable[tuple[int, Answer]]] = [
        [(number, answer) for answer in _with_all_withdrawn(read_answers_of(set_))]
        for number, set_ in enumerate(question_sets)
    ]
    for path in annotations:
        found = read_annotations(path, question_sets)
        if not found:
            raise ActiveLearningError(
                f"{path} holds no answer: no line has an `answer` or `labels`, no task a choice; fill some "
                "in."
            )
        sources.append(found)
    last: dict[tuple[WindowKey, str], Answer] = {}
    said: dict[tuple[WindowKey, str], list[Answer]] = {}
    for source in sources:
        of_source: dict[tuple[WindowKey, str], Answer] = {}
        for number, answer in source:
            key = keys[number][answer.question_id], answer.annotator
            of_source[key] = answer
            said[key] = [] if answer.answer == WITHDRAWN else [*said.get(key, ()), answer]
        for key, answer in of_source.items():
            if key not in last or last[key].time <= answer.time:
                last[key] = answer
    windows: dict[WindowKey, list[Answer]] = {}
    changed = []
    for key, answer in last.items():
        if answer.answer != WITHDRAWN:
            windows.setdefault(key[0], []).append(answer)
            # A copy of a log has the same answers.
            others = dict.fromkeys(other for other in said[key] if not other.says_the_same(answer))
            changed += [(*others, answer)] if others else []
    return GatheredAnswers(windows, tuple(changed))


def _with_all_withdrawn(answers: Iterable[Answer]) -> list[Answer]:
    """The answers of a log; one that withdraws stands for each annotator who answered before it as well."""
    result: list[Answer] = []
    annotators: dict[str, set[str]] = {}
    for answer in answers:
        so_far = annotators.setdefault(answer.question_id, set())
        so_far.add(answer.annotator)
        said_by = sorted(so_far) if answer.answer == WITHDRAWN else [answer.annotator]
        result += [dataclasses.replace(answer, annotator=annotator) for annotator in said_by]
    return result
