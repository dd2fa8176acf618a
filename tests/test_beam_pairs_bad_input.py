"""The job `pairs` on bad input: what is refused, before anything is done or with the name of the shard."""

import dataclasses
import json
import os
import re
import shutil

import pytest
from test_beam_pairs import clips, pairs_of, sample
from test_beam_window_index import STEP, damaged_copy, edit_sidecar, make_clip, write_clip_set

from tfsound import examples, windows
from tfsound.beam import drawn_sets
from tfsound.beam import output as job_output

__all__ = ["clips"]  # a fixture


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "count must be at least 1 and num_shards at least 0, got 0 and 0"),
        ({"num_shards": -2}, "got 60 and -2"),
        ({"modality": "audio"}, r"modality must be one of \['audio_audio', 'audio_image'\], got 'audio'"),
        ({"max_time_gap_seconds": 0.0}, r"max_time_gap_seconds must be positive, got 0\.0"),
        ({"max_time_gap_seconds": float("nan"), "modality": "audio_image"}, "must be positive, got nan"),
        (
            {"exclude_folds": ("7",), "dry_run": True},
            r"fold '7' does not occur in .*; it has \['0', '1'",
        ),
        ({"worker_mode": "fibres"}, "worker_mode must be one of"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_done(clips, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        sample(clips, tmp_path / "set", **options)
    assert os.listdir(tmp_path) == []


IMAGE = {"modality": "audio_image"}


@pytest.mark.parametrize(
    ("clip_set", "options", "message"),
    [
        ([make_clip("a", "r", 0)], {}, "clips holds 0 windows, of which 0 pairs can be made at most"),
        (
            [make_clip("a", "r", 2, fold="1", frame_seconds=(0.5,))], IMAGE | {"exclude_folds": ("1",)},
            "no clip of .*clips that is to be used holds a context window",
        ),
        (
            [make_clip("a", "r", 1), make_clip("b", "s", 1)], {},
            r"no recording of .*clips has two windows that start less than 2\.5 s apart",
        ),
        (
            [make_clip("a", "r", 2), make_clip("b", "s", 2)], IMAGE,
            "clips gives no pairs of sound and image: the set holds no frames; make the clip examples from",
        ),
        (
            [make_clip("a", "r", 2), make_clip("b", "s", 2, fold="1", frame_seconds=(0.0,))],
            IMAGE | {"exclude_folds": ("1",)},
            "clips gives no pairs of sound and image: none of 1 recordings has frames",
        ),
        (
            # The second window's centre is at 1.44; of the other recording the sound begins at 100.
            [
                make_clip("a", "r", 2, frame_seconds=(11.5, 12.5)), make_clip("b", "s", 2),
                make_clip("c", "t", 1, start_seconds=100.0, frame_seconds=(0.0,)),
            ],
            IMAGE,
            r"no window of .*clips has a frame within 2\.5 s: 2 of 3 recordings have frames, and the nearest "
            r"is 10\.1 s from the centre of a window; expected a larger max_time_gap_seconds, or sound and",
        ),
    ],
)  # fmt: skip
def test_clips_of_which_no_pair_can_be_made(tmp_path, clip_set, options, message):
    write_clip_set(tmp_path / "clips", clip_set)
    with pytest.raises(windows.ImpossibleError, match=message):
        sample(tmp_path / "clips", tmp_path / "set", count=1, **options)
    assert os.listdir(tmp_path) == ["clips"]


def test_a_dry_run_also_says_that_there_are_no_frames(tmp_path):
    write_clip_set(tmp_path / "clips", [make_clip("a", "r", 2)])
    with pytest.raises(windows.ImpossibleError, match="the set holds no frames"):
        sample(tmp_path / "clips", tmp_path / "set", dry_run=True, **IMAGE)
    with pytest.raises(
        windows.ImpossibleError, match="of which 2 pairs can be made at most, and 60 were asked"
    ):
        sample(tmp_path / "clips", tmp_path / "set", dry_run=True)


def failures_of(path) -> dict[str, str]:
    lines = map(json.loads, (path / "failures.jsonl").read_text().splitlines())
    return {failure["recording_id"]: failure["reason"] for failure in lines}


def test_recordings_without_a_frame_near_are_named_and_the_others_used(tmp_path):
    """Sound alone, a picture track with an offset larger than the gap, and one that begins late."""
    clip_set = [
        make_clip("alone", "r", 2),
        make_clip("apart", "s", 2, frame_seconds=(30.0, 31.0)),
        make_clip("late", "t", 4, frame_seconds=(5.0,)),
    ]
    write_clip_set(tmp_path / "clips", clip_set)
    info = sample(tmp_path / "clips", tmp_path / "set", count=2, allow_repeats=True, **IMAGE)
    assert info.parameters["num_recordings"] == 3
    assert info.parameters["num_recordings_without_pairs"] == 2
    assert "2 of 3 recordings gave no pair" in str(info)
    assert failures_of(tmp_path / "set") == {
        "r": "It has no frame of video, and no picture.",
        "s": "The nearest of its 2 frames is 28.6 s from the centre of a window, expected at most 2.5 s.",
    }
    found = pairs_of(tmp_path / "set")
    # Centres at 0.48, 1.44, 2.4 and 3.36; 5.0 is 2.6 from the third.
    assert [pair["audio"][:2] for pair in found] == [("late", "t")] * len(found)
    assert sorted({round(pair["audio"][2] / STEP) for pair in found}) == [3]


def test_one_window_and_one_frame_are_one_pair(tmp_path):
    write_clip_set(tmp_path / "clips", [make_clip("a", "r", 1, frame_seconds=(0.5,))])
    assert sample(tmp_path / "clips", tmp_path / "set", count=1, **IMAGE).num_examples == 1
    with pytest.raises(
        windows.ImpossibleError, match=r"of which 1 pairs can be made at most, and 2 .*--allow-repeats"
    ):
        sample(tmp_path / "clips", tmp_path / "more", count=2, **IMAGE)
    info = sample(tmp_path / "clips", tmp_path / "more", count=2, allow_repeats=True, overwrite=True, **IMAGE)
    assert info.num_examples == 2


def test_an_output_that_exists_is_kept(clips, tmp_path):
    sample(clips, tmp_path / "set", count=3)
    with pytest.raises(job_output.JobError, match="is a finished data set; pass --overwrite"):
        sample(clips, tmp_path / "set", count=4)
    assert sample(clips, tmp_path / "set", count=4, overwrite=True).num_examples == 4


def test_a_runner_that_loses_data_is_found_out(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(drawn_sets.Settings, "shard_slots", lambda self, number: range(59))
    with pytest.raises(job_output.JobError, match="the runner handled 59 of 60 pairs; nothing was"):
        sample(clips, tmp_path / "set")
    assert os.listdir(tmp_path) == []


def test_a_set_of_another_kind_is_refused(clips, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(clips, copy)
    edit_sidecar(copy, kind="pairs")
    with pytest.raises(examples.DatasetError, match="copy holds pairs examples, expected clips"):
        sample(copy, tmp_path / "set")


def test_a_sidecar_that_promises_frames_there_are_not(tmp_path):
    """The index, not the sidecar, has the last word."""
    write_clip_set(tmp_path / "clips", [make_clip("a", "r", 2)])
    edit_sidecar(tmp_path / "clips", num_images=7)  # and so passes what is checked beforehand
    with pytest.raises(windows.ImpossibleError, match="none of 1 recordings has frames"):
        sample(tmp_path / "clips", tmp_path / "set", count=1, **IMAGE)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_damaged_shard_is_named(clips, tmp_path, num_workers):
    with pytest.raises(job_output.JobError) as raised:
        sample(damaged_copy(clips, tmp_path), tmp_path / "set", num_workers=num_workers, **IMAGE)
    assert re.fullmatch(
        r"/.*/clips-00001-of-00003\.tfrecord is damaged after record \d+ \(.*\); "
        r"copy it again or make the set again\.",
        str(raised.value),
    )
    assert os.listdir(tmp_path) == ["copy"]


def test_frames_in_no_order_are_put_in_theirs(tmp_path):
    """Two clips of a recording that overlap in time, the later first in its shard."""
    late = make_clip("late", "r", 1, start_seconds=0.5, frame_seconds=(0.75, 2.0))
    early = dataclasses.replace(make_clip("early", "r", 1, frame_seconds=(0.0, 1.0)))
    write_clip_set(tmp_path / "clips", [late, early])
    sample(tmp_path / "clips", tmp_path / "set", count=100, allow_repeats=True,
           max_time_gap_seconds=0.6, **IMAGE)  # fmt: skip
    found = {(pair["audio"][0], pair["image"][0], pair["image"][2]) for pair in pairs_of(tmp_path / "set")}
    # Centres at 0.98 and 0.48.
    assert found == {
        ("late", "late", 0.75), ("late", "early", 1.0),
        ("early", "early", 0.0), ("early", "late", 0.75), ("early", "early", 1.0),
    }  # fmt: skip
