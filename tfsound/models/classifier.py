"""Classifying windows from their embeddings, and fine-tuning the encoder for it (Jansen et al. 2020)."""

import keras
import tensorflow as tf
from keras import layers

from tfsound import losses
from tfsound.models.replicas import GlobalBatchModel, all_replicas


@keras.saving.register_keras_serializable("tfsound")
class ClassifierModel(GlobalBatchModel):
    """Learns to tell classes of windows by one layer on the embedding, p_class, and by the encoder below it.

    Args:
      audio_encoder: f, log-mel (batch, frames, mel_bins) -> (batch, embedding_dim).
      num_classes: C.
      multi_label: whether a window may have any number of the classes (independent logistic outputs), or
        has exactly one (softmax).
      freeze: keep the encoder as it is, the statistics of its batch norms, too, and learn the layer alone.

    A batch is a dictionary as `examples.labelled_window_dataset` gives it:
      log_mel: float32, (batch, frames, mel_bins);
      labels: float32, (batch, classes), in [0, 1];
      known: bool, (batch,) or (batch, classes), see `losses.classification_loss`; may be missing.

    Raises:
      ValueError: fewer than one class, or than two of which a window has one.

    Source: Jansen et al. 2020, sections 3.3 and 3.4.
    """

    def __init__(
        self,
        audio_encoder: keras.Model,
        num_classes: int,
        *,
        multi_label: bool = True,
        freeze: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        least = 1 if multi_label else 2
        if num_classes < least:
            raise ValueError(f"num_classes must be at least {least}, got {num_classes}.")
        self.audio_encoder = audio_encoder
        self.num_classes = num_classes
        self.multi_label = multi_label
        self.freeze = freeze
        audio_encoder.trainable = not freeze
        # The paper does not say that p_class has hidden layers.
        self.head = layers.Dense(num_classes, dtype="float32", name="logits")
        self.head.build(audio_encoder.output_shape)
        self._loss_mean = keras.metrics.Mean("loss")
        self.built = True

    def get_config(self) -> dict:
        names = ("name", "num_classes", "multi_label", "freeze")
        encoder = {"audio_encoder": keras.saving.serialize_keras_object(self.audio_encoder)}
        return encoder | {name: getattr(self, name) for name in names}

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [self._loss_mean]

    def call(self, log_mel: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Scores of windows, (batch, classes), each in [0, 1]."""
        return self.scores(self.embed(log_mel, training=training))

    def embed(self, log_mel: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Embeddings, (batch, embedding_dim)."""
        return self.audio_encoder(log_mel, training=training and not self.freeze)

    def scores(self, embeddings: tf.Tensor) -> tf.Tensor:
        """Scores of windows from their embeddings, (batch, classes)."""
        logits = self.head(embeddings)
        return tf.sigmoid(logits) if self.multi_label else tf.nn.softmax(logits)

    def train_step(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One step down the gradient of the global batch's loss; returns the epoch's mean so far."""
        with tf.GradientTape() as tape:
            loss = self.batch_loss(batch, training=True)
        self.descend(tape, loss)
        return self._updated_metrics(loss)

    def test_step(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """As `train_step`, with the statistics of training and without a step."""
        return self._updated_metrics(self.batch_loss(batch, training=False))

    def batch_loss(self, batch: dict[str, tf.Tensor], *, training: bool) -> tf.Tensor:
        """The loss of this replica's rows; its mean over replicas is that of the global batch."""
        logits = self.head(self.embed(batch["log_mel"], training=training))
        labels, known = batch["labels"], batch.get("known")
        is_known = losses.known_labels(labels, known, multi_label=self.multi_label)
        counts = all_replicas(tf.reshape(tf.reduce_sum(tf.cast(is_known, tf.float32)), [1]))
        return losses.classification_loss(
            logits, labels, known, multi_label=self.multi_label, num_known=tf.reduce_mean(counts)
        )

    def _updated_metrics(self, loss: tf.Tensor) -> dict[str, tf.Tensor]:
        self._loss_mean.update_state(loss)
        return {self._loss_mean.name: self._loss_mean.result()}
