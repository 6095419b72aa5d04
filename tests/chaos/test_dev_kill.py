"""kill -9 of ``geoworker dev`` in mid-job: the next one finishes the job, and nothing is done twice."""

from __future__ import annotations

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
from chaos_harness import is_alive, wait_until

from services.raster import sample_raster

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]


class Dev:
    """``geoworker dev`` on an embedded PostgreSQL of its own."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self._log = (directory / "dev.log").open("ab")
        environment = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from app.cli import main; main()", "dev", "--port", "0"],
            cwd=ROOT,
            env={
                **environment,
                "PYTHONPATH": str(ROOT),
                "DATA_DIR": str(directory),
                "LEASE_SECONDS": "3",
                "HEARTBEAT_SECONDS": "1",
                "SWEEP_SECONDS": "0.3",
                "HINT_SECONDS": "1",
                "RETRY_BASE_SECONDS": "0.1",
            },
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        assert "http://" in first, (directory / "dev.log").read_text()
        self.http = httpx.Client(base_url=first.split()[4], timeout=10)
        wait_until(self._ready, 40)

    def _ready(self) -> bool:
        try:
            return self.http.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def submit(self, job_type: str, parameters: dict[str, Any]) -> str:
        answer = self.http.post(f"/api/jobs/submit/{job_type}", json=parameters)
        return str(answer.raise_for_status().json()["job_id"])

    def status(self, job_id: str) -> dict[str, Any]:
        view: dict[str, Any] = self.http.get(f"/api/jobs/status/{job_id}").json()
        return view

    def tasks(self, job_id: str) -> dict[str, dict[str, Any]]:
        answer = self.http.get(f"/api/jobs/{job_id}/tasks?limit=500").json()
        return {task["task_id"]: task for task in answer["tasks"]}

    def attempts(self, task_id: str) -> list[str]:
        return [one["outcome"] for one in self.http.get(f"/api/tasks/{task_id}").json()["attempts"]]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()  # idempotent, as all of these are
        self.http.close()
        self._log.close()


@pytest.fixture
def devs(tmp_path: Path) -> Iterator[list[Dev]]:
    started: list[Dev] = []
    yield started
    for dev in started:
        dev.close()


def test_kill_9_of_dev_in_mid_job_loses_nothing_and_does_nothing_twice(devs: list[Dev], tmp_path: Path) -> None:
    devs.append(Dev(tmp_path / "data"))
    fan_out = devs[0].submit("hello_world_docker", {"n": 150})
    raster = devs[0].submit("process_raster_docker", {"source_url": str(sample_raster())})
    wait_until(lambda: devs[0].status(fan_out)["stages"] and devs[0].status(fan_out)["stages"][0]["ended"] >= 10, 40)
    before = {task_id: task for task_id, task in devs[0].tasks(fan_out).items() if task["status"] == "completed"}
    devs[0].kill()
    assert 0 < len(before) < 151

    devs.append(Dev(tmp_path / "data"))
    for job_id in (fan_out, raster):
        deadline = time.monotonic() + 90
        while devs[1].status(job_id)["status"] not in ("completed", "failed"):
            assert time.monotonic() < deadline, devs[1].status(job_id)
            time.sleep(0.2)
    done = devs[1].status(fan_out)
    assert done["status"] == "completed"
    assert [stage["tasks"] for stage in done["stages"]] == [{"completed": 150}, {"completed": 1}]
    assert done["result"]["greeted"] == 150
    after = devs[1].tasks(fan_out)
    for task_id, task in before.items():
        assert after[task_id] == task  # what was done is left as it was
    for task_id, task in after.items():
        if task["attempt"] == 1:
            continue
        assert devs[1].attempts(task_id) == ["lease_expired"] * (task["attempt"] - 1) + ["completed"]
    assert sum(task["attempt"] > 1 for task in after.values()) <= 1  # only what ran when the power went
    made = devs[1].status(raster)
    assert made["status"] == "completed", made
    assert Path(made["result"]["cog"]["path"]).is_file()
    (only,) = devs[1].tasks(raster)
    assert devs[1].attempts(only).count("completed") == 1

    postmaster = int((tmp_path / "data" / "postgres" / "postmaster.pid").read_text().split()[0])
    assert is_alive(postmaster)
    devs[1].close()
    wait_until(lambda: not is_alive(postmaster))  # though one of its two users never said good-bye
