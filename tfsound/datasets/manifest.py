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
import json
import os
from collections.abc import Iterable, Iterator, Mapping

from tfsound.datasets.manifest_rows import (
    COLUMNS,
    BadRow,
    ManifestError,
    ManifestRow,
    bad_field,
    check_row,
    parse_row,
    shown,
    to_record,
)

_FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".jsonlines": "jsonl"}
_NUM_PROBLEMS_SHOWN = 5


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
            yield row_number, parse_row(record, name, row_number, base_uri)
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
                twice = bad_field("clip_id", row.clip_id, expected, "make it unique")
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
            check_row(row)
            if row.clip_id in clip_ids:
                raise bad_field("clip_id", row.clip_id, "no id twice", "make it unique")
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
        writer.writerow(to_record(row) | {"labels": ";".join(row.labels)})


def _write_jsonl(file, rows: Iterable[ManifestRow]) -> None:
    for row in rows:
        file.write(json.dumps(to_record(row), ensure_ascii=False) + "\n")


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
            reason = f"found {shown(line)}, expected a JSON object; write one object a line."
            if first:
                raise ManifestError(f"{name}, row {row_number}: not JSON Lines: {reason}")
            record = reason
        elif columns is None and not record.keys() <= set(COLUMNS):
            unknown = next(key for key in record if key not in COLUMNS)
            record = f"unknown key {shown(unknown)}{_closest(unknown, COLUMNS)}"
        first = False
        yield row_number, record
