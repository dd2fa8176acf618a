"""The encoders of the DLS reproduction: pre-trained without labels, made once and kept."""

import math
import os
from collections.abc import Mapping

import numpy as np

from tfsound import evaluation, examples, metrics, training
from tfsound.beam.instances import assign_instances
from tfsound.reproduction.dls_paper import NUM_NEIGHBORS, Hyperparameters
from tfsound.reproduction.scales import DlsScale
from tfsound.reproduction.units import slug

# About so many times during a pre-training are the nearest neighbours asked.
_NUM_MEASUREMENTS = 20


class Pretraining:
    """Pre-trains what is asked for, or finds it.

    Args:
      clips: sets of clip examples with folds, by the name of the data set.
      joint: the names of those that are learned from together; another one is a part of them.
      output: the reproduction's folder.
    """

    def __init__(
        self, clips: Mapping[str, str], joint: tuple[str, ...], output: str, scale: DlsScale, seed: int
    ):
        self._clips = clips
        self._joint = joint
        self._output = output
        self._scale = scale
        self._seed = seed

    def without(self, name: str, fold: str, hyperparameters: Hyperparameters) -> str:
        """The run of an encoder that has heard a data set without one fold: its first phase, section 4."""
        folder = os.path.join(self._output, "encoders", slug(str(hyperparameters)), name, f"without_{fold}")
        return self._run(folder, (self._clips[name],), (fold,), hyperparameters)

    def of_all(self, hyperparameters: Hyperparameters) -> str:
        """The run of an encoder that has heard all data sets and folds: the second phase, section 4."""
        folder = os.path.join(self._output, "encoders", slug(str(hyperparameters)), "all")
        return self._run(folder, tuple(self._clips[name] for name in self._joint), (), hyperparameters)

    def _run(
        self,
        folder: str,
        clips: tuple[str, ...],
        held_out: tuple[str, ...],
        hyperparameters: Hyperparameters,
    ) -> str:
        instances, run = os.path.join(folder, "instances"), os.path.join(folder, "run")
        if os.path.exists(os.path.join(run, training.ENCODER_INFO_NAME)):
            return run
        if not os.path.exists(os.path.join(instances, examples.INFO_NAME)):
            assign_instances(clips, instances, exclude_folds=held_out, overwrite=True)
        scale, num_instances = self._scale, examples.read_instances(instances).num_instances
        # Of a set that is smaller than these, all.
        batch_size = min(scale.batch_size, num_instances)
        num_negatives = min(hyperparameters.num_negatives, num_instances)
        epoch = training.steps_per_epoch(num_instances, batch_size)
        training.train_instances(
            instances, run, encoder=scale.encoder, embedding_dim=hyperparameters.embedding_dim,
            num_negatives=num_negatives, temperature=hyperparameters.temperature,
            num_steps=scale.num_epochs * epoch, batch_size=batch_size,
            learning_rate=scale.learning_rate, knn_folds=held_out, knn_neighbors=NUM_NEIGHBORS,
            steps_per_checkpoint=epoch * math.ceil(scale.num_epochs / _NUM_MEASUREMENTS), seed=self._seed,
        )  # fmt: skip
        return run

    def knn_accuracies(self, run: str) -> dict[str, list[float]]:
        """Over the epochs of a run without a fold, how often a clip's nearest neighbours tell its class."""
        log = training.read_log(os.path.join(run, training.LOG_NAME))
        config = training.finished_config(run)
        epoch = training.steps_per_epoch(config["num_instances"], config["batch_size"])
        return {
            "epochs": [row["step"] / epoch for row in log],
            "accuracies": [row["knn_accuracy"] for row in log],
        }

    def spectrogram_knn_accuracy(self, name: str, fold: str, temperature: float) -> float:
        """The same where a clip is its log spectrogram, the mean over its windows as one vector."""
        info = examples.read_dataset_info(self._clips[name], kind=examples.CLIPS)
        sides = [
            evaluation.embed_segments(
                (clip for clip in examples.iter_clips(self._clips[name], folds=folds) if clip.labels),
                evaluation.embed_baseline, info.mel_params,
            )
            for folds in (tuple(other for other in info.folds if other != fold), (fold,))
        ]  # fmt: skip
        learned, held_out = ((side.embeddings, np.array([row[0] for row in side.labels])) for side in sides)
        return metrics.weighted_knn_accuracy(
            *learned, *held_out, k=NUM_NEIGHBORS, temperature=temperature
        ).accuracy
