"""Tests of tfsound.networks on two devices: a step of training is that on one."""

import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest

# A step of plain SGD with rate 1 moves the weights by the gradient of the loss.
TWO_DEVICES = """
import pickle, sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import functools, keras
from keras.src.applications.densenet import DenseNet
from tfsound import models, networks, training

# One layer a block, which compiles in seconds.
keras.applications.DenseNet121 = functools.partial(DenseNet, [1, 1, 1, 1])
with open(sys.argv[1], "rb") as file:
    name, options, batch = pickle.load(file)
results = []
two = training.strategy()
assert two.num_replicas_in_sync == 2
for strategy in (tf.distribute.OneDeviceStrategy("CPU:0"), two):
    with strategy.scope():
        keras.utils.set_random_seed(1)
        encoder = networks.build_encoder(name, **options)
        model = models.ClassifierModel(encoder, batch["labels"].shape[1])
        model.compile(optimizer=keras.optimizers.SGD(1.0), jit_compile=False)
    before = model.get_weights()
    loss = model.fit(tf.data.Dataset.from_tensors(batch), shuffle=False, verbose=0).history["loss"][0]
    spread = max(
        float(abs(a.numpy() - b.numpy()).max())
        for a, b in (variable.value.values for variable in model.weights)
    ) if strategy is two else 0.0
    results.append((loss, before, model.get_weights(), spread))
with open(sys.argv[2], "wb") as file:
    pickle.dump(results, file)
"""


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("esresnet_small", {"input_shape": (48, 96), "num_bands": 3, "num_channels": 2}),
        ("densenet", {"input_shape": (33, 96), "num_bands": 3}),
    ],
)
def test_a_step_on_two_devices_is_that_on_one(tmp_path, name, options):
    rng = np.random.default_rng(0)
    batch = {
        "log_mel": rng.normal(size=(8, *options["input_shape"])).astype(np.float32),
        "labels": rng.random((8, 3)).astype(np.float32),
    }
    (tmp_path / "in").write_bytes(pickle.dumps((name, options, batch)))
    done = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES, tmp_path / "in", tmp_path / "out"],
        capture_output=True, text=True, cwd=pathlib.Path(__file__).parent, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    one, two = pickle.loads((tmp_path / "out").read_bytes())
    assert two[3] == 0, "the replicas have drifted apart"
    np.testing.assert_allclose(two[0], one[0], rtol=1e-4)
    steps = [np.concatenate([(b - a).ravel() for a, b in zip(*run[1:3], strict=True)]) for run in (one, two)]
    assert np.linalg.norm(steps[0]) > 1e-2
    assert np.linalg.norm(steps[1] - steps[0]) < 1e-2 * np.linalg.norm(steps[0])
