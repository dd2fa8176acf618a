"""Search by sound: the nearest clips or windows of an embedding store to one that is given.

    embed (Beam) -> build_index -> load_index(path).search(embeddings, num_neighbors=10)

Nearness is cosine similarity: rows of the store have length 1, so do queries after `Index.search` has scaled
them, and a larger product is nearer. The store is files that are mapped into memory, so that it opens at once
and any number of processes share it; exact search multiplies it block by block, with bounded memory.
"""

from tfsound.search.building import build_index
from tfsound.search.clip_search import Found, SearchResult, search_clip
from tfsound.search.exact import nearest_rows
from tfsound.search.page import write_page
from tfsound.search.store import (
    CLIPS,
    WINDOWS,
    Index,
    IndexInfo,
    Item,
    Neighbours,
    SearchError,
    load_index,
)

__all__ = [
    "CLIPS",
    "WINDOWS",
    "Found",
    "Index",
    "IndexInfo",
    "Item",
    "Neighbours",
    "SearchError",
    "SearchResult",
    "build_index",
    "load_index",
    "nearest_rows",
    "search_clip",
    "write_page",
]
