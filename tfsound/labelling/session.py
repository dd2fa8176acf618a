"""A labelling session without its server: questions, the answers on disk, and what the page shows of them."""

import datetime
import itertools
import os
import statistics
import threading
import uuid
from collections.abc import Iterable, Sequence

from tfsound.active_learning import (
    LABELS,
    WITHDRAWN,
    ActiveLearningError,
    Answer,
    AnswerLog,
    QuestionSet,
    SoundClass,
    ancestors,
    read_answers,
)

# The digits as they lie on a keyboard, then its home row: none of them has another meaning on the page.
SLOT_KEYS = "1234567890asdfghjkl"
MAX_NAME_LENGTH = 100
_MAX_PAUSE_SECONDS = 300.0  # a longer gap between two answers is a break, not work
_NUM_PACE_ANSWERS = 20  # the pace is that of the last ones


class Slots:
    """Which class each key of `SLOT_KEYS` chooses.

    A class keeps its key as long as it is among the recent ones, so that fingers may learn it. A new one
    takes a free key, or that of the class that was not answered for longest.

    Args:
      names: of all classes; where there are keys for all of them, each has one from the start.
    """

    def __init__(self, names: Sequence[str]):
        initial = list(names) if len(names) <= len(SLOT_KEYS) else []
        self.names: list[str | None] = [*initial, *[None] * (len(SLOT_KEYS) - len(initial))]
        self._last_use = [0] * len(SLOT_KEYS)
        self._clock = 0

    def use(self, names: Iterable[str]) -> None:
        """Notes that these classes were answered."""
        for name in names:
            self._clock += 1
            if name in self.names:
                slot = self.names.index(name)
            elif None in self.names:
                slot = self.names.index(None)
            else:
                slot = min(range(len(self.names)), key=self._last_use.__getitem__)
            self.names[slot] = name
            self._last_use[slot] = self._clock

    def to_json(self) -> list[dict]:
        return [{"key": key, "name": name} for key, name in zip(SLOT_KEYS, self.names, strict=True)]


def seconds_an_answer(answers: Sequence[Answer]) -> float | None:
    """The pace: the median time between the last answers, breaks left out; None where there are too few."""
    times = [datetime.datetime.fromisoformat(answer.time).timestamp() for answer in answers]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    gaps = [gap for gap in gaps if 0 <= gap <= _MAX_PAUSE_SECONDS][-_NUM_PACE_ANSWERS:]
    return statistics.median(gaps) if len(gaps) >= 3 else None


class Session:
    """What one run of the page knows; threads may share it.

    Args:
      question_set: what is asked.
      log: where answers go, entered already.
      annotator: who answers.
      allow_new_classes: whether answers may add classes to the list of the folder.

    Raises:
      ActiveLearningError: the answers on disk cannot be read.
    """

    def __init__(
        self, question_set: QuestionSet, log: AnswerLog, *, annotator: str, allow_new_classes: bool = False
    ):
        self.question_set = question_set
        self.annotator = annotator
        self._allow_new_classes = allow_new_classes
        self._log = log
        self._lock = threading.Lock()
        self._classes = {sound_class.name: sound_class for sound_class in question_set.classes}
        self._slots = Slots(list(self._classes))
        self._answers = read_answers(question_set.folder)
        self._answer_ids = {answer.answer_id for answer in self._answers}
        self._num_before = len(self._answers)
        for answer in self._answers:
            self._slots.use(answer.labels)

    @property
    def num_questions(self) -> int:
        return len(self.question_set.questions)

    @property
    def num_answered(self) -> int:
        return len(self._log.current())

    @property
    def num_stored(self) -> int:
        """Grows with every answer: a page that knows another number is behind."""
        return len(self._answers)

    @property
    def num_answers_of_this_run(self) -> int:
        """How many lines this run has put on disk, corrections among them."""
        return len(self._answers) - self._num_before

    def answer(
        self, question_id: str, kind: str, labels: Sequence[str], *, answer_id: str
    ) -> tuple[dict, dict]:
        """Puts an answer on disk, once however often it comes with the same id.

        Returns:
          The question's state and the session's, as `to_json` has them.

        Raises:
          ActiveLearningError: an unknown question, class or kind of answer, an id that is none or is that of
            another answer, a new class where the session takes none.
          OSError: the disk is full or fails; nothing was stored.
        """
        _require_uuid(answer_id)
        with self._lock:
            if kind == LABELS and question_id in {q.question_id for q in self.question_set.questions}:
                self._add_new_classes(labels)
            if kind == WITHDRAWN and answer_id not in self._answer_ids:
                self._require_answered(question_id)
            answer = self._log.append(question_id, kind, labels, self.annotator, answer_id=answer_id)
            if answer_id not in self._answer_ids:
                self._answer_ids.add(answer_id)
                self._answers.append(answer)
                self._slots.use(answer.labels)
            return self._question_state(question_id, self._log.current()), self._state()

    def _require_answered(self, question_id: str) -> None:
        if question_id not in self._log.current():
            raise ActiveLearningError(f"{question_id!r} has no answer that could be taken back.")

    def _add_new_classes(self, labels: Sequence[str]) -> None:
        """Adds what the list lacks. They are on disk before the answer, which cannot be read without them."""
        for name in labels:
            if name in self._classes or not self._allow_new_classes:
                continue  # the log refuses unknown classes itself
            if len(name) > MAX_NAME_LENGTH:
                raise ActiveLearningError(
                    f"A new class may have {MAX_NAME_LENGTH} characters at most, got {len(name)}; shorten it."
                )
            twin = next(
                (c for c in self._classes.values() if c.display_name.casefold() == name.casefold()), None
            )
            if twin is not None:
                raise ActiveLearningError(
                    f"{name!r} is in the list as {twin.display_name!r}; choose that one."
                )
            self._classes[name] = self._log.add_class(name)

    def to_json(self) -> dict:
        """All that the page needs to begin: the set, its classes, every question's state."""
        with self._lock:
            current = self._log.current()
            paths = ancestors(self._classes.values())
            return {
                "name": os.path.basename(os.path.abspath(self.question_set.folder)),
                "allow_new_classes": self._allow_new_classes,
                "questions": [
                    self._question_state(question.question_id, current)
                    for question in self.question_set.questions
                ],
                **self._state(),
                "classes": [self._class_to_json(each, paths[each.name]) for each in self._classes.values()],
            }

    def _class_to_json(self, sound_class: SoundClass, path: Sequence[str]) -> dict:
        return {
            "name": sound_class.name,
            "display_name": sound_class.display_name,
            "path": [self._classes[name].display_name for name in path],
        }

    def _question_state(self, question_id: str, current: dict[str, Answer]) -> dict:
        answer = current.get(question_id)
        return {
            "question_id": question_id,
            "answer": answer.answer if answer else None,
            "labels": list(answer.labels) if answer else [],
        }

    def _state(self) -> dict:
        """What changes with every answer."""
        num_answered, num_questions = len(self._log.current()), self.num_questions
        pace = seconds_an_answer(self._answers)
        return {
            "slots": self._slots.to_json(),
            "num_classes": len(self._classes),
            "num_stored": self.num_stored,
            "progress": {
                "num_answered": num_answered,
                "num_questions": num_questions,
                "seconds_left": None if pace is None else pace * (num_questions - num_answered),
            },
        }


def _require_uuid(answer_id: str) -> None:
    try:
        is_one = str(uuid.UUID(answer_id)) == answer_id
    except ValueError:
        is_one = False
    if not is_one:
        raise ActiveLearningError(f"answer_id must be a UUID in lower case, got {answer_id[:80]!r}.")
