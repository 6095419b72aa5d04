"""Rows of the state store as frozen values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple

from core.errors import ErrorInfo
from core.messages import Channel, Message
from core.states import JobStatus, TaskStatus


class FailurePolicy(StrEnum):
    """What a task's final failure does to its job."""

    FAIL_FAST = "fail_fast"  # the job fails at once; waiting siblings are cancelled, running ones told to stop
    COLLECT = "collect"  # the stage goes on; the job ends as completed_with_errors


class RunsOn(StrEnum):
    """Where the tasks of a stage run."""

    FUNCTIONS = "functions"
    DOCKER = "docker"

    @property
    def channel(self) -> Channel:
        """The channel that carries this place's tasks."""
        return _CHANNEL_OF[self]


_CHANNEL_OF = {place: Channel(place.value) for place in RunsOn}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSubmission:
    """A validated request for a job. ``fingerprint`` is the SHA-256 of type and canonical parameters.

    ``first_stage`` is planned in the same step; without it a message asks for the plan.
    """

    fingerprint: str
    job_type: str
    parameters: Mapping[str, Any]
    total_stages: int
    failure_policy: FailurePolicy
    rerun: bool = False
    submitted_by: str | None = None
    traceparent: str | None = None
    first_stage: StagePlan | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """One run of a job. ``run`` counts the runs of one fingerprint; ``replay_of`` names the run it continues."""

    job_id: str
    fingerprint: str
    run: int
    job_type: str
    status: JobStatus
    stage: int
    total_stages: int
    parameters: Mapping[str, Any]
    failure_policy: FailurePolicy
    result_data: Mapping[str, Any] | None = None
    error_details: ErrorInfo | None = None
    replay_of: str | None = None
    submitted_by: str | None = None
    traceparent: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRecord:
    """A planned stage and its counters: ``remaining`` tasks have not ended."""

    job_id: str
    stage: int
    name: str
    task_type: str
    runs_on: RunsOn
    total: int
    remaining: int
    failed: int
    created_at: datetime | None = None
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a task is. ``rate`` is units a second, ``eta_seconds`` the seconds left at that rate."""

    percent: float
    message: str = ""
    done: float | None = None
    total: float | None = None
    unit: str | None = None
    rate: float | None = None
    eta_seconds: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {name: getattr(self, name) for name in self.__slots__}


class TaskRecord(NamedTuple):
    """One task. ``attempt`` is the fencing token; ``failures`` count against ``max_attempts``.

    A tuple because one is made for each claim and each listed task: a frozen dataclass of so many fields takes several
    times as long to make.
    """

    task_id: str
    job_id: str
    job_type: str
    task_type: str
    stage: int
    task_index: int
    runs_on: RunsOn
    status: TaskStatus
    parameters: Mapping[str, Any]
    attempt: int = 0
    failures: int = 0
    interruptions: int = 0
    max_attempts: int = 3
    timeout_seconds: float | None = None
    callback_url: str | None = None
    result_data: Mapping[str, Any] | None = None
    error_details: ErrorInfo | None = None
    progress: Progress | None = None
    progress_at: datetime | None = None
    lease_owner: str | None = None
    lease_expires_at: datetime | None = None
    execute_after: datetime | None = None
    checkpoint_phase: int | None = None
    checkpoint_data: Mapping[str, Any] | None = None
    checkpoint_updated_at: datetime | None = None
    traceparent: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None


class AttemptOutcome(StrEnum):
    """How one attempt at a task ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    CANCELLED = "cancelled"
    LEASE_EXPIRED = "lease_expired"  # its worker died or was cut off


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """An ended attempt: the history of a task is these, in order."""

    task_id: str
    attempt: int
    worker_id: str
    outcome: AttemptOutcome
    started_at: datetime
    ended_at: datetime
    error_details: ErrorInfo | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPlan:
    """A task that a stage is planned to have. ``task_index`` follows from its place in the plan."""

    parameters: Mapping[str, Any]
    max_attempts: int | None = None
    timeout_seconds: float | None = None
    callback_url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """A whole stage, ready to be written in one transaction."""

    stage: int
    name: str
    task_type: str
    runs_on: RunsOn
    tasks: Sequence[TaskPlan]
    max_attempts: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """What an ended task leaves to the next stage."""

    task_id: str
    task_index: int
    status: TaskStatus
    result_data: Mapping[str, Any] | None
    error_details: ErrorInfo | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The right to run a task until the lease ends. Every write of this execution carries its task id and attempt."""

    task: TaskRecord
    attempt: int
    worker_id: str
    lease: timedelta

    @property
    def task_id(self) -> str:
        """The claimed task's id."""
        return self.task.task_id

    @property
    def ids(self) -> dict[str, Any]:
        """What names this execution in logs."""
        task = self.task
        return {
            "task_id": task.task_id,
            "job_id": task.job_id,
            "task_type": task.task_type,
            "stage": task.stage,
            "attempt": self.attempt,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class NotClaimed:
    """Why a task could not be claimed; ``known`` is False when the store has no such task."""

    reason: str
    known: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimSignal:
    """What a heartbeat learns: whether the job still wants this task."""

    cancel_requested: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxEntry:
    """A committed message on its way out. ``tries`` counts failed sends."""

    entry_id: int
    channel: Channel
    message: Message
    tries: int = 0
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What a committed change left to say; ``applied`` is False when the guard found it already made or obsolete."""

    applied: bool = True
    last_in_stage: bool = False
    messages: Sequence[OutboxEntry] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a task has saved: completed phases and a cursor within the running phase are kept apart.

    ``phase`` is the highest completed phase (0: none). ``cursor`` belongs to ``phase + 1`` and never makes resume skip
    the rest of it. ``schema_version`` is the writer's; a reader that knows only others starts over.
    """

    phase: int = 0
    data: Mapping[str, Any] = field(default_factory=dict)
    cursor: Mapping[str, Any] | None = None
    artifacts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    schema_version: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class JobQuery:
    """A page of jobs, newest first, after the one named by ``before``."""

    status: JobStatus | None = None
    job_type: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    id_prefix: str | None = None
    before: str | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskQuery:
    """A page of one job's tasks (or of all jobs'), in order of stage and index."""

    job_id: str | None = None
    stage: int | None = None
    status: TaskStatus | None = None
    runs_on: RunsOn | None = None
    offset: int = 0
    limit: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepReport:
    """What one pass of the sweeper did, step by step (counts of rows)."""

    leases_expired: int = 0
    hints_resent: int = 0
    stages_completed: int = 0
    jobs_resent: int = 0
    tasks_cancelled: int = 0
    pruned: int = 0
    refused: int = 0  # rows that could not be changed, for a fault of theirs; each is logged
    messages: Sequence[OutboxEntry] = ()

    @property
    def total(self) -> int:
        """Rows changed in all."""
        return self.leases_expired + self.hints_resent + self.stages_completed + self.jobs_resent + self.tasks_cancelled
