import json

import pytest

from tfsound import resumption

SETTINGS = {"seed": 0, "folds": ("1", "2")}


def test_a_new_output_remembers_its_settings_and_is_taken_up(tmp_path):
    output = str(tmp_path / "a" / "output")
    resumption.take_up(output, SETTINGS, overwrite=False, job="reproduce")
    assert json.loads((tmp_path / "a" / "output" / "reproduce.json").read_text())["folds"] == ["1", "2"]
    (tmp_path / "a" / "output" / "part").write_text("done")
    resumption.take_up(output, SETTINGS, overwrite=False, job="reproduce")
    assert (tmp_path / "a" / "output" / "part").read_text() == "done"


def test_other_settings_are_named_and_overwrite_starts_anew(tmp_path):
    output = str(tmp_path / "output")
    resumption.take_up(output, SETTINGS, overwrite=False, job="reproduce")
    (tmp_path / "output" / "part").write_text("done")
    with pytest.raises(ValueError, match=r"begun with other parameters \(seed: 0 then, 1 now\)"):
        resumption.take_up(output, SETTINGS | {"seed": 1}, overwrite=False, job="reproduce")
    resumption.take_up(output, SETTINGS | {"seed": 1}, overwrite=True, job="reproduce")
    assert [path.name for path in (tmp_path / "output").iterdir()] == ["reproduce.json"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_folders_of_others_are_left_alone(tmp_path, overwrite):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="is no output of reproduce"):
        resumption.take_up(str(tmp_path), SETTINGS, overwrite=overwrite, job="reproduce")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_write_json_leaves_no_part_of_a_file(tmp_path):
    path = tmp_path / "new" / "figures.json"
    resumption.write_json(str(path), {"mAP": 0.5})
    with pytest.raises(TypeError):
        resumption.write_json(str(path), {"mAP": object()})
    assert json.loads(path.read_text()) == {"mAP": 0.5}
