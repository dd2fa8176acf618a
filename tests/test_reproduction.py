"""The tables of the triplet papers at the smallest scale: every row is trained, scored, kept and reported."""

import dataclasses
import json
import os

import pytest
import tiny

from tfsound import datasets, evaluation, networks, reproduction
from tfsound.reproduction import encoders, scales, triplet_papers, units

FEW = evaluation.TrainingOptions(max_epochs=2, patience=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Thirty recordings of three classes in three folds, listed by a table."""
    folder = tmp_path_factory.mktemp("data")
    rows = datasets.ADAPTERS["synthetic"](
        str(folder / "recordings"), num_recordings=30, num_classes=3, seconds=2.0, num_folds=3
    ).rows
    datasets.write_manifest(str(folder / "table.csv"), rows)
    return str(folder / "table.csv")


@pytest.fixture(scope="module", autouse=True)
def small():
    """An encoder that compiles in a second, few steps, and the ends of each sweep."""
    scale = dataclasses.replace(
        scales.SCALES["tiny"], encoder="tiny", vgg="tiny", num_examples=64, num_steps=2, batch_size=16,
        segments_per_class=(2, 3), num_draws=2, classifier=FEW,
    )  # fmt: skip
    paper = triplet_papers.PAPERS["triplets-2018"]
    sweeps = {name: (values[0], values[-1]) for name, values in paper.sweeps.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(networks.ENCODERS, "tiny", tiny.encoder)
        patch.setitem(scales.SCALES, "tiny", scale)
        patch.setitem(triplet_papers.PAPERS, "triplets-2018", dataclasses.replace(paper, sweeps=sweeps))
        yield


def reproduce(data, output, **options):
    options = {"dataset": "csv", "scale": "tiny"} | options
    return reproduction.reproduce("triplets-2018", data, str(output), **options)


@pytest.fixture(scope="module")
def reproduced(data, small, tmp_path_factory):
    """The folder of a whole run with fold 2 held out, its text, and the triplets that it sampled."""
    output, sampled = tmp_path_factory.mktemp("reproduced") / "out", []
    sample_triplets = encoders.sample_triplets

    def sample(*arguments, **options):
        sampled.append((options["exclude_folds"], options["constraints"]))
        return sample_triplets(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "sample_triplets", sample)
        text = str(reproduce(data, output, folds=("2",)))
    return output, text, sampled


def test_every_table_is_there_with_the_papers_figures(reproduced):
    output, text, _ = reproduced
    for title in ("Table 1", "Table 2: QbE mAP", "Table 2: 1 layer mAP", "Table 3"):
        assert title in text
    for row in triplet_papers.PAPERS["triplets-2018"].representations:
        assert row.name in text
    assert "nan" not in text
    report = json.loads((output / "report.json").read_text())
    rows = report["tables"]["Table 2: QbE mAP"]["rows"]
    assert [row["name"] for row in rows][:2] == ["Explicit labels (topline)", "Log mel (baseline)"]
    assert rows[0]["scores"]["in the paper"]["mean"] == 0.790
    assert rows[1]["recovery"]["in the paper"]["mean"] == 0
    assert rows[-1]["recovery"]["in the paper"]["mean"] == pytest.approx(0.41, abs=0.005)
    light = report["tables"]["Table 3: light supervision"]["rows"]
    assert [row["scores"]["in the paper"]["mean"] for row in light] == [0.032, 0.072, 0.143]
    for row in light:
        assert {"mAP, 2 segments a class", "mAP, 3 segments a class"} < set(row["scores"])
    for name in ("report.md", "noise_stddev.png", "max_frequency_shift_bins.png", "mixing_weight.png"):
        assert (output / name).stat().st_size > 500


def test_no_encoder_has_seen_the_fold_that_it_is_scored_on(reproduced):
    output, _, sampled = reproduced
    assert {folds for folds, _ in sampled} == {("2",)}
    # Table 1's rows of the paper's own settings are those of table 2.
    assert len(sampled) == len(set(sampled)) == 6 + 6 - 1
    runs = list((output / "encoders").glob("*/without_2/run"))
    assert len(runs) == len(sampled)
    assert not list((output / "encoders").glob("*/*/triplets"))


def test_negatives_are_mined_as_section_4_2_says(reproduced):
    output, _, _ = reproduced
    mining = {
        run.parent.parent.name: json.loads((run / "encoder.json").read_text())["config"]["mining"]
        for run in (output / "encoders").glob("*/without_2/run")
    }
    assert {name for name, value in mining.items() if value == "on"} == {
        "labels", "proximity-10", "noise-0.5+translation-10+mixing-0.25+proximity-10",
    }  # fmt: skip


def test_what_is_finished_is_kept(reproduced, data, capsys):
    output, text, _ = reproduced
    scores = sorted((output / "scores").rglob("*.json"))
    assert len(scores) == 26
    scores[0].unlink()
    (output / "windows").mkdir()
    (output / "windows" / "train").write_text("of a call that was killed")
    assert str(reproduce(data, output, folds=("2",))) == text
    printed = capsys.readouterr().out
    assert printed.count("about 0 min left") == 1
    assert "[26/26]" in printed
    assert not (output / "windows").exists()


def test_the_margin_is_the_papers_or_as_asked_for(reproduced, data, tmp_path, monkeypatch):
    assert {read_margin(path) for path in reproduced[0].glob("encoders/*/*/run")} == {0.1}
    # One figure of table 3 alone, which needs the joint encoder.
    monkeypatch.setattr(
        units, "work_off", lambda parts, _: next(part for part in parts if "Joint" in part.key).compute()
    )
    reproduce(data, tmp_path / "out", folds=("2",), table="3", margin=0.5)
    (run,) = (tmp_path / "out").glob("encoders/*/*/run")
    assert read_margin(run) == 0.5


def read_margin(run):
    return json.loads((run / "encoder.json").read_text())["config"]["margin"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": "huge"}, r"scale must be one of \['paper', 'small', 'tiny'\], got 'huge'"),
        ({"dataset": "mine"}, "dataset must be one of .*csv.*, got 'mine'"),
        ({"folds": ("7",)}, "folds must be among 1, 2, 3, got 7"),
        ({"table": "4"}, r"table must be one of \['1', '2', '3'\], got '4'"),
        ({"rows": ("e",)}, "rows are letters of coincidence-2020, of .*, got .'e'."),
        ({"margin": -0.1}, "margin must be at least 0 and finite, got -0.1"),
        ({"margin": float("nan")}, "margin must be at least 0 and finite, got nan"),
    ],
)
def test_what_cannot_be_asked_for(data, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        reproduce(data, tmp_path / "out", **options)


def test_an_unknown_paper(data, tmp_path):
    with pytest.raises(ValueError, match=r"paper must be one of .*, got 'triplets-2019'"):
        reproduction.reproduce("triplets-2019", data, str(tmp_path / "out"))
    assert not os.path.exists(tmp_path / "out")


def test_a_fold_that_retrieval_cannot_score_fails_before_training(tmp_path, data):
    rows = [dataclasses.replace(row, labels=(row.clip_id,)) for row in datasets.read_manifest(data)]
    datasets.write_manifest(str(tmp_path / "table.csv"), rows)
    with pytest.raises(evaluation.EvaluationError, match="no class of 12 segments has two and a segment"):
        reproduce(str(tmp_path / "table.csv"), tmp_path / "out")
    assert not (tmp_path / "out" / "encoders").exists()


@pytest.mark.parametrize("paper", triplet_papers.PAPERS.values(), ids=triplet_papers.PAPERS)
def test_the_joint_encoder_has_every_unsupervised_constraint(paper):
    unsupervised = [row.constraints for row in paper.representations[2:-1]]
    assert paper.joint.constraints == tuple(constraint for (constraint,) in unsupervised)
