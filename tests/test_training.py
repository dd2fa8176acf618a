"""Tests of tfsound.training: what a run leaves behind, and what survives kills, damage and other settings."""

import json
import os
import pathlib
import re
import shutil
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from hypothesis import given
from hypothesis import strategies as st
from processes import on_two_devices, require_killed
from training_runs import at_each_step, config_of, interrupted_at, require_same_end, signal_at

from tfsound import examples, losses, models, networks, training

pytestmark = pytest.mark.usefixtures("tiny_encoder")

NUM_TRIPLETS = 40
# 12 steps with a checkpoint every 5: epochs of 5, 5 and 2 steps.
SETTINGS = {
    "encoder": "tiny", "embedding_dim": 8, "num_steps": 12, "batch_size": 8, "steps_per_checkpoint": 5,
    "learning_rate": 0.01, "seed": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def triplets(tmp_path_factory):
    return tiny.write_triplets(tmp_path_factory.mktemp("sets") / "triplets", range(NUM_TRIPLETS))


@pytest.fixture(scope="module")
def whole_run(triplets, tmp_path_factory):
    """A run that nothing disturbed: its folder and its summary. Tests only read it."""
    output = str(tmp_path_factory.mktemp("runs") / "whole")
    return output, training.train([triplets], output, **SETTINGS)


def interrupted_run(triplets, output, step, **settings):
    with interrupted_at(step):
        training.train([triplets], output, **(SETTINGS | settings))
    return output


def weights_of(run):
    return training.load_encoder(run)[0].get_weights()


def checkpoint_names(run):
    return sorted(os.listdir(os.path.join(run, "checkpoints")))


# What a run leaves.


def test_a_run_leaves_what_it_says(whole_run, triplets):
    output, summary = whole_run
    assert sorted(os.listdir(output)) == [
        "checkpoints", "config.json", "encoder.json", "encoder.keras", "log.csv", "tensorboard",
    ]  # fmt: skip
    assert checkpoint_names(output) == ["step-00000010", "step-00000012"]
    config = config_of(output)
    assert config == SETTINGS | {
        "triplets": [triplets], "num_triplets": NUM_TRIPLETS, "margin": 0.1, "mining": "on",
        "constraints": [], "source_weights": [], "precision": "float32", "learning_rate_decay": "cosine",
        "patience_intervals": 0,
    }  # fmt: skip
    info = json.loads(pathlib.Path(output, "encoder.json").read_text())
    assert info == {"config": config, "mel_params": tiny.PARAMS.to_dict()}
    assert (summary.output, summary.num_steps) == (output, 12)
    assert str(summary) == f"trained {output}: 12 steps, loss {summary.final['loss']:.4f}"


def test_the_log_has_a_row_an_epoch(whole_run):
    output, summary = whole_run
    rows = training.read_log(f"{output}/log.csv")
    assert [(row["epoch"], row["step"]) for row in rows] == [(0, 5), (1, 10), (2, 12)]
    assert list(rows[0]) == [
        "epoch", "step", "loss", "negative_distance", "positive_distance", "learning_rate",
    ]  # fmt: skip
    for row in rows:  # a half cosine from 0.01 to 0
        assert row["learning_rate"] == pytest.approx(0.005 * (1 + np.cos(np.pi * row["step"] / 12)), abs=1e-8)
        assert 0 <= row["positive_distance"] <= 4
    assert summary.final == rows[-1]
    assert training.read_log("/nowhere/log.csv") == []


def test_tensorboard_gets_every_epoch(whole_run):
    steps = []
    for path in pathlib.Path(whole_run[0], "tensorboard").rglob("events*"):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            steps += [event.step for value in event.summary.value if value.tag == "epoch_loss"]
    assert sorted(steps) == [0, 1, 2]


def test_the_encoder_is_that_of_the_last_checkpoint(whole_run):
    output, _ = whole_run
    encoder, mel_params = training.load_encoder(output)
    assert mel_params == tiny.PARAMS
    model = training.triplets._compiled_model(config_of(output), tiny.PARAMS)
    model.load_weights(f"{output}/checkpoints/step-00000012/model.weights.h5")
    for found, expected in zip(encoder.get_weights(), model.audio_encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)
    windows = np.random.default_rng(0).normal(size=(3, *tiny.WINDOW)).astype(np.float32)
    np.testing.assert_allclose(np.linalg.norm(encoder(windows), axis=1), np.ones(3), atol=1e-6)


def test_a_checkpoint_holds_the_whole_optimizer(whole_run):
    output, _ = whole_run
    model = training.triplets._compiled_model(config_of(output), tiny.PARAMS)
    assert training.Checkpoints(f"{output}/checkpoints").restore(model) == 12
    assert int(model.optimizer.iterations) == 12
    # Two moments for each trainable variable, which start as 0.
    moments = [
        variable for variable in model.optimizer.variables if re.search("momentum|velocity", variable.path)
    ]
    assert len(moments) == 2 * len(model.trainable_variables)
    for variable in moments:
        assert np.abs(variable.numpy()).max() > 0, variable.path


def test_training_is_reproducible_and_depends_on_its_seed(whole_run, triplets, tmp_path):
    again, other = str(tmp_path / "again"), str(tmp_path / "other")
    training.train([triplets], again, **SETTINGS)
    require_same_end(again, whole_run[0])
    training.train([triplets], other, **(SETTINGS | {"seed": 4}))
    differences = [
        np.abs(a - b).max() for a, b in zip(weights_of(other), weights_of(whole_run[0]), strict=True)
    ]
    assert max(differences) > 0.01


def test_training_lowers_the_loss(triplets, tmp_path):
    settings = SETTINGS | {"num_steps": 60, "steps_per_checkpoint": 10, "margin": 0.5, "batch_size": 20}
    training.train([triplets], str(tmp_path / "run"), **settings)
    rows = training.read_log(str(tmp_path / "run" / "log.csv"))
    assert len(rows) == 6
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]


@pytest.mark.parametrize(
    ("num_steps", "steps_per_checkpoint", "rows"),
    [(1, 1, [1]), (4, 2, [2, 4]), (3, 100, [3]), (3, 2, [2, 3])],
)
def test_steps_and_checkpoints_of_any_number(triplets, tmp_path, num_steps, steps_per_checkpoint, rows):
    output = str(tmp_path / "run")
    settings = SETTINGS | {"num_steps": num_steps, "steps_per_checkpoint": steps_per_checkpoint}
    training.train([triplets], output, **settings)
    assert [row["step"] for row in training.read_log(f"{output}/log.csv")] == rows
    assert checkpoint_names(output)[-1] == f"step-{num_steps:08d}"


def test_bfloat16_trains(triplets, tmp_path):
    output = str(tmp_path / "run")
    summary = training.train([triplets], output, precision="bfloat16", **SETTINGS)
    assert np.isfinite(summary.final["loss"])
    encoder, _ = training.load_encoder(output)
    assert encoder.get_layer("conv").compute_dtype == "bfloat16"
    assert encoder(np.zeros((1, *tiny.WINDOW), np.float32)).dtype == tf.float32
    assert keras.config.dtype_policy().name == "float32"


def test_the_small_resnet_trains_without_mining_at_a_constant_rate(triplets, tmp_path):
    output = str(tmp_path / "run")
    training.train(
        [triplets], output, encoder="resnet_small", num_steps=2, batch_size=4, mining="off",
        learning_rate=1e-4, learning_rate_decay="constant",
    )  # fmt: skip
    (row,) = training.read_log(f"{output}/log.csv")
    assert row["learning_rate"] == pytest.approx(1e-4)
    assert training.load_encoder(output)[0].output_shape == (None, networks.EMBEDDING_DIM)


# Mining and the weights of sources.


@pytest.mark.parametrize(
    ("constraints", "expected"),
    [
        (["noise:0.5"], "off"),
        (["translation:10"], "off"),
        (["mixing"], "off"),
        (["proximity:10"], "on"),
        (["labels"], "on"),
        (["noise:0.5", "translation:10"], "on"),
        (["mixing:0.25", "noise:0.5", "proximity:10", "translation:10"], "on"),
        (["noise:0.5", "noise:1.0"], "off"),  # one constraint, twice
        (["of_their_own"], "on"),
        ([], "on"),
    ],
)
def test_mining_is_decided_as_in_section_4_2(constraints, expected):
    assert training.decide_mining("auto", constraints) == expected
    for asked in ("on", "off"):
        assert training.decide_mining(asked, constraints) == asked


def write_named_set(directory, numbers, constraints):
    records = [[tiny.make_triplet(number)[0] for number in numbers]]
    parameters = {"constraints": constraints}
    return tiny.write_set(directory, examples.TRIPLETS, records, parameters=parameters)


@pytest.fixture(scope="module")
def named_sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    return [
        write_named_set(folder / name, range(start, start + 20), [f"{name}:1"])
        for start, name in ((0, "noise"), (20, "mixing"))
    ]


def test_constraints_without_a_triplet_decide_nothing(named_sets, tmp_path):
    parameters = {"constraints": ["noise:1", "translation:2"], "counts": [4, 0]}
    records = [[tiny.make_triplet(number)[0] for number in range(20)]]
    triplets = tiny.write_set(tmp_path / "set", examples.TRIPLETS, records, parameters=parameters)
    training.train([triplets], str(tmp_path / "run"), **SETTINGS | {"num_steps": 2})
    assert config_of(tmp_path / "run")["mining"] == "off"
    assert config_of(tmp_path / "run")["constraints"] == ["noise:1"]


@pytest.mark.parametrize("num_sets", [1, 2])
def test_the_sets_of_a_run_decide_whether_it_mines(named_sets, tmp_path, capfd, monkeypatch, num_sets):
    mined = []
    original = losses.semi_hard_triplet_loss
    monkeypatch.setattr(
        losses, "semi_hard_triplet_loss", lambda *args, **kw: mined.append(1) or original(*args, **kw)
    )
    output, settings = str(tmp_path / "run"), SETTINGS | {"num_steps": 2}
    training.train(named_sets[:num_sets], output, **settings)
    decided = {1: "off", 2: "on"}[num_sets]
    constraints = {1: ["noise:1"], 2: ["mixing:1", "noise:1"]}[num_sets]
    assert (config_of(output)["mining"], config_of(output)["constraints"]) == (decided, constraints)
    assert bool(mined) == (decided == "on")
    assert f"mining {decided}, for {', '.join(constraints)}\n" in capfd.readouterr().err


def test_a_run_resumes_by_what_was_decided_and_not_by_the_word_for_it(named_sets, tmp_path):
    output = interrupted_run(named_sets[0], str(tmp_path / "run"), 6)  # auto: off
    with pytest.raises(training.TrainingError, match=r"\(mining: 'off' then, 'on' now\)"):
        training.train(named_sets[:1], output, mining="on", **SETTINGS)
    training.train(named_sets[:1], output, mining="off", **SETTINGS)


def test_a_set_made_again_under_another_constraint_does_not_resume(tmp_path):
    directory = write_named_set(tmp_path / "set", range(20), ["noise:0.5"])
    output = interrupted_run(directory, str(tmp_path / "run"), 6)
    shutil.rmtree(directory)
    write_named_set(directory, range(20), ["noise:1.0"])
    with pytest.raises(
        training.TrainingError, match=r"\(constraints: \['noise:0.5'\] then, \['noise:1.0'\] now"
    ):
        training.train([directory], output, **SETTINGS)


def test_source_weights_scale_the_loss(named_sets, tmp_path):
    means = []
    for number, weights in enumerate([(), (2.0, 2.0), (2.0, 0.0), (0.0, 2.0)]):
        output, settings = str(tmp_path / str(number)), SETTINGS | {"num_steps": 1, "margin": 1.0}
        run = training.train(named_sets, output, source_weights=weights, **settings)
        means.append(run.final["loss"])
        assert config_of(output)["source_weights"] == list(weights)
    plain, doubled, *each = means
    assert min(each) > 0
    np.testing.assert_allclose([doubled, sum(each)], [2 * plain, 2 * plain], rtol=1e-5)


def test_progress_leaves_few_lines_in_a_log_file_and_no_warnings(triplets, tmp_path, capfd, recwarn):
    settings = SETTINGS | {"num_steps": 120, "steps_per_checkpoint": 30}
    training.train([triplets], str(tmp_path / "run"), **settings)
    text = capfd.readouterr().err
    assert "120/120" in text
    assert "loss=" in text
    assert text.count("train:") <= 3
    assert not [warning for warning in recwarn if "shuffle" in str(warning.message)]
    assert training.progress_seconds() == 10.0


# Cut off and resumed.


def train_until_killed(triplets, output):
    with signal_at(8, signal.SIGKILL):
        training.train([triplets], output, **SETTINGS)


def test_a_training_killed_within_an_epoch_loses_no_more_than_it(triplets, whole_run, tmp_path):
    output = str(tmp_path / "run")
    require_killed(train_until_killed, triplets, output)
    assert checkpoint_names(output) == ["step-00000005"]
    assert not os.path.exists(f"{output}/encoder.keras")
    assert [row["step"] for row in training.read_log(f"{output}/log.csv")] == [5]
    with pytest.raises(training.TrainingError, match="was not finished; train it to its end"):
        training.load_encoder(output)
    assert training.train([triplets], output, **SETTINGS).num_steps == 12
    require_same_end(output, whole_run[0])


def train_until_killed_within_a_checkpoint(triplets, output):
    original = training.Checkpoints.save

    def save_half(self):
        if training.steps_done(self.model) == 10:
            name = os.path.join(output, "checkpoints", "step-00000010.tmp")
            os.makedirs(name)
            pathlib.Path(name, "model.weights.h5").write_bytes(b"half of it")
            signal.raise_signal(signal.SIGKILL)
        original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Checkpoints, "save", save_half)
        training.train([triplets], output, **SETTINGS)


def test_a_training_killed_within_a_checkpoint_takes_the_one_before_it(triplets, whole_run, tmp_path):
    output = str(tmp_path / "run")
    require_killed(train_until_killed_within_a_checkpoint, triplets, output)
    assert checkpoint_names(output) == ["step-00000005", "step-00000010.tmp"]
    training.train([triplets], output, **SETTINGS)
    require_same_end(output, whole_run[0])
    assert checkpoint_names(output) == ["step-00000010", "step-00000012"]


@pytest.mark.parametrize("step", [2, 11])
def test_an_interruption_ends_cleanly_and_is_made_up_for(triplets, whole_run, tmp_path, step):
    output = interrupted_run(triplets, str(tmp_path / "run"), step)
    expected = {2: [], 11: ["step-00000005", "step-00000010"]}[step]
    assert checkpoint_names(output) == expected
    training.train([triplets], output, **SETTINGS)
    require_same_end(output, whole_run[0])


def test_a_resumed_run_does_only_the_steps_that_are_left(triplets, tmp_path, monkeypatch):
    output = interrupted_run(triplets, str(tmp_path / "run"), 7)
    steps = []
    at_each_step(monkeypatch, steps.append)
    training.train([triplets], output, **SETTINGS)
    assert steps == [6, 7, 8, 9, 10, 11, 12]


def test_a_run_killed_before_its_encoder_was_saved_only_saves_it(triplets, whole_run, tmp_path, monkeypatch):
    output = str(tmp_path / "run")

    def killed(*arguments):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.finished, "save_encoder", killed)
        with pytest.raises(KeyboardInterrupt):
            training.train([triplets], output, **SETTINGS)
    monkeypatch.setattr(models.TripletModel, "fit", None)  # would fail if it trained
    training.train([triplets], output, **SETTINGS)
    require_same_end(output, whole_run[0])


def test_a_run_killed_between_log_and_checkpoint_logs_each_epoch_once(
    triplets, whole_run, tmp_path, monkeypatch
):
    output, original = str(tmp_path / "run"), training.Checkpoints.save

    def killed(self):
        if int(self.model.optimizer.iterations) == 10:
            raise KeyboardInterrupt
        original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Checkpoints, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            training.train([triplets], output, **SETTINGS)
    assert [row["step"] for row in training.read_log(f"{output}/log.csv")] == [5, 10]
    assert checkpoint_names(output) == ["step-00000005"]
    training.train([triplets], output, **SETTINGS)
    require_same_end(output, whole_run[0])


def truncate_checkpoint(run, name):
    os.truncate(os.path.join(run, "checkpoints", name, "model.weights.h5"), 2000)


def test_a_truncated_checkpoint_gives_way_to_the_one_before_it(triplets, whole_run, tmp_path, capfd):
    output = interrupted_run(triplets, str(tmp_path / "run"), 11)
    truncate_checkpoint(output, "step-00000010")
    training.train([triplets], output, **SETTINGS)
    assert "step-00000010 cannot be read" in capfd.readouterr().err
    require_same_end(output, whole_run[0])
    assert checkpoint_names(output) == ["step-00000010", "step-00000012"]


def test_a_run_without_a_readable_checkpoint_says_so(triplets, tmp_path):
    output = interrupted_run(triplets, str(tmp_path / "run"), 11)
    for name in ("step-00000005", "step-00000010"):
        truncate_checkpoint(output, name)
    with pytest.raises(training.TrainingError, match=r"no checkpoint in .* can be read; pass --overwrite"):
        training.train([triplets], output, **SETTINGS)


def test_other_settings_do_not_resume(triplets, tmp_path):
    output = interrupted_run(triplets, str(tmp_path / "run"), 6)
    message = r"was begun with other settings \(margin: 0\.1 then, 0\.2 now, num_steps: 12 then, 13 now\)"
    with pytest.raises(training.TrainingError, match=message):
        training.train([triplets], output, **(SETTINGS | {"margin": 0.2, "num_steps": 13}))
    # Nothing was touched.
    training.train([triplets], output, **SETTINGS)


def test_triplets_that_changed_in_number_do_not_resume(tmp_path):
    directory = tiny.write_triplets(tmp_path / "triplets", range(30))
    output = interrupted_run(directory, str(tmp_path / "run"), 6)
    shutil.rmtree(directory)
    tiny.write_triplets(directory, range(31))
    with pytest.raises(training.TrainingError, match=r"\(num_triplets: 30 then, 31 now\)"):
        training.train([directory], output, **SETTINGS)


def test_a_finished_run_is_not_trained_again(whole_run, triplets):
    with pytest.raises(training.TrainingError, match="is a finished run; pass --overwrite to train it anew"):
        training.train([triplets], whole_run[0], **SETTINGS)


def test_overwriting_starts_anew(triplets, tmp_path):
    output = str(tmp_path / "run")
    training.train([triplets], output, **SETTINGS)
    training.train([triplets], output, overwrite=True, **(SETTINGS | {"num_steps": 2}))
    assert [row["step"] for row in training.read_log(f"{output}/log.csv")] == [2]
    assert checkpoint_names(output) == ["step-00000002"]
    interrupted_run(triplets, output, 1, overwrite=True)
    training.train([triplets], output, **SETTINGS)


@pytest.mark.parametrize("name", ["note.txt", "config.json"])
@pytest.mark.parametrize("overwrite", [True, False])
def test_a_folder_of_others_is_left_alone(triplets, tmp_path, name, overwrite):
    (tmp_path / name).write_text('{"model_type": "bert"}')
    with pytest.raises(training.TrainingError, match="exists and is no training run; name another output"):
        training.train([triplets], str(tmp_path), overwrite=overwrite, **SETTINGS)
    with pytest.raises(NotADirectoryError, match="is a file, expected a folder or nothing"):
        training.train([triplets], str(tmp_path / name), overwrite=overwrite, **SETTINGS)
    assert os.listdir(tmp_path) == [name]


# Until convergence.

# A rate so low that the loss only wavers: 20 intervals of 2 steps, were it not for the patience.
WAVERING = SETTINGS | {
    "num_steps": 40, "steps_per_checkpoint": 2, "learning_rate": 1e-6, "learning_rate_decay": "constant",
}  # fmt: skip
PATIENCE = 3


@pytest.mark.parametrize(
    ("losses", "patience_intervals", "expected"),
    [
        ([], 1, False),
        ([5.0], 1, False),
        ([5.0, 5.0], 1, True),
        ([5.0, 5.0], 2, False),
        ([5.0, 5.0, 5.0], 2, True),
        ([5.0, 6.0, 7.0], 2, True),  # it only got worse
        ([5.0, 5.0, 5.0], 0, False),
        ([5.0, 4.0, 3.995], 1, True),  # 0.005 is less than 1 % of 1
        ([5.0, 4.0, 3.985], 1, False),
        ([5.0, 4.0, 3.995, 3.985], 2, False),  # small gains add up
        ([5.0, 4.0, 3.995, 3.991], 2, True),
        ([5.0, 4.0, 4.5, 3.0], 1, False),  # what came before the last best is past
        ([1.0, -1.0, -1.01], 1, True),  # through 0: 0.01 is less than 1 % of 2
        ([1.0, -1.0, -1.03], 1, False),
        ([-7.0, -7.5, -7.504], 1, True),
        ([-7.0, -7.5, -7.506], 1, False),
    ],
)
def test_convergence_is_judged_by_what_the_loss_has_come_down(losses, patience_intervals, expected):
    assert training.has_converged(losses, patience_intervals) is expected


@given(
    losses=st.lists(st.integers(-1000, 1000), max_size=20),
    patience_intervals=st.integers(1, 5),
    shift=st.integers(-1000, 1000),
    scale=st.integers(1, 1000),
)
def test_convergence_is_of_the_curve_and_not_of_its_place(losses, patience_intervals, shift, scale):
    # 1/64 and integers: every product is exact.
    rule = {"patience_intervals": patience_intervals, "min_relative_improvement": 1 / 64}
    moved = [scale * loss + shift for loss in losses]
    assert training.has_converged(moved, **rule) == training.has_converged(losses, **rule)
    # The best interval of all that improved lies at most so far back, or it has converged.
    if training.has_converged(losses, **rule):
        recent, before = losses[-patience_intervals:], losses[:-patience_intervals]
        assert min(recent) >= min(before) - (losses[0] - min(before)) / 64
        assert not training.has_converged([*losses, min(losses) - 2001], **rule)


def num_rows_until_convergence(rows):
    losses = [row["loss"] for row in rows]
    return next(n for n in range(len(rows)) if training.has_converged(losses[:n], PATIENCE))


@pytest.fixture(scope="module")
def patient_run(triplets, tmp_path_factory):
    """The rows of a run to its last step, and one that ends where the loss no longer falls."""
    folder = tmp_path_factory.mktemp("patience")
    training.train([triplets], str(folder / "all"), **WAVERING)
    summary = training.train([triplets], str(folder / "converged"), patience_intervals=PATIENCE, **WAVERING)
    return training.read_log(f"{folder}/all/log.csv"), summary


def test_a_run_ends_where_its_loss_no_longer_falls(patient_run):
    rows, summary = patient_run
    num_rows = num_rows_until_convergence(rows)
    assert PATIENCE < num_rows < len(rows) == 20
    assert training.read_log(f"{summary.output}/log.csv") == rows[:num_rows]
    assert (summary.num_steps, summary.converged, summary.final) == (2 * num_rows, True, rows[num_rows - 1])
    assert str(summary) == (
        f"trained {summary.output}: converged after {2 * num_rows} steps, loss {summary.final['loss']:.4f}"
    )
    assert training.finished_run(summary.output) == summary
    assert checkpoint_names(summary.output)[-1] == f"step-{2 * num_rows:08d}"
    assert json.loads(pathlib.Path(summary.output, "encoder.json").read_text())["config"]["num_steps"] == 40


@pytest.mark.parametrize("back", [1, 3])
def test_a_resumed_run_ends_at_the_same_interval(triplets, patient_run, tmp_path, back):
    _, whole = patient_run
    settings = WAVERING | {"patience_intervals": PATIENCE}
    output = interrupted_run(triplets, str(tmp_path / "run"), whole.num_steps - back, **settings)
    assert training.train([triplets], output, **settings).num_steps == whole.num_steps
    require_same_end(output, whole.output)


@pytest.mark.parametrize("where", ["before its checkpoint", "before its encoder"])
def test_a_run_killed_at_its_convergence_trains_no_further(triplets, patient_run, tmp_path, where):
    _, whole = patient_run
    output, settings = str(tmp_path / "run"), WAVERING | {"patience_intervals": PATIENCE}
    save = training.Checkpoints.save

    def killed(*arguments):
        raise KeyboardInterrupt

    def killed_at_the_last(self):
        if training.steps_done(self.model) == whole.num_steps:
            raise KeyboardInterrupt
        save(self)

    with pytest.MonkeyPatch.context() as patch:
        if where == "before its encoder":
            patch.setattr(training.finished, "save_encoder", killed)
        else:  # the log says that it has converged, and the last interval is to be done again
            patch.setattr(training.Checkpoints, "save", killed_at_the_last)
        with pytest.raises(KeyboardInterrupt):
            training.train([triplets], output, **settings)
    assert len(training.read_log(f"{output}/log.csv")) == whole.num_steps // 2
    training.train([triplets], output, **settings)
    require_same_end(output, whole.output)


# What goes wrong.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"steps_per_checkpoint": -1}, "steps_per_checkpoint must be at least 1, got -1"),
        ({"patience_intervals": -1}, "patience_intervals must be at least 0, got -1"),
        ({"embedding_dim": 0}, "embedding_dim must be at least 1"),
        ({"learning_rate": 0.0}, r"learning_rate must be positive and finite, got 0\.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive and finite, got nan"),
        ({"learning_rate": float("inf")}, "learning_rate must be positive and finite, got inf"),
        ({"precision": "float16"}, r"precision must be one of \['bfloat16', 'float32'\], got 'float16'"),
        ({"mining": "sometimes"}, "mining must be 'auto', 'on' or 'off', got 'sometimes'"),
        ({"source_weights": (1.0, 2.0)}, "source_weights must be one for each of 1 folders, got 2"),
        ({"source_weights": (-1.0,)}, r"source_weights must be finite, .* not all 0, got \[-1\.0\]"),
        ({"source_weights": (float("nan"),)}, r"source_weights must be finite, .*, got \[nan\]"),
        ({"source_weights": (float("inf"),)}, r"source_weights must be finite, .*, got \[inf\]"),
        ({"source_weights": (0.0,)}, r"source_weights must be finite, .* not all 0, got \[0\.0\]"),
        ({"batch_size": 41}, "batch_size 41 exceeds the 40 triplets; lower it or sample more"),
        ({"margin": -1.0}, r"margin must be at least 0 and finite, got -1\.0"),
        ({"encoder": "resnet18"}, "encoder must be one of .*, got 'resnet18'"),
        (
            {"learning_rate_decay": "linear"},
            "learning_rate_decay must be 'constant' or 'cosine', got 'linear'",
        ),
    ],
)
def test_a_setting_out_of_range_is_refused_and_leaves_nothing(triplets, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        training.train([triplets], str(tmp_path / "run"), **(SETTINGS | settings))
    assert os.listdir(tmp_path) == []


def test_missing_triplets_are_refused(tmp_path):
    with pytest.raises(examples.DatasetError, match="is not a folder"):
        training.train([str(tmp_path / "nowhere")], str(tmp_path / "run"), **SETTINGS)
    assert os.listdir(tmp_path) == []


def test_a_loss_that_is_no_number_ends_the_run(triplets, tmp_path):
    output = str(tmp_path / "run")
    settings = SETTINGS | {"learning_rate": 1e38}
    with pytest.raises(
        training.TrainingError,
        match=r"at step 5 \(loss=.*\); start anew with a lower learning_rate and --over",
    ):
        training.train([triplets], output, **settings)
    assert checkpoint_names(output) == []
    assert training.read_log(f"{output}/log.csv") == []


def test_weights_that_are_no_numbers_are_not_kept(triplets, tmp_path, monkeypatch):
    def breaks_at_the_first_gradient(x):
        features = tiny.encoder(x)
        return features + keras.ops.sqrt(0.0 * features)  # finite, with a gradient of 0 / 0

    monkeypatch.setitem(networks.ENCODERS, "breaks", breaks_at_the_first_gradient)
    settings = SETTINGS | {"encoder": "breaks", "num_steps": 1, "mining": "off", "margin": 1.0}
    with pytest.raises(
        training.TrainingError, match=r"weights are no longer numbers at step 1 \(loss=[\d.]+ "
    ):
        training.train([triplets], str(tmp_path / "run"), **settings)
    assert checkpoint_names(tmp_path / "run") == []


@pytest.mark.parametrize("damage", ["flip", "remove"])
def test_a_shard_damaged_while_training_is_named(tmp_path, monkeypatch, damage):
    directory = tiny.write_triplets(tmp_path / "triplets", range(NUM_TRIPLETS))
    path = os.path.join(directory, "triplets-00001.tfrecord")
    original = training.runs._fit

    def damaging(*arguments):
        tiny.flip_byte(path, 100) if damage == "flip" else os.remove(path)
        original(*arguments)

    monkeypatch.setattr(training.runs, "_fit", damaging)
    if damage == "remove":  # after the readers have checked the folder
        info = examples.read_triplet_infos([directory])
        known = examples.read_dataset_info(directory, kind=examples.TRIPLETS)
        calls = []

        def stale(*arguments, **keywords):
            calls.append(1)
            return known if len(calls) < 3 else REAL(*arguments, **keywords)

        REAL = examples.read_dataset_info  # noqa: N806
        monkeypatch.setattr(examples, "read_triplet_infos", lambda *arguments: info)
        monkeypatch.setattr(examples, "read_dataset_info", stale)
    expected = "is damaged after record 0" if damage == "flip" else "is missing"
    with pytest.raises(examples.DatasetError, match=rf"triplets-00001\.tfrecord {expected}"):
        training.train([directory], str(tmp_path / "run"), **SETTINGS)


def test_another_error_of_tensorflow_is_not_hidden(triplets, tmp_path, monkeypatch):
    def broken(self, batch):
        tf.debugging.assert_equal(tf.shape(batch["anchor"])[0], 3, "no three rows")
        return {"loss": 0.0}

    monkeypatch.setattr(models.TripletModel, "train_step", broken)
    with pytest.raises(tf.errors.InvalidArgumentError, match="no three rows"):
        training.train([triplets], str(tmp_path / "run"), **SETTINGS)


def test_what_is_no_finished_run_is_told_apart(tmp_path, triplets):
    (tmp_path / "file").write_text("x")
    for name, state in (
        ("nowhere", "does not exist"),
        ("file", "is no training run"),
        ("", "is no training run"),
    ):
        with pytest.raises(
            training.TrainingError, match=rf"holds no trained encoder \(encoder\.json\): it {state}"
        ):
            training.load_encoder(str(tmp_path / name))
    output = interrupted_run(triplets, str(tmp_path / "run"), 1)
    with pytest.raises(training.TrainingError, match="it was not finished; train it to its end"):
        training.load_encoder(output)


# Two devices.


def train_and_resume(triplets, folder):
    """A whole run, one of a step, and one that is interrupted and resumed; what a batch of 7 is told."""
    training.train([triplets], f"{folder}/whole", **SETTINGS)
    short = SETTINGS | {"num_steps": 1, "learning_rate_decay": "constant"}
    training.train([triplets], f"{folder}/constant", **short)
    training.train([triplets], interrupted_run(triplets, f"{folder}/resumed", 8), **SETTINGS)
    with pytest.raises(ValueError, match="batch_size") as refused:
        training.train([triplets], f"{folder}/odd", **(SETTINGS | {"batch_size": 7}))
    return str(refused.value)


def test_two_devices_train_resume_and_export(triplets, whole_run, tmp_path):
    refusal = on_two_devices(train_and_resume, triplets, str(tmp_path))
    assert "batch_size must be a multiple of the 2 devices, got 7" in refusal
    assert sorted(os.listdir(tmp_path)) == ["constant", "resumed", "whole"]
    whole, resumed = str(tmp_path / "whole"), str(tmp_path / "resumed")
    require_same_end(resumed, whole)
    rates = [row["learning_rate"] for row in training.read_log(f"{tmp_path}/constant/log.csv")]
    assert rates == [pytest.approx(0.01)]
    # This process has one device: the encoder loads, and it is that of one device within rounding.
    encoder, _ = training.load_encoder(whole)
    assert encoder.count_params() > 0
    for found, expected in zip(weights_of(whole), weights_of(whole_run[0]), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)
