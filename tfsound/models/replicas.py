"""What a replica shares with the others; everything is as it was where there is only one."""

import keras
import tensorflow as tf


class GlobalBatchModel(keras.Model):
    """A model of built networks whose loss is the mean over the global batch: what all objectives share."""

    @classmethod
    def from_config(cls, config: dict) -> "GlobalBatchModel":
        """The model of a configuration whose encoders are serialised."""
        encoders = {
            name: keras.saving.deserialize_keras_object(value)
            for name, value in config.items()
            if name.endswith("_encoder")
        }
        return cls(**(config | encoders))

    def descend(self, tape: tf.GradientTape, loss: tf.Tensor, *, reaches_all: bool = True) -> None:
        """One step of the optimizer down the gradient of the global batch's loss.

        Args:
          tape: that has recorded `loss`.
          loss: the mean over this replica's rows, (); its mean over replicas is the global batch's.
          reaches_all: every variable has a gradient; else those that have none stay as they are.
        """
        # The optimizer sums the gradients of all replicas, so each gives its share of their mean.
        share = tf.ones_like(loss) / tf.distribute.get_strategy().num_replicas_in_sync
        gradients = tape.gradient(loss, self.trainable_variables, output_gradients=share)
        pairs = zip(gradients, self.trainable_variables, strict=True)
        self.optimizer.apply_gradients(
            [(gradient, variable) for gradient, variable in pairs if reaches_all or gradient is not None]
        )

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Does nothing, for all networks are built. Keras would average a batch over replicas, ids too."""


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
