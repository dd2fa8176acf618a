"""A graph for devices: one waveform of a fixed length in, no loop and no variable in it.

Converters of graphs take little more. The front end is `mel.log_mel_windows` for a length that is known
beforehand, of the same window and weights; each conversion is compared with the live model.
"""

from collections.abc import Iterator

import keras
import tensorflow as tf

from tfsound import mel, models

# The scopes of the graph's operations, by which a quantizer tells them apart.
FRONT_END, ENCODER = "front_end", "encoder"
# What is given for the clip, by what it is the mean of.
OF_WINDOWS = {"embedding": "window_embeddings", "scores": "window_scores"}


def compute_in_float32(model: keras.Model) -> None:
    """Makes a model that was trained in bfloat16, whose weights are float32, compute in float32, too."""
    for layer in _layers(model):
        layer.dtype_policy = "float32"


def _layers(layer: keras.Layer) -> Iterator[keras.Layer]:
    """A layer and all layers in it."""
    yield layer
    for inner in getattr(layer, "layers", ()):
        yield from _layers(inner)


def waveform_shape(mel_params: mel.MelParams, num_samples: int) -> tuple[int, ...]:
    """(1, samples), of a stereo front end (1, 2, samples)."""
    channels = () if mel_params.num_channels == 1 else (mel_params.num_channels,)
    return (1, *channels, num_samples)


def fixed_length_graph(
    model: keras.Model, mel_params: mel.MelParams, num_samples: int
) -> tf.types.experimental.PolymorphicFunction:
    """The graph around an encoder or classifier.

    Args:
      model: log-mel (batch, frames, mel_bins) -> embeddings (batch, d); or a `models.ClassifierModel`.
      num_samples: of the clip, at least `mel_params.context_samples`.

    Returns:
      A function of `waveform`, see `waveform_shape`, that gives `embedding` (1, d) and `window_embeddings`
      (1, windows, d), and of a classifier `scores` (1, classes) and `window_scores` (1, windows, classes).
    """
    # As constants, because converters leave out variables, or fail at them.
    weights = [(variable, variable.numpy()) for variable in model.variables]
    spec = tf.TensorSpec(waveform_shape(mel_params, num_samples), tf.float32, "waveform")

    @tf.function(input_signature=[spec], autograph=False)
    def embed_clip(waveform):
        with tf.name_scope(FRONT_END):
            windows = _log_mel_windows(waveform, mel_params)
        with (
            tf.name_scope(ENCODER),
            keras.StatelessScope([(variable, tf.constant(value)) for variable, value in weights]),
        ):
            of_windows = outputs_of_windows(model, windows)
        outputs = {}
        for name, values in of_windows.items():
            outputs[name] = tf.reduce_mean(values, axis=0, keepdims=True)
            outputs[OF_WINDOWS[name]] = values[None]
        return outputs

    return embed_clip


def outputs_of_windows(model: keras.Model, log_mel: tf.Tensor) -> dict[str, tf.Tensor]:
    """`embedding`, and of a classifier `scores`, of each window: (windows, ...) each."""
    if not isinstance(model, models.ClassifierModel):
        return {"embedding": model(log_mel, training=False)}
    embeddings = model.embed(log_mel, training=False)
    return {"embedding": embeddings, "scores": model.scores(embeddings)}


def _log_mel_windows(waveform: tf.Tensor, params: mel.MelParams) -> tf.Tensor:
    """`mel.log_mel_windows` of the one clip in (1, ..., samples): (windows, context_frames, num_columns)."""
    num_samples = waveform.shape[-1]
    num_windows = params.num_windows((num_samples - params.window_samples) // params.hop_samples + 1)
    channels = tf.unstack(tf.reshape(waveform, [params.num_channels, num_samples]))
    energies = [_energies(channel, num_windows * params.context_frames, params) for channel in channels]
    windows = tf.reshape(tf.concat(energies, axis=-1), [num_windows, *params.window_shape])
    return mel.log_mel(windows, params)


def _energies(samples: tf.Tensor, num_frames: int, params: mel.MelParams) -> tf.Tensor:
    """(samples,) -> (num_frames, mel_bins)."""
    hop = params.hop_samples
    # Frame i is block i and those after it, as far as it reaches into them.
    starts = range(0, params.window_samples, hop)
    num_blocks = num_frames - 1 + len(starts)
    samples = samples[: num_blocks * hop]
    samples = tf.pad(samples, [[0, num_blocks * hop - samples.shape[0]]])
    blocks = tf.reshape(samples, [num_blocks, hop])
    pieces = [
        blocks[index : index + num_frames, : params.window_samples - start]
        for index, start in enumerate(starts)
    ]
    frames = tf.pad(tf.concat(pieces, axis=1), [[0, 0], [0, params.fft_length - params.window_samples]])
    # tf.abs, because ONNX has no other way from a spectrum to its magnitudes.
    magnitudes = tf.abs(tf.signal.rfft(frames * mel.analysis_window(params)))
    if params.bins == "linear":
        return magnitudes[:, : params.mel_bins]
    return magnitudes @ mel.mel_matrix(params)
