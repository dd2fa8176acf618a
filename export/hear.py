"""An export as a module of HEAR, the Holistic Evaluation of Audio Representations (Turian et al. 2022).

    model = load_model("MODEL")            # 16 kHz, an int each: the sizes of embeddings
    scenes = get_scene_embeddings(audio, model)                     # (sounds, d)
    embeddings, times = get_timestamp_embeddings(audio, model)      # (sounds, times, d), (sounds, times)

The name of the module is `tfsound.export.hear`, the path of its weights that of an export. Audio is mono,
(sounds, samples), in [-1, 1], at the model's `sample_rate`; a model of stereo hears it twice. A scene is the
mean over its context windows, as served. A timestamp is the middle of a context window, in milliseconds;
timestamps begin at 0 and go on to the sound's end, every 50 ms or somewhat less, and windows that reach
beyond the sound see silence there.

Source: the common API of HEAR, https://hearbenchmark.com/hear-api.html.
"""

import numpy as np
import tensorflow as tf

from tfsound import exported, mel

# The rates that HEAR has its tasks in.
SAMPLE_RATES = (16000, 22050, 44100, 48000)
# HEAR scores events within 50 ms.
_MOST_MILLISECONDS = 50
# What goes through the model at once is bounded: 16 MB of sound, and so many windows.
_SAMPLES_PER_CALL = 2**22
_WINDOWS_PER_CALL = 128


class HearModel(tf.Module):
    """A loaded export with the attributes that HEAR asks for.

    Args:
      loaded: an export of an encoder or classifier.

    Attributes:
      sample_rate: in Hz, what audio must have.
      scene_embedding_size, timestamp_embedding_size: d.

    Raises:
      ValueError: a sample rate that HEAR does not have, frames farther apart than timestamps may be.
    """

    def __init__(self, loaded: exported.LoadedModel):
        super().__init__()
        export, params = loaded.export, loaded.export.mel_params
        if params.sample_rate not in SAMPLE_RATES:
            raise ValueError(
                f"{export.path} hears {params.sample_rate} Hz, expected one of HEAR's {SAMPLE_RATES}; "
                "train with a front end of such a rate."
            )
        self.hop_frames = params.sample_rate * _MOST_MILLISECONDS // (1000 * params.hop_samples)
        if not self.hop_frames:
            raise ValueError(
                f"{export.path} has frames every {1000 * params.hop_seconds:.4g} ms, expected at most "
                f"{_MOST_MILLISECONDS} ms as HEAR's timestamps; train with a front end of shorter hops."
            )
        self.loaded = loaded
        self.sample_rate = params.sample_rate
        self.scene_embedding_size = export.embedding_dim
        self.timestamp_embedding_size = export.embedding_dim


def load_model(model_file_path: str = "") -> HearModel:
    """Loads an export for HEAR.

    Args:
      model_file_path: a version of an export, or the model's folder, whose newest version is taken.

    Raises:
      ValueError: no path, no such export, or one that HEAR has no audio for.
    """
    if not model_file_path:
        raise ValueError(
            "model_file_path is empty: this package has no weights; name what `tfsound export` wrote."
        )
    return HearModel(exported.load(model_file_path))


def get_scene_embeddings(audio, model: HearModel) -> tf.Tensor:
    """An embedding of each sound as a whole.

    Args:
      audio: float, (sounds, samples), in [-1, 1]: a tensor of TensorFlow or PyTorch, or an array.
      model: of `load_model`.

    Returns:
      float32, (sounds, d).

    Raises:
      ValueError: audio of another shape or type.
    """
    waveforms = _waveforms(audio, model)
    rows_per_call = max(1, _SAMPLES_PER_CALL // max(1, waveforms.shape[-1]))
    scenes = np.empty((len(waveforms), model.scene_embedding_size), np.float32)
    for first in range(0, len(waveforms), rows_per_call):
        rows = slice(first, first + rows_per_call)
        scenes[rows] = model.loaded.embed_waveforms(waveforms[rows])["embedding"]
    return tf.constant(scenes)


def get_timestamp_embeddings(audio, model: HearModel) -> tuple[tf.Tensor, tf.Tensor]:
    """Embeddings of each sound at regular times.

    Args:
      audio, model: as for `get_scene_embeddings`.

    Returns:
      Embeddings, float32, (sounds, times, d), and where the middles of their windows lie, in milliseconds,
      float32, (sounds, times).

    Raises:
      ValueError: audio of another shape or type.
    """
    waveforms = _waveforms(audio, model)
    params = model.loaded.export.mel_params
    hop_samples = model.hop_frames * params.hop_samples
    num_times = waveforms.shape[-1] // hop_samples + 1
    embeddings = np.empty((len(waveforms), num_times, model.timestamp_embedding_size), np.float32)
    for waveform, of_sound in zip(waveforms, embeddings, strict=True):
        for first in range(0, num_times, _WINDOWS_PER_CALL):
            part = of_sound[first : first + _WINDOWS_PER_CALL]
            start = first * hop_samples - params.context_samples // 2
            num_frames = (len(part) - 1) * model.hop_frames + params.context_frames
            samples = _with_silence_around(waveform, start, params.samples_of(num_frames))
            windows = mel.log_mel_windows(samples, params, hop_frames=model.hop_frames)
            part[:] = model.loaded.embed_windows(windows)["embedding"]
    milliseconds = np.arange(num_times) * (1000 * hop_samples / params.sample_rate)
    times = np.broadcast_to(milliseconds.astype(np.float32), embeddings.shape[:2])
    return tf.constant(embeddings), tf.constant(times)


def _waveforms(audio, model: HearModel) -> np.ndarray:
    """Audio as the model takes it: float32, (sounds, samples) or, of stereo, (sounds, 2, samples)."""
    if hasattr(audio, "detach"):
        # A tensor of PyTorch, which may be on a GPU or part of a graph.
        audio = audio.detach().cpu()
    waveforms = np.asarray(audio)
    if waveforms.ndim != 2 or waveforms.dtype.kind != "f":
        raise ValueError(
            f"audio must be float, (sounds, samples), in [-1, 1], got {waveforms.dtype}, {waveforms.shape}; "
            "average channels, and divide integers of 16 bits by 32768."
        )
    waveforms = waveforms.astype(np.float32, copy=False)
    channels = model.loaded.export.mel_params.num_channels
    if channels == 1:
        return waveforms
    return np.broadcast_to(waveforms[:, None], (len(waveforms), channels, waveforms.shape[1]))


def _with_silence_around(waveform: np.ndarray, start: int, num_samples: int) -> np.ndarray:
    """The samples [start, start + num_samples) of a waveform, (..., samples), zero where there are none."""
    piece = waveform[..., max(0, start) : max(0, start + num_samples)]
    before = max(0, -start)
    after = num_samples - before - piece.shape[-1]
    return np.pad(piece, [(0, 0)] * (waveform.ndim - 1) + [(before, after)])
