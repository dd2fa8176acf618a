"""A step of training on one device and on two, which a process with two takes and a test compares."""

from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfsound import training


class Step(NamedTuple):
    """What training and evaluation report; {a weight: its values} before and after the training."""

    history: dict
    evaluated: dict
    before: dict
    after: dict
    spread: float  # how far the devices' own copies of a weight are apart


def strategies():
    """One of the two devices of this process, and both."""
    both = training.strategy()
    assert training.strategy() is both
    return tf.distribute.OneDeviceStrategy("CPU:0"), both


def take_step(model, data, *, evaluate=True):
    """Trains by plain SGD with rate 1, which moves the weights by the gradient of the loss."""
    strategy = model.distribute_strategy
    with strategy.scope():
        model.compile(optimizer=keras.optimizers.SGD(1.0), jit_compile=False)
    before = _weights_of(model)
    history = model.fit(data, shuffle=False, verbose=0).history
    evaluated = model.evaluate(data, verbose=0, return_dict=True) if evaluate else {}
    copies = [strategy.experimental_local_results(variable.value) for variable in model.weights]
    assert {len(each) for each in copies} == {strategy.num_replicas_in_sync}
    spread = max(float(abs(each[0].numpy() - each[-1].numpy()).max()) for each in copies)
    return Step(history, evaluated, before, _weights_of(model), spread)


def _weights_of(model):
    """By number and path: two encoders of one architecture have the same paths."""
    return {f"{number} {variable.path}": variable.numpy() for number, variable in enumerate(model.weights)}


def require_same_step(one, two):
    """The step on two devices is that on one, and leaves them with the same weights."""
    for found, expected in ((two.history, one.history), (two.evaluated, one.evaluated)):
        assert set(found) == set(expected)
        for name in expected:
            np.testing.assert_allclose(found[name], expected[name], atol=1e-5, err_msg=name)
    assert set(two.before) == set(one.before)
    for path, before in one.before.items():
        np.testing.assert_array_equal(two.before[path], before, err_msg=path)
        np.testing.assert_allclose(two.after[path], one.after[path], atol=1e-5, err_msg=path)
    assert two.spread == 0, "the replicas drifted apart"


def largest_gradient(step):
    """Of any weight; statistics of batch norm have none."""
    paths = [path for path in step.before if "/moving_" not in path]
    return max(np.abs(step.before[path] - step.after[path]).max() for path in paths)
