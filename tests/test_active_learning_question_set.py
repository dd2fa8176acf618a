"""The folder of questions: what is written is read, and what was edited or damaged is said."""

import json
import os
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import active_learning_sets as sets
from tfsound import active_learning as al


@pytest.fixture
def folder(tmp_path):
    sets.write_set(tmp_path / "q", [0, 0, 1, 2])
    return tmp_path / "q"


def test_what_is_written_is_read(tmp_path):
    neighbour = al.Neighbour("a+1", "<b>rec</b>", 1.5, 2.46, "audio/q0001_1.wav", 0.5)
    question = al.Question(
        "q0001", 3, 7, "clip 'x'; ünï", "rec", 3.84, 4.8, "audio/q0001.wav", 2.84, (neighbour, neighbour)
    )
    silent = al.Question("q0002", 0, 1, "b", "rec", 0.0, 0.96)
    written = al.QuestionSet(
        folder=str(tmp_path / "q"), questions=(question, silent),
        classes=(al.SoundClass("dog", "Dog"), al.SoundClass("pup", "Pup", ("dog",))),
        num_windows=4, num_clusters=10, num_active_clusters=3, window_seconds=0.96, settings={"seed": 1},
    )  # fmt: skip
    windows = sets.make_windows([3, 3, 9, 0])
    al.write_questions(written, windows)
    read = al.read_questions(written.folder)
    assert {name: value for name, value in vars(read).items()} == vars(written)
    assert read.by_id() == {"q0001": question, "q0002": silent}
    found = al.read_windows(read)
    for name, value in vars(windows).items():
        np.testing.assert_array_equal(getattr(found, name), value)
    assert sets.window_keys(found)[2] == ("clip-002", 0)
    first, second = (tmp_path / "q" / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(first)["neighbours"][0] == {
        "clip_id": "a+1", "recording_id": "<b>rec</b>", "start_seconds": 1.5, "end_seconds": 2.46,
        "audio": "audio/q0001_1.wav", "audio_start_seconds": 0.5,
    }  # fmt: skip
    assert "audio" not in json.loads(second)


def test_questions_json_is_written_last(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr("tfsound.active_learning.question_set.resumption.write_json", fail)
    with pytest.raises(OSError, match="the disk is full"):
        sets.write_set(tmp_path / "q", [0, 1])
    with pytest.raises(
        al.ActiveLearningError, match=r"no finished set of questions: it holds no questions\.json"
    ):
        al.read_questions(str(tmp_path / "q"))


def edit(path, **changes):
    lines = path.read_text(encoding="utf-8").splitlines()
    record = json.loads(lines[-1]) | changes
    record = {name: value for name, value in record.items() if value is not ...}
    path.write_text("\n".join([*lines[:-1], json.dumps(record)]) + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question_id": ...}, "line 3: question_id must be text, got nothing"),
        ({"question_id": "q0001"}, "line 3: 'q0001' is there twice"),
        ({"question_id": "../q"}, "question_id must be 1 to 64 letters"),
        ({"cluster": "2"}, "cluster must be a whole number, got '2'"),
        ({"cluster": True}, "cluster must be a whole number, got True"),
        ({"start_seconds": "0"}, "start_seconds must be a number"),
        ({"audio": "/etc/passwd"}, "audio must be a WAV file in audio/ of this folder, got '/etc/passwd'"),
        ({"audio": "audio/../../x.wav"}, "audio must be a WAV file in audio/"),
        ({"audio": "audio/..%2fx.wav"}, "audio must be a WAV file in audio/"),
        ({"audio": "audio\\x.wav"}, "audio must be a WAV file in audio/"),
        ({"audio": "audio/x.wav\n"}, "audio must be a WAV file in audio/"),
        ({"neighbours": {}}, "neighbours must be a list of objects"),
        ({"neighbours": [{"clip_id": "x"}]}, "recording_id must be text, got nothing"),
    ],
)
def test_edited_questions_name_the_line(folder, changes, message):
    edit(folder / "questions.jsonl", **changes)
    with pytest.raises(al.ActiveLearningError, match=message):
        al.read_questions(str(folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "has the format 2, this tfsound reads 1"),
        ({"format": True}, "has the format True"),
        ({"num_windows": None}, "num_windows must be a whole number"),
        ({"num_questions": 4}, "holds 3 questions, expected 4"),
        ({"settings": []}, "settings must be an object"),
    ],
)
def test_edited_sidecars_are_refused(folder, changes, message):
    path = folder / "questions.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(al.ActiveLearningError, match=message):
        al.read_questions(str(folder))


@pytest.mark.parametrize("name", ["questions.json", "questions.jsonl", "classes.csv"])
def test_missing_files_are_named(folder, name):
    os.remove(folder / name)
    with pytest.raises(al.ActiveLearningError, match=re.escape(name)):
        al.read_questions(str(folder))


@pytest.mark.parametrize(
    "changes",
    [
        {"cluster": np.asarray([0, 0, 1, 3], np.int32)},
        {"cluster": np.asarray([0, 0, 1, -1], np.int32)},
        {"clip_index": np.asarray([0, 0, 1, 4], np.int32)},
        {"cluster": np.zeros(3, np.int32)},
        {"cluster": np.zeros(4)},
        {"start_seconds": np.full(4, np.nan)},
        {"clip_ids": np.asarray([1, 2, 3, 4])},
        {"clip_ids": np.asarray(["a", "b", "c", "a"])},
        {"recording_ids": np.asarray(["a"])},
        {"distance": None},
        {"clip_ids": np.asarray([{}, 2, 3, 4], object)},
        {"other": np.zeros(3)},
    ],
)
def test_damaged_windows_are_refused(folder, changes):
    question_set = al.read_questions(str(folder))
    path = folder / "windows.npz"
    with np.load(path) as file:
        arrays = dict(file) | changes
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    with pytest.raises(al.ActiveLearningError, match=r"windows\.npz"):
        al.read_windows(question_set)


@given(st.sampled_from(["questions.json", "questions.jsonl", "classes.csv", "windows.npz"]), st.data())
@settings(max_examples=150, deadline=None)
def test_damage_anywhere_is_harmless_or_a_clear_error(tmp_path_factory, name, data):
    """Bytes are cut off, changed or put in anywhere; what can still be read is a whole set."""
    tmp_path = tmp_path_factory.mktemp("fuzz")
    sets.write_set(tmp_path / "q", [0, 0, 1, 2])
    path = tmp_path / "q" / name
    content = path.read_bytes()
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 20)) | st.just(len(content)))
    path.write_bytes(content[:start] + data.draw(st.binary(max_size=8)) + content[end:])
    question_set, problem = sets.attempt(al.read_questions, str(tmp_path / "q"))
    if question_set is not None:
        assert all("/" not in question.audio.removeprefix("audio/") for question in question_set.questions)
        windows, problem = sets.attempt(al.read_windows, question_set)
        if windows is not None:
            assert len(sets.window_keys(windows)) == question_set.num_windows
            return
    assert str(tmp_path / "q") in problem
