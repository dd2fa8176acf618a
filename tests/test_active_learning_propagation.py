"""The rules by which answers become labels of windows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfsound import active_learning as al
from tfsound.active_learning import propagation as rules

CLASSES = ("cat", "dog", "rain")


def said(what, annotator="a", time="2026-01-01T00:00:00+00:00", question_id="q0001"):
    kind, labels = (what, ()) if isinstance(what, str) else ("labels", what)
    return al.Answer(question_id, kind, tuple(labels), annotator, time)


def of(label):
    return None if label is None else (label.kind, dict(zip(label.labels, label.confidence, strict=True)))


def spread(clusters, asked, **options):
    """(what is known, directly or not) of each window."""
    propagation = al.propagate(np.asarray(clusters), asked, **options)
    found = [propagation.label(window, cluster) for window, cluster in enumerate(clusters)]
    return [(of(label), is_direct) for label, is_direct in found]


DOG = ("positive", {"dog": 1.0})
BOTH = ("positive", {"cat": 1.0, "dog": 1.0})


@pytest.mark.parametrize(
    ("answers", "own", "cohabitant"),
    [
        ([said(["dog"])], DOG, DOG),
        ([said(["dog", "cat"])], BOTH, BOTH),
        ([said("unsure")], ("uncertain", {}), None),
        ([said("none")], ("negative", {}), None),
        ([said(["dog"]), said(["dog"], "b")], DOG, DOG),
        ([said(["dog", "cat"]), said(["cat", "dog"], "b")], BOTH, BOTH),
        ([said(["dog"]), said("unsure", "b")], DOG, DOG),
        ([said(["dog"]), said(["cat"], "b")], ("uncertain", {}), None),
        ([said(["dog"]), said(["dog", "cat"], "b")], ("uncertain", {}), None),
        ([said(["dog"]), said("none", "b")], ("uncertain", {}), None),
    ],
)
def test_one_question(answers, own, cohabitant):
    assert spread([5, 5, 2], {0: answers}) == [(own, True), (cohabitant, False), (None, False)]


def test_of_contradicting_answers_the_last_may_count():
    answers = [said(["dog"], time="2026-01-02T00:00:00+00:00"), said(["cat"], "b")]
    assert spread([0, 0], {0: answers}, on_conflict="last") == [(DOG, True), (DOG, False)]
    with pytest.raises(
        al.ActiveLearningError, match="on_conflict must be one of uncertain, last, got 'first'"
    ):
        spread([0], {0: answers}, on_conflict="first")


def test_none_is_propagated_where_asked_for():
    negative = ("negative", {})
    assert spread([0, 0], {0: [said("none")]}, propagate_none=True) == [(negative, True), (negative, False)]


def test_several_answers_to_a_cluster_give_shares():
    asked = {0: [said(["dog"])], 1: [said(["dog", "cat"])], 2: [said("none")], 3: [said("unsure")]}
    found = spread([0, 0, 0, 0, 0, 1], asked)
    assert [of for of, _ in found[:4]] == [DOG, BOTH, ("negative", {}), ("uncertain", {})]
    assert found[4] == (("positive", {"cat": 1 / 3, "dog": 2 / 3}), False)
    assert found[5] == (None, False)


def test_where_a_label_comes_from():
    early, late = "2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+00:00"
    asked = {
        0: [said(["dog"], "a", early, "q0001")],
        1: [said(["cat"], "a", late, "q0002")],
        2: [said("none", "a", late, "q0003")],
        3: [said("unsure", "a", late, "q0004")],
    }
    found = al.propagate(np.zeros(5, int), asked).label(4, 0)[0]
    assert [answer.question_id for answer in found.answers] == ["q0002", "q0001", "q0003"]
    agreeing = [said(["dog"], "a", early), said(["dog"], "b", late), said("unsure", "c", late)]
    found = al.propagate(np.zeros(1, int), {0: agreeing}).label(0, 0)[0]
    assert [answer.annotator for answer in found.answers] == ["b", "a"]


def test_nothing_asked_is_nothing_known():
    propagation = al.propagate(np.asarray([0, 1]), {})
    labels, known = al.label_arrays(propagation, np.asarray([0, 1]), CLASSES)
    assert (labels.shape, labels.dtype, labels.any(), known.any()) == ((2, 3), np.float32, False, False)


kinds = st.sampled_from(["unsure", "none"]) | st.sets(st.sampled_from(CLASSES), min_size=1).map(sorted)


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=12),
    st.dictionaries(st.integers(0, 11), st.lists(kinds, min_size=1, max_size=2)),
    st.booleans(), st.booleans(),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_label_arrays_agree_with_a_naive_loop(clusters, drawn, propagate_none, last_counts):
    asked = {
        window: [said(what, str(number)) for number, what in enumerate(given)]
        for window, given in drawn.items()
        if window < len(clusters)
    }
    options = {"propagate_none": propagate_none, "on_conflict": "last" if last_counts else "uncertain"}
    propagation = al.propagate(np.asarray(clusters), asked, **options)
    labels, known = al.label_arrays(propagation, np.asarray(clusters), CLASSES)

    def definite(window):
        """The set of labels that was answered about a window, None where nothing definite was."""
        sets = [frozenset(answer.labels) for answer in asked.get(window, ()) if answer.answer != "unsure"]
        if not sets or (len(set(sets)) > 1 and not last_counts):
            return None
        return sets[0]  # all have the same time, and sorting keeps the first one first

    for window, cluster in enumerate(clusters):
        members = [definite(other) for other, of in enumerate(clusters) if of == cluster]
        votes = [vote for vote in members if vote is not None]
        if window in asked:
            votes = [] if definite(window) is None else [definite(window)]
        elif not any(votes) and not propagate_none:
            votes = []
        expected = [np.mean([name in vote for vote in votes]) if votes else 0.0 for name in CLASSES]
        np.testing.assert_allclose(labels[window], expected, atol=1e-6)
        assert known[window] == bool(votes)


def test_contradictions():
    assert not rules.contradict([said(["dog"])])
    assert not rules.contradict([said("unsure"), said("unsure", "b")])
    assert rules.contradict([said("unsure"), said("none", "b"), said(["dog"], "c")])
