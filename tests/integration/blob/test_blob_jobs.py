"""Whole jobs from a container into a container, on PostgreSQL, in child processes."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from azure.storage.blob import ContainerClient
from pydantic import SecretStr

from app.composition import Application
from core.states import TERMINAL_JOB_STATUSES, JobStatus
from services.raster import sample_raster
from tests.azurite import KEY, Azurite

PATIENCE = 90


@pytest.mark.parametrize("job_type", ["process_raster_docker", "process_raster_v2"])
def test_a_job_from_blob_to_blob(
    job_type: str,
    start_application: Callable[..., Application],
    blob_service: Azurite,
    container: ContainerClient,
) -> None:
    name = container.container_name
    container.upload_blob("in/scene.tif", sample_raster().read_bytes())
    application = start_application(
        blob_account_url=blob_service.account_url,
        blob_account_key=SecretStr(KEY),
        output_url=f"az://{name}/out",
        min_free_disk_mb=1,
    )
    parameters = {"container_name": name, "blob_name": "in/scene.tif"}
    job_id = application.machine.submit_job(job_type, parameters).job.job_id
    deadline = time.monotonic() + PATIENCE
    job = application.store.get_job(job_id)
    while job is not None and job.status not in TERMINAL_JOB_STATUSES and time.monotonic() < deadline:
        time.sleep(0.05)
        job = application.store.get_job(job_id)
    assert job is not None
    assert job.status is JobStatus.COMPLETED, job.error_details
    assert job.parameters["source_url"] == f"az://{name}/in/scene.tif"
    assert job.result_data is not None
    found = {blob.name for blob in container.list_blobs(name_starts_with="out/")}
    prefix = f"out/{job_id[:16]}/scene"
    assert found == {f"{prefix}.tif", f"{prefix}.json", f"{prefix}.png"}
    assert job.result_data["stac"]["path"].endswith(f"{prefix}.json")
    assert KEY not in str(job)
