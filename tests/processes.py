"""Functions of the tests in a process of their own: on several devices, or until SIGKILL."""

import pathlib
import pickle
import signal
import subprocess
import sys
import tempfile

# Devices are set before TensorFlow does anything else, and so before the function is imported.
_PROGRAM = """
import pickle, sys
import tensorflow as tf
num_devices, call, result = sys.argv[1:]
cpu = tf.config.list_physical_devices("CPU")[0]
devices = [tf.config.LogicalDeviceConfiguration()] * int(num_devices)
tf.config.set_logical_device_configuration(cpu, devices)
import tiny
from tfsound import networks, training
assert training.strategy().num_replicas_in_sync == int(num_devices)
networks.ENCODERS["tiny"] = tiny.encoder
with open(call, "rb") as file:
    function, arguments = pickle.load(file)
returned = function(*arguments)
with open(result, "wb") as file:
    pickle.dump(returned, file)
"""


def _run(function, arguments, folder, *, num_devices=1):
    call, result = pathlib.Path(folder, "call.pickle"), pathlib.Path(folder, "result.pickle")
    call.write_bytes(pickle.dumps((function, arguments)))
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(num_devices), str(call), str(result)],
        cwd=pathlib.Path(__file__).parent, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    return done, result


def on_two_devices(function, *arguments):
    """What a module's function returns in a process with two logical CPU devices and the tiny encoder."""
    return on_devices(2, function, *arguments)


def on_devices(num_devices, function, *arguments):
    """The same, with so many devices."""
    with tempfile.TemporaryDirectory() as folder:
        done, result = _run(function, arguments, folder, num_devices=num_devices)
        assert done.returncode == 0, done.stderr
        return pickle.loads(result.read_bytes())


def require_killed(function, *arguments):
    """Calls a module's function in a process that knows the tiny encoder, and must be killed by SIGKILL."""
    with tempfile.TemporaryDirectory() as folder:
        done, _ = _run(function, arguments, folder)
        assert done.returncode == -signal.SIGKILL, f"ended with {done.returncode}: {done.stderr}"
