"""Files that a job made, over HTTP: only what its results name, only from under the output directory."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.api.application import create_app
from app.composition import Application, compose
from app.role import Role
from app.settings import Settings
from services.raster import sample_raster


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory, module_database: str) -> Iterator[Application]:
    configured = Settings.from_env({}, data_dir=tmp_path_factory.mktemp("artifacts"), worker_id="artifacts")
    application = compose(configured, Role.EMBEDDED, database_url=module_database)
    yield application
    application.lifecycle.drain()


@pytest.fixture(scope="module")
def client(application: Application) -> Iterator[TestClient]:
    with TestClient(create_app(application)) as client:
        yield client


@pytest.fixture(scope="module")
def job(client: TestClient) -> dict[str, Any]:
    """A raster job that has completed."""
    answer = client.post("/api/jobs/submit/process_raster_docker", json={"source_url": str(sample_raster())})
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        view: dict[str, Any] = client.get(answer.headers["location"]).json()
        if view["status"] not in ("queued", "processing"):
            assert view["status"] == "completed", view["errors"]
            return view
        time.sleep(0.05)
    raise AssertionError(view)


def test_what_a_job_made_is_listed_and_served(client: TestClient, job: dict[str, Any]) -> None:
    listed = client.get(f"/api/jobs/{job['job_id']}/artifacts").json()["artifacts"]
    assert {entry["name"] for entry in listed} == {"RGB.byte.tif", "RGB.byte.json", "RGB.byte.png"}
    for entry in listed:
        answer = client.get(entry["url"])
        assert answer.status_code == 200
        assert answer.headers["content-type"] == entry["media_type"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert len(answer.content) == entry["size_bytes"]
    assert client.get(f"/api/jobs/{job['job_id']}/artifacts/RGB.byte.png").content == (
        Path(job["result"]["thumbnail"]["path"]).read_bytes()
    )


def test_a_cog_is_served_by_range(client: TestClient, job: dict[str, Any]) -> None:
    answer = client.get(f"/api/jobs/{job['job_id']}/artifacts/RGB.byte.tif", headers={"Range": "bytes=0-15"})
    assert answer.status_code == 206
    assert answer.content == Path(job["result"]["cog"]["path"]).read_bytes()[:16]


@pytest.mark.parametrize("name", ["other.png", "..%2f..%2fpostgres%2fPG_VERSION", "%2fetc%2fpasswd", "RGB.byte"])
def test_nothing_else_is_served(client: TestClient, job: dict[str, Any], name: str) -> None:
    assert client.get(f"/api/jobs/{job['job_id']}/artifacts/{name}").status_code == 404


def test_a_job_that_is_not_there(client: TestClient) -> None:
    assert client.get("/api/jobs/nothing/artifacts").status_code == 404
    assert client.get("/api/jobs/nothing/artifacts/a.png").status_code == 404


def test_a_link_out_of_the_output_directory_is_not_followed(
    client: TestClient, job: dict[str, Any], tmp_path: Path
) -> None:
    picture = Path(job["result"]["thumbnail"]["path"])
    kept = picture.read_bytes()
    secret = tmp_path / "secret"
    secret.write_text("secret")
    picture.unlink()
    os.symlink(secret, picture)
    try:
        assert client.get(f"/api/jobs/{job['job_id']}/artifacts/{picture.name}").status_code == 404
    finally:
        picture.unlink()
        picture.write_bytes(kept)
