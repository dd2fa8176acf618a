"""Learning to tell every clip from all others (Hornauer et al. 2021)."""

import math

import keras
import tensorflow as tf

from tfsound import losses, memory_bank
from tfsound.models.replicas import (
    GlobalBatchModel,
    all_replicas,
    first_global_row,
    require_equal_batches,
)


@keras.saving.register_keras_serializable("tfsound")
class InstanceDiscriminationModel(GlobalBatchModel):
    """Learns an encoder by telling instances apart: the embedding of a clip is to find its row of a bank.

    The bank takes the embeddings of a step after the step. A test step leaves it as it is.

    Args:
      audio_encoder: f, log-mel (batch, frames, columns) -> (batch, embedding_dim); embeddings are scaled to
        length 1 here, whether it does so or not.
      num_instances: n, at least 2; instances are numbered from 0 to n - 1.
      num_negatives: m, rows that each embedding is told from by noise-contrastive estimation, the paper's
        NCE-K; 0 for all rows, the softmax of equation 1, whose time and memory grow with n.
      temperature: tau, the paper's NCE-T, positive.
      momentum: see `memory_bank.MemoryBank`.
      seed: of the bank's first rows; of negatives, which depend on it and on the step alone.

    A batch is a dictionary; each replica must have as many rows as the others:
      log_mel: float32, (batch, frames, columns);
      instance_id: int64, (batch,), in [0, num_instances).

    Attributes:
      memory_bank: the `memory_bank.MemoryBank`, one and the same on all devices.
      log_partition: where there are negatives, log Z: NaN before the first training step, which estimates it
        from its global batch, and not changed any more.

    Raises:
      ValueError: a number out of range; tf.errors.InvalidArgumentError: an instance id out of range.

    Source: Hornauer et al. 2021, section 4; Wu et al. 2018, section 3.
    """

    def __init__(
        self,
        audio_encoder: keras.Model,
        num_instances: int,
        *,
        num_negatives: int = 64,
        temperature: float = 0.4,
        momentum: float = 0.5,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be positive and finite, got {temperature}.")
        bank = memory_bank.MemoryBank(
            num_instances, audio_encoder.output_shape[-1], momentum=momentum, seed=seed, name="memory_bank"
        )
        if not 0 <= num_negatives <= num_instances:
            raise ValueError(
                f"num_negatives must be 0, for all rows, or at most the {num_instances} rows of the bank, "
                f"got {num_negatives}; lower it."
            )
        self.audio_encoder = audio_encoder
        self.memory_bank = bank
        self.num_negatives = num_negatives
        self.temperature = temperature
        self.seed = seed
        self.log_partition = None
        if num_negatives:
            self.log_partition = self.add_weight(
                shape=(), initializer=keras.initializers.Constant(math.nan), dtype="float32",
                trainable=False, autocast=False, aggregation="only_first_replica", name="log_partition",
            )  # fmt: skip
        self._loss_mean = keras.metrics.Mean("loss")
        self.built = True

    def get_config(self) -> dict:
        names = ("name", "num_negatives", "temperature", "seed")
        return {
            "audio_encoder": keras.saving.serialize_keras_object(self.audio_encoder),
            "num_instances": self.memory_bank.num_instances,
            "momentum": self.memory_bank.momentum,
        } | {name: getattr(self, name) for name in names}

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [self._loss_mean]

    def call(self, log_mel: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Unit-norm embeddings, float32, (batch, embedding_dim)."""
        embeddings = self.audio_encoder(log_mel, training=training)
        return tf.linalg.l2_normalize(tf.cast(embeddings, tf.float32), axis=1)

    def train_step(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One step down the gradient of the global batch's loss, then the bank; returns the mean so far."""
        ids = batch["instance_id"]
        with tf.GradientTape() as tape:
            embeddings = self(batch["log_mel"], training=True)
            loss, log_partition = self.batch_loss(ids, embeddings)
        self.descend(tape, loss)
        self.memory_bank.update(all_replicas(ids), all_replicas(embeddings))
        if self.num_negatives:
            self.log_partition.assign(log_partition)
        return self._updated_metrics(loss, log_partition)

    def test_step(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """As `train_step`, with the statistics of training and without a step; the bank stays as it is."""
        return self._updated_metrics(*self.batch_loss(batch["instance_id"], self(batch["log_mel"])))

    def batch_loss(self, ids: tf.Tensor, embeddings: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None]:
        """The mean loss of this replica's rows, and log Z, which is none where there are no negatives."""
        require_equal_batches(tf.size(ids), tf.size(all_replicas(ids)))
        if not self.num_negatives:
            loss = losses.instance_softmax_loss(
                embeddings, self.memory_bank.checked(ids), self.memory_bank.rows, temperature=self.temperature
            )
            return loss, None
        own_rows, negative_rows = (
            self.memory_bank.lookup(row_ids) for row_ids in (ids[:, None], self.negative_ids(tf.size(ids)))
        )
        own_logits = losses.instance_logits(embeddings, own_rows, temperature=self.temperature)[:, 0]
        negative_logits = losses.instance_logits(embeddings, negative_rows, temperature=self.temperature)
        log_partition = self._known_log_partition(negative_logits)
        loss = losses.noise_contrastive_loss(
            own_logits, negative_logits, log_partition=log_partition,
            num_instances=self.memory_bank.num_instances,
        )  # fmt: skip
        return loss, log_partition

    def negative_ids(self, num_rows: tf.Tensor) -> tf.Tensor:
        """Of this replica's rows, each with negatives of its own: int64, (num_rows, num_negatives).

        They are drawn for the global batch, by seed and step, so that a resumed training draws what an
        uninterrupted one would have drawn, on any number of replicas.
        """
        optimizer = getattr(self, "optimizer", None)
        step = 0 if optimizer is None else tf.convert_to_tensor(optimizer.iterations)
        num_replicas = tf.distribute.get_strategy().num_replicas_in_sync
        drawn = tf.random.stateless_uniform(
            [num_rows * num_replicas, self.num_negatives],
            seed=tf.stack([tf.constant(self.seed, tf.int64), tf.cast(step, tf.int64)]),
            maxval=self.memory_bank.num_instances, dtype=tf.int64,
        )  # fmt: skip
        first_row = first_global_row(num_rows)
        return drawn[first_row : first_row + num_rows]

    def _known_log_partition(self, negative_logits: tf.Tensor) -> tf.Tensor:
        """log Z as it was estimated, and where it was not, from the negatives of all replicas."""
        estimate = losses.log_partition_estimate(
            all_replicas(negative_logits), self.memory_bank.num_instances
        )
        return tf.where(tf.math.is_nan(self.log_partition), estimate, self.log_partition)

    def _updated_metrics(self, loss: tf.Tensor, log_partition: tf.Tensor | None) -> dict[str, tf.Tensor]:
        self._loss_mean.update_state(loss)
        logs = {"loss": self._loss_mean.result()}
        return logs if log_partition is None else logs | {"log_partition": log_partition}
