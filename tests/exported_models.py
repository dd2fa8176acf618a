"""Small exports for the tests of what reads them: an encoder, a classifier, and one that hears stereo."""

import keras
import numpy as np

from tfsound import mel, models
from tfsound.export import saved_model

PARAMS = mel.MelParams()
DIM = 8


def encoder(params=PARAMS, *, dim=DIM, seed=0):
    """A convolution and a pool, whose batch norm has seen something; embeddings have length 1."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    inputs = keras.Input(params.window_shape)
    x = layers.Conv1D(16, 5, strides=2, activation="relu")(inputs)
    x = layers.GlobalAveragePooling1D()(layers.BatchNormalization(name="norm")(x))
    model = keras.Model(inputs, layers.UnitNormalization()(layers.Dense(dim)(x)))
    rng = np.random.default_rng(seed)
    for variable in model.get_layer("norm").non_trainable_variables:
        variable.assign(rng.uniform(0.5, 2, variable.shape))
    return model


def export(folder, params=PARAMS, **options):
    """The folder of an export of `encoder`, and the path of its version."""
    return saved_model.save(encoder(params, **options), params, str(folder), provenance={}).path


def export_classifier(folder, class_names):
    classifier = models.ClassifierModel(encoder(), len(class_names))
    classifier(np.zeros((1, *PARAMS.window_shape), np.float32))
    return saved_model.save(
        classifier, PARAMS, str(folder), provenance={}, class_names=tuple(class_names)
    ).path
