"""ESResNet with attention (Guzhov et al. 2020): images (batch, height, width, channels) -> (batch, units).

The images are of sound with frequency as the height, low bins first; Hornauer et al. 2021 (DLS) have this
network. `esresnet` is the published one, `esresnet_small` the same at a size that a CPU trains.
"""

import functools
from collections.abc import Callable, Sequence

import keras
from keras import layers

from tfsound.networks.resnets import basic_block, bottleneck_block, convolve, stage

# (frequency, time), of each stage's attention branch and of the one beside the last pool.
_STAGE_KERNELS = ((3, 1), (1, 5), (3, 1), (1, 5))
_POOL_KERNEL = (3, 5)
# As the networks have it whose ImageNet weights these start from.
_convolve = functools.partial(convolve, is_centred=True, epsilon=1.001e-5)


def adaptive_max_pool(x, output_size: tuple[int, int], *, name: str):
    """The maximum over windows that cover the image evenly, for the sizes that a stage or a pool has.

    `output[i] = max(x[floor(i * size / output_size) : ceil((i + 1) * size / output_size)])`, by axis.

    `keras.layers.AdaptiveMaxPooling2D` of Keras 3.15 has the same rule, but fails in a graph where the output
    is 1 long, for it also makes windows longer than the input.

    Args:
      x: (batch, height, width, channels).
      output_size: height and width, each the input's, its half rounded up, or 1.
    """
    size = tuple(x.shape[1:3])
    if size == tuple(output_size):
        return x
    windows = [_window(*lengths) for lengths in zip(size, output_size, strict=True)]
    pool_size, strides = zip(*windows, strict=True)
    return layers.MaxPooling2D(pool_size, strides=strides, padding="same", name=name)(x)


def _window(length: int, output_length: int) -> tuple[int, int]:
    """The length of a window, and how far one lies from the next."""
    if output_length == length:
        return 1, 1
    if output_length == 1:
        return length, length
    # Of an odd length, neighbours share a place, and those at the edges lack one: what "same" pads with.
    return 2 + length % 2, 2


def _attend(x, output, kernel_size: tuple[int, int], *, name: str):
    """The output, weighted place by place and channel by channel by what its input says, in (0, 1)."""
    x = adaptive_max_pool(x, output.shape[1:3], name=f"{name}_pool")
    # Keras takes all channels for the fan-in, where each has a kernel of its own.
    initializer = keras.initializers.RandomNormal(stddev=(kernel_size[0] * kernel_size[1]) ** -0.5)
    x = layers.DepthwiseConv2D(
        kernel_size, padding="same", use_bias=False, depthwise_initializer=initializer,
        name=f"{name}_depthwise",
    )(x)  # fmt: skip
    x = _convolve(x, output.shape[-1], 1, strides=1, name=name)
    x = layers.Activation("sigmoid", name=f"{name}_weights")(x)
    return layers.Multiply(name=f"{name}_product")([output, x])


def _esresnet(x, block: Callable, *, widths: Sequence[int], depths: Sequence[int]):
    """A ResNet, with an attention branch beside each stage and the last pool.

    Source: Guzhov et al. 2020 (ESResNet), section 3, and the network as its authors publish it: strides in
    the 3x3 convolutions.
    """
    x = layers.ReLU()(_convolve(x, widths[0], 7, strides=2, name="stem"))
    # Zeros, for nothing is below them after the ReLU.
    x = layers.MaxPooling2D(3, strides=2, name="stem_pool")(layers.ZeroPadding2D(1, name="stem_pool_pad")(x))
    for number, (width, depth, kernel_size) in enumerate(
        zip(widths, depths, _STAGE_KERNELS, strict=True), start=1
    ):
        output = stage(x, block, width, depth, number=number, convolve=_convolve)
        x = _attend(x, output, kernel_size, name=f"stage{number}_attention")
    # A kernel of 3 x 5 on a single place: only its middle is learned, as in the published network.
    pooled = layers.GlobalAveragePooling2D(keepdims=True, name="pool")(x)
    return layers.Flatten()(_attend(x, pooled, _POOL_KERNEL, name="pool_attention"))


def esresnet(x):
    return _esresnet(x, bottleneck_block, widths=(64, 128, 256, 512), depths=(3, 4, 6, 3))


def esresnet_small(x):
    return _esresnet(x, basic_block, widths=(16, 32, 64, 128), depths=(1, 1, 1, 1))
