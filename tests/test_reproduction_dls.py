"""Table 1 and figure 4 of the DLS paper at the smallest scale, on one data set and on two."""

import dataclasses
import json
import os
import pathlib

import numpy as np
import pytest
import tiny
from training_runs import at_each_step

from tfsound import datasets, evaluation, examples, metrics, networks, reproduction, training
from tfsound.reproduction import dls_paper, dls_tables, scales

STARTS = [evaluation.FROM_SCRATCH, dls_paper.OTHER_FOLDS]


@pytest.fixture(scope="module", autouse=True)
def small():
    """An encoder that compiles in a second, and few epochs."""
    scale = dataclasses.replace(
        scales.DLS_SCALES["tiny"], encoder="tiny", batch_size=4,
        hyperparameters=(dls_paper.Hyperparameters(6), dls_paper.Hyperparameters(6, 4, 0.1)),
        fine_tuning=evaluation.FineTuningOptions(num_epochs=3, batch_size=4, learning_rate=0.01),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(networks.ENCODERS, "tiny", tiny.encoder)
        patch.setitem(scales.DLS_SCALES, "tiny", scale)
        patch.setattr(dls_tables, "HYPERPARAMETERS", dls_paper.Hyperparameters(6, 4))
        yield


def write_data(folder, *, num_recordings, num_folds, prefix=""):
    """The path of a manifest of made-up recordings of three classes."""
    rows = datasets.ADAPTERS["synthetic"](
        str(folder / "recordings"), num_recordings=num_recordings, num_classes=3, seconds=1.5,
        num_folds=num_folds, seed=len(prefix),
    ).rows  # fmt: skip
    rows = [dataclasses.replace(row, clip_id=prefix + row.clip_id) for row in rows]
    datasets.write_manifest(str(folder / "table.csv"), rows)
    return str(folder / "table.csv")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"), num_recordings=18, num_folds=2)


def reproduce(data, output, **options):
    return reproduction.reproduce("dls-2021", data, str(output), dataset="csv", scale="tiny", **options)


@pytest.fixture(scope="module")
def reproduced(data, small, tmp_path_factory):
    """Of both folds, one after the other."""
    output = tmp_path_factory.mktemp("reproduced") / "out"
    return output, str(reproduce(data, output, folds=("1", "2")))


def tables_of(output):
    """{title: {row: {column: values}}}"""
    tables = json.loads((output / "report.json").read_text())["tables"]
    return {
        title: {
            row["name"]: {name: found and found["values"] for name, found in row["scores"].items()}
            for row in table["rows"]
        }
        for title, table in tables.items()
    }


def config_of(run):
    return json.loads((run / "encoder.json").read_text())["config"]


def test_the_report_has_the_papers_table_and_figure(reproduced):
    output, text = reproduced
    tables = tables_of(output)
    assert list(tables) == [
        "Table 1: data sets", "Pre-training: 5-NN accuracy", "Figure 4, csv: accuracy after epochs",
        "csv: epochs to what scratch has (-: more than 3)",
    ]  # fmt: skip
    for title in tables:
        assert title in text
        assert f"## {title}" in (output / "report.md").read_text()
    assert "nan" not in text
    assert tables["Table 1: data sets"] == {
        "csv": {"clips": [18], "classes": [3], "longest, s": [1.5], "folds": [2]}
    }
    for name in ("figure_4_csv.png", "neighbors_csv.png"):
        assert (output / name).stat().st_size > 500
        assert f"({name})" in (output / "report.md").read_text()


def test_figure_4_is_what_was_fine_tuned(reproduced):
    output, _ = reproduced
    table = tables_of(output)["Figure 4, csv: accuracy after epochs"]
    assert list(table) == STARTS
    for start, folder in zip(STARTS, ("from scratch", "DLS, other folds"), strict=True):
        runs = [output / "classifiers" / "csv" / folder / f"without_{fold}" for fold in "12"]
        logs = [training.read_log(str(run / "log.csv")) for run in runs]
        for epoch in (1, 3):
            assert table[start][str(epoch)] == [log[epoch - 1]["accuracy"] for log in logs]
        for run in runs:
            assert config_of(run)["weight_decay"] == 5e-4
            assert bool(config_of(run)["start_from"]) == (start != evaluation.FROM_SCRATCH)
    epochs = tables_of(output)["csv: epochs to what scratch has (-: more than 3)"]
    means = {start: {epoch: np.mean(values) for epoch, values in row.items()} for start, row in table.items()}
    assert epochs[evaluation.FROM_SCRATCH]["after 1"] == [1]
    if means[dls_paper.OTHER_FOLDS]["1"] >= means[evaluation.FROM_SCRATCH]["3"]:
        assert epochs[dls_paper.OTHER_FOLDS]["after 3"] == [1]


def test_nothing_of_a_held_out_fold_is_heard_before(reproduced):
    output, _ = reproduced
    for fold in "12":
        folder = output / "encoders" / "d 6, 4 negatives, tau 0.4" / "csv" / f"without_{fold}"
        heard = examples.read_instances(str(folder / "instances"))
        assert heard.exclude_folds == (fold,)
        assert heard.num_instances == 9
        assert config_of(folder / "run")["knn_folds"] == [fold]
        start = config_of(output / "classifiers" / "csv" / "DLS, other folds" / f"without_{fold}")
        assert start["start_from"] == str(folder / "run")
        assert start["measure_folds"] == [fold]
    assert not (output / "encoders" / "d 6, 4 negatives, tau 0.4" / "all").exists()


def test_neighbors_of_pre_training_stand_beside_those_of_spectrograms(reproduced):
    output, _ = reproduced
    table = tables_of(output)["Pre-training: 5-NN accuracy"]
    assert list(table) == ["raw spectrogram", "DLS, after 1 epochs", "DLS, after 2 epochs"]
    clips = str(output / "sets" / "csv" / "clips")
    params = examples.read_dataset_info(clips, kind=examples.CLIPS).mel_params
    sides = {}
    for fold in "12":
        found = list(examples.iter_clips(clips, folds=(fold,)))
        vectors = [examples.clip_windows(clip, params).mean(axis=0).ravel() for clip in found]
        sides[fold] = (np.stack(vectors), np.array([clip.labels[0] for clip in found]))
    expected = [
        metrics.weighted_knn_accuracy(*sides["2"], *sides["1"], k=5, temperature=0.4).accuracy,
        metrics.weighted_knn_accuracy(*sides["1"], *sides["2"], k=5, temperature=0.4).accuracy,
    ]
    assert table["raw spectrogram"]["csv"] == pytest.approx(expected)
    for number, fold in enumerate("12"):
        run = output / "encoders" / "d 6, 4 negatives, tau 0.4" / "csv" / f"without_{fold}" / "run"
        log = training.read_log(str(run / "log.csv"))
        for epochs in (1, 2):
            accuracy = table[f"DLS, after {epochs} epochs"]["csv"][number]
            assert accuracy == log[epochs - 1]["knn_accuracy"]


def test_what_is_finished_is_kept(reproduced, data, capsys):
    output, text = reproduced
    scores = sorted((output / "scores").rglob("*.json"))
    assert len(scores) == 1 + 2 * (1 + 2)
    (output / "scores" / "fine-tuning" / "csv, DLS, other folds" / "fold_2.json").unlink()
    assert str(reproduce(data, output, folds=("1", "2"))) == text
    printed = capsys.readouterr().out
    assert printed.count("about 0 min left") == 1
    assert "[7/7] fine-tuning, csv, DLS, other folds, fold 2: last accuracy 0." in printed


def test_an_interrupted_one_goes_on_where_it_was(reproduced, data, tmp_path):
    def interrupt(steps_done):
        run = pathlib.Path(tmp_path / "out" / "classifiers" / "csv" / "DLS, other folds" / "without_1")
        if run.exists() and steps_done == 4:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        at_each_step(patch, interrupt)
        with pytest.raises(KeyboardInterrupt):
            reproduce(data, tmp_path / "out", folds=("1", "2"))
    assert len(list((tmp_path / "out" / "scores").rglob("*.json"))) == 3
    reproduce(data, tmp_path / "out", folds=("1", "2"))
    expected, found = (tables_of(folder) for folder in (reproduced[0], tmp_path / "out"))
    assert found == expected


def test_one_table_alone(data, tmp_path):
    text = str(reproduce(data, tmp_path / "out", table="1"))
    assert "Table 1: data sets" in text
    assert "Figure 4" not in text
    assert not (tmp_path / "out" / "encoders").exists()


@pytest.fixture(scope="module")
def joined(data, small, tmp_path_factory):
    """Two data sets: recordings of a manifest, and others in three folds."""
    folder = tmp_path_factory.mktemp("joined")
    other = write_data(folder, num_recordings=12, num_folds=3, prefix="other-")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(datasets.ADAPTERS, "other", datasets.ADAPTERS["csv"])
        text = str(reproduce(data, folder / "out", more_datasets=(f"other={other}",)))
    return folder / "out", text


def test_of_several_sets_hyperparameters_are_found_and_then_all_is_heard(joined):
    output, _ = joined
    tables = tables_of(output)
    phase_one = tables["Phase one: 5-NN accuracy by hyperparameters"]
    (chosen,) = (name for name in phase_one if name.endswith(" (chosen)"))
    means = {
        name: np.mean([value for values in row.values() for value in values])
        for name, row in phase_one.items()
    }
    assert means[chosen] == max(means.values())
    folder = output / "encoders" / chosen.removesuffix(" (chosen)") / "all"
    assert config_of(folder / "run")["num_negatives"] in (4, 30)
    heard = examples.read_instances(str(folder / "instances"))
    assert heard.num_instances == 18 + 12
    assert (heard.folds, heard.exclude_folds) == ((), ())
    for name in ("csv", "other"):
        table = tables[f"Figure 4, {name}: accuracy after epochs"]
        assert list(table) == [*STARTS, dls_paper.ALL_SETS]
        run = output / "classifiers" / name / "DLS, all sets and folds" / "without_1"
        assert config_of(run)["start_from"] == str(folder / "run")
    assert set(tables["Pre-training: 5-NN accuracy"]["raw spectrogram"]) == {"csv", "other"}


class KnownAccuracies:
    """Stands in for the pre-training: a run is its arguments, and of a run its accuracy is known."""

    def __init__(self, accuracies):
        self.accuracies = accuracies

    def without(self, name, fold, hyperparameters):
        return name, fold, hyperparameters

    def knn_accuracies(self, run):
        return {"epochs": [1.0], "accuracies": [self.accuracies[run]]}


@pytest.mark.parametrize("held_out", [("1",), ("2",)])
def test_hyperparameters_are_the_best_on_the_average_whatever_is_held_out(data, tmp_path, held_out):
    first, second = candidates = scales.DLS_SCALES["tiny"].hyperparameters
    accuracies = {
        ("a", "1", first): 0.9, ("b", "1", first): 0.1, ("a", "1", second): 0.5, ("b", "1", second): 0.6,
        **{(name, "2", each): float(each == first) for name in "ab" for each in candidates},
    }  # fmt: skip
    rows = datasets.read_manifest(data)
    sources = {name: dls_tables.Source(rows, "", "1", held_out) for name in "ab"}
    tables = dls_tables.DlsTables(
        sources, KnownAccuracies(accuracies), str(tmp_path), scales.DLS_SCALES["tiny"], ""
    )
    assert tables.hyperparameters == second
    assert {unit.fold for unit in tables.units() if unit.kind == "phase one"} == {"1"}


def test_a_set_that_is_a_part_of_another_is_heard_once():
    rows = [datasets.ManifestRow(str(number), "r", "x.wav") for number in range(4)]
    whole_sets = reproduction.run._whole_sets
    assert whole_sets({"esc10": rows[:2], "esc50": rows, "other": rows[3:]}) == ("esc50",)
    assert whole_sets({"a": rows[:3], "b": rows[1:]}) == ("a", "b")


def test_the_papers_rows_stand_below_ours():
    curves = evaluation.FineTuning(
        ("1",), {evaluation.FROM_SCRATCH: np.full((1, 15), 0.5), "DLS": np.full((1, 15), 0.7)}, 10, 80
    )
    table = dls_tables._curves_table(curves, "esc10").to_dict()
    assert [row["name"] for row in table["rows"]][2:] == [
        "in the paper, about: DLS, all sets and folds", "in the paper, about: from scratch",
    ]  # fmt: skip
    assert [row["scores"]["3"]["mean"] for row in table["rows"]] == [0.5, 0.7, 0.8, 0.4]
    assert table["measures"] == ["1", "3", "5", "10", "15"]
    needed = dls_tables._epochs_table(curves).to_dict()
    assert needed["measures"] == [f"after {epoch}" for epoch in (1, 3, 5, 10, 15)]
    assert dls_paper.TABLE_1["esc50"].num_clips == 2000


def test_an_epoch_that_was_not_measured_is_the_last_before_it():
    figures = {"epochs": [1.0, 3.0], "accuracies": [0.2, 0.4]}
    assert [dls_tables._at(figures, epoch) for epoch in (1, 2, 3, 9)] == [0.2, 0.2, 0.4, 0.4]
    assert np.isnan(dls_tables._at(figures, 0.5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"table": "2"}, r"table must be one of \['1', 'knn', '4'\], got '2'"),
        ({"folds": ("7",)}, "folds must be among 1, 2, got 7"),
        ({"more_datasets": ("esc50",)}, "must be DATASET=ROOT, each another data set than csv, got 'esc50'"),
        ({"more_datasets": ("csv=x",)}, "each another data set than csv, got 'csv=x'"),
        ({"more_datasets": ("mine=x",)}, "dataset must be one of .*csv.*, got 'mine'"),
        ({"class_prior": "longtail"}, "dls-2021 learns from all clips that there are"),
        ({"imagenet_weights": "x.h5"}, "only densenet and esresnet can start from ImageNet"),
    ],
)
def test_what_cannot_be_asked_for(data, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        reproduce(data, tmp_path / "out", **options)
    assert not (tmp_path / "out" / "encoders").exists()


def test_other_papers_have_one_data_set(data, tmp_path):
    with pytest.raises(ValueError, match="more_datasets and imagenet_weights are of dls-2021 alone"):
        reproduction.reproduce("triplets-2018", data, str(tmp_path / "out"), more_datasets=("esc10=x",))
    assert not os.path.exists(tmp_path / "out")
