import json
import multiprocessing

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


def _hold(output, is_held, may_end):
    with resumption.in_use(output):
        is_held.set()
        may_end.wait()


def test_another_process_is_kept_out_until_the_first_ends(tmp_path):
    output, context = str(tmp_path / "output"), multiprocessing.get_context("spawn")
    is_held, may_end = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(output, is_held, may_end))
    process.start()
    assert is_held.wait(60)
    with (
        pytest.raises(resumption.InUseError, match=r"another process is at work in .*output; let it end"),
        resumption.taken_up(output, SETTINGS, overwrite=True, job="reproduce"),
    ):
        pytest.fail("two at once")
    process.kill()  # however it ends
    process.join()
    with resumption.taken_up(output, SETTINGS, overwrite=True, job="reproduce"):
        assert (tmp_path / "output" / "reproduce.json").exists()


def test_overwriting_keeps_the_folder_that_is_in_use(tmp_path):
    """A new folder of the same name would be free for others to enter."""
    output = tmp_path / "output"
    with resumption.taken_up(str(output), SETTINGS, overwrite=False, job="reproduce"):
        (output / "part").mkdir()
        (output / "part" / "figures").write_text("1")
        before = output.stat().st_ino
    with resumption.taken_up(str(output), SETTINGS, overwrite=True, job="reproduce"):
        assert output.stat().st_ino == before
        assert [path.name for path in output.iterdir()] == ["reproduce.json"]


def test_a_file_is_no_output(tmp_path):
    (tmp_path / "output").write_text("x")
    with (
        pytest.raises(NotADirectoryError, match="output is a file, expected a folder or nothing"),
        resumption.in_use(str(tmp_path / "output")),
    ):
        pytest.fail("a file was taken for a folder")
