"""The statuses of jobs and tasks and their legal transitions, as data.

One table feeds everything: :func:`check_job` and :func:`check_task` here, the triggers that PostgreSQL enforces
(written from :data:`JOB_TRANSITIONS` and :data:`TASK_TRANSITIONS` at migration), and the diagram in the documentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from core.errors import IllegalTransition


class JobStatus(StrEnum):
    """Where a job is in its life."""

    QUEUED = "queued"  # accepted; its first stage is not planned yet
    PROCESSING = "processing"  # a stage is planned
    COMPLETED = "completed"
    COMPLETED_WITH_ERRORS = "completed_with_errors"  # policy "collect": ended, and some tasks failed
    FAILED = "failed"
    CANCELLED = "cancelled"


class TaskStatus(StrEnum):
    """Where a task is in its life."""

    PENDING = "pending"  # planned; no transport holds a hint of it yet
    QUEUED = "queued"  # a transport holds a hint of it, or it waits for a retry
    PROCESSING = "processing"  # claimed by one attempt that holds a lease
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


JOB_TRANSITIONS: Mapping[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.PROCESSING, JobStatus.FAILED, JobStatus.CANCELLED}),
    JobStatus.PROCESSING: frozenset(
        {JobStatus.COMPLETED, JobStatus.COMPLETED_WITH_ERRORS, JobStatus.FAILED, JobStatus.CANCELLED}
    ),
    JobStatus.COMPLETED: frozenset(),
    JobStatus.COMPLETED_WITH_ERRORS: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}

TASK_TRANSITIONS: Mapping[TaskStatus, frozenset[TaskStatus]] = {
    TaskStatus.PENDING: frozenset({TaskStatus.QUEUED, TaskStatus.PROCESSING, TaskStatus.FAILED, TaskStatus.CANCELLED}),
    TaskStatus.QUEUED: frozenset({TaskStatus.PROCESSING, TaskStatus.FAILED, TaskStatus.CANCELLED}),
    TaskStatus.PROCESSING: frozenset(
        {TaskStatus.QUEUED, TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED}
    ),
    TaskStatus.COMPLETED: frozenset(),
    TaskStatus.FAILED: frozenset(),
    TaskStatus.CANCELLED: frozenset(),
}

TERMINAL_JOB_STATUSES = frozenset(status for status, following in JOB_TRANSITIONS.items() if not following)
TERMINAL_TASK_STATUSES = frozenset(status for status, following in TASK_TRANSITIONS.items() if not following)
WAITING_TASK_STATUSES = frozenset({TaskStatus.PENDING, TaskStatus.QUEUED})


def check_job(before: JobStatus, after: JobStatus) -> None:
    """Raise :class:`IllegalTransition` unless a job may go from ``before`` to ``after``."""
    if after not in JOB_TRANSITIONS[before]:
        raise IllegalTransition(f"a job cannot go from {before} to {after}")


def check_task(before: TaskStatus, after: TaskStatus) -> None:
    """Raise :class:`IllegalTransition` unless a task may go from ``before`` to ``after``."""
    if after not in TASK_TRANSITIONS[before]:
        raise IllegalTransition(f"a task cannot go from {before} to {after}")


def mermaid() -> str:
    """Both tables as Mermaid state diagrams (for the documentation; a test keeps the page equal to this)."""
    blocks = []
    tables: list[tuple[str, Mapping[str, frozenset[str]]]] = [
        ("job", {str(k): frozenset(map(str, v)) for k, v in JOB_TRANSITIONS.items()}),
        ("task", {str(k): frozenset(map(str, v)) for k, v in TASK_TRANSITIONS.items()}),
    ]
    for name, table in tables:
        lines = ["stateDiagram-v2", f"  [*] --> {next(iter(table))} : {name}"]
        for before, following in table.items():
            lines += [f"  {before} --> {after}" for after in sorted(following)] or [f"  {before} --> [*]"]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)
