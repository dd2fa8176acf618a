"""Tests of models.ClassifierModel: its step, what is frozen, two devices against one."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from device_steps import largest_gradient, require_same_step, strategies, take_step
from processes import on_two_devices

from tfsound import losses, models, networks

pytestmark = pytest.mark.usefixtures("tiny_encoder")

NUM_CLASSES = 3


def make_batch(seed=0, num_rows=8, known=None):
    rng = np.random.default_rng(seed)
    batch = {
        "log_mel": rng.normal(size=(num_rows, *tiny.WINDOW)).astype(np.float32),
        "labels": rng.random((num_rows, NUM_CLASSES)).astype(np.float32),
    }
    return batch if known is None else batch | {"known": np.asarray(known)}


def build_model(optimizer=None, **options):
    keras.utils.set_random_seed(1)
    encoder = networks.build_encoder("tiny", input_shape=tiny.WINDOW, embedding_dim=16)
    model = models.ClassifierModel(encoder, NUM_CLASSES, **options)
    model.compile(optimizer=optimizer or keras.optimizers.SGD(1.0), jit_compile=False)
    return model


def expected_loss(model, batch, *, training):
    logits = model.head(model.audio_encoder(batch["log_mel"], training=training))
    return float(
        losses.classification_loss(logits, batch["labels"], batch.get("known"), multi_label=model.multi_label)
    )


def copies(variables):
    return [variable.numpy().copy() for variable in variables]


@pytest.mark.parametrize("multi_label", [True, False])
def test_plain_compile_and_fit_learn_classes(multi_label):
    """Noise, steady bands and clicks are told apart, on windows that were not trained on."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, NUM_CLASSES, 200)
    windows = rng.normal(size=(200, *tiny.WINDOW)).astype(np.float32)
    windows[truth == 1, :, ::2] += 2
    windows[truth == 2, ::2] += 2
    labels = np.eye(NUM_CLASSES, dtype=np.float32)[truth]
    train = {"log_mel": windows[:150], "labels": labels[:150]}
    model = build_model(keras.optimizers.Adam(0.01), multi_label=multi_label)
    history = model.fit(train, batch_size=25, epochs=60, verbose=0).history
    assert set(history) == {"loss"}
    scores = model.predict(windows[150:], verbose=0)
    assert (scores.argmax(axis=1) == truth[150:]).mean() > 0.9
    assert ((scores >= 0) & (scores <= 1)).all()
    np.testing.assert_array_equal(np.isclose(scores.sum(axis=1), 1), np.full(50, not multi_label))


@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.parametrize("known", [None, [True] * 3 + [False] * 5])
def test_a_step_reports_the_loss_before_it_and_applies_the_gradient(freeze, known):
    batch = make_batch(known=known)
    model = build_model(freeze=freeze)
    expected = expected_loss(model, batch, training=not freeze)
    before = copies(model.trainable_variables)
    with tf.GradientTape() as tape:
        loss = model.batch_loss(batch, training=True)
    gradients = tape.gradient(loss, model.trainable_variables)
    found = model.train_step(batch)
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-5)
    assert max(np.abs(gradient).max() for gradient in gradients) > 1e-3
    for variable, old, gradient in zip(model.trainable_variables, before, gradients, strict=True):
        np.testing.assert_allclose(variable, old - gradient, atol=1e-6)


def test_a_test_step_uses_the_trained_statistics_and_changes_nothing():
    model, batch = build_model(), make_batch()
    model.fit(tf.data.Dataset.from_tensors(batch), verbose=0)
    before = model.get_weights()
    found = model.evaluate(tf.data.Dataset.from_tensors(batch), verbose=0, return_dict=True)
    np.testing.assert_allclose(found["loss"], expected_loss(model, batch, training=False), rtol=1e-5)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_freezing_leaves_the_encoder_bit_by_bit_and_fine_tuning_moves_all_of_it():
    for freeze in (True, False):
        model = build_model(keras.optimizers.Adam(0.01), freeze=freeze)
        encoder, head = copies(model.audio_encoder.weights), copies(model.head.weights)
        model.fit(tf.data.Dataset.from_tensors(make_batch()).repeat(3), verbose=0)
        same = [
            np.array_equal(*pair) for pair in zip(encoder, copies(model.audio_encoder.weights), strict=True)
        ]
        assert all(same) if freeze else not any(same)
        assert not any(np.array_equal(*pair) for pair in zip(head, copies(model.head.weights), strict=True))
        assert len(model.trainable_variables) == (
            2 if freeze else 2 + len(model.audio_encoder.trainable_variables)
        )


def test_a_frozen_encoder_drops_nothing_out():
    layers = keras.Input(tiny.WINDOW), keras.layers.Flatten(), keras.layers.Dropout(0.5)
    windows = make_batch()["log_mel"]
    for freeze in (True, False):
        model = models.ClassifierModel(keras.Sequential(layers), NUM_CLASSES, freeze=freeze)
        same = np.array_equal(model.embed(windows, training=True), model.embed(windows))
        assert same == freeze


def test_a_batch_of_which_nothing_is_known_changes_no_weight():
    model = build_model()
    before = copies(model.trainable_variables)
    assert model.train_step(make_batch(known=[False] * 8))["loss"] == 0
    for old, variable in zip(before, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(old, variable)


def test_scores_embeddings_and_calling_agree():
    model, windows = build_model(), make_batch()["log_mel"]
    embeddings = model.embed(windows)
    np.testing.assert_array_equal(embeddings, model.audio_encoder(windows))
    np.testing.assert_array_equal(model(windows), model.scores(embeddings))
    np.testing.assert_array_equal(model(windows), tf.sigmoid(model.head(embeddings)))


@pytest.mark.parametrize("options", [{}, {"multi_label": False, "freeze": True}])
def test_a_model_is_saved_and_loaded_with_its_optimizer(tmp_path, options):
    model, data = build_model("adam", **options), tf.data.Dataset.from_tensors(make_batch())
    model.fit(data, epochs=3, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, models.ClassifierModel)
    assert (loaded.num_classes, loaded.multi_label, loaded.freeze) == (3, model.multi_label, model.freeze)
    windows = make_batch(5)["log_mel"]
    np.testing.assert_array_equal(loaded(windows), model(windows))
    assert int(loaded.optimizer.iterations) == 3
    for trained in (model, loaded):
        trained.fit(data, verbose=0)
    for old, new in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_allclose(old, new, atol=1e-6)


@pytest.mark.parametrize(("num_classes", "multi_label"), [(0, True), (1, False)])
def test_too_few_classes_are_refused(num_classes, multi_label):
    encoder = networks.build_encoder("tiny", input_shape=tiny.WINDOW)
    with pytest.raises(
        ValueError, match=f"num_classes must be at least {num_classes + 1}, got {num_classes}"
    ):
        models.ClassifierModel(encoder, num_classes, multi_label=multi_label)


# Two devices: rows 0 to 3 go to one, 4 to 7 to the other.

CASES = {
    "all known": ({}, make_batch()),
    "nothing known on one": ({}, make_batch(known=[False] * 4 + [True] * 4)),
    "nothing known": ({}, make_batch(known=[False] * 8)),
    "single classes known": ({}, make_batch(known=np.random.default_rng(3).random((8, NUM_CLASSES)) < 0.4)),
    "exclusive": ({"multi_label": False}, make_batch(known=[True] * 3 + [False] * 3 + [True] * 2)),
    "frozen": ({"freeze": True}, make_batch(known=[True] * 5 + [False] * 3)),
}


def steps_of_cases():
    """{case: the step on one device and on two}, in a process that has two."""
    found = {name: [] for name in CASES}
    for name, (options, batch) in CASES.items():
        for strategy in strategies():
            with strategy.scope():
                model = build_model(**options)
            found[name].append(take_step(model, tf.data.Dataset.from_tensors(batch)))
    return found


@pytest.fixture(scope="module")
def two_devices():
    return on_two_devices(steps_of_cases)


@pytest.mark.parametrize("case", CASES)
def test_two_devices_take_the_step_of_one(two_devices, case):
    one, two = two_devices[case]
    require_same_step(one, two)
    assert (one.history["loss"][0] > 0.1) == (case != "nothing known")
    assert (largest_gradient(one) > 0.01) == (case != "nothing known")
