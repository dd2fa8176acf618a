"""Files of any Beam file system, read so that what a store fails at now and then is tried again.

Runners do not agree on who tries again: the local one runs a bundle once, Dataflow four times, Flink starts
the whole job anew as often as its cluster says. So it is done here, where nothing is lost but one read, and
only here: a read that failed is tried again from where it stood, later each time, a bounded number of times.
That a file is missing or forbidden is no passing fault, and is told at once. What TensorFlow reads and writes
(records, finished shards) its own file systems try again.
"""

import io
import logging
from typing import BinaryIO

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.utils import retry

from tfsound.beam.output import JobError

# After 0.5, 1, 2, ... 16 s, or up to half as long: half a minute for a store to come back.
_NUM_RETRIES = 6
_FIRST_DELAY_SECONDS = 0.5
_PERMANENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
# HTTP's "request timeout" and "too many requests", which pass.
_TRANSIENT_CODES = (408, 429)


def is_store(path: str) -> bool:
    """Whether a path names a store, and not a file of this machine."""
    return "://" in path


def open_file(path: str, *, num_bytes_at_once: int = 0) -> BinaryIO:
    """Opens a file of any Beam file system to read its bytes as they are.

    Args:
      num_bytes_at_once: what will be read at a place before the next place, where that is known.

    Raises:
      OSError: it is not there, or may not be read. JobError, then and while it is read: the store failed time
      after time. ValueError: no file system has such paths.
    """
    if is_store(path):
        file = _StoreFile(path, num_bytes_at_once)
        return io.BufferedReader(file, num_bytes_at_once or io.DEFAULT_BUFFER_SIZE)
    return _opened(path, num_bytes_at_once)


def _opened(path: str, num_bytes_at_once: int) -> BinaryIO:
    if num_bytes_at_once and path.startswith("gs://"):
        # Beam's file system would fetch 16 MB for each read.
        from apache_beam.io.gcp import gcsio

        return gcsio.GcsIO().open(path, "rb", read_buffer_size=num_bytes_at_once)
    return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)


def _is_permanent(error: Exception) -> bool:
    """Whether trying again is of no use. Libraries of stores have errors of their own, with codes of HTTP."""
    code = getattr(error, "code", None) or getattr(error, "status_code", None)
    if isinstance(code, int) and 400 <= code < 500:
        return code not in _TRANSIENT_CODES
    # ValueError: no such file system.
    return isinstance(error, (*_PERMANENT, ValueError, MemoryError))


class _StoreFile(io.RawIOBase):
    """A file of a store; opened again where a read failed."""

    def __init__(self, path: str, num_bytes_at_once: int):
        super().__init__()
        self._path, self._num_bytes_at_once = path, num_bytes_at_once
        self._file, self._position = None, 0
        self._told(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence not in (io.SEEK_SET, io.SEEK_CUR):
            raise io.UnsupportedOperation("seek from the end of a file of a store")
        self._position = offset + (self._position if whence == io.SEEK_CUR else 0)
        return self._position

    def readinto(self, buffer) -> int:
        data = self._told(len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        self._drop()
        super().close()

    def _drop(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _told(self, size: int) -> bytes:
        """`_read`, its errors in our words."""
        try:
            return self._read(size)
        except Exception as error:
            if isinstance(error, (ValueError, MemoryError, *_PERMANENT)):
                raise
            if _is_permanent(error):
                raise OSError(f"{type(error).__name__}: {error}") from error
            raise JobError(
                f"{self._path} cannot be read: {_NUM_RETRIES + 1} tries in a row failed, the last with "
                f"{type(error).__name__}: {error}. Run the job again when the store answers."
            ) from error

    @retry.with_exponential_backoff(
        num_retries=_NUM_RETRIES,
        initial_delay_secs=_FIRST_DELAY_SECONDS,
        retry_filter=lambda error: not _is_permanent(error),
        logger=logging.getLogger(__name__).info,
    )
    def _read(self, size: int) -> bytes:
        try:
            if self._file is None:
                self._file = _opened(self._path, self._num_bytes_at_once)
            if self._file.tell() != self._position:
                self._file.seek(self._position)
            return self._file.read(size)
        except Exception:
            self._drop()
            raise
