"""The tables: mutable rows behind one lock. Only the statements in this package touch them."""

from __future__ import annotations

import functools
import heapq
import itertools
import json
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, cast

from core.errors import ClaimLost, ErrorInfo
from core.messages import Channel, JobMessage, Message, StageComplete, TaskEnded, TaskMessage
from core.records import (
    AttemptOutcome,
    AttemptRecord,
    Checkpoint,
    Claim,
    FailurePolicy,
    JobRecord,
    OutboxEntry,
    Progress,
    RunsOn,
    StageRecord,
    TaskRecord,
    TaskResult,
)
from core.states import JobStatus, TaskStatus, check_job, check_task
from infrastructure.json_text import clean, dumps
from testing.clock import Clock

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="Tables")

ACTIVE_JOB_STATUSES: Final = frozenset({JobStatus.QUEUED, JobStatus.PROCESSING})


def stored(value: Mapping[str, Any]) -> dict[str, Any]:
    """``value`` as it comes back from the database: through JSON."""
    return cast("dict[str, Any]", json.loads(dumps(dict(value))))


def stored_error(error: ErrorInfo) -> ErrorInfo:
    """``error`` as it comes back from the database."""
    return ErrorInfo.from_dict(stored(error.as_dict()))


@dataclass(slots=True, kw_only=True)
class JobRow:
    """A row of ``app.jobs``."""

    job_id: str
    fingerprint: str
    run: int
    job_type: str
    status: JobStatus
    stage: int
    total_stages: int
    parameters: Mapping[str, Any]
    failure_policy: FailurePolicy
    created_at: datetime
    updated_at: datetime
    next_hint_at: datetime
    hints: int = 0
    result_data: Mapping[str, Any] | None = None
    error_details: ErrorInfo | None = None
    replay_of: str | None = None
    submitted_by: str | None = None
    traceparent: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def active(self) -> bool:
        """Whether the job has not ended."""
        return self.status in ACTIVE_JOB_STATUSES

    def become(self, status: JobStatus) -> None:
        """Change the status, if the table of transitions has that change."""
        if status is not self.status:
            check_job(self.status, status)
            self.status = status

    def record(self) -> JobRecord:
        """The row as the port returns it."""
        return JobRecord(**{name: getattr(self, name) for name in _JOB_FIELDS})

    def message(self) -> JobMessage:
        """The hint that the job waits for its plan."""
        return JobMessage(job_id=self.job_id, job_type=self.job_type, traceparent=self.traceparent)


@dataclass(slots=True, kw_only=True)
class StageRow:
    """A row of ``app.stages``, with its tasks in order of index."""

    job_id: str
    stage: int
    name: str
    task_type: str
    runs_on: RunsOn
    total: int
    remaining: int
    created_at: datetime
    failed: int = 0
    finished_at: datetime | None = None
    tasks: list[TaskRow] = field(default_factory=list)

    def record(self) -> StageRecord:
        """The row as the port returns it."""
        return StageRecord(**{name: getattr(self, name) for name in _STAGE_FIELDS})


@dataclass(slots=True, kw_only=True)
class TaskRow:
    """A row of ``app.tasks``, with its finished items."""

    task_id: str
    job_id: str
    job_type: str
    task_type: str
    stage: int
    task_index: int
    runs_on: RunsOn
    parameters: Mapping[str, Any]
    max_attempts: int
    created_at: datetime
    updated_at: datetime
    next_hint_at: datetime
    status: TaskStatus = TaskStatus.PENDING
    attempt: int = 0
    failures: int = 0
    interruptions: int = 0
    hints: int = 0
    timeout_seconds: float | None = None
    callback_url: str | None = None
    result_data: Mapping[str, Any] | None = None
    error_details: ErrorInfo | None = None
    progress: Progress | None = None
    progress_at: datetime | None = None
    lease_owner: str | None = None
    lease_expires_at: datetime | None = None
    execute_after: datetime | None = None
    checkpoint: Checkpoint | None = None
    checkpoint_updated_at: datetime | None = None
    traceparent: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    items: dict[int, dict[str, Mapping[str, Any]]] = field(default_factory=dict)

    @property
    def waiting(self) -> bool:
        """Whether the task may be claimed when it is due."""
        return self.status is TaskStatus.PENDING or self.status is TaskStatus.QUEUED

    @property
    def checkpoint_phase(self) -> int | None:
        """The highest completed phase that is saved."""
        return self.checkpoint.phase if self.checkpoint is not None else None

    @property
    def checkpoint_data(self) -> Mapping[str, Any] | None:
        """What the completed phases saved."""
        return self.checkpoint.data if self.checkpoint is not None else None

    def become(self, status: TaskStatus) -> None:
        """Change the status, if the table of transitions has that change."""
        if status is not self.status:
            check_task(self.status, status)
            self.status = status

    def record(self) -> TaskRecord:
        """The row as the port returns it."""
        return TaskRecord(**{name: getattr(self, name) for name in _TASK_FIELDS})

    def result(self) -> TaskResult:
        """The ended task as the next stage sees it."""
        return TaskResult(
            task_id=self.task_id,
            task_index=self.task_index,
            status=self.status,
            result_data=self.result_data,
            error_details=self.error_details,
        )

    def message(self) -> TaskMessage:
        """The hint that the task is ready."""
        return TaskMessage(
            task_id=self.task_id,
            parent_job_id=self.job_id,
            job_type=self.job_type,
            task_type=self.task_type,
            stage=self.stage,
            task_index=self.task_index,
            attempt=self.attempt,
            traceparent=self.traceparent,
        )


@dataclass(slots=True, kw_only=True)
class OutboxRow:
    """A row of ``app.outbox``."""

    entry_id: int
    channel: Channel
    message: Message
    job_id: str
    task_id: str | None
    created_at: datetime
    available_at: datetime
    tries: int = 0
    last_error: str | None = None
    sent_at: datetime | None = None
    given_up_at: datetime | None = None

    @property
    def open(self) -> bool:
        """Whether it is still to be sent."""
        return self.sent_at is None and self.given_up_at is None

    def entry(self) -> OutboxEntry:
        """The row as the port returns it."""
        return OutboxEntry(
            entry_id=self.entry_id,
            channel=self.channel,
            message=self.message,
            tries=self.tries,
            created_at=self.created_at,
        )


_JOB_FIELDS = tuple(one.name for one in fields(JobRecord))
_STAGE_FIELDS = tuple(one.name for one in fields(StageRecord))
_TASK_FIELDS = tuple(one.name for one in fields(TaskRecord))


@dataclass(frozen=True, slots=True)
class Operation:
    """One committed change, for the operation log."""

    name: str
    at: datetime
    facts: Mapping[str, Any]


def atomic(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """The method as one transaction: alone, and at one moment. It checks before it changes, so it needs no undoing."""

    @functools.wraps(method)
    def run(self: S, *args: P.args, **kwargs: P.kwargs) -> R:
        with self.lock:
            return method(self, *args, **kwargs)

    return run


class Tables:
    """Rows, the outbox and the log of operations. The lock is one for everything: each statement is one transaction.

    Args:
        clock: the store's time.
        worker_id: who is named as the one that completed a stage.
        direct: channels whose messages the caller publishes itself right after the commit; their entries are held back
            from :meth:`take` for ``hold``. All of them by default.
        hint_interval: how long a hint may go unanswered before the sweeper sends it again.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        worker_id: str = "test-worker",
        direct: Collection[Channel] = tuple(Channel),
        hold: timedelta = timedelta(seconds=10),
        hint_interval: timedelta = timedelta(seconds=60),
    ) -> None:
        self.clock = clock or Clock()
        self.lock = threading.RLock()
        self.worker_id = worker_id
        self.hint_interval = hint_interval
        self._direct_channels = frozenset(direct)
        self._hold = hold
        self._jobs: dict[str, JobRow] = {}
        self._runs: dict[str, list[JobRow]] = {}
        self._stages: dict[str, dict[int, StageRow]] = {}
        self._tasks: dict[str, TaskRow] = {}
        self._attempts: dict[str, list[AttemptRecord]] = {}
        self._outbox: dict[int, OutboxRow] = {}
        self._open: dict[int, OutboxRow] = {}
        self._due: dict[Channel, list[tuple[datetime, int]]] = {channel: [] for channel in Channel}
        self._numbers = itertools.count(1)
        self._log: list[Operation] = []

    def advance(self, by: timedelta) -> None:
        """Move the store's time forward."""
        self.clock.advance(by)

    def _add_job(self, job: JobRow) -> None:
        self._jobs[job.job_id] = job
        self._runs.setdefault(job.fingerprint, []).append(job)
        self._stages[job.job_id] = {}

    def _add_task(self, stage: StageRow, task: TaskRow) -> None:
        self._tasks[task.task_id] = task
        stage.tasks.append(task)

    def _job_tasks(self, job_id: str) -> Iterable[TaskRow]:
        for stage in self._stages.get(job_id, {}).values():
            yield from stage.tasks

    def _send(
        self,
        channel: Channel,
        message: Message,
        job_id: str,
        task_id: str | None,
        available_at: datetime,
        now: datetime,
    ) -> OutboxRow:
        row = OutboxRow(
            entry_id=next(self._numbers),
            channel=channel,
            message=message,
            job_id=job_id,
            task_id=task_id,
            created_at=now,
            available_at=available_at,
        )
        self._outbox[row.entry_id] = self._open[row.entry_id] = row
        heapq.heappush(self._due[channel], (available_at, row.entry_id))
        return row

    def _hold_for(self, channel: Channel) -> timedelta:
        return self._hold if channel in self._direct_channels else timedelta(0)

    def _send_held(
        self, channel: Channel, message: Message, job_id: str, task_id: str | None, now: datetime
    ) -> OutboxRow:
        return self._send(channel, message, job_id, task_id, now + self._hold_for(channel), now)

    def _hint(self, task: TaskRow, available_at: datetime, now: datetime) -> OutboxRow:
        return self._send(task.runs_on.channel, task.message(), task.job_id, task.task_id, available_at, now)

    def _stage_complete(self, job: JobRow, stage: int, completed_by: str | None, now: datetime) -> StageComplete:
        return StageComplete(
            job_id=job.job_id,
            job_type=job.job_type,
            completed_stage=stage,
            completed_at=now,
            completed_by=completed_by,
            traceparent=job.traceparent,
        )

    def _callback(self, task: TaskRow, available_at: datetime, now: datetime) -> list[OutboxRow]:
        if task.callback_url is None:
            return []
        message = TaskEnded(task_id=task.task_id, parent_job_id=task.job_id, traceparent=task.traceparent)
        return [self._send(Channel.CALLBACKS, message, task.job_id, task.task_id, available_at, now)]

    def _to_publish(self, rows: Iterable[OutboxRow]) -> list[OutboxEntry]:
        return [row.entry() for row in rows if row.channel in self._direct_channels]

    def _held(self, claim: Claim) -> TaskRow | None:
        task = self._tasks.get(claim.task_id)
        if task is None or task.attempt != claim.attempt or task.status is not TaskStatus.PROCESSING:
            return None
        return task

    def _fenced(self, claim: Claim) -> TaskRow:
        task = self._held(claim)
        if task is None:
            raise ClaimLost(claim.task_id, claim.attempt)
        return task

    def _close_attempt(
        self,
        task: TaskRow,
        worker_id: str,
        outcome: AttemptOutcome,
        now: datetime,
        *,
        error: ErrorInfo | None = None,
        reason: str | None = None,
    ) -> None:
        assert task.started_at is not None  # noqa: S101 - a claimed task was started
        self._attempts.setdefault(task.task_id, []).append(
            AttemptRecord(
                task_id=task.task_id,
                attempt=task.attempt,
                worker_id=worker_id,
                outcome=outcome,
                started_at=task.started_at,
                ended_at=now,
                error_details=error,
                reason=clean(reason) if reason is not None else None,
            )
        )

    def _note(self, name: str, now: datetime, **facts: Any) -> None:
        self._log.append(Operation(name, now, facts))
