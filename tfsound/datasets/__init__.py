"""Data sets: from a data set's own layout on disk to a manifest, the list of clips that every job reads."""

import inspect
import os
from dataclasses import dataclass

from tfsound.datasets.adapters import ADAPTERS
from tfsound.datasets.class_priors import CLASS_PRIORS, LONGTAIL, NATURAL, Longtail, longtail, thin_manifest
from tfsound.datasets.manifest import iter_manifest, manifest_format, read_manifest, write_manifest
from tfsound.datasets.manifest_rows import AdapterResult, BadRow, ManifestError, ManifestRow

__all__ = [
    "ADAPTERS",
    "CLASS_PRIORS",
    "LONGTAIL",
    "NATURAL",
    "AdapterResult",
    "BadRow",
    "Longtail",
    "ManifestError",
    "ManifestRow",
    "ManifestSummary",
    "iter_manifest",
    "longtail",
    "make_manifest",
    "manifest_format",
    "read_manifest",
    "thin_manifest",
    "write_manifest",
]


@dataclass(frozen=True, slots=True)
class ManifestSummary:
    """What `make_manifest` wrote, and where; `absent_examples` are a few files listed but not on disk."""

    name: str
    output: str
    num_rows: int
    num_listed: int
    num_absent: int
    num_recordings: int
    num_labels: int
    folds: tuple[str, ...]
    absent_examples: tuple[str, ...]
    note: str

    def __str__(self) -> str:
        lines = [
            f"{self.name}: {self.num_rows} clips of {self.num_recordings} recordings, "
            f"{self.num_labels} labels, {len(self.folds)} folds -> {self.output}"
        ]
        if self.num_absent:
            examples = ", ".join(self.absent_examples)
            lines.append(f"absent: {self.num_absent} of the {self.num_listed} listed, such as {examples}")
        if self.note:
            lines.append(f"note: {self.note}")
        return "\n".join(lines)


def make_manifest(
    name: str,
    root: str,
    output: str,
    *,
    overwrite: bool = False,
    segments_csv: str = "",
    media_dir: str = "",
    class_labels_indices: str = "",
    labels_from_folders: bool = False,
    columns: str = "",
    num_recordings: int = 200,
    num_classes: int = 8,
    seconds: float = 6.0,
    num_folds: int = 5,
    scenes_dir: str = "",
    num_scenes: int = 300,
    num_eval_scenes: int = 100,
    scene_seconds: int = 10,
    split_by: str = "takes",
    levels: str = "equal",
    class_prior: str = NATURAL,
    zipf_exponent: float = 1.0,
    seed: int = 0,
) -> ManifestSummary:
    """Writes the manifest of a data set on disk.

    Args:
      name: the data set: audioset, csv, dcase2013, digit_scenes, esc10, esc50, folder, fsdd, synthetic,
        tuxpaint, urbansound8k or videos.
      root: the folder that holds it (csv: the file; videos: the folder or file; digit_scenes: the folder of
        FSDD; synthetic: where to write the recordings).
      output: the manifest to write, .csv or .jsonl.
      overwrite: whether an existing output may be replaced.
      segments_csv: audioset: one segment list, its path within root; by default all official ones there.
      media_dir: audioset: the folder of the media, its path within root; by default root.
      class_labels_indices: audioset: the class map within root; by default class_labels_indices.csv.
      labels_from_folders: folder, videos: whether the first-level folder of a file is its label.
      columns: csv, videos: our column names to those of the file, as "uri=path,labels=species".
      num_recordings: synthetic: how many recordings.
      num_classes: synthetic: how many classes, 10 at most.
      seconds: synthetic: the length of a recording.
      num_folds: synthetic: how many folds.
      scenes_dir: digit_scenes: where to write the scenes.
      num_scenes: digit_scenes: how many to learn from.
      num_eval_scenes: digit_scenes: how many to evaluate on.
      scene_seconds: digit_scenes: the length of a scene.
      split_by: digit_scenes: what only one split has, takes, or speakers with all their takes.
      levels: digit_scenes: takes at equal levels, or as recorded.
      class_prior: digit_scenes: as many scenes to learn from of each digit, natural, or a longtail.
      zipf_exponent: digit_scenes: of the long tail, from 0 (all digits alike) to 10.
      seed: digit_scenes, synthetic: other seeds give other recordings.

    Raises:
      ManifestError: an unknown name, an option of another data set, an output that exists, nothing found.
    """
    given = {key: value for key, value in locals().items() if value != _SIGNATURE.parameters[key].default}
    options = {key: given[key] for key in given if key not in ("name", "root", "output", "overwrite")}
    _check_options(name, root, options)
    manifest_format(output)
    if os.path.exists(output) and not overwrite:
        raise ManifestError(f"{output} exists; choose another output or pass --overwrite.")
    result = ADAPTERS[name](root, **options)
    write_manifest(output, result.rows)
    return ManifestSummary(
        name=name,
        output=output,
        num_rows=len(result.rows),
        num_listed=result.num_listed,
        num_absent=result.num_absent,
        num_recordings=len({row.recording_id for row in result.rows}),
        num_labels=len({label for row in result.rows for label in row.labels}),
        folds=tuple(sorted({row.fold for row in result.rows} - {""})),
        absent_examples=result.absent_examples,
        note=result.note,
    )


_SIGNATURE = inspect.signature(make_manifest)


def _check_options(name: str, root: str, options: dict) -> None:
    """Refuses an unknown data set, an empty root, and options that the data set's adapter does not take."""
    if name not in ADAPTERS:
        raise ManifestError(f"name: found {name!r}, expected one of {', '.join(ADAPTERS)}.")
    if not root:
        raise ManifestError(f"root is empty, expected the path of {name}; give one.")
    for option in options:
        takers = [key for key, adapter in ADAPTERS.items() if option in inspect.signature(adapter).parameters]
        if name not in takers:
            raise ManifestError(f"{option}: no option of {name}, only of {', '.join(takers)}; leave it out.")
