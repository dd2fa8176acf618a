"""What a plan of triplets may ask for: what is refused, by the sidecar and by the index, and why."""

import contextlib
import dataclasses
import math

import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from test_triplets import ALL, NUM_FRAMES, capacity, index_for, make_plan
from test_windows import CLIPS, indexed

from tfsound import examples, sampling, triplets, windows


def test_make_plan():
    plan = make_plan(["noise:0.5,mixing", "labels"], 10, class_names=["x", "y"])
    assert plan.counts == (4, 3, 3)
    assert (plan.count, plan.uses_labels, plan.num_counted_classes) == (10, True, 2)
    assert plan.within_recordings == (sampling.Noise(0.5), sampling.Mixing(0.25))
    plan = make_plan(["noise", "mixing"], 10, shares=[4, 1], class_names=["x"])
    assert plan.counts == (8, 2)
    assert (plan.uses_labels, plan.num_counted_classes) == (False, 0)


@pytest.mark.parametrize(
    ("constraints", "shares", "message"),
    [
        (["noise", "mixing"], [1.0], "shares must be one a constraint, 2, got 1"),
        (["noise"], [1.0, 1.0], "shares must be one a constraint, 1, got 2"),
        (["noise", "mixing"], [1.0, -1.0], "shares must be finite and at least 0"),
        (["translation:8"], [], "must be less than the 8 mel bins, got 8"),
        (["noise:-1"], [], "noise_stddev must be a number from"),
        ([], [], "constraints must be at least one"),
    ],
)
def test_make_plan_says_what_is_wrong(constraints, shares, message):
    with pytest.raises(ValueError, match=message):
        make_plan(constraints, 10, shares=shares)


@pytest.mark.parametrize(
    ("clips", "constraint", "count", "message"),
    [
        ([], "noise", 1, r"here has 0 recording\(s\) with at least one window"),
        ([indexed("a", "a", 9)], "noise", 1, r"1 recording\(s\).*expected at least 2 \(are the values"),
        (
            [indexed("a", "a", 1), indexed("b", "b", 1)], "proximity:10", 1,
            r"no window of here can be an anchor under proximity:10: no recording has two windows that near",
        ),
        (
            [indexed("a", "a", 1), indexed("b", "b", 1)], "mixing:0.25", 3,
            r"here can give 2 triplets under mixing:0\.25 with every anchor used equally often and no "
            "triplet twice, and 3 were asked for; lower the count, add recordings, or pass --allow-repeats: "
            r"triplets come again only where an anchor has used up its own\.",
        ),
        ([indexed("a", "a", 1), indexed("b", "b", 1)], "labels", 1, "the clips of here have no labels"),
        (
            [indexed("a", "a", 2, classes=(0,)), indexed("b", "b", 3, classes=(0,))], "labels", 1,
            r"no class of here has two windows and a .*; found 'x' \(5 windows\), 'y' \(0 windows\)\. E",
        ),
        (
            [indexed("a", "a", 1, classes=(0,)), indexed("b", "b", 1, classes=(1,))], "labels", 1,
            r"no class .*found 'x' \(1 windows\), 'y' \(1 windows\)",
        ),
        (
            [indexed("a", "a", 2, classes=(0,)), indexed("b", "b", 2, classes=(1,))], "labels", 9,
            r"here can give 8 triplets under labels with every anchor used equally .*twice, and 9 were",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(clips, constraint, count, message):
    plan = make_plan([constraint], count, class_names="xy")
    totals = index_for(clips, plan).totals if clips else windows.add_up([], 1, 1, plan.num_counted_classes)
    with pytest.raises(windows.ImpossibleError, match=message):
        triplets.require_possible(plan, totals, NUM_FRAMES, "here")


def test_without_class_names_there_are_no_labels():
    plan = make_plan(["labels"], 1)
    index = index_for([indexed("a", "a", 1), indexed("b", "b", 1)], plan)
    with pytest.raises(
        windows.ImpossibleError, match="'labels' was asked for, and the clips of here have no"
    ):
        triplets.require_possible(plan, index.totals, NUM_FRAMES, "here")


def info_of(num_windows, class_names=()):
    return examples.DatasetInfo(
        examples.CLIPS, tiny.PARAMS, (), num_windows=num_windows, label_names=tuple(class_names)
    )


@pytest.mark.parametrize(
    ("constraint", "count", "num_windows", "class_names", "message"),
    [
        ("labels", 1, 100, "", "'labels' was asked for, and the clips of here have no labels; label them"),
        (
            "mixing",
            1,
            0,
            "",
            "here holds 0 windows, of which 0 triplets under mixing:0.25 can be made at most",
        ),
        ("noise", 1, 1, "", "here holds 1 windows, of which 0 triplets under noise:0.5"),
        (
            "mixing",
            13,
            4,
            "",
            "4 windows, of which 12 triplets .* can be made at most, and 13 were asked for",
        ),
        ("translation:1", 289, 4, "", "of which 288 triplets under translation:1 "),
        ("proximity", 25, 4, "", "of which 24 triplets under proximity:10 "),
        ("labels", 25, 4, "xy", "of which 24 triplets under labels "),
        ("labels", 1, 4, "x", "clips of here have one label alone, 'x': negatives need another; label more"),
    ],
)
def test_what_the_sidecar_shows_is_said_before_any_clip_is_read(
    constraint, count, num_windows, class_names, message
):
    info = info_of(num_windows, class_names)
    plan = triplets.make_plan(info, [constraint], count, (), 0)
    with pytest.raises(windows.ImpossibleError, match=message):
        triplets.require_plausible(plan, info, "here")
    is_repeat = num_windows > 1 and count > 1
    with contextlib.nullcontext() if is_repeat else pytest.raises(windows.ImpossibleError, match=message):
        triplets.require_plausible(plan, info, "here", allow_repeats=True)
    if is_repeat:
        triplets.require_plausible(dataclasses.replace(plan, counts=(count - 1,)), info, "here")


@settings(max_examples=40, deadline=None)
@given(clips=CLIPS, constraint=st.sampled_from(ALL))
def test_what_the_sidecar_forbids_the_index_forbids_too(clips, constraint):
    """The bound of the sidecar is never below what the clips can give."""
    plan = make_plan([constraint], 1, class_names="abcd")
    (most,) = capacity(clips, plan)
    if 0 < most < math.inf:
        info = info_of(sum(clip.num_windows for clip in clips), "abcd")
        triplets.require_plausible(dataclasses.replace(plan, counts=(most,)), info, "here")


def test_repeats_may_be_allowed_but_not_the_impossible():
    plan = make_plan(["mixing"], 3)
    totals = index_for([indexed("a", "a", 1), indexed("b", "b", 1)], plan).totals
    triplets.require_possible(plan, totals, NUM_FRAMES, "here", allow_repeats=True)
    plan = make_plan(["proximity:10"], 3)
    totals = index_for([indexed("a", "a", 1), indexed("b", "b", 1)], plan).totals
    with pytest.raises(windows.ImpossibleError, match="no window of here can be an anchor"):
        triplets.require_possible(plan, totals, NUM_FRAMES, "here", allow_repeats=True)
