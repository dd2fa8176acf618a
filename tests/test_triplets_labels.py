"""Explicit labels: what a triplet may hold, every class as often however large, classes that are left out."""

import collections
import tracemalloc

import numpy as np
import pytest
from scipy import stats
from test_triplets import NUM_FRAMES, draw, index_for, key_of, make_plan, require_what_the_constraint_says
from test_windows import indexed, make_index

from tfsound import triplets, windows

# "both" is of two classes, "changing" holds clips of different ones, "plain" is not labelled.
CLIPS = (
    indexed("both", "both", 2, classes=(0, 1)),
    indexed("changing", "changing0", 2, classes=(0,)),
    indexed("changing", "changing1", 1, start_seconds=9.0, classes=(1,)),
    indexed("owl", "owl", 3, classes=(1,)),
    indexed("plain", "plain", 2),
    indexed("dog", "dog", 1, classes=(0,)),
    indexed("rare", "rare", 1, classes=(2,)),
)
NAMES = ("dog", "owl", "rare")


def test_triplets_of_clips_with_several_labels():
    found = draw(CLIPS, make_plan(["labels"], 400, class_names=NAMES))
    for triplet in found:
        require_what_the_constraint_says(triplet)
    # All that could be drawn was.
    for label_class, owners in ((0, {"both", "changing", "dog"}), (1, {"both", "changing", "owl"})):
        of_class = [triplet for triplet in found if triplet.label_class == label_class]
        assert {t.anchor.ref.recording_id for t in of_class} == owners
        assert {t.positive.ref.recording_id for t in of_class} == owners
        others = {clip.clip_id for clip in CLIPS if clip.classes and label_class not in clip.classes}
        assert {t.negative.ref.clip_id for t in of_class} == others
    # Windows of one recording may be anchor and positive, and of one class a negative of the other's.
    pairs = {(t.anchor.ref.recording_id, t.positive.ref.recording_id) for t in found}
    assert ("owl", "owl") in pairs
    assert {t.anchor.ref.recording_id for t in found if t.negative.ref.clip_id == "changing1"} == {
        "both",
        "dog",
    }


def test_a_window_that_nobody_labelled_is_no_negative():
    """It may be of the class: section 3.2.1 draws anchors, positives and negatives from labelled examples."""
    clips = [indexed(f"x{n}", f"x{n}", 2, classes=(0,)) for n in range(3)]
    clips += [indexed(f"plain{n}", f"plain{n}", 5) for n in range(20)]
    plan = make_plan(["labels"], 30, class_names=("x", "y"))
    with pytest.raises(windows.ImpossibleError, match="no class of here has two windows and a window of oth"):
        triplets.require_possible(plan, index_for(clips, plan).totals, NUM_FRAMES, "here")
    clips.append(indexed("y", "y", 2, classes=(1,)))
    found = draw(clips, plan)
    assert collections.Counter(t.label_class for t in found) == {0: 15, 1: 15}
    assert not any(t.negative.ref.recording_id.startswith("plain") for t in found)
    # 6 anchors of x, 5 positives each, 2 negatives; 2 of y, 1 positive each, 6 negatives.
    assert triplets.capacity(plan, index_for(clips, plan).totals, NUM_FRAMES) == (2 * 12,)


def test_a_class_with_one_example_is_left_out_and_serves_as_a_negative():
    found = draw(CLIPS, make_plan(["labels"], 401, class_names=NAMES))
    assert collections.Counter(t.label_class for t in found) == {0: 201, 1: 200}
    assert any(t.negative.ref.clip_id == "rare" for t in found)


def test_a_class_whose_every_negative_is_of_an_anchors_recording_is_left_out():
    """Else an anchor of "r" could find no negative of "even" elsewhere."""
    clips = [
        indexed("r", "r0", 2, classes=(0,)),
        indexed("r", "r1", 3, start_seconds=5.0, classes=(1,)),
        indexed("s", "s", 2, classes=(0,)),
    ]
    found = draw(clips, make_plan(["labels"], 12, class_names=("even", "odd")))
    # "odd" has its negatives in "s"; those of "even" are all in "r".
    assert {(t.label_class, t.negative.ref.clip_id) for t in found} == {(1, "s")}
    assert len({key_of(t) for t in found}) == 12


def test_every_window_of_a_class_is_an_anchor_equally_often():
    found = draw(CLIPS, make_plan(["labels"], 302, class_names=NAMES))
    for label_class, num_members in ((0, 5), (1, 6)):
        anchors = collections.Counter(t.anchor for t in found if t.label_class == label_class)
        assert len(anchors) == num_members
        assert max(anchors.values()) - min(anchors.values()) <= 1


def test_positives_and_negatives_are_uniform():
    clips = [indexed(f"r{n:03d}", f"c{n:03d}", 1, classes=(int(n >= 200),)) for n in range(300)]
    found = draw(clips, make_plan(["labels"], 12000, class_names=("x", "y")))
    for label_class, names in ((0, range(200)), (1, range(200, 300))):
        of_class = [t for t in found if t.label_class == label_class]
        assert len(of_class) == 6000
        for role, members in (("positive", names), ("negative", set(range(300)) - set(names))):
            drawn = collections.Counter(getattr(t, role).ref.clip_id for t in of_class)
            assert stats.chisquare([drawn[f"c{n:03d}"] for n in members]).pvalue > 1e-3


@pytest.mark.parametrize("bits", [2, 5])
def test_buckets_change_nothing(bits):
    plan = make_plan(["labels"], 300, class_names=NAMES, seed=4)
    assert draw(CLIPS, plan, bits=bits) == draw(CLIPS, plan)


def test_other_classes_do_not_change_the_draws_of_a_class():
    """Keys are the names of classes, not their numbers."""
    clips = [indexed(f"r{n}", f"c{n}", 1, classes=(n % 2,)) for n in range(40)]
    renumbered = [indexed(f"r{n}", f"c{n}", 1, classes=(1 + n % 2,)) for n in range(40)]
    found = draw(clips, make_plan(["labels"], 200, class_names=("x", "y")))
    again = draw(renumbered, make_plan(["labels"], 200, class_names=("a", "x", "y")))
    assert [[at.ref for at in t.locations] for t in found] == [[at.ref for at in t.locations] for t in again]


@pytest.fixture(scope="module")
def skewed():
    """Two million windows of speech, 120 of a whistle, 3 of a rare bird."""
    clips = [indexed(f"speech{n}", f"s{n}", 100, classes=(1,)) for n in range(20_000)]
    clips += [indexed(f"whistle{n}", f"w{n}", 1, classes=(2,)) for n in range(120)]
    clips += [indexed(f"bird{n}", f"b{n}", 1, classes=(0,)) for n in range(3)]
    return make_index(clips, num_classes=3, bits=3)


def test_a_class_of_two_million_and_one_of_120_yield_alike(skewed):
    assert skewed.totals.member_starts[:, -1].tolist() == [3, 2_000_000, 120]
    plan = make_plan(["labels"], 3600, class_names=("bird", "speech", "whistle"))
    triplets.require_possible(plan, skewed.totals, NUM_FRAMES, "here")
    tracemalloc.start()
    found = triplets.draw_triplets(range(3600), plan, skewed.totals, skewed.load_bucket, NUM_FRAMES)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 500e6  # the members of the classes, sorted once a bucket: about 20 bytes a window
    assert collections.Counter(t.label_class for t in found) == {0: 1200, 1: 1200, 2: 1200}
    assert len({key_of(t) for t in found}) == 3600
    for triplet in found:
        require_what_the_constraint_says(triplet)
    uses = [
        sorted(collections.Counter(t.anchor for t in found if t.label_class == number).values())
        for number in range(3)
    ]
    assert uses == [[400] * 3, [1] * 1200, [10] * 120]
    # Negatives are drawn from all windows, which are nearly all speech.
    assert sum(1 in t.negative.classes for t in found if t.label_class == 2) >= 1199


def test_a_set_far_larger_than_the_rare_class_still_has_no_triplet_twice(skewed):
    """The rare bird bounds it: 3 anchors, 2 positives, two million negatives; three classes alike."""
    plan = make_plan(["labels"], 1, class_names=("bird", "speech", "whistle"))
    (most,) = triplets.capacity(plan, skewed.totals, NUM_FRAMES)
    assert most == 3 * (3 * 2 * 2_000_120)
    plan = make_plan(["labels"], most, class_names=("bird", "speech", "whistle"))
    triplets.require_possible(plan, skewed.totals, NUM_FRAMES, "here")
    slots = range(0, most, most // 2000)
    found = triplets.draw_triplets(slots, plan, skewed.totals, skewed.load_bucket, NUM_FRAMES)
    shares = collections.Counter(t.label_class for t in found)
    assert stats.chisquare([shares[number] for number in range(3)]).pvalue > 1e-3
    assert len({key_of(t) for t in found}) == len(found)


def test_classes_without_triplets_are_named_with_the_reason():
    clips = [
        indexed("r", "r0", 2, classes=(0,)), indexed("r", "r1", 3, start_seconds=5.0, classes=(1,)),
        indexed("s", "s", 2, classes=(0,)), indexed("t", "t", 1, classes=(2, 0)),
    ]  # fmt: skip
    plan = make_plan(["labels", "noise"], 12, class_names=("even", "odd", "rare", "absent"))
    found = triplets.classes_without_triplets(plan, index_for(clips, plan).totals)
    assert found == {
        "even": "One of its windows has no negative: no window of other labels alone in another recording.",
        "rare": "It has 1 window, expected two: an anchor and another as its positive.",
        "absent": "It has no window, expected two: an anchor and another as its positive.",
    }
    assert {t.label_class for t in draw(clips, plan)} == {None, 1}
    plan = make_plan(["noise"], 12, class_names=("even", "odd", "rare", "absent"))
    assert triplets.classes_without_triplets(plan, index_for(clips, plan).totals) == {}


def test_eligible_classes():
    totals = index_for(CLIPS, make_plan(["labels"], 1, class_names=NAMES)).totals
    assert triplets.eligible_classes(totals).tolist() == [0, 1]
    np.testing.assert_array_equal(totals.member_starts[:, -1], [5, 6, 1])
