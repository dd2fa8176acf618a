"""Loss and gradient of the mined triplet loss: time and peak memory, against two other ways to the same.

The problem is one that all three define alike: `n` unit-norm embeddings of 128 components, two of each class,
so that `n` ordered pairs are anchor and positive, and every embedding of another class is a negative.
  - tfsound: a distance matrix, `n` x `n`: quadratic memory.
  - all pairs: how tensorflow-addons computes the semi-hard loss of Schroff et al. 2015, section 3.2,
    written anew: every pair against every negative, `n` x `n` x `n`: cubic memory.
  - loop: two nested loops in Python over NumPy rows.
"""

import pathlib
import resource
import subprocess
import sys
import time

import numpy as np

from tests.benchmarks.timing import best_seconds, table

SIZES, DIM, MARGIN = (256, 512, 1024), 128, 0.1
# What all pairs hold at once at most, for each (anchor, positive, negative): measured at 256 and 512.
CUBIC_BYTES = 7


def make_embeddings(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings, (size, DIM), and their classes; a pair lies at 2 places of the batch."""
    rng = np.random.default_rng(0)
    labels = np.arange(size) % (size // 2)
    embeddings = 0.5 * rng.normal(size=(size // 2, DIM))[labels] + rng.normal(size=(size, DIM))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings.astype(np.float32), labels


def with_gradient(loss_function):
    """(embeddings, labels) -> loss and gradient, compiled once for any number of rows."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([None, DIM]), tf.TensorSpec([None], tf.int64)])
    def function(embeddings, labels):
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            loss = loss_function(embeddings, labels)
        return loss, tape.gradient(loss, embeddings)

    return function


def tfsound_function():
    import tensorflow as tf

    from tfsound import losses

    def mined(embeddings, labels):
        positive = tf.roll(embeddings, tf.shape(embeddings)[0] // 2, axis=0)
        return losses.semi_hard_triplet_loss(
            embeddings, positive, embeddings, embeddings, losses.allowed_negatives(labels, labels),
            margin=MARGIN,
        )  # fmt: skip

    return with_gradient(mined)


def all_pairs_function():
    import tensorflow as tf

    from tfsound import losses

    def all_pairs(embeddings, labels):
        distances = losses.squared_distances(embeddings, embeddings)
        is_other = labels[:, None] != labels
        is_semi_hard = is_other[:, None, :] & (distances[:, None, :] > distances[:, :, None])
        closest = tf.reduce_min(tf.where(is_semi_hard, distances[:, None, :], np.inf), axis=2)
        farthest = tf.reduce_max(tf.where(is_other, distances, -1.0), axis=1, keepdims=True)
        served = tf.where(tf.reduce_any(is_semi_hard, axis=2), closest, farthest)
        is_positive = ~is_other & ~tf.eye(tf.shape(labels)[0], dtype=tf.bool)
        hinges = tf.where(is_positive, tf.maximum(0.0, distances - served + MARGIN), 0.0)
        return tf.reduce_sum(hinges) / tf.reduce_sum(tf.cast(is_positive, tf.float32))

    return with_gradient(all_pairs)


def loop(embeddings: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    size = len(labels)
    loss, gradient = 0.0, np.zeros_like(embeddings)
    for row, anchor in enumerate(embeddings):
        partner = (row + size // 2) % size
        near = np.sum((anchor - embeddings[partner]) ** 2)
        closest, farthest = (np.inf, -1), (-1.0, -1)
        for column, candidate in enumerate(embeddings):
            if labels[column] != labels[row]:
                distance = np.sum((anchor - candidate) ** 2)
                farthest = max(farthest, (distance, column))
                if distance > near:
                    closest = min(closest, (distance, column))
        far, served = closest if closest[1] >= 0 else farthest
        if near - far + MARGIN > 0:
            loss += (near - far + MARGIN) / size
            gradient[row] += 2 * (embeddings[served] - embeddings[partner]) / size
            gradient[partner] += 2 * (embeddings[partner] - anchor) / size
            gradient[served] += 2 * (anchor - embeddings[served]) / size
    return loss, gradient


METHODS = {"tfsound": tfsound_function, "all pairs": all_pairs_function, "loop": lambda: loop}


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_once(method: str, size: int) -> None:
    """One way, in this process: prints seconds, megabytes over those before, loss, norm of the gradient."""
    function = METHODS[method]()
    function(*make_embeddings(16))
    embeddings, labels = make_embeddings(size)
    before = peak_megabytes()
    start = time.perf_counter()
    loss, gradient = function(embeddings, labels)
    seconds = time.perf_counter() - start
    peak = peak_megabytes() - before
    seconds = best_seconds(lambda: function(embeddings, labels), repeats=20 if seconds < 2 else 1)
    # Along the unit sphere, where `2 - 2 a . b` and `|a - b|^2` are the same function.
    outwards = np.sum(gradient * embeddings, axis=1, keepdims=True) * embeddings
    print(seconds, peak, float(loss), float(np.linalg.norm(gradient - outwards)))


def available_bytes() -> float:
    """What the machine can still give; infinite where it does not say."""
    path = pathlib.Path("/proc/meminfo")
    lines = path.read_text().splitlines() if path.exists() else []
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return found[0] if found else np.inf


def main() -> None:
    rows = []
    for size in SIZES:
        base = None
        for method in METHODS:
            need = CUBIC_BYTES * size**3 if method == "all pairs" else 0
            if need > 0.8 * available_bytes():
                rows.append([f"{size}", method, "-", "-", f"does not fit: {need / 1e9:.0f} GB", "-", "-"])
                continue
            command = [sys.executable, "-m", __spec__.name, method, str(size)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            seconds, peak, loss, norm = map(float, done.stdout.split())
            base = base or (seconds, peak, loss, norm)
            np.testing.assert_allclose((loss, norm), base[2:], rtol=1e-4)  # else nothing is compared
            rows.append([
                f"{size}", method, f"{1e3 * seconds:.1f} ms", f"{seconds / base[0]:.1f}",
                f"{peak:.0f} MB", f"{peak / base[1]:.1f}", f"{loss:.5f}",
            ])  # fmt: skip
    print(f"Embeddings of {DIM} components; memory is the peak over that of the loaded program.\n")
    print(table(["batch", "way", "time", "/ tfsound", "memory", "/ tfsound", "loss"], rows))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        run_once(sys.argv[1], int(sys.argv[2]))
    else:
        main()
