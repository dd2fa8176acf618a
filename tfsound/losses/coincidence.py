"""Coincidence losses: balanced cross-entropy from logits, float32.

A batch of pairs is coinciding row by row, so that of all pairs of a left and a right element the diagonal is
true and everything else is false. On several replicas each has the left elements of its own rows against the
right ones of all: logits are (rows, columns), and `diagonal_offset` is the column of the first row's partner.

The head that tells pairs has one hidden layer, `relu(left + right)` of two projections that are made once a
row (`networks.CoincidenceHead`). For all pairs that layer is (rows, columns, hidden), by far the largest
thing of a step; here it is walked in blocks and no more than one block of it ever exists.

Source: Jansen et al. 2020, section 3.1.
"""

import functools

import tensorflow as tf

from tfsound.losses.blocks import in_blocks

# A block of 32 x 32 pairs with 512 hidden units takes 2 MB, which a CPU's cache holds: of 1 x 512 to 32 x 64
# pairs measured the fastest or within a tenth. A GPU wants fewer and larger steps (not measured).
_CPU_BLOCK_SIZE, _GPU_BLOCK_SIZE = 32, 256
# Hidden values from which on compiling, about a second, is worth it: at batch 512 it makes a step 4 times as
# fast on a CPU.
_COMPILED_FROM = 1 << 24


def coincidence_loss(pair_logits: tf.Tensor, *, diagonal_offset: int | tf.Tensor = 0) -> tf.Tensor:
    """Penalises true pairs that are taken for false and false pairs that are taken for true, half and half.

    `-mean(log p[i, i]) - mean(log(1 - p[i, j]), i != j)`, with `p = sigmoid(pair_logits)`

    Pairs of one recording that meet in a batch count as false like all others, as in the paper ("negligible
    label noise").

    Args:
      pair_logits: float, (rows, columns); row i and column `i + diagonal_offset` are a true pair.

    Returns:
      A scalar, float32, at least 0; 2 ln 2 where every logit is 0. Where the rows are a replica's, the mean
      over replicas of as many rows each is the loss of the global batch.

    Raises:
      ValueError: a batch of one, which has no false pair; fewer columns than rows (tf.errors.
      InvalidArgumentError where the shape is known in the graph only).

    Source: Jansen et al. 2020, section 3.1, equations 1 and 2.
    """
    is_true, weights = _pair_weights(pair_logits, diagonal_offset)
    logits = tf.cast(pair_logits, tf.float32)
    return tf.reduce_sum(weights * tf.math.softplus(tf.where(is_true, -logits, logits)))


def pairwise_accuracy(pair_logits: tf.Tensor, *, diagonal_offset: int | tf.Tensor = 0) -> tf.Tensor:
    """The mean of two fractions: of true pairs with a logit above 0, and of false pairs with one up to 0.

    Args and raises as `coincidence_loss`.

    Returns:
      A scalar, float32, in [0, 1]; 0.5 for logits that are all the same.
    """
    is_true, weights = _pair_weights(pair_logits, diagonal_offset)
    return _weighted_accuracy(tf.cast(pair_logits, tf.float32), is_true, weights)


def random_partners(num_pairs: int | tf.Tensor, *, seed: tf.Tensor) -> tf.Tensor:
    """For each pair of a batch another one, uniformly and independently: int32, (num_pairs,).

    Args:
      num_pairs: at least 2.
      seed: int, (2,); the same seed gives the same partners on any device.

    Raises:
      ValueError: a batch of one (tf.errors.InvalidArgumentError where known in the graph only).
    """
    _require_two(num_pairs)
    steps = tf.random.stateless_uniform([num_pairs], seed, minval=1, maxval=num_pairs, dtype=tf.int32)
    return (tf.range(num_pairs) + steps) % num_pairs


def random_negatives_coincidence_loss(true_logits: tf.Tensor, false_logits: tf.Tensor) -> tf.Tensor:
    """Equation 1 or 2 with one false pair a true one, instead of all there are.

    `-mean(log p(true)) - mean(log(1 - p(false)))`

    With `false_logits[i]` that of left i and right `random_partners(batch)[i]`, its expectation over the
    partners is `coincidence_loss` of the same batch: both halves have the same weights there.

    Args:
      true_logits, false_logits: float, (batch,).

    Returns:
      A scalar, float32, at least 0.

    Source: Jansen et al. 2020, section 4.1, row h of table 1, and row d (Arandjelovic and Zisserman).
    """
    true_logits, false_logits = tf.cast(true_logits, tf.float32), tf.cast(false_logits, tf.float32)
    return tf.reduce_mean(tf.math.softplus(-true_logits)) + tf.reduce_mean(tf.math.softplus(false_logits))


def all_pairs_coincidence_loss(
    left_projections: tf.Tensor,
    right_projections: tf.Tensor,
    output_kernel: tf.Tensor,
    output_bias: tf.Tensor,
    *,
    diagonal_offset: int | tf.Tensor = 0,
    block_size: int | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """`coincidence_loss` and `pairwise_accuracy` of all pairs, without their hidden layer in memory.

    `pair_logits[i, j] = relu(left_projections[i] + right_projections[j]) . output_kernel + output_bias`

    The derivative of the loss with respect to a logit needs that logit alone. So one walk over the blocks
    gives loss and gradients together, exactly, and the backward pass only scales them. Memory grows with
    (rows + columns) x hidden and with block_size^2 x hidden; time with rows x columns x hidden.

    Args:
      left_projections: float, (rows, hidden), bias included.
      right_projections: float, (columns, hidden).
      output_kernel: float, (hidden,) or (hidden, 1).
      output_bias: float, () or (1,).
      block_size: rows, and columns, of a block at most; by default as many as suit the device.

    Returns:
      Both scalars, float32. No gradient flows through the accuracy, and none of second order.

    Raises:
      ValueError: a block size below 1; else as `coincidence_loss`.

    Source: Jansen et al. 2020, section 3.1, equations 1 and 2.
    """
    # Sums over thousands of pairs are made in float32 whatever the policy.
    tensors = [
        tf.cast(tensor, tf.float32)
        for tensor in (
            left_projections, right_projections,
            tf.reshape(output_kernel, [-1]), tf.reshape(output_bias, []),
        )
    ]  # fmt: skip
    _require_diagonal(tensors[0], tensors[1], diagonal_offset)
    walk = _walk_function("loss", _block_size(block_size), _is_compiled(*tensors[:2]))

    @tf.custom_gradient
    def loss_and_accuracy(left, right, kernel, bias):
        # In eager code a tape would record the walk as well, and keep all that it passes through.
        constants = [tf.stop_gradient(tensor) for tensor in (left, right, kernel, bias)]
        loss, accuracy, *gradients = walk(*constants, tf.cast(diagonal_offset, tf.int32))
        return (loss, accuracy), lambda of_loss, of_accuracy: [of_loss * part for part in gradients]

    return loss_and_accuracy(*tensors)


def all_pairs_logits(
    left_projections: tf.Tensor,
    right_projections: tf.Tensor,
    output_kernel: tf.Tensor,
    output_bias: tf.Tensor,
    *,
    block_size: int | None = None,
) -> tf.Tensor:
    """The logits of all pairs, as `all_pairs_coincidence_loss` has them: float32, (rows, columns).

    For evaluation and retrieval. To learn from it is refused, because that would keep every block.
    """
    left, right, kernel, bias = (
        tf.cast(tensor, tf.float32)
        for tensor in (
            left_projections, right_projections,
            tf.reshape(output_kernel, [-1]), tf.reshape(output_bias, []),
        )
    )  # fmt: skip
    walk = _walk_function("logits", _block_size(block_size), _is_compiled(left, right))
    logits = walk(left, right, kernel, bias)
    message = "all_pairs_logits has no gradient; learn by all_pairs_coincidence_loss."
    return tf.raw_ops.PreventGradient(input=logits, message=message)


# What the diagonal makes of pairs.


def _require_two(num_pairs: int | tf.Tensor) -> None:
    """Refuses a batch that has no false pair."""
    message = "a batch needs at least 2 pairs, for a batch of one has no negative; raise the batch size, got"
    known = tf.get_static_value(num_pairs)
    if known is None:
        tf.debugging.assert_greater(num_pairs, 1, message)
    elif known < 2:
        raise ValueError(f"{message} {known}.")


def _require_diagonal(rows_of: tf.Tensor, columns_of: tf.Tensor, diagonal_offset: int | tf.Tensor) -> None:
    """Refuses rows without a partner among the columns."""
    num_rows, num_columns = _length(rows_of), _length(columns_of)
    _require_two(num_columns)
    last = tf.get_static_value(num_rows + diagonal_offset)
    known = tf.get_static_value(num_columns)
    message = "every row needs its true partner among the columns"
    if last is None or known is None:
        tf.debugging.assert_less_equal(num_rows + diagonal_offset, num_columns, message)
    elif last > known:
        raise ValueError(f"{message}: got {last} rows (with their offset) and {known} columns.")


def _length(tensor: tf.Tensor) -> int | tf.Tensor:
    """The number of rows, as a number where it is known."""
    return tf.shape(tensor)[0] if tensor.shape[0] is None else tensor.shape[0]


def _pair_weights(pair_logits: tf.Tensor, diagonal_offset: int | tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Which pairs are true, bool, and what each counts, float32: (rows, columns) both."""
    pair_logits = tf.convert_to_tensor(pair_logits)
    if pair_logits.shape.rank != 2:
        raise ValueError(f"pair_logits must be (rows, columns), got shape {tuple(pair_logits.shape)}.")
    shape = tf.shape(pair_logits)
    _require_diagonal(pair_logits, tf.transpose(pair_logits), diagonal_offset)
    return _block_weights(tf.range(shape[0]), tf.range(shape[1]), shape[0], shape[1], diagonal_offset)


def _block_weights(row_numbers, column_numbers, num_rows, num_columns, diagonal_offset):
    """`_pair_weights` of some rows and columns; pairs beyond the last row or column count nothing."""
    is_true = column_numbers == row_numbers[:, None] + diagonal_offset
    of_true = 1.0 / tf.cast(num_rows, tf.float32)
    of_false = of_true / tf.cast(num_columns - 1, tf.float32)
    exists = (row_numbers[:, None] < num_rows) & (column_numbers < num_columns)
    return is_true, tf.where(exists, tf.where(is_true, of_true, of_false), 0.0)


def _weighted_accuracy(logits: tf.Tensor, is_true: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    return 0.5 * tf.reduce_sum(tf.where((logits > 0) == is_true, weights, 0.0))


# The walk over the blocks of the hidden layer.


def _block_size(block_size: int | None) -> int:
    if block_size is None:
        return _GPU_BLOCK_SIZE if tf.config.get_visible_devices("GPU") else _CPU_BLOCK_SIZE
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1, got {block_size}.")
    return block_size


def _is_compiled(left: tf.Tensor, right: tf.Tensor) -> bool:
    """Whether XLA makes one loop of what a block needs: on CPUs, where there is enough to do."""
    dims = (left.shape[0], *right.shape)
    if None in dims or tf.config.get_visible_devices("GPU"):
        return False
    return dims[0] * dims[1] * dims[2] >= _COMPILED_FROM


@functools.cache
def _walk_function(result: str, block_size: int, is_compiled: bool):
    """A walk as a graph of its own, so that it is the same in eager code, and made once for all shapes."""
    walks = {"loss": (_walk_for_loss, 1), "logits": (_walk_for_logits, 0)}
    walk, num_offsets = walks[result]
    signature = [
        tf.TensorSpec([None, None]), tf.TensorSpec([None, None]), tf.TensorSpec([None]), tf.TensorSpec([]),
        *[tf.TensorSpec([], tf.int32)] * num_offsets,
    ]  # fmt: skip
    return tf.function(
        functools.partial(walk, block_size), input_signature=signature, jit_compile=is_compiled
    )


def _block_hidden(left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """(rows, hidden), (columns, hidden) -> the hidden layer of all their pairs, (rows, columns, hidden)."""
    return tf.nn.relu(left[:, None, :] + right)


def _block_logits(hidden: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    rows, columns, units = tf.unstack(tf.shape(hidden))
    logits = tf.linalg.matvec(tf.reshape(hidden, [rows * columns, units]), kernel) + bias
    return tf.reshape(logits, [rows, columns])


def _walk_for_logits(block_size, left, right, kernel, bias):
    left_blocks, right_blocks = in_blocks(left, block_size), in_blocks(right, block_size)
    num_row_blocks, num_column_blocks = tf.shape(left_blocks)[0], tf.shape(right_blocks)[0]
    rows = tf.TensorArray(tf.float32, num_row_blocks)
    for i in tf.range(num_row_blocks):
        parts = tf.TensorArray(tf.float32, num_column_blocks)
        for j in tf.range(num_column_blocks):
            hidden = _block_hidden(left_blocks[i], right_blocks[j])
            parts = parts.write(j, _block_logits(hidden, kernel, bias))
        rows = rows.write(i, parts.stack())
    # (row blocks, column blocks, rows, columns) -> (rows, columns) of all blocks.
    blocks = tf.transpose(rows.stack(), [0, 2, 1, 3])
    shape = tf.shape(blocks)
    logits = tf.reshape(blocks, [shape[0] * shape[1], shape[2] * shape[3]])
    return logits[: tf.shape(left)[0], : tf.shape(right)[0]]


def _walk_for_loss(block_size, left, right, kernel, bias, diagonal_offset):
    """Loss, accuracy, and the gradients of the loss: of left, right, kernel and bias.

    With `slopes[i, j]` the derivative by a logit, and `is_on[i, j, k]` whether a hidden unit is above 0,
      `left_sums[i, k] = sum_j slopes[i, j] is_on[i, j, k]`, and `right_sums[j, k]` the same over i,
    the gradient of `left` is `kernel * left_sums`, that of `right` alike, and that of the kernel
      `sum_ij slopes[i, j] is_on[i, j, k] (left[i, k] + right[j, k])
         = sum_i left[i, k] left_sums[i, k] + sum_j right[j, k] right_sums[j, k]`.
    """
    num_rows, num_columns = tf.shape(left)[0], tf.shape(right)[0]
    left_blocks, right_blocks = in_blocks(left, block_size), in_blocks(right, block_size)
    row_numbers = tf.range(tf.shape(left_blocks)[1])
    column_numbers = tf.range(tf.shape(right_blocks)[1])
    loss, accuracy, bias_gradient = tf.zeros([]), tf.zeros([]), tf.zeros([])
    left_sums = tf.TensorArray(tf.float32, tf.shape(left_blocks)[0])
    right_sums = tf.zeros_like(right_blocks)
    for i in tf.range(tf.shape(left_blocks)[0]):
        row_sums = tf.zeros_like(left_blocks[0])
        column_sums = tf.TensorArray(tf.float32, tf.shape(right_blocks)[0])
        for j in tf.range(tf.shape(right_blocks)[0]):
            hidden = _block_hidden(left_blocks[i], right_blocks[j])
            logits = _block_logits(hidden, kernel, bias)
            is_true, weights = _block_weights(
                i * tf.size(row_numbers) + row_numbers, j * tf.size(column_numbers) + column_numbers,
                num_rows, num_columns, diagonal_offset,
            )  # fmt: skip
            signs = tf.where(is_true, -1.0, 1.0)
            loss += tf.reduce_sum(weights * tf.math.softplus(signs * logits))
            accuracy += _weighted_accuracy(logits, is_true, weights)
            slopes = weights * signs * tf.sigmoid(signs * logits)
            bias_gradient += tf.reduce_sum(slopes)
            on_slopes = tf.where(hidden > 0, slopes[:, :, None], 0.0)
            row_sums += tf.reduce_sum(on_slopes, axis=1)
            column_sums = column_sums.write(j, tf.reduce_sum(on_slopes, axis=0))
        left_sums = left_sums.write(i, row_sums)
        right_sums += column_sums.stack()
    hidden_units = tf.shape(left)[1]
    left_sums = tf.reshape(left_sums.stack(), [-1, hidden_units])[:num_rows]
    right_sums = tf.reshape(right_sums, [-1, hidden_units])[:num_columns]
    kernel_gradient = tf.reduce_sum(left * left_sums, axis=0) + tf.reduce_sum(right * right_sums, axis=0)
    return loss, accuracy, kernel * left_sums, kernel * right_sums, kernel_gradient, bias_gradient
