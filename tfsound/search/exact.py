"""The nearest rows by inner product: every row is compared, so the answer is exact."""

import numpy as np

# What is held at a time, beside the queries and the result: so many products, 16 MB, and the rows for them.
_PRODUCTS_PER_BLOCK = 1 << 22
_QUERIES_PER_BLOCK = 256
_ROWS_PER_BLOCK = 1 << 16


def nearest_rows(
    rows: np.ndarray, queries: np.ndarray, k: int, *, excluded: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the k rows of the largest product with each query, largest first.

    Of rows of one product the lower number comes first.

    Args:
      rows: float32, (rows, dim); may be mapped from a file, of which one block is read at a time.
      queries: float32, (queries, dim).
      k: at most as many as there are rows that are not excluded.
      excluded: int, row numbers that are never found.

    Returns:
      products float32 and row numbers int64, both (queries, k).
    """
    excluded = np.sort(np.zeros(0, np.int64) if excluded is None else excluded)
    products = np.full((len(queries), k), -np.inf, np.float32)
    numbers = np.zeros((len(queries), k), np.int64)
    for start in range(0, len(queries) if k else 0, _QUERIES_PER_BLOCK):
        some = slice(start, start + _QUERIES_PER_BLOCK)
        num_rows = min(_ROWS_PER_BLOCK, _PRODUCTS_PER_BLOCK // len(queries[some]))
        for first in range(0, len(rows), num_rows):
            block = queries[some] @ np.asarray(rows[first : first + num_rows]).T
            here = excluded[np.searchsorted(excluded, first) : np.searchsorted(excluded, first + num_rows)]
            block[:, here - first] = -np.inf
            _merge(products[some], numbers[some], block, first)
    return products, numbers


def _merge(products: np.ndarray, numbers: np.ndarray, block: np.ndarray, first: int) -> None:
    """Puts what is larger in a block, (queries, rows), among the largest so far, (queries, k), in place."""
    for query, of_query in enumerate(block):
        # Equal ones come later than those that are here, so they stay out.
        found = np.flatnonzero(of_query > products[query, -1])
        if not len(found):
            continue
        k = products.shape[1]
        if len(found) > k:
            least = np.partition(of_query[found], len(found) - k)[len(found) - k]
            found = found[of_query[found] >= least]
        candidates = np.concatenate([products[query], of_query[found]])
        chosen = np.argsort(-candidates, kind="stable")[:k]
        products[query] = candidates[chosen]
        numbers[query] = np.concatenate([numbers[query], first + found])[chosen]
