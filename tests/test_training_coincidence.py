"""Tests of tfsound.training.train_coincidence: what a run leaves, resumes, starts from and refuses."""

import dataclasses
import json
import os
import pathlib
import shutil

import keras
import numpy as np
import pytest
import tiny
from coincidence_sets import NUM_PAIRS, SETTINGS, image_run, pairs, write_pairs
from training_runs import config_of, interrupted_at, require_same_end, weights_at_start

from tfsound import evaluation, examples, models, training
from tfsound.export import saved_model

__all__ = ["image_run", "pairs"]  # fixtures
pytestmark = pytest.mark.usefixtures("tiny_encoder")


@pytest.fixture(scope="module")
def whole_run(pairs, tmp_path_factory):
    """A run on both kinds that nothing disturbed: its folder and its summary. Tests only read it."""
    output = str(tmp_path_factory.mktemp("runs") / "whole")
    return output, training.train_coincidence(
        output, audio_audio=pairs[:1], audio_image=pairs[1:], **SETTINGS
    )


def test_a_run_leaves_what_it_says(whole_run, pairs):
    output, summary = whole_run
    assert sorted(os.listdir(output)) == [
        "checkpoints", "config.json", "encoder.json", "encoder.keras", "log.csv", "model.keras",
        "tensorboard",
    ]  # fmt: skip
    config = config_of(output)
    assert config == SETTINGS | {
        "audio_audio": pairs[:1], "audio_image": pairs[1:], "num_audio_audio": NUM_PAIRS,
        "num_audio_image": NUM_PAIRS, "image_encoder": "tiny", "unit_norm": False,
        "audio_audio_weight": 0.1, "num_clusters": 0, "cluster_weight": 0.1, "diversity_weight": 1.1,
        "negatives": "all_pairs", "precision": "float32", "learning_rate_decay": "cosine",
        "patience_intervals": 0, "start_from": "",
    }  # fmt: skip
    info = json.loads(pathlib.Path(output, "encoder.json").read_text())
    assert info == {"config": config, "mel_params": tiny.PARAMS.to_dict()}
    rows = training.read_log(f"{output}/log.csv")
    assert [row["step"] for row in rows] == [3, 5]
    assert set(rows[0]) == {
        "epoch", "step", "loss", "audio_audio_loss", "audio_audio_accuracy", "audio_image_loss",
        "audio_image_accuracy", "learning_rate",
    }  # fmt: skip
    for row in rows:
        joint = 0.9 * row["audio_image_loss"] + 0.1 * row["audio_audio_loss"]
        assert row["loss"] == pytest.approx(joint, abs=1e-5)
    assert str(summary) == f"trained {output}: 5 steps, loss {rows[-1]['loss']:.4f}"


def test_the_model_of_a_run_holds_its_encoder_and_no_optimizer(whole_run):
    output, _ = whole_run
    model, mel_params = training.load_coincidence_model(output)
    assert mel_params == tiny.PARAMS
    encoder, _ = training.load_encoder(output)
    windows = np.random.default_rng(0).normal(size=(3, *tiny.WINDOW)).astype(np.float32)
    np.testing.assert_array_equal(model(windows), encoder(windows))
    checkpoint = sorted(pathlib.Path(output, "checkpoints").iterdir())[-1]
    trained = training.coincidence._compiled_model(config_of(output), tiny.PARAMS, is_resumed=False)
    trained.load_weights(checkpoint / "model.weights.h5")
    for name, part in trained.parts.items():
        for one, other in zip(part.get_weights(), model.parts[name].get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
    logits = model.pair_logits(windows, np.zeros((2, 128, 128, 3), np.float32))
    assert logits.shape == (3, 2)
    assert os.path.getsize(f"{output}/model.keras") < os.path.getsize(checkpoint / "model.weights.h5")


def test_a_run_is_evaluated_and_exported_as_one_on_triplets(whole_run, tmp_path):
    output, _ = whole_run
    embed, mel_params = evaluation.load_embed(output)
    windows = np.random.default_rng(0).normal(size=(3, *tiny.WINDOW)).astype(np.float32)
    embeddings = embed(windows)
    assert (embeddings.shape, mel_params) == ((3, 6), tiny.PARAMS)
    assert np.abs(np.linalg.norm(embeddings, axis=1) - 1).max() > 1e-3  # of no set length
    exported = saved_model.export(output, str(tmp_path / "model"))
    np.testing.assert_allclose(evaluation.load_embed(exported.path)[0](windows), embeddings, atol=1e-5)


def test_training_lowers_the_loss_of_both(pairs, tmp_path):
    settings = SETTINGS | {"num_steps": 60, "steps_per_checkpoint": 30, "batch_size": 8}
    output = str(tmp_path / "run")
    training.train_coincidence(
        output, audio_audio=pairs[:1], audio_image=pairs[1:], audio_audio_weight=0.5, **settings
    )
    first, last = training.read_log(f"{output}/log.csv")
    for name in ("audio_audio_loss", "audio_image_loss"):
        assert last[name] < 0.9 * first[name]


@pytest.mark.parametrize("step", [2, 4])
def test_a_run_that_was_cut_off_ends_as_if_it_was_not(pairs, tmp_path, whole_run, step):
    output = str(tmp_path / "run")
    with interrupted_at(step):
        training.train_coincidence(output, audio_audio=pairs[:1], audio_image=pairs[1:], **SETTINGS)
    with pytest.raises(training.TrainingError, match="was not finished; train it to its end"):
        training.load_coincidence_model(output)
    training.train_coincidence(output, audio_audio=pairs[:1], audio_image=pairs[1:], **SETTINGS)
    require_same_end(output, whole_run[0])


def test_random_negatives_are_drawn_again_after_an_interruption(pairs, tmp_path):
    settings = SETTINGS | {"negatives": "random"}
    whole, resumed = str(tmp_path / "whole"), str(tmp_path / "resumed")
    training.train_coincidence(whole, audio_audio=pairs[:1], **settings)
    with interrupted_at(4):
        training.train_coincidence(resumed, audio_audio=pairs[:1], **settings)
    training.train_coincidence(resumed, audio_audio=pairs[:1], **settings)
    require_same_end(resumed, whole)


def test_sound_alone_makes_a_model_without_images(pairs, tmp_path):
    output = str(tmp_path / "run")
    training.train_coincidence(output, audio_audio=pairs[:1], precision="bfloat16", **SETTINGS)
    assert (config_of(output)["image_encoder"], config_of(output)["audio_image"]) == ("", [])
    with pytest.raises(ValueError, match="image_encoder 'vgg' was given, and no pairs of sound and image"):
        training.train_coincidence(
            str(tmp_path / "other"), audio_audio=pairs[:1], image_encoder="vgg", **SETTINGS
        )
    model, _ = training.load_coincidence_model(output)
    assert set(model.parts) == {"audio_encoder", "audio_audio_head"}
    assert model.audio_audio_head.compute_dtype == "bfloat16"
    assert model.audio_encoder.get_layer("conv").compute_dtype == "bfloat16"
    assert "audio_image_loss" not in training.read_log(f"{output}/log.csv")[0]
    assert np.isfinite(training.read_log(f"{output}/log.csv")[-1]["loss"])


def test_the_correspondence_baseline_is_row_d_of_table_1(pairs, tmp_path):
    recipe = training.AV_CORRESPONDENCE
    assert dataclasses.asdict(recipe) == {
        "encoder": "vgg", "negatives": "random", "max_time_gap_seconds": 1.0,
    }  # fmt: skip
    output = str(tmp_path / "run")
    settings = SETTINGS | {"num_steps": 1, "batch_size": 2} | recipe.training_options
    training.train_coincidence(output, audio_image=pairs[1:], **settings)
    model, _ = training.load_coincidence_model(output)
    assert (model.negatives, model.audio_encoder.name, model.image_encoder.name) == (
        "random", "vgg", "vgg_image",
    )  # fmt: skip


# The curriculum.


def test_a_run_starts_from_the_weights_of_another(pairs, image_run, tmp_path, monkeypatch):
    kept = weights_at_start(monkeypatch)
    output = str(tmp_path / "run")
    training.train_coincidence(
        output, audio_audio=pairs[:1], audio_image=pairs[1:], start_from=image_run, **SETTINGS
    )
    model, _ = training.load_coincidence_model(image_run)
    for name, part in model.parts.items():
        for found, expected in zip(kept[name], part.get_weights(), strict=True):
            np.testing.assert_array_equal(found, expected)
    assert config_of(output)["start_from"] == image_run
    # It goes on from there: sound and sight are told apart better than at the first step of a fresh run.
    fresh = training.read_log(f"{image_run}/log.csv")[0]["audio_image_loss"]
    assert training.read_log(f"{output}/log.csv")[0]["audio_image_loss"] < fresh


def test_a_run_keeps_no_head_that_it_did_not_train_and_the_next_starts_it_anew(
    pairs, image_run, tmp_path, monkeypatch
):
    model, _ = training.load_coincidence_model(image_run)
    assert set(model.parts) == {"audio_encoder", "image_encoder", "audio_image_head"}
    assert model.audio_audio_head is None
    windows = np.zeros((2, *tiny.WINDOW), np.float32)
    assert model.pair_logits(windows, np.zeros((3, 128, 128, 3), np.float32)).shape == (2, 3)
    with pytest.raises(ValueError, match=r"must hold audio_image \(this model has no audio_audio_head\)"):
        model.pair_logits(windows, windows)
    assert not any(name.startswith("audio_audio_") for name in training.read_log(f"{image_run}/log.csv")[0])
    # From AV to AV and AA: the head is a fresh one of the run's own seed, whatever the start.
    kept = weights_at_start(monkeypatch)
    both = {"audio_audio": pairs[:1], "audio_image": pairs[1:]}
    heads = []
    for name, options in (("fresh", {}), ("from_av", {"start_from": image_run})):
        kept.clear()
        training.train_coincidence(str(tmp_path / name), **both, **options, **SETTINGS)
        heads.append(kept["audio_audio_head"])
    for one, other in zip(*heads, strict=True):
        np.testing.assert_array_equal(one, other)
    trained = training.load_coincidence_model(str(tmp_path / "from_av"))[0].audio_audio_head.get_weights()
    assert any(np.abs(now - then).max() > 0 for now, then in zip(trained, heads[1], strict=True))
    # And back to AV alone: the head of sounds is left behind.
    training.train_coincidence(
        str(tmp_path / "av"), audio_image=pairs[1:], start_from=str(tmp_path / "from_av"), **SETTINGS
    )
    assert "audio_audio_head" not in training.load_coincidence_model(str(tmp_path / "av"))[0].parts


def test_a_run_on_images_alone_that_was_cut_off_ends_as_if_it_was_not(pairs, image_run, tmp_path):
    output = str(tmp_path / "run")
    with interrupted_at(4):
        training.train_coincidence(output, audio_image=pairs[1:], **SETTINGS)
    training.train_coincidence(output, audio_image=pairs[1:], **SETTINGS)
    require_same_end(output, image_run)


def test_a_resumed_run_does_not_start_over_and_needs_no_start(pairs, image_run, tmp_path):
    whole, resumed = str(tmp_path / "whole"), str(tmp_path / "resumed")
    started_from = shutil.copytree(image_run, tmp_path / "start")
    settings = SETTINGS | {"start_from": str(started_from)}
    training.train_coincidence(whole, audio_audio=pairs[:1], **settings)
    with interrupted_at(4):
        training.train_coincidence(resumed, audio_audio=pairs[:1], **settings)
    shutil.rmtree(started_from)
    training.train_coincidence(resumed, audio_audio=pairs[:1], **settings)
    require_same_end(resumed, whole)
    with pytest.raises(training.TrainingError, match="start holds no trained encoder"):
        training.train_coincidence(resumed, audio_audio=pairs[:1], overwrite=True, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"embedding_dim": 7}, r"has other networks than this run \(embedding_dim: 6 there, 7 here\)"),
        ({"image_encoder": "vgg"}, r"\(image_encoder: 'tiny' there, 'vgg' here\); use the same"),
        ({"unit_norm": True}, r"\(unit_norm: False there, True here\)"),
    ],
)
def test_a_start_with_other_networks_is_refused(pairs, image_run, tmp_path, settings, message):
    settings = SETTINGS | {"start_from": image_run} | settings
    with pytest.raises(ValueError, match=message):
        training.train_coincidence(str(tmp_path / "run"), audio_image=pairs[1:], **settings)
    assert os.listdir(tmp_path) == []


def test_a_start_with_another_front_end_is_refused(image_run, tmp_path):
    mel_params = dataclasses.replace(tiny.PARAMS, mel_max_hz=7000.0)
    directory = write_pairs(tmp_path / "pairs", examples.AUDIO_IMAGE, num_pairs=4, mel_params=mel_params)
    with pytest.raises(ValueError, match=r"was made with other mel parameters: mel_max_hz is 7500"):
        training.train_coincidence(
            str(tmp_path / "run"), audio_image=[directory], start_from=image_run, **SETTINGS
        )


def test_what_is_no_finished_run_on_pairs_is_no_start(pairs, tmp_path):
    triplets = tiny.write_triplets(tmp_path / "triplets", range(8))
    run = tmp_path / "unknown_run"
    training.train([triplets], str(run), **(SETTINGS | {"num_steps": 1}))
    info = json.loads((run / "encoder.json").read_text())
    del info["config"]["triplets"]
    (run / "encoder.json").write_text(json.dumps(info))
    with pytest.raises(training.TrainingError, match=r"holds no model\.keras: it was not trained on pairs"):
        training.train_coincidence(
            str(tmp_path / "run"), audio_audio=pairs[:1], start_from=str(run), **SETTINGS
        )
    with pytest.raises(training.TrainingError, match="it does not exist"):
        training.train_coincidence(
            str(tmp_path / "run"), audio_audio=pairs[:1], start_from="nowhere", **SETTINGS
        )
    assert sorted(os.listdir(tmp_path)) == ["triplets", "unknown_run"]


# What goes wrong.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 1}, "batch_size must be at least 2, for a pair alone has no negative, got 1"),
        ({"batch_size": 25}, "batch_size 25 exceeds the 24 audio_audio pairs; lower it or sample more"),
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"learning_rate": -1.0}, r"learning_rate must be positive and finite, got -1\.0"),
        ({"audio_audio_weight": 2.0}, r"audio_audio_weight must be in \[0, 1\], got 2\.0"),
        ({"num_clusters": 1}, "num_clusters must be 0, for none, or at least 2, got 1"),
        ({"num_clusters": 5, "cluster_weight": 2.0}, r"cluster_weight must be in \[0, 1\], got 2\.0"),
        ({"num_clusters": 5, "diversity_weight": -1.0}, r"diversity_weight must be finite and at least 0"),
        ({"negatives": "none"}, "negatives must be one of .*, got 'none'"),
        ({"encoder": "resnet18"}, "encoder must be one of .*, got 'resnet18'"),
        ({"image_encoder": "resnet18"}, "encoder must be one of .*, got 'resnet18'"),
        ({"precision": "float16"}, "precision must be one of .*, got 'float16'"),
        ({"learning_rate_decay": "linear"}, "learning_rate_decay must be 'constant' or 'cosine'"),
    ],
)
def test_a_setting_out_of_range_is_refused_and_leaves_nothing(pairs, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        training.train_coincidence(
            str(tmp_path / "run"), audio_audio=pairs[:1], audio_image=pairs[1:], **(SETTINGS | settings)
        )
    assert os.listdir(tmp_path) == []


def test_missing_or_mistaken_pairs_are_refused(pairs, tmp_path):
    output = str(tmp_path / "run")
    with pytest.raises(examples.DatasetError, match="no set of pairs was given; name at least one folder"):
        training.train_coincidence(output, **SETTINGS)
    with pytest.raises(
        examples.DatasetError, match="holds pairs of modality 'audio_image', expected 'audio_au"
    ):
        training.train_coincidence(output, audio_audio=pairs[1:], **SETTINGS)
    with pytest.raises(examples.DatasetError, match="is not a folder"):
        training.train_coincidence(output, audio_image=[str(tmp_path / "nowhere")], **SETTINGS)
    assert os.listdir(tmp_path) == []


def test_other_settings_do_not_resume_and_finished_runs_are_left(pairs, whole_run, tmp_path):
    with pytest.raises(training.TrainingError, match="is a finished run; pass --overwrite"):
        training.train_coincidence(whole_run[0], audio_audio=pairs[:1], audio_image=pairs[1:], **SETTINGS)
    output = str(tmp_path / "run")
    with interrupted_at(1):
        training.train_coincidence(output, audio_audio=pairs[:1], **SETTINGS)
    with pytest.raises(training.TrainingError, match=r"\(negatives: 'all_pairs' then, 'random' now\)"):
        training.train_coincidence(output, audio_audio=pairs[:1], negatives="random", **SETTINGS)


def test_a_shard_damaged_while_training_is_named(pairs, tmp_path, monkeypatch):
    directory = str(tmp_path / "pairs")
    shutil.copytree(pairs[0], directory)
    path = os.path.join(directory, "pairs-00001.tfrecord")
    original = training.runs._fit

    def damaging(*arguments):
        tiny.flip_byte(path, 100)
        original(*arguments)

    monkeypatch.setattr(training.runs, "_fit", damaging)
    with pytest.raises(examples.DatasetError, match=r"pairs-00001\.tfrecord is damaged after record 0"):
        training.train_coincidence(str(tmp_path / "run"), audio_audio=[directory], **SETTINGS)


def test_a_loss_that_is_no_number_ends_the_run(pairs, tmp_path):
    settings = SETTINGS | {"learning_rate": 1e38}
    with pytest.raises(training.TrainingError, match=r"at step 3 \(.*loss=.*\); start anew with a lower"):
        training.train_coincidence(str(tmp_path / "run"), audio_audio=pairs[:1], **settings)


def test_the_saved_model_is_plain_keras_with_names_of_tfsound(whole_run):
    loaded = keras.saving.load_model(f"{whole_run[0]}/model.keras", compile=False)
    assert isinstance(loaded, models.CoincidenceModel)
    assert getattr(loaded, "optimizer", None) is None
