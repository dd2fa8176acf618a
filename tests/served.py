"""Served graphs for tests: run in a fresh process that has no tfsound, and small encoders to serve."""

import io
import json
import pickle
import subprocess
import sys

import keras
import numpy as np
import soundfile

# Runs every request of a pickled {signature: {case: input}}; pickles what came of it.
FRESH_PROCESS = """
import pickle, resource, sys

class NoTfsound:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tfsound":
            raise ImportError("tfsound is not here")

sys.meta_path.insert(0, NoTfsound())
try:
    import tfsound
except ImportError:
    pass
else:
    raise SystemExit("tfsound could be imported")

import tensorflow as tf

model = tf.saved_model.load(sys.argv[1])
with open(sys.argv[2], "rb") as file:
    requests = pickle.load(file)
answers = {"structure": {}, "error": {}}
for name, signature in model.signatures.items():
    specs = {"inputs": signature.structured_input_signature[1], "outputs": signature.structured_outputs}
    answers["structure"][name] = {
        side: {key: (spec.dtype.name, spec.shape.as_list()) for key, spec in found.items()}
        for side, found in specs.items()
    }
for name, cases in requests.items():
    (argument,) = answers["structure"][name]["inputs"]
    for case, value in cases.items():
        try:
            result = model.signatures[name](**{argument: tf.constant(value)})
            answers[name, case] = {key: tensor.numpy() for key, tensor in result.items()}
        except tf.errors.OpError as error:
            answers["error"][name, case] = error.message
answers["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
with open(sys.argv[3], "wb") as file:
    pickle.dump(answers, file)
"""


def answers_of(path, requests, folder):
    """What an export answers in a fresh process, by (signature, case); its structure, errors and peak memory.

    Args:
      requests: {signature: {case: the value of its one input}}.
      folder: where requests and answers may lie.
    """
    (folder / "in").write_bytes(pickle.dumps(requests))
    command = [sys.executable, "-I", "-c", FRESH_PROCESS, path, folder / "in", folder / "out"]
    process = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert process.returncode == 0, process.stderr
    return pickle.loads((folder / "out").read_bytes())


def read_provenance(path):
    """What an export says of where it comes from."""
    with open(f"{path}/assets/provenance.json") as file:
        return json.load(file)


def noise(*shape):
    rng = np.random.default_rng(shape)
    # Louder and softer clips, so that no two embeddings are alike.
    return (rng.uniform(-1, 1, shape) * rng.uniform(0.05, 1, (*shape[:-1], 1))).astype(np.float32)


def wav(samples, rate=16000, subtype="PCM_16", kind="WAV"):
    """An encoded file of samples (num_samples,) or (num_samples, channels)."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, subtype=subtype, format=kind)
    return file.getvalue()


def small_encoder(*, shape=(96, 64), width=3):
    """The mean over time, and a linear layer: as fast as a graph can be."""
    keras.utils.set_random_seed(1)
    pool = keras.layers.GlobalAveragePooling1D() if len(shape) == 2 else keras.layers.Flatten()
    return keras.Sequential((keras.Input(shape), pool, keras.layers.Dense(width)))
