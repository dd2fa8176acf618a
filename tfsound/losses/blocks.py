"""Rows in blocks, for what is too large to be computed at once."""

import tensorflow as tf


def in_blocks(tensor: tf.Tensor, block_size: int) -> tf.Tensor:
    """(rows, units) -> (blocks, rows of a block, units): blocks of one size, with rows of 0 at the end."""
    num_rows, units = tf.unstack(tf.shape(tensor))
    num_blocks = (num_rows + block_size - 1) // block_size
    size = (num_rows + num_blocks - 1) // num_blocks
    padded = tf.pad(tensor, [[0, num_blocks * size - num_rows], [0, 0]])
    return tf.reshape(padded, [num_blocks, size, units])
