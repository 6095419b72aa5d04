"""Statements on tasks (``infrastructure/postgres/sql/tasks.sql``)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from core.errors import ClaimLost, ErrorInfo
from core.messages import Channel
from core.records import (
    AttemptOutcome,
    AttemptRecord,
    Claim,
    ClaimSignal,
    Commit,
    FailurePolicy,
    NotClaimed,
    TaskQuery,
    TaskRecord,
)
from core.states import JobStatus, TaskStatus
from testing.memory.jobs import JobStatements
from testing.memory.rows import OutboxRow, TaskRow, stored, stored_error
from testing.memory.tables import atomic


class TaskStatements(JobStatements):
    """The part of the StateStore port that is about tasks."""

    @atomic
    def get_task(self, task_id: str) -> TaskRecord | None:
        task = self._tasks.get(task_id)
        return task.record() if task is not None else None

    @atomic
    def list_tasks(self, query: TaskQuery) -> Sequence[TaskRecord]:
        job_ids = sorted(self._jobs) if query.job_id is None else [query.job_id]
        found = (
            task
            for job_id in job_ids
            for task in self._job_tasks(job_id)
            if (query.stage is None or task.stage == query.stage)
            and (query.status is None or task.status == query.status)
            and (query.runs_on is None or task.runs_on == query.runs_on)
        )
        return [task.record() for task in itertools.islice(found, query.offset, query.offset + query.limit)]

    @atomic
    def count_tasks(self, job_id: str) -> Mapping[int, Mapping[str, int]]:
        counts: dict[int, dict[str, int]] = {}
        for task in self._job_tasks(job_id):
            of_stage = counts.setdefault(task.stage, {})
            of_stage[task.status] = of_stage.get(task.status, 0) + 1
        return counts

    @atomic
    def list_attempts(self, task_id: str) -> Sequence[AttemptRecord]:
        task = self._tasks.get(task_id)
        numbers = range(1, task.attempt + 1) if task is not None else ()
        return [self._attempts[task_id, number] for number in numbers if (task_id, number) in self._attempts]

    @atomic
    def claim_task(self, task_id: str, *, worker_id: str, lease: timedelta) -> Claim | NotClaimed:
        task = self._tasks.get(task_id)
        if task is None:
            return NotClaimed(reason="no such task", known=False)
        now = self.clock.now()
        refusal = self._why_not_claimed(task, now)
        if refusal is not None:
            return NotClaimed(reason=refusal)
        task.become(TaskStatus.PROCESSING)
        task.attempt += 1
        task.lease_owner, task.lease_expires_at = worker_id, now + lease
        task.execute_after, task.started_at, task.updated_at = None, now, now
        self._note("claim_task", now, task_id=task_id, attempt=task.attempt, worker_id=worker_id)
        return Claim(task=task.record(), attempt=task.attempt, worker_id=worker_id, lease=lease)

    def _why_not_claimed(self, task: TaskRow, now: datetime) -> str | None:
        job = self._jobs[task.job_id]
        if task.status is TaskStatus.PROCESSING:
            if task.lease_expires_at is not None and task.lease_expires_at > now:
                return f"{task.lease_owner} holds a live lease"
            return "its lease has run out and the sweeper has not requeued it yet"
        if not task.waiting:
            return f"it is already {task.status}"
        if job.active and task.execute_after is not None and task.execute_after > now:
            return "it is not due yet"
        if job.status is not JobStatus.PROCESSING:
            return f"its job is {job.status}"
        return None

    @atomic
    def heartbeat(self, claim: Claim) -> ClaimSignal:
        task = self._fenced(claim)
        task.lease_expires_at = self.clock.now() + claim.lease
        return self._signal(task)

    @atomic
    def check_claim(self, claim: Claim) -> ClaimSignal:
        return self._signal(self._fenced(claim))

    def _signal(self, task: TaskRow) -> ClaimSignal:
        return ClaimSignal(cancel_requested=not self._jobs[task.job_id].active)

    @atomic
    def complete_task(self, claim: Claim, result: Mapping[str, Any]) -> Commit:
        kept = stored(result)
        task = self._ending(claim, AttemptOutcome.COMPLETED)
        if task is None:
            return Commit(applied=False)
        now = self.clock.now()
        self._close_attempt(task, claim.worker_id, AttemptOutcome.COMPLETED, now)
        self._end_task(task, TaskStatus.COMPLETED, now)
        task.result_data, task.error_details = kept, None
        return self._count_out(task, now, claim.worker_id, lights_out=True)

    @atomic
    def fail_task(self, claim: Claim, error: ErrorInfo, *, retry_in: timedelta | None) -> Commit:
        kept = stored_error(error)
        task = self._ending(claim, AttemptOutcome.FAILED)
        if task is None:
            return Commit(applied=False)
        now = self.clock.now()
        self._close_attempt(task, claim.worker_id, AttemptOutcome.FAILED, now, error=kept)
        if retry_in is None:
            return self._fail_for_good(task, kept, now, claim.worker_id)
        self._requeue_failed(task, kept, now, retry_in)
        return Commit()  # its hint is not due yet: the relay sends it when it is

    @atomic
    def release_task(self, claim: Claim, *, reason: str) -> Commit:
        task = self._ending(claim, AttemptOutcome.INTERRUPTED)
        if task is None:
            return Commit(applied=False)
        now = self.clock.now()
        self._close_attempt(task, claim.worker_id, AttemptOutcome.INTERRUPTED, now, reason=reason)
        task.become(TaskStatus.QUEUED)
        task.interruptions += 1
        task.lease_owner = task.lease_expires_at = task.execute_after = None
        task.updated_at, task.hints, task.next_hint_at = now, 0, now + self.hint_interval
        self._note("release_task", now, task_id=task.task_id, attempt=task.attempt, reason=reason)
        hint = self._hint(task, now + self._hold_for(task.runs_on.channel), now)
        return Commit(messages=self._to_publish([hint]))

    @atomic
    def cancel_task(self, claim: Claim, *, reason: str) -> Commit:
        task = self._ending(claim, AttemptOutcome.CANCELLED)
        if task is None:
            return Commit(applied=False)
        now = self.clock.now()
        self._close_attempt(task, claim.worker_id, AttemptOutcome.CANCELLED, now, reason=reason)
        self._end_task(task, TaskStatus.CANCELLED, now)
        task.error_details = stored_error(ErrorInfo(type="TaskCancelled", message=reason, retryable=False))
        wanted = self._jobs[task.job_id].status is JobStatus.PROCESSING
        return self._count_out(task, now, claim.worker_id, lights_out=wanted)

    @atomic
    def fail_waiting_task(self, task_id: str, error: ErrorInfo) -> Commit:
        kept = stored_error(error)
        task = self._tasks.get(task_id)
        if task is None or not task.waiting:
            return Commit(applied=False)
        return self._fail_for_good(task, kept, self.clock.now(), self.worker_id)

    def _ending(self, claim: Claim, outcome: AttemptOutcome) -> TaskRow | None:
        """The task to end, or None when this very ending was made before; ClaimLost when the claim is stale."""
        task = self._held(claim)
        if task is None:
            ended = self._attempts.get((claim.task_id, claim.attempt))
            if ended is None or ended.outcome is not outcome:
                raise ClaimLost(claim.task_id, claim.attempt)
        return task

    def _end_task(self, task: TaskRow, status: TaskStatus, now: datetime) -> None:
        task.become(status)
        task.lease_owner = task.lease_expires_at = None
        task.finished_at = task.updated_at = now
        self._note(f"{_VERBS[status]}_task", now, task_id=task.task_id, job_id=task.job_id, attempt=task.attempt)

    def _requeue_failed(self, task: TaskRow, error: ErrorInfo, now: datetime, delay: timedelta) -> None:
        task.become(TaskStatus.QUEUED)
        task.failures += 1
        task.error_details = error
        task.lease_owner = task.lease_expires_at = None
        task.execute_after, task.updated_at = now + delay, now
        task.hints, task.next_hint_at = 0, now + delay + self.hint_interval
        self._note("retry_task", now, task_id=task.task_id, attempt=task.attempt, delay=delay.total_seconds())
        self._hint(task, now + delay, now)

    def _fail_for_good(
        self, task: TaskRow, error: ErrorInfo, now: datetime, worker_id: str, *, held: bool = True
    ) -> Commit:
        self._end_task(task, TaskStatus.FAILED, now)
        task.failures += 1
        task.error_details, task.execute_after = error, None
        self._stages[task.job_id][task.stage].failed += 1
        job = self._jobs[task.job_id]
        if job.status is not JobStatus.PROCESSING or job.failure_policy is not FailurePolicy.FAIL_FAST:
            return self._count_out(task, now, worker_id, lights_out=True, held=held)
        job.become(JobStatus.FAILED)
        job.error_details = error
        job.finished_at = job.updated_at = now
        self._note("end_job", now, job_id=job.job_id, status=str(job.status))
        siblings = [sibling for sibling in self._job_tasks(task.job_id) if sibling.waiting]
        for sibling in siblings:
            self._cancel_waiting(sibling, _SIBLING_FAILED, now)
        return self._count_out(task, now, worker_id, lights_out=False, held=held, ended_with_it=siblings)

    def _count_out(
        self,
        task: TaskRow,
        now: datetime,
        worker_id: str,
        *,
        lights_out: bool,
        held: bool = True,
        ended_with_it: Sequence[TaskRow] = (),
    ) -> Commit:
        """Count an ended task; the one that takes the counter to zero sends StageComplete if ``lights_out``."""
        stage = self._stages[task.job_id][task.stage]
        stage.remaining -= 1
        sent: list[OutboxRow] = []
        if stage.remaining == 0:
            stage.finished_at = now
            if lights_out:
                job = self._jobs[task.job_id]
                message = self._stage_complete(job, stage.stage, worker_id, now)
                sent.append(self._send_job_message(job, message, now, held=held))
                self._note("stage_complete", now, job_id=task.job_id, stage=stage.stage)
        hold = self._hold_for(Channel.CALLBACKS) if held else timedelta(0)
        for ended in (task, *ended_with_it):
            sent += self._callback(ended, now + hold, now)
        return Commit(last_in_stage=stage.remaining == 0, messages=self._to_publish(sent))


_VERBS = {TaskStatus.COMPLETED: "complete", TaskStatus.FAILED: "fail", TaskStatus.CANCELLED: "cancel"}
_SIBLING_FAILED = ErrorInfo(type="JobFailed", message="cancelled: another task of the job failed", retryable=False)
