"""The engines that are at hand, and the options by which a job runs on each.

One of them always is: Beam's own job server, in this process, to which a job goes as it does to Prism, Flink
and Spark. The others are named by environment variables; `make prism` and `make flink` set them.
"""

import contextlib
import os
import pathlib
import sys
from collections.abc import Iterator

import pytest
from engines import flink_cluster

# Workers are processes, not threads of this one.
PROCESSES = "--experiments=use_loopback_process_worker"
_LOOPBACK = "--environment_type=LOOPBACK"
_HINTS = {
    "TFSOUND_PRISM": "no program prism; `make prism` builds one",
    "TFSOUND_FLINK_JOB_SERVER": "no jar of Beam's job server for Flink; `make flink` fetches one",
    "TFSOUND_FLINK_LIB": "no folder of Flink's jars; `make flink` fetches them",
    "TFSOUND_SPARK_JOB_SERVER": "no jar of Beam's job server for Spark (beam-runners-spark-3-job-server)",
}
NAMES = ("job server", "prism", "prism with processes", "flink", "flink cluster", "spark")


def path_of(variable: str) -> str:
    """What the variable names; a test that asks for it is skipped without."""
    path = os.environ.get(variable)
    if not path:
        pytest.skip(f"{variable} names no {_HINTS[variable]}")
    return path


def prism(*flags: str) -> dict:
    return {"runner": "PrismRunner", "beam_flags": (f"--prism_location={path_of('TFSOUND_PRISM')}", *flags)}


def flink(master: str, *flags: str) -> dict:
    jar = f"--flink_job_server_jar={path_of('TFSOUND_FLINK_JOB_SERVER')}"
    java = [f"--job_server_jvm_properties={flag}" for flag in ("-Xmx512m", *flink_cluster.OPENED)]
    beam_flags = (jar, *java, f"--flink_master={master}", "--parallelism=2", _LOOPBACK, *flags)
    return {"runner": "FlinkRunner", "beam_flags": beam_flags}


def started_flink_cluster(folder: pathlib.Path):
    """A cluster of two task managers, for jobs that a job server sends there."""
    path_of("TFSOUND_FLINK_JOB_SERVER")
    return flink_cluster.started(path_of("TFSOUND_FLINK_LIB"), folder, num_task_managers=2)


@contextlib.contextmanager
def options_of(name: str, folder: pathlib.Path) -> Iterator[dict]:
    """The keyword arguments of a job that runs on the engine `name`, which runs until the end."""
    if name == "job server":
        yield {"runner": "PortableRunner", "beam_flags": ("--job_endpoint=embed", _LOOPBACK)}
    elif name == "prism":
        yield prism()
    elif name == "prism with processes":
        yield prism(PROCESSES)
    elif name == "flink":
        yield flink("[local]")
    elif name == "flink cluster":
        with started_flink_cluster(folder) as cluster:
            yield flink(cluster.address)
    elif name == "spark":
        jar = f"--spark_job_server_jar={path_of('TFSOUND_SPARK_JOB_SERVER')}"
        yield {"runner": "SparkRunner", "beam_flags": (jar, "--spark_master_url=local[2]", _LOOPBACK)}


@pytest.fixture(scope="module", params=NAMES)
def engine(request, tmp_path_factory) -> Iterator[dict]:
    """The options of each engine in turn. Beam starts worker processes by the name `python`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", os.path.dirname(sys.executable), prepend=os.pathsep)
        with options_of(request.param, tmp_path_factory.mktemp("engine")) as options:
            yield options
