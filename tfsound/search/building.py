"""From the output of the job `embed` to an index: one pass over its records, a clip in memory at a time."""

import contextlib
import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from tfsound.active_learning import unit_rows
from tfsound.active_learning.output import pending_folder
from tfsound.search import approximate as approximate_search
from tfsound.search.errors import SearchError
from tfsound.search.store import (
    CLIP_SCHEMA,
    CLIPS,
    CLIPS_NAME,
    EMBEDDINGS_NAME,
    FAISS_NAME,
    INFO_NAME,
    WINDOW_DTYPE,
    WINDOWS,
    WINDOWS_NAME,
    IndexInfo,
)

if TYPE_CHECKING:
    from tfsound import examples

_CLIPS_PER_BATCH = 4096


def build_index(
    embeddings: str,
    index: str,
    *,
    unit: str = CLIPS,
    approximate: str = "",
    overwrite: bool = False,
) -> IndexInfo:
    """Makes an index of embeddings, to find sounds by sound.

    Args:
      embeddings: the folder that `tfsound embed` made.
      index: the folder to make, on this machine.
      unit: what is to be found: `clips`, or `windows` of them.
      approximate: `ivf` or `hnsw` to make such an index of FAISS beside it, too (`pip install
        tfsound[search]`), for a faster search among millions; how much it finds is measured.
      overwrite: replace a finished index.

    Returns:
      What the index is made of.

    Raises:
      DatasetError: the embeddings are missing, incomplete or damaged; SearchError: they hold no clip or no
      windows, a parameter is out of range, or FAISS is not installed; ActiveLearningError: the index exists;
      InUseError: another process makes it.
    """
    from tfsound import examples  # here, because TensorFlow takes seconds

    if unit not in (CLIPS, WINDOWS):
        raise SearchError(f"unit must be {CLIPS!r} or {WINDOWS!r}, got {unit!r}.")
    if approximate and approximate not in approximate_search.APPROXIMATE:
        raise SearchError(
            f"approximate must be one of {approximate_search.APPROXIMATE}, or left out, got {approximate!r}."
        )
    if approximate:
        approximate_search.faiss()
    info = examples.read_dataset_info(embeddings, kind=examples.EMBEDDINGS)
    spec = examples.embedding_spec(info, embeddings)
    if not info.num_examples:
        raise SearchError(f"{embeddings} holds no embedding, expected one or more; embed some clips.")
    if unit == WINDOWS and not spec.has_windows:
        raise SearchError(
            f"{embeddings} was made without windows; embed again, with --window-embeddings, or index clips."
        )
    num_rows = info.num_windows if unit == WINDOWS else info.num_examples
    with pending_folder(index, INFO_NAME, overwrite=overwrite) as folder:
        shape = (num_rows, spec.embedding_dim)
        rows = np.lib.format.open_memmap(os.path.join(folder, EMBEDDINGS_NAME), "w+", "<f4", shape)
        clips = tqdm(
            examples.iter_embeddings(embeddings), desc="index", unit=" clips", total=info.num_examples
        )
        _write(folder, rows, clips, unit, embeddings)
        rows.flush()
        recall = _write_approximate(folder, rows, approximate) if approximate else 1.0
        names = (EMBEDDINGS_NAME, CLIPS_NAME, WINDOWS_NAME, FAISS_NAME)
        paths = {name: os.path.join(folder, name) for name in names}
        result = IndexInfo(
            unit=unit,
            num_rows=num_rows,
            num_clips=info.num_examples,
            embedding_dim=spec.embedding_dim,
            window_seconds=info.mel_params.context_seconds,
            model=str(info.parameters.get("model", "")),
            weights=str(info.parameters.get("weights", "")),
            embeddings=embeddings,
            files={name: os.path.getsize(path) for name, path in paths.items() if os.path.exists(path)},
            approximate=approximate,
            recall=recall,
        )
        with open(os.path.join(folder, INFO_NAME), "w", encoding="utf-8") as file:
            json.dump(vars(result), file, indent=1, ensure_ascii=False)
    return result


def _write(
    folder: str, rows: np.ndarray, clips: Iterator["examples.ClipEmbedding"], unit: str, source: str
) -> None:
    """Writes the rows, and the tables of what they are."""
    windows = None
    if unit == WINDOWS:
        path = os.path.join(folder, WINDOWS_NAME)
        windows = np.lib.format.open_memmap(path, "w+", WINDOW_DTYPE, (len(rows),))
    num_done = 0
    with _clip_writer(folder) as write_clip:
        for number, clip in enumerate(clips):
            of_clip = clip.embedding[None] if windows is None else clip.window_embeddings
            here = slice(num_done, num_done + len(of_clip))
            num_done = here.stop
            if num_done > len(rows):
                break
            rows[here] = unit_rows(of_clip)
            if windows is not None:
                windows["clip"][here] = number
                windows["start_seconds"][here] = clip.window_start_seconds
            write_clip(clip)
    if num_done != len(rows):
        raise SearchError(
            f"{source} holds another number of {unit} than the {len(rows)} that its sidecar names; make it "
            "again."
        )
    if windows is not None:
        windows.flush()


@contextlib.contextmanager
def _clip_writer(folder: str):
    """Gives a function that adds a clip to the table of clips, some thousands at a time."""
    held: list[dict] = []

    def write_held():
        writer.write_batch(pa.RecordBatch.from_pylist(held, schema=CLIP_SCHEMA))
        held.clear()

    def write_clip(clip: "examples.ClipEmbedding") -> None:
        held.append({name: getattr(clip, name) for name in CLIP_SCHEMA.names})
        if len(held) == _CLIPS_PER_BATCH:
            write_held()

    with (
        pa.OSFile(os.path.join(folder, CLIPS_NAME), "wb") as sink,
        pa.ipc.new_file(sink, CLIP_SCHEMA) as writer,
    ):
        yield write_clip
        write_held()


def _write_approximate(folder: str, rows: np.ndarray, kind: str) -> float:
    """Makes and measures an index of FAISS; returns its recall."""
    found = approximate_search.make(kind, rows)
    approximate_search.write(found, os.path.join(folder, FAISS_NAME))
    return approximate_search.recall(found, rows)
