"""While a handler holds the interpreter's lock, the worker answers, and leases and locks are renewed on time."""

from __future__ import annotations

import time
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from chaos_harness import read_pid
from chaos_process import deployed

from core.states import TaskStatus
from infrastructure.postgres.database import Database
from testing.emulator import EmulatorConfig, QueueConfig

pytestmark = pytest.mark.chaos

_QUEUE = "long-running-tasks"
_LEASE = 3.0
_LOCK = timedelta(seconds=3)
_BUS = EmulatorConfig(
    queues=(
        QueueConfig(name="geospatial-jobs"),
        QueueConfig(name="geospatial-tasks"),
        QueueConfig(name=_QUEUE, lock_duration=_LOCK),
    )
)


@pytest.mark.parametrize("seconds", [2 * _LEASE, pytest.param(30.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("task", ["hold_the_gil", "spin"])
def test_health_leases_and_locks_go_on_while_a_handler_holds_the_gil(
    task: str, seconds: float, database_url: str, database: Database, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    lease = {"LEASE_SECONDS": str(_LEASE), "HEARTBEAT_SECONDS": "0.5"}
    with deployed("service_bus", database_url, tmp_path, database, bus=_BUS, **lease) as deployment:
        worker = deployment.start_worker()
        parameters = {"parameters": {"started": str(started), "seconds": seconds}}
        job_id = deployment.front(worker).submit(f"chaos_{task}", parameters)
        read_pid(started)
        delays = []
        while worker.task(job_id).status is TaskStatus.PROCESSING:
            began = time.monotonic()
            assert worker.http.get("/livez").status_code == 200
            delays.append(time.monotonic() - began)
            time.sleep(0.02)
        record = worker.task(job_id)
        assert (record.status, record.attempt) == (TaskStatus.COMPLETED, 1)  # the lease held
        assert deployment.emulator is not None
        (delivery,) = deployment.emulator.deliveries(_QUEUE)  # and so did the lock
        renewals = deployment.emulator.renewals(_QUEUE)
    assert not [renewal for renewal in renewals if renewal.refused is not None]
    moments = [delivery.at, *(renewal.at for renewal in renewals)]
    assert moments[-1] - moments[0] > timedelta(seconds=seconds) - _LOCK
    gaps = [after - before for before, after in pairwise(moments)]
    assert max(gaps) < _LOCK
    delays.sort()
    percentiles = ", ".join(f"p{p} {delays[len(delays) * p // 100] * 1000:.1f} ms" for p in (50, 95, 99))
    print(f"{task} {seconds:.0f} s: /livez {percentiles}, worst {delays[-1] * 1000:.1f} ms; ", end="")
    print(f"renewals every {max(gaps).total_seconds():.2f} s at most")
    assert delays[len(delays) // 2] < 0.05
