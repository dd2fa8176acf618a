"""FAISS (faiss-cpu, the extra `search`): the same search by its exact index, or faster and nearly as good.

`flat` compares every row, as `exact` does, in memory. `ivf` compares those of the nearest cells of a
partition, `hnsw` walks a graph of neighbours; both are made once, kept beside the store, and measured against
the exact answer when they are made.

Source: Douze et al. 2024, The Faiss library.
"""

import os

import numpy as np

from tfsound.sampling import random_generator
from tfsound.search.errors import SearchError
from tfsound.search.exact import nearest_rows

FLAT, IVF, HNSW = "flat", "ivf", "hnsw"
APPROXIMATE = (IVF, HNSW)
_ROWS_PER_BLOCK = 1 << 16
# FAISS asks for 39 rows a cell at least to find cells with, and takes no more than 256.
_MIN_ROWS_PER_CELL, _ROWS_PER_CELL = 39, 64
# The share of the cells that are looked into.
_CELLS_PER_PROBE = 16
_HNSW_LINKS, _HNSW_SEARCHED, _HNSW_SEARCHED_BUILDING = 32, 128, 128
RECALL_AT = 10
_RECALL_QUERIES = 1000


def faiss():
    """The library. Raises: SearchError where it is not installed."""
    try:
        import faiss as library
    except ImportError as error:
        raise SearchError(
            "FAISS is not installed: pip install tfsound[search], or search with --backend exact."
        ) from error
    return library


def make(kind: str, rows: np.ndarray):
    """A FAISS index of rows of length 1, float32 (rows, dim), which are read a block at a time."""
    library, (num_rows, dim) = faiss(), rows.shape
    if kind == FLAT:
        index = library.IndexFlatIP(dim)
    elif kind == HNSW:
        index = library.IndexHNSWFlat(dim, _HNSW_LINKS, library.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction, index.hnsw.efSearch = _HNSW_SEARCHED_BUILDING, _HNSW_SEARCHED
    else:
        num_cells = max(1, min(int(4 * num_rows**0.5), num_rows // _MIN_ROWS_PER_CELL))
        index = library.IndexIVFFlat(library.IndexFlatIP(dim), dim, num_cells, library.METRIC_INNER_PRODUCT)
        index.nprobe = max(1, num_cells // _CELLS_PER_PROBE)
        index.train(_sample(rows, _ROWS_PER_CELL * num_cells, "cells"))
    for first in range(0, num_rows, _ROWS_PER_BLOCK):
        index.add(np.ascontiguousarray(rows[first : first + _ROWS_PER_BLOCK]))
    return index


def _sample(rows: np.ndarray, count: int, purpose: str) -> np.ndarray:
    """So many rows, or all, in their order; always the same ones."""
    chosen = random_generator(0, purpose).permutation(len(rows))[:count]
    return np.ascontiguousarray(rows[np.sort(chosen)])


def search(index, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """As `nearest_rows`, by a FAISS index; where it finds fewer, the others are row -1 of product -inf."""
    products, numbers = index.search(np.ascontiguousarray(queries, np.float32), k)
    products = np.where(numbers >= 0, products, -np.inf).astype(np.float32)
    order = np.lexsort((numbers, -products))
    return np.take_along_axis(products, order, 1), np.take_along_axis(numbers, order, 1)


def recall(index, rows: np.ndarray) -> float:
    """Of the nearest `RECALL_AT` of a thousand rows, found exactly, the share that the index finds."""
    queries, k = _sample(rows, _RECALL_QUERIES, "recall"), min(RECALL_AT, len(rows))
    _, expected = nearest_rows(rows, queries, k)
    _, found = search(index, queries, k)
    return float(np.mean([len(np.intersect1d(*pair)) / k for pair in zip(expected, found, strict=True)]))


def write(index, path: str) -> None:
    faiss().write_index(index, path)


def read(path: str):
    """Raises: SearchError for a file that FAISS cannot read."""
    library = faiss()
    try:
        return library.read_index(os.fspath(path))
    except RuntimeError as error:
        raise SearchError(f"{path} cannot be read; make the index again.") from error
