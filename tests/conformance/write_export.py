"""Exports an encoder with fresh weights, and what it answers to two recordings: `write_export.py FOLDER`.

The folder then holds `model/1`, `stereo.wav`, `mono.flac` and their embeddings by file name, `expected.npz`.
"""

import pathlib
import sys

import keras
import numpy as np
import soundfile
import tensorflow as tf

from tfsound import mel, networks
from tfsound.export import saved_model


def main(folder: pathlib.Path) -> None:
    keras.utils.set_random_seed(0)
    params = mel.MelParams()
    encoder = networks.build_encoder("resnet_small", embedding_dim=16)
    path = saved_model.save(encoder, params, str(folder / "model"), provenance={}).path
    embed = tf.saved_model.load(path).signatures["serving_default"]
    rng = np.random.default_rng(0)
    times = np.arange(3 * params.sample_rate)[:, None] / params.sample_rate
    chirps = 0.4 * np.sin(2 * np.pi * times * (200 + times * [300, 500]))
    sounds = {"stereo.wav": chirps, "mono.flac": 0.1 * rng.normal(size=(40_000, 1))}
    expected = {}
    for name, sound in sounds.items():
        soundfile.write(folder / name, sound, params.sample_rate, subtype="PCM_16")
        waveform, _ = soundfile.read(folder / name, dtype="float32", always_2d=True)
        expected[name] = embed(waveform=tf.constant(waveform.mean(axis=1)[None]))["embedding"].numpy()
    np.savez(folder / "expected.npz", **expected)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
