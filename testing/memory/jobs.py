"""Statements on jobs and stages (``infrastructure/postgres/sql/jobs.sql``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from core.errors import ErrorInfo
from core.jobs import job_run_id, task_id
from core.records import Commit, JobQuery, JobRecord, JobSubmission, StagePlan, StageRecord, TaskResult
from core.states import TERMINAL_TASK_STATUSES, JobStatus, TaskStatus
from testing.memory.rows import JobRow, StageRow, TaskRow, stored, stored_error
from testing.memory.tables import Tables, atomic

MAX_DIRECT_ENTRIES = 2_000  # a larger fan-out is left to the relay's batches


class JobStatements(Tables):
    """The part of the StateStore port that is about jobs."""

    @atomic
    def submit_job(self, submission: JobSubmission) -> tuple[JobRecord, Commit]:
        runs = self._runs.get(submission.fingerprint, [])
        if runs and not (submission.rerun and not runs[-1].active):
            return runs[-1].record(), Commit(applied=False)
        first = submission.first_stage
        given = _parameters(first) if first is not None else []
        now = self.clock.now()
        run = len(runs) + 1
        job = JobRow(
            job_id=job_run_id(submission.fingerprint, run),
            fingerprint=submission.fingerprint,
            run=run,
            job_type=submission.job_type,
            status=JobStatus.QUEUED,
            stage=0,
            total_stages=submission.total_stages,
            parameters=stored(submission.parameters),
            failure_policy=submission.failure_policy,
            submitted_by=submission.submitted_by,
            traceparent=submission.traceparent,
            created_at=now,
            updated_at=now,
            next_hint_at=now + self.hint_interval,
        )
        self._add_job(job)
        self._note("create_job", now, job_id=job.job_id, job_type=job.job_type)
        if first is not None:
            messages = self._planned(job, first, given, now)
        else:
            messages = self._to_publish([self._send_job_message(job, job.message(), now, held=True)])
        return job.record(), Commit(messages=messages)

    @atomic
    def get_job(self, job_id: str) -> JobRecord | None:
        job = self._jobs.get(job_id)
        return job.record() if job is not None else None

    @atomic
    def list_jobs(self, query: JobQuery) -> Sequence[JobRecord]:
        before = self._jobs.get(query.before) if query.before is not None else None
        if query.before is not None and before is None:
            return []

        def fits(job: JobRow) -> bool:
            return (
                (query.status is None or job.status == query.status)
                and (query.job_type is None or job.job_type == query.job_type)
                and (query.created_after is None or job.created_at >= query.created_after)
                and (query.created_before is None or job.created_at < query.created_before)
                and (query.id_prefix is None or job.job_id.startswith(query.id_prefix))
                and (before is None or _age(job) < _age(before))
            )

        found = sorted(filter(fits, self._jobs.values()), key=_age, reverse=True)
        return [job.record() for job in found[: query.limit]]

    @atomic
    def list_stages(self, job_id: str) -> Sequence[StageRecord]:
        return [stage.record() for _, stage in sorted(self._stages.get(job_id, {}).items())]

    @atomic
    def plan_stage(self, job_id: str, plan: StagePlan) -> Commit:
        given = _parameters(plan)
        job = self._jobs.get(job_id)
        if job is None or not self._may_plan(job, plan.stage):
            return Commit(applied=False)
        return Commit(messages=self._planned(job, plan, given, self.clock.now()))

    def _planned(self, job: JobRow, plan: StagePlan, parameters: Sequence[Any], now: datetime) -> list[Any]:
        job.become(JobStatus.PROCESSING)
        job.stage, job.started_at, job.updated_at = plan.stage, job.started_at or now, now
        job.hints, job.next_hint_at = 0, now + self.hint_interval
        stage = StageRow(
            job_id=job.job_id,
            stage=plan.stage,
            name=plan.name,
            task_type=plan.task_type,
            runs_on=plan.runs_on,
            total=len(plan.tasks),
            remaining=len(plan.tasks),
            created_at=now,
            finished_at=None if plan.tasks else now,
        )
        self._stages[job.job_id][plan.stage] = stage
        self._note("plan_stage", now, job_id=job.job_id, stage=plan.stage, tasks=len(plan.tasks))
        next_hint_at = now + self.hint_interval
        for index, (task, given) in enumerate(zip(plan.tasks, parameters, strict=True)):
            row = TaskRow(
                task_id=task_id(job.job_id, plan.stage, index),
                job_id=job.job_id,
                job_type=job.job_type,
                task_type=plan.task_type,
                stage=plan.stage,
                task_index=index,
                runs_on=plan.runs_on,
                parameters=given,
                max_attempts=task.max_attempts or plan.max_attempts,
                timeout_seconds=task.timeout_seconds,
                callback_url=task.callback_url,
                traceparent=job.traceparent,
                created_at=now,
                updated_at=now,
                next_hint_at=next_hint_at,
            )
            self._add_task(stage, row)
            self._note("create_task", now, task_id=row.task_id, job_id=job.job_id, task_type=row.task_type)
        return self._plan_messages(job, stage, now)

    def _plan_messages(self, job: JobRow, stage: StageRow, now: datetime) -> list[Any]:
        if not stage.tasks:
            message = self._stage_complete(job, stage.stage, self.worker_id, now)
            return self._to_publish([self._send_job_message(job, message, now, held=True)])
        direct = len(stage.tasks) <= MAX_DIRECT_ENTRIES
        hold = self._hold_for(stage.runs_on.channel) if direct else timedelta(0)
        sent = [self._hint(task, now + hold, now) for task in stage.tasks]
        return self._to_publish(sent) if direct else []

    def _may_plan(self, job: JobRow, number: int) -> bool:
        if number == 1:
            return job.status is JobStatus.QUEUED and job.stage == 0
        previous = self._stages[job.job_id].get(number - 1)
        return (
            job.status is JobStatus.PROCESSING
            and job.stage == number - 1
            and previous is not None
            and previous.remaining == 0
        )

    @atomic
    def stage_results(self, job_id: str, stage: int) -> Sequence[TaskResult]:
        row = self._stages.get(job_id, {}).get(stage)
        return [task.result() for task in row.tasks if task.status in TERMINAL_TASK_STATUSES] if row else []

    @atomic
    def finish_job(self, job_id: str, *, stage: int, status: JobStatus, result: Mapping[str, Any]) -> Commit:
        kept = stored(result)
        job = self._jobs.get(job_id)
        if job is None or job.status is not JobStatus.PROCESSING or not job.stage == stage == job.total_stages:
            return Commit(applied=False)
        row = self._stages[job_id].get(stage)
        if row is None or row.remaining:
            return Commit(applied=False)
        now = self.clock.now()
        job.become(status)
        job.result_data, job.finished_at, job.updated_at = kept, now, now
        self._note("finish_job", now, job_id=job_id, status=str(status))
        return Commit()

    @atomic
    def fail_job(self, job_id: str, error: ErrorInfo) -> Commit:
        return self._end_early(job_id, JobStatus.FAILED, error)

    @atomic
    def cancel_job(self, job_id: str, *, reason: str) -> Commit:
        return self._end_early(
            job_id, JobStatus.CANCELLED, ErrorInfo(type="JobCancelled", message=reason, retryable=False)
        )

    def _end_early(self, job_id: str, status: JobStatus, error: ErrorInfo) -> Commit:
        job = self._jobs.get(job_id)
        if job is None or not job.active:
            return Commit(applied=False)
        now = self.clock.now()
        job.become(status)
        job.error_details, job.finished_at, job.updated_at = stored_error(error), now, now
        self._note("end_job", now, job_id=job_id, status=str(status))
        for task in self._job_tasks(job_id):
            if task.waiting:
                self._cancel_waiting(task, stored_error(error), now)
                self._callback(task, now, now)
        return Commit()

    def _cancel_waiting(self, task: TaskRow, error: ErrorInfo, now: datetime) -> None:
        task.become(TaskStatus.CANCELLED)
        task.error_details, task.execute_after, task.finished_at, task.updated_at = error, None, now, now
        self._stages[task.job_id][task.stage].remaining -= 1
        self._note("cancel_task", now, task_id=task.task_id, job_id=task.job_id)


def _parameters(plan: StagePlan) -> list[Any]:
    return [stored(task.parameters) for task in plan.tasks]


def _age(job: JobRow) -> tuple[datetime, str]:
    return job.created_at, job.job_id
