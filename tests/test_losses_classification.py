"""Tests of tfsound.losses.classification: by hand, against NumPy, soft labels, what is not known."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfsound import losses


def loss_and_gradient(logits, labels, known=None, **options):
    """The loss, and its gradient by the logits."""
    logits = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = losses.classification_loss(logits, labels, known, **options)
    return float(loss), tape.gradient(loss, logits).numpy()


def oracle(logits, labels, known, *, multi_label):
    """The mean cross-entropy of what is known, in float64; 0 where nothing is."""
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels, np.float64)
    if multi_label:
        known = np.broadcast_to(known if known.ndim == 2 else known[:, None], labels.shape)
        entropies = labels * np.logaddexp(0, -logits) + (1 - labels) * np.logaddexp(0, logits)
    else:
        log_probs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        entropies = -(labels * log_probs).sum(axis=1)
    return entropies[known].mean() if known.any() else 0.0


def test_one_half_for_every_class_costs_ln_2_of_independent_and_ln_c_of_exclusive_ones():
    logits, labels = np.zeros((2, 4), np.float32), np.eye(4, dtype=np.float32)[[1, 3]]
    assert loss_and_gradient(logits, labels)[0] == pytest.approx(np.log(2))
    assert loss_and_gradient(logits, labels, multi_label=False)[0] == pytest.approx(np.log(4))


def test_a_window_by_hand():
    # p = sigmoid(ln 3) = 3/4 and sigmoid(0) = 1/2: -ln(3/4) for a label, -ln(1/2) for none, their mean.
    logits = np.asarray([[np.log(3), 0.0]], np.float32)
    expected = -(np.log(3 / 4) + np.log(1 / 2)) / 2
    assert loss_and_gradient(logits, [[1.0, 0.0]])[0] == pytest.approx(expected)
    # p = softmax = (3/4, 1/4).
    assert loss_and_gradient(logits, [[0.0, 1.0]], multi_label=False)[0] == pytest.approx(-np.log(1 / 4))


@st.composite
def cases(draw):
    num_rows, num_classes = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    shape = (num_rows, num_classes)
    multi_label = draw(st.booleans())
    values = st.floats(-50, 50, width=32)
    known_shape = draw(st.sampled_from([shape, shape[:1]])) if multi_label else shape[:1]
    return (
        draw(hnp.arrays(np.float32, shape, elements=values)),
        draw(hnp.arrays(np.float32, shape, elements=st.floats(0, 1, width=32))),
        draw(hnp.arrays(bool, known_shape)),
        multi_label,
    )


@given(cases())
@settings(max_examples=200, deadline=None)
def test_it_agrees_with_numpy(case):
    logits, labels, known, multi_label = case
    loss, gradient = loss_and_gradient(logits, labels, known, multi_label=multi_label)
    assert loss == pytest.approx(oracle(logits, labels, known, multi_label=multi_label), rel=1e-5, abs=1e-6)
    assert loss >= 0
    assert np.isfinite(gradient).all()
    assert not gradient[~known].any(), "what is not known has a say"


@given(cases())
@settings(max_examples=50, deadline=None)
def test_the_gradient_is_that_of_the_loss_for_soft_labels_too(case):
    logits, labels, known, multi_label = case
    logits = np.clip(logits, -5, 5)
    _, gradient = loss_and_gradient(logits, labels, known, multi_label=multi_label)
    step = 1e-5
    for index in np.ndindex(*logits.shape):
        moved = np.zeros(logits.shape)
        moved[index] = step
        ends = [
            oracle(logits.astype(np.float64) + sign * moved, labels, known, multi_label=multi_label)
            for sign in (1, -1)
        ]
        assert gradient[index] == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-5)


@pytest.mark.parametrize("multi_label", [True, False])
def test_what_is_not_known_has_no_say_whatever_it_holds(multi_label):
    logits = np.asarray([[1.0, -2.0], [np.nan, np.inf]], np.float32)
    labels = np.asarray([[1.0, 0.0], [np.nan, np.nan]], np.float32)
    known = np.asarray([True, False])
    found, gradient = loss_and_gradient(logits, labels, known, multi_label=multi_label)
    assert found == pytest.approx(loss_and_gradient(logits[:1], labels[:1], multi_label=multi_label)[0])
    np.testing.assert_array_equal(gradient[1], [0, 0])


@pytest.mark.parametrize("multi_label", [True, False])
@pytest.mark.parametrize("num_rows", [0, 3])
def test_a_batch_of_which_nothing_is_known_costs_nothing(multi_label, num_rows):
    logits, labels = np.ones((num_rows, 2), np.float32), np.ones((num_rows, 2), np.float32)
    found, gradient = loss_and_gradient(logits, labels, np.zeros(num_rows, bool), multi_label=multi_label)
    assert found == 0
    np.testing.assert_array_equal(gradient, np.zeros((num_rows, 2)))


def test_the_sum_may_be_divided_by_another_number():
    logits, labels = np.zeros((2, 3), np.float32), np.zeros((2, 3), bool)
    assert loss_and_gradient(logits, labels, num_known=tf.constant(12.0))[0] == pytest.approx(np.log(2) / 2)
    assert loss_and_gradient(logits, labels, num_known=tf.constant(0.0))[0] == 0


def test_half_precision_is_computed_in_float32():
    logits = tf.constant([[9.0, -9.0]], tf.bfloat16)
    loss = losses.classification_loss(logits, tf.constant([[1, 0]]))
    assert loss.dtype == tf.float32
    assert float(loss) == pytest.approx(np.log1p(np.exp(-9)), rel=1e-4)


@pytest.mark.parametrize(
    ("logits", "labels", "known", "multi_label", "message"),
    [
        ((2, 1), (2, 3), None, True, r"must both be \(batch, classes\), got \(2, 1\) and \(2, 3\)"),
        ((2, 3), (2, 3), (2, 3, 1), True, r"known must be bool, \(batch,\) or \(batch, classes\), got shape"),
        ((2, 3), (2, 3), (2, 3), False, r"known must be bool, \(batch,\), as classes exclude each other"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(logits, labels, known, multi_label, message):
    known = None if known is None else np.ones(known, bool)
    with pytest.raises(ValueError, match=message):
        losses.classification_loss(
            np.zeros(logits, np.float32), np.zeros(labels, np.float32), known, multi_label=multi_label
        )
