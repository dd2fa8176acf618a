"""What an export costs over the bare network, and what its warm-up requests save the first client.

Overhead: `resnet_small`, 96 x 64, on clips of one window and of 10 s. The bare network takes log-mel windows
that are there already; with its front end it takes waveforms, as `serving_default` does. Ways take turns.
Time is that of the processor, over all cores, which other programs on the machine disturb least.

Warm-up: from loading the model in a process of its own until the first client has its embedding.
"""

import itertools
import os
import subprocess
import sys
import tempfile
import time

from tests.benchmarks.timing import table

CLIPS = ((1, 1), (32, 1), (1, 10), (32, 10))  # batch, windows
ROUNDS, STARTS = 30, 3


def best_of_each(functions: dict) -> dict[str, float]:
    """The least processor time of each function, in rounds in which each has its turn."""
    for function in functions.values():
        function()
    seconds = dict.fromkeys(functions, float("inf"))
    for _ in range(ROUNDS):
        for name, function in functions.items():
            start = time.process_time()
            function()
            seconds[name] = min(seconds[name], time.process_time() - start)
    return seconds


def overhead(path: str, encoder) -> str:
    import numpy as np
    import tensorflow as tf

    from tfsound import mel

    params = mel.MelParams()
    loaded = tf.saved_model.load(path)
    bare = tf.function(
        lambda log_mel: encoder(log_mel, training=False),
        input_signature=[tf.TensorSpec([None, *params.window_shape])],
    )
    with_front_end = tf.function(
        lambda waveform: encoder(
            tf.reshape(mel.log_mel_windows(waveform, params), [-1, *params.window_shape]), training=False
        ),
        input_signature=[tf.TensorSpec([None, None])],
    )
    rows = []
    for batch, num_windows in CLIPS:
        num_samples = params.samples_of(num_windows * params.context_frames)
        waveform = tf.constant(
            0.1 * np.random.default_rng(0).standard_normal((batch, num_samples)), tf.float32
        )
        windows = tf.reshape(mel.log_mel_windows(waveform, params), [-1, *params.window_shape])
        signatures = loaded.signatures
        seconds = best_of_each({
            "bare": lambda: bare(windows).numpy(),  # noqa: B023 (called at once)
            "log_mel": lambda: signatures["log_mel"](log_mel=windows)["embedding"].numpy(),  # noqa: B023
            "front end": lambda: with_front_end(waveform).numpy(),  # noqa: B023
            "waveform": lambda: signatures["serving_default"](waveform=waveform)["embedding"].numpy(),  # noqa: B023
        })  # fmt: skip
        rows.append([
            f"{batch} x {num_windows} windows",
            *(f"{1e3 * seconds[name]:.2f} ms" for name in seconds),
            f"{seconds['log_mel'] / seconds['bare']:.2f}",
            f"{seconds['waveform'] / seconds['front end']:.2f}",
            f"{seconds['waveform'] / seconds['bare']:.2f}",
        ])  # fmt: skip
    header = [
        "batch", "bare network", "`log_mel`", "with front end", "`serving_default`", "`log_mel` / bare",
        "`serving_default` / with front end", "`serving_default` / bare",
    ]  # fmt: skip
    return table(header, rows)


def first_request(path: str, replays: bool) -> None:
    """In this process: prints the seconds of loading, replaying, the first request and a later one."""
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    from tfsound.export import warm_up

    request = tf.zeros([1, 160000])
    tf.reduce_sum(request).numpy()
    times = [time.perf_counter()]
    loaded = tf.saved_model.load(path)
    times.append(time.perf_counter())
    if replays:
        for record in tf.data.TFRecordDataset(os.path.join(path, warm_up.PATH)).as_numpy_iterator():
            log = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
            inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in log.inputs.items()}
            loaded.signatures[log.model_spec.signature_name](**inputs)
    times.append(time.perf_counter())
    for _ in range(2):
        loaded.signatures["serving_default"](waveform=request)["embedding"].numpy()
        times.append(time.perf_counter())
    print(*(end - start for start, end in itertools.pairwise(times)))


def starts(path: str) -> str:
    rows = []
    for replays in (False, True):
        found = []
        for _ in range(STARTS):
            command = [sys.executable, "-m", __spec__.name, path, str(int(replays))]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found.append([float(value) for value in done.stdout.split()])
        load, replay, first, later = map(min, zip(*found, strict=True))
        rows.append([
            "replayed" if replays else "not replayed", *(f"{1e3 * value:.0f} ms" for value in (load, replay)),
            f"{1e3 * first:.0f} ms", f"{1e3 * later:.0f} ms", f"{first / later:.1f}",
        ])  # fmt: skip
    return table(["warm-up", "loading", "replaying", "first request", "a later one", "first / later"], rows)


def main() -> None:
    import keras

    from tfsound import mel, networks
    from tfsound.export import saved_model

    keras.utils.set_random_seed(0)
    encoder = networks.build_encoder("resnet_small")
    with tempfile.TemporaryDirectory() as folder:
        path = saved_model.save(encoder, mel.MelParams(), folder, provenance={}).path
        print(overhead(path, encoder))
        print(f"\nA request of 10 s; the best of {STARTS} processes each.\n")
        print(starts(path))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        first_request(sys.argv[1], bool(int(sys.argv[2])))
    else:
        main()
