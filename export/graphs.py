"""The graphs that an export serves: from waveforms, WAV files or windows to embeddings, and to scores."""

import csv
import json
import os
import tempfile
from collections.abc import Callable

import keras
import tensorflow as tf

from tfsound import mel, models

# Bounds the memory of a long recording: so many windows go through the encoder at once.
_WINDOWS_PER_STEP = 128
LABELS_NAME = "labels.csv"
# What is given for clips has another name for each of its windows.
_OF_WINDOWS = {"embedding": "window_embeddings", "scores": "window_scores"}


def _weights(model: keras.Model) -> list[tf.Variable]:
    """What an export is to hold of a model: TensorFlow's variables, not the layers that Keras wraps them in.

    Keras 3.15 gives each variable of a tracked layer a second copy in the graph. Weights are restored into
    the one and the signatures read the other: TF Serving, which loads a graph into a session, finds none.
    """
    return [weight.value for weight in model.weights]


def _untracked(function: Callable) -> Callable:
    """The same function, whose variables TensorFlow does not look for."""
    return lambda *arguments, **options: function(*arguments, **options)


class Embedder(tf.Module):
    """The served graph around an encoder.

    Args:
      encoder: log-mel (batch, frames, mel_bins) -> embeddings (batch, d).
      mel_params: the front end that it was trained with.
      provenance: what to keep beside the graph: data, command, versions.
    """

    def __init__(self, encoder: keras.Model, mel_params: mel.MelParams, provenance: dict):
        super().__init__()
        self._encode, self._embedding_dim = _untracked(encoder), encoder.output_shape[-1]
        self._tracked = _weights(encoder)
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
        window = self._mel_params.window_shape
        waveform = [None, None] if self._mel_params.num_channels == 1 else [None, 2, None]
        specs = {
            "serving_default": (self.waveform, tf.TensorSpec(waveform, tf.float32, "waveform")),
            "wav_bytes": (self.wav_bytes, tf.TensorSpec([None], tf.string, "wav_bytes")),
            "log_mel": (self.log_mel, tf.TensorSpec([None, *window], tf.float32, "log_mel")),
        }
        return {
            name: tf.function(function, input_signature=[spec]).get_concrete_function()
            for name, (function, spec) in specs.items()
        }

    def waveform(self, waveform: tf.Tensor) -> dict[str, tf.Tensor]:
        lengths = tf.fill([tf.shape(waveform)[0]], tf.shape(waveform)[-1])
        return self._of_clips(waveform, lengths)

    def wav_bytes(self, wav_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        is_mono = self._mel_params.num_channels == 1
        decoded = tf.map_fn(
            self._decode_wav, wav_bytes,
            fn_output_signature=tf.RaggedTensorSpec([None] if is_mono else [None, 2], ragged_rank=0),
        )  # fmt: skip
        waveform = decoded.to_tensor() if is_mono else tf.transpose(decoded.to_tensor(), [0, 2, 1])
        return self._of_clips(waveform, tf.cast(decoded.row_lengths(), tf.int32))

    def log_mel(self, log_mel: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._of_windows(log_mel)

    def _decode_wav(self, data: tf.Tensor) -> tf.Tensor:
        """One 16-bit PCM WAV file -> its samples, mono (samples,) or stereo (samples, 2)."""
        samples, rate = tf.audio.decode_wav(data)
        expected = self._mel_params.sample_rate
        check = tf.debugging.Assert(
            tf.equal(rate, expected),
            [f"wav_bytes must be at {expected} Hz; resample the file first. Got, in Hz:", rate],
        )
        with tf.control_dependencies([check]):
            if self._mel_params.num_channels == 1:
                return tf.reduce_mean(samples, axis=1)
            # Mono is twice the same, as `media` reads it; of more than two channels nothing is made.
            return tf.broadcast_to(samples, [tf.shape(samples)[0], 2])

    def _of_clips(self, waveform: tf.Tensor, lengths: tf.Tensor) -> dict[str, tf.Tensor]:
        """Means over the windows of clips, which are zero-padded beyond their lengths, and of each window.

        Args:
          waveform: (batch, samples) or (batch, 2, samples); lengths: (batch,).
        """
        params = self._mel_params
        windows = mel.log_mel_windows(waveform, params)
        batch, num_windows = tf.shape(windows)[0], tf.shape(windows)[1]
        flat = tf.reshape(windows, [-1, *params.window_shape])
        counts = (lengths - params.window_samples) // params.hop_samples + 1
        counts = tf.maximum(1, counts // params.context_frames)
        mask = tf.sequence_mask(counts, num_windows, tf.float32)[:, :, None]
        outputs = {}
        for name, values in self._of_windows(flat).items():
            values = tf.reshape(values, [batch, num_windows, values.shape[-1]])
            outputs[name] = tf.reduce_sum(values * mask, axis=1) / tf.cast(counts, tf.float32)[:, None]
            outputs[_OF_WINDOWS[name]] = values * mask
        return outputs

    def _of_windows(self, log_mel: tf.Tensor) -> dict[str, tf.Tensor]:
        """What is served of each window: (windows, ...) each."""
        return {"embedding": self._embed_windows(log_mel)}

    def _embed_windows(self, log_mel: tf.Tensor) -> tf.Tensor:
        """(windows, frames, mel_bins) -> (windows, d), a bounded number at a time."""
        num_windows = tf.shape(log_mel)[0]
        num_steps = (num_windows + _WINDOWS_PER_STEP - 1) // _WINDOWS_PER_STEP
        parts = tf.TensorArray(tf.float32, size=num_steps, infer_shape=False)
        for step in tf.range(num_steps):
            part = log_mel[step * _WINDOWS_PER_STEP : (step + 1) * _WINDOWS_PER_STEP]
            parts = parts.write(step, self._encode(part, training=False))
        embeddings = tf.cond(num_steps > 0, parts.concat, lambda: tf.zeros([0, self._embedding_dim]))
        return tf.ensure_shape(embeddings, [None, self._embedding_dim])


class Classifier(Embedder):
    """The served graph around a classifier: that of its encoder, and scores.

    Args:
      classifier: log-mel (batch, frames, mel_bins) -> scores (batch, classes).
      class_names: (classes,), the label map.
      mel_params, provenance: as for `Embedder`.
    """

    def __init__(
        self,
        classifier: models.ClassifierModel,
        mel_params: mel.MelParams,
        provenance: dict,
        class_names: tuple[str, ...],
    ):
        super().__init__(classifier.audio_encoder, mel_params, provenance)
        self._scores = _untracked(classifier.scores)
        self._tracked = _weights(classifier)
        path = os.path.join(self._assets_folder.name, LABELS_NAME)
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["index", "name"])
            writer.writerows(enumerate(class_names))
        self.labels_file = tf.saved_model.Asset(path)

    def _of_windows(self, log_mel: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = super()._of_windows(log_mel)
        return outputs | {"scores": self._scores(outputs["embedding"])}
