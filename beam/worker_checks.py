"""Workers on other machines: what they cannot reach is refused before any work, another tfsound at its start.

Workers that the launching process starts itself see its files and run its package. Containers, on Dataflow
and elsewhere, see neither; of processes that somebody else started only they themselves can tell.
"""

import dataclasses
import importlib
import os
import socket
from collections.abc import Callable, Sequence

import apache_beam as beam
import tensorflow as tf
from apache_beam.options import pipeline_options

from tfsound.beam import output as job_output
from tfsound.version import __version__

_HOW_TO_INSTALL = (
    "give them this one: --sdk_container_image=..., made from beam/worker.Dockerfile, or, from a checkout, "
    "--setup_file=./setup.py or --extra_package=dist/tfsound-....tar.gz"
)
NO_PACKAGE = f"the workers have no tfsound, this process has {__version__}; {_HOW_TO_INSTALL}."
# Runners whose workers are on this machine where no other place is named, and the option that names one.
_LOCAL_MASTERS = {
    "flinkrunner": ("flink_master", ("[local]", "[auto]")),
    "sparkrunner": ("spark_master_url", "local"),
}
_LOCAL_RUNNERS = (
    "fnapirunner",
    "directrunner",
    "switchingdirectrunner",
    "bundlebaseddirectrunner",
    "prismrunner",
)
_DATAFLOW = "dataflowrunner"


def _runner_name(options: pipeline_options.PipelineOptions) -> str:
    return options.view_as(pipeline_options.StandardOptions).runner.rsplit(".", 1)[-1].lower()


def _are_containers(options: pipeline_options.PipelineOptions) -> bool:
    """Whether the workers are sure to see no file of this machine."""
    runner = _runner_name(options)
    if runner == _DATAFLOW:
        return True
    environment = options.view_as(pipeline_options.PortableOptions).environment_type
    if environment:
        return "DOCKER" in environment.upper()
    if runner in _LOCAL_MASTERS:
        name, here = _LOCAL_MASTERS[runner]
        return not str(options.get_all_options().get(name)).startswith(here)
    return runner == "portablerunner"


def is_local(path: str) -> bool:
    """Whether a path, or `file://` URI, is of this machine."""
    return "://" not in path or path.startswith("file://")


def require_reachable(
    options: pipeline_options.PipelineOptions, *, inputs: Sequence[str] = (), output: str = ""
) -> None:
    """Refuses what the workers cannot reach.

    Args:
      inputs: files and folders that workers read.
      output: the folder that they write to.

    Raises:
      JobError: a path of this machine where the workers are elsewhere; or the runner is not installed.
    """
    if _runner_name(options) == _DATAFLOW:
        _require_dataflow()
    if not _are_containers(options):
        return
    for role, path in [*(("input", path) for path in inputs), ("output", output)]:
        if path and is_local(path):
            runner = options.view_as(pipeline_options.StandardOptions).runner
            raise job_output.JobError(
                f"the {role} {path} is a path of this machine, which the workers of {runner} cannot reach; "
                f"name one that they can, such as gs://BUCKET/{os.path.basename(path.rstrip('/'))}"
                f"{_or_here(options)}."
            )


def _or_here(options: pipeline_options.PipelineOptions) -> str:
    return "" if _runner_name(options) == _DATAFLOW else ", or run them here: --environment_type=LOOPBACK"


def _require_dataflow() -> None:
    try:
        importlib.import_module("google.cloud.dataflow_v1beta3")
    except ImportError as error:
        raise job_output.JobError(
            f"DataflowRunner is not installed ({error}); install it: pip install 'tfsound[gcp]'."
        ) from error


def require_pending(pending_path: str) -> None:
    """Raises: JobError where a worker does not find the pending folder of its job."""
    if not tf.io.gfile.isdir(pending_path):
        raise job_output.JobError(
            f"the worker on {socket.gethostname()} does not find {pending_path}: it cannot reach this file "
            "system, or the folder was removed; name an output that all workers reach."
        )


def _check(version: str, how_to_install: str) -> Callable[[str], str]:
    """A function that workers without this module, or with another version of it, can be given.

    Being a name of no module it is pickled as a whole; it uses nothing but what it imports.
    """

    def check_worker(pending_path):
        try:
            from tfsound.version import __version__ as found
        except ImportError:
            found = ""
        if found != version:
            # As text: the worker may not know our errors.
            have = f"tfsound {found}" if found else "no tfsound"
            raise RuntimeError(
                f"JobError: the workers have {have}, this process has {version}; {how_to_install}."
            )
        from tfsound.beam import worker_checks

        worker_checks.require_pending(pending_path)
        return pending_path

    return check_worker


@dataclasses.dataclass
class ReadInputs(beam.PTransform):
    """What `PendingOutput.write_inputs` wrote, an element each, once the workers are found to be fit.

    The graph holds the name of a folder, however much a job reads. The check is a stage of its own, because
    workers unpickle all steps of a stage before they do the first.

    Args:
      version: of the package that the workers must have.
    """

    pending_path: str
    version: str = __version__

    def expand(self, pipeline):
        return (
            pipeline
            | "PendingFolder" >> beam.Create([self.pending_path], reshuffle=False)
            | "CheckWorkers" >> beam.Map(_check(self.version, _HOW_TO_INSTALL))
            | "EndOfCheck" >> beam.Reshuffle()
            | "ReadInputs" >> beam.FlatMap(job_output.read_inputs)
        )
