"""What worker processes of this machine are reading, noted so that a dead one's last file can be named.

A decoder that crashes, or takes all memory, ends its process, and no code of it can say anything any more.
So a worker process keeps the name of what it reads in a file of a folder that the launching process has made,
and takes it away when it has read it. Threads of the launching process itself note nothing.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator

# In the environment of a worker process: the folder.
FOLDER_VARIABLE = "TFSOUND_WORKER_NOTES"


@contextlib.contextmanager
def noted(uri: str) -> Iterator[None]:
    """Within, `uri` is noted to be read."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        yield
        return
    with tempfile.NamedTemporaryFile("wb", dir=folder) as file:
        file.write(os.fsencode(uri))
        file.flush()
        yield


def last_words(folder: str) -> str:
    """What was being read when the process of a folder ended, as a sentence; "" where nothing was."""
    uris = set()
    for name in os.listdir(folder):
        with open(os.path.join(folder, name), "rb") as file:
            uris.add(os.fsdecode(file.read()))
    if not uris:
        return ""
    shown = ", ".join(map(repr, sorted(uris)))
    return f" It was reading {shown}: if it dies there again, leave that out of the manifest."
