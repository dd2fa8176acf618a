"""Tiny sets of examples and a tiny encoder, for tests that need real files and real training."""

import functools
import os

import numpy as np
import tensorflow as tf
from keras import layers

from tfsound import examples, mel
from tfsound.window_labels import WindowLabels, window_starts

PARAMS = mel.MelParams(mel_bins=8, context_frames=8)
WINDOW = (PARAMS.context_frames, PARAMS.mel_bins)


def encoder(x):
    """A convolution, batch norm and average pool: what the big ones are made of, compiled in a second.

    Made known as "tiny" by the fixture `tiny_encoder`, and in the processes of `processes`.
    """
    x = layers.Conv2D(8, 3, use_bias=False, name="conv")(x)
    x = layers.ReLU()(layers.BatchNormalization(synchronized=True, name="norm")(x))
    return layers.GlobalAveragePooling2D()(x)


@functools.cache
def jpeg(number):
    """A picture of 128 x 128 that no other number has."""
    corners = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
    return tf.io.encode_jpeg(corners.repeat(16, axis=0).repeat(16, axis=1)).numpy()


def make_clip(number, *, num_frames=24, labels=(), fold="", recording=None, frame_seconds=()):
    """A clip whose energies tell its first label: a class has a band of its own, in noise.

    Where times of frames are given, frame after frame is `jpeg(100 * number)`, and so on.
    """
    rng = np.random.default_rng(number)
    energies = rng.uniform(0, 1, (num_frames, PARAMS.mel_bins))
    if labels:
        energies[:, sum(labels[0].encode()) % PARAMS.mel_bins] += 2.0
    return examples.Clip(
        clip_id=f"clip-{number}",
        recording_id=f"recording-{number}" if recording is None else recording,
        start_seconds=0.25 * number,
        labels=tuple(labels),
        fold=fold,
        split="",
        mel_energy=energies.astype("<f2"),
        frame_jpegs=tuple(jpeg(100 * number + step) for step in range(len(frame_seconds))),
        frame_seconds=tuple(frame_seconds),
    )


def window_labels(clips, rows, names, *, known=None):
    """Labels by {(number of a clip in the list, number of its window): confidences}."""
    found = [clips[number] for number, _ in rows]
    starts = [
        window_starts(clip.start_seconds, window + 1, PARAMS.context_seconds)[-1]
        for clip, (_, window) in zip(found, rows, strict=True)
    ]
    return WindowLabels(
        clip_ids=tuple(clip.clip_id for clip in found),
        start_seconds=np.asarray(starts),
        row=np.arange(len(rows), dtype=np.int32),
        row_labels=np.asarray(list(rows.values()), np.float32).reshape(len(rows), len(names)),
        row_is_known=np.ones(len(rows), bool) if known is None else np.asarray(known),
        class_names=names,
    )


def make_triplet(number, *, num_recordings=7):
    """A serialised triplet, and its windows: the constraint names its number, so that a test can count it."""
    rng = np.random.default_rng(number)
    owner = number % num_recordings
    other = (owner + 1 + number % (num_recordings - 1)) % num_recordings
    # A recording has a level a band of its own, so that there is something to learn.
    levels = [
        np.random.default_rng(1000 + source).uniform(0, 3, WINDOW[1]) for source in (owner, owner, other)
    ]
    windows = [(level + rng.uniform(0, 1, WINDOW)).astype("<f2") for level in levels]
    refs = tuple(
        examples.WindowRef(f"clip-{source}", f"recording-{source}", float(number))
        for source in (owner, owner, other)
    )
    encoded = tuple(examples.encode_mel_energy(window) for window in windows)
    return examples.encode_triplet(encoded, refs, f"number:{number}"), windows, refs


def write_set(directory, kind, shards, *, mel_params=PARAMS, num_windows=1, **fields):
    """Writes lists of records as the shards of a set, with its sidecar."""
    os.makedirs(directory)
    described = []
    for number, records in enumerate(shards):
        name = f"{kind}-{number:05d}.tfrecord"
        path = os.path.join(directory, name)
        with tf.io.TFRecordWriter(path) as writer:
            for record in records:
                writer.write(record)
        described.append(examples.Shard(name, len(records), os.path.getsize(path)))
    info = examples.DatasetInfo(
        kind=kind, mel_params=mel_params, shards=tuple(described), num_windows=num_windows, **fields
    )
    with open(os.path.join(directory, examples.INFO_NAME), "w", encoding="utf-8") as file:
        file.write(info.to_json())
    return str(directory)


def write_clips(directory, clips):
    """Clips in two shards."""
    records = [examples.encode_clip(clip) for clip in clips]
    return write_set(
        directory, examples.CLIPS, [records[::2], records[1::2]],
        num_windows=sum(PARAMS.num_windows(len(clip.mel_energy)) for clip in clips),
        label_names=tuple(sorted({label for clip in clips for label in clip.labels})),
        folds=tuple(sorted({clip.fold for clip in clips if clip.fold})),
        num_images=sum(len(clip.frame_jpegs) for clip in clips),
    )  # fmt: skip


def write_triplets(directory, numbers, *, num_shards=3):
    """The triplets of these numbers, in shards of unequal sizes where they do not divide."""
    records = [make_triplet(number)[0] for number in numbers]
    return write_set(directory, examples.TRIPLETS, [records[i::num_shards] for i in range(num_shards)])


def records_of(directory, kind):
    """All records of a set, in order."""
    info = examples.read_dataset_info(str(directory), kind=kind)
    paths = [os.path.join(directory, shard.name) for shard in info.shards]
    return [record for path in paths for _, record in examples.read_records(path)]


def flip_byte(path, position):
    """Damages a file without changing its size."""
    with open(path, "r+b") as file:
        file.seek(position, os.SEEK_SET if position >= 0 else os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0xFF]))
