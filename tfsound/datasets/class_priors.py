"""Class priors: how often each class occurs, as it is (`natural`) or in a long tail (`longtail`).

In a long tail the classes have ranks, drawn by a seed, and occur as often as Zipf has it: the class of rank
r, from 1, as often as the first times r to the power of minus the exponent. Real collections of sounds are
so; many data sets were balanced by hand. The gain of labelling clusters over labelling at random lies on
such skew (Jansen et al. 2020, section 4.2), and test clips are left as they are, so that both are scored
alike.
"""

import collections
import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tfsound.datasets import generated
from tfsound.datasets.manifest import manifest_format, read_manifest, write_manifest
from tfsound.datasets.manifest_rows import ManifestError, ManifestRow

NATURAL, LONGTAIL = "natural", "longtail"
CLASS_PRIORS = (NATURAL, LONGTAIL)
MAX_EXPONENT = 10.0


def zipf(num_classes: int, exponent: float) -> np.ndarray:
    """What classes occur relative to the first, by rank: float64, (num_classes,), from 1 down.

    Raises:
      ManifestError: an exponent outside [0, 10]; at 0 all classes are alike.
    """
    if not 0 <= exponent <= MAX_EXPONENT:
        raise ManifestError(f"the exponent of Zipf must be from 0 to {MAX_EXPONENT:g}, got {exponent}.")
    return np.arange(1, num_classes + 1, dtype=np.float64) ** -exponent


def draw_ranks(classes: Iterable[str], seed: int) -> list[str]:
    """Classes by rank, the most frequent first: another order for another seed."""
    classes = sorted(classes)
    return [
        classes[index] for index in generated.generator(seed, "ranks of classes").permutation(len(classes))
    ]


@dataclasses.dataclass(frozen=True)
class KeptClass:
    """How many clips of a class there were, were to be kept, and were kept; counted as `longtail` says."""

    label: str
    num_before: int
    num_wanted: int
    num_kept: int


@dataclasses.dataclass(frozen=True)
class Longtail:
    """Rows under a long tail, in their order, and what became of each class, the most frequent first.

    `num_unlabelled` of them are to learn from and of no class; `num_test` are of the test folds.
    """

    rows: tuple[ManifestRow, ...]
    classes: tuple[KeptClass, ...]
    num_unlabelled: int
    num_test: int

    def __str__(self) -> str:
        first, last = self.classes[0], self.classes[-1]
        num_kept = len(self.rows) - self.num_unlabelled - self.num_test
        return (
            f"kept {num_kept:,} of {sum(kept.num_before for kept in self.classes):,} labelled clips to learn "
            f"from: {len(self.classes)} classes from {first.label} ({first.num_kept:,}) to {last.label} "
            f"({last.num_kept:,}); beside them all {self.num_unlabelled:,} without a label and all "
            f"{self.num_test:,} of the test folds"
        )


def longtail(
    rows: Sequence[ManifestRow],
    *,
    test_folds: Sequence[str] = (),
    exponent: float = 1.0,
    least_per_class: int = 1,
    seed: int = 0,
) -> Longtail:
    """Thins the clips to learn from until their classes are a long tail; keeps those of the test folds.

    The class of rank r is to keep `n / r ** exponent` clips, rounded, where n is the size of the largest
    class, or all it has if it has fewer. Recordings stay whole: each, in a drawn order, is kept where that
    brings the number of clips nearer to what is wanted, which is missed by half a recording at most. A
    recording of several classes counts for the rarest of them alone, the one of the last rank; one without a
    label is kept. The same rows in any order, parameters and seed keep the same clips.

    Args:
      rows: of a manifest.
      test_folds: the folds that are left as they are.
      exponent: of Zipf's law, from 0 (every class as large as the largest, if it can) to 10.
      least_per_class: how many clips a class keeps at least, if it has them.
      seed: of the ranks and of what is kept.

    Raises:
      ManifestError: a parameter out of range, a fold that does not occur, or no labelled clip to thin.
    """
    folds = {row.fold for row in rows}
    unknown = sorted(set(test_folds) - folds)
    if unknown:
        raise ManifestError(f"test fold {unknown[0]!r} does not occur; folds are {', '.join(sorted(folds))}.")
    if least_per_class < 1:
        raise ManifestError(f"least_per_class must be at least 1, got {least_per_class}.")
    to_learn_from = [row for row in rows if row.fold not in test_folds]
    sizes = collections.Counter(row.recording_id for row in to_learn_from)
    recordings_of_class = _recordings_by_rank(to_learn_from, seed)
    num_before = [sum(sizes[recording] for recording in of) for of in recordings_of_class.values()]
    wanted = np.round(max(num_before) * zipf(len(num_before), exponent)).astype(int).tolist()
    dropped, classes = set(), []
    for (label, recordings), before, share in zip(
        recordings_of_class.items(), num_before, wanted, strict=True
    ):
        num_wanted = min(before, max(least_per_class, share))
        order = generated.generator(seed, f"recordings of {label}").permutation(len(recordings))
        kept = _choose([recordings[index] for index in order], sizes, num_wanted, least_per_class)
        dropped.update(set(recordings) - kept)
        classes.append(KeptClass(label, before, num_wanted, sum(sizes[recording] for recording in kept)))
    return Longtail(
        tuple(row for row in rows if row.fold in test_folds or row.recording_id not in dropped),
        tuple(classes),
        num_unlabelled=len(to_learn_from) - sum(num_before),
        num_test=len(rows) - len(to_learn_from),
    )


def _recordings_by_rank(rows: Sequence[ManifestRow], seed: int) -> dict[str, list[str]]:
    """Class, the most frequent first -> its recordings, sorted; each recording is of its rarest class."""
    labels = collections.defaultdict(set)
    for row in rows:
        labels[row.recording_id].update(row.labels)
    ranked = draw_ranks(set().union(*labels.values()), seed)
    if not ranked:
        raise ManifestError("no clip outside the test folds has a label; expected some to draw from.")
    rank_of = {label: rank for rank, label in enumerate(ranked)}
    members = {label: [] for label in ranked}
    for recording in sorted(labels):
        if labels[recording]:
            members[max(labels[recording], key=rank_of.get)].append(recording)
    return members


def _choose(recordings: Sequence[str], sizes: Mapping[str, int], num_wanted: int, least: int) -> set[str]:
    """The recordings that hold about so many clips; where that is fewer than the least, the smallest, too."""
    chosen, num_clips = set(), 0
    for recording in recordings:
        if sizes[recording] < 2 * (num_wanted - num_clips):
            chosen.add(recording)
            num_clips += sizes[recording]
    left = [recording for recording in recordings if recording not in chosen]
    for recording in sorted(left, key=sizes.__getitem__):
        if num_clips >= least:
            break
        chosen.add(recording)
        num_clips += sizes[recording]
    return chosen


def thin_manifest(
    manifest: str,
    output: str,
    *,
    test_folds: tuple[str, ...] = (),
    exponent: float = 1.0,
    least_per_class: int = 1,
    seed: int = 0,
    overwrite: bool = False,
) -> Longtail:
    """Writes a manifest of which the classes to learn from are a long tail; test folds stay as they are.

    The class of rank r, drawn by the seed, keeps about n / r ** exponent clips, where n is the size of the
    largest class. Clips of one recording are kept or dropped together.

    Args:
      manifest: the manifest of a data set, .csv or .jsonl.
      output: the manifest to write, .csv or .jsonl.
      test_folds: the folds that are left as they are.
      exponent: of Zipf's law, from 0 (classes of equal size, as far as they go) to 10.
      least_per_class: how many clips a class keeps at least, if it has them.
      seed: of the ranks and of what is kept.
      overwrite: whether an existing output may be replaced.

    Returns:
      What was kept.

    Raises:
      ManifestError: a parameter out of range, a fold that does not occur, no labelled clip to thin, or an
      output that exists.
    """
    manifest_format(output)
    if os.path.exists(output) and not overwrite:
        raise ManifestError(f"{output} exists; choose another output or pass --overwrite.")
    result = longtail(
        read_manifest(manifest),
        test_folds=test_folds, exponent=exponent, least_per_class=least_per_class, seed=seed,
    )  # fmt: skip
    write_manifest(output, result.rows)
    return result
