"""Tests of tfsound.networks.esresnet: shapes and counts by hand, the adaptive pool, what attention does."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfsound import networks
from tfsound.networks.esresnet import adaptive_max_pool

# (frequency, time), as Guzhov et al. 2020 have them.
KERNELS = ((3, 1), (1, 5), (3, 1), (1, 5))
BRANCHES = ("stage1", "stage2", "stage3", "stage4", "pool")


def count(variables):
    return sum(int(np.prod(variable.shape)) for variable in variables)


@pytest.fixture(scope="module")
def esresnet():
    """For five seconds at 44.1 kHz, as the preset of that name has them."""
    return networks.build_encoder("esresnet", input_shape=(391, 1023), num_bands=3)


@pytest.fixture
def small():
    keras.utils.set_random_seed(0)
    return networks.build_encoder("esresnet_small", input_shape=(39, 99), num_bands=3, embedding_dim=4)


WINDOWS = np.random.default_rng(0).normal(size=(2, 39, 99)).astype(np.float32)


def output_shape(encoder, name):
    return encoder.get_layer(name).output.shape[1:]


# Shapes and counts.


def test_the_layers_have_the_shapes_of_the_paper(esresnet):
    # 341 bins a band and 391 frames; each halved, rounded up, by the stem, by its pool, by stages 2 to 4.
    assert output_shape(esresnet, "frequency_first") == (341, 391, 3)
    assert output_shape(esresnet, "stem_conv") == (171, 196, 64)
    assert output_shape(esresnet, "stem_pool") == (86, 98, 64)
    shapes = [(86, 98, 256), (43, 49, 512), (22, 25, 1024), (11, 13, 2048)]
    for number, (shape, depth) in enumerate(zip(shapes, (3, 4, 6, 3), strict=True), start=1):
        assert output_shape(esresnet, f"stage{number}_block{depth}_3_norm") == shape
        assert output_shape(esresnet, f"stage{number}_attention_product") == shape
    assert output_shape(esresnet, "pool_attention_product") == (1, 1, 2048)
    assert esresnet.get_layer("embedding").input.shape == (None, 2048)


def test_the_strides_are_in_the_3x3_convolutions_and_no_convolution_has_a_bias(esresnet):
    kinds = keras.layers.Conv2D | keras.layers.DepthwiseConv2D
    convolutions = [layer for layer in esresnet.layers if isinstance(layer, kinds)]
    assert len(convolutions) == 53 + 2 * 5
    assert not any(layer.use_bias for layer in convolutions)
    strided = {layer.name for layer in convolutions if layer.strides != (1, 1)}
    first_blocks = [f"stage{number}_block1" for number in (2, 3, 4)]
    assert strided == {"stem_conv", *(f"{b}_{n}_conv" for b in first_blocks for n in ("2", "shortcut"))}
    sizes = {layer.name: layer.kernel_size for layer in convolutions}
    assert sizes["stem_conv"] == (7, 7)
    assert all(sizes[f"{block}_2_conv"] == (3, 3) for block in first_blocks)
    # ImageNet's batch norms have this epsilon; Keras's own is a hundred times as large.
    norms = [layer for layer in esresnet.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert {norm.epsilon for norm in norms} == {1.001e-5}


def test_the_attention_branches_are_those_of_the_paper(esresnet):
    channels_in, channels_out = (64, 256, 512, 1024, 2048), (256, 512, 1024, 2048, 2048)
    inputs = ("stem_pool", "stage1_attention_product", "stage2_attention_product")
    for name, kernel, before, after in zip(
        BRANCHES, (*KERNELS, (3, 5)), channels_in, channels_out, strict=True
    ):
        depthwise = esresnet.get_layer(f"{name}_attention_depthwise")
        pointwise = esresnet.get_layer(f"{name}_attention_conv")
        assert depthwise.kernel.shape == (*kernel, before, 1)
        assert pointwise.kernel.shape == (1, 1, before, after)
        # At the size of the output already, which no kernel changes.
        size = esresnet.get_layer(f"{name}_attention_product").output.shape
        assert depthwise.input.shape[1:3] == depthwise.output.shape[1:3] == pointwise.output.shape[1:3]
        assert pointwise.output.shape == size
        assert esresnet.get_layer(f"{name}_attention_weights").activation is keras.activations.sigmoid
    # Stage 1 halves nothing, so that its branch sees its input itself; the others see theirs pooled.
    assert esresnet.get_layer("stage1_attention_depthwise").input is esresnet.get_layer(inputs[0]).output
    for stage, source in (("stage2", inputs[1]), ("stage3", inputs[2])):
        assert esresnet.get_layer(f"{stage}_attention_pool").input is esresnet.get_layer(source).output


def attention(kernel, before, after):
    """The weights of a depthwise and of a 1x1 convolution, scales and offsets of a batch norm."""
    return kernel[0] * kernel[1] * before + before * after + 2 * after


def test_esresnet_has_the_parameters_worked_out_by_hand(esresnet):
    expected, num_norm_channels, channels = 7 * 7 * 3 * 64 + 2 * 64, 64, 64
    for width, depth, kernel in zip((64, 128, 256, 512), (3, 4, 6, 3), KERNELS, strict=True):
        expected += attention(kernel, channels, 4 * width)
        expected += channels * 4 * width + 2 * 4 * width  # the shortcut
        num_norm_channels += 4 * width + 4 * width
        for _ in range(depth):
            expected += channels * width + 2 * width
            expected += 3 * 3 * width * width + 2 * width
            expected += width * 4 * width + 2 * 4 * width
            num_norm_channels += 6 * width
            channels = 4 * width
    expected += attention((3, 5), 2048, 2048) + 2048 * 128 + 128
    num_norm_channels += 2048
    # The same from elsewhere: torchvision's resnet50 has 25,557,032 with its 1,000 classes.
    without_attention = 25_557_032 - (2048 * 1000 + 1000) + (2048 * 128 + 128)
    branches = zip((*KERNELS, (3, 5)), (64, 256, 512, 1024, 2048), (256, 512, 1024, 2048, 2048), strict=True)
    assert expected == without_attention + sum(attention(*branch) for branch in branches)
    assert count(esresnet.trainable_variables) == expected
    assert count(esresnet.non_trainable_variables) == 2 * num_norm_channels


def test_esresnet_small_has_the_parameters_worked_out_by_hand(small):
    expected, channels = 7 * 7 * 3 * 16 + 2 * 16, 16
    for width, kernel in zip((16, 32, 64, 128), KERNELS, strict=True):
        expected += attention(kernel, channels, width)
        expected += 9 * channels * width + 2 * width + 9 * width * width + 2 * width
        if channels != width:
            expected += channels * width + 2 * width
        channels = width
    expected += attention((3, 5), 128, 128) + 128 * 4 + 4
    assert count(small.trainable_variables) == expected


def test_any_size_of_window_has_embeddings():
    for shape in ((1, 1), (2, 3), (9, 8), (17, 33)):
        encoder = networks.build_encoder("esresnet_small", input_shape=shape, embedding_dim=3)
        embeddings = encoder(np.ones((2, *shape), np.float32)).numpy()
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), np.ones(2), atol=1e-5)


# The adaptive pool.


def pooled_by_hand(x, output_size):
    """What torch documents of adaptive pools, place by place."""
    rows, columns = (
        [(i * size // out, -(-(i + 1) * size // out)) for i in range(out)]
        for size, out in zip(x.shape[1:3], output_size, strict=True)
    )
    return np.array([[x[:, a:b, c:d].max(axis=(1, 2)) for c, d in columns] for a, b in rows]).transpose(
        2, 0, 1, 3
    )


@pytest.mark.parametrize("height", range(1, 14))
def test_the_adaptive_pool_is_that_of_an_oracle(height):
    rng = np.random.default_rng(height)
    for width in range(1, 14):
        # Below 0, where a pad of zeros would win.
        x = rng.uniform(-2, -1, (2, height, width, 3)).astype(np.float32)
        halves = (height + 1) // 2, (width + 1) // 2
        for size in ((height, width), halves, (1, 1), (halves[0], width), (1, halves[1])):
            found = adaptive_max_pool(x, size, name="pool")
            np.testing.assert_array_equal(found, pooled_by_hand(x, size), err_msg=f"{width}, {size}")


# Attention.


def set_weights_of_branch(encoder, name, *, logit):
    """Whatever the branch sees, its weights are sigmoid(logit)."""
    norm = encoder.get_layer(f"{name}_attention_norm")
    norm.gamma.assign(np.zeros(norm.gamma.shape))
    norm.beta.assign(np.full(norm.beta.shape, logit))


@pytest.mark.parametrize("name", BRANCHES)
def test_attention_multiplies(small, name):
    output, weights = small.get_layer(f"{name}_attention_product").input
    product = small.get_layer(f"{name}_attention_product").output
    model = keras.Model(small.input, [output, weights, product])
    before, given, after = (tensor.numpy() for tensor in model(WINDOWS))
    assert before.max() > 0.1
    assert 0 < given.min() < given.max() < 1
    np.testing.assert_allclose(after, before * given, rtol=1e-6)
    set_weights_of_branch(small, name, logit=-1000.0)
    assert np.abs(model(WINDOWS)[2]).max() == 0
    set_weights_of_branch(small, name, logit=1000.0)
    np.testing.assert_array_equal(model(WINDOWS)[2], before)


@pytest.mark.parametrize(
    ("name", "source"), [("stage2", "stage1_attention_product"), ("stage1", "stem_pool")]
)
def test_an_attention_branch_by_hand(small, name, source):
    """Pool, depthwise convolution, 1x1 convolution, batch norm, sigmoid."""
    rng = np.random.default_rng(1)
    norm = small.get_layer(f"{name}_attention_norm")
    scale, offset, mean, variance = (rng.uniform(0.5, 2, norm.gamma.shape) for _ in range(4))
    norm.set_weights([scale, offset, mean, variance])
    weights = small.get_layer(f"{name}_attention_weights").output
    x, found = keras.Model(small.input, [small.get_layer(source).output, weights])(WINDOWS)
    x = pooled_by_hand(x.numpy(), weights.shape[1:3])
    depthwise = small.get_layer(f"{name}_attention_depthwise").kernel.numpy()
    height, width = depthwise.shape[:2]
    padded = np.pad(x, [(0, 0), (height // 2,) * 2, (width // 2,) * 2, (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
    x = np.einsum("bhwcij,ijc->bhwc", windows, depthwise[..., 0])
    x = x @ small.get_layer(f"{name}_attention_conv").kernel.numpy()[0, 0]
    x = scale * (x - mean) / np.sqrt(variance + 1.001e-5) + offset
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-x)), rtol=1e-4, atol=1e-6)


def test_frequency_is_the_height_that_a_kernel_of_3x1_sees(small):
    """A change reaches the attention of stage 1 at other bins and at no other time."""
    depthwise = small.get_layer("stage1_attention_depthwise")
    model = keras.Model(depthwise.input, depthwise.output)
    x = np.zeros(depthwise.input.shape[1:], np.float32)[None]
    x[0, 4, 5] = 1
    touched = np.argwhere(np.abs(model(x)[0]).max(axis=-1) > 0)
    np.testing.assert_array_equal(touched, [[3, 5], [4, 5], [5, 5]])


def test_of_the_kernel_beside_the_pool_only_the_middle_is_learned(small):
    """It sees a single place, as in the published network."""
    kernel = small.get_layer("pool_attention_depthwise").kernel
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(small(WINDOWS, training=True) * [1.0, 2.0, 3.0, 4.0])
    gradient = np.abs(tape.gradient(loss, kernel.value)).max(axis=(2, 3))
    assert np.argwhere(gradient > 0).tolist() == [[1, 2]]
