"""How jobs run: on this machine by default, on any Beam runner by flag."""

import contextlib
import logging
import os
import re
from collections.abc import Callable, Sequence

import apache_beam as beam
from apache_beam.options import pipeline_options

from tfsound.beam.output import JobError

# Named in full: `DirectRunner` first tries to download another runner's binary.
_LOCAL_RUNNER = "apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner"
_WORKER_MODES = {"threads": "multi_threading", "processes": "multi_processing"}


def beam_options(
    *, runner: str, num_workers: int, worker_mode: str, beam_flags: Sequence[str]
) -> pipeline_options.PipelineOptions:
    """Beam's options for a job.

    Args:
      runner: `local`, or the name of a Beam runner, such as `DataflowRunner`.
      num_workers: workers on this machine, 0 for one a core; for other runners use their own flags.
      worker_mode: `threads` or `processes`, on this machine.
      beam_flags: further flags of Beam or of the runner, such as `--project=...`.

    Raises:
      ValueError: a mode or flag that is not known, or a negative number of workers.
    """
    if worker_mode not in _WORKER_MODES:
        raise ValueError(f"worker_mode must be one of {sorted(_WORKER_MODES)}, got {worker_mode!r}.")
    if num_workers < 0:
        raise ValueError(f"num_workers must be 0 (one a core) or more, got {num_workers}.")
    _require_known(beam_flags)
    options = pipeline_options.PipelineOptions(list(beam_flags))
    standard = options.view_as(pipeline_options.StandardOptions)
    if runner == "local":
        standard.runner = _LOCAL_RUNNER
        direct = options.view_as(pipeline_options.DirectOptions)
        direct.direct_num_workers = num_workers or os.cpu_count()
        direct.direct_running_mode = _WORKER_MODES[worker_mode]
        if direct.direct_num_workers == 1 and worker_mode == "threads":
            direct.direct_running_mode = "in_memory"
    else:
        standard.runner = runner
        options.view_as(pipeline_options.SetupOptions).save_main_session = False
    return options


def _require_known(beam_flags: Sequence[str]) -> None:
    parser = pipeline_options._BeamArgumentParser(allow_abbrev=False)
    # A class imported twice, by Beam's own lazy imports, registers its flags once.
    for option_class in {str(c): c for c in pipeline_options.PipelineOptions.__subclasses__()}.values():
        option_class._add_argparse_args(parser)
    _, unknown = parser.parse_known_args(list(beam_flags))
    if unknown:
        raise ValueError(
            f"{unknown[0]!r} is no option of this job or of Apache Beam; see --help. "
            "Values of Beam options are joined by '=', as in --region=europe-west1."
        )


def run_pipeline(build: Callable[[beam.Pipeline], None], options: pipeline_options.PipelineOptions) -> None:
    """Builds and runs a pipeline, and waits for its end.

    Raises:
      JobError: the pipeline failed; the message is the cause, the traceback is chained.
    """
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    pipeline = beam.Pipeline(options=options)
    build(pipeline)
    try:
        result = pipeline.run()
        state = result.wait_until_finish()
    except Exception as error:
        raise JobError(_cause(error)) from error
    if state is not None and str(state) not in ("DONE", "PipelineState.DONE"):
        raise JobError(f"the runner ended the job in state {state}; see its log.")


def _cause(error: BaseException) -> str:
    """The message of the error that a worker raised, out of the text that a runner makes of it."""
    pattern = re.compile(r"^(?:[\w.]+\.)?(\w*(?:Error|Exception|Interrupt)): (.+)", re.MULTILINE)
    found = pattern.findall(str(error))
    if not found:
        return f"{type(error).__name__}: {error}"
    kind, message = found[-1]
    message = re.sub(r" \[while running '.*?'\]$", "", message)
    message = re.sub(r"\s*\[while running '.*", "", message)
    with contextlib.suppress(UnicodeError):
        message = message.rstrip()
    return message if kind in ("DatasetError", "ManifestError", "JobError", "ValueError") else f"{kind}: {message}"
