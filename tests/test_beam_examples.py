"""The job `examples`: exact records, the same bytes from any workers, whole outputs only."""

import itertools
import json
import os
import re
import shutil
import subprocess
import tempfile

import apache_beam as beam
import numpy as np
import pytest
import soundfile
from apache_beam.io.localfilesystem import LocalFileSystem
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing import test_pipeline
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given, settings
from hypothesis import strategies as st

from tfsound import datasets, examples, media, mel
from tfsound.beam import examples as job
from tfsound.beam import manifests
from tfsound.beam import output as job_output
from tfsound.beam.clips import clip_examples, cut_on_windows

PARAMS = mel.MelParams()
RATE = PARAMS.sample_rate


def write_noise(path, seconds: float, *, rate=RATE, channels=1, seed=0, **options) -> str:
    shape = (max(1, round(seconds * rate)), channels)
    noise = np.random.default_rng(seed).normal(0, 0.1, shape).astype(np.float32)
    soundfile.write(path, noise, rate, **options)
    return str(path)


def make(tmp_path, rows, *, output: str = "set", **options) -> examples.DatasetInfo:
    datasets.write_manifest(str(tmp_path / "manifest.csv"), rows)
    options = {"num_workers": 1, "max_failure_fraction": 0.99} | options
    return job.make_examples(str(tmp_path / "manifest.csv"), str(tmp_path / output), **options)


def clips_of(path) -> dict[str, examples.Clip]:
    return {clip.clip_id: clip for clip in examples.iter_clips(str(path))}


def failures_of(path) -> dict[str, str]:
    with open(path / "failures.jsonl", encoding="utf-8") as file:
        return {failure["clip_id"]: failure["reason"] for failure in map(json.loads, file)}


def expected_energies(path, **segment) -> np.ndarray:
    waveform = media.read_audio(path, sample_rate=RATE, **segment)
    return mel.mel_energies(mel.pad_to_context(waveform, PARAMS), PARAMS).numpy().astype(np.float16)


def assert_energies(clip: examples.Clip, expected: np.ndarray) -> None:
    """Equal to the last bit of float16: the graph that the job runs may round float32 another way."""
    np.testing.assert_allclose(clip.mel_energy, expected, rtol=2**-10, atol=1e-7)


def shard_bytes(path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.glob("*.tfrecord"))}


ROW = datasets.ManifestRow


def test_records_hold_what_the_files_hold(tmp_path):
    mono = write_noise(tmp_path / "mono.wav", 1.2)
    stereo = write_noise(tmp_path / "stereo.flac", 2.5, rate=44_100, channels=2, seed=1)
    info = make(
        tmp_path,
        [
            ROW("b", "mono", "mono.wav", labels=("dog", "cat"), fold="2", split="train"),
            ROW("a", "stereo", stereo),
            ROW("cut", "stereo", stereo, 0.5, 1.75, labels=("cat",), fold="1"),
        ],
        num_shards=1,
    )
    clips = clips_of(tmp_path / "set")
    assert sorted(clips) == ["a", "b", "cut"]
    assert_energies(clips["b"], expected_energies(mono))
    assert_energies(clips["a"], expected_energies(stereo))
    assert_energies(clips["cut"], expected_energies(stereo, start_seconds=0.5, end_seconds=1.75))
    assert [len(clips[name].mel_energy) for name in ("a", "b", "cut")] == [248, 118, 123]
    found = {name: (c.recording_id, c.start_seconds, c.labels, c.fold, c.split) for name, c in clips.items()}
    assert found == {
        "a": ("stereo", 0.0, (), "", ""),
        "b": ("mono", 0.0, ("dog", "cat"), "2", "train"),
        "cut": ("stereo", 0.5, ("cat",), "1", ""),
    }
    assert (tmp_path / "set" / "failures.jsonl").read_text() == ""
    assert info == examples.read_dataset_info(str(tmp_path / "set"), kind=examples.CLIPS)
    assert (info.mel_params, info.num_examples, info.num_windows, info.num_failures) == (PARAMS, 3, 4, 0)
    assert (info.label_names, info.folds) == (("cat", "dog"), ("", "1", "2"))
    assert info.parameters == {"mel_preset": "audioset", "max_clip_seconds": 57.6}
    assert info.command.startswith("tfsound examples ")
    assert [(s.name, s.num_examples) for s in info.shards] == [("clips-00000-of-00001.tfrecord", 3)]
    assert info.shards[0].num_bytes == os.path.getsize(tmp_path / "set" / info.shards[0].name)


def test_pieces_hold_the_windows_of_the_whole_file(tmp_path):
    path = write_noise(tmp_path / "long.wav", 5.0)
    row = ROW("long", "r", path)
    pieces = list(clip_examples(row, PARAMS, windows_per_piece=2))
    assert [clip.clip_id for clip in pieces] == ["long", "long+1", "long+2"]
    assert [clip.start_seconds for clip in pieces] == pytest.approx([0.0, 1.92, 3.84])
    assert [PARAMS.num_windows(len(clip.mel_energy)) for clip in pieces] == [2, 2, 1]
    windows = np.concatenate(
        [mel.context_windows(mel.log_mel(clip.mel_energy, PARAMS), PARAMS) for clip in pieces]
    )
    whole = mel.log_mel_windows(media.read_audio(path), PARAMS)
    np.testing.assert_allclose(windows, whole, atol=1e-5)
    info = make(tmp_path, [row], max_clip_seconds=2.0)
    assert info.num_windows == 5
    assert str(info).startswith(
        "3 pieces of 1 clips (5 windows) in 1 files; 0 labels, 0 folds, 0 clips rejected"
    )
    assert sorted(clips_of(tmp_path / "set")) == ["long", "long+1", "long+2"]


def test_pieces_of_a_segment_start_where_the_segment_does(tmp_path):
    path = write_noise(tmp_path / "long.wav", 5.0)
    pieces = list(clip_examples(ROW("c", "r", path, 1.0, 4.0), PARAMS, windows_per_piece=1))
    assert [clip.start_seconds for clip in pieces] == pytest.approx([1.0, 1.96, 2.92])
    np.testing.assert_allclose(
        pieces[1].mel_energy[:96],
        expected_energies(path, start_seconds=1.96, end_seconds=4.0)[:96],
        rtol=2e-3,
        atol=1e-4,
    )


@settings(deadline=None)
@given(
    num_samples=st.integers(1, 400), windows_per_piece=st.integers(1, 4), block_samples=st.integers(1, 120)
)
def test_cut_on_windows_keeps_every_window(num_samples, windows_per_piece, block_samples):
    params = mel.MelParams(
        sample_rate=1000, window_seconds=0.008, hop_seconds=0.003, mel_max_hz=500.0, context_frames=5
    )
    waveform = np.arange(num_samples, dtype=np.float32)
    blocks = np.split(waveform, range(block_samples, num_samples, block_samples))
    pieces = list(cut_on_windows(iter(blocks), params, windows_per_piece))

    def windows(samples):
        step = params.context_frames * params.hop_samples
        last = len(samples) - params.context_samples
        return [tuple(samples[i : i + params.context_samples]) for i in range(0, last + 1, step)]

    assert list(itertools.chain.from_iterable(map(windows, pieces))) == windows(waveform)
    assert max(map(len, map(windows, pieces))) <= windows_per_piece
    if num_samples < params.context_samples:
        np.testing.assert_array_equal(np.concatenate(pieces), waveform)


class ElsewhereFileSystem(LocalFileSystem):
    """A file system with a scheme, as object stores have: `elsewhere://` before a local path."""

    @classmethod
    def scheme(cls):
        return "elsewhere"

    def open(self, path, *arguments, **options):
        return super().open(path.removeprefix("elsewhere://"), *arguments, **options)

    def split(self, path):
        return os.path.split(path)


def test_manifest_and_files_may_be_on_any_beam_file_system(tmp_path):
    write_noise(tmp_path / "a.wav", 1.0)
    datasets.write_manifest(str(tmp_path / "m.csv"), [ROW("a", "a", "a.wav"), ROW("b", "b", "gone.wav")])
    before = set(os.listdir(tempfile.gettempdir()))
    job.make_examples(
        f"elsewhere://{tmp_path}/m.csv", str(tmp_path / "set"), num_workers=1, max_failure_fraction=0.5
    )
    assert_energies(clips_of(tmp_path / "set")["a"], expected_energies(tmp_path / "a.wav"))
    reason = failures_of(tmp_path / "set")["b"]
    assert re.fullmatch(r"elsewhere://.*/gone\.wav cannot be read \(.*\); check that it exists\.", reason)
    assert not [name for name in set(os.listdir(tempfile.gettempdir())) - before if name.endswith(".wav")]


def test_an_output_is_overwritten_only_when_asked(tmp_path):
    write_noise(tmp_path / "a.wav", 1.0)
    make(tmp_path, [ROW("a", "a", "a.wav")])
    with pytest.raises(job_output.JobError, match="set is a finished data set; pass --overwrite"):
        make(tmp_path, [ROW("b", "b", "a.wav")])
    assert set(clips_of(tmp_path / "set")) == {"a"}
    make(tmp_path, [ROW("b", "b", "a.wav")], overwrite=True)
    assert set(clips_of(tmp_path / "set")) == {"b"}
    shutil.rmtree(tmp_path / "set")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "notes.txt").write_text("mine")
    with pytest.raises(job_output.JobError, match="exists and is no data set of ours"):
        make(tmp_path, [ROW("b", "b", "a.wav")], overwrite=True)
    assert os.listdir(tmp_path / "set") == ["notes.txt"]


def test_a_full_disk_ends_the_job_with_its_reason(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("no small file system can be mounted here")
    try:
        path = write_noise(tmp_path / "a.wav", 8.0)
        rows = [ROW(f"c{number}", "r", path) for number in range(8)]
        with pytest.raises(job_output.JobError) as raised:
            make(tmp_path, rows, output="disk/set", num_shards=1)
        assert re.search(r"clips-00000-of-00001.tfrecord cannot be written: .*[Nn]o space", str(raised.value))
        assert "nothing was published" in str(raised.value)
        assert not (disk / "set").exists()
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize(
    ("num_clips", "num_shards"), [(1, 1), (20, 20), (500, 32), (3200, 100), (10**6, 1024)]
)
def test_few_clips_are_tasks_for_many_workers_too(num_clips, num_shards):
    assert manifests.default_num_shards(num_clips) == num_shards


@pytest.fixture(scope="module")
def many_clips(tmp_path_factory):
    """A folder with 12 clips, their manifest in order and reversed, and the set that one worker made."""
    folder = tmp_path_factory.mktemp("many")
    rows = [
        ROW(f"c{n}", f"r{n // 2}", write_noise(folder / f"{n}.wav", 1 + n / 8, seed=n), labels=(f"l{n % 3}",))
        for n in range(12)
    ] + [ROW("gone", "gone", "gone.wav")]
    datasets.write_manifest(str(folder / "reversed.csv"), rows[::-1])
    make(folder, rows, num_shards=5, output="one")
    return folder


@pytest.mark.parametrize(
    ("manifest", "options"),
    [
        ("manifest", {"num_workers": 2}),
        ("manifest", {"num_workers": 2, "worker_mode": "processes"}),
        ("reversed", {"num_workers": 1}),
    ],
)
def test_the_same_bytes_come_from_any_workers(many_clips, tmp_path, manifest, options):
    info = job.make_examples(
        str(many_clips / f"{manifest}.csv"),
        str(tmp_path / "set"),
        num_shards=5,
        max_failure_fraction=0.5,
        **options,
    )
    one = examples.read_dataset_info(str(many_clips / "one"), kind=examples.CLIPS)
    assert shard_bytes(tmp_path / "set") == shard_bytes(many_clips / "one")
    assert (info.shards, info.label_names, info.num_windows) == (one.shards, one.label_names, one.num_windows)
    assert set(failures_of(tmp_path / "set")) == {"gone"}


def test_records_do_not_depend_on_the_number_of_shards(many_clips, tmp_path):
    job.make_examples(
        str(many_clips / "manifest.csv"), str(tmp_path / "set"), num_shards=1, num_workers=1,
        max_failure_fraction=0.5,
    )  # fmt: skip
    one, other = clips_of(many_clips / "one"), clips_of(tmp_path / "set")
    assert list(other) == sorted(other)
    assert {i: examples.encode_clip(c) for i, c in one.items()} == {
        i: examples.encode_clip(c) for i, c in other.items()
    }


def test_a_pattern_names_several_manifests(tmp_path):
    for name in ("a", "b"):
        write_noise(tmp_path / f"{name}.wav", 1.0)
        rows = [ROW(name, name, f"{name}.wav"), ROW("missing", "m", "missing.wav")]
        datasets.write_manifest(str(tmp_path / f"part-{name}.csv"), rows)
    job.make_examples(str(tmp_path / "part-*.csv"), str(tmp_path / "set"), max_failure_fraction=0.6)
    assert set(clips_of(tmp_path / "set")) == {"a", "b"}
    with open(tmp_path / "set" / "failures.jsonl") as file:
        first, second = map(json.loads, file)
    assert (first["manifest"], first["row"]) == (str(tmp_path / "part-a.csv"), 3)
    assert second["manifest"] == str(tmp_path / "part-b.csv")
    assert f"stands in {tmp_path / 'part-a.csv'}, row 3, already" in second["reason"]
    with pytest.raises(datasets.ManifestError, match=r"none-\*.csv: the pattern matches no file"):
        job.make_examples(str(tmp_path / "none-*.csv"), str(tmp_path / "set2"))


def test_read_manifest_gives_every_row_its_shard(tmp_path):
    (tmp_path / "m.csv").write_text("clip_id,uri,end_seconds\na,a.wav,\nb,b.wav,-1\n")
    with test_pipeline.TestPipeline(runner=FnApiRunner()) as pipeline:
        rows = (
            pipeline
            | beam.Create([str(tmp_path / "m.csv")])
            | beam.ParDo(manifests.ReadManifest(1000))
            | beam.MapTuple(lambda shard, row: (shard, row[0][1], row[1].clip_id, type(row[1]).__name__))
        )
        # blake2b of "a" and "b", modulo 1000: `b2sum -l 64`.
        assert_that(rows, equal_to([(343, 2, "a", "ManifestRow"), (333, 3, "b", "BadRow")]))


def test_compute_mel_examples_writes_shards_and_summaries(tmp_path):
    write_noise(tmp_path / "a.wav", 1.0)
    manifest = str(tmp_path / "m.csv")
    datasets.write_manifest(manifest, [ROW("a", "r", "a.wav", labels=("x",)), ROW("b", "r", "b.wav")])
    with job_output.pending_output(str(tmp_path / "set"), overwrite=False) as pending:
        job_settings = job._Settings(pending.path, PARAMS, 57.6, 1)
        with test_pipeline.TestPipeline(runner=FnApiRunner()) as pipeline:
            pipeline | beam.Create([manifest]) | job.ComputeMelExamples(job_settings)
        (summary,) = pending.take_summaries()
    name = "clips-00000-of-00001.tfrecord"
    (failure,) = summary.pop("failures")
    assert (failure["row"], failure["clip_id"]) == (3, "b")
    assert summary == {
        "num_rows": 2,
        "shard": {
            "name": name,
            "num_examples": 1,
            "num_bytes": os.path.getsize(tmp_path / "set.partial" / name),
        },
        "num_windows": 1,
        "num_images": 0,
        "num_clips_without_images": 0,
        "labels": ["x"],
        "folds": [""],
    }
    ((_, record),) = examples.read_records(str(tmp_path / "set.partial" / name))
    assert_energies(examples.decode_clip(record, 64), expected_energies(tmp_path / "a.wav"))


def test_run_is_the_function_from_a_command_line(many_clips, tmp_path):
    info = job.run(
        f"{many_clips}/manifest.csv {tmp_path}/set --num-shards 5 --max-failure-fraction 0.5 --num-workers 1 "
        "--job_name=x".split()
    )
    assert info.num_examples == 12
    assert shard_bytes(tmp_path / "set") == shard_bytes(many_clips / "one")


def test_help_names_every_argument(capsys):
    with pytest.raises(SystemExit, match="0"):
        job.run(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "MANIFEST OUTPUT" in text
    assert "Decodes the clips of a manifest" in text
    for option in (
        *("--mel-preset", "--max-clip-seconds", "--frames-per-second", "--max-failure-fraction"),
        *("--num-shards", "--overwrite", "--runner", "--num-workers", "--worker-mode"),
    ):
        assert option in text
    assert "longer clips become several examples" in text


@pytest.mark.parametrize("num_channels", [1, 2])
def test_any_front_end_can_be_asked_for(tmp_path, num_channels):
    path = write_noise(tmp_path / "a.wav", 3.0, rate=22_050, channels=2)
    rows = [datasets.ManifestRow("a", "r", path)]
    info = make(tmp_path, rows, mel_preset="esresnet", context_seconds=2.0, num_channels=num_channels)
    params = mel.preset("esresnet", context_seconds=2.0, num_channels=num_channels)
    assert info.mel_params == params
    assert info.num_windows == 1
    (clip,) = clips_of(tmp_path / "set").values()
    waveform = media.read_audio(path, sample_rate=44_100, num_channels=num_channels)
    expected = mel.mel_energies(waveform.T, params).numpy()
    assert clip.mel_energy.shape[1] == params.num_columns == num_channels * 1023
    np.testing.assert_allclose(clip.mel_energy, expected.astype(np.float16), rtol=2**-10, atol=1e-6)
