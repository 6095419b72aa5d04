"""An orchestrator and workers as processes of their own, on one emulator and one database, to be cut off and killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import psycopg
from psycopg.rows import dict_row

from testing.emulator import ServiceBusEmulator

SCRIPT = Path(__file__).with_name("queue_process.py")
SETTINGS = {
    "DOCKER_ORCHESTRATION_MODE": "service_bus",
    "LOG_FORMAT": "json",
    "LEASE_SECONDS": "6",
    "HEARTBEAT_SECONDS": "1",
    "SWEEP_SECONDS": "1",
    "HINT_SECONDS": "3",
    "RETRY_BASE_SECONDS": "0.1",
    "RETRY_CAP_SECONDS": "0.5",
    "SHUTDOWN_GRACE_SECONDS": "3",
    "DOCKER_DB_POOL_MAX": "6",
}
START_SECONDS = 90


class QueueProcess:
    """One ``geoworker`` process."""

    def __init__(self, role: str, environment: Mapping[str, str], log: Path) -> None:
        self.role = role
        self._environment = environment
        self._log = log
        self.start()

    def start(self) -> None:
        """Start it, or start it again."""
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
        self._began_at = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, str(SCRIPT), self.role, "--port", "0"],
                env={**kept, **SETTINGS, **self._environment},
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    @property
    def log(self) -> str:
        """Everything it has printed."""
        return self._log.read_text()

    def url(self) -> str:
        """Where it listens, once it does."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            for line in self.log[self._began_at :].splitlines():
                if "listens on http://" in line:
                    return "http://" + line.split("http://")[1].split()[0]
            assert self.process.poll() is None, self.log
            time.sleep(0.05)
        raise AssertionError(self.log)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(10)

    def terminate(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


class Fleet:
    """One orchestrator and some workers."""

    def __init__(self, emulator: ServiceBusEmulator, database_url: str, root: Path, workers: int) -> None:
        self.emulator = emulator
        self.database_url = database_url
        environment = {
            "DATABASE_URL": database_url,
            "DATA_DIR": str(root),
            "SERVICE_BUS_CONNECTION_STRING": emulator.connection_string,
        }
        self.workers = [
            QueueProcess("worker", {**environment, "WORKER_ID": f"worker-{n}"}, root / f"worker-{n}.log")
            for n in range(workers)
        ]
        self.orchestrator = QueueProcess("orchestrator", environment, root / "orchestrator.log")
        for process in (*self.workers, self.orchestrator):
            self._wait_ready(process.url())

    @staticmethod
    def _wait_ready(url: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{url}/readyz").status_code == 200:
                    return
            time.sleep(0.1)
        raise AssertionError(httpx.get(f"{url}/health").text)

    def submit(self, job_type: str, **parameters: Any) -> str:
        """Submit a job; its id."""
        url = f"{self.orchestrator.url()}/api/jobs/submit/{job_type}"
        return str(httpx.post(url, json=parameters, timeout=30).raise_for_status().json()["job_id"])

    def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        """What PostgreSQL has."""
        with psycopg.connect(self.database_url, row_factory=dict_row) as connection:
            return connection.execute(query.encode(), values).fetchall()

    def job_status(self, job_id: str) -> str:
        """The job's status."""
        return str(self.rows("SELECT status FROM app.jobs WHERE job_id = %s", job_id)[0]["status"])

    def completed(self, job_id: str) -> int:
        """How many of its tasks are completed."""
        query = "SELECT count(*) AS n FROM app.tasks WHERE job_id = %s AND status = 'completed'"
        return int(self.rows(query, job_id)[0]["n"])

    def wait(self, job_id: str, seconds: float, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Until the job has ended, doing something ``meanwhile`` every fifth of a second."""
        deadline = time.monotonic() + seconds
        while (status := self.job_status(job_id)) in ("queued", "processing"):
            assert time.monotonic() < deadline, f"{status}, {self.completed(job_id)} tasks completed"
            meanwhile()
            time.sleep(0.2)

    def check_completed_once(self, job_id: str, count: int) -> None:
        """Every task is completed, by exactly one attempt; the job has ended well; nothing is dead-lettered."""
        job = self.rows("SELECT status, error_details FROM app.jobs WHERE job_id = %s", job_id)[0]
        assert job == {"status": "completed", "error_details": None}
        tasks = self.rows("SELECT task_id, status, attempt FROM app.tasks WHERE job_id = %s", job_id)
        assert len(tasks) == count
        assert {task["status"] for task in tasks} == {"completed"}
        completions = self.rows(
            "SELECT task_id, array_agg(a.attempt) AS attempts FROM app.task_attempts a JOIN app.tasks t USING (task_id)"
            " WHERE t.job_id = %s AND outcome = 'completed' GROUP BY task_id",
            job_id,
        )
        last = {task["task_id"]: [task["attempt"]] for task in tasks}
        assert {row["task_id"]: row["attempts"] for row in completions} == last
        assert self.rows("SELECT remaining, failed FROM app.stages WHERE job_id = %s", job_id) == [
            {"remaining": 0, "failed": 0}
        ]
        for queue in ("geospatial-jobs", "geospatial-tasks", "long-running-tasks"):
            assert self.emulator.dead_letters(queue) == []

    def close(self) -> None:
        """End what still runs."""
        self.emulator.heal()
        for process in (*self.workers, self.orchestrator):
            process.process.kill()
            process.process.wait(10)


@contextlib.contextmanager
def fleet(emulator: ServiceBusEmulator, database_url: str, root: Path, workers: int) -> Iterator[Fleet]:
    """A fleet for the length of the block."""
    running = Fleet(emulator, database_url, root, workers)
    try:
        yield running
    finally:
        running.close()
