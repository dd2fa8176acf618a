"""Tests of the sounds behind a question: their pictures, and that no path leads out of the set."""

import dataclasses
import io
import os

import numpy as np
import pytest
from labelling_sets import RATE, make_folder, sine
from matplotlib import colormaps
from PIL import Image

from tfsound import media, mel
from tfsound.active_learning import read_questions
from tfsound.labelling.sounds import SoundError, describe, draw_spectrogram, sound_path

PARAMS = mel.PRESETS["audioset"]


@pytest.fixture
def question_set(tmp_path):
    return read_questions(str(make_folder(tmp_path / "set", 1)))


def drawn(question_set, waveform):
    """The picture of a waveform: (bands, frames, RGBA), the highest band first, and where it lies."""
    media.write_wav(os.path.join(question_set.folder, "audio", "q0001.wav"), waveform, RATE)
    picture = draw_spectrogram(question_set, question_set.questions[0])
    return np.asarray(Image.open(io.BytesIO(picture.png)).convert("RGBA")), picture


def brightness(pixels):
    return pixels[..., :3].astype(int).sum(axis=-1)


def test_a_picture_has_a_pixel_for_each_frame_and_band(question_set):
    pixels, picture = drawn(question_set, sine(seconds=2.96))
    num_frames = 1 + (int(2.96 * RATE) - 400) // 160
    assert pixels.shape == (64, num_frames, 4)
    # The middle of frame i is 10 i + 12.5 ms, so pixels of 10 ms begin at 7.5 ms.
    assert picture.start_seconds == pytest.approx(0.0075)
    assert picture.end_seconds == pytest.approx(0.0075 + num_frames / 100)


def test_the_colours_are_those_of_the_front_end_that_networks_see(question_set):
    waveform = (np.random.default_rng(0).uniform(-0.5, 0.5, RATE) * np.linspace(0, 1, RATE)).astype(
        np.float32
    )
    pixels, _ = drawn(question_set, waveform)
    stored = np.clip(np.round(waveform * 32768), -32768, 32767) / 32768
    log_mel = mel.log_mel(mel.mel_energies(stored.astype(np.float32), PARAMS), PARAMS).numpy()
    low, high = np.percentile(log_mel, [1, 99.8])
    levels = np.clip((log_mel - low) / max(high - low, 3.0), 0, 1)
    expected = colormaps["magma"](levels, bytes=True).transpose(1, 0, 2)[::-1]
    np.testing.assert_allclose(pixels, expected, atol=1)


@pytest.mark.parametrize("hz", [250, 1000, 4000])
def test_a_tone_lies_at_its_frequency(question_set, hz):
    pixels, picture = drawn(question_set, sine(hz))
    row = brightness(pixels).sum(axis=1).argmax()
    height = 1 - (row + 0.5) / 64
    assert dict(picture.frequencies)[hz] == pytest.approx(height, abs=1 / 64)


@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.8])
def test_a_click_lies_at_its_time(question_set, seconds):
    waveform = np.zeros(3 * RATE)
    waveform[int(seconds * RATE)] = 1.0
    pixels, picture = drawn(question_set, waveform)
    columns = np.flatnonzero(brightness(pixels).sum(axis=0) > brightness(pixels).sum(axis=0).max() / 2)
    step = (picture.end_seconds - picture.start_seconds) / pixels.shape[1]
    assert picture.start_seconds + (columns.mean() + 0.5) * step == pytest.approx(seconds, abs=0.01)


def test_silence_is_dark_and_a_sound_shorter_than_a_frame_is_drawn(question_set):
    quiet = np.random.default_rng(0).uniform(-1e-4, 1e-4, RATE)  # dither
    pixels, _ = drawn(question_set, quiet)
    assert brightness(pixels).mean() < 0.2 * 3 * 255
    pixels, _ = drawn(question_set, np.full(10, 0.5))
    assert pixels.shape == (64, 1, 4)


def with_audio(question_set, audio):
    return dataclasses.replace(question_set.questions[0], audio=audio)


@pytest.mark.parametrize(
    "audio",
    ["../outside.wav", "audio/../../outside.wav", "/outside.wav", "audio/link.wav", "linked/outside.wav"],
)
def test_paths_out_of_the_set_are_refused(question_set, tmp_path, audio):
    media.write_wav(tmp_path / "outside.wav", sine(), RATE)
    os.symlink(tmp_path / "outside.wav", os.path.join(question_set.folder, "audio", "link.wav"))
    os.symlink(tmp_path, os.path.join(question_set.folder, "linked"))
    audio = audio.replace("/outside.wav", str(tmp_path / "outside.wav")) if audio.startswith("/") else audio
    window = with_audio(question_set, audio)
    with pytest.raises(SoundError, match="outside the set"):
        sound_path(question_set, window)
    with pytest.raises(SoundError, match="outside the set"):
        draw_spectrogram(question_set, window)
    assert "outside the set" in describe(question_set, window)["problem"]


def test_a_set_that_is_itself_reached_by_a_link_is_served(question_set, tmp_path):
    os.symlink(question_set.folder, tmp_path / "link")
    linked = dataclasses.replace(question_set, folder=str(tmp_path / "link"))
    assert "problem" not in describe(linked, linked.questions[0])


def test_what_is_no_file_is_refused(question_set):
    os.mkfifo(os.path.join(question_set.folder, "audio", "pipe.wav"))  # opening it would wait for ever
    for audio in ("audio/pipe.wav", "audio", "audio/absent.wav"):
        with pytest.raises(SoundError, match="missing or no file"):
            sound_path(question_set, with_audio(question_set, audio))


def test_a_question_without_sound_says_so(question_set):
    fields = describe(question_set, with_audio(question_set, ""))
    assert "made without sounds" in fields["problem"]
    assert (fields["clip_id"], fields["start_seconds"], fields["end_seconds"]) == ("clip-1", 3.84, 4.80)


def test_a_broken_sound_is_a_problem_that_names_no_folder(question_set):
    path = os.path.join(question_set.folder, "audio", "q0001.wav")
    for content in (b"", b"<html>", b"RIFF\x00\x00\x00\x00WAVEfmt "):
        with open(path, "wb") as file:
            file.write(content)
        problem = describe(question_set, question_set.questions[0])["problem"]
        assert "audio/q0001.wav" in problem
        assert question_set.folder not in problem
        with pytest.raises(SoundError, match=r"q0001\.wav"):
            draw_spectrogram(question_set, question_set.questions[0])


def test_the_window_is_told_from_the_beginning_of_the_sound(question_set):
    question = question_set.questions[0]
    fields = describe(question_set, question)
    assert fields["window"] == pytest.approx([1.0, 1.96])
    assert fields["duration_seconds"] == pytest.approx(2.96)
    unknown = dataclasses.replace(question, audio_start_seconds=None)
    assert describe(question_set, unknown)["window"] is None
    beyond = dataclasses.replace(question, start_seconds=0.0, end_seconds=99.0)
    assert describe(question_set, beyond)["window"] == [0.0, fields["duration_seconds"]]
