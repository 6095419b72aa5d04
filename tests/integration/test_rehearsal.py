"""``geoworker rehearse``: the documented command, in both modes, and what the worker's process imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.geoworker_process import MAIN, ROOT, Process, wait_ready


@pytest.mark.parametrize("mode", ["http_trigger", "service_bus"])
@pytest.mark.timeout(240)
def test_the_rehearsal_runs_a_job_through_two_processes_and_stops_them(
    mode: str, database_url: str, tmp_path: Path
) -> None:
    environment = {"PATH": os.environ["PATH"], "DATABASE_URL": database_url, "SHUTDOWN_GRACE_SECONDS": "3"}
    command = ["rehearse", "--mode", mode, "--once", "--job", "hello_world_triggered", "--data-dir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *command, "--json"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    view = json.loads(done.stdout)
    assert (view["status"], view["job_type"]) == ("completed", "hello_world_triggered")
    assert [stage["runs_on"] for stage in view["stages"]] == ["functions", "docker"]
    assert "curl -X POST" in done.stderr
    for name in ("orchestrator", "worker"):
        assert "worker.stopped" in (tmp_path / "rehearsal" / f"{name}.log").read_text()
    if mode == "http_trigger":
        assert "callback.received" in (tmp_path / "rehearsal" / "orchestrator.log").read_text()


def test_a_mode_without_a_second_process_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "rehearse", "--mode", "in_memory"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "in_memory" in done.stderr


@pytest.mark.parametrize(("mode", "imported"), [("http_trigger", False), ("service_bus", True)])
def test_the_worker_in_http_mode_never_imports_the_queue_sdk(
    mode: str, imported: bool, database_url: str, tmp_path: Path
) -> None:
    """The real process tells each import (-X importtime); in service_bus mode the same process shows that it would."""
    environment = {
        "DATABASE_URL": database_url,
        "DATA_DIR": str(tmp_path),
        "DOCKER_ORCHESTRATION_MODE": mode,
        "SERVICE_BUS_CONNECTION_STRING": "Endpoint=sb://127.0.0.1:1;SharedAccessKeyName=n;SharedAccessKey=a;"
        "UseDevelopmentEmulator=true;",
    }
    log = tmp_path / "worker.log"
    worker = Process("worker", environment=environment, log=log, python=("-X", "importtime", "-c", MAIN))
    try:
        wait_ready(worker.url)
        if mode == "http_trigger":
            body = {"task_id": "t-1", "task_type": "hello_world_greeting", "params": {}}
            assert httpx.post(f"{worker.url}/task/start", json=body).status_code == 202
            with httpx.Client(base_url=worker.url) as client:
                while client.get("/task/t-1").status_code == 202:
                    pass
                assert client.get("/task/t-1").json()["status"] == "completed"
    finally:
        worker.stop()
    told = [line.rsplit("|", 1)[1].strip() for line in log.read_text().splitlines() if line.startswith("import time:")]
    assert "starlette.applications" in told
    assert ("azure.servicebus" in told) is imported
    if not imported:
        assert not [name for name in told if name.split(".")[0] in ("uamqp", "testing")]
        assert not [name for name in told if name.startswith(("azure.servicebus", "azure.functions"))]
