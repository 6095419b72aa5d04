"""Two, five, ten consumers on one queue: every task is completed once, and a retry is no dead letter."""

from __future__ import annotations

import time

import pytest

from app.composition import compose
from app.role import Role
from app.settings import OrchestrationMode, Settings
from infrastructure.postgres.database import Database
from testing.emulator import ServiceBusEmulator

pytestmark = pytest.mark.usefixtures("closing")


@pytest.mark.parametrize(
    "consumers", [pytest.param(2, marks=pytest.mark.slow), pytest.param(5, marks=pytest.mark.slow), 10]
)
def test_each_task_is_completed_once_whatever_competes(
    consumers: int, database_url: str, settings: Settings, database: Database
) -> None:
    with ServiceBusEmulator() as emulator:
        configured = Settings.from_env(
            {"SERVICE_BUS_CONNECTION_STRING": emulator.connection_string},
            data_dir=settings.data_dir,
            docker_orchestration_mode=OrchestrationMode.SERVICE_BUS,
            functions_concurrency=consumers,
            retry_base_seconds=0.02,
            retry_cap_seconds=0.1,
        )
        application = compose(configured, Role.ORCHESTRATOR, database_url=database_url)
        application.lifecycle.start()
        try:
            job = application.machine.submit_job("hello_world", {"n": 60, "failure_rate": 0.2}).job
            deadline = time.monotonic() + 60
            while (record := application.store.get_job(job.job_id)) and record.status in ("queued", "processing"):
                assert time.monotonic() < deadline, record
                time.sleep(0.05)
        finally:
            application.lifecycle.drain()
        rows = database.rows(
            "SELECT task_id, count(*) FILTER (WHERE outcome = 'completed') AS ended,"
            " count(*) FILTER (WHERE outcome = 'failed') AS failed FROM app.task_attempts GROUP BY task_id"
        )
        assert len(rows) == 61
        assert {row["ended"] for row in rows} == {1}
        assert sum(row["failed"] for row in rows) == 12
        assert emulator.dead_letters("geospatial-tasks") == []
        assert emulator.message_count("geospatial-tasks") == 0
