"""Tests of tfsound.export.clients against servers that speak TensorFlow Serving's protocols."""

import contextlib
import io
import socket
import threading
import time

import keras
import numpy as np
import pytest
import serving_stand_in
import soundfile
import tensorflow as tf

from tfsound import media, mel
from tfsound.export import clients, saved_model

PARAMS = mel.MelParams()
RATE = PARAMS.sample_rate


def small_encoder():
    keras.utils.set_random_seed(1)
    layers = keras.Input((96, 64)), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(3)
    return keras.Sequential(layers)


def noise(num_samples, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, num_samples).astype(np.float32)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("export") / "sounds")
    saved_model.save(small_encoder(), PARAMS, folder, provenance={})
    return folder


@pytest.fixture(scope="module")
def served(model_folder):
    return serving_stand_in.ServedModel("sounds", model_folder)


KINDS = {
    "rest": (serving_stand_in.rest_server, clients.RestClient),
    "grpc": (serving_stand_in.grpc_server, clients.GrpcClient),
}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@contextlib.contextmanager
def connected(served, kind, **options):
    server, client = kind
    with server(served) as address:
        yield client(address, options.pop("model", "sounds"), **options)


@pytest.fixture(scope="module")
def direct(model_folder):
    """The export itself, in this process."""
    loaded = tf.saved_model.load(f"{model_folder}/1")

    def run(signature, **inputs):
        found = loaded.signatures[signature](**{name: tf.constant(value) for name, value in inputs.items()})
        return {name: value.numpy() for name, value in found.items()}

    return run


def test_each_signature_answers_as_the_export_does(served, kind, direct):
    waveform = noise((2, 40_000))
    wav_bytes = [media.encode_wav(noise(length, length), RATE) for length in (1, 20_000, 50_000)]
    log_mel = noise((3, 96, 64))
    with connected(served, kind) as client:
        for name, values in {"waveform": waveform, "wav_bytes": wav_bytes, "log_mel": log_mel}.items():
            signature = "serving_default" if name == "waveform" else name
            found = client.predict({name: values}, signature=signature)
            expected = direct(signature, **{name: values})
            assert set(found) == set(expected)
            for output, value in expected.items():
                assert found[output].dtype == np.float32
                np.testing.assert_array_equal(found[output], value)


def test_strings_keep_the_zeros_at_their_ends(served, kind, direct):
    silence = media.encode_wav(np.zeros(1000, np.float32), RATE)
    assert silence.endswith(b"\0\0")
    with connected(served, kind) as client:
        found = client.predict({"wav_bytes": [silence]}, signature="wav_bytes")
    np.testing.assert_array_equal(found["embedding"], direct("wav_bytes", wav_bytes=[silence])["embedding"])


def test_files_of_any_kind_come_back_in_their_order(served, kind, direct, tmp_path):
    paths = [str(tmp_path / name) for name in ("a.wav", "b.flac", "c.ogg", "d.wav")]
    for number, path in enumerate(paths):
        soundfile.write(path, np.tile(noise(22_050 * (number + 1), number)[:, None], 2), 22_050)
    with connected(served, kind) as client:
        found = list(client.embed(iter(paths), num_parallel=2))
    assert len(found) == len(paths)
    for path, answer in zip(paths, found, strict=True):
        wav = media.encode_wav(media.read_audio(path), RATE)
        expected = direct("wav_bytes", wav_bytes=[wav])
        np.testing.assert_array_equal(answer["embedding"], expected["embedding"][0])
        np.testing.assert_array_equal(answer["window_embeddings"], expected["window_embeddings"][0])


def test_a_stereo_model_is_sent_both_channels(tmp_path, kind):
    params = mel.MelParams(num_channels=2)
    keras.utils.set_random_seed(1)
    encoder = keras.Sequential(
        [keras.Input(params.window_shape), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    saved_model.save(encoder, params, str(tmp_path / "stereo"), provenance={})
    path = str(tmp_path / "a.wav")
    soundfile.write(path, np.stack([noise(20_000), 0.1 * noise(20_000, 1)], axis=1), RATE)
    served = serving_stand_in.ServedModel("stereo", str(tmp_path / "stereo"))
    with connected(served, kind, model="stereo") as client:
        (found,) = client.embed([path], num_channels=2)
    sound = media.read_audio(path, num_channels=2)
    windows = mel.log_mel_windows(sound.T[None], params)[0]
    np.testing.assert_allclose(found["embedding"], np.mean(encoder(windows), axis=0), atol=1e-4)


def test_the_reason_reaches_the_caller(served, kind):
    other_rate = io.BytesIO()
    soundfile.write(other_rate, noise(1000), 44_100, format="WAV", subtype="PCM_16")
    cases = {
        "no WAV": ({"wav_bytes": [b"no sound"]}, "wav_bytes", "Expected RIFF"),
        "rate": ({"wav_bytes": [other_rate.getvalue()]}, "wav_bytes", "(?s)must be at 16000 Hz.*44100"),
        "rank": ({"waveform": noise(1000)}, "serving_default", "waveform"),
        "type": ({"waveform": [["a"]]}, "serving_default", "waveform"),
        "input": ({"sound": noise((1, 1000))}, "serving_default", "sound"),
        "signature": ({"waveform": noise((1, 1000))}, "scores", "scores"),
    }
    with connected(served, kind) as client:
        for inputs, signature, message in cases.values():
            with pytest.raises(clients.ServingError, match=message):
                client.predict(inputs, signature=signature)


def test_a_file_that_is_refused_is_named(served, kind, tmp_path):
    path = str(tmp_path / "odd.wav")
    soundfile.write(path, noise(1000), RATE)
    with (
        connected(served, kind) as client,
        pytest.raises(clients.ServingError, match=r"(?s)odd\.wav: .*8000"),
    ):
        list(client.embed([path], sample_rate=8_000))


def test_what_is_not_served_is_said_at_once(served, kind):
    for options, message in (({"model": "birds"}, "birds"), ({"version": 9}, "9")):
        with connected(served, kind, **options) as client, pytest.raises(clients.ServingError, match=message):
            client.predict({"waveform": noise((1, 1000))})


def test_a_version_can_be_named(served, kind, direct):
    waveform = noise((1, 1000))
    with connected(served, kind, version=1) as client:
        found = client.predict({"waveform": waveform})
    np.testing.assert_array_equal(
        found["embedding"], direct("serving_default", waveform=waveform)["embedding"]
    )


def test_a_busy_server_is_asked_again(served, kind):
    served.busy = 2
    with connected(served, kind, num_tries=3) as client:
        assert client.predict({"waveform": noise((1, 1000))})["embedding"].shape == (1, 3)
    assert served.busy == 0


def test_a_server_that_stays_busy_is_given_up(served, kind):
    served.busy = 2
    with (
        connected(served, kind, num_tries=2) as client,
        pytest.raises(clients.ServingError, match=r"tried 2 times \(.*queue.*is full.*serve-config"),
    ):
        client.predict({"waveform": noise((1, 1000))})
    assert served.busy == 0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_server_that_starts_later_is_found(served, kind):
    server, make_client = kind
    port = free_port()
    found = []
    client = make_client(f"127.0.0.1:{port}", "sounds", num_tries=10)
    asking = threading.Thread(target=lambda: found.append(client.predict({"waveform": noise((1, 1000))})))
    asking.start()
    time.sleep(0.3)  # so that the first try finds nobody
    with server(served, port):
        asking.join()
    assert found[0]["embedding"].shape == (1, 3)


def test_nobody_there(kind):
    client = kind[1](f"127.0.0.1:{free_port()}", "sounds", num_tries=2)
    with pytest.raises(clients.ServingError, match="did not take the request, tried 2 times"):
        client.predict({"waveform": noise((1, 1000))})


def test_a_server_that_never_answers(kind):
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        client = kind[1](f"127.0.0.1:{deaf.getsockname()[1]}", "sounds", timeout_seconds=0.3, num_tries=1)
        with pytest.raises(clients.ServingError, match=r"within 0\.3 s|did not take the request"):
            client.predict({"waveform": noise((1, 1000))})


def test_arguments_out_of_range():
    with pytest.raises(ValueError, match=r"num_tries must be 1 or more .* got 0 and 60"):
        clients.RestClient("localhost:8501", "sounds", num_tries=0)
    with pytest.raises(ValueError, match="got 6 and nan"):
        clients.RestClient("localhost:8501", "sounds", timeout_seconds=float("nan"))


def test_a_new_version_is_served_and_a_half_one_is_not(tmp_path):
    folder = tmp_path / "sounds"
    saved_model.save(small_encoder(), PARAMS, str(folder), provenance={})
    served = serving_stand_in.ServedModel("sounds", str(folder))
    (folder / "tmp-2").mkdir()  # what an export is in before it is whole
    (folder / "tmp-2" / "saved_model.pb").write_bytes(b"half")
    served.poll()
    assert served.version == 1
    saved_model.save(small_encoder(), PARAMS, str(folder), provenance={})
    served.poll()
    assert served.version == 2
