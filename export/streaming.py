"""Embedding sound as it comes: chunks of any size in, the windows of the whole recording out.

A context window depends on `context_samples` samples and on nothing before them, and one begins every
`context_frames * hop_samples`, so that a stream needs no state in the model: `StreamingEmbedder` holds what
is left over between chunks, less than `windows_per_call` windows, and asks whatever answers for the model,
a SavedModel here or TF Serving elsewhere.

    model = exported.load("MODEL")
    stream = StreamingEmbedder(model.embed_waveforms, model.export.mel_params)
    for chunk in microphone:
        for window in stream.push(chunk):
            print(window.start_seconds, window.embedding)
    stream.finish()
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from tfsound import mel

_WINDOWS_PER_CALL = 16


@dataclasses.dataclass(frozen=True)
class StreamedWindow:
    """One context window of a stream.

    `start_seconds` counts from the first sample pushed. `embedding`: float32, (d,). `scores`: float32,
    (classes,), of a classifier, else None.
    """

    start_seconds: float
    embedding: np.ndarray
    scores: np.ndarray | None = None


class StreamingEmbedder:
    """Turns a stream of samples into the windows that the whole recording would have.

    One object a stream; what it calls may be shared. Memory is that of `windows_per_call` windows of sound,
    however long the stream.

    Args:
      predict: a waveform, float32, (1, samples), or (1, 2, samples) of a stereo front end -> the outputs of
        the signature `serving_default` by their names, `window_embeddings` (1, windows, d) among them, as
        arrays or lists: `exported.LoadedModel.embed_waveforms`, or a client of TF Serving.
      mel_params: the model's front end, `LoadedModel.export.mel_params`, that of `assets/mel_params.json`.
      windows_per_call: how many windows a call embeds at most; a larger chunk takes several calls.

    Raises:
      ValueError: `windows_per_call` is less than 1.
    """

    def __init__(
        self,
        predict: Callable[[np.ndarray], Mapping],
        mel_params: mel.MelParams,
        *,
        windows_per_call: int = _WINDOWS_PER_CALL,
    ):
        if windows_per_call < 1:
            raise ValueError(f"windows_per_call must be at least 1, got {windows_per_call}.")
        self._predict = predict
        self._mel_params = mel_params
        self._step_samples = mel_params.context_frames * mel_params.hop_samples
        num_samples = mel_params.samples_of(windows_per_call * mel_params.context_frames)
        self._buffer = np.zeros((mel_params.num_channels, num_samples), np.float32)
        self._num_held = 0
        # Where analysis windows are shorter than their hop, no window sees what lies between two.
        self._num_to_skip = 0
        self._num_windows = 0
        self._is_finished = False

    @property
    def buffer_bytes(self) -> int:
        """The memory that the stream holds, always the same."""
        return self._buffer.nbytes

    def push(self, samples: np.ndarray) -> list[StreamedWindow]:
        """Takes the next samples of the stream; returns the windows that are complete now, often none.

        Args:
          samples: any number of them, float, in [-1, 1], at the model's rate: (samples,), of a stereo front
            end (2, samples).

        Raises:
          ValueError: another shape or type, which leaves the stream as it was; the stream is finished; an
          answer of `predict` that is none of such a model. That, or any error of `predict`, ends the stream.
        """
        self._require_unfinished()
        samples = self._checked(samples)
        windows: list[StreamedWindow] = []
        while samples.shape[1]:
            num_skipped = min(self._num_to_skip, samples.shape[1])
            self._num_to_skip -= num_skipped
            samples = samples[:, num_skipped:]
            num_taken = min(samples.shape[1], self._buffer.shape[1] - self._num_held)
            self._buffer[:, self._num_held : self._num_held + num_taken] = samples[:, :num_taken]
            self._num_held += num_taken
            samples = samples[:, num_taken:]
            windows += self._complete_windows()
        return windows

    def finish(self) -> list[StreamedWindow]:
        """Ends the stream; returns what is left.

        What does not fill a last window is left out, as of a whole recording, and of a recording shorter
        than a window one window is made with silence behind.

        Raises:
          ValueError: the stream is finished; see `push`.
        """
        self._require_unfinished()
        windows = []
        if not self._num_windows:
            windows = self._embedded(self._buffer[:, : self._num_held], 1)
        self._is_finished = True
        return windows

    def _require_unfinished(self) -> None:
        if self._is_finished:
            raise ValueError(
                "the stream is finished, or ended with an error; make another StreamingEmbedder for the next "
                "one."
            )

    def _checked(self, samples: np.ndarray) -> np.ndarray:
        """As float32, (channels, samples)."""
        samples = np.asarray(samples)
        channels = self._mel_params.num_channels
        expected = "(samples,)" if channels == 1 else "(2, samples)"
        if samples.dtype.kind != "f":
            raise ValueError(
                f"samples must be float, in [-1, 1], got {samples.dtype}; divide 16-bit integers by 32768."
            )
        if samples.ndim != channels or samples.shape[:-1] not in ((), (2,)):
            raise ValueError(
                f"samples must be {expected} for this model, got {samples.shape}; average or repeat "
                "channels, or transpose."
            )
        return samples.reshape(channels, -1)

    def _complete_windows(self) -> list[StreamedWindow]:
        """Embeds the windows that the buffer holds, and drops what no later window sees."""
        missing = self._num_held - self._mel_params.context_samples
        if missing < 0:
            return []
        num_windows = missing // self._step_samples + 1
        end = self._mel_params.samples_of(num_windows * self._mel_params.context_frames)
        windows = self._embedded(self._buffer[:, :end], num_windows)
        num_past = num_windows * self._step_samples
        num_left = max(0, self._num_held - num_past)
        self._num_to_skip = max(0, num_past - self._num_held)
        self._buffer[:, :num_left] = self._buffer[:, num_past : num_past + num_left].copy()
        self._num_held = num_left
        return windows

    def _embedded(self, samples: np.ndarray, num_windows: int) -> list[StreamedWindow]:
        """The windows of samples, (channels, samples), which hold so many."""
        # Until the answer is there: without it, the stream could not go on at the right time.
        self._is_finished = True
        answer = self._predict(samples if self._mel_params.num_channels == 1 else samples[None])
        embeddings = self._of_windows(answer, "window_embeddings", num_windows)
        scores = [None] * num_windows
        if "window_scores" in answer:
            scores = self._of_windows(answer, "window_scores", num_windows)
        self._is_finished = False
        first = self._num_windows
        self._num_windows += num_windows
        seconds_per_window = self._mel_params.context_seconds
        return [
            StreamedWindow((first + index) * seconds_per_window, embeddings[index], scores[index])
            for index in range(num_windows)
        ]

    @staticmethod
    def _of_windows(answer: Mapping, name: str, num_windows: int) -> np.ndarray:
        """An output of the model, (windows, ...)."""
        values = np.asarray(answer[name], np.float32) if name in answer else np.zeros(0, np.float32)
        if values.ndim != 3 or values.shape[:2] != (1, num_windows):
            raise ValueError(
                f"predict must give {name} of shape (1, {num_windows}, ...), got {sorted(answer)} with "
                f"{values.shape}; let it call the signature serving_default of an export."
            )
        return values[0]
