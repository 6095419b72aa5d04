"""What the store contracts run against: every adapter behind one harness, and helpers to bring it into a state."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol

from core.errors import ErrorInfo
from core.jobs import job_fingerprint, task_id
from core.messages import Channel, Message, decode
from core.ports import CheckpointStore, OutboxStore, StateStore, SweepStore
from core.records import (
    Claim,
    Commit,
    FailurePolicy,
    JobRecord,
    JobSubmission,
    NotClaimed,
    RunsOn,
    StagePlan,
    TaskPlan,
    TaskRecord,
)
from core.retry import Backoff
from infrastructure.postgres.checkpoint_store import PostgresCheckpointStore
from infrastructure.postgres.database import Database
from infrastructure.postgres.jsonb import dumps
from infrastructure.postgres.outbox_store import PostgresOutboxStore
from infrastructure.postgres.state_store import PostgresStateStore, StoreOptions
from infrastructure.postgres.sweep_store import PostgresSweepStore
from testing.clock import ManualClock
from testing.mock_state_manager import MockStateManager

WORKER = "worker-1"
LEASE = timedelta(seconds=60)
HINT = timedelta(seconds=60)
NO_BACKOFF = Backoff(base=timedelta(0))
MINUTE = timedelta(minutes=1)
TRANSIENT = ErrorInfo(type="TransientError", message="try again", retryable=True)
PERMANENT = ErrorInfo(type="PermanentError", message="never works", retryable=False, code="BAD", details={"a": 1})


class Backend(Protocol):
    """An adapter of all four store ports over one set of tables."""

    state: StateStore
    checkpoints: CheckpointStore
    outbox: OutboxStore
    sweeps: SweepStore

    def advance(self, by: timedelta) -> None:
        """Move the store's time forward."""

    def running(self) -> AbstractContextManager[None]:
        """A context outside of which the store's time stands still, from its first use on."""

    def messages(self) -> Sequence[tuple[Channel, Message]]:
        """Every message written so far, in order."""

    def force_status(self, table: str, key: str, status: str) -> None:
        """Try to write a status past every guard of the port."""


class MemoryBackend:
    """MockStateManager."""

    def __init__(self, direct: Collection[Channel]) -> None:
        self.store = MockStateManager(
            clock=ManualClock(), worker_id=WORKER, direct=direct, hint_interval=HINT, backoff=NO_BACKOFF
        )
        self.state: StateStore = self.store
        self.checkpoints: CheckpointStore = self.store
        self.outbox: OutboxStore = self.store
        self.sweeps: SweepStore = self.store

    def advance(self, by: timedelta) -> None:
        self.store.advance(by)

    def running(self) -> AbstractContextManager[None]:
        return nullcontext()

    def messages(self) -> Sequence[tuple[Channel, Message]]:
        return [(Channel(entry["channel"]), entry["message"]) for entry in self.store.get_outbox()]

    def force_status(self, table: str, key: str, status: str) -> None:
        rows: Mapping[str, Any] = self.store._jobs if table == "jobs" else self.store._tasks
        kind = type(rows[key].status)
        rows[key].become(kind(status))


class PostgresBackend:
    """The PostgreSQL adapters. Time moves by shifting every moment in the tables back."""

    def __init__(self, database: Database, direct: Collection[Channel]) -> None:
        self.database = database
        self._columns: Sequence[tuple[str, Sequence[str]]] | None = None
        self._stopped_at: float | None = None
        options = StoreOptions(worker_id=WORKER, direct=frozenset(direct), hint_interval=HINT)
        self.state: StateStore = PostgresStateStore(database, options)
        self.checkpoints: CheckpointStore = PostgresCheckpointStore(database)
        self.outbox: OutboxStore = PostgresOutboxStore(database)
        self.sweeps: SweepStore = PostgresSweepStore(database, options, backoff=NO_BACKOFF)

    def advance(self, by: timedelta) -> None:
        for table, columns in self._moments():
            changes = ", ".join(f"{column} = {column} - %(by)s" for column in columns)
            self.database.run(
                lambda connection, table=table, changes=changes: connection.execute(
                    f"UPDATE app.{table} SET {changes}".encode(), {"by": by}
                )
            )

    @contextmanager
    def running(self) -> Iterator[None]:
        if self._stopped_at is not None:
            self.advance(timedelta(seconds=self._stopped_at - time.monotonic()))
        yield
        self._stopped_at = time.monotonic()

    def _moments(self) -> Sequence[tuple[str, Sequence[str]]]:
        """Every column of every table that holds a moment."""
        if self._columns is None:
            found = self.database.rows(
                """SELECT table_name, array_agg(column_name::text) AS columns FROM information_schema.columns
                   WHERE table_schema = 'app' AND table_name <> 'schema_migrations'
                     AND data_type = 'timestamp with time zone'
                   GROUP BY table_name"""
            )
            self._columns = [(row["table_name"], row["columns"]) for row in found]
        return self._columns

    def messages(self) -> Sequence[tuple[Channel, Message]]:
        rows = self.database.rows("SELECT channel, message FROM app.outbox ORDER BY entry_id")
        return [(Channel(row["channel"]), decode(dumps(row["message"]))) for row in rows]

    def force_status(self, table: str, key: str, status: str) -> None:
        column = {"jobs": "job_id", "tasks": "task_id"}[table]
        lease = ", lease_expires_at = CASE %(status)s WHEN 'processing' THEN now() END" if table == "tasks" else ""
        self.database.run(
            lambda connection: connection.execute(
                f"UPDATE app.{table} SET status = %(status)s{lease} WHERE {column} = %(key)s".encode(),
                {"status": status, "key": key},
            )
        )

    def clear(self) -> None:
        """Empty every table."""
        for table in ("outbox", "task_items", "task_attempts", "tasks", "stages", "jobs"):
            self.database.run(lambda connection, table=table: connection.execute(f"DELETE FROM app.{table}".encode()))


@dataclass
class Given:
    """A backend with short ways into the states that tests start from."""

    backend: Backend
    state: StateStore = field(init=False)
    checkpoints: CheckpointStore = field(init=False)
    outbox: OutboxStore = field(init=False)
    sweeps: SweepStore = field(init=False)

    def __post_init__(self) -> None:
        self.state = self.backend.state
        self.checkpoints = self.backend.checkpoints
        self.outbox = self.backend.outbox
        self.sweeps = self.backend.sweeps

    def advance(self, by: timedelta) -> None:
        self.backend.advance(by)

    def submission(self, name: str = "a", **changes: Any) -> JobSubmission:
        facts: dict[str, Any] = {
            "fingerprint": job_fingerprint("demo", {"name": name}),
            "job_type": "demo",
            "parameters": {"name": name},
            "total_stages": 1,
            "failure_policy": FailurePolicy.FAIL_FAST,
        }
        return JobSubmission(**{**facts, **changes})

    def job(self, name: str = "a", **changes: Any) -> JobRecord:
        """A job that waits for its plan."""
        job, _ = self.state.submit_job(self.submission(name, **changes))
        return job

    def stage_plan(
        self,
        tasks: int | Iterable[TaskPlan] = 1,
        *,
        stage: int = 1,
        runs_on: RunsOn = RunsOn.DOCKER,
        max_attempts: int = 3,
    ) -> StagePlan:
        plans = [TaskPlan(parameters={"i": i}) for i in range(tasks)] if isinstance(tasks, int) else list(tasks)
        return StagePlan(
            stage=stage, name=f"s{stage}", task_type="work", runs_on=runs_on, tasks=plans, max_attempts=max_attempts
        )

    def plan(
        self,
        job_id: str,
        tasks: int | Iterable[TaskPlan] = 1,
        *,
        stage: int = 1,
        runs_on: RunsOn = RunsOn.DOCKER,
        max_attempts: int = 3,
    ) -> Commit:
        plan = self.stage_plan(tasks, stage=stage, runs_on=runs_on, max_attempts=max_attempts)
        return self.state.plan_stage(job_id, plan)

    def running_job(self, tasks: int | Iterable[TaskPlan] = 1, name: str = "a", **changes: Any) -> JobRecord:
        """A job whose first stage is planned."""
        max_attempts = changes.pop("max_attempts", 3)
        job = self.job(name, **changes)
        assert self.plan(job.job_id, tasks, max_attempts=max_attempts).applied
        return self.job_now(job.job_id)

    def job_now(self, job_id: str) -> JobRecord:
        job = self.state.get_job(job_id)
        assert job is not None
        return job

    def task_now(self, job_id: str, index: int = 0, stage: int = 1) -> TaskRecord:
        task = self.state.get_task(task_id(job_id, stage, index))
        assert task is not None
        return task

    def try_claim(self, job_id: str, index: int = 0, stage: int = 1, worker: str = WORKER) -> Claim | NotClaimed:
        return self.state.claim_task(task_id(job_id, stage, index), worker_id=worker, lease=LEASE)

    def claim(self, job_id: str, index: int = 0, stage: int = 1, worker: str = WORKER) -> Claim:
        claim = self.try_claim(job_id, index, stage, worker)
        assert isinstance(claim, Claim), claim
        return claim

    def complete(self, job_id: str, index: int = 0, stage: int = 1, result: Mapping[str, Any] | None = None) -> Commit:
        return self.state.complete_task(self.claim(job_id, index, stage), result or {"success": True})

    def fail(self, job_id: str, index: int = 0, stage: int = 1) -> Commit:
        return self.state.fail_task(self.claim(job_id, index, stage), PERMANENT, retry_in=None)

    def messages(self, *kinds: type[Message]) -> list[Message]:
        return [message for _, message in self.backend.messages() if not kinds or isinstance(message, kinds)]

    def send_all(self) -> list[Message]:
        """Relay everything that is due."""
        sent: list[Message] = []
        while entries := self.outbox.take(list(Channel), limit=1000, hold=timedelta(seconds=30)):
            self.outbox.mark_sent([entry.entry_id for entry in entries])
            sent += [entry.message for entry in entries]
        return sent
