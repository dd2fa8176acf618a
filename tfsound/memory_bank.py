"""The memory bank of instance discrimination: an embedding of every instance, kept from step to step.

Source: Wu et al. 2018, section 3.1; Hornauer et al. 2021, section 4.
"""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from keras import layers

# The bank is drawn, saved and loaded in blocks of so many rows, so that no second one is ever held: 16 MB
# each with 128 components. Checkpoints have these blocks, and the rows of a seed depend on them.
_BLOCK_ROWS = 32768


@keras.saving.register_keras_serializable("tfsound")
class MemoryBank(layers.Layer):
    """A unit-norm row for each instance, that follows the embeddings of the instance.

    `rows[i] <- unit(momentum * rows[i] + (1 - momentum) * embedding)`

    Looking up and updating are apart: a step looks rows up, and gives its embeddings when it is done.
    Under `tf.distribute.MirroredStrategy` every device has a copy, and each replica updates its own: all
    must pass the same to `update`, the ids and embeddings of all replicas, and the copies stay equal.

    It is float32 under any Keras policy, and takes 4 x num_instances x embedding_dim bytes: 2,000,000 rows
    of 128 components take 1 GB.

    Args:
      num_instances: n, at least 2; ids are 0 to n - 1.
      embedding_dim: components of a row.
      momentum: what an old row counts, in [0, 1).
      seed: of the first rows: uniform in +-1 / sqrt(embedding_dim / 3), then scaled to length 1.

    Attributes:
      rows: float32, (num_instances, embedding_dim), not trainable.

    Raises:
      ValueError: a number out of range; a checkpoint of a bank of another size.

    Source: Wu et al. 2018, section 3.1; momentum and first rows as in the code that its authors published.
    """

    def __init__(
        self, num_instances: int, embedding_dim: int, *, momentum: float = 0.5, seed: int = 0, **kwargs
    ):
        super().__init__(**kwargs)
        if num_instances < 2:
            raise ValueError(f"num_instances must be at least 2, got {num_instances}; one tells nothing.")
        if embedding_dim < 1:
            raise ValueError(f"embedding_dim must be at least 1, got {embedding_dim}.")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}; at 1 rows would never change.")
        self.num_instances = num_instances
        self.embedding_dim = embedding_dim
        self.momentum = momentum
        self.seed = seed
        # XLA would drop the check of ids without a word.
        self.supports_jit = False
        self.rows = self.add_weight(
            shape=(num_instances, embedding_dim), initializer="zeros", dtype="float32", trainable=False,
            autocast=False, name="rows",
        )  # fmt: skip
        for start in self._block_starts():
            self._write(self._block_ids(start), self._first_rows(start))
        self.built = True

    def get_config(self) -> dict:
        names = ("num_instances", "embedding_dim", "momentum", "seed")
        return super().get_config() | {name: getattr(self, name) for name in names}

    def lookup(self, ids: tf.Tensor) -> tf.Tensor:
        """Rows of instances: int, (...) -> float32, (..., embedding_dim).

        Raises:
          tf.errors.InvalidArgumentError: an id outside [0, num_instances).
        """
        return self._read(self.checked(ids))

    def update(self, ids: tf.Tensor, embeddings: tf.Tensor) -> None:
        """Moves rows towards embeddings; of several embeddings of one instance the last one counts.

        An embedding that would leave nothing of a row, its opposite at a momentum of 0.5, leaves it as it is.

        Args:
          ids: int, (batch,), of the global batch, the same on all replicas.
          embeddings: float, (batch, embedding_dim), unit-norm.

        Raises:
          ValueError: other shapes; tf.errors.InvalidArgumentError: an id outside [0, num_instances), before
          any row is changed.
        """
        ids, embeddings = tf.convert_to_tensor(ids), tf.cast(embeddings, tf.float32)
        if ids.shape.rank != 1 or not embeddings.shape.is_compatible_with([ids.shape[0], self.embedding_dim]):
            raise ValueError(
                f"ids must be (batch,) and embeddings (batch, {self.embedding_dim}), got shapes {ids.shape} "
                f"and {embeddings.shape}."
            )
        # Of an id that is written twice, a scatter leaves open which comes last.
        ids, places = tf.unique(self.checked(ids))
        last = tf.math.unsorted_segment_max(tf.range(tf.size(places)), places, tf.size(ids))
        rows = self._read(ids)
        mixed = self.momentum * rows + (1.0 - self.momentum) * tf.gather(embeddings, last)
        lengths = tf.norm(mixed, axis=1, keepdims=True)
        self._write(ids, tf.where(lengths == 0.0, rows, mixed / lengths))

    def take_rows(self, other: "MemoryBank") -> None:
        """Copies the rows of a bank of the first of these instances; the rest stays as it is.

        Raises:
          ValueError: it has more instances, or rows of another length.
        """
        if other.num_instances > self.num_instances or other.embedding_dim != self.embedding_dim:
            raise ValueError(
                f"rows must come from a bank of at most {self.num_instances} instances and of "
                f"{self.embedding_dim} components, got {other.num_instances} and {other.embedding_dim}."
            )
        for start in other._block_starts():
            ids = other._block_ids(start)
            self._write(ids, other._read(ids))

    def checked(self, ids: tf.Tensor) -> tf.Tensor:
        """The ids, if there is a row for each; raises as `lookup`."""
        ids = tf.convert_to_tensor(ids)
        is_outside = (ids < 0) | (ids >= self.num_instances)
        check = tf.debugging.Assert(
            ~tf.reduce_any(is_outside),
            [
                f"instance ids must be in [0, {self.num_instances}), one for each row of the bank; got",
                tf.boolean_mask(ids, is_outside),
            ],
        )
        with tf.control_dependencies([check]):
            return tf.identity(ids)

    def _read(self, ids: tf.Tensor) -> tf.Tensor:
        return tf.gather(_copies_here(self.rows.value)[0], ids)

    def _write(self, ids: tf.Tensor, rows: tf.Tensor) -> None:
        """Replaces rows in place."""
        for copy in _copies_here(self.rows.value):
            copy.scatter_update(tf.IndexedSlices(rows, ids))

    # Blocks of rows.

    def _block_starts(self) -> range:
        return range(0, self.num_instances, _BLOCK_ROWS)

    def _block_ids(self, start: int) -> tf.Tensor:
        return tf.range(start, min(start + _BLOCK_ROWS, self.num_instances), dtype=tf.int64)

    def _first_rows(self, start: int) -> tf.Tensor:
        bound = (self.embedding_dim / 3) ** -0.5
        # The second number is below 0, where no draw that goes by steps is.
        rows = tf.random.stateless_uniform(
            [len(self._block_ids(start)), self.embedding_dim], seed=[self.seed, -1 - start],
            minval=-bound, maxval=bound,
        )  # fmt: skip
        return tf.linalg.l2_normalize(rows, axis=1)

    def save_own_variables(self, store: dict) -> None:
        for number, start in enumerate(self._block_starts()):
            store[str(number)] = self._read(self._block_ids(start)).numpy()

    def load_own_variables(self, store: dict) -> None:
        num_blocks = len(store.keys())
        last = store[str(num_blocks - 1)] if num_blocks else np.zeros((0, self.embedding_dim))
        saved = (max(num_blocks - 1, 0) * _BLOCK_ROWS + len(last), last.shape[1])
        if saved != (self.num_instances, self.embedding_dim):
            raise ValueError(
                f"the saved memory bank has {saved[0]} rows of {saved[1]} components, this one "
                f"{self.num_instances} of {self.embedding_dim}: the number of instances in the data, or the "
                "encoder's embedding_dim, has changed since; go on with what it was, or start anew."
            )
        for number, start in enumerate(self._block_starts()):
            self._write(self._block_ids(start), store[str(number)])


def _copies_here(variable: tf.Variable) -> Sequence[tf.Variable]:
    """A mirrored variable's copy on this replica, or all its copies where the code is in no replica.

    What TensorFlow itself does with a mirrored variable, gathering and scattering, reads all of its rows.
    """
    if not isinstance(variable, tf.distribute.DistributedValues):
        return [variable]
    replica = tf.distribute.get_replica_context()
    if replica is None or replica.strategy is not variable.distribute_strategy:
        return variable.values
    return [variable.values[tf.get_static_value(replica.replica_id_in_sync_group)]]
