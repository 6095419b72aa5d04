"""The tables: rows behind one lock. Only the statements in this package touch them."""

from __future__ import annotations

import functools
import heapq
import itertools
import threading
from collections.abc import Callable, Collection, Iterable
from datetime import datetime, timedelta
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from core.errors import ClaimLost, ErrorInfo
from core.messages import Channel, Message, StageComplete, TaskEnded
from core.records import AttemptOutcome, AttemptRecord, Claim, OutboxEntry
from core.states import TaskStatus
from infrastructure.json_text import clean
from testing.clock import Clock
from testing.memory.rows import JobRow, OutboxRow, StageRow, TaskRow

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="Tables")


def atomic(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """The method as one transaction: alone, and at one moment. It checks before it changes, so it needs no undoing."""

    @functools.wraps(method)
    def run(self: S, *args: P.args, **kwargs: P.kwargs) -> R:
        with self.lock:
            return method(self, *args, **kwargs)

    return cast("Callable[Concatenate[S, P], R]", run)


class Tables:
    """Rows, the outbox and the log of operations. The lock is one for everything: each statement is one transaction.

    Args:
        clock: the store's time.
        worker_id: who is named as the one that completed a stage.
        direct: channels whose messages the caller publishes itself right after the commit; their entries are held back
            from :meth:`take` for ``hold``. All of them by default.
        hint_interval: how long a hint may go unanswered before the sweeper sends it again.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        worker_id: str = "test-worker",
        direct: Collection[Channel] = tuple(Channel),
        hold: timedelta = timedelta(seconds=10),
        hint_interval: timedelta = timedelta(seconds=60),
    ) -> None:
        self.clock = clock or Clock()
        self.lock = threading.RLock()
        self.worker_id = worker_id
        self.hint_interval = hint_interval
        self._direct_channels = frozenset(direct)
        self._hold = hold
        self._jobs: dict[str, JobRow] = {}
        self._runs: dict[str, list[JobRow]] = {}
        self._stages: dict[str, dict[int, StageRow]] = {}
        self._tasks: dict[str, TaskRow] = {}
        self._attempts: dict[tuple[str, int], AttemptRecord] = {}
        self._outbox: dict[int, OutboxRow] = {}
        self._open: dict[int, OutboxRow] = {}
        self._due: dict[Channel, list[tuple[datetime, int]]] = {channel: [] for channel in Channel}
        self._numbers = itertools.count(1)
        self._log: list[tuple[Any, ...]] = []  # name, moment, names of the facts, facts

    def advance(self, by: timedelta) -> None:
        """Move the store's time forward."""
        self.clock.advance(by)

    def _add_job(self, job: JobRow) -> None:
        self._jobs[job.job_id] = job
        self._runs.setdefault(job.fingerprint, []).append(job)
        self._stages[job.job_id] = {}

    def _add_task(self, stage: StageRow, task: TaskRow) -> None:
        self._tasks[task.task_id] = task
        stage.tasks.append(task)

    def _job_tasks(self, job_id: str) -> Iterable[TaskRow]:
        for _, stage in sorted(self._stages.get(job_id, {}).items()):
            yield from stage.tasks

    def _send(
        self,
        channel: Channel,
        message: Message,
        *,
        job_id: str,
        now: datetime,
        available_at: datetime,
        task_id: str | None = None,
    ) -> OutboxRow:
        row = OutboxRow(
            entry_id=next(self._numbers),
            channel=channel,
            message=message,
            job_id=job_id,
            task_id=task_id,
            created_at=now,
            available_at=available_at,
        )
        self._outbox[row.entry_id] = self._open[row.entry_id] = row
        heapq.heappush(self._due[channel], (available_at, row.entry_id))
        return row

    def _hold_for(self, channel: Channel) -> timedelta:
        return self._hold if channel in self._direct_channels else timedelta(0)

    def _send_job_message(self, job: JobRow, message: Message, now: datetime, *, held: bool) -> OutboxRow:
        hold = self._hold_for(Channel.JOBS) if held else timedelta(0)
        return self._send(Channel.JOBS, message, job_id=job.job_id, now=now, available_at=now + hold)

    def _hint(self, task: TaskRow, available_at: datetime, now: datetime) -> OutboxRow:
        return self._send(
            task.runs_on.channel,
            task.message(),
            job_id=task.job_id,
            task_id=task.task_id,
            now=now,
            available_at=available_at,
        )

    def _stage_complete(self, job: JobRow, stage: int, completed_by: str | None, now: datetime) -> StageComplete:
        return StageComplete(
            job_id=job.job_id,
            job_type=job.job_type,
            completed_stage=stage,
            completed_at=now,
            completed_by=completed_by,
            traceparent=job.traceparent,
        )

    def _callback(self, task: TaskRow, available_at: datetime, now: datetime) -> list[OutboxRow]:
        if task.callback_url is None:
            return []
        message = TaskEnded(task_id=task.task_id, parent_job_id=task.job_id, traceparent=task.traceparent)
        row = self._send(
            Channel.CALLBACKS, message, job_id=task.job_id, task_id=task.task_id, now=now, available_at=available_at
        )
        return [row]

    def _to_publish(self, rows: Iterable[OutboxRow]) -> list[OutboxEntry]:
        return [row.entry() for row in rows if row.channel in self._direct_channels]

    def _held(self, claim: Claim) -> TaskRow | None:
        task = self._tasks.get(claim.task_id)
        if task is None or task.attempt != claim.attempt or task.status is not TaskStatus.PROCESSING:
            return None
        return task

    def _fenced(self, claim: Claim) -> TaskRow:
        task = self._held(claim)
        if task is None:
            raise ClaimLost(claim.task_id, claim.attempt)
        return task

    def _close_attempt(
        self,
        task: TaskRow,
        worker_id: str,
        outcome: AttemptOutcome,
        now: datetime,
        *,
        error: ErrorInfo | None = None,
        reason: str | None = None,
    ) -> None:
        assert task.started_at is not None  # noqa: S101 - a claimed task was started
        self._attempts[task.task_id, task.attempt] = AttemptRecord(
            task_id=task.task_id,
            attempt=task.attempt,
            worker_id=worker_id,
            outcome=outcome,
            started_at=task.started_at,
            ended_at=now,
            error_details=error,
            reason=clean(reason) if reason is not None else None,
        )

    def _note(self, name: str, now: datetime, **facts: Any) -> None:
        self._log.append((name, now, tuple(facts), *facts.values()))
