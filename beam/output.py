"""Where a job writes: a pending folder beside the output, which becomes the output when it is whole.

`OUTPUT.partial` holds shards, failures and progress while a job runs. `publish` writes the sidecar and
moves everything to `OUTPUT`, sidecar last; readers take no folder without one for a data set. Removing
the pending folder, or a mark in it, cancels the job: its workers notice and stop. One job at a time has the
folder: see `claims`. On an object store, where the workers of a job may outlive the process that launched it,
each job writes to a folder of its own in it, `OUTPUT.partial/ID`.

A job that gives its `settings` can be resumed: whatever ends it, the shards that are finished stay in the
pending folder, and the same job goes on from there.
"""

import contextlib
import errno
import hashlib
import json
import os
import shlex
import shutil
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator

import tensorflow as tf

from tfsound import examples, resumption
from tfsound.beam import claims

FAILURES_NAME = "failures.jsonl"
# Folders inside the pending one that are not published.
PROGRESS = "progress"
_SUMMARIES = "summaries"
INDEX = "index"
_REPLACED = "replaced"
_SETTINGS = "settings.json"
_INPUTS = "inputs.json"
# The mark by which a job is cancelled.
CANCELLED = "cancelled"
# One a thread of a worker, at most.
_MOST_LATE_FILES = 100


class JobError(RuntimeError):
    """A job that could not be finished; the message says why and what to do."""


class PendingOutput:
    """The pending folder of one job.

    Args:
      settings: of a job that can be resumed all that its shards depend on, in types that JSON has. What a
        job of the same settings has left is kept, what one of others has left is removed.
      require_claim: called before anything is published; raises where another job has taken over.

    Raises:
      JobError: the output exists and `overwrite` is off; it, or the pending folder, is none of ours.
    """

    def __init__(
        self,
        output: str,
        *,
        overwrite: bool,
        settings: dict | None = None,
        require_claim: Callable[[], None] = lambda: None,
    ):
        require_free(output, overwrite=overwrite)
        self.output = output.rstrip("/")
        self.is_resumable = settings is not None
        self._require_claim = require_claim
        text = json.dumps(settings, sort_keys=True)
        self._root = self.path = _pending_root(output)
        if "://" in self._root:
            key = hashlib.sha256(text.encode()).hexdigest()[:16] if self.is_resumable else uuid.uuid4().hex
            self.path = os.path.join(self._root, key)
        if self.is_resumable and self._read(_SETTINGS) == text:
            self._clear_others()
            self._restore_replaced()
            self._keep_finished()
        else:
            self._clear()
        for name in (PROGRESS, _SUMMARIES, INDEX):
            tf.io.gfile.makedirs(os.path.join(self.path, name))
        if self.is_resumable:
            self._write(_SETTINGS, text)

    def _clear(self) -> None:
        """Removes what other jobs have left, but not the folder, which this job has claimed."""
        if "://" not in self._root:
            self._restore_replaced()
            if os.path.exists(self._root):
                resumption.clear(self._root)
        elif tf.io.gfile.exists(self.path):
            tf.io.gfile.rmtree(self.path)
        self._clear_others()

    def _clear_others(self) -> None:
        """On an object store, removes the folders of jobs that are dead."""
        if self._root != self.path and tf.io.gfile.exists(self._root):
            claims.clear_but(self._root, os.path.basename(self.path))

    def _read(self, name: str) -> str:
        """The text of a file in the folder, "" where there is none."""
        path = os.path.join(self.path, name)
        if not tf.io.gfile.exists(path):
            return ""
        with tf.io.gfile.GFile(path) as file:
            return file.read()

    def _write(self, name: str, text: str) -> str:
        path = os.path.join(self.path, name)
        with tf.io.gfile.GFile(path, "w") as file:
            file.write(text)
        return path

    def _keep_finished(self) -> None:
        """Removes what a job left of shards that are not finished, and the mark that it was cancelled.

        Where too many clips failed, shards with failures are done again: the files may have been mended.
        """
        for name, summary in self.read_summaries().items():
            shards = [summary[key] for key in ("shard", "table") if summary.get(key)]
            paths = [os.path.join(self.path, shard["name"]) for shard in shards]
            is_whole = all(
                tf.io.gfile.exists(path) and tf.io.gfile.stat(path).length == shard["num_bytes"]
                for path, shard in zip(paths, shards, strict=True)
            )
            if not is_whole or (self.has_failures and summary["failures"]):
                tf.io.gfile.remove(os.path.join(self.path, _SUMMARIES, name + ".json"))
        progress = os.path.join(self.path, PROGRESS)
        finished = self.read_summaries()
        for path in [os.path.join(progress, name) for name in tf.io.gfile.listdir(progress)]:
            if os.path.basename(path) not in finished:
                tf.io.gfile.remove(path)
        for name in (CANCELLED, FAILURES_NAME, examples.INFO_NAME):
            if tf.io.gfile.exists(os.path.join(self.path, name)):
                tf.io.gfile.remove(os.path.join(self.path, name))

    def cancel(self) -> None:
        """Stops the workers by a mark; the folder stays this job's until they have stopped."""
        with contextlib.suppress(tf.errors.OpError):  # the folder was removed, which stops them, too
            self._write(CANCELLED, "")

    def discard(self) -> None:
        """Removes the folder, and so cancels the job."""
        if not tf.io.gfile.exists(self.path):
            return
        if "://" in self.path:
            tf.io.gfile.rmtree(self.path)  # the rest goes with the claim
            return
        self._restore_replaced()
        # Renamed first, so that workers, who notice only later, cannot put new files into it meanwhile.
        trash = tempfile.mkdtemp(prefix=os.path.basename(self.path), dir=os.path.dirname(self.path) or ".")
        os.rename(self.path, os.path.join(trash, "discarded"))
        _remove_all(trash)

    def _restore_replaced(self) -> None:
        """Gives the output back its name, where a job was stopped between the two renames of `publish`."""
        replaced = os.path.join(self.path, _REPLACED)
        if os.path.exists(replaced) and not os.path.exists(self.output):
            os.rename(replaced, self.output)

    def write_failures(self, failures: list[dict]) -> str:
        """Writes `failures.jsonl`, a failure a line; returns its path."""
        lines = (json.dumps(failure, ensure_ascii=False) + "\n" for failure in failures)
        return self._write(FAILURES_NAME, "".join(lines))

    @property
    def has_failures(self) -> bool:
        path = os.path.join(self.path, FAILURES_NAME)
        return tf.io.gfile.exists(path) and tf.io.gfile.stat(path).length > 0

    def write_inputs(self, inputs: Iterable) -> None:
        """Writes what the job is to work on, values that JSON has, for workers to read: see `read_inputs`."""
        self._write(_INPUTS, json.dumps(list(inputs)))

    def read_summaries(self) -> dict[str, dict]:
        """What tasks wrote with `write_summary`, by their names, which ascend."""
        directory = os.path.join(self.path, _SUMMARIES)
        names = [name for name in sorted(tf.io.gfile.listdir(directory)) if name.endswith(".json")]
        return {
            name.removesuffix(".json"): json.loads(self._read(os.path.join(_SUMMARIES, name)))
            for name in names
        }

    def abandon(self, *, is_interrupted: bool) -> None:
        """After an error: removes the folder, but for shards to go on with, or failures to be read.

        Raises: InUseError where the folder is another job's now; nothing is removed.
        """
        self._require_claim()
        if self.is_resumable and self.read_summaries():
            self._restore_replaced()
        elif is_interrupted or not self.has_failures:
            self.discard()

    def take_summaries(self) -> list[dict]:
        """What the tasks of a pipeline wrote, by their names; the next starts anew."""
        summaries = self.read_summaries()
        for name in summaries:
            tf.io.gfile.remove(os.path.join(self.path, _SUMMARIES, name + ".json"))
        return list(summaries.values())

    def publish(self, info: examples.DatasetInfo) -> None:
        """Writes the sidecar and moves everything to the output, in place of what is there."""
        self._require_claim()
        self._write(examples.INFO_NAME, info.to_json())
        if "://" in self.output:
            self._publish_files(info)
            return
        # The set that is replaced stays whole until now, when two renames put the new one in its place.
        replaced = os.path.join(self.path, _REPLACED)
        if os.path.exists(self.output):
            os.rename(self.output, replaced)
        os.rename(self.path, self.output)
        for name in set(os.listdir(self.output)) - _published_names(info):
            _remove(os.path.join(self.output, name))

    def _publish_files(self, info: examples.DatasetInfo) -> None:
        """Object stores rename no folders: the old set's sidecar goes first, the new one's comes last."""
        if tf.io.gfile.exists(self.output):
            old_info = os.path.join(self.output, examples.INFO_NAME)
            if tf.io.gfile.exists(old_info):
                tf.io.gfile.remove(old_info)
            tf.io.gfile.rmtree(self.output)
        tf.io.gfile.makedirs(self.output)
        for name in [*sorted(_published_names(info) - {examples.INFO_NAME}), examples.INFO_NAME]:
            source = os.path.join(self.path, name)
            if tf.io.gfile.exists(source):
                tf.io.gfile.rename(source, os.path.join(self.output, name))
        self.discard()


def _remove_all(path: str) -> None:
    """Removes a folder that nobody opens any more files in; those being opened just now may still come."""
    for _ in range(_MOST_LATE_FILES):
        try:
            return shutil.rmtree(path)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
    shutil.rmtree(path)


def _is_in_use(path: str) -> bool:
    """Whether there is a file, or a folder that holds anything."""
    return tf.io.gfile.exists(path) and not (tf.io.gfile.isdir(path) and not tf.io.gfile.listdir(path))


def _published_names(info: examples.DatasetInfo) -> set[str]:
    return {shard.name for shard in (*info.shards, *info.tables)} | {FAILURES_NAME, examples.INFO_NAME}


def _remove(path: str) -> None:
    if tf.io.gfile.isdir(path):
        tf.io.gfile.rmtree(path)
    else:
        tf.io.gfile.remove(path)


def _pending_root(output: str) -> str:
    return output.rstrip("/") + ".partial"


def require_free(output: str, *, overwrite: bool) -> None:
    """Raises: JobError where a job would have to replace what it may not, or what is none of ours."""
    output, pending = output.rstrip("/"), _pending_root(output)
    if _is_in_use(output):
        if not tf.io.gfile.exists(os.path.join(output, examples.INFO_NAME)):
            raise JobError(f"{output} exists and is no data set of ours; name another output or remove it.")
        if not overwrite:
            raise JobError(f"{output} is a finished data set; pass --overwrite to replace it.")
    if _is_in_use(pending) and not _is_ours(pending):
        raise JobError(f"{pending} exists and was left by no job of ours; name another output or remove it.")


def _is_ours(pending: str) -> bool:
    if "://" in pending:
        return claims.was_ever_claimed(pending)
    return tf.io.gfile.exists(os.path.join(pending, PROGRESS))


@contextlib.contextmanager
def pending_output(output: str, *, overwrite: bool, settings: dict | None = None) -> Iterator[PendingOutput]:
    """A `PendingOutput` that an error or an interruption removes.

    It stays with failures to be read; and where the job can be resumed, with shards that are finished.

    Raises:
      JobError: as `PendingOutput`; also when the folder, or a file in it, cannot be written.
      InUseError: another job writes to this output.
    """
    try:
        require_free(output, overwrite=overwrite)
        with claims.claimed(_pending_root(output)) as require_claim:
            try:
                pending = PendingOutput(
                    output, overwrite=overwrite, settings=settings, require_claim=require_claim
                )
            except JobError:  # a job has finished between the two looks
                if "://" not in output:
                    os.rmdir(_pending_root(output))
                raise
            try:
                yield pending
            except BaseException as error:
                with contextlib.suppress(tf.errors.OpError, OSError, resumption.InUseError):  # that hide it
                    pending.abandon(is_interrupted=isinstance(error, KeyboardInterrupt))
                raise
    except (tf.errors.OpError, OSError) as error:
        raise _cannot_be_written(output, error) from error


def _cannot_be_written(path: str, error: Exception) -> JobError:
    """The commonest reason is a full disk, which the message names."""
    reason = getattr(error, "message", error)
    return JobError(f"{path} cannot be written: {reason}; nothing was published.")


@contextlib.contextmanager
def shard_writer(pending_path: str, name: str) -> Iterator[tf.io.TFRecordWriter]:
    """A writer of one shard, which appears under its name only when it is complete."""
    with _whole_file(pending_path, name) as path, tf.io.TFRecordWriter(path) as writer:
        yield writer


def write_whole(pending_path: str, name: str, data: bytes) -> None:
    """Writes a file that appears under its name only when it is complete."""
    with _whole_file(pending_path, name) as path, tf.io.gfile.GFile(path, "wb") as file:
        file.write(data)


@contextlib.contextmanager
def _whole_file(pending_path: str, name: str) -> Iterator[str]:
    """The path of a file to write, which is given its name when that is done.

    A task may run twice, even at once; each try writes a file of its own, and the last rename wins.
    """
    path = os.path.join(pending_path, name)
    temporary = f"{path}.{os.getpid()}-{threading.get_ident()}.tmp"
    try:
        yield temporary
        tf.io.gfile.rename(temporary, path, overwrite=True)
    except tf.errors.OpError as error:
        raise _cannot_be_written(path, error) from error


def finished_shard(pending_path: str, name: str, num_examples: int) -> examples.Shard:
    """What the sidecar says of a shard that `shard_writer` has written."""
    num_bytes = tf.io.gfile.stat(os.path.join(pending_path, name)).length
    return examples.Shard(name, num_examples, num_bytes)


def read_inputs(pending_path: str) -> list:
    """What `PendingOutput.write_inputs` wrote: tuples are lists now."""
    with tf.io.gfile.GFile(os.path.join(pending_path, _INPUTS)) as file:
        return json.loads(file.read())


def write_summary(pending_path: str, name: str, summary: dict) -> None:
    """What a task has to report, kept until the launching process reads it."""
    write_whole(pending_path, os.path.join(_SUMMARIES, name + ".json"), json.dumps(summary).encode())


def require_all(num_found: int, num_expected: int, unit: str) -> None:
    """Raises: JobError when a runner has lost data, as some do without a word."""
    if num_found != num_expected:
        raise JobError(
            f"the runner handled {num_found} of {num_expected} {unit}; nothing was published: use another."
        )


def command_line(job: str, *positional: str) -> str:
    """The command that repeats this job: as it was typed, or as it would be from a notebook."""
    if os.path.basename(sys.argv[0]) == "tfsound":
        return shlex.join(["tfsound", *sys.argv[1:]])
    return shlex.join(["tfsound", job, *positional])
