"""A standalone Flink cluster on loopback: one job manager, some task managers, each a process of its own."""

import contextlib
import dataclasses
import json
import pathlib
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

# What Flink's own scripts give Java 17, which closes its packages to others.
OPENED = tuple(
    f"--add-opens=java.base/{package}=ALL-UNNAMED"
    for package in (
        "java.lang", "java.lang.reflect", "java.io", "java.net", "java.nio", "sun.nio.ch", "java.text",
        "java.time", "java.util", "java.util.concurrent", "java.util.concurrent.atomic",
        "java.util.concurrent.locks",
    )
)  # fmt: skip
_JOB_MANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
_TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
_HEAPS = {_JOB_MANAGER: "512m", _TASK_MANAGER: "512m"}
_START_SECONDS, _STOP_SECONDS = 180, 10
# Sizes that Flink's scripts would compute. A task manager that is killed is missed after ten seconds, and the
# job begins again on the other one, which has slots enough.
_SETTINGS = """
jobmanager.rpc.address: localhost
jobmanager.rpc.port: {rpc_port}
rest.address: localhost
rest.bind-address: localhost
rest.port: {rest_port}
taskmanager.host: localhost
taskmanager.numberOfTaskSlots: 2
taskmanager.cpu.cores: 1.0
taskmanager.memory.framework.heap.size: 128m
taskmanager.memory.framework.off-heap.size: 128m
taskmanager.memory.task.heap.size: 256m
taskmanager.memory.task.off-heap.size: 0m
taskmanager.memory.network.min: 64m
taskmanager.memory.network.max: 64m
taskmanager.memory.managed.size: 128m
taskmanager.memory.jvm-metaspace.size: 256m
taskmanager.memory.jvm-overhead.min: 128m
taskmanager.memory.jvm-overhead.max: 128m
heartbeat.interval: 2000
heartbeat.timeout: 10000
restart-strategy.type: fixed-delay
restart-strategy.fixed-delay.attempts: 3
restart-strategy.fixed-delay.delay: 1 s
io.tmp.dirs: {folder}
"""


@dataclasses.dataclass
class FlinkCluster:
    """A cluster that runs; its processes log to files in its folder."""

    address: str
    task_managers: list[subprocess.Popen]

    def num_task_managers(self) -> int:
        """How many the job manager counts; 0 while it does not answer."""
        return self._overview().get("taskmanagers", 0)

    def num_jobs(self, state: str) -> int:
        """Jobs that are `running`, `finished`, `cancelled` or `failed`."""
        return self._overview().get(f"jobs-{state}", 0)

    def _overview(self) -> dict:
        try:
            with urllib.request.urlopen(f"http://{self.address}/overview", timeout=10) as answer:
                return json.load(answer)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return {}


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("localhost", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in held]


@contextlib.contextmanager
def started(lib: str, folder: pathlib.Path, *, num_task_managers: int) -> Iterator[FlinkCluster]:
    """A cluster of the jars in `lib`, with its settings and logs in `folder`; all of it ends with the block.

    Raises:
      RuntimeError: it did not come up.
    """
    rpc_port, rest_port = _free_ports(2)
    settings = _SETTINGS.format(rpc_port=rpc_port, rest_port=rest_port, folder=folder)
    (folder / "config.yaml").write_text(settings)
    processes = []
    try:
        processes.append(_start(lib, folder, _JOB_MANAGER, "job-manager"))
        for number in range(num_task_managers):
            processes.append(_start(lib, folder, _TASK_MANAGER, f"task-manager-{number}"))
        cluster = FlinkCluster(f"localhost:{rest_port}", processes[1:])
        _wait_until_up(cluster, processes, folder, num_task_managers)
        yield cluster
    finally:
        _stop(processes)


def _start(lib: str, folder: pathlib.Path, main_class: str, name: str) -> subprocess.Popen:
    command = ["java", f"-Xmx{_HEAPS[main_class]}", *OPENED, "-cp", f"{lib}/*", main_class]
    with open(folder / f"{name}.log", "wb") as log:
        # In a session of its own: Ctrl-C is for the tests, which then stop it.
        return subprocess.Popen(
            [*command, "--configDir", str(folder)], stdin=subprocess.DEVNULL, stdout=log,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


def _wait_until_up(cluster: FlinkCluster, processes, folder: pathlib.Path, num_task_managers: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while cluster.num_task_managers() < num_task_managers:
        if time.monotonic() > deadline or any(process.poll() is not None for process in processes):
            logs = "\n".join(path.read_text()[-2000:] for path in sorted(folder.glob("*.log")))
            raise RuntimeError(f"the Flink cluster did not come up in {_START_SECONDS} s:\n{logs}")
        time.sleep(0.5)


def _stop(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
