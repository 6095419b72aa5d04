"""Sweepers on PostgreSQL that read stale rows, die in the middle, or meet rows that cannot be helped."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg.rows import DictRow

from core.messages import TaskMessage
from core.records import TaskQuery
from core.states import TaskStatus
from infrastructure.connection_pool import ConnectionPoolManager
from infrastructure.postgres.database import Database
from infrastructure.postgres.state_store import StoreOptions
from infrastructure.postgres.sweep_store import PostgresSweepStore
from tests.contract.stores import LEASE, MINUTE, NO_BACKOFF, Given, PostgresBackend

ROOT = Path(__file__).parents[2]


@pytest.fixture
def given(database: Database) -> Given:
    return Given(PostgresBackend(database, ()))


def expired(given: Given, tasks: int, name: str = "a") -> str:
    """A job whose running tasks have all lost their worker."""
    job = given.running_job(tasks, name)
    for index in range(tasks):
        given.claim(job.job_id, index)
    given.advance(LEASE + MINUTE)
    return job.job_id


def check_recovered_once(given: Given, job_id: str, tasks: int) -> None:
    found = given.state.list_tasks(TaskQuery(job_id=job_id))
    assert [(task.status, task.failures) for task in found] == [(TaskStatus.QUEUED, 1)] * tasks
    assert [len(given.state.list_attempts(task.task_id)) for task in found] == [1] * tasks
    hints = [m for m in given.messages(TaskMessage) if m.attempt == 1]  # type: ignore[union-attr]
    assert len(hints) == tasks


class ReadsTogether(Database):
    """After it has read which leases are expired, it waits until every other sweeper has read the same."""

    def __init__(self, pool: ConnectionPoolManager, barrier: threading.Barrier) -> None:
        super().__init__(pool)
        self._barrier = barrier

    def rows(self, query: LiteralString, parameters: Mapping[str, Any] | None = None) -> list[DictRow]:
        found = super().rows(query, parameters)
        if found and "exhausted" in found[0]:
            self._barrier.wait(20)
        return found


def test_two_sweepers_that_act_on_one_stale_read_recover_each_task_once(
    given: Given, pool: ConnectionPoolManager
) -> None:
    job_id = expired(given, 5)
    barrier = threading.Barrier(2)
    options = StoreOptions(worker_id="sweeper")
    sweepers = [PostgresSweepStore(ReadsTogether(pool, barrier), options, backoff=NO_BACKOFF) for _ in range(2)]
    counts: list[int] = []
    threads = [
        threading.Thread(target=lambda one=one: counts.append(one.sweep(limit=100).leases_expired)) for one in sweepers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sum(counts) == 5
    assert barrier.n_waiting == 0
    check_recovered_once(given, job_id, 5)


HOLDER = """
import sys, psycopg
with psycopg.connect(sys.argv[1]) as connection:
    connection.execute("SELECT task_id FROM app.tasks WHERE status = 'processing' FOR UPDATE")
    connection.execute("UPDATE app.sweeper SET passes = passes + 1")
    print("holding", flush=True)
    sys.stdin.read()
"""


def test_a_sweeper_that_dies_holding_its_locks_holds_up_nobody(
    given: Given, database_url: str, database: Database
) -> None:
    job_id = expired(given, 3)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, database_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == "holding\n"
    passes = (database.row("SELECT passes FROM app.sweeper") or {})["passes"]
    done = threading.Event()
    sweeping = threading.Thread(target=lambda: (given.sweeps.sweep(limit=100), done.set()))
    sweeping.start()
    holder.kill()  # -9, in the middle of its transaction
    assert done.wait(20)
    sweeping.join(20)
    holder.wait(10)
    holder.stdin.close()
    holder.stdout.close()
    check_recovered_once(given, job_id, 3)
    assert database.row("SELECT passes FROM app.sweeper") == {"passes": passes + 1}


def test_a_full_batch_of_rows_that_cannot_be_helped_does_not_starve_the_others(
    given: Given, database_url: str, database: Database
) -> None:
    hopeless = expired(given, 4, "hopeless")
    good = expired(given, 3, "good")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            f"""CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN RAISE EXCEPTION 'this row is broken'; END $$;
                CREATE TRIGGER refuse BEFORE UPDATE ON app.tasks FOR EACH ROW
                WHEN (OLD.job_id = '{hopeless}') EXECUTE FUNCTION refuse()""".encode()
        )
    # The hopeless ones have waited longest, and fill a whole batch.
    report = given.sweeps.sweep(limit=4)
    assert (report.leases_expired, report.refused) == (3, 4)
    check_recovered_once(given, good, 3)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("DROP TRIGGER refuse ON app.tasks")
    assert given.sweeps.sweep(limit=4).leases_expired == 4  # mended, they are recovered as well
    assert database.row("SELECT last_report ->> 'refused' AS refused FROM app.sweeper") == {"refused": "0"}


def test_leases_are_the_databases_time_whatever_the_workers_clock_says(
    given: Given, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    real = time.time
    for skew in (timedelta(days=-400), timedelta(days=400)):
        monkeypatch.setattr(time, "time", lambda skew=skew: real() + skew.total_seconds())
        job = given.running_job(1, f"skewed by {skew}")
        claim = given.claim(job.job_id)
        given.state.heartbeat(claim)
        left = database.row(
            "SELECT lease_expires_at - now() AS left FROM app.tasks WHERE task_id = %(id)s", {"id": claim.task_id}
        )
        assert left is not None
        assert timedelta(0) < left["left"] <= LEASE
        assert given.sweeps.sweep(limit=10).leases_expired == 0
        assert given.state.complete_task(claim, {"success": True}).last_in_stage


def test_the_store_never_asks_this_machine_what_time_it_is() -> None:
    adapters = (ROOT / "infrastructure" / "postgres").rglob("*.py")
    clocks = ("datetime.now", "time.time(", "utcnow", "date.today")
    assert [(path.name, clock) for path in adapters for clock in clocks if clock in path.read_text()] == []
