"""Questions for other tools, and their answers back: CSV, JSON Lines and Label Studio.

CSV: a question a line, with columns to fill in: `answer` (labels, unsure or none; may stay empty where there
are labels), `labels` (joined by `;`), `annotator`, `time`. A line without answer and labels is not answered
yet. Other columns may be left out but `question_id`. JSON Lines: the lines of `answers.jsonl`.

Label Studio: one task a question, with one `Choices` control over the classes and two choices of their own
for unsure and none. Its JSON export and its JSON-MIN export are read back; a task that was skipped is not
answered.

References: https://labelstud.io/guide/task_format, https://labelstud.io/guide/export (JSON, JSON_MIN),
https://labelstud.io/tags/choices.
"""

import csv
import datetime
import json
import os
import urllib.parse
from collections.abc import Iterator, Sequence
from xml.sax.saxutils import quoteattr

from tfsound.active_learning.answer_log import (
    LABELS,
    NONE,
    UNSURE,
    Answer,
    check_answer,
    parse_answer,
    utc_time,
)
from tfsound.active_learning.question_set import Question, QuestionSet
from tfsound.records import (
    ActiveLearningError,
    csv_rows,
    field,
    iter_json_lines,
    parse_json,
    read_text,
    shown,
)
from tfsound.window_labels import milliseconds

CSV, LABEL_STUDIO = "csv", "label-studio"
FORMATS = (CSV, LABEL_STUDIO)
CSV_NAME = "questions.csv"
TASKS_NAME, CONFIG_NAME = "label_studio_tasks.json", "label_studio_config.xml"
# Label Studio serves files below its document root at this address; the path follows.
LOCAL_FILES = "/data/local-files/?d="
UNSURE_CHOICE, NONE_CHOICE = "(unsure)", "(none of these)"
_SPECIAL = {UNSURE_CHOICE: UNSURE, NONE_CHOICE: NONE}
_CONTROL = "answer"
_WINDOW_COLUMNS = (
    "clip_id",
    "recording_id",
    "start_seconds",
    "end_seconds",
    "cluster",
    "cluster_size",
    "audio",
)
_ANSWER_COLUMNS = ("answer", "labels", "annotator", "time")
_COLUMNS = ("question_id", *_WINDOW_COLUMNS, *_ANSWER_COLUMNS)
# A drop-down with a search field, where so many check boxes would not fit a screen.
_MOST_CHECK_BOXES = 30


def write_question_csv(question_set: QuestionSet, path: str) -> None:
    """Writes questions as a table to be filled in.

    Spreadsheet programs run cells that begin as a formula does: such text gets a `'` in front.
    """
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for question in question_set.questions:
            window = [_harmless(getattr(question, column)) for column in _WINDOW_COLUMNS]
            writer.writerow([question.question_id, *window, *("" for _ in _ANSWER_COLUMNS)])


def _harmless(value: object) -> object:
    is_formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if is_formula else value


def write_label_studio_tasks(
    question_set: QuestionSet, tasks: str, config: str = "", *, audio_prefix: str = LOCAL_FILES
) -> None:
    """Writes questions as tasks to import into Label Studio, and the labelling interface for them.

    Args:
      question_set: the questions, with audio.
      tasks: the JSON file of tasks to write.
      config: the XML file to write, to be pasted into the project's labelling interface; none without.
      audio_prefix: what stands before the path of a sound in its folder; by default local files, served from
        the parent of the folder of questions.

    Raises:
      ActiveLearningError: questions without audio, a class named as one of the two choices of our own.
    """
    silent = [question.question_id for question in question_set.questions if not question.audio]
    if silent:
        raise ActiveLearningError(
            f"{len(silent)} questions have no sound, such as {silent[0]}; make them with a manifest."
        )
    folder = urllib.parse.quote(os.path.basename(os.path.abspath(question_set.folder)))
    records = []
    for question in question_set.questions:
        window = {name: getattr(question, name) for name in _WINDOW_COLUMNS if name != "audio"}
        audio = f"{audio_prefix}{folder}/{question.audio}"
        records.append({"data": {"audio": audio, "question_id": question.question_id, **window}})
    with open(tasks, "w", encoding="utf-8") as file:
        json.dump(records, file, indent=1, ensure_ascii=False)
    if config:
        with open(config, "w", encoding="utf-8") as file:
            file.write(label_studio_config(question_set))


def label_studio_config(question_set: QuestionSet) -> str:
    """The labelling interface, in Label Studio's XML."""
    special = sorted(set(_SPECIAL) & set(question_set.class_names))
    if special:
        raise ActiveLearningError(
            f"a class is named {special[0]!r}, which stands for an answer here; rename it."
        )
    layout = "select" if len(question_set.classes) > _MOST_CHECK_BOXES else "inline"
    choices = [(c.name, c.display_name) for c in question_set.classes]
    choices += [(choice, choice) for choice in _SPECIAL]
    # The result holds the alias, which is the name, where people read another text.
    lines = [
        f"    <Choice value={quoteattr(text)}{'' if text == name else f' alias={quoteattr(name)}'}/>"
        for name, text in choices
    ]
    return "\n".join(
        [
            "<View>",
            '  <Audio name="audio" value="$audio"/>',
            f'  <Choices name="{_CONTROL}" toName="audio" choice="multiple" required="true"',
            f'           layout="{layout}">',
            *lines,
            "  </Choices>",
            "</View>",
            "",
        ]
    )


def read_annotations(path: str, question_sets: Sequence[QuestionSet]) -> list[tuple[int, Answer]]:
    """Reads answers that were given elsewhere: CSV, JSON Lines or an export of Label Studio.

    A file that ends in .csv is CSV; of others the first character tells: `[` begins an export of Label
    Studio, `{` JSON Lines, and anything else CSV. Where a line names its clip and time, they must be those
    of the question.

    Args:
      path: the file.
      question_sets: the questions that may be answered.

    Returns:
      (number of the question set, answer) of each answer, in the order of the file. Times are UTC; answers
      without one count as given when the file was last changed.

    Raises:
      ActiveLearningError: not one of these formats, an unknown question, class or answer; the place is named.
    """
    changed = utc_time(_changed(path), path)
    read = _reader(path)
    questions = [question_set.by_id() for question_set in question_sets]
    class_names = [set(question_set.class_names) for question_set in question_sets]
    found = []
    for where, answer, window in read(path, changed):
        number = _find_set(answer.question_id, window, questions, where)
        check_answer(answer, questions[number], class_names[number], where)
        found.append((number, answer))
    return found


def _changed(path: str) -> str:
    return datetime.datetime.fromtimestamp(int(os.path.getmtime(path)), datetime.UTC).isoformat()


# (where, answer, what the line says of its window) of each answer
_Found = Iterator[tuple[str, Answer, dict]]


def _reader(path: str):
    if path.lower().endswith(".csv"):
        return _read_csv
    with open(path, "rb") as file:
        first = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    return {b"[": _read_label_studio, b"{": _read_json_lines}.get(first, _read_csv)


def _find_set(question_id: str, window: dict, questions: Sequence[dict[str, Question]], where: str) -> int:
    """Which set a question is of. Sets that ask the same of the same window are copies: the first is taken.

    Raises: ActiveLearningError where none has it, where it is about another window, or where several have it.
    """
    candidates = [
        (number, of_set[question_id]) for number, of_set in enumerate(questions) if question_id in of_set
    ]
    fitting = [(number, question) for number, question in candidates if _is_about(question, window)]
    if candidates and not fitting:
        question = candidates[0][1]
        raise ActiveLearningError(
            f"{where}: {question_id} is about {shown(window.get('clip_id'))} at "
            f"{window.get('start_seconds')} s there, and about {shown(question.clip_id)} at "
            f"{question.start_seconds} s here; are these answers to another set?"
        )
    windows = {(question.clip_id, int(milliseconds(question.start_seconds))) for _, question in fitting}
    if len(windows) > 1:
        raise ActiveLearningError(
            f"{where}: {len(fitting)} of the folders have a question {question_id}; give the columns clip_id "
            "and start_seconds, or read the annotations with one folder at a time."
        )
    return fitting[0][0] if fitting else 0


def _is_about(question: Question, window: dict) -> bool:
    """Whether a line that names a clip and a time means the window of a question; it may name neither."""
    clip_id, start = window.get("clip_id"), window.get("start_seconds")
    if clip_id and clip_id not in (question.clip_id, _harmless(question.clip_id)):
        return False
    try:
        return start in (None, "") or int(milliseconds(start)) == int(milliseconds(question.start_seconds))
    except (ValueError, TypeError, OverflowError):
        return False


def _read_csv(path: str, changed: str) -> _Found:
    for where, row in csv_rows(path, ["question_id"]):
        row = {name.strip(): value.strip() for name, value in row.items()}
        labels = tuple(label.strip() for label in row.get("labels", "").split(";") if label.strip())
        kind = row.get("answer", "").lower() or (LABELS if labels else "")
        if kind:
            time = utc_time(row["time"], where) if row.get("time") else changed
            answer = Answer(row["question_id"], kind, labels, row.get("annotator", ""), time)
            yield where, answer, row


def _read_json_lines(path: str, changed: str) -> _Found:
    for where, record in iter_json_lines(path):
        yield where, parse_answer({"time": changed} | record, where), record


def _read_label_studio(path: str, changed: str) -> _Found:
    """In JSON each task holds its annotations, in JSON-MIN each annotation holds its task's data."""
    for number, task in enumerate(parse_json(read_text(path), path), start=1):
        where = f"{path}, task {number}"
        if not isinstance(task, dict):
            raise ActiveLearningError(f"{where}: expected an object, got {shown(task)}; export it again.")
        is_min = "annotations" not in task
        data = task if is_min else field(task, "data", dict, where)
        for annotation in [task] if is_min else _objects(task["annotations"], where):
            if annotation.get("was_cancelled"):
                continue
            chosen = _chosen_min(task, where) if is_min else _chosen(annotation, where)
            if not chosen:
                continue
            question_id = field(data, "question_id", str, where)
            time = annotation.get("updated_at") or annotation.get("created_at")
            annotator = annotation.get("annotator") if is_min else annotation.get("completed_by")
            kind, labels = _kind_of(chosen, where)
            answer = Answer(
                question_id,
                kind,
                labels,
                _annotator(annotator, where),
                utc_time(str(time), where) if time else changed,
            )
            yield where, answer, data


def _objects(value: object, where: str) -> list[dict]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ActiveLearningError(
            f"{where}: expected a list of objects, got {shown(value)}; export it again."
        )
    return value


def _chosen(annotation: dict, where: str) -> list[str]:
    """All choices of an annotation, whatever its controls are named."""
    chosen = []
    for result in _objects(annotation.get("result") or [], where):
        if result.get("type") == "choices":
            chosen += field(field(result, "value", dict, where), "choices", list, where)
    return chosen


def _chosen_min(task: dict, where: str) -> list[str]:
    """JSON-MIN holds one choice as text, several as an object, and nothing where nothing was chosen."""
    value = task.get(_CONTROL)
    if value is None or isinstance(value, str):
        return [value] if value else []
    if not isinstance(value, dict):
        raise ActiveLearningError(
            f"{where}: {_CONTROL} must be text or choices, got {shown(value)}; export it again."
        )
    return field(value, "choices", list, where)


def _annotator(value: object, where: str) -> str:
    """Who: Label Studio gives the number or the e-mail address of a user, or an object that holds them."""
    if isinstance(value, dict):
        value = value.get("email") or value.get("id")
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ActiveLearningError(f"{where}: the annotator must be text or a number, got {shown(value)}.")
    return str(value)


def _kind_of(chosen: Sequence[str], where: str) -> tuple[str, tuple[str, ...]]:
    chosen = tuple(dict.fromkeys(chosen))
    special = [choice for choice in chosen if choice in _SPECIAL]
    if special and len(chosen) > 1:
        raise ActiveLearningError(
            f"{where}: {special[0]!r} was chosen together with "
            f"{shown([c for c in chosen if c != special[0]])}; correct it there."
        )
    return (_SPECIAL[special[0]], ()) if special else (LABELS, chosen)
