"""Where a job writes: a folder beside the output, which takes its place when it is whole."""

import contextlib
import os
import shutil
from collections.abc import Iterator

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
      ActiveLearningError: the output exists and may not be replaced.
    """
    output = os.path.abspath(output)
    partial = output + ".partial"
    _require_replaceable(output, marker, overwrite=overwrite, precious=precious)
    if os.path.exists(partial) and not os.path.exists(os.path.join(partial, _MARK)):
        raise ActiveLearningError(f"{partial} exists and was left by no job of ours; name another output.")
    shutil.rmtree(partial, ignore_errors=True)
    os.makedirs(partial)
    with open(os.path.join(partial, _MARK), "w"):
        pass
    try:
        yield partial
        _require_replaceable(output, marker, overwrite=overwrite, precious=precious)
        os.remove(os.path.join(partial, _MARK))
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    replaced = output + ".replaced"
    if os.path.isdir(output):
        shutil.rmtree(replaced, ignore_errors=True)
        os.rename(output, replaced)
    os.rename(partial, output)
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
