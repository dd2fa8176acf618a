"""JSON from outside, read with care: what is wrong is said with the file and the line.

Everything that comes from outside this package (folders of questions, logs of answers, annotations of other
tools) may have been edited, cut short or made by something else.
"""

import codecs
import csv
import io
import json
import math
from collections.abc import Iterator, Sequence

_SHOWN_LENGTH = 80


class ActiveLearningError(ValueError):
    """Questions, answers, labels or classes that cannot be used; the message says where and what to do."""


def shown(value: object) -> str:
    """A value from outside as a message shows it: on one line, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN_LENGTH else text[: _SHOWN_LENGTH - 3] + "..."


def parse_json(text: str | bytes, where: str) -> object:
    """Raises: ActiveLearningError naming `where` for what is no JSON, or holds what is no text or number."""
    try:
        if isinstance(text, bytes):
            text = text.decode()
        value = json.loads(text, parse_constant=_refuse_constant)
        if "\\u" in text:
            # Lone surrogates can be written as JSON's escapes, but no file takes them.
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ActiveLearningError(
            f"{where}: found {shown(text)}, expected JSON in UTF-8 ({type(error).__name__}); mend or remove "
            "it."
        ) from error
    return value


def _refuse_constant(name: str):
    raise ValueError(f"{name} is no number of JSON")


def parse_object(text: str | bytes, where: str) -> dict:
    """A JSON object. Raises: ActiveLearningError naming `where` for anything else."""
    value = parse_json(text, where)
    if not isinstance(value, dict):
        raise ActiveLearningError(
            f"{where}: found {shown(value)}, expected a JSON object; mend or remove it."
        )
    return value


def iter_json_lines(path: str) -> Iterator[tuple[str, dict]]:
    """Yields (where, object) of each line that is not blank; raises as `parse_object`."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                where = f"{path}, line {number}"
                yield where, parse_object(line, where)


def field(record: dict, name: str, kind: type, where: str, default: object = None):
    """The field of a record, of the kind `str`, `int`, `float` (finite), `list` (of strings) or `dict`.

    Args:
      default: what stands for an absent field; without one the field must be there.

    Raises:
      ActiveLearningError: absent without a default, or of another kind.
    """
    value = record.get(name, default)
    if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53:
        value = float(value)
    fits = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    if kind is float:
        fits = fits and math.isfinite(value)
    if kind is list:
        fits = fits and all(isinstance(item, str) for item in value)
    if not fits:
        found = shown(value) if name in record else "nothing"
        wanted = {str: "text", int: "a whole number", float: "a number", list: "a list of texts"}
        raise ActiveLearningError(
            f"{where}: {name} must be {wanted.get(kind, 'an object')}, got {found}; mend or remove it."
        )
    return value


def read_text(path: str) -> str:
    """A whole UTF-8 file, without a byte order mark.

    Raises:
      ActiveLearningError: another encoding, or no text at all; the message says which it seems to be.
    """
    with open(path, "rb") as file:
        data = file.read()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ActiveLearningError(
            f"{path}: not UTF-8 text, found {error.object[error.start : error.end]} in line {line}; "
            f"{_what_else(data)}."
        ) from error


def _what_else(data: bytes) -> str:
    """What a file that is not UTF-8 seems to be, and what to do with it."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "it begins as UTF-16 does: save it as UTF-8, with `iconv -f UTF-16 -t UTF-8` for example"
    if b"\0" in data:
        return "it holds zero bytes, as files that are no text do: name a text file, or save it as UTF-8"
    return "it may be Latin-1: save it as UTF-8, with `iconv -f WINDOWS-1252 -t UTF-8` for example"


def csv_rows(
    path: str, required: Sequence[str], allowed: Sequence[str] = ()
) -> list[tuple[str, dict[str, str]]]:
    """The rows of a CSV file with a header, each with where it is; blank rows count for nothing.

    Args:
      required: columns that must be there.
      allowed: all that may be there; by default any.

    Raises:
      ActiveLearningError: not CSV, another header, a row of another length; the line is named.
    """
    rows = []
    reader = csv.reader(io.StringIO(read_text(path)), strict=True)
    try:
        header = next((row for row in reader if row), [])
        if not set(required) <= set(header) <= set(allowed or header) or len(set(header)) < len(header):
            raise ActiveLearningError(
                f"{path}: found the columns {shown(header)}, expected {', '.join(allowed or required)}, each "
                "once; correct the first line."
            )
        for values in reader:
            where = f"{path}, line {reader.line_num}"
            if not any(value.strip() for value in values):
                continue
            if len(values) != len(header):
                raise ActiveLearningError(
                    f"{where}: found {len(values)} fields, expected {len(header)}; put text that holds a "
                    "comma in quotes."
                )
            rows.append((where, dict(zip(header, values, strict=True))))
    except csv.Error as error:
        where = f"{path}, line {reader.line_num}"
        raise ActiveLearningError(f"{where}: not CSV ({error}); check its quotes.") from error
    return rows
