"""Embeddings of clips as an Arrow table: a row a clip, the columns those of the records of `embeddings`."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from tfsound.examples.embeddings import ClipEmbedding, EmbeddingSpec
from tfsound.examples.sidecar import SCHEMA_VERSION


def embedding_schema(spec: EmbeddingSpec) -> pa.Schema:
    """The columns of the clips of a set; embeddings and scores are lists of a fixed length, of float."""
    embedding = pa.list_(pa.float32(), spec.embedding_dim)
    scores = pa.list_(pa.float32(), len(spec.class_names))
    fields = [(name, pa.string()) for name in ("clip_id", "recording_id", "uri")]
    fields += [("start_seconds", pa.float64()), ("end_seconds", pa.float64())]
    fields += [("labels", pa.list_(pa.string())), ("fold", pa.string()), ("split", pa.string())]
    fields += [("num_windows", pa.int64()), ("embedding", embedding)]
    if spec.class_names:
        fields.append(("scores", scores))
    if spec.has_windows:
        fields.append(("window_start_seconds", pa.list_(pa.float64())))
        fields.append(("window_embeddings", pa.list_(embedding)))
        if spec.class_names:
            fields.append(("window_scores", pa.list_(scores)))
    return pa.schema(fields, metadata={"tfsound_schema_version": str(SCHEMA_VERSION)})


def embedding_table(clips: Sequence[ClipEmbedding], spec: EmbeddingSpec) -> pa.Table:
    """The table of some clips, in their order."""
    schema = embedding_schema(spec)
    columns = [_column([getattr(clip, field.name) for clip in clips], field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def _column(values: list, kind: pa.DataType) -> pa.Array:
    """A column of values, one a row: text, a number, a tuple of texts, or an array."""
    if pa.types.is_fixed_size_list(kind):
        return _rows(np.reshape(values, (-1, kind.list_size)), kind)
    if pa.types.is_list(kind) and values and isinstance(values[0], np.ndarray):
        ends = np.cumsum([0, *map(len, values)]).astype(np.int32)
        joined = np.concatenate(values)
        inner = kind.value_type
        flat = _rows(joined, inner) if pa.types.is_fixed_size_list(inner) else pa.array(joined, inner)
        return pa.ListArray.from_arrays(ends, flat, type=kind)
    return pa.array(values, kind)


def _rows(matrix: np.ndarray, kind: pa.FixedSizeListType) -> pa.Array:
    """Each row of a matrix as a list of a fixed length."""
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel(), kind.value_type), type=kind)
