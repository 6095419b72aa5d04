"""What a task's life costs, and what happens when several claims and completions share a statement."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import DictRow

from core.handlers import HandlerRegistry, HandlerSpec
from core.jobs import JobRegistry, task_id
from core.machine import CoreMachine, MachineOptions
from core.messages import Channel, StageComplete, TaskEnded, TaskMessage
from core.outcome import Finished
from core.records import Claim, TaskPlan
from core.states import TaskStatus
from core.stopping import StopToken
from infrastructure.connection_pool import ConnectionPoolManager, PoolSettings
from infrastructure.inline_executor import HandlerParts, InlineExecutor
from infrastructure.postgres import rows
from infrastructure.postgres.database import Database
from infrastructure.postgres.task_steps import ClaimStep, CompleteStep, Rows, Step, TaskSteps, WrittenStep
from tests.contract.stores import LEASE, WORKER, Given, PostgresBackend

HOLD = {"hold_jobs": timedelta(0), "hold_callbacks": timedelta(0)}


class CountingPool(ConnectionPoolManager):
    """Counts the statements that go to the server, one round trip each."""

    statements = 0

    @contextmanager
    def connection(self, timeout: float | None = None) -> Iterator[psycopg.Connection[DictRow]]:
        with super().connection(timeout) as connection:
            yield _Counting(connection, self)  # type: ignore[misc]


class _Counting:
    def __init__(self, connection: psycopg.Connection[DictRow], pool: CountingPool) -> None:
        self._connection = connection
        self._pool = pool

    def execute(self, *arguments: Any, **named: Any) -> Any:
        self._pool.statements += 1
        return self._connection.execute(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def commits(database: Database) -> int:
    """How many transactions have written so far."""
    row = database.row("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS n")
    assert row is not None
    return int(row["n"])


def test_a_tasks_full_life_is_two_round_trips_and_two_commits(database_url: str, database: Database) -> None:
    pool = CountingPool(database_url, PoolSettings(min_size=1, max_size=2))
    given = Given(PostgresBackend(Database(pool), list(Channel)))
    handlers = HandlerRegistry([HandlerSpec(task_type="work", handler=lambda params, context: {"success": True})])
    machine = CoreMachine(
        jobs=JobRegistry([]),
        handlers=handlers,
        store=given.state,
        publisher=_Silent(),
        executor=InlineExecutor(
            HandlerParts(handlers=handlers, checkpoints=given.checkpoints, work_root=Path("/nowhere"), services={})
        ),
        options=MachineOptions(worker_id="w", lease=LEASE),
    )
    job = given.running_job(12, total_stages=1)
    messages = [
        TaskMessage(
            task_id=task_id(job.job_id, 1, n), parent_job_id=job.job_id, job_type="demo", task_type="work", stage=1
        )
        for n in range(12)
    ]
    before, began = pool.statements, commits(database)
    for message in messages:
        assert isinstance(machine.run_task(message, stop=StopToken()), Finished)
    assert pool.statements - before == 2 * 12
    assert commits(database) - began == 2 * 12
    machine.close()
    pool.close()


@pytest.fixture
def given(database: Database) -> Given:
    return Given(PostgresBackend(database, list(Channel)))


@pytest.fixture
def steps(database: Database) -> TaskSteps:
    return TaskSteps(database, HOLD)


def claim_step(job_id: str, index: int, worker: str = WORKER) -> ClaimStep:
    return ClaimStep(task_id(job_id, 1, index), worker, LEASE, uuid.uuid4())


def complete_step(claim: Claim, result: str = '{"success":true}') -> CompleteStep:
    return CompleteStep(claim, result)


def make_all(steps: TaskSteps, wanted: Sequence[Step]) -> Sequence[Rows | Exception]:
    """Steps that came together."""
    return steps._make_all([WrittenStep.of(step) for step in wanted])()


def test_claims_and_completions_of_several_jobs_share_a_commit(
    given: Given, steps: TaskSteps, database: Database
) -> None:
    plan = [TaskPlan(parameters={}, callback_url="https://example.org/cb"), TaskPlan(parameters={})]
    first, second = given.running_job(plan, "first"), given.running_job(1, "second")
    waiting = given.running_job(2, "waiting")
    claims = [given.claim(first.job_id, 0), given.claim(first.job_id, 1), given.claim(second.job_id, 0)]
    began = commits(database)
    answers = make_all(
        steps,
        [
            complete_step(claims[0]),
            claim_step(waiting.job_id, 0),
            complete_step(claims[1]),
            complete_step(claims[2]),
            claim_step(waiting.job_id, 1, "w2"),
            claim_step(first.job_id, 0),  # ended: refused
        ],
    )
    assert commits(database) - began == 1
    assert not any(isinstance(answer, Exception) for answer in answers)
    first_done, claimed, second_done, third_done, other, refused = (list(answer) for answer in answers)  # type: ignore[arg-type]
    assert rows.task(claimed[0]).status is TaskStatus.PROCESSING
    assert rows.task(other[0]).lease_owner == "w2"
    assert refused == []
    lasts = [any(row["remaining"] == 0 for row in done) for done in (first_done, second_done, third_done)]
    assert lasts.count(True) == 2
    assert lasts[2]
    assert [m.job_id for m in given.messages(StageComplete)] == sorted([first.job_id, second.job_id])  # type: ignore[union-attr]
    assert len(given.messages(TaskEnded)) == 1
    assert [entry.channel for entry in rows.outbox_entries(first_done)].count(Channel.CALLBACKS) == 1


def test_the_same_step_twice_in_a_batch_is_made_once(given: Given, steps: TaskSteps) -> None:
    job = given.running_job(2)
    claim = given.claim(job.job_id)
    first, second = make_all(steps, [complete_step(claim), complete_step(claim)])
    assert (bool(first), bool(second)) == (True, False)
    same = [claim_step(job.job_id, 1, "w1"), claim_step(job.job_id, 1, "w2")]
    assert sorted(map(bool, make_all(steps, same))) == [False, True]
    assert given.task_now(job.job_id, 1).attempt == 1
    assert given.state.list_stages(job.job_id)[0].remaining == 1


def test_a_step_that_cannot_be_made_fails_alone(given: Given, steps: TaskSteps) -> None:
    job = given.running_job(3)
    claims = [given.claim(job.job_id, index) for index in range(2)]
    bad, good, claimed = make_all(
        steps, [complete_step(claims[0], '{"a":"\\u0000"}'), complete_step(claims[1]), claim_step(job.job_id, 2)]
    )
    assert isinstance(bad, psycopg.Error)
    assert good
    assert claimed
    assert [given.task_now(job.job_id, n).status for n in range(3)] == ["processing", "completed", "processing"]


class _Silent:
    def publish(self, entries: object) -> None:
        pass
