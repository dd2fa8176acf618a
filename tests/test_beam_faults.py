"""Faults while a job runs: stores that fail now and then, poisoned files, no memory, full disks.

A job ends with the output that it would have had, or with a clear reason and nothing that looks whole. That a
worker process is killed, and that a job is, is in `test_beam_running` and `test_beam_embed_restarts`.
"""

import contextlib
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import zlib

import exported_models
import numpy as np
import pytest
import soundfile
import stores_of_tests
import tensorflow as tf
import test_beam_pairs
from apache_beam.utils import retry
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from processes import on_devices
from stores_of_tests import FlakyFileSystem, RefusingFileSystem
from test_beam_examples import RATE, ROW, clips_of, failures_of, make, shard_bytes, write_noise
from test_beam_window_index import write_clip_set

from tfsound import datasets, examples
from tfsound.beam import clips as clips_of_job
from tfsound.beam import embed as embed_job
from tfsound.beam import examples as examples_job
from tfsound.beam import instances as instances_job
from tfsound.beam import output as job_output
from tfsound.beam import pairs as pairs_job
from tfsound.beam import stores
from tfsound.beam import triplets as triplets_job
from tfsound.examples import records

NUM_CLIPS = 8


@pytest.fixture
def delays(monkeypatch):
    """The seconds that are waited before a read is tried again; none is really waited."""
    waited = []
    monkeypatch.setattr(retry.Clock, "sleep", lambda self, seconds: waited.append(seconds))
    return waited


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sounds and their manifest, a model, a set of clips, and what undisturbed jobs make of them."""
    folder = tmp_path_factory.mktemp("faults")
    rows = [
        ROW(f"c{n}", f"r{n}", write_noise(folder / f"{n}.wav", 1 + n / 4, seed=n)) for n in range(NUM_CLIPS)
    ]
    datasets.write_manifest(str(folder / "m.csv"), [*rows, ROW("gone", "r", "gone.wav")])
    exported_models.export(folder / "model")
    write_clip_set(folder / "clips", *test_beam_pairs.many_shards())
    for name, job in JOBS.items():
        job(folder, folder / name)
    return folder


def make_examples(folder, output, **options):
    options = {"num_workers": 1, "max_failure_fraction": 0.5, "num_shards": 2} | options
    return examples_job.make_examples(str(options.pop("manifest", folder / "m.csv")), str(output), **options)


def embed(folder, output, **options):
    options = {"num_workers": 1, "max_failure_fraction": 0.5, "num_shards": 2} | options
    manifest = str(options.pop("manifest", folder / "m.csv"))
    return embed_job.embed(str(folder / "model"), manifest, str(output), **options)


def sample_triplets(folder, output, **options):
    options = {"constraints": ("proximity:2",), "count": 60, "num_workers": 1, "num_shards": 2} | options
    return triplets_job.sample_triplets(str(options.pop("clips", folder / "clips")), str(output), **options)


def sample_pairs(folder, output, **options):
    options = {"max_time_gap_seconds": 2.5, "count": 60, "num_workers": 1, "num_shards": 2} | options
    clips = str(options.pop("clips", folder / "clips"))
    return pairs_job.sample_pairs(clips, str(output), modality="audio_image", **options)


def assign_instances(folder, output, **options):
    return instances_job.assign_instances((str(folder / "clips"),), str(output), num_workers=1, **options)


JOBS = {
    "examples": make_examples,
    "embed": embed,
    "triplets": sample_triplets,
    "pairs": sample_pairs,
    "instances": assign_instances,
}


def require_same(output, expected):
    assert shard_bytes(output) == shard_bytes(expected)
    assert len(shard_bytes(output)) > 0
    assert not os.path.exists(f"{output}.partial")


# Stores that fail now and then.


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("job", [make_examples, embed])
def test_a_store_that_fails_every_tenth_read_changes_nothing(
    folder, tmp_path, monkeypatch, delays, job, num_workers
):
    # So small that no file could be read in one go.
    monkeypatch.setattr(clips_of_job, "_COPIED_BYTES", 4000)
    failures_before = FlakyFileSystem.num_failures
    manifest = tmp_path / "m.csv"
    rows = [ROW(f"c{n}", f"r{n}", f"flaky://{folder}/{n}.wav") for n in range(NUM_CLIPS)]
    datasets.write_manifest(str(manifest), [*rows, ROW("gone", "r", f"flaky://{folder}/gone.wav")])
    job(folder, tmp_path / "set", manifest=f"flaky://{manifest}", num_workers=num_workers)
    num_failures = FlakyFileSystem.num_failures - failures_before
    assert num_failures > NUM_CLIPS
    assert len(delays) == num_failures
    if job is make_examples:
        require_same(tmp_path / "set", folder / "examples")
    else:  # records hold the names of the files
        found, expected = (
            {clip.clip_id: clip for clip in examples.iter_embeddings(str(path))}
            for path in (tmp_path / "set", folder / "embed")
        )
        assert found.keys() == expected.keys()
        for clip_id, clip in found.items():
            np.testing.assert_array_equal(clip.window_embeddings, expected[clip_id].window_embeddings)
    assert set(failures_of(tmp_path / "set")) == {"gone"}


@pytest.mark.parametrize("job", [sample_triplets, sample_pairs])
def test_windows_are_read_from_such_a_store_where_they_lie(folder, tmp_path, delays, job):
    failures_before = FlakyFileSystem.num_failures
    job(folder, tmp_path / "set", clips=f"file://{folder}/clips")
    assert FlakyFileSystem.num_failures - failures_before == len(delays) > 3
    require_same(tmp_path / "set", folder / ("triplets" if job is sample_triplets else "pairs"))


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(st.tuples(st.integers(0, 30_000), st.integers(1, 20_000)), max_size=8),
    failing=st.sets(st.integers(0, 40)),
)
def test_what_is_read_is_the_file_whenever_reads_fail(tmp_path, monkeypatch, delays, parts, failing):
    data = np.random.default_rng(0).bytes(25_000)
    (tmp_path / "file").write_bytes(data)
    counted, in_a_row = iter(range(10**6)), []

    def before_read(self):
        in_a_row.append(1)
        if next(counted) in failing and len(in_a_row) <= stores._NUM_RETRIES:
            raise ConnectionError("reset by peer")
        in_a_row.clear()

    with monkeypatch.context() as patch:
        patch.setattr(FlakyFileSystem, "before_read", before_read)
        with stores.open_file(f"flaky://{tmp_path}/file") as file:
            for start, size in parts:
                assert file.seek(start) == start
                assert file.read(size) == data[start : start + size]
                assert file.tell() == min(start + size, max(len(data), start))
        with stores.open_file(f"flaky://{tmp_path}/file") as file:
            assert file.read() == data


@pytest.mark.parametrize("job", [make_examples, embed])
def test_a_store_that_is_down_ends_the_job_with_its_reason(folder, tmp_path, monkeypatch, delays, job):
    monkeypatch.setattr(RefusingFileSystem, "error", TimeoutError("no answer"))
    manifest = tmp_path / "m.csv"
    datasets.write_manifest(str(manifest), [ROW("a", "a", "refusing://bucket/a.wav")])
    with pytest.raises(job_output.JobError) as raised:
        job(folder, tmp_path / "set", manifest=manifest)
    assert str(raised.value) == (
        "refusing://bucket/a.wav cannot be read: 7 tries in a row failed, the last with TimeoutError: no "
        "answer. Run the job again when the store answers."
    )
    assert os.listdir(tmp_path) == ["m.csv"]
    # Twice as long each time, or as short as half of it, so that workers do not all come back at once.
    assert len(delays) == 6
    for number, delay in enumerate(delays):
        assert 0.25 * 2**number <= delay <= 0.5 * 2**number
    with pytest.raises(job_output.JobError, match=r"refusing://bucket/m\.csv cannot be read: 7 tries"):
        job(folder, tmp_path / "set", manifest="refusing://bucket/m.csv")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (stores_of_tests.AbsentError("no such object"), r"\(AbsentError: no such object\); check that it"),
        (FileNotFoundError(2, "No such file"), "No such file.*check that it exists"),
        (PermissionError(13, "denied"), "denied.*check that it exists"),
    ],
)
def test_what_is_no_fault_of_the_store_is_not_tried_again(
    folder, tmp_path, monkeypatch, delays, error, reason
):
    monkeypatch.setattr(RefusingFileSystem, "error", error)
    reads_before = RefusingFileSystem.num_reads
    make(tmp_path, [ROW("a", "a", "refusing://bucket/a.wav"), ROW("b", "b", str(folder / "1.wav"))])
    assert RefusingFileSystem.num_reads == reads_before + 1
    assert not delays
    assert re.search(reason, failures_of(tmp_path / "set")["a"])
    assert set(clips_of(tmp_path / "set")) == {"b"}


@pytest.mark.parametrize("code", [408, 429, 500, 503])
def test_what_stores_say_when_they_are_busy_is_tried_again(code):
    error = stores_of_tests.AbsentError()
    error.code = code
    assert not stores._is_permanent(error)


def test_a_damaged_file_is_fetched_once(folder, tmp_path, delays):
    data = (folder / "3.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(data[:9000])
    FlakyFileSystem.num_reads = 0
    make(tmp_path, [ROW("a", "a", f"flaky://{tmp_path}/cut.wav"), ROW("b", "b", str(folder / "1.wav"))])
    assert FlakyFileSystem.num_reads < 10  # of which none failed
    assert not delays
    assert "truncated" in failures_of(tmp_path / "set")["a"]


def test_a_store_that_fails_is_not_called_damage(tmp_path, monkeypatch):
    """Records are read by TensorFlow, which tells what the store said."""

    def away(path):
        raise tf.errors.UnavailableError(None, None, "the store is away")

    monkeypatch.setattr(records, "_iterate", away)
    with pytest.raises(examples.DatasetError, match=r"a\.tfrecord cannot be read after record 0 \(the store"):
        list(examples.read_records("a.tfrecord"))


# Poisoned files.


POISONED_RATE = 12_345


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory):
    """A sound that `raise_for_poison` takes for poisoned."""
    return write_noise(tmp_path_factory.mktemp("poison") / "poison.wav", 1.0, rate=POISONED_RATE)


def raise_for_poison(monkeypatch, error):
    """A decoder that ends so for the poisoned sound."""

    def read(self, *arguments, original=soundfile.SoundFile.read, **options):
        if self.samplerate == POISONED_RATE:
            raise error
        return original(self, *arguments, **options)

    monkeypatch.setattr(soundfile.SoundFile, "read", read)


@pytest.mark.parametrize("job", [make_examples, embed])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), r"poison\.wav': takes more memory than there is \(none is left\); expected sound"),
        (
            MemoryError("Unable to allocate 3 TiB"),
            "takes more memory than there is .Unable to allocate 3 TiB",
        ),
        (tf.errors.ResourceExhaustedError(None, None, "OOM"), "takes more memory than there is .OOM"),
    ],
)
def test_a_file_that_takes_all_memory_is_rejected_and_the_others_go_on(
    folder, tmp_path, monkeypatch, poisoned, job, error, reason
):
    raise_for_poison(monkeypatch, error)
    rows = [ROW(f"c{n}", f"r{n}", str(folder / f"{n}.wav")) for n in range(NUM_CLIPS)]
    datasets.write_manifest(str(tmp_path / "m.csv"), [*rows, ROW("poison", "p", poisoned)])
    job(folder, tmp_path / "set", manifest=tmp_path / "m.csv")
    failures = failures_of(tmp_path / "set")
    assert set(failures) == {"poison"}
    assert re.search(reason, failures["poison"])
    require_same(tmp_path / "set", folder / ("examples" if job is make_examples else "embed"))


def write_png(path, width, height):
    """A black picture of a bit a pixel, which takes a thousandth of what it becomes as RGB."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = bytes((width // 8 + 1) * height)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def write_claims(folder):
    """Rows of files that claim billions of samples or pixels, and of a picture that takes 200 MB and more."""
    sound = write_noise(folder / "good.wav", 1.0)
    samples, _ = soundfile.read(sound, dtype="int16")
    soundfile.write(folder / "claim.flac", samples, RATE)
    data = bytearray((folder / "claim.flac").read_bytes())
    data[21:26] = bytes([data[21] | 0x0F, 255, 255, 255, 255])  # 2**36 - 1 samples, STREAMINFO's most
    (folder / "claim.flac").write_bytes(data)
    soundfile.write(folder / "claim.wav", samples, RATE, format="RF64")
    data = bytearray((folder / "claim.wav").read_bytes())
    place = data.index(b"ds64")
    data[place + 8 : place + 32] = struct.pack("<QQQ", 2**40, 2**40, 2**39)
    (folder / "claim.wav").write_bytes(data)
    soundfile.write(folder / "claim.au", samples, RATE, format="AU")
    data = bytearray((folder / "claim.au").read_bytes())
    data[8:12] = struct.pack(">I", 2**32 - 16)
    (folder / "claim.au").write_bytes(data)
    write_png(folder / "large.png", 8192, 8192)
    write_png(folder / "small.png", 64, 64)
    header = bytearray((folder / "small.png").read_bytes())
    header[16:24] = struct.pack(">II", 2**20, 2**20)
    header[29:33] = struct.pack(">I", zlib.crc32(header[12:29]))
    (folder / "claim.png").write_bytes(header)
    rows = [ROW(name, name, str(folder / f"claim.{name}")) for name in ("flac", "wav", "au")]
    pictures = [
        ROW(name, name, sound, image_uri=str(folder / f"{name}.png")) for name in ("large", "claim", "small")
    ]
    return [*rows, *pictures, ROW("good", "good", sound)]


def make_with_little_memory(folder, rows):
    """Makes a set in a process that has 150 MB left; what it rejects, and why."""
    good = [row for row in rows if row.clip_id in ("small", "good")]
    make(folder, good, frames_per_second=1.0, output="warm")
    with open("/proc/self/statm", encoding="utf-8") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (150 << 20), resource.RLIM_INFINITY))
    make(folder, rows, frames_per_second=1.0)
    return failures_of(folder / "set")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="memory is limited as Linux does")
def test_claims_of_billions_take_no_memory_and_what_does_is_rejected(tmp_path):
    failures = on_devices(1, make_with_little_memory, tmp_path, write_claims(tmp_path))
    assert set(clips_of(tmp_path / "set")) == {"good", "small"}
    expected = {
        "flac": r"claim\.flac.*truncated or damaged: found 1\.000 s of the 4294967\.\d+ s that its header",
        "wav": r"claim\.wav.*truncated: its data chunk should reach byte \d{13}",
        "au": r"claim\.au",
        "claim": r"claim\.png",
        "large": r"large\.png.*memory",
    }
    assert set(failures) == set(expected)
    for name, reason in expected.items():
        assert re.search(reason, failures[name]), failures[name]


CRASHING_DECODER = f"""
import os, signal, soundfile

def read(self, *arguments, original=soundfile.SoundFile.read, **options):
    if self.samplerate == {POISONED_RATE}:
        os.kill(os.getpid(), signal.SIGSEGV)
    return original(self, *arguments, **options)

soundfile.SoundFile.read = read
"""


@pytest.fixture
def crashing_decoder(tmp_path, monkeypatch):
    """Processes that are started have a decoder that crashes on the poisoned sound."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "sitecustomize.py").write_text(CRASHING_DECODER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))


@pytest.mark.usefixtures("crashing_decoder")
def test_a_file_that_crashes_a_worker_process_is_named(folder, tmp_path, poisoned):
    rows = [ROW(f"c{n}", f"r{n}", str(folder / f"{n}.wav")) for n in range(3)]
    datasets.write_manifest(str(tmp_path / "m.csv"), [*rows, ROW("poison", "p", poisoned)])
    options = {"manifest": tmp_path / "m.csv", "worker_mode": "processes"}
    with pytest.raises(job_output.JobError) as raised:
        make_examples(folder, tmp_path / "set", **options)
    assert str(raised.value) == (
        "a worker process died (killed, perhaps, for want of memory); try fewer workers. It was reading "
        f"{poisoned!r}: if it dies there again, leave that out of the manifest."
    )
    assert sorted(os.listdir(tmp_path)) == ["m.csv", "modules"]
    datasets.write_manifest(str(tmp_path / "m.csv"), rows)
    assert make_examples(folder, tmp_path / "set", **options).num_examples == 3


@pytest.mark.usefixtures("crashing_decoder")
def test_a_crash_among_threads_ends_the_job_and_leaves_nothing_whole(folder, tmp_path, poisoned):
    rows = [ROW("a", "a", str(folder / "1.wav")), ROW("poison", "p", poisoned)]
    datasets.write_manifest(str(tmp_path / "m.csv"), rows)
    command = [sys.executable, "-m", "tfsound.beam.examples", str(tmp_path / "m.csv"), str(tmp_path / "set")]
    done = subprocess.run(command, capture_output=True, timeout=300, check=False)
    assert done.returncode == -signal.SIGSEGV
    assert not (tmp_path / "set").exists()
    datasets.write_manifest(str(tmp_path / "m.csv"), rows[:1])
    assert make_examples(folder, tmp_path / "set", manifest=tmp_path / "m.csv").num_examples == 1


# Full disks.


@contextlib.contextmanager
def files_limited_to(num_bytes):
    """Within, no file can grow beyond so many bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# Less than a shard, and more than what a job writes of its progress.
@pytest.mark.parametrize(
    ("name", "num_bytes"),
    [("examples", 20_000), ("embed", 1500), ("triplets", 100_000), ("pairs", 100_000), ("instances", 500)],
)
def test_a_disk_that_fills_up_ends_the_job_with_its_reason(folder, tmp_path, name, num_bytes):
    output = tmp_path / "set"
    with files_limited_to(num_bytes), pytest.raises(job_output.JobError) as raised:
        JOBS[name](folder, output)
    assert re.search(
        r"set\S* cannot be written: .*[Ff]ile too large.*nothing was published", str(raised.value)
    )
    assert not output.exists()
    # With room again, the same job makes the same set.
    JOBS[name](folder, output)
    require_same(output, folder / name)


@pytest.mark.parametrize("name", list(JOBS))
def test_the_old_set_outlives_a_full_disk(folder, tmp_path, name):
    shutil.copytree(folder / name, tmp_path / "set")
    with files_limited_to(100), pytest.raises(job_output.JobError, match="cannot be written"):
        JOBS[name](folder, tmp_path / "set", overwrite=True)
    assert not (tmp_path / "set.partial" / examples.INFO_NAME).exists()
    assert shard_bytes(tmp_path / "set") == shard_bytes(folder / name)
    JOBS[name](folder, tmp_path / "set", overwrite=True)
    require_same(tmp_path / "set", folder / name)


def test_a_progress_bar_in_a_file_on_a_full_disk_is_left_out(folder, tmp_path, monkeypatch):
    """TensorFlow aside, all that the job writes to the full disk is its bar, which it can do without."""
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full on this system")
    with open("/dev/full", "w", buffering=1, encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stderr", full)
        assign_instances(folder, tmp_path / "set")
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            full.close()
    require_same(tmp_path / "set", folder / "instances")


def test_no_room_for_a_copy_is_no_fault_of_the_clip(folder, tmp_path):
    rows = [ROW("a", "a", f"flaky://{folder}/7.wav")]
    datasets.write_manifest(str(tmp_path / "m.csv"), rows)
    with files_limited_to(20_000), pytest.raises(job_output.JobError) as raised:
        make_examples(folder, tmp_path / "set", manifest=tmp_path / "m.csv")
    assert re.search(r"the copy of flaky://\S*7\.wav, cannot be written \(.*too large", str(raised.value))
    assert os.listdir(tmp_path) == ["m.csv"]
