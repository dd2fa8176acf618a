"""The encoders of a reproduction: trained without the fold that they are scored on, made once and kept."""

import dataclasses
import os
import shutil

from tfsound import examples, training
from tfsound.beam.pairs import sample_pairs
from tfsound.beam.triplets import sample_triplets
from tfsound.reproduction.folds import Folds
from tfsound.reproduction.scales import Scale
from tfsound.reproduction.units import slug
from tfsound.window_labels import WindowLabels

# Jansen et al. 2018, section 4.2.
MARGIN = 0.1


@dataclasses.dataclass(frozen=True)
class PairRecipe:
    """How an encoder is learned from pairs.

    Attributes:
      modalities: the kinds of pairs, `examples.AUDIO_AUDIO`, `AUDIO_IMAGE` or both.
      uses_vgg: a VGG in the encoder's place.
      negatives: all pairs of a batch, or one at random.
      max_time_gap_seconds: how far apart what coincides may be.
      starts_from: the encoder that training goes on from.
      num_clusters: K of a cluster loss beside it; 0 for none.
    """

    modalities: tuple[str, ...]
    uses_vgg: bool = False
    negatives: str = "all_pairs"
    max_time_gap_seconds: float = 10.0
    starts_from: "PairRecipe | None" = None
    num_clusters: int = 0

    @property
    def name(self) -> str:
        parts = [*self.modalities, f"{self.max_time_gap_seconds:g}s", self.negatives]
        parts += ["vgg"] if self.uses_vgg else []
        parts += ["continued"] if self.starts_from else []
        parts += [f"{self.num_clusters}-clusters"] if self.num_clusters else []
        return slug(*parts)


class Encoders:
    """Trains what is asked for, or finds it.

    Args:
      clips: a set of clip examples with folds.
      output: the reproduction's folder.
      margin: delta, of the triplet loss.
    """

    def __init__(self, clips: str, output: str, scale: Scale, seed: int, margin: float = MARGIN):
        self._clips = clips
        self._folds = Folds(clips)
        self._output = output
        self._scale = scale
        self._seed = seed
        self._margin = margin

    def of_triplets(self, constraints: tuple[str, ...], fold: str) -> str:
        """The run of an encoder of triplets under some constraints; the triplets go when it is finished."""
        folder, run, is_finished = self._place(slug(*constraints), fold)
        num_sources, scale = len(constraints), self._scale
        triplets = os.path.join(folder, "triplets")
        if is_finished:
            shutil.rmtree(triplets, ignore_errors=True)  # of a call that was killed before it could
            return run
        if not os.path.exists(os.path.join(triplets, examples.INFO_NAME)):
            sample_triplets(
                self._clips, triplets, constraints=constraints, count=scale.num_examples * num_sources,
                exclude_folds=self._folds.not_of_training(fold), seed=self._seed, allow_repeats=True,
                overwrite=True,
            )  # fmt: skip
        is_mined = training.decide_mining("auto", list(constraints)) == "on"
        training.train(
            [triplets], run, learning_rate=scale.learning_rate if is_mined else scale.unmined_learning_rate,
            margin=self._margin, **self._training_options(scale.encoder, scale.num_steps * num_sources),
        )  # fmt: skip
        shutil.rmtree(triplets)
        return run

    def of_pairs(self, recipe: PairRecipe, fold: str) -> str:
        """The run of an encoder of coinciding pairs; the pairs go when it is finished."""
        folder, run, is_finished = self._place(recipe.name, fold)
        pairs = {modality: os.path.join(folder, modality) for modality in recipe.modalities}
        if is_finished:
            for directory in pairs.values():
                shutil.rmtree(directory, ignore_errors=True)  # of a call that was killed before it could
            return run
        start_from = self.of_pairs(recipe.starts_from, fold) if recipe.starts_from else ""
        for modality, directory in pairs.items():
            if not os.path.exists(os.path.join(directory, examples.INFO_NAME)):
                sample_pairs(
                    self._clips, directory, modality=modality, count=self._scale.num_examples,
                    max_time_gap_seconds=recipe.max_time_gap_seconds,
                    exclude_folds=self._folds.not_of_training(fold), seed=self._seed, allow_repeats=True,
                    overwrite=True,
                )  # fmt: skip
        training.train_coincidence(
            run, negatives=recipe.negatives, start_from=start_from, num_clusters=recipe.num_clusters,
            learning_rate=self._scale.learning_rate,
            **{modality: (directory,) for modality, directory in pairs.items()},
            **self._training_options(
                self._scale.vgg if recipe.uses_vgg else self._scale.encoder, self._scale.num_steps
            ),
        )  # fmt: skip
        for directory in pairs.values():
            shutil.rmtree(directory)
        return run

    def of_labels(self, labels: WindowLabels | None, fold: str, *, name: str, start_from: str) -> str:
        """The run of a classifier: of labels of windows, or of those of all clips."""
        _, run, is_finished = self._place(slug("classifier", name), fold)
        if not is_finished:
            training.train_classifier(
                self._clips, run, labels=labels or "", start_from=start_from,
                exclude_folds=self._folds.not_of_training(fold), learning_rate=self._scale.learning_rate,
                **self._training_options(self._scale.encoder, self._scale.num_classifier_steps),
            )  # fmt: skip
        return run

    def _place(self, name: str, fold: str) -> tuple[str, str, bool]:
        """The folder of an encoder, its run, and whether that is finished."""
        folder = os.path.join(self._output, "encoders", name, f"without_{fold}")
        run = os.path.join(folder, "run")
        return folder, run, os.path.exists(os.path.join(run, training.ENCODER_INFO_NAME))

    def _training_options(self, encoder: str, num_steps: int) -> dict:
        return {
            "encoder": encoder, "num_steps": num_steps, "batch_size": self._scale.batch_size,
            "learning_rate_decay": self._scale.learning_rate_decay,
            "steps_per_checkpoint": max(50, num_steps // 10), "seed": self._seed,
        }  # fmt: skip
