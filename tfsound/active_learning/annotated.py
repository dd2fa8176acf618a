"""Windows with their embeddings and true labels: what a simulated annotator is asked about.

Source: Jansen et al. 2020, section 4.2.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from tfsound.active_learning.clustering import Assign, mean_directions
from tfsound.active_learning.question_job import embed_clips
from tfsound.active_learning.simulation import Simulation, label_at_random, simulate
from tfsound.window_labels import WindowLabels


@dataclasses.dataclass(frozen=True, eq=False)
class AnnotatedWindows:
    """Windows that an annotator can be simulated on.

    Attributes:
      embeddings: float32, (windows, dim), of unit length.
      labels: bool, (windows, classes), those of each window's clip.
      class_names: (classes,).
      clip_ids, recording_ids: (windows,).
      start_seconds: float64, (windows,), from the start of the recording.
    """

    embeddings: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    clip_ids: tuple[str, ...]
    recording_ids: tuple[str, ...]
    start_seconds: np.ndarray

    def __len__(self) -> int:
        return len(self.embeddings)

    def ask_of_clusters(
        self, num_questions: int, *, num_clusters: int = 0, assign: Assign | None = None, seed: int = 0
    ) -> Simulation:
        """One question a cluster, each answer spread over its cluster: arguments and errors of `simulate`."""
        return simulate(
            self.embeddings, self.labels, self.class_names, num_questions=num_questions,
            num_clusters=num_clusters, clip_ids=self.clip_ids, recording_ids=self.recording_ids,
            start_seconds=self.start_seconds, assign=assign, seed=seed,
        )  # fmt: skip

    def ask_at_random(self, num_questions: int, *, over_clips: bool = False, seed: int = 0) -> Simulation:
        """Questions about windows drawn at random: see `label_at_random`.

        Args:
          num_questions: the budget, at most the windows.
          seed: of the draw.
          over_clips: spread an answer over the windows of its clip, and ask about as many clips as can be;
            else over none.
        """
        over = self._clip_index() if over_clips else None
        return label_at_random(
            self.labels, self.class_names, num_questions=num_questions, over=over, seed=seed
        )

    def pooled(self) -> "AnnotatedWindows":
        """Each window with the mean embedding of its clip, so that a clip is in one cluster."""
        clip_index = self._clip_index()
        return dataclasses.replace(self, embeddings=mean_directions(self.embeddings, clip_index)[clip_index])

    def _clip_index(self) -> np.ndarray:
        return np.unique(self.clip_ids, return_inverse=True)[1]

    def training_labels(self, simulation: Simulation) -> WindowLabels:
        """What a simulation on these windows made known, as `training.train_classifier` takes it."""
        known = np.flatnonzero(simulation.known)
        row_labels, row = np.unique(simulation.labels[known], axis=0, return_inverse=True)
        return WindowLabels(
            clip_ids=tuple(self.clip_ids[window] for window in known),
            start_seconds=self.start_seconds[known],
            row=row.astype(np.int32),
            row_labels=row_labels,
            row_is_known=np.ones(len(row_labels), bool),
            class_names=self.class_names,
        )


def annotated_windows(
    clips: Iterable,
    embed: Callable[[np.ndarray], np.ndarray],
    mel_params,
    class_names: Sequence[str],
) -> AnnotatedWindows:
    """Embeds the windows of clips and gives each the labels of its clip.

    Args:
      clips: clip examples, a stream.
      embed: log-mel windows, float32 (windows, frames, mel_bins) -> embeddings, (windows, dim).
      mel_params: the front end of the clips.
      class_names: (classes,), which the clips' labels must be among.

    Returns:
      All windows of the clips, in their order.

    Raises:
      ActiveLearningError: no clip at all, embeddings that are not finite; EvaluationError: an unknown label.
    """
    from tfsound import evaluation  # here, because TensorFlow takes seconds

    labels_of_clip: dict[str, tuple[str, ...]] = {}

    def remembered():
        for clip in clips:
            labels_of_clip[clip.clip_id] = clip.labels
            yield clip

    embeddings, windows = embed_clips(remembered(), embed, mel_params)
    clip_ids = tuple(str(windows.clip_ids[index]) for index in windows.clip_index)
    labels, names = evaluation.label_matrix([labels_of_clip[clip_id] for clip_id in clip_ids], class_names)
    return AnnotatedWindows(
        embeddings=embeddings,
        labels=labels,
        class_names=tuple(names),
        clip_ids=clip_ids,
        recording_ids=tuple(str(windows.recording_ids[index]) for index in windows.clip_index),
        start_seconds=np.asarray(windows.start_seconds, np.float64),
    )
