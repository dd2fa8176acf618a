"""The parts of a reproduction: each a file of figures, computed once, kept, and taken up again."""

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from tfsound import resumption

# Of a figure: how long it took, with the encoders that were trained for it first.
SECONDS = "seconds"
# kind -> row -> the figures of fold after fold
Results = Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]]


@dataclasses.dataclass(frozen=True)
class Unit:
    """One figure, or a few that come together, of one row and fold: `<kind>/<key>/fold_<fold>.json`.

    `table` is the number of the paper's table that it is for; `fold` is "" where no fold is held out.
    """

    table: str
    kind: str
    key: str
    fold: str
    compute: Callable[[], dict]

    @property
    def where(self) -> tuple[str, ...]:
        """The fold in words, none where there is none."""
        return (f"fold {self.fold}",) if self.fold else ()

    def path(self, output: str) -> str:
        name = f"fold_{self.fold}.json" if self.fold else "all_folds.json"
        return os.path.join(output, "scores", self.kind, slug(self.key), name)


def slug(*names: str) -> str:
    """Names as one file name."""
    return "+".join(names).replace(":", "-").replace("/", "-")


def work_off(units: Iterable[Unit], output: str) -> None:
    """Computes every figure that is not there yet; says which, and how long the rest may take."""
    units = list(units)
    todo = [unit for unit in units if not os.path.exists(unit.path(output))]
    done, start = len(units) - len(todo), time.monotonic()
    for number, unit in enumerate(todo):
        begin = time.monotonic()
        figures = unit.compute()
        seconds = {SECONDS: round(time.monotonic() - begin, 1)}
        resumption.write_json(unit.path(output), figures | seconds)
        left = (time.monotonic() - start) / (number + 1) * (len(todo) - number - 1)
        measures = figures.get("measures", figures)
        scores = {
            name: value for name, value in measures.items() if name.endswith(("mAP", "R@1", "accuracy"))
        }
        shown = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
        what = ", ".join([unit.kind, unit.key, *unit.where]) + (f": {shown}" if shown else "")
        print(f"[{done + number + 1}/{len(units)}] {what}; about {left / 60:.0f} min left", flush=True)


def read_results(units: Iterable[Unit], output: str) -> dict[str, Results]:
    """The figures of each table of which every one is there: table number -> its results."""
    results: dict[str, dict] = {}
    unfinished = set()
    for unit in units:
        if not os.path.exists(unit.path(output)):
            unfinished.add(unit.table)
            continue
        with open(unit.path(output)) as file:
            rows = results.setdefault(unit.table, {}).setdefault(unit.kind, {})
            rows.setdefault(unit.key, []).append(json.load(file))
    return {table: kinds for table, kinds in results.items() if table not in unfinished}
