"""SIGTERM to the real process while a task runs: what it says meanwhile, how it exits, what it leaves."""

from __future__ import annotations

import io
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import chaos_service
import httpx
import pytest
from chaos_harness import is_alive, read_pid, wait_until
from chaos_process import Service
from rich.console import Console

from app.cli_show import print_job, watch
from core.records import AttemptOutcome
from core.states import TaskStatus
from infrastructure.postgres.database import Database

pytestmark = pytest.mark.chaos


@pytest.fixture
def start(database_url: str, tmp_path: Path, database: Database) -> Iterator[Callable[..., Service]]:
    services: list[Service] = []

    def start_service(**settings: str) -> Service:
        services.append(Service(database_url, tmp_path, database, **settings))
        return services[-1]

    yield start_service
    for service in services:
        service.close()


Start = Callable[..., Service]


def test_a_listening_task_is_released_and_resumed_without_redoing_an_item(start: Start, tmp_path: Path) -> None:
    effects = tmp_path / "effects"
    service = start()
    job_id = service.submit("chaos_items", {"effects": str(effects), "count": 60, "seconds": 0.03})
    wait_until(lambda: len(list(effects.glob("item-*"))) >= 10)
    began = time.monotonic()
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(60) == 0
    assert time.monotonic() - began < chaos_service.LONGEST_STOP
    task = service.task(job_id)
    assert (task.status, task.failures, task.interruptions) == (TaskStatus.QUEUED, 0, 1)
    assert [attempt.outcome for attempt in service.store.list_attempts(task.task_id)] == [AttemptOutcome.INTERRUPTED]
    done = {path.name for path in effects.glob("item-*")}
    assert 10 <= len(done) < 60

    again = start()
    wait_until(lambda: again.task(job_id).status is TaskStatus.COMPLETED, 20)
    history = [line.split() for line in (effects / "history").read_text().splitlines()]
    assert sorted(int(number) for number, *_ in history) == list(range(60))  # each exactly once
    assert {attempt for _, attempt, *_ in history} == {"1", "2"}


def test_a_deaf_task_is_ended_and_released_while_health_says_shutting_down(start: Start, tmp_path: Path) -> None:
    longer = 2.0  # than usual: time to ask
    service = start(SHUTDOWN_GRACE_SECONDS=str(chaos_service.GRACE + longer))
    started = tmp_path / "started"
    job_id = service.submit("chaos_hang", {"parameters": {"started": str(started)}})
    pid = read_pid(started)
    assert service.http.get("/health").json()["status"] == "healthy"
    began = time.monotonic()
    service.process.send_signal(signal.SIGTERM)
    wait_until(lambda: service.http.get("/health").status_code == 503)
    response = service.http.get("/health")
    assert response.json()["status"] == "shutting_down"
    assert service.http.get("/livez").status_code == 200
    assert service.http.get("/readyz").status_code == 503
    assert service.process.wait(60) == 0
    assert time.monotonic() - began < chaos_service.LONGEST_STOP + longer
    assert not is_alive(pid)
    task = service.task(job_id)
    assert (task.status, task.failures, task.interruptions) == (TaskStatus.QUEUED, 0, 1)


def test_a_second_signal_leaves_at_once_and_takes_the_child_along(start: Start, tmp_path: Path) -> None:
    service = start(SHUTDOWN_GRACE_SECONDS="60")
    started = tmp_path / "started"
    job_id = service.submit("chaos_hang", {"parameters": {"started": str(started)}})
    pid = read_pid(started)
    service.process.send_signal(signal.SIGTERM)
    wait_until(lambda: service.http.get("/health").status_code == 503)
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(15) == 130  # of the grace, most is left
    wait_until(lambda: not is_alive(pid))
    assert service.task(job_id).status is TaskStatus.PROCESSING  # its lease runs out, and another takes it up


def test_progress_is_shown_by_http_status_and_watch(start: Start, tmp_path: Path) -> None:
    service = start()
    started = tmp_path / "started"
    job_id = service.submit("chaos_report_then_wait", {"parameters": {"started": str(started), "counted": True}})
    read_pid(started)
    view = service.http.get(f"/api/jobs/status/{job_id}").json()
    (task,) = view["running"]
    progress = task["progress"]
    assert (progress["percent"], progress["message"], progress["unit"]) == (20.0, "tiling", "tiles")
    assert 100 < progress["rate"] < 400
    assert progress["eta_seconds"] == pytest.approx(80 / progress["rate"])
    assert view["percent"] == 20.0
    out = io.StringIO()
    print_job(view, Console(file=out, width=200))
    assert "20%  tiling" in out.getvalue()
    assert "tiles/s" in out.getvalue()

    out = io.StringIO()
    watcher = threading.Thread(target=watch, args=(service.store, job_id, Console(file=out, width=200)))
    watcher.start()
    wait_until(lambda: "tiling" in out.getvalue() and "s left" in out.getvalue())
    service.http.post(f"/api/jobs/{job_id}/cancel").raise_for_status()
    watcher.join(20)
    assert "cancelled" in out.getvalue()


def test_a_killed_worker_is_succeeded_when_its_lease_has_run_out(start: Start, tmp_path: Path) -> None:
    effects = tmp_path / "effects"
    service = start()
    job_id = service.submit("chaos_items", {"effects": str(effects), "count": 60, "seconds": 0.03})
    wait_until(lambda: len(list(effects.glob("item-*"))) >= 5)
    service.process.kill()
    again = start()
    wait_until(lambda: again.task(job_id).status is TaskStatus.COMPLETED, 20)
    task = again.task(job_id)
    outcomes = [attempt.outcome for attempt in again.store.list_attempts(task.task_id)]
    assert outcomes == [AttemptOutcome.LEASE_EXPIRED, AttemptOutcome.COMPLETED]
    with suppress(httpx.HTTPError):
        service.http.get("/livez")
