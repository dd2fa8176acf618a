"""Tests of tfsound.models: training by plain Keras, and two devices against one with the global batch."""

import functools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from device_steps import largest_gradient, require_same_step, strategies, take_step
from processes import on_two_devices

from tfsound import losses, models, networks

pytestmark = pytest.mark.usefixtures("tiny_encoder")


def make_batch(seed=0, num_rows=8, num_recordings=4):
    rng = np.random.default_rng(seed)
    batch = {
        role: rng.normal(size=(num_rows, *tiny.WINDOW)).astype(np.float32)
        for role in ("anchor", "positive", "negative")
    }
    for role in ("anchor", "negative"):
        batch[f"{role}_recording"] = rng.integers(0, num_recordings, num_rows)
    return batch


def only_negatives_of_the_other_replica():
    """Rows 0 to 3 go to one replica, 4 to 7 to the other; no row has a negative on its own."""
    batch = make_batch(1)
    batch["anchor_recording"] = np.array([0] * 4 + [1] * 4)
    batch["negative_recording"] = np.array([0] * 4 + [1] * 4)
    return batch


def with_labels(batch, *, max_labels, seed=0):
    """The keys that are optional: half the anchors with a class, two in five triplets mixed, weights to 2."""
    rng, num_rows = np.random.default_rng(seed), len(batch["anchor"])
    return batch | {
        "anchor_label": np.where(np.arange(num_rows) % 2, rng.integers(0, 3, num_rows), -2),
        "negative_labels": rng.integers(-1, 3, (num_rows, max_labels)),
        "is_minable": rng.random(num_rows) < 0.6,
        "weight": rng.uniform(0, 2, num_rows).astype(np.float32),
    }


def build_model(semi_hard=True, margin=0.5, optimizer=None):
    keras.utils.set_random_seed(1)
    encoder = networks.build_encoder("tiny", input_shape=tiny.WINDOW, embedding_dim=16)
    model = models.TripletModel(encoder, margin=margin, semi_hard=semi_hard)
    model.compile(optimizer=optimizer or keras.optimizers.SGD(1.0))
    return model


def expected_loss(model, batch, *, training):
    """The loss by way of `losses` alone."""
    embeddings = model.audio_encoder(
        np.concatenate([batch["anchor"], batch["positive"], batch["negative"]]), training=training
    )
    anchor, positive, negative = np.split(embeddings.numpy(), 3)
    weights = batch.get("weight")
    if not model.semi_hard:
        return float(losses.triplet_loss(anchor, positive, negative, margin=model.margin, weights=weights))
    is_negative = batch["anchor_recording"][:, None] != batch["negative_recording"][None, :]
    if "anchor_label" in batch:
        same = batch["anchor_label"][:, None, None] == batch["negative_labels"]
        is_negative &= ~same.any(axis=2)
    loss = losses.semi_hard_triplet_loss(
        anchor, positive, negative, negative, is_negative,
        margin=model.margin, is_mined=batch.get("is_minable"), weights=weights,
    )  # fmt: skip
    return float(loss)


@pytest.mark.parametrize("semi_hard", [True, False])
def test_plain_compile_and_fit_lower_the_loss(semi_hard):
    batch = make_batch(num_rows=32, num_recordings=32)
    batch["positive"] = batch["anchor"] + 0.1 * batch["positive"]
    data = tf.data.Dataset.from_tensor_slices(batch).batch(16)
    model = build_model(semi_hard, optimizer=keras.optimizers.Adam(0.01))
    history = model.fit(data, epochs=25, verbose=0).history
    assert set(history) == {"loss", "positive_distance", "negative_distance"}
    assert history["loss"][-1] < 0.5 * history["loss"][0]


def test_a_step_reports_the_loss_before_it_and_applies_the_gradient():
    plain, labelled = make_batch(), with_labels(make_batch(), max_labels=2)
    for key in ("is_minable", "anchor_label", "weight"):
        other = labelled | {key: labelled[key][::-1].copy()}
        losses_of_both = [expected_loss(build_model(), batch, training=True) for batch in (labelled, other)]
        assert abs(np.subtract(*losses_of_both)) > 0.001, f"{key} has no say, nothing tested"
    for semi_hard, batch in ((True, plain), (False, plain), (True, labelled), (False, labelled)):
        model = build_model(semi_hard)
        expected = expected_loss(model, batch, training=True)  # moves the moving averages, not the weights
        before = [variable.numpy() for variable in model.trainable_variables]
        with tf.GradientTape() as tape:
            anchor, positive, negative = model.embed_triplets(batch, training=True)
            loss = model.batch_loss(batch, anchor, positive, negative)
        gradients = tape.gradient(loss, model.trainable_variables)
        found = model.train_step(batch)
        np.testing.assert_allclose(found["loss"], expected, rtol=1e-5)
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


def test_the_metrics_are_means_over_the_rows_of_an_epoch():
    model = build_model(semi_hard=False, optimizer=keras.optimizers.SGD(0.0))
    batches = [make_batch(seed) for seed in range(3)]
    model.reset_metrics()
    for batch in batches:
        found = model.train_step(batch)
    distances = []
    for batch in batches:
        anchor, positive, negative = model.embed_triplets(batch, training=True)
        distances.append([np.sum((anchor - other) ** 2, axis=1) for other in (positive, negative)])
    expected = np.mean(np.concatenate(distances, axis=1), axis=1)
    np.testing.assert_allclose(found["positive_distance"], expected[0], rtol=1e-5)
    np.testing.assert_allclose(found["negative_distance"], expected[1], rtol=1e-5)
    hinges = np.concatenate([np.maximum(0, near - far + 0.5) for near, far in distances])
    np.testing.assert_allclose(found["loss"], hinges.mean(), rtol=1e-5)
    assert [metric.name for metric in model.metrics] == ["loss", "positive_distance", "negative_distance"]


def test_a_batch_of_one_recording_costs_nothing_and_changes_no_weight():
    model, batch = build_model(optimizer=keras.optimizers.Adam(0.01)), make_batch()
    batch["anchor_recording"] = batch["negative_recording"] = np.zeros(8, np.int64)
    before = [variable.numpy() for variable in model.trainable_variables]
    assert model.train_step(batch)["loss"] == 0
    for old, variable in zip(before, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(old, variable)
    # Without mining, a triplet's own negative stands, whatever its recording.
    assert build_model(semi_hard=False).train_step(batch)["loss"] > 0


def test_a_negative_with_the_anchors_class_never_serves():
    model, batch = build_model(), make_batch(num_recordings=1000)
    batch |= {"anchor_label": np.full(8, 5), "negative_labels": np.full((8, 1), 5)}
    assert model.train_step(batch)["loss"] == 0
    batch["anchor_label"][:] = -2
    assert build_model().train_step(batch)["loss"] > 0


def test_triplets_that_are_not_minable_keep_their_negatives():
    batch = make_batch() | {"is_minable": np.zeros(8, bool)}
    expected = build_model(semi_hard=False).train_step(batch)["loss"]
    np.testing.assert_allclose(build_model().train_step(batch)["loss"], expected, rtol=1e-6)
    assert abs(expected - build_model().train_step(make_batch())["loss"]) > 0.01


@pytest.mark.parametrize("semi_hard", [True, False])
def test_a_source_of_weight_0_teaches_nothing(semi_hard):
    batch, noise = make_batch(num_recordings=1000), make_batch(9)
    weight = np.repeat(np.float32([1, 0]), 4)
    trained = []
    for positive in (batch["positive"], np.concatenate([batch["positive"][:4], noise["positive"][4:]])):
        model = build_model(semi_hard)
        model.audio_encoder.get_layer("norm").trainable = False  # whose statistics all rows share
        model.train_step(batch | {"positive": positive, "weight": weight})
        trained.append(model.get_weights())
    for one, other in zip(*trained, strict=True):
        np.testing.assert_array_equal(one, other)


def test_plain_triplets_in_numpy_train_by_fit():
    batch = make_batch(num_rows=16, num_recordings=16)
    build_model().fit(batch, batch_size=8, verbose=0)
    del batch["anchor_recording"], batch["negative_recording"]
    build_model(semi_hard=False).fit(batch, batch_size=8, verbose=0)


def test_mining_without_recordings_is_refused():
    batch = make_batch()
    del batch["negative_recording"]
    with pytest.raises(ValueError, match=r"got no negative_recording; add them to the batch or pass semi_h"):
        build_model().train_step(batch)


def test_calling_and_predicting_embed():
    model, windows = build_model(), make_batch()["anchor"]
    embeddings = model(windows)
    np.testing.assert_array_equal(embeddings, model.audio_encoder(windows))
    np.testing.assert_allclose(model.predict(windows, verbose=0), embeddings, atol=1e-6)


def test_a_model_is_saved_and_loaded_with_its_optimizer(tmp_path):
    model, data = build_model(margin=0.25, optimizer="adam"), tf.data.Dataset.from_tensors(make_batch())
    model.fit(data, epochs=3, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, models.TripletModel)
    assert (loaded.margin, loaded.semi_hard, loaded.name) == (0.25, True, model.name)
    windows = make_batch(5)["anchor"]
    np.testing.assert_array_equal(loaded(windows), model(windows))
    assert int(loaded.optimizer.iterations) == 3
    # Both go on alike, so the moments came along too.
    for trained in (model, loaded):
        trained.fit(data, verbose=0)
    for old, new in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_allclose(old, new, atol=1e-6)


@pytest.mark.parametrize("margin", [-0.1, float("nan"), float("inf")])
def test_a_margin_that_is_none_is_refused(margin):
    with pytest.raises(ValueError, match=f"margin must be at least 0 and finite, got {margin}"):
        build_model(margin=margin)


# Two devices.

CASES = {
    "semi_hard": (True, [make_batch()]),
    "own_negatives": (False, [with_labels(make_batch(), max_labels=0)]),
    "negatives_elsewhere": (True, [only_negatives_of_the_other_replica()]),
    "labels": (
        True, [with_labels(make_batch(n, num_recordings=9), max_labels=n, seed=n) for n in (3, 0, 1)],
    ),
}  # fmt: skip


def chosen_negatives(model, data):
    """Of each row, the negative that a model chooses on its devices."""

    def choose(batch):
        anchor, positive, negative = model.embed_triplets(batch, training=True)
        candidates, is_negative = models.all_replicas(negative), model.is_negative(batch)
        return losses.semi_hard_negatives(anchor, positive, candidates, is_negative)

    strategy, choose, chosen = model.distribute_strategy, tf.function(choose), []
    for batch in strategy.experimental_distribute_dataset(data):
        parts = strategy.run(choose, args=(batch,))
        chosen += tf.concat(strategy.experimental_local_results(parts), 0).numpy().tolist()
    return chosen


def gradient_of_a_gathered_row():
    """What each device gathered, and the gradients of its own rows."""
    _, two = strategies()

    def gather():
        rank = tf.distribute.get_replica_context().replica_id_in_sync_group
        rows = tf.fill([2, 1], tf.cast(rank, tf.float32) + 1)
        with tf.GradientTape() as tape:
            tape.watch(rows)
            everything = models.all_replicas(rows)
            loss = tf.reduce_sum(tf.gather(everything, [1, 2]) * [[10.0], [100.0]])
        return everything, tape.gradient(loss, rows)

    everything, gradients = two.run(tf.function(gather))
    return [part.numpy().ravel().tolist() for part in (*everything.values, *gradients.values)]


def steps_of_cases():
    """{case: on one device and on two, the step and the chosen negatives}, in a process that has two."""
    found = {name: [] for name in CASES}
    for name, (semi_hard, batches) in CASES.items():
        # Batches of other widths of labels than the first.
        data = functools.reduce(
            lambda left, right: left.concatenate(right), map(tf.data.Dataset.from_tensors, batches)
        )
        for strategy in strategies():
            with strategy.scope():
                # Two, for choosing moves the statistics of batch norm.
                model, same = build_model(semi_hard), build_model(semi_hard)
            chosen = chosen_negatives(same, data) if semi_hard else []
            found[name].append((take_step(model, data), chosen))
    return found | {"gathered": gradient_of_a_gathered_row()}


@pytest.fixture(scope="module")
def two_devices():
    return on_two_devices(steps_of_cases)


@pytest.mark.parametrize("case", CASES)
def test_two_devices_take_the_step_of_one(two_devices, case):
    (one, chosen_on_one), (two, chosen_on_two) = two_devices[case]
    require_same_step(one, two)
    assert largest_gradient(one) > 0.01, "no gradient, nothing compared"
    assert set(one.history) == {"loss", "positive_distance", "negative_distance"}
    assert one.history["loss"][0] > 0
    semi_hard, batches = CASES[case]
    assert len(chosen_on_one) == (8 * len(batches) if semi_hard else 0)
    assert chosen_on_two == chosen_on_one


def test_a_gradient_flows_back_to_the_device_that_a_row_came_from(two_devices):
    # Rows 1 and 2 of [1, 1, 2, 2] are chosen, on both devices, with weights of 10 and 100.
    assert two_devices["gathered"] == [[1, 1, 2, 2], [1, 1, 2, 2], [0, 20], [200, 0]]


def test_batch_norm_takes_the_statistics_of_both_devices(two_devices):
    (one, _), (two, _) = two_devices["own_negatives"]
    (path,) = [path for path in one.before if path.endswith("moving_mean")]
    assert np.abs(one.after[path] - one.before[path]).max() > 1e-4
    np.testing.assert_allclose(two.after[path], one.after[path], atol=1e-6)


def test_negatives_come_from_the_other_device_too(two_devices):
    (one, _), (two, _) = two_devices["negatives_elsewhere"]
    batch = only_negatives_of_the_other_replica()
    for rows in (slice(0, 4), slice(4, 8)):
        own = batch["anchor_recording"][rows][:, None] != batch["negative_recording"][rows]
        assert not own.any(), "a replica could serve itself, nothing tested"
    # A replica alone would find no negative and report 0.
    assert two.history["loss"][0] > 0.1
    np.testing.assert_allclose(two.history["loss"], one.history["loss"], atol=1e-5)
    json.dumps(two.history)  # plain numbers, as a log takes them
