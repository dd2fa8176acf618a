"""Which windows make a triplet: the semantic constraints and the draws behind them.

A constraint says which windows may be anchors, which window of the anchor's recording is the positive,
and (for the constraints that alter energies) what is done to it. All randomness is passed in.

Conventions: windows of one recording are ordered by start time; `start_seconds` is float64,
(num_windows,). All windows of a data set have a global index, recordings one after another, so a window
"of another recording" is an index outside the anchor recording's own range.

Source: Jansen et al. 2018, section 3.2.
"""

import dataclasses
import hashlib
from typing import Protocol

import numpy as np


def stable_hash(*key: str | int) -> int:
    """A 64-bit hash of the key, the same in every process, on every machine, on every day."""
    return int.from_bytes(_digest(key, 8), "big")


def _digest(key: tuple[str | int, ...], num_bytes: int) -> bytes:
    return hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=num_bytes).digest()


class _HashedKey(np.random.bit_generator.ISeedSequence):
    """A key as a seed. NumPy's own SeedSequence takes four times as long, to mix what a hash has mixed."""

    def __init__(self, key: tuple[str | int, ...]):
        self._key = key

    def generate_state(self, n_words: int, dtype=np.uint32) -> np.ndarray:
        num_bytes = n_words * np.dtype(dtype).itemsize
        return np.frombuffer(_digest(self._key, num_bytes), np.dtype(dtype).newbyteorder("<")).astype(dtype)


def random_generator(*key: str | int) -> np.random.Generator:
    """A generator whose stream is a pure function of the key, such as (seed, slot, purpose)."""
    return np.random.Generator(np.random.PCG64(_HashedKey(key)))


def permuted_index(index: int, size: int, key: int) -> int:
    """Where a keyed pseudo-random permutation of range(size) sends `index`.

    It takes no memory, so any worker can shuffle a range of any size. A four-round Feistel network over
    the next even number of bits, walked until it lands inside the range (Black and Rogaway 2002).

    Raises:
      ValueError: `index` is not in range(size).
    """
    if not 0 <= index < size:
        raise ValueError(f"index must be in [0, {size}), got {index}.")
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half_bits) - 1
    while True:
        left, right = index >> half_bits, index & mask
        for round_number in range(4):
            mixed = (right + key + round_number * 0x9E3779B97F4A7C15) & (2**64 - 1)
            mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
            mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
            left, right = right, left ^ ((mixed ^ (mixed >> 31)) & mask)
        index = (left << half_bits) | right
        if index < size:
            return index


def slot_anchor(slot: int, num_anchors: int, key: int) -> int:
    """The rank of the anchor that a slot (the number of a triplet in its set) uses.

    Every anchor is used once, in a pseudo-random order, before one is used again; so a set of any exact
    size uses each anchor equally often, give or take one.
    """
    return permuted_index(slot % num_anchors, num_anchors, key)


def draw_outside(rng: np.random.Generator, *, num_windows: int, own_start: int, own_count: int) -> int:
    """A window drawn uniformly from all windows but those of one recording.

    Args:
      num_windows: all windows of the data set.
      own_start, own_count: the recording's range of global indices.

    Raises:
      ValueError: there is no window outside.
    """
    num_others = num_windows - own_count
    if num_others < 1:
        raise ValueError(
            "every window is of one recording, so no negative can exist; expected at least two recordings "
            "(are recording_id values set as they should be?)."
        )
    index = int(rng.integers(num_others))
    return index if index < own_start else index + own_count


class Constraint(Protocol):
    """What the `triplets` job needs of a constraint; the negative is always of another recording."""

    name: str

    def anchors(self, start_seconds: np.ndarray) -> np.ndarray:
        """Which windows of a recording may be anchors: bool, (num_windows,)."""

    def draw_positive(self, start_seconds: np.ndarray, anchor: int, rng: np.random.Generator) -> int:
        """The index of the window that the positive is, or is made of."""

    def alter_positive(
        self, anchor: np.ndarray, positive: np.ndarray, negative: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """The positive's energies, (context_frames, mel_bins), given those of the three windows."""


@dataclasses.dataclass(frozen=True)
class Proximity:
    """Anchor and positive are of one recording and start less than a gap apart.

    `0 < |time(x_a) - time(x_p)| < max_time_gap_seconds`, x_p another window than x_a. (Windows of clips
    that were cut from one recording and carry no time of their own all start at 0; they count as near.)

    Source: Jansen et al. 2018, section 3.2.5.
    """

    max_time_gap_seconds: float = 10.0
    name = "proximity"

    def __post_init__(self):
        if not self.max_time_gap_seconds > 0:
            raise ValueError(f"max_time_gap_seconds must be positive, got {self.max_time_gap_seconds}.")

    def _near(self, start_seconds: np.ndarray, anchor: int | np.ndarray) -> tuple:
        time = start_seconds[anchor]
        first = start_seconds.searchsorted(time - self.max_time_gap_seconds, side="right")
        last = start_seconds.searchsorted(time + self.max_time_gap_seconds, side="left")
        return first, last  # the windows in [first, last) are near, the anchor among them

    def anchors(self, start_seconds: np.ndarray) -> np.ndarray:
        first, last = self._near(start_seconds, np.arange(len(start_seconds)))
        return last - first > 1

    def draw_positive(self, start_seconds: np.ndarray, anchor: int, rng: np.random.Generator) -> int:
        first, last = self._near(start_seconds, anchor)
        index = int(rng.integers(first, last - 1))
        return index if index < anchor else index + 1

    def alter_positive(
        self, anchor: np.ndarray, positive: np.ndarray, negative: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        return positive


def parse_constraint(text: str) -> Constraint:
    """A constraint from `name:parameter`, such as `proximity:10`; the parameter has a default.

    Raises:
      ValueError: an unknown name, or a parameter that is no number or out of range.
    """
    known = {"proximity": Proximity}
    name, _, parameter = text.partition(":")
    if name not in known:
        raise ValueError(f"constraint must be one of {sorted(known)}, got {name!r}.")
    try:
        return known[name](float(parameter)) if parameter else known[name]()
    except ValueError as error:
        raise ValueError(f"constraint {text!r}: {error}") from error
