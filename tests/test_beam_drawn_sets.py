"""How a set is cut into shards, tasks and blocks: neither these nor the buckets of the index change it."""

import collections

import pytest
from test_beam_triplets import JOINT, clips, records_of, sample

from tfsound import triplets
from tfsound.beam import drawn_sets, window_index
from tfsound.beam import triplets as job

__all__ = ["clips"]  # a fixture


@pytest.mark.parametrize(("clips_per_bucket", "num_shards"), [(1, 3), (7, 3), (7, 0)])
def test_buckets_shards_and_blocks_do_not_change_the_set(
    clips, tmp_path, monkeypatch, clips_per_bucket, num_shards
):
    sample(clips, tmp_path / "one", constraints=JOINT)
    monkeypatch.setattr(window_index, "_CLIPS_PER_BUCKET", clips_per_bucket)
    monkeypatch.setattr(drawn_sets, "EXAMPLES_PER_SHARD", 30)
    monkeypatch.setattr(drawn_sets, "_EXAMPLES_PER_BUCKET", 8)
    sample(clips, tmp_path / "many", num_shards=num_shards, constraints=JOINT, num_workers=2)
    assert records_of(tmp_path / "many") == records_of(tmp_path / "one")


@pytest.mark.parametrize(
    ("num_shards", "expected"),
    [
        (1, [33, 33, 34]),  # a large shard is drawn a part at a time, so that memory does not grow with it
        (0, [33, 33, 34]),  # one after another
        (25, [32, 32, 36]),  # small shards are drawn some together: in three tasks
    ],
)
def test_what_is_drawn_at_a_time_does_not_depend_on_the_shards(
    clips, tmp_path, monkeypatch, num_shards, expected
):
    draw, sizes = triplets.draw_triplets, []

    def counting(slots, *rest):
        sizes.append(len(slots))
        return draw(slots, *rest)

    monkeypatch.setattr(triplets, "draw_triplets", counting)
    monkeypatch.setattr(drawn_sets, "EXAMPLES_PER_SHARD", 40)
    monkeypatch.setattr(drawn_sets, "_EXAMPLES_PER_BUCKET", 1)
    info = sample(clips, tmp_path / "set", count=100, num_shards=num_shards)
    assert sorted(sizes) == expected
    assert [shard.num_examples for shard in info.shards] == {1: [100], 0: [33, 33, 34], 25: [4] * 25}[
        num_shards
    ]


def test_buckets_are_loaded_seldom_however_many_there_are(clips, tmp_path, monkeypatch):
    """Twice for all that is drawn at a time, which is the more the more buckets there are."""
    load, loaded = window_index.load_bucket, collections.Counter()

    def counting(pending_path, number):
        loaded[number] += 1
        return load(pending_path, number)

    monkeypatch.setattr(window_index, "load_bucket", counting)
    monkeypatch.setattr(window_index, "_CLIPS_PER_BUCKET", 4)
    monkeypatch.setattr(drawn_sets, "EXAMPLES_PER_SHARD", 32)
    info = sample(clips, tmp_path / "set", constraints=JOINT, count=2048)
    assert len(info.shards) == 64
    assert drawn_sets.examples_per_block(16) == 1024
    assert set(loaded.values()) == {4}  # two blocks, two passes
    assert len(loaded) > 8


def test_a_set_may_lie_on_a_file_system_of_its_own(clips, tmp_path):
    sample(clips, tmp_path / "plain")
    job.sample_triplets(str(clips), f"file://{tmp_path}/set", constraints=("proximity:2",), count=300)
    assert records_of(tmp_path / "set") == records_of(tmp_path / "plain")


@pytest.mark.parametrize(
    ("num_buckets", "expected"), [(1, 2048), (32, 2048), (33, 2112), (1024, 65536), (65536, 65536)]
)
def test_examples_per_block_grow_with_the_index_up_to_a_bound(num_buckets, expected):
    assert drawn_sets.examples_per_block(num_buckets) == expected


@pytest.mark.parametrize(("num_parts", "count"), [(1, 1), (3, 10), (5, 2), (7, 5000)])
def test_parts_are_alike_and_together_the_whole(num_parts, count):
    parts = [drawn_sets.part(range(3, 3 + count), number, num_parts) for number in range(num_parts)]
    assert [slot for part in parts for slot in part] == list(range(3, 3 + count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
