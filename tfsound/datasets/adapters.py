"""Adapters: a data set's official layout on disk -> the rows of a manifest.

Each takes the folder that holds the data set (`csv`: the file); official folds, splits and class names stay.
Listed files that are not on disk are counted, with a few examples; it is an error only if none is there.
Uris are absolute paths. `split` is "train" or "test" where the data set has an official one.
"""

import csv
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from tfsound.datasets import digit_scenes, synthetic
from tfsound.datasets.manifest import read_manifest
from tfsound.datasets.manifest_rows import COLUMNS, AdapterResult, ManifestError, ManifestRow

AUDIO_EXTENSIONS = (".aac", ".aif", ".aiff", ".flac", ".m4a", ".mp3", ".oga", ".ogg", ".opus", ".wav", ".wma")
VIDEO_EXTENSIONS = (
    ".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts",
    ".webm", ".wmv",
)  # fmt: skip

DCASE2013_SCENES = (
    "bus", "busystreet", "office", "openairmarket", "park",
    "quietstreet", "restaurant", "supermarket", "tube", "tubestation",
)  # fmt: skip
AUDIOSET_SEGMENTS = {
    "balanced_train_segments.csv": "train",
    "unbalanced_train_segments.csv": "train",
    "eval_segments.csv": "test",
}
_NUM_EXAMPLES = 5


def esc50(root: str) -> AdapterResult:
    """ESC-50: `meta/esc50.csv` and `audio/`; the 5 official folds; a recording is a `src_file`.

    The official release itself puts clips of 4 sources (131943, 134049, 209698, 234879) into two folds each.
    """
    return _esc(root, only_esc10=False)


def esc10(root: str) -> AdapterResult:
    """ESC-10: the 400 clips of ESC-50 marked `esc10`, from the folder of ESC-50."""
    return _esc(root, only_esc10=True)


def _esc(root: str, only_esc10: bool) -> AdapterResult:
    metadata = _require(root, "meta/esc50.csv", "ESC-50")
    audio = _require(root, "audio", "ESC-50")
    paths = _paths_by_stem(os.scandir(audio))
    listed = []
    for entry in _read_csv(metadata, ("filename", "fold", "category", "esc10", "src_file")):
        if only_esc10 and entry["esc10"] != "True":
            continue
        # The official names end in .wav; a copy may hold the clips in another format.
        stem = os.path.splitext(entry["filename"])[0]
        row = ManifestRow(
            clip_id=stem,
            recording_id=entry["src_file"],
            uri=paths.get(stem, ""),
            labels=(entry["category"],),
            fold=entry["fold"],
        )
        listed.append((row, entry["filename"]))
    return _present(listed, audio)


def urbansound8k(root: str) -> AdapterResult:
    """UrbanSound8K: `metadata/UrbanSound8K.csv`, `audio/foldN/`; 10 official folds; a recording is an `fsID`.

    Its clips are files of their own, so the start and end of the metadata, which count in the Freesound
    recording, are left out. The official release itself puts clips of 5 recordings (77751, 106905, 132016,
    176638, 180937) into two folds each.
    """
    metadata = _require(root, "metadata/UrbanSound8K.csv", "UrbanSound8K")
    audio = _require(root, "audio", "UrbanSound8K")
    paths = {fold.name: _paths_by_stem(os.scandir(fold.path)) for fold in os.scandir(audio) if fold.is_dir()}
    listed = []
    for entry in _read_csv(metadata, ("slice_file_name", "fsID", "fold", "class")):
        stem = os.path.splitext(entry["slice_file_name"])[0]
        folder_name = f"fold{entry['fold']}"
        row = ManifestRow(
            clip_id=stem,
            recording_id=entry["fsID"],
            uri=paths.get(folder_name, {}).get(stem, ""),
            labels=(entry["class"],),
            fold=entry["fold"],
        )
        listed.append((row, f"{folder_name}/{entry['slice_file_name']}"))
    return _present(listed, audio)


def dcase2013(root: str) -> AdapterResult:
    """DCASE 2013 scenes: `scenes_stereo/<scene><nn>.wav`, 10 scenes x 10; `scenes_stereo_testset/` likewise.

    Each file is a recording. With both sets, fold 1 is the development set and fold 2 the test set: the 200
    recordings in 2 folds of DLS 2021, table 1. The release has no folds within a set, so for the development
    set alone the rule is ours: 01 to 05 of every scene are fold 1, 06 to 10 are fold 2.
    """
    development = _require(root, "scenes_stereo", "DCASE 2013 scenes")
    testset = os.path.join(os.path.abspath(root), "scenes_stereo_testset")
    folders = [(development, "train")]
    if os.path.isdir(testset):
        folders.append((testset, "test"))
    listed = []
    for folder, split in folders:
        paths = _paths_by_stem(os.scandir(folder))
        for scene in DCASE2013_SCENES:
            for take in range(1, 11):
                stem = f"{scene}{take:02d}"
                clip_id = stem if split == "train" else f"testset/{stem}"
                first_fold = split == "train" if len(folders) == 2 else take <= 5
                uri, fold = paths.get(stem, ""), "1" if first_fold else "2"
                row = ManifestRow(clip_id, clip_id, uri, labels=(scene,), fold=fold, split=split)
                listed.append((row, f"{stem}.wav"))
    return _present(listed, " and ".join(folder for folder, _ in folders))


def audioset(
    root: str, *, segments_csv: str = "", media_dir: str = "", class_labels_indices: str = ""
) -> AdapterResult:
    """AudioSet: segment lists, the class map, and whatever media of them is on disk; a recording is a YTID.

    A file `YTID.ext` is taken for the whole video and cut at the segment's times. `YTID_30.000_40.000.ext`,
    `YTID_30.000.ext`, `YTID_30_40.ext`, `YTID_30.ext` and, in milliseconds, `YTID_30000_40000.ext` and
    `YTID_30000.ext` are taken for the segment itself. `split` is "test" for eval_segments.csv, else "train".

    Args:
      root: the folder from which the other paths count, unless they are absolute.
      segments_csv: one segment list; by default all official ones found in root.
      media_dir: the folder of the media, searched in all depths; by default root.
      class_labels_indices: the class map; by default class_labels_indices.csv.
    """
    root = os.path.abspath(root)
    class_map = _require(root, class_labels_indices or "class_labels_indices.csv", "AudioSet")
    names = {entry["mid"]: entry["display_name"] for entry in _read_csv(class_map, ("mid", "display_name"))}
    found = [name for name in AUDIOSET_SEGMENTS if os.path.exists(os.path.join(root, name))]
    segment_lists = [segments_csv] if segments_csv else found
    if not segment_lists:
        raise ManifestError(f"{root}: found none of {', '.join(AUDIOSET_SEGMENTS)}; give segments_csv.")
    media = _require(root, media_dir or ".", "AudioSet")
    paths = _paths_by_stem(_walk(media))
    listed = []
    for segment_list in segment_lists:
        split = AUDIOSET_SEGMENTS.get(os.path.basename(segment_list), "train")
        for ytid, start, end, mids in _audioset_segments(_require(root, segment_list, "AudioSet")):
            unknown = [mid for mid in mids if mid not in names]
            if unknown:
                raise ManifestError(f"{segment_list}: {ytid} has label {unknown[0]!r}, not in {class_map}.")
            labels = tuple(names[mid] for mid in mids)
            cut = next((paths[stem] for stem in _audioset_stems(ytid, start, end) if stem in paths), "")
            times = (None, None) if cut else (float(start), float(end))
            uri = cut or paths.get(ytid, "")
            row = ManifestRow(f"{ytid}_{start}_{end}", ytid, uri, *times, labels=labels, split=split)
            listed.append((row, f"{ytid}.*"))
    return _present(listed, media)


def _audioset_segments(path: str) -> Iterator[tuple[str, str, str, list[str]]]:
    """Yields (YTID, start, end, mids), the times as they are written."""
    with open(path, encoding="utf-8", newline="") as lines:
        for line_number, fields in enumerate(csv.reader(lines, skipinitialspace=True), start=1):
            if not fields or fields[0].startswith("#"):
                continue
            if len(fields) != 4 or not all(re.fullmatch(r"\d+(\.\d+)?", time) for time in fields[1:3]):
                expected = 'YTID, start_seconds, end_seconds, "mid,mid"'
                raise ManifestError(f"{path}, line {line_number}: found {fields}, expected {expected}.")
            yield fields[0], fields[1], fields[2], fields[3].split(",")


def _audioset_stems(ytid: str, start: str, end: str) -> list[str]:
    """The names that a file cut at these times may have."""
    seconds = [f"{float(time):g}" for time in (start, end)]
    milliseconds = [f"{float(time) * 1000:.0f}" for time in (start, end)]
    pairs = ([start, end], seconds, milliseconds)
    return [f"{ytid}_{'_'.join(times)}" for pair in pairs for times in (pair, pair[:1])]


def fsdd(root: str) -> AdapterResult:
    """Free Spoken Digit Dataset: `recordings/DIGIT_SPEAKER_INDEX.wav`; the label is the digit.

    Each file is a recording. The official split: indices 0 to 4 are test, the rest train. It has no official
    folds; ours are the speakers, so that a test on one fold hears voices not trained on.
    """
    recordings = _require(root, "recordings", "FSDD")
    listed = []
    for stem, path in sorted(_paths_by_stem(os.scandir(recordings)).items()):
        match = digit_scenes.TAKE_NAME.fullmatch(stem)
        if match:
            digit, speaker, index = match.groups()
            split = "test" if int(index) < 5 else "train"
            listed.append((ManifestRow(stem, stem, path, labels=(digit,), fold=speaker, split=split), stem))
    return _present(listed, f"{recordings} (DIGIT_SPEAKER_INDEX.wav)")


def folder(root: str, *, labels_from_folders: bool = False) -> AdapterResult:
    """Any folder of audio and video files, in all depths, hidden ones left out; each file is a recording.

    The clip_id is the path within `root`. A file whose name is not UTF-8 counts as absent.

    Args:
      root: the folder; links to folders are followed, each folder is visited once.
      labels_from_folders: whether the first-level folder of a file is its label.
    """
    return _files(root, "folder", AUDIO_EXTENSIONS + VIDEO_EXTENSIONS, labels_from_folders)


def videos(root: str, *, labels_from_folders: bool = False, columns: str = "") -> AdapterResult:
    """A folder of videos, as `folder` without its audio files; or a manifest or CSV of videos, as `csv`.

    Args:
      root: the folder, or the file.
      labels_from_folders: of a folder: whether the first-level folder of a file is its label.
      columns: of a CSV: our column names to those of the file, as "uri=file,labels=label".
    """
    if not os.path.isfile(root):
        if columns:
            raise ManifestError(f"columns: {root} is a folder, expected a CSV for them; leave them out.")
        return _files(root, "videos", VIDEO_EXTENSIONS, labels_from_folders)
    if labels_from_folders:
        raise ManifestError(
            f"labels_from_folders: {root} is a file, expected a folder; name its labels column."
        )
    return from_csv(root, columns=columns)


def _files(root: str, name: str, extensions: tuple[str, ...], labels_from_folders: bool) -> AdapterResult:
    root = os.path.abspath(root)
    if not os.path.isdir(root):
        raise ManifestError(f"{root} is not a folder; the {name} adapter expects one.")
    listed = []
    for entry in _walk(root, extensions):
        clip_id = os.path.relpath(entry.path, root)
        label = clip_id.split(os.sep)[0] if labels_from_folders and os.sep in clip_id else None
        is_utf8 = clip_id == clip_id.encode(errors="replace").decode()
        uri = entry.path if is_utf8 else ""
        row = ManifestRow(clip_id, clip_id, uri, labels=(label,) if label else ())
        listed.append((row, repr(clip_id)))
    kind = "video" if extensions == VIDEO_EXTENSIONS else "audio or video"
    return _present(listed, f"{root} ({kind}: {' '.join(extensions)})")


def tuxpaint(root: str) -> AdapterResult:
    """Stamps of Tux Paint: `pairs.csv` and beside it pictures, each with a natural sound of the thing shown.

    The label is the group (animals, household, ...): nearly every name occurs once. Stamps that share a sound
    share their recording.
    """
    pairs = _require(root, "pairs.csv", "Tux Paint")
    folder_path = os.path.dirname(pairs)
    listed = []
    for entry in _read_csv(pairs, ("audio", "image", "group", "name")):
        audio, image = (os.path.join(folder_path, entry[column]) for column in ("audio", "image"))
        row = ManifestRow(
            clip_id=os.path.splitext(entry["audio"])[0],
            recording_id=os.path.splitext(entry.get("same_audio_as") or entry["audio"])[0],
            uri=audio if os.path.isfile(audio) and os.path.isfile(image) else "",
            labels=(entry["group"],),
            image_uri=image,
        )
        listed.append((row, entry["audio"]))
    return _present(listed, folder_path)


def from_csv(root: str, *, columns: str = "") -> AdapterResult:
    """A manifest or any CSV or JSON Lines file of clips, checked and completed with default ids.

    Args:
      root: the file; relative paths in it count from its folder. Remote uris are not looked for.
      columns: our column names to those of the file, as "uri=path,labels=species"; other columns are ignored.
    """
    path = os.path.abspath(root)
    if not os.path.isfile(path):
        raise ManifestError(f"{path} is not a file; the csv adapter expects a .csv or .jsonl file.")
    mapping = {}
    for pair in filter(None, columns.split(",")):
        ours, _, theirs = (part.strip() for part in pair.partition("="))
        if ours not in COLUMNS or not theirs:
            expected = f"NAME=NAME_IN_FILE with NAME one of {', '.join(COLUMNS)}"
            raise ManifestError(f"columns: found {pair!r}, expected {expected}.")
        mapping[ours] = theirs
    listed = []
    for row in read_manifest(path, columns=mapping or None):
        local = [uri for uri in (row.uri, row.image_uri) if uri and "://" not in uri]
        absent = next((uri for uri in local if not os.path.isfile(uri)), "")
        listed.append((replace(row, uri="") if absent else row, absent or row.uri))
    return _present(listed, os.path.dirname(path))


ADAPTERS: dict[str, Callable[..., AdapterResult]] = {
    "audioset": audioset,
    "csv": from_csv,
    "dcase2013": dcase2013,
    "digit_scenes": digit_scenes.compose,
    "esc10": esc10,
    "esc50": esc50,
    "folder": folder,
    "fsdd": fsdd,
    "synthetic": synthetic.synthesise,
    "tuxpaint": tuxpaint,
    "urbansound8k": urbansound8k,
    "videos": videos,
}


def _present(listed: list[tuple[ManifestRow, str]], looked_in: str) -> AdapterResult:
    """Keeps the rows that have a uri; the others, known by the name beside them, are absent."""
    rows = [row for row, _ in listed if row.uri]
    absent = [name for row, name in listed if not row.uri]
    if not rows:
        looked_for = f" of the {len(listed)} listed, such as {absent[0]}" if absent else ""
        raise ManifestError(f"found no media file{looked_for}; looked in {looked_in}.")
    rows, crossing = _keep_in_folds(rows)
    note = ""
    if crossing:
        note = (
            f"recordings that lie in several folds, whose parts count as recordings of their own: "
            f"{', '.join(crossing)}"
        )
    return AdapterResult(rows, len(listed), len(absent), tuple(absent[:_NUM_EXAMPLES]), note)


def _keep_in_folds(rows: list[ManifestRow]) -> tuple[list[ManifestRow], list[str]]:
    """Gives a recording in several folds an id a fold, so that none crosses; returns also which did."""
    folds: dict[str, set[str]] = {}
    for row in rows:
        folds.setdefault(row.recording_id, set()).add(row.fold)
    crossing = sorted(recording for recording, found in folds.items() if len(found) > 1)
    apart = [
        replace(row, recording_id=f"{row.recording_id}/fold{row.fold}")
        if len(folds[row.recording_id]) > 1
        else row
        for row in rows
    ]
    return apart, crossing


def _require(root: str, name: str, dataset: str) -> str:
    """Returns the absolute path of a file or folder that the data set must have."""
    root = os.path.abspath(root)
    path = os.path.normpath(os.path.join(root, name))
    if not os.path.exists(path):
        raise ManifestError(f"{path} does not exist; {dataset} expects {name} in its root; give that folder.")
    return path


def _read_csv(path: str, columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    with open(path, encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines)
        absent = set(columns) - set(reader.fieldnames or ())
        if absent:
            expected = ", ".join(sorted(absent))
            raise ManifestError(f"{path}: found columns {reader.fieldnames}, expected also {expected}.")
        yield from reader


def _is_media(name: str, extensions: tuple[str, ...] = AUDIO_EXTENSIONS + VIDEO_EXTENSIONS) -> bool:
    return not name.startswith(".") and name.lower().endswith(extensions)


def _paths_by_stem(entries: Iterable[os.DirEntry]) -> dict[str, str]:
    """Media files by name without extension; of several a video, else the last by name (.wav before .ogg)."""
    paths = sorted(entry.path for entry in entries if _is_media(entry.name))
    paths.sort(key=lambda path: path.lower().endswith(VIDEO_EXTENSIONS))
    return {os.path.splitext(os.path.basename(path))[0]: path for path in paths}


def _walk(
    folder: str, extensions: tuple[str, ...] = AUDIO_EXTENSIONS + VIDEO_EXTENSIONS
) -> Iterator[os.DirEntry]:
    """Yields the media files under `folder` in sorted order; a folder linked twice is visited once."""
    visited = set()
    stack = [folder]
    while stack:
        current = stack.pop()
        status = os.stat(current)
        if (status.st_dev, status.st_ino) in visited:
            continue
        visited.add((status.st_dev, status.st_ino))
        entries = sorted(os.scandir(current), key=lambda entry: entry.name)
        yield from (entry for entry in entries if entry.is_file() and _is_media(entry.name, extensions))
        stack += [e.path for e in reversed(entries) if e.is_dir() and not e.name.startswith(".")]
