"""The sounds of questions: each window with up to a second around it, as 16 kHz mono WAV."""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from tqdm import tqdm

from tfsound import datasets, media
from tfsound.active_learning.question_set import AUDIO_FOLDER, Neighbour, Question
from tfsound.records import ActiveLearningError, shown

SAMPLE_RATE = 16_000
SURROUNDINGS_SECONDS = 1.0


def write_audio(
    folder: str, questions: Sequence[Question], rows: Mapping[str, datasets.ManifestRow]
) -> tuple[list[Question], list[str]]:
    """Cuts the sounds of questions and their neighbours.

    Args:
      folder: where `audio/` is made.
      questions: as `make_questions` gives them.
      rows: clip_id -> where its file is.

    Returns:
      The questions with their audio, and what could not be read: such questions stay, without their sound.

    Raises:
      ActiveLearningError: no sound at all could be read.
    """
    os.makedirs(os.path.join(folder, AUDIO_FOLDER), exist_ok=True)
    done, problems = [], []
    for question in tqdm(questions, desc="sounds", unit=" questions", leave=False):
        name = f"{AUDIO_FOLDER}/{question.question_id}"
        with_audio = _with_audio(question, folder, f"{name}.wav", rows, problems)
        neighbours = [
            _with_audio(neighbour, folder, f"{name}_{number}.wav", rows, problems)
            for number, neighbour in enumerate(question.neighbours, start=1)
        ]
        done.append(dataclasses.replace(with_audio, neighbours=tuple(neighbours)))
    if done and not any(question.audio for question in done):
        raise ActiveLearningError(
            f"none of the sounds of {len(done)} questions can be read; the first: {problems[0]} Correct the "
            "manifest."
        )
    return done, problems


def _with_audio(
    window: Question | Neighbour,
    folder: str,
    name: str,
    rows: Mapping[str, datasets.ManifestRow],
    problems: list[str],
) -> Question | Neighbour:
    """Writes a window's sound and returns the window with it; adds to `problems` where that fails."""
    # The pieces of a long clip are CLIP, CLIP+1, ...
    row = rows.get(window.clip_id) or rows.get(window.clip_id.rpartition("+")[0])
    if row is None:
        problems.append(f"the clip {shown(window.clip_id)} is not in the manifest.")
        return window
    start = round(max(0.0, window.start_seconds - SURROUNDINGS_SECONDS), 6)
    end = window.end_seconds + SURROUNDINGS_SECONDS
    try:
        waveform = read_piece(row.uri, start, end)
        media.write_wav(os.path.join(folder, name), waveform, SAMPLE_RATE)
    except media.MediaError as error:
        problems.append(f"{window.clip_id}: {error}")
        return window
    return dataclasses.replace(window, audio=name, audio_start_seconds=start)


def read_piece(uri: str, start_seconds: float, end_seconds: float) -> np.ndarray:
    """A piece of a file on any file system of TensorFlow, at 16 kHz, mono: float32, (samples,).

    Its end may lie beyond that of the file: what is there is taken.

    Raises: MediaError where the file cannot be used, or ends before the piece begins.
    """
    with local_copy(uri) as path:
        blocks = media.audio_blocks(
            path,
            sample_rate=SAMPLE_RATE,
            start_seconds=start_seconds,
            block_seconds=end_seconds - start_seconds,
        )
        with contextlib.closing(blocks):
            for block in blocks:
                return block
    raise media.MediaError(f"{uri} holds no sound at {start_seconds} s; correct the times.")


@contextlib.contextmanager
def local_copy(uri: str) -> Iterator[str]:
    """A local path to read `uri` from; what is not local is copied to a temporary file."""
    if "://" not in uri:
        yield uri
        return
    import tensorflow as tf  # here, because it takes seconds

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "copy" + os.path.splitext(uri)[1])
        try:
            tf.io.gfile.copy(uri, path)
        except (tf.errors.OpError, ValueError) as error:
            raise media.MediaError(f"{uri} cannot be read ({error}); check that it exists.") from error
        yield path
