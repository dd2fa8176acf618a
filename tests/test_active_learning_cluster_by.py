"""The job `questions`: what makes the clusters, a run's cluster head, k-means or the round before."""

import dataclasses
import os

import numpy as np
import pytest
import tiny
from coincidence_sets import SETTINGS, write_pairs

from tests import active_learning_sets as sets
from tests.test_active_learning_question_job import make
from tfsound import active_learning as al
from tfsound import evaluation, examples, training


def in_two(embeddings):
    return (embeddings[:, 0] > 0).astype(np.int32)


def test_what_made_the_clusters_is_written(tmp_path):
    first = make(tmp_path / "1", assign=in_two, num_clusters=2, num_questions=1)
    assert (first.settings["cluster_by"], first.num_clusters) == ("head", 2)
    assert al.read_questions(first.folder).settings["cluster_by"] == "head"
    assert make(tmp_path / "k").settings["cluster_by"] == "k-means"
    # The next round is about the same clusters, whatever made them, unless others are asked for.
    after = {"after": (first.folder,)}
    second = make(tmp_path / "2", **after)
    assert (second.settings["cluster_by"], second.num_clusters) == ("head", 2)
    np.testing.assert_array_equal(al.read_windows(second).cluster, al.read_windows(first).cluster)
    other = make(tmp_path / "3", cluster_by="k-means", num_questions=7, **after)
    assert (other.settings["cluster_by"], other.num_clusters) == ("k-means", 7)
    again = make(tmp_path / "4", cluster_by="k-means", after=(other.folder,))
    np.testing.assert_array_equal(al.read_windows(again).cluster, al.read_windows(other).cluster)


# The job on clip examples.


@pytest.fixture(scope="module")
def runs(tiny_encoder, tmp_path_factory):
    """Finished runs on pairs, with five clusters and without."""
    folder = tmp_path_factory.mktemp("runs")
    directory = write_pairs(folder / "pairs", examples.AUDIO_AUDIO)
    training.train_coincidence(str(folder / "plain"), audio_audio=[directory], **SETTINGS)
    training.train_coincidence(
        str(folder / "clusters"), audio_audio=[directory], num_clusters=5, cluster_weight=1.0,
        **(SETTINGS | {"num_steps": 60}),
    )  # fmt: skip
    return folder


@pytest.fixture
def real_clips(tmp_path):
    """12 clips as loud as the sounds of the pairs, which have one of six levels."""
    made = [tiny.make_clip(n, labels=("bell",)) for n in range(12)]
    return tiny.write_clips(
        tmp_path / "clips",
        [
            dataclasses.replace(clip, mel_energy=(clip.mel_energy + n % 6).astype("<f2"))
            for n, clip in enumerate(made)
        ],
    )


def test_a_runs_own_head_makes_the_clusters(runs, real_clips, tmp_path):
    run = str(runs / "clusters")
    by_head = al.questions(real_clips, run, str(tmp_path / "head"), cluster_by="head", num_questions=1)
    assert (by_head.num_clusters, by_head.settings["cluster_by"]) == (5, "head")
    embed, mel_params = evaluation.load_embed(run)
    embeddings, windows = al.embed_clips(examples.iter_clips(real_clips), embed, mel_params)
    expected = dict(
        zip(
            sets.window_keys(windows),
            training.load_cluster_head(run).assign(embeddings).tolist(),
            strict=True,
        )
    )
    assert len(set(expected.values())) > 1, "one cluster tells nothing"
    found = al.read_windows(by_head)
    assert dict(zip(sets.window_keys(found), found.cluster.tolist(), strict=True)) == expected
    for options in ({}, {"num_clusters": 5, "cluster_by": "head"}):
        same = al.questions(
            real_clips, run, str(tmp_path / "same"), overwrite=True, num_questions=1, **options
        )
        assert same.questions == by_head.questions
    second = al.questions(real_clips, run, str(tmp_path / "second"), after=(by_head.folder,))
    assert second.settings["cluster_by"] == "head"
    np.testing.assert_array_equal(al.read_windows(second).cluster, found.cluster)


def test_k_means_where_there_is_no_head_or_other_clusters_are_wanted(runs, real_clips, tmp_path):
    for number, (run, options) in enumerate([
        ("plain", {"num_questions": 3}),
        ("clusters", {"num_questions": 3, "cluster_by": "k-means"}),
        ("clusters", {"num_questions": 1, "num_clusters": 3}),
    ]):  # fmt: skip
        made = al.questions(real_clips, str(runs / run), str(tmp_path / str(number)), **options)
        assert (made.num_clusters, made.settings["cluster_by"]) == (3, "k-means")
    # A round after one by k-means goes on with its clusters, though the run has a head.
    second = al.questions(real_clips, str(runs / "clusters"), str(tmp_path / "next"), after=(made.folder,))
    assert (second.num_clusters, second.settings["cluster_by"]) == (3, "k-means")


def test_a_head_that_is_not_there_or_has_other_clusters_is_refused(runs, real_clips, tmp_path):
    output = str(tmp_path / "q")
    with pytest.raises(training.TrainingError, match="was trained without clusters"):
        al.questions(real_clips, str(runs / "plain"), output, cluster_by="head")
    with pytest.raises(al.ActiveLearningError, match=r"is 5 with the cluster head of .*, got 3"):
        al.questions(real_clips, str(runs / "clusters"), output, cluster_by="head", num_clusters=3)
    assert not os.path.exists(output)
