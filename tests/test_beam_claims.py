"""Two jobs and one output: one of them has it, the other is told, and nothing of either is mixed or lost."""

import os
import threading

import pytest
import tensorflow as tf
from test_beam_examples import ROW, make, write_noise
from test_beam_output import info_of, publish_set, records

from tfsound import examples, resumption
from tfsound.beam import claims, output
from tfsound.beam.progress import WorkerProgress

SCHEMES = ["", "file://"]  # a local folder, and one that is taken for an object store
OTHER_JOB = "another (process|job) is at work in .*set.partial"


@pytest.fixture
def at_once(monkeypatch):
    """Waits that are short."""
    monkeypatch.setattr(claims, "_WITHDRAWAL_SECONDS", 0.2)


def write_shard(pending, content=b"one", name="a.tfrecord"):
    with output.shard_writer(pending.path, name) as writer:
        writer.write(content)
    output.write_summary(pending.path, name, {"n": 1})


def publish(pending):
    pending.take_summaries()
    pending.publish(info_of(output.finished_shard(pending.path, "a.tfrecord", 1)))


@pytest.mark.parametrize("settings", [None, {"seed": 1}])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_second_job_is_refused_and_the_first_not_disturbed(tmp_path, at_once, scheme, settings):
    path = f"{scheme}{tmp_path}/set"
    with output.pending_output(path, overwrite=False, settings=settings) as pending:
        write_shard(pending)
        with (
            pytest.raises(resumption.InUseError, match=OTHER_JOB),
            output.pending_output(path, overwrite=True, settings=settings),
        ):
            pytest.fail("both write")
        publish(pending)
    assert os.listdir(tmp_path) == ["set"]
    assert records(tmp_path / "set") == [b"one"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_of_jobs_that_start_at_once_one_wins(tmp_path, at_once, scheme):
    refused, num_jobs = [], 4
    start, tried = threading.Barrier(num_jobs), threading.Semaphore(0)

    def job(number):
        start.wait()
        try:
            with output.pending_output(f"{scheme}{tmp_path}/set", overwrite=False) as pending:
                write_shard(pending, str(number).encode())
                for _ in range(num_jobs - 1):
                    tried.acquire(timeout=20)
                publish(pending)
        except resumption.InUseError as error:
            refused.append(str(error))
        finally:
            tried.release()

    threads = [threading.Thread(target=job, args=(number,)) for number in range(num_jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == num_jobs - 1
    assert len(records(tmp_path / "set")) == 1
    assert os.listdir(tmp_path) == ["set"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_job_that_finished_meanwhile_is_not_replaced(tmp_path, monkeypatch, scheme):
    """It published after the second job had looked, and before it had claimed the folder."""
    path = f"{scheme}{tmp_path}/set"
    require_free, looks = output.require_free, []

    def publish_behind_its_back(*arguments, **options):
        require_free(*arguments, **options)
        looks.append(arguments)
        if len(looks) == 1:
            publish_set(path, content=b"one")

    monkeypatch.setattr(output, "require_free", publish_behind_its_back)
    with pytest.raises(output.JobError, match="set is a finished data set"):
        publish_set(path, content=b"two")
    assert records(tmp_path / "set") == [b"one"]
    assert os.listdir(tmp_path) == ["set"]


def test_a_folder_that_was_renamed_while_its_lock_was_awaited_is_no_claim(tmp_path, monkeypatch):
    flock = resumption.fcntl.flock

    def rename_first(*arguments):
        os.rename(tmp_path / "a", tmp_path / "b")
        flock(*arguments)

    monkeypatch.setattr(resumption.fcntl, "flock", rename_first)
    with (
        pytest.raises(resumption.InUseError, match=r"another process has just ended its work in .*a; run"),
        resumption.in_use(str(tmp_path / "a")),
    ):
        pytest.fail("claimed")


def test_a_real_job_is_refused_before_it_touches_anything(tmp_path):
    write_noise(tmp_path / "a.wav", 0.5)
    with output.pending_output(str(tmp_path / "set"), overwrite=False) as pending:
        write_shard(pending)
        with pytest.raises(resumption.InUseError, match=OTHER_JOB):
            make(tmp_path, [ROW("a", "a", "a.wav")])
        publish(pending)
    assert records(tmp_path / "set") == [b"one"]


def test_a_cancelled_job_has_its_folder_until_its_workers_have_stopped(tmp_path):
    def interrupted():
        with output.pending_output(str(tmp_path / "set"), overwrite=False) as pending:
            pending.cancel()
            with pytest.raises(resumption.InUseError, match=OTHER_JOB):
                publish_set(tmp_path / "set", content=b"two")
            with pytest.raises(output.JobError, match=r"cancelled: .*set\.partial is marked so"):
                WorkerProgress(pending.path, "a").write()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert os.listdir(tmp_path) == []


def killed(path, settings=None):
    """What a job that was killed leaves on an object store; and a task of it, which does not know."""
    claim = claims._ClaimFile(path + ".partial")
    pending = output.PendingOutput(path, overwrite=False, settings=settings)
    claim._ended.set()
    return pending


def test_the_dead_are_told_from_the_living_by_age(tmp_path, at_once, monkeypatch):
    path = f"file://{tmp_path}/set"
    killed(path)
    with pytest.raises(resumption.InUseError, match="or was killed there less than 3 minutes ago"):
        publish_set(path, content=b"two")
    (name,) = os.listdir(tmp_path / "set.partial" / "claims")
    os.utime(tmp_path / "set.partial" / "claims" / name, (1e9, 1e9))
    publish_set(path, content=b"two")
    assert records(tmp_path / "set") == [b"two"]
    assert os.listdir(tmp_path) == ["set"]


def test_a_claim_that_is_renewed_does_not_age(tmp_path, at_once, monkeypatch):
    monkeypatch.setattr(claims, "_RENEWAL_SECONDS", 0.05)
    path = f"file://{tmp_path}/set"
    with output.pending_output(path, overwrite=False):
        folder = tmp_path / "set.partial" / "claims"
        (name,) = os.listdir(folder)
        os.utime(folder / name, (1e9, 1e9))
        deadline = threading.Event()
        for _ in range(200):
            if os.stat(folder / name).st_mtime > 1e9 + 1:
                break
            deadline.wait(0.05)
        with pytest.raises(resumption.InUseError, match=OTHER_JOB):
            publish_set(path, content=b"two")


@pytest.mark.parametrize("settings", [None, {"seed": 1}])
def test_workers_that_outlive_their_job_write_into_no_other(tmp_path, monkeypatch, settings):
    """On a cluster they go on when the launching process is killed, with shards of the same names."""
    path = f"file://{tmp_path}/set"
    monkeypatch.setattr(claims, "_DEAD_AFTER_SECONDS", 0.0)
    late = killed(path, settings)
    other = settings and {"seed": 2}
    with output.pending_output(path, overwrite=False, settings=other) as pending:
        write_shard(pending)
        with pytest.raises((output.JobError, tf.errors.NotFoundError)):
            write_shard(late, b"of the dead")
        with pytest.raises(output.JobError, match=r"cancelled: .* was removed"):
            WorkerProgress(late.path, "a").write()
        publish(pending)
    assert records(tmp_path / "set") == [b"one"]
    assert os.listdir(tmp_path) == ["set"]


def test_a_job_of_the_same_settings_goes_on_where_the_dead_one_ended(tmp_path, monkeypatch):
    path, settings = f"file://{tmp_path}/set", {"seed": 1}
    monkeypatch.setattr(claims, "_DEAD_AFTER_SECONDS", 0.0)
    dead = killed(path, settings)
    shard = {"shard": {"name": "a.tfrecord", "num_bytes": 19}, "failures": []}
    with output.shard_writer(dead.path, "a.tfrecord") as writer:
        writer.write(b"one")
    output.write_summary(dead.path, "a.tfrecord", shard)
    with output.pending_output(path, overwrite=False, settings=settings) as pending:
        assert pending.read_summaries() == {"a.tfrecord": shard}
        publish(pending)
    assert records(tmp_path / "set") == [b"one"]


@pytest.mark.parametrize("settings", [None, {"seed": 1}])
def test_a_job_whose_claim_was_taken_publishes_and_removes_nothing(tmp_path, settings):
    """It was asleep for too long; a job of the same settings would be in the same folder now."""
    path = f"file://{tmp_path}/set"

    def robbed():
        with output.pending_output(path, overwrite=False, settings=settings) as pending:
            write_shard(pending)
            (name,) = os.listdir(tmp_path / "set.partial" / "claims")
            os.rename(
                tmp_path / "set.partial" / "claims" / name, tmp_path / "set.partial" / "claims" / "other"
            )
            publish(pending)

    with pytest.raises(
        resumption.InUseError, match="removed or taken over by another job meanwhile; nothing"
    ):
        robbed()
    assert not (tmp_path / "set").exists()
    assert len(list((tmp_path / "set.partial").glob("*/a.tfrecord"))) == 1


def test_what_is_not_ours_is_not_touched_on_an_object_store(tmp_path):
    (tmp_path / "set.partial").mkdir()
    (tmp_path / "set.partial" / "thesis.tex").write_text("years of work")
    with pytest.raises(output.JobError, match=r"set\.partial exists and was left by no job of ours"):
        publish_set(f"file://{tmp_path}/set", content=b"one")
    assert (tmp_path / "set.partial" / "thesis.tex").exists()


def test_failures_can_be_read_on_an_object_store(tmp_path):
    def failing():
        with output.pending_output(f"file://{tmp_path}/set", overwrite=False) as pending:
            raise output.JobError(pending.write_failures([{"clip_id": "a"}]))

    with pytest.raises(output.JobError, match=r"failures\.jsonl") as raised:
        failing()
    assert os.path.exists(str(raised.value).removeprefix("file://"))
    publish_set(f"file://{tmp_path}/set", content=b"one")
    assert os.listdir(tmp_path) == ["set"]
    assert examples.read_dataset_info(str(tmp_path / "set"), kind=examples.CLIPS)
