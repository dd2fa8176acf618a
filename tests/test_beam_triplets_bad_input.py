"""The job `triplets` on bad input: what is refused, before anything is done or with the name of the shard."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from test_beam_triplets import clips, sample
from test_beam_window_index import make_clip, write_clip_set

from tfsound import examples
from tfsound.beam import output as job_output
from tfsound.beam import triplets as job

__all__ = ["clips"]  # a fixture


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "count must be at least 1 and num_shards at least 0, got 0 and 0"),
        ({"num_shards": -2}, "got 300 and -2"),
        ({"constraints": ()}, r"constraints must be at least one, each another, got \[\]"),
        ({"constraints": ("proximity:10", "proximity")}, r"got \['proximity:10', 'proximity'\]"),
        ({"constraints": ("nearness",)}, "constraint must be one of .*got 'nearness'"),
        ({"constraints": ("proximity:-1",)}, "constraint 'proximity:-1': .*must be positive, got -1.0"),
        ({"exclude_folds": ("7",)}, r"fold '7' does not occur in .*; it has \['0', '1', '2'\]"),
        ({"worker_mode": "fibres"}, "worker_mode must be one of"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_done(clips, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        sample(clips, tmp_path / "set", **options)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("shards", "options", "message"),
    [
        (
            [[make_clip("a", "r", 3), make_clip("b", "r", 2)]], {},
            r"clips has 1 recording\(s\) with at least one window, so no negative .*recording_id right",
        ),
        (
            [[make_clip("a", "r", 0), make_clip("b", "s", 2)]], {},
            r"clips has 1 recording\(s\) with at least one window",
        ),
        (
            [[make_clip("a", "r", 2, fold="1")]], {"exclude_folds": ("1",)},
            r"clips has 0 recording\(s\) with at least one window",
        ),
        (
            [[make_clip("a", "r", 1), make_clip("b", "s", 1)]], {},
            r"no window of .*clips can be an anchor under Proximity\(max_time_gap_seconds=2\.0\): no",
        ),
    ],
)  # fmt: skip
def test_clips_of_which_no_triplet_can_be_made(tmp_path, shards, options, message):
    write_clip_set(tmp_path / "clips", *shards)
    with pytest.raises(job_output.JobError, match=message):
        sample(tmp_path / "clips", tmp_path / "set", **options)
    assert not (tmp_path / "set").exists()


def test_a_runner_that_loses_data_is_found_out(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "shard_slots", lambda number, num_shards, count: range(count - 1))
    with pytest.raises(job_output.JobError, match="the runner handled 299 of 300 triplets; nothing was"):
        sample(clips, tmp_path / "set")
    assert not (tmp_path / "set").exists()


def edit_sidecar(path, **fields) -> None:
    sidecar = path / "dataset_info.json"
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | fields))


def test_clips_that_are_no_whole_set(clips, tmp_path):
    def expect(message: str) -> None:
        with pytest.raises(examples.DatasetError, match=message):
            sample(copy, tmp_path / "set")
        assert sorted(os.listdir(tmp_path)) == (["copy"] if copy.exists() else [])

    copy = tmp_path / "copy"
    expect("copy is not a folder; expected a folder of clips examples")
    shutil.copytree(clips, copy)
    edit_sidecar(copy, schema_version=99)
    expect(r"dataset_info\.json has schema version 99, this tfsound reads 1")
    edit_sidecar(copy, schema_version=1, kind="triplets")
    expect("copy holds triplets examples, expected clips")
    edit_sidecar(copy, kind="clips")
    shard = copy / "clips-00001-of-00003.tfrecord"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    expect(rf"clips-00001-of-00003\.tfrecord has {len(data) - 1} bytes, expected {len(data)} bytes")
    shard.unlink()
    expect(r"clips-00001-of-00003\.tfrecord is missing")
    (copy / "dataset_info.json").unlink()
    expect(r"copy holds no dataset_info\.json: it is not a finished set")


def damaged_copy(clips, tmp_path):
    """The clips with one byte wrong in the last record of their second shard."""
    copy = tmp_path / "copy"
    shutil.copytree(clips, copy)
    shard = copy / "clips-00001-of-00003.tfrecord"
    data = bytearray(shard.read_bytes())
    data[-100] ^= 1
    shard.write_bytes(data)
    return copy


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_damaged_shard_is_named(clips, tmp_path, num_workers):
    with pytest.raises(job_output.JobError) as raised:
        sample(damaged_copy(clips, tmp_path), tmp_path / "set", num_workers=num_workers)
    message = str(raised.value)
    assert re.fullmatch(
        r"/.*/clips-00001-of-00003\.tfrecord is damaged after record \d+ \(.*\); "
        r"copy it again or make the set again\.",
        message,
    )
    assert not (tmp_path / "set").exists()


def test_a_user_sees_one_clear_message(clips, tmp_path):
    """Two workers: the error comes back as text of Beam's, with tracebacks in it."""
    command = [sys.executable, "-m", "tfsound.cli", "triplets", str(damaged_copy(clips, tmp_path)), "set"]
    run = subprocess.run([*command, "--num-workers", "2"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.count("clips-00001-of-00003.tfrecord is damaged after record") == 1
    for noise in ("Traceback", "apache_beam", "apitools", "while running"):
        assert noise not in run.stderr
