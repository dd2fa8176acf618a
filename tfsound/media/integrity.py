"""Whether a file is there, can be opened, and ends where its own headers say."""

import os
import stat
import struct
from collections.abc import Iterator
from typing import BinaryIO

Path = str | os.PathLike

# Besides 0, what FFmpeg, SoX and arecord write for a size that they cannot go back to fill in.
STREAMED_SIZES = (0x7FFFF000, 0x80000000, 0xFFFFFFFF)
_MAX_OGG_PAGE_BYTES = 65_307


class MediaError(ValueError):
    """Media that cannot be used: which file, what was found, what was expected and what to do."""


class NoVideoError(MediaError):
    """A file that may well hold sound, but no moving pictures."""


def bad(path: Path, text: str, kind: type[MediaError] = MediaError) -> MediaError:
    """A `MediaError`, of the class `kind`, that begins with the file's name."""
    # The name's repr, because it may hold newlines or bytes that cannot be printed.
    return kind(f"{os.fspath(path)!r}: {text}")


def open_file(path: Path) -> BinaryIO:
    """Opens a regular file, unbuffered. Raises: MediaError where that cannot be done."""
    try:
        # Opening a pipe would block for ever; and unbuffered, because libsndfile shares the offset.
        is_regular = stat.S_ISREG(os.stat(path).st_mode)
        file = open(path, "rb", buffering=0) if is_regular else None  # noqa: SIM115 (the caller closes it)
    except FileNotFoundError as error:
        raise bad(path, "no such file; correct the path, or copy a remote file here first.") from error
    except PermissionError as error:
        raise bad(path, "permission denied; expected a readable file, so change its permissions.") from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise bad(
            path, f"cannot be opened ({error}); expected a readable file, so correct the path."
        ) from error
    if file is None:
        raise bad(path, "is a directory or device; expected the path of one audio or video file.")
    return file


def read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    """Reads bytes at an offset and leaves the file where it was."""
    before = file.tell()
    file.seek(offset)
    data = file.read(size)
    file.seek(before)  # libsndfile reads on from here
    return data


def check_is_whole(path: Path, file: BinaryIO) -> None:
    """Compares the sizes that a RIFF, AIFF, Ogg, MP4, Matroska or GIF file declares with the file's own.

    Raises: MediaError where it is empty or ends too early. Decoders would play what there is and say nothing.
    """
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise bad(
            path, "is an empty file (0 bytes); expected sound or pictures, so fetch or encode it again."
        )
    for part, end in _declared_parts(file, size):
        if end > size:
            raise bad(
                path,
                f"truncated: its {part} should reach byte {end}, but the file ends at byte {size}; "
                "fetch or encode it again.",
            )


def _declared_parts(file: BinaryIO, size: int) -> Iterator[tuple[str, int]]:
    """Yields each outermost part's name and declared end, read only once the end before is in the file."""
    magic = read_at(file, 0, 8)
    if magic[:4] in (b"RIFF", b"RIFX", b"RF64", b"FORM"):
        yield from _riff_chunks(file, "<" if magic[:4] in (b"RIFF", b"RF64") else ">")
    elif magic[4:] in (b"ftyp", b"styp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        yield from _mp4_boxes(file)
    elif magic[:4] == b"OggS":
        yield from _last_ogg_page(file, size)
    elif magic[:4] == b"\x1a\x45\xdf\xa3":
        yield from _matroska_segment(file)
    elif magic[:4] == b"GIF8" and not read_at(file, max(0, size - 64), 64).rstrip(b"\0").endswith(b";"):
        yield "GIF (no trailer marks its end)", size + 1


def _riff_chunks(file: BinaryIO, byte_order: str) -> Iterator[tuple[str, int]]:
    """Source: Multimedia Programming Interface 1.0 (RIFF), EBU Tech 3306 (RF64), AIFF 1.3."""
    offset, size_of_rf64_data = 12, 0
    while len(header := read_at(file, offset, 8)) == 8:
        name, size = struct.unpack(byte_order + "4sI", header)
        if name == b"ds64":
            size_of_rf64_data = int.from_bytes(read_at(file, offset + 16, 8), "little")
        if name == b"data" and size == 0xFFFFFFFF:
            size = size_of_rf64_data
        if size in STREAMED_SIZES or not name.strip().isalnum():
            return
        yield f"{name.decode('latin-1').strip()} chunk", offset + 8 + size
        if name in (b"data", b"SSND"):
            return  # what follows is not sound
        offset += 8 + size + size % 2


def _mp4_boxes(file: BinaryIO) -> Iterator[tuple[str, int]]:
    """Source: ISO/IEC 14496-12, section 4.2."""
    offset = 0
    while len(header := read_at(file, offset, 16)) >= 8:
        size, name = struct.unpack(">I4s", header[:8])
        if size == 1:
            size = int.from_bytes(header[8:], "big")
        if size < 8 or not name.isalnum():
            return  # 0 says "to the end of the file"
        yield f"{name.decode('latin-1')} box", offset + size
        offset += size


def _last_ogg_page(file: BinaryIO, size: int) -> Iterator[tuple[str, int]]:
    """Source: RFC 3533, section 6."""
    start = max(0, size - 2 * _MAX_OGG_PAGE_BYTES)
    tail = read_at(file, start, size - start)
    page = tail[tail.rfind(b"OggS") :]
    end = size - len(page) + 27
    if len(page) >= 27:
        end += page[26] + sum(page[27 : 27 + page[26]])
    yield "last Ogg page", end
    if not page[5] & 4:
        yield "Ogg stream (no page is marked as its end)", size + 1


def _matroska_segment(file: BinaryIO) -> Iterator[tuple[str, int]]:
    """Source: RFC 8794, sections 4 (variable-size integers) and 5 (elements)."""
    header_size, offset = _ebml_size(file, 4)
    segment = offset + header_size
    yield "Matroska header", segment
    if read_at(file, segment, 4) == b"\x18\x53\x80\x67":
        segment_size, offset = _ebml_size(file, segment + 4)
        yield "Matroska segment", offset + segment_size


def _ebml_size(file: BinaryIO, offset: int) -> tuple[int, int]:
    """The size at an offset, 0 where it is unknown, and the offset after it."""
    data = read_at(file, offset, 8)
    length = 9 - data[0].bit_length() if data else 9
    if length > len(data):
        return 0, offset
    value_mask = (1 << 7 * length) - 1
    value = int.from_bytes(data[:length], "big") & value_mask
    return (0 if value == value_mask else value), offset + length
