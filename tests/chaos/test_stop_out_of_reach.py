"""A stop is over in time whatever is out of reach: the database, the broker, the collector of traces."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import chaos_service
import psycopg
import pytest
from chaos_harness import is_alive, read_pid, wait_until
from chaos_process import Service, deployed

from core.records import AttemptOutcome
from core.states import TaskStatus
from infrastructure.postgres.database import Database

pytestmark = pytest.mark.chaos


def exit_code(worker: Service) -> int:
    """SIGTERM; the exit code, within the longest time that a stop may take."""
    began = time.monotonic()
    worker.process.send_signal(signal.SIGTERM)
    code = worker.process.wait(60)
    assert time.monotonic() - began < chaos_service.LONGEST_STOP
    return code


@contextmanager
def frozen(address: str, application: str) -> Iterator[None]:
    """Every backend of ``application``'s connections stands still: statements go out, and no answer comes."""
    with psycopg.connect(address, autocommit=True) as connection:
        found = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name LIKE %s", [f"{application}%"]
        ).fetchall()
        assert found
        for (pid,) in found:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for (pid,) in found:
                os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("fault", ["refuses", "is silent"])
def test_the_database_out_of_reach_at_the_stop(
    fault: str, database_url: str, postgres_server: str, database: Database, tmp_path: Path
) -> None:
    worker = Service(database_url, tmp_path, database, WORKER_ID="doomed")
    started = tmp_path / "started"
    try:
        job_id = worker.submit("chaos_hang", {"parameters": {"started": str(started)}})
        pid = read_pid(started)
        if fault == "refuses":
            name = psycopg.conninfo.conninfo_to_dict(database_url)["dbname"]
            with psycopg.connect(postgres_server, autocommit=True) as connection:
                connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
                connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
            try:
                exit_code(worker)
            finally:
                with psycopg.connect(postgres_server, autocommit=True) as connection:
                    connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())
        else:
            with frozen(postgres_server, "geoworker doomed"):
                exit_code(worker)
        wait_until(lambda: not is_alive(pid))
        # A backend that was frozen may still carry out the release; else the lease runs out.
        again = Service(database_url, tmp_path, database)
        try:
            started.unlink()
            read_pid(started)
            (attempt,) = again.store.list_attempts(again.task(job_id).task_id)
            assert attempt.outcome in (AttemptOutcome.LEASE_EXPIRED, AttemptOutcome.INTERRUPTED)
        finally:
            again.close()
    finally:
        worker.close()


def test_the_broker_out_of_reach_at_the_stop(database_url: str, database: Database, tmp_path: Path) -> None:
    with deployed("service_bus", database_url, tmp_path, database) as deployment:
        worker = deployment.start_worker()
        job_id = deployment.front(worker).submit("chaos_sleeper", {"parameters": {"directory": str(tmp_path)}})
        wait_until((tmp_path / "asleep-1").exists, 20)
        assert deployment.emulator is not None
        deployment.emulator.blackhole()
        assert exit_code(worker) == 0
        task = worker.task(job_id)
        assert (task.status, task.failures, task.interruptions) == (TaskStatus.QUEUED, 0, 1)
        deployment.emulator.heal()
        (tmp_path / "wake").touch()
        deployment.start_worker()
        wait_until(lambda: worker.task(job_id).status is TaskStatus.COMPLETED, 40)


def test_the_collector_of_traces_out_of_reach_at_the_stop(
    database_url: str, database: Database, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        worker = Service(database_url, tmp_path, database, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
        try:
            parameters = {"effects": str(tmp_path / "effects"), "count": 1, "seconds": 0.0}
            job_id = worker.submit("chaos_items", parameters)
            wait_until(lambda: worker.task(job_id).status is TaskStatus.COMPLETED, 20)
            assert exit_code(worker) == 0
        finally:
            worker.close()
