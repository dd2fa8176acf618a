"""Stereo the whole way: files, examples, instances, pre-training, fine-tuning, an export, the same scores."""

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from tfsound import datasets, evaluation, examples, media, mel, training
from tfsound.beam.examples import make_examples
from tfsound.beam.instances import assign_instances
from tfsound.export import saved_model

pytestmark = pytest.mark.usefixtures("tiny_encoder")

RATE, CLASSES = 44_100, ("high", "low")
PARAMS = mel.preset("esresnet", context_seconds=0.4, num_channels=2)


def write_sounds(folder):
    """Twelve files of two classes and two folds: noise on the left, the class's own tone on the right."""
    rows = []
    for number in range(12):
        rng, label = np.random.default_rng(number), CLASSES[number % 2]
        times = np.arange(round(RATE * (0.3 + 0.1 * number))) / RATE
        tone = np.sin(2 * np.pi * (5000 if label == "high" else 500) * times)
        left, right = (
            0.1 * rng.standard_normal(len(times)),
            0.3 * tone + 0.01 * rng.standard_normal(len(times)),
        )
        path = str(folder / f"{number}.wav")
        soundfile.write(path, np.stack([left, right], axis=1), RATE, subtype="PCM_16")
        rows.append(
            datasets.ManifestRow(str(number), path, path, labels=(label,), fold=str(1 + number // 2 % 2))
        )
    return rows


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_encoder):
    """The folder with everything, and the rows of its manifest."""
    folder = tmp_path_factory.mktemp("stereo")
    rows = write_sounds(folder)
    datasets.write_manifest(str(folder / "table.csv"), rows)
    clips = str(folder / "clips")
    make_examples(
        str(folder / "table.csv"), clips, mel_preset="esresnet", context_seconds=0.4, num_channels=2,
        num_workers=1,
    )  # fmt: skip
    assign_instances((clips,), str(folder / "instances"), exclude_folds=("1",), num_workers=1)
    training.train_instances(
        str(folder / "instances"), str(folder / "pretrained"), encoder="tiny", embedding_dim=6, num_steps=4,
        batch_size=4, num_negatives=3, learning_rate=0.01, knn_folds=("1",), knn_neighbors=2,
    )  # fmt: skip
    evaluation.fine_tune(
        clips, str(folder / "tuned"), starts=(f"DLS={folder / 'pretrained'}",), folds=("1",), encoder="tiny",
        num_epochs=4, batch_size=4, learning_rate=0.02, cold_epochs=0, warm_up_epochs=0,
    )  # fmt: skip
    return folder, rows


def waveform_of(row):
    """(2, samples), as a server is sent it."""
    return media.read_audio(row.uri, sample_rate=RATE, num_channels=2).T


def test_examples_hold_left_and_then_right(made):
    folder, rows = made
    clips = {clip.clip_id: clip for clip in examples.iter_clips(str(folder / "clips"))}
    for row in rows:
        left, right = np.split(clips[row.clip_id].mel_energy.astype(np.float32), 2, axis=1)
        tone_bin = round((5000 if row.labels[0] == "high" else 500) * 2048 / RATE)
        assert right.mean(axis=0).argmax() == pytest.approx(tone_bin, abs=1)
        assert right.max() > 5 * left.max()


@pytest.mark.parametrize(
    "run", ["pretrained", "tuned/runs/DLS/without_1", "tuned/runs/from_scratch/without_1"]
)
def test_an_export_gives_what_the_run_gives(made, tmp_path, run):
    folder, rows = made
    exported = saved_model.export(str(folder / run), str(tmp_path / "model"))
    assert exported.largest_difference < 1e-5
    served = tf.saved_model.load(exported.path)
    if run == "pretrained":
        encoder, found_params = training.load_encoder(str(folder / run))
        live = {"embedding": encoder}
    else:
        classifier, found_params, names = training.load_classifier(str(folder / run))
        assert names == CLASSES
        live = {"scores": classifier, "embedding": classifier.embed}
    assert found_params == PARAMS
    clips = {clip.clip_id: clip for clip in examples.iter_clips(str(folder / "clips"))}
    of_one_channel = []
    for row in rows:
        waveform = waveform_of(row)
        found = served.signatures["serving_default"](waveform=tf.constant(waveform[None]))
        with open(row.uri, "rb") as file:
            of_wav = served.signatures["wav_bytes"](wav_bytes=tf.constant([file.read()]))
        swapped = served.signatures["serving_default"](waveform=tf.constant(waveform[None, ::-1]))
        for name, function in live.items():
            expected = np.mean(function(mel.log_mel_windows(waveform, PARAMS)), axis=0)
            np.testing.assert_allclose(found[name][0], expected, atol=1e-5)
            np.testing.assert_allclose(of_wav[name][0], expected, atol=1e-5)
            # Both channels go through one network, and their sum goes on.
            np.testing.assert_allclose(swapped[name][0], expected, atol=1e-5)
            # Examples hold energies as float16.
            of_examples = np.mean(function(examples.clip_windows(clips[row.clip_id], PARAMS)), axis=0)
            np.testing.assert_allclose(of_examples, expected, atol=0.01)
        mono = np.broadcast_to(waveform[0], waveform.shape)
        of_left = served.signatures["serving_default"](waveform=tf.constant(mono[None]))
        of_one_channel.append(np.abs(of_left["embedding"] - found["embedding"]).max())
    assert min(of_one_channel) > 1e-3  # the right channel is heard, too


def test_the_accuracy_is_that_of_the_waveforms(made):
    folder, rows = made
    run = str(folder / "tuned" / "runs" / "DLS" / "without_1")
    classifier, _, names = training.load_classifier(run)
    right = [
        names[np.mean(classifier(mel.log_mel_windows(waveform_of(row), PARAMS)), axis=0).argmax()]
        == row.labels[0]
        for row in rows
        if row.fold == "1"
    ]
    log = training.read_log(f"{run}/{training.LOG_NAME}")
    assert log[-1]["accuracy"] == pytest.approx(np.mean(right))
