"""The log-mel front end against librosa's: one thread, the same parameters and output.

Each takes its own kind of array, a tensor or an ndarray.
"""

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[variable] = "1"

import librosa
import numpy as np
import tensorflow as tf

from tests.benchmarks.timing import best_seconds, table
from tfsound import mel

tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)


def librosa_log_mel(waveform: np.ndarray, params: mel.MelParams) -> np.ndarray:
    energies = librosa.feature.melspectrogram(
        y=waveform, sr=params.sample_rate, n_fft=params.fft_length, win_length=params.window_samples,
        hop_length=params.hop_samples, center=False, power=1.0, n_mels=params.mel_bins,
        fmin=params.mel_min_hz, fmax=params.mel_max_hz, htk=True, norm=None,
    )  # fmt: skip
    return np.log(energies + params.log_offset)


def main() -> None:
    params = mel.preset("audioset")
    front_end = tf.function(
        lambda waveform: mel.log_mel(mel.mel_energies(waveform, params), params),
        input_signature=[tf.TensorSpec([None], tf.float32)],
    )
    rows = []
    for seconds in (5, 10, 60):
        waveform = np.random.default_rng(0).standard_normal(seconds * 16000).astype(np.float32) * 0.1
        tensor = tf.constant(waveform)
        ours = best_seconds(lambda: front_end(tensor).numpy(), repeats=200)  # noqa: B023 (called at once)
        theirs = best_seconds(lambda: librosa_log_mel(waveform, params), repeats=200)  # noqa: B023
        times = [f"{1e3 * value:.2f} ms" for value in (ours, theirs)]
        rows.append([f"{seconds} s", *times, f"{theirs / ours:.2f}"])
    print(table(["clip", "tfsound", "librosa", "librosa / tfsound"], rows))


if __name__ == "__main__":
    main()
