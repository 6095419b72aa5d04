"""What the dashboard asks of large tables is answered by indexes, and a page stays small."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.api.application import create_app
from app.composition import Application, compose
from app.role import Role
from app.settings import Settings
from core.records import JobQuery
from core.states import JobStatus
from infrastructure.postgres.job_filters import page_statement
from tests.browser import scenes

JOBS = 20_000
NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def application(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    settings = Settings.from_env({}, data_dir=tmp_path_factory.mktemp("scale"), worker_id="w")
    made = compose(settings, Role.EMBEDDED, database_url=module_database)
    scenes.many_jobs(made.database, JOBS)
    yield made
    made.lifecycle.drain()


@pytest.mark.parametrize(
    "query",
    [
        pytest.param(JobQuery(), id="newest"),
        pytest.param(JobQuery(status=JobStatus.FAILED), id="status"),
        pytest.param(JobQuery(status=JobStatus.PROCESSING), id="none of a status"),
        pytest.param(JobQuery(job_type="mosaic_docker"), id="type"),
        pytest.param(JobQuery(job_type="mosaic_docker", status=JobStatus.CANCELLED), id="type and status"),
        pytest.param(JobQuery(job_type="no_such_type"), id="none of a type"),
        pytest.param(JobQuery(created_after=NOW - timedelta(hours=1)), id="time"),
        pytest.param(JobQuery(id_prefix="ab12"), id="id"),
    ],
)
def test_a_page_of_jobs_reads_little_wherever_it_lies(application: Application, query: JobQuery) -> None:
    def read(connection: Any) -> list[dict[str, Any]]:
        deep = connection.execute("SELECT job_id, created_at FROM app.jobs ORDER BY created_at OFFSET 500 LIMIT 1")
        row = deep.fetchone()
        plans = []
        for before, at in ((None, None), (row["job_id"], row["created_at"])):
            page = JobQuery(**{name: getattr(query, name) for name in query.__slots__} | {"before": before})
            statement, named = page_statement("job_id, status", page, at)
            told = connection.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", named).fetchone()
            plans.append(told["QUERY PLAN"][0]["Plan"])
        return plans

    for plan in application.database.run(read):
        assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 500, plan


def test_pages_of_a_hundred_jobs_are_walked_to_the_end_by_keys(application: Application) -> None:
    seen: list[str] = []
    before = None
    while page := application.store.list_jobs(JobQuery(status=JobStatus.CANCELLED, before=before, limit=500)):
        seen += [job.job_id for job in page]
        before = page[-1].job_id
    assert len(seen) == len(set(seen)) == JOBS // 6
    assert application.store.list_jobs(JobQuery(before="no such job")) == []


def test_pages_are_small_with_many_jobs_and_ten_thousand_tasks(application: Application) -> None:
    job_id = scenes.large_job(application.database, "scale", 10_000)
    with TestClient(create_app(application, manage_lifecycle=False), base_url="http://127.0.0.1") as client:
        for path in ("/", "/jobs", f"/jobs/{job_id}", f"/jobs/{job_id}?start=5000"):
            assert len(client.get(path).content) < 120_000, path
        static = sum(
            len(client.get(f"/static/x/{name}", headers={"Accept-Encoding": "gzip"}).content)
            for name in ("dashboard.css", "live.js", "morph.js", "actions.js", "times.js", "world.svg")
        )
        assert static < 150_000
