"""Losses of instance discrimination: every instance is a class of its own.

What stands for an instance is its row of a memory bank, and a row is not learned by a gradient: gradients
reach the embeddings alone. Rows and embeddings are unit-norm; sums are made in float32.

Source: Hornauer et al. 2021, section 4; Wu et al. 2018, sections 3.1 and 3.2.
"""

import math

import tensorflow as tf


def instance_softmax_loss(
    embeddings: tf.Tensor, ids: tf.Tensor, bank: tf.Tensor, *, temperature: float
) -> tf.Tensor:
    """Penalises embeddings that are nearer to rows of other instances than to their own.

    `mean over i of -log P(ids[i] | embeddings[i])`, with
    `P(j | v) = exp(bank[j] . v / temperature) / sum_k exp(bank[k] . v / temperature)`

    Time and memory grow with batch x instances; `noise_contrastive_loss` is for many.

    Args:
      embeddings: float, (batch, embedding_dim).
      ids: int, (batch,), each in [0, instances).
      bank: float, (instances, embedding_dim).
      temperature: tau, positive.

    Returns:
      A scalar, float32, at least 0; 0 for an empty batch.

    Source: Hornauer et al. 2021, section 4, equation 1.
    """
    bank = tf.stop_gradient(tf.cast(bank, tf.float32))
    logits = tf.matmul(tf.cast(embeddings, tf.float32), bank, transpose_b=True) / temperature
    # The paper sums; we average, so that the batch size does not rescale the gradient.
    return _mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=ids, logits=logits))


def instance_logits(embeddings: tf.Tensor, rows: tf.Tensor, *, temperature: float) -> tf.Tensor:
    """How near embeddings are to rows of a memory bank: `rows[i, j] . embeddings[i] / temperature`.

    Args:
      embeddings: float, (batch, embedding_dim).
      rows: float, (batch, candidates, embedding_dim), other rows for each embedding.
      temperature: tau, positive.

    Returns:
      float32, (batch, candidates). Gradients flow to the embeddings alone.
    """
    rows = tf.stop_gradient(tf.cast(rows, tf.float32))
    return tf.linalg.matvec(rows, tf.cast(embeddings, tf.float32)) / temperature


def log_partition_estimate(negative_logits: tf.Tensor, num_instances: int) -> tf.Tensor:
    """The logarithm of Z, the denominator of the softmax, from rows drawn uniformly from the memory bank.

    `log(num_instances x mean(exp(negative_logits)))`

    Args:
      negative_logits: float32, (batch, negatives), at least one; see `instance_logits`.
      num_instances: n, rows of the bank.

    Returns:
      A scalar, float32.

    Source: Wu et al. 2018, section 3.2: one Z for all instances, from the first batch.
    """
    num_logits = tf.cast(tf.size(negative_logits), tf.float32)
    return tf.reduce_logsumexp(negative_logits) - tf.math.log(num_logits) + math.log(num_instances)


def noise_contrastive_loss(
    own_logits: tf.Tensor, negative_logits: tf.Tensor, *, log_partition: tf.Tensor, num_instances: int
) -> tf.Tensor:
    """Penalises embeddings whose own row is hard to tell from rows that are drawn uniformly.

    `mean over i of -log h(own[i]) - sum_j log(1 - h(negative[i, j]))`, with `h = P / (P + m P_n)`,
    `P = exp(logit) / Z` and `P_n = 1 / num_instances`

    By the logits, `h = sigmoid(logit - log Z - log(m / n))`. For an embedding with P of equation 1, that is
    with the sum of its own as Z, and in expectation over the negatives, as m grows
      - the gradient by the embedding becomes that of `instance_softmax_loss`, and
      - the loss less `log(m / n) + 1` becomes that loss,
    both with an error that falls as n / m.

    Args:
      own_logits: float, (batch,), of each embedding with the row of its instance; see `instance_logits`.
      negative_logits: float, (batch, negatives), with m rows drawn uniformly, m at least 1. The own row may
        be among them.
      log_partition: log Z, a scalar; no gradient flows to it.
      num_instances: n, rows of the bank.

    Returns:
      A scalar, float32, at least 0; 0 for an empty batch.

    Source: Wu et al. 2018, section 3.2; Hornauer et al. 2021, section 4 (64 negatives).
    """
    own_logits, negative_logits = (tf.cast(logits, tf.float32) for logits in (own_logits, negative_logits))
    num_negatives = tf.cast(tf.shape(negative_logits)[1], tf.float32)
    offset = tf.stop_gradient(log_partition) + tf.math.log(num_negatives) - math.log(num_instances)
    # -log sigmoid(x) = softplus(-x) and -log(1 - sigmoid(x)) = softplus(x), neither of which overflows.
    of_negatives = tf.reduce_sum(tf.math.softplus(negative_logits - offset), axis=1)
    return _mean(tf.math.softplus(offset - own_logits) + of_negatives)


def _mean(values: tf.Tensor) -> tf.Tensor:
    """The mean, and 0 of nothing."""
    return tf.math.divide_no_nan(tf.reduce_sum(values), tf.cast(tf.size(values), values.dtype))
