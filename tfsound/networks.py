"""Encoders, chosen by name. Log-mel (batch, frames, mel_bins) -> unit-norm embeddings (batch, embedding_dim).

`resnet50` is the network of Jansen et al. 2018, section 4.2; `resnet_small` has the same shape at a size
that a CPU trains.
"""

import contextlib
from collections.abc import Callable, Sequence

import keras
from keras import layers

# The paper's d; a factor of 48 below 96 x 64.
EMBEDDING_DIM = 128
# Of the statistics used after training: with Keras's 0.99 a run of 100 steps would end far from them.
_NORM_MOMENTUM = 0.9


def _convolve(x, filters: int, kernel_size: int, *, strides: int, name: str):
    """Convolution without bias, then batch norm over all replicas."""
    x = layers.Conv2D(
        filters, kernel_size, strides=strides, padding="same", use_bias=False,
        kernel_initializer="he_normal", name=f"{name}_conv",
    )(x)  # fmt: skip
    # Statistics of one replica alone would drift apart from the others'.
    return layers.BatchNormalization(momentum=_NORM_MOMENTUM, synchronized=True, name=f"{name}_norm")(x)


def _shortcut(x, filters: int, *, strides: int, name: str):
    """The input itself, or a projection where the shape changes."""
    if strides == 1 and x.shape[-1] == filters:
        return x
    return _convolve(x, filters, 1, strides=strides, name=f"{name}_shortcut")


def _bottleneck_block(x, width: int, *, strides: int, name: str):
    """1x1, 3x3, 1x1 convolutions beside a shortcut; 4 x width channels out (He et al. 2016, figure 5)."""
    # He et al. put the stride into the first 1x1, which then never sees three quarters of its input.
    shortcut = _shortcut(x, 4 * width, strides=strides, name=name)
    x = layers.ReLU()(_convolve(x, width, 1, strides=1, name=f"{name}_1"))
    x = layers.ReLU()(_convolve(x, width, 3, strides=strides, name=f"{name}_2"))
    x = _convolve(x, 4 * width, 1, strides=1, name=f"{name}_3")
    return layers.ReLU()(layers.Add()([shortcut, x]))


def _basic_block(x, width: int, *, strides: int, name: str):
    """Two 3x3 convolutions beside a shortcut; width channels out (He et al. 2016, figure 5)."""
    shortcut = _shortcut(x, width, strides=strides, name=name)
    x = layers.ReLU()(_convolve(x, width, 3, strides=strides, name=f"{name}_1"))
    x = _convolve(x, width, 3, strides=1, name=f"{name}_2")
    return layers.ReLU()(layers.Add()([shortcut, x]))


def _resnet(x, block: Callable, *, stem_strides: int, widths: Sequence[int], depths: Sequence[int]):
    """Stem of 7x7 and max pool, stages of blocks, average over time and frequency."""
    x = layers.ReLU()(_convolve(x, widths[0], 7, strides=stem_strides, name="stem"))
    x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True), start=1):
        for number in range(1, depth + 1):
            strides = 2 if number == 1 and stage > 1 else 1
            x = block(x, width, strides=strides, name=f"stage{stage}_block{number}")
    return layers.GlobalAveragePooling2D()(x)


def _resnet50(x):
    # The stem has no stride: the paper names the pool's only, as Hershey et al. 2017 do for this input.
    return _resnet(x, _bottleneck_block, stem_strides=1, widths=(64, 128, 256, 512), depths=(3, 4, 6, 3))


def _resnet_small(x):
    return _resnet(x, _basic_block, stem_strides=2, widths=(16, 32, 64, 128), depths=(1, 1, 1, 1))


ENCODERS: dict[str, Callable] = {"resnet50": _resnet50, "resnet_small": _resnet_small}


def build_encoder(
    name: str,
    *,
    input_shape: tuple[int, int] = (96, 64),
    embedding_dim: int = EMBEDDING_DIM,
    dtype_policy: str = "float32",
) -> keras.Model:
    """An encoder with fresh weights.

    Args:
      name: one of `ENCODERS`.
      input_shape: (frames, mel_bins) of a context window.
      embedding_dim: units of the linear output layer.
      dtype_policy: Keras's; under `mixed_bfloat16` the output layer stays float32.

    Returns:
      A model: log-mel float32 (batch, frames, mel_bins) -> embeddings float32 (batch, embedding_dim) of
      length 1.

    Raises:
      ValueError: an unknown name, or dtype policy.

    Source: Jansen et al. 2018, section 4.2.
    """
    if name not in ENCODERS:
        raise ValueError(f"encoder must be one of {sorted(ENCODERS)}, got {name!r}.")
    with _dtype_policy(dtype_policy):
        log_mel = keras.Input(input_shape, name="log_mel", dtype="float32")
        x = layers.Reshape((*input_shape, 1))(log_mel)
        x = ENCODERS[name](x)
        x = layers.Dense(embedding_dim, dtype="float32", name="embedding")(x)
        embeddings = layers.UnitNormalization(dtype="float32", name="unit_norm")(x)
        return keras.Model(log_mel, embeddings, name=name)


@contextlib.contextmanager
def _dtype_policy(name: str):
    outer = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(outer)
