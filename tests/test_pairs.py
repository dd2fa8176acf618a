"""Which windows and frames a pair gets: near in time, exact counts, no pair twice, uniform draws."""

import collections
import dataclasses
import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from test_windows import STEP, make_index

from tfsound import examples, pairs, sampling, windows
from tfsound.windows import totals as totals_module

UNTIMED = settings(deadline=None)  # a busy machine may be slow
MODALITIES = (examples.AUDIO_AUDIO, examples.AUDIO_IMAGE)


def indexed(recording, clip, num_windows, *, start_seconds=0.0, frames=()):
    """A clip whose frames, given by their times, lie one behind the other."""
    places = tuple((seconds, 100 * number, 90) for number, seconds in enumerate(sorted(frames)))
    return windows.IndexedClip(recording, clip, 2, 50, start_seconds, num_windows, (), places)


def make_plan(modality, gap, count, *, seed=0) -> pairs.Plan:
    info = examples.DatasetInfo(examples.CLIPS, tiny.PARAMS, (), 0)
    return pairs.make_plan(info, modality, gap, count, seed)


def index_for(clips, plan, *, bits=0):
    return make_index(clips, plan.within_recordings, bits=bits)


def draw(clips, plan, *, bits=0, slots=None) -> list[pairs.Draw]:
    index = index_for(clips, plan, bits=bits)
    slots = range(plan.count) if slots is None else slots
    return pairs.draw_pairs(slots, plan, index.totals, index.load_bucket)


def near_by_definition(clips, modality, gap) -> dict[tuple, set[tuple]]:
    """(clip, start) of each window that may be an anchor -> (clip, time) of what it may go with."""
    starts = [
        (clip.recording_id, clip.clip_id, clip.start_seconds + step * STEP)
        for clip in clips
        for step in range(clip.num_windows)
    ]
    frames = [(clip.recording_id, clip.clip_id, seconds) for clip in clips for seconds, _, _ in clip.frames]
    near = {}
    for recording, clip_id, start in starts:
        if modality == examples.AUDIO_AUDIO:
            others = {
                (c, s) for r, c, s in starts
                if r == recording and (c, s) != (clip_id, start) and abs(s - start) < gap
            }  # fmt: skip
        else:
            others = {(c, s) for r, c, s in frames if r == recording and abs(s - (start + STEP / 2)) <= gap}
        if others:
            near[clip_id, start] = others
    return near


def keys_of(found: pairs.Draw) -> tuple[tuple, tuple]:
    audio, other = found.audio.ref, found.other.ref
    time = other.seconds if isinstance(other, examples.FrameRef) else other.start_seconds
    return (audio.clip_id, audio.start_seconds), (other.clip_id, time)


# Times are far enough from the bounds of the gaps that no rounding decides.
CLIPS = st.lists(
    st.builds(
        indexed,
        recording=st.sampled_from("abcde"),
        clip=st.uuids().map(str),
        num_windows=st.integers(1, 4),
        start_seconds=st.integers(0, 6).map(lambda half: half * STEP / 2),
        frames=st.lists(st.integers(-4, 30).map(lambda place: place * STEP / 4), max_size=5, unique=True),
    ),
    min_size=1,
    max_size=12,
)


@UNTIMED
@given(
    clips=CLIPS,
    modality=st.sampled_from(MODALITIES),
    gap=st.sampled_from([0.3 * STEP, 1.3 * STEP, 99.0]),
    bits=st.integers(0, 3),
    seed=st.integers(0, 2**63),
    data=st.data(),
)
def test_any_clips_give_what_was_asked_for_or_say_why_not(clips, modality, gap, bits, seed, data):
    near = near_by_definition(clips, modality, gap)
    most = len(near) * min(map(len, near.values()), default=0)
    count = data.draw(st.integers(1, 40))
    plan = make_plan(modality, gap, count, seed=seed)
    index = index_for(clips, plan, bits=bits)
    assert pairs.capacity(index.totals) == most
    recordings = {clip.recording_id for clip in clips}
    used = {clip.recording_id for clip in clips if any(clip.clip_id == c for c, _ in near)}
    assert pairs.num_recordings_without_pairs(index.totals) == len(recordings) - len(used)
    try:
        pairs.require_possible(plan, index.totals, "here")
    except windows.ImpossibleError:
        assert count > most
        return
    assert count <= most
    drawn = draw(clips, plan, bits=bits)
    found = [keys_of(pair) for pair in drawn]
    assert len(set(found)) == len(found) == count
    assert all(other in near[anchor] for anchor, other in found)
    assert all(pair.audio.ref.recording_id == pair.other.ref.recording_id for pair in drawn)
    uses = collections.Counter(anchor for anchor, _ in found)
    assert {uses[anchor] for anchor in near} <= {count // len(near), -(-count // len(near))}
    assert draw(clips, plan) == drawn  # in one bucket
    slots = data.draw(st.lists(st.integers(0, count - 1), max_size=5))
    assert draw(clips, plan, bits=bits, slots=slots) == [drawn[slot] for slot in slots]


SMALL = (
    indexed("a", "a1", 3, frames=[0.0, 0.1, 0.21]),
    indexed("b", "b1", 2, frames=[0.05]),
    indexed("b", "b2", 2, start_seconds=2.5 * STEP, frames=[0.25]),
    indexed("c", "c1", 1, frames=[90.0]),
    indexed("d", "d1", 1),
)


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("seed", range(3))
def test_where_pairs_may_come_again_each_comes_once_before_one_does(modality, seed):
    near = near_by_definition(SMALL, modality, 1.0)
    assert {len(others) for others in near.values()} == {2, 3}
    count = 3 * len(near)
    drawn = draw(SMALL, make_plan(modality, 1.0, count, seed=seed))
    found = collections.Counter(map(keys_of, drawn))
    for anchor, others in near.items():
        times = [found[anchor, other] for other in others]
        assert sorted(times) == ([1, 1, 1] if len(others) == 3 else [1, 2])
    assert sum(found.values()) == count


def test_a_frame_is_found_where_it_lies():
    clips = [
        indexed("r", "late", 1, start_seconds=5.0, frames=[5.2, 6.0]), indexed("r", "early", 1, frames=[0.5]),
        indexed("s", "other", 1, frames=[0.0]),
    ]  # fmt: skip
    drawn = draw(clips, make_plan(examples.AUDIO_IMAGE, 0.4, 2))
    found = {pair.audio.ref.clip_id: pair.other for pair in drawn if pair.audio.ref.recording_id == "r"}
    # Of "early" the centre is at 0.04, so that 0.5 is too far; of "late" 6.0 is.
    assert found == {"late": windows.FrameLocation(2, 0, 90, examples.FrameRef("late", "r", 5.2))}


def test_frames_of_another_clip_of_the_recording_count():
    """A recording that was cut is one recording."""
    clips = [indexed("r", "r+0", 1, frames=[]), indexed("r", "r+1", 1, start_seconds=STEP, frames=[0.9])]
    found = [keys_of(pair) for pair in draw(clips, make_plan(examples.AUDIO_IMAGE, 1.0, 2))]
    assert sorted(found) == [(("r+0", 0.0), ("r+1", 0.9)), (("r+1", STEP), ("r+1", 0.9))]


# Distributions.

CENTRES = [(step + 0.5) * STEP for step in range(6)]
MANY = tuple(indexed(f"r{n:03d}", f"c{n:03d}", 6, frames=CENTRES) for n in range(500))


@pytest.mark.parametrize("modality", MODALITIES)
def test_what_an_anchor_goes_with_is_uniform_over_all_that_is_near(modality):
    """Frames stand at the centres of the windows, so that the two modalities have the same neighbours."""
    drawn = draw(MANY, make_plan(modality, 2.4 * STEP, 3000, seed=3))
    steps = collections.defaultdict(collections.Counter)
    for (_, start), (_, time) in map(keys_of, drawn):
        offset = 0.5 if modality == examples.AUDIO_IMAGE else 0
        steps[round(start / STEP)][round(time / STEP - offset)] += 1
    assert set(steps) == set(range(6))
    for anchor, others in steps.items():
        near = {other for other in range(6) if abs(other - anchor) < 2.4}
        assert set(others) == (near if modality == examples.AUDIO_IMAGE else near - {anchor})
        assert sum(others.values()) == 500  # each anchor once, so that the draws know nothing of each other
        assert stats.chisquare(list(others.values())).pvalue > 1e-3


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_order_is_shuffled_and_the_seed_decides(modality):
    first = draw(MANY, make_plan(modality, 10.0, 3000))
    other = draw(MANY, make_plan(modality, 10.0, 3000, seed=1))
    assert sum(a == b for a, b in zip(first, other, strict=True)) < 5
    recordings = [pair.audio.ref.recording_id for pair in first]
    assert np.mean([a == b for a, b in itertools.pairwise(recordings)]) < 0.02
    # Each tenth holds about half of the recordings: 300 draws from 500.
    assert min(len(set(recordings[i : i + 300])) for i in range(0, 3000, 300)) > 180


# What can and what cannot be.


def test_make_plan():
    plan = make_plan("audio_audio", 2.0, 7, seed=5)
    assert (plan.constraint, plan.modality, plan.count, plan.seed) == (
        sampling.Proximity(2.0), "audio_audio", 7, 5
    )  # fmt: skip
    plan = make_plan("audio_image", 2.0, 7)
    assert plan.constraint == sampling.Coincidence(2.0, tiny.PARAMS.context_seconds)
    assert plan.modality == "audio_image"


@pytest.mark.parametrize(
    ("modality", "gap", "message"),
    [
        ("video", 1.0, r"modality must be one of \['audio_audio', 'audio_image'\], got 'video'"),
        ("audio_audio", 0.0, r"max_time_gap_seconds must be positive, got 0\.0"),
        ("audio_image", -1.0, r"max_time_gap_seconds must be positive, got -1\.0"),
        ("audio_image", math.nan, "max_time_gap_seconds must be positive, got nan"),
    ],
)
def test_make_plan_says_what_is_wrong(modality, gap, message):
    with pytest.raises(ValueError, match=message):
        make_plan(modality, gap, 1)


@pytest.mark.parametrize(
    ("clips", "modality", "count", "message"),
    [
        ([], "audio_audio", 1, "no clip of here that is to be used holds a context window"),
        (
            [indexed("a", "a", 1), indexed("b", "b", 1)], "audio_audio", 1,
            r"no recording of here has two windows that start less than 1 s apart; expected longer",
        ),
        (
            [indexed("a", "a", 1), indexed("b", "b", 1)], "audio_image", 1,
            "here gives no pairs of sound and image: none of 2 recordings has frames; make .*--frames-per",
        ),
        (
            [indexed("a", "a", 2, frames=[5.0]), indexed("b", "b", 1, frames=[-3.0]), indexed("c", "c", 1)],
            "audio_image", 1,
            r"no window of here has a frame within 1 s: 2 of 3 recordings have frames, and the nearest is "
            r"3\.04 s from the centre of a window; expected a larger",
        ),
        (
            [indexed("a", "a", 2), indexed("b", "b", 3)], "audio_audio", 6,
            r"here can give 5 pairs without one coming twice, as each of 5 windows is used equally often and "
            r"one has 1 near; 6 were asked for: lower the count, or pass --allow-repeats; repeats come only",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(clips, modality, count, message):
    plan = make_plan(modality, 1.0, count)
    totals = index_for(clips, plan).totals if clips else windows.add_up([], 1, 1, 0)
    with pytest.raises(windows.ImpossibleError, match=message):
        pairs.require_possible(plan, totals, "here")


def test_repeats_may_be_allowed_but_not_the_impossible():
    totals = index_for(SMALL, make_plan("audio_image", 1.0, 1)).totals
    pairs.require_possible(make_plan("audio_image", 1.0, 10**6), totals, "here", allow_repeats=True)
    plan = make_plan("audio_image", 1e-3, 1)
    with pytest.raises(windows.ImpossibleError, match=r"no window of here has a frame within 0\.001 s"):
        pairs.require_possible(plan, index_for(SMALL, plan).totals, "here", allow_repeats=True)


def test_a_set_that_says_it_has_no_frames_is_refused_at_once():
    info = examples.DatasetInfo(examples.CLIPS, tiny.PARAMS, (), 0)
    with pytest.raises(windows.ImpossibleError, match=r"here gives no pairs .*the set holds no frames; make"):
        pairs.require_frames(make_plan("audio_image", 1.0, 1), info, "here")
    pairs.require_frames(make_plan("audio_audio", 1.0, 1), info, "here")


@pytest.mark.parametrize(
    ("modality", "most", "message"),
    [
        (
            "audio_audio",
            6,
            "here holds 3 windows, of which 6 pairs can be made at most, and 7 were asked for",
        ),
        (
            "audio_image",
            15,
            "here holds 3 windows and 5 frames, of which 15 pairs can be made at most, and 16",
        ),
    ],
)
def test_what_the_sidecar_shows_is_said_before_any_clip_is_read(modality, most, message):
    info = examples.DatasetInfo(examples.CLIPS, tiny.PARAMS, (), num_windows=3, num_images=5)
    pairs.require_plausible(make_plan(modality, 1.0, most), info, "here")
    with pytest.raises(windows.ImpossibleError, match=message):
        pairs.require_plausible(make_plan(modality, 1.0, most + 1), info, "here")
    pairs.require_plausible(make_plan(modality, 1.0, most + 1), info, "here", allow_repeats=True)
    nothing = dataclasses.replace(info, num_windows=0)
    with pytest.raises(
        windows.ImpossibleError, match=r"here holds 0 windows.*, of which 0 pairs .*; add recordings\."
    ):
        pairs.require_plausible(make_plan(modality, 1.0, 1), nothing, "here", allow_repeats=True)


def test_recordings_without_a_pair_are_named_with_the_reason():
    clips = [
        indexed("silent film", "a", 2), indexed("apart", "b", 2, frames=[30.0, 31.0]),
        indexed("single", "c", 1, frames=[0.04]),
        indexed("late", "d", 1), indexed("late", "e", 1, start_seconds=20.0, frames=[0.5]),
        indexed("good", "f", 2, frames=[0.0]),
    ]  # fmt: skip
    plan = make_plan("audio_image", 1.0, 1)
    found = pairs.failures(plan, index_for(clips, plan, bits=2).totals)
    assert sorted(found, key=lambda failure: failure["recording_id"]) == [
        {
            "recording_id": "apart",
            "reason": "The nearest of its 2 frames is 29.9 s from the centre of a window, expected at most "
            "1 s.",
        },
        {"recording_id": "silent film", "reason": "It has no frame of video, and no picture."},
    ]
    plan = make_plan("audio_audio", 1.0, 1)
    found = pairs.failures(plan, index_for(clips, plan).totals)
    assert sorted(found, key=lambda failure: failure["recording_id"]) == [
        {"recording_id": "late", "reason": "No two of its 2 windows start less than 1 s apart."},
        {"recording_id": "single", "reason": "It holds one context window only."},
    ]


@pytest.mark.parametrize("bits", [0, 4])
def test_those_named_are_the_first_of_the_global_order(bits, monkeypatch):
    monkeypatch.setattr(totals_module, "MAX_NAMED", 7)
    clips = [indexed(f"r{n}", f"c{n}", 1 + (n % 3 == 0)) for n in range(90)]
    plan = make_plan("audio_audio", 1.0, 1)
    totals = index_for(clips, plan, bits=bits).totals
    single = sorted((f"r{n}" for n in range(90) if n % 3), key=sampling.stable_hash)
    assert [failure["recording_id"] for failure in pairs.failures(plan, totals)] == single[:7]
    assert pairs.num_recordings_without_pairs(totals) == 60


def test_a_draw_is_encoded_with_what_it_is_made_of():
    drawn = draw(SMALL, make_plan("audio_image", 1.0, 1))[0]
    feature = tf.train.Example.FromString(drawn.encode(b"energies", b"jpeg")).features.feature
    assert feature["audio"].bytes_list.value == [b"energies"]
    assert feature["image"].bytes_list.value == [b"jpeg"]
    assert feature["image_seconds"].float_list.value == [pytest.approx(drawn.other.ref.seconds)]
