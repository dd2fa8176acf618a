"""Folders of questions as `tfsound questions` leaves them; the page's server in a process of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import threading

import numpy as np

from tfsound import media
from tfsound.active_learning import (
    Neighbour,
    Question,
    QuestionSet,
    SoundClass,
    WindowClusters,
    write_questions,
)

RATE = 16000
CLASSES = tuple(SoundClass(name) for name in ("dog", "rain", "siren", "engine"))
HIERARCHY = (
    SoundClass("Animal"),
    SoundClass("Dog", parents=("Animal",)),
    SoundClass("Bark", parents=("Dog",)),
    SoundClass("Hot dog stand"),
    SoundClass("Café"),
    *(SoundClass(f"Filler {number}") for number in range(30)),
)


def sine(hz=1000.0, seconds=2.96):
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(int(seconds * RATE)) / RATE)


def make_folder(
    folder,
    num_questions=3,
    *,
    num_neighbours=1,
    classes=CLASSES,
    with_audio=True,
    seconds=2.96,
    clip_id="clip-{}",
):
    """Questions about windows from 3.84 s to 4.80 s; each sound begins at 2.84 s of its recording."""
    os.makedirs(folder / "audio")

    def audio(name, hz):
        if not with_audio:
            return {}
        media.write_wav(folder / "audio" / f"{name}.wav", sine(hz, seconds), RATE)
        return {"audio": f"audio/{name}.wav", "audio_start_seconds": 2.84}

    questions = []
    for number in range(1, num_questions + 1):
        question_id, hz = f"q{number:04d}", 200.0 + 10 * number
        neighbours = tuple(
            Neighbour(
                f"other-{number}-{each}", f"take-{each}", 3.84, 4.80, **audio(f"{question_id}_{each}", 2 * hz)
            )
            for each in range(1, num_neighbours + 1)
        )
        window = (clip_id.format(number), f"recording-{number}", 3.84, 4.80)
        sizes = (number, 10 * number)
        questions.append(
            Question(question_id, *sizes, *window, **audio(question_id, hz), neighbours=neighbours)
        )
    cluster = np.repeat([q.cluster for q in questions], [q.cluster_size for q in questions])
    ids = np.array([f"clip-{number}" for number in range(len(cluster))])
    windows = WindowClusters(
        clip_index=np.arange(len(cluster)), start_seconds=np.zeros(len(cluster)), cluster=cluster,
        distance=np.zeros(len(cluster)), clip_ids=ids, recording_ids=ids, window_seconds=0.96,
    )  # fmt: skip
    num_clusters = num_questions + 1  # 0 is that of nobody
    write_questions(
        QuestionSet(
            folder=str(folder), questions=tuple(questions), classes=tuple(classes), num_windows=len(cluster),
            num_clusters=num_clusters, num_active_clusters=num_questions, window_seconds=0.96, settings={},
        ),
        windows,
    )  # fmt: skip
    return folder


def answer_lines(folder):
    path = folder / "answers.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


# `die` is "before:N" or "after:N": the process kills itself right before or after the N-th answer is on disk.
_PROGRAM = """
import json, os, signal, sys
from tfsound import active_learning, labelling
arguments, die = json.loads(sys.argv[1]), sys.argv[2]
append, calls = active_learning.AnswerLog.append, []
def deadly(self, *args, **kwargs):
    calls.append(args)
    if die == f"before:{len(calls)}":
        os.kill(os.getpid(), signal.SIGKILL)
    answer = append(self, *args, **kwargs)
    if die == f"after:{len(calls)}":
        os.kill(os.getpid(), signal.SIGKILL)
    return answer
active_learning.AnswerLog.append = deadly
print(labelling.label(**arguments), flush=True)
"""


class Server:
    """`tfsound label` in a process of its own; `address` is what it printed."""

    def __init__(self, folder, *, die="", **arguments):
        command = [sys.executable, "-c", _PROGRAM, json.dumps({"questions": str(folder), **arguments}), die]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        self.errors = []
        reader = threading.Thread(target=lambda: self.errors.extend(self.process.stderr), daemon=True)
        reader.start()
        self.address = self._read_address()

    def _read_address(self):
        for line in self.process.stdout:
            if match := re.match(r"\s*(http://\S+)", line):
                return match[1]
        raise AssertionError(f"the server did not start: {''.join(self.errors)}")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        """Ctrl-C; returns the exit code and what was printed at the end."""
        self.process.send_signal(signal.SIGINT)
        output, _ = self.process.communicate(timeout=60)
        return self.process.returncode, output

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.kill()
