"""Which windows each triplet of a set is made of, and how: one code for the Beam job and for tf.data.

A triplet's number (its slot) decides everything about it, through keyed permutations: the constraint (each
gets its exact share), the anchor (every window that may be one is used equally often; under explicit labels
every class is, and every window within its class), and then, by the number of times that the anchor has been
used before, one of the anchor's possible (positive, negative, alteration)s. So any part of a set can be made
anywhere, exact counts come of themselves, and no triplet comes twice.

Source: Jansen et al. 2018, section 3.2.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from tfsound import examples, sampling, windows

# float16's largest: what a mixture with a nearly silent negative may exceed.
_MAX_ENERGY = 65504.0


@dataclasses.dataclass(frozen=True)
class Plan:
    """What decides the triplets of a set, but for the windows there are.

    `counts`, by constraint, are exact; `class_names` are the sorted labels that explicit labels go by.
    """

    constraints: tuple[sampling.Constraint | sampling.Labels, ...]
    counts: tuple[int, ...]
    seed: int
    class_names: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        return sum(self.counts)

    @property
    def within_recordings(self) -> tuple[sampling.Constraint, ...]:
        """The constraints that choose anchors and positives recording by recording."""
        return tuple(c for c in self.constraints if not isinstance(c, sampling.Labels))

    @property
    def uses_labels(self) -> bool:
        return len(self.within_recordings) < len(self.constraints)

    @property
    def num_counted_classes(self) -> int:
        """How many classes the index must count: none where no constraint goes by them."""
        return len(self.class_names) if self.uses_labels else 0


def make_plan(
    info: examples.DatasetInfo, constraints: Sequence[str], count: int, shares: Sequence[float], seed: int
) -> Plan:
    """The plan of `count` triplets from a set of clips; equal shares where none are given.

    Raises:
      ValueError: a constraint or share that is out of range, or shares that are not one a constraint.
    """
    parsed = sampling.parse_constraints(constraints)
    sampling.require_fits(parsed, info.mel_params.mel_bins, info.mel_params.num_channels)
    if shares and len(shares) != len(parsed):
        raise ValueError(f"shares must be one a constraint, {len(parsed)}, got {len(shares)}.")
    counts = sampling.split_count(count, shares or [1.0] * len(parsed))
    return Plan(parsed, counts, seed, info.label_names)


@dataclasses.dataclass(slots=True)
class Draw:
    """One triplet being put together; `label_class` where the constraint is explicit labels."""

    constraint: sampling.Constraint | sampling.Labels
    alteration: int = 0
    label_class: int | None = None
    anchor: windows.WindowLocation | None = None
    positive: windows.WindowLocation | None = None
    negative: windows.WindowLocation | None = None

    @property
    def locations(self) -> tuple[windows.WindowLocation, ...]:
        return self.anchor, self.positive, self.negative


def eligible_classes(totals: windows.Totals) -> np.ndarray:
    """The classes that triplets can be made of: two windows or more, and one of other labels elsewhere."""
    num_members = totals.member_starts[:, -1]
    num_others = totals.num_labelled - num_members - totals.max_own_non_members
    return np.flatnonzero((num_members >= 2) & (num_others >= 1))


def capacity(plan: Plan, totals: windows.Totals, num_frames: int) -> tuple[float, ...]:
    """How many triplets each constraint can give without one coming twice: a whole number or infinity.

    Anchors are used equally often, so the anchor with the fewest possible triplets sets the bound; of all
    triplets there are it is only a part.
    """
    return tuple(_capacity(constraint, plan, totals, num_frames) for constraint in plan.constraints)


def _capacity(constraint, plan: Plan, totals: windows.Totals, num_frames: int) -> float:
    if isinstance(constraint, sampling.Labels):
        classes = eligible_classes(totals)
        sizes = [totals.num_members(label_class) for label_class in classes]
        others = [
            totals.num_labelled - size - int(totals.max_own_non_members[label_class])
            for label_class, size in zip(classes, sizes, strict=True)
        ]
        triplets = [size * (size - 1) * other for size, other in zip(sizes, others, strict=True)]
        return len(classes) * min(triplets, default=0)
    number = plan.within_recordings.index(constraint)
    rows = [positives * (totals.num_windows - own) for positives, own in totals.scarcest[number]]
    fewest = min(rows, default=0)
    ways = constraint.num_alterations(num_frames)
    if ways is None:
        return math.inf if fewest else 0
    return totals.num_anchors(number) * fewest * ways


def require_possible(
    plan: Plan, totals: windows.Totals, num_frames: int, where: str, *, allow_repeats: bool = False
) -> None:
    """Raises: ImpossibleError when the clips of `where` cannot give what the plan asks for."""
    if totals.num_recordings < 2:
        raise windows.ImpossibleError(
            f"{where} has {totals.num_recordings} recording(s) with at least one window, so no negative "
            "from another recording can exist; expected at least 2 (are the values of recording_id right?)."
        )
    if plan.uses_labels:
        _require_classes(plan, totals, where)
    for constraint, count, most in zip(
        plan.constraints, plan.counts, capacity(plan, totals, num_frames), strict=True
    ):
        name = sampling.constraint_text(constraint)
        if count and not most:
            raise windows.ImpossibleError(
                f"no window of {where} can be an anchor under {name}: no recording has two windows that "
                "near; expected longer recordings or a larger gap."
            )
        if count > most and not allow_repeats:
            raise windows.ImpossibleError(
                f"{where} can give {most:,} triplets under {name} with every anchor used equally often and "
                f"no triplet twice, and {count:,} were asked for; lower the count, add recordings, or pass "
                "--allow-repeats: triplets come again only where an anchor has used up its own."
            )


def require_plausible(
    plan: Plan, info: examples.DatasetInfo, where: str, *, allow_repeats: bool = False
) -> None:
    """Raises: ImpossibleError where the sidecar of the clips shows that they cannot give what is asked for.

    What it cannot show, `require_possible` finds in the index.
    """
    if plan.uses_labels and not plan.class_names:
        raise _no_labels(where)
    if plan.uses_labels and len(plan.class_names) == 1:
        raise windows.ImpossibleError(
            f"the constraint 'labels' was asked for, and the clips of {where} have one label alone, "
            f"{plan.class_names[0]!r}: negatives need another; label more, or take other constraints."
        )
    for constraint, count in zip(plan.constraints, plan.counts, strict=True):
        windows.require_at_most(
            _most_of_windows(constraint, info.num_windows, info.mel_params.context_frames),
            count,
            f"triplets under {sampling.constraint_text(constraint)}",
            f"{where} holds {info.num_windows:,} windows",
            allow_repeats=allow_repeats,
        )


def _most_of_windows(
    constraint: sampling.Constraint | sampling.Labels, num_windows: int, num_frames: int
) -> float:
    """No fewer triplets than so many windows can give, whatever their recordings and classes."""
    if isinstance(constraint, sampling.Labels | sampling.Proximity):
        return num_windows * max(0, num_windows - 1) * max(0, num_windows - 2)
    ways = constraint.num_alterations(num_frames)
    if ways is None and num_windows >= 2:
        return math.inf
    return num_windows * max(0, num_windows - 1) * (ways or 1)


def _no_labels(where: str) -> windows.ImpossibleError:
    return windows.ImpossibleError(
        f"the constraint 'labels' was asked for, and the clips of {where} have no labels; label them in the "
        "manifest, or take other constraints."
    )


def _require_classes(plan: Plan, totals: windows.Totals, where: str) -> None:
    if not totals.member_starts[:, -1].any():
        raise _no_labels(where)
    if not len(eligible_classes(totals)):
        sizes = {name: totals.num_members(number) for number, name in enumerate(plan.class_names)}
        shown = ", ".join(f"{name!r} ({size} windows)" for name, size in list(sizes.items())[:5])
        raise windows.ImpossibleError(
            f"no class of {where} has two windows and a window of other labels in another recording, so "
            f"explicit labels make no triplet; found {shown}. Expected at least two classes."
        )


def classes_without_triplets(plan: Plan, totals: windows.Totals) -> dict[str, str]:
    """The classes that no triplet is made of under explicit labels, and why."""
    if not plan.uses_labels:
        return {}
    left_out = sorted(set(range(len(plan.class_names))) - set(eligible_classes(totals).tolist()))
    return {plan.class_names[number]: _why_left_out(totals.num_members(number)) for number in left_out}


def _why_left_out(num_members: int) -> str:
    if num_members >= 2:
        return "One of its windows has no negative: no window of other labels alone in another recording."
    return f"It has {num_members or 'no'} window, expected two: an anchor and another as its positive."


_Step = Callable[[windows.Bucket], None]


class _Drawing:
    """Decides the windows of some slots in two passes over the buckets that they touch.

    The first pass finds each anchor, which says what the other two may be; the second finds those.
    """

    def __init__(self, plan: Plan, totals: windows.Totals, num_frames: int):
        self._plan = plan
        self._totals = totals
        self._num_frames = num_frames
        self._source_key = sampling.stable_hash(plan.seed, "constraints")
        self._anchor_keys = [sampling.stable_hash(plan.seed, repr(c), "anchors") for c in plan.constraints]
        self._classes = eligible_classes(totals).tolist() if plan.uses_labels else []
        # By bucket, what is to be done while it is in memory.
        self.first_pass: dict[int, list[_Step]] = collections.defaultdict(list)
        self.second_pass: dict[int, list[_Step]] = collections.defaultdict(list)

    def add(self, slot: int) -> Draw:
        number, slot = sampling.slot_source(slot, self._plan.counts, self._source_key)
        draw = Draw(self._plan.constraints[number])
        if isinstance(draw.constraint, sampling.Labels):
            self._add_of_class(draw, slot, self._anchor_keys[number])
        else:
            self._add_of_recording(draw, slot, self._anchor_keys[number])
        return draw

    def _add_of_recording(self, draw: Draw, slot: int, key: int) -> None:
        number = self._plan.within_recordings.index(draw.constraint)
        starts = self._totals.anchor_starts[number]
        times_used, rank = sampling.slot_anchor(slot, int(starts[-1]), key)
        bucket, rank_in_bucket = windows.find(starts, rank)

        def place(held: windows.Bucket) -> None:
            anchor = held.anchor(number, rank_in_bucket)
            draw.anchor = held.location(anchor)
            start, end = held.recording_range(anchor)
            start_seconds = held.window_start_seconds[start:end]
            num_positives = int(draw.constraint.num_positives(start_seconds, anchor - start))
            num_negatives = self._totals.num_windows - (end - start)
            num_ways = draw.constraint.num_alterations(self._num_frames)
            choice_key = sampling.stable_hash(key, rank)
            sizes = (num_positives, num_negatives, num_ways or 1)
            positive, negative, draw.alteration = sampling.choose(times_used, sizes, choice_key)
            if num_ways is None:
                draw.alteration = sampling.stable_hash(choice_key, times_used)
            positive = draw.constraint.positive_window(start_seconds, anchor - start, positive)
            draw.positive = held.location(start + positive)
            own_start = int(self._totals.window_starts[bucket]) + start
            negative = sampling.outside(negative, own_start=own_start, own_count=end - start)
            self._find_later(draw, "negative", self._totals.window_starts, negative)

        self.first_pass[bucket].append(place)

    def _add_of_class(self, draw: Draw, slot: int, key: int) -> None:
        slot, class_number = divmod(slot, len(self._classes))
        draw.label_class = label_class = self._classes[class_number]
        starts = self._totals.member_starts[label_class]
        class_key = sampling.stable_hash(key, self._plan.class_names[label_class])
        times_used, rank = sampling.slot_anchor(slot, int(starts[-1]), class_key)
        bucket, rank_in_bucket = windows.find(starts, rank)

        def place(held: windows.Bucket) -> None:
            members = held.members(label_class)
            anchor = int(members[rank_in_bucket])
            draw.anchor = held.location(anchor)
            start, end = held.recording_range(anchor)
            non_member_starts = self._totals.non_member_starts(label_class)
            before, to_end = held.labelled.searchsorted([start, end]) - members.searchsorted([start, end])
            own_start = int(non_member_starts[bucket]) + int(before)
            own_count = int(to_end - before)
            sizes = (int(starts[-1]) - 1, int(non_member_starts[-1]) - own_count)
            choice_key = sampling.stable_hash(class_key, rank)
            positive, negative = sampling.choose(times_used, sizes, choice_key)
            positive = sampling.outside(positive, own_start=rank, own_count=1)
            negative = sampling.outside(negative, own_start=own_start, own_count=own_count)
            self._find_later(
                draw, "positive", starts, positive, lambda held, rank: int(held.members(label_class)[rank])
            )
            self._find_later(
                draw, "negative", non_member_starts, negative,
                lambda held, rank: held.non_member(label_class, rank),
            )  # fmt: skip

        self.first_pass[bucket].append(place)

    def _find_later(
        self,
        draw: Draw,
        role: str,
        starts: np.ndarray,
        index: int,
        window_of: Callable[[windows.Bucket, int], int] = lambda held, rank: rank,
    ) -> None:
        """In the second pass, sets a role of a draw to what number `index` under `starts` is."""
        bucket, rank = windows.find(starts, index)
        self.second_pass[bucket].append(
            lambda held: setattr(draw, role, held.location(window_of(held, rank)))
        )


def draw_triplets(
    slots: Iterable[int],
    plan: Plan,
    totals: windows.Totals,
    load_bucket: Callable[[int], windows.Bucket],
    num_frames: int,
) -> list[Draw]:
    """Decides the windows of each slot, holding one bucket of the index at a time.

    Args:
      num_frames: of a context window.
    """
    drawing = _Drawing(plan, totals, num_frames)
    draws = [drawing.add(slot) for slot in slots]
    for steps_by_bucket in (drawing.first_pass, drawing.second_pass):
        for number in sorted(steps_by_bucket):
            bucket = load_bucket(number)
            for step in steps_by_bucket.pop(number):
                step(bucket)
    return draws


def positive_energies(draw: Draw, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """What the constraint makes of a draw's positive: (frames, mel_bins), within float16's range."""
    if isinstance(draw.constraint, sampling.Labels):
        return positive
    altered = draw.constraint.alter_positive(positive, negative, draw.alteration)
    return altered if altered is positive else np.minimum(altered, _MAX_ENERGY)


def encode_draw(draw: Draw, plan: Plan, energies: Sequence[bytes], num_columns: int) -> bytes:
    """Alters the positive as its constraint says, and serialises.

    Args:
      energies: of anchor, positive and negative, as stored in clip examples.
    """
    energies = list(energies)
    positive, negative = (examples.decode_mel_energy(data, num_columns) for data in energies[1:])
    altered = positive_energies(draw, positive, negative)
    if altered is not positive:
        energies[1] = examples.encode_mel_energy(altered)
    names = plan.class_names
    return examples.encode_triplet(
        tuple(energies),
        tuple(location.ref for location in draw.locations),
        draw.constraint.name,
        is_minable=draw.constraint.is_minable,
        label="" if draw.label_class is None else names[draw.label_class],
        negative_labels=tuple(names[number] for number in draw.negative.classes),
    )
