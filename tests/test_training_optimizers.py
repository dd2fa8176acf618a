"""Tests of tfsound.training.optimizers: rates by hand, a penalty against PyTorch's rule in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from processes import on_two_devices

from tfsound import training

SETTINGS = {
    "learning_rate": 0.5, "num_steps": 10, "learning_rate_decay": "exponential", "steps_per_epoch": 4,
    "cold_epochs": 2, "warm_up_epochs": 3, "decay_per_epoch": 0.5,
}  # fmt: skip


def rates(schedule, steps):
    return [float(schedule(tf.constant(step, tf.int64))) for step in steps]


def test_the_rate_of_each_epoch_by_hand():
    schedule = training.WarmUp(1.0, 10, cold_epochs=2, warm_up_epochs=3, decay_per_epoch=0.5)
    assert rates(schedule, range(0, 80, 10)) == pytest.approx([0.1, 0.1, 0.4, 0.7, 1.0, 1.0, 0.5, 0.25])
    # The same throughout an epoch.
    assert rates(schedule, [9, 19, 20, 29, 30]) == pytest.approx([0.1, 0.1, 0.4, 0.4, 0.7])


def test_the_defaults_are_those_of_esresnet():
    schedule = training.WarmUp(2.5e-4, 1)
    found = rates(schedule, [0, 4, 5, 14, 15, 16, 299])
    factors = [0.1, 0.1, 0.19, 1.0, 1.0, 0.985, 0.985**284]
    assert found == pytest.approx([2.5e-4 * factor for factor in factors], rel=1e-4)
    again = training.WarmUp.from_config(schedule.get_config())
    assert rates(again, range(20)) == rates(schedule, range(20))


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [((0, 0), [1.0, 0.5, 0.25]), ((1, 0), [0.1, 1.0, 0.5]), ((0, 1), [1.0, 1.0, 0.5])],
)
def test_without_cold_epochs_or_warming_up(epochs, expected):
    schedule = training.WarmUp(1.0, 1, cold_epochs=epochs[0], warm_up_epochs=epochs[1], decay_per_epoch=0.5)
    assert rates(schedule, range(3)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cold_epochs": -1}, r"at least 0 and decay_per_epoch in \(0, 1\], got -1, 10 and 0.985"),
        ({"decay_per_epoch": 0.0}, "got 5, 10 and 0.0"),
        ({"steps_per_epoch": 0}, "steps_per_epoch must be at least 1, got 0"),
    ],
)
def test_schedules_that_do_not_exist(options, message):
    with pytest.raises(ValueError, match=message):
        training.WarmUp(**({"learning_rate": 1.0, "steps_per_epoch": 1} | options))


@pytest.mark.parametrize(("decay", "expected"), [("constant", 0.5), ("cosine", 0.25), ("exponential", 0.05)])
def test_the_schedule_that_settings_ask_for(decay, expected):
    schedule = training.learning_rate_schedule(SETTINGS | {"learning_rate_decay": decay})
    found = schedule if decay == "constant" else float(schedule(5))
    assert found == pytest.approx(expected)


def test_runs_without_epochs_have_two_to_choose_from():
    settings = {name: SETTINGS[name] for name in ("learning_rate", "num_steps", "learning_rate_decay")}
    with pytest.raises(ValueError, match="must be 'constant' or 'cosine', got 'exponential'"):
        training.learning_rate_schedule(settings)


def reference(weights, gradients, *, penalty, rate, epsilon=1e-7):
    """Adam as Kingma and Ba have it, on gradients with that of the penalty, as in PyTorch."""
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    for step, gradient in enumerate(gradients, 1):
        gradient = gradient + penalty * weights
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        rate_here = rate * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        weights = weights - rate_here * first / (np.sqrt(second) + epsilon)
    return weights


def test_the_penalty_goes_through_the_moments():
    rng = np.random.default_rng(0)
    weights, gradients = rng.normal(size=(4, 3)), rng.normal(size=(6, 4, 3))
    optimizer = training.make_optimizer(
        SETTINGS | {"learning_rate_decay": "constant", "learning_rate": 0.1, "weight_decay": 0.3}
    )
    variable = keras.Variable(weights, dtype="float32")
    optimizer.build([variable])
    for gradient in gradients:
        optimizer.apply_gradients([(tf.constant(gradient, tf.float32), variable)])
    expected = reference(weights, gradients, penalty=0.3, rate=0.1)
    np.testing.assert_allclose(variable.numpy(), expected, atol=1e-5)
    assert np.abs(expected - reference(weights, gradients, penalty=0.0, rate=0.1)).max() > 0.01
    again = training.AdamWithPenalty.from_config(optimizer.get_config())
    assert again.penalty == 0.3


def test_without_a_penalty_it_is_adam():
    assert type(training.make_optimizer(SETTINGS | {"weight_decay": 0.0})) is keras.optimizers.Adam
    with pytest.raises(ValueError, match="weight_decay must be at least 0 and finite, got nan"):
        training.make_optimizer(SETTINGS | {"weight_decay": float("nan")})


def penalised_steps(num_steps):
    """The kernel that a few steps under all devices of this process leave, on one global batch."""
    with training.strategy().scope():
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        settings = SETTINGS | {"learning_rate": 0.1, "weight_decay": 0.5}
        model.compile(optimizer=training.make_optimizer(settings), loss="mse", jit_compile=False)
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(8, 3)).astype("float32"), rng.normal(size=(8, 2)).astype("float32")
    data = tf.data.Dataset.from_tensors((inputs, targets)).repeat(num_steps)
    model.fit(data, shuffle=False, verbose=0)
    return keras.ops.convert_to_numpy(model.layers[0].kernel)


def test_two_devices_have_the_penalty_once():
    np.testing.assert_allclose(on_two_devices(penalised_steps, 12), penalised_steps(12), atol=1e-5)
