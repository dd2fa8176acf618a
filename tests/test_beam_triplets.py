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
import tiny
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing import test_pipeline
from test_beam_window_index import PARAMS, STEP, make_clip, many_shards, window_bytes, write_clip_set

from tfsound import examples, sampling, triplets, windows
from tfsound.beam import drawn_sets, running, window_index
from tfsound.beam import output as job_output
from tfsound.beam import triplets as job

MAX_GAP = 2.0
ROLES = ("anchor", "positive", "negative")
JOINT = ("noise:0.5,translation:10,mixing:0.25", f"proximity:{MAX_GAP}", "labels")


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
    return tiny.records_of(path, examples.TRIPLETS)


def triplets_of(path) -> list[dict]:
    """Each triplet: its constraint and labels, and for each role the window's reference and energies."""
    parsed = []
    for record in records_of(path):
        feature = tf.train.Example.FromString(record).features.feature
        triplet = {name: feature[name].bytes_list.value[0].decode() for name in ("constraint", "label")}
        triplet["negative_labels"] = tuple(v.decode() for v in feature["negative_labels"].bytes_list.value)
        triplet["is_minable"] = bool(feature["is_minable"].int64_list.value[0])
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
    found = windows_of(shards)
    return {
        key
        for key, (clip, start) in found.items()
        if any(
            key != other and clip.recording_id == c.recording_id and abs(start - s) < max_gap
            for other, (c, s) in found.items()
        )
    }


def window_key(ref: examples.WindowRef, clips: dict[str, examples.Clip]) -> tuple[str, int]:
    return ref.clip_id, round((ref.start_seconds - clips[ref.clip_id].start_seconds) / STEP)


@pytest.mark.parametrize("count", [1, 7, 5000])
def test_every_triplet_is_what_its_constraint_says(clips, tmp_path, count):
    info = sample(clips, tmp_path / "set", count=count, allow_repeats=True)
    drawn = triplets_of(tmp_path / "set")
    assert len(drawn) == info.num_examples == count
    by_id = {clip.clip_id: clip for shard in many_shards() for clip in shard}
    for triplet in drawn:
        anchor, positive, negative = (triplet[role] for role in ROLES)
        assert anchor.recording_id == positive.recording_id != negative.recording_id
        gap = abs(anchor.start_seconds - positive.start_seconds)
        assert gap < MAX_GAP
        assert gap > 0 or anchor.clip_id != positive.clip_id
        assert (triplet["constraint"], triplet["label"], triplet["is_minable"]) == ("proximity", "", True)
        assert triplet["negative_labels"] == by_id[negative.clip_id].labels
        for role in ROLES:
            clip_id, window = window_key(triplet[role], by_id)
            assert triplet[role].recording_id == by_id[clip_id].recording_id
            assert triplet[f"{role}_energies"] == window_bytes(by_id[clip_id], window)


def test_anchors_are_used_equally_often_and_negatives_all(clips, tmp_path):
    sample(clips, tmp_path / "set", count=5000, allow_repeats=True)
    by_id = {clip.clip_id: clip for shard in many_shards() for clip in shard}
    drawn = triplets_of(tmp_path / "set")
    anchors = collections.Counter(window_key(t["anchor"], by_id) for t in drawn)
    expected = possible_anchors(many_shards(), MAX_GAP)
    assert 40 < len(expected) < len(windows_of(many_shards()))
    assert set(anchors) == expected
    assert max(anchors.values()) - min(anchors.values()) == 1
    positives = {window_key(t["positive"], by_id) for t in drawn}
    assert positives == expected
    negatives = collections.Counter(window_key(t["negative"], by_id) for t in drawn)
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
    sample(tmp_path / "clips", tmp_path / "set", count=10, allow_repeats=True)
    pairs = collections.Counter(
        (t["anchor"].clip_id, t["positive"].clip_id, t["negative"].clip_id)
        for t in triplets_of(tmp_path / "set")
    )
    assert pairs == {("a", "b", "n"): 5, ("b", "a", "n"): 5}


def test_the_gap_is_strictly_less(tmp_path):
    clip = dataclasses.replace(make_clip("late", "r", 1), start_seconds=10.0)
    write_clip_set(tmp_path / "clips", [make_clip("a", "r", 1), clip, make_clip("n", "other", 1)])
    with pytest.raises(
        windows.ImpossibleError, match="under proximity:10: no recording has two windows that n"
    ):
        sample(tmp_path / "clips", tmp_path / "set", constraints=("proximity:10",), count=2)
    info = sample(tmp_path / "clips", tmp_path / "set", constraints=("proximity:10.001",), count=2)
    assert info.parameters["constraints"] == ["proximity:10.001"]


def energies_of(data: bytes) -> np.ndarray:
    return examples.decode_mel_energy(data, PARAMS.mel_bins).astype(np.float64)


def is_translated(anchor, positive, max_bins: int) -> bool:
    """Whether some shift, looked for by its first frame, makes the positive of the anchor."""
    shifts = itertools.product(range(len(anchor)), range(-max_bins, max_bins + 1))
    for time, frequency in shifts:
        first = np.zeros(PARAMS.mel_bins)
        bins = np.arange(max(0, frequency), min(PARAMS.mel_bins, PARAMS.mel_bins + frequency))
        first[bins] = anchor[-time % len(anchor)][bins - frequency]
        if (first == positive[0]).all():
            return (sampling.translated(anchor, time, frequency) == positive).all()
    return False


def test_a_joint_set_of_all_constraints(clips, tmp_path):
    """Five constraints, exact counts; each positive what its equation makes of the windows as stored."""
    info = sample(clips, tmp_path / "set", constraints=JOINT, count=253)
    assert info.parameters["constraints"] == [
        "noise:0.5", "translation:10", "mixing:0.25", "proximity:2", "labels"
    ]  # fmt: skip
    assert info.parameters["counts"] == [51, 51, 51, 50, 50]
    drawn = triplets_of(tmp_path / "set")
    by_id = {clip.clip_id: clip for shard in many_shards() for clip in shard}
    counts = collections.Counter(t["constraint"] for t in drawn)
    assert counts == {"noise": 51, "translation": 51, "mixing": 51, "proximity": 50, "labels": 50}
    for t in drawn:
        stored = [window_bytes(by_id[t[role].clip_id], window_key(t[role], by_id)[1]) for role in ROLES]
        assert (t["anchor_energies"], t["negative_energies"]) == (stored[0], stored[2])
        anchor, positive, negative = (energies_of(t[f"{role}_energies"]) for role in ROLES)
        assert t["anchor"].recording_id != t["negative"].recording_id
        assert t["negative_labels"] == by_id[t["negative"].clip_id].labels
        assert t["is_minable"] == (t["constraint"] != "mixing")
        assert (t["label"] != "") == (t["constraint"] == "labels")
        if t["constraint"] in ("proximity", "labels"):
            assert t["positive_energies"] == stored[1]
            assert t["positive"] != t["anchor"]
        else:
            assert t["positive"] == t["anchor"]
        if t["constraint"] == "proximity":
            assert t["anchor"].recording_id == t["positive"].recording_id
        elif t["constraint"] == "labels":
            assert all(t["label"] in by_id[t[role].clip_id].labels for role in ("anchor", "positive"))
            assert t["label"] not in t["negative_labels"]
        elif t["constraint"] == "noise":
            noise = positive[anchor > 0] / anchor[anchor > 0] - 1
            assert noise.min() >= 0
            assert np.sqrt(np.mean(noise**2)) == pytest.approx(0.5, rel=0.05)
        elif t["constraint"] == "translation":
            assert is_translated(anchor, positive, 10)
        else:
            expected = anchor + 0.25 * anchor.sum() / negative.sum() * negative
            np.testing.assert_allclose(positive, expected, rtol=1e-3, atol=1e-6)


def test_classes_have_equal_shares_of_explicit_labels(clips, tmp_path):
    info = sample(clips, tmp_path / "set", constraints=("labels",), count=402)
    assert info.num_examples == 402
    drawn = triplets_of(tmp_path / "set")
    assert sorted(collections.Counter(t["label"] for t in drawn).values()) == [100, 100, 101, 101]
    assert len(set(records_of(tmp_path / "set"))) == 402


def test_shares_decide_the_counts(clips, tmp_path):
    info = sample(clips, tmp_path / "set", constraints=JOINT, count=100, shares=(4.0, 0.0, 1.0, 1.0, 2.0))
    assert info.parameters["counts"] == [50, 0, 13, 12, 25]
    counts = collections.Counter(t["constraint"] for t in triplets_of(tmp_path / "set"))
    assert counts == {"noise": 50, "mixing": 13, "proximity": 12, "labels": 25}


def test_a_dry_run_says_the_size_and_writes_nothing(clips, tmp_path):
    options = {"constraints": JOINT, "count": 500, "num_shards": 2}
    estimate = sample(clips, tmp_path / "set", dry_run=True, **options)
    assert os.listdir(tmp_path) == []
    assert estimate.counts == dict.fromkeys(
        ("noise:0.5", "translation:10", "mixing:0.25", "proximity:2", "labels"), 100
    )
    info = sample(clips, tmp_path / "set", **options)
    assert estimate.num_shards == len(info.shards) == 2
    assert estimate.num_bytes == pytest.approx(sum(shard.num_bytes for shard in info.shards), rel=0.02)
    command = [clips, tmp_path / "set", "--constraints", *JOINT, "--count", 10**6, "--dry-run"]
    million = job.run([*map(str, command), "--allow-repeats"])
    assert str(million).startswith(
        "1,000,000 triplets (200,000 noise:0.5, 200,000 translation:10, 200,000 mixing:0.25, "
        "200,000 proximity:2, 200,000 labels), about 37.3 GB in 489 files\n  reads "
    )
    assert str(million).endswith("1,024 triplets drawn from them, seed 0; nothing was written")
    many = sample(clips, tmp_path / "m", count=4 * 10**7, num_shards=0, dry_run=True, allow_repeats=True)
    assert "about 1,490 GB in 19,532 files" in str(many)


def test_repeats_where_they_are_allowed(clips, tmp_path):
    """How many there are is said, and given; more only where repeats are allowed."""
    message = r"can give ([\d,]+) triplets under mixing.*no triplet twice, and 6,000 were asked"
    with pytest.raises(windows.ImpossibleError, match=message) as raised:
        sample(clips, tmp_path / "set", constraints=("mixing",), count=6000)
    assert os.listdir(tmp_path) == []
    anchors = list(windows_of(many_shards()).values())
    own = collections.Counter(clip.recording_id for clip, _ in anchors)
    most = len(anchors) * (len(anchors) - max(own.values()))
    assert f"can give {most:,} triplets" in str(raised.value)
    sample(clips, tmp_path / "most", constraints=("mixing",), count=most)
    assert len(set(records_of(tmp_path / "most"))) == most
    sample(clips, tmp_path / "more", constraints=("mixing",), count=most + 5, allow_repeats=True)
    assert len(records_of(tmp_path / "more")) == most + 5


def test_sets_merge_by_listing_their_folders(clips, tmp_path):
    for name, count in (("noise", 30), ("labels", 10)):
        sample(clips, tmp_path / name, constraints=(name,), count=count)
    folders = [str(tmp_path / name) for name in ("noise", "labels")]
    assert examples.read_triplet_infos(folders) == (PARAMS, 40)
    dataset = examples.triplet_dataset(folders, batch_size=40, weights=(1.0, 3.0))
    batch = next(iter(dataset))
    assert sorted(batch["weight"].numpy().tolist()) == [1.0] * 30 + [3.0] * 10
    np.testing.assert_array_equal(batch["weight"] == 3.0, batch["anchor_label"] >= 0)


def test_the_sidecar(clips, tmp_path):
    info = sample(clips, tmp_path / "set", count=300, seed=3, num_shards=2, exclude_folds=("1",))
    assert info == examples.read_dataset_info(str(tmp_path / "set"), kind=examples.TRIPLETS)
    assert (info.mel_params, info.num_windows, info.folds) == (PARAMS, 900, ("0", "2"))
    assert info.parameters == {
        "constraints": ["proximity:2"],
        "counts": [300],
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
    """Of all constraints; noise, too, is drawn by the number of the triplet."""
    sample(clips, tmp_path / "one", num_shards=4, constraints=JOINT)
    sample(clips, tmp_path / "other", num_shards=4, constraints=JOINT, **options)
    assert len(shard_bytes(tmp_path / "one")) == 4
    assert shard_bytes(tmp_path / "one") == shard_bytes(tmp_path / "other")


def test_how_clips_are_sharded_does_not_change_the_set(clips, tmp_path):
    write_clip_set(tmp_path / "clips", functools.reduce(operator.iadd, many_shards(), []))
    sample(clips, tmp_path / "three", constraints=JOINT)
    sample(tmp_path / "clips", tmp_path / "one", constraints=JOINT)
    assert records_of(tmp_path / "three") == records_of(tmp_path / "one")


def test_the_seed_decides(clips, tmp_path):
    for name, seed in (("a", 0), ("b", 1), ("c", 0)):
        sample(clips, tmp_path / name, seed=seed)
    a, b, c = (records_of(tmp_path / name) for name in "abc")
    assert a == c
    assert len(set(a) & set(b)) < 30


def test_more_shards_than_triplets(clips, tmp_path):
    info = sample(clips, tmp_path / "set", count=2, num_shards=5)
    assert [shard.num_examples for shard in info.shards] == [0, 0, 1, 0, 1]
    assert len(records_of(tmp_path / "set")) == 2
    dataset = examples.triplet_dataset([str(tmp_path / "set")], batch_size=2)
    assert next(iter(dataset))["anchor"].shape == (2, 96, 64)


def test_the_transform_writes_shards(clips, tmp_path):
    sample(clips, tmp_path / "whole", count=5, num_shards=2)
    info = examples.read_dataset_info(str(clips), kind=examples.CLIPS)
    plan = triplets.make_plan(info, (f"proximity:{MAX_GAP}",), 5, (), 0)
    pending = job_output.PendingOutput(str(tmp_path / "set"), overwrite=False)
    options = running.beam_options(runner="local", num_workers=1, worker_mode="threads", beam_flags=())
    window_index.build_index(str(clips), info, pending, plan=plan, exclude_folds=(), options=options)
    settings = drawn_sets.Settings(pending.path, job.DrawnTriplets(plan, PARAMS), 2, 1)
    with test_pipeline.TestPipeline(runner=FnApiRunner()) as pipeline:
        pipeline | beam.Create([0]) | drawn_sets.SampleExamples(settings)
    names = [f"triplets-0000{number}-of-00002.tfrecord" for number in (0, 1)]
    found = [(summary["name"], summary["num_examples"]) for summary in pending.take_summaries()]
    assert found == [(names[0], 2), (names[1], 3)]
    for name in names:
        assert (tmp_path / "set.partial" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_run_is_the_function_from_a_command_line(clips, tmp_path):
    options = {"constraints": ("noise:0.5,proximity:2", "mixing"), "shares": (2.0, 1.0, 1.0)}
    sample(clips, tmp_path / "function", count=20, seed=5, exclude_folds=("0", "2"), **options)
    info = job.run(
        f"{clips} {tmp_path}/command --constraints noise:0.5,proximity:2 mixing --shares 2 1 1 --count 20 "
        "--seed 5 --exclude-folds 0 2 --num-workers 1 --job_name=x".split()
    )
    assert info.parameters["counts"] == [10, 5, 5]
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
        *("--shares", "--allow-repeats", "--dry-run"),
    ):
        assert option in text
