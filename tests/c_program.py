"""An export run by a C program that is linked to TensorFlow's C library alone, which is in its wheel."""

import functools
import pathlib
import shutil
import subprocess
import tempfile

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

_SOURCE = pathlib.Path(__file__).parent / "conformance" / "run_export.c"


@functools.cache
def _program():
    """The path of the program, compiled once a process."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler is on the path (cc, gcc, clang)")
    path = pathlib.Path(tempfile.mkdtemp()) / "run_export"
    folder = tf.sysconfig.get_lib()
    libraries = [f"{folder}/libtensorflow_cc.so.2", f"{folder}/libtensorflow_framework.so.2"]
    command = [
        compiler, "-std=c11", "-Wall", "-Werror", f"-I{tf.sysconfig.get_include()}", str(_SOURCE), *libraries,
        f"-Wl,-rpath,{folder}", "-o", str(path),
    ]  # fmt: skip
    subprocess.run(command, check=True)
    return path


def tensor_names(version_folder, signature):
    """The names in the graph of a signature's inputs and outputs, as `saved_model_cli show` lists them."""
    with open(pathlib.Path(version_folder) / "saved_model.pb", "rb") as file:
        model = saved_model_pb2.SavedModel.FromString(file.read())
    definition = model.meta_graphs[0].signature_def[signature]
    return (
        {name: tensor.name for name, tensor in definition.inputs.items()},
        {name: tensor.name for name, tensor in definition.outputs.items()},
    )


def run(version_folder, signature, values, output):
    """What a signature of one float32 input gives as `output`, flat. Raises RuntimeError with its reason."""
    inputs, outputs = tensor_names(version_folder, signature)
    (input_name,) = inputs.values()
    values = np.ascontiguousarray(values, np.float32)
    done = subprocess.run(
        [_program(), version_folder, input_name, outputs[output], *map(str, values.shape)],
        input=values.tobytes(), capture_output=True,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr.decode())
    return np.frombuffer(done.stdout, np.float32)
