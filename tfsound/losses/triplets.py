"""Triplet losses. Embeddings are unit-norm, float32, (batch, embedding_dim)."""

import tensorflow as tf

# `squared_distances` rounds otherwise than `row_squared_distances`, by up to 1.3e-6 for float32 rows of up to
# 2,048 components (measured), and otherwise again for another shape of batch.
_DISTANCE_ROUNDING = 4e-6


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


def triplet_loss(
    anchor: tf.Tensor,
    positive: tf.Tensor,
    negative: tf.Tensor,
    *,
    margin: float,
    weights: tf.Tensor | None = None,
) -> tf.Tensor:
    """Equation 1 over a batch: `mean(weights x triplet_hinges)`; 0 for an empty batch.

    Args:
      anchor, positive, negative: (batch, embedding_dim).
      weights: float, (batch,), what a triplet's source counts; 1 by default.

    Returns:
      A scalar, at least 0.

    Raises:
      ValueError: `weights` of another rank.

    Source: Jansen et al. 2018, section 3.1, equation 1; section 3.2.6 for the weights.
    """
    return _weighted_mean(triplet_hinges(anchor, positive, negative, margin=margin), weights)


def allowed_negatives(
    anchor_recording: tf.Tensor,
    negative_recording: tf.Tensor,
    anchor_label: tf.Tensor | None = None,
    negative_labels: tf.Tensor | None = None,
) -> tf.Tensor:
    """Tells which of a batch's negatives may serve which anchor.

    Those of another recording, and, where anchor and positive share a class, labelled and not with it:
    `anchor_recording != negative_recording`, and
    `anchor_label < 0 or (any(negative_labels >= 0) and anchor_label not in negative_labels)`.
    What nobody labelled may be of the class.

    Args:
      anchor_recording: int64, (batch,).
      negative_recording: int64, (num_candidates,).
      anchor_label: int64, (batch,), the class of anchor and positive, -2 for none.
      negative_labels: int64, (num_candidates, max_labels), padded with -1; given where `anchor_label` is.

    Returns:
      bool, (batch, num_candidates).

    Raises:
      ValueError: one of `anchor_label` and `negative_labels` is missing.

    Source: Jansen et al. 2018, sections 3.2.1 (`(x_n, y_n)` of the labelled examples, `y_n != c`) and 3.2.5
    (another recording).
    """
    if (anchor_label is None) != (negative_labels is None):
        missing = "anchor_label" if anchor_label is None else "negative_labels"
        raise ValueError(
            f"anchor_label and negative_labels go together, got no {missing}; give both or none."
        )
    is_other_recording = anchor_recording[:, None] != negative_recording
    if anchor_label is None:
        return is_other_recording
    is_labelled = tf.reduce_any(negative_labels >= 0, axis=1)
    may_serve = is_other_recording & ((anchor_label[:, None] < 0) | is_labelled)

    # One column of labels at a time: all at once would take max_labels times the memory.
    def without_column(is_allowed: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return is_allowed & (anchor_label[:, None] != labels)

    return tf.foldl(without_column, tf.transpose(negative_labels), initializer=may_serve)


def semi_hard_negatives(
    anchor: tf.Tensor, positive: tf.Tensor, candidates: tf.Tensor, is_negative: tf.Tensor
) -> tf.Tensor:
    """For each anchor the closest negative that is still farther than its positive.

    Where no negative is farther than the positive, the farthest one (as FaceNet's public implementations
    choose); where a row has no negative at all, 0, which `semi_hard_triplet_loss` leaves out. A negative
    as far as the positive is not farther, whatever rounding makes of it: the choice is the same in any
    split of a batch over devices.

    Args:
      anchor, positive: (batch, embedding_dim).
      candidates: (num_candidates, embedding_dim), at least one; the negatives of all replicas.
      is_negative: bool, (batch, num_candidates), see `allowed_negatives`.

    Returns:
      int64, (batch,), rows of `candidates`. No gradient flows through the choice.

    Source: Jansen et al. 2018, section 3.1, last paragraph; Schroff et al. 2015, section 3.2.
    """
    positive_distances = row_squared_distances(anchor, positive)[:, None]
    distances = squared_distances(anchor, candidates)
    is_semi_hard = is_negative & (distances > positive_distances + _DISTANCE_ROUNDING)
    closest = tf.argmin(tf.where(is_semi_hard, distances, distances.dtype.max), axis=1)
    farthest = tf.argmax(tf.where(is_negative, distances, -1.0), axis=1)
    return tf.where(tf.reduce_any(is_semi_hard, axis=1), closest, farthest)


def semi_hard_triplet_loss(
    anchor: tf.Tensor,
    positive: tf.Tensor,
    negative: tf.Tensor,
    candidates: tf.Tensor,
    is_negative: tf.Tensor,
    *,
    margin: float,
    is_mined: tf.Tensor | None = None,
    weights: tf.Tensor | None = None,
) -> tf.Tensor:
    """`triplet_loss` with the negatives that `semi_hard_negatives` reassigns to the rows that are mined.

    A row that is not mined keeps its own negative, as example mixing needs it: its negative is part of its
    positive. A mined row that no candidate may serve counts as 0; a batch of such rows, or of none, has
    loss 0. Memory grows with batch x num_candidates.

    It equals tensorflow-addons' `TripletSemiHardLoss(distance_metric="squared-L2")` where the triplets are
    all ordered pairs of one class and the candidates all examples of the batch (tests/conformance).
    What differs, and why:
      - There every example of another class is a negative, anchors and positives too; here the candidates
        are the triplets' negatives ("the available negatives are reassigned", section 3.1), because a
        positive need not be a window of one recording alone: section 3.2.4 mixes two.
      - There a batch without a negative costs `distance + margin`, and one without a positive pair 0 / 0;
        here both cost 0: neither says which way to go.
      - There rounding decides whether a negative as far as the positive is farther; here it is not.
      - There distances are not squared by default; equation 1 squares them.

    Args:
      anchor, positive, negative: (batch, embedding_dim).
      candidates, is_negative: as `semi_hard_negatives`; `candidates` may be empty.
      is_mined: bool, (batch,); all rows by default.
      weights: float, (batch,), what a triplet's source counts; 1 by default.

    Returns:
      A scalar, at least 0.

    Raises:
      ValueError: `is_mined` or `weights` of another rank.

    Source: Jansen et al. 2018, sections 3.1, 3.2.4 (mixing), 3.2.6 (weights) and 4.2.
    """
    if is_mined is None:
        is_mined = tf.ones_like(anchor[:, 0], dtype=tf.bool)
    is_mined = _one_a_row(is_mined, "is_mined")
    # A last row that serves no anchor, so that an empty batch too has one to choose.
    candidates, is_negative = tf.pad(candidates, [[0, 1], [0, 0]]), tf.pad(is_negative, [[0, 0], [0, 1]])
    chosen = semi_hard_negatives(anchor, positive, candidates, is_negative)
    negative = tf.where(is_mined[:, None], tf.gather(candidates, chosen), negative)
    hinges = triplet_hinges(anchor, positive, negative, margin=margin)
    is_served = tf.reduce_any(is_negative, axis=1) | ~is_mined
    return _weighted_mean(tf.where(is_served, hinges, 0.0), weights)


def _one_a_row(values: tf.Tensor, name: str) -> tf.Tensor:
    """Refuses a column, (batch, 1), which would broadcast rows to squares without a word."""
    values = tf.convert_to_tensor(values)
    if values.shape.rank not in (1, None):
        raise ValueError(f"{name} must be (batch,), got shape {tuple(values.shape)}; squeeze the last axis.")
    return values


def _weighted_mean(values: tf.Tensor, weights: tf.Tensor | None) -> tf.Tensor:
    """`sum(weights x values) / batch`, 0 for an empty batch."""
    if weights is not None:
        values *= tf.cast(_one_a_row(weights, "weights"), values.dtype)
    # The paper sums; we average, so that the batch size does not rescale the gradient. Over the rows and not
    # over their weights, so that what a triplet contributes depends on no other triplet of its batch, and the
    # mean over replicas is the mean over the global batch.
    return tf.math.divide_no_nan(tf.reduce_sum(values), tf.cast(tf.size(values), values.dtype))
