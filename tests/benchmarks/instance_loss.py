"""A step of instance discrimination without its encoder, over the number of instances: time and peak memory.

A batch of 64 embeddings of 128 components, loss, gradient by the embeddings, and the update of the bank.
  - nce: 64 negatives a row, as the DLS paper has it.
  - softmax: equation 1, over all rows of the bank.

Time is that of the processor, over all cores, which other programs on the machine disturb least. Memory is
the peak over that of the loaded program, with the bank, which is named beside it.
"""

import subprocess
import sys
import time

from tests.benchmarks.timing import table
from tests.benchmarks.triplet_loss import available_bytes, peak_megabytes

SIZES, BATCH, DIM, NUM_NEGATIVES = (1000, 10_000, 100_000, 1_000_000), 64, 128, 64
# A bank of 1 GB, by NCE alone.
LARGEST = 2_000_000
# Steps of which a mean is taken, and how many such means are, of which the best is shown.
STEPS, REPEATS = {"nce": 30, "softmax": 3}, {"nce": 20, "softmax": 5}
# What the softmax holds at once at most for each of its logits: they, their probabilities and the gradient;
# and of each row, of which it reads a copy.
BYTES_A_LOGIT, BYTES_A_COMPONENT = 16, 8


def step_function(method: str, size: int):
    """A step on a bank of `size` rows, with other instances and other negatives each time -> its loss."""
    import keras
    import tensorflow as tf

    from tfsound import models

    encoder = keras.Sequential([keras.Input((DIM,)), keras.layers.Identity()])
    model = models.InstanceDiscriminationModel(
        encoder, size, num_negatives=NUM_NEGATIVES if method == "nce" else 0
    )
    model.compile(optimizer="sgd")
    embeddings = tf.Variable(tf.linalg.l2_normalize(tf.random.stateless_normal([BATCH, DIM], [0, 0]), axis=1))

    @tf.function
    def step():
        steps = model.optimizer.iterations.value
        seed = tf.stack([tf.constant(1, tf.int64), tf.cast(steps, tf.int64)])
        ids = tf.random.stateless_uniform([BATCH], seed, maxval=size, dtype=tf.int64)
        with tf.GradientTape() as tape:
            loss, log_partition = model.batch_loss(ids, embeddings)
        gradient = tape.gradient(loss, embeddings)
        model.memory_bank.update(ids, embeddings)
        if log_partition is not None:
            model.log_partition.assign(log_partition)
        steps.assign_add(1)
        return loss, tf.norm(gradient)

    return step


def run_once(method: str, size: int) -> None:
    """One way, in this process: prints seconds, megabytes, loss and norm of the gradient."""
    step_function(method, 100)()
    before = peak_megabytes()
    step = step_function(method, size)
    step()
    seconds = []
    for _ in range(REPEATS[method]):
        start = time.process_time()
        for _ in range(STEPS[method]):
            loss, norm = step()
        seconds.append((time.process_time() - start) / STEPS[method])
    print(min(seconds), peak_megabytes() - before, float(loss), float(norm))


def main() -> None:
    rows, base = [], None
    for size in (*SIZES, LARGEST):
        nce = None
        for method in ("nce", "softmax") if size in SIZES else ("nce",):
            need = size * DIM * 4
            if method == "softmax":
                need += size * (BATCH * BYTES_A_LOGIT + DIM * BYTES_A_COMPONENT)
            if need > 0.8 * available_bytes():
                rows.append([f"{size:,}", method, f"does not fit: {need / 1e9:.0f} GB", *["-"] * 5])
                continue
            command = [sys.executable, "-m", __spec__.name, method, str(size)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            seconds, peak, loss, norm = map(float, done.stdout.split())
            nce = nce or seconds
            base = base or seconds
            rows.append([
                f"{size:,}", method, f"{1e3 * seconds:.2f} ms", f"{seconds / nce:.1f}",
                f"{seconds / base:.2f}", f"{peak:.0f} MB", f"{4 * DIM * size / 2**20:.0f} MB",
                f"{loss:.3f}, {norm:.3f}",
            ])  # fmt: skip
    print(f"Batch {BATCH}, {DIM} components.\n")
    header = [
        "instances", "way", "step", "/ nce", f"/ nce of {SIZES[0]:,}", "peak", "of it the bank",
        "loss, norm of the gradient",
    ]  # fmt: skip
    print(table(header, rows))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        run_once(sys.argv[1], int(sys.argv[2]))
    else:
        main()
