"""Classification losses: cross-entropy between labels and predictions of windows, from logits, float32.

Source: Jansen et al. 2020, section 3.3.
"""

import tensorflow as tf


def known_labels(labels: tf.Tensor, known: tf.Tensor | None, *, multi_label: bool) -> tf.Tensor:
    """Which labels a loss may look at, one by one: bool, (batch, classes); or whole rows: (batch,).

    Args:
      labels: (batch, classes).
      known: bool, (batch, classes) or (batch,); by default all are.
      multi_label: see `classification_loss`.

    Raises:
      ValueError: another shape; single classes of rows whose classes exclude each other.
    """
    labels = tf.convert_to_tensor(labels)
    shape = tf.shape(labels) if multi_label else tf.shape(labels)[:1]
    if known is None:
        return tf.ones(shape, tf.bool)
    known = tf.convert_to_tensor(known)
    if known.shape.rank not in (1, 2) or (known.shape.rank == 2 and not multi_label):
        wanted = "(batch,) or (batch, classes)" if multi_label else "(batch,), as classes exclude each other"
        raise ValueError(f"known must be bool, {wanted}, got shape {tuple(known.shape)}.")
    if known.shape.rank == 1 and multi_label:
        known = known[:, None]
    return tf.logical_and(tf.cast(known, tf.bool), tf.ones(shape, tf.bool))


def classification_loss(
    logits: tf.Tensor,
    labels: tf.Tensor,
    known: tf.Tensor | None = None,
    *,
    multi_label: bool = True,
    num_known: tf.Tensor | None = None,
) -> tf.Tensor:
    """Penalises predictions that differ from the labels, where these are known.

    multi-label: `mean over known (window, class) of -y log p - (1 - y) log(1 - p)`, `p = sigmoid(logits)`
    else:        `mean over known windows of -sum over classes of y log p`, `p = softmax(logits)`

    The paper's cross-entropy of a window is a sum over classes; of independent ones we take the mean, so
    that their number does not rescale the loss.

    Args:
      logits: float, (batch, classes).
      labels: (batch, classes), in [0, 1]: bool, hard or soft.
      known: bool, (batch,) or, if multi-label, (batch, classes): labels that are False here, the uncertain
        ones, have no say, whatever they hold; all are known by default.
      multi_label: whether a window may have any number of the classes, or has exactly one.
      num_known: what to divide the sum by, a scalar, by default the number of known labels. On several
        replicas the mean number over these makes the mean of their losses that of the global batch.

    Returns:
      A scalar, float32, at least 0; 0, with gradients of 0, where nothing is known.

    Raises:
      ValueError: logits and labels of different shapes; see also `known_labels`.

    Source: Jansen et al. 2020, section 3.3, equation 3.
    """
    logits, labels = tf.convert_to_tensor(logits), tf.convert_to_tensor(labels)
    if not logits.shape.is_compatible_with(labels.shape):
        raise ValueError(
            f"logits and labels must both be (batch, classes), got {logits.shape} and {labels.shape}."
        )
    is_known = known_labels(labels, known, multi_label=multi_label)
    # Before anything is computed of them: a NaN times 0 is NaN, in gradients, too.
    is_row_known = is_known if multi_label else is_known[:, None]
    logits = tf.where(is_row_known, tf.cast(logits, tf.float32), 0.0)
    labels = tf.where(is_row_known, tf.cast(labels, tf.float32), 0.0)
    if multi_label:
        entropies = tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits)
    else:
        # Not TensorFlow's own, whose gradient is wrong for labels that do not add up to 1.
        entropies = -tf.reduce_sum(labels * tf.nn.log_softmax(logits), axis=-1)
    weights = tf.cast(is_known, tf.float32)
    if num_known is None:
        num_known = tf.reduce_sum(weights)
    return tf.math.divide_no_nan(tf.reduce_sum(weights * entropies), num_known)
