"""The same sets from every engine that is at hand; what is said where a part of one is missing."""

import dataclasses
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import apache_beam as beam
import exported_models
import pytest
from apache_beam.options import pipeline_options
from apache_beam.runners.portability import prism_runner
from engines import at_hand, flink_cluster
from engines.at_hand import engine  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st
from test_beam_examples import ROW, write_noise
from test_beam_running import interrupt_the_wait, long_job  # noqa: F401

from tfsound import datasets, examples
from tfsound.beam import embed, engines, instances, output, pairs, running, triplets
from tfsound.beam import examples as clip_examples


def make_examples(folder, made, **options):
    return clip_examples.make_examples(
        str(folder / "manifest.csv"), str(made), num_shards=5, max_failure_fraction=0.5, **options
    )


def sample_triplets(folder, made, **options):
    constraints = ("proximity:10", "noise:0.5", "mixing:0.25", "labels")
    return triplets.sample_triplets(
        str(folder / "examples"), str(made), constraints=constraints, count=90, num_shards=4, **options
    )


def sample_pairs(folder, made, **options):
    return pairs.sample_pairs(
        str(folder / "examples"), str(made), count=90, num_shards=4, allow_repeats=True, **options
    )


def assign_instances(folder, made, **options):
    return instances.assign_instances((str(folder / "examples"),), str(made), **options)


def embed_clips(folder, made, **options):
    return embed.embed(
        str(folder / "model"), str(folder / "manifest.csv"), str(made),
        num_shards=5, batch_size=4, max_failure_fraction=0.5, **options,
    )  # fmt: skip


JOBS = {
    "examples": make_examples,
    "triplets": sample_triplets,
    "pairs": sample_pairs,
    "instances": assign_instances,
    "embed": embed_clips,
}


@pytest.fixture(scope="module")
def made_here(tmp_path_factory) -> pathlib.Path:
    """Twelve recordings, of which one more is missing, a model, and what the local runner makes of them."""
    folder = tmp_path_factory.mktemp("made_here")
    exported_models.export(folder / "model")
    rows = [
        ROW(f"c{n}", f"r{n // 2}", write_noise(folder / f"{n}.wav", 2 + n / 4, seed=n), labels=(f"l{n % 3}",))
        for n in range(12)
    ]
    datasets.write_manifest(str(folder / "manifest.csv"), [*rows, ROW("gone", "gone", "gone.wav")])
    for name, job in JOBS.items():
        job(folder, folder / name, num_workers=1)
    return folder


def files_of(folder) -> dict[str, bytes]:
    """All files of a set but its sidecar, which also tells the command that made it."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert files.pop(examples.INFO_NAME)
    return files


@pytest.mark.parametrize("name", JOBS)
def test_an_engine_makes_the_same_set(engine, made_here, tmp_path, name):  # noqa: F811
    info = JOBS[name](made_here, tmp_path / "set", **engine)
    expected = examples.read_dataset_info(str(made_here / name), kind=info.kind)
    assert dataclasses.replace(info, command=expected.command) == expected
    assert files_of(tmp_path / "set") == files_of(made_here / name)
    assert os.listdir(tmp_path) == ["set"]


def test_a_workers_error_comes_back_from_an_engine_as_its_message(engine, capsys):  # noqa: F811
    def fail(number):
        raise examples.DatasetError("a.tfrecord is damaged.")

    with pytest.raises(output.JobError) as raised:
        run(fail, engine)
    assert str(raised.value) == "a.tfrecord is damaged."
    assert "in fail" not in capsys.readouterr().err  # worker processes print their own


def run(function, engine):  # noqa: F811
    """Runs a pipeline that calls a function on 1 and 2."""
    options = running.beam_options(num_workers=0, worker_mode="threads", **engine)
    running.run_pipeline(
        lambda pipeline: pipeline | beam.Create([1, 2]) | beam.Map(function), options, cancel=lambda: None
    )


@pytest.fixture(params=["job server", "prism"])
def long_job_on_engine(request, long_job, tmp_path):  # noqa: F811
    """A job of minutes that an engine does, started as a user would; it is running when the test begins."""
    with at_hand.options_of(request.param, tmp_path) as options:
        yield long_job("--runner", options["runner"], *options["beam_flags"])


def test_ctrl_c_ends_a_job_on_an_engine_and_leaves_nothing(long_job_on_engine, tmp_path):
    process = long_job_on_engine
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to the engine, too
    assert process.wait(60) == 130
    printed = (tmp_path / "err.txt").read_text()
    assert "interrupted" in printed
    for noise in ("Traceback", "apache_beam", "ERROR:", "FATAL", "KeyboardInterrupt"):
        assert noise not in printed
    assert sorted(os.listdir(tmp_path)) == ["a.wav", "err.txt", "m.csv"]
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # neither the engine nor a worker is left


def test_a_killed_engine_ends_the_job_with_a_reason(long_job, tmp_path):  # noqa: F811
    options = at_hand.prism()
    process = long_job("--runner", options["runner"], *options["beam_flags"])
    kill_children(process.pid, "prism")
    assert process.wait(60) == 1
    printed = (tmp_path / "err.txt").read_text()
    assert "tfsound examples: the engine's job server ended or cannot be reached any more" in printed
    assert "Traceback" not in printed
    assert sorted(os.listdir(tmp_path)) == ["a.wav", "err.txt", "m.csv"]


def test_a_killed_worker_ends_the_job_with_a_reason(long_job, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable), prepend=os.pathsep)
    options = at_hand.prism(at_hand.PROCESSES)
    process = long_job("--runner", options["runner"], *options["beam_flags"])
    kill_children(process.pid, "SdkHarness")
    assert process.wait(60) == 1
    assert "SDK worker disconnected" in (tmp_path / "err.txt").read_text()
    assert sorted(os.listdir(tmp_path)) == ["a.wav", "err.txt", "m.csv"]


def kill_children(pid: int, word: str) -> None:
    """Kills the children of a process whose command holds a word."""
    listed = subprocess.run(
        ["ps", "--ppid", str(pid), "-o", "pid=,args="], capture_output=True, text=True, check=True
    )
    found = [line.split(None, 1)[0] for line in listed.stdout.splitlines() if word in line]
    assert found, listed.stdout
    for child in found:
        os.kill(int(child), signal.SIGKILL)


def test_a_killed_task_manager_changes_nothing(made_here, tmp_path):
    folder = tmp_path / "flink"
    folder.mkdir()
    with at_hand.started_flink_cluster(folder) as cluster:
        killed = threading.Event()

        def kill():
            while not list(tmp_path.glob("set.partial/progress/clips*")):
                time.sleep(0.01)
            cluster.task_managers[0].kill()
            killed.set()

        threading.Thread(target=kill, daemon=True).start()
        try:
            make_examples(made_here, tmp_path / "set", **at_hand.flink(cluster.address))
        except output.JobError:
            assert not (tmp_path / "set").exists()
        else:
            assert files_of(tmp_path / "set") == files_of(made_here / "examples")
        assert killed.is_set()
        assert cluster.num_jobs("running") == 0


def test_the_job_manager_misses_a_killed_task_manager(tmp_path):
    with flink_cluster.started(
        at_hand.path_of("TFSOUND_FLINK_LIB"), tmp_path, num_task_managers=2
    ) as cluster:
        assert cluster.num_task_managers() == 2
        cluster.task_managers[0].kill()
        deadline = time.monotonic() + 60
        while cluster.num_task_managers() == 2:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert cluster.num_task_managers() == 1
    assert [process.poll() is None for process in cluster.task_managers] == [False, False]


@pytest.fixture
def started(monkeypatch):
    """A pipeline that an engine has begun, instead of a real one: what becomes of it is noted."""

    class Started:
        is_cancelled = False

        def wait_until_finish(self):
            return "DONE"

        def cancel(self):
            self.is_cancelled = True

    begun = Started()
    monkeypatch.setattr(beam.Pipeline, "run", lambda pipeline: begun)
    return begun


JOB_SERVER = {"runner": "PortableRunner", "beam_flags": ("--job_endpoint=embed",)}


def test_a_job_server_does_not_keep_ctrl_c(monkeypatch, started):
    def start(pipeline):
        signal.signal(signal.SIGINT, lambda number, frame: None)  # as Beam does, in the main thread only
        return started

    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(beam.Pipeline, "run", start)
    run(print, JOB_SERVER)
    assert signal.getsignal(signal.SIGINT) is handler


def test_an_interruption_cancels_the_job_on_the_engine(monkeypatch, started):
    interrupt_the_wait(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(print, JOB_SERVER)
    assert started.is_cancelled


def test_what_is_logged_after_a_job_is_heard():
    program = (
        "import logging, test_beam_engines as tests; tests.run(str, tests.JOB_SERVER | {'beam_flags': "
        "('--job_endpoint=embed', '--environment_type=LOOPBACK')}); logging.warning('heard')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=pathlib.Path(__file__).parent, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert "WARNING:root:heard" in done.stderr


@pytest.mark.parametrize(
    ("runner", "flags", "message"),
    [
        ("FlinkRuner", (), r"runner must be one of local, .*FlinkRunner.* of a class; got 'FlinkRuner'"),
        ("PortableRunner", (), r"needs the address of a job server, --job_endpoint=HOST:PORT; start one"),
        ("PortableRunner", ("--job_endpoint=8099",), r"--job_endpoint must be HOST:PORT, got '8099'"),
        ("PortableRunner", ("--job_endpoint=localhost:66666",), r"must be HOST:PORT, got 'localhost:66666'"),
        ("PrismRunner", ("--prism_location=gone",), r"none at gone; build it by `go install .*/prism@v2\."),
        ("prism", ("--prism_location=gone",), r"PrismRunner needs the program prism"),
        ("FlinkRunner", ("--job_server_java_launcher=gone",), r"no 'gone' on the PATH; install Java 17 \(on"),
        ("SparkRunner", ("--job_server_java_launcher=gone",), r"SparkRunner runs its job server in Java"),
        (
            "FlinkRunner",
            (f"--job_server_java_launcher={sys.executable}", "--flink_job_server_jar=gone.jar"),
            r"needs Beam's job server, and there is no gone\.jar; fetch it by `mvn dependency:copy "
            r"-Dartifact=org\.apache\.beam:beam-runners-flink-[\d.]+-job-server:2\.[\d.]+ -D.*` and give "
            r"--flink_job_server_jar=beam-runners-flink-",
        ),
        (
            "SparkRunner",
            (f"--job_server_java_launcher={sys.executable}", "--jar_cache_dir=gone"),
            r"no gone/beam-runners-spark-3-job-server-2\..*`mvn .* --spark_job_server_jar=beam-runners-spark",
        ),
        (
            "FlinkRunner",
            (
                f"--job_server_java_launcher={sys.executable}", f"--flink_job_server_jar={__file__}",
                "--flink_master=nowhere",
            ),
            r"--flink_master must be HOST:PORT, got 'nowhere'",
        ),
    ],
)  # fmt: skip
def test_missing_parts_are_named_before_any_work(tmp_path, runner, flags, message):
    with pytest.raises((ValueError, output.JobError), match=message):
        clip_examples.make_examples("gone.csv", str(tmp_path / "set"), runner=runner, beam_flags=flags)
    assert not list(tmp_path.iterdir())


def beam_options(runner, *flags):
    return running.beam_options(runner=runner, num_workers=0, worker_mode="threads", beam_flags=flags)


def test_a_server_that_does_not_answer_is_named():
    with socket.create_server(("localhost", 0)) as server:
        address = f"localhost:{server.getsockname()[1]}"
        beam_options("PortableRunner", f"--job_endpoint={address}")
    with pytest.raises(
        output.JobError, match=f"nothing answers at --job_endpoint={address} .*; start the job"
    ):
        beam_options("PortableRunner", f"--job_endpoint={address}")
    java, jar = f"--job_server_java_launcher={sys.executable}", f"--flink_job_server_jar={__file__}"
    with pytest.raises(
        output.JobError, match=f"at --flink_master=http://{address} .*; start the Flink cluster"
    ):
        beam_options("FlinkRunner", java, jar, f"--flink_master=http://{address}")


def test_prism_is_found_on_the_path(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(prism_runner.PrismJobServer, "BIN_CACHE", str(tmp_path / "cache"))
    with pytest.raises(output.JobError, match="there is none on the PATH"):
        beam_options("PrismRunner")
    (tmp_path / "prism").touch(0o755)
    options = beam_options("PrismRunner").view_as(pipeline_options.PrismRunnerOptions)
    assert options.prism_location == str(tmp_path / "prism")


@given(st.text() | st.from_regex(r"(https?://)?[\w.\[\]:-]{0,12}:\d{0,6}/?", fullmatch=True))
def test_any_address_is_one_or_none(address):
    host, port = engines._host_and_port(address)
    assert (host, port) == (None, None) or port is None or 0 <= port < 1 << 16
