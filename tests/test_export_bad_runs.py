"""Tests of runs that cannot be exported: missing, half trained, damaged, of another version."""

import json
import os
import shutil

import pytest
from classifier_sets import clips, train, triplet_run, whole_run
from training_runs import interrupted_at

from tfsound import cli, training
from tfsound.export import saved_model

__all__ = ["clips", "triplet_run", "whole_run"]  # fixtures
pytestmark = pytest.mark.usefixtures("tiny_encoder")


def require_refused(run, tmp_path, message, error=training.TrainingError):
    with pytest.raises(error, match=message):
        saved_model.export(str(run), str(tmp_path / "model"))
    assert not (tmp_path / "model").exists()


@pytest.fixture
def copied_run(whole_run, tmp_path):
    """A finished run on labels, to be spoilt."""
    return shutil.copytree(whole_run[0], tmp_path / "run")


def edit_info(run, change):
    path = run / "encoder.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


def test_a_run_that_is_not_there(tmp_path):
    require_refused(
        tmp_path / "run", tmp_path, r"run holds no trained encoder \(encoder.json\): it does not ex"
    )


def test_a_folder_of_something_else(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"model_type": "bert"}')
    require_refused(tmp_path / "run", tmp_path, "it is no training run")


@pytest.mark.parametrize("step", [1, 4])
def test_a_run_that_is_half_trained(clips, tmp_path, step):
    with interrupted_at(step):
        train(clips, tmp_path / "run")
    require_refused(tmp_path / "run", tmp_path, "it was not finished; train it to its end")


def test_a_run_that_ended_between_its_model_and_its_mark(copied_run, tmp_path):
    os.remove(copied_run / "encoder.json")
    require_refused(copied_run, tmp_path, "it was not finished; train it to its end")


def test_a_run_of_a_schema_of_old(copied_run, tmp_path):
    edit_info(copied_run, lambda info: info["mel_params"].pop("num_bands"))
    message = r"encoder\.json is damaged, or of another version of tfsound \(ValueError: mel parameters must "
    require_refused(
        copied_run, tmp_path, message + r".*\); train the run again with this one, or use the one"
    )


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"mel_params": 1, "config": {}}', "null"])
def test_a_mark_that_is_damaged(copied_run, tmp_path, content):
    (copied_run / "encoder.json").write_text(content)
    require_refused(copied_run, tmp_path, r"encoder\.json is damaged, or of another version of tfsound")


@pytest.mark.parametrize(
    ("fixture", "damage"),
    [("triplet_run", "missing")]
    + [(run, damage) for run in ("whole_run", "triplet_run") for damage in ("empty", "cut off", "other")],
)
def test_a_model_that_is_damaged(fixture, damage, tmp_path, request):
    found = request.getfixturevalue(fixture)
    run = shutil.copytree(found[0] if fixture == "whole_run" else found, tmp_path / "run")
    path = run / ("classifier.keras" if fixture == "whole_run" else "encoder.keras")
    if damage == "missing":
        os.remove(path)
    elif damage == "other":
        path.write_text("no archive")
    else:
        os.truncate(path, 0 if damage == "empty" else path.stat().st_size // 2)
    message = rf"{path.name} cannot be read \(.*\); it is damaged, or of another version of Keras"
    require_refused(run, tmp_path, message)


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "c", "d"], []])
def test_a_label_map_of_another_size(copied_run, tmp_path, names):
    edit_info(copied_run, lambda info: info["config"].update(class_names=names))
    message = f"class_names must be 3, one a class, got {len(names)}"
    require_refused(copied_run, tmp_path, message, ValueError)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--modality", "image"], r"run holds no model\.keras: it was not trained on pairs"),
        (["--modality", "sound"], "modality must be one of ['audio', 'image'], got 'sound'"),
        (["--license", "my own"], "license must be an identifier"),
        (["--evaluation", "nowhere.json"], "nowhere.json"),
    ],
)
def test_the_command_says_what_is_wrong(whole_run, tmp_path, capsys, options, message):
    run = shutil.copytree(whole_run[0], tmp_path / "run")
    assert cli.main(["export", str(run), str(tmp_path / "model"), *options]) == 1
    error = capsys.readouterr().err
    assert message.replace("\\", "") in error
    assert "Traceback" not in error
    assert not (tmp_path / "model").exists()


def test_the_command_exports(whole_run, tmp_path, capsys):
    evaluation = tmp_path / "evaluation.json"
    evaluation.write_text('{"rows": [{"name": "a", "scores": {"b": {"values": [0.5]}}}]}')
    options = ["--evaluation", str(evaluation), "--license", "mit"]
    assert cli.main(["export", whole_run[0], str(tmp_path / "model"), *options]) == 0
    assert capsys.readouterr().out.startswith(f"exported {tmp_path / 'model' / '1'} (largest difference")
    card = (tmp_path / "model" / "1" / "README.md").read_text()
    assert "license: mit" in card
    assert "| b, a | 0.500 (n=1) |" in card
