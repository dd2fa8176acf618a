"""The store: unit rows of clips or of windows, and a table of what each of them is. NumPy and Arrow alone.

A folder of

  embeddings.npy    float32, (rows, dim), of length 1 each; a row of zeros stays zero
  clips.arrow       a row a clip: clip_id, recording_id, uri, start_seconds, end_seconds, labels, fold, split
  windows.npy       of an index of windows: (clip, start_seconds) of each, clips ascending; `clip` counts the
                    rows of clips.arrow
  faiss.index       where an approximate index was asked for
  index_info.json   written last: what it is made of, and the bytes of each file

All files are mapped, not read, when the store is opened.
"""

import dataclasses
import functools
import json
import math
import os
import tokenize
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike

from tfsound.search import approximate
from tfsound.search.errors import SearchError
from tfsound.search.exact import nearest_rows

INFO_NAME = "index_info.json"
EMBEDDINGS_NAME, CLIPS_NAME, WINDOWS_NAME = "embeddings.npy", "clips.arrow", "windows.npy"
FAISS_NAME = "faiss.index"
SCHEMA_VERSION = 1
CLIPS, WINDOWS = "clips", "windows"
EXACT, FAISS = "exact", "faiss"
CLIP_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("clip_id", "recording_id", "uri")),
        *((name, pa.float64()) for name in ("start_seconds", "end_seconds")),
        ("labels", pa.list_(pa.string())),
        *((name, pa.string()) for name in ("fold", "split")),
    ]
)
WINDOW_DTYPE = np.dtype([("clip", "<i8"), ("start_seconds", "<f8")])


@dataclasses.dataclass(frozen=True)
class IndexInfo:
    """What an index is made of.

    Attributes:
      unit: `CLIPS` or `WINDOWS`: what a row is.
      window_seconds: how long a window is.
      model, weights: the export that the embeddings are of; see `examples.embeddings`.
      approximate: "", or the kind of FAISS index that lies beside it; `recall`: how much of the exact answer
        it finds, see `approximate.recall`.
      files: the bytes of each file.
    """

    unit: str
    num_rows: int
    num_clips: int
    embedding_dim: int
    window_seconds: float
    model: str
    weights: str
    embeddings: str
    files: dict[str, int]
    approximate: str = ""
    recall: float = 1.0
    schema_version: int = SCHEMA_VERSION

    def __str__(self) -> str:
        text = f"{self.num_rows:,} {self.unit} of {self.num_clips:,} clips, {self.embedding_dim} numbers each"
        if self.approximate:
            text += (
                f"; {self.approximate} finds {self.recall:.1%} of the {approximate.RECALL_AT} nearest that "
                "there are"
            )
        return text

    @classmethod
    def from_json(cls, text: bytes, where: str) -> "IndexInfo":
        """Raises: SearchError naming `where` when the text does not describe an index of this schema."""
        try:
            fields = json.loads(text)
            version = fields["schema_version"]
            if version != SCHEMA_VERSION:
                raise SearchError(
                    f"{where} has schema version {version!r}, this tfsound reads {SCHEMA_VERSION}; make the "
                    "index again with this version."
                )
            info = cls(**fields)
            info._check()
        except SearchError:
            raise
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise SearchError(
                f"{where} describes no index of tfsound ({error!r}); make it again: tfsound index."
            ) from error
        return info

    def _check(self) -> None:
        numbers = (self.num_rows, self.num_clips, self.embedding_dim, *self.files.values())
        texts = (self.unit, self.model, self.weights, self.embeddings, self.approximate, *self.files)
        if not all(type(number) is int and number > 0 for number in numbers):
            raise ValueError(f"sizes {numbers}")
        if not all(isinstance(text, str) for text in texts) or self.unit not in (CLIPS, WINDOWS):
            raise ValueError(f"texts {texts}")
        if not (0 < self.window_seconds < math.inf and 0 <= self.recall <= 1):
            raise ValueError(f"window_seconds {self.window_seconds} and recall {self.recall}")
        if self.approximate not in ("", *approximate.APPROXIMATE):
            raise ValueError(f"approximate {self.approximate!r}")


@dataclasses.dataclass(frozen=True)
class Item:
    """What a row of an index is: a clip, or a window of it; times from the start of the recording."""

    clip_id: str
    recording_id: str
    uri: str
    start_seconds: float
    end_seconds: float
    labels: tuple[str, ...] = ()
    fold: str = ""
    split: str = ""


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """What was found for some queries, nearest first.

    Attributes:
      similarities: cosines, float32, (queries, k).
      rows: int64, (queries, k), rows of the index.
      items: what they are, k a query.

    An approximate index may find fewer: the rows that are missing are -1, their similarity is -inf, and they
    have no item.
    """

    similarities: np.ndarray
    rows: np.ndarray
    items: tuple[tuple[Item, ...], ...]


class Index:
    """An index that `load_index` has opened.

    Attributes:
      path: its folder.
      info: what it is made of.
      embeddings: float32, (rows, dim), mapped.
    """

    def __init__(
        self, path: str, info: IndexInfo, embeddings: np.ndarray, clips: pa.Table, windows: np.ndarray | None
    ):
        self.path, self.info, self.embeddings = path, info, embeddings
        self._clips, self._windows = clips, windows

    def __len__(self) -> int:
        return self.info.num_rows

    def item(self, row: int) -> Item:
        """What a row is. Raises: SearchError for a table that was damaged since."""
        clip = row if self._windows is None else int(self._windows["clip"][row])
        if not 0 <= clip < len(self._clips):
            raise SearchError(f"{self.path}: row {row} is of clip {clip}, which is not there; make it again.")
        fields = self._clips.slice(clip, 1).to_pylist()[0]
        item = Item(**(fields | {"labels": tuple(fields["labels"])}))
        if self._windows is None:
            return item
        start = float(self._windows["start_seconds"][row])
        # A clip shorter than a window ends before its window does.
        end = min(start + self.info.window_seconds, item.end_seconds)
        return dataclasses.replace(item, start_seconds=start, end_seconds=max(start, end))

    def rows_of_clip(
        self, clip_id: str, *, start_seconds: float | None = None, end_seconds: float | None = None
    ) -> np.ndarray:
        """The rows of a clip, int64; of an index of windows those of a part of it, where times are given.

        Raises: SearchError where there is none.
        """
        clip = pc.index(self._clips["clip_id"], clip_id).as_py()
        if clip < 0:
            raise SearchError(f"{self.path} holds no clip {clip_id!r}; give the clip_id of a row of it.")
        if self._windows is None:
            if start_seconds is not None or end_seconds is not None:
                raise SearchError(
                    f"{self.path} is an index of whole clips, which has no part of clip {clip_id!r}; leave "
                    "the times out, or make an index of windows."
                )
            return np.array([clip])
        first, last = np.searchsorted(self._windows["clip"], [clip, clip + 1])
        starts = self._windows["start_seconds"][first:last]
        is_in_part = np.full(len(starts), True)
        if start_seconds is not None:
            is_in_part &= starts + self.info.window_seconds > start_seconds
        if end_seconds is not None:
            is_in_part &= starts < end_seconds
        if not is_in_part.any():
            raise SearchError(
                f"clip {clip_id!r} has no window from {start_seconds} to {end_seconds} s; it has "
                f"{len(starts)}, whose starts reach from {starts.min():.2f} to {starts.max():.2f} s."
            )
        return first + np.flatnonzero(is_in_part)

    def search(
        self,
        embeddings: ArrayLike,
        num_neighbors: int = 10,
        *,
        backend: str = EXACT,
        excluded: ArrayLike = (),
    ) -> Neighbours:
        """Finds the rows of the largest cosine similarity to each query, nearest first.

        Args:
          embeddings: real, (queries, dim), or (dim,) for one query; of any length.
          num_neighbors: how many; fewer are found where there are no more rows.
          backend: `exact`, or `faiss` (`pip install tfsound[search]`): its approximate index where the store
            has one, else its exact one, in memory.
          excluded: int, rows that are not to be found, such as those of the query's own clip.

        Raises:
          SearchError: queries of another length, NaN, infinite or zero; a number or backend out of range.
        """
        queries = self._checked_queries(embeddings)
        if num_neighbors < 1:
            raise SearchError(f"num_neighbors must be at least 1, got {num_neighbors}.")
        excluded = np.unique(np.asarray(excluded, np.int64))
        k = min(num_neighbors, len(self) - len(excluded))
        if backend == EXACT:
            similarities, rows = nearest_rows(self.embeddings, queries, k, excluded=excluded)
        elif backend == FAISS:
            similarities, rows = self._search_faiss(queries, k, excluded)
        else:
            raise SearchError(f"backend must be {EXACT!r} or {FAISS!r}, got {backend!r}.")
        items = tuple(tuple(self.item(int(row)) for row in found if row >= 0) for found in rows)
        return Neighbours(np.clip(similarities, -np.inf, 1.0), rows, items)

    def _search_faiss(
        self, queries: np.ndarray, k: int, excluded: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """As many more are asked for as may be excluded."""
        found = approximate.search(self._faiss_index, queries, min(len(self), k + len(excluded)))
        is_out = np.isin(found[1], excluded)
        # A stable sort puts those to the end, and leaves the others in their order.
        order = np.argsort(is_out, axis=1, kind="stable")[:, :k]
        similarities, rows, is_out = (np.take_along_axis(part, order, 1) for part in (*found, is_out))
        return np.where(is_out, -np.inf, similarities), np.where(is_out, -1, rows)

    @functools.cached_property
    def _faiss_index(self):
        if self.info.approximate:
            return approximate.read(os.path.join(self.path, FAISS_NAME))
        return approximate.make(approximate.FLAT, self.embeddings)

    def _checked_queries(self, embeddings: ArrayLike) -> np.ndarray:
        queries = np.atleast_2d(np.asarray(embeddings, np.float64))
        if queries.ndim != 2 or queries.shape[1] != self.info.embedding_dim:
            raise SearchError(
                f"queries must be (queries, {self.info.embedding_dim}), got shape {np.shape(embeddings)}; "
                f"embed them with the model of this index, {self.info.model}."
            )
        if not np.isfinite(queries).all():
            raise SearchError(
                "queries must be finite, got NaN or infinity; check the sound that they are of."
            )
        lengths = np.linalg.norm(queries, axis=1, keepdims=True)
        if not lengths.all():
            raise SearchError("a query of zeros has no direction; check the sound that it is of.")
        return (queries / lengths).astype(np.float32)


def load_index(path: str) -> Index:
    """Opens the index that `tfsound index` made.

    Raises:
      SearchError: missing, of another schema, incomplete or damaged.
    """
    info_path = os.path.join(path, INFO_NAME)
    if not os.path.isfile(info_path):
        raise SearchError(f"{path} holds no {INFO_NAME}, so it is no index; make one: tfsound index.")
    with open(info_path, "rb") as file:
        info = IndexInfo.from_json(file.read(), info_path)
    names = [EMBEDDINGS_NAME, CLIPS_NAME]
    names += [WINDOWS_NAME] * (info.unit == WINDOWS) + [FAISS_NAME] * bool(info.approximate)
    for name in names:
        file_path = os.path.join(path, name)
        found = os.path.getsize(file_path) if os.path.isfile(file_path) else None
        if found is None or found != info.files.get(name):
            state = "is missing" if found is None else f"has {found} bytes"
            raise SearchError(
                f"{file_path} {state}, expected {info.files.get(name)} bytes; copy it or make the index "
                "again."
            )
    embeddings = _mapped(path, EMBEDDINGS_NAME, np.dtype("<f4"), (info.num_rows, info.embedding_dim))
    windows = _mapped(path, WINDOWS_NAME, WINDOW_DTYPE, (info.num_rows,)) if info.unit == WINDOWS else None
    clips = _mapped_clips(path, info.num_clips)
    if info.unit == CLIPS and info.num_rows != info.num_clips:
        raise SearchError(f"{info_path} names {info.num_rows} rows of {info.num_clips} clips; make it again.")
    return Index(path, info, embeddings, clips, windows)


def _mapped(folder: str, name: str, dtype: np.dtype, shape: Sequence[int]) -> np.ndarray:
    path = os.path.join(folder, name)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, SyntaxError, tokenize.TokenError) as error:
        raise SearchError(f"{path} is damaged ({error}); make the index again.") from error
    if not isinstance(array, np.memmap) or array.dtype != dtype or array.shape != tuple(shape):
        raise SearchError(
            f"{path} holds {getattr(array, 'dtype', 'no array')} {getattr(array, 'shape', '')}, expected "
            f"{dtype} {tuple(shape)}; make the index again."
        )
    return array


def _mapped_clips(folder: str, num_clips: int) -> pa.Table:
    path = os.path.join(folder, CLIPS_NAME)
    try:
        table = pa.ipc.open_file(pa.memory_map(path)).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise SearchError(f"{path} is damaged ({error}); make the index again.") from error
    if table.schema != CLIP_SCHEMA or len(table) != num_clips:
        raise SearchError(
            f"{path} holds {len(table)} rows of {table.schema.names}, expected {num_clips} of "
            f"{CLIP_SCHEMA.names}; make the index again."
        )
    return table
