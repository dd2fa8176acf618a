"""Tests of tfsound.evaluation.classifiers: networks, the held-out recordings, standardisation, training."""

import gc
import re
import weakref

import keras
import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from tfsound import evaluation, networks
from tfsound.evaluation import classifiers

FAST = evaluation.TrainingOptions(max_epochs=5, batch_size=16, learning_rate=3e-2)


def make_windows(*, num_segments=24, num_classes=3, shape=(6,), seed=0, prefix="r", scale=1.0, offset=0.0):
    """Two windows a segment, of one class; its features tell which, up to noise."""
    rng = np.random.default_rng(seed)
    classes = np.arange(num_segments) % num_classes
    index = np.repeat(np.arange(num_segments), 2)
    features = 0.1 * rng.standard_normal((len(index), *shape))
    features[np.arange(len(index)), ..., classes[index]] += 1
    return evaluation.LabelledWindows(
        (offset + scale * features).astype(np.float32), index, classes[:, None] == np.arange(num_classes),
        tuple(f"{prefix}{n}" for n in range(num_segments)), tuple(f"class {n}" for n in range(num_classes)),
    )  # fmt: skip


def relabelled(windows, labels, recording_ids=None):
    """The same windows with labels, bool (segments, classes)."""
    return evaluation.LabelledWindows(
        windows.features, windows.segment_index, labels, recording_ids or windows.recording_ids,
        tuple(f"class {n}" for n in range(labels.shape[1])),
    )  # fmt: skip


# Architectures.


@pytest.mark.parametrize(("num_layers", "num_units"), [(1, 512), (2, 512), (4, 7)])
def test_a_fully_connected_network_is_made_as_asked(num_layers, num_units):
    inputs = keras.Input((3, 2))
    model = keras.Model(inputs, evaluation.fully_connected(num_layers, num_units)(inputs))
    hidden = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    assert [(layer.units, layer.activation) for layer in hidden] == [
        (num_units, keras.activations.relu)
    ] * num_layers
    assert hidden[0].kernel.shape == (6, num_units)
    assert evaluation.fully_connected(1)(inputs).shape == (None, 512)


@pytest.mark.parametrize("arguments", [(0, 5), (1, 0)])
def test_a_fully_connected_network_of_nothing_is_refused(arguments):
    with pytest.raises(ValueError, match="must be at least 1, got {} layers of {} units".format(*arguments)):
        evaluation.fully_connected(*arguments)


@pytest.mark.parametrize(("name", "width"), [("resnet_small", 128), ("resnet50", 2048)])
def test_an_encoder_classifier_ends_in_the_average_pool(name, width):
    activations = evaluation.encoder_classifier(name)(keras.Input((96, 64)))
    assert activations.shape == (None, width)


def test_an_encoder_classifier_needs_windows_and_a_known_name():
    with pytest.raises(ValueError, match=r"encoder must be one of \['densenet', .*, got 'resnet5'"):
        evaluation.encoder_classifier("resnet5")
    with pytest.raises(ValueError, match=r"resnet_small needs log-mel windows.*got features of shape \(6,\)"):
        evaluation.fit_classifier(make_windows(), evaluation.encoder_classifier("resnet_small"))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("max_epochs", 0, "max_epochs must be at least 1, got 0"),
        ("batch_size", 0, "batch_size must be at least 1, got 0"),
        ("patience", 0, "patience must be at least 1, got 0"),
        ("learning_rate", 0.0, "learning_rate must be positive and finite, got 0.0"),
        ("learning_rate", float("nan"), "learning_rate must be positive and finite, got nan"),
        ("validation_fraction", 1.0, r"validation_fraction must be in [0, 1), got 1.0"),
        ("validation_fraction", -0.1, r"validation_fraction must be in [0, 1), got -0.1"),
    ],
)
def test_options_out_of_range_are_refused(name, value, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        evaluation.TrainingOptions(**{name: value})


# What is held out.


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_segments=st.integers(4, 60),
    num_recordings=st.integers(2, 30),
    fraction=st.sampled_from([0.05, 0.1, 0.5]),
)
def test_whole_recordings_are_held_out_and_every_class_is_left(seed, num_segments, num_recordings, fraction):
    rng = np.random.default_rng(seed)
    labels = rng.random((num_segments, 3)) < 0.4
    labels[0, 0] = True
    recordings = tuple(f"r{n}" for n in rng.integers(num_recordings, size=num_segments))
    windows = evaluation.LabelledWindows(
        np.ones((num_segments, 1), np.float32), np.arange(num_segments), labels, recordings, ("a", "b", "c")
    )
    try:
        held_out = classifiers._held_out_segments(windows, fraction, rng)
    except evaluation.EvaluationError as error:
        assert "can be held out" in str(error)  # noqa: PT017 (whether it is refused depends on the draw)
        return
    parts = [{recordings[n] for n in np.flatnonzero(part)} for part in (held_out, ~held_out)]
    assert not parts[0] & parts[1]
    assert labels[held_out].any()
    assert held_out.mean() <= 0.5
    np.testing.assert_array_equal(labels[~held_out].any(axis=0), labels.any(axis=0))


def test_about_the_fraction_is_held_out():
    windows = make_windows(num_segments=300)
    held_out = classifiers._held_out_segments(windows, 0.1, np.random.default_rng(0))
    assert held_out.sum() == 30
    assert not classifiers._held_out_segments(windows, 0.0, np.random.default_rng(0)).any()


@pytest.mark.parametrize("recording_ids", [("r",) * 6, None])
def test_too_few_recordings_to_hold_out_are_refused(recording_ids):
    windows = make_windows(num_segments=6)
    labels = np.eye(6, dtype=bool)  # one segment a class
    windows = relabelled(windows, labels, recording_ids)
    with pytest.raises(evaluation.EvaluationError, match="or set validation_fraction to 0"):
        evaluation.fit_classifier(windows, evaluation.fully_connected(1, 4), options=FAST)


# Standardisation.


@pytest.mark.parametrize("shape", [(6,), (4, 6)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_statistics_are_those_of_numpy(shape, dtype):
    rows = np.random.default_rng(0).permutation(900)[:700]
    features = np.random.default_rng(1).normal(100, 0.5, (900, *shape)).astype(dtype)
    mean, stddev = classifiers._statistics(features, rows)
    chosen = features[rows].astype(np.float64).reshape(-1, 6)
    np.testing.assert_allclose(mean, chosen.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(stddev, chosen.std(axis=0), rtol=1e-9)


def test_a_feature_that_does_not_vary_is_not_blown_up():
    features = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    features[:, 1] = 7
    _, stddev = classifiers._statistics(features, np.arange(50))
    assert stddev[1] == pytest.approx(1e-3 * np.sqrt((stddev[0] ** 2 + stddev[2] ** 2) / 3))


def test_windows_that_are_all_the_same_are_refused():
    windows = make_windows(scale=0.0)
    with pytest.raises(evaluation.EvaluationError, match="all 44 training windows are the same"):
        evaluation.fit_classifier(windows, evaluation.fully_connected(1, 4), options=FAST)


def test_scale_and_offset_make_no_difference():
    scores = []
    for scale, offset in ((1.0, 0.0), (64.0, -512.0)):  # powers of two: the features stay nearly exact
        windows = make_windows(scale=scale, offset=offset)
        trained = evaluation.fit_classifier(windows, evaluation.fully_connected(1, 8), options=FAST)
        scores.append(evaluation.segment_scores(trained.model, windows))
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-3)


# Training.


def test_segment_scores_are_means_of_window_scores():
    windows = make_windows(num_segments=300)  # more windows than a batch
    order = np.random.default_rng(0).permutation(600)
    windows = evaluation.LabelledWindows(
        windows.features[order], windows.segment_index[order], windows.labels, windows.recording_ids,
        windows.class_names,
    )  # fmt: skip
    inputs = keras.Input((6,))
    model = keras.Model(inputs, keras.layers.Dense(3, activation="sigmoid")(inputs))
    kernel, bias = model.get_weights()
    of_windows = 1 / (1 + np.exp(-(windows.features @ kernel + bias)))
    expected = [of_windows[windows.segment_index == segment].mean(axis=0) for segment in range(300)]
    found = evaluation.segment_scores(model, windows)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_training_learns_and_repeats_under_a_seed(num_layers):
    windows = make_windows()

    def trained(seed):
        architecture = evaluation.fully_connected(num_layers, 16)
        classifier = evaluation.fit_classifier(windows, architecture, options=FAST, seed=seed)
        assert (classifier.num_train_segments, classifier.num_validation_segments) == (22, 2)
        return evaluation.segment_scores(classifier.model, windows)

    first = trained(0)
    np.testing.assert_array_equal(first, trained(0))
    assert not np.array_equal(first, trained(1))
    assert ((first > 0.5) == windows.labels).mean() > 0.9


def test_training_stops_and_keeps_the_best_weights(monkeypatch):
    # Labels that held-out segments do not bear out: nothing to gain by training on.
    windows = make_windows(num_segments=60)
    windows = relabelled(windows, np.random.default_rng(0).permutation(windows.labels))
    seen = []
    real = classifiers.segment_scores

    def record(model, held_out):
        seen.append(real(model, held_out))
        return seen[-1]

    monkeypatch.setattr(classifiers, "segment_scores", record)
    held_out = classifiers._held_out_segments(windows, 0.2, np.random.default_rng(3))
    options = evaluation.TrainingOptions(
        max_epochs=40, batch_size=16, learning_rate=1e-2, validation_fraction=0.2, patience=3
    )
    trained = evaluation.fit_classifier(windows, evaluation.fully_connected(1, 16), options=options, seed=3)
    assert len(seen) == trained.num_epochs + 3 < 40
    best = windows.select(np.flatnonzero(held_out))
    np.testing.assert_allclose(real(trained.model, best), seen[trained.num_epochs - 1], atol=1e-6)
    precisions = [evaluation.classifiers.metrics.mean_average_precision(best.labels, s).mean for s in seen]
    assert precisions[trained.num_epochs - 1] == max(precisions)


def test_without_validation_all_epochs_and_segments_are_used():
    options = evaluation.TrainingOptions(max_epochs=2, validation_fraction=0)
    windows = relabelled(make_windows(num_segments=6), np.eye(6, dtype=bool))
    trained = evaluation.fit_classifier(windows, evaluation.fully_connected(1, 4), options=options)
    assert (trained.num_epochs, trained.num_train_segments, trained.num_validation_segments) == (2, 6, 0)


@pytest.mark.parametrize("validation_fraction", [0, 0.1])
def test_a_loss_that_is_no_number_is_told(validation_fraction):
    options = evaluation.TrainingOptions(
        max_epochs=20, batch_size=16, learning_rate=1e30, validation_fraction=validation_fraction
    )
    with pytest.raises(evaluation.EvaluationError, match=r"no longer a number .*lower learning_rate, 1e\+30"):
        evaluation.fit_classifier(make_windows(), evaluation.fully_connected(2, 4), options=options)


def test_the_windows_are_let_go_after_training():
    windows = make_windows()
    classifier = evaluation.fit_classifier(windows, evaluation.fully_connected(1, 4), options=FAST)
    held = weakref.ref(windows)
    del windows
    gc.collect()
    assert held() is None
    assert classifier.num_epochs


def test_an_encoder_trains_from_scratch(monkeypatch):
    monkeypatch.setitem(networks.ENCODERS, "tiny", tiny.encoder)
    windows = make_windows(shape=(8, 6))
    options = evaluation.TrainingOptions(max_epochs=30, batch_size=16, learning_rate=1e-2)
    trained = evaluation.fit_classifier(windows, evaluation.encoder_classifier("tiny"), options=options)
    scores = evaluation.segment_scores(trained.model, windows)
    assert (scores.argmax(axis=1) == windows.labels.argmax(axis=1)).all()


def test_a_classifier_is_saved_whole(tmp_path):
    windows = make_windows(offset=3.0)
    trained = evaluation.fit_classifier(windows, evaluation.fully_connected(1, 4), options=FAST)
    trained.model.save(tmp_path / "classifier.keras")
    loaded = keras.saving.load_model(tmp_path / "classifier.keras")
    expected = evaluation.segment_scores(trained.model, windows)
    np.testing.assert_allclose(evaluation.segment_scores(loaded, windows), expected, atol=1e-7)
