"""Pictures of an embedding: sounds and what lies nearest to them, a map, the curve of its training."""

import itertools
import os

import numpy as np
from matplotlib.figure import Figure

from tfsound import evaluation, examples, mel, metrics, plots, sampling, training

_SHOWN_SECONDS = 10.0
_MAX_DRAWN = 1000


def draw_pictures(
    clips: str,
    model: str,
    output: str,
    *,
    by: str = "labels",
    fold: str = "",
    num_queries: int = 6,
    k: int = 5,
    seed: int = 0,
) -> tuple[str, ...]:
    """Draws queries with their nearest neighbours, a map of the embedding, and the training curve.

    Args:
      clips: the folder of clip examples.
      model: a finished run.
      output: the folder for `neighbours.png`, `map.png` and `training.png`.
      by: `labels`, or `recordings` to draw halves of clips, labelled by their recording.
      fold: whose clips to draw; all without.
      num_queries, k: rows of the first picture, and neighbours in each.

    Returns:
      The paths of the pictures.
    """
    embed, mel_params = evaluation.load_embed(model)
    # Clips lie in the order of a hash, so the first are a fair sample.
    drawn = list(itertools.islice(examples.iter_clips(clips, folds=(fold,) if fold else ()), _MAX_DRAWN))
    kind = "clips"
    if by == "recordings":
        drawn, kind = list(evaluation.halve(drawn, mel_params)), "halves of clips"
    segments = evaluation.embed_segments(drawn, embed, mel_params)
    queries = choose_queries(list(segments.labels), num_queries, seed)
    log = training.read_log(os.path.join(model, training.LOG_NAME))
    figures = {
        "neighbours.png": _plot_neighbours(drawn, segments, queries, mel_params, k=k, by=by),
        "map.png": plots.plot_embedding_map(
            segments.embeddings, [", ".join(row) or None for row in segments.labels], seed=seed,
            title=f"{len(drawn)} held-out {kind}: near means alike to the embedding",
        ),
        "training.png": plots.plot_training_log(
            {name: [row[name] for row in log] for name in log[0] if name != "epoch"}
        ),
    }  # fmt: skip
    paths = {name: os.path.join(output, name) for name in figures}
    for name, figure in figures.items():
        plots.save_figure(figure, paths[name])
    return tuple(paths.values())


def choose_queries(labels: list[tuple[str, ...]], num_queries: int, seed: int) -> np.ndarray:
    """Segments to show as queries: one of each class in turn, seeded: int64, (at most num_queries,)."""
    order = sampling.random_generator(seed, "queries").permutation(len(labels))
    first_of_class = list({labels[index]: index for index in order[::-1]}.values())
    others = [index for index in order if index not in set(first_of_class)]
    return np.array([*sorted(first_of_class)[:num_queries], *others][:num_queries])


def _plot_neighbours(
    clips: list[examples.Clip],
    segments: evaluation.Segments,
    queries: np.ndarray,
    mel_params: mel.MelParams,
    *,
    k: int,
    by: str,
) -> Figure:
    """The spectrograms of queries and of the segments nearest to them, marked where their labels agree."""
    k = min(k, len(clips) - 1)
    neighbours, _ = metrics.nearest_neighbors(segments.embeddings, queries, k)
    matrix, _ = evaluation.label_matrix(segments.labels)
    agree = np.array(
        [(matrix[row] & matrix[query]).any(axis=1) for query, row in zip(queries, neighbours, strict=True)]
    )
    num_frames = round(_SHOWN_SECONDS / mel_params.hop_seconds)
    log_mels = [None] * len(clips)
    for index in {*queries, *neighbours.ravel()}:
        # Of stereo, the left channel.
        energies = clips[index].mel_energy[:num_frames, : mel_params.mel_bins]
        log_mels[index] = mel.log_mel(energies, mel_params).numpy()
    right = "same label" if by == "labels" else "same recording"
    title = "Left: held-out sounds (Q). Beside each: its nearest in the embedding, nearest first"
    return plots.plot_neighbours(
        log_mels, queries, neighbours,
        [", ".join(labels) or name for labels, name in zip(segments.labels, segments.clip_ids, strict=True)],
        correct=agree if matrix.size else None,
        hop_seconds=mel_params.hop_seconds,
        mel_hz=mel_params.bin_hz,
        title=f"{title}; ✓ {right}" if matrix.size else title,
    )  # fmt: skip
