"""How far a converted model is from the live one, on clips of a manifest or on noise."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence

import keras
import numpy as np
from tqdm import tqdm

from tfsound import datasets, media, mel
from tfsound.export import fixed_length

NOISE = "noise"


class ClipsError(RuntimeError):
    """No clip of a manifest can be read; the message says why the first cannot."""


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """How far a converted model is from the live one.

    `largest_difference` is that of any number that is given, for a clip or a window, as a share of the
    largest where that is above 1. Cosines are between the embeddings of a window.
    """

    num_clips: int
    source: str
    largest_difference: float
    mean_cosine: float
    least_cosine: float

    def __str__(self) -> str:
        return (
            f"on {self.num_clips} clips of {self.source}: largest difference {self.largest_difference:.1e}, "
            f"mean cosine {self.mean_cosine:.4f}, least {self.least_cosine:.4f}"
        )


def noise(params: mel.MelParams, num_samples: int) -> list[np.ndarray]:
    """Clips of noise, from loud to as good as silent, each as `fixed_length.waveform_shape` says."""
    rng = np.random.default_rng(0)
    shape = fixed_length.waveform_shape(params, num_samples)
    return [rng.uniform(-level, level, shape).astype(np.float32) for level in (1, 0.1, 0.01, 1e-4)]


def read_clips(manifest: str, params: mel.MelParams, num_samples: int, most: int) -> list[np.ndarray]:
    """The beginnings of clips spread over a manifest, each as `fixed_length.waveform_shape` says.

    Args:
      manifest: of files on this machine.
      most: how many clips are read, at most; what cannot be read is left out.

    Raises:
      ManifestError: see `datasets.read_manifest`; ClipsError: none can be read.
    """
    shape = fixed_length.waveform_shape(params, num_samples)
    rows = datasets.read_manifest(manifest)
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int))
    clips, problems = [], []
    for index in tqdm(chosen, desc="read", unit=" clips", leave=False):
        try:
            clips.append(_beginning(rows[index], params, num_samples).reshape(shape))
        except (media.MediaError, StopIteration) as error:
            problems.append(str(error) or f"{rows[index].uri} holds no sound there.")
    if not clips:
        raise ClipsError(
            f"none of {len(chosen)} clips of {manifest} can be read; the first: {problems[0]} Correct the "
            "manifest."
        )
    return clips


def _beginning(row: datasets.ManifestRow, params: mel.MelParams, num_samples: int) -> np.ndarray:
    """The first samples of a clip, with zeros behind where it is shorter: (samples,) or (2, samples)."""
    blocks = media.audio_blocks(
        row.uri, sample_rate=params.sample_rate, start_seconds=row.start_seconds or 0.0,
        end_seconds=row.end_seconds, block_seconds=num_samples / params.sample_rate,
        num_channels=params.num_channels,
    )  # fmt: skip
    with contextlib.closing(blocks):
        samples = np.transpose(next(blocks))[..., :num_samples]
    if not np.isfinite(samples).all():
        raise media.MediaError(f"{row.uri} holds NaN or infinity; make the file again.")
    missing = num_samples - samples.shape[-1]
    return np.pad(samples, [(0, 0)] * (samples.ndim - 1) + [(0, missing)])


def measure(
    run_model: Callable[[np.ndarray], dict[str, np.ndarray]],
    model: keras.Model,
    mel_params: mel.MelParams,
    clips: Sequence[np.ndarray],
    *,
    source: str,
) -> Accuracy:
    """Compares what is given for every window of some clips, and for the clips.

    Args:
      run_model: the converted model, a waveform -> the outputs of `fixed_length.fixed_length_graph`.
      model, mel_params: the live one.
      source: what the clips are of.
    """
    differences, cosines = [], []
    for waveform in tqdm(clips, desc="measure", unit=" clips", leave=False):
        found = run_model(waveform)
        windows = mel.log_mel_windows(waveform[0], mel_params)
        live = fixed_length.outputs_of_windows(model, windows)
        for name, values in live.items():
            values = values.numpy()
            scale = max(1.0, np.max(np.abs(values)))
            for live_values, found_values in (
                (values, found[fixed_length.OF_WINDOWS[name]][0]),
                (values.mean(axis=0), found[name][0]),
            ):
                differences.append(np.max(np.abs(found_values - live_values)) / scale)
        cosines.append(_cosines(found["window_embeddings"][0], live["embedding"].numpy()))
    cosines = np.concatenate(cosines)
    return Accuracy(
        num_clips=len(clips),
        source=source,
        largest_difference=float(np.max(differences)),
        mean_cosine=float(np.mean(cosines)),
        least_cosine=float(np.min(cosines)),
    )


def _cosines(found: np.ndarray, live: np.ndarray) -> np.ndarray:
    """Of each row with that of the other: (rows, d) twice -> (rows,). Two rows of zeros are alike."""
    products = np.sum(found * live, axis=1)
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(live, axis=1)
    same = np.all(found == live, axis=1)
    return np.where(same, 1.0, products / np.where(norms == 0, 1.0, norms))
