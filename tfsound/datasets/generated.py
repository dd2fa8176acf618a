"""What data sets made here share: keyed randomness, and a folder that belongs to one set of parameters."""

import hashlib
import json
import os

import numpy as np

from tfsound.datasets.manifest_rows import ManifestError


def generator(seed: int, name: str) -> np.random.Generator:
    """The generator of one recording: others are not disturbed by more of them, or by their order."""
    return np.random.default_rng(list(hashlib.sha256(f"{seed}/{name}".encode()).digest()))


def check_ranges(parameters: dict, ranges: dict[str, tuple[float, float]]) -> None:
    """Raises: ManifestError for a parameter outside its range."""
    for name, (low, high) in ranges.items():
        if not low <= parameters[name] <= high:
            raise ManifestError(f"{name} must be from {low} to {high}, got {parameters[name]}.")


def claim(root: str, kind: str, parameters: dict, folders: tuple[str, ...]) -> None:
    """Makes root the home of recordings of these parameters, which `<kind>.json` in it holds.

    Args:
      folders: what lies in it; made where missing.

    Raises: ManifestError where it holds recordings of other parameters, or of another origin.
    """
    path = os.path.join(root, f"{kind}.json")
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        if found != parameters:
            raise ManifestError(
                f"{root} holds {kind} recordings of other parameters: {_differences(found, parameters)}; "
                "ask for the same, or name another folder."
            )
    elif os.path.exists(os.path.join(root, "manifest.csv")) or any(
        os.path.isdir(folder) and os.listdir(folder) for folder in _paths(root, folders)
    ):
        raise ManifestError(f"{root} holds recordings that are not {kind}; name another folder.")
    for folder in _paths(root, folders):
        os.makedirs(folder, exist_ok=True)
    if not os.path.exists(path):
        with open(path, "w", encoding="utf-8") as file:
            json.dump(parameters, file)


def _differences(found, parameters: dict) -> str:
    """Which parameters differ, then and now; long values, which are digests, by their beginnings."""
    found = found if isinstance(found, dict) else {}
    shown = []
    for name in sorted(found.keys() | parameters.keys()):
        then, now = (str(values.get(name, "absent")) for values in (found, parameters))
        if then != now:
            then, now = (value if len(value) <= 12 else value[:8] + "..." for value in (then, now))
            shown.append(f"{name} was {then}, and is now {now}")
    return ", ".join(shown)


def _paths(root: str, folders: tuple[str, ...]) -> list[str]:
    return [os.path.join(root, folder) for folder in folders]
