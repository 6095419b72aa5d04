"""Rows to records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from core.errors import ErrorInfo
from core.messages import Channel, from_document
from core.records import (
    AttemptOutcome,
    AttemptRecord,
    FailurePolicy,
    JobRecord,
    OutboxEntry,
    Progress,
    RunsOn,
    StageRecord,
    TaskRecord,
    TaskResult,
)
from core.states import JobStatus, TaskStatus

Row = Mapping[str, Any]


def _error(data: Mapping[str, Any] | None) -> ErrorInfo | None:
    return ErrorInfo.from_dict(data) if data is not None else None


def job(row: Row) -> JobRecord:
    """A row of ``app.jobs``."""
    return JobRecord(
        job_id=row["job_id"],
        fingerprint=row["fingerprint"],
        run=row["run"],
        job_type=row["job_type"],
        status=JobStatus(row["status"]),
        stage=row["stage"],
        total_stages=row["total_stages"],
        parameters=row["parameters"],
        failure_policy=FailurePolicy(row["failure_policy"]),
        result_data=row["result_data"],
        error_details=_error(row["error_details"]),
        replay_of=row["replay_of"],
        submitted_by=row["submitted_by"],
        traceparent=row["traceparent"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
    )


def stage(row: Row) -> StageRecord:
    """A row of ``app.stages``."""
    return StageRecord(
        job_id=row["job_id"],
        stage=row["stage"],
        name=row["name"],
        task_type=row["task_type"],
        runs_on=RunsOn(row["runs_on"]),
        total=row["total"],
        remaining=row["remaining"],
        failed=row["failed"],
        created_at=row["created_at"],
        finished_at=row["finished_at"],
    )


def task(row: Row) -> TaskRecord:
    """A row of ``app.tasks``."""
    return TaskRecord(
        task_id=row["task_id"],
        job_id=row["job_id"],
        job_type=row["job_type"],
        task_type=row["task_type"],
        stage=row["stage"],
        task_index=row["task_index"],
        runs_on=RunsOn(row["runs_on"]),
        status=TaskStatus(row["status"]),
        parameters=row["parameters"],
        attempt=row["attempt"],
        failures=row["failures"],
        interruptions=row["interruptions"],
        max_attempts=row["max_attempts"],
        timeout_seconds=row["timeout_seconds"],
        callback_url=row["callback_url"],
        result_data=row["result_data"],
        error_details=_error(row["error_details"]),
        progress=Progress(**row["progress"]) if row["progress"] is not None else None,
        progress_at=row["progress_at"],
        lease_owner=row["lease_owner"],
        lease_expires_at=row["lease_expires_at"],
        execute_after=row["execute_after"],
        checkpoint_phase=row["checkpoint_phase"],
        checkpoint_data=row["checkpoint_data"],
        checkpoint_updated_at=row["checkpoint_updated_at"],
        traceparent=row["traceparent"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
    )


def task_result(row: Row) -> TaskResult:
    """An ended task as the next stage sees it."""
    return TaskResult(
        task_id=row["task_id"],
        task_index=row["task_index"],
        status=TaskStatus(row["status"]),
        result_data=row["result_data"],
        error_details=_error(row["error_details"]),
    )


def attempt(row: Row) -> AttemptRecord:
    """A row of ``app.task_attempts``."""
    return AttemptRecord(
        task_id=row["task_id"],
        attempt=row["attempt"],
        worker_id=row["worker_id"],
        outcome=AttemptOutcome(row["outcome"]),
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        error_details=_error(row["error_details"]),
        reason=row["reason"],
    )


def outbox_entries(rows: Iterable[Row]) -> tuple[OutboxEntry, ...]:
    """Rows with the columns of ``app.outbox``; rows without an entry (outer joins) are left out."""
    return tuple(
        OutboxEntry(
            entry_id=row["entry_id"],
            channel=Channel(row["channel"]),
            message=from_document(row["message"]),
            tries=row.get("tries", 0),
            created_at=row.get("entry_created_at", row["created_at"]),
        )
        for row in rows
        if row["entry_id"] is not None
    )
