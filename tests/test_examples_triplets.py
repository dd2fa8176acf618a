"""Triplet examples: what a record holds and a batch says, merged sets, and the stream of batches."""

import collections
import dataclasses
import math

import numpy as np
import pytest
import tensorflow as tf
import tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfsound import examples, mel

FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXT = st.text(max_size=12)  # of any Unicode that UTF-8 can hold


def numbers_of(directories, num_batches, **options):
    """The numbers of the triplets that a stream gives, batch by batch, found by their windows."""
    options = {"batch_size": 4, **options}
    batches = list(examples.triplet_dataset(directories, **options).take(num_batches))
    return [[int(key) for key in fingerprints(batch["anchor"])] for batch in batches]


def fingerprints(windows):
    """The number of a triplet, from its anchor."""
    return [FOUND[round(float(tf.reduce_sum(window)), 3)] for window in windows]


def anchor_key(number):
    _, windows, _ = tiny.make_triplet(number)
    return round(float(tf.reduce_sum(mel.log_mel(windows[0], tiny.PARAMS))), 3)


FOUND = {anchor_key(number): number for number in range(60)}


@pytest.fixture(scope="module")
def triplets(tmp_path_factory):
    """23 triplets in shards of 8, 8 and 7."""
    return tiny.write_triplets(tmp_path_factory.mktemp("sets") / "triplets", range(23))


def test_the_windows_tell_the_triplets_apart():
    assert len(FOUND) == 60


@pytest.mark.parametrize("batch_size", [1, 4, 5, 23])
@pytest.mark.parametrize("shuffle_block", [1024, 7])
def test_every_triplet_comes_once_an_epoch(triplets, batch_size, shuffle_block):
    num_batches = 3 * 23 // batch_size + (batch_size == 4)  # three epochs, and a bit of the fourth
    batches = numbers_of([triplets], num_batches, batch_size=batch_size, shuffle_block=shuffle_block)
    assert {len(batch) for batch in batches} == {batch_size}
    stream = [number for batch in batches for number in batch]
    for epoch in range(len(stream) // 23):
        assert sorted(stream[23 * epoch : 23 * (epoch + 1)]) == list(range(23))
    assert len(stream) // 23 >= 2


def test_the_stream_is_reproducible_and_each_epoch_has_an_order_of_its_own(triplets):
    first = numbers_of([triplets], 3, batch_size=23)
    assert first == numbers_of([triplets], 3, batch_size=23)
    assert first != numbers_of([triplets], 3, batch_size=23, seed=1)
    orders = {tuple(epoch) for epoch in first}
    assert len(orders) == 3
    assert tuple(range(23)) not in orders
    # A shard's records do not stay together, nor in their order.
    assert all(sorted(order[:8]) != list(range(start, 23, 3)) for order in orders for start in range(3))


def test_the_order_is_fair():
    """Over many epochs each record comes first about equally often."""
    # Blocks are shuffled by stateless_shuffle; what could be unfair is the key made of seed, epoch and block.
    keys = collections.Counter()
    for seed in range(20):
        for epoch in range(5):
            for block in range(5):
                key = tf.random.experimental.stateless_fold_in(tf.constant([seed, epoch], tf.int64), block)
                keys[tuple(key.numpy().tolist())] += 1
    assert max(keys.values()) == 1


@pytest.mark.parametrize("batch_size", [4, 10])
@pytest.mark.parametrize("shuffle_block", [1024, 7])
def test_a_stream_goes_on_where_another_stopped(triplets, batch_size, shuffle_block):
    options = {"batch_size": batch_size, "shuffle_block": shuffle_block, "seed": 3}
    whole = numbers_of([triplets], 15, **options)
    for first_batch in (1, 2, 3, 5, 6, 11, 14):  # over ends of epochs
        assert (
            numbers_of([triplets], 15 - first_batch, first_batch=first_batch, **options)
            == whole[first_batch:]
        )


def test_sets_are_merged_by_listing_them(triplets, tmp_path):
    more = tiny.write_triplets(tmp_path / "more", range(23, 40), num_shards=2)
    assert examples.read_triplet_infos([triplets, more]) == (tiny.PARAMS, 40)
    epochs = numbers_of([triplets, more], 2, batch_size=40)
    assert [sorted(epoch) for epoch in epochs] == [list(range(40))] * 2
    # Mixed, not one after the other.
    assert min(epochs[0][:10]) < 23 <= max(epochs[0][:10])


def test_more_shards_than_are_read_at_once_and_empty_ones(tmp_path):
    directory = tiny.write_triplets(tmp_path / "many", range(12), num_shards=15)
    assert [sorted(epoch) for epoch in numbers_of([directory], 2, batch_size=12)] == [list(range(12))] * 2


def test_parsed_triplets_agree_with_numpy():
    made = [tiny.make_triplet(number) for number in range(9)]
    batch = examples.parse_triplets([record for record, _, _ in made], tiny.PARAMS)
    for index, role in enumerate(("anchor", "positive", "negative")):
        windows = np.stack([windows[index] for _, windows, _ in made]).astype(np.float64)
        assert batch[role].dtype == tf.float32
        np.testing.assert_allclose(batch[role], np.log(windows + 0.01), atol=1e-6)
    ids = {
        role: [refs[index].recording_id for _, _, refs in made]
        for index, role in ((0, "anchor"), (2, "negative"))
    }
    equal = batch["anchor_recording"][:, None] == batch["negative_recording"][None, :]
    expected = np.array(ids["anchor"])[:, None] == np.array(ids["negative"])[None, :]
    assert expected.any()
    np.testing.assert_array_equal(equal, expected)
    assert batch["anchor_recording"].dtype == tf.int64


@FEW
@given(ids=st.lists(TEXT, min_size=2, max_size=6))
def test_fingerprints_are_equal_just_where_recordings_are(ids):
    window = examples.encode_mel_energy(np.ones(tiny.WINDOW))
    records = []
    for recording_id in ids:
        ref = examples.WindowRef("clip", recording_id, 0.0)
        records.append(examples.encode_triplet((window,) * 3, (ref,) * 3, "test"))
    found = examples.parse_triplets(records, tiny.PARAMS)["anchor_recording"].numpy()
    np.testing.assert_array_equal(found[:, None] == found, np.array(ids)[:, None] == np.array(ids))


def test_a_triplet_holds_what_it_was_made_of():
    record, windows, refs = tiny.make_triplet(5)
    feature = tf.train.Example.FromString(record).features.feature
    assert feature["constraint"].bytes_list.value == [b"number:5"]
    for role, window, ref in zip(("anchor", "positive", "negative"), windows, refs, strict=True):
        decoded = examples.decode_mel_energy(feature[role].bytes_list.value[0], tiny.WINDOW[1])
        np.testing.assert_array_equal(decoded, window)
        assert feature[f"{role}_clip_id"].bytes_list.value == [ref.clip_id.encode()]
        assert feature[f"{role}_recording_id"].bytes_list.value == [ref.recording_id.encode()]
        assert feature[f"{role}_start_seconds"].float_list.value == [ref.start_seconds]
    assert record == tiny.make_triplet(5)[0]


@FEW
@given(label=TEXT, negative_labels=st.lists(TEXT, max_size=4).map(tuple), is_minable=st.booleans())
def test_labels_and_whether_it_may_be_mined_come_back(label, negative_labels, is_minable):
    _, windows, refs = tiny.make_triplet(5)
    encoded = tuple(examples.encode_mel_energy(window) for window in windows)
    options = {"is_minable": is_minable, "label": label, "negative_labels": negative_labels}
    record = examples.encode_triplet(encoded, refs, "labels", **options)
    feature = tf.train.Example.FromString(record).features.feature
    assert feature["is_minable"].int64_list.value == [int(is_minable)]
    assert feature["label"].bytes_list.value == [label.encode()]
    assert feature["negative_labels"].bytes_list.value == [name.encode() for name in negative_labels]
    assert record == examples.encode_triplet(encoded, refs, "labels", **options)


def labelled(label="", negative_labels=(), **options):
    window = examples.encode_mel_energy(np.ones(tiny.WINDOW))
    ref = examples.WindowRef("clip", "recording", 0.0)
    options = {"label": label, "negative_labels": negative_labels, **options}
    return examples.encode_triplet((window,) * 3, (ref,) * 3, "test", **options)


@FEW
@given(
    triplets=st.lists(
        st.tuples(TEXT, st.lists(TEXT, max_size=3, unique=True).map(tuple)), min_size=1, max_size=6
    )
)
def test_a_batch_tells_which_negatives_have_an_anchors_label(triplets):
    """By fingerprints; no label is equal to none, and none to what pads the others."""
    batch = examples.parse_triplets([labelled(*triplet) for triplet in triplets], tiny.PARAMS)
    assert batch["anchor_label"].dtype == batch["negative_labels"].dtype == tf.int64
    found = (batch["anchor_label"][:, None, None] == batch["negative_labels"][None]).numpy().any(axis=2)
    expected = [[bool(label) and label in names for _, names in triplets] for label, _ in triplets]
    np.testing.assert_array_equal(found, expected)


def test_a_batch_of_triplets_without_labels():
    batch = examples.parse_triplets([labelled(), labelled(is_minable=False)], tiny.PARAMS)
    assert batch["is_minable"].numpy().tolist() == [True, False]
    assert batch["is_minable"].dtype == tf.bool
    assert batch["anchor_label"].numpy().tolist() == [-2, -2]
    assert batch["negative_labels"].shape == (2, 0)
    batch = examples.parse_triplets([labelled("a", ("b", "c")), labelled("b", ("a",))], tiny.PARAMS)
    assert batch["negative_labels"].numpy()[1, 1] == -1
    assert batch["negative_labels"].numpy()[1, 0] == batch["anchor_label"].numpy()[0] >= 0


@pytest.mark.parametrize("name", ["anchor", "is_minable", "label", "negative_recording_id"])
def test_a_record_without_a_field_is_refused(name):
    example = tf.train.Example.FromString(labelled("a"))
    del example.features.feature[name]
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"Feature: {name}"):
        examples.parse_triplets([example.SerializeToString()], tiny.PARAMS)


def test_each_triplet_has_the_weight_of_its_set(tmp_path):
    """Also where shards are empty, and however many are read at once."""
    sets = [
        tiny.write_triplets(tmp_path / name, numbers, num_shards=num_shards)
        for name, numbers, num_shards in (
            ("a", range(3), 5),
            ("b", range(3, 20), 12),
            ("c", range(20, 24), 1),
        )
    ]
    weights = {number: 0.5 if number < 3 else 2.0 if number < 20 else 0.0 for number in range(24)}
    dataset = examples.triplet_dataset(sets, batch_size=8, weights=(0.5, 2.0, 0.0), shuffle_block=5)
    seen = collections.Counter()
    for batch in dataset.take(6):
        assert batch["weight"].dtype == tf.float32
        numbers = fingerprints(batch["anchor"])
        assert batch["weight"].numpy().tolist() == [weights[number] for number in numbers]
        seen.update(numbers)
    assert seen == dict.fromkeys(range(24), 2)


def test_weights_are_one_without_any_and_do_not_change_the_order(triplets, tmp_path):
    more = tiny.write_triplets(tmp_path / "more", range(23, 40), num_shards=2)
    for batch in examples.triplet_dataset([triplets, more], batch_size=10).take(4):
        assert batch["weight"].numpy().tolist() == [1.0] * 10
    plain = numbers_of([triplets, more], 6)
    assert numbers_of([triplets, more], 6, weights=(0.25, 4.0)) == plain


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1.0,), "weights must be one a set of triplets, 2, got 1"),
        ((1.0, 1.0, 1.0), "weights must be one a set of triplets, 2, got 3"),
        ((1.0, -1.0), r"weights must be finite and at least 0, not all 0, got \[1.0, -1.0\]"),
        ((1.0, math.nan), r"weights must be finite .*got \[1.0, nan\]"),
        ((math.inf, 1.0), "weights must be finite"),
        ((0.0, 0.0), "weights must be .*not all 0"),
    ],
)
def test_weights_that_are_none_are_refused(triplets, weights, message):
    with pytest.raises(ValueError, match=message):
        examples.triplet_dataset([triplets, triplets], batch_size=1, weights=weights)


def test_sets_of_other_mel_parameters_are_refused(triplets, tmp_path):
    other = dataclasses.replace(tiny.PARAMS, log_offset=0.5)
    record, _, _ = tiny.make_triplet(0)
    directory = tiny.write_set(tmp_path / "other", examples.TRIPLETS, [[record]], mel_params=other)
    with pytest.raises(
        ValueError, match=r"other was made with other mel parameters: log_offset is 0\.5 and must be 0\.01"
    ):
        examples.read_triplet_infos([triplets, directory])
    with pytest.raises(ValueError, match=r"log_offset is 0\.01 and must be 0\.5"):
        examples.triplet_dataset([triplets], batch_size=1, mel_params=other)


def test_what_cannot_be_a_stream_is_refused(triplets, tmp_path):
    empty = tiny.write_triplets(tmp_path / "empty", [])
    with pytest.raises(examples.DatasetError, match="empty holds no triplet"):
        examples.read_triplet_infos([triplets, empty])
    with pytest.raises(examples.DatasetError, match="no set of triplets was given"):
        examples.triplet_dataset([], batch_size=1)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        examples.triplet_dataset([triplets], batch_size=0)
