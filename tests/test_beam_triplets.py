"""The job `triplets`: what each triplet may hold, exact counts, the same bytes from any workers."""

import collections
import dataclasses
import functools
import itertools
import operator
import os

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing import test_pipeline
from test_beam_window_index import PARAMS, STEP, make_clip, many_shards, window_bytes, write_clip_set

from tfsound import examples, sampling
from tfsound.beam import output as job_output
from tfsound.beam import triplets as job
from tfsound.beam import window_index

MAX_GAP = 2.0
ROLES = ("anchor", "positive", "negative")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """The folder of a set of clips: see `many_shards`."""
    folder = tmp_path_factory.mktemp("clips") / "clips"
    write_clip_set(folder, *many_shards())
    return folder


def sample(clips, output, **options) -> examples.DatasetInfo:
    options = {"constraints": (f"proximity:{MAX_GAP}",), "count": 300, "num_workers": 1} | options
    return job.sample_triplets(str(clips), str(output), **options)


def records_of(path) -> list[bytes]:
    info = examples.read_dataset_info(str(path), kind=examples.TRIPLETS)
    return [
        record for shard in info.shards for _, record in examples.read_records(os.path.join(path, shard.name))
    ]


def triplets_of(path) -> list[dict]:
    """Each triplet: its constraint, and for each role the window's reference and energies."""
    parsed = []
    for record in records_of(path):
        feature = tf.train.Example.FromString(record).features.feature
        triplet = {"constraint": feature["constraint"].bytes_list.value[0].decode()}
        for role in ROLES:
            triplet[role] = examples.WindowRef(
                feature[f"{role}_clip_id"].bytes_list.value[0].decode(),
                feature[f"{role}_recording_id"].bytes_list.value[0].decode(),
                feature[f"{role}_start_seconds"].float_list.value[0],
            )
            triplet[f"{role}_energies"] = feature[role].bytes_list.value[0]
        parsed.append(triplet)
    return parsed


def shard_bytes(path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.glob("*.tfrecord"))}


def windows_of(shards) -> dict[tuple[str, int], tuple[examples.Clip, float]]:
    """(clip id, number of the window) -> (clip, start)."""
    return {
        (clip.clip_id, window): (clip, clip.start_seconds + window * STEP)
        for clips in shards
        for clip in clips
        for window in range(PARAMS.num_windows(len(clip.mel_energy)))
    }


def possible_anchors(shards, max_gap: float) -> set[tuple[str, int]]:
    """By the definition: another window of the recording starts less than the gap away."""
    windows = windows_of(shards)
    return {
        key
        for key, (clip, start) in windows.items()
        if any(
            key != other and clip.recording_id == c.recording_id and abs(start - s) < max_gap
            for other, (c, s) in windows.items()
        )
    }


def window_key(ref: examples.WindowRef, clips: dict[str, examples.Clip]) -> tuple[str, int]:
    return ref.clip_id, round((ref.start_seconds - clips[ref.clip_id].start_seconds) / STEP)


@pytest.mark.parametrize("count", [1, 7, 5000])
def test_every_triplet_is_what_its_constraint_says(clips, tmp_path, count):
    info = sample(clips, tmp_path / "set", count=count)
    triplets = triplets_of(tmp_path / "set")
    assert len(triplets) == info.num_examples == count
    by_id = {clip.clip_id: clip for shard in many_shards() for clip in shard}
    for triplet in triplets:
        anchor, positive, negative = (triplet[role] for role in ROLES)
        assert anchor.recording_id == positive.recording_id != negative.recording_id
        gap = abs(anchor.start_seconds - positive.start_seconds)
        assert gap < MAX_GAP
        assert gap > 0 or anchor.clip_id != positive.clip_id
        assert triplet["constraint"] == "proximity"
        for role in ROLES:
            clip_id, window = window_key(triplet[role], by_id)
            assert triplet[role].recording_id == by_id[clip_id].recording_id
            assert triplet[f"{role}_energies"] == window_bytes(by_id[clip_id], window)


def test_anchors_are_used_equally_often_and_negatives_all(clips, tmp_path):
    sample(clips, tmp_path / "set", count=5000)
    by_id = {clip.clip_id: clip for shard in many_shards() for clip in shard}
    triplets = triplets_of(tmp_path / "set")
    anchors = collections.Counter(window_key(t["anchor"], by_id) for t in triplets)
    expected = possible_anchors(many_shards(), MAX_GAP)
    assert 40 < len(expected) < len(windows_of(many_shards()))
    assert set(anchors) == expected
    assert max(anchors.values()) - min(anchors.values()) == 1
    positives = {window_key(t["positive"], by_id) for t in triplets}
    assert positives == expected
    negatives = collections.Counter(window_key(t["negative"], by_id) for t in triplets)
    assert set(negatives) == set(windows_of(many_shards()))
    assert max(negatives.values()) < 2 * 5000 / len(negatives)


def test_the_order_is_shuffled_globally(clips, tmp_path):
    sample(clips, tmp_path / "set", count=1000)
    recordings = [t["anchor"].recording_id for t in triplets_of(tmp_path / "set")]
    same = np.mean([a == b for a, b in itertools.pairwise(recordings)])
    shares = np.array(list(collections.Counter(recordings).values())) / 1000
    assert same < 2 * (shares**2).sum() < 0.3
    # Each tenth of the set holds most recordings.
    assert min(len(set(recordings[i : i + 100])) for i in range(0, 1000, 100)) > 0.8 * len(set(recordings))


def test_clips_that_overlap_in_time(tmp_path):
    """Both clips start at 0, as those of UrbanSound8K may: the same start in another clip is near."""
    write_clip_set(
        tmp_path / "clips", [make_clip("a", "r", 1), make_clip("b", "r", 1), make_clip("n", "other", 1)]
    )
    sample(tmp_path / "clips", tmp_path / "set", count=10)
    pairs = collections.Counter(
        (t["anchor"].clip_id, t["positive"].clip_id, t["negative"].clip_id)
        for t in triplets_of(tmp_path / "set")
    )
    assert pairs == {("a", "b", "n"): 5, ("b", "a", "n"): 5}


def test_the_gap_is_strictly_less(tmp_path):
    clip = dataclasses.replace(make_clip("late", "r", 1), start_seconds=10.0)
    write_clip_set(tmp_path / "clips", [make_clip("a", "r", 1), clip, make_clip("n", "other", 1)])
    with pytest.raises(job_output.JobError, match="no recording has two windows that near"):
        sample(tmp_path / "clips", tmp_path / "set", constraints=("proximity:10",), count=4)
    sample(tmp_path / "clips", tmp_path / "set", constraints=("proximity:10.001",), count=4)


def test_the_sidecar(clips, tmp_path):
    info = sample(clips, tmp_path / "set", count=300, seed=3, num_shards=2, exclude_folds=("1",))
    assert info == examples.read_dataset_info(str(tmp_path / "set"), kind=examples.TRIPLETS)
    assert (info.mel_params, info.num_windows, info.folds) == (PARAMS, 900, ("0", "2"))
    assert info.parameters == {
        "constraints": ["proximity:2.0"],
        "count": 300,
        "exclude_folds": ["1"],
        "seed": 3,
    }
    assert [(shard.name, shard.num_examples) for shard in info.shards] == [
        ("triplets-00000-of-00002.tfrecord", 150),
        ("triplets-00001-of-00002.tfrecord", 150),
    ]
    assert sorted(os.listdir(tmp_path / "set")) == [
        "dataset_info.json",
        *(shard.name for shard in info.shards),
    ]
    assert info.command.startswith("tfsound triplets ")
    assert os.listdir(tmp_path) == ["set"]


def test_excluded_folds_occur_nowhere(clips, tmp_path):
    sample(clips, tmp_path / "set", exclude_folds=("0", "1"))
    folds = {clip.clip_id: clip.fold for shard in many_shards() for clip in shard}
    assert {folds[t[role].clip_id] for t in triplets_of(tmp_path / "set") for role in ROLES} == {"2"}


@pytest.mark.parametrize("options", [{"num_workers": 2}, {"num_workers": 2, "worker_mode": "processes"}])
def test_the_same_bytes_come_from_any_workers(clips, tmp_path, options):
    sample(clips, tmp_path / "one", num_shards=4)
    sample(clips, tmp_path / "other", num_shards=4, **options)
    assert len(shard_bytes(tmp_path / "one")) == 4
    assert shard_bytes(tmp_path / "one") == shard_bytes(tmp_path / "other")


@pytest.mark.parametrize("clips_per_bucket", [1, 7])
def test_buckets_and_shards_do_not_change_the_set(clips, tmp_path, monkeypatch, clips_per_bucket):
    sample(clips, tmp_path / "one")
    monkeypatch.setattr(window_index, "_CLIPS_PER_BUCKET", clips_per_bucket)
    sample(clips, tmp_path / "many", num_shards=3)
    assert records_of(tmp_path / "many") == records_of(tmp_path / "one")


def test_how_clips_are_sharded_does_not_change_the_set(clips, tmp_path):
    write_clip_set(tmp_path / "clips", functools.reduce(operator.iadd, many_shards(), []))
    sample(clips, tmp_path / "three")
    sample(tmp_path / "clips", tmp_path / "one")
    assert records_of(tmp_path / "three") == records_of(tmp_path / "one")


def test_the_seed_decides(clips, tmp_path):
    for name, seed in (("a", 0), ("b", 1), ("c", 0)):
        sample(clips, tmp_path / name, seed=seed)
    a, b, c = (records_of(tmp_path / name) for name in "abc")
    assert a == c
    assert len(set(a) & set(b)) < 30


def test_constraints_get_equal_shares_and_draws_of_their_own(clips, tmp_path):
    sample(clips, tmp_path / "set", count=301, constraints=("proximity:1", "proximity:1.5"))
    triplets = triplets_of(tmp_path / "set")
    assert all(abs(t["anchor"].start_seconds - t["positive"].start_seconds) < 1 for t in triplets[0::2])
    wide = [abs(t["anchor"].start_seconds - t["positive"].start_seconds) for t in triplets[1::2]]
    assert 1 < max(wide) < 1.5
    assert len(triplets) == 301
    assert sum(a == b for a, b in zip(triplets[0::2], triplets[1::2], strict=False)) < 10


def test_more_shards_than_triplets(clips, tmp_path):
    info = sample(clips, tmp_path / "set", count=2, num_shards=5)
    assert [shard.num_examples for shard in info.shards] == [0, 0, 1, 0, 1]
    assert len(records_of(tmp_path / "set")) == 2
    dataset = examples.triplet_dataset([str(tmp_path / "set")], batch_size=2)
    assert next(iter(dataset))["anchor"].shape == (2, 96, 64)


@pytest.mark.parametrize(("num_shards", "count"), [(1, 1), (3, 10), (5, 2), (7, 5000)])
def test_shard_slots_are_each_slot_once(num_shards, count):
    shards = [job.shard_slots(number, num_shards, count) for number in range(num_shards)]
    assert [slot for shard in shards for slot in shard] == list(range(count))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def small_totals(bucket, num_recordings):
    return window_index.Totals(
        num_recordings, np.array([0, len(bucket.window_clip)]), (np.array([0, len(bucket.anchor_windows)]),)
    )


def test_draw_triplets_without_any_pipeline():
    """Recordings of 2 and 1 windows: two anchors, one positive and one negative for each."""
    rows = [("pair", "p", 0, 10, 0.0, 2), ("single", "s", 0, 50_000, 0.0, 1)]
    constraint = sampling.Proximity(1.0)
    bucket = window_index.build_bucket(iter(rows), PARAMS, [constraint])
    draws = job.draw_triplets(range(4), (constraint,), small_totals(bucket, 2), lambda _: bucket, 0)
    starts = [(d.anchor.ref.start_seconds, d.positive.ref.start_seconds) for d in draws]
    assert sorted(starts) == [(0.0, STEP), (0.0, STEP), (STEP, 0.0), (STEP, 0.0)]
    assert {d.negative for d in draws} == {
        window_index.WindowLocation(0, 50_000, examples.WindowRef("s", "single", 0.0))
    }


def test_encode_draw_alters_the_positive_as_the_constraint_says():
    @dataclasses.dataclass(frozen=True)
    class Mixing(sampling.Proximity):
        name = "mixing"

        def alter_positive(self, anchor, positive, negative, rng):
            return anchor + 2 * positive + 4 * negative

    class Reader:
        def read(self, location):
            return examples.encode_mel_energy(np.full((96, 64), location.offset))

    draw = job._Draw(0, Mixing(), np.random.default_rng(0))
    draw.anchor, draw.positive, draw.negative = (
        window_index.WindowLocation(0, value, examples.WindowRef(f"c{value}", f"r{value}", 1.5))
        for value in (1, 3, 5)
    )
    feature = tf.train.Example.FromString(job.encode_draw(draw, Reader(), PARAMS)).features.feature
    values = [np.unique(np.frombuffer(feature[role].bytes_list.value[0], "<f2")).tolist() for role in ROLES]
    assert values == [[1.0], [27.0], [5.0]]
    assert feature["constraint"].bytes_list.value[0] == b"mixing"
    assert feature["negative_recording_id"].bytes_list.value[0] == b"r5"
    assert feature["anchor_start_seconds"].float_list.value[0] == 1.5


def test_sample_triplets_transform_writes_shards(clips, tmp_path):
    sample(clips, tmp_path / "whole", count=5, num_shards=2)
    constraint = sampling.Proximity(MAX_GAP)
    info = examples.read_dataset_info(str(clips), kind=examples.CLIPS)
    pending = job_output.PendingOutput(str(tmp_path / "set"), overwrite=False)
    paths = tuple(str(clips / shard.name) for shard in info.shards)
    index = window_index.IndexWindows(pending.path, PARAMS, 0, [constraint], ())
    with test_pipeline.TestPipeline(runner=FnApiRunner()) as pipeline:
        pipeline | beam.Create(list(enumerate(paths))) | index
    (bucket,) = pending.take_summaries()
    totals = window_index.Totals(
        bucket["num_recordings"],
        np.array([0, bucket["num_windows"]]),
        (np.array([0, bucket["num_anchors"][0]]),),
    )
    window_index._save_arrays(window_index._totals_path(pending.path), **vars(totals))
    settings = job._Settings(pending.path, paths, PARAMS, (constraint,), 5, 2, 0)
    with test_pipeline.TestPipeline(runner=FnApiRunner()) as pipeline:
        pipeline | beam.Create([0, 1]) | job.SampleTriplets(settings)
    names = [f"triplets-0000{number}-of-00002.tfrecord" for number in (0, 1)]
    found = [(summary["name"], summary["num_examples"]) for summary in pending.take_summaries()]
    assert found == [(names[0], 2), (names[1], 3)]
    for name in names:
        assert (tmp_path / "set.partial" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_run_is_the_function_from_a_command_line(clips, tmp_path):
    sample(clips, tmp_path / "function", count=20, seed=5, exclude_folds=("0", "2"))
    info = job.run(
        f"{clips} {tmp_path}/command --constraints proximity:2.0 --count 20 --seed 5 --exclude-folds 0 2 "
        "--num-workers 1 --job_name=x".split()
    )
    assert info.num_examples == 20
    assert shard_bytes(tmp_path / "command") == shard_bytes(tmp_path / "function")


def test_help_names_every_argument(capsys):
    with pytest.raises(SystemExit, match="0"):
        job.run(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "CLIPS OUTPUT" in text
    assert "Samples triplets from clip examples under semantic constraints" in text
    for option in (
        *("--constraints", "--count", "--exclude-folds", "--seed", "--num-shards"),
        *("--overwrite", "--runner", "--num-workers", "--worker-mode"),
    ):
        assert option in text
