"""The job `examples` on bad input: rejected with a reason that names it, while the others go on."""

import builtins
import json
import os
import re

import numpy as np
import pytest
import soundfile
from test_beam_examples import (
    PARAMS,
    RATE,
    ROW,
    assert_energies,
    clips_of,
    expected_energies,
    failures_of,
    make,
    write_noise,
)

from tfsound import datasets, examples
from tfsound.beam import examples as job
from tfsound.beam import output as job_output


@pytest.fixture(scope="module")
def bad_set(tmp_path_factory):
    """One job over good clips and every kind of bad one; returns its folder."""
    folder = tmp_path_factory.mktemp("bad")
    good = write_noise(folder / "good.wav", 2.0)
    rows = [ROW("good", "g", good), ROW("zz-good", "g", good, 0.0, 1.0)]
    (folder / "empty.wav").write_bytes(b"")
    (folder / "truncated.wav").write_bytes((folder / "good.wav").read_bytes()[:9000])
    (folder / "text.wav").write_text("this is no sound " * 100)
    soundfile.write(folder / "no_samples.wav", np.zeros(0, np.float32), RATE)
    for name, value in (("nan", np.nan), ("inf", np.inf), ("loud", 1e5)):
        samples = np.random.default_rng(0).choice([-1.0, 1.0], RATE) * (value if name == "loud" else 0.1)
        samples[500] = value
        soundfile.write(folder / f"{name}.wav", samples, RATE, subtype="FLOAT")
    (folder / "directory.wav").mkdir()
    rows += [
        ROW(name, name, f"{name}.wav")
        for name in (
            *("empty", "truncated", "text", "no_samples", "nan", "inf", "loud", "directory", "missing"),
            "secret",
        )
    ]
    rows += [ROW("past", "g", good, 5.0, 6.0), ROW("past-the-end", "g", good, 1.0, 4.0)]
    for name, options in {
        "eight": {"subtype": "PCM_U8"},
        "twenty-four": {"subtype": "PCM_24"},
        "float": {"subtype": "FLOAT"},
        "seven": {"channels": 7},
    }.items():
        rows.append(ROW(name, name, write_noise(folder / f"{name}.wav", 1.0, **options)))
    rows.append(ROW("one", "one", write_noise(folder / "one.wav", 1 / RATE, subtype="FLOAT")))
    for number, name in enumerate(("a b", "quo'te\"", "new\nline", "日本語 naïve", "%03d", "-x")):
        rows.append(ROW(name, name, write_noise(folder / f"{name}.wav", 1.0, seed=number)))
    write_noise(folder / "secret.wav", 1.0)
    datasets.write_manifest(str(folder / "manifest.csv"), rows)
    with open(folder / "manifest.csv", "a", encoding="utf-8") as file:
        file.write("good,other,good.wav,,,,,,\nbackwards,g,good.wav,1.5,1.0,,,,\nno-uri,g,,,,,,,\n")

    def no_permission(path, *arguments, **options):  # root may read everything
        if str(path).endswith("secret.wav"):
            raise PermissionError(13, "Permission denied", path)
        return original(path, *arguments, **options)

    original = builtins.open
    builtins.open = no_permission
    try:
        job.make_examples(
            str(folder / "manifest.csv"), str(folder / "set"), num_workers=1, max_failure_fraction=0.9
        )
    finally:
        builtins.open = original
    return folder


BAD_CLIPS = {
    "empty": r"empty\.wav.*is an empty file \(0 bytes\); expected sound",
    "truncated": r"truncated\.wav.*truncated: its data chunk should reach byte 64044, .* at byte 9000",
    "text": r"text\.wav.*no sound or video that can be read.*expected undamaged WAV",
    "no_samples": r"no_samples\.wav.*holds no samples; expected sound",
    "nan": r"nan\.wav.*the sample at 0\.031250 s is nan; expected finite samples",
    "inf": r"inf\.wav.*the sample at 0\.031250 s is inf; expected finite samples",
    "loud": r"mel energies reach .*beyond float16; expected a waveform within \[-1, 1\]: scale",
    "directory": r"directory\.wav.*is a directory or device; expected the path of one",
    "missing": r"missing\.wav.*no such file; correct the path",
    "secret": r"secret\.wav.*permission denied; expected a readable file",
    "past": r"good\.wav.*segment past the end: asked for 5\.000 s to 6\.000 s, but the sound lasts 2\.000 s",
    "past-the-end": r"good\.wav.*segment past the end: asked for 1\.000 s to 4\.000 s",
    "good": r"clip_id 'good' stands in .*, row 2, already, which was kept; give every clip an id of its own",
    "backwards": r"manifest\.csv, row \d+, end_seconds: found 1\.0, expected more than the start, 1\.5",
    "no-uri": r"manifest\.csv, row \d+, uri: found '', expected a name that is not blank; fill it in",
}


@pytest.mark.parametrize(("clip_id", "message"), BAD_CLIPS.items())
def test_bad_input_is_rejected_with_its_reason(bad_set, clip_id, message):
    assert re.search(message, failures_of(bad_set / "set")[clip_id])


def test_nothing_else_is_rejected_and_the_others_go_on(bad_set):
    assert set(failures_of(bad_set / "set")) == set(BAD_CLIPS)
    clips = clips_of(bad_set / "set")
    assert set(clips) == {
        *("good", "zz-good", "eight", "twenty-four", "float", "seven", "one"),
        *("a b", "quo'te\"", "new\nline", "日本語 naïve", "%03d", "-x"),
    }
    info = examples.read_dataset_info(str(bad_set / "set"), kind=examples.CLIPS)
    assert (info.num_failures, info.num_examples, info.num_windows) == (len(BAD_CLIPS), 13, 14)
    assert info.num_clips == 13
    assert clips["good"].recording_id == "g"  # the first of two rows with one clip_id
    for name in ("eight", "twenty-four", "float", "seven", "one", "日本語 naïve"):
        assert_energies(clips[name], expected_energies(bad_set / f"{name}.wav"))
    assert len(clips["one"].mel_energy) == PARAMS.context_frames


def test_failures_name_the_row_and_the_file(bad_set):
    with open(bad_set / "set" / "failures.jsonl", encoding="utf-8") as file:
        failures = [json.loads(line) for line in file]
    assert [failure["row"] for failure in failures] == sorted(failure["row"] for failure in failures)
    empty = next(failure for failure in failures if failure["clip_id"] == "empty")
    assert (empty["row"], empty["uri"]) == (4, str(bad_set / "empty.wav"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.csv", "clip_id,uri,colour\na,a.wav,red\n", "unknown column 'colour'"),
        ("m.csv", "clip_id,uri\n", "found no rows, expected at least one clip"),
        ("m.csv", "", "found no header"),
        ("m.txt", "uri\na.wav\n", "found extension '.txt', expected one of .csv"),
        ("m.csv", "uri\n\xff\n", "not UTF-8 text"),
    ],
)
def test_a_manifest_that_cannot_be_used_fails_at_once(tmp_path, name, text, message):
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(datasets.ManifestError, match=message):
        job.make_examples(str(tmp_path / name), str(tmp_path / "set"))
    assert os.listdir(tmp_path) == [name]


def test_a_manifest_that_is_not_there(tmp_path):
    with pytest.raises(datasets.ManifestError, match=r"m\.csv: cannot be read .*check the path"):
        job.make_examples(str(tmp_path / "m.csv"), str(tmp_path / "set"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_clip_seconds": 0.0}, "max_clip_seconds must be positive"),
        ({"max_clip_seconds": float("nan")}, "max_clip_seconds must be positive and finite"),
        ({"max_clip_seconds": float("inf")}, "max_clip_seconds must be positive and finite"),
        ({"max_failure_fraction": 1.5}, r"max_failure_fraction in \[0, 1\] .*got 57\.6, 1\.5 and 0"),
        ({"num_shards": -1}, "num_shards at least 0"),
        ({"mel_preset": "vggish"}, r"one of \['audioset', 'esresnet', 'yamnet'\], got 'vggish'"),
        ({"worker_mode": "fibres"}, "worker_mode must be one of"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_done(tmp_path, options, message):
    write_noise(tmp_path / "a.wav", 1.0)
    with pytest.raises(ValueError, match=message):
        make(tmp_path, [ROW("a", "a", "a.wav")], **options)
    assert not (tmp_path / "set.partial").exists()


def test_too_many_failures_publish_nothing(tmp_path):
    write_noise(tmp_path / "a.wav", 1.0)
    rows = [ROW("a", "a", "a.wav"), ROW("b", "b", "b.wav"), ROW("c", "c", "c.wav")]
    with pytest.raises(job_output.JobError) as raised:
        make(tmp_path, rows, max_failure_fraction=0.5)
    path = tmp_path / "set.partial" / "failures.jsonl"
    assert "2 of 3 clips were rejected, expected at most the fraction 0.5 and not all" in str(raised.value)
    assert f"All reasons are in {path}" in str(raised.value)
    assert "  b: " in str(raised.value)
    assert "no such file" in str(raised.value)
    assert set(failures_of(path.parent)) == {"b", "c"}
    assert not (tmp_path / "set").exists()
    info = make(tmp_path, rows, max_failure_fraction=0.67)
    assert (info.num_failures, info.num_examples) == (2, 1)
    assert not path.parent.exists()


def test_a_set_of_bad_clips_only_is_none(tmp_path):
    with pytest.raises(job_output.JobError, match="2 of 2 clips were rejected"):
        make(tmp_path, [ROW("b", "b", "b.wav"), ROW("c", "c", "c.wav")], max_failure_fraction=1.0)
    assert not (tmp_path / "set").exists()


def test_a_runner_that_loses_data_is_found_out(tmp_path, monkeypatch):
    monkeypatch.setattr(job.running, "run_pipeline", lambda *arguments, **options: None)
    with pytest.raises(job_output.JobError, match="the runner handled 0 of 1 clips; nothing was published"):
        make(tmp_path, [ROW("a", "a", "a.wav")])
    assert not (tmp_path / "set").exists()
