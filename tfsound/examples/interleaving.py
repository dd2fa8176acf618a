"""Where an interleaved reading of many shards stands after so many records, known from their counts alone.

`tf.data.Dataset.interleave` with a block of one record has `cycle_length` slots, and goes round them. At each
turn an empty slot takes the next shard, if there is one; a shard gives its next record; and a shard that has
no record left makes its slot empty, and gives nothing. So nothing need be read to know what is read already.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

_EMPTY = -1


@dataclasses.dataclass(frozen=True)
class ShardsLeft:
    """What to interleave, in this order and as many at a time as before, to go on from a record.

    Attributes:
      shards: int64, (shards left,), which they are.
      num_read: int64, (shards left,), how many records of each are read already. All of a shard: it gives
        nothing more, and takes its turn nevertheless.
    """

    shards: np.ndarray
    num_read: np.ndarray


def shards_left(counts: Sequence[int], cycle_length: int, num_done: int) -> ShardsLeft:
    """The shards that an interleaved reading has not finished after `num_done` records.

    Args:
      counts: (shards,), the records of each, in the order of reading; at least 1.
      cycle_length: how many are read at a time.
      num_done: at most the sum of the counts.
    """
    left = np.array(counts, np.int64)
    slots = np.full(cycle_length, _EMPTY)
    num_opened = slot = 0
    while num_done:
        filled = slots[slots != _EMPTY]
        if slot == 0 and len(filled) and (num_opened == len(left) or len(filled) == cycle_length):
            # As many whole rounds at once as all slots can give.
            num_rounds = min(left[filled].min(), num_done // len(filled))
            left[filled] -= num_rounds
            num_done -= num_rounds * len(filled)
            if not num_done:
                break
        if slots[slot] == _EMPTY and num_opened < len(left):
            slots[slot], num_opened = num_opened, num_opened + 1
        shard = slots[slot]
        if shard != _EMPTY and left[shard]:
            left[shard] -= 1
            num_done -= 1
        else:
            slots[slot] = _EMPTY
        slot = (slot + 1) % cycle_length
    order = []
    for shard in np.roll(slots, -slot):
        if shard == _EMPTY and num_opened < len(left):
            shard, num_opened = num_opened, num_opened + 1
        order.append(shard)
    shards = np.array([*order, *range(num_opened, len(left))], np.int64)
    shards = shards[shards != _EMPTY]
    return ShardsLeft(shards, np.asarray(counts, np.int64)[shards] - left[shards])
