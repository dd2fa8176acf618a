"""Clips of three classes, labels of their windows, and runs on them, for tests of classifiers."""

import dataclasses
import json
import os

import numpy as np
import pytest
import tiny

from tfsound import training

NAMES = ("a", "b", "c")
# 30 clips of 3 windows, 10 of each class, in 2 folds.
NUM_CLIPS = 30
SETTINGS = {
    "encoder": "tiny", "embedding_dim": 6, "num_steps": 5, "batch_size": 8, "steps_per_checkpoint": 3,
    "learning_rate": 0.01, "seed": 3,
}  # fmt: skip


def make_clip(number, **changes):
    """Noise, clicks or steady bands, which the tiny encoder can tell apart whatever the band."""
    clip = tiny.make_clip(number, fold=str(1 + number % 2))
    energies = np.array(clip.mel_energy, np.float64)
    kind = number // 2 % 3
    if kind == 1:
        energies[::2] += 3
    elif kind == 2:
        energies[:, ::2] += 3
    energies = energies.astype("<f2")
    return dataclasses.replace(clip, mel_energy=energies, labels=(NAMES[kind],), **changes)


def write_clips(directory):
    """All clips; 15 of each fold."""
    return tiny.write_clips(directory, list(map(make_clip, range(NUM_CLIPS))))


def window_labels(rows, *, known=None, names=NAMES):
    """Labels by {(clip number, window number): confidences}."""
    return tiny.window_labels([make_clip(number) for number in range(NUM_CLIPS)], rows, names, known=known)


def write_folder(folder, window_labels, **changes):
    """The folder that `tfsound answers` would write of these labels."""
    os.makedirs(folder)
    with open(folder / "labels.jsonl", "w") as file:
        for number, clip_id in enumerate(window_labels.clip_ids):
            row = window_labels.row[number]
            present = np.flatnonzero(window_labels.row_labels[row]) if window_labels.row_is_known[row] else []
            start = float(window_labels.start_seconds[number])
            kind = "positive" if len(present) else "negative"
            record = {
                "clip_id": clip_id, "recording_id": "r", "start_seconds": start, "end_seconds": start + 1,
                "kind": kind if window_labels.row_is_known[row] else "uncertain",
                "labels": [window_labels.class_names[index] for index in present],
                "confidence": [float(window_labels.row_labels[row, index]) for index in present],
                "source": "direct",
            }  # fmt: skip
            file.write(json.dumps(record | changes) + "\n")
    info = {
        "format": 1,
        "class_names": list(window_labels.class_names),
        "num_labelled_windows": len(window_labels.clip_ids),
    }
    (folder / "labels.json").write_text(json.dumps(info))
    return str(folder)


def train(clips, output, **settings):
    return training.train_classifier(clips, str(output), **(SETTINGS | settings))


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("sets") / "clips")


@pytest.fixture(scope="module")
def whole_run(clips, tiny_encoder, tmp_path_factory):
    """A run that nothing disturbed: its folder and its summary. Tests only read it."""
    output = str(tmp_path_factory.mktemp("runs") / "whole")
    return output, train(clips, output)


@pytest.fixture(scope="module")
def triplet_run(tiny_encoder, tmp_path_factory):
    """A run to start from."""
    folder = tmp_path_factory.mktemp("runs")
    triplets = tiny.write_triplets(folder / "triplets", range(16))
    training.train([triplets], str(folder / "run"), **SETTINGS)
    return str(folder / "run")
