"""The job `triplets` on bad input: what is refused, before anything is done or with the name of the shard."""

import collections
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from test_beam_triplets import JOINT, clips, sample, triplets_of
from test_beam_window_index import damaged_copy, edit_sidecar, make_clip, write_clip_set

from tfsound import examples, windows
from tfsound.beam import drawn_sets, window_index
from tfsound.beam import output as job_output

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
        ({"constraints": ("noise:-0.5",)}, "noise_stddev must be a number from .*got -0.5"),
        ({"constraints": ("noise:loud",)}, "expected a number after the colon, as in noise:0.5, got 'loud'"),
        ({"constraints": ("mixing:nan",)}, "mixing_weight must be a number from .*got nan"),
        ({"constraints": ("translation:-1",)}, "max_frequency_shift_bins must be a number from 0"),
        ({"constraints": ("noise,translation:64",)}, "must be less than the 64 mel bins, got 64: nothing of"),
        ({"constraints": ("labels:dog",)}, "labels takes no parameter"),
        ({"shares": (1.0, 2.0)}, "shares must be one a constraint, 1, got 2"),
        ({"constraints": ("noise,mixing",), "shares": (1.0, -2.0)}, r"shares must be .*got \[1.0, -2.0\]"),
        ({"constraints": ("noise,mixing",), "shares": (0.0, 0.0)}, "shares must be .*not all 0"),
        ({"constraints": ("noise:-1",), "dry_run": True}, "noise_stddev must be"),
        ({"exclude_folds": ("7",)}, r"fold '7' does not occur in .*; it has \['0', '1', '2'\]"),
        ({"worker_mode": "fibres"}, "worker_mode must be one of"),
        (
            {"constraints": ("mixing",), "count": 10**6},
            r"clips holds \d+ windows, of which [\d,]+ triplets under mixing:0.25 can be made at most, and 1",
        ),
        ({"constraints": ("mixing",), "count": 10**6, "dry_run": True}, "can be made at most, and 1,000,000"),
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
            [[make_clip("a", "r", 9), make_clip("b", "r", 2)]], {},
            r"clips has 1 recording\(s\) with at least one window, so no negative .*recording_id right",
        ),
        (
            [[make_clip("a", "r", 0), make_clip("b", "s", 20)]], {},
            r"clips has 1 recording\(s\) with at least one window",
        ),
        (
            [[make_clip("a", "r", 9, fold="1")]], {"exclude_folds": ("1",)},
            r"clips has 0 recording\(s\) with at least one window",
        ),
        (
            [[make_clip(name, name, 1) for name in "abcdefgh"]], {},
            r"no window of .*clips can be an anchor under proximity:2: no",
        ),
        (
            [[make_clip("a", "r", 2), make_clip("b", "s", 2)]], {"constraints": ("labels",)},
            r"'labels' was asked for, and the clips of .*clips have no labels; label them in the manifest",
        ),
        (
            [
                [make_clip("a", "r", 2, labels=("dog", "owl"), fold="1")],
                [make_clip("b", "s", 6), make_clip("c", "t", 1)],
            ],
            {"constraints": ("noise,labels",), "exclude_folds": ("1",)},
            r"'labels' was asked for, and the clips of .*clips have no labels",
        ),
        (
            [[make_clip(name, name, 4, labels=("dog",)) for name in "ab"]], {"constraints": ("labels",)},
            r"'labels' was asked for, and the clips of .*clips have one label alone, 'dog': negatives need",
        ),
        (
            [[make_clip("a", "r", 4, labels=("dog",)), make_clip("b", "s", 4, labels=("dog",)),
              make_clip("c", "t", 4, labels=("owl",), fold="1")]],
            {"constraints": ("labels",), "exclude_folds": ("1",)},
            r"no class of .*clips has two windows .*found 'dog' \(8 windows\), 'owl' \(0 w.* at least two",
        ),
        (
            [[make_clip("a", "r", 1, labels=("dog",)), make_clip("b", "s", 1, labels=("owl",))]],
            {"constraints": ("labels",), "count": 1, "allow_repeats": True},
            "of which 0 triplets under labels can be made at most, and 1 were asked for",
        ),
        (
            [[make_clip("a", "r", 1, labels=("dog",)), make_clip("b", "s", 1, labels=("owl",)),
              make_clip("c", "t", 1, labels=("rain",))]],
            {"constraints": ("labels",), "count": 1}, r"no class .*found 'dog' \(1 windows\), 'owl' \(1 wind",
        ),
        (
            [[make_clip("a", "r", 2), make_clip("b", "s", 1)]], {"count": 6},
            r"clips can give 2 triplets under proximity:2 with every anchor used .* twice, and 6 were",
        ),
    ],
)  # fmt: skip
def test_clips_of_which_no_triplet_can_be_made(tmp_path, shards, options, message):
    write_clip_set(tmp_path / "clips", *shards)
    with pytest.raises(windows.ImpossibleError, match=message):
        sample(tmp_path / "clips", tmp_path / "set", **options)
    assert os.listdir(tmp_path) == ["clips"]


@pytest.mark.parametrize("dry_run", [True, False])
def test_labels_that_no_clip_has_are_refused_before_any_clip_is_read(tmp_path, monkeypatch, dry_run):
    write_clip_set(tmp_path / "clips", [make_clip("a", "r", 9), make_clip("b", "s", 9)])
    monkeypatch.setattr(window_index, "build_index", None)
    with pytest.raises(windows.ImpossibleError, match=r"the clips of .*clips have no labels"):
        sample(tmp_path / "clips", tmp_path / "set", constraints=("noise,labels",), dry_run=dry_run)


def test_classes_that_give_no_triplet_are_named(tmp_path):
    labelled = [make_clip(name, name, 3, labels=(label,)) for name, label in (("a", "dog"), ("b", "owl"))]
    rare = [make_clip(f"c{n}", f"c{n}", 1, labels=(f"rare {n:02d}",)) for n in range(12)]
    write_clip_set(tmp_path / "clips", [*labelled, *rare])
    info = sample(tmp_path / "clips", tmp_path / "set", constraints=("labels", "noise"), count=40)
    names = [f"rare {n:02d}" for n in range(12)]
    assert info.parameters["num_classes_without_triplets"] == 12
    assert info.parameters["classes_without_triplets"] == names[:10]
    assert "; 12 classes gave no triplet, among them 'rare 00', 'rare 01', " in str(info)
    lines = (tmp_path / "set" / "failures.jsonl").read_text().splitlines()
    reason = "It has 1 window, expected two: an anchor and another as its positive."
    assert list(map(json.loads, lines)) == [{"label": name, "reason": reason} for name in names]


def test_a_class_with_one_example_is_left_out(tmp_path):
    labelled = [make_clip(name, name, 3, labels=(label,)) for name, label in (("a", "dog"), ("b", "owl"))]
    write_clip_set(tmp_path / "clips", [*labelled, make_clip("c", "c", 1, labels=("rare",))])
    info = sample(tmp_path / "clips", tmp_path / "set", constraints=("labels",), count=40)
    drawn = triplets_of(tmp_path / "set")
    assert info.num_examples == len(drawn) == 40
    assert collections.Counter(t["label"] for t in drawn) == {"dog": 20, "owl": 20}
    assert ("rare",) in {t["negative_labels"] for t in drawn}


def test_silent_recordings_have_defined_triplets(tmp_path):
    """Silent windows are anchors and negatives as others are; what is made of them is silent, never NaN."""
    silent = dataclasses.replace(make_clip("a", "r", 2, labels=("x",)), mel_energy=np.zeros((192, 64), "<f2"))
    loud = make_clip("b", "s", 2, labels=("y",))
    write_clip_set(tmp_path / "clips", [silent, loud])
    sample(tmp_path / "clips", tmp_path / "set", constraints=JOINT, count=40, allow_repeats=True)
    seen = set()
    for t in triplets_of(tmp_path / "set"):
        positive = np.frombuffer(t["positive_energies"], "<f2")
        seen.add((t["constraint"], t["anchor"].recording_id))
        assert np.isfinite(positive).all()
        assert positive.any() == (t["anchor"].recording_id == "s")
        if t["constraint"] == "mixing":  # of a silent anchor, or with a silent negative
            assert t["positive_energies"] == t["anchor_energies"]
    assert len(seen) == 10


def test_a_runner_that_loses_data_is_found_out(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(drawn_sets.Settings, "shard_slots", lambda self, number: range(299))
    with pytest.raises(job_output.JobError, match="the runner handled 299 of 300 triplets; nothing was"):
        sample(clips, tmp_path / "set")
    assert os.listdir(tmp_path) == []


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
    assert os.listdir(tmp_path) == ["copy"]


def test_a_user_sees_one_clear_message(clips, tmp_path):
    """Two workers: the error comes back as text of Beam's, with tracebacks in it."""
    command = [sys.executable, "-m", "tfsound.cli", "triplets", str(damaged_copy(clips, tmp_path)), "set"]
    run = subprocess.run([*command, "--num-workers", "2"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.count("clips-00001-of-00003.tfrecord is damaged after record") == 1
    for noise in ("Traceback", "apache_beam", "apitools", "while running"):
        assert noise not in run.stderr
