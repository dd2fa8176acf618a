"""The semantic constraints: which windows and frames go together, and what is done to energies.

Source: Jansen et al. 2018, section 3.2; Jansen et al. 2020, section 3.1.
"""

import dataclasses
import math
import numbers
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from tfsound.sampling.draws import outside, random_generator

# Below, the positive would all but equal its anchor: energies are stored as float16, which keeps 11 bits.
_MIN_PARAMETER = 1e-3
# Noise or mixtures beyond it would leave float32, and nothing of the sound is left long before.
_MAX_PARAMETER = 1e6


def _require_number(name: str, value: float, *, least: float) -> None:
    is_number = isinstance(value, numbers.Real)
    if not (is_number and least <= value <= _MAX_PARAMETER):
        is_lost = is_number and 0 < value < least
        reason = " (less is lost in the float16 of stored energies)" if is_lost else ""
        raise ValueError(
            f"{name} must be a number from {least:g} to {_MAX_PARAMETER:g}{reason}, got {value!r}."
        )


def _require_gap(max_time_gap_seconds: float) -> None:
    if not (isinstance(max_time_gap_seconds, numbers.Real) and max_time_gap_seconds > 0):
        raise ValueError(f"max_time_gap_seconds must be positive, got {max_time_gap_seconds!r}.")


# What the constraints do to energies, an equation each.


def noisy(energies: np.ndarray, noise_stddev: float, rng: np.random.Generator) -> np.ndarray:
    """Scales every cell up at random: `x_tf (1 + |eps_tf|)`, `eps_tf ~ N(0, noise_stddev^2)`.

    Cells without energy, and so silent windows, stay as they are.

    Args:
      energies: (frames, mel_bins).
      noise_stddev: sigma, at least 0.

    Returns:
      float32, (frames, mel_bins).

    Raises:
      ValueError: a sigma that is no number, or out of range.

    Source: Jansen et al. 2018, section 3.2.2.
    """
    _require_number("noise_stddev", noise_stddev, least=0)
    noise = rng.standard_normal(energies.shape, np.float32)
    return energies * (1 + np.abs(np.float32(noise_stddev) * noise))


def translated(energies: np.ndarray, time_shift: int, frequency_shift: int) -> np.ndarray:
    """Shifts in a circle through time, and up (or, if negative, down) in frequency: `Trunc_S(Circ_T(x))`.

    Bins that nothing is shifted into have zero energy; what is shifted out is lost.

    Args:
      energies: (frames, mel_bins).
      time_shift: frames; what leaves at the end comes in at the start.
      frequency_shift: mel bins, less than there are.

    Raises:
      ValueError: a frequency shift that leaves nothing of a window.

    Source: Jansen et al. 2018, section 3.2.3.
    """
    mel_bins = energies.shape[1]
    if abs(frequency_shift) >= mel_bins:
        raise ValueError(
            f"frequency_shift must be less than the {mel_bins} mel bins, up or down, got {frequency_shift}: "
            "nothing of a window would be left."
        )
    rolled = np.roll(energies, time_shift, axis=0)
    shifted = np.zeros_like(rolled)
    if frequency_shift >= 0:
        shifted[:, frequency_shift:] = rolled[:, : mel_bins - frequency_shift]
    else:
        shifted[:, :frequency_shift] = rolled[:, -frequency_shift:]
    return shifted


def mixed(anchor: np.ndarray, negative: np.ndarray, mixing_weight: float) -> np.ndarray:
    """Adds the negative to the anchor at a share of its energy: `x_a + alpha [E(x_a) / E(x_n)] x_n`.

    `E` is the total energy of a window. A silent anchor stays silent, and a silent negative adds nothing.

    Args:
      anchor, negative: (frames, mel_bins).
      mixing_weight: alpha, at least 0.

    Returns:
      float32, (frames, mel_bins).

    Raises:
      ValueError: an alpha that is no number, or out of range.

    Source: Jansen et al. 2018, section 3.2.4.
    """
    _require_number("mixing_weight", mixing_weight, least=0)
    anchor_energy, negative_energy = anchor.sum(dtype=np.float64), negative.sum(dtype=np.float64)
    if negative_energy == 0:
        return anchor.astype(np.float32)
    gain = mixing_weight * anchor_energy / negative_energy
    return (anchor + gain * negative.astype(np.float64)).astype(np.float32)


class Constraint(Protocol):
    """A constraint within a recording; the negative is always of another recording.

    `name` is what examples are marked with; `is_minable` says whether another negative may take the place
    of a triplet's own (section 3.1).
    """

    name: str
    is_minable: bool

    def num_positives(self, start_seconds: np.ndarray, anchor: int | np.ndarray) -> int | np.ndarray:
        """How many windows may be the positive of a window, or of each of several; 0: it is no anchor."""

    def positive_window(self, start_seconds: np.ndarray, anchor: int, choice: int) -> int:
        """The window that choice number `choice` of an anchor's positives is, or is made of."""

    def num_alterations(self, num_frames: int) -> int | None:
        """In how many ways a positive can be altered; None for any number of ways, never twice the same."""

    def alter_positive(self, positive: np.ndarray, negative: np.ndarray, alteration: int) -> np.ndarray:
        """The positive's energies, (frames, mel_bins), by the number of an alteration."""


class _OfAnchor:
    """A constraint whose positive is made of the anchor itself."""

    is_minable = True

    def num_positives(self, start_seconds: np.ndarray, anchor: int | np.ndarray) -> int | np.ndarray:
        return np.ones_like(anchor)

    def positive_window(self, start_seconds: np.ndarray, anchor: int, choice: int) -> int:
        return anchor

    def num_alterations(self, num_frames: int) -> int | None:
        return 1


@dataclasses.dataclass(frozen=True)
class Noise(_OfAnchor):
    """The positive is the anchor with noise on every cell: `noisy`.

    Source: Jansen et al. 2018, section 3.2.2.
    """

    noise_stddev: float = 0.5
    name = "noise"

    def __post_init__(self):
        _require_number("noise_stddev", self.noise_stddev, least=_MIN_PARAMETER)

    def num_alterations(self, num_frames: int) -> int | None:
        return None

    def alter_positive(self, positive, negative, alteration) -> np.ndarray:
        return noisy(positive, self.noise_stddev, random_generator(alteration))


@dataclasses.dataclass(frozen=True)
class Translation(_OfAnchor):
    """The positive is the anchor shifted in time and frequency: `translated`.

    Time shifts are uniform on [0, T - 1] frames, T those of the window; frequency shifts are uniform on
    [-S, S] mel bins, S = `max_frequency_shift_bins`.

    Source: Jansen et al. 2018, section 3.2.3.
    """

    max_frequency_shift_bins: int = 10
    name = "translation"

    def __post_init__(self):
        _require_number("max_frequency_shift_bins", self.max_frequency_shift_bins, least=0)
        if self.max_frequency_shift_bins != int(self.max_frequency_shift_bins):
            raise ValueError(
                f"max_frequency_shift_bins must be a whole number, got {self.max_frequency_shift_bins}."
            )
        object.__setattr__(self, "max_frequency_shift_bins", int(self.max_frequency_shift_bins))

    def num_alterations(self, num_frames: int) -> int | None:
        return num_frames * (2 * self.max_frequency_shift_bins + 1)

    def alter_positive(self, positive, negative, alteration) -> np.ndarray:
        frequency_shift, time_shift = divmod(alteration, len(positive))
        return translated(positive, time_shift, frequency_shift - self.max_frequency_shift_bins)


@dataclasses.dataclass(frozen=True)
class Mixing(_OfAnchor):
    """The positive is the anchor with the negative mixed in: `mixed`.

    Its negative is part of the positive, so no other may take its place.

    Source: Jansen et al. 2018, section 3.2.4.
    """

    mixing_weight: float = 0.25
    name = "mixing"
    is_minable = False

    def __post_init__(self):
        _require_number("mixing_weight", self.mixing_weight, least=_MIN_PARAMETER)

    def alter_positive(self, positive, negative, alteration) -> np.ndarray:
        return mixed(positive, negative, self.mixing_weight)


@dataclasses.dataclass(frozen=True)
class Proximity:
    """Anchor and positive are of one recording and start less than a gap apart.

    `0 < |time(x_a) - time(x_p)| < max_time_gap_seconds`, x_p another window than x_a. (Windows of clips
    that were cut from one recording and carry no time of their own all start at 0; they count as near.)

    Source: Jansen et al. 2018, section 3.2.5.
    """

    max_time_gap_seconds: float = 10.0
    name = "proximity"
    is_minable = True

    def __post_init__(self):
        _require_gap(self.max_time_gap_seconds)

    def _near(self, start_seconds: np.ndarray, anchor: int | np.ndarray) -> tuple:
        time = start_seconds[anchor]
        first = start_seconds.searchsorted(time - self.max_time_gap_seconds, side="right")
        last = start_seconds.searchsorted(time + self.max_time_gap_seconds, side="left")
        return first, last  # the windows in [first, last) are near, the anchor among them

    def num_positives(self, start_seconds: np.ndarray, anchor: int | np.ndarray) -> int | np.ndarray:
        first, last = self._near(start_seconds, anchor)
        return np.maximum(last - first - 1, 0)  # 0 where the gap is lost in rounding

    def positive_window(self, start_seconds: np.ndarray, anchor: int, choice: int) -> int:
        first, _ = self._near(start_seconds, anchor)
        return outside(int(first) + choice, own_start=anchor, own_count=1)

    def num_alterations(self, num_frames: int) -> int | None:
        return 1

    def alter_positive(self, positive, negative, alteration) -> np.ndarray:
        return positive


@dataclasses.dataclass(frozen=True)
class Coincidence:
    """A window goes with the frames of its recording that are shown at most a gap away from it.

    `|centre(window) - time(frame)| <= max_time_gap_seconds`: the centre of a window is half of
    `window_seconds` after its start, the time of a frame is when it is shown. Frames are ordered by time;
    `frame_seconds` is float64, (num_frames,).

    Source: Jansen et al. 2020, section 3.1 (AV coincidence; its time scale is the gap).
    """

    max_time_gap_seconds: float = 10.0
    window_seconds: float = 0.96
    name = "coincidence"

    def __post_init__(self):
        _require_gap(self.max_time_gap_seconds)

    def _near(self, start_seconds: float | np.ndarray, frame_seconds: np.ndarray) -> tuple:
        centre = start_seconds + self.window_seconds / 2
        first = frame_seconds.searchsorted(centre - self.max_time_gap_seconds, side="left")
        last = frame_seconds.searchsorted(centre + self.max_time_gap_seconds, side="right")
        return first, last  # the frames in [first, last) are near

    def num_frames(self, start_seconds: np.ndarray, frame_seconds: np.ndarray) -> np.ndarray:
        """How many frames each window may go with; 0: it is no anchor."""
        first, last = self._near(start_seconds, frame_seconds)
        return last - first

    def frame(self, start_seconds: float, frame_seconds: np.ndarray, choice: int) -> int:
        """The frame that choice number `choice` of a window's frames is."""
        first, _ = self._near(start_seconds, frame_seconds)
        return int(first) + choice

    def smallest_gap(self, start_seconds: np.ndarray, frame_seconds: np.ndarray) -> float:
        """Seconds between the window and the frame that are nearest; infinite where there is none."""
        if not len(start_seconds) or not len(frame_seconds):
            return math.inf
        centres = start_seconds + self.window_seconds / 2
        places = frame_seconds.searchsorted(centres)
        before = np.abs(centres - frame_seconds[np.maximum(places - 1, 0)])
        after = np.abs(frame_seconds[np.minimum(places, len(frame_seconds) - 1)] - centres)
        return float(np.minimum(before, after).min())


@dataclasses.dataclass(frozen=True)
class Labels:
    """Anchor and positive have a label in common; the negative has labels, and not that one.

    Every class gets an equal number of triplets, however many windows it has. The negative is of another
    recording, too. A window that nobody labelled is neither: it may well be of the class.

    Source: Jansen et al. 2018, section 3.2.1.
    """

    name = "labels"
    is_minable = True


_CONSTRAINTS = {kind.name: kind for kind in (Labels, Noise, Translation, Mixing, Proximity)}


def parse_constraint(text: str) -> Constraint | Labels:
    """A constraint from `name:parameter`, such as `proximity:10`; without `:parameter` the paper's default.

    Raises:
      ValueError: an unknown name, or a parameter that is no number or out of range.
    """
    name, colon, parameter = (part.strip() for part in text.partition(":"))
    if name not in _CONSTRAINTS:
        raise ValueError(f"constraint must be one of {sorted(_CONSTRAINTS)}, got {name!r}.")
    if not colon:
        return _CONSTRAINTS[name]()
    if name == Labels.name:
        raise ValueError(f"constraint {text!r}: labels takes no parameter.")
    try:
        value = float(parameter)
    except ValueError:
        default = constraint_text(_CONSTRAINTS[name]())
        raise ValueError(
            f"constraint {text!r}: expected a number after the colon, as in {default}, got {parameter!r}."
        ) from None
    try:
        return _CONSTRAINTS[name](value)
    except ValueError as error:
        raise ValueError(f"constraint {text!r}: {error}") from error


def constraint_text(constraint: Constraint | Labels) -> str:
    """The inverse of `parse_constraint`."""
    values = (str(value).removesuffix(".0") for value in dataclasses.astuple(constraint))
    return ":".join([constraint.name, *values])


def parse_constraints(texts: str | Sequence[str]) -> tuple[Constraint | Labels, ...]:
    """Constraints from one text or several, each of which holds one, or some joined by commas.

    Raises:
      ValueError: see `parse_constraint`; also none at all, or one twice.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    parsed = tuple(parse_constraint(text) for joined in texts for text in joined.split(","))
    if not parsed or len(set(parsed)) < len(parsed):
        raise ValueError(
            f"constraints must be at least one, each another, got {texts}; "
            "name each once, such as proximity:10."
        )
    return parsed


def require_fits(constraints: Sequence[Constraint | Labels], mel_bins: int, num_channels: int = 1) -> None:
    """Raises: ValueError for a frequency shift that leaves nothing of a window, or that of stereo."""
    for constraint in constraints:
        shift = getattr(constraint, "max_frequency_shift_bins", 0)
        if shift and num_channels > 1:
            raise ValueError(
                f"max_frequency_shift_bins {shift} would shift one channel of stereo clips into the other; "
                "make the clips mono, or shift by 0."
            )
        if shift >= mel_bins:
            raise ValueError(
                f"max_frequency_shift_bins must be less than the {mel_bins} mel bins, got {shift}: "
                "nothing of a window would be left."
            )
