"""Tests of the clusters of tfsound.models.CoincidenceModel; two devices are in test_models_coincidence."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.test_losses_clusters import direct_form
from tests.test_models_coincidence import HIDDEN, build_model, direct_loss, make_batch
from tfsound import models

pytestmark = pytest.mark.usefixtures("tiny_encoder")

NUM_CLUSTERS = 11


def sounds_of(batch):
    return np.concatenate([
        batch[kind][role] for kind in batch for role in ("audio", "audio_2") if role in batch[kind]
    ])  # fmt: skip


@pytest.mark.parametrize("kinds", [("audio_audio",), ("audio_image",), ("audio_audio", "audio_image")])
def test_a_step_is_down_the_gradient_of_the_joint_loss(kinds):
    """Section 3.4, with L_clust on all sounds of the batch, by the direct form."""
    batch = make_batch(kinds=kinds)
    options = {"num_clusters": NUM_CLUSTERS, "cluster_weight": 0.3, "diversity_weight": 1.4}
    model = build_model(audio_audio_weight=0.3, **options)
    before = [variable.numpy() for variable in model.trainable_variables]
    kernel = model.cluster_head.kernel.value
    with tf.GradientTape() as tape:
        pair_loss = direct_loss(model, batch, training=True)[1]
        embeddings = model.audio_encoder(sounds_of(batch), training=True)
        clusters = [
            tf.cast(value, tf.float32) for value in direct_form(embeddings, kernel, diversity_weight=1.4)
        ]
        expected = 0.7 * pair_loss + 0.3 * clusters[0]
    gradients = tape.gradient(expected, model.trainable_variables)
    found = model.train_step(batch)
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-5)
    names = ("cluster_loss", "cluster_mean_entropy", "cluster_entropy_of_mean")
    np.testing.assert_allclose([found[name] for name in names], clusters, rtol=1e-5)
    for variable, old, gradient in zip(model.trainable_variables, before, gradients, strict=True):
        wanted = old if gradient is None else old - gradient
        np.testing.assert_allclose(variable, wanted, atol=2e-5, err_msg=variable.path)
    assert np.abs(gradients[-1]).max() > 0.01
    assert model.trainable_variables[-1] is model.cluster_head.kernel


def test_the_weights_of_the_joint_loss_are_those_of_section_3_4():
    losses_of = {
        "audio_audio": tf.constant(2.0),
        "audio_image": tf.constant(10.0),
        "cluster": tf.constant(-5.0),
    }
    model = build_model(audio_audio_weight=0.1, num_clusters=2, cluster_weight=0.1)
    assert float(model.joint_loss(losses_of)) == pytest.approx(0.9 * 9.2 - 0.5)
    del losses_of["audio_image"]
    assert float(model.joint_loss(losses_of)) == pytest.approx(0.9 * 2 - 0.5)
    assert float(build_model(num_clusters=2, cluster_weight=1.0).joint_loss(losses_of)) == -5.0


def test_learning_from_a_cold_start_uses_many_clusters_and_without_diversity_few():
    batch = make_batch(num_rows=6, kinds=("audio_audio",))
    data = tf.data.Dataset.from_tensors(batch).repeat()
    num_active = {}
    for diversity_weight in (1.1, 0.0):
        model = build_model(
            keras.optimizers.Adam(0.01), with_images=False, num_clusters=12, cluster_weight=1.0,
            diversity_weight=diversity_weight,
        )  # fmt: skip
        first, last = model.fit(data, epochs=2, steps_per_epoch=150, verbose=0).history["cluster_loss"]
        assert last < first
        assigned = model.cluster_head.assign(model(sounds_of(batch), training=True))
        num_active[diversity_weight] = len(set(assigned.tolist()))
    assert num_active[1.1] >= 5
    assert num_active[0.0] <= 3


def test_at_a_weight_of_1_the_heads_of_pairs_stay():
    model = build_model(keras.optimizers.Adam(0.01), num_clusters=5, cluster_weight=1.0)
    model.fit(tf.data.Dataset.from_tensors(make_batch()).repeat(3), verbose=0)
    fresh = build_model(num_clusters=5)
    for name, part in model.parts.items():
        pairs = zip(part.trainable_variables, fresh.parts[name].trainable_variables, strict=True)
        moved = [not np.array_equal(one, other) for one, other in pairs]
        assert any(moved) == (name in {"audio_encoder", "cluster_head"}), name


def test_without_clusters_there_is_no_head():
    model = build_model()
    assert model.cluster_head is None
    assert "cluster_head" not in model.parts
    assert not any("cluster" in name for name in model.train_step(make_batch()))


def test_a_test_step_gives_the_losses_of_the_trained_statistics():
    model, batch = build_model(num_clusters=NUM_CLUSTERS), make_batch()
    model.fit(tf.data.Dataset.from_tensors(batch), verbose=0)
    before = model.get_weights()
    found = model.evaluate(tf.data.Dataset.from_tensors(batch), verbose=0, return_dict=True)
    expected = direct_form(model(sounds_of(batch)), model.cluster_head.kernel)
    np.testing.assert_allclose(found["cluster_loss"], expected[0], rtol=1e-5)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_model_is_saved_and_loaded_with_its_head(tmp_path):
    options = {"num_clusters": NUM_CLUSTERS, "cluster_weight": 0.2, "diversity_weight": 1.3}
    model = build_model("adam", **options)
    data = tf.data.Dataset.from_tensors(make_batch())
    model.fit(data.repeat(3), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, models.CoincidenceModel)
    assert {name: getattr(loaded, name) for name in options} == options
    assert loaded.hidden_units == HIDDEN
    windows = make_batch()["audio_audio"]["audio"]
    np.testing.assert_array_equal(
        loaded.cluster_head.assign(loaded(windows)), model.cluster_head.assign(model(windows))
    )
    for trained in (model, loaded):
        trained.fit(data, verbose=0)
    for one, other in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_clusters_are_float32_beside_heads_in_bfloat16():
    model = build_model(head_dtype="mixed_bfloat16", num_clusters=NUM_CLUSTERS)
    assert model.cluster_head.compute_dtype == "float32"
    found = model.train_step(make_batch())
    assert {value.dtype for value in found.values()} == {tf.float32}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_clusters": 1}, r"num_clusters must be 0, for none, or at least 2, got 1"),
        ({"num_clusters": -3}, r"num_clusters must be 0, for none, or at least 2, got -3"),
        ({"cluster_weight": 1.5}, r"cluster_weight must be in \[0, 1\], got 1\.5"),
        ({"diversity_weight": -0.1}, r"diversity_weight must be finite and at least 0, got -0\.1"),
        ({"diversity_weight": math.nan}, r"diversity_weight must be finite and at least 0, got nan"),
    ],
)
def test_a_setting_out_of_range_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build_model(**options)
