"""Tests of tfsound.models.InstanceDiscriminationModel: its step, its bank, resumption, two devices."""

import pathlib
import pickle
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny

from tfsound import checkpoints, models, networks

NUM_INSTANCES, NUM_ROWS, DIM, NUM_STEPS = 40, 8, 6, 20

# One process with two logical CPU devices trains on one device and on both; on both a second time, from the
# checkpoint of the tenth step.
TWO_DEVICES = """
import pickle, sys
import numpy as np
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras
import tiny
from tfsound import checkpoints, models, networks, training

networks.ENCODERS["tiny"] = tiny.encoder
with open(sys.argv[1], "rb") as file:
    cases, folder = pickle.load(file)
two = training.strategy()
assert two.num_replicas_in_sync == 2

def build(strategy, options):
    with strategy.scope():
        keras.utils.set_random_seed(1)
        encoder = networks.build_encoder(
            "tiny", input_shape=tiny.WINDOW, embedding_dim=6, unit_norm=False
        )
        model = models.InstanceDiscriminationModel(encoder, 40, **options)
        model.compile(optimizer=keras.optimizers.SGD(0.1, momentum=0.9), jit_compile=False)
        model.optimizer.build(model.trainable_variables)
    return model

def fit(model, batches):
    rows = []
    class Logs(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            rows.append(dict(logs))
    model.fit(tf.data.Dataset.from_tensor_slices(batches), shuffle=False, verbose=0, callbacks=[Logs()])
    return rows

def spread(model):
    copies = [variable.value.values for variable in (*model.weights, *model.optimizer.variables)]
    assert all(len(pair) == 2 for pair in copies)
    return max(float(np.abs(a.numpy() - b.numpy()).max()) for a, b in copies)

def weights(model):
    return {variable.path.removeprefix(model.name + "/"): variable.numpy() for variable in model.weights}

def error_of(model, batch):
    try:
        model.fit(tf.data.Dataset.from_tensors(batch), verbose=0)
    except (ValueError, tf.errors.InvalidArgumentError) as error:
        return type(error).__name__, str(error)

def reads_of_all_rows(model, batch):
    data = two.experimental_distribute_dataset(tf.data.Dataset.from_tensors(batch))
    step = tf.function(lambda batch: two.run(model.train_step, args=(batch,)))
    operations = step.get_concrete_function(next(iter(data))).graph.get_operations()
    shape = model.memory_bank.rows.shape
    return [op.name for op in operations if any(output.shape == shape for output in op.outputs)]

results = {}
for name, (options, batches) in cases.items():
    first, second, one_batch = (
        {key: values[part] for key, values in batches.items()} for part in (slice(10), slice(10, None), 0)
    )
    results[name] = {}
    for devices, strategy in ((1, tf.distribute.OneDeviceStrategy("CPU:0")), (2, two)):
        model = build(strategy, options)
        before = weights(model)
        logs = fit(model, first)
        if devices == 2:
            saved = checkpoints.Checkpoints(f"{folder}/{name}")
            saved.set_model(model)
            saved.save()
        logs += fit(model, second)
        evaluated = model.evaluate(tf.data.Dataset.from_tensors(one_batch), verbose=0, return_dict=True)
        results[name][devices] = dict(
            logs=logs, evaluated=evaluated, before=before, after=weights(model),
            spread=spread(model) if devices == 2 else 0.0,
        )
    again = build(two, options)
    step = saved.restore(again)
    restored = spread(again)
    fit(again, second)
    results[name]["resumed"] = dict(step=step, after=weights(again), spread=max(restored, spread(again)))
    results[name]["reads"] = reads_of_all_rows(again, one_batch)

outside = dict(one_batch, instance_id=np.array([0, 1, 2, 3, 4, 5, 6, 40]))
results["outside"] = error_of(model, outside)
results["uneven"] = error_of(model, {key: rows[:3] for key, rows in one_batch.items()})
with open(sys.argv[2], "wb") as file:
    pickle.dump(results, file)
"""


@pytest.fixture(autouse=True)
def tiny_encoder(monkeypatch):
    monkeypatch.setitem(networks.ENCODERS, "tiny", tiny.encoder)


def make_windows(ids, seed=0):
    """Windows of instances, each with a spectrum of its own, in noise."""
    spectra = np.random.default_rng(100).normal(size=(NUM_INSTANCES, 1, tiny.WINDOW[1]))
    noise = np.random.default_rng(seed).normal(size=(len(ids), *tiny.WINDOW))
    return (spectra[ids] + 0.3 * noise).astype(np.float32)


def make_batch(seed=0, num_rows=NUM_ROWS, ids=None):
    if ids is None:
        ids = np.random.default_rng(seed).permutation(NUM_INSTANCES)[:num_rows]
    return {"log_mel": make_windows(ids, seed), "instance_id": np.asarray(ids, np.int64)}


def as_data(*batches):
    return tf.data.Dataset.from_tensor_slices({key: [b[key] for b in batches] for key in batches[0]})


def build_model(optimizer=None, num_negatives=10, **options):
    keras.utils.set_random_seed(1)
    encoder = networks.build_encoder("tiny", input_shape=tiny.WINDOW, embedding_dim=DIM, unit_norm=False)
    model = models.InstanceDiscriminationModel(encoder, NUM_INSTANCES, num_negatives=num_negatives, **options)
    model.compile(optimizer=optimizer or keras.optimizers.SGD(1.0), jit_compile=False)
    return model


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def direct_loss(model, embeddings, ids, negative_ids, log_partition):
    """The loss as its equations have it, with rows picked from the whole bank."""
    bank = tf.constant(model.memory_bank.rows.numpy())
    logits = embeddings @ tf.transpose(bank) / model.temperature
    if not model.num_negatives:
        return -tf.reduce_mean(tf.gather(tf.nn.log_softmax(logits), ids, axis=1, batch_dims=1))
    own = tf.gather(logits, ids, axis=1, batch_dims=1)
    negative = tf.gather(logits, negative_ids, axis=1, batch_dims=1)
    p_own, p_negative = (tf.exp(values - log_partition) for values in (own, negative))
    noise = model.num_negatives / NUM_INSTANCES
    of_negatives = tf.reduce_sum(tf.math.log(noise / (p_negative + noise)), axis=1)
    return -tf.reduce_mean(tf.math.log(p_own / (p_own + noise)) + of_negatives)


@pytest.mark.parametrize("num_negatives", [0, 10])
def test_plain_compile_and_fit_learn_to_tell_instances_apart(num_negatives):
    model = build_model(num_negatives=num_negatives, momentum=0.5)
    model.compile(optimizer=keras.optimizers.Adam(0.02))  # with all that Keras chooses for itself
    assert not model.jit_compile, "XLA drops the check of ids"
    ids = np.arange(NUM_INSTANCES)
    # New noise in every epoch, so that it is spectra that are told.
    batches = [make_batch(epoch, ids=ids) for epoch in range(150)]
    history = model.fit(as_data(*batches), epochs=2, verbose=0).history
    assert set(history) == ({"loss", "log_partition"} if num_negatives else {"loss"})
    assert history["loss"][1] < 0.95 * history["loss"][0]
    cosines = model.predict(make_windows(ids, seed=999), verbose=0) @ model.memory_bank.rows.numpy().T
    num_nearer = (cosines > np.diag(cosines)[:, None]).sum(axis=1)
    assert num_nearer.mean() < 2, "by chance it is half of the others, 19.5"


@pytest.mark.parametrize("num_negatives", [0, 1, 10])
def test_a_step_is_down_the_gradient_of_the_equation_and_then_the_bank_follows(num_negatives):
    model, batch = build_model(num_negatives=num_negatives, momentum=0.25, temperature=0.3), make_batch(3)
    ids, bank = batch["instance_id"], model.memory_bank.rows.numpy()
    before = [variable.numpy() for variable in model.trainable_variables]
    negative_ids = model.negative_ids(NUM_ROWS).numpy() if num_negatives else None
    with tf.GradientTape() as tape:
        embeddings = tf.linalg.l2_normalize(model.audio_encoder(batch["log_mel"], training=True), axis=1)
        log_partition = None
        if num_negatives:
            drawn = np.einsum("bmd,bd->bm", bank[negative_ids], embeddings.numpy()) / 0.3
            log_partition = np.float32(np.log(NUM_INSTANCES * np.exp(drawn).mean()))
        expected = direct_loss(model, embeddings, ids, negative_ids, log_partition)
    gradients = tape.gradient(expected, model.trainable_variables)
    found = model.train_step(batch)
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-5)
    assert max(np.abs(gradient).max() for gradient in gradients) > 1e-2
    for variable, old, gradient in zip(model.trainable_variables, before, gradients, strict=True):
        np.testing.assert_allclose(variable, old - gradient, atol=1e-5, err_msg=variable.path)
    wanted = bank.copy()
    wanted[ids] = unit(0.25 * bank[ids] + 0.75 * embeddings.numpy())
    np.testing.assert_allclose(model.memory_bank.rows.numpy(), wanted, atol=1e-6)
    if num_negatives:
        np.testing.assert_allclose(found["log_partition"], log_partition, rtol=1e-5)
        assert model.log_partition.numpy() == found["log_partition"]
    else:
        assert model.log_partition is None


def test_z_is_that_of_the_first_batch_for_good():
    model = build_model()
    assert np.isnan(model.log_partition.numpy())
    found = [float(model.train_step(make_batch(seed))["log_partition"]) for seed in range(4)]
    assert found == [found[0]] * 4
    assert model.log_partition.numpy() == np.float32(found[0])
    # n x mean(exp(cosine / 0.4)) lies between n exp(-2.5) and n exp(2.5).
    assert abs(found[0] - np.log(NUM_INSTANCES)) < 2.5


def test_a_test_step_uses_the_trained_statistics_and_changes_nothing():
    model, batch = build_model(), make_batch()
    fresh = model.evaluate(as_data(batch), verbose=0, return_dict=True)
    assert np.isnan(model.log_partition.numpy()), "an evaluation is no training"
    assert np.isfinite(list(fresh.values())).all()
    model.fit(as_data(batch), verbose=0)
    before = model.get_weights()
    found = model.evaluate(as_data(batch), verbose=0, return_dict=True)
    embeddings, z = model(batch["log_mel"]), model.log_partition.numpy()
    expected = direct_loss(model, embeddings, batch["instance_id"], model.negative_ids(NUM_ROWS), z)
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-5)
    assert found["log_partition"] == z
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_negatives_are_uniform_and_depend_on_seed_and_step():
    drawn = {}
    for seed in (0, 1):
        model = build_model(keras.optimizers.SGD(0.0), num_negatives=NUM_INSTANCES, seed=seed)
        for step in range(2):
            drawn[seed, step] = model.negative_ids(500).numpy()
            np.testing.assert_array_equal(model.negative_ids(500), drawn[seed, step])
            model.train_step(make_batch())
    for ids in drawn.values():
        assert ids.shape == (500, NUM_INSTANCES)
        counts = np.bincount(ids.ravel(), minlength=NUM_INSTANCES)
        assert len(counts) == NUM_INSTANCES
        assert abs(counts - 500).max() < 130  # six standard deviations
        assert len(np.unique(ids, axis=0)) == 500, "rows share their negatives"
    assert len({ids.tobytes() for ids in drawn.values()}) == 4


def test_embeddings_have_length_one_whatever_the_encoder_gives():
    model, windows = build_model(), make_batch()["log_mel"]
    assert np.abs(np.linalg.norm(model.audio_encoder(windows), axis=1) - 1).max() > 0.01
    np.testing.assert_allclose(np.linalg.norm(model(windows), axis=1), 1, atol=1e-6)
    assert model(windows).dtype == tf.float32


def test_of_an_instance_twice_in_a_batch_the_bank_takes_the_last():
    model, batch = build_model(num_negatives=0), make_batch(ids=[5, 7, 5, 9])
    bank, embeddings = model.memory_bank.rows.numpy(), model(batch["log_mel"], training=True).numpy()
    model.fit(as_data(batch), verbose=0)
    expected = bank.copy()
    expected[[7, 5, 9]] = unit(0.5 * bank[[7, 5, 9]] + 0.5 * embeddings[1:])
    np.testing.assert_allclose(model.memory_bank.rows.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("num_negatives", [0, 10])
@pytest.mark.parametrize("outside", [-1, NUM_INSTANCES])
def test_an_instance_out_of_range_ends_training_and_is_named(num_negatives, outside):
    model = build_model(num_negatives=num_negatives)
    before = [variable.numpy() for variable in (*model.trainable_variables, model.memory_bank.rows)]
    batch = make_batch() | {"instance_id": np.array([0, 1, 2, outside, 4, 5, 6, 7])}
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"(?s)must be in \[0, 40\).*\[{outside}\]"):
        model.fit(as_data(batch), verbose=0)
    for old, new in zip(before, (*model.trainable_variables, model.memory_bank.rows), strict=True):
        np.testing.assert_array_equal(old, new.numpy())


@pytest.mark.parametrize(
    ("num_instances", "options", "message"),
    [
        (
            40,
            {"num_negatives": 41},
            "num_negatives must be 0, .*, or at most the 40 rows of the bank, got 41",
        ),
        (40, {}, "at most the 40 rows of the bank, got 64"),
        (40, {"num_negatives": -1}, "num_negatives must be 0, .* got -1"),
        (1, {}, "num_instances must be at least 2, got 1"),
        (40, {"temperature": 0.0}, r"temperature must be positive and finite, got 0\.0"),
        (40, {"temperature": float("nan")}, "temperature must be positive and finite, got nan"),
        (40, {"temperature": float("inf")}, "temperature must be positive and finite, got inf"),
        (40, {"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1\.0"),
    ],
)
def test_a_setting_out_of_range_is_refused(num_instances, options, message):
    encoder = networks.build_encoder("tiny", input_shape=tiny.WINDOW)
    with pytest.raises(ValueError, match=message):
        models.InstanceDiscriminationModel(encoder, num_instances, **options)


# Files.


@pytest.mark.parametrize("num_negatives", [0, 10])
def test_a_model_is_saved_and_loaded_with_bank_and_optimizer(tmp_path, num_negatives):
    options = {"num_negatives": num_negatives, "temperature": 0.2, "momentum": 0.25, "seed": 3}
    model, data = build_model("adam", **options), as_data(*(make_batch(seed) for seed in range(3)))
    model.fit(data, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, models.InstanceDiscriminationModel)
    for name in ("num_instances", "momentum", "num_negatives", "temperature", "seed"):
        assert (
            loaded.get_config()[name] == model.get_config()[name] == (options | {"num_instances": 40})[name]
        )
    assert int(loaded.optimizer.iterations) == 3
    for old, new in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    for trained in (model, loaded):
        trained.fit(data, verbose=0)
    for old, new in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_allclose(old, new, atol=1e-6)


@pytest.mark.parametrize("num_negatives", [0, 10])
def test_a_training_that_was_killed_goes_on_to_the_bit(tmp_path, num_negatives):
    """Bank, Z, moments and draws are those of one that was not."""
    batches = [make_batch(seed) for seed in range(6)]
    whole, killed = (build_model("adam", num_negatives=num_negatives) for _ in range(2))
    whole.fit(as_data(*batches), shuffle=False, verbose=0)
    saving = checkpoints.Checkpoints(tmp_path / "checkpoints")
    killed.fit(as_data(*batches[:3]), shuffle=False, verbose=0, callbacks=[saving])
    resumed = build_model("adam", num_negatives=num_negatives)
    resumed.optimizer.build(resumed.trainable_variables)
    bank = resumed.memory_bank.rows.numpy()
    assert checkpoints.Checkpoints(tmp_path / "checkpoints").restore(resumed) == 3
    assert (resumed.memory_bank.rows.numpy() != bank).any()
    np.testing.assert_array_equal(resumed.memory_bank.rows.numpy(), killed.memory_bank.rows.numpy())
    resumed.fit(as_data(*batches[3:]), shuffle=False, verbose=0)
    for variable, other in zip(whole.weights, resumed.weights, strict=True):
        np.testing.assert_array_equal(variable.numpy(), other.numpy(), err_msg=variable.path)
    assert (resumed.memory_bank.rows.numpy() != killed.memory_bank.rows.numpy()).any()


# Two devices: rows 0 to 3 of a batch go to one, 4 to 7 to the other.


def many_batches():
    """Of which each third holds an instance on both devices, and each fourth twice on one."""
    batches = []
    for step in range(NUM_STEPS):
        ids = np.random.default_rng(step).permutation(NUM_INSTANCES)[:NUM_ROWS]
        if step % 3 == 0:
            ids[6] = ids[1]
        if step % 4 == 0:
            ids[3] = ids[2]
        batches.append(make_batch(step, ids=ids))
    return {key: np.stack([batch[key] for batch in batches]) for key in batches[0]}


CASES = {
    "nce": ({"num_negatives": 10}, many_batches()),
    "softmax": ({"num_negatives": 0, "temperature": 0.2, "momentum": 0.3}, many_batches()),
}


@pytest.fixture(scope="module")
def two_devices(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_devices")
    (folder / "cases.pickle").write_bytes(pickle.dumps((CASES, str(folder))))
    subprocess.run(
        [sys.executable, "-c", TWO_DEVICES, str(folder / "cases.pickle"), str(folder / "results.pickle")],
        check=True, cwd=pathlib.Path(__file__).parent, timeout=600,
    )  # fmt: skip
    return pickle.loads((folder / "results.pickle").read_bytes())


@pytest.mark.parametrize("case", CASES)
def test_two_devices_have_the_bank_of_one(two_devices, case):
    one, two = two_devices[case][1], two_devices[case][2]
    assert two["spread"] == 0, "the copies drifted apart"
    assert len(one["logs"]) == NUM_STEPS
    for left, right in zip(one["logs"], two["logs"], strict=True):
        assert set(left) == set(right)
        for name in left:
            np.testing.assert_allclose(left[name], right[name], atol=1e-4, err_msg=name)
    for name in one["evaluated"]:
        np.testing.assert_allclose(one["evaluated"][name], two["evaluated"][name], atol=1e-4, err_msg=name)
    for path in one["before"]:
        np.testing.assert_array_equal(one["before"][path], two["before"][path], err_msg=path)
        np.testing.assert_allclose(one["after"][path], two["after"][path], atol=1e-4, err_msg=path)
        moved = np.abs(one["after"][path] - one["before"][path])
        assert path.endswith("log_partition") or moved.max() > 1e-3, path
        if path.endswith("memory_bank/rows"):
            updated = np.unique(CASES[case][1]["instance_id"])
            assert (moved.max(axis=1) > 1e-3).sum() == len(updated) > 30
    assert any(path.endswith("log_partition") for path in one["after"]) == (case == "nce")


@pytest.mark.parametrize("case", CASES)
def test_two_devices_go_on_from_a_checkpoint_to_the_bit(two_devices, case):
    resumed, two = two_devices[case]["resumed"], two_devices[case][2]
    assert resumed["step"] == 10
    assert resumed["spread"] == 0
    for path, values in two["after"].items():
        np.testing.assert_array_equal(resumed["after"][path], values, err_msg=path)


def test_no_device_reads_the_whole_bank_to_tell_from_a_few_rows(two_devices):
    """Else a step would take the longer, the more instances there are, and the memory of another bank."""
    assert two_devices["nce"]["reads"] == []
    assert two_devices["softmax"]["reads"] != []


def test_what_is_wrong_on_one_device_ends_the_training(two_devices):
    kind, message = two_devices["outside"]
    assert kind == "InvalidArgumentError"
    assert "instance ids must be in [0, 40)" in message
    assert "[40]" in message
    kind, message = two_devices["uneven"]
    assert kind == "InvalidArgumentError"
    assert "each of the 2 replicas needs as many rows as the others; drop the remainder" in message
