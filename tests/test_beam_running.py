"""Options for runners, and how a pipeline ends: by an error, Ctrl-C, a kill, the death of a worker."""

import io
import logging
import os
import signal
import subprocess
import sys
import time

import apache_beam as beam
import pytest
from apache_beam.options import pipeline_options
from test_beam_examples import ROW, clips_of, make, write_noise

from tfsound import datasets, examples
from tfsound.beam import output, running

LOCAL = {"runner": "local", "num_workers": 2, "worker_mode": "threads", "beam_flags": ()}


def direct_options(**changes):
    options = running.beam_options(**(LOCAL | changes))
    standard = options.view_as(pipeline_options.StandardOptions)
    direct = options.view_as(pipeline_options.DirectOptions)
    return standard.runner.rsplit(".", 1)[-1], direct.direct_num_workers, direct.direct_running_mode


def test_the_local_runner_is_named_so_that_nothing_is_downloaded(monkeypatch):
    assert direct_options() == ("FnApiRunner", 2, "multi_threading")
    assert direct_options(worker_mode="processes") == ("FnApiRunner", 2, "multi_processing")
    assert direct_options(num_workers=1) == ("FnApiRunner", 1, "in_memory")
    assert direct_options(num_workers=1, worker_mode="processes") == ("FnApiRunner", 1, "multi_processing")
    monkeypatch.setattr(running.os, "cpu_count", lambda: 5)
    assert direct_options(num_workers=0) == ("FnApiRunner", 5, "multi_threading")


def test_other_runners_and_their_flags_are_passed_on():
    options = running.beam_options(
        runner="DataflowRunner", num_workers=0, worker_mode="threads",
        beam_flags=("--job_name=x", "--project=p", "--region=europe-west1"),
    )  # fmt: skip
    assert options.view_as(pipeline_options.StandardOptions).runner == "DataflowRunner"
    google = options.view_as(pipeline_options.GoogleCloudOptions)
    assert (google.job_name, google.project, google.region) == ("x", "p", "europe-west1")
    assert not options.view_as(pipeline_options.SetupOptions).save_main_session


@pytest.mark.parametrize("flag", ["--max-clip-second=5", "--overwrit", "stray", "--job_nam=x"])
def test_unknown_flags_are_refused(flag):
    with pytest.raises(ValueError, match=rf"'{flag}' is no option of this job or of Apache Beam; see --help"):
        running.beam_options(**(LOCAL | {"beam_flags": ("--job_name=x", flag)}))


def test_bad_workers_are_refused():
    with pytest.raises(ValueError, match=r"must be one of \['processes', 'threads'\], got 'fibres'"):
        running.beam_options(**(LOCAL | {"worker_mode": "fibres"}))
    with pytest.raises(ValueError, match=r"num_workers must be 0 \(one a core\) or more, got -1"):
        running.beam_options(**(LOCAL | {"num_workers": -1}))


def run(function, **changes):
    """Runs a pipeline that calls a function on 1 and 2."""
    running.run_pipeline(
        lambda pipeline: pipeline | beam.Create([1, 2]) | beam.Map(function),
        running.beam_options(**(LOCAL | changes)),
        cancel=lambda: None,
    )


@pytest.mark.parametrize("options", [{"num_workers": 1}, {}, {"worker_mode": "processes"}])
def test_a_pipeline_runs(tmp_path, options):
    run(lambda number: (tmp_path / str(number)).touch(), **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


class SlowToWrite:
    """Takes longer to be written than Beam's workers would wait before they send what is written so far."""

    def __reduce__(self):
        time.sleep(1.5)
        return int, (3,)


def test_workers_send_whole_elements_only(tmp_path):
    def note(number_and_values):
        number, values = number_and_values
        (tmp_path / f"{number}-{list(values)}").touch()

    running.run_pipeline(
        lambda pipeline: (
            pipeline
            | beam.Create([1, 2])
            | beam.Reshuffle()
            | "Slow" >> beam.Map(lambda number: (number, SlowToWrite()))
            | beam.GroupByKey()
            | "Note" >> beam.Map(note)
        ),
        running.beam_options(**LOCAL),
        cancel=lambda: None,
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1-[3]", "2-[3]"]


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (examples.DatasetError("a.tfrecord is damaged."), "a.tfrecord is damaged."),
        (datasets.ManifestError("m.csv: no rows."), "m.csv: no rows."),
        (output.JobError("the disk is full: empty it."), "the disk is full: empty it."),
        (ArithmeticError("one: two"), "ArithmeticError: one: two"),
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device"),
    ],
)
def test_an_error_comes_back_as_its_message(capfd, num_workers, error, message):
    def fail(number):
        raise error

    with pytest.raises(output.JobError) as raised:
        run(fail, num_workers=num_workers)
    assert str(raised.value) == message
    assert raised.value.__cause__ is not None
    # Not any traceback: under load a worker of the test before may only now log that its channel was closed.
    assert "in fail" not in capfd.readouterr().err


def test_beams_own_silence_ends_with_the_job():
    logger, stderr = logging.getLogger("apache_beam"), sys.stderr
    level = logger.level
    with pytest.raises(output.JobError):
        run(lambda number: 1 / 0)
    assert logger.level == level
    assert sys.stderr is stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ValueError: two\nTypeError: last [while running 'Write/Map']", "TypeError: last"),
        ("Traceback\n  File\ntfsound.DatasetError: a.tfrecord ends early [while running 'W']\n\n", None),
        ("something else", "RuntimeError: something else"),
    ],
)
def test_the_cause_is_found_in_what_a_runner_says(text, message):
    assert running._cause(RuntimeError(text)) == (message or "a.tfrecord ends early")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_process_that_dies_ends_the_job():
    def die(number):
        os.kill(os.getpid(), 9)

    with pytest.raises(output.JobError, match=r"^a worker process died \(killed, perhaps, for want of"):
        run(die, worker_mode="processes")


def interrupt_the_wait(monkeypatch):
    """Ctrl-C comes while a job that has begun is waited for."""

    def interrupted():
        raise KeyboardInterrupt

    def in_thread(function, original=running._in_thread):
        outcome = original(function)
        outcome.result = interrupted
        return outcome

    monkeypatch.setattr(running, "_in_thread", in_thread)


def test_an_interruption_cancels_and_waits_for_the_workers(monkeypatch, tmp_path):
    cancelled, stopped = tmp_path / "cancelled", tmp_path / "stopped"

    def work(number):
        while not cancelled.exists():
            time.sleep(0.01)
        stopped.touch()

    interrupt_the_wait(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        running.run_pipeline(
            lambda pipeline: pipeline | beam.Create([1]) | beam.Map(work),
            running.beam_options(**(LOCAL | {"num_workers": 1})),
            cancel=cancelled.touch,
        )
    assert stopped.exists()


def test_a_runner_that_ends_in_another_state_fails_the_job(monkeypatch):
    class Result:
        def wait_until_finish(self):
            return "CANCELLED"

    monkeypatch.setattr(beam.Pipeline, "run", lambda pipeline: Result())
    with pytest.raises(output.JobError, match="the runner ended the job in state CANCELLED; see its log"):
        run(print)


def test_importing_the_jobs_prints_nothing_of_beam():
    run = subprocess.run(
        [sys.executable, "-c", "import logging, tfsound.beam; logging.warning('heard')"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "apitools" not in run.stderr
    assert "heard" in run.stderr


def test_stderr_may_be_anything(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    run(lambda number: number)


@pytest.fixture
def long_job(tmp_path):
    """A job of minutes, started as a user would; it is running when the test begins."""
    path = write_noise(tmp_path / "a.wav", 60.0)
    datasets.write_manifest(
        str(tmp_path / "m.csv"), [ROW(f"c{number}", "r", path) for number in range(20_000)]
    )
    started = []

    def start(*options: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "tfsound.cli", "examples", str(tmp_path / "m.csv"), "set"]
        with open(tmp_path / "err.txt", "w") as stderr:
            started.append(
                subprocess.Popen(
                    [*command, "--num-shards", "2", "--num-workers", "2", *options],
                    cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True,
                )
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("set.partial/progress/clips*")):
            assert started[0].poll() is None, (tmp_path / "err.txt").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        return started[0]

    yield start
    if started and started[0].poll() is None:
        os.killpg(started[0].pid, signal.SIGKILL)


@pytest.mark.parametrize("worker_mode", ["threads", "processes"])
def test_ctrl_c_ends_a_job_in_seconds_and_leaves_nothing(long_job, tmp_path, worker_mode):
    process = long_job("--worker-mode", worker_mode)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to workers, too
    pressed = time.monotonic()
    assert process.wait(30) == 130
    assert time.monotonic() - pressed < 10
    printed = (tmp_path / "err.txt").read_text()
    assert "interrupted" in printed
    for noise in ("Traceback", "apache_beam", "apitools", "KeyboardInterrupt"):
        assert noise not in printed
    assert sorted(os.listdir(tmp_path)) == ["a.wav", "err.txt", "m.csv"]
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # no worker is left


def test_a_killed_job_leaves_no_set_and_can_be_run_again(long_job, tmp_path):
    process = long_job()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)
    for name in ("set", "set.partial"):
        with pytest.raises(examples.DatasetError):
            examples.read_dataset_info(str(tmp_path / name), kind=examples.CLIPS)
    assert (tmp_path / "set.partial").exists()
    write_noise(tmp_path / "b.wav", 1.0)
    make(tmp_path, [ROW("b", "b", "b.wav")])
    assert set(clips_of(tmp_path / "set")) == {"b"}
    assert not (tmp_path / "set.partial").exists()
