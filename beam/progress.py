"""How far a job is: what each task of its workers has done so far, and the bar that adds it up."""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator

import tensorflow as tf
from tqdm import tqdm
from tqdm.utils import ObjectWrapper

from tfsound.beam import output


class WorkerProgress:
    """What one task of a worker has done so far, written where the launching process can read it."""

    def __init__(self, pending_path: str, task: str):
        self._pending_path = pending_path
        self._path = os.path.join(pending_path, output.PROGRESS, task)
        self._counts: dict[str, int] = {}
        self._written_at = time.monotonic()

    def add(self, **counts: int) -> None:
        """Adds to the counts. Raises: JobError when the job was cancelled."""
        for name, count in counts.items():
            self._counts[name] = self._counts.get(name, 0) + count
        # Half a second locally is often enough for eyes; object stores are spared.
        interval = 10.0 if "://" in self._path else 0.5
        if time.monotonic() - self._written_at > interval:
            self.write()

    def write(self) -> None:
        if not tf.io.gfile.isdir(self._pending_path):
            raise output.JobError(f"cancelled: {self._pending_path} was removed.")
        if tf.io.gfile.exists(os.path.join(self._pending_path, output.CANCELLED)):
            raise output.JobError(f"cancelled: {self._pending_path} is marked so.")
        temporary = f"{self._path}.{threading.get_ident()}.tmp"
        with tf.io.gfile.GFile(temporary, "w") as file:
            file.write(json.dumps(self._counts))
        tf.io.gfile.rename(temporary, self._path, overwrite=True)
        self._written_at = time.monotonic()


def _sum_progress(pending_path: str) -> dict[str, int]:
    totals: dict[str, int] = {}
    directory = os.path.join(pending_path, output.PROGRESS)
    for name in tf.io.gfile.listdir(directory):
        if name.endswith(".tmp"):
            continue
        with tf.io.gfile.GFile(os.path.join(directory, name)) as file:
            counts = json.loads(file.read())
        for key, count in counts.items():
            totals[key] = totals.get(key, 0) + count
    return totals


class _Unfailing(ObjectWrapper):
    """Where a bar is shown. An error there (a log on a full disk, say) would leave tqdm's lock taken."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._wrapped.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._wrapped.flush()


@contextlib.contextmanager
def progress_bar(pending: output.PendingOutput, *, description: str, total: int, unit: str) -> Iterator[None]:
    """Shows what all workers have done: count of `unit`, rate, time left, and the other counts."""
    done = threading.Event()
    interval = 10.0 if "://" in pending.path else 0.5
    bar = tqdm(
        total=total, desc=description, unit=f" {unit}", mininterval=interval, dynamic_ncols=True,
        file=_Unfailing(sys.stderr),
    )  # fmt: skip

    def refresh():
        with contextlib.suppress(tf.errors.OpError):  # a file renamed, or a job discarded, as we look
            counts = _sum_progress(pending.path)
            bar.n = counts.pop(unit, 0)
            bar.set_postfix(counts)

    def poll():
        while not done.wait(interval):
            refresh()

    poller = threading.Thread(target=poll, daemon=True)
    poller.start()
    try:
        yield
    finally:
        done.set()
        poller.join()
        refresh()
        bar.close()
