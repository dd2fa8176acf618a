"""The index of windows: their order, whose they are, and what of them belongs to a class."""

import collections
import dataclasses
import json
import math

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from tfsound import examples, sampling, windows

STEP = tiny.PARAMS.context_seconds
UNTIMED = settings(deadline=None)  # a busy machine may be slow
WINDOW_BYTES = 2 * tiny.WINDOW[0] * tiny.WINDOW[1]


def indexed(recording, clip, num_windows, *, start_seconds=0.0, classes=(), shard=0, offset=0):
    return windows.IndexedClip(recording, clip, shard, offset, start_seconds, num_windows, tuple(classes))


@dataclasses.dataclass
class Index:
    """An index in memory, cut into buckets by the leading bits of the recordings' hashes, as the job cuts."""

    totals: windows.Totals
    buckets: dict[int, windows.Bucket]

    def load_bucket(self, number: int) -> windows.Bucket:
        return self.buckets[number]

    @property
    def locations(self) -> list[windows.WindowLocation]:
        """All windows in global order."""
        buckets = (self.buckets[number] for number in sorted(self.buckets))
        return [bucket.location(window) for bucket in buckets for window in range(bucket.num_windows)]


def make_index(clips, constraints=(), *, num_classes=0, bits=0) -> Index:
    by_bucket = collections.defaultdict(list)
    for clip in clips:
        by_bucket[sampling.stable_hash(clip.recording_id) >> (64 - bits)].append(clip)
    buckets = {
        number: windows.build_bucket(iter(clips), tiny.PARAMS, constraints)
        for number, clips in by_bucket.items()
    }
    summaries = [
        windows.summarize(number, bucket, constraints, num_classes) for number, bucket in buckets.items()
    ]
    totals = windows.add_up(summaries, 1 << bits, len(constraints), num_classes)
    return Index(totals, buckets)


CLIPS = st.lists(
    st.builds(
        indexed,
        recording=st.sampled_from("abcdefg"),
        clip=st.uuids().map(str),
        num_windows=st.integers(1, 4),
        start_seconds=st.integers(0, 6).map(lambda half: half * STEP / 2),
        classes=st.sets(st.integers(0, 3), max_size=3).map(sorted),
        shard=st.integers(0, 5),
        offset=st.integers(0, 1000),
    ),
    min_size=1,
    max_size=14,
)
CONSTRAINTS = (sampling.Noise(), sampling.Proximity(1.3 * STEP), sampling.Proximity(0.8 * STEP))


def windows_of(clips) -> list[windows.WindowLocation]:
    """All windows of some clips in global order, by the definition."""
    found = [
        windows.WindowLocation(
            clip.shard,
            clip.offset + window * WINDOW_BYTES,
            examples.WindowRef(clip.clip_id, clip.recording_id, clip.start_seconds + window * STEP),
            clip.classes,
        )
        for clip in sorted(clips, key=lambda clip: (clip.start_seconds, clip.clip_id))
        for window in range(clip.num_windows)
    ]
    return sorted(found, key=lambda at: (sampling.stable_hash(at.ref.recording_id), at.ref.start_seconds))


@UNTIMED
@given(clips=CLIPS, bits=st.integers(0, 4))
def test_every_window_is_there_once_in_order(clips, bits):
    expected = windows_of(clips)
    index = make_index(clips, bits=bits)
    assert index.locations == expected
    assert index.totals.num_windows == len(expected)
    assert index.totals.num_recordings == len({clip.recording_id for clip in clips})
    assert make_index(clips[::-1], bits=bits).locations == expected


@UNTIMED
@given(clips=CLIPS, bits=st.integers(0, 3))
def test_members_and_others_are_found_by_their_number(clips, bits):
    index = make_index(clips, num_classes=4, bits=bits)
    expected = windows_of(clips)
    for label_class in range(4):
        members = [at for at in expected if label_class in at.classes]
        others = [at for at in expected if at.classes and label_class not in at.classes]
        assert index.totals.num_members(label_class) == len(members)
        found = []
        for rank in range(len(members)):
            number, rank = windows.find(index.totals.member_starts[label_class], rank)
            bucket = index.buckets[number]
            found.append(bucket.location(int(bucket.members(label_class)[rank])))
        assert found == members
        found = []
        for rank in range(len(others)):
            number, rank = windows.find(index.totals.non_member_starts(label_class), rank)
            bucket = index.buckets[number]
            found.append(bucket.location(bucket.non_member(label_class, rank)))
        assert found == others


def own_windows(at, every):
    return [other for other in every if other.ref.recording_id == at.ref.recording_id]


@UNTIMED
@given(clips=CLIPS, bits=st.integers(0, 3))
def test_anchors_and_what_bounds_their_triplets(clips, bits):
    index, every = make_index(clips, CONSTRAINTS, num_classes=4, bits=bits), windows_of(clips)
    for number, constraint in enumerate(CONSTRAINTS):
        gap = getattr(constraint, "max_time_gap_seconds", None)
        fewest, anchors = [], []
        for at in every:
            own = own_windows(at, every)
            near = [
                other
                for other in own
                if gap is None or abs(other.ref.start_seconds - at.ref.start_seconds) < gap
            ]
            num_positives = 1 if gap is None else len(near) - 1
            if num_positives:
                anchors.append(at)
                fewest.append(num_positives * (len(every) - len(own)))
        found = [
            bucket.location(bucket.anchor(number, rank))
            for bucket in (index.buckets[key] for key in sorted(index.buckets))
            for rank in range(int(np.diff(bucket.anchor_starts)[number]))
        ]
        assert found == anchors
        assert index.totals.num_anchors(number) == len(anchors)
        bounds = [few * (len(every) - own) for few, own in index.totals.scarcest[number]]
        assert min(bounds, default=None) == min(fewest, default=None)


@UNTIMED
@given(clips=CLIPS, bits=st.integers(0, 3))
def test_the_most_windows_of_a_members_recording_that_are_not_of_its_class(clips, bits):
    index, every = make_index(clips, num_classes=5, bits=bits), windows_of(clips)
    for label_class in range(5):
        own = [
            sum(bool(other.classes) and label_class not in other.classes for other in own_windows(at, every))
            for at in every
            if label_class in at.classes
        ]
        assert index.totals.max_own_non_members[label_class] == max(own, default=0)


def hand_made_bucket() -> windows.Bucket:
    """Recording "couple" of two clips that overlap, and "single"; `stable_hash` puts "couple" first."""
    clips = [
        indexed("couple", "T2", 2, start_seconds=0.05, classes=(0, 2), shard=1, offset=500),
        indexed("single", "S1", 1, offset=9000),
        indexed("couple", "T1", 2, classes=(2,), offset=100),
    ]
    assert sampling.stable_hash("couple") < sampling.stable_hash("single")
    constraints = [sampling.Proximity(0.06), sampling.Proximity(0.04)]
    return windows.build_bucket(iter(clips), tiny.PARAMS, constraints)


def test_windows_of_overlapping_clips_are_in_the_order_of_time():
    bucket = hand_made_bucket()
    found = [bucket.location(window) for window in range(4)]
    assert [(w.ref.clip_id, w.shard, w.offset, w.classes) for w in found] == [
        ("T1", 0, 100, (2,)),
        ("T2", 1, 500, (0, 2)),
        ("T1", 0, 100 + WINDOW_BYTES, (2,)),
        ("T2", 1, 500 + WINDOW_BYTES, (0, 2)),
    ]
    assert [w.ref.start_seconds for w in found] == pytest.approx([0.0, 0.05, 0.08, 0.13])
    last = windows.WindowLocation(0, 9000, examples.WindowRef("S1", "single", 0.0), ())
    assert bucket.location(4) == last
    assert bucket.recording_starts.tolist() == [0, 4, 5]
    assert [bucket.recording_range(window) for window in range(5)] == [(0, 4)] * 4 + [(4, 5)]


def test_anchors_are_kept_by_constraint():
    bucket = hand_made_bucket()
    # Gaps in "couple": 0.05, 0.03, 0.05.
    assert bucket.anchor_windows.tolist() == [0, 1, 2, 3, 1, 2]
    assert bucket.anchor_starts.tolist() == [0, 4, 6]
    assert [bucket.anchor(0, 3), bucket.anchor(1, 0), bucket.anchor(1, 1)] == [3, 1, 2]


def test_members_by_hand():
    bucket = hand_made_bucket()
    assert [bucket.members(label).tolist() for label in range(4)] == [[1, 3], [], [0, 1, 2, 3], []]
    # Window 4 has no class: it is no non-member either.
    assert bucket.labelled.tolist() == [0, 1, 2, 3]
    assert [bucket.non_member(0, rank) for rank in range(2)] == [0, 2]
    assert [bucket.non_member(1, rank) for rank in range(4)] == [0, 1, 2, 3]


FRAMES = st.lists(st.integers(-4, 40).map(lambda place: place * STEP / 4), max_size=4)


@UNTIMED
@given(clips=CLIPS, bits=st.integers(0, 3), data=st.data())
def test_every_frame_is_there_once_in_the_order_of_time(clips, bits, data):
    clips = [
        dataclasses.replace(
            clip,
            frames=tuple(
                (seconds, 10 * number, number) for number, seconds in enumerate(sorted(data.draw(FRAMES)))
            ),
        )
        for clip in clips
    ]
    gap = 1.3 * STEP  # which no time is from the centre of a window, so that no rounding decides
    constraint = sampling.Coincidence(gap, STEP)
    index = make_index(clips, [constraint], bits=bits)
    expected = [
        windows.FrameLocation(
            clip.shard, offset, num_bytes, examples.FrameRef(clip.clip_id, clip.recording_id, seconds)
        )
        for clip in sorted(clips, key=lambda clip: (clip.start_seconds, clip.clip_id))
        for seconds, offset, num_bytes in clip.frames
    ]
    expected.sort(key=lambda at: (sampling.stable_hash(at.ref.recording_id), at.ref.seconds))
    buckets = [index.buckets[number] for number in sorted(index.buckets)]
    found = [b.frame_location(frame) for b in buckets for frame in range(len(b.frame_seconds))]
    assert found == expected
    anchors = []
    for bucket in buckets:
        for window in range(bucket.num_windows):
            at = bucket.location(window)
            own = [frame for frame in expected if frame.ref.recording_id == at.ref.recording_id]
            start, end = bucket.frame_range(window)
            assert [bucket.frame_location(frame) for frame in range(start, end)] == own
            if any(abs(f.ref.seconds - at.ref.start_seconds - STEP / 2) <= gap for f in own):
                anchors.append(at)
    assert [b.location(window) for b in buckets for window in b.anchor_windows] == anchors
    totals = index.totals
    assert totals.num_anchors(0) == len(anchors)
    assert totals.num_recordings_used.tolist() == [len({at.ref.recording_id for at in anchors})]
    assert totals.num_recordings_with_frames == len({at.ref.recording_id for at in expected})
    gaps = [
        abs(frame.ref.seconds - at.ref.start_seconds - STEP / 2)
        for frame in expected
        for at in index.locations
        if frame.ref.recording_id == at.ref.recording_id
    ]
    assert totals.smallest_gap_seconds.tolist() == [pytest.approx(min(gaps, default=math.inf), abs=1e-9)]


def test_a_bucket_without_any_label_has_no_members():
    index = make_index([indexed("a", "c", 2), indexed("b", "d", 1)], num_classes=3, bits=1)
    assert index.totals.member_starts[:, -1].tolist() == [0, 0, 0]
    assert index.totals.max_own_non_members.tolist() == [0, 0, 0]


def test_a_summary_survives_json():
    bucket = hand_made_bucket()
    summary = windows.summarize(3, bucket, [sampling.Proximity(0.06), sampling.Noise()], 3)
    assert summary.num_members == [2, 0, 4]
    assert summary.num_labelled == 4
    assert summary.max_own_non_members == [2, 0, 0]
    again = windows.BucketSummary(**json.loads(json.dumps(dataclasses.asdict(summary))))
    first, second = (windows.add_up([s], 4, 2, 3) for s in (summary, again))
    assert first.scarcest == second.scarcest == (((1, 4),), ((1, 4),))
    assert first.num_recordings == second.num_recordings == 2
    assert first.window_starts.tolist() == second.window_starts.tolist() == [0, 0, 0, 0, 5]
    assert first.num_recordings_used.tolist() == second.num_recordings_used.tolist() == [1, 1]
    assert first.smallest_gap_seconds.tolist() == second.smallest_gap_seconds.tolist() == [math.inf] * 2


def test_index_clip_takes_each_class_once_in_order():
    clip = tiny.make_clip(3, labels=("owl", "dog", "owl"), recording="r")
    found = windows.index_clip(clip, 3, {"cat": 0, "dog": 1, "owl": 2}, shard=4, offset=7)
    assert found == windows.IndexedClip("r", "clip-3", 4, 7, 0.75, 3, (1, 2))


def test_index_clip_takes_frames_only_where_their_places_are_given():
    clip = tiny.make_clip(3, recording="r", frame_seconds=(1.0, 2.5))
    found = windows.index_clip(clip, 3, {}, shard=4, offset=7, frame_offsets=(1000, 5000))
    lengths = [len(jpeg) for jpeg in clip.frame_jpegs]
    assert found.frames == ((1.0, 1000, lengths[0]), (2.5, 5000, lengths[1]))
    assert windows.index_clip(clip, 3, {}, shard=4, offset=7).frames == ()
    with pytest.raises(ValueError, match="shorter than"):
        windows.index_clip(clip, 3, {}, shard=4, offset=7, frame_offsets=(1000,))


def test_find():
    starts = np.array([0, 3, 3, 5])
    found = [windows.find(starts, index) for index in range(5)]
    assert found == [(0, 0), (0, 1), (0, 2), (2, 0), (2, 1)]


@settings(UNTIMED, max_examples=20)
@given(num_recordings=st.integers(1, 40), seed=st.integers(0, 99))
def test_scarcest_keeps_little(num_recordings, seed):
    """One pair a number of positives at most, so that the totals of millions of recordings stay small."""
    rng = np.random.default_rng(seed)
    clips = [indexed(f"r{i}", f"c{i}", int(rng.integers(1, 60))) for i in range(num_recordings)]
    index = make_index(clips, [sampling.Proximity(5.5 * STEP)])
    positives = [pair[0] for pair in index.totals.scarcest[0]]
    assert len(positives) == len(set(positives)) <= 10


@pytest.mark.parametrize("num_clips", [255, 256, 257])
def test_the_last_clip_has_its_labels_however_many_there_are(num_clips):
    """Numbers of clips are kept in the smallest type: that of the last of 256 is the largest of its type."""
    clips = [
        windows.IndexedClip(f"r{number:03d}", f"c{number:03d}", 0, 0, 0.0, 1, (number % 2,))
        for number in range(num_clips)
    ]
    bucket = windows.build_bucket(clips, tiny.PARAMS, ())
    for window in range(num_clips):
        location = bucket.location(window)
        assert location.classes == (int(location.ref.clip_id[1:]) % 2,)
