"""Where a job writes: a folder beside the output, which takes its place when it is whole."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator

from tfsound import resumption
from tfsound.records import ActiveLearningError

_MARK = ".tfsound-partial"


@contextlib.contextmanager
def pending_folder(output: str, marker: str, *, overwrite: bool, precious: str = "") -> Iterator[str]:
    """Gives the folder to write to; it becomes the output where nothing is raised, and vanishes else.

    Args:
      output: the folder to make.
      marker: the file that a finished output holds: folders without it are not replaced.
      overwrite: replace a finished output.
      precious: a file that is never thrown away with an output, because people wrote it.

    Raises:
      ActiveLearningError: the output exists and may not be replaced; InUseError: another process makes it.
    """
    output = os.path.abspath(output)
    partial = output + ".partial"
    _require_replaceable(output, marker, overwrite=overwrite, precious=precious)
    if not _is_ours(partial):
        raise ActiveLearningError(f"{partial} exists and was left by no job of ours; name another output.")
    with resumption.in_use(partial):
        resumption.clear(partial)
        with open(os.path.join(partial, _MARK), "w"):
            pass
        try:
            yield partial
            _require_replaceable(output, marker, overwrite=overwrite, precious=precious)
            _take_place(partial, output)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        os.remove(os.path.join(output, _MARK))


def _is_ours(partial: str) -> bool:
    """Whether a job of ours may clear away what is there: nothing, or what a killed one left."""
    if os.path.isdir(partial):
        return not os.listdir(partial) or os.path.exists(os.path.join(partial, _MARK))
    return not os.path.exists(partial)


def _take_place(partial: str, output: str) -> None:
    """The new folder in place of the old one; whatever fails, one of the two is there under its name."""
    if not os.path.isdir(output):
        os.rename(partial, output)
        return
    folder, name = os.path.split(output)
    replaced = tempfile.mkdtemp(prefix=f"{name}.replaced-", dir=folder)
    os.rename(output, replaced)
    try:
        os.rename(partial, output)
    except BaseException:
        os.rename(replaced, output)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def _require_replaceable(output: str, marker: str, *, overwrite: bool, precious: str) -> None:
    if not os.path.exists(output) or (os.path.isdir(output) and not os.listdir(output)):
        return
    if not os.path.isfile(os.path.join(output, marker)):
        raise ActiveLearningError(
            f"{output} exists and holds no {marker}, so it is not ours to replace; name another output or "
            "remove it."
        )
    path = os.path.join(output, precious)
    if precious and os.path.exists(path) and os.path.getsize(path):
        raise ActiveLearningError(
            f"{path} holds answers that somebody gave; name another output, or move the folder away first."
        )
    if not overwrite:
        raise ActiveLearningError(
            f"{output} is finished; pass --overwrite to replace it, or name another output."
        )
