"""Which windows a triplet gets: exact counts, no triplet twice, uniform draws, whatever the buckets."""

import collections
import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from test_windows import CLIPS, STEP, indexed, make_index, own_windows

from tfsound import examples, sampling, triplets, windows

NUM_FRAMES = tiny.PARAMS.context_frames
ALL = ("noise:0.5", "translation:2", "mixing:0.25", "proximity:0.1", "labels")


def make_plan(constraints, count, *, shares=(), seed=0, class_names=()) -> triplets.Plan:
    info = examples.DatasetInfo(examples.CLIPS, tiny.PARAMS, (), 0, label_names=tuple(class_names))
    return triplets.make_plan(info, constraints, count, shares, seed)


def index_for(clips, plan: triplets.Plan, *, bits=0):
    return make_index(clips, plan.within_recordings, num_classes=plan.num_counted_classes, bits=bits)


def draw(clips, plan: triplets.Plan, *, bits=0, slots=None) -> list[triplets.Draw]:
    index = index_for(clips, plan, bits=bits)
    slots = range(plan.count) if slots is None else slots
    return triplets.draw_triplets(slots, plan, index.totals, index.load_bucket, NUM_FRAMES)


def key_of(found: triplets.Draw) -> tuple:
    """What makes a triplet another one."""
    refs = tuple(at.ref for at in found.locations)
    return found.constraint, found.label_class, refs, found.alteration


def refs_of(found: triplets.Draw) -> tuple[str, str, str]:
    return tuple(at.ref.clip_id for at in found.locations)


def capacity(clips, plan: triplets.Plan):
    return triplets.capacity(plan, index_for(clips, plan).totals, NUM_FRAMES)


def require_what_the_constraint_says(found: triplets.Draw) -> None:
    anchor, positive, negative = found.locations
    assert negative.ref.recording_id != anchor.ref.recording_id
    if found.constraint.name == "labels":
        assert found.label_class in anchor.classes
        assert found.label_class in positive.classes
        assert found.label_class not in negative.classes
        assert negative.classes  # of what nobody labelled, nothing is known
        assert positive != anchor
    elif found.constraint.name == "proximity":
        assert positive.ref.recording_id == anchor.ref.recording_id
        assert positive != anchor
        gap = abs(positive.ref.start_seconds - anchor.ref.start_seconds)
        assert gap < found.constraint.max_time_gap_seconds
    else:
        assert positive == anchor
    if found.constraint.name == "translation":
        assert 0 <= found.alteration < found.constraint.num_alterations(NUM_FRAMES)


@settings(max_examples=60, deadline=None)
@given(clips=CLIPS, bits=st.integers(0, 3), seed=st.integers(0, 2**63), data=st.data())
def test_any_clips_give_what_was_asked_for_or_say_why_not(clips, bits, seed, data):
    constraints = data.draw(st.lists(st.sampled_from(ALL), min_size=1, unique=True))
    count = data.draw(st.integers(1, 60))
    plan = make_plan(constraints, count, seed=seed, class_names="abcd")
    index = index_for(clips, plan, bits=bits)
    try:
        triplets.require_possible(plan, index.totals, NUM_FRAMES, "here")
    except windows.ImpossibleError:
        return
    found = draw(clips, plan, bits=bits)
    for triplet in found:
        require_what_the_constraint_says(triplet)
    assert len({key_of(triplet) for triplet in found}) == count
    counts = collections.Counter(triplet.constraint for triplet in found)
    assert tuple(counts[constraint] for constraint in plan.constraints) == plan.counts
    assert draw(clips, plan) == found  # in one bucket
    slots = data.draw(st.lists(st.integers(0, count - 1), max_size=5))
    assert draw(clips, plan, bits=bits, slots=slots) == [found[slot] for slot in slots]


SMALL = (
    indexed("a", "a1", 2, classes=(0,)),
    indexed("b", "b1", 1, classes=(0, 1)),
    indexed("b", "b2", 2, start_seconds=1.5 * STEP, classes=(1,)),
    indexed("c", "c1", 1),
    indexed("d", "d1", 3, classes=(1,)),
)


@pytest.mark.parametrize("constraint", ["translation:1", "mixing:0.25", "proximity:0.1", "labels"])
@pytest.mark.parametrize("seed", range(4))
def test_at_capacity_no_triplet_comes_twice(constraint, seed):
    plan = make_plan([constraint], 1, class_names="xy")
    (most,) = capacity(SMALL, plan)
    plan = make_plan([constraint], most, seed=seed, class_names="xy")
    found = draw(SMALL, plan)
    assert len(found) == most > 20
    assert len({key_of(triplet) for triplet in found}) == most
    for triplet in found:
        require_what_the_constraint_says(triplet)


@pytest.mark.parametrize("constraint", ["translation:1", "mixing:0.25", "proximity:0.1", "labels"])
def test_where_all_recordings_are_alike_capacity_is_every_triplet_there_is(constraint):
    """And one more must be a repeat: the bound is as high as it can be."""
    clips = [indexed(name, name, 2, classes=(number % 2,)) for number, name in enumerate("abcd")]
    plan = make_plan([constraint], 1, class_names="xy")
    index = index_for(clips, plan)
    every, possible = index.locations, 0
    for anchor in every:
        others = [at for at in every if at.ref.recording_id != anchor.ref.recording_id]
        if constraint == "labels":
            positives = [at for at in every if at != anchor and at.classes == anchor.classes]
            others = [at for at in others if at.classes != anchor.classes]
        elif constraint == "proximity:0.1":
            positives = [at for at in own_windows(anchor, every) if at != anchor]
        else:
            positives = [anchor]
        possible += len(positives) * len(others) * (8 * 3 if constraint == "translation:1" else 1)
    assert triplets.capacity(plan, index.totals, NUM_FRAMES) == (possible,)
    found = draw(clips, make_plan([constraint], possible + 1, class_names="xy"))
    assert len({key_of(triplet) for triplet in found}) == possible


def test_the_scarcest_anchor_bounds_the_count():
    """Recordings of 2, 3 and 3 windows, and of 1; under proximity one of 2 has one positive."""
    clips = [indexed("a", "a", 2), indexed("b", "b", 3), indexed("c", "c", 3), indexed("d", "d", 1)]
    plan = make_plan(["proximity:0.1", "proximity:1", "mixing", "noise"], 4)
    # Anchors: 8. Neighbours: "a" 1, ends of "b" 1, its middle 2; negatives: 9 - 2, 9 - 3.
    # Within 1 s "b" has 2 positives each; "a" still one: 1 * 7 < 2 * 6.
    assert capacity(clips, plan) == (8 * 1 * 6, 8 * 1 * 7, 9 * 6, math.inf)


def test_noise_never_comes_twice():
    clips = [indexed("a", "a", 1), indexed("b", "b", 1)]
    found = draw(clips, make_plan(["noise"], 500))
    assert len({triplet.alteration for triplet in found}) == 500
    assert collections.Counter(map(refs_of, found)) == {("a", "a", "b"): 250, ("b", "b", "a"): 250}


def test_repeats_come_only_after_all_there_is():
    clips = [indexed("a", "a", 1), indexed("b", "b", 2)]
    found = collections.Counter(map(key_of, draw(clips, make_plan(["mixing"], 30))))
    # Each window is used ten times: "a" with two negatives, those of "b" with one.
    assert sorted(found.values()) == [5, 5, 10, 10]


# Distributions.


MANY = tuple(indexed(f"r{n:03d}", f"c{n:03d}", 1 + n % 7) for n in range(700))


@pytest.fixture(scope="module")
def translations():
    """One triplet an anchor: 2800 draws that know nothing of each other."""
    return draw(MANY, make_plan(["translation:3"], 2800, seed=11))


def test_shifts_are_uniform(translations):
    """Time on [0, T - 1], frequency on [-S, S], and together."""
    x = np.zeros((NUM_FRAMES, 8), np.float16)
    x[0, 4] = 1
    shifts = []
    for found in translations:
        (time,), (frequency,) = np.nonzero(triplets.positive_energies(found, x, x))
        shifts.append((int(time), int(frequency) - 4))
    together = collections.Counter(shifts)
    assert set(together) == {(t, f) for t in range(8) for f in range(-3, 4)}
    assert stats.chisquare(list(together.values())).pvalue > 1e-3
    for axis in (0, 1):
        assert stats.chisquare(list(collections.Counter(s[axis] for s in shifts).values())).pvalue > 1e-3


def test_every_window_is_an_anchor_equally_often(translations):
    assert set(collections.Counter(found.anchor for found in translations).values()) == {1}
    found = collections.Counter(at.anchor for at in draw(MANY, make_plan(["mixing"], 4000)))
    assert sorted(found.values()) == [1] * 1600 + [2] * 1200


def test_negatives_are_uniform_over_other_recordings(translations):
    negatives = collections.Counter(found.negative.ref.recording_id for found in translations)
    # A recording's share is that of its windows; seventy at a time make cells that are large enough.
    num_windows = {clip.recording_id: clip.num_windows for clip in MANY}
    names = sorted(num_windows)
    cells = [names[first : first + 70] for first in range(0, 700, 70)]
    observed = [sum(negatives[name] for name in cell) for cell in cells]
    assert stats.chisquare(observed, [sum(num_windows[n] for n in cell) for cell in cells]).pvalue > 1e-3
    assert stats.chisquare([sum(negatives[n] for n in names[k::7]) for k in range(7)],
                           [100 * (k + 1) for k in range(7)]).pvalue > 1e-3  # fmt: skip


def test_positives_are_uniform_over_near_windows():
    clips = [indexed(f"r{n:03d}", f"c{n:03d}", 5) for n in range(600)]
    found = draw(clips, make_plan([f"proximity:{2.5 * STEP}"], 3000, seed=2))
    steps = collections.defaultdict(collections.Counter)
    for triplet in found:
        anchor, positive = (round(at.ref.start_seconds / STEP) for at in triplet.locations[:2])
        steps[anchor][positive] += 1
    near = {0: {1, 2}, 1: {0, 2, 3}, 2: {0, 1, 3, 4}, 3: {1, 2, 4}, 4: {2, 3}}
    assert {anchor: set(positives) for anchor, positives in steps.items()} == near
    for positives in steps.values():
        assert stats.chisquare(list(positives.values())).pvalue > 1e-3


def test_another_seed_and_another_constraint_draw_anew():
    first = draw(MANY, make_plan(["proximity:1"], 2400))
    other_seed = draw(MANY, make_plan(["proximity:1"], 2400, seed=1))
    assert sum(a == b for a, b in zip(first, other_seed, strict=True)) < 5
    both = draw(MANY, make_plan(["proximity:1", "proximity:0.2"], 4800))
    by_gap = {gap: [t for t in both if t.constraint.max_time_gap_seconds == gap] for gap in (1.0, 0.2)}
    same = sum(a.anchor == b.anchor for a, b in zip(by_gap[1.0], by_gap[0.2], strict=True))
    assert same < 10


def test_the_order_is_shuffled():
    found = draw(MANY, make_plan(["noise", "mixing"], 5000))
    names = np.array([triplet.constraint.name == "noise" for triplet in found])
    assert stats.chisquare(names.reshape(10, 500).sum(axis=1)).pvalue > 1e-3
    recordings = [triplet.anchor.ref.recording_id for triplet in found]
    assert np.mean([a == b for a, b in itertools.pairwise(recordings)]) < 0.01


# Energies and records.


def location(name, classes=()):
    return windows.WindowLocation(0, 0, examples.WindowRef(f"clip-{name}", name, 1.5), classes)


def test_positive_energies_stay_within_float16():
    quiet, loud = np.full(tiny.WINDOW, 1e-7, np.float16), np.full(tiny.WINDOW, 65504, np.float16)
    spike = np.zeros(tiny.WINDOW, np.float16)
    spike[3, 3] = 1e-7
    mixing = triplets.Draw(sampling.Mixing(1.0))
    altered = triplets.positive_energies(mixing, loud, spike)
    assert altered.max() == 65504
    assert np.isfinite(examples.decode_mel_energy(examples.encode_mel_energy(altered), 8)).all()
    assert triplets.positive_energies(triplets.Draw(sampling.Noise(1e6)), loud, quiet).max() == 65504
    assert triplets.positive_energies(triplets.Draw(sampling.Labels()), loud, quiet) is loud
    assert triplets.positive_energies(triplets.Draw(sampling.Proximity()), loud, quiet) is loud


@pytest.mark.parametrize(
    ("constraint", "positive"),
    [
        (sampling.Labels(), 3.0), (sampling.Proximity(), 3.0), (sampling.Translation(0), 3.0),
        (sampling.Mixing(0.5), 4.5),
    ],
)  # fmt: skip
def test_encode_draw_writes_what_the_constraint_makes(constraint, positive):
    plan = triplets.Plan((constraint,), (1,), 0, ("x", "y", "z"))
    triplet = triplets.Draw(
        constraint, 0, None, location("a", (0, 1)), location("p", (0,)), location("n", (1, 2))
    )
    if constraint == sampling.Labels():
        triplet.label_class = 0
    energies = [examples.encode_mel_energy(np.full(tiny.WINDOW, value)) for value in (1, 3, 5)]
    record = triplets.encode_draw(triplet, plan, energies, 8)
    feature = tf.train.Example.FromString(record).features.feature
    found = [
        np.unique(np.frombuffer(feature[role].bytes_list.value[0], "<f2")).tolist()
        for role in ("anchor", "positive", "negative")
    ]
    assert found == [[1.0], [positive], [5.0]]
    assert feature["constraint"].bytes_list.value == [constraint.name.encode()]
    assert feature["is_minable"].int64_list.value == [int(constraint.name != "mixing")]
    assert feature["label"].bytes_list.value == [b"x" if constraint.name == "labels" else b""]
    assert feature["negative_labels"].bytes_list.value == [b"y", b"z"]
    assert feature["negative_recording_id"].bytes_list.value == [b"n"]
    assert feature["anchor_start_seconds"].float_list.value == [1.5]
