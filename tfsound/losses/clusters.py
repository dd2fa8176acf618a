"""The cluster loss: confident clusters of which all are used; entropies in nats, float32.

A sound's distribution over clusters is a softmax of cosines,
`p[i, k] = softmax(logit_scale * cos(embeddings[i], kernel[k]) over k)`. With a million clusters its logits,
(batch, clusters), are beside the kernel by far the largest thing of a step; here the clusters are walked in
blocks, and no more than one block of probabilities, derivatives and unit rows ever exists. The logits are
kept from pass to pass where they are not too many, which saves three of six matrix products; else they are
made again.

On several replicas each has its own rows, and the mean distribution is that of the rows of all: replicas
share (clusters,) numbers, and nothing else.

Source: Jansen et al. 2020, sections 3.2 and 4.
"""

import functools
from collections.abc import Callable

import tensorflow as tf

from tfsound.losses.blocks import in_blocks

# A block of 1,000 clusters and its logits for a batch of 64 take 0.8 MB, as a core's cache holds: of 500 to
# 4,000 all measured within a tenth. A GPU wants fewer and larger steps (not measured).
_CPU_BLOCK_SIZE, _GPU_BLOCK_SIZE = 1000, 65536
# Products of batch, clusters and dimensions from which on compiling, a few seconds, is worth it.
_COMPILED_FROM = 1 << 26
# As float32: those of a batch of 64 and a million clusters take a quarter of it.
_MOST_KEPT_BYTES = 1 << 30
# The logit of what is no cluster but the end of the last block: its probability and all that is made of it
# are 0, and it is finite, so that 0 times it is 0.
_NO_LOGIT = -1e30


def cluster_entropy_loss(
    embeddings: tf.Tensor,
    kernel: tf.Tensor,
    *,
    logit_scale: float = 60.0,
    diversity_weight: float = 1.1,
    mean_over_replicas: Callable[[tf.Tensor], tf.Tensor] | None = None,
    block_size: int | None = None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Penalises sounds that are unsure of their cluster, and clusters that few sounds are in.

    `mean_i H[p[i]] - diversity_weight * H[mean_i p[i]]`, with
    `p[i] = softmax(logit_scale * unit(embeddings[i]) . unit(kernel[k]) over k)` and
    `H[p] = -sum_k p[k] log p[k]`

    The gradients of embeddings and kernel are exact, through both normalisations. A row of zeros has no
    direction: its cosines are 0, and its gradient too. Memory grows with clusters x embedding_dim, for the
    kernel's gradient, and with batch x clusters up to 1 GiB; time with batch x clusters x embedding_dim.

    Args:
      embeddings: float, (batch, embedding_dim), of any length.
      kernel: float, (clusters, embedding_dim), a row a cluster, of any length.
      logit_scale: the logit of two equal directions.
      diversity_weight: gamma; above 1, for at 1 trivial solutions are as good as others (section 3.2).
      mean_over_replicas: of a (clusters,) tensor; without it the batch is that of one device. The mean of the
        loss over replicas with as many rows each is the loss of the global batch.
      block_size: clusters of a block at most; by default as many as suit the device.

    Returns:
      The loss, the mean of the entropies and the entropy of the mean: scalars, float32, differentiable. The
      entropies are in [0, log clusters]; the first is this replica's, the second that of all.

    Raises:
      ValueError: a single cluster; tensors that do not fit each other; a block size below 1.

    Source: Jansen et al. 2020, section 3.2; section 4 for the head.
    """
    _require_fitting(embeddings, kernel)
    # Sums over a million clusters are made in float32 whatever the policy.
    units = _unit_rows(tf.cast(embeddings, tf.float32))
    kernel = tf.cast(kernel, tf.float32)
    entropies, mean_probs = _entropies(units, kernel, logit_scale, _block_size(block_size, kernel.shape[0]))
    if mean_over_replicas is not None:
        mean_probs = mean_over_replicas(mean_probs)
    mean_entropy = tf.reduce_mean(entropies)
    entropy_of_mean = -tf.reduce_sum(tf.math.xlogy(mean_probs, mean_probs))
    return mean_entropy - diversity_weight * entropy_of_mean, mean_entropy, entropy_of_mean


def _require_fitting(embeddings: tf.Tensor, kernel: tf.Tensor) -> None:
    embeddings_shape, kernel_shape = tf.TensorShape(embeddings.shape), tf.TensorShape(kernel.shape)
    if (
        embeddings_shape.rank != 2
        or kernel_shape.rank != 2
        or not embeddings_shape[1:].is_compatible_with(kernel_shape[1:])
    ):
        raise ValueError(
            "embeddings must be (batch, embedding_dim) and kernel (clusters, embedding_dim), got shapes "
            f"{embeddings_shape} and {kernel_shape}."
        )
    if kernel_shape[0] is not None and kernel_shape[0] < 2:
        raise ValueError(
            f"there must be at least 2 clusters, got {kernel_shape[0]}: of one cluster all entropies are 0."
        )


def _inverse_lengths(rows: tf.Tensor) -> tf.Tensor:
    """One by the length of each row, (rows, 1); 0 for rows of zeros. Its gradient is finite at 0, too."""
    squares = _row_sums(tf.square(rows))
    is_zero = squares == 0.0
    return tf.where(is_zero, 0.0, 1.0 / tf.sqrt(tf.where(is_zero, 1.0, squares)))


def _row_sums(rows: tf.Tensor) -> tf.Tensor:
    """(rows, 1). A product takes a third of the time of `reduce_sum` where XLA compiles it for a CPU."""
    return tf.matmul(rows, tf.ones_like(rows[:1]), transpose_b=True)


def _unit_rows(rows: tf.Tensor) -> tf.Tensor:
    return rows * _inverse_lengths(rows)


# The walk over the blocks of clusters.


def _block_size(block_size: int | None, num_clusters: int | None) -> int:
    """By default one that divides the clusters where there is one, for then no copy of the kernel is made."""
    if block_size is not None:
        if block_size < 1:
            raise ValueError(f"block_size must be at least 1, got {block_size}.")
        return block_size
    most = _GPU_BLOCK_SIZE if tf.config.get_visible_devices("GPU") else _CPU_BLOCK_SIZE
    sizes = range(most, most // 2, -1) if num_clusters else ()
    return next((size for size in sizes if num_clusters % size == 0), most)


def _entropies(
    units: tf.Tensor, kernel: tf.Tensor, logit_scale: float, block_size: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """The entropy of each row's distribution, (batch,), and the mean distribution, (clusters,)."""
    forward, backward = _walk_functions(block_size, _are_kept(units, kernel), _is_compiled(units, kernel))

    @tf.custom_gradient
    def function(units, kernel):
        # In eager code a tape would record the walk as well, and keep all that it passes through.
        units, kernel = tf.stop_gradient(units), tf.stop_gradient(kernel)
        scale = tf.constant(logit_scale, tf.float32)
        entropies, mean_probs, *kept = forward(units, kernel, scale)
        return (entropies, mean_probs), lambda *slopes: backward(units, kernel, scale, *kept, *slopes)

    return function(units, kernel)


def _are_kept(units: tf.Tensor, kernel: tf.Tensor) -> bool:
    sizes = (units.shape[0], kernel.shape[0])
    return None not in sizes and 4 * sizes[0] * sizes[1] <= _MOST_KEPT_BYTES


def _is_compiled(units: tf.Tensor, kernel: tf.Tensor) -> bool:
    """Whether XLA makes one loop of what a block needs: on CPUs, where there is enough to do."""
    dims = (units.shape[0], *kernel.shape)
    if None in dims or tf.config.get_visible_devices("GPU"):
        return False
    return dims[0] * dims[1] * dims[2] >= _COMPILED_FROM


@functools.cache
def _walk_functions(block_size: int, are_kept: bool, is_compiled: bool):
    """Both walks as graphs of their own, the same in eager code, and made once for all shapes."""
    rows, vector, scalar = tf.TensorSpec([None, None]), tf.TensorSpec([None]), tf.TensorSpec([])
    column, blocks = tf.TensorSpec([None, 1]), tf.TensorSpec([None, None, None])
    signatures = (
        (_walk_forward, [rows, rows, scalar]),
        (_walk_backward, [rows, rows, scalar, blocks, blocks, column, column, vector, vector, vector]),
    )
    return [
        tf.function(
            functools.partial(walk, block_size, are_kept), input_signature=signature, jit_compile=is_compiled
        )
        for walk, signature in signatures
    ]


def _block_logits(units, block, inverse_lengths, number, num_clusters, logit_scale):
    """Logits of one block, (batch, clusters of a block), from its rows of the kernel and their lengths."""
    logits = tf.matmul(units, block, transpose_b=True) * (logit_scale * inverse_lengths)
    size = tf.shape(block)[0]
    return tf.where(number * size + tf.range(size) < num_clusters, logits, _NO_LOGIT)


def _logits_reader(are_kept, kept, units, blocks, lengths, num_clusters, logit_scale):
    """The number of a block -> its logits: those that were kept, or the same made again."""
    if are_kept:
        return lambda number: kept[number]
    return lambda number: _block_logits(
        units, blocks[number], lengths[number], number, num_clusters, logit_scale
    )


def _log_probs(logits, highest, log_total):
    # In this order: the logits near the highest are the ones that count, and their difference is exact.
    return (logits - highest) - log_total


def _walk_forward(block_size, are_kept, units, kernel, logit_scale):
    """Entropies, mean distribution, and what the way back needs again.

    With `m[i]` the largest logit of a row so far, two sums are carried along and scaled down when it rises,
      `total[i] = sum_k exp(logits[i, k] - m[i])`, and
      `weighted[i] = sum_k exp(logits[i, k] - m[i]) (logits[i, k] - m[i])`;
    at the end `H[p[i]] = log total[i] - weighted[i] / total[i]`, and `log p = logits - m - log total`.

    Returns:
      Entropies (batch,); mean (clusters,); logits (blocks, batch, clusters of a block), no block where they
      are not kept; inverse lengths of the kernel's rows (blocks, 1, clusters of a block); `m` and `log total`
      (batch, 1); entropies again.
    """
    num_clusters = tf.shape(kernel)[0]
    blocks = in_blocks(kernel, block_size)
    num_blocks = tf.shape(blocks)[0]
    all_logits = tf.TensorArray(tf.float32, num_blocks if are_kept else 0)
    all_lengths = tf.TensorArray(tf.float32, num_blocks)
    # No logit is smaller, so that the first block is no exception.
    highest = -logit_scale * tf.ones_like(units[:, :1])
    total, weighted = tf.zeros_like(highest), tf.zeros_like(highest)
    for i in tf.range(num_blocks):
        inverse_lengths = tf.transpose(_inverse_lengths(blocks[i]))
        logits = _block_logits(units, blocks[i], inverse_lengths, i, num_clusters, logit_scale)
        all_lengths = all_lengths.write(i, inverse_lengths)
        if are_kept:
            all_logits = all_logits.write(i, logits)
        before, highest = highest, tf.maximum(highest, tf.reduce_max(logits, axis=1, keepdims=True))
        rise, exponentials = before - highest, tf.exp(logits - highest)
        weighted = tf.exp(rise) * (weighted + total * rise)
        weighted += _row_sums(exponentials * (logits - highest))
        total = tf.exp(rise) * total + _row_sums(exponentials)
    log_total = tf.math.log(total)
    entropies = (log_total - weighted / total)[:, 0]
    lengths = all_lengths.stack()
    kept = all_logits.stack() if are_kept else tf.zeros([0, 0, 0])
    logits_of = _logits_reader(are_kept, kept, units, blocks, lengths, num_clusters, logit_scale)
    means = tf.TensorArray(tf.float32, num_blocks)
    for i in tf.range(num_blocks):
        probs = tf.exp(_log_probs(logits_of(i), highest, log_total))
        means = means.write(i, tf.reduce_mean(probs, axis=0))
    mean_probs = tf.reshape(means.stack(), [-1])[:num_clusters]
    return entropies, mean_probs, kept, lengths, highest, log_total, entropies


def _walk_backward(
    block_size, are_kept, units, kernel, logit_scale,
    kept, lengths, highest, log_total, entropies, of_entropies, of_mean,
):  # fmt: skip
    """The gradients of units and kernel, from those of entropies and mean.

    With `slopes[k] = of_mean[k] / batch`, the derivative by a logit is
      `p[i, k] (slopes[k] - sum_j p[i, j] slopes[j] - of_entropies[i] (log p[i, k] + H[p[i]]))`,
    of which the sum over j takes a pass of its own. That of the kernel is the one of its unit rows, less its
    part along the row, by the length: `unit . gradient` is `sum_i derivatives[i, k] logits[i, k]`.
    """
    num_clusters, num_rows = tf.shape(kernel)[0], tf.shape(units)[0]
    blocks = in_blocks(kernel, block_size)
    num_blocks, size = tf.shape(blocks)[0], tf.shape(blocks)[1]
    slopes = tf.pad(of_mean / tf.cast(num_rows, tf.float32), [[0, num_blocks * size - num_clusters]])
    slopes = tf.reshape(slopes, [num_blocks, 1, size])
    of_entropies = of_entropies[:, None]
    logits_of = _logits_reader(are_kept, kept, units, blocks, lengths, num_clusters, logit_scale)
    mean_slopes = tf.zeros_like(highest)
    for i in tf.range(num_blocks):
        probs = tf.exp(_log_probs(logits_of(i), highest, log_total))
        mean_slopes += tf.matmul(probs, slopes[i], transpose_b=True)
    offsets = mean_slopes + of_entropies * entropies[:, None]
    of_units = tf.zeros_like(units)
    of_blocks = tf.TensorArray(tf.float32, num_blocks)
    for i in tf.range(num_blocks):
        logits = logits_of(i)
        log_probs = _log_probs(logits, highest, log_total)
        derivatives = tf.exp(log_probs) * (slopes[i] - offsets - of_entropies * log_probs)
        along = tf.reduce_sum(derivatives * logits, axis=0) * tf.square(lengths[i][0])
        derivatives *= logit_scale * lengths[i]
        of_units += tf.matmul(derivatives, blocks[i])
        of_block = tf.matmul(derivatives, units, transpose_a=True) - along[:, None] * blocks[i]
        of_blocks = of_blocks.write(i, of_block)
    of_kernel = tf.reshape(of_blocks.stack(), [num_blocks * size, tf.shape(kernel)[1]])
    return of_units, of_kernel[:num_clusters]
