"""What a replica shares with the others; everything is as it was where there is only one."""

import tensorflow as tf


def all_replicas(tensor: tf.Tensor) -> tf.Tensor:
    """The rows of all replicas, in their order: (global_batch, ...). Gradients flow back through it."""
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return tensor
    gathered = tf.distribute.get_replica_context().all_gather(tensor, axis=0)
    # The gradient of all_gather takes no IndexedSlices, which tf.gather hands back; that of reshape is dense.
    return tf.reshape(gathered, tf.shape(gathered))


def mean_over_replicas(tensor: tf.Tensor) -> tf.Tensor:
    """The mean of what each replica has, the same on all. Gradients flow back through it."""
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return tensor
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, tensor)


def per_replica(loss: tf.Tensor) -> tf.Tensor:
    """A replica's share of the mean over replicas; the gradients of all replicas are summed."""
    return loss / tf.distribute.get_strategy().num_replicas_in_sync


def first_global_row(num_rows: int | tf.Tensor) -> int | tf.Tensor:
    """Where the rows of this replica begin among those of `all_replicas`, if each has as many."""
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return 0
    return tf.distribute.get_replica_context().replica_id_in_sync_group * num_rows


def require_equal_batches(num_rows: int | tf.Tensor, num_global_rows: int | tf.Tensor) -> None:
    """Raises: tf.errors.InvalidArgumentError where replicas have batches of different sizes."""
    num_replicas = tf.distribute.get_strategy().num_replicas_in_sync
    if num_replicas > 1:
        tf.debugging.assert_equal(
            num_rows * num_replicas, num_global_rows,
            f"each of the {num_replicas} replicas needs as many rows as the others; drop the remainder",
        )  # fmt: skip
