"""The sounds of a set of questions: where they lie, and their spectrograms as pictures.

A picture has a pixel for each frame and mel band of the front end that the networks see (`audioset`), the
lowest band at the bottom. Its frames are complete and not centred, so it begins and ends a little inside the
sound.
"""

import dataclasses
import os
import stat

import numpy as np

from tfsound import media, mel, plots
from tfsound.active_learning import Neighbour, Question, QuestionSet

_FREQUENCIES_HZ = (250, 500, 1000, 2000, 4000)


class SoundError(ValueError):
    """A sound that cannot be played or drawn; the message says which and why."""


@dataclasses.dataclass(frozen=True)
class Spectrogram:
    """A picture (PNG) and where it lies on the sound's axes.

    Attributes:
      png: (mel_bins, frames) pixels.
      start_seconds, end_seconds: of the picture, from the beginning of the sound.
      frequencies: (Hz, height from 0 at the bottom to 1 at the top).
    """

    png: bytes
    start_seconds: float
    end_seconds: float
    frequencies: tuple[tuple[int, float], ...]


def sound_path(question_set: QuestionSet, window: Question | Neighbour) -> str:
    """The file of a window's sound.

    Raises:
      SoundError: there is none, or it lies outside the folder of the set, whatever leads there (`..`, an
        absolute path, a symbolic link), or it is no file.
    """
    if not window.audio:
        raise SoundError(
            "This set of questions was made without sounds; look the recording up, or make it again with a "
            "manifest."
        )
    folder = os.path.realpath(question_set.folder)
    path = os.path.realpath(os.path.join(folder, window.audio))
    if os.path.commonpath([folder, path]) != folder:
        raise SoundError(f"{window.audio} lies outside the set of questions, so it is not played.")
    try:
        is_file = stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        is_file = False
    if not is_file:
        raise SoundError(f"{window.audio} is missing or no file; copy the set of questions again.")
    return path


def describe(question_set: QuestionSet, window: Question | Neighbour) -> dict:
    """What the page says of a window, and where it lies in its sound.

    `window` is [start, end] in seconds from the beginning of the sound, None where the set does not tell.
    `problem` says why there is no sound; the times of the sound are absent then.
    """
    fields = {
        "clip_id": window.clip_id,
        "recording_id": window.recording_id,
        "start_seconds": window.start_seconds,
        "end_seconds": window.end_seconds,
    }
    try:
        path = sound_path(question_set, window)
        duration = media.audio_info(path).duration_seconds
        if not duration:
            raise SoundError(f"{window.audio} holds no sound; make the questions again.")
    except (SoundError, media.MediaError) as error:
        return fields | {"problem": _without_folder(error, question_set)}
    first = window.audio_start_seconds
    span = None
    if first is not None:
        span = [min(max(0.0, time - first), duration) for time in (window.start_seconds, window.end_seconds)]
    return fields | {"duration_seconds": duration, "audio_start_seconds": first or 0.0, "window": span}


def _without_folder(error: Exception, question_set: QuestionSet) -> str:
    return str(error).replace(os.path.realpath(question_set.folder) + os.sep, "")


def draw_spectrogram(question_set: QuestionSet, window: Question | Neighbour) -> Spectrogram:
    """Draws what the networks see of a window's sound.

    Raises: SoundError for a sound that cannot be read.
    """
    params = mel.PRESETS["audioset"]
    path = sound_path(question_set, window)
    try:
        waveform = media.read_audio(path, sample_rate=params.sample_rate)
    except media.MediaError as error:
        raise SoundError(_without_folder(error, question_set)) from error
    waveform = np.pad(waveform, (0, max(0, params.window_samples - len(waveform))))
    log_mel = mel.log_mel(mel.mel_energies(waveform, params), params).numpy()
    start = (params.window_seconds - params.hop_seconds) / 2
    edges = mel.hertz_to_mel(np.array([params.mel_min_hz, params.mel_max_hz]))
    step = (edges[1] - edges[0]) / (params.mel_bins + 1)
    # Band i has its peak at edge + (i + 1) steps, and its pixel reaches half a step to both sides.
    heights = ((mel.hertz_to_mel(np.array(_FREQUENCIES_HZ)) - edges[0]) / step - 0.5) / params.mel_bins
    return Spectrogram(
        png=plots.log_mel_png(log_mel),
        start_seconds=start,
        end_seconds=start + len(log_mel) * params.hop_seconds,
        frequencies=tuple(zip(_FREQUENCIES_HZ, heights.tolist(), strict=True)),
    )
