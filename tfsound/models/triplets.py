"""Learning from triplets (Jansen et al. 2018)."""

import math

import keras
import tensorflow as tf

from tfsound import losses
from tfsound.models.replicas import GlobalBatchModel, all_replicas


@keras.saving.register_keras_serializable("tfsound")
class TripletModel(GlobalBatchModel):
    """Learns an encoder from triplets.

    Args:
      audio_encoder: log-mel (batch, frames, mel_bins) -> unit-norm (batch, embedding_dim).
      margin: delta of equation 1.
      semi_hard: reassign negatives within the global batch (section 3.1), or keep each triplet's own.

    A batch is a dictionary as `examples.triplet_dataset` gives it; each replica must have as many rows as the
    others. `anchor`, `positive`, `negative`: log-mel, float32, (batch, frames, mel_bins). The recordings that
    mining needs: `anchor_recording`, `negative_recording`, int64, (batch,). The rest may be missing:
      is_minable: bool, (batch,); false keeps a triplet's own negative. All are minable by default.
      anchor_label, negative_labels: int64, (batch,) and (batch, max_labels), see `losses.allowed_negatives`;
        no labels by default.
      weight: float32, (batch,), what a triplet's source counts; 1 by default.

    Raises:
      ValueError: a margin that is negative or not finite; a batch without the recordings that mining needs.

    Source: Jansen et al. 2018, sections 3.1, 3.2.4, 3.2.6 and 4.2.
    """

    def __init__(self, audio_encoder: keras.Model, *, margin: float = 0.1, semi_hard: bool = True, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= margin < math.inf:
            raise ValueError(f"margin must be at least 0 and finite, got {margin}.")
        self.audio_encoder = audio_encoder
        self.margin = margin
        self.semi_hard = semi_hard
        self._loss_mean = keras.metrics.Mean("loss")
        self._positive_distance = keras.metrics.Mean("positive_distance")
        self._negative_distance = keras.metrics.Mean("negative_distance")

    def get_config(self) -> dict:
        return {
            "name": self.name,
            "audio_encoder": keras.saving.serialize_keras_object(self.audio_encoder),
            "margin": self.margin,
            "semi_hard": self.semi_hard,
        }

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [self._loss_mean, self._positive_distance, self._negative_distance]

    def call(self, log_mel: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Embeddings, (batch, embedding_dim)."""
        return self.audio_encoder(log_mel, training=training)

    def train_step(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One step down the gradient of the global batch's loss; returns the epoch's means so far."""
        with tf.GradientTape() as tape:
            anchor, positive, negative = self.embed_triplets(batch, training=True)
            loss = self.batch_loss(batch, anchor, positive, negative)
        self.descend(tape, loss)
        return self._updated_metrics(loss, anchor, positive, negative)

    def test_step(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """As `train_step`, with the statistics of training and without a step."""
        anchor, positive, negative = self.embed_triplets(batch, training=False)
        loss = self.batch_loss(batch, anchor, positive, negative)
        return self._updated_metrics(loss, anchor, positive, negative)

    def embed_triplets(self, batch: dict[str, tf.Tensor], *, training: bool) -> list[tf.Tensor]:
        """Embeddings of anchor, positive and negative, in one pass, so that they share batch statistics."""
        windows = tf.concat([batch["anchor"], batch["positive"], batch["negative"]], axis=0)
        return tf.split(self(windows, training=training), 3)

    def batch_loss(
        self, batch: dict[str, tf.Tensor], anchor: tf.Tensor, positive: tf.Tensor, negative: tf.Tensor
    ) -> tf.Tensor:
        """The mean loss of this replica's rows, against negatives of all replicas where mined."""
        weights = batch.get("weight")
        if not self.semi_hard:
            return losses.triplet_loss(anchor, positive, negative, margin=self.margin, weights=weights)
        return losses.semi_hard_triplet_loss(
            anchor, positive, negative, all_replicas(negative), self.is_negative(batch),
            margin=self.margin, is_mined=batch.get("is_minable"), weights=weights,
        )  # fmt: skip

    def is_negative(self, batch: dict[str, tf.Tensor]) -> tf.Tensor:
        """Which negatives of the global batch may serve this replica's anchors: (batch, global_batch)."""
        missing = {"anchor_recording", "negative_recording"} - set(batch)
        if missing:
            raise ValueError(
                f"mining needs the recordings of a triplet, got no {' and no '.join(sorted(missing))}; "
                "add them to the batch or pass semi_hard=False."
            )
        labels = batch.get("negative_labels")
        if labels is not None:
            # One more column of padding: all_gather of a tensor without elements ends the process.
            labels = all_replicas(tf.pad(labels, [[0, 0], [0, 1]], constant_values=-1))
        recordings = batch["anchor_recording"], all_replicas(batch["negative_recording"])
        return losses.allowed_negatives(*recordings, batch.get("anchor_label"), labels)

    def _updated_metrics(self, loss, anchor, positive, negative) -> dict[str, tf.Tensor]:
        self._loss_mean.update_state(loss)
        self._positive_distance.update_state(losses.row_squared_distances(anchor, positive))
        self._negative_distance.update_state(losses.row_squared_distances(anchor, negative))
        return {metric.name: metric.result() for metric in self.metrics}
