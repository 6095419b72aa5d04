"""What a job left in a container, as callers and pages see it: listed, served and pictured through the storage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from azure.storage.blob import ContainerClient
from starlette.testclient import TestClient

from app.api.application import create_app
from app.composition import Application
from core.errors import TransientError
from core.states import TERMINAL_JOB_STATUSES, JobStatus
from core.storage import LocalFiles, RemoteReader
from services.raster import sample_raster
from tests.azurite import KEY
from tests.process_support import wait_until


@pytest.fixture
def client(application: Application) -> Iterator[TestClient]:
    with TestClient(create_app(application, manage_lifecycle=False), base_url="http://127.0.0.1") as client:
        yield client


@pytest.fixture
def job(application: Application) -> Any:
    """A reprojection that has completed."""
    parameters = {"source_url": str(sample_raster()), "target_crs": "EPSG:4326"}
    job_id = application.machine.submit_job("process_raster_docker", parameters).job.job_id
    found = wait_until(
        lambda: (job := application.store.get_job(job_id)) and job.status in TERMINAL_JOB_STATUSES and job, 90
    )
    assert found.status is JobStatus.COMPLETED, found.error_details
    return found


def test_what_lies_in_a_container_is_listed_and_served(
    client: TestClient, job: Any, container: ContainerClient
) -> None:
    listed = client.get(f"/api/jobs/{job.job_id}/artifacts").json()["artifacts"]
    assert {one["name"] for one in listed} == {
        "RGB.byte.tif",
        "RGB.byte.json",
        "RGB.byte.png",
        "RGB.byte.before.png",
    }
    for one in listed:
        answer = client.get(one["url"])
        blob = container.download_blob(f"out/{job.job_id[:16]}/{one['name']}").readall()
        assert answer.status_code == 200
        assert answer.content == blob
        assert answer.headers["content-length"] == str(len(blob))
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert one["size_bytes"] in {len(blob), None}


def test_its_page_shows_before_and_after_histograms_and_place(client: TestClient, job: Any) -> None:
    page = client.get(f"/jobs/{job.job_id}", headers={"Accept": "text/html"}).text
    for shown in ("RGB.byte.png", "RGB.byte.before.png", "Footprint", "Histograms of the bands", "STAC item"):
        assert shown in page


def test_a_file_that_was_removed_meanwhile_is_not_found(
    client: TestClient, job: Any, container: ContainerClient
) -> None:
    container.delete_blob(f"out/{job.job_id[:16]}/RGB.byte.png")
    answer = client.get(f"/api/jobs/{job.job_id}/artifacts/RGB.byte.png")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert KEY not in answer.text


class Away(LocalFiles):
    """A storage that cannot be reached now."""

    def open(self, address: str, *, field: str) -> RemoteReader:
        raise TransientError(f"{field}: the storage does not answer")


def test_a_storage_that_is_away_costs_the_page_what_the_item_says(application: Application, job: Any) -> None:
    elsewhere = create_app(replace(application, storage=Away()), manage_lifecycle=False)
    with TestClient(elsewhere, base_url="http://127.0.0.1") as client:
        page = client.get(f"/jobs/{job.job_id}", headers={"Accept": "text/html"})
        assert page.status_code == 200
        assert "RGB.byte.before.png" in page.text
        assert "Histograms of the bands" not in page.text
        assert client.get(f"/api/jobs/{job.job_id}/artifacts/RGB.byte.png").status_code == 503
