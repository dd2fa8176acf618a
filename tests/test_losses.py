"""Tests of tfsound.losses: by hand, at limits, against loops and tensorflow-addons, gradients at edges."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfsound import losses

F32 = np.float32


def units(*degrees):
    """Points of the unit circle, (len(degrees), 2)."""
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(F32)


def mined_loss(anchor, positive, candidates, is_negative, *, margin):
    """Every row mined and every candidate given: a row's own negative has no say, not even as NaN."""
    own = tf.fill(tf.shape(anchor), tf.constant(np.nan, anchor.dtype))
    return losses.semi_hard_triplet_loss(anchor, positive, own, candidates, is_negative, margin=margin)


def loss_and_gradients(anchor, positive, candidates, is_negative, *, margin=0.1):
    variables = [tf.Variable(value) for value in (anchor, positive, candidates)]
    with tf.GradientTape() as tape:
        loss = mined_loss(*variables, tf.constant(is_negative), margin=margin)
    return loss.numpy(), [tf.convert_to_tensor(part).numpy() for part in tape.gradient(loss, variables)]


def oracle_allowed(anchor_recording, negative_recording, anchor_label, negative_labels):
    """Labels as sets, pair by pair."""
    return np.array(
        [
            [
                recording != other
                and (label < 0 or ((labels >= 0).any() and label not in set(labels[labels >= 0])))
                for other, labels in zip(negative_recording, negative_labels, strict=True)
            ]
            for recording, label in zip(anchor_recording, anchor_label, strict=True)
        ]
    ).reshape(len(anchor_recording), len(negative_recording))


def oracle_choice(anchor, positive, candidates, is_negative):
    """The double loop: the closest farther than the positive, else the farthest, else none."""
    chosen = []
    for row in range(len(anchor)):
        positive_distance = np.sum((anchor[row] - positive[row]) ** 2)
        best, farthest = None, None
        for column in range(len(candidates)):
            if not is_negative[row, column]:
                continue
            distance = np.sum((anchor[row] - candidates[column]) ** 2)
            if farthest is None or distance > farthest[0]:
                farthest = (distance, column)
            if distance > positive_distance and (best is None or distance < best[0]):
                best = (distance, column)
        picked = best or farthest
        chosen.append(None if picked is None else picked[1])
    return chosen


def oracle_loss(anchor, positive, negative, candidates, is_negative, margin, is_mined, weights):
    total = 0.0
    for row, column in enumerate(oracle_choice(anchor, positive, candidates, is_negative)):
        if is_mined[row] and column is None:
            continue
        served = candidates[column] if is_mined[row] else negative[row]
        near, far = np.sum((anchor[row] - positive[row]) ** 2), np.sum((anchor[row] - served) ** 2)
        total += weights[row] * max(0.0, near - far + margin)
    return total / max(1, len(anchor))


def test_squared_distances_on_the_circle():
    # 0, 90 and 180 degrees apart: 0, 2 and 4.
    found = losses.squared_distances(units(0, 90), units(0, 90, 180))
    np.testing.assert_allclose(found, [[0, 2, 4], [2, 0, 2]], atol=1e-6)


def test_squared_distances_are_never_negative():
    rows = tf.math.l2_normalize(np.random.default_rng(0).normal(size=(200, 128)).astype(F32), axis=1)
    assert tf.reduce_min(2 - 2 * tf.matmul(rows, rows, transpose_b=True)) < 0, "no rounding, nothing tested"
    assert tf.reduce_min(losses.squared_distances(rows, rows)) == 0


def test_equation_1_by_hand():
    anchor = np.array([[1, 0], [1, 0], [1, 0]], F32)
    positive = np.array([[0.6, 0.8], [1, 0], [0, 1]], F32)
    negative = np.array([[0, 1], [0.6, 0.8], [0.6, 0.8]], F32)
    # |a - p|^2 = .16 + .64 = .8, 0, 2; |a - n|^2 = 2, .8, .8; plus the margin of .5, cut at 0.
    hinges = losses.triplet_hinges(anchor, positive, negative, margin=0.5)
    np.testing.assert_allclose(hinges, [0.0, 0.0, 1.7], atol=1e-6)
    loss = losses.triplet_loss(anchor, positive, negative, margin=0.5)
    np.testing.assert_allclose(loss, 1.7 / 3, atol=1e-6)


@pytest.mark.parametrize("margin", [0.0, 0.1, 3.0])
def test_a_positive_no_nearer_than_its_negative_costs_the_margin(margin):
    embeddings = units(10, 20, 30)
    loss = losses.triplet_loss(embeddings, units(0, 0, 0), units(0, 0, 0), margin=margin)
    np.testing.assert_allclose(loss, margin, atol=1e-6)


def test_the_best_triplets_cost_nothing_and_pull_nowhere():
    anchor, negative = tf.Variable(units(0, 90)), tf.Variable(units(180, 270))
    with tf.GradientTape() as tape:
        loss = losses.triplet_loss(anchor, units(0, 90), negative, margin=0.1)
    assert loss == 0
    for gradient in tape.gradient(loss, [anchor, negative]):
        np.testing.assert_array_equal(gradient, np.zeros((2, 2)))


def test_gradient_of_equation_1_by_hand():
    anchor, positive, negative = units(0), units(90), units(60)
    variables = [tf.Variable(value) for value in (anchor, positive, negative)]
    with tf.GradientTape() as tape:
        loss = losses.triplet_loss(*variables, margin=0.1)
    # d/da (|a-p|^2 - |a-n|^2) = 2 (n - p); d/dp = 2 (p - a); d/dn = 2 (a - n).
    expected = [2 * (negative - positive), 2 * (positive - anchor), 2 * (anchor - negative)]
    for found, wanted in zip(tape.gradient(loss, variables), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_semi_hard_choice_by_hand():
    # The positive lies 30 degrees off. Of the candidates at 20, 40, 90 and 35 degrees, that at 20 is nearer
    # than the positive, and 35 is the closest of the rest; where 35 must not serve, 40 is.
    anchor, positive, candidates = units(0, 0), units(30, 30), units(20, 40, 90, 35)
    is_negative = np.array([[True] * 4, [True, True, True, False]])
    chosen = losses.semi_hard_negatives(anchor, positive, candidates, is_negative)
    assert chosen.dtype == tf.int64
    np.testing.assert_array_equal(chosen, [3, 1])


def test_the_farthest_serves_where_none_is_farther_than_the_positive():
    anchor, positive, candidates = units(0, 0), units(90, 90), units(20, 40, 60)
    is_negative = np.array([[True, True, True], [True, True, False]])
    chosen = losses.semi_hard_negatives(anchor, positive, candidates, is_negative)
    np.testing.assert_array_equal(chosen, [2, 1])


def test_a_negative_as_far_as_the_positive_is_not_farther():
    axes = np.eye(3, dtype=F32)
    # Both at squared distance 2, exactly; the fallback takes the candidate at 4.
    chosen = losses.semi_hard_negatives(axes[:1], axes[1:2], np.stack([axes[2], -axes[0]]), [[True, True]])
    np.testing.assert_array_equal(chosen, [1])
    loss = mined_loss(axes[:1], axes[1:2], axes[2:], [[True]], margin=0.1)
    np.testing.assert_allclose(loss, 0.1, atol=1e-6)


@pytest.mark.parametrize("dim", [2, 128, 2048])
def test_rounding_makes_no_negative_farther(dim):
    rng = np.random.default_rng(dim)
    anchor = tf.math.l2_normalize(rng.normal(size=(64, dim)).astype(F32), axis=1)
    positive = tf.math.l2_normalize(anchor + 0.5 * rng.normal(size=(64, dim)).astype(F32) / dim**0.5, axis=1)
    exact = losses.row_squared_distances(anchor, positive)
    rounded = tf.linalg.diag_part(losses.squared_distances(anchor, positive))
    assert 0.1 < np.mean(rounded > exact) < 0.9, "no rounding, nothing tested"
    # Each anchor's own positive as its candidate, then its antipode.
    is_negative = np.concatenate([np.eye(64, dtype=bool)] * 2, axis=1)
    chosen = losses.semi_hard_negatives(anchor, positive, tf.concat([positive, -anchor], 0), is_negative)
    np.testing.assert_array_equal(chosen, np.arange(64, 128))


def test_semi_hard_loss_by_hand():
    anchor, positive, candidates = units(0, 90), units(60, 90), units(90, 180)
    # Row 0: the positive at 2 - 2 cos 60 = 1, the closest farther at 2: 1 - 2 + 1.5 = .5.
    # Row 1 may use the second candidate only: 0 - 2 + 1.5 < 0.
    is_negative = np.array([[True, True], [False, True]])
    loss = mined_loss(anchor, positive, candidates, is_negative, margin=1.5)
    np.testing.assert_allclose(loss, 0.25, atol=1e-6)
    # Row 0 keeps its own negative, at 30 degrees and 2 - 2 cos 30; row 1 counts thrice.
    own = 1 - (2 - 2 * np.cos(np.radians(30))) + 2.5
    loss = losses.semi_hard_triplet_loss(
        anchor, positive, units(30, 0), candidates, is_negative,
        margin=2.5, is_mined=np.array([False, True]), weights=np.array([1.0, 3.0]),
    )  # fmt: skip
    np.testing.assert_allclose(loss, (own + 3 * 0.5) / 2, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_rows=st.integers(1, 12),
    num_candidates=st.integers(1, 12),
    dim=st.integers(2, 9),
    density=st.sampled_from([0.0, 0.2, 0.8, 1.0]),
    margin=st.sampled_from([0.0, 0.1, 1.0]),
)
def test_semi_hard_agrees_with_the_double_loop(seed, num_rows, num_candidates, dim, density, margin):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(3 * num_rows + num_candidates, dim))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(F32)
    anchor, positive, negative, candidates = np.split(rows, [num_rows, 2 * num_rows, 3 * num_rows])
    is_negative = rng.random((num_rows, num_candidates)) < density
    expected = oracle_choice(anchor, positive, candidates, is_negative)
    found = losses.semi_hard_negatives(anchor, positive, candidates, is_negative).numpy()
    for row, column in enumerate(expected):
        assert found[row] == (0 if column is None else column)
    is_mined, weights = rng.random(num_rows) < 0.7, rng.integers(0, 3, num_rows).astype(F32)
    arrays = (anchor, positive, negative, candidates, is_negative)
    loss = losses.semi_hard_triplet_loss(*arrays, margin=margin, is_mined=is_mined, weights=weights)
    np.testing.assert_allclose(loss, oracle_loss(*arrays, margin, is_mined, weights), atol=5e-6)
    everything = {"is_mined": np.ones(num_rows, bool), "weights": np.ones(num_rows, F32)}
    loss = losses.semi_hard_triplet_loss(*arrays, margin=margin)
    np.testing.assert_allclose(loss, oracle_loss(*arrays, margin, **everything), atol=5e-6)


# What tensorflow-addons answered, and tests/conformance/semi_hard_triplet_loss.py how it was asked.

GOLDEN = np.load(pathlib.Path(__file__).parent / "conformance" / "semi_hard_triplet_loss.npz")


def golden(case):
    keys = ("embeddings", "labels", "margin", "loss", "gradient")
    return [GOLDEN[f"{case}.{key}"] for key in keys]


def loss_of_all_pairs(embeddings, labels, margin, *, by):
    """Every ordered pair of a class as anchor and positive, every example as candidate; loss and gradient."""
    anchors, positives = np.nonzero((labels[:, None] == labels) & ~np.eye(len(labels), dtype=bool))
    if by == "recordings":
        is_negative = losses.allowed_negatives(labels[anchors], labels)
    else:
        recordings = np.arange(len(labels))
        is_negative = losses.allowed_negatives(
            recordings[anchors], recordings, labels[anchors], labels[:, None]
        )
    variable = tf.Variable(embeddings)
    with tf.GradientTape() as tape:
        anchor, positive = tf.gather(variable, anchors), tf.gather(variable, positives)
        loss = mined_loss(anchor, positive, variable, is_negative, margin=margin)
    return loss.numpy(), tf.convert_to_tensor(tape.gradient(loss, variable)).numpy()


@pytest.mark.parametrize("by", ["recordings", "labels"])
@pytest.mark.parametrize("case", ["clouds", "wide_margin", "no_classes_to_see", "opposite_positive"])
def test_tensorflow_addons_agrees(case, by):
    embeddings, labels, margin, expected_loss, expected_gradient = golden(case)
    assert np.abs(expected_gradient).max() > 0.05, "no gradient, nothing compared"
    loss, gradient = loss_of_all_pairs(embeddings, labels, margin, by=by)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-5)


def test_where_tensorflow_addons_differs_it_does_as_the_docstring_says():
    embeddings, labels, margin, theirs, _ = golden("no_negative")
    distances = [np.sum((a - b) ** 2) for a in embeddings for b in embeddings if a is not b]
    np.testing.assert_allclose(theirs, np.sum(distances) / 12 + margin, rtol=1e-5)
    ours, gradient = loss_of_all_pairs(embeddings, labels, margin, by="labels")
    assert (ours, np.abs(gradient).max()) == (0, 0)

    embeddings, labels, margin, theirs, _ = golden("no_positive")
    assert np.isnan(theirs)
    assert loss_of_all_pairs(embeddings, labels, margin, by="labels")[0] == 0

    *squared, loss_of_squared, _ = golden("clouds")
    *plain, loss_of_plain, _ = golden("plain_distance")
    np.testing.assert_array_equal(squared[0], plain[0])
    assert abs(loss_of_plain - loss_of_squared) > 0.005


# Which negatives may serve, which rows are mined, what they count.


def test_allowed_negatives_by_hand():
    anchor_label, negative_labels = [7, -2, 8], [[7, -1], [-1, -1], [8, 9]]
    found = losses.allowed_negatives(*map(np.array, ([1, 1, 2], [1, 2, 3], anchor_label, negative_labels)))
    # Row 0 shares recording 1 with the first, and the second, which nobody labelled, may be of its class 7;
    # row 1 shares recording 1, too, and has no class; row 2 shares recording 2 with the second and class 8
    # with the third. Padding is no class.
    np.testing.assert_array_equal(found, [[False, False, True], [False, True, True], [True, False, False]])
    found = losses.allowed_negatives(np.array([1, 2]), np.array([2, 3, 1]))
    np.testing.assert_array_equal(found, [[True, True, False], [False, True, True]])


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_rows=st.integers(0, 6),
    num_candidates=st.integers(0, 6),
    max_labels=st.integers(0, 4),
    compiled=st.booleans(),
)
def test_allowed_negatives_agree_with_sets_of_labels(seed, num_rows, num_candidates, max_labels, compiled):
    rng = np.random.default_rng(seed)
    anchor_recording, negative_recording = rng.integers(0, 3, num_rows), rng.integers(0, 3, num_candidates)
    anchor_label = rng.choice([-2, 2, 3, 2**62 - 1], num_rows)
    negative_labels = rng.choice([-1, 2, 3, 2**62 - 1], (num_candidates, max_labels))
    arrays = (anchor_recording, negative_recording, anchor_label, negative_labels)
    function = tf.function(losses.allowed_negatives) if compiled else losses.allowed_negatives
    np.testing.assert_array_equal(function(*map(tf.constant, arrays)), oracle_allowed(*arrays))


@pytest.mark.parametrize("missing", ["anchor_label", "negative_labels"])
def test_one_kind_of_labels_without_the_other_is_refused(missing):
    labels = {"anchor_label": np.array([1]), "negative_labels": np.array([[1]])}
    del labels[missing]
    with pytest.raises(ValueError, match=f"go together, got no {missing}; give both or none"):
        losses.allowed_negatives(np.array([1]), np.array([2]), **labels)


def test_rows_that_are_not_mined_cost_what_the_plain_loss_says():
    rng = np.random.default_rng(0)
    rows = tf.math.l2_normalize(rng.normal(size=(32, 8)).astype(F32), axis=1)
    variables = [tf.Variable(part) for part in tf.split(rows, 4)]
    anchor, positive, negative, candidates = variables
    weights = rng.uniform(0, 2, 8).astype(F32)
    # The candidates may serve no row, or every row: neither has a say.
    for is_negative in (np.zeros((8, 8), bool), np.ones((8, 8), bool)):
        with tf.GradientTape(persistent=True) as tape:
            found = losses.semi_hard_triplet_loss(
                *variables, is_negative, margin=1.0, is_mined=np.zeros(8, bool), weights=weights
            )
            wanted = losses.triplet_loss(anchor, positive, negative, margin=1.0, weights=weights)
        np.testing.assert_allclose(found, wanted, atol=1e-6)
        gradients = [tape.gradient(loss, variables[:3]) for loss in (found, wanted)]
        for one, other in zip(*gradients, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)
        assert not tf.convert_to_tensor(tape.gradient(found, candidates)).numpy().any()


def test_weights_scale_what_a_triplet_contributes_whatever_the_others_weigh():
    triplets = (units(0, 0), units(90, 60), units(60, 60))
    hinges = losses.triplet_hinges(*triplets, margin=0.5)
    np.testing.assert_allclose(hinges, [1.5, 0.5], atol=1e-6)
    for weights, expected in (([1, 1], 1.0), ([2, 1], 1.75), ([2, 2], 2.0), ([0, 1], 0.25), ([0, 0], 0.0)):
        loss = losses.triplet_loss(*triplets, margin=0.5, weights=np.array(weights, F32))
        np.testing.assert_allclose(loss, expected, atol=1e-6)
    empty = [part[:0] for part in triplets]
    assert losses.triplet_loss(*empty, margin=0.5, weights=np.zeros(0, F32)) == 0


def test_a_column_of_weights_or_marks_is_refused():
    triplets, column = (units(0, 0), units(90, 60), units(60, 60)), np.ones((2, 1), F32)
    message = r" must be \(batch,\), got shape \(2, 1\); squeeze the last axis"
    with pytest.raises(ValueError, match="weights" + message):
        losses.triplet_loss(*triplets, margin=0.5, weights=column)
    is_negative = np.ones((2, 2), bool)
    with pytest.raises(ValueError, match="is_mined" + message):
        losses.semi_hard_triplet_loss(*triplets, triplets[2], is_negative, margin=0.5, is_mined=column > 0)


def test_a_row_without_a_negative_counts_as_zero():
    # 1 - 2 + 1.5 where the candidate serves.
    anchor, positive, candidates = units(0, 0), units(60, 60), units(90)
    served = mined_loss(anchor[:1], positive[:1], candidates, [[True]], margin=1.5)
    np.testing.assert_allclose(served, 0.5, atol=1e-6)
    loss, gradients = loss_and_gradients(anchor, positive, candidates, [[True], [False]], margin=1.5)
    np.testing.assert_allclose(loss, 0.25, atol=1e-6)
    np.testing.assert_array_equal(gradients[0][1], [0, 0])
    assert np.abs(gradients[0][0]).max() > 0


def test_a_batch_of_one_recording_has_no_loss_and_no_gradient():
    embeddings = units(0, 10, 200)
    loss, gradients = loss_and_gradients(embeddings, units(50, 60, 70), embeddings, np.zeros((3, 3), bool))
    assert loss == 0
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, np.zeros((3, 2)))


def test_equal_embeddings_cost_the_margin_with_finite_gradients():
    embeddings = units(33, 33, 33, 33)
    loss, gradients = loss_and_gradients(embeddings, embeddings, embeddings, ~np.eye(4, dtype=bool))
    np.testing.assert_allclose(loss, 0.1, atol=1e-6)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("is_negative", [True, False])
def test_a_batch_of_one(is_negative):
    loss, gradients = loss_and_gradients(units(0), units(90), units(60), [[is_negative]])
    # 2 - 1 + .1, or no negative at all.
    np.testing.assert_allclose(loss, 1.1 if is_negative else 0.0, atol=1e-6)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize(("num_rows", "num_candidates"), [(0, 0), (0, 3), (3, 0)])
def test_an_empty_batch_has_loss_zero(num_rows, num_candidates):
    rows, candidates = np.ones((num_rows, 4), F32), np.ones((num_candidates, 4), F32)
    is_negative = np.ones((num_rows, num_candidates), bool)
    loss, gradients = loss_and_gradients(rows, rows, candidates, is_negative)
    assert loss == 0
    for gradient, shape in zip(gradients, (rows.shape, rows.shape, candidates.shape), strict=True):
        np.testing.assert_array_equal(gradient, np.zeros(shape))
    assert losses.triplet_loss(rows[:0], rows[:0], rows[:0], margin=0.1) == 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_comes_near(dtype):
    rng = np.random.default_rng(0)
    rows = tf.math.l2_normalize(rng.normal(size=(24, 16)).astype(F32), axis=1)
    anchor, positive, candidates = tf.split(rows, 3)
    is_negative = ~np.eye(8, dtype=bool)
    halves = [tf.cast(part, dtype) for part in (anchor, positive, candidates)]
    found = mined_loss(*halves, is_negative, margin=1.0)
    assert found.dtype == dtype
    exact = mined_loss(anchor, positive, candidates, is_negative, margin=1.0)
    np.testing.assert_allclose(tf.cast(found, tf.float32), exact, rtol=0.05)


def test_no_gradient_flows_through_the_choice():
    anchor, positive, candidates = units(0, 20), units(30, 80), units(35, 90, 170)
    is_negative = np.ones((2, 3), bool)
    chosen = losses.semi_hard_negatives(anchor, positive, candidates, is_negative).numpy()
    _, found = loss_and_gradients(anchor, positive, candidates, is_negative, margin=1.0)
    variables = [tf.Variable(anchor), tf.Variable(positive), tf.Variable(candidates)]
    with tf.GradientTape() as tape:  # with the choice as a constant
        loss = losses.triplet_loss(variables[0], variables[1], tf.gather(variables[2], chosen), margin=1.0)
    for gradient, wanted in zip(found, tape.gradient(loss, variables), strict=True):
        np.testing.assert_allclose(gradient, tf.convert_to_tensor(wanted), atol=1e-6)
    unchosen = sorted(set(range(3)) - set(chosen.tolist()))
    assert unchosen, "every candidate was chosen, nothing tested"
    np.testing.assert_array_equal(found[2][unchosen], np.zeros((len(unchosen), 2)))


def test_not_a_number_is_not_hidden():
    broken = np.array([[np.nan, 0]], F32)
    loss = mined_loss(broken, broken, broken, [[True]], margin=0.1)
    assert np.isnan(loss)
    assert np.isnan(losses.triplet_loss(broken, broken, broken, margin=0.1))
