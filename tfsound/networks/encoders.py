"""Encoders by name: windows of sound, or images, -> embeddings."""

import contextlib
from collections.abc import Callable

import keras
from keras import layers

from tfsound.networks.densenet import densenet
from tfsound.networks.esresnet import esresnet, esresnet_small
from tfsound.networks.resnets import resnet50, resnet_small
from tfsound.networks.vgg import vgg, vgg_small

# The paper's d; a factor of 48 below 96 x 64.
EMBEDDING_DIM = 128


def _of_sound(network: Callable) -> Callable:
    """The network on (batch, frames, bins, channels), which it sees with frequency as the height."""
    return lambda x: network(layers.Permute((2, 1, 3), name="frequency_first")(x))


# What sees an image upright, as ImageNet's kernels do, and sound with frequency as the height.
_UPRIGHT: dict[str, Callable] = {
    "densenet": densenet,
    "esresnet": esresnet,
    "esresnet_small": esresnet_small,
}
# (batch, frames or height, bins or width, channels) -> features (batch, units).
ENCODERS: dict[str, Callable] = {
    "resnet50": resnet50,
    "resnet_small": resnet_small,
    "vgg": vgg,
    "vgg_small": vgg_small,
} | {name: _of_sound(network) for name, network in _UPRIGHT.items()}


def build_encoder(
    name: str,
    *,
    input_shape: tuple[int, ...] = (96, 64),
    num_bands: int = 1,
    num_channels: int = 1,
    embedding_dim: int = EMBEDDING_DIM,
    unit_norm: bool = True,
    dtype_policy: str = "float32",
) -> keras.Model:
    """An encoder with fresh weights.

    Args:
      name: one of `ENCODERS`.
      input_shape: (frames, columns) of a context window, or (height, width, 3) of an image.
      num_bands: into how many bands of as many columns each channel of a window is cut. The network sees them
        as the colours of an image, low bands first.
      num_channels: of the sound; a frame has the columns of one after those of the other. Each channel goes
        through the same network, and the sum of its features to the output layer.
      embedding_dim: units of the linear output layer.
      unit_norm: scale embeddings to length 1, as triplets need it. The 2020 paper does not say so of
        coincidence, and its clusters normalise for themselves.
      dtype_policy: Keras's; under `mixed_bfloat16` the output layer stays float32.

    Returns:
      A model: log-mel float32 (batch, frames, columns), or images float32 (batch, height, width, 3) in
      [0, 1], -> embeddings float32 (batch, embedding_dim).

    Raises:
      ValueError: an unknown name, or dtype policy; a shape of neither kind, one that the network is too deep
        for, or that does not divide into so many channels and bands; bands or channels of an image.

    Source: Jansen et al. 2018, section 4.2; Jansen et al. 2020, section 4; bands and channels: Guzhov et al.
    2020 (ESResNet), section 3, and Hornauer et al. 2021 (DLS), section 3.
    """
    if name not in ENCODERS:
        raise ValueError(f"encoder must be one of {sorted(ENCODERS)}, got {name!r}.")
    if len(input_shape) not in (2, 3):
        raise ValueError(
            "input_shape must be (frames, columns) of windows or (height, width, 3) of images, "
            f"got {tuple(input_shape)}."
        )
    _require_divisible(input_shape, num_bands, num_channels)
    is_image = len(input_shape) == 3
    with _dtype_policy(dtype_policy):
        inputs = keras.Input(input_shape, name="image" if is_image else "log_mel", dtype="float32")
        if is_image:
            features = _UPRIGHT.get(name, ENCODERS[name])(inputs)
        elif num_channels == 1:
            features = ENCODERS[name](_stack_bands(inputs, num_bands))
        else:
            channels = keras.ops.split(inputs, num_channels, axis=-1)
            channel = keras.Input(channels[0].shape[1:])
            trunk = keras.Model(channel, ENCODERS[name](_stack_bands(channel, num_bands)), name="trunk")
            features = layers.Add(name="sum_of_channels")([trunk(channel) for channel in channels])
        embeddings = layers.Dense(embedding_dim, dtype="float32", name="embedding")(features)
        if unit_norm:
            embeddings = layers.UnitNormalization(dtype="float32", name="unit_norm")(embeddings)
        return keras.Model(inputs, embeddings, name=f"{name}_image" if is_image else name)


def without_embedding(encoder: keras.Model) -> keras.Model:
    """An encoder of `build_encoder` without its output layer: it gives the features below, (batch, units).

    The weights are those of the encoder, which shares them.
    """
    features = encoder.get_layer("embedding").input
    return keras.Model(encoder.input, features, name=encoder.name)


def _require_divisible(input_shape: tuple[int, ...], num_bands: int, num_channels: int) -> None:
    if min(num_bands, num_channels) < 1:
        raise ValueError(
            f"num_bands and num_channels must be at least 1, got {num_bands} and {num_channels}."
        )
    num_parts = num_bands * num_channels
    if len(input_shape) == 3 and num_parts > 1:
        raise ValueError(
            f"images have no bands or channels of sound, got num_bands {num_bands} and num_channels "
            f"{num_channels} with input_shape {tuple(input_shape)}; leave both at 1."
        )
    if len(input_shape) == 2 and input_shape[1] % num_parts:
        raise ValueError(
            f"the columns of a frame must be a multiple of num_channels * num_bands, got {input_shape[1]} "
            f"columns for {num_channels} * {num_bands}; leave out the highest bins of each channel."
        )


def _stack_bands(window, num_bands: int):
    """(batch, frames, columns) -> (batch, frames, columns / num_bands, num_bands), the lowest band first."""
    frames, columns = window.shape[1:]
    if num_bands == 1:
        return layers.Reshape((frames, columns, 1))(window)
    bands = layers.Reshape((frames, num_bands, columns // num_bands))(window)
    return layers.Permute((1, 3, 2), name="bands")(bands)


@contextlib.contextmanager
def _dtype_policy(name: str):
    outer = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(outer)
