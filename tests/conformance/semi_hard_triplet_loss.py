"""Records what tensorflow-addons answers: `make conformance` runs this where requirements.txt is installed.

Writes `semi_hard_triplet_loss.npz` beside itself. A case `<name>` has `<name>.embeddings`, float32,
(batch, embedding_dim), unit-norm; `<name>.labels`, int64, (batch,); `<name>.margin`; and of
`TripletSemiHardLoss` the `<name>.loss` and the `<name>.gradient` by the embeddings.
"""

import pathlib

import numpy as np
import tensorflow as tf
import tensorflow_addons as tfa

GOLDEN = pathlib.Path(__file__).with_suffix(".npz")


def classes_in_clouds(seed: int, labels: list[int], *, spread: float, dim: int = 8) -> np.ndarray:
    """Unit-norm embeddings around a centre a class; `spread` 0 puts a class on one point."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(labels) + 1, dim))
    embeddings = centres[labels] + spread * rng.normal(size=(len(labels), dim))
    return (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32)


def cases() -> dict[str, tuple[np.ndarray, list[int], float, str]]:
    """{name: (embeddings, labels, margin, distance_metric)}."""
    mixed = [0, 1, 2, 0, 1, 2, 0, 1, 3, 0, 2, 1, 0, 4, 2, 4]
    cloud = classes_in_clouds(0, mixed, spread=0.7)
    opposite = np.float32([[1, 0], [-1, 0], [0.6, 0.8], [0.8, 0.6]])
    return {
        "clouds": (cloud, mixed, 0.1, "squared-L2"),
        "wide_margin": (cloud, mixed, 1.0, "squared-L2"),
        "no_classes_to_see": (classes_in_clouds(1, mixed, spread=9.0), mixed, 0.1, "squared-L2"),
        # No negative is farther than the positive, so the farthest serves.
        "opposite_positive": (opposite, [0, 0, 1, 2], 0.5, "squared-L2"),
        # Where the definitions differ.
        "no_negative": (cloud[:4], [0, 0, 0, 0], 0.1, "squared-L2"),
        "no_positive": (cloud[:4], [0, 1, 2, 3], 0.1, "squared-L2"),
        "plain_distance": (cloud, mixed, 0.1, "L2"),
    }


def main() -> None:
    arrays = {}
    for name, (embeddings, labels, margin, metric) in cases().items():
        loss_function = tfa.losses.TripletSemiHardLoss(margin=margin, distance_metric=metric)
        variable = tf.Variable(embeddings)
        with tf.GradientTape() as tape:
            loss = loss_function(tf.constant(labels), variable)
        case = {
            "embeddings": embeddings, "labels": np.array(labels), "margin": np.float32(margin),
            "loss": loss.numpy(), "gradient": tape.gradient(loss, variable).numpy(),
        }  # fmt: skip
        arrays |= {f"{name}.{key}": value for key, value in case.items()}
    np.savez_compressed(GOLDEN, **arrays)
    print(
        f"{GOLDEN}: {len(cases())} cases of tensorflow-addons {tfa.__version__}, TensorFlow {tf.__version__}."
    )


if __name__ == "__main__":
    main()
