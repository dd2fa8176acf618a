"""Draws that are pure functions of a key: stable hashes, keyed permutations, exact shares.

All randomness is passed in, as a generator or as the number of a choice, so that a permutation of those
numbers draws without repeats.
"""

import bisect
import hashlib
import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

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

    It takes no memory, so any worker can shuffle a range of any size. A Feistel network over the next even
    number of bits, walked until it lands inside the range (Black and Rogaway 2002).

    Raises:
      ValueError: `index` is not in range(size).
    """
    if not 0 <= index < size:
        raise ValueError(f"index must be in [0, {size}), got {index}.")
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half_bits) - 1
    # Over few bits, four rounds favour some permutations by several per cent.
    num_rounds = 8 if half_bits < 5 else 4
    while True:
        left, right = index >> half_bits, index & mask
        for round_number in range(num_rounds):
            mixed = (right + key + round_number * 0x9E3779B97F4A7C15) & (2**64 - 1)
            mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
            mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
            left, right = right, left ^ ((mixed ^ (mixed >> 31)) & mask)
        index = (left << half_bits) | right
        if index < size:
            return index


def slot_anchor(slot: int, num_anchors: int, key: int) -> tuple[int, int]:
    """(times that the anchor was used by earlier slots, its rank): the anchor of a slot of a constraint.

    Every anchor is used once, in a pseudo-random order, before one is used again; so a set of any exact
    size uses each anchor equally often, give or take one.
    """
    times_used, index = divmod(slot, num_anchors)
    return times_used, permuted_index(index, num_anchors, key)


def choose(number: int, sizes: Sequence[int], key: int) -> list[int]:
    """Choice number `number` of the combinations of ranges of these sizes, in a pseudo-random order.

    Each combination comes once before one comes again.

    Returns:
      An index for each range.
    """
    total = math.prod(sizes)
    rest = permuted_index(number % total, total, key)
    indices = []
    for size in sizes:
        rest, index = divmod(rest, size)
        indices.append(index)
    return indices


def outside(index: int, *, own_start: int, own_count: int) -> int:
    """The global index of window number `index` among those not in [own_start, own_start + own_count)."""
    return index if index < own_start else index + own_count


def slot_source(slot: int, counts: Sequence[int], key: int) -> tuple[int, int]:
    """The constraint that a slot takes, and the slot's number among that constraint's.

    Constraint k gets exactly `counts[k]` of the slots of range(sum(counts)), in a pseudo-random order.
    """
    ends = list(itertools.accumulate(counts))
    place = permuted_index(slot, ends[-1], key)
    source = bisect.bisect_right(ends, place)
    return source, place - (ends[source] - counts[source])


def split_count(count: int, shares: Sequence[float]) -> tuple[int, ...]:
    """Whole numbers that add up to `count`, in proportion to `shares` (largest remainders first).

    Raises:
      ValueError: a share that is negative or not finite, or shares of which all are 0.
    """
    if not all(0 <= share < math.inf for share in shares) or not any(shares):
        raise ValueError(f"shares must be finite and at least 0, not all 0, got {list(shares)}.")
    parts = [Fraction(share) for share in shares]  # a sum of floats would be rounded
    exact = [count * part / sum(parts) for part in parts]
    counts = [math.floor(value) for value in exact]
    by_remainder = sorted(range(len(shares)), key=lambda index: (counts[index] - exact[index], index))
    for index in by_remainder[: count - sum(counts)]:
        counts[index] += 1
    return tuple(counts)
