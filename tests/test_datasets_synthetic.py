"""Tests of tfsound.datasets.synthetic: determinism, layout, refusals, and that the classes can be learnt."""

import json
import os
import re
from collections import Counter

import numpy as np
import pytest
import soundfile

from tfsound.datasets import ManifestError, generated, read_manifest
from tfsound.datasets.synthetic import SAMPLE_RATE, recording, synthesise

SMALL = {"num_recordings": 20, "num_classes": 10, "seconds": 1.5, "num_folds": 2}


def contents(root):
    return {entry.name: open(entry.path, "rb").read() for entry in os.scandir(root / "audio")}


def test_files_and_manifest(tmp_path):
    result = synthesise(str(tmp_path), **SMALL)
    assert (len(result.rows), result.num_listed, result.num_absent) == (20, 20, 0)
    assert result.rows[0].clip_id == result.rows[0].recording_id == "birdsong-000"
    assert result.rows[0].uri == f"{tmp_path}/audio/birdsong-000.wav"
    assert set(Counter((row.labels, row.fold) for row in result.rows).values()) == {1}
    assert read_manifest(str(tmp_path / "manifest.csv")) == result.rows
    assert sorted(contents(tmp_path)) == sorted(f"{row.clip_id}.wav" for row in result.rows)
    for row in result.rows:
        info = soundfile.info(row.uri)
        assert (info.samplerate, info.channels, info.frames, info.subtype) == (16000, 1, 24000, "PCM_16")
        samples, _ = soundfile.read(row.uri)
        assert 0.5 < np.max(np.abs(samples)) < 0.9  # -5 to -1 dB: audible, not clipped.


def test_folds_are_balanced_by_default_numbers(tmp_path):
    rows = synthesise(str(tmp_path), num_recordings=80, seconds=1.0).rows
    assert set(Counter((row.labels, row.fold) for row in rows).values()) == {2}
    assert len({row.labels for row in rows}) == 8


def test_bits_depend_on_seed_and_id_only(tmp_path):
    first, again, more, other = (tmp_path / name for name in ("first", "again", "more", "other"))
    synthesise(str(first), **SMALL)
    synthesise(str(again), **SMALL)
    synthesise(str(more), **SMALL | {"num_recordings": 23, "num_folds": 3})
    synthesise(str(other), **SMALL, seed=1)
    assert contents(first) == contents(again)
    assert contents(first).items() <= contents(more).items()
    assert not set(contents(first).values()) & set(contents(other).values())


def test_an_interrupted_call_is_completed_and_a_complete_one_reused(tmp_path):
    synthesise(str(tmp_path), **SMALL)
    before = contents(tmp_path)
    kept, lost = tmp_path / "audio" / "engine-000.wav", tmp_path / "audio" / "engine-001.wav"
    modified = os.stat(kept).st_mtime_ns
    lost.unlink()
    (tmp_path / "manifest.csv").unlink()
    synthesise(str(tmp_path), **SMALL)
    assert contents(tmp_path) == before
    assert os.stat(kept).st_mtime_ns == modified
    assert (tmp_path / "manifest.csv").exists()


def test_other_recordings_are_not_overwritten(tmp_path):
    synthesise(str(tmp_path / "a"), **SMALL)
    with pytest.raises(
        ManifestError,
        match=r"a holds synthetic recordings of other parameters: seed was 0, and is now 1; ask for the same",
    ):
        synthesise(str(tmp_path / "a"), **SMALL, seed=1)
    (tmp_path / "manifest.csv").write_text("uri\nmine.wav\n")
    with pytest.raises(ManifestError, match="holds recordings that are not synthetic; name another folder"):
        synthesise(str(tmp_path), **SMALL)
    assert (tmp_path / "manifest.csv").read_text() == "uri\nmine.wav\n"


def test_of_a_digest_as_much_is_shown_as_tells_it_apart(tmp_path):
    generated.claim(str(tmp_path), "takes", {"seed": 0, "takes": "0123456789abcdef" * 4}, ())
    message = r"parameters: takes was 01234567\.\.\., and is now fedcba98\.\.\.; ask for the same, or name an"
    with pytest.raises(ManifestError, match=message):
        generated.claim(str(tmp_path), "takes", {"seed": 0, "takes": "fedcba9876543210" * 4}, ())


@pytest.mark.parametrize("spoilt", [{"version": 0}, [0], "synthetic", None])
def test_a_spoilt_parameter_file_is_told(tmp_path, spoilt):
    (tmp_path / "synthetic.json").write_text(json.dumps(spoilt))
    then = "0" if isinstance(spoilt, dict) else "absent"
    with pytest.raises(
        ManifestError, match=rf"seed was absent, and is now 0, version was {then}, and is now "
    ):
        synthesise(str(tmp_path), **SMALL)


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ({"num_recordings": 0}, "num_recordings must be from 1 to 1000000, got 0."),
        ({"num_classes": 11}, "num_classes must be from 1 to 10, got 11."),
        ({"seconds": 0.5}, "seconds must be from 1.0 to 3600.0, got 0.5."),
        ({"seconds": float("nan")}, "seconds must be from 1.0 to 3600.0, got nan."),
        ({"num_folds": 0}, "num_folds must be from 1 to 1000000, got 0."),
    ],
)
def test_parameters_out_of_range(tmp_path, parameter, message):
    with pytest.raises(ManifestError, match=re.escape(message)):
        synthesise(str(tmp_path), **parameter)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("label", ["birdsong", "siren", "footsteps", "water_drops", "bell", "hammering"])
def test_events_are_there_at_the_shortest_length(label):
    for seed in range(20):
        samples = recording(label, np.random.default_rng(seed), 1.0)
        assert samples.shape == (SAMPLE_RATE,)
        assert np.all(np.isfinite(samples))


def modulation_spectrum(samples):
    """How loud the recording's bands are at each rate of change: (48,)."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, 400)[::160] * np.hanning(400)
    energies = np.log(np.abs(np.fft.rfft(frames, 512))[:, 1:].reshape(len(frames), 64, 4).mean(-1) + 0.01)
    windows = energies[: len(energies) // 96 * 96].reshape(-1, 96, 64) * np.hanning(96)[:, None]
    spectrum = np.abs(np.fft.rfft(windows - windows.mean(1, keepdims=True), axis=1))[:, 1:].mean(0)
    return np.log(np.sort(spectrum, axis=1)[:, -8:].mean(1) + 1e-3)


def test_classes_are_told_apart_by_their_modulation():
    """Nearest class mean over 8 classes: far above the 1/8 of chance by temporal modulation alone."""
    labels = ["birdsong", "engine", "siren", "rain", "footsteps", "bell", "crickets", "hammering"]
    features = np.array(
        [
            [
                modulation_spectrum(recording(label, np.random.default_rng([seed, i]), 4.0))
                for seed in range(8)
            ]
            for i, label in enumerate(labels)
        ]
    )
    means, held_out = features[:, :5].mean(1), features[:, 5:]
    distances = np.linalg.norm(held_out[:, :, None] - means, axis=-1)
    assert np.mean(np.argmin(distances, -1) == np.arange(8)[:, None]) > 0.7
