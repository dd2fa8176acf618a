"""The manifests that a job reads: found, summed up, their rows spread over shards by a hash of their ids."""

import contextlib
import dataclasses
import hashlib
import heapq
import io
import os
from collections.abc import Iterable, Iterator

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from tqdm import tqdm

from tfsound import datasets, sampling
from tfsound.beam import plans, stores, worker_checks
from tfsound.beam.output import JobError

# A shard is one task: few clips may be long ones, and are to keep all workers busy.
_CLIPS_PER_SHARD = 32
_MIN_SHARDS, _MAX_SHARDS = 32, 1024

_SECONDS_BEFORE_PROGRESS = 3.0

# Where a row stands: (manifest path, row number).
Place = tuple[str, int]
Row = datasets.ManifestRow | datasets.BadRow


def find_manifests(pattern: str) -> list[str]:
    """The manifests that a path, or a pattern with `*`, `?` or `[...]`, names, sorted.

    Raises:
      ManifestError: the pattern matches no file.
    """
    if not any(character in pattern for character in "*?[") or os.path.exists(pattern):
        return [pattern]
    paths = [metadata.path for match in FileSystems.match([pattern]) for metadata in match.metadata_list]
    if not paths:
        raise datasets.ManifestError(
            f"{pattern}: the pattern matches no file, expected one manifest or more; correct it."
        )
    return sorted(paths)


@contextlib.contextmanager
def open_manifest(path: str) -> Iterator[Iterator]:
    """The rows of a manifest on any Beam file system: see `datasets.iter_manifest`."""
    try:
        is_store = stores.is_store(path)
        folder = FileSystems.split(path)[0] if is_store else os.path.dirname(os.path.abspath(path))
        file = stores.open_file(path)
    except (OSError, ValueError) as error:  # ValueError: no such file system
        raise datasets.ManifestError(f"{path}: cannot be read ({error}); check the path.") from error
    with file as binary:
        text = io.TextIOWrapper(io.BufferedReader(binary), encoding="utf-8", newline="")
        yield datasets.iter_manifest(text, name=path, format=datasets.manifest_format(path), base_uri=folder)


@dataclasses.dataclass(frozen=True)
class Summary:
    """What manifests hold.

    Attributes:
      num_rows: rows, good or bad.
      digest: a hash of all of them in their order.
      local_uri: the first of a file on this machine, "" where there is none.
      sample: some rows, which a hash of their ids chose, in its order.
    """

    num_rows: int
    digest: str
    local_uri: str = ""
    sample: tuple[tuple[Place, Row], ...] = ()


def summarize(paths: Iterable[str], *, num_sampled: int = 0, seed: int = 0) -> Summary:
    """Reads manifests through, holding one row, and those of the sample, at a time.

    Raises:
      ManifestError: one cannot be used as a whole.
    """
    num_rows, digest, local_uri = 0, hashlib.sha256(), ""
    sample: list[tuple[int, int, tuple[Place, Row]]] = []  # a heap, the largest hash first
    for path in paths:
        with open_manifest(path) as rows:
            for row_number, row in _counted(rows):
                num_rows += 1
                digest.update(repr((path, row_number, row)).encode())
                if not local_uri and worker_checks.is_local(row.uri):
                    local_uri = row.uri
                if num_sampled:
                    key = -sampling.stable_hash(seed, row.clip_id)
                    add = heapq.heappushpop if len(sample) == num_sampled else heapq.heappush
                    add(sample, (key, -num_rows, ((path, row_number), row)))
    sample = [placed for _, _, placed in sorted(sample, reverse=True)]
    return Summary(num_rows, digest.hexdigest(), local_uri, tuple(sample))


def _counted(rows: Iterator[tuple[int, Row]]) -> Iterator[tuple[int, Row]]:
    """Passes rows on and shows how many, from when it has taken long enough to ask oneself."""
    bar = tqdm(
        rows, desc="manifest", unit=" rows", delay=_SECONDS_BEFORE_PROGRESS, mininterval=0.5, leave=False
    )
    return iter(bar)


def default_num_shards(num_rows: int) -> int:
    return min(_MAX_SHARDS, max(-(-num_rows // _CLIPS_PER_SHARD), min(num_rows, _MIN_SHARDS)))


class ReadManifest(beam.DoFn):
    """(manifest path) -> (shard, ((path, row number), row)) for every row, good or bad.

    Args:
      skipped: shards whose rows are left out, because they are written already.
    """

    def __init__(self, num_shards: int, skipped: Iterable[int] = ()):
        self._num_shards = num_shards
        self._skipped = frozenset(skipped)

    def process(self, path: str):
        with open_manifest(path) as rows:
            for row_number, row in rows:
                shard = sampling.stable_hash(row.clip_id) % self._num_shards
                if shard not in self._skipped:
                    yield shard, ((path, row_number), row)


def shuffle_bytes(rows: Iterable[tuple[Place, Row]]) -> int:
    """What `ReadManifest` gives of these rows takes when it is shuffled."""
    return plans.encoded_bytes(
        (sampling.stable_hash(row.clip_id) % _MAX_SHARDS, (place, row)) for place, row in rows
    )


def in_order(rows: Iterable[tuple[Place, Row]]) -> Iterator[tuple[Place, Row, str]]:
    """Yields (place, row, "") in the order of ids; with a reason instead of "" for what is no clip."""
    seen: dict[str, Place] = {}
    for place, row in sorted(rows, key=lambda placed: (placed[1].clip_id, placed[0])):
        reason = ""
        if isinstance(row, datasets.BadRow):
            reason = row.reason
        elif row.clip_id in seen:
            manifest, row_number = seen[row.clip_id]
            reason = (
                f"clip_id {row.clip_id!r} stands in {manifest}, row {row_number}, already, which was "
                "kept; give every clip an id of its own."
            )
        else:
            seen[row.clip_id] = place
        yield place, row, reason


def failure(place: Place, row: Row, reason: str) -> dict:
    """A line of `failures.jsonl`."""
    return {
        "manifest": place[0], "row": place[1], "clip_id": row.clip_id, "uri": row.uri, "reason": reason,
    }  # fmt: skip


def failures_of(summaries: Iterable[dict]) -> list[dict]:
    """The failures of all shards, in the order of the manifests."""
    failures = [failure for summary in summaries for failure in summary["failures"]]
    return sorted(failures, key=lambda failure: (failure["manifest"], failure["row"]))


def require_few_failures(failures: list[dict], num_rows: int, max_fraction: float, path: str) -> None:
    """Raises: JobError where more than a fraction of the rows, or all, failed; `path` lists them."""
    if not failures or (len(failures) <= max_fraction * num_rows and len(failures) < num_rows):
        return
    shown = "\n".join(f"  {failure['clip_id']}: {failure['reason']}" for failure in failures[:3])
    raise JobError(
        f"{len(failures)} of {num_rows} clips were rejected, expected at most the fraction {max_fraction} "
        f"and not all; nothing was published. All reasons are in {path}. The first:\n{shown}\n"
        "Mend the manifest or the files, or raise --max-failure-fraction."
    )
