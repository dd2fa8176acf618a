"""A trained encoder or classifier as a SavedModel, which plain TensorFlow runs: waveforms in, vectors out.

Signatures, all of any batch size:

  serving_default  `waveform` float32 [batch, samples], in [-1, 1], at the model's rate; of a model of stereo
                   [batch, 2, samples]
  wav_bytes        `wav_bytes` string [batch], 16-bit PCM WAV files at the model's rate, any lengths
  log_mel          `log_mel` float32 [batch, frames, columns], context windows, such as [batch, 96, 64]

The first two give `embedding` [batch, d], the mean over the clip's context windows, and `window_embeddings`
[batch, windows, d] (rows of 0 after the last window of a shorter clip); `log_mel` gives the `embedding`
[batch, d] of each window. A classifier gives, likewise, `scores` [batch, classes], the mean over the clip's
windows, and `window_scores` [batch, windows, classes]; `log_mel` the `scores` of each window. Averages of
unit-norm embeddings are not normalised again, as in the papers. A clip shorter than a window is zero-padded
to one.

Beside the graph lie `assets/mel_params.json`, `assets/provenance.json`, for a classifier `assets/labels.csv`
(index, name), and, where tensorflow-serving-api is installed, a warm-up file. Versions are numbered folders,
published whole.
"""

import dataclasses
import json
import os
import shutil

import keras
import numpy as np
import tensorflow as tf

from tfsound import mel, models, resumption, training
from tfsound.export.graphs import Classifier, Embedder
from tfsound.version import __version__

# Embeddings have length 1, scores are at most 1; graph and eager kernels differ by 1e-7 to 1e-6.
_TOLERANCE = 1e-4


class ExportError(RuntimeError):
    """An export that could not be made, or that differs from the live model; the message says how."""


def _next_version(output: str) -> int:
    numbers = [int(name) for name in os.listdir(output) if name.isdigit()] if os.path.isdir(output) else []
    return max(numbers, default=0) + 1


def _waveform_shape(batch_size: int, num_samples: int, mel_params: mel.MelParams) -> tuple[int, ...]:
    channels = () if mel_params.num_channels == 1 else (mel_params.num_channels,)
    return (batch_size, *channels, num_samples)


def _write_warm_up(directory: str, mel_params: mel.MelParams) -> bool:
    """A request for TF Serving to run when it loads the model; needs tensorflow-serving-api."""
    try:
        from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
    except ImportError:
        return False
    os.makedirs(os.path.join(directory, "assets.extra"))
    request = predict_pb2.PredictRequest()
    request.model_spec.signature_name = "serving_default"
    silence = np.zeros(_waveform_shape(1, mel_params.context_samples, mel_params), np.float32)
    request.inputs["waveform"].CopyFrom(tf.make_tensor_proto(silence))
    log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
    path = os.path.join(directory, "assets.extra", "tf_serving_warmup_requests")
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(log.SerializeToString())
    return True


@dataclasses.dataclass(frozen=True)
class Export:
    """Where a version was written, and how far at most it is from the live model."""

    path: str
    largest_difference: float

    def __str__(self) -> str:
        return f"exported {self.path} (largest difference to the live model: {self.largest_difference:.1e})"


def save(
    model: keras.Model,
    mel_params: mel.MelParams,
    output: str,
    *,
    provenance: dict,
    class_names: tuple[str, ...] = (),
) -> Export:
    """Writes the next version of a SavedModel, checked against the live model.

    The version appears under its number only when it is complete and checked.

    Args:
      model: an encoder, log-mel (batch, frames, mel_bins) -> embeddings (batch, d); or a
        `models.ClassifierModel`.
      mel_params: the front end that it was trained with.
      output: the model's folder, on this machine.
      provenance: what to keep beside the graph, as JSON: where the model comes from.
      class_names: (classes,), of a classifier.

    Returns:
      Where it is, and the largest difference of an embedding or score, on noise of three lengths.

    Raises:
      ValueError: as many names as a classifier has classes, or none for an encoder, were not given;
      ExportError: the reloaded model differs from the live one; nothing was published; InUseError: another
      process exports there.
    """
    num_classes = model.num_classes if isinstance(model, models.ClassifierModel) else 0
    if len(class_names) != num_classes:
        raise ValueError(f"class_names must be {num_classes}, one a class, got {len(class_names)}.")
    if num_classes:
        served = Classifier(model, mel_params, provenance, class_names)
    else:
        served = Embedder(model, mel_params, provenance)
    with resumption.in_use(output):
        return _publish(served, model, mel_params, output)


def _publish(served: Embedder, model: keras.Model, mel_params: mel.MelParams, output: str) -> Export:
    """Writes a graph beside the versions that are there, checks it, and gives it the next number."""
    version = _next_version(output)
    temporary = os.path.join(output, f"tmp-{version}")
    shutil.rmtree(temporary, ignore_errors=True)
    tf.saved_model.save(served, temporary, signatures=served.signatures())
    _write_warm_up(temporary, mel_params)
    difference = largest_difference(temporary, model, mel_params)
    if not difference < _TOLERANCE:  # so that NaN fails, too
        shutil.rmtree(temporary)
        raise ExportError(
            f"the reloaded model differs from the live one by {difference}, expected less than {_TOLERANCE}; "
            f"nothing was published in {output}."
        )
    final = os.path.join(output, str(version))
    os.rename(temporary, final)
    return Export(final, difference)


def export(run: str, output: str) -> Export:
    """Exports what a finished run has trained as a SavedModel, checked against the live model.

    Of a run on labels that is the classifier, whose scores come beside the embeddings; of others the encoder.

    Args:
      run: the folder of the finished run.
      output: the model's folder; the export becomes its next numbered version.

    Returns:
      See `save`.

    Raises:
      TrainingError: the run is missing or not finished; ExportError, InUseError: see `save`.
    """
    class_names: tuple[str, ...] = ()
    if os.path.exists(os.path.join(run, training.CLASSIFIER_NAME)):
        model, mel_params, class_names = training.load_classifier(run)
    else:
        model, mel_params = training.load_encoder(run)
    with open(os.path.join(run, training.ENCODER_INFO_NAME)) as file:
        config = json.load(file)["config"]
    versions = {"tfsound": __version__, "tensorflow": tf.__version__, "keras": keras.__version__}
    provenance = versions | {"training": config}
    return save(model, mel_params, output, provenance=provenance, class_names=class_names)


def largest_difference(path: str, model: keras.Model, mel_params: mel.MelParams) -> float:
    """The largest difference of a component of an embedding, or of a score, between export and live model.

    It is NaN where either gives NaN.
    """
    loaded = tf.saved_model.load(path)  # a signature alone does not keep its variables alive
    signature = loaded.signatures["serving_default"]
    live = {"embedding": model}
    if isinstance(model, models.ClassifierModel):
        live = {"embedding": model.embed, "scores": model}
    rng = np.random.default_rng(0)
    differences = []
    for num_samples in (1, mel_params.context_samples, 3 * mel_params.sample_rate):
        waveform = rng.uniform(-1, 1, _waveform_shape(2, num_samples, mel_params)).astype(np.float32)
        found = signature(waveform=tf.constant(waveform))
        windows = mel.log_mel_windows(waveform, mel_params)
        for name, function in live.items():
            means = [tf.reduce_mean(function(clip, training=False), axis=0) for clip in windows]
            differences.append(np.max(np.abs(found[name].numpy() - np.stack(means))))
    return float(np.max(differences))
