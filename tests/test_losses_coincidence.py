"""Tests of tfsound.losses.coincidence: by hand, against loops; the walk against the direct form."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfsound import losses
from tfsound.losses import coincidence

F32 = np.float32


def logit(probability):
    return np.log(probability) - np.log1p(-probability)


def oracle_loss(logits, diagonal_offset=0):
    """Equations 1 and 2, pair by pair, in float64."""
    num_rows, num_columns = logits.shape
    of_true, of_false = 0.0, 0.0
    for i in range(num_rows):
        for j in range(num_columns):
            # -log p and -log(1 - p) of p = 1 / (1 + exp(-logit)).
            if j == i + diagonal_offset:
                of_true += np.log1p(np.exp(-float(logits[i, j])))
            else:
                of_false += np.log1p(np.exp(float(logits[i, j])))
    return of_true / num_rows + of_false / (num_rows * (num_columns - 1))


def direct_logits(left, right, kernel, bias):
    """The hidden layer of all pairs, as a whole."""
    hidden = tf.nn.relu(left[:, None, :] + right[None, :, :])
    return tf.einsum("ijk,k->ij", hidden, tf.reshape(kernel, [-1])) + tf.reshape(bias, [])


def make_projections(num_rows, num_columns, hidden, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    shapes = ((num_rows, hidden), (num_columns, hidden), (hidden,), ())
    return [(scale * rng.normal(size=shape)).astype(F32) for shape in shapes]


def gradients_of(function, tensors):
    variables = [tf.Variable(tensor) for tensor in tensors]
    with tf.GradientTape() as tape:
        loss, accuracy = function(*variables)
    return float(loss), float(accuracy), [part.numpy() for part in tape.gradient(loss, variables)]


def direct_form(diagonal_offset):
    def function(*tensors):
        logits = direct_logits(*tensors)
        return (
            losses.coincidence_loss(logits, diagonal_offset=diagonal_offset),
            losses.pairwise_accuracy(logits, diagonal_offset=diagonal_offset),
        )

    return function


def walk(**options):
    return lambda *tensors: losses.all_pairs_coincidence_loss(*tensors, **options)


def require_equal(found, expected, tolerance=1e-5):
    """Loss, accuracy and gradients, each gradient relative to its largest component."""
    np.testing.assert_allclose(found[0], expected[0], rtol=tolerance)
    np.testing.assert_allclose(found[1], expected[1], atol=1e-5)
    for one, other in zip(found[2], expected[2], strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance * max(1.0, np.abs(other).max()))


# Equations 1 and 2.


def test_equation_1_by_hand():
    probabilities = np.array([[0.9, 0.2, 0.5], [0.1, 0.5, 0.4], [0.25, 0.75, 0.8]])
    # True: .9, .5, .8; one minus the false ones: .8, .5, .9, .6, .75, .25.
    expected = -np.log(0.9 * 0.5 * 0.8) / 3 - np.log(0.8 * 0.5 * 0.9 * 0.6 * 0.75 * 0.25) / 6
    loss = losses.coincidence_loss(tf.constant(logit(probabilities), tf.float32))
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert loss.dtype == tf.float32


@pytest.mark.parametrize("batch", [2, 3, 50])
def test_ignorance_costs_two_bits_whatever_the_batch(batch):
    # True and false pairs count the same together, however many false ones there are.
    assert float(losses.coincidence_loss(tf.zeros([batch, batch]))) == pytest.approx(2 * np.log(2))
    assert float(losses.pairwise_accuracy(tf.zeros([batch, batch]))) == pytest.approx(0.5)


def test_certainty_costs_nothing_or_the_logit_and_overflows_nowhere():
    right = tf.Variable(tf.where(tf.eye(4) > 0, 1e4, -1e4))
    with tf.GradientTape(persistent=True) as tape:
        best, worst = losses.coincidence_loss(right), losses.coincidence_loss(-right)
    assert best == 0
    np.testing.assert_allclose(worst, 2e4)
    assert losses.pairwise_accuracy(right) == 1
    assert losses.pairwise_accuracy(-right) == 0
    np.testing.assert_array_equal(tape.gradient(best, right), np.zeros((4, 4)))
    # A true logit, minus `right`, is pulled up by 1 / B, a false one down by 1 / (B (B - 1)).
    np.testing.assert_allclose(tape.gradient(worst, right), np.where(np.eye(4), 1 / 4, -1 / 12), rtol=1e-6)


def test_accuracy_by_hand():
    # One of two true pairs above 0, three of four false ones not.
    logits = tf.constant([[1.0, -1.0, 0.5], [0.0, -2.0, -3.0]])
    assert float(losses.pairwise_accuracy(logits)) == pytest.approx((1 / 2 + 3 / 4) / 2)


@given(
    num_rows=st.integers(1, 6), num_others=st.integers(0, 6), offset=st.integers(0, 6),
    scale=st.sampled_from([0.1, 1.0, 10.0]), seed=st.integers(0, 9),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_the_loss_is_that_of_a_loop_over_pairs(num_rows, num_others, offset, scale, seed):
    num_columns = max(2, num_rows + num_others)
    offset = min(offset, num_columns - num_rows)
    logits = (scale * np.random.default_rng(seed).normal(size=(num_rows, num_columns))).astype(F32)
    found = losses.coincidence_loss(logits, diagonal_offset=offset)
    np.testing.assert_allclose(found, oracle_loss(logits, offset), rtol=2e-5, atol=1e-6)


def test_the_mean_over_replicas_is_the_loss_of_the_global_batch():
    logits = np.random.default_rng(0).normal(size=(12, 12)).astype(F32)
    for function in (losses.coincidence_loss, losses.pairwise_accuracy):
        parts = [function(logits[start : start + 4], diagonal_offset=start) for start in (0, 4, 8)]
        np.testing.assert_allclose(np.mean(parts), function(logits), rtol=1e-6)


def test_logits_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"pair_logits must be \(rows, columns\), got shape \(3,\)"):
        losses.coincidence_loss(tf.zeros([3]))


# Random negatives.


@given(num_pairs=st.integers(2, 40), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_random_partners_are_other_pairs(num_pairs, seed):
    partners = losses.random_partners(num_pairs, seed=[seed, 7]).numpy()
    assert partners.shape == (num_pairs,)
    assert ((partners >= 0) & (partners < num_pairs) & (partners != np.arange(num_pairs))).all()
    np.testing.assert_array_equal(losses.random_partners(num_pairs, seed=[seed, 7]), partners)


def test_random_partners_are_uniform_and_differ_by_step():
    draws = np.stack([losses.random_partners(5, seed=[3, step]).numpy() for step in range(2000)])
    for row in range(5):
        counts = np.bincount(draws[:, row], minlength=5)
        assert counts[row] == 0
        # 500 each are expected, with a standard deviation below 20.
        assert abs(np.delete(counts, row) - 500).max() < 100
    # Rows draw independently.
    assert abs(np.corrcoef((draws - np.arange(5)).T % 5 - 2.5)[0, 1]) < 0.1


def test_random_negatives_are_the_loss_of_all_pairs_on_average():
    logits = np.random.default_rng(0).normal(size=(4, 4)).astype(F32)
    total = []
    steps = np.stack(np.meshgrid(*[[1, 2, 3]] * 4), axis=-1).reshape(-1, 4)  # every choice there is
    for step in steps:
        partners = (np.arange(4) + step) % 4
        false_logits = logits[np.arange(4), partners]
        total.append(losses.random_negatives_coincidence_loss(np.diag(logits), false_logits))
    np.testing.assert_allclose(np.mean(total), losses.coincidence_loss(logits), rtol=1e-5)


def test_random_negatives_by_hand_and_at_the_limit():
    loss = losses.random_negatives_coincidence_loss(
        tf.constant(logit(np.array([0.9, 0.5])), tf.float32),
        tf.constant(logit(np.array([0.2, 0.4])), tf.float32),
    )
    np.testing.assert_allclose(loss, -np.log(0.9 * 0.5) / 2 - np.log(0.8 * 0.6) / 2, rtol=1e-6)
    assert losses.random_negatives_coincidence_loss(tf.constant([1e4]), tf.constant([-1e4])) == 0


# The walk over blocks.


@given(
    num_rows=st.integers(1, 9), num_others=st.integers(0, 6), offset=st.integers(0, 6),
    hidden=st.integers(1, 5), block_size=st.sampled_from([1, 2, 4, 7]), seed=st.integers(0, 9),
)  # fmt: skip
@settings(max_examples=50, deadline=None)
def test_the_walk_gives_loss_accuracy_and_gradients_of_the_direct_form(
    num_rows, num_others, offset, hidden, block_size, seed
):
    num_columns = max(2, num_rows + num_others)
    offset = min(offset, num_columns - num_rows)
    tensors = make_projections(num_rows, num_columns, hidden, seed)
    options = {"diagonal_offset": offset, "block_size": block_size}
    require_equal(gradients_of(walk(**options), tensors), gradients_of(direct_form(offset), tensors))
    found = losses.all_pairs_logits(*tensors, block_size=block_size)
    np.testing.assert_allclose(found, direct_logits(*tensors), atol=1e-5)


@pytest.mark.parametrize("num_rows", [200, 97])
def test_the_compiled_walk_gives_the_same(num_rows):
    # As large as what is compiled, with rows that blocks do not divide and those of the last of replicas.
    tensors = make_projections(num_rows, 200, 512, scale=0.3)
    offset = 200 - num_rows
    is_compiled = coincidence._is_compiled(*map(tf.constant, tensors[:2]))
    assert is_compiled == (num_rows == 200), "compiled and plain are not both tested"
    require_equal(
        gradients_of(walk(diagonal_offset=offset), tensors), gradients_of(direct_form(offset), tensors)
    )
    np.testing.assert_allclose(losses.all_pairs_logits(*tensors), direct_logits(*tensors), atol=2e-4)


def test_the_walk_holds_in_a_graph_of_unknown_shapes():
    tensors = make_projections(5, 7, 3)
    signature = [tf.TensorSpec([None] * tensor.ndim) for tensor in tensors]
    function = tf.function(
        lambda *parts: losses.all_pairs_coincidence_loss(*parts, diagonal_offset=1, block_size=2),
        input_signature=signature,
    )
    require_equal(gradients_of(function, tensors), gradients_of(direct_form(1), tensors))
    with pytest.raises(tf.errors.InvalidArgumentError, match="for a batch of one has no negative"):
        function(tensors[0][:1], tensors[1][:1], *tensors[2:])
    with pytest.raises(tf.errors.InvalidArgumentError, match="needs its true partner among the columns"):
        function(*[tensors[0], tensors[1][:5], *tensors[2:]])


def test_the_graph_of_a_walk_does_not_grow_with_the_batch():
    def num_operations(batch):
        function = tf.function(
            lambda *parts: tf.gradients(losses.all_pairs_coincidence_loss(*parts, block_size=2)[0], parts)
        )
        specs = [tf.TensorSpec(tensor.shape) for tensor in make_projections(batch, batch, 3)]
        return len(function.get_concrete_function(*specs).graph.get_operations())

    assert num_operations(50) == num_operations(4)


def test_nothing_of_the_size_of_all_hidden_values_is_in_the_graph():
    concrete = coincidence._walk_function("loss", 4, False).get_concrete_function()
    assert concrete.structured_input_signature  # made once for all shapes
    function = tf.function(lambda *parts: losses.all_pairs_coincidence_loss(*parts, block_size=4)[0])
    specs = [tf.TensorSpec(tensor.shape) for tensor in make_projections(64, 64, 16)]
    graph = function.get_concrete_function(*specs).graph
    sizes = [
        np.prod(output.shape)
        for operation in graph.get_operations() for output in operation.outputs
        if output.shape.is_fully_defined()
    ]  # fmt: skip
    assert max(sizes) <= 64 * 16


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_comes_near_and_keeps_its_gradients_dtype(dtype):
    exact = make_projections(24, 24, 16)
    halves = [tf.Variable(tf.cast(tensor, dtype)) for tensor in exact]
    with tf.GradientTape() as tape:
        loss, _ = losses.all_pairs_coincidence_loss(*halves)
    assert loss.dtype == tf.float32
    expected = gradients_of(direct_form(0), [tf.cast(half, tf.float32) for half in halves])
    np.testing.assert_allclose(loss, expected[0], rtol=1e-5)
    for half, gradient, wanted in zip(halves, tape.gradient(loss, halves), expected[2], strict=True):
        assert gradient.dtype == half.dtype
        np.testing.assert_allclose(tf.cast(gradient, tf.float32), wanted, rtol=0.01, atol=1e-4)
    logits = tf.cast(direct_logits(*map(tf.constant, exact)), dtype)
    assert losses.coincidence_loss(logits).dtype == tf.float32


def test_kernel_and_bias_come_as_a_layer_has_them_too():
    left, right, kernel, bias = make_projections(6, 6, 3)
    flat = gradients_of(walk(), [left, right, kernel, bias])
    shaped = gradients_of(walk(), [left, right, kernel[:, None], bias[None]])
    assert [part.shape for part in shaped[2]] == [(6, 3), (6, 3), (3, 1), (1,)]
    require_equal(
        [*shaped[:2], [part.reshape(of.shape) for part, of in zip(shaped[2], flat[2], strict=True)]], flat
    )


def test_equal_projections_have_finite_gradients():
    zeros = [np.zeros(shape, F32) for shape in ((4, 3), (4, 3), (3,), ())]
    loss, accuracy, gradients = gradients_of(walk(), zeros)
    assert (loss, accuracy) == (pytest.approx(2 * np.log(2)), pytest.approx(0.5))
    for gradient in gradients:
        np.testing.assert_allclose(gradient, np.zeros(gradient.shape), atol=1e-7)


def test_a_scaled_loss_has_scaled_gradients_and_the_accuracy_has_none():
    left, *others = make_projections(5, 5, 4)
    left = tf.Variable(left)
    with tf.GradientTape(persistent=True) as tape:
        loss, accuracy = losses.all_pairs_coincidence_loss(left, *others)
        scaled = 3.0 * loss + 100.0 * accuracy
    np.testing.assert_allclose(tape.gradient(scaled, left), 3 * tape.gradient(loss, left).numpy(), rtol=1e-6)


def test_not_a_number_is_not_hidden():
    left, *others = make_projections(3, 3, 4)
    left[1, 2] = np.nan
    assert np.isnan(losses.all_pairs_coincidence_loss(left, *others)[0])
    assert np.isnan(losses.coincidence_loss(losses.all_pairs_logits(left, *others)))


def test_a_batch_of_one_has_no_negative():
    tensors = make_projections(1, 1, 3)
    message = r"a batch needs at least 2 pairs, for a batch of one has no negative; .*, got 1\."
    for function in (
        lambda: losses.all_pairs_coincidence_loss(*tensors),
        lambda: losses.coincidence_loss(tf.zeros([1, 1])),
        lambda: losses.pairwise_accuracy(tf.zeros([1, 1])),
        lambda: losses.random_partners(1, seed=[0, 0]),
    ):
        with pytest.raises(ValueError, match=message):
            function()


def test_rows_without_a_partner_and_blocks_of_nothing_are_refused():
    tensors = make_projections(3, 4, 3)
    with pytest.raises(ValueError, match=r"every row needs its true partner .*: got 5 rows .* and 4 columns"):
        losses.all_pairs_coincidence_loss(*tensors, diagonal_offset=2)
    with pytest.raises(ValueError, match="block_size must be at least 1, got 0"):
        losses.all_pairs_coincidence_loss(*tensors, block_size=0)


def test_learning_from_all_pair_logits_is_refused():
    left, *others = make_projections(3, 3, 4)
    left = tf.Variable(left)

    with tf.GradientTape() as tape:
        loss = losses.coincidence_loss(losses.all_pairs_logits(left, *others))
    with pytest.raises(LookupError, match="learn by all_pairs_coincidence_loss"):
        tape.gradient(loss, left)
