"""Running an ended job again (``infrastructure/postgres/sql/replay.sql``)."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from core.errors import Conflict, JobNotFound
from core.jobs import job_run_id, task_id
from core.records import Commit, JobRecord
from core.states import TERMINAL_JOB_STATUSES, JobStatus, TaskStatus
from testing.memory.rows import JobRow, StageRow, TaskRow
from testing.memory.tables import Tables, atomic


class ReplayStatements(Tables):
    """The part of the StateStore port that is about replays."""

    @atomic
    def replay_job(
        self, job_id: str, *, from_stage: int | None = None, submitted_by: str | None = None
    ) -> tuple[JobRecord, Commit]:
        old = self._jobs.get(job_id)
        if old is None:
            raise JobNotFound(job_id)
        kept = self._stages_to_keep(old, from_stage)
        now = self.clock.now()
        run = old.run + 1
        new = JobRow(
            job_id=job_run_id(old.fingerprint, run),
            fingerprint=old.fingerprint,
            run=run,
            job_type=old.job_type,
            status=JobStatus.QUEUED if kept == 0 else JobStatus.PROCESSING,
            stage=kept,
            total_stages=old.total_stages,
            parameters=old.parameters,
            failure_policy=old.failure_policy,
            replay_of=job_id,
            submitted_by=submitted_by,
            traceparent=old.traceparent,
            created_at=now,
            updated_at=now,
            started_at=now if kept else None,
            next_hint_at=now + self.hint_interval,
        )
        self._add_job(new)
        self._note("replay_job", now, job_id=new.job_id, replay_of=job_id)
        for number in range(1, kept + 1):
            stage = self._stages[job_id].get(number)
            if stage is not None:
                self._carry_stage(stage, new, from_stage is None, now)
        self._hint_replay(new, now)
        return new.record(), Commit()

    def _stages_to_keep(self, old: JobRow, from_stage: int | None) -> int:
        latest = self._runs[old.fingerprint][-1]
        if latest is not old:
            raise Conflict(f"job {old.job_id} was already followed by run {latest.job_id}; retry that one")
        if old.status not in TERMINAL_JOB_STATUSES:
            raise Conflict(f"job {old.job_id} is {old.status}; only an ended job can be run again")
        if from_stage is None:
            if old.status is JobStatus.COMPLETED:
                raise Conflict(f"job {old.job_id} is completed and has no failed task to run again")
            unfinished = [task.stage for task in self._job_tasks(old.job_id) if task.status is not TaskStatus.COMPLETED]
            return min(unfinished, default=old.stage)
        if 1 <= from_stage <= max(old.stage, 1):
            return from_stage - 1
        raise Conflict(f"job {old.job_id} reached stage {old.stage}; it cannot be run again from stage {from_stage}")

    def _carry_stage(self, old: StageRow, job: JobRow, redo: bool, now: datetime) -> None:
        stage = StageRow(
            job_id=job.job_id,
            stage=old.stage,
            name=old.name,
            task_type=old.task_type,
            runs_on=old.runs_on,
            total=old.total,
            remaining=0,
            failed=0 if redo else old.failed,
            created_at=now,
        )
        self._stages[job.job_id][old.stage] = stage
        for task in old.tasks:
            self._add_task(stage, _carried(task, job.job_id, redo, now, now + self.hint_interval))
        stage.remaining = sum(task.status is TaskStatus.PENDING for task in stage.tasks)
        stage.finished_at = None if stage.remaining else old.finished_at or now

    def _hint_replay(self, job: JobRow, now: datetime) -> None:
        waiting = [task for task in self._job_tasks(job.job_id) if task.status is TaskStatus.PENDING]
        for task in waiting:
            self._hint(task, now, now)
        if not waiting:
            message = job.message() if job.stage == 0 else self._stage_complete(job, job.stage, None, now)
            self._send_job_message(job, message, now, held=False)


def _carried(task: TaskRow, job_id: str, redo: bool, now: datetime, next_hint_at: datetime) -> TaskRow:
    """A completed task (and every task of a stage that is not done again) as it is; else a fresh one, at its
    checkpoint."""
    keep = task.status is TaskStatus.COMPLETED or not redo
    fresh = TaskRow(
        task_id=task_id(job_id, task.stage, task.task_index),
        job_id=job_id,
        job_type=task.job_type,
        task_type=task.task_type,
        stage=task.stage,
        task_index=task.task_index,
        runs_on=task.runs_on,
        parameters=task.parameters,
        max_attempts=task.max_attempts,
        timeout_seconds=task.timeout_seconds,
        callback_url=task.callback_url,
        traceparent=task.traceparent,
        checkpoint=task.checkpoint,
        checkpoint_updated_at=task.checkpoint_updated_at,
        created_at=now,
        updated_at=now,
        next_hint_at=next_hint_at,
    )
    if not keep:
        fresh.items = {phase: dict(items) for phase, items in task.items.items()}
        return fresh
    return replace(
        fresh,
        status=task.status,
        attempt=task.attempt,
        failures=task.failures,
        interruptions=task.interruptions,
        result_data=task.result_data,
        error_details=task.error_details,
        progress=task.progress,
        progress_at=task.progress_at,
        started_at=task.started_at,
        finished_at=task.finished_at,
    )
