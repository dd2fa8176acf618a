"""The graphs that an export serves: from waveforms, files, windows or images to embeddings, and to scores.

Each row of a batch is answered for itself, whatever else is in the batch. What holds NaN or infinity is
answered with NaN: the windows that hold it, and the means of their clip. It is no error, for a server puts
the requests of several clients into one batch, and an error would refuse them all. No sample at all is
silence, and a batch without rows gives outputs without rows.

Windows are computed in blocks, from the waveform on: beside the waveform, copies of it and the outputs,
memory grows neither with the length of a clip nor with the batch.
"""

import csv
import json
import math
import os
import tempfile
from collections.abc import Callable

import keras
import tensorflow as tf

from tfsound import examples, mel, models

SERVING_DEFAULT, WAV_BYTES, LOG_MEL, JPEG_BYTES = "serving_default", "wav_bytes", "log_mel", "jpeg_bytes"
LABELS_NAME = "labels.csv"
# A block holds as many numbers as 128 windows of 96 x 64, and at least so many windows or images.
_BLOCK_VALUES, _LEAST_BLOCK = 128 * 96 * 64, 8
# What is given for clips has another name for each of its windows.
_OF_WINDOWS = {"embedding": "window_embeddings", "scores": "window_scores"}

Outputs = dict[str, tf.Tensor]


def _weights(model: keras.Model) -> list[tf.Variable]:
    """What an export is to hold of a model: TensorFlow's variables, not the layers that Keras wraps them in.

    Keras 3.15 gives each variable of a tracked layer a second copy in the graph. Weights are restored into
    the one and the signatures read the other: TF Serving, which loads a graph into a session, finds none.
    """
    return [weight.value for weight in model.weights]


def _untracked(function: Callable) -> Callable:
    """The same function, whose variables TensorFlow does not look for."""
    return lambda *arguments, **options: function(*arguments, **options)


class _Served(tf.Module):
    """A network that is run block by block, with what lies beside its graph.

    The network is the method `_outputs`: windows or images -> outputs by name, (block, width) each.

    Args:
      widths: of each output.
      input_shape: that of a window or of an image.
      provenance: what to keep beside the graph: data, command, versions.
    """

    def __init__(self, widths: dict[str, int], input_shape: tuple[int, ...], provenance: dict):
        super().__init__()
        self._widths = widths
        self._input_shape = tuple(input_shape)
        self._assets_folder = tempfile.TemporaryDirectory()
        self.provenance_file = self._asset("provenance.json", provenance)

    def _asset(self, name: str, fields: dict) -> tf.saved_model.Asset:
        path = os.path.join(self._assets_folder.name, name)
        with open(path, "w") as file:
            json.dump(fields, file, indent=1, sort_keys=True)
        return tf.saved_model.Asset(path)

    def _in_blocks(self, count: tf.Tensor, read: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]) -> Outputs:
        """What the network gives for `count` windows or images, a bounded number at a time.

        Args:
          read: gives those from one number to before another.

        Returns:
          float32, (count, width) each; NaN for those that are not finite.
        """
        block = max(_LEAST_BLOCK, _BLOCK_VALUES // math.prod(self._input_shape))
        num_blocks = -(-count // block)
        parts = {
            name: tf.TensorArray(tf.float32, num_blocks, infer_shape=False, element_shape=[None, width])
            for name, width in self._widths.items()
        }

        def append_block(index, parts):
            inputs = read(index * block, tf.minimum((index + 1) * block, count))
            inputs = tf.ensure_shape(inputs, [None, *self._input_shape])
            is_finite = tf.reduce_all(tf.math.is_finite(inputs), axis=list(range(1, inputs.shape.rank)))
            # Not every layer hands NaN on: a maximum may drop it, and make an answer of the rest.
            outputs = {
                name: tf.where(is_finite[:, None], tf.cast(values, tf.float32), math.nan)
                for name, values in self._outputs(inputs).items()
            }
            return index + 1, {name: parts[name].write(index, values) for name, values in outputs.items()}

        is_left = lambda index, parts: index < num_blocks  # noqa: E731
        # By default ten blocks would be in memory at once.
        _, parts = tf.while_loop(is_left, append_block, (0, parts), parallel_iterations=1)
        return {
            name: tf.ensure_shape(part.concat(), [None, self._widths[name]]) for name, part in parts.items()
        }


def _signature(
    function: Callable[[tf.Tensor], Outputs], name: str, shape: list[int | None], dtype: tf.DType
) -> tf.types.experimental.ConcreteFunction:
    """A signature of one input. It checks shapes when it runs: a server compares none with the signature."""
    spec = tf.TensorSpec(shape, dtype, name)
    checked = tf.function(lambda value: function(tf.ensure_shape(value, shape)), input_signature=[spec])
    return checked.get_concrete_function()


def input_of(signature: tf.types.experimental.ConcreteFunction) -> tf.TensorSpec:
    """The one input of a signature, with its name."""
    (spec,), _ = signature.structured_input_signature
    return spec


def _require_text(data: tf.Tensor) -> tf.Operation:
    """Refuses a file in words where `decode_wav` would do so with its bytes, which are no text to a client.

    It repeats what it finds in the place of "RIFF", and then of "WAVE" and of the first chunk's name.
    """
    head = tf.strings.substr(tf.strings.substr(data, 0, 16) + 16 * b" ", [0, 8, 12], [4, 4, 4])
    is_text = tf.strings.regex_full_match(head, "[ -~]{4}")
    can_be_told = is_text[0] & ((head[0] != b"RIFF") | tf.reduce_all(is_text))
    return tf.debugging.Assert(can_be_told, ["wav_bytes must be WAV files, got another kind; convert it."])


class Embedder(_Served):
    """The served graph around an encoder of sound.

    Args:
      encoder: log-mel (batch, frames, mel_bins) -> embeddings (batch, d).
      mel_params: the front end that it was trained with.
      provenance: what to keep beside the graph: data, command, versions.
    """

    def __init__(self, encoder: keras.Model, mel_params: mel.MelParams, provenance: dict):
        super().__init__({"embedding": encoder.output_shape[-1]}, mel_params.window_shape, provenance)
        self._encode, self._tracked = _untracked(encoder), _weights(encoder)
        self._mel_params = mel_params
        # The last frame of a window begins with its last hop, and reaches over so many more.
        self._hops_beyond = -(-mel_params.window_samples // mel_params.hop_samples) - 1
        self.mel_params_file = self._asset("mel_params.json", mel_params.to_dict())

    def signatures(self) -> dict[str, tf.types.experimental.ConcreteFunction]:
        waveform = [None, None] if self._mel_params.num_channels == 1 else [None, 2, None]
        window = [None, *self._mel_params.window_shape]
        return {
            SERVING_DEFAULT: _signature(self.waveform, "waveform", waveform, tf.float32),
            WAV_BYTES: _signature(self.wav_bytes, WAV_BYTES, [None], tf.string),
            LOG_MEL: _signature(self.log_mel, LOG_MEL, window, tf.float32),
        }

    def waveform(self, waveform: tf.Tensor) -> Outputs:
        hops = self._hops(waveform)
        num_hops = tf.fill([tf.shape(hops)[0]], tf.shape(hops)[-2])
        return self._of_clips(tf.reshape(hops, [-1, self._mel_params.hop_samples]), num_hops)

    def wav_bytes(self, wav_bytes: tf.Tensor) -> Outputs:
        hop = self._mel_params.hop_samples
        hops = tf.map_fn(
            lambda data: tf.reshape(self._hops(self._decode_wav(data)), [-1, hop]), wav_bytes,
            fn_output_signature=tf.RaggedTensorSpec([None, hop], ragged_rank=0),
        )  # fmt: skip
        num_hops = tf.cast(hops.row_lengths(), tf.int32) // self._mel_params.num_channels
        return self._of_clips(hops.values, num_hops)

    def log_mel(self, log_mel: tf.Tensor) -> Outputs:
        return self._in_blocks(tf.shape(log_mel)[0], lambda start, end: log_mel[start:end])

    def _outputs(self, log_mel: tf.Tensor) -> Outputs:
        """What is served of each window: (windows, ...) each."""
        return {"embedding": self._encode(log_mel, training=False)}

    def _decode_wav(self, data: tf.Tensor) -> tf.Tensor:
        """One 16-bit PCM WAV file -> its samples, mono (samples,) or stereo (2, samples)."""
        with tf.control_dependencies([_require_text(data)]):
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
            return tf.transpose(tf.broadcast_to(samples, [tf.shape(samples)[0], 2]))

    def _hops(self, waveform: tf.Tensor) -> tf.Tensor:
        """Waveforms cut every hop, as far as whole windows reach: (..., samples) -> (..., hops, hop_samples).

        They are zero-padded to one window where they are shorter.
        """
        params = self._mel_params
        num_frames = (tf.shape(waveform)[-1] - params.window_samples) // params.hop_samples + 1
        num_windows = tf.maximum(1, num_frames // params.context_frames)
        num_hops = num_windows * params.context_frames + self._hops_beyond
        num_samples = num_hops * params.hop_samples
        waveform = waveform[..., :num_samples]
        missing = num_samples - tf.shape(waveform)[-1]
        waveform = tf.pad(waveform, [[0, 0]] * (waveform.shape.rank - 1) + [[0, missing]])
        shape = tf.concat([tf.shape(waveform)[:-1], [num_hops, params.hop_samples]], axis=0)
        return tf.reshape(waveform, shape)

    def _of_clips(self, hops: tf.Tensor, num_hops: tf.Tensor) -> Outputs:
        """Means over the windows of clips, and what is served of each window.

        Args:
          hops: float32, (all hops, hop_samples), those of clip after clip, in it channel after channel.
          num_hops: int32, (batch,), of each channel of a clip, as `_hops` gives them.
        """
        params = self._mel_params
        counts = (num_hops - self._hops_beyond) // params.context_frames
        clip = tf.repeat(tf.range(tf.size(counts)), counts)
        number = tf.range(tf.size(clip)) - tf.gather(tf.cumsum(counts, exclusive=True), clip)
        first_hop = params.num_channels * tf.gather(tf.cumsum(num_hops, exclusive=True), clip)
        first_hop += number * params.context_frames
        of_channels = tf.gather(num_hops, clip)[:, None] * tf.range(params.num_channels)
        values = self._in_blocks(
            tf.size(clip),
            lambda start, end: self._windows(hops, (first_hop[:, None] + of_channels)[start:end]),
        )
        shape = tf.stack([tf.size(counts), tf.reduce_max(tf.concat([[1], counts], axis=0))])
        outputs = {}
        for name, rows in values.items():
            rows = tf.scatter_nd(
                tf.stack([clip, number], axis=1), rows, tf.concat([shape, [self._widths[name]]], axis=0)
            )
            rows = tf.ensure_shape(rows, [None, None, self._widths[name]])
            outputs[name] = tf.reduce_sum(rows, axis=1) / tf.cast(counts, tf.float32)[:, None]
            outputs[_OF_WINDOWS[name]] = rows
        return outputs

    def _windows(self, hops: tf.Tensor, first_hop: tf.Tensor) -> tf.Tensor:
        """The log-mel windows that begin with some hops of each channel: (windows, frames, columns).

        Args:
          first_hop: int32, (windows, channels).
        """
        params = self._mel_params
        num_hops = params.context_frames + self._hops_beyond
        rows = tf.gather(hops, tf.range(num_hops)[:, None] + tf.reshape(first_hop, [1, -1]))
        return mel.log_mel(mel.energies_of_hops(rows, params), params)


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
        self._scores, self._tracked = _untracked(classifier.scores), _weights(classifier)
        self._widths = {**self._widths, "scores": len(class_names)}
        path = os.path.join(self._assets_folder.name, LABELS_NAME)
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["index", "name"])
            writer.writerows(enumerate(class_names))
        self.labels_file = tf.saved_model.Asset(path)

    def _outputs(self, log_mel: tf.Tensor) -> Outputs:
        outputs = super()._outputs(log_mel)
        return outputs | {"scores": self._scores(outputs["embedding"])}


class ImageEmbedder(_Served):
    """The served graph around an encoder of images.

    Args:
      encoder: RGB in [0, 1], (batch, height, width, 3) -> embeddings (batch, d).
      provenance: what to keep beside the graph: data, command, versions.
    """

    def __init__(self, encoder: keras.Model, provenance: dict):
        shape = encoder.input_shape[1:]
        super().__init__({"embedding": encoder.output_shape[-1]}, shape, provenance)
        self._encode, self._tracked = _untracked(encoder), _weights(encoder)

    def signatures(self) -> dict[str, tf.types.experimental.ConcreteFunction]:
        return {
            SERVING_DEFAULT: _signature(self.image, "image", [None, *self._input_shape], tf.float32),
            JPEG_BYTES: _signature(self.jpeg_bytes, JPEG_BYTES, [None], tf.string),
        }

    def image(self, image: tf.Tensor) -> Outputs:
        return self._in_blocks(tf.shape(image)[0], lambda start, end: image[start:end])

    def jpeg_bytes(self, jpeg_bytes: tf.Tensor) -> Outputs:
        return self._in_blocks(
            tf.size(jpeg_bytes), lambda start, end: examples.decode_images(jpeg_bytes[start:end])
        )

    def _outputs(self, image: tf.Tensor) -> Outputs:
        return {"embedding": self._encode(image, training=False)}
