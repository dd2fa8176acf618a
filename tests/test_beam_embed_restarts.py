"""The job `embed` ended by a kill, Ctrl-C or an error: what is finished is kept, and the result the same."""

import os
import shutil
import signal

import exported_models
import numpy as np
import pytest
import soundfile
from processes import require_killed
from test_beam_embed import embeddings_of, table_bytes
from test_beam_examples import RATE, ROW, failures_of, shard_bytes, write_noise

from tfsound import datasets
from tfsound.beam import embed as job
from tfsound.beam import embedded_shards
from tfsound.beam import output as job_output

NUM_SHARDS = 5
FILLED = set(range(NUM_SHARDS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, ten clips of which one is missing, and the set that an undisturbed job makes of them."""
    folder = tmp_path_factory.mktemp("restarts")
    exported_models.export(folder / "model")
    rows = [ROW(f"a{n}", "r", write_noise(folder / f"{n}.wav", 1 + n / 4, seed=n)) for n in range(10)]
    datasets.write_manifest(str(folder / "m.csv"), [*rows, ROW("gone", "r", "gone.wav")])
    info = embed(folder, folder / "undisturbed")
    assert set(embedded_shards.shard_numbers(shard.name for shard in info.shards)) == FILLED
    return folder


def embed(folder, output, **options):
    options = {"num_workers": 1, "num_shards": NUM_SHARDS, "max_failure_fraction": 0.5} | options
    return job.embed(str(folder / "model"), str(folder / "m.csv"), str(output), **options)


def assert_undisturbed(folder, output):
    assert shard_bytes(output) == shard_bytes(folder / "undisturbed")
    assert table_bytes(output) == table_bytes(folder / "undisturbed")
    assert set(failures_of(output)) == {"gone"}
    assert sorted(os.listdir(output)) == sorted(os.listdir(folder / "undisturbed"))
    assert not os.path.exists(f"{output}.partial")


def after_shards(monkeypatch, number, action):
    """Does something when so many shards are finished."""
    finished = []

    def write_summary(pending_path, name, summary, original=job_output.write_summary):
        original(pending_path, name, summary)
        finished.append(name)
        if len(finished) == number:
            action()

    monkeypatch.setattr(job_output, "write_summary", write_summary)


@pytest.fixture
def written(monkeypatch):
    """The numbers of the shards that are written from now on."""
    numbers = []

    def write(self, number, batches, original=embedded_shards.ShardWriter.write):
        numbers.append(number)
        original(self, number, batches)

    monkeypatch.setattr(embedded_shards.ShardWriter, "write", write)
    return numbers


def embed_and_be_killed(folder, output):
    with pytest.MonkeyPatch.context() as patch:
        after_shards(patch, 2, lambda: os.kill(os.getpid(), signal.SIGKILL))
        embed(folder, output)


def test_a_killed_job_goes_on_behind_its_finished_shards(folder, tmp_path, written):
    output = tmp_path / "set"
    require_killed(embed_and_be_killed, folder, output)
    assert not output.exists()
    names = os.listdir(tmp_path / "set.partial" / "summaries")
    assert len(names) == 2
    kept = set(embedded_shards.shard_numbers(names))
    embed(folder, output)
    assert sorted(written) == sorted(FILLED - kept)
    assert_undisturbed(folder, output)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_ctrl_c_keeps_what_is_finished(folder, tmp_path, monkeypatch, written, num_workers):
    output = tmp_path / "set"

    def interrupt():
        os.kill(os.getpid(), signal.SIGINT)
        # The workers run on until they notice.
        monkeypatch.undo()

    with monkeypatch.context() as patch:
        after_shards(patch, 2, interrupt)
        with pytest.raises(KeyboardInterrupt):
            embed(folder, output, num_workers=num_workers)
    assert not output.exists()
    num_kept = len(os.listdir(tmp_path / "set.partial" / "summaries"))
    assert num_kept >= 2
    embed(folder, output)
    assert_undisturbed(folder, output)


def refuse():
    raise OSError(28, "No space left on device")


def test_an_error_keeps_what_is_finished(folder, tmp_path, monkeypatch, written):
    output = tmp_path / "set"
    with monkeypatch.context() as patch:
        after_shards(patch, 3, refuse)
        with pytest.raises(job_output.JobError, match="No space left on device"):
            embed(folder, output)
    done = list(written)
    embed(folder, output)
    assert sorted(written) == sorted(FILLED)
    assert len(done) == 3
    assert_undisturbed(folder, output)


@pytest.mark.parametrize(
    "change", [{"batch_size": 8}, {"num_shards": 4}, {"parquet": False}, {"window_embeddings": False}]
)
def test_what_a_job_of_other_settings_left_is_not_taken(folder, tmp_path, monkeypatch, written, change):
    output = tmp_path / "set"
    with monkeypatch.context() as patch:
        after_shards(patch, 2, refuse)
        with pytest.raises(job_output.JobError):
            embed(folder, output)
    written.clear()
    info = embed(folder, output, **change)
    assert len(written) == len(info.shards)


def test_what_was_left_of_another_manifest_is_not_taken(folder, tmp_path, monkeypatch, written):
    here = tmp_path / "here"
    shutil.copytree(folder, here)
    with monkeypatch.context() as patch:
        after_shards(patch, 2, refuse)
        with pytest.raises(job_output.JobError):
            embed(here, tmp_path / "set")
    written.clear()
    with open(here / "m.csv", "a", encoding="utf-8") as file:
        file.write("more,r,1.wav,,,,,,\n")
    embed(here, tmp_path / "set")
    assert set(written) == FILLED
    assert "more" in embeddings_of(tmp_path / "set")


def test_a_finished_shard_that_was_damaged_since_is_done_again(folder, tmp_path, monkeypatch, written):
    output = tmp_path / "set"
    with monkeypatch.context() as patch:
        after_shards(patch, 3, refuse)
        with pytest.raises(job_output.JobError):
            embed(folder, output)
    first, second, _ = sorted((tmp_path / "set.partial").glob("*.tfrecord"))
    first.unlink()
    os.truncate(second.with_suffix(".parquet"), 10)
    written.clear()
    embed(folder, output)
    assert len(written) == len(FILLED) - 1
    assert_undisturbed(folder, output)


def test_mended_files_are_read_after_too_many_failures(folder, tmp_path, written):
    here = tmp_path / "here"
    shutil.copytree(folder, here)
    with pytest.raises(job_output.JobError, match=r"1 of 11 clips were rejected.*nothing was published"):
        embed(here, tmp_path / "set", max_failure_fraction=0.0)
    assert set(failures_of(tmp_path / "set.partial")) == {"gone"}
    written.clear()
    soundfile.write(here / "gone.wav", np.zeros(RATE, np.float32), RATE)
    embed(here, tmp_path / "set", max_failure_fraction=0.0)
    assert len(written) == 1
    assert "gone" in embeddings_of(tmp_path / "set")
    assert failures_of(tmp_path / "set") == {}


def test_a_finished_output_is_replaced_only_when_asked(folder, tmp_path):
    output = tmp_path / "set"
    shutil.copytree(folder / "undisturbed", output)
    with pytest.raises(job_output.JobError, match="set is a finished data set; pass --overwrite"):
        embed(folder, output, batch_size=8)
    assert_undisturbed(folder, output)
    info = embed(folder, output, batch_size=8, overwrite=True)
    assert info.parameters["batch_size"] == 8
    assert not (tmp_path / "set.partial").exists()


def test_the_old_set_stays_when_the_new_one_cannot_take_its_place(folder, tmp_path, monkeypatch):
    output = tmp_path / "set"
    shutil.copytree(folder / "undisturbed", output)

    def rename(source, target, original=os.rename):
        if str(source).endswith("set.partial") and str(target).endswith("set"):
            raise PermissionError(1, "refused", source)
        original(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename)
        with pytest.raises(job_output.JobError, match="refused"):
            embed(folder, output, batch_size=8, overwrite=True)
    assert shard_bytes(output) == shard_bytes(folder / "undisturbed")
    assert embed(folder, output, batch_size=8, overwrite=True).parameters["batch_size"] == 8
