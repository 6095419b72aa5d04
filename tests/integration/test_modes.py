"""The same job in all three modes ends in the same state; worker and orchestrator are processes of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.raster import sample_raster
from testing.emulator import ServiceBusEmulator

ROOT = Path(__file__).parents[2]
MAIN = "from app.cli import main; main()"
COMMON = {"LOG_FORMAT": "json", "SWEEP_SECONDS": "1", "SHUTDOWN_GRACE_SECONDS": "5", "RETRY_BASE_SECONDS": "0.1"}


class Process:
    """One geoworker process and the address it listens on."""

    def __init__(self, *arguments: str, environment: dict[str, str], log: Path) -> None:
        self._log = log
        self._out = log.open("wb")
        clean = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", MAIN, *arguments, "--port", "0"],
            cwd=ROOT,
            env={**clean, **COMMON, **environment},
            stdout=self._out,
            stderr=subprocess.STDOUT,
        )
        self.url = self._wait_for_address()

    def _wait_for_address(self) -> str:
        deadline = time.monotonic() + 40
        while time.monotonic() < deadline:
            for line in self._log.read_text().splitlines():
                if "listens on http://" in line:
                    return "http://" + line.split("http://")[1].split()[0]
            assert self.process.poll() is None, self._log.read_text()
            time.sleep(0.05)
        raise AssertionError(self._log.read_text())

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(30)
        finally:
            self.process.kill()
            self._out.close()
        return code


def wait_ready(url: str) -> None:
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        time.sleep(0.1)
    raise AssertionError(httpx.get(f"{url}/health").text)


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


def test_the_worker_in_http_mode_never_imports_the_queue_sdk(database_url: str, tmp_path: Path) -> None:
    code = (
        "import sys; from app.settings import Settings; from app.composition import compose, Role;"
        "from app.api.application import create_app;"
        "a = compose(Settings.from_env(), Role.WORKER); create_app(a); a.lifecycle.drain();"
        "bad = [m for m in sys.modules if m.startswith(('azure.servicebus', 'testing', 'azure.functions'))];"
        "sys.exit(str(bad) if bad else 0)"
    )
    environment = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": database_url,
        "DATA_DIR": str(tmp_path),
        "DOCKER_ORCHESTRATION_MODE": "http_trigger",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
