"""The same job in all three modes ends in the same state; worker and orchestrator are processes of their own."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.raster import sample_raster
from testing.emulator import ServiceBusEmulator
from tests.geoworker_process import Process, wait_ready


def run_job(url: str, job_type: str, parameters: dict[str, Any]) -> dict[str, Any]:
    job = httpx.post(f"{url}/api/jobs/submit/{job_type}", json=parameters).raise_for_status().json()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        view: dict[str, Any] = httpx.get(f"{url}{job['status_url']}").json()
        if view["status"] not in ("queued", "processing"):
            return view
        time.sleep(0.1)
    raise AssertionError(view)


@contextlib.contextmanager
def in_memory(database_url: str, tmp_path: Path) -> Iterator[str]:
    environment = {"DATABASE_URL": database_url, "DATA_DIR": str(tmp_path)}
    dev = Process("dev", environment=environment, log=tmp_path / "dev.log")
    wait_ready(dev.url)
    yield dev.url
    assert dev.stop() == 0, (tmp_path / "dev.log").read_text()


@contextlib.contextmanager
def service_bus(database_url: str, tmp_path: Path) -> Iterator[str]:
    with ServiceBusEmulator() as emulator:
        environment = {
            "DATABASE_URL": database_url,
            "DATA_DIR": str(tmp_path),
            "DOCKER_ORCHESTRATION_MODE": "service_bus",
            "SERVICE_BUS_CONNECTION_STRING": emulator.connection_string,
        }
        with two_processes(environment, environment, tmp_path) as url:
            yield url
        assert not any(emulator.dead_letters(name) for name in ("geospatial-jobs", "long-running-tasks"))


@contextlib.contextmanager
def http_trigger(database_url: str, tmp_path: Path) -> Iterator[str]:
    common = {
        "DATABASE_URL": database_url,
        "DATA_DIR": str(tmp_path),
        "DOCKER_ORCHESTRATION_MODE": "http_trigger",
        "CALLBACK_SECRETS": "whsec_c2VjcmV0LW9mLXNvbWUtbGVuZ3Ro",
        "API_KEYS": "",
    }
    allowed = {"CALLBACK_ALLOWED_HOSTS": "127.0.0.1", "ALLOW_PRIVATE_ADDRESSES": "true"}
    worker = Process("worker", environment={**common, **allowed}, log=tmp_path / "worker.log")
    orchestrator = Process(
        "orchestrator",
        environment={
            **common,
            "DOCKER_WORKER_URL": worker.url,
            "CALLBACK_URL": "http://127.0.0.1:9/api/task/callback",  # nobody there: the job must end all the same
        },
        log=tmp_path / "orchestrator.log",
    )
    wait_ready(orchestrator.url)
    yield orchestrator.url
    assert orchestrator.stop() == 0, (tmp_path / "orchestrator.log").read_text()
    assert worker.stop() == 0, (tmp_path / "worker.log").read_text()


@contextlib.contextmanager
def two_processes(
    orchestrator_environment: dict[str, str], worker_environment: dict[str, str], tmp_path: Path
) -> Iterator[str]:
    worker = Process("worker", environment=worker_environment, log=tmp_path / "worker.log")
    orchestrator = Process("orchestrator", environment=orchestrator_environment, log=tmp_path / "orchestrator.log")
    wait_ready(orchestrator.url)
    yield orchestrator.url
    assert orchestrator.stop() == 0, (tmp_path / "orchestrator.log").read_text()
    assert worker.stop() == 0, (tmp_path / "worker.log").read_text()


MODES = {"in_memory": in_memory, "service_bus": service_bus, "http_trigger": http_trigger}


def state(view: dict[str, Any]) -> dict[str, Any]:
    """What must not depend on the mode: everything but times and paths below the data directory."""
    cog = view["result"]["cog"]
    return {
        "job_id": view["job_id"],
        "status": view["status"],
        "parameters": view["parameters"],
        "stages": [(stage["name"], stage["task_type"], stage["runs_on"], stage["tasks"]) for stage in view["stages"]],
        "validation": view["result"]["validation"],
        "sha256": cog["sha256"],
        "size": cog["size_bytes"],
        "errors": view["errors"],
    }


@pytest.mark.timeout(300)
def test_the_same_job_ends_in_the_same_state_in_every_mode(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    states = {}
    server = request.getfixturevalue("make_database")
    for mode, serve in MODES.items():
        (tmp_path / mode).mkdir()
        with serve(server(), tmp_path / mode) as url:
            view = run_job(url, "process_raster_docker", {"source_url": str(sample_raster())})
            assert view["status"] == "completed", view
            states[mode] = state(view)
            smoke = run_job(url, "hello_world_triggered", {"n": 3})
            assert smoke["result"]["greeted"] == 3
    assert states["service_bus"] == states["in_memory"]
    assert states["http_trigger"] == states["in_memory"]
