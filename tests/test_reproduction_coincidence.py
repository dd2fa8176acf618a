"""Table 1 of the coincidence paper at the smallest scale, on scenes of made-up takes and on sound alone."""

import dataclasses
import functools
import json
import types

import numpy as np
import pytest
import soundfile
import tiny

from tfsound import datasets, evaluation, networks, reproduction
from tfsound.reproduction import coincidence_paper, labelling, scales
from tfsound.reproduction.coincidence_tables import CoincidenceTables

ROWS = [row.name for row in coincidence_paper.TABLE_1]
ACROSS = "Retrieval across modalities"


@pytest.fixture(scope="module", autouse=True)
def small():
    """An encoder that compiles in a second, and few steps."""
    scale = dataclasses.replace(
        scales.SCALES["tiny"], encoder="tiny", vgg="tiny", num_examples=32, num_steps=2, batch_size=8,
        classifier=evaluation.TrainingOptions(max_epochs=2, patience=1),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(networks.ENCODERS, "tiny", tiny.encoder)
        patch.setitem(scales.SCALES, "tiny", scale)
        yield


@pytest.fixture(scope="module")
def takes(tmp_path_factory):
    """A folder like FSDD's, of tones for takes."""
    root = tmp_path_factory.mktemp("takes")
    (root / "recordings").mkdir()
    times = np.arange(3000) / 8000
    for digit in range(10):
        for speaker, pitch in (("high", 300), ("low", 200)):
            for take in range(12):
                tone = 0.3 * np.sin(2 * np.pi * (pitch + 60 * digit + take) * times)
                soundfile.write(root / "recordings" / f"{digit}_{speaker}_{take}.wav", tone, 8000)
    return str(root)


@pytest.fixture(scope="module")
def reproduced(takes, small, tmp_path_factory):
    """Of thirty scenes to learn from and thirty to score."""
    output = tmp_path_factory.mktemp("reproduced") / "out"
    few = functools.partial(
        datasets.ADAPTERS["digit_scenes"], num_scenes=30, num_eval_scenes=30, scene_seconds=3
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(datasets.ADAPTERS, "digit_scenes", few)
        text = str(
            reproduction.reproduce(
                "coincidence-2020", takes, str(output), dataset="digit_scenes", scale="tiny"
            )
        )
    return output, text


def test_every_row_has_our_figures_beside_the_papers(reproduced):
    output, text = reproduced
    assert "nan" not in text
    tables = json.loads((output / "report.json").read_text())["tables"]
    assert list(tables)[:5] == [
        "Table 1: QbE mAP", "Table 1: 1 layer mAP", ACROSS, "Table 2: clusters", "Table 3: classifiers",
    ]  # fmt: skip
    rows = tables["Table 1: QbE mAP"]["rows"]
    assert [row["name"] for row in rows] == ROWS
    assert [row["scores"]["in the paper"]["mean"] for row in rows] == [
        0.784, 0.421, 0.549, 0.625, 0.552, 0.669, 0.629, 0.641, 0.659, None, 0.677, 0.705,
    ]  # fmt: skip
    # The paper prints whole per cents.
    recoveries = [row["recovery"]["in the paper"] for row in rows]
    assert [recovery and round(100 * recovery["mean"]) for recovery in recoveries] == [
        100, 0, 35, 56, 36, 68, 57, 61, 66, None, 71, 78,
    ]  # fmt: skip


def test_rows_with_pictures_are_scored_across_modalities(reproduced):
    output, _ = reproduced
    table = json.loads((output / "report.json").read_text())["tables"][ACROSS]
    assert [row["name"][0] for row in table["rows"]] == ["d", "f", "g", "h", "i", "f", "j", "k", "c"]
    assert table["rows"][-1]["name"] == evaluation.CHANCE
    assert "sound -> picture R@1 of 10 classes" in table["measures"]


def test_rows_are_trained_as_the_paper_says(reproduced):
    output, _ = reproduced
    configs = {
        run.parent.parent.parent.name: json.loads(run.read_text())["config"]
        for run in (output / "encoders").glob("*/without_eval/run/encoder.json")
    }
    configs = {name: config for name, config in configs.items() if not name.startswith("classifier")}
    assert len(configs) == 2 + 9
    assert {name for name, config in configs.items() if config.get("negatives") == "random"} == {
        "audio_image+10s+random", "audio_image+1s+random+vgg",
    }  # fmt: skip
    assert {name for name, config in configs.items() if config.get("start_from")} == {
        "audio_audio+audio_image+10s+all_pairs+continued",
        "audio_audio+audio_image+10s+all_pairs+continued+18-clusters",
        "audio_image+10s+all_pairs+continued",
    }
    assert not [path for path in output.rglob("audio_image") if path.is_dir()]


def test_labels_of_clusters_stand_beside_labels_at_random(reproduced):
    output, _ = reproduced
    tables = json.loads((output / "report.json").read_text())["tables"]
    clusters = {row["name"]: row["scores"] for row in tables["Table 2: clusters"]["rows"]}
    assert list(clusters) == [
        "10.0%",
        *(f"in the paper: K = {k}" for k in ("1,000", "10,000", "100,000", "1,000,000")),
    ]
    assert clusters["10.0%"]["K"]["mean"] == 18
    assert clusters["10.0%"]["labels"]["mean"] <= 9
    assert clusters["in the paper: K = 1,000"]["V-measure"]["mean"] == 0.553
    classifiers = {row["name"]: row["scores"] for row in tables["Table 3: classifiers"]["rows"]}
    for strategy in labelling.STRATEGIES:
        (row, *_) = (row for name, row in classifiers.items() if name.startswith(strategy.name))
        assert 0 < row["mAP"]["mean"] <= 1
        assert row["labels"]["mean"] == (90 if strategy.asks == "all" else pytest.approx(9, abs=9))
    assert classifiers["in the paper: Random, 370"]["mean d'"]["mean"] == 0.44
    assert (output / "labels.png").stat().st_size > 500
    # Every classifier of a start has it; none has seen the scenes that it is scored on.
    for path in (output / "encoders").glob("classifier*/without_eval/run/encoder.json"):
        config = json.loads(path.read_text())["config"]
        assert config["exclude_folds"] == ["eval"]
        assert bool(config["start_from"]) == ("from scratch" not in str(path))


def test_a_held_out_fold_without_frames_fails_before_training(takes, tmp_path):
    (tmp_path / "a.jpg").write_bytes(tiny.jpeg(0))
    rows = [
        dataclasses.replace(row, fold=speaker, image_uri="" if speaker == "high" else str(tmp_path / "a.jpg"))
        for row in datasets.ADAPTERS["fsdd"](takes).rows
        for speaker in ("high", "low")
        if speaker in row.uri and row.labels[0] in "01"
    ]
    datasets.write_manifest(str(tmp_path / "table.csv"), rows)
    with pytest.raises(evaluation.EvaluationError, match=r"fold high .* none of its 24 clips has frames"):
        reproduction.reproduce(
            "coincidence-2020",
            str(tmp_path / "table.csv"),
            str(tmp_path / "out"),
            dataset="csv",
            scale="tiny",
        )
    assert not (tmp_path / "out" / "encoders").exists()


def test_sound_alone_gives_the_rows_of_sound(tmp_path):
    rows = datasets.ADAPTERS["synthetic"](
        str(tmp_path / "recordings"), num_recordings=18, num_classes=3, seconds=3.0, num_folds=2
    ).rows
    datasets.write_manifest(str(tmp_path / "table.csv"), rows)
    reproduce = functools.partial(
        reproduction.reproduce, "coincidence-2020", str(tmp_path / "table.csv"), str(tmp_path / "out"),
        dataset="csv", scale="tiny",
    )  # fmt: skip
    text = str(reproduce())
    assert _letters_of_table_1(text) == ["a.", "b.", "c.", "e."]
    assert ACROSS not in text
    # What is asked for, of what is there.
    assert _letters_of_table_1(str(reproduce(table="1", rows=("e",)))) == ["a.", "b.", "e."]


def _letters_of_table_1(text: str) -> list[str]:
    return [name[:2] for name in ROWS if name in text.partition("Table 1: 1 layer")[0]]


def test_folds_of_other_numbers_of_classes_are_one_table():
    """What all folds have is over all of them, what one has is of that one."""
    tables = CoincidenceTables(None, types.SimpleNamespace(has_images=True), scales.SCALES["tiny"], 0)
    folds = [
        {"measures": {"R@1": 0.4, "R@1 of 3": 0.9}, "chance": {"R@1": 0.1, "R@1 of 3": 1 / 3}},
        {"measures": {"R@1": 0.6, "R@1 of 2": 0.8}, "chance": {"R@1": 0.1, "R@1 of 2": 1 / 2}},
        {"measures": {"R@1": 0.5}, "chance": {"R@1": 0.1}},
    ]
    scores = [{evaluation.QUERY_BY_EXAMPLE: score, evaluation.ONE_LAYER: score} for score in (0.4, 0.5, 0.6)]
    rows = {name: scores for name in ROWS}
    across = {name: folds for name in ROWS if name.startswith("f")}
    results = {"1": {"retrieval": rows, "classification": rows, "across": across}}
    table = tables.tables(results)[ACROSS]
    assert table.scores("f. AV coincidence", "R@1") == (0.4, 0.6, 0.5)
    assert table.scores("f. AV coincidence", "R@1 of 3") == (0.9,)
    assert table.scores(evaluation.CHANCE, "R@1 of 2") == (0.5,)
