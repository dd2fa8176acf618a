"""LiteRT: converts a graph to a flatbuffer of built-in operations, makes its numbers smaller, and runs it.

`float16` stores the weights of the encoder in half the bytes and computes as before. `int8` quantizes its
convolutions and what lies between them, weights and activations, into a quarter; the range of each
activation is what calibration clips show. The front end stays float32: the encoder sees logarithms, and
neither 8 bits of a linear scale nor the small numbers of float16 leave their quiet half. So do, under int8,
the layers behind the last pooling.
"""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tfsound.export.fixed_length import ENCODER

_EXTRA = 'LiteRT needs the packages of the extra "lite"; pip install "tfsound[lite]"'
_SIGNATURE = "serving_default"
# Which operations are quantized: those whose names lie in the scope of the encoder.
_SCOPE = rf"\b{ENCODER}/"
_WITH_WEIGHTS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
_BETWEEN_CONVOLUTIONS = (
    "CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "CONCATENATION", "MAX_POOL_2D", "AVERAGE_POOL_2D", "PAD",
)  # fmt: skip


def require_packages() -> None:
    """Raises: RuntimeError without the packages of the extra."""
    try:
        import ai_edge_litert.interpreter  # noqa: F401
        import litert_quantizer.quantizer  # noqa: F401
    except ImportError as error:
        raise RuntimeError(f"{error.name} is not installed: {_EXTRA}.") from error


def convert(function: tf.types.experimental.PolymorphicFunction) -> bytes:
    """A flatbuffer of a graph, in float32, with one signature, `serving_default`.

    Args:
      function: with an input signature, without variables.

    Raises:
      RuntimeError: an operation that LiteRT does not have built in.
    """
    concrete = function.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], trackable_obj=tf.Module())
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    try:
        return bytes(converter.convert())
    except Exception as error:  # the converter's own class is none that TensorFlow makes public
        raise RuntimeError(f"LiteRT cannot convert this network: {error}") from error


def quantize_float16(model: bytes) -> bytes:
    """Stores the weights of the encoder in a float32 flatbuffer as float16."""
    from litert_quantizer import algorithm_manager, recipe_manager

    recipe = recipe_manager.RecipeManager()
    for name in _WITH_WEIGHTS:
        recipe.add_weight_only_config(
            _SCOPE, name, num_bits=16, algorithm_key=algorithm_manager.AlgorithmName.FLOAT_CASTING
        )
    return _quantize(model, recipe, None)


def quantize_int8(model: bytes, waveforms: Sequence[np.ndarray]) -> bytes:
    """Quantizes the convolutions of the encoder in a float32 flatbuffer, and what lies between them.

    Args:
      waveforms: clips, each as the signature takes it, whose least and greatest activations become the
        ranges of eight bits.
    """
    from litert_quantizer import calibrator, recipe_manager
    from litert_quantizer.utils import qsv_utils

    recipe = recipe_manager.RecipeManager()
    for name in _BETWEEN_CONVOLUTIONS:
        recipe.add_static_config(_SCOPE, name, activation_num_bits=8, weight_num_bits=8)
    with warnings.catch_warnings():
        # The library looks into its interpreter, which warns of what that costs.
        warnings.filterwarnings("ignore", message=".*experimental_preserve_all_tensors")
        # Its default is a moving average of the extremes, which cuts off what loud clips need.
        calibration = calibrator.Calibrator(model, qsv_update_func=qsv_utils.min_max_update)
        calibration.calibrate({_SIGNATURE: [{"waveform": waveform} for waveform in waveforms]}, recipe)
        return _quantize(model, recipe, calibration.get_model_qsvs())


def _quantize(model: bytes, recipe, ranges: dict | None) -> bytes:
    from litert_quantizer import quantizer

    quantized = quantizer.Quantizer(model, recipe.get_quantization_recipe()).quantize(
        ranges, enable_progress_bar=False, enable_progress_report=False
    )
    return bytes(quantized.quantized_model)


def builtin_operations(model: bytes) -> list[str]:
    """The names of the operations in a flatbuffer, sorted.

    Raises:
      ValueError: one is not built in.
    """
    from ai_edge_litert import schema_py_generated as schema

    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    parsed = schema.Model.GetRootAs(model)
    codes = [parsed.OperatorCodes(index) for index in range(parsed.OperatorCodesLength())]
    custom = [(code.CustomCode() or b"").decode() for code in codes]
    others = sorted(name for name in custom if name)
    if others:
        raise ValueError(f"the flatbuffer needs operations that are not built in: {', '.join(others)}.")
    # Codes above 127 did not fit where the first versions of the format had them.
    return sorted({names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())] for code in codes})


def runner(model: bytes) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """What runs a flatbuffer in LiteRT's interpreter: a waveform -> the outputs by their names."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model)
    interpreter.allocate_tensors()
    signature = interpreter.get_signature_runner(_SIGNATURE)
    return lambda waveform: signature(waveform=waveform)
