"""Mutable rows, as records and messages see them."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, Final, cast

from core.errors import ErrorInfo
from core.messages import Channel, JobMessage, Message, TaskMessage
from core.records import (
    Checkpoint,
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
from infrastructure.json_text import dumps, is_simple, loads

ACTIVE_JOB_STATUSES: Final = frozenset({JobStatus.QUEUED, JobStatus.PROCESSING})


def stored(value: Mapping[str, Any]) -> dict[str, Any]:
    """``value`` as it comes back from the database: through JSON."""
    copy = dict(value)
    return copy if is_simple(copy) else cast("dict[str, Any]", loads(dumps(copy)))


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
        return TaskRecord._make(_task_fields(self))

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


_task_fields = operator.attrgetter(*TaskRecord._fields)
_JOB_FIELDS = tuple(one.name for one in fields(JobRecord))
_STAGE_FIELDS = tuple(one.name for one in fields(StageRecord))
