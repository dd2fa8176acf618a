"""Tests of tfsound.export.litert and tfsound.export.onnx: what the formats have no operations for."""

import numpy as np
import pytest
import tensorflow as tf

from tfsound.export import litert, onnx


@tf.function(input_signature=[tf.TensorSpec([1, 4], tf.float32, "waveform")], autograph=False)
def no_format_has_this(waveform):
    return {"embedding": tf.raw_ops.Betainc(a=waveform, b=waveform, x=waveform)}


@tf.function(input_signature=[tf.TensorSpec([1, 4], tf.float32, "waveform")], autograph=False)
def doubled(waveform):
    return {"embedding": 2 * waveform}


def test_litert_refuses_a_graph_with_other_operations():
    with pytest.raises(RuntimeError, match=r"LiteRT cannot convert this network: (?s:.*)Betainc"):
        litert.convert(no_format_has_this)


def test_operations_in_a_flatbuffer_that_are_not_built_in_are_seen():
    concrete = no_format_has_this.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], trackable_obj=tf.Module())
    converter.allow_custom_ops = True
    with pytest.raises(ValueError, match="needs operations that are not built in: Betainc"):
        litert.builtin_operations(bytes(converter.convert()))
    assert litert.builtin_operations(litert.convert(doubled)) in (["MUL"], ["ADD"])


def test_onnx_refuses_a_graph_with_other_operations():
    with pytest.raises(RuntimeError, match=r"ONNX has no operation for a part of this network: .*Betainc"):
        onnx.runner(onnx.convert(no_format_has_this))


@pytest.mark.parametrize("module", [litert, onnx])
def test_outputs_have_their_names(module):
    found = module.runner(module.convert(doubled))(np.float32([[1, 2, 3, 4]]))
    np.testing.assert_array_equal(found["embedding"], [[2, 4, 6, 8]])
