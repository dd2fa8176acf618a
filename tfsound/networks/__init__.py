"""Encoders, chosen by name, of sounds and of images; the heads that tell coinciding pairs, and clusters.

Log-mel (batch, frames, columns), or images (batch, height, width, 3) in [0, 1], -> embeddings
(batch, embedding_dim), unit-norm where asked for.

`resnets`: `resnet50`, the network of Jansen et al. 2018, section 4.2, and 2020, section 4; `resnet_small` has
    the same shape at a size that a CPU trains.
`vgg`: that of Arandjelovic and Zisserman 2017, which rows d and g of the 2020 paper's table 1 have in its
    place; `vgg_small` at an eighth of the width, with a quarter of `resnet_small`'s weights, as `vgg` has
    a fifth of `resnet50`'s.
`esresnet`: ResNet-50 with attention, of Guzhov et al. 2020, which Hornauer et al. 2021 pre-train;
    `esresnet_small` at a size that a CPU trains.
`densenet`: DenseNet-121, the second network of Hornauer et al. 2021.
`imagenet`: weight files of keras.applications as a start of the last two.
`heads`: what tells coinciding pairs and clusters from embeddings (Jansen et al. 2020).
"""

from tfsound.networks.encoders import EMBEDDING_DIM, ENCODERS, build_encoder, without_embedding
from tfsound.networks.heads import HIDDEN_UNITS, LOGIT_SCALE, ClusterHead, CoincidenceHead
from tfsound.networks.imagenet import WeightReport, load_imagenet_weights

__all__ = [
    "EMBEDDING_DIM",
    "ENCODERS",
    "HIDDEN_UNITS",
    "LOGIT_SCALE",
    "ClusterHead",
    "CoincidenceHead",
    "WeightReport",
    "build_encoder",
    "load_imagenet_weights",
    "without_embedding",
]
