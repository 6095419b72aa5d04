"""MockStateManager: the whole state store in memory, with helpers to fill it and to look into it."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any

from core.errors import Conflict, JobNotFound
from core.jobs import job_fingerprint
from core.messages import Channel
from core.records import FailurePolicy, JobRecord, RunsOn, TaskRecord
from core.retry import Backoff
from core.states import JobStatus, TaskStatus
from testing.clock import Clock
from testing.memory.checkpoints import CheckpointStatements
from testing.memory.outbox import OutboxStatements
from testing.memory.replay import ReplayStatements
from testing.memory.rows import JobRow, OutboxRow, StageRow, TaskRow, stored
from testing.memory.sweep import SweepStatements
from testing.memory.tables import atomic


class MockStateManager(SweepStatements, ReplayStatements, OutboxStatements, CheckpointStatements):
    """The StateStore, CheckpointStore, OutboxStore and SweepStore ports in memory. Thread-safe.

    It passes the same contract tests as the PostgreSQL adapter: the same statements, guards, fencing and transitions.

    Args:
        clock: the store's time; :meth:`advance` moves it.
        worker_id: who is named as the one that completed a stage.
        direct: channels whose messages the caller publishes itself right after each commit; all by default.
        hold: for how long those are held back from :meth:`take`.
        hint_interval: how long a hint may go unanswered before a sweep sends it again.
        backoff: the delay before a task runs again whose lease has run out.
        keep_sent: how long sent messages stay in the outbox.
        seed: of the jitter.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        worker_id: str = "test-worker",
        direct: Collection[Channel] = tuple(Channel),
        hold: timedelta = timedelta(seconds=10),
        hint_interval: timedelta = timedelta(seconds=60),
        backoff: Backoff | None = None,
        keep_sent: timedelta = timedelta(days=7),
        seed: int = 0,
    ) -> None:
        super().__init__(clock=clock, worker_id=worker_id, direct=direct, hold=hold, hint_interval=hint_interval)
        self.backoff = backoff or Backoff()
        self.keep_sent = keep_sent
        self.rng = random.Random(seed)  # noqa: S311 - jitter

    @atomic
    def create_test_job(
        self,
        job_id: str,
        job_type: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        total_stages: int = 1,
        failure_policy: FailurePolicy = FailurePolicy.FAIL_FAST,
    ) -> JobRecord:
        """Add a job under an id of the test's choice. It has no stage until a task is added; no message is sent.

        Raises:
            Conflict: when a job has that id.
        """
        if job_id in self._jobs:
            raise Conflict(f"there is already a job {job_id!r}")
        now = self.clock.now()
        job = JobRow(
            job_id=job_id,
            fingerprint=job_fingerprint(job_type, {"test_job": job_id, **(parameters or {})}),
            run=1,
            job_type=job_type,
            status=JobStatus.QUEUED,
            stage=0,
            total_stages=total_stages,
            parameters=stored(parameters or {}),
            failure_policy=failure_policy,
            created_at=now,
            updated_at=now,
            next_hint_at=now + self.hint_interval,
        )
        self._add_job(job)
        self._note("create_job", now, job_id=job_id, job_type=job_type)
        return job.record()

    @atomic
    def create_test_task(
        self,
        task_id: str,
        job_id: str,
        task_type: str,
        stage: int = 1,
        parameters: Mapping[str, Any] | None = None,
        *,
        runs_on: RunsOn = RunsOn.DOCKER,
        max_attempts: int = 3,
        timeout_seconds: float | None = None,
        callback_url: str | None = None,
    ) -> TaskRecord:
        """Add a task, ready to be claimed, to a job's stage; the job is then processing that stage. No message is sent.

        Raises:
            JobNotFound: when there is no such job.
            Conflict: when a task has that id, or the job has ended.
        """
        job = self._jobs.get(job_id)
        if job is None:
            raise JobNotFound(job_id)
        if task_id in self._tasks:
            raise Conflict(f"there is already a task {task_id!r}")
        if not job.active:
            raise Conflict(f"job {job_id} is {job.status} and takes no more tasks")
        now = self.clock.now()
        row = self._open_stage(job, stage, task_type, runs_on)
        row.total += 1
        row.remaining += 1
        row.finished_at = None
        task = TaskRow(
            task_id=task_id,
            job_id=job_id,
            job_type=job.job_type,
            task_type=task_type,
            stage=stage,
            task_index=len(row.tasks),
            runs_on=runs_on,
            status=TaskStatus.QUEUED,
            parameters=stored(parameters or {}),
            max_attempts=max_attempts,
            timeout_seconds=timeout_seconds,
            callback_url=callback_url,
            created_at=now,
            updated_at=now,
            next_hint_at=now + self.hint_interval,
        )
        self._add_task(row, task)
        self._note("create_task", now, task_id=task_id, job_id=job_id, task_type=task_type)
        return task.record()

    def _open_stage(self, job: JobRow, number: int, task_type: str, runs_on: RunsOn) -> StageRow:
        now = self.clock.now()
        job.become(JobStatus.PROCESSING)
        job.stage, job.started_at, job.updated_at = number, job.started_at or now, now
        job.total_stages = max(job.total_stages, number)
        return self._stages[job.job_id].setdefault(
            number,
            StageRow(
                job_id=job.job_id,
                stage=number,
                name=task_type,
                task_type=task_type,
                runs_on=runs_on,
                total=0,
                remaining=0,
                created_at=now,
            ),
        )

    def require_job(self, job_id: str) -> JobRecord:
        """The job of that id.

        Raises:
            JobNotFound: when there is none.
        """
        job = self.get_job(job_id)
        if job is None:
            raise JobNotFound(job_id)
        return job

    @atomic
    def get_state_snapshot(self) -> dict[str, Any]:
        """All jobs, tasks and counters of stages as plain, JSON-ready values; statuses in capitals.

        ``{"jobs": {job_id: {...}}, "tasks": {task_id: {...}}, "stage_stats": {job_id: {"1": {"total", "completed",
        "failed"}}}}``
        """
        return {
            "jobs": {job.job_id: _job_view(job) for job in self._jobs.values()},
            "tasks": {task.task_id: _task_view(task) for task in self._tasks.values()},
            "stage_stats": {
                job_id: {str(number): _stage_view(stage) for number, stage in sorted(stages.items())}
                for job_id, stages in self._stages.items()
            },
        }

    @atomic
    def get_outbox(self) -> list[dict[str, Any]]:
        """Every message written so far, in order, sent or not: ``{"entry_id", "channel", "message", "state", "tries",
        "last_error"}``; ``state`` is ``waiting``, ``sent`` or ``given_up``."""
        return [
            {
                "entry_id": row.entry_id,
                "channel": str(row.channel),
                "message": row.message,
                "state": _outbox_state(row),
                "tries": row.tries,
                "last_error": row.last_error,
            }
            for row in self._outbox.values()
        ]

    @atomic
    def get_operation_log(self) -> list[dict[str, Any]]:
        """Every committed change in order: ``{"operation": "create_job", "job_id": ..., "timestamp": ...}``."""
        return [
            {"operation": name, **dict(zip(names, facts, strict=True)), "timestamp": at.isoformat()}
            for name, at, names, *facts in self._log
        ]


def _outbox_state(row: OutboxRow) -> str:
    if row.sent_at is not None:
        return "sent"
    return "waiting" if row.given_up_at is None else "given_up"


def _job_view(job: JobRow) -> dict[str, Any]:
    return {
        "job_type": job.job_type,
        "status": job.status.upper(),
        "current_stage": job.stage,
        "total_stages": job.total_stages,
        "parameters": job.parameters,
        "result_data": job.result_data,
        "error_details": job.error_details.as_dict() if job.error_details is not None else None,
    }


def _task_view(task: TaskRow) -> dict[str, Any]:
    return {
        "job_id": task.job_id,
        "task_type": task.task_type,
        "status": task.status.upper(),
        "stage": task.stage,
        "task_index": task.task_index,
        "parameters": task.parameters,
        "attempt": task.attempt,
        "failures": task.failures,
        "interruptions": task.interruptions,
        "result_data": task.result_data,
        "error_details": task.error_details.as_dict() if task.error_details is not None else None,
        "checkpoint_phase": task.checkpoint_phase,
        "checkpoint_data": task.checkpoint_data,
        "progress": task.progress.as_dict() if task.progress is not None else None,
    }


def _stage_view(stage: StageRow) -> dict[str, int]:
    completed = sum(task.status is TaskStatus.COMPLETED for task in stage.tasks)
    return {"total": stage.total, "completed": completed, "failed": stage.failed}
