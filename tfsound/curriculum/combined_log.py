"""The logs of all phases as one: `curriculum.csv`, a row an interval of a phase, and `curriculum.json`.

Columns of `curriculum.csv`: `phase`, the weight of each loss (`loss_weights`), and those of the runs'
`log.csv`; empty where a phase has none such. Both files are made of the phases' runs alone, so that they can
be made again at any time.
"""

import csv
import io
import os
from collections.abc import Sequence

from tfsound import resumption, training
from tfsound.curriculum.phases import Phase, loss_weights

LOG_NAME = "curriculum.csv"
SUMMARY_NAME = "curriculum.json"


def write_combined_log(output: str, runs: Sequence[tuple[Phase, str]]) -> None:
    """Writes both files.

    Args:
      runs: each phase and its run, begun or finished.
    """
    rows, phases = [], []
    for phase, run in runs:
        weights = loss_weights(phase)
        log = training.read_log(os.path.join(run, training.LOG_NAME))
        rows += [
            {"phase": phase.name} | weights | row | {name: int(row[name]) for name in ("epoch", "step")}
            for row in log
        ]
        is_finished = os.path.exists(os.path.join(run, training.ENCODER_INFO_NAME))
        phases.append(
            {
                "phase": phase.name,
                "run": os.path.relpath(run, output),
                "num_steps": int(log[-1]["step"]) if log else 0,
                "finished": is_finished,
                "converged": is_finished and training.finished_run(run).converged,
                "weights": weights,
                "final": log[-1] if log else {},
            }
        )
    columns = list(dict.fromkeys(name for row in rows for name in row)) or ["phase"]
    # What is weighted and what is measured stand in blocks.
    columns.sort(key=lambda name: (name != "phase", not name.endswith("_weight")))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    resumption.write_text(os.path.join(output, LOG_NAME), text.getvalue())
    resumption.write_json(os.path.join(output, SUMMARY_NAME), {"phases": phases})
