"""Encoders, chosen by name, of sounds and of images; the heads that tell coinciding pairs, and clusters.

Log-mel (batch, frames, mel_bins), or images (batch, height, width, 3) in [0, 1], -> embeddings
(batch, embedding_dim), unit-norm where asked for. `resnet50` is the network of Jansen et al. 2018, section
4.2, and 2020, section 4; `resnet_small` has the same shape at a size that a CPU trains; `vgg` is that of
Arandjelovic and Zisserman 2017, which rows d and g of the 2020 paper's table 1 have in its place, `vgg_small`
the same at an eighth of the width, with a quarter of `resnet_small`'s weights, as `vgg` has a fifth of
`resnet50`'s.
"""

import contextlib
from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import layers

# The paper's d; a factor of 48 below 96 x 64.
EMBEDDING_DIM = 128
# Of the layer that tells coinciding pairs (Jansen et al. 2020, section 4).
HIDDEN_UNITS = 512
# Of the head that tells clusters (Jansen et al. 2020, section 4).
LOGIT_SCALE = 60.0
# Embeddings and clusters of a block where there are many: 128 MB of cosines.
_BLOCK_EMBEDDINGS, _BLOCK_CLUSTERS = 1024, 32768
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


def _vgg(x, *, widths: Sequence[int] = (64, 128, 256, 512)):
    """Four blocks of two 3x3 convolutions, each block halved by a max pool.

    Source: Arandjelovic and Zisserman 2017 (Look, listen and learn), figure 2 and section 2.1, the network
    of either modality; Jansen et al. 2020, section 4.1, rows d and g of table 1. The audio VGG of Hershey
    et al. 2017 is another one: its convolutions end in fully connected layers, and it has 62 million weights.
    """
    for block, width in enumerate(widths, start=1):
        for number in (1, 2):
            x = layers.ReLU()(_convolve(x, width, 3, strides=1, name=f"block{block}_{number}"))
        if block < len(widths):
            # No row is left out where the size is odd, and one of a single row stays.
            x = layers.MaxPooling2D(2, padding="same")(x)
    # The last pool takes the maximum over all places, as there; the average is ResNet's.
    return layers.GlobalMaxPooling2D()(x)


def _vgg_small(x):
    return _vgg(x, widths=(8, 16, 32, 64))


# (batch, height, width, channels) -> features (batch, units).
ENCODERS: dict[str, Callable] = {
    "resnet50": _resnet50,
    "resnet_small": _resnet_small,
    "vgg": _vgg,
    "vgg_small": _vgg_small,
}


def build_encoder(
    name: str,
    *,
    input_shape: tuple[int, ...] = (96, 64),
    embedding_dim: int = EMBEDDING_DIM,
    unit_norm: bool = True,
    dtype_policy: str = "float32",
) -> keras.Model:
    """An encoder with fresh weights.

    Args:
      name: one of `ENCODERS`.
      input_shape: (frames, mel_bins) of a context window, or (height, width, 3) of an image.
      embedding_dim: units of the linear output layer.
      unit_norm: scale embeddings to length 1, as triplets need it. The 2020 paper does not say so of
        coincidence, and its clusters normalise for themselves.
      dtype_policy: Keras's; under `mixed_bfloat16` the output layer stays float32.

    Returns:
      A model: log-mel float32 (batch, frames, mel_bins), or images float32 (batch, height, width, 3) in
      [0, 1], -> embeddings float32 (batch, embedding_dim).

    Raises:
      ValueError: an unknown name, or dtype policy; a shape of neither kind.

    Source: Jansen et al. 2018, section 4.2; Jansen et al. 2020, section 4.
    """
    if name not in ENCODERS:
        raise ValueError(f"encoder must be one of {sorted(ENCODERS)}, got {name!r}.")
    if len(input_shape) not in (2, 3):
        raise ValueError(
            "input_shape must be (frames, mel_bins) of windows or (height, width, 3) of images, "
            f"got {tuple(input_shape)}."
        )
    is_image = len(input_shape) == 3
    with _dtype_policy(dtype_policy):
        inputs = keras.Input(input_shape, name="image" if is_image else "log_mel", dtype="float32")
        x = inputs if is_image else layers.Reshape((*input_shape, 1))(inputs)
        x = ENCODERS[name](x)
        embeddings = layers.Dense(embedding_dim, dtype="float32", name="embedding")(x)
        if unit_norm:
            embeddings = layers.UnitNormalization(dtype="float32", name="unit_norm")(embeddings)
        return keras.Model(inputs, embeddings, name=f"{name}_image" if is_image else name)


@keras.saving.register_keras_serializable("tfsound")
class CoincidenceHead(layers.Layer):
    """Tells whether two embeddings coincide: a hidden ReLU layer on both, then one logit.

    `logit(left, right) = output_kernel . relu([left, right] @ hidden_kernel + hidden_bias) + output_bias`

    A layer on a concatenation is a sum of two projections,
    `[left, right] @ hidden_kernel = left @ hidden_kernel[:d] + right @ hidden_kernel[d:]`,
    each of which is made once a row and not once a pair: see `losses.all_pairs_coincidence_loss`.

    Args:
      hidden_units: of the ReLU layer.

    Source: Jansen et al. 2020, section 3.1, p_AA and p_AV; section 4 for the layers.
    """

    def __init__(self, hidden_units: int = HIDDEN_UNITS, **kwargs):
        super().__init__(**kwargs)
        if hidden_units < 1:
            raise ValueError(f"hidden_units must be at least 1, got {hidden_units}.")
        self.hidden_units = hidden_units

    def get_config(self) -> dict:
        return super().get_config() | {"hidden_units": self.hidden_units}

    def build(self, left_shape: Sequence[int | None], right_shape: Sequence[int | None]) -> None:
        """Makes the variables for embeddings of shape (batch, left_dim) and (batch, right_dim)."""
        self._left_dim = left_shape[-1]
        self.hidden_kernel = self.add_weight(
            shape=(left_shape[-1] + right_shape[-1], self.hidden_units),
            initializer="he_normal", name="hidden_kernel",
        )  # fmt: skip
        self.hidden_bias = self.add_weight(
            shape=(self.hidden_units,), initializer="zeros", name="hidden_bias"
        )
        self.output_kernel = self.add_weight(
            shape=(self.hidden_units, 1), initializer="glorot_uniform", name="output_kernel"
        )
        self.output_bias = self.add_weight(shape=(1,), initializer="zeros", name="output_bias")

    def project_left(self, embeddings):
        """The left embeddings' part of the hidden layer before its ReLU, bias included: (rows, hidden)."""
        return self._project(embeddings, self.hidden_kernel[: self._left_dim]) + self._computed(
            self.hidden_bias
        )

    def project_right(self, embeddings):
        """The right embeddings' part of the hidden layer before its ReLU: (columns, hidden)."""
        return self._project(embeddings, self.hidden_kernel[self._left_dim :])

    def _project(self, embeddings, kernel):
        return keras.ops.matmul(self._computed(embeddings), self._computed(kernel))

    def _computed(self, tensor):
        return keras.ops.cast(tensor, self.compute_dtype)

    def call(self, left, right):
        """Logits of pairs row by row: (batch, left_dim), (batch, right_dim) -> float32, (batch,)."""
        hidden = keras.ops.relu(self.project_left(left) + self.project_right(right))
        # A logit is a sum over all hidden units: in float32, as the output layers of the encoders.
        hidden = keras.ops.cast(hidden, "float32")
        output_kernel = keras.ops.cast(self.output_kernel, "float32")
        return keras.ops.matmul(hidden, output_kernel)[:, 0] + keras.ops.cast(self.output_bias, "float32")


@keras.saving.register_keras_serializable("tfsound")
class ClusterHead(layers.Layer):
    """Tells which of many clusters an embedding belongs to: logits are scaled cosines, without a bias.

    `logits[i, k] = logit_scale * unit(embeddings[i]) . unit(kernel[k])`

    It is learned by `losses.cluster_entropy_loss`, which takes its `kernel` and never makes all logits.

    Args:
      num_clusters: K, at least 2.
      logit_scale: the logit of two equal directions.

    Raises:
      ValueError: a number out of range.

    Source: Jansen et al. 2020, section 3.2, p_clust; section 4 for the layer.
    """

    def __init__(self, num_clusters: int, logit_scale: float = LOGIT_SCALE, **kwargs):
        super().__init__(**kwargs)
        if num_clusters < 2:
            raise ValueError(f"num_clusters must be at least 2, got {num_clusters}; one tells nothing.")
        if not 0 < logit_scale < float("inf"):
            raise ValueError(f"logit_scale must be positive and finite, got {logit_scale}.")
        self.num_clusters = num_clusters
        self.logit_scale = logit_scale

    def get_config(self) -> dict:
        names = ("num_clusters", "logit_scale")
        return super().get_config() | {name: getattr(self, name) for name in names}

    def build(self, embeddings_shape: Sequence[int | None]) -> None:
        """Makes the variable for embeddings of shape (batch, embedding_dim)."""
        self.kernel = self.add_weight(
            shape=(self.num_clusters, embeddings_shape[-1]), initializer=_random_directions, name="kernel"
        )

    def call(self, embeddings):
        """All logits, for few clusters: (batch, embedding_dim) -> (batch, num_clusters)."""
        kernel = keras.ops.cast(self.kernel, self.compute_dtype)
        cosines = keras.ops.matmul(_unit_rows(embeddings), keras.ops.transpose(_unit_rows(kernel)))
        return self.logit_scale * cosines

    def assign(self, embeddings) -> np.ndarray:
        """The most probable cluster of each embedding; of equally probable ones the first.

        In blocks: memory does not grow with the number of clusters, nor with that of embeddings but for them.

        Args:
          embeddings: float32, (embeddings, embedding_dim), of any length; a row of zeros is in cluster 0.

        Returns:
          int32, (embeddings,), in [0, num_clusters).

        Raises:
          ValueError: embeddings of another shape, or that are not finite.
        """
        embeddings = np.asarray(embeddings, np.float32)
        if embeddings.ndim != 2 or embeddings.shape[1] != self.kernel.shape[1]:
            raise ValueError(
                f"embeddings must be (embeddings, {self.kernel.shape[1]}), got shape {embeddings.shape}."
            )
        if not np.isfinite(embeddings).all():
            raise ValueError("embeddings must be finite, got NaN or infinity; the encoder may have diverged.")
        clusters = np.zeros(len(embeddings), np.int32)
        highest = np.full(len(embeddings), -np.inf, np.float32)
        for first in range(0, self.num_clusters, _BLOCK_CLUSTERS):
            units = keras.ops.transpose(_unit_rows(self.kernel[first : first + _BLOCK_CLUSTERS]))
            for start in range(0, len(embeddings), _BLOCK_EMBEDDINGS):
                rows = slice(start, start + _BLOCK_EMBEDDINGS)
                # The length of an embedding changes no order.
                similarities = keras.ops.matmul(embeddings[rows], units)
                best = keras.ops.convert_to_numpy(keras.ops.max(similarities, axis=1))
                found = keras.ops.convert_to_numpy(keras.ops.argmax(similarities, axis=1))
                is_higher = best > highest[rows]
                clusters[rows] = np.where(is_higher, first + found, clusters[rows])
                highest[rows] = np.maximum(best, highest[rows])
        return clusters


def _unit_rows(rows):
    """Rows of length 1; rows of zeros stay zero."""
    lengths = keras.ops.norm(rows, axis=1, keepdims=True)
    return rows / keras.ops.where(lengths == 0, keras.ops.ones_like(lengths), lengths)


def _random_directions(shape: Sequence[int], dtype: str):
    """Random rows of about length 1, (clusters, embedding_dim)."""
    # In blocks, for Keras holds three tensors of the size that it draws.
    counts = [min(_BLOCK_CLUSTERS, shape[0] - start) for start in range(0, shape[0], _BLOCK_CLUSTERS)]
    stddev = shape[1] ** -0.5
    blocks = [keras.random.normal((count, shape[1]), stddev=stddev, dtype=dtype) for count in counts]
    return keras.ops.concatenate(blocks)


@contextlib.contextmanager
def _dtype_policy(name: str):
    outer = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(outer)
