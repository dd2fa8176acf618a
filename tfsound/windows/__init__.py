"""Where all context windows and frames of a set of clips are: an index that is held a part at a time.

Windows have a global index: recordings in the order of a hash of their ids, the windows of a recording in
the order of time. The index is cut by that hash into buckets, and `Totals` says how many windows, anchors
and members of a class each bucket holds. So any window, any anchor and any member (or non-member) of a
class can be found by its number while one bucket is in memory. A window without any class is no non-member:
of what nobody labelled, nothing is known. The frames of a recording, in the order of
time, are in the bucket of its windows.

Classes are numbers into the set's sorted label names.
"""

from tfsound.windows.buckets import (
    Bucket,
    FrameLocation,
    IndexedClip,
    IndexPlan,
    WindowLocation,
    build_bucket,
    index_clip,
    uses_frames,
)
from tfsound.windows.limits import ImpossibleError, require_at_most
from tfsound.windows.totals import (
    MAX_NAMED,
    BucketSummary,
    Totals,
    UnusedRecording,
    add_up,
    find,
    summarize,
)

__all__ = [
    "MAX_NAMED",
    "Bucket",
    "BucketSummary",
    "FrameLocation",
    "ImpossibleError",
    "IndexPlan",
    "IndexedClip",
    "Totals",
    "UnusedRecording",
    "WindowLocation",
    "add_up",
    "build_bucket",
    "find",
    "index_clip",
    "require_at_most",
    "summarize",
    "uses_frames",
]
