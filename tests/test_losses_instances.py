"""Tests of tfsound.losses.instances: by hand, against float64 NumPy, the limit of NCE, extremes."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfsound import losses


def unit_rows(rng, *shape):
    rows = rng.normal(size=shape)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def as_float32(*arrays):
    return [tf.constant(array, tf.float32) for array in arrays]


def softmax_and_gradient(embeddings, ids, bank, temperature):
    embeddings, bank = as_float32(embeddings, bank)
    with tf.GradientTape() as tape:
        tape.watch([embeddings, bank])
        loss = losses.instance_softmax_loss(embeddings, ids, bank, temperature=temperature)
    gradient, of_bank = tape.gradient(loss, [embeddings, bank])
    assert of_bank is None
    return float(loss), gradient.numpy()


def nce_and_gradient(embeddings, own_rows, negative_rows, log_partition, num_instances, temperature):
    tensors = as_float32(embeddings, own_rows[:, None], negative_rows, log_partition)
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        own, negative = (
            losses.instance_logits(tensors[0], rows, temperature=temperature) for rows in tensors[1:3]
        )
        loss = losses.noise_contrastive_loss(
            own[:, 0], negative, log_partition=tensors[3], num_instances=num_instances
        )
    gradient, *others = tape.gradient(loss, tensors)
    assert others == [None, None, None]
    return float(loss), gradient.numpy()


# NumPy oracles, float64, as the equations are written.


def softmax_oracle(embeddings, ids, bank, temperature):
    similarities = np.exp(embeddings @ bank.T / temperature)
    return -np.log(similarities[np.arange(len(ids)), ids] / similarities.sum(axis=1)).mean()


def nce_oracle(embeddings, own_rows, negative_rows, log_partition, num_instances, temperature):
    """-log[P / (P + m P_n)] - sum log[m P_n / (P + m P_n)]."""
    noise = negative_rows.shape[1] / num_instances  # m P_n
    total = 0.0
    for embedding, own, negatives in zip(embeddings, own_rows, negative_rows, strict=True):
        p = np.exp(own @ embedding / temperature) / np.exp(log_partition)
        total -= np.log(p / (p + noise))
        for negative in negatives:
            p = np.exp(negative @ embedding / temperature) / np.exp(log_partition)
            total -= np.log(noise / (p + noise))
    return total / len(embeddings)


def central_differences(function, embeddings, step=1e-6):
    gradient = np.zeros_like(embeddings)
    for index in np.ndindex(*embeddings.shape):
        moved = np.zeros_like(embeddings)
        moved[index] = step
        gradient[index] = (function(embeddings + moved) - function(embeddings - moved)) / (2 * step)
    return gradient


@st.composite
def cases(draw):
    """Embeddings, ids, a bank, a temperature, and negatives; values that float32 has."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    num_rows, num_instances = draw(st.integers(1, 6)), draw(st.integers(2, 12))
    dim, num_negatives = draw(st.integers(1, 8)), draw(st.integers(1, 12))
    embeddings, bank = (
        unit_rows(rng, count, dim).astype(np.float32).astype(np.float64)
        for count in (num_rows, num_instances)
    )
    ids = rng.integers(0, num_instances, num_rows)
    negative_ids = rng.integers(0, num_instances, (num_rows, num_negatives))
    return embeddings, ids, bank, draw(st.sampled_from([0.07, 0.4, 1.0])), negative_ids


@given(cases())
@settings(max_examples=60, deadline=None)
def test_the_softmax_and_its_gradient_agree_with_numpy(case):
    embeddings, ids, bank, temperature, _ = case
    loss, gradient = softmax_and_gradient(embeddings, ids, bank, temperature)
    assert loss == pytest.approx(softmax_oracle(embeddings, ids, bank, temperature), rel=1e-5, abs=1e-5)
    expected = central_differences(lambda e: softmax_oracle(e, ids, bank, temperature), embeddings)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-5)


@given(cases(), st.floats(-2, 2))
@settings(max_examples=60, deadline=None)
def test_nce_and_its_gradient_agree_with_numpy(case, shift):
    embeddings, ids, bank, temperature, negative_ids = case
    exact = np.log(np.exp(embeddings @ bank.T / temperature).sum(axis=1).mean())
    rest = bank[ids], bank[negative_ids], np.float32(exact + shift).astype(np.float64), len(bank), temperature
    loss, gradient = nce_and_gradient(embeddings, *rest)
    assert loss == pytest.approx(nce_oracle(embeddings, *rest), rel=1e-5, abs=1e-5)
    expected = central_differences(lambda e: nce_oracle(e, *rest), embeddings)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-5)


def test_a_step_of_both_by_hand():
    # Two rows, east and north; the embedding is east, at temperature 1: P = e / (e + 1).
    embeddings, bank = np.array([[1.0, 0.0]]), np.eye(2)
    p = np.e / (np.e + 1)
    loss, gradient = softmax_and_gradient(embeddings, [0], bank, 1.0)
    assert loss == pytest.approx(-np.log(p))
    np.testing.assert_allclose(gradient, [[p - 1, 1 - p]], rtol=1e-6)
    # One negative, north, which is noise of 1 x 1/2, and Z = e + 1: h = p / (p + 1/2), and
    # (1 - p) / (1 - p + 1/2) for the negative.
    own, negative = p / (p + 0.5), (1 - p) / (1.5 - p)
    loss, gradient = nce_and_gradient(embeddings, bank[:1], bank[None, 1:], np.log(np.e + 1), 2, 1.0)
    assert loss == pytest.approx(-np.log(own) - np.log(1 - negative))
    np.testing.assert_allclose(gradient, [[own - 1, negative]], rtol=1e-6)


def test_nce_becomes_the_full_softmax_with_many_negatives_and_the_exact_sum():
    """Each row c times among the negatives is the expectation over m = c n uniform draws, without chance."""
    rng = np.random.default_rng(0)
    embeddings, bank, ids, temperature = unit_rows(rng, 1, 4), unit_rows(rng, 7, 4), np.array([3]), 0.4
    sums = np.exp(embeddings @ bank.T / temperature).sum(axis=1)
    wanted, wanted_gradient = softmax_and_gradient(embeddings, ids, bank, temperature)
    errors = []
    for repeats in (1, 10, 100, 1000):
        negatives = np.tile(bank, (repeats, 1))[None]
        loss, gradient = nce_and_gradient(
            embeddings, bank[ids], negatives, np.log(sums)[0], len(bank), temperature
        )
        limit = loss - (np.log(repeats) + 1)  # m / n is `repeats`
        errors.append((abs(limit - wanted), np.abs(gradient - wanted_gradient).max()))
    errors = np.array(errors)
    assert (errors[0] > 0.02).all(), "with few negatives the two differ, or nothing is tested"
    # Ten times the negatives, a tenth of the error.
    ratios = errors[1:] / errors[:-1]
    assert (ratios < 0.2).all()
    assert (errors[-1] < 1e-3).all()


def test_the_gradient_of_random_negatives_is_in_the_mean_that_of_all_rows():
    rng = np.random.default_rng(0)
    num_draws, num_negatives = 20_000, 14
    embeddings, bank = unit_rows(rng, 1, 4), unit_rows(rng, 7, 4)
    log_partition = np.log(np.exp(embeddings @ bank.T / 0.4).sum())
    rows = np.repeat(embeddings, num_draws, axis=0), np.repeat(bank[:1], num_draws, axis=0)
    negatives = bank[rng.integers(0, len(bank), (num_draws, num_negatives))]
    _, drawn = nce_and_gradient(*rows, negatives, log_partition, len(bank), 0.4)
    _, expected = nce_and_gradient(
        embeddings, bank[:1], np.tile(bank, (2, 1))[None], log_partition, len(bank), 0.4
    )
    # A mean over rows, so that each has 1 / num_draws of its gradient.
    np.testing.assert_allclose(drawn.sum(axis=0), expected[0], atol=0.02)
    assert np.abs(expected).max() > 0.2


def test_the_estimate_of_z_by_hand_and_in_the_mean():
    estimate = losses.log_partition_estimate(tf.math.log([[1.0, 2.0], [3.0, 6.0]]), 10)
    assert float(estimate) == pytest.approx(np.log(10 * 3))
    rng = np.random.default_rng(0)
    bank, embedding = unit_rows(rng, 50, 8), unit_rows(rng, 1, 8)
    logits = (bank @ embedding[0] / 0.4)[rng.integers(0, 50, (200, 64))].astype(np.float32)
    found = losses.log_partition_estimate(tf.constant(logits), 50)
    assert float(found) == pytest.approx(np.log(np.exp(bank @ embedding[0] / 0.4).sum()), abs=0.02)


def test_a_low_temperature_neither_overflows_nor_vanishes():
    """exp(1 / 0.005) is beyond float32, and exp(-200) below it."""
    embeddings = np.array([[1.0, 0.0], [-1.0, 0.0]])
    bank = np.array([[1.0, 0.0], [0.0, 1.0]])
    loss, gradient = softmax_and_gradient(embeddings, [0, 0], bank, 0.005)
    assert loss == pytest.approx(100.0)  # the mean of 0 and 200
    assert np.isfinite(gradient).all()
    negative_logits = losses.instance_logits(
        *as_float32(embeddings, np.repeat(bank[None, :1], 2, axis=0)), temperature=0.005
    )
    np.testing.assert_allclose(negative_logits, [[200], [-200]])
    log_partition = losses.log_partition_estimate(negative_logits, 2)
    assert float(log_partition) == pytest.approx(200.0)  # log(2 (e^200 + e^-200) / 2)
    loss, gradient = nce_and_gradient(
        embeddings, bank[[0, 0]], bank[[[0], [0]]], log_partition.numpy(), 2, 0.005
    )
    # h is 1 / (1 + 1/2) of the one, log h is -400 + log 2 of the other.
    expected = (-np.log(2 / 3) - np.log(1 / 3) + 400 - np.log(2)) / 2
    assert loss == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("num_rows", [0, 3])
def test_equal_rows_and_no_rows(num_rows):
    embeddings, bank = np.ones((num_rows, 1)), np.ones((4, 1))
    ids = np.zeros(num_rows, np.int64)
    loss, gradient = softmax_and_gradient(embeddings, ids, bank, 0.4)
    assert loss == pytest.approx(np.log(4) if num_rows else 0)
    np.testing.assert_allclose(gradient, np.zeros((num_rows, 1)), atol=1e-6)
    negatives = np.ones((num_rows, 2, 1))
    loss, gradient = nce_and_gradient(embeddings, bank[ids], negatives, np.log(4) + 2.5, 4, 0.4)
    # All P are 1 / 4, and noise is 2 / 4: h = 1 / 3.
    assert loss == pytest.approx(-np.log(1 / 3) - 2 * np.log(2 / 3) if num_rows else 0, rel=1e-6)
    assert gradient.shape == (num_rows, 1)
    assert np.isfinite(gradient).all()


def test_half_precision_is_computed_in_float32():
    embeddings, bank = (tf.constant(unit_rows(np.random.default_rng(0), 3, 4), tf.bfloat16) for _ in range(2))
    assert losses.instance_softmax_loss(embeddings, [0, 1, 2], bank, temperature=0.4).dtype == tf.float32
    logits = losses.instance_logits(embeddings, bank[None], temperature=0.4)
    loss = losses.noise_contrastive_loss(logits[:, 0], logits, log_partition=1.0, num_instances=3)
    assert (logits.dtype, loss.dtype) == (tf.float32, tf.float32)
