"""The times of a segment as callers give them, checked."""

import math

import numpy as np


def is_number(value: float) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, (int, float, np.number)) and math.isfinite(value)


def check_segment(start_seconds: float, end_seconds: float | None) -> None:
    """Raises: ValueError where [start, end) is no segment."""
    if not (is_number(start_seconds) and start_seconds >= 0):
        raise ValueError(f"start_seconds must be finite and at least 0, got {start_seconds}.")
    if end_seconds is not None and not (is_number(end_seconds) and end_seconds > start_seconds):
        raise ValueError(
            f"end_seconds must be finite and greater than start_seconds {start_seconds}, got {end_seconds}; "
            "pass None for the end of the file."
        )
