"""The folder that a job writes to before it takes the place of its output."""

import os
import pathlib
import subprocess
import sys

import pytest

from tfsound.active_learning.output import pending_folder
from tfsound.resumption import InUseError

MARKER = "made.json"


def make(output, text, *, overwrite=False):
    with pending_folder(str(output), MARKER, overwrite=overwrite) as folder:
        pathlib.Path(folder, MARKER).write_text(text)


def test_two_jobs_at_once_do_not_disturb_each_other(tmp_path):
    with pending_folder(str(tmp_path / "out"), MARKER, overwrite=False) as folder:
        pathlib.Path(folder, MARKER).write_text("first")
        with pytest.raises(InUseError, match=r"another process is at work in .*out\.partial"):
            make(tmp_path / "out", "second")
    assert os.listdir(tmp_path) == ["out"]
    assert os.listdir(tmp_path / "out") == [MARKER]
    assert (tmp_path / "out" / MARKER).read_text() == "first"


def test_where_the_new_cannot_take_its_place_the_old_keeps_it(tmp_path, monkeypatch):
    make(tmp_path / "out", "old")
    rename = os.rename

    def rename_nothing_new(source, target):
        if source.endswith(".partial"):
            raise OSError("no")
        rename(source, target)

    monkeypatch.setattr(os, "rename", rename_nothing_new)
    with pytest.raises(OSError, match="no"):
        make(tmp_path / "out", "new", overwrite=True)
    monkeypatch.undo()
    assert (tmp_path / "out" / MARKER).read_text() == "old"
    make(tmp_path / "out", "new", overwrite=True)
    assert os.listdir(tmp_path) == ["out"]


KILLED = """
import os, sys
from tests.test_active_learning_output import make

rename = os.rename
os.rename = lambda source, target: os._exit(9) if source.endswith(".partial") else rename(source, target)
make(sys.argv[1], "new", overwrite=True)
"""


def test_killed_just_before_its_place_is_taken_nothing_is_lost_and_the_next_job_goes_on(tmp_path):
    make(tmp_path / "out", "old")
    process = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "out")], check=False)
    assert process.returncode == 9
    (kept,) = [name for name in os.listdir(tmp_path) if "replaced" in name]
    assert (tmp_path / kept / MARKER).read_text() == "old"
    make(tmp_path / "out", "new")
    assert sorted(os.listdir(tmp_path)) == ["out", kept]


def test_folders_with_names_like_ours_are_left_alone(tmp_path):
    make(tmp_path / "out", "old")
    (tmp_path / "out.replaced").mkdir()
    (tmp_path / "out.replaced" / "thesis.tex").write_text("years of work")
    (tmp_path / "out.partial").mkdir()  # empty: no obstacle
    make(tmp_path / "out", "new", overwrite=True)
    assert (tmp_path / "out.replaced" / "thesis.tex").exists()
    assert (tmp_path / "out" / MARKER).read_text() == "new"
