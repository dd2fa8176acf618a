"""Tests of tfsound.networks: shapes, parameter counts worked out by hand, precision, gradients."""

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


def test_batch_norm_is_synchronized_everywhere(resnet50, resnet_small):
    for encoder, expected in ((resnet50, 53), (resnet_small, 12)):
        norms = [layer for layer in encoder.layers if isinstance(layer, keras.layers.BatchNormalization)]
        assert len(norms) == expected
        assert all(norm.synchronized for norm in norms)


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
        ValueError, match=r"encoder must be one of \['resnet50', .*'vgg', 'vgg_small'\], got 'resnet18'"
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


def test_an_encoder_is_saved_and_loaded_as_it_was(tmp_path, resnet_small):
    resnet_small.save(tmp_path / "encoder.keras")
    loaded = keras.saving.load_model(tmp_path / "encoder.keras")
    np.testing.assert_array_equal(loaded(WINDOWS), resnet_small(WINDOWS))
    assert loaded.get_layer("stem_norm").synchronized


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
    with pytest.raises(ValueError, match=r"input_shape must be \(frames, mel_bins\) of windows or"):
        networks.build_encoder("resnet_small", input_shape=shape)


# The head.


def make_head(left_dim=3, right_dim=2, **options):
    keras.utils.set_random_seed(0)
    head = networks.CoincidenceHead(**options)
    rng = np.random.default_rng(0)
    left, right = (rng.normal(size=(4, dim)).astype(np.float32) for dim in (left_dim, right_dim))
    head(left, right)
    return head, left, right


def test_the_head_is_two_dense_layers_on_the_concatenation():
    head, left, right = make_head()
    dense = keras.Sequential([keras.layers.Dense(512, activation="relu"), keras.layers.Dense(1)])
    dense.build((None, 5))
    dense.set_weights(head.get_weights())
    expected = dense(np.concatenate([left, right], axis=1))[:, 0]
    np.testing.assert_allclose(head(left, right), expected, atol=1e-6)
    # (2 d + 1) 512 + 513 of the paper's d = 128.
    assert count(make_head(128, 128)[0].variables) == 257 * 512 + 513


def test_the_hidden_layer_is_a_sum_of_two_projections():
    head, left, right = make_head(hidden_units=7)
    hidden = np.concatenate([left, right], axis=1) @ head.hidden_kernel.numpy() + head.hidden_bias.numpy()
    np.testing.assert_allclose(head.project_left(left) + head.project_right(right), hidden, atol=1e-6)


def test_the_head_computes_in_its_policy_and_adds_up_in_float32():
    head, left, right = make_head(dtype="mixed_bfloat16")
    assert head.project_left(left).dtype == head.project_right(right).dtype == tf.bfloat16
    assert head(left, right).dtype == tf.float32
    exact, _, _ = make_head()
    exact.set_weights(head.get_weights())
    np.testing.assert_allclose(head(left, right), exact(left, right), atol=0.05)


def test_a_head_is_saved_and_loaded(tmp_path):
    head, left, right = make_head(hidden_units=7)
    inputs = [keras.Input((3,)), keras.Input((2,))]
    model = keras.Model(inputs, head(*inputs))
    model.save(tmp_path / "head.keras")
    loaded = keras.saving.load_model(tmp_path / "head.keras")
    np.testing.assert_array_equal(loaded([left, right]), model([left, right]))
    with pytest.raises(ValueError, match="hidden_units must be at least 1, got 0"):
        networks.CoincidenceHead(0)


# The clusters.


def make_cluster_head(num_clusters=7, dim=4, **options):
    keras.utils.set_random_seed(0)
    head = networks.ClusterHead(num_clusters, **options)
    embeddings = np.random.default_rng(0).normal(size=(50, dim)).astype(np.float32)
    return head, embeddings, head(embeddings).numpy()


def test_cluster_logits_are_scaled_cosines():
    head, embeddings, logits = make_cluster_head()
    kernel = head.kernel.numpy()
    cosines = embeddings @ kernel.T
    cosines /= np.linalg.norm(embeddings, axis=1)[:, None] * np.linalg.norm(kernel, axis=1)
    np.testing.assert_allclose(logits, 60 * cosines, atol=1e-4)
    np.testing.assert_allclose(make_cluster_head(logit_scale=3.0)[2], 3 * cosines, atol=1e-5)
    assert count(head.variables) == 7 * 4
    np.testing.assert_array_equal(head(np.zeros((1, 4))), np.zeros((1, 7)))


def test_initial_directions_are_random_and_of_about_length_1(monkeypatch):
    monkeypatch.setattr(networks, "_BLOCK_CLUSTERS", 300)  # 1,000 clusters in four blocks
    head, _, _ = make_cluster_head(1000, 128)
    kernel = head.kernel.numpy()
    np.testing.assert_allclose(np.linalg.norm(kernel, axis=1), np.ones(1000), atol=0.35)
    cosines = kernel @ kernel.T - np.diag(np.sum(kernel**2, axis=1))
    assert np.abs(cosines).max() < 0.65, "two blocks are the same"
    assert abs(kernel.mean()) < 1e-3
    np.testing.assert_array_equal(make_cluster_head(1000, 128)[0].kernel, kernel)


@pytest.mark.parametrize(("block_clusters", "block_embeddings"), [(1, 1), (3, 7), (7, 50), (100, 100)])
def test_the_assigned_cluster_is_that_of_the_highest_logit(monkeypatch, block_clusters, block_embeddings):
    monkeypatch.setattr(networks, "_BLOCK_CLUSTERS", block_clusters)
    monkeypatch.setattr(networks, "_BLOCK_EMBEDDINGS", block_embeddings)
    head, embeddings, logits = make_cluster_head()
    for given in (embeddings, tf.constant(embeddings), 1e-3 * embeddings):
        assigned = head.assign(given)
        assert (assigned.dtype, assigned.shape) == (np.int32, (50,))
        np.testing.assert_array_equal(assigned, logits.argmax(axis=1))


def test_equally_probable_clusters_and_nothing_to_assign(monkeypatch):
    monkeypatch.setattr(networks, "_BLOCK_CLUSTERS", 2)
    head, embeddings, _ = make_cluster_head(6)
    kernel = head.kernel.numpy()
    head.kernel.assign(np.concatenate([kernel[:3], 4 * kernel[:3]]))  # the same directions twice
    assert head.assign(embeddings).max() <= 2
    np.testing.assert_array_equal(head.assign(np.zeros((2, 4), np.float32)), [0, 0])
    assert head.assign(np.zeros((0, 4), np.float32)).shape == (0,)


def test_what_cannot_be_assigned_is_refused():
    head, embeddings, _ = make_cluster_head()
    with pytest.raises(ValueError, match=r"embeddings must be \(embeddings, 4\), got shape \(50, 3\)"):
        head.assign(embeddings[:, :3])
    with pytest.raises(ValueError, match=r"embeddings must be \(embeddings, 4\), got shape \(4,\)"):
        head.assign(embeddings[0])
    embeddings[3, 2] = np.nan
    with pytest.raises(ValueError, match="embeddings must be finite, got NaN or infinity"):
        head.assign(embeddings)


def test_a_cluster_head_is_saved_and_loaded(tmp_path):
    head, embeddings, logits = make_cluster_head(logit_scale=7.0)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, head(inputs))
    model.save(tmp_path / "head.keras")
    loaded = keras.saving.load_model(tmp_path / "head.keras")
    np.testing.assert_array_equal(loaded(embeddings), logits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_clusters": 1}, "num_clusters must be at least 2, got 1"),
        ({"num_clusters": 2, "logit_scale": 0.0}, r"logit_scale must be positive and finite, got 0\.0"),
        (
            {"num_clusters": 2, "logit_scale": float("inf")},
            "logit_scale must be positive and finite, got inf",
        ),
    ],
)
def test_a_cluster_head_out_of_range_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        networks.ClusterHead(**options)
