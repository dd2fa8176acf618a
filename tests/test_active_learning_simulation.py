"""Active learning simulated with the labels that a data set has, and the quality of what comes of it."""

import csv
import math

import numpy as np
import pytest

from tests.test_active_learning_clustering import blobs
from tfsound import active_learning as al

NAMES = tuple("abcde")


def true_labels(truth, num_classes=5):
    return np.eye(num_classes, dtype=bool)[truth]


def test_pure_clusters_give_every_window_its_label_for_one_answer_a_cluster():
    embeddings, truth = blobs()
    found = al.simulate(embeddings, true_labels(truth), NAMES, num_questions=5)
    assert (found.quality.precision, found.quality.recall, found.v_measure) == (1, 1, pytest.approx(1))
    assert len(found.asked) == found.clustering.num_active == 5
    np.testing.assert_array_equal(found.labels, true_labels(truth))
    assert found.known.all()
    np.testing.assert_array_equal(np.sort(truth[found.asked]), np.arange(5))


def test_a_smaller_budget_labels_the_largest_clusters():
    embeddings, truth = blobs()
    rows = np.concatenate([np.flatnonzero(truth == name)[: 4 * (1 + name)] for name in range(5)])
    found = al.simulate(embeddings[rows], true_labels(truth[rows]), NAMES, num_questions=2, num_clusters=5)
    assert set(truth[rows][found.asked]) == {3, 4}
    assert found.quality.recall == pytest.approx(2 / 5)
    assert found.quality.pooled_recall == pytest.approx(36 / 60)
    assert found.quality.precision == 1


def test_a_cluster_head_may_be_passed_in():
    embeddings, truth = blobs()
    head = np.eye(1000, 8, dtype=np.float32)
    found = al.simulate(
        embeddings, true_labels(truth), NAMES, num_questions=5, num_clusters=1000,
        assign=lambda units: (units @ head.T).argmax(axis=1),
    )  # fmt: skip
    np.testing.assert_array_equal(found.clustering.assignments, truth)
    assert (found.clustering.num_clusters, found.quality.recall) == (1000, 1)


@pytest.mark.parametrize("strategy", ["largest", "random", "diverse"])
def test_simulations_do_not_depend_on_the_order_of_the_windows(strategy):
    rng = np.random.default_rng(0)
    embeddings, truth = rng.normal(size=(60, 6)), rng.integers(0, 5, 60)
    ids = [f"clip-{number}" for number in range(60)]
    options = {"num_questions": 7, "num_clusters": 12, "strategy": strategy, "seed": 4}
    found = al.simulate(embeddings, true_labels(truth), NAMES, clip_ids=ids, **options)
    order = rng.permutation(60)
    moved = al.simulate(
        embeddings[order], true_labels(truth[order]), NAMES, clip_ids=[ids[row] for row in order], **options
    )
    assert moved.questions == found.questions
    np.testing.assert_array_equal(moved.labels, found.labels[order])
    np.testing.assert_array_equal(order[moved.asked], found.asked)
    np.testing.assert_array_equal(moved.clustering.assignments, found.clustering.assignments[order])


def test_random_labelling_spreads_nothing():
    _, truth = blobs()
    found = al.label_at_random(true_labels(truth), NAMES, num_questions=30, seed=1)
    assert (found.known.sum(), len(set(found.asked.tolist()))) == (30, 30)
    np.testing.assert_array_equal(found.labels[found.known], true_labels(truth)[found.known])
    assert (found.quality.precision, found.quality.pooled_recall) == (1, 0.3)
    other = al.label_at_random(true_labels(truth), NAMES, num_questions=30, seed=2)
    assert set(found.asked) != set(other.asked)
    everything = al.label_at_random(true_labels(truth), NAMES, num_questions=100)
    assert everything.quality.recall == 1


@pytest.mark.parametrize("budget", [0, 101])
def test_random_budgets_out_of_range(budget):
    with pytest.raises(al.ActiveLearningError, match="from 1 to the number of windows, 100"):
        al.label_at_random(true_labels(blobs()[1]), NAMES, num_questions=budget)


def test_an_answer_labels_its_whole_group_and_no_group_is_asked_about_twice():
    groups = np.arange(100) // 5
    _, truth = blobs()
    found = al.label_at_random(true_labels(truth), NAMES, num_questions=20, over=groups)
    assert sorted(groups[found.asked]) == list(range(20))
    assert found.known.all()
    with pytest.raises(al.ActiveLearningError, match=r"over must be \(100,\), a group a window, got \(20,\)"):
        al.label_at_random(true_labels(truth), NAMES, num_questions=20, over=np.arange(20))


def test_windows_without_a_class_are_answered_with_none():
    embeddings, truth = blobs()
    labels = true_labels(truth)
    labels[truth == 2] = False
    found = al.simulate(embeddings, labels, NAMES, num_questions=5)
    assert math.isnan(found.v_measure)
    np.testing.assert_array_equal(found.labels, labels)
    assert found.known.sum() == 81  # of the cluster without a class only the window that was asked about


def test_labels_must_fit():
    with pytest.raises(al.ActiveLearningError, match=r"true_labels must be bool \(3, 2\)"):
        al.simulate(np.ones((3, 2), np.float32), np.zeros((3, 3), bool), "ab", num_questions=1)
    question = al.Question("q0001", 0, 1, "clip", "recording", 0.0, 0.96)
    with pytest.raises(al.ActiveLearningError, match="the labels of clip 'clip' are not given"):
        al.simulated_answers([question], {})
    (answer,) = al.simulated_answers([question], {"clip": ("dog", "cat")})
    assert (answer.answer, answer.labels) == ("labels", ("cat", "dog"))


def test_real_embeddings_at_a_small_budget(shared_data):
    """50 questions to the 1,600 training clips of fold 1: half of the labels, most of them right."""
    with np.load(shared_data / "peers" / "yamnet_meanpool_esc50.npz") as file:
        embeddings, files = file["E"], file["f"].tolist()
    with open(shared_data / "esc50" / "meta" / "esc50.csv", newline="") as file:
        rows = {row["filename"]: row for row in csv.DictReader(file)}
    names = sorted({row["category"] for row in rows.values()})
    truth = np.asarray([names.index(rows[name]["category"]) for name in files])
    train = np.asarray([rows[name]["fold"] != "1" for name in files])
    found = al.simulate(embeddings[train], true_labels(truth[train], 50), names, num_questions=50)
    baseline = al.label_at_random(true_labels(truth[train], 50), names, num_questions=50)
    assert found.quality.recall > 0.45
    assert found.quality.precision > 0.6
    assert found.v_measure > 0.65
    assert baseline.quality.recall < 0.05
