"""Outputs of several parts that one command makes, and goes on with when it is run again."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator

_NO_LOCKS = (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL)


class InUseError(RuntimeError):
    """Another process is at work in an output."""


@contextlib.contextmanager
def in_use(output: str) -> Iterator[None]:
    """Makes the folder of a job, and keeps other processes out of it until the job ends, however it ends.

    A file system without locks keeps nobody out.

    Raises:
      InUseError: another process is in it; NotADirectoryError: it is a file.
    """
    if os.path.isfile(output):
        raise NotADirectoryError(f"{output} is a file, expected a folder or nothing; name another output.")
    os.makedirs(output, exist_ok=True)
    folder = os.open(output, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUseError(
                f"another process is at work in {output}; let it end, or name another output."
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        if not _is_at(folder, output):
            raise InUseError(f"another process has just ended its work in {output}; run the command again.")
        yield
    finally:
        os.close(folder)


def _is_at(folder: int, path: str) -> bool:
    """Whether an open folder still has its name: a job that ended meanwhile has renamed or removed it."""
    try:
        return os.path.samestat(os.fstat(folder), os.stat(path))
    except FileNotFoundError:
        return False


def clear(output: str) -> None:
    """Removes what a folder holds, and not the folder, which may be `in_use`."""
    for entry in list(os.scandir(output)):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.remove(entry.path)


@contextlib.contextmanager
def taken_up(output: str, settings: dict, *, overwrite: bool, job: str) -> Iterator[None]:
    """`take_up`, with the output `in_use` until the job ends; arguments and errors are those of the two."""
    with in_use(output):
        take_up(output, settings, overwrite=overwrite, job=job)
        yield


def take_up(output: str, settings: dict, *, overwrite: bool, job: str) -> None:
    """Makes the output folder of a job, or goes on with one that was begun with the same parameters.

    `<job>.json` in the folder holds the parameters. Folders that hold anything else are left alone.

    Args:
      settings: the parameters, in types that JSON has.
      overwrite: start anew in a folder that the job made.

    Raises:
      ValueError: the folder is not one of this job, or was begun with other parameters.
    """
    parameters_name = f"{job}.json"
    path = os.path.join(output, parameters_name)
    names = os.listdir(output) if os.path.isdir(output) else []
    settings = json.loads(json.dumps(settings))  # JSON makes lists of tuples
    if overwrite and parameters_name in names:
        clear(output)
    elif names not in ([], [parameters_name]):  # alone, it says of what nothing came
        if parameters_name not in names:
            raise ValueError(f"{output} exists and is no output of {job}; name another output.")
        with open(path) as file:
            begun = json.load(file)
        different = [key for key in settings if begun.get(key) != settings[key]]
        if different:
            shown = ", ".join(f"{key}: {begun.get(key)!r} then, {settings[key]!r} now" for key in different)
            raise ValueError(
                f"{output} was begun with other parameters ({shown}); "
                "pass --overwrite to start anew, or name another output."
            )
        return
    os.makedirs(output, exist_ok=True)
    with open(path, "w") as file:
        json.dump(settings, file, indent=1)


def write_text(path: str, text: str) -> None:
    """Writes a UTF-8 file that is there as a whole or not at all, and the folder that it lies in."""
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path + ".tmp", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(path + ".tmp", path)


def write_json(path: str, fields: dict) -> None:
    """Writes a JSON file as `write_text` does."""
    write_text(path, json.dumps(fields, indent=1))
