"""Sets of embeddings as the job `embed` leaves them, of any numbers, for the tests of search."""

import numpy as np
import tiny

from tfsound import examples

DIM = 6


def clip_embedding(number, *, num_windows=3, dim=DIM, uri=None, labels=(), start_seconds=0.0):
    rng = np.random.default_rng(number)
    windows = rng.normal(size=(num_windows, dim)).astype(np.float32)
    return examples.ClipEmbedding(
        clip_id=f"clip-{number}",
        recording_id=f"recording-{number}",
        uri=f"/sounds/{number}.wav" if uri is None else uri,
        start_seconds=start_seconds,
        end_seconds=start_seconds + num_windows * tiny.PARAMS.context_seconds,
        labels=labels,
        fold="",
        split="",
        num_windows=num_windows,
        embedding=windows.mean(axis=0),
        scores=np.zeros(0, np.float32),
        window_start_seconds=start_seconds + np.arange(num_windows) * tiny.PARAMS.context_seconds,
        window_embeddings=windows,
        window_scores=np.zeros((num_windows, 0), np.float32),
    )


def write_embeddings(directory, clips, *, dim=DIM, num_windows=None, **parameters):
    """Embeddings of clips in two shards."""
    records = [examples.encode_embedding(clip) for clip in clips]
    parameters = {
        "model": "models/1", "weights": "77", "embedding_dim": dim, "class_names": [],
        "window_embeddings": True,
    } | parameters  # fmt: skip
    if num_windows is None:
        num_windows = sum(clip.num_windows for clip in clips)
    return tiny.write_set(
        directory, examples.EMBEDDINGS, [records[::2], records[1::2]], num_windows=num_windows,
        num_clips=len(clips), parameters=parameters,
    )  # fmt: skip
