"""Records as JSON-ready views: what the API, the command line and the dashboard show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from core.ports import StateStore
from core.records import AttemptRecord, JobRecord, StageRecord, TaskQuery, TaskRecord
from core.states import TERMINAL_JOB_STATUSES, TaskStatus

_ENDED = (TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED)
_SHOWN_ERRORS = 20


def job_view(job: JobRecord) -> dict[str, Any]:
    """A job without its stages."""
    return {
        "job_id": job.job_id,
        "job_type": job.job_type,
        "status": job.status,
        "stage": job.stage,
        "total_stages": job.total_stages,
        "run": job.run,
        "replay_of": job.replay_of,
        "parameters": dict(job.parameters),
        "failure_policy": job.failure_policy,
        "result": dict(job.result_data) if job.result_data is not None else None,
        "error": job.error_details.as_dict() if job.error_details is not None else None,
        "submitted_by": job.submitted_by,
        "created_at": _iso(job.created_at),
        "started_at": _iso(job.started_at),
        "finished_at": _iso(job.finished_at),
        "updated_at": _iso(job.updated_at),
    }


def stage_view(stage: StageRecord, counts: Mapping[str, int]) -> dict[str, Any]:
    """A stage with its tasks counted by status."""
    ended = sum(counts.get(status, 0) for status in _ENDED)
    return {
        "stage": stage.stage,
        "name": stage.name,
        "task_type": stage.task_type,
        "runs_on": stage.runs_on,
        "total": stage.total,
        "ended": ended,
        "failed": counts.get(TaskStatus.FAILED, 0),
        "tasks": dict(counts),
        "percent": 100.0 if stage.total == 0 else round(100.0 * ended / stage.total, 2),
        "started_at": _iso(stage.created_at),
        "finished_at": _iso(stage.finished_at),
        "seconds": _seconds(stage.created_at, stage.finished_at),
    }


def task_view(task: TaskRecord) -> dict[str, Any]:
    """A task with its progress, result and error."""
    return {
        "task_id": task.task_id,
        "job_id": task.job_id,
        "job_type": task.job_type,
        "task_type": task.task_type,
        "stage": task.stage,
        "task_index": task.task_index,
        "runs_on": task.runs_on,
        "status": task.status,
        "attempt": task.attempt,
        "failures": task.failures,
        "interruptions": task.interruptions,
        "max_attempts": task.max_attempts,
        "parameters": dict(task.parameters),
        "progress": task.progress.as_dict() if task.progress is not None else None,
        "result": dict(task.result_data) if task.result_data is not None else None,
        "error": task.error_details.as_dict() if task.error_details is not None else None,
        "worker": task.lease_owner,
        "lease_expires_at": _iso(task.lease_expires_at),
        "execute_after": _iso(task.execute_after),
        "checkpoint_phase": task.checkpoint_phase,
        "checkpoint_updated_at": _iso(task.checkpoint_updated_at),
        "created_at": _iso(task.created_at),
        "started_at": _iso(task.started_at),
        "finished_at": _iso(task.finished_at),
    }


def attempt_view(attempt: AttemptRecord) -> dict[str, Any]:
    """One ended attempt."""
    return {
        "attempt": attempt.attempt,
        "worker": attempt.worker_id,
        "outcome": attempt.outcome,
        "started_at": _iso(attempt.started_at),
        "ended_at": _iso(attempt.ended_at),
        "reason": attempt.reason,
        "error": attempt.error_details.as_dict() if attempt.error_details is not None else None,
    }


def job_status_view(store: StateStore, job: JobRecord) -> dict[str, Any]:
    """A job with its stages, the tasks that run now, and the errors so far."""
    counts = store.count_tasks(job.job_id)
    stages = [stage_view(stage, counts.get(stage.stage, {})) for stage in store.list_stages(job.job_id)]
    running = store.list_tasks(TaskQuery(job_id=job.job_id, status=TaskStatus.PROCESSING, limit=_SHOWN_ERRORS))
    failed = store.list_tasks(TaskQuery(job_id=job.job_id, status=TaskStatus.FAILED, limit=_SHOWN_ERRORS))
    return {
        **job_view(job),
        "percent": _percent(job, stages, running),
        "stages": stages,
        "running": [task_view(task) for task in running],
        "errors": [
            {
                "task_id": task.task_id,
                "stage": task.stage,
                "task_index": task.task_index,
                **task.error_details.as_dict(),
            }
            for task in failed
            if task.error_details is not None
        ],
        "seconds": _seconds(job.created_at, job.finished_at),
    }


def _percent(job: JobRecord, stages: Sequence[Mapping[str, Any]], running: Sequence[TaskRecord]) -> float:
    if job.status in TERMINAL_JOB_STATUSES and job.error_details is None:
        return 100.0
    done = 0.0
    for stage in stages:
        if stage["total"] == 0:
            done += 1.0
            continue
        partial = sum(
            task.progress.percent / 100
            for task in running
            if task.stage == stage["stage"] and task.progress is not None
        )
        done += min(1.0, (stage["ended"] + partial) / stage["total"])
    return round(100.0 * done / max(1, job.total_stages), 2)


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment is not None else None


def _seconds(start: datetime | None, end: datetime | None) -> float | None:
    return round((end - start).total_seconds(), 3) if start is not None and end is not None else None
