"""The pending folder: nothing is published but whole sets, and nothing is touched that is not ours."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import tensorflow as tf
import tiny

from tfsound import examples, mel
from tfsound.beam import output
from tfsound.beam.progress import WorkerProgress, progress_bar


def info_of(*shards: examples.Shard, command: str = "") -> examples.DatasetInfo:
    return examples.DatasetInfo(examples.CLIPS, mel.MelParams(), shards, num_windows=0, command=command)


def publish_set(path, *, content: bytes, name: str = "a.tfrecord", overwrite: bool = False) -> None:
    """Runs a job whose only shard holds one record."""
    with output.pending_output(str(path), overwrite=overwrite) as pending:
        with output.shard_writer(pending.path, name) as writer:
            writer.write(content)
        output.write_summary(pending.path, name, {"n": 1})
        pending.take_summaries()
        pending.write_failures([])
        pending.publish(info_of(output.finished_shard(pending.path, name, 1)))


def records(path) -> list[bytes]:
    return tiny.records_of(path, examples.CLIPS)


def test_what_is_published(tmp_path):
    publish_set(tmp_path / "set/", content=b"one")
    assert sorted(os.listdir(tmp_path)) == ["set"]
    assert sorted(os.listdir(tmp_path / "set")) == ["a.tfrecord", "dataset_info.json", "failures.jsonl"]
    assert records(tmp_path / "set") == [b"one"]


def test_what_tasks_left_half_written_is_not_published(tmp_path):
    with output.pending_output(str(tmp_path / "set"), overwrite=False) as pending:
        (tmp_path / "set.partial" / "a.tfrecord.77-1.tmp").write_bytes(b"of a worker that died")
        pending.publish(info_of())
    assert os.listdir(tmp_path / "set") == ["dataset_info.json"]


def test_a_finished_set_is_replaced_only_when_asked(tmp_path):
    publish_set(tmp_path / "set", content=b"one")
    with pytest.raises(output.JobError, match="set is a finished data set; pass --overwrite to replace it"):
        publish_set(tmp_path / "set", content=b"two")
    assert records(tmp_path / "set") == [b"one"]
    publish_set(tmp_path / "set", content=b"two", name="b.tfrecord", overwrite=True)
    assert records(tmp_path / "set") == [b"two"]
    assert sorted(os.listdir(tmp_path / "set")) == ["b.tfrecord", "dataset_info.json", "failures.jsonl"]
    assert os.listdir(tmp_path) == ["set"]


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "set").mkdir()
    publish_set(tmp_path / "set", content=b"one")
    assert records(tmp_path / "set") == [b"one"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_not_ours_is_not_touched(tmp_path, overwrite):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_text("irreplaceable")
    (tmp_path / "file").write_text("also")
    (tmp_path / "set.partial").mkdir()
    (tmp_path / "set.partial" / "thesis.tex").write_text("the same")
    for name in ("photos", "file"):
        with pytest.raises(output.JobError, match=f"{name} exists and is no data set of ours; name another"):
            publish_set(tmp_path / name, content=b"one", overwrite=overwrite)
    with pytest.raises(output.JobError, match=r"set\.partial exists and was left by no job of ours"):
        publish_set(tmp_path / "set", content=b"one", overwrite=overwrite)
    assert (tmp_path / "photos" / "me.jpg").read_text() == "irreplaceable"
    assert (tmp_path / "file").read_text() == "also"
    assert (tmp_path / "set.partial" / "thesis.tex").read_text() == "the same"


def test_an_interrupted_overwrite_leaves_the_old_set(tmp_path):
    publish_set(tmp_path / "set", content=b"one")

    def interrupted():
        with output.pending_output(str(tmp_path / "set"), overwrite=True) as pending:
            with output.shard_writer(pending.path, "a.tfrecord") as writer:
                writer.write(b"two")
            assert records(tmp_path / "set") == [b"one"]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert records(tmp_path / "set") == [b"one"]
    assert os.listdir(tmp_path) == ["set"]


def test_the_old_set_is_whole_until_it_is_renamed_away(tmp_path, monkeypatch):
    """Whatever fails before the first rename, or at it, the old set stays as it was."""
    publish_set(tmp_path / "set", content=b"one")

    def refuse(source, target):
        raise PermissionError(errno.EPERM, "refused", source)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(output.JobError, match=r"set cannot be written: .*refused.*nothing was published"):
        publish_set(tmp_path / "set", content=b"two", overwrite=True)
    assert records(tmp_path / "set") == [b"one"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), PermissionError(errno.EPERM, "refused")])
def test_the_old_set_comes_back_when_the_second_rename_is_not_reached(tmp_path, monkeypatch, error):
    publish_set(tmp_path / "set", content=b"one")

    def rename(source, target, original=os.rename):
        if str(source).endswith("set.partial") and str(target).endswith("set"):
            raise error
        original(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises((KeyboardInterrupt, output.JobError)):
        publish_set(tmp_path / "set", content=b"two", overwrite=True)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["set"]
    assert records(tmp_path / "set") == [b"one"]


def test_failures_stay_to_be_read_after_an_error_and_the_next_job_clears_them(tmp_path):
    def failing():
        with output.pending_output(str(tmp_path / "set"), overwrite=False) as pending:
            pending.write_failures([{"clip_id": "naïve", "reason": "x"}])
            raise output.JobError("too many")

    with pytest.raises(output.JobError, match="too many"):
        failing()
    assert not (tmp_path / "set").exists()
    line = (tmp_path / "set.partial" / "failures.jsonl").read_text()
    assert line == '{"clip_id": "naïve", "reason": "x"}\n'
    with pytest.raises(examples.DatasetError, match=r"holds no dataset_info\.json"):
        examples.read_dataset_info(str(tmp_path / "set.partial"), kind=examples.CLIPS)
    publish_set(tmp_path / "set", content=b"one")
    assert os.listdir(tmp_path) == ["set"]


def test_an_error_without_failures_leaves_nothing(tmp_path, monkeypatch):
    def failing(error: Exception):
        with output.pending_output(str(tmp_path / "set"), overwrite=True) as pending:
            output.write_summary(pending.path, "a", {})
            raise error

    for error in (ValueError("impossible"), output.JobError("the pipeline failed")):
        with pytest.raises(type(error), match=str(error)):
            failing(error)
        assert os.listdir(tmp_path) == []
    publish_set(tmp_path / "set", content=b"one")
    with pytest.raises(ValueError, match="impossible"):
        failing(ValueError("impossible"))
    assert os.listdir(tmp_path) == ["set"]
    assert records(tmp_path / "set") == [b"one"]

    def refuse(path):
        raise PermissionError(errno.EPERM, "refused", path)

    monkeypatch.setattr(output.shutil, "rmtree", refuse)
    with pytest.raises(ValueError, match="impossible"):  # not what keeps the folder from being removed
        failing(ValueError("impossible"))


def test_object_stores_get_the_sidecar_last(tmp_path, monkeypatch):
    """`file://` takes the way of every path with a scheme: file by file."""
    for content in (b"one", b"two"):
        publish_set(f"file://{tmp_path}/set", content=content, overwrite=True)
        assert records(tmp_path / "set") == [content]
    assert os.listdir(tmp_path) == ["set"]
    renamed = []

    def rename(source, target, original=tf.io.gfile.rename, **options):
        renamed.append(target)
        original(source, target, **options)

    monkeypatch.setattr(tf.io.gfile, "rename", rename)
    publish_set(f"file://{tmp_path}/set", content=b"three", overwrite=True)
    assert os.path.basename(renamed[-1]) == "dataset_info.json"


def test_the_parent_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(output.JobError, match=r"file/set cannot be written: .*; nothing was published"):
        publish_set(tmp_path / "file" / "set", content=b"one")


def test_a_shard_appears_only_when_it_is_complete(tmp_path):
    def failing():
        with output.shard_writer(str(tmp_path), "a.tfrecord") as writer:
            writer.write(b"one")
            assert not (tmp_path / "a.tfrecord").exists()
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        failing()
    assert not (tmp_path / "a.tfrecord").exists()
    with output.shard_writer(str(tmp_path), "a.tfrecord") as writer:
        writer.write(b"two")
    assert [payload for _, payload in examples.read_records(str(tmp_path / "a.tfrecord"))] == [b"two"]


def test_a_full_disk_is_named(tmp_path):
    """/dev/full is a disk that is always full."""
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full on this system")
    writer = tf.io.TFRecordWriter("/dev/full")

    def fill():
        with output.shard_writer(str(tmp_path), "a.tfrecord"):
            writer.write(b"x" * 10_000_000)
            writer.flush()

    with pytest.raises(output.JobError, match=r"a\.tfrecord cannot be written: .*[Nn]o space left.*nothing"):
        fill()
    assert not (tmp_path / "a.tfrecord").exists()


def test_summaries_come_by_name_and_once(tmp_path):
    pending = output.PendingOutput(str(tmp_path / "set"), overwrite=False)
    for name in ("b", "a"):
        output.write_summary(pending.path, name, {"of": name})
    output.write_summary(pending.path, "b", {"of": "b, tried again"})
    assert pending.take_summaries() == [{"of": "a"}, {"of": "b, tried again"}]
    assert pending.take_summaries() == []


def test_progress_adds_up_over_tasks_and_ends_full(tmp_path, capsys):
    pending = output.PendingOutput(str(tmp_path / "set"), overwrite=False)
    with progress_bar(pending, description="examples", total=5, unit="clips"):
        for task, clips, failures in (("a", 3, 0), ("b", 2, 1)):
            progress = WorkerProgress(pending.path, task)
            progress.add(clips=clips)
            progress.add(failures=failures)
            progress.write()
        (tmp_path / "set.partial" / "progress" / "a.1.tmp").write_text("{")  # half written
    last = capsys.readouterr().err.strip().split("\r")[-1]
    assert last.startswith("examples: 100%")
    assert "5/5" in last
    assert "clips/s" in last
    assert "failures=1" in last


def test_a_removed_pending_folder_cancels_its_workers(tmp_path):
    pending = output.PendingOutput(str(tmp_path / "set"), overwrite=False)
    progress = WorkerProgress(pending.path, "a")
    pending.discard()
    assert not os.path.exists(pending.path)
    with pytest.raises(output.JobError, match=r"cancelled: .*set\.partial was removed"):
        progress.write()


def test_discard_outlives_workers_that_still_write(tmp_path):
    pending = output.PendingOutput(str(tmp_path / "set"), overwrite=False)
    script = (
        "import os, sys\n"
        "for i in range(10**9):\n"
        "    try: open(os.path.join(sys.argv[1], 'progress', f'{i}'), 'w').close()\n"
        "    except OSError: break\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", script, pending.path])
    try:
        while len(os.listdir(tmp_path / "set.partial" / "progress")) < 100:
            time.sleep(0.01)
        pending.discard()
        assert not os.path.exists(pending.path)
        assert worker.wait(10) == 0
    finally:
        worker.send_signal(signal.SIGKILL) if worker.poll() is None else None


def test_a_file_that_comes_while_its_folder_is_removed_is_removed_too(tmp_path, monkeypatch):
    """A worker had found the folder under its old name, and opens the file in it only now."""
    pending = output.PendingOutput(str(tmp_path / "set"), overwrite=False)
    rmdir, late = os.rmdir, []

    def rmdir_too_late(path, *, dir_fd=None):
        if not late:
            late.append(os.open("late", os.O_CREAT, dir_fd=os.open(path, os.O_RDONLY, dir_fd=dir_fd)))
        rmdir(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "rmdir", rmdir_too_late)
    pending.discard()
    assert late
    assert os.listdir(tmp_path) == []


def test_the_command_is_what_was_typed(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/tfsound", "examples", "my clips.csv", "out"])
    assert output.command_line("examples", "ignored") == "tfsound examples 'my clips.csv' out"
    monkeypatch.setattr(sys, "argv", ["ipykernel"])
    assert output.command_line("examples", "m.csv", "out 1") == "tfsound examples m.csv 'out 1'"


def test_failures_are_one_a_line(tmp_path):
    pending = output.PendingOutput(str(tmp_path / "set"), overwrite=False)
    path = pending.write_failures([{"clip_id": "a\nb"}, {"clip_id": "c"}])
    with open(path) as file:
        assert [json.loads(line) for line in file] == [{"clip_id": "a\nb"}, {"clip_id": "c"}]
