"""Labelled context windows: where each lies in a set of clips, and batches of them for a classifier.

The index takes 16 bytes a window, beside the labels themselves; energies are read from their places in the
shards when a batch needs them, so that sets of any size can be drawn from in any order, and training reads
only what is labelled.

Source: Jansen et al. 2020, section 3.3.
"""

import dataclasses
import functools
import hashlib
import itertools
import os
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from tfsound import mel, sampling
from tfsound.examples.clips import Clip, decode_clip
from tfsound.examples.records import read_records
from tfsound.examples.sidecar import CLIPS, DatasetError, DatasetInfo, read_dataset_info, require_folds
from tfsound.examples.streams import log_mel_windows, shard_paths
from tfsound.window_labels import WindowFinder, WindowLabels, milliseconds, window_starts

NATURAL, UNIFORM = "natural", "uniform"
CLASS_BALANCES = (NATURAL, UNIFORM)
_NUM_OPEN_FILES = 64
# Of a window of which nothing is known.
_NO_ROW = -1


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledWindowIndex:
    """Windows to learn from: where each is, and what it is labelled with.

    Attributes:
      paths: the shards.
      shard: int32, (windows,), the path of each window.
      offset: int64, (windows,), where its energies begin there, in bytes.
      row: int32, (windows,), its row of labels.
      row_labels: float32, (rows, classes), in [0, 1].
      class_names: (classes,).
      mel_params: the front end of the clips.
    """

    paths: tuple[str, ...]
    shard: np.ndarray
    offset: np.ndarray
    row: np.ndarray
    row_labels: np.ndarray
    class_names: tuple[str, ...]
    mel_params: mel.MelParams

    @property
    def num_windows(self) -> int:
        return len(self.row)

    @property
    def num_windows_of_class(self) -> np.ndarray:
        """How many windows have each class, with any confidence: int64, (classes,)."""
        return np.bincount(self.row, minlength=len(self.row_labels)) @ (self.row_labels > 0)

    @property
    def digest(self) -> str:
        """A hash of the windows and their labels, where the shards lie aside: what a run was trained on."""
        hashed = hashlib.blake2b("\x1f".join(self.class_names).encode(), digest_size=8)
        for array in (self.shard, self.offset, self.row, self.row_labels):
            hashed.update(np.ascontiguousarray(array).tobytes())
        return hashed.hexdigest()

    def __str__(self) -> str:
        counts = self.num_windows_of_class
        text = f"{self.num_windows:,} labelled windows of {np.count_nonzero(counts)} of {len(counts)} classes"
        if (counts == 0).any():
            absent = [name for name, count in zip(self.class_names, counts, strict=True) if not count]
            text += f"; none of {', '.join(absent[:5])}{', ...' if len(absent) > 5 else ''}"
        return text


def index_labelled_windows(
    clips: str,
    labels: WindowLabels | None = None,
    *,
    folds: tuple[str, ...] = (),
    exclude_folds: tuple[str, ...] = (),
) -> LabelledWindowIndex:
    """Finds the windows of a set of clips that something is known of; reads the whole set once.

    Args:
      clips: the folder of clip examples.
      labels: of windows; without, every window has the labels of its clip, and clips without one are left
        out, for nothing is known of them. Uncertain windows are left out alike.
      folds: the folds to take windows of; all without.
      exclude_folds: folds to leave out, because they are for testing.

    Returns:
      The windows, in the order of the shards.

    Raises:
      DatasetError: the clips are missing or damaged, or have no such fold; a labelled window that is none of
        theirs; no labelled window in the folds.
    """
    info = read_dataset_info(clips, kind=CLIPS)
    for chosen in (folds, exclude_folds):
        require_folds(info, chosen, clips)
    paths = shard_paths([clips], [info])
    own_rows: dict[tuple[str, ...], int] = {}
    finder = None if labels is None else labels.finder()
    is_found = np.zeros(0 if labels is None else len(labels.row), bool)
    # The last is that of place -1: of windows that are not labelled.
    label_rows = np.append([] if labels is None else labels.row, _NO_ROW).astype(np.int64)
    parts = []
    for shard, offset, clip in _clips_at(paths, info):
        num_windows = info.mel_params.num_windows(len(clip.mel_energy))
        if labels is not None:
            labelled = _find_windows(finder, clip, num_windows, info.mel_params)
            rows = label_rows[labelled]
            is_found[labelled[labelled >= 0]] = True
        elif clip.labels:
            rows = np.full(num_windows, own_rows.setdefault(clip.labels, len(own_rows)))
        else:
            rows = np.full(num_windows, _NO_ROW)
        if clip.fold not in exclude_folds and (not folds or clip.fold in folds):
            offsets = offset + np.arange(num_windows) * window_bytes(info.mel_params)
            parts.append(np.stack([np.full(num_windows, shard), offsets, rows])[:, rows != _NO_ROW])
    if not is_found.all():
        raise _not_there(labels, is_found, clips)
    shards, offsets, rows = np.concatenate([np.zeros((3, 0), np.int64), *parts], axis=1)
    is_known = slice(None) if labels is None else np.asarray(labels.row_is_known)[rows]
    row_labels = _labels_of(own_rows, info.label_names) if labels is None else labels.row_labels
    windows = LabelledWindowIndex(
        paths=tuple(paths),
        shard=shards[is_known].astype(np.int32),
        offset=offsets[is_known],
        row=rows[is_known].astype(np.int32),
        row_labels=np.asarray(row_labels, np.float32),
        class_names=info.label_names if labels is None else labels.class_names,
        mel_params=info.mel_params,
    )
    if not windows.num_windows:
        raise DatasetError(
            f"{clips} holds no labelled window in folds {list(folds) or 'of any name'} without "
            f"{list(exclude_folds)}; label some, or name other folds."
        )
    return windows


def window_bytes(mel_params: mel.MelParams) -> int:
    """The length of a window's energies in a record."""
    return mel_params.context_frames * mel_params.num_columns * np.dtype("<f2").itemsize


def _clips_at(paths: list[str], info: DatasetInfo) -> Iterator[tuple[int, int, Clip]]:
    """Each clip, with the number of its shard and where its energies begin there."""
    for shard, path in enumerate(paths):
        for payload_offset, record in read_records(path):
            clip = decode_clip(record, info.mel_params.num_columns)
            yield shard, payload_offset + record.index(clip.mel_energy.tobytes()), clip


def _find_windows(
    finder: WindowFinder, clip: Clip, num_windows: int, mel_params: mel.MelParams
) -> np.ndarray:
    """The place of each window of a clip among those that are labelled, int64, (windows,); -1 for none."""
    starts = window_starts(clip.start_seconds, num_windows, mel_params.context_seconds)
    return finder.find(clip.clip_id, milliseconds(starts))


def _not_there(labels: WindowLabels, is_found: np.ndarray, clips: str) -> DatasetError:
    first, num_labelled = int(is_found.argmin()), len(is_found)
    start = milliseconds(labels.start_seconds)[first]
    return DatasetError(
        f"{num_labelled - is_found.sum():,} of {num_labelled:,} labelled windows are not in {clips}, such as "
        f"that of clip {labels.clip_ids[first]!r} at {start / 1000} s; name the clips that were asked about."
    )


def _labels_of(rows: dict[tuple[str, ...], int], class_names: tuple[str, ...]) -> np.ndarray:
    """Labels of rows, given the names that each has: float32, (rows, classes)."""
    columns = {name: column for column, name in enumerate(class_names)}
    labels = np.zeros((len(rows), len(columns)), np.float32)
    for names, row in rows.items():
        labels[row, [columns[name] for name in names]] = 1
    return labels


def labelled_window_dataset(
    windows: LabelledWindowIndex,
    *,
    batch_size: int,
    class_balance: str = NATURAL,
    seed: int = 0,
    first_batch: int = 0,
) -> tf.data.Dataset:
    """An endless, reproducible stream of batches of labelled windows.

    A batch is a pure function of the windows, its number and the seed, so that the stream can be taken up
    anywhere.

    Args:
      windows: what to draw from.
      batch_size: windows a batch, at least 1; where there are fewer, some come twice.
      seed: of the order.
      class_balance: `natural`, where every window comes once before one comes again, in another order each
        time; or `uniform`, where so does every class, those of no class as one class more, and within a
        class every window.
      first_batch: where to start: the batch that an uninterrupted stream would give next.

    Returns:
      A data set of dictionaries: `log_mel`, float32, (batch, context_frames, mel_bins), and `labels`,
      float32, (batch, classes).

    Raises:
      ValueError: a batch size below 1, another word for `class_balance`. DatasetError, while it is read: a
        shard that is gone or ends early.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    if class_balance not in CLASS_BALANCES:
        raise ValueError(f"class_balance must be one of {list(CLASS_BALANCES)}, got {class_balance!r}.")
    num_classes = len(windows.class_names)

    def batches() -> Iterator[tuple[list[bytes], np.ndarray]]:
        draws, reader = _Draws(windows, class_balance, seed), _Reader(windows)
        for number in itertools.count(first_batch):
            drawn = [draws.window(number * batch_size + place) for place in range(batch_size)]
            yield [reader.read(window) for window in drawn], windows.row_labels[windows.row[drawn]]

    def parse(energies: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"log_mel": log_mel_windows(energies, windows.mel_params), "labels": labels}

    signature = (
        tf.TensorSpec([batch_size], tf.string),
        tf.TensorSpec([batch_size, num_classes], tf.float32),
    )
    stream = tf.data.Dataset.from_generator(batches, output_signature=signature)
    return stream.map(parse, num_parallel_calls=2).prefetch(2)


class _Draws:
    """Which window is at each place of the stream."""

    def __init__(self, windows: LabelledWindowIndex, class_balance: str, seed: int):
        self._seed = seed
        self._groups = [np.arange(windows.num_windows)]
        if class_balance == UNIFORM:
            is_member = windows.row_labels > 0
            is_member = np.concatenate([is_member, ~is_member.any(axis=1, keepdims=True)], axis=1)
            groups = (np.flatnonzero(column[windows.row]) for column in is_member.T)
            self._groups = [group for group in groups if len(group)]

    def window(self, place: int) -> int:
        times_round, index = divmod(place, len(self._groups))
        group = self._permuted(index, len(self._groups), "class", times_round)
        # A group comes once a round, so this is its draw number `times_round`.
        members = self._groups[group]
        epoch, index = divmod(times_round, len(members))
        return int(members[self._permuted(index, len(members), f"window of {group}", epoch)])

    def _permuted(self, index: int, size: int, purpose: str, epoch: int) -> int:
        return sampling.permuted_index(index, size, sampling.stable_hash(self._seed, purpose, epoch))


class _Reader:
    """Reads windows from their places in the shards; keeps some files open."""

    def __init__(self, windows: LabelledWindowIndex):
        self._windows = windows
        self._num_bytes = window_bytes(windows.mel_params)
        self._open = functools.lru_cache(maxsize=_NUM_OPEN_FILES)(_open_shard)

    def read(self, window: int) -> bytes:
        """A window's energies as stored. Raises: DatasetError for a shard that is gone or ends early."""
        path = self._windows.paths[self._windows.shard[window]]
        try:
            file = self._open(path)
            file.seek(int(self._windows.offset[window]))
            data = file.read(self._num_bytes)
        except (OSError, tf.errors.OpError) as error:
            raise DatasetError(f"{path} cannot be read ({error}); copy it or make the set again.") from error
        if len(data) != self._num_bytes:
            raise DatasetError(f"{path} ends early; copy it or make the set again.")
        return data


def _open_shard(path: str):
    # TensorFlow's file reads half a megabyte ahead from every place: 16 times the time of a plain one.
    return open(path, "rb") if os.path.exists(path) else tf.io.gfile.GFile(path, "rb")
