"""The sweeper's steps (``infrastructure/postgres/sql/sweep.sql``)."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, TypeVar

from core.errors import ErrorInfo
from core.messages import Channel
from core.records import AttemptOutcome, SweepReport
from core.retry import Backoff
from core.states import JobStatus, TaskStatus
from testing.memory.rows import JobRow, TaskRow, stored_error
from testing.memory.tables import atomic
from testing.memory.tasks import TaskStatements

T = TypeVar("T")

_LONGEST_HINT_INTERVAL = timedelta(hours=1)


class SweepStatements(TaskStatements):
    """The SweepStore port."""

    backoff: Backoff = Backoff()
    keep_sent: timedelta = timedelta(days=7)
    rng: random.Random

    @atomic
    def sweep(self, *, limit: int) -> SweepReport:
        now = self.clock.now()
        expired = self._expire_leases(limit, now)
        cancelled = self._cancel_unwanted(limit, now)
        hints = self._resend_task_hints(limit, now)
        jobs, stages = self._resend_job_hints(limit, now)
        return SweepReport(
            leases_expired=expired,
            tasks_cancelled=cancelled,
            hints_resent=hints,
            jobs_resent=jobs,
            stages_completed=stages,
            pruned=self._prune(limit, now),
        )

    def _expire_leases(self, limit: int, now: datetime) -> int:
        expired = _first(
            limit,
            (((task.lease_expires_at, task.task_id), task) for task in self._tasks.values() if _lapsed(task, now)),
        )
        for task in expired:
            exhausted = task.failures + 1 >= task.max_attempts
            error = stored_error(
                ErrorInfo(
                    type="LeaseExpired",
                    message=f"worker {task.lease_owner} stopped renewing its lease during attempt {task.attempt}:"
                    " it was killed, its machine was lost, or it could not reach the database",
                    retryable=not exhausted,
                    cause="lease expired",
                )
            )
            owner = task.lease_owner or ""
            self._close_attempt(task, owner, AttemptOutcome.LEASE_EXPIRED, now, error=error)
            self._note("expire_lease", now, task_id=task.task_id, attempt=task.attempt, worker_id=owner)
            if not self._jobs[task.job_id].active:
                self._end_task(task, TaskStatus.CANCELLED, now)
                task.error_details = error
                self._stages[task.job_id][task.stage].remaining -= 1
                self._callback(task, now, now)
            elif exhausted:
                self._fail_for_good(task, error, now, owner, held=False)
            else:
                self._requeue_failed(task, error, now, self.backoff.delay(task.failures + 1, self.rng))
        return len(expired)

    def _cancel_unwanted(self, limit: int, now: datetime) -> int:
        unwanted = list(
            itertools.islice(
                (task for task in self._tasks.values() if task.waiting and not self._jobs[task.job_id].active), limit
            )
        )
        for task in unwanted:
            self._cancel_waiting(task, _job_ended(self._jobs[task.job_id]), now)
            self._callback(task, now, now)
        return len(unwanted)

    def _resend_task_hints(self, limit: int, now: datetime) -> int:
        hinted = {row.task_id for row in self._open.values() if row.channel is not Channel.CALLBACKS}
        lost = _first(
            limit,
            (
                ((task.next_hint_at, task.job_id, task.stage, task.task_index), task)
                for task in self._tasks.values()
                if task.waiting
                and task.next_hint_at < now
                and (task.execute_after is None or task.execute_after <= now)
                and self._jobs[task.job_id].status is JobStatus.PROCESSING
                and task.task_id not in hinted
            ),
        )
        for task in lost:
            self._renew_hint(task, now)
            self._hint(task, now, now)
            self._note("resend_hint", now, task_id=task.task_id)
        return len(lost)

    def _resend_job_hints(self, limit: int, now: datetime) -> tuple[int, int]:
        hinted = {row.job_id for row in self._open.values() if row.channel is Channel.JOBS}
        waiting = _first(
            limit,
            (
                ((job.next_hint_at, job.job_id), job)
                for job in self._jobs.values()
                if job.next_hint_at < now and job.job_id not in hinted and self._waits_for_orchestrator(job, now)
            ),
        )
        planned = 0
        for job in waiting:
            self._renew_hint(job, now)
            if job.status is JobStatus.QUEUED:
                self._send_job_message(job, job.message(), now, held=False)
            else:
                planned += 1
                message = self._stage_complete(job, job.stage, self.worker_id, now)
                self._send_job_message(job, message, now, held=False)
            self._note("resend_hint", now, job_id=job.job_id)
        return len(waiting) - planned, planned

    def _waits_for_orchestrator(self, job: JobRow, now: datetime) -> bool:
        if job.status is JobStatus.QUEUED:
            return True
        stage = self._stages[job.job_id].get(job.stage)
        return (
            job.status is JobStatus.PROCESSING
            and stage is not None
            and stage.remaining == 0
            and stage.finished_at is not None
            and stage.finished_at < now - self.hint_interval
        )

    def _renew_hint(self, row: TaskRow | JobRow, now: datetime) -> None:
        row.hints += 1
        row.next_hint_at = now + min(self.hint_interval * 2 ** min(row.hints, 16), _LONGEST_HINT_INTERVAL)

    def _prune(self, limit: int, now: datetime) -> int:
        old = list(
            itertools.islice(
                (
                    row.entry_id
                    for row in self._outbox.values()
                    if row.sent_at is not None and row.sent_at < now - self.keep_sent
                ),
                limit,
            )
        )
        for entry_id in old:
            del self._outbox[entry_id]
        return len(old)


def _lapsed(task: TaskRow, now: datetime) -> bool:
    return task.status is TaskStatus.PROCESSING and task.lease_expires_at is not None and task.lease_expires_at < now


def _first(limit: int, rows: Iterable[tuple[tuple[Any, ...], T]]) -> list[T]:
    """The ``limit`` rows that come first."""
    return [row for _, row in heapq.nsmallest(limit, rows, key=lambda pair: pair[0])]


def _job_ended(job: JobRow) -> ErrorInfo:
    return ErrorInfo(type="JobEnded", message=f"cancelled: its job is {job.status}", retryable=False)
