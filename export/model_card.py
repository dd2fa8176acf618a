"""The model card of an export: README.md beside the graph, with the front matter that hubs read.

It says what is known and nothing else: what the provenance does not hold has no section.

Source: Mitchell et al. 2019, Model Cards for Model Reporting; the front matter is Hugging Face's.
"""

import json
from collections.abc import Sequence

import tensorflow as tf
import yaml

from tfsound import mel, metrics
from tfsound.export import graphs

NAME = "README.md"
_SIZES = {"waveform": ("batch", "samples"), "log_mel": ("batch",), "image": ("batch",)}
_WIDTHS = ("batch", "windows")
_METRIC_FIELDS = {"name", "values", "on", "held_out"}
_VERSIONS = ("tfsound", "tensorflow", "keras", "python")


def render(
    signatures: dict[str, tf.types.experimental.ConcreteFunction],
    provenance: dict,
    mel_params: mel.MelParams | None,
    *,
    class_names: Sequence[str] = (),
    largest_difference: float,
    num_warm_up_requests: int,
) -> str:
    """The card, Markdown behind YAML.

    Args:
      signatures: of the graph.
      provenance: see `tfsound.export.provenance`; other fields are shown as they are.
      mel_params: the front end of a model of sound; None for one of images.
      class_names: those of a classifier.
      largest_difference: how far the export was found to be from the live model.
    """
    measured = _measured(provenance)
    sections = [
        _front_matter(provenance, measured, is_classifier=bool(class_names), is_image=mel_params is None),
        _head(provenance, mel_params, class_names),
        "## Use\n\n" + _use(signatures, mel_params),
        "## Signatures\n\n" + _signatures(signatures, mel_params),
        *(["## Front end\n\n" + _front_end(mel_params)] if mel_params else []),
        *(["## Training\n\n" + _training(provenance)] if _training(provenance) else []),
        *(["## Metrics\n\n" + _metrics(measured)] if measured else []),
        "## Limits\n\n" + _limits(mel_params),
        "## Export\n\n" + _export(provenance, largest_difference, num_warm_up_requests),
    ]
    return "\n\n".join(sections) + "\n"


def _measured(provenance: dict) -> list[dict]:
    """The metrics, where they have the form that `tfsound.export.provenance` gives them."""
    found = provenance.get("metrics")
    rows = found if isinstance(found, list) else []
    return rows if all(isinstance(row, dict) and row.keys() >= _METRIC_FIELDS for row in rows) else []


def _front_matter(provenance: dict, measured: list[dict], *, is_classifier: bool, is_image: bool) -> str:
    kind = "audio-classification" if is_classifier else "feature-extraction"
    fields = {
        **({"license": provenance["license"]} if provenance.get("license") else {}),
        "library_name": "tensorflow",
        "pipeline_tag": "image-feature-extraction" if is_image else kind,
        "tags": ["tfsound", "tensorflow", "saved-model", "image" if is_image else "audio", "embeddings"],
    }
    names = list(dict.fromkeys(row["name"] for row in measured if row["held_out"]))
    if names:
        fields["metrics"] = names
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)}---"


def _head(provenance: dict, mel_params: mel.MelParams | None, class_names: Sequence[str]) -> str:
    config, is_image = provenance.get("training"), mel_params is None
    settings = config if isinstance(config, dict) else {}
    network = settings.get("image_encoder" if is_image else "encoder")
    kind = "Image embedding" if is_image else "Sound classifier" if class_names else "Sound embedding"
    lines = [
        f"# {kind} by tfsound\n",
        f"A TensorFlow SavedModel{f' of the network `{network}`' if network else ''}: "
        f"{'images' if is_image else 'waveforms'} in, embeddings{' and scores' if class_names else ''} out. "
        "It needs TensorFlow and nothing else.",
    ]
    if class_names:
        lines.append(
            f"It tells {len(class_names)} classes; `assets/{graphs.LABELS_NAME}` names them in order."
        )
    if not provenance.get("license"):
        lines.append("Whoever exported it named no license.")
    return "\n".join(lines)


def _use(
    signatures: dict[str, tf.types.experimental.ConcreteFunction], mel_params: mel.MelParams | None
) -> str:
    spec = graphs.input_of(signatures[graphs.SERVING_DEFAULT])
    # Of sound, a second.
    shape = [1, *(mel_params.sample_rate if size is None else size for size in spec.shape[1:])]
    outputs = signatures[graphs.SERVING_DEFAULT].structured_outputs
    shown = "scores" if "scores" in outputs else "embedding"
    return (
        "In the folder of this file:\n\n```python\nimport tensorflow as tf\n\n"
        'model = tf.saved_model.load(".")\n'
        f'outputs = model.signatures["{graphs.SERVING_DEFAULT}"]({spec.name}=tf.zeros({shape}))\n'
        f'print(outputs["{shown}"])\n```'
    )


def _signatures(
    signatures: dict[str, tf.types.experimental.ConcreteFunction], mel_params: mel.MelParams | None
) -> str:
    rows = []
    for signature, function in signatures.items():
        spec = graphs.input_of(function)
        tensors = [("in", spec.name, spec)]
        tensors += [("out", name, output) for name, output in sorted(function.structured_outputs.items())]
        for direction, name, spec in tensors:
            meaning = _meaning(name, signature, mel_params)
            rows.append((f"`{signature}`", direction, f"`{name}`", _shape(name, spec), meaning))
    return _table(("signature", "", "tensor", "type and shape", "what it is"), rows)


def _shape(name: str, spec: tf.TensorSpec) -> str:
    """The type and shape of a tensor, with a name for each size that is open."""
    names = iter(_SIZES.get(name, _WIDTHS))
    return f"{spec.dtype.name} {[next(names) if size is None else size for size in spec.shape]}".replace(
        "'", ""
    )


def _meaning(name: str, signature: str, mel_params: mel.MelParams | None) -> str:
    rate = f"{mel_params.sample_rate} Hz" if mel_params else ""
    channels = ", left and right" if mel_params and mel_params.num_channels == 2 else ""
    is_of_clips = signature in (graphs.SERVING_DEFAULT, graphs.WAV_BYTES) and mel_params is not None
    one = "clip, the mean over its windows" if is_of_clips else "window" if mel_params else "image"
    return {
        "waveform": f"samples in [-1, 1] at {rate}{channels}",
        "wav_bytes": f"whole WAV files, 16-bit PCM at {rate}, of any lengths",
        "log_mel": "context windows of the front end below",
        "image": "red, green and blue in [0, 1]",
        "jpeg_bytes": "whole JPEG files of that size",
        "embedding": f"of each {one}",
        "window_embeddings": "of each window; 0 behind the last window of a shorter clip",
        "scores": f"of each class in [0, 1], of each {one}",
        "window_scores": "of each window; 0 behind the last window of a shorter clip",
    }[name]


def _front_end(params: mel.MelParams) -> str:
    bins = (
        f"{params.mel_bins} mel bands from {params.mel_min_hz:g} to {params.mel_max_hz:g} Hz"
        if params.bins == "mel"
        else f"the lowest {params.mel_bins} bins of the spectrum, in {params.num_bands} bands"
    )
    log = (
        f"ln(energy + {params.log_offset:g})"
        if params.log == "natural"
        else f"20 log10(max(energy, {params.log_offset:g}))"
    )
    rows = [
        ("sample rate", f"{params.sample_rate} Hz, {'mono' if params.num_channels == 1 else 'stereo'}"),
        ("analysis window", f"{1e3 * params.window_seconds:.4g} ms, {params.window.replace('_', '-')}"),
        ("hop", f"{1e3 * params.hop_seconds:.4g} ms"),
        ("FFT", f"{params.fft_length} samples, magnitudes"),
        ("bins", bins),
        ("logarithm", log),
        ("context window", f"{params.context_frames} frames, one every {params.context_seconds:.4g} s"),
    ]
    return "The front end is inside the graph.\n\n" + _table(("what", "value"), rows)


def _training(provenance: dict) -> str:
    parts = []
    if isinstance(provenance.get("command"), str):
        parts.append(f"```sh\n{provenance['command']}\n```")
    known = {"command", "evaluation", "license", *_VERSIONS, *(["metrics"] if _measured(provenance) else [])}
    others = {name: value for name, value in provenance.items() if name not in known}
    if others:
        parts.append(
            "Data and settings:\n\n```json\n" + json.dumps(others, indent=1, sort_keys=True) + "\n```"
        )
    return "\n\n".join(parts)


def _metrics(measured: list[dict]) -> str:
    rows = [(row["name"], str(metrics.mean_and_spread(row["values"])), row["on"]) for row in measured]
    return _table(("metric", "value", "on"), rows)


def _limits(params: mel.MelParams | None) -> str:
    common = [
        "Each row of a batch is answered for itself. A row that holds NaN or infinity gives NaN, and no "
        "other row does. A batch of no rows gives outputs of no rows.",
        "An encoded file that cannot be read is an error, which names the reason and refuses the batch.",
    ]
    if params is None:
        lines = [
            "Images are squares of the size above: the central square of a picture, scaled by the mean over "
            "the area of each new pixel. Others are refused.",
            *common,
        ]
    else:
        seconds = params.context_samples / params.sample_rate
        lines = [
            f"A clip may have any length. One shorter than a window ({params.context_samples} samples, "
            f"{seconds:.3g} s) is zero-padded to one, no sample at all is silence; what does not fill a last "
            "window is left out.",
            "Waveforms are at the sample rate above and nothing is resampled. `wav_bytes` takes 16-bit PCM "
            "at that rate alone, and refuses another one.",
            "Of a clip that holds NaN or infinity, the windows that hold it are NaN, and so is the mean.",
            *common,
        ]
    return "\n".join(f"- {line}" for line in lines)


def _export(provenance: dict, largest_difference: float, num_warm_up_requests: int) -> str:
    versions = [f"{name} {provenance[name]}" for name in _VERSIONS if isinstance(provenance.get(name), str)]
    lines = [
        "Loaded again and compared with the live model before it was published: largest difference "
        f"{largest_difference:.1e}.",
    ]
    if versions:
        lines.append(f"Written with {', '.join(versions)}.")
    if num_warm_up_requests:
        lines.append(f"TF Serving finds {num_warm_up_requests} warm-up requests in `assets.extra`.")
    return " ".join(lines)


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header)]
    lines += [tuple(" ".join(cell.replace("|", "\\|").split()) for cell in row) for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
