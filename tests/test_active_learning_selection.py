"""Which windows are asked about, in the first round and in later ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import active_learning_sets as sets
from tfsound import active_learning as al
from tfsound.active_learning import selection


def prepared(clusters, embeddings=None, prefix="clip"):
    """Windows, clustering and embeddings; by default embeddings are the axes of their clusters."""
    clusters = np.asarray(clusters)
    if embeddings is None:
        embeddings = np.eye(clusters.max() + 1, dtype=np.float32)[clusters]
    return sets.make_windows(clusters, prefix=prefix), al.clustering_of(embeddings, clusters), embeddings


def ask(clusters, embeddings=None, **options):
    return al.make_questions(*prepared(clusters, embeddings), **({"num_questions": 99} | options))


def permuted(windows, embeddings, order):
    """The same windows in another order, clips too."""
    clip_of = np.argsort(order)
    return al.WindowClusters(
        clip_index=clip_of[windows.clip_index[order]].astype(np.int32),
        start_seconds=windows.start_seconds[order],
        cluster=windows.cluster[order],
        distance=windows.distance[order],
        clip_ids=windows.clip_ids[order],
        recording_ids=windows.recording_ids[order],
        window_seconds=windows.window_seconds,
    ), embeddings[order]  # fmt: skip


clusterings = st.lists(st.integers(0, 9), min_size=1, max_size=40)
strategies = st.sampled_from(["largest", "random", "diverse"])


@given(clusterings, st.integers(1, 15), strategies, st.integers(0, 3), st.integers(-5, 5), st.randoms())
@settings(max_examples=120, deadline=None)
def test_one_question_a_cluster_whatever_the_order(clusters, budget, strategy, neighbours, seed, random):
    windows, clustering, embeddings = prepared(clusters)
    options = {"num_questions": budget, "strategy": strategy, "neighbours": neighbours, "seed": seed}
    questions = al.make_questions(windows, clustering, embeddings, **options)
    assert len(questions) == min(budget, len(set(clusters)))
    assert len({question.cluster for question in questions}) == len(questions)
    assert len({question.question_id for question in questions}) == len(questions)
    for question in questions:
        window = int(question.clip_id.removeprefix("clip-"))
        assert question.cluster == clusters[window]
        assert question.cluster_size == clusters.count(question.cluster)
        others = [int(neighbour.clip_id.removeprefix("clip-")) for neighbour in question.neighbours]
        assert len(set(others) - {window}) == min(neighbours, question.cluster_size - 1)
        assert {clusters[other] for other in others} <= {question.cluster}
    order = np.asarray(random.sample(range(len(clusters)), len(clusters)))
    moved, moved_embeddings = permuted(windows, embeddings, order)
    again = al.clustering_of(moved_embeddings, np.asarray(clusters)[order], clustering.num_clusters)
    assert al.make_questions(moved, again, moved_embeddings, **options) == questions


def test_largest_clusters_come_first():
    assert [question.cluster for question in ask([3, 1, 1, 1, 3, 0, 5, 5, 5, 5])] == [5, 1, 3, 0]
    assert [question.cluster for question in ask([3, 1, 1, 1, 3, 0, 5, 5, 5, 5], num_questions=2)] == [5, 1]


def test_random_clusters_are_drawn_alike():
    counts = np.zeros(5)
    for seed in range(400):
        (question,) = ask([0, 1, 1, 1, 1, 1, 2, 3, 4], num_questions=1, strategy="random", seed=seed)
        counts[question.cluster] += 1
    assert counts.min() > 50  # 80 expected, standard deviation 8


def test_diverse_clusters_begin_with_the_largest_and_go_far():
    angles = np.deg2rad([0, 1, 2, 2, 90, 180])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    questions = ask([0, 1, 2, 2, 3, 4], embeddings, num_questions=3, strategy="diverse")
    assert [question.cluster for question in questions] == [2, 4, 3]


def test_every_member_is_drawn_alike():
    counts = np.zeros(4)
    for seed in range(400):
        (question,) = ask([0, 0, 0, 0], seed=seed)
        counts[int(question.clip_id[-1])] += 1
    assert counts.min() > 65  # 100 expected, standard deviation 9


def test_neighbours_are_the_nearest_of_other_recordings():
    angles = np.deg2rad([0, 1, 5, 3, 40, 2, 50])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    windows, _, _ = prepared([0] * 7)
    # Windows 0 and 1 are of recording A, 3 and 5 of B: one of each is shown, none of the window's own.
    windows.recording_ids[:] = ["A", "A", "C", "B", "D", "B", "E"]
    clusters = np.asarray([0, 0, 0, 0, 0, 0, 1])
    clustering = al.clustering_of(embeddings, clusters)
    for seed in range(30):
        question = al.make_questions(
            windows, clustering, embeddings, num_questions=1, neighbours=3, seed=seed
        )[0]
        if question.clip_id == "clip-000":
            break
    assert [neighbour.clip_id for neighbour in question.neighbours] == ["clip-005", "clip-002", "clip-004"]


def test_of_huge_clusters_the_neighbours_near_the_centre_are_looked_at(monkeypatch):
    monkeypatch.setattr(selection, "_MOST_NEIGHBOUR_CANDIDATES", 2)
    windows, clustering, embeddings = prepared([0] * 5)
    windows.distance[:] = [0.4, 0.3, 0.0, 0.1, 0.2]
    (question,) = al.make_questions(windows, clustering, embeddings, num_questions=1, neighbours=3)
    near = {"clip-002", "clip-003", "clip-004"} - {question.clip_id}
    assert {neighbour.clip_id for neighbour in question.neighbours} == set(sorted(near)[:2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_questions": 0}, "num_questions must be at least 1, got 0"),
        ({"neighbours": -1}, "neighbours must be at least 0, got -1"),
        ({"strategy": "smallest"}, "strategy must be one of largest, random, diverse, got 'smallest'"),
    ],
)
def test_parameters_out_of_range(options, message):
    with pytest.raises(al.ActiveLearningError, match=message):
        ask([0, 1], **options)


def test_a_budget_of_more_than_the_windows_asks_about_every_cluster():
    assert len(ask([0, 1, 2], num_questions=1000)) == 3


def earlier(window, *said):
    """A question about a window and one answer an annotator: labels, or "unsure" or "none"."""
    answers = []
    for number, what in enumerate(said):
        kind, labels = (what, ()) if isinstance(what, str) else ("labels", what)
        answers.append(al.Answer("q", kind, labels, str(number), "2026-01-01T00:00:00+00:00"))
    return al.EarlierQuestion(f"clip-{window:03d}", 0.0, tuple(answers))


DOG, CAT, BOTH = ("dog",), ("cat",), ("cat", "dog")


@pytest.mark.parametrize(
    ("questions", "settled"),
    [
        ([], False),  # nothing was asked
        ([earlier(0)], True),  # asked, the answer may still come
        ([earlier(0, DOG)], True),
        ([earlier(0, DOG, DOG)], True),
        ([earlier(0, "unsure")], False),
        ([earlier(0, "none")], False),
        ([earlier(0, BOTH)], False),
        ([earlier(0, DOG, CAT)], False),  # annotators contradict each other
        ([earlier(0, DOG, "none")], False),
        ([earlier(0, DOG, "unsure")], True),  # who is unsure contradicts nobody
        ([earlier(0, DOG), earlier(1, CAT)], False),  # the cluster is mixed
        ([earlier(0, DOG), earlier(1, "none")], False),
        ([earlier(0, "unsure"), earlier(1, DOG)], True),  # the second round made it clear
        ([earlier(0, BOTH), earlier(1, DOG)], True),
        ([earlier(0, DOG, CAT), earlier(1, DOG)], True),
        ([earlier(0, BOTH), earlier(1)], True),
    ],
)
def test_what_is_settled(questions, settled):
    assert selection.is_settled(questions) is settled


def test_a_second_round_asks_about_what_is_unclear_and_no_window_again():
    #           0  1  2  3  4  5  6  7  8
    clusters = [0, 0, 1, 1, 2, 2, 3, 3, 4]
    first = [earlier(0, DOG), earlier(2, "unsure"), earlier(4), earlier(8, "none")]
    for strategy in ("largest", "random", "diverse"):
        questions = ask(clusters, earlier=first, strategy=strategy, first_number=5)
        # 0 is clear, 2 waits, 4 has no other member; 1 is unclear, and 3 was never asked.
        assert sorted(question.cluster for question in questions) == [1, 3]
        assert next(question.clip_id for question in questions if question.cluster == 1) == "clip-003"
        assert [question.question_id for question in questions] == ["q0005", "q0006"]
    with pytest.raises(
        al.ActiveLearningError, match="all 1 active clusters are clear or have been asked about"
    ):
        ask([0, 0], earlier=[earlier(1, DOG)])


def test_diverse_questions_keep_away_from_what_was_asked_before():
    angles = np.deg2rad([0, 5, 90, 170])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    questions = ask([0, 1, 2, 3], embeddings, earlier=[earlier(0, DOG)], num_questions=2, strategy="diverse")
    assert [question.cluster for question in questions] == [3, 2]


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=15), st.integers(1, 4), strategies,
    st.lists(
        st.sampled_from([(), (DOG,), (CAT,), (BOTH,), ("unsure",), ("none",), (DOG, CAT)]),
        min_size=15, max_size=15,
    ),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_rounds_never_repeat_a_question_and_come_to_an_end(clusters, budget, strategy, said):
    windows, clustering, embeddings = prepared(clusters)
    asked = []
    for number in range(len(clusters) + 1):
        try:
            questions = al.make_questions(
                windows,
                clustering,
                embeddings,
                num_questions=budget,
                strategy=strategy,
                earlier=asked,
                seed=number,
            )
        except al.ActiveLearningError:
            break
        for question in questions:
            mine = [one for one in asked if clusters[int(one.clip_id[-3:])] == question.cluster]
            assert not selection.is_settled(mine)
            asked.append(earlier(int(question.clip_id[-3:]), *said[int(question.clip_id[-3:])]))
    else:
        raise AssertionError("there is no end of questions")
    assert len({question.clip_id for question in asked}) == len(asked)
    for cluster in set(clusters):
        members = [window for window, of in enumerate(clusters) if of == cluster]
        mine = [one for one in asked if int(one.clip_id[-3:]) in members]
        assert selection.is_settled(mine) or len(mine) == len(members)
