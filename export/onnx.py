"""ONNX: converts a graph, and runs it in ONNX Runtime. Spectra are matrix products there, float32."""

import logging
from collections.abc import Callable

import numpy as np
import tensorflow as tf

_EXTRA = 'ONNX needs the packages of the extra "onnx"; pip install "tfsound[onnx]"'
# Of 2022: runtimes of browsers and phones have it.
_OPSET = 17


def require_packages() -> None:
    """Raises: RuntimeError without the packages of the extra."""
    try:
        import onnxruntime  # noqa: F401
        import tf2onnx.convert  # noqa: F401
    except ImportError as error:
        raise RuntimeError(f"{error.name} is not installed: {_EXTRA}.") from error


def convert(function: tf.types.experimental.PolymorphicFunction) -> bytes:
    """A model of a graph, without variables, that has an input signature.

    What ONNX has no operation for stands in the model under TensorFlow's name; `runner` refuses such a model.
    """
    import tf2onnx.convert

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)  # it tells of each pass over the graph
    model, _ = tf2onnx.convert.from_function(function, function.input_signature, opset=_OPSET)
    return model.SerializeToString()


def operations(model: bytes) -> list[str]:
    """The names of the operations in a model, sorted."""
    import onnx

    return sorted({node.op_type for node in onnx.ModelProto.FromString(model).graph.node})


def runner(model: bytes) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """What runs a model in ONNX Runtime: a waveform -> the outputs by their names.

    Raises:
      RuntimeError: a model that ONNX Runtime does not take.
    """
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no class in common, but for this
        raise RuntimeError(f"ONNX has no operation for a part of this network: {error}") from error
    names = [output.name for output in session.get_outputs()]
    return lambda waveform: dict(zip(names, session.run(names, {"waveform": waveform}), strict=True))
