"""ResNets (He et al. 2016): images (batch, height, width, channels) -> features (batch, units).

`resnet50` is the network of Jansen et al. 2018, section 4.2, and 2020, section 4; `resnet_small` has the same
shape at a size that a CPU trains.
"""

from collections.abc import Callable, Sequence

from keras import layers

# Of the statistics used after training: with Keras's 0.99 a run of 100 steps would end far from them.
NORM_MOMENTUM = 0.9


def convolve(
    x,
    filters: int,
    kernel_size: int,
    *,
    strides: int,
    name: str,
    is_centred: bool = False,
    epsilon: float = 1e-3,
):
    """Convolution without bias, then batch norm over all replicas.

    Args:
      is_centred: both ends are padded by half of the kernel; else as Keras's "same", which pads the beginning
        less where a stride meets an even size.
      epsilon: the batch norm's, added to the variance.
    """
    padding = "same"
    if is_centred and strides > 1 and kernel_size > 1:
        x = layers.ZeroPadding2D(kernel_size // 2, name=f"{name}_pad")(x)
        padding = "valid"
    x = layers.Conv2D(
        filters, kernel_size, strides=strides, padding=padding, use_bias=False,
        kernel_initializer="he_normal", name=f"{name}_conv",
    )(x)  # fmt: skip
    # Statistics of one replica alone would drift apart from the others'.
    return layers.BatchNormalization(
        momentum=NORM_MOMENTUM, epsilon=epsilon, synchronized=True, name=f"{name}_norm"
    )(x)


def _shortcut(x, filters: int, *, strides: int, name: str, convolve: Callable):
    """The input itself, or a projection where the shape changes."""
    if strides == 1 and x.shape[-1] == filters:
        return x
    return convolve(x, filters, 1, strides=strides, name=f"{name}_shortcut")


def bottleneck_block(x, width: int, *, strides: int, name: str, convolve: Callable):
    """1x1, 3x3, 1x1 convolutions beside a shortcut; 4 x width channels out (He et al. 2016, figure 5)."""
    # He et al. put the stride into the first 1x1, which then never sees three quarters of its input.
    shortcut = _shortcut(x, 4 * width, strides=strides, name=name, convolve=convolve)
    x = layers.ReLU()(convolve(x, width, 1, strides=1, name=f"{name}_1"))
    x = layers.ReLU()(convolve(x, width, 3, strides=strides, name=f"{name}_2"))
    x = convolve(x, 4 * width, 1, strides=1, name=f"{name}_3")
    return layers.ReLU()(layers.Add()([shortcut, x]))


def basic_block(x, width: int, *, strides: int, name: str, convolve: Callable):
    """Two 3x3 convolutions beside a shortcut; width channels out (He et al. 2016, figure 5)."""
    shortcut = _shortcut(x, width, strides=strides, name=name, convolve=convolve)
    x = layers.ReLU()(convolve(x, width, 3, strides=strides, name=f"{name}_1"))
    x = convolve(x, width, 3, strides=1, name=f"{name}_2")
    return layers.ReLU()(layers.Add()([shortcut, x]))


def stage(x, block: Callable, width: int, depth: int, *, number: int, convolve: Callable = convolve):
    """So many blocks, the first of which halves height and width but in stage 1."""
    for block_number in range(1, depth + 1):
        strides = 2 if block_number == 1 and number > 1 else 1
        x = block(x, width, strides=strides, name=f"stage{number}_block{block_number}", convolve=convolve)
    return x


def _resnet(x, block: Callable, *, stem_strides: int, widths: Sequence[int], depths: Sequence[int]):
    """Stem of 7x7 and max pool, stages of blocks, average over time and frequency."""
    x = layers.ReLU()(convolve(x, widths[0], 7, strides=stem_strides, name="stem"))
    x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
    for number, (width, depth) in enumerate(zip(widths, depths, strict=True), start=1):
        x = stage(x, block, width, depth, number=number)
    return layers.GlobalAveragePooling2D()(x)


def resnet50(x):
    # The stem has no stride: the paper names the pool's only, as Hershey et al. 2017 do for this input.
    return _resnet(x, bottleneck_block, stem_strides=1, widths=(64, 128, 256, 512), depths=(3, 4, 6, 3))


def resnet_small(x):
    return _resnet(x, basic_block, stem_strides=2, widths=(16, 32, 64, 128), depths=(1, 1, 1, 1))
