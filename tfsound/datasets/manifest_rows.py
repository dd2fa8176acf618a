"""The rows of a manifest: what each column may hold, and the message for what it may not."""

import hashlib
import math
import posixpath
import re
from dataclasses import asdict, dataclass, fields

_LABEL = re.compile(r"[^;\x00-\x1f\x7f-\x9f]+")


class ManifestError(ValueError):
    """Says what is wrong with a manifest or a data set's layout, where, and what to do."""


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One clip: a file or a stretch of it, its recording, its labels.

    start_seconds None is the beginning of the file, end_seconds None is its end. `image_uri` is a still
    picture that belongs to it, "" for none.
    """

    clip_id: str
    recording_id: str
    uri: str
    start_seconds: float | None = None
    end_seconds: float | None = None
    labels: tuple[str, ...] = ()
    fold: str = ""
    split: str = ""
    image_uri: str = ""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is no clip: its ids as far as known (else empty); the reason names file, row and field."""

    row_number: int
    clip_id: str
    uri: str
    reason: str


@dataclass(frozen=True, slots=True)
class AdapterResult:
    """What an adapter found: the rows of the clips present, and how many of those listed are absent."""

    rows: list[ManifestRow]
    num_listed: int
    num_absent: int = 0
    absent_examples: tuple[str, ...] = ()
    note: str = ""


COLUMNS = tuple(field.name for field in fields(ManifestRow))


def parse_row(record: dict, name: str, row_number: int, base_uri: str) -> ManifestRow | BadRow:
    """A row of the fields by column; relative uris count from `base_uri`, "" to leave them as they are."""
    try:
        uri = _text(record, "uri")
        start_seconds, end_seconds = _seconds(record, "start_seconds"), _seconds(record, "end_seconds")
        row = ManifestRow(
            clip_id=_text(record, "clip_id") or _default_clip_id(uri, start_seconds, end_seconds),
            recording_id=_text(record, "recording_id") or uri,
            uri=_resolve(uri, base_uri),
            start_seconds=start_seconds,
            end_seconds=end_seconds,
            labels=_labels(record),
            fold=_text(record, "fold"),
            split=_text(record, "split"),
            image_uri=_resolve(_text(record, "image_uri"), base_uri),
        )
        check_row(row)
    except ManifestError as error:
        # A lone surrogate, which no file takes, is spelled out.
        clip_id, uri = (
            value.encode(errors="backslashreplace").decode() if isinstance(value, str) else ""
            for value in (record.get("clip_id"), record.get("uri"))
        )
        return BadRow(row_number, clip_id, uri, f"{name}, row {row_number}, {error}")
    return row


def _default_clip_id(uri: str, start_seconds: float | None, end_seconds: float | None) -> str:
    """The file's stem and 64 bits of a hash of uri and times: the same on every machine."""
    # surrogatepass, because such a uri is refused later, with its own message.
    key = f"{uri}\n{start_seconds or 0.0!r}\n{end_seconds!r}".encode(errors="surrogatepass")
    stem = posixpath.splitext(posixpath.basename(uri))[0]
    return f"{stem}-{hashlib.sha256(key).hexdigest()[:16]}"


def _resolve(uri: str, base_uri: str) -> str:
    if not uri or not base_uri or "://" in uri:
        return uri
    return posixpath.join(base_uri, uri)


def _text(record: dict, field: str) -> str:
    value = record.get(field)
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise bad_field(field, value, "text", "quote it")
    return value


def _seconds(record: dict, field: str) -> float | None:
    value = record.get(field)
    if value is None or value == "":
        return None
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float) or "_" in str(value):
            raise ValueError
        seconds = float(value)
    except (ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise bad_field(field, value, "a finite number of seconds, 0 or more", "correct it or leave it empty")
    return seconds


def _labels(record: dict) -> tuple[str, ...]:
    value = record.get("labels")
    if value is None:
        return ()
    if isinstance(value, str):
        return tuple(label.strip() for label in value.split(";") if label.strip())
    if not isinstance(value, list) or not all(isinstance(label, str) for label in value):
        raise bad_field("labels", value, "a list of strings or one `;`-separated string", "rewrite it")
    return tuple(value)


def check_row(row: ManifestRow) -> None:
    """Raises ManifestError with the reason why this row cannot be a row of a manifest."""
    # The uri comes first, because the defaults of the ids are made of it.
    for field in ("uri", "clip_id", "recording_id", "fold", "split", "image_uri"):
        value = getattr(row, field)
        if not isinstance(value, str) or not _is_storable(value):
            raise bad_field(field, value, "Unicode text without NUL", "rename it")
        if field in ("uri", "clip_id", "recording_id") and not value.strip():
            raise bad_field(field, value, "a name that is not blank", "fill it in or drop the row")
    for field in ("start_seconds", "end_seconds"):
        _seconds({field: getattr(row, field)}, field)
    start_seconds = row.start_seconds or 0.0
    if row.end_seconds is not None and row.end_seconds <= start_seconds:
        raise bad_field("end_seconds", row.end_seconds, f"more than the start, {start_seconds}", "correct it")
    for label in row.labels:
        if not _LABEL.fullmatch(label) or label != label.strip() or not _is_storable(label):
            expected = "a name without `;`, control characters and white space at its ends"
            raise bad_field("labels", label, expected, "rename the label")


def _is_storable(text: str) -> bool:
    """False for NUL, and for the lone surrogates that stand for bytes which are not UTF-8."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def bad_field(field: str, found: object, expected: str, remedy: str) -> ManifestError:
    """What is wrong with a row; who reads a manifest says where."""
    return ManifestError(f"{field}: found {shown(found)}, expected {expected}; {remedy}.")


def shown(value: object) -> str:
    """Its repr, cut short."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def to_record(row: ManifestRow) -> dict:
    """Plain floats, because the text of a NumPy float is not a number."""
    record = asdict(row)
    for column in ("start_seconds", "end_seconds"):
        record[column] = None if record[column] is None else float(record[column])
    return record
