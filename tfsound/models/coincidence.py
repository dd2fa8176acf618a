"""Learning from what occurs together (Jansen et al. 2020)."""

import keras
import numpy as np
import tensorflow as tf

from tfsound import losses, networks
from tfsound.models.replicas import all_replicas, first_global_row, per_replica, require_equal_batches

NEGATIVES = ("all_pairs", "random")
# The kinds of pairs, which are the keys of a batch, and the key of what goes with `audio` there.
_OTHERS = {"audio_audio": "audio_2", "audio_image": "image"}


@keras.saving.register_keras_serializable("tfsound")
class CoincidenceModel(keras.Model):
    """Learns encoders of sounds and images by telling coinciding pairs from others.

    The loss of a step is `(1 - audio_audio_weight) L_AV + audio_audio_weight L_AA`, or that of the two of
    which the batch holds pairs.

    Args:
      audio_encoder: f, log-mel (batch, frames, mel_bins) -> (batch, embedding_dim).
      image_encoder: g, images (batch, height, width, 3) -> (batch, embedding_dim); none for sound alone.
      audio_audio_weight: alpha, in [0, 1].
      negatives: `all_pairs` of the global batch are false but the diagonal, or one at `random` a row
        (rows d and h of table 1).
      block_size: see `losses.all_pairs_coincidence_loss`.
      hidden_units: of the heads.
      head_dtype: the heads' Keras policy; their sums over pairs are float32 whatever it is.
      seed: of random negatives, which depend on it and on the step alone.

    A batch is a dictionary as `examples.coincidence_dataset` gives it, with one of these or both:
      audio_audio: `audio` and `audio_2`, log-mel, float32, (batch, frames, mel_bins);
      audio_image: `audio`, and `image`, float32, (batch, height, width, 3) in [0, 1].
    Row i of one and of the other coincide. Each replica must have as many rows as the others.

    Raises:
      ValueError: a weight or a word out of range; a batch of neither kind, of images without an image
      encoder, or of one pair, which has no negative.

    Source: Jansen et al. 2020, sections 3.1 and 3.4.
    """

    def __init__(
        self,
        audio_encoder: keras.Model,
        image_encoder: keras.Model | None = None,
        *,
        audio_audio_weight: float = 0.1,
        negatives: str = "all_pairs",
        block_size: int | None = None,
        hidden_units: int = networks.HIDDEN_UNITS,
        head_dtype: str = "float32",
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not 0 <= audio_audio_weight <= 1:
            raise ValueError(f"audio_audio_weight must be in [0, 1], got {audio_audio_weight}.")
        if negatives not in NEGATIVES:
            raise ValueError(f"negatives must be one of {list(NEGATIVES)}, got {negatives!r}.")
        self.audio_encoder = audio_encoder
        self.image_encoder = image_encoder
        self.audio_audio_weight = audio_audio_weight
        self.negatives = negatives
        self.block_size = block_size
        self.hidden_units = hidden_units
        self.head_dtype = head_dtype
        self.seed = seed
        self.audio_audio_head = self._make_head("audio_audio_head", audio_encoder)
        self.audio_image_head = None
        if image_encoder is not None:
            self.audio_image_head = self._make_head("audio_image_head", image_encoder)
        self._loss_mean = keras.metrics.Mean("loss")
        self._task_means = {
            task: [keras.metrics.Mean(f"{task}_loss"), keras.metrics.Mean(f"{task}_accuracy")]
            for task in _OTHERS
            if task == "audio_audio" or image_encoder is not None
        }
        self.built = True

    def _make_head(self, name: str, right_encoder: keras.Model) -> networks.CoincidenceHead:
        head = networks.CoincidenceHead(self.hidden_units, dtype=self.head_dtype, name=name)
        head.build(self.audio_encoder.output_shape, right_encoder.output_shape)
        head.built = True
        return head

    def get_config(self) -> dict:
        encoders = {
            name: keras.saving.serialize_keras_object(getattr(self, name))
            for name in ("audio_encoder", "image_encoder")
        }
        names = (
            "name", "audio_audio_weight", "negatives", "block_size", "hidden_units", "head_dtype", "seed",
        )  # fmt: skip
        return encoders | {name: getattr(self, name) for name in names}

    @classmethod
    def from_config(cls, config: dict) -> "CoincidenceModel":
        encoders = {
            name: keras.saving.deserialize_keras_object(config[name])
            for name in ("audio_encoder", "image_encoder")
        }
        return cls(**(config | encoders))

    @property
    def parts(self) -> dict[str, keras.layers.Layer]:
        """The networks that the model consists of, by name."""
        names = ("audio_encoder", "image_encoder", "audio_audio_head", "audio_image_head")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [self._loss_mean, *(mean for means in self._task_means.values() for mean in means)]

    def call(self, log_mel: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Embeddings of sounds, (batch, embedding_dim)."""
        return self.audio_encoder(log_mel, training=training)

    def train_step(self, batch: dict[str, dict[str, tf.Tensor]]) -> dict[str, tf.Tensor]:
        """One step down the gradient of the global batch's loss; returns the epoch's means so far."""
        with tf.GradientTape() as tape:
            results = self.task_losses(batch, training=True)
            loss = self.joint_loss({task: loss for task, (loss, _) in results.items()})
            share = per_replica(loss)
        # A batch of one kind says nothing of the other's networks.
        gradients = tape.gradient(share, self.trainable_variables)
        pairs = zip(gradients, self.trainable_variables, strict=True)
        self.optimizer.apply_gradients([pair for pair in pairs if pair[0] is not None])
        return self._updated_metrics(loss, results)

    def test_step(self, batch: dict[str, dict[str, tf.Tensor]]) -> dict[str, tf.Tensor]:
        """As `train_step`, with the statistics of training and without a step."""
        results = self.task_losses(batch, training=False)
        return self._updated_metrics(
            self.joint_loss({task: loss for task, (loss, _) in results.items()}), results
        )

    def joint_loss(self, task_losses: dict[str, tf.Tensor]) -> tf.Tensor:
        """L_coin of section 3.4 where both losses are given, else the one that is."""
        if len(task_losses) == 1:
            (loss,) = task_losses.values()
            return loss
        weight = self.audio_audio_weight
        return (1.0 - weight) * task_losses["audio_image"] + weight * task_losses["audio_audio"]

    def task_losses(
        self, batch: dict[str, dict[str, tf.Tensor]], *, training: bool
    ) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
        """Loss and pairwise accuracy of this replica's rows for each kind of pairs in a batch."""
        embeddings = self.embed_pairs(batch, training=training)
        return {
            task: self._task_loss(task, left, right, training=training)
            for task, (left, right) in embeddings.items()
        }

    def embed_pairs(
        self, batch: dict[str, dict[str, tf.Tensor]], *, training: bool
    ) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
        """Both embeddings of each kind of pairs; sounds in one pass, so that they share batch statistics."""
        self._require_known(batch)
        sounds = [
            batch[task][role]
            for task in _OTHERS if task in batch
            for role in ("audio", "audio_2") if role in batch[task]
        ]  # fmt: skip
        sizes = [tf.shape(sound)[0] for sound in sounds]
        embedded = tf.split(self(tf.concat(sounds, axis=0), training=training), sizes)
        for sound, embeddings in zip(sounds, embedded, strict=True):
            embeddings.set_shape([sound.shape[0], None])
        pairs = {}
        if "audio_audio" in batch:
            pairs["audio_audio"] = embedded[0], embedded[1]
        if "audio_image" in batch:
            images = self.image_encoder(batch["audio_image"]["image"], training=training)
            pairs["audio_image"] = embedded[-1], images
        return pairs

    def _require_known(self, batch: dict) -> None:
        if not batch or not set(batch) <= set(self._task_means):
            expected = "audio_audio, audio_image or both"
            if self.image_encoder is None:
                expected = "audio_audio (this model has no image_encoder)"
            raise ValueError(
                f"a batch must hold {expected}, got {sorted(batch)}; see examples.coincidence_dataset."
            )

    def _head(self, task: str) -> networks.CoincidenceHead:
        return self.audio_audio_head if task == "audio_audio" else self.audio_image_head

    def _task_loss(
        self, task: str, left: tf.Tensor, right: tf.Tensor, *, training: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        num_rows = tf.shape(left)[0] if left.shape[0] is None else left.shape[0]
        rights = all_replicas(right)
        require_equal_batches(num_rows, tf.shape(rights)[0])
        first_row = first_global_row(num_rows)
        if self.negatives == "random":
            return self._random_negatives_loss(task, left, right, rights, first_row)
        head = self._head(task)
        projections = head.project_left(left), head.project_right(rights)
        output = tf.convert_to_tensor(head.output_kernel), tf.convert_to_tensor(head.output_bias)
        if training:
            return losses.all_pairs_coincidence_loss(
                *projections, *output, diagonal_offset=first_row, block_size=self.block_size
            )
        pair_logits = losses.all_pairs_logits(*projections, *output, block_size=self.block_size)
        return (
            losses.coincidence_loss(pair_logits, diagonal_offset=first_row),
            losses.pairwise_accuracy(pair_logits, diagonal_offset=first_row),
        )

    def _random_negatives_loss(
        self, task: str, left: tf.Tensor, right: tf.Tensor, rights: tf.Tensor, first_row: int | tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The same partners on every replica, each of which takes those of its own rows."""
        num_rights = tf.shape(rights)[0] if rights.shape[0] is None else rights.shape[0]
        partners = losses.random_partners(num_rights, seed=self._partner_seed(task))
        own = partners[first_row : first_row + tf.shape(left)[0]]
        head = self._head(task)
        true_logits, false_logits = head(left, right), head(left, tf.gather(rights, own))
        accuracy = 0.5 * tf.reduce_mean(
            tf.cast(true_logits > 0, tf.float32) + tf.cast(false_logits <= 0, tf.float32)
        )
        return losses.random_negatives_coincidence_loss(true_logits, false_logits), accuracy

    def _partner_seed(self, task: str) -> tf.Tensor:
        """Of the step, so that a resumed training draws what an uninterrupted one would have drawn."""
        optimizer = getattr(self, "optimizer", None)
        step = 0 if optimizer is None else tf.convert_to_tensor(optimizer.iterations)
        stream = 2 * self.seed + list(_OTHERS).index(task)
        return tf.stack([tf.constant(stream, tf.int64), tf.cast(step, tf.int64)])

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Does nothing, for all networks are built. Keras would average a batch over replicas."""

    def _updated_metrics(self, loss, results) -> dict[str, tf.Tensor]:
        self._loss_mean.update_state(loss)
        updated = [self._loss_mean]
        for task, values in results.items():
            for mean, value in zip(self._task_means[task], values, strict=True):
                mean.update_state(value)
                updated.append(mean)
        return {metric.name: metric.result() for metric in updated}

    # Retrieval.

    def pair_logits(
        self, audio: np.ndarray, images_or_audio: np.ndarray, *, batch_size: int = 256
    ) -> np.ndarray:
        """How much each sound and each candidate seem to coincide: logits, float32, (queries, candidates).

        Args:
          audio: log-mel windows, (queries, frames, mel_bins).
          images_or_audio: images, (candidates, height, width, 3), or log-mel windows as `audio`.
          batch_size: how many go through an encoder at once.

        Raises:
          ValueError: images for a model without an image encoder; an array of neither kind.
        """
        rank = np.ndim(images_or_audio)
        if rank not in (3, 4):
            raise ValueError(
                "candidates must be images (candidates, height, width, 3) or log-mel windows "
                f"(candidates, frames, mel_bins), got shape {np.shape(images_or_audio)}."
            )
        task = "audio_audio" if rank == 3 else "audio_image"
        self._require_known({task: images_or_audio})
        left = _embed(self.audio_encoder, audio, batch_size)
        right_encoder = self.audio_encoder if task == "audio_audio" else self.image_encoder
        return self.embedding_pair_logits(left, _embed(right_encoder, images_or_audio, batch_size), task)

    def embedding_pair_logits(self, left: np.ndarray, right: np.ndarray, task: str) -> np.ndarray:
        """As `pair_logits`, from embeddings, (queries, embedding_dim) and (candidates, embedding_dim).

        Args:
          task: `audio_audio` or `audio_image`: whose embeddings are on the right.
        """
        self._require_known({task: right})
        if not len(left) or not len(right):
            return np.zeros((len(left), len(right)), np.float32)
        head = self._head(task)
        return losses.all_pairs_logits(
            head.project_left(tf.convert_to_tensor(left)), head.project_right(tf.convert_to_tensor(right)),
            tf.convert_to_tensor(head.output_kernel), tf.convert_to_tensor(head.output_bias),
            block_size=self.block_size,
        ).numpy()  # fmt: skip


def _embed(encoder: keras.Model, inputs: np.ndarray, batch_size: int) -> np.ndarray:
    """Embeddings, float32, (inputs, embedding_dim)."""
    parts = [
        encoder(inputs[start : start + batch_size], training=False)
        for start in range(0, len(inputs), batch_size)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, encoder.output_shape[-1]), np.float32)
