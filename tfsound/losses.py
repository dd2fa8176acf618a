"""Losses, one pure function an equation. Embeddings are unit-norm, float32, (batch, embedding_dim)."""

import tensorflow as tf


def squared_distances(queries: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
    """Squared Euclidean distances of unit-norm rows: `2 - 2 queries . keys`, at least 0.

    Args:
      queries: (num_queries, embedding_dim); keys: (num_keys, embedding_dim).

    Returns:
      (num_queries, num_keys), in [0, 4].
    """
    # Rounding may carry a product past 1; a negative distance would turn the order of near ones about.
    return tf.maximum(2.0 - 2.0 * tf.matmul(queries, keys, transpose_b=True), 0.0)


def row_squared_distances(left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """`sum((left - right)^2)` of each row: (batch,)."""
    return tf.reduce_sum(tf.math.squared_difference(left, right), axis=-1)


def triplet_hinges(
    anchor: tf.Tensor, positive: tf.Tensor, negative: tf.Tensor, *, margin: float
) -> tf.Tensor:
    """Penalises, row by row, negatives that are not farther than positives by a margin.

    `max(0, |anchor - positive|^2 - |anchor - negative|^2 + margin)`

    Args:
      anchor, positive, negative: (batch, embedding_dim).

    Returns:
      (batch,), at least 0.

    Source: Jansen et al. 2018, section 3.1, equation 1 (the terms of its sum).
    """
    nearer = row_squared_distances(anchor, positive)
    farther = row_squared_distances(anchor, negative)
    return tf.maximum(0.0, nearer - farther + margin)


def triplet_loss(anchor: tf.Tensor, positive: tf.Tensor, negative: tf.Tensor, *, margin: float) -> tf.Tensor:
    """Equation 1 over a batch: the mean of `triplet_hinges`, a scalar; 0 for an empty batch.

    Source: Jansen et al. 2018, section 3.1, equation 1.
    """
    return _mean(triplet_hinges(anchor, positive, negative, margin=margin))


def semi_hard_negatives(
    anchor: tf.Tensor, positive: tf.Tensor, candidates: tf.Tensor, is_negative: tf.Tensor
) -> tf.Tensor:
    """For each anchor the closest negative that is still farther than its positive.

    Where no negative is farther than the positive, the farthest one (as FaceNet's public implementations
    choose); where a row has no negative at all, 0, which `semi_hard_triplet_loss` leaves out.

    Args:
      anchor, positive: (batch, embedding_dim).
      candidates: (num_candidates, embedding_dim), at least one; the negatives of all replicas.
      is_negative: bool, (batch, num_candidates), false where a candidate must not serve an anchor.

    Returns:
      int64, (batch,), rows of `candidates`. No gradient flows through the choice.

    Source: Jansen et al. 2018, section 3.1, last paragraph; Schroff et al. 2015, section 3.2.
    """
    positive_distances = row_squared_distances(anchor, positive)[:, None]
    distances = squared_distances(anchor, candidates)
    is_semi_hard = is_negative & (distances > positive_distances)
    closest = tf.argmin(tf.where(is_semi_hard, distances, distances.dtype.max), axis=1)
    farthest = tf.argmax(tf.where(is_negative, distances, -1.0), axis=1)
    return tf.where(tf.reduce_any(is_semi_hard, axis=1), closest, farthest)


def semi_hard_triplet_loss(
    anchor: tf.Tensor,
    positive: tf.Tensor,
    candidates: tf.Tensor,
    is_negative: tf.Tensor,
    *,
    margin: float,
) -> tf.Tensor:
    """`triplet_loss` with the negatives that `semi_hard_negatives` reassigns.

    A row without any negative counts as 0; a batch of such rows, or of none, has loss 0.

    Args:
      anchor, positive, candidates, is_negative: as `semi_hard_negatives`; `candidates` may be empty.

    Returns:
      A scalar, at least 0.

    Source: Jansen et al. 2018, sections 3.1 and 4.2.
    """
    # A last row that serves no anchor, so that an empty batch too has one to choose.
    candidates, is_negative = tf.pad(candidates, [[0, 1], [0, 0]]), tf.pad(is_negative, [[0, 0], [0, 1]])
    chosen = semi_hard_negatives(anchor, positive, candidates, is_negative)
    hinges = triplet_hinges(anchor, positive, tf.gather(candidates, chosen), margin=margin)
    return _mean(tf.where(tf.reduce_any(is_negative, axis=1), hinges, 0.0))


def _mean(values: tf.Tensor) -> tf.Tensor:
    # The paper sums; we average, so that the batch size does not rescale the gradient.
    return tf.math.divide_no_nan(tf.reduce_sum(values), tf.cast(tf.size(values), values.dtype))
