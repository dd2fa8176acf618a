"""Clips as instances: each has an id from 0 to n - 1, by which it is told from all others.

An id is a clip's place among the admitted clips of its shard, behind those of the shards before. So the
sidecar's counts are all that ids need, however many clips there are: no list of them exists anywhere. They
stay the same as long as the sets stay in their order, and sets that are added at the end add new ids.

Source: Hornauer et al. 2021 (DLS), section 4; Wu et al. 2018 (NPID).
"""

import dataclasses
import os
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from tfsound import mel
from tfsound.examples.augmentation import NO_AUGMENTATION, Augmentation, augment
from tfsound.examples.clips import Clip, decode_clip
from tfsound.examples.records import read_records, serialize
from tfsound.examples.sidecar import (
    CLIPS,
    INSTANCES,
    DatasetError,
    DatasetInfo,
    read_dataset_info,
    require_folds,
)
from tfsound.examples.streams import open_shards, read_merged_infos, record_batches


@dataclasses.dataclass(frozen=True)
class Instances:
    """The clips of some sets that are admitted, and how many there are in each shard.

    Attributes:
      paths: the shards of clips that hold an admitted one.
      counts: (paths,), how many each holds.
      folds: those that are admitted; all without.
      exclude_folds: those that are not.
      labelled: whether only clips with a label are.
      class_names: the labels that occur in the sets, sorted.
      mel_params: the front end of the clips.
    """

    paths: tuple[str, ...]
    counts: tuple[int, ...]
    folds: tuple[str, ...]
    exclude_folds: tuple[str, ...]
    labelled: bool
    class_names: tuple[str, ...]
    mel_params: mel.MelParams

    @property
    def num_instances(self) -> int:
        return sum(self.counts)

    @property
    def first_ids(self) -> np.ndarray:
        """The id of the first instance of each path: int64, (paths,)."""
        return np.cumsum([0, *self.counts[:-1]])


def admits(fold: str, folds: Sequence[str], exclude_folds: Sequence[str]) -> bool:
    """Whether a clip of a fold is admitted."""
    return fold not in exclude_folds and (not folds or fold in folds)


def admitted_clips(
    path: str,
    num_columns: int,
    *,
    folds: Sequence[str] = (),
    exclude_folds: Sequence[str] = (),
    labelled: bool = False,
) -> Iterator[Clip]:
    """The admitted clips of a shard, in the order of their ids."""
    for _, record in read_records(path):
        clip = decode_clip(record, num_columns)
        if admits(clip.fold, folds, exclude_folds) and (clip.labels or not labelled):
            yield clip


def encode_instance(clip: Clip) -> bytes:
    """What a set of instances keeps of each: a `tf.train.Example` with `clip_id` and `labels`."""
    return serialize({"clip_id": clip.clip_id, "labels": clip.labels})


def find_instances(
    directories: Sequence[str],
    *,
    folds: tuple[str, ...] = (),
    exclude_folds: tuple[str, ...] = (),
    labelled: bool = False,
) -> Instances:
    """Counts the admitted clips of some sets by reading them; for many, the job `instances` does so.

    Args:
      directories: sets of clip examples.
      folds: those to admit; all without.
      exclude_folds: those not to.
      labelled: admit clips with a label only.

    Raises:
      DatasetError, ValueError: sets that are missing, damaged or of different front ends; no such fold, or
      none but it; nothing admitted.
    """
    mel_params, infos = read_clip_infos(directories, folds=folds, exclude_folds=exclude_folds)
    found = []
    for directory, info in zip(directories, infos, strict=True):
        for shard in info.shards:
            path = os.path.join(directory, shard.name)
            clips = admitted_clips(
                path, mel_params.num_columns, folds=folds, exclude_folds=exclude_folds, labelled=labelled
            )
            found.append((path, sum(1 for _ in clips)))
    return _instances(found, infos, folds, exclude_folds, labelled, ", ".join(directories))


def read_clip_infos(
    directories: Sequence[str], *, folds: tuple[str, ...] = (), exclude_folds: tuple[str, ...] = ()
) -> tuple[mel.MelParams, list[DatasetInfo]]:
    """The front end that sets of clips share, and their sidecars.

    Raises:
      DatasetError, ValueError: see `read_merged_infos`; a set given twice; a fold that no set has.
    """
    twice = [directory for number, directory in enumerate(directories) if directory in directories[:number]]
    if twice:
        raise DatasetError(f"{twice[0]} was given twice, so that its clips would be; give every set once.")
    mel_params, infos = read_merged_infos(directories, kind=CLIPS)
    occurring = dataclasses.replace(infos[0], folds=tuple(sorted({f for info in infos for f in info.folds})))
    for chosen in (folds, exclude_folds):
        require_folds(occurring, chosen, ", ".join(directories))
    return mel_params, infos


def read_instances(directory: str) -> Instances:
    """The instances that the job `instances` found.

    Raises:
      DatasetError: no finished set of instances; or its clips are missing, or others than they were.
    """
    info = read_dataset_info(directory, kind=INSTANCES)
    parameters = info.parameters
    infos, found = [], []
    shards = iter(info.shards)
    for clips, sizes in zip(parameters["clips"], parameters["clip_bytes"], strict=True):
        infos.append(read_dataset_info(clips, kind=CLIPS))
        if [shard.num_bytes for shard in infos[-1].shards] != sizes:
            raise DatasetError(
                f"{clips} is another set than when {directory} was made, so that ids would mean other clips; "
                "put the old one back, or make the instances again."
            )
        for shard in infos[-1].shards:
            found.append((os.path.join(clips, shard.name), next(shards).num_examples))
    folds, excluded = tuple(parameters["folds"]), tuple(parameters["exclude_folds"])
    return _instances(found, infos, folds, excluded, False, directory)


def _instances(
    found: list[tuple[str, int]], infos: Sequence[DatasetInfo], folds, exclude_folds, labelled, where: str
) -> Instances:
    """`Instances` of (path, count) of every shard."""
    found = [(path, count) for path, count in found if count]
    if not found:
        raise DatasetError(
            f"{where} holds no {'labelled ' if labelled else ''}clip in folds "
            f"{list(folds) or 'of any name'} without {list(exclude_folds)}; name others."
        )
    paths, counts = zip(*found, strict=True)
    return Instances(
        paths, counts, folds, exclude_folds, labelled,
        class_names=tuple(sorted({name for info in infos for name in info.label_names})),
        mel_params=infos[0].mel_params,
    )  # fmt: skip


def instance_labels(directory: str, class_names: Sequence[str]) -> np.ndarray:
    """The first label of each instance of a set, by id: int64, (instances,); -1 for none.

    Raises:
      DatasetError: as `read_instances`.
    """
    columns = {name: column for column, name in enumerate(class_names)}
    labels = []
    for shard in read_dataset_info(directory, kind=INSTANCES).shards:
        for _, record in read_records(os.path.join(directory, shard.name)):
            names = tf.train.Example.FromString(record).features.feature["labels"].bytes_list.value
            labels.append(columns[names[0].decode()] if names else -1)
    return np.array(labels, np.int64)


def instance_dataset(
    instances: Instances,
    *,
    batch_size: int,
    augmentation: Augmentation = NO_AUGMENTATION,
    seed: int = 0,
    first_batch: int = 0,
    shuffle_block: int = 256,
) -> tf.data.Dataset:
    """An endless, reproducible stream of batches of clips, each epoch in another order.

    See `streams.record_batches`: no clip is left out, every batch is full, and the stream can be taken up
    anywhere, with the same augmentation.

    Args:
      augmentation: what happens to each clip, drawn anew each time; without, its first window is taken, or
        the clip padded with silence to one.
      first_batch: where to start: the batch that an uninterrupted stream would give next.
      shuffle_block: clips that are shuffled at a time; all of them wait in memory.

    Returns:
      A data set of dictionaries: `log_mel`, float32, (batch, context_frames, columns); `instance_id`, int64,
      (batch,); `labels`, float32, (batch, classes), 1 for each label of the clip.

    Raises:
      ValueError: a batch size below 1.
    """
    mel_params = instances.mel_params
    open_shard = open_shards(instances.paths)

    def read(path: tf.Tensor, first_id: tf.Tensor) -> tf.data.Dataset:
        records = open_shard(path)
        if instances.folds or instances.exclude_folds or instances.labelled:
            records = records.filter(lambda record: _admits(record, instances))
        return records.enumerate(first_id).map(lambda number, record: (record, number))

    def view(place: tf.Tensor, example: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        record, instance_id = example
        energies, labels = _parse(record, instances)
        uniform = tf.random.stateless_uniform([3], seed=tf.stack([tf.constant(seed, tf.int64), place]))
        energies = augment(energies, mel_params.context_frames, augmentation, uniform)
        log_mel = mel.log_mel(energies, mel_params)
        return {"log_mel": log_mel, "instance_id": instance_id, "labels": labels}

    batches = record_batches(
        instances.paths, instances.counts, batch_size=batch_size, seed=seed, first_batch=first_batch,
        shuffle_block=shuffle_block, carried=[tf.constant(instances.first_ids, tf.int64)], read=read,
    )  # fmt: skip
    views = batches.unbatch().enumerate(first_batch * batch_size).map(view, num_parallel_calls=2)
    return views.batch(batch_size, drop_remainder=True).prefetch(2)


def _admits(record: tf.Tensor, instances: Instances) -> tf.Tensor:
    """`admits`, of a serialised clip."""
    parsed = tf.io.parse_single_example(
        record, {"fold": tf.io.FixedLenFeature([], tf.string), "labels": tf.io.RaggedFeature(tf.string)}
    )
    fold = parsed["fold"]
    is_admitted = tf.reduce_all(fold != tf.constant(list(instances.exclude_folds), tf.string))
    if instances.folds:
        is_admitted &= tf.reduce_any(fold == tf.constant(list(instances.folds), tf.string))
    if instances.labelled:
        is_admitted &= tf.size(parsed["labels"]) > 0
    return is_admitted


def _parse(record: tf.Tensor, instances: Instances) -> tuple[tf.Tensor, tf.Tensor]:
    """A serialised clip -> its energies, float32 (frames, columns), and labels, float32 (classes,)."""
    parsed = tf.io.parse_single_example(
        record,
        {"mel_energy": tf.io.FixedLenFeature([], tf.string), "labels": tf.io.RaggedFeature(tf.string)},
    )
    energies = tf.io.decode_raw(parsed["mel_energy"], tf.float16, little_endian=True)
    energies = tf.cast(tf.reshape(energies, [-1, instances.mel_params.num_columns]), tf.float32)
    names = tf.constant(list(instances.class_names), tf.string)
    labels = tf.reduce_any(parsed["labels"][:, None] == names, axis=0)
    return energies, tf.cast(labels, tf.float32)
