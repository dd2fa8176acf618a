"""Tests of tfsound.models.CoincidenceModel: by plain Keras; two devices against one with the global batch."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from device_steps import largest_gradient, require_same_step, strategies, take_step
from processes import on_two_devices

from tfsound import losses, models, networks
from tfsound.losses import clusters

pytestmark = pytest.mark.usefixtures("tiny_encoder")

IMAGE = (8, 8, 3)
NUM_ROWS, HIDDEN = 8, 12


def make_batch(seed=0, num_rows=NUM_ROWS, kinds=("audio_audio", "audio_image")):
    """Pairs of which each has a level of its own, so that there is something to learn."""
    rng = np.random.default_rng(seed)

    def part(*shape):
        levels = np.random.default_rng(seed + 100).normal(size=(num_rows, *shape[:-1], 1))
        return (levels + 0.3 * rng.normal(size=(num_rows, *shape))).astype(np.float32)

    batch = {
        "audio_audio": {"audio": part(*tiny.WINDOW), "audio_2": part(*tiny.WINDOW)},
        "audio_image": {"audio": part(*tiny.WINDOW), "image": part(*IMAGE)},
    }
    return {kind: batch[kind] for kind in kinds}


def build_model(optimizer=None, with_images=True, **options):
    keras.utils.set_random_seed(1)
    shapes = (tiny.WINDOW, IMAGE) if with_images else (tiny.WINDOW,)
    encoders = [
        networks.build_encoder("tiny", input_shape=shape, embedding_dim=6, unit_norm=False)
        for shape in shapes
    ]
    model = models.CoincidenceModel(*encoders, hidden_units=HIDDEN, **options)
    model.compile(optimizer=optimizer or keras.optimizers.SGD(1.0), jit_compile=False)
    return model


def concatenated_logits(head, left, right):
    """The head as the paper writes it: a dense layer on [f(x_1), g(x_2)] of every pair."""
    rows, columns = len(left), len(right)
    pairs = tf.concat([tf.repeat(left, columns, axis=0), tf.tile(right, [rows, 1])], axis=1)
    hidden = tf.nn.relu(pairs @ head.hidden_kernel + head.hidden_bias)
    return tf.reshape(hidden @ head.output_kernel + head.output_bias, [rows, columns])


def direct_loss(model, batch, *, training):
    """The joint loss by way of the concatenation of all pairs."""
    found = {}
    sounds = [batch[kind][role] for kind in batch for role in ("audio", "audio_2") if role in batch[kind]]
    embedded = tf.split(model.audio_encoder(tf.concat(sounds, axis=0), training=training), len(sounds))
    if "audio_audio" in batch:
        found["audio_audio"] = (model.audio_audio_head, embedded[0], embedded[1])
    if "audio_image" in batch:
        images = model.image_encoder(batch["audio_image"]["image"], training=training)
        found["audio_image"] = (model.audio_image_head, embedded[-1], images)
    found = {kind: losses.coincidence_loss(concatenated_logits(*parts)) for kind, parts in found.items()}
    if len(found) == 1:
        return found, next(iter(found.values()))
    weight = model.audio_audio_weight
    return found, (1 - weight) * found["audio_image"] + weight * found["audio_audio"]


def test_plain_compile_and_fit_learn():
    batch = make_batch(num_rows=32)
    data = tf.data.Dataset.from_tensors(batch)
    model = build_model(keras.optimizers.Adam(0.01))
    model.compile(optimizer=keras.optimizers.Adam(0.01))  # with all that Keras chooses for itself
    history = model.fit(data.repeat(60), epochs=2, steps_per_epoch=30, verbose=0).history
    assert set(history) == {
        "loss", "audio_audio_loss", "audio_audio_accuracy", "audio_image_loss", "audio_image_accuracy",
    }  # fmt: skip
    assert history["loss"][1] < 0.9 * history["loss"][0]
    assert history["audio_image_accuracy"][1] > 0.7
    assert history["audio_audio_accuracy"][1] > 0.6


@pytest.mark.parametrize("kinds", [("audio_audio",), ("audio_image",), ("audio_audio", "audio_image")])
def test_a_step_is_down_the_gradient_of_the_concatenations_loss(kinds):
    batch = make_batch(kinds=kinds)
    model = build_model(audio_audio_weight=0.3, block_size=3)
    before = [variable.numpy() for variable in model.trainable_variables]
    with tf.GradientTape() as tape:
        parts, expected = direct_loss(model, batch, training=True)
    gradients = tape.gradient(expected, model.trainable_variables)
    found = model.train_step(batch)
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-5)
    assert {name for name in found if name.endswith("_loss")} == {f"{kind}_loss" for kind in kinds}
    for kind, loss in parts.items():
        np.testing.assert_allclose(found[f"{kind}_loss"], loss, rtol=1e-5)
    moved = 0
    for variable, old, gradient in zip(model.trainable_variables, before, gradients, strict=True):
        wanted = old if gradient is None else old - gradient
        moved += gradient is not None
        np.testing.assert_allclose(variable, wanted, atol=1e-5, err_msg=variable.path)
    assert moved > 4


def test_the_weights_of_the_joint_loss_are_those_of_section_3_4():
    losses_of = {"audio_audio": tf.constant(2.0), "audio_image": tf.constant(10.0)}
    assert float(build_model(audio_audio_weight=0.1).joint_loss(losses_of)) == pytest.approx(9.2)
    assert float(build_model(audio_audio_weight=1.0).joint_loss(losses_of)) == pytest.approx(2.0)
    assert float(build_model().joint_loss({"audio_audio": tf.constant(2.0)})) == 2.0


@pytest.mark.parametrize("negatives", ["all_pairs", "random"])
def test_a_test_step_uses_the_trained_statistics_and_changes_nothing(negatives):
    model, batch = build_model(negatives=negatives), make_batch()
    model.fit(tf.data.Dataset.from_tensors(batch), verbose=0)
    before = model.get_weights()
    found = model.evaluate(tf.data.Dataset.from_tensors(batch), verbose=0, return_dict=True)
    if negatives == "all_pairs":
        np.testing.assert_allclose(found["loss"], direct_loss(model, batch, training=False)[1], rtol=1e-5)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_random_negatives_change_by_step_and_by_seed_and_not_by_chance():
    batch, histories = make_batch(), []
    for seed in (0, 0, 1):
        model = build_model(keras.optimizers.SGD(0.0), negatives="random", seed=seed)
        step, history = tf.function(model.train_step), []
        for _ in range(4):
            model.reset_metrics()
            history.append(float(step(batch)["loss"]))
        histories.append(history)
    assert histories[0] == histories[1]
    assert len(set(histories[0])) == 4
    assert histories[0] != histories[2]
    # The mean over many draws, as the metric has it, is the loss of all pairs.
    model.reset_metrics()
    for _ in range(300):
        found = step(batch)
    expected = direct_loss(model, batch, training=True)[1]
    np.testing.assert_allclose(found["loss"], expected, rtol=0.01)


def test_one_kind_of_pairs_leaves_the_networks_of_the_other_alone():
    model = build_model()
    model.fit(tf.data.Dataset.from_tensors(make_batch(kinds=("audio_audio",))), verbose=0)
    others = {"image_encoder", "audio_image_head"}
    fresh = build_model()
    for name, part in model.parts.items():
        same = [
            np.array_equal(one, other)
            for one, other in zip(part.get_weights(), fresh.parts[name].get_weights(), strict=True)
        ]
        assert all(same) == (name in others), name


def test_sound_alone_needs_no_image_encoder():
    model = build_model(with_images=False)
    assert set(model.parts) == {"audio_encoder", "audio_audio_head"}
    history = model.fit(tf.data.Dataset.from_tensors(make_batch(kinds=("audio_audio",))), verbose=0).history
    assert set(history) == {"loss", "audio_audio_loss", "audio_audio_accuracy"}
    with pytest.raises(ValueError, match=r"\(this model has no image_encoder\), got \['audio_image'\]"):
        model.train_step(make_batch(kinds=("audio_image",)))
    with pytest.raises(ValueError, match="this model has no image_encoder"):
        model.pair_logits(np.zeros((2, *tiny.WINDOW)), np.zeros((2, *IMAGE)))


def test_images_alone_need_no_head_of_sounds():
    model = build_model(has_audio_audio=False)
    assert set(model.parts) == {"audio_encoder", "image_encoder", "audio_image_head"}
    assert model.audio_audio_head is None
    history = model.fit(tf.data.Dataset.from_tensors(make_batch(kinds=("audio_image",))), verbose=0).history
    assert set(history) == {"loss", "audio_image_loss", "audio_image_accuracy"}
    with pytest.raises(ValueError, match=r"\(this model has no audio_audio_head\), got \['audio_audio'\]"):
        model.train_step(make_batch(kinds=("audio_audio",)))
    with pytest.raises(ValueError, match="has_audio_audio must be true without an image_encoder"):
        build_model(with_images=False, has_audio_audio=False)


@pytest.mark.parametrize(
    "kinds", [("audio_audio", "audio_image"), ("audio_audio",), ("audio_image",)], ids="-".join
)
def test_a_model_is_saved_and_loaded_with_its_optimizer(tmp_path, kinds):
    options = {"audio_audio_weight": 0.25, "negatives": "random", "block_size": 5, "seed": 3}
    options["has_audio_audio"] = "audio_audio" in kinds
    model = build_model("adam", with_images="audio_image" in kinds, **options)
    data = tf.data.Dataset.from_tensors(make_batch(kinds=kinds))
    model.fit(data.repeat(3), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, models.CoincidenceModel)
    assert {name: getattr(loaded, name) for name in options} == options
    assert (loaded.name, loaded.hidden_units, set(loaded.parts)) == (model.name, HIDDEN, set(model.parts))
    for one, other in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    # Both go on alike, so the moments and the step came along too.
    for trained in (model, loaded):
        trained.fit(data, verbose=0)
    assert int(loaded.optimizer.iterations) == 4
    for one, other in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_model_in_bfloat16_comes_near():
    batch = make_batch()
    exact, half = build_model(), build_model(head_dtype="mixed_bfloat16")
    assert half.audio_audio_head.compute_dtype == "bfloat16"
    assert {variable.dtype for variable in half.audio_audio_head.variables} == {"float32"}
    found, expected = half.train_step(batch), exact.train_step(batch)
    for name in expected:
        assert found[name].dtype == tf.float32
        np.testing.assert_allclose(found[name], expected[name], rtol=0.03)
    assert float(found["loss"]) != float(expected["loss"]), "no bfloat16 at work"
    assert half.pair_logits(batch["audio_audio"]["audio"], batch["audio_image"]["image"]).dtype == np.float32


def test_calling_and_predicting_embed_sounds():
    model, windows = build_model(), make_batch()["audio_audio"]["audio"]
    np.testing.assert_array_equal(model(windows), model.audio_encoder(windows))
    np.testing.assert_allclose(model.predict(windows, verbose=0), model(windows), atol=1e-6)


def test_pair_logits_are_those_of_the_concatenation():
    model, batch = build_model(block_size=2), make_batch()
    audio, image = batch["audio_image"]["audio"], batch["audio_image"]["image"][:5]
    left = model.audio_encoder(audio)
    found = model.pair_logits(audio, image, batch_size=3)
    assert (found.shape, found.dtype) == ((NUM_ROWS, 5), np.float32)
    expected = concatenated_logits(model.audio_image_head, left, model.image_encoder(image))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    found = model.pair_logits(audio, audio[:3])
    np.testing.assert_allclose(found, concatenated_logits(model.audio_audio_head, left, left[:3]), atol=1e-5)
    assert model.pair_logits(audio[:0], image).shape == (0, 5)
    assert model.pair_logits(audio, image[:0]).shape == (NUM_ROWS, 0)
    with pytest.raises(ValueError, match=r"candidates must be images .* got shape \(8, 8\)"):
        model.pair_logits(audio, audio[0])


def test_a_row_of_pairs_is_the_diagonal_of_all_pairs():
    model, batch = build_model(), make_batch()["audio_audio"]
    left, right = model(batch["audio"]), model(batch["audio_2"])
    logits = model.embedding_pair_logits(left, right, "audio_audio")
    np.testing.assert_allclose(model.audio_audio_head(left, right), np.diag(logits), atol=1e-6)


def test_a_batch_of_one_has_no_negative():
    for negatives in models.coincidence.NEGATIVES:
        with pytest.raises(ValueError, match="for a batch of one has no negative"):
            build_model(negatives=negatives).train_step(make_batch(num_rows=1))


def test_what_is_no_batch_of_pairs_is_refused():
    with pytest.raises(ValueError, match=r"must hold audio_audio, audio_image or both, got \[\]"):
        build_model().train_step({})
    with pytest.raises(ValueError, match=r"got \['anchor'\]; see examples\.coincidence_dataset"):
        build_model().train_step({"anchor": np.zeros((2, *tiny.WINDOW))})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"audio_audio_weight": 1.1}, r"audio_audio_weight must be in \[0, 1\], got 1\.1"),
        ({"audio_audio_weight": float("nan")}, r"audio_audio_weight must be in \[0, 1\], got nan"),
        ({"negatives": "hard"}, r"negatives must be one of \['all_pairs', 'random'\], got 'hard'"),
    ],
)
def test_a_setting_out_of_range_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build_model(**options)


# Two devices.

CASES = {
    "audio_audio": ({}, make_batch(kinds=("audio_audio",))),
    "audio_image": ({}, make_batch(kinds=("audio_image",))),
    "random, of both kinds": ({"negatives": "random", "audio_audio_weight": 0.3}, make_batch()),
    "clusters": ({"num_clusters": 20, "cluster_weight": 0.5}, make_batch()),
    "clusters, compiled": ({"num_clusters": 20, "cluster_weight": 1.0}, make_batch(kinds=("audio_audio",))),
}


def steps_of_cases():
    """{case: the step on one device and on two}, in a process that has two."""
    found = {name: [] for name in CASES}
    for name, (options, batch) in CASES.items():
        clusters._COMPILED_FROM = 0 if "compiled" in name else 1 << 60
        for strategy in strategies():
            with strategy.scope():
                model = build_model(block_size=3, **options)
            data = tf.data.Dataset.from_tensors(batch)
            # One evaluation will do: it takes as long as training.
            found[name].append(take_step(model, data, evaluate=name == "audio_image"))
    return found | {"uneven": refusal_of_an_uneven_batch(model)}


def refusal_of_an_uneven_batch(model):
    """What a model on two devices says of a global batch of three pairs of sounds."""
    data = tf.data.Dataset.from_tensor_slices(make_batch(num_rows=3, kinds=("audio_audio",))).batch(3)
    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        model.fit(data, verbose=0)
    return str(raised.value)


@pytest.fixture(scope="module")
def two_devices():
    return on_two_devices(steps_of_cases)


@pytest.mark.parametrize("case", CASES)
def test_two_devices_take_the_step_of_one(two_devices, case):
    one, two = two_devices[case]
    assert set(two.evaluated) == (
        {"loss", "audio_image_loss", "audio_image_accuracy"} if case == "audio_image" else set()
    )
    require_same_step(one, two)
    assert largest_gradient(one) > 0.01, "no gradient, nothing compared"


@pytest.mark.parametrize("case", ["audio_audio", "audio_image"])
def test_negatives_come_from_the_other_device_too(two_devices, case):
    """A loss over each replica's own pairs would be another one, by far more than rounding."""
    batch, model = CASES[case][1], build_model()
    _, expected = direct_loss(model, batch, training=True)
    np.testing.assert_allclose(two_devices[case][1].history["loss"], [expected], rtol=1e-5)
    halves = [
        {kind: {key: rows[part] for key, rows in values.items()} for kind, values in batch.items()}
        for part in (slice(0, 4), slice(4, 8))
    ]
    alone = np.mean([direct_loss(model, half, training=True)[1] for half in halves])
    assert abs(alone - expected) > 1e-4


def test_devices_with_batches_of_different_sizes_say_so(two_devices):
    message = "each of the 2 replicas needs as many rows as the others; drop the remainder"
    assert message in two_devices["uneven"]
