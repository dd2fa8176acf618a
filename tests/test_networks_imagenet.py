"""Tests of tfsound.networks.imagenet: the mapping, exact; both layouts of files; files that are none."""

import shutil

import h5py
import keras
import numpy as np
import pytest
from keras.src.applications import densenet, resnet
from keras.src.legacy.saving import legacy_h5_format

from tfsound import networks
from tfsound.networks import imagenet

WEIGHTS_URL = "https://storage.googleapis.com/tensorflow/keras-applications/"
IMAGE = (61, 70, 3)  # frequency and time: odd and even sizes on the way down


def with_random_weights(model):
    """A model with no bias, mean or scale as at the start."""
    rng = np.random.default_rng(0)
    ranges = {"bias": (-0.5, 0.5), "beta": (-0.2, 0.2), "moving_mean": (-0.2, 0.2)}
    for variable in model.variables:
        if variable.name != "kernel":
            variable.assign(rng.uniform(*ranges.get(variable.name, (0.5, 1.5)), variable.shape))
    return model


@pytest.fixture(scope="module")
def resnet50():
    keras.utils.set_random_seed(0)
    return with_random_weights(
        keras.applications.ResNet50(weights=None, include_top=False, input_shape=IMAGE, pooling="avg")
    )


@pytest.fixture(scope="module")
def densenet121():
    keras.utils.set_random_seed(0)
    return with_random_weights(
        keras.applications.DenseNet121(weights=None, include_top=False, input_shape=IMAGE, pooling="avg")
    )


def write_named(path, model, rename=lambda name: name):
    """The layout of old, by Keras's own writer; `rename` is what an older version called a layer."""
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)
        for name in [layer.name for layer in model.layers if rename(layer.name) != layer.name]:
            file.move(name, rename(name))
        file.attrs["layer_names"] = [rename(layer.name).encode() for layer in model.layers]
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory, resnet50, densenet121):
    """Weight files of both networks, in both layouts and with names as they were."""
    folder = tmp_path_factory.mktemp("weights")
    resnet50.save_weights(folder / "resnet50.weights.h5")
    densenet121.save_weights(folder / "densenet121.weights.h5")
    return {
        "resnet50": write_named(folder / "resnet50.h5", resnet50),
        "resnet50 numbered": str(folder / "resnet50.weights.h5"),
        "densenet121": write_named(folder / "densenet121.h5", densenet121),
        # keras.applications of old had "conv1/conv" and "conv1/bn".
        "densenet121 renamed": write_named(
            folder / "old.h5", densenet121, lambda name: name.replace("conv1_", "conv1/")
        ),
        "densenet121 numbered": str(folder / "densenet121.weights.h5"),
    }


def build(name, **options):
    keras.utils.set_random_seed(1)
    return networks.build_encoder(
        name, input_shape=(IMAGE[1], 3 * IMAGE[0]), num_bands=3, embedding_dim=4, **options
    )


@pytest.fixture(scope="module")
def esresnet():
    return build("esresnet")


def copies(model):
    return [weight.copy() for weight in model.get_weights()]


def require_equal(weights, others):
    for weight, other in zip(weights, others, strict=True):
        np.testing.assert_array_equal(weight, other)


def features(encoder):
    return keras.Model(encoder.input, encoder.get_layer("embedding").input)


def images_and_windows():
    """The same as images, frequency first, and as windows whose frames have the bands one after the other."""
    images = np.random.default_rng(0).normal(size=(2, *IMAGE)).astype(np.float32)
    return images, images.transpose(0, 2, 3, 1).reshape(2, IMAGE[1], -1)


def without_attention(encoder):
    """The strides, too, are where keras.applications has them."""
    for branch in ("stage1", "stage2", "stage3", "stage4", "pool"):
        norm = encoder.get_layer(f"{branch}_attention_norm")
        norm.gamma.assign(np.zeros(norm.gamma.shape))
        norm.beta.assign(np.full(norm.beta.shape, 1000.0))
    for stage in (2, 3, 4):
        encoder.get_layer(f"stage{stage}_block1_1_conv").strides = (2, 2)
        encoder.get_layer(f"stage{stage}_block1_2_conv").strides = (1, 1)
    return encoder


# What is loaded.


@pytest.mark.parametrize("layout", ["resnet50", "resnet50 numbered"])
def test_but_for_attention_and_strides_esresnet_is_the_resnet_of_the_file(resnet50, files, layout):
    images, windows = images_and_windows()
    encoder = build("esresnet")
    networks.load_imagenet_weights(encoder, files[layout])
    expected = resnet50(images).numpy()
    assert expected.std() > 0.1
    assert np.abs(features(encoder)(windows).numpy() - expected).max() > 0.1 * expected.std()
    found = features(without_attention(encoder))(windows).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4 * expected.max())


@pytest.mark.parametrize("layout", ["densenet121", "densenet121 renamed", "densenet121 numbered"])
def test_densenet_is_that_of_the_file(densenet121, files, layout):
    images, windows = images_and_windows()
    encoder = build("densenet")
    report = networks.load_imagenet_weights(encoder, files[layout])
    expected = densenet121(images).numpy()
    assert expected.std() > 0.1
    np.testing.assert_allclose(features(encoder)(windows), expected, atol=1e-4 * expected.max())
    assert len(report.loaded) == 120 + 121
    assert report.loaded["conv2_block1_0_bn"] == "conv2_block1_0_bn"
    assert not report.folded_biases
    assert list(report.not_loaded) == ["embedding"]
    assert report.num_weights_loaded == densenet121.count_params()
    assert "the biases" not in str(report)


def test_the_stem_and_stage_1_are_those_of_the_file_as_they_stand(resnet50, files, esresnet):
    """Before any stride in a block: the first convolution, its batch norm, the pool, a stage."""
    networks.load_imagenet_weights(esresnet, files["resnet50"])
    images, windows = images_and_windows()
    for ours, theirs in (("stem_pool", "pool1_pool"), ("stage1_block3_3_norm", "conv2_block3_3_bn")):
        found = keras.Model(esresnet.input, esresnet.get_layer(ours).output)(windows)
        expected = keras.Model(resnet50.input, resnet50.get_layer(theirs).output)(images)
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_bias_folds_into_the_moving_mean(resnet50, files, esresnet):
    networks.load_imagenet_weights(esresnet, files["resnet50"])
    x = np.random.default_rng(0).normal(size=(1, 9, 9, 128)).astype(np.float32)
    conv, norm = (resnet50.get_layer(f"conv3_block2_2_{kind}") for kind in ("conv", "bn"))
    ours = [esresnet.get_layer(f"stage2_block2_2_{kind}") for kind in ("conv", "norm")]
    assert np.abs(conv.bias).min() > 0
    assert not ours[0].use_bias
    np.testing.assert_allclose(ours[1](ours[0](x)), norm(conv(x)), atol=1e-5)
    np.testing.assert_array_equal(ours[0].kernel, conv.kernel)
    np.testing.assert_array_equal(ours[1].moving_mean, norm.moving_mean - conv.bias)
    for name in ("gamma", "beta", "moving_variance"):
        np.testing.assert_array_equal(getattr(ours[1], name), getattr(norm, name))


def test_attention_and_embedding_keep_their_weights_and_the_report_says_so(files, resnet50):
    encoder = build("esresnet")
    fresh = {layer.name: layer.get_weights() for layer in encoder.layers}
    report = networks.load_imagenet_weights(encoder, files["resnet50"])
    branches = [f"{branch}_attention" for branch in ("stage1", "stage2", "stage3", "stage4", "pool")]
    kept = {f"{branch}_{part}" for branch in branches for part in ("depthwise", "conv", "norm")}
    assert set(report.not_loaded) == kept | {"embedding"}
    for name in report.not_loaded:
        require_equal(encoder.get_layer(name).get_weights(), fresh[name])
    # 53 convolutions and 53 batch norms, each of the file's layers once.
    assert len(report.loaded) == len(set(report.loaded.values())) == 106
    assert set(report.loaded.values()) == {layer.name for layer in resnet50.layers if layer.weights}
    assert len(report.folded_biases) == 53
    for ours, theirs in (
        ("stem_conv", "conv1_conv"),
        ("stem_norm", "conv1_bn"),
        ("stage1_block1_shortcut_conv", "conv2_block1_0_conv"),
        ("stage4_block3_3_norm", "conv5_block3_3_bn"),
    ):
        assert report.loaded[ours] == theirs
        assert f"\n  {ours} <- {theirs}\n" in str(report)
    # The file's numbers but for its biases, one a batch norm's channel.
    biases = sum(layer.bias.shape[0] for layer in resnet50.layers if getattr(layer, "use_bias", False))
    assert report.num_weights_loaded == resnet50.count_params() - biases
    assert report.num_weights_loaded + report.num_weights_not_loaded == encoder.count_params()
    lines = str(report).splitlines()
    assert lines[0] == (
        f"esresnet: {report.num_weights_loaded:,} weights of 106 layers from {files['resnet50']} "
        "(keras.applications.ResNet50(include_top=False))"
    )
    assert lines[107].startswith("not in the file, as they were: ")
    assert lines[107].endswith(" weights of 16 layers")
    assert "  pool_attention_depthwise" in lines[108:]
    assert lines[-1].startswith("the biases of 53 convolutions went into")


def test_a_trunk_for_each_channel_and_images_are_loaded_too(files):
    keras.utils.set_random_seed(1)
    stereo = networks.build_encoder("densenet", input_shape=(40, 6 * 33), num_bands=3, num_channels=2)
    images = networks.build_encoder("densenet", input_shape=(64, 64, 3))
    reports = [networks.load_imagenet_weights(encoder, files["densenet121"]) for encoder in (stereo, images)]
    assert reports[0].loaded == reports[1].loaded
    assert len(reports[0].loaded) == 241
    require_equal(stereo.get_layer("trunk").get_weights(), images.get_weights()[:-2])
    assert (reports[0].encoder, reports[1].encoder) == ("densenet", "densenet_image")


# What is refused, before anything is changed.


def require_refused(encoder, path, message, error=ValueError):
    before = copies(encoder)
    with pytest.raises(error, match=message):
        networks.load_imagenet_weights(encoder, str(path))
    require_equal(encoder.get_weights(), before)


def write_shapes(path, layers, *, value=1.0):
    """A file of old with these layers, their weights all one value, which takes no room on the disk."""
    with h5py.File(path, "w") as file:
        # As of old: h5py of today writes a list as strings of any length.
        file.attrs["layer_names"] = np.array([name.encode() for name in layers])
        for name, shapes in layers.items():
            group = file.create_group(name)
            weight_names = [f"{name}/{number}:0".encode() for number in range(len(shapes))]
            group.attrs["weight_names"] = np.array(weight_names, "S")
            for number, shape in enumerate(shapes):
                group.create_dataset(f"{name}/{number}:0", shape, "f4", fillvalue=value)
    return path


@pytest.fixture(scope="module")
def shapes(resnet50):
    return {
        layer.name: [tuple(weight.shape) for weight in layer.weights]
        for layer in resnet50.layers
        if not isinstance(layer, keras.layers.GlobalAveragePooling2D)
    }


def test_the_addresses_are_those_of_keras_applications():
    urls = {name: imagenet._BASE_URL + origin.url for name, origin in imagenet._ORIGINS.items()}
    name = "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
    assert urls == {
        "densenet": densenet.DENSENET121_WEIGHT_PATH_NO_TOP,
        "esresnet": resnet.BASE_WEIGHTS_PATH + name,
    }


def test_a_file_of_ones_is_taken(tmp_path, shapes, esresnet):
    """What the files below would be but for their faults."""
    networks.load_imagenet_weights(esresnet, write_shapes(tmp_path / "ones.h5", shapes))
    assert np.unique(esresnet.get_layer("stage4_block1_shortcut_conv").kernel) == [1.0]


@pytest.mark.parametrize("layout", ["densenet121", "densenet121 numbered"])
def test_a_file_of_the_other_network_is_refused(files, esresnet, layout):
    require_refused(
        esresnet, files[layout],
        r"densenet121.*h5 must hold the weights of keras.applications.ResNet50\(include_top=False\), but it "
        r"has 241 layers with weights, such as .*, where 106 were expected; the official file is "
        rf"{WEIGHTS_URL}resnet/resnet50_weights",
    )  # fmt: skip


def test_a_file_of_a_deeper_or_another_resnet_is_refused(tmp_path, shapes, esresnet):
    deeper = shapes | {"conv4_block7_1_conv": [(1, 1, 1024, 256), (256,)]}
    message = "has 107 layers with weights, such as conv4_block7_1_conv, where 106 were expected"
    require_refused(esresnet, write_shapes(tmp_path / "deeper.h5", deeper), message)
    with_top = shapes | {"predictions": [(2048, 1000), (1000,)]}
    require_refused(esresnet, write_shapes(tmp_path / "top.h5", with_top), "such as predictions, where 106")
    fewer = {name: shape for name, shape in shapes.items() if name != "conv1_bn"}
    require_refused(
        esresnet, write_shapes(tmp_path / "fewer.h5", fewer), "has 105 layers with weights, where 106"
    )
    wider = shapes | {"conv5_block2_2_conv": [(3, 3, 512, 1024), (1024,)]}
    message = (
        r"of conv5_block2_2_conv has weights of shapes \[\(3, 3, 512, 1024\), .* where \[\(3, 3, 512, 512"
    )
    require_refused(esresnet, write_shapes(tmp_path / "wider.h5", wider), message)
    unbiased = shapes | {"conv1_conv": [(7, 7, 3, 64)]}
    message = r"conv1_conv has weights of shapes \[\(7, 7, 3, 64\)\], where \[\(7, 7, 3, 64\), \(64,\)\]"
    require_refused(esresnet, write_shapes(tmp_path / "unbiased.h5", unbiased), message)


def test_the_resnet50_of_2016_is_refused(tmp_path, shapes, esresnet):
    """It has as many layers of the same shapes by other names, shortcuts after the last convolutions."""
    names = list(shapes)
    names.sort(key=lambda name: (name.split("_")[:-2], "_0_" in name))
    old = {f"res_{number}": shapes[name] for number, name in enumerate(names)}
    require_refused(esresnet, write_shapes(tmp_path / "old.h5", old), "its layer in the place of conv")


def test_a_missing_file_is_named_with_where_it_comes_from(tmp_path, esresnet):
    url = WEIGHTS_URL + "resnet/resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
    for path in (tmp_path / "none.h5", tmp_path):
        message = f"there is no weight file {path}; the official file is {url}"
        require_refused(esresnet, path, message, FileNotFoundError)


@pytest.mark.parametrize(("value", "changed"), [(np.nan, "nan"), (np.inf, "infinite"), (-1.0, "negative")])
def test_weights_that_cannot_be_are_refused(tmp_path, shapes, esresnet, value, changed):
    path = write_shapes(tmp_path / f"{changed}.h5", shapes)
    with h5py.File(path, "r+") as file:
        file["conv3_block2_1_bn/conv3_block2_1_bn/3:0"][7] = value
    require_refused(esresnet, path, "is damaged: layer conv3_block2_1_bn has weights that are not finite, or")


def test_what_is_no_file_of_weights_is_refused(tmp_path, files, esresnet):
    message = "cannot be read as an HDF5 file of weights .* damaged, cut off or no such file; the official"
    for name, content in {
        "empty": b"",
        "text": b"no weights at all",
        "signature": b"\x89HDF\r\n\x1a\n",
    }.items():
        (tmp_path / name).write_bytes(content)
        require_refused(esresnet, tmp_path / name, message)
    for name, edit in {
        "nothing.h5": lambda file: None,
        "other.h5": lambda file: file.create_dataset("layers", (3,)),
        "group.h5": lambda file: file.create_dataset("layers/conv2d", (3,)),
        "gone.h5": lambda file: file.attrs.update({"layer_names": [b"conv1_conv"]}),
        "numbers.h5": lambda file: file.attrs.update({"layer_names": 3}),
        "words.h5": lambda file: (
            file.attrs.update({"layer_names": [b"a"]}),
            file.create_group("a").attrs.update({"weight_names": [b"w"]}),
            file["a"].create_dataset("w", data=np.array([b"word"])),
        ),
    }.items():
        with h5py.File(tmp_path / name, "w") as file:
            edit(file)
        require_refused(esresnet, tmp_path / name, message)
    cut = tmp_path / "cut.h5"
    shutil.copy(files["resnet50"], cut)
    with open(cut, "r+b") as file:
        file.truncate(50_000_000)
    require_refused(esresnet, cut, message)


def test_a_group_whose_name_is_no_text_is_refused(tmp_path, esresnet):
    with h5py.File(tmp_path / "bytes.h5", "w") as file:
        file.create_group("layers").create_group(b"\xff\xfe").create_dataset("vars/0", (3,), "f4")
    require_refused(esresnet, tmp_path / "bytes.h5", "has 1 layers with weights, such as .*, where 106")


@pytest.mark.parametrize("is_numbered", [False, True])
def test_a_file_cut_off_or_damaged_anywhere_is_refused(tmp_path, is_numbered):
    """A small file, of two layers: it is read and found to be too small, or cannot be read."""
    whole = tmp_path / "whole.h5"
    if is_numbered:
        with h5py.File(whole, "w") as file:
            for name in ("conv2d/vars/0", "batch_normalization/vars/0", "batch_normalization/vars/1"):
                file.create_dataset(f"layers/{name}", (3,), "f4")
    else:
        write_shapes(whole, {"conv1_conv": [(3,)], "bn": [(2,), (2,)]})
    content, damaged = whole.read_bytes(), tmp_path / "damaged.h5"
    rng = np.random.default_rng(0)
    origin = imagenet._ORIGINS["densenet"]
    for length in rng.integers(0, len(content), 30):
        damaged.write_bytes(content[:length])
        with pytest.raises(ValueError, match="cannot be read as an HDF5 file of weights"):
            imagenet._read(str(damaged), origin)
    for _ in range(300):
        changed = bytearray(content)
        for place in rng.integers(0, len(content), 4):
            changed[place] ^= int(rng.integers(1, 256))
        damaged.write_bytes(changed)
        with pytest.raises(ValueError, match=r"cannot be read as an HDF5|must hold the weights of"):
            imagenet._read(str(damaged), origin)


def test_an_encoder_that_cannot_start_from_imagenet_is_refused(files):
    other = networks.build_encoder("resnet_small", input_shape=(8, 24), num_bands=3)
    message = "only densenet and esresnet can start from ImageNet, got an encoder named 'resnet_small'"
    require_refused(other, files["resnet50"], message)
    for options in ({}, {"num_bands": 2}):
        encoder = networks.build_encoder("densenet", input_shape=(40, 64), **options)
        bands = options.get("num_bands", 1)
        message = f"for images of 3 channels, got an encoder of {bands}; build it with num_bands=3"
        require_refused(encoder, files["densenet121"], message)
