"""Loads an export into the TensorFlow of requirements.txt, fed by tensorflow-io: `load_export.py FOLDER`.

The folder is as `write_export.py` leaves it; another answer than its own ends with exit code 1.
"""

import pathlib
import sys

import numpy as np
import tensorflow as tf
import tensorflow_io as tfio

# Both round 16-bit samples to float32; the kernels of two TensorFlows add up in another order.
TOLERANCE = 1e-5
FULL_SCALE = 32768.0


def decoded(path: pathlib.Path) -> tf.Tensor:
    """The mono samples of a 16-bit file: float32, (samples,)."""
    decode = tfio.audio.decode_wav if path.suffix == ".wav" else tfio.audio.decode_flac
    samples = decode(tf.io.read_file(str(path)), dtype=tf.int16)
    return tf.reduce_mean(tf.cast(samples, tf.float32) / FULL_SCALE, axis=1)


def main(folder: pathlib.Path) -> None:
    model = tf.saved_model.load(str(folder / "model" / "1"))
    differences = {}
    for name, expected in np.load(folder / "expected.npz").items():
        found = model.signatures["serving_default"](waveform=decoded(folder / name)[None])["embedding"]
        differences[name] = float(np.abs(found.numpy() - expected).max())
    shown = ", ".join(f"{name} {difference:.1e}" for name, difference in differences.items())
    print(
        f"The export under TensorFlow {tf.__version__}, tensorflow-io {tfio.__version__}: largest difference "
        f"of an embedding {shown}."
    )
    if not max(differences.values()) < TOLERANCE:
        sys.exit(f"expected less than {TOLERANCE}")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
