"""The papers' measures on a held-out fold of a set of clips."""

from tfsound import evaluation, examples, training
from tfsound.reproduction.scales import Scale

_EVALUATION_SPLIT = "eval"


def held_out_folds(clips: str, folds: tuple[str, ...], scale: Scale) -> tuple[str, ...]:
    """The folds to hold out. Raises: ValueError for one that does not exist, or none to learn from."""
    known = examples.read_dataset_info(clips, kind=examples.CLIPS).folds
    if not set(folds) <= set(known) or len(known) < 2:
        raise ValueError(
            f"folds must be some of those of the data set, and it must have two or more; got {list(folds)}, "
            f"it has {list(known)}."
        )
    if _EVALUATION_SPLIT in known:
        return folds or (_EVALUATION_SPLIT,)
    return folds or known[: scale.max_folds]


class Measures:
    """Scores embeddings on clips.

    Args:
      clips: a set of clip examples with folds.
    """

    def __init__(self, clips: str, scale: Scale, seed: int):
        self.clips = clips
        self._scale = scale
        self._seed = seed
        info = examples.read_dataset_info(clips, kind=examples.CLIPS)
        self._all_folds, self._class_names, self._mel_params = info.folds, info.label_names, info.mel_params
        self.has_images = info.num_images > 0

    def require_scorable(self, fold: str) -> None:
        """Raises: EvaluationError when no class of a fold has two segments, and another without it."""
        labels = [clip.labels for clip in examples.iter_clips(self.clips, folds=(fold,))]
        matrix, _ = evaluation.label_matrix(labels)
        num_present = matrix.sum(axis=0)
        if not ((num_present >= 2) & (num_present < len(matrix))).any():
            raise evaluation.EvaluationError(
                f"fold {fold} of {self.clips}: no class of {len(matrix)} segments has two and a segment "
                "without it, so retrieval cannot be scored; label more, or hold out other folds."
            )

    def retrieval(self, embed: evaluation.Embed, fold: str) -> dict:
        """Query by example: Jansen et al. 2018, section 4.3."""
        clips = examples.iter_clips(self.clips, folds=(fold,))
        segments = evaluation.embed_segments(clips, embed, self._mel_params)
        result = evaluation.query_by_example(segments, seed=self._seed)
        return {
            evaluation.QUERY_BY_EXAMPLE: result.mean,
            "chance": result.chance,
            "protocol": result.protocol,
        }

    def classification(self, embed: evaluation.Embed, fold: str, measures: tuple[str, ...]) -> dict:
        """Shallow classifiers, `evaluation.ONE_LAYER` or `TWO_LAYERS`: Jansen et al. 2018, section 4.4."""
        train, test = self._windows(embed, fold)
        num_layers = {evaluation.ONE_LAYER: 1, evaluation.TWO_LAYERS: 2}
        return {
            measure: evaluation.classify(
                train, test, evaluation.fully_connected(num_layers[measure]),
                options=self._scale.classifier, seed=self._seed,
            ).mean
            for measure in measures
        }  # fmt: skip

    def across_modalities(self, run: str, fold: str) -> dict:
        """Pictures for sounds and sounds for pictures, by a finished run on pairs of both."""
        model, _ = training.load_coincidence_model(run)
        clips = examples.iter_clips(self.clips, folds=(fold,))
        result = evaluation.cross_modal_retrieval(clips, model.pair_logits, self._mel_params, seed=self._seed)
        return {"measures": result.measures(), "chance": result.chance()}

    def light_supervision(
        self,
        embed: evaluation.Embed | None,
        architecture: evaluation.Architecture,
        segments_per_class: int,
        fold: str,
    ) -> dict:
        """A classifier of few segments a class, on log-mel windows where nothing embeds them."""
        train, test = self._windows(embed, fold)
        result = evaluation.light_supervision(
            train, test, architecture, segments_per_class=segments_per_class, num_draws=self._scale.num_draws,
            options=self._scale.classifier, seed=self._seed,
        )  # fmt: skip
        return {"mAP": result.spread.mean, "draws": result.scores, "short_classes": result.short_classes}

    def _windows(
        self, embed: evaluation.Embed | None, fold: str
    ) -> tuple[evaluation.LabelledWindows, evaluation.LabelledWindows]:
        """Windows of the other folds, and of this one."""
        others = tuple(other for other in self._all_folds if other != fold)
        return tuple(
            evaluation.embed_windows(
                examples.iter_clips(self.clips, folds=chosen), embed, self._mel_params,
                class_names=self._class_names,
            )
            for chosen in (others, (fold,))
        )  # fmt: skip
