"""Small sets of pairs, and a run to start from, for tests of training on coincidence."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tiny

from tfsound import examples, training

NUM_PAIRS = 24
# 5 steps with a checkpoint every 3.
SETTINGS = {
    "encoder": "tiny", "embedding_dim": 6, "num_steps": 5, "batch_size": 4, "steps_per_checkpoint": 3,
    "learning_rate": 0.01, "seed": 3,
}  # fmt: skip


def make_pair(number, modality):
    """A serialised pair; both sides have a level of their recording, so that there is something to learn."""
    rng = np.random.default_rng(number)
    level = number % 6

    def window():
        return examples.encode_mel_energy(level + rng.uniform(0, 1, tiny.WINDOW))

    ref = examples.WindowRef(f"clip-{level}", f"recording-{level}", float(number))
    if modality == examples.AUDIO_AUDIO:
        return examples.encode_pair(window(), ref, window(), dataclasses.replace(ref, start_seconds=1.0))
    pixels = np.full((128, 128, 3), 40 * level, np.uint8) + rng.integers(0, 20, (128, 128, 3), np.uint8)
    frame = examples.FrameRef(ref.clip_id, ref.recording_id, 1.0)
    return examples.encode_pair(window(), ref, tf.io.encode_jpeg(pixels).numpy(), frame)


def write_pairs(directory, modality, *, num_pairs=NUM_PAIRS, mel_params=tiny.PARAMS):
    records = [make_pair(number, modality) for number in range(num_pairs)]
    parameters = {"modality": modality, "max_time_gap_seconds": 10.0}
    return tiny.write_set(
        directory, examples.PAIRS, [records[::2], records[1::2]], parameters=parameters, mel_params=mel_params
    )


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """The folders of the two kinds of pairs."""
    folder = tmp_path_factory.mktemp("pairs")
    return [
        write_pairs(folder / modality, modality) for modality in (examples.AUDIO_AUDIO, examples.AUDIO_IMAGE)
    ]


@pytest.fixture(scope="module")
def image_run(pairs, tiny_encoder, tmp_path_factory):
    """A run on audio and image alone, without clusters: the first of the curriculum."""
    output = str(tmp_path_factory.mktemp("runs") / "image")
    training.train_coincidence(output, audio_image=pairs[1:], **SETTINGS)
    return output
