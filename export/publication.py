"""Numbered versions of a model in one folder, each published whole: a server never sees half of one."""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator

import tensorflow as tf

from tfsound import resumption

# Servers pass over folders whose name is no number.
_UNPUBLISHED = "tmp-{}"


class ExportError(RuntimeError):
    """An export that could not be made, or that differs from the live model; the message says how."""


@contextlib.contextmanager
def named_failures(output: str) -> Iterator[None]:
    """Raises: ExportError that says of what cannot be written in the block where, and what to do."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "message", "") or str(error)
        raise ExportError(
            f"{output} cannot be written: {reason}; nothing was published. Make room, or name another output."
        ) from error


@contextlib.contextmanager
def new_version(output: str) -> Iterator[tuple[str, str]]:
    """Gives the folder to write the next version in, and the one that it becomes when the block has ended.

    What is written is on the disk before it has its number, and has its number at once. An error in the
    block takes it away; what a killed export has left goes with the next export.

    Args:
      output: the model's folder, on this machine; it is made.

    Raises:
      InUseError: another process exports there; NotADirectoryError: it is a file; ExportError: what was
      written cannot be published.
    """
    with resumption.in_use(output):
        names = os.listdir(output)
        for name in names:
            if re.fullmatch(_UNPUBLISHED.format(r"\d+"), name):
                shutil.rmtree(os.path.join(output, name))
        version = max((int(name) for name in names if name.isdecimal()), default=0) + 1
        unpublished = os.path.join(output, _UNPUBLISHED.format(version))
        final = os.path.join(output, str(version))
        try:
            yield unpublished, final
            with named_failures(output):
                _write_through(unpublished)
                os.rename(unpublished, final)
        except Exception:
            shutil.rmtree(unpublished, ignore_errors=True)
            raise
        _sync(output)


def _write_through(folder: str) -> None:
    """Has a folder and all that it holds on the disk, so that a loss of power leaves no half of it."""
    for parent, _, names in os.walk(folder):
        for path in [parent, *(os.path.join(parent, name) for name in names)]:
            _sync(path)


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
