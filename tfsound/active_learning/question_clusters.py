"""The clusters of a round of questions: a cluster head's, those of an earlier round, or those of k-means."""

from collections.abc import Sequence

import numpy as np

from tfsound.active_learning.clustering import Assign, k_means, require_assignments
from tfsound.active_learning.question_options import HEAD, K_MEANS, QuestionOptions
from tfsound.active_learning.question_set import QuestionSet, WindowClusters, read_windows
from tfsound.active_learning.windows import canonical_order, numbered, select
from tfsound.records import ActiveLearningError


def clusters_of_round(
    embeddings: np.ndarray,
    windows: WindowClusters,
    options: QuestionOptions,
    reused: QuestionSet | None,
    assign: Assign | None,
) -> tuple[np.ndarray, int, str]:
    """Each window's cluster, K, and what made them: a cluster head, an earlier round, or k-means."""
    if assign is not None:
        if options.cluster_by == K_MEANS:
            raise ActiveLearningError(f"cluster_by is {K_MEANS}, and a cluster head was given; name one.")
        clusters, num_clusters, made_by = assign(embeddings), options.num_clusters, HEAD
    elif options.cluster_by == HEAD:
        raise ActiveLearningError(f"there is no cluster head to cluster by; cluster by {K_MEANS}.")
    elif reused is not None:
        last = read_windows(reused)
        last = select(last, canonical_order(last))
        if not np.array_equal(*numbered([last, windows])[0]):
            raise ActiveLearningError(
                f"{reused.folder} is about other windows than these, so its clusters cannot be used again; "
                "name num_clusters for new ones."
            )
        return last.cluster, reused.num_clusters, _made_by(reused)
    else:
        most = len(windows.clip_ids) if options.pools_clips else windows.num_windows
        num_clusters, made_by = options.num_clusters or min(options.num_questions, most), K_MEANS
        if num_clusters > most and options.pools_clips:
            raise ActiveLearningError(
                f"num_clusters must be from 1 to the number of clips, {most}, got {num_clusters}."
            )
        clusters = k_means(embeddings, num_clusters, seed=options.seed)
    if options.pools_clips:
        # The first window of each decides: sums of equal rows may differ in their last bit, block by block.
        first = np.unique(windows.clip_index, return_index=True)[1]
        clusters = require_assignments(clusters, windows.num_windows)[first][windows.clip_index]
    return np.asarray(clusters), num_clusters, made_by


def reused_round(options: QuestionOptions, rounds: Sequence[QuestionSet]) -> QuestionSet | None:
    """The last round, where its clusters are used again; None where new ones are to be made."""
    if not rounds or options.num_clusters or options.cluster_by == K_MEANS != _made_by(rounds[-1]):
        return None
    if options.pools_clips and not rounds[-1].pools_clips:
        raise ActiveLearningError(
            f"pools_clips makes clusters of clips, and those of {rounds[-1].folder} are of windows; name "
            "num_clusters for new ones, or leave it out."
        )
    return rounds[-1]


def _made_by(question_set: QuestionSet) -> str:
    return question_set.settings.get("cluster_by", K_MEANS)
