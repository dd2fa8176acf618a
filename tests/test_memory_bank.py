"""Tests of tfsound.memory_bank: first rows, updates by hand, repeated and impossible ids, files, memory."""

import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfsound import memory_bank

# Prints the peak memory of a bank's whole life over that of the loaded program, by the size of the bank.
PEAK = """
import pathlib, resource, sys
import keras, tensorflow as tf
from tfsound import memory_bank

def peak_bytes():
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    # On Linux the other one begins with that of the process which started this one.
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024

def live(num_instances):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.bank = memory_bank.MemoryBank(num_instances, 128)
    update = tf.function(model.bank.update)
    for step in range(3):
        update(tf.range(64, dtype=tf.int64), tf.ones([64, 128]))
    model.save_weights(sys.argv[1])
    model.load_weights(sys.argv[1])
    update(tf.range(64, dtype=tf.int64), tf.ones([64, 128]))

peaks = []
for num_instances in (20_000, 200_000):
    live(num_instances)
    peaks.append(peak_bytes())
print((peaks[1] - peaks[0]) / (200_000 * 128 * 4))
"""


def unit(rows):
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def make_embeddings(count, dim, seed=0):
    return unit(np.random.default_rng(seed).normal(size=(count, dim))).astype(np.float32)


@pytest.fixture
def small_blocks(monkeypatch):
    """So that few rows are several blocks, the last of them a part of one."""
    monkeypatch.setattr(memory_bank, "_BLOCK_ROWS", 4)


def test_first_rows_are_uniform_in_a_cube_and_of_length_one():
    rows = memory_bank.MemoryBank(5000, 128).rows.numpy()
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(rows.mean(axis=0), 0, atol=0.01)
    np.testing.assert_allclose(rows.std(axis=0), 128**-0.5, rtol=0.05)
    # The cube's half side over its shortest row; directions drawn from a normal distribution reach 0.3.
    assert 0.15 < np.abs(rows).max() < 0.19
    assert len(np.unique(rows, axis=0)) == len(rows)


def test_first_rows_depend_on_the_seed_alone(small_blocks):
    rows = [memory_bank.MemoryBank(11, 3, seed=seed).rows.numpy() for seed in (0, 0, 1)]
    np.testing.assert_array_equal(rows[0], rows[1])
    assert (rows[0] != rows[2]).any(axis=1).all()
    assert len(np.unique(np.concatenate(rows[1:]), axis=0)) == 22


@pytest.mark.parametrize("momentum", [0.0, 0.25, 0.5])
def test_an_update_by_hand(momentum):
    bank = memory_bank.MemoryBank(6, 4, momentum=momentum)
    before, embeddings = bank.rows.numpy(), make_embeddings(3, 4)
    bank.update(tf.constant([4, 0, 3], tf.int64), embeddings)
    expected = before.copy()
    expected[[4, 0, 3]] = unit(momentum * before[[4, 0, 3]].astype(np.float64) + (1 - momentum) * embeddings)
    np.testing.assert_allclose(bank.rows.numpy(), expected, atol=1e-6)
    np.testing.assert_array_equal(bank.rows.numpy()[[1, 2, 5]], before[[1, 2, 5]])
    np.testing.assert_array_equal(bank.lookup([[4], [3]]), bank.rows.numpy()[[[4], [3]]])


def test_an_update_in_numbers():
    bank = memory_bank.MemoryBank(2, 2)
    bank.rows.assign([[1.0, 0.0], [0.0, 1.0]])
    bank.update([0, 1], [[0.0, 1.0], [0.6, 0.8]])
    # Half of east and half of north; (0.3, 0.9), whose length is the root of 0.9.
    expected = [[0.5**0.5, 0.5**0.5], [0.3 / 0.9**0.5, 0.9 / 0.9**0.5]]
    np.testing.assert_allclose(bank.rows.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("wrapped", [tf.function, lambda function: function])
def test_of_several_embeddings_of_an_instance_the_last_counts(wrapped):
    """A scatter promises nothing of the order in which repeated ids are written."""
    rng = np.random.default_rng(0)
    ids, embeddings = rng.integers(0, 20, 5000), make_embeddings(5000, 16)
    last = [np.flatnonzero(ids == i)[-1] for i in range(20)]
    before = memory_bank.MemoryBank(20, 16).rows.numpy()
    expected = unit(0.5 * before.astype(np.float64) + 0.5 * embeddings[last])
    for _ in range(5):
        bank = memory_bank.MemoryBank(20, 16)
        wrapped(bank.update)(tf.constant(ids), tf.constant(embeddings))
        np.testing.assert_allclose(bank.rows.numpy(), expected, atol=1e-6)


def test_an_opposite_embedding_leaves_the_row_and_an_empty_batch_the_bank():
    bank = memory_bank.MemoryBank(4, 3)
    before = bank.rows.numpy()
    bank.update([2], -before[[2]])
    bank.update(tf.zeros([0], tf.int64), tf.zeros([0, 3]))
    np.testing.assert_array_equal(bank.rows.numpy(), before)


@pytest.mark.parametrize("outside", [-1, 6, 2**40])
@pytest.mark.parametrize("wrapped", [tf.function, lambda function: function])
def test_an_id_out_of_range_is_named_and_changes_nothing(outside, wrapped):
    bank = memory_bank.MemoryBank(6, 2)
    before = bank.rows.numpy()
    ids, embeddings = tf.constant([1, outside, 3], tf.int64), tf.constant(make_embeddings(3, 2))
    for call in (lambda: wrapped(bank.lookup)(ids), lambda: wrapped(bank.update)(ids, embeddings)):
        with pytest.raises(tf.errors.InvalidArgumentError) as caught:
            call()
        assert "instance ids must be in [0, 6), one for each row of the bank; got" in caught.value.message
        assert str(outside) in caught.value.message
    np.testing.assert_array_equal(bank.rows.numpy(), before)


@pytest.mark.parametrize(
    ("ids", "shape"), [([[1], [2]], (2, 3)), ([1, 2], (2, 4)), ([1, 2], (3, 3)), ([1], (3,)), (1, (3,))]
)
def test_ids_and_embeddings_must_fit(ids, shape):
    bank = memory_bank.MemoryBank(6, 3)
    with pytest.raises(ValueError, match=r"ids must be \(batch,\) and embeddings \(batch, 3\), got shapes"):
        bank.update(ids, np.ones(shape, np.float32))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((1, 8), {}, "num_instances must be at least 2, got 1"),
        ((5, 0), {}, "embedding_dim must be at least 1, got 0"),
        ((5, 8), {"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1\.0"),
        ((5, 8), {"momentum": -0.1}, r"momentum must be in \[0, 1\), got -0\.1"),
        ((5, 8), {"momentum": float("nan")}, r"momentum must be in \[0, 1\), got nan"),
    ],
)
def test_a_setting_out_of_range_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        memory_bank.MemoryBank(*arguments, **options)


@pytest.mark.parametrize("num_instances", [3, 8, 11])
def test_a_bank_takes_the_rows_of_one_that_it_extends(small_blocks, num_instances):
    bank, other = memory_bank.MemoryBank(11, 5), memory_bank.MemoryBank(num_instances, 5, seed=1)
    before = bank.rows.numpy()
    bank.take_rows(other)
    np.testing.assert_array_equal(bank.rows.numpy()[:num_instances], other.rows.numpy())
    np.testing.assert_array_equal(bank.rows.numpy()[num_instances:], before[num_instances:])


@pytest.mark.parametrize(("num_instances", "dim"), [(12, 5), (3, 6)])
def test_a_bank_takes_no_rows_of_one_that_does_not_fit(num_instances, dim):
    message = f"at most 11 instances and of 5 components, got {num_instances} and {dim}"
    with pytest.raises(ValueError, match=message):
        memory_bank.MemoryBank(11, 5).take_rows(memory_bank.MemoryBank(num_instances, dim))


# Files.


def holder(bank):
    """The least model that has the bank."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.bank = bank
    return model


@pytest.mark.parametrize("num_instances", [3, 4, 8, 11])
def test_a_bank_is_saved_and_restored_block_by_block(tmp_path, small_blocks, num_instances):
    bank = memory_bank.MemoryBank(num_instances, 5)
    bank.update([2, 0], make_embeddings(2, 5))
    holder(bank).save_weights(tmp_path / "model.weights.h5")
    fresh = memory_bank.MemoryBank(num_instances, 5, seed=1)
    holder(fresh).load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(fresh.rows.numpy(), bank.rows.numpy())


@pytest.mark.parametrize(("num_instances", "dim"), [(11, 5), (13, 5), (8, 5), (12, 6), (3, 5)])
def test_a_bank_of_another_size_is_refused(tmp_path, small_blocks, num_instances, dim):
    holder(memory_bank.MemoryBank(12, 5)).save_weights(tmp_path / "model.weights.h5")
    other = memory_bank.MemoryBank(num_instances, dim)
    before = other.rows.numpy()
    expected = f"bank has 12 rows of 5 components, this one {num_instances} of {dim}: the number of instances"
    with pytest.raises(ValueError, match=expected):
        holder(other).load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(other.rows.numpy(), before)


def test_a_bank_is_made_anew_from_its_settings():
    bank = memory_bank.MemoryBank(7, 3, momentum=0.25, seed=4, name="bank")
    config = keras.saving.serialize_keras_object(bank)
    again = keras.saving.deserialize_keras_object(config)
    assert isinstance(again, memory_bank.MemoryBank)
    assert again.get_config() == bank.get_config()
    np.testing.assert_array_equal(again.rows.numpy(), bank.rows.numpy())


def test_no_second_bank_is_ever_held(tmp_path):
    """Built, updated, saved, restored: 100 MB of rows take no more than blocks beside them."""
    command = [sys.executable, "-c", PEAK, str(tmp_path / "bank.weights.h5")]
    done = subprocess.run(
        command, check=True, cwd=pathlib.Path(__file__).parent, capture_output=True, text=True, timeout=300
    )
    assert 0.5 < float(done.stdout) < 1.8, "as much again would be a second bank"
