"""The log of answers: `answers.jsonl` in a folder of questions, appended to and never rewritten.

An answer is one JSON object a line, on disk (fsync) before `AnswerLog.append` returns. The last line for a
question is what the page shows; `tfsound answers` takes the last of each annotator since it was withdrawn. A
crash can leave a part of a last line: readers leave it out with a warning, the next
writer cuts it off. Any other broken line is an error that names it. One writer at a time holds the lock on
`answers.lock`.

  {"question_id": "q0001", "answer": "labels", "labels": ["dog"], "annotator": "...",
   "time": "2026-11-21T17:00:00+00:00", "answer_id": "<uuid4>"}

`answer` is `labels` (one or several classes), `unsure`, `none` (none of the classes) or `withdrawn` (an
undo: as if never answered).
"""

import dataclasses
import datetime
import fcntl
import json
import os
import threading
import uuid
import warnings
from collections.abc import Collection, Iterable, Sequence
from typing import IO

from tfsound.active_learning.classes import SoundClass, write_classes
from tfsound.active_learning.question_set import CLASSES_NAME, QuestionSet, read_questions
from tfsound.records import ActiveLearningError, field, parse_object, shown

ANSWERS_NAME = "answers.jsonl"
LOCK_NAME = "answers.lock"
LABELS, UNSURE, NONE, WITHDRAWN = "labels", "unsure", "none", "withdrawn"
KINDS = (LABELS, UNSURE, NONE, WITHDRAWN)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What an annotator said to a question, and when.

    Attributes:
      question_id: what it answers.
      answer: one of `KINDS`.
      labels: the classes, where `answer` is `LABELS`; else none.
      annotator: who answered; may be empty.
      time: ISO 8601 with its offset from UTC.
      answer_id: the same answer sent or copied again has the same one; may be empty.
    """

    question_id: str
    answer: str
    labels: tuple[str, ...] = ()
    annotator: str = ""
    time: str = ""
    answer_id: str = ""

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)

    def says_the_same(self, other: "Answer") -> bool:
        """Whether two answers agree, whoever gave them and when; the order of labels counts for nothing."""
        return self.answer == other.answer and set(self.labels) == set(other.labels)


def utc_time(text: str, where: str) -> str:
    """A time in ISO 8601 as UTC; one without an offset is taken for UTC.

    Raises: ActiveLearningError naming `where` for anything that is no time.
    """
    try:
        time = datetime.datetime.fromisoformat(text)
        time = time.replace(tzinfo=datetime.UTC) if time.tzinfo is None else time.astimezone(datetime.UTC)
    except (ValueError, OverflowError) as error:
        raise ActiveLearningError(
            f"{where}: time must be ISO 8601, such as 2026-11-21T17:00:00+00:00, got {shown(text)}; correct "
            "it."
        ) from error
    return time.isoformat()


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def check_answer(
    answer: Answer, question_ids: Collection[str], class_names: Collection[str], where: str
) -> None:
    """Raises: ActiveLearningError naming `where` for an answer that cannot be one to these questions."""
    if answer.question_id not in question_ids:
        raise ActiveLearningError(
            f"{where}: the question {shown(answer.question_id)} is not among the {len(question_ids)} of this "
            "set; are these answers to another set?"
        )
    if answer.answer not in KINDS:
        raise ActiveLearningError(
            f"{where}: answer must be one of {', '.join(KINDS)}, got {shown(answer.answer)}; correct it."
        )
    if bool(answer.labels) != (answer.answer == LABELS):
        raise ActiveLearningError(
            f"{where}: the answer {answer.answer!r} {'needs' if answer.answer == LABELS else 'takes no'} "
            f"labels, got {shown(list(answer.labels))}; correct it."
        )
    unknown = [label for label in answer.labels if label not in class_names]
    if unknown:
        raise ActiveLearningError(
            f"{where}: the class {shown(unknown[0])} is not among the {len(class_names)} of the list; add it "
            f"to {CLASSES_NAME} or correct its name."
        )
    if len(set(answer.labels)) < len(answer.labels):
        raise ActiveLearningError(
            f"{where}: labels hold a class twice, {shown(list(answer.labels))}; remove one."
        )


def parse_answer(record: dict, where: str) -> Answer:
    """Raises: ActiveLearningError naming `where` for a record that is no answer."""
    return Answer(
        question_id=field(record, "question_id", str, where),
        answer=field(record, "answer", str, where),
        labels=tuple(field(record, "labels", list, where, default=[])),
        annotator=field(record, "annotator", str, where, default=""),
        time=utc_time(field(record, "time", str, where), where),
        answer_id=field(record, "answer_id", str, where, default=""),
    )


def latest(answers: Iterable[Answer]) -> dict[str, Answer]:
    """question_id -> the last answer to it, unless it was withdrawn; in the order of the answers."""
    last: dict[str, Answer] = {}
    for answer in answers:
        last.pop(answer.question_id, None)
        last[answer.question_id] = answer
    return {question_id: answer for question_id, answer in last.items() if answer.answer != WITHDRAWN}


def read_answers(folder: str) -> list[Answer]:
    """All answers of a folder of questions as they were given, those that were changed later among them.

    Returns:
      The answers in the order of the log, times in UTC; none where there is no log yet.

    Raises:
      ActiveLearningError: the folder is no set of questions; a line that is no answer to it (named).
    """
    return read_answers_of(read_questions(folder))


def read_answers_of(question_set: QuestionSet) -> list[Answer]:
    """`read_answers` for a set that has been read already."""
    path = os.path.join(question_set.folder, ANSWERS_NAME)
    answers, _ = _parse_log(path, _read_bytes(path), question_set.by_id(), question_set.class_names)
    return answers


def _read_bytes(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""


def _parse_log(
    path: str, data: bytes, question_ids: Collection[str], class_names: Sequence[str]
) -> tuple[list[Answer], int]:
    """The answers of a log, and how many of its bytes they take: what follows is the part of a line.

    A whole answer that lacks only its line end counts: a crash between the two leaves that, or an editor.
    """
    answers: list[Answer] = []
    by_id: dict[str, Answer] = {}
    names, offset = set(class_names), 0
    for number, line in enumerate(data.split(b"\n"), start=1):
        end = offset + len(line) + 1
        where = f"{path}, line {number}"
        if line.strip():
            try:
                record = parse_object(line, where)
            except ActiveLearningError:
                if end <= len(data):
                    raise
                warnings.warn(
                    f"{where}: the last line is only a part, as a crash leaves it; it is left out.",
                    stacklevel=4,
                )
                return answers, offset
            answer = parse_answer(record, where)
            check_answer(answer, question_ids, names, where)
            earlier = by_id.setdefault(answer.answer_id, answer) if answer.answer_id else answer
            if earlier is answer:
                answers.append(answer)
            elif earlier != answer:
                raise ActiveLearningError(
                    f"{where}: the answer_id {shown(answer.answer_id)} is that of another answer; remove one."
                )
        offset = min(end, len(data))
    return answers, len(data)


class AnswerLog:
    """The one writer of a folder's answers, as a context manager; threads may share it.

    Raises (on entering):
      ActiveLearningError: another writer holds the lock; see also `read_answers`.
      OSError: the file system has no locks.
    """

    def __init__(self, folder: str):
        self.folder = folder
        self.path = os.path.join(folder, ANSWERS_NAME)
        self._mutex = threading.Lock()
        self._lock: IO | None = None
        self._file: IO | None = None

    def __enter__(self) -> "AnswerLog":
        read_questions(self.folder)  # raises where there is no set, and so no place for a lock
        self._lock = self._take_lock()
        try:
            question_set = read_questions(self.folder)  # the last writer may have added classes until now
            self._question_ids = set(question_set.by_id())
            self._classes = list(question_set.classes)
            data = _read_bytes(self.path)
            self._answers, size = _parse_log(self.path, data, self._question_ids, question_set.class_names)
            self._by_answer_id = {answer.answer_id: answer for answer in self._answers if answer.answer_id}
            self._file = open(self.path, "ab", buffering=0)
            if size < len(data):
                self._file.truncate(size)
            if size and data[size - 1 : size] != b"\n":
                self._file.write(b"\n")
            self._sync()
            self._size = os.fstat(self._file.fileno()).st_size
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._file, self._lock):
            if file is not None:
                file.close()
        self._file = self._lock = None

    def _take_lock(self) -> IO:
        path = os.path.join(self.folder, LOCK_NAME)
        lock = open(path, "a+", encoding="utf-8")  # noqa: SIM115, closed on leaving
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            lock.close()
            raise ActiveLearningError(
                f"{self.folder} is open for answers elsewhere (process {holder}); only one may write at a "
                "time: close it there, or give each annotator a copy of the folder and merge them with "
                "`tfsound answers`."
            ) from error
        except OSError as error:
            lock.close()
            raise OSError(
                f"{path} cannot be locked ({error.strerror or error}), and nothing else keeps two writers "
                "apart; copy the folder to a disk that has locks, such as a local one."
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        return lock

    def _sync(self) -> None:
        """The file, and its name in the folder, are on disk afterwards."""
        os.fsync(self._file.fileno())
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def append(
        self,
        question_id: str,
        answer: str,
        labels: Iterable[str] = (),
        annotator: str = "",
        *,
        answer_id: str = "",
        time: str = "",
    ) -> Answer:
        """Puts an answer on disk; it is there when this returns.

        Args:
          question_id: what it answers.
          answer: one of `KINDS`.
          labels: the classes, for `labels` only.
          annotator: who answers.
          answer_id: by default a new one. The same answer with the same id again, as a client sends it that
            lost the reply, is not written twice.
          time: by default now.

        Returns:
          The answer as it is on disk.

        Raises:
          ActiveLearningError: an unknown question or class, labels that do not fit the kind, an id that is
            another answer's, a file that another program changed meanwhile.
          OSError: the disk is full or fails; the log is as before.
        """
        new = Answer(
            question_id=question_id,
            answer=answer,
            labels=tuple(labels),
            annotator=annotator,
            time=utc_time(time, self.path) if time else now(),
            answer_id=answer_id or str(uuid.uuid4()),
        )
        with self._mutex:
            if self._file is None:
                raise RuntimeError("AnswerLog is not open; use it in a `with` statement.")
            try:
                line = (new.to_json() + "\n").encode()
            except UnicodeEncodeError as error:
                raise ActiveLearningError(
                    f"an answer to {question_id} holds what is no text ({error.reason}); correct it."
                ) from error
            parse_answer(parse_object(line, self.path), self.path)  # what is written can be read
            check_answer(new, self._question_ids, self.class_names, self.path)
            earlier = self._by_answer_id.get(new.answer_id)
            if earlier is not None:
                if not (earlier.says_the_same(new) and earlier.question_id == question_id):
                    raise ActiveLearningError(
                        f"{self.path}: the answer_id {shown(new.answer_id)} is that of another answer; send "
                        "a new one."
                    )
                return earlier
            self._write(line)
            self._answers.append(new)
            self._by_answer_id[new.answer_id] = new
        return new

    def _write(self, line: bytes) -> None:
        """Appends a line and waits until it is on disk; on an error the file is cut to what it was."""
        descriptor = self._file.fileno()
        there = os.stat(self.path) if os.path.exists(self.path) else None
        mine = os.fstat(descriptor)
        if there is None or not os.path.samestat(there, mine) or mine.st_size != self._size:
            raise ActiveLearningError(
                f"{self.path} was changed by another program while it was open here; close that, and start "
                "again."
            )
        try:
            written = 0
            while written < len(line):
                written += os.write(descriptor, line[written:])
            os.fsync(descriptor)
        except BaseException:
            os.ftruncate(descriptor, self._size)
            raise
        self._size += len(line)

    def current(self) -> dict[str, Answer]:
        """question_id -> the answer that counts; questions that have none are absent."""
        with self._mutex:
            return latest(self._answers)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes that may be answered, those added meanwhile among them."""
        return tuple(sound_class.name for sound_class in self._classes)

    def add_class(self, name: str, parents: Iterable[str] = ()) -> SoundClass:
        """Adds a class to the folder's list. Raises: ActiveLearningError as `check_classes`."""
        with self._mutex:
            new = SoundClass(name, parents=tuple(parents))
            write_classes(os.path.join(self.folder, CLASSES_NAME), [*self._classes, new])
            self._classes.append(new)
        return new
