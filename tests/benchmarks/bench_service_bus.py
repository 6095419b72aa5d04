"""Tasks a second over the queue, beside the same work from memory: ``python -m tests.benchmarks.bench_service_bus``.

Whole ``hello_world`` jobs, planning and fan-in included, with one consumer; handlers run inline, so that the transport
and the two commits of a task are what is measured. The emulator is a process of its own. The two modes take turns on
one embedded PostgreSQL.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.composition import Application, compose
from app.role import Role
from app.settings import OrchestrationMode, Settings
from infrastructure.postgres.embedded import EmbeddedPostgres
from infrastructure.postgres.migrations import migrate

TASKS = 400
ROUNDS = 3


@contextmanager
def emulator() -> Iterator[str]:
    """The emulator as a process; its connection string."""
    code = "from app.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "emulator", "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def running(mode: OrchestrationMode, connection_string: str, database_url: str, root: Path) -> Iterator[Application]:
    """Everything in this process, one consumer for each queue."""
    settings = Settings.from_env(
        {"SERVICE_BUS_CONNECTION_STRING": connection_string},
        docker_orchestration_mode=mode,
        data_dir=root,
        functions_concurrency=1,
        log_level="ERROR",
    )
    application = compose(settings, Role.EMBEDDED, database_url=database_url)
    migrate(application.database)
    application.lifecycle.start()
    try:
        yield application
    finally:
        application.lifecycle.drain()


def round_of(application: Application, number: int) -> tuple[float, float]:
    """Tasks a second and CPU seconds of one job."""
    cpu, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    job = application.machine.submit_job("hello_world", {"n": TASKS, "message": f"round {number}"}, rerun=True).job
    while (record := application.store.get_job(job.job_id)) is not None and record.status in ("queued", "processing"):
        time.sleep(0.01)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    return (TASKS + 1) / seconds, after.ru_utime + after.ru_stime - cpu.ru_utime - cpu.ru_stime


def main() -> None:
    """Print each mode's median rate and CPU time, and their ratio."""
    with tempfile.TemporaryDirectory() as folder, emulator() as connection_string:
        root = Path(folder)
        server = EmbeddedPostgres(root / "postgres")
        address = server.start()
        modes = (OrchestrationMode.IN_MEMORY, OrchestrationMode.SERVICE_BUS)
        found: dict[OrchestrationMode, list[tuple[float, float]]] = {mode: [] for mode in modes}
        try:
            for number in range(ROUNDS):
                for mode in modes:
                    with running(mode, connection_string, address, root / "data") as application:
                        found[mode].append(round_of(application, number))
        finally:
            server.stop()
    rates = {mode: statistics.median(rate for rate, _ in rounds) for mode, rounds in found.items()}
    for mode, rounds in found.items():
        cpu = statistics.median(seconds for _, seconds in rounds) / (TASKS + 1) * 1000
        print(f"{mode:12} {rates[mode]:6.0f} tasks/s, {cpu:.2f} ms of CPU a task in this process")
    print(f"over the queue: {rates[modes[1]] / rates[modes[0]]:.2f} of the rate from memory")


if __name__ == "__main__":
    main()
