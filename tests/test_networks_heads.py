"""Tests of tfsound.networks.heads: the head that tells coinciding pairs, and the one that tells clusters."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfsound import networks


def count(variables):
    return sum(int(np.prod(variable.shape)) for variable in variables)


# Pairs.


def make_head(left_dim=3, right_dim=2, **options):
    keras.utils.set_random_seed(0)
    head = networks.CoincidenceHead(**options)
    rng = np.random.default_rng(0)
    left, right = (rng.normal(size=(4, dim)).astype(np.float32) for dim in (left_dim, right_dim))
    head(left, right)
    return head, left, right


def test_the_head_is_two_dense_layers_on_the_concatenation():
    head, left, right = make_head()
    dense = keras.Sequential([keras.layers.Dense(512, activation="relu"), keras.layers.Dense(1)])
    dense.build((None, 5))
    dense.set_weights(head.get_weights())
    expected = dense(np.concatenate([left, right], axis=1))[:, 0]
    np.testing.assert_allclose(head(left, right), expected, atol=1e-6)
    # (2 d + 1) 512 + 513 of the paper's d = 128.
    assert count(make_head(128, 128)[0].variables) == 257 * 512 + 513


def test_the_hidden_layer_is_a_sum_of_two_projections():
    head, left, right = make_head(hidden_units=7)
    hidden = np.concatenate([left, right], axis=1) @ head.hidden_kernel.numpy() + head.hidden_bias.numpy()
    np.testing.assert_allclose(head.project_left(left) + head.project_right(right), hidden, atol=1e-6)


def test_the_head_computes_in_its_policy_and_adds_up_in_float32():
    head, left, right = make_head(dtype="mixed_bfloat16")
    assert head.project_left(left).dtype == head.project_right(right).dtype == tf.bfloat16
    assert head(left, right).dtype == tf.float32
    exact, _, _ = make_head()
    exact.set_weights(head.get_weights())
    np.testing.assert_allclose(head(left, right), exact(left, right), atol=0.05)


def test_a_head_is_saved_and_loaded(tmp_path):
    head, left, right = make_head(hidden_units=7)
    inputs = [keras.Input((3,)), keras.Input((2,))]
    model = keras.Model(inputs, head(*inputs))
    model.save(tmp_path / "head.keras")
    loaded = keras.saving.load_model(tmp_path / "head.keras")
    np.testing.assert_array_equal(loaded([left, right]), model([left, right]))
    with pytest.raises(ValueError, match="hidden_units must be at least 1, got 0"):
        networks.CoincidenceHead(0)


# Clusters.


def make_cluster_head(num_clusters=7, dim=4, **options):
    keras.utils.set_random_seed(0)
    head = networks.ClusterHead(num_clusters, **options)
    embeddings = np.random.default_rng(0).normal(size=(50, dim)).astype(np.float32)
    return head, embeddings, head(embeddings).numpy()


def test_cluster_logits_are_scaled_cosines():
    head, embeddings, logits = make_cluster_head()
    kernel = head.kernel.numpy()
    cosines = embeddings @ kernel.T
    cosines /= np.linalg.norm(embeddings, axis=1)[:, None] * np.linalg.norm(kernel, axis=1)
    np.testing.assert_allclose(logits, 60 * cosines, atol=1e-4)
    np.testing.assert_allclose(make_cluster_head(logit_scale=3.0)[2], 3 * cosines, atol=1e-5)
    assert count(head.variables) == 7 * 4
    np.testing.assert_array_equal(head(np.zeros((1, 4))), np.zeros((1, 7)))


def test_initial_directions_are_random_and_of_about_length_1(monkeypatch):
    monkeypatch.setattr(networks.heads, "_BLOCK_CLUSTERS", 300)  # 1,000 clusters in four blocks
    head, _, _ = make_cluster_head(1000, 128)
    kernel = head.kernel.numpy()
    np.testing.assert_allclose(np.linalg.norm(kernel, axis=1), np.ones(1000), atol=0.35)
    cosines = kernel @ kernel.T - np.diag(np.sum(kernel**2, axis=1))
    assert np.abs(cosines).max() < 0.65, "two blocks are the same"
    assert abs(kernel.mean()) < 1e-3
    np.testing.assert_array_equal(make_cluster_head(1000, 128)[0].kernel, kernel)


@pytest.mark.parametrize(("block_clusters", "block_embeddings"), [(1, 1), (3, 7), (7, 50), (100, 100)])
def test_the_assigned_cluster_is_that_of_the_highest_logit(monkeypatch, block_clusters, block_embeddings):
    monkeypatch.setattr(networks.heads, "_BLOCK_CLUSTERS", block_clusters)
    monkeypatch.setattr(networks.heads, "_BLOCK_EMBEDDINGS", block_embeddings)
    head, embeddings, logits = make_cluster_head()
    for given in (embeddings, tf.constant(embeddings), 1e-3 * embeddings):
        assigned = head.assign(given)
        assert (assigned.dtype, assigned.shape) == (np.int32, (50,))
        np.testing.assert_array_equal(assigned, logits.argmax(axis=1))


def test_equally_probable_clusters_and_nothing_to_assign(monkeypatch):
    monkeypatch.setattr(networks.heads, "_BLOCK_CLUSTERS", 2)
    head, embeddings, _ = make_cluster_head(6)
    kernel = head.kernel.numpy()
    head.kernel.assign(np.concatenate([kernel[:3], 4 * kernel[:3]]))  # the same directions twice
    assert head.assign(embeddings).max() <= 2
    np.testing.assert_array_equal(head.assign(np.zeros((2, 4), np.float32)), [0, 0])
    assert head.assign(np.zeros((0, 4), np.float32)).shape == (0,)


def test_what_cannot_be_assigned_is_refused():
    head, embeddings, _ = make_cluster_head()
    with pytest.raises(ValueError, match=r"embeddings must be \(embeddings, 4\), got shape \(50, 3\)"):
        head.assign(embeddings[:, :3])
    with pytest.raises(ValueError, match=r"embeddings must be \(embeddings, 4\), got shape \(4,\)"):
        head.assign(embeddings[0])
    embeddings[3, 2] = np.nan
    with pytest.raises(ValueError, match="embeddings must be finite, got NaN or infinity"):
        head.assign(embeddings)


def test_a_cluster_head_is_saved_and_loaded(tmp_path):
    head, embeddings, logits = make_cluster_head(logit_scale=7.0)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, head(inputs))
    model.save(tmp_path / "head.keras")
    loaded = keras.saving.load_model(tmp_path / "head.keras")
    np.testing.assert_array_equal(loaded(embeddings), logits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_clusters": 1}, "num_clusters must be at least 2, got 1"),
        ({"num_clusters": 2, "logit_scale": 0.0}, r"logit_scale must be positive and finite, got 0\.0"),
        (
            {"num_clusters": 2, "logit_scale": float("inf")},
            "logit_scale must be positive and finite, got inf",
        ),
    ],
)
def test_a_cluster_head_out_of_range_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        networks.ClusterHead(**options)
