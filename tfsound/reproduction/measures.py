"""The papers' measures on a held-out fold of a set of clips."""

import contextlib
import os
import shutil
from collections.abc import Iterator

import numpy as np

from tfsound import evaluation, examples, mel, training
from tfsound.reproduction.folds import Folds
from tfsound.reproduction.scales import Scale

CLASSIFICATION = "mAP"
MEAN_D_PRIME = "mean d'"


class Measures:
    """Scores embeddings on clips.

    Args:
      clips: a set of clip examples with folds.
      output: the reproduction's folder, for log-mel windows while a classifier learns from them.
    """

    def __init__(self, clips: str, output: str, scale: Scale, seed: int):
        self.clips = clips
        self._output = output
        self._scale = scale
        self._seed = seed
        info = examples.read_dataset_info(clips, kind=examples.CLIPS)
        self.class_names, self.mel_params = info.label_names, info.mel_params
        self.folds = Folds(clips)
        self.has_images = info.num_images > 0
        self._num_windows: dict[str, int] = {}

    def require_scorable(self, fold: str) -> None:
        """Raises: EvaluationError when no class of a fold has two segments, and another without it, or when
        no clip of it has frames, though others have.
        """
        labels, has_frames = [], False
        for clip in self._test_clips(fold):
            labels.append(clip.labels)
            has_frames = has_frames or bool(clip.frame_jpegs)
        matrix, _ = evaluation.label_matrix(labels)
        num_present = matrix.sum(axis=0)
        if not ((num_present >= 2) & (num_present < len(matrix))).any():
            raise evaluation.EvaluationError(
                f"fold {fold} of {self.clips}: no class of {len(matrix)} segments has two and a segment "
                "without it, so retrieval cannot be scored; label more, or hold out other folds."
            )
        if self.has_images and not has_frames:
            raise evaluation.EvaluationError(
                f"fold {fold} of {self.clips}: none of its {len(matrix)} clips has frames, as clips of other "
                "folds have, so pictures cannot be found by sound; hold out other folds."
            )

    def _test_clips(self, fold: str) -> Iterator[examples.Clip]:
        return examples.iter_clips(self.clips, folds=self.folds.of_test(fold))

    def retrieval(self, embed: evaluation.Embed, fold: str) -> dict:
        """Query by example: Jansen et al. 2018, section 4.3."""
        segments = evaluation.embed_segments(self._test_clips(fold), embed, self.mel_params)
        result = evaluation.query_by_example(segments, seed=self._seed)
        return {
            evaluation.QUERY_BY_EXAMPLE: result.mean,
            "chance": result.chance,
            "protocol": result.protocol,
        }

    def classification(self, embed: evaluation.Embed, fold: str, measures: tuple[str, ...]) -> dict:
        """Shallow classifiers, `evaluation.ONE_LAYER` or `TWO_LAYERS`: Jansen et al. 2018, section 4.4."""
        num_layers = {evaluation.ONE_LAYER: 1, evaluation.TWO_LAYERS: 2}
        with self._windows(embed, fold) as (train, test):
            return {
                measure: evaluation.classify(
                    train, test, evaluation.fully_connected(num_layers[measure]),
                    options=self._scale.classifier, seed=self._seed,
                ).mean
                for measure in measures
            }  # fmt: skip

    def num_training_windows(self, fold: str) -> int:
        """How many windows there are to learn from where a fold is held out."""
        if fold not in self._num_windows:
            clips = examples.iter_clips(self.clips, folds=self.folds.of_training(fold))
            self._num_windows[fold] = sum(self.mel_params.num_windows(len(clip.mel_energy)) for clip in clips)
        return self._num_windows[fold]

    def clip_scores(self, run: str, fold: str) -> dict:
        """A finished classifier, on clips: Jansen et al. 2020, section 4.2."""
        return self._scored(*evaluation.load_score(run), fold)

    def constant_scores(self, fold: str) -> dict:
        """As `clip_scores`, of what labels of one class alone teach: every clip is the same."""
        num_classes = len(self.class_names)
        return self._scored(
            lambda log_mel: np.zeros((len(log_mel), num_classes), np.float32), self.mel_params,
            self.class_names, fold,
        )  # fmt: skip

    def _scored(
        self, score: evaluation.Embed, mel_params: mel.MelParams, class_names: tuple[str, ...], fold: str
    ) -> dict:
        folds = self.folds.of_test(fold)
        scores = evaluation.score_clips(self.clips, score, mel_params, class_names, folds=folds)
        return {CLASSIFICATION: scores.average_precision.mean, MEAN_D_PRIME: scores.d_prime.mean}

    def across_modalities(self, run: str, fold: str) -> dict:
        """Pictures for sounds and sounds for pictures, by a finished run on pairs of both."""
        model, _ = training.load_coincidence_model(run)
        result = evaluation.cross_modal_retrieval(
            self._test_clips(fold), model.pair_logits, self.mel_params, seed=self._seed
        )
        return {"measures": result.measures(), "chance": result.chance()}

    def light_supervision(
        self,
        embed: evaluation.Embed | None,
        architecture: evaluation.Architecture,
        segments_per_class: int,
        fold: str,
    ) -> dict:
        """A classifier of few segments a class, on log-mel windows where nothing embeds them."""
        with self._windows(embed, fold) as (train, test):
            result = evaluation.light_supervision(
                train, test, architecture, segments_per_class=segments_per_class,
                num_draws=self._scale.num_draws, options=self._scale.classifier, seed=self._seed,
            )  # fmt: skip
        return {
            CLASSIFICATION: result.spread.mean,
            "draws": result.scores,
            "short_classes": result.short_classes,
        }

    @contextlib.contextmanager
    def _windows(
        self, embed: evaluation.Embed | None, fold: str
    ) -> Iterator[tuple[evaluation.LabelledWindows, evaluation.LabelledWindows]]:
        """Windows of the folds to learn from, and of this one; log-mel windows, which are large, on disk."""
        is_large = embed in (None, evaluation.embed_baseline)
        folder = os.path.join(self._output, "windows")
        shutil.rmtree(folder, ignore_errors=True)  # of a call that was killed
        os.makedirs(folder)
        try:
            yield tuple(
                evaluation.embed_windows(
                    examples.iter_clips(self.clips, folds=chosen), embed, self.mel_params,
                    class_names=self.class_names, dtype=np.float16 if is_large else np.float32,
                    path=os.path.join(folder, name) if is_large else "",
                )
                for name, chosen in (
                    ("train", self.folds.of_training(fold)), ("test", self.folds.of_test(fold))
                )
            )  # fmt: skip
        finally:
            shutil.rmtree(folder)
