"""The report of a reproduction: a paper's tables, its figures beside ours; text, Markdown, JSON, plots."""

import os
import shlex
from collections.abc import Mapping

from matplotlib.figure import Figure

from tfsound import evaluation, plots, resumption

IN_THE_PAPER = "in the paper"


def write(
    title: str,
    tables: Mapping[str, evaluation.ScoreTable],
    pictures: Mapping[str, Figure],
    output: str,
    settings: dict,
    notes: list[str],
) -> str:
    """Writes report.md, report.json and the pictures; returns the tables as text.

    Args:
      tables, pictures: by title, and by what they show.
      settings: what was asked for.
      notes: what else a reader must know, a sentence each.
    """
    sections = [f"# {title}", " ".join([f"`{_command(settings)}`.", *notes])]
    for name, table in tables.items():
        sections.append(f"## {name}\n\n{table.to_markdown()}")
    for name, figure in pictures.items():
        plots.save_figure(figure, os.path.join(output, f"{name}.png"))
        sections.append(f"![{name}]({name}.png)")
    resumption.write_text(os.path.join(output, "report.md"), "\n\n".join(sections) + "\n")
    fields = {"settings": settings, "tables": {name: table.to_dict() for name, table in tables.items()}}
    resumption.write_json(os.path.join(output, "report.json"), fields)
    return "\n\n".join(f"{name}\n{table}" for name, table in tables.items())


def _command(settings: dict) -> str:
    """What was asked for, as it is typed; only synthetic data has a number of recordings to choose."""
    words = ["tfsound", "reproduce", settings["paper"], settings["root"], "OUTPUT"]
    for name in (
        "dataset", "more_datasets", "imagenet_weights", "scale", "table", "folds", "class_prior",
        "num_recordings", "seed",
    ):  # fmt: skip
        value = settings.get(name, "")
        values = value if isinstance(value, (list, tuple)) else [value]
        is_of_it = name != "num_recordings" or settings["dataset"] == "synthetic"
        if is_of_it and any(value != "" for value in values):
            words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return shlex.join(words)
