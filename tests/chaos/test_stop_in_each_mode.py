"""SIGTERM and SIGINT in the middle of the raster chain and of a sleeping handler, in each mode.

Each time: exit code 0 within the time bound, the task released without a failure, its message not dead-lettered, and
the next worker goes on without redoing a finished phase.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import chaos_service
import pytest
from chaos_harness import wait_until
from chaos_process import Deployment, Service, deployed

from core.records import AttemptOutcome, TaskRecord
from core.states import TaskStatus
from infrastructure.postgres.database import Database
from services.raster import sample_raster

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(180)]

_MODES = ("in_memory", "service_bus", "http_trigger")
_DOCKER_QUEUE = "long-running-tasks"


def stop(worker: Service, number: signal.Signals) -> None:
    """Signal a worker, which leaves with exit code 0 and in time."""
    began = time.monotonic()
    worker.process.send_signal(number)
    assert worker.process.wait(60) == 0
    assert time.monotonic() - began < chaos_service.LONGEST_STOP


def assert_released(deployment: Deployment, worker: Service, job_id: str, *, phase: int) -> TaskRecord:
    task = worker.task(job_id)
    assert (task.status, task.failures, task.interruptions) == (TaskStatus.QUEUED, 0, 1)
    assert task.checkpoint_phase == phase
    (attempt,) = worker.store.list_attempts(task.task_id)
    assert (attempt.outcome, attempt.reason) == (AttemptOutcome.INTERRUPTED, "drain")
    if (emulator := deployment.emulator) is not None:  # the old message is done with, the next hint waits
        assert not emulator.dead_letters(_DOCKER_QUEUE)
        emulator.wait_until(lambda bus: bus.counts(_DOCKER_QUEUE).active >= 1)
    return task


def finish(worker: Service, job_id: str) -> dict[str, Any]:
    task = wait_until(lambda: (t := worker.task(job_id)).status is TaskStatus.COMPLETED and t, 60)
    outcomes = [attempt.outcome for attempt in worker.store.list_attempts(task.task_id)]
    assert outcomes == [AttemptOutcome.INTERRUPTED, AttemptOutcome.COMPLETED]
    return dict(task.result_data)


def in_modes(*by_default: str) -> pytest.MarkDecorator:
    """Every mode; those that are not ``by_default`` run in the long pass."""
    slow = [() if mode in by_default else (pytest.mark.slow,) for mode in _MODES]
    return pytest.mark.parametrize(
        "mode", [pytest.param(mode, marks=marks) for mode, marks in zip(_MODES, slow, strict=True)]
    )


@in_modes("service_bus", "http_trigger")
def test_a_raster_that_is_stopped_in_the_middle_goes_on_in_the_next_worker(
    mode: str, database_url: str, database: Database, tmp_path: Path
) -> None:
    with deployed(mode, database_url, tmp_path, database) as deployment:
        first = deployment.start_worker()
        job_id = deployment.front(first).submit("process_raster_docker", {"source_url": str(sample_raster())})
        wait_until((tmp_path / "in-mid-phase").exists, 60)
        stop(first, signal.SIGTERM)
        assert_released(deployment, first, job_id, phase=1)
        assert not list((tmp_path / "outputs").rglob("*.tif*"))  # the half-written COG is gone

        second = deployment.start_worker()
        result = finish(second, job_id)
        assert Path(result["cog"]["path"]).is_file()
        history = [line.split(" ", 1) for line in (tmp_path / "raster-history").read_text().splitlines()]
        assert [attempt for attempt, message in history if message == "validating"] == ["1"]
        stop(second, signal.SIGTERM)  # with nothing at work too


@in_modes("in_memory")
def test_a_sleeper_that_is_interrupted_goes_on_in_the_next_worker(
    mode: str, database_url: str, database: Database, tmp_path: Path
) -> None:
    with deployed(mode, database_url, tmp_path, database) as deployment:
        first = deployment.start_worker()
        job_id = deployment.front(first).submit("chaos_sleeper", {"parameters": {"directory": str(tmp_path)}})
        wait_until((tmp_path / "asleep-1").exists, 60)
        stop(first, signal.SIGINT)
        assert_released(deployment, first, job_id, phase=1)

        (tmp_path / "wake").touch()
        second = deployment.start_worker()
        assert finish(second, job_id)["made_by"] == 1
        assert (tmp_path / "history").read_text().splitlines() == [
            "attempt 1: phase 1",
            "attempt 1: phase 2 from step 0",
            "attempt 2: phase 2 from step n",
        ]
