"""Heads on embeddings: one tells coinciding pairs, one tells clusters (Jansen et al. 2020)."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import layers

# Of the layer that tells coinciding pairs (Jansen et al. 2020, section 4).
HIDDEN_UNITS = 512
# Of the head that tells clusters (Jansen et al. 2020, section 4).
LOGIT_SCALE = 60.0
# Embeddings and clusters of a block where there are many: 128 MB of cosines.
_BLOCK_EMBEDDINGS, _BLOCK_CLUSTERS = 1024, 32768


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
