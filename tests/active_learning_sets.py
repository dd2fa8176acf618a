"""Folders of questions made by hand, for tests: every window is a clip and a recording of its own."""

import numpy as np

from tfsound import active_learning as al

CLASSES = ("cat", "dog", "rain")
WINDOW_SECONDS = 0.96


def make_windows(clusters, *, prefix="clip"):
    """Windows in these clusters."""
    count = len(clusters)
    return al.WindowClusters(
        clip_index=np.arange(count, dtype=np.int32),
        start_seconds=np.zeros(count),
        cluster=np.asarray(clusters, np.int32),
        distance=np.zeros(count, np.float32),
        clip_ids=np.asarray([f"{prefix}-{number:03d}" for number in range(count)]),
        recording_ids=np.asarray([f"recording-{number:03d}" for number in range(count)]),
        window_seconds=WINDOW_SECONDS,
    )


def window_keys(windows):
    """What tells each window from others, as `Question.key` does."""
    return [
        (str(windows.clip_ids[clip]), round(1000 * start))
        for clip, start in zip(windows.clip_index, windows.start_seconds, strict=True)
    ]


def make_question(window, clusters, *, number, prefix="clip"):
    return al.Question(
        question_id=f"q{number:04d}",
        cluster=int(clusters[window]),
        cluster_size=list(clusters).count(clusters[window]),
        clip_id=f"{prefix}-{window:03d}",
        recording_id=f"recording-{window:03d}",
        start_seconds=0.0,
        end_seconds=WINDOW_SECONDS,
    )


def write_set(folder, clusters, asked=None, *, names=CLASSES, first_number=1, prefix="clip"):
    """Writes a set that asks about these windows; by default about the first of each cluster."""
    clusters = list(clusters)
    if asked is None:
        asked = [clusters.index(cluster) for cluster in sorted(set(clusters))]
    questions = tuple(
        make_question(window, clusters, number=number, prefix=prefix)
        for number, window in enumerate(asked, start=first_number)
    )
    question_set = al.QuestionSet(
        folder=str(folder),
        questions=questions,
        classes=tuple(al.SoundClass(name) for name in names),
        num_windows=len(clusters),
        num_clusters=max(clusters) + 1,
        num_active_clusters=len(set(clusters)),
        window_seconds=WINDOW_SECONDS,
        settings={"seed": 0},
    )
    al.write_questions(question_set, make_windows(clusters, prefix=prefix))
    return question_set


def attempt(function, *arguments):
    """(what it returns, "") or (None, the message of the error that it is allowed to raise)."""
    try:
        return function(*arguments), ""
    except al.ActiveLearningError as error:
        return None, str(error)


def answer(folder, *given, annotator="a", times=()):
    """Appends answers: (question_id, "unsure" or "none" or "withdrawn" or a tuple of labels)."""
    with al.AnswerLog(str(folder)) as log:
        for number, (question_id, said) in enumerate(given):
            kind, labels = (said, ()) if isinstance(said, str) else ("labels", said)
            time = times[number] if times else ""
            log.append(question_id, kind, labels, annotator, time=time)
