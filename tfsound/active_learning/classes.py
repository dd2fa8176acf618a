"""Lists of the classes that may be answered: AudioSet's 527 with their hierarchy, or one's own.

A list is CSV with the columns `name`, `display_name` (what people read; by default the name) and `parents`
(the names of broader classes of the list, joined by `;`; may be empty), or plain text, one name a line. A
name is what manifests call a label: no `;`, no control character, no white space at its ends.
"""

import csv
import dataclasses
import io
import os
import re
from collections.abc import Iterable, Sequence

from tfsound.records import (
    ActiveLearningError,
    csv_rows,
    field,
    parse_json,
    read_text,
    shown,
)

COLUMNS = ("name", "display_name", "parents")
ONTOLOGY_NAME = "ontology.json"
LABEL_INDICES_NAME = "class_labels_indices.csv"
_NAME = re.compile(r"[^;\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


@dataclasses.dataclass(frozen=True)
class SoundClass:
    """A class that may be answered.

    Attributes:
      name: what labels and manifests call it.
      display_name: what people read; by default the name.
      parents: names of broader classes of the same list.
    """

    name: str
    display_name: str = ""
    parents: tuple[str, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "display_name", self.display_name or self.name)


def check_classes(classes: Iterable[SoundClass], where: str) -> list[SoundClass]:
    """Checks a list as a whole and returns it.

    Raises:
      ActiveLearningError: no class, a name that is none or occurs twice, a parent that is not in the list, a
        class that is its own ancestor.
    """
    classes = list(classes)
    if not classes:
        raise ActiveLearningError(f"{where}: found no class, expected at least one name; write one a line.")
    seen = set()
    for number, sound_class in enumerate(classes, start=1):
        for text in (sound_class.name, sound_class.display_name, *sound_class.parents):
            if not _NAME.fullmatch(text) or text != text.strip():
                raise ActiveLearningError(
                    f"{where}, class {number}: found {shown(text)}, expected a name without `;`, control "
                    "characters and white space at its ends; rename it."
                )
        if sound_class.name in seen:
            raise ActiveLearningError(
                f"{where}, class {number}: {shown(sound_class.name)} is there twice; remove or rename one."
            )
        seen.add(sound_class.name)
    for sound_class in classes:
        unknown = [parent for parent in sound_class.parents if parent not in seen]
        if unknown:
            raise ActiveLearningError(
                f"{where}: {shown(sound_class.name)} has the parent {shown(unknown[0])}, which is not in the "
                "list; add it or correct its name."
            )
    _refuse_cycles(classes, where)
    return classes


def _refuse_cycles(classes: Sequence[SoundClass], where: str) -> None:
    """Takes away classes whose parents are all gone; where some are left, each has an ancestor on a cycle."""
    parents_left = {sound_class.name: set(sound_class.parents) for sound_class in classes}
    children: dict[str, list[str]] = {}
    for name, parents in parents_left.items():
        for parent in parents:
            children.setdefault(parent, []).append(name)
    free = [name for name, parents in parents_left.items() if not parents]
    while free:
        name = free.pop()
        del parents_left[name]
        for child in children.get(name, []):
            parents_left[child].discard(name)
            if not parents_left[child]:
                free.append(child)
    if not parents_left:
        return
    path = [next(iter(parents_left))]
    while path[-1] not in path[:-1]:
        path.append(min(parents_left[path[-1]]))
    cycle = path[path.index(path[-1]) :]
    raise ActiveLearningError(
        f"{where}: {' > '.join(map(shown, cycle))} is a circle of parents; a class cannot be its own "
        "ancestor."
    )


def read_classes(path: str) -> list[SoundClass]:
    """Reads a list of classes: CSV, plain text, or the folder of AudioSet's two files (`audioset_classes`).

    A file whose first line has the column `name` is CSV, any other is one name a line; blank lines
    count for nothing.

    Raises:
      ActiveLearningError: as `check_classes`; also a file that is not UTF-8 or not CSV.
      OSError: the file cannot be read.
    """
    if os.path.isdir(path):
        return audioset_classes(os.path.join(path, ONTOLOGY_NAME), os.path.join(path, LABEL_INDICES_NAME))
    lines = re.split(r"\r\n|\r|\n", read_text(path))
    header = next((line.strip() for line in lines if line.strip()), "")
    if COLUMNS[0] in [cell.strip(' "') for cell in header.split(",")]:
        classes = _csv_classes(path)
    else:
        classes = [SoundClass(line.strip()) for line in lines if line.strip()]
    return check_classes(classes, path)


def _csv_classes(path: str) -> list[SoundClass]:
    return [
        SoundClass(
            row["name"].strip(),
            row.get("display_name", "").strip(),
            tuple(parent.strip() for parent in row.get("parents", "").split(";") if parent.strip()),
        )
        for _, row in csv_rows(path, COLUMNS[:1], COLUMNS)
    ]


def write_classes(path: str, classes: Iterable[SoundClass]) -> None:
    """Writes a list as CSV; the file is the old or the whole new one.

    Raises:
      ActiveLearningError: as `check_classes`.
    """
    classes = check_classes(classes, path)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for sound_class in classes:
        writer.writerow([sound_class.name, sound_class.display_name, ";".join(sound_class.parents)])
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "w", encoding="utf-8", newline="") as file:
        file.write(text.getvalue())
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def audioset_classes(ontology: str, label_indices: str) -> list[SoundClass]:
    """AudioSet's classes with their hierarchy, by the names that its segments are labelled with.

    Of the ontology's nodes only the classes of `class_labels_indices.csv` may be answered. The parents of a
    class are its nearest ancestors among these: headings such as "Human sounds" are passed over.

    Args:
      ontology: the path of `ontology.json`.
      label_indices: the path of `class_labels_indices.csv`.

    Returns:
      The classes in the order of `class_labels_indices.csv`.

    Raises:
      ActiveLearningError: one of the files is not what it should be, or a class is missing in the ontology.
      OSError: one cannot be read.

    Source: Gemmeke et al., "Audio Set", ICASSP 2017; https://github.com/audioset/ontology.
    """
    columns = ("index", "mid", "display_name")
    names = {row["mid"]: row["display_name"] for _, row in csv_rows(label_indices, columns, columns)}
    parents: dict[str, list[str]] = {}
    nodes = parse_json(read_text(ontology), ontology)
    if not isinstance(nodes, list) or not all(isinstance(node, dict) for node in nodes):
        raise ActiveLearningError(
            f"{ontology}: expected a list of objects, got {shown(nodes)}; download it again."
        )
    for number, node in enumerate(nodes):
        where = f"{ontology}, entry {number}"
        mid = field(node, "id", str, where)
        parents.setdefault(mid, [])
        for child in field(node, "child_ids", list, where):
            parents.setdefault(child, []).append(mid)
    missing = sorted(set(names) - set(parents))
    if missing:
        raise ActiveLearningError(
            f"{ontology} lacks {shown(names[missing[0]])} ({missing[0]}) of {label_indices}; download both "
            "again."
        )
    classes = [
        SoundClass(name, name, tuple(names[parent] for parent in _nearest_named(mid, parents, names)))
        for mid, name in names.items()
    ]
    return check_classes(classes, ontology)


def _nearest_named(mid: str, parents: dict[str, list[str]], names: dict[str, str]) -> list[str]:
    """The nearest ancestors that have a name, each once."""
    found, seen, todo = [], {mid}, list(parents[mid])
    while todo:
        parent = todo.pop(0)
        if parent in seen:
            continue
        seen.add(parent)
        if parent in names:
            found.append(parent)
        else:
            todo.extend(parents[parent])
    return found


def ancestors(classes: Iterable[SoundClass]) -> dict[str, tuple[str, ...]]:
    """Class name -> the path to it, broadest first, along the first parent of each; empty at the top."""
    first_parent = {c.name: c.parents[0] for c in classes if c.parents}
    paths = {}
    for sound_class in classes:
        path, name = [], sound_class.name
        while name in first_parent:
            name = first_parent[name]
            path.append(name)
        paths[sound_class.name] = tuple(reversed(path))
    return paths
