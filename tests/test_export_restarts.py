"""Tests of exports that are killed, that find no room, or that meet each other."""

import errno
import json
import os
import pathlib
import resource
import subprocess
import sys
import threading

import numpy as np
import pytest
import tensorflow as tf
from served import noise, small_encoder

from tfsound import mel, training
from tfsound.export import publication, saved_model

PARAMS = mel.MelParams()
NUM_KILLS = 20


def embedding_of(path, waveform):
    return tf.saved_model.load(path).signatures["serving_default"](waveform=tf.constant(waveform))[
        "embedding"
    ]


def test_twenty_kills_leave_the_version_before_and_no_half_one(tmp_path):
    run, model = tmp_path / "run", tmp_path / "model"
    run.mkdir()
    encoder = small_encoder()
    training.save_encoder(encoder, PARAMS, str(run), {"encoder": "own"})
    command = [sys.executable, "export_kills.py", run, model, str(NUM_KILLS)]
    done = subprocess.run(
        command, cwd=pathlib.Path(__file__).parent, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert len(seen["kills"]) == NUM_KILLS
    for left in seen["kills"]:
        assert left["first_is_as_it_was"]
        assert left["all_are_whole"]
        assert all(name.startswith("tmp-") for name in left["others"])
    # Else the kills would all have come before there was anything to leave.
    assert any(left["others"] for left in seen["kills"])
    # The last export was not killed: it took away what the others had left.
    assert all(name.isdecimal() for name in seen["end"])
    assert "2" in seen["end"]
    assert {"README.md", "saved_model.pb", "assets/provenance.json"} <= set(seen["files"])
    waveform = noise(2, PARAMS.context_samples)
    expected = encoder(mel.log_mel_windows(waveform, PARAMS)[:, 0])
    for version in seen["end"]:
        np.testing.assert_allclose(embedding_of(str(model / version), waveform), expected, atol=1e-5)


def test_a_watcher_never_sees_half_a_version(tmp_path):
    """As a server polls the folder: whatever has a number is whole, from the first moment on."""
    whole, seen, ended = None, [], threading.Event()

    def watch():
        while not ended.is_set():
            for path in tmp_path.glob("[0-9]*"):
                seen.append({str(file.relative_to(path)) for file in path.rglob("*")})

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        path = saved_model.save(small_encoder(), PARAMS, str(tmp_path), provenance={}).path
        whole = {str(file.relative_to(path)) for file in pathlib.Path(path).rglob("*")}
        saved_model.save(small_encoder(), PARAMS, str(tmp_path), provenance={})
    finally:
        ended.set()
        watcher.join()
    assert "README.md" in whole
    assert seen
    assert all(found == whole for found in seen)


def test_what_is_published_was_written_through_before(tmp_path, monkeypatch):
    """Every file, and every folder, is on the disk when the version gets its number; then the number is."""
    calls, rename = [], os.rename

    def renaming(old, new):
        calls.append("rename")
        rename(old, new)

    monkeypatch.setattr(publication.os, "fsync", lambda handle: calls.append(os.fstat(handle).st_ino))
    monkeypatch.setattr(publication.os, "rename", renaming)
    with publication.new_version(str(tmp_path)) as (unpublished, final):
        os.makedirs(os.path.join(unpublished, "assets"))
        paths = [os.path.join(unpublished, name) for name in ("saved_model.pb", "assets/labels.csv")]
        for path in paths:
            pathlib.Path(path).touch()
        paths += [unpublished, os.path.dirname(paths[1])]
        written = sorted(os.stat(path).st_ino for path in paths)
    assert final == str(tmp_path / "1")
    assert sorted(calls[:4]) == written
    assert calls[4:] == ["rename", os.stat(tmp_path).st_ino]


def test_a_disk_that_is_full_at_last_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    """Some file systems find out when what was written is to be on the disk."""

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(publication.os, "fsync", full)
    with (
        pytest.raises(publication.ExportError, match=r"cannot be written: .*No space left on device; "),
        publication.new_version(str(tmp_path)) as (unpublished, _),
    ):
        os.makedirs(unpublished)
    assert os.listdir(tmp_path) == []


def test_leftovers_go_and_folders_of_others_stay(tmp_path):
    for name in ("tmp-1", "tmp-17", "tmp-notes", "my tmp-1", "3"):
        (tmp_path / name / "inner").mkdir(parents=True)
    with publication.new_version(str(tmp_path)) as (unpublished, final):
        os.makedirs(unpublished)
    assert final == str(tmp_path / "4")
    assert sorted(os.listdir(tmp_path)) == ["3", "4", "my tmp-1", "tmp-notes"]


@pytest.fixture
def small_files():
    """Files may not be longer than 20 kB, as where a disk is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.usefixtures("small_files")
def test_no_room_is_said_and_leaves_nothing_and_the_version_before(tmp_path):
    (tmp_path / "1").mkdir()
    encoder = small_encoder(width=200)  # 50 kB of weights
    with pytest.raises(saved_model.ExportError) as raised:
        saved_model.save(encoder, PARAMS, str(tmp_path), provenance={})
    message = str(raised.value)
    assert message.startswith(f"{tmp_path} cannot be written: ")
    assert "File too large" in message
    assert message.endswith("; nothing was published. Make room, or name another output.")
    assert os.listdir(tmp_path) == ["1"]


def test_an_output_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "model").write_text("mine")
    with pytest.raises(NotADirectoryError, match="model is a file, expected a folder or nothing"):
        saved_model.save(small_encoder(), PARAMS, str(tmp_path / "model"), provenance={})
    assert (tmp_path / "model").read_text() == "mine"


def test_an_output_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="file"):
        saved_model.save(small_encoder(), PARAMS, str(tmp_path / "file" / "model"), provenance={})
