"""Exports of encoders that see every number of a window, made in a second, for tests of what runs them."""

import functools

import keras
import numpy as np

from tfsound import exported, mel, models
from tfsound.export import saved_model

DIM = 4
CLASS_NAMES = ("dog", "rain")
# Windows of 95 samples, one every 80.
TINY = mel.MelParams(sample_rate=1000, mel_bins=8, mel_min_hz=20.0, mel_max_hz=450.0, context_frames=8)


@functools.cache
def encoder(params):
    keras.utils.set_random_seed(1)
    layers = keras.Input(params.window_shape), keras.layers.Flatten(), keras.layers.Dense(DIM)
    return keras.Sequential([*layers, keras.layers.UnitNormalization()])


def export(folder, params, *, with_classes=False):
    """A version of an export in a folder."""
    model = encoder(params)
    names = ()
    if with_classes:
        model, names = models.ClassifierModel(model, len(CLASS_NAMES)), CLASS_NAMES
    return saved_model.save(model, params, str(folder), provenance={}, class_names=names).path


def load(folder, params, **options):
    return exported.load(export(folder, params, **options))


def sound(num_samples, *shape, seed=0):
    """Noise whose level changes, so that no two windows are alike: float32, (*shape, num_samples)."""
    rng = np.random.default_rng(seed)
    level = 0.1 + 0.9 * np.abs(np.sin(np.arange(num_samples) / 50))
    return (rng.uniform(-1, 1, (*shape, num_samples)) * level).astype(np.float32)
