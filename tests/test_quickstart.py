"""Tests of tfsound.quickstart: the whole way on tiny data, newcomers' mistakes, the dealing of folds."""

import collections
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import tiny
from hypothesis import given
from hypothesis import strategies as st

from tfsound import cli, datasets, examples, networks, quickstart, training

PICTURES = ("evaluation.png", "neighbours.png", "map.png", "training.png")
SMALL = ("--encoder", "tiny", "--num-steps", "3", "--batch-size", "8", "--num-triplets", "32")


@pytest.fixture(autouse=True)
def tiny_encoder(monkeypatch):
    monkeypatch.setitem(networks.ENCODERS, "tiny", tiny.encoder)
    monkeypatch.setitem(quickstart._STEP_SECONDS, "tiny", 40.0)


def run(output, *argv):
    """The exit code of `tfsound quickstart` at its smallest."""
    return cli.main(["quickstart", "--output", str(output), *SMALL, *map(str, argv)])


def write_sounds(folder, names, seconds=2.5):
    """Writes a tone of its own pitch into each file."""
    for number, name in enumerate(names):
        path = pathlib.Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        times = np.arange(int(seconds * 8000)) / 8000
        soundfile.write(path, 0.3 * np.sin(2 * np.pi * 300 * (number + 1) * times), 8000)


def require_pictures(output):
    for name in PICTURES:
        content = (output / name).read_bytes()
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        assert content[-8:-4] == b"IEND"
        assert int.from_bytes(content[16:20]) <= 1600


def modification_times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def interrupt(*_, **__):
    raise KeyboardInterrupt


def do_not_repeat(*_, **__):
    raise AssertionError("this part was finished")


def test_synthetic_recordings_from_end_to_end(tmp_path, capsys, monkeypatch):
    """Interrupted twice, finished, called again, called otherwise."""
    output = tmp_path / "output"
    with monkeypatch.context() as patched:
        patched.setattr(training, "train", interrupt)
        assert run(output, "--num-recordings", 48) == 130
    first_words = capsys.readouterr().out
    assert "Synthesising 48 recordings" in first_words
    assert (
        "Fold 1: an encoder learns from 32 recordings, without labels, and is scored on the other 16."
        in first_words
    )
    assert f"3 training steps take about 1 min on 2 cores. Everything goes to {output};" in first_words

    for part in ("make_examples", "sample_triplets"):
        monkeypatch.setattr(quickstart, part, do_not_repeat)
    with monkeypatch.context() as patched:
        patched.setattr(quickstart.saved_model, "export", interrupt)
        assert run(output, "--num-recordings", 48) == 130
    assert not (output / "model").exists()

    monkeypatch.setattr(training, "train", do_not_repeat)
    capsys.readouterr()
    assert run(output, "--num-recordings", 48) == 0
    text = capsys.readouterr().out
    assert "training steps" not in text
    require_table(text)
    require_pictures(output)
    require_snippet_runs(text, next((output / "recordings" / "audio").iterdir()))
    assert json.loads((output / "evaluation.json").read_text())["by"] == "labels"
    assert len(training.read_log(output / "without_fold_1" / "run" / "log.csv")) == 3

    kept = ("recordings", "clips", "without_fold_1", "model")
    before = {name: modification_times(output / name) for name in kept}
    assert run(output, "--num-recordings", 48, "--max-failure-fraction", 0.2) == 0
    again = capsys.readouterr().out
    assert again == text
    assert {name: modification_times(output / name) for name in kept} == before

    assert run(output, "--num-recordings", 48, "--seed", 1) == 1
    assert f"{output} was begun with other parameters (seed: 0 then, 1 now)" in capsys.readouterr().err
    assert {name: modification_times(output / name) for name in kept} == before


def require_table(text):
    rows = [line.split("  ")[0] for line in text.splitlines()]
    start = rows.index("Query by example, mAP by labels, 16 segments, all pairs")
    assert rows[start + 1 : start + 5] == ["chance", "log mel (baseline)", "learned embedding", "gain"]


def require_snippet_runs(text, wav):
    """The Python that quickstart shows at its end, without tfsound."""
    shown = text.split("without tfsound:\n")[1]
    code = "\n".join(line.removeprefix("  ") for line in shown.splitlines())
    assert "clip.wav" in code
    code = f"import sys\nsys.modules['tfsound'] = None\n{code}\nprint(embedding.shape)"
    command = [sys.executable, "-I", "-c", code.replace("clip.wav", str(wav))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(1, 128)\n"


def test_an_unlabelled_folder(tmp_path, capsys):
    """With odd names, a damaged file, a short one and one that is no sound."""
    folder = tmp_path / "sounds"
    names = ["$x_{1$.wav", "犬の鳴き声.wav", " #a;b,c.wav", "n" * 100 + ".wav"]
    write_sounds(folder, names + [f"{number}.wav" for number in range(12)])
    write_sounds(folder, ["short.wav"], seconds=0.1)
    (folder / "damaged.wav").write_bytes(b"no sound")
    (folder / "notes.txt").touch()
    output = tmp_path / "output"
    assert run(output, "--audio-dir", folder) == 0
    text = capsys.readouterr().out
    assert f"Clips that could not be used: 1; {output}/clips/failures.jsonl says why." in text
    assert "mAP by recordings" in text
    assert "damaged.wav" in (output / "clips" / "failures.jsonl").read_text()
    require_pictures(output)


def test_a_labelled_folder_with_few_recordings(tmp_path, capsys):
    folder = tmp_path / "sounds"
    write_sounds(folder, [f"{label}/{number}.wav" for label in ("cat", "dog") for number in range(3)])
    (folder / ".hidden").mkdir()
    assert run(tmp_path / "output", "--audio-dir", folder, "--folds", 1, 2) == 0
    text = capsys.readouterr().out
    assert (
        "Fold 2: an encoder learns from 3 recordings, without labels, and is scored on the other 3." in text
    )
    assert "6 training steps take about 1 min" in text
    assert "mAP by labels, 6 segments" in text
    assert ", n=2)" in text
    assert json.loads((tmp_path / "output" / "evaluation.json").read_text())["folds"] == ["1", "2"]


def test_labels_that_nobody_shares(tmp_path, capsys):
    folder = tmp_path / "sounds"
    write_sounds(folder, [f"kind {number}/a.wav" for number in range(4)])
    assert run(tmp_path / "output", "--audio-dir", folder) == 0
    # Two recordings of two windows make 8 different triplets, which may come again.
    triplets = str(tmp_path / "output" / "without_fold_1" / "triplets")
    assert examples.read_dataset_info(triplets, kind=examples.TRIPLETS).num_examples == 32
    text = capsys.readouterr().out
    assert "Too few held-out clips share a label, so the scores go by recordings." in text
    assert "mAP by recordings, 4 segments" in text


def test_recordings_too_short_to_score(tmp_path, capsys):
    write_sounds(tmp_path / "sounds", [f"{number}.wav" for number in range(4)], seconds=1.5)
    assert run(tmp_path / "output", "--audio-dir", tmp_path / "sounds") == 1
    expected = (
        "fold 1 has no two clips of one label and one of another, and 0 usable recordings of 1.92 s or more"
    )
    assert expected in capsys.readouterr().err


def test_a_wrong_folder_leaves_the_output_free(tmp_path, capsys):
    output = tmp_path / "output"
    for name in ("empty", "texts", "one"):
        (tmp_path / name).mkdir()
    (tmp_path / "texts" / "a.txt").touch()
    write_sounds(tmp_path / "one", ["a.wav"])
    messages = {
        "missing": "missing' does not exist; name the folder of your recordings.",
        "empty": f"found no media file; looked in {tmp_path / 'empty'}",
        "texts": f"found no media file; looked in {tmp_path / 'texts'}",
        "one": "one holds too few recordings, 1, expected at least 4",
    }
    for name, message in messages.items():
        assert run(output, "--audio-dir", tmp_path / name) == 1
        stderr = capsys.readouterr().err
        assert stderr.startswith("tfsound quickstart: ")
        assert message in stderr


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"dataset": "esc5"}, "dataset must be one of audioset, .*got 'esc5'"),
        ({"dataset": "esc50"}, "audio_dir '' does not exist; name the folder"),
        ({"dataset": "synthetic", "audio_dir": "x"}, "not with the synthetic ones; leave one out"),
        ({"encoder": "resnet5"}, "encoder must be one of densenet, .*resnet50, resnet_small.*got 'resnet5'"),
        ({"batch_size": 64, "num_triplets": 63}, "got 500, 64 and 63"),
        ({"num_steps": 0}, "num_steps must be at least 1"),
        ({"num_recordings": 8}, "without fold 1, 0 recordings are left to learn from"),
        ({"num_recordings": 9, "folds": ("7",)}, "fold '7' does not occur; folds are 1, 2."),
    ],
)
def test_parameters_are_refused_at_once(tmp_path, parameters, message):
    with pytest.raises(ValueError, match=message):
        quickstart.quickstart(str(tmp_path / "output"), **parameters)
    assert not (tmp_path / "output" / "clips").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").touch()
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="exists and is no output of quickstart; name another output"):
            quickstart.quickstart(str(tmp_path), overwrite=overwrite)
    assert (tmp_path / "thesis.txt").exists()


def rows_of(*labels):
    return [
        datasets.ManifestRow(f"clip {number}", f"recording {number}", "uri", labels=(label,) if label else ())
        for number, label in enumerate(labels)
    ]


@given(st.lists(st.sampled_from(["", "cat", "dog", "rain"]), min_size=1, max_size=60), st.randoms())
def test_folds_hold_every_recording_once_and_none_is_empty(labels, random):
    rows = rows_of(*labels)
    rows += [row for row in rows if random.random() < 0.3]  # recordings of several clips
    dealt = quickstart.with_folds(rows)
    sizes = collections.Counter(fold for _, fold in {(row.recording_id, row.fold) for row in dealt})
    assert sum(sizes.values()) == len(labels)
    assert sorted(sizes) == [str(number + 1) for number in range(len(sizes))]
    assert len(sizes) <= 5
    assert max(sizes.values()) - min(sizes.values()) <= 1
    random.shuffle(rows)
    folds = {row.recording_id: row.fold for row in dealt}
    assert {row.recording_id: row.fold for row in quickstart.with_folds(rows)} == folds


@pytest.mark.parametrize(
    ("num_recordings", "num_folds"), [(1, 1), (3, 1), (4, 2), (5, 2), (6, 3), (9, 4), (10, 5), (99, 5)]
)
def test_unlabelled_folds_hold_two_recordings(num_recordings, num_folds):
    sizes = collections.Counter(row.fold for row in quickstart.with_folds(rows_of(*[""] * num_recordings)))
    assert len(sizes) == num_folds
    assert min(sizes.values()) >= min(2, num_recordings)


@pytest.mark.parametrize(("per_class", "num_folds"), [(3, 2), (6, 4), (10, 5)])
def test_labelled_folds_can_be_scored(per_class, num_folds):
    dealt = quickstart.with_folds(rows_of(*["cat", "dog"] * per_class))
    folds = collections.defaultdict(list)
    for row in dealt:
        folds[row.fold].append(row.labels)
    assert len(folds) == num_folds
    assert all(quickstart._can_score(labels) for labels in folds.values())


def test_folds_of_the_data_set_stay():
    rows = [datasets.ManifestRow("a", "a", "uri", fold="george"), datasets.ManifestRow("b", "b", "uri")]
    assert [row.fold for row in quickstart.with_folds(rows)] == ["george", "1"]
