"""Dry runs: what they say is what the jobs do, from a sample, and they write nothing."""

import glob
import os
import re
import tempfile
import tracemalloc

import pytest
import small_exports
from hypothesis import given, settings
from hypothesis import strategies as st
from test_beam_examples import ROW, write_noise
from test_beam_triplets import clips
from test_beam_window_index import PARAMS, make_clip, many_shards, write_clip_set

from tfsound import datasets, examples, sampling, windows
from tfsound.beam import embed, instances, manifests, plans, triplets
from tfsound.beam import examples as examples_job
from tfsound.beam import output as job_output

__all__ = ["clips"]  # a fixture

NUM_CLIPS = 12


@pytest.fixture
def folder(tmp_path):
    """Noise of different lengths, a manifest of it, and an export."""
    rows = [
        ROW(f"c{n}", f"r{n}", write_noise(tmp_path / f"{n}.wav", 1.0 + n / 8, seed=n))
        for n in range(NUM_CLIPS)
    ]
    datasets.write_manifest(str(tmp_path / "m.csv"), rows)
    return tmp_path


@pytest.fixture(autouse=True)
def nothing_is_left():
    """Samples are done in temporary folders."""
    yield
    assert glob.glob(os.path.join(tempfile.gettempdir(), "tfsound-dry-run-*")) == []


def make(folder, **options):
    options = {"num_workers": 1, "num_shards": 5} | options
    return examples_job.make_examples(str(folder / "m.csv"), str(folder / "set"), **options)


def num_bytes_of(info):
    return sum(shard.num_bytes for shard in (*info.shards, *info.tables))


def test_examples_a_sample_of_all_clips_says_what_the_job_does(folder):
    before = sorted(os.listdir(folder))
    plan = make(folder, dry_run=True)
    assert sorted(os.listdir(folder)) == before
    info = make(folder)
    assert plan.counts == {"clips": NUM_CLIPS}
    assert (plan.kind, plan.num_clips, plan.num_shards) == (examples.CLIPS, NUM_CLIPS, 5)
    assert plan.num_bytes == num_bytes_of(info)
    # The frames that are whole, of which the last ends up to 25 ms before the sound does.
    seconds = sum(1.0 + n / 8 for n in range(NUM_CLIPS))
    assert plan.hours * 3600 == pytest.approx(seconds, rel=0.03)
    assert 0 < plan.core_hours * 3600 < 60
    # A path, a row number and a manifest's row, pickled.
    assert 100 * NUM_CLIPS < plan.shuffle_bytes < 1000 * NUM_CLIPS
    assert plan.sample.num_clips == NUM_CLIPS


def test_examples_a_part_stands_for_the_whole(folder, monkeypatch):
    monkeypatch.setattr(plans, "NUM_DECODED", 4)
    plan, info = make(folder, dry_run=True), make(folder)
    assert plan.sample.num_clips == 4
    assert plan.counts == {"clips": NUM_CLIPS}
    assert plan.num_bytes == pytest.approx(num_bytes_of(info), rel=0.3)
    assert plan.num_bytes == round(plan.sample.num_bytes * NUM_CLIPS / 4)
    again = make(folder, dry_run=True)
    assert (again.num_bytes, again.hours, again.shuffle_bytes) == (
        plan.num_bytes, plan.hours, plan.shuffle_bytes
    )  # fmt: skip


def test_examples_the_shards_are_those_that_the_job_would_choose(folder):
    assert make(folder, num_shards=0, dry_run=True).num_shards == manifests.default_num_shards(NUM_CLIPS)


def test_what_cannot_be_read_is_said(folder):
    for number in range(6):
        os.remove(folder / f"{number}.wav")
    plan = make(folder, dry_run=True)
    assert (plan.sample.num_rejected, plan.counts) == (6, {"clips": 6})
    assert "measured on 12 clips, 6 of them of no use, seed 0; nothing was written" in str(plan)
    for number in range(6, NUM_CLIPS):
        os.remove(folder / f"{number}.wav")
    with pytest.raises(job_output.JobError, match=r"none of 12 clips that were tried can be used; .*\.wav"):
        make(folder, dry_run=True)
    assert not (folder / "set").exists()
    assert not (folder / "set.partial").exists()


@pytest.mark.parametrize("parquet", [True, False])
def test_embed_a_sample_of_all_clips_says_what_the_job_does(folder, parquet):
    model = small_exports.export(folder / "model", small_exports.TINY)
    arguments = (model, str(folder / "m.csv"), str(folder / "set"))
    options = {"parquet": parquet, "num_shards": 1, "num_workers": 1}
    before = sorted(os.listdir(folder))
    plan = embed.embed(*arguments, dry_run=True, **options)
    assert sorted(os.listdir(folder)) == before
    info = embed.embed(*arguments, **options)
    assert plan.num_bytes == num_bytes_of(info)
    assert plan.hours * 3600 == pytest.approx(sum(1.0 + n / 8 for n in range(NUM_CLIPS)), rel=1e-3)
    assert (plan.counts, plan.num_shards) == ({"embeddings": NUM_CLIPS}, 1)
    assert plan.core_hours > 0
    assert plan.shuffle_bytes > 0


def test_embed_what_cannot_be_read_is_said(folder):
    model = small_exports.export(folder / "model", small_exports.TINY)
    for number in range(NUM_CLIPS):
        os.remove(folder / f"{number}.wav")
    with pytest.raises(job_output.JobError, match="none of 12 clips that were tried can be used"):
        embed.embed(model, str(folder / "m.csv"), str(folder / "set"), dry_run=True)


def test_instances_a_sample_of_all_clips_says_what_the_job_does(clips, tmp_path):
    def assign(**options):
        return instances.assign_instances((str(clips),), str(tmp_path / "set"), num_workers=1, **options)

    plan = assign(dry_run=True)
    assert os.listdir(tmp_path) == []
    info = assign()
    assert (plan.num_bytes, plan.num_shards) == (num_bytes_of(info), len(info.shards))
    assert plan.counts == {"instances": info.num_examples}
    seconds = sum(len(clip.mel_energy) for shard in many_shards() for clip in shard) * PARAMS.hop_seconds
    assert plan.hours * 3600 == pytest.approx(seconds)
    some = assign(dry_run=True, exclude_folds=("0",))
    expected = sum(clip.fold != "0" for shard in many_shards() for clip in shard)
    assert some.counts == {"instances": expected}
    assert some.num_clips == info.num_examples


def test_triplets_more_clips_are_read_where_few_give_none(tmp_path, monkeypatch):
    """The only class of two windows is in the clips that come last."""
    monkeypatch.setattr(plans, "NUM_READ", 2)
    monkeypatch.setattr(plans, "_READ_PER_SHARD", 1)
    clip_set = [make_clip(f"c{number}", f"r{number}", 1, labels=(f"l{number}",)) for number in range(9)]
    write_clip_set(tmp_path / "clips", [*clip_set, make_clip("d", "r", 2, labels=("two",))])

    def sample(constraint):
        arguments = (str(tmp_path / "clips"), str(tmp_path / "set"))
        return triplets.sample_triplets(*arguments, constraints=(constraint,), count=5, dry_run=True)

    plan = sample("labels")
    assert plan.sample.num_clips == 10
    assert plan.sample.num_drawn == 5
    assert os.listdir(tmp_path) == ["clips"]
    write_clip_set(tmp_path / "none", clip_set)
    with pytest.raises(windows.ImpossibleError, match=r"no class of .*none has two windows"):
        triplets.sample_triplets(
            str(tmp_path / "none"), str(tmp_path / "set"), constraints=("labels",), count=5, dry_run=True
        )


def test_a_sample_comes_from_several_shards(clips):
    info = examples.read_dataset_info(str(clips), kind=examples.CLIPS)
    paths = [str(clips / shard.name) for shard in info.shards]
    everything = {
        (number, offset) for number, path in enumerate(paths) for offset, _ in examples.read_records(path)
    }
    assert {(number, offset) for number, offset, _ in plans.sampled_records(paths, 10**6)} == everything
    some = [number for number, _, _ in plans.sampled_records(paths, 2 * plans._READ_PER_SHARD)]
    assert len(some) == min(2 * plans._READ_PER_SHARD, len(everything))
    assert len(set(some)) > 1


SAMPLE = plans.Sample(
    num_clips=20, sound_seconds=200.0, num_bytes=2_500_000, shuffle_bytes=6_000, core_seconds=0.36,
    num_drawn=1000, draw_core_seconds=0.2,
)  # fmt: skip


def test_all_is_in_proportion():
    """By hand: 2.1 million clips of 10 s are 5,833 hours; 10 million triplets of 2.5 kB are 25 GB."""
    plan = plans.scaled(
        "triplets", SAMPLE, num_clips=2_100_000, num_shards=4883,
        counts={"noise:0.5": 6_000_000, "labels": 4_000_000},
    )  # fmt: skip
    assert plan.hours == pytest.approx(5833.33, rel=1e-5)
    assert plan.num_bytes == 25_000_000_000
    assert plan.shuffle_bytes == 630_000_000
    assert plan.core_hours == pytest.approx((2_100_000 * 0.018 + 10_000_000 * 0.0002) / 3600)
    assert str(plan) == (
        "10,000,000 triplets (6,000,000 noise:0.5, 4,000,000 labels), about 25 GB in 4,883 files\n"
        "  reads     2,100,000 clips, 5,830 hours of sound\n"
        "  shuffles  about 0.63 GB\n"
        "  takes     about 11.1 core hours, without those of the runner itself\n"
        "  measured on 20 clips, 1,000 triplets drawn from them, seed 0; nothing was written"
    )


def test_small_numbers_are_no_powers_of_ten():
    plan = plans.scaled("clips", plans.Sample(1, 1.0, 1234, 0, 1e-3), num_clips=1, num_shards=1)
    assert str(plan).startswith("1 clips, about 0.00000123 GB in 1 files\n")
    assert "  shuffles  about 0 GB\n  takes     about 0.000000278 core hours" in str(plan)


def write_rows(path, ids):
    path.write_text("clip_id,uri\n" + "".join(f"c{number},gs://b/{number}.wav\n" for number in ids))
    return [str(path)]


@given(ids=st.lists(st.integers(0, 10**6), min_size=1, max_size=30, unique=True), size=st.integers(1, 12))
@settings(max_examples=25, deadline=None)
def test_which_rows_are_in_a_sample_depends_on_the_ids_alone(tmp_path_factory, ids, size):
    path = tmp_path_factory.mktemp("m") / "m.csv"
    samples = []
    for order in (ids, sorted(ids)):
        summary = manifests.summarize(write_rows(path, order), num_sampled=size)
        samples.append([row.clip_id for _, row in summary.sample])
    expected = sorted((f"c{number}" for number in ids), key=lambda name: sampling.stable_hash(0, name))
    assert samples == [expected[:size]] * 2


def test_rows_of_one_id_may_be_in_a_sample(tmp_path):
    (tmp_path / "m.csv").write_text("clip_id,uri\na,1.wav\na,2.wav\n,\n,\n")
    summary = manifests.summarize([str(tmp_path / "m.csv")], num_sampled=10)
    assert len(summary.sample) == summary.num_rows == 4


def peak_of(function) -> int:
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_reading_a_manifest_takes_no_more_memory_for_more_rows(tmp_path):
    """Twenty times the rows, which would be megabytes; the sample has its size from the first 32 on."""
    few, many = write_rows(tmp_path / "f.csv", range(500)), write_rows(tmp_path / "m.csv", range(10_000))
    summarize = manifests.summarize
    summarize(few)  # what is imported and cached once
    peaks = [peak_of(lambda paths=paths: summarize(paths, num_sampled=32)) for paths in (few, many)]
    assert peaks[1] < 1.2 * peaks[0] + 50_000


def test_a_dry_run_is_the_same_from_a_command_line(folder):
    plan = examples_job.run([str(folder / "m.csv"), str(folder / "set"), "--dry-run", "--num-shards", "5"])
    assert re.match(
        r"12 clips, about 0\.00\d+ GB in 5 files\n  reads     12 clips, 0\.00\d+ hours", str(plan)
    )
