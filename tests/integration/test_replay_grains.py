"""The three grains of a replay, over HTTP and on the command line, on a real job with checkpoints."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result
from starlette.testclient import TestClient

from app.api.application import create_app
from app.cli import cli
from app.composition import Application
from core.records import TaskQuery
from core.states import TERMINAL_JOB_STATUSES, JobStatus
from services.raster import sample_raster


@pytest.fixture
def application(start_application: Callable[..., Application]) -> Application:
    return start_application()


@pytest.fixture
def client(application: Application) -> Iterator[TestClient]:
    with TestClient(create_app(application, manage_lifecycle=False)) as client:
        yield client


def end_of(application: Application, job_id: str) -> JobStatus:
    while True:
        job = application.store.get_job(job_id)
        assert job is not None
        if job.status in TERMINAL_JOB_STATUSES:
            return job.status
        time.sleep(0.02)


@pytest.fixture
def command(database_url: str) -> Callable[..., Result]:
    """Runs ``geoworker replay``."""

    def run(*arguments: str) -> Result:
        return CliRunner(env={"DATABASE_URL": database_url}).invoke(cli, ["replay", *arguments])

    return run


def test_a_raster_job_is_replayed_at_every_grain(
    client: TestClient, application: Application, command: Callable[..., Result]
) -> None:
    submitted = client.post("/api/jobs/submit/process_raster_docker", json={"source_url": str(sample_raster())}).json()
    assert end_of(application, submitted["job_id"]) is JobStatus.COMPLETED

    refused = client.post(f"/api/jobs/{submitted['job_id']}/retry", json={"from_checkpoint": 9})
    assert (refused.status_code, "phase 3" in refused.json()["detail"]) == (409, True)
    both = client.post(f"/api/jobs/{submitted['job_id']}/retry", json={"from_checkpoint": 1, "from_stage": 1})
    assert (both.status_code, both.json()["errors"][0]["field"]) == (422, "from_checkpoint")

    second = client.post(f"/api/jobs/{submitted['job_id']}/retry", json={"from_checkpoint": 2}).json()
    assert (second["run"], second["replay_of"]) == (2, submitted["job_id"])
    assert end_of(application, second["job_id"]) is JobStatus.COMPLETED
    first_task, second_task = (
        application.store.list_tasks(TaskQuery(job_id=job_id))[0] for job_id in (submitted["job_id"], second["job_id"])
    )
    assert first_task.result_data is not None
    assert second_task.result_data is not None
    assert second_task.result_data["cog"] == first_task.result_data["cog"]  # phase 2 was not done again

    third = command(second["job_id"][:12], "--from-checkpoint", "0", "--json")
    assert third.exit_code == 0, third.output
    made: dict[str, Any] = json.loads(third.output)
    assert (made["run"], made["submitted_by"]) == (3, "cli")
    assert end_of(application, made["job_id"]) is JobStatus.COMPLETED

    fourth = command(made["job_id"], "--from-stage", "1")
    assert (fourth.exit_code, "run 4" in fourth.output) == (0, True)
    assert end_of(application, fourth.output.split()[0]) is JobStatus.COMPLETED
    nothing_failed = command(fourth.output.split()[0], "--failed")
    assert "no failed task" in str(nothing_failed.exception)
    assert command("x", "--failed", "--from-stage", "1").exit_code == 2
