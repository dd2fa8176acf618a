"""Exports that are killed: `python export_kills.py RUN MODEL NUM_KILLS`, which test_export_restarts calls.

The package is imported once, and each export is a fork from before TensorFlow has done anything, so that a
kill costs a part of an export and no import. Prints what was seen, as JSON.
"""

import hashlib
import json
import os
import pathlib
import random
import signal
import sys
import time

from tfsound.export import saved_model


def contents(folder):
    """{path of a file in a folder: a hash of what it holds}."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(pathlib.Path(folder).rglob("*"))
        if path.is_file()
    }


def start_export(run, model):
    """A child of this process that exports, silently; its id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        saved_model.export(run, model)
        status = 0
    finally:
        os._exit(status)


def was_killed(run, model, seconds):
    """Exports, and kills that after some seconds; whether it was still at work then."""
    child, end = start_export(run, model), time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            if status:
                raise RuntimeError(f"the export ended by itself with status {status}")
            return False
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def main(run, model, num_kills):
    start = time.monotonic()
    was_killed(run, model, float("inf"))
    seconds = time.monotonic() - start
    first = contents(os.path.join(model, "1"))
    rng, seen = random.Random(0), []
    while len(seen) < num_kills:
        if not was_killed(run, model, rng.uniform(0, seconds)):
            seconds *= 0.8  # an export that had the machine to itself is faster than the first one
            continue
        versions = [name for name in os.listdir(model) if name.isdecimal()]
        seen.append({
            "others": sorted(set(os.listdir(model)).difference(versions)),
            "first_is_as_it_was": contents(os.path.join(model, "1")) == first,
            "all_are_whole": all(set(contents(os.path.join(model, name))) == set(first) for name in versions),
        })  # fmt: skip
    was_killed(run, model, float("inf"))
    print(json.dumps({"kills": seen, "end": sorted(os.listdir(model)), "files": sorted(first)}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
