"""Warm-up requests: what TF Serving runs when it loads a model, so that no client waits for a first time."""

import os

import numpy as np
import tensorflow as tf

from tfsound import mel
from tfsound.export.graphs import JPEG_BYTES, SERVING_DEFAULT, WAV_BYTES, input_of

# TF Serving looks for this file beside the graph.
PATH = os.path.join("assets.extra", "tf_serving_warmup_requests")
_GREY = 127


def requests(
    signatures: dict[str, tf.types.experimental.ConcreteFunction], mel_params: mel.MelParams | None
) -> dict[str, dict[str, tf.Tensor]]:
    """A request of one row for each signature: {signature: {input: value}}; silence, or a grey image.

    Args:
      mel_params: the front end of a model of sound, None for one of images.
    """
    found = {}
    for name, signature in signatures.items():
        spec = input_of(signature)
        if name == WAV_BYTES:
            silence = tf.zeros([mel_params.context_samples, mel_params.num_channels])
            value = tf.audio.encode_wav(silence, mel_params.sample_rate)[None]
        elif name == JPEG_BYTES:
            image_shape = input_of(signatures[SERVING_DEFAULT]).shape[1:]
            value = tf.io.encode_jpeg(np.full(image_shape, _GREY, np.uint8))[None]
        else:
            # Of the lengths, only that of a waveform is open.
            shape = [1, *(mel_params.context_samples if size is None else size for size in spec.shape[1:])]
            value = tf.zeros(shape)
        found[name] = {spec.name: value}
    return found


def write(directory: str, named_requests: dict[str, dict[str, tf.Tensor]]) -> int:
    """Writes requests beside a SavedModel; returns their number, 0 without tensorflow-serving-api."""
    try:
        from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
    except ImportError:
        return 0
    path = os.path.join(directory, PATH)
    os.makedirs(os.path.dirname(path))
    with tf.io.TFRecordWriter(path) as writer:
        for name, inputs in named_requests.items():
            request = predict_pb2.PredictRequest()
            request.model_spec.signature_name = name
            for argument, value in inputs.items():
                request.inputs[argument].CopyFrom(tf.make_tensor_proto(value))
            log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
            writer.write(log.SerializeToString())
    return len(named_requests)
