"""One job at a time in the pending folder of an output, also on a file system without locks.

On this machine a claim is a lock of the folder, which ends with the process, however that ends. Object stores
have no locks: a claim there is a file in the folder that the job renews, and one that is not renewed for some
minutes is a dead job's. Ages are differences of the store's own times, so that no two clocks are compared.
"""

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator

import tensorflow as tf

from tfsound import resumption

_CLAIMS = "claims"
_RENEWAL_SECONDS = 20.0
_DEAD_AFTER_SECONDS = 180.0
# Of two jobs that start at once, how long the one waits for the other to withdraw.
_WITHDRAWAL_SECONDS = 10.0


@contextlib.contextmanager
def claimed(folder: str) -> Iterator[Callable[[], None]]:
    """Makes a folder and keeps other jobs out of it; gives what raises where the claim was lost meanwhile.

    Raises:
      InUseError: another job is at work there.
    """
    if "://" not in folder:
        with resumption.in_use(folder):
            yield lambda: None
        return
    claim = _ClaimFile(folder)
    try:
        claim.require_alone()
        claim.start_renewing()
        yield claim.require_held
    finally:
        claim.withdraw()


def was_ever_claimed(folder: str) -> bool:
    """Whether a job of ours has ever made this folder of an object store."""
    return tf.io.gfile.isdir(os.path.join(folder, _CLAIMS))


def clear_but(folder: str, kept: str) -> None:
    """Removes what a folder of an object store holds, but for claims and one folder in it."""
    for name in (name.rstrip("/") for name in tf.io.gfile.listdir(folder)):
        path = os.path.join(folder, name)
        if name in (_CLAIMS, kept):
            continue
        if tf.io.gfile.isdir(path):
            tf.io.gfile.rmtree(path)
        else:
            tf.io.gfile.remove(path)


class _ClaimFile:
    """A file that says that its job is alive."""

    def __init__(self, folder: str):
        self._folder = folder
        self._directory = os.path.join(folder, _CLAIMS)
        self._name = uuid.uuid4().hex
        self._path = os.path.join(self._directory, self._name)
        self._ended = threading.Event()
        tf.io.gfile.makedirs(self._directory)
        self._renew()

    def _renew(self) -> None:
        with tf.io.gfile.GFile(self._path, "w") as file:
            file.write(str(time.time()))

    def start_renewing(self) -> None:
        def renew():
            while not self._ended.wait(_RENEWAL_SECONDS):
                with contextlib.suppress(tf.errors.OpError):  # the store may answer the next time
                    if not tf.io.gfile.exists(self._path):
                        return  # taken over, or the folder was removed: `require_held` says so
                    self._renew()

        threading.Thread(target=renew, daemon=True).start()

    def _living_others(self) -> list[str]:
        """The claims of others that were renewed of late; the dead ones are removed."""
        now = tf.io.gfile.stat(self._path).mtime_nsec
        living = []
        for name in tf.io.gfile.listdir(self._directory):
            path = os.path.join(self._directory, name)
            with contextlib.suppress(tf.errors.NotFoundError):  # withdrawn as we look
                if name != self._name:
                    if now - tf.io.gfile.stat(path).mtime_nsec < _DEAD_AFTER_SECONDS * 1e9:
                        living.append(name)
                    else:
                        tf.io.gfile.remove(path)
        return living

    def require_alone(self) -> None:
        """Raises: InUseError where another job is here, or came at the same time and goes first.

        A claim is written before others are looked for, so of two jobs at least one sees the other. Where
        both do, the smaller name waits for the other to withdraw, which a job that is at work does not.
        """
        deadline = time.monotonic() + _WITHDRAWAL_SECONDS
        while others := self._living_others():
            if min(others) < self._name or time.monotonic() > deadline:
                raise resumption.InUseError(
                    f"another job is at work in {self._folder}, or was killed there less than "
                    f"{_DEAD_AFTER_SECONDS / 60:g} minutes ago; let it end, or name another output."
                )
            time.sleep(min(1.0, _WITHDRAWAL_SECONDS / 10))

    def require_held(self) -> None:
        """Raises: InUseError where the claim is gone."""
        if not tf.io.gfile.exists(self._path):
            raise resumption.InUseError(
                f"{self._folder} was removed or taken over by another job meanwhile; nothing was published."
            )

    def withdraw(self) -> None:
        """Gives the claim up, and removes the folder where nothing is left in it."""
        self._ended.set()
        with contextlib.suppress(tf.errors.OpError):  # it was removed
            tf.io.gfile.remove(self._path)
            others = tf.io.gfile.listdir(self._directory)
            if not others and [name.rstrip("/") for name in tf.io.gfile.listdir(self._folder)] == [_CLAIMS]:
                tf.io.gfile.rmtree(self._folder)
