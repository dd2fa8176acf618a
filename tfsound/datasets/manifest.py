"""Manifests: the list of clips that every data set adapter returns and every job reads.

A manifest is CSV (a header, RFC 4180 quoting) or JSON Lines (an object a line), in UTF-8. Columns, any order:

  clip_id        unique and stable; by default the file's stem and a hash of uri, start and end.
  recording_id   clips cut from one recording share it; by default the uri.
  uri            required: a file on any Beam file system; a relative path counts from the manifest's folder.
  start_seconds  default: the beginning of the file.
  end_seconds    default: the end of the file.
  labels         `;`-separated (in JSON Lines also a list of strings); default: none.
  fold, split    text; default: empty.
  image_uri      a still picture that belongs to the sound, in place of a video's frames; default: none.

The defaults of clip_id and recording_id come from the uri as it is written: they stay when a manifest moves
with its files. A label holds no `;`, no control character and no white space at its ends.
Rows are numbered as a spreadsheet shows them: the header of a CSV is row 1; a row of JSON Lines is its line.
"""

import csv
import difflib
import hashlib
import json
import math
import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields

_FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".jsonlines": "jsonl"}
_LABEL = re.compile(r"[^;\x00-\x1f\x7f-\x9f]+")
_NUM_PROBLEMS_SHOWN = 5


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


def manifest_format(path: str) -> str:
    """Returns "csv" or "jsonl", by the extension of `path`.

    Raises:
      ManifestError: any other extension.
    """
    extension = os.path.splitext(path)[1].lower()
    if extension not in _FORMATS:
        expected = f"one of {', '.join(_FORMATS)}"
        raise ManifestError(f"{path!r}: found extension {extension!r}, expected {expected}; rename it.")
    return _FORMATS[extension]


def iter_manifest(
    lines: Iterable[str],
    *,
    name: str,
    format: str,
    base_uri: str = "",
    columns: Mapping[str, str] | None = None,
) -> Iterator[tuple[int, ManifestRow | BadRow]]:
    """Yields (row number, row) for every row, good or bad, holding one row at a time.

    Duplicate clip_ids go unseen here: that needs all rows (`read_manifest`, or a job that groups by clip_id).

    Args:
      lines: an open text file (`encoding="utf-8", newline=""`) or any lines of text.
      name: what messages call the file.
      format: "csv" or "jsonl".
      base_uri: the folder, local or remote, from which relative uris count; empty leaves them as they are.
      columns: our column names to those of the file; when given, columns of other names are ignored.

    Raises:
      ManifestError: at the first step: an unknown, missing or duplicate column, or a file not of this format;
        later: no rows at all, text that is not UTF-8, or CSV quotes that leave the end of a row uncertain.
    """
    if format not in ("csv", "jsonl"):
        raise ManifestError(f"{name}: format must be 'csv' or 'jsonl', got {format!r}; see manifest_format.")
    read_records = _csv_records if format == "csv" else _jsonl_records
    names_in_file = {column: (columns or {}).get(column, column) for column in COLUMNS}
    num_rows = 0
    try:
        for row_number, record in read_records(_text_lines(lines, name), name, columns):
            num_rows += 1
            if isinstance(record, str):
                yield row_number, BadRow(row_number, "", "", f"{name}, row {row_number}: {record}")
                continue
            if columns is not None:
                record = {ours: record[theirs] for ours, theirs in names_in_file.items() if theirs in record}
            yield row_number, _parse_row(record, name, row_number, base_uri)
    except UnicodeDecodeError as error:
        raise ManifestError(f"{name}: not UTF-8 text ({error}); save it as UTF-8.") from error
    except csv.Error as error:
        raise ManifestError(f"{name}, after {num_rows} rows: not CSV ({error}); check the quotes.") from error
    if not num_rows:
        raise ManifestError(f"{name}: found no rows, expected at least one clip; nothing to do.")


def read_manifest(path: str, columns: Mapping[str, str] | None = None) -> list[ManifestRow]:
    """Reads a whole local manifest; relative uris count from its folder; `columns` as in `iter_manifest`.

    Raises:
      ManifestError: wrong as a whole, or bad rows or a clip_id twice: how many, and the first few of them.
    """
    rows, problems = [], []
    first_rows: dict[str, int] = {}
    base_uri = os.path.dirname(os.path.abspath(path))
    with open(path, encoding="utf-8", newline="") as lines:
        for row_number, row in iter_manifest(
            lines, name=path, format=manifest_format(path), base_uri=base_uri, columns=columns
        ):
            if isinstance(row, BadRow):
                problems.append(row.reason)
            elif first_rows.setdefault(row.clip_id, row_number) != row_number:
                expected = f"an id other than that of row {first_rows[row.clip_id]}"
                twice = _problem("clip_id", row.clip_id, expected, "make it unique")
                problems.append(f"{path}, row {row_number}, {twice}")
            else:
                rows.append(row)
    if problems:
        head = f"{path}: {len(problems)} bad rows:"
        raise ManifestError("\n  ".join([head, *problems[:_NUM_PROBLEMS_SHOWN]]))
    return rows


def write_manifest(path: str, rows: Iterable[ManifestRow]) -> None:
    """Writes rows as CSV or JSON Lines, by extension; the file appears only when it is complete.

    Uris are written as they are, so a relative one counts from the folder of `path` when it is read.

    Raises:
      ManifestError: no rows, a row that would not be read back as it is, or a clip_id that occurs twice.
    """
    write_rows = _write_csv if manifest_format(path) == "csv" else _write_jsonl
    folder, file_name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{file_name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            write_rows(file, _checked(rows, path))
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def _checked(rows: Iterable[ManifestRow], path: str) -> Iterator[ManifestRow]:
    """Passes on the rows that can be written; raises at the first that cannot."""
    clip_ids = set()
    for row in rows:
        try:
            _check_row(row)
            if row.clip_id in clip_ids:
                raise _problem("clip_id", row.clip_id, "no id twice", "make it unique")
        except ManifestError as error:
            raise ManifestError(f"{path}, clip {row.clip_id!r}, {error}") from None
        clip_ids.add(row.clip_id)
        yield row
    if not clip_ids:
        raise ManifestError(f"{path}: no rows to write, expected at least one clip.")


def _write_csv(file, rows: Iterable[ManifestRow]) -> None:
    writer = csv.DictWriter(file, COLUMNS)
    writer.writeheader()
    for row in rows:
        writer.writerow(_as_record(row) | {"labels": ";".join(row.labels)})


def _write_jsonl(file, rows: Iterable[ManifestRow]) -> None:
    for row in rows:
        file.write(json.dumps(_as_record(row), ensure_ascii=False) + "\n")


def _as_record(row: ManifestRow) -> dict:
    """Plain floats, because the text of a NumPy float is not a number."""
    record = asdict(row)
    for column in ("start_seconds", "end_seconds"):
        record[column] = None if record[column] is None else float(record[column])
    return record


def _text_lines(lines: Iterable[str], name: str) -> Iterator[str]:
    """Drops the byte order mark that spreadsheet programs put first; refuses bytes."""
    for index, line in enumerate(lines):
        if not isinstance(line, str):
            raise ManifestError(f"{name}: found {type(line).__name__}, expected text; open it as UTF-8.")
        yield line.removeprefix("\ufeff") if index == 0 else line


def _csv_records(
    lines: Iterator[str], name: str, columns: Mapping[str, str] | None
) -> Iterator[tuple[int, dict | str]]:
    """Yields (row number, fields by column, or the reason why there are none)."""
    reader = csv.reader(lines, strict=True)
    header = next(reader, None)
    if not header:
        raise ManifestError(f"{name}: found no header, expected columns of {', '.join(COLUMNS)}.")
    _check_header(header, name, columns)
    for row_number, values in enumerate(reader, start=2):
        if len(values) == len(header):
            yield row_number, dict(zip(header, values, strict=True))
        elif values:
            yield row_number, f"found {len(values)} fields, expected {len(header)}; check its quotes."


def _check_header(header: list[str], name: str, columns: Mapping[str, str] | None) -> None:
    twice = [column for index, column in enumerate(header) if column in header[:index]]
    if twice:
        raise ManifestError(f"{name}: found column {twice[0]!r} twice, expected it once; drop or rename one.")
    for column in header:
        if columns is None and column not in COLUMNS:
            raise ManifestError(f"{name}: unknown column {column!r}{_closest(column, COLUMNS)}")
    for ours, theirs in {"uri": "uri", **(columns or {})}.items():
        if theirs not in header:
            raise ManifestError(f"{name}: no column {theirs!r} for {ours}{_closest(theirs, header)}")


def _closest(found: str, known: Iterable[str]) -> str:
    """The end of a message about a name that is not among those known."""
    close = difflib.get_close_matches(found, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"; {hint}The names known are: {', '.join(known)}."


def _jsonl_records(
    lines: Iterator[str], name: str, columns: Mapping[str, str] | None
) -> Iterator[tuple[int, dict | str]]:
    """Yields (line number, object or the reason why there is none); the first line must be an object."""
    first = True
    for row_number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            problem = f"found {_shown(line)}, expected a JSON object; write one object a line."
            if first:
                raise ManifestError(f"{name}, row {row_number}: not JSON Lines: {problem}")
            record = problem
        elif columns is None and not record.keys() <= set(COLUMNS):
            unknown = next(key for key in record if key not in COLUMNS)
            record = f"unknown key {_shown(unknown)}{_closest(unknown, COLUMNS)}"
        first = False
        yield row_number, record


def _parse_row(record: dict, name: str, row_number: int, base_uri: str) -> ManifestRow | BadRow:
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
        _check_row(row)
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
        raise _problem(field, value, "text", "quote it")
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
        raise _problem(field, value, "a finite number of seconds, 0 or more", "correct it or leave it empty")
    return seconds


def _labels(record: dict) -> tuple[str, ...]:
    value = record.get("labels")
    if value is None:
        return ()
    if isinstance(value, str):
        return tuple(label.strip() for label in value.split(";") if label.strip())
    if not isinstance(value, list) or not all(isinstance(label, str) for label in value):
        raise _problem("labels", value, "a list of strings or one `;`-separated string", "rewrite it")
    return tuple(value)


def _check_row(row: ManifestRow) -> None:
    """Raises ManifestError with the reason why this row cannot be a row of a manifest."""
    # The uri comes first, because the defaults of the ids are made of it.
    for field in ("uri", "clip_id", "recording_id", "fold", "split", "image_uri"):
        value = getattr(row, field)
        if not isinstance(value, str) or not _is_storable(value):
            raise _problem(field, value, "Unicode text without NUL", "rename it")
        if field in ("uri", "clip_id", "recording_id") and not value.strip():
            raise _problem(field, value, "a name that is not blank", "fill it in or drop the row")
    for field in ("start_seconds", "end_seconds"):
        _seconds({field: getattr(row, field)}, field)
    start_seconds = row.start_seconds or 0.0
    if row.end_seconds is not None and row.end_seconds <= start_seconds:
        raise _problem("end_seconds", row.end_seconds, f"more than the start, {start_seconds}", "correct it")
    for label in row.labels:
        if not _LABEL.fullmatch(label) or label != label.strip() or not _is_storable(label):
            expected = "a name without `;`, control characters and white space at its ends"
            raise _problem("labels", label, expected, "rename the label")


def _is_storable(text: str) -> bool:
    """False for NUL, and for the lone surrogates that stand for bytes which are not UTF-8."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _problem(field: str, found: object, expected: str, remedy: str) -> ManifestError:
    return ManifestError(f"{field}: found {_shown(found)}, expected {expected}; {remedy}.")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
