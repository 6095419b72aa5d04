"""Whole H3 jobs on a real PostgreSQL, by every way a grid can be made."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from app.api.application import create_app
from app.composition import Application
from core.errors import InvalidInput
from core.records import JobRecord, TaskQuery
from core.states import TERMINAL_JOB_STATUSES, JobStatus
from infrastructure.postgres.database import Database
from infrastructure.postgres.h3_store import PostgresGridStore
from services.h3.grid import Containment
from tests.h3_support import boundary, counts, library_cells

Start = Callable[..., Application]


def finished(application: Application, job_type: str, parameters: dict[str, Any]) -> JobRecord:
    """The job once it has ended."""
    job_id = application.machine.submit_job(job_type, parameters).job.job_id
    give_up_at = time.monotonic() + 60
    while time.monotonic() < give_up_at:
        job = application.store.get_job(job_id)
        assert job is not None
        if job.status in TERMINAL_JOB_STATUSES:
            return job
        time.sleep(0.05)
    raise AssertionError(f"{job_id} did not end: {application.store.count_tasks(job_id)}")


@pytest.mark.parametrize(
    ("job_type", "stages"),
    [("bootstrap_h3_docker", [1]), ("bootstrap_h3_triggered", [1, 1]), ("bootstrap_h3_fanout", [1, 5, 1])],
)
def test_every_way_makes_the_same_grid(
    start_application: Start, database: Database, job_type: str, stages: list[int]
) -> None:
    application = start_application()
    parameters = {"area": "RWA", "grid_id": "rwanda", "target_resolutions": [5, 6, 7], "batch_cells": 5000}
    job = finished(application, job_type, parameters)
    assert job.status is JobStatus.COMPLETED, job
    assert job.result_data is not None
    cells = {step: library_cells(boundary("rwanda"), step, Containment.CENTER) for step in (2, 5, 6, 7)}
    wanted = {step: len(found) for step, found in cells.items()}
    assert counts(job.result_data) == wanted
    assert Path(job.result_data["picture"]).is_file()
    assert [stage.total for stage in application.store.list_stages(job.job_id)] == stages
    store = PostgresGridStore(database)
    grid = store.get("rwanda")
    assert grid is not None
    assert grid.complete
    everything = np.concatenate(list(cells.values())).astype(">i8")
    assert store.checksum(grid) == hashlib.sha256(everything.tobytes()).hexdigest()
    stored = database.rows("SELECT resolution, count(*)::int AS n FROM h3.cells GROUP BY 1 ORDER BY 1")
    assert {row["resolution"]: row["n"] for row in stored} == wanted


def test_the_functions_stage_shows_the_estimate(start_application: Start) -> None:
    application = start_application()
    job = finished(
        application, "bootstrap_h3_triggered", {"area": [29, -3, 30, -2], "target_resolutions": [4], "picture": False}
    )
    assert job.status is JobStatus.COMPLETED
    first = application.store.list_tasks(TaskQuery(job_id=job.job_id, stage=1))[0]
    assert first.result_data is not None
    assert first.result_data["cells"] == job.result_data["cells"]  # type: ignore[index]


def test_an_area_that_cannot_be_used_fails_the_job_with_its_cause(start_application: Start) -> None:
    application = start_application()
    bow_tie = {"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [1, 0], [0, 1], [0, 0]]]}
    job = finished(application, "bootstrap_h3_triggered", {"area": bow_tie})
    assert job.status is JobStatus.FAILED
    assert job.error_details is not None
    assert "Self-intersection" in json.dumps(job.error_details.as_dict())


def test_bad_parameters_are_refused_at_submission(start_application: Start) -> None:
    application = start_application()
    with pytest.raises(InvalidInput, match="did you mean RWA"):
        application.machine.submit_job("bootstrap_h3_docker", {"area": "RWX"})


def test_the_grid_is_seen_on_the_page_of_its_job(start_application: Start) -> None:
    application = start_application()
    job = finished(application, "bootstrap_h3_docker", {"area": "RWA", "target_resolutions": [4, 5]})
    assert job.result_data is not None
    with TestClient(create_app(application, manage_lifecycle=False), base_url="http://localhost") as client:
        page = client.get(f"/jobs/{job.job_id}")
        assert page.status_code == 200
        name = Path(job.result_data["picture"]).name
        (address,) = re.findall(rf'<img[^>]+src="([^"]+/{re.escape(name)})"', page.text)
        image = client.get(address)
    assert image.headers["content-type"] == "image/png"
    assert image.content == Path(job.result_data["picture"]).read_bytes()
