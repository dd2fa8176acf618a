"""Tests of tfsound.evaluation.tables: the paper's table 2, spreads by hand, what is missing."""

import json
import math

import numpy as np
import pytest

from tfsound import evaluation
from tfsound.evaluation import ONE_LAYER, QUERY_BY_EXAMPLE, TWO_LAYERS

TOPLINE, BASELINE, JOINT = "labels (topline)", "log mel (baseline)", "joint"


def paper_table():
    """Rows of table 2."""
    columns = (QUERY_BY_EXAMPLE, ONE_LAYER, TWO_LAYERS)
    figures = {
        TOPLINE: (0.790, 0.288, 0.289),
        BASELINE: (0.423, 0.065, 0.102),
        "gaussian noise": (0.478, 0.096, 0.114),
        "temporal proximity": (0.562, 0.226, 0.241),
        JOINT: (0.575, 0.244, 0.259),
    }
    rows = {
        name: {c: (value,) for c, value in zip(columns, row, strict=True)} for name, row in figures.items()
    }
    return evaluation.ScoreTable(rows, baseline=BASELINE, topline=TOPLINE)


def two_folds(**rows):
    """A table of one measure."""
    rows = {BASELINE: (0.4, 0.5), TOPLINE: (0.8, 0.9), **rows}
    return evaluation.ScoreTable(
        {name: {QUERY_BY_EXAMPLE: values} for name, values in rows.items()},
        baseline=BASELINE,
        topline=TOPLINE,
    )


def test_the_papers_table_2():
    assert paper_table().to_markdown() == (
        "| representation | QbE mAP | recovery | 1 layer mAP | recovery | 2 layers mAP | recovery |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| labels (topline) | 0.790 | 100% | 0.288 | 100% | 0.289 | 100% |\n"
        "| log mel (baseline) | 0.423 | 0% | 0.065 | 0% | 0.102 | 0% |\n"
        "| gaussian noise | 0.478 | 15% | 0.096 | 14% | 0.114 | 6% |\n"
        "| temporal proximity | 0.562 | 38% | 0.226 | 72% | 0.241 | 74% |\n"
        "| joint | 0.575 | 41% | 0.244 | 80% | 0.259 | 84% |\n\n"
        "Mean ± sample standard deviation (n), or a single value."
    )


def test_folds_by_hand():
    table = two_folds(joint=(0.6, 0.58))
    assert table.recovery(JOINT, QUERY_BY_EXAMPLE) == (pytest.approx(0.5), pytest.approx(0.2))
    assert table.spread(JOINT, QUERY_BY_EXAMPLE).mean == pytest.approx(0.59)
    assert str(table).splitlines() == [
        "representation                QbE mAP   recovery",
        "log mel (baseline)  0.450 ± 0.071 (2)    0% ± 0%",
        "labels (topline)    0.850 ± 0.071 (2)  100% ± 0%",
        "joint               0.590 ± 0.014 (2)  35% ± 21%",
        "Mean ± sample standard deviation (n), or a single value.",
    ]


@pytest.mark.parametrize("missing", [None, (), np.zeros(0), (0.6, math.nan), (None, 0.6)])
def test_what_is_missing_stays_missing(missing):
    table = two_folds(joint=missing)
    assert table.spread(JOINT, QUERY_BY_EXAMPLE) is None
    assert table.recovery(JOINT, QUERY_BY_EXAMPLE) is None
    assert str(table).splitlines()[3].split() == ["joint", "-", "-"]
    row = table.to_dict()["rows"][2]
    assert row["recovery"] == {QUERY_BY_EXAMPLE: None}
    assert row["scores"][QUERY_BY_EXAMPLE] is None or row["scores"][QUERY_BY_EXAMPLE]["mean"] is None


def test_a_column_that_one_row_alone_has():
    table = evaluation.ScoreTable(
        {
            BASELINE: {QUERY_BY_EXAMPLE: (0.4,)},
            TOPLINE: {QUERY_BY_EXAMPLE: (0.8,)},
            JOINT: {ONE_LAYER: [0.3]},
        },
        baseline=BASELINE,
        topline=TOPLINE,
    )
    assert table.measures == (QUERY_BY_EXAMPLE, ONE_LAYER)
    assert str(table).splitlines()[3].split()[-3:] == ["-", "0.300", "-"]


@pytest.mark.parametrize("topline", [(0.4, 0.9), (0.3, 0.9)])
def test_without_a_gap_there_is_no_recovery(topline):
    table = two_folds(**{TOPLINE: topline, JOINT: (0.6, 0.6)})
    for name in (BASELINE, TOPLINE, JOINT):
        assert table.recovery(name, QUERY_BY_EXAMPLE) is None
    assert "No recovery by QbE mAP: the topline does not lie above the baseline everywhere." in str(table)


def test_without_references_there_are_no_recovery_columns():
    # Table 3.
    rows = {"log mel | 4 x 512": {"mAP": (0.03, 0.034)}, "joint | 1 x 512": {"mAP": (0.143,)}}
    table = evaluation.ScoreTable(rows)
    assert table.to_markdown().splitlines()[:4] == [
        "| representation | mAP |",
        "| --- | ---: |",
        "| log mel \\| 4 x 512 | 0.032 ± 0.003 (2) |",
        "| joint \\| 1 x 512 | 0.143 |",
    ]
    assert table.recovery("joint | 1 x 512", "mAP") is None


def refuse_constant(name):
    raise AssertionError(f"{name} is no JSON")


def test_the_dict_is_json():
    table = two_folds(joint=(0.6, math.nan), other=np.array([0.6, 0.7], np.float32))
    fields = json.loads(json.dumps(table.to_dict()), parse_constant=refuse_constant)
    assert (fields["baseline"], fields["topline"]) == (BASELINE, TOPLINE)
    assert fields["measures"] == [QUERY_BY_EXAMPLE]
    assert fields["rows"][2]["scores"][QUERY_BY_EXAMPLE] == {
        "values": [0.6, None], "mean": None, "standard_deviation": None, "num_values": 2,
    }  # fmt: skip
    assert fields["rows"][3]["recovery"][QUERY_BY_EXAMPLE]["mean"] == pytest.approx(0.5)
    single = paper_table().to_dict()["rows"][4]["scores"][QUERY_BY_EXAMPLE]
    assert single == {"values": [0.575], "mean": 0.575, "standard_deviation": None, "num_values": 1}


@pytest.mark.parametrize(
    ("rows", "references", "message"),
    [
        ({}, {}, "a table needs scores, got none in 0 rows"),
        ({"a": {"mAP": None}}, {}, "a table needs scores, got none in 1 rows"),
        ({"a": {"mAP": (1.0,)}}, {"baseline": "a"}, "needs both baseline and topline, got 'a' and ''"),
        (
            {"a": {"mAP": (1.0,)}},
            {"baseline": "a", "topline": "b"},
            r"no row is called 'b'; the rows are \['a'\]",
        ),
        (
            {"a": {"mAP": (0.1, 0.2)}, "b": {"mAP": (0.3, 0.4)}, "c": {"mAP": (0.3,)}},
            {"baseline": "a", "topline": "b"},
            "'c' has 1 scores of 'mAP' and 'a' has 2; score both on the same folds",
        ),
    ],
)
def test_table_errors(rows, references, message):
    with pytest.raises(evaluation.EvaluationError, match=message):
        evaluation.ScoreTable(rows, **references)
