"""Tests of tfsound.networks: shapes, parameter counts worked out by hand, precision, gradients, saving."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfsound import networks

WINDOWS = np.random.default_rng(0).normal(-2, 1, (3, 96, 64)).astype(np.float32)


def count(variables):
    return sum(int(np.prod(variable.shape)) for variable in variables)


@pytest.fixture(scope="module")
def resnet50():
    return networks.build_encoder("resnet50")


@pytest.fixture(scope="module")
def resnet_small():
    return networks.build_encoder("resnet_small")


@pytest.fixture(scope="module")
def vgg():
    return networks.build_encoder("vgg")


@pytest.fixture(scope="module")
def vgg_small():
    return networks.build_encoder("vgg_small")


@pytest.fixture(scope="module")
def esresnet():
    return networks.build_encoder("esresnet")


@pytest.fixture(scope="module")
def esresnet_small():
    return networks.build_encoder("esresnet_small")


@pytest.fixture(scope="module")
def densenet():
    return networks.build_encoder("densenet")


def all_layers(model):
    """With those of a trunk that each channel goes through."""
    for layer in model.layers:
        yield from all_layers(layer) if isinstance(layer, keras.Model) else [layer]


def require_unit_rows(embeddings, shape):
    assert embeddings.shape == shape
    assert embeddings.dtype == tf.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), np.ones(len(embeddings)), atol=1e-5)


@pytest.mark.parametrize("name", networks.ENCODERS)
def test_embeddings_are_unit_rows(name, request):
    encoder = request.getfixturevalue(name)
    assert encoder.name == name
    embeddings = encoder(WINDOWS, training=False).numpy()
    require_unit_rows(embeddings, (3, 128))
    assert np.abs(embeddings[0] - embeddings[1]).max() > 1e-4


@pytest.mark.parametrize(("shape", "dim"), [((96, 64), 3), ((8, 8), 16), ((50, 40), 1), ((1, 1), 2)])
def test_other_windows_and_dimensions(shape, dim):
    encoder = networks.build_encoder("resnet_small", input_shape=shape, embedding_dim=dim)
    require_unit_rows(encoder(np.ones((2, *shape), np.float32)).numpy(), (2, dim))


def bottleneck(channels_in, width, *, projected):
    """Weights of 1x1, 3x3, 1x1 convolutions, with two a channel of batch norm; and the shortcut's."""
    count = channels_in * width + 2 * width
    count += 9 * width * width + 2 * width
    count += width * 4 * width + 2 * 4 * width
    if projected:
        count += channels_in * 4 * width + 2 * 4 * width
    return count


def test_resnet50_has_the_parameters_of_the_paper(resnet50):
    expected = 7 * 7 * 1 * 64 + 2 * 64
    channels = 64
    for width, depth in ((64, 3), (128, 4), (256, 6), (512, 3)):
        expected += bottleneck(channels, width, projected=True)
        channels = 4 * width
        expected += (depth - 1) * bottleneck(channels, width, projected=False)
    assert channels == 2048
    expected += 2048 * 128 + 128
    assert count(resnet50.trainable_variables) == expected
    # The same from elsewhere: torchvision's resnet50 has 25,557,032 with 3 colours and 1,000 classes.
    assert expected == 25_557_032 - (7 * 7 * 2 * 64) - (2048 * 1000 + 1000) + (2048 * 128 + 128)
    # Moving mean and variance, as many as scales and offsets; a bias or kernel moves nothing.
    num_norm = 2 * (64 + sum(d * 6 * w for w, d in ((64, 3), (128, 4), (256, 6), (512, 3))))
    num_norm += 2 * 4 * (64 + 128 + 256 + 512)
    assert count(resnet50.non_trainable_variables) == num_norm


def test_resnet_small_has_the_parameters_worked_out_by_hand(resnet_small):
    expected = 7 * 7 * 16 + 2 * 16  # stem
    expected += 9 * 16 * 16 + 2 * 16 + 9 * 16 * 16 + 2 * 16  # its shape stays, so no projection
    for before, width in ((16, 32), (32, 64), (64, 128)):
        expected += (
            9 * before * width + 2 * width + 9 * width * width + 2 * width + before * width + 2 * width
        )
    expected += 128 * 128 + 128
    assert expected == 324_400
    assert count(resnet_small.trainable_variables) == expected


def test_resnet50_pools_2048_features_as_the_paper_says(resnet50):
    assert resnet50.get_layer("embedding").input.shape == (None, 2048)
    stem = resnet50.get_layer("stem_conv")
    assert (stem.kernel_size, stem.filters, stem.use_bias) == ((7, 7), 64, False)
    assert stem.output.shape == (None, 96, 64, 64)
    pools = [layer for layer in resnet50.layers if isinstance(layer, keras.layers.MaxPooling2D)]
    assert [(pool.pool_size, pool.strides) for pool in pools] == [((3, 3), (2, 2))]
    # Four stages, each but the first of half the size: 96 x 64 / 2 / 8.
    assert [layer.output.shape for layer in resnet50.layers if layer.name == "stage4_block3_3_norm"] == [
        (None, 6, 4, 2048)
    ]
    assert resnet50.get_layer("embedding").activation is keras.activations.linear


def test_batch_norm_is_synchronized_everywhere(request):
    # Attention adds one a branch. DenseNet-121 has one for each of its 120 convolutions, and one after all.
    expected = {"resnet50": 53, "resnet_small": 12, "esresnet": 58, "esresnet_small": 17, "densenet": 121}
    for name, number in expected.items():
        encoder = request.getfixturevalue(name)
        norms = [layer for layer in encoder.layers if isinstance(layer, keras.layers.BatchNormalization)]
        assert len(norms) == number
        assert all(norm.synchronized and norm.momentum == 0.9 for norm in norms)


def test_bfloat16_comes_near_float32():
    keras.utils.set_random_seed(3)
    exact = networks.build_encoder("resnet_small")
    half = networks.build_encoder("resnet_small", dtype_policy="mixed_bfloat16")
    half.set_weights(exact.get_weights())
    assert half.get_layer("stage1_block1_1_conv").compute_dtype == "bfloat16"
    assert {variable.dtype for variable in half.variables} == {"float32"}
    for training in (False, True):
        embeddings = half(WINDOWS, training=training).numpy()
        require_unit_rows(embeddings, (3, 128))
        cosines = np.sum(embeddings * exact(WINDOWS, training=training).numpy(), axis=1)
        # A coarser input has another embedding: 8 bits of mantissa over 10 layers.
        assert cosines.min() > 0.99
    assert cosines.max() < 1 - 1e-7, "no bfloat16 at work"


def test_the_policy_of_others_is_restored_even_after_an_error(monkeypatch):
    def fails(x):
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
        raise RuntimeError("no such luck")

    monkeypatch.setitem(networks.ENCODERS, "fails", fails)
    before = keras.config.dtype_policy()
    networks.build_encoder("resnet_small", input_shape=(8, 8), dtype_policy="mixed_bfloat16")
    assert keras.config.dtype_policy() is before
    with pytest.raises(RuntimeError, match="no such luck"):
        networks.build_encoder("fails", dtype_policy="mixed_bfloat16")
    assert keras.config.dtype_policy() is before
    with pytest.raises(ValueError, match="float17"):
        networks.build_encoder("resnet_small", dtype_policy="float17")
    assert keras.config.dtype_policy() is before


def test_an_unknown_encoder_is_named_with_the_known():
    with pytest.raises(
        ValueError, match=r"encoder must be one of \['densenet', .*'vgg', 'vgg_small'\], got 'resnet18'"
    ):
        networks.build_encoder("resnet18")


@pytest.mark.parametrize("name", networks.ENCODERS)
def test_a_gradient_reaches_every_variable(name, request):
    encoder = request.getfixturevalue(name)
    target = tf.math.l2_normalize(tf.constant(np.random.default_rng(1).normal(size=(3, 128)), tf.float32), 1)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(encoder(WINDOWS, training=True) * target)
    gradients = tape.gradient(loss, encoder.trainable_variables)
    for variable, gradient in zip(encoder.trainable_variables, gradients, strict=True):
        assert gradient is not None, variable.path
        assert np.isfinite(gradient).all(), variable.path
        assert np.abs(gradient).max() > 0, variable.path


def test_a_window_of_one_value_has_finite_embeddings_and_gradients(resnet_small):
    silence = np.full((2, 96, 64), np.log(0.01), np.float32)
    with tf.GradientTape() as tape:
        embeddings = resnet_small(silence, training=True)
        loss = tf.reduce_sum(embeddings**2 * np.arange(128))
    gradients = tape.gradient(loss, resnet_small.trainable_variables)
    assert np.isfinite(embeddings).all()
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet_small", {}),
        ("esresnet_small", {"input_shape": (47, 66), "num_bands": 3, "num_channels": 2}),
        ("densenet", {"input_shape": (33, 96), "num_bands": 3}),
    ],
)
def test_an_encoder_is_saved_loaded_and_exported_as_it_was(tmp_path, name, options):
    encoder = networks.build_encoder(name, embedding_dim=5, **options)
    rng = np.random.default_rng(0)
    for variable in encoder.non_trainable_variables:  # a batch norm that trains would be noticed
        low, high = (0.5, 2) if variable.name == "moving_variance" else (-0.2, 0.2)
        variable.assign(rng.uniform(low, high, variable.shape))
    windows = rng.normal(size=(3, *encoder.input_shape[1:])).astype(np.float32)
    embeddings = encoder(windows).numpy()
    assert np.abs(embeddings[0] - embeddings[1]).max() > 1e-4
    encoder.save(tmp_path / "encoder.keras")
    loaded = keras.saving.load_model(tmp_path / "encoder.keras")
    np.testing.assert_array_equal(loaded(windows), embeddings)
    assert all(
        layer.synchronized
        for layer in all_layers(loaded)
        if isinstance(layer, keras.layers.BatchNormalization)
    )
    encoder.export(tmp_path / "saved_model", verbose=False)
    saved_model = tf.saved_model.load(tmp_path / "saved_model")
    for rows in (3, 1):  # of any batch size
        np.testing.assert_allclose(saved_model.serve(windows[:rows]), embeddings[:rows], atol=1e-5)


# VGG, images, embeddings of any length.


def conv_norm(channels_in, channels_out, size=3):
    """A convolution without bias and batch norm: the kernel, scales and offsets."""
    return size * size * channels_in * channels_out + 2 * channels_out


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize(("name", "first_width"), [("vgg", 64), ("vgg_small", 8)])
def test_vgg_has_the_parameters_worked_out_by_hand(name, first_width, colours):
    shape = (96, 64) if colours == 1 else (128, 128, 3)
    encoder = networks.build_encoder(name, input_shape=shape)
    widths = [first_width << block for block in range(4)]
    expected, channels = widths[-1] * 128 + 128, colours
    for width in widths:
        expected += conv_norm(channels, width) + conv_norm(width, width)
        channels = width
    assert count(encoder.trainable_variables) == expected
    if colours == 1 and name == "vgg":
        # The same from elsewhere: Cramer et al. 2019 give L3's audio network as 4.7 million.
        assert round((expected - 512 * 128 - 128) / 1e6, 1) == 4.7


def test_vgg_is_that_of_look_listen_and_learn(vgg):
    convolutions = [layer for layer in vgg.layers if isinstance(layer, keras.layers.Conv2D)]
    assert [layer.filters for layer in convolutions] == [64, 64, 128, 128, 256, 256, 512, 512]
    assert {(layer.kernel_size, layer.strides) for layer in convolutions} == {((3, 3), (1, 1))}
    pools = [layer for layer in vgg.layers if isinstance(layer, keras.layers.MaxPooling2D)]
    assert [(pool.pool_size, pool.strides) for pool in pools] == [((2, 2), (2, 2))] * 3
    (last,) = [layer for layer in vgg.layers if isinstance(layer, keras.layers.GlobalMaxPooling2D)]
    assert last.input.shape == (None, 12, 8, 512)
    assert vgg.get_layer("embedding").input.shape == (None, 512)


@pytest.mark.parametrize(("name", "stem_kernel"), [("resnet50", (7, 64)), ("resnet_small", (7, 16))])
def test_the_image_network_is_the_same_architecture(name, stem_kernel, request):
    audio, images = request.getfixturevalue(name), networks.build_encoder(name, input_shape=(128, 128, 3))
    size, filters = stem_kernel
    # Two more colours in the first convolution, and nothing else.
    assert count(images.trainable_variables) == count(audio.trainable_variables) + 2 * size**2 * filters
    assert images.name == f"{name}_image"
    assert images.input_shape == (None, 128, 128, 3)
    assert [type(layer) for layer in images.layers] == [
        type(layer) for layer in audio.layers if not isinstance(layer, keras.layers.Reshape)
    ]


@pytest.mark.parametrize("name", networks.ENCODERS)
def test_images_have_embeddings(name):
    encoder = networks.build_encoder(name, input_shape=(128, 128, 3))
    images = np.random.default_rng(0).uniform(size=(2, 128, 128, 3)).astype(np.float32)
    embeddings = encoder(images, training=False).numpy()
    require_unit_rows(embeddings, (2, 128))
    assert np.abs(embeddings[0] - embeddings[1]).max() > 1e-4


def test_unit_norm_is_the_length_of_the_same_embeddings():
    keras.utils.set_random_seed(0)
    unit = networks.build_encoder("resnet_small", embedding_dim=5)
    plain = networks.build_encoder("resnet_small", embedding_dim=5, unit_norm=False)
    plain.set_weights(unit.get_weights())
    embeddings = plain(WINDOWS).numpy()
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    assert np.abs(lengths - 1).min() > 1e-3
    np.testing.assert_allclose(unit(WINDOWS), embeddings / lengths, atol=1e-6)


@pytest.mark.parametrize("shape", [(96,), (1, 96, 64, 1), ()])
def test_a_shape_of_neither_windows_nor_images_is_refused(shape):
    with pytest.raises(ValueError, match=r"input_shape must be \(frames, columns\) of windows or"):
        networks.build_encoder("resnet_small", input_shape=shape)


# DenseNet.


def densenet_layer(channels):
    """Batch norm, 1x1 convolution to 4 x 32, batch norm, 3x3 convolution to 32 more channels."""
    return 2 * channels + channels * 128 + 2 * 128 + 9 * 128 * 32


def test_densenet_has_the_parameters_worked_out_by_hand(densenet):
    expected, channels = conv_norm(1, 64, size=7), 64
    for block, depth in enumerate((6, 12, 24, 16), start=1):
        for _ in range(depth):
            expected += densenet_layer(channels)
            channels += 32
        if block < 4:  # to half the channels
            expected += 2 * channels + channels * (channels // 2)
            channels //= 2
    expected += 2 * channels
    # The same from elsewhere: torchvision's densenet121 has 7,978,856 with 3 colours and 1,000 classes.
    assert expected == 7_978_856 - 7 * 7 * 2 * 64 - (1024 * 1000 + 1000)
    assert count(densenet.trainable_variables) == expected + 1024 * 128 + 128
    assert densenet.get_layer("embedding").input.shape == (None, 1024)


@pytest.mark.parametrize(("shape", "num_bands"), [((31, 64), 1), ((64, 31), 1), ((64, 93), 3)])
def test_what_densenet_cannot_halve_is_refused(shape, num_bands):
    with pytest.raises(ValueError, match=r"densenet needs images of at least 32 x 32, got \d+ x \d+; use"):
        networks.build_encoder("densenet", input_shape=shape, num_bands=num_bands)
