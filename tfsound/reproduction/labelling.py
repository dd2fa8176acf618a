"""Simulated annotators: which windows of the other folds are labelled, and what a classifier makes of it.

A question is answered by the labels of the window's clip.

Source: Jansen et al. 2020, sections 3.3 and 4.2.
"""

import dataclasses
import functools

import numpy as np

from tfsound import active_learning, evaluation, examples, training
from tfsound.reproduction.coincidence_paper import clustered, unsupervised
from tfsound.reproduction.encoders import Encoders
from tfsound.reproduction.measures import Measures
from tfsound.reproduction.scales import Scale
from tfsound.window_labels import WindowLabels

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
    """

    name: str
    asks: str
    is_from_scratch: bool = False


# Table 3 has the first three; the others tell what the start, and what the clusters are worth.
STRATEGIES = (
    Strategy("Complete, from scratch (topline)", "all", is_from_scratch=True),
    Strategy("Random, from scratch", "random", is_from_scratch=True),
    Strategy("Cluster head", "head"),
    Strategy("Complete, from the unsupervised start", "all"),
    Strategy("Random, from the unsupervised start", "random"),
    Strategy("k-means", "k-means"),
)


class Labelling:
    """Labels, and classifiers of them, on the folds that are not held out."""

    def __init__(self, encoders: Encoders, measures: Measures, scale: Scale, seed: int):
        self._encoders = encoders
        self._measures = measures
        self._scale = scale
        self._seed = seed
        self._start = unsupervised(has_images=measures.has_images)
        self._windows = functools.lru_cache(maxsize=2)(self._embed_windows)

    def num_clusters(self, share: float, fold: str) -> int:
        """K for a budget that is a share of the windows."""
        num_windows = self._measures.num_training_windows(fold)
        wanted = self._scale.clusters_per_label * share * num_windows
        return min(num_windows, max(2, round(wanted)))

    def clusters(self, share: float, fold: str) -> dict:
        """A row of table 2: the clusters of the cluster head, and the labels that are spread over them."""
        simulation = self._simulate("head", share, fold)
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
        simulation = None if strategy.asks == "all" else self._simulate(strategy.asks, share, fold)
        start = "" if strategy.is_from_scratch else self._run(strategy.asks, share, fold)
        name = f"{strategy.name}, {share:.1%}"
        if simulation is None:
            run = self._encoders.of_labels(None, fold, name=name, start_from=start)
            num_windows = self._measures.num_training_windows(fold)
            return {NUM_LABELS: num_windows, NUM_LABELLED: num_windows} | self._measures.clip_scores(
                run, fold
            )
        labels = self._window_labels(simulation, self._run(strategy.asks, share, fold), fold)
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

    def _simulate(self, asks: str, share: float, fold: str) -> active_learning.Simulation:
        run = self._run(asks, share, fold)
        embeddings, truth, windows = self._windows(run, fold)
        num_questions = max(1, round(share * len(truth)))
        if asks == "random":
            return active_learning.label_at_random(
                truth, self._measures.class_names, num_questions=num_questions, seed=self._seed
            )
        clip_ids, recording_ids, starts = windows
        return active_learning.simulate(
            embeddings, truth, self._measures.class_names, num_questions=num_questions,
            num_clusters=self.num_clusters(share, fold), clip_ids=clip_ids, recording_ids=recording_ids,
            start_seconds=starts, seed=self._seed,
            assign=training.load_cluster_head(run).assign if asks == "head" else None,
        )  # fmt: skip

    def _embed_windows(self, run: str, fold: str) -> tuple[np.ndarray, np.ndarray, tuple]:
        """Of the windows to learn from: embeddings, true labels (windows, classes), and which they are."""
        embed, mel_params = evaluation.load_embed(run)
        clips = list(examples.iter_clips(self._measures.clips, folds=self._measures.folds.of_training(fold)))
        embeddings, windows = active_learning.embed_clips(clips, embed, mel_params)
        truth, _ = evaluation.label_matrix([clip.labels for clip in clips], self._measures.class_names)
        row_of_clip = {clip.clip_id: row for row, clip in enumerate(clips)}
        clip_ids = [windows.clip_ids[index] for index in windows.clip_index]
        recording_ids = [windows.recording_ids[index] for index in windows.clip_index]
        rows = [row_of_clip[clip_id] for clip_id in clip_ids]
        return embeddings, truth[rows], (clip_ids, recording_ids, windows.start_seconds)

    def _window_labels(self, simulation: active_learning.Simulation, run: str, fold: str) -> WindowLabels:
        _, _, (clip_ids, _, starts) = self._windows(run, fold)
        known = np.flatnonzero(simulation.known)
        row_labels, row = np.unique(simulation.labels[known], axis=0, return_inverse=True)
        return WindowLabels(
            clip_ids=tuple(clip_ids[window] for window in known),
            start_seconds=np.asarray(starts)[known],
            row=row.astype(np.int32),
            row_labels=row_labels,
            row_is_known=np.ones(len(row_labels), bool),
            class_names=tuple(self._measures.class_names),
        )
