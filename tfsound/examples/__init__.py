"""The TFRecord contract: schemas of examples and of embeddings, their sidecar, their tf.data readers.

A data set is a folder of TFRecord shards and one `dataset_info.json`, which is written last: a folder
without it is not a data set, whatever else lies in it. Every reader checks the sidecar (schema version,
mel parameters, the shards and their sizes) before the first record is read.

Conventions: mel energies are little-endian float16, (frames, mel_bins): energies, not logs, because the
constraints of the 2018 paper need energies. Times are seconds from the start of the recording.
Strings are UTF-8.
"""

from tfsound.examples.augmentation import NO_AUGMENTATION, Augmentation, augment, fit_length, scale_time
from tfsound.examples.clips import Clip, clip_windows, decode_clip, encode_clip, iter_clips, map_windows
from tfsound.examples.embedding_tables import embedding_table
from tfsound.examples.embeddings import (
    ClipEmbedding,
    EmbeddingSpec,
    decode_embedding,
    embedding_spec,
    encode_embedding,
    iter_embeddings,
)
from tfsound.examples.instances import (
    Instances,
    admits,
    admitted_clips,
    encode_instance,
    find_instances,
    instance_dataset,
    instance_labels,
    read_clip_infos,
    read_instances,
)
from tfsound.examples.labelled_windows import (
    CLASS_BALANCES,
    NATURAL,
    LabelledWindowIndex,
    index_labelled_windows,
    labelled_window_dataset,
)
from tfsound.examples.pairs import (
    AUDIO_AUDIO,
    AUDIO_IMAGE,
    FrameRef,
    coincidence_dataset,
    decode_images,
    encode_pair,
    pair_dataset,
    parse_pairs,
    read_pair_infos,
    require_modality,
)
from tfsound.examples.records import (
    decode_mel_energy,
    encode_mel_energy,
    read_records,
    require_undamaged,
)
from tfsound.examples.sidecar import (
    CLIPS,
    EMBEDDINGS,
    INFO_NAME,
    INSTANCES,
    PAIRS,
    SCHEMA_VERSION,
    TRIPLETS,
    DatasetError,
    DatasetInfo,
    Shard,
    read_dataset_info,
    require_folds,
)
from tfsound.examples.streams import fingerprint
from tfsound.examples.triplets import (
    WindowRef,
    encode_triplet,
    parse_triplets,
    read_triplet_infos,
    triplet_dataset,
)

__all__ = [
    "AUDIO_AUDIO",
    "AUDIO_IMAGE",
    "CLASS_BALANCES",
    "CLIPS",
    "EMBEDDINGS",
    "INFO_NAME",
    "INSTANCES",
    "NATURAL",
    "NO_AUGMENTATION",
    "PAIRS",
    "SCHEMA_VERSION",
    "TRIPLETS",
    "Augmentation",
    "Clip",
    "ClipEmbedding",
    "DatasetError",
    "DatasetInfo",
    "EmbeddingSpec",
    "FrameRef",
    "Instances",
    "LabelledWindowIndex",
    "Shard",
    "WindowRef",
    "admits",
    "admitted_clips",
    "augment",
    "clip_windows",
    "coincidence_dataset",
    "decode_clip",
    "decode_embedding",
    "decode_images",
    "decode_mel_energy",
    "embedding_spec",
    "embedding_table",
    "encode_clip",
    "encode_embedding",
    "encode_instance",
    "encode_mel_energy",
    "encode_pair",
    "encode_triplet",
    "find_instances",
    "fingerprint",
    "fit_length",
    "index_labelled_windows",
    "instance_dataset",
    "instance_labels",
    "iter_clips",
    "iter_embeddings",
    "labelled_window_dataset",
    "map_windows",
    "pair_dataset",
    "parse_pairs",
    "parse_triplets",
    "read_clip_infos",
    "read_dataset_info",
    "read_instances",
    "read_pair_infos",
    "read_records",
    "read_triplet_infos",
    "require_folds",
    "require_modality",
    "require_undamaged",
    "scale_time",
    "triplet_dataset",
]
