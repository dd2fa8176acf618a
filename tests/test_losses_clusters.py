"""Tests of tfsound.losses.cluster_entropy_loss: by hand, at limits, against NumPy and the direct form."""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfsound import losses
from tfsound.losses import clusters

F32 = np.float32


def make_inputs(num_rows, num_clusters, dim, *, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    return [(scale * rng.normal(size=(rows, dim))).astype(F32) for rows in (num_rows, num_clusters)]


def oracle(embeddings, kernel, logit_scale=60.0, diversity_weight=1.1):
    """Loss, mean entropy and entropy of the mean, row by row, in float64."""

    def unit(row):
        length = math.sqrt(sum(value * value for value in row))
        return [value / length for value in row] if length else list(row)

    def entropy(probs):
        return -sum(p * math.log(p) for p in probs if p > 0)

    rows, centres = ([unit(row) for row in array.astype(float).tolist()] for array in (embeddings, kernel))
    all_probs = []
    for row in rows:
        logits = [logit_scale * sum(a * b for a, b in zip(row, centre, strict=True)) for centre in centres]
        exponentials = [math.exp(logit - max(logits)) for logit in logits]
        all_probs.append([value / sum(exponentials) for value in exponentials])
    mean_entropy = sum(map(entropy, all_probs)) / len(rows)
    entropy_of_mean = entropy([sum(column) / len(rows) for column in zip(*all_probs, strict=True)])
    return mean_entropy - diversity_weight * entropy_of_mean, mean_entropy, entropy_of_mean


def direct_form(embeddings, kernel, logit_scale=60.0, diversity_weight=1.1):
    """The same by TensorFlow's softmax and its autodiff, everything at once: in float64, for its own errors
    in float32 are larger than those of the walk."""
    embeddings, kernel = tf.cast(embeddings, tf.float64), tf.cast(kernel, tf.float64)
    units, centres = tf.math.l2_normalize(embeddings, axis=1), tf.math.l2_normalize(kernel, axis=1)
    logits = logit_scale * tf.matmul(units, centres, transpose_b=True)
    probs = tf.nn.softmax(logits)
    mean_entropy = -tf.reduce_mean(tf.reduce_sum(probs * tf.nn.log_softmax(logits), axis=1))
    mean_probs = tf.reduce_mean(probs, axis=0)
    entropy_of_mean = -tf.reduce_sum(tf.math.xlogy(mean_probs, mean_probs))
    return mean_entropy - diversity_weight * entropy_of_mean, mean_entropy, entropy_of_mean


def gradients_of(function, inputs):
    """The three values, and the gradients of the loss and of each entropy by embeddings and kernel."""
    variables = [tf.Variable(array) for array in inputs]
    with tf.GradientTape(persistent=True) as tape:
        values = function(*variables)
    return [float(value) for value in values], [
        gradient.numpy() for value in values for gradient in tape.gradient(value, variables)
    ]


def require_equal(found, expected, tolerance=1e-5):
    """Values, and gradients relative to the largest component of each."""
    np.testing.assert_allclose(found[0], expected[0], rtol=tolerance, atol=tolerance)
    for one, other in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance * max(1.0, np.abs(other).max()))


def walk(**options):
    return lambda *tensors: losses.cluster_entropy_loss(*tensors, **options)


@pytest.fixture
def made_again(monkeypatch):
    """Logits are never kept from pass to pass."""
    monkeypatch.setattr(clusters, "_MOST_KEPT_BYTES", 0)


# The equation.


def test_the_loss_by_hand():
    # Cosines 1 and 0 at scale ln 3: p is (3/4, 1/4) for one sound and (1/4, 3/4) for the other.
    embeddings, kernel = [[2.0, 0.0], [0.0, 0.5]], [[3.0, 0.0], [0.0, 7.0]]
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    found = losses.cluster_entropy_loss(
        tf.constant(embeddings), tf.constant(kernel), logit_scale=math.log(3), diversity_weight=2.0
    )
    np.testing.assert_allclose(found, [entropy - 2 * math.log(2), entropy, math.log(2)], rtol=1e-6)
    assert {value.dtype for value in found} == {tf.float32}


def test_the_best_is_a_cluster_for_each_sound_and_the_worst_one_for_all():
    eye = tf.eye(4)
    loss, mean_entropy, entropy_of_mean = losses.cluster_entropy_loss(eye, eye)
    np.testing.assert_allclose(
        [loss, mean_entropy, entropy_of_mean], [-1.1 * math.log(4), 0, math.log(4)], atol=1e-5
    )
    # At gamma 1 all sounds in one cluster cost as much as all sounds in all clusters alike: 0.
    alike = losses.cluster_entropy_loss(tf.ones([4, 4]), eye, diversity_weight=1.0)
    np.testing.assert_allclose(alike, [0, math.log(4), math.log(4)], atol=1e-6)
    one = losses.cluster_entropy_loss(tf.repeat(eye[:1], 4, axis=0), eye, diversity_weight=1.0)
    np.testing.assert_allclose(one, [0, 0, 0], atol=1e-6)


@given(
    num_rows=st.integers(1, 5), num_clusters=st.integers(2, 9), dim=st.integers(1, 4),
    logit_scale=st.sampled_from([0.5, 10.0, 60.0, 1000.0]), diversity_weight=st.sampled_from([0.0, 1.1, 3.0]),
    block_size=st.integers(1, 10), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_the_loss_is_that_of_a_loop(
    num_rows, num_clusters, dim, logit_scale, diversity_weight, block_size, seed
):
    inputs = make_inputs(num_rows, num_clusters, dim, seed=seed, scale=10.0 ** (seed % 5 - 2))
    options = {"logit_scale": logit_scale, "diversity_weight": diversity_weight}
    found = losses.cluster_entropy_loss(*map(tf.constant, inputs), block_size=block_size, **options)
    # A cosine is known to 6e-8 of 1, and a logit to so much of the scale.
    tolerance = 1e-5 * max(1.0, logit_scale / 60)
    np.testing.assert_allclose(found, oracle(*inputs, **options), rtol=tolerance, atol=tolerance)


# The walk over blocks.


@given(
    num_rows=st.integers(1, 9), num_clusters=st.integers(2, 50), dim=st.integers(2, 8),
    block_size=st.sampled_from([1, 2, 7, 16, 64]), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=50, deadline=None)
def test_values_and_gradients_are_those_of_the_direct_form(num_rows, num_clusters, dim, block_size, seed):
    inputs = make_inputs(num_rows, num_clusters, dim, seed=seed)
    # At a scale where the logits of a few dimensions are as those of many at 60, else most rows are certain.
    found = gradients_of(walk(logit_scale=10.0, block_size=block_size), inputs)
    require_equal(found, gradients_of(lambda *tensors: direct_form(*tensors, logit_scale=10.0), inputs))


@pytest.mark.parametrize("num_clusters", [2, 3, 997, 1000, 1001, 4096])
@pytest.mark.parametrize("num_rows", [1, 5])
def test_the_papers_scale_and_dimension(num_rows, num_clusters):
    inputs = make_inputs(num_rows, num_clusters, 128)
    require_equal(gradients_of(walk(), inputs), gradients_of(direct_form, inputs))


@pytest.mark.usefixtures("made_again")
@pytest.mark.parametrize("block_size", [3, 1000])
def test_logits_that_are_made_again_give_the_same(block_size):
    inputs = make_inputs(6, 50, 16)
    require_equal(gradients_of(walk(block_size=block_size), inputs), gradients_of(direct_form, inputs))


@pytest.mark.parametrize("kept", [True, False])
def test_the_compiled_walk_gives_the_same(monkeypatch, kept):
    monkeypatch.setattr(clusters, "_COMPILED_FROM", 0)
    if not kept:
        monkeypatch.setattr(clusters, "_MOST_KEPT_BYTES", 0)
    inputs = make_inputs(8, 530, 16)
    assert clusters._is_compiled(*map(tf.constant, inputs))
    # Blocks that divide the clusters, and blocks that do not.
    for block_size in (53, 100):
        require_equal(gradients_of(walk(block_size=block_size), inputs), gradients_of(direct_form, inputs))


def test_blocks_divide_the_clusters_where_they_can():
    sizes = {count: clusters._block_size(None, count) for count in (2, 1000, 1001, 2**20, 10**6, 999_983)}
    # 999,983 is prime.
    assert sizes == {2: 1000, 1000: 1000, 1001: 1000, 2**20: 512, 10**6: 1000, 999_983: 1000}
    assert clusters._block_size(7, 1000) == 7


def test_the_walk_holds_in_a_graph_of_unknown_shapes():
    inputs = make_inputs(5, 30, 4)
    function = tf.function(
        lambda *tensors: losses.cluster_entropy_loss(*tensors, block_size=8),
        input_signature=[tf.TensorSpec([None, None])] * 2,
    )
    require_equal(gradients_of(function, inputs), gradients_of(direct_form, inputs))


@pytest.mark.usefixtures("made_again")
def test_nothing_of_the_size_of_all_logits_is_in_the_graph_where_they_are_made_again():
    num_rows, num_clusters = 64, 3000
    forward, backward = clusters._walk_functions(100, False, False)
    units, kernel = (tf.constant(array) for array in make_inputs(num_rows, num_clusters, 4))
    entropies, mean_probs, *kept = forward(units, kernel, 60.0)
    of_units, of_kernel = backward(units, kernel, 60.0, *kept, entropies, mean_probs)
    passed = [entropies, mean_probs, *kept, of_units, of_kernel]
    assert max(int(tf.size(tensor)) for tensor in passed) <= num_clusters * 4


# Numbers at the edge.


def test_certain_rows_have_finite_gradients_and_values():
    # Probabilities of e^-120 are 0 in float32; log 0 must not appear, nor 0 times it.
    eye = np.eye(3, dtype=F32)
    values, gradients = gradients_of(walk(), [eye, np.concatenate([eye, -eye])])
    np.testing.assert_allclose(values, [-1.1 * math.log(3), 0, math.log(3)], atol=1e-5)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    values, gradients = gradients_of(walk(logit_scale=1e4), make_inputs(4, 9, 3))
    assert np.isfinite(values).all()
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_rows_of_zeros_are_undecided_and_pull_nothing():
    embeddings, kernel = make_inputs(4, 6, 3)
    embeddings[1], kernel[2] = 0, 0
    values, gradients = gradients_of(walk(block_size=4), [embeddings, kernel])
    np.testing.assert_allclose(values, oracle(embeddings, kernel), rtol=1e-5, atol=1e-6)
    for of_embeddings, of_kernel in zip(gradients[::2], gradients[1::2], strict=True):
        np.testing.assert_array_equal(of_embeddings[1], np.zeros(3))
        np.testing.assert_array_equal(of_kernel[2], np.zeros(3))
        assert np.isfinite(of_embeddings).all()
        assert np.isfinite(of_kernel).all()
        assert np.abs(of_kernel).max() > 1e-3
    nothing = losses.cluster_entropy_loss(tf.zeros([2, 3]), tf.zeros([5, 3]))
    np.testing.assert_allclose(nothing, [-0.1 * math.log(5), math.log(5), math.log(5)], atol=1e-6)


def test_lengths_count_for_nothing_and_gradients_are_along_the_sphere():
    embeddings, kernel = make_inputs(5, 7, 4)
    expected, (of_embeddings, of_kernel, *_) = gradients_of(walk(), [embeddings, kernel])
    scaled, (of_scaled, of_scaled_kernel, *_) = gradients_of(walk(), [100 * embeddings, 0.01 * kernel])
    np.testing.assert_allclose(scaled, expected, rtol=1e-5)
    np.testing.assert_allclose(of_scaled, of_embeddings / 100, atol=1e-6)
    np.testing.assert_allclose(of_scaled_kernel, of_kernel * 100, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(np.sum(of_embeddings * embeddings, axis=1), np.zeros(5), atol=1e-4)
    np.testing.assert_allclose(np.sum(of_kernel * kernel, axis=1), np.zeros(7), atol=1e-4)


def test_not_a_number_is_not_hidden():
    embeddings, kernel = make_inputs(3, 4, 2)
    for broken in (np.nan, np.inf):
        for number in (0, 1):
            inputs = [embeddings.copy(), kernel.copy()]
            inputs[number][1, 0] = broken
            assert np.isnan(losses.cluster_entropy_loss(*map(tf.constant, inputs))[0])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_comes_near_and_keeps_its_gradients_dtype(dtype):
    embeddings, kernel = make_inputs(8, 20, 16)
    half = tf.Variable(tf.cast(embeddings, dtype))
    kernel = tf.Variable(kernel)
    with tf.GradientTape() as tape:
        loss = losses.cluster_entropy_loss(half, kernel)[0]
    assert loss.dtype == tf.float32
    expected = gradients_of(walk(), [tf.cast(half, tf.float32), kernel])
    np.testing.assert_allclose(loss, expected[0][0], rtol=1e-5)
    of_half, of_kernel = tape.gradient(loss, [half, kernel])
    assert (of_half.dtype, of_kernel.dtype) == (half.dtype, tf.float32)
    np.testing.assert_allclose(of_kernel, expected[1][1], atol=1e-5)
    np.testing.assert_allclose(tf.cast(of_half, tf.float32), expected[1][0], rtol=0.01, atol=1e-4)


# Replicas.


def test_the_mean_over_replicas_is_the_loss_of_the_global_batch():
    embeddings, kernel = make_inputs(12, 30, 8)
    expected, (of_embeddings, of_kernel, *_) = gradients_of(walk(), [embeddings, kernel])
    parts = [tf.Variable(part) for part in np.split(embeddings, 3)]
    kernel = tf.Variable(kernel)
    with tf.GradientTape() as tape:
        all_probs = []
        for part in parts:  # what each replica has to share
            losses.cluster_entropy_loss(
                part, kernel, mean_over_replicas=lambda probs: all_probs.append(probs) or probs
            )
        mean_probs = tf.add_n(all_probs) / 3
        found = [
            losses.cluster_entropy_loss(part, kernel, mean_over_replicas=lambda _: mean_probs)
            for part in parts
        ]
        loss = tf.add_n([values[0] for values in found]) / 3
    np.testing.assert_allclose(np.mean(found, axis=0), expected, rtol=1e-5)
    of_parts, of_whole_kernel = tape.gradient(loss, [parts, kernel])
    np.testing.assert_allclose(np.concatenate(of_parts), of_embeddings, atol=1e-5)
    np.testing.assert_allclose(of_whole_kernel, of_kernel, atol=1e-5)


# What is refused.


def test_a_single_cluster_is_refused():
    with pytest.raises(ValueError, match=r"at least 2 clusters, got 1: of one cluster all entropies are 0"):
        losses.cluster_entropy_loss(*make_inputs(3, 1, 4))


@pytest.mark.parametrize("shapes", [((3, 4), (5, 6)), ((3,), (5, 3)), ((3, 4), (5, 4, 1))])
def test_shapes_that_do_not_fit_are_refused(shapes):
    with pytest.raises(ValueError, match=r"embeddings must be \(batch, embedding_dim\) and kernel"):
        losses.cluster_entropy_loss(*[tf.zeros(shape) for shape in shapes])


def test_blocks_of_nothing_are_refused():
    with pytest.raises(ValueError, match="block_size must be at least 1, got 0"):
        losses.cluster_entropy_loss(*make_inputs(3, 4, 2), block_size=0)
