"""Starts from ImageNet: weight files of keras.applications, mapped onto the encoders.

The files are HDF5, in the layout of `model.save_weights` of old (that of the official files) or in that of
`.weights.h5`. Nothing is downloaded here.
"""

import collections
import dataclasses
import functools
import os
import re
from collections.abc import Callable, Mapping, Sequence

import h5py
import keras
import numpy as np

_BASE_URL = "https://storage.googleapis.com/tensorflow/keras-applications/"


@dataclasses.dataclass(frozen=True)
class _Origin:
    """A network of keras.applications, and where its ImageNet weights come from."""

    build: Callable[..., keras.Model]
    url: str

    @property
    def name(self) -> str:
        return f"keras.applications.{self.build.__name__}(include_top=False)"

    @property
    def remedy(self) -> str:
        return f"the official file is {_BASE_URL}{self.url}"


_ORIGINS = {
    "densenet": _Origin(
        keras.applications.DenseNet121, "densenet/densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5"
    ),
    "esresnet": _Origin(
        keras.applications.ResNet50, "resnet/resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
    ),
}


@dataclasses.dataclass(frozen=True)
class WeightReport:
    """What an encoder took from a weight file; `str` shows it layer by layer.

    Attributes:
      encoder: its name.
      path: the weight file.
      origin: the network whose weights it holds.
      loaded: the encoder's layers that took weights, with the file's layer each.
      folded_biases: the file's convolutions whose bias is in the moving mean of the batch norm after it now.
      not_loaded: the encoder's layers that keep the weights they had.
      num_weights_loaded: numbers in the layers loaded.
      num_weights_not_loaded: and in the others.
    """

    encoder: str
    path: str
    origin: str
    loaded: Mapping[str, str]
    folded_biases: Sequence[str]
    not_loaded: Sequence[str]
    num_weights_loaded: int
    num_weights_not_loaded: int

    def __str__(self) -> str:
        lines = [
            f"{self.encoder}: {self.num_weights_loaded:,} weights of {len(self.loaded)} layers from "
            f"{self.path} ({self.origin})",
            *(f"  {layer} <- {source}" for layer, source in self.loaded.items()),
            f"not in the file, as they were: {self.num_weights_not_loaded:,} weights of "
            f"{len(self.not_loaded)} layers",
            *(f"  {layer}" for layer in self.not_loaded),
        ]
        if self.folded_biases:
            lines.append(
                f"the biases of {len(self.folded_biases)} convolutions went into the moving means of their "
                "batch norms"
            )
        return "\n".join(lines)


def load_imagenet_weights(encoder: keras.Model, path: str) -> WeightReport:
    """Gives an `esresnet` or `densenet` the weights of a file of keras.applications' ResNet50 or DenseNet121.

    Attention branches and the output layer keep their fresh weights. The ResNet50 of keras.applications has a
    bias in each convolution, which goes into the moving mean of the batch norm that follows, exactly:
    `norm(conv(x) + bias; mean) = norm(conv(x); mean - bias)`. And it has its strides in the first 1x1
    convolution of a stage, as He et al. 2016, where `esresnet` has them in the 3x3 convolution after it: the
    kernels are the same, but in the first blocks of stages 2 to 4 they see places that lie closer together.

    Args:
      encoder: of `build_encoder`, with num_bands = 3 or of images; changed in place.
      path: a weight file without the classifier ("notop"), the official one or of `save_weights`.

    Returns:
      What was loaded and what was not.

    Raises:
      FileNotFoundError: no such file.
      ValueError: another encoder, or one whose image has not 3 channels; a file of another network, or a
        damaged one. Then nothing is changed.
    """
    origin = _ORIGINS.get(encoder.name.removesuffix("_image"))
    if origin is None:
        raise ValueError(
            f"only {' and '.join(_ORIGINS)} can start from ImageNet, got an encoder named {encoder.name!r}; "
            "build one of those with num_bands=3."
        )
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no weight file {path}; {origin.remedy}.")
    targets = {layer.name: layer for layer in _layers(encoder) if layer.weights}
    (stem,) = (layer for name, layer in targets.items() if _source_name(name, origin) == "conv1_conv")
    if stem.kernel.shape[2] != 3:
        raise ValueError(
            f"ImageNet's weights are for images of 3 channels, got an encoder of {stem.kernel.shape[2]}; "
            "build it with num_bands=3."
        )
    values = _read(path, origin)
    sources = {name: _source_name(name, origin) for name in targets}
    loaded = {name: source for name, source in sources.items() if source in values}
    folded = _fold_biases(values)
    for name, source in loaded.items():
        targets[name].set_weights(values[source])
    not_loaded = [name for name in targets if name not in loaded]
    return WeightReport(
        encoder=encoder.name,
        path=str(path),
        origin=origin.name,
        loaded=loaded,
        folded_biases=folded,
        not_loaded=not_loaded,
        num_weights_loaded=sum(targets[name].count_params() for name in loaded),
        num_weights_not_loaded=sum(targets[name].count_params() for name in not_loaded),
    )


def _layers(model: keras.Model) -> list[keras.layers.Layer]:
    """All layers, those of a trunk for each channel, too."""
    parts = (_layers(layer) if isinstance(layer, keras.Model) else [layer] for layer in model.layers)
    return [layer for part in parts for layer in part]


def _source_name(name: str, origin: _Origin) -> str:
    """What keras.applications calls a layer: stage2_block1_shortcut_norm is conv3_block1_0_bn."""
    if origin is not _ORIGINS["esresnet"]:
        return name
    name = name.replace("_norm", "_bn").replace("stem_", "conv1_").replace("_shortcut_", "_0_")
    return re.sub(r"^stage(\d)_block", lambda found: f"conv{int(found[1]) + 1}_block", name)


@functools.cache
def _expected_shapes(origin: _Origin) -> dict[str, list[tuple[int, ...]]]:
    """The shapes of the weights of a network's layers, by name, in order: convolutions and batch norms."""
    network = origin.build(include_top=False, weights=None, input_shape=(None, None, 3))
    return {layer.name: [tuple(w.shape) for w in layer.weights] for layer in network.layers if layer.weights}


def _read(path: str, origin: _Origin) -> dict[str, list[np.ndarray]]:
    """The weights of a file by the names of the network's layers, of the same shapes, finite."""
    expected = _expected_shapes(origin)
    try:
        with h5py.File(path, "r") as file:
            found = _read_named(file) if "layer_names" in file.attrs else _read_numbered(file, list(expected))
    except (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read as an HDF5 file of weights ({error}); it is damaged, cut off or no such "
            f"file; {origin.remedy}."
        ) from error
    if len(found) == len(expected) and set(found) != set(expected):
        # By order, as Keras itself does, for files may have the names of an older version.
        found = dict(zip(expected, found.values(), strict=True))
    difference = _difference(found, expected)
    if difference:
        raise ValueError(f"{path} must hold the weights of {origin.name}, but {difference}; {origin.remedy}.")
    for name, arrays in found.items():
        is_norm = not name.endswith("conv")
        if not all(np.isfinite(array).all() for array in arrays) or (is_norm and arrays[3].min() < 0):
            raise ValueError(
                f"{path} is damaged: layer {name} has weights that are not finite, or a negative variance; "
                f"{origin.remedy}."
            )
    return found


def _read_named(file: h5py.File) -> dict[str, list[np.ndarray]]:
    """The layout of old, and of the official files: a group a layer, by its name, in order."""
    found = {}
    for name in _names(file, "layer_names"):
        group = file[name]
        arrays = [np.array(group[weight], np.float32) for weight in _names(group, "weight_names")]
        if arrays:
            found[name] = arrays
    return found


def _names(group: h5py.Group, attribute: str) -> list[str]:
    return [name.decode() if isinstance(name, bytes) else name for name in group.attrs[attribute]]


def _read_numbered(file: h5py.File, names: Sequence[str]) -> dict[str, list[np.ndarray]]:
    """The layout of `.weights.h5`: a group a layer, by its class and the number of those before it."""
    named, counts = {}, collections.Counter()
    for name in names:
        kind = "conv2d" if name.endswith("conv") else "batch_normalization"
        named[f"{kind}_{counts[kind]}" if counts[kind] else kind] = name
        counts[kind] += 1
    found = {}
    for number, group in file["layers"].items():
        variables = group["vars"]
        if len(variables):
            found[named.get(number, str(number))] = [
                np.array(variables[str(place)], np.float32) for place in range(len(variables))
            ]
    return found


def _difference(found: dict[str, list[np.ndarray]], expected: dict[str, list[tuple[int, ...]]]) -> str:
    """What is not as expected, in words; nothing where all is."""
    if len(found) != len(expected):
        others = [name for name in found if name not in expected][:3]
        named = f", such as {', '.join(others)}" if others else ""
        return f"it has {len(found)} layers with weights{named}, where {len(expected)} were expected"
    for name, shapes in expected.items():
        here = [array.shape for array in found[name]]
        if here != shapes:
            return (
                f"its layer in the place of {name} has weights of shapes {here}, where {shapes} were expected"
            )
    return ""


def _fold_biases(values: dict[str, list[np.ndarray]]) -> list[str]:
    """Takes the biases of convolutions out of the moving means of the batch norms after them, in place."""
    biased = [name for name, arrays in values.items() if name.endswith("_conv") and len(arrays) == 2]
    for name in biased:
        bias = values[name].pop()
        moving_mean = 2  # after gamma and beta
        values[name.removesuffix("conv") + "bn"][moving_mean] -= bias
    return biased
