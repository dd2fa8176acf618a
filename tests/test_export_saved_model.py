"""Tests of tfsound.export.saved_model: exports are loaded in a fresh process that has no tfsound."""

import io
import json
import os
import sys

import keras
import numpy as np
import pytest
import soundfile
import tensorflow as tf
from served import answers_of, noise, small_encoder, wav

from tfsound import mel, networks, resumption, training
from tfsound.export import saved_model

PARAMS = mel.MelParams()
DIM = 16
TOLERANCE = 1e-5
PROVENANCE = {"command": "tfsound train …", "versions": [1, 2]}


WAVEFORMS = {
    "empty batch": noise(0, 16000),
    "no sample": noise(1, 0),
    "one sample": noise(1, 1),
    "0.5 s": noise(1, 8000),
    "0.96 s": noise(1, 15360),
    "one window": noise(1, PARAMS.context_samples),
    "three of 5 s": noise(3, 80000),
    "70 s": noise(1, 70 * 16000),
    # 3 x 43 windows, one more than the encoder takes at once.
    "129 windows": noise(3, PARAMS.samples_of(43 * 96)),
    "10 minutes": noise(1, 600 * 16000),
}
CLIPS = [noise(8000), noise(48000), noise(32000, 2), noise(80000), noise(PARAMS.context_samples + 1)]
WAVS = [wav(clip) for clip in CLIPS]
WAV_BATCHES = {
    "empty batch": np.zeros(0, "S1"),
    "no sample": [wav(noise(0))],
    "all": WAVS,
    **{f"clip {number}": [data] for number, data in enumerate(WAVS)},
}
BAD_WAVS = {
    "44.1 kHz": (wav(noise(8000), rate=44100), r"must be at 16000 Hz; resample the file first.*44100"),
    "24 bit": (wav(noise(8000), subtype="PCM_24"), "16-bit WAV files, but received 24"),
    "32-bit float": (wav(noise(8000), subtype="FLOAT"), r"Expected 1 \(PCM\), but got3"),
    "FLAC": (wav(noise(8000), kind="FLAC"), "Expected RIFF but found fLaC"),
    "MP3": (b"\xff\xfb\x90\x00" + bytes(400), "wav_bytes must be WAV files, got another kind; convert it"),
    "no chunk": (WAVS[0][:12] + b"\xff" + WAVS[0][13:], "wav_bytes must be WAV files, got another kind"),
    "text": (b"no audio at all", "Expected RIFF but found no a"),
    "nothing": (b"", "Data too short"),
    "cut off": (wav(noise(8000))[:1000], "Data too short"),
}
NUM_WINDOWS = (0, 1, 128, 129)
LOG_MELS = {number: noise(number, 96, 64) * 4 for number in NUM_WINDOWS}


@pytest.fixture(scope="module")
def encoder():
    """A ResNet whose batch norms have seen something, so that a served `training=True` would be noticed."""
    keras.utils.set_random_seed(0)
    encoder = networks.build_encoder("resnet_small", embedding_dim=DIM)
    rng = np.random.default_rng(0)
    for variable in encoder.non_trainable_variables:
        low, high = (0.5, 2) if variable.name == "moving_variance" else (-0.2, 0.2)
        variable.assign(rng.uniform(low, high, variable.shape))
    return encoder


@pytest.fixture(scope="module")
def exported(encoder, tmp_path_factory):
    output = tmp_path_factory.mktemp("model")
    return saved_model.save(encoder, PARAMS, str(output), provenance=PROVENANCE)


@pytest.fixture(scope="module")
def answers(exported, tmp_path_factory):
    folder = tmp_path_factory.mktemp("requests")
    requests = {
        "serving_default": WAVEFORMS,
        "wav_bytes": WAV_BATCHES | {case: [data] for case, (data, _) in BAD_WAVS.items()},
        "log_mel": LOG_MELS,
    }
    return answers_of(exported.path, requests, folder)


def embed_live(encoder, clip):
    """The windows' embeddings of a clip (samples,), as the encoder gives them here."""
    return encoder(mel.log_mel_windows(clip, PARAMS), training=False).numpy()


def test_signatures_are_those_of_the_contract(answers):
    clip_outputs = {
        "embedding": ("float32", [None, DIM]),
        "window_embeddings": ("float32", [None, None, DIM]),
    }
    assert answers["structure"] == {
        "serving_default": {"inputs": {"waveform": ("float32", [None, None])}, "outputs": clip_outputs},
        "wav_bytes": {"inputs": {"wav_bytes": ("string", [None])}, "outputs": clip_outputs},
        "log_mel": {
            "inputs": {"log_mel": ("float32", [None, 96, 64])},
            "outputs": {"embedding": ("float32", [None, DIM])},
        },
    }


@pytest.mark.parametrize("case", WAVEFORMS)
def test_waveforms_embed_as_live(encoder, answers, case):
    waveforms, answer = WAVEFORMS[case], answers["serving_default", case]
    num_windows = max(1, PARAMS.num_windows((waveforms.shape[1] - 400) // 160 + 1))
    assert answer["window_embeddings"].shape == (len(waveforms), num_windows, DIM)
    assert answer["embedding"].shape == (len(waveforms), DIM)
    for row, clip in enumerate(waveforms):
        live = embed_live(encoder, clip)
        np.testing.assert_allclose(answer["window_embeddings"][row], live, atol=TOLERANCE)
        np.testing.assert_allclose(answer["embedding"][row], live.mean(axis=0), atol=TOLERANCE)


def test_different_clips_embed_differently(answers):
    """Else the comparisons above could not fail."""
    rows = answers["serving_default", "three of 5 s"]["embedding"]
    assert min(np.linalg.norm(rows[0] - rows[1]), np.linalg.norm(rows[1] - rows[2])) > 100 * TOLERANCE


def test_ten_minutes_need_bounded_memory(answers):
    assert answers["peak_bytes"] < 3e9


@pytest.mark.parametrize("number", range(len(CLIPS)))
def test_wavs_of_a_batch_embed_as_alone_and_as_live(encoder, answers, number):
    together, alone = answers["wav_bytes", "all"], answers["wav_bytes", f"clip {number}"]
    samples, _ = soundfile.read(io.BytesIO(WAVS[number]), dtype="float32", always_2d=True)
    live = embed_live(encoder, samples.mean(axis=1))
    np.testing.assert_allclose(alone["window_embeddings"][0], live, atol=TOLERANCE)
    np.testing.assert_allclose(alone["embedding"][0], live.mean(axis=0), atol=TOLERANCE)
    np.testing.assert_allclose(together["embedding"][number], live.mean(axis=0), atol=TOLERANCE)
    windows = together["window_embeddings"][number]
    np.testing.assert_allclose(windows[: len(live)], live, atol=TOLERANCE)
    np.testing.assert_array_equal(windows[len(live) :], 0)


def test_wavs_without_samples_or_rows(encoder, answers):
    assert answers["wav_bytes", "empty batch"]["embedding"].shape == (0, DIM)
    silence = embed_live(encoder, np.zeros(0, np.float32))
    np.testing.assert_allclose(answers["wav_bytes", "no sample"]["embedding"], silence, atol=TOLERANCE)


@pytest.mark.parametrize("case", BAD_WAVS)
def test_bad_wavs_are_refused_with_a_reason(answers, case):
    _, message = BAD_WAVS[case]
    with pytest.raises(ValueError, match=message):
        raise ValueError(answers["error"]["wav_bytes", case])


@pytest.mark.parametrize("number", NUM_WINDOWS)
def test_windows_embed_as_live(encoder, answers, number):
    embedding = answers["log_mel", number]["embedding"]
    assert embedding.shape == (number, DIM)
    if number:  # Keras's eager convolution takes no empty batch
        live = encoder(LOG_MELS[number], training=False)
        np.testing.assert_allclose(embedding, live, atol=TOLERANCE)


def test_assets_hold_front_end_and_provenance(exported):
    assets = os.path.join(exported.path, "assets")
    assert sorted(os.listdir(assets)) == ["mel_params.json", "provenance.json"]
    with open(os.path.join(assets, "mel_params.json")) as file:
        assert mel.MelParams.from_dict(json.load(file)) == PARAMS
    with open(os.path.join(assets, "provenance.json")) as file:
        assert json.load(file) == PROVENANCE
    loaded = tf.saved_model.load(exported.path)
    assert loaded.mel_params_file.asset_path.numpy().decode().endswith("assets/mel_params.json")


def warm_up_requests(path):
    """{signature: inputs} of the warm-up file of an export."""
    reason = "tensorflow-serving-api, which reads warm-up files, is not installed"
    prediction_log_pb2 = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2", reason=reason)
    path = os.path.join(path, "assets.extra", "tf_serving_warmup_requests")
    records = list(tf.data.TFRecordDataset(path).as_numpy_iterator())
    logs = [prediction_log_pb2.PredictionLog.FromString(record) for record in records]
    requests = [log.predict_log.request for log in logs]
    assert len({request.model_spec.signature_name for request in requests}) == len(requests)
    return {
        request.model_spec.signature_name: {
            name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()
        }
        for request in requests
    }


def test_each_signature_has_a_warm_up_request_and_answers_it(exported):
    requests = warm_up_requests(exported.path)
    loaded = tf.saved_model.load(exported.path)
    assert set(requests) == set(loaded.signatures) == {"serving_default", "wav_bytes", "log_mel"}
    for name, inputs in requests.items():
        answer = loaded.signatures[name](**inputs)
        assert answer["embedding"].shape == (1, DIM)
        assert np.isfinite(answer["embedding"]).all()


def test_without_the_serving_api_there_is_no_warm_up(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_serving", None)
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis", None)
    path = saved_model.save(small_encoder(), PARAMS, str(tmp_path), provenance={}).path
    assert not os.path.exists(os.path.join(path, "assets.extra"))
    assert tf.saved_model.load(path).signatures.keys() == {"serving_default", "wav_bytes", "log_mel"}


def test_versions_are_numbered_from_the_highest(tmp_path):
    (tmp_path / "7").mkdir()
    (tmp_path / "notes").mkdir()
    encoder = small_encoder()
    first, second = (saved_model.save(encoder, PARAMS, str(tmp_path), provenance={}) for _ in range(2))
    assert (first.path, second.path) == (str(tmp_path / "8"), str(tmp_path / "9"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["7", "8", "9", "notes"]
    assert str(first).startswith(f"exported {tmp_path / '8'} (largest difference to the live model: ")


def test_one_export_at_a_time(tmp_path):
    with (
        resumption.in_use(str(tmp_path / "model")),
        pytest.raises(resumption.InUseError, match="another process is at work in"),
    ):
        saved_model.save(small_encoder(), PARAMS, str(tmp_path / "model"), provenance={})
    assert os.listdir(tmp_path / "model") == []


def test_a_crash_leaves_no_version_and_the_next_export_starts_clean(tmp_path, monkeypatch):
    def crash(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(saved_model.os, "rename", crash)
        with pytest.raises(KeyboardInterrupt):
            saved_model.save(small_encoder(), PARAMS, str(tmp_path), provenance={})
    assert [path.name for path in tmp_path.iterdir()] == ["tmp-1"]
    (tmp_path / "tmp-1" / "left over").touch()
    path = saved_model.save(small_encoder(), PARAMS, str(tmp_path), provenance={}).path
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    assert "left over" not in os.listdir(path)


class UnlikeItsGraph(keras.layers.Layer):
    """Adds something to what it is given, but only inside a graph."""

    def __init__(self, amount):
        super().__init__()
        self.amount = amount

    def call(self, inputs):
        return inputs if tf.executing_eagerly() else inputs + self.amount


@pytest.mark.parametrize("amount", [0.01, np.nan])
def test_an_export_that_differs_is_not_published(tmp_path, amount):
    encoder = keras.Sequential([*small_encoder().layers, UnlikeItsGraph(amount)])
    encoder.build((None, 96, 64))
    with pytest.raises(saved_model.ExportError, match=r"differs from .*nothing was published"):
        saved_model.save(encoder, PARAMS, str(tmp_path), provenance={})
    assert not list(tmp_path.iterdir())


def test_difference_is_that_of_the_embeddings(exported, encoder):
    assert exported.largest_difference < TOLERANCE
    assert saved_model.largest_difference(exported.path, encoder, PARAMS) == exported.largest_difference
    keras.utils.set_random_seed(5)
    other = networks.build_encoder("resnet_small", embedding_dim=DIM)
    assert saved_model.largest_difference(exported.path, other, PARAMS) > 0.01


def test_nan_in_one_place_makes_the_difference_nan(tmp_path):
    encoder = small_encoder()
    path = saved_model.save(encoder, PARAMS, str(tmp_path), provenance={}).path
    encoder.layers[-1].bias.assign([0, np.nan, 0])
    assert np.isnan(saved_model.largest_difference(path, encoder, PARAMS))


def test_export_of_a_finished_run(tmp_path):
    run, output = str(tmp_path / "run"), str(tmp_path / "model")
    os.makedirs(run)
    config = {"encoder": "resnet_small", "triplets": ["triplets"], "seed": 3}
    yamnet = mel.preset("yamnet")
    training.save_encoder(small_encoder(), yamnet, run, config)
    result = saved_model.export(run, output)
    assert result.path == os.path.join(output, "1")
    with open(os.path.join(result.path, "assets", "mel_params.json")) as file:
        assert mel.MelParams.from_dict(json.load(file)) == yamnet
    with open(os.path.join(result.path, "assets", "provenance.json")) as file:
        provenance = json.load(file)
    assert provenance["training"] == config
    assert provenance["tensorflow"] == tf.__version__


def test_export_refuses_what_is_no_finished_run(tmp_path):
    with pytest.raises(training.TrainingError, match="does not exist"):
        saved_model.export(str(tmp_path / "missing"), str(tmp_path / "model"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps({"steps_per_checkpoint": 100}))
    with pytest.raises(training.TrainingError, match=r"holds no trained encoder.*not finished"):
        saved_model.export(str(tmp_path / "run"), str(tmp_path / "model"))
    assert not (tmp_path / "model").exists()
