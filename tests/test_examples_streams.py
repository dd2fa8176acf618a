"""Streams over many shards: their order, restarts anywhere, replicas and input workers, what is held open."""

import collections
import os
import threading

import numpy as np
import pytest
import record_shards
import tensorflow as tf
import tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from processes import on_devices
from tensorflow.python.data.experimental.ops import distribute
from training_runs import at_each_step, interrupted_at, require_same_end

from tfsound import examples, training
from tfsound.examples import streams
from tfsound.examples.interleaving import shards_left

FEW = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
COUNTS = st.lists(st.integers(1, 7), min_size=1, max_size=20)
MANY, PER_SHARD = 200, 32
TRAINING = {
    "encoder": "tiny", "embedding_dim": 8, "num_steps": 10, "batch_size": 8, "steps_per_checkpoint": 4,
}  # fmt: skip


def stream(paths, counts, *, batch_size=4, seed=0, first_batch=0, shuffle_block=1024):
    return streams.record_batches(
        paths, counts, batch_size=batch_size, seed=seed, first_batch=first_batch, shuffle_block=shuffle_block
    ).map(lambda records: records)


def numbers(batches, num_batches):
    return [record_shards.numbers_of(batch).tolist() for batch in batches.take(num_batches)]


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Paths and counts of many shards."""
    counts = [PER_SHARD] * MANY
    return record_shards.write_shards(tmp_path_factory.mktemp("many"), counts), counts


@pytest.fixture
def few_side_by_side(monkeypatch):
    """So that a few shards are more than are read side by side."""
    monkeypatch.setattr(streams, "_MIN_SIDE_BY_SIDE", 3)


# The order.


def taking_turns(counts, cycle_length):
    """The shard of each record, turn by turn as `tf.data` documents it."""
    slots, opened, order, left = [None] * cycle_length, 0, [], list(counts)
    turn = 0
    while len(order) < sum(counts):
        slot = turn % cycle_length
        if slots[slot] is None and opened < len(counts):
            slots[slot], opened = opened, opened + 1
        shard = slots[slot]
        if shard is not None and left[shard]:
            left[shard] -= 1
            order.append(shard)
        else:
            slots[slot] = None
        turn += 1
    return order


@given(
    counts=st.lists(st.integers(1, 50), min_size=1, max_size=40),
    cycle_length=st.integers(1, 12),
    data=st.data(),
)
def test_what_is_left_of_shards_is_known_from_their_counts(counts, cycle_length, data):
    order = taking_turns(counts, cycle_length)
    num_done = data.draw(st.integers(0, len(order)))
    left = shards_left(counts, cycle_length, num_done)
    done = collections.Counter(order[:num_done])
    assert {
        int(shard): int(number) for shard, number in zip(left.shards, left.num_read, strict=True) if number
    }.items() <= done.items()
    finished = {shard for shard, count in enumerate(counts) if done[shard] == count}
    assert set(range(len(counts))) - finished <= set(left.shards.tolist())
    # Those that are finished and take a turn are among those last read.
    assert len(left.shards) - len(set(left.shards.tolist()) - finished) <= cycle_length
    counts_left = np.asarray(counts)[left.shards] - left.num_read
    turns = taking_turns(np.maximum(counts_left, 0).tolist(), cycle_length)
    assert [int(left.shards[turn]) for turn in turns] == order[num_done:]


@FEW
@given(
    counts=COUNTS, batch_size=st.integers(1, 9), shuffle_block=st.sampled_from([3, 10, 1024]), data=st.data()
)
def test_a_stream_over_any_shards_is_whole_and_goes_on_from_any_batch(
    few_side_by_side, tmp_path_factory, counts, batch_size, shuffle_block, data
):
    paths = record_shards.write_shards(tmp_path_factory.mktemp("set"), counts)
    options = {"batch_size": batch_size, "shuffle_block": shuffle_block, "seed": 5}
    num_records = sum(counts)
    num_batches = -(-2 * num_records // batch_size)
    whole = numbers(stream(paths, counts, **options), num_batches)
    flat = [number for batch in whole for number in batch]
    for epoch in (flat[:num_records], flat[num_records : 2 * num_records]):
        assert sorted(epoch) == list(range(num_records))
    first_batch = data.draw(st.integers(1, num_batches))
    on = stream(paths, counts, first_batch=first_batch, **options)
    assert numbers(on, num_batches - first_batch) == whole[first_batch:]


def test_the_order_of_a_seed_is_what_it_was(tmp_path):
    """A run that was begun with an earlier version goes on with the records that it has not seen."""
    counts = [2, 3, 1, 2, 1, 2, 1, 3, 2, 1, 2, 2]
    paths = record_shards.write_shards(tmp_path, counts)
    found = numbers(stream(paths, counts, batch_size=22, seed=7, shuffle_block=9), 2)
    assert found == [
        [20, 21, 9, 5, 18, 17, 12, 0, 2, 14, 8, 6, 10, 19, 13, 1, 4, 3, 16, 7, 11, 15],
        [10, 12, 20, 17, 9, 8, 0, 15, 5, 14, 18, 6, 2, 13, 7, 1, 21, 16, 19, 11, 4, 3],
    ]


@pytest.mark.parametrize(
    ("num_shards", "expected"), [(1, 8), (32, 8), (39, 9), (100, 25), (128, 32), (5000, 32)]
)
def test_a_quarter_of_the_shards_is_read_side_by_side_within_bounds(num_shards, expected):
    assert streams.num_side_by_side(num_shards) == expected


# What an order is worth.


def test_the_measures_of_a_shuffle_tell_none_from_a_perfect_one():
    counts = [100] * 50
    none = record_shards.shuffle_quality(np.arange(5000), counts, 50)
    assert none == record_shards.ShuffleQuality(1.0, pytest.approx(1.0), pytest.approx(98 / 99))
    perfect = record_shards.shuffle_quality(np.random.default_rng(0).permutation(5000), counts, 50)
    assert perfect.shards_a_batch == pytest.approx(50 * (1 - 0.98**50), rel=0.02)
    assert abs(perfect.rank_correlation) < 0.05
    assert perfect.neighbours == pytest.approx(0.01, abs=0.005)


def test_batches_draw_from_many_shards_in_an_order_of_their_own(many):
    paths, counts = many
    num_batches = MANY * PER_SHARD // 64
    flat = np.concatenate(numbers(stream(paths, counts, batch_size=64), 2 * num_batches))
    first, second = flat.reshape(2, -1)
    quality = record_shards.shuffle_quality(first, counts, 64)
    assert quality.shards_a_batch > 24  # of 32 side by side; 8 gave less than 8
    assert abs(quality.rank_correlation) < 0.15
    assert quality.neighbours < 0.08  # 64 / 1024, which is the block
    between = record_shards.rank_correlation(np.argsort(first), np.argsort(second))
    assert abs(between) < 0.15


# Restarts, and what is held.


def test_a_restart_opens_no_shard_that_is_read_already(tmp_path, few_side_by_side):
    counts = [6] * 40
    paths = record_shards.write_shards(tmp_path, counts)
    whole = numbers(stream(paths, counts, shuffle_block=16), 60)
    first_batch = 50
    seen = {number for batch in whole[: first_batch - first_batch % 4] for number in batch}
    finished = [shard for shard in range(40) if set(range(6 * shard, 6 * shard + 6)) <= seen]
    assert len(finished) > 25
    for shard in finished:
        os.remove(paths[shard])
    on = stream(paths, counts, first_batch=first_batch, shuffle_block=16)
    assert numbers(on, 10) == whole[first_batch:]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files are counted through /proc")
def test_few_shards_are_open_at_a_time(many):
    paths, counts = many
    most = 0
    batches = iter(stream(paths, counts, batch_size=64).take(MANY * PER_SHARD // 64))
    for _ in batches:
        most = max(most, record_shards.num_open(os.path.dirname(paths[0])))
    # Those side by side, as many opened ahead, and those that are just exchanged.
    assert 32 <= most <= 3 * 32


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, tiny_encoder):
    """Triplets in many shards, and a run on them: six steps an epoch, a checkpoint every four."""
    folder = tmp_path_factory.mktemp("runs")
    triplets = tiny.write_triplets(folder / "triplets", range(48), num_shards=45)
    training.train([triplets], str(folder / "whole"), **TRAINING)
    return triplets, str(folder / "whole")


def test_a_training_cut_off_among_many_shards_ends_as_one_that_was_not(undisturbed, tmp_path):
    triplets, whole = undisturbed
    with interrupted_at(6):
        training.train([triplets], str(tmp_path / "run"), **TRAINING)
    training.train([triplets], str(tmp_path / "run"), **TRAINING)
    require_same_end(str(tmp_path / "run"), whole)


def test_a_store_that_fails_ends_a_training_in_words_and_it_goes_on(undisturbed, tmp_path):
    triplets, whole = undisturbed

    def fail(step):
        if step == 6:
            raise tf.errors.UnavailableError(None, None, "the store is away\n in the node ...")

    with pytest.MonkeyPatch.context() as patch:
        at_each_step(patch, fail)
        with pytest.raises(training.TrainingError, match=r"data failed \(the store is away\); the same comm"):
            training.train([triplets], str(tmp_path / "run"), **TRAINING)
    training.train([triplets], str(tmp_path / "run"), **TRAINING)
    require_same_end(str(tmp_path / "run"), whole)


# Replicas and input workers.


def require_all_on_replicas(folder):
    """Records come once an epoch over 1 to 8 replicas, whatever the shards. In a process of 8 devices."""
    cases = st.tuples(COUNTS, st.integers(1, 8), st.integers(1, 3))

    @settings(max_examples=10, deadline=None, derandomize=True, database=None)
    @given(case=cases)
    def check(case):
        counts, num_replicas, per_replica = case
        paths = record_shards.write_shards(folder, counts)
        strategy = tf.distribute.MirroredStrategy([f"/cpu:{number}" for number in range(num_replicas)])
        batch_size, num_records = num_replicas * per_replica, sum(counts)
        batches = stream(paths, counts, batch_size=batch_size).prefetch(2)
        iterator = iter(strategy.experimental_distribute_dataset(batches))
        seen = []
        for _ in range(-(-2 * num_records // batch_size)):
            parts = strategy.experimental_local_results(next(iterator))
            assert [len(part) for part in parts] == [per_replica] * num_replicas
            seen += [number for part in parts for number in record_shards.numbers_of(part)]
        for epoch in (seen[:num_records], seen[num_records : 2 * num_records]):
            assert sorted(epoch) == list(range(num_records))
        nums_checked.append(num_replicas)

    nums_checked = []
    check()
    return nums_checked


def test_replicas_see_every_record_once_an_epoch(tmp_path):
    assert len(set(on_devices(8, require_all_on_replicas, str(tmp_path)))) > 3


@settings(FEW, max_examples=6)
@given(counts=COUNTS, num_workers=st.integers(1, 8), batch_size=st.integers(1, 3))
def test_input_workers_see_every_record_once_an_epoch(tmp_path_factory, counts, num_workers, batch_size):
    paths, num_records = record_shards.write_shards(tmp_path_factory.mktemp("set"), counts), sum(counts)
    batches = stream(paths, counts, batch_size=batch_size).prefetch(2)
    num_rounds = -(-2 * num_records // (batch_size * num_workers))
    # What tf.distribute does for each worker of several.
    of_workers = [
        numbers(distribute._AutoShardDataset(batches, num_workers, worker), num_rounds)
        for worker in range(num_workers)
    ]
    together = [batch for a_round in zip(*of_workers, strict=True) for batch in a_round]
    assert together == numbers(batches, num_rounds * num_workers)


# The sidecars of thousands of shards.


def test_the_sizes_of_shards_are_asked_for_side_by_side(tmp_path, monkeypatch):
    directory = tiny.write_triplets(tmp_path / "set", range(24), num_shards=24)
    together, stat = threading.Barrier(8, timeout=60), tf.io.gfile.stat

    def waiting_for_others(path):
        together.wait()
        return stat(path)

    monkeypatch.setattr(tf.io.gfile, "stat", waiting_for_others)
    assert len(examples.read_dataset_info(directory, kind=examples.TRIPLETS).shards) == 24


def test_a_store_that_does_not_answer_is_named(tmp_path, monkeypatch):
    directory = tiny.write_triplets(tmp_path / "set", range(4))

    def unavailable(path):
        raise tf.errors.UnavailableError(None, None, "the store is away")

    monkeypatch.setattr(tf.io.gfile, "stat", unavailable)
    with pytest.raises(examples.DatasetError, match=r"triplets-00000\.tfrecord cannot be read: the store is"):
        examples.read_dataset_info(directory, kind=examples.TRIPLETS)
