"""DenseNet-121 of keras.applications: images (batch, height, width, channels) -> features (batch, 1024)."""

import keras
from keras import layers

from tfsound.networks.resnets import NORM_MOMENTUM

# Halved five times.
_SMALLEST = 32


def densenet(x):
    """Source: Huang et al. 2017; Hornauer et al. 2021 (DLS), section 6, the second backbone.

    Raises:
      ValueError: an image too small to be halved five times.
    """
    if min(x.shape[1:3]) < _SMALLEST:
        raise ValueError(
            f"densenet needs images of at least {_SMALLEST} x {_SMALLEST}, got {x.shape[1]} x {x.shape[2]}; "
            "use longer windows, more bins or fewer bands, or another encoder."
        )
    network = keras.applications.DenseNet121(include_top=False, weights=None, input_tensor=x, pooling="avg")
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum, layer.synchronized = NORM_MOMENTUM, True
    return network.output
