"""The folder of questions: what is asked about which windows, and every window's cluster.

  questions.json    what made it and how much it holds; written last: a folder without it is unfinished.
  questions.jsonl   a question a line, in the order in which they are to be asked.
  windows.npz       every window with its cluster: what an answer is spread over.
  classes.csv       the classes that may be answered.
  audio/            the sounds, where a manifest was given: 16 kHz mono WAV, up to 1 s around each window.
  answers.jsonl     the answers, see `tfsound.active_learning.answer_log`.

Times are seconds from the start of the recording.
"""

import dataclasses
import json
import os
import re
from collections.abc import Iterable

import numpy as np

from tfsound import resumption
from tfsound.active_learning.classes import SoundClass, read_classes, write_classes
from tfsound.records import ActiveLearningError, field, iter_json_lines, parse_object, shown
from tfsound.window_labels import WindowFinder, WindowKey, milliseconds

FORMAT = 1
INFO_NAME = "questions.json"
QUESTIONS_NAME = "questions.jsonl"
WINDOWS_NAME = "windows.npz"
CLASSES_NAME = "classes.csv"
AUDIO_FOLDER = "audio"
_QUESTION_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
# A name in the audio folder and nothing else: a set from elsewhere must not lead a reader out of it.
_AUDIO = re.compile(AUDIO_FOLDER + r"/[A-Za-z0-9_-]{1,64}\.wav")


@dataclasses.dataclass(frozen=True)
class Neighbour:
    """A window of the same cluster from another recording; `audio` is its path in the folder, or empty."""

    clip_id: str
    recording_id: str
    start_seconds: float
    end_seconds: float
    audio: str = ""
    audio_start_seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class Question:
    """Which class is this window of? The answer is spread over the `cluster_size` windows of its cluster.

    `audio` is the path of its sound in the folder, or empty; the sound begins at `audio_start_seconds`.
    """

    question_id: str
    cluster: int
    cluster_size: int
    clip_id: str
    recording_id: str
    start_seconds: float
    end_seconds: float
    audio: str = ""
    audio_start_seconds: float | None = None
    neighbours: tuple[Neighbour, ...] = ()

    @property
    def key(self) -> WindowKey:
        """What tells its window from others in any set: (clip_id, start in milliseconds)."""
        return self.clip_id, int(milliseconds(self.start_seconds))

    def to_dict(self) -> dict:
        """What `questions.jsonl` holds of it: fields without a value are left out."""
        fields = _without_audio(dataclasses.asdict(self))
        return fields | {"neighbours": [_without_audio(neighbour) for neighbour in fields["neighbours"]]}


def _without_audio(fields: dict) -> dict:
    return {
        name: value
        for name, value in fields.items()
        if not (name.startswith("audio") and value in ("", None))
    }


@dataclasses.dataclass(frozen=True, eq=False)
class WindowClusters:
    """Every window and its cluster.

    Attributes:
      clip_index: int32, (windows,), rows of `clip_ids` and `recording_ids`.
      start_seconds: float64, (windows,).
      cluster: int32, (windows,).
      distance: float32, (windows,), the cosine distance to the centre of its cluster.
      clip_ids, recording_ids: str, (clips,).
      window_seconds: how long a window is.
    """

    clip_index: np.ndarray
    start_seconds: np.ndarray
    cluster: np.ndarray
    distance: np.ndarray
    clip_ids: np.ndarray
    recording_ids: np.ndarray
    window_seconds: float

    @property
    def num_windows(self) -> int:
        return len(self.clip_index)

    def finder(self) -> WindowFinder:
        """Finds the place of a window by its name."""
        return WindowFinder(self.clip_ids.tolist(), self.clip_index, self.start_seconds)

    def find(self, keys: Iterable[WindowKey]) -> np.ndarray:
        """The places of windows, by `Question.key`, int64; -1 for one that is not among these."""
        finder = self.finder()
        return np.asarray([finder.find(clip_id, [start])[0] for clip_id, start in keys], np.int64)


@dataclasses.dataclass(frozen=True, eq=False)
class QuestionSet:
    """A finished folder of questions; see `read_windows` for its windows.

    Attributes:
      folder: where it lies.
      questions: in the order in which they are to be asked.
      classes: those that may be answered.
      num_windows: all windows, of which each question is about one.
      num_clusters, num_active_clusters: K, and how many of them have a window.
      window_seconds: how long a window is.
      settings: what made it.
    """

    folder: str
    questions: tuple[Question, ...]
    classes: tuple[SoundClass, ...]
    num_windows: int
    num_clusters: int
    num_active_clusters: int
    window_seconds: float
    settings: dict

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(sound_class.name for sound_class in self.classes)

    @property
    def pools_clips(self) -> bool:
        """Whether clusters are of clips, so that all windows of a clip are in one; see `questions`."""
        return self.settings.get("pools_clips") is True

    def by_id(self) -> dict[str, Question]:
        return {question.question_id: question for question in self.questions}

    def __str__(self) -> str:
        asked = sum(question.cluster_size for question in self.questions)
        without = "" if any(question.audio for question in self.questions) else "; without sounds to hear"
        return (
            f"{len(self.questions):,} questions about {len(self.questions):,} of "
            f"{self.num_active_clusters:,} active clusters; answers reach {asked:,} of {self.num_windows:,} "
            f"windows; {len(self.classes):,} classes{without} -> {self.folder}"
        )


def write_questions(question_set: QuestionSet, windows: WindowClusters) -> None:
    """Writes all but the audio into the folder of the set; `questions.json` comes last.

    Args:
      question_set: what is asked, and its folder, which is made where it is not there.
      windows: all windows with their clusters.

    Raises:
      ActiveLearningError: classes that `check_classes` refuses.
    """
    folder = question_set.folder
    os.makedirs(folder, exist_ok=True)
    write_classes(os.path.join(folder, CLASSES_NAME), question_set.classes)
    np.savez_compressed(
        os.path.join(folder, WINDOWS_NAME),
        clip_index=windows.clip_index.astype(np.int32),
        start_seconds=windows.start_seconds.astype(np.float64),
        cluster=windows.cluster.astype(np.int32),
        distance=windows.distance.astype(np.float32),
        clip_ids=np.asarray(windows.clip_ids, np.str_),
        recording_ids=np.asarray(windows.recording_ids, np.str_),
    )
    with open(os.path.join(folder, QUESTIONS_NAME), "w", encoding="utf-8") as file:
        for question in question_set.questions:
            file.write(json.dumps(question.to_dict(), ensure_ascii=False) + "\n")
    info = {
        "format": FORMAT,
        "settings": question_set.settings,
        "class_names": list(question_set.class_names),
        "num_questions": len(question_set.questions),
        "num_windows": question_set.num_windows,
        "num_clusters": question_set.num_clusters,
        "num_active_clusters": question_set.num_active_clusters,
        "window_seconds": question_set.window_seconds,
    }
    resumption.write_json(os.path.join(folder, INFO_NAME), info)


def read_questions(folder: str) -> QuestionSet:
    """Reads and checks a folder of questions.

    Raises:
      ActiveLearningError: no such folder, an unfinished one, one of another format, a file that was edited or
        damaged; the message names the file and the line.
    """
    path = os.path.join(folder, INFO_NAME)
    if not os.path.isfile(path):
        raise ActiveLearningError(
            f"{folder or '(empty)'} is no finished set of questions: it holds no {INFO_NAME}; make it with "
            "`tfsound questions`."
        )
    with open(path, "rb") as file:
        info = parse_object(file.read(), path)
    version = info.get("format")
    if version != FORMAT or isinstance(version, bool):
        raise ActiveLearningError(
            f"{path} has the format {shown(version)}, this tfsound reads {FORMAT}; make the questions again."
        )
    counts = {
        name: field(info, name, int, path) for name in ("num_windows", "num_clusters", "num_active_clusters")
    }
    num_questions = field(info, "num_questions", int, path, default=-1)
    questions = _read_question_lines(os.path.join(folder, QUESTIONS_NAME))
    if num_questions not in (-1, len(questions)):
        raise ActiveLearningError(
            f"{os.path.join(folder, QUESTIONS_NAME)} holds {len(questions)} questions, expected "
            f"{num_questions}; copy it again or make the questions again."
        )
    try:
        classes = read_classes(os.path.join(folder, CLASSES_NAME))
    except OSError as error:
        raise ActiveLearningError(
            f"{folder}: the list of classes cannot be read ({error}); copy it again or make the questions "
            "again."
        ) from error
    return QuestionSet(
        folder=folder,
        questions=questions,
        classes=tuple(classes),
        window_seconds=field(info, "window_seconds", float, path, default=0.96),
        settings=field(info, "settings", dict, path, default={}),
        **counts,
    )


def _read_question_lines(path: str) -> tuple[Question, ...]:
    if not os.path.isfile(path):
        raise ActiveLearningError(f"{path} is missing; copy it again or make the questions again.")
    questions, seen = [], set()
    for where, record in iter_json_lines(path):
        question = _parse_question(record, where)
        if question.question_id in seen:
            raise ActiveLearningError(f"{where}: {shown(question.question_id)} is there twice; remove one.")
        seen.add(question.question_id)
        questions.append(question)
    return tuple(questions)


def _parse_question(record: dict, where: str) -> Question:
    neighbours = record.get("neighbours", [])
    if not isinstance(neighbours, list) or not all(isinstance(item, dict) for item in neighbours):
        raise ActiveLearningError(f"{where}: neighbours must be a list of objects, got {shown(neighbours)}.")
    question_id = field(record, "question_id", str, where)
    if not _QUESTION_ID.fullmatch(question_id):
        raise ActiveLearningError(
            f"{where}: question_id must be 1 to 64 letters, digits, - and _, got {shown(question_id)}; "
            "rename it."
        )
    return Question(
        question_id=question_id,
        cluster=field(record, "cluster", int, where),
        cluster_size=field(record, "cluster_size", int, where),
        neighbours=tuple(Neighbour(**_parse_window(item, where)) for item in neighbours),
        **_parse_window(record, where),
    )


def _parse_window(record: dict, where: str) -> dict:
    """The fields that a question and its neighbours share."""
    audio = field(record, "audio", str, where, default="")
    if audio and not _AUDIO.fullmatch(audio):
        raise ActiveLearningError(
            f"{where}: audio must be a WAV file in {AUDIO_FOLDER}/ of this folder, got {shown(audio)}; make "
            "the questions again."
        )
    window = {
        "clip_id": field(record, "clip_id", str, where),
        "recording_id": field(record, "recording_id", str, where),
        "start_seconds": field(record, "start_seconds", float, where),
        "end_seconds": field(record, "end_seconds", float, where),
        "audio": audio,
    }
    if audio and "audio_start_seconds" in record:
        window["audio_start_seconds"] = field(record, "audio_start_seconds", float, where)
    return window


def read_windows(question_set: QuestionSet) -> WindowClusters:
    """Reads every window's cluster. Raises: ActiveLearningError for a missing or damaged file."""
    path = os.path.join(question_set.folder, WINDOWS_NAME)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        windows = WindowClusters(**arrays, window_seconds=question_set.window_seconds)
    except Exception as error:  # a damaged archive raises whatever zip, zlib or NumPy trips over
        raise ActiveLearningError(
            f"{path} cannot be read ({error!r}); copy it again or make the questions again."
        ) from error
    _require_fitting(windows, question_set, path)
    return windows


def _require_fitting(windows: WindowClusters, question_set: QuestionSet, path: str) -> None:
    """Raises: ActiveLearningError where arrays have other shapes, kinds or ranges than they should."""
    n = question_set.num_windows
    kinds = {"clip_index": "i", "start_seconds": "f", "cluster": "i", "distance": "f"}
    fits = all(
        getattr(windows, name).shape == (n,) and getattr(windows, name).dtype.kind == kind
        for name, kind in kinds.items()
    )
    ids = (windows.clip_ids, windows.recording_ids)
    fits = fits and all(array.ndim == 1 and array.dtype.kind == "U" for array in ids)
    fits = fits and len(windows.clip_ids) == len(windows.recording_ids)
    fits = fits and len(set(windows.clip_ids.tolist())) == len(windows.clip_ids)
    fits = fits and np.isfinite(windows.start_seconds).all()
    for indices, limit in (
        (windows.clip_index, len(windows.clip_ids)),
        (windows.cluster, question_set.num_clusters),
    ):
        fits = fits and (n == 0 or (indices.min() >= 0 and indices.max() < limit))
    if not fits:
        raise ActiveLearningError(
            f"{path} does not hold the {n} windows that {INFO_NAME} tells of; copy it again or make the "
            "questions again."
        )
