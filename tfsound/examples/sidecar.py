"""The sidecar of a set of examples, `dataset_info.json`: written last, checked before anything is read."""

import dataclasses
import json
import os
import typing
from concurrent import futures

import tensorflow as tf

from tfsound import mel

SCHEMA_VERSION = 1
INFO_NAME = "dataset_info.json"
CLIPS = "clips"
TRIPLETS = "triplets"
PAIRS = "pairs"
INSTANCES = "instances"
EMBEDDINGS = "embeddings"
# Files that are asked for their sizes.
_NUM_ASKED_AT_ONCE = 32


class DatasetError(ValueError):
    """A folder of examples that is missing, incomplete, damaged or made with other parameters."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of a data set: its name in the folder, its records, its bytes."""

    name: str
    num_examples: int
    num_bytes: int


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """The sidecar of a data set.

    `kind` is `CLIPS`, `TRIPLETS`, `PAIRS`, `INSTANCES` or `EMBEDDINGS`; `shards` are TFRecord files,
    `tables` Parquet files of the same records; `folds` and `label_names` are those that occur, sorted;
    `num_windows` counts context windows without overlap, `num_images` the frames of video; of the clips of
    a manifest, of which a long one may be several examples, `num_clips` are in the set, `num_failures` were
    rejected and `num_clips_without_images` were to have frames and have none; `parameters` are the job's own
    and `command` is what made the set.
    """

    kind: str
    mel_params: mel.MelParams
    shards: tuple[Shard, ...]
    num_windows: int
    label_names: tuple[str, ...] = ()
    folds: tuple[str, ...] = ()
    num_clips: int = 0
    num_failures: int = 0
    num_images: int = 0
    num_clips_without_images: int = 0
    tables: tuple[Shard, ...] = ()
    parameters: dict = dataclasses.field(default_factory=dict)
    command: str = ""
    schema_version: int = SCHEMA_VERSION

    @property
    def num_examples(self) -> int:
        return sum(shard.num_examples for shard in self.shards)

    def __str__(self) -> str:
        what = self.kind
        if self.kind == EMBEDDINGS:
            what = "embedded clips"
        elif 0 < self.num_clips < self.num_examples:
            what = f"pieces of {self.num_clips:,} clips"
        text = f"{self.num_examples:,} {what} ({self.num_windows:,} windows) in {len(self.shards)} files"
        if self.kind in (CLIPS, EMBEDDINGS):
            num_folds = len(set(self.folds) - {""})
            text += (
                f"; {len(self.label_names)} labels, {num_folds} folds, {self.num_failures:,} clips rejected"
            )
            if self.num_images or self.num_clips_without_images:
                text += f"; {self.num_images:,} images, {self.num_clips_without_images:,} clips without one"
        if "num_recordings_without_pairs" in self.parameters:
            without = self.parameters["num_recordings_without_pairs"]
            text += f"; {without} of {self.parameters['num_recordings']} recordings gave no pair"
        if self.parameters.get("num_classes_without_triplets"):
            without = self.parameters["num_classes_without_triplets"]
            names = ", ".join(map(repr, self.parameters["classes_without_triplets"]))
            text += f"; {without} classes gave no triplet, among them {names}"
        return text

    def to_json(self) -> str:
        fields = dataclasses.asdict(self) | {"num_examples": self.num_examples}
        return json.dumps(fields, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> "DatasetInfo":
        """Raises: DatasetError naming `where` when the text is not a sidecar of this schema."""
        try:
            fields = json.loads(text)
            version = fields["schema_version"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DatasetError(
                f"{where} is not a sidecar of tfsound ({error!r}); make the set again."
            ) from error
        if version != SCHEMA_VERSION:
            raise DatasetError(
                f"{where} has schema version {version!r}, this tfsound reads {SCHEMA_VERSION}; "
                "make the set again with this version."
            )
        try:
            del fields["num_examples"]
            fields["mel_params"] = mel.MelParams.from_dict(fields["mel_params"])
            fields["shards"] = tuple(Shard(**shard) for shard in fields["shards"])
            fields["tables"] = tuple(Shard(**table) for table in fields.get("tables", ()))
            fields["label_names"] = tuple(fields["label_names"])
            fields["folds"] = tuple(fields["folds"])
            info = cls(**fields)
            for part in (info, info.mel_params, *info.shards, *info.tables):
                _require_types(part)
            info.to_json().encode()  # raises where JSON's escapes make what is no text
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DatasetError(f"{where} lacks or garbles a field: {error}; make the set again.") from error
        return info


def _require_types(record) -> None:
    """Raises: TypeError when a field of a dataclass has another type than it is declared with."""
    for field in dataclasses.fields(record):
        value, expected = getattr(record, field.name), field.type
        if typing.get_origin(expected) is tuple:
            values, expected = value, typing.get_args(expected)[0]
        else:
            values = [value]
        # JSON does not tell 125.0 from 125.
        expected = (int, float) if expected is float else expected
        if not all(isinstance(value, expected) for value in values):
            raise TypeError(f"{field.name} is {value!r}")


def read_dataset_info(directory: str, *, kind: str) -> DatasetInfo:
    """Reads and checks a data set's sidecar.

    Raises:
      DatasetError: no such folder; no sidecar (an interrupted job); another kind or schema version; a
        shard that is missing or has another size than the job wrote.
    """
    path = os.path.join(directory, INFO_NAME)
    if not tf.io.gfile.isdir(directory):
        raise DatasetError(f"{directory} is not a folder; expected a folder of {kind} examples.")
    if not tf.io.gfile.exists(path):
        raise DatasetError(
            f"{directory} holds no {INFO_NAME}: it is not a finished set of {kind} examples. "
            "Run the job that makes it (again)."
        )
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            info = DatasetInfo.from_json(file.read(), path)
    except tf.errors.OpError as error:
        raise DatasetError(f"{path} cannot be read: {error.message}.") from error
    if info.kind != kind:
        raise DatasetError(f"{directory} holds {info.kind} examples, expected {kind}.")
    shards = (*info.shards, *info.tables)
    paths = [os.path.join(directory, shard.name) for shard in shards]
    # Many at once, for a store takes its time to answer, and there may be thousands.
    with futures.ThreadPoolExecutor(_NUM_ASKED_AT_ONCE) as pool:
        sizes = pool.map(_num_bytes, paths)
    for shard, shard_path, found in zip(shards, paths, sizes, strict=True):
        if found != shard.num_bytes:
            state = "is missing" if found is None else f"has {found} bytes"
            raise DatasetError(
                f"{shard_path} {state}, expected {shard.num_bytes} bytes; copy it or make the set again."
            )
    return info


def _num_bytes(path: str) -> int | None:
    """The size of a file; None where there is none. Raises: DatasetError where nobody can tell."""
    try:
        return tf.io.gfile.stat(path).length
    except tf.errors.NotFoundError:
        return None
    except tf.errors.OpError as error:
        raise DatasetError(f"{path} cannot be read: {error.message}.") from error


def require_folds(info: DatasetInfo, folds: tuple[str, ...], where: str) -> None:
    """Raises: DatasetError when a fold is asked for that no clip has."""
    unknown = sorted(set(folds) - set(info.folds))
    if unknown:
        raise DatasetError(f"fold {unknown[0]!r} does not occur in {where}; it has {list(info.folds)}.")
