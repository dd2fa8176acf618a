"""Which windows make a triplet or a pair: the semantic constraints and the draws behind them.

A constraint says which windows may be anchors, which window the positive is, or is made of, and what is
done to its energies; or which frames a window goes with. All randomness is passed in, as a generator or as
the number of a choice, so that a permutation of those numbers draws without repeats.

Conventions: windows of one recording are ordered by start time; `start_seconds` is float64,
(num_windows,). Energies are mel energies, not logarithms, (frames, mel_bins): time first. All windows of a
data set have a global index, recordings one after another, so a window "of another recording" is an index
outside the anchor recording's own range.

Source: Jansen et al. 2018, section 3.2; Jansen et al. 2020, section 3.1.
"""

from tfsound.sampling.constraints import (
    Coincidence,
    Constraint,
    Labels,
    Mixing,
    Noise,
    Proximity,
    Translation,
    constraint_text,
    mixed,
    noisy,
    parse_constraint,
    parse_constraints,
    require_fits,
    translated,
)
from tfsound.sampling.draws import (
    choose,
    outside,
    permuted_index,
    random_generator,
    slot_anchor,
    slot_source,
    split_count,
    stable_hash,
)

__all__ = [
    "Coincidence",
    "Constraint",
    "Labels",
    "Mixing",
    "Noise",
    "Proximity",
    "Translation",
    "choose",
    "constraint_text",
    "mixed",
    "noisy",
    "outside",
    "parse_constraint",
    "parse_constraints",
    "permuted_index",
    "random_generator",
    "require_fits",
    "slot_anchor",
    "slot_source",
    "split_count",
    "stable_hash",
    "translated",
]
