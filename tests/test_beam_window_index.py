"""The index of windows in files: every window once, in a global order that no cut into buckets changes."""

import ast
import dataclasses
import json
import math
import os
import shutil

import apache_beam as beam
import numpy as np
import pytest
import tiny
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing import test_pipeline
from apache_beam.testing.util import assert_that, equal_to

from tfsound import examples, mel, pairs, sampling, triplets, windows
from tfsound.beam import output as job_output
from tfsound.beam import running, window_index

PARAMS = mel.MelParams()
STEP = PARAMS.context_seconds


def make_clip(
    clip_id, recording_id, num_windows, *,
    start_seconds=0.0, labels=(), fold="", extra_frames=5, frame_seconds=(),
):  # fmt: skip
    """A clip whose energies and pictures no other clip has."""
    rng = sampling.random_generator(clip_id)
    energies = rng.random((num_windows * PARAMS.context_frames + extra_frames, PARAMS.mel_bins))
    number = sampling.stable_hash(clip_id)
    return examples.Clip(
        clip_id, recording_id, start_seconds, labels, fold, "", energies.astype(np.float16),
        tuple(tiny.jpeg(number + step) for step in range(len(frame_seconds))), tuple(frame_seconds),
    )  # fmt: skip


def write_clip_set(directory, *shards: list[examples.Clip]) -> examples.DatasetInfo:
    """A finished set of clip examples, without any audio."""
    with job_output.pending_output(str(directory), overwrite=True) as pending:
        finished = []
        for number, clips in enumerate(shards):
            name = f"clips-{number:05d}-of-{len(shards):05d}.tfrecord"
            with job_output.shard_writer(pending.path, name) as writer:
                for clip in clips:
                    writer.write(examples.encode_clip(clip))
            finished.append(job_output.finished_shard(pending.path, name, len(clips)))
        all_clips = [clip for clips in shards for clip in clips]
        info = examples.DatasetInfo(
            examples.CLIPS, PARAMS, tuple(finished),
            num_windows=sum(PARAMS.num_windows(len(clip.mel_energy)) for clip in all_clips),
            label_names=tuple(sorted({label for clip in all_clips for label in clip.labels})),
            folds=tuple(sorted({clip.fold for clip in all_clips})),
            num_images=sum(len(clip.frame_jpegs) for clip in all_clips),
        )  # fmt: skip
        pending.publish(info)
    return info


def edit_sidecar(directory, **fields) -> None:
    sidecar = directory / examples.INFO_NAME
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | fields))


def damaged_copy(clips, tmp_path):
    """The clips with one byte wrong in the last record of their second shard of three."""
    copy = tmp_path / "copy"
    shutil.copytree(clips, copy)
    tiny.flip_byte(copy / "clips-00001-of-00003.tfrecord", -100)
    return copy


def window_bytes(clip: examples.Clip, window: int) -> bytes:
    frames = PARAMS.context_frames
    return clip.mel_energy[window * frames : (window + 1) * frames].astype("<f2").tobytes()


def many_shards() -> list[list[examples.Clip]]:
    """40 clips of 25 recordings in 3 shards; some overlap in time, some hold no window, some no label."""
    labels = [(), ("dog",), ("dog", "owl"), ("owl",), ("rain",), ("owl", "wind")]
    clips = [
        make_clip(
            f"c{n:02d}", f"r{n % 25}", n % 5,
            start_seconds=0.5 * (n // 25), labels=labels[n % 6], fold=str(n % 3),
        )
        for n in range(40)
    ]  # fmt: skip
    return [clips[0::3], clips[1::3], clips[2::3]]


def make_plan(info, constraints=("proximity:2.0", "labels")) -> triplets.Plan:
    return triplets.make_plan(info, constraints, 1, (), 0)


def build(tmp_path, shards, *, plan=None, exclude_folds=()):
    info = write_clip_set(tmp_path / "clips", *shards)
    options = running.beam_options(runner="local", num_workers=1, worker_mode="threads", beam_flags=())
    pending = job_output.PendingOutput(str(tmp_path / "out"), overwrite=False)
    totals = window_index.build_index(
        str(tmp_path / "clips"), info, pending,
        plan=plan or make_plan(info), exclude_folds=exclude_folds, options=options,
    )  # fmt: skip
    return pending.path, totals


def locations_of(path, totals) -> list[windows.WindowLocation]:
    """All windows in global order."""
    return [
        window_index.load_bucket(path, bucket).location(window)
        for bucket, count in enumerate(np.diff(totals.window_starts))
        for window in range(count)
    ]


def test_every_window_is_indexed_once_in_order(tmp_path):
    shards = many_shards()
    path, totals = build(tmp_path, shards)
    refs = [location.ref for location in locations_of(path, totals)]
    expected = [
        examples.WindowRef(clip.clip_id, clip.recording_id, clip.start_seconds + window * STEP)
        for clips in shards
        for clip in clips
        for window in range(PARAMS.num_windows(len(clip.mel_energy)))
    ]
    expected.sort(key=lambda r: (sampling.stable_hash(r.recording_id), r.start_seconds, r.clip_id))
    assert refs == expected
    assert totals.num_windows == len(expected)
    assert totals.num_recordings == len({ref.recording_id for ref in expected})


def test_windows_are_read_where_they_lie(tmp_path):
    shards = many_shards()
    path, totals = build(tmp_path, shards)
    clips = {clip.clip_id: clip for clips in shards for clip in clips}
    paths = sorted(str(file) for file in (tmp_path / "clips").glob("*.tfrecord"))
    reader = window_index.WindowReader(paths, PARAMS)
    locations = locations_of(path, totals)
    for location in locations[::-1]:
        clip = clips[location.ref.clip_id]
        window = round((location.ref.start_seconds - clip.start_seconds) / STEP)
        assert reader.read(location) == window_bytes(clip, window)


def clips_with_frames() -> list[examples.Clip]:
    """Two clips of one recording; the second begins with the same picture as the first, and has it twice."""
    first = make_clip("a", "r", 2, frame_seconds=(0.0, 1.0))
    second = make_clip("b", "r", 1, start_seconds=2 * STEP, frame_seconds=(2.0, 3.0, 4.5))
    jpegs = (first.frame_jpegs[0], second.frame_jpegs[1], first.frame_jpegs[0])
    return [first, dataclasses.replace(second, frame_jpegs=jpegs), make_clip("c", "s", 1)]


def frames_of(path, totals) -> list[windows.FrameLocation]:
    buckets = [window_index.load_bucket(path, n) for n, c in enumerate(np.diff(totals.window_starts)) if c]
    return [b.frame_location(frame) for b in buckets for frame in range(len(b.frame_seconds))]


@pytest.mark.parametrize("num_shards", [1, 3])
def test_frames_are_read_where_they_lie(tmp_path, num_shards):
    clips = clips_with_frames()
    shards = [clips[number::num_shards] for number in range(num_shards)]
    info = write_clip_set(tmp_path / "clips", *shards)
    plan = pairs.make_plan(info, "audio_image", 1.0, 1, 0)
    path, totals = build(tmp_path, shards, plan=plan)
    reader = window_index.WindowReader(
        sorted(str(file) for file in (tmp_path / "clips").glob("*.tfrecord")), PARAMS
    )
    found = [(at.ref, reader.read_frame(at)) for at in frames_of(path, totals)]
    assert found == [
        (examples.FrameRef(clip.clip_id, "r", seconds), jpeg)
        for clip in clips
        for seconds, jpeg in zip(clip.frame_seconds, clip.frame_jpegs, strict=True)
    ]


def test_frames_are_indexed_only_where_a_constraint_asks_for_them(tmp_path):
    path, totals = build(tmp_path, [clips_with_frames()])
    assert frames_of(path, totals) == []
    assert totals.num_recordings_with_frames == 0


def test_a_frame_beyond_the_end_is_named(tmp_path):
    (tmp_path / "a.tfrecord").write_bytes(b"too short")
    reader = window_index.WindowReader([str(tmp_path / "a.tfrecord")], PARAMS)
    with pytest.raises(examples.DatasetError, match=r"a\.tfrecord ends early; make the set again"):
        reader.read_frame(windows.FrameLocation(0, 3, 7, examples.FrameRef("c", "r", 0.0)))


def test_a_window_beyond_the_end_is_named(tmp_path):
    (tmp_path / "a.tfrecord").write_bytes(b"too short")
    reader = window_index.WindowReader([str(tmp_path / "a.tfrecord")], PARAMS)
    location = windows.WindowLocation(0, 3, examples.WindowRef("c", "r", 0.0), ())
    with pytest.raises(examples.DatasetError, match=r"a\.tfrecord ends early; make the set again"):
        reader.read(location)


def test_silence_is_found_where_it_lies(tmp_path):
    """The payload is sought in the record: zeros, too, must be found at its start."""
    silent = examples.Clip("a", "r", 0.0, (), "", "", np.zeros((192, 64), np.float16))
    loud = make_clip("b", "q", 1)
    path, totals = build(tmp_path, [[silent, loud]])
    reader = window_index.WindowReader([str(tmp_path / "clips" / "clips-00000-of-00001.tfrecord")], PARAMS)
    read = {
        (location.ref.clip_id, location.ref.start_seconds): reader.read(location)
        for location in locations_of(path, totals)
    }
    assert read == {
        ("a", 0.0): bytes(12288),
        ("a", STEP): bytes(12288),
        ("b", 0.0): window_bytes(loud, 0),
    }


@pytest.mark.parametrize("clips_per_bucket", [1, 7, 20])
def test_the_order_does_not_depend_on_the_buckets(tmp_path, monkeypatch, clips_per_bucket):
    (tmp_path / "one").mkdir()
    path, totals = build(tmp_path / "one", many_shards())
    assert len(totals.window_starts) == 2
    monkeypatch.setattr(window_index, "_CLIPS_PER_BUCKET", clips_per_bucket)
    many_path, many_totals = build(tmp_path, many_shards())
    assert len(many_totals.window_starts) - 1 == {1: 64, 7: 8, 20: 4}[clips_per_bucket]
    assert locations_of(many_path, many_totals) == locations_of(path, totals)
    assert many_totals.num_recordings == totals.num_recordings
    assert many_totals.num_anchors(0) == totals.num_anchors(0) > 0
    assert many_totals.member_starts[:, -1].tolist() == totals.member_starts[:, -1].tolist()
    plan = make_plan(examples.read_dataset_info(str(tmp_path / "clips"), kind=examples.CLIPS))
    assert triplets.capacity(plan, many_totals, 96) == triplets.capacity(plan, totals, 96)


def test_the_totals_come_back_as_they_were(tmp_path):
    path, totals = build(tmp_path, many_shards())
    loaded = window_index.load_totals(path)
    assert loaded.num_recordings == totals.num_recordings
    assert loaded.num_recordings_with_frames == totals.num_recordings_with_frames == 0
    for name in (
        "window_starts", "anchor_starts", "member_starts", "labelled_starts", "max_own_non_members",
        "num_recordings_used", "smallest_gap_seconds",
    ):  # fmt: skip
        np.testing.assert_array_equal(getattr(loaded, name), getattr(totals, name))
    assert [[tuple(pair) for pair in pairs] for pairs in loaded.scarcest] == [
        list(pairs) for pairs in totals.scarcest
    ]


@pytest.mark.parametrize(
    "array",
    [
        np.arange(5, dtype=np.uint8), np.zeros(0, np.int64), np.array(7), np.array('{"a": [1]}\n'),
        np.array(["a", "日本語", ""]), np.array([1.5, -math.inf, math.nan]),
        np.arange(12).reshape(3, 4)[:, ::2],
    ],
)  # fmt: skip
def test_arrays_come_back_as_they_were(tmp_path, array):
    path = str(tmp_path / "arrays")
    window_index._save_arrays(path, first=array, other=np.arange(3), last=array)
    loaded = window_index._load_arrays(path)
    assert list(loaded) == ["first", "other", "last"]
    for found in (loaded["first"], loaded["last"]):
        np.testing.assert_array_equal(found, array)
        assert (found.dtype, found.shape, found.flags.aligned) == (array.dtype, array.shape, True)


def test_an_index_is_loaded_without_the_parser_of_python(tmp_path, monkeypatch):
    """Which fails now and then in several threads: see `_save_arrays`."""
    path, totals = build(tmp_path, many_shards())
    monkeypatch.setattr(ast, "parse", None)
    monkeypatch.setattr(ast, "literal_eval", None)
    assert window_index.load_totals(path).num_windows == totals.num_windows
    assert window_index.load_bucket(path, 0).num_windows == totals.num_windows


def test_members_are_those_of_the_labels(tmp_path):
    path, totals = build(tmp_path, many_shards())
    info = examples.read_dataset_info(str(tmp_path / "clips"), kind=examples.CLIPS)
    assert info.label_names == ("dog", "owl", "rain", "wind")
    clips = {clip.clip_id: clip for clips in many_shards() for clip in clips}
    for location in locations_of(path, totals):
        names = tuple(info.label_names[number] for number in location.classes)
        assert names == clips[location.ref.clip_id].labels
    for number, name in enumerate(info.label_names):
        expected = sum(
            PARAMS.num_windows(len(clip.mel_energy)) for clip in clips.values() if name in clip.labels
        )
        assert totals.num_members(number) == expected > 0


def test_classes_are_counted_only_where_labels_are_asked_for(tmp_path):
    info = write_clip_set(tmp_path / "clips", *many_shards())
    options = running.beam_options(runner="local", num_workers=1, worker_mode="threads", beam_flags=())
    pending = job_output.PendingOutput(str(tmp_path / "out"), overwrite=False)
    plan = make_plan(info, ("mixing",))
    totals = window_index.build_index(
        str(tmp_path / "clips"), info, pending, plan=plan, exclude_folds=(), options=options
    )
    assert totals.member_starts.shape == (0, 2)
    # But a triplet says what its negative is labelled with under every constraint.
    assert any(location.classes for location in locations_of(pending.path, totals))


def test_excluded_folds_are_left_out(tmp_path):
    path, totals = build(tmp_path, many_shards(), exclude_folds=("0", "2"))
    folds = {clip.clip_id: clip.fold for clips in many_shards() for clip in clips}
    refs = [location.ref for location in locations_of(path, totals)]
    assert {folds[ref.clip_id] for ref in refs} == {"1"}
    assert len(refs) == sum(
        PARAMS.num_windows(len(c.mel_energy)) for clips in many_shards() for c in clips if c.fold == "1"
    )


@pytest.mark.parametrize(
    ("num_clips", "bits"), [(0, 0), (4095, 0), (4096, 1), (8192, 2), (10_000_000, 12), (10**12, 16)]
)
def test_num_bucket_bits(num_clips, bits):
    assert window_index.num_bucket_bits(num_clips) == bits


def test_index_shard_gives_each_clip_its_bucket_and_place(tmp_path):
    clips = [
        make_clip("a", "r", 2, labels=("owl", "dog"), fold="1"),
        make_clip("b", "s", 1, fold="2"),
        make_clip("c", "r", 0),
    ]
    info = write_clip_set(tmp_path / "clips", clips)
    path = str(tmp_path / "clips" / info.shards[0].name)
    offset = (tmp_path / "clips" / info.shards[0].name).read_bytes().index(window_bytes(clips[0], 0))
    with test_pipeline.TestPipeline(runner=FnApiRunner()) as pipeline:
        index_shard = window_index._IndexShard(PARAMS, 3, ("cat", "dog", "owl"), ("2",))
        found = pipeline | beam.Create([(7, path)]) | beam.ParDo(index_shard)
        bucket = sampling.stable_hash("r") >> 61
        assert_that(found, equal_to([(bucket, windows.IndexedClip("r", "a", 7, offset, 0.0, 2, (1, 2)))]))


def test_index_windows_writes_its_buckets(tmp_path):
    labelled = make_clip("a", "r", 2, labels=("owl",))
    info = write_clip_set(tmp_path / "clips", [labelled, make_clip("b", "s", 1)])
    pending = job_output.PendingOutput(str(tmp_path / "out"), overwrite=False)
    transform = window_index.IndexWindows(pending.path, PARAMS, 0, make_plan(info), ())
    with test_pipeline.TestPipeline(runner=FnApiRunner()) as pipeline:
        pipeline | beam.Create([(0, str(tmp_path / "clips" / info.shards[0].name))]) | transform
    assert os.listdir(tmp_path / "out.partial" / "index") == ["bucket-00000"]
    bucket = window_index.load_bucket(pending.path, 0)
    summary = windows.summarize(0, bucket, [sampling.Proximity(2.0)], 1)
    assert (summary.num_windows, summary.num_anchors, summary.num_members) == (3, [2], [2])
    (found,) = pending.take_summaries()
    assert found == dataclasses.asdict(summary) | {
        "scarcest": [[[1, 2]]], "unused": [[["s", 1, 0, math.inf]]]
    }  # fmt: skip
