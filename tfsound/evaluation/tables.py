"""Tables of scores: one row a representation, one column a measure, recovery between baseline and topline.

Source: Jansen et al. 2018, tables 2 and 3.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from tfsound import metrics
from tfsound.evaluation.segments import EvaluationError

QUERY_BY_EXAMPLE = "QbE mAP"
ONE_LAYER = "1 layer mAP"
TWO_LAYERS = "2 layers mAP"
_MISSING = "-"


@dataclasses.dataclass(frozen=True)
class ScoreTable:
    """Scores of representations over folds or draws, and the share of the gap that each recovers.

    A score that is missing, None or NaN in a fold, is missing in all that is computed from it: None in
    `to_dict`, "-" in print. Recovery is taken fold by fold, and is missing where the topline of a fold does
    not lie above its baseline.

    Args:
      rows: name of a representation to measure to scores, (n,) each. A measure may be left out, or None.
      baseline: the row at 0% recovery; without, no recovery is given.
      topline: the row at 100%.

    Raises:
      EvaluationError: no row or score, a baseline without a topline or the reverse, a name that no row has,
      or rows with other numbers of scores than the baseline or topline.
    """

    rows: Mapping[str, Mapping[str, Sequence[float] | None]]
    baseline: str = ""
    topline: str = ""

    def __post_init__(self):
        if not any(self.scores(name, measure) for name in self.rows for measure in self.measures):
            raise EvaluationError(f"a table needs scores, got none in {len(self.rows)} rows.")
        if bool(self.baseline) != bool(self.topline):
            raise EvaluationError(
                f"recovery needs both baseline and topline, got {self.baseline!r} and {self.topline!r}."
            )
        if self.baseline:
            for name in (self.baseline, self.topline):
                if name not in self.rows:
                    raise EvaluationError(f"no row is called {name!r}; the rows are {list(self.rows)}.")
            self._require_equal_counts()

    def _require_equal_counts(self) -> None:
        for measure in self.measures:
            for reference in (self.baseline, self.topline):
                wanted = len(self.scores(reference, measure) or ())
                for name in self.rows:
                    found = len(self.scores(name, measure) or ())
                    if wanted and found and found != wanted:
                        raise EvaluationError(
                            f"{name!r} has {found} scores of {measure!r} and {reference!r} has {wanted}; "
                            "score both on the same folds."
                        )

    @property
    def measures(self) -> tuple[str, ...]:
        """The columns, in the order in which the rows first name them."""
        return tuple(dict.fromkeys(measure for row in self.rows.values() for measure in row))

    def scores(self, name: str, measure: str) -> tuple[float, ...] | None:
        """The scores of a row, None where they are missing."""
        values = self.rows[name].get(measure)
        return None if values is None or len(values) == 0 else tuple(values)

    def spread(self, name: str, measure: str) -> metrics.MeanAndSpread | None:
        """Mean and spread of a row's scores, None where one is missing."""
        return _spread(self.scores(name, measure))

    def recovery(self, name: str, measure: str) -> tuple[float, ...] | None:
        """The share of the gap that a row closes, fold by fold; None where it is not known."""
        if not self.baseline:
            return None
        scores = [self.scores(row, measure) for row in (name, self.baseline, self.topline)]
        if any(_spread(values) is None for values in scores) or self._has_no_gap(measure):
            return None
        return tuple(
            metrics.recovery(score, baseline=low, topline=high)
            for score, low, high in zip(*scores, strict=True)
        )

    def _has_no_gap(self, measure: str) -> bool:
        baseline, topline = (self.scores(name, measure) for name in (self.baseline, self.topline))
        return any(high <= low for low, high in zip(baseline or (), topline or (), strict=False))

    def to_dict(self) -> dict:
        """All figures in plain types that JSON has; what is missing is None."""
        return {
            "baseline": self.baseline or None,
            "topline": self.topline or None,
            "measures": list(self.measures),
            "rows": [
                {
                    "name": name,
                    "scores": {measure: _figures(self.scores(name, measure)) for measure in self.measures},
                    "recovery": {
                        measure: _figures(self.recovery(name, measure)) for measure in self.measures
                    },
                }
                for name in self.rows
            ],
        }

    def to_markdown(self) -> str:
        """The table in Markdown, what its figures are below it."""
        header, *rows = ([cell.replace("|", "\\|") for cell in row] for row in self._cells())
        lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return "\n\n".join([table, *self._notes()])

    def __str__(self) -> str:
        cells = self._cells()
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in cells]
        return "\n".join([*lines, *self._notes()])

    def _cells(self) -> list[list[str]]:
        """Header and rows, as text."""
        rows = [["representation"]]
        for measure in self.measures:
            rows[0] += [measure, "recovery"] if self.baseline else [measure]
        for name in self.rows:
            row = [name]
            for measure in self.measures:
                row.append(_score_cell(self.spread(name, measure)))
                if self.baseline:
                    row.append(_recovery_cell(_spread(self.recovery(name, measure))))
            rows.append(row)
        return rows

    def _notes(self) -> list[str]:
        notes = ["Mean ± sample standard deviation (n), or a single value."]
        flat = [measure for measure in self.measures if self.baseline and self._has_no_gap(measure)]
        if flat:
            notes.append(
                f"No recovery by {', '.join(flat)}: the topline does not lie above the baseline everywhere."
            )
        return notes


def _spread(values: Sequence[float] | None) -> metrics.MeanAndSpread | None:
    if values is None or any(value is None or math.isnan(value) for value in values):
        return None
    return metrics.mean_and_spread(values)


def _figures(values: Sequence[float] | None) -> dict | None:
    """The values with mean and spread; None for what is missing."""
    if values is None:
        return None
    values = [None if value is None or math.isnan(value) else float(value) for value in values]
    spread = _spread(values)
    if spread is None:
        return {"values": values, "mean": None, "standard_deviation": None, "num_values": len(values)}
    deviation = spread.standard_deviation if len(values) > 1 else None
    return {"values": values, "mean": spread.mean, "standard_deviation": deviation, "num_values": len(values)}


def _score_cell(spread: metrics.MeanAndSpread | None) -> str:
    if spread is None:
        return _MISSING
    if spread.num_values == 1:
        return f"{spread.mean:.3f}"
    return f"{spread.mean:.3f} ± {spread.standard_deviation:.3f} ({spread.num_values})"


def _recovery_cell(spread: metrics.MeanAndSpread | None) -> str:
    if spread is None:
        return _MISSING
    deviation = f" ± {100 * spread.standard_deviation:.0f}%" if spread.num_values > 1 else ""
    return f"{100 * spread.mean:.0f}%{deviation}"
