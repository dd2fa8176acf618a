"""What Beam's runners need on this machine. What is missing is said before any work, with what to install."""

import dataclasses
import os
import shutil
import socket
import urllib.parse

from apache_beam import version
from apache_beam.options import pipeline_options
from apache_beam.runners.portability import prism_runner
from apache_beam.utils import subprocess_server

from tfsound.beam.output import JobError

_KNOWN_RUNNERS = {name.lower(): name for name in pipeline_options.StandardOptions.KNOWN_RUNNER_NAMES}
# What Beam calls a Flink cluster of its own, within the job server.
_OWN_CLUSTER = ("[local]", "[auto]")
_ANSWER_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class _JobServer:
    """The Java program by which a runner hands jobs to its engine: the jar's Maven artifact, its option."""

    artifact: str
    option: str

    @property
    def jar_name(self) -> str:
        return f"{self.artifact}-{version.__version__}.jar"


def require_parts(options: pipeline_options.PipelineOptions) -> None:
    """Makes sure that a runner other than the local one can be started, or reached.

    Raises:
      ValueError: there is no such runner; JobError: a part of it is missing, or does not answer.
    """
    name = options.view_as(pipeline_options.StandardOptions).runner
    if "." in name:  # a class by its full name
        return
    runner = _KNOWN_RUNNERS.get(name.lower()) or _KNOWN_RUNNERS.get(name.lower() + "runner")
    if not runner:
        names = ", ".join(["local", *sorted(_KNOWN_RUNNERS.values())])
        raise ValueError(f"runner must be one of {names}, or the full name of a class; got {name!r}.")
    endpoint = options.view_as(pipeline_options.PortableOptions).job_endpoint
    if endpoint:
        if endpoint != "embed":  # Beam's own, in this process
            _require_answer(endpoint, "--job_endpoint", "start the job server, or correct the address")
    elif runner == "PortableRunner":
        raise JobError(
            "PortableRunner needs the address of a job server, --job_endpoint=HOST:PORT; start one and give "
            "its address, or name the runner of an engine, such as FlinkRunner."
        )
    elif runner == "PrismRunner":
        _find_prism(options.view_as(pipeline_options.PrismRunnerOptions))
    elif runner == "FlinkRunner":
        flink = options.view_as(pipeline_options.FlinkRunnerOptions)
        artifact = f"beam-runners-flink-{flink.flink_version}-job-server"
        _require_job_server(runner, options, _JobServer(artifact, "flink_job_server_jar"))
        if flink.flink_master.strip() not in _OWN_CLUSTER:
            remedy = "start the Flink cluster, or correct the address"
            _require_answer(flink.flink_master.strip(), "--flink_master", remedy)
    elif runner == "SparkRunner":
        spark = options.view_as(pipeline_options.SparkRunnerOptions)
        artifact = f"beam-runners-spark-{spark.spark_version}-job-server"
        _require_job_server(runner, options, _JobServer(artifact, "spark_job_server_jar"))


def _require_answer(address: str, option: str, remedy: str) -> None:
    """Raises: JobError where nothing listens at HOST:PORT."""
    host, port = _host_and_port(address)
    if not host or not port:
        raise JobError(f"{option} must be HOST:PORT, got {address!r}.")
    try:
        socket.create_connection((host, port), _ANSWER_SECONDS).close()
    except OSError as error:
        raise JobError(f"nothing answers at {option}={address} ({error}); {remedy}.") from error


def _host_and_port(address: str) -> tuple[str | None, int | None]:
    try:
        url = urllib.parse.urlsplit(address if "://" in address else f"//{address}")
        return url.hostname, url.port
    except ValueError:  # no address, or no number of a port
        return None, None


def _require_job_server(runner: str, options: pipeline_options.PipelineOptions, server: _JobServer) -> None:
    """Raises: JobError where there is no Java, or no jar."""
    job_server = options.view_as(pipeline_options.JobServerOptions)
    java = job_server.job_server_java_launcher
    if not shutil.which(java):
        raise JobError(
            f"{runner} runs its job server in Java, and there is no {java!r} on the PATH; install Java 17 "
            "(on Debian: apt-get install openjdk-17-jre-headless), or give --job_server_java_launcher=PATH."
        )
    jar = options.get_all_options()[server.option]
    # Beam would download it without a word, or wait for long where it cannot.
    cache = job_server.jar_cache_dir or subprocess_server.JavaJarServer.JAR_CACHE
    if jar and "://" in jar:
        return
    path = jar or os.path.join(cache, server.jar_name)
    if not os.path.isfile(path):
        artifact = f"org.apache.beam:{server.artifact}:{version.__version__}"
        raise JobError(
            f"{runner} needs Beam's job server, and there is no {path}; fetch it by `mvn dependency:copy "
            f"-Dartifact={artifact} -DoutputDirectory=.` and give --{server.option}={server.jar_name}."
        )


def _find_prism(prism: pipeline_options.PrismRunnerOptions) -> None:
    """Takes the program that is named, or on the PATH, or that Beam has downloaded before.

    Raises:
      JobError: there is none.
    """
    location = prism.prism_location
    if location and ("://" in location or os.path.isfile(location)):
        return
    if not location:
        prism.prism_location = shutil.which("prism")
        cache = prism_runner.PrismJobServer.BIN_CACHE
        if prism.prism_location or (os.path.isdir(cache) and os.listdir(cache)):
            return
    where = f"at {location}" if location else "on the PATH"
    raise JobError(
        f"PrismRunner needs the program prism, and there is none {where}; build it by `go install "
        f"github.com/apache/beam/sdks/v2/go/cmd/prism@v{version.__version__}` and give "
        "--prism_location=PATH, by default in ~/go/bin."
    )
