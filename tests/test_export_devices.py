"""Tests of tfsound.export.devices: files, run in a process without TensorFlow, against the live model."""

import dataclasses
import hashlib
import json
import os
import pickle
import subprocess
import sys

import keras
import numpy as np
import pytest
import soundfile
import tensorflow as tf
from classifier_sets import NAMES, clips, whole_run
from small_exports import sound

from tfsound import datasets, mel, training
from tfsound.export import accuracy, devices, fixed_length, litert, saved_model

__all__ = ["clips", "whole_run"]  # fixtures

PARAMS = mel.MelParams(mel_bins=16, context_frames=16)
STEREO = dataclasses.replace(PARAMS, num_channels=2)
CONFIG = {"encoder": "small", "seed": 3}
DIM = 8
TOLERANCE = 1e-5
# Clips in the manifest that can be read, of all lengths and levels, and one that cannot.
NUM_CLIPS = 12
LENGTHS = (100, 8000, 16000, 24000)

# Runs pickled waveforms through a file; pickles what came of each.
FRESH_PROCESS = """
import pickle, sys

class Neither:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tfsound", "tensorflow", "keras"):
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Neither())
path, requests, answers = sys.argv[1:]
if path.endswith(".tflite"):
    from ai_edge_litert.interpreter import Interpreter
    interpreter = Interpreter(path)
    interpreter.allocate_tensors()
    signature = interpreter.get_signature_runner("serving_default")
    run = lambda waveform: signature(waveform=waveform)
else:
    import onnxruntime
    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    run = lambda waveform: dict(zip(names, session.run(names, {"waveform": waveform})))
with open(requests, "rb") as file:
    waveforms = pickle.load(file)
with open(answers, "wb") as file:
    pickle.dump([run(waveform) for waveform in waveforms], file)
"""


def network(params, *, dtype_policy=None):
    """Convolutions with their norms, a residual, a pooling: what the big ones are made of."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs = keras.Input(params.window_shape)
    x = layers.Reshape((*params.window_shape, 1))(inputs)
    x = layers.Conv2D(32, 3, padding="same", use_bias=False, dtype=dtype_policy)(x)
    x = layers.ReLU(dtype=dtype_policy)(layers.BatchNormalization(dtype=dtype_policy)(x))
    x = layers.MaxPooling2D(2, dtype=dtype_policy)(x)
    y = layers.Conv2D(32, 3, padding="same", dtype=dtype_policy)(x)
    x = layers.ReLU(dtype=dtype_policy)(layers.Add(dtype=dtype_policy)([x, y]))
    x = layers.Conv2D(64, 3, strides=2, dtype=dtype_policy)(x)
    x = layers.GlobalAveragePooling2D(dtype=dtype_policy)(x)
    x = layers.Dense(DIM, dtype="float32", name="embedding")(x)
    encoder = keras.Model(inputs, layers.UnitNormalization(dtype="float32")(x), name="small")
    rng = np.random.default_rng(0)
    for variable in encoder.non_trainable_variables:
        low, high = (0.5, 2) if variable.name == "moving_variance" else (-0.2, 0.2)
        variable.assign(rng.uniform(low, high, variable.shape))
    return encoder


def write_run(folder, params, encoder):
    """What training leaves of an encoder."""
    os.makedirs(folder)
    training.save_encoder(encoder, params, str(folder), CONFIG)
    return str(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "run", PARAMS, network(PARAMS))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    rows = []
    for number in range(NUM_CLIPS):
        # The loudest come last.
        samples = 0.6 ** (NUM_CLIPS - 1 - number) * sound(LENGTHS[number % len(LENGTHS)], seed=number)
        path = str(folder / f"{number}.wav")
        soundfile.write(path, samples, PARAMS.sample_rate, subtype="FLOAT")
        rows.append(datasets.ManifestRow(f"clip-{number}", f"recording-{number}", path))
    (folder / "text.wav").write_text("no sound")
    rows.insert(5, datasets.ManifestRow("text", "text", str(folder / "text.wav")))
    datasets.write_manifest(str(folder / "clips.csv"), rows)
    return str(folder / "clips.csv")


def answers_of(path, waveforms, folder):
    (folder / "in").write_bytes(pickle.dumps(waveforms))
    command = [sys.executable, "-I", "-c", FRESH_PROCESS, path, folder / "in", folder / "out"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    return pickle.loads((folder / "out").read_bytes())


def live_answers(run, waveform):
    """As the model of the run gives them here, by the front end of training."""
    if os.path.exists(os.path.join(run, training.CLASSIFIER_NAME)):
        model, params, _ = training.load_classifier(run)
    else:
        model, params = training.load_encoder(run)
    of_windows = fixed_length.outputs_of_windows(model, mel.log_mel_windows(waveform[0], params))
    of_windows = {name: value.numpy() for name, value in of_windows.items()}
    names = {"embedding": "window_embeddings", "scores": "window_scores"}
    return {name: value.mean(axis=0)[None] for name, value in of_windows.items()} | {
        names[name]: value[None] for name, value in of_windows.items()
    }


def require_as_live(run, path, waveforms, folder, *, atol=TOLERANCE):
    found = answers_of(path, waveforms, folder)
    for answer, waveform in zip(found, waveforms, strict=True):
        live = live_answers(run, waveform)
        assert answer.keys() == live.keys()
        for name, value in live.items():
            assert (answer[name].dtype, answer[name].shape) == (np.float32, value.shape)
            np.testing.assert_allclose(answer[name], value, rtol=0, atol=atol)
    return found


def description_of(path):
    with open(path + ".json") as file:
        return json.load(file)


EXPORTS = {".tflite": devices.export_litert, ".onnx": devices.export_onnx}


@pytest.mark.parametrize("ending", EXPORTS)
def test_files_answer_as_the_live_model(run, tmp_path, ending):
    path = str(tmp_path / "models" / f"small{ending}")
    result = EXPORTS[ending](run, path, clip_seconds=1.0)
    waveforms = [0.5**number * sound(16000, 1, seed=number) for number in range(3)]
    waveforms.append(np.zeros((1, 16000), np.float32))
    found = require_as_live(run, path, waveforms, tmp_path)
    assert found[0]["window_embeddings"].shape == (1, 6, DIM)
    # Else the comparisons above could not fail.
    assert np.abs(found[0]["embedding"] - found[1]["embedding"]).max() > 100 * TOLERANCE
    assert result.accuracy.largest_difference < TOLERANCE
    shown = f"exported {path}: {result.format}, float32, clips of 1.000 s, {result.num_bytes / 1e6:.2f} MB\n"
    assert str(result).startswith(shown)
    assert "on 4 clips of noise: largest difference " in str(result)


@pytest.mark.parametrize("ending", EXPORTS)
def test_the_description_beside_a_file(run, manifest, tmp_path, ending):
    path = str(tmp_path / f"small{ending}")
    result = EXPORTS[ending](run, path, manifest=manifest, num_clips=5)
    description = description_of(path)
    with open(path, "rb") as file:
        content = file.read()
    assert description["sha256"] == hashlib.sha256(content).hexdigest()
    assert description["num_bytes"] == result.num_bytes == len(content)
    assert description["inputs"] == {"waveform": [1, PARAMS.context_samples]}
    assert description["outputs"] == {"embedding": [1, DIM], "window_embeddings": [1, 1, DIM]}
    assert description["clip_seconds"] == result.clip_seconds == PARAMS.context_samples / 16000
    assert mel.MelParams.from_dict(description["mel_params"]) == PARAMS
    assert description["provenance"]["training"] == CONFIG
    assert description["provenance"]["tensorflow"] == tf.__version__
    assert description["accuracy"] == dataclasses.asdict(result.accuracy)
    assert (result.accuracy.num_clips, result.accuracy.source) == (5, manifest)
    assert sorted(os.listdir(tmp_path)) == sorted([f"small{ending}", f"small{ending}.json"])


def test_litert_needs_built_in_operations_only(run, tmp_path):
    path = str(tmp_path / "small.tflite")
    devices.export_litert(run, path)
    with open(path, "rb") as file:
        operations = litert.builtin_operations(file.read())
    assert {"CONV_2D", "RFFT2D", "LOG"} <= set(operations)
    assert description_of(path)["operations"] == operations


@pytest.mark.parametrize(
    ("quantization", "share", "least"), [("float16", 0.65, 0.99999), ("int8", 0.45, 0.99)]
)
def test_quantized_files_are_smaller_and_near(run, manifest, tmp_path, quantization, share, least):
    path = str(tmp_path / "small.tflite")
    result = devices.export_litert(
        run, path, clip_seconds=0.5, quantization=quantization, manifest=manifest, num_clips=20
    )
    assert result.num_bytes < share * result.float32_bytes
    assert f", {quantization}, clips of 0.500 s, 0." in str(result)
    assert "(float32: 0.1" in str(result)
    assert result.accuracy.least_cosine >= least
    waveforms = [0.3**number * sound(8000, 1, seed=number) for number in range(4)]
    found = require_as_live(run, path, waveforms, tmp_path, atol=0.05)
    cosines = [
        np.sum(answer["window_embeddings"] * live_answers(run, waveform)["window_embeddings"], axis=-1)
        for answer, waveform in zip(found, waveforms, strict=True)
    ]
    assert np.min(cosines) >= least
    # Every other clip that can be read calibrates, the others measure.
    numbers = (NUM_CLIPS // 2, NUM_CLIPS // 2) if quantization == "int8" else (0, NUM_CLIPS)
    assert (description_of(path)["num_calibration_clips"], result.accuracy.num_clips) == numbers


def test_the_same_run_gives_the_same_file(run, manifest, tmp_path):
    paths = [str(tmp_path / name) for name in ("a.tflite", "b.tflite")]
    for path in paths:
        devices.export_litert(run, path, quantization="int8", manifest=manifest, num_clips=3)
    assert description_of(paths[0]) == description_of(paths[1])


@pytest.mark.parametrize("ending", EXPORTS)
def test_stereo(tmp_path, ending):
    run = write_run(tmp_path / "run", STEREO, network(STEREO))
    path = str(tmp_path / f"small{ending}")
    EXPORTS[ending](run, path, clip_seconds=0.5)
    waveforms = [sound(8000, 1, 2, seed=number) for number in range(2)]
    waveforms.append(waveforms[0][:, ::-1])
    found = require_as_live(run, path, waveforms, tmp_path)
    assert np.abs(found[0]["embedding"] - found[2]["embedding"]).max() > 100 * TOLERANCE


@pytest.mark.parametrize("ending", EXPORTS)
def test_a_run_on_labels_gives_scores(whole_run, tmp_path, ending):
    run, _ = whole_run
    path = str(tmp_path / f"classes{ending}")
    EXPORTS[ending](run, path, clip_seconds=0.5)
    require_as_live(run, path, [sound(8000, 1, seed=number) for number in range(3)], tmp_path)
    description = description_of(path)
    assert description["class_names"] == list(NAMES)
    assert description["outputs"]["scores"] == [1, len(NAMES)]
    assert description["outputs"]["window_scores"] == [1, 6, len(NAMES)]


def test_a_run_in_bfloat16_computes_in_float32(tmp_path):
    run = write_run(tmp_path / "run", PARAMS, network(PARAMS, dtype_policy="mixed_bfloat16"))
    path = str(tmp_path / "small.tflite")
    devices.export_litert(run, path)
    waveform = sound(PARAMS.context_samples, 1)
    (found,) = answers_of(path, [waveform], tmp_path)
    encoder = network(PARAMS)  # the same weights
    live = encoder(mel.log_mel_windows(waveform[0], PARAMS))
    np.testing.assert_allclose(found["window_embeddings"][0], live, rtol=0, atol=TOLERANCE)
    in_bfloat16 = live_answers(run, waveform)["window_embeddings"][0]
    assert np.abs(in_bfloat16 - live).max() > 10 * TOLERANCE


FRONT_ENDS = {
    "audioset": mel.preset("audioset"),
    "stereo": mel.preset("yamnet", num_channels=2),
    "esresnet": mel.preset("esresnet", context_seconds=0.2, num_channels=2),
    "hop beyond the window": dataclasses.replace(PARAMS, window_seconds=0.01, hop_seconds=0.02),
    "hop that divides": dataclasses.replace(PARAMS, window_seconds=0.02),
}


@pytest.mark.parametrize("name", FRONT_ENDS)
@pytest.mark.parametrize("num_more", [0, 1, 159, 40_000])
def test_the_front_end_is_that_of_training(name, num_more):
    params = FRONT_ENDS[name]
    windows = keras.Sequential([keras.Input(params.window_shape), keras.layers.Flatten()])
    num_samples = params.context_samples + num_more
    graph = fixed_length.fixed_length_graph(windows, params, num_samples)
    channels = () if params.num_channels == 1 else (2,)
    waveform = sound(num_samples, 1, *channels)
    live = mel.log_mel_windows(waveform[0], params).numpy()
    found = graph(waveform)["window_embeddings"][0].numpy().reshape(live.shape)
    np.testing.assert_allclose(found, live, rtol=0, atol=1e-3 if params.log == "decibel" else 1e-5)


class UnlikeItsGraph(keras.layers.Layer):
    """Adds something to what it is given, but only inside a graph."""

    def __init__(self, amount):
        super().__init__()
        self.amount = amount

    def call(self, inputs):
        return inputs if tf.executing_eagerly() else inputs + self.amount


@pytest.mark.parametrize("ending", EXPORTS)
@pytest.mark.parametrize("amount", [0.01, np.nan])
def test_a_file_that_differs_is_not_published(tmp_path, monkeypatch, ending, amount):
    encoder = keras.Sequential([*network(PARAMS).layers[:1], keras.layers.Flatten(), UnlikeItsGraph(amount)])
    monkeypatch.setattr(training, "load_encoder", lambda run: (encoder, PARAMS))
    run = write_run(tmp_path / "run", PARAMS, network(PARAMS))
    with pytest.raises(
        saved_model.ExportError, match=r"differs from the live one on 4 .*Nothing was published"
    ):
        EXPORTS[ending](run, str(tmp_path / f"x{ending}"))
    assert os.listdir(tmp_path) == ["run"]


def test_a_quantization_that_loses_too_much_is_not_published(run, tmp_path, monkeypatch):
    """Calibrated with silence alone, which has no range that any sound fits in."""
    paths = [tmp_path / f"{number}.wav" for number in range(4)]
    for number, path in enumerate(paths):
        soundfile.write(path, sound(16000) * (number % 2), PARAMS.sample_rate)
    manifest = str(tmp_path / "clips.csv")
    datasets.write_manifest(
        manifest, [datasets.ManifestRow(path.stem, path.stem, str(path)) for path in paths]
    )
    message = r"lost too much on 2 clips of .*expected a mean cosine of 0\.9.*take clips like those to come"
    with pytest.raises(saved_model.ExportError, match=message):
        devices.export_litert(run, str(tmp_path / "x.tflite"), quantization="int8", manifest=manifest)
    assert not list(tmp_path.glob("*tflite*"))


def test_replacing_a_file(run, tmp_path):
    path = str(tmp_path / "small.tflite")
    devices.export_litert(run, path)
    with pytest.raises(ValueError, match=r"small\.tflite exists; name another output, or pass --overwrite"):
        devices.export_litert(run, path, clip_seconds=0.5)
    assert description_of(path)["inputs"]["waveform"] == [1, PARAMS.context_samples]
    devices.export_litert(run, path, clip_seconds=0.5, overwrite=True)
    assert description_of(path)["inputs"]["waveform"] == [1, 8000]


@pytest.mark.parametrize("num_done", [0, 1])
def test_an_interruption_leaves_no_file_that_looks_whole(run, tmp_path, monkeypatch, num_done):
    path = str(tmp_path / "small.tflite")
    devices.export_litert(run, path)
    calls, replace = [], os.replace

    def interrupt(source, target):
        if len(calls) == num_done:
            raise KeyboardInterrupt
        calls.append(target)
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(devices.os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            devices.export_litert(run, path, clip_seconds=0.5, overwrite=True)
    assert os.listdir(tmp_path) == ["small.tflite.json"]
    devices.export_litert(run, path, clip_seconds=0.5)
    assert sorted(os.listdir(tmp_path)) == ["small.tflite", "small.tflite.json"]


@pytest.mark.parametrize("ending", EXPORTS)
def test_bad_options_are_refused_before_any_work(run, tmp_path, ending):
    export, path = EXPORTS[ending], str(tmp_path / f"x{ending}")
    for seconds in (0.1, -1.0, 301.0, float("nan"), float("inf")):
        with pytest.raises(
            ValueError, match=r"clip_seconds must be at least a context window, 0\.175 s, and at"
        ):
            export(run, path, clip_seconds=seconds)
    with pytest.raises(ValueError, match=rf"output must be a file that ends in {ending}, got .*model"):
        export(run, str(tmp_path / "model"))
    (tmp_path / f"folder{ending}").mkdir()
    with pytest.raises(ValueError, match="output must be a file"):
        export(run, str(tmp_path / f"folder{ending}"))
    with pytest.raises(ValueError, match="num_clips must be at least 1, got 0"):
        export(run, path, num_clips=0)
    with pytest.raises(FileNotFoundError):
        export(run, path, manifest=str(tmp_path / "missing.csv"))
    assert os.listdir(tmp_path) == [f"folder{ending}"]


def test_bad_quantization_is_refused(run, tmp_path):
    path = str(tmp_path / "x.tflite")
    with pytest.raises(ValueError, match="quantization must be one of none, float16, int8, got 'int4'"):
        devices.export_litert(run, path, quantization="int4")
    with pytest.raises(ValueError, match="int8 is calibrated with clips, got no manifest; name one"):
        devices.export_litert(run, path, quantization="int8")


@pytest.mark.parametrize("ending", EXPORTS)
def test_runs_that_are_not_finished_are_refused(tmp_path, ending):
    path = str(tmp_path / f"x{ending}")
    with pytest.raises(training.TrainingError, match="does not exist"):
        EXPORTS[ending](str(tmp_path / "missing"), path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps({"steps_per_checkpoint": 100}))
    with pytest.raises(training.TrainingError, match="was not finished; train it to its end"):
        EXPORTS[ending](str(tmp_path / "run"), path)


@pytest.mark.parametrize(
    ("ending", "package", "extra"),
    [
        (".tflite", "ai_edge_litert", "lite"),
        (".tflite", "litert_quantizer", "lite"),
        (".onnx", "tf2onnx", "onnx"),
        (".onnx", "onnxruntime", "onnx"),
    ],
)
def test_absent_packages_are_named(run, tmp_path, monkeypatch, ending, package, extra):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        RuntimeError, match=rf'{package}.* is not installed: .*pip install "tfsound\[{extra}\]"'
    ):
        EXPORTS[ending](run, str(tmp_path / f"x{ending}"))


def test_clips_that_cannot_be_read(run, tmp_path):
    path, manifest = str(tmp_path / "x.tflite"), str(tmp_path / "clips.csv")
    (tmp_path / "text.wav").write_text("no sound")
    soundfile.write(tmp_path / "nan.wav", np.full(16000, np.nan), PARAMS.sample_rate, subtype="FLOAT")
    soundfile.write(tmp_path / "good.wav", sound(16000), PARAMS.sample_rate)
    rows = [
        datasets.ManifestRow(name, name, str(tmp_path / f"{name}.wav")) for name in ("text", "nan", "good")
    ]
    datasets.write_manifest(manifest, rows)
    with pytest.raises(saved_model.ExportError, match=r"one clip of .* can be read, expected two"):
        devices.export_litert(run, path, quantization="int8", manifest=manifest)
    assert devices.export_litert(run, path, manifest=manifest).accuracy.num_clips == 1
    datasets.write_manifest(manifest, rows[:2])
    with pytest.raises(
        accuracy.ClipsError, match=r"none of 2 clips of .* can be read; the first: .*text\.wav"
    ):
        devices.export_litert(run, path, manifest=manifest, overwrite=True)


def test_one_function_for_all_formats(run, manifest, tmp_path):
    result = devices.export_format(run, str(tmp_path / "model"))
    assert result.path == str(tmp_path / "model" / "1")
    result = devices.export_format(
        run, str(tmp_path / "x.tflite"), format="litert", quantization="float16", manifest=manifest
    )
    assert (result.format, result.quantization, result.accuracy.num_clips) == ("litert", "float16", NUM_CLIPS)
    result = devices.export_format(run, str(tmp_path / "x.onnx"), format="onnx", clip_seconds=0.5)
    assert (result.format, result.clip_seconds) == ("onnx", 0.5)
    for options, message in (
        ({"format": "coreml"}, "format must be one of saved_model, litert, onnx, got 'coreml'"),
        ({"clip_seconds": 1.0}, "are of the formats litert and onnx, got saved_model"),
        (
            {"format": "onnx", "quantization": "int8"},
            "quantization is of the format litert, got 'int8' with onnx",
        ),
        (
            {"format": "onnx", "license": "mit"},
            "modality, evaluation and license are of the format saved_model",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            devices.export_format(run, str(tmp_path / "y.onnx"), **options)
