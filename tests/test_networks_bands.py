"""Tests of networks.build_encoder: bands as the channels of an image, channels of sound, images."""

import keras
import numpy as np
import pytest

from tfsound import networks


def seen_image(encoder, windows, layer):
    """What goes into the first layer of the network."""
    return keras.Model(encoder.input, encoder.get_layer(layer).input)(windows).numpy()


@pytest.mark.parametrize(
    ("name", "first", "is_frequency_first", "num_bands"),
    [
        ("resnet_small", "stem_conv", False, 1),
        ("resnet_small", "stem_conv", False, 2),
        ("vgg_small", "block1_1_conv", False, 3),
        ("esresnet_small", "stem_pad", True, 1),
        ("esresnet_small", "stem_pad", True, 2),
        ("esresnet_small", "stem_pad", True, 3),
        ("densenet", "zero_padding2d", True, 3),
    ],
)
def test_bands_are_the_channels_of_the_image_low_first(name, first, is_frequency_first, num_bands):
    keras.backend.clear_session()  # numbers the layers without names from 0
    encoder = networks.build_encoder(name, input_shape=(32, 96), num_bands=num_bands)
    # A frame is 100 times its number, a bin its number.
    window = np.arange(96, dtype=np.float32) + 100 * np.arange(32, dtype=np.float32)[:, None]
    image = seen_image(encoder, window[None], first)[0]
    height = 96 // num_bands
    bands = [window[:, band * height : (band + 1) * height] for band in range(num_bands)]
    expected = np.stack([band.T if is_frequency_first else band for band in bands], axis=-1)
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("name", ["esresnet_small", "densenet"])
def test_an_image_is_seen_upright(name):
    keras.backend.clear_session()
    encoder = networks.build_encoder(name, input_shape=(32, 40, 3))
    images = np.random.default_rng(0).uniform(size=(1, 32, 40, 3)).astype(np.float32)
    first = "stem_pad" if name == "esresnet_small" else "zero_padding2d"
    np.testing.assert_array_equal(seen_image(encoder, images, first), images)


@pytest.mark.parametrize(
    ("name", "num_bands"), [("resnet_small", 1), ("esresnet_small", 3), ("vgg_small", 2)]
)
def test_stereo_is_two_passes_added(name, num_bands):
    options = {"num_bands": num_bands, "embedding_dim": 5, "unit_norm": False}
    stereo = networks.build_encoder(name, input_shape=(32, 72), num_channels=2, **options)
    mono = networks.build_encoder(name, input_shape=(32, 36), **options)
    # The same network once, and not once a channel.
    mono.set_weights(stereo.get_weights())
    windows = np.random.default_rng(0).normal(size=(2, 32, 72)).astype(np.float32)
    left, right = windows[:, :, :36], windows[:, :, 36:]
    features = keras.Model(mono.input, mono.get_layer("embedding").input)
    passes = [features(channel).numpy() for channel in (left, right)]
    assert np.abs(passes[0] - passes[1]).max() > 1e-3
    expected = mono.get_layer("embedding")(passes[0] + passes[1])
    np.testing.assert_allclose(stereo(windows), expected, atol=1e-5)
    swapped = np.concatenate([right, left], axis=-1)
    np.testing.assert_allclose(stereo(swapped), expected, atol=1e-5)
    assert stereo.name == name
    assert stereo.input_shape == (None, 32, 72)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        (
            (96, 64),
            {"num_bands": 3},
            r"must be a multiple of num_channels \* num_bands, got 64 columns for 1 \* 3",
        ),
        ((96, 66), {"num_bands": 3, "num_channels": 4}, r"got 66 columns for 4 \* 3; leave out"),
        ((96, 63), {"num_channels": 2}, r"got 63 columns for 2 \* 1"),
        ((96, 64), {"num_bands": 0}, "must be at least 1, got 0 and 1"),
        ((96, 64), {"num_channels": -1}, "must be at least 1, got 1 and -1"),
        (
            (64, 64, 3),
            {"num_bands": 3},
            r"images have no bands or .* got num_bands 3 and num_channels 1 with",
        ),
        ((64, 64, 3), {"num_channels": 2}, "images have no bands or .*; leave both at 1"),
    ],
)
def test_bands_and_channels_that_do_not_fit_are_refused(shape, options, message):
    with pytest.raises(ValueError, match=message):
        networks.build_encoder("esresnet_small", input_shape=shape, **options)
