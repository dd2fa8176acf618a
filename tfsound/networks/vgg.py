"""VGG of Arandjelovic and Zisserman 2017: images (batch, height, width, channels) -> features.

`vgg` is what rows d and g of the 2020 paper's table 1 have in the place of the ResNet, `vgg_small` the same
at an eighth of the width, with a quarter of `resnet_small`'s weights, as `vgg` has a fifth of `resnet50`'s.
"""

from collections.abc import Sequence

from keras import layers

from tfsound.networks.resnets import convolve


def vgg(x, *, widths: Sequence[int] = (64, 128, 256, 512)):
    """Four blocks of two 3x3 convolutions, each block halved by a max pool.

    Source: Arandjelovic and Zisserman 2017 (Look, listen and learn), figure 2 and section 2.1, the network
    of either modality; Jansen et al. 2020, section 4.1, rows d and g of table 1. The audio VGG of Hershey
    et al. 2017 is another one: its convolutions end in fully connected layers, and it has 62 million weights.
    """
    for block, width in enumerate(widths, start=1):
        for number in (1, 2):
            x = layers.ReLU()(convolve(x, width, 3, strides=1, name=f"block{block}_{number}"))
        if block < len(widths):
            # No row is left out where the size is odd, and one of a single row stays.
            x = layers.MaxPooling2D(2, padding="same")(x)
    # The last pool takes the maximum over all places, as there; the average is ResNet's.
    return layers.GlobalMaxPooling2D()(x)


def vgg_small(x):
    return vgg(x, widths=(8, 16, 32, 64))
