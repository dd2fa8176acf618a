"""The all-pairs coincidence loss and its head, forward and backward: time and peak memory of two ways.

A batch of `n` pairs of embeddings of 128 components and a head with 512 hidden units: `n` x `n` logits.
  - tfsound: two projections a row, and the hidden layer in blocks.
  - concatenation: the head as the paper writes it, a dense layer on every [f(x_1), g(x_2)], `n^2` x 256.

Time is that of the processor, over all cores, which other programs on the machine disturb least.
"""

import subprocess
import sys
import time

import numpy as np

from tests.benchmarks.timing import table
from tests.benchmarks.triplet_loss import available_bytes, peak_megabytes

SIZES, DIM, HIDDEN = (256, 512, 1024, 2048, 4096), 128, 512
# What the concatenation holds at once at most, for each pair: the concatenation, the hidden layer before and
# after its ReLU, and gradients of each: measured at 256 and 512.
BYTES_A_PAIR = 4 * (DIM * 2 + HIDDEN * 2) * 1.46
# Calls of which the best is shown; of larger batches one.
REPEATS = {256: 9, 512: 5, 1024: 3}


def make_embeddings(size: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(size, DIM)).astype(np.float32) for _ in range(2)]


def step_function(method: str):
    """(left, right) -> loss and the gradients of embeddings and head, compiled for each number of rows."""
    import keras
    import tensorflow as tf

    from tfsound import losses, networks

    keras.utils.set_random_seed(0)
    head = networks.CoincidenceHead(HIDDEN)
    head.build((None, DIM), (None, DIM))

    def tfsound(left, right):
        projections = head.project_left(left), head.project_right(right)
        output = tf.convert_to_tensor(head.output_kernel), tf.convert_to_tensor(head.output_bias)
        return losses.all_pairs_coincidence_loss(*projections, *output)[0]

    def concatenation(left, right):
        size = tf.shape(left)[0]
        pairs = tf.concat([tf.repeat(left, size, axis=0), tf.tile(right, [size, 1])], axis=1)
        hidden = tf.nn.relu(pairs @ head.hidden_kernel + head.hidden_bias)
        logits = hidden @ head.output_kernel + head.output_bias
        return losses.coincidence_loss(tf.reshape(logits, [size, size]))

    loss_function = {"tfsound": tfsound, "concatenation": concatenation}[method]

    @tf.function
    def step(left, right):
        with tf.GradientTape() as tape:
            tape.watch([left, right])
            loss = loss_function(left, right)
        return loss, tape.gradient(loss, [left, right, *head.trainable_variables])

    return lambda *arrays: step(*map(tf.constant, arrays))


def run_once(method: str, size: int) -> None:
    """One way, in this process: prints seconds, megabytes over those before, loss, norm of the gradients."""
    step = step_function(method)
    step(*make_embeddings(16))
    embeddings = make_embeddings(size)
    before = peak_megabytes()
    loss, gradients = step(*embeddings)  # what compiling takes is in the memory and not in the time
    peak = peak_megabytes() - before
    seconds = []
    for _ in range(REPEATS.get(size, 1)):
        start = time.process_time()
        loss, gradients = step(*embeddings)
        norm = float(np.sqrt(sum(np.sum(gradient.numpy() ** 2) for gradient in gradients)))
        seconds.append(time.process_time() - start)
    print(min(seconds), peak, float(loss), norm)


def main() -> None:
    rows = []
    for size in SIZES:
        base = None
        for method in ("tfsound", "concatenation"):
            need = BYTES_A_PAIR * size**2 if method == "concatenation" else 0
            if need > 0.8 * available_bytes():
                rows.append([f"{size}", method, "-", "-", f"does not fit: {need / 1e9:.0f} GB", "-", "-"])
                continue
            command = [sys.executable, "-m", __spec__.name, method, str(size)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            seconds, peak, loss, norm = map(float, done.stdout.split())
            base = base or (seconds, peak, loss, norm)
            np.testing.assert_allclose((loss, norm), base[2:], rtol=1e-4)  # else nothing is compared
            rows.append([
                f"{size}", method, f"{1e3 * seconds:.0f} ms", f"{seconds / base[0]:.1f}",
                f"{peak:.0f} MB", f"{peak / base[1]:.1f}", f"{loss:.5f}",
            ])  # fmt: skip
    print("Processor time of loss and head, forward and backward; memory is the peak over that before.\n")
    print(table(["batch", "way", "time", "/ tfsound", "memory", "/ tfsound", "loss"], rows))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        run_once(sys.argv[1], int(sys.argv[2]))
    else:
        main()
