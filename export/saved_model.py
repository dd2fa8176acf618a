"""A trained encoder as a SavedModel: waveforms in, embeddings out, with plain TensorFlow.

Signatures, all of any batch size:

  serving_default  `waveform` float32 [batch, samples], in [-1, 1], at the model's rate
  wav_bytes        `wav_bytes` string [batch], 16-bit PCM WAV files at the model's rate, any lengths
  log_mel          `log_mel` float32 [batch, 96, 64], context windows

The first two give `embedding` [batch, d], the mean over the clip's context windows, and `window_embeddings`
[batch, windows, d] (rows of 0 after the last window of a shorter clip); `log_mel` gives the `embedding`
[batch, d] of each window. Averages of unit-norm embeddings are not normalised again, as in the papers.
A clip shorter than a window is zero-padded to one.

Beside the graph lie `assets/mel_params.json`, `assets/provenance.json` and, where
tensorflow-serving-api is installed, a warm-up file. Versions are numbered folders, published whole.
"""

import dataclasses
import json
import os
import shutil
import tempfile

import keras
import numpy as np
import tensorflow as tf

from tfsound import mel, training
from tfsound.version import __version__

# Bounds the memory of a long recording: so many windows go through the encoder at once.
_WINDOWS_PER_STEP = 128
# Embeddings have length 1; graph and eager kernels differ by 1e-7 to 1e-6.
_TOLERANCE = 1e-4


class ExportError(RuntimeError):
    """An export that could not be made, or that differs from the live model; the message says how."""


class Embedder(tf.Module):
    """The served graph around an encoder.

    Args:
      encoder: log-mel (batch, frames, mel_bins) -> embeddings (batch, d).
      mel_params: the front end that it was trained with.
      provenance: what to keep beside the graph: data, command, versions.
    """

    def __init__(self, encoder: keras.Model, mel_params: mel.MelParams, provenance: dict):
        super().__init__()
        self._encoder = encoder
        self._mel_params = mel_params
        self._assets_folder = tempfile.TemporaryDirectory()
        self.mel_params_file = self._asset("mel_params.json", mel_params.to_dict())
        self.provenance_file = self._asset("provenance.json", provenance)

    def _asset(self, name: str, fields: dict) -> tf.saved_model.Asset:
        path = os.path.join(self._assets_folder.name, name)
        with open(path, "w") as file:
            json.dump(fields, file, indent=1, sort_keys=True)
        return tf.saved_model.Asset(path)

    def signatures(self) -> dict[str, tf.types.experimental.ConcreteFunction]:
        window = [self._mel_params.context_frames, self._mel_params.mel_bins]
        specs = {
            "serving_default": (self.waveform, tf.TensorSpec([None, None], tf.float32, "waveform")),
            "wav_bytes": (self.wav_bytes, tf.TensorSpec([None], tf.string, "wav_bytes")),
            "log_mel": (self.log_mel, tf.TensorSpec([None, *window], tf.float32, "log_mel")),
        }
        return {
            name: tf.function(function, input_signature=[spec]).get_concrete_function()
            for name, (function, spec) in specs.items()
        }

    def waveform(self, waveform: tf.Tensor) -> dict[str, tf.Tensor]:
        lengths = tf.fill([tf.shape(waveform)[0]], tf.shape(waveform)[1])
        return self._embed_clips(waveform, lengths)

    def wav_bytes(self, wav_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        decoded = tf.map_fn(
            self._decode_wav, wav_bytes,
            fn_output_signature=tf.RaggedTensorSpec([None], tf.float32, ragged_rank=0),
        )  # fmt: skip
        return self._embed_clips(decoded.to_tensor(), tf.cast(decoded.row_lengths(), tf.int32))

    def log_mel(self, log_mel: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"embedding": self._embed_windows(log_mel)}

    def _decode_wav(self, data: tf.Tensor) -> tf.Tensor:
        """One 16-bit PCM WAV file -> its mono samples."""
        samples, rate = tf.audio.decode_wav(data)
        expected = self._mel_params.sample_rate
        check = tf.debugging.Assert(
            tf.equal(rate, expected),
            [f"wav_bytes must be at {expected} Hz; resample the file first. Got, in Hz:", rate],
        )
        with tf.control_dependencies([check]):
            return tf.reduce_mean(samples, axis=1)

    def _embed_clips(self, waveform: tf.Tensor, lengths: tf.Tensor) -> dict[str, tf.Tensor]:
        """Embeds clips that are zero-padded beyond their lengths: (batch, samples), (batch,)."""
        params = self._mel_params
        windows = mel.log_mel_windows(waveform, params)
        batch, num_windows = tf.shape(windows)[0], tf.shape(windows)[1]
        flat = tf.reshape(windows, [-1, params.context_frames, params.mel_bins])
        embeddings = self._embed_windows(flat)
        embeddings = tf.reshape(embeddings, [batch, num_windows, embeddings.shape[-1]])
        counts = (lengths - params.window_samples) // params.hop_samples + 1
        counts = tf.maximum(1, counts // params.context_frames)
        mask = tf.sequence_mask(counts, num_windows, tf.float32)[:, :, None]
        embedding = tf.reduce_sum(embeddings * mask, axis=1) / tf.cast(counts, tf.float32)[:, None]
        return {"embedding": embedding, "window_embeddings": embeddings * mask}

    def _embed_windows(self, log_mel: tf.Tensor) -> tf.Tensor:
        """(windows, frames, mel_bins) -> (windows, d), a bounded number at a time."""
        num_windows = tf.shape(log_mel)[0]
        num_steps = (num_windows + _WINDOWS_PER_STEP - 1) // _WINDOWS_PER_STEP
        parts = tf.TensorArray(tf.float32, size=num_steps, infer_shape=False)
        for step in tf.range(num_steps):
            part = log_mel[step * _WINDOWS_PER_STEP : (step + 1) * _WINDOWS_PER_STEP]
            parts = parts.write(step, self._encoder(part, training=False))
        embeddings = tf.cond(
            num_steps > 0, parts.concat, lambda: tf.zeros([0, self._encoder.output_shape[-1]])
        )
        return tf.ensure_shape(embeddings, [None, self._encoder.output_shape[-1]])


def _next_version(output: str) -> int:
    numbers = [int(name) for name in os.listdir(output) if name.isdigit()] if os.path.isdir(output) else []
    return max(numbers, default=0) + 1


def _write_warm_up(directory: str, mel_params: mel.MelParams) -> bool:
    """A request for TF Serving to run when it loads the model; needs tensorflow-serving-api."""
    try:
        from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
    except ImportError:
        return False
    os.makedirs(os.path.join(directory, "assets.extra"))
    request = predict_pb2.PredictRequest()
    request.model_spec.signature_name = "serving_default"
    silence = np.zeros([1, mel_params.context_samples], np.float32)
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


def save(encoder: keras.Model, mel_params: mel.MelParams, output: str, *, provenance: dict) -> Export:
    """Writes the next version of an encoder's SavedModel, checked against the live encoder.

    The version appears under its number only when it is complete and checked.

    Args:
      encoder: log-mel (batch, frames, mel_bins) -> embeddings (batch, d).
      mel_params: the front end that it was trained with.
      output: the model's folder, on this machine.
      provenance: what to keep beside the graph, as JSON: where the encoder comes from.

    Returns:
      Where it is, and the largest difference of an embedding, on noise of three lengths.

    Raises:
      ExportError: the reloaded model differs from the encoder; nothing was published.
    """
    os.makedirs(output, exist_ok=True)
    version = _next_version(output)
    temporary = os.path.join(output, f"tmp-{version}")
    shutil.rmtree(temporary, ignore_errors=True)
    embedder = Embedder(encoder, mel_params, provenance)
    tf.saved_model.save(embedder, temporary, signatures=embedder.signatures())
    _write_warm_up(temporary, mel_params)
    difference = largest_difference(temporary, encoder, mel_params)
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
    """Exports the encoder of a finished training run as a SavedModel, checked against the live model.

    Args:
      run: the folder of the finished run.
      output: the model's folder; the export becomes its next numbered version.

    Returns:
      See `save`.

    Raises:
      TrainingError: the run is missing or not finished; ExportError: the reloaded model differs.
    """
    encoder, mel_params = training.load_encoder(run)
    with open(os.path.join(run, training.ENCODER_INFO_NAME)) as file:
        config = json.load(file)["config"]
    versions = {"tfsound": __version__, "tensorflow": tf.__version__, "keras": keras.__version__}
    return save(encoder, mel_params, output, provenance=versions | {"training": config})


def largest_difference(path: str, encoder: keras.Model, mel_params: mel.MelParams) -> float:
    """The largest difference of an embedding's component between an export and the live encoder.

    It is NaN where either gives NaN.
    """
    loaded = tf.saved_model.load(path)  # a signature alone does not keep its variables alive
    signature = loaded.signatures["serving_default"]
    rng = np.random.default_rng(0)
    differences = []
    for num_samples in (1, mel_params.context_samples, 3 * mel_params.sample_rate):
        waveform = rng.uniform(-1, 1, (2, num_samples)).astype(np.float32)
        found = signature(waveform=tf.constant(waveform))["embedding"]
        windows = mel.log_mel_windows(waveform, mel_params)
        live = [tf.reduce_mean(encoder(clip, training=False), axis=0) for clip in windows]
        differences.append(np.abs(found.numpy() - np.stack(live)))
    return float(np.max(differences))
