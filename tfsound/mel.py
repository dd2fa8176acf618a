"""The front end: waveform -> mel energies -> log-mel context windows, in TensorFlow.

One implementation serves data preparation, training and the exported SavedModel, so that what a model
sees when it is served is what it was trained on.

Conventions: waveforms are float32 in [-1, 1] at `MelParams.sample_rate`, mono (..., samples) or stereo
(..., 2, samples). Spectrograms are (..., frames, columns): time first, a column a bin, those of the right
channel after those of the left. "Energies" are magnitudes before the logarithm, mel-weighted but for the
preset `esresnet`; the constraints of the 2018 paper work on them, networks see `log_mel` of them. Frames are
complete only (no centring, no padding at the edges); a waveform shorter than one context window is
zero-padded to exactly one, and what does not fill a last window is left out.

Sources: Jansen et al. 2018, section 4.1 (64 bands, 25 ms windows, 10 ms hop, 0.96 s contexts); the
constants are those of the public AudioSet front ends (VGGish, YAMNet). `esresnet`: Guzhov et al. 2020
(ESResNet), which Hornauer et al. 2021 (DLS), section 3, follow.
"""

import dataclasses
import functools
import math

import numpy as np
import tensorflow as tf

# The cosines of a window, 0, 1, 2, ... periods of them: Harris 1978 has the one of four terms.
_WINDOW_COSINES = {
    "hann": (0.5, -0.5),
    "blackman_harris": (0.35875, -0.48829, 0.14128, -0.01168),
}
_WORDS = {"window": tuple(_WINDOW_COSINES), "bins": ("mel", "linear"), "log": ("natural", "decibel")}


@dataclasses.dataclass(frozen=True)
class MelParams:
    """Everything that defines a front end; two sets of examples agree only if these are equal.

    Frequencies are in Hz, durations in seconds. `window*` is the analysis (STFT) window, `context_*` the
    patch of `context_frames` frames that an encoder sees.

    Attributes:
      window: `hann` or `blackman_harris`, periodic.
      bins: `mel`, triangles between `mel_min_hz` and `mel_max_hz`; or `linear`, the lowest `mel_bins` bins of
        the spectrum as they are.
      log: `natural`, ln(energy + log_offset); or `decibel`, 20 log10(max(energy, log_offset)).
      num_bands: into how many bands of as many bins an encoder cuts a frame, to see them as the channels of
        an image.
      num_channels: 1 for mono, 2 for stereo.
    """

    sample_rate: int = 16000
    window: str = "hann"
    window_seconds: float = 0.025
    hop_seconds: float = 0.010
    bins: str = "mel"
    mel_bins: int = 64
    mel_min_hz: float = 125.0
    mel_max_hz: float = 7500.0
    log: str = "natural"
    log_offset: float = 0.01
    context_frames: int = 96
    num_bands: int = 1
    num_channels: int = 1

    def __post_init__(self):
        for name, words in _WORDS.items():
            if getattr(self, name) not in words:
                raise ValueError(f"MelParams.{name} must be one of {words}, got {getattr(self, name)!r}.")
        for field in dataclasses.fields(self):
            if field.name not in _WORDS and not getattr(self, field.name) > 0:
                raise ValueError(
                    f"MelParams.{field.name} must be positive, got {getattr(self, field.name)!r}."
                )
        if not self.mel_min_hz < self.mel_max_hz <= self.sample_rate / 2:
            raise ValueError(
                f"mel_min_hz < mel_max_hz <= sample_rate / 2 must hold, got {self.mel_min_hz}, "
                f"{self.mel_max_hz} and {self.sample_rate}; lower mel_max_hz or raise sample_rate."
            )
        if self.bins == "linear" and self.mel_bins > self.fft_length // 2 + 1:
            raise ValueError(
                f"a spectrum of {self.fft_length} samples has {self.fft_length // 2 + 1} bins, got mel_bins "
                f"{self.mel_bins}; lower it, or lengthen window_seconds."
            )
        if self.mel_bins % self.num_bands:
            raise ValueError(
                f"mel_bins must be a multiple of num_bands, got {self.mel_bins} and {self.num_bands}."
            )
        if self.num_channels > 2:
            raise ValueError(f"num_channels must be 1 or 2, got {self.num_channels}.")

    @property
    def window_samples(self) -> int:
        return round(self.window_seconds * self.sample_rate)

    @property
    def hop_samples(self) -> int:
        return round(self.hop_seconds * self.sample_rate)

    @property
    def fft_length(self) -> int:
        """The smallest power of two that holds an analysis window."""
        return 1 << (self.window_samples - 1).bit_length()

    @property
    def num_columns(self) -> int:
        """The length of a frame: the bins of all channels."""
        return self.num_channels * self.mel_bins

    @property
    def window_shape(self) -> tuple[int, int]:
        """The shape of a context window, (context_frames, num_columns): what an encoder takes."""
        return self.context_frames, self.num_columns

    @property
    def bin_hz(self) -> np.ndarray:
        """The centre frequency of each bin of a channel, ascending: float64, (mel_bins,)."""
        if self.bins == "linear":
            return np.arange(self.mel_bins) * self.sample_rate / self.fft_length
        return mel_to_hertz(_mel_edges(self)[1:-1])

    @property
    def context_seconds(self) -> float:
        """The time from one context window's start to the next, without overlap."""
        return self.context_frames * self.hop_samples / self.sample_rate

    @property
    def context_samples(self) -> int:
        """Samples that yield exactly one context window (its last frame complete)."""
        return self.samples_of(self.context_frames)

    def samples_of(self, num_frames: int) -> int:
        """The number of samples under `num_frames` complete frames."""
        return self.window_samples + (num_frames - 1) * self.hop_samples

    def num_windows(self, num_frames: int) -> int:
        """How many context windows, without overlap, `num_frames` frames hold."""
        return num_frames // self.context_frames

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict) -> "MelParams":
        """The inverse of `to_dict`. Raises: ValueError when a field is missing or unknown."""
        names = {field.name for field in dataclasses.fields(cls)}
        if set(fields) != names:
            raise ValueError(
                f"mel parameters must have the fields {sorted(names)}, got {sorted(fields)}; "
                "the file was written by another version of tfsound: make the examples again."
            )
        return cls(**fields)

    def require_equal(self, found: "MelParams", where: str) -> None:
        """Raises: ValueError that names each field in which `found`, read at `where`, differs."""
        differences = [
            f"{name} is {getattr(found, name)} and must be {value}"
            for name, value in self.to_dict().items()
            if getattr(found, name) != value
        ]
        if differences:
            raise ValueError(
                f"{where} was made with other mel parameters: {'; '.join(differences)}. "
                "Make it again with the same preset, or use it apart."
            )


PRESETS = {
    "audioset": MelParams(),
    "yamnet": MelParams(log_offset=0.001),
    # 391 frames lie under five seconds. The decibels of a power have their floor at 1e-18.
    "esresnet": MelParams(
        sample_rate=44100, window="blackman_harris", window_seconds=1654 / 44100, hop_seconds=561 / 44100,
        bins="linear", mel_bins=1023, log="decibel", log_offset=1e-9, context_frames=391, num_bands=3,
    ),
}  # fmt: skip


def preset(name: str, *, context_seconds: float = 0.0, num_channels: int = 1) -> MelParams:
    """The named front end.

    Args:
      context_seconds: how much an encoder is to see at a time, less than a frame more; 0 for the preset's.
      num_channels: 1 for mono, 2 for stereo.

    Raises:
      ValueError: a name that is not in `PRESETS`, a number out of range.
    """
    if name not in PRESETS:
        raise ValueError(f"mel preset must be one of {sorted(PRESETS)}, got {name!r}.")
    params = dataclasses.replace(PRESETS[name], num_channels=num_channels)
    if not context_seconds:
        return params
    if not params.window_seconds <= context_seconds < math.inf:
        raise ValueError(
            f"context_seconds must be at least a frame, {params.window_seconds:.4g} s, got {context_seconds}."
        )
    num_samples = round(context_seconds * params.sample_rate)
    num_frames = 1 + (num_samples - params.window_samples) // params.hop_samples
    return dataclasses.replace(params, context_frames=num_frames)


def hertz_to_mel(frequencies_hz):
    """HTK's mel scale, `1127 ln(1 + f / 700)`."""
    return 1127.0 * np.log1p(np.asarray(frequencies_hz) / 700.0)


def mel_to_hertz(mels):
    """The inverse of `hertz_to_mel`."""
    return 700.0 * np.expm1(np.asarray(mels) / 1127.0)


def _mel_edges(params: MelParams) -> np.ndarray:
    """Where the bands begin, peak and end, in mel: (mel_bins + 2,)."""
    return np.linspace(hertz_to_mel(params.mel_min_hz), hertz_to_mel(params.mel_max_hz), params.mel_bins + 2)


@functools.lru_cache(maxsize=8)
def mel_matrix(params: MelParams) -> np.ndarray:
    """The weights from magnitude spectrum to mel bands.

    Triangles whose edges are equidistant, and whose slopes are linear, in mel; peak 1 (not
    normalised by area); the DC row is zero.

    Returns:
      float32, (fft_length // 2 + 1, mel_bins).
    """
    bins_hz = np.linspace(0.0, params.sample_rate / 2, params.fft_length // 2 + 1)
    bins_mel = hertz_to_mel(bins_hz)[:, None]
    edges = _mel_edges(params)
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    rising = (bins_mel - lower) / (centre - lower)
    falling = (upper - bins_mel) / (upper - centre)
    weights = np.maximum(0.0, np.minimum(rising, falling))
    weights[0] = 0.0
    return weights.astype(np.float32)


def pad_to_context(waveform: tf.Tensor, params: MelParams) -> tf.Tensor:
    """Zero-pads waveforms shorter than one context window to exactly one; longer ones pass.

    Args:
      waveform: float32, (..., samples).

    Returns:
      float32, (..., max(samples, context_samples)).
    """
    waveform = tf.convert_to_tensor(waveform, tf.float32)
    missing = tf.maximum(0, params.context_samples - tf.shape(waveform)[-1])
    paddings = tf.zeros([tf.rank(waveform), 2], tf.int32)
    paddings = tf.tensor_scatter_nd_update(paddings, [[tf.rank(waveform) - 1, 1]], [missing])
    padded = tf.pad(waveform, paddings)
    return tf.ensure_shape(padded, waveform.shape[:-1].concatenate([None]))


# Frames computed at a time, so that their spectra stay in a core's cache.
_CHUNK_FRAMES = 1000


@functools.lru_cache(maxsize=8)
def analysis_window(params: MelParams) -> np.ndarray:
    """The periodic window of `window_samples`, zero-padded at its end: float32, (fft_length,)."""
    phase = 2 * np.pi * np.arange(params.window_samples) / params.window_samples
    cosines = _WINDOW_COSINES[params.window]
    window = np.zeros(params.fft_length, np.float32)
    window[: params.window_samples] = sum(
        factor * np.cos(number * phase) for number, factor in enumerate(cosines)
    )
    return window


@functools.lru_cache(maxsize=8)
def _mel_matrix_parts(params: MelParams) -> list[tuple[slice, np.ndarray]]:
    """Each half of the bands: the rows of `mel_matrix` that it needs, and the weights in them."""
    parts = []
    for weights in np.array_split(mel_matrix(params), 2, axis=1):
        rows = np.flatnonzero(weights.any(axis=1))
        rows = slice(rows[0], rows[-1] + 1) if len(rows) else slice(0, 1)
        parts.append((rows, weights[rows]))
    return parts


def _hop_blocks(waveforms: tf.Tensor, num_frames: tf.Tensor, params: MelParams) -> tf.Tensor:
    """What lies under `num_frames` frames, cut every hop: (batch, samples) to (blocks, batch, hop)."""
    hop = params.hop_samples
    num_blocks = num_frames - 1 + len(_block_widths(params))
    waveforms = waveforms[:, : num_blocks * hop]
    waveforms = tf.pad(waveforms, [[0, 0], [0, num_blocks * hop - tf.shape(waveforms)[1]]])
    return tf.transpose(tf.reshape(waveforms, [-1, num_blocks, hop]), [1, 0, 2])


def _block_widths(params: MelParams) -> list[int]:
    """How many samples a frame takes of each block that it reaches into."""
    starts = range(0, params.window_samples, params.hop_samples)
    return [min(params.hop_samples, params.window_samples - start) for start in starts]


def _energies_of_blocks(blocks: tf.Tensor, num_frames: tf.Tensor, params: MelParams) -> tf.Tensor:
    """(blocks, batch, hop) to (num_frames * batch, mel_bins)."""
    # Frame i is block i and the ones after it, side by side: half the cost of gathering its samples.
    pieces = [
        blocks[index : index + num_frames, :, :width] for index, width in enumerate(_block_widths(params))
    ]
    num_zeros = params.fft_length - params.window_samples
    pieces.append(tf.zeros([num_frames, tf.shape(blocks)[1], num_zeros]))
    frames = tf.reshape(tf.concat(pieces, axis=-1), [-1, params.fft_length])
    spectrum = tf.signal.rfft(frames * analysis_window(params))
    # The same as tf.abs, whose guard against overflow costs four times as much.
    magnitude = tf.sqrt(tf.square(tf.math.real(spectrum)) + tf.square(tf.math.imag(spectrum)))
    if params.bins == "linear":
        return magnitude[:, : params.mel_bins]
    halves = [tf.matmul(magnitude[:, rows], weights) for rows, weights in _mel_matrix_parts(params)]
    return tf.concat(halves, axis=-1)


def mel_energies(waveform: tf.Tensor, params: MelParams) -> tf.Tensor:
    """Magnitude spectrogram of complete frames, mel-weighted where `params.bins` are.

    `|rfft(frame * window)| @ mel_matrix`

    Args:
      waveform: float32, (..., samples), in [-1, 1]; of a stereo front end (..., 2, samples).

    Returns:
      float32, (..., frames, num_columns), at least 0; frames = 1 + (samples - window) // hop, or 0.

    Source: Jansen et al. 2018, section 4.1.
    """
    waveform = tf.convert_to_tensor(waveform, tf.float32)
    batch_shape, num_samples = tf.shape(waveform)[:-1], tf.shape(waveform)[-1]
    num_frames = tf.maximum(0, (num_samples - params.window_samples) // params.hop_samples + 1)
    rows = tf.reshape(waveform, [tf.reduce_prod(batch_shape), num_samples])
    energies = energies_of_hops(_hop_blocks(rows, num_frames, params), params)
    outer = waveform.shape[:-1] if params.num_channels == 1 else waveform.shape[:-2]
    shape = tf.concat([batch_shape[: outer.rank], [num_frames, params.num_columns]], axis=0)
    return tf.ensure_shape(tf.reshape(energies, shape), outer.concatenate([None, params.num_columns]))


def energies_of_hops(hops: tf.Tensor, params: MelParams) -> tf.Tensor:
    """`mel_energies` of waveforms that are cut every hop, as far as complete frames reach.

    Args:
      hops: float32, (hops, rows, hop_samples), a row a waveform of one channel; of stereo, the right one
        behind the left one.

    Returns:
      float32, (rows / num_channels, frames, num_columns).
    """
    batch_size = tf.shape(hops)[1]
    num_frames = tf.shape(hops)[0] + 1 - len(_block_widths(params))
    chunk_frames = tf.maximum(1, _CHUNK_FRAMES // tf.maximum(1, batch_size))
    num_chunks = tf.maximum(1, -(-num_frames // chunk_frames))
    element_shape = [None, params.mel_bins]
    chunks = tf.TensorArray(tf.float32, num_chunks, infer_shape=False, element_shape=element_shape)

    def append_chunk(index, chunks):
        first = index * chunk_frames
        count = tf.minimum(chunk_frames, num_frames - first)
        return index + 1, chunks.write(index, _energies_of_blocks(hops[first:], count, params))

    is_left = lambda index, chunks: index < num_chunks  # noqa: E731
    _, chunks = tf.while_loop(is_left, append_chunk, (0, chunks), parallel_iterations=1)
    num_waveforms = batch_size // params.num_channels
    energies = tf.reshape(chunks.concat(), [num_frames, num_waveforms, params.num_columns])
    return tf.transpose(energies, [1, 0, 2])


def log_mel(energies: tf.Tensor, params: MelParams) -> tf.Tensor:
    """The logarithm of energies, stabilised as `params.log` says; same shape, float32."""
    energies = tf.cast(energies, tf.float32)
    if params.log == "natural":
        return tf.math.log(energies + params.log_offset)
    return tf.math.log(tf.maximum(energies, params.log_offset)) * (20 / math.log(10))


def context_windows(spectrogram: tf.Tensor, params: MelParams, *, hop_frames: int | None = None) -> tf.Tensor:
    """Cuts a spectrogram into context windows.

    Args:
      spectrogram: (..., frames, columns).
      hop_frames: frames from one window's start to the next; the default is `context_frames`, no
        overlap.

    Returns:
      (..., windows, context_frames, columns); frames that do not fill a window are left out.
    """
    hop_frames = hop_frames or params.context_frames
    return tf.signal.frame(spectrogram, params.context_frames, hop_frames, axis=-2)


def log_mel_windows(waveform: tf.Tensor, params: MelParams, *, hop_frames: int | None = None) -> tf.Tensor:
    """Waveform of any length to the log-mel windows that an encoder takes.

    Args:
      waveform: float32, (..., samples); of a stereo front end (..., 2, samples).

    Returns:
      float32, (..., windows, context_frames, num_columns); at least one window.
    """
    energies = mel_energies(pad_to_context(waveform, params), params)
    return log_mel(context_windows(energies, params, hop_frames=hop_frames), params)
