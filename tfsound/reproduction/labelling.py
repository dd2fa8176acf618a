"""Simulated annotators: which windows of the other folds are labelled, and what a classifier makes of it.

A question is answered by the labels of the window's clip.

Source: Jansen et al. 2020, sections 3.3 and 4.2.
"""

import dataclasses
import functools

from tfsound import active_learning, evaluation, examples, training
from tfsound.reproduction.coincidence_paper import clustered, unsupervised
from tfsound.reproduction.encoders import Encoders
from tfsound.reproduction.measures import Measures
from tfsound.reproduction.scales import Scale

NUM_CLUSTERS, NUM_ACTIVE, V_MEASURE = "K", "active clusters", "V-measure"
NUM_LABELS, NUM_LABELLED = "labels", "windows with labels"
RECALL, PRECISION = "recall", "precision"


@dataclasses.dataclass(frozen=True)
class Strategy:
    """How a budget of labels is spent and learnt from.

    Attributes:
      name: of its rows.
      asks: `all`, windows at `random`, one of each cluster of the cluster `head`, or of `k-means`.
      is_from_scratch: whether the classifier starts anew; else from what was learned without labels.
      pools_clips: whether an answer is for all windows of its clip, and clusters are of clips.
    """

    name: str
    asks: str
    is_from_scratch: bool = False
    pools_clips: bool = False


_CLUSTER_HEAD = Strategy("Cluster head", "head")
# Table 3 has the first three; the others tell what the start is worth, and what the clusters are.
STRATEGIES = (
    Strategy("Complete, from scratch (topline)", "all", is_from_scratch=True),
    Strategy("Random, from scratch", "random", is_from_scratch=True),
    _CLUSTER_HEAD,
    Strategy("Complete, from the unsupervised start", "all"),
    Strategy("Random, from the unsupervised start", "random"),
    Strategy("k-means", "k-means"),
    Strategy("Random clips, from the unsupervised start", "random", pools_clips=True),
    Strategy("Cluster head, of clips", "head", pools_clips=True),
    Strategy("k-means, of clips", "k-means", pools_clips=True),
)


class Labelling:
    """Labels, and classifiers of them, on the folds that are not held out."""

    def __init__(self, encoders: Encoders, measures: Measures, scale: Scale, seed: int):
        self._encoders = encoders
        self._measures = measures
        self._scale = scale
        self._seed = seed
        self._start = unsupervised(has_images=measures.has_images)
        self._windows = functools.lru_cache(maxsize=2)(self._annotated)

    def num_clusters(self, share: float, fold: str) -> int:
        """K for a budget that is a share of the windows."""
        num_windows = self._measures.num_training_windows(fold)
        wanted = self._scale.clusters_per_label * share * num_windows
        return min(num_windows, max(2, round(wanted)))

    def clusters(self, share: float, fold: str) -> dict:
        """A row of table 2: the clusters of the cluster head, and the labels that are spread over them."""
        simulation = self._simulate(_CLUSTER_HEAD, share, fold)
        return {
            NUM_CLUSTERS: self.num_clusters(share, fold),
            NUM_ACTIVE: simulation.clustering.num_active,
            V_MEASURE: simulation.v_measure,
            NUM_LABELS: len(simulation.asked),
            RECALL: simulation.quality.recall,
            PRECISION: simulation.quality.precision,
        }

    def classification(self, strategy: Strategy, share: float, fold: str) -> dict:
        """A row of table 3: how good the classifier of a budget is."""
        simulation = None if strategy.asks == "all" else self._simulate(strategy, share, fold)
        start = "" if strategy.is_from_scratch else self._run(strategy.asks, share, fold)
        name = f"{strategy.name}, {share:.1%}"
        if simulation is None:
            run = self._encoders.of_labels(None, fold, name=name, start_from=start)
            num_windows = self._measures.num_training_windows(fold)
            return {NUM_LABELS: num_windows, NUM_LABELLED: num_windows} | self._measures.clip_scores(
                run, fold
            )
        windows = self._windows(self._run(strategy.asks, share, fold), fold)
        labels = windows.training_labels(simulation)
        figures = {
            NUM_LABELS: len(simulation.asked),
            NUM_LABELLED: int(simulation.known.sum()),
            RECALL: simulation.quality.recall,
            PRECISION: simulation.quality.precision,
        }
        if len(labels.row_labels) == 1:
            return figures | self._measures.constant_scores(fold)
        run = self._encoders.of_labels(labels, fold, name=name, start_from=start)
        return figures | self._measures.clip_scores(run, fold)

    def _run(self, asks: str, share: float, fold: str) -> str:
        """The encoder learned without labels, with the clusters of a budget where these are asked."""
        recipe = self._start
        if asks == "head":
            recipe = clustered(recipe, self.num_clusters(share, fold))
        return self._encoders.of_pairs(recipe, fold)

    def _simulate(self, strategy: Strategy, share: float, fold: str) -> active_learning.Simulation:
        run = self._run(strategy.asks, share, fold)
        windows = self._windows(run, fold)
        num_questions = max(1, round(share * len(windows)))
        if strategy.asks == "random":
            return windows.ask_at_random(num_questions, over_clips=strategy.pools_clips, seed=self._seed)
        return (windows.pooled() if strategy.pools_clips else windows).ask_of_clusters(
            num_questions, num_clusters=self.num_clusters(share, fold), seed=self._seed,
            assign=training.load_cluster_head(run).assign if strategy.asks == "head" else None,
        )  # fmt: skip

    def _annotated(self, run: str, fold: str) -> active_learning.AnnotatedWindows:
        """The windows to learn from, as a run embeds them."""
        embed, mel_params = evaluation.load_embed(run)
        clips = examples.iter_clips(self._measures.clips, folds=self._measures.folds.of_training(fold))
        return active_learning.annotated_windows(clips, embed, mel_params, self._measures.class_names)
