"""Runs of training for tests: cut off at a step, compared at their end, and what they are begun with."""

import contextlib
import json
import pathlib
import signal

import keras
import numpy as np
import pytest

from tfsound import training


def at_each_step(patch, act):
    """Has `act` called with the number of steps that are done, after each."""
    original = training.runs._Progress.on_train_batch_end

    def on_train_batch_end(self, batch, logs=None):
        original(self, batch, logs)
        act(training.steps_done(self.model))

    patch.setattr(training.runs._Progress, "on_train_batch_end", on_train_batch_end)


@contextlib.contextmanager
def signal_at(step, number):
    """Within, this process gets a signal when a run has done a step."""
    with pytest.MonkeyPatch.context() as patch:
        at_each_step(patch, lambda done: signal.raise_signal(number) if done == step else None)
        yield


@contextlib.contextmanager
def interrupted_at(step):
    """Within, a Ctrl-C comes when a run has done a step, and must end it."""
    with pytest.raises(KeyboardInterrupt), signal_at(step, signal.SIGINT):
        yield


def weights_at_start(monkeypatch):
    """{name of a part: its weights} of the next model, when all that a start takes over was taken over."""
    kept = {}
    original = training.runs.compile_model

    def compiling(model, config):
        parts = getattr(model, "parts", {"audio_encoder": model.audio_encoder})
        kept.update({name: part.get_weights() for name, part in parts.items()})
        original(model, config)

    monkeypatch.setattr(training.runs, "compile_model", compiling)
    return kept


def config_of(run):
    return json.loads(pathlib.Path(run, "config.json").read_text())


def _models_of(run):
    paths = sorted(pathlib.Path(run).glob("*.keras"))
    return {path.name: keras.saving.load_model(path, compile=False).get_weights() for path in paths}


def require_same_end(run, whole, *, atol=1e-5):
    """A run that was cut off ends as one that was not: the weights of its models, its log, learning rates."""
    found, expected = _models_of(run), _models_of(whole)
    assert found.keys() == expected.keys()
    assert expected, "no model, nothing compared"
    for name, weights in expected.items():
        for one, other in zip(found[name], weights, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=atol, err_msg=name)
    assert training.read_log(f"{run}/log.csv") == [
        {name: pytest.approx(value, abs=atol) for name, value in row.items()}
        for row in training.read_log(f"{whole}/log.csv")
    ]
