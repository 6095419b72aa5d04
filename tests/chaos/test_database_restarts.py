"""PostgreSQL goes away and comes back: in mid-statement, in mid-job, during recovery, and for longer than any retry."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from chaos_harness import Running, wait_until
from chaos_postgres import FragilePostgres

from app.composition import Application, compose
from app.health import health, not_ready_because
from app.role import Role
from app.settings import Settings
from core.errors import StoreUnavailable
from core.messages import TaskMessage
from core.outcome import Deferred, Finished
from core.records import AttemptOutcome, TaskQuery
from core.states import TERMINAL_JOB_STATUSES, JobStatus, TaskStatus
from core.stopping import StopToken
from infrastructure.connection_pool import ConnectionPoolManager, PoolSettings
from infrastructure.postgres.database import Database
from infrastructure.postgres.migrations import migrate
from tests.contract.stores import LEASE, MINUTE, Given, PostgresBackend

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FragilePostgres]:
    server = FragilePostgres(tmp_path_factory.mktemp("fragile"))
    yield server
    server.close()


@pytest.fixture
def url(server: FragilePostgres) -> str:
    """A fresh, migrated database on the fragile server."""
    server.start()
    name = f"restarts_{next(_numbers)}"
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    url = server.url.replace("/postgres?", f"/{name}?")
    pool = ConnectionPoolManager(url, PoolSettings(min_size=1, max_size=1))
    migrate(Database(pool))
    pool.close()
    return url


@pytest.fixture
def make_store(url: str) -> Iterator[Callable[..., Given]]:
    pools: list[ConnectionPoolManager] = []

    def make(**options: float) -> Given:
        pools.append(ConnectionPoolManager(url, PoolSettings(min_size=1, max_size=4, **options)))  # type: ignore[arg-type]
        return Given(PostgresBackend(Database(pools[-1]), ()))

    yield make
    for pool in pools:
        pool.close()


@pytest.fixture
def start(url: str, settings: Settings) -> Iterator[Callable[..., Application]]:
    started: list[Application] = []

    def start_application(**overrides: object) -> Application:
        configured = settings.model_copy(update={"hint_seconds": 1.0, "lease_seconds": 4.0, **overrides})
        application = compose(configured, Role.EMBEDDED, database_url=url)
        application.lifecycle.start()
        started.append(application)
        return application

    yield start_application
    for application in started:
        application.lifecycle.drain()


def answers(database: Database) -> bool:
    try:
        return database.row("SELECT 1 AS one") == {"one": 1}
    except StoreUnavailable:
        return False


def ended(application: Application, job_id: str) -> bool:
    try:
        job = application.store.get_job(job_id)
    except StoreUnavailable:
        return False
    return job is not None and job.status in TERMINAL_JOB_STATUSES


def check_books(application: Application, job_id: str, tasks: int) -> None:
    """Every task completed, and was recorded so once, whatever its attempts were."""
    job = application.store.get_job(job_id)
    assert job is not None
    assert job.status is JobStatus.COMPLETED, job.error_details
    assert job.result_data is not None
    assert job.result_data["greeted"] == tasks
    for task in application.store.list_tasks(TaskQuery(job_id=job_id, limit=10_000)):
        outcomes = [attempt.outcome for attempt in application.store.list_attempts(task.task_id)]
        assert task.status is TaskStatus.COMPLETED
        assert outcomes.count(AttemptOutcome.COMPLETED) == 1
        assert set(outcomes) <= {AttemptOutcome.COMPLETED, AttemptOutcome.LEASE_EXPIRED}
        assert len(outcomes) == task.attempt
    assert all(stage.remaining == 0 for stage in application.store.list_stages(job_id))


@pytest.mark.parametrize("how", ["crash", pytest.param("stop", marks=pytest.mark.slow)])
def test_a_restart_in_mid_statement_costs_a_retry(
    server: FragilePostgres, make_store: Callable[..., Given], how: str
) -> None:
    given = make_store(acquire_timeout=60)  # an overloaded machine takes its time to start a server
    assert isinstance(given.backend, PostgresBackend)
    database = given.backend.database
    seen = "SELECT count(*) AS n FROM pg_stat_activity WHERE state = 'active' AND wait_event = 'PgSleep'"
    answers: list[object] = []

    def ask() -> None:
        answers.append(database.row("SELECT 1 AS one, pg_sleep(0.7)"))

    asking = threading.Thread(target=ask)
    asking.start()
    wait_until(lambda: database.row(seen) == {"n": 1})
    getattr(server, how)()
    time.sleep(0.3)
    assert not answers
    server.start()
    asking.join(60)
    assert answers == [{"one": 1, "pg_sleep": ""}]


def test_a_job_goes_on_after_a_crash_of_the_database_and_readiness_says_so_meanwhile(
    server: FragilePostgres, start: Callable[..., Application]
) -> None:
    application = start(functions_concurrency=2)
    assert not_ready_because(application) is None
    job_id = application.machine.submit_job("hello_world", {"n": 200}).job.job_id
    wait_until(lambda: application.store.count_tasks(job_id).get(1, {}).get("completed", 0) >= 20, 30)
    server.crash()
    assert "database" in str(not_ready_because(application))
    code, body = health(application)
    assert (code, body["status"], body["database"]["reachable"]) == (503, "unhealthy", False)
    assert all(worker["running"] for worker in body["background_workers"].values())
    server.start()
    wait_until(lambda: not_ready_because(application) is None, 30)
    wait_until(lambda: ended(application, job_id), 90)
    check_books(application, job_id, 200)


@pytest.mark.slow
def test_an_outage_longer_than_every_retry_ends_no_loop(
    server: FragilePostgres, start: Callable[..., Application], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.composition.PoolSettings", lambda **more: PoolSettings(acquire_timeout=0.2, **more))
    application = start(functions_concurrency=2)
    job_id = application.machine.submit_job("hello_world", {"n": 200}).job.job_id
    wait_until(lambda: application.store.count_tasks(job_id).get(1, {}).get("completed", 0) >= 5, 30)
    server.stop()
    wait_until(lambda: "database" in str(not_ready_because(application)))
    with pytest.raises(StoreUnavailable):
        application.machine.submit_job("hello_world", {"n": 1})
    for _ in range(3):  # the loops wake, find nothing, and wait again
        before = {name: worker.status()["messages_processed"] for name, worker in application.workers.items()}
        time.sleep(0.8)
        after = {name: worker.status()["messages_processed"] for name, worker in application.workers.items()}
        assert all(worker.healthy for worker in application.workers.values())
        # A deferred message waits: no loop spins on it.
        assert sum(after.values()) - sum(before.values()) <= 210
    server.start()
    wait_until(lambda: ended(application, job_id), 90)
    check_books(application, job_id, 200)


@pytest.mark.slow
def test_a_long_outage_ends_for_the_pool_soon_after_it_ends_for_the_server(
    server: FragilePostgres, make_store: Callable[..., Given]
) -> None:
    asking, waiting = make_store(acquire_timeout=0.2).backend, make_store(acquire_timeout=60).backend
    assert isinstance(asking, PostgresBackend)
    assert isinstance(waiting, PostgresBackend)

    assert answers(asking.database)
    server.stop()
    waiter = Running(lambda: waiting.database.row("SELECT 1 AS one"))  # type: ignore[arg-type,return-value]
    until = time.monotonic() + 17.0  # whoever doubles the pauses between tries from one second would now wait for 14
    while time.monotonic() < until:
        assert not answers(asking.database)
    server.start()
    wait_until(lambda: answers(asking.database), 7.0)
    assert waiter.result(7.0) == {"one": 1}  # type: ignore[comparison-overlap]


@pytest.mark.slow
def test_a_drain_without_its_database_ends_in_time(
    server: FragilePostgres, start: Callable[..., Application], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.composition.PoolSettings", lambda **more: PoolSettings(acquire_timeout=0.2, **more))
    application = start(functions_concurrency=2, shutdown_grace_seconds=2.0)
    job_id = application.machine.submit_job("hello_world", {"n": 500}).job.job_id
    wait_until(lambda: application.store.count_tasks(job_id).get(1, {}).get("completed", 0) >= 5, 30)
    server.stop()
    began = time.monotonic()
    application.lifecycle.drain()
    assert time.monotonic() - began < 2.0 + 15.0
    assert not any(worker.alive for worker in application.workers.values())
    server.start()
    successor = start(functions_concurrency=2)
    wait_until(lambda: ended(successor, job_id), 90)
    check_books(successor, job_id, 500)


def test_what_could_not_be_recorded_in_time_is_deferred_and_done_again(
    server: FragilePostgres, make_store: Callable[..., Given], url: str
) -> None:
    from core.handlers import HandlerRegistry, HandlerSpec
    from core.jobs import JobRegistry
    from core.machine import CoreMachine, MachineOptions
    from core.retry import Backoff
    from infrastructure.inline_executor import HandlerParts, InlineExecutor

    given = make_store(acquire_timeout=0.2)
    runs: list[int] = []

    def outage(params: object, context: object) -> dict[str, bool]:
        runs.append(1)
        if len(runs) == 1:
            server.stop()
        return {"success": True}

    handlers = HandlerRegistry([HandlerSpec(task_type="work", handler=outage)])
    machine = CoreMachine(
        jobs=JobRegistry([]),
        handlers=handlers,
        store=given.state,
        publisher=_Silent(),
        executor=InlineExecutor(
            HandlerParts(handlers=handlers, checkpoints=given.checkpoints, work_root=Path("/nowhere"), services={})
        ),
        options=MachineOptions(
            worker_id="w", lease=LEASE, backoff=Backoff(base=timedelta(0)), record_patience=timedelta(seconds=0.5)
        ),
    )
    job = given.running_job()
    task = given.task_now(job.job_id)
    message = TaskMessage(task_id=task.task_id, parent_job_id=job.job_id, job_type="demo", task_type="work", stage=1)
    outcome = machine.run_task(message, stop=StopToken())
    assert isinstance(outcome, Deferred), outcome
    assert isinstance(machine.run_task(message, stop=StopToken()), Deferred)
    server.start()
    assert isinstance(given.backend, PostgresBackend)
    database = given.backend.database
    wait_until(lambda: answers(database))
    given.advance(LEASE + MINUTE)
    given.sweeps.sweep(limit=10)
    assert isinstance(machine.run_task(message, stop=StopToken()), Finished)
    story = [attempt.outcome for attempt in given.state.list_attempts(task.task_id)]
    assert story == [AttemptOutcome.LEASE_EXPIRED, AttemptOutcome.COMPLETED]
    machine.close()


@pytest.mark.parametrize("crashes", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_restart_during_recovery_recovers_each_task_once(
    server: FragilePostgres, make_store: Callable[..., Given], crashes: int
) -> None:
    given = make_store(acquire_timeout=60)
    job = given.running_job(300)
    for index in range(300):
        given.claim(job.job_id, index)
    given.advance(LEASE + MINUTE)

    def recovered() -> int:
        return given.state.count_tasks(job.job_id)[1].get("queued", 0)

    for _ in range(crashes):
        sweep = Running(lambda: given.sweeps.sweep(limit=1000))  # type: ignore[arg-type,return-value]
        before = recovered()
        wait_until(lambda: recovered() > before or not sweep.is_alive())  # noqa: B023
        server.crash()
        server.start()
        sweep.join(60)
    given.sweeps.sweep(limit=1000)
    tasks = given.state.list_tasks(TaskQuery(job_id=job.job_id, limit=300))
    assert {(task.status, task.failures, task.attempt) for task in tasks} == {(TaskStatus.QUEUED, 1, 1)}
    assert {len(given.state.list_attempts(task.task_id)) for task in tasks} == {1}
    hints = [message for message in given.messages(TaskMessage) if message.attempt == 1]  # type: ignore[union-attr]
    assert len(hints) == 300


class _Silent:
    def publish(self, entries: object) -> None:
        pass
