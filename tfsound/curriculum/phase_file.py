"""Phases as a JSON file: a list of objects, one a phase, whose fields are those of `Phase`.

  [{"name": "av", "kind": "coincidence", "modalities": ["audio_image"], "num_steps": 5000, ...}, ...]

Fields that are left out have the values of `Phase`; `name` and `kind` must be there.
"""

import dataclasses
import json
from collections.abc import Sequence

from tfsound.curriculum.phases import FIELDS, CurriculumError, Phase, require_order

_REQUIRED = ("name", "kind")


def format_phases(phases: Sequence[Phase]) -> str:
    """The JSON text of phases, every field of each."""
    return json.dumps([to_record(phase) for phase in phases], indent=1) + "\n"


def to_record(phase: Phase) -> dict:
    """The fields of a phase that are of its kind, in types that JSON has."""
    fields = dataclasses.asdict(phase)
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in fields.items()
        if name in FIELDS[phase.kind]
    }


def read_phases(path: str) -> tuple[Phase, ...]:
    """Reads a file of phases. Raises: CurriculumError as `parse_phases`; OSError where there is none."""
    with open(path, "rb") as file:
        return parse_phases(file.read(), path)


def parse_phases(text: str | bytes, where: str) -> tuple[Phase, ...]:
    """The inverse of `format_phases`.

    Args:
      text: JSON, in UTF-8 where it is bytes.
      where: what messages call the file.

    Returns:
      The phases in their order.

    Raises:
      CurriculumError: no JSON, no list of phases, or phases that cannot follow each other.
    """
    try:
        records = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CurriculumError(
            f"{where} is not JSON ({error}); `tfsound learn --write-phases` writes a file."
        ) from error
    if not isinstance(records, list):
        raise CurriculumError(f"{where} holds {type(records).__name__}, expected a list of phases.")
    phases = [_parse_phase(record, f"{where}, phase {number}") for number, record in enumerate(records, 1)]
    try:
        require_order(phases)
    except CurriculumError as error:
        raise CurriculumError(f"{where}: {error}") from None
    return tuple(phases)


def _parse_phase(record: object, where: str) -> Phase:
    if not isinstance(record, dict):
        raise CurriculumError(f"{where} is {type(record).__name__}, expected an object of fields.")
    if isinstance(record.get("name"), str):
        where += f" ({record['name'][:40]})"
    known = [field.name for field in dataclasses.fields(Phase)]
    unknown = [name for name in record if name not in known]
    if unknown:
        raise CurriculumError(f"{where}: unknown field {unknown[0][:40]!r}; fields are {', '.join(known)}.")
    missing = [name for name in _REQUIRED if name not in record]
    if missing:
        raise CurriculumError(f"{where}: {missing[0]} is missing; add it.")
    try:
        return Phase(
            **{name: tuple(value) if isinstance(value, list) else value for name, value in record.items()}
        )
    except CurriculumError as error:
        raise CurriculumError(f"{where}: {error}") from None
