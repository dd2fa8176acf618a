"""Both metrics at the size of AudioSet's evaluation set, against loops over pairs and over segments.

20,000 segments, 527 classes, 2 to 3 labels a segment, of which the rarest class has 60.
"""

import functools
import subprocess
import sys
import tracemalloc

import numpy as np

from tests.benchmarks.timing import best_seconds, table
from tfsound import metrics

NUM_SEGMENTS, NUM_CLASSES = 20000, 527
CASES = {
    "QbE, embeddings of 128": ("query", 128),
    "QbE, log-mel vectors of 6,144": ("query", 6144),
    "mAP, scores of 527 classes": ("scores", 527),
}


def make_labels(rng: np.random.Generator) -> np.ndarray:
    frequencies = np.arange(1, NUM_CLASSES + 1) ** -0.6
    labels = rng.random((NUM_SEGMENTS, NUM_CLASSES)) < 2 * frequencies / frequencies.sum()
    for column in labels.T:
        missing = max(0, 60 - column.sum())
        column[rng.choice(np.flatnonzero(~column), missing, replace=False)] = True
    return labels


def naive_average_precision(targets: list[bool], scores: list[float]) -> float:
    """One item at a time, for scores without ties."""
    hits, total = 0, 0.0
    for rank, index in enumerate(sorted(range(len(scores)), key=lambda item: -scores[item]), start=1):
        if targets[index]:
            hits += 1
            total += hits / rank
    return total / hits


def naive_class(embeddings: np.ndarray, is_present: np.ndarray) -> float:
    """One class of the query-by-example protocol, one pair at a time."""
    rng = np.random.default_rng(0)
    present, absent = (rng.permutation(np.flatnonzero(side))[:100] for side in (is_present, ~is_present))
    pairs = [(a, b, True) for n, a in enumerate(present) for b in present[n + 1 :]]
    pairs += [(a, b, False) for a in present for b in absent]
    cosines = [
        embeddings[a] @ embeddings[b] / (np.linalg.norm(embeddings[a]) * np.linalg.norm(embeddings[b]))
        for a, b, _ in pairs
    ]
    return naive_average_precision([is_target for *_, is_target in pairs], cosines)


def run_case(kind: str, dim: int) -> None:
    """One case, in this process: prints seconds, peak memory over the input in MB, seconds of the loop.

    The loop runs over the most frequent class, and is taken as often as there are classes.
    """
    rng = np.random.default_rng(0)
    labels = make_labels(rng)
    values = rng.standard_normal((NUM_SEGMENTS, dim), dtype=np.float32)
    if kind == "query":
        measure = functools.partial(metrics.query_by_example_map, values, labels)
        loop = functools.partial(naive_class, values, labels[:, 0])
    else:
        measure = functools.partial(metrics.mean_average_precision, labels, values)
        loop = functools.partial(naive_average_precision, labels[:, 0].tolist(), values[:, 0].tolist())
    seconds, naive = (best_seconds(function, repeats=3) for function in (measure, loop))
    tracemalloc.start()
    measure()
    print(f"{seconds} {tracemalloc.get_traced_memory()[1] / 2**20} {NUM_CLASSES * naive}")


def main() -> None:
    rows = []
    for name, (kind, dim) in CASES.items():
        command = [sys.executable, "-m", __spec__.name, kind, str(dim)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        seconds, memory, naive = map(float, done.stdout.split())
        times = [f"{seconds:.2f} s", f"{naive:.1f} s", f"{naive / seconds:.0f}"]
        rows.append([name, *times, f"{memory:.0f} MB"])
    print(
        f"{NUM_SEGMENTS:,} segments, {NUM_CLASSES} classes; the loop over one class, times {NUM_CLASSES}.\n"
    )
    print(table(["case", "tfsound", "loop", "loop / tfsound", "peak memory over the input"], rows))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        run_case(sys.argv[1], int(sys.argv[2]))
    else:
        main()
