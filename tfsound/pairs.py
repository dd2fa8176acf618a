"""Which windows and frames each pair of a set is made of: one code for the Beam job and for tf.data.

A pair is a context window, the anchor, and what occurs near it in the same recording:
    audio and audio: another window that starts less than `max_time_gap_seconds` before or after, which is
        what `sampling.Proximity` makes of an anchor and its positive;
    audio and image: a frame that is shown at most `max_time_gap_seconds` before or after the centre of the
        window (`sampling.Coincidence`).
Which of two windows is the anchor matters, as in triplets: (a, b) and (b, a) are two pairs.

As in `triplets`, a pair's number (its slot) decides everything, through keyed permutations: the anchor
(every window that may be one is used equally often), and then, by the number of times that the anchor has
been used before, one of what it may go with. So any part of a set can be made anywhere, exact counts come of
themselves, and no pair comes twice.

Source: Jansen et al. 2020, section 3.1.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterable

from tfsound import examples, sampling, windows


@dataclasses.dataclass(frozen=True)
class Plan:
    """What decides the pairs of a set, but for the windows and frames there are."""

    constraint: sampling.Proximity | sampling.Coincidence
    count: int
    seed: int
    class_names: tuple[str, ...] = ()
    num_counted_classes = 0  # labels are of no interest

    @property
    def within_recordings(self) -> tuple[sampling.Proximity | sampling.Coincidence, ...]:
        return (self.constraint,)

    @property
    def modality(self) -> str:
        return examples.AUDIO_IMAGE if windows.uses_frames(self.within_recordings) else examples.AUDIO_AUDIO


def make_plan(
    info: examples.DatasetInfo, modality: str, max_time_gap_seconds: float, count: int, seed: int
) -> Plan:
    """The plan of `count` pairs from a set of clips.

    Raises:
      ValueError: no such modality, or a gap that is not positive.
    """
    examples.require_modality(modality)
    if modality == examples.AUDIO_AUDIO:
        constraint = sampling.Proximity(max_time_gap_seconds)
    else:
        constraint = sampling.Coincidence(max_time_gap_seconds, info.mel_params.context_seconds)
    return Plan(constraint, count, seed, info.label_names)


@dataclasses.dataclass(frozen=True, slots=True)
class Draw:
    """One pair: the anchor, and the window or frame that it goes with."""

    audio: windows.WindowLocation
    other: windows.WindowLocation | windows.FrameLocation

    def encode(self, audio: bytes, other: bytes) -> bytes:
        """The serialised example of a pair, given what lies at its two locations."""
        return examples.encode_pair(audio, self.audio.ref, other, self.other.ref)


def capacity(totals: windows.Totals) -> int:
    """How many pairs there can be without one coming twice.

    Anchors are used equally often, so the anchor with the fewest windows or frames near sets the bound.
    """
    return totals.num_anchors(0) * _fewest_partners(totals)


def _fewest_partners(totals: windows.Totals) -> int:
    return min((partners for partners, _ in totals.scarcest[0]), default=0)


def require_possible(plan: Plan, totals: windows.Totals, where: str, *, allow_repeats: bool = False) -> None:
    """Raises: ImpossibleError when the clips of `where` cannot give what the plan asks for."""
    gap = plan.constraint.max_time_gap_seconds
    num_recordings, num_with_frames = totals.num_recordings, totals.num_recordings_with_frames
    if not num_recordings:
        raise windows.ImpossibleError(f"no clip of {where} that is to be used holds a context window.")
    if plan.modality == examples.AUDIO_IMAGE and not num_with_frames:
        raise _no_frames(where, f"none of {num_recordings:,} recordings has frames")
    if not totals.num_anchors(0):
        if plan.modality == examples.AUDIO_IMAGE:
            raise windows.ImpossibleError(
                f"no window of {where} has a frame within {gap:g} s: {num_with_frames:,} of "
                f"{num_recordings:,} recordings have frames, and the nearest is "
                f"{float(totals.smallest_gap_seconds[0]):.3g} s from the centre of a window; expected a "
                "larger max_time_gap_seconds, or sound and picture that are not so far apart."
            )
        raise windows.ImpossibleError(
            f"no recording of {where} has two windows that start less than {gap:g} s apart; expected longer "
            "recordings or a larger max_time_gap_seconds."
        )
    if plan.count > capacity(totals) and not allow_repeats:
        raise windows.ImpossibleError(
            f"{where} can give {capacity(totals):,} pairs without one coming twice, as each of "
            f"{totals.num_anchors(0):,} windows is used equally often and one has "
            f"{_fewest_partners(totals):,} near; {plan.count:,} were asked for: lower the count, or pass "
            "--allow-repeats; repeats come only where a window has used up what is near."
        )


def require_frames(plan: Plan, info: examples.DatasetInfo, where: str) -> None:
    """Raises: ImpossibleError where pairs with images are asked of a set that says it has no frame."""
    if plan.modality == examples.AUDIO_IMAGE and not info.num_images:
        raise _no_frames(where, "the set holds no frames")


def require_plausible(
    plan: Plan, info: examples.DatasetInfo, where: str, *, allow_repeats: bool = False
) -> None:
    """Raises: ImpossibleError where the sidecar of the clips shows that they cannot give what is asked for.

    What it cannot show, `require_possible` finds in the index.
    """
    require_frames(plan, info, where)
    holding, num_others = f"{where} holds {info.num_windows:,} windows", max(0, info.num_windows - 1)
    if plan.modality == examples.AUDIO_IMAGE:
        holding, num_others = f"{holding} and {info.num_images:,} frames", info.num_images
    windows.require_at_most(
        info.num_windows * num_others, plan.count, "pairs", holding, allow_repeats=allow_repeats
    )


def _no_frames(where: str, found: str) -> windows.ImpossibleError:
    return windows.ImpossibleError(
        f"{where} gives no pairs of sound and image: {found}; make the clip examples from videos, with "
        "--frames-per-second 1."
    )


def num_recordings_without_pairs(totals: windows.Totals) -> int:
    """Recordings with a window but none that may be an anchor."""
    return totals.num_recordings - int(totals.num_recordings_used[0])


def failures(plan: Plan, totals: windows.Totals) -> list[dict[str, str]]:
    """Recordings that gave no pair, and why: the first `windows.MAX_NAMED` of them."""
    return [
        {"recording_id": recording.recording_id, "reason": _why_unused(plan, recording)}
        for recording in totals.unused[0]
    ]


def _why_unused(plan: Plan, recording: windows.UnusedRecording) -> str:
    gap = f"{plan.constraint.max_time_gap_seconds:g} s"
    if plan.modality == examples.AUDIO_AUDIO:
        if recording.num_windows == 1:
            return "It holds one context window only."
        return f"No two of its {recording.num_windows} windows start less than {gap} apart."
    if not recording.num_frames:
        return "It has no frame of video, and no picture."
    return (
        f"The nearest of its {recording.num_frames} frames is {recording.smallest_gap_seconds:.3g} s from "
        f"the centre of a window, expected at most {gap}."
    )


def draw_pairs(
    slots: Iterable[int],
    plan: Plan,
    totals: windows.Totals,
    load_bucket: Callable[[int], windows.Bucket],
) -> list[Draw]:
    """Decides the pair of each slot, holding one bucket of the index at a time."""
    key = sampling.stable_hash(plan.seed, repr(plan.constraint), "pairs")
    starts = totals.anchor_starts[0]
    slots_by_bucket = collections.defaultdict(list)
    for position, slot in enumerate(slots):
        times_used, rank = sampling.slot_anchor(slot, int(starts[-1]), key)
        bucket, rank_in_bucket = windows.find(starts, rank)
        choice_key = sampling.stable_hash(key, rank)
        slots_by_bucket[bucket].append((position, times_used, choice_key, rank_in_bucket))
    draws = {}
    for number, drawn in sorted(slots_by_bucket.items()):
        bucket = load_bucket(number)
        for position, times_used, choice_key, rank_in_bucket in drawn:
            anchor = bucket.anchor(0, rank_in_bucket)
            draws[position] = _draw(bucket, anchor, plan.constraint, times_used, choice_key)
    return [draws[position] for position in range(len(draws))]


def _draw(
    bucket: windows.Bucket,
    anchor: int,
    constraint: sampling.Proximity | sampling.Coincidence,
    times_used: int,
    choice_key: int,
) -> Draw:
    """The pair of an anchor that has been used so many times before."""
    start, end = bucket.recording_range(anchor)
    start_seconds = bucket.window_start_seconds[start:end]
    if isinstance(constraint, sampling.Coincidence):
        first_frame, end_frame = bucket.frame_range(anchor)
        frame_seconds = bucket.frame_seconds[first_frame:end_frame]
        anchor_seconds = start_seconds[anchor - start]
        num_frames = int(constraint.num_frames(anchor_seconds, frame_seconds))
        (choice,) = sampling.choose(times_used, (num_frames,), choice_key)
        frame = constraint.frame(anchor_seconds, frame_seconds, choice)
        return Draw(bucket.location(anchor), bucket.frame_location(first_frame + frame))
    num_positives = int(constraint.num_positives(start_seconds, anchor - start))
    (choice,) = sampling.choose(times_used, (num_positives,), choice_key)
    positive = constraint.positive_window(start_seconds, anchor - start, choice)
    return Draw(bucket.location(anchor), bucket.location(start + positive))
