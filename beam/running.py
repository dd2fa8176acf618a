"""How jobs run: on this machine by default, on any Beam runner by flag."""

import concurrent.futures
import contextlib
import io
import logging
import os
import re
import shlex
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import apache_beam as beam
import grpc
import tensorflow as tf
from apache_beam.options import pipeline_options
from apache_beam.portability import python_urns
from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.portability.fn_api_runner import worker_handlers
from apache_beam.utils import interactive_utils, thread_pool_executor

from tfsound.beam import engines, worker_checks, worker_notes
from tfsound.beam.output import JobError

# Named in full: `DirectRunner` first tries to download another runner's binary.
_LOCAL_RUNNER = "apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner"
_WORKER_MODES = {"threads": "multi_threading", "processes": "multi_processing"}
# Ctrl-C in a terminal goes to the workers, too, and kills them at once. They take no GPU; what they print is
# not for the user, since errors come back to the launching process.
_WORKER_SCRIPT = (
    "import runpy, signal; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "runpy.run_module('apache_beam.runners.worker.sdk_worker_main', run_name='__main__')"
)
_WORKER_COMMAND = (
    f'exec env CUDA_VISIBLE_DEVICES=-1 {shlex.quote(sys.executable)} -c "{_WORKER_SCRIPT}" 2>/dev/null'
)
# They say at each job which program was started and stopped; Prism's tells every step.
for _server_log in ("apache_beam.utils.subprocess_server", "PrismJobServer"):
    logging.getLogger(_server_log).disabled = True
# How long an interrupted job waits for its workers to notice; they look every half second.
_STOP_SECONDS = 10
_OUR_ERRORS = ("DatasetError", "JobError", "ManifestError", "MediaError", "ModelError", "ValueError")


class _WorkerProcess(worker_handlers.SubprocessSdkWorkerHandler):
    """A worker process whose death ends the job; Beam would wait for its answer for ever."""

    def __init__(self, command, *arguments):
        self._notes = tempfile.TemporaryDirectory()
        noting = f"export {worker_notes.FOLDER_VARIABLE}={shlex.quote(self._notes.name)}; "
        super().__init__((noting + _WORKER_COMMAND).encode(), *arguments)

    def start_worker(self):
        super().start_worker()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self):
        self.worker_thread.join()
        futures = list(self.control_conn._futures_by_id.values())
        if not futures:
            return
        error = "JobError: a worker process died (killed, perhaps, for want of memory); try fewer workers."
        error += worker_notes.last_words(self._notes.name)
        # Not `abort`, which does not end the runner's wait for the data of the answer.
        for future in futures:
            future.set(beam_fn_api_pb2.InstructionResponse(error=error))


# Every second a thread of Beam's local workers sends what is written so far, be it half an element, and drops
# what is written meanwhile: jobs failed, or lost records, on a machine busy enough. Without, size decides.
worker_handlers.DATA_BUFFER_TIME_LIMIT_MS = 0
worker_handlers.WorkerHandler.register_environment(python_urns.SUBPROCESS_SDK, bytes)(_WorkerProcess)


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
      ValueError: a runner, mode or flag that is not known, or a negative number of workers; JobError: a part
      of the runner is missing.
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
        engines.require_parts(options)
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


def run_pipeline(
    build: Callable[[beam.Pipeline], None],
    options: pipeline_options.PipelineOptions,
    *,
    cancel: Callable[[], None],
) -> None:
    """Builds and runs a pipeline, and waits for its end.

    Args:
      cancel: what makes the workers stop; called when the user interrupts.

    Raises:
      JobError: the pipeline failed; the message is the cause, the traceback is chained.
    """
    pipeline = beam.Pipeline(options=options)
    with _outside_ipython():
        build(pipeline)
    is_local = options.view_as(pipeline_options.StandardOptions).runner == _LOCAL_RUNNER
    started = outcome = None
    with _beam_silenced():
        try:
            if is_local:
                # In a thread of its own, because this runner, interrupted, waits for its workers to finish.
                outcome = _in_thread(lambda: pipeline.run().wait_until_finish())
            else:
                with _interrupts_kept():
                    started = pipeline.run()
                outcome = _in_thread(started.wait_until_finish)
            state = outcome.result()
        except KeyboardInterrupt:
            cancel()
            if started:
                _cancel_on_engine(started)
            if outcome:
                concurrent.futures.wait([outcome], _STOP_SECONDS)
            if started:
                _wait_for_worker_threads()
            raise
        except Exception as error:
            if started:
                with contextlib.suppress(tf.errors.OpError, OSError):  # that would hide the error
                    cancel()
                _wait_for_worker_threads()
            raise JobError(_cause(error)) from error
    if state is not None and str(state) not in ("DONE", "PipelineState.DONE"):
        raise JobError(f"the runner ended the job in state {state}; see its log.")


@contextlib.contextmanager
def _interrupts_kept() -> Iterator[None]:
    """Job servers that Beam starts take Ctrl-C for themselves: they end, and no job is cancelled there."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is not handler:
            signal.signal(signal.SIGINT, handler)


def _wait_for_worker_threads() -> None:
    """Waits until workers that are threads of this process have noticed that the job is at its end.

    An engine that is gone tells them nothing, and a process that ends while one computes is aborted.
    """
    pool = thread_pool_executor.shared_unbounded_instance()
    deadline = time.monotonic() + _STOP_SECONDS
    while any(worker._work_item for worker in list(pool._workers)) and time.monotonic() < deadline:
        time.sleep(0.05)


def _cancel_on_engine(started: beam.runners.runner.PipelineResult) -> None:
    """An engine would take workers that stop for workers that failed, and start the job again."""
    # Ctrl-C in a terminal ends a job server of this process, too; not every runner can cancel.
    with contextlib.suppress(grpc.RpcError, NotImplementedError):
        started.cancel()


@contextlib.contextmanager
def _outside_ipython() -> Iterator[None]:
    """In a notebook, Beam puts the cell's number before the names of steps, and imports pandas to do so."""
    is_in_ipython = interactive_utils.is_in_ipython
    interactive_utils.is_in_ipython = lambda: False
    try:
        yield
    finally:
        interactive_utils.is_in_ipython = is_in_ipython


def _in_thread(function: Callable) -> concurrent.futures.Future:
    """What the function returns or raises. The thread is a daemon: it does not keep the program alive."""
    outcome = concurrent.futures.Future()

    def work():
        try:
            outcome.set_result(function())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return outcome


@contextlib.contextmanager
def _beam_silenced() -> Iterator[None]:
    """Beam logs and prints the traceback of a worker's error several times over; `_cause` says it once."""
    logger, root = logging.getLogger("apache_beam"), logging.getLogger()
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    # Where there is no handler, logging makes one that writes to today's stderr, and keeps it.
    handler = logging.NullHandler()
    root.addHandler(handler)
    root.addFilter(_nothing)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        root.removeFilter(_nothing)
        root.removeHandler(handler)
        logger.setLevel(level)


def _nothing(record: logging.LogRecord) -> bool:
    """A filter of what Beam logs by no logger of its own."""
    return False


def _cause(error: BaseException) -> str:
    """The message of the error that a worker raised, out of the text that a runner makes of it."""
    if isinstance(error, grpc.RpcError):
        return (
            f"the engine's job server ended or cannot be reached any more ({error.details()}); see its log."
        )
    # Beam makes an error of a type that it cannot make anew a RuntimeError, whose text names the type.
    pattern = r"^(?:RuntimeError: )?(?:[\w.]+\.)?(\w*(?:Error|Exception|Interrupt)): (.+)"
    found = re.findall(pattern, str(error), re.MULTILINE)
    kind, message = found[-1] if found else (type(error).__name__, str(error))
    message = message.split(" [while running '")[0].rstrip()
    if kind == "ModuleNotFoundError" and "'tfsound" in message:
        return worker_checks.NO_PACKAGE
    return message if kind in _OUR_ERRORS else f"{kind}: {message}"
