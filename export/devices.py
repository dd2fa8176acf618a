"""Models for devices: a trained encoder or classifier as one file, LiteRT or ONNX, with what was lost.

The file takes `waveform`, float32 (1, samples), in [-1, 1], at the model's rate; of a model of stereo
(1, 2, samples). The length is fixed; shorter sounds are filled up with zeros. It gives what
`serving_default` of the SavedModel gives: `embedding` (1, d), `window_embeddings` (1, windows, d), and of a
classifier `scores` (1, classes) and `window_scores` (1, windows, classes).

FILE.json beside it says where the model comes from, what it takes and gives, its classes, which operations it
needs, and how far it is from the live model, on clips of yours where a manifest is given, else on noise. A
file appears under its name only when it is converted, checked and described.
"""

import dataclasses
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Sequence

import keras
import numpy as np

from tfsound import mel, training
from tfsound.export import accuracy, fixed_length, litert, onnx, saved_model
from tfsound.export.provenance import describe_run

FORMATS = ("saved_model", "litert", "onnx")
QUANTIZATIONS = ("none", "float16", "int8")
# All frames of a clip are computed at once.
_MOST_SECONDS = 300.0
# Float32 kernels differ by 1e-7 to 1e-6, and by 1e-4 behind decibels of bins that are empty by chance.
_TOLERANCE = 1e-3
# Of a window's embedding with the live one. Below it neighbours become others.
_LEAST_MEAN_COSINE = 0.9

_Runner = Callable[[np.ndarray], dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class DeviceExport:
    """What was written; `float32_bytes` is the size without quantization."""

    path: str
    format: str
    quantization: str
    clip_seconds: float
    num_bytes: int
    float32_bytes: int
    accuracy: accuracy.Accuracy

    def __str__(self) -> str:
        quantization = "float32" if self.quantization == "none" else self.quantization
        size = f"{self.num_bytes / 1e6:.2f} MB"
        if self.num_bytes != self.float32_bytes:
            size += f" (float32: {self.float32_bytes / 1e6:.2f} MB)"
        return (
            f"exported {self.path}: {self.format}, {quantization}, clips of {self.clip_seconds:.3f} s, "
            f"{size}\n{self.accuracy}"
        )


@dataclasses.dataclass(frozen=True)
class _Trained:
    """A run's model and what belongs to it."""

    model: keras.Model
    mel_params: mel.MelParams
    class_names: tuple[str, ...]
    provenance: dict


def export_format(
    run: str,
    output: str,
    *,
    format: str = "saved_model",
    clip_seconds: float = 0.0,
    quantization: str = "none",
    manifest: str = "",
    num_clips: int = 100,
    modality: str = "audio",
    evaluation: tuple[str, ...] = (),
    license: str = "",
    overwrite: bool = False,
) -> saved_model.Export | DeviceExport:
    """Exports what a finished run has trained: as a SavedModel to serve, or as a file for devices.

    Args:
      run: the folder of the finished run.
      output: saved_model: the model's folder, the export becomes its next version; litert: a .tflite file;
        onnx: an .onnx file.
      format: saved_model, litert or onnx.
      clip_seconds: litert, onnx: the length of all clips; 0 for one context window.
      quantization: litert: none, float16 (half the size) or int8 (down to a quarter).
      manifest: litert, onnx: clips to measure on what is lost; int8 is calibrated with others of them.
      num_clips: litert, onnx: how many to measure on, and to calibrate with, at most.
      modality: saved_model: `audio`, or `image` for the encoder of images of a run on pairs of sound and
        image.
      evaluation: saved_model: what `tfsound evaluate`, `evaluate-classifier` or `evaluate-cross-modal` has
        written of the model as JSON, for the model card; several files may be given.
      license: saved_model: the identifier of the model's license for the card, such as `apache-2.0`.
      overwrite: litert, onnx: replace the file.

    Raises:
      ValueError: an unknown format, an option that it does not have; see also `saved_model.export`,
      `export_litert` and `export_onnx`.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}.")
    if format == "saved_model":
        if clip_seconds or quantization != "none" or manifest or overwrite:
            raise ValueError(
                "clip_seconds, quantization, manifest and overwrite are of the formats litert and onnx, got "
                "saved_model, which takes any length; leave them out."
            )
        return saved_model.export(run, output, modality=modality, evaluation=evaluation, license=license)
    if modality != "audio" or evaluation or license:
        raise ValueError(
            f"modality, evaluation and license are of the format saved_model, got {format}; leave them out."
        )
    if format == "onnx":
        if quantization != "none":
            raise ValueError(f"quantization is of the format litert, got {quantization!r} with onnx.")
        return export_onnx(
            run, output, clip_seconds=clip_seconds, manifest=manifest, num_clips=num_clips,
            overwrite=overwrite,
        )  # fmt: skip
    return export_litert(
        run, output, clip_seconds=clip_seconds, quantization=quantization, manifest=manifest,
        num_clips=num_clips, overwrite=overwrite,
    )  # fmt: skip


def export_litert(
    run: str,
    output: str,
    *,
    clip_seconds: float = 0.0,
    quantization: str = "none",
    manifest: str = "",
    num_clips: int = 100,
    overwrite: bool = False,
) -> DeviceExport:
    """Exports what a finished run has trained for LiteRT, with built-in operations only.

    Args:
      run: the folder of the finished run.
      output: the .tflite file to write.
      clip_seconds: the length of all clips; 0 for one context window.
      quantization: see `tfsound.export.litert`.
      manifest: clips on this machine: every other one calibrates, where int8 needs that, and the others
        measure what is lost. Their beginnings are taken. Without a manifest noise measures.
      num_clips: how many to measure on, and to calibrate with, at most, spread over the manifest.
      overwrite: whether an existing file may be replaced.

    Raises:
      ValueError: an option out of range, int8 without a manifest, an output that exists or has another
      ending; ManifestError: see `datasets.read_manifest`; TrainingError: the run is missing or not finished;
      RuntimeError: the packages of the extra `lite` are not installed, or LiteRT lacks an operation of the
      network; ClipsError: no clip can be read; ExportError: too much was lost; nothing was published.
    """
    if quantization not in QUANTIZATIONS:
        raise ValueError(f"quantization must be one of {', '.join(QUANTIZATIONS)}, got {quantization!r}.")
    if quantization == "int8" and not manifest:
        raise ValueError(
            "int8 is calibrated with clips, got no manifest; name one, of sounds as they will come."
        )
    litert.require_packages()
    _require_output(output, ".tflite", overwrite)
    trained, num_samples = _prepare(run, clip_seconds, num_clips)
    is_calibrated = quantization == "int8"
    clips = _clips(manifest, trained, num_samples, (1 + is_calibrated) * num_clips)
    calibration, measured = (clips[::2], clips[1::2]) if is_calibrated else ([], clips)
    if is_calibrated and not measured:
        raise saved_model.ExportError(
            f"one clip of {manifest} can be read, expected two at least: one to calibrate with and one to "
            "measure on."
        )
    graph = fixed_length.fixed_length_graph(trained.model, trained.mel_params, num_samples)
    content = float32 = litert.convert(graph)
    _require_faithful(litert.runner(float32), trained, num_samples)
    if quantization == "float16":
        content = litert.quantize_float16(float32)
    elif is_calibrated:
        content = litert.quantize_int8(float32, calibration)
    return _check_and_publish(
        trained, output, content, litert.runner(content), measured,
        {
            "format": "litert", "quantization": quantization, "num_calibration_clips": len(calibration),
            "manifest": manifest, "float32_bytes": len(float32),
            "operations": litert.builtin_operations(content),
        },
    )  # fmt: skip


def export_onnx(
    run: str,
    output: str,
    *,
    clip_seconds: float = 0.0,
    manifest: str = "",
    num_clips: int = 100,
    overwrite: bool = False,
) -> DeviceExport:
    """Exports what a finished run has trained as ONNX, in float32.

    Args:
      output: the .onnx file to write.
      run, clip_seconds, manifest, num_clips, overwrite: as for `export_litert`.

    Raises:
      As `export_litert`; RuntimeError: the packages of the extra `onnx` are not installed, or ONNX lacks an
      operation of the network.
    """
    onnx.require_packages()
    _require_output(output, ".onnx", overwrite)
    trained, num_samples = _prepare(run, clip_seconds, num_clips)
    clips = _clips(manifest, trained, num_samples, num_clips)
    content = onnx.convert(fixed_length.fixed_length_graph(trained.model, trained.mel_params, num_samples))
    _require_faithful(onnx.runner(content), trained, num_samples)
    return _check_and_publish(
        trained, output, content, onnx.runner(content), clips,
        {
            "format": "onnx", "quantization": "none", "num_calibration_clips": 0, "manifest": manifest,
            "float32_bytes": len(content), "operations": onnx.operations(content),
        },
    )  # fmt: skip


def _require_output(output: str, ending: str, overwrite: bool) -> None:
    if not output.endswith(ending) or os.path.isdir(output):
        raise ValueError(f"output must be a file that ends in {ending}, got {output}.")
    if os.path.exists(output) and not overwrite:
        raise ValueError(f"{output} exists; name another output, or pass --overwrite to replace it.")


def _prepare(run: str, clip_seconds: float, num_clips: int) -> tuple[_Trained, int]:
    """The model of a run, computing in float32, and how many samples its clips will have."""
    if num_clips < 1:
        raise ValueError(f"num_clips must be at least 1, got {num_clips}.")
    trained = _load(run)
    params = trained.mel_params
    context_seconds = params.context_samples / params.sample_rate
    if not clip_seconds:
        return trained, params.context_samples
    num_samples = round(clip_seconds * params.sample_rate) if math.isfinite(clip_seconds) else 0
    if not params.context_samples <= num_samples <= _MOST_SECONDS * params.sample_rate:
        raise ValueError(
            f"clip_seconds must be at least a context window, {context_seconds:.4g} s, and at most "
            f"{_MOST_SECONDS:.0f} s, got {clip_seconds}."
        )
    return trained, num_samples


def _load(run: str) -> _Trained:
    model, mel_params, class_names = saved_model.load_trained(run)
    fixed_length.compute_in_float32(model)
    config = training.finished_config(run)
    provenance = describe_run(run, config, evaluation=(), class_names=class_names, license="")
    return _Trained(model, mel_params, class_names, provenance)


def _clips(manifest: str, trained: _Trained, num_samples: int, most: int) -> list[np.ndarray]:
    if not manifest:
        return accuracy.noise(trained.mel_params, num_samples)
    return accuracy.read_clips(manifest, trained.mel_params, num_samples, most)


def _require_faithful(run_model: _Runner, trained: _Trained, num_samples: int) -> None:
    """Raises: ExportError where a conversion in float32 is not the live model."""
    # On noise, which fills the spectrum: where bands of a sound hold nothing, a decibel front end shows how
    # each library rounds its spectra.
    clips = accuracy.noise(trained.mel_params, num_samples)
    found = accuracy.measure(run_model, trained.model, trained.mel_params, clips, source=accuracy.NOISE)
    if not found.largest_difference < _TOLERANCE:  # so that NaN fails, too
        raise saved_model.ExportError(
            f"the converted model differs from the live one {found}; expected less than {_TOLERANCE}. "
            "Nothing was published."
        )


def _check_and_publish(
    trained: _Trained,
    output: str,
    content: bytes,
    run_model: _Runner,
    clips: Sequence[np.ndarray],
    info: dict,
) -> DeviceExport:
    """Measures what is lost on clips, refuses what lost too much, and writes it with its description."""
    source = info["manifest"] or accuracy.NOISE
    found = accuracy.measure(run_model, trained.model, trained.mel_params, clips, source=source)
    if not found.mean_cosine >= _LEAST_MEAN_COSINE:
        raise saved_model.ExportError(
            f"the converted model lost too much {found}; expected a mean cosine of {_LEAST_MEAN_COSINE}. "
            "Nothing was published; take clips like those to come, more of them, or less quantization."
        )
    outputs = run_model(clips[0])
    num_samples = clips[0].shape[-1]
    clip_seconds = num_samples / trained.mel_params.sample_rate
    description = info | {
        "sha256": hashlib.sha256(content).hexdigest(),
        "num_bytes": len(content),
        "clip_seconds": clip_seconds,
        "sample_rate": trained.mel_params.sample_rate,
        "inputs": {"waveform": list(clips[0].shape)},
        "outputs": {name: list(value.shape) for name, value in sorted(outputs.items())},
        "class_names": list(trained.class_names),
        "mel_params": trained.mel_params.to_dict(),
        "accuracy": dataclasses.asdict(found),
        "provenance": trained.provenance,
    }
    _publish(output, content, description)
    return DeviceExport(
        output,
        info["format"],
        info["quantization"],
        clip_seconds,
        len(content),
        info["float32_bytes"],
        found,
    )


def _publish(output: str, content: bytes, description: dict) -> None:
    folder = os.path.dirname(output) or "."
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=folder) as temporary:
        model_path = os.path.join(temporary, "model")
        with open(model_path, "wb") as file:
            file.write(content)
        description_path = os.path.join(temporary, "description")
        with open(description_path, "w", encoding="utf-8") as file:
            json.dump(description, file, indent=1, ensure_ascii=False)
        # First the old model goes, so that none ever lies beside the description of another.
        if os.path.exists(output):
            os.remove(output)
        os.replace(description_path, output + ".json")
        os.replace(model_path, output)
