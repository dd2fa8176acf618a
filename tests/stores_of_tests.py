"""Beam file systems for tests: local files behind schemes of their own, with faults that stores have."""

import io
import os
from typing import ClassVar

from apache_beam.io.localfilesystem import LocalFileSystem


class FlakyFile(io.RawIOBase):
    """An opened file whose reads fail when its file system says so."""

    def __init__(self, file, before_read):
        super().__init__()
        self._file, self._before_read = file, before_read

    def read(self, size=-1):
        self._before_read()
        return self._file.read(size)

    def seek(self, offset, whence=0):
        return self._file.seek(offset, whence)

    def tell(self):
        return self._file.tell()

    def close(self):
        self._file.close()
        super().close()


class FlakyFileSystem(LocalFileSystem):
    """`flaky://PATH` is the local file PATH, and every tenth read fails."""

    SCHEME = "flaky"
    num_reads: ClassVar[int] = 0
    num_failures: ClassVar[int] = 0

    @classmethod
    def scheme(cls):
        return cls.SCHEME

    def open(self, path, *arguments, **options):
        local = path.removeprefix(f"{self.SCHEME}://")
        return FlakyFile(super().open(local, *arguments, **options), self.before_read)

    def split(self, path):
        return os.path.split(path)

    def before_read(self):
        FlakyFileSystem.num_reads += 1
        if FlakyFileSystem.num_reads % 10 == 0:
            FlakyFileSystem.num_failures += 1
            raise OSError(5, "the store hung up")


class FlakyFilesOfTensorFlow(FlakyFileSystem):
    """The same as `file://PATH`, which TensorFlow reads, too, and without a fault."""

    SCHEME = "file"


class AbsentError(Exception):
    """As libraries of stores have: no OSError, with a code of HTTP."""

    code = 404


class RefusingFileSystem(LocalFileSystem):
    """`refusing://PATH`: a store that raises `error` at every read."""

    error: ClassVar[Exception] = OSError(5, "the store is away")
    num_reads: ClassVar[int] = 0

    @classmethod
    def scheme(cls):
        return "refusing"

    def open(self, path, *arguments, **options):
        return FlakyFile(io.BytesIO(), self.before_read)

    def before_read(self):
        RefusingFileSystem.num_reads += 1
        raise RefusingFileSystem.error
