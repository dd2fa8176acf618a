"""Tests of tfsound.training.train_coincidence with clusters: what a run keeps, starts from and refuses."""

import os

import numpy as np
import pytest
import tiny
from coincidence_sets import SETTINGS, image_run, pairs
from training_runs import config_of, interrupted_at, require_same_end, weights_at_start

from tfsound import training

__all__ = ["image_run", "pairs"]  # fixtures
pytestmark = pytest.mark.usefixtures("tiny_encoder")

CLUSTERS = SETTINGS | {"num_clusters": 5, "cluster_weight": 0.3, "diversity_weight": 1.2}


@pytest.fixture(scope="module")
def cluster_run(pairs, image_run, tmp_path_factory):
    """A run with clusters, started from one without."""
    output = str(tmp_path_factory.mktemp("runs") / "clusters")
    training.train_coincidence(
        output, audio_audio=pairs[:1], audio_image=pairs[1:], start_from=image_run, **CLUSTERS
    )
    return output


def test_a_run_with_clusters_logs_them_and_keeps_their_head(cluster_run):
    for row in training.read_log(f"{cluster_run}/log.csv"):
        pair_loss = 0.9 * row["audio_image_loss"] + 0.1 * row["audio_audio_loss"]
        assert row["loss"] == pytest.approx(0.7 * pair_loss + 0.3 * row["cluster_loss"], abs=1e-5)
        expected = row["cluster_mean_entropy"] - 1.2 * row["cluster_entropy_of_mean"]
        assert row["cluster_loss"] == pytest.approx(expected, abs=1e-5)
    model, _ = training.load_coincidence_model(cluster_run)
    assert (model.cluster_weight, model.diversity_weight) == (0.3, 1.2)
    head = training.load_cluster_head(cluster_run)
    assert head.num_clusters == 5
    embeddings = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    np.testing.assert_array_equal(head.assign(embeddings), np.argmax(head(embeddings), axis=1))
    assert {name: config_of(cluster_run)[name] for name in CLUSTERS} == CLUSTERS


def test_a_run_without_clusters_has_no_head(image_run, tmp_path):
    with pytest.raises(
        training.TrainingError, match="was trained without clusters; name a run that was given num_cl"
    ):
        training.load_cluster_head(image_run)
    with pytest.raises(training.TrainingError, match="it does not exist"):
        training.load_cluster_head(str(tmp_path / "nowhere"))


def test_a_run_with_clusters_that_was_cut_off_ends_as_if_it_was_not(pairs, image_run, cluster_run, tmp_path):
    output = str(tmp_path / "run")
    both = {"audio_audio": pairs[:1], "audio_image": pairs[1:], "start_from": image_run}
    with interrupted_at(4):
        training.train_coincidence(output, **both, **CLUSTERS)
    training.train_coincidence(output, **both, **CLUSTERS)
    require_same_end(output, cluster_run)


def test_a_start_takes_the_head_over_or_makes_or_leaves_it(
    pairs, image_run, cluster_run, tmp_path, monkeypatch
):
    kept = weights_at_start(monkeypatch)
    started = training.load_coincidence_model(cluster_run)[0].parts
    training.train_coincidence(
        str(tmp_path / "over"), audio_audio=pairs[:1], start_from=cluster_run, **CLUSTERS
    )
    np.testing.assert_array_equal(kept["cluster_head"][0], started["cluster_head"].get_weights()[0])
    np.testing.assert_array_equal(kept["audio_encoder"][0], started["audio_encoder"].get_weights()[0])
    kept.clear()
    training.train_coincidence(
        str(tmp_path / "left"), audio_audio=pairs[:1], start_from=cluster_run, **SETTINGS
    )
    assert "cluster_head" not in kept
    np.testing.assert_array_equal(kept["audio_encoder"][0], started["audio_encoder"].get_weights()[0])
    kept.clear()
    training.train_coincidence(
        str(tmp_path / "made"), audio_image=pairs[1:], start_from=image_run, **CLUSTERS
    )
    assert kept["cluster_head"][0].shape == (5, 6)
    other = CLUSTERS | {"num_clusters": 6}
    with pytest.raises(
        ValueError, match=r"has other networks than this run \(num_clusters: 5 there, 6 here\)"
    ):
        training.train_coincidence(
            str(tmp_path / "other"), audio_audio=pairs[:1], start_from=cluster_run, **other
        )


def test_a_run_on_triplets_lends_its_audio_encoder(pairs, tmp_path, monkeypatch):
    triplets = tiny.write_triplets(tmp_path / "triplets", range(8))
    run = str(tmp_path / "triplet_run")
    training.train([triplets], run, **(SETTINGS | {"num_steps": 1}))
    with pytest.raises(
        ValueError, match=r"\(unit_norm: True there, False here\); use the same to start from"
    ):
        training.train_coincidence(str(tmp_path / "run"), audio_audio=pairs[:1], start_from=run, **CLUSTERS)
    kept = weights_at_start(monkeypatch)
    training.train_coincidence(
        str(tmp_path / "run"), audio_audio=pairs[:1], audio_image=pairs[1:], start_from=run, unit_norm=True,
        **CLUSTERS,
    )  # fmt: skip
    encoder, _ = training.load_encoder(run)
    for found, expected in zip(kept["audio_encoder"], encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match=r"\(encoder: 'tiny' there, 'vgg' here\)"):
        training.train_coincidence(
            str(tmp_path / "vgg"), audio_audio=pairs[:1], start_from=run, unit_norm=True,
            **(CLUSTERS | {"encoder": "vgg"}),
        )  # fmt: skip


@pytest.mark.parametrize(("kinds", "num_sounds"), [((0,), 48), ((1,), 24), ((0, 1), 72)])
def test_more_clusters_than_sounds_are_refused(pairs, tmp_path, kinds, num_sounds):
    given = {name: [pairs[kind]] for kind, name in enumerate(("audio_audio", "audio_image")) if kind in kinds}
    settings = CLUSTERS | {"num_clusters": num_sounds + 1}
    message = f"num_clusters {num_sounds + 1} exceeds the {num_sounds} sounds of the pairs; lower it"
    with pytest.raises(ValueError, match=message):
        training.train_coincidence(str(tmp_path / "run"), **given, **settings)
    assert os.listdir(tmp_path) == []
