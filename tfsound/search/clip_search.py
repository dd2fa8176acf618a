"""The job `search`: a sound, or a clip of the index -> what is nearest to it, as a table and a page."""

import dataclasses

import numpy as np

from tfsound import media
from tfsound.active_learning.audio import local_copy
from tfsound.search.errors import SearchError
from tfsound.search.page import write_page
from tfsound.search.store import EXACT, FAISS, Index, Item, load_index


@dataclasses.dataclass(frozen=True)
class Found:
    """One that was found: its cosine similarity to the query, and what it is."""

    similarity: float
    item: Item


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """What was found for a query, nearest first; `notes`: what there is to say of how."""

    query: Item
    found: tuple[Found, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """A table, a line for each that was found; what names hold that cannot be printed is left out."""
        rows = [("", "similarity", "seconds", "clip", "labels", "file")]
        for number, found in enumerate(self.found, start=1):
            item = found.item
            times = f"{item.start_seconds:.2f}-{item.end_seconds:.2f}"
            names = (item.clip_id, "; ".join(item.labels), item.uri)
            rows.append((f"{number}", f"{found.similarity:.4f}", times, *map(_printable, names)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(width) if column < 3 else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        return "\n".join([*lines, *self.notes])


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)


def search_clip(
    index: str,
    clip: str,
    *,
    model: str = "",
    num_neighbors: int = 10,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    backend: str = EXACT,
    html: str = "",
) -> SearchResult:
    """Finds the sounds of an index that are nearest to a sound, or to one of its own clips.

    Without `--model`, CLIP is a clip_id of the index, and no window of that clip is among those found. With
    it, CLIP is any audio or video file.

    Args:
      index: the folder that `tfsound index` made.
      clip: the file to find sounds like, or a clip_id of the index.
      model: to search by a file: the export that the embeddings of the index were made with.
      num_neighbors: how many to find.
      start_seconds: where the part to search by starts; the whole file or clip without.
      end_seconds: where it ends.
      backend: `exact`, or `faiss` (`pip install tfsound[search]`).
      html: a page to write, with players and spectrograms of what was found, that needs no other file.

    Returns:
      What was found, nearest first.

    Raises:
      SearchError: the index cannot be used, is one of another model, or holds no such clip; ModelError: the
      model cannot be used; MediaError: the file cannot be read.
    """
    opened = load_index(index)
    if model:
        query, embedding = _of_file(opened, clip, model, start_seconds, end_seconds)
        excluded = np.zeros(0, np.int64)
    else:
        query, embedding, excluded = _of_clip(opened, clip, start_seconds, end_seconds)
    neighbours = opened.search(embedding, num_neighbors, backend=backend, excluded=excluded)
    # An approximate index may find fewer than it was asked for.
    found = tuple(
        Found(float(similarity), item)
        for similarity, item in zip(neighbours.similarities[0], neighbours.items[0], strict=False)
    )
    notes = []
    if backend == FAISS and opened.info.approximate:
        notes.append(f"searched approximately ({opened.info})")
    if html:
        problems = write_page(html, query, [(one.similarity, one.item) for one in found])
        notes.append(f"wrote {html}" + (f"; {len(problems)} sounds cannot be played:" if problems else ""))
        notes += [f"  {problem}" for problem in problems]
    return SearchResult(query, found, tuple(notes))


def _of_file(
    index: Index, path: str, model: str, start_seconds: float | None, end_seconds: float | None
) -> tuple[Item, np.ndarray]:
    """A file, or a part of it, and its embedding, (dim,)."""
    from tfsound import exported  # here, because TensorFlow takes seconds

    export, info = exported.read_export(model), index.info
    if (export.embedding_dim, export.weights) != (info.embedding_dim, info.weights):
        raise SearchError(
            f"{export.path} is another model than the one of {index.path}, which was made with {info.model} "
            f"({export.embedding_dim} numbers an embedding, {info.embedding_dim} in the index); name that "
            "one, or embed and index again with this one."
        )
    params = export.mel_params
    with local_copy(path) as local:
        waveform = media.read_audio(
            local,
            sample_rate=params.sample_rate,
            start_seconds=start_seconds or 0.0,
            end_seconds=end_seconds,
            num_channels=params.num_channels,
        )
    embedding = exported.LoadedModel(export).embed_waveforms(waveform.T[None])["embedding"][0]
    if not np.isfinite(embedding).all():
        raise SearchError(
            f"{path} cannot be searched by: its embedding is not finite, because samples are NaN, infinite "
            "or far beyond [-1, 1]; mend the file."
        )
    start = start_seconds or 0.0
    return Item(path, path, path, start, start + len(waveform) / params.sample_rate), embedding


def _of_clip(
    index: Index, clip_id: str, start_seconds: float | None, end_seconds: float | None
) -> tuple[Item, np.ndarray, np.ndarray]:
    """A clip of the index, or a part of it; its embedding, (dim,); and the rows of the whole clip."""
    try:
        own = index.rows_of_clip(clip_id)
    except SearchError as error:
        raise SearchError(f"{error} To search by a file, name its model: --model.") from error
    rows = index.rows_of_clip(clip_id, start_seconds=start_seconds, end_seconds=end_seconds)
    first, last = index.item(int(rows[0])), index.item(int(rows[-1]))
    query = dataclasses.replace(first, end_seconds=last.end_seconds)
    return query, np.asarray(index.embeddings[rows], np.float64).mean(axis=0), own
