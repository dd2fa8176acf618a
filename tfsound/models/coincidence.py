"""Learning from what occurs together (Jansen et al. 2020)."""

import math

import keras
import numpy as np
import tensorflow as tf

from tfsound import losses, networks
from tfsound.models.replicas import (
    GlobalBatchModel,
    all_replicas,
    first_global_row,
    mean_over_replicas,
    require_equal_batches,
)

NEGATIVES = ("all_pairs", "random")
# The kinds of pairs, which are the keys of a batch, and the key of what goes with `audio` there.
_OTHERS = {"audio_audio": "audio_2", "audio_image": "image"}
# What a step says of each objective beside its loss: of pairs, and of clusters.
_PAIR_MEASURES, _CLUSTER_MEASURES = ("accuracy",), ("mean_entropy", "entropy_of_mean")


@keras.saving.register_keras_serializable("tfsound")
class CoincidenceModel(GlobalBatchModel):
    """Learns encoders of sounds and images by telling coinciding pairs from others, and clusters of sounds.

    The loss of a step is `L_coin = (1 - audio_audio_weight) L_AV + audio_audio_weight L_AA`, or that of the
    two of which the batch holds pairs; with clusters it is
    `L_joint = (1 - cluster_weight) L_coin + cluster_weight L_clust`, where L_clust is on the embeddings of
    all sounds of the batch: `audio` and `audio_2` of the one kind of pairs, and `audio` of the other.

    Args:
      audio_encoder: f, log-mel (batch, frames, mel_bins) -> (batch, embedding_dim).
      image_encoder: g, images (batch, height, width, 3) -> (batch, embedding_dim); none for sound alone.
      has_audio_audio: whether there are pairs of two sounds; without, there is no `audio_audio_head`, as
        without images there is no `audio_image_head`: no head is kept that nothing trains.
      audio_audio_weight: alpha, in [0, 1].
      negatives: `all_pairs` of the global batch are false but the diagonal, or one at `random` a row
        (rows d and h of table 1).
      block_size: see `losses.all_pairs_coincidence_loss`.
      hidden_units: of the heads that tell pairs.
      head_dtype: their Keras policy; their sums over pairs are float32 whatever it is, and so are clusters.
      num_clusters: K, that `cluster_head` tells apart; 0 for no clusters, where it is None.
      cluster_weight: beta, in [0, 1]; at 1 the clusters alone are learned.
      diversity_weight: gamma of `losses.cluster_entropy_loss`.
      seed: of random negatives, which depend on it and on the step alone.

    A batch is a dictionary as `examples.coincidence_dataset` gives it, with one of these or both:
      audio_audio: `audio` and `audio_2`, log-mel, float32, (batch, frames, mel_bins);
      audio_image: `audio`, and `image`, float32, (batch, height, width, 3) in [0, 1].
    Row i of one and of the other coincide. Each replica must have as many rows as the others.

    Raises:
      ValueError: a weight or a word out of range; no kind of pairs; a batch of neither kind, of a kind that
      the model has no head for, or of one pair, which has no negative; one cluster.

    Source: Jansen et al. 2020, sections 3.1, 3.2 and 3.4.
    """

    def __init__(
        self,
        audio_encoder: keras.Model,
        image_encoder: keras.Model | None = None,
        *,
        has_audio_audio: bool = True,
        audio_audio_weight: float = 0.1,
        negatives: str = "all_pairs",
        block_size: int | None = None,
        hidden_units: int = networks.HIDDEN_UNITS,
        head_dtype: str = "float32",
        num_clusters: int = 0,
        cluster_weight: float = 0.1,
        diversity_weight: float = 1.1,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        for name, weight in (("audio_audio_weight", audio_audio_weight), ("cluster_weight", cluster_weight)):
            if not 0 <= weight <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {weight}.")
        if not 0 <= diversity_weight < math.inf:
            raise ValueError(f"diversity_weight must be finite and at least 0, got {diversity_weight}.")
        if num_clusters < 0 or num_clusters == 1:
            raise ValueError(f"num_clusters must be 0, for none, or at least 2, got {num_clusters}.")
        if image_encoder is None and not has_audio_audio:
            raise ValueError(
                "has_audio_audio must be true without an image_encoder: there are no other pairs."
            )
        if negatives not in NEGATIVES:
            raise ValueError(f"negatives must be one of {list(NEGATIVES)}, got {negatives!r}.")
        self.audio_encoder = audio_encoder
        self.image_encoder = image_encoder
        self.has_audio_audio = has_audio_audio
        self.audio_audio_weight = audio_audio_weight
        self.negatives = negatives
        self.block_size = block_size
        self.hidden_units = hidden_units
        self.head_dtype = head_dtype
        self.num_clusters = num_clusters
        self.cluster_weight = cluster_weight
        self.diversity_weight = diversity_weight
        self.seed = seed
        self.audio_audio_head = self.audio_image_head = None
        if has_audio_audio:
            self.audio_audio_head = self._make_head("audio_audio_head", audio_encoder)
        if image_encoder is not None:
            self.audio_image_head = self._make_head("audio_image_head", image_encoder)
        self.cluster_head = None
        if num_clusters:
            self.cluster_head = networks.ClusterHead(num_clusters, dtype="float32", name="cluster_head")
            self.cluster_head.build(audio_encoder.output_shape)
            self.cluster_head.built = True
        self._loss_mean = keras.metrics.Mean("loss")
        measures = {
            "audio_audio": _PAIR_MEASURES if has_audio_audio else None,
            "audio_image": _PAIR_MEASURES if image_encoder is not None else None,
            "cluster": _CLUSTER_MEASURES if num_clusters else None,
        }
        self._means = {
            task: [keras.metrics.Mean(f"{task}_{name}") for name in ("loss", *names)]
            for task, names in measures.items()
            if names
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
            "name", "has_audio_audio", "audio_audio_weight", "negatives", "block_size", "hidden_units",
            "head_dtype", "num_clusters", "cluster_weight", "diversity_weight", "seed",
        )  # fmt: skip
        return encoders | {name: getattr(self, name) for name in names}

    @property
    def parts(self) -> dict[str, keras.layers.Layer]:
        """The networks that the model consists of, by name."""
        names = ("audio_encoder", "image_encoder", "audio_audio_head", "audio_image_head", "cluster_head")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [self._loss_mean, *(mean for means in self._means.values() for mean in means)]

    def call(self, log_mel: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Embeddings of sounds, (batch, embedding_dim)."""
        return self.audio_encoder(log_mel, training=training)

    def train_step(self, batch: dict[str, dict[str, tf.Tensor]]) -> dict[str, tf.Tensor]:
        """One step down the gradient of the global batch's loss; returns the epoch's means so far."""
        with tf.GradientTape() as tape:
            results = self.task_losses(batch, training=True)
            loss = self.joint_loss({task: values[0] for task, values in results.items()})
        # A batch of one kind says nothing of the other's networks.
        self.descend(tape, loss, reaches_all=False)
        return self._updated_metrics(loss, results)

    def test_step(self, batch: dict[str, dict[str, tf.Tensor]]) -> dict[str, tf.Tensor]:
        """As `train_step`, with the statistics of training and without a step."""
        results = self.task_losses(batch, training=False)
        loss = self.joint_loss({task: values[0] for task, values in results.items()})
        return self._updated_metrics(loss, results)

    def joint_loss(self, task_losses: dict[str, tf.Tensor]) -> tf.Tensor:
        """L_coin of section 3.4 where both kinds of pairs are given, else the one; L_joint with clusters."""
        pair_losses = [task_losses[task] for task in _OTHERS if task in task_losses]
        if len(pair_losses) == 1:
            (loss,) = pair_losses
        else:
            weight = self.audio_audio_weight
            loss = (1.0 - weight) * task_losses["audio_image"] + weight * task_losses["audio_audio"]
        if "cluster" not in task_losses:
            return loss
        return (1.0 - self.cluster_weight) * loss + self.cluster_weight * task_losses["cluster"]

    def task_losses(
        self, batch: dict[str, dict[str, tf.Tensor]], *, training: bool
    ) -> dict[str, tuple[tf.Tensor, ...]]:
        """Of this replica's rows: loss and pairwise accuracy for each kind of pairs in a batch; for `cluster`
        its loss, the mean of the entropies and the entropy of the mean.
        """
        embeddings = self.embed_pairs(batch, training=training)
        results = {
            task: self._task_loss(task, left, right, training=training)
            for task, (left, right) in embeddings.items()
        }
        if self.cluster_head is not None:
            results["cluster"] = self._cluster_loss(embeddings)
        return results

    def _cluster_loss(
        self, embeddings: dict[str, tuple[tf.Tensor, tf.Tensor]]
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        sounds = [*embeddings.get("audio_audio", ()), *embeddings.get("audio_image", ())[:1]]
        return losses.cluster_entropy_loss(
            tf.concat(sounds, axis=0), tf.convert_to_tensor(self.cluster_head.kernel),
            logit_scale=self.cluster_head.logit_scale, diversity_weight=self.diversity_weight,
            mean_over_replicas=mean_over_replicas,
        )  # fmt: skip

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
        known = {task for task in _OTHERS if self._head(task) is not None}
        if not batch or not set(batch) <= known:
            expected = "audio_audio, audio_image or both"
            if self.image_encoder is None:
                expected = "audio_audio (this model has no image_encoder)"
            elif not self.has_audio_audio:
                expected = "audio_image (this model has no audio_audio_head)"
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

    def _updated_metrics(self, loss, results) -> dict[str, tf.Tensor]:
        self._loss_mean.update_state(loss)
        updated = [self._loss_mean]
        for task, values in results.items():
            for mean, value in zip(self._means[task], values, strict=True):
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
          ValueError: candidates of a kind that the model has no head for; an array of neither kind.
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
        """As `pair_logits`, from embeddings.

        Args:
          left: of sounds, float32, (queries, embedding_dim).
          right: float32, (candidates, embedding_dim).
          task: `audio_audio` or `audio_image`: whose embeddings are on the right.

        Returns:
          Logits, float32, (queries, candidates).

        Raises:
          ValueError: a task that the model has no head for.
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
